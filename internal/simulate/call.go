package simulate

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Request is a call that the application is about to make. All of the call's luck is drawn with it,
// so that what the decision API answers, and when, never moves the calls that follow.
type Request struct {
	At             time.Time
	TraceID        string
	SpanID         string
	SessionID      string
	RequestedModel string
	Workload       *Workload

	prompt, cacheRead, cacheWrite int64 // disjoint parts of the input
	luck                          luck
}

// luck holds standard normals, and uniforms on [0, 1) for coins.
type luck struct {
	output, ttft, velocity, quality, judge, judgeDelay float64
	sample, confidence, shift                          float64
}

// InputTokens is what a tokenizer tells the application before the call.
func (r *Request) InputTokens() int64 { return r.prompt + r.cacheRead + r.cacheWrite }

// direct is the answer to a call that nothing touches.
func (r *Request) direct() routing.Answer {
	return routing.Answer{Model: r.RequestedModel, Route: routing.Direct, Arm: usage.None}
}

// source draws the requests of one workload.
type source struct {
	workload *Workload
	rng      *rand.Rand
	session  string
}

// newSource seeds a source by the workload and a start, so that neither the order nor the number of
// sources changes what one of them draws, and two starts share no ids.
func newSource(seed uint64, w *Workload, start time.Time) *source {
	h := fnv.New64a()
	h.Write([]byte(w.Tenant.ID + "\x00" + w.Model + "\x00" + w.Template + "\x00" + start.UTC().Format(time.RFC3339Nano)))
	return &source{workload: w, rng: rand.New(rand.NewPCG(seed, h.Sum64()))}
}

// slot is the grain at which requests are drawn: a Poisson number in each.
const slot = 250 * time.Millisecond

// draw returns the requests of the slot that begins at from, when the source's rate is multiplied by
// volume.
func (s *source) draw(from time.Time, volume float64) []Request {
	var requests []Request
	mean := s.workload.rateAt(from) * volume * slot.Seconds()
	for range s.poisson(mean) {
		requests = append(requests, s.request(from.Add(time.Duration(s.rng.Float64()*float64(slot)))))
	}
	return requests
}

// poisson draws by Knuth's method, in steps small enough for exp not to underflow.
func (s *source) poisson(mean float64) int {
	n := 0
	for ; mean > 0; mean -= 30 {
		limit := math.Exp(-min(mean, 30))
		for p := s.rng.Float64(); p > limit; p *= s.rng.Float64() {
			n++
		}
	}
	return n
}

// newSession is the chance that a call opens a new session: sessions have four calls on average.
const newSession = 0.25

func (s *source) request(at time.Time) Request {
	w := s.workload
	r := Request{At: at, TraceID: s.id(16), SpanID: s.id(8), RequestedModel: w.Model, Workload: w}
	if s.session == "" || s.rng.Float64() < newSession {
		s.session = "s-" + s.id(6)
	}
	r.SessionID = s.session
	r.prompt = max(1, int64(w.Prompt.at(s.rng.NormFloat64())))
	if s.rng.Float64() < w.Warm {
		r.cacheRead = w.Prefix
	} else {
		r.cacheWrite = w.Prefix
	}
	r.luck = luck{
		output: s.rng.NormFloat64(), ttft: s.rng.NormFloat64(), velocity: s.rng.NormFloat64(),
		quality: s.rng.NormFloat64(), judge: s.rng.NormFloat64(), judgeDelay: s.rng.NormFloat64(),
		sample: s.rng.Float64(), confidence: s.rng.Float64(), shift: s.rng.Float64(),
	}
	return r
}

func (s *source) id(bytes int) string {
	b := make([]byte, 0, 16)
	for len(b) < bytes {
		v := s.rng.Uint64()
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
	}
	return hex.EncodeToString(b[:bytes])
}

// Span is a completed call on the wire, as POST /v1/spans takes it. It names no cost: Usage is the
// provider's own object, for the price book.
type Span struct {
	TraceID        string            `json:"trace_id"`
	SpanID         string            `json:"span_id"`
	Timestamp      time.Time         `json:"timestamp"`
	Provider       string            `json:"provider"`
	RequestedModel string            `json:"requested_model"`
	Model          string            `json:"model"`
	Usage          json.RawMessage   `json:"usage"`
	LatencyMS      int64             `json:"latency_ms"`
	TTFTMS         int64             `json:"ttft_ms"`
	TenantID       string            `json:"tenant_id"`
	SessionID      string            `json:"session_id"`
	PromptTemplate string            `json:"prompt_template_version"`
	Task           string            `json:"task"`
	Route          string            `json:"route,omitempty"`
	DecisionID     string            `json:"decision_id,omitempty"`
	Arm            usage.Arm         `json:"arm"`
	Complexity     float64           `json:"complexity"`
	Tags           map[string]string `json:"tags"`
}

// Score is the judge's word on a call, as POST /v1/quality takes it.
type Score struct {
	ID               string    `json:"id"`
	TraceID          string    `json:"trace_id"`
	SpanID           string    `json:"span_id"`
	TenantID         string    `json:"tenant_id"`
	Model            string    `json:"model"`
	PromptTemplate   string    `json:"prompt_template_version"`
	Arm              usage.Arm `json:"arm"`
	Evaluator        string    `json:"evaluator"`
	EvaluatorVersion string    `json:"evaluator_version"`
	Score            float64   `json:"score"`
	Confidence       float64   `json:"confidence"`
	Kind             string    `json:"kind"`
	Timestamp        time.Time `json:"timestamp"`
}

