package wire_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/wire"
)

// said draws text as JSON: short or long, in several scripts, escaped as little or as much as clients do.
func said(t *rapid.T) string {
	text := rapid.StringOf(rapid.RuneFrom([]rune("aZ 0\"\\/\n\x01\x7f<>&é字\u2028😀"))).Draw(t, "text")
	if rapid.Bool().Draw(t, "long") {
		text = strings.Repeat(text, 50)
	}
	quoted, _ := json.Marshal(text)
	if !rapid.Bool().Draw(t, "ascii") {
		return string(quoted)
	}
	var ascii strings.Builder // as Python writes it
	for _, c := range string(quoted) {
		switch {
		case c < 0x80:
			ascii.WriteRune(c)
		case c < 0x10000:
			fmt.Fprintf(&ascii, `\u%04x`, c)
		default:
			c -= 0x10000
			fmt.Fprintf(&ascii, `\u%04x\u%04x`, 0xd800+c>>10, 0xdc00+c&0x3ff)
		}
	}
	return ascii.String()
}

func list(t *rapid.T, name string, most int, item func() string) string {
	var items []string
	for range rapid.IntRange(0, most).Draw(t, name) {
		items = append(items, item())
	}
	return "[" + strings.Join(items, ",") + "]"
}

// schema draws a tool's parameters, numbers that grow when they are written out among them.
func schema(t *rapid.T) string {
	number := func() string {
		return rapid.SampledFrom([]string{"1", "-0.5", "1e20", "1E+2", "9e-7"}).Draw(t, "number")
	}
	return fmt.Sprintf(`{"type":"object","description":%s,"properties":{%s:{"type":"string","enum":%s},"n":{"enum":%s}}}`,
		said(t), said(t), list(t, "values", 4, func() string { return said(t) }), list(t, "numbers", 20, number))
}

const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

// conversation draws a body that is billed by what it contains.
func conversation(t *rapid.T, api wire.API) string {
	text, image, call := "text", `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"`+pixel+`"}}`, `{"name":%s,"input_schema":%s}`
	switch api {
	case wire.Chat:
		image, call = `{"type":"image_url","image_url":{"url":"data:image/png;base64,`+pixel+`"}}`, `{"type":"function","function":{"name":%s,"parameters":%s}}`
	case wire.Responses:
		text, image, call = "input_text", `{"type":"input_image","image_url":"data:image/png;base64,`+pixel+`"}`, `{"type":"function","name":%s,"parameters":%s}`
	}
	message := func() string {
		if rapid.Bool().Draw(t, "plain") {
			return `{"role":"user","content":` + said(t) + `}`
		}
		return `{"role":"user","content":` + list(t, "parts", 3, func() string {
			if rapid.IntRange(0, 3).Draw(t, "image") == 0 {
				return image
			}
			return `{"type":"` + text + `","text":` + said(t) + `}`
		}) + `}`
	}
	messages, system := "messages", ""
	switch api {
	case wire.Responses:
		messages, system = "input", `,"instructions":`+said(t)
	case wire.Messages:
		system = `,"system":` + said(t)
	}
	body := fmt.Sprintf(`{"model":"m","max_tokens":1,%q:%s%s`, messages, list(t, "messages", 4, message), system)
	if rapid.Bool().Draw(t, "tools") {
		body += `,"tools":` + list(t, "tools", 3, func() string { return fmt.Sprintf(call, said(t), schema(t)) })
	}
	return body + "}"
}

