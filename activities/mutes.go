package activities

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/converter"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Querier asks workflows for their state: a Temporal client.
type Querier interface {
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
}

// Mutes knows which tenants are muted as a whole: the alert loop of (tenant, *) does. That of a key is the
// incident's own to know.
type Mutes struct {
	client Querier
	now    func() time.Time

	mu    sync.Mutex
	known map[string]tenantMute
}

// tenantMute is what a loop answered lately.
type tenantMute struct {
	mute *contract.Mute
	at   time.Time
}

// The bounds on the question. A storm is many notices of one tenant, and one question.
const (
	muteTimeout = 2 * time.Second
	muteFresh   = 5 * time.Second
	maxTenants  = 10_000
	maxAsked    = 20 // tenants of one group; more are not all muted
)

// NewMutes asks through the client.
func NewMutes(client Querier, now func() time.Time) *Mutes {
	return &Mutes{client: client, now: now, known: map[string]tenantMute{}}
}

// holds says who mutes the notice's tenant and until when, or nothing when the notice is to go out. What
// was posted before the mute began is kept up to date, so that no message stays behind that says an
// incident is open; nothing new is said.
func (m *Mutes) holds(ctx context.Context, n contract.Notice) string {
	tenants := tenantsOf(n)
	if m == nil || len(tenants) == 0 || len(tenants) > maxAsked {
		return ""
	}
	var first *contract.Mute
	for tenant := range tenants {
		mute := m.of(ctx, tenant)
		if !mute.On(m.now()) || keptUp(n, mute) {
			return ""
		}
		first = mute
	}
	return fmt.Sprintf("%s, until %s", first.Who, first.Until.UTC().Format(time.RFC3339))
}

// tenantsOf are those whose keys the notice is about.
func tenantsOf(n contract.Notice) map[string]bool {
	tenants := map[string]bool{}
	if n.Group != nil {
		for _, k := range n.Group.Keys {
			tenants[k.Key.Tenant] = true
		}
	} else if n.Key.Tenant != "" {
		tenants[n.Key.Tenant] = true
	}
	return tenants
}

// keptUp reports whether the notice only brings a message up to date that was posted before the mute.
func keptUp(n contract.Notice, mute *contract.Mute) bool {
	switch n.Kind {
	case contract.NoticeUpdated, contract.NoticeDecided, contract.NoticeClosed:
		return n.Opened.Before(mute.At) // an unknown opening is one from before
	}
	return false
}

// of is the tenant's mute as it was some seconds ago at most. A loop that does not run, or does not answer,
// mutes nobody.
func (m *Mutes) of(ctx context.Context, tenant string) *contract.Mute {
	m.mu.Lock()
	known, ok := m.known[tenant]
	m.mu.Unlock()
	if now := m.now(); ok && now.Sub(known.at) < muteFresh {
		return known.mute
	}
	ctx, cancel := context.WithTimeout(ctx, muteTimeout)
	defer cancel()
	var state contract.AlertLoopState
	loop := contract.AlertLoopID(usage.Key{Tenant: tenant, Model: usage.AnyModel})
	if answer, err := m.client.QueryWorkflow(ctx, loop, "", contract.State); err != nil || answer.Get(&state) != nil {
		state.Mute = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.known) >= maxTenants {
		clear(m.known)
	}
	m.known[tenant] = tenantMute{state.Mute, m.now()}
	return state.Mute
}
