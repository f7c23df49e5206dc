package gateway

import (
	"container/heap"
	"errors"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// How long a hold of a gateway that is not ours stands, and how many are remembered, two or three
// kilobytes each.
const (
	defaultTTL = 10 * time.Minute
	minTTL     = time.Second
	maxTTL     = time.Hour
	rememberIt = time.Hour // after it was settled or has lapsed: a late or repeated settlement finds its call
	maxHolds   = 100_000
)

// held is a call that another gateway was promised, and what its span will say. What the call may use at the most never
// changes.
type held struct {
	id         string
	span       usage.Span // as if it cost the most that it can
	lapses     time.Time
	forget     time.Time
	at         int  // in the heap
	busy       bool // somebody is settling it
	settlement *settlement
	api        wire.API // empty: not known
	reasons    bool     // it may be billed for output that its answer does not show
	features   []byte   // of its prompt; nil: not known, or recorded
	text       string   // of its prompt, where its features are still to be asked for
	estimate   usage.PicoUSD
}

var (
	errTooMany = errors.New("too many calls are under way that were not settled: settle each, or cancel it")
	errTaken   = errors.New("span_id: a call of this trace has it already: name another, or leave it out")
)

// holds remembers the calls of gateways that are not ours until they are settled, and a while longer.
type holds struct {
	mu   sync.Mutex
	byID map[string]*held
	old  oldest
	most int // maxHolds where it is 0
}

// add remembers a call. A call that is open already is the same call, asked about again. Those that no budget bounds have
// half of the room: gateways that settle nothing must not crowd out what is bounded.
func (h *holds) add(c *held, bounded bool, now time.Time) (again bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.byID[c.id]; known != nil {
		if known.span.TenantID != c.span.TenantID || known.settlement != nil || known.busy {
			return false, errTaken
		}
		return true, nil
	}
	for len(h.old) > 0 && !now.Before(h.old[0].forget) {
		h.drop(h.old[0])
	}
	most := h.limit()
	if !bounded {
		most /= 2
	}
	if len(h.old) >= most {
		if first := h.old[0]; first.busy || first.settlement == nil && now.Before(first.lapses) {
			return false, errTooMany
		}
		h.drop(h.old[0])
	}
	if h.byID == nil {
		h.byID = map[string]*held{}
	}
	c.forget = c.lapses.Add(rememberIt)
	h.byID[c.id] = c
	heap.Push(&h.old, c)
	return false, nil
}

func (h *holds) limit() int {
	if h.most > 0 {
		return h.most
	}
	return maxHolds
}

func (h *holds) drop(c *held) {
	heap.Remove(&h.old, c.at)
	delete(h.byID, c.id)
}

// turn notes that another model serves the call, or another route, than was asked for the promise.
func (h *holds) turn(c *held, a *routing.Answer, estimate usage.PicoUSD) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if known := h.byID[c.id]; known != nil {
		known.estimate = estimate
		known.span.Model, known.span.Route, known.span.Arm, known.span.DecisionID = a.Model, a.Route, a.Arm, a.DecisionID
	}
}

// take finds a call and keeps others from settling it until done is called. A call of another tenant is as if it had never
// been; tenant "" may settle every call.
func (h *holds) take(id, tenant string) (c *held, before *settlement, busy bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c = h.byID[id]
	switch {
	case c == nil || tenant != "" && tenant != c.span.TenantID:
		return nil, nil, false
	case c.busy:
		return c, nil, true
	}
	c.busy = true
	return c, c.settlement, false
}

// done ends what take began; settled is what was made of the call, nil where nothing was.
func (h *holds) done(c *held, settled *settlement, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.busy = false
	if settled != nil && c.settlement == nil {
		c.settlement, c.span.Tags, c.features, c.text = settled, nil, nil, ""
		c.forget = now.Add(rememberIt)
		heap.Fix(&h.old, c.at)
	}
}

// wire adds what the call's own body says of its answer.
func (h *holds) wire(id string, ask *wire.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c := h.byID[id]; c != nil {
		c.api, c.reasons = ask.API, ask.Reasons
	}
}

// cancel forgets a call that was not promised after all.
func (h *holds) cancel(c *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byID[c.id] == c {
		h.drop(c)
	}
}

// oldest orders calls by when they are forgotten.
type oldest []*held

func (o oldest) Len() int           { return len(o) }
func (o oldest) Less(i, j int) bool { return o[i].forget.Before(o[j].forget) }
func (o oldest) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].at, o[j].at = i, j
}

func (o *oldest) Push(x any) {
	c := x.(*held)
	c.at = len(*o)
	*o = append(*o, c)
}

func (o *oldest) Pop() any {
	old := *o
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*o = old[:len(old)-1]
	return last
}
