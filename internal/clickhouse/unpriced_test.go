package clickhouse

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestUnpricedSQL(t *testing.T) {
	at := time.Date(2026, 1, 15, 9, 23, 47, 0, time.UTC)
	sql, args := UnpricedQuery{From: at.Add(-time.Hour), To: at}.SQL()
	golden(t, "unpriced", sql, args)
}

func testUnpriced(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Minute)
	span := func(id, tenant, provider, model string, priced bool, at time.Time) usage.Span {
		return usage.Span{
			SpanID: id, TenantID: tenant, Provider: provider, RequestedModel: "asked", Model: model, Timestamp: at, Priced: priced,
			Tokens: usage.Tokens{UncachedInput: 1, CacheRead: 20, CacheWrite5m: 300, CacheWrite1h: 4000, Output: 7}, PriceVersion: "v1",
		}
	}
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{
		span("1", "a", "openai", "gpt-new", false, now),
		span("2", "b", "openai", "gpt-new", false, now.Add(time.Second)),
		span("3", "a", "openai", "gpt-4o", true, now),
		span("4", "a", "azure", "gpt-new", false, now),
		span("5", "a", "flyball", "canary", false, now),
		span("6", "a", "xai", "late", false, now.Add(time.Minute)),
		span("7", "flyball-drill-eu", "openai", "gpt-drilled", false, now),
	}, "unpriced"))
	got, err := s.Unpriced(t.Context(), UnpricedQuery{From: now, To: now.Add(time.Minute)})
	require.NoError(t, err)
	require.Equal(t, []Unpriced{
		{Provider: "openai", Model: "gpt-new", Tenants: 2, Calls: 2, InputTokens: 2 * 4321, OutputTokens: 14, First: now, Last: now.Add(time.Second)},
		{Provider: "azure", Model: "gpt-new", Tenants: 1, Calls: 1, InputTokens: 4321, OutputTokens: 7, First: now, Last: now},
	}, got)

	// A drill's calls are in no sum over tenants, unless it is asked for.
	q := KPIQuery{From: now, To: now.Add(time.Minute), GroupBy: []Dimension{ByTenant}}
	tenants := func() (names []string) {
		rows, err := s.KPI(t.Context(), q, now)
		require.NoError(t, err)
		for _, r := range rows {
			names = append(names, r.Values[0])
		}
		return names
	}
	require.NotContains(t, tenants(), "flyball-drill-eu")
	require.Contains(t, tenants(), "a")
	q.Where = map[Dimension][]string{ByTenant: {"flyball-drill-eu"}}
	require.Equal(t, []string{"flyball-drill-eu"}, tenants())
	before, err := s.Totals(t.Context(), now, now.Add(time.Minute))
	require.NoError(t, err)
	calls, err := s.Arrived(t.Context(), now)
	require.NoError(t, err)
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{span("8", "flyball-drill", "openai", "gpt-drilled", true, now), span("9", "flyball-drilled", "openai", "gpt-drilled", true, now)}, "drilled"))
	after, err := s.Totals(t.Context(), now, now.Add(time.Minute))
	require.NoError(t, err)
	require.Equal(t, before.Requests+1, after.Requests, "the tenant that is only called alike counts")
	again, err := s.Arrived(t.Context(), now)
	require.NoError(t, err)
	require.Equal(t, calls+1, again)
	series, err := s.Live(t.Context(), now, now.Add(time.Minute), time.Minute, 1000)
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, point := range series {
		seen[point.Key.Tenant] = true
	}
	require.True(t, seen["flyball-drilled"])
	require.False(t, seen["flyball-drill"])
}
