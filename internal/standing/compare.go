package standing

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// LeastParallel is how long two evaluators have to run beside each other before one replaces the other: a week has all
// days of the week in it.
const LeastParallel = 7 * 24 * time.Hour

// leastOfKey is how many calls of a key its own figures are drawn from at the least.
const leastOfKey = 20

// Comparison is how the scores of a new evaluator relate to those of the old one. Old scores are on the scale of
// baselines, by the old one's own mapping.
type Comparison struct {
	Old   contract.EvaluatorVersion `json:"old"`
	New   contract.EvaluatorVersion `json:"new"`
	First time.Time                 `json:"first"` // when the first of the calls was scored
	Last  time.Time                 `json:"last"`

	Agreement calibrate.Correlation `json:"agreement"` // of the new with the old
	Shift     float64               `json:"shift"`     // the mean of the new less that of the old
	Mappings  calibrate.Comparison  `json:"mappings"`
	Keys      []KeyShift            `json:"keys"` // those with the most calls first

	// With people: how each version agrees with them on the calls that they rated.
	OldHuman calibrate.Correlation `json:"old_human"`
	NewHuman calibrate.Correlation `json:"new_human"`
}

// KeyShift is what a switch would do to the scores of one key.
type KeyShift struct {
	Key       usage.Key             `json:"key"`
	Agreement calibrate.Correlation `json:"agreement"`
	Shift     float64               `json:"shift"`  // the mean of the new less that of the old, as they are
	Mapped    float64               `json:"mapped"` // the same behind the best mapping
}

// Compare relates the scores that two evaluators gave of the same calls, given the mapping that the old one's scores go
// through, and what people said of those that they rated.
func Compare(old, now contract.EvaluatorVersion, both []contract.BothScored, scale calibrate.Mapping, rated []contract.RatedScore) Comparison {
	c := Comparison{Old: old, New: now}
	pairs := PairsOf(both, scale)
	c.Agreement = calibrate.Correlate(pairs)
	c.Mappings = calibrate.Better(pairs, calibrate.DefaultFolds, 1)
	c.Shift = shift(pairs, calibrate.Mapping{})
	best := calibrate.Fit(c.Mappings.Best, pairs)
	byKey := map[usage.Key][]calibrate.Pair{}
	for i, b := range both {
		byKey[b.Key] = append(byKey[b.Key], pairs[i])
		if c.First.IsZero() || b.At.Before(c.First) {
			c.First = b.At
		}
		if b.At.After(c.Last) {
			c.Last = b.At
		}
	}
	for key, of := range byKey {
		if len(of) >= leastOfKey {
			c.Keys = append(c.Keys, KeyShift{key, calibrate.Correlate(of), shift(of, calibrate.Mapping{}), shift(of, best)})
		}
	}
	slices.SortFunc(c.Keys, func(a, b KeyShift) int {
		return cmp.Or(cmp.Compare(b.Agreement.N, a.Agreement.N), cmp.Compare(a.Key.Tenant, b.Key.Tenant), cmp.Compare(a.Key.Model, b.Key.Model))
	})
	c.OldHuman, c.NewHuman = calibrate.Correlate(ratedBy(rated, old)), calibrate.Correlate(ratedBy(rated, now))
	return c
}

// PairsOf are the scores to fit a mapping to: the new one's onto the old one's as they count.
func PairsOf(both []contract.BothScored, scale calibrate.Mapping) []calibrate.Pair {
	pairs := make([]calibrate.Pair, len(both))
	for i, b := range both {
		pairs[i] = calibrate.Pair{Human: scale.Apply(b.Old), Judge: b.New}
	}
	return pairs
}

// shift is the mean of the mapped scores less that of those they stand for; 0 of none.
func shift(pairs []calibrate.Pair, m calibrate.Mapping) (sum float64) {
	for _, p := range pairs {
		sum += (m.Apply(p.Judge) - p.Human) / float64(len(pairs))
	}
	return sum
}

func ratedBy(rated []contract.RatedScore, by contract.EvaluatorVersion) (pairs []calibrate.Pair) {
	for _, r := range rated {
		if r.Evaluator == by.Evaluator && r.Version == by.Version {
			pairs = append(pairs, r.Pair())
		}
	}
	return pairs
}

// Ready says why the new evaluator should not replace the old one yet; nil when nothing speaks against it.
func (c Comparison) Ready() error {
	var why []error
	if n := c.Agreement.N; n < calibrate.LeastPairs {
		why = append(why, fmt.Errorf("both have scored %d calls, and it takes %d", n, calibrate.LeastPairs))
	}
	if parallel := c.Last.Sub(c.First); parallel < LeastParallel {
		why = append(why, fmt.Errorf("they ran beside each other for %s, and it takes %d days: a week has all its days",
			parallel.Round(time.Hour), int(LeastParallel.Hours()/24)))
	}
	if c.NewHuman.Verdict() == calibrate.Fails {
		why = append(why, fmt.Errorf("%s does not agree with people: Spearman %.2f over %d calls, and it takes %.1f",
			c.New, c.NewHuman.Spearman, c.NewHuman.N, calibrate.Gate))
	}
	return errors.Join(why...)
}

// InForce is the newest record of a version that has come by a time; ok is false when there is none. The history has the
// newest of each version first.
func InForce(history []contract.EvaluatorRecord, v contract.EvaluatorVersion, at time.Time) (r contract.EvaluatorRecord, ok bool) {
	for _, r := range history {
		if r.Of(v) && !r.Since.After(at) {
			return r, true
		}
	}
	return contract.EvaluatorRecord{}, false
}

