package book

import (
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
	} {
		q, err := b.Quote(tc.provider, tc.model, tc.tier, now)
		require.NoError(t, err, tc.model)
		cost, err := q.Cost(usage.Tokens{UncachedInput: 1000, Output: 1000})
		require.NoError(t, err, tc.model)
		require.Equal(t, tc.want, pricing.Format(cost), tc.model)
	}
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