// Evaluator is the judge's name.
const Evaluator = "llm-as-judge"

const (
	qualitySpread = 0.05 // of a model's true quality from call to call
	judgeSpread   = 0.03 // of the judge about the truth
)

// judgeDelay is how long after a call, in seconds, its score arrives.
var judgeDelay = lognormal{2.5, 0.5}

// disturbance is what the faults of a served model do to one call: factors on its cost and quality.
type disturbance struct{ cost, quality float64 }

// serve makes the call on the model that the answer names. A model that the catalogue lacks cannot
// be called, so the application falls back to what it had asked for, untouched by any flag.
func (r *Request) serve(a routing.Answer, disturb func(m *model) disturbance) (Span, Score) {
	m := modelNamed(a.Model)
	if m == nil {
		a = r.direct()
		m = modelNamed(a.Model)
	}
	w := r.Workload
	d := disturb(m)
	output := min(w.MaxOutput, max(1, int64(w.Output.at(r.luck.output)*m.verbosity)))
	if w.Whole && d.cost != 1 {
		longer := *r
		longer.prompt = max(1, int64(math.Round(float64(r.prompt)*d.cost)))
		longer.cacheRead, longer.cacheWrite = int64(float64(r.cacheRead)*d.cost), int64(float64(r.cacheWrite)*d.cost)
		r, output = &longer, max(1, int64(math.Round(float64(output)*d.cost)))
	} else {
		output = r.inflate(m, output, d.cost)
	}

	ttft := lognormal{m.ttft, 0.25}.at(r.luck.ttft)
	seconds := ttft + float64(output)/lognormal{m.velocity, 0.12}.at(r.luck.velocity)
	done := r.At.Add(time.Duration(seconds * float64(time.Second)))
	span := Span{
		TraceID: r.TraceID, SpanID: r.SpanID, Timestamp: done.UTC().Truncate(time.Millisecond),
		Provider: m.provider, RequestedModel: r.RequestedModel, Model: m.version,
		Usage: r.usage(m, output), LatencyMS: int64(seconds * 1000), TTFTMS: int64(ttft * 1000),
		TenantID: w.Tenant.ID, SessionID: r.SessionID, PromptTemplate: w.Template, Task: w.Task,
		Route: a.Route, DecisionID: a.DecisionID, Arm: a.Arm, Complexity: w.Complexity, Tags: w.Tenant.Tags,
	}

	truth := unit(m.quality*d.quality + qualitySpread*r.luck.quality)
	judged := done.Add(time.Duration(judgeDelay.at(r.luck.judgeDelay) * float64(time.Second)))
	return span, Score{
		ID: "judge-" + r.SpanID, TraceID: r.TraceID, SpanID: r.SpanID, TenantID: w.Tenant.ID,
		Model: r.RequestedModel, PromptTemplate: w.Template, Arm: a.Arm,
		Evaluator: cmp.Or(w.Evaluator, Evaluator), EvaluatorVersion: "v2", Kind: "judge",
		Score:      math.Round(unit(truth+judgeSpread*r.luck.judge)*1000) / 1000,
		Confidence: math.Round((0.8+0.19*r.luck.confidence)*100) / 100,
		Timestamp:  judged.UTC().Truncate(time.Millisecond),
	}
}

// inflate returns the output that makes the call cost factor times what it would have: the faulty
// model rambles. Fewer tokens than one cannot be billed, so a factor well below 1 has a floor.
func (r *Request) inflate(m *model, output int64, factor float64) int64 {
	if factor == 1 {
		return output
	}
	p := m.price
	input := float64(r.prompt)*p.input + float64(r.cacheRead)*p.cacheRead + float64(r.cacheWrite)*p.cacheWrite
	total := factor * (input + float64(output)*p.output)
	return max(1, int64(math.Round((total-input)/p.output)))
}

// usage is the provider's own account of the call.
func (r *Request) usage(m *model, output int64) json.RawMessage {
	var object any
	switch m.provider {
	case "anthropic":
		object = struct {
			Input      int64 `json:"input_tokens"`
			CacheWrite int64 `json:"cache_creation_input_tokens"`
			CacheRead  int64 `json:"cache_read_input_tokens"`
			Output     int64 `json:"output_tokens"`
		}{r.prompt, r.cacheWrite, r.cacheRead, output}
	default:
		type details struct {
			Cached int64 `json:"cached_tokens"`
		}
		object = struct {
			Prompt     int64   `json:"prompt_tokens"`
			Completion int64   `json:"completion_tokens"`
			Total      int64   `json:"total_tokens"`
			Details    details `json:"prompt_tokens_details"`
		}{r.InputTokens(), output, r.InputTokens() + output, details{r.cacheRead}}
	}
	text, err := json.Marshal(object)
	if err != nil {
		panic("simulate: integers did not encode: " + err.Error())
	}
	return text
}

// sampled reports whether the judge scores the call where nobody tells it, at the share of the
// tenant's class.
func (r *Request) sampled() bool { return r.luck.sample < sampling[r.Workload.Tenant.Value] }

func unit(x float64) float64 { return min(1, max(0, x)) }
