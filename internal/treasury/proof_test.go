package treasury

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/budget"
)

func nested(month, key, session budget.Micro) []budget.Budget {
	return []budget.Budget{
		{ID: "month", Tenant: tenant, Per: budget.PerTenant, Period: budget.Month, Ceiling: month},
		{ID: "day", Tenant: tenant, Per: budget.PerTenant, Period: budget.Day, TimeZone: "America/New_York", Ceiling: month * 3 / 4},
		{ID: "key", Tenant: tenant, Per: budget.PerKey, Period: budget.Week, Ceiling: key},
		{ID: "session", Tenant: tenant, Per: budget.PerSession, Period: budget.Session, Ceiling: session},
	}
}

func TestACallIsPromisedAndSettled(t *testing.T) {
	s := newServer(t)
	w := newWorld(t, t, s, nested(1000, 500, 200), 2, time.Second)
	defer w.close()
	of := budget.Call{Tenant: tenant, Key: "k", Session: "s"}
	g := w.gateways[0]
	var c *call
	require.Eventually(t, func() bool { c = g.begin(of, 150); return c != nil }, patience, 20*time.Millisecond)
	require.Nil(t, g.begin(of, 60), "the session has 50 left")
	require.Nil(t, w.gateways[1].begin(of, 60), "for every gateway")
	g.finish(0, 30, 30)
	require.Eventually(t, func() bool { return w.gateways[1].begin(of, 170) != nil }, patience, 20*time.Millisecond)
	w.gateways[1].finish(0, 100, 100)
	w.quiet([]string{"s", "other"}, []string{"k"})
}

