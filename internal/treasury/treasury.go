// Package treasury is a gateway's part in budgets: it promises each call's worst cost of every budget that the call
// belongs to before it is made, and settles it by what the call did cost. It hides leases, the shared counters in
// Redis, what is allowed while they cannot be asked, and the journal by which a killed gateway's successor knows what
// was under way.
package treasury

import (
	"context"
	"log/slog"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Options is all that a treasury needs.
type Options struct {
	Dir     string // of the journal; made when it is not there
	Process string // the spool through which the calls' telemetry goes: the ledger says up to when it has all of that
	Redis   *redis.Client
	Budgets func(tenant string) (budgets []budget.Budget, known bool) // from memory; not known: they have never been read
	Away    func(tenant string) Away                                  // what holds while Redis cannot be asked
	Logger  *slog.Logger
	Now     func() time.Time
}

// Away is what holds for a tenant's calls while its budgets cannot be asked: Redis is away, or its counters are being
// rebuilt, or its budgets are not known yet.
type Away struct {
	Closed    bool         // no call is made
	Allowance budget.Micro // that this gateway may promise, in all, until they can be asked again; 0: nothing
}

// Call asks for a promise.
type Call struct {
	ID   string // <trace id>/<span id>: a retry under the same id is the same promise, and the ledger is asked by it
	Of   budget.Call
	Span usage.Span   // what the ledger is told if this gateway dies: tokens and cost at their worst
	Most budget.Micro // the call's cost at its worst
}

// Standing is where one budget stands for a call.
type Standing struct {
	Budget budget.Budget
	Window budget.Window
	Left   budget.Micro // neither spent nor held, as far as this gateway knows
}

// Promise is a call's right to spend. The zero Promise is that of a call without a budget.
type Promise struct {
	ID        string
	Most      budget.Micro
	Standings []Standing // of every budget that the call belongs to, tightest first
}

// Refusal is the error of a call that no promise is made to.
type Refusal struct {
	Standing      // of the budget that has too little left; zero where none could be asked
	Away     bool // the budgets cannot be asked, and the tenant's policy is to refuse then
}

func (r *Refusal) Error() string { return "the budget " + r.Budget.ID + " is exhausted" }

// Treasury keeps the promises. Make one with Open, and keep Run running beside it.
type Treasury struct{ o Options }

// Open reads what an earlier run had under way: see Recovered.
func Open(o Options) (*Treasury, error) { return &Treasury{o}, nil }

// Recovered are the spans of calls that were under way when an earlier run of this gateway was killed. Once they are
// durable telemetry they are to be settled like any other.
func (t *Treasury) Recovered() []usage.Span { return nil }

// Run renews leases, tells what was spent, and watches Redis's epoch, until ctx ends, which is not an error.
func (t *Treasury) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// Hold promises the call's worst cost of every budget that it belongs to, or of none: the error is a *Refusal then.
// It asks Redis only where a lease does not do, and for at most a second.
func (t *Treasury) Hold(ctx context.Context, c Call) (Promise, error) {
	return Promise{ID: c.ID, Most: c.Most}, nil
}

// Settle ends the promise of the id: the call did cost so much, and its telemetry became durable at the time. It does
// not block, and repeating it changes nothing. It reports false for an id that it does not know.
func (t *Treasury) Settle(id string, cost usage.PicoUSD, durable time.Time) bool { return true }

// Close ends it; what is under way stays in the journal.
func (t *Treasury) Close() error { return nil }
