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
