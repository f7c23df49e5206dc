package usage

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFromUsage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, provider, object string
		want                   Tokens
		tier                   string
		incomplete             bool
	}{
		{
			name: "openai chat: cached and reasoning tokens are inside", provider: "openai",
			object: `{"prompt_tokens":1000,"completion_tokens":50,"total_tokens":1050,
				"prompt_tokens_details":{"cached_tokens":400,"audio_tokens":0},
				"completion_tokens_details":{"reasoning_tokens":30,"audio_tokens":0}}`,
			want: Tokens{UncachedInput: 600, CacheRead: 400, Output: 50, Reasoning: 30},
		},
		{
			name: "openai responses, with cache writes", provider: "openai",
			object: `{"input_tokens":1000,"input_tokens_details":{"cached_tokens":300,"cache_write_tokens":200},
				"output_tokens":50,"output_tokens_details":{"reasoning_tokens":20},"total_tokens":1050}`,
			want: Tokens{UncachedInput: 500, CacheRead: 300, CacheWrite5m: 200, Output: 50, Reasoning: 20},
		},
		{
			name: "openai embeddings have no output", provider: "OpenAI",
			object: `{"prompt_tokens":8,"total_tokens":8}`, want: Tokens{UncachedInput: 8},
		},
		{
			name: "details may be null", provider: "openai",
			object: `{"prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":null}`,
			want:   Tokens{UncachedInput: 8, Output: 2},
		},
		{
			name: "audio has no bucket", provider: "openai",
			object: `{"prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":{"audio_tokens":5}}`,
			want:   Tokens{UncachedInput: 8, Output: 2}, incomplete: true,
		},
		{
			name: "more cached than prompted is not understood", provider: "openai",
			object: `{"prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}`, incomplete: true,
		},
		{
			name: "another provider's shape is not guessed at", provider: "openai",
			object: `{"input_tokens":8,"output_tokens":2,"cache_read_input_tokens":7}`, incomplete: true,
		},
		{name: "no output count", provider: "openai", object: `{"prompt_tokens":8}`, incomplete: true},
		{name: "negative", provider: "openai", object: `{"prompt_tokens":-8,"completion_tokens":1}`, incomplete: true},
		{name: "fraction", provider: "openai", object: `{"prompt_tokens":8.5,"completion_tokens":1}`, incomplete: true},
		{name: "overflow", provider: "openai", object: `{"prompt_tokens":99999999999999999999,"completion_tokens":1}`, incomplete: true},
		{name: "not an object", provider: "openai", object: `[1]`, incomplete: true},
		{
			name: "anthropic: three disjoint groups, writes split", provider: "anthropic",
			object: `{"input_tokens":4,"cache_creation_input_tokens":1167,"cache_read_input_tokens":20,
				"cache_creation":{"ephemeral_5m_input_tokens":1000,"ephemeral_1h_input_tokens":167},
				"output_tokens":187,"service_tier":"standard"}`,
			want: Tokens{UncachedInput: 4, CacheRead: 20, CacheWrite5m: 1000, CacheWrite1h: 167, Output: 187},
		},
		{
			name: "anthropic: writes without a split are of five minutes", provider: "anthropic",
			object: `{"input_tokens":4,"cache_creation_input_tokens":1167,"cache_creation":null,"output_tokens":1,"service_tier":"batch"}`,
			want:   Tokens{UncachedInput: 4, CacheWrite5m: 1167, Output: 1}, tier: "batch",
		},
		{
			name: "anthropic: a split that does not add up", provider: "anthropic",
			object: `{"input_tokens":4,"cache_creation_input_tokens":10,"cache_creation":{"ephemeral_5m_input_tokens":3},"output_tokens":1}`,
			want:   Tokens{UncachedInput: 4, CacheWrite5m: 3, Output: 1}, incomplete: true,
		},
		{
			name: "anthropic: the fast service", provider: "anthropic",
			object: `{"input_tokens":4,"output_tokens":1,"service_tier":"standard","speed":"fast"}`,
			want:   Tokens{UncachedInput: 4, Output: 1}, tier: "fast",
		},
		{name: "anthropic: unknown shape", provider: "anthropic", object: `{"prompt_tokens":4}`, incomplete: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := FromUsage(tc.provider, []byte(tc.object))
			require.NoError(t, err)
			require.Equal(t, Report{ServiceTier: tc.tier, Tokens: tc.want, Complete: !tc.incomplete}, r)
		})
	}
	_, err := FromUsage("nobody", []byte(`{}`))
	require.ErrorIs(t, err, ErrUnsupported)
	_, err = FromUsage("openai", []byte(`{`))
	require.Error(t, err)
}

