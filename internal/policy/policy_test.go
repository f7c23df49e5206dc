package policy

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dir is a policy directory in memory.
func dir(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return fsys
}

func shipped(t testing.TB) *Set {
	t.Helper()
	set, err := Load(policies.Files)
	require.NoError(t, err)
	return set
}

// alertWith is an alert policy whose one conditional match has the given condition.
func alertWith(condition string) string {
	return `name: alert
imports:
  - name: detect.Verdict
rule:
  match:
    - condition: |
        ` + condition + `
      output: |
        Verdict{level: "PAGE", rule: "page", reason: "bad"}
    - output: |
        Verdict{level: "NONE", rule: "none", reason: "fine"}
`
}

func TestShippedSet(t *testing.T) {
	set, err := Compile(policies.Files)
	require.NoError(t, err)
	report := set.Test()
	require.Empty(t, report.Failures)
	for _, c := range report.Policies {
		require.Empty(t, c.Uncovered, "every shipped rule has a test")
		require.Positive(t, c.Tests)
	}
	require.Empty(t, set.Shipped())
	require.Regexp(t, `^[0-9a-f]{12}$`, set.Revision())
}

func TestAlert(t *testing.T) {
	set := shipped(t)
	f := detect.Facts{
		Active: "NONE", WindowMinutes: 2, SpendRatio: 1, CompletionChange: 1,
		CostKnown: true, CostRatio: 3, CostSigmas: 9, CostUSD: 0.0142, CostBaseline: 0.00466,
		QualityKnown: true, QualityRatio: 0.8, QualitySigmas: 9, Quality: 0.66, QualityBaseline: 0.85,
	}
	v, err := set.Alert(f)
	require.NoError(t, err)
	require.Equal(t, detect.Verdict{
		Level: detect.Page, Rule: "page-cost-and-quality",
		Reason: "cost per call is 3.00× its baseline ($0.0142 against $0.00466) and quality is 80 % of its baseline (0.66 against 0.85) over 2 min",
	}, v)

	f.CostRatio, f.QualityRatio = 1, 1
	v, err = set.Alert(f)
	require.NoError(t, err)
	require.Equal(t, detect.None, v.Level)
	require.Empty(t, v.Rule)
}

func TestAct(t *testing.T) {
	set := shipped(t)
	f := ActFacts{
		Tenant: "org_42", RiskClass: "ordinary", Model: "claude-3-opus", Level: "PAGE",
		CostKnown: true, CostRatio: 3, QualityKnown: true, QualityRatio: 0.8,
		TargetModel: "claude-3-sonnet", Provable: true,
	}
	p, err := set.Act(f)
	require.NoError(t, err)
	require.Equal(t, Proposal{
		Action: Downgrade, Target: "claude-3-sonnet", Mode: Auto, Approvers: []string{"on-call"}, Expiry: 30 * time.Minute,
		Rule: "downgrade", Reason: "cost per call is 3.00× its baseline and claude-3-sonnet meets the tenant's quality floor",
	}, p)
}

