package detect

import (
	"math"
	"time"
)

// minNoise is the least noise that a median of ln cost, or of quality as a share of its baseline, is
// credited with: hours differ by more than sampling explains, and a zero deviation must not turn any
// shift into infinite sigmas.
const minNoise = 0.02

// picoPerUSD converts pico-dollars to dollars, for display only.
const picoPerUSD = 1e12

// Assemble compares an observation with its baseline. Active is the level that the key holds now.
// The joint window is the shortest whose samples can tell a breach from noise (see need); when none
// can, it is the longest with the minimum samples; when none has both quantities, each takes its own,
// and what has no window is unknown.
func Assemble(o Observation, b Baseline, min Minimums, active Level) Facts {
	f := Facts{
		Tenant: o.Key.Tenant, Model: o.Key.Model, Active: string(active),
		CostRatio: 1, QualityRatio: 1, SpendRatio: 1, VolumeRatio: 1, CompletionChange: 1, VelocityRatio: 1,
	}
	of, id, experiment := o.Key.Experiment()
	if experiment {
		f.Model, f.Experiment = of.Model, id
	} else {
		f.silence(o, b, min)
	}
	cost, quality := choose(o, b, min)
	if cost >= 0 && b.CostBuckets >= min.Buckets {
		w := o.Windows[cost]
		f.WindowMinutes = int64(Windows[cost])
		f.CostKnown = true
		f.CostSamples = int64(w.CostN)
		f.CostUSD = math.Exp(w.LnCost) / picoPerUSD
		f.CostBaseline = math.Exp(b.LnCost) / picoPerUSD
		shift := w.LnCost - b.LnCost
		f.CostRatio = math.Exp(shift)
		f.CostSigmas = shift / CostNoise(b, w.CostN)
	}
	if quality >= 0 && b.QualityBuckets >= min.Buckets && b.Quality > 0 {
		w := o.Windows[quality]
		f.WindowMinutes = max(f.WindowMinutes, int64(Windows[quality]))
		f.QualityKnown = true
		f.QualitySamples = int64(w.QualityN)
		f.Quality, f.QualityBaseline = w.Quality, b.Quality
		f.QualityRatio = w.Quality / b.Quality
		f.QualitySigmas = (b.Quality - w.Quality) / QualityNoise(b, w.QualityN)
	}
	if w := o.Windows[len(Windows)-1]; w.CostN >= min.Cost && b.CostBuckets >= min.Buckets && b.LnCostDev > 0 {
		f.CostZKnown = true
		f.CostZ = (w.LnCost - b.LnCost) / CostNoise(b, w.CostN)
	}
	if b.CostBuckets >= min.Buckets && b.SpendPerMinute > 0 {
		f.SpendKnown = true
		f.SpendPerMinute = o.SpendLastPico / picoPerUSD
		f.SpendBaseline = b.SpendPerMinute / picoPerUSD
		f.SpendRatio = o.SpendLastPico / b.SpendPerMinute
		f.SpendSigmas = spendSigmas(o.SpendLastPico, b)
		if b.RequestsPerMin > 0 {
			f.VolumeRatio = float64(o.Recent.Requests) / 5 / b.RequestsPerMin
		}
	}
	// Ratios of sums follow the 5-minute window where it has the minimum: in the longest a fault that
	// is over would show for a quarter of an hour.
	v := o.Recent
	if v.Requests < int64(min.Cost) {
		v = o.Whole
	}
	if v.InputTokens > 0 && v.Requests >= int64(min.Cost) && b.CostBuckets >= min.Buckets {
		if b.Completion > 0 {
			f.CompletionKnown = true
			f.Completion = float64(v.OutputTokens) / float64(v.InputTokens)
			f.CompletionBaseline = b.Completion
			f.CompletionChange = f.Completion / b.Completion
		}
		if b.CacheHit > 0 {
			f.CacheKnown = true
			f.CacheHit = float64(v.CacheRead) / float64(v.InputTokens)
			f.CacheBaseline = b.CacheHit
		}
	}
	f.velocity(o, b, min)
	f.outcomes(o.Outcomes, b, min)
	return f
}

