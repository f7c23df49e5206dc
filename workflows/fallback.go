package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Fallback has the first calls of each tenant that would fall back put to people, and keeps the gateways told of who
// trusts the rule. Like the sweep it is one long activity after another; what must be exact, how many are asked, the
// tenants' ledgers of trust see to.
func Fallback(ctx workflow.Context, in contract.FallbackInput) (contract.FallbackState, error) {
	state := contract.FallbackState{Rounds: in.Rounds}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.FallbackState, error) { return state, nil }); err != nil {
		return state, fmt.Errorf("registering the state query: %w", err)
	}
	var visible attributes
	visible.set(ctx, attributes{State: "watching"})
	for {
		workflow.SetCurrentDetails(ctx, fallbackDetails(state))
		ctx := watching(ctx, fmt.Sprintf("round %d", state.Rounds+1))
		if err := workflow.ExecuteActivity(ctx, fallbacks.WatchFallbacks).Get(ctx, &state.Last); err != nil {
			return state, err
		}
		state.Rounds++
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return state, workflow.NewContinueAsNewError(ctx, Fallback, contract.FallbackInput{Rounds: state.Rounds})
		}
	}
}

func fallbackDetails(s contract.FallbackState) string {
	var t text
	t.line("Puts the first %d calls of each tenant that would fall back (`fallback` in tradeoff.yaml) to people, and tells the gateways who trusts the rule.", contract.TrustNeeded)
	t.section("So far")
	t.line("%d rounds. In the last one %d cases were put to people, and %d tenants trust the rule.", s.Rounds, s.Last.Asked, s.Last.Trusted)
	return t.String()
}
