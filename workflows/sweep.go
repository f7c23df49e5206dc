package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Sweep keeps one shard's ticks going for ever: each round is one long activity that beats its heart,
// so a tick costs Temporal nothing and a worker that dies is replaced within the heartbeat timeout.
func Sweep(ctx workflow.Context, in contract.SweepInput) (contract.SweepResult, error) {
	s, err := newSweep(ctx, in)
	if err != nil {
		return contract.SweepResult{}, err
	}
	return s.run(ctx)
}

type sweep struct {
	in      contract.SweepInput
	state   contract.SweepState
	visible attributes
	next    *contract.RetuneMessage // to continue with
}

func newSweep(ctx workflow.Context, in contract.SweepInput) (*sweep, error) {
	if in.Shards < 1 || in.Shard < 0 || in.Shard >= in.Shards {
		return nil, invalid(fmt.Sprintf("there is no shard %d of %d", in.Shard, in.Shards))
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	s := &sweep{in: in, state: contract.SweepState{Shard: in.Shard, Rounds: in.Rounds, Tuning: in.Tuning}}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.SweepState, error) { return s.state, nil }); err != nil {
		return nil, fmt.Errorf("registering the state query: %w", err)
	}
	twins(ctx, contract.Retune, func(_ workflow.Context, m contract.RetuneMessage) error {
		if err := m.Tuning.Validate(); err != nil {
			return err
		}
		if m.Shards != in.Shards || m.Tuning != in.Tuning {
			s.next = &m
		}
		return nil
	})
	return s, nil
}

func (s *sweep) run(ctx workflow.Context) (contract.SweepResult, error) {
	s.visible.set(ctx, attributes{State: "sweeping"})
	for {
		workflow.SetCurrentDetails(ctx, sweepDetails(s.state))
		if err := s.round(ctx); err != nil {
			return contract.SweepResult{Rounds: s.state.Rounds}, err
		}
		heard(ctx)
		in := s.in
		in.Rounds = s.state.Rounds
		if s.next != nil {
			in.Shards, in.Tuning = s.next.Shards, s.next.Tuning
		}
		switch {
		case in.Shard >= in.Shards:
			return contract.SweepResult{Rounds: in.Rounds}, nil // there are fewer shards now
		case s.next != nil || workflow.GetInfo(ctx).GetContinueAsNewSuggested():
			return contract.SweepResult{}, workflow.NewContinueAsNewError(ctx, Sweep, in)
		}
	}
}

// round runs one activity of ticks to its end, or calls it off when the tuning has changed.
func (s *sweep) round(ctx workflow.Context) error {
	summary := fmt.Sprintf("shard %d of %d, round %d", s.in.Shard, s.in.Shards, s.state.Rounds+1)
	ticks, stop := workflow.WithCancel(watching(ctx, summary))
	defer stop()
	round := workflow.ExecuteActivity(ticks, sweeper.SweepKeys, contract.SweepRequest{Shard: s.in.Shard, Shards: s.in.Shards, Tuning: s.in.Tuning})
	if err := workflow.Await(ctx, func() bool { return round.IsReady() || s.next != nil }); err != nil {
		return err
	}
	stop()
	err := round.Get(ctx, &s.state.Last)
	if err != nil && !(temporal.IsCanceledError(err) && ctx.Err() == nil) {
		return err
	}
	s.state.Rounds++
	return nil
}
