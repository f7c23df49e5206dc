package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

var (
	month = budget.Counter{Budget: "month", Window: budget.Window{From: time.Now().UTC().Truncate(24 * time.Hour), To: time.Now().UTC().Add(30 * 24 * time.Hour)}}
	day   = budget.Counter{Budget: "day", Window: budget.Window{From: time.Now().UTC().Truncate(24 * time.Hour), To: time.Now().UTC().Add(24 * time.Hour)}}
	talk  = budget.Counter{Budget: "session", Of: "s 1:{x}"}
)

// inContext is a test, or a rapid one.
type inContext interface {
	require.TestingT
	Context() context.Context
}

// budgetsOf are the open budgets of a tenant.
func budgetsOf(t inContext, c *redis.Client, tenant string) *redis.Budgets {
	b, err := c.Budgets(t.Context())
	require.NoError(t, err)
	for open := false; !open; {
		open, err = b.Reopen(t.Context(), tenant, 0)
		require.NoError(t, err)
	}
	return b
}

func TestHoldsAreAllOrNone(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		ctx := t.Context()
		b := budgetsOf(t, open(t, s), "org:{1}")
		limits := []redis.Limit{{month, 1000}, {day, 100}, {talk, 50}}
		hold := func(id string, amount budget.Micro) redis.Grant {
			g, err := b.Hold(ctx, "org:{1}", redis.Hold{ID: id, Amount: amount, TTL: time.Minute, Limits: limits})
			require.NoError(t, err)
			return g
		}
		require.Equal(t, redis.Grant{Granted: true, Left: []budget.Micro{960, 60, 10}}, hold("a", 40))
		require.Equal(t, redis.Grant{Granted: true, Left: []budget.Micro{960, 60, 10}}, hold("a", 40), "a retry is the same hold")
		require.Equal(t, redis.Grant{Lacking: 2, Left: []budget.Micro{10}}, hold("b", 11), "the session has too little left")
		standings, isOpen, err := b.Read(ctx, "org:{1}", []budget.Counter{month, day, talk})
		require.NoError(t, err)
		require.True(t, isOpen)
		require.Equal(t, []redis.Standing{{Held: 40}, {Held: 40}, {Held: 40}}, standings, "what was refused holds nothing")

		minute := time.Now().UTC().Truncate(time.Minute)
		told := []redis.Told{{month, "gw", minute, 30}, {day, "gw", minute, 30}, {talk, "gw", minute, 30}}
		for range 2 {
			require.NoError(t, b.Settle(ctx, "org:{1}", "a", []budget.Counter{month, day, talk}, told))
		}
		standings, _, err = b.Read(ctx, "org:{1}", []budget.Counter{month, day, talk})
		require.NoError(t, err)
		require.Equal(t, []redis.Standing{{Spent: 30}, {Spent: 30}, {Spent: 30}}, standings, "settled once")
		require.Equal(t, redis.Grant{Granted: true, Left: []budget.Micro{950, 50, 0}}, hold("c", 20), "what was not spent can be held again")
	})
}

// What a holder that died held counts as spent, until the ledger knows better.
func TestALapsedHoldIsSpentUntilTheLedgerConfirms(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		ctx := t.Context()
		b := budgetsOf(t, open(t, s), "org")
		g, err := b.Hold(ctx, "org", redis.Hold{ID: "dead", Amount: 40, TTL: time.Millisecond, Limits: []redis.Limit{{day, 100}}})
		require.NoError(t, err)
		require.True(t, g.Granted)
		standing := func() redis.Standing {
			list, _, err := b.Read(ctx, "org", []budget.Counter{day})
			require.NoError(t, err)
			return list[0]
		}
		require.Eventually(t, func() bool { return standing() == redis.Standing{Spent: 40} }, patience, time.Millisecond)
		renewed, err := b.Renew(ctx, "org", "dead", 10, time.Minute, nil)
		require.NoError(t, err)
		require.False(t, renewed, "it has lapsed")

		minute := time.Now().UTC().Truncate(time.Minute)
		require.NoError(t, b.Settle(ctx, "org", "alive", nil, []redis.Told{{day, "gw", minute.Add(-time.Minute), 5}, {day, "gw", minute, 7}}))
		require.Equal(t, redis.Standing{Spent: 52}, standing())
		require.NoError(t, b.Reconcile(ctx, "org", redis.Ledger{At: minute, Counter: day, Spent: 6, UpTo: map[string]time.Time{"gw": minute.Add(-time.Minute)}}))
		require.Equal(t, redis.Standing{Spent: 6 + 7 + 40, Confirmed: 6}, standing(), "the ledger knows one minute, and nothing of the dead hold")
		require.NoError(t, b.Reconcile(ctx, "org", redis.Ledger{At: minute.Add(1), Counter: day, Spent: 9, UpTo: map[string]time.Time{"gw": minute}, Settled: []string{"dead"}}))
		require.Equal(t, redis.Standing{Spent: 9, Confirmed: 9}, standing())

		// One whose process turns out to live tells by itself.
		_, err = b.Hold(ctx, "org", redis.Hold{ID: "late", Amount: 40, TTL: time.Millisecond, Limits: []redis.Limit{{day, 100}}})
		require.NoError(t, err)
		require.Eventually(t, func() bool { return standing() == redis.Standing{Spent: 49, Confirmed: 9} }, patience, time.Millisecond)
		require.NoError(t, b.Settle(ctx, "org", "late", []budget.Counter{day}, []redis.Told{{day, "gw", minute.Add(time.Minute), 3}}))
		require.Equal(t, redis.Standing{Spent: 12, Confirmed: 9}, standing())
	})
}