func TestFromBody(t *testing.T) {
	t.Parallel()
	r, err := FromBody("openai", []byte(`{"model":"gpt-4o-2024-08-06","service_tier":"flex","usage":{"prompt_tokens":3,"completion_tokens":2}}`))
	require.NoError(t, err)
	require.Equal(t, Report{Model: "gpt-4o-2024-08-06", ServiceTier: "flex", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true}, r)
	r, err = FromBody("anthropic", []byte(`{"model":"claude-opus-4-1","usage":{"input_tokens":3,"output_tokens":2}}`))
	require.NoError(t, err)
	require.Equal(t, Report{Model: "claude-opus-4-1", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true}, r)
	r, err = FromBody("openai", []byte(`{"error":{"message":"rate limited"}}`))
	require.NoError(t, err)
	require.Equal(t, Report{}, r)
}

var streams = []struct {
	name, provider, text string
	want                 Report
}{
	{
		"openai chat", "openai", `data: {"model":"gpt-4o-mini-2024-07-18","service_tier":"default","choices":[{"delta":{"content":"a"}}],"usage":null}

data: {"model":"gpt-4o-mini-2024-07-18","choices":[],"usage":{"prompt_tokens":26,"completion_tokens":133,"total_tokens":159,"prompt_tokens_details":{"cached_tokens":6}}}

data: [DONE]

`, Report{Model: "gpt-4o-mini-2024-07-18", Tokens: Tokens{UncachedInput: 20, CacheRead: 6, Output: 133}, Complete: true},
	},
	{
		"openai chat without include_usage", "openai", "data: {\"model\":\"gpt-4o\",\"choices\":[{}]}\n\ndata: [DONE]\n\n",
		Report{Model: "gpt-4o"},
	},
	{
		"openai responses, CRLF and no last blank line", "openai", strings.ReplaceAll(`event: response.created
data: {"type":"response.created","response":{"model":"gpt-4.1","usage":null}}

event: response.completed
data: {"type":"response.completed","response":{"model":"gpt-4.1-2025-04-14","service_tier":"priority","usage":{"input_tokens":11,"input_tokens_details":{"cached_tokens":0},"output_tokens":8,"output_tokens_details":{"reasoning_tokens":0}}}}`, "\n", "\r\n"),
		Report{Model: "gpt-4.1-2025-04-14", ServiceTier: "priority", Tokens: Tokens{UncachedInput: 11, Output: 8}, Complete: true},
	},
	{
		"anthropic: the last message_delta stands", "anthropic", `event: message_start
data: {"type":"message_start","message":{"model":"claude-3-5-sonnet-20240620","usage":{"input_tokens":4,"cache_creation_input_tokens":100,"cache_read_input_tokens":9,"cache_creation":{"ephemeral_1h_input_tokens":100},"output_tokens":1}}   }

event: ping
data: {"type": "ping"}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":null},"usage":{"output_tokens":5}}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":6,"output_tokens":187}}

event: message_stop
data: {"type":"message_stop"}

`, Report{Model: "claude-3-5-sonnet-20240620", Tokens: Tokens{UncachedInput: 6, CacheRead: 9, CacheWrite1h: 100, Output: 187}, Complete: true},
	},
	{
		"anthropic cut off: the input is known, the output is not", "anthropic", `data: {"type":"message_start","message":{"model":"claude-3-opus-20240229","usage":{"input_tokens":4,"output_tokens":1}}}

data: {"type":"content_block_delta"`,
		Report{Model: "claude-3-opus-20240229", Tokens: Tokens{UncachedInput: 4, Output: 1}},
	},
	{
		"gemini: the last counts stand", "google", `data: {"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":1,"totalTokenCount":9},"modelVersion":"gemini-2.5-pro"}

data: {"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":5,"thoughtsTokenCount":7,"totalTokenCount":20},"modelVersion":"gemini-2.5-pro"}

`, Report{Model: "gemini-2.5-pro", Tokens: Tokens{UncachedInput: 8, Output: 12, Reasoning: 7}, Complete: true},
	},
	{
		"gemini cut off", "google", `data: {"candidates":[{"content":{}}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":1,"totalTokenCount":9}}

`, Report{Tokens: Tokens{UncachedInput: 8, Output: 1}},
	},
	{
		"gemini as a JSON array", "gcp.vertex_ai", `[{
  "candidates": [{"content": {"parts": [{"text": "a } \" ] {"}]}}],
  "usageMetadata": {"promptTokenCount": 8}
}
,
{
  "candidates": [{"finishReason": "STOP"}],
  "usageMetadata": {"promptTokenCount": 8, "candidatesTokenCount": 5, "totalTokenCount": 13}, "modelVersion": "gemini-2.0-flash-001"
}
]`, Report{Model: "gemini-2.0-flash-001", Tokens: Tokens{UncachedInput: 8, Output: 5}, Complete: true},
	},
	{
		"vertex anthropic", "google", `data: {"type":"message_start","message":{"model":"claude-sonnet-4-5","usage":{"input_tokens":4,"output_tokens":1}}}

data: {"type":"message_delta","usage":{"output_tokens":9}}

`, Report{Model: "claude-sonnet-4-5", Tokens: Tokens{UncachedInput: 4, Output: 9}, Complete: true},
	},
	{
		"bedrock ConverseStream, JSON lines", "aws", `{"messageStart":{"role":"assistant"}}
{"contentBlockDelta":{"delta":{"text":"hi"}}}
{"messageStop":{"stopReason":"end_turn"}}
{"metadata":{"usage":{"inputTokens":4,"outputTokens":9,"totalTokens":13,"cacheReadInputTokens":0},"metrics":{"latencyMs":71}}}
`, Report{Tokens: Tokens{UncachedInput: 4, Output: 9}, Complete: true},
	},
	{
		"bedrock ConverseStream without metadata", "aws", `{"messageStart":{"role":"assistant"}}
{"messageStop":{"stopReason":"end_turn"}}
`, Report{},
	},
	{
		"bedrock invoke of Anthropic, the metrics last", "aws", `data: {"type":"message_start","message":{"model":"claude-3-5-haiku-20241022","usage":{"input_tokens":4,"cache_read_input_tokens":20,"output_tokens":1}}}

data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}

data: {"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":4,"outputTokenCount":9,"invocationLatency":71,"firstByteLatency":30}}

`, Report{Model: "claude-3-5-haiku-20241022", Tokens: Tokens{UncachedInput: 4, CacheRead: 20, Output: 9}, Complete: true},
	},
	{
		"bedrock invoke of another model: the metrics alone, base64", "aws", `{"chunk":{"bytes":"eyJnZW5lcmF0aW9uIjoiaGkifQ=="}}
{"chunk":{"bytes":"eyJnZW5lcmF0aW9uIjoiIiwiYW1hem9uLWJlZHJvY2staW52b2NhdGlvbk1ldHJpY3MiOnsiaW5wdXRUb2tlbkNvdW50Ijo0LCJvdXRwdXRUb2tlbkNvdW50Ijo5fX0="}}
`, Report{Tokens: Tokens{UncachedInput: 4, Output: 9}, Complete: true},
	},
	{
		"groq: usage under x_groq", "groq", `data: {"model":"llama-3.3-70b-versatile","choices":[{"delta":{},"finish_reason":null}],"x_groq":{"id":"req_1"}}

data: {"model":"llama-3.3-70b-versatile","choices":[{"delta":{},"finish_reason":"stop"}],"x_groq":{"id":"req_1","usage":{"prompt_tokens":18,"completion_tokens":9,"total_tokens":27}}}

data: [DONE]

`, Report{Model: "llama-3.3-70b-versatile", Tokens: Tokens{UncachedInput: 18, Output: 9}, Complete: true},
	},
	{
		"xai: usage so far on each chunk", "xai", `data: {"model":"grok-4","choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":32,"completion_tokens":1,"total_tokens":33}}

data: {"model":"grok-4","choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"completion_tokens_details":{"reasoning_tokens":94}}}

`, Report{Model: "grok-4", Tokens: Tokens{UncachedInput: 32, Output: 103, Reasoning: 94}, Complete: true},
	},
	{
		"xai cut off", "xai", `data: {"model":"grok-4","choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":32,"completion_tokens":1,"total_tokens":33}}

`, Report{Model: "grok-4", Tokens: Tokens{UncachedInput: 32, Output: 1}},
	},
	{
		"azure: filters first, in a chunk without choices", "azure.ai.openai", `data: {"choices":[],"model":"","prompt_filter_results":[{"prompt_index":0}]}

data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}],"model":"gpt-4o-2024-11-20","usage":null}

data: {"choices":[],"model":"gpt-4o-2024-11-20","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}

data: [DONE]

`, Report{Model: "gpt-4o-2024-11-20", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"deepseek", "deepseek", `data: {"model":"deepseek-chat","choices":[{"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}}

data: [DONE]

`, Report{Model: "deepseek-chat", Tokens: Tokens{UncachedInput: 36, CacheRead: 64, Output: 20}, Complete: true},
	},
	{
		"openrouter: comments while it waits", "openrouter", `: OPENROUTER PROCESSING

data: {"model":"anthropic/claude-sonnet-4.5","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}

: OPENROUTER PROCESSING

data: {"model":"anthropic/claude-sonnet-4.5","choices":[{"delta":{"content":""},"finish_reason":null}],"usage":{"prompt_tokens":194,"completion_tokens":2,"total_tokens":196,"cost":0.00095}}

data: [DONE]

`, Report{Model: "anthropic/claude-sonnet-4.5", Tokens: Tokens{UncachedInput: 194, Output: 2}, Complete: true},
	},
	{
		"cohere's second API", "cohere", `event: message-start
data: {"id":"1","type":"message-start","delta":{"message":{"role":"assistant"}}}

event: message-end
data: {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":{"input_tokens":12,"output_tokens":47},"tokens":{"input_tokens":212,"output_tokens":47}}}}

data: [DONE]

`, Report{Tokens: Tokens{UncachedInput: 12, Output: 47}, Complete: true},
	},
	{
		"cohere's first API, JSON lines", "cohere", `{"is_finished":false,"event_type":"text-generation","text":"a"}
{"is_finished":true,"event_type":"stream-end","response":{"text":"a","meta":{"billed_units":{"input_tokens":12,"output_tokens":47}}},"finish_reason":"COMPLETE"}`,
		Report{Tokens: Tokens{UncachedInput: 12, Output: 47}, Complete: true},
	},
}

func TestFromSSE(t *testing.T) {
	t.Parallel()
	for _, tc := range streams {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := FromSSE(tc.provider, []byte(tc.text))
			require.NoError(t, err)
			require.Equal(t, tc.want, r)
			for cut := range len(tc.text) { // a stream may be cut into writes anywhere
				s, err := NewStream(tc.provider)
				require.NoError(t, err)
				_, _ = s.Write([]byte(tc.text[:cut]))
				_ = s.Report() // looking does not disturb
				_, _ = s.Write([]byte(tc.text[cut:]))
				require.Equal(t, tc.want, s.Report(), "cut at %d", cut)
			}
		})
	}
}

