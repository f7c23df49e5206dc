package gateway

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// question is the body of POST /v1/decide. Its tokens of input are the most that the call can have: they are held.
type question struct {
	routing.Request
	SpanID         string            `json:"span_id,omitempty"` // names the call within its trace; a retry that names it is the same call
	Key            string            `json:"key,omitempty"`     // the name of the virtual key
	Provider       string            `json:"provider,omitempty"`
	ServiceTier    string            `json:"service_tier,omitempty"`
	Choices        int64             `json:"choices,omitempty"` // answers asked for at once, each of max_output_tokens; 1 when left out
	PromptTemplate string            `json:"prompt_template_version,omitempty"`
	Text           string            `json:"text,omitempty"` // what the call's quality is predicted by: what is asked, or its end
	Tags           map[string]string `json:"tags,omitempty"`
	Hold           *bool             `json:"hold,omitempty"`        // false: only ask
	TTL            int64             `json:"ttl_seconds,omitempty"` // of the hold; 600 when left out

	call *wire.Request // the call itself, where it is there: its bounds are better than what is said of it
}

// decision is the body of the answer.
type decision struct {
	routing.Answer
	HoldID          string            `json:"hold_id,omitempty"`
	MaxOutputTokens int64             `json:"max_output_tokens,omitempty"` // that were held for, where the call did not say: cap it by them
	EstimatedCost   json.Number       `json:"estimated_cost_usd,omitempty"`
	BudgetRemaining json.Number       `json:"budget_remaining_usd,omitempty"` // of the tightest budget, the hold taken off
	Refusal         *ready            `json:"refusal,omitempty"`
	Tags            map[string]string `json:"tags,omitempty"` // for the call's span, where its hold does not tell it
}

// ready is the answer that another gateway may give its client for a call that is refused, as the provider would.
type ready struct {
	Status int             `json:"status"`
	Code   string          `json:"code"`
	Body   json.RawMessage `json:"body"`
}

// The route of a call that is refused by its budgets.
const routeBudget = "budget"

// The bounds on tags, as ingest has them, and on choices.
const (
	maxTags    = 64
	maxTagKey  = 128
	maxChoices = 128
)

// verdict is what was decided of a call, however it is going to be said.
type verdict struct {
	decision
	shape     routing.Shaping
	standings []treasury.Standing // of the budgets that the call belongs to, the tightest first
	refused   *refusal            // nil: it may be made
}

func (x *External) decide(w http.ResponseWriter, r *http.Request, c caller) {
	var q question
	if err := decode(w, r, &q); err != nil {
		refuse(w, err)
		return
	}
	if err := c.about(&q.TenantID, &q.Key); err != nil {
		refuseWith(w, http.StatusForbidden, "forbidden", err)
		return
	}
	if err := q.check(); err != nil {
		refuse(w, err)
		return
	}
	now := x.gate.o.Now()
	v, err := x.judge(r.Context(), &q, now)
	if err != nil {
		refuseHold(w, err)
		return
	}
	x.verdictHeaders(w.Header(), &v, now)
	reply(w, http.StatusOK, v.decision)
}

// refuseHold answers a call that cannot be remembered.
func refuseHold(w http.ResponseWriter, err error) {
	if errors.Is(err, errTooMany) {
		retryAfter(w.Header(), 1)
		refuseWith(w, http.StatusServiceUnavailable, "too_many_holds", err)
		return
	}
	refuse(w, err)
}

// verdictHeaders says what was decided to whoever reads headers alone.
func (x *External) verdictHeaders(h http.Header, v *verdict, now time.Time) {
	h.Set(headerRoute, v.Route)
	if v.EstimatedCost != "" {
		h.Set(headerEstimate, v.EstimatedCost.String())
	}
	if v.refused != nil {
		retryAfter(h, seconds(v.refused.retry))
	}
	limitHeaders(h, v.shape, v.standings, now)
	x.gate.markStale(h, now)
}

// judge decides about a call, and holds its worst cost unless it only asks. The error says that the call cannot be
// remembered.
func (x *External) judge(ctx context.Context, q *question, now time.Time) (verdict, error) {
	estimate := func(model string) (usage.PicoUSD, bool) { return x.gate.estimate(q, model, now) }
	v := verdict{shape: x.gate.snapshot.Load().Shaping(q.Request, now)}
	v.Answer, v.Tags = x.gate.Route(Call{Request: q.Request, Text: q.Text, Estimate: estimate}, now)
	if len(v.Tags) > 0 {
		q.Tags = maps.Clone(q.Tags)
		if q.Tags == nil {
			q.Tags = map[string]string{}
		}
		maps.Copy(q.Tags, v.Tags)
	}
	if v.Stop {
		v.refuse(q, flagRefusal(&v.Answer))
		return v, nil
	}
	most, capped := x.most(q, v.Model)
	span, priced := x.worst(q, &v.Answer, most, now)
	if budgets, known := x.o.Budgets(q.TenantID); !priced && (!known || len(budgets) > 0) {
		v.refuse(q, refused(unpriced, fmt.Sprintf("the model %q has no price, so the call cannot be held to a budget: add it to the price book", v.Model)))
		return v, nil
	}
	err := x.hold(ctx, q, &v, span, now)
	if cost, known := estimate(v.Model); known && v.refused == nil {
		v.EstimatedCost = json.Number(pricing.Format(cost))
	}
	if v.refused == nil && err == nil && capped && len(v.standings) > 0 {
		v.MaxOutputTokens = x.o.OutputCap
	}
	return v, err
}

