// Package data checks flyball against data that others made and that is not part of the project: recorded provider
// traffic and price files. FLYBALL_DATA names the folder that has them; scripts/check-data.sh sets it.
package data

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// folder is where the data is. Without it the test is skipped, and says so.
func folder(t *testing.T, name string) string {
	t.Helper()
	root := os.Getenv("FLYBALL_DATA")
	if root == "" {
		t.Skip("FLYBALL_DATA names no folder of recorded data")
	}
	path := filepath.Join(root, name)
	require.DirExists(t, path)
	return path
}

// flyball is the path of the program.
func flyball(t *testing.T) string {
	t.Helper()
	binary := os.Getenv("FLYBALL") // linking it takes longer than the checks
	if binary == "" {
		binary = filepath.Join(t.TempDir(), "flyball")
		out, err := exec.Command("go", "build", "-o", binary, "../../cmd/flyball").CombinedOutput()
		require.NoError(t, err, string(out))
	}
	return binary
}

// cassette is a recording in the format of VCR.
type cassette struct {
	Interactions []struct {
		Request struct {
			URI string `yaml:"uri"`
		} `yaml:"request"`
		Response struct {
			Body struct {
				String string `yaml:"string"`
			} `yaml:"body"`
			Headers map[string]any `yaml:"headers"` // to lists, or to one value
		} `yaml:"response"`
	} `yaml:"interactions"`
}

// recorded is one response and what the provider counted in it.
type recorded struct {
	file, kind, provider, text string
	stream                     bool
	want                       buckets
}

// buckets are flyball's, by the names that `flyball cost` gives them.
type buckets struct {
	Input, CacheRead, CacheWrite5m, CacheWrite1h, Output, Reasoning int64
}

// hosts say whose API a recording is of.
var hosts = map[string]string{
	"api.openai.com": "openai", "api.anthropic.com": "anthropic", "api.mistral.ai": "mistral", "api.cohere.com": "cohere",
	"bedrock-runtime.us-east-1.amazonaws.com": "aws",
}

// TestCassettes runs every recorded response that has usage through `flyball cost`. What is expected is read from the
// raw JSON here, in a few lines for each provider, and from Bedrock's headers, without flyball's own code.
func TestCassettes(t *testing.T) {
	responses := load(t, folder(t, "cassettes"))
	require.NotEmpty(t, responses)
	var lines bytes.Buffer
	for _, r := range responses {
		line := map[string]any{"provider": r.provider}
		if r.stream {
			line["sse"] = r.text
		} else {
			line["body"] = json.RawMessage(r.text)
		}
		require.NoError(t, json.NewEncoder(&lines).Encode(line))
	}
	answers := cost(t, &lines)
	require.Len(t, answers, len(responses))
	type tally struct{ bodies, streams, matched int }
	tallies := map[string]*tally{}
	for i, r := range responses {
		sum := tallies[r.kind]
		if sum == nil {
			sum = &tally{}
			tallies[r.kind] = sum
		}
		if r.stream {
			sum.streams++
		} else {
			sum.bodies++
		}
		if answers[i].Complete && answers[i].Buckets == r.want {
			sum.matched++
		} else {
			t.Errorf("%s: %s: have %+v, want complete %+v", r.file, r.kind, answers[i], r.want)
		}
	}
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "kind\tbodies\tstreams\tmatched")
	for _, kind := range slices.Sorted(maps.Keys(tallies)) {
		sum := tallies[kind]
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\n", kind, sum.bodies, sum.streams, sum.matched)
	}
	require.NoError(t, table.Flush())
}

