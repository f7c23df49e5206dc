package inbox

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/api/workflow/v1"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Mute keeps notices about what name means, as Target understands it, from people for r.For. The alert loop
// of a key that is quiet is started for it.
func (b *Inbox) Mute(ctx context.Context, name string, r contract.MuteRequest) (Outcome, contract.MuteState, error) {
	if r.For <= 0 {
		return Outcome{}, contract.MuteState{}, fmt.Errorf("%w: say for how long", ErrRefused)
	}
	return b.mute(ctx, name, r)
}

// Unmute lets notices about it through again.
func (b *Inbox) Unmute(ctx context.Context, name, who, reason string) (Outcome, contract.MuteState, error) {
	return b.mute(ctx, name, contract.MuteRequest{Who: who, Reason: reason})
}

func (b *Inbox) mute(ctx context.Context, name string, m contract.MuteRequest) (Outcome, contract.MuteState, error) {
	var state contract.MuteState
	id, err := b.Target(ctx, name)
	if err != nil {
		return Outcome{}, state, err
	}
	r := request{update: contract.SetMute, arg: m, result: &state}
	if m.For > 0 && !contract.IsGroup(id) {
		key, err := contract.KeyOf(id)
		if err != nil {
			return Outcome{}, state, fmt.Errorf("%w: %w", ErrNotFound, err)
		}
		r.start = &contract.AlertLoopInput{Key: key, Tuning: b.tuning(ctx)}
	}
	answered, err := b.send(ctx, id, r)
	return Outcome{ID: id, Answered: answered}, state, err
}

// tuning is the one that the sweep starts loops with. Without a worker to ask, it is the product's: the
// loop keeps what it is started with until it is quiet again.
func (b *Inbox) tuning(ctx context.Context) contract.Tuning {
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	var sweep contract.SweepState
	if b.query(patient, contract.SweepID(0), &sweep) && sweep.Tuning.Validate() == nil {
		return sweep.Tuning
	}
	return contract.NewTuning(1)
}

// Muted is something that people are not told about.
type Muted struct {
	Target string        `json:"target"`          // as Unmute takes it: a key, a tenant's *, or a group's handle
	ID     string        `json:"id"`              // of the workflow that keeps the mute
	Cause  string        `json:"cause,omitempty"` // of the group
	Mute   contract.Mute `json:"mute"`
}

// Mutes is what is muted. Unanswered counts the loops and groups that no worker was there to tell of.
type Mutes struct {
	Muted      []Muted `json:"muted"` // the first to end first
	Unanswered int     `json:"unanswered"`
}

// Mutes lists what is muted now, of the first thousand open alert loops and groups each.
func (b *Inbox) Mutes(ctx context.Context, now time.Time) (Mutes, error) {
	type asked struct {
		muted    Muted
		mute     *contract.Mute
		answered bool
	}
	loops, err := list(ctx, b, contract.AlertLoop, func(ctx context.Context, id string, _ *workflow.WorkflowExecutionInfo) asked {
		var s contract.AlertLoopState
		answered := b.query(ctx, id, &s)
		return asked{Muted{Target: targetOf(s.Key), ID: id}, s.Mute, answered}
	})
	if err != nil {
		return Mutes{}, err
	}
	groups, err := list(ctx, b, contract.Group, func(ctx context.Context, id string, _ *workflow.WorkflowExecutionInfo) asked {
		var s contract.GroupState
		answered := b.query(ctx, id, &s)
		return asked{Muted{Target: contract.Handle(id), ID: id, Cause: causeOf(id)}, s.Mute, answered}
	})
	if err != nil {
		return Mutes{}, err
	}
	all := Mutes{Muted: []Muted{}}
	for _, a := range append(loops, groups...) {
		switch {
		case !a.answered:
			all.Unanswered++
		case a.mute.On(now):
			a.muted.Mute = *a.mute
			all.Muted = append(all.Muted, a.muted)
		}
	}
	slices.SortFunc(all.Muted, func(x, y Muted) int { return cmp.Or(x.Mute.Until.Compare(y.Mute.Until), cmp.Compare(x.ID, y.ID)) })
	return all, nil
}

// targetOf is the key as Target takes it.
func targetOf(k usage.Key) string {
	if strings.Contains(k.Tenant, "/") || slices.Contains([]string{"alert", "incident", "decision"}, k.Tenant) {
		return contract.AlertLoopID(k)
	}
	return k.String()
}
