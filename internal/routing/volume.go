package routing

import (
	"fmt"
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// A stop and a shape answer runaway spend: each call costs what it always did, but there are far too many. Refused
// calls leave nothing to compare, so no test of the arms can prove the act, and medians of the holdback say nothing of
// the fault. What shows that it is over is the volume on offer, which the calls that are let through give an
// estimate of: their spend divided by the share that is let through.

const (
	// shapeTo is how many times the usual spend a shape lets through.
	shapeTo = 1.5
	// offeredWell and offeredIll are the offered spend beside the usual below which the fault is over, and above
	// which it goes on: those at which policies/alert.yaml leaves and enters runaway spend.
	offeredWell = 2.0
	offeredIll  = 3.0
	// offeredCalls is how many calls an estimate should rest on, and offeredMinutes how long it waits for them: a key
	// that is all but quiet then counts as it is. One without any call at all does not: its telemetry may be late, and
	// a flag that refuses nothing does no harm until its end.
	offeredCalls   = 20
	offeredMinutes = 5
	// storedAfter is how long a minute's calls take to be stored, at the most.
	storedAfter = 30 * time.Second
)

// PlanVolume is the plan of a stop, or of a shape that brings spend, now at ratio times the usual, back to about what is
// usual. It is applied at once, and its steps are those of the release: half-open, each a larger part of the calls let
// through to see whether there are still too many.
func PlanVolume(k Kind, ratio float64, l Limits) Plan {
	holdback := l.MinHoldback
	reason := fmt.Sprintf("refused calls leave nothing to compare; %.0f %% are let through and show when the fault is over", l.MinHoldback*100)
	if k == Shape {
		holdback = max(holdback, min(shapeTo/max(ratio, shapeTo), 1-l.FirstStep)) // an act that refuses nothing is none
		reason = fmt.Sprintf("refused calls leave nothing to compare; %.0f %% are let through, about %.1f × the usual spend", holdback*100, shapeTo)
	}
	return Plan{Steps: []float64{(1 - holdback) / 2, 1 - holdback}, Holdback: holdback, Reason: reason}
}

// offered judges the spend on offer while a share of the calls is refused, over whole minutes at this share.
func (r Rollout) offered(o Observation, now time.Time) health {
	through := 1 - r.Share()
	if o.Baseline.SpendPerMinute <= 0 || through <= 0 {
		return unknown
	}
	end := now.Add(-storedAfter).Truncate(time.Minute)
	for n := 1; n <= 3*offeredMinutes; n++ {
		from := end.Add(-time.Duration(n) * time.Minute)
		if from.Before(r.Since) {
			break
		}
		var calls, spend float64
		for _, m := range o.Minutes {
			if !m.Start.Before(from) && m.Start.Before(end) && m.Arm != usage.Treated {
				calls += float64(m.Requests)
				spend += float64(m.CostPico)
			}
		}
		if calls == 0 || calls < offeredCalls && n < offeredMinutes {
			continue
		}
		ratio := spend / float64(n) / through / o.Baseline.SpendPerMinute
		luck := illZ / math.Sqrt(max(calls, 1)) // of a Poisson number of calls
		switch {
		case ratio < offeredWell:
			return isWell
		case ratio > offeredIll && ratio*(1-luck) > offeredWell:
			return isIll
		}
		return unwell
	}
	return unknown
}
