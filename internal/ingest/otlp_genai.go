package ingest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math"
	"time"

	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/flyball-dev/flyball/internal/usage"
)

// evaluationEvent is the name of the event that carries a score, of a span or of a log record.
const evaluationEvent = "gen_ai.evaluation.result"

// call reads one call out of an official span whose attributes are in o.own. It reports false for a span that
// is no call, or one that failed and used nothing.
func (o *otlp) call(p *tracepb.Span, s *usage.Span) (counts bool, err error) {
	f := &o.own
	if !f.counts() {
		return false, nil
	}
	*s = usage.Span{Arm: usage.None}
	if err := o.buckets(f, s); err != nil {
		return false, err
	}
	used := f.has(meansInput) || f.has(meansOutput)
	failed := p.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR || f.isError()
	if failed && !used {
		return false, nil
	}
	f.over(&o.resource)
	if s.TraceID, err = hexID("trace_id", p.GetTraceId(), 16); err != nil {
		return false, err
	}
	if s.SpanID, err = hexID("span_id", p.GetSpanId(), 8); err != nil {
		return false, err
	}
	if err := o.times(p, s); err != nil {
		return false, err
	}
	if err := o.dimensions(f, s); err != nil {
		return false, err
	}
	if err := o.tagsOf(s); err != nil {
		return false, err
	}
	return true, o.checkOTLP(s)
}

// checkOTLP names missing things as OpenTelemetry does.
func (o *otlp) checkOTLP(s *usage.Span) error {
	if s.Model == "" {
		return wrongField(attributeNames[meansModel][0], "is missing, and so is %s", attributeNames[meansRequestedModel][0])
	}
	return o.checkSpan(s)
}

// buckets fills the disjoint buckets from counts in which what is cached is inside the input.
func (o *otlp) buckets(f *facts, s *usage.Span) error {
	var input, written, written1h int64
	t := &s.Tokens
	for _, count := range [...]struct {
		m    meaning
		into *int64
	}{
		{meansInput, &input},
		{meansOutput, &t.Output},
		{meansCacheRead, &t.CacheRead},
		{meansCacheWrite, &written},
		{meansCacheWrite1h, &written1h},
		{meansReasoning, &t.Reasoning},
	} {
		if err := o.count(f, count.m, count.into); err != nil {
			return err
		}
	}
	written = max(written, written1h)
	t.CacheWrite1h, t.CacheWrite5m = written1h, written-written1h
	t.UncachedInput = input - t.CacheRead - written
	switch {
	case t.UncachedInput < 0 && t.CacheRead > 0:
		return f.refused(meansCacheRead, wrong("cached and cache-write tokens exceed the input tokens (%d), which include them", input))
	case t.UncachedInput < 0:
		return f.refused(meansCacheWrite, wrong("exceeds the input tokens (%d), which include it", input))
	case t.Reasoning > t.Output:
		return f.refused(meansReasoning, wrong("exceeds the output tokens (%d), which include it", t.Output))
	}
	s.UsageComplete = f.has(meansInput) && (f.has(meansOutput) || f.embeds())
	return nil
}

func (o *otlp) times(p *tracepb.Span, s *usage.Span) error {
	if err := o.moment(p.GetEndTimeUnixNano(), "end_time_unix_nano", &s.Timestamp); err != nil {
		return err
	}
	if start := p.GetStartTimeUnixNano(); start != 0 {
		took := float64(p.GetEndTimeUnixNano()) - float64(start)
		if took < 0 || took/1e6 > maxLatency {
			return wrongField("start_time_unix_nano", "is after the end of the span or more than 24 hours before it")
		}
		s.LatencyMS = int64(math.Round(float64(p.GetEndTimeUnixNano()-start) / 1e6))
	}
	var first float64 // seconds
	if err := o.measure(&o.own, meansFirstToken, maxLatency/1000, &first); err != nil {
		return err
	}
	s.TTFTMS = int64(math.Round(first * 1000))
	return nil
}

func (o *otlp) dimensions(f *facts, s *usage.Span) error {
	for _, name := range [...]struct {
		m    meaning
		into *string
	}{
		{meansTenant, &s.TenantID},
		{meansProvider, &s.Provider},
		{meansRequestedModel, &s.RequestedModel},
		{meansModel, &s.Model},
		{meansServiceTier, &s.ServiceTier},
		{meansSession, &s.SessionID},
		{meansTemplate, &s.PromptTemplate},
		{meansTask, &s.Task},
		{meansExperiment, &s.ExperimentID},
		{meansDecision, &s.DecisionID},
		{meansRoute, &s.Route},
	} {
		if err := o.word(f, name.m, name.into); err != nil {
			return err
		}
	}
	if s.Model == "" {
		s.Model = s.RequestedModel
	}
	if err := o.armOf(f, &s.Arm); err != nil {
		return err
	}
	if err := o.measure(f, meansComplexity, maxComplexity, &s.Complexity); err != nil {
		return err
	}
	if f.has(meansComplexity) && s.Complexity == 0 {
		return f.refused(meansComplexity, wrong("must be above 0; leave it out when it is not known"))
	}
	return o.reported(f, &s.CostReported)
}

