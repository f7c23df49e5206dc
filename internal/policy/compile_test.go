package policy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const head = "name: alert\nimports:\n  - name: detect.Verdict\n"

const quiet = `    - output: |
        Verdict{level: "NONE", rule: "none", reason: "fine"}
`

// What cel-go lets pass, panics on or places nowhere, each with the place and the mend that is shown
// instead. The first line of the wanted text is the place and the message, the last one the mend.
func TestCompileErrors(t *testing.T) {
	tests := map[string]struct {
		text string
		want []string // of the problems, in order: "line:col: message … mend"
	}{
		"rule missing":       {head, []string{"1:1: a policy has no rule", "add rule:"}},
		"rule empty":         {head + "rule: {}\n", []string{"4:7: a rule has no match", "add match:"}},
		"rule null":          {head + "rule:\n", []string{"4:6: a rule must be a mapping", "write key: value pairs"}},
		"match empty":        {head + "rule:\n  match: []\n", []string{"5:10: match must be a list of at least one", "add an item"}},
		"nested match empty": {head + "rule:\n  match:\n    - rule:\n        match: []\n", []string{"7:16: match must be a list of at least one", "add an item"}},
		"neither output nor rule": {
			head + "rule:\n  match:\n    - condition: \"true\"\n",
			[]string{"6:7: a match needs either an output or a rule", "give it one"},
		},
		"condition not bool": {
			head + "rule:\n  match:\n    - condition: cost_ratio\n      output: |\n        Verdict{level: \"PAGE\", rule: \"p\", reason: \"x\"}\n" + quiet,
			[]string{"6:18: the condition is double, not bool", "compare it with something"},
		},
		"condition not bool in a block": {alertWith("cost_ratio"), []string{"7:9: the condition is double, not bool", "compare it"}},
		"key twice":                     {"name: a\nname: b\n" + "rule: {}\n", []string{`2:1: "name" is set twice (first in line 1)`, "keep one of them"}},
		"condition twice": {
			head + "rule:\n  match:\n    - condition: cost_known\n      condition: quality_known\n      output: |\n        Verdict{}\n",
			[]string{`7:7: "condition" is set twice (first in line 6)`, "keep one of them"},
		},
		"variable twice": {
			head + "rule:\n  variables:\n    - name: x\n      expression: \"1.0\"\n    - name: x\n      expression: \"2.0\"\n  match:\n" + quiet,
			[]string{`8:13: variable "x" is declared twice (first in line 6)`, "give it another name"},
		},
		"variable hidden in a nested rule": {
			head + "rule:\n  variables:\n    - name: x\n      expression: \"1.0\"\n  match:\n    - rule:\n        variables:\n          - name: x\n            expression: \"2.0\"\n        match:\n          - output: |\n              Verdict{level: \"NONE\", rule: \"n\", reason: \"\"}\n",
			[]string{`11:19: variable "x" is declared twice (first in line 6)`, "give it another name"},
		},
		"unknown key": {
			head + "rule:\n  match:\n    - conditions: cost_known\n      output: |\n        Verdict{}\n",
			[]string{`6:7: a match has no field "conditions"`, "did you mean condition?"},
		},
		"unknown fact":   {alertWith("cost_ration > 2.0"), []string{"7:9: undeclared reference to 'cost_ration'", "did you mean cost_ratio?"}},
		"int for double": {alertWith("cost_ratio > 2"), []string{"7:20: found no matching overload for '_>_'", "2.0, not 2"}},
		"syntax":         {alertWith("cost_ratio >"), []string{"Syntax error", "missing quote, bracket or operator"}},
		"no default": {
			head + "rule:\n  match:\n    - condition: cost_known\n      output: |\n        Verdict{level: \"PAGE\", rule: \"p\", reason: \"x\"}\n",
			[]string{"6:7: nothing is said when no condition of this rule holds", "end with a match that has no condition"},
		},
		"nested without default": {
			head + "rule:\n  match:\n    - condition: cost_known\n      rule:\n        match:\n          - condition: quality_known\n            output: |\n              Verdict{level: \"PAGE\", rule: \"p\", reason: \"x\"}\n" + quiet,
			[]string{"9:13: nothing is said when no condition of this rule holds", "end with a match"},
		},
		"unreachable": {
			head + "rule:\n  match:\n" + quiet + "    - output: |\n        Verdict{level: \"PAGE\", rule: \"p\", reason: \"x\"}\n",
			[]string{"unreachable", "put the match without a condition last"},
		},
		"rule id missing": {
			head + "rule:\n  match:\n    - output: |\n        Verdict{level: \"NONE\", reason: \"x\"}\n",
			[]string{"the output does not set rule", "add rule: …"},
		},
		"rule id computed": {
			head + "rule:\n  match:\n    - output: |\n        Verdict{level: \"NONE\", rule: tenant, reason: \"x\"}\n",
			[]string{"7:38: the rule must be a text that is not empty", "name it"},
		},
		"rule id twice": {strings.Replace(alertWith("cost_known"), `rule: "none"`, `rule: "page"`, 1), []string{`11:38: rule "page" is named twice (first in line 9)`, "give each output its own"}},
		"unknown level": {strings.Replace(alertWith("cost_known"), `"PAGE"`, `"PAGES"`, 1), []string{`9:24: level cannot be "PAGES"`, "write one of PAGE, INVESTIGATE, NONE, INCONCLUSIVE"}},
		"unknown field": {strings.Replace(alertWith("cost_known"), `reason: "bad"`, `why: "bad"`, 1), []string{"undefined field 'why'", "the fields are level, rule, reason"}},
		"not a struct":  {head + "rule:\n  match:\n    - output: |\n        \"PAGE\"\n", []string{"the output must be a detect.Verdict", "write detect.Verdict{…}"}},
		"conditional":   {head + "rule:\n  match:\n    - output: |\n        cost_known ? Verdict{} : Verdict{}\n", []string{"the output must be a detect.Verdict", "write two matches"}},
		"explanation":   {head + "rule:\n  match:\n    - explanation: \"'x'\"\n      output: |\n        Verdict{}\n", []string{"6:20: explanations are not used", "reason of the output"}},
		"number":        {head + "rule:\n  variables:\n    - name: x\n      expression: 1.5\n  match:\n" + quiet, []string{"7:19: an expression must be a string", "put it in quotes"}},
		"several lines": {head + "rule:\n  match:\n    - condition: cost_known &&\n        quality_known\n      output: |\n        Verdict{}\n", []string{"6:18: an expression over several lines", "write it as a block"}},
		"too dear":      {alertWith(`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a+b+c+d > 0))))`), []string{"7:9: the expression may cost", "more than 10000", "make it simpler"}},
		"alias":         {"name: &n a\nrule: *n\n", []string{"2:7: aliases are not allowed", "write the value out"}},
		"two documents": {"name: a\n---\nname: b\n", []string{"a second YAML document", "keep one"}},
		"not YAML":      {"name: a\n  rule: x\n", []string{"2:3: not YAML", "indentation"}},
		"empty":         {"", []string{"the file is empty", "delete it to use the shipped one"}},
		"comments only": {"# nothing\n", []string{"the file is empty"}},
		"not a mapping": {"- a\n", []string{"1:1: a policy must be a mapping"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(dir(map[string]string{"alert.yaml": test.text}))
			var problems Problems
			require.ErrorAs(t, err, &problems)
			for _, want := range test.want {
				require.Contains(t, problems.Error(), want)
			}
			for _, p := range problems {
				require.NotContains(t, p.Message, "compiler failed", "a panic was not foreseen")
			}
		})
	}
}

