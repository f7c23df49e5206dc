package treasury

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// lease is a block of one counter that this gateway has. Its account's lock guards it. It expires by the clock of the
// process, which no setting of the machine's clock moves.
type lease struct {
	budget.Lease
	counter budget.Counter
	ceiling budget.Micro
	taken   budget.Micro // the block, as it was taken
	used    time.Time    // last
	epoch   string       // that knows of it
	lapsed  bool         // Redis has ended it
	renewal sync.Mutex   // one at a time, taken before the account's lock: Redis refuses an older one, which says more
}

// account is one tenant's.
type account struct {
	tenant string

	mu      sync.Mutex
	epoch   string                          // in which Redis knows what this gateway holds
	closed  time.Time                       // until then Redis is not asked: the counters are being rebuilt
	leases  map[string]*lease               // by id
	left    map[budget.Counter]budget.Micro // of the counter, as Redis said last
	untold  map[told]bool                   // totals that Redis has not been told
	allowed budget.Micro                    // promised while Redis could not be asked, and not told yet
	asking  map[budget.Counter]chan struct{}
}

// told is a total that Redis is to be told.
type told struct {
	counter budget.Counter
	minute  int64
}

func newAccount(tenant string) *account {
	return &account{
		tenant: tenant, leases: map[string]*lease{}, left: map[budget.Counter]budget.Micro{}, untold: map[told]bool{},
		asking: map[budget.Counter]chan struct{}{},
	}
}

// allow promises an amount that Redis knows nothing of, within what the policy allows.
func (a *account) allow(amount budget.Micro, policy Away) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if policy.Closed || a.allowed+amount > policy.Allowance {
		return false
	}
	a.allowed += amount
	return true
}

// refillAt is the part of a block of which a new one is taken in the background.
const refillAt = 4

// takeFrom takes the amount from a lease that has it, and reports whether the leases run low.
func (a *account) takeFrom(p *promise, w *want) (taken, low bool) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leases {
		if l.counter == w.Counter && !l.lapsed && l.Take(p.most, now) {
			l.used = now
			w.Lease = l.ID
			p.parts = append(p.parts, w.part)
			return true, l.Left < l.taken/refillAt
		}
	}
	return false, true
}

// takeLease takes the promise's amount from a lease, and a new lease where there is none that has it. It reports false
// where no block is given out any more, and the counter has to be asked for by itself.
func (t *Treasury) takeLease(ctx context.Context, p *promise, w *want) (bool, error) {
	a := p.of
	taken, low := a.takeFrom(p, w)
	if taken {
		if low {
			t.refill(a, w)
		}
		return true, nil
	}
	turn := a.turn(w.Counter)
	ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
	defer cancel()
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return false, errAway
	}
	if taken, _ := a.takeFrom(p, w); taken { // another call has taken one meanwhile
		return true, nil
	}
	if got, err := t.lease(ctx, a, w, p.most); !got || err != nil {
		return false, err
	}
	taken, _ = a.takeFrom(p, w)
	return taken, nil
}

// turn is who may take a lease of the counter now: one at a time.
func (a *account) turn(c budget.Counter) chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	turn := a.asking[c]
	if turn == nil {
		turn = make(chan struct{}, 1)
		a.asking[c] = turn
	}
	return turn
}

// refill takes the next block before the last is used up, unless somebody does already.
func (t *Treasury) refill(a *account, w *want) {
	turn := a.turn(w.Counter)
	select {
	case turn <- struct{}{}:
	default:
		return
	}
	wanted := *w
	begun := t.clerk.aside(func(ctx context.Context) {
		defer func() { <-turn }()
		ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
		defer cancel()
		_, _ = t.lease(ctx, a, &wanted, 1) // a call that needs it asks again
	})
	if !begun {
		<-turn
	}
}

