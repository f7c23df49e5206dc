package simulate

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// World is the synthetic world in simulated time. Requests come out of Arrivals, go back in through
// Serve with what the decision API said of them, and their spans and scores come out of Due when
// they would have been complete. It is not safe for concurrent use.
type World struct {
	workloads []Workload
	sources   []*source
	next      time.Time // the first slot not yet drawn
	spans     []Span    // under way
	scores    []Score
	faults    []Fault
	ids       *rand.Rand
}

// NewWorld returns a world that begins at start. The same seed, workloads and start repeat the same
// requests.
func NewWorld(seed uint64, workloads []Workload, start time.Time) *World {
	w := &World{workloads: workloads, next: start, ids: rand.New(rand.NewPCG(seed, uint64(start.UnixNano())))}
	for i := range workloads {
		w.sources = append(w.sources, newSource(seed, &workloads[i], start))
	}
	return w
}

// maxGap is how far behind the clock the world may fall and still make up for it. A machine that was
// asleep longer starts afresh: nobody made those calls.
const maxGap = 5 * time.Second

// Arrivals returns the requests that the applications make up to now, in the order of their time.
func (w *World) Arrivals(now time.Time) []Request {
	if behind := now.Sub(w.next); behind > maxGap {
		w.next = w.next.Add(behind.Truncate(slot))
	}
	var requests []Request
	for ; !w.next.Add(slot).After(now); w.next = w.next.Add(slot) {
		for _, s := range w.sources {
			key := usage.Key{Tenant: s.workload.Tenant.ID, Model: s.workload.Model}
			to, share := w.shift(key)
			for _, r := range s.draw(w.next, w.volume(key)) {
				if r.luck.shift < share {
					r.RequestedModel = to
				}
				requests = append(requests, r)
			}
		}
	}
	slices.SortStableFunc(requests, func(a, b Request) int { return a.At.Compare(b.At) })
	return requests
}

// Serve makes the call as the answer says, and has the judge score it when scored is true. A stopped
// call is not made.
func (w *World) Serve(r Request, a routing.Answer, scored bool) {
	if a.Stop {
		return
	}
	span, score := r.serve(a, func(m *model) disturbance { return w.disturbance(r.Workload.Tenant.ID, m, r.At) })
	w.spans = append(w.spans, span)
	if scored {
		w.scores = append(w.scores, score)
	}
}

// Due takes out what is complete at now.
func (w *World) Due(now time.Time) (spans []Span, scores []Score) {
	w.spans = slices.DeleteFunc(w.spans, func(s Span) bool {
		if s.Timestamp.After(now) {
			return false
		}
		spans = append(spans, s)
		return true
	})
	w.scores = slices.DeleteFunc(w.scores, func(s Score) bool {
		if s.Timestamp.After(now) {
			return false
		}
		scores = append(scores, s)
		return true
	})
	return spans, scores
}

// Kind is what a fault does.
type Kind string

// The kinds of fault. Cost and quality faults are the provider's: they strike every call that the
// tenant has served by the model, whichever model was asked for, so a rerouted call escapes them.
// Shifts and volumes are the application's: they concern the requested model.
const (
	Cost    Kind = "cost"    // the model's calls cost Factor times as much (it rambles)
	Quality Kind = "quality" // the model's calls score Factor times as high
	Shift   Kind = "shift"   // the share Factor of the calls silently asks for a dearer model
	Volume  Kind = "volume"  // the application makes Factor times as many calls
)

// Fault is something that is made to go wrong for a while.
type Fault struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Tenant  string    `json:"tenant_id"`
	Model   string    `json:"model"`
	Factor  float64   `json:"factor"`
	Quality float64   `json:"quality,omitempty"` // of a cost fault: a factor on the scores as well; 0 is none
	To      string    `json:"to,omitempty"`      // of a shift: the model asked for instead
	Began   time.Time `json:"began"`
	Ends    time.Time `json:"ends"`
}

// The bounds of a fault.
const (
	maxFaults   = 100
	maxFactor   = 100
	maxLifetime = 24 * time.Hour
)

