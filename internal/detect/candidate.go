package detect

import "strconv"

// What a quantity must reach for its key to be a candidate.
const (
	askCost       = 1.15 // ratio
	askCostZ      = 1.9
	askQuality    = 0.93
	askSpend      = 2.0
	askSilent     = 15 // minutes
	askVelocity   = 0.7
	askCompletion = 1.3
	askTruncation = 0.75
	askCache      = 0.35
	askCacheFrom  = 0.25 // the baseline
	askOutcome    = 0.8  // of its baseline
)

// Candidate reports whether the facts could make any rule say more than NONE, so that the policy is
// asked for these alone. It is looser than every condition of the shipped alert.yaml; a test of
// internal/policy proves it so.
func Candidate(f Facts) bool {
	return f.Active == string(Page) || f.Active == string(Investigate) ||
		f.CostRatio > askCost || f.CostZ > askCostZ || f.QualityRatio < askQuality || f.SpendRatio > askSpend ||
		f.CallsKnown && f.SilentMinutes >= askSilent ||
		f.VelocityKnown && f.VelocityRatio < askVelocity ||
		f.CompletionKnown && (f.CompletionChange > askCompletion || f.CompletionChange < askTruncation) ||
		f.CacheKnown && f.CacheHit < askCache && f.CacheBaseline > askCacheFrom ||
		f.OutcomeKnown && f.OutcomeRate < askOutcome*f.OutcomeBaseline
}

// Edge is a value at which Candidate changes its mind.
type Edge struct {
	Fact  string // its name in policies
	Above bool   // asked above it; else below
	At    float64
}

func (e Edge) String() string {
	side := "below"
	if e.Above {
		side = "above"
	}
	return e.Fact + " " + side + " " + strconv.FormatFloat(e.At, 'g', -1, 64)
}

// Edges are those of Candidate: whoever looks for facts that it leaves out tries them. That of the outcome rate is a
// share of its baseline.
func Edges() []Edge {
	return []Edge{
		{"cost_ratio", true, askCost},
		{"cost_z", true, askCostZ},
		{"quality_ratio", false, askQuality},
		{"spend_ratio", true, askSpend},
		{"silent_minutes", true, askSilent - 1},
		{"velocity_ratio", false, askVelocity},
		{"completion_change", true, askCompletion},
		{"completion_change", false, askTruncation},
		{"cache_hit_rate", false, askCache},
		{"cache_hit_baseline", true, askCacheFrom},
		{"outcome_rate", false, askOutcome},
	}
}

// Possible makes any facts such as Assemble could give: what is not known is neutral, ratios are those of their
// quantities, shares are shares, and a deviation points where its ratio does and is no greater than the least noise
// allows. It is for whoever makes facts up.
func (f Facts) Possible() Facts {
	f.possibleMoney()
	f.possibleQuality()
	f.possibleRest()
	return f
}

func (f *Facts) possibleMoney() {
	if !f.CostKnown {
		f.CostSamples, f.CostUSD, f.CostBaseline, f.CostRatio, f.CostSigmas = 0, 0, 0, 1, 0
		f.CostZKnown = false
	} else {
		f.CostSamples = max(f.CostSamples, 1)
		f.CostUSD, f.CostBaseline, f.CostRatio = ratio(f.CostUSD, f.CostBaseline, f.CostRatio)
		f.CostSigmas = within(f.CostSigmas, f.CostRatio-1)
	}
	if !f.CostZKnown {
		f.CostZ = 0
	}
	if !f.SpendKnown {
		f.SpendPerMinute, f.SpendBaseline, f.SpendRatio, f.SpendSigmas, f.VolumeRatio = 0, 0, 1, 0, 1
		return
	}
	f.SpendPerMinute, f.SpendBaseline, f.SpendRatio = ratio(f.SpendPerMinute, f.SpendBaseline, f.SpendRatio)
	f.SpendSigmas = within(f.SpendSigmas, f.SpendRatio-1)
	f.VolumeRatio = max(f.VolumeRatio, 0)
}

