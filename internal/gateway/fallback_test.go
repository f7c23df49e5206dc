package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// tradeoff sends what is over five cents and under 0.7 from big to small.
func tradeoff() routing.Tradeoff {
	t := routing.Tradeoff{
		Tiers: []routing.Tier{
			{Provider: "test", Model: "big", CostMult: 10, QualityFloor: 0.95}, {Provider: "test", Model: "small", CostMult: 1, QualityFloor: 0.8},
		},
		Default:     routing.Tenant{Class: routing.Standard, Risk: routing.Ordinary, QualityFloor: 0.8},
		OnExhausted: routing.KeepFloor,
	}
	t.Fallback = routing.Fallbacks{Holdback: 0.1, Tasks: []routing.TaskFallback{{Task: "*", Ceiling: 50_000_000_000, QualityThreshold: 0.7}}}.Named(t.Tiers)
	return t
}

// trusts is a store of trust that may be away.
type trusts struct {
	rules atomic.Pointer[map[string]string] // nil: away
}

func (s *trusts) Trust(context.Context) (map[string]string, error) {
	if rules := s.rules.Load(); rules != nil {
		return *rules, nil
	}
	return nil, errors.New("connection refused")
}

func fallbacks(store gateway.Trusts) gateway.FallbackOptions {
	return gateway.FallbackOptions{
		Tradeoff: tradeoff, Trusts: store, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Quality: func(_, _, _, text string) (float64, string, bool) { return 0.5, "v1", text != "" },
	}
}

// dear is a call that the rule fires on.
func dear(session string) gateway.Call {
	return gateway.Call{
		Request: routing.Request{TenantID: "org_42", SessionID: session, TraceID: "t", RequestedModel: "big", Task: "rag"},
		Text:    "why?",
		Estimate: func(model string) (usage.PicoUSD, bool) {
			return map[string]usage.PicoUSD{"big": 300_000_000_000, "small": 30_000_000_000}[model], true
		},
		Tags: map[string]string{"team": "search", "fallback.rule": "forged"},
	}
}

func direct() routing.Answer {
	return routing.Answer{Model: "big", Route: routing.Direct, Arm: usage.None}
}

// Untrusted, the rule only marks; trusted, it acts but on its holdback; with trust withdrawn it only marks again.
func TestTheFallbackActsOnceItIsTrusted(t *testing.T) {
	mini := miniredis.RunT(t)
	client := open(t, mini)
	f := gateway.NewFallbacks(fallbacks(client))
	go func() { _ = f.Run(t.Context()) }()
	rule := tradeoff().Fallback.Rule

	answer, tags := f.Apply(direct(), dear("s1"))
	require.Equal(t, direct(), answer)
	require.Equal(t, map[string]string{
		"team": "search", routing.TagRule: rule, routing.TagInstead: "small", routing.TagEstimate: "300000000000", routing.TagCheaper: "30000000000",
		routing.TagCeiling: "50000000000", routing.TagQuality: "0.5000", routing.TagThreshold: "0.7000", routing.TagPredictor: "v1",
	}, tags)

	arms := func() (arms []usage.Arm) {
		for i := range 100 {
			answer, tags := f.Apply(direct(), dear(fmt.Sprint("s", i)))
			require.Equal(t, rule, tags[routing.TagRule])
			if answer.Arm != usage.None {
				require.Equal(t, rule, answer.DecisionID)
			}
			require.Equal(t, answer.Arm == usage.Treated, answer.Model == "small")
			arms = append(arms, answer.Arm)
		}
		slices.Sort(arms)
		return slices.Compact(arms)
	}
	require.NoError(t, client.PublishTrust(t.Context(), map[string]string{"org_42": rule}))
	eventually(t, "the trusted rule acts", func() bool { return slices.Equal(arms(), []usage.Arm{usage.Holdback, usage.Treated}) })
	require.NoError(t, client.PublishTrust(t.Context(), map[string]string{"org_42": "fallback/another"}))
	eventually(t, "trust is in one rule, not in any", func() bool { return slices.Equal(arms(), []usage.Arm{usage.None}) })
	require.NoError(t, client.PublishTrust(t.Context(), map[string]string{"org_42": rule}))
	eventually(t, "trusted again", func() bool { return len(arms()) == 2 })
	mini.FlushAll()
	eventually(t, "a wiped Redis trusts nobody", func() bool { return slices.Equal(arms(), []usage.Arm{usage.None}) })
}

