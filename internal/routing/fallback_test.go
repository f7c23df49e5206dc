package routing

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

const cent usage.PicoUSD = 10_000_000_000

// ruled is the table with a rule for single calls.
func ruled(holdback float64) *Tradeoff {
	t := table
	t.Fallback = Fallbacks{Holdback: holdback, Tasks: []TaskFallback{
		{Task: AnyTask, Ceiling: 5 * cent, QualityThreshold: 0.7},
		{Task: "legal", Ceiling: 50 * cent, QualityThreshold: 0.9},
	}}.Named(t.Tiers)
	return &t
}

// costs estimates by the tiers' relative cost: a call of claude-3-sonnet costs 10 cents.
func costs(model string) (usage.PicoUSD, bool) {
	tier, ok := table.Tier(model)
	return usage.PicoUSD(tier.CostMult * float64(10*cent)), ok
}

func predicts(score float64) func() (float64, string, bool) {
	return func() (float64, string, bool) { return score, "v3", true }
}

func callOf(tenant, session, model, task string, score float64) Call {
	return Call{
		Request:  Request{TenantID: tenant, SessionID: session, TraceID: "t-" + session, RequestedModel: model, Task: task},
		Estimate: costs, Quality: predicts(score), Trusted: true,
	}
}

func direct(model string) Answer {
	return Answer{Model: model, Route: Direct, Reason: "no flag is on for this key", Arm: usage.None}
}

func TestFallBack(t *testing.T) {
	unpriced := func(string) (usage.PicoUSD, bool) { return 0, false }
	tests := map[string]struct {
		model, task string
		score       float64
		change      func(c *Call, a *Answer)
		want        string // the model that serves
		fired       bool
	}{
		"dear and bad":                       {"claude-3-opus", "", 0.5, nil, "claude-3-haiku", true},
		"a dated snapshot":                   {"claude-3-opus-20240229", "", 0.5, nil, "claude-3-haiku", true},
		"good enough":                        {"claude-3-opus", "", 0.7, nil, "claude-3-opus", false},
		"at the ceiling":                     {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) { c.Estimate = func(string) (usage.PicoUSD, bool) { return 5 * cent, true } }, "claude-3-opus", false},
		"a task of its own, under its limit": {"claude-3-opus", "legal", 0.5, nil, "claude-3-opus", false},
		"the cheapest already":               {"claude-3-haiku", "", 0.5, func(c *Call, _ *Answer) { c.Estimate = func(string) (usage.PicoUSD, bool) { return 9 * cent, true } }, "claude-3-haiku", false},
		"no cheaper model meets the floor":   {"claude-3-sonnet", "", 0.5, func(c *Call, _ *Answer) { c.Request.TenantID = "strict" }, "claude-3-sonnet", false},
		"no prediction":                      {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) { c.Quality = func() (float64, string, bool) { return 0, "", false } }, "claude-3-opus", false},
		"a prediction that is no number":     {"claude-3-opus", "", math.NaN(), nil, "claude-3-opus", false},
		"no price":                           {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) { c.Estimate = unpriced }, "claude-3-opus", false},
		"no price of the cheaper one": {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) {
			c.Estimate = func(m string) (usage.PicoUSD, bool) { return 30 * cent, m == "claude-3-opus" }
		}, "claude-3-opus", false},
		"a cheaper one that is not, for this call": {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) {
			c.Estimate = func(string) (usage.PicoUSD, bool) { return 30 * cent, true }
		}, "claude-3-opus", false},
		"not trusted":             {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) { c.Trusted = false }, "claude-3-opus", true},
		"regulated":               {"claude-3-opus", "", 0.5, func(c *Call, _ *Answer) { c.Request.TenantID = "strict" }, "claude-3-opus", true},
		"a flag's holdback":       {"claude-3-opus", "", 0.5, func(_ *Call, a *Answer) { a.Arm, a.DecisionID = usage.Holdback, "d1" }, "claude-3-opus", false},
		"moved by a flag":         {"claude-3-opus", "", 0.5, func(_ *Call, a *Answer) { a.Model, a.Route, a.Arm = "claude-3-sonnet", "route", usage.Treated }, "claude-3-sonnet", false},
		"refused by a flag":       {"claude-3-opus", "", 0.5, func(_ *Call, a *Answer) { a.Route, a.Arm, a.Stop = "stop", usage.Treated, true }, "claude-3-opus", false},
		"a model without a tier":  {"mystery", "", 0.5, func(c *Call, _ *Answer) { c.Estimate = func(string) (usage.PicoUSD, bool) { return 9 * cent, true } }, "mystery", false},
		"another provider's call": {"gpt-4o-mini", "", 0.5, func(c *Call, _ *Answer) { c.Estimate = func(string) (usage.PicoUSD, bool) { return 9 * cent, true } }, "gpt-4o-mini", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, a := callOf("org_1", "s1", test.model, test.task, test.score), direct(test.model)
			if test.change != nil {
				test.change(&c, &a)
			}
			got, fired := ruled(0).FallBack(a, c)
			require.Equal(t, test.want, got.Model)
			require.Equal(t, test.fired, fired != nil)
			if got.Model == a.Model {
				require.Equal(t, a, got, "an answer that stands is not touched")
			}
		})
	}
	t.Run("no rule", func(t *testing.T) {
		c := callOf("org_1", "s1", "claude-3-opus", "", 0.1)
		_, fired := table.FallBack(direct("claude-3-opus"), c)
		require.Nil(t, fired)
	})
}

