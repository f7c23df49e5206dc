package stability

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/policies"
)

// asWritten are the rules before this proof, thresholds on the medians of the shortest window with
// the minimum samples: what the table's first line measures.
var asWritten = rules{judge: judgeAsWritten, shortest: true}

func judgeAsWritten(f detect.Facts) detect.Level {
	both := f.CostKnown && f.QualityKnown
	switch {
	case !f.CostKnown && !f.QualityKnown:
		return detect.Inconclusive
	case f.Active == string(detect.Page) && both && f.CostRatio > 1.2 && f.QualityRatio < 0.92,
		both && f.CostRatio > 1.5 && f.QualityRatio < 0.85,
		both && f.QualityRatio < 0.70 && f.CostRatio > 1.2,
		f.CostZKnown && f.QualityKnown && f.CostZ > 2 && f.QualityRatio < 0.85,
		f.QualityKnown && f.QualityRatio < 0.70:
		return detect.Page
	case f.CostZKnown && f.CostZ > 3, f.CostKnown && f.CostRatio > 1.5, f.SpendKnown && f.SpendRatio > 3:
		return detect.Investigate
	}
	return detect.None
}

// shipped are the rules of policies/alert.yaml.
func shipped(t *testing.T) rules {
	set, err := policy.Load(policies.Files)
	require.NoError(t, err)
	return rules{judge: func(f detect.Facts) detect.Level {
		v, err := set.Alert(f)
		if err != nil {
			panic(err)
		}
		return v.Level
	}}
}

// size scales the number of plants: 1 in the quick tests, more in soak.
func size(t *testing.T) int {
	if os.Getenv("FLYBALL_SOAK") != "" {
		return 5
	}
	if testing.Short() {
		t.Skip("the stability proof simulates key-months; run without -short")
	}
	return 1
}

// each runs n simulations on all cores and returns their results in order.
func each(n int, run func(i int) result) []result {
	out := make([]result, n)
	var group sync.WaitGroup
	for w := range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := w; i < n; i += runtime.GOMAXPROCS(0) {
				out[i] = run(i)
			}
		})
	}
	group.Wait()
	return out
}

// TestNoFalsePages simulates plants in which nothing is wrong: noise, slow drifts, bursts of dear
// calls, changes for good reason. The bound is 0.05 false pages per key-month.
func TestNoFalsePages(t *testing.T) {
	t.Parallel()
	n := 2000 * size(t)
	after := shipped(t)
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "rules\tplants\tkey-months\tfalse pages\tper key-month")
	measure := func(name string, plants int, r rules) float64 {
		var months float64
		pages := 0
		for i, res := range each(plants, func(i int) result {
			return simulate(draw(rand.New(rand.NewPCG(11, uint64(i)))), uint64(i), r, routing.DefaultLimits, alert.DefaultHolds, 12*time.Hour)
		}) {
			months += res.simulated.Hours() / 730
			pages += res.falsePages
			if res.falsePages > 0 && name == "shipped" {
				t.Logf("plant %d paged: %+v", i, res)
			}
		}
		fmt.Fprintf(table, "%s\t%d\t%.1f\t%d\t%.3f\n", name, plants, months, pages, float64(pages)/months)
		return float64(pages) / months
	}
	measure("medians alone", n/8, asWritten)
	rate := measure("shipped", n, after)
	require.NoError(t, table.Flush())
	require.LessOrEqual(t, rate, 0.05)
}

// TestFaultsAreEscapedAndReleased simulates plants whose provider fails for a while.
func TestFaultsAreEscapedAndReleased(t *testing.T) {
	t.Parallel()
	r := shipped(t)
	results := each(600*size(t), func(i int) result {
		random := rand.New(rand.NewPCG(12, uint64(i)))
		p := draw(random)
		p.benign = fault{}
		p.fault = drawFault(random, time.Hour)
		return simulate(p, uint64(i), r, routing.DefaultLimits, alert.DefaultHolds, p.fault.end+2*time.Hour)
	})
	var released []float64
	outcomes := map[routing.Outcome]int{}
	provable, reversals := 0, 0
	for i, res := range results {
		require.Zerof(t, res.unprovable, "plant %d acted where its traffic cannot prove it: %+v", i, res)
		require.LessOrEqualf(t, res.reversals, 1, "plant %d oscillates: %+v fault %+v", i, res, res.fault)
		reversals += res.reversals
		if res.acts == 0 {
			continue
		}
		provable++
		outcomes[res.outcome]++
		require.Falsef(t, res.heldAtEnd, "plant %d still holds two hours after the fault: %+v fault %+v", i, res, res.fault)
		if res.outcome == routing.Released && res.released >= 0 {
			require.LessOrEqualf(t, res.released, 20*time.Minute, "plant %d lets go late: %+v fault %+v", i, res, res.fault)
			released = append(released, res.released.Minutes())
		}
	}
	require.NotEmpty(t, released)
	t.Logf("%d faults, %d acted upon, outcomes %v, %d reversals; fault's end to flag's end: p50 %.1f min, p95 %.1f min, longest %.1f min",
		len(results), provable, outcomes, reversals, quantile(released, 0.5), quantile(released, 0.95), quantile(released, 1))
}

// TestTable prints detection delay and time to release by traffic and scoring rate.
func TestTable(t *testing.T) {
	t.Parallel()
	size(t)
	r := shipped(t)
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "requests/s\tscored\tpaged\tdetect p50 s\tp95 s\tacted\trelease p50 min\tp95 min\treversals\t")
	for _, rate := range []float64{0.01, 0.05, 0.2, 0.5, 1, 5, 20, 50} {
		for _, scored := range []float64{0.01, 0.1, 1} {
			const n = 24
			results := each(n, func(i int) result {
				random := rand.New(rand.NewPCG(uint64(rate*1000), uint64(i)))
				p := params{
					rate: rate, scored: scored, sigma: 0.8, scoreSD: 0.1, quality: 0.85, lag: 2 * time.Second, judgeDelay: 3 * time.Second,
					wander: 0.03, buckets: 100, altCost: 0.3, altQuality: 1,
					fault: &fault{start: 30*time.Minute + time.Duration(random.Float64()*float64(time.Minute)), end: 100 * time.Minute, cost: 3, quality: 0.8},
				}
				return simulate(p, uint64(i), r, routing.DefaultLimits, alert.DefaultHolds, 150*time.Minute)
			})
			var detected, released []float64
			acted, reversals := 0, 0
			for _, res := range results {
				if res.detected >= 0 {
					detected = append(detected, res.detected.Seconds())
				}
				if res.acts > 0 {
					acted++
				}
				if res.released >= 0 {
					released = append(released, res.released.Minutes())
				}
				reversals += res.reversals
			}
			fmt.Fprintf(table, "%g\t%.0f %%\t%d/%d\t%.0f\t%.0f\t%d\t%.1f\t%.1f\t%d\t\n", rate, scored*100, len(detected), n,
				quantile(detected, 0.5), quantile(detected, 0.95), acted, quantile(released, 0.5), quantile(released, 0.95), reversals)
		}
	}
	require.NoError(t, table.Flush())
}

// quantile is the nearest-rank quantile; NaN of nothing.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return v[max(int(math.Ceil(q*float64(len(v))))-1, 0)]
}