// A gateway that is cut off from the store does not act for ever on trust that may have been withdrawn.
func TestTrustGrowsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &trusts{}
		store.rules.Store(&map[string]string{"org_42": tradeoff().Fallback.Rule})
		f := gateway.NewFallbacks(fallbacks(store))
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		treated := func() bool {
			answer, _ := f.Apply(direct(), dear("s1"))
			return answer.Arm != usage.None
		}
		synctest.Wait()
		require.True(t, treated())
		store.rules.Store(nil)
		time.Sleep(routing.TTL - time.Minute)
		require.True(t, treated())
		time.Sleep(2 * time.Minute)
		require.False(t, treated())
		stop()
		require.NoError(t, <-ended)
	})
}

func TestApply(t *testing.T) {
	store := &trusts{}
	t.Run("without a prediction", func(t *testing.T) {
		c := dear("s1")
		c.Text = ""
		answer, tags := gateway.NewFallbacks(fallbacks(store)).Apply(direct(), c)
		require.Equal(t, direct(), answer)
		require.Equal(t, map[string]string{"team": "search"}, tags, "and what the caller forged is gone")
	})
	t.Run("without a predictor", func(t *testing.T) {
		o := fallbacks(store)
		o.Quality = nil
		answer, tags := gateway.NewFallbacks(o).Apply(direct(), dear("s1"))
		require.Equal(t, direct(), answer)
		require.Equal(t, map[string]string{"team": "search"}, tags)
	})
}

// BenchmarkFallback is what flags, budgets and the fallback rule cost a call, over 10,000 flags, when the rule fires on it
// and when it is under its ceiling; the prediction apart, which is the predictor's.
func BenchmarkFallback(b *testing.B) {
	var flags []routing.Flag
	for i := range 10_000 {
		f := route(0.5)
		f.Key.Tenant = fmt.Sprint("org_", i+100)
		flags = append(flags, f)
	}
	snapshot := routing.NewSnapshot(flags, routing.Revision{})
	store := &trusts{}
	store.rules.Store(&map[string]string{"org_42": tradeoff().Fallback.Rule})
	in := tradeoff()
	o := fallbacks(store)
	o.Tradeoff = func() routing.Tradeoff { return in }
	for name, cost := range map[string]usage.PicoUSD{"fires": 300_000_000_000, "under the ceiling": 3_000_000_000} {
		b.Run(name, func(b *testing.B) {
			f := gateway.NewFallbacks(o)
			ctx, stop := context.WithCancel(b.Context())
			ended := make(chan error, 1)
			go func() { ended <- f.Run(ctx) }()
			c := dear("s1")
			c.Estimate = func(model string) (usage.PicoUSD, bool) { return cost / usage.PicoUSD(len(model)), true }
			var took []time.Duration
			b.ReportAllocs()
			for b.Loop() {
				began := time.Now()
				a, tags := f.Apply(routing.Decide(snapshot, c.Request, began), c)
				took = append(took, time.Since(began))
				_, _ = fmt.Fprint(io.Discard, a.Stop, len(tags))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
			stop()
			require.NoError(b, <-ended)
		})
	}
}

// POST /v1/decide asks the rule too, and gives its caller the tags for the call's span.
func TestDecideAsksTheFallbackRule(t *testing.T) {
	store := &trusts{}
	store.rules.Store(&map[string]string{"org_42": tradeoff().Fallback.Rule})
	o := options(t, &fixed{})
	o.Fallbacks = gateway.NewFallbacks(fallbacks(store))
	go func() { _ = o.Fallbacks.Run(t.Context()) }()
	h := run(t, o)
	dear := strings.NewReplacer(`"input_tokens":1000`, `"text":"why?","input_tokens":100000`, `"session_id":"s"`, `"session_id":"s1"`).Replace(question) // s is in the holdback
	eventually(t, "a session falls back", func() bool {
		w := call(h, "POST", "/v1/decide", dear)
		require.Contains(t, w.Body.String(), `"fallback.estimate_pico_usd":"1003000000000"`)
		return strings.HasPrefix(w.Body.String(), `{"model":"small","route":"fallback"`) && strings.Contains(w.Body.String(), `"estimated_cost_usd":0.1003`)
	})
	cheap := call(h, "POST", "/v1/decide", question)
	require.NotContains(t, cheap.Body.String(), "fallback")
	require.NotContains(t, cheap.Body.String(), `"tags"`)
}
