package usage

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// shapeCases are usage objects of every provider in the shapes that their APIs document and send.
var shapeCases = []struct {
	name, provider, object string
	want                   Tokens
	tier                   string
	incomplete             bool
}{
	{
		name: "gemini: thoughts are beside the candidates, tools beside the prompt, the cache inside", provider: "gcp.gemini",
		object: `{"promptTokenCount":1000,"cachedContentTokenCount":400,"candidatesTokenCount":50,"thoughtsTokenCount":30,
			"toolUsePromptTokenCount":20,"totalTokenCount":1100,"serviceTier":"flex",
			"promptTokensDetails":[{"modality":"TEXT","tokenCount":900},{"modality":"IMAGE","tokenCount":100}],
			"candidatesTokensDetails":[{"modality":"TEXT","tokenCount":50}]}`,
		want: Tokens{UncachedInput: 620, CacheRead: 400, Output: 80, Reasoning: 30}, tier: "flex",
	},
	{
		name: "gemini: a total without tools", provider: "google",
		object: `{"promptTokenCount":10,"candidatesTokenCount":5,"toolUsePromptTokenCount":2,"totalTokenCount":15}`,
		want:   Tokens{UncachedInput: 12, Output: 5},
	},
	{
		name: "gemini: an answer without text leaves its count out", provider: "vertex_ai",
		object: `{"promptTokenCount":10,"totalTokenCount":10,"trafficType":"ON_DEMAND"}`, want: Tokens{UncachedInput: 10},
	},
	{
		name: "gemini: provisioned throughput has no price by the token", provider: "gcp.vertex_ai",
		object: `{"promptTokenCount":10,"candidatesTokenCount":5,"totalTokenCount":15,"trafficType":"PROVISIONED_THROUGHPUT"}`,
		want:   Tokens{UncachedInput: 10, Output: 5}, tier: "provisioned",
	},
	{
		name: "gemini: no output and no total to say so", provider: "google",
		object: `{"promptTokenCount":10}`, want: Tokens{UncachedInput: 10}, incomplete: true,
	},
	{
		name: "gemini: a total that does not add up", provider: "google",
		object: `{"promptTokenCount":10,"candidatesTokenCount":5,"totalTokenCount":99}`, want: Tokens{UncachedInput: 10, Output: 5}, incomplete: true,
	},
	{
		name: "gemini: more cached than prompted", provider: "google",
		object: `{"promptTokenCount":10,"cachedContentTokenCount":11,"candidatesTokenCount":5,"totalTokenCount":15}`, incomplete: true,
	},
	{
		name: "gemini: more cached than prompted, though tools would cover it", provider: "google",
		object: `{"promptTokenCount":10,"cachedContentTokenCount":11,"candidatesTokenCount":5,"toolUsePromptTokenCount":9,"totalTokenCount":24}`, incomplete: true,
	},
	{
		name: "gemini: what is heard is priced apart", provider: "google",
		object: `{"promptTokenCount":10,"candidatesTokenCount":5,"totalTokenCount":15,"promptTokensDetails":[{"modality":"AUDIO","tokenCount":3}]}`,
		want:   Tokens{UncachedInput: 10, Output: 5}, incomplete: true,
	},
	{
		name: "gemini: so is a picture that is made", provider: "google",
		object: `{"promptTokenCount":10,"candidatesTokenCount":1290,"totalTokenCount":1300,"candidatesTokensDetails":[{"modality":"IMAGE","tokenCount":1290}]}`,
		want:   Tokens{UncachedInput: 10, Output: 1290}, incomplete: true,
	},
	{
		name: "vertex: a partner's model", provider: "vertex_ai",
		object: `{"input_tokens":4,"cache_creation_input_tokens":0,"cache_read_input_tokens":20,"output_tokens":7}`,
		want:   Tokens{UncachedInput: 4, CacheRead: 20, Output: 7},
	},
	{
		name: "bedrock converse: the input leaves the cache out", provider: "aws.bedrock",
		object: `{"inputTokens":10,"outputTokens":5,"totalTokens":345,"cacheReadInputTokens":30,"cacheWriteInputTokens":300,
			"cacheDetails":[{"ttl":"1h","inputTokens":200},{"ttl":"5m","inputTokens":100}]}`,
		want: Tokens{UncachedInput: 10, CacheRead: 30, CacheWrite5m: 100, CacheWrite1h: 200, Output: 5},
	},
	{
		name: "bedrock converse: a total of input and output alone", provider: "bedrock",
		object: `{"inputTokens":10,"outputTokens":5,"totalTokens":15,"cacheReadInputTokens":30,"cacheWriteInputTokens":300}`,
		want:   Tokens{UncachedInput: 10, CacheRead: 30, CacheWrite5m: 300, Output: 5},
	},
	{
		name: "bedrock converse: its first names", provider: "bedrock",
		object: `{"inputTokens":10,"outputTokens":5,"totalTokens":15,"cacheReadInputTokenCount":30,"cacheWriteInputTokenCount":0}`,
		want:   Tokens{UncachedInput: 10, CacheRead: 30, Output: 5},
	},
	{
		name: "bedrock converse: a lifetime that is not known", provider: "aws",
		object: `{"inputTokens":10,"outputTokens":5,"cacheWriteInputTokens":3,"cacheDetails":[{"ttl":"24h","inputTokens":3}]}`,
		want:   Tokens{UncachedInput: 10, Output: 5}, incomplete: true,
	},
	{
		name: "bedrock converse: a total that does not add up", provider: "aws",
		object: `{"inputTokens":10,"outputTokens":5,"totalTokens":16}`, want: Tokens{UncachedInput: 10, Output: 5}, incomplete: true,
	},
	{
		name: "bedrock: invocation metrics", provider: "aws",
		object: `{"inputTokenCount":10,"outputTokenCount":5,"invocationLatency":812,"firstByteLatency":310,"cacheReadInputTokenCount":7,"cacheWriteInputTokenCount":2}`,
		want:   Tokens{UncachedInput: 10, CacheRead: 7, CacheWrite5m: 2, Output: 5},
	},
	{name: "bedrock: another model's own counts", provider: "aws", object: `{"prompt_token_count":1,"generation_token_count":2}`, incomplete: true},
	{
		name: "azure has OpenAI's shape", provider: "azure.ai.openai",
		object: `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64}}`,
		want:   Tokens{UncachedInput: 36, CacheRead: 64, Output: 20},
	},
	{
		name: "deepseek: hits and misses make up the prompt", provider: "deepseek",
		object: `{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,"prompt_tokens_details":{"cached_tokens":64},
			"completion_tokens_details":{"reasoning_tokens":8},"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":36}`,
		want: Tokens{UncachedInput: 36, CacheRead: 64, Output: 20, Reasoning: 8},
	},
	{
		name: "deepseek: they do not", provider: "deepseek",
		object: `{"prompt_tokens":100,"completion_tokens":20,"prompt_cache_hit_tokens":64,"prompt_cache_miss_tokens":35}`, incomplete: true,
	},
	{
		name: "mistral", provider: "mistral_ai",
		object: `{"prompt_tokens":20,"completion_tokens":18,"total_tokens":38,"prompt_audio_seconds":null,"prompt_tokens_details":{"cached_tokens":10}}`,
		want:   Tokens{UncachedInput: 10, CacheRead: 10, Output: 18},
	},
	{
		name: "mistral: what is heard", provider: "mistral",
		object: `{"prompt_tokens":20,"completion_tokens":18,"total_tokens":38,"prompt_audio_seconds":12}`, want: Tokens{UncachedInput: 20, Output: 18}, incomplete: true,
	},
	{
		name: "groq tells times too", provider: "groq",
		object: `{"queue_time":0.02,"prompt_tokens":18,"prompt_time":0.001,"completion_tokens":556,"completion_time":0.46,"total_tokens":574,"total_time":0.463}`,
		want:   Tokens{UncachedInput: 18, Output: 556},
	},
	{
		name: "xai: reasoning beside the completion", provider: "x_ai",
		object: `{"prompt_tokens":32,"completion_tokens":9,"total_tokens":135,"prompt_tokens_details":{"text_tokens":32,"image_tokens":4,"cached_tokens":8},
			"completion_tokens_details":{"reasoning_tokens":94},"num_sources_used":0}`,
		want: Tokens{UncachedInput: 24, CacheRead: 8, Output: 103, Reasoning: 94},
	},
	{
		name: "xai: reasoning inside the output", provider: "xai",
		object: `{"input_tokens":32,"output_tokens":103,"total_tokens":135,"output_tokens_details":{"reasoning_tokens":94}}`,
		want:   Tokens{UncachedInput: 32, Output: 103, Reasoning: 94},
	},
	{
		name: "xai: no total to tell which", provider: "xai",
		object: `{"prompt_tokens":32,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":4}}`, incomplete: true,
	},
	{
		name: "cohere: what is billed stands over what was read", provider: "cohere",
		object: `{"billed_units":{"input_tokens":12,"output_tokens":47},"tokens":{"input_tokens":212,"output_tokens":47},"cached_tokens":208}`,
		want:   Tokens{UncachedInput: 12, Output: 47},
	},
	{
		name: "cohere: fractions that are whole", provider: "cohere_chat",
		object: `{"api_version":{"version":"1"},"billed_units":{"input_tokens":12.0,"output_tokens":47.0}}`, want: Tokens{UncachedInput: 12, Output: 47},
	},
	{
		name: "cohere: tokens alone", provider: "cohere",
		object: `{"tokens":{"input_tokens":212,"output_tokens":47},"cached_tokens":208}`, want: Tokens{UncachedInput: 4, CacheRead: 208, Output: 47},
	},
	{name: "cohere: an embedding has no output", provider: "cohere", object: `{"billed_units":{"input_tokens":12}}`, want: Tokens{UncachedInput: 12}},
	{name: "cohere: searches", provider: "cohere", object: `{"billed_units":{"search_units":1}}`, incomplete: true},
	{
		name: "openrouter has OpenAI's shape, whatever it routes to", provider: "openrouter",
		object: `{"prompt_tokens":194,"completion_tokens":2,"total_tokens":196,"cost":0.00095,"is_byok":false,
			"prompt_tokens_details":{"cached_tokens":100,"cache_write_tokens":50,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":0,"image_tokens":0}}`,
		want: Tokens{UncachedInput: 44, CacheRead: 100, CacheWrite5m: 50, Output: 2},
	},
	{
		name: "openai: a total that does not add up", provider: "openai",
		object: `{"prompt_tokens":10,"completion_tokens":5,"total_tokens":16}`, want: Tokens{UncachedInput: 10, Output: 5}, incomplete: true,
	},
	{
		name: "openai: a picture that is made", provider: "openai",
		object: `{"input_tokens":50,"input_tokens_details":{"text_tokens":10,"image_tokens":40},"output_tokens":60,"total_tokens":110}`,
		want:   Tokens{UncachedInput: 50, Output: 60}, incomplete: true,
	},
	{name: "openai: a transcription by the second", provider: "openai", object: `{"type":"duration","seconds":12}`, incomplete: true},
	{
		name: "openai: a realtime session's details", provider: "openai",
		object: `{"input_tokens":5,"output_tokens":6,"total_tokens":11,"input_token_details":{"audio_tokens":5}}`, incomplete: true,
	},
	{
		name: "anthropic: thinking is inside the output", provider: "anthropic",
		object: `{"input_tokens":4,"output_tokens":9,"output_tokens_details":{"thinking_tokens":5}}`, want: Tokens{UncachedInput: 4, Output: 9, Reasoning: 5},
	},
	{
		name: "anthropic: inference in one country, in a batch", provider: "anthropic",
		object: `{"input_tokens":4,"output_tokens":9,"service_tier":"batch","inference_geo":"us"}`, want: Tokens{UncachedInput: 4, Output: 9}, tier: "batch+us",
	},
}

