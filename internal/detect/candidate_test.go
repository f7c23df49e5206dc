package detect

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What Assemble gives is possible, so that it is left as it is, but for what follows from no single quantity: which
// window was taken.
func TestPossibleLeavesAssembledFactsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		positive := func(name string) float64 { return rapid.Float64Range(0.01, 50).Draw(t, name) }
		share := func(name string) float64 { return rapid.Float64Range(0.05, 1).Draw(t, name) }
		b := Baseline{
			CostBuckets: rapid.IntRange(0, 30).Draw(t, "cost buckets"), LnCost: 20, LnCostDev: rapid.Float64Range(0, 0.3).Draw(t, "dev"), LnCostSD: 0.5,
			QualityBuckets: rapid.IntRange(0, 30).Draw(t, "quality buckets"), Quality: share("quality baseline"), QualityDev: 0.01,
			SpendPerMinute: 1e12 * positive("spend"), RequestsPerMin: 30, Completion: positive("completion"), CacheHit: share("cache"), LeastCalls: 60,
			VelocityBuckets: 20, Velocity: positive("velocity"), OutcomeBuckets: 20, OutcomeRate: 0.5, OutcomeBucketN: 200,
		}
		o := Observation{
			SpendLastPico: 1e12 * positive("spend now"), Recent: Volume{Requests: 100, InputTokens: 1000, OutputTokens: rapid.Int64Range(1, 5000).Draw(t, "output"), CacheRead: 300},
			Whole: Volume{Requests: 300, InputTokens: 3000, OutputTokens: 900, CacheRead: 900}, Outcomes: Outcomes{Calls: 200, All: 100, Good: rapid.Int64Range(0, 100).Draw(t, "good")},
			RecentStream: Stream{Calls: 100, Tokens: 10_000, MS: rapid.Int64Range(1, 1e6).Draw(t, "ms")}, WholeStream: Stream{Calls: 300, Tokens: 30_000, MS: 1e6},
		}
		for i := range o.Windows {
			o.Windows[i] = Window{CostN: 60 * (i + 1), LnCost: 20 + rapid.Float64Range(-2, 2).Draw(t, "ln cost"), QualityN: 30 * (i + 1), Quality: share("quality")}
		}
		f := Assemble(o, b, DefaultMinimums, None)
		got := f.Possible()
		require.Equal(t, Candidate(f), Candidate(got), "%+v\n%+v", f, got)
		got.WindowMinutes = f.WindowMinutes
		near := func(want, got float64, name string) {
			if want != got && max(want-got, got-want) > 1e-9*max(want, got, -want, 1) {
				t.Fatalf("%s was %v, is %v: %+v", name, want, got, f)
			}
		}
		near(f.CostRatio, got.CostRatio, "cost ratio")
		near(f.CostUSD, got.CostUSD, "cost")
		near(f.QualityRatio, got.QualityRatio, "quality ratio")
		near(f.QualitySigmas, got.QualitySigmas, "quality sigmas")
		near(f.SpendSigmas, got.SpendSigmas, "spend sigmas")
		near(f.VelocitySigmas, got.VelocitySigmas, "velocity sigmas")
		near(f.OutcomeSigmas, got.OutcomeSigmas, "outcome sigmas")
		near(f.CompletionChange, got.CompletionChange, "completion")
		near(f.CacheHit, got.CacheHit, "cache")
		near(float64(f.SilentMinutes), float64(got.SilentMinutes), "silence")
		require.Equal(t, f.CostKnown, got.CostKnown)
	})
}

func TestPossibleMendsTheRest(t *testing.T) {
	f := Facts{CostRatio: 3, CostSigmas: 9, QualityKnown: true, QualityRatio: 0.9, QualitySigmas: -4}.Possible()
	require.Equal(t, 1.0, f.CostRatio, "not known")
	require.Zero(t, f.CostSigmas)
	require.Zero(t, f.QualitySigmas, "below its baseline is positive")
	f = Facts{CostKnown: true, CostRatio: 1, CostUSD: 0.2}.Possible()
	require.Equal(t, 0.2, f.CostBaseline)
	f = Facts{CostKnown: true, CostRatio: 1.1, CostSigmas: 99}.Possible()
	require.InDelta(t, 5, f.CostSigmas, 1e-9)
	f = Facts{QualityKnown: true, QualityRatio: 1.25, QualityBaseline: 0.9}.Possible()
	require.InDelta(t, 1.0, f.Quality, 1e-9)
	require.InDelta(t, 0.8, f.QualityBaseline, 1e-9)
}

// Just beyond each edge a key is asked about, and just before it not.
func TestEdgesAreCandidates(t *testing.T) {
	quiet := Facts{
		Active: string(None), CostRatio: 1, QualityRatio: 1, SpendRatio: 1, CallsKnown: true, VelocityKnown: true, VelocityRatio: 1,
		CompletionKnown: true, CompletionChange: 1, CacheKnown: true, CacheHit: 0.9, CacheBaseline: 0.9, OutcomeKnown: true, OutcomeRate: 1, OutcomeBaseline: 1,
	}
	require.False(t, Candidate(quiet))
	fields := reflect.TypeFor[Facts]()
	for _, e := range Edges() {
		t.Run(e.String(), func(t *testing.T) {
			for _, beyond := range []bool{true, false} {
				f := quiet
				if e.Fact == "cache_hit_baseline" {
					f.CacheHit = 0.1
				}
				at := e.At
				if e.Above == beyond {
					at *= 1.001
				} else {
					at *= 0.999
				}
				for i := range fields.NumField() {
					switch v := reflect.ValueOf(&f).Elem().Field(i); {
					case fields.Field(i).Tag.Get("cel") != e.Fact:
					case v.Kind() == reflect.Int64 && beyond:
						v.SetInt(int64(e.At) + 1)
					case v.Kind() == reflect.Int64:
						v.SetInt(int64(e.At))
					default:
						v.SetFloat(at)
					}
				}
				require.Equal(t, beyond, Candidate(f), "%+v", f)
			}
		})
	}
}
