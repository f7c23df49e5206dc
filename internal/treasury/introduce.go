package treasury

import (
	"context"
	"fmt"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// introduced stands in the place of a process in what Introduce tells.
const introduced = "ledger"

// Introduce sets the counters of a budget that no gateway knows yet by what the ledger has of its present window, so that
// it is never granted from as if nothing had been spent. Minutes of which the ledger may yet get more are told one by one,
// as a process would, and confirmed when the ledger has all of them.
//
// There may be very many sessions: those that call no more are set at once.
func (r *Reconciler) Introduce(ctx context.Context, b budget.Budget) error {
	counters, err := r.Redis.Budgets(ctx)
	if err != nil {
		return err
	}
	spools, err := r.Ledger.Spools(ctx)
	if err != nil {
		return err
	}
	now := r.Now().UTC()
	cut, window := cutOff(spools, now), b.Window(now)
	from := window.From
	if from.IsZero() {
		from = now.Add(-sessionsBack).Truncate(time.Minute)
	}
	if cut.Before(from) {
		cut = from
	}
	at := r.Now()
	whole, err := r.spend(ctx, b, from, cut)
	if err != nil {
		return err
	}
	minutes := map[string][]redis.Told{}
	for minute := cut; !minute.After(now); minute = minute.Add(time.Minute) {
		part, err := r.spend(ctx, b, minute, minute.Add(time.Minute))
		if err != nil {
			return err
		}
		for of, spent := range part {
			c := budget.Counter{Budget: b.ID, Of: of, Window: window}
			minutes[of] = append(minutes[of], redis.Told{Counter: c, Process: introduced, Minute: minute, Total: spent})
		}
	}
	upTo, earlier := minutesUpTo(spools, cut)
	reconcile := func(c budget.Counter) error {
		return counters.Reconcile(ctx, b.Tenant, redis.Ledger{At: at, Counter: c, Spent: whole[c.Of], UpTo: upTo, Earlier: earlier})
	}
	var quiet []budget.Counter
	for of := range whole {
		if len(minutes[of]) == 0 {
			quiet = append(quiet, budget.Counter{Budget: b.ID, Of: of, Window: window})
		}
	}
	known, err := counters.Seed(ctx, b.Tenant, at, quiet, func(c budget.Counter) budget.Micro { return whole[c.Of] })
	if err != nil {
		return err
	}
	for _, c := range known {
		if err := reconcile(c); err != nil {
			return err
		}
	}
	for of, told := range minutes {
		if err := reconcile(budget.Counter{Budget: b.ID, Of: of, Window: window}); err != nil {
			return err
		}
		if err := counters.Settle(ctx, b.Tenant, leasePrefix+introduced, nil, told); err != nil { // there is no such hold
			return err
		}
	}
	return nil
}

// spend is what the ledger has of a budget's calls in [from, to), by whose they are.
func (r *Reconciler) spend(ctx context.Context, b budget.Budget, from, to time.Time) (map[string]budget.Micro, error) {
	if !from.Before(to) {
		return map[string]budget.Micro{}, nil
	}
	q := clickhouse.SpendQuery{Tenant: b.Tenant, Per: b.Per, From: from, To: to}
	if b.Only != "" {
		q.Of = []string{b.Only}
	}
	spent, err := r.Ledger.Spend(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("reading what the budget %q has spent so far: %w", b.ID, err)
	}
	return spent, nil
}
