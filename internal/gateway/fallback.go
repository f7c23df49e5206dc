package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Trusts is where it is said which tenants trust which fallback rule: Redis.
type Trusts interface {
	Trust(ctx context.Context) (rules map[string]string, err error)
}

// Predict is the score that a model is predicted to reach on a call, and the version of the predictor that says so;
// not known is no reason to do anything.
type Predict func(tenant, task, model, text string) (score float64, version string, known bool)

// FallbackOptions is all that the fallback rule needs; every field is required but Quality.
type FallbackOptions struct {
	Tradeoff func() routing.Tradeoff // in force
	Quality  Predict                 // nil: nothing is predicted, and so nothing falls back
	Trusts   Trusts
	Logger   *slog.Logger
	Now      func() time.Time
}

// Fallbacks applies the tradeoff's rules to single calls: what falls back, and what nearly spent budgets move or refuse.
// Make one with NewFallbacks, and keep Run running beside it. It asks nobody while a caller waits.
type Fallbacks struct {
	o     FallbackOptions
	trust atomic.Pointer[trust]
}

// trust is who trusts which rule, as of a time.
type trust struct {
	rules map[string]string
	at    time.Time
}

// NewFallbacks returns rules that nobody trusts until Run has read who does.
func NewFallbacks(o FallbackOptions) *Fallbacks {
	f := &Fallbacks{o: o}
	f.trust.Store(&trust{})
	return f
}

// trustEvery is how often it is read who trusts the rule: a person who withdraws trust waits for it.
const trustEvery = 2 * time.Second

// Run keeps trust fresh until ctx ends, which is not an error. While the store is away the last that was read holds for
// as long as a flag would.
func (f *Fallbacks) Run(ctx context.Context) error {
	away := false
	for ctx.Err() == nil {
		err := f.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			f.o.Logger.WarnContext(ctx, "who trusts the fallback rule cannot be read; what was known stays in force for a while", "error", err)
		case err == nil && away:
			f.o.Logger.InfoContext(ctx, "who trusts the fallback rule can be read again")
		}
		away = err != nil
		wait(ctx, trustEvery)
	}
	return nil
}

func (f *Fallbacks) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	began := f.o.Now()
	rules, err := f.o.Trusts.Trust(ctx)
	if err != nil {
		return fmt.Errorf("refreshing trust: %w", err)
	}
	f.trust.Store(&trust{rules, began})
	return nil
}

// Call is what the rules ask about a call that is about to be made.
type Call struct {
	Request  routing.Request
	Text     string                                              // what its quality is predicted by
	Estimate func(model string) (cost usage.PicoUSD, known bool) // of the call, were the model to serve it
	Tags     map[string]string                                   // that the caller wants on its span
}

// Apply says what becomes of a call that the flags have answered. The tags are those for the call's span: the caller's, and what tells people of a call that the rule fired on,
// whether it acted or not.
func (f *Fallbacks) Apply(a routing.Answer, c Call) (routing.Answer, map[string]string) {
	tradeoff := f.o.Tradeoff()
	var fired *routing.Case
	if f.o.Quality != nil {
		a, fired = tradeoff.FallBack(a, routing.Call{
			Request: c.Request, Estimate: c.Estimate, Trusted: f.trusted(c.Request.TenantID, tradeoff.Fallback.Rule),
			Quality: func() (float64, string, bool) {
				return f.o.Quality(c.Request.TenantID, c.Request.Task, c.Request.RequestedModel, c.Text)
			},
		})
	}
	return a, fired.Mark(c.Tags)
}

// spare says what becomes of a call by what its budgets have left once it was promised what is held.
func (g *Gateway) spare(a routing.Answer, r routing.Request, standings []treasury.Standing, held budget.Micro) routing.Answer {
	if g.o.Fallbacks == nil || len(standings) == 0 {
		return a
	}
	tradeoff := g.o.Fallbacks.o.Tradeoff()
	return tradeoff.Spare(a, r, spentOf(standings, held))
}

// spentOf is how much of the budgets was spent or promised before this call.
func spentOf(standings []treasury.Standing, held budget.Micro) (spent routing.Spent) {
	for _, s := range standings {
		if s.Budget.Ceiling <= 0 {
			continue
		}
		of := &spent.Tenant
		if s.Budget.Per == budget.PerSession {
			of = &spent.Session
		}
		*of = max(*of, 1-float64(s.Left+held)/float64(s.Budget.Ceiling))
	}
	return spent
}

// Route says which model serves a call, if any does: by the flags, then by Fallbacks.Apply.
func (g *Gateway) Route(c Call, now time.Time) (routing.Answer, map[string]string) {
	a := routing.Decide(g.snapshot.Load(), c.Request, now)
	if g.o.Fallbacks == nil {
		return a, c.Tags
	}
	return g.o.Fallbacks.Apply(a, c)
}

// trusted reports whether the tenant trusts this rule. Trust that was read too long ago counts no more: it may have been
// withdrawn.
func (f *Fallbacks) trusted(tenant, rule string) bool {
	t := f.trust.Load()
	return rule != "" && t.rules[tenant] == rule && f.o.Now().Sub(t.at) < routing.TTL
}
