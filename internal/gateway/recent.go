package gateway

import (
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// maxRecent bounds the calls whose cost can be asked for, about half a kilobyte each.
const maxRecent = 20_000

// Recent is what GET /v1/requests/{id} says of a call.
type Recent struct {
	ID             string       `json:"id"`
	State          string       `json:"state"` // complete, or cut: its usage was not seen whole, and what is said is the most that it can be
	Timestamp      time.Time    `json:"timestamp"`
	RequestedModel string       `json:"requested_model"`
	Model          string       `json:"model"`
	Route          string       `json:"route"`
	Arm            usage.Arm    `json:"arm"`
	Cost           string       `json:"cost_usd,omitempty"` // exact; left out of a model without a price
	Usage          usage.Tokens `json:"usage"`
	LatencyMS      int64        `json:"latency_ms"`
	TTFTMS         int64        `json:"ttft_ms,omitempty"`
	SessionID      string       `json:"session_id,omitempty"`
	DecisionID     string       `json:"decision_id,omitempty"`
}

// The states of a call.
const (
	complete = "complete"
	cut      = "cut"
)

// recent remembers the last calls, each for its tenant alone.
type recent struct {
	mu   sync.Mutex
	byID map[string]int // where it is in the ring
	ring []remembered
	next int
}

type remembered struct {
	state, tenant string
	id            string
	span          usage.Span
}

// put remembers a call, in place of what was known of it, or of the oldest.
func (r *recent) put(id, state string, span *usage.Span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, known := r.byID[id]
	switch {
	case known:
	case len(r.ring) < maxRecent:
		at = len(r.ring)
		r.ring = append(r.ring, remembered{})
	default:
		at = r.next
		r.next = (r.next + 1) % maxRecent
		delete(r.byID, r.ring[at].id)
	}
	if r.byID == nil {
		r.byID = map[string]int{}
	}
	r.byID[id] = at
	r.ring[at] = remembered{state, span.TenantID, id, *span}
	r.ring[at].span.Tags = nil
}

// get finds a tenant's call. One of another tenant is as if it had never been.
func (r *recent) get(tenant, id string) (remembered, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, ok := r.byID[id]
	if !ok || r.ring[at].tenant != tenant {
		return remembered{}, false
	}
	return r.ring[at], true
}

// view is the call as its caller is shown it.
func (r remembered) view() Recent {
	s := &r.span
	v := Recent{
		ID: r.id, State: r.state, Timestamp: s.Timestamp, RequestedModel: s.RequestedModel, Model: s.Model, Route: s.Route, Arm: s.Arm,
		Usage: s.Tokens, LatencyMS: s.LatencyMS, TTFTMS: s.TTFTMS, SessionID: s.SessionID, DecisionID: s.DecisionID,
	}
	if s.Priced {
		v.Cost = usd(s.Cost)
	}
	return v
}
