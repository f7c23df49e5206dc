package clickhouse

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestFindSQL(t *testing.T) {
	q := findQuery{Traces: []string{"a", "b"}, From: time.Date(2026, 1, 13, 9, 0, 0, 0, time.UTC), To: time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)}
	sql, args := q.SQL()
	golden(t, "find_any_tenant", sql, args)
	q.Tenants = []string{"org"}
	sql, args = q.SQL()
	golden(t, "find", sql, args)
}

func testFindSpans(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	span := func(tenant, trace, id string, days int) usage.Span {
		return usage.Span{
			TenantID: tenant, TraceID: trace, SpanID: id, Timestamp: now.AddDate(0, 0, -days), RequestedModel: "asked", Model: "served",
			Provider: "p", PromptTemplate: "v1", ExperimentID: "ab", Arm: usage.Holdback,
		}
	}
	all := []usage.Span{
		span("a", "t", "1", 0), span("a", "t", "2", 0), span("b", "t", "1", 1), span("a", "old", "1", 60), span("a", "t", "3", 5),
		span("a", "ancient", "1", 120),
	}
	require.NoError(t, s.InsertSpans(t.Context(), all, "a"))
	var noise []usage.Span
	for i := range 30_000 {
		noise = append(noise, span("a", fmt.Sprint("noise-", i), "1", i%3))
	}
	require.NoError(t, s.InsertSpans(t.Context(), noise, "b"))
	find := func(traces ...usage.Trace) (ids []string) {
		found, err := s.FindSpans(t.Context(), traces, now)
		require.NoError(t, err)
		for _, p := range found {
			ids = append(ids, p.TenantID+"/"+p.TraceID+"/"+p.SpanID)
		}
		slices.Sort(ids)
		return ids
	}
	require.Equal(t, []string{"a/t/1", "a/t/2"}, find(usage.Trace{TenantID: "a", ID: "t"}), "the nearer days have it")
	require.Equal(t, []string{"a/t/1", "a/t/2", "b/t/1"}, find(usage.Trace{ID: "t"}))
	require.Equal(t, []string{"a/old/1"}, find(usage.Trace{TenantID: "a", ID: "old"}))
	require.Empty(t, find(usage.Trace{ID: "old"}, usage.Trace{TenantID: "a", ID: "ancient"}, usage.Trace{TenantID: "c", ID: "t"}, usage.Trace{TenantID: "b", ID: "old"}))
	require.Empty(t, find())
	var many []usage.Trace
	for i := range 250 {
		many = append(many, usage.Trace{TenantID: "a", ID: fmt.Sprint("noise-", i*7)})
	}
	require.Len(t, find(many...), 250)

	found, err := s.FindSpans(t.Context(), []usage.Trace{{TenantID: "a", ID: "old"}}, now)
	require.NoError(t, err)
	require.Equal(t, []usage.Span{all[3]}, found)

	// The index lets most granules be skipped.
	q := findQuery{Tenants: []string{"a"}, Traces: []string{"noise-17"}, From: now.AddDate(0, 0, -2), To: now.Add(time.Hour)}
	sql, args := q.SQL()
	var plan, line string
	rows, err := s.conn.Query(t.Context(), "EXPLAIN indexes = 1 "+sql, args...)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		require.NoError(t, rows.Scan(&line))
		plan += line + "\n"
	}
	require.NoError(t, rows.Err())
	require.Contains(t, plan, "Name: trace", plan)
}

// testArrival sends calls, scores and outcomes through ingest in two orders, and requires the same rollups.
func testArrival(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(21, 22))
	now := time.Now().UTC().Truncate(time.Minute).Add(-time.Minute)
	spans, evaluations := traffic(random, 300, now.Add(-20*time.Minute), now)
	for i := range evaluations { // they know no more than their trace
		q := &evaluations[i]
		q.TenantID, q.Model, q.PromptTemplate, q.ExperimentID, q.Arm = "", "", "", "", usage.None
	}
	var outcomes strings.Builder
	for i := range spans {
		fmt.Fprintf(&outcomes, `{"id":"o%d","trace_id":%q,"kind":"upsell","value":%d,"timestamp":%q}`+"\n",
			i, spans[i].TraceID, i%3-1, spans[i].Timestamp.Add(time.Minute).Format(time.RFC3339))
	}
	prices, err := book.Default()
	require.NoError(t, err)
	sent := func(spansFirst bool) map[string]string {
		for _, table := range append([]string{"spans", "quality", "outcomes"}, ordered...) {
			require.NoError(t, s.conn.Exec(t.Context(), "TRUNCATE TABLE "+table))
		}
		i, err := ingest.Open(ingest.Options{Dir: t.TempDir(), Sink: s, Book: prices, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- i.Run(ctx) }()
		events := func() {
			require.NoError(t, i.Accept(t.Context(), nil, evaluations))
			r := httptest.NewRequest(http.MethodPost, "/v1/outcomes", strings.NewReader(outcomes.String()))
			r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
			w := httptest.NewRecorder()
			i.Handler().ServeHTTP(w, r)
			require.Equal(t, 200, w.Code, w.Body)
		}
		backwards := slices.Clone(spans)
		if spansFirst {
			require.NoError(t, i.Accept(t.Context(), spans, nil))
			events()
		} else {
			slices.Reverse(backwards)
			events()
			for part := range slices.Chunk(backwards, 100) {
				require.NoError(t, i.Accept(t.Context(), part, nil))
			}
		}
		require.Zero(t, i.Stats().Waiting)
		require.Eventually(t, func() bool { return i.Stats().SpoolRows == 0 }, 60*time.Second, 10*time.Millisecond)
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, i.Close())
		return rolledUp(t, s)
	}
	first := sent(true)
	require.Equal(t, first, sent(false))
	require.Contains(t, first["outcomes_1m"], "org_1")
	require.EqualValues(t, 300, number(t, s, "SELECT sum(outcomes) FROM sweep_1m WHERE tenant_id != ''"))
}

