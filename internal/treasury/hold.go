package treasury

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// promise is one that is not settled. Its account's lock guards it.
type promise struct {
	id      string
	of      *account
	most    budget.Micro
	parts   []part
	holds   []string  // its own in Redis
	away    bool      // Redis knows nothing of it
	expires time.Time // zero: never
	renewed time.Time // its holds were
}

// want is one counter that a call needs a promise of.
type want struct {
	part
	budget budget.Budget
	next   bool // of the window after this one
}

// errAway says that Redis cannot be asked.
var errAway = errors.New("redis cannot be asked for budgets")

// Hold promises the call's worst cost of every budget that it belongs to, or of none: the error is a *Refusal then.
// It asks Redis only where a lease does not do, and for no longer than Options.Patience.
func (t *Treasury) Hold(ctx context.Context, c Call) (Promise, error) {
	answer := Promise{ID: c.ID, Most: c.Most}
	if p := t.find(c.ID); p != nil {
		return answer, nil
	}
	budgets, known := t.o.Budgets(c.Of.Tenant)
	wants := t.wants(budgets, c)
	if known && len(wants) == 0 {
		return answer, nil
	}
	a := t.account(c.Of.Tenant)
	p := &promise{id: c.ID, of: a, most: c.Most, renewed: time.Now()}
	if c.Expires > 0 {
		p.expires = time.Now().Add(c.Expires)
	}
	err := errAway
	if known {
		answer.Standings, err = t.take(ctx, p, wants)
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
		t.stats.refusals.Add(1)
		return Promise{}, err
	case err != nil:
		if !a.allow(c.Most, t.o.Away(c.Of.Tenant)) {
			t.stats.awayRefusals.Add(1)
			return Promise{}, &Refusal{Away: true}
		}
		t.stats.awayPromises.Add(1)
		p.away, p.parts = true, parts(wants)
		if b := t.counters.Load(); b != nil {
			t.wake() // to have it held as soon as that can be
		}
	}
	t.stats.promises.Add(1)
	return answer, t.keep(p, c.Span)
}

// keep remembers a promise, in the journal first.
func (t *Treasury) keep(p *promise, span usage.Span) error {
	if err := t.journal.write(journalRecord{Kind: recordPromise, Run: t.run, ID: p.id, Tenant: p.of.tenant, Amount: p.most, Parts: p.parts, Span: span}); err != nil {
		t.giveBack(p)
		return err
	}
	t.mu.Lock()
	t.open[p.id] = p
	t.mu.Unlock()
	return nil
}

func parts(wants []want) []part {
	list := make([]part, len(wants))
	for i := range wants {
		list[i] = wants[i].part
		list[i].Lease = ""
	}
	return list
}

// wants are the counters of the call: of each of its budgets that of now, and where the window may end before the call
// does, that of the next.
func (t *Treasury) wants(budgets []budget.Budget, c Call) []want {
	now := t.o.Now()
	var list []want
	for _, b := range budgets {
		counter, ok := b.Counter(c.Of, now)
		if !ok {
			continue
		}
		list = append(list, want{part: part{Counter: counter, Ceiling: b.Ceiling}, budget: b})
		if end := counter.Window.To; !end.IsZero() && end.Sub(now) <= max(t.o.Longest, c.Expires) {
			counter, _ = b.Counter(c.Of, end)
			list = append(list, want{part: part{Counter: counter, Ceiling: b.Ceiling}, budget: b, next: true})
		}
	}
	return list
}

// take takes the promise's amount of every counter: of leases where it can, else in Redis, all at once.
func (t *Treasury) take(ctx context.Context, p *promise, wants []want) ([]Standing, error) {
	var direct []int
	for i := range wants {
		w := &wants[i]
		if !w.budget.Leased() || w.next {
			direct = append(direct, i)
			continue
		}
		taken, err := t.takeLease(ctx, p, w)
		if err != nil {
			t.giveBack(p)
			return nil, err
		}
		if !taken {
			direct = append(direct, i)
		}
	}
	if len(direct) > 0 {
		if err := t.holdDirect(ctx, p, wants, direct); err != nil {
			t.giveBack(p)
			return nil, err
		}
	}
	return p.of.standings(wants), nil
}