// A Redis that was wiped, or that came back from a crash with what it had a while ago, says nothing until its
// counters are rebuilt.
func TestARestartedRedisIsNotBelieved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr, kill := startRedisIn(t, "0", dir)
	s := server{addr: addr, raw: rawClient(t, addr)}
	ctx := t.Context()
	c := open(t, s)
	b := budgetsOf(t, c, "org")
	hold := func(b *redis.Budgets, id string) error {
		_, err := b.Hold(ctx, "org", redis.Hold{ID: id, Amount: 40, TTL: time.Minute, Limits: []redis.Limit{{day, 100}}})
		return err
	}
	require.NoError(t, hold(b, "first"))
	require.NoError(t, s.raw.Save(ctx).Err())
	require.NoError(t, hold(b, "second")) // which the crash loses
	kill()
	_, port, _ := strings.Cut(addr, ":")
	startRedisIn(t, port, dir)

	require.Eventually(t, func() bool { return errors.Is(hold(b, "third"), redis.ErrBudgetsClosed) }, patience, time.Millisecond,
		"the saved counters would let it through")
	again, err := c.Budgets(ctx)
	require.NoError(t, err)
	require.NotEqual(t, b.Epoch(), again.Epoch())
	require.ErrorIs(t, hold(again, "third"), redis.ErrBudgetsClosed)

	opened, err := again.Reopen(ctx, "org", 0)
	require.NoError(t, err)
	require.False(t, opened)
	require.ErrorIs(t, hold(again, "third"), redis.ErrBudgetsClosed, "gateways reassert first")
	for _, id := range []string{"first", "second", "second"} {
		_, err := again.Reassert(ctx, "org", redis.Hold{ID: id, Amount: 40, TTL: time.Minute, Limits: []redis.Limit{{day, 100}}})
		require.NoError(t, err)
	}
	require.NoError(t, again.Reconcile(ctx, "org", redis.Ledger{At: time.Now(), Counter: day, Spent: 5}))
	opened, err = again.Reopen(ctx, "org", 0)
	require.NoError(t, err)
	require.True(t, opened)
	g, err := again.Hold(ctx, "org", redis.Hold{ID: "third", Amount: 16, TTL: time.Minute, Limits: []redis.Limit{{day, 100}}})
	require.NoError(t, err)
	require.Equal(t, redis.Grant{Left: []budget.Micro{15}}, g)
}

