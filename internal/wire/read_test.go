package wire

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func read(t *testing.T, api API, body string) *Request {
	t.Helper()
	r, err := Read(api, []byte(body))
	require.NoError(t, err)
	require.True(t, json.Valid([]byte(body)))
	return r
}

func TestReadsAChat(t *testing.T) {
	t.Parallel()
	r := read(t, Chat, `{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"max_tokens":null,
		"max_completion_tokens":300,"n":2,"user":"u-1","metadata":{"session_id":"s\u002d1","user_id":"nobody"},"service_tier":"flex",
		"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":[{"type":"text","text":"Say \"hi\""},
		{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA","detail":"low"}},{"type":"text","text":"twice"}]},
		{"role":"assistant","content":"Hi"}],"tools":[{"type":"function","function":{"name":"f","parameters":{}}}]}`)
	require.Equal(t, "gpt-4o", r.Model)
	require.True(t, r.Stream)
	require.True(t, r.IncludeUsage)
	require.EqualValues(t, 300, r.MaxOutput)
	require.EqualValues(t, 2, r.Choices)
	require.Equal(t, "u-1", r.User)
	require.Equal(t, "s-1", r.Session)
	require.Equal(t, "flex", r.ServiceTier)
	require.Equal(t, "Say \"hi\"\ntwice", r.Text)
	require.True(t, r.HasMedia)
	require.Equal(t, 1, r.Images)
	require.Equal(t, 1, r.Tools)
	require.Empty(t, r.Unbounded)
	require.False(t, r.Reasons)
}

func TestReadsTheOtherAPIs(t *testing.T) {
	t.Parallel()
	r := read(t, Messages, `{"model":"claude-sonnet-4-5","max_tokens":5,"system":[{"type":"text","text":"x"}],"metadata":{"user_id":"u"},
		"thinking":{"type":"enabled","budget_tokens":1024},"messages":[{"content":"first","role":"user"},
		{"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"url":"http://a"}}]},
		{"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"found"}]}]}]}`)
	require.Equal(t, "first", r.Text, "what a tool says is nobody's word")
	require.Equal(t, "u", r.User)
	require.EqualValues(t, 5, r.MaxOutput)
	require.True(t, r.Reasons)
	require.Empty(t, r.Unbounded)

	r = read(t, Responses, `{"model":"gpt-4o","input":[{"role":"user","content":[{"type":"input_text","text":"hi"}]}],"max_output_tokens":7,"previous_response_id":"resp_1"}`)
	require.Equal(t, "hi", r.Text)
	require.Equal(t, "resp_1", r.PreviousID)
	require.NotEmpty(t, r.Unbounded)
	require.EqualValues(t, 7, r.MaxOutput)
	require.Equal(t, "hello", read(t, Responses, `{"model":"gpt-4o","input":"hello"}`).Text)
	require.True(t, read(t, Responses, `{"model":"o3","input":"hello"}`).Reasons)

	r = read(t, Embeddings, `{"model":"text-embedding-3-small","input":[[1,2,3],[4]]}`)
	require.GreaterOrEqual(t, r.InputEstimate, int64(4))
	read(t, CountTokens, `{"model":"claude-haiku-4-5","messages":[]}`)
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`{"model":"a","model":"b"}`:                          "model, at byte 14: is there twice; send it once",
		`{"model":"a","mod\u0065l":"b"}`:                     "is there twice",
		`{"model":"a","Model":"b"}`:                          `model, at byte 14: is spelled "Model"; write "model"`,
		`{"model":"a","ſtream":true}`:                        `write "stream"`,
		`{"model":"a","max_tokens":1.5}`:                     "max_tokens, at byte 26: is not a whole number",
		`{"model":"a","max_tokens":-1}`:                      "whole number",
		`{"model":"a","max_tokens":99999999999999999999999}`: "whole number",
		`{"model":"a","max_tokens":"5"}`:                     "max_tokens",
		`{"model":"a","n":0}`:                                "from 1 to 128",
		`{"model":"a","n":129}`:                              "from 1 to 128",
		`{"model":"a","stream":1}`:                           "is not a boolean",
		`{"model":1}`:                                        "is not a string",
		`{"model":""}`:                                       "names no model",
		`{}`:                                                 "names no model",
		`[]`:                                                 "unexpected '['",
		``:                                                   "ends too early",
		`{"model":"a"`:                                       "ends too early",
		`{"model":"a"} {}`:                                   "unexpected '{'",
		"{\"model\":\"a\xff\"}":                              "is not UTF-8",
		"{\"model\":\"a\n\"}":                                "control character",
		`{"model":"\x"}`:                                     "escape",
		`{"model":"a","x":01}`:                               "unexpected '0'",
		`{"model":"a","x":[1,]}`:                             "unexpected ']'",
		`{"model":"a",}`:                                     "unexpected '}'",
		`{"model":"a","x":` + strings.Repeat("[", 200):                               "nests deeper than 128",
		`{"model":"` + strings.Repeat("a", 300) + `"}`:                               "longer than 256",
		`{"model":"a","stream_options":{"include_usage":true,"include_usage":true}}`: "include_usage twice",
		`{"model":"a","messages":[{"content":[{"type":"image","type":"text"}]}]}`:    `"type" twice`,
		`{"model":"a","messages":5}`:                                                 "neither a string nor an array",
	} {
		_, err := Read(Chat, []byte(body))
		require.ErrorContains(t, err, want, body)
	}
	_, err := Read(Models, nil)
	require.ErrorContains(t, err, "takes none")
}
