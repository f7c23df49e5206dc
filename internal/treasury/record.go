package treasury

import (
	"encoding/binary"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/usage"
)

// recordKind is what a record of the journal says.
type recordKind byte

const (
	recordAsk     recordKind = 'a' // ID asks Redis for Amount of all Parts: no call is made yet, or it is settled and Redis may not know
	recordPromise recordKind = 'p' // ID was promised Amount of all Parts; Span is what its call is at its worst
	recordSettle  recordKind = 's' // ID did cost Amount, at At, in Run; what Redis holds of it is to be ended
	recordLease   recordKind = 'l' // Run took the lease ID of the one part
	recordEnd     recordKind = 'e' // Redis holds nothing of the promise or lease ID any more, or what it has cost is presumed
	recordTold    recordKind = 't' // Run has spent Amount of the one part in the minute of At, in all
)

// part is one counter that a promise is of.
type part struct {
	Counter budget.Counter
	Ceiling budget.Micro
	Lease   string // that it was taken from; empty: a hold of its own
}

// counters are those of the parts whose window holds the instant: a call that might have ended in the next window was
// promised that too.
func counters(parts []part, at time.Time) (list []budget.Counter) {
	for _, p := range parts {
		w := p.Counter.Window
		if w.From.IsZero() || !at.Before(w.From) && at.Before(w.To) {
			list = append(list, p.Counter)
		}
	}
	return list
}

// journalRecord is one record; which fields count depends on its kind.
type journalRecord struct {
	Kind       recordKind
	Run        string
	ID, Tenant string
	Amount     budget.Micro
	At         time.Time
	Parts      []part
	Span       usage.Span
}

func (r *journalRecord) key() string { return string(r.Kind) + r.ID }

// append writes the record.
func (r *journalRecord) append(b []byte) []byte {
	b = append(b, byte(r.Kind))
	b = appendText(b, r.Run, r.ID, r.Tenant)
	b = binary.AppendVarint(b, int64(r.Amount))
	b = appendTime(b, r.At)
	b = binary.AppendUvarint(b, uint64(len(r.Parts)))
	for _, p := range r.Parts {
		b = appendText(b, p.Counter.Budget, p.Counter.Of, p.Lease)
		b = appendTime(b, p.Counter.Window.From)
		b = appendTime(b, p.Counter.Window.To)
		b = binary.AppendVarint(b, int64(p.Ceiling))
	}
	if r.Kind == recordPromise {
		b = appendSpan(b, &r.Span)
	}
	return b
}

func appendText(b []byte, texts ...string) []byte {
	for _, s := range texts {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// appendTime writes a time to the millisecond; the zero time is 0.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, 0)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

func appendSpan(b []byte, s *usage.Span) []byte {
	for _, text := range spanTexts(s) {
		b = appendText(b, *text)
	}
	b = appendText(b, string(s.Arm))
	b = appendTime(b, s.Timestamp)
	for _, n := range spanTokens(s) {
		b = binary.AppendVarint(b, *n)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Tags)))
	for k, v := range s.Tags {
		b = appendText(b, k, v)
	}
	return b
}

func spanTexts(s *usage.Span) [13]*string {
	return [...]*string{
		&s.TraceID, &s.SpanID, &s.TenantID, &s.SessionID, &s.Provider, &s.RequestedModel, &s.Model, &s.PromptTemplate, &s.Task,
		&s.ExperimentID, &s.ServiceTier, &s.Route, &s.DecisionID,
	}
}

func spanTokens(s *usage.Span) [6]*int64 {
	t := &s.Tokens
	return [...]*int64{&t.UncachedInput, &t.CacheRead, &t.CacheWrite5m, &t.CacheWrite1h, &t.Output, &t.Reasoning}
}

// reader takes a record apart. What is too short makes it bad, and all that follows empty.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uint() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) int() int64 {
	n, size := binary.Varint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) text() string {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	s := string(r.b[:n])
	r.b = r.b[n:]
	return s
}

func (r *reader) time() time.Time {
	if ms := r.int(); ms != 0 {
		return time.UnixMilli(ms).UTC()
	}
	return time.Time{}
}

// parseRecord reads what append wrote.
func parseRecord(payload []byte) (r journalRecord, ok bool) {
	if len(payload) == 0 {
		return r, false
	}
	in := reader{b: payload[1:]}
	r.Kind = recordKind(payload[0])
	r.Run, r.ID, r.Tenant = in.text(), in.text(), in.text()
	r.Amount, r.At = budget.Micro(in.int()), in.time()
	for n := in.uint(); n > 0 && !in.bad; n-- {
		var p part
		p.Counter.Budget, p.Counter.Of, p.Lease = in.text(), in.text(), in.text()
		p.Counter.Window.From, p.Counter.Window.To = in.time(), in.time()
		p.Ceiling = budget.Micro(in.int())
		r.Parts = append(r.Parts, p)
	}
	if r.Kind == recordPromise {
		in.span(&r.Span)
	}
	return r, !in.bad && len(in.b) == 0
}

func (r *reader) span(s *usage.Span) {
	for _, text := range spanTexts(s) {
		*text = r.text()
	}
	s.Arm, s.Timestamp = usage.Arm(r.text()), r.time()
	for _, n := range spanTokens(s) {
		*n = r.int()
	}
	for n := r.uint(); n > 0 && !r.bad; n-- {
		if s.Tags == nil {
			s.Tags = map[string]string{}
		}
		k := r.text()
		s.Tags[k] = r.text()
	}
}
