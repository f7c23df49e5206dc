package detect

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

var usual = Baseline{
	CostBuckets: 100, LnCost: 20, LnCostDev: 0.03, LnCostSD: 0.8, CostBucketN: 4500,
	QualityBuckets: 100, Quality: 0.85, QualityDev: 0.005, QualitySD: 0.1, QualityBucketN: 450,
	SpendPerMinute: 1e12, RequestsPerMin: 300, Completion: 0.5, CacheHit: 0.6,
}

func TestAssembleChoosesTheShortestWindowThatResolves(t *testing.T) {
	t.Parallel()
	w := func(cost, quality int) Window {
		return Window{CostN: cost, LnCost: 20, QualityN: quality, Quality: 0.85}
	}
	for name, c := range map[string]struct {
		windows       [4]Window
		minutes       int64
		cost, quality bool
	}{
		"the first is enough":                       {[4]Window{w(100, 30), w(200, 60), w(500, 150), w(1500, 450)}, 1, true, true},
		"the first has the minimum but is noisy":    {[4]Window{w(55, 30), w(100, 60), w(250, 150), w(750, 450)}, 2, true, true},
		"scores are scarce":                         {[4]Window{w(100, 3), w(200, 6), w(500, 15), w(1500, 45)}, 15, true, true},
		"none resolves: the longest with the least": {[4]Window{w(10, 5), w(20, 10), w(40, 15), w(60, 21)}, 15, true, true},
		"no scores at all":                          {[4]Window{w(100, 0), w(200, 0), w(500, 0), w(1500, 0)}, 1, true, false},
		"nothing":                                   {[4]Window{}, 0, false, false},
		"below the minimums":                        {[4]Window{w(1, 1), w(2, 2), w(10, 5), w(49, 19)}, 0, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := Assemble(Observation{Windows: c.windows}, usual, DefaultMinimums, None)
			require.Equal(t, c.minutes, f.WindowMinutes)
			require.Equal(t, c.cost, f.CostKnown)
			require.Equal(t, c.quality, f.QualityKnown)
		})
	}
}

func TestAssembleByHand(t *testing.T) {
	t.Parallel()
	o := Observation{
		Key: usage.Key{Tenant: "a", Model: "m"}, Recent: Volume{Requests: 100, InputTokens: 1000, OutputTokens: 1500, CacheRead: 200}, Whole: Volume{Requests: 1000, InputTokens: 1}, SpendLastPico: 4e12,
		Windows: [4]Window{{CostN: 400, LnCost: 20 + math.Log(3), QualityN: 100, Quality: 0.68}},
	}
	f := Assemble(o, usual, DefaultMinimums, Page)
	require.Equal(t, "PAGE", f.Active)
	require.InDelta(t, 3, f.CostRatio, 1e-9)
	require.InDelta(t, 0.8, f.QualityRatio, 1e-9)
	// Noise by hand: between 0.03 × 1.03, sampling 1.2533 × 0.8 / 20.
	require.InDelta(t, math.Log(3)/math.Hypot(0.0309, 0.050132), f.CostSigmas, 1e-6)
	require.InDelta(t, 0.17/math.Max(math.Hypot(0.00515, 0.012533), 0.017), f.QualitySigmas, 1e-6)
	require.InDelta(t, 4, f.SpendRatio, 1e-9)
	require.InDelta(t, 3, f.CompletionChange, 1e-9)
	require.InDelta(t, 0.2, f.CacheHit, 1e-9)
	require.False(t, f.CostZKnown, "the 15-minute window is empty")
	require.InDelta(t, math.Exp(20)/1e12, f.CostBaseline, 1e-9)
}

// TestAssembleWithoutBaselineKnowsNothing: missing or zero baselines are "no data", never infinity.
func TestAssembleWithoutBaselineKnowsNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var o Observation
		for i := range o.Windows {
			o.Windows[i] = Window{
				CostN: rapid.IntRange(0, 5000).Draw(t, "n"), LnCost: rapid.Float64Range(0, 40).Draw(t, "c"),
				QualityN: rapid.IntRange(0, 5000).Draw(t, "q"), Quality: rapid.Float64Range(0, 1).Draw(t, "s"),
			}
		}
		o.Recent.Requests = rapid.Int64Range(0, 1e6).Draw(t, "r")
		o.Recent.InputTokens = rapid.Int64Range(0, 1e9).Draw(t, "i")
		o.Whole = o.Recent
		o.SpendLastPico = rapid.Float64Range(0, 1e18).Draw(t, "sp")
		b := Baseline{}
		if rapid.Bool().Draw(t, "thin") {
			b = usual
			b.CostBuckets, b.QualityBuckets = 11, 11
			b.Completion, b.CacheHit = 0, 0
		}
		f := Assemble(o, b, DefaultMinimums, None)
		require.False(t, f.CostKnown || f.QualityKnown || f.SpendKnown || f.CostZKnown || f.CompletionKnown || f.CacheKnown)
		require.False(t, Candidate(f))

		f = Assemble(o, usual, DefaultMinimums, None)
		for _, v := range []float64{f.CostRatio, f.CostSigmas, f.CostZ, f.QualityRatio, f.QualitySigmas, f.SpendRatio, f.SpendSigmas, f.CompletionChange} {
			require.False(t, math.IsNaN(v) || math.IsInf(v, 0))
		}
	})
}

