// Package drift says how far keys' levels and evaluators have moved since they were calibrated, what people's ratings
// make of it, and what may follow without a person's word. It is arithmetic over what is stored, and reads no clock.
package drift

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/standing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// By is who changes what no person has to be asked about.
const By = "calibration"

// Window is how far back people's ratings count: as far as baselines look.
const Window = 28 * 24 * time.Hour

const (
	// maxMoves bounds how many moves a report lists beyond their bounds, and maxWithin how many within.
	maxMoves  = 100
	maxWithin = 20
)

type measured struct {
	key     usage.Key
	measure contract.Measure
}

// Known is what is stored at a time.
type Known struct {
	Levels  []contract.Level      // where keys were calibrated
	Drawn   []contract.DrawnLevel // where they are now
	Rated   []contract.RatedScore // of the last Window
	History []contract.EvaluatorRecord
}

// Levels compares each key's level with the calibrated one. It returns what it found, and the levels to store: those of
// keys that had none, those that people's ratings have confirmed, and those that ratings have come for.
func Levels(known Known, bounds contract.Bounds, at time.Time) (r contract.DriftReport, store []contract.Level) {
	r.At = at
	stands := map[measured]contract.Level{}
	for _, l := range known.Levels {
		stands[measured{l.Key, l.Measure}] = l
	}
	rated := ratedByKey(known.Rated, known.History)
	var moves, within []contract.LevelDrift
	for _, drawn := range known.Drawn {
		if usage.IsDrill(drawn.Key.Tenant) {
			continue
		}
		l, calibrated := stands[measured{drawn.Key, drawn.Measure}]
		if !calibrated {
			r.First++
			store = append(store, contract.Level{
				Key: drawn.Key, Measure: drawn.Measure, At: at, Value: drawn.Value, Bound: bounds.Of(drawn.Measure),
				Ratings: ratingsSince(rated[drawn.Key], time.Time{}, drawn.Measure), By: By, Reason: "calibrated for the first time",
			})
			continue
		}
		r.Compared++
		d := compare(l, drawn, rated[drawn.Key], bounds)
		if d.Beyond() {
			moves = append(moves, d)
			continue
		}
		within = append(within, d)
		if l.Ratings.Human.N < calibrate.LeastHeldOut && d.Ratings.Human.N >= calibrate.LeastHeldOut {
			l.Ratings = d.Ratings
			store = append(store, l)
		}
	}
	byFar := func(a, b contract.LevelDrift) int {
		return cmp.Compare(math.Abs(b.By())/b.Bound, math.Abs(a.By())/a.Bound)
	}
	slices.SortStableFunc(moves, byFar)
	slices.SortStableFunc(within, byFar)
	for _, d := range moves {
		list := &r.Refused
		if d.Witness.Approves() {
			list = &r.Confirmed
			store = append(store, d.Moved(at, bounds, By, d.Says()))
		}
		if len(r.Refused)+len(r.Confirmed) < maxMoves {
			*list = append(*list, d)
		} else {
			r.More++
		}
	}
	r.Within = within[:min(len(within), maxWithin)]
	return r, store
}

func compare(l contract.Level, drawn contract.DrawnLevel, rated []ratedScore, bounds contract.Bounds) contract.LevelDrift {
	d := contract.LevelDrift{Key: l.Key, Measure: l.Measure, Since: l.At, From: l.Value, To: drawn.Value, Bound: bounds.Of(l.Measure)}
	if l.Measure != contract.QualityMeasure {
		return d
	}
	d.Ratings = ratingsSince(rated, l.At, l.Measure)
	d.Human, d.Judges = d.Ratings.Human.Since(l.Ratings.Human), d.Ratings.Residual.Since(l.Ratings.Residual)
	d.Witness = d.Ratings.Witness(l.Ratings, d.By(), d.Bound)
	return d
}

// ratedScore is a held-out call, the evaluator's score on the scale of baselines.
type ratedScore struct {
	at           time.Time
	human, judge float64
}

// ratedByKey are the held-out calls that count for each key and its tenant's pseudo-key.
func ratedByKey(rated []contract.RatedScore, history []contract.EvaluatorRecord) map[usage.Key][]ratedScore {
	all := map[usage.Key][]ratedScore{}
	for _, r := range rated {
		record, ok := standing.InForce(history, contract.EvaluatorVersion{Evaluator: r.Evaluator, Version: r.Version}, r.At)
		if calibrate.ForFit(r.TraceID) || ok && record.Standing != contract.Counting {
			continue
		}
		one := ratedScore{r.At, r.Human, record.Mapping.Apply(r.Judge)}
		whole := usage.Key{Tenant: r.Key.Tenant, Model: usage.AnyModel}
		all[r.Key], all[whole] = append(all[r.Key], one), append(all[whole], one)
	}
	return all
}

// ratingsSince are the moments of what was scored after a time, so that what a level was calibrated with is not among it.
func ratingsSince(rated []ratedScore, since time.Time, measure contract.Measure) calibrate.Ratings {
	if measure != contract.QualityMeasure {
		return calibrate.Ratings{}
	}
	var human, residual []float64
	for _, r := range rated {
		if r.at.After(since) {
			human, residual = append(human, r.human), append(residual, r.judge-r.human)
		}
	}
	return calibrate.Ratings{Human: calibrate.MomentsOf(human), Residual: calibrate.MomentsOf(residual)}
}
