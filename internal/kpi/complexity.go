package kpi

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// The bounds of a complexity, which is 1 for the usual task and never 0, and of a human's time on one task, in
// minutes: 60 ms and a year.
const (
	MinComplexity = 0.001
	MaxComplexity = 1e6
	MinMinutes    = 0.001
	MaxMinutes    = 525_600
)

// ComplexitySource is what a task's score was worked out from.
type ComplexitySource string

// The sources.
const (
	FromTime     ComplexitySource = "time"     // human time-to-complete
	FromDistance ComplexitySource = "distance" // of embeddings from canonical examples
	FromPerson   ComplexitySource = "manual"   // said by somebody
)

// TaskScore is the complexity of one task: what a call of it counts for where the call itself says nothing.
type TaskScore struct {
	Tenant  string // "" is for all; a tenant's own goes before it
	Task    string
	Source  ComplexitySource
	Milli   int64   // in thousandths, at least 1
	Samples int64   // times or embeddings it was worked out from; 0 when somebody said it
	Minutes float64 // median human time; 0 from elsewhere
	SetAt   time.Time
	By      string
}

// MedianMinutes is the median of the times that people took for one task. It refuses none at all, and one
// beyond the bounds.
func MedianMinutes(samples []float64) (float64, error) {
	if len(samples) == 0 {
		return 0, errors.New("there is no time")
	}
	for i, minutes := range samples {
		if !(minutes >= MinMinutes && minutes <= MaxMinutes) { // NaN is neither
			return 0, fmt.Errorf("time %d must be between %g and %d minutes (%g)", i, MinMinutes, MaxMinutes, minutes)
		}
	}
	return median(samples), nil
}

// ScoreTimes sets the score of each of all that comes from times, by how long people took to complete it: the
// task's median over the usual time, which is the median of those medians, so that the usual task has 1. Medians,
// since times to complete are skewed: the few that were left open overnight must not count more than the rest. The
// usual time is one for all tenants, that of the tasks for all, so that a tenant's own times are on the same
// scale; where there are none, it is that of the tenant's own tasks.
func ScoreTimes(all []TaskScore) {
	medians, usual := map[string][]float64{}, map[string]float64{}
	for _, s := range all {
		if s.Source == FromTime {
			medians[s.Tenant] = append(medians[s.Tenant], s.Minutes)
		}
	}
	for tenant, list := range medians {
		usual[tenant] = median(list)
	}
	for i := range all {
		s := &all[i]
		if s.Source != FromTime {
			continue
		}
		unit, shared := usual[""]
		if !shared {
			unit = usual[s.Tenant]
		}
		s.Milli = ComplexityMilli(timeScore(s.Minutes, unit))
	}
}

func timeScore(minutes, usual float64) float64 {
	return min(max(minutes/usual, MinComplexity), MaxComplexity)
}

// median is the middle of the values, or the mean of the two in the middle. There must be one.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return sorted[mid-1] + (sorted[mid]-sorted[mid-1])/2
}

// MinSpread is the least spread of a task's examples that distances are measured by. Examples nearer to one
// another are copies, and do not tell how far apart calls of the task usually are.
const MinSpread = 0.01

// Canonical are tasks with examples of them that are known to be usual, as embeddings.
type Canonical struct {
	tasks      []canonicalTask // by name
	dimensions int
}

type canonicalTask struct {
	name     string
	examples [][]float64 // of length 1
	spread   float64
}

// NewCanonical takes the examples of each task: two at least, all of one dimension, with a direction.
func NewCanonical(tasks map[string][][]float64) (*Canonical, error) {
	c := &Canonical{}
	for _, name := range slices.Sorted(maps.Keys(tasks)) {
		t := canonicalTask{name: name}
		if len(tasks[name]) < 2 {
			return nil, fmt.Errorf("task %q has %d canonical examples: it takes two to see how far apart they are", name, len(tasks[name]))
		}
		for i, v := range tasks[name] {
			if c.dimensions == 0 {
				c.dimensions = len(v)
			}
			unit, err := c.unit(v)
			if err != nil {
				return nil, fmt.Errorf("task %q, canonical example %d: %w", name, i, err)
			}
			t.examples = append(t.examples, unit)
		}
		nearest := make([]float64, len(t.examples))
		for i, example := range t.examples {
			nearest[i] = math.Inf(1)
			for j, other := range t.examples {
				if i != j {
					nearest[i] = min(nearest[i], distance(example, other))
				}
			}
		}
		t.spread = max(median(nearest), MinSpread)
		c.tasks = append(c.tasks, t)
	}
	if len(c.tasks) == 0 {
		return nil, errors.New("there is no task with canonical examples")
	}
	return c, nil
}

// Distance is where an embedding stands among canonical examples.
type Distance struct {
	Task    string // of the nearest example; the first by name of those equally near
	Example int    // which of its examples
	Cosine  float64
	Spread  float64 // of the task's examples
	Score   float64
}

// ComplexityFromDistance scores an input by its cosine distance d from the nearest canonical example: max(1, d/s),
// where the spread s is the median distance of that task's examples from the nearest other one. So what is within
// the task's own spread counts 1, as the usual call does, and what lies beyond counts as many times as much as
// it is farther away.
//
// The ratio is that of the nearest-neighbour data description (D. M. J. Tax, One-class classification, Delft
// 2001: NN-d), which takes what has a ratio of at most 1 for a member. Its denominator is the distance of
// one neighbour from its own; the median of all is steadier, and the same wherever in the task an input falls.
func ComplexityFromDistance(input []float64, canonical *Canonical) (Distance, error) {
	unit, err := canonical.unit(input)
	if err != nil {
		return Distance{}, fmt.Errorf("the input: %w", err)
	}
	d := Distance{Cosine: math.Inf(1)}
	for _, t := range canonical.tasks {
		for i, example := range t.examples {
			if away := distance(unit, example); away < d.Cosine {
				d.Task, d.Example, d.Cosine, d.Spread = t.name, i, away, t.spread
			}
		}
	}
	d.Score = min(max(1, d.Cosine/d.Spread), MaxComplexity)
	return d, nil
}

// unit is the vector at length 1.
func (c *Canonical) unit(v []float64) ([]float64, error) {
	if len(v) == 0 || len(v) != c.dimensions {
		return nil, fmt.Errorf("has %d dimensions, not %d", len(v), c.dimensions)
	}
	largest := 0.0
	for i, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return nil, fmt.Errorf("component %d is not a number (%g)", i, x)
		}
		largest = max(largest, math.Abs(x))
	}
	if largest == 0 {
		return nil, errors.New("is zero, and so has no direction")
	}
	unit, squares := make([]float64, len(v)), 0.0
	for i, x := range v { // first to at most 1, so that no square overflows
		unit[i] = x / largest
		squares += unit[i] * unit[i]
	}
	length := math.Sqrt(squares)
	for i := range unit {
		unit[i] /= length
	}
	return unit, nil
}

// distance is the cosine distance of two vectors of length 1, 1 − cos, in [0, 2]. As half of their squared
// difference it is exact where they are equal.
func distance(a, b []float64) float64 {
	squares := 0.0
	for i := range a {
		d := a[i] - b[i]
		squares += d * d
	}
	return min(squares/2, 2)
}
