package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/fstest"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

func testMigrate(t *testing.T, s *Store) {
	migrations, err := loadMigrations(migrationFiles)
	require.NoError(t, err)
	require.NoError(t, s.Migrate(t.Context()), "a second run changes nothing")
	require.EqualValues(t, len(migrations), number(t, s, "SELECT count() FROM migrations"))

	// Cut short before it was recorded: the next run repeats it.
	require.NoError(t, s.conn.Exec(t.Context(), "TRUNCATE TABLE migrations"))
	require.NoError(t, s.Migrate(t.Context()))
	require.EqualValues(t, len(migrations), number(t, s, "SELECT count() FROM migrations"))

	require.NoError(t, s.conn.Exec(t.Context(), "INSERT INTO migrations (version, name) VALUES (9999, 'later')"))
	require.ErrorContains(t, s.Migrate(t.Context()), "run a newer flyball")
}

func TestLoadMigrations(t *testing.T) {
	load := func(names ...string) error {
		files := fstest.MapFS{}
		for _, n := range names {
			files["migrations/"+n] = &fstest.MapFile{Data: []byte("SELECT 1;")}
		}
		_, err := loadMigrations(files)
		return err
	}
	require.NoError(t, load("0001_a.sql", "0002_b.sql"))
	require.ErrorContains(t, load("0001_a.sql", "0003_b.sql"), "should have number 2")
	require.ErrorContains(t, load("0001_a.sql", "0001_b.sql"), "should have number 2")
	require.ErrorContains(t, load("first.sql"), "must begin with its number")
}

func TestSplitStatements(t *testing.T) {
	require.Equal(t, []string{"CREATE TABLE a (\n  x Int8\n)", "SELECT ';' AS semicolon", "SELECT 3"},
		splitStatements("-- about; this\nCREATE TABLE a (\n  -- why;\n  x Int8\n);\n\nSELECT ';' AS semicolon; \nSELECT 3"))
	require.Empty(t, splitStatements("\n-- nothing\n"))
}

// testCodes compares the codes that the views compute with those of package kpi.
func testCodes(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now().UTC().Truncate(time.Minute)
	var spans []usage.Span
	var evaluations []usage.Quality
	add := func(cost int64, score float64) {
		i := len(spans)
		model := fmt.Sprint("m", i)
		spans = append(spans, usage.Span{SpanID: model, TenantID: "t", RequestedModel: model, Model: model, Timestamp: now, Cost: usage.PicoUSD(cost), Priced: true})
		evaluations = append(evaluations, usage.Quality{ID: model, TenantID: "t", Model: model, Timestamp: now, Score: score, Kind: "judge"})
	}
	for _, cost := range []int64{-5, 0, 1, 2, 3, 1<<31 - 1, 1 << 31, 1<<63 - 1} {
		add(cost, 0)
	}
	for i := range 401 { // every half code, where rounding modes differ
		add(1, float64(i)/400)
	}
	for range 5000 {
		add(random.Int64N(1<<uint(2+random.IntN(61))), random.Float64())
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans, "spans"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "quality"))

	rows, err := s.conn.Query(t.Context(), "SELECT toString(model), groupArrayArray(4096)(cost_codes), groupArrayArray(4096)(quality_codes) FROM sweep_1m GROUP BY model")
	require.NoError(t, err)
	defer rows.Close()
	costs, scores := map[string][]int16{}, map[string][]int16{}
	for rows.Next() {
		var model string
		var cost, score []int16
		require.NoError(t, rows.Scan(&model, &cost, &score))
		costs[model], scores[model] = cost, score
	}
	require.NoError(t, rows.Err())
	for i := range spans {
		model := spans[i].RequestedModel
		want := []int16{}
		if code, ok := kpi.CostCode(spans[i].Cost); ok {
			want = append(want, code)
		}
		require.Equal(t, want, costs[model], "cost %d", spans[i].Cost)
		require.Equal(t, []int16{kpi.QualityCode(evaluations[i].Score)}, scores[model], "score %v", evaluations[i].Score)
	}
	require.Zero(t, number(t, s, `SELECT count() FROM
		(SELECT requested_model AS m, cost_codes AS c FROM kpi_1m) AS k
		INNER JOIN (SELECT model AS m, groupArrayArray(cost_codes) AS c FROM sweep_1m GROUP BY model) AS s ON k.m = s.m
		WHERE k.c != s.c`), "kpi_1m has the codes of sweep_1m")
}