func TestShapes(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, tc := range shapeCases {
		seen[Provider(tc.provider)] = true
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := FromUsage(tc.provider, []byte(tc.object))
			require.NoError(t, err)
			require.Equal(t, Report{ServiceTier: tc.tier, Tokens: tc.want, Complete: !tc.incomplete}, r)
		})
	}
	for _, name := range Providers() {
		require.True(t, seen[name], "%s has a case", name)
		for _, object := range []string{`{}`, `{"tokens":7}`, `[]`, `null`, `"x"`, `{"prompt_tokens":"7","completion_tokens":1}`, `{"usage":{"total":3}}`} {
			r, err := FromUsage(name, []byte(object))
			require.NoError(t, err)
			require.Equal(t, Report{}, r, "%s %s", name, object)
		}
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	for alias, want := range map[string]string{
		"aws.bedrock": "aws", "bedrock_converse": "aws", "azure.ai.openai": "azure", "azure.ai.inference": "azure", "az.ai.openai": "azure",
		"azure_ai": "azure", "gcp.gemini": "google", "gcp.vertex_ai": "google", "gcp.gen_ai": "google", "Gemini": "google", "vertex_ai": "google",
		"mistral_ai": "mistral", " X_AI ": "xai", "cohere_chat": "cohere", "text-completion-openai": "openai", "Perplexity": "perplexity",
	} {
		require.Equal(t, want, Provider(alias), alias)
	}
	require.Equal(t, []string{"openai", "anthropic", "google", "aws", "azure", "deepseek", "mistral", "groq", "xai", "cohere", "openrouter"}, Providers())
}

