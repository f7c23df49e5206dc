package treasury

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// A gateway of its own process is this test binary, run with gatewayEnv set to Redis's address. It makes gatewayCalls
// calls at once until its standard input says "over", and stays until that ends; "step <minutes>" sets its clock. Its
// part of the truth is in a file, a line for each thing, written before the next is done: a kill loses nothing of it.
//
//	owed <µ$> <when> <session> <key>            the upstream charges so much, whatever becomes of the gateway
//	spent <µ$> <when> <session> <key> <trace>   telemetry, durable: what the ledger has
//	heard <when>                                all telemetry before that is in the file
//	begun, promised, refused, aborted, recovered, quiet   counts
const (
	gatewayEnv   = "FLYBALL_TEST_GATEWAY"
	gatewayCalls = 250
	processTTL   = time.Second
	fast         = 60 // a minute of the budgets' clock is a second
)

// soaking is by how much the long form is longer.
func soaking() int {
	if os.Getenv("FLYBALL_SOAK") != "" {
		return 10
	}
	return 1
}

func processBudgets() []budget.Budget {
	by := budget.Micro(soaking())
	return nested(24_000_000*by, 5_000_000*by, 1_500_000*by)
}

// fastClock is one clock for all processes: from the machine's instant on it runs from a morning at which no window
// ends for hours.
func fastClock(from int64, morning time.Time) func() time.Time {
	return func() time.Time { return morning.Add(fast * time.Since(time.Unix(0, from))).UTC() }
}

// child is such a gateway, in its own process.
type child struct {
	t     *Treasury
	clock func() time.Time
	skew  atomic.Int64 // by which this gateway's clock is wrong
	file  *os.File
	spool sync.RWMutex // read while a span is made durable: what is heard is whole
}

func (c *child) now() time.Time { return c.clock().Add(time.Duration(c.skew.Load())) }

func (c *child) line(format string, args ...any) {
	if _, err := fmt.Fprintf(c.file, format+"\n", args...); err != nil {
		panic(err)
	}
}

