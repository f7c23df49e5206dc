package detect

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

var usual = Baseline{
	CostBuckets: 100, LnCost: 20, LnCostDev: 0.03, LnCostSD: 0.8, CostBucketN: 4500,
	QualityBuckets: 100, Quality: 0.85, QualityDev: 0.005, QualitySD: 0.1, QualityBucketN: 450,
	SpendPerMinute: 1e12, RequestsPerMin: 300, Completion: 0.5, CacheHit: 0.6,
	VelocityBuckets: 100, Velocity: 90, VelocityDev: 0.03, LeastCalls: 4000,
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
		o.RecentStream = Stream{Calls: rapid.Int64Range(0, 1e6).Draw(t, "streams"), Tokens: rapid.Int64Range(0, 1e9).Draw(t, "tokens"), MS: rapid.Int64Range(0, 1e9).Draw(t, "ms")}
		o.WholeStream = o.RecentStream
		o.Silence = time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "silence"))
		b := Baseline{}
		if rapid.Bool().Draw(t, "thin") {
			b = usual
			b.CostBuckets, b.QualityBuckets = 11, 11
			b.VelocityBuckets, b.LeastCalls = 11, 49
			b.Completion, b.CacheHit = 0, 0
		}
		f := Assemble(o, b, DefaultMinimums, None)
		require.False(t, f.CostKnown || f.QualityKnown || f.SpendKnown || f.CostZKnown || f.CompletionKnown || f.CacheKnown || f.VelocityKnown || f.CallsKnown)
		require.False(t, Candidate(f))

		f = Assemble(o, usual, DefaultMinimums, None)
		for _, v := range []float64{f.CostRatio, f.CostSigmas, f.CostZ, f.QualityRatio, f.QualitySigmas, f.SpendRatio, f.SpendSigmas, f.CompletionChange, f.VelocityRatio, f.VelocitySigmas} {
			require.False(t, math.IsNaN(v) || math.IsInf(v, 0))
		}
	})
}

func TestVelocity(t *testing.T) {
	t.Parallel()
	// Half of the usual speed in the 5-minute window, the usual one in the longest.
	o := Observation{
		Recent: Volume{Requests: 1500}, RecentStream: Stream{Calls: 1000, Tokens: 450_000, MS: 10_000_000},
		Whole: Volume{Requests: 4500}, WholeStream: Stream{Calls: 3000, Tokens: 2_700_000, MS: 30_000_000},
	}
	f := Assemble(o, usual, DefaultMinimums, None)
	require.True(t, f.VelocityKnown)
	require.InDelta(t, 45, f.Velocity, 1e-9)
	require.InDelta(t, 90, f.VelocityBaseline, 1e-9)
	require.InDelta(t, 0.5, f.VelocityRatio, 1e-9)
	// By hand: the buckets' 0.03 × 1.03, and a third of a bucket's calls.
	require.InDelta(t, 0.5/(0.0309*math.Sqrt(3)), f.VelocitySigmas, 1e-9)

	for name, tc := range map[string]struct {
		o     func(*Observation)
		b     func(*Baseline)
		known bool
		ratio float64
	}{
		"few streams of late: the longest window":            {o: func(o *Observation) { o.RecentStream.Calls = 49 }, known: true, ratio: 1},
		"a baseline too noisy for five minutes: the longest": {b: func(b *Baseline) { b.VelocityDev = 0.06 }, known: true, ratio: 1},
		"few streams at all":                                 {o: func(o *Observation) { o.RecentStream.Calls, o.WholeStream.Calls = 49, 49 }},
		"nobody streams":                                     {o: func(o *Observation) { o.RecentStream, o.WholeStream = Stream{}, Stream{} }},
		"too few buckets":                                    {b: func(b *Baseline) { b.VelocityBuckets = 11 }},
		"no usual speed":                                     {b: func(b *Baseline) { b.Velocity = 0 }},
		"streams that took no time say nothing":              {o: func(o *Observation) { o.RecentStream.MS = 0 }},
		"streams without a token are slow ones":              {o: func(o *Observation) { o.RecentStream.Tokens = 0 }, known: true},
		"an unknown deviation is the least noise":            {b: func(b *Baseline) { b.VelocityDev = 0 }, known: true, ratio: 0.5},
	} {
		o, b := o, usual
		if tc.o != nil {
			tc.o(&o)
		}
		if tc.b != nil {
			tc.b(&b)
		}
		f := Assemble(o, b, DefaultMinimums, None)
		require.Equal(t, tc.known, f.VelocityKnown, name)
		if tc.known {
			require.InDelta(t, tc.ratio, f.VelocityRatio, 1e-9, name)
		} else {
			require.Equal(t, 1.0, f.VelocityRatio, name)
			require.Zero(t, f.VelocitySigmas, name)
		}
	}
}

