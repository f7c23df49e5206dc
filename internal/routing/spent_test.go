package routing

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestSpare(t *testing.T) {
	stops := ruled(0.1)
	stops.OnExhausted = StopCalls
	tests := map[string]struct {
		tradeoff *Tradeoff
		tenant   string
		spent    Spent
		before   func(a *Answer)
		model    string
		route    string
		stop     bool
		reason   string
	}{
		"nothing spent":            {ruled(0.1), "org_1", Spent{}, nil, "claude-3-opus", Direct, false, "no flag is on for this key"},
		"not yet":                  {ruled(0.1), "org_1", Spent{Session: 0.79, Tenant: 0.95}, nil, "claude-3-opus", Direct, false, "no flag is on for this key"},
		"80 % of the session":      {ruled(0.1), "org_1", Spent{Session: 0.8}, nil, "claude-3-haiku", SessionBudget, false, "80 % of the session's budget is used: claude-3-haiku is the cheapest model that meets the quality floor of 0.80"},
		"the floor is kept":        {ruled(0.1), "strict", Spent{Session: 0.94}, nil, "claude-3-sonnet", SessionBudget, false, "94 % of the session's budget is used: claude-3-sonnet is the cheapest model that meets the quality floor of 0.90"},
		"95 % of the session":      {ruled(0.1), "org_1", Spent{Session: 0.95}, nil, "claude-3-opus", SessionBudget, true, "This session has used 95 % of its budget, so no further calls are made in it. Start a new session, or ask for a larger budget."},
		"the tenant, floor":        {ruled(0.1), "org_1", Spent{Tenant: 0.96}, nil, "claude-3-haiku", TenantBudget, false, "96 % of the budget is used: claude-3-haiku is the cheapest model that meets the quality floor of 0.80"},
		"the tenant, stop":         {stops, "org_1", Spent{Session: 0.9, Tenant: 0.96}, nil, "claude-3-opus", TenantBudget, true, "96 % of the budget is used, and no further calls are made until it is renewed or raised."},
		"a flag's call":            {ruled(0.1), "org_1", Spent{Session: 0.9}, func(a *Answer) { a.Arm, a.DecisionID = usage.Holdback, "d1" }, "claude-3-opus", Direct, false, "no flag is on for this key"},
		"a flag's call is stopped": {ruled(0.1), "org_1", Spent{Session: 0.99}, func(a *Answer) { a.Arm, a.DecisionID = usage.Holdback, "d1" }, "claude-3-opus", SessionBudget, true, "This session has used 99 % of its budget, so no further calls are made in it. Start a new session, or ask for a larger budget."},
		"a fallback's holdback": {
			ruled(0.1), "org_1",
			Spent{Session: 0.9},
			func(a *Answer) { a.Arm, a.DecisionID = usage.Holdback, ruled(0.1).Fallback.Rule }, "claude-3-haiku", SessionBudget, false,
			"90 % of the session's budget is used: claude-3-haiku is the cheapest model that meets the quality floor of 0.80",
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a := direct("claude-3-opus")
			if test.before != nil {
				test.before(&a)
			}
			got := test.tradeoff.Spare(a, Request{TenantID: test.tenant, SessionID: "s1", RequestedModel: "claude-3-opus"}, test.spent)
			require.Equal(t, test.model, got.Model)
			require.Equal(t, test.route, got.Route)
			require.Equal(t, test.stop, got.Stop)
			require.Equal(t, test.reason, got.Reason)
			if got.Route == SessionBudget || got.Route == TenantBudget {
				require.Equal(t, usage.None, got.Arm)
				require.Empty(t, got.DecisionID)
			}
		})
	}
	t.Run("as the policy says", func(t *testing.T) {
		early := ruled(0.1)
		early.Session = Session{DowngradeAt: 0.5, StopAt: 0.6}
		r := Request{TenantID: "org_1", RequestedModel: "claude-3-opus"}
		require.Equal(t, "claude-3-haiku", early.Spare(direct("claude-3-opus"), r, Spent{Session: 0.5}).Model)
		require.True(t, early.Spare(direct("claude-3-opus"), r, Spent{Session: 0.6}).Stop)
	})
}

// Whatever is spent, a budget never moves a call below the floor, to another provider or to a dearer model; spending
// more never lets a refused session call again.
func TestSpareKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tradeoff := ruled(0.1)
		tradeoff.OnExhausted = rapid.SampledFrom([]OnExhausted{KeepFloor, StopCalls}).Draw(t, "on exhausted")
		tradeoff.Default.QualityFloor = rapid.Float64Range(0, 1).Draw(t, "floor")
		model := rapid.SampledFrom([]string{"claude-3-opus", "claude-3-sonnet", "claude-3-haiku", "gpt-4o-mini", "mystery"}).Draw(t, "model")
		r := Request{TenantID: "org_1", TraceID: "t", RequestedModel: model}
		s := Spent{Session: rapid.Float64Range(0, 1.2).Draw(t, "session"), Tenant: rapid.Float64Range(0, 1.2).Draw(t, "tenant")}
		got := tradeoff.Spare(direct(model), r, s)
		if got.Model != model {
			from, _ := tradeoff.Tier(model)
			to, _ := tradeoff.Tier(got.Model)
			require.Equal(t, from.Provider, to.Provider)
			require.Less(t, to.CostMult, from.CostMult)
			require.GreaterOrEqual(t, to.QualityFloor, tradeoff.Default.QualityFloor)
		}
		more := s
		more.Session += rapid.Float64Range(0, 1).Draw(t, "more")
		if got.Stop {
			require.True(t, tradeoff.Spare(direct(model), r, more).Stop)
		}
	})
}
