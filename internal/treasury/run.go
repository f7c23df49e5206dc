package treasury

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// The pace of Run, besides Options.TTL: how often a Redis that is away is asked whether it is back, and how long the
// end of Run may take to tell it the last.
const (
	probeEvery  = 200 * time.Millisecond
	flushWithin = 2 * time.Second
)

// Run renews leases, tells what was spent, and watches Redis's epoch, until ctx ends, which is not an error. What Redis
// can be told within two seconds then, it is told.
func (t *Treasury) Run(ctx context.Context) error {
	var group errgroup.Group
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	for range clerks {
		group.Go(func() error { t.clerk.work(working); return nil })
	}
	t.tend(ctx)
	renew, probe := time.NewTicker(t.o.TTL/4), time.NewTicker(probeEvery)
	defer renew.Stop()
	defer probe.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-renew.C:
			t.tend(ctx)
		case <-t.kick:
			t.tend(ctx)
		case <-probe.C:
			if t.counters.Load() == nil || t.unsettled() {
				t.tend(ctx)
			}
		}
	}
	if !t.killed.Load() {
		last, cancel := context.WithTimeout(working, flushWithin)
		t.flush(last)
		cancel()
	}
	stop()
	return group.Wait()
}

// unsettled reports whether an account waits to be known to Redis's epoch, or a dead run's affairs to be in order.
func (t *Treasury) unsettled() bool {
	b := t.counters.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.dead) > 0 {
		return true
	}
	now := time.Now()
	for _, a := range t.accounts {
		a.mu.Lock()
		strange := b != nil && a.epoch != "" && a.epoch != b.Epoch()
		a.mu.Unlock()
		if strange {
			return true
		}
	}
	for _, p := range t.open {
		p.of.mu.Lock()
		away := p.away
		p.of.mu.Unlock()
		if away || !p.expires.IsZero() && now.After(p.expires) {
			return true
		}
	}
	return false
}

// flush gives back what nothing is promised of, and tells the rest.
func (t *Treasury) flush(ctx context.Context) {
	b := t.counters.Load()
	if b == nil {
		return
	}
	for _, a := range t.all() {
		a.mu.Lock()
		for _, l := range a.leases {
			l.Left = 0
		}
		a.mu.Unlock()
		if err := t.tendLeases(ctx, b, a); err != nil {
			return
		}
	}
	for ctx.Err() == nil && t.clerk.waiting() > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (t *Treasury) all() []*account {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*account, 0, len(t.accounts))
	for _, a := range t.accounts {
		list = append(list, a)
	}
	return list
}

// tend does all that is due: it finds Redis and its epoch, puts a dead run's affairs in order, makes what this gateway
// holds known, and renews it.
func (t *Treasury) tend(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, t.o.Patience)
	b, err := t.o.Redis.Budgets(asking)
	cancel()
	if err != nil {
		if t.counters.Swap(nil) != nil && ctx.Err() == nil {
			t.o.Logger.Warn("Budgets cannot be asked; what leases hold and the policy allows goes on", "error", err)
		}
		return
	}
	if before := t.counters.Swap(b); before == nil {
		t.o.Logger.Info("Budgets can be asked")
	}
	defer t.clerk.wake()
	t.resolve()
	if err := t.bury(ctx, b); err != nil {
		t.note(err)
		return
	}
	for _, a := range t.all() {
		a.mu.Lock()
		strange := a.epoch != "" && a.epoch != b.Epoch()
		a.mu.Unlock()
		if strange {
			err = t.reassert(ctx, b, a)
		}
		if err == nil {
			err = t.tendPromises(ctx, b, a)
		}
		if err == nil {
			err = t.tendLeases(ctx, b, a)
		}
		if err != nil {
			t.note(err)
		}
	}
}

// note logs what the next look tries again.
func (t *Treasury) note(err error) {
	if !errors.Is(err, redis.ErrBudgetsClosed) && !errors.Is(err, context.Canceled) {
		t.o.Logger.Warn("Budgets could not be kept up; they are tried again", "error", err)
	}
}

// tendLeases renews the account's leases, and gives back those that are not used.
func (t *Treasury) tendLeases(ctx context.Context, b *redis.Budgets, a *account) error {
	a.mu.Lock()
	var keep []*lease
	for id, l := range a.leases {
		idle := time.Since(l.used) > t.o.TTL/2
		if l.Open == 0 && (l.lapsed || l.Left == 0 || idle) {
			l.Left = 0
			delete(a.leases, id)
			t.retire(a, l)
			continue
		}
		keep = append(keep, l)
	}
	a.mu.Unlock()
	for _, l := range keep {
		if err := t.renew(ctx, b, a, l); err != nil {
			return err
		}
	}
	return nil
}

// promises are the account's that are open.
func (t *Treasury) promises(a *account) (list []*promise) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		if p.of == a {
			list = append(list, p)
		}
	}
	return list
}

