package stability

import (
	"cmp"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// recorded is one call of a trace, at its distance from the trace's start.
type recorded struct {
	at time.Duration
	tokens
}

// The prices of the replayed calls, in pico-dollars a token: three dollars a million of input, a tenth of
// that from the cache, fifteen of output.
const (
	picoInput, picoCacheRead, picoOutput = 3e6, 0.3e6, 15e6
)

func (r recorded) cost() float64 {
	return picoInput*float64(r.input-r.cacheRead) + picoCacheRead*float64(r.cacheRead) + picoOutput*float64(r.output)
}

// judge is the simulator's: scores by a normal law, some seconds after the call.
const (
	judgedMean, judgedSD = 0.925, 0.0583
	judgedAfter          = 2.5 // seconds, the median of a lognormal
	judgedSpread         = 0.5
)

// replayed is what the loop does about one key of recorded calls in which nothing is wrong: detection,
// baselines and alert as the product has them, and nobody acts.
type replayed struct {
	*loop
	scored  float64 // share of the calls that the judge scores
	due     []record
	dueAt   []time.Duration
	filling bucket
	history []summary
	ill     map[int64]bool // the buckets of incidents
	slot    int64          // the hour of the baseline in use
	builtAt time.Duration

	// What is counted is of the time after the warming.
	calls   int64
	busy    time.Duration // in which the quarter of an hour had calls enough to be judged
	unknown time.Duration // of that, without a baseline of cost
}

// A trace is replayed for a week in which baselines grow, and for one that counts.
const (
	warming      = 7 * 24 * time.Hour
	replayLength = 2 * warming
)

// replayTrace replays calls, in their order, under the given rules.
func replayTrace(calls iter.Seq[recorded], scored float64, seed uint64, r rules) *replayed {
	r.act = func(policy.ActFacts) policy.Proposal { return policy.Proposal{Mode: policy.Never} }
	p := &replayed{
		loop: &loop{
			plant: &plant{store: newStore(), rand: rand.New(rand.NewPCG(seed, 3))}, rules: r, limits: routing.DefaultLimits, holds: alert.DefaultHolds,
			verdict: detect.Verdict{Level: detect.None}, res: result{detected: -1},
		},
		scored: scored, slot: -1, ill: map[int64]bool{},
	}
	p.alert = alert.New(p.clock())
	next, stop := iter.Pull(calls)
	defer stop()
	call, more := next()
	for p.now < replayLength {
		p.ticks++
		p.now += tick
		for ; more && call.at < p.now; call, more = next() {
			p.take(call)
		}
		p.hear()
		p.store.advance(p.now)
		p.freshen()
		p.tick(p.clock())
		p.note()
	}
	return p
}

// take stores a call, and has it judged.
func (p *replayed) take(c recorded) {
	cost := c.cost()
	p.addCount(count{minute: int64(c.at / time.Minute), requests: [arms]int64{untouched: 1}, spend: cost, tokens: c.tokens})
	p.filling.count(c, cost)
	if p.now > warming {
		p.calls++
	}
	if code, ok := kpi.CostCode(usage.PicoUSD(cost)); ok {
		p.addCost(record{int64(c.at / time.Minute), untouched, code})
		p.filling.costs = append(p.filling.costs, code)
	}
	if p.rand.Float64() < p.scored {
		after := judgedAfter * math.Exp(judgedSpread*p.rand.NormFloat64())
		at := c.at + time.Duration(after*float64(time.Second))
		score := max(0, min(1, judgedMean+judgedSD*p.rand.NormFloat64()))
		p.due = append(p.due, record{int64(at / time.Minute), untouched, kpi.QualityCode(score)})
		p.dueAt = append(p.dueAt, at)
	}
}

// hear stores the scores that have come.
func (p *replayed) hear() {
	left := 0
	for i, at := range p.dueAt {
		if at < p.now {
			p.addScore(p.due[i])
			p.filling.scores = append(p.filling.scores, p.due[i].code)
			continue
		}
		p.due[left], p.dueAt[left] = p.due[i], at
		left++
	}
	p.due, p.dueAt = p.due[:left], p.dueAt[:left]
}

// freshen closes the bucket at its end, and computes the baseline when the hour is new, or while it lacks
// what traffic would give, as the sweep does.
func (p *replayed) freshen() {
	if p.now%bucketLength == 0 {
		p.history = append(p.history, p.filling.close(p.now-bucketLength))
	}
	hour := int64(p.now / time.Hour)
	lacking := p.base.CostBuckets < p.limits.Minimums.Buckets && p.costs[len(detect.Windows)-1].n >= p.limits.Minimums.Cost
	if hour == p.slot && (!lacking || p.now-p.builtAt < 5*time.Minute) {
		return
	}
	p.slot, p.builtAt = hour, p.now
	p.base = usualOf(p.history, p.ill, p.now, p.limits.Minimums)
	p.store.fresh = true
}

// note remembers what the tick was like.
func (p *replayed) note() {
	if p.incident != nil {
		for b := int64((p.incident.opened.Sub(epoch) - bucketLength) / bucketLength); b <= int64(p.now/bucketLength); b++ {
			p.ill[b] = true
		}
	}
	if p.now <= warming || p.costs[len(detect.Windows)-1].n < p.limits.Minimums.Cost {
		return
	}
	p.busy += tick
	if p.base.CostBuckets < p.limits.Minimums.Buckets {
		p.unknown += tick
	}
}

// bucketLength is that of the buckets of baselines.
const bucketLength = 15 * time.Minute

// bucket is a quarter of an hour that is not over.
type bucket struct {
	costs, scores []int16
	requests      int64
	spend         float64
	minutes       [15]float64 // of spend
	tokens
}

func (b *bucket) count(c recorded, cost float64) {
	b.requests++
	b.spend += cost
	b.minutes[int(c.at%bucketLength/time.Minute)] += cost
	b.tokens.add(c.tokens)
}

// summary is what a baseline keeps of a bucket.
type summary struct {
	start      time.Duration
	cost, qual quartiles
	requests   float64
	spend      float64 // a minute
	burst      float64 // relative variance of the minutes' spends
	completion float64
	cached     float64
}

// quartiles are of codes.
type quartiles struct {
	n        int
	q50, iqr float64
}

func quartilesOf(codes []int16) quartiles {
	n := len(codes)
	if n == 0 {
		return quartiles{}
	}
	slices.Sort(codes)
	q := quartiles{n: n, q50: float64(codes[(n-1)/2])}
	if n >= 4 {
		q.iqr = float64(codes[3*n/4] - codes[n/4])
	}
	return q
}

// burst is how much the minutes of a bucket differ in spend, as a relative variance.
func burst(minutes [15]float64) float64 {
	sum, squares := 0.0, 0.0
	for _, spend := range minutes {
		sum, squares = sum+spend, squares+spend*spend
	}
	if sum == 0 {
		return 0
	}
	n := float64(len(minutes))
	return max(n/(n-1)*(n*squares/(sum*sum)-1), 0)
}

// close is the bucket's summary; it is empty then for the next.
func (b *bucket) close(start time.Duration) summary {
	s := summary{start: start, cost: quartilesOf(b.costs), qual: quartilesOf(b.scores), requests: float64(b.requests), spend: b.spend / 15, burst: burst(b.minutes)}
	if b.input > 0 {
		s.completion, s.cached = float64(b.output)/float64(b.input), float64(b.cacheRead)/float64(b.input)
	}
	*b = bucket{costs: b.costs[:0], scores: b.scores[:0]}
	return s
}

// usualOf is the baseline that the hourly job computes at now: weighted medians of the buckets at this hour
// of the day, or of all hours where those are too few, for cost and quality apart.
func usualOf(history []summary, ill map[int64]bool, now time.Duration, least detect.Minimums) detect.Baseline {
	var b detect.Baseline
	hour := epoch.Add(now).Hour()
	pick := func(counts func(summary) bool) []summary {
		var all, same []summary
		for _, s := range history {
			if !counts(s) || ill[int64(s.start/bucketLength)] || now-s.start > 28*24*time.Hour {
				continue
			}
			all = append(all, s)
			if epoch.Add(s.start).Hour() == hour {
				same = append(same, s)
			}
		}
		if len(same) < least.Buckets {
			return all
		}
		return same
	}
	median := func(of []summary, value func(summary) float64) float64 { return weightedMedian(of, now, value) }
	if of := pick(func(s summary) bool { return s.cost.n >= least.Cost }); len(of) > 0 {
		m := median(of, func(s summary) float64 { return s.cost.q50 })
		b.CostBuckets, b.LnCost = len(of), kpi.LnCost(m)
		b.LnCostSD = kpi.LnCost(median(of, func(s summary) float64 { return s.cost.iqr })) / 1.349
		b.CostBucketN = median(of, func(s summary) float64 { return float64(s.cost.n) })
		b.SpendPerMinute = median(of, func(s summary) float64 { return s.spend })
		b.RequestsPerMin = median(of, func(s summary) float64 { return s.requests }) / bucketLength.Minutes()
		b.Completion = median(of, func(s summary) float64 { return s.completion })
		b.CacheHit = median(of, func(s summary) float64 { return s.cached })
		if len(of) > 1 {
			b.LnCostDev = 1.4826 * kpi.LnCost(max(median(of, func(s summary) float64 { return math.Abs(s.cost.q50 - m) }), 0.5))
			b.SpendBurst = median(of, func(s summary) float64 { return s.burst })
			b.SpendDev = 1.4826 * median(of, func(s summary) float64 { return math.Abs(math.Log(s.spend / b.SpendPerMinute)) })
		}
	}
	if of := pick(func(s summary) bool { return s.qual.n >= least.Quality }); len(of) > 0 {
		m := median(of, func(s summary) float64 { return s.qual.q50 })
		b.QualityBuckets, b.Quality = len(of), kpi.Score(m)
		b.QualitySD = kpi.Score(median(of, func(s summary) float64 { return s.qual.iqr })) / 1.349
		b.QualityBucketN = median(of, func(s summary) float64 { return float64(s.qual.n) })
		if len(of) > 1 {
			b.QualityDev = 1.4826 * kpi.Score(max(median(of, func(s summary) float64 { return math.Abs(s.qual.q50 - m) }), 0.5))
		}
	}
	return b
}

// weightedMedian is the lower median with weights that halve each week.
func weightedMedian(of []summary, now time.Duration, value func(summary) float64) float64 {
	type weighted struct{ value, weight float64 }
	all := make([]weighted, len(of))
	total := 0.0
	for i, s := range of {
		all[i] = weighted{value(s), math.Exp2(-(now - s.start).Hours() / (7 * 24))}
		total += all[i].weight
	}
	slices.SortFunc(all, func(a, b weighted) int { return cmp.Compare(a.value, b.value) })
	sum := 0.0
	for _, w := range all {
		if sum += w.weight; sum >= total/2 {
			return w.value
		}
	}
	return all[len(all)-1].value
}
