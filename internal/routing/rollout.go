package routing

import (
	"fmt"
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Limits are the tunables of a rollout. They are recorded with it, so that a change never alters one
// that is under way.
type Limits struct {
	Minimums     detect.Minimums `json:"minimums"`
	FirstStep    float64         `json:"first_step"` // least share of the first step
	MinHoldback  float64         `json:"min_holdback"`
	MaxHoldback  float64         `json:"max_holdback"`
	SampleWithin time.Duration   `json:"sample_within"` // each arm must gather the minimums in this time
	StepWait     time.Duration   `json:"step_wait"`     // for a verdict; then the act is reverted
	Dwell        time.Duration   `json:"dwell"`         // the least time at a share, up or down
	ClearFor     time.Duration   `json:"clear_for"`     // the untreated traffic must be well at both ends of this, and not ill between
	ClearCost    float64         `json:"clear_cost"`    // well: its cost ratio is below this …
	ClearQuality float64         `json:"clear_quality"` // … and its quality ratio above this
	IllFor       time.Duration   `json:"ill_for"`       // ill this long during a release, and it is taken back: a minute's burst is not
	SecondClear  time.Duration   `json:"second_clear"`  // in place of ClearFor, once a release had to be taken back
	MaxHold      time.Duration   `json:"max_hold"`      // then it is released by steps, well or not
	UnprovenHold time.Duration   `json:"unproven_hold"` // the same where traffic cannot prove the act
	CoolDown     time.Duration   `json:"cool_down"`     // after an act ended, the next one on the key asks a human
}

// DefaultLimits are the product's. The sample times follow from the promise to release within 20
// minutes of the fault's end: the untreated arm must refill its window and the release its steps.
var DefaultLimits = Limits{
	Minimums:  detect.DefaultMinimums,
	FirstStep: 0.10, MinHoldback: 0.05, MaxHoldback: 0.50,
	SampleWithin: 7 * time.Minute, StepWait: 30 * time.Minute,
	Dwell: time.Minute, ClearFor: time.Minute, IllFor: 2 * time.Minute, ClearCost: 1.2, ClearQuality: 0.92,
	SecondClear: 3 * time.Minute, MaxHold: 24 * time.Hour, UnprovenHold: 2 * time.Hour,
	CoolDown: 30 * time.Minute,
}

// Scaled returns the limits with their times multiplied by scale (1 is real time). SampleWithin is
// not scaled: samples come at the traffic's own pace.
func (l Limits) Scaled(scale float64) Limits {
	for _, d := range []*time.Duration{&l.StepWait, &l.Dwell, &l.ClearFor, &l.IllFor, &l.SecondClear, &l.MaxHold, &l.UnprovenHold, &l.CoolDown} {
		*d = time.Duration(float64(*d) * scale)
	}
	return l
}

// sampleMargin allows for Poisson luck: an arm that must gather n samples is sized for 1.3 n.
const sampleMargin = 1.3

// Plan is how an act would be rolled out on a key.
type Plan struct {
	Steps    []float64 `json:"steps"`    // treated shares, ascending
	Holdback float64   `json:"holdback"` // 1 − the last step
	Provable bool      `json:"provable"` // false: no automatic act, and a human's act stays UNPROVEN
	Reason   string    `json:"reason"`
}

// PlanRollout sizes the steps and the holdback for a key with perSecond calls, all of them scored
// while a flag is on. The holdback, and the first treated share, are as small as still gather the
// minimum samples within SampleWithin; traffic too thin for that at MaxHoldback cannot prove an act.
func PlanRollout(perSecond float64, l Limits) Plan {
	need := sampleMargin * float64(max(l.Minimums.Cost, l.Minimums.Quality))
	expected := perSecond * l.SampleWithin.Seconds()
	fraction := 1.0
	if expected > 0 {
		fraction = need / expected
	}
	if fraction > l.MaxHoldback {
		return Plan{
			Steps: []float64{(1 - l.MaxHoldback) / 2, 1 - l.MaxHoldback}, Holdback: l.MaxHoldback,
			Reason: fmt.Sprintf("%.3g calls a minute cannot give %d costs and %d scores to both arms within %s",
				perSecond*60, l.Minimums.Cost, l.Minimums.Quality, l.SampleWithin),
		}
	}
	holdback := max(fraction, l.MinHoldback)
	plan := Plan{
		Holdback: holdback, Provable: true,
		Reason: fmt.Sprintf("%.3g calls a minute give the holdback of %.0f %% its samples within %s", perSecond*60, holdback*100, l.SampleWithin),
	}
	last := 1 - holdback
	for _, s := range []float64{max(fraction, l.FirstStep), 0.5} {
		if s < last && (len(plan.Steps) == 0 || s > plan.Steps[len(plan.Steps)-1]) {
			plan.Steps = append(plan.Steps, s)
		}
	}
	plan.Steps = append(plan.Steps, last)
	return plan
}

// RolloutPhase is where a rollout stands.
type RolloutPhase string

// The phases of a rollout.
const (
	Rising  RolloutPhase = "rising"  // towards the last step, a test between each two
	Holding RolloutPhase = "holding" // at the last step, watching the holdback
	Falling RolloutPhase = "falling" // the holdback is well: down the same steps
	Ended   RolloutPhase = "ended"
)

// Outcome is how a rollout ended.
type Outcome string

// The outcomes. Expired is a release because time was up, whether or not the fault had ended.
const (
	Released Outcome = "released"
	Reverted Outcome = "reverted"
	Expired  Outcome = "expired"
)

// Goal is what an act is meant to mend, and so what its test must show.
type Goal string

// The goals.
const (
	CutCost     Goal = "cost"    // significantly cheaper, quality not worse
	MendQuality Goal = "quality" // significantly better; cost is the price
	CutSpend    Goal = "spend"   // fewer calls: a stop or a shape, of which the offered volume shows when it is over
)

// Rollout is one act under way; it survives restarts as JSON.
type Rollout struct {
	Plan      Plan         `json:"plan"`
	Limits    Limits       `json:"limits"`
	Goal      Goal         `json:"goal"`
	Phase     RolloutPhase `json:"phase"`
	Index     int          `json:"index"` // of the step now applied; −1 is none
	Started   time.Time    `json:"started"`
	Since     time.Time    `json:"since"`       // when this share was applied
	ClearAt   time.Time    `json:"clear_since"` // when the untreated traffic was first well and not ill since; zero: never
	IllAt     time.Time    `json:"ill_since"`   // since when it has been ill without a break; zero: it is not
	Reversals int          `json:"reversals"`   // releases that had to be taken back
	Proven    bool         `json:"proven"`      // a test has shown that the act helps
	Outcome   Outcome      `json:"outcome,omitempty"`
	Effect    *Comparison  `json:"effect,omitempty"` // the last test that had enough samples
	NextLook  int          `json:"next_look"`        // samples of the smaller arm at which the arms are tested next; 0: at the minimum
	Looks     int          `json:"looks"`            // tests of the arms so far, at all shares: each has less of the error to spend
	LookedAt  time.Time    `json:"looked_at"`
}

// Start begins a rollout at its first step.
func Start(p Plan, l Limits, g Goal, now time.Time) Rollout {
	r := Rollout{Plan: p, Limits: l, Goal: g, Phase: Rising, Started: now, Since: now}
	if !p.Provable || len(p.Steps) == 1 {
		r.Index = len(p.Steps) - 1
	}
	if g == CutSpend {
		r.Phase = Holding
	}
	return r
}

// Share is the treated share to apply now.
func (r Rollout) Share() float64 {
	if r.Phase == Ended || r.Index < 0 {
		return 0
	}
	return r.Plan.Steps[r.Index]
}

// Freeze makes the share that is applied the last; false when it is the last already. What is tested,
// released and reverted stays the same.
func (r Rollout) Freeze() (Rollout, bool) {
	if r.Index < 0 || r.Index >= len(r.Plan.Steps)-1 {
		return r, false
	}
	r.Plan.Steps = r.Plan.Steps[:r.Index+1]
	return r, true
}

// Act is what Step wants done: nothing, another share, or the end (a share of 0).
type Act struct {
	Change bool    `json:"change"`
	Share  float64 `json:"share"`
	Reason string  `json:"reason"`
}

// Observation is what Step looks at: the key's minutes, by arm, from a quarter of an hour or more
// back (and from the rollout's start) until now, and the key's baseline.
type Observation struct {
	Minutes  []kpi.Minute    `json:"minutes"`
	Baseline detect.Baseline `json:"baseline"`

	Mix    *Mix         `json:"mix,omitempty"`    // the fault is a turn of the tenant's callers to the key's model
	Tenant []kpi.Minute `json:"tenant,omitempty"` // the minutes of all the tenant's models together, to see the mix by
}

// signal names what shows whether the fault is over.
func (r Rollout) signal(o Observation) string {
	switch {
	case r.Goal == CutSpend:
		return "the spend on offer"
	case o.Mix != nil:
		return "the requested mix"
	}
	return "the untreated traffic"
}

// Step looks at the arms at now and moves the rollout. Call it every few seconds; it is idempotent
// between changes.
func (r Rollout) Step(o Observation, now time.Time) (Rollout, Act) {
	if r.Phase == Ended {
		return r, Act{}
	}
	hold := r.Limits.MaxHold
	if !r.Plan.Provable {
		hold = r.Limits.UnprovenHold
	}
	expired := now.Sub(r.Started) >= hold
	well := r.health(o, now)
	switch {
	case well == isWell && r.ClearAt.IsZero():
		r.ClearAt = now
	case well == isIll && r.IllAt.IsZero():
		r.ClearAt, r.IllAt = time.Time{}, now
	case well == isIll:
		r.ClearAt = time.Time{}
	}
	if well == isWell || well == unwell {
		r.IllAt = time.Time{}
	}
	ill := !r.IllAt.IsZero() && now.Sub(r.IllAt) >= r.Limits.IllFor
	comparison, tested := Compare(o.Minutes, later(r.Since.Truncate(time.Minute), now.Add(-lookBack)), r.Limits.Minimums)
	if tested = tested && r.lookDue(comparison, now); tested {
		r.Looks++
		comparison = comparison.judge(r.Goal, o.Baseline, r.Looks)
		r.Effect, r.LookedAt = &comparison, now
		r.NextLook = 2 * comparison.size()
	}
	dwelt := now.Sub(r.Since) >= r.Limits.Dwell

	switch {
	case tested && comparison.Verdict == Harms && r.Phase != Falling:
		return r.end(Reverted, comparison.Reason)
	case r.Phase == Falling && ill && !expired:
		return r.takeBack(r.signal(o), now)
	case r.Phase == Falling && dwelt && (well == isWell || expired):
		return r.down(Released, r.signal(o)+" stays well", expired, now)
	case r.Phase == Falling:
		return r, Act{}
	case expired:
		return r.down(Expired, fmt.Sprintf("held for %s, the longest allowed", hold), true, now)
	case well == isWell && r.clear(now) && r.Goal == CutSpend:
		return r.down(Released, "the spend on offer is back within twice the usual", false, now)
	case well == isWell && r.clear(now) && o.Mix != nil:
		return r.down(Released, "the requested mix is back within half of the way to the usual", false, now)
	case well == isWell && r.clear(now) && r.Plan.Provable:
		return r.down(Released, "the untreated traffic is back within its baseline", false, now)
	case r.Phase == Rising && tested && comparison.Verdict == Helps:
		r.Proven = true
		return r.up(comparison.Reason, now)
	case r.Phase == Rising && r.Plan.Provable && now.Sub(r.Since) >= r.Limits.StepWait:
		return r.end(Reverted, fmt.Sprintf("no proof of help within %s: %s", r.Limits.StepWait, comparison.Reason))
	}
	return r, Act{}
}

// lookDue says whether the arms are tested now. Each test has less of the error to spend than the one before (see
// critical), so one at every poll would soon see nothing: while rising, once the share has dwelt, there is one at the
// minimum samples and one at each doubling, a handful in all; while holding there is one for each third of the
// look-back.
func (r Rollout) lookDue(c Comparison, now time.Time) bool {
	if r.Phase == Rising {
		return c.size() >= r.NextLook && now.Sub(r.Since) >= r.Limits.Dwell
	}
	return now.Sub(r.LookedAt) >= lookBack/3
}

// lookBack bounds the minutes that a test of the arms takes in: a long hold is judged by what it does
// now.
const lookBack = 15 * time.Minute

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// clear reports whether the untreated traffic has been well for long enough to begin the release.
func (r Rollout) clear(now time.Time) bool {
	need := r.Limits.ClearFor
	if r.Reversals > 0 {
		need = r.Limits.SecondClear
	}
	return !r.ClearAt.IsZero() && now.Sub(r.ClearAt) >= need
}

// up applies the next higher share, or holds at the last.
func (r Rollout) up(why string, now time.Time) (Rollout, Act) {
	if r.Index == len(r.Plan.Steps)-1 {
		r.Phase = Holding
		return r, Act{}
	}
	r.Index++
	r.Since, r.NextLook = now, 0
	return r, Act{Change: true, Share: r.Share(), Reason: why}
}

// down applies the next lower share, or ends.
func (r Rollout) down(o Outcome, why string, expired bool, now time.Time) (Rollout, Act) {
	r.Phase = Falling
	if expired && r.Outcome == "" {
		r.Outcome = Expired
	}
	if r.Index == 0 {
		if r.Outcome == "" {
			r.Outcome = o
		}
		return r.end(r.Outcome, why)
	}
	r.Index--
	r.Since = now
	return r, Act{Change: true, Share: r.Share(), Reason: why}
}

// takeBack returns to the last step because the fault was not over. It happens at most once a
// fault in practice: from then on the release asks for SecondClear of wellness.
func (r Rollout) takeBack(signal string, now time.Time) (Rollout, Act) {
	r.Phase, r.Reversals, r.ClearAt = Holding, r.Reversals+1, time.Time{}
	r.Index = len(r.Plan.Steps) - 1
	r.Since = now
	return r, Act{Change: true, Share: r.Share(), Reason: signal + " is ill again: the release is taken back"}
}

// end takes the flag off.
func (r Rollout) end(o Outcome, why string) (Rollout, Act) {
	r.Phase, r.Outcome, r.Index = Ended, o, -1
	return r, Act{Change: true, Reason: why}
}

// health is a verdict on the untreated traffic, or on the requested mix.
type health int

const (
	unknown health = iota // not enough samples
	isWell
	unwell // outside the band, but within its noise
	isIll
)

// illZ is how far beyond its noise the untreated traffic must be for a release to be taken back.
const illZ = 3

// wellZ is within what noise the cost of untreated traffic counts as usual even above ClearCost: few calls
// of widely spread cost are otherwise called unwell by luck alone, for a quarter of an hour and more.
const wellZ = 2

// pageCost and pageQuality are the ratios to the baseline beyond which a key is paged (policies/alert.yaml).
// Every page is about quality, so where that is provably back no page can begin, and cost keeps a flag on
// only if it is provably beyond its own side of one: a price that moved for good is no fault that goes on.
const (
	pageCost    = 1.5
	pageQuality = 0.85
)

// health judges what shows whether the fault is over.
func (r Rollout) health(o Observation, now time.Time) health {
	if r.Goal == CutSpend {
		return r.offered(o, now)
	}
	if o.Mix != nil {
		return o.Mix.health(o.Minutes, o.Tenant, now, r.Limits.Minimums.Cost)
	}
	return r.untreated(o, now)
}

// untreated judges the traffic that no flag touches, over the shortest run of minutes, at most 15, that
// holds the minimum samples. A run of twice as many may say that it is well too: its noise is less, so a
// key of widely spread costs is not kept waiting by bad luck.
func (r Rollout) untreated(o Observation, now time.Time) health {
	verdict := unknown
	for _, times := range []int{1, 2} {
		min := r.Limits.Minimums
		min.Cost, min.Quality = min.Cost*times, min.Quality*times
		cost, quality, ok := recent(o.Minutes, now, min, func(a usage.Arm) bool { return a != usage.Treated })
		if !ok {
			break
		}
		h := r.judge(cost, quality, o.Baseline)
		if h == isWell {
			return isWell
		}
		if times == 1 {
			verdict = h
		}
	}
	return verdict
}

// judge compares the untreated traffic with its baseline.
func (r Rollout) judge(cost, quality kpi.Sample, b detect.Baseline) health {
	costRatio := math.Exp(cost.Median - b.LnCost)
	qualityRatio := 1.0
	if b.Quality > 0 {
		qualityRatio = quality.Median / b.Quality
	}
	costNoise, qualityNoise := detect.CostNoise(b, cost.N), detect.QualityNoise(b, quality.N)
	costZ := math.Log(costRatio) / costNoise
	qualityZ := (1 - qualityRatio) * b.Quality / qualityNoise
	qualityWell := qualityRatio > r.Limits.ClearQuality
	qualityBack := qualityWell && (qualityRatio-pageQuality)*b.Quality > wellZ*qualityNoise
	costWell := costRatio < r.Limits.ClearCost || costZ < wellZ || qualityBack && math.Log(costRatio/pageCost) < wellZ*costNoise
	switch {
	case costWell && qualityWell:
		return isWell
	case !costWell && costZ > illZ, !qualityWell && qualityZ > illZ:
		return isIll
	}
	return unwell
}

// recent gathers the samples of the wanted arms over the shortest run of whole and current minutes
// that has the minimums.
func recent(minutes []kpi.Minute, now time.Time, min detect.Minimums, want func(usage.Arm) bool) (cost, quality kpi.Sample, ok bool) {
	current := now.Truncate(time.Minute)
	for n := 1; n <= detect.Windows[len(detect.Windows)-1]; n++ {
		from := current.Add(-time.Duration(n-1) * time.Minute)
		cost, quality = gather(minutes, from, want)
		if cost.N >= min.Cost && quality.N >= min.Quality {
			return cost, quality, true
		}
	}
	return cost, quality, false
}

// gather is the sample of the wanted arms in the minutes from the given one on.
func gather(minutes []kpi.Minute, from time.Time, want func(usage.Arm) bool) (cost, quality kpi.Sample) {
	var costs, scores []int16
	for _, m := range minutes {
		if !m.Start.Before(from) && want(m.Arm) {
			costs = append(costs, m.CostCodes...)
			scores = append(scores, m.QualityCodes...)
		}
	}
	return kpi.CostSample(costs), kpi.QualitySample(scores)
}

// Proof is the verdict of a test of treated against holdback.
type Proof string

// The verdicts.
const (
	Helps    Proof = "helps"
	Harms    Proof = "harms"
	Unproven Proof = "unproven"
)

// Comparison is treated against holdback over the same minutes.
type Comparison struct {
	TreatedCost     kpi.Sample `json:"treated_cost"`
	HoldbackCost    kpi.Sample `json:"holdback_cost"`
	TreatedQuality  kpi.Sample `json:"treated_quality"`
	HoldbackQuality kpi.Sample `json:"holdback_quality"`
	CostRatio       float64    `json:"cost_ratio"` // treated / holdback, of medians
	CostZ           float64    `json:"cost_z"`     // of its logarithm
	QualityDiff     float64    `json:"quality_diff"`
	QualityZ        float64    `json:"quality_z"`
	Verdict         Proof      `json:"verdict"`
	Reason          string     `json:"reason"`
}

// Compare gathers both arms from the given minute on; ok is false while either lacks the minimum
// samples.
func Compare(minutes []kpi.Minute, from time.Time, min detect.Minimums) (c Comparison, ok bool) {
	c.TreatedCost, c.TreatedQuality = gather(minutes, from, func(a usage.Arm) bool { return a == usage.Treated })
	c.HoldbackCost, c.HoldbackQuality = gather(minutes, from, func(a usage.Arm) bool { return a == usage.Holdback })
	c.Verdict = Unproven
	if c.TreatedCost.N < min.Cost || c.HoldbackCost.N < min.Cost || c.TreatedQuality.N < min.Quality || c.HoldbackQuality.N < min.Quality {
		c.Reason = fmt.Sprintf("treated has %d costs and %d scores, holdback %d and %d; each needs %d and %d",
			c.TreatedCost.N, c.TreatedQuality.N, c.HoldbackCost.N, c.HoldbackQuality.N, min.Cost, min.Quality)
		return c, false
	}
	return c.compare(), true
}

// compare fills in the differences of the samples and how large they are beside their noise.
func (c Comparison) compare() Comparison {
	cost := c.TreatedCost.Median - c.HoldbackCost.Median
	c.CostRatio = math.Exp(cost)
	c.CostZ = cost / math.Hypot(se(c.TreatedCost), se(c.HoldbackCost))
	c.QualityDiff = c.TreatedQuality.Median - c.HoldbackQuality.Median
	c.QualityZ = c.QualityDiff / math.Hypot(se(c.TreatedQuality), se(c.HoldbackQuality))
	return c
}

// size is the number of calls in the smaller arm.
func (c Comparison) size() int { return min(c.TreatedCost.N, c.HoldbackCost.N) }

// se is the sample's standard error, never zero: codes are rounded, so identical values still differ
// by half a code.
func se(s kpi.Sample) float64 { return max(s.MedianSE(), 0.0025) }

// What the tests of one rollout may get wrong, over all of its looks and whatever they have in common: the chance
// that an act which does nothing is ever called a help, and that it is ever called a harm by its cost, or by its
// quality.
const (
	falseHelp = 0.025
	falseHarm = 0.005
)

// qualityMargin is by how much of its baseline quality may fall before an act that cuts cost counts as worse.
const qualityMargin = 0.05

// iqrEfficiency is that of a deviation taken from quartiles against the usual one: from n values it is as
// uncertain as one with 0.37 n degrees of freedom.
const iqrEfficiency = 0.37

// critical is how many standard errors a difference must be at the look, the first being 1, for a test that errs one
// way with at most the chance alpha over any number of looks: look k spends alpha · 6/(π²k²), which sums to alpha, and
// by Boole's inequality no dependence between looks can make it more (alpha spending, Lan & DeMets 1983, without
// their use of the joint law, which a rollout that changes its share does not have). The normal quantile is widened
// to Student's by the first term of its Cornish–Fisher expansion, since the standard error is itself estimated from
// the n values of the smaller arm.
func critical(alpha float64, look, n int) float64 {
	spent := alpha * 6 / (math.Pi * math.Pi * float64(look) * float64(look))
	z := math.Sqrt2 * math.Erfinv(1-2*spent)
	return z + (z*z*z+z)/(4*iqrEfficiency*float64(n))
}

// judge fills in the verdict for the goal at a look.
func (c Comparison) judge(g Goal, b detect.Baseline, look int) Comparison {
	costs, scores := min(c.TreatedCost.N, c.HoldbackCost.N), min(c.TreatedQuality.N, c.HoldbackQuality.N)
	margin := qualityMargin * b.Quality
	figures := fmt.Sprintf("treated costs %.2f × the holdback (z %.1f), quality %+.3f (z %.1f)", c.CostRatio, c.CostZ, c.QualityDiff, c.QualityZ)
	worse := c.QualityDiff < -margin && c.QualityZ < -critical(falseHarm, look, scores)
	switch {
	case worse, g == CutCost && c.CostZ > critical(falseHarm, look, costs):
		c.Verdict, c.Reason = Harms, "the act harms: "+figures
	case g == CutCost && c.CostZ < -critical(falseHelp, look, costs) && c.QualityDiff > -margin,
		g == MendQuality && c.QualityZ > critical(falseHelp, look, scores):
		c.Verdict, c.Reason = Helps, "the act helps: "+figures
	default:
		c.Verdict, c.Reason = Unproven, "not proven yet: "+figures
	}
	return c
}
