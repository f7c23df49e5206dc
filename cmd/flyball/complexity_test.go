package main

import (
	"context"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/complexity"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/kpi"
)

// scoreMemory keeps scores as the store does, for one caller at a time.
type scoreMemory struct{ all []kpi.TaskScore }

func (m *scoreMemory) SetComplexity(_ context.Context, scores []kpi.TaskScore) error {
	for _, s := range scores {
		m.all = slices.DeleteFunc(m.all, func(old kpi.TaskScore) bool { return old.Tenant == s.Tenant && old.Task == s.Task })
		m.all = append(m.all, s)
	}
	slices.SortFunc(m.all, func(a, b kpi.TaskScore) int {
		return slices.Compare([]string{a.Tenant, a.Task}, []string{b.Tenant, b.Task})
	})
	return nil
}

func (m *scoreMemory) Complexity(context.Context) ([]kpi.TaskScore, error) {
	return slices.Clone(m.all), nil
}

// TestWhoMaySetComplexity: a sender of calls, of its own tenant; nobody else.
func TestWhoMaySetComplexity(t *testing.T) {
	t.Parallel()
	s := front(t, func(c *config.Config) {
		c.Tokens = []config.Token{
			{Name: "org", Hash: ingest.HashToken("org"), Tenant: "org"},
			{Name: "judge", Hash: ingest.HashToken("judge"), Tenant: "org", Scopes: []string{"quality"}},
			{Name: "all", Hash: ingest.HashToken("all")},
		}
	})
	s.scores, s.ingest, s.takesIn = complexity.New(&scoreMemory{}, s.log, time.Now), new(ingest.Ingest), true
	handler := s.frontHandler(nil, nil)
	s.ingest = nil // it was never opened
	ask := func(token, method, body string) (int, string) {
		r := httptest.NewRequest(method, "/v1/complexity", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w.Code, w.Body.String()
	}
	for _, tc := range []struct {
		token, method, body string
		want                int
		says                string
	}{
		{"none", http.MethodGet, "", 401, "unauthorized"},
		{"judge", http.MethodGet, "", 403, `\"judge\" is not for spans`},
		{"judge", http.MethodPost, `{"task":"a","score":2}`, 403, `\"judge\" is not for spans`},
		{"org", http.MethodPost, `{"tenant_id":"other","task":"a","score":2}`, 400, "is not the ingest token's tenant"},
		{"all", http.MethodPost, `[{"tenant_id":"other","task":"a","score":2},{"task":"a","score":4}]`, 200, `"accepted":2`},
		{"org", http.MethodPost, `{"task":"a","score":8}`, 200, `"accepted":1`},
		{"org", http.MethodPut, `{"task":"a","score":8}`, 405, ""},
	} {
		status, body := ask(tc.token, tc.method, tc.body)
		require.Equal(t, tc.want, status, body)
		require.Contains(t, body, tc.says)
	}
	require.Equal(t, []float64{8, 2, 4}, []float64{s.scores.Of("org", "a"), s.scores.Of("other", "a"), s.scores.Of("third", "a")})
	_, own := ask("org", http.MethodGet, "")
	require.Contains(t, own, `"by":"org"`)
	require.NotContains(t, own, "other", "a tenant sees nothing of another's")
}

func TestPrintKPI(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	q := clickhouse.KPIQuery{Step: time.Hour, GroupBy: []clickhouse.Dimension{clickhouse.ByTenant, clickhouse.ByModel}}
	// 6,000,000,003 pico-dollars over a complexity of 4; 400 tokens in 2 s; 450 of 1900 tokens out, 800 cached; 3 good of 4.
	var full clickhouse.KPI
	full.At, full.Values, full.Requests, full.Unpriced, full.Cost, full.ComplexityMilli = at, []string{"org", "big"}, 4, 1, big.NewInt(6_000_000_003), 4000
	full.VelocityTokens, full.VelocityMS, full.Outcomes, full.Good = 400, 2000, 5, 3
	full.Tokens.UncachedInput, full.Tokens.CacheRead, full.Tokens.Output = 1100, 800, 450
	full.CostUSD, full.LatencyMS = kpi.Percentiles{N: 2, P50: 0.00129, P95: 0.00471, P99: 0.00471}, kpi.Percentiles{N: 3, P50: 700, P95: 1843, P99: 1843}
	var empty clickhouse.KPI
	empty.At, empty.Values, empty.Requests, empty.Cost = at.Add(time.Hour), []string{"org", ""}, 1, new(big.Int)
	rows := kpiRows(q, []clickhouse.KPI{full, empty})
	var table, lines strings.Builder
	require.NoError(t, printKPI(&table, q, rows))
	require.Equal(t, strings.Join([]string{
		"AT                TENANT_ID  MODEL  REQUESTS  UNPRICED  SPEND   NTC       TOKENS/S  OUT/IN  CACHE  OUTCOMES  COST P50  P95       P99       MS P50  P95   P99",
		"2026-01-15 09:00  org        big    4         1         0.0060  0.001500  200.0     0.237   0.421  0.750     0.001290  0.004710  0.004710  700     1843  1843",
		"2026-01-15 10:00  org               1         0         0.0000  -         -         -       -      -         -         -         -         -       -     -",
		"",
	}, "\n"), table.String())
	require.NoError(t, writeLines(&lines, rows))
	first, second, _ := strings.Cut(lines.String(), "\n")
	require.JSONEq(t, `{"at":"2026-01-15T09:00:00Z","by":{"tenant_id":"org","model":"big"},"requests":4,"unpriced":1,"spend_usd":"0.006000000003",
		"ntc_usd":0.00150000000075,"token_velocity":200,"completion_ratio":0.23684210526315788,"cache_hit_rate":0.42105263157894735,"outcome_rate":0.75,
		"cost_usd":{"n":2,"p50":0.00129,"p95":0.00471,"p99":0.00471},"latency_ms":{"n":3,"p50":700,"p95":1843,"p99":1843}}`, first)
	require.JSONEq(t, `{"at":"2026-01-15T10:00:00Z","by":{"tenant_id":"org","model":""},"requests":1,"unpriced":0,"spend_usd":"0",
		"ntc_usd":null,"token_velocity":null,"completion_ratio":null,"cache_hit_rate":null,"outcome_rate":null,"cost_usd":null,"latency_ms":null}`, second)
}
