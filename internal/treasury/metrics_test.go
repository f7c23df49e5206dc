package treasury

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// What the ledger has beyond a ceiling is on every gateway's page, of all keys of a budget together; and a Redis that is
// away says so, and makes no overshoot 0.
func TestMetricsTellOvershoot(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	client := redis.Open(redis.Options{Addr: server.Addr(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	store := &shelf{versions: []budget.Version{
		{Budget: budget.Budget{ID: "keys", Tenant: "o\"\n", Per: budget.PerKey, Period: budget.Day, Ceiling: 100}, Revision: 1},
		{Budget: budget.Budget{ID: "day", Tenant: "o\"\n", Per: budget.PerTenant, Period: budget.Day, Ceiling: 1000}, Revision: 1},
		{Budget: budget.Budget{ID: "day", Tenant: "closed", Per: budget.PerTenant, Period: budget.Day, Ceiling: 1000}, Revision: 1},
	}}
	registry, err := NewRegistry(store, "", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, registry.Refresh(t.Context()))
	treasury, err := Open(Options{
		Dir: t.TempDir(), Process: "gw", Redis: client, Budgets: registry.Budgets, Away: func(string) Away { return Away{} },
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = treasury.Close() })
	m := &Metrics{Treasury: treasury, Registry: registry, Redis: client, Now: time.Now}
	page := func() string {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
		require.Equal(t, http.StatusOK, w.Code)
		return w.Body.String()
	}
	require.Contains(t, page(), "\nflyball_budget_tenants_closed 2\n")

	ledger := &ledgerOf{spend: map[budget.Per]map[string]budget.Micro{budget.PerKey: {"k1": 130, "k2": 105, "k3": 90}, budget.PerTenant: {"": 325}}}
	store.versions = store.versions[:2]
	r := &Reconciler{Budgets: store.Budgets, Redis: client, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Grace: time.Millisecond}
	require.Eventually(t, func() bool {
		require.NoError(t, r.Reconcile(t.Context()))
		return strings.Contains(page(), "\nflyball_budget_tenants_closed 1\n")
	}, patience, 5*time.Millisecond)
	got := page()
	require.Contains(t, got, "# TYPE flyball_budget_overshoot_usd gauge\nflyball_budget_overshoot_usd{tenant=\"o\\\"\\n\",budget=\"keys\"} 0.000035\n")
	require.Equal(t, 1, strings.Count(got, "flyball_budget_overshoot_usd{"), "what is within its ceiling has no series")
	require.Contains(t, got, "\nflyball_budget_redis_up 1\n")
	require.Contains(t, got, "# TYPE flyball_budget_refusals_total counter\nflyball_budget_refusals_total 0\n")

	server.Close()
	got = page()
	require.Contains(t, got, "\nflyball_budget_redis_up 0\n")
	require.NotContains(t, got, "overshoot")
}
