package treasury

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// BudgetStore is where budgets are kept, with all their versions.
type BudgetStore interface {
	Definitions
	SetBudget(ctx context.Context, v budget.Version) error
	BudgetHistory(ctx context.Context, tenant, id string) ([]budget.Version, error)
}

// Admin serves budgets to those who set and read them. Every change is a version with its author.
type Admin struct {
	Store    BudgetStore
	Registry *Registry
	Redis    *redis.Client
	Ledger   Ledger
	Now      func() time.Time
}

// Asker is who asks: of a tenant, or of none and trusted for all.
type Asker struct {
	Tenant string
	Key    string // its virtual key, or the token's name
}

// View is a budget as it is shown, with what was spent of its present window where it has but one counter.
type View struct {
	Tenant   string      `json:"tenant_id"`
	ID       string      `json:"id"`
	Per      budget.Per  `json:"per"`
	Only     string      `json:"only,omitempty"`
	Period   string      `json:"period"`
	TimeZone string      `json:"time_zone,omitempty"`
	StartsOn int         `json:"starts_on,omitempty"`
	Ceiling  json.Number `json:"ceiling_usd"`
	Revision int         `json:"revision,omitempty"`
	Removed  bool        `json:"removed,omitempty"`
	SetAt    time.Time   `json:"set_at,omitzero"`
	By       string      `json:"by,omitempty"`
	Reason   string      `json:"reason,omitempty"`
	Spending *Spending   `json:"spending,omitempty"`
}

// Spending is where one counter of a budget stands.
type Spending struct {
	Of       string      `json:"of,omitempty"` // the key, session or model
	From     time.Time   `json:"from,omitzero"`
	ResetsAt time.Time   `json:"resets_at,omitzero"`
	Spent    json.Number `json:"spent_usd"`
	Held     json.Number `json:"held_usd"` // promised to calls under way, and leased by gateways
	Left     json.Number `json:"left_usd"`
	Over     json.Number `json:"overshoot_usd,omitempty"` // what was spent beyond the ceiling; left out: nothing
	Open     bool        `json:"open"`                    // false: the counters are being rebuilt, and the figures are not to be believed yet
}

func usd(m budget.Micro) json.Number { return json.Number(m.USD()) }

func view(v budget.Version) View {
	return View{
		Tenant: v.Tenant, ID: v.ID, Per: v.Per, Only: v.Only, Period: string(v.Period), TimeZone: v.TimeZone, StartsOn: v.StartsOn,
		Ceiling: usd(v.Ceiling), Revision: v.Revision, Removed: v.Removed, SetAt: v.SetAt, By: v.By, Reason: v.Reason,
	}
}

// Change is the body of PUT: the whole budget.
type Change struct {
	Per      budget.Per    `json:"per"`
	Only     string        `json:"only,omitempty"`
	Period   budget.Period `json:"period"`
	TimeZone string        `json:"time_zone,omitempty"`
	StartsOn int           `json:"starts_on,omitempty"`
	Ceiling  json.Number   `json:"ceiling_usd"`
	Reason   string        `json:"reason,omitempty"`
	Who      string        `json:"who,omitempty"`      // where the token does not say it
	Revision *int          `json:"revision,omitempty"` // that it is made from; 0: there must be none. Left out: whatever there is
}

// maxChange bounds a body, in bytes.
const maxChange = 16 << 10

// problemError is an error with the status that it is answered with.
type problemError struct {
	status int
	code   string
	err    error
}

func (p *problemError) Error() string { return p.err.Error() }

func problem(status int, code, format string, args ...any) error {
	return &problemError{status, code, fmt.Errorf(format, args...)}
}

// Handler serves GET /v1/budgets, GET, PUT and DELETE /v1/budgets/{tenant}/{id}, and GET …/history to who asks.
func (a *Admin) Handler(who Asker) http.Handler {
	mux := http.NewServeMux()
	serve := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxChange)
			body, err := f(r)
			write(w, body, err)
		})
	}
	serve("GET /v1/budgets", func(r *http.Request) (any, error) { return a.list(r, who) })
	serve("GET /v1/budgets/{tenant}/{id}", func(r *http.Request) (any, error) { return a.one(r, who) })
	serve("GET /v1/budgets/{tenant}/{id}/history", func(r *http.Request) (any, error) { return a.history(r, who) })
	serve("PUT /v1/budgets/{tenant}/{id}", func(r *http.Request) (any, error) { return a.put(r, who) })
	serve("DELETE /v1/budgets/{tenant}/{id}", func(r *http.Request) (any, error) { return a.remove(r, who) })
	return mux
}

// Self serves GET /v1/budgets/self: where the budgets stand that a virtual key's calls belong to. Query parameters name
// a session and a model.
func (a *Admin) Self(who Asker) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := a.self(r, who)
		write(w, body, err)
	})
}

