package policy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/docs"
	"github.com/flyball-dev/flyball/internal/detect"
)

// Whatever the facts are, an explanation comes to the policy's own answer: of the rules in order those before the one
// that fired did not hold, and those after it were not reached.
func TestExplanationAgreesWithThePolicy(t *testing.T) {
	set := shipped(t)
	domains := set.domains()
	for _, p := range []*program{set.alert, set.act, set.sampling} {
		b := newProbe(p, domains[p.kind.file], nil)
		rapid.Check(t, func(t *rapid.T) {
			facts := p.kind.neutralFacts()
			for i, pool := range b.pools {
				if rapid.Bool().Draw(t, "set") {
					facts.Field(i).Set(rapid.SampledFrom(pool).Draw(t, p.kind.facts.Field(i).Name))
				}
			}
			fired, out, err := p.run(facts)
			trace := set.Explain(facts.Interface())
			if err != nil {
				require.Equal(t, err.Error(), trace.Error)
				require.Empty(t, trace.Fired)
				return
			}
			require.Equal(t, fired.id, trace.Fired)
			require.Equal(t, out.Interface(), trace.Output)
			require.Len(t, trace.Rules, len(p.matches), "the shipped rules are not nested")
			want := DidNotHold
			for _, r := range trace.Rules {
				if r.Rule == fired.id {
					require.Equal(t, Fired, r.Outcome)
					want = NotReached
					continue
				}
				require.Equal(t, want, r.Outcome, r.Rule)
				if r.Why != nil {
					require.Equal(t, "false", r.Why.Value)
					require.NotZero(t, r.Why.missing(true))
				}
			}
			_, err = json.Marshal(trace)
			require.NoError(t, err)
		})
	}
}

func TestExplainNestedRules(t *testing.T) {
	set, err := Load(dir(map[string]string{"alert.yaml": `name: alert
imports:
  - name: detect.Verdict
rule:
  match:
    - condition: cost_known
      rule:
        match:
          - condition: cost_ratio > 2.0
            output: |
              Verdict{level: "PAGE", rule: "inner", reason: "x"}
          - output: |
              Verdict{level: "NONE", rule: "rest", reason: "x"}
    - rule:
        match:
          - condition: quality_known
            output: |
              Verdict{level: "PAGE", rule: "other", reason: "x"}
    - output: |
        Verdict{level: "NONE", rule: "none", reason: "x"}
`}))
	require.NoError(t, err)
	outcomes := func(f detect.Facts) (list []string) {
		trace := set.Explain(f)
		for _, r := range trace.Rules {
			list = append(list, fmt.Sprintf("%d %s %s", r.Depth, r.Rule, r.Outcome))
		}
		v, err := set.Alert(f)
		require.NoError(t, err)
		require.Equal(t, v.Level, trace.Output.(detect.Verdict).Level)
		return list
	}
	require.Equal(t, []string{"0  held", "1 inner did not hold", "1 rest fired", "0  not reached", "1 other not reached", "0 none not reached"},
		outcomes(detect.Facts{CostKnown: true}))
	require.Equal(t, []string{"0  did not hold", "1 inner not reached", "1 rest not reached", "0  held", "1 other did not hold", "0 none fired"},
		outcomes(detect.Facts{}))
}

// Every part is shown with its values and its place, those too that a short evaluation would have left out, and
// tells how far its numbers are from holding.
// What holds whatever a policy says is a part of the answer, and so of its explanation.
func TestExplainAsksRegulatedTenants(t *testing.T) {
	t.Parallel()
	set, err := Load(dir(map[string]string{"act.yaml": `name: act
imports: [{name: policy.Proposal}]
rule:
  match:
    - output: 'Proposal{action: "downgrade", target: "x", mode: "auto", expiry: duration("1h"), rule: "always", reason: "because"}'
`}))
	require.NoError(t, err)
	for risk, mode := range map[string]Mode{"regulated": Ask, "ordinary": Auto} {
		facts := ActFacts{Tenant: "t", RiskClass: risk, Model: "m", Level: "PAGE"}
		said, err := set.Act(facts)
		require.NoError(t, err)
		require.Equal(t, mode, said.Mode)
		require.Equal(t, said, set.Explain(facts).Output)
	}
}

