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
	call    budget.Call
	epoch   string // in which holds were asked for; empty: none was
	most    budget.Micro
	parts   []part
	holds   []string  // its own in Redis, or asked for there
	asking  bool      // another is asked for, and Redis may hear of it after it has heard that the promise is settled
	away    bool      // Redis knows nothing of it
	at      time.Time // of a dead run's: its promise's, in whose windows it is settled; else zero
	room    [4]part   // of parts: most calls need no more
	expires time.Time // zero: never
	renewed time.Time // its holds were
}

// want is one counter that a call needs a promise of.
type want struct {
	part
	budget *budget.Budget
	next   bool // of the window after this one
	asked  bool // by itself, and Redis said then what is left
	left   budget.Micro
}

// errAway says that Redis cannot be asked.
var errAway = errors.New("redis cannot be asked for budgets")

// Hold promises the call's worst cost of every budget that it belongs to, or of none: the error is a *Refusal then.
// It asks Redis only where a lease does not do, and for no longer than Options.Patience.
func (t *Treasury) Hold(ctx context.Context, c Call) (Promise, error) {
	// A client that goes away says nothing of Redis, and a hold that is asked for is to be heard of.
	ctx = context.WithoutCancel(ctx)
	if p := t.claim(c.ID); p != nil {
		return Promise{ID: c.ID, Most: p.most}, nil
	}
	defer t.unclaim(c.ID)
	answer := Promise{ID: c.ID, Most: c.Most}
	budgets, known := t.o.Budgets(c.Of.Tenant)
	c.Span.Timestamp = t.o.Now().UTC() // so that the ledger has a recovered call in the windows of its promise
	var room [4]want
	wants := t.wants(room[:0], budgets, c, c.Span.Timestamp)
	if known && len(wants) == 0 {
		return answer, nil
	}
	a := t.account(c.Of.Tenant)
	p := &promise{id: c.ID, of: a, call: c.Of, most: c.Most, renewed: time.Now()}
	p.parts = p.room[:0]
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
	if err := t.keep(p, c.Span); err != nil {
		return Promise{}, err
	}
	t.stats.promises.Add(1)
	return answer, nil
}

// claim has the id promised by one call at a time: it answers the promise that there is, or nil where the caller is to
// make it, and unclaim then.
func (t *Treasury) claim(id string) *promise {
	for {
		t.mu.Lock()
		p, other := t.open[id], t.holding[id]
		if p == nil && other == nil {
			t.holding[id] = make(chan struct{})
		}
		t.mu.Unlock()
		if p != nil || other == nil {
			return p
		}
		<-other // for no longer than Redis's patience
	}
}

func (t *Treasury) unclaim(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.holding[id])
	delete(t.holding, id)
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
	a := p.of
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.epoch != "" && p.epoch != a.epoch && !p.away { // Redis was restarted after it granted this, and before anybody knew
		p.away = true
		a.allowed += p.most
	}
	return nil
}

// learn finds out which counters a promise is of that was made when the budgets were not known.
func (t *Treasury) learn(p *promise) {
	a := p.of
	a.mu.Lock()
	blind := p.away && len(p.parts) == 0
	a.mu.Unlock()
	if !blind {
		return
	}
	budgets, known := t.o.Budgets(a.tenant)
	if !known {
		return
	}
	list := parts(t.wants(nil, budgets, Call{Of: p.call, Most: p.most}, t.o.Now()))
	t.journal.learn(p.id, list)
	a.mu.Lock()
	defer a.mu.Unlock()
	if p.parts = list; len(list) == 0 && p.away { // it is no budget's
		p.away = false
		a.allowed -= p.most
	}
}

func parts(wants []want) []part {
	list := make([]part, len(wants))
	for i := range wants {
		list[i] = wants[i].part
		list[i].Lease = ""
	}
	return list
}

