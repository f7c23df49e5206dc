package standing

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	older = contract.EvaluatorVersion{Evaluator: "judge", Version: "1"}
	newer = contract.EvaluatorVersion{Evaluator: "judge", Version: "2"}
	who   = Who{By: "ana", Reason: "why"}
)

// both are calls of two keys over days that both have scored; the new one gives half of what the old one does.
func both(n int, over time.Duration) (all []contract.BothScored) {
	for i := range n {
		score := float64(i%97) / 97
		all = append(all, contract.BothScored{
			Key: usage.Key{Tenant: "org", Model: []string{"a", "a", "b"}[i%3]}, TraceID: fmt.Sprint(i),
			At: at.Add(over * time.Duration(i) / time.Duration(max(n-1, 1))), Old: score, New: score / 2,
		})
	}
	return all
}

func TestCompare(t *testing.T) {
	t.Parallel()
	scale := calibrate.Mapping{Method: calibrate.Quantile, From: []float64{0, 1}, To: []float64{0.5, 1}}
	var rated []contract.RatedScore
	for i := range 200 {
		human := float64(i) / 200
		rated = append(rated,
			contract.RatedScore{Evaluator: "judge", Version: "1", Human: human, Judge: human * human},
			contract.RatedScore{Evaluator: "judge", Version: "2", Human: human, Judge: 1 - human})
	}
	calls := both(600, 8*24*time.Hour)
	c := Compare(older, newer, calls, scale, rated)
	require.Equal(t, 600, c.Agreement.N)
	require.InDelta(t, 1, c.Agreement.Spearman, 1e-12)
	require.Equal(t, []time.Time{at, at.Add(8 * 24 * time.Hour)}, []time.Time{c.First, c.Last})
	require.Equal(t, calibrate.Quantile, c.Mappings.Best, "both mappings are exact, and the simpler one is taken")
	var mean float64
	for _, b := range calls {
		mean += b.Old / 600
	}
	require.InDelta(t, mean/2-(0.5+mean/2), c.Shift, 1e-12, "old scores are on the scale of baselines")
	require.Equal(t, []int{400, 200}, []int{c.Keys[0].Agreement.N, c.Keys[1].Agreement.N})
	for _, k := range c.Keys {
		require.InDelta(t, -0.5, k.Shift, 1e-12)
		require.InDelta(t, 0, k.Mapped, 0.002)
	}
	require.InDelta(t, 1, c.OldHuman.Spearman, 1e-12)
	require.InDelta(t, -1, c.NewHuman.Spearman, 1e-12)
	require.ErrorContains(t, c.Ready(), "judge 2 does not agree with people: Spearman -1.00 over 200 calls")

	require.NoError(t, Compare(older, newer, calls, scale, nil).Ready(), "without ratings nothing speaks against it")
	require.ErrorContains(t, Compare(older, newer, both(99, 8*24*time.Hour), scale, nil).Ready(), "both have scored 99 calls, and it takes 100")
	require.ErrorContains(t, Compare(older, newer, both(600, 6*24*time.Hour), scale, nil).Ready(), "for 144h0m0s, and it takes 7 days")
	none := Compare(older, newer, nil, scale, nil)
	require.Equal(t, calibrate.Same, none.Mappings.Best)
	require.Error(t, none.Ready())
}

// add puts records into a history as the store returns it.
func add(history []contract.EvaluatorRecord, records ...contract.EvaluatorRecord) []contract.EvaluatorRecord {
	history = append(slices.Clone(records), history...)
	slices.SortStableFunc(history, func(a, b contract.EvaluatorRecord) int { return b.Since.Compare(a.Since) })
	return history
}

