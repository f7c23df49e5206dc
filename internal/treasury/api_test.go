package treasury

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/apitest"
	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// shelf keeps budgets in memory, as the store does.
type shelf struct {
	mu       sync.Mutex
	versions []budget.Version
	away     error
}

func (s *shelf) SetBudget(_ context.Context, v budget.Version) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.versions {
		if w.Tenant == v.Tenant && w.ID == v.ID && w.Revision >= v.Revision {
			return clickhouse.ErrBudgetChanged
		}
	}
	s.versions = append(s.versions, v)
	return s.away
}

func (s *shelf) BudgetHistory(_ context.Context, tenant, id string) (list []budget.Version, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range slices.Backward(s.versions) {
		if v.Tenant == tenant && v.ID == id {
			list = append(list, v)
		}
	}
	return list, s.away
}

func (s *shelf) Budgets(context.Context) (list []budget.Version, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := map[string]budget.Version{}
	for _, v := range s.versions {
		newest[v.Tenant+"/"+v.ID] = v
	}
	for _, v := range newest {
		if !v.Removed {
			list = append(list, v)
		}
	}
	slices.SortFunc(list, func(a, b budget.Version) int { return strings.Compare(a.Tenant+a.ID, b.Tenant+b.ID) })
	return list, s.away
}

