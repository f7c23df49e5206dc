package clickhouse

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// testContents: texts are stored once, and go when the row says so.
func testContents(t *testing.T, s *Store) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	contents := []usage.Content{
		{TraceID: "a", SpanID: "1", TenantID: "t", RequestedModel: "m", Model: "m", Timestamp: now, ExpiresAt: now.Add(time.Hour), Input: "why?", Output: "because"},
		{TraceID: "b", SpanID: "1", TenantID: "t", RequestedModel: "m", Model: "m", Timestamp: now.Add(-2 * time.Hour), ExpiresAt: now.Add(-time.Hour), Input: "old", Output: "old"},
	}
	require.NoError(t, s.InsertContents(t.Context(), contents, "c1"))
	require.NoError(t, s.InsertContents(t.Context(), contents, "c1"), "a retry")
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE contents FINAL"))
	var n uint64
	var output string
	require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT count(), any(output) FROM contents").Scan(&n, &output))
	require.EqualValues(t, 1, n)
	require.Equal(t, "because", output)
}

// testJudgeSpend: what others have spent of a day, without the process that asks.
func testJudgeSpend(t *testing.T, s *Store) {
	day := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	span := func(id, tenant, process string, at time.Time, cost usage.PicoUSD) usage.Span {
		return usage.Span{
			TraceID: id, SpanID: id, TenantID: tenant, RequestedModel: "m", Model: "m", Timestamp: at, Cost: cost, Priced: true, PriceVersion: "v",
			Complexity: 1, Tags: map[string]string{JudgeProcess: process},
		}
	}
	require.NoError(t, s.InsertSpans(t.Context(), []usage.Span{
		span("a", "flyball-judge", "before", day, 5), span("b", "flyball-judge", "beside", day.Add(time.Hour), 7),
		span("c", "flyball-judge", "me", day.Add(time.Hour), 100), span("d", "flyball-judge", "before", day.Add(-time.Second), 1000),
		span("e", "org", "before", day.Add(time.Hour), 10_000),
	}, "j1"))
	sum, err := s.JudgeSpend(t.Context(), JudgeSpendQuery{Tenant: "flyball-judge", From: day, Without: "me"})
	require.NoError(t, err)
	require.EqualValues(t, 12, sum)
	sum, err = s.JudgeSpend(t.Context(), JudgeSpendQuery{Tenant: "nobody", From: day, Without: "me"})
	require.NoError(t, err)
	require.Zero(t, sum)
}

// TestContentsNeedTheirOwnRight: readers have no right on texts, and those who have it see their tenants' alone.
func TestContentsNeedTheirOwnRight(t *testing.T) {
	t.Parallel()
	tables, err := TenantTables()
	require.NoError(t, err)
	a := someAccess()
	g := a.Groups["t-analysts"]
	g.Contents = true
	a.Groups["t-analysts"] = g
	wanted := a.wanted("flyball", tables)
	require.False(t, wanted.grants[grant{"flyball_reader", "SELECT", "contents"}])
	require.True(t, wanted.grants[grant{"flyball_contents", "SELECT", "contents"}])
	require.True(t, wanted.members[membership{"t-analysts", "flyball_contents"}])
	require.False(t, wanted.members[membership{"fin-ops", "flyball_contents"}])
	require.Equal(t, "tenant_id = 't'", wanted.policies[policyName{"flyball_tenant_t", "contents"}].filter)
	require.True(t, wanted.policies[policyName{"flyball_embargo", "contents"}].restrictive, "an embargo covers texts")
}
