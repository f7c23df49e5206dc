package pricing

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMoneyText(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		text  string
		pico  usage.PicoUSD
		exact bool
		back  string
	}{
		{"0", 0, true, "0"},
		{"0.00471", 4_710_000_000, true, "0.00471"},
		{"4.71e-3", 4_710_000_000, true, "0.00471"},
		{"1E2", 100_000_000_000_000, true, "100"},
		{"-12.50", -12_500_000_000_000, true, "-12.5"},
		{"0.0047100000000000006", 4_710_000_000, false, "0.00471"},
		{"0.0000000000005", 1, false, "0.000000000001"},
		{"0.00000000000049", 0, false, "0"},
		{"1e-999", 0, false, "0"},
		{"9223372.036854775807", 9223372036854775807, true, "9223372.036854775807"},
	} {
		amount, exact, err := Parse(tc.text)
		require.NoError(t, err, tc.text)
		require.Equal(t, tc.pico, amount, tc.text)
		require.Equal(t, tc.exact, exact, tc.text)
		require.Equal(t, tc.back, Format(amount))
	}
	for _, text := range []string{"", "-", ".", "1.", ".5", "1e", "NaN", "inf", "0x10", "1_000", " 1", "1,5", "9223372.036854775808", "1e30", "1e9999999"} {
		_, _, err := Parse(text)
		require.Error(t, err, text)
	}
}

func TestMoneyRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amount := usage.PicoUSD(rapid.Int64Min(-1<<62).Draw(t, "amount"))
		back, exact, err := Parse(Format(amount))
		require.NoError(t, err)
		require.True(t, exact)
		require.Equal(t, amount, back)
	})
}

func rate(t require.TestingT, text string) Rate {
	r, err := ParseRate(text)
	require.NoError(t, err)
	return r
}

func TestParseRate(t *testing.T) {
	t.Parallel()
	pico, known := rate(t, "3").Pico()
	require.True(t, known)
	require.EqualValues(t, 3_000_000, pico)
	require.Equal(t, "0.075", rate(t, "0.0750").String())
	for _, text := range []string{"0.0000005", "-1", "10001", "x"} {
		_, err := ParseRate(text)
		require.Error(t, err, text)
	}
}

var tiered = Entry{
	Provider: "anthropic", Model: "m-1", Aliases: []string{"m"}, Globs: []string{"m-1-*", "m-*"},
	Periods: []Period{
		{Services: map[string]Service{Standard: {Rates: Rates{Input: mustRate("6"), Output: mustRate("30")}}}},
		{From: time.Date(2025, 6, 10, 0, 0, 0, 0, time.UTC), Services: map[string]Service{
			Standard: {
				Rates: Rates{Input: mustRate("3"), CacheRead: mustRate("0.3"), Output: mustRate("15")},
				Tiers: []Tier{{200_000, Rates{Input: mustRate("6"), CacheRead: mustRate("0.6"), Output: mustRate("22.5")}}},
			},
			"batch": {Rates: Rates{Input: mustRate("1.5"), Output: mustRate("7.5")}},
		}},
	},
}

func mustRate(text string) Rate {
	r, err := ParseRate(text)
	if err != nil {
		panic(err)
	}
	return r
}

func TestBook(t *testing.T) {
	t.Parallel()
	b := NewBook("v1")
	require.NoError(t, b.Add(tiered))
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	before := time.Date(2025, 6, 9, 23, 59, 59, 0, time.UTC)
	for _, tc := range []struct {
		name, provider, model, tier string
		at                          time.Time
		tokens                      usage.Tokens
		want                        string // "" is unpriced
	}{
		{"by name", "anthropic", "m-1", "", now, usage.Tokens{UncachedInput: 1000, CacheRead: 100, Output: 10}, "0.00318"},
		{"by alias, provider in another case", "Anthropic", "m", "", now, usage.Tokens{Output: 1}, "0.000015"},
		{"by glob", "anthropic", "m-1-20250101", "", now, usage.Tokens{Output: 1}, "0.000015"},
		{"without a provider", "", "m-1-20250101", "", now, usage.Tokens{Output: 1}, "0.000015"},
		{"the earlier price until its end", "anthropic", "m", "", before, usage.Tokens{UncachedInput: 1}, "0.000006"},
		{"exactly at the tier's bound", "anthropic", "m", "", now, usage.Tokens{UncachedInput: 100_000, CacheRead: 100_000}, "0.33"},
		{"above it every bucket changes", "anthropic", "m", "", now, usage.Tokens{UncachedInput: 100_001, CacheRead: 100_000, Output: 2}, "0.660051"},
		{"batch", "anthropic", "m", "batch", now, usage.Tokens{UncachedInput: 2}, "0.000003"},
		{"a bucket without a price", "anthropic", "m", "batch", now, usage.Tokens{CacheRead: 2}, ""},
		{"a service tier without a price", "anthropic", "m", "priority", now, usage.Tokens{UncachedInput: 2}, ""},
		{"an unknown model", "anthropic", "n", "", now, usage.Tokens{UncachedInput: 2}, ""},
		{"another provider's", "openai", "m", "", now, usage.Tokens{UncachedInput: 2}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := usage.Span{Provider: tc.provider, Model: tc.model, ServiceTier: tc.tier, Timestamp: tc.at, Tokens: tc.tokens}
			err := b.Price(&s)
			require.Equal(t, "v1", s.PriceVersion)
			if tc.want == "" {
				require.ErrorIs(t, err, ErrUnknown)
				require.False(t, s.Priced)
				return
			}
			require.NoError(t, err)
			require.True(t, s.Priced)
			require.Equal(t, tc.want, Format(s.Cost))
		})
	}
}

