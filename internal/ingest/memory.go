package ingest

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// id is what is remembered of a record's identity: 128 bits of a cryptographic hash, so that no
// sender can make two records collide and a call is never taken for another's retry.
type id [16]byte

// identify hashes what makes a record the one it is. The parts are length-prefixed: no choice of
// names makes two lists the same.
func identify(what byte, parts ...string) id {
	var space [256]byte
	b := append(space[:0], what)
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	sum := sha256.Sum256(b)
	return id(sum[:16])
}

func spanID(tenant, trace, span string) id { return identify('s', tenant, trace, span) }
func traceID(tenant, trace string) id      { return identify('t', tenant, trace) }
func qualityID(q *usage.Quality) id        { return identify('q', q.TenantID, q.ID) }
func deploymentID(d *usage.Deployment) id  { return identify('d', d.TenantID, d.ID) }

// dimensions are what a quality event takes from its span.
type dimensions struct {
	Tenant, Model, Template, Experiment string
	Arm                                 usage.Arm
}

func dimensionsOf(s *usage.Span) dimensions {
	return dimensions{s.TenantID, s.RequestedModel, s.PromptTemplate, s.ExperimentID, s.Arm}
}

// The memory keeps an id for at least remember, in generations that are dropped whole.
const (
	remember       = 24 * time.Hour
	generationSpan = 8 * time.Hour
	maxDimensions  = 1 << 17 // of one generation; then it closes early
)

// memory knows the ids of the last day, and the dimensions behind those of spans and traces. It
// holds about 40 bytes per id (measured: 27 to 45 as a map fills and grows), two ids per span, three
// where senders may leave the tenant out. When it is full the oldest generation goes early.
type memory struct {
	limit       int // ids
	generations []*generation
	forgotten   int64 // ids dropped before their time
}

type generation struct {
	last  time.Time // when an id was last added
	born  time.Time
	ids   map[id]uint32 // to the index of the dimensions, 0 for none
	dims  []dimensions
	index map[dimensions]uint32
}

func (m *memory) find(k id) (dimensions, bool) {
	for i := len(m.generations) - 1; i >= 0; i-- {
		g := m.generations[i]
		if n, ok := g.ids[k]; ok {
			return g.dims[n], true
		}
	}
	return dimensions{}, false
}

// add remembers k at a moment, which must not go backwards by much.
func (m *memory) add(k id, d dimensions, at time.Time) {
	g := m.newest(at)
	n, ok := g.index[d]
	if !ok {
		n = uint32(len(g.dims))
		g.dims = append(g.dims, d)
		g.index[d] = n
	}
	g.ids[k] = n
	g.last = at
}

func (m *memory) remove(k id) {
	for _, g := range m.generations {
		delete(g.ids, k)
	}
}

func (m *memory) newest(at time.Time) *generation {
	if n := len(m.generations); n > 0 {
		g := m.generations[n-1]
		if at.Sub(g.born) < generationSpan && len(g.ids) < m.limit/4 && len(g.dims) < maxDimensions {
			return g
		}
	}
	for len(m.generations) > 0 {
		old := m.generations[0]
		expired := at.Sub(old.last) > remember
		if !expired && m.size() < m.limit {
			break
		}
		if !expired {
			m.forgotten += int64(len(old.ids))
		}
		m.generations = m.generations[1:]
	}
	g := &generation{
		born: at, last: at, ids: map[id]uint32{},
		dims: []dimensions{{}}, index: map[dimensions]uint32{{}: 0},
	}
	m.generations = append(m.generations, g)
	return g
}

func (m *memory) size() (n int) {
	for _, g := range m.generations {
		n += len(g.ids)
	}
	return n
}

// waiting is a quality event that knows its trace but not its dimensions.
type waiting struct {
	id     id // its own
	awaits id // the span or trace
	since  time.Time
	event  usage.Quality
}

// lounge is where quality events wait for their spans. The spool holds them too: this is an index.
type lounge struct {
	byID    map[id]*waiting
	byAwait map[id][]*waiting
	order   []*waiting // by since; those that have left are gone from byID
}

func newLounge() *lounge {
	return &lounge{byID: map[id]*waiting{}, byAwait: map[id][]*waiting{}}
}

func (l *lounge) enter(w *waiting) {
	l.restore(w)
	l.order = append(l.order, w)
}

// restore takes back an event that has left, when its leaving could not be written down.
func (l *lounge) restore(w *waiting) {
	l.byID[w.id] = w
	l.byAwait[w.awaits] = append(l.byAwait[w.awaits], w)
}

// tidy lets go of those that have left, once they are the most of the list: while the oldest waits, any number
// may come and leave behind it.
func (l *lounge) tidy() {
	if len(l.order) > 2*len(l.byID)+1000 {
		l.order = slices.DeleteFunc(l.order, func(w *waiting) bool { return l.byID[w.id] != w })
	}
}

func (l *lounge) leave(w *waiting) {
	delete(l.byID, w.id)
	rest := l.byAwait[w.awaits]
	switch i := slices.Index(rest, w); {
	case i < 0:
	case len(rest) == 1:
		delete(l.byAwait, w.awaits)
	case i == 0: // the usual one: the oldest expires
		l.byAwait[w.awaits] = rest[1:]
	default:
		l.byAwait[w.awaits] = slices.Delete(rest, i, i+1)
	}
}

// leaveAll lets go of all that wait for one span or trace.
func (l *lounge) leaveAll(awaits id) []*waiting {
	list := l.byAwait[awaits]
	delete(l.byAwait, awaits)
	for _, w := range list {
		delete(l.byID, w.id)
	}
	return list
}

// expired lists the events that have waited since before a moment.
func (l *lounge) expired(before time.Time) (list []*waiting) {
	for len(l.order) > 0 && l.byID[l.order[0].id] != l.order[0] {
		l.order = l.order[1:]
	}
	for _, w := range l.order {
		if !w.since.Before(before) {
			break
		}
		if l.byID[w.id] == w {
			list = append(list, w)
		}
	}
	return list
}

// fill gives an event what it does not say itself of its span's dimensions.
func fill(q *usage.Quality, d dimensions) {
	set(&q.TenantID, d.Tenant)
	set(&q.Model, d.Model)
	set(&q.PromptTemplate, d.Template)
	set(&q.ExperimentID, d.Experiment)
	if q.Arm == usage.None {
		q.Arm = d.Arm
	}
}
