package drift

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/standing"
)

// leastFit is how many rated calls an anchor, and what is compared with it, is fitted to: half of what the gate takes,
// since the other half is held out.
const leastFit = calibrate.LeastPairs / 2

// maxEvaluators bounds how many versions a report lists.
const maxEvaluators = 50

// Evaluators judges every version that people's ratings say something of, or that counts by a record. It returns what it
// found, those that fail first, and the records to store.
//
// The gate is Spearman's rank correlation of the scores as given with people's ratings, over at least
// calibrate.LeastPairs calls; fewer are inconclusive and change nothing. A version below the gate fails; only a person
// lets it count again. One above it is anchored once: its mean and deviation on the scale of baselines over the calls
// that are for fitting, beside people's of the same calls. Later its distance from people is compared with that, and
// when that has moved, by an interval of 95 % that excludes 0, its scores are brought back.
func Evaluators(rated []contract.RatedScore, history []contract.EvaluatorRecord, at time.Time) (found []contract.EvaluatorDrift, store []contract.EvaluatorRecord) {
	// A run that is tried again finds the world without what it has stored itself.
	history = slices.DeleteFunc(slices.Clone(history), func(r contract.EvaluatorRecord) bool { return r.By == By && r.Since.After(at) })
	of := map[contract.EvaluatorVersion][]contract.RatedScore{}
	for _, r := range history {
		of[contract.EvaluatorVersion{Evaluator: r.Evaluator, Version: r.Version}] = nil
	}
	for _, r := range rated {
		v := contract.EvaluatorVersion{Evaluator: r.Evaluator, Version: r.Version}
		of[v] = append(of[v], r)
	}
	for v, pairs := range of {
		record := standing.Newest(history, v)
		if record.Standing == contract.Retired || record.Standing == contract.Trial {
			continue
		}
		d, next := judge(v, record, pairs)
		found = append(found, d)
		if next != nil {
			next.Since = standing.Instant(history, at, v)
			store = append(store, *next)
		}
	}
	slices.SortFunc(found, func(a, b contract.EvaluatorDrift) int {
		return cmp.Or(-cmp.Compare(weight(a), weight(b)), cmp.Compare(a.Evaluator, b.Evaluator), cmp.Compare(a.Version, b.Version))
	})
	slices.SortFunc(store, func(a, b contract.EvaluatorRecord) int {
		return cmp.Or(cmp.Compare(a.Evaluator, b.Evaluator), cmp.Compare(a.Version, b.Version))
	})
	return found[:min(len(found), maxEvaluators)], store
}

// weight puts what people should read first.
func weight(d contract.EvaluatorDrift) int {
	switch {
	case d.Failed:
		return 3
	case d.Standing == contract.Failing:
		return 2
	case d.Mapped:
		return 1
	}
	return 0
}

// judge is one version's verdict, and the record that follows from it; nil: none.
func judge(v contract.EvaluatorVersion, record contract.EvaluatorRecord, rated []contract.RatedScore) (contract.EvaluatorDrift, *contract.EvaluatorRecord) {
	pairs := make([]calibrate.Pair, len(rated))
	for i, r := range rated {
		pairs[i] = r.Pair()
	}
	d := contract.EvaluatorDrift{EvaluatorVersion: v, Standing: record.Standing, Gate: calibrate.Correlate(pairs)}
	d.Low, d.High = d.Gate.SpearmanInterval()
	d.Verdict = d.Gate.Verdict()
	says := fmt.Sprintf("Spearman %.2f (%.2f to %.2f) over %d calls that people rated; the gate is %.1f", d.Gate.Spearman, d.Low, d.High, d.Gate.N, calibrate.Gate)
	switch {
	case d.Gate.N < calibrate.LeastPairs:
		d.Text = fmt.Sprintf("INCONCLUSIVE: people rated %d of its calls, and it takes %d; nothing is changed", d.Gate.N, calibrate.LeastPairs)
	case !d.Gate.Passes() && record.Standing == contract.Failing:
		d.Text = "still fails: " + says
	case !d.Gate.Passes():
		d.Standing, d.Failed, d.Text = contract.Failing, true, "fails, and its scores count for nothing from now on: "+says+straddles(d)
		record.Standing, record.By, record.Reason = contract.Failing, By, says
		return d, &record
	case record.Standing == contract.Failing:
		d.Text = "would pass again, and still counts for nothing: a person has to restore it: " + says + straddles(d)
	default:
		d.Text = "passes: " + says + straddles(d)
		return normalise(d, record, rated)
	}
	return d, nil
}

