package wire

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		api          API
		stream, says string
	}{
		{Chat, `data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}

data: {"choices":[{"index":0,"delta":{"content":"Hello, "}},{"index":1,"delta":{"content":"other"}}]}

data: {"choices":[{"index":0,"delta":{"content":"wörld","reasoning_content":"hm","tool_calls":[{"function":{"arguments":"{}"}}]}}]}

data: {"choices":[],"usage":{"prompt_tokens":1}}

data: [DONE]

`, "Hello, wörld"},
		{Responses, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Yes\"}\r\n\r\n" +
			"data: {\"type\":\"response.reasoning_summary_text.delta\",\"delta\":\"hm\"}\n\n" +
			"data: {\"type\":\"response.content_part.added\"}\n\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"no\"}\n\n", "Yes\nno"},
		{Messages, "data: {\"type\":\"content_block_start\"}\n\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\n" +
			"data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"So\"}}\n\ndata: {\"type\":\"message_stop\"}\n\n", "So"},
	} {
		for _, size := range []int{1, 7, len(c.stream)} {
			w := NewWords(c.api, 100)
			for rest := c.stream; rest != ""; rest = rest[min(size, len(rest)):] {
				_, _ = w.Write([]byte(rest[:min(size, len(rest))]))
			}
			text, ok := w.Text()
			require.True(t, ok)
			require.Equal(t, c.says, text)
		}
	}
	w := NewWords(Chat, 4)
	_, _ = w.Write([]byte(`data: {"choices":[{"index":0,"delta":{"content":"Hello"}}]}` + "\n\n"))
	_, ok := w.Text()
	require.False(t, ok, "longer than may be kept")
	w = NewWords(Chat, 4)
	_, _ = w.Write([]byte(strings.Repeat("x", maxEvent+1)))
	_, ok = w.Text()
	require.False(t, ok, "a line without an end")
}
