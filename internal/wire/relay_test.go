package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const chatStream = `data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}

data: {"id":"c","choices":[{"index":0,"delta":{"content":"H\u00e9"}}],"usage":null}

data: {"id":"c","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"call_1","function":{"name":"f","arguments":"{}"}}]}}]}

data: {"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}

data: [DONE]

`

const messagesStream = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1}}}\n\n" +
	"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n" +
	"event: ping\ndata: {\"type\":\"ping\"}\n\n" +
	"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

const responsesStream = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"usage\":null}}\n\n" +
	"event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"item\":{\"type\":\"message\"}}\n\n" +
	"event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"H\\u00e9\"}\n\n" +
	"event: response.function_call_arguments.delta\ndata: {\"delta\":\"{}\",\"type\":\"response.function_call_arguments.delta\"}\n\n" +
	"event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"text\":\"Hé\"}\n\n" +
	"event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":1,\"output_tokens\":2,\"total_tokens\":3}}}\n\n"

// cut passes a stream in pieces.
func cut(t *rapid.T, r *Relay, stream string) string {
	var got []byte
	for len(stream) > 0 {
		n := rapid.IntRange(1, len(stream)).Draw(t, "n")
		got = r.Pass(got, []byte(stream[:n]))
		stream = stream[n:]
	}
	return string(r.Rest(got))
}

func TestRelayIsFaithfulHoweverTheStreamIsCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		for _, eol := range []string{"\n", "\r\n"} {
			chat := strings.ReplaceAll(chatStream, "\n", eol)
			r := NewRelay(Chat, false, nil)
			require.Equal(t, chat, cut(t, r, chat))
			require.True(t, r.Terminal())
			require.EqualValues(t, len("Hé")+len("call_1")+len("f{}"), r.Text())

			r = NewRelay(Chat, true, func() string { return "x-llm-cost-this-request 0.1" })
			events := strings.SplitAfter(chat, eol+eol)
			want := strings.Join(events[:3], "") + ": x-llm-cost-this-request 0.1\n" + events[4]
			require.Equal(t, want, cut(t, r, chat))

			messages := strings.ReplaceAll(messagesStream, "\n", eol)
			r = NewRelay(Messages, true, func() string { return "a\nb" })
			require.Equal(t, strings.Replace(messages, "event: message_stop", ": a b\nevent: message_stop", 1), cut(t, r, messages))
			require.True(t, r.Terminal())
			require.GreaterOrEqual(t, r.Text(), int64(5))
		}
	})
}

func TestRelayOfResponses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		eol := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "eol")
		stream := strings.ReplaceAll(responsesStream, "\n", eol)
		r := NewRelay(Responses, true, func() string { return "cost" })
		require.Equal(t, strings.Replace(stream, "event: response.completed", ": cost\nevent: response.completed", 1), cut(t, r, stream))
		require.True(t, r.Terminal())
		require.False(t, r.Hidden())
		item := `{"type":"response.output_item.added","item":{"type":"message"}}`
		require.EqualValues(t, len(item)+len("Hé")+len("{}"), r.Text())
	})
}

func TestRelayTellsHowAStreamEnds(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		api      API
		event    string
		terminal bool
		hidden   bool
	}{
		{Responses, `data: {"type":"response.failed","response":{}}`, true, false},
		{Responses, `data: {"type":"response.incomplete","response":{}}`, true, false},
		{Responses, `data: {"type":"error","message":"x"}`, true, false},
		{Responses, `data: {"type":"response.output_item.added","item":{"type":"reasoning"}}`, false, true},
		{Responses, `data: {"type":"response.in_progress"}`, false, false},
		{Messages, `data: {"type":"message_stop"}`, true, false},
		{Messages, `data: {"type":"content_block_start","content_block":{"type":"redacted_thinking"}}`, false, true},
		{Messages, `data: {"type":"content_block_start","content_block":{"thinking":"","type":"thinking"}}`, false, true},
		{Messages, `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}`, false, false},
		{Messages, `event: error`, true, false},
		{Chat, `data: [DONE]`, true, false},
		{Chat, `data: {"error":{"message":"x"}}`, true, false},
		{Chat, `data: {"error":null,"choices":[]}`, false, false},
		{Chat, `data: {"choices":[{"delta":{"content":"[DONE] \"error\" message_stop"}}]}`, false, false},
	} {
		said := 0
		r := NewRelay(tc.api, true, func() string { said++; return "" })
		require.Equal(t, tc.event+"\n\n", string(r.Pass(nil, []byte(tc.event+"\n\n"))))
		require.Equal(t, tc.terminal, r.Terminal(), tc.event)
		require.Equal(t, tc.hidden, r.Hidden(), tc.event)
		r.Pass(nil, []byte("data: [DONE]\n\n"))
		require.Equal(t, 1, said, "%s: once, though another terminal event follows", tc.event)
	}
}

func TestRelayEndsWithoutABlankLine(t *testing.T) {
	t.Parallel()
	r := NewRelay(Chat, true, func() string { return "cost" })
	require.Empty(t, r.Pass(nil, []byte("data: [DONE]\n")))
	require.False(t, r.Terminal())
	require.Equal(t, ": cost\ndata: [DONE]\n", string(r.Rest(nil)))
	require.True(t, r.Terminal())
	require.Empty(t, r.Rest(nil))
}

func TestRelayPassesAnEndlessEventOn(t *testing.T) {
	t.Parallel()
	r := NewRelay(Chat, true, nil)
	piece := []byte("data: " + strings.Repeat("x", 64<<10))
	sent, got := 0, []byte{}
	for range 100 {
		got = r.Pass(got, piece)
		sent += len(piece)
		require.Less(t, cap(r.held), 4*maxEvent)
	}
	require.Greater(t, len(got), sent-maxEvent-len(piece))
	got = r.Pass(got, []byte("\n\ndata: [DONE]\n\n"))
	require.True(t, r.Terminal())
	require.Len(t, got, sent+len("\n\ndata: [DONE]\n\n"))
}
