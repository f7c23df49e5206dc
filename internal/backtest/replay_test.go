package backtest_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

var begin = time.Date(2026, 3, 2, 3, 10, 0, 0, time.UTC)

const every = 15 * time.Second

// usualCode is the code of a call's usual cost.
const usualCode = 3000

func usualBaselines(keys ...usage.Key) map[usage.Key]detect.Baseline {
	all := map[usage.Key]detect.Baseline{}
	for _, k := range keys {
		all[k] = detect.Baseline{
			Key: k, Slot: begin.Truncate(time.Hour), Version: "1", CostBuckets: 100, LnCost: kpi.LnCost(usualCode), LnCostDev: 0.02, LnCostSD: 0.3, CostBucketN: 900,
			QualityBuckets: 100, Quality: 0.8, QualityDev: 0.01, QualitySD: 0.05, QualityBucketN: 300, SpendPerMinute: 1e15, RequestsPerMin: 240,
		}
	}
	return all
}

// came is what comes to be known at a tick.
type came struct {
	tick int
	detect.Arrival
}

// calls are some of a key between two ticks: so many hundredths of a doubling dearer than usual, with scores.
func calls(k usage.Key, tick, code int, score int16) came {
	at := begin.Add(time.Duration(tick) * every)
	return came{tick, detect.Arrival{
		Key: k, Minute: at.Unix() / 60, Arm: usage.None, Volume: detect.Volume{Requests: 60, InputTokens: 600, OutputTokens: 300},
		Costs: slices.Repeat([]int16{int16(usualCode + code)}, 60), Scores: slices.Repeat([]int16{score}, 20),
	}}
}

// replay runs ticks over what came, and returns what each set made of it.
func replay(t require.TestingT, sets []*policy.Set, workers, ticks int, all []came, keys ...usage.Key) backtest.Result {
	r := backtest.NewReplay(backtest.Options{Sets: sets, Tuning: contract.NewTuning(1), Workers: workers})
	r.Baselines(usualBaselines(keys...))
	for tick := range ticks {
		for _, c := range all {
			if c.tick == tick {
				r.Add(c.Arrival)
			}
		}
		r.Tick(begin.Add(time.Duration(tick) * every))
	}
	result, err := r.Finish()
	require.NoError(t, err)
	return result
}

func ordered(changes []backtest.Change) []backtest.Change {
	slices.SortStableFunc(changes, func(a, b backtest.Change) int {
		if n := a.At.Compare(b.At); n != 0 {
			return n
		}
		if a.Key.String() < b.Key.String() {
			return -1
		}
		return 1
	})
	return changes
}

func TestReplayProperties(t *testing.T) {
	t.Parallel()
	set := shippedSet(t)
	keys := []usage.Key{{Tenant: "a", Model: "m"}, {Tenant: "a", Model: "n"}, {Tenant: "b", Model: "m"}, {Tenant: "a", Model: usage.AnyModel}}
	rapid.Check(t, func(t *rapid.T) {
		ticks := rapid.IntRange(8, 40).Draw(t, "ticks")
		var all []came
		for tick := range ticks {
			for _, k := range keys[:3] {
				if rapid.IntRange(0, 4).Draw(t, "calls") == 0 {
					continue
				}
				c := calls(k, tick, rapid.SampledFrom([]int{0, 0, 30, 90, 200}).Draw(t, "dearer"), rapid.SampledFrom([]int16{160, 160, 120, 90}).Draw(t, "score"))
				c.tick += rapid.SampledFrom([]int{0, 0, 0, 1, 20}).Draw(t, "late")
				all = append(all, c)
			}
		}
		result := replay(t, []*policy.Set{set}, 1, ticks, all, keys...)
		want := ordered(result.Changes[0])

		shuffled := slices.Clone(all)
		rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		require.Equal(t, want, ordered(replay(t, []*policy.Set{set}, 3, ticks, shuffled, keys...).Changes[0]), "order within a tick, and workers, mean nothing")

		until := rapid.IntRange(1, ticks).Draw(t, "until")
		known := slices.DeleteFunc(slices.Clone(all), func(c came) bool { return c.tick >= until })
		end := begin.Add(time.Duration(until) * every)
		before := func(all []backtest.Change) (said []backtest.Change) {
			for _, c := range all {
				if c.At.Before(end) {
					said = append(said, c)
				}
			}
			return said
		}
		earlier := ordered(replay(t, []*policy.Set{set}, 1, ticks, known, keys...).Changes[0])
		require.Equal(t, before(earlier), before(want), "what comes later changes nothing that was said before")
	})
}