// tendPromises renews the holds of calls that take long, has held what was promised while Redis was away, and ends
// promises whose time is over.
func (t *Treasury) tendPromises(ctx context.Context, b *redis.Budgets, a *account) error {
	for _, p := range t.promises(a) {
		t.learn(p)
		a.mu.Lock()
		away, holds, due := p.away, slices.Clone(p.holds), time.Since(p.renewed) >= t.o.TTL/4
		all, own := slices.Clone(p.parts), own(p.parts)
		over := !p.expires.IsZero() && time.Now().After(p.expires)
		a.mu.Unlock()
		var err error
		switch {
		case over:
			err = t.expire(ctx, b, p)
		case away && len(all) > 0:
			err = t.holdAnew(ctx, b, p, own)
		case due:
			for _, id := range holds {
				if _, err = b.Renew(ctx, a.tenant, id, p.most, t.o.TTL, nil); err != nil {
					break
				}
			}
			a.mu.Lock()
			p.renewed = time.Now()
			a.mu.Unlock()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// anew marks a hold that is made for a promise after it was made.
const anew = "#"

// holdAnew holds parts of a promise that was made already, whatever the counters have left.
func (t *Treasury) holdAnew(ctx context.Context, b *redis.Budgets, p *promise, parts []part) error {
	return t.holdAs(ctx, b, p, p.id+anew, parts)
}

func (t *Treasury) holdAs(ctx context.Context, b *redis.Budgets, p *promise, id string, parts []part) error {
	if len(parts) == 0 {
		return nil
	}
	h := redis.Hold{ID: id, Amount: p.most, TTL: t.o.TTL}
	for _, part := range parts {
		h.Limits = append(h.Limits, redis.Limit{Counter: part.Counter, Ceiling: part.Ceiling})
	}
	p.of.mu.Lock()
	p.asking = true
	if !slices.Contains(p.holds, h.ID) {
		p.holds = append(p.holds, h.ID)
	}
	p.of.mu.Unlock()
	_, err := b.Reassert(ctx, p.of.tenant, h)
	p.of.mu.Lock()
	p.asking = false
	if err == nil {
		if p.away {
			p.away = false
			p.of.allowed -= p.most
		}
		p.renewed, p.epoch = time.Now(), b.Epoch()
	}
	p.of.mu.Unlock()
	if err == nil {
		p.of.knows(b)
	}
	if t.find(p.id) == nil { // it was settled meanwhile, and perhaps told before it was held
		t.resettle(p, err)
	}
	return err
}

// resettle tells Redis once more that a promise is settled: now, or when nothing that it was asked can be under way any
// longer.
func (t *Treasury) resettle(p *promise, lost error) {
	p.of.mu.Lock()
	last := t.settling(p)
	p.of.mu.Unlock()
	if lost == nil {
		t.clerk.add(last)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubts = append(t.doubts, doubt{last, time.Now().Add(t.o.TTL)})
}

// own are the parts that no lease has.
func own(parts []part) (list []part) {
	for _, part := range parts {
		if part.Lease == "" {
			list = append(list, part)
		}
	}
	return list
}

// knows notes that something of the account is in the epoch now, unless it is in another already.
func (a *account) knows(b *redis.Budgets) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch == "" {
		a.epoch = b.Epoch()
	}
}

// expire ends a promise that nobody has settled: all of it counts as spent, until the ledger has its trace. What it has
// of leases becomes a hold of its own first, for what a lease has spent is told, and confirmed by the ledger with the
// minute.
func (t *Treasury) expire(ctx context.Context, b *redis.Budgets, p *promise) error {
	a := p.of
	a.mu.Lock()
	mine, leased, away := own(p.parts), slices.Clone(p.parts), p.away
	a.mu.Unlock()
	leased = slices.DeleteFunc(leased, func(part part) bool { return part.Lease == "" })
	if away {
		if err := t.holdAnew(ctx, b, p, mine); err != nil {
			return err
		}
	}
	if err := t.holdAs(ctx, b, p, p.id+anew+anew, leased); err != nil {
		return err
	}
	t.mu.Lock()
	settled := t.open[p.id] != p
	if !settled {
		delete(t.open, p.id)
	}
	t.mu.Unlock()
	if settled { // meanwhile
		return nil
	}
	t.stats.expired.Add(1)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range leased {
		if l := a.leases[part.Lease]; l != nil {
			l.Settle(p.most, p.most) // its own hold has it now
		}
	}
	if p.away { // of budgets that nobody knows
		p.away = false
		a.allowed -= p.most
	}
	for _, id := range p.holds {
		t.clerk.add(&task{of: a, holds: []string{id}, lapse: true})
	}
	return t.journal.write(journalRecord{Kind: recordEnd, ID: p.id})
}

// reassert makes known to an epoch of Redis what this gateway holds and has spent. Leases shrink to what is promised
// of them.
func (t *Treasury) reassert(ctx context.Context, b *redis.Budgets, a *account) error {
	a.mu.Lock()
	clear(a.left)
	a.mu.Unlock()
	if err := t.tellAll(ctx, b, a.tenant); err != nil {
		return err
	}
	for {
		leases, promises := t.strangers(b, a)
		if len(leases)+len(promises) == 0 {
			return nil
		}
		for _, l := range leases {
			a.mu.Lock()
			l.Left = 0 // calls that were settled meanwhile have left something, which is not held
			open, from := l.Open, time.Now()
			a.mu.Unlock()
			if _, err := b.Reassert(ctx, a.tenant, redis.Hold{ID: l.ID, Amount: open, TTL: t.o.TTL, Limits: []redis.Limit{{Counter: l.counter, Ceiling: l.ceiling}}}); err != nil {
				return err
			}
			a.mu.Lock()
			l.lapsed, l.Expires, l.epoch = false, from.Add(t.o.TTL), b.Epoch()
			a.mu.Unlock()
		}
		for _, p := range promises {
			a.mu.Lock()
			own := own(p.parts)
			a.mu.Unlock()
			if err := t.holdAnew(ctx, b, p, own); err != nil {
				return err
			}
		}
	}
}

// strangers are the account's leases and own holds that the epoch does not know. Where there are none, the account is
// known to it from now on.
func (t *Treasury) strangers(b *redis.Budgets, a *account) (leases []*lease, promises []*promise) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leases {
		if l.epoch == b.Epoch() {
			continue
		}
		if l.Left = 0; l.Open > 0 {
			leases = append(leases, l)
		} else {
			l.lapsed, l.epoch = true, b.Epoch()
		}
	}
	for _, p := range t.open {
		if p.of == a && p.epoch != "" && p.epoch != b.Epoch() && len(own(p.parts)) > 0 {
			promises = append(promises, p)
		}
	}
	if len(leases)+len(promises) == 0 {
		a.epoch, a.closed = b.Epoch(), time.Time{}
	}
	return leases, promises
}

// tellAll tells all totals that are remembered of a tenant, of whatever run.
func (t *Treasury) tellAll(ctx context.Context, b *redis.Budgets, tenant string) error {
	return b.Settle(ctx, tenant, "none", nil, t.journal.all(tenant))
}

// all are the totals of a tenant that are remembered.
func (j *journal) all(tenant string) (list []redis.Told) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, total := range j.state.told {
		if k.tenant == tenant {
			list = append(list, redis.Told{Counter: k.counter, Process: k.run, Minute: time.Unix(k.minute, 0).UTC(), Total: total})
		}
	}
	return list
}

// clerks are how many tell Redis at once.
const clerks = 4

// task is something to tell Redis until it has heard it.
type task struct {
	of       *account
	holds    []string // that end
	counters []budget.Counter
	lapse    bool // they end as their time would end them: spent until the ledger knows
	done     func()
}

// clerk tells Redis what nobody waits for.
type clerk struct {
	t *Treasury

	mu     sync.Mutex
	queue  []*task
	active int
	signal chan struct{}
	jobs   chan func(context.Context)
}

func newClerk(t *Treasury) *clerk {
	return &clerk{t: t, signal: make(chan struct{}, clerks), jobs: make(chan func(context.Context), 64)}
}

func (c *clerk) add(tasks ...*task) {
	c.mu.Lock()
	c.queue = append(c.queue, tasks...)
	c.mu.Unlock()
	c.wake()
}

func (c *clerk) wake() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// waiting is how much Redis has not heard yet.
func (c *clerk) waiting() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.queue) + c.active)
}

