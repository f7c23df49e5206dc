package routing

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The looks of a rollout never spend more than they may, and come near it.
func TestLooksSpendTheErrorOnce(t *testing.T) {
	t.Parallel()
	sum := 0.0
	for look := 1; look <= 10_000; look++ {
		z := critical(falseHelp, look, math.MaxInt32)
		require.Greater(t, z, 0.0)
		sum += math.Erfc(z/math.Sqrt2) / 2
	}
	require.LessOrEqual(t, sum, falseHelp)
	require.Greater(t, sum, 0.99*falseHelp)
	require.Greater(t, critical(falseHelp, 1, 20), critical(falseHelp, 1, 1000), "fewer values, a wider bound")
}

// arms draws the samples of both arms as they grow from look to look: n values at the first, twice as many at each
// next one, or, of a window that slides while a rollout holds, n new ones each time.
type arms struct {
	rand    *rand.Rand
	costSD  float64
	effect  float64 // ln cost of the treated beside the holdback
	quality float64 // scores of the treated beside the holdback
	values  [4][]int16
}

func (a *arms) grow(n int) {
	for range n {
		a.values[0] = append(a.values[0], costCode(a.effect+a.costSD*a.rand.NormFloat64()))
		a.values[1] = append(a.values[1], costCode(a.costSD*a.rand.NormFloat64()))
		a.values[2] = append(a.values[2], kpi.QualityCode(max(0, min(1, 0.85+a.quality+0.08*a.rand.NormFloat64()))))
		a.values[3] = append(a.values[3], kpi.QualityCode(max(0, min(1, 0.85+0.08*a.rand.NormFloat64()))))
	}
}

func (a *arms) compare() Comparison {
	c := Comparison{
		TreatedCost: sampleOf(kpi.CostSample, a.values[0]), HoldbackCost: sampleOf(kpi.CostSample, a.values[1]),
		TreatedQuality: sampleOf(kpi.QualitySample, a.values[2]), HoldbackQuality: sampleOf(kpi.QualitySample, a.values[3]),
	}
	return c.compare()
}

func sampleOf(sample func([]int16) kpi.Sample, codes []int16) kpi.Sample {
	return sample(append([]int16(nil), codes...))
}

// rollout looks at arms as a rollout does: at each of three shares from n samples on at every doubling until it is
// proven, at most five times; then, while it holds, at 48 windows of n samples, of which two thirds are the last
// one's. It says whether a look called the act a help, and whether one called it a harm.
func (a *arms) rollout(n int, goal Goal) (helps, harms bool) {
	look := 0
	for range 3 {
		a.values = [4][]int16{}
		for size, k := n, 0; k < 5; k++ {
			a.grow(size - len(a.values[0]))
			look++
			switch a.compare().judge(goal, detect.Baseline{Quality: 0.85}, look).Verdict {
			case Helps:
				helps = true
			case Harms:
				return helps, true
			}
			size *= 2
		}
	}
	for range 48 {
		a.grow(n / 3)
		for i := range a.values {
			a.values[i] = a.values[i][max(0, len(a.values[i])-n):]
		}
		look++
		if a.compare().judge(goal, detect.Baseline{Quality: 0.85}, look).Verdict == Harms {
			return helps, true
		}
	}
	return helps, false
}

// TestAnActThatDoesNothing: over all looks of a rollout, an act without any effect is called a help, or a harm, no more
// often than is stated, at the least samples as at many.
func TestAnActThatDoesNothing(t *testing.T) {
	t.Parallel()
	for _, goal := range []Goal{CutCost, MendQuality} {
		for n, runs := range map[int]int{20: 1500, 50: 500} {
			t.Run(fmt.Sprintf("%s at %d samples", goal, n), func(t *testing.T) {
				t.Parallel()
				helped, harmed := 0, 0
				for seed := range uint64(runs) {
					a := arms{rand: rand.New(rand.NewPCG(seed, uint64(n))), costSD: 0.8}
					helps, harms := a.rollout(n, goal)
					if helps {
						helped++
					}
					if harms {
						harmed++
					}
				}
				t.Logf("called a help %.2f %%, a harm %.2f %%", 100*float64(helped)/float64(runs), 100*float64(harmed)/float64(runs))
				require.LessOrEqual(t, helped, surelyMore(runs, falseHelp), "of %d", runs)
				require.LessOrEqual(t, harmed, surelyMore(runs, 2*falseHarm), "of %d", runs)
			})
		}
	}
}

// surelyMore is a count that chance alone exceeds in fewer than one of a thousand tests when each run errs with p.
func surelyMore(runs int, p float64) int {
	mean := float64(runs) * p
	return int(mean + 3.1*math.Sqrt(mean*(1-p)) + 1)
}

// TestPower prints how soon an act that helps is seen to help.
func TestPower(t *testing.T) {
	t.Parallel()
	t.Log("ln cost  samples of each arm at the first look  proven at look 1  2  3  4  5")
	for _, effect := range []float64{-0.1, -0.2, -0.4, -0.7, -1.4} {
		const runs = 400
		var proven [5]int
		for seed := range uint64(runs) {
			a := arms{rand: rand.New(rand.NewPCG(seed, 3)), costSD: 0.8, effect: effect}
			for k, size := 0, 50; k < 5; k++ {
				a.grow(size - len(a.values[0]))
				if a.compare().judge(CutCost, detect.Baseline{Quality: 0.85}, k+1).Verdict == Helps {
					for later := k; later < 5; later++ {
						proven[later]++
					}
					break
				}
				size *= 2
			}
		}
		t.Logf("%7.1f  50  %v of %d", effect, proven, runs)
		if effect <= -0.7 { // a model at half the price
			require.Greater(t, proven[1], runs*95/100, "at 100 samples of each arm")
		}
	}
}

// costCode is the code of a cost whose logarithm is ln above a tenth of a cent.
func costCode(ln float64) int16 {
	code, _ := kpi.CostCode(usage.PicoUSD(1e9 * math.Exp(ln)))
	return code
}
