package clickhouse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// bookOf prices the models of manyFacts that its providers serve, by so many dollars per million tokens.
func bookOf(t *testing.T, version, dollars string, models ...string) *pricing.Book {
	rate, err := pricing.ParseRate(dollars)
	require.NoError(t, err)
	b := pricing.NewBook(version)
	rates := pricing.Rates{Input: rate, CacheRead: rate, CacheWrite5m: rate, CacheWrite1h: rate, Output: rate}
	for _, provider := range []string{"openai", "anthropic"} {
		for _, model := range models {
			require.NoError(t, b.Add(pricing.Entry{
				Provider: provider, Model: model,
				Periods: []pricing.Period{{Services: map[string]pricing.Service{pricing.Standard: {Rates: rates}}}},
			}))
		}
	}
	return b
}

// reprice is what a run should do to the facts.
func (f *facts) reprice(b *pricing.Book, all bool) (changed int) {
	for i := range f.spans {
		if s := &f.spans[i]; all || !s.Priced {
			before := *s
			_ = b.Price(s)
			if before.Cost == s.Cost && before.Priced == s.Priced {
				s.PriceVersion = before.PriceVersion
				continue
			}
			changed++
		}
	}
	return changed
}

// testRerate cuts a run short at each of its steps, sends more calls of the same days in between, and compares
// every rollup and the calls themselves with plain Go at the end.
func testRerate(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(31, 32))
	now := time.Now().UTC()
	to := now.Truncate(24 * time.Hour)
	from := to.AddDate(0, 0, -2)
	f := manyFacts(random, 900, from, to)
	f.spans[0].Timestamp, f.spans[0].Priced, f.spans[0].Cost = from.AddDate(0, 0, -120), false, 0 // its minute is gone
	f.spans[0].Provider, f.spans[0].Model = "openai", "served-0"
	require.NoError(t, s.InsertSpans(t.Context(), f.spans, "first"))
	q := RerateQuery{From: from.AddDate(0, 0, -121), To: now, By: "ann", Book: bookOf(t, "v2", "3", "served-0")}

	q.ID, q.DryRun = "dry", true
	dry, err := s.Rerate(t.Context(), q)
	require.NoError(t, err)
	require.NotZero(t, dry.Changed)
	require.Zero(t, number(t, s, "SELECT count() FROM repricings"))
	require.Zero(t, number(t, s, "SELECT countIf(price_version = 'v2') FROM spans"))

	q.DryRun = false
	var last Rerate
	for cut, done := 2, false; !done; cut += 2 {
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		q.ID = fmt.Sprint("run-", cut)
		q.Progress = func(string) {
			if steps++; steps == cut {
				cancel()
			}
		}
		last, err = s.Rerate(ctx, q)
		done = steps < cut
		cancel()
		if done {
			require.NoError(t, err)
			break
		}
		require.Error(t, err)
		late, _ := traffic(random, 30, from, to)
		for i := range late {
			late[i].Complexity, late[i].SpanID = 1, fmt.Sprint("late-", cut, "-", i)
		}
		require.NoError(t, s.InsertSpans(t.Context(), late, q.ID))
		f.spans = append(f.spans, late...)
	}
	f.evaluations, f.outcomes = nil, nil
	require.NotZero(t, f.reprice(q.Book, false))
	requireRerated(t, s, f, now, from.AddDate(0, 0, -121))
	require.Equal(t, rerateDone, last.State)
	require.EqualValues(t, 1, number(t, s, "SELECT count() FROM rerates FINAL WHERE id = '"+last.ID+"' AND state = 'done' AND `by` = 'ann'"))

	q.ID, q.Progress = "again", nil
	again, err := s.Rerate(t.Context(), q)
	require.NoError(t, err)
	require.Zero(t, again.Changed, "once")

	q.ID, q.All, q.Book = "all", true, bookOf(t, "v3", "4", "served-0", "served-1")
	all, err := s.Rerate(t.Context(), q)
	require.NoError(t, err)
	require.EqualValues(t, f.reprice(q.Book, true), all.Changed)
	require.Equal(t, "v3", all.Book)
	require.Contains(t, all.BooksBefore, "v2")
	requireRerated(t, s, f, now, from.AddDate(0, 0, -121))
}