// Whatever the facts are, a regulated tenant or traffic that proves nothing is never acted upon
// without a question, and only a proposal with someone to approve it asks.
func TestActNeverByItselfWhereItMayNot(t *testing.T) {
	set := shipped(t)
	rapid.Check(t, func(t *rapid.T) {
		f := ActFacts{
			Tenant: "t", Model: rapid.SampledFrom([]string{"m", "*"}).Draw(t, "model"),
			Experiment: rapid.SampledFrom([]string{"", "ab-1"}).Draw(t, "experiment"),
			RiskClass:  rapid.SampledFrom([]string{"ordinary", "regulated"}).Draw(t, "risk"),
			Level:      rapid.SampledFrom([]string{"PAGE", "INVESTIGATE", "NONE"}).Draw(t, "level"),
			Step:       rapid.SampledFrom([]int64{0, 2, 5, 10, 30}).Draw(t, "step"),
			CostKnown:  rapid.Bool().Draw(t, "cost known"), CostRatio: rapid.Float64Range(0, 20).Draw(t, "cost"),
			QualityKnown: rapid.Bool().Draw(t, "quality known"), QualityRatio: rapid.Float64Range(0, 2).Draw(t, "quality"),
			SpendKnown: rapid.Bool().Draw(t, "spend known"), SpendRatio: rapid.Float64Range(0, 50).Draw(t, "spend"),
			TargetModel:          rapid.SampledFrom([]string{"", "cheap"}).Draw(t, "target"),
			UpgradeModel:         rapid.SampledFrom([]string{"", "dear"}).Draw(t, "upgrade"),
			DeploymentCorrelated: rapid.Bool().Draw(t, "deployment"),
			PreviousModel:        rapid.SampledFrom([]string{"", "before"}).Draw(t, "previous"),
			ProviderUnhealthy:    rapid.Bool().Draw(t, "provider"),
			CompletionSpike:      rapid.Bool().Draw(t, "spike"), CompletionDrop: rapid.Bool().Draw(t, "drop"),
			CauseFound: rapid.Bool().Draw(t, "cause"), Provable: rapid.Bool().Draw(t, "provable"),
			CoolingDown: rapid.Bool().Draw(t, "cooling"), Frozen: rapid.Bool().Draw(t, "frozen"),
			SamplingRaised: rapid.Bool().Draw(t, "sampling"),
		}
		p, err := set.Act(f)
		if err != nil {
			t.Fatal(err)
		}
		if p.Action != NoAction && (f.Model == "*" || f.Experiment != "") {
			t.Fatalf("acts on what owns no flags: %+v", p)
		}
		if p.Mode == Auto && (f.RiskClass == "regulated" || !f.Provable && p.Action != Sampling || p.Action == Upgrade || p.Action == HardStop) {
			t.Fatalf("acts by itself: %+v", p)
		}
		if p.Mode != Never && (len(p.Approvers) == 0 || p.Expiry <= 0) {
			t.Fatalf("asks nobody: %+v", p)
		}
		if (p.Action == NoAction) != (p.Mode == Never) {
			t.Fatalf("does nothing in the mode %s: %+v", p.Mode, p)
		}
	})
}

func TestSampling(t *testing.T) {
	set := shipped(t)
	for class, rate := range map[routing.Class]float64{routing.HighValue: 1, routing.Standard: 0.1, routing.Batch: 0.01} {
		s, err := set.Sampling(SamplingFacts{Tenant: "t", TenantClass: string(class)})
		require.NoError(t, err)
		require.Equal(t, rate, s.Rate)
	}
}