func straddles(d contract.EvaluatorDrift) string {
	if d.Verdict == calibrate.Inconclusive {
		return ", which lies within the interval: more ratings would tell"
	}
	return ""
}

// normalise anchors a version, or brings its scores back to the anchor.
func normalise(d contract.EvaluatorDrift, record contract.EvaluatorRecord, rated []contract.RatedScore) (contract.EvaluatorDrift, *contract.EvaluatorRecord) {
	var human, scores, residual []float64
	for _, r := range rated {
		if calibrate.ForFit(r.TraceID) {
			score := record.Mapping.Apply(r.Judge)
			human, scores, residual = append(human, r.Human), append(scores, score), append(residual, score-r.Human)
		}
	}
	people, now, distance := calibrate.MomentsOf(human), calibrate.MomentsOf(scores), calibrate.MomentsOf(residual)
	switch {
	case now.N < leastFit:
		d.Text += fmt.Sprintf("; %d calls are too few to compare with its anchor", now.N)
		return d, nil
	case record.AnchorN == 0:
		record.AnchorN, record.AnchorMean, record.AnchorSD = now.N, now.Mean, now.SD
		record.AnchorHumanMean, record.AnchorHumanSD, record.AnchorResidualSD = people.Mean, people.SD, distance.SD
		record.By, record.Reason = By, fmt.Sprintf("anchored to %d calls that people rated", now.N)
		d.Text += "; it is anchored to these"
		return d, &record
	}
	d.Judges = distance.Since(calibrate.Moments{N: record.AnchorN, Mean: record.AnchorMean - record.AnchorHumanMean, SD: record.AnchorResidualSD})
	spread := spreadSince(record, people, now)
	if spread == 1 && d.Judges.Low <= 0 && d.Judges.High >= 0 {
		d.Text += fmt.Sprintf("; it has not moved against people since it was anchored: %+.3f to %+.3f", d.Judges.Low, d.Judges.High)
		return d, nil
	}
	// Where the anchored evaluator would put these calls: as far from people as then.
	target := people.Mean + record.AnchorMean - record.AnchorHumanMean
	record.Mapping = record.Mapping.Then(calibrate.FitNormal(now.Mean, now.SD, target, now.SD/spread))
	record.By = By
	record.Reason = fmt.Sprintf("it has moved by %+.3f (%+.3f to %+.3f) against people since it was anchored", d.Judges.By, d.Judges.Low, d.Judges.High)
	d.Mapped = true
	d.Text += "; " + record.Reason + fmt.Sprintf(", its spread by × %.2f; its scores are brought back from now on", spread)
	return d, &record
}

// spreadSince is the factor by which the evaluator's deviation has changed against people's since it was anchored; 1 unless
// its logarithm, a difference of four whose variances are 1/(2n), excludes 0 at 95 %. The scores of one call go together, so that
// the interval is too wide rather than too narrow.
func spreadSince(anchor contract.EvaluatorRecord, people, now calibrate.Moments) float64 {
	if anchor.AnchorSD == 0 || anchor.AnchorHumanSD == 0 || people.SD == 0 || now.SD == 0 {
		return 1
	}
	ln := math.Log(now.SD / people.SD / (anchor.AnchorSD / anchor.AnchorHumanSD))
	if math.Abs(ln) <= 1.96*math.Sqrt(1/float64(now.N)+1/float64(anchor.AnchorN)) {
		return 1
	}
	return math.Exp(ln)
}