// Whatever is held, told, settled, lost and reconciled in any order: what is spent and held stays under the ceiling,
// never less than the truth, and comes down to the truth once the ledger knows all.
func TestCountersNeverFallBehindTheTruth(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		client := open(t, s)
		var runs atomic.Int64
		rapid.Check(t, func(t *rapid.T) {
			ctx := t.Context()
			tenant := fmt.Sprintf("org-%d", runs.Add(1))
			b := budgetsOf(t, client, tenant)
			m := &truth{told: map[redis.Told]budget.Micro{}, now: time.Date(2026, 11, 26, 1, 0, 0, 0, time.UTC)}
			t.Repeat(map[string]func(*rapid.T){
				"hold": func(t *rapid.T) {
					id, amount := fmt.Sprintf("h%d", m.holds), budget.Micro(rapid.Int64Range(0, 60).Draw(t, "amount"))
					m.holds++
					for range rapid.IntRange(1, 2).Draw(t, "times") {
						g, err := b.Hold(ctx, tenant, redis.Hold{ID: id, Amount: amount, TTL: time.Hour, Limits: []redis.Limit{{day, 200}, {month, 300}}})
						require.NoError(t, err)
						if m.committed()+amount <= 200 || slices.ContainsFunc(m.open, func(h held) bool { return h.id == id }) {
							require.True(t, g.Granted)
						} else {
							require.False(t, g.Granted)
							require.Equal(t, 0, g.Lacking)
						}
						if g.Granted && !slices.ContainsFunc(m.open, func(h held) bool { return h.id == id }) {
							m.open = append(m.open, held{id, amount})
						}
					}
				},
				"settle": func(t *rapid.T) {
					h, ok := m.take(t)
					if !ok {
						t.Skip("nothing is held")
					}
					cost := budget.Micro(rapid.Int64Range(0, int64(h.amount)).Draw(t, "cost"))
					m.spend(cost)
					for range rapid.IntRange(1, 2).Draw(t, "times") {
						require.NoError(t, b.Settle(ctx, tenant, h.id, []budget.Counter{day, month}, m.tell()))
					}
				},
				"die": func(t *rapid.T) { // the call was made, and its process told nobody
					h, ok := m.take(t)
					if !ok {
						t.Skip("nothing is held")
					}
					require.NoError(t, b.Lapse(ctx, tenant, h.id))
					cost := budget.Micro(rapid.Int64Range(0, int64(h.amount)).Draw(t, "cost"))
					m.spent += cost
					m.lapsed = append(m.lapsed, lapsed{h, cost})
				},
				"minute": func(*rapid.T) { m.now = m.now.Add(time.Minute) },
				"reconcile": func(t *rapid.T) {
					upTo := m.now.Add(-time.Duration(rapid.IntRange(0, 2).Draw(t, "behind")) * time.Minute)
					if upTo.Before(m.upTo) {
						upTo = m.upTo
					}
					known := rapid.IntRange(0, len(m.lapsed)).Draw(t, "recovered")
					m.reconcile(t, b, tenant, upTo, known)
				},
				"": func(t *rapid.T) {
					list, _, err := b.Read(ctx, tenant, []budget.Counter{day, month})
					require.NoError(t, err)
					for _, c := range list {
						require.Equal(t, m.committed(), c.Spent+c.Held, "%+v", c)
						require.GreaterOrEqual(t, c.Spent+c.Held, m.spent)
						require.LessOrEqual(t, c.Spent+c.Held, budget.Micro(200))
					}
				},
			})
			m.now = m.now.Add(time.Minute)
			m.reconcile(t, b, tenant, m.now, len(m.lapsed))
			for h, ok := m.take(nil); ok; h, ok = m.take(nil) {
				require.NoError(t, b.Settle(ctx, tenant, h.id, []budget.Counter{day, month}, m.tell()))
			}
			list, _, err := b.Read(ctx, tenant, []budget.Counter{day})
			require.NoError(t, err)
			require.Equal(t, redis.Standing{Spent: m.spent, Confirmed: m.spent}, list[0], "no phantom is left")
		})
	})
}

type held struct {
	id     string
	amount budget.Micro
}

type lapsed struct {
	held
	cost budget.Micro
}

// truth is what really happened.
type truth struct {
	now    time.Time
	holds  int
	open   []held
	lapsed []lapsed
	spent  budget.Micro
	told   map[redis.Told]budget.Micro // Total is zero in the key
	ledger budget.Micro                // of dead calls that it knows of
	upTo   time.Time                   // which the ledger knows all of

	readings int64
}

func (m *truth) take(t *rapid.T) (held, bool) {
	if len(m.open) == 0 {
		return held{}, false
	}
	i := 0
	if t != nil {
		i = rapid.IntRange(0, len(m.open)-1).Draw(t, "which")
	}
	h := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	return h, true
}

func (m *truth) spend(cost budget.Micro) {
	m.spent += cost
	for _, c := range []budget.Counter{day, month} {
		m.told[redis.Told{Counter: c, Process: "gw", Minute: m.now}] += cost
	}
}

func (m *truth) tell() (all []redis.Told) {
	for k, total := range m.told {
		k.Total = total
		all = append(all, k)
	}
	return all
}

// committed is what is spent as far as it was told, held, or presumed.
func (m *truth) committed() (sum budget.Micro) {
	for k, total := range m.told {
		if k.Counter == day {
			sum += total
		}
	}
	for _, h := range m.open {
		sum += h.amount
	}
	for _, h := range m.lapsed {
		sum += h.amount
	}
	return sum + m.ledger
}

func (m *truth) reconcile(t *rapid.T, b *redis.Budgets, tenant string, upTo time.Time, recovered int) {
	var ids []string
	for _, h := range m.lapsed[:recovered] {
		ids = append(ids, h.id)
		m.ledger += h.cost
	}
	m.lapsed = slices.Delete(m.lapsed, 0, recovered)
	m.upTo = upTo
	m.readings++
	for _, c := range []budget.Counter{day, month} {
		spent := m.ledger
		for k, total := range m.told {
			if k.Counter == c && !k.Minute.After(upTo) {
				spent += total
			}
		}
		require.NoError(t, b.Reconcile(t.Context(), tenant, redis.Ledger{
			At: time.UnixMilli(m.readings), Counter: c, Spent: spent, UpTo: map[string]time.Time{"gw": upTo}, Settled: ids,
		}))
		// An older reading comes late.
		require.NoError(t, b.Reconcile(t.Context(), tenant, redis.Ledger{At: time.UnixMilli(m.readings - 1), Counter: c}))
	}
}