// The dearest tokenizer, which makes a token of every byte, bills no more input than was held.
func TestInputBoundHolds(t *testing.T) {
	t.Parallel()
	dearest := upstreamtest.New(upstreamtest.Options{BytesPerToken: 1})
	usual := upstreamtest.New(upstreamtest.Options{})
	rapid.Check(t, func(t *rapid.T) {
		api := rapid.SampledFrom([]wire.API{wire.Chat, wire.Responses, wire.Messages, wire.CountTokens}).Draw(t, "api")
		body := conversation(t, api)
		r, err := wire.Read(api, []byte(body))
		require.NoError(t, err, body)
		require.Empty(t, r.Unbounded, body)
		family := string(api.Family())
		require.GreaterOrEqual(t, r.InputBound, int64(dearest.InputTokens(family, []byte(body))), body)
		require.LessOrEqual(t, r.InputEstimate, r.InputBound, body)
		require.GreaterOrEqual(t, r.InputBound, int64(usual.InputTokens(family, []byte(body))))
		for _, model := range []string{"gpt-4o", "gpt-4o-mini-2024-07-18", "claude-sonnet-4-5", ""} {
			require.GreaterOrEqual(t, r.InputBoundOn(model), int64(dearest.InputTokens(family, []byte(body))), model)
		}
		r, err = wire.Read(api, r.Apply(wire.Edit{Model: "a-model-with-a-longer-name", MaxOutput: 1}))
		require.NoError(t, err)
		require.GreaterOrEqual(t, r.InputBound, int64(dearest.InputTokens(family, []byte(body))), "after an edit")
	})
}

// Numbers may grow when a provider writes a schema out.
func TestInputBoundHoldsForExponents(t *testing.T) {
	t.Parallel()
	body := []byte(`{"model":"m","messages":[],"tools":[{"type":"function","function":{"name":"f","parameters":{"enum":[` +
		strings.Repeat("1e20,", 9_999) + `1e20]}}}]}`)
	r, err := wire.Read(wire.Chat, body)
	require.NoError(t, err)
	bill := upstreamtest.New(upstreamtest.Options{BytesPerToken: 1}).InputTokens("openai", body)
	require.Greater(t, bill, 2*len(body))
	require.GreaterOrEqual(t, r.InputBound, int64(bill))
}

func TestInputBoundHoldsForEmbeddings(t *testing.T) {
	t.Parallel()
	dearest := upstreamtest.New(upstreamtest.Options{BytesPerToken: 1})
	rapid.Check(t, func(t *rapid.T) {
		token := func() string { return fmt.Sprint(rapid.IntRange(0, 9).Draw(t, "token")) }
		input := rapid.SampledFrom([]string{
			said(t), list(t, "texts", 5, func() string { return said(t) }), list(t, "tokens", 50, token),
			list(t, "lists", 3, func() string { return list(t, "tokens", 5, token) }),
		}).Draw(t, "input")
		body := []byte(`{"model":"text-embedding-3-small","input":` + input + `}`)
		r, err := wire.Read(wire.Embeddings, body)
		require.NoError(t, err)
		require.GreaterOrEqual(t, r.InputBound, int64(dearest.InputTokens("openai", body)), string(body))
	})
}

