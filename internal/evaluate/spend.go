package evaluate

import (
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// The tags of a judge's calls.
const (
	TagTenant    = "judged_tenant"
	TagEvaluator = "evaluator"
	TagVersion   = "evaluator_version"
	TagProcess   = "judge_process"
	tagServed    = "served_model"
)

// span is the telemetry of one call of the judge: of its own tenant, so that nobody's spend hides it, and with tags
// that say for whom.
func (j *Judge) span(about About, began time.Time) usage.Span {
	now := j.o.Now()
	return usage.Span{
		TraceID: about.ID, SpanID: newMark(), Timestamp: now, LatencyMS: now.Sub(began).Milliseconds(),
		TenantID: j.o.Tenant, Provider: j.o.Provider, RequestedModel: j.o.Model, Model: j.o.Model,
		Task: "judge", PromptTemplate: about.Evaluator.Name + "@" + about.Evaluator.Version, Arm: usage.None,
		Tags: map[string]string{
			TagTenant: about.Tenant, TagEvaluator: about.Evaluator.Name, TagVersion: about.Evaluator.Version,
			TagProcess: j.o.Process,
		},
	}
}

// account fills in what the endpoint says that the call used, and its price. Usage that is missing or not understood
// is the worst case.
func (j *Judge) account(s *usage.Span, c *completion, bytes int, output int64) {
	report, err := usage.FromUsage("openai", c.Usage)
	if err != nil || report.Tokens == (usage.Tokens{}) {
		j.unknown(s, bytes, output)
		return
	}
	s.Tokens, s.UsageComplete, s.ServiceTier = report.Tokens, report.Complete, report.ServiceTier
	if c.Model != "" && len(c.Model) <= maxModel {
		s.Model = c.Model
	}
	if j.o.Book.Price(s) == nil {
		return
	}
	// A name, a service tier or a bucket that the book does not know is not free: the model that was asked for is priced,
	// then its dearest bucket.
	if s.Model != j.o.Model {
		s.Tags[tagServed] = s.Model
	}
	s.Model, s.ServiceTier = j.o.Model, ""
	if j.o.Book.Price(s) != nil {
		s.Tokens = usage.Tokens{UncachedInput: s.Tokens.Input(), Output: s.Tokens.Output, Reasoning: s.Tokens.Reasoning}
		_ = j.o.Book.Price(s) // NewJudge has found these prices
	}
}

// maxModel bounds the name of a model, in bytes.
const maxModel = 256

// unknown accounts for a call of which nobody knows what it used: for all that it may have.
func (j *Judge) unknown(s *usage.Span, bytes int, output int64) {
	s.Tokens = usage.Tokens{UncachedInput: int64(bytes) + overhead, Output: output}
	s.UsageComplete = false
	_ = j.o.Book.Price(s)
}
