package routing

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// crowd is a key whose callers make calls of a cent each, times the usual of sixty a minute.
type crowd struct {
	rand  *rand.Rand
	times func(time.Time) float64
}

const usualCalls = 60

var usualSpend = detect.Baseline{CostBuckets: 50, SpendPerMinute: usualCalls * 1e10}

// through are the minutes of the calls that are let through at the shares that were applied.
func (c crowd) through(share func(time.Time) float64, now time.Time) (minutes []kpi.Minute) {
	for back := 20; back >= 0; back-- {
		start := now.Truncate(time.Minute).Add(-time.Duration(back) * time.Minute)
		n := int64(0)
		for range int(usualCalls * c.times(start)) {
			if c.rand.Float64() >= share(start) {
				n++
			}
		}
		minutes = append(minutes, kpi.Minute{Start: start, Arm: usage.Holdback, Requests: n, CostPico: 1e10 * n})
	}
	return minutes
}

func (c crowd) run(k Kind, ratio float64, length time.Duration) (r Rollout, shares []float64, now time.Time) {
	r = Start(PlanVolume(k, ratio, DefaultLimits), DefaultLimits, CutSpend, began)
	applied := map[time.Time]float64{}
	share := func(at time.Time) float64 { return applied[at] }
	for now = began; now.Before(began.Add(length)) && r.Phase != Ended; now = now.Add(15 * time.Second) {
		applied[now.Truncate(time.Minute)] = r.Share()
		next, act := r.Step(Observation{Minutes: c.through(share, now), Baseline: usualSpend}, now)
		if act.Change {
			shares = append(shares, act.Share)
		}
		r = next
	}
	return r, shares, now
}

func TestAStopIsAppliedAtOnceAndReleasedHalfOpen(t *testing.T) {
	t.Parallel()
	c := crowd{rand.New(rand.NewPCG(1, 2)), func(at time.Time) float64 {
		if at.Before(began.Add(20 * time.Minute)) {
			return 15
		}
		return 1
	}}
	r, shares, now := c.run(Stop, 15, 2*time.Hour)
	require.Equal(t, []float64{0.475, 0}, shares)
	require.Equal(t, Released, r.Outcome)
	require.Zero(t, r.Reversals)
	require.WithinDuration(t, began.Add(30*time.Minute), now, 10*time.Minute)
}

func TestAStopClosesAgainWhenTheVolumeIsBack(t *testing.T) {
	t.Parallel()
	c := crowd{rand.New(rand.NewPCG(1, 2)), func(at time.Time) float64 {
		if m := at.Sub(began).Minutes(); m < 10 || m >= 17 && m < 40 {
			return 15
		}
		return 1
	}}
	r, shares, _ := c.run(Stop, 15, 2*time.Hour)
	require.Equal(t, 1, r.Reversals)
	require.Equal(t, []float64{0.475, 0.95, 0.475, 0}, shares)
	require.Equal(t, Released, r.Outcome)
}

func TestAStopWhoseVolumeStaysEndsByItsTime(t *testing.T) {
	t.Parallel()
	c := crowd{rand.New(rand.NewPCG(1, 2)), func(time.Time) float64 { return 15 }}
	r, _, now := c.run(Stop, 15, 4*time.Hour)
	require.Equal(t, Expired, r.Outcome)
	require.WithinDuration(t, began.Add(DefaultLimits.UnprovenHold), now, 5*time.Minute)
}

func TestNoTelemetryReleasesNoStop(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]Observation{"no baseline": {}, "no calls": {Baseline: usualSpend}} {
		r := Start(PlanVolume(Stop, 15, DefaultLimits), DefaultLimits, CutSpend, began)
		for now := began; now.Before(began.Add(time.Hour)); now = now.Add(time.Minute) {
			next, act := r.Step(o, now)
			require.False(t, act.Change, name)
			r = next
		}
	}
}

// A shape lets about one and a half times the usual spend through, whatever the volume.
func TestAShapeLetsTheUsualThrough(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ratio := rapid.Float64Range(0.5, 30).Draw(t, "ratio")
		p := PlanVolume(Shape, ratio, DefaultLimits)
		last := p.Steps[len(p.Steps)-1]
		require.False(t, p.Provable)
		require.GreaterOrEqual(t, last, DefaultLimits.FirstStep-1e-9)
		if ratio > 2 && ratio < 20 {
			require.InDelta(t, shapeTo, ratio*(1-last), 1e-9)
		}
		require.LessOrEqual(t, last, 1-DefaultLimits.MinHoldback)
	})
}

// What a shape refuses is drawn anew each minute and says when to ask again; what a stop refuses stays refused.
func TestAShapeKeepsNobodyOutForGood(t *testing.T) {
	t.Parallel()
	s := NewSnapshot([]Flag{{Key: aKey, Kind: Shape, Share: 0.5, Decision: "d", RenewedAt: began}}, Revision{})
	refused, retries := map[string]int{}, map[int]int{}
	for minute := range 20 {
		for i := range 200 {
			now := began.Add(time.Duration(minute)*time.Minute + 12*time.Second)
			session := fmt.Sprint("s", i)
			answer := Decide(s, Request{TenantID: aKey.Tenant, RequestedModel: aKey.Model, TraceID: "t", SessionID: session}, now)
			if !answer.Stop {
				require.Equal(t, usage.Holdback, answer.Arm)
				require.Zero(t, answer.RetryAfter)
				continue
			}
			refused[session]++
			retries[answer.RetryAfter]++
			require.Equal(t, Answer{
				Model: aKey.Model, Route: "shape", Arm: usage.Treated, Share: 0.5, DecisionID: "d", Stop: true, RetryAfter: answer.RetryAfter,
			}, answer)
			again := Decide(s, Request{TenantID: aKey.Tenant, RequestedModel: aKey.Model, TraceID: "other", SessionID: session}, now.Add(time.Duration(answer.RetryAfter-1)*time.Second))
			require.True(t, again.Stop, "the same until then")
		}
	}
	require.Len(t, refused, 200)
	for after, n := range retries {
		require.True(t, after >= 1 && after <= 60)
		require.Less(t, n, 200, "they do not come back all at once, after %d s", after)
	}
	for session, n := range refused {
		require.Less(t, n, 20, "%s was kept out for good", session)
	}
}