// TestBudgetsCannotBeOverrun is the proof: whatever happens to gateways, Redis and clocks, the upstream is never owed
// more than a ceiling, and once holds have expired nothing that fits is refused.
func TestBudgetsCannotBeOverrun(t *testing.T) {
	s := newServer(t)
	var total struct {
		sync.Mutex
		runs, calls, granted, refused, away, kills, restarts, aborted, moved, stepped int64
	}
	atMost := 12 // of rapid's hundred: each takes about a second
	if os.Getenv("FLYBALL_SOAK") != "" {
		atMost = math.MaxInt
	}
	rapid.Check(t, func(rt *rapid.T) {
		if atMost--; atMost < 0 {
			return
		}
		s.do(rt, "FLUSHALL")
		month := budget.Micro(rapid.IntRange(2_000, 20_000).Draw(rt, "month"))
		sessions, keys := []string{"s1", "s2", "s3"}, []string{"k1", "k2"}
		w := newWorld(t, rt, s, nested(month, month*2/3, month/3), 2, 300*time.Millisecond)
		defer w.close()
		w.clock.Add(int64(time.Duration(rapid.IntRange(0, 4*60).Draw(rt, "minutes")) * time.Minute))
		pick := func() *gateway { return w.gateways[rapid.IntRange(0, len(w.gateways)-1).Draw(rt, "gateway")] }
		alive := func() *gateway {
			g := pick()
			if g.treasury == nil {
				rt.Skip("it is dead")
			}
			return g
		}
		w.gateways[0].settleDown()
		rt.Repeat(map[string]func(*rapid.T){
			"call": func(rt *rapid.T) {
				g := alive()
				of := budget.Call{Tenant: tenant, Session: rapid.SampledFrom(sessions).Draw(rt, "session"), Key: rapid.SampledFrom(keys).Draw(rt, "key")}
				g.begin(of, budget.Micro(rapid.IntRange(1, int(month/16)).Draw(rt, "most")))
			},
			"calls": func(rt *rapid.T) {
				g := alive()
				of := budget.Call{Tenant: tenant, Session: rapid.SampledFrom(sessions).Draw(rt, "session"), Key: rapid.SampledFrom(keys).Draw(rt, "key")}
				if rapid.IntRange(0, 7).Draw(rt, "patience") > 0 { // or nearly all are refused because nobody can be asked
					g.settleDown()
				}
				var group sync.WaitGroup
				for range 20 {
					group.Add(1)
					go func() { defer group.Done(); g.begin(of, month/400+1) }()
				}
				group.Wait()
			},
			"finish": func(rt *rapid.T) {
				g := alive()
				if len(g.calls) == 0 {
					rt.Skip("no call")
				}
				i := rapid.IntRange(0, len(g.calls)-1).Draw(rt, "which")
				cost := budget.Micro(rapid.IntRange(0, int(g.calls[i].most)).Draw(rt, "cost"))
				reported := cost
				if rapid.Bool().Draw(rt, "aborted") {
					w.counts.aborted++
					reported = budget.Micro(rapid.IntRange(int(cost), int(g.calls[i].most)).Draw(rt, "reported"))
				}
				g.finish(i, cost, reported)
			},
			"kill": func(rt *rapid.T) {
				g := alive()
				if len(g.calls) > 0 && !g.asked() {
					rt.Skip("a new Redis has not heard of its calls, and would open without them: see ADR 15")
				}
				w.counts.kills++
				g.kill(func(c *call) budget.Micro { return budget.Micro(rapid.IntRange(0, int(c.most)).Draw(rt, "spent")) })
			},
			"revive": func(*rapid.T) {
				if g := pick(); g.treasury == nil {
					g.start()
				}
			},
			"redis": func(rt *rapid.T) {
				for _, g := range w.gateways {
					if g.lost {
						rt.Skip("a dead gateway's calls would be forgotten: see ADR 15")
					}
				}
				switch rapid.IntRange(0, 9).Draw(rt, "what") {
				case 0: // comes back with what it had saved, which is old by then
					s.do(rt, "SAVE")
					w.gateways[0].beginIfAlive(budget.Call{Tenant: tenant, Session: "s1", Key: "k1"}, month/20)
					s.kill()
					s.start(rt)
				case 1:
					s.kill()
					s.start(rt)
				case 2:
					s.do(rt, "FLUSHALL")
				default:
					rt.Skip("it lives on")
				}
				w.counts.restarts++
				time.Sleep(time.Duration(rapid.IntRange(0, 1000).Draw(rt, "later")) * time.Millisecond)
			},
			"clock": func(rt *rapid.T) {
				step := time.Duration(rapid.IntRange(1, 40*60).Draw(rt, "seconds")) * time.Second
				for _, g := range w.gateways {
					for _, c := range g.calls {
						if !w.covers(c, g.now().Add(step)) {
							rt.Skip("a call takes longer than calls may")
						}
					}
				}
				w.pass(step)
			},
			"skew": func(rt *rapid.T) {
				// A dead gateway's clock may be set to whatever. One that is set over a window's edge while calls are under
				// way moves what they cost into windows of which they were promised nothing.
				g := pick()
				skew := time.Duration(rapid.IntRange(-180, 180).Draw(rt, "minutes")) * time.Minute
				for _, c := range g.calls {
					if !w.covers(c, w.now().Add(skew)) {
						rt.Skip("it has a call under way that was promised nothing then")
					}
				}
				if g.treasury == nil {
					w.counts.moved++
				} else if len(g.calls) > 0 {
					w.counts.stepped++
				}
				g.set(skew)
			},
			"ceiling": func(rt *rapid.T) {
				w.setBudgets(nested(budget.Micro(rapid.IntRange(int(month)/2, int(month)*2).Draw(rt, "month")), month*2/3, month/3))
			},
			"wait": func(rt *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(1, 500).Draw(rt, "ms")) * time.Millisecond) },
		})
		w.quiet(sessions, keys)
		total.Lock()
		defer total.Unlock()
		total.runs++
		total.calls += w.counts.calls
		total.granted += w.counts.granted
		total.refused += w.counts.refused
		total.away += w.counts.away
		total.kills += w.counts.kills
		total.restarts += w.counts.restarts
		total.aborted += w.counts.aborted
		total.moved += w.counts.moved
		total.stepped += w.counts.stepped
	})
	t.Logf("%d runs: %d calls, %d promised, %d refused (%d while budgets could not be asked), %d aborted, %d gateways killed, %d times Redis restarted or wiped, %d clocks set of dead gateways and %d of those with calls under way: overshoot 0, phantom refusals 0",
		total.runs, total.calls, total.granted, total.refused, total.away, total.aborted, total.kills, total.restarts, total.moved, total.stepped)
}

// TestAThousandAtOnce has a thousand calls at once over four gateways fight for the last of a budget.
func TestAThousandAtOnce(t *testing.T) {
	s := newServer(t)
	const month = 3_000_000
	w := newWorld(t, t, s, nested(month, month*2/3, month/2), 4, 2*time.Second)
	defer w.close()
	require.Eventually(t, func() bool { return w.gateways[0].begin(budget.Call{Tenant: tenant}, 1) != nil }, patience, 10*time.Millisecond)
	var group sync.WaitGroup
	for i := range 1000 {
		group.Add(1)
		go func() {
			defer group.Done()
			r := rand.New(rand.NewPCG(1, uint64(i)))
			g := w.gateways[i%4]
			of := budget.Call{Tenant: tenant, Session: fmt.Sprint("s", i%10), Key: fmt.Sprint("k", i%3)}
			for range 8 {
				c := g.hold(of, budget.Micro(1+r.IntN(2_000)))
				if c == nil {
					continue
				}
				cost := budget.Micro(r.Int64N(int64(c.most) + 1))
				ended := g.now()
				g.owe(c, cost, ended)
				g.settle(c, cost, ended)
			}
		}()
	}
	group.Wait()
	t.Logf("%d calls, %d promised, %d refused", w.counts.calls, w.counts.granted, w.counts.refused)
	w.quiet([]string{"s1", "s2"}, []string{"k1"})
}
