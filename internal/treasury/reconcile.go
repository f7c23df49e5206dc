package treasury

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// Ledger is what calls have cost, as their telemetry says: ClickHouse.
type Ledger interface {
	Spend(ctx context.Context, q clickhouse.SpendQuery) (map[string]budget.Micro, error)
	Spools(ctx context.Context) (map[string]clickhouse.Spool, error)
	CallsBefore(ctx context.Context, tenant string, calls []clickhouse.Call, from, to time.Time) ([]clickhouse.Call, error)
}

// Reconciler sets Redis's counters by the ledger, and opens the budgets of a Redis that is new. Any number may run.
type Reconciler struct {
	Budgets func(ctx context.Context) ([]budget.Version, error)
	Redis   *redis.Client
	Ledger  Ledger
	Logger  *slog.Logger
	Now     func() time.Time
	Grace   time.Duration // in which gateways make known what they hold, before a new Redis's budgets open; 30 s

	mu        sync.Mutex
	overshoot map[string]budget.Micro // by tenant and counter
}

const (
	reconcileEvery = 5 * time.Second
	// spoolAlive is how long ago a spool was heard for the ledger to wait for it.
	spoolAlive = 2 * time.Minute
	// markBehind is how far the mark that a spool gave last may be behind its clock, which was set back, for later minutes to
	// be told from those in which it makes calls now.
	markBehind = 10 * time.Minute
	// sessionsBack is how far back a session's calls are looked for: its counter goes a week after its last call.
	sessionsBack = 8 * 24 * time.Hour
)

