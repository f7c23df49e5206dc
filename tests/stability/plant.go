// Package stability proves, in simulated time, that detection, alert lifecycle, runbook and rollout
// together make a loop that does not page without cause, does not oscillate, and lets go in time.
package stability

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
)

// tick is the sweep's interval.
const tick = 5 * time.Second

// epoch is when every simulation begins.
var epoch = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// lnCost is the plant's usual median: a tenth of a cent.
var lnCost = math.Log(1e9)

// plant is one key's traffic: calls, their scores, and their way into the store. What nobody may see
// yet is under way; all that the loop sees is the store.
type plant struct {
	params
	store
	rand     *rand.Rand
	ticks    int64
	now      time.Duration
	share    float64 // that gateways send to other
	other    model
	scoreAll bool
	walk     float64 // slow drift of ln cost, in its own deviations
	walkQ    float64
	spike    time.Duration // until when a benign burst lasts
	spread   []float64     // e^(sigma·z) for each z of normal
	underWay [ahead]delivery
	landed   [8]int64 // by tick, modulo: the tick at which all its calls are stored
}

// ahead is how many ticks after its call a score may be stored at the latest.
const ahead = 80

// delivery is what is stored at one tick.
type delivery struct {
	counts []count
	costs  []record
	scores []record
}

type count struct {
	minute   int64
	requests [arms]int64
	tokens   tokens
	spend    float64
}

type record struct {
	minute int64
	arm    arm
	code   int16
}

func newPlant(p params, r *rand.Rand) *plant {
	pl := &plant{params: p, store: newStore(), rand: r, walk: r.NormFloat64(), walkQ: r.NormFloat64(), spread: make([]float64, len(normal))}
	for i, z := range normal {
		pl.spread[i] = math.Exp(p.sigma * z)
	}
	return pl
}

// normal are the quantiles of the standard normal distribution, so that one random number draws a value
// from it by its index: a busy month has hundreds of millions of calls.
var normal = func() (z [1 << 14]float64) {
	for i := range z {
		z[i] = math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(len(z))-1)
	}
	return z
}()

// step advances one tick: calls are made, and what has been under way long enough is stored.
func (p *plant) step() {
	p.ticks++
	p.now += tick
	if p.ticks%12 == 0 {
		p.drift()
	}
	if p.rand.Float64() < p.spikes*tick.Hours()/24 {
		p.spike = p.now + time.Minute
	}
	// A call is made somewhere in the tick and takes the lag to be stored: some calls of a tick are
	// seen one sweep earlier than the others.
	lag := min(float64(p.lag)*(0.5+p.rand.Float64()), float64(10*time.Second)) / float64(tick)
	whole := math.Floor(lag)
	rate := p.rate * (1 + p.fault.at(p.now)*(p.volume()-1)) * tick.Seconds()
	early := poisson(p.rand, rate*(1-(lag-whole)))
	late := poisson(p.rand, rate*(lag-whole))
	if early+late > 0 {
		c := p.conditions(rate)
		p.calls(early, int64(whole), c)
		p.calls(late, int64(whole)+1, c)
	}
	p.landed[p.ticks%int64(len(p.landed))] = p.ticks + int64(math.Ceil(lag))
	p.deliver()
}

func (p *plant) volume() float64 {
	if p.fault == nil {
		return 1
	}
	return p.fault.volume
}

// drift moves the slow part of cost and quality by a minute; it forgets itself within an hour.
func (p *plant) drift() {
	decay := math.Exp(-1.0 / 60)
	p.walk = decay*p.walk + math.Sqrt(1-decay*decay)*p.rand.NormFloat64()
	p.walkQ = decay*p.walkQ + math.Sqrt(1-decay*decay)*p.rand.NormFloat64()
}

// conditions are what the calls of one tick have in common.
type conditions struct {
	minute  int64
	treated uint64     // in 65536ths, as all shares here
	kept    [2]uint64  // whose cost code is kept, of untreated and treated calls
	scored  [2]uint64  // and whose score is
	ln      [2]float64 // their median ln cost
	scale   [2]float64 // e^ln
	score   [2]float64 // their mean score
	arms    [2]arm     // what they are called
}

func (p *plant) conditions(perTick float64) conditions {
	base := lnCost + p.wander*p.walk
	quality := p.quality + p.wander/5*p.walkQ
	if w := p.benign.at(p.now); w > 0 {
		base += w * math.Log(p.benign.cost)
	}
	ill, illQ := base, quality
	if p.now < p.spike {
		ill += math.Log(3)
	}
	if w := p.fault.at(p.now); w > 0 {
		ill += w * math.Log(p.fault.cost)
		illQ *= 1 - w*(1-p.fault.quality)
	}
	c := conditions{
		minute: int64((p.now - tick) / time.Minute), treated: share16(p.share),
		ln: [2]float64{ill, base}, score: [2]float64{illQ, quality}, arms: [2]arm{untouched, treated},
	}
	scored := p.scored
	if p.scoreAll {
		scored = 1
	}
	switch {
	case p.share == 0:
	case p.useless:
		c.arms[0], c.ln[1], c.score[1] = holdback, ill, illQ
	default:
		c.arms[0] = holdback
		c.ln[1] += math.Log(p.other.cost)
		c.score[1] *= p.other.quality
	}
	perMinute := perTick * float64(time.Minute/tick)
	for i, part := range []float64{1 - p.share, p.share} {
		c.scale[i] = math.Exp(c.ln[i])
		kept := p.codes / max(perMinute*part, p.codes)
		c.kept[i], c.scored[i] = share16(kept), share16(min(kept, scored))
	}
	return c
}

