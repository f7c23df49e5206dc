package kpi

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// taskTime is what people's times tell of a task.
type taskTime struct {
	Minutes float64 // the median
	Samples int
	Score   float64
}

// fromTimes scores tasks by the times that people took for them.
func fromTimes(tasks map[string][]float64) (map[string]taskTime, error) {
	var all []TaskScore
	for task, samples := range tasks {
		minutes, err := MedianMinutes(samples)
		if err != nil {
			return nil, err
		}
		all = append(all, TaskScore{Task: task, Source: FromTime, Minutes: minutes, Samples: int64(len(samples))})
	}
	ScoreTimes(all)
	times := map[string]taskTime{}
	for _, s := range all {
		times[s.Task] = taskTime{s.Minutes, int(s.Samples), float64(s.Milli) / 1000}
	}
	return times, nil
}

func TestScoreTimesByHand(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		tasks map[string][]float64
		want  map[string]taskTime
	}{
		// The only task is the usual one, whatever it takes.
		"one task": {map[string][]float64{"a": {7}}, map[string]taskTime{"a": {7, 1, 1}}},
		// Medians: classify 2 (of 1, 2, 9), answer 10 (of 8, 12: their mean), contract 240. The usual time is the
		// median of 2, 10, 240: 10. Scores: 2/10, 10/10, 240/10.
		"three tasks": {
			map[string][]float64{"classify": {9, 1, 2}, "answer": {12, 8}, "contract": {240}},
			map[string]taskTime{"classify": {2, 3, 0.2}, "answer": {10, 2, 1}, "contract": {240, 1, 24}},
		},
		// An even number of tasks: medians 4, 6, 10, 30, the usual time is (6 + 10)/2 = 8.
		"four tasks": {
			map[string][]float64{"a": {4}, "b": {6}, "c": {10}, "d": {30}},
			map[string]taskTime{"a": {4, 1, 0.5}, "b": {6, 1, 0.75}, "c": {10, 1, 1.25}, "d": {30, 1, 3.75}},
		},
		// One time that was left open for a day moves no median: of 3, 4, 1440 it is 4; of 1, 2, 3 it is 2; usual 3.
		"an outlier": {
			map[string][]float64{"a": {3, 1440, 4}, "b": {1, 2, 3}},
			map[string]taskTime{"a": {4, 3, 4.0 / 3}, "b": {2, 3, 2.0 / 3}},
		},
		// Medians 0.001, 1, 525600, usual 1: 0.001 and 525600 are the ends of what can be.
		"bounds": {
			map[string][]float64{"a": {0.001}, "b": {1}, "c": {525_600}},
			map[string]taskTime{"a": {0.001, 1, 0.001}, "b": {1, 1, 1}, "c": {525_600, 1, 525_600}},
		},
		// Medians 0.001, 100, 200: usual 100, and 0.001/100 = 0.00001 is raised to the least.
		"below the least": {
			map[string][]float64{"a": {0.001}, "b": {100}, "c": {200}},
			map[string]taskTime{"a": {0.001, 1, 0.001}, "b": {100, 1, 1}, "c": {200, 1, 2}},
		},
		// Medians 0.01, 0.01, 525600: usual 0.01, and 52,560,000 is lowered to the most.
		"above the most": {
			map[string][]float64{"a": {0.01}, "b": {0.01}, "c": {525_600}},
			map[string]taskTime{"a": {0.01, 1, 1}, "b": {0.01, 1, 1}, "c": {525_600, 1, 1e6}},
		},
		"no task": {nil, map[string]taskTime{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := fromTimes(test.tasks)
			require.NoError(t, err)
			for task, w := range test.want {
				w.Score = float64(ComplexityMilli(w.Score)) / 1000 // scores are kept in thousandths
				test.want[task] = w
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestMedianMinutesRefuses(t *testing.T) {
	t.Parallel()
	for message, samples := range map[string][]float64{
		`there is no time`: {},
		`time 1 must be between 0.001 and 525600 minutes (0)`:    {1, 0},
		`time 0 must be between 0.001 and 525600 minutes (-3)`:   {-3},
		`time 0 must be between 0.001 and 525600 minutes (NaN)`:  {math.NaN()},
		`time 0 must be between 0.001 and 525600 minutes (+Inf)`: {math.Inf(1)},
	} {
		_, err := fromTimes(map[string][]float64{"a": samples, "b": {1}})
		require.EqualError(t, err, message)
	}
}

func TestScoreTimesProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sample := rapid.Float64Range(1, 500) // so that no score is at a bound
		tasks := rapid.MapOfN(rapid.StringN(1, 3, -1), rapid.SliceOfN(sample, 1, 6), 1, 8).Draw(t, "tasks")
		scores, err := fromTimes(tasks)
		require.NoError(t, err)

		faster, reversed := map[string][]float64{}, map[string][]float64{}
		var all []float64
		for task, samples := range tasks {
			for _, minutes := range samples {
				faster[task] = append(faster[task], minutes/8) // exact in binary
			}
			reversed[task] = slices.Clone(samples)
			slices.Reverse(reversed[task])
			all = append(all, scores[task].Score)
			require.True(t, scores[task].Score >= MinComplexity && scores[task].Score <= MaxComplexity)
			require.Positive(t, ComplexityMilli(scores[task].Score), "never 0")
			for other := range tasks {
				if scores[task].Minutes < scores[other].Minutes {
					require.LessOrEqual(t, scores[task].Score, scores[other].Score, "what takes longer is no less complex")
				}
			}
		}
		require.InDelta(t, 1, median(all), 0.001, "the usual task has 1")
		again, err := fromTimes(reversed)
		require.NoError(t, err)
		require.Equal(t, scores, again, "the order of samples is nothing")
		other, err := fromTimes(faster)
		require.NoError(t, err)
		for task := range tasks {
			require.InDelta(t, scores[task].Score, other[task].Score, 0.001001, "the unit of time is nothing")
		}
	})
}

// The usual time is that of the tasks for all tenants: 20, the median of 10, 20 and 30. A tenant's hour is 60/20 of
// it, not the 1 of an only task. Without times for all a tenant's own tasks are its measure: of 4 and 12 it is 8.
func TestScoreTimes(t *testing.T) {
	t.Parallel()
	shared := []TaskScore{
		{Task: "a", Source: FromTime, Minutes: 10},
		{Task: "b", Source: FromTime, Minutes: 20},
		{Task: "c", Source: FromTime, Minutes: 30},
		{Task: "d", Source: FromPerson, Milli: 7000},
		{Tenant: "org", Task: "a", Source: FromTime, Minutes: 60},
	}
	own := []TaskScore{{Tenant: "org", Task: "a", Source: FromTime, Minutes: 4}, {Tenant: "org", Task: "b", Source: FromTime, Minutes: 12}, {Task: "a", Source: FromDistance, Milli: 2500}}
	ScoreTimes(shared)
	ScoreTimes(own)
	var got []int64
	for _, s := range slices.Concat(shared, own) {
		got = append(got, s.Milli)
	}
	require.Equal(t, []int64{500, 1000, 1500, 7000, 3000, 500, 1500, 2500}, got)
}

func canonical(t require.TestingT, tasks map[string][][]float64) *Canonical {
	c, err := NewCanonical(tasks)
	require.NoError(t, err)
	return c
}

func TestComplexityFromDistance(t *testing.T) {
	t.Parallel()
	// Cosine distances: of (1,0) and (0,1) 1 − 0 = 1; of (3,4) and (1,0) 1 − 3/5 = 0.4; of (3,4) and (0,1) 1 − 4/5 = 0.2;
	// of (4,3) and (1,0) 0.2, and (0,1) 0.4; of (3,4) and (4,3) 1 − 24/25 = 0.04.
	plane := canonical(t, map[string][][]float64{"axes": {{2, 0}, {0, 5}}})
	// Nearest others: (1,0) is 0.2 from (4,3); (4,3) is 0.04 from (3,4); (3,4) is 0.04 from (4,3). The median is 0.04.
	fan := canonical(t, map[string][][]float64{"fan": {{1, 0}, {4, 3}, {3, 4}}})
	// Of two copies the spread is 0, and counts as 0.01.
	copies := canonical(t, map[string][][]float64{"copies": {{1, 0}, {10, 0}}})
	both := canonical(t, map[string][][]float64{"right": {{1, 0}, {4, 3}}, "left": {{-1, 0}, {-4, 3}}})
	for name, test := range map[string]struct {
		among *Canonical
		input []float64
		want  Distance
	}{
		"an example itself":        {plane, []float64{7, 0}, Distance{"axes", 0, 0, 1, 1}},
		"within the spread":        {plane, []float64{3, 4}, Distance{"axes", 1, 0.2, 1, 1}},
		"opposite, 2 of spread 1":  {plane, []float64{-1, -1}, Distance{"axes", 0, 1 + math.Sqrt2/2, 1, 1 + math.Sqrt2/2}},
		"0.2 of spread 0.04":       {fan, []float64{0, 1}, Distance{"fan", 2, 0.2, 0.04, 5}},
		"2 of spread 0.04":         {fan, []float64{-24, -7}, Distance{"fan", 2, 1 + 4.0/5, 0.04, 45}},
		"0.4 of copies":            {copies, []float64{3, 4}, Distance{"copies", 0, 0.4, 0.01, 40}},
		"right is nearer":          {both, []float64{4, -3}, Distance{"right", 0, 0.2, 0.2, 1}},
		"the first by name of two": {both, []float64{0, 1}, Distance{"left", 1, 0.4, 0.2, 2}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := ComplexityFromDistance(test.input, test.among)
			require.NoError(t, err)
			require.Equal(t, []any{test.want.Task, test.want.Example}, []any{got.Task, got.Example})
			require.InDelta(t, test.want.Cosine, got.Cosine, 1e-12)
			require.InDelta(t, test.want.Spread, got.Spread, 1e-12)
			require.InDelta(t, test.want.Score, got.Score, 1e-9)
		})
	}
}