func TestBookRefuses(t *testing.T) {
	t.Parallel()
	b := NewBook("v1")
	require.NoError(t, b.Add(tiered))
	again := tiered
	again.Model, again.Aliases, again.Globs = "other", []string{"m"}, nil
	require.ErrorContains(t, b.Add(again), "already a name of m-1")
	disorder := tiered
	disorder.Model, disorder.Aliases, disorder.Globs = "x", nil, nil
	disorder.Periods = []Period{tiered.Periods[1], tiered.Periods[0]}
	require.ErrorContains(t, b.Add(disorder), "order of effective_from")
	require.Error(t, b.Add(Entry{Provider: "p", Model: "y"}))
}

// The cost is the exact sum of products, or a refusal: never something else.
func TestCostIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, usage.MaxTokens)
		r := rapid.Int64Range(0, maxRate)
		tokens := usage.Tokens{
			UncachedInput: n.Draw(t, "input"), CacheRead: n.Draw(t, "read"), CacheWrite5m: n.Draw(t, "5m"),
			CacheWrite1h: n.Draw(t, "1h"), Output: n.Draw(t, "output"),
		}
		rates := Rates{
			Input: Rate{r.Draw(t, "p"), true}, CacheRead: Rate{r.Draw(t, "pr"), true}, CacheWrite5m: Rate{r.Draw(t, "p5"), true},
			CacheWrite1h: Rate{r.Draw(t, "p1"), true}, Output: Rate{r.Draw(t, "po"), true},
		}
		want := new(big.Int)
		for _, b := range [][2]int64{
			{tokens.UncachedInput, rates.Input.pico},
			{tokens.CacheRead, rates.CacheRead.pico},
			{tokens.CacheWrite5m, rates.CacheWrite5m.pico},
			{tokens.CacheWrite1h, rates.CacheWrite1h.pico},
			{tokens.Output, rates.Output.pico},
		} {
			want.Add(want, new(big.Int).Mul(big.NewInt(b[0]), big.NewInt(b[1])))
		}
		q := Quote{service: Service{Rates: rates}}
		got, err := q.Cost(tokens)
		if !want.IsInt64() {
			require.ErrorIs(t, err, ErrRange)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want.Int64(), int64(got))
	})
}

// At some hours of the day other prices stand, over midnight too; a tier that they leave out keeps its price.
func TestHours(t *testing.T) {
	t.Parallel()
	b := NewBook("v1")
	standard := func(price string) map[string]Service {
		return map[string]Service{Standard: {Rates: Rates{Input: mustRate(price)}}}
	}
	services := standard("2")
	services["batch"] = Service{Rates: Rates{Input: mustRate("1")}}
	require.NoError(t, b.Add(Entry{Provider: "p", Model: "m", Periods: []Period{{
		Services: services, Hours: []Hours{{From: 16*time.Hour + 30*time.Minute, Until: 30 * time.Minute, Services: standard("0.5")}},
	}}}))
	for _, tc := range []struct{ at, tier, want, hours string }{
		{"2025-03-01T16:29:59.999Z", "", "2", ""},
		{"2025-03-01T16:30:00Z", "", "0.5", "16:30-00:30"},
		{"2025-03-02T01:29:59+01:00", "", "0.5", "16:30-00:30"},
		{"2025-03-02T00:30:00Z", "", "2", ""},
		{"2025-03-01T20:00:00Z", "batch", "1", ""},
	} {
		at, err := time.Parse(time.RFC3339, tc.at)
		require.NoError(t, err)
		q, err := b.Quote("p", "m", tc.tier, at)
		require.NoError(t, err)
		rates, _ := q.Rates(usage.Tokens{})
		require.Equal(t, []string{tc.want, tc.hours}, []string{rates.Input.String(), q.Hours}, tc.at)
	}
	for _, h := range []Hours{{From: time.Hour, Until: time.Hour, Services: services}, {From: -1, Until: 1, Services: services}, {Until: 24 * time.Hour, Services: services}, {Until: 1}} {
		require.Error(t, b.Add(Entry{Provider: "p", Model: "n", Periods: []Period{{Services: services, Hours: []Hours{h}}}}))
	}
}

// A stored span is priced again by what stood at its time, from what a span has.
func TestPriceAgain(t *testing.T) {
	t.Parallel()
	b := NewBook("v2")
	require.NoError(t, b.Add(tiered))
	s := usage.Span{
		Provider: "anthropic", Model: "m", Timestamp: time.Date(2025, 6, 9, 0, 0, 0, 0, time.UTC), Tokens: usage.Tokens{UncachedInput: 1},
		Cost: 99, PriceVersion: "v1",
	}
	require.NoError(t, b.Price(&s))
	require.Equal(t, []any{usage.PicoUSD(6_000_000), true, "v2"}, []any{s.Cost, s.Priced, s.PriceVersion})
	s.Model = "nobody"
	require.ErrorIs(t, b.Price(&s), ErrUnknown)
	require.Equal(t, []any{usage.PicoUSD(0), false}, []any{s.Cost, s.Priced}, "an old cost does not stay")
}

// The digits that a float adds are no part of a price; every other digit is.
func TestFloatNoise(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"3.0000000000000004e-07": "0.3", "1.25e-06": "1.25", "0.0000015": "1.5", "9.999999999999999e-06": "10"} {
		r, err := ParseFloatPerToken(text)
		require.NoError(t, err, text)
		require.Equal(t, want, r.String())
	}
	_, err := ParseRate("0.30000000000000004")
	require.Error(t, err, "a book is written by people")
	for _, text := range []string{"3.333333e-13", "8.333333333333334e-08", "1e-13", "1.0000001e-07"} {
		_, err := ParseFloatPerToken(text)
		require.Error(t, err, text)
	}
}
