package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	key = usage.Key{Tenant: "org_42", Model: "m"}
	now = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
)

// rated are calls of which people and the evaluator say so much on average.
func rated(n int, at time.Time, human, judge float64, seed uint64) (all []contract.RatedScore) {
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		call := random.NormFloat64() * 0.1
		all = append(all, contract.RatedScore{
			Key: key, Evaluator: "helpfulness", Version: "1", TraceID: fmt.Sprintf("%d-%d", seed, i), At: at, Raters: 1,
			Human: human + call, Judge: judge + call + random.NormFloat64()*0.02,
		})
	}
	return all
}

// What people's ratings make of a baseline that has fallen, or risen, by 0.1 since it was calibrated.
func TestLevelsByWhatPeopleSay(t *testing.T) {
	t.Parallel()
	anchored := now.AddDate(0, -1, 0)
	for name, test := range map[string]struct {
		to           float64
		n            int
		human, judge float64 // now; 0.8 and 0.85 when it was calibrated
		want         calibrate.Witness
		moves        bool
	}{
		"people find the calls worse, too":        {0.75, 200, 0.7, 0.75, calibrate.CallsWorse, false},
		"people find them better, too":            {0.95, 200, 0.9, 0.95, calibrate.CallsBetter, true},
		"people find them as before":              {0.75, 200, 0.8, 0.75, calibrate.EvaluatorMoved, true},
		"the ratings do not reach the move":       {0.45, 200, 0.8, 0.75, calibrate.Unclear, false},
		"nor do better calls":                     {1.00, 200, 0.83, 0.88, calibrate.Unclear, false},
		"people find them better, not the judges": {0.75, 200, 0.9, 0.85, calibrate.Unclear, false},
		"too few ratings":                         {0.75, 40, 0.8, 0.75, calibrate.NoWitness, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first := Known{
				Drawn: []contract.DrawnLevel{{Key: key, Measure: contract.QualityMeasure, Value: 0.85}},
				Rated: rated(200, anchored.Add(-time.Hour), 0.8, 0.85, 1),
			}
			_, levels := Levels(first, contract.DefaultBounds, anchored)
			require.Len(t, levels, 1, "the first calibration stands by itself")
			if name == "nor do better calls" {
				levels[0].Value = 0.85
			}
			known := Known{
				Levels: levels, Drawn: []contract.DrawnLevel{{Key: key, Measure: contract.QualityMeasure, Value: test.to}},
				Rated: append(rated(test.n, now.Add(-time.Hour), test.human, test.judge, 2), first.Rated...), // those of before are not counted again
			}
			r, store := Levels(known, contract.DefaultBounds, now)
			require.Equal(t, 1, r.Compared)
			moves := append(r.Refused, r.Confirmed...)
			require.Len(t, moves, 1)
			require.Equal(t, test.want, moves[0].Witness, "%+v", moves[0])
			require.NotEmpty(t, moves[0].Says())
			require.Equal(t, test.moves, len(r.Confirmed) == 1)
			if test.moves {
				require.Equal(t, test.to, store[0].Value)
				require.Equal(t, By, store[0].By)
				require.Equal(t, now, store[0].At)
				again, none := Levels(Known{Levels: store, Drawn: known.Drawn, Rated: known.Rated}, contract.DefaultBounds, now.Add(time.Hour))
				require.Empty(t, none)
				require.Empty(t, again.Refused)
			} else {
				require.Empty(t, store)
			}
		})
	}
}

func TestLevelsOfCost(t *testing.T) {
	t.Parallel()
	level := contract.Level{Key: key, Measure: contract.CostMeasure, At: now.AddDate(0, -1, 0), Value: 20, Bound: math.Log(1.25)}
	for by, beyond := range map[float64]bool{0: false, 0.22: false, 0.23: true, -0.22: false, -0.23: true, 3: true} {
		r, store := Levels(Known{Levels: []contract.Level{level}, Drawn: []contract.DrawnLevel{{Key: key, Measure: contract.CostMeasure, Value: 20 + by}}}, contract.DefaultBounds, now)
		require.Equal(t, beyond, r.Open() == 1, by)
		require.Empty(t, store, "no ratings say what a call may cost")
		held := 20 + by - level.Excess(20+by)
		require.LessOrEqual(t, math.Abs(held-20), level.Bound+1e-12)
		require.Equal(t, beyond, level.Excess(20+by) != 0)
	}
	var many Known
	for n := range 300 {
		k := usage.Key{Tenant: fmt.Sprint(n), Model: "m"}
		many.Levels = append(many.Levels, contract.Level{Key: k, Measure: contract.CostMeasure, Value: 20})
		many.Drawn = append(many.Drawn, contract.DrawnLevel{Key: k, Measure: contract.CostMeasure, Value: 21 + float64(n)})
	}
	many.Drawn = append(many.Drawn, contract.DrawnLevel{Key: usage.Key{Tenant: usage.DrillPrefix}, Measure: contract.CostMeasure, Value: 3})
	r, store := Levels(many, contract.DefaultBounds, now)
	require.Len(t, r.Refused, maxMoves)
	require.Equal(t, 200, r.More)
	require.Equal(t, "299", r.Refused[0].Key.Tenant, "the largest first")
	require.Empty(t, store, "drills have no usual level")
}

