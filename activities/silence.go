package activities

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// expectation is a key of which calls are to expect, and when it was last seen to have any.
type expectation struct {
	since time.Time // calls are to expect from then on
	heard time.Time // the last tick with a call in the longest window; zero: none yet
}

// gone is how long ago the last call of a key was at least when it has just left the longest window, whose
// minute is a partial one.
const gone = 14 * time.Minute

// silenceAfter is how long a key without an alert is left alone: no rule's silence is shorter.
const silenceAfter = 15 * time.Minute

// silence is how long the key is known to be without a call though some were to expect.
func (e *expectation) silence(at time.Time) time.Duration {
	silent := at.Sub(e.since)
	if !e.heard.IsZero() {
		silent = min(silent, at.Sub(e.heard)+gone)
	}
	return max(silent, 0)
}

// expect takes from the baselines what is to expect from now on. A key is watched by the shard that its tenant
// belongs to, and all telemetry together by the first one.
func (s *sweep) expect(at time.Time) {
	before := s.expected
	s.expected = map[usage.Key]*expectation{}
	watch := func(key usage.Key) {
		if s.expected[key] = before[key]; s.expected[key] == nil {
			s.expected[key] = &expectation{since: at}
		}
	}
	least, all := float64(s.request.Tuning.Limits.Minimums.Cost), 0.0
	var slot time.Time // of all of them: lastStored may ask any
	for key, b := range s.baselines {
		slot = b.Slot
		if key.Pseudo() || contract.IsDrill(key.Tenant) { // a drill's calls come when it does
			continue
		}
		all += b.LeastCalls
		if b.LeastCalls > 0 && b.LeastCalls >= least && clickhouse.ShardOf(key.Tenant, s.request.Shards) == s.request.Shard {
			watch(key)
		}
	}
	if all > 0 && all >= least {
		s.baselines[usage.Everything] = detect.Baseline{Key: usage.Everything, Slot: slot, LeastCalls: all}
		watch(usage.Everything)
	}
}

// silent adds the keys that have no call where some are to expect, which the store knows nothing of. While
// nobody has any, that is all that can be said, and only the key of everything says it.
func (s *sweep) silent(ctx context.Context, observations []detect.Observation, at time.Time) ([]detect.Observation, error) {
	if len(s.expected) == 0 {
		return observations, nil
	}
	calls := int64(0)
	scored := map[usage.Key]int{} // without a call of their own: late scores and outcomes
	for i := range observations {
		o := &observations[i]
		e := s.expected[o.Key]
		switch {
		case o.Key.Pseudo(), contract.IsDrill(o.Key.Tenant): // made-up calls must not hide that no others come
		case o.Whole.Requests == 0 && e != nil:
			scored[o.Key] = i
		default:
			calls += o.Whole.Requests
			if e != nil {
				e.heard = at
			}
		}
	}
	if calls == 0 { // of this shard's production
		var err error
		if calls, err = s.Store.Arrived(ctx, at); err != nil {
			return observations, err
		}
	}
	everything := s.expected[usage.Everything]
	if calls > 0 && everything != nil {
		everything.heard = at
	}
	if everything != nil && s.request.Shard == 0 && (calls == 0 || s.held[usage.Everything] != nil) {
		o := detect.Observation{Key: usage.Everything, Whole: detect.Volume{Requests: calls}}
		if calls == 0 {
			o.Silence = everything.silence(at)
		}
		observations = append(observations, o)
	}
	if calls == 0 {
		return observations, nil
	}
	for key, e := range s.expected {
		silence := e.silence(at)
		switch i, ok := scored[key]; {
		case key == usage.Everything || e.heard.Equal(at):
		case ok:
			observations[i].Silence = silence
		case silence >= silenceAfter || s.held[key] != nil:
			observations = append(observations, detect.Observation{Key: key, Silence: silence})
		}
	}
	return observations, nil
}