func TestBudgetsAreSetAndRead(t *testing.T) {
	t.Parallel()
	store := &shelf{}
	client := redis.Open(redis.Options{Addr: miniredis.RunT(t).Addr(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	registry, err := NewRegistry(store, filepath.Join(t.TempDir(), "sub", "budgets.json"), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	admin := &Admin{Store: store, Registry: registry, Redis: client, Ledger: &ledgerOf{}, Now: time.Now}
	ask := func(who Asker, method, path, body string, header ...string) (int, map[string]any) {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		for i := 0; i+1 < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		if strings.HasPrefix(path, "/v1/budgets/self") {
			apitest.Hold(t, admin.Self(who)).ServeHTTP(w, r)
		} else {
			apitest.Hold(t, admin.Handler(who)).ServeHTTP(w, r)
		}
		answer := map[string]any{}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer), w.Body.String())
		return w.Code, answer
	}
	boss, tenant := Asker{Key: "finops"}, Asker{Tenant: "org_1", Key: "app"}
	const month = `{"per":"tenant","period":"month","time_zone":"Europe/Berlin","starts_on":3,"ceiling_usd":12.5,"reason":"contract"}`
	status, made := ask(boss, "PUT", "/v1/budgets/org_1/month", month)
	require.Equal(t, http.StatusOK, status, made)
	require.Equal(t, "finops", made["by"])
	require.InDelta(t, 1, made["revision"], 0)
	require.InDelta(t, 12.5, made["ceiling_usd"], 0)
	_, _ = ask(boss, "PUT", "/v1/budgets/org_2/other", `{"per":"session","period":"session","ceiling_usd":0.5}`)

	for name, c := range map[string]struct {
		who                        Asker
		method, path, body, header string
		status                     int
		says                       string
	}{
		"a tenant sets":        {tenant, "PUT", "/v1/budgets/org_1/month", month, "", 403, "trusted for all"},
		"a tenant removes":     {tenant, "DELETE", "/v1/budgets/org_1/month", "", "", 403, "trusted for all"},
		"another tenant's":     {tenant, "GET", "/v1/budgets/org_2/other", "", "", 403, "org_1"},
		"a list of another's":  {tenant, "GET", "/v1/budgets?tenant=org_2", "", "", 403, "org_1"},
		"none":                 {boss, "GET", "/v1/budgets/org_1/none", "", "", 404, "no budget"},
		"another period":       {boss, "PUT", "/v1/budgets/org_1/month", strings.Replace(month, "month", "week", 1), "", 409, "another id"},
		"a stale revision":     {boss, "PUT", "/v1/budgets/org_1/month", month, "7", 412, "at revision 1"},
		"no ceiling":           {boss, "PUT", "/v1/budgets/org_1/new", `{"per":"tenant","period":"day"}`, "", 400, "ceiling_usd"},
		"too fine a ceiling":   {boss, "PUT", "/v1/budgets/org_1/new", `{"per":"tenant","period":"day","ceiling_usd":0.0000001}`, "", 400, "six decimals"},
		"a negative ceiling":   {boss, "PUT", "/v1/budgets/org_1/new", `{"per":"tenant","period":"day","ceiling_usd":-1}`, "", 400, "ceiling_micro_usd"},
		"an unknown field":     {boss, "PUT", "/v1/budgets/org_1/new", `{"perr":"tenant"}`, "", 400, "perr"},
		"two objects":          {boss, "PUT", "/v1/budgets/org_1/new", month + "{}", "", 400, "more than one"},
		"an unknown time zone": {boss, "PUT", "/v1/budgets/org_1/new", `{"per":"tenant","period":"day","time_zone":"Mars","ceiling_usd":1}`, "", 400, "Europe/Berlin"},
		"nobody":               {Asker{}, "PUT", "/v1/budgets/org_1/new", month, "", 400, "say who"},
		"self without a key":   {Asker{}, "GET", "/v1/budgets/self", "", "", 403, "virtual key"},
	} {
		status, answer := ask(c.who, c.method, c.path, c.body, "If-Match", c.header)
		require.Equal(t, c.status, status, "%s: %v", name, answer)
		require.Contains(t, answer["error"].(map[string]any)["message"], c.says, name)
	}

	status, raised := ask(boss, "PUT", "/v1/budgets/org_1/month", strings.Replace(month, "12.5", "20", 1), "If-Match", `"1"`)
	require.Equal(t, http.StatusOK, status, raised)
	_, list := ask(tenant, "GET", "/v1/budgets", "")
	require.Len(t, list["budgets"], 1)
	_, history := ask(tenant, "GET", "/v1/budgets/org_1/month/history", "")
	require.Len(t, history["versions"], 2)
	_, self := ask(tenant, "GET", "/v1/budgets/self", "")
	require.Len(t, self["budgets"], 1)
	spending := self["budgets"].([]any)[0].(map[string]any)["spending"].(map[string]any)
	require.Equal(t, false, spending["open"], "nobody has counted yet")
	require.InDelta(t, 20, spending["left_usd"], 0)

	status, _ = ask(boss, "DELETE", "/v1/budgets/org_1/month?reason=over", "")
	require.Equal(t, http.StatusOK, status)
	status, _ = ask(boss, "GET", "/v1/budgets/org_1/month", "")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = ask(boss, "PUT", "/v1/budgets/org_1/month", month)
	require.Equal(t, http.StatusOK, status, "it can be made again")

	// Another process knows them though the store is away.
	store.away = context.DeadlineExceeded
	again, err := NewRegistry(store, registry.file, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Error(t, again.Refresh(t.Context()))
	budgets, known := again.Budgets("org_1")
	require.True(t, known)
	require.Len(t, budgets, 1)
	_, known = must(NewRegistry(store, "", slog.New(slog.DiscardHandler))).Budgets("org_1")
	require.False(t, known)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// book is a ledger in memory.
type book struct {
	spend  map[string]budget.Micro // by per and of
	spools map[string]clickhouse.Spool
	traces []string
}

func (b *book) Spend(_ context.Context, q clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	sums := map[string]budget.Micro{}
	for _, of := range q.Of {
		sums[of] = b.spend[string(q.Per)+of]
	}
	for name, spent := range b.spend {
		if of, ok := strings.CutPrefix(name, string(q.Per)); ok && len(q.Of) == 0 {
			sums[of] = spent
		}
	}
	return sums, nil
}

func (b *book) Spools(context.Context) (map[string]clickhouse.Spool, error) { return b.spools, nil }

func (b *book) CallsBefore(_ context.Context, _ string, calls []clickhouse.Call, _, _ time.Time) ([]clickhouse.Call, error) {
	return slices.DeleteFunc(slices.Clone(calls), func(c clickhouse.Call) bool { return !slices.Contains(b.traces, c.Trace) }), nil
}

// A Redis that was wiped has what the ledger has, and what gateways have told since; lapsed holds are spent until the
// ledger knows of their calls.
func TestCountersAreRebuiltFromTheLedger(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	client := redis.Open(redis.Options{Addr: s.addr, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	now := time.Now().UTC()
	store := &shelf{versions: []budget.Version{
		{Budget: budget.Budget{ID: "month", Tenant: "o", Per: budget.PerTenant, Period: budget.Month, Ceiling: 1000}, Revision: 1},
		{Budget: budget.Budget{ID: "talk", Tenant: "o", Per: budget.PerSession, Period: budget.Session, Ceiling: 100}, Revision: 1},
	}}
	ledger := &book{spend: map[string]budget.Micro{"tenant": 700, "sessions1": 40}, spools: map[string]clickhouse.Spool{"gw": {Last: now, Highest: now}, "dead": {Last: now.Add(-time.Hour), Highest: now.Add(-time.Hour)}}}
	r := &Reconciler{Budgets: store.Budgets, Redis: client, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Grace: time.Millisecond}
	month, _ := store.versions[0].Counter(budget.Call{Tenant: "o"}, now)
	talk, _ := store.versions[1].Counter(budget.Call{Tenant: "o", Session: "s1"}, now)
	read := func() (list []redis.Standing, open bool) {
		b, err := client.Budgets(t.Context())
		require.NoError(t, err)
		list, open, err = b.Read(t.Context(), "o", []budget.Counter{month, talk})
		require.NoError(t, err)
		return list, open
	}
	open := func() {
		require.Eventually(t, func() bool {
			require.NoError(t, r.Reconcile(t.Context()))
			_, open := read()
			return open
		}, patience, 2*time.Millisecond)
	}
	open()
	list, _ := read()
	require.Equal(t, redis.Standing{Spent: 700, Confirmed: 700}, list[0])

	b, err := client.Budgets(t.Context())
	require.NoError(t, err)
	limits := []redis.Limit{{Counter: month, Ceiling: 1000}, {Counter: talk, Ceiling: 100}}
	_, err = b.Hold(t.Context(), "o", redis.Hold{ID: "t1/a", Amount: 30, TTL: time.Millisecond, Limits: limits})
	require.NoError(t, err)
	minute := now.Truncate(time.Minute)
	require.NoError(t, b.Settle(t.Context(), "o", "none", nil, []redis.Told{{Counter: month, Process: "gw~1", Minute: minute.Add(-5 * time.Minute), Total: 7}, {Counter: month, Process: "gw~1", Minute: minute.Add(5 * time.Minute), Total: 9}}))
	require.Eventually(t, func() bool {
		require.NoError(t, r.Reconcile(t.Context()))
		list, _ := read()
		return list[0].Spent == 700+9+30 && list[1].Spent == 40+30
	}, patience, 2*time.Millisecond, "what the ledger has, what was told since it was read, and what lapsed")
	ledger.traces = []string{"t1"}
	require.NoError(t, r.Reconcile(t.Context()))
	list, _ = read()
	require.Equal(t, []redis.Standing{{Spent: 709, Confirmed: 700}, {Spent: 40, Confirmed: 40}}, list)

	s.do(t, "FLUSHALL")
	_, isOpen := read()
	require.False(t, isOpen)
	open()
	list, _ = read()
	require.Equal(t, redis.Standing{Spent: 700, Confirmed: 700}, list[0])

	require.Empty(t, r.overshoot)
	ledger.spend["tenant"] = 1001
	require.NoError(t, r.Reconcile(t.Context()))
	require.Len(t, r.overshoot, 1)
}
