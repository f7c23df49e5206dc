package alert_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/usage"
)

// stormStart is when the first tick of a test is.
var stormStart = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)

// fleet is every tenant's key for every model of a provider; the keys for which fails says so have a finding.
func fleet(provider string, tenants int, models []string, fails func(tenant int, model string) bool) (all []alert.Observed) {
	for tenant := range tenants {
		for _, model := range models {
			key := usage.Key{Tenant: fmt.Sprintf("t%02d", tenant), Model: model}
			all = append(all, alert.Observed{Key: key, Provider: provider, Found: fails(tenant, model)})
		}
	}
	return all
}

func always(int, string) bool { return true }
func never(int, string) bool  { return false }

// members counts the keys of each cause.
func members(s alert.Storms) map[string]int {
	counts := map[string]int{}
	for cause := range s.Open {
		counts[cause] = 0
	}
	for _, cause := range s.Of {
		counts[cause]++
	}
	return counts
}

func TestStormsNameTheCause(t *testing.T) {
	openai, anthropic := []string{"gpt-4o", "gpt-4o-mini"}, []string{"opus", "haiku"}
	calm := fleet("anthropic", 20, anthropic, never)
	many := make([]string, 12)
	for i := range many {
		many[i] = fmt.Sprintf("m%02d", i)
	}
	for name, c := range map[string]struct {
		observed []alert.Observed
		want     map[string]int
	}{
		"nothing fails": {calm, map[string]int{}},
		"a provider": {
			slices.Concat(calm, fleet("openai", 10, openai, always)), map[string]int{"provider:openai": 20},
		},
		"nine keys are no storm": {
			fleet("openai", 9, openai[:1], always), map[string]int{},
		},
		"ten are": {
			fleet("openai", 10, openai[:1], always), map[string]int{"model:gpt-4o": 10},
		},
		"half of a provider, both models alike": {
			fleet("openai", 20, openai, func(n int, _ string) bool { return n%2 == 0 }), map[string]int{"provider:openai": 20},
		},
		"less than half of it": {
			fleet("openai", 30, openai, func(n int, _ string) bool { return n < 12 }), map[string]int{},
		},
		"one model of a provider, though it has most of its keys": {
			slices.Concat(fleet("openai", 30, openai[:1], always), fleet("openai", 5, openai[1:], never)), map[string]int{"model:gpt-4o": 30},
		},
		"one key of another model is no evidence against the provider": {
			slices.Concat(fleet("openai", 30, openai[:1], always), fleet("openai", 1, openai[1:], always)), map[string]int{"model:gpt-4o": 30},
		},
		"one tenant with many models": {
			slices.Concat(calm, fleet("openai", 1, many, always)), map[string]int{"tenant:t00": 12},
		},
		"one tenant with many models, though others use the provider": {
			fleet("openai", 6, many[:10], func(n int, _ string) bool { return n == 0 }), map[string]int{"tenant:t00": 10},
		},
		"two providers": {
			slices.Concat(fleet("openai", 10, openai, always), fleet("anthropic", 10, anthropic, always)),
			map[string]int{"provider:openai": 20, "provider:anthropic": 20},
		},
		"a model of unknown provider": {
			fleet("", 10, []string{"llama"}, always), map[string]int{"model:llama": 10},
		},
		"pseudo-keys": {fleet("openai", 30, []string{usage.AnyModel}, always), map[string]int{}},
		"experiments": {fleet("openai", 30, []string{usage.Key{Model: "gpt-4o"}.OfExperiment("x").Model}, always), map[string]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, members(alert.Storms{}.Step(c.observed, alert.DefaultGrouping, stormStart)))
		})
	}
}

