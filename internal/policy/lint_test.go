package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
)

func TestShippedPoliciesHaveNoWarnings(t *testing.T) {
	set := shipped(t)
	began := time.Now()
	for _, w := range set.Lint([]string{"on-call", "compliance", "owner"}) {
		t.Error(w.Kind, w.Error())
	}
	t.Log(time.Since(began))
}

// warnings are those of a set but for what is not tested.
func warnings(t *testing.T, files map[string]string, groups ...string) (list []Warning) {
	t.Helper()
	set, err := Compile(dir(files))
	require.NoError(t, err)
	for _, w := range set.Lint(groups) {
		if w.Kind != Untested {
			list = append(list, w)
		}
	}
	return list
}

// A rule is warned of when it holds of facts that Candidate leaves out, with facts that show it.
func TestLintRulesThatAreNotAsked(t *testing.T) {
	for condition, never := range map[string]bool{
		"cost_known && cost_ratio < 0.5":                      true, // calls became cheaper
		"cost_known && cost_usd > 0.10":                       false,
		"cost_known && cost_ratio > 1.1":                      false,
		"cost_known && cost_ratio > 1.1 && cost_ratio < 1.14": false, // where a sibling stands out
		"cost_known && cost_ratio > 1.1 && cost_sigmas > 4.0 && quality_known && quality_ratio < 0.96 && quality_sigmas > 1.5": false,
		"cache_known && cache_hit_rate < 0.5 && cache_hit_baseline - cache_hit_rate > 0.2":                                     false,
		"outcome_known && outcome_rate < 0.9 * outcome_baseline":                                                               false,
		"calls_known && silent_minutes >= 5":                                                                                   false,
		`tenant == "org_42" && velocity_known && velocity_ratio > 1.6`:                                                         false,
		"spend_known && spend_per_minute_usd > 25.0":                                                                           false,
	} {
		found := warnings(t, map[string]string{"alert.yaml": alertWith(condition)})
		require.Len(t, found, 1, condition)
		w := found[0]
		require.Equal(t, NotAsked, w.Kind, condition)
		require.Equal(t, []int{7, 9}, []int{w.Line, w.Col})
		_, example, ok := strings.Cut(w.Message, "of a key with ")
		require.True(t, ok)
		example, _, _ = strings.Cut(example, "} ")
		facts, err := ReadFacts("alert", "example", []byte(example+"}"))
		require.NoError(t, err)
		f := facts.(detect.Facts)
		require.False(t, detect.Candidate(f), "%s: %+v", condition, f)
		set, err := Compile(dir(map[string]string{"alert.yaml": alertWith(condition)}))
		require.NoError(t, err)
		v, err := set.Alert(f)
		require.NoError(t, err)
		require.Equal(t, detect.Page, v.Level, "%s: %+v", condition, f)
		if never {
			require.Contains(t, w.Message, `"page" never fires`, condition)
		}
	}
}

// Rules within what is asked about are not warned of.
func TestLintRulesThatAreAsked(t *testing.T) {
	for _, condition := range []string{
		"cost_known && cost_ratio > 1.15", "cost_ratio > 1.2", "quality_ratio < 0.9 && quality_known",
		"cost_sigmas > 8.0", // at the least noise that is more than 1.15
		"outcome_known && outcome_rate < 0.8 * outcome_baseline", `active == "PAGE" && quality_ratio < 1.5`,
		"completion_change > 1.4 || completion_change < 0.7", "silent_minutes >= 15", "quality_ratio < 0.9 && !cost_known",
		"cache_known && cache_hit_rate < 0.30 && cache_hit_baseline > 0.30",
	} {
		require.Empty(t, warnings(t, map[string]string{"alert.yaml": alertWith(condition)}), condition)
	}
}

func TestLintRulesThatNothingReaches(t *testing.T) {
	two := func(first, second string) map[string]string {
		return map[string]string{"alert.yaml": strings.Replace(alertWith(first), "    - output: |\n", "    - condition: "+second+"\n      output: |\n        Verdict{level: \"PAGE\", rule: \"second\", reason: \"x\"}\n    - output: |\n", 1)}
	}
	found := warnings(t, two("cost_ratio > 1.2", "cost_ratio > 1.5 && quality_ratio < 0.9"))
	require.Len(t, found, 1)
	require.Equal(t, Unreachable, found[0].Kind)
	require.Contains(t, found[0].Error(), `alert.yaml:10:18: no facts tried reach the rule "second": where it holds, "page" fires before it (alert.yaml:6)`)
	require.Contains(t, found[0].Error(), `mend: put it above "page", or drop it`)

	found = warnings(t, two("cost_ratio > 1.5", "cost_ratio > 1.2 && cost_ratio < 1.1"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Error(), `no facts tried make the condition of the rule "second" hold`)

	require.Empty(t, warnings(t, two("cost_ratio > 1.5 && quality_ratio < 0.85", "cost_ratio > 1.5")))
	require.Empty(t, warnings(t, two("cost_ratio > 1.5", "cost_ratio > 1.5 || quality_ratio < 0.8137")))
}

func TestLintNamesThatNothingKnows(t *testing.T) {
	const act = `name: act
imports:
  - name: policy.Proposal
rule:
  match:
    - condition: model == "gpt-4o-mini-2024-07-18" && tenant_class in ["gold", "batch"] && alert_rule == "page-severe-qualty"
      output: |
        Proposal{action: "downgrade", target: "gpt-4", mode: "ask", approvers: ["oncall"], expiry: duration("1h"), rule: "r", reason: "y"}
    - condition: model == "claude-3-opuss" || target_model == "claude-3-haiku"
      output: |
        Proposal{action: "none", mode: "never", approvers: risk_class == "regulated" ? ["legal"] : ["on-call"], rule: "s", reason: "y"}
    - output: |
        Proposal{action: "none", mode: "never", rule: "t", reason: "y"}
`
	var texts []string
	for _, w := range warnings(t, map[string]string{"act.yaml": act}, "on-call") {
		texts = append(texts, string(w.Kind)+" "+w.Error())
	}
	all := strings.Join(texts, "\n")
	require.Contains(t, all, `unknown-value act.yaml:6:72: tenant_class is never "gold"`)
	require.Contains(t, all, `mend: it is one of high-value, standard, batch`)
	require.Contains(t, all, `alert_rule is never "page-severe-qualty"`)
	require.Contains(t, all, `mend: did you mean page-severe-quality?`)
	require.Contains(t, all, `unknown-model act.yaml:6:7: the model "gpt-4" has no tier`)
	require.Contains(t, all, `unknown-model act.yaml:9:27: the model "claude-3-opuss" has no tier`)
	require.Contains(t, all, "did you mean claude-3-opus?")
	require.Contains(t, all, `unknown-group act.yaml:6:7: the rule "r" asks the group "oncall", which is not configured`)
	require.Contains(t, all, `asks the group "legal"`)
	require.NotContains(t, all, `group "regulated"`)
	require.Contains(t, all, `no facts tried make the condition of the rule "r" hold`)
	require.Len(t, texts, 7, all)
}