// totals are what every table and rollup must agree on.
type totals struct {
	spans, tokens, quality, scored, codes int64
	cost                                  string
}

func readTotals(t *testing.T, s *Store, table string) totals {
	t.Helper()
	var sum totals
	query := map[string]string{
		"spans":      "SELECT toInt64(count()), sum(uncached_input_tokens), toInt64(0), toInt64(0), toInt64(0), sum(toInt128(cost_pico_usd)) FROM spans",
		"kpi_1m":     "SELECT toInt64(sum(requests)), sum(uncached_input_tokens), toInt64(0), toInt64(0), toInt64(0), sum(cost_pico_usd) FROM kpi_1m",
		"kpi_1h":     "SELECT toInt64(sum(requests)), sum(uncached_input_tokens), toInt64(0), toInt64(0), toInt64(0), sum(cost_pico_usd) FROM kpi_1h",
		"kpi_1d":     "SELECT toInt64(sum(requests)), sum(uncached_input_tokens), toInt64(0), toInt64(0), toInt64(0), sum(cost_pico_usd) FROM kpi_1d",
		"quality_1d": "SELECT toInt64(0), toInt64(0), toInt64(sum(scored)), sum(code_sum), toInt64(0), toInt128(0) FROM quality_1d",
		"sweep_1m":   "SELECT toInt64(sum(requests)), sum(input_tokens), toInt64(0), toInt64(0), toInt64(sum(length(cost_codes))), sum(cost_pico_usd) FROM sweep_1m",
		"quality":    "SELECT toInt64(0), toInt64(0), toInt64(count()), toInt64(0), toInt64(0), toInt128(0) FROM quality",
		"quality_1m": "SELECT toInt64(0), toInt64(0), toInt64(sum(scored)), sum(code_sum), toInt64(sum(length(quality_codes))), toInt128(0) FROM quality_1m",
	}[table]
	cost := new(big.Int)
	require.NoError(t, s.conn.QueryRow(t.Context(), query).Scan(&sum.spans, &sum.tokens, &sum.quality, &sum.scored, &sum.codes, cost))
	sum.cost = cost.String()
	return sum
}

var totalled = []string{"spans", "kpi_1m", "kpi_1h", "kpi_1d", "sweep_1m", "quality", "quality_1m", "quality_1d"}

func readAllTotals(t *testing.T, s *Store) map[string]totals {
	all := map[string]totals{}
	for _, table := range totalled {
		all[table] = readTotals(t, s, table)
	}
	return all
}

