package inbox

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"

	"go.temporal.io/api/workflow/v1"

	"github.com/flyball-dev/flyball/internal/contract"
)

// FallbackTrust is how far a tenant's fallback rule has come.
type FallbackTrust struct {
	Tenant string `json:"tenant_id"`
	contract.Trust
	Trusted bool `json:"trusted"` // it acts by itself
	// Answered is false when no worker was there to tell.
	Answered bool `json:"answered"`
}

// Fallbacks lists the tenants whose people have been asked about calls that would fall back.
func (b *Inbox) Fallbacks(ctx context.Context) ([]FallbackTrust, error) {
	ledgers, err := list(ctx, b, contract.Autonomy, func(ctx context.Context, id string, _ *workflow.WorkflowExecutionInfo) FallbackTrust {
		var s contract.AutonomyState
		if !b.query(ctx, id, &s) {
			tenant, _ := url.PathUnescape(strings.TrimPrefix(id, contract.AutonomyID("")))
			return FallbackTrust{Tenant: tenant}
		}
		t, asked := s.Classes[contract.FallBack]
		if !asked {
			return FallbackTrust{Answered: true}
		}
		return FallbackTrust{Tenant: s.Tenant, Trust: t, Trusted: t.Trusted(), Answered: true}
	})
	ledgers = slices.DeleteFunc(ledgers, func(t FallbackTrust) bool { return t.Tenant == "" })
	slices.SortFunc(ledgers, func(x, y FallbackTrust) int { return cmp.Compare(x.Tenant, y.Tenant) })
	return ledgers, err
}

// HoldFallback withdraws a tenant's trust in its fallback rule, or lifts that.
func (b *Inbox) HoldFallback(ctx context.Context, r contract.HoldTrustRequest) (Outcome, FallbackTrust, error) {
	r.Action = contract.FallBack
	id := contract.AutonomyID(r.Tenant)
	var s contract.AutonomyState
	answered, err := b.send(ctx, id, request{update: contract.HoldTrust, arg: r, result: &s})
	t := s.Classes[contract.FallBack]
	return Outcome{ID: id, Answered: answered}, FallbackTrust{Tenant: r.Tenant, Trust: t, Trusted: t.Trusted(), Answered: answered}, err
}
