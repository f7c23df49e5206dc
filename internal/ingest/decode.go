package ingest

import (
	"math"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Bounds on what a record may say.
const (
	maxTags        = 64
	maxTagKey      = 128
	maxUsage       = 64 << 10       // bytes of a provider's usage object
	maxLatency     = 24 * 3_600_000 // milliseconds
	maxComplexity  = 1e6
	maxFuture      = time.Hour
	maxReportedUSD = 1_000_000
)

// earliest is the oldest timestamp taken: before it, a clock or a unit is wrong.
var earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// decoder turns the records of one request into our types. Its methods read one record at the
// cursor and leave the cursor behind it, or fail with a *fieldError (the record is JSON, but wrong)
// or a *syntaxError.
type decoder struct {
	cursor
	now       time.Time
	tenant    string // of the ingest token; "" leaves it to the record
	mayScore  bool   // the ingest token is for quality
	maxRecord int    // bytes
	again     int    // bytes of refused records: they are stepped over more than once

	texts // of the call that is read

	lastTags map[string]string
}

func newDecoder(body []byte, now time.Time, caller *Caller) *decoder {
	return &decoder{
		cursor:   cursor{text: body, names: map[string]string{}},
		now:      now,
		tenant:   caller.Tenant,
		mayScore: caller.may(ScopeQuality),
		lastTags: map[string]string{}, maxRecord: maxRecord,
	}
}

// fields notices a field that comes twice, which JSON parsers read in different ways.
type fields uint64

func (f *fields) once(bit uint) error {
	if *f&(1<<bit) != 0 {
		return wrong("is there twice")
	}
	*f |= 1 << bit
	return nil
}

// spanFields are the fields of a span on the wire, and their bits in fields.
var (
	spanFields = index("trace_id", "span_id", "timestamp", "tenant_id", "session_id", "provider",
		"requested_model", "model", "prompt_template_version", "task", "experiment_id", "service_tier",
		"tokens", "usage", "cost_usd", "latency_ms", "ttft_ms", "complexity", "route", "decision_id",
		"arm", "tags", "quality", "input", "output")
	tokenFields   = index("prompt", "completion", "cached", "cache_write_5m", "cache_write_1h", "reasoning")
	qualityFields = index("id", "trace_id", "span_id", "tenant_id", "model", "prompt_template_version",
		"experiment_id", "arm", "evaluator", "evaluator_version", "score", "confidence", "kind", "timestamp")
	outcomeFields = index("id", "trace_id", "span_id", "tenant_id", "model", "prompt_template_version",
		"experiment_id", "arm", "kind", "value", "timestamp")
	deploymentFields = index("id", "service", "tenant_id", "model", "prompt_template_version",
		"previous", "version", "by", "timestamp")
)

func index(names ...string) map[string]uint {
	m := make(map[string]uint, len(names))
	for i, name := range names {
		m[name] = uint(i)
	}
	return m
}

// record reads an object whose fields are known, each at most once.
func (d *decoder) record(known map[string]uint, field func(name []byte) error) error {
	var seen fields
	return d.object(func(name []byte) error {
		bit, ok := known[string(name)]
		if !ok {
			return wrong("is not a known field")
		}
		if err := seen.once(bit); err != nil {
			return err
		}
		return field(name)
	})
}

// span reads one span. The embedded quality, if any, is in q with hasQuality true.
func (d *decoder) span(s *usage.Span, q *usage.Quality) (hasQuality bool, err error) {
	*s = usage.Span{Arm: usage.None}
	d.texts.reset()
	var tokens wireTokens
	var said []byte
	err = d.record(spanFields, func(name []byte) (err error) {
		switch string(name) {
		case "trace_id":
			return d.unique(&s.TraceID)
		case "span_id":
			return d.unique(&s.SpanID)
		case "timestamp":
			return d.time(&s.Timestamp)
		case "tenant_id":
			return d.name(&s.TenantID)
		case "session_id":
			return d.unique(&s.SessionID)
		case "provider":
			return d.name(&s.Provider)
		case "requested_model":
			return d.name(&s.RequestedModel)
		case "model":
			return d.name(&s.Model)
		case "prompt_template_version":
			return d.name(&s.PromptTemplate)
		case "task":
			return d.name(&s.Task)
		case "experiment_id":
			return d.name(&s.ExperimentID)
		case "service_tier":
			return d.name(&s.ServiceTier)
		case "tokens":
			return d.tokens(&tokens)
		case "usage":
			if d.null() {
				return nil
			}
			if d.peek() != '{' {
				return d.expected("an object")
			}
			if said, err = d.skip(); err == nil && len(said) > maxUsage {
				return wrong("is larger than %d bytes", maxUsage)
			}
			return err
		case "cost_usd":
			return d.money(&s.CostReported)
		case "latency_ms":
			s.LatencyMS, err = d.milliseconds()
			return err
		case "ttft_ms":
			s.TTFTMS, err = d.milliseconds()
			return err
		case "complexity":
			if d.null() {
				return nil
			}
			if s.Complexity, err = d.float(0, maxComplexity); err == nil && s.Complexity == 0 {
				return wrong("must be above 0; leave it out when it is not known")
			}
			return err
		case "route":
			return d.name(&s.Route)
		case "decision_id":
			return d.unique(&s.DecisionID)
		case "arm":
			return d.arm(&s.Arm)
		case "tags":
			return d.tags(&s.Tags)
		case "quality":
			if d.null() {
				return nil
			}
			hasQuality = true
			return d.quality(q)
		case "input":
			return d.string(false)
		case "output":
			return d.string(true)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if err = d.checkSpan(s); err != nil {
		return false, err
	}
	if err = d.count(s, &tokens, said); err != nil {
		return false, err
	}
	if hasQuality {
		err = d.completeEmbedded(q, s)
	}
	return hasQuality, err
}

func (d *decoder) checkSpan(s *usage.Span) (err error) {
	s.Provider = usage.Provider(s.Provider)
	s.ServiceTier = usage.ServiceTier(s.ServiceTier)
	if s.RequestedModel == "" {
		s.RequestedModel = s.Model
	}
	switch {
	case s.TraceID == "":
		return wrongField("trace_id", "is missing")
	case s.SpanID == "":
		return wrongField("span_id", "is missing")
	case s.Model == "":
		return wrongField("model", "is missing")
	case s.Timestamp.IsZero():
		return wrongField("timestamp", "is missing")
	}
	if err := checkModel("requested_model", s.RequestedModel); err != nil {
		return err
	}
	return d.owner(&s.TenantID, true)
}

// checkModel refuses names that stand for what is no model.
func checkModel(field, model string) error {
	switch {
	case model == usage.AnyModel:
		return wrongField(field, "%q stands for all models and is not one", usage.AnyModel)
	case strings.Contains(model, usage.ExperimentMark):
		return wrongField(field, "has %q in it, which tells an experiment's calls from production's", usage.ExperimentMark)
	}
	return nil
}

// owner settles the tenant: the ingest token's, where it names one.
func (d *decoder) owner(tenant *string, needed bool) error {
	switch {
	case *tenant == usage.Everything.Tenant:
		return wrongField("tenant_id", "%q stands for all tenants and is not one", *tenant)
	case d.tenant != "" && *tenant == "":
		*tenant = d.tenant
	case d.tenant != "" && *tenant != d.tenant:
		return wrongField("tenant_id", "%q is not the ingest token's tenant", *tenant)
	case *tenant == "" && needed:
		return wrongField("tenant_id", "is missing, and no ingest token names the tenant")
	}
	return nil
}

// wireTokens are counts as the native format has them: what is cached is inside the prompt.
type wireTokens struct {
	given                                                   bool
	prompt, completion, cached, write5m, write1h, reasoning int64
}

func (d *decoder) tokens(t *wireTokens) error {
	if d.null() {
		return nil
	}
	t.given = true
	return d.record(tokenFields, func(name []byte) error {
		n, err := d.integer(usage.MaxTokens)
		switch string(name) {
		case "prompt":
			t.prompt = n
		case "completion":
			t.completion = n
		case "cached":
			t.cached = n
		case "cache_write_5m":
			t.write5m = n
		case "cache_write_1h":
			t.write1h = n
		case "reasoning":
			t.reasoning = n
		}
		return err
	})
}

// count fills the buckets. The provider's own usage object wins over tokens; where it is not
// understood the sender's tokens stand, marked incomplete.
func (d *decoder) count(s *usage.Span, t *wireTokens, said []byte) error {
	if t.given {
		s.Tokens = usage.Tokens{
			UncachedInput: t.prompt - t.cached - t.write5m - t.write1h,
			CacheRead:     t.cached,
			CacheWrite5m:  t.write5m,
			CacheWrite1h:  t.write1h,
			Output:        t.completion,
			Reasoning:     t.reasoning,
		}
		if s.Tokens.UncachedInput < 0 {
			return wrongField("tokens.cached", "cached and cache-write tokens exceed the prompt (%d), which includes them", t.prompt)
		}
		if t.reasoning > t.completion {
			return wrongField("tokens.reasoning", "exceeds the completion (%d), which includes it", t.completion)
		}
		s.UsageComplete = said == nil
	}
	if said == nil {
		return nil
	}
	report, err := usage.FromUsage(s.Provider, said)
	if err != nil || report.Tokens == (usage.Tokens{}) && !report.Complete {
		return nil // not understood
	}
	s.Tokens, s.UsageComplete = report.Tokens, report.Complete
	if s.ServiceTier == "" {
		s.ServiceTier = report.ServiceTier
	}
	return nil
}

// completeEmbedded fills the quality that came inside a span with the span's own dimensions.
func (d *decoder) completeEmbedded(q *usage.Quality, s *usage.Span) error {
	if q.TraceID != "" || q.SpanID != "" || q.TenantID != "" || q.Model != "" {
		return wrongField("quality", "inside a span takes its ids, tenant and model from the span")
	}
	q.TraceID, q.SpanID, q.TenantID, q.Model = s.TraceID, s.SpanID, s.TenantID, s.RequestedModel
	q.PromptTemplate, q.ExperimentID, q.Arm = s.PromptTemplate, s.ExperimentID, s.Arm
	q.ServedModel, q.Provider = s.Model, s.Provider
	if q.ID == "" {
		q.ID = strings.Join([]string{s.TraceID, s.SpanID, q.Evaluator}, "/")
	}
	if q.Timestamp.IsZero() {
		q.Timestamp = s.Timestamp
	}
	if err := checkScore(q); err != nil {
		return inField([]byte(`"quality"`), err)
	}
	return nil
}

// checkScore sets the defaults of an evaluation and refuses one without evaluator or score.
func checkScore(q *usage.Quality) error {
	if q.Kind == "" {
		q.Kind = "judge"
	}
	if math.IsNaN(q.Confidence) {
		q.Confidence = 1
	}
	switch {
	case q.Evaluator == "":
		return wrongField("evaluator", "is missing")
	case math.IsNaN(q.Score):
		return wrongField("score", "is missing")
	}
	return nil
}

// quality reads one evaluation. NaN stands for a number that was not there.
func (d *decoder) quality(q *usage.Quality) error {
	*q = usage.Quality{Score: math.NaN(), Confidence: math.NaN(), Arm: usage.None}
	return d.record(qualityFields, func(name []byte) (err error) {
		switch string(name) {
		case "id":
			return d.unique(&q.ID)
		case "trace_id":
			return d.unique(&q.TraceID)
		case "span_id":
			return d.unique(&q.SpanID)
		case "tenant_id":
			return d.name(&q.TenantID)
		case "model":
			return d.name(&q.Model)
		case "prompt_template_version":
			return d.name(&q.PromptTemplate)
		case "experiment_id":
			return d.name(&q.ExperimentID)
		case "arm":
			return d.arm(&q.Arm)
		case "evaluator":
			return d.name(&q.Evaluator)
		case "evaluator_version":
			return d.name(&q.EvaluatorVersion)
		case "score":
			return d.fraction(&q.Score)
		case "confidence":
			return d.fraction(&q.Confidence)
		case "kind":
			if err = d.name(&q.Kind); err == nil {
				err = checkKind(q.Kind)
			}
			return err
		case "timestamp":
			return d.time(&q.Timestamp)
		}
		return nil
	})
}

// qualityEvent reads one evaluation that was sent by itself.
func (d *decoder) qualityEvent(q *usage.Quality) error {
	if err := d.quality(q); err != nil {
		return err
	}
	switch {
	case q.ID == "":
		return wrongField("id", "is missing: a retry is known by it")
	case q.TraceID == "":
		return wrongField("trace_id", "is missing")
	case q.Timestamp.IsZero():
		return wrongField("timestamp", "is missing")
	}
	if err := checkScore(q); err != nil {
		return err
	}
	if err := checkModel("model", q.Model); err != nil {
		return err
	}
	return d.owner(&q.TenantID, false)
}

// usualValue is what an outcome of a kind is worth when its value is left out.
var usualValue = map[string]float64{"conversion": 1, "retention": 1, "ticket": -1, "escalation": -1}

// outcome reads one outcome. NaN stands for a value that was not there.
func (d *decoder) outcome(o *usage.Outcome) error {
	*o = usage.Outcome{Value: math.NaN(), Arm: usage.None}
	err := d.record(outcomeFields, func(name []byte) (err error) {
		switch string(name) {
		case "id":
			return d.unique(&o.ID)
		case "trace_id":
			return d.unique(&o.TraceID)
		case "span_id":
			return d.unique(&o.SpanID)
		case "tenant_id":
			return d.name(&o.TenantID)
		case "model":
			return d.name(&o.Model)
		case "prompt_template_version":
			return d.name(&o.PromptTemplate)
		case "experiment_id":
			return d.name(&o.ExperimentID)
		case "arm":
			return d.arm(&o.Arm)
		case "kind":
			return d.name(&o.Kind)
		case "value":
			if d.null() {
				return nil
			}
			o.Value, err = d.float(-usage.MaxOutcome, usage.MaxOutcome)
			return err
		case "timestamp":
			return d.time(&o.Timestamp)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case o.ID == "":
		return wrongField("id", "is missing: a retry is known by it")
	case o.TraceID == "":
		return wrongField("trace_id", "is missing")
	case o.Kind == "":
		return wrongField("kind", "is missing: conversion, ticket, retention, escalation or a name of your own")
	case o.Timestamp.IsZero():
		return wrongField("timestamp", "is missing")
	}
	if math.IsNaN(o.Value) {
		value, usual := usualValue[o.Kind]
		if !usual {
			return wrongField("value", "is missing: it may be left out of a conversion, retention (1), ticket or escalation (-1) alone, not of %.32q", o.Kind)
		}
		o.Value = value
	}
	if err := checkModel("model", o.Model); err != nil {
		return err
	}
	return d.owner(&o.TenantID, false)
}

// deployment reads one deployment.
func (d *decoder) deployment(p *usage.Deployment) error {
	*p = usage.Deployment{}
	err := d.record(deploymentFields, func(name []byte) error {
		switch string(name) {
		case "id":
			return d.name(&p.ID)
		case "service":
			return d.name(&p.Service)
		case "tenant_id":
			return d.name(&p.TenantID)
		case "model":
			return d.name(&p.Model)
		case "prompt_template_version":
			return d.name(&p.PromptTemplate)
		case "previous":
			return d.tags(&p.Previous)
		case "version":
			return d.name(&p.Version)
		case "by":
			return d.name(&p.By)
		case "timestamp":
			return d.time(&p.Timestamp)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case p.ID == "":
		return wrongField("id", "is missing: a retry is known by it")
	case p.Service == "":
		return wrongField("service", "is missing")
	case p.Version == "":
		return wrongField("version", "is missing")
	case p.Timestamp.IsZero():
		return wrongField("timestamp", "is missing")
	}
	return d.owner(&p.TenantID, false)
}

// name reads a string that many records share, unique one that few do.
func (d *decoder) name(into *string) error {
	b, err := d.cursor.name()
	*into = d.share(b)
	return err
}

func (d *decoder) unique(into *string) error {
	b, err := d.cursor.name()
	*into = string(b)
	return err
}

func (d *decoder) arm(into *usage.Arm) error {
	var text string
	if err := d.name(&text); err != nil {
		return err
	}
	return setArm(into, text)
}

func (d *decoder) fraction(into *float64) (err error) {
	if d.null() {
		return nil
	}
	*into, err = d.float(0, 1)
	return err
}

func (d *decoder) milliseconds() (int64, error) {
	if d.null() {
		return 0, nil
	}
	f, err := d.float(0, maxLatency)
	return int64(math.Round(f)), err
}

func (d *decoder) time(into *time.Time) error {
	if d.null() {
		return nil
	}
	if d.peek() != '"' {
		return d.expected("a string with an RFC 3339 time")
	}
	text, err := d.bytes()
	if err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, string(text))
	if err != nil {
		return wrong("must be an RFC 3339 time with its zone, such as 2024-01-15T09:23:47.123Z (%.40q)", text)
	}
	return bounded(into, t, d.now)
}

func bounded(into *time.Time, t, now time.Time) error {
	if t = t.UTC(); t.Before(earliest) {
		return wrong("is before %d (%s)", earliest.Year(), t.Format(time.RFC3339))
	}
	if t.After(now.Add(maxFuture)) {
		return wrong("is more than an hour in the future (%s)", t.Format(time.RFC3339))
	}
	*into = t
	return nil
}

// money reads an amount as a number or as a decimal in a string.
func (d *decoder) money(into **usage.PicoUSD) error {
	if d.null() {
		return nil
	}
	var text []byte
	var err error
	switch {
	case d.peek() == '"':
		text, err = d.bytes()
	case d.isNumber():
		text, err = d.number()
	default:
		return d.expected("an amount in dollars")
	}
	if err != nil {
		return err
	}
	*into, err = dollars(string(text))
	return err
}

// tags reads a map of names. The map is the decoder's: it is valid until the next one is read.
func (d *decoder) tags(into *map[string]string) error {
	if d.null() {
		return nil
	}
	clear(d.lastTags)
	err := d.object(func(name []byte) error {
		if len(name) > maxTagKey {
			return wrong("is longer than %d bytes", maxTagKey)
		}
		key := d.share(name)
		if _, ok := d.lastTags[key]; ok {
			return wrong("is there twice")
		}
		if len(d.lastTags) == maxTags {
			return wrong("is one too many: at most %d", maxTags)
		}
		value, err := d.cursor.name()
		d.lastTags[key] = d.share(value)
		return err
	})
	*into = d.lastTags
	return err
}