// hold promises the call its worst cost and remembers it, or refuses it.
func (x *External) hold(ctx context.Context, q *question, v *verdict, span usage.Span, now time.Time) error {
	asks := q.Hold != nil && !*q.Hold
	if asks {
		span.SpanID = newSpanID() // what is given back must not be the hold of the call itself
	}
	id := span.TraceID + "/" + span.SpanID
	ttl := time.Duration(q.TTL) * time.Second
	if ttl == 0 {
		ttl = defaultTTL
	}
	c, again := &held{id: id, span: span, lapses: now.Add(ttl)}, false
	if !asks {
		c.features, c.text = x.o.Predictors.read(q.Text)
		budgets, known := x.o.Budgets(q.TenantID)
		bounded := !known || len(budgets) > 0
		var err error
		again, err = x.holds.add(c, bounded, now)
		switch {
		case errors.Is(err, errTooMany) && !bounded:
			asks = true // nothing is held of it, so it goes on without being remembered
		case err != nil:
			return err
		}
	}
	promise, err := x.o.Treasury.Hold(ctx, treasury.Call{
		ID: id, Span: span, Most: budget.Ceil(int64(span.Cost)),
		Of: budget.Call{Tenant: q.TenantID, Key: q.Key, Session: q.SessionID, Model: q.RequestedModel}, Expires: ttl,
	})
	v.standings = promise.Standings
	spared := x.gate.spare(v.Answer, q.Request, v.standings, promise.Most)
	switch {
	case err != nil:
		x.holds.cancel(c)
		v.refuseBudget(q, err, now)
	case spared.Stop:
		if !again { // else the first answer let the call go, and it may be under way
			x.holds.cancel(c)
			x.o.Treasury.Settle(id, 0, now) // nothing was sent
		}
		v.Answer = spared
		v.refuse(q, refused(overBudget, spared.Reason))
	case asks:
		x.o.Treasury.Settle(id, 0, now)
	default:
		estimate, _ := x.gate.estimate(q, spared.Model, now) // 0: not known
		x.holds.turn(c, &spared, estimate)
		v.HoldID = id
	}
	if v.refused == nil {
		v.Answer = spared
	}
	if len(v.standings) > 0 {
		v.BudgetRemaining = json.Number(dollars(v.standings[0].Left))
	}
	return nil
}

// most is how many tokens the call can have, and whether its output must be capped for that.
func (x *External) most(q *question, model string) (t usage.Tokens, capped bool) {
	t.UncachedInput = q.InputTokens
	generates, beside := true, int64(0)
	if ask := q.call; ask != nil {
		t.UncachedInput = ask.InputBoundOn(model)
		if ask.Unbounded != "" {
			t.UncachedInput = max(t.UncachedInput, mostInput)
		}
		generates, beside = ask.API.Generates(), ask.Predicted
	}
	if generates {
		output := q.MaxOutputTokens
		if capped = output == 0; capped {
			output = x.o.OutputCap
		}
		t.Output = min(min(output, usage.MaxTokens)*max(q.Choices, 1)+beside, usage.MaxTokens)
	}
	t.UncachedInput = min(t.UncachedInput, usage.MaxTokens)
	return t, capped
}

// worst is the span of the call as if it cost the most that it can, and whether its model has a price.
func (x *External) worst(q *question, a *routing.Answer, most usage.Tokens, now time.Time) (usage.Span, bool) {
	span := usage.Span{
		TraceID: q.TraceID, SpanID: q.SpanID, Timestamp: now, TenantID: q.TenantID, SessionID: q.SessionID,
		Provider: usage.Provider(q.Provider), RequestedModel: q.RequestedModel, Model: a.Model,
		PromptTemplate: q.PromptTemplate, Task: q.Task, ServiceTier: usage.ServiceTier(q.ServiceTier),
		Tokens: most, Route: a.Route, DecisionID: a.DecisionID, Arm: a.Arm, Tags: keyed(q.Tags, q.Key), PriceVersion: x.gate.o.Prices.Version(),
	}
	if span.SpanID == "" {
		span.SpanID = newSpanID()
	}
	for i, tier := range [...]string{"", span.ServiceTier} { // one that is asked for may not be granted
		quote, err := x.gate.o.Prices.Quote(span.Provider, span.Model, tier, now)
		if err != nil {
			break
		}
		cost, err := quote.Worst(most.UncachedInput, most.Output)
		if err != nil {
			break
		}
		span.Cost, span.Priced = max(span.Cost, cost), true
		if i == 0 && span.ServiceTier == "" {
			break
		}
	}
	return span, span.Priced
}

