package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRefusalsAreInTheProvidersShapes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		refusal Refusal
		want    string
	}{
		{
			"OpenAI's budget",
			Refusal{Family: OpenAI, Status: 429, Type: "budget_exceeded", Code: "budget_exceeded", Message: "no"},
			`{"error":{"message":"no","type":"budget_exceeded","param":null,"code":"budget_exceeded"}}`,
		},
		{
			"Anthropic's budget",
			Refusal{Family: Anthropic, Status: 429, Type: "budget_exceeded", Code: "ignored", Message: "no", RequestID: "req_1"},
			`{"type":"error","error":{"type":"budget_exceeded","message":"no"},"request_id":"req_1"}`,
		},
		{
			"a field",
			Refusal{Family: OpenAI, Status: 400, Param: "max_tokens", Message: `say "1"`},
			`{"error":{"message":"say \"1\"","type":"invalid_request_error","param":"max_tokens","code":null}}`,
		},
		{"a status without a kind of its own", Refusal{Family: OpenAI, Status: 404}, `{"error":{"message":"","type":"invalid_request_error","param":null,"code":null}}`},
		{"a fault of ours", Refusal{Family: OpenAI, Status: 502}, `{"error":{"message":"","type":"server_error","param":null,"code":null}}`},
		{"Anthropic's key", Refusal{Family: Anthropic, Status: 401}, `{"type":"error","error":{"type":"authentication_error","message":""}}`},
		{"Anthropic overloaded", Refusal{Family: Anthropic, Status: 529}, `{"type":"error","error":{"type":"overloaded_error","message":""}}`},
		{"Anthropic away", Refusal{Family: Anthropic, Status: 503}, `{"type":"error","error":{"type":"api_error","message":""}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			require.JSONEq(t, tc.want, string(tc.refusal.Body()))
		})
	}
}

// A refusal in a stream is one event whatever its message says, and it ends the stream.
func TestRefusalsEndStreams(t *testing.T) {
	t.Parallel()
	message := "line\n\ndata: [DONE]\r\n"
	for api, want := range map[API]string{
		Chat:      `data: {"error":{"message":"line\n\ndata: [DONE]\r\n","type":"rate_limit_error","param":null,"code":"c"}}` + "\n\n",
		Messages:  "event: error\n" + `data: {"type":"error","error":{"type":"rate_limit_error","message":"line\n\ndata: [DONE]\r\n"}}` + "\n\n",
		Responses: "event: error\n" + `data: {"type":"error","code":"c","message":"line\n\ndata: [DONE]\r\n","param":null,"sequence_number":0}` + "\n\n",
	} {
		e := Refusal{Family: api.Family(), Status: 429, Code: "c", Message: message}.Event(api)
		require.Equal(t, want, string(e))
		require.Equal(t, 1, strings.Count(string(e), "\n\n"))
		r := NewRelay(api, true, nil)
		require.Equal(t, string(e), string(r.Pass(nil, e)))
		require.True(t, r.Terminal(), api)
	}
}

func TestMergesListsOfModels(t *testing.T) {
	t.Parallel()
	merged, err := MergeModels(OpenAI,
		[]byte(`{"object":"list","data":[{"id":"a","created":1,"more":[1.50]},{"id":""},{"id":5},7]}`),
		[]byte(`{"data":null}`), []byte(`{}`),
		[]byte(`{"data":[{"id":"b"},{"id":"a","created":2}]}`))
	require.NoError(t, err)
	require.Equal(t, `{"object":"list","data":[{"id":"a","created":1,"more":[1.50]},{"id":"b"}]}`, string(merged))

	merged, err = MergeModels(Anthropic, []byte(`{"data":[{"id":"x"}],"has_more":true,"last_id":"x"}`), []byte(`{"data":[{"id":"y"}],"has_more":false}`))
	require.NoError(t, err)
	require.Contains(t, string(merged), `"has_more":false,"first_id":"x","last_id":"y"`)

	merged, err = MergeModels(Anthropic)
	require.NoError(t, err)
	require.JSONEq(t, `{"data":[],"has_more":false,"first_id":null,"last_id":null}`, string(merged))
	merged, err = MergeModels(OpenAI)
	require.NoError(t, err)
	require.Equal(t, `{"object":"list","data":[]}`, string(merged))
	_, err = MergeModels(OpenAI, []byte(`{}`), []byte(`<html>`))
	require.ErrorContains(t, err, "list 1 of models")
}