// holdDirect holds the counters that no lease is of. Where one has too little left because this gateway's own leases
// have it, they are given back first.
func (t *Treasury) holdDirect(ctx context.Context, p *promise, wants []want, direct []int) error {
	b := t.ask(p.of)
	if b == nil {
		return errAway
	}
	ctx, cancel := context.WithTimeout(ctx, t.o.Patience)
	defer cancel()
	asked := journalRecord{Kind: recordAsk, Run: t.run, ID: p.id, Tenant: p.of.tenant, Amount: p.most}
	hold := redis.Hold{ID: p.id, Amount: p.most, TTL: t.o.TTL}
	for _, i := range direct {
		asked.Parts = append(asked.Parts, wants[i].part)
		hold.Limits = append(hold.Limits, redis.Limit{Counter: wants[i].Counter, Ceiling: wants[i].Ceiling})
	}
	if err := t.journal.write(asked); err != nil {
		return err
	}
	for again := true; ; again = false {
		grant, err := b.Hold(ctx, p.of.tenant, hold)
		if err != nil {
			t.undo(p, asked.Parts) // it may have been held
			t.failed(b, p.of, err)
			return errAway
		}
		if grant.Granted {
			p.of.mu.Lock()
			defer p.of.mu.Unlock()
			for n, i := range direct {
				p.of.left[wants[i].Counter] = grant.Left[n]
			}
			p.parts, p.holds = append(p.parts, asked.Parts...), append(p.holds, p.id)
			return nil
		}
		w := wants[direct[grant.Lacking]]
		p.of.mu.Lock()
		p.of.left[w.Counter] = grant.Left[0]
		p.of.mu.Unlock()
		if again && t.shrink(ctx, b, p.of, w.Counter) {
			continue
		}
		if err := t.journal.write(journalRecord{Kind: recordEnd, ID: p.id}); err != nil {
			return err
		}
		return &Refusal{Standing: Standing{w.budget, w.Counter.Window, grant.Left[0]}}
	}
}

// undo has a hold ended of which it is not known whether it was granted.
func (t *Treasury) undo(p *promise, asked []part) {
	list := make([]budget.Counter, len(asked))
	for i := range asked {
		list[i] = asked[i].Counter
	}
	id := p.id
	t.clerk.add(&task{of: p.of, holds: []string{id}, counters: list, done: func() {
		_ = t.journal.write(journalRecord{Kind: recordEnd, ID: id}) // read once more after a restart, and ended again
	}})
}

// giveBack returns what a promise that is not made has taken of leases.
func (t *Treasury) giveBack(p *promise) {
	a := p.of
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range p.parts {
		if l := a.leases[part.Lease]; l != nil {
			l.Settle(p.most, 0)
		}
	}
	p.parts = nil
}

// Settle ends the promise of the id: the call did cost so much, and its telemetry became durable at the time. It does
// not block, and repeating it changes nothing. It reports false for an id that it does not know.
func (t *Treasury) Settle(id string, cost usage.PicoUSD, durable time.Time) bool {
	t.mu.Lock()
	p := t.open[id]
	delete(t.open, id)
	t.mu.Unlock()
	if p == nil {
		return false
	}
	amount := budget.Ceil(int64(cost))
	if over := amount - p.most; over > 0 {
		t.stats.overshoot.Add(int64(over))
	}
	a := p.of
	a.mu.Lock()
	if err := t.journal.write(journalRecord{Kind: recordSettle, Run: t.run, ID: id, Amount: amount, At: durable}); err != nil {
		t.o.Logger.Error("A settled call could not be written to the journal of budgets", "error", err)
	}
	spent := counters(p.parts, durable)
	for _, part := range p.parts {
		if l := a.leases[part.Lease]; l != nil {
			cost := budget.Micro(0)
			if slices.Contains(spent, part.Counter) {
				cost = amount
			}
			l.Settle(p.most, cost)
			l.used = time.Now()
		}
	}
	for _, c := range spent {
		a.untold[told{c, minuteOf(durable)}] = true
	}
	a.mu.Unlock()
	if len(p.holds) > 0 || p.away {
		t.clerk.add(t.settling(p))
	}
	return true
}

// settling tells Redis of a settled promise that it holds something for, or knows nothing of.
func (t *Treasury) settling(p *promise) *task {
	list := make([]budget.Counter, len(p.parts))
	for i := range p.parts {
		list[i] = p.parts[i].Counter
	}
	holds := p.holds
	if len(holds) == 0 {
		holds = []string{p.id}
	}
	return &task{of: p.of, holds: holds, counters: list, done: func() {
		if p.away {
			p.of.mu.Lock()
			p.of.allowed -= p.most
			p.of.mu.Unlock()
		}
	}}
}

// standings of the counters of now, the one with the least left first.
func (a *account) standings(wants []want) []Standing {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]Standing, 0, len(wants))
	for _, w := range wants {
		if w.next {
			continue
		}
		left := a.left[w.Counter]
		for _, l := range a.leases {
			if l.counter == w.Counter {
				left += l.Left
			}
		}
		list = append(list, Standing{w.budget, w.Counter.Window, left})
	}
	slices.SortStableFunc(list, func(x, y Standing) int { return cmp.Compare(x.Left, y.Left) })
	return list
}