// bodyCases are whole responses.
var bodyCases = []struct {
	name, provider, body string
	want                 Report
}{
	{
		"gemini", "google", `{"candidates":[{"content":{},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":2,"totalTokenCount":10},"modelVersion":"gemini-2.0-flash-001"}`,
		Report{Model: "gemini-2.0-flash-001", Tokens: Tokens{UncachedInput: 8, Output: 2}, Complete: true},
	},
	{
		"vertex anthropic", "gcp.vertex_ai", `{"type":"message","model":"claude-sonnet-4-5","usage":{"input_tokens":3,"output_tokens":2}}`,
		Report{Model: "claude-sonnet-4-5", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"bedrock converse", "aws", `{"output":{"message":{}},"stopReason":"end_turn","usage":{"inputTokens":3,"outputTokens":2,"totalTokens":5},"metrics":{"latencyMs":9},"serviceTier":{"type":"priority"}}`,
		Report{ServiceTier: "priority", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"bedrock converse, latency optimised", "aws", `{"usage":{"inputTokens":3,"outputTokens":2,"totalTokens":5},"performanceConfig":{"latency":"optimized"}}`,
		Report{ServiceTier: "optimized", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"bedrock invoke of Anthropic", "bedrock", `{"type":"message","model":"claude-3-5-haiku-20241022","usage":{"input_tokens":4,"cache_creation_input_tokens":18131,"cache_read_input_tokens":0,"output_tokens":50}}`,
		Report{Model: "claude-3-5-haiku-20241022", Tokens: Tokens{UncachedInput: 4, CacheWrite5m: 18131, Output: 50}, Complete: true},
	},
	{
		"azure, with content filters", "azure", `{"model":"gpt-4o-2024-11-20","prompt_filter_results":[{"prompt_index":0}],"choices":[{"content_filter_results":{}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`,
		Report{Model: "gpt-4o-2024-11-20", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"cohere's first API", "cohere", `{"text":"hi","meta":{"api_version":{"version":"1"},"billed_units":{"input_tokens":5,"output_tokens":2},"tokens":{"input_tokens":71,"output_tokens":2}}}`,
		Report{Tokens: Tokens{UncachedInput: 5, Output: 2}, Complete: true},
	},
	{
		"cohere's second", "cohere", `{"message":{},"usage":{"billed_units":{"input_tokens":5,"output_tokens":2},"tokens":{"input_tokens":71,"output_tokens":2}}}`,
		Report{Tokens: Tokens{UncachedInput: 5, Output: 2}, Complete: true},
	},
	{
		"groq", "groq", `{"model":"openai/gpt-oss-20b","service_tier":"on_demand","usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"x_groq":{"id":"req_1"}}`,
		Report{Model: "openai/gpt-oss-20b", Tokens: Tokens{UncachedInput: 3, Output: 2}, Complete: true},
	},
	{
		"gemini's stream as one array", "google", `[{"candidates":[{}],"usageMetadata":{"promptTokenCount":8,"totalTokenCount":8}},
			{"candidates":[{"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":2,"totalTokenCount":10},"modelVersion":"gemini-2.5-flash"}]`,
		Report{Model: "gemini-2.5-flash", Tokens: Tokens{UncachedInput: 8, Output: 2}, Complete: true},
	},
}

func TestBodies(t *testing.T) {
	t.Parallel()
	for _, tc := range bodyCases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := FromBody(tc.provider, []byte(tc.body))
			require.NoError(t, err)
			require.Equal(t, tc.want, r)
		})
	}
	for _, name := range Providers() {
		for _, body := range []string{`{"error":{"message":"rate limited","code":429}}`, `{}`, `[]`, `"x"`, `{"usage":null}`} {
			r, err := FromBody(name, []byte(body))
			require.NoError(t, err)
			require.Equal(t, Report{}, r, "%s %s", name, body)
		}
	}
}

// What a usage object says in all is what is in the buckets, whichever way it is split.
func TestBucketsMakeUpTheTotals(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := func(name string, most int64) int64 { return rapid.Int64Range(0, most).Draw(t, name) }
		input, output := n("input", 1_000_000), n("output", 1_000_000)
		read := n("read", input)
		write := n("write", input-read)
		reasoning := n("reasoning", output)
		for provider, object := range map[string]string{
			"openai": fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}`,
				input, output, input+output, read, write, reasoning),
			"xai": fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"cache_write_tokens":%d},"completion_tokens_details":{"reasoning_tokens":%d}}`,
				input, output-reasoning, input+output, read, write, reasoning),
			"deepseek": fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_cache_hit_tokens":%d,"prompt_cache_miss_tokens":%d}`,
				input, output, input+output, read, input-read),
			"anthropic": fmt.Sprintf(`{"input_tokens":%d,"cache_read_input_tokens":%d,"cache_creation_input_tokens":%d,"output_tokens":%d}`,
				input-read-write, read, write, output),
			"google": fmt.Sprintf(`{"promptTokenCount":%d,"toolUsePromptTokenCount":%d,"cachedContentTokenCount":%d,"candidatesTokenCount":%d,"thoughtsTokenCount":%d,"totalTokenCount":%d}`,
				input-write, write, read, output-reasoning, reasoning, input+output),
			"aws": fmt.Sprintf(`{"inputTokens":%d,"outputTokens":%d,"totalTokens":%d,"cacheReadInputTokens":%d,"cacheWriteInputTokens":%d}`,
				input-read-write, output, input+output, read, write),
			"cohere": fmt.Sprintf(`{"tokens":{"input_tokens":%d,"output_tokens":%d},"cached_tokens":%d}`, input, output, read),
		} {
			r, err := FromUsage(provider, []byte(object))
			require.NoError(t, err)
			require.True(t, r.Complete, "%s %s", provider, object)
			require.Equal(t, input, r.Tokens.Input(), "%s %s", provider, object)
			require.Equal(t, output, r.Tokens.Output, "%s %s", provider, object)
			require.Equal(t, read, r.Tokens.CacheRead, "%s %s", provider, object)
		}
	})
}

