// Package stability proves, in simulated time, that detection, alert lifecycle and rollout together
// make a loop that does not page without cause, does not oscillate, and lets go in time.
package stability

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// tick is the sweep's interval.
const tick = 5 * time.Second

// epoch is when every simulation begins.
var epoch = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

// fault is a provider fault that ends: it multiplies the cost and the quality of untreated calls.
type fault struct {
	start, end time.Duration
	ramp       time.Duration // a drift reaches its full size only after this; 0 is a step
	cost       float64
	quality    float64
}

// at is how much of the fault there is, 0 to 1.
func (f fault) at(t time.Duration) float64 {
	switch {
	case t < f.start || t >= f.end:
		return 0
	case f.ramp > 0:
		return math.Min(1, float64(t-f.start)/float64(f.ramp))
	}
	return 1
}

// params are one key's traffic.
type params struct {
	rate       float64 // calls a second
	scored     float64 // share of calls that get a score
	sigma      float64 // of ln cost
	scoreSD    float64
	quality    float64       // mean score
	lag        time.Duration // from call to stored row
	judgeDelay time.Duration // mean extra delay of a score
	wander     float64       // sd of the slow drift of ln cost between hours; quality's is a fifth
	buckets    int           // of the baseline
	spikes     float64       // benign bursts of dear calls a day, a minute each
	benign     fault         // a change that is no fault: cost alone
	fault      *fault
	altCost    float64 // cost of the model that treated calls go to, against the usual
	altQuality float64
}

// lnCost is the plant's usual median: a tenth of a cent.
var lnCost = math.Log(1e9)

// draw makes a random plant within the stated ranges.
func draw(r *rand.Rand) params {
	logUniform := func(lo, hi float64) float64 { return lo * math.Exp(r.Float64()*math.Log(hi/lo)) }
	uniform := func(lo, hi float64) float64 { return lo + r.Float64()*(hi-lo) }
	p := params{
		rate: logUniform(0.01, 50), scored: logUniform(0.01, 1),
		sigma: uniform(0.3, 1.2), scoreSD: uniform(0.05, 0.2), quality: uniform(0.75, 0.92),
		lag: time.Duration(uniform(0, 10) * float64(time.Second)), judgeDelay: time.Duration(uniform(1, 20) * float64(time.Second)),
		wander: uniform(0, 0.08), buckets: 12 + r.IntN(120), spikes: uniform(0, 6),
		altCost: uniform(0.2, 0.8), altQuality: uniform(0.97, 1.02),
	}
	if r.IntN(3) == 0 { // a third of the plants change for good reason: dearer, as good
		p.benign = fault{
			start: time.Duration(uniform(1, 3) * float64(time.Hour)), end: 1 << 62,
			ramp: time.Duration(uniform(0, 1) * float64(time.Hour)), cost: uniform(0.7, 1.4), quality: 1,
		}
	}
	return p
}

// drawFault makes a fault of the kind that must page.
func drawFault(r *rand.Rand, start time.Duration) *fault {
	f := &fault{start: start, cost: 1.8 + 3.2*r.Float64(), quality: 0.5 + 0.3*r.Float64()}
	f.end = f.start + time.Duration(30+r.IntN(90))*time.Minute
	if r.IntN(3) == 0 {
		f.ramp = time.Duration(5+r.IntN(15)) * time.Minute
	}
	return f
}

const (
	slots    = 16  // minutes kept: the longest window and the current one
	codeCap  = 256 // codes kept per minute and arm, so that a month of busy traffic can be simulated
	lateness = 64  // ticks ahead that a score may arrive
)

type arm int

const (
	untreated arm = iota
	treated
)

type minute struct {
	index    int64
	requests [2]int64
	spend    float64
	costs    [2][]int16
	scores   [2][]int16
}

type lateScore struct {
	arm  arm
	code int16
}

// plant is one key's traffic as the store shows it at the ingest watermark.
type plant struct {
	params
	rand   *rand.Rand
	now    time.Duration
	share  float64 // treated
	ring   [slots]minute
	late   [lateness][]lateScore
	walk   float64 // slow drift of ln cost, in its own deviations
	walkQ  float64
	spike  time.Duration                  // until when a benign spike lasts
	fresh  bool                           // something was stored since the last observation
	costs  [len(detect.Windows)]histogram // of untreated calls, by window
	scores [len(detect.Windows)]histogram // shifted into the histogram's range
}

func newPlant(p params, r *rand.Rand) *plant {
	return &plant{params: p, rand: r, walk: r.NormFloat64(), walkQ: r.NormFloat64()}
}

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

