package backtest_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/simulate"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// live is a stack that telemetry comes in to, as far as a sweep needs one.
type live struct {
	t      *testing.T
	store  *clickhouse.Store
	ingest *ingest.Ingest
	front  *httptest.Server
	exec   func(sql string)
	world  *simulate.World
}

// openStore is a migrated store on an engine of its own, and what runs SQL in it that no role of the product runs.
func openStore(t testing.TB) (store *clickhouse.Store, exec func(sql string)) {
	t.Helper()
	at, user, password := chservetest.Start(t)
	store, err := clickhouse.Open(t.Context(), clickhouse.Options{URL: at, User: user, Password: password, Database: "flyball"})
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	require.NoError(t, store.Migrate(t.Context()))
	db, err := url.Parse(at)
	require.NoError(t, err)
	db.User, db.RawQuery = url.UserPassword(user, password), "database=flyball"
	return store, func(sql string) {
		t.Helper()
		response, err := http.Post(db.String(), "text/plain", strings.NewReader(sql))
		require.NoError(t, err)
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		require.Equal(t, http.StatusOK, response.StatusCode, string(body))
	}
}

func newLive(t *testing.T, start time.Time) *live {
	t.Helper()
	l := &live{t: t, world: simulate.NewWorld(7, simulate.Demo(), start)}
	l.store, l.exec = openStore(t)
	prices, err := book.Default()
	require.NoError(t, err)
	l.ingest, err = ingest.Open(ingest.Options{Dir: t.TempDir(), Sink: l.store, Book: prices, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = l.ingest.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended; _ = l.ingest.Close() })
	l.front = httptest.NewServer(l.ingest.Handler())
	t.Cleanup(l.front.Close)
	return l
}

// simulate has the world go on until now; every fifth call is treated and every tenth held back, as under a flag.
func (l *live) simulate(now time.Time) ([]simulate.Span, []simulate.Score) {
	for i, r := range l.world.Arrivals(now) {
		arm := usage.None
		switch i % 10 {
		case 0:
			arm = usage.Holdback
		case 1, 6:
			arm = usage.Treated
		}
		l.world.Serve(r, routing.Answer{Model: r.RequestedModel, Route: routing.Direct, Arm: arm}, i%3 != 0)
	}
	return l.world.Due(now)
}

func (l *live) post(path string, records any) {
	l.t.Helper()
	body, err := json.Marshal(records)
	require.NoError(l.t, err)
	response, err := http.Post(l.front.URL+path, "application/json", bytes.NewReader(body))
	require.NoError(l.t, err)
	defer response.Body.Close()
	require.Equal(l.t, http.StatusOK, response.StatusCode)
}

// stored waits until everything that was accepted is stored, and then for the next whole second.
func (l *live) stored() time.Time {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return l.ingest.Stats().SpoolRows == 0 }, time.Minute, 10*time.Millisecond)
	next := time.Now().UTC().Truncate(time.Second).Add(time.Second)
	require.Eventually(l.t, func() bool { return !time.Now().Before(next) }, 2*time.Second, time.Millisecond)
	return next
}

func shippedSet(t testing.TB) *policy.Set {
	t.Helper()
	set, err := policy.Compile(policies.Files)
	require.NoError(t, err)
	return set
}

func sorted(all []detect.Observation) []detect.Observation {
	slices.SortFunc(all, func(a, b detect.Observation) int {
		return cmp.Or(cmp.Compare(a.Key.Tenant, b.Key.Tenant), cmp.Compare(a.Key.Model, b.Key.Model))
	})
	return all
}

