package activities

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// expect takes from the baselines what is to expect from now on. A key is watched by the shard that its tenant
// belongs to, and all telemetry together by the first one.
func (s *sweep) expect(at time.Time) {
	if everything, ok := s.silences.Expect(s.baselines, s.request.Tuning.Limits.Minimums.Cost, s.mine, at); ok {
		s.baselines[usage.Everything] = everything
	}
}

// silent adds the keys that have no call where some are to expect. Only when none of this shard has any is the
// store asked whether anybody has.
func (s *sweep) silent(ctx context.Context, observations []detect.Observation, at time.Time) ([]detect.Observation, error) {
	if !s.silences.Any() {
		return observations, nil
	}
	calls := s.silences.Hear(observations, at)
	if calls == 0 { // of this shard's production
		var err error
		if calls, err = s.Store.Arrived(ctx, at); err != nil {
			return observations, err
		}
	}
	held := func(key usage.Key) bool { return s.held[key] != nil || s.shadow != nil && s.shadow.Holds(key) }
	return s.silences.Add(observations, calls, s.request.Shard == 0, held, at), nil
}
