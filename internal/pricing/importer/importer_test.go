package importer

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

const liteLLMFile = `{
  "sample_spec": {"litellm_provider": "one of many", "input_cost_per_token": 0},
  "m-1": {"litellm_provider": "anthropic", "mode": "chat", "max_tokens": 8192, "input_cost_per_token": 3e-06, "output_cost_per_token": 1.5e-05,
    "cache_creation_input_token_cost": 3.75e-06, "cache_creation_input_token_cost_above_1hr": 6e-06, "cache_read_input_token_cost": 3.0000000000000004e-07,
    "input_cost_per_token_above_200k_tokens": 6e-06, "output_cost_per_token_above_200k_tokens": 2.25e-05, "cache_read_input_token_cost_above_200k_tokens": 6e-07,
    "cache_creation_input_token_cost_above_200k_tokens": 7.5e-06, "search_context_cost_per_query": {"search_context_size_low": 0.01}},
  "m-2": {"litellm_provider": "openai", "mode": "responses", "input_cost_per_token": 1.25e-06, "output_cost_per_token": 1e-05,
    "input_cost_per_token_batches": 6.25e-07, "output_cost_per_token_batches": 5e-06, "input_cost_per_token_flex": 6.25e-07,
    "input_cost_per_token_priority": 2.5e-06, "input_cost_per_token_above_272k_tokens_priority": 5e-06},
  "openai/m-2": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 2e-06},
  "gemini-x": {"litellm_provider": "vertex_ai-language-models", "mode": "chat", "input_cost_per_token": 1e-07, "output_cost_per_token": 4e-07, "output_cost_per_reasoning_token": 3.5e-06},
  "odd": {"litellm_provider": "xai", "input_cost_per_token": 3.333333e-13, "output_cost_per_token": 1e-06},
  "text": {"litellm_provider": "xai", "input_cost_per_token": 1e-06, "output_cost_per_token": "cheap"},
  "free": {"litellm_provider": "groq", "mode": "chat", "input_cost_per_token": 0.0, "output_cost_per_token": 0},
  "embed": {"litellm_provider": "cohere", "mode": "embedding", "input_cost_per_token": 1e-07, "output_cost_per_token": 0.0},
  "draw": {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_token": 5e-06},
  "nobody": {"mode": "chat", "input_cost_per_token": 1e-06},
  "list": []
}`

// read imports a file and reads the book back that it makes.
func read(t *testing.T, format, file string) (*Import, *pricing.Book) {
	t.Helper()
	got, err := Read(format, []byte(file))
	require.NoError(t, err)
	b, err := book.Parse("imported", book.Encode(got.Entries, "a comment\nof two lines"))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(got.Entries), fmt.Sprint(b.Entries()), "a book reads back as it was written")
	return got, b
}

func rates(t *testing.T, b *pricing.Book, provider, model, tier string, at time.Time, input int64) string {
	t.Helper()
	q, err := b.Quote(provider, model, tier, at)
	if err != nil {
		require.ErrorIs(t, err, pricing.ErrUnknown)
		return "none"
	}
	r, above := q.Rates(usage.Tokens{UncachedInput: input})
	return fmt.Sprintf("%s %s %s %s %s above %d", r.Input, r.CacheRead, r.CacheWrite5m, r.CacheWrite1h, r.Output, above)
}

func left(i *Import) []string {
	list := make([]string, len(i.Left))
	for j, l := range i.Left {
		list[j] = l.String()
	}
	return list
}

