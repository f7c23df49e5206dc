package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The typed keys of the search attributes.
var (
	tenantKey   = temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant)
	modelKey    = temporal.NewSearchAttributeKeyKeyword(contract.AttrModel)
	severityKey = temporal.NewSearchAttributeKeyKeyword(contract.AttrSeverity)
	stateKey    = temporal.NewSearchAttributeKeyKeyword(contract.AttrState)
	stepKey     = temporal.NewSearchAttributeKeyKeyword(contract.AttrStep)
)

// attributes upserts a workflow's search attributes, but only when one of them has changed: each
// upsert is an event in the history and a write to visibility.
type attributes struct {
	Severity, State, Step string
}

// set makes want visible; an empty value is left as it is.
func (a *attributes) set(ctx workflow.Context, want attributes) {
	var updates []temporal.SearchAttributeUpdate
	for _, f := range []struct {
		have *string
		want string
		key  temporal.SearchAttributeKeyKeyword
	}{
		{&a.Severity, want.Severity, severityKey}, {&a.State, want.State, stateKey}, {&a.Step, want.Step, stepKey},
	} {
		if f.want != "" && f.want != *f.have {
			*f.have = f.want
			updates = append(updates, f.key.ValueSet(f.want))
		}
	}
	if len(updates) == 0 {
		return
	}
	if err := workflow.UpsertTypedSearchAttributes(ctx, updates...); err != nil {
		workflow.GetLogger(ctx).Warn("search attributes could not be updated", "error", err)
	}
}

// keyAttributes are the attributes with which a workflow about a key starts.
func keyAttributes(k usage.Key, severity, state string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		tenantKey.ValueSet(k.Tenant), modelKey.ValueSet(k.Model),
		severityKey.ValueSet(severity), stateKey.ValueSet(state),
	)
}

// alarm is one durable timer for the earliest of several deadlines. A deadline that moves back does
// not touch it: it rings early, and whoever hears it sets it again. So a deadline that every message
// moves costs one timer per interval, not one per message.
type alarm struct {
	at     time.Time
	timer  workflow.Future
	cancel workflow.CancelFunc
}

// set makes the alarm ring at the given time at the latest.
func (a *alarm) set(ctx workflow.Context, at time.Time, summary string) {
	if a.timer != nil && !a.timer.IsReady() {
		if !at.Before(a.at) {
			return
		}
		a.cancel()
	}
	ctx, a.cancel = workflow.WithCancel(ctx)
	a.at = at
	a.timer = workflow.NewTimerWithOptions(ctx, max(at.Sub(workflow.Now(ctx)), time.Millisecond), workflow.TimerOptions{Summary: summary})
}

// off forgets the alarm.
func (a *alarm) off() {
	if a.timer != nil {
		a.cancel()
		a.timer = nil
	}
}

// rang reports whether the alarm has gone off since it was set.
func (a *alarm) rang() bool { return a.timer != nil && a.timer.IsReady() }

// journal writes a workflow's state to the tables whenever it has changed, behind the workflow's
// back: a ClickHouse that is away delays the record and never the act. What changes while a write is
// under way is written by the next, so only the newest state is written; the state carries its own
// history.
type journal struct {
	dirty, busy, closed bool
}

// open starts the journal; write must be an activity that takes the whole state.
func (j *journal) open(ctx workflow.Context, write func(workflow.Context) error) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "journal", func(ctx workflow.Context) {
		for {
			_ = workflow.Await(ctx, func() bool { return j.dirty || j.closed })
			if !j.dirty {
				return
			}
			j.dirty, j.busy = false, true
			if err := write(ctx); err != nil {
				workflow.GetLogger(ctx).Error("the state could not be recorded", "error", err)
			}
			j.busy = false
		}
	})
}

// changed asks for the state to be written.
func (j *journal) changed() { j.dirty = true }

// close waits until everything is written.
func (j *journal) close(ctx workflow.Context) {
	j.closed = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	_ = workflow.Await(ctx, func() bool { return !j.dirty && !j.busy })
}

// refuse is the error of a request that cannot be done as things stand.
func refuse(message string) error {
	return temporal.NewNonRetryableApplicationError(message, contract.ErrRefused, nil)
}

// invalid is the error of a request that can never be done.
func invalid(message string) error {
	return temporal.NewNonRetryableApplicationError(message, contract.ErrBadInput, nil)
}

// twins runs handle for every signal of the given name, as the update of that name would. What is
// refused can be told to nobody, so it is logged.
func twins[T any](ctx workflow.Context, name string, handle func(workflow.Context, T) error) {
	signals := workflow.GetSignalChannel(ctx, name)
	workflow.GoNamed(ctx, name, func(ctx workflow.Context) {
		for {
			var message T
			if !signals.Receive(ctx, &message) {
				return
			}
			if err := handle(ctx, message); err != nil {
				workflow.GetLogger(ctx).Warn("a signal was refused", "signal", name, "error", err)
			}
		}
	})
}

// said registers what people say under a name: an update, which check may refuse before it is heard, and its
// signal twin, for those who have no updates and for workers that are away.
func said[Q, A any](ctx workflow.Context, name, description string, check func(Q) error, hear func(workflow.Context, Q) (A, error)) error {
	if err := workflow.SetUpdateHandlerWithOptions(ctx, name, hear, workflow.UpdateHandlerOptions{Validator: check, Description: description}); err != nil {
		return fmt.Errorf("registering %s: %w", name, err)
	}
	twins(ctx, name, func(ctx workflow.Context, q Q) error {
		if err := check(q); err != nil {
			return err
		}
		_, err := hear(ctx, q)
		return err
	})
	return nil
}

// heard returns once every coroutine has taken what came with this task. A signal is handed to the coroutine that
// waits for it, which may not have run yet: it is in no channel any more, and lost with a run that ends now. The
// coroutine that this starts runs after all others.
func heard(ctx workflow.Context) {
	all := false
	workflow.GoNamed(ctx, "heard", func(workflow.Context) { all = true })
	_ = workflow.Await(ctx, func() bool { return all })
}