func TestTradeoffErrors(t *testing.T) {
	const good = "tiers:\n  - {provider: p, model: m, cost_mult: 1, quality_floor: 0.9}\non_exhausted: floor\ndefault: {class: standard, risk: ordinary, quality_floor: 0.8}\n"
	tests := map[string]struct{ from, to, want string }{
		"unknown key":       {"cost_mult: 1", "cost_mul: 1", "2:29: a tier has no field \"cost_mul\"\n 2 |   - {provider: p, model: m, cost_mul: 1, quality_floor: 0.9}\n   |                             ^\n  mend: did you mean cost_mult?"},
		"floor above 1":     {"quality_floor: 0.9", "quality_floor: 90", "quality_floor must be a number from 0 to 1, not \"90\""},
		"not a number":      {"cost_mult: 1", "cost_mult: cheap", "cost_mult must be a number"},
		"free":              {"cost_mult: 1", "cost_mult: 0", "no model is free"},
		"unknown class":     {"class: standard", "class: gold", "class cannot be \"gold\""},
		"unknown risk":      {"risk: ordinary", "risk: some", "risk cannot be \"some\""},
		"on_exhausted":      {"on_exhausted: floor", "on_exhausted: cheapest", "write one of floor, stop"},
		"no tiers":          {"on_exhausted: floor\n", "", "the tradeoff has no on_exhausted"},
		"unreachable floor": {"quality_floor: 0.8", "quality_floor: 0.95", "no tier meets the quality floor of 0.95; the best has 0.9"},
		"model twice":       {"tiers:\n", "tiers:\n  - {provider: p, model: m, cost_mult: 2, quality_floor: 0.5}\n", "the model m has two tiers"},
		"null":              {"model: m", "model: null", "model must be a text"},
	}
	_, err := Compile(dir(map[string]string{"tradeoff.yaml": good}))
	require.NoError(t, err)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Compile(dir(map[string]string{"tradeoff.yaml": strings.Replace(good, test.from, test.to, 1)}))
			require.ErrorContains(t, err, test.want)
		})
	}
}

