package ingest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// event is a record about a call that takes its dimensions from the call's span: a quality event or an
// outcome.
type event interface {
	identity() id
	subject() subject
	encode() (kind, []byte)
}

type (
	scoreEvent   struct{ *usage.Quality }
	outcomeEvent struct{ *usage.Outcome }
)

// subject is what events have in common: which call they are about, and its dimensions.
type subject struct {
	tenant, trace, span                           *string
	model, served, provider, template, experiment *string
	arm                                           *usage.Arm
}

func (e scoreEvent) identity() id           { return identify('q', e.TenantID, e.ID) }
func (e scoreEvent) encode() (kind, []byte) { return kindQuality, appendQuality(nil, e.Quality) }

func (e scoreEvent) subject() subject {
	q := e.Quality
	return subject{
		&q.TenantID, &q.TraceID, &q.SpanID, &q.Model, &q.ServedModel, &q.Provider, &q.PromptTemplate, &q.ExperimentID, &q.Arm,
	}
}

func (e outcomeEvent) identity() id           { return identify('o', e.TenantID, e.ID) }
func (e outcomeEvent) encode() (kind, []byte) { return kindOutcome, encodeOutcome(e.Outcome) }

func (e outcomeEvent) subject() subject {
	o := e.Outcome
	return subject{
		&o.TenantID, &o.TraceID, &o.SpanID, &o.Model, &o.ServedModel, &o.Provider, &o.PromptTemplate, &o.ExperimentID, &o.Arm,
	}
}

// event reads an event of a kind.
func (r *reader) event(k kind) (event, error) {
	switch k {
	case kindQuality:
		var q usage.Quality
		r.quality(&q)
		return scoreEvent{&q}, r.err
	case kindQuality2:
		var q usage.Quality
		r.quality2(&q)
		return scoreEvent{&q}, r.err
	case kindQuality1, kindWaiting1, kindReleased1:
		var q usage.Quality
		r.quality1(&q)
		return scoreEvent{&q}, r.err
	case kindOutcome:
		var o usage.Outcome
		r.outcome(&o)
		return outcomeEvent{&o}, r.err
	}
	return nil, fmt.Errorf("unknown kind of event %d: a newer version wrote it", k)
}

// nested reads an event that is behind its kind.
func (r *reader) nested() (event, error) {
	b := r.take(1)
	if b == nil {
		return nil, r.err
	}
	return r.event(kind(b[0]))
}

// byAge sorts events by how long they have waited.
func byAge(list []*waiting) {
	slices.SortFunc(list, func(a, b *waiting) int {
		return cmp.Or(a.since.Compare(b.since), bytes.Compare(a.id[:], b.id[:]))
	})
}

// awaits is what the dimensions come from: the span, or the first span of the trace where the event does
// not name the span or the tenant.
func (s subject) awaits() id {
	if *s.span != "" && *s.tenant != "" {
		return spanID(*s.tenant, *s.trace, *s.span)
	}
	return traceID(*s.tenant, *s.trace)
}

// described reports whether the event says itself which key it belongs to.
func (s subject) described() bool { return *s.tenant != "" && *s.model != "" }

// fill gives the event what it does not say itself of its span's dimensions. One that says it belongs to
// another key than its span is left as it is.
func (s subject) fill(d dimensions) {
	if s.described() && *s.model != d.Model {
		return
	}
	set(s.tenant, d.Tenant)
	set(s.model, d.Model)
	set(s.served, d.Served)
	set(s.provider, d.Provider)
	set(s.template, d.Template)
	set(s.experiment, d.Experiment)
	if *s.arm == usage.None {
		*s.arm = d.Arm
	}
}

// filled is a copy of the event with its span's dimensions: the event itself stays as it was sent, should
// the copy not reach the disk.
func filled(e event, d dimensions) event {
	switch sent := e.(type) {
	case scoreEvent:
		q := *sent.Quality
		e = scoreEvent{&q}
	case outcomeEvent:
		o := *sent.Outcome
		e = outcomeEvent{&o}
	}
	e.subject().fill(d)
	return e
}

// How long events wait for their span. One that says its key is of use without: it waits only so long
// that a call and its score that are sent at the same moment may come in either order, and until the
// store has been asked for the span once.
const (
	describedWait   = 2 * time.Second
	unansweredWait  = time.Minute // a described event does not wait longer for a store that does not answer
	firstQuestion   = describedWait
	longestQuestion = time.Hour
)

// waiting is an event whose span is not known.
type waiting struct {
	id     id // its own, as it was sent
	awaits id // the span or trace
	since  time.Time
	event  event

	asked int       // times that the store has been asked for the span
	ask   time.Time // when to ask next
}

func newWaiting(e event, since time.Time) *waiting {
	return &waiting{id: e.identity(), awaits: e.subject().awaits(), since: since, event: e, ask: since.Add(firstQuestion)}
}

// over reports whether the event has waited long enough at a moment.
func (w *waiting) over(now time.Time, lookup bool) bool {
	waited := now.Sub(w.since)
	if waited > remember {
		return true
	}
	if !w.event.subject().described() || waited < describedWait {
		return false
	}
	return !lookup || w.asked > 0 || waited >= unansweredWait
}

// later puts off the next question: twice as far each time, since the span may be on its way through
// another spool.
func (w *waiting) later(now time.Time) {
	w.asked++
	w.ask = now.Add(min(firstQuestion<<min(w.asked, 20), longestQuestion))
}

// lounge is where events wait for their spans. The spool holds them too: this is an index.
type lounge struct {
	byID    map[id]*waiting
	byAwait map[id]map[id]*waiting
}

func newLounge() *lounge {
	return &lounge{byID: map[id]*waiting{}, byAwait: map[id]map[id]*waiting{}}
}

// enter adds an event, or takes it back when its leaving could not be written down.
func (l *lounge) enter(w *waiting) {
	l.byID[w.id] = w
	same := l.byAwait[w.awaits]
	if same == nil {
		same = map[id]*waiting{}
		l.byAwait[w.awaits] = same
	}
	same[w.id] = w
}

func (l *lounge) leave(w *waiting) {
	delete(l.byID, w.id)
	same := l.byAwait[w.awaits]
	if delete(same, w.id); len(same) == 0 {
		delete(l.byAwait, w.awaits)
	}
}

// those lists the events for which a condition holds, the one that has waited longest first.
func (l *lounge) those(which func(*waiting) bool) (list []*waiting) {
	for _, w := range l.byID {
		if which(w) {
			list = append(list, w)
		}
	}
	byAge(list)
	return list
}

// waitingFor lists the events that wait for one span or trace.
func (l *lounge) waitingFor(awaits id) (list []*waiting) {
	for _, w := range l.byAwait[awaits] {
		list = append(list, w)
	}
	byAge(list)
	return list
}

// setArm sets the arm that a text names; none where it is empty.
func setArm(into *usage.Arm, text string) error {
	switch arm := usage.Arm(text); arm {
	case "":
		*into = usage.None
	case usage.None, usage.Treated, usage.Holdback:
		*into = arm
	default:
		return wrong("must be none, treated or holdback (%.32q)", text)
	}
	return nil
}

// checkKind refuses what is no kind of evaluator; it may be left out.
func checkKind(text string) error {
	switch text {
	case "", "judge", "heuristic", "human":
		return nil
	}
	return wrong("must be judge, heuristic or human (%.32q)", text)
}

// errMayNotScore refuses an evaluation that came with a call.
var errMayNotScore = wrong("the ingest token is not for quality: send evaluations with one that is")
