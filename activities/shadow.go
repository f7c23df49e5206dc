package activities

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/detect"
)

// beginShadow, seeShadow and endShadow have the second policy set, where there is one, go along with a tick. What fails is
// logged and counted, and is no failure of the tick.
func (s *sweep) beginShadow(ctx context.Context, now time.Time) {
	if s.shadow == nil {
		return
	}
	if err := s.shadow.Begin(ctx, s.Set(), s.Shadow(), now); err != nil {
		s.Log.WarnContext(ctx, "shadow mode does not know where it was, and waits", "error", err)
	}
}

func (s *sweep) seeShadow(o *detect.Observation, b *detect.Baseline, facts *detect.Facts, live *detect.Verdict, at, now time.Time) {
	if s.shadow != nil {
		s.shadow.See(backtest.Seen{Key: o.Key, Facts: facts, Calls: o.Whole.Requests, Baseline: b, Watch: at, Now: now}, live)
	}
}

func (s *sweep) endShadow(ctx context.Context) {
	if s.shadow == nil {
		return
	}
	if err := s.shadow.End(ctx); err != nil {
		s.Log.WarnContext(ctx, "what shadow mode found could not be stored, and waits", "error", err)
	}
	s.report.ShadowFailed, s.report.ShadowLost = s.shadow.Failed, s.shadow.Dropped
}
