package treasury

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

const patience = 20 * time.Second

// tester is a test, or a rapid one.
type tester interface {
	require.TestingT
	Logf(format string, args ...any)
}

// server is a Redis that can be killed, and started again with what it had saved.
type server struct {
	addr string
	port string
	dir  string
	cmd  *exec.Cmd
}

func newServer(t *testing.T) *server {
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not there: ", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	require.NoError(t, l.Close())
	dir, err := os.MkdirTemp("", "treasury-redis-*")
	require.NoError(t, err)
	s := &server{addr: "127.0.0.1:" + port, port: port, dir: dir}
	s.start(t)
	t.Cleanup(func() {
		s.kill()
		_ = os.RemoveAll(dir)
	})
	return s
}

func (s *server) start(t tester) {
	s.cmd = exec.Command("redis-server", "--port", s.port, "--bind", "127.0.0.1", "--dir", s.dir, "--save", "", "--appendonly", "no")
	s.cmd.Stdout, s.cmd.Stderr = io.Discard, io.Discard
	require.NoError(t, s.cmd.Start())
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = c.Close()
			return
		}
		require.True(t, time.Now().Before(deadline), "redis-server does not start: %v", err)
	}
}

func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGKILL)
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// do runs one command of redis-cli.
func (s *server) do(t tester, args ...string) {
	out, err := exec.Command("redis-cli", append([]string{"-p", s.port}, args...)...).CombinedOutput()
	require.NoErrorf(t, err, "%s", out)
}

// entry is a call as the ledger has it.
type entry struct {
	process  string
	accepted time.Time // by the clock of its gateway
	counters []budget.Counter
	cost     budget.Micro
	id       string
	there    bool // in the ledger
}

// world is a Redis, gateways, an upstream that counts what it is really owed, the ledger of what gateways reported, and
// the worker that reconciles.
type world struct {
	t       tester
	log     *testing.T // also where t is rapid's, which says nothing of a failure that it cannot repeat
	server  *server
	client  *redis.Client
	ttl     time.Duration
	clock   atomic.Int64 // unix nanoseconds of the world
	budgets atomic.Pointer[[]budget.Budget]

	looking  sync.Mutex // while the ledger is looked at no clock moves
	mu       sync.Mutex
	ledger   []entry
	owed     map[budget.Counter]budget.Micro // what the upstream really charged
	highest  map[string]budget.Micro         // the highest ceiling that a budget has had
	gateways []*gateway
	counts   struct{ calls, granted, refused, away, kills, restarts, aborted, moved, stepped int64 }

	stop context.CancelFunc
	done sync.WaitGroup
}

// gateway is one gateway's treasury, and its calls under way.
type gateway struct {
	w    *world
	name string
	dir  string
	skew time.Duration
	mark clickhouse.Spool // that its spool has given
	log  *slog.Logger

	mu       sync.Mutex
	treasury *Treasury // nil: killed
	stop     context.CancelFunc
	ended    chan struct{}
	calls    []*call
	lost     bool // it was killed with calls under way
}

type call struct {
	id    string
	of    budget.Call
	most  budget.Micro
	began time.Time // by its gateway's clock
}

// longest is how long a call may take by the clock of its gateway.
const longest = 10 * time.Minute

// covers reports whether the call's promise is of the counters at the instant.
func (w *world) covers(c *call, at time.Time) bool {
	return slices.Equal(w.counters(c.of, at), w.counters(c.of, c.began)) || !at.Before(c.began) && at.Sub(c.began) <= longest
}

// midnight is one at which budgets of days begin anew in New York: near enough for Redis to keep their counters, and far
// enough for no clock here to be in what the journal forgets.
func midnight() time.Time {
	w := budget.Budget{Period: budget.Day, TimeZone: "America/New_York"}.Window(time.Now().Add(6 * time.Hour))
	return w.To
}

