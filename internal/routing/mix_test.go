package routing

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// callsOf is a quarter of an hour of so many calls a minute, half of them treated.
func callsOf(perMinute int64, now time.Time) (minutes []kpi.Minute) {
	for back := range 16 {
		at := now.Truncate(time.Minute).Add(-time.Duration(back) * time.Minute)
		minutes = append(minutes, kpi.Minute{Start: at, Arm: usage.Treated, Requests: perMinute / 2}, kpi.Minute{Start: at, Arm: usage.Holdback, Requests: perMinute - perMinute/2})
	}
	return minutes
}

func TestMixHealth(t *testing.T) {
	t.Parallel()
	mix := Mix{Usual: 0.2, Shifted: 0.6}
	for name, tc := range map[string]struct {
		model, tenant int64
		want          health
	}{
		"shifted":                  {60, 100, isIll},
		"half of the way back":     {40, 100, isWell},
		"a little above, by luck?": {45, 100, unwell},
		"nobody asks for it":       {0, 100, isWell},
		"few calls, over longer":   {2, 4, unwell},
		"hardly any calls":         {1, 2, unknown},
		"none":                     {0, 0, unknown},
	} {
		require.Equal(t, tc.want, mix.health(callsOf(tc.model, began), callsOf(tc.tenant, began), began, 50), name)
	}
}

// The key's own calls are as dear as its callers' new taste has it, and the holdback looks well all along: only the
// mix says when the act has done its work.
func TestRolloutIsReleasedWhenTheMixIsBack(t *testing.T) {
	t.Parallel()
	for name, plan := range map[string]Plan{"provable": PlanRollout(50, DefaultLimits), "unprovable": PlanRollout(0.01, DefaultLimits)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := Start(plan, DefaultLimits, CutCost, began)
			if plan.Provable {
				r.Index, r.Phase = len(plan.Steps)-1, Holding
			}
			now := began
			step := func(share int64) (act Act) {
				now = now.Add(15 * time.Second)
				r, act = r.Step(Observation{
					Minutes: callsOf(share, now), Tenant: callsOf(100, now), Mix: &Mix{Usual: 0.2, Shifted: 0.6}, Baseline: baseline,
				}, now)
				return act
			}
			for range 20 {
				require.False(t, step(60).Change, "the mix is as shifted as before")
			}
			var back time.Time
			for r.Phase != Falling {
				if act := step(22); act.Change {
					require.Contains(t, act.Reason, "the requested mix is back")
					back = now
				}
			}
			require.Equal(t, DefaultLimits.ClearFor, back.Sub(began.Add(20*15*time.Second+15*time.Second)))
			for range 40 {
				if step(60); r.Phase == Holding {
					break
				}
			}
			require.Equal(t, Holding, r.Phase, "callers turned again: the release is taken back")
			for range 60 {
				if step(22); r.Phase == Ended {
					break
				}
			}
			require.Equal(t, Released, r.Outcome)
		})
	}
}