// A thousand callers at once never overrun a ceiling, and use it up.
func TestConcurrentHoldsNeverOverrun(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		client := open(t, s)
		b := budgetsOf(t, client, "org")
		var granted atomic.Int64
		var group sync.WaitGroup
		for i := range 1000 {
			group.Go(func() {
				g, err := b.Hold(t.Context(), "org", redis.Hold{ID: fmt.Sprint(i), Amount: 7, TTL: time.Hour, Limits: []redis.Limit{{day, 2000}, {month, 5000}}})
				if err == nil && g.Granted {
					granted.Add(1)
				}
			})
		}
		group.Wait()
		require.LessOrEqual(t, granted.Load(), int64(2000/7))
		list, _, err := b.Read(t.Context(), "org", []budget.Counter{day})
		require.NoError(t, err)
		require.LessOrEqual(t, list[0].Held, budget.Micro(2000))
		require.GreaterOrEqual(t, list[0].Held, budget.Micro(granted.Load()*7), "an answer that was lost holds too")
	})
}

// A new Redis learns of every session at once, but for those that somebody holds something of: these are told of by name.
// A session of which nothing is outstanding is listed no more, and is again from its next hold on.
func TestSeedsManySessions(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		ctx, tenant := t.Context(), "org"
		b := budgetsOf(t, open(t, s), tenant)
		var all []budget.Counter
		for i := range 1100 {
			all = append(all, budget.Counter{Budget: "session", Of: fmt.Sprint("s", i)})
		}
		spent := func(c budget.Counter) budget.Micro { return budget.Micro(len(c.Of)) }
		hold := func(id string, c budget.Counter) {
			g, err := b.Hold(ctx, tenant, redis.Hold{ID: id, Amount: 5, TTL: time.Minute, Limits: []redis.Limit{{c, 100}}})
			require.NoError(t, err)
			require.True(t, g.Granted)
		}
		hold("early", all[700])
		at := time.Now()
		otherwise, err := b.Seed(ctx, tenant, at, all, spent)
		require.NoError(t, err)
		require.Equal(t, []budget.Counter{all[700]}, otherwise)
		require.NoError(t, b.Reconcile(ctx, tenant, redis.Ledger{At: at, Counter: all[700], Spent: 4}))
		otherwise, err = b.Seed(ctx, tenant, at.Add(time.Second), all[:10], spent)
		require.NoError(t, err)
		require.Empty(t, otherwise, "what stands as the ledger says is left alone")
		otherwise, err = b.Seed(ctx, tenant, at.Add(time.Second), all[:1], func(budget.Counter) budget.Micro { return 9 })
		require.NoError(t, err)
		require.Equal(t, all[:1], otherwise, "a ledger that has more says so")

		standings, _, err := b.Read(ctx, tenant, []budget.Counter{all[0], all[700], all[1099]})
		require.NoError(t, err)
		require.Equal(t, []redis.Standing{{Spent: 2, Confirmed: 2}, {Spent: 4, Held: 5, Confirmed: 4}, {Spent: 5, Confirmed: 5}}, standings)
		listed := func() (of []string) {
			live, err := b.Live(ctx, tenant)
			require.NoError(t, err)
			for _, l := range live {
				of = append(of, l.Of)
			}
			slices.Sort(of)
			return of
		}
		require.Equal(t, []string{"s700"}, listed())
		hold("late", all[3])
		require.Equal(t, []string{"s3", "s700"}, listed())
		minute := time.Now().UTC().Truncate(time.Minute)
		require.NoError(t, b.Settle(ctx, tenant, "late", []budget.Counter{all[3]}, []redis.Told{{all[3], "gw", minute, 7}}))
		require.Equal(t, []string{"s3", "s700"}, listed(), "the ledger does not know yet")
		require.NoError(t, b.Reconcile(ctx, tenant, redis.Ledger{At: at.Add(2 * time.Second), Counter: all[3], Spent: 9, UpTo: map[string]time.Time{"gw": minute}}))
		require.Equal(t, []string{"s700"}, listed())

		windowed, err := b.Seed(ctx, tenant, at, []budget.Counter{day}, func(budget.Counter) budget.Micro { return 3 })
		require.NoError(t, err)
		require.Empty(t, windowed)
		require.Equal(t, []string{"", "s700"}, listed())
	})
}