// lease takes a block of the counter in Redis, and reports whether it got one.
func (t *Treasury) lease(ctx context.Context, a *account, w *want, need budget.Micro) (bool, error) {
	b := t.ask(a)
	if b == nil {
		return false, errAway
	}
	a.mu.Lock()
	left, known := a.left[w.Counter]
	a.mu.Unlock()
	if !known {
		standings, open, err := b.Read(ctx, a.tenant, []budget.Counter{w.Counter})
		if err == nil && !open {
			err = redis.ErrBudgetsClosed
		}
		if err != nil {
			t.failed(b, a, err)
			return false, errAway
		}
		left = w.Ceiling - standings[0].Spent - standings[0].Held
	}
	for range 2 {
		block := budget.Block(w.Ceiling, w.Ceiling-left, need)
		if block == 0 {
			return false, nil
		}
		l := &lease{Lease: budget.Lease{ID: fmt.Sprintf(leasePrefix+"%s/%d", t.run, t.leases.Add(1)), Left: block}, counter: w.Counter, ceiling: w.Ceiling, taken: block, used: time.Now(), epoch: b.Epoch()}
		l.Expires = time.Now().Add(t.o.TTL)
		plain := w.part
		plain.Lease = ""
		if err := t.journal.write(journalRecord{Kind: recordLease, Run: t.run, ID: l.ID, Tenant: a.tenant, Amount: block, Parts: []part{plain}}); err != nil {
			return false, err
		}
		grant, err := b.Hold(ctx, a.tenant, redis.Hold{ID: l.ID, Amount: block, TTL: t.o.TTL, Limits: []redis.Limit{{Counter: w.Counter, Ceiling: w.Ceiling}}})
		if err != nil {
			t.doubt(a, l.ID, []budget.Counter{l.counter})
			t.failed(b, a, err)
			return false, errAway
		}
		left = grant.Left[0]
		a.mu.Lock()
		a.left[w.Counter] = left
		stale := a.epoch != b.Epoch() // Redis was restarted after it granted this: what it has now knows nothing of it
		if grant.Granted && !stale {
			a.leases[l.ID] = l
		}
		a.mu.Unlock()
		if grant.Granted && stale {
			t.retire(a, l)
			return false, errAway
		}
		if grant.Granted {
			return true, nil
		}
		if err := t.journal.write(journalRecord{Kind: recordEnd, ID: l.ID}); err != nil {
			return false, err
		}
	}
	return false, nil
}

// retire ends a lease that nothing is promised of.
func (t *Treasury) retire(a *account, l *lease) {
	id := l.ID
	t.clerk.add(&task{of: a, holds: []string{id}, counters: []budget.Counter{l.counter}, done: func() {
		_ = t.journal.write(journalRecord{Kind: recordEnd, ID: id}) // read once more after a restart, and ended again
	}})
}

// shrink gives back at once what this gateway's leases of the counter have and have not promised, and reports whether
// that was anything.
func (t *Treasury) shrink(ctx context.Context, b *redis.Budgets, a *account, c budget.Counter) bool {
	a.mu.Lock()
	var some []*lease
	for _, l := range a.leases {
		if l.counter == c && l.Left > 0 && !l.lapsed {
			l.Left = 0
			some = append(some, l)
		}
	}
	a.mu.Unlock()
	for _, l := range some {
		if err := t.renew(ctx, b, a, l); err != nil {
			t.failed(b, a, err)
			return false
		}
	}
	return len(some) > 0
}

// renew tells Redis what a lease still holds, and what was spent of its counter.
func (t *Treasury) renew(ctx context.Context, b *redis.Budgets, a *account, l *lease) error {
	l.renewal.Lock()
	defer l.renewal.Unlock()
	a.mu.Lock()
	list, told := t.telling(a, l.counter)
	held, from := l.Held(), time.Now()
	a.mu.Unlock()
	alive, err := b.Renew(ctx, a.tenant, l.ID, held, t.o.TTL, told)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard(t, list, told)
	if alive {
		l.Expires = from.Add(t.o.TTL)
	} else {
		l.lapsed, l.Left = true, 0
	}
	return nil
}

// telling are the totals of a counter that Redis has not been told. a.mu is held.
func (t *Treasury) telling(a *account, only ...budget.Counter) (list []told, totals []redis.Told) {
	for k := range a.untold {
		for _, c := range only {
			if c == k.counter {
				list = append(list, k)
				totals = append(totals, redis.Told{
					Counter: k.counter, Process: t.run, Minute: time.Unix(k.minute, 0).UTC(),
					Total: t.journal.total(toldKey{t.run, a.tenant, k.counter, k.minute}),
				})
			}
		}
	}
	return list, totals
}

// heard notes what Redis has been told, unless there is more by now. a.mu is held.
func (a *account) heard(t *Treasury, list []told, totals []redis.Told) {
	for i, k := range list {
		if t.journal.total(toldKey{t.run, a.tenant, k.counter, k.minute}) == totals[i].Total {
			delete(a.untold, k)
		}
	}
}