func TestStreamKeepsLittle(t *testing.T) {
	t.Parallel()
	s, err := NewStream("openai")
	require.NoError(t, err)
	chunk := []byte("data: " + strings.Repeat("x", 1<<20))
	for range 16 {
		_, _ = s.Write(chunk)
	}
	require.LessOrEqual(t, cap(s.line), 2*maxEvent)
	_, _ = s.Write([]byte("\n\n" + streams[0].text))
	require.Equal(t, streams[0].want, s.Report(), "what follows an overlong line is read")

	s, err = NewStream("google")
	require.NoError(t, err)
	_, _ = s.Write([]byte(`[{"candidates":"`))
	for range 16 {
		_, _ = s.Write(chunk)
	}
	require.LessOrEqual(t, cap(s.line), 2*maxEvent)
	_, _ = s.Write([]byte(`"},{"usageMetadata":{"promptTokenCount":1,"candidatesTokenCount":2,"totalTokenCount":3}}]`))
	require.Equal(t, Report{Tokens: Tokens{UncachedInput: 1, Output: 2}, Complete: true}, s.Report(), "what follows an overlong object is read")
}

// Lines that never make an event must not be looked at again with each that follows.
func TestStreamOfOpenLinesIsLinear(t *testing.T) {
	t.Parallel()
	for _, line := range []string{"data: 1,\n", "data: {},\n", "data: {}\n", "data: ,{}\n"} {
		s, err := NewStream("openai")
		require.NoError(t, err)
		_, _ = s.Write([]byte("data: {\"choices\":[\n"))
		_, _ = s.Write([]byte(strings.Repeat(line, 200_000)))
		require.Equal(t, Report{}, s.Report())
	}
}

// Events whose types are escaped, or that are no whole JSON, are told from those that can be passed over.
func TestStreamReadsEscapedTypes(t *testing.T) {
	t.Parallel()
	stream := `data: {"type":"\u006dessage\u005fstart","message":{"model":"claude","usage":{"input_tokens":3,"output_tokens":1}}}` + "\n\n" +
		`data: {"type":"content_block_delta","delta":{"text":"message_delta"}}` + "\n\n" +
		`data: {"type":"message_delta","usage":{"output_tokens":900}` + "\n\n" +
		`data: {"type":"mess\u0061ge_delta","usage":{"output_tokens":7}}` + "\n\n"
	r, err := FromSSE("anthropic", []byte(stream))
	require.NoError(t, err)
	require.Equal(t, Report{Model: "claude", Tokens: Tokens{UncachedInput: 3, Output: 7}, Complete: true}, r)
}
