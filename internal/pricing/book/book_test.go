package book

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestDefaultPricesWhatWeRun(t *testing.T) {
	t.Parallel()
	b, err := Default()
	require.NoError(t, err)
	require.Len(t, b.Version(), 12)
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ provider, model, tier, want string }{
		{"anthropic", "claude-3-opus-20240229", "", "0.09"},
		{"anthropic", "claude-3-sonnet-20240229", "", "0.018"},
		{"anthropic", "claude-3-haiku-20240307", "batch", "0.00075"},
		{"anthropic", "claude-sonnet-4-5", "", "0.018"},
		{"anthropic", "claude-opus-4-1", "", "0.09"},
		{"openai", "gpt-4o", "", "0.0125"},
		{"openai", "gpt-4o-mini-2024-07-18", "", "0.00075"},
		{"openai", "gpt-4.1-nano", "", "0.0005"},
		{"openai", "o3", "flex", "0.005"},
		{"openai", "gpt-5-mini", "priority", "0.00405"},
		{"google", "gemini-2.0-flash-001", "", "0.0005"},
		{"gcp.vertex_ai", "gemini-2.5-pro", "batch", "0.005625"},
		{"google", "gemini-1.5-flash-002", "", "0.000375"},
		{"google", "gemini-1.5-flash-8b-001", "", "0.0001875"},
		{"anthropic", "claude-opus-4-8", "us", "0.033"},
	} {
		q, err := b.Quote(tc.provider, tc.model, tc.tier, now)
		require.NoError(t, err, tc.model)
		cost, err := q.Cost(usage.Tokens{UncachedInput: 1000, Output: 1000})
		require.NoError(t, err, tc.model)
		require.Equal(t, tc.want, pricing.Format(cost), tc.model)
	}
}

// Prices hold from their own moment on, and not before.
func TestDefaultIsDated(t *testing.T) {
	t.Parallel()
	b, err := Default()
	require.NoError(t, err)
	for _, tc := range []struct{ model, at, want string }{
		{"deepseek-chat", "2025-01-15T00:00:00Z", "0.42"},
		{"deepseek-chat", "2025-02-08T15:59:59Z", "0.42"},
		{"deepseek-chat", "2025-02-08T16:00:00Z", "1.37"},
		{"deepseek-chat", "2025-02-25T20:00:00Z", "1.37"}, // before there were hours
		{"deepseek-chat", "2025-03-01T12:00:00Z", "1.37"},
		{"deepseek-chat", "2025-03-01T16:30:00Z", "0.685"},
		{"deepseek-reasoner", "2025-03-01T00:29:59Z", "0.685"},
		{"deepseek-reasoner", "2025-03-01T00:30:00Z", "2.74"},
		{"deepseek-reasoner", "2025-09-05T16:00:00Z", "2.24"},
		{"deepseek-reasoner", "2025-10-01T20:00:00Z", "0.7"},
		{"deepseek-chat", "2026-05-01T00:00:00Z", "unknown"},
		{"deepseek-v4-pro", "2026-08-16T16:00:00Z", "unknown"},
		{"o3", "2025-06-09T23:59:59Z", "50"},
		{"o3", "2025-06-10T00:00:00Z", "10"},
		{"gpt-5.6-luna", "2026-07-30T00:00:00Z", "2.2"}, // a million tokens: the long price
		{"claude-sonnet-5", "2026-09-02T00:00:00Z", "12"},
		{"gemini-3.7-flash", "2027-01-01T00:00:00Z", "9"},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		require.NoError(t, err)
		s := usage.Span{Model: tc.model, Timestamp: at, Tokens: usage.Tokens{UncachedInput: 1_000_000, Output: 1_000_000}}
		err = b.Price(&s)
		if tc.want == "unknown" {
			require.ErrorIs(t, err, pricing.ErrUnknown, "%s at %s", tc.model, tc.at)
			continue
		}
		require.NoError(t, err, "%s at %s", tc.model, tc.at)
		require.Equal(t, tc.want, pricing.Format(s.Cost), "%s at %s", tc.model, tc.at)
	}
}

func TestEncodeReadsBack(t *testing.T) {
	t.Parallel()
	b, err := Default()
	require.NoError(t, err)
	again, err := Parse("again", Encode(b.Entries(), ""))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprint(b.Entries()), fmt.Sprint(again.Entries()))
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, text, want string }{
		{"unknown key", "models:\n  - provider: p\n    modle: m\n", `f.yaml:3:5: unknown key "modle"; known: aliases, globs, model, prices, provider`},
		{"key twice", "models:\n  - provider: p\n    model: m\n    model: n\n", `f.yaml:4:5: key "model" is there twice`},
		{"inexact", "models:\n  - provider: p\n    model: m\n    prices:\n      - standard: {input: 0.0000001}\n", "f.yaml:5:27: price 0.0000001 has more than 6 decimals"},
		{"not a number", "models:\n  - provider: p\n    model: m\n    prices:\n      - standard: {input: cheap}\n", `f.yaml:5:27: "cheap" is not a decimal number`},
		{"unknown service", "models:\n  - provider: p\n    model: m\n    prices:\n      - cheap: {input: 1}\n", `f.yaml:5:9: unknown key "cheap"`},
		{"bad date", "models:\n  - provider: p\n    model: m\n    prices:\n      - effective_from: soon\n", `f.yaml:5:25: "soon" is not a date`},
		{"no prices", "models:\n  - provider: p\n    model: m\n", "f.yaml:2:5: a model needs prices"},
		{"name twice", "models:\n  - {provider: p, model: m, prices: [{standard: {input: 1}}]}\n  - {provider: p, model: m, prices: [{standard: {input: 1}}]}\n", "f.yaml:3:5: p/m is already a name of m"},
		{"bad hours", "models:\n  - provider: p\n    model: m\n    prices:\n      - hours: [{from: noon}]\n", `f.yaml:5:24: "noon" is not a time of day`},
		{"hours of no length", "models:\n  - provider: p\n    model: m\n    prices: [{standard: {input: 1}, hours: [{from: '1:00', until: '01:00', standard: {input: 2}}]}]\n", "hours must be two different times of the day"},
		{"not a mapping", "- 1\n", "f.yaml:1:1: expected a mapping of models"},
		{"not YAML", "models: [", "f.yaml: yaml: line 1"},
		{"empty", "", "f.yaml: the book is empty"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse("f.yaml", []byte(tc.text))
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "b.yaml")
	require.NoError(t, os.WriteFile(path, []byte("models:\n  - {provider: p, model: m, prices: [{standard: {input: '1.25'}}]}\n"), 0o600))
	b, err := Load(path)
	require.NoError(t, err)
	_, err = b.Quote("p", "m", "", time.Now())
	require.NoError(t, err)
	_, err = Load(path + "x")
	require.Error(t, err)
}

func FuzzParse(f *testing.F) {
	f.Add("models:\n  - {provider: p, model: m, prices: [{standard: {input: 1, tiers: [{above: 2, input: 3}]}}]}\n")
	f.Add("models: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		if b, err := Parse("f", []byte(text)); err == nil && b == nil {
			t.Fatal("neither a book nor an error")
		}
	})
}