// tagsOf merges the tags of the resource and of the span, which wins.
func (o *otlp) tagsOf(s *usage.Span) error {
	if len(o.resource.tags)+len(o.own.tags) == 0 {
		return nil
	}
	clear(o.lastTags)
	for _, list := range [...][]said{o.own.tags, o.resource.tags} {
		for i := range list {
			name := list[i].name[len(tagPrefix):]
			if _, ok := o.lastTags[name]; ok {
				continue
			}
			value, err := textOf(list[i].value)
			switch {
			case err != nil:
				return inField([]byte(`"`+list[i].name+`"`), err)
			case len(name) > maxTagKey:
				return wrongField(tagPrefix+"*", "a tag's name is longer than %d bytes", maxTagKey)
			case len(o.lastTags) == maxTags:
				return wrongField(tagPrefix+"*", "at most %d tags", maxTags)
			}
			o.lastTags[name] = o.shareText(value)
		}
	}
	s.Tags = o.lastTags
	return nil
}

// event reads an evaluation that came as an event of a span. When the span is a call, its dimensions are the
// event's; otherwise the event takes those of the first call of its trace.
func (o *otlp) event(e *tracepb.Span_Event, s *usage.Span, isCall bool, p *tracepb.Span, q *usage.Quality) (counts bool, err error) {
	var f facts
	if err := o.collect(&f, e.GetAttributes()); err != nil {
		return false, err
	}
	trace, err := hexID("trace_id", p.GetTraceId(), 16)
	if err != nil {
		return false, err
	}
	counts, err = o.evaluation(&f, q, trace, "", e.GetTimeUnixNano())
	if err != nil || !counts || !isCall {
		return counts, err
	}
	q.SpanID, q.TenantID, q.Model = s.SpanID, s.TenantID, s.RequestedModel
	q.PromptTemplate, q.ExperimentID, q.Arm = s.PromptTemplate, s.ExperimentID, s.Arm
	q.ID = evaluationID(q)
	return true, nil
}

// logRecord reads an evaluation that came as an event of its own.
func (o *otlp) logRecord(r *logspb.LogRecord, q *usage.Quality) (counts bool, err error) {
	f := &o.own
	if r.GetEventName() != evaluationEvent && f.by[meansEventName].value.GetStringValue() != evaluationEvent {
		return false, nil
	}
	if len(r.GetTraceId()) == 0 {
		return false, wrongField("trace_id", "is missing: emit the event in the context of the call's span; gen_ai.response.id alone joins nothing")
	}
	trace, err := hexID("trace_id", r.GetTraceId(), 16)
	if err != nil {
		return false, err
	}
	span := ""
	if len(r.GetSpanId()) > 0 {
		if span, err = hexID("span_id", r.GetSpanId(), 8); err != nil {
			return false, err
		}
	}
	at := r.GetTimeUnixNano()
	if at == 0 {
		at = r.GetObservedTimeUnixNano()
	}
	return o.evaluation(f, q, trace, span, at)
}

// evaluation reads the score in f. An evaluation that failed has none and does not count.
func (o *otlp) evaluation(f *facts, q *usage.Quality, trace, span string, at uint64) (counts bool, err error) {
	if f.isError() && !f.has(meansScore) {
		return false, nil
	}
	f.over(&o.resource)
	*q = usage.Quality{TraceID: trace, SpanID: span, Score: math.NaN(), Confidence: math.NaN(), Arm: usage.None}
	for _, name := range [...]struct {
		m    meaning
		into *string
	}{
		{meansEvaluator, &q.Evaluator},
		{meansEvaluatorVersion, &q.EvaluatorVersion},
		{meansEvaluatorKind, &q.Kind},
		{meansTenant, &q.TenantID},
		{meansRequestedModel, &q.Model},
		{meansTemplate, &q.PromptTemplate},
		{meansExperiment, &q.ExperimentID},
	} {
		if err := o.word(f, name.m, name.into); err != nil {
			return false, err
		}
	}
	if err := checkKind(q.Kind); err != nil {
		return false, f.refused(meansEvaluatorKind, err)
	}
	if err := o.armOf(f, &q.Arm); err != nil {
		return false, err
	}
	if err := o.measure(f, meansScore, 1, &q.Score); err != nil {
		return false, err
	}
	if err := o.measure(f, meansConfidence, 1, &q.Confidence); err != nil {
		return false, err
	}
	switch {
	case q.Evaluator == "":
		return false, wrongField(attributeNames[meansEvaluator][0], "is missing")
	case math.IsNaN(q.Score):
		return false, wrongField(attributeNames[meansScore][0], "is missing: a label alone cannot be compared")
	}
	if err := o.moment(at, "time_unix_nano", &q.Timestamp); err != nil {
		return false, err
	}
	if err := checkScore(q); err != nil {
		return false, err
	}
	q.ID = evaluationID(q)
	return true, o.owner(&q.TenantID, false)
}

// evaluationID names an evaluation by what makes it the one it is, so that an export that is sent again
// counts once.
func evaluationID(q *usage.Quality) string {
	h := sha256.New()
	for _, part := range [...]string{q.TraceID, q.SpanID, q.Evaluator, q.EvaluatorVersion, q.Timestamp.Format(time.RFC3339Nano)} {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write([]byte(part))
	}
	return "otel-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// hexID writes an id in hex, as every tool shows it. All zeros is no id.
func hexID(field string, id []byte, size int) (string, error) {
	if len(id) != size {
		return "", wrongField(field, "must be %d bytes (%d)", size, len(id))
	}
	var text [32]byte
	hex.Encode(text[:], id)
	for _, b := range id {
		if b != 0 {
			return string(text[:2*size]), nil
		}
	}
	return "", wrongField(field, "must not be all zeros")
}