// A storm that has been named keeps its name and its time while it fades, and its last keys have another
// cause only when they have outlived it.
func TestStormsLinger(t *testing.T) {
	t.Parallel()
	models := []string{"gpt-4o", "gpt-4o-mini"}
	failing := func(n int) []alert.Observed {
		return fleet("openai", 20, models, func(tenant int, _ string) bool { return tenant < n })
	}
	const cause = "provider:openai"
	s := alert.Storms{}.Step(failing(20), alert.DefaultGrouping, stormStart)
	at := stormStart.Add(time.Minute)
	s = s.Step(failing(10), alert.DefaultGrouping, at)
	require.Equal(t, alert.Storm{Opened: stormStart}, s.Open[cause])
	s = s.Step(failing(2), alert.DefaultGrouping, at) // four of forty keys
	require.Equal(t, alert.Storm{Opened: stormStart, Low: at}, s.Open[cause])
	require.Len(t, s.Of, 4)
	s = s.Step(failing(2), alert.DefaultGrouping, at.Add(14*time.Minute))
	require.Len(t, s.Of, 4)
	rose := s.Step(failing(8), alert.DefaultGrouping, at.Add(14*time.Minute))
	require.Equal(t, alert.Storm{Opened: stormStart}, rose.Open[cause], "it came back: the wait starts again")
	s = s.Step(failing(2), alert.DefaultGrouping, at.Add(15*time.Minute))
	require.True(t, s.Calm())
	require.Empty(t, s.Of)
}

// A key stays where it is when another cause shows too; what nothing explained so far is free to have it.
func TestStormsKeepTheirKeys(t *testing.T) {
	t.Parallel()
	models := []string{"gpt-4o", "gpt-4o-mini", "o3"}
	s := alert.Storms{}.Step(fleet("openai", 12, models, func(_ int, m string) bool { return m == "gpt-4o" }), alert.DefaultGrouping, stormStart)
	require.Equal(t, map[string]int{"model:gpt-4o": 12}, members(s))
	s = s.Step(fleet("openai", 12, models, always), alert.DefaultGrouping, stormStart.Add(time.Minute))
	require.Equal(t, map[string]int{"model:gpt-4o": 12, "provider:openai": 24}, members(s))
	s = s.Step(fleet("openai", 13, models, always), alert.DefaultGrouping, stormStart.Add(2*time.Minute))
	require.Equal(t, map[string]int{"model:gpt-4o": 13, "provider:openai": 26}, members(s), "the most specific that fits")
}

// draw makes the keys of a tick.
func draw(t *rapid.T) []alert.Observed {
	providers := map[string]string{"a": "p", "b": "p", "c": "q", "d": "", "*": "p", "a#x": "p"}
	var all []alert.Observed
	for tenant := range rapid.IntRange(0, 14).Draw(t, "tenants") {
		for model, provider := range providers {
			if rapid.Bool().Draw(t, "used") {
				all = append(all, alert.Observed{
					Key: usage.Key{Tenant: fmt.Sprint(tenant), Model: model}, Provider: provider, Found: rapid.IntRange(0, 3).Draw(t, "found") > 0,
				})
			}
		}
	}
	return all
}

func TestStormsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var s alert.Storms
		now := stormStart
		for range rapid.IntRange(1, 6).Draw(t, "ticks") {
			observed := draw(t)
			next := s.Step(observed, alert.DefaultGrouping, now)

			shuffled := slices.Clone(observed)
			rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			require.Equal(t, next, s.Step(shuffled, alert.DefaultGrouping, now), "the order of keys means nothing")
			require.Equal(t, next, next.Step(observed, alert.DefaultGrouping, now), "the same tick again changes nothing")

			found := map[usage.Key]bool{}
			for _, o := range observed {
				found[o.Key] = o.Found
			}
			for key, cause := range next.Of {
				require.Contains(t, next.Open, cause)
				require.True(t, found[key], "only what fails is in a storm")
				require.False(t, key.Pseudo())
				if before, was := s.Of[key]; was && next.Open[before] != (alert.Storm{}) {
					require.Equal(t, before, cause, "a key does not change its storm while that lasts")
				}
			}
			for cause, storm := range s.Open {
				if after, lasts := next.Open[cause]; lasts && after.Opened.Before(now) {
					require.Equal(t, storm.Opened, after.Opened, "a storm keeps its time")
				}
			}
			s = next
			now = now.Add(time.Duration(rapid.IntRange(1, 10).Draw(t, "minutes")) * time.Minute)
		}
	})
}
