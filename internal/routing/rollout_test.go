package routing

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	began    = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	baseline = detect.Baseline{
		CostBuckets: 50, LnCost: 20, LnCostDev: 0.02, LnCostSD: 0.5, CostBucketN: 4000,
		QualityBuckets: 50, Quality: 0.85, QualityDev: 0.004, QualitySD: 0.08, QualityBucketN: 4000,
	}
)

// world is a key whose arms have a cost ratio and a quality.
type world struct {
	rand               *rand.Rand
	untreated, treated [2]float64 // cost ratio, quality
	perMinute          int
}

// minutes makes the last 15 minutes before now at a treated share.
func (w world) minutes(share float64, now time.Time) []kpi.Minute {
	var out []kpi.Minute
	for back := 15; back >= 0; back-- {
		start := now.Truncate(time.Minute).Add(-time.Duration(back) * time.Minute)
		for _, arm := range []struct {
			arm  usage.Arm
			n    float64
			what [2]float64
		}{{usage.Treated, share, w.treated}, {usage.Holdback, 1 - share, w.untreated}} {
			m := kpi.Minute{Start: start, Arm: arm.arm}
			for range int(float64(w.perMinute) * arm.n) {
				ln := baseline.LnCost + math.Log(arm.what[0]) + 0.5*w.rand.NormFloat64()
				code, _ := kpi.CostCode(usage.PicoUSD(math.Exp(ln)))
				m.CostCodes = append(m.CostCodes, code)
				m.QualityCodes = append(m.QualityCodes, kpi.QualityCode(max(0, min(1, arm.what[1]+0.08*w.rand.NormFloat64()))))
			}
			out = append(out, m)
		}
	}
	return out
}

// run steps a rollout every 15 s for the given time and collects the shares applied.
func run(t *testing.T, r Rollout, w world, from time.Time, length time.Duration) (Rollout, []float64, time.Time) {
	t.Helper()
	var shares []float64
	now := from
	for now.Before(from.Add(length)) && r.Phase != Ended {
		now = now.Add(15 * time.Second)
		next, act := r.Step(Observation{Minutes: w.minutes(r.Share(), now), Baseline: baseline}, now)
		if act.Change {
			require.NotEmpty(t, act.Reason)
			require.Equal(t, next.Share(), act.Share)
			shares = append(shares, math.Round(act.Share*100)/100)
		}
		raw, err := json.Marshal(next)
		require.NoError(t, err)
		r = Rollout{}
		require.NoError(t, json.Unmarshal(raw, &r))
	}
	return r, shares, now
}

func TestPlanRollout(t *testing.T) {
	t.Parallel()
	busy := PlanRollout(50, DefaultLimits)
	require.True(t, busy.Provable)
	require.InDeltaSlice(t, []float64{0.10, 0.50, 0.95}, busy.Steps, 1e-9)
	thin := PlanRollout(0.01, DefaultLimits)
	require.False(t, thin.Provable)
	require.Contains(t, thin.Reason, "cannot give 50 costs and 20 scores")
	require.False(t, PlanRollout(0, DefaultLimits).Provable)
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.001, 200).Draw(t, "rate")
		p := PlanRollout(rate, DefaultLimits)
		require.GreaterOrEqual(t, p.Holdback, DefaultLimits.MinHoldback)
		require.LessOrEqual(t, p.Holdback, DefaultLimits.MaxHoldback)
		for i, s := range p.Steps {
			require.Greater(t, s, 0.0)
			require.LessOrEqual(t, s, 1-p.Holdback+1e-9)
			require.True(t, i == 0 || s > p.Steps[i-1])
		}
		if p.Provable {
			require.GreaterOrEqual(t, rate*p.Holdback*DefaultLimits.SampleWithin.Seconds(), 50.0)
			require.GreaterOrEqual(t, rate*p.Steps[0]*DefaultLimits.SampleWithin.Seconds(), 50.0)
		}
	})
}

func TestRolloutRisesHoldsAndReleases(t *testing.T) {
	t.Parallel()
	w := world{rand: rand.New(rand.NewPCG(1, 1)), untreated: [2]float64{3, 0.68}, treated: [2]float64{0.4, 0.84}, perMinute: 600}
	r := Start(PlanRollout(10, DefaultLimits), DefaultLimits, CutCost, began)
	require.InDelta(t, 0.10, r.Share(), 1e-9)
	r, shares, now := run(t, r, w, began, 30*time.Minute)
	require.Equal(t, []float64{0.5, 0.95}, shares)
	require.Equal(t, Holding, r.Phase)
	require.True(t, r.Proven)
	require.Equal(t, Helps, r.Effect.Verdict)

	w.untreated = [2]float64{1, 0.85} // the fault is over
	r, shares, _ = run(t, r, w, now, 30*time.Minute)
	require.Equal(t, []float64{0.5, 0.1, 0}, shares)
	require.Equal(t, Released, r.Outcome)
	require.Zero(t, r.Reversals)
	_, act := r.Step(Observation{}, now.Add(time.Hour))
	require.False(t, act.Change, "an ended rollout does nothing")
}