func runGateway(addr string) int {
	dir := os.Getenv(gatewayEnv + "_DIR")
	var from, morning, skew int64
	if _, err := fmt.Sscan(os.Getenv(gatewayEnv+"_CLOCK"), &from, &morning, &skew); err != nil {
		panic(err)
	}
	c := &child{clock: fastClock(from, time.Unix(0, morning))}
	c.skew.Store(skew)
	var err error
	if c.file, err = os.OpenFile(dir+".truth", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		panic(err)
	}
	list := processBudgets()
	c.t, err = Open(Options{
		Dir: dir, Process: filepath.Base(dir), Redis: redis.Open(redis.Options{Addr: addr, Logger: slog.New(slog.DiscardHandler)}),
		Logger: slog.New(slog.DiscardHandler), Now: c.now, TTL: processTTL, Patience: 2 * time.Second,
		Budgets: func(string) ([]budget.Budget, bool) { return list, true },
		Away:    func(string) Away { return Away{Closed: true} },
	})
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running, calling sync.WaitGroup
	running.Go(func() { _ = c.t.Run(ctx) })
	running.Go(func() { c.heard(ctx) })
	for _, s := range c.t.Recovered() {
		c.line("recovered")
		c.settle(s, budget.Micro(s.Tokens.Output)) // at its worst
	}
	c.line("begun")
	var over atomic.Bool
	for range gatewayCalls {
		calling.Go(func() {
			for !over.Load() {
				c.call()
			}
		})
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() && in.Text() != "over" {
		var minutes int64
		if _, err := fmt.Sscanf(in.Text(), "step %d", &minutes); err != nil {
			panic(err)
		}
		c.skew.Add(minutes * int64(time.Minute))
	}
	over.Store(true)
	calling.Wait()
	c.line("quiet")
	_, _ = io.Copy(io.Discard, os.Stdin)
	stop()
	running.Wait()
	return 0
}

// heard says over and over up to when the telemetry is whole.
func (c *child) heard(ctx context.Context) {
	for ctx.Err() == nil {
		c.spool.Lock()
		c.line("heard %d", c.now().UnixNano())
		c.spool.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// call makes one call: promised, charged by the upstream, recorded and settled a while later. What it costs is the
// upstream's from the beginning on: it charges for what it makes though nobody is there any longer. Of a stream that is
// aborted the gateway knows only what it saw, and reports more than that.
func (c *child) call() {
	of := budget.Call{Tenant: tenant}
	if rand.IntN(4) == 0 {
		of.Session, of.Key = "s"+strconv.Itoa(rand.IntN(5)), "k"+strconv.Itoa(rand.IntN(2))
	}
	trace := strconv.FormatUint(rand.Uint64(), 16)
	most := budget.Micro(1 + rand.IntN(10_000))
	span := usage.Span{
		TraceID: trace, SpanID: "1", TenantID: tenant, SessionID: of.Session, Timestamp: c.now(), Tokens: usage.Tokens{Output: int64(most)},
		Tags: map[string]string{usage.TagVirtualKey: of.Key},
	}
	if _, err := c.t.Hold(context.Background(), Call{ID: trace + "/1", Of: of, Span: span, Most: most}); err != nil {
		c.line("refused")
		time.Sleep(time.Duration(1000+rand.IntN(2000)) * time.Millisecond) // the client's patience
		return
	}
	cost := budget.Micro(rand.Int64N(int64(most) + 1))
	c.line("owed %d %d %q %q", cost, span.Timestamp.UnixNano(), of.Session, of.Key)
	c.line("promised")
	time.Sleep(time.Duration(200+rand.IntN(400)) * time.Millisecond) // the upstream's time
	if rand.IntN(8) == 0 {
		c.line("aborted")
		cost += budget.Micro(rand.Int64N(int64(most-cost) + 1))
	}
	span.Timestamp = c.now()
	c.settle(span, cost)
}

func (c *child) settle(s usage.Span, cost budget.Micro) {
	c.spool.RLock()
	durable := c.now()
	c.line("spent %d %d %q %q %s", cost, s.Timestamp.UnixNano(), s.SessionID, s.Tags[usage.TagVirtualKey], s.TraceID)
	c.spool.RUnlock()
	c.t.Settle(s.TraceID+"/"+s.SpanID, usage.PicoUSD(cost)*1_000_000, durable)
}

// truth is what the files of all gateways say: the ledger, and what it is held to.
type truth struct {
	t     *testing.T
	names []string
	read  map[string]int // bytes of each file

	spent, owed []charge
	traces      map[string]int // of spent: a call that is reported twice is one
	spools      map[string]clickhouse.Spool
	counts      map[string]map[string]int
}

type charge struct {
	of    budget.Call
	trace string
	at    time.Time
	cost  budget.Micro
}

// look reads what is new. A line that a kill has cut is none: a file is written line by line.
func (w *truth) look() {
	for _, name := range w.names {
		raw, err := os.ReadFile(name + ".truth")
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(w.t, err)
		raw = raw[w.read[name]:]
		whole := bytes.LastIndexByte(raw, '\n') + 1
		w.read[name] += whole
		for line := range strings.Lines(string(raw[:whole])) {
			w.note(filepath.Base(name), strings.Fields(line))
		}
	}
}

func (w *truth) note(process string, f []string) {
	whole := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		require.NoError(w.t, err)
		return n
	}
	if w.counts[process] == nil {
		w.counts[process] = map[string]int{}
	}
	w.counts[process][f[0]]++
	if f[0] == "heard" {
		w.hear(process, time.Unix(0, whole(f[1])).UTC())
	}
	if f[0] != "owed" && f[0] != "spent" {
		return
	}
	c := charge{of: budget.Call{Tenant: tenant, Session: strings.Trim(f[3], `"`), Key: strings.Trim(f[4], `"`)}, at: time.Unix(0, whole(f[2])).UTC(), cost: budget.Micro(whole(f[1]))}
	if f[0] == "owed" {
		w.owed = append(w.owed, c)
	} else {
		c.trace = f[5]
		w.spend(c)
	}
}

// hear notes up to when a process has said all.
func (w *truth) hear(process string, at time.Time) {
	s := w.spools[process]
	if s.Last = at; at.After(s.Highest) {
		s.Highest = at
	}
	w.spools[process] = s
}

// spend adds a call to the ledger. One that is recovered after it was made durable, and before it was settled, is there
// already: what was said last holds, which is its worst.
func (w *truth) spend(c charge) {
	if i, ok := w.traces[c.trace]; ok {
		w.spent[i] = c
		return
	}
	w.traces[c.trace] = len(w.spent)
	w.spent = append(w.spent, c)
}

// count is how often all gateways have said so.
func (w *truth) count(what string) (n int) {
	for _, c := range w.counts {
		n += c[what]
	}
	return n
}

// left is what the charges leave to a call: the least of its budgets.
func left(list []charge, of budget.Call, at time.Time) budget.Micro {
	all, least := sums(list), budget.MaxMicro
	for _, b := range processBudgets() {
		if c, ok := b.Counter(of, at); ok {
			least = min(least, b.Ceiling-all[c])
		}
	}
	return least
}

// sums of every counter.
func sums(list []charge) map[budget.Counter]budget.Micro {
	all := map[budget.Counter]budget.Micro{}
	for _, c := range list {
		for _, b := range processBudgets() {
			if counter, ok := b.Counter(c.of, c.at); ok {
				all[counter] += c.cost
			}
		}
	}
	return all
}

// Spend, Spools and CallsBefore are the ledger of the reconciler.
func (w *truth) Spend(_ context.Context, q clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	sum := map[string]budget.Micro{}
	for _, c := range w.spent {
		of := map[budget.Per]string{budget.PerSession: c.of.Session, budget.PerKey: c.of.Key}[q.Per]
		if of == "" && q.Per != budget.PerTenant || len(q.Of) > 0 && !slices.Contains(q.Of, of) || c.at.Before(q.From) || !c.at.Before(q.To) {
			continue
		}
		sum[of] += c.cost
	}
	return sum, nil
}

func (w *truth) Spools(context.Context) (map[string]clickhouse.Spool, error) { return w.spools, nil }

func (w *truth) CallsBefore(_ context.Context, _ string, calls []clickhouse.Call, from, to time.Time) (found []clickhouse.Call, _ error) {
	for _, call := range calls {
		if i, ok := w.traces[call.Trace]; ok && !w.spent[i].at.Before(from) && w.spent[i].at.Before(to) {
			found = append(found, call)
		}
	}
	return found, nil
}

// process is a gateway that runs.
type process struct {
	name  string
	dir   string
	env   []string
	clock [3]int64 // when it began, what it showed then, and by how much this one is wrong
	cmd   *exec.Cmd
	in    io.WriteCloser
}

func (p *process) start(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	p.cmd = exec.Command(self)
	p.cmd.Env = append(os.Environ(), append(p.env, gatewayEnv+"_CLOCK="+strings.Trim(fmt.Sprint(p.clock), "[]"))...)
	p.cmd.Stderr = os.Stderr
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
}

func (p *process) say(t *testing.T, format string, args ...any) {
	_, err := fmt.Fprintf(p.in, format+"\n", args...)
	require.NoError(t, err)
}

// kill is SIGKILL.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// fleet is the gateways' processes, their Redis, and the worker that reconciles it with the ledger.
type fleet struct {
	t        *testing.T
	truth    *truth
	server   *server
	client   *redis.Client
	clock    func() time.Time
	gateways []*process
	worker   *Reconciler

	kills, restarts, wipes, rollbacks, steps int
}

func newFleet(t *testing.T, size int) *fleet {
	s := newServer(t)
	dir, from, morning := t.TempDir(), time.Now().UnixNano(), midnight().Add(10*time.Hour)
	f := &fleet{
		t: t, server: s, client: redis.Open(redis.Options{Addr: s.addr, Logger: slog.New(slog.DiscardHandler)}), clock: fastClock(from, morning),
		truth: &truth{t: t, read: map[string]int{}, traces: map[string]int{}, spools: map[string]clickhouse.Spool{}, counts: map[string]map[string]int{}},
	}
	t.Cleanup(func() { _ = f.client.Close() })
	var versions []budget.Version
	for _, b := range processBudgets() {
		versions = append(versions, budget.Version{Budget: b, Revision: 1})
	}
	f.worker = &Reconciler{
		Budgets: func(context.Context) ([]budget.Version, error) { return versions, nil }, Redis: f.client, Ledger: f.truth,
		Logger: slog.New(slog.DiscardHandler), Now: f.clock, Grace: 2 * processTTL,
	}
	for i := range size {
		p := &process{name: fmt.Sprint("gw", i), clock: [3]int64{from, morning.UnixNano(), 0}}
		p.dir = filepath.Join(dir, p.name)
		p.env = []string{gatewayEnv + "=" + s.addr, gatewayEnv + "_DIR=" + p.dir}
		f.truth.names = append(f.truth.names, p.dir)
		f.gateways = append(f.gateways, p)
		p.start(t)
		t.Cleanup(p.kill)
	}
	return f
}

// until reconciles over and over until it is done.
func (f *fleet) until(what string, done func() bool) {
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		f.truth.look()
		err := f.worker.Reconcile(f.t.Context())
		if done() {
			return
		}
		require.True(f.t, time.Now().Before(deadline), "%s: it does not; the last reconciliation: %v", what, err)
	}
}

// goOn waits for calls to be granted, unless there is nothing left to grant.
func (f *fleet) goOn(what string, calls int) {
	before := f.truth.count("promised")
	f.until(what, func() bool {
		return f.truth.count("promised") > before+calls || left(f.truth.spent, budget.Call{Tenant: tenant}, f.clock()) < 2_000_000
	})
}

// strike does one thing after the other to the fleet: kills a gateway, sets a clock, and restarts, wipes or rolls back
// Redis. Redis loses what it has only while every gateway is there to say what it holds: see ADR 15.
func (f *fleet) strike(round int) {
	p := f.gateways[round%len(f.gateways)]
	p.kill()
	f.kills++
	f.goOn("the others go on", 300)
	begun := f.truth.counts[p.name]["begun"]
	p.start(f.t)
	f.until("it is back", func() bool { return f.truth.counts[p.name]["begun"] > begun })
	switch round % 4 {
	case 0: // it comes back with what it had saved, which is old by then
		f.server.do(f.t, "SAVE")
		f.goOn("calls are made that Redis forgets", 300)
		f.server.kill()
		f.server.start(f.t)
		f.rollbacks++
	case 1:
		f.server.do(f.t, "FLUSHALL")
		f.wipes++
	case 2:
		f.server.kill()
		f.server.start(f.t)
		f.restarts++
	case 3: // the last of all: what a killed gateway leaves in Redis stays there unless its successor sees to it
		p.say(f.t, "step 1")
		p.clock[2] += int64(time.Minute)
		f.gateways[(round+1)%len(f.gateways)].say(f.t, "step -3")
		f.steps += 2
	}
	f.goOn("the budgets are rebuilt", 300)
}

// checkNothingIsLost spends all that the ledger leaves to each session and key, to the last micro-dollar: a refusal
// would be a phantom. Then nothing may be left.
func (f *fleet) checkNothingIsLost() {
	log := slog.New(slog.DiscardHandler)
	list := processBudgets()
	last, err := Open(Options{
		Dir: filepath.Join(f.t.TempDir(), "last"), Process: "last", Redis: f.client, Logger: log, Now: f.clock, TTL: processTTL, Patience: 2 * time.Second,
		Budgets: func(string) ([]budget.Budget, bool) { return list, true },
		Away:    func(string) Away { return Away{Closed: true} },
	})
	require.NoError(f.t, err)
	ctx, stop := context.WithCancel(f.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = last.Run(ctx) }()
	defer func() { stop(); <-ended; require.NoError(f.t, last.Close()) }()
	calls := []budget.Call{}
	for i := range 10 {
		calls = append(calls, budget.Call{Tenant: tenant, Session: "s" + strconv.Itoa(i/2), Key: "k" + strconv.Itoa(i%2)})
	}
	for _, of := range append(calls, budget.Call{Tenant: tenant}) {
		rest := left(f.truth.spent, of, f.clock())
		if rest <= 0 {
			continue
		}
		trace := fmt.Sprintf("last %s %s", of.Session, of.Key)
		f.until(fmt.Sprintf("%d µ$ are left to %+v, and can be spent", rest, of), func() bool {
			f.truth.hear("last", f.clock())
			_, err := last.Hold(ctx, Call{ID: trace + "/1", Of: of, Span: usage.Span{TraceID: trace, SpanID: "1"}, Most: rest})
			return err == nil
		})
		at := f.clock()
		spent := charge{of, trace, at, rest}
		f.truth.owed = append(f.truth.owed, spent)
		f.truth.spend(spent)
		last.Settle(trace+"/1", usage.PicoUSD(rest)*1_000_000, at)
	}
	_, err = last.Hold(ctx, Call{ID: "more/1", Of: budget.Call{Tenant: tenant}, Most: 1})
	require.Error(f.t, err, "all is spent")
}

// TestKilledProcessesOverrunNothing has four gateways, each a process of its own, make a thousand calls at once. It
// kills one after the other with SIGKILL while the rest go on, and does to Redis and to clocks what happens to them.
func TestKilledProcessesOverrunNothing(t *testing.T) {
	f := newFleet(t, 4)
	f.goOn("the gateways make calls", 500)
	for round := range 4 * soaking() {
		f.strike(round)
	}
	f.until("the budget runs to its limit", func() bool { return left(f.truth.spent, budget.Call{Tenant: tenant}, f.clock()) < 50_000 })
	for _, p := range f.gateways {
		p.say(t, "over")
	}
	f.until("all calls have ended", func() bool { return f.truth.count("quiet") == len(f.gateways) })
	var overshoot budget.Micro
	check := func() {
		owed, spent := sums(f.truth.owed), sums(f.truth.spent)
		for c, sum := range owed {
			for _, b := range processBudgets() {
				if b.ID == c.Budget {
					overshoot = max(overshoot, sum-b.Ceiling)
				}
			}
			require.GreaterOrEqual(t, spent[c], sum, "the ledger has all that is owed of %v", c)
		}
	}
	check()
	f.checkNothingIsLost()
	check()
	n := f.truth.count
	t.Logf("calls %d, granted %d, refused %d, aborted %d, recovered %d; gateways killed %d; Redis restarted %d, wiped %d, rolled back %d times; clocks set %d; overshoot %d µ$, phantom refusals 0",
		n("promised")+n("refused"), n("promised"), n("refused"), n("aborted"), n("recovered"), f.kills, f.restarts, f.wipes, f.rollbacks, f.steps, overshoot)
	require.Zero(t, overshoot)
	for _, p := range f.gateways {
		require.NoError(t, p.in.Close())
		require.NoError(t, p.cmd.Wait())
	}
}
