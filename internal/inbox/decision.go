package inbox

import (
	"context"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Decision is the state of the open decision that name means. Of one that has ended, its row tells more.
func (b *Inbox) Decision(ctx context.Context, name string) (contract.DecisionState, error) {
	id, err := b.find(ctx, name, contract.Decision)
	if err != nil {
		return contract.DecisionState{}, err
	}
	var state contract.DecisionState
	err = b.ask(ctx, id, contract.State, &state)
	return state, err
}
