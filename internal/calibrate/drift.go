package calibrate

import (
	"hash/fnv"
	"math"
)

// LeastHeldOut is how many rated calls before and after a claim about a key's scores takes: from there on a mean is close
// to normal, whatever the scores' distribution.
const LeastHeldOut = 30

// ForFit reports whether a rated call may be used to fit a mapping. The others are held out: they judge what was
// fitted. Which half a call is in follows from its trace alone.
func ForFit(traceID string) bool {
	h := fnv.New64a()
	h.Write([]byte(traceID))
	return mix(h.Sum64())&1 == 0
}

// Moments are those of a sample.
type Moments struct {
	N    int     `json:"n"`
	Mean float64 `json:"mean"`
	SD   float64 `json:"sd"` // of the sample, with n − 1; 0 with fewer than two
}

// MomentsOf computes a sample's moments; the zero ones of none.
func MomentsOf(x []float64) Moments {
	m := Moments{N: len(x)}
	if m.N == 0 {
		return m
	}
	m.Mean = mean(x)
	if m.N > 1 {
		var squares float64
		for _, v := range x {
			squares += (v - m.Mean) * (v - m.Mean)
		}
		m.SD = math.Sqrt(squares / float64(m.N-1))
	}
	return m
}

// Change is how far a mean has moved between two samples of different calls, with its interval of 95 %.
type Change struct {
	Known bool    `json:"known"` // false: one of the samples has fewer than LeastHeldOut
	By    float64 `json:"by"`
	Low   float64 `json:"low"`
	High  float64 `json:"high"`
}

// Since compares two samples by Welch's standard error, which lets their variances differ. With LeastHeldOut in each the
// normal quantile stands for Student's.
func (m Moments) Since(before Moments) Change {
	if m.N < LeastHeldOut || before.N < LeastHeldOut {
		return Change{}
	}
	by := m.Mean - before.Mean
	half := z95 * math.Sqrt(m.SD*m.SD/float64(m.N)+before.SD*before.SD/float64(before.N))
	return Change{Known: true, By: by, Low: by - half, High: by + half}
}

// clear reports whether the change is not 0 and has the sign of by.
func (c Change) clear(by float64) bool {
	return c.Known && (by > 0 && c.Low > 0 || by < 0 && c.High < 0)
}

// covers reports whether the change may be as large as by, to within the bound.
func (c Change) covers(by, bound float64) bool { return by >= c.Low-bound && by <= c.High+bound }

// Ratings are what people said of a key's held-out calls, and how far its evaluators' scores of the same calls lay
// above that.
type Ratings struct {
	Human    Moments `json:"human"`
	Residual Moments `json:"residual"` // evaluator − human, on the scale of baselines
}

// Witness is what people's ratings say of a move of a key's quality.
type Witness string

// The witnesses.
const (
	NoWitness      Witness = ""          // too few ratings
	CallsBetter    Witness = "better"    // people rate the calls higher, too
	CallsWorse     Witness = "worse"     // people rate the calls lower, too
	EvaluatorMoved Witness = "evaluator" // people rate the calls as before, and the evaluators do not
	Unclear        Witness = "unclear"
)

// Witness says what people's ratings, now and before, make of a move of quality by so much. A change counts when its
// interval excludes 0 and reaches the move to within the bound; people see none when theirs lies within the bound.
func (r Ratings) Witness(before Ratings, by, bound float64) Witness {
	human, residual := r.Human.Since(before.Human), r.Residual.Since(before.Residual)
	switch {
	case !human.Known:
		return NoWitness
	case human.clear(by) && human.covers(by, bound):
		if by < 0 {
			return CallsWorse
		}
		return CallsBetter
	case human.Low > -bound && human.High < bound && residual.clear(by) && residual.covers(by, bound):
		return EvaluatorMoved
	}
	return Unclear
}

// Approves reports whether the ratings are reason enough to move a baseline. Calls that people find worse are not: that
// would make a slow regression the usual state.
func (w Witness) Approves() bool { return w == CallsBetter || w == EvaluatorMoved }

// Then is the mapping that applies m and then next. Knots are m's where it has any, so that none are added however
// often mappings are composed.
func (m Mapping) Then(next Mapping) Mapping {
	if len(m.From) == 0 || len(next.From) == 0 {
		if len(m.From) == 0 {
			return next
		}
		return m
	}
	out := Mapping{Method: next.Method}
	for i, from := range m.From {
		out.add(from, next.Apply(m.To[i]))
	}
	return out
}