// Candidate decides in Go which keys the policy is asked about, so it must let every key through
// that the policy would find something in.
func TestCandidateIsSupersetOfShippedRules(t *testing.T) {
	set := shipped(t)
	ratio := func(t *rapid.T, name string) float64 {
		return rapid.OneOf(rapid.Float64Range(0, 5), rapid.Float64Range(0.6, 1.6), rapid.SampledFrom([]float64{
			0.3, 0.4, 0.67, 0.7, 0.85, 0.92, 0.93, 1, 1.15, 1.2, 1.5, 2, 2.5, 3,
		})).Draw(t, name)
	}
	sigmas := func(t *rapid.T, name string) float64 {
		return rapid.OneOf(rapid.Float64Range(-10, 10), rapid.SampledFrom([]float64{1.9, 2, 3, 3.3, 4.5, 5, 20})).Draw(t, name)
	}
	share := func(t *rapid.T, name string) float64 { return rapid.Float64Range(0, 1).Draw(t, name) }
	rapid.Check(t, func(t *rapid.T) {
		f := detect.Facts{
			Active: rapid.SampledFrom([]string{"", "NONE", "INVESTIGATE", "PAGE", "INCONCLUSIVE"}).Draw(t, "active"),
			Tenant: rapid.SampledFrom([]string{"t", "*"}).Draw(t, "tenant"), Experiment: rapid.SampledFrom([]string{"", "ab-1"}).Draw(t, "experiment"),
			CostRatio: 1, QualityRatio: 1, SpendRatio: 1, CompletionChange: 1, VelocityRatio: 1,
		}
		if f.CallsKnown = rapid.Bool().Draw(t, "calls known"); f.CallsKnown {
			f.Calls, f.ExpectedCalls = rapid.Int64Range(0, 3).Draw(t, "calls"), rapid.Float64Range(1, 100).Draw(t, "expected")
			f.SilentMinutes = rapid.Int64Range(0, 40).Draw(t, "silent")
		}
		if f.VelocityKnown = rapid.Bool().Draw(t, "velocity known"); f.VelocityKnown {
			f.VelocityRatio, f.VelocitySigmas = ratio(t, "velocity"), sigmas(t, "velocity σ")
		}
		if f.CostKnown = rapid.Bool().Draw(t, "cost known"); f.CostKnown {
			f.CostRatio, f.CostSigmas = ratio(t, "cost"), sigmas(t, "cost σ")
		}
		if f.CostZKnown = rapid.Bool().Draw(t, "z known"); f.CostZKnown {
			f.CostZ = sigmas(t, "z")
		}
		if f.QualityKnown = rapid.Bool().Draw(t, "quality known"); f.QualityKnown {
			f.QualityRatio, f.QualitySigmas = ratio(t, "quality"), sigmas(t, "quality σ")
		}
		if f.SpendKnown = rapid.Bool().Draw(t, "spend known"); f.SpendKnown {
			f.SpendRatio, f.SpendSigmas = ratio(t, "spend"), sigmas(t, "spend σ")
		}
		if f.CompletionKnown = rapid.Bool().Draw(t, "completion known"); f.CompletionKnown {
			f.CompletionChange = ratio(t, "completion")
		}
		if f.CacheKnown = rapid.Bool().Draw(t, "cache known"); f.CacheKnown {
			f.CacheHit, f.CacheBaseline = share(t, "cache"), share(t, "cache baseline")
		}
		if f.OutcomeKnown = rapid.Bool().Draw(t, "outcome known"); f.OutcomeKnown {
			f.OutcomeRate, f.OutcomeBaseline, f.OutcomeSigmas = share(t, "outcome"), share(t, "outcome baseline"), sigmas(t, "outcome σ")
		}
		v, err := set.Alert(f)
		if err != nil {
			t.Fatal(err)
		}
		if (v.Level == detect.Page || v.Level == detect.Investigate) && !detect.Candidate(f) {
			t.Fatalf("%s by %s, and no candidate: %+v", v.Level, v.Rule, f)
		}
		if v.Level == detect.Page && f.Experiment != "" {
			t.Fatalf("an experiment pages by %s: %+v", v.Rule, f)
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	set := shipped(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 200 {
				f := detect.Facts{Active: "NONE", QualityKnown: true, QualityRatio: 0.5, QualitySigmas: float64((i + j) % 2 * 100)}
				v, err := set.Alert(f)
				if err != nil || (v.Level == detect.Page) != (f.QualitySigmas > 0) {
					t.Errorf("%+v %v", v, err)
				}
			}
		})
	}
	wg.Wait()
}

// A directory replaces the files that it has; the others are the shipped ones.
func TestOverlay(t *testing.T) {
	set, err := Load(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 9.0")}))
	require.NoError(t, err)
	require.Equal(t, []string{"act.yaml", "sampling.yaml", "tradeoff.yaml"}, set.Shipped())
	v, err := set.Alert(detect.Facts{CostRatio: 8})
	require.NoError(t, err)
	require.Equal(t, detect.None, v.Level)
	require.NotEqual(t, shipped(t).Revision(), set.Revision())

	other, err := Load(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 8.0")}))
	require.NoError(t, err)
	require.NotEqual(t, set.Revision(), other.Revision())

	_, err = Load(dir(map[string]string{"README.md": "nothing"}))
	require.ErrorContains(t, err, "no .yaml file")

	_, err = Load(dir(map[string]string{"alerts.yaml": "x: 1"}))
	require.EqualError(t, err, "alerts.yaml: no policy has this name\n  mend: did you mean alert.yaml?")
}

func TestReloadKeepsLastGoodSet(t *testing.T) {
	h := NewHolder(shipped(t), slog.New(slog.DiscardHandler))
	good := h.Set()
	require.Error(t, h.Reload(dir(map[string]string{"alert.yaml": "rule: {}"})))
	require.Same(t, good, h.Set())
	require.Error(t, h.Err())

	failing := dir(map[string]string{
		"alert.yaml":      alertWith("cost_ratio > 9.0"),
		"alert_test.yaml": "name: a\nsection:\n  - name: s\n    tests:\n      - name: t\n        output: {value: {level: PAGE}}\n",
	})
	require.ErrorContains(t, h.Reload(failing), `level is "NONE", not "PAGE"`)
	require.Same(t, good, h.Set())

	require.NoError(t, h.Reload(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 9.0")})))
	require.NotSame(t, good, h.Set())
	require.NoError(t, h.Err())
}

// swapFS is a directory whose contents change under a watcher.
type swapFS struct {
	mu sync.Mutex
	fstest.MapFS
}

func (s *swapFS) put(files map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.MapFS = dir(files)
}

func (s *swapFS) Open(name string) (fs.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.MapFS.Open(name)
}

func TestWatch(t *testing.T) {
	h := NewHolder(shipped(t), slog.New(slog.DiscardHandler))
	fsys := &swapFS{}
	fsys.put(map[string]string{"alert.yaml": alertWith("cost_ratio > 9.0")})
	var wg sync.WaitGroup
	wg.Go(func() { h.watch(t.Context(), onlyOpen{fsys}, time.Millisecond) })
	t.Cleanup(wg.Wait) // runs after t.Context has ended
	level := func() detect.Level {
		v, err := h.Set().Alert(detect.Facts{CostRatio: 5})
		require.NoError(t, err)
		return v.Level
	}
	require.Eventually(t, func() bool { return level() == detect.None }, 10*time.Second, time.Millisecond)
	fsys.put(map[string]string{"alert.yaml": alertWith("cost_ratio > 4.0")})
	require.Eventually(t, func() bool { return level() == detect.Page }, 10*time.Second, time.Millisecond)
	fsys.put(map[string]string{"alert.yaml": alertWith("cost_ratio >")})
	require.Eventually(t, func() bool { return h.Err() != nil }, 10*time.Second, time.Millisecond)
	require.Equal(t, detect.Page, level())
}

// A directory that changes under a reader's eyes, half written, with a file gone, broken and mended again, is at every
// moment either refused or a whole set; who decides meanwhile decides by one of the two good ones and never fails.
func TestNoReaderSeesABadSet(t *testing.T) {
	first, second := alertWith("cost_ratio > 9.0"), alertWith("cost_ratio > 4.0")
	fsys := &swapFS{}
	fsys.put(map[string]string{"alert.yaml": first})
	set, err := Load(onlyOpen{fsys})
	require.NoError(t, err)
	h := NewHolder(set, slog.New(slog.DiscardHandler))
	good := map[string]bool{set.Revision(): true}
	other, err := Load(dir(map[string]string{"alert.yaml": second}))
	require.NoError(t, err)
	good[other.Revision()] = true

	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				now := h.Set()
				v, err := now.Alert(detect.Facts{CostRatio: 10})
				if err != nil || v.Level != detect.Page || !good[now.Revision()] {
					t.Errorf("%s: %+v %v", now.Revision(), v, err)
					return
				}
			}
		})
	}
	refused := 0
	reload := func(files map[string]string) {
		fsys.put(files)
		if h.Reload(onlyOpen{fsys}) != nil {
			refused++
		}
	}
	for cut := 0; cut < len(second); cut += 7 { // as an editor or a slow copy leaves it
		before := h.Set()
		reload(map[string]string{"alert.yaml": second[:cut]})
		require.Same(t, before, h.Set(), "%d bytes of it", cut)
		if cut%5 == 0 {
			reload(map[string]string{"alert.yaml": []string{first, second}[cut/5%2]})
		}
	}
	require.Greater(t, refused, 30)
	reload(nil) // every file is gone, as in an unmounted volume
	require.Error(t, h.Err())
	reload(map[string]string{"alert.yaml": first})
	require.NoError(t, h.Err())
	stop()
	readers.Wait()
}

// onlyOpen hides every method of a file system but Open, so that each read sees its lock.
type onlyOpen struct{ fs.FS }

func TestRuntimeErrorsHaveAPlace(t *testing.T) {
	set, err := Load(dir(map[string]string{"alert.yaml": alertWith("10 / cost_samples > 1 && cost_ratio > 2.0")}))
	require.NoError(t, err)
	_, err = set.Alert(detect.Facts{CostRatio: 3})
	var p Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, "alert.yaml:7:12: division by zero\n 7 |         10 / cost_samples > 1 && cost_ratio > 2.0\n   |            ^", p.Error())

	_, err = set.Alert(detect.Facts{CostRatio: 3, CostSamples: 1, Tenant: strings.Repeat("x", maxText+1)})
	require.ErrorContains(t, err, "the fact tenant has 1025 bytes, more than 1024")
}