func testInsertOnce(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(3, 4))
	now := time.Now().UTC()
	// Over three days, so that a batch makes parts in several partitions of every table.
	spans, evaluations := traffic(random, 3000, now.Add(-72*time.Hour), now)
	require.NoError(t, s.InsertSpans(t.Context(), spans[:1500], "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	require.NoError(t, s.InsertSpans(t.Context(), spans[1500:], "b"))
	once := readAllTotals(t, s)
	require.EqualValues(t, 3000, once["spans"].spans)
	require.EqualValues(t, 3000, once["kpi_1m"].spans)
	require.Equal(t, once["spans"].cost, once["kpi_1m"].cost)
	require.Equal(t, once["kpi_1m"], once["kpi_1d"])
	require.EqualValues(t, len(evaluations), once["quality_1m"].quality)
	require.EqualValues(t, len(evaluations), once["quality_1d"].quality)

	for range 2 {
		require.NoError(t, s.InsertSpans(t.Context(), spans[1500:], "b"))
		require.NoError(t, s.InsertSpans(t.Context(), spans[:1500], "a"))
		require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	}
	require.Equal(t, once, readAllTotals(t, s), "the same batches under the same tokens are stored once")

	require.NoError(t, s.InsertSpans(t.Context(), spans[:1], "c"))
	require.EqualValues(t, 3001, readTotals(t, s, "kpi_1m").spans, "another token is another batch")

	require.NoError(t, s.InsertSpans(t.Context(), nil, "d"), "an empty batch is no insert")
	require.ErrorContains(t, s.InsertSpans(t.Context(), spans[:1], ""), "no token")
}

// TestInsertOnceAcrossKill sends batches again after the engine was killed.
func TestInsertOnceAcrossKill(t *testing.T) {
	engine := chservetest.Launch(t, chservetest.Options{})
	open := func(url string) *Store {
		s, err := Open(t.Context(), Options{URL: url, User: chservetest.AdminUser, Password: chservetest.AdminPassword, Database: "flyball"})
		require.NoError(t, err)
		require.NoError(t, s.Migrate(t.Context()))
		return s
	}
	s := open(engine.URL)
	now := time.Now().UTC()
	spans, evaluations := traffic(rand.New(rand.NewPCG(5, 6)), 2000, now.Add(-30*time.Hour), now)
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	once := readAllTotals(t, s)
	engine.Kill()
	err := s.Ping(t.Context())
	require.Error(t, err)
	require.True(t, Retryable(err), "an engine that is away may come back: %v", err)
	require.NoError(t, s.Close())

	s = open(chservetest.Launch(t, chservetest.Options{Data: engine.Data}).URL)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	require.Equal(t, once, readAllTotals(t, s))
}

func testRoundTrip(t *testing.T, s *Store) {
	reported := usage.PicoUSD(4_710_000_000)
	at := time.Now().Add(-48 * time.Hour).Truncate(time.Millisecond).In(time.FixedZone("east", 3600))
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{{
		TraceID: "tr", SpanID: "sp", Timestamp: at, TenantID: "org_42", SessionID: "se", Provider: "anthropic",
		RequestedModel: "big", Model: "small", PromptTemplate: "rag-v3", Task: "support", ServiceTier: "batch",
		Tokens:        usage.Tokens{UncachedInput: 1, CacheRead: 2, CacheWrite5m: 3, CacheWrite1h: 4, Output: 5, Reasoning: 1},
		UsageComplete: true, Cost: 42, Priced: true, CostReported: &reported, PriceVersion: "v1", LatencyMS: 1843, TTFTMS: 210,
		Complexity: 1.5, Route: "downgrade", DecisionID: "d", Arm: usage.Treated, Tags: map[string]string{"team": "search"},
	}, {TenantID: "org_42", RequestedModel: "big", Timestamp: at}}, "a"))
	var (
		trace, tenant, cohort, arm, tier, version string
		stored                                    time.Time
		complete                                  bool
		cost                                      int64
		costReported                              *int64
		tags                                      map[string]string
	)
	require.NoError(t, s.conn.QueryRow(t.Context(), `SELECT trace_id, tenant_id, toString(cohort), toString(arm), attributes['service_tier'],
		price_version, timestamp, usage_complete, cost_pico_usd, cost_reported_pico_usd, tags FROM spans WHERE span_id = 'sp'`).Scan(
		&trace, &tenant, &cohort, &arm, &tier, &version, &stored, &complete, &cost, &costReported, &tags))
	require.Equal(t, []any{"tr", "org_42", "production", "treated", "batch", "v1", true, int64(42), int64(reported), map[string]string{"team": "search"}},
		[]any{trace, tenant, cohort, arm, tier, version, complete, cost, *costReported, tags})
	require.True(t, at.Equal(stored), "%v != %v", at, stored)
	require.EqualValues(t, 1, number(t, s, "SELECT sum(unpriced) FROM kpi_1m"))
	require.EqualValues(t, 1, number(t, s, "SELECT count() FROM spans WHERE cost_reported_pico_usd IS NULL AND price_version = 'unknown' AND arm = 'none'"))
}

