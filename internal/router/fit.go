package router

import "math"

// problem is a logistic regression: rows of features, and what each should come to, between 0 and 1. A score between
// the two counts as so many good answers and the rest bad ones, so that predictions are on the scale of scores. Neither
// class is weighted up: that would only move the bias, and make the predictions wrong for those who read them as odds.
type problem struct {
	rows  []row
	want  []float64
	grams int // weights of n-grams: buckets, or none
	dense int
	l2    penalty
}

// row is a prompt as the optimiser sees it: n-grams scaled to length 1, the rest by standard.
type row struct {
	at    []uint16
	value []float32
	dense []float32
}

// penalty holds the weights of n-grams or of an embedding back, and those of the shape.
type penalty struct{ grams, shape float64 }

func newRow(f *Features) row {
	r := row{at: make([]uint16, len(f.Grams)), value: make([]float32, len(f.Grams)), dense: f.Dense}
	squares := 0.0
	for _, g := range f.Grams {
		squares += scale(int(g.Count)) * scale(int(g.Count))
	}
	norm := 1 / math.Sqrt(max(squares, 1e-12))
	for i, g := range f.Grams {
		r.at[i], r.value[i] = g.Bucket, float32(scale(int(g.Count))*norm)
	}
	return r
}

// standard is the mean and the spread of each dense value. All values of an embedding have one spread, so that its
// length comes to 1, as that of the n-grams: what tells prompts apart is its direction, and not how many values it has.
type standard struct{ mean, spread []float64 }

func standardOf(rows []row, dense int) standard {
	s := standard{make([]float64, dense), make([]float64, dense)}
	for _, r := range rows {
		for j, x := range r.dense {
			s.mean[j] += float64(x) / float64(len(rows))
		}
	}
	for _, r := range rows {
		for j, x := range r.dense {
			d := float64(x) - s.mean[j]
			s.spread[j] += d * d / float64(len(rows))
		}
	}
	embedding := 0.0
	for _, v := range s.spread[min(shapes, dense):] {
		embedding += v
	}
	for j, v := range s.spread {
		if j >= shapes {
			v = embedding
		}
		s.spread[j] = math.Sqrt(v)
		if s.spread[j] < 1e-6 { // it says nothing, and must not say much about the first prompt that differs
			s.spread[j] = math.Inf(1)
		}
	}
	return s
}

func (s standard) apply(rows []row) []row {
	scaled := make([]row, len(rows))
	for i, r := range rows {
		scaled[i] = row{r.at, r.value, make([]float32, len(r.dense))}
		for j, x := range r.dense {
			scaled[i].dense[j] = float32((float64(x) - s.mean[j]) / s.spread[j])
		}
	}
	return scaled
}

// fitted are weights: the n-grams', the dense values', the bias.
type fitted []float64

func (p *problem) score(w fitted, r *row) float64 {
	z := w[len(w)-1]
	for i, at := range r.at {
		z += w[at] * float64(r.value[i])
	}
	for j, x := range r.dense {
		z += w[p.grams+j] * float64(x)
	}
	return z
}

// loss is the mean log loss and the penalty, and puts their gradient into g.
func (p *problem) loss(w, g fitted) float64 {
	clear(g)
	n := float64(len(p.rows))
	sum := 0.0
	for i := range p.rows {
		r := &p.rows[i]
		z := p.score(w, r)
		sum += logLoss(z, p.want[i]) / n
		d := (sigmoid(z) - p.want[i]) / n
		for k, at := range r.at {
			g[at] += d * float64(r.value[k])
		}
		for j, x := range r.dense {
			g[p.grams+j] += d * float64(x)
		}
		g[len(g)-1] += d
	}
	for j := range w[:len(w)-1] { // the bias is free
		l2 := p.l2.grams
		if j >= p.grams && j < p.grams+shapes {
			l2 = p.l2.shape
		}
		sum += l2 / 2 * w[j] * w[j]
		g[j] += l2 * w[j]
	}
	return sum
}

// logLoss of the odds z where y was right, without overflow.
func logLoss(z, y float64) float64 { return max(z, 0) - z*y + math.Log1p(math.Exp(-math.Abs(z))) }

const (
	memory    = 8   // steps that L-BFGS remembers
	stepsMost = 200 // it ends in some twenty
)

// fit finds the weights by L-BFGS (Nocedal and Wright, algorithm 7.4) with a backtracking line search. The loss is
// strictly convex but for the bias, so there is one answer, and it is the same each time.
func (p *problem) fit() fitted {
	n := p.grams + p.dense + 1
	w, g, next, nextG, d := make(fitted, n), make(fitted, n), make(fitted, n), make(fitted, n), make(fitted, n)
	var past []pair
	f := p.loss(w, g)
	for range stepsMost {
		if norm(g) < 1e-4 {
			break
		}
		copy(d, g)
		direct(d, past)
		slope := -dot(g, d)
		step := 1.0
		if len(past) == 0 {
			step = min(1, 1/norm(g))
		}
		moved := false
		for range 30 {
			for i := range w {
				next[i] = w[i] - step*d[i]
			}
			if got := p.loss(next, nextG); got <= f+1e-4*step*slope {
				f, moved = got, true
				break
			}
			step /= 2
		}
		if !moved {
			break // as near as the arithmetic goes
		}
		past = remembered(past, w, next, g, nextG)
		w, next, g, nextG = next, w, nextG, g
	}
	return w
}

// pair is one step of the optimiser: how far the weights and the gradient went.
type pair struct {
	s, y fitted
	rho  float64
}

func remembered(past []pair, w, next, g, nextG fitted) []pair {
	k := pair{make(fitted, len(w)), make(fitted, len(w)), 0}
	for i := range w {
		k.s[i], k.y[i] = next[i]-w[i], nextG[i]-g[i]
	}
	curved := dot(k.s, k.y)
	if curved <= 1e-12 {
		return past
	}
	k.rho = 1 / curved
	past = append(past, k)
	return past[max(0, len(past)-memory):]
}

// direct turns the gradient in d into the direction of the next step by what past steps say of the curvature.
func direct(d fitted, past []pair) {
	alpha := make([]float64, len(past))
	for i := len(past) - 1; i >= 0; i-- {
		alpha[i] = past[i].rho * dot(past[i].s, d)
		axpy(d, -alpha[i], past[i].y)
	}
	if len(past) > 0 {
		last := past[len(past)-1]
		scale := dot(last.s, last.y) / dot(last.y, last.y)
		for i := range d {
			d[i] *= scale
		}
	}
	for i := range past {
		axpy(d, alpha[i]-past[i].rho*dot(past[i].y, d), past[i].s)
	}
}

func dot(a, b fitted) (sum float64) {
	for i := range a {
		sum += a[i] * b[i]
	}
	return sum
}

func axpy(to fitted, by float64, of fitted) {
	for i := range to {
		to[i] += by * of[i]
	}
}

func norm(a fitted) float64 { return math.Sqrt(dot(a, a)) }
