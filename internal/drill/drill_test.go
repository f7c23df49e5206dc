package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a loop and its traffic in virtual time: each step comes so long after the one that it follows.
type stage struct {
	mu     sync.Mutex
	after  map[string]time.Duration // negative: never
	level  detect.Level
	posted []string
	muted  string
	rate   float64 // of the baseline; 0: there is none

	stop              bool // a stop waits for a person first
	check             error
	silent            error // of Temporal
	fault             string
	struck            time.Time
	healed            time.Time
	lingers           time.Duration // a fault that was healed, in the sweep's window
	yes               time.Time     // approved
	no                time.Time     // resolved
	laid              int
	asked             int
	running           bool
	struckN, rerouted int64
	course            []string // what was done to it
}

func newStage() *stage {
	return &stage{rate: 300, level: detect.Page, posted: []string{"slack"}, after: map[string]time.Duration{
		contract.DrillFound: 30 * time.Second, contract.DrillOpened: 50 * time.Second, contract.DrillTold: 52 * time.Second, contract.DrillProposed: 53 * time.Second,
		contract.DrillObeyed: 3 * time.Second, contract.DrillFull: 6 * time.Minute, contract.DrillReleased: 9 * time.Minute, contract.DrillClosed: 11 * time.Minute,
	}}
}

// passed reports whether the step has come, and when: since says from when on it comes.
func (s *stage) passed(step string, since time.Time) bool {
	d, known := s.after[step]
	return known && d >= 0 && !since.IsZero() && !time.Now().Before(since.Add(d))
}

func (s *stage) did(what string) { s.course = append(s.course, what) }

func (s *stage) open() bool {
	over := s.passed(contract.DrillClosed, s.healed) || !s.no.IsZero() && time.Since(s.no) > 5*time.Second
	return s.passed(contract.DrillOpened, s.struck) && (!over || s.relapsed())
}

// relapsed reports whether what a resolve closed was raised again by a fault that is still in the sweep's window.
func (s *stage) relapsed() bool {
	return !s.healed.IsZero() && time.Since(s.healed) < s.lingers && !s.no.IsZero() && time.Since(s.no) > 10*time.Second
}

func (s *stage) flagged() bool {
	return s.passed(contract.DrillObeyed, s.yes) && !s.passed(contract.DrillReleased, s.healed) && (s.no.IsZero() || time.Since(s.no) < 2*time.Second)
}

func (s *stage) Tuning(context.Context) (contract.Tuning, error) {
	return contract.NewTuning(1), s.silent
}

func (s *stage) id() string { return contract.IncidentID(key, s.struck) }

func (s *stage) Alert(context.Context, usage.Key) (a contract.AlertLoopState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Alert = alert.New(time.Now())
	if s.passed(contract.DrillFound, s.struck) {
		level := s.level
		if (!s.healed.IsZero() || !s.no.IsZero()) && !s.relapsed() {
			level = detect.None
		}
		a.Finding = &detect.Finding{Key: key, Tick: time.Now().UnixMilli(), EvaluatedAt: time.Now(), Verdict: detect.Verdict{Level: level}}
		a.Alert.Level = level
	}
	if s.open() {
		a.Incident, a.Alert.Phase = s.id(), alert.Firing
	}
	if s.flagged() {
		a.Flags = []routing.Flag{{Key: key, Kind: routing.Route, Share: 0.9}}
	}
	return a, s.silent
}

func (s *stage) Incident(_ context.Context, id string) (i contract.IncidentState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != s.id() {
		return i, fmt.Errorf("no incident %s", id)
	}
	i = contract.IncidentState{ID: id, Level: s.level, Input: contract.IncidentInput{Level: s.level, Opened: s.struck.Add(s.after[contract.DrillOpened])}, Advice: "no act fits"}
	i.Finding.Verdict.Rule = "page-severe-quality"
	if s.stop {
		i.Decisions = []contract.DecisionSummary{{ID: "decision/" + id + "/hard_stop/1", Kind: routing.Stop, Status: contract.AwaitingApproval}}
	} else if s.passed(contract.DrillProposed, s.struck) {
		d := contract.DecisionSummary{ID: "decision/" + id + "/upgrade/1", Action: "upgrade", Value: "claude-3-opus", Kind: routing.Route, Status: contract.AwaitingApproval}
		switch {
		case s.passed(contract.DrillFull, s.yes):
			d.Status, d.Share, d.Effect = contract.Holding, 0.9, contract.Proven
		case !s.yes.IsZero():
			d.Status = contract.Actuating
		}
		i.Decisions = []contract.DecisionSummary{{ID: "decision/" + id + "/sampling/1", Kind: routing.Sampling, Status: contract.Approved}, d}
	}
	return i, s.silent
}

