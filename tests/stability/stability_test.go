package stability

import (
	"fmt"
	"maps"
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

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/policies"
)

// shipped are the policies as they are shipped: alert.yaml and act.yaml themselves, not a copy of them.
func shipped(t *testing.T) rules {
	set, err := policy.Load(policies.Files)
	require.NoError(t, err)
	return rules{
		alert: func(f detect.Facts) detect.Verdict {
			v, err := set.Alert(f)
			if err != nil {
				panic(err)
			}
			return v
		},
		act: func(f policy.ActFacts) policy.Proposal {
			p, err := set.Act(f)
			if err != nil {
				panic(err)
			}
			return p
		},
	}
}

// asWritten are the rules before this proof, thresholds on the medians of the shortest window with
// the minimum samples: what the first line of false pages measures.
func asWritten(t *testing.T) rules {
	r := shipped(t)
	r.alert = func(f detect.Facts) detect.Verdict { return detect.Verdict{Level: judgeAsWritten(f)} }
	r.shortest = true
	return r
}

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
func each[T any](n int, run func(i int) T) []T {
	out := make([]T, n)
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

// quietPlants simulates plants in which nothing is wrong: noise, slow drifts, bursts of dear calls,
// lasting changes for good reason.
func quietPlants(n int, r rules) []result {
	return each(n, func(i int) result {
		return simulate(draw(rand.New(rand.NewPCG(11, uint64(i)))), uint64(i), r, 6*time.Hour)
	})
}

// faultPlants simulates plants that have all of that, and a provider that fails for a while.
func faultPlants(n int, r rules) []result {
	share := [10]kind{6: qualityAlone, 7: qualityAlone, 8: costAlone, 9: volume} // the rest are of cost and quality
	return each(n, func(i int) result {
		random := rand.New(rand.NewPCG(12, uint64(i)))
		p := draw(random)
		p.fault = drawFault(random, share[i%len(share)], time.Hour)
		p.useless = random.IntN(8) == 0
		return simulate(p, uint64(i), r, p.fault.end+time.Hour)
	})
}

// TestLoopIsStable is the proof. Its bounds: 0.05 false pages per key-month, one reversal per fault,
// 20 minutes from the fault's end to the flag's where traffic gives samples, the product's own limits
// where it does not, and no automatic act there.
func TestLoopIsStable(t *testing.T) {
	t.Parallel()
	n := 2000 * size(t)
	r := shipped(t)
	quiet, faults := quietPlants(n, r), faultPlants(n, r)
	printPages(t, quietPlants(n/4, asWritten(t)), quiet, faults)
	printFaults(t, faults)

	t.Run("pages without cause", func(t *testing.T) {
		require.LessOrEqual(t, perMonth(slices.Concat(quiet, faults)), 0.05)
	})
	t.Run("oscillation", func(t *testing.T) {
		for i, res := range faults {
			require.LessOrEqualf(t, res.reversals(), 1, "plant %d: %s", i, res)
		}
	})
	t.Run("release", func(t *testing.T) {
		for i, res := range slices.Concat(quiet, faults) {
			for _, d := range res.acts {
				require.NotEmptyf(t, d.outcome, "plant %d still holds: %s", i, res)
				require.LessOrEqualf(t, d.end, latestEnd(d, res.fault), "plant %d lets go late: %s", i, res)
			}
		}
	})
	t.Run("acts by itself", func(t *testing.T) {
		for i, res := range slices.Concat(quiet, faults) {
			for _, d := range res.acts {
				if d.auto {
					require.Truef(t, gathers(res.params, d.plan), "plant %d cannot prove it: %s", i, res)
					require.Truef(t, res.fault.excuses(d.start), "plant %d has no cause: %s", i, res)
				}
			}
		}
	})
	t.Run("finds what is there", func(t *testing.T) {
		for k := range kinds {
			found, all := 0, 0
			for _, res := range faults {
				if res.fault.kind == k && res.benign == nil && res.rate >= 1 && res.scored >= 0.1 {
					all++
					if res.detected >= 0 {
						found++
					}
				}
			}
			require.Greaterf(t, float64(found), 0.95*float64(all), "%s: found %d of %d", k, found, all)
		}
	})
}

// gathers reports whether the plant's true rate gives each arm of the plan the minimum samples within
// SampleWithin at every step: what routing.PlanRollout promises, from what it cannot know. While a flag
// is on every call is scored, so scores come as fast as costs.
func gathers(p params, plan routing.Plan) bool {
	l := routing.DefaultLimits
	arm := min(plan.Steps[0], plan.Holdback)
	return p.rate*arm*l.SampleWithin.Seconds() >= float64(max(l.Minimums.Cost, l.Minimums.Quality))
}

// latestEnd is when an act must have ended. One that traffic can prove ends within 20 minutes of the
// fault, or of its own beginning if that was later, and one that is not proved once it has waited for its
// proof. One that traffic cannot prove is held as long as the product says, and then walks down its steps.
func latestEnd(d deed, fault *change) time.Duration {
	l := routing.DefaultLimits
	const looks = 5 * tick // until an order is given and has taken effect
	if !d.plan.Provable {
		return d.start + l.UnprovenHold + time.Duration(len(d.plan.Steps)+1)*(l.Dwell+looks)
	}
	over := d.start
	if fault != nil {
		over = max(over, fault.end)
	}
	if d.outcome == routing.Reverted { // it was not proved at one of its steps
		return min(over+20*time.Minute, d.start+time.Duration(len(d.plan.Steps))*(l.StepWait+looks))
	}
	return over + 20*time.Minute
}

// perMonth is the false pages per key-month of simulated time in which a page is false.
func perMonth(results []result) float64 {
	var simulated time.Duration
	pages := 0
	for _, res := range results {
		simulated += res.quiet
		pages += res.falsePages
	}
	return float64(pages) / months(simulated)
}

func months(d time.Duration) float64 { return d.Hours() / 730 }

func (r result) String() string {
	s := fmt.Sprintf("%+v, detected %s, pages %v, raised again %d", r.params, r.detected, r.pages, r.raisedAgain)
	if r.fault != nil {
		s += fmt.Sprintf("\nfault: %+v", *r.fault)
	}
	if r.benign != nil {
		s += fmt.Sprintf("\nbenign: %+v", *r.benign)
	}
	for _, d := range r.acts {
		s += fmt.Sprintf("\nact: %+v", d)
	}
	return s
}

// printPages prints false pages before and after this proof.
func printPages(t *testing.T, before, quiet, faults []result) {
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "rules\tplants\t\tkey-months\tfalse pages\tper key-month")
	for _, row := range []struct {
		rules, plants string
		results       []result
	}{
		{"medians alone", "quiet", before},
		{"shipped", "quiet", quiet},
		{"shipped", "with a fault", faults},
		{"shipped", "all", slices.Concat(quiet, faults)},
	} {
		var simulated time.Duration
		pages := 0
		for i, res := range row.results {
			simulated += res.quiet
			pages += res.falsePages
			if res.falsePages > 0 && row.plants != "all" && row.rules == "shipped" {
				t.Logf("%s plant %d paged: %s", row.plants, i, res)
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.1f\t%d\t%.3f\n", row.rules, row.plants, len(row.results), months(simulated), pages, perMonth(row.results))
	}
	require.NoError(t, table.Flush())
}

// printFaults prints what the loop did about each kind of fault, in plants of all traffic: what went by
// itself, and of that where traffic cannot prove it; what a person approved; and what of both began when the
// fault was over.
func printFaults(t *testing.T, faults []result) {
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "fault\tplants\tfound\tdetect p50 s\tp95 s\tacts by itself\tunprovable\tapproved\tafter it\tmost reversals\trelease p50 min\tp95 min\tlongest\toutcomes\t")
	for k := range kinds + 1 { // the last line is all of them
		var detected, released []float64
		outcomes := map[string]int{}
		var plants, auto, unprovable, approved, after, reversals int
		for _, res := range faults {
			if k < kinds && res.fault.kind != k {
				continue
			}
			plants++
			if res.detected >= 0 {
				detected = append(detected, res.detected.Seconds())
			}
			reversals = max(reversals, res.reversals())
			for _, d := range res.acts {
				outcomes[outcome(d)]++
				if d.auto {
					auto++
				} else {
					approved++
				}
				if d.auto && !gathers(res.params, d.plan) {
					unprovable++
				}
				if d.start >= res.fault.end {
					after++
				}
				if d.plan.Provable && d.start < res.fault.end && d.end > res.fault.end {
					released = append(released, (d.end - res.fault.end).Minutes())
				}
			}
		}
		name := "all"
		if k < kinds {
			name = k.String()
		}
		fmt.Fprintf(table, "%s\t%d\t%d\t%.0f\t%.0f\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f\t%s\t\n", name, plants, len(detected), quantile(detected, 0.5),
			quantile(detected, 0.95), auto, unprovable, approved, after, reversals, quantile(released, 0.5), quantile(released, 0.95), quantile(released, 1), tallied(outcomes))
	}
	require.NoError(t, table.Flush())
}

// outcome names how an act ended; of one that traffic cannot prove it says so.
func outcome(d deed) string {
	switch {
	case d.outcome == "":
		return "still on"
	case !d.plan.Provable:
		return string(d.outcome) + " unproven"
	}
	return string(d.outcome)
}

func tallied(n map[string]int) string {
	s := ""
	for _, name := range slices.Sorted(maps.Keys(n)) {
		s += fmt.Sprintf(" %s %d", name, n[name])
	}
	return s
}

// TestTable prints detection delay and time to release by traffic and scoring rate.
func TestTable(t *testing.T) {
	t.Parallel()
	size(t)
	r := shipped(t)
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "requests/s\tscored\tpaged\tdetect p50 s\tp95 s\tacts\trelease p50 min\tp95 min\treversals\t")
	for _, rate := range []float64{0.01, 0.05, 0.2, 0.5, 1, 5, 20, 50} {
		for _, scored := range []float64{0.01, 0.1, 1} {
			const n = 16
			results := each(n, func(i int) result {
				random := rand.New(rand.NewPCG(uint64(rate*1000), uint64(i)))
				p := params{
					rate: rate, scored: scored, sigma: 0.8, scoreSD: 0.1, quality: 0.85, judgeDelay: 3 * time.Second,
					lag: time.Duration(random.Float64() * float64(4*time.Second)), wander: 0.03, buckets: 100, codes: 3000, cheaper: model{0.3, 1}, better: model{2, 1},
					fault: &change{
						start: 15*time.Minute + time.Duration(random.Float64()*float64(time.Minute)), end: 75 * time.Minute,
						cost: 3, quality: 0.8, volume: 1,
					},
				}
				return simulate(p, uint64(i), r, 90*time.Minute)
			})
			var detected, released []float64
			acted, reversals := 0, 0
			for _, res := range results {
				if res.detected >= 0 {
					detected = append(detected, res.detected.Seconds())
				}
				for _, d := range res.acts {
					acted++
					if d.end > res.fault.end {
						released = append(released, (d.end - res.fault.end).Minutes())
					}
				}
				require.LessOrEqual(t, res.reversals(), 1)
				reversals += res.reversals()
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