func TestParts(t *testing.T) {
	part := func(condition string, f detect.Facts) Part {
		set, err := Load(dir(map[string]string{"alert.yaml": strings.Replace(alertWith(condition), "  match:",
			"  variables:\n    - name: breach\n      expression: \"1.5\"\n    - name: worse\n      expression: quality_known && quality_ratio < 0.85\n  match:", 1)}))
		require.NoError(t, err)
		return *set.Explain(f).Rules[0].Why
	}
	near := detect.Facts{CostKnown: true, CostRatio: 1.2, QualityKnown: true, QualityRatio: 0.9, Tenant: "a"}
	p := part("cost_known && cost_ratio > variables.breach && variables.worse", near)
	require.Equal(t, "and", p.Op)
	require.Len(t, p.Parts, 3)
	require.Equal(t, "cost_ratio (1.2) > variables.breach (1.5)", p.Parts[1].Text)
	require.Equal(t, []int{12, 34}, []int{p.Parts[1].Line, p.Parts[1].Col})
	require.InDelta(t, 0.3, p.Parts[1].Short, 1e-12)
	require.Equal(t, "variables.worse", p.Parts[2].Text)
	require.Equal(t, "quality_ratio (0.9) < 0.85", p.Parts[2].Parts[1].Text)
	require.InDelta(t, 0.2, p.distance(true), 1e-12, "the farther of the two")
	require.Zero(t, p.distance(false))
	require.True(t, p.Numeric())
	require.False(t, part(`cost_ratio > 1.5 && tenant == "b"`, near).Numeric())
	require.InDelta(t, 0.2, part(`cost_ratio > 1.5 || tenant == "b"`, near).distance(true), 1e-12, "the nearer of the two")
	require.InDelta(t, 0.5/1.2, part("!(cost_ratio > 0.7)", near).distance(true), 1e-12)
	require.Equal(t, "cost_ratio (1.50001) > variables.breach (1.5)", part("cost_ratio > variables.breach", detect.Facts{CostRatio: 1.50001}).Text, "different numbers look different")
	require.Equal(t, `tenant ("a") in ["a", "b"]`, part(`tenant in ["a", "b"]`, near).Text)
	failed := part("10 / cost_samples > 1 && cost_ratio > 2.0", near)
	require.Equal(t, "10 / cost_samples (error: division by zero) > 1", failed.Parts[0].Text)
	require.Equal(t, "error: division by zero", failed.Parts[0].Value)
}

func TestExplainFailures(t *testing.T) {
	set, err := Load(dir(map[string]string{"alert.yaml": alertWith("10 / cost_samples > 1")}))
	require.NoError(t, err)
	trace := set.Explain(detect.Facts{})
	require.Contains(t, trace.Error, "alert.yaml:7:12: division by zero")
	require.Equal(t, []Outcome{Failed, NotReached}, []Outcome{trace.Rules[0].Outcome, trace.Rules[1].Outcome})
	require.Nil(t, trace.Output)

	trace = set.Explain(detect.Facts{Tenant: strings.Repeat("x", maxText+1)})
	require.Contains(t, trace.Error, "the fact tenant has 1025 bytes")
	require.Equal(t, NotReached, trace.Rules[0].Outcome)
}

// The reference says something of every fact, and of no other.
func TestFactsAreDocumented(t *testing.T) {
	for _, k := range kinds {
		reference := docs.Facts(k.file)
		if k.file != samplingKind.file { // whose facts are a sentence
			for _, name := range tags(k.facts, "cel") {
				require.Contains(t, reference, name, k.file)
			}
		}
		for name := range reference {
			require.Contains(t, tags(k.facts, "cel"), name, k.file)
		}
	}
}

func TestReadFacts(t *testing.T) {
	facts, err := ReadFacts("act", "f", []byte(`{"cost_known": true, "cost_ratio": 2, "step": 10, "model": "m"}`))
	require.NoError(t, err)
	require.Equal(t, ActFacts{CostKnown: true, CostRatio: 2, QualityRatio: 1, SpendRatio: 1, VolumeRatio: 1, Step: 10, Model: "m"}, facts)
	facts, err = WithFact(facts, "model", "")
	require.NoError(t, err)
	require.Empty(t, facts.(ActFacts).Model)
	for text, want := range map[string]string{
		"":                             "the file is empty",
		"- a":                          "must be a mapping",
		"step: 1.5":                    `step must be of the type int, not "1.5"`,
		"step: 1\nstep: 2":             `"step" is set twice`,
		"steps: 1":                     "did you mean step?",
		"cost_ratio: .inf":             "must be a finite number",
		"model: [a]":                   "model must be of the type string",
		"model: null":                  "model must be of the type string",
		strings.Repeat("#", MaxFile+1): "more than 262144",
	} {
		_, err := ReadFacts("act", "f", []byte(text))
		require.ErrorContains(t, err, want, text[:min(len(text), 20)])
	}
	_, err = ReadFacts("tradeoff", "f", nil)
	require.ErrorContains(t, err, "write one of alert, act, sampling")
}
