package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/routing"
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
		c.limits(standings)
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

// limits tells what is left of the budgets, in the fields of the IETF's draft on rate limits: micro-dollars, and seconds.
func (c *call) limits(standings []treasury.Standing) {
	if len(standings) == 0 {
		return
	}
	h := c.w.Header()
	h["X-Llm-Budget-Remaining"] = []string{max(0, standings[0].Left).USD()}
	var policy, limit strings.Builder
	for i, s := range standings {
		if i == maxLimits {
			break
		}
		if i > 0 {
			policy.WriteString(", ")
			limit.WriteString(", ")
		}
		name := quoted(s.Budget.ID)
		policy.WriteString(name + ";q=" + strconv.FormatInt(int64(s.Budget.Ceiling), 10) + `;qu="micro-usd"`)
		limit.WriteString(name + ";r=" + strconv.FormatInt(int64(max(0, s.Left)), 10))
		if w := s.Window; !w.To.IsZero() {
			policy.WriteString(";w=" + strconv.FormatInt(ceilSeconds(w.To.Sub(w.From)), 10))
			limit.WriteString(";t=" + strconv.FormatInt(ceilSeconds(w.To.Sub(c.began)), 10))
		}
	}
	h["Ratelimit-Policy"], h["Ratelimit"] = []string{policy.String()}, []string{limit.String()}
}

// maxLimits bounds the budgets that an answer's headers tell of, the tightest first.
const maxLimits = 8

// quoted is a name as a string of HTTP's structured fields, which takes printable ASCII alone.
func quoted(name string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range name {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r > '~':
			b.WriteByte('?')
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
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
	c.p.recorder.add(span)
}
