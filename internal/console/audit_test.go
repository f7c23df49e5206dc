package console_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/console"
)

// books are an audit that remembers what it was asked.
type books struct {
	decided console.DecidedQuery
	savings console.SavingsQuery
	err     error
}

func (b *books) Decided(_ context.Context, q console.DecidedQuery) ([]console.Decided, error) {
	b.decided = q
	return []console.Decided{{ID: "decision/1", Approvers: []string{}, Worth: &console.Worth{Treated: 3}}}, b.err
}

func (b *books) Fallback(_ context.Context, q console.FallbackQuery) ([]console.FallbackWorth, error) {
	saved, change := json.Number("1.25"), -0.02
	return []console.FallbackWorth{{Tenant: q.Tenant, Rule: q.To.Sub(q.From).String(), Holdback: 3, Worth: console.Worth{Treated: 30, Saved: &saved, Quality: &change}}}, nil
}

func (b *books) Savings(_ context.Context, q console.SavingsQuery) ([]console.Savings, error) {
	b.savings = q
	return nil, b.err
}

func TestAudit(t *testing.T) {
	t.Parallel()
	b := &books{}
	today := time.Date(2026, 3, 2, 15, 4, 5, 0, time.UTC)
	c, err := console.New(console.Options{
		Audit: b, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return today }, Status: func() console.Status { return console.Status{} },
	})
	require.NoError(t, err)
	get := func(path string) (int, string) {
		answer := httptest.NewRecorder()
		c.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://localhost"+path, nil))
		return answer.Code, answer.Body.String()
	}
	code, body := get("/api/audit?tenant=org_42&model=m&status=released&action=pin&since=2026-01-02T00:00:00Z&until=2026-02-02T01:00:00%2B01:00&limit=7")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, console.DecidedQuery{
		Tenant: "org_42", Model: "m", Status: "released", Action: "pin", Limit: 7,
		Since: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC), Until: time.Date(2026, 2, 2, 0, 0, 0, 0, time.UTC),
	}, b.decided)
	var rows []map[string]any
	require.NoError(t, json.Unmarshal([]byte(body), &rows))
	require.Nil(t, rows[0]["worth"].(map[string]any)["saved_usd"], "what is not known is null")
	code, _ = get("/api/audit")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, console.DecidedQuery{Limit: 100}, b.decided)

	code, body = get("/api/savings")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, "[]\n", body)
	day := func(month time.Month, day int) time.Time { return time.Date(2026, month, day, 0, 0, 0, 0, time.UTC) }
	require.Equal(t, console.SavingsQuery{From: day(2, 1), To: day(3, 3), By: []string{"tenant_id"}}, b.savings)
	code, body = get("/api/fallback?from=2026-01-01&to=2026-01-08&tenant=org_42")
	require.Equal(t, 200, code)
	require.Contains(t, string(body), `"tenant_id":"org_42","rule":"168h0m0s","holdback_calls":3`)
	require.Contains(t, string(body), `"saved_usd":1.25,"saved_low_usd":null`)
	require.Contains(t, string(body), `"quality_change":-0.02`)
	code, _ = get("/api/savings?from=2026-01-01&to=2026-02-01&tenant=org_42&by=action,day")
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, console.SavingsQuery{From: day(1, 1), To: day(2, 1), Tenant: "org_42", By: []string{"action", "day"}}, b.savings)

	for path, says := range map[string]string{
		"/api/audit?since=yesterday":                 "since is not a time",
		"/api/audit?limit=1001":                      "limit is not a number from 1 to 1000",
		"/api/savings?from=2026-01-01T00:00:00Z":     "from is not a day",
		"/api/savings?from=2026-03-01&to=2026-03-01": "from must be before to",
		"/api/savings?from=2024-03-01&to=2026-03-01": "by 366 days at most",
		"/api/savings?by=tenant_id,colour":           `by has \"colour\"`,
		"/api/savings?by=day,day":                    "is there twice",
	} {
		code, body := get(path)
		require.Equal(t, http.StatusBadRequest, code, path)
		require.Contains(t, body, says)
	}
	b.err = console.ErrAway
	code, _ = get("/api/audit")
	require.Equal(t, http.StatusServiceUnavailable, code)
}