func write(w http.ResponseWriter, body any, err error) {
	status := http.StatusOK
	if err != nil {
		var p *problemError
		if !errors.As(err, &p) {
			p = &problemError{http.StatusServiceUnavailable, "away", err}
		}
		status, body = p.status, map[string]any{"error": map[string]string{"code": p.code, "message": p.Error()}}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error says that the caller has gone
}

// named is the budget that a request names, if who asks may see it.
func named(r *http.Request, who Asker) (tenant, id string, err error) {
	tenant, id = r.PathValue("tenant"), r.PathValue("id")
	if who.Tenant != "" && who.Tenant != tenant {
		return "", "", problem(http.StatusForbidden, "forbidden", "the token speaks for the tenant %q alone", who.Tenant)
	}
	return tenant, id, nil
}

func (a *Admin) list(r *http.Request, who Asker) (any, error) {
	tenant := r.URL.Query().Get("tenant")
	if who.Tenant != "" {
		if tenant != "" && tenant != who.Tenant {
			return nil, problem(http.StatusForbidden, "forbidden", "the token speaks for the tenant %q alone", who.Tenant)
		}
		tenant = who.Tenant
	}
	all, err := a.Store.Budgets(r.Context())
	if err != nil {
		return nil, err
	}
	views := []View{}
	for _, v := range all {
		if tenant == "" || v.Tenant == tenant {
			views = append(views, a.spending(r.Context(), view(v), v.Budget, budget.Call{Tenant: v.Tenant}))
		}
	}
	return map[string]any{"budgets": views}, nil
}

// spending adds where the call's counter of the budget stands, if it has one and Redis can be asked.
func (a *Admin) spending(ctx context.Context, v View, b budget.Budget, of budget.Call) View {
	counter, ok := b.Counter(of, a.Now())
	if !ok {
		return v
	}
	counters, err := a.Redis.Budgets(ctx)
	if err != nil {
		return v
	}
	standings, open, err := counters.Read(ctx, b.Tenant, []budget.Counter{counter})
	if err != nil {
		return v
	}
	s := standings[0]
	v.Spending = &Spending{
		Of: counter.Of, From: counter.Window.From, ResetsAt: counter.Window.To, Spent: usd(s.Spent), Held: usd(s.Held),
		Left: usd(max(0, b.Ceiling-s.Spent-s.Held)), Open: open,
	}
	if over := s.Spent - b.Ceiling; over > 0 {
		v.Spending.Over = usd(over)
	}
	return v
}

// latest is the newest version of a budget; ok is false where there is none, or it was removed.
func (a *Admin) latest(ctx context.Context, tenant, id string) (v budget.Version, ok bool, err error) {
	history, err := a.Store.BudgetHistory(ctx, tenant, id)
	if err != nil || len(history) == 0 {
		return budget.Version{}, false, err
	}
	return history[0], !history[0].Removed, nil
}

func (a *Admin) one(r *http.Request, who Asker) (any, error) {
	tenant, id, err := named(r, who)
	if err != nil {
		return nil, err
	}
	v, ok, err := a.latest(r.Context(), tenant, id)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, problem(http.StatusNotFound, "not_found", "the tenant %q has no budget %q", tenant, id)
	}
	return a.spending(r.Context(), view(v), v.Budget, budget.Call{Tenant: v.Tenant}), nil
}

func (a *Admin) history(r *http.Request, who Asker) (any, error) {
	tenant, id, err := named(r, who)
	if err != nil {
		return nil, err
	}
	versions, err := a.Store.BudgetHistory(r.Context(), tenant, id)
	switch {
	case err != nil:
		return nil, err
	case len(versions) == 0:
		return nil, problem(http.StatusNotFound, "not_found", "the tenant %q has never had a budget %q", tenant, id)
	}
	views := make([]View, len(versions))
	for i, v := range versions {
		views[i] = view(v)
	}
	return map[string]any{"versions": views}, nil
}