func TestFallBackSaysWhy(t *testing.T) {
	tradeoff := ruled(0)
	c := callOf("org_1", "s1", "claude-3-opus", "rag", 0.551)
	got, fired := tradeoff.FallBack(direct("claude-3-opus"), c)
	require.Equal(t, Answer{
		Model: "claude-3-haiku", Route: Fallback, Arm: usage.Treated, Share: 1, DecisionID: tradeoff.Fallback.Rule,
		Reason: "an estimated $0.3 is over the ceiling of $0.05 for a call of the task rag, and the quality predicted with claude-3-opus, 0.55, is under 0.70: " +
			"claude-3-haiku for about $0.025 is the cheapest model that meets the quality floor of 0.80",
	}, got)
	require.Equal(t, 30*cent-25*cent/10, fired.Saves())
	require.Equal(t, "v3", fired.Predictor)
}

// Only a call over its ceiling that a cheaper model may serve pays for a prediction.
func TestQualityIsAskedLast(*testing.T) {
	c := callOf("org_1", "s1", "claude-3-opus", "legal", 0.1)
	c.Quality = func() (float64, string, bool) { panic("asked") }
	ruled(0).FallBack(direct("claude-3-opus"), c)
	t := ruled(0)
	t.Fallback.Tasks = []TaskFallback{{Task: AnyTask, Ceiling: 0, QualityThreshold: 0.9}}
	c.Request.RequestedModel = "claude-3-haiku"
	t.FallBack(direct("claude-3-haiku"), c)
}

func TestARuleIsNamedByWhatItSays(t *testing.T) {
	one := ruled(0.1).Fallback
	require.Equal(t, one.Rule, ruled(0.5).Fallback.Rule, "the holdback is not what people approve")
	other := one
	other.Tasks = append([]TaskFallback{{"chat", cent, 0.5}}, one.Tasks...)
	require.NotEqual(t, one.Rule, other.Named(table.Tiers).Rule)
	require.NotEqual(t, one.Rule, one.Named(table.Tiers[1:]).Rule)
}

// Whatever the call: a fallback is to a cheaper model of the same provider at or above the tenant's floor; a session
// has one arm; a larger holdback only takes sessions out; and asking twice is asking once.
func TestFallBackKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tradeoff := ruled(rapid.Float64Range(0, 1).Draw(t, "holdback"))
		tradeoff.Tenants = append(tradeoff.Tenants[:1:1], Tenant{"org_2", Standard, Ordinary, rapid.Float64Range(0, 1).Draw(t, "floor")})
		c := callOf(rapid.SampledFrom([]string{"org_1", "org_2", "strict"}).Draw(t, "tenant"), rapid.StringN(1, 8, -1).Draw(t, "session"),
			rapid.SampledFrom([]string{"claude-3-opus", "claude-3-sonnet", "claude-3-haiku", "gpt-4o-mini", "mystery"}).Draw(t, "model"),
			rapid.SampledFrom([]string{"", "rag", "legal"}).Draw(t, "task"), rapid.Float64Range(0, 1).Draw(t, "score"))
		model := c.Request.RequestedModel
		got, fired := tradeoff.FallBack(direct(model), c)
		again, _ := tradeoff.FallBack(direct(model), c)
		require.Equal(t, got, again)
		if got.Route == Fallback {
			from, _ := tradeoff.Tier(model)
			to, ok := tradeoff.Tier(got.Model)
			require.True(t, ok)
			require.Equal(t, from.Provider, to.Provider)
			require.Less(t, to.CostMult, from.CostMult)
			require.GreaterOrEqual(t, to.QualityFloor, tradeoff.Tenant(c.Request.TenantID).QualityFloor)
			require.NotNil(t, fired)
			require.Positive(t, fired.Saves())
			less := *tradeoff
			less.Fallback.Holdback *= rapid.Float64Range(0, 1).Draw(t, "less")
			raised, _ := less.FallBack(direct(model), c)
			require.Equal(t, Fallback, raised.Route, "with a smaller holdback it is treated still")
		}
		next := c
		next.Request.TraceID = "another"
		sticky, _ := tradeoff.FallBack(direct(model), next)
		require.Equal(t, got.Arm, sticky.Arm, "of one session")
	})
}

func TestTheHoldbackIsAsLargeAsItSays(t *testing.T) {
	tradeoff, held := ruled(0.1), 0
	for i := range 10_000 {
		a, _ := tradeoff.FallBack(direct("claude-3-opus"), callOf("org_1", fmt.Sprint("s", i), "claude-3-opus", "", 0.1))
		if a.Arm == usage.Holdback {
			require.Equal(t, "claude-3-opus", a.Model)
			require.Equal(t, Direct, a.Route)
			held++
		}
	}
	require.InDelta(t, 1000, held, 150) // five deviations
}

// A flag goes first, whole: its treated calls and its holdback are the same with the rule and without.
func TestFlagsGoBeforeTheFallback(t *testing.T) {
	now := time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		c := callOf("org_1", rapid.StringN(1, 8, -1).Draw(t, "session"), "claude-3-opus", "", 0.1)
		flag := Flag{
			Key: c.Request.Key(), Kind: rapid.SampledFrom([]Kind{Route, Pin, Stop, Shape}).Draw(t, "kind"), Value: "claude-3-sonnet",
			Share: rapid.Float64Range(0, 1).Draw(t, "share"), Decision: "d1", RenewedAt: now,
		}
		answer := Decide(NewSnapshot([]Flag{flag}, Revision{}), c.Request, now)
		got, fired := ruled(0).FallBack(answer, c)
		require.Equal(t, answer, got)
		require.Nil(t, fired)
	})
}