// load reads the responses with usage out of all cassettes.
func load(t *testing.T, root string) []recorded {
	files, err := filepath.Glob(filepath.Join(root, "*", "*.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var list []recorded
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var c cassette
		require.NoError(t, yaml.Unmarshal(text, &c), file)
		for _, i := range c.Interactions {
			at, err := url.Parse(i.Request.URI)
			require.NoError(t, err)
			body := i.Response.Body.String
			if !strings.Contains(body, `"usage"`) {
				continue // an upload of traces, or an error
			}
			r := recorded{file: filepath.Base(file), provider: hosts[at.Host], text: body, stream: !strings.HasPrefix(body, "{")}
			require.NotEmpty(t, r.provider, "%s: whose API is %s?", file, at.Host)
			r.kind = r.provider + " " + kindOf(at.Path)
			r.want = expected(t, r, i.Response.Headers)
			list = append(list, r)
		}
	}
	return list
}

func kindOf(path string) string {
	if strings.HasPrefix(path, "/model/") {
		return "invoke"
	}
	parts := strings.Split(strings.Trim(path, "/"), "/")
	return strings.Join(parts[1:], " ")
}

// object is a JSON object, looked into by path.
type object map[string]any

func (o object) at(path ...string) object {
	for _, name := range path {
		inner, _ := o[name].(map[string]any)
		o = inner
	}
	return o
}

func (o object) n(name string) int64 { f, _ := o[name].(float64); return int64(f) }

// events are a stream's, in order; a body is the only event of its own.
func events(t *testing.T, r recorded) []object {
	if !r.stream {
		var o object
		require.NoError(t, json.Unmarshal([]byte(r.text), &o))
		return []object{o}
	}
	var list []object
	for line := range strings.Lines(r.text) {
		data, ok := strings.CutPrefix(line, "data: ")
		var o object
		if ok && json.Unmarshal([]byte(data), &o) == nil {
			list = append(list, o)
		}
	}
	return list
}

// expected is what the provider's last word on each count was.
func expected(t *testing.T, r recorded, headers map[string]any) (want buckets) {
	all := events(t, r)
	found := 0
	for _, e := range all {
		switch {
		case r.provider == "anthropic" && e["type"] == "message_start":
			u := e.at("message", "usage")
			writes := u.at("cache_creation")
			want.Input, want.CacheRead = u.n("input_tokens"), u.n("cache_read_input_tokens")
			want.CacheWrite1h = writes.n("ephemeral_1h_input_tokens")
			want.CacheWrite5m = u.n("cache_creation_input_tokens") - want.CacheWrite1h
		case r.provider == "anthropic" && e["type"] == "message_delta":
			want.Output = e.at("usage").n("output_tokens")
			found++
		case r.provider == "aws":
			u := e.at("usage")
			want = buckets{Input: u.n("input_tokens"), CacheRead: u.n("cache_read_input_tokens"), CacheWrite5m: u.n("cache_creation_input_tokens"), Output: u.n("output_tokens")}
			for name, n := range map[string]int64{"Input": want.Input, "Output": want.Output, "Cache-Read-Input": want.CacheRead, "Cache-Write-Input": want.CacheWrite5m} {
				header := headers["X-Amzn-Bedrock-"+name+"-Token-Count"]
				require.Equal(t, []any{strconv.FormatInt(n, 10)}, header, "%s: Bedrock's header for %s", r.file, name)
			}
			found++
		case r.provider == "cohere" && e["type"] == "message-end":
			u := e.at("delta", "usage", "billed_units")
			want = buckets{Input: u.n("input_tokens"), Output: u.n("output_tokens")}
			found++
		case r.provider == "openai" && e["type"] == "response.completed":
			u := e.at("response", "usage")
			cached := u.at("input_tokens_details").n("cached_tokens")
			want = buckets{Input: u.n("input_tokens") - cached, CacheRead: cached, Output: u.n("output_tokens"), Reasoning: u.at("output_tokens_details").n("reasoning_tokens")}
			found++
		case (r.provider == "openai" || r.provider == "mistral") && e["usage"] != nil:
			u := e.at("usage")
			cached := u.at("prompt_tokens_details").n("cached_tokens")
			want = buckets{Input: u.n("prompt_tokens") - cached, CacheRead: cached, Output: u.n("completion_tokens"), Reasoning: u.at("completion_tokens_details").n("reasoning_tokens")}
			found++
		}
	}
	require.Equal(t, 1, found, "%s has one last word on its usage", r.file)
	return want
}

// answer is a line of `flyball cost`.
type answer struct {
	Buckets  buckets
	Complete bool
}

func (b *buckets) UnmarshalJSON(text []byte) error {
	var o map[string]int64
	if err := json.Unmarshal(text, &o); err != nil {
		return err
	}
	*b = buckets{o["input"], o["cache_read"], o["cache_write_5m"], o["cache_write_1h"], o["output"], o["reasoning"]}
	return nil
}

func cost(t *testing.T, lines *bytes.Buffer) []answer {
	run := exec.Command(flyball(t), "cost")
	run.Stdin, run.Stderr = lines, os.Stderr
	text, err := run.Output()
	require.NoError(t, err)
	var list []answer
	for decoder := json.NewDecoder(bytes.NewReader(text)); decoder.More(); {
		var a answer
		require.NoError(t, decoder.Decode(&a))
		list = append(list, a)
	}
	return list
}