// standing is the record in force, or that of an evaluator that nobody has spoken of.
func standing(history []contract.EvaluatorRecord, v contract.EvaluatorVersion, at time.Time) contract.EvaluatorRecord {
	r, ok := InForce(history, v, at)
	if !ok {
		r = contract.EvaluatorRecord{Evaluator: v.Evaluator, Version: v.Version, Standing: contract.Counting}
	}
	return r
}

// Who says so, and why.
type Who struct{ By, Reason string }

// Trial is the record that puts a version beside another that counts. Of one that nobody has spoken of every score is on
// trial, those of calls before now that come yet included; else those from the next instant that all hear of.
func Trial(history []contract.EvaluatorRecord, now, against contract.EvaluatorVersion, at time.Time, who Who) (contract.EvaluatorRecord, error) {
	if now == against {
		return contract.EvaluatorRecord{}, fmt.Errorf("%s cannot be on trial against itself", now)
	}
	since := Instant(history, at, now, against)
	if r := standing(history, against, since); r.Standing != contract.Counting {
		return contract.EvaluatorRecord{}, fmt.Errorf("%s does not count itself: it is %s", against, r.Standing)
	}
	r, known := InForce(history, now, since)
	if known && r.Standing == contract.Trial {
		return contract.EvaluatorRecord{}, fmt.Errorf("%s is on trial already, since %s", now, r.Since.Format(time.RFC3339))
	}
	r = contract.EvaluatorRecord{
		Evaluator: now.Evaluator, Version: now.Version, Standing: contract.Trial, Since: since, By: who.By, Reason: who.Reason,
		AnchorMean: r.AnchorMean, AnchorSD: r.AnchorSD,
	}
	if !known {
		r.Since = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	return r, nil
}

// Instant is the earliest at which a change reaches every ingest at once, behind all that is to come for the versions.
func Instant(history []contract.EvaluatorRecord, at time.Time, versions ...contract.EvaluatorVersion) time.Time {
	since := at.UTC().Add(Lead + time.Second - 1).Truncate(time.Second)
	for _, r := range history {
		if slices.ContainsFunc(versions, r.Of) && !r.Since.Before(since) {
			since = r.Since.Add(time.Second)
		}
	}
	return since
}

// Newest is the last record of a version, one that is to come included, or that of an evaluator that nobody has spoken of.
func Newest(history []contract.EvaluatorRecord, v contract.EvaluatorVersion) contract.EvaluatorRecord {
	r := contract.EvaluatorRecord{Evaluator: v.Evaluator, Version: v.Version, Standing: contract.Counting}
	for _, h := range history {
		if h.Of(v) && h.Since.After(r.Since) {
			r = h
		}
	}
	return r
}

// Restore is the record by which a version that failed counts again.
func Restore(history []contract.EvaluatorRecord, v contract.EvaluatorVersion, at time.Time, who Who) (contract.EvaluatorRecord, error) {
	r := Newest(history, v)
	if r.Standing != contract.Failing {
		return contract.EvaluatorRecord{}, fmt.Errorf("%s is %s: only one that fails is restored", v, r.Standing)
	}
	r.Standing, r.Since, r.By, r.Reason = contract.Counting, Instant(history, at, v), who.By, who.Reason
	return r, nil
}

// Switch is the records by which the new version counts, through the mapping, and the old one retires, from one instant on.
func Switch(history []contract.EvaluatorRecord, old, now contract.EvaluatorVersion, m calibrate.Mapping, at time.Time, who Who) ([]contract.EvaluatorRecord, error) {
	since := Instant(history, at, old, now)
	was, will := standing(history, old, since), standing(history, now, since)
	switch {
	case old == now:
		return nil, fmt.Errorf("%s cannot replace itself", now)
	case was.Standing != contract.Counting:
		return nil, fmt.Errorf("%s is %s: what does not count cannot be replaced", old, was.Standing)
	case will.Standing == contract.Counting:
		return nil, fmt.Errorf("%s counts already: put it on trial first", now)
	}
	was.Standing, was.Since, was.By, was.Reason = contract.Retired, since, who.By, who.Reason
	will.Standing, will.Mapping, will.Since, will.By, will.Reason = contract.Counting, m, since, who.By, who.Reason
	return []contract.EvaluatorRecord{was, will}, nil
}

// Back is the records that undo the last Switch of the two: what held before it holds again.
func Back(history []contract.EvaluatorRecord, old, now contract.EvaluatorVersion, at time.Time, who Who) ([]contract.EvaluatorRecord, error) {
	newest := standing(history, old, at.AddDate(1, 0, 0))
	switched, ok := InForce(history, now, newest.Since)
	if newest.Standing != contract.Retired || !ok || !switched.Since.Equal(newest.Since) || switched.Standing != contract.Counting {
		return nil, fmt.Errorf("%s does not stand in place of %s: there is no switch to undo", now, old)
	}
	before := newest.Since.Add(-time.Millisecond)
	was, will := standing(history, old, before), standing(history, now, before)
	since := Instant(history, at, old, now)
	was.Since, was.By, was.Reason = since, who.By, who.Reason
	will.Since, will.By, will.Reason = since, who.By, who.Reason
	return []contract.EvaluatorRecord{was, will}, nil
}