func TestSwitchAndBack(t *testing.T) {
	t.Parallel()
	trial, err := Trial(nil, newer, older, at, who)
	require.NoError(t, err)
	require.Equal(t, contract.Trial, trial.Standing)
	require.True(t, trial.Since.Before(at.AddDate(-1, 0, 0)), "every score of one that is new is on trial")
	history := add(nil, trial)
	_, err = Trial(history, newer, older, at, who)
	require.ErrorContains(t, err, "judge 2 is on trial already")
	_, err = Trial(nil, older, older, at, who)
	require.ErrorContains(t, err, "against itself")
	_, err = Trial(history, older, newer, at, who)
	require.ErrorContains(t, err, "judge 2 does not count itself: it is trial")

	m := calibrate.Mapping{Method: calibrate.Isotonic, From: []float64{0, 0.5}, To: []float64{0, 1}}
	records, err := Switch(history, older, newer, m, at, who)
	require.NoError(t, err)
	since := at.Add(Lead)
	require.Equal(t, []contract.EvaluatorRecord{
		{Evaluator: "judge", Version: "1", Standing: contract.Retired, Since: since, By: "ana", Reason: "why"},
		{Evaluator: "judge", Version: "2", Standing: contract.Counting, Mapping: m, Since: since, By: "ana", Reason: "why"},
	}, records)
	history = add(history, records...)
	for message, versions := range map[string][2]contract.EvaluatorVersion{
		"judge 1 is retired": {older, newer}, "judge 2 cannot replace itself": {newer, newer},
	} {
		_, err = Switch(history, versions[0], versions[1], m, at.Add(time.Hour), who)
		require.ErrorContains(t, err, message)
	}
	_, err = Switch(nil, older, newer, m, at, who)
	require.ErrorContains(t, err, "judge 2 counts already: put it on trial first")
	_, err = Back(history, newer, older, at, who)
	require.ErrorContains(t, err, "there is no switch to undo")

	// A calibration of the new one in between does not hide the switch.
	later := records[1]
	later.Since, later.Standing = since.Add(24*time.Hour), contract.Failing
	for _, history := range [][]contract.EvaluatorRecord{history, add(history, later)} {
		undone, err := Back(history, older, newer, at.Add(48*time.Hour), who)
		require.NoError(t, err)
		require.Equal(t, []contract.Standing{contract.Counting, contract.Trial}, []contract.Standing{undone[0].Standing, undone[1].Standing})
		require.Equal(t, at.Add(48*time.Hour+Lead), undone[0].Since)
		require.Zero(t, undone[1].Mapping)
	}
	pending, err := Back(history, older, newer, at.Add(time.Second), who)
	require.NoError(t, err)
	require.True(t, pending[0].Since.After(since), "a switch that is still to come is undone behind it")
}

// Whatever is tried in whatever order, just one of two evaluators counts at any time from the trial on.
func TestOneCounts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := at
		trial, err := Trial(nil, newer, older, now, who)
		require.NoError(t, err)
		history := add(nil, trial)
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "seconds")) * time.Second)
			old, next := older, newer
			if rapid.Bool().Draw(t, "the other way") {
				old, next = newer, older
			}
			var records []contract.EvaluatorRecord
			if rapid.Bool().Draw(t, "back") {
				records, err = Back(history, old, next, now, who)
			} else {
				records, err = Switch(history, old, next, calibrate.Mapping{}, now, who)
			}
			if err == nil {
				history = add(history, records...)
			}
		}
		for s := -10; s < 4000; s += 7 {
			moment := at.Add(time.Duration(s) * time.Second)
			count := 0
			for _, v := range []contract.EvaluatorVersion{older, newer} {
				if standing(history, v, moment).Standing == contract.Counting {
					count++
				}
			}
			require.Equal(t, 1, count, "at %d s", s)
		}
	})
}

func TestList(t *testing.T) {
	t.Parallel()
	trial, err := Trial(nil, newer, older, at, who)
	require.NoError(t, err)
	lines := List([]contract.EvaluatorRecord{trial}, []contract.EvaluatorScores{
		{EvaluatorVersion: older, Kind: "judge", Scored: 3, Counted: 3, Mean: 0.5},
		{EvaluatorVersion: contract.EvaluatorVersion{Evaluator: "answered", Version: "1-a"}, Kind: "heuristic", Scored: 3, Mean: 1},
		{EvaluatorVersion: contract.EvaluatorVersion{Evaluator: "ana"}, Kind: "human", Scored: 1},
	}, at)
	got := [][]any{}
	for _, l := range lines {
		got = append(got, []any{l.Evaluator, l.Version, l.Standing, l.Scored})
	}
	require.Equal(t, [][]any{
		{"ana", "", calibrates, int64(1)}, {"answered", "1-a", contract.Trial, int64(3)}, {"judge", "1", contract.Counting, int64(3)}, {"judge", "2", contract.Trial, int64(0)},
	}, got)
	require.False(t, math.IsNaN(lines[3].Mean))
}
