package budget_test

import (
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/budget"
)

func TestCeilRoundsUp(t *testing.T) {
	t.Parallel()
	for pico, want := range map[int64]budget.Micro{-5: 0, 0: 0, 1: 1, 999_999: 1, 1_000_000: 1, 1_000_001: 2, 1<<63 - 1: 9_223_372_036_855} {
		require.Equal(t, want, budget.Ceil(pico), "%d p$", pico)
	}
}

func TestUSD(t *testing.T) {
	t.Parallel()
	for m, want := range map[budget.Micro]string{0: "0", 1: "0.000001", 1_500_000: "1.5", -20_000_000: "-20", 12_345_678: "12.345678"} {
		require.Equal(t, want, m.USD())
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return v.UTC()
	}
	for name, tc := range map[string]struct {
		budget   budget.Budget
		at       string
		from, to string
	}{
		"a day in UTC":                         {budget.Budget{Period: budget.Day}, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"},
		"the shortest day of Berlin":           {budget.Budget{Period: budget.Day, TimeZone: "Europe/Berlin"}, "2026-03-29T12:00:00Z", "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"},
		"the longest day of Berlin":            {budget.Budget{Period: budget.Day, TimeZone: "Europe/Berlin"}, "2026-10-25T12:00:00Z", "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"},
		"a week from Monday":                   {budget.Budget{Period: budget.Week}, "2026-11-26T01:00:00Z", "2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"},
		"a week from Sunday, on it":            {budget.Budget{Period: budget.Week, StartsOn: 7}, "2026-11-22T00:00:00Z", "2026-11-22T00:00:00Z", "2026-11-29T00:00:00Z"},
		"a calendar month":                     {budget.Budget{Period: budget.Month}, "2026-12-31T23:59:59Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		"a month from the 15th, before it":     {budget.Budget{Period: budget.Month, StartsOn: 15}, "2026-01-14T23:00:00Z", "2025-12-15T00:00:00Z", "2026-01-15T00:00:00Z"},
		"a month from the 15th, in Auckland":   {budget.Budget{Period: budget.Month, StartsOn: 15, TimeZone: "Pacific/Auckland"}, "2026-01-14T12:00:00Z", "2026-01-14T11:00:00Z", "2026-02-14T11:00:00Z"},
		"a session has no bounds":              {budget.Budget{Period: budget.Session}, "2026-01-14T12:00:00Z", "0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"},
		"a zone that is none counts as UTC":    {budget.Budget{Period: budget.Day, TimeZone: "Mars/Olympus"}, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00Z", "2026-03-30T00:00:00Z"},
		"a week over the end of a year":        {budget.Budget{Period: budget.Week, StartsOn: 5}, "2026-01-01T12:00:00Z", "2025-12-26T00:00:00Z", "2026-01-02T00:00:00Z"},
		"midnight is the new day's, not of it": {budget.Budget{Period: budget.Day}, "2026-03-30T00:00:00Z", "2026-03-30T00:00:00Z", "2026-03-31T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, budget.Window{From: at(tc.from), To: at(tc.to)}, tc.budget.Window(at(tc.at)))
		})
	}
}

// Windows cover all time without gap or overlap, whatever the clock of the zone does.
func TestWindowsTile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := budget.Budget{
			Period:   rapid.SampledFrom([]budget.Period{budget.Day, budget.Week, budget.Month}).Draw(t, "period"),
			TimeZone: rapid.SampledFrom([]string{"", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia"}).Draw(t, "zone"),
		}
		switch b.Period {
		case budget.Week:
			b.StartsOn = rapid.IntRange(0, 7).Draw(t, "starts")
		case budget.Month:
			b.StartsOn = rapid.IntRange(0, 28).Draw(t, "starts")
		}
		at := time.Unix(rapid.Int64Range(1_600_000_000, 1_900_000_000).Draw(t, "at"), 0).UTC()
		w := b.Window(at)
		require.False(t, at.Before(w.From))
		require.True(t, at.Before(w.To))
		require.Equal(t, w, b.Window(w.From), "the same window from its first instant on")
		require.Equal(t, w, b.Located().Window(at))
		require.Equal(t, w, b.Window(w.To.Add(-time.Nanosecond)))
		require.Equal(t, w.To, b.Window(w.To).From)
	})
}

func TestCounters(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 1, 0, 0, 0, time.UTC)
	call := budget.Call{Tenant: "org", Key: "k1", Model: "gpt-4o"}
	day := budget.Budget{ID: "d", Tenant: "org", Per: budget.PerTenant, Period: budget.Day}
	c, ok := day.Counter(call, at)
	require.True(t, ok)
	require.Equal(t, budget.Counter{Budget: "d", Window: day.Window(at)}, c)
	require.True(t, day.Leased())

	for name, tc := range map[string]struct {
		budget budget.Budget
		of     string
		ok     bool
	}{
		"each key":               {budget.Budget{Tenant: "org", Per: budget.PerKey}, "k1", true},
		"this key":               {budget.Budget{Tenant: "org", Per: budget.PerKey, Only: "k1"}, "k1", true},
		"another key":            {budget.Budget{Tenant: "org", Per: budget.PerKey, Only: "k2"}, "", false},
		"a call without session": {budget.Budget{Tenant: "org", Per: budget.PerSession}, "", false},
		"a model":                {budget.Budget{Tenant: "org", Per: budget.PerModel, Only: "gpt-4o"}, "gpt-4o", true},
		"another tenant's":       {budget.Budget{Tenant: "other", Per: budget.PerKey}, "", false},
		"a scope that is none":   {budget.Budget{Tenant: "org", Per: "team"}, "", false},
	} {
		c, ok := tc.budget.Counter(call, at)
		require.Equal(t, tc.ok, ok, name)
		require.Equal(t, tc.of, c.Of, name)
		require.False(t, tc.budget.Leased(), name)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	good := budget.Budget{ID: "m", Tenant: "org", Per: budget.PerTenant, Period: budget.Month, StartsOn: 28, TimeZone: "Europe/Berlin", Ceiling: 1}
	require.NoError(t, good.Validate())
	for field, spoil := range map[string]func(*budget.Budget){
		"id:":                func(b *budget.Budget) { b.ID = "" },
		"tenant_id:":         func(b *budget.Budget) { b.Tenant = "" },
		"per:":               func(b *budget.Budget) { b.Per = "team" },
		"only:":              func(b *budget.Budget) { b.Only = "x" },
		"period:":            func(b *budget.Budget) { b.Period = budget.Session },
		"time_zone:":         func(b *budget.Budget) { b.TimeZone = "Mars/Olympus" },
		"starts_on:":         func(b *budget.Budget) { b.StartsOn = 29 },
		"ceiling_micro_usd:": func(b *budget.Budget) { b.Ceiling = budget.MaxMicro + 1 },
	} {
		b := good
		spoil(&b)
		require.ErrorContains(t, b.Validate(), field)
	}
}

// A block never reaches into the last 5 %, is never less than what is asked for, and leaves something for others.
func TestBlocks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ceiling := budget.Micro(rapid.Int64Range(1, int64(budget.MaxMicro)).Draw(t, "ceiling"))
		committed := budget.Micro(rapid.Int64Range(0, int64(ceiling)).Draw(t, "committed"))
		need := budget.Micro(rapid.Int64Range(0, int64(ceiling)).Draw(t, "need"))
		block := budget.Block(ceiling, committed, need)
		// committed + block ≤ 95 % of the ceiling, in exact arithmetic
		left := new(big.Int).Mul(big.NewInt(int64(ceiling)), big.NewInt(95))
		left.Sub(left, new(big.Int).Mul(big.NewInt(int64(committed+block)), big.NewInt(100)))
		if block > 0 {
			require.GreaterOrEqual(t, left.Sign(), 0)
			require.GreaterOrEqual(t, block, need)
		}
	})
	require.Equal(t, budget.Micro(2968), budget.Block(100_000, 0, 5))
	require.Equal(t, budget.Micro(50), budget.Block(100_000, 94_950, 50))
	require.Zero(t, budget.Block(100_000, 94_951, 50))
}

// Whatever is promised and settled, a lease never spends more than it is, and what is left, promised and spent adds
// up to it.
func TestLeaseAddsUp(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 1, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		size := budget.Micro(rapid.Int64Range(0, 1000).Draw(t, "size"))
		l := budget.Lease{Left: size, Expires: now.Add(time.Minute)}
		var open []budget.Micro
		var spent, over budget.Micro
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				amount := budget.Micro(rapid.Int64Range(0, 300).Draw(t, "amount"))
				fits := amount <= l.Left
				require.Equal(t, fits, l.Take(amount, now))
				require.False(t, l.Take(amount, l.Expires), "a lease that has lapsed promises nothing")
				if fits {
					open = append(open, amount)
				}
			},
			"settle": func(t *rapid.T) {
				if len(open) == 0 {
					t.Skip("nothing is open")
				}
				promised := open[0]
				open = open[1:]
				cost := budget.Micro(rapid.Int64Range(0, int64(promised)+20).Draw(t, "cost"))
				over += l.Settle(promised, cost)
				spent += cost
			},
			"": func(t *rapid.T) {
				require.GreaterOrEqual(t, l.Left, budget.Micro(0))
				require.Equal(t, size, l.Held()+spent-over)
			},
		})
	})
}