func (s *stage) Told(_ context.Context, _ string, level detect.Level) (*Telling, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if level != s.level || !s.passed(contract.DrillTold, s.struck) {
		return nil, nil
	}
	return &Telling{At: s.struck.Add(s.after[contract.DrillTold]), Result: contract.PostResult{Posted: s.posted, Muted: s.muted}}, nil
}

func (s *stage) Decide(_ context.Context, decision, verdict string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case strings.Contains(decision, "hard_stop"):
		s.did(verdict + " the stop")
		s.stop = false
	case s.yes.IsZero():
		s.yes = time.Now()
		s.did(verdict)
	}
	return nil
}

func (s *stage) Resolve(context.Context, usage.Key, string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.no = time.Now()
	s.did("resolve")
	return nil
}

func (s *stage) Recalibrate(context.Context, string, contract.Tuning) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked++; s.asked == 2 {
		s.rate = 290
	}
	return errors.New("nobody calibrates")
}

func (s *stage) Baseline(context.Context, usage.Key, time.Time) (detect.Baseline, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rate == 0 {
		return detect.Baseline{}, nil
	}
	return detect.Baseline{CostBuckets: 12, QualityBuckets: 12, RequestsPerMin: s.rate}, nil
}

func (s *stage) Check(context.Context) error { return s.check }

func (s *stage) Lay(_ context.Context, _ time.Time, buckets int) error {
	time.Sleep(10 * time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.laid = buckets
	return nil
}

func (s *stage) Run(ctx context.Context) error {
	s.set(func() { s.running = true })
	<-ctx.Done()
	s.set(func() { s.running = false; s.did("stop calls") })
	return ctx.Err()
}

func (s *stage) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *stage) Strike(fault string, _ time.Duration) error {
	s.set(func() {
		s.fault, s.struck, s.healed, s.yes, s.no = fault, time.Now(), time.Time{}, time.Time{}, time.Time{}
		s.struckN++
		s.did("strike " + fault)
	})
	return nil
}

func (s *stage) Heal() {
	s.set(func() {
		if s.healed.IsZero() && !s.struck.IsZero() {
			s.healed = time.Now()
			s.did("heal")
		}
	})
}

func (s *stage) Calls() (made, rerouted int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.flagged() {
		s.rerouted = s.struckN
	}
	return 1000, s.rerouted
}

var key = contract.DrillInput{}.WithDefaults().Key()

// runner is a runner on the stage.
func (s *stage) runner() *Runner {
	return &Runner{Traffic: func(contract.DrillInput) Traffic { return s }, Loop: s, Baselines: s, Log: slog.New(slog.DiscardHandler)}
}

// rehearse runs a drill on the stage in virtual time.
func rehearse(t *testing.T, s *stage, change func(*contract.DrillInput), then func(ctx context.Context, result func() contract.DrillResult)) {
	synctest.Test(t, func(t *testing.T) {
		in := contract.DrillInput{Faults: []string{contract.DrillCost}}
		if change != nil {
			change(&in)
		}
		in = in.WithDefaults()
		require.NoError(t, in.Validate())
		then(t.Context(), func() contract.DrillResult {
			r := s.runner().Run(t.Context(), in, time.Time{}, func(contract.DrillProgress) {})
			require.False(t, s.running, "no call is made any more")
			return r
		})
	})
}

// took is how long each step took, by "fault step".
func took(r contract.DrillResult) map[string]string {
	all := map[string]string{}
	for _, m := range r.Measures {
		all[m.Fault+" "+m.Step] = m.TookText() + " " + m.Verdict
	}
	return all
}

