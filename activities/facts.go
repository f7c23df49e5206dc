package activities

import (
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
)

// ActFacts are the facts that ProposeAct would ask act.yaml about, for whoever asks why it answered as it did. It is no
// method: those are activities.
func ActFacts(p *Policy, r contract.ActRequest) policy.ActFacts {
	return p.actFacts(r, p.Set().Tradeoff())
}
