package clickhouse

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testBudgets: every version is kept, the first of two at once counts, and the sums are those of the calls.
func testBudgets(t *testing.T, s *Store) {
	at := time.Date(2026, 11, 26, 6, 0, 0, 0, time.UTC)
	v := budget.Version{
		Budget:   budget.Budget{ID: "month", Tenant: "org_1", Per: budget.PerTenant, Period: budget.Month, TimeZone: "Europe/Berlin", StartsOn: 3, Ceiling: 5_000_000},
		Revision: 1, SetAt: at, By: "ann", Reason: "contract",
	}
	require.NoError(t, s.SetBudget(t.Context(), v))
	require.ErrorIs(t, s.SetBudget(t.Context(), v), ErrBudgetChanged, "there is a first revision")
	raised := v
	raised.Revision, raised.Ceiling, raised.By = 2, 9_000_000, "bo"
	require.NoError(t, s.SetBudget(t.Context(), raised))
	gone := v
	gone.ID, gone.Reason = "gone", ""
	require.NoError(t, s.SetBudget(t.Context(), gone))
	gone.Revision, gone.Removed = 2, true
	require.NoError(t, s.SetBudget(t.Context(), gone))
	require.Error(t, s.SetBudget(t.Context(), budget.Version{}))

	all, err := s.Budgets(t.Context())
	require.NoError(t, err)
	require.Equal(t, []budget.Version{raised}, all)
	history, err := s.BudgetHistory(t.Context(), "org_1", "month")
	require.NoError(t, err)
	require.Equal(t, []budget.Version{raised, v}, history)

	now := time.Now().UTC().Truncate(time.Hour)
	var spans []usage.Span
	for i := range 200 { // one a minute, over three hours
		spans = append(spans, usage.Span{
			TraceID: fmt.Sprint("b", i), SpanID: "s", TenantID: "org_b", SessionID: fmt.Sprint("c", i%2), RequestedModel: fmt.Sprint("m", i%3), Model: "m",
			Timestamp: now.Add(-time.Duration(i)*time.Minute - time.Second), Cost: 1_500_000, Priced: true, PriceVersion: "v", Complexity: 1,
			Tags: map[string]string{usage.TagVirtualKey: fmt.Sprint("k", i%4)},
		})
	}
	spans = append(spans, usage.Span{TraceID: "x", SpanID: "s", TenantID: "org_c", SessionID: "c1", RequestedModel: "m1", Model: "m", Timestamp: now.Add(-time.Minute), Cost: 7_000_000_000, Priced: true, PriceVersion: "v", Complexity: 1})
	require.NoError(t, s.InsertSpans(t.Context(), spans, "budgets"))
	spend := func(per budget.Per, from, to time.Time, of ...string) map[string]budget.Micro {
		sums, err := s.Spend(t.Context(), SpendQuery{Tenant: "org_b", Per: per, Of: of, From: from, To: to})
		require.NoError(t, err)
		return sums
	}
	far := now.Add(-10 * time.Hour)
	require.Equal(t, map[string]budget.Micro{"": 300}, spend(budget.PerTenant, far, now, ""))
	require.Equal(t, map[string]budget.Micro{"": 225}, spend(budget.PerTenant, now.Add(-150*time.Minute), now, ""))
	require.Equal(t, map[string]budget.Micro{"": 15}, spend(budget.PerTenant, now.Add(-20*time.Minute), now.Add(-10*time.Minute), ""), "within an hour")
	require.Equal(t, map[string]budget.Micro{"": 143}, spend(budget.PerTenant, now.Add(-125*time.Minute), now.Add(-30*time.Minute), ""), "142.5, rounded up once")
	require.Equal(t, map[string]budget.Micro{"m1": 101}, spend(budget.PerModel, far, now, "m1"))
	require.Equal(t, map[string]budget.Micro{"c0": 150, "c1": 150}, spend(budget.PerSession, far, now, "c0", "c1", "c9"))
	require.Equal(t, map[string]budget.Micro{"k3": 75}, spend(budget.PerKey, far, now, "k3"))
	require.Empty(t, spend(budget.PerTenant, now, now.Add(time.Hour), ""))

	require.Equal(t, map[string]budget.Micro{"k0": 75, "k1": 75, "k2": 75, "k3": 75}, spend(budget.PerKey, far, now), "each")
	require.Equal(t, map[string]budget.Micro{"m0": 101, "m1": 101, "m2": 99}, spend(budget.PerModel, far, now), "each")

	calls, err := s.CallsBefore(t.Context(), "org_b", []Call{{"b3", "s"}, {"b4", "another of its trace"}, {"x", "s"}, {"none", "s"}, {"b150", "s"}}, now.Add(-time.Hour), now)
	require.NoError(t, err)
	require.Equal(t, []Call{{"b3", "s"}}, calls, "of its own tenant, in time, that very call")
	require.NoError(t, s.Watermark(t.Context(), "one", at))
	require.NoError(t, s.Watermark(t.Context(), "one", at.Add(time.Minute)))
	back := at.Add(-time.Hour) // its clock was set
	require.NoError(t, s.Watermark(t.Context(), "one", back))
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE ingest_watermarks FINAL"))
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE ingest_watermarks_last FINAL"))
	spools, err := s.Spools(t.Context())
	require.NoError(t, err)
	require.Equal(t, Spool{Last: back, Highest: at.Add(time.Minute)}, spools["one"])
	require.NoError(t, s.conn.Exec(t.Context(), "TRUNCATE TABLE ingest_watermarks_last"))
	spools, err = s.Spools(t.Context())
	require.NoError(t, err)
	require.Equal(t, Spool{Last: at.Add(time.Minute), Highest: at.Add(time.Minute)}, spools["one"], "it was not heard since the last are kept")
}

