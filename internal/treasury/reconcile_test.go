package treasury

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
)

// ledgerOf answers as the store does: of what is named, or of each.
type ledgerOf struct {
	spend  map[budget.Per]map[string]budget.Micro
	calls  []clickhouse.Call
	spools map[string]clickhouse.Spool
}

func (l *ledgerOf) Spools(context.Context) (map[string]clickhouse.Spool, error) { return l.spools, nil }

func (l *ledgerOf) Spend(_ context.Context, q clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	if len(q.Of) == 0 {
		return l.spend[q.Per], nil
	}
	named := map[string]budget.Micro{}
	for _, of := range q.Of {
		if m := l.spend[q.Per][of]; m > 0 {
			named[of] = m
		}
	}
	return named, nil
}

func (l *ledgerOf) CallsBefore(_ context.Context, _ string, calls []clickhouse.Call, _, _ time.Time) (found []clickhouse.Call, _ error) {
	for _, c := range calls {
		for _, known := range l.calls {
			if c == known {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

// A Redis that lost everything knows, when its budgets open, what every key, session and model has spent, and not only
// the tenant: the first call after it is refused like the last one before.
func TestWipedCountersAreRebuilt(t *testing.T) {
	t.Parallel()
	t.Run("flushed", func(t *testing.T) {
		t.Parallel()
		server := miniredis.RunT(t)
		rebuilt(t, server.Addr(), server.FlushAll)
	})
	t.Run("killed and started again", func(t *testing.T) {
		t.Parallel()
		server := newServer(t)
		rebuilt(t, server.addr, func() { server.kill(); server.start(t) })
	})
}

// rebuilt requires that what the ledger has bounds calls before Redis loses everything and after.
func rebuilt(t *testing.T, addr string, wipe func()) {
	client := redis.Open(redis.Options{Addr: addr, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	now := time.Now().UTC()
	ledger := &ledgerOf{spend: map[budget.Per]map[string]budget.Micro{
		budget.PerTenant: {"": 190}, budget.PerKey: {"k1": 100, "k2": 90}, budget.PerSession: {"s1": 100}, budget.PerModel: {"m1": 100},
	}}
	var versions []budget.Version
	call := budget.Call{Tenant: "org", Key: "k1", Session: "s1", Model: "m1"}
	for _, per := range []budget.Per{budget.PerTenant, budget.PerKey, budget.PerSession, budget.PerModel} {
		b := budget.Budget{ID: string(per), Tenant: "org", Per: per, Period: budget.Day, Ceiling: 100}
		switch per {
		case budget.PerSession:
			b.Period = budget.Session
		case budget.PerTenant:
			b.Ceiling = 1000
		}
		versions = append(versions, budget.Version{Budget: b})
	}
	r := &Reconciler{
		Budgets: func(context.Context) ([]budget.Version, error) { return versions, nil },
		Redis:   client, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }, Grace: time.Millisecond,
	}
	open := func() *redis.Budgets {
		var counters *redis.Budgets
		require.Eventually(t, func() bool {
			if r.Reconcile(t.Context()) != nil { // a server that has just come back
				return false
			}
			var err error
			if counters, err = client.Budgets(t.Context()); err != nil {
				return false
			}
			_, open, err := counters.Read(t.Context(), "org", nil)
			return err == nil && open
		}, patience, 5*time.Millisecond)
		return counters
	}
	for range 2 {
		counters := open()
		for _, v := range versions {
			c, ok := v.Counter(call, now)
			require.True(t, ok)
			grant, err := counters.Hold(t.Context(), "org", redis.Hold{ID: "t/" + v.ID, Amount: 1, TTL: time.Minute, Limits: []redis.Limit{{Counter: c, Ceiling: v.Ceiling}}})
			require.NoError(t, err)
			require.Equal(t, v.Per == budget.PerTenant, grant.Granted, "%s: %v left", v.Per, grant.Left)
		}
		wipe()
	}
}

// A hold that lapsed is settled by its own call in the ledger, not by another of the same trace.
func TestLapsedHoldsAreSettledByTheirOwnCall(t *testing.T) {
	t.Parallel()
	ledger := &ledgerOf{calls: []clickhouse.Call{{Trace: "t", Span: "a"}, {Trace: "u/v", Span: "b"}}}
	r := &Reconciler{Ledger: ledger}
	settled, err := r.settled(t.Context(), "org", []string{"t/b", "t/a", "u/v/b", leasePrefix + "run/1"}, time.Now())
	require.NoError(t, err)
	require.Equal(t, []string{"t/a", "u/v/b"}, settled)
}

// A gateway whose clock was set back tells what it spends in minutes that its spool had passed before: the ledger's word on
// those is of the calls from then, and confirms nothing of what is told now until the spool has passed them again.
func TestMinutesThatAreLivedTwiceAreConfirmedTwice(t *testing.T) {
	t.Parallel()
	client := redis.Open(redis.Options{Addr: miniredis.RunT(t).Addr(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	now := time.Now().UTC().Truncate(24 * time.Hour).Add(36*time.Hour + 10*time.Minute) // tomorrow, 12:10
	b := budget.Budget{ID: "day", Tenant: "org", Per: budget.PerTenant, Period: budget.Day, Ceiling: 100}
	c, _ := b.Counter(budget.Call{Tenant: "org"}, now)
	ledger := &ledgerOf{spend: map[budget.Per]map[string]budget.Micro{budget.PerTenant: {}}, spools: map[string]clickhouse.Spool{}}
	r := &Reconciler{
		Budgets: func(context.Context) ([]budget.Version, error) { return []budget.Version{{Budget: b}}, nil },
		Redis:   client, Ledger: ledger, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }, Grace: time.Millisecond,
	}
	counters, err := client.Budgets(t.Context())
	require.NoError(t, err)
	tell := func(minute time.Time, total budget.Micro) {
		require.NoError(t, counters.Settle(t.Context(), "org", "none", nil, []redis.Told{{Counter: c, Process: "gw~run", Minute: minute, Total: total}}))
	}
	spent := func() budget.Micro {
		now = now.Add(time.Second)
		require.NoError(t, r.Reconcile(t.Context()))
		all, _, err := counters.Read(t.Context(), "org", []budget.Counter{c})
		require.NoError(t, err)
		return all[0].Spent
	}
	passed := now.Add(-5 * time.Minute)
	tell(passed, 10)
	ledger.spend[budget.PerTenant][""] = 10
	ledger.spools["gw"] = clickhouse.Spool{Last: now, Highest: now}
	require.EqualValues(t, 10, spent(), "confirmed once")

	back := clickhouse.Spool{Last: passed.Add(10 * time.Second), Highest: now}
	ledger.spools["gw"] = back
	tell(passed, 10+7)
	tell(passed.Add(time.Minute), 5)
	require.EqualValues(t, 10+7+5, spent(), "the ledger does not have the last two")
	ledger.spend[budget.PerTenant][""] = 10 + 7 + 5
	require.GreaterOrEqual(t, spent(), budget.Micro(10+7+5))
	back.Last = passed.Add(2*time.Minute + time.Second)
	ledger.spools["gw"] = back
	require.EqualValues(t, 10+7+5, spent(), "counted once, long before the clock is where it was")

	last := now.Add(-2 * time.Minute).Truncate(time.Minute) // told late, of before the clock was set
	tell(last, 20)
	ledger.spend[budget.PerTenant][""] += 20
	back.Last = last.Add(-markBehind + time.Minute)
	ledger.spools["gw"] = back
	require.EqualValues(t, 10+7+5+20+20, spent(), "it may be of now")
	back.Last = last.Add(-markBehind)
	ledger.spools["gw"] = back
	require.EqualValues(t, 10+7+5+20, spent(), "counted once though the clock is not there yet")
}