// Inject starts a fault at now, for lifetime. Its error says what cannot be and what can.
func (w *World) Inject(f Fault, lifetime time.Duration, now time.Time) (Fault, error) {
	w.expire(now)
	switch {
	case len(w.faults) >= maxFaults:
		return Fault{}, fmt.Errorf("there are already %d faults: stop some", maxFaults)
	case lifetime <= 0 || lifetime > maxLifetime:
		return Fault{}, fmt.Errorf("a fault lasts more than 0 and at most %s, not %s", maxLifetime, lifetime)
	case !(f.Factor > 0 && f.Factor <= maxFactor):
		return Fault{}, fmt.Errorf("factor %g is not above 0 and at most %d", f.Factor, maxFactor)
	case f.Quality != 0 && (f.Kind != Cost || !(f.Quality > 0 && f.Quality <= maxFactor)):
		return Fault{}, fmt.Errorf("quality %g: give a cost fault a factor above 0 and at most %d", f.Quality, maxFactor)
	}
	m := modelNamed(f.Model)
	switch f.Kind {
	case Cost, Quality:
		if m == nil || !slices.ContainsFunc(w.workloads, func(l Workload) bool { return l.Tenant.ID == f.Tenant }) {
			return Fault{}, w.unknown(f)
		}
		f.Model = m.name
	case Shift, Volume:
		if !slices.ContainsFunc(w.workloads, func(l Workload) bool { return l.Tenant.ID == f.Tenant && l.Model == f.Model }) {
			return Fault{}, w.unknown(f)
		}
		if f.Kind == Shift {
			if f.Factor > 1 {
				return Fault{}, fmt.Errorf("factor %g of a shift is the share of the calls that move: at most 1", f.Factor)
			}
			if m == nil || m.dearer == "" {
				return Fault{}, fmt.Errorf("no model is dearer than %s", f.Model)
			}
			f.To = m.dearer
		}
	default:
		return Fault{}, fmt.Errorf("unknown kind %q: there are %s, %s, %s and %s", f.Kind, Cost, Quality, Shift, Volume)
	}
	f.ID = fmt.Sprintf("%s-%06x", f.Kind, w.ids.Uint32()&0xffffff)
	f.Began, f.Ends = now.UTC(), now.Add(lifetime).UTC()
	w.faults = append(w.faults, f)
	return f, nil
}

func (w *World) unknown(f Fault) error {
	keys := make([]string, len(w.workloads))
	for i, l := range w.workloads {
		keys[i] = l.Tenant.ID + " " + l.Model
	}
	return fmt.Errorf("the simulator has no traffic of tenant %q for model %q; it has: %s", f.Tenant, f.Model, strings.Join(keys, ", "))
}

// Faults lists the faults at now, the oldest first.
func (w *World) Faults(now time.Time) []Fault {
	w.expire(now)
	faults := slices.Clone(w.faults)
	slices.SortStableFunc(faults, func(a, b Fault) int { return cmp.Or(a.Began.Compare(b.Began), cmp.Compare(a.ID, b.ID)) })
	return faults
}

// Stop ends a fault before its time and reports whether it was there.
func (w *World) Stop(id string) bool {
	before := len(w.faults)
	w.faults = slices.DeleteFunc(w.faults, func(f Fault) bool { return f.ID == id })
	return len(w.faults) < before
}

func (w *World) expire(now time.Time) {
	w.faults = slices.DeleteFunc(w.faults, func(f Fault) bool { return !now.Before(f.Ends) })
}

func (f *Fault) active(at time.Time) bool { return !at.Before(f.Began) && at.Before(f.Ends) }

// disturbance multiplies the faults of a tenant's calls to one served model at a time.
func (w *World) disturbance(tenant string, m *model, at time.Time) disturbance {
	d := disturbance{1, 1}
	for i := range w.faults {
		f := &w.faults[i]
		if f.Tenant != tenant || f.Model != m.name || !f.active(at) {
			continue
		}
		switch f.Kind {
		case Cost:
			d.cost *= f.Factor
			d.quality *= cmp.Or(f.Quality, 1)
		case Quality:
			d.quality *= f.Factor
		}
	}
	return d
}

// volume multiplies the volume faults of a key at the next slot.
func (w *World) volume(k usage.Key) float64 {
	v := 1.0
	for i := range w.faults {
		if f := &w.faults[i]; f.Kind == Volume && f.Tenant == k.Tenant && f.Model == k.Model && f.active(w.next) {
			v *= f.Factor
		}
	}
	return min(v, maxFactor)
}

// shift is the share of the key's calls that ask for another model at the next slot, and which. Of
// two shifts the older holds.
func (w *World) shift(k usage.Key) (to string, share float64) {
	for i := range w.faults {
		if f := &w.faults[i]; f.Kind == Shift && f.Tenant == k.Tenant && f.Model == k.Model && f.active(w.next) {
			return f.To, f.Factor
		}
	}
	return "", 0
}