// TestRolloutIsReleasedWhenOnlyThePriceStaysUp: a price that moved for good would hold a flag for a day
// after quality is back. Cost beyond a page's own threshold still holds it, and so does quality that is
// not back.
func TestRolloutIsReleasedWhenOnlyThePriceStaysUp(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		after [2]float64
		phase RolloutPhase
	}{
		"dearer for good, as good as ever": {[2]float64{1.35, 0.85}, Ended},
		"still twice as dear":              {[2]float64{2, 0.85}, Holding},
		"still worse":                      {[2]float64{1.35, 0.76}, Holding},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := world{rand: rand.New(rand.NewPCG(5, 1)), untreated: [2]float64{3, 0.68}, treated: [2]float64{0.4, 0.84}, perMinute: 1200}
			r, _, now := run(t, Start(PlanRollout(20, DefaultLimits), DefaultLimits, CutCost, began), w, began, 15*time.Minute)
			require.Equal(t, Holding, r.Phase)
			w.untreated = c.after
			r, _, _ = run(t, r, w, now, 20*time.Minute)
			require.Equal(t, c.phase, r.Phase)
			require.Zero(t, r.Reversals)
		})
	}
}

func TestRolloutIsTakenBackOnceWhenTheFaultReturns(t *testing.T) {
	t.Parallel()
	ill := [2]float64{3, 0.68}
	w := world{rand: rand.New(rand.NewPCG(2, 1)), untreated: ill, treated: [2]float64{0.4, 0.84}, perMinute: 600}
	r, _, now := run(t, Start(PlanRollout(10, DefaultLimits), DefaultLimits, CutCost, began), w, began, 10*time.Minute)
	w.untreated = [2]float64{1, 0.85}
	r, shares, now := run(t, r, w, now, 75*time.Second)
	require.Equal(t, []float64{0.5}, shares)
	w.untreated = ill
	r, shares, _ = run(t, r, w, now, 20*time.Minute)
	require.Equal(t, []float64{0.95}, shares)
	require.Equal(t, 1, r.Reversals)
	require.Equal(t, Holding, r.Phase)
}

func TestRolloutThatHarmsIsReverted(t *testing.T) {
	t.Parallel()
	for name, treated := range map[string][2]float64{"dearer": {9, 0.84}, "worse": {0.4, 0.5}} {
		w := world{rand: rand.New(rand.NewPCG(3, 1)), untreated: [2]float64{3, 0.68}, treated: treated, perMinute: 600}
		r, shares, _ := run(t, Start(PlanRollout(10, DefaultLimits), DefaultLimits, CutCost, began), w, began, time.Hour)
		require.Equal(t, []float64{0}, shares, name)
		require.Equal(t, Reverted, r.Outcome, name)
	}
}

func TestRolloutWithoutProofIsReverted(t *testing.T) {
	t.Parallel()
	w := world{rand: rand.New(rand.NewPCG(4, 1)), untreated: [2]float64{3, 0.68}, treated: [2]float64{3, 0.68}, perMinute: 30}
	r, shares, _ := run(t, Start(PlanRollout(10, DefaultLimits), DefaultLimits, CutCost, began), w, began, 2*time.Hour)
	require.Equal(t, []float64{0}, shares)
	require.Equal(t, Reverted, r.Outcome)
	require.False(t, r.Proven)
}

func TestUnprovableRolloutIsReleasedByStepsAtItsExpiry(t *testing.T) {
	t.Parallel()
	w := world{rand: rand.New(rand.NewPCG(5, 1)), untreated: [2]float64{3, 0.68}, treated: [2]float64{0.4, 0.84}, perMinute: 1}
	plan := PlanRollout(1.0/60, DefaultLimits)
	require.False(t, plan.Provable)
	r, shares, now := run(t, Start(plan, DefaultLimits, CutCost, began), w, began, 4*time.Hour)
	require.Equal(t, []float64{0.25, 0}, shares)
	require.Equal(t, Expired, r.Outcome)
	require.False(t, r.Proven)
	require.WithinDuration(t, began.Add(2*time.Hour), now, 2*time.Minute)
}
