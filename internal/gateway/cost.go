package gateway

import (
	"cmp"
	"maps"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// longestContext bounds the input of a call that refers to what its body does not hold, such as an earlier answer: no
// model takes more tokens.
const longestContext = 2_000_000

// unseenOutput is how many tokens a call that was cut off may have generated beyond what was seen of it: providers
// notice late that nobody listens.
const unseenOutput = 1_000

// costs is what a call may cost.
type costs struct {
	priced          bool
	estimate, worst usage.PicoUSD
	input, output   int64 // tokens at the worst
}

// price says what the call may cost by the prices of whoever may be asked, and caps its output where a budget needs that.
func (c *call) price() {
	c.cost, c.cap = costs{}, 0
	ask := c.ask
	c.cost.input = ask.InputBoundOn(c.answer.Model)
	if ask.Unbounded != "" {
		c.cost.input = max(c.cost.input, longestContext)
	}
	if ask.API.Generates() {
		most := ask.MaxOutput
		if most == 0 && c.budgeted() {
			c.cap = c.p.o.Gate.OutputCap
			most = c.cap
		}
		c.cost.output = min(most, usage.MaxTokens)*ask.Choices + ask.Predicted
	}
	c.cost.input, c.cost.output = min(c.cost.input, usage.MaxTokens), min(c.cost.output, usage.MaxTokens)
	c.cost.priced = true
	for i, u := range c.chain {
		estimate, worst, ok := c.quote(u)
		if !ok {
			c.cost.priced = false
			return
		}
		if i == 0 {
			c.cost.estimate = estimate
		}
		c.cost.worst = max(c.cost.worst, worst)
	}
}

// quote is what the call is likely to cost at an upstream, and may at the most.
func (c *call) quote(u *upstream) (estimate, worst usage.PicoUSD, ok bool) {
	tier := usage.ServiceTier(c.ask.ServiceTier)
	for _, t := range [...]string{"", tier} { // a tier that is asked for may not be granted
		quote, err := c.p.gate.o.Prices.Quote(u.Provider, c.answer.Model, t, c.began)
		if err != nil {
			if t == "" {
				return 0, 0, false
			}
			break // a tier without a price: the provider refuses it, or it costs what the standard does
		}
		most, err := quote.Worst(c.cost.input, c.cost.output)
		if err != nil {
			return 0, 0, false
		}
		if estimate, err = quote.Cost(usage.Tokens{UncachedInput: min(c.ask.InputEstimate, usage.MaxTokens), Output: c.cost.output}); err != nil {
			return 0, 0, false
		}
		if worst = max(worst, most); tier == "" {
			break
		}
	}
	return estimate, worst, true
}

// budgeted reports whether the tenant has budgets, or may have.
func (c *call) budgeted() bool {
	budgets, known := c.p.o.Budgets(c.tenant)
	return !known || len(budgets) > 0
}

// of is what of the call its budgets go by.
func (c *call) of() budget.Call {
	return budget.Call{Tenant: c.tenant, Key: c.key, Session: c.session, Model: c.ask.Model}
}

// record is the call as telemetry.
func (c *call) record(now time.Time) usage.Span {
	return usage.Span{
		TraceID: c.trace, SpanID: c.span, Timestamp: now.UTC(), TenantID: c.tenant, SessionID: c.session,
		Provider: c.chain[0].Provider, RequestedModel: c.ask.Model, Model: c.answer.Model,
		PromptTemplate: c.template, Task: c.task, ServiceTier: usage.ServiceTier(c.ask.ServiceTier),
		Route: c.answer.Route, DecisionID: c.answer.DecisionID, Arm: c.answer.Arm, Tags: keyed(c.tags, c.key),
	}
}

// keyed are a span's tags with the virtual key of its call, by which budgets per key are reckoned. Nobody else says it.
func keyed(tags map[string]string, key string) map[string]string {
	if _, said := tags[usage.TagVirtualKey]; key == "" && !said {
		return tags
	}
	tags = maps.Clone(tags)
	if tags == nil {
		tags = map[string]string{}
	}
	if delete(tags, usage.TagVirtualKey); key != "" {
		tags[usage.TagVirtualKey] = key
	}
	return tags
}

// worst is the record of the call if this process dies before it has ended.
func (c *call) worst() usage.Span {
	s := c.record(c.began)
	s.Tokens = usage.Tokens{UncachedInput: c.cost.input, Output: c.cost.output}
	s.Cost, s.Priced, s.PriceVersion = c.cost.worst, c.cost.priced, c.p.gate.o.Prices.Version()
	return s
}

// seen is what was seen of an answer.
type seen struct {
	report usage.Report
	text   int64 // bytes of text
	hidden bool  // there is output that was not shown
}

// ended is the record of a call that an upstream has answered, or may have worked on. What was not seen of its usage
// is taken at the worst.
func (c *call) ended(u *upstream, s seen) usage.Span {
	now := c.p.gate.o.Now()
	span := c.record(now)
	span.Provider, span.Tokens, span.UsageComplete = u.Provider, s.report.Tokens, s.report.Complete
	if !s.report.Complete {
		if span.Tokens.Input() == 0 {
			span.Tokens.UncachedInput = c.cost.input
		}
		output := s.text + unseenOutput
		if most := c.cost.output; most > 0 && (s.hidden || c.ask.Reasons || output > most) {
			output = most
		}
		if !c.ask.API.Generates() {
			output = 0
		}
		span.Tokens.Output = max(span.Tokens.Output, min(output, usage.MaxTokens))
	}
	if m := s.report.Model; m != "" && len(m) <= maxHeaderName {
		span.Model = m
	}
	span.ServiceTier = cmp.Or(s.report.ServiceTier, span.ServiceTier)
	if s.report.Complete {
		span.ServiceTier = s.report.ServiceTier // what was asked for and not said was not granted
	}
	c.priceSpan(&span)
	if span.LatencyMS = now.Sub(c.began).Milliseconds(); !c.first.IsZero() && c.ask.Stream {
		span.TTFTMS = max(1, c.first.Sub(c.began).Milliseconds())
	}
	return span
}

// priceSpan prices a span by the model that served it, or, where the book does not know that by the name that the
// provider gives it, by the one that was asked for: a call that was promised money is never free.
func (c *call) priceSpan(s *usage.Span) {
	book := c.p.gate.o.Prices
	if book.Price(s) == nil {
		return
	}
	for _, tier := range [...]string{s.ServiceTier, ""} {
		quote, err := book.Quote(s.Provider, c.answer.Model, tier, s.Timestamp)
		if err != nil {
			continue
		}
		if cost, err := quote.Cost(s.Tokens); err == nil {
			s.Cost, s.Priced = cost, true
			return
		}
	}
}

// usd writes an amount as dollars.
func usd(amount usage.PicoUSD) string { return pricing.Format(amount) }
