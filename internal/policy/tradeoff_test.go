package policy

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/routing"
)

func TestFallbackSection(t *testing.T) {
	const tiers = "tiers:\n  - {provider: p, model: m, cost_mult: 1, quality_floor: 0.9}\non_exhausted: floor\ndefault: {class: standard, risk: ordinary, quality_floor: 0.8}\n"
	const good = tiers + `fallback:
  holdback: 0.1
  tasks:
    - {task: "*", ceiling_usd: "0.05", quality_threshold: 0.7}
    - {task: legal, ceiling_usd: 1e-3, quality_threshold: 0.9}
`
	set, err := Compile(dir(map[string]string{"tradeoff.yaml": good}))
	require.NoError(t, err)
	rule := set.Tradeoff().Fallback
	require.Equal(t, routing.Fallbacks{Rule: rule.Rule, Holdback: 0.1, Tasks: []routing.TaskFallback{
		{Task: "*", Ceiling: 50_000_000_000, QualityThreshold: 0.7}, {Task: "legal", Ceiling: 1_000_000_000, QualityThreshold: 0.9},
	}}, rule)
	require.NotEmpty(t, rule.Rule)

	set, err = Compile(dir(map[string]string{"tradeoff.yaml": tiers}))
	require.NoError(t, err)
	require.Zero(t, set.Tradeoff().Fallback, "without the section nothing falls back")

	for name, test := range map[string]struct{ from, to, want string }{
		"unknown key":          {"ceiling_usd: 1e-3", "ceiling_used: 1e-3", "did you mean ceiling_usd?"},
		"no holdback":          {"  holdback: 0.1\n", "", "the fallback has no holdback"},
		"nothing held back":    {"holdback: 0.1", "holdback: 0", "6:13: without a holdback nothing shows whether falling back helps"},
		"no tasks":             {good[strings.Index(good, "  tasks"):], "  tasks: []\n", "tasks must be a list of at least one"},
		"a task twice":         {"task: legal", `task: "*"`, "9:7: the task * is listed twice"},
		"a free ceiling":       {"1e-3", "0", `ceiling_usd must be an amount of US dollars, not "0"`},
		"a negative ceiling":   {"1e-3", "-1", "ceiling_usd must be an amount"},
		"no amount":            {"1e-3", "cheap", "ceiling_usd must be an amount"},
		"below a pico-dollar":  {"1e-3", "1e-13", "ceiling_usd must be an amount"},
		"a threshold beyond 1": {"quality_threshold: 0.9", "quality_threshold: 90", "quality_threshold must be a number from 0 to 1"},
		"not a mapping":        {good[strings.Index(good, "fallback"):], "fallback: on\n", "the fallback must be a mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(dir(map[string]string{"tradeoff.yaml": strings.Replace(good, test.from, test.to, 1)}))
			require.ErrorContains(t, err, test.want)
		})
	}
}
