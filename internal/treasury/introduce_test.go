package treasury

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// costs is a ledger that has calls with their times.
type costs struct {
	calls []cost
	spool time.Time // up to when the one spool has delivered
	err   error
}

type cost struct {
	at                  time.Time
	key, session, model string
	micro               budget.Micro
}

func (l *costs) Spools(context.Context) (map[string]clickhouse.Spool, error) {
	return map[string]clickhouse.Spool{"gw": {Last: l.spool, Highest: l.spool}}, l.err
}

func (l *costs) Spend(_ context.Context, q clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	spent := map[string]budget.Micro{}
	for _, c := range l.calls {
		of := map[budget.Per]string{budget.PerKey: c.key, budget.PerSession: c.session, budget.PerModel: c.model}[q.Per]
		asked := len(q.Of) == 0
		for _, name := range q.Of {
			asked = asked || name == of
		}
		if asked && !c.at.Before(q.From) && c.at.Before(q.To) {
			spent[of] += c.micro
		}
	}
	return spent, l.err
}

func (l *costs) CallsBefore(context.Context, string, []clickhouse.Call, time.Time, time.Time) ([]clickhouse.Call, error) {
	return nil, nil
}

// A new budget counts what was spent before it was set, the last minutes with it, before any gateway knows of it; and
// reconciling neither forgets any of that nor counts it twice.
func TestNewBudgetsKnowWhatWasSpent(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(36*time.Hour + 30*time.Minute + 40*time.Second) // tomorrow, 12:30:40: Redis has a clock too
	ledger := &costs{spool: now.Add(-70 * time.Second), calls: []cost{                                   // the ledger has all of up to 12:29
		{now.Add(-2 * time.Hour), "k1", "s1", "m1", 55},
		{now.Add(-2 * time.Hour), "k1", "s3", "m1", 5},
		{now.Add(-65 * time.Second), "k1", "s1", "m1", 20}, // 12:29
		{now.Add(-5 * time.Second), "k2", "s2", "m1", 7},   // 12:30
		{now.AddDate(0, 0, -2), "k1", "s0", "m1", 1000},    // not of today
	}}
	store := &shelf{}
	client := redis.Open(redis.Options{Addr: miniredis.RunT(t).Addr(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	clock := func() time.Time { return now }
	registry, err := NewRegistry(store, "", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	admin := &Admin{Store: store, Registry: registry, Redis: client, Ledger: ledger, Now: clock}
	put := func(id, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		admin.Handler(Asker{}).ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/budgets/o/"+id, strings.NewReader(body)))
		return w
	}
	r := &Reconciler{Budgets: store.Budgets, Redis: client, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Now: clock, Grace: time.Millisecond}
	standing := func(id string, of budget.Call) (redis.Standing, *redis.Budgets, budget.Counter) {
		history, err := store.BudgetHistory(t.Context(), "o", id)
		require.NoError(t, err)
		of.Tenant = "o"
		c, ok := history[0].Counter(of, now)
		require.True(t, ok)
		counters, err := client.Budgets(t.Context())
		require.NoError(t, err)
		list, _, err := counters.Read(t.Context(), "o", []budget.Counter{c})
		require.NoError(t, err)
		return list[0], counters, c
	}
	spent := func(id string, of budget.Call) budget.Micro {
		s, _, _ := standing(id, of)
		return s.Spent
	}

	require.Equal(t, http.StatusOK, put("day", `{"per":"tenant","period":"day","ceiling_usd":0.000050,"who":"ann"}`).Code)
	require.EqualValues(t, 87, spent("day", budget.Call{}))
	require.Equal(t, http.StatusOK, put("keys", `{"per":"key","period":"day","ceiling_usd":0.0001,"who":"ann"}`).Code)
	require.EqualValues(t, 80, spent("keys", budget.Call{Key: "k1"}))
	require.EqualValues(t, 7, spent("keys", budget.Call{Key: "k2"}))
	require.Equal(t, http.StatusOK, put("one", `{"per":"key","only":"k2","period":"day","ceiling_usd":0.0001,"who":"ann"}`).Code)
	require.EqualValues(t, 7, spent("one", budget.Call{Key: "k2"}))
	require.Equal(t, http.StatusOK, put("talks", `{"per":"session","period":"session","ceiling_usd":0.0001,"who":"ann"}`).Code)
	require.EqualValues(t, 75, spent("talks", budget.Call{Session: "s1"}))
	require.EqualValues(t, 7, spent("talks", budget.Call{Session: "s2"}))
	require.EqualValues(t, 5, spent("talks", budget.Call{Session: "s3"}), "however far it is from its ceiling")

	// The very first call is refused where the ceiling is below what was spent.
	require.Eventually(t, func() bool {
		require.NoError(t, r.Reconcile(t.Context()))
		_, counters, _ := standing("day", budget.Call{})
		_, open, err := counters.Read(t.Context(), "o", nil)
		return err == nil && open
	}, patience, 2*time.Millisecond)
	_, counters, c := standing("day", budget.Call{})
	grant, err := counters.Hold(t.Context(), "o", redis.Hold{ID: "t/first", Amount: 1, TTL: time.Minute, Limits: []redis.Limit{{Counter: c, Ceiling: 50}}})
	require.NoError(t, err)
	require.False(t, grant.Granted)
	require.EqualValues(t, 87, spent("day", budget.Call{}), "the first look does not forget the last minutes")
	view := admin.spending(t.Context(), View{}, budget.Budget{ID: "day", Tenant: "o", Per: budget.PerTenant, Period: budget.Day, Ceiling: 50}, budget.Call{Tenant: "o"})
	require.Equal(t, "0.000037", view.Spending.Over.String())

	for range 4 { // the ledger catches up minute by minute, and a late call comes
		now = now.Add(time.Minute)
		ledger.spool = now
		require.NoError(t, r.Reconcile(t.Context()))
		require.EqualValues(t, 87, spent("day", budget.Call{}))
	}
	ledger.calls = append(ledger.calls, cost{now.Add(-4 * time.Minute), "k1", "s1", "m1", 3})
	require.NoError(t, r.Reconcile(t.Context()))
	require.EqualValues(t, 90, spent("day", budget.Call{}))

	ledger.err = errors.New("away")
	w := put("blind", `{"per":"tenant","period":"day","ceiling_usd":1,"who":"ann"}`)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Contains(t, w.Body.String(), "try again")
	history, err := store.BudgetHistory(t.Context(), "o", "blind")
	require.NoError(t, err)
	require.Empty(t, history, "nothing is granted from it")
	require.Equal(t, http.StatusOK, put("day", `{"per":"tenant","period":"day","ceiling_usd":2,"who":"ann"}`).Code, "a change asks nobody")
}
