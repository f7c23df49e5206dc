package treasury

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// lonely is a treasury whose Redis is away, with an allowance.
func lonely(t *testing.T, away Away, known bool) *Treasury {
	t.Helper()
	client := redis.Open(redis.Options{Addr: "127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	all := nested(1000, 500, 200)
	tr, err := Open(Options{
		Dir: t.TempDir(), Process: "gw", Redis: client, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Budgets: func(string) ([]budget.Budget, bool) { return all, known },
		Away:    func(string) Away { return away },
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tr.Close()); _ = client.Close() })
	return tr
}

func TestAwayTheAllowanceBoundsWhatIsPromised(t *testing.T) {
	for _, known := range []bool{true, false} {
		tr := lonely(t, Away{Allowance: 100}, known)
		hold := func(id string, most budget.Micro) error {
			_, err := tr.Hold(t.Context(), Call{ID: id, Of: budget.Call{Tenant: tenant}, Most: most})
			return err
		}
		require.NoError(t, hold("t/1", 60))
		require.NoError(t, hold("t/1", 60), "a retry is the same promise")
		var refusal *Refusal
		require.ErrorAs(t, hold("t/2", 41), &refusal)
		require.True(t, refusal.Away)
		require.Contains(t, refusal.Error(), "cannot be asked")
		require.NoError(t, hold("t/3", 40))
		require.True(t, tr.Settle("t/1", 0, time.Now()))
		require.False(t, tr.Settle("t/1", 0, time.Now()), "it is settled once")
		require.Error(t, hold("t/4", 1), "nothing is allowed again before Redis knows of it")
		require.EqualValues(t, 1, tr.Stats().Open)
	}
	require.Error(t, func() error {
		_, err := lonely(t, Away{Closed: true, Allowance: 100}, true).Hold(t.Context(), Call{ID: "t/1", Of: budget.Call{Tenant: tenant}, Most: 1})
		return err
	}())
}

// TestOneIDIsPromisedOnce has many ask for one id at once: the allowance is enough for one promise of it.
func TestOneIDIsPromisedOnce(t *testing.T) {
	tr := lonely(t, Away{Allowance: 10}, true)
	var group sync.WaitGroup
	for range 50 {
		group.Add(1)
		go func() {
			defer group.Done()
			p, err := tr.Hold(t.Context(), Call{ID: "t/1", Of: budget.Call{Tenant: tenant}, Most: 10})
			if err != nil || p.Most != 10 {
				t.Error(p, err)
			}
		}()
	}
	group.Wait()
	require.EqualValues(t, 1, tr.Stats().Promises)
}

// TestAPromiseThatIsNotWrittenIsNone takes the segment away, so that nothing can be appended, as a full disk would.
func TestAPromiseThatIsNotWrittenIsNone(t *testing.T) {
	tr := lonely(t, Away{Allowance: 10}, true)
	tr.journal.segment = nil
	_, err := tr.Hold(t.Context(), Call{ID: "t/1", Of: budget.Call{Tenant: tenant}, Most: 10})
	require.ErrorContains(t, err, "closed")
	require.Zero(t, tr.account(tenant).allowed, "what was not promised is allowed again")
	require.Zero(t, tr.Stats().Promises)
}

// TestAClientThatLeavesSaysNothingOfRedis holds for calls whose clients are gone already.
func TestAClientThatLeavesSaysNothingOfRedis(t *testing.T) {
	s := newServer(t)
	w := newWorld(t, t, s, nested(1000, 500, 200), 1, time.Second)
	defer w.close()
	g := w.gateways[0]
	require.Eventually(t, func() bool { return g.begin(budget.Call{Tenant: tenant}, 1) != nil }, patience, 20*time.Millisecond)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := g.treasury.Hold(gone, Call{ID: "t/gone", Of: budget.Call{Tenant: tenant, Session: "s"}, Most: 10})
	require.NoError(t, err, "it is asked for and heard of")
	require.NotNil(t, g.treasury.counters.Load(), "Redis is not away")
	require.True(t, g.treasury.Settle("t/gone", 0, g.now()))
}

// TestARecoveredCallCountsInTheWindowOfItsPromise has a gateway die, and its clock be in the next day when it is back: the
// day of the promise is told of the call, by that run and, when Redis has lost it, by the one after that.
func TestARecoveredCallCountsInTheWindowOfItsPromise(t *testing.T) {
	s := newServer(t)
	w := newWorld(t, t, s, nested(1000, 500, 200), 1, time.Second)
	defer w.close()
	g := w.gateways[0]
	w.clock.Store(midnight().Add(-time.Hour).UnixNano())
	var c *call
	require.Eventually(t, func() bool { c = g.begin(budget.Call{Tenant: tenant}, 100); return c != nil }, patience, 20*time.Millisecond)
	counters := w.counters(c.of, c.began)
	told := func() bool {
		b, err := w.client.Budgets(t.Context())
		if err != nil {
			return false
		}
		all, open, err := b.Read(t.Context(), tenant, counters)
		return err == nil && open && all[1].Spent == 100 && all[1].Held == 0
	}
	g.kill(func(c *call) budget.Micro { return c.most })
	w.clock.Add(int64(2 * time.Hour))
	require.NotEqual(t, counters, w.counters(c.of, g.now()))
	g.start()
	require.Eventually(t, told, patience, 20*time.Millisecond)
	g.kill(nil)
	g.start()
	s.do(t, "FLUSHALL")
	require.Eventually(t, told, patience, 20*time.Millisecond)
}

// TestAnExpiredPromiseCountsAtItsWorst has nobody settle a promise of which a lease and holds have parts.
func TestAnExpiredPromiseCountsAtItsWorst(t *testing.T) {
	s := newServer(t)
	w := newWorld(t, t, s, nested(1000, 500, 200), 1, time.Second)
	defer w.close()
	g := w.gateways[0]
	require.Eventually(t, func() bool { return g.begin(budget.Call{Tenant: tenant}, 1) != nil }, patience, 20*time.Millisecond)
	g.finish(0, 0, 0)
	of := budget.Call{Tenant: tenant, Session: "s", Key: "k"}
	_, err := g.treasury.Hold(t.Context(), Call{ID: "t/lost", Of: of, Most: 100, Expires: 50 * time.Millisecond})
	require.NoError(t, err)
	counters := w.counters(of, w.now())
	w.mu.Lock()
	for _, c := range counters {
		w.owed[c] += 0 // to be reconciled
	}
	w.mu.Unlock()
	require.Eventually(t, func() bool { return g.treasury.Stats().Expired == 1 && g.treasury.Stats().Waiting == 0 }, patience, 10*time.Millisecond)
	require.False(t, g.treasury.Settle("t/lost", 0, g.now()))
	b, err := w.client.Budgets(t.Context())
	require.NoError(t, err)
	spent := func() (list []budget.Micro) {
		standings, _, err := b.Read(t.Context(), tenant, counters)
		require.NoError(t, err)
		for _, s := range standings {
			list = append(list, s.Spent)
		}
		return list
	}
	require.Equal(t, []budget.Micro{100, 100, 100, 100}, spent())
	w.clock.Add(int64(10 * time.Minute)) // the ledger comes past the minute, without the trace
	require.Never(t, func() bool { return spent()[0] != 100 || spent()[3] != 100 }, 200*time.Millisecond, 20*time.Millisecond)
}

// TestADoubtfulHoldEndsWithoutItsPromise has a call be promised of the allowance after Redis's answer to it was lost: that
// hold is ended, and the journal goes on to know of the call.
func TestADoubtfulHoldEndsWithoutItsPromise(t *testing.T) {
	tr := lonely(t, Away{Allowance: 100}, true)
	tr.doubt(tr.account(tenant), "t/1", nil)
	_, err := tr.Hold(t.Context(), Call{ID: "t/1", Of: budget.Call{Tenant: tenant}, Most: 60})
	require.NoError(t, err)
	tr.doubts[0].task.done()
	require.True(t, tr.Settle("t/1", 50_000_000, time.Now()))
	var spent budget.Micro
	for _, total := range tr.journal.state.told {
		spent = max(spent, total)
	}
	require.EqualValues(t, 50, spent)
}
