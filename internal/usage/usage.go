// Package usage holds what one LLM call is: the Span, the Key it belongs to, and its tokens in
// disjoint buckets, whatever shape the provider reported them in.
package usage

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// AnyModel is the model of the pseudo-key (tenant, *), which is swept to catch a silent shift of
// the requested model itself.
const AnyModel = "*"

// Key names what is watched and governed: one tenant's traffic for one requested model. The model
// that served is a dimension of the span, not of the key, so a reroute never empties a key.
type Key struct {
	Tenant string `json:"tenant"`
	Model  string `json:"model"`
}

// String renders the key for people and logs, "tenant/model". It is not an identifier: use
// contract's ids for those.
func (k Key) String() string { return k.Tenant + "/" + k.Model }

// Pseudo reports whether k is the pseudo-key (tenant, *), which owns no flags.
func (k Key) Pseudo() bool { return k.Model == AnyModel }

// OwnsFlags reports whether calls can be routed under k: not under a pseudo-key, which names no single model, nor
// under an experiment's, whose calls are as they are on purpose.
func (k Key) OwnsFlags() bool {
	_, _, experiment := k.Experiment()
	return !k.Pseudo() && !experiment
}

// ExperimentMark stands between the model and the experiment in the key of an experiment's calls. A plain # is
// a part of some providers' names of models; a requested model with this mark is refused at the door.
const ExperimentMark = "#experiment:"

// OfExperiment is the key under which the calls of k that belong to an experiment are watched. It owns no
// flags, never pages, and is compared with k itself.
func (k Key) OfExperiment(id string) Key { return Key{k.Tenant, k.Model + ExperimentMark + id} }

// Experiment splits the key of an experiment's calls into the key that they are compared with and the
// experiment's id; ok is false for every other key.
func (k Key) Experiment() (of Key, id string, ok bool) {
	model, id, ok := strings.Cut(k.Model, ExperimentMark)
	if !ok {
		return Key{}, "", false
	}
	return Key{k.Tenant, model}, id, true
}

// Everything is the key of all telemetry of all tenants together, whose silence is watched.
var Everything = Key{AnyModel, AnyModel}

// Cohort separates deliberate experiments from production traffic, so that an A/B test never pages.
type Cohort string

// The two cohorts. A span with an experiment id is Experiment; every other one is Production.
const (
	Production Cohort = "production"
	Experiment Cohort = "experiment"
)

// Arm says what a flag did to a call. While a flag is on, every call of its key is either Treated
// or Holdback (the untouched control); without one it is None.
type Arm string

// The arms. An empty arm on the wire means None.
const (
	None     Arm = "none"
	Treated  Arm = "treated"
	Holdback Arm = "holdback"
)

// Tokens are a call's tokens in disjoint buckets: each input token is in exactly one of the four
// input buckets. Reasoning is the part of Output spent on reasoning, not an addition to it.
type Tokens struct {
	UncachedInput int64 `json:"input"`
	CacheRead     int64 `json:"cache_read"`
	CacheWrite5m  int64 `json:"cache_write_5m"`
	CacheWrite1h  int64 `json:"cache_write_1h"`
	Output        int64 `json:"output"`
	Reasoning     int64 `json:"reasoning"`
}

// Input is all input tokens, cached or not.
func (t Tokens) Input() int64 {
	return t.UncachedInput + t.CacheRead + t.CacheWrite5m + t.CacheWrite1h
}

// MaxTokens bounds one bucket of one call: far above any model's context, far below an overflow of
// price times tokens.
const MaxTokens = 1_000_000_000

// Validate refuses negative or absurd counts, and reasoning beyond output.
func (t Tokens) Validate() error {
	for _, b := range []struct {
		name string
		n    int64
	}{
		{"input", t.UncachedInput},
		{"cache_read", t.CacheRead},
		{"cache_write_5m", t.CacheWrite5m},
		{"cache_write_1h", t.CacheWrite1h},
		{"output", t.Output},
		{"reasoning", t.Reasoning},
	} {
		if b.n < 0 {
			return fmt.Errorf("%s tokens are negative (%d)", b.name, b.n)
		}
		if b.n > MaxTokens {
			return fmt.Errorf("%s tokens %d exceed %d", b.name, b.n, MaxTokens)
		}
	}
	if t.Reasoning > t.Output {
		return errors.New("reasoning tokens exceed output tokens, which include them")
	}
	return nil
}

