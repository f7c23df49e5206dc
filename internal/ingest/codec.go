package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// kind is what a record in the spool is. The numbers are on disk: never reuse one.
type kind byte

const (
	kindSpan       kind = 1
	kindDeployment kind = 3
	kindSeen       kind = 5  // in summaries: ids and what the span's dimensions were
	kindOutcome    kind = 9  // an outcome
	kindWaiting    kind = 10 // an event that waits for its span: its kind, then the event
	kindReleased   kind = 11 // an event that was joined to its span: its id as sent, its kind, then the event
	kindDimensions kind = 12 // in summaries: dimensions that later records of the file refer to
	kindQuality    kind = 13 // a quality event
	kindContent    kind = 14 // the texts of the span before it, where they are kept
	kindTuple      kind = 15 // what a router knew of a call

	// No longer written, still read: from before scores and dimensions knew the served model and the provider.
	kindQuality1    kind = 2
	kindWaiting1    kind = 4
	kindDimensions1 kind = 6
	kindReleased1   kind = 7
	kindQuality2    kind = 8 // from before scores knew what their evaluators count for

	kindDamaged kind = 127 // bytes that were damaged; whoever reads on skips them
)

// waits reports whether a record is not for the sink yet.
func (k kind) waits() bool { return k == kindWaiting || k == kindWaiting1 }

// appendRecord frames one record: its kind, its length, its body in parts.
func appendRecord(to []byte, k kind, size int, parts ...[]byte) []byte {
	to = append(to, byte(k))
	to = binary.AppendUvarint(to, uint64(size))
	for _, p := range parts {
		to = append(to, p...)
	}
	return to
}

// writer appends values in the spool's binary form.
type writer []byte

func (w *writer) string(s string) {
	*w = binary.AppendUvarint(*w, uint64(len(s)))
	*w = append(*w, s...)
}

func (w *writer) int(n int64)      { *w = binary.AppendVarint(*w, n) }
func (w *writer) float(f float64)  { *w = binary.LittleEndian.AppendUint64(*w, math.Float64bits(f)) }
func (w *writer) time(t time.Time) { w.int(t.UnixNano()) }

func (w *writer) bool(b bool) {
	if b {
		*w = append(*w, 1)
	} else {
		*w = append(*w, 0)
	}
}

func (w *writer) strings(m map[string]string) {
	*w = binary.AppendUvarint(*w, uint64(len(m)))
	for k, v := range m {
		w.string(k)
		w.string(v)
	}
}

// reader reads them back. After an error every value is zero; the error is in err.
type reader struct {
	from []byte
	err  error
	// names are strings that many records share, so that a batch holds one copy of each.
	names map[string]string
}

var errShort = errors.New("record is cut off")

func (r *reader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.from)) {
		r.err = cmpErr(r.err, errShort)
		return nil
	}
	b := r.from[:n]
	r.from = r.from[n:]
	return b
}

func cmpErr(first, then error) error {
	if first != nil {
		return first
	}
	return then
}

func (r *reader) uvarint() uint64 {
	n, size := binary.Uvarint(r.from)
	if size <= 0 {
		r.err = cmpErr(r.err, errShort)
	}
	if r.err != nil {
		return 0
	}
	r.from = r.from[size:]
	return n
}

func (r *reader) int() int64 {
	n, size := binary.Varint(r.from)
	if size <= 0 {
		r.err = cmpErr(r.err, errShort)
	}
	if r.err != nil {
		return 0
	}
	r.from = r.from[size:]
	return n
}

