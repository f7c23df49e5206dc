package router

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
)

// Tuple is one scored answer: the prompt's features, who answered, and the score.
type Tuple struct {
	Prompt   string // identifies the prompt, so that the same one is never trained on and predicted; it need not be its text
	Features Features
	Task     string
	Model    string
	Score    float64   // 0..1
	At       time.Time // zero: not known
}

// Training is how a model is trained.
type Training struct {
	Features string // Extractor.Name, or that of the embeddings
	Seed     uint64
	Folds    int // 0: 5
	At       time.Time
}

// Memory is how far back scored calls are trained from: as long as what routers knew of calls is kept.
const Memory = 90 * 24 * time.Hour

const (
	// Fewest is how many tuples a head is trained from at least.
	Fewest = 100
	// fewestOfClass is how many of them must be good, and how many bad: a head that saw one bad answer knows nothing.
	fewestOfClass = 10
	// mostOfHead bounds the tuples of a head; the newest count.
	mostOfHead = 20_000
)

// penalties are what weights are held back by; out of fold the best is taken. The last all but says the mean.
var penalties = [...]penalty{{1e-4, 5e-3}, {1e-3, 1e-2}, {1e-2, 5e-2}, {1e-1, 2e-1}}

// ErrFew says that there are too few tuples to train from. It is a verdict, not a failure.
var ErrFew = errors.New("too few scored calls")

// Train makes a model of the tuples: a head for each model over all tasks, and one for each task that has enough. The
// same tuples in the same order with the same seed give the same model. Too few tuples for any head are ErrFew.
func Train(tuples []Tuple, t Training) (*Model, error) {
	if t.Folds == 0 {
		t.Folds = 5
	}
	if t.Folds < 2 {
		return nil, fmt.Errorf("%d folds: want two at least", t.Folds)
	}
	m := &Model{Features: t.Features, TrainedAt: t.At.UTC(), N: len(tuples), Seed: t.Seed, Folds: t.Folds}
	groups := map[tasked][]Tuple{}
	for _, x := range tuples {
		name := routing.Undated(x.Model)
		groups[tasked{"", name}] = append(groups[tasked{"", name}], x)
		if x.Task != "" {
			groups[tasked{x.Task, name}] = append(groups[tasked{x.Task, name}], x)
		}
		if !x.At.IsZero() {
			if m.From.IsZero() || x.At.Before(m.From) {
				m.From = x.At.UTC()
			}
			if x.At.After(m.To) {
				m.To = x.At.UTC()
			}
		}
	}
	for _, of := range largest(groups) {
		h, err := trainHead(groups[of], t)
		if errors.Is(err, ErrFew) {
			continue
		}
		if err != nil {
			return nil, err
		}
		h.Task, h.Model = of.task, of.model
		m.Heads = append(m.Heads, h)
	}
	if len(m.Heads) == 0 {
		return nil, fmt.Errorf("%w: %d in all, and no model has %d of them, with %d good and %d bad ones", ErrFew, len(tuples), Fewest, fewestOfClass, fewestOfClass)
	}
	m.Version = m.name()
	return m, nil
}