func TestComplexityFromDistanceRefuses(t *testing.T) {
	t.Parallel()
	for message, tasks := range map[string]map[string][][]float64{
		"there is no task with canonical examples":                                                   {},
		`task "a" has 1 canonical examples`:                                                          {"a": {{1, 0}}},
		`task "a", canonical example 1: is zero, and so has no direction`:                            {"a": {{1, 0}, {0, 0}}},
		`task "a", canonical example 1: component 1 is not a number (NaN)`:                           {"a": {{1, 0}, {0, math.NaN()}}},
		`task "b", canonical example 0: has 3 dimensions, not 2`:                                     {"a": {{1, 0}, {0, 1}}, "b": {{1, 2, 3}, {1, 2, 4}}},
		`task "a", canonical example 0: has 0 dimensions`:                                            {"a": {{}, {}}},
		fmt.Sprintf(`task "a", canonical example 0: component 0 is not a number (%g)`, math.Inf(-1)): {"a": {{math.Inf(-1)}, {1}}},
	} {
		_, err := NewCanonical(tasks)
		require.ErrorContains(t, err, message)
	}
	c := canonical(t, map[string][][]float64{"a": {{1, 0}, {0, 1}}})
	for message, input := range map[string][]float64{
		"the input: is zero": {0, 0}, "the input: has 1 dimensions, not 2": {1}, "the input: has 0 dimensions": nil,
		"the input: component 0 is not a number (NaN)": {math.NaN(), 1},
	} {
		_, err := ComplexityFromDistance(input, c)
		require.ErrorContains(t, err, message)
	}
}

func TestComplexityFromDistanceProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		component := rapid.Float64Range(-10, 10)
		vector := rapid.SliceOfN(component, 3, 3).Filter(func(v []float64) bool { return math.Abs(v[0])+math.Abs(v[1])+math.Abs(v[2]) > 0.1 })
		tasks := map[string][][]float64{"a": rapid.SliceOfN(vector, 2, 5).Draw(t, "a"), "b": rapid.SliceOfN(vector, 2, 5).Draw(t, "b")}
		c := canonical(t, tasks)
		input := vector.Draw(t, "input")
		d, err := ComplexityFromDistance(input, c)
		require.NoError(t, err)
		require.True(t, d.Score >= 1 && d.Score <= 2/MinSpread && d.Cosine >= 0 && d.Cosine <= 2, "%+v", d)

		longer := slices.Clone(input)
		for i := range longer {
			longer[i] *= 4 // exact in binary
		}
		same, err := ComplexityFromDistance(longer, c)
		require.NoError(t, err)
		require.Equal(t, d, same, "length is nothing")

		// Among the inputs that are nearest to the same task, the farther one is no less complex.
		other, err := ComplexityFromDistance(vector.Draw(t, "other"), c)
		require.NoError(t, err)
		if other.Task == d.Task && other.Cosine >= d.Cosine {
			require.GreaterOrEqual(t, other.Score, d.Score)
		}
		at := rapid.IntRange(0, len(tasks["a"])-1).Draw(t, "example")
		itself, err := ComplexityFromDistance(tasks["a"][at], c)
		require.NoError(t, err)
		require.Equal(t, 1.0, itself.Score, "a canonical example is usual")
	})
}
