package data

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/pricing/importer"
	"github.com/flyball-dev/flyball/internal/usage"
)

// priceFiles are others' price files and the day that their prices are of.
var priceFiles = []struct {
	format, name string
	of           time.Time
}{
	{"litellm", "model_prices_subset_2026-07.json", time.Date(2026, 7, 15, 0, 0, 0, 0, time.UTC)},
	{"genai-prices", "prices_new_data_v2_data.json", time.Date(2026, 8, 20, 0, 0, 0, 0, time.UTC)},
}

// known are the models whose prices in others' files differ from ours and were looked at, with the reason why ours
// stand. A difference of a model that is not here fails, and so does a model here that differs no more.
var known = map[string]string{
	"litellm claude-3-haiku-20240307": "it gives every model's one-hour write the price of Sonnet's",
	"litellm claude-3-opus-20240229":  "it gives every model's one-hour write the price of Sonnet's",
	"litellm deepseek-chat":           "it has the price of V3.2; from April 2026 the name stood for V4 Flash",
	"litellm deepseek-reasoner":       "it has the price of V3.2; from April 2026 the name stood for V4 Flash",
	"litellm gemini-3-pro-preview":    "it has no price of long calls in batches",
	"litellm gemini-3.1-pro-preview":  "it has no price of long calls in batches",
	"litellm gpt-5.5":                 "OpenAI's page on priority processing says 2.5 times the standard price, not twice",

	"genai-prices claude-fable-5-1":         "a later model that its rule for Fable 5 takes in",
	"genai-prices claude-opus-5-5":          "a later model that its rule for Opus 5 takes in",
	"genai-prices claude-sonnet-4-20250514": "it lacks the long-context price, which Anthropic's page has",
	"genai-prices deepseek-chat":            "it has the prices of the summer of 2025",
	"genai-prices deepseek-reasoner":        "it has the prices of the summer of 2025",
	"genai-prices gemini-1.5-flash-8b":      "its rule for Gemini 1.5 Flash takes the smaller model in",
	"genai-prices gpt-4o-2024-05-13":        "it prices the first snapshot like the later ones",
	"genai-prices gpt-5.5":                  "it lacks the long-context price, which OpenAI's page has",
	"genai-prices gpt-5.5-pro":              "it lacks the long-context price, which OpenAI's page has",
}

// TestPrices imports others' price files whole, reads them back, and compares our book with them, bucket by bucket,
// for the models of the providers that we price by hand.
func TestPrices(t *testing.T) {
	root := folder(t, "prices")
	ours, err := book.Default()
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, file := range priceFiles {
		text, err := os.ReadFile(filepath.Join(root, file.name))
		require.NoError(t, err)
		got, err := importer.Read(file.format, text)
		require.NoError(t, err)
		theirs, err := book.Parse(file.name, book.Encode(got.Entries, ""))
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(got.Entries), fmt.Sprint(theirs.Entries()), "a book reads back as it was written")
		models, compared, same := 0, 0, 0
		for _, e := range ours.Entries() {
			for _, name := range append([]string{e.Model}, e.Aliases...) {
				if _, ok := theirs.Find(e.Provider, name); !ok {
					continue
				}
				models++
				for _, d := range differences(ours, theirs, e.Provider, name, file.of, &compared, &same) {
					label := fmt.Sprintf("%s %s", file.format, e.Model)
					seen[label] = true
					if known[label] == "" {
						t.Errorf("not looked at: %s: %s", label, d)
					}
				}
				break
			}
		}
		fmt.Printf("%s: %d of %d models and %d prices imported; %d models of our book are in it, %d of %d prices agree\n",
			file.format, len(got.Entries), got.Models, got.Prices, models, same, compared)
	}
	for _, label := range slices.Sorted(maps.Keys(known)) {
		if !seen[label] {
			t.Errorf("no longer a difference: %s (%s)", label, known[label])
		}
	}
}

// differences are the buckets that both books price, and not alike. Only a short call and one of a million tokens are
// compared, which is below and above every tier.
func differences(ours, theirs *pricing.Book, provider, model string, at time.Time, compared, same *int) []string {
	var list []string
	for _, tier := range []string{pricing.Standard, "batch", "flex", "priority"} {
		a, err1 := ours.Quote(provider, model, tier, at)
		b, err2 := theirs.Quote(provider, model, tier, at)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, size := range []struct {
			name   string
			tokens int64
		}{{"short", 1}, {"long", 1_000_000}} {
			x, _ := a.Rates(usage.Tokens{UncachedInput: size.tokens})
			y, _ := b.Rates(usage.Tokens{UncachedInput: size.tokens})
			for _, pair := range []struct {
				bucket       string
				ours, theirs pricing.Rate
			}{
				{"input", x.Input, y.Input},
				{"cache_read", x.CacheRead, y.CacheRead},
				{"cache_write_5m", x.CacheWrite5m, y.CacheWrite5m},
				{"cache_write_1h", x.CacheWrite1h, y.CacheWrite1h},
				{"output", x.Output, y.Output},
			} {
				if pair.ours.String() == "" || pair.theirs.String() == "" {
					continue
				}
				*compared++
				if pair.ours == pair.theirs {
					*same++
					continue
				}
				list = append(list, strings.Join([]string{tier, size.name, pair.bucket, pair.ours.String(), "not", pair.theirs.String()}, " "))
			}
		}
	}
	return list
}
