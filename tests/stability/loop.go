package stability

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// rules say what Facts are; the shipped ones are policies/alert.yaml.
type rules struct {
	judge    func(detect.Facts) detect.Level
	shortest bool // take the shortest window with the minimum samples, whatever its noise
}

// result is what the loop did to one plant.
type result struct {
	params
	simulated  time.Duration
	pages      []time.Duration // when a PAGE fired, or an incident escalated to one
	falsePages int
	detected   time.Duration // from the fault's start to the page, ingest lag included; −1: never
	provable   bool
	acts       int
	unprovable int           // automatic acts where traffic could not prove them: must stay 0
	reversals  int           // raised again after a release, within one fault
	released   time.Duration // from the fault's end to the flag's removal; −1: never
	outcome    routing.Outcome
	heldAtEnd  bool // a flag is still on
}

// simulate runs the whole loop over a plant for the given time.
func simulate(p params, seed uint64, rule rules, limits routing.Limits, holds alert.Holds, length time.Duration) result {
	r := rand.New(rand.NewPCG(seed, 1))
	pl := newPlant(p, r)
	base := pl.baseline(limits.Minimums)
	if rule.shortest { // without the spread of single calls no window is known to be too noisy
		base.LnCostSD, base.QualitySD = 0, 0
	}
	for range int(15 * time.Minute / tick) { // fill the windows
		pl.step()
	}
	state := alert.New(pl.clock())
	active := detect.None // the level the sweep last told
	var rollout *routing.Rollout
	var lastEnd time.Time
	var walked []runbook.Done
	res := result{params: p, detected: -1, released: -1}
	start := pl.now
	for tickNo := int64(1); pl.now-start < length; tickNo++ {
		pl.step()
		now := pl.clock()
		var event alert.Event
		if pl.fresh {
			pl.fresh = false
			f := detect.Assemble(pl.observe(), base, limits.Minimums, active)
			level := detect.None
			if detect.Candidate(f) {
				level = rule.judge(f)
			} else if !f.CostKnown && !f.QualityKnown {
				level = detect.Inconclusive
			}
			event.Fact = &alert.Fact{Tick: tickNo, EvaluatedAt: now, Level: level}
			if level != detect.Inconclusive {
				active = level
			}
		} else if tickNo%12 == 0 { // nothing new: the minute's re-affirmation
			event.Fact = &alert.Fact{Tick: tickNo, EvaluatedAt: now, Level: active}
		}
		inFault := p.fault != nil && pl.now >= p.fault.start && pl.now < p.fault.end+15*time.Minute
		var effects []alert.Effect
		if event.Fact != nil || state.Phase != alert.Quiet {
			state, effects = alert.Step(state, event, holds, now)
		}
		paged := (slices.Contains(effects, alert.Fire) && state.Peak == detect.Page) || slices.Contains(effects, alert.Escalate)
		if paged {
			res.pages = append(res.pages, pl.now)
			switch {
			case !inFault:
				res.falsePages++
			case res.detected < 0:
				res.detected = pl.now - p.fault.start + p.lag
			}
		}
		if paged && rollout == nil {
			plan := routing.PlanRollout(float64(pl.observe().Whole.Requests)/(14*60+float64(now.Second())), limits)
			res.provable = plan.Provable
			if plan.Provable && now.Sub(lastEnd) >= limits.CoolDown {
				if p.rate*0.5*15*60 < float64(limits.Minimums.Cost) {
					res.unprovable++
				}
				ro := routing.Start(plan, limits, routing.CutCost, now)
				walked = nil
				rollout = &ro
				pl.share = ro.Share()
				if res.acts++; res.acts > 1 && inFault {
					res.reversals++
				}
				one := 1
				state, _ = alert.Step(state, alert.Event{Flags: &one}, holds, now)
			}
		}
		if rollout != nil {
			walked = walk(walked, now.Sub(rollout.Started), now)
			if len(walked) == 4 && runbook.Cause(walked) == "" { // T+10 and still unclear
				if frozen, changed := rollout.Freeze(); changed {
					rollout = &frozen
				}
			}
		}
		if rollout != nil && tickNo%3 == 0 {
			before := rollout.Reversals
			next, act := rollout.Step(routing.Observation{Minutes: pl.minutes(), Baseline: base}, now)
			rollout = &next
			if act.Change {
				pl.share = act.Share
			}
			if next.Reversals > before && inFault {
				res.reversals++
			}
			if next.Phase == routing.Ended {
				res.outcome, lastEnd = next.Outcome, now
				if p.fault != nil && pl.now >= p.fault.end && res.released < 0 {
					res.released = pl.now - p.fault.end + p.lag
				}
				rollout = nil
				none := 0
				state, _ = alert.Step(state, alert.Event{Flags: &none}, holds, now)
			}
		}
	}
	res.simulated = pl.now - start
	res.heldAtEnd = rollout != nil
	return res
}

// walk takes the runbook's steps that are due after the incident's opening. The plant has no deployments,
// its provider's page cannot be read, and its calls are as long as ever: the cause stays unclear, so at
// T+10 an act that goes by itself is frozen at its share.
func walk(done []runbook.Done, since time.Duration, now time.Time) []runbook.Done {
	plan := runbook.Plan(1)
	for len(done) < len(plan) && since >= plan[len(done)].After {
		step := plan[len(done)]
		var v runbook.Verdict
		switch step.Name {
		case runbook.T0:
			v = runbook.JudgeChange(nil, nil, now)
		case runbook.T2:
			v = runbook.JudgeProvider(runbook.ProviderHealth{})
		case runbook.T5:
			v = runbook.JudgeCompletion(runbook.Completion{Now: 1, Before: 1, Calls: 100}, 50)
		}
		done = append(done, runbook.Done{Step: step, At: now, Verdict: v})
	}
	return done
}