func newWorld(t *testing.T, on tester, s *server, budgets []budget.Budget, gateways int, ttl time.Duration) *world {
	w := &world{
		t: on, log: t, server: s, ttl: ttl, owed: map[budget.Counter]budget.Micro{}, highest: map[string]budget.Micro{},
		client: redis.Open(redis.Options{Addr: s.addr, Logger: slog.New(slog.DiscardHandler)}),
	}
	w.clock.Store(midnight().Add(-3 * time.Hour).UnixNano())
	w.setBudgets(budgets)
	for i := range gateways {
		dir, err := os.MkdirTemp("", "treasury-*")
		require.NoError(on, err)
		g := &gateway{w: w, name: fmt.Sprintf("gw%d", i), dir: dir, log: slog.New(slog.DiscardHandler)}
		w.gateways = append(w.gateways, g)
	}
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.done.Add(1)
	go func() { defer w.done.Done(); w.work(ctx) }()
	for _, g := range w.gateways {
		g.start()
	}
	return w
}

func (w *world) close() {
	for _, g := range w.gateways {
		g.kill(nil)
		_ = os.RemoveAll(g.dir)
	}
	w.stop()
	w.done.Wait()
	_ = w.client.Close()
}

func (w *world) now() time.Time { return time.Unix(0, w.clock.Load()).UTC() }

// pass has time pass.
func (w *world) pass(step time.Duration) {
	w.looking.Lock()
	defer w.looking.Unlock()
	w.clock.Add(int64(step))
}

// set sets the gateway's clock.
func (g *gateway) set(skew time.Duration) {
	g.w.looking.Lock()
	defer g.w.looking.Unlock()
	g.skew = skew
}

func (w *world) setBudgets(list []budget.Budget) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range list {
		w.highest[b.ID] = max(w.highest[b.ID], b.Ceiling)
	}
	w.budgets.Store(&list)
}

// work is the worker: it opens the tenant's budgets and reconciles them with the ledger, over and over.
func (w *world) work(ctx context.Context) {
	for ctx.Err() == nil {
		w.reconcile(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(15 * time.Millisecond):
		}
	}
}

// reconcile looks at what the ledger has of each process: up to the end of the last whole minute of its clock, and all from
// before that was set back.
func (w *world) reconcile(ctx context.Context) {
	w.looking.Lock()
	defer w.looking.Unlock()
	b, err := w.client.Budgets(ctx)
	if err != nil {
		return
	}
	if _, err := b.Reopen(ctx, tenant, 2*w.ttl); err != nil {
		return
	}
	w.mu.Lock()
	spools, all, settled := map[string]clickhouse.Spool{}, map[string]bool{}, []string{}
	for _, g := range w.gateways {
		mark := g.now()
		all[g.name] = mark.Before(g.mark.Last)
		if g.mark.Last = mark; mark.After(g.mark.Highest) {
			g.mark.Highest = mark
		}
		spools[g.name] = g.mark
	}
	cut := cutOff(spools, w.now())
	upTo, earlier := minutesUpTo(spools, cut)
	sums := map[budget.Counter]budget.Micro{}
	for c := range w.owed {
		sums[c] = 0
	}
	for i := range w.ledger {
		e := &w.ledger[i]
		e.there = e.there || all[e.process] || e.accepted.Before(spools[e.process].Last.Truncate(time.Minute))
		if !e.there || !e.accepted.Before(cut) {
			continue
		}
		settled = append(settled, e.id, e.id+anew, e.id+anew+anew)
		for _, c := range e.counters {
			sums[c] += e.cost
		}
	}
	at := time.Now()
	w.mu.Unlock()
	for c, sum := range sums {
		if err := b.Reconcile(ctx, tenant, redis.Ledger{At: at, Counter: c, Spent: sum, UpTo: upTo, Earlier: earlier, Settled: settled}); err != nil {
			return
		}
	}
}

func (g *gateway) now() time.Time { return g.w.now().Add(g.skew) }

func (g *gateway) start() {
	g.open()
	g.recover()
}

