package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// taking are the endpoints that take a body.
var taking = []API{Chat, Responses, Messages, Embeddings, CountTokens}

// space is what may stand between the tokens of JSON.
func space(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "", "", " ", "\n\t", "\r\n  "}).Draw(t, "space")
}

// escaped writes a string as JSON, some of its characters as escapes that they need not be.
func escaped(t *rapid.T, text string) string {
	if rapid.IntRange(0, 3).Draw(t, "escaped") > 0 {
		return plainly(text)
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range text {
		if c < 0x10000 && rapid.Bool().Draw(t, "escape") {
			format := rapid.SampledFrom([]string{`\u%04x`, `\u%04X`}).Draw(t, "hex")
			fmt.Fprintf(&b, format, c)
			continue
		}
		q := plainly(string(c))
		b.WriteString(q[1 : len(q)-1])
	}
	b.WriteByte('"')
	return b.String()
}

// plainly writes a string as JSON as most clients do: nothing escaped that need not be.
func plainly(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text)
	return strings.TrimSuffix(b.String(), "\n")
}

// words draws text in several scripts, with all that JSON must escape.
func words(t *rapid.T) string {
	return rapid.StringOf(rapid.RuneFrom([]rune("aZ0 .\"\\/\n\t\x01<&>é字\u2028😀model"))).Draw(t, "text")
}

// names are keys that mean something at the top, so that they also occur where they mean nothing.
var names = []string{"model", "stream", "max_tokens", "max_completion_tokens", "max_output_tokens", "stream_options", "include_usage", "x", "n", "é", ""}

// anything draws any JSON value.
func anything(t *rapid.T, depth int) string {
	kinds := 6
	if depth == 0 {
		kinds = 4
	}
	switch rapid.IntRange(0, kinds).Draw(t, "kind") {
	case 0:
		return rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "literal")
	case 1:
		return rapid.SampledFrom([]string{"0", "-1", "1.5", "1e3", "-0.25E-2", "18446744073709551616"}).Draw(t, "number")
	case 5:
		var items []string
		for range rapid.IntRange(0, 3).Draw(t, "items") {
			items = append(items, space(t)+anything(t, depth-1)+space(t))
		}
		return "[" + strings.Join(items, ",") + "]"
	case 6:
		var members []string
		for range rapid.IntRange(0, 3).Draw(t, "members") {
			members = append(members, member(t, rapid.SampledFrom(names).Draw(t, "name"), anything(t, depth-1)))
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	return escaped(t, words(t))
}

func member(t *rapid.T, name, value string) string {
	return space(t) + escaped(t, name) + space(t) + ":" + space(t) + value + space(t)
}

// object writes members in any order.
func object(t *rapid.T, members []string) string {
	members = rapid.Permutation(members).Draw(t, "order")
	return "{" + strings.Join(members, ",") + space(t) + "}"
}

// body draws what a client may send to an endpoint, ordinary or odd.
func body(t *rapid.T, api API) string {
	members := []string{member(t, "model", escaped(t, rapid.SampledFrom([]string{"gpt-4o", "gpt-5", "o3", "claude-é", "m\"\\"}).Draw(t, "model")))}
	maybe := func(name string, value func() string) {
		if known[api][name] > 0 && rapid.Bool().Draw(t, name) {
			members = append(members, member(t, name, value()))
		}
	}
	limit := func() string { return rapid.SampledFrom([]string{"null", "1", "16", "4096"}).Draw(t, "cap") }
	maybe("max_tokens", limit)
	maybe("max_completion_tokens", limit)
	maybe("max_output_tokens", limit)
	maybe("stream", func() string { return rapid.SampledFrom([]string{"true", "true", "false", "null"}).Draw(t, "stream") })
	maybe("stream_options", func() string { return options(t) })
	maybe("n", func() string { return rapid.SampledFrom([]string{"null", "1", "3"}).Draw(t, "n") })
	maybe("user", func() string { return escaped(t, words(t)) })
	maybe("messages", func() string { return `[{"role":"user","content":` + escaped(t, words(t)) + `}]` })
	maybe("tools", func() string { return "[" + anything(t, 3) + "]" })
	for i := range rapid.IntRange(0, 3).Draw(t, "others") {
		members = append(members, member(t, fmt.Sprintf("other %d", i), anything(t, 3)))
	}
	return space(t) + object(t, members) + space(t)
}

func options(t *rapid.T) string {
	if rapid.IntRange(0, 4).Draw(t, "none") == 0 {
		return "null"
	}
	var members []string
	if rapid.Bool().Draw(t, "usage") {
		members = append(members, member(t, "include_usage", rapid.SampledFrom([]string{"true", "false", "null"}).Draw(t, "include_usage")))
	}
	if rapid.Bool().Draw(t, "obfuscation") {
		members = append(members, member(t, "include_obfuscation", "false"))
	}
	if len(members) == 0 {
		return "{" + space(t) + "}"
	}
	return object(t, members)
}

// raw is a member of an object as it stands in a body: all between the commas.
type raw struct{ name, key, value, text string }

// members takes an object apart by the standard library's reader, and returns what stands behind its last value too.
func members(t require.TestingT, object string) (all []raw, end string) {
	d := json.NewDecoder(strings.NewReader(object))
	_, err := d.Token()
	require.NoError(t, err)
	at := d.InputOffset()
	for d.More() {
		begin := at
		key, err := d.Token()
		require.NoError(t, err)
		keyEnd := d.InputOffset()
		var value json.RawMessage
		require.NoError(t, d.Decode(&value))
		at = d.InputOffset()
		separate := func(text string) string { // from the comma before, and nothing else
			if len(all) == 0 {
				return text
			}
			return strings.Replace(text, ",", "", 1)
		}
		all = append(all, raw{key.(string), separate(object[begin:keyEnd]), string(value), separate(object[begin:at])})
	}
	return all, object[at:]
}

// isCap reports whether a member caps the output.
func isCap(api API, name string) bool {
	switch name {
	case "max_tokens":
		return api == Chat || api == Messages
	case "max_completion_tokens":
		return api == Chat
	case "max_output_tokens":
		return api == Responses
	}
	return false
}

func TestReadsWhatTheStandardLibraryReads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		api := rapid.SampledFrom(taking).Draw(t, "api")
		text := body(t, api)
		r, err := Read(api, []byte(text))
		require.NoError(t, err, text)
		var want map[string]any
		require.NoError(t, json.Unmarshal([]byte(text), &want))
		require.Equal(t, want["model"], r.Model)
		if api.Generates() {
			require.Equal(t, want["stream"] == true, r.Stream)
		}
		options, _ := want["stream_options"].(map[string]any)
		require.Equal(t, options["include_usage"] == true, r.IncludeUsage)
		most, choices := 0.0, 1.0
		for name, value := range want {
			if n, ok := value.(float64); ok && isCap(api, name) {
				most = max(most, n)
			}
		}
		if n, ok := want["n"].(float64); ok {
			choices = n
		}
		require.EqualValues(t, most, r.MaxOutput)
		require.EqualValues(t, choices, r.Choices)
		if user, ok := want["user"].(string); ok {
			require.True(t, strings.HasPrefix(user, r.User))
			require.True(t, r.User == user || len(r.User) > maxName-4)
		}
	})
}