func TestSilence(t *testing.T) {
	t.Parallel()
	f := Assemble(Observation{Key: usage.Key{Tenant: "a", Model: "m"}, Silence: 20*time.Minute + 59*time.Second}, usual, DefaultMinimums, None)
	require.True(t, f.CallsKnown)
	require.Zero(t, f.Calls)
	require.Equal(t, 4000.0, f.ExpectedCalls)
	require.EqualValues(t, 20, f.SilentMinutes)
	require.True(t, Candidate(f))

	thin := usual
	thin.LeastCalls = 49
	require.False(t, Assemble(Observation{Silence: time.Hour}, thin, DefaultMinimums, None).CallsKnown,
		"whose cost might stay unknown when it calls again")
	require.False(t, Assemble(Observation{Silence: time.Hour}, Baseline{}, Minimums{}, None).CallsKnown, "nothing is expected")
}

// TestSilenceByChance draws the calls of a month at the least rate that is judged, and looks for 19 minutes
// without one.
func TestSilenceByChance(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	longest := 0.0 // minutes
	for range 200 {
		for now := 0.0; now < 30*24*60; {
			gap := random.ExpFloat64() * 15 / 30 // 30 calls in 15 minutes
			now, longest = now+gap, max(longest, gap)
		}
	}
	// Of 200 × 86,400 gaps of half a minute the longest is about 0.5 × ln(1.7e7) = 8.3 minutes.
	require.Less(t, longest, 19.0)
	require.InDelta(t, 8.3, longest, 3)
}

func TestExperimentIsComparedUnderItsModel(t *testing.T) {
	t.Parallel()
	of := usage.Key{Tenant: "a", Model: "provider/model#deployment"}
	require.True(t, of.OwnsFlags(), "a # is a part of some names")
	key := of.OfExperiment("ab#experiment:1")
	require.False(t, key.OwnsFlags())
	f := Assemble(Observation{Key: key, Silence: time.Hour}, usual, DefaultMinimums, None)
	require.Equal(t, of.Model, f.Model)
	require.Equal(t, "ab#experiment:1", f.Experiment)
	require.False(t, f.CallsKnown, "an experiment may end without notice")
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

// Calls that come in bursts make runaway spend of a minute that steady calls would not: what the minutes of a usual
// quarter of an hour show counts for the four times shorter time that spend is read from.
func TestSpendComesInBursts(t *testing.T) {
	t.Parallel()
	sigmas := func(burst float64) float64 {
		b := Baseline{CostBuckets: 12, SpendPerMinute: 1e9, RequestsPerMin: 300, LnCostSD: 0.5, SpendBurst: burst}
		return Assemble(Observation{SpendLastPico: 5e9}, b, DefaultMinimums, None).SpendSigmas
	}
	poisson := math.Exp(0.25) / 75
	require.InDelta(t, 4/math.Sqrt(poisson+minNoise*minNoise), sigmas(0), 1e-9)
	require.InDelta(t, sigmas(0), sigmas(poisson/4), 1e-9, "calls that come one by one differ by no more than that")
	require.InDelta(t, 4/math.Sqrt(4*0.16+minNoise*minNoise), sigmas(0.16), 1e-9)
	require.Less(t, sigmas(0.16), 5.0, "and alert.yaml leaves it alone")
}