func (r *reader) float() float64 {
	if b := r.take(8); b != nil {
		return math.Float64frombits(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (r *reader) bool() bool {
	b := r.take(1)
	return b != nil && b[0] != 0
}

func (r *reader) time() time.Time { return time.Unix(0, r.int()).UTC() }

func (r *reader) string() string {
	b := r.take(r.uvarint())
	if len(b) == 0 {
		return ""
	}
	if s, ok := r.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if r.names != nil && len(r.names) < maxNames {
		r.names[s] = s
	}
	return s
}

// unique reads a string that is unlikely to come again.
func (r *reader) unique() string { return string(r.take(r.uvarint())) }

func (r *reader) strings() map[string]string {
	n := r.uvarint()
	if n == 0 || r.err != nil {
		return nil
	}
	if n > uint64(len(r.from))/2 { // each takes two bytes at least
		r.err = errShort
		return nil
	}
	m := make(map[string]string, min(n, maxTags))
	for range n {
		k := r.string()
		m[k] = r.string()
	}
	return m
}

func appendSpan(to []byte, s *usage.Span) []byte {
	w := writer(to)
	w.string(s.TraceID)
	w.string(s.SpanID)
	w.time(s.Timestamp)
	for _, name := range [...]string{
		s.TenantID, s.Provider, s.RequestedModel, s.Model, s.PromptTemplate,
		s.Task, s.ExperimentID, s.ServiceTier, s.PriceVersion, s.Route, string(s.Arm),
	} {
		w.string(name)
	}
	w.string(s.SessionID)
	w.string(s.DecisionID)
	t := &s.Tokens
	for _, n := range [...]int64{
		t.UncachedInput, t.CacheRead, t.CacheWrite5m, t.CacheWrite1h, t.Output,
		t.Reasoning, int64(s.Cost), s.LatencyMS, s.TTFTMS,
	} {
		w.int(n)
	}
	w.bool(s.UsageComplete)
	w.bool(s.Priced)
	w.bool(s.CostReported != nil)
	if s.CostReported != nil {
		w.int(int64(*s.CostReported))
	}
	w.float(s.Complexity)
	w.strings(s.Tags)
	return w
}

func (r *reader) span(s *usage.Span) {
	s.TraceID, s.SpanID, s.Timestamp = r.unique(), r.unique(), r.time()
	for _, name := range [...]*string{
		&s.TenantID, &s.Provider, &s.RequestedModel, &s.Model, &s.PromptTemplate,
		&s.Task, &s.ExperimentID, &s.ServiceTier, &s.PriceVersion, &s.Route, (*string)(&s.Arm),
	} {
		*name = r.string()
	}
	s.SessionID, s.DecisionID = r.unique(), r.unique()
	t := &s.Tokens
	for _, n := range [...]*int64{
		&t.UncachedInput, &t.CacheRead, &t.CacheWrite5m, &t.CacheWrite1h, &t.Output,
		&t.Reasoning, (*int64)(&s.Cost), &s.LatencyMS, &s.TTFTMS,
	} {
		*n = r.int()
	}
	s.UsageComplete, s.Priced = r.bool(), r.bool()
	if r.bool() {
		reported := usage.PicoUSD(r.int())
		s.CostReported = &reported
	}
	s.Complexity = r.float()
	s.Tags = r.strings()
}

func appendQuality(to []byte, q *usage.Quality) []byte {
	w := writer(to)
	for _, text := range [...]string{
		q.ID, q.TraceID, q.SpanID, q.TenantID, q.Model, q.PromptTemplate,
		q.ExperimentID, string(q.Arm), q.Evaluator, q.EvaluatorVersion, q.Kind,
	} {
		w.string(text)
	}
	w.float(q.Score)
	w.float(q.Confidence)
	w.time(q.Timestamp)
	w.string(q.ServedModel)
	w.string(q.Provider)
	w.bool(q.Aside)
	w.bool(q.Mapped)
	if q.Mapped {
		w.float(q.Calibrated)
	}
	return w
}

func (r *reader) quality(q *usage.Quality) {
	r.quality2(q)
	q.Aside, q.Mapped = r.bool(), r.bool()
	if q.Mapped {
		q.Calibrated = r.float()
	}
}

// quality2 reads a quality event as it was before it knew what its evaluator counts for.
func (r *reader) quality2(q *usage.Quality) {
	r.quality1(q)
	q.ServedModel, q.Provider = r.string(), r.string()
}

// quality1 reads a quality event as it was before it knew the served model and the provider.
func (r *reader) quality1(q *usage.Quality) {
	q.ID, q.TraceID, q.SpanID = r.unique(), r.unique(), r.unique()
	for _, text := range [...]*string{
		&q.TenantID, &q.Model, &q.PromptTemplate,
		&q.ExperimentID, (*string)(&q.Arm), &q.Evaluator, &q.EvaluatorVersion, &q.Kind,
	} {
		*text = r.string()
	}
	q.Score, q.Confidence, q.Timestamp = r.float(), r.float(), r.time()
}

func encodeOutcome(o *usage.Outcome) []byte {
	var w writer
	for _, text := range [...]string{
		o.ID, o.TraceID, o.SpanID, o.TenantID, o.Model, o.ServedModel, o.Provider,
		o.PromptTemplate, o.ExperimentID, string(o.Arm), o.Kind,
	} {
		w.string(text)
	}
	w.float(o.Value)
	w.time(o.Timestamp)
	return w
}

func (r *reader) outcome(o *usage.Outcome) {
	o.ID, o.TraceID, o.SpanID = r.unique(), r.unique(), r.unique()
	for _, text := range [...]*string{
		&o.TenantID, &o.Model, &o.ServedModel, &o.Provider,
		&o.PromptTemplate, &o.ExperimentID, (*string)(&o.Arm), &o.Kind,
	} {
		*text = r.string()
	}
	o.Value, o.Timestamp = r.float(), r.time()
}

func appendDeployment(to []byte, d *usage.Deployment) []byte {
	w := writer(to)
	for _, text := range [...]string{d.ID, d.Service, d.TenantID, d.Model, d.PromptTemplate, d.Version, d.By} {
		w.string(text)
	}
	w.strings(d.Previous)
	w.time(d.Timestamp)
	return w
}

func (r *reader) deployment(d *usage.Deployment) {
	for _, text := range [...]*string{&d.ID, &d.Service, &d.TenantID, &d.Model, &d.PromptTemplate, &d.Version, &d.By} {
		*text = r.unique()
	}
	d.Previous = r.strings()
	d.Timestamp = r.time()
}

// eachRecord walks the records of one frame.
func eachRecord(records []byte, each func(k kind, body []byte) error) error {
	r := reader{from: records}
	for len(r.from) > 0 {
		k := kind(r.take(1)[0])
		body := r.take(r.uvarint())
		if r.err != nil {
			return r.err
		}
		if err := each(k, body); err != nil {
			return fmt.Errorf("record of kind %d: %w", k, err)
		}
	}
	return nil
}