func TestSuite(t *testing.T) {
	suite := func(test string) string {
		return "name: s\nsection:\n  - name: s\n    tests:\n      - name: t\n" + test
	}
	tests := map[string]struct{ test, want string }{ // no want: the test passes
		"value":                {"        input: {cost_ratio: {value: 3.0}}\n        output: {value: {level: PAGE, rule: page}}\n", ""},
		"neutral facts":        {"        output: {value: {level: NONE}}\n", ""},
		"expressions":          {"        input: {cost_ratio: {expr: 9.0 / 3.0}}\n        output: {expr: 'detect.Verdict{level: \"PAGE\", rule: \"page\", reason: \"bad\"}'}\n", ""},
		"expression differs":   {"        output: {expr: 'detect.Verdict{level: \"PAGE\"}'}\n", "answered {Level:NONE Rule:none Reason:fine}, not {Level:PAGE Rule: Reason:}"},
		"value differs":        {"        output: {value: {level: PAGE}}\n", "6:33: test \"t\": level is \"NONE\", not \"PAGE\" (rule \"none\")"},
		"unknown input":        {"        input: {cost_ration: {value: 3.0}}\n        output: {value: {level: PAGE}}\n", "did you mean cost_ratio?"},
		"unknown output field": {"        output: {value: {levels: PAGE}}\n", "did you mean level?"},
		"wrong type":           {"        input: {cost_ratio: {value: much}}\n        output: {value: {level: PAGE}}\n", "cost_ratio must be of the type double, not \"much\""},
		"no value":             {"        input: {cost_ratio: {}}\n        output: {value: {level: PAGE}}\n", "an input has either a value or an expr"},
		"no output":            {"        input: {cost_ratio: {value: 3.0}}\n", "a test has no output"},
		"error expected":       {"        input: {cost_ratio: {value: 3.0}}\n        output: {error_set: [\"division by zero\"]}\n", "answered {Level:PAGE Rule:page Reason:bad}, and should have failed"},
		"unknown key":          {"        outputs: {}\n", "did you mean output?"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 2.0"), "alert_test.yaml": suite(test.test)}))
			if test.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.want)
		})
	}
	_, err := Load(dir(map[string]string{
		"alert.yaml":      alertWith("1 / cost_samples > 2"),
		"alert_test.yaml": suite("        output: {error_set: [\"no such thing\", \"division by zero\"]}\n"),
	}))
	require.NoError(t, err)
}

func TestCoverage(t *testing.T) {
	set, err := Compile(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 2.0"), "alert_test.yaml": `name: s
section:
  - name: s
    tests:
      - name: quiet
        output: {value: {level: NONE}}
`}))
	require.NoError(t, err)
	alert := set.Test().Policies[0]
	require.Equal(t, 1, alert.Tests)
	require.Equal(t, 2, alert.Rules)
	require.Len(t, alert.Uncovered, 1)
	require.Equal(t, `alert.yaml:6:7: no test reaches the rule "page"
 6 |     - condition: |
   |       ^
  mend: add a test to alert_test.yaml`, alert.Uncovered[0].Error())
}

func TestFunctions(t *testing.T) {
	require.Equal(t, "84 %", percent(0.8432))
	require.Equal(t, "1.53×", times(1.532))
	require.Equal(t, "0.84", number(0.8432))
	for x, want := range map[float64]string{0: "$0.00", 0.0047123: "$0.00471", 12.345: "$12.35", 1: "$1.00", 0.5: "$0.500", -2: "-$2.00", 1e-15: "$0.000000000000"} {
		require.Equal(t, want, usd(x))
	}
}

// The reference names every fact, field and value that a policy can use.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile("../../docs/policies.md")
	require.NoError(t, err)
	words := map[string]bool{}
	for _, w := range regexp.MustCompile("[`{, ]([a-zA-Z_-]+)").FindAllStringSubmatch(string(text), -1) {
		words[w[1]] = true
	}
	for _, k := range []kind{alertKind, actKind, samplingKind} {
		for _, name := range append(tags(k.facts, "cel"), tags(k.output, "json")...) {
			require.True(t, words[name], "docs/policies.md does not mention %s of %s", name, k.file)
		}
		for _, values := range k.values {
			for _, v := range values {
				require.True(t, words[v], "docs/policies.md does not mention %s of %s", v, k.file)
			}
		}
	}
}