// open is start before the calls of the run before are settled.
func (g *gateway) open() {
	t, err := Open(Options{
		Dir: filepath.Join(g.dir, "journal"), Process: g.name, Redis: g.w.client, Logger: g.log, Now: g.now, TTL: g.w.ttl,
		Budgets:  func(string) ([]budget.Budget, bool) { return *g.w.budgets.Load(), true },
		Away:     func(string) Away { return Away{Closed: true} },
		Patience: 2 * time.Second, Longest: longest,
	})
	require.NoError(g.w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	g.mu.Lock()
	g.treasury, g.stop, g.ended, g.lost = t, stop, make(chan struct{}), false
	g.mu.Unlock()
	go func(ended chan struct{}) { defer close(ended); _ = t.Run(ctx) }(g.ended)
}

func (g *gateway) recover() {
	for _, s := range g.treasury.Recovered() { // at its worst: nobody knows better
		g.settle(&call{id: s.TraceID + "/" + s.SpanID, of: budget.Call{Tenant: tenant, Session: s.SessionID, Key: s.Tags["virtual_key"]}}, budget.Micro(s.Tokens.Output), s.Timestamp)
	}
}

// deafen has nothing that is settled from now on reach Redis, as if the gateway were killed right after.
func (g *gateway) deafen() {
	g.treasury.killed.Store(true)
	g.stop()
	<-g.ended
}

// kill ends the gateway as kill -9 does: nothing is told, nothing is given back. Its calls go on at the upstream for a
// while; spends says what each came to. Nobody knows when they end: they count in the windows of their promise.
func (g *gateway) kill(spends func(*call) budget.Micro) {
	g.mu.Lock()
	t, calls := g.treasury, g.calls
	g.treasury, g.calls = nil, nil
	g.mu.Unlock()
	if t == nil {
		return
	}
	g.lost = g.lost || len(calls) > 0
	t.killed.Store(true)
	g.stop()
	<-g.ended
	require.NoError(g.w.t, t.Close()) // what the kernel does for it
	for _, c := range calls {
		if spends != nil {
			g.owe(c, spends(c), c.began)
		}
	}
}

// counters of the call at the gateway's time.
func (w *world) counters(of budget.Call, at time.Time) (list []budget.Counter) {
	for _, b := range *w.budgets.Load() {
		if c, ok := b.Counter(of, at); ok {
			list = append(list, c)
		}
	}
	return list
}

// owe is what the upstream charges for a call that ended at the time.
func (g *gateway) owe(c *call, cost budget.Micro, ended time.Time) {
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	for _, counter := range g.w.counters(c.of, ended) {
		g.w.owed[counter] += cost
		require.LessOrEqual(g.w.t, g.w.owed[counter], g.w.highest[counter.Budget], "overshoot of %v", counter)
	}
}

// hold asks for a promise.
func (g *gateway) hold(of budget.Call, most budget.Micro) *call {
	g.mu.Lock()
	t := g.treasury
	g.mu.Unlock()
	trace := strconv.FormatUint(rand.Uint64(), 16)
	c := &call{id: trace + "/1", of: of, most: most, began: g.now()}
	span := usage.Span{TraceID: trace, SpanID: "1", TenantID: tenant, SessionID: of.Session, Model: "m", Timestamp: c.began, Tokens: usage.Tokens{Output: int64(most)}, Tags: map[string]string{"virtual_key": of.Key}}
	_, err := t.Hold(context.Background(), Call{ID: c.id, Of: of, Span: span, Most: most})
	g.w.mu.Lock()
	defer g.w.mu.Unlock()
	g.w.counts.calls++
	if err != nil {
		var refusal *Refusal
		require.ErrorAs(g.w.t, err, &refusal)
		if g.w.counts.refused++; refusal.Away {
			g.w.counts.away++
		}
		return nil
	}
	g.w.counts.granted++
	return c
}

// begin is hold, remembered as under way.
func (g *gateway) begin(of budget.Call, most budget.Micro) *call {
	c := g.hold(of, most)
	if c != nil {
		g.mu.Lock()
		g.calls = append(g.calls, c)
		g.mu.Unlock()
	}
	return c
}

func (g *gateway) beginIfAlive(of budget.Call, most budget.Micro) {
	if g.treasury != nil {
		g.begin(of, most)
	}
}

// asked reports whether the gateway's budgets can be asked, Redis knowing all that it holds.
func (g *gateway) asked() bool {
	b := g.treasury.ask(g.treasury.account(tenant))
	if b == nil || g.treasury.unsettled() {
		return false
	}
	_, open, err := b.Read(context.Background(), tenant, nil)
	return err == nil && open
}

// settleDown waits until the gateway's budgets can be asked.
func (g *gateway) settleDown() {
	for deadline := time.Now().Add(patience); !g.asked(); time.Sleep(5 * time.Millisecond) {
		require.True(g.w.t, time.Now().Before(deadline), "budgets cannot be asked")
	}
}

// settle reports the cost of a call that ended at the time to the ledger, then to the treasury.
func (g *gateway) settle(c *call, cost budget.Micro, ended time.Time) {
	w := g.w
	w.mu.Lock()
	at := g.now()
	counters := w.counters(c.of, ended)
	for _, counter := range counters {
		w.owed[counter] += 0 // to be reconciled
	}
	w.ledger = append(w.ledger, entry{g.name, at, counters, cost, c.id, false})
	w.mu.Unlock()
	g.mu.Lock()
	t := g.treasury
	g.mu.Unlock()
	if t != nil {
		t.Settle(c.id, usage.PicoUSD(cost)*1_000_000, at)
	}
}

// finish ends the gateway's i-th call: the upstream charges cost, the gateway reports reported.
func (g *gateway) finish(i int, cost, reported budget.Micro) {
	g.mu.Lock()
	c := g.calls[i]
	g.calls[i] = g.calls[len(g.calls)-1]
	g.calls = g.calls[:len(g.calls)-1]
	g.mu.Unlock()
	ended := g.now()
	g.owe(c, cost, ended)
	g.settle(c, reported, ended)
}

// quiet ends all calls, has killed gateways come back, and then every counter must give out exactly what is left: a
// refusal would be a phantom.
func (w *world) quiet(sessions, keys []string) {
	for _, g := range w.gateways {
		if g.treasury == nil {
			g.start()
		}
		for len(g.calls) > 0 {
			g.finish(0, g.calls[0].most/2, g.calls[0].most/2)
		}
		g.set(0)
	}
	w.pass(markBehind + 3*time.Minute)
	for _, s := range sessions {
		for _, k := range keys {
			of := budget.Call{Tenant: tenant, Session: s, Key: k, Model: "m"}
			w.drain(of, func() budget.Micro { return w.left(of) })
		}
	}
}

// drain has the first gateway spend all that is left to the call.
func (w *world) drain(of budget.Call, rest func() budget.Micro) {
	g, deadline := w.gateways[0], time.Now().Add(patience)
	for {
		left := rest()
		if left <= 0 {
			return
		}
		if c := g.hold(of, left); c != nil {
			g.owe(c, left, c.began)
			g.settle(c, left, c.began)
			return
		}
		if !time.Now().Before(deadline) {
			w.explain(of)
		}
		require.True(w.t, time.Now().Before(deadline), "a phantom refusal: %d µ$ are left for %v, by the ledger", left, of)
		time.Sleep(20 * time.Millisecond)
	}
}

// explain logs what every counter of the call says, to Redis and to the ledger.
func (w *world) explain(of budget.Call) {
	b, err := w.client.Budgets(context.Background())
	require.NoError(w.t, err)
	counters := w.counters(of, w.now())
	standings, open, err := b.Read(context.Background(), tenant, counters)
	w.log.Logf("open %v, %v", open, err)
	live, _ := b.Live(context.Background(), tenant)
	w.log.Logf("live %+v", live)
	w.mu.Lock()
	for i, c := range counters {
		sum := budget.Micro(0)
		for _, e := range w.ledger {
			for _, k := range e.counters {
				if k == c {
					sum += e.cost
				}
			}
		}
		w.log.Logf("%v: redis %+v, ledger %d", c, standings[i], sum)
	}
	w.mu.Unlock()
	for _, g := range w.gateways {
		w.log.Logf("%s: %+v", g.name, g.treasury.Stats())
	}
}

// left is what the ledger leaves to the call: the least of its budgets.
func (w *world) left(of budget.Call) budget.Micro {
	w.mu.Lock()
	defer w.mu.Unlock()
	at := w.now()
	least := budget.MaxMicro
	for _, b := range *w.budgets.Load() {
		counter, ok := b.Counter(of, at)
		if !ok {
			continue
		}
		left := b.Ceiling
		for _, e := range w.ledger {
			for _, c := range e.counters {
				if c == counter {
					left -= e.cost
				}
			}
		}
		least = min(least, left)
	}
	return least
}

const tenant = "org {1}:x"

func TestMain(m *testing.M) {
	if addr := os.Getenv(gatewayEnv); addr != "" {
		os.Exit(runGateway(addr))
	}
	goleak.VerifyTestMain(m)
}