func testWatermark(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	read := func() time.Duration {
		at, err := s.ReadWatermark(t.Context(), now)
		require.NoError(t, err)
		return now.Sub(at)
	}
	mark := func(spool string, behind time.Duration) {
		require.NoError(t, s.Watermark(t.Context(), spool, now.Add(-behind)))
	}
	require.Zero(t, read(), "no spool")
	mark("a", -time.Minute)
	require.Zero(t, read(), "never after now")
	mark("b", 5*time.Second)
	require.Equal(t, 5*time.Second, read())
	mark("b", 2*time.Second)
	require.Equal(t, 2*time.Second, read(), "a spool's last watermark counts")
	mark("slow", 90*time.Second)
	require.Equal(t, 30*time.Second, read(), "a slow spool holds it back by 30 s at most")
	now = now.Add(31 * time.Second)
	mark("a", 0)
	mark("b", time.Second)
	require.Equal(t, time.Second, read(), "a dead spool does not count")
}

func testErrors(t *testing.T, s *Store) {
	err := s.conn.Exec(t.Context(), "SELECT * FROM missing")
	require.Error(t, err)
	require.False(t, Retryable(err), "%v", err)

	slow, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = s.conn.QueryRow(slow, "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1").Scan(new(uint64))
	require.Error(t, err)
	require.True(t, Retryable(err), "%v", err)

	err = s.conn.Exec(ch.Context(t.Context(), ch.WithSettings(ch.Settings{"max_memory_usage": 1_000_000})),
		"SELECT groupArray(number) FROM numbers(10000000)")
	require.Error(t, err)
	require.True(t, Retryable(err), "%v", err)
}

func TestRetryable(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("storing: %w", err) }
	require.False(t, Retryable(nil))
	require.False(t, Retryable(errors.New("row 3: wrong type")))
	require.False(t, Retryable(wrap(context.Canceled)))
	require.True(t, Retryable(wrap(context.DeadlineExceeded)))
	require.True(t, Retryable(wrap(&ch.Exception{Code: 202})))
	require.True(t, Retryable(wrap(&ch.HTTPError{StatusCode: 500, Err: &ch.Exception{Code: 241}})))
	require.False(t, Retryable(wrap(&ch.HTTPError{StatusCode: 500, Err: &ch.Exception{Code: 62}})))
	require.True(t, Retryable(wrap(&ch.HTTPError{StatusCode: 503, Err: errors.New("bad gateway")})))
	require.False(t, Retryable(wrap(&ch.HTTPError{StatusCode: 404, Err: errors.New("not found")})))
}

func TestOpenRefuses(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	for name, test := range map[string]struct {
		options   Options
		message   string
		retryable bool
	}{
		"no scheme":     {Options{URL: "localhost:8123", Database: "flyball"}, "must be http", false},
		"native scheme": {Options{URL: "clickhouse://localhost:9000", Database: "flyball"}, "must be http", false},
		"database":      {Options{URL: closed.URL, Database: "a b"}, "letters, digits and underscores", false},
		"away":          {Options{URL: closed.URL, Database: "flyball"}, "sign of life", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), test.options)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, test.retryable, Retryable(err), "%v", err)
		})
	}
}

func TestMinutes(t *testing.T) {
	day := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct{ from, to, wantFrom, wantTo time.Time }{
		"whole":     {day, day.Add(time.Minute), day, day.Add(time.Minute)},
		"partial":   {day.Add(59 * time.Second), day.Add(61 * time.Second), day, day.Add(2 * time.Minute)},
		"elsewhere": {day.In(time.FixedZone("x", 1800)), day, day, day},
		"unbounded": {time.Time{}, day.AddDate(900, 0, 0), earliest, latest},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := minutes(test.from, test.to)
			require.Equal(t, []time.Time{test.wantFrom, test.wantTo}, []time.Time{from, to})
		})
	}
}