func (f *Facts) possibleQuality() {
	if !f.QualityKnown {
		f.QualitySamples, f.Quality, f.QualityBaseline, f.QualityRatio, f.QualitySigmas = 0, 0, 0, 1, 0
	} else {
		f.QualitySamples = max(f.QualitySamples, 1)
		f.Quality, f.QualityBaseline, f.QualityRatio = shares(f.Quality, f.QualityBaseline, f.QualityRatio)
		f.QualitySigmas = within(f.QualitySigmas, 1-f.QualityRatio)
	}
	if !f.OutcomeKnown {
		f.OutcomeSamples, f.OutcomeRate, f.OutcomeBaseline, f.OutcomeSigmas = 0, 0, 0, 0
		return
	}
	f.OutcomeSamples = max(f.OutcomeSamples, 1)
	f.OutcomeRate, f.OutcomeBaseline = max(f.OutcomeRate, 0), max(f.OutcomeBaseline, 0.01)
	f.OutcomeSigmas = within(f.OutcomeSigmas, 1-f.OutcomeRate/f.OutcomeBaseline)
}

func (f *Facts) possibleRest() {
	if !f.CallsKnown {
		f.Calls, f.ExpectedCalls, f.SilentMinutes = 0, 0, 0
	}
	f.Calls, f.SilentMinutes, f.ExpectedCalls = max(f.Calls, 0), max(f.SilentMinutes, 0), max(f.ExpectedCalls, 0)
	if f.Calls > 0 {
		f.SilentMinutes = 0
	}
	if !f.VelocityKnown {
		f.Velocity, f.VelocityBaseline, f.VelocityRatio, f.VelocitySigmas = 0, 0, 1, 0
	} else {
		f.Velocity, f.VelocityBaseline, f.VelocityRatio = ratio(f.Velocity, f.VelocityBaseline, f.VelocityRatio)
		f.VelocitySigmas = within(f.VelocitySigmas, 1-f.VelocityRatio)
	}
	if !f.CompletionKnown {
		f.Completion, f.CompletionBaseline, f.CompletionChange = 0, 0, 1
	} else {
		f.Completion, f.CompletionBaseline, f.CompletionChange = ratio(f.Completion, f.CompletionBaseline, f.CompletionChange)
	}
	if !f.CacheKnown {
		f.CacheHit, f.CacheBaseline = 0, 0
	} else {
		f.CacheHit, f.CacheBaseline = min(max(f.CacheHit, 0), 1), min(max(f.CacheBaseline, 0.01), 1)
	}
	f.WindowMinutes = 0
	if f.CostKnown || f.QualityKnown {
		f.WindowMinutes = int64(Windows[len(Windows)-1])
	}
}

// ratio makes now ÷ baseline the ratio, by way of the quantity that is missing or, when none is, of the ratio.
func ratio(now, baseline, r float64) (float64, float64, float64) {
	now, baseline, r = max(now, 0), max(baseline, 0), max(r, 0)
	switch {
	case now > 0 && baseline > 0 && r == 1:
		r = now / baseline
	case baseline > 0:
		now = r * baseline
	case now > 0 && r > 0:
		baseline = now / r
	default:
		now, baseline = r, 1
	}
	return now, baseline, r
}

// shares is ratio of two shares.
func shares(now, baseline, r float64) (float64, float64, float64) {
	now, baseline, r = ratio(min(now, 1), min(baseline, 1), r)
	if baseline > 1 {
		now, baseline = r, 1
	}
	if now > 1 {
		now, baseline = 1, 1/r
	}
	return now, baseline, r
}

// within holds deviations to the sign of a shift, and to what it comes to at the least noise.
func within(sigmas, shift float64) float64 {
	most := shift / minNoise
	return max(min(sigmas, max(most, 0)), min(most, 0))
}