// Run reconciles every few seconds until ctx ends, which is not an error.
func (r *Reconciler) Run(ctx context.Context) error {
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	away := false
	for {
		err := r.Reconcile(ctx)
		if err != nil && !away && ctx.Err() == nil {
			r.Logger.WarnContext(ctx, "Budgets were not reconciled with the ledger; what was counted since holds", "error", err)
		}
		away = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Reconcile does it once, for every tenant that has budgets.
func (r *Reconciler) Reconcile(ctx context.Context) error {
	versions, err := r.Budgets(ctx)
	if err != nil {
		return err
	}
	byTenant := map[string][]budget.Budget{}
	for _, v := range versions {
		byTenant[v.Tenant] = append(byTenant[v.Tenant], v.Budget)
	}
	if len(byTenant) == 0 {
		return nil
	}
	counters, err := r.Redis.Budgets(ctx)
	if err != nil {
		return err
	}
	spools, err := r.Ledger.Spools(ctx)
	if err != nil {
		return err
	}
	now := r.Now().UTC()
	cut := cutOff(spools, now)
	var errs []error
	for tenant, budgets := range byTenant {
		if err := r.tenant(ctx, counters, tenant, budgets, spools, cut, now); err != nil && !errors.Is(err, redis.ErrBudgetsClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// cutOff is the whole minute up to which every spool that is heard has delivered. What ended later the ledger may have
// in part, and is left to what gateways tell. A spool whose clock was set back has delivered up to its highest mark all
// the same: nothing that was confirmed by it falls out of the ledger's sums.
func cutOff(spools map[string]clickhouse.Spool, now time.Time) time.Time {
	cut := now
	for _, s := range spools {
		if now.Sub(s.Highest) < spoolAlive && s.Highest.Before(cut) {
			cut = s.Highest
		}
	}
	return cut.Truncate(time.Minute)
}

// minutesUpTo are the minutes up to which the ledger has all of what each process told, and of what Introduce did.
// Where a clock was set back, those are the ones that it has passed since; earlier are later ones: a spool gives no mark
// of such a clock before all from before is delivered, and calls cannot be made anew in minutes that are well after it.
func minutesUpTo(spools map[string]clickhouse.Spool, cut time.Time) (upTo map[string]time.Time, earlier map[string]redis.Minutes) {
	last := cut.Add(-time.Minute)
	upTo, earlier = map[string]time.Time{introduced: last}, map[string]redis.Minutes{}
	for spool, s := range spools {
		at := s.Last
		if at.After(cut) {
			at = cut
		}
		upTo[spool] = at.Truncate(time.Minute).Add(-time.Minute)
		if s.Last.Before(s.Highest) {
			earlier[spool] = redis.Minutes{From: s.Last.Add(markBehind).Truncate(time.Minute), To: last}
		}
	}
	return upTo, earlier
}

func (r *Reconciler) tenant(ctx context.Context, counters *redis.Budgets, tenant string, budgets []budget.Budget, spools map[string]clickhouse.Spool, cut, now time.Time) error {
	grace := r.Grace
	if grace == 0 {
		grace = 30 * time.Second
	}
	live, err := counters.Live(ctx, tenant)
	if err != nil {
		return err
	}
	_, open, err := counters.Read(ctx, tenant, nil)
	if err != nil {
		return err
	}
	known := redis.Ledger{}
	known.UpTo, known.Earlier = minutesUpTo(spools, cut)
	for _, b := range budgets {
		if err := r.budget(ctx, counters, b, live, !open, known, cut, now); err != nil {
			return err
		}
	}
	_, err = counters.Reopen(ctx, tenant, grace) // the counters are set by now
	return err
}

// budget sets all counters of one budget that Redis has, and that of now. Where Redis is new, or the budget is, it has
// none of the keys, sessions and models that have spent already: the ledger names them. A new budget of sessions learns
// of each when it calls next, since looking for all of them again and again costs too much.
func (r *Reconciler) budget(ctx context.Context, counters *redis.Budgets, b budget.Budget, live []redis.Live, rebuild bool, known redis.Ledger, cut, now time.Time) error {
	windows := map[budget.Window][]budget.Counter{}
	presumed := map[budget.Counter][]string{}
	for _, l := range live {
		if c, ok := l.CounterOf(b); ok {
			windows[c.Window] = append(windows[c.Window], c)
			presumed[c] = l.Presumed
		}
	}
	if c, ok := b.Counter(budget.Call{Tenant: b.Tenant}, now); ok && !slices.Contains(windows[c.Window], c) {
		windows[c.Window] = append(windows[c.Window], c)
	}
	current := b.Window(now)
	rebuild = rebuild || b.Per != budget.PerSession && len(windows[current]) == 0
	if _, ok := windows[current]; rebuild && !ok {
		windows[current] = nil
	}
	for window, list := range windows {
		from, to := window.From, window.To
		if from.IsZero() {
			from, to = now.Add(-sessionsBack).Truncate(time.Minute), cut
		}
		if to.After(cut) {
			to = cut
		}
		q := clickhouse.SpendQuery{Tenant: b.Tenant, Per: b.Per, From: from, To: to}
		for _, c := range list {
			q.Of = append(q.Of, c.Of)
		}
		if b.Only != "" {
			q.Of = []string{b.Only}
		} else if rebuild && window == current {
			q.Of = nil
		}
		at, spend := r.Now(), map[string]budget.Micro{}
		if from.Before(to) {
			var err error
			if spend, err = r.Ledger.Spend(ctx, q); err != nil {
				return err
			}
		}
		if rebuild && window == current {
			more, err := r.seed(ctx, counters, b, window, list, spend, at)
			if err != nil {
				return err
			}
			list = append(list, more...)
		}
		for _, c := range list {
			settled, err := r.settled(ctx, b.Tenant, presumed[c], to)
			if err != nil {
				return err
			}
			r.note(b, c, spend[c.Of])
			known.At, known.Counter, known.Spent, known.Settled = at, c, spend[c.Of], settled
			if err := counters.Reconcile(ctx, b.Tenant, known); err != nil {
				return err
			}
		}
	}
	return nil
}

// seed sets the counters of a window that are not in the list by what the ledger has of them, and answers those that
// Redis has come to know otherwise.
func (r *Reconciler) seed(ctx context.Context, counters *redis.Budgets, b budget.Budget, window budget.Window, list []budget.Counter, spend map[string]budget.Micro, at time.Time) ([]budget.Counter, error) {
	known := map[budget.Counter]bool{}
	for _, c := range list {
		known[c] = true
	}
	var fresh []budget.Counter
	for of, spent := range spend {
		if c := (budget.Counter{Budget: b.ID, Of: of, Window: window}); !known[c] {
			fresh = append(fresh, c)
			r.note(b, c, spent)
		}
	}
	return counters.Seed(ctx, b.Tenant, at, fresh, func(c budget.Counter) budget.Micro { return spend[c.Of] })
}

// settled are the lapsed holds whose call the ledger has. Another call of the same trace says nothing of it.
func (r *Reconciler) settled(ctx context.Context, tenant string, holds []string, to time.Time) ([]string, error) {
	var calls []clickhouse.Call
	of := map[clickhouse.Call][]string{} // a call may have been held more than once
	for _, id := range holds {
		name := strings.TrimRight(id, anew)
		if slash := strings.LastIndexByte(name, '/'); slash > 0 && !strings.HasPrefix(id, leasePrefix) {
			call := clickhouse.Call{Trace: name[:slash], Span: name[slash+1:]}
			calls, of[call] = append(calls, call), append(of[call], id)
		}
	}
	if len(calls) == 0 {
		return nil, nil
	}
	found, err := r.Ledger.CallsBefore(ctx, tenant, calls, to.Add(-sessionsBack), to)
	if err != nil {
		return nil, err
	}
	var settled []string
	for _, c := range found {
		settled = append(settled, of[c]...)
	}
	return settled, nil
}

// leasePrefix begins the id of every lease: they are of no trace.
const leasePrefix = "lease/"

// note keeps by how much a ceiling was overrun, and says so once: budgets are there so that it never is.
func (r *Reconciler) note(b budget.Budget, c budget.Counter, spent budget.Micro) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := fmt.Sprintf("%s/%s/%s/%d", b.Tenant, c.Budget, c.Of, c.Window.From.Unix())
	over := spent - b.Ceiling
	if over <= 0 {
		delete(r.overshoot, name)
		return
	}
	if r.overshoot == nil {
		r.overshoot = map[string]budget.Micro{}
	}
	if r.overshoot[name] == 0 {
		r.Logger.Error("A budget was overrun: calls that no gateway holds to it, a ceiling that was lowered, or what a gateway was allowed while Redis was away",
			"tenant", b.Tenant, "budget", b.ID, "of", c.Of, "ceiling_usd", b.Ceiling.USD(), "spent_usd", spent.USD(), "over_usd", over.USD())
	}
	r.overshoot[name] = over
}