func newSpanID() string {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	return hex.EncodeToString(id[:])
}

// estimate prices the call as if nothing of its input were cached and all of its allowed output
// were used; without an allowance it is the input alone. It is not known for a model without a price,
// which is not the same as free.
func (g *Gateway) estimate(q *question, model string, now time.Time) (usage.PicoUSD, bool) {
	quote, err := g.o.Prices.Quote(q.Provider, model, usage.ServiceTier(q.ServiceTier), now)
	if err != nil {
		return 0, false
	}
	output := min(q.MaxOutputTokens*max(q.Choices, 1), usage.MaxTokens)
	cost, err := quote.Cost(usage.Tokens{UncachedInput: q.InputTokens, Output: output})
	return cost, err == nil
}

// flagRefusal is why a flag refuses a call.
func flagRefusal(a *routing.Answer) *refusal {
	if a.RetryAfter > 0 {
		return refused(shaped, "calls of this model are being shaped: "+a.Reason).after(time.Duration(a.RetryAfter) * time.Second)
	}
	return refused(stopped, "calls of this model are stopped: "+a.Reason)
}

// refuseBudget says which budget has too little left, or that none can be asked.
func (v *verdict) refuseBudget(q *question, err error, now time.Time) {
	var no *treasury.Refusal
	if !errors.As(err, &no) || no.Budget.ID == "" {
		v.Route = routeBudget
		v.refuse(q, refused(away, "the budgets cannot be asked for now: try again").after(5*time.Second))
		return
	}
	b := no.Budget
	message := fmt.Sprintf("The budget %q of %s USD has %s USD left", b.ID, b.Ceiling.USD(), dollars(no.Left))
	f := refused(overBudget, "")
	if to := no.Window.To; !to.IsZero() {
		message += fmt.Sprintf(" until %s", to.UTC().Format(time.RFC3339))
		f.after(to.Sub(now))
	}
	f.message = message + ", and this call may cost more. Ask for fewer tokens, or have the budget raised."
	if len(v.standings) == 0 {
		v.standings = []treasury.Standing{no.Standing}
	}
	v.Route = routeBudget
	v.refuse(q, f)
}

// refuse makes the answer that of a call that is not to be made.
func (v *verdict) refuse(q *question, f *refusal) {
	v.refused, v.Stop, v.HoldID, v.EstimatedCost = f, true, "", ""
	v.Model, v.RetryAfter = q.RequestedModel, int(seconds(f.retry))
	if v.Route == routeBudget || f.code == unpriced.code {
		v.Route, v.Reason = routeBudget, f.message
	}
	family := wire.OpenAI
	if usage.Provider(q.Provider) == "anthropic" {
		family = wire.Anthropic
	}
	v.Refusal = &ready{f.status, f.code, f.in(family, "").Body()}
}

// check refuses what a span could not say, and what no call can be.
func (q *question) check() error {
	for _, f := range [...]struct {
		field, value string
		required     bool
	}{
		{"tenant_id", q.TenantID, true},
		{"trace_id", q.TraceID, true},
		{"requested_model", q.RequestedModel, true},
		{"session_id", q.SessionID, false},
		{"task", q.Task, false},
		{"span_id", q.SpanID, false},
		{"key", q.Key, false},
		{"provider", q.Provider, false},
		{"service_tier", q.ServiceTier, false},
		{"prompt_template_version", q.PromptTemplate, false},
	} {
		if err := checkName(f.field, f.value, f.required); err != nil {
			return err
		}
	}
	if strings.Contains(q.SpanID, "/") {
		return errors.New("span_id holds a slash, which ends the trace's part of a hold's id")
	}
	for _, f := range [...]struct {
		field   string
		n, most int64
	}{
		{"input_tokens", q.InputTokens, usage.MaxTokens},
		{"max_output_tokens", q.MaxOutputTokens, usage.MaxTokens},
		{"choices", q.Choices, maxChoices},
		{"ttl_seconds", q.TTL, int64(maxTTL / time.Second)},
	} {
		if f.n < 0 || f.n > f.most {
			return fmt.Errorf("%s is %d, outside 0..%d", f.field, f.n, f.most)
		}
	}
	return checkTags(q.Tags)
}

func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return fmt.Errorf("tags are %d, more than %d", len(tags), maxTags)
	}
	for name, value := range tags {
		if name == "" || len(name) > maxTagKey {
			return fmt.Errorf("tags: a name is %d bytes long, outside 1..%d", len(name), maxTagKey)
		}
		if err := checkName("tags."+name, value, false); err != nil {
			return err
		}
	}
	return nil
}