// wants adds the counters of the call to the list: of each of its budgets that of now, and where the window may end
// before the call does, that of the next.
func (t *Treasury) wants(list []want, budgets []budget.Budget, c Call, now time.Time) []want {
	for i := range budgets {
		b := &budgets[i]
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
				w := &wants[i]
				if w.asked, w.left = true, grant.Left[n]; w.budget.Leased() {
					p.of.left[w.Counter] = w.left
				}
			}
			p.epoch = b.Epoch()
			p.parts, p.holds = append(p.parts, asked.Parts...), append(p.holds, p.id)
			return nil
		}
		w := wants[direct[grant.Lacking]]
		if w.budget.Leased() {
			p.of.mu.Lock()
			p.of.left[w.Counter] = grant.Left[0]
			p.of.mu.Unlock()
		}
		if again && t.shrink(ctx, b, p.of, w.Counter) {
			continue
		}
		if err := t.journal.write(journalRecord{Kind: recordEnd, ID: p.id}); err != nil {
			return err
		}
		return &Refusal{Standing: Standing{*w.budget, w.Counter.Window, grant.Left[0]}}
	}
}

// undo has a hold ended of which it is not known whether it was granted.
func (t *Treasury) undo(p *promise, asked []part) {
	list := make([]budget.Counter, len(asked))
	for i := range asked {
		list[i] = asked[i].Counter
	}
	t.doubt(p.of, p.id, list)
}

// doubt is a hold of which it is not known whether Redis has heard of it: it may hear of it after it was told that the
// hold has ended, so it is told so once more when nothing can be under way any longer.
type doubt struct {
	task *task
	due  time.Time
}

func (t *Treasury) doubt(a *account, id string, list []budget.Counter) {
	t.clerk.add(&task{of: a, holds: []string{id}, counters: list})
	last := &task{of: a, holds: []string{id}, counters: list, done: func() {
		if t.find(id) != nil { // the call was promised all the same, of what is allowed while Redis is away
			return
		}
		_ = t.journal.write(journalRecord{Kind: recordEnd, ID: id}) // read once more after a restart, and ended again
	}}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.doubts = append(t.doubts, doubt{last, time.Now().Add(t.o.TTL)})
}

// resolve has the doubtful holds ended that are due.
func (t *Treasury) resolve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.doubts) > 0 && time.Now().After(t.doubts[0].due) {
		t.clerk.add(t.doubts[0].task)
		t.doubts = t.doubts[1:]
	}
}

// giveBack returns what a promise that is not made has taken.
func (t *Treasury) giveBack(p *promise) {
	a := p.of
	if len(p.holds) > 0 {
		t.undo(p, p.parts)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, part := range p.parts {
		if l := a.leases[part.Lease]; l != nil {
			l.Settle(p.most, 0)
		}
	}
	if p.away {
		p.away = false
		a.allowed -= p.most
	}
	p.parts, p.holds = nil, nil
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
	t.learn(p)
	amount := budget.Ceil(int64(cost))
	if over := amount - p.most; over > 0 {
		t.stats.overshoot.Add(int64(over))
	}
	a := p.of
	a.mu.Lock()
	if err := t.journal.write(journalRecord{Kind: recordSettle, Run: t.run, ID: id, Amount: amount, At: durable}); err != nil {
		t.o.Logger.Error("A settled call could not be written to the journal of budgets", "error", err)
	}
	at := durable
	if !p.at.IsZero() {
		at = p.at
	}
	spent := counters(p.parts, at)
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
	if len(p.holds) > 0 || p.away {
		t.clerk.add(t.settling(p))
	}
	a.mu.Unlock()
	return true
}

// settling tells Redis of a settled promise that it holds something for, or knows nothing of. p.of.mu is held.
func (t *Treasury) settling(p *promise) *task {
	list := make([]budget.Counter, len(p.parts))
	for i := range p.parts {
		list[i] = p.parts[i].Counter
	}
	holds := slices.Clone(p.holds)
	if len(holds) == 0 {
		holds = []string{p.id}
	}
	return &task{of: p.of, holds: holds, counters: list, done: func() {
		p.of.mu.Lock()
		defer p.of.mu.Unlock()
		if p.away {
			p.away = false // or it would be returned once more when it is held
			p.of.allowed -= p.most
		}
		if !p.asking {
			_ = t.journal.write(journalRecord{Kind: recordEnd, ID: p.id}) // read once more after a restart, and ended again
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
		left := w.left
		if !w.asked {
			left = a.left[w.Counter]
		}
		for _, l := range a.leases {
			if l.counter == w.Counter && !l.lapsed {
				left += l.Left
			}
		}
		list = append(list, Standing{*w.budget, w.Counter.Window, left})
	}
	slices.SortStableFunc(list, func(x, y Standing) int { return cmp.Compare(x.Left, y.Left) })
	return list
}