// silence says how many calls there are of those to expect. A key with fewer to expect than a median of cost
// needs is left alone: what would end its alert is that its cost is known again.
func (f *Facts) silence(o Observation, b Baseline, min Minimums) {
	if b.LeastCalls <= 0 || b.LeastCalls < float64(min.Cost) {
		return
	}
	f.CallsKnown = true
	f.Calls, f.ExpectedCalls = o.Whole.Requests, b.LeastCalls
	f.SilentMinutes = int64(o.Silence.Minutes())
}

// resolveVelocity is the noise at which a window resolves a fall of the streams' speed to 0.6: five deviations.
const resolveVelocity = 0.4 / 5

// velocity compares the speed of streams with its usual, in the 5-minute window where that has the minimum and
// resolves a fall, else in the longest.
func (f *Facts) velocity(o Observation, b Baseline, min Minimums) {
	if b.VelocityBuckets < min.Buckets || b.Velocity <= 0 {
		return
	}
	s, noise := o.RecentStream, VelocityNoise(b, o.Recent.Requests)
	if s.Calls < int64(min.Cost) || noise > resolveVelocity {
		s, noise = o.WholeStream, VelocityNoise(b, o.Whole.Requests)
	}
	if s.Calls < int64(min.Cost) || s.MS <= 0 {
		return
	}
	f.VelocityKnown = true
	f.Velocity, f.VelocityBaseline = s.velocity(), b.Velocity
	f.VelocityRatio = f.Velocity / b.Velocity
	f.VelocitySigmas = (1 - f.VelocityRatio) / noise
}

// VelocityNoise is the standard deviation to expect of the ratio of the streams' speed to its usual when nothing
// has changed: what the buckets differ by, more in a window with fewer calls than a bucket, since single
// streams' spread is not known.
func VelocityNoise(b Baseline, requests int64) float64 {
	between := b.VelocityDev * (1 + 3/float64(max(b.VelocityBuckets, 1)))
	if bucket := b.RequestsPerMin * float64(Windows[len(Windows)-1]); requests > 0 && bucket > float64(requests) {
		between *= math.Sqrt(bucket / float64(requests))
	}
	return max(between, minNoise)
}

// minGood is how many good outcomes the window must lead to expect: they are rare, and of fewer a fall
// says nothing.
const minGood = 20

// outcomes compares good outcomes per call with their usual rate. A window without any outcome, good or
// bad, says nothing: whoever reports them may have stopped. Outcomes come later than their calls, so that
// calls beyond the usual number have none yet and are left out.
func (f *Facts) outcomes(o Outcomes, b Baseline, min Minimums) {
	calls := float64(o.Calls)
	if b.OutcomeBucketN > 0 {
		calls = math.Min(calls, b.OutcomeBucketN)
	}
	if o.All == 0 || b.OutcomeBuckets < min.Buckets || b.OutcomeRate*calls < minGood {
		return
	}
	f.OutcomeKnown = true
	f.OutcomeSamples = o.All
	f.OutcomeRate, f.OutcomeBaseline = float64(o.Good)/calls, b.OutcomeRate
	f.OutcomeSigmas = (b.OutcomeRate - f.OutcomeRate) / OutcomeNoise(b, calls)
}

// OutcomeNoise is the standard deviation to expect of the rate of good outcomes among a number of calls when
// nothing has changed: a Poisson count's, beside what differs from bucket to bucket beyond that.
func OutcomeNoise(b Baseline, calls float64) float64 {
	between := b.OutcomeDev * (1 + 3/float64(max(b.OutcomeBuckets, 1)))
	if b.OutcomeBucketN > 0 {
		between = math.Sqrt(math.Max(between*between-b.OutcomeRate/b.OutcomeBucketN, 0))
	}
	return math.Max(math.Hypot(between, math.Sqrt(b.OutcomeRate/calls)), minNoise*b.OutcomeRate)
}

