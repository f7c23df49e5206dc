// Package treasury is a gateway's part in budgets: it promises each call's worst cost of every budget that the call
// belongs to before it is made, and settles it by what the call did cost. It hides leases, the shared counters in
// Redis, what is allowed while they cannot be asked, and the journal by which a killed gateway's successor knows what
// was under way.
package treasury

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Options is all that a treasury needs. The times are the defaults where they are 0.
type Options struct {
	Dir     string // of the journal; made when it is not there
	Process string // the spool through which the calls' telemetry goes: by it the ledger knows up to when it has all of that
	Redis   *redis.Client
	Budgets func(tenant string) (budgets []budget.Budget, known bool) // from memory; not known: they have never been read
	Away    func(tenant string) Away                                  // what holds while the budgets cannot be asked
	Logger  *slog.Logger
	Now     func() time.Time // by which windows are told apart, as the ledger does by the calls' own times

	TTL      time.Duration // of leases and holds, which are renewed four times in it; 30 s
	Longest  time.Duration // that a call may take: a window that ends sooner is held with the next; 10 min
	Patience time.Duration // of a call for Redis; 1 s
}

// Away is what holds for a tenant's calls while its budgets cannot be asked: Redis is away, or its counters are being
// rebuilt, or its budgets are not known yet.
type Away struct {
	Closed    bool         // no call is made
	Allowance budget.Micro // that this gateway may promise, in all, until they can be asked again; 0: nothing
}

// Call asks for a promise.
type Call struct {
	ID      string // <trace id>/<span id>: a retry under the same id is the same promise, and the ledger is asked by it
	Of      budget.Call
	Span    usage.Span    // what the ledger is told if this gateway dies: tokens at their worst
	Most    budget.Micro  // the call's cost at its worst
	Expires time.Duration // after so long unsettled it counts as spent at its worst until the ledger has its trace; 0: never
}

// Standing is where one budget stands for a call.
type Standing struct {
	Budget budget.Budget
	Window budget.Window
	Left   budget.Micro // neither spent nor held, as far as this gateway knows
}

// Promise is a call's right to spend. One without standings is of a call that belongs to no budget, or whose budgets
// could not be asked.
type Promise struct {
	ID        string
	Most      budget.Micro
	Standings []Standing // of every budget that the call belongs to, the one with the least left first
}

// Refusal is the error of a call that no promise is made to.
type Refusal struct {
	Standing      // of the budget that has too little left; zero where none could be asked
	Away     bool // the budgets cannot be asked, and what the tenant's policy allows then is used up
}

func (r *Refusal) Error() string {
	if r.Away {
		return "budgets cannot be asked at present, and the policy allows no more calls until they can"
	}
	return fmt.Sprintf("the budget %s has %s USD left until %s, which is less than the call may cost", r.Budget.ID, max(0, r.Left).USD(), until(r.Window))
}

func until(w budget.Window) string {
	if w.To.IsZero() {
		return "the session's end"
	}
	return w.To.Format(time.RFC3339)
}

// Stats are counts since the start, and amounts as they are.
type Stats struct {
	Promises, Refusals, AwayPromises, AwayRefusals, Expired int64
	Open                                                    int64        // promises that are not settled
	Leased                                                  budget.Micro // of all leases, promised or not
	Overshoot                                               budget.Micro // what calls have cost beyond their promise, in all
	Waiting                                                 int64        // what Redis has not been told yet
}

// Treasury keeps the promises. Make one with Open, and keep Run running beside it. It is safe for concurrent use.
type Treasury struct {
	o         Options
	run       string // this run's name to Redis
	journal   *journal
	recovered []usage.Span

	counters atomic.Pointer[redis.Budgets] // nil: Redis cannot be asked
	kick     chan struct{}                 // something is to be seen to now
	clerk    *clerk
	leases   atomic.Int64
	killed   atomic.Bool // by a test: nothing is told at the end

	mu       sync.Mutex
	accounts map[string]*account
	open     map[string]*promise
	holding  map[string]chan struct{} // ids that are being promised; closed at the end
	doubts   []doubt
	dead     []*affairs // of earlier runs, to be put in order

	stats struct {
		promises, refusals, awayPromises, awayRefusals, expired, overshoot atomic.Int64
	}
}

// Open reads what an earlier run had under way: see Recovered.
func Open(o Options) (*Treasury, error) {
	set := func(d *time.Duration, otherwise time.Duration) {
		if *d == 0 {
			*d = otherwise
		}
	}
	set(&o.TTL, 30*time.Second)
	set(&o.Longest, 10*time.Minute)
	set(&o.Patience, time.Second)
	j, err := openJournal(o.Dir)
	if err != nil {
		return nil, err
	}
	t := &Treasury{
		o: o, run: o.Process + runMark + rand.Text()[:10], journal: j, kick: make(chan struct{}, 1),
		accounts: map[string]*account{}, open: map[string]*promise{}, holding: map[string]chan struct{}{},
	}
	t.clerk = newClerk(t)
	if err := t.inherit(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return t, nil
}

// runMark stands between the name of a process and that of one of its runs.
const runMark = redis.RunMark

// Recovered are the spans of calls that were under way when an earlier run of this gateway was killed. Once they are
// durable telemetry they are to be settled like any other.
func (t *Treasury) Recovered() []usage.Span { return t.recovered }

// Close ends it; what is under way stays in the journal.
func (t *Treasury) Close() error { return t.journal.close() }

// Stats says how it stands.
func (t *Treasury) Stats() Stats {
	s := Stats{
		Promises: t.stats.promises.Load(), Refusals: t.stats.refusals.Load(), AwayPromises: t.stats.awayPromises.Load(),
		AwayRefusals: t.stats.awayRefusals.Load(), Expired: t.stats.expired.Load(), Overshoot: budget.Micro(t.stats.overshoot.Load()),
		Waiting: t.clerk.waiting(),
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Open = int64(len(t.open))
	for _, a := range t.accounts {
		a.mu.Lock()
		for _, l := range a.leases {
			s.Leased += l.Held()
		}
		a.mu.Unlock()
	}
	return s
}

func (t *Treasury) account(tenant string) *account {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.accounts[tenant]
	if a == nil {
		a = newAccount(tenant)
		t.accounts[tenant] = a
	}
	return a
}

func (t *Treasury) find(id string) *promise {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[id]
}

// wake has Run look at once.
func (t *Treasury) wake() {
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// askClosedEvery is how often calls ask for counters that were being rebuilt when they were asked last.
const askClosedEvery = 100 * time.Millisecond

// ask is whom to ask for the tenant's budgets; nil: nobody can be asked now.
func (t *Treasury) ask(a *account) *redis.Budgets {
	b := t.counters.Load()
	if b == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.epoch == "" && len(a.leases) == 0 {
		a.epoch = b.Epoch() // it has nothing that another epoch knows of
	}
	if a.epoch != b.Epoch() || time.Now().Before(a.closed) {
		return nil
	}
	return b
}

// failed draws the conclusions from an error of Redis: a tenant's counters may be closed for a while, or all of it be
// away. Run finds out.
func (t *Treasury) failed(b *redis.Budgets, a *account, err error) {
	if errors.Is(err, redis.ErrBudgetsClosed) {
		a.mu.Lock()
		a.closed = time.Now().Add(askClosedEvery)
		a.mu.Unlock()
	} else if t.counters.CompareAndSwap(b, nil) {
		t.o.Logger.Warn("Budgets cannot be asked; what leases hold and the policy allows goes on", "error", err)
	}
	t.wake()
}
