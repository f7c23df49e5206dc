package clickhouse

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStore runs every test that needs a database on one engine (or on the server of CLICKHOUSE_URL),
// each in a database of its own.
func TestStore(t *testing.T) {
	server := startServer(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Store)
	}{
		{"migrate", testMigrate},
		{"cluster SQL parses", testClusterParses},
		{"layout missing", testLayoutMissing},
		{"codes", testCodes},
		{"insert once", testInsertOnce},
		{"round trip", testRoundTrip},
		{"sweep", testSweep},
		{"sweep shards", testSweepShards},
		{"runaway spend", testRunawaySpend},
		{"observe", testObserve},
		{"minutes", testMinutes},
		{"code cap", testCap},
		{"providers", testProviders},
		{"watermark", testWatermark},
		{"baselines", testBaselines},
		{"baselines of nothing", testBaselinesEmpty},
		{"baselines grow", testBaselinesGrow},
		{"accepted levels", testAccepted},
		{"calibrated levels", testLevels},
		{"least calls", testLeastCalls},
		{"evidence", testEvidence},
		{"diagnostic query", testDiagnostic},
		{"find spans", testFindSpans},
		{"arrival", testArrival},
		{"experiments", testExperiments},
		{"live", testLive},
		{"unpriced", testUnpriced},
		{"known", testKnown},
		{"baselines known", testBaselinesKnown},
		{"baselines computed again", testRecomputeBaselines},
		{"shadow", testShadowRows},
		{"kpi", testKPI},
		{"kpi by hand", testKPIByHand},
		{"kpi percentiles of a hot key", testKPIHot},
		{"complexity", testComplexity},
		{"evaluators", testEvaluators},
		{"scores aside", testAside},
		{"scores from before", testAsideUpgrade},
		{"human pairs", testHumanPairs},
		{"scored tuples", testScoredTuples},
		{"predictors", testPredictors},
		{"both scored", testBothScored},
		{"rebuild of an old month", testRebuildOld},
		{"compact", testCompact},
		{"rerate", testRerate},
		{"rerate at once", testRerateAtOnce},
		{"rerate cut short", testRerateCutShort},
		{"audit", testAudit},
		{"contents", testContents},
		{"judge spend", testJudgeSpend},
		{"decisions", testDecisions},
		{"fallback cases", testFallbackCases},
		{"budgets", testBudgets},
		{"budget writers", testBudgetWriters},
		{"spend kept", testSpendKept},
		{"savings", testSavings},
		{"errors", testErrors},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, server.database(t)) })
	}
}

// server is where tests find ClickHouse.
type server struct{ options Options }

func startServer(t testing.TB) server {
	if given := os.Getenv("CLICKHOUSE_URL"); given != "" {
		u, err := url.Parse(given)
		require.NoError(t, err)
		password, _ := u.User.Password()
		user := u.User.Username()
		if user == "" {
			user = "default"
		}
		u.User = nil
		return server{Options{URL: u.String(), User: user, Password: password}}
	}
	at, user, password := chservetest.Start(t)
	return server{Options{URL: at, User: user, Password: password}}
}

var databases atomic.Int64

// database is a migrated database of the test's own.
func (s server) database(t testing.TB) *Store {
	o := s.options
	o.Database = fmt.Sprintf("flyball_test_%d_%d", os.Getpid(), databases.Add(1))
	store, err := Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		require.NoError(t, store.server.Exec(ctx, "DROP DATABASE IF EXISTS "+o.Database))
		require.NoError(t, store.Close())
	})
	require.NoError(t, store.Migrate(t.Context()))
	return store
}

// outcomesOf makes outcomes of about half of the calls, good and bad, up to half an hour after them.
func outcomesOf(random *rand.Rand, spans []usage.Span) (outcomes []usage.Outcome) {
	for i := range spans {
		if p := &spans[i]; random.IntN(2) == 0 {
			outcomes = append(outcomes, usage.Outcome{
				ID: fmt.Sprint("o-", i), TraceID: p.TraceID, TenantID: p.TenantID, Model: p.RequestedModel, ServedModel: p.Model,
				Provider: p.Provider, PromptTemplate: p.PromptTemplate, ExperimentID: p.ExperimentID, Arm: p.Arm, Kind: "conversion",
				Value: float64(random.IntN(3) - 1), Timestamp: p.Timestamp.Add(time.Duration(random.IntN(1800)) * time.Second),
			})
		}
	}
	return outcomes
}

// number asks for one integer.
func number(t testing.TB, s *Store, sql string) int64 {
	t.Helper()
	var n int64
	require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT toInt64(("+sql+"))").Scan(&n))
	return n
}

// traffic makes spans and evaluations of a few tenants and models between from and to, in every cohort
// and arm, some free of charge.
func traffic(random *rand.Rand, n int, from, to time.Time) ([]usage.Span, []usage.Quality) {
	arms := []usage.Arm{"", usage.None, usage.None, usage.Treated, usage.Holdback}
	var spans []usage.Span
	var evaluations []usage.Quality
	for i := range n {
		at := from.Add(time.Duration(random.Int64N(int64(to.Sub(from))))).Truncate(time.Millisecond)
		s := usage.Span{
			TraceID: fmt.Sprint("trace-", i), SpanID: fmt.Sprint("span-", i), Timestamp: at,
			TenantID: fmt.Sprint("org_", random.IntN(3)), RequestedModel: fmt.Sprint("model-", random.IntN(5)),
			Provider: "openai", Model: fmt.Sprint("served-", random.IntN(2)), PromptTemplate: fmt.Sprint("t-", random.IntN(2)),
			Tokens: usage.Tokens{
				UncachedInput: random.Int64N(5000), CacheRead: random.Int64N(500), CacheWrite5m: random.Int64N(50),
				CacheWrite1h: random.Int64N(50), Output: 100 + random.Int64N(900), Reasoning: random.Int64N(100),
			},
			UsageComplete: true, Cost: usage.PicoUSD(random.Int64N(9_000_000_000)), Priced: true, PriceVersion: "2026-01",
			LatencyMS: 100 + random.Int64N(3000), TTFTMS: random.Int64N(100), Complexity: 1, Arm: arms[random.IntN(len(arms))],
		}
		if random.IntN(10) == 0 {
			s.Cost, s.Priced, s.PriceVersion = 0, false, ""
		}
		if random.IntN(10) == 0 {
			s.ExperimentID = "ab-1"
		}
		spans = append(spans, s)
		if random.IntN(3) == 0 {
			kind := []string{"judge", "heuristic", "human"}[random.IntN(3)]
			evaluations = append(evaluations, usage.Quality{
				ID: fmt.Sprint("q-", i), TraceID: s.TraceID, SpanID: s.SpanID, TenantID: s.TenantID, Model: s.RequestedModel,
				ServedModel: s.Model, Provider: s.Provider, PromptTemplate: s.PromptTemplate, ExperimentID: s.ExperimentID, Arm: s.Arm, Evaluator: "judge-" + kind,
				EvaluatorVersion: "2", Score: float64(random.IntN(401)) / 400, Confidence: 0.9, Kind: kind, Timestamp: at,
			})
		}
	}
	return spans, evaluations
}