func TestDrillMeetsItsObjectives(t *testing.T) {
	t.Parallel()
	s := newStage()
	rehearse(t, s, func(in *contract.DrillInput) { in.Faults = []string{contract.DrillCost, contract.DrillQuality} }, func(_ context.Context, run func() contract.DrillResult) {
		r := run()
		require.Equal(t, contract.DrillPass, r.Verdict, "%s\n%s", r.Reason, r.Markdown())
		require.Empty(t, r.Left)
		require.Equal(t, []string{"strike cost", "approve", "heal", "strike quality", "approve", "heal", "stop calls"}, s.course)
		require.Len(t, r.Incidents, 2)
		require.Equal(t, map[string]string{
			"cost found": "30s ", "cost opened": "50s PASS", "cost told": "22s PASS", "cost proposed": "3s PASS", "cost obeyed": "3s PASS",
			"cost full": "5m57s PASS", "cost released": "9m0s PASS", "cost closed": "11m0s ",
			"quality found": "30s ", "quality opened": "50s PASS", "quality told": "22s PASS", "quality proposed": "3s PASS", "quality obeyed": "3s PASS",
			"quality full": "5m57s PASS", "quality released": "9m0s PASS", "quality closed": "11m0s ",
		}, took(r))
		require.Contains(t, r.Markdown(), "| cost | told | 22s | ≤ 30s | PASS | by slack |")
		require.Equal(t, "Drill of flyball-drill/claude-3-sonnet: PASS, 12 of 12 objectives met", r.Title())
	})
}

func TestDrillSaysWhatWasMissed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*stage)
		missed []string
		say    string
	}{
		"slow to find": {func(s *stage) {
			s.after[contract.DrillOpened] = 130 * time.Second
			s.after[contract.DrillProposed] = 140 * time.Second
		}, []string{"cost opened"}, ""},
		"never found":    {func(s *stage) { s.after = nil }, []string{"cost opened", "cost told", "cost proposed", "cost obeyed", "cost full"}, "not within"},
		"never told":     {func(s *stage) { s.after[contract.DrillTold] = -1 }, []string{"cost told"}, ""},
		"muted":          {func(s *stage) { s.muted = "until noon, by ann" }, []string{"cost told"}, "muted: until noon, by ann"},
		"no act":         {func(s *stage) { s.after[contract.DrillProposed] = -1 }, []string{"cost proposed", "cost obeyed", "cost full"}, "no act fits"},
		"slow to obey":   {func(s *stage) { s.after[contract.DrillObeyed] = time.Minute }, []string{"cost obeyed"}, ""},
		"never released": {func(s *stage) { s.after[contract.DrillReleased], s.after[contract.DrillClosed] = -1, -1 }, []string{"cost released"}, "not within"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage()
			c.change(s)
			rehearse(t, s, nil, func(_ context.Context, run func() contract.DrillResult) {
				r := run()
				require.Equal(t, contract.DrillFail, r.Verdict, r.Reason)
				var missed []string
				for _, m := range r.Measures {
					if m.Verdict == contract.DrillFail {
						missed = append(missed, m.Fault+" "+m.Step)
					}
				}
				require.Equal(t, c.missed, missed, r.Markdown())
				require.Contains(t, r.Markdown(), c.say)
				require.Empty(t, r.Left, "what no release took off was resolved")
			})
		})
	}
}

func TestDrillWithoutAChannelStillProvesThatPeopleCouldKnow(t *testing.T) {
	t.Parallel()
	s := newStage()
	s.posted = nil
	rehearse(t, s, nil, func(_ context.Context, run func() contract.DrillResult) {
		r := run()
		require.Equal(t, contract.DrillPass, r.Verdict)
		require.Contains(t, r.Markdown(), "no channel is configured for drills")
	})
}

func TestDrillOfCostAloneIsNotActedOn(t *testing.T) {
	t.Parallel()
	s := newStage()
	s.level = detect.Investigate
	rehearse(t, s, func(in *contract.DrillInput) { in.CostScores = 1 }, func(_ context.Context, run func() contract.DrillResult) {
		r := run()
		require.Equal(t, contract.DrillPass, r.Verdict, r.Markdown())
		require.NotContains(t, s.course, "approve")
		require.NotContains(t, took(r), "cost proposed")
	})
}

func TestDrillThatOnlyWatchesApprovesNothing(t *testing.T) {
	t.Parallel()
	s := newStage()
	rehearse(t, s, func(in *contract.DrillInput) { in.Watch = true }, func(_ context.Context, run func() contract.DrillResult) {
		r := run()
		require.Equal(t, contract.DrillPass, r.Verdict, r.Markdown())
		require.NotContains(t, s.course, "approve")
		require.Contains(t, took(r), "cost proposed")
		require.NotContains(t, took(r), "cost obeyed")
	})
}