func TestRuntimeErrorInVariableIsPlacedThere(t *testing.T) {
	text := strings.Replace(alertWith("variables.each > 1"), "  match:", "  variables:\n    - name: each\n      expression: 10 / cost_samples\n  match:", 1)
	set, err := Load(dir(map[string]string{"alert.yaml": text}))
	require.NoError(t, err)
	_, err = set.Alert(detect.Facts{})
	var p Problem
	require.ErrorAs(t, err, &p)
	require.Equal(t, []int{7, 22}, []int{p.Line, p.Col})
}

func TestProposalsMustFit(t *testing.T) {
	set, err := Load(dir(map[string]string{"act.yaml": `name: act
imports:
  - name: policy.Proposal
rule:
  match:
    - output: |
        Proposal{action: "downgrade", target: target_model, mode: "ask", approvers: ["x"], expiry: duration("1h"), rule: "r", reason: "y"}
`}))
	require.NoError(t, err)
	_, err = set.Act(ActFacts{TargetModel: "m"})
	require.NoError(t, err)
	_, err = set.Act(ActFacts{})
	require.ErrorContains(t, err, "act.yaml:6:7: rule r proposes the action downgrade without a target")
}

func TestOutputsAreCheckedWhenComputed(t *testing.T) {
	const sampling = "name: s\nimports:\n  - name: policy.Sample\nrule:\n  match:\n    - output: |\n        Sample{rate: %, rule: \"r\"}\n"
	_, err := Load(dir(map[string]string{"sampling.yaml": strings.Replace(sampling, "%", "1.5", 1)}))
	require.ErrorContains(t, err, "sampling.yaml:7:9: rule r samples a share of 1.5, which is not between 0 and 1")
	set, err := Load(dir(map[string]string{"sampling.yaml": strings.Replace(sampling, "%", "double(size(tenant))", 1)}))
	require.NoError(t, err)
	s, err := set.Sampling(SamplingFacts{Tenant: "a"})
	require.NoError(t, err)
	require.Equal(t, Sample{Rate: 1, Rule: "r"}, s)
	_, err = set.Sampling(SamplingFacts{Tenant: "ab"})
	require.ErrorContains(t, err, "samples a share of 2")

	computed := strings.Replace(alertWith("cost_known"), `level: "PAGE"`, "level: tenant", 1)
	set, err = Load(dir(map[string]string{"alert.yaml": computed}))
	require.NoError(t, err)
	v, err := set.Alert(detect.Facts{CostKnown: true, Tenant: "PAGE"})
	require.NoError(t, err)
	require.Equal(t, detect.Page, v.Level)
	_, err = set.Alert(detect.Facts{CostKnown: true, Tenant: "acme"})
	require.ErrorContains(t, err, `alert.yaml:9:24: "acme" is none of PAGE`)
}