var ordered = []string{
	"kpi_1m", "kpi_1h", "kpi_1d", "quality_1m", "quality_1h", "quality_1d", "outcomes_1m", "outcomes_1h", "outcomes_1d", "sweep_1m",
}

// rolledUp is all that the rollups hold, in an order of its own: codes are kept in the order of arrival.
func rolledUp(t *testing.T, s *Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, table := range ordered {
		codes, err := collect(t.Context(), s, "SELECT name FROM system.columns WHERE database = currentDatabase() AND table = {table:String} AND type LIKE '%Array(Int16)%'",
			[]any{ch.Named("table", table)}, func(rows driver.Rows, name *string) error { return rows.Scan(name) })
		require.NoError(t, err)
		replace := ""
		for i, c := range codes {
			codes[i] = fmt.Sprintf("arraySort(%s) AS %[1]s", c)
		}
		if len(codes) > 0 {
			replace = " REPLACE (" + strings.Join(codes, ", ") + ")"
		}
		var text string
		require.NoError(t, s.conn.QueryRow(t.Context(), fmt.Sprintf(
			"SELECT arrayStringConcat(arraySort(groupArray(row)), '\\n') FROM (SELECT toString(tuple(*)) AS row FROM (SELECT *%s FROM %s FINAL))", replace, table)).Scan(&text))
		require.NotEmpty(t, text, table)
		all[table] = text
	}
	return all
}

// testExperiments adds an experiment of wild costs, scores and outcomes to production traffic, and requires
// that nothing changes of what findings, baselines and evidence are drawn from.
func testExperiments(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(31, 32))
	now := time.Now().UTC()
	spans, evaluations := traffic(random, 3000, now.Add(-3*time.Hour), now)
	outcomes := outcomesOf(random, spans)
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes, "a"))
	seen := func() (all []any) {
		add := func(v any, err error) {
			require.NoError(t, err)
			all = append(all, v)
		}
		observed, err := s.Sweep(t.Context(), SweepQuery{At: now})
		add(sorted(observed), err)
		_, err = s.RebuildBaselines(t.Context(), now, detect.Minimums{Cost: 3, Quality: 1, Buckets: 3})
		require.NoError(t, err)
		add(s.Baselines(t.Context(), now))
		add(s.Live(t.Context(), now.Add(-time.Hour), now, time.Minute, 10))
		from := now.Add(-30 * time.Minute)
		for _, key := range []usage.Key{{Tenant: "org_1", Model: "model-1"}, {Tenant: "org_1", Model: usage.AnyModel}} {
			minutes, err := s.Minutes(t.Context(), key, from, now)
			for i := range minutes {
				slices.Sort(minutes[i].CostCodes)
				slices.Sort(minutes[i].QualityCodes)
			}
			add(minutes, err)
			add(s.FirstSeen(t.Context(), key, from, now, time.Hour))
			add(s.Completion(t.Context(), key, from, now))
			add(s.WorstTraces(t.Context(), key, from, now, 20))
			add(s.Flows(t.Context(), key, runbook.Times{Before: from.Add(-time.Hour), From: from, To: now}))
		}
		return all
	}
	before := seen()
	for i := range spans {
		p := &spans[i]
		p.SpanID, p.ExperimentID, p.Cost, p.Model, p.PromptTemplate = "x", "ab-2", 500_000_000_000, "untried", "untried"
		p.Tokens.Output *= 100
	}
	for i := range evaluations {
		q := &evaluations[i]
		q.ID, q.SpanID, q.ExperimentID, q.Score = "x"+q.ID, "x", "ab-2", 0
	}
	for i := range outcomes {
		o := &outcomes[i]
		o.ID, o.ExperimentID, o.Value = "x"+o.ID, "ab-2", -1
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans, "b"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "b"))
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes, "b"))
	after := seen()
	for i := range before {
		require.Equal(t, before[i], after[i])
	}
	totals, err := s.Totals(t.Context(), now.Add(-3*time.Hour), now)
	require.NoError(t, err)
	require.EqualValues(t, 6000, totals.Requests, "it is there, in its own cohort")
}
