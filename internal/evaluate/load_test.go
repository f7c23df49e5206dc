package evaluate

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestShipped: what is shipped compiles, is tested and passes.
func TestShipped(t *testing.T) {
	t.Parallel()
	set, err := Load(nil)
	require.NoError(t, err)
	require.Len(t, set.Evaluators, 4)
	for _, r := range set.Test().Results {
		require.NotZero(t, r.Tests, r.Evaluator.Name)
	}
}

// TestLoadFaults: what is wrong in a file is said with its place and its mend.
func TestLoadFaults(t *testing.T) {
	t.Parallel()
	const head = "name: x\nversion: 1\n"
	for name, tc := range map[string]struct{ text, want string }{
		"no kind":           {head, "the evaluator has no kind"},
		"a kind of its own": {head + "kind: vibes\n", `x.yaml:3:7: kind cannot be "vibes"`},
		"another's field":   {head + "kind: refusal\nmin: 3\n", `x.yaml:4:1: the evaluator has no field "min"`},
		"no expression":     {head + "kind: regex\n", "the evaluator has no expression"},
		"a bad expression":  {head + "kind: regex\nforbids: ['ok', '(']\n", "x.yaml:4:17: error parsing regexp"},
		"no bound":          {head + "kind: length\n", "the length has no bound"},
		"bounds crossed":    {head + "kind: length\nmin: 9\nmax: 3\n", "min is greater than max"},
		"a remote schema":   {head + "kind: json_schema\nschema: {$ref: 'https://example.com/s.json'}\n", "only references within the schema"},
		"a file's schema":   {head + "kind: json_schema\nschema: {$ref: 'file:///etc/passwd'}\n", "only references within the schema"},
		"no schema":         {head + "kind: json_schema\nschema: {type: strnig}\n", "mend the schema"},
		"an empty scale":    {head + "kind: judge\nrubric: r\nscale: {min: 5, max: 1}\n", "the scale is empty"},
		"a bad name":        {"name: Über\nversion: 1\nkind: refusal\n", "is no name of an evaluator"},
		"not YAML":          {"name: [\n", "not YAML"},
		"twice":             {head + "kind: refusal\nkind: refusal\n", `"kind" is set twice`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Compile(fstest.MapFS{"x.yaml": {Data: []byte(tc.text)}})
			require.ErrorContains(t, err, tc.want)
			require.ErrorContains(t, err, "mend: ")
		})
	}
	_, err := Load(fstest.MapFS{
		"x.yaml":      {Data: []byte(head + "kind: length\nmin: 5\n")},
		"x_test.yaml": {Data: []byte("tests:\n  - {name: short, output: abc, score: 1}\n")},
	})
	require.ErrorContains(t, err, "x_test.yaml:2:5: short: the score is 0.6, not from 0.9995 to 1")
}

// TestVersions: what decides over scores is in the version, whatever the number says, and nothing else is.
func TestVersions(t *testing.T) {
	t.Parallel()
	version := func(text string) string {
		set, err := Load(fstest.MapFS{"x.yaml": {Data: []byte("name: x\nversion: 3\n" + text)}})
		require.NoError(t, err)
		return set.Find("x").Version
	}
	a := version("kind: judge\nrubric: Is it kind?\n")
	require.Regexp(t, `^3-[0-9a-f]{8}$`, a)
	require.NotEqual(t, a, version("kind: judge\nrubric: Is it very kind?\n"), "the text changed and the number did not")
	require.NotEqual(t, a, version("kind: judge\nrubric: Is it kind?\nscale: {min: 0, max: 1}\n"))
	require.Equal(t, a, version("kind: judge\ndescription: of manners\napplies: {tenants: org-*}\nstanding: trial\nrubric: Is it kind?\n"))
}

// TestReplacing: a file of the directory replaces the shipped one with its tests, or switches it off.
func TestReplacing(t *testing.T) {
	t.Parallel()
	set, err := Load(fstest.MapFS{
		"answered.yaml": {Data: []byte("name: answered\nversion: 2\nkind: length\nmin: 100\n")},
		"helpful.yaml":  {Data: []byte("name: helpful\nversion: 1\nkind: judge\nrubric: r\noff: true\n")},
	})
	require.NoError(t, err)
	require.Nil(t, set.Find("helpful"))
	require.False(t, set.Judges())
	require.Regexp(t, "^2-", set.Find("answered").Version)
	require.False(t, set.Find("answered").Trial, "what people write counts unless they say otherwise")
	require.NotNil(t, set.Find("no-refusal"))
}

func TestApplies(t *testing.T) {
	t.Parallel()
	set, err := Load(fstest.MapFS{"x.yaml": {Data: []byte("name: x\nversion: 1\nkind: refusal\napplies: {tenants: [org-*, acme], models: '*/gpt-?', tasks: support}\n")}})
	require.NoError(t, err)
	x := set.Find("x")
	for _, tc := range []struct {
		tenant, model, task string
		want                bool
	}{
		{"org-1", "openai/gpt-5", "support", true},
		{"acme", "openai/gpt-5", "support", true},
		{"acme2", "openai/gpt-5", "support", false},
		{"acme", "openai/gpt-51", "support", false},
		{"acme", "openai/gpt-5", "", false},
	} {
		require.Equal(t, tc.want, x.Applies(&usage.Span{TenantID: tc.tenant, RequestedModel: tc.model, Task: tc.task}), tc)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	set, err := Load(fstest.MapFS{
		"order.yaml": {Data: []byte(`name: order
version: 1
kind: json_schema
schema:
  type: object
  required: [id, total]
  properties:
    id: {type: string, format: uuid}
    total: {$ref: '#/$defs/money'}
  $defs:
    money: {type: number, minimum: 0}
`)},
		"order_test.yaml": {Data: []byte(`tests:
  - {name: an order, output: '{"id":"4bf92f35-77b3-4da6-a3ce-929d0e0e4736","total":12.5}', score: 1}
  - {name: no total, output: '{"id":"4bf92f35-77b3-4da6-a3ce-929d0e0e4736"}', score: 0}
  - {name: a negative total, output: '{"id":"4bf92f35-77b3-4da6-a3ce-929d0e0e4736","total":-1}', score: 0}
  - {name: no id, output: '{"id":"7","total":1}', score: 0}
  - {name: prose, output: 'Your order is on its way.', score: 0}
  - {name: two values, output: '{} {}', score: 0}
`)},
	})
	require.NoError(t, err)
	require.NotNil(t, set.Find("order"))
}

// FuzzParse: whatever a judge says, it is a score on the scale or none.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"score":3}`, `{"score":1e999}`, "```json\n{\"score\":2}\n```", `{"score":NaN}`, `[{"score":1}]`, `{"score":1,"score":2}`, "\xff", `{"score":-0}`} {
		f.Add(seed)
	}
	r := &Rubric{Low: 1, High: 5}
	f.Fuzz(func(t *testing.T, answer string) {
		score, reason, err := r.Parse(answer)
		if err == nil && !(score >= 0 && score <= 1) || len(reason) > maxReason+len("…") {
			t.Fatalf("%q: %g %q", answer, score, reason)
		}
	})
}