// A stream gives the same report however its bytes are cut.
func TestStreamsMayBeCutAnywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		tc := rapid.SampledFrom(streams).Draw(t, "stream")
		s, err := NewStream(tc.provider)
		require.NoError(t, err)
		for rest := tc.text; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "cut")
			_, _ = s.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		require.Equal(t, tc.want, s.Report(), tc.name)
	})
}

func checkReport(t *testing.T, r Report) {
	if err := r.Tokens.Validate(); err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
}

func FuzzBody(f *testing.F) {
	for _, tc := range bodyCases {
		f.Add(tc.provider, tc.body)
	}
	f.Fuzz(func(t *testing.T, provider, body string) {
		r, err := FromBody(provider, []byte(body))
		if err == nil && !json.Valid([]byte(body)) {
			t.Fatal("took what is not JSON")
		}
		checkReport(t, r)
	})
}

func FuzzUsage(f *testing.F) {
	for _, tc := range shapeCases {
		f.Add(tc.provider, tc.object)
	}
	f.Fuzz(func(t *testing.T, provider, object string) {
		r, _ := FromUsage(provider, []byte(object))
		checkReport(t, r)
	})
}

func FuzzSSE(f *testing.F) {
	for i, s := range streams {
		f.Add(s.provider, s.text, i*7)
	}
	f.Fuzz(func(t *testing.T, provider, text string, cut int) {
		whole, err := FromSSE(provider, []byte(text))
		if err != nil {
			return
		}
		checkReport(t, whole)
		s, err := NewStream(provider)
		require.NoError(t, err)
		cut = max(0, min(cut, len(text)))
		_, _ = s.Write([]byte(text[:cut]))
		_ = s.Report()
		_, _ = s.Write([]byte(text[cut:]))
		if cutOff := s.Report(); cutOff != whole {
			t.Fatalf("cut at %d: %+v, whole: %+v", cut, cutOff, whole)
		}
		if whole.Complete && strings.TrimSpace(text) == "" {
			t.Fatal("nothing is not complete")
		}
	})
}
