package stability

import (
	"math"
	"math/rand/v2"
	"time"
)

// kind is what a fault does to calls.
type kind int

const (
	costAndQuality kind = iota // dearer and worse: a PAGE
	qualityAlone               // severely worse at the old price: a PAGE
	costAlone                  // dearer and as good: an INVESTIGATE, and no act by itself
	volume                     // five times the calls: an INVESTIGATE by spend, and no act by itself
	kinds
)

func (k kind) String() string {
	return [...]string{"cost and quality", "severe quality", "cost alone", "volume × 5"}[k]
}

// pages reports whether the fault is one to page somebody for.
func (k kind) pages() bool { return k == costAndQuality || k == qualityAlone }

// change is something that happens to a key's calls for a while: it multiplies the cost and the
// quality of those that no flag takes elsewhere, and the number of all.
type change struct {
	kind       kind
	start, end time.Duration
	ramp       time.Duration // a drift reaches its full size only after this; 0 is a step
	cost       float64
	quality    float64
	volume     float64
}

// at is how much of the change there is, 0 to 1.
func (c *change) at(t time.Duration) float64 {
	switch {
	case c == nil || t < c.start || t >= c.end:
		return 0
	case c.ramp > 0:
		return math.Min(1, float64(t-c.start)/float64(c.ramp))
	}
	return 1
}

// grace is how long after a fault a page may still be about it: its minutes are in the longest window.
const grace = 15 * time.Minute

// excuses reports whether a page at t is about the fault.
func (c *change) excuses(t time.Duration) bool {
	return c != nil && c.kind.pages() && t >= c.start && t < c.end+grace
}

// params are one key's traffic, and what else its governor meets.
type params struct {
	rate       float64 // calls a second
	scored     float64 // share of calls that get a score
	sigma      float64 // of ln cost
	scoreSD    float64
	quality    float64       // mean score
	lag        time.Duration // mean time from call to stored row
	judgeDelay time.Duration // mean extra delay of a score
	wander     float64       // sd of the slow drift of ln cost between hours; quality's is a fifth
	buckets    int           // of the baseline
	codes      float64       // of a minute and arm that are stored; of busier traffic a fair sample of so many
	spikes     float64       // benign bursts of dear calls a day, a minute each
	benign     *change       // a lasting change that is no fault: another price, as good
	fault      *change
	cheaper    model         // what a downgrade serves
	better     model         // what an upgrade serves
	useless    bool          // the fault takes the other models along: an act then mends nothing
	answers    time.Duration // after which a person approves what asks; 0: nobody is there
	provider   string        // its status page's indicator; empty: it cannot be read
}

// model is what a flag serves in place of the usual model: its cost and quality against the usual.
type model struct{ cost, quality float64 }

// draw makes a random plant within the stated ranges.
func draw(r *rand.Rand) params {
	logUniform := func(lo, hi float64) float64 { return lo * math.Exp(r.Float64()*math.Log(hi/lo)) }
	uniform := func(lo, hi float64) float64 { return lo + r.Float64()*(hi-lo) }
	p := params{
		rate: logUniform(0.01, 50), scored: logUniform(0.01, 1),
		sigma: uniform(0.3, 1.2), scoreSD: uniform(0.05, 0.2), quality: uniform(0.75, 0.92),
		lag: time.Duration(uniform(0, 10) * float64(time.Second)), judgeDelay: time.Duration(uniform(1, 20) * float64(time.Second)),
		wander: uniform(0, 0.08), buckets: 12 + r.IntN(120), codes: 300, spikes: uniform(0, 6),
		cheaper: model{uniform(0.2, 0.8), uniform(0.97, 1.02)}, better: model{uniform(1.2, 3), uniform(1, 1.05)},
		provider: []string{"", "none", "major"}[r.IntN(3)],
	}
	if r.IntN(2) == 0 {
		p.answers = time.Duration(uniform(1, 10) * float64(time.Minute))
	}
	if r.IntN(3) == 0 { // a third of the plants change for good reason: dearer or cheaper, as good
		p.benign = &change{
			start: time.Duration(uniform(0, 3) * float64(time.Hour)), end: math.MaxInt64,
			ramp: time.Duration(uniform(0, 1) * float64(time.Hour)), cost: uniform(0.7, 1.4), quality: 1, volume: 1,
		}
	}
	return p
}

// drawFault makes a fault of the kind, a third of them drifts.
func drawFault(r *rand.Rand, k kind, start time.Duration) *change {
	c := &change{kind: k, start: start, cost: 1, quality: 1, volume: 1}
	switch k {
	case costAndQuality:
		c.cost, c.quality = 1.8+3.2*r.Float64(), 0.5+0.3*r.Float64()
	case qualityAlone:
		c.quality = 0.4 + 0.2*r.Float64()
	case costAlone:
		c.cost = 1.8 + 3.2*r.Float64()
	case volume:
		c.volume = 5
	}
	c.end = c.start + time.Duration(30+r.IntN(90))*time.Minute
	if r.IntN(3) == 0 {
		c.ramp = time.Duration(5+r.IntN(15)) * time.Minute
	}
	return c
}
