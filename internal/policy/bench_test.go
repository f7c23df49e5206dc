package policy

import (
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// measured are observations of a key with everything known, by what alert.yaml says of them.
func measured(tb testing.TB) (map[string]detect.Observation, detect.Baseline) {
	tb.Helper()
	b := detect.Baseline{
		Key: usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, CostBuckets: 100, LnCost: math.Log(5e9), LnCostDev: 0.05, LnCostSD: 0.5, CostBucketN: 300,
		QualityBuckets: 100, Quality: 0.9, QualityDev: 0.01, QualitySD: 0.08, QualityBucketN: 100, SpendPerMinute: 1e11, RequestsPerMin: 20, Completion: 0.3, CacheHit: 0.5,
		VelocityBuckets: 100, Velocity: 50, VelocityDev: 0.05, OutcomeBuckets: 100, OutcomeRate: 0.5, OutcomeDev: 0.05, OutcomeBucketN: 300, LeastCalls: 200,
	}
	usual := detect.Observation{
		Key: b.Key, SpendLastPico: 1e11, Recent: detect.Volume{Requests: 100, InputTokens: 1000, OutputTokens: 300, CacheRead: 500},
		Whole: detect.Volume{Requests: 300, InputTokens: 3000, OutputTokens: 900, CacheRead: 1500}, Outcomes: detect.Outcomes{Calls: 300, All: 200, Good: 150},
		RecentStream: detect.Stream{Calls: 100, Tokens: 5000, MS: 100_000}, WholeStream: detect.Stream{Calls: 300, Tokens: 15_000, MS: 300_000},
	}
	for i, n := range detect.Windows {
		usual.Windows[i] = detect.Window{CostN: 20 * n, LnCost: b.LnCost, QualityN: 10 * n, Quality: 0.9}
	}
	runaway, page := usual, usual
	runaway.SpendLastPico = 2e12
	for i := range page.Windows {
		page.Windows[i].LnCost += math.Log(3)
		page.Windows[i].Quality = 0.7
	}
	return map[string]detect.Observation{"NONE": usual, "INVESTIGATE": runaway, "PAGE": page}, b
}

// BenchmarkPolicy prints evaluations a second of CPU time (the collector's included) of each policy, by its answer;
// what a candidate costs the sweep in all; and, as the measure of both, the same facts judged by Candidate alone and by
// the rules of entering a level written out in Go.
func BenchmarkPolicy(b *testing.B) {
	set := shipped(b)
	observations, baseline := measured(b)
	for _, level := range []string{"NONE", "INVESTIGATE", "PAGE"} {
		o := observations[level]
		f := detect.Assemble(o, baseline, detect.DefaultMinimums, detect.None)
		v, err := set.Alert(f)
		require.NoError(b, err)
		require.Equal(b, level, string(v.Level), "%+v", f)
		require.Equal(b, level, string(plainly(f)), "the rules in Go agree")
		b.Run("alert/"+level, func(b *testing.B) { perSecond(b, func() error { _, err := set.Alert(f); return err }) })
		b.Run("candidate/"+level, func(b *testing.B) {
			perSecond(b, func() (err error) {
				if f := detect.Assemble(o, baseline, detect.DefaultMinimums, detect.None); detect.Candidate(f) || level == "NONE" {
					_, err = set.Alert(f)
				}
				return err
			})
		})
	}
	page := observations["PAGE"]
	f := detect.Assemble(page, baseline, detect.DefaultMinimums, detect.None)
	b.Run("baseline/assemble", func(b *testing.B) {
		perSecond(b, func() error { f = detect.Assemble(page, baseline, detect.DefaultMinimums, detect.None); return nil })
	})
	asked := 0
	b.Run("baseline/candidate", func(b *testing.B) {
		perSecond(b, func() error {
			if detect.Candidate(f) {
				asked++
			}
			return nil
		})
	})
	level := detect.None
	b.Run("baseline/rules-in-go", func(b *testing.B) { perSecond(b, func() error { level = plainly(f); return nil }) })
	_ = level

	act := ActFacts{RiskClass: "ordinary", Level: "PAGE", CostKnown: true, CostRatio: 3, QualityKnown: true, QualityRatio: 0.8, TargetModel: "m", Provable: true, SpendRatio: 1}
	nothing := act
	nothing.TargetModel = ""
	b.Run("act/downgrade", func(b *testing.B) { perSecond(b, func() error { _, err := set.Act(act); return err }) })
	b.Run("act/none", func(b *testing.B) { perSecond(b, func() error { _, err := set.Act(nothing); return err }) })
	b.Run("sampling", func(b *testing.B) {
		perSecond(b, func() error { _, err := set.Sampling(SamplingFacts{TenantClass: "standard"}); return err })
	})
	for _, level := range []string{"NONE", "PAGE"} { // all rules, and the first alone
		f := detect.Assemble(observations[level], baseline, detect.DefaultMinimums, detect.None)
		b.Run("explain/"+level, func(b *testing.B) { perSecond(b, func() error { _ = set.Explain(f).Fired; return nil }) })
	}
	b.Run("load", func(b *testing.B) { perSecond(b, func() error { _, err := Load(policies.Files); return err }) })
	b.Run("lint", func(b *testing.B) { perSecond(b, func() error { set.Lint(nil); return nil }) })
}

// plainly judges as alert.yaml does of a key without a level, of the quantities that the benchmark knows: what the
// rules would cost without a policy engine.
func plainly(f detect.Facts) detect.Level {
	costly, poor := f.CostSigmas > 3.3, f.QualitySigmas > 4.5
	both := f.CostKnown && f.QualityKnown
	switch {
	case both && f.CostRatio > 1.5 && costly && f.QualityRatio < 0.85 && poor,
		both && f.QualityRatio < 0.70 && poor && f.CostRatio > 1.2 && costly,
		both && f.CostZKnown && f.CostZ > 2 && f.QualityRatio < 0.85 && poor,
		f.QualityKnown && f.QualityRatio < 0.70 && f.QualitySigmas > 5:
		return detect.Page
	case f.CallsKnown && f.SilentMinutes >= 20 && f.ExpectedCalls > 30,
		f.SpendKnown && f.SpendRatio > 3 && f.SpendSigmas > 5,
		f.CostKnown && !f.QualityKnown && f.CostRatio > 1.5 && f.CostSigmas > 5,
		both && f.CostZKnown && f.CostZ > 3,
		f.CompletionKnown && (f.CompletionChange > 2.5 || f.CompletionChange < 0.4),
		f.CacheKnown && f.CacheBaseline > 0.3 && f.CacheHit < 0.3 && f.CacheBaseline-f.CacheHit > 0.1,
		f.VelocityKnown && f.VelocityRatio < 0.6 && f.VelocitySigmas > 5,
		f.OutcomeKnown && f.OutcomeRate < 0.7*f.OutcomeBaseline && f.OutcomeSigmas > 5:
		return detect.Investigate
	}
	return detect.None
}

// perSecond reports how often f can be done in a second of CPU time.
func perSecond(b *testing.B, f func() error) {
	b.Helper()
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/(cpuTime(b)-before).Seconds(), "/cpu-s")
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