// What is not text counts by what it is, not by how long its bytes are, and is no bound where only the provider knows.
func TestMediaCountsByItsKind(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("A", 1<<20)
	for _, tc := range []struct {
		name      string
		api       wire.API
		part      string
		images    int
		low, high int64 // of InputBound
		unbounded string
	}{
		{"an image in a chat", wire.Chat, `{"type":"image_url","image_url":{"url":"data:image/png;base64,` + big + `"}}`, 1, 24_600, 25_000, ""},
		{"an image of low detail", wire.Chat, `{"type":"image_url","image_url":{"url":"data:image/png;base64,` + big + `","detail":"low"}}`, 1, 6_150, 6_600, ""},
		{"an image somewhere else", wire.Chat, `{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}`, 1, 24_600, 25_000, ""},
		{"an image in a response", wire.Responses, `{"type":"input_image","detail":"high","image_url":"data:image/png;base64,` + big + `"}`, 1, 6_150, 6_600, ""},
		{"an image by its file", wire.Responses, `{"type":"input_image","file_id":"file-1"}`, 1, 24_600, 25_000, ""},
		{"an image in a message", wire.Messages, `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + big + `"}}`, 1, 5_000, 5_500, ""},
		{"an image that a tool found", wire.Messages, `{"type":"tool_result","tool_use_id":"t","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + big + `"}}]}`, 1, 5_000, 5_600, ""},
		{"a document of text", wire.Messages, `{"type":"document","source":{"type":"text","media_type":"text/plain","data":"` + big + `"}}`, 0, 1 << 20, 1<<20 + 500, ""},
		{"text that says it is an image", wire.Messages, `{"type":"image","source":{"type":"text","data":"` + big + `"}}`, 0, 1 << 20, 1<<20 + 500, ""},
		{"a PDF", wire.Messages, `{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"` + big + `"}}`, 0, 64, 600, "a file"},
		{"a PDF somewhere else", wire.Messages, `{"type":"document","source":{"type":"url","url":"https://example.com/a.pdf"}}`, 0, 64, 600, "a file"},
		{"a file", wire.Chat, `{"type":"file","file":{"file_data":"data:application/pdf;base64,` + big + `"}}`, 0, 64, 600, "a file"},
		{"a file by its id", wire.Responses, `{"type":"input_file","file_id":"file-1"}`, 0, 64, 600, "a file"},
		{"audio", wire.Chat, `{"type":"input_audio","input_audio":{"format":"wav","data":"` + big + `"}}`, 0, 64, 600, "length in time"},
		{"what is not known yet", wire.Chat, `{"type":"hologram","file_id":"file-1"}`, 0, 64, 600, `"hologram"`},
		{"bytes that call themselves text", wire.Chat, `{"type":"text","text":"` + big + `"}`, 0, 1 << 20, 1<<20 + 500, ""},
		{"an image by an escaped type", wire.Chat, `{"ty\u0070e":"image_\u0075rl","image_url":{"url":"https://example.com/a.png"}}`, 1, 24_600, 25_000, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			field := "messages"
			if tc.api == wire.Responses {
				field = "input"
			}
			r, err := wire.Read(tc.api, []byte(`{"model":"m",`+fmt.Sprintf("%q", field)+`:[{"role":"user","content":[`+tc.part+`]}]}`))
			require.NoError(t, err)
			require.Equal(t, tc.images, r.Images)
			require.GreaterOrEqual(t, r.InputBound, tc.low)
			require.LessOrEqual(t, r.InputBound, tc.high)
			require.Equal(t, tc.images > 0 || tc.unbounded != "", r.HasMedia)
			if tc.unbounded == "" {
				require.Empty(t, r.Unbounded)
			} else {
				require.Contains(t, r.Unbounded, tc.unbounded)
			}
		})
	}
}

func TestInputIsUnboundedWhereTheProviderBringsItIn(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		api    wire.API
		member string
		why    string
	}{
		{wire.Responses, `"previous_response_id":"resp_1"`, "previous_response_id"},
		{wire.Responses, `"conversation":"conv_1"`, "conversation"},
		{wire.Responses, `"prompt":{"id":"pmpt_1"}`, "prompt"},
		{wire.Responses, `"input":[{"type":"item_reference","id":"i"}]`, "item_reference"},
		{wire.Responses, `"tools":[{"type":"web_search"}]`, "runs at the provider"},
		{wire.Responses, `"tools":[{"type":"function","name":"f"},{"type":"file_search"}]`, `"file_search"`},
		{wire.Messages, `"tools":[{"type":"web_search_20250305","name":"web_search"}]`, "runs at the provider"},
		{wire.Messages, `"mcp_servers":[]`, "mcp_servers"},
		{wire.Chat, `"web_search_options":{}`, "web_search_options"},
		{wire.Messages, `"tools":[{"type":"bash_20250124","name":"bash"}]`, ""},
		{wire.Responses, `"previous_response_id":null,"conversation":null`, ""},
		{wire.Chat, `"tools":[{"type":"function","function":{"name":"f"}}]`, ""},
	} {
		r, err := wire.Read(tc.api, []byte(`{"model":"m",`+tc.member+`}`))
		require.NoError(t, err)
		if tc.why == "" {
			require.Empty(t, r.Unbounded, tc.member)
		} else {
			require.Contains(t, r.Unbounded, tc.why, tc.member)
		}
	}
}

func TestTheDearestImagesAreThoseOfTiledMinis(t *testing.T) {
	t.Parallel()
	r, err := wire.Read(wire.Chat, []byte(`{"model":"gpt-4o","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://a"}}]}]}`))
	require.NoError(t, err)
	require.Greater(t, r.InputBoundOn("gpt-4o-mini"), r.InputBoundOn("gpt-4o"), "a cheaper model can bill more tokens for an image")
	require.Equal(t, r.InputBound, r.InputBoundOn("gpt-4o"))
}