func share16(share float64) uint64 { return uint64(math.Round(share * 65536)) }

// calls makes n calls that are stored so many ticks later. One random number serves a call: 14 bits
// each for its cost and what is kept of it.
func (p *plant) calls(n int, delay int64, c conditions) {
	if n == 0 {
		return
	}
	to := &p.underWay[(p.ticks+delay)%ahead]
	sum := count{minute: c.minute}
	for range n {
		bits := p.rand.Uint64()
		side := 0
		if bits&0xffff < c.treated {
			side = 1
		}
		z := bits >> 50
		sum.requests[c.arms[side]]++
		sum.spend += c.scale[side] * p.spread[z]
		if bits>>16&0xffff < c.kept[side] {
			code := int16(math.Round((c.ln[side] + p.sigma*normal[z]) / math.Ln2 * 100))
			to.costs = append(to.costs, record{c.minute, c.arms[side], code})
		}
		if bits>>32&0xffff < c.scored[side] {
			p.judge(c.arms[side], c.score[side], delay)
		}
	}
	to.counts = append(to.counts, sum)
}

// judge scores a call: after a while, and the score is stored as late as calls are.
func (p *plant) judge(a arm, mean float64, lag int64) {
	score := max(0, min(1, mean+p.scoreSD*normal[p.rand.Uint64()>>50]))
	done := p.ticks + min(1+int64(p.rand.ExpFloat64()*float64(p.judgeDelay)/float64(tick)), ahead-4)
	to := &p.underWay[(done+lag)%ahead]
	to.scores = append(to.scores, record{int64(time.Duration(done-1) * tick / time.Minute), a, kpi.QualityCode(score)})
}

// deliver stores what arrives at this tick, and moves the watermark: everything before it is stored.
func (p *plant) deliver() {
	d := &p.underWay[p.ticks%ahead]
	for _, c := range d.counts {
		p.addCount(c)
	}
	for _, r := range d.costs {
		p.addCost(r)
	}
	for _, r := range d.scores {
		p.addScore(r)
	}
	d.counts, d.costs, d.scores = d.counts[:0], d.costs[:0], d.scores[:0]
	next := int64(p.watermark/tick) + 1
	for next <= p.ticks && p.landed[next%int64(len(p.landed))] <= p.ticks {
		p.advance(time.Duration(next) * tick)
		next++
	}
}

// clock is the time now.
func (p *plant) clock() time.Time { return epoch.Add(p.now) }

// baseline is what the hourly job would have stored: medians of buckets of the plant's own noise.
func (p *plant) baseline(min detect.Minimums) detect.Baseline {
	b := detect.Baseline{LnCostSD: p.sigma, QualitySD: p.scoreSD, RequestsPerMin: p.rate * 60}
	n := p.rate * 900
	b.SpendPerMinute = p.rate * 60 * math.Exp(lnCost+p.sigma*p.sigma/2)
	b.SpendDev = p.wander
	med := func(n, sd, wander float64, floor int) (buckets int, mid, dev float64) {
		var medians []float64
		for range p.buckets {
			k := poisson(p.rand, n)
			if k < floor {
				continue
			}
			medians = append(medians, 1.2533*sd/math.Sqrt(float64(k))*p.rand.NormFloat64()+wander*p.rand.NormFloat64())
		}
		if len(medians) == 0 {
			return 0, 0, 0
		}
		mid = median(medians)
		for i := range medians {
			medians[i] = math.Abs(medians[i] - mid)
		}
		return len(medians), mid, 1.4826 * median(medians)
	}
	b.CostBuckets, b.LnCost, b.LnCostDev = med(n, p.sigma, p.wander, min.Cost)
	b.LnCost += lnCost
	b.CostBucketN = n
	b.QualityBuckets, b.Quality, b.QualityDev = med(n*p.scored, p.scoreSD, p.wander/5, min.Quality)
	b.Quality += p.quality
	b.QualityBucketN = n * p.scored
	return b
}

// poisson draws a count; large means by the normal approximation.
func poisson(r *rand.Rand, mean float64) int {
	if mean > 30 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	k, p := 0, r.Float64()
	if p < 1-mean { // e^-mean is more: most ticks of a quiet key end here
		return 0
	}
	for limit := math.Exp(-mean); ; k++ {
		if p <= limit {
			return k
		}
		p *= r.Float64()
	}
}

// median is the lower median; it reorders v.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[(len(v)-1)/2]
}