// A fault that pages, that is over, and a set that pages at another threshold.
// A drill's made-up calls do not hide that no others come, as in the sweep.
func TestReplayOfASilenceBesideADrill(t *testing.T) {
	t.Parallel()
	key, drill := usage.Key{Tenant: "a", Model: "m"}, usage.Key{Tenant: usage.DrillPrefix, Model: "m"}
	baselines := usualBaselines(key)
	b := baselines[key]
	b.LeastCalls = 1000
	baselines[key] = b
	r := backtest.NewReplay(backtest.Options{Sets: []*policy.Set{shippedSet(t)}, Tuning: contract.NewTuning(1), Workers: 1})
	r.Baselines(baselines)
	for tick := range 240 {
		if tick < 4 {
			r.Add(calls(key, tick, 0, 160).Arrival)
		}
		r.Add(calls(drill, tick, 0, 160).Arrival)
		r.Tick(begin.Add(time.Duration(tick) * every))
	}
	result, err := r.Finish()
	require.NoError(t, err)
	fired := slices.DeleteFunc(result.Changes[0], func(c backtest.Change) bool { return c.Kind != backtest.Fire })
	require.Len(t, fired, 1)
	require.Equal(t, usage.Everything, fired[0].Key)
}

func TestReplayOfAFault(t *testing.T) {
	t.Parallel()
	k := usage.Key{Tenant: "a", Model: "claude-3-opus"}
	var all []came
	for tick := range 120 { // half an hour
		code, score := 0, int16(160)
		if tick >= 40 && tick < 80 {
			code, score = 160, 120 // cost × 3, quality × 0.75
		}
		all = append(all, calls(k, tick, code, score))
	}
	set := shippedSet(t)
	result := replay(t, []*policy.Set{set, set}, 1, 120, all, k)
	report := backtest.Report{From: begin, To: begin.Add(30 * time.Minute), Every: every, Sets: []backtest.SetReport{
		backtest.NewSetReport("a", nil, result.Changes[0], begin.Add(30*time.Minute)), backtest.NewSetReport("b", nil, result.Changes[1], begin.Add(30*time.Minute)),
	}}
	episodes := report.Sets[0].Episodes
	require.Len(t, episodes, 1)
	e := episodes[0]
	require.Equal(t, detect.Page, e.Level)
	require.WithinDuration(t, begin.Add(10*time.Minute+time.Minute), e.From, time.Minute)
	require.False(t, e.To.IsZero())
	require.NotEmpty(t, e.Acts)
	require.Equal(t, "T0", e.Acts[0].Step)
	require.Equal(t, policy.Downgrade, e.Acts[0].Action)
	report.Compare(5 * time.Minute)
	require.Equal(t, 1, report.Difference.Same, "a set is as itself")
	require.Empty(t, report.Difference.Changed)

	report.Label(backtest.Labels{Incidents: []backtest.Label{
		{Tenant: "a", Model: "claude-3-opus", From: begin.Add(10 * time.Minute), To: begin.Add(20 * time.Minute), Level: detect.Page},
	}}, 5*time.Minute)
	require.Equal(t, 1, report.Sets[0].Score.Hits)
	require.InDelta(t, 60, *report.Sets[0].Score.Median, 60)
}