// step advances one tick: calls arrive, scores of earlier calls arrive late.
func (p *plant) step() {
	p.now += tick
	const hour = float64(time.Hour)
	decay := math.Exp(-float64(tick) / hour) // the drift forgets itself within an hour
	p.walk = decay*p.walk + math.Sqrt(1-decay*decay)*p.rand.NormFloat64()
	p.walkQ = decay*p.walkQ + math.Sqrt(1-decay*decay)*p.rand.NormFloat64()
	if p.rand.Float64() < p.spikes*tick.Hours()/24 {
		p.spike = p.now + time.Minute
	}
	m := p.minute()
	base := lnCost + p.wander*p.walk
	quality := p.quality + p.wander/5*p.walkQ
	if w := p.benign.at(p.now); w > 0 {
		base += w * math.Log(p.benign.cost)
	}
	ill, illQ := base, quality
	if p.now < p.spike {
		ill += math.Log(3)
	}
	if p.fault != nil {
		w := p.fault.at(p.now)
		ill += w * math.Log(p.fault.cost)
		illQ *= 1 - w*(1-p.fault.quality)
	}
	slot := int(p.now/tick) % lateness
	for _, s := range p.late[slot] {
		p.fresh = true
		if len(m.scores[s.arm]) < codeCap {
			m.scores[s.arm] = append(m.scores[s.arm], s.code)
			if s.arm == untreated {
				for w := range p.scores {
					p.scores[w].add(s.code+histogramFrom, 1)
				}
			}
		}
	}
	p.late[slot] = p.late[slot][:0]
	for range poisson(p.rand, p.rate*tick.Seconds()) {
		p.fresh = true
		a, cost, score := untreated, ill, illQ
		if p.share > 0 && p.rand.Float64() < p.share {
			a, cost, score = treated, base+math.Log(p.altCost), quality*p.altQuality
		}
		ln := cost + p.sigma*p.rand.NormFloat64()
		m.requests[a]++
		m.spend += math.Exp(ln)
		if len(m.costs[a]) < codeCap {
			code := int16(math.Round(ln / math.Ln2 * 100))
			m.costs[a] = append(m.costs[a], code)
			if a == untreated {
				for w := range p.costs {
					p.costs[w].add(code, 1)
				}
			}
		}
		if p.share > 0 || p.rand.Float64() < p.scored {
			delay := min(1+int(p.rand.ExpFloat64()*float64(p.judgeDelay)/float64(tick)), lateness-1)
			to := (slot + delay) % lateness
			v := math.Max(0, math.Min(1, score+p.scoreSD*p.rand.NormFloat64()))
			p.late[to] = append(p.late[to], lateScore{a, kpi.QualityCode(v)})
		}
	}
}

// minute is the slot of the current minute, emptied when it still holds an older one.
func (p *plant) minute() *minute {
	i := int64(p.now / time.Minute)
	m := &p.ring[i%slots]
	if m.index != i {
		p.fresh = true
		for w, length := range detect.Windows {
			gone := &p.ring[((i-int64(length))%slots+slots)%slots]
			for _, c := range gone.costs[untreated] {
				p.costs[w].add(c, -1)
			}
			for _, c := range gone.scores[untreated] {
				p.scores[w].add(c+histogramFrom, -1)
			}
		}
		for a := range 2 {
			m.costs[a], m.scores[a] = m.costs[a][:0], m.scores[a][:0]
		}
		m.index, m.requests, m.spend = i, [2]int64{}, 0
	}
	return m
}

// observe is the sweep's row of the key.
func (p *plant) observe() detect.Observation {
	o := detect.Observation{Key: usage.Key{Tenant: "t", Model: "m"}}
	current := int64(p.now / time.Minute)
	for back := range int64(detect.Windows[len(detect.Windows)-1]) {
		if m := &p.ring[((current-back)%slots+slots)%slots]; m.index == current-back {
			o.Whole.Requests += m.requests[untreated] + m.requests[treated]
			switch back {
			case 0:
				o.SpendLastPico = m.spend * detect.SpendScale(p.now%time.Minute)
			case 1:
				o.SpendLastPico = math.Max(o.SpendLastPico, m.spend)
			}
		}
	}
	for w := range detect.Windows {
		c, q := &p.costs[w], &p.scores[w]
		o.Windows[w] = detect.Window{CostN: c.n, LnCost: kpi.LnCost(float64(c.median())), QualityN: q.n, Quality: kpi.Score(float64(q.median() - histogramFrom))}
	}
	return o
}

// histogram counts codes, so that a window's median costs a scan and not a sort.
type histogram struct {
	n      int
	coarse [64]int32
	fine   [64 * 64]int32
}

// histogramFrom is the least code that a histogram tells apart; the plant's costs are far above it.
const histogramFrom = 1000

func (h *histogram) add(code int16, by int32) {
	i := max(0, min(int(code)-histogramFrom, len(h.fine)-1))
	h.n += int(by)
	h.fine[i] += by
	h.coarse[i/64] += by
}

// median is the lower median, as the store takes it.
func (h *histogram) median() int16 {
	if h.n == 0 {
		return 0
	}
	rank := int32((h.n - 1) / 2)
	i := 0
	for rank >= h.coarse[i] {
		rank -= h.coarse[i]
		i++
	}
	for i *= 64; rank >= h.fine[i]; i++ {
		rank -= h.fine[i]
	}
	return int16(i + histogramFrom)
}

// minutes are the rows by arm, for the rollout.
func (p *plant) minutes() []kpi.Minute {
	var out []kpi.Minute
	current := int64(p.now / time.Minute)
	for back := int64(slots - 1); back >= 0; back-- {
		m := &p.ring[((current-back)%slots+slots)%slots]
		if m.index != current-back {
			continue
		}
		for a, name := range []usage.Arm{usage.Holdback, usage.Treated} {
			if m.requests[a] > 0 || len(m.scores[a]) > 0 {
				out = append(out, kpi.Minute{
					Start: epoch.Add(time.Duration(m.index) * time.Minute), Arm: name,
					Requests: m.requests[a], CostCodes: m.costs[a], QualityCodes: m.scores[a],
				})
			}
		}
	}
	return out
}

func (p *plant) clock() time.Time { return epoch.Add(p.now) }

// poisson draws a count; large means by the normal approximation.
func poisson(r *rand.Rand, mean float64) int {
	if mean > 30 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	limit, k, p := math.Exp(-mean), 0, 1.0
	for {
		if p *= r.Float64(); p <= limit {
			return k
		}
		k++
	}
}

// median is the lower median; it reorders v.
func median(v []float64) float64 {
	slices.Sort(v)
	return v[(len(v)-1)/2]
}
