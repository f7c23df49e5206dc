package detect

import (
	"iter"
	"maps"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Silences knows of which keys calls are to expect, and when each was last heard of. The zero value expects none.
type Silences struct {
	expected map[usage.Key]*expectation
	scored   map[usage.Key]int // of the last Hear: keys without a call of their own, only late scores and outcomes
}

// expectation is a key of which calls are to expect, and when it was last seen to have any.
type expectation struct {
	since time.Time // calls are to expect from then on
	heard time.Time // the last tick with a call in the longest window; zero: none yet
}

// gone is how long ago the last call of a key was at least when it has just left the longest window, whose
// minute is a partial one.
const gone = 14 * time.Minute

// SilenceAfter is how long a key without an alert is left alone: no rule's silence is shorter.
const SilenceAfter = 15 * time.Minute

// silence is how long the key is known to be without a call though some were to expect.
func (e *expectation) silence(at time.Time) time.Duration {
	silent := at.Sub(e.since)
	if !e.heard.IsZero() {
		silent = min(silent, at.Sub(e.heard)+gone)
	}
	return max(silent, 0)
}

// Expect takes from the baselines what is to expect from now on: of each key that is mine and of which as many
// calls are expected as a median of cost needs, and of all telemetry together. What it returns is the baseline of
// usage.Everything; ok is false when too little is expected of anybody.
func (s *Silences) Expect(baselines map[usage.Key]Baseline, minimum int, mine func(tenant string) bool, at time.Time) (everything Baseline, ok bool) {
	before := s.expected
	s.expected = map[usage.Key]*expectation{}
	watch := func(key usage.Key) {
		if s.expected[key] = before[key]; s.expected[key] == nil {
			s.expected[key] = &expectation{since: at}
		}
	}
	least, all := float64(minimum), 0.0
	var slot time.Time // of all of them
	for key, b := range baselines {
		if key == usage.Everything {
			continue
		}
		slot = b.Slot
		if key.Pseudo() || usage.IsDrill(key.Tenant) { // a drill's calls come when it does
			continue
		}
		all += b.LeastCalls
		if Expects(b, key, minimum) && mine(key.Tenant) {
			watch(key)
		}
	}
	if all <= 0 || all < least {
		return Baseline{}, false
	}
	watch(usage.Everything)
	return Baseline{Key: usage.Everything, Slot: slot, LeastCalls: all}, true
}

// Expects reports whether calls of one key are to expect by its baseline: of as many as a median of cost needs, never of a
// tenant's whole mix, and not of a drill, whose calls come when it does.
func Expects(b Baseline, key usage.Key, minimum int) bool {
	return !key.Pseudo() && !usage.IsDrill(key.Tenant) && b.LeastCalls > 0 && b.LeastCalls >= float64(minimum)
}

// Any reports whether calls of anybody are to expect.
func (s *Silences) Any() bool { return len(s.expected) > 0 }

// Watched are the keys of which calls are to expect.
func (s *Silences) Watched() iter.Seq[usage.Key] { return maps.Keys(s.expected) }

// Hear notes which keys have calls in their longest window, and returns how many calls those are.
func (s *Silences) Hear(observations []Observation, at time.Time) (calls int64) {
	s.scored = nil
	for i := range observations {
		o := &observations[i]
		if o.Key.Pseudo() || usage.IsDrill(o.Key.Tenant) { // made-up calls must not hide that no others come
			continue
		}
		e := s.expected[o.Key]
		if o.Whole.Requests == 0 && e != nil {
			if s.scored == nil {
				s.scored = map[usage.Key]int{}
			}
			s.scored[o.Key] = i
			continue
		}
		calls += o.Whole.Requests
		if e != nil {
			e.heard = at
		}
	}
	return calls
}

// Add adds the keys that have no call where some are to expect, which the store knows nothing of, to the
// observations that Hear was given. Calls are everybody's: while nobody has any, that is all that can be said, and
// only the key of everything says it, of the shard that is the first. Held are the keys with an alert.
func (s *Silences) Add(observations []Observation, calls int64, first bool, held func(usage.Key) bool, at time.Time) []Observation {
	everything := s.expected[usage.Everything]
	if calls > 0 && everything != nil {
		everything.heard = at
	}
	if everything != nil && first && (calls == 0 || held(usage.Everything)) {
		o := Observation{Key: usage.Everything, Whole: Volume{Requests: calls}}
		if calls == 0 {
			o.Silence = everything.silence(at)
		}
		observations = append(observations, o)
	}
	if calls == 0 {
		return observations
	}
	for key, e := range s.expected {
		if key == usage.Everything || e.heard.Equal(at) {
			continue
		}
		silence := e.silence(at)
		if i, ok := s.scored[key]; ok {
			observations[i].Silence = silence
		} else if silence >= SilenceAfter || held(key) {
			observations = append(observations, Observation{Key: key, Silence: silence})
		}
	}
	return observations
}