// largest are the heads to train: with the most tuples first, all tasks before one.
func largest(groups map[tasked][]Tuple) []tasked {
	var all []tasked
	for of := range groups {
		all = append(all, of)
	}
	slices.SortFunc(all, func(a, b tasked) int {
		switch x, y := len(groups[a]), len(groups[b]); {
		case x != y:
			return y - x
		case a.model != b.model:
			return compare(a.model, b.model)
		}
		return compare(a.task, b.task)
	})
	return all[:min(len(all), maxHeads)]
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func trainHead(tuples []Tuple, t Training) (Head, error) {
	tuples = tuples[max(0, len(tuples)-mostOfHead):]
	good, sum := 0, 0.0
	for _, x := range tuples {
		if !(x.Score >= 0 && x.Score <= 1) {
			return Head{}, fmt.Errorf("the score %v is not between 0 and 1", x.Score)
		}
		if x.Score >= 0.5 {
			good++
		}
		sum += x.Score
	}
	n := len(tuples)
	if n < Fewest || good < fewestOfClass || n-good < fewestOfClass {
		return Head{}, ErrFew
	}
	d, err := newData(tuples)
	if err != nil {
		return Head{}, err
	}
	l2, odds := d.choose(t.Folds, t.Seed)
	slope, shift := recalibrate(odds, d.want)
	h := d.head(d.rows, d.want, l2)
	h.rescale(slope, shift)
	for i := range odds {
		odds[i] = slope*odds[i] + shift
	}
	h.Base, h.L2, h.L2Dense = sum/float64(n), l2.grams, l2.shape
	h.Metrics = measure(odds, d.want)
	return h, nil
}

// data are tuples ready to be fitted.
type data struct {
	rows         []row
	want         []float64
	prompts      []string
	grams, dense int
}

func newData(tuples []Tuple) (*data, error) {
	d := &data{dense: len(tuples[0].Features.Dense)}
	for i := range tuples {
		f := &tuples[i].Features
		if len(f.Dense) != d.dense || d.dense < shapes {
			return nil, fmt.Errorf("tuple %d has %d values besides its n-grams, and the first has %d: they were not made by the same reading. Where an embeddings endpoint has changed its vectors, set router.embeddings.dimensions to begin anew", i, len(f.Dense), d.dense)
		}
		if len(f.Grams) > 0 {
			d.grams = buckets
		}
		d.rows = append(d.rows, newRow(f))
		d.want = append(d.want, tuples[i].Score)
		d.prompts = append(d.prompts, tuples[i].Prompt)
	}
	return d, nil
}

// head fits one penalty to some of the rows and folds the scaling into the weights.
func (d *data) head(rows []row, want []float64, l2 penalty) Head {
	s := standardOf(rows, d.dense)
	p := problem{rows: s.apply(rows), want: want, grams: d.grams, dense: d.dense, l2: l2}
	w := p.fit()
	h := Head{Bias: w[len(w)-1], Grams: make(Weights, d.grams), Dense: make(Weights, d.dense)}
	for i := range h.Grams {
		h.Grams[i] = float32(w[i])
	}
	for j := range h.Dense {
		h.Dense[j] = float32(w[d.grams+j] / s.spread[j])
		h.Bias -= float64(h.Dense[j]) * s.mean[j]
	}
	return h
}

// rescale makes the head's odds what recalibrate found of them.
func (h *Head) rescale(slope, shift float64) {
	h.Bias = slope*h.Bias + shift
	for i := range h.Grams {
		h.Grams[i] *= float32(slope)
	}
	for i := range h.Dense {
		h.Dense[i] *= float32(slope)
	}
}

func (h *Head) odds(r *row) float64 {
	z := h.Bias
	for i, at := range r.at {
		z += float64(h.Grams[at]) * float64(r.value[i])
	}
	for j, x := range r.dense {
		z += float64(h.Dense[j]) * float64(x)
	}
	return z
}

// outOfFold predicts every row by a head that has not seen its prompt, and gives the odds.
func (d *data) outOfFold(of []int, folds int, train func(rows []int) Head) []float64 {
	odds := make([]float64, len(of))
	for k := range folds {
		var rows []int
		for i, fold := range of {
			if fold != k {
				rows = append(rows, i)
			}
		}
		if len(rows) == len(of) {
			continue
		}
		h := train(rows)
		for i, fold := range of {
			if fold == k {
				odds[i] = h.odds(&d.rows[i])
			}
		}
	}
	return odds
}

func (d *data) subset(of []int) *data {
	s := &data{grams: d.grams, dense: d.dense}
	for _, i := range of {
		s.rows, s.want, s.prompts = append(s.rows, d.rows[i]), append(s.want, d.want[i]), append(s.prompts, d.prompts[i])
	}
	return s
}

// choose takes the penalty whose predictions out of fold are best, and gives those.
func (d *data) choose(folds int, seed uint64) (l2 penalty, odds []float64) {
	of := assign(d.prompts, folds, seed)
	best := math.Inf(1)
	for _, candidate := range penalties {
		got := d.outOfFold(of, folds, func(rows []int) Head {
			s := d.subset(rows)
			return s.head(s.rows, s.want, candidate)
		})
		if loss := meanLogLoss(got, d.want); loss < best {
			best, l2, odds = loss, candidate, got
		}
	}
	return l2, odds
}

// recalibrate finds the slope and the shift of the odds by which they fit best what was found out of fold (Platt's):
// weights that were fitted too closely claim too much, and a slope below 1 takes it back.
func recalibrate(odds, want []float64) (slope, shift float64) {
	slope = 1
	for range 50 {
		var ga, gb, haa, hab, hbb float64
		for i, z := range odds {
			p := sigmoid(slope*z + shift)
			d, v := p-want[i], p*(1-p)
			ga, gb = ga+d*z, gb+d
			haa, hab, hbb = haa+v*z*z, hab+v*z, hbb+v
		}
		haa, hbb = haa+1e-6, hbb+1e-6
		det := haa*hbb - hab*hab
		if det < 1e-12 {
			break
		}
		da, db := (hbb*ga-hab*gb)/det, (haa*gb-hab*ga)/det
		slope, shift = slope-da, shift-db
		if math.Abs(da)+math.Abs(db) < 1e-9 {
			break
		}
	}
	if !(slope > 0 && slope < 10) || math.IsNaN(shift) { // out of fold they say nothing, or the opposite: then the mean is all there is to say
		mean := 0.0
		for _, y := range want {
			mean += y / float64(len(want))
		}
		return 0, math.Log(mean / (1 - mean))
	}
	return slope, shift
}

// assign puts each prompt into a fold, the same prompt always into the same one, by a shuffle of the seed's.
func assign(prompts []string, folds int, seed uint64) []int {
	index := map[string]int{}
	for _, p := range prompts {
		if _, ok := index[p]; !ok {
			index[p] = len(index)
		}
	}
	place := permutation(len(index), seed)
	of := make([]int, len(prompts))
	for i, p := range prompts {
		of[i] = place[index[p]] % folds
	}
	return of
}

// permutation is a shuffle of 0..n-1 that the seed determines.
func permutation(n int, seed uint64) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	state := seed
	for i := n - 1; i > 0; i-- {
		state += 0x9e3779b97f4a7c15 // splitmix64
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		j := int((z ^ z>>31) % uint64(i+1))
		all[i], all[j] = all[j], all[i]
	}
	return all
}