func requireRerated(t *testing.T, s *Store, f facts, now, from time.Time) {
	t.Helper()
	for _, q := range []KPIQuery{
		{From: from, To: now.Truncate(24*time.Hour).AddDate(0, 0, 1), GroupBy: []Dimension{ByTenant, ByProvider, ByModel}, Percentiles: true},
		{From: now.AddDate(0, 0, -3), To: now, Step: 10 * time.Minute, Percentiles: true},
	} {
		got, err := s.KPI(t.Context(), q, now)
		require.NoError(t, err)
		requireKPIs(t, f.measured(q), got, "after pricing again")
	}
	want := map[string]string{}
	for i := range f.spans {
		want[f.spans[i].SpanID] = fmt.Sprint(int64(f.spans[i].Cost), priceVersion(&f.spans[i]))
	}
	rows, err := s.conn.Query(t.Context(), "SELECT span_id, cost_pico_usd, toString(price_version) FROM spans")
	require.NoError(t, err)
	defer rows.Close()
	got := map[string]string{}
	for rows.Next() {
		var id, version string
		var cost int64
		require.NoError(t, rows.Scan(&id, &cost, &version))
		got[id] = fmt.Sprint(cost, version)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, want, got)
}

// testRerateAtOnce has a run find the plan of another: neither changes anything twice.
func testRerateAtOnce(t *testing.T, s *Store) {
	now := time.Now().UTC()
	span := usage.Span{
		TraceID: "t", SpanID: "s", TenantID: "o", Provider: "openai", RequestedModel: "m", Model: "served-0", Timestamp: now.Add(-time.Hour),
		Tokens: usage.Tokens{UncachedInput: 1_000_000},
	}
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{span}, "a"))
	q := RerateQuery{ID: "slow", From: now.Add(-2 * time.Hour), To: now, By: "ann", Book: bookOf(t, "v2", "3", "served-0")}
	raced := false
	q.Progress = func(string) { // the slow run has planned; a quick one comes and goes
		if raced {
			return
		}
		raced = true
		quick := q
		quick.ID, quick.Progress = "quick", nil
		_, err := s.Rerate(t.Context(), quick)
		require.NoError(t, err)
	}
	_, err := s.Rerate(t.Context(), q)
	require.ErrorContains(t, err, `the run quick by "ann" went on at the same time`)
	require.EqualValues(t, 3_000_000_000_000, number(t, s, "SELECT sum(cost_pico_usd) FROM kpi_1d"))
	require.EqualValues(t, 3_000_000_000_000, number(t, s, "SELECT sum(cost_pico_usd) FROM spans"))
	require.EqualValues(t, 1, number(t, s, "SELECT count() FROM rerates FINAL WHERE id = 'slow' AND state = 'abandoned'"))
}

// testRerateCutShort has runs that have corrected the rollups and not yet the calls: killed beside the plan of another,
// killed before the rollups are rebuilt, and overtaken by one that finishes their plan. The last prices stand
// everywhere.
func testRerateCutShort(t *testing.T, s *Store) {
	now := time.Now().UTC()
	to := now.Truncate(24 * time.Hour)
	from := to.AddDate(0, 0, -1)
	f := manyFacts(rand.New(rand.NewPCG(41, 42)), 200, from, to)
	f.evaluations, f.outcomes = nil, nil
	require.NoError(t, s.InsertSpans(t.Context(), f.spans, "all"))
	rerate := func(version, dollars string, halfway func(cancel func())) error {
		q := RerateQuery{ID: version, From: from, To: to, All: true, By: "ann", Book: bookOf(t, version, dollars, "served-0", "served-1")}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q.Progress = func(step string) {
			if strings.HasPrefix(step, "rollups") {
				halfway(cancel)
			}
		}
		_, err := s.Rerate(ctx, q)
		f.reprice(q.Book, true)
		return err
	}
	kill := func(cancel func()) { cancel() }
	finish := func(func()) {}

	require.Error(t, rerate("v2", "3", func(cancel func()) {
		rival, err := s.planRerate(t.Context(), RerateQuery{
			ID: "rival", From: from, To: to, All: true, By: "bob",
			Book: bookOf(t, "v9", "9", "served-0"), Progress: func(string) {},
		})
		require.NoError(t, err)
		rival.State = reratePlanned
		require.NoError(t, s.recordRerate(t.Context(), rival))
		cancel()
	}))
	require.NoError(t, rerate("v3", "4", finish))
	requireRerated(t, s, f, now, from)
	require.EqualValues(t, 2, number(t, s, "SELECT count() FROM rerates FINAL WHERE id = 'rival' AND state = 'abandoned' OR id = 'v2' AND state = 'done'"))

	require.Error(t, rerate("v4", "5", kill))
	require.NoError(t, s.RebuildRollups(t.Context(), from, to, func(string) {}))
	requireRerated(t, s, f, now, from)

	stalled := false
	require.NoError(t, rerate("v5", "6", func(func()) {
		if !stalled {
			stalled = true
			f.reprice(bookOf(t, "v5", "6", "served-0", "served-1"), true)
			require.NoError(t, rerate("v6", "7", finish))
		}
	}))
	f.reprice(bookOf(t, "v6", "7", "served-0", "served-1"), true)
	requireRerated(t, s, f, now, from)
}