func TestSumsBeyondWhatPicoDollarsHold(t *testing.T) {
	t.Parallel()
	pico, _ := new(big.Int).SetString("20000000000000000001", 10) // 20 M$ and a pico-dollar
	micro, err := ceil(pico)
	require.NoError(t, err)
	require.Equal(t, budget.Micro(20_000_000_000_001), micro)
	_, err = ceil(new(big.Int).Lsh(pico, 64))
	require.Error(t, err)
}

// testBudgetWriters has many set each version of a budget at once: one is told that it did, the others to read it again,
// and what is stored is what the one has set.
func testBudgetWriters(t *testing.T, s *Store) {
	const writers, versions = 16, 5
	v := budget.Version{
		Budget: budget.Budget{ID: "month", Tenant: "org_1", Per: budget.PerTenant, Period: budget.Month}, SetAt: time.Now().UTC().Truncate(time.Millisecond),
	}
	var want []budget.Version
	for v.Revision = 1; v.Revision <= versions; v.Revision++ {
		errs := make([]error, writers)
		start := make(chan struct{})
		var all sync.WaitGroup
		mine := func(i int) budget.Version {
			m := v
			m.By, m.Ceiling = fmt.Sprint("writer-", i), budget.Micro(1000+i)
			return m
		}
		for i := range writers {
			all.Go(func() {
				<-start
				errs[i] = s.SetBudget(t.Context(), mine(i))
			})
		}
		close(start)
		all.Wait()
		won := -1
		for i, err := range errs {
			if err == nil {
				require.Equal(t, -1, won, "two were told that they had set revision %d", v.Revision)
				won = i
				continue
			}
			require.ErrorIs(t, err, ErrBudgetChanged)
			require.ErrorContains(t, err, "read it again")
		}
		require.NotEqual(t, -1, won, "nobody has set revision %d", v.Revision)
		want = slices.Insert(want, 0, mine(won))
	}
	history, err := s.BudgetHistory(t.Context(), "org_1", "month")
	require.NoError(t, err)
	require.Equal(t, want, history)
	require.EqualValues(t, versions, number(t, s, "SELECT count() FROM budgets"), "what lost is not stored")
	v.By, v.Ceiling, v.Revision = "late", 1, versions+2
	require.ErrorIs(t, s.SetBudget(t.Context(), v), ErrBudgetChanged, "it leaves a revision out")
}

// testSpendKept asks what sessions and keys have spent of the calls and of their projections: both must say what the
// calls cost after one batch was sent twice, calls came late, all were priced again, and parts were merged.
func testSpendKept(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Minute)
	from := now.Add(-30 * time.Hour)
	spans, _ := traffic(rand.New(rand.NewPCG(51, 52)), 2000, from, now)
	for i := range spans {
		spans[i].TenantID, spans[i].SessionID = "org_1", fmt.Sprint("c", i%17)
		spans[i].Tags = map[string]string{usage.TagVirtualKey: fmt.Sprint("k", i%5), "team": "a"}
	}
	f := facts{spans: spans[:1500]}
	query := func(per budget.Per, projections int, of ...string) map[string]budget.Micro {
		ctx := ch.Context(t.Context(), ch.WithSettings(ch.Settings{"optimize_use_projections": projections, "force_optimize_projection": projections}))
		spend, err := s.Spend(ctx, SpendQuery{Tenant: "org_1", Per: per, Of: of, From: from, To: now.Add(-time.Hour)})
		require.NoError(t, err)
		return spend
	}
	check := func(when string) {
		t.Helper()
		sessions, keys := map[string]int64{}, map[string]int64{}
		for _, p := range f.spans {
			if p.Timestamp.Before(now.Add(-time.Hour)) {
				sessions[p.SessionID] += int64(p.Cost)
				keys[p.Tags[usage.TagVirtualKey]] += int64(p.Cost)
			}
		}
		for per, want := range map[budget.Per]map[string]int64{budget.PerSession: sessions, budget.PerKey: keys} {
			micro := map[string]budget.Micro{}
			for of, pico := range want {
				micro[of] = budget.Ceil(pico)
			}
			require.Equal(t, micro, query(per, 0), "calls, per %s, %s", per, when)
			require.Equal(t, micro, query(per, 1), "projection, per %s, %s", per, when)
			for of := range micro {
				require.Equal(t, map[string]budget.Micro{of: micro[of]}, query(per, 1, of, "none"), when)
				break
			}
		}
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans[:1500], "first"))
	require.NoError(t, s.InsertSpans(t.Context(), spans[:1500], "first"))
	check("sent twice")
	require.NoError(t, s.InsertSpans(t.Context(), spans[1500:], "late"))
	f.spans = spans
	check("with late calls")
	q := RerateQuery{ID: "all", From: from, To: now, All: true, By: "ann", Book: bookOf(t, "v2", "3", "served-0", "served-1")}
	_, err := s.Rerate(t.Context(), q)
	require.NoError(t, err)
	require.NotZero(t, f.reprice(q.Book, true))
	check("priced again")
	require.NoError(t, s.RebuildRollups(t.Context(), from, now, func(string) {}))
	check("with rollups rebuilt")
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE spans FINAL"))
	check("merged")
}
