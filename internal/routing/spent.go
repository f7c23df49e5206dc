package routing

import (
	"cmp"
	"fmt"

	"github.com/flyball-dev/flyball/internal/usage"
)

// The routes of calls that a budget which is nearly spent moved or refused.
const (
	SessionBudget = "session_budget"
	TenantBudget  = "tenant_budget"
)

// Session is what becomes of a session's calls as its budget is spent.
type Session struct {
	DowngradeAt float64 `json:"downgrade_at"` // the share spent from which a cheaper model serves; 0: 0.80
	StopAt      float64 `json:"stop_at"`      // and from which none does; 0: 0.95
}

// The shares of a session's budget that stand where the policy does not say.
const (
	downgradeAt = 0.80
	stopAt      = 0.95
)

// Spent is how much of a call's budgets is spent or promised to calls under way, as a share of the ceiling: of the
// session's, and of the tightest other one. 0 where there is none, or where it is not known.
type Spent struct {
	Session float64
	Tenant  float64
}

// Spare says what becomes of a call, that Decide and perhaps FallBack have answered, by what its budgets have left. A
// session is stopped at 95 %, and a tenant under 5 % as the policy says; before that, and where the policy keeps the
// floor, the cheapest model of the same provider that meets the tenant's floor serves. No budget is a reason to go
// below it: where no cheaper model does, the requested one serves until the budget stops it. A stop holds for every
// call; a cheaper model does not take the place of what a flag decided, so that the flag's proof stays clean.
func (t *Tradeoff) Spare(a Answer, r Request, s Spent) Answer {
	switch {
	case a.Stop:
		return a
	case s.Session >= cmp.Or(t.Session.StopAt, stopAt):
		return refused(r, SessionBudget, fmt.Sprintf("This session has used %.0f %% of its budget, so no further calls are made in it. Start a new session, or ask for a larger budget.", s.Session*100))
	case 1-s.Tenant < exhausted && t.OnExhausted == StopCalls:
		return refused(r, TenantBudget, fmt.Sprintf("%.0f %% of the budget is used, and no further calls are made until it is renewed or raised.", s.Tenant*100))
	case s.Session >= cmp.Or(t.Session.DowngradeAt, downgradeAt):
		return t.cheaper(a, r, SessionBudget, fmt.Sprintf("%.0f %% of the session's budget is used", s.Session*100))
	case 1-s.Tenant < exhausted:
		return t.cheaper(a, r, TenantBudget, fmt.Sprintf("%.0f %% of the budget is used", s.Tenant*100))
	}
	return a
}

func refused(r Request, route, reason string) Answer {
	return Answer{Model: r.RequestedModel, Route: route, Reason: reason, Arm: usage.None, Stop: true}
}

// cheaper moves the call to a cheaper model, unless it is one of a flag's, has fallen back already or there is none. A
// call of the fallback's holdback leaves it: what a budget moved shows nothing about the rule.
func (t *Tradeoff) cheaper(a Answer, r Request, route, why string) Answer {
	if a.Route != Direct || a.Arm != usage.None && a.DecisionID != t.Fallback.Rule {
		return a
	}
	to := t.Downgrade(r.TenantID, r.RequestedModel)
	if to.Model == "" {
		return a
	}
	return Answer{Model: to.Model, Route: route, Reason: why + ": " + to.Reason, Arm: usage.None}
}