// aside has something done that takes a while; false: there is too much of it already.
func (c *clerk) aside(job func(context.Context)) bool {
	select {
	case c.jobs <- job:
		return true
	default:
		return false
	}
}

func (c *clerk) next() *task {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.queue) == 0 || c.t.counters.Load() == nil {
		return nil
	}
	first := c.queue[0]
	c.queue[0] = nil
	c.queue = c.queue[1:]
	c.active++
	return first
}

func (c *clerk) over(again *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.active--
	if again != nil {
		c.queue = append(c.queue, again)
	}
}

// work does what there is to do until ctx ends.
func (c *clerk) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-c.jobs:
			job(ctx)
			continue
		case <-c.signal:
		}
		for next := c.next(); next != nil; next = c.next() {
			if c.t.do(ctx, next) {
				c.over(nil)
				continue
			}
			c.over(next)
			break
		}
	}
}

// do tells Redis that the task's holds have ended, and what was spent of its counters.
func (t *Treasury) do(ctx context.Context, k *task) bool {
	b := t.counters.Load()
	if b == nil {
		return false
	}
	a := k.of
	a.mu.Lock()
	list, totals := t.telling(a, k.counters...)
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
	defer cancel()
	for _, id := range k.holds {
		end := func() error { return b.Settle(ctx, a.tenant, id, k.counters, totals) }
		if k.lapse {
			end = func() error { return b.Lapse(ctx, a.tenant, id) }
		}
		if err := end(); err != nil {
			t.failed(b, a, err)
			return false
		}
	}
	a.mu.Lock()
	a.heard(t, list, totals)
	a.mu.Unlock()
	if k.done != nil {
		k.done()
	}
	return true
}