// noisy are calls that the evaluator rates with so much noise.
func noisy(n int, noise, shift, slope float64, seed uint64) (all []contract.RatedScore) {
	random := rand.New(rand.NewPCG(seed, 7))
	for i := range n {
		human := 0.3 + 0.4*random.Float64()
		judge := 0.5 + slope*(human-0.5) + shift + noise*random.NormFloat64()
		all = append(all, contract.RatedScore{
			Key: key, Evaluator: "helpfulness", Version: "1", TraceID: fmt.Sprintf("%d-%d", seed, i), At: now.Add(-time.Hour), Human: human, Judge: judge, Raters: 1,
		})
	}
	return all
}

func TestEvaluatorsAtTheGate(t *testing.T) {
	t.Parallel()
	failing := []contract.EvaluatorRecord{{Evaluator: "helpfulness", Version: "1", Standing: contract.Failing, Since: now.AddDate(0, -1, 0), By: By}}
	for name, test := range map[string]struct {
		rated   []contract.RatedScore
		history []contract.EvaluatorRecord
		want    contract.Standing
		stored  bool
		says    string
	}{
		"too few":          {noisy(99, 1, 0, 1, 1), nil, contract.Counting, false, "INCONCLUSIVE: people rated 99 of its calls"},
		"fails":            {noisy(200, 0.5, 0, 1, 1), nil, contract.Failing, true, "fails, and its scores count for nothing"},
		"fails still":      {noisy(200, 0.5, 0, 1, 1), failing, contract.Failing, false, "still fails"},
		"passes":           {noisy(200, 0.02, 0, 1, 1), nil, contract.Counting, true, "anchored"},
		"would pass again": {noisy(200, 0.02, 0, 1, 1), failing, contract.Failing, false, "a person has to restore it"},
	} {
		found, store := Evaluators(test.rated, test.history, now)
		require.Len(t, found, 1, name)
		require.Equal(t, test.want, found[0].Standing, name)
		require.Contains(t, found[0].Text, test.says, name)
		require.Len(t, store, map[bool]int{true: 1}[test.stored], name)
		if test.stored {
			require.NoError(t, store[0].Validate())
			require.True(t, store[0].Since.After(now), "every ingest hears of it in time")
			again, same := Evaluators(test.rated, append(store, test.history...), now)
			require.Equal(t, found, again, "tried again: the same")
			require.Equal(t, store, same)
		}
	}
	found, store := Evaluators(nil, []contract.EvaluatorRecord{{Evaluator: "old", Standing: contract.Retired, Since: now}, {Evaluator: "new", Standing: contract.Trial, Since: now}}, now)
	require.Empty(t, found)
	require.Empty(t, store)
}

// An evaluator that drifts up, or spreads, by itself is brought back to where it was; calls that become better are not.
func TestEvaluatorsAreBroughtBackToTheirAnchor(t *testing.T) {
	t.Parallel()
	history := func(months int) []contract.EvaluatorRecord {
		_, store := Evaluators(noisy(400, 0.02, 0, 1, 1), nil, now.AddDate(0, -months, 0))
		require.Len(t, store, 1)
		require.Empty(t, store[0].Mapping.From)
		return store
	}
	_, store := Evaluators(noisy(400, 0.02, 0, 1, 9), history(1), now)
	require.Empty(t, store, "nothing has moved")

	better := noisy(400, 0.02, 0, 1, 2)
	for i := range better {
		better[i].Human, better[i].Judge = better[i].Human+0.1, better[i].Judge+0.1
	}
	_, store = Evaluators(better, history(1), now)
	require.Empty(t, store, "the calls have become better, and people say so")

	records := history(2)
	for month, drift := range []struct{ shift, slope float64 }{{0.1, 1}, {0.1, 1.4}} { // the second on top of the first
		moved := noisy(400, 0.02, drift.shift, drift.slope, uint64(3+month))
		found, store := Evaluators(moved, records, now.AddDate(0, month-1, 0))
		require.True(t, found[0].Mapped, "%+v", found[0])
		require.Len(t, store, 1)
		require.NoError(t, store[0].Validate())
		require.Equal(t, records[0].AnchorMean, store[0].AnchorMean, "the anchor stays")
		records = append(store, records...)
		for _, human := range []float64{0.35, 0.5, 0.65} {
			given := 0.5 + drift.slope*(human-0.5) + drift.shift
			require.InDelta(t, human, store[0].Mapping.Apply(given), 0.02, "month %d, a call of %.2f", month, human)
		}
	}
}