// A nested rule without a condition falls through when none of its matches fires; variables of the
// outer rule are seen in it.
func TestNestedRules(t *testing.T) {
	set, err := Load(dir(map[string]string{"alert.yaml": `name: alert
imports:
  - name: detect.Verdict
rule:
  variables:
    - name: dear
      expression: cost_ratio > 2.0
  match:
    - rule:
        variables:
          - name: bad
            expression: quality_ratio < 0.5
        match:
          - condition: variables.dear && variables.bad
            output: |
              Verdict{level: "PAGE", rule: "both", reason: ""}
    - condition: variables.dear
      rule:
        match:
          - condition: spend_ratio > 2.0
            output: |
              Verdict{level: "INVESTIGATE", rule: "dear-and-much", reason: ""}
          - output: |
              Verdict{level: "INVESTIGATE", rule: "dear", reason: ""}
    - output: |
        Verdict{level: "INCONCLUSIVE", rule: "rest", reason: ""}
`}))
	require.NoError(t, err)
	for rule, f := range map[string]detect.Facts{
		"both":          {CostRatio: 3, QualityRatio: 0.4},
		"dear-and-much": {CostRatio: 3, QualityRatio: 1, SpendRatio: 3},
		"dear":          {CostRatio: 3, QualityRatio: 1},
		"rest":          {CostRatio: 1, QualityRatio: 0.4},
	} {
		v, err := set.Alert(f)
		require.NoError(t, err)
		require.Equal(t, rule, v.Rule)
	}
}

// FuzzCompile: no file, however broken, brings the process down.
func FuzzCompile(f *testing.F) {
	for _, name := range []string{"alert.yaml", "act.yaml", "sampling.yaml", "tradeoff.yaml", "alert_test.yaml"} {
		text, err := policies.Files.ReadFile(name)
		require.NoError(f, err)
		f.Add(name, string(text))
	}
	for _, text := range []string{"", "rule: {}", "rule: {match: []}", "a: &a [*a]", "? [x]\n: y", "rule:\n  match:\n  - output: |", "--- x\n--- y", "\xff", "name: !!binary x"} {
		f.Add("alert.yaml", text)
	}
	f.Fuzz(func(t *testing.T, name, text string) {
		set, err := Compile(dir(map[string]string{"alert.yaml": alertWith("cost_ratio > 2.0"), strings.ReplaceAll(name, "/", "_"): text}))
		var problems Problems
		if errors.As(err, &problems) {
			require.NotEmpty(t, problems.Error())
		}
		if err == nil {
			set.Test()
		}
	})
}