func TestOutcomeRate(t *testing.T) {
	t.Parallel()
	b := usual
	b.OutcomeBuckets, b.OutcomeRate, b.OutcomeDev, b.OutcomeBucketN = 100, 0.1, 0.005, 4500
	f := Assemble(Observation{Outcomes: Outcomes{Calls: 4500, All: 400, Good: 270}}, b, DefaultMinimums, None)
	require.True(t, f.OutcomeKnown)
	require.EqualValues(t, 400, f.OutcomeSamples)
	require.InDelta(t, 0.06, f.OutcomeRate, 1e-12)
	require.InDelta(t, 0.1, f.OutcomeBaseline, 1e-12)
	// By hand: of the buckets' deviation 0.005 × 1.03 a Poisson count explains √(0.1/4500), and so much again is this window's.
	between := math.Sqrt(0.005*1.03*0.005*1.03 - 0.1/4500)
	require.InDelta(t, 0.04/math.Hypot(between, math.Sqrt(0.1/4500)), f.OutcomeSigmas, 1e-9)

	for name, tc := range map[string]struct {
		o     Outcomes
		b     func(*Baseline)
		known bool
		rate  float64
	}{
		"no outcome at all is no data":               {o: Outcomes{Calls: 4500}},
		"all bad is data":                            {o: Outcomes{Calls: 4500, All: 1}, known: true},
		"fewer than 20 to expect":                    {o: Outcomes{Calls: 199, All: 5, Good: 1}},
		"twenty to expect":                           {o: Outcomes{Calls: 200, All: 5, Good: 1}, known: true, rate: 0.005},
		"no call":                                    {o: Outcomes{All: 5, Good: 5}},
		"too few buckets":                            {o: Outcomes{Calls: 4500, All: 400, Good: 270}, b: func(b *Baseline) { b.OutcomeBuckets = 11 }},
		"a baseline of nothing":                      {o: Outcomes{Calls: 4500, All: 400, Good: 270}, b: func(b *Baseline) { b.OutcomeRate = 0 }},
		"calls that had no time to lead to anything": {o: Outcomes{Calls: 45_000, All: 450, Good: 450}, known: true, rate: 0.1},
	} {
		b := b
		if tc.b != nil {
			tc.b(&b)
		}
		f := Assemble(Observation{Outcomes: tc.o}, b, DefaultMinimums, None)
		require.Equal(t, tc.known, f.OutcomeKnown, name)
		require.InDelta(t, tc.rate, f.OutcomeRate, 1e-12, name)
		require.False(t, math.IsNaN(f.OutcomeSigmas) || math.IsInf(f.OutcomeSigmas, 0), name)
	}
}

// TestOutcomeNoise draws quiet windows and counts how many a rule at five deviations would take for a fall.
func TestOutcomeNoise(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for _, calls := range []int{250, 1000, 5000} {
		b := usual
		b.OutcomeBuckets, b.OutcomeRate, b.OutcomeBucketN = 100, 0.1, float64(calls)
		b.OutcomeDev = math.Sqrt(0.1 / float64(calls))
		falls := 0
		var squares float64
		const windows = 20_000
		for range windows {
			good := int64(0)
			for range calls {
				if random.Float64() < b.OutcomeRate {
					good++
				}
			}
			f := Assemble(Observation{Outcomes: Outcomes{Calls: int64(calls), All: good + 1, Good: good}}, b, DefaultMinimums, None)
			squares += f.OutcomeSigmas * f.OutcomeSigmas
			if f.OutcomeSigmas > 5 && f.OutcomeRate < 0.7*f.OutcomeBaseline {
				falls++
			}
		}
		require.Zero(t, falls)
		require.InDelta(t, 0.92, math.Sqrt(squares/windows), 0.05, "%d calls: deviations are what they say", calls)
	}
}
