package gateway

import (
	"errors"
	"fmt"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// hold asks for the promise of the call's worst cost. A call whose budgets are nearly spent gets a cheaper
// model.
func (c *call) hold() *refusal {
	for first := true; ; first = false {
		ask := treasury.Call{ID: c.id(), Of: c.of(), Most: budget.Ceil(int64(c.cost.worst))}
		if c.budgeted() { // else nobody reads it
			ask.Span = c.worst()
		}
		promise, err := c.p.o.Treasury.Hold(c.r.Context(), ask)
		standings, held := promise.Standings, promise.Most
		var no *treasury.Refusal
		switch {
		case errors.As(err, &no) && no.Away:
			return refused(away, "the budgets cannot be asked for now, and this tenant's calls wait for them: try again").after(5 * time.Second)
		case errors.As(err, &no):
			standings, held = []treasury.Standing{no.Standing}, 0
		case err != nil:
			if c.r.Context().Err() == nil {
				c.p.gate.o.Logger.Error("A call's budgets could not be asked", "tenant", c.tenant, "error", err)
			}
			return refused(away, "the budgets could not be asked: try again").after(time.Second)
		}
		standingHeaders(c.w.Header(), standings, c.began)
		spared := c.p.gate.spare(c.answer, c.request(), standings, held)
		if first && !spared.Stop && spared.Model != c.answer.Model && c.turn(spared) && no != nil {
			continue // what is left may do for the cheaper one
		}
		switch {
		case no == nil && !spared.Stop && (c.cost.priced || len(standings) == 0):
			c.promise = promise
			return nil
		case no == nil:
			c.p.o.Treasury.Settle(c.id(), 0, c.began) // nothing was sent
			if !spared.Stop {
				return refused(unpriced, fmt.Sprintf("the model %q has no price here, so no budget can bound it: add it to the price book, see flyball prices missing", c.answer.Model))
			}
			c.w.Header()["X-Llm-Route"] = []string{spared.Route}
			return refused(overBudget, spared.Reason)
		}
		return c.exceeded(no.Standing)
	}
}

// exceeded refuses a call that a budget has too little left for.
func (c *call) exceeded(s treasury.Standing) *refusal {
	b := s.Budget
	whose := map[budget.Per]string{
		budget.PerTenant: "this tenant's", budget.PerKey: "this key's", budget.PerSession: "this session's", budget.PerModel: "this model's",
	}[b.Per]
	message := fmt.Sprintf("%s budget %q of $%s a %s has $%s left, and this call may cost up to $%s", whose, b.ID, b.Ceiling.USD(), b.Period,
		max(0, s.Left).USD(), budget.Ceil(int64(c.cost.worst)).USD())
	if b.Per == budget.PerSession {
		message = fmt.Sprintf("this conversation has used up its budget of $%s: start a new one, or ask for a larger budget", b.Ceiling.USD())
	}
	no := refused(overBudget, message)
	if !s.Window.To.IsZero() {
		no.message += ": it starts anew at " + s.Window.To.UTC().Format(time.RFC3339)
		no.retry = max(time.Second, s.Window.To.Sub(c.began))
	}
	return no
}

// tell writes the headers that say what becomes of the call.
func (c *call) tell() {
	h := c.w.Header()
	values := [...]string{c.name(), c.answer.Route, c.answer.Model, ""}
	h["X-Llm-Request-Id"], h["X-Llm-Route"], h["X-Llm-Model"] = values[0:1:1], values[1:2:2], values[2:3:3]
	if c.cost.priced {
		values[3] = usd(c.cost.estimate)
		h["X-Llm-Cost-Estimate"] = values[3:4:4]
	}
	c.p.gate.markStale(h, c.began)
}

// giveBack ends the promise of a call of which nothing was sent, or for which its provider takes nothing.
func (c *call) giveBack() { c.p.o.Treasury.Settle(c.id(), 0, c.p.gate.o.Now()) }

// settleBy records the call, which settles its promise once that is durable.
func (c *call) settleBy(span usage.Span) {
	state := complete
	if !span.UsageComplete {
		state = cut
	}
	c.p.recent.put(c.name(), state, &span)
	c.p.recorder.addHeard(span, c.said)
	if c.api.Generates() {
		c.p.o.Predictors.record(tupleOf(&span, c.cost.estimate), c.ask.Text)
	}
}
