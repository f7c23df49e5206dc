package router

import (
	"fmt"
	"math"
	"slices"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Pair is a prompt that two models have answered, and what their answers were worth.
type Pair struct {
	Prompt       string // identifies it
	Features     Features
	Weak, Strong float64 // scores, 0..1
	// WeakCost and StrongCost are what the calls did cost; Priced says that they are known.
	WeakCost, StrongCost usage.PicoUSD
	Priced               bool
}

// Evaluation is what a router between two models is worth, by the definitions of RouteLLM (Ong et al. 2024). The
// performance gap recovered (PGR) at a share of strong calls is how far mean quality has come from the weak model's to
// the strong one's. Nil says that there is nothing to say: the strong model is not better, or all scores are the same.
type Evaluation struct {
	N      int      `json:"n"`
	Weak   float64  `json:"weak"`   // mean score of the weak model alone
	Strong float64  `json:"strong"` // of the strong one alone
	AUC    *float64 `json:"auc"`    // of the prediction whether the weak model's answer is good
	APGR   *float64 `json:"apgr"`   // PGR averaged over all shares of strong calls; a coin makes 0.5
	CPT50  *float64 `json:"cpt50"`  // the least share of strong calls that recovers half of the gap
	CPT80  *float64 `json:"cpt80"`  // that recovers 80 % of it
	USD    *Dollars `json:"usd,omitempty"`
}

// Dollars are what all calls together would have cost, as decimals; empty where there is no such share.
type Dollars struct {
	Weak   string `json:"weak"`
	Strong string `json:"strong"`
	CPT50  string `json:"cpt50,omitempty"`
	CPT80  string `json:"cpt80,omitempty"`
}

// Options are how an evaluation is made.
type Options struct {
	Folds   int
	Seed    uint64
	Shuffle bool // permute the outcomes over the prompts: the control, at which nothing can be predicted
}

// Evaluate predicts, out of fold, both models' answers, and sends the prompts on which the strong model is expected to
// be better by the most to it first. The penalty is chosen anew within each fold, so that nothing of a prompt that is
// predicted has been seen.
func Evaluate(pairs []Pair, o Options) (Evaluation, error) {
	if o.Folds < 2 || len(pairs) < 2*o.Folds {
		return Evaluation{}, fmt.Errorf("%d prompts in %d folds: want two folds at least, and two prompts in each", len(pairs), o.Folds)
	}
	if o.Shuffle {
		pairs = shuffled(pairs, o.Seed)
	}
	weak, strong := make([]Tuple, len(pairs)), make([]Tuple, len(pairs))
	for i, p := range pairs {
		weak[i] = Tuple{Prompt: p.Prompt, Features: p.Features, Score: p.Weak}
		strong[i] = Tuple{Prompt: p.Prompt, Features: p.Features, Score: p.Strong}
	}
	saysWeak, err := predictOutOfFold(weak, o)
	if err != nil {
		return Evaluation{}, err
	}
	saysStrong, err := predictOutOfFold(strong, o)
	if err != nil {
		return Evaluation{}, err
	}
	gain := make([]float64, len(pairs))
	for i := range gain {
		gain[i] = saysStrong[i] - saysWeak[i]
	}
	e := Worth(pairs, gain)
	found := make([]float64, len(pairs))
	for i, p := range pairs {
		found[i] = p.Weak
	}
	if auc, ok := AUC(saysWeak, found); ok {
		e.AUC = &auc
	}
	return e, nil
}

// shuffled gives each prompt another's outcomes.
func shuffled(pairs []Pair, seed uint64) []Pair {
	mixed := slices.Clone(pairs)
	for i, j := range permutation(len(pairs), ^seed) {
		mixed[i].Weak, mixed[i].Strong = pairs[j].Weak, pairs[j].Strong
	}
	return mixed
}

func predictOutOfFold(tuples []Tuple, o Options) ([]float64, error) {
	d, err := newData(tuples)
	if err != nil {
		return nil, err
	}
	odds := d.outOfFold(assign(d.prompts, o.Folds, o.Seed), o.Folds, func(rows []int) Head {
		s := d.subset(rows)
		l2, inner := s.choose(3, o.Seed+1)
		h := s.head(s.rows, s.want, l2)
		h.rescale(recalibrate(inner, s.want))
		return h
	})
	for i, z := range odds {
		odds[i] = sigmoid(z)
	}
	return odds, nil
}

// Worth measures any router between the two models: prompts go to the strong one in the order of falling preference.
// Those of equal preference are sent in proportion, as a fair draw would in the mean, so that no order of the file helps.
func Worth(pairs []Pair, preference []float64) Evaluation {
	e := Evaluation{N: len(pairs)}
	n := float64(len(pairs))
	gain, weak, strong := 0.0, usage.PicoUSD(0), usage.PicoUSD(0)
	priced := len(pairs) > 0
	for _, p := range pairs {
		e.Weak, e.Strong = e.Weak+p.Weak/n, e.Strong+p.Strong/n
		gain += p.Strong - p.Weak
		weak, strong = weak+p.WeakCost, strong+p.StrongCost
		priced = priced && p.Priced
	}
	if priced {
		e.USD = &Dollars{Weak: pricing.Format(weak), Strong: pricing.Format(strong)}
	}
	if gain <= 1e-12 {
		return e
	}
	c := curve(pairs, preference)
	area := 0.0
	for k := range len(pairs) {
		area += (c[k].gain + c[k+1].gain) / 2 / gain / n
	}
	e.APGR = &area
	at50, at80 := reach(c, gain/2), reach(c, gain*4/5)
	cpt50, cpt80 := float64(at50)/n, float64(at80)/n
	e.CPT50, e.CPT80 = &cpt50, &cpt80
	if e.USD != nil {
		e.USD.CPT50, e.USD.CPT80 = pricing.Format(weak+c[at50].spent()), pricing.Format(weak+c[at80].spent())
	}
	return e
}

// reach is the least number of strong calls that gains so much. All of them do.
func reach(c []point, want float64) int {
	return slices.IndexFunc(c, func(p point) bool { return p.gain >= want-1e-9 })
}

// point is what so many strong calls have gained, and cost beyond the weak ones.
type point struct{ gain, cost float64 }

func (p point) spent() usage.PicoUSD { return usage.PicoUSD(math.Round(p.cost)) }

// curve is the gain after each strong call, from none to all.
func curve(pairs []Pair, preference []float64) []point {
	order := ascending(preference)
	slices.Reverse(order)
	c := []point{{}}
	for from := 0; from < len(order); {
		to := from
		sum := point{}
		for to < len(order) && preference[order[to]] == preference[order[from]] {
			p := &pairs[order[to]]
			sum.gain += p.Strong - p.Weak
			sum.cost += float64(p.StrongCost - p.WeakCost) // exact below 9,000 dollars
			to++
		}
		begin := c[len(c)-1]
		for k := 1; k <= to-from; k++ {
			share := float64(k) / float64(to-from)
			c = append(c, point{begin.gain + share*sum.gain, begin.cost + share*sum.cost})
		}
		from = to
	}
	return c
}

// Spread is the mean of a figure over seeds, and its sample standard deviation.
type Spread struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	SD   float64 `json:"sd"`
	Min  float64 `json:"min"`
	Max  float64 `json:"max"`
}

// SpreadOf is nil of no figures.
func SpreadOf(figures []float64) *Spread {
	if len(figures) == 0 {
		return nil
	}
	s := &Spread{N: len(figures), Min: slices.Min(figures), Max: slices.Max(figures)}
	for _, x := range figures {
		s.Mean += x / float64(len(figures))
	}
	for _, x := range figures {
		s.SD += (x - s.Mean) * (x - s.Mean)
	}
	s.SD = math.Sqrt(s.SD / float64(max(1, len(figures)-1)))
	return s
}