// put sets a budget. A change keeps what was spent: what would count in other counters is refused.
func (a *Admin) put(r *http.Request, who Asker) (any, error) {
	tenant, id, err := named(r, who)
	if err != nil {
		return nil, err
	}
	if who.Tenant != "" {
		return nil, problem(http.StatusForbidden, "forbidden", "a tenant's token reads its budgets; who sets them is trusted for all tenants")
	}
	var c Change
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(&c); err != nil {
		return nil, problem(http.StatusBadRequest, "bad_request", "the body is not a budget: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, problem(http.StatusBadRequest, "bad_request", "the body holds more than one JSON object")
	}
	ceiling, err := ParseUSD(c.Ceiling.String())
	if err != nil {
		return nil, problem(http.StatusBadRequest, "bad_request", "ceiling_usd: %w", err)
	}
	v := budget.Version{
		Budget:   budget.Budget{ID: id, Tenant: tenant, Per: c.Per, Only: c.Only, Period: c.Period, TimeZone: c.TimeZone, StartsOn: c.StartsOn, Ceiling: ceiling},
		Revision: 1, SetAt: a.Now().UTC().Truncate(time.Millisecond), By: signature(who, c.Who), Reason: c.Reason,
	}
	before, there, err := a.latest(r.Context(), tenant, id)
	if err != nil {
		return nil, err
	}
	if err := expected(r, c.Revision, before, there); err != nil {
		return nil, err
	}
	if v.Revision = before.Revision + 1; before.Revision > 0 && !before.SameCounters(v.Budget) {
		return nil, problem(http.StatusConflict, "other_counters",
			"%q counts per %s and %s in %s from day %d, and keeps to that, so that no change forgets what was spent: make a budget of another id", id, before.Per, before.Period, zone(before.TimeZone), max(1, before.StartsOn))
	}
	if err := v.Validate(); err != nil {
		return nil, problem(http.StatusBadRequest, "bad_request", "%w", err)
	}
	if !there {
		if err := a.introduce(r.Context(), v.Budget); err != nil {
			return nil, err
		}
	}
	return a.store(r.Context(), v)
}

// introduce has Redis know what a new budget has spent before any gateway knows the budget. A change needs none: the
// counters are there.
func (a *Admin) introduce(ctx context.Context, b budget.Budget) error {
	if err := (&Reconciler{Redis: a.Redis, Ledger: a.Ledger, Now: a.Now}).Introduce(ctx, b); err != nil {
		return fmt.Errorf("the budget is not set, since what it has spent so far cannot be counted; try again: %w", err)
	}
	return nil
}

func zone(name string) string {
	if name == "" {
		return "UTC"
	}
	return name
}

// signature is who changes a budget: the token's name, or what a program on this machine says.
func signature(who Asker, said string) string {
	if who.Key != "" {
		return who.Key
	}
	return said
}

// expected refuses a change that was made from another version than there is.
func expected(r *http.Request, revision *int, before budget.Version, there bool) error {
	now := before.Revision
	if !there {
		now = 0
	}
	if match := strings.Trim(r.Header.Get("If-Match"), `"`); match != "" && match != "*" {
		n, err := strconv.Atoi(match)
		if err != nil {
			return problem(http.StatusBadRequest, "bad_request", "If-Match: %q is no revision", match)
		}
		revision = &n
	}
	if revision != nil && *revision != now {
		return problem(http.StatusPreconditionFailed, "changed", "the budget is at revision %d, not %d: look at it again", now, *revision)
	}
	return nil
}

func (a *Admin) remove(r *http.Request, who Asker) (any, error) {
	tenant, id, err := named(r, who)
	if err != nil {
		return nil, err
	}
	if who.Tenant != "" {
		return nil, problem(http.StatusForbidden, "forbidden", "a tenant's token reads its budgets; who removes them is trusted for all tenants")
	}
	v, ok, err := a.latest(r.Context(), tenant, id)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, problem(http.StatusNotFound, "not_found", "the tenant %q has no budget %q", tenant, id)
	}
	if err := expected(r, nil, v, true); err != nil {
		return nil, err
	}
	v.Revision, v.Removed, v.SetAt = v.Revision+1, true, a.Now().UTC().Truncate(time.Millisecond)
	v.By, v.Reason = signature(who, r.URL.Query().Get("who")), r.URL.Query().Get("reason")
	if err := v.Validate(); err != nil {
		return nil, problem(http.StatusBadRequest, "bad_request", "%w", err)
	}
	return a.store(r.Context(), v)
}

func (a *Admin) store(ctx context.Context, v budget.Version) (any, error) {
	err := a.Store.SetBudget(ctx, v)
	if errors.Is(err, clickhouse.ErrBudgetChanged) {
		return nil, problem(http.StatusPreconditionFailed, "changed", "%w", err)
	}
	if err != nil {
		return nil, err
	}
	if a.Registry != nil {
		_ = a.Registry.Refresh(ctx) // else it is read within seconds
	}
	return view(v), nil
}

func (a *Admin) self(r *http.Request, who Asker) (any, error) {
	if who.Tenant == "" {
		return nil, problem(http.StatusForbidden, "forbidden", "send a virtual key: this is about its own tenant's budgets")
	}
	query := r.URL.Query()
	of := budget.Call{Tenant: who.Tenant, Key: who.Key, Session: query.Get("session"), Model: query.Get("model")}
	views := []View{}
	budgets, known := a.Registry.Budgets(who.Tenant)
	if !known {
		return nil, problem(http.StatusServiceUnavailable, "away", "the budgets have not been read yet: try again")
	}
	for _, b := range budgets {
		v := a.spending(r.Context(), view(budget.Version{Budget: b}), b, of)
		if v.Spending != nil {
			views = append(views, v)
		}
	}
	return map[string]any{"budgets": views}, nil
}

// ParseUSD reads a decimal amount of dollars as µ$: exactly, or not at all.
func ParseUSD(text string) (budget.Micro, error) {
	amount, ok := new(big.Rat).SetString(text)
	if !ok || len(text) > 32 || strings.ContainsAny(text, "/eE_xXpP") {
		return 0, fmt.Errorf("%q is no amount of dollars such as 250 or 0.05", text)
	}
	micro := amount.Mul(amount, big.NewRat(1_000_000, 1))
	if !micro.IsInt() || !micro.Num().IsInt64() {
		return 0, fmt.Errorf("%q has more than six decimals, or is more than can be counted", text)
	}
	return budget.Micro(micro.Num().Int64()), nil
}