// What a backtest observes of stored telemetry at an instant is what the sweep observed at it: the telemetry is a
// simulator's under an injected fault, taken in by the real ingest into the real engine while the sweep's own query is
// asked, with scores that come late, arms, experiments and outcomes. What it fires is what the sweep's own observations fire.
func TestBacktestSeesWhatTheSweepSaw(t *testing.T) {
	t.Parallel()
	start := time.Now().UTC().Add(-18 * time.Minute)
	l := newLive(t, start)
	opus := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	_, err := l.world.Inject(simulate.Fault{Kind: simulate.Cost, Tenant: opus.Tenant, Model: opus.Model, Factor: 4, Quality: 0.5}, time.Hour, start.Add(8*time.Minute))
	require.NoError(t, err)
	var late []simulate.Score
	var spans []simulate.Span
	for at := start; at.Before(time.Now()); at = at.Add(2 * time.Second) {
		calls, scores := l.simulate(at)
		spans, late = append(spans, calls...), append(late, scores...)
	}
	for part := range slices.Chunk(spans, 1000) {
		l.post("/v1/spans", part)
	}
	trial := usage.Span{
		TraceID: "x", SpanID: "x", Timestamp: time.Now().UTC().Add(-4 * time.Minute), TenantID: opus.Tenant, RequestedModel: opus.Model, Model: opus.Model,
		Provider: "anthropic", ExperimentID: "ab", Cost: 5e9, Priced: true, Tokens: usage.Tokens{UncachedInput: 10, Output: 5}, LatencyMS: 900, TTFTMS: 100,
	}
	require.NoError(t, l.store.InsertSpans(t.Context(), []usage.Span{trial}, "trial"))
	require.NoError(t, l.store.InsertOutcomes(t.Context(), []usage.Outcome{{ID: "o", TenantID: opus.Tenant, Model: opus.Model, Kind: "ticket", Value: 1, Timestamp: time.Now().UTC().Add(-3 * time.Minute)}}, "outcome"))
	l.exec(fmt.Sprintf(`INSERT INTO baselines (slot, tenant_id, model, version, cost_buckets, ln_cost, ln_cost_dev, ln_cost_sd, cost_bucket_n, quality_buckets, quality, quality_dev, quality_sd, quality_bucket_n, spend_per_minute_pico, requests_per_minute)
SELECT toDateTime('%s', 'UTC'), '%s', '%s', 'test', 100, log(2e10), 0.02, 0.5, 900, 100, 0.85, 0.01, 0.06, 300, 1e15, 300`, time.Now().UTC().Truncate(time.Hour).Format(time.DateTime), opus.Tenant, opus.Model))

	set, lag, tuning := shippedSet(t), 2*time.Second, contract.NewTuning(0.05)
	baselines, err := l.store.Baselines(t.Context(), time.Now())
	require.NoError(t, err)
	swept := map[time.Time][]detect.Observation{}
	var fired []backtest.Change
	course := backtest.NewCourse(tuning, nil, func(c backtest.Change, _ *backtest.State) { fired = append(fired, c) })
	var first, last time.Time
	for range 7 {
		spans, scores := l.simulate(time.Now())
		l.post("/v1/spans", spans)
		if half := len(late) / 2; half > 0 {
			l.post("/v1/quality", late[:half])
			late = append(late[half:], scores...)
		}
		last = l.stored()
		if first.IsZero() {
			first = last
		}
		swept[last], err = l.store.Sweep(t.Context(), clickhouse.SweepQuery{At: last.Add(-lag)})
		require.NoError(t, err)
		if last.Equal(first) {
			trials, err := l.store.Sweep(t.Context(), clickhouse.SweepQuery{At: last.Add(-lag), Experiments: true})
			require.NoError(t, err)
			require.Len(t, trials, 1)
			swept[last] = append(swept[last], trials...)
		}
	}

	var mu sync.Mutex
	seen := map[time.Time][]detect.Observation{}
	past := backtest.Past{
		KnownQuery: clickhouse.KnownQuery{From: first, To: last.Add(time.Second), Every: time.Second},
		Options: backtest.Options{Sets: []*policy.Set{set}, Tuning: tuning, Lag: lag, Workers: 2, Observed: func(now time.Time, o detect.Observation) {
			mu.Lock()
			defer mu.Unlock()
			seen[now] = append(seen[now], o)
		}},
	}
	result, err := backtest.Run(t.Context(), l.store, past)
	require.NoError(t, err)
	for at, want := range swept {
		require.NotEmpty(t, want)
		require.Equal(t, sorted(want), sorted(seen[at]), "at %s", at)
	}
	require.Len(t, seen, int(last.Sub(first)/time.Second)+1, "and at the ticks between them too")
	for _, at := range slices.SortedFunc(func(yield func(time.Time) bool) {
		for at := range seen {
			if !yield(at) {
				return
			}
		}
	}, time.Time.Compare) {
		require.NoError(t, course.Advance(set, at))
		for _, o := range seen[at] {
			if o.Key == opus {
				b := baselines[opus]
				facts := detect.Assemble(o, b, tuning.Limits.Minimums, detect.None)
				require.NoError(t, course.Judge(set, backtest.Seen{Key: opus, Facts: &facts, Calls: o.Whole.Requests, Baseline: &b, Watch: at.Add(-lag), Now: at}))
			}
		}
	}
	report := past.Report([]string{"shipped"}, result)
	episodes := report.Sets[0].Episodes
	require.NotEmpty(t, episodes)
	require.Equal(t, backtest.Episodes(fired), episodes)
	require.Equal(t, opus, episodes[0].Key)
	require.Equal(t, detect.Page, episodes[0].Level)
	require.NotEmpty(t, episodes[0].Acts)
	require.Positive(t, result.Baselines.Hour)
}