// choose returns the indexes of the windows for cost and quality, −1 where no window has enough.
func choose(o Observation, b Baseline, min Minimums) (cost, quality int) {
	needCost := need(min.Cost, b.LnCostSD, resolveLnCost)
	needQuality := need(min.Quality, b.QualitySD, resolveQuality*b.Quality)
	joint := -1
	cost, quality = -1, -1
	for i, w := range o.Windows {
		if w.CostN >= needCost && w.QualityN >= needQuality {
			return i, i
		}
		if w.CostN >= min.Cost && w.QualityN >= min.Quality {
			joint = i
		}
		if w.CostN >= min.Cost && (cost < 0 || o.Windows[cost].CostN < needCost) {
			cost = i
		}
		if w.QualityN >= min.Quality && (quality < 0 || o.Windows[quality].QualityN < needQuality) {
			quality = i
		}
	}
	if joint >= 0 {
		return joint, joint
	}
	return cost, quality
}

// The noise, as one deviation, at which a window resolves a breach: a cost ratio of 1.5 is then 3.3
// deviations away, and a quality ratio of 0.85 is 4.5.
const (
	resolveLnCost  = 0.4055 / 3.3
	resolveQuality = 0.15 / 4.5
)

// need is how many samples of the given spread make the median's sampling error fall to resolve; at
// least the minimum. A median's error is 1.2533·sd/√n.
func need(minimum int, sd, resolve float64) int {
	if resolve <= 0 {
		return minimum
	}
	r := 1.2533 * sd / resolve
	return max(minimum, int(math.Ceil(r*r)))
}

// CostNoise is the standard deviation to expect of the median ln cost of n untreated calls when
// nothing has changed.
func CostNoise(b Baseline, n int) float64 {
	return noise(b.LnCostDev, b.LnCostSD, b.CostBucketN, b.CostBuckets, n, minNoise)
}

// QualityNoise is the same of the median score of n evaluations.
func QualityNoise(b Baseline, n int) float64 {
	return noise(b.QualityDev, b.QualitySD, b.QualityBucketN, b.QualityBuckets, n, minNoise*b.Quality)
}

// noise adds two independent parts: what differs from bucket to bucket (the MAD of the baseline's
// bucket medians; few buckets estimate it badly, hence the factor 1 + 3/buckets), which no sample
// size removes, and the sampling error of a median, 1.2533·sd/√n. Growing the whole first part by
// √(n_bucket/n) instead would call a busy key's real hour-to-hour differences sampling error and
// blind it; that remains the way only where single values' spread is unknown.
func noise(dev, sd, bucketN float64, buckets, n int, floor float64) float64 {
	between := dev * (1 + 3/float64(max(buckets, 1)))
	if sd == 0 && bucketN > float64(n) {
		between *= math.Sqrt(bucketN / float64(n))
	}
	return max(math.Hypot(between, 1.2533*sd/math.Sqrt(float64(n))), floor)
}

// spendSigmas scales the excess spend a minute by its noise, that of the shortest time it is read from:
// the calls in it are a Poisson count with lognormal costs, so the relative variance of their sum is (1+cv²)/n, with
// cv² = exp(sd²)−1, beside what differs from hour to hour. Real tenants' calls come in bursts, so that where the
// minutes of their quarter-hours differ by more than that, they say how much; a shorter time differs by as much more
// as it is shorter.
func spendSigmas(last float64, b Baseline) float64 {
	n := max(b.RequestsPerMin*spendAfter.Minutes(), 1.0/60)
	sampling := math.Exp(b.LnCostSD*b.LnCostSD) / n
	sampling = max(sampling, b.SpendBurst*float64(time.Minute/spendAfter))
	rel := math.Sqrt(sampling + b.SpendDev*b.SpendDev + minNoise*minNoise)
	return (last/b.SpendPerMinute - 1) / rel
}