// TagVirtualKey is the tag that names the virtual key with which a call was made through the gateway.
const TagVirtualKey = "virtual_key"

// PicoUSD is an amount of money in pico-dollars (1e-12 US dollar). Sums of many spans are kept
// wider (Int128 in ClickHouse); see pricing for exact arithmetic and formatting.
type PicoUSD int64

// Span is one LLM call as Flyball stores it. Timestamp is the call's completion, in UTC.
type Span struct {
	TraceID        string
	SpanID         string
	Timestamp      time.Time
	TenantID       string
	SessionID      string
	Provider       string
	RequestedModel string
	Model          string // the model that served
	PromptTemplate string // prompt_template_version
	Task           string
	ExperimentID   string
	ServiceTier    string

	Tokens        Tokens
	UsageComplete bool // false: the provider's final usage was not seen, or not understood

	Cost         PicoUSD  // by our price book
	Priced       bool     // false: no price known; Cost is 0 and means nothing
	CostReported *PicoUSD // what the sender said, kept beside ours
	PriceVersion string

	LatencyMS  int64
	TTFTMS     int64   // time to first token; 0 when unknown
	Complexity float64 // 0 when not said yet
	Route      string
	DecisionID string
	Arm        Arm
	Tags       map[string]string
}

// Key is the key that the span belongs to.
func (s *Span) Key() Key { return Key{s.TenantID, s.RequestedModel} }

// Cohort is Experiment when the span carries an experiment id.
func (s *Span) Cohort() Cohort {
	if s.ExperimentID != "" {
		return Experiment
	}
	return Production
}

// Quality is one evaluation of one call, by a judge, a heuristic or a human. Score is in [0, 1].
type Quality struct {
	ID               string
	TraceID          string
	SpanID           string
	TenantID         string
	Model            string // the requested model
	ServedModel      string // of the span; empty where the span is not known
	Provider         string // of the span, like ServedModel
	PromptTemplate   string
	ExperimentID     string
	Arm              Arm
	Evaluator        string
	EvaluatorVersion string
	Score            float64
	Confidence       float64
	Kind             string // judge, heuristic or human
	Timestamp        time.Time

	// What its evaluator's standing made of the score when it came in. A score that nobody spoke of counts as it is.
	Aside      bool    // stored, and kept out of detection and baselines
	Mapped     bool    // Calibrated is the score on the scale of baselines, in place of Score
	Calibrated float64 // 0 to 1
}

// OnScale is the score on the scale that baselines are drawn on.
func (q *Quality) OnScale() float64 {
	if q.Mapped {
		return q.Calibrated
	}
	return q.Score
}

// Outcome is what a call led to in the business: a conversion, a support ticket, a customer who stayed.
// It belongs to the call of its trace, whose dimensions it takes, and to its own moment.
type Outcome struct {
	ID             string
	TraceID        string
	SpanID         string // empty: the first call of the trace; ingest joins by it, and it is not stored
	TenantID       string
	Model          string // the requested model
	ServedModel    string
	Provider       string
	PromptTemplate string
	ExperimentID   string
	Arm            Arm
	Kind           string  // conversion, ticket, retention, …
	Value          float64 // above 0 is good, 0 and below is bad; finite, at most MaxOutcome either way
	Timestamp      time.Time
}

// MaxOutcome bounds an outcome's value, so that sums of a billion of them in millionths fit into int64.
const MaxOutcome = 1e6

// Trace names a trace whose calls are looked for. An empty tenant means any.
type Trace struct{ TenantID, ID string }

// Deployment is a change that someone shipped: the first suspect of a regression.
type Deployment struct {
	ID             string            `json:"id"`
	Service        string            `json:"service"`
	TenantID       string            `json:"tenant_id,omitempty"`
	Model          string            `json:"model,omitempty"`
	PromptTemplate string            `json:"prompt_template_version,omitempty"`
	Previous       map[string]string `json:"previous,omitempty"`
	Version        string            `json:"version"`
	By             string            `json:"by,omitempty"`
	Timestamp      time.Time         `json:"timestamp"`
}

// Content is what was asked and answered in one call, where it is configured to be kept.
type Content struct {
	TraceID        string
	SpanID         string
	TenantID       string
	RequestedModel string
	Model          string // that served
	Timestamp      time.Time
	ExpiresAt      time.Time // from then on the store forgets it
	Input, Output  string
}