func TestDrillDeniesToBeStopped(t *testing.T) {
	t.Parallel()
	s := newStage()
	s.stop = true
	rehearse(t, s, nil, func(_ context.Context, run func() contract.DrillResult) {
		require.Equal(t, contract.DrillPass, run().Verdict)
		require.Equal(t, []string{"strike cost", "deny the stop", "approve", "heal", "stop calls"}, s.course)
	})
}

func TestDrillLaysAPast(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]float64{"none": 0, "of another rate": 100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage()
			s.rate = before
			rehearse(t, s, nil, func(_ context.Context, run func() contract.DrillResult) {
				require.Equal(t, contract.DrillPass, run().Verdict)
				require.Equal(t, 13, s.laid)
				require.Equal(t, 2, s.asked, "asked again for a baseline that does not come")
			})
		})
	}
}

func TestDrillThatCannotBegin(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*stage)
		away   bool
		say    string
	}{
		"the gateway is away":  {func(s *stage) { s.check = fmt.Errorf("%w: refused", ErrAway) }, true, "does not answer"},
		"it lets nobody in":    {func(s *stage) { s.check = errors.New("401") }, false, "401"},
		"Temporal is away":     {func(s *stage) { s.silent = fmt.Errorf("%w: no server", ErrAway) }, true, "no server"},
		"an alert is open":     {func(s *stage) { s.struck = time.Now().Add(-time.Hour); s.after[contract.DrillOpened] = 0 }, false, "has an alert before any fault"},
		"the rate is no usual": {func(s *stage) { s.rate = 100; s.asked = 100 }, false, "take another --tenant"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage()
			rehearse(t, s, func(*contract.DrillInput) { c.change(s) }, func(_ context.Context, run func() contract.DrillResult) {
				r := run()
				require.Equal(t, contract.DrillAborted, r.Verdict)
				require.Equal(t, c.away, r.Away)
				require.Contains(t, r.Reason, c.say)
				require.NotContains(t, s.course, "strike cost")
			})
		})
	}
}

func TestDrillCalledOffLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, after := range []time.Duration{time.Second, 2*time.Minute + 20*time.Second, 2*time.Minute + 51*time.Second, 2*time.Minute + 58*time.Second, 5 * time.Minute, 12 * time.Minute, 20 * time.Minute} {
		t.Run(after.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				s.lingers = time.Minute
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(after, func() { cancel(errors.New("called off")) })
				in := contract.DrillInput{Faults: []string{contract.DrillCost}}.WithDefaults()
				r := s.runner().Run(ctx, in, time.Time{}, func(contract.DrillProgress) {})
				require.Equal(t, contract.DrillAborted, r.Verdict)
				require.Equal(t, "called off", r.Reason)
				require.Empty(t, r.Left)
				require.False(t, s.running)
				require.False(t, s.open() || s.flagged())
				require.Equal(t, "stop calls", s.course[len(s.course)-1], "calls go on until the flags are off")
				time.Sleep(15 * time.Second)
				require.False(t, s.open(), "nothing comes back behind it")
			})
		})
	}
}

func TestDrillEndsWithItsWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		in := contract.DrillInput{}.WithDefaults()
		r := s.runner().Run(t.Context(), in, time.Now().Add(5*time.Minute), func(contract.DrillProgress) {})
		require.Equal(t, contract.DrillAborted, r.Verdict)
		require.Contains(t, r.Reason, "window ended before the fault quality")
		require.Equal(t, "not within 2m4s FAIL", took(r)["cost full"], "the first one ended with it, three minutes into the fault")
		require.Empty(t, r.Left)
	})
}

func TestDrillOfADeadWorkerIsCleanedUpBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		in := contract.DrillInput{}.WithDefaults()
		require.NoError(t, s.Strike(contract.DrillCost, time.Hour))
		time.Sleep(time.Minute)
		last := contract.DrillProgress{Phase: "fault cost", Result: contract.DrillResult{Began: time.Now().Add(-time.Hour), Measures: []contract.DrillMeasure{{Fault: "cost", Step: contract.DrillFound}}}}
		r := s.runner().Abandon(t.Context(), in, last, func(contract.DrillProgress) {})
		require.Equal(t, contract.DrillAborted, r.Verdict)
		require.Contains(t, r.Reason, "died during: fault cost")
		require.Len(t, r.Measures, 1)
		require.Empty(t, r.Left)
		require.Contains(t, s.course, "resolve")
		require.False(t, s.open())
	})
}
