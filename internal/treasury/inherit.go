package treasury

import (
	"context"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// affairs are what an earlier run has left in Redis.
type affairs struct {
	runs     map[string]bool
	promises []*promise
	ends     []journalRecord // leases, and holds that were asked for, or of calls that are settled
}

// inherit takes over what the journal says that an earlier run had under way.
func (t *Treasury) inherit() error {
	left := &affairs{runs: map[string]bool{}}
	t.journal.mu.Lock()
	defer t.journal.mu.Unlock()
	for k := range t.journal.state.told {
		left.runs[k.run] = true
	}
	for _, r := range t.journal.state.live {
		left.runs[r.Run] = true
		if r.Kind != recordPromise {
			left.ends = append(left.ends, r)
			continue
		}
		p := &promise{id: r.ID, of: t.account(r.Tenant), most: r.Amount, parts: r.Parts, holds: holdsOf(r.ID), at: r.Span.Timestamp}
		r.Span.UsageComplete = false
		t.recovered = append(t.recovered, r.Span)
		t.open[r.ID] = p
		left.promises = append(left.promises, p)
	}
	if len(left.runs) > 0 {
		t.dead = append(t.dead, left)
	}
	return nil
}

// holdsOf are the names under which Redis may hold something of a promise.
func holdsOf(id string) []string { return []string{id, id + anew, id + anew + anew} }

// bury puts dead runs' affairs in order: what was promised is held under its own id, then what they have spent is told
// and their leases end. Done twice, it changes nothing.
func (t *Treasury) bury(ctx context.Context, b *redis.Budgets) error {
	t.mu.Lock()
	dead := t.dead
	t.mu.Unlock()
	for _, left := range dead {
		for _, p := range left.promises {
			if t.find(p.id) == nil { // settled already
				continue
			}
			if err := t.holdAnew(ctx, b, p, p.parts); err != nil {
				return err
			}
			p.of.mu.Lock()
			for i := range p.parts {
				p.parts[i].Lease = ""
			}
			p.of.mu.Unlock()
		}
		tenants := map[string]bool{}
		for _, r := range left.ends {
			tenants[r.Tenant] = true
			list := make([]budget.Counter, len(r.Parts))
			for i := range r.Parts {
				list[i] = r.Parts[i].Counter
			}
			holds := []string{r.ID}
			if r.Kind == recordAsk {
				holds = holdsOf(r.ID)
			}
			for _, id := range holds {
				if err := b.Settle(ctx, r.Tenant, id, list, t.journal.all(r.Tenant)); err != nil {
					return err
				}
			}
			t.account(r.Tenant).knows(b)
			if err := t.journal.write(journalRecord{Kind: recordEnd, ID: r.ID}); err != nil {
				return err
			}
		}
		if err := t.tellDead(ctx, b, left, tenants); err != nil {
			return err
		}
	}
	t.mu.Lock()
	t.dead = nil
	t.mu.Unlock()
	return nil
}

// tellDead tells the totals of dead runs that no lease has told. They stay remembered for as long as those of this run:
// Redis may lose them.
func (t *Treasury) tellDead(ctx context.Context, b *redis.Budgets, left *affairs, known map[string]bool) error {
	t.journal.mu.Lock()
	tenants := map[string]bool{}
	for k := range t.journal.state.told {
		if left.runs[k.run] && !known[k.tenant] {
			tenants[k.tenant] = true
		}
	}
	t.journal.mu.Unlock()
	for tenant := range tenants {
		if err := t.tellAll(ctx, b, tenant); err != nil {
			return err
		}
		t.account(tenant).knows(b) // or another epoch would not be told
	}
	return nil
}