func TestLiteLLM(t *testing.T) {
	t.Parallel()
	got, b := read(t, "litellm", liteLLMFile)
	now := time.Date(2026, 8, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct {
		provider, model, tier string
		input                 int64
		want                  string
	}{
		{"anthropic", "m-1", "", 200_000, "3 0.3 3.75 6 15 above 0"},
		{"anthropic", "m-1", "", 200_001, "6 0.6 7.5  22.5 above 200000"},
		{"openai", "m-2", "", 1, "1.25    10 above 0"},
		{"openai", "m-2", "batch", 1, "0.625    5 above 0"},
		{"openai", "m-2", "flex", 1, "0.625     above 0"},
		{"openai", "m-2", "priority", 300_000, "5     above 272000"},
		{"google", "gemini-x", "", 1, "0.1     above 0"},
		{"cohere", "embed", "", 1, "0.1    0 above 0"},
		{"xai", "text", "", 1, "1     above 0"},
		{"groq", "free", "", 1, "none"},
	} {
		require.Equal(t, tc.want, rates(t, b, tc.provider, tc.model, tc.tier, now, tc.input), tc.model)
	}
	require.Equal(t, 11, got.Models)
	require.Len(t, got.Entries, 5)
	require.ElementsMatch(t, []string{
		"m-1: search_context_cost_per_query: no bucket of tokens is priced so",
		"m-1: cache_write_1h: has no price in service tier standard above 200000 tokens",
		"openai/m-2: m-2 of openai is there already, at other prices",
		"gemini-x: output_cost_per_reasoning_token: reasoning has a price of its own, so that output has no single one",
		"odd: input_cost_per_token: price 3.333333e-13 has more than 12 decimals: it is not a whole number of pico-dollars per token",
		"odd: has no price of input tokens",
		"text: output_cost_per_token: is not a number",
		"free: " + free,
		"draw: mode image_generation is not priced by tokens of text",
		"nobody: has no litellm_provider",
		"list: is not an object of prices",
	}, left(got))
}

const genAIFile = `[
  {"id": "x-ai", "models": [
    {"id": "grok", "match": {"or": [{"equals": "grok"}, {"equals": "grok-latest"}, {"starts_with": "grok-["}, {"regex": "^g"}, {"and": [{"contains": "a"}]}]},
     "prices": {"input_mtok": {"base": 3, "tiers": [{"start": 128000, "price": 6}]}, "output_mtok": 15, "input_audio_mtok": 10}},
    {"id": "grok-2", "match": {"equals": "grok-latest"}, "prices": {"input_mtok": 1, "cache_write_mtok": 0.08333333333333334, "output_mtok": 2}},
    {"id": "nothing", "match": {"equals": "nothing"}, "prices": {}}]},
  {"id": "deepseek", "models": [
    {"id": "chat", "match": {"contains": "chat"}, "prices": [
      {"prices": {"input_mtok": 0.135, "output_mtok": 0.55}},
      {"constraint": {"start_time": "00:30:00Z", "end_time": "16:30:00Z"}, "prices": {"input_mtok": 0.27, "output_mtok": 1.1}}]},
    {"id": "dated", "match": {"ends_with": "ed"}, "prices": [
      {"prices": {"input_mtok": 10, "cache_write_1h_mtok": 4, "output_mtok": 40}},
      {"constraint": {"start_date": "2025-06-10"}, "prices": {"input_mtok": 2, "output_mtok": 8}}]},
    {"id": "moon", "match": {"equals": "moon"}, "prices": [{"constraint": {"phase": "full"}, "prices": {"input_mtok": 1}}]}]}
]`

func TestGenAIPrices(t *testing.T) {
	t.Parallel()
	got, b := read(t, "genai-prices", genAIFile)
	for _, tc := range []struct {
		provider, model, at string
		input               int64
		want                string
	}{
		{"xai", "grok", "2026-08-01T00:00:00Z", 128_000, "3    15 above 0"},
		{"xai", "grok-latest", "2026-08-01T00:00:00Z", 128_001, "6    15 above 128000"},
		{"xai", "grok-[2", "2026-08-01T00:00:00Z", 1, "3    15 above 0"},
		{"xai", "grok-2", "2026-08-01T00:00:00Z", 1, "1    2 above 0"},
		{"deepseek", "a-chat-b", "2026-08-01T00:29:59Z", 1, "0.135    0.55 above 0"},
		{"deepseek", "a-chat-b", "2026-08-01T00:30:00Z", 1, "0.27    1.1 above 0"},
		{"deepseek", "a-chat-b", "2026-08-01T16:30:00Z", 1, "0.135    0.55 above 0"},
		{"deepseek", "dated", "2025-06-09T23:59:59Z", 1, "10   4 40 above 0"},
		{"deepseek", "dated", "2025-06-10T00:00:00Z", 1, "2    8 above 0"},
		{"deepseek", "moon", "2026-08-01T00:00:00Z", 1, "none"},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		require.NoError(t, err)
		require.Equal(t, tc.want, rates(t, b, tc.provider, tc.model, "", at, tc.input), "%s at %s", tc.model, tc.at)
	}
	require.Equal(t, 6, got.Models)
	require.ElementsMatch(t, []string{
		"x-ai/grok: input_audio_mtok: no bucket of tokens is priced so",
		`x-ai/grok: match.regex: "^g" is no glob`,
		"x-ai/grok: match.and: names that more than one rule must fit are not in our book",
		"x-ai/grok-2: cache_write_5m: price 0.08333333333333334 has more than 6 decimals: it is not a whole number of pico-dollars per token",
		"x-ai/grok-2: alias grok-latest: is a name of grok already",
		"x-ai/nothing: has no price of input tokens",
		"deepseek/moon: constraint: map[phase:full] is not a start_date, nor a start_time and an end_time",
	}, left(got))
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ format, text, want string }{
		{"csv", "{}", `format "csv" is none of litellm, genai-prices`},
		{"litellm", "[]", "not a price file of LiteLLM"},
		{"genai-prices", "{}", "not a price file of genai-prices"},
		{"litellm", "{", "not a price file of LiteLLM"},
	} {
		_, err := Read(tc.format, []byte(tc.text))
		require.ErrorContains(t, err, tc.want)
	}
	got, err := Read("litellm", []byte("{}"))
	require.NoError(t, err)
	_, err = book.Parse("empty", book.Encode(got.Entries, ""))
	require.NoError(t, err, "a file without models makes an empty book")
}

// Whatever a file says, what is imported is a book that reads back the same.
func FuzzRead(f *testing.F) {
	f.Add("litellm", liteLLMFile)
	f.Add("genai-prices", genAIFile)
	f.Fuzz(func(t *testing.T, format, text string) {
		got, err := Read(format, []byte(text))
		if err != nil {
			return
		}
		b, err := book.Parse("imported", book.Encode(got.Entries, ""))
		if err != nil {
			t.Fatalf("%v in\n%s", err, book.Encode(got.Entries, ""))
		}
		if have := fmt.Sprint(b.Entries()); have != fmt.Sprint(got.Entries) {
			t.Fatalf("have %s, want %v", have, got.Entries)
		}
	})
}
