package activities

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// fakeEvidence answers an incident's questions, and keeps what was asked.
type fakeEvidence struct {
	deployments []usage.Deployment
	sightings   []clickhouse.Sighting
	completion  []clickhouse.CompletionChange
	traces      []clickhouse.Trace
	flows       []runbook.Flow
	past        *contract.PastIncident
	times       runbook.Times

	flowsErr                                               error
	deploymentsErr, firstSeenErr, completionErr, tracesErr error

	key      usage.Key
	from     time.Time
	lookback time.Duration
	n        int
}

func (f *fakeEvidence) Deployments(_ context.Context, key usage.Key, from, _ time.Time) ([]usage.Deployment, error) {
	f.key, f.from = key, from
	return f.deployments, f.deploymentsErr
}

func (f *fakeEvidence) FirstSeen(_ context.Context, _ usage.Key, _, _ time.Time, lookback time.Duration) ([]clickhouse.Sighting, error) {
	f.lookback = lookback
	return f.sightings, f.firstSeenErr
}

func (f *fakeEvidence) Completion(_ context.Context, key usage.Key, from, _ time.Time) ([]clickhouse.CompletionChange, error) {
	f.key, f.from = key, from
	return f.completion, f.completionErr
}

func (f *fakeEvidence) WorstTraces(_ context.Context, _ usage.Key, _, _ time.Time, n int) ([]clickhouse.Trace, error) {
	f.n = n
	return f.traces, f.tracesErr
}

func (f *fakeEvidence) Flows(_ context.Context, key usage.Key, times runbook.Times) ([]runbook.Flow, error) {
	f.key, f.times = key, times
	return f.flows, f.flowsErr
}

func (f *fakeEvidence) PastIncident(_ context.Context, key usage.Key, before time.Time) (*contract.PastIncident, error) {
	f.key, f.from = key, before
	return f.past, nil
}

// fakeRollouts is a key's traffic, as a function of the time asked about.
type fakeRollouts struct {
	minutes   func(ctx context.Context, from, to time.Time) ([]kpi.Minute, error)
	baselines map[usage.Key]detect.Baseline

	baselinesErr error
	asked        []window
}

type window struct{ from, to time.Time }

func (f *fakeRollouts) Minutes(ctx context.Context, _ usage.Key, from, to time.Time) ([]kpi.Minute, error) {
	f.asked = append(f.asked, window{from, to})
	if f.minutes == nil {
		return nil, nil
	}
	return f.minutes(ctx, from, to)
}

func (f *fakeRollouts) Baseline(_ context.Context, key usage.Key, _ time.Time) (detect.Baseline, error) {
	return f.baselines[key], f.baselinesErr
}

// of answers every question with the same minutes.
func of(minutes ...kpi.Minute) func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) {
	return func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) { return minutes, nil }
}

func TestFindChanges(t *testing.T) {
	t.Parallel()
	request := contract.EvidenceRequest{Key: opus, Opened: now}
	shippedNow := []usage.Deployment{{ID: "d2", Service: "chat", Version: "v2"}, {ID: "d1", Service: "chat", Version: "v1"}}
	t.Run("tells deployments as they are", func(t *testing.T) {
		t.Parallel()
		evidence, rollouts := &fakeEvidence{deployments: shippedNow}, &fakeRollouts{}
		changes, err := (&Telemetry{Evidence: evidence, Rollouts: rollouts}).FindChanges(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, contract.Changes{Deployments: shippedNow}, changes)
		require.Equal(t, opus, evidence.key)
		require.Equal(t, now.Add(-time.Hour), evidence.from)
		require.Equal(t, 7*24*time.Hour, evidence.lookback)
		require.Empty(t, rollouts.asked, "without a sighting nobody asks for its share")
	})
	t.Run("weighs what is first seen by the untreated calls since", func(t *testing.T) {
		t.Parallel()
		first := now.Add(-10 * time.Minute)
		evidence := &fakeEvidence{sightings: []clickhouse.Sighting{
			{Kind: clickhouse.SeenTemplate, Value: "v7", FirstAt: first, Requests: 25},
			{Kind: clickhouse.SeenModel, Value: "new", FirstAt: first, Requests: 400},
			{Kind: clickhouse.SeenModel, Value: "late", FirstAt: now.Add(time.Minute), Requests: 5},
		}}
		rollouts := &fakeRollouts{minutes: of(
			kpi.Minute{Start: first.Add(-time.Minute), Arm: usage.None, Requests: 1000},
			kpi.Minute{Start: first, Arm: usage.None, Requests: 60},
			kpi.Minute{Start: first.Add(time.Minute), Arm: usage.Holdback, Requests: 40},
			kpi.Minute{Start: first.Add(time.Minute), Arm: usage.Treated, Requests: 900},
		)}
		changes, err := (&Telemetry{Evidence: evidence, Rollouts: rollouts}).FindChanges(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, []runbook.FirstSeen{
			{Kind: clickhouse.SeenTemplate, Value: "v7", At: first, Share: 0.25},
			{Kind: clickhouse.SeenModel, Value: "new", At: first, Share: 1},
			{Kind: clickhouse.SeenModel, Value: "late", At: now.Add(time.Minute)},
		}, changes.FirstSeen)
	})
	for name, telemetry := range map[string]*Telemetry{
		"fails without deployments": {Evidence: &fakeEvidence{deploymentsErr: errAway}},
		"fails without sightings":   {Evidence: &fakeEvidence{firstSeenErr: errAway}},
		"fails without the calls": {
			Evidence: &fakeEvidence{sightings: []clickhouse.Sighting{{Value: "v7"}}},
			Rollouts: &fakeRollouts{minutes: func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) { return nil, errAway }},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := telemetry.FindChanges(t.Context(), request)
			require.ErrorIs(t, err, errAway)
		})
	}
}

func TestCompareCompletion(t *testing.T) {
	t.Parallel()
	request := contract.EvidenceRequest{Key: opus, Opened: now}
	change := func(calls int64, ratio, before float64) clickhouse.CompletionChange {
		c := clickhouse.CompletionChange{Requests: calls, Ratio: ratio, RatioBefore: before}
		if ratio > 0 && before > 0 {
			c.Change = ratio / before
		}
		return c
	}
	for name, tc := range map[string]struct {
		changes []clickhouse.CompletionChange
		want    runbook.Completion
	}{
		"no calls": {},
		"the template that changed most": {
			changes: []clickhouse.CompletionChange{change(500, 0.5, 0.45), change(400, 1.2, 0.4)},
			want:    runbook.Completion{Now: 1.2, Before: 0.4, Calls: 400},
		},
		"a fall counts as much as a rise": {
			changes: []clickhouse.CompletionChange{change(500, 0.8, 0.4), change(400, 0.1, 0.4)},
			want:    runbook.Completion{Now: 0.1, Before: 0.4, Calls: 400},
		},
		"one with few of the calls explains nothing": {
			changes: []clickhouse.CompletionChange{change(950, 0.5, 0.45), change(50, 9, 0.4)},
			want:    runbook.Completion{Now: 0.5, Before: 0.45, Calls: 950},
		},
		"one without a past cannot be compared": {
			changes: []clickhouse.CompletionChange{change(500, 0.5, 0), change(500, 0.5, 0.5)},
			want:    runbook.Completion{Now: 0.5, Before: 0.5, Calls: 500},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			evidence := &fakeEvidence{completion: tc.changes, traces: []clickhouse.Trace{
				{TraceID: "t1", Model: "claude-3-opus-1", PromptTemplate: "v7", Cost: 5, InputTokens: 3, OutputTokens: 2}, {TraceID: "t2"},
			}}
			completion, err := (&Telemetry{Evidence: evidence}).CompareCompletion(t.Context(), request)
			require.NoError(t, err)
			tc.want.Worst = []string{"t1", "t2"}
			tc.want.Traces = []runbook.Trace{{ID: "t1", Model: "claude-3-opus-1", Template: "v7", Cost: 5, InputTokens: 3, OutputTokens: 2}, {ID: "t2"}}
			require.Equal(t, tc.want, completion)
			require.Equal(t, now, evidence.from)
			require.Equal(t, 5, evidence.n)
		})
	}
	for name, evidence := range map[string]*fakeEvidence{"without ratios": {completionErr: errAway}, "without traces": {tracesErr: errAway}} {
		t.Run("fails "+name, func(t *testing.T) {
			t.Parallel()
			_, err := (&Telemetry{Evidence: evidence}).CompareCompletion(t.Context(), request)
			require.ErrorIs(t, err, errAway)
		})
	}
}

func TestPlanRollout(t *testing.T) {
	t.Parallel()
	calls := func(n int64) func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) {
		return of(kpi.Minute{Arm: usage.None, Requests: n / 2}, kpi.Minute{Arm: usage.Treated, Requests: n - n/2})
	}
	usually := func(perMinute float64) map[usage.Key]detect.Baseline {
		b := usual(opus)
		b.RequestsPerMin = perMinute
		return map[usage.Key]detect.Baseline{opus: b}
	}
	for name, tc := range map[string]struct {
		kind      routing.Kind
		rollouts  fakeRollouts
		perSecond float64
		plan      routing.Plan
	}{
		"by the calls of a quarter of an hour, whatever their arm": {
			kind: routing.Route, rollouts: fakeRollouts{minutes: calls(4500)},
			perSecond: 5, plan: routing.PlanRollout(5, tuning.Limits),
		},
		"a surge is not counted on": {
			kind: routing.Route, rollouts: fakeRollouts{minutes: calls(90_000), baselines: usually(60)},
			perSecond: 1, plan: routing.PlanRollout(1, tuning.Limits),
		},
		"nor is the usual traffic while there is less": {
			kind: routing.Pin, rollouts: fakeRollouts{minutes: calls(900), baselines: usually(600)},
			perSecond: 1, plan: routing.PlanRollout(1, tuning.Limits),
		},
		"thin traffic proves nothing": {
			kind: routing.Route, rollouts: fakeRollouts{},
			plan: routing.PlanRollout(0, tuning.Limits),
		},
		"a stop is never provable": {
			kind: routing.Stop, rollouts: fakeRollouts{minutes: calls(4500)}, perSecond: 5,
			plan: routing.PlanVolume(routing.Stop, 1, tuning.Limits),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rollouts := tc.rollouts
			plan, err := (&Telemetry{Rollouts: &rollouts}).PlanRollout(t.Context(), contract.PlanRolloutRequest{Key: opus, Kind: tc.kind, Limits: tuning.Limits})
			require.NoError(t, err)
			require.Equal(t, contract.RolloutPlan{Plan: tc.plan, PerSecond: tc.perSecond, Baseline: tc.rollouts.baselines[opus]}, plan)
			require.Len(t, rollouts.asked, 1)
			asked := rollouts.asked[0]
			require.Equal(t, 15*time.Minute, asked.to.Sub(asked.from))
			require.Equal(t, asked.to.Truncate(time.Minute), asked.to, "whole minutes only")
		})
	}
	t.Run("fails without traffic or baselines to read", func(t *testing.T) {
		t.Parallel()
		for _, rollouts := range []*fakeRollouts{
			{minutes: func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) { return nil, errAway }},
			{baselinesErr: errAway},
		} {
			_, err := (&Telemetry{Rollouts: rollouts}).PlanRollout(t.Context(), contract.PlanRolloutRequest{Key: opus, Kind: routing.Route, Limits: tuning.Limits})
			require.ErrorIs(t, err, errAway)
		}
	})
}

// repeat is n times the same code.
func repeat(code int16, n int) []int16 {
	codes := make([]int16, n)
	for i := range codes {
		codes[i] = code
	}
	return codes
}

// arm is a minute of one arm in which 200 calls cost so many times the usual, of the usual quality.
func arm(start time.Time, a usage.Arm, cost usage.PicoUSD) kpi.Minute {
	code, _ := kpi.CostCode(cost)
	return kpi.Minute{Start: start, Arm: a, Requests: 200, CostCodes: repeat(code, 200), QualityCodes: repeat(kpi.QualityCode(0.87), 200)}
}

// Costs of a call in pico-dollars: the usual, and the fault's.
const (
	usualCost usage.PicoUSD = 4e9
	faultCost usage.PicoUSD = 12e9
)

// helping is the traffic of an act of which nothing is known until it shows that it helps.
func helping(begun, at time.Time) func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) {
	return func(_ context.Context, _, to time.Time) ([]kpi.Minute, error) {
		minutes := []kpi.Minute{arm(begun, usage.Holdback, faultCost)}
		if !to.Before(at) {
			minutes = append(minutes, arm(begun, usage.Treated, usualCost))
		}
		return minutes, nil
	}
}

// rollout is one that starts now, in the bench's time.
func rollout() routing.Rollout {
	return routing.Start(routing.PlanRollout(5, tuning.Limits), tuning.Limits, routing.CutCost, time.Now().UTC())
}

// await runs AwaitRollout on a bench.
func await(t *testing.T, b *bench, telemetry *Telemetry, r routing.Rollout) (contract.AwaitRolloutResult, error) {
	t.Helper()
	return run[contract.AwaitRolloutResult](t, b, telemetry.AwaitRollout,
		contract.AwaitRolloutRequest{Key: opus, Decision: "decision/1", Rollout: r, Baseline: usual(opus)})
}

func TestAwaitRolloutUntilItWantsMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now().UTC()
		helps := begun.Add(3 * time.Minute)
		telemetry := &Telemetry{Rollouts: &fakeRollouts{minutes: helping(begun, helps)}, Log: silent()}
		b := newBench(t, telemetry)
		result, err := await(t, b, telemetry, rollout())
		require.NoError(t, err)
		require.Equal(t, helps, time.Now().UTC(), "at the first look that shows it")
		require.True(t, result.Act.Change)
		require.Equal(t, 0.5, result.Act.Share)
		require.Equal(t, 0.5, result.Rollout.Share())
		require.True(t, result.Rollout.Proven)
		require.Len(t, b.beats, 36, "one for every look before")
		require.IsType(t, routing.Rollout{}, b.beats[0].details)
	})
}

// While an act answers a turn of the tenant's callers, what they ask for releases it, whatever the holdback looks like.
func TestAwaitRolloutReleasesWhenTheMixIsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now().UTC()
		back := begun.Add(20 * time.Minute)
		mixed := &mixedRollouts{share: func(at time.Time) int64 {
			if at.Before(back) {
				return 120
			}
			return 40
		}}
		telemetry := &Telemetry{Rollouts: mixed, Log: silent(), Poll: 10 * time.Second}
		b := newBench(t, telemetry)
		r := rollout()
		r.Index, r.Phase = len(r.Plan.Steps)-1, routing.Holding
		result, err := run[contract.AwaitRolloutResult](t, b, telemetry.AwaitRollout, contract.AwaitRolloutRequest{
			Key: opus, Decision: "decision/1", Rollout: r, Baseline: usual(opus), Mix: &routing.Mix{Usual: 0.2, Shifted: 0.6},
		})
		require.NoError(t, err)
		require.Equal(t, routing.Falling, result.Rollout.Phase)
		require.Contains(t, result.Act.Reason, "the requested mix is back")
		seen := back.Add(10 * time.Second) // the first look that has anything of the minute
		require.Equal(t, seen.Add(tuning.Limits.ClearFor), time.Now().UTC())
		require.Contains(t, mixed.keys, whole)
	})
}

// mixedRollouts is a tenant of 200 calls a minute, of which a share asks for opus.
type mixedRollouts struct {
	fakeRollouts
	share func(at time.Time) int64
	keys  map[usage.Key]bool
}

func (m *mixedRollouts) Minutes(_ context.Context, key usage.Key, from, to time.Time) (minutes []kpi.Minute, _ error) {
	if m.keys == nil {
		m.keys = map[usage.Key]bool{}
	}
	m.keys[key] = true
	for at := from.Truncate(time.Minute); at.Before(to); at = at.Add(time.Minute) {
		n := int64(200)
		if key == opus {
			n = m.share(at)
		}
		minutes = append(minutes, kpi.Minute{Start: at, Arm: usage.Treated, Requests: n})
	}
	return minutes, nil
}

func TestAwaitRolloutShowsThatItHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now().UTC()
		helps := begun.Add(3 * time.Minute)
		telemetry := &Telemetry{Log: silent(), Poll: 10 * time.Second, Rollouts: &fakeRollouts{minutes: helping(begun, helps)}}
		r := rollout()
		r.Index = len(r.Plan.Steps) - 1
		result, err := await(t, newBench(t, telemetry), telemetry, r)
		require.NoError(t, err)
		require.Equal(t, helps, time.Now().UTC())
		require.False(t, result.Act.Change)
		require.Equal(t, routing.Holding, result.Rollout.Phase)
	})
}

func TestAwaitRolloutEnds(t *testing.T) {
	t.Parallel()
	t.Run("after an hour without anything to do", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			telemetry := &Telemetry{Log: silent(), Poll: time.Minute, Rollouts: &fakeRollouts{}}
			r := rollout()
			r.Phase = routing.Holding
			begun := time.Now()
			result, err := await(t, newBench(t, telemetry), telemetry, r)
			require.NoError(t, err)
			require.Equal(t, contract.AwaitRolloutResult{Rollout: r}, result)
			require.Equal(t, begun.Add(WatchFor+time.Minute), time.Now())
		})
	})
	t.Run("when it is called off, with what it has seen", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now().UTC()
			telemetry := &Telemetry{Log: silent(), Rollouts: &fakeRollouts{minutes: of(arm(begun, usage.Holdback, usualCost))}}
			b := newBench(t, telemetry)
			time.AfterFunc(12*time.Second, b.callOff)
			result, err := await(t, b, telemetry, rollout())
			require.NoError(t, err)
			require.False(t, result.Act.Change)
			require.Equal(t, begun, result.Rollout.ClearAt, "the holdback was well from the first look on")
			require.Equal(t, begun.Add(12*time.Second), time.Now().UTC())
		})
	})
	t.Run("when the worker stops, for another to go on where it was", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			begun := time.Now().UTC()
			telemetry := &Telemetry{Log: silent(), Rollouts: &fakeRollouts{minutes: of(arm(begun, usage.Holdback, usualCost))}}
			b := newBench(t, telemetry)
			time.AfterFunc(12*time.Second, func() { close(b.stop) })
			_, err := await(t, b, telemetry, rollout())
			var handover *temporal.ApplicationError
			require.ErrorAs(t, err, &handover)
			require.Equal(t, "WorkerStopping", handover.Type())
			require.False(t, handover.NonRetryable())

			next := newBench(t, telemetry)
			next.SetHeartbeatDetails(b.beats[len(b.beats)-1].details)
			result, err := await(t, next, telemetry, rollout())
			require.NoError(t, err)
			require.Equal(t, begun, result.Rollout.ClearAt)
			require.Equal(t, routing.Released, result.Rollout.Outcome)
			require.Equal(t, begun.Add(62*time.Second), time.Now().UTC(), "at the next look a minute after the first of all")
		})
	})
}

func TestAwaitRolloutWithoutTelemetry(t *testing.T) {
	t.Parallel()
	for name, minutes := range map[string]func(context.Context, time.Time, time.Time) ([]kpi.Minute, error){
		"that is refused": func(context.Context, time.Time, time.Time) ([]kpi.Minute, error) { return nil, errAway },
		"that hangs": func(ctx context.Context, _, _ time.Time) ([]kpi.Minute, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				logger, text := recorded()
				telemetry := &Telemetry{Log: logger, Rollouts: &fakeRollouts{minutes: minutes}}
				b := newBench(t, telemetry)
				result, err := await(t, b, telemetry, rollout())
				require.NoError(t, err)
				require.Equal(t, routing.Reverted, result.Rollout.Outcome, "time ran out, as it would without traffic")
				require.Contains(t, text.String(), "a rollout cannot see its telemetry")
				for i := 1; i < len(b.beats); i++ {
					require.Less(t, b.beats[i].at.Sub(b.beats[i-1].at), HeartbeatTimeout)
				}
			})
		})
	}
}

func TestAwaitRolloutLooksFarEnoughBack(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ since, want time.Duration }{
		"a quarter of an hour at least":  {time.Minute, 16 * time.Minute},
		"to the share's beginning":       {40 * time.Minute, 40 * time.Minute},
		"and an hour at most":            {20 * time.Hour, time.Hour},
		"a share that is not begun even": {-time.Minute, 16 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rollouts := &fakeRollouts{}
			(&Telemetry{Rollouts: rollouts}).observe(t.Context(), contract.AwaitRolloutRequest{Key: opus}, routing.Rollout{Since: now.Add(-tc.since)}, now)
			require.Equal(t, []window{{now.Add(-tc.want), now}}, rollouts.asked)
		})
	}
}

func TestAwaitRolloutRefusesAForeignHeartbeat(t *testing.T) {
	t.Parallel()
	telemetry := &Telemetry{Log: silent(), Rollouts: &fakeRollouts{}}
	b := newBench(t, telemetry)
	b.SetHeartbeatDetails("thirty")
	_, err := await(t, b, telemetry, rollout())
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	require.Equal(t, contract.ErrBadInput, application.Type())
	require.True(t, application.NonRetryable())
}

func TestWriteReport(t *testing.T) {
	t.Parallel()
	report := runbook.Report{ID: "incident/1", Key: opus, Opened: now}
	written, err := (&Telemetry{}).WriteReport(t.Context(), report)
	require.NoError(t, err)
	require.Equal(t, contract.WrittenReport{Markdown: report.Markdown()}, written)
}

// fakeAudit keeps what was recorded.
type fakeAudit struct {
	incident contract.IncidentRecord
	many     []contract.IncidentRecord
	decision contract.DecisionRecord
	acted    map[usage.Key]time.Time
	err      error
}

func (f *fakeAudit) LastActEnded(_ context.Context, key usage.Key) (time.Time, error) {
	return f.acted[key], f.err
}

func (f *fakeAudit) RecordIncident(_ context.Context, r contract.IncidentRecord) error {
	f.incident = r
	return f.err
}

func (f *fakeAudit) RecordIncidents(_ context.Context, records []contract.IncidentRecord) error {
	f.many = records
	return f.err
}

func (f *fakeAudit) RecordDecision(_ context.Context, r contract.DecisionRecord) error {
	f.decision = r
	return f.err
}

func TestRecordIncident(t *testing.T) {
	t.Parallel()
	state := contract.IncidentState{
		ID:    "incident/org_42/claude-3-opus/1",
		Input: contract.IncidentInput{Key: opus, Opened: now, Finding: detect.Finding{Verdict: detect.Verdict{Rule: "page-severe-quality"}}},
		Level: detect.Page, Phase: contract.IncidentClosed, Step: runbook.T30, Reason: "over", Report: "# Report",
		ClosedAt: now.Add(time.Hour), UpdatedAt: now.Add(time.Hour),
	}
	audit := &fakeAudit{}
	require.NoError(t, (&Telemetry{Audit: audit}).RecordIncident(t.Context(), state))
	var detail contract.IncidentState
	require.NoError(t, json.Unmarshal(audit.incident.Detail, &detail))
	require.Equal(t, state, detail, "the whole state is kept")
	audit.incident.Detail = nil
	require.Equal(t, contract.IncidentRecord{
		ID: state.ID, Key: opus, OpenedAt: now, EndedAt: now.Add(time.Hour), Level: detect.Page, State: "closed", Step: runbook.T30,
		Rule: "page-severe-quality", Reason: "over", Report: "# Report", UpdatedAt: now.Add(time.Hour),
	}, audit.incident)

	audit.err = errAway
	require.ErrorIs(t, (&Telemetry{Audit: audit}).RecordIncident(t.Context(), state), errAway)
}

func TestRecordDecision(t *testing.T) {
	t.Parallel()
	state := contract.DecisionState{
		ID: "decision/incident/org_42/claude-3-opus/1/downgrade/1",
		Input: contract.DecisionInput{Key: opus, Incident: "incident/org_42/claude-3-opus/1", Proposal: contract.Proposal{
			Action: "downgrade", Mode: contract.Ask, Value: haiku.Model, Rule: "downgrade", Revision: "r1",
		}},
		Status: contract.Holding, Reason: "proved", Opened: now, ChangedAt: now.Add(time.Minute), Share: 0.95, Effect: contract.Proven,
	}
	facts, err := json.Marshal(state.Input.Finding.Facts)
	require.NoError(t, err)
	want := contract.DecisionRecord{
		ID: state.ID, Incident: state.Input.Incident, Key: opus, OpenedAt: now, Action: "downgrade", Mode: contract.Ask, Value: haiku.Model,
		Share: 0.95, Status: contract.Holding, Effect: contract.Proven, Reason: "proved", Rule: "downgrade", Revision: "r1", UpdatedAt: now.Add(time.Minute),
		Facts: facts,
	}
	audit := &fakeAudit{}
	telemetry := &Telemetry{Audit: audit}
	record := func() contract.DecisionRecord {
		require.NoError(t, telemetry.RecordDecision(t.Context(), state))
		var detail contract.DecisionState
		require.NoError(t, json.Unmarshal(audit.decision.Detail, &detail))
		require.Equal(t, state, detail, "the whole state is kept")
		audit.decision.Detail = nil
		return audit.decision
	}
	require.Equal(t, want, record(), "it has not ended, and nobody was asked")

	state.Status, state.Verdict = contract.Released, &contract.DecideRequest{Verdict: contract.Approve, Who: "ada"}
	want.Status, want.By, want.EndedAt = contract.Released, "ada", state.ChangedAt
	require.Equal(t, want, record())

	// It is measured after its end, which orders the rows.
	state.Measured = &effect.Effect{MeasuredAt: now.Add(time.Hour), Treated: 5}
	state.FlagAfter = &routing.Flag{Kind: routing.Route}
	want.Worth, want.UpdatedAt = &contract.Worth{MeasuredAt: now.Add(time.Hour), Treated: 5}, now.Add(time.Hour)
	got := record()
	require.Contains(t, string(got.FlagAfter), `"kind":"route"`)
	got.FlagAfter = nil
	require.Equal(t, want, got)

	audit.err = errAway
	require.ErrorIs(t, telemetry.RecordDecision(t.Context(), state), errAway)
}

func TestLastAct(t *testing.T) {
	t.Parallel()
	audit := &fakeAudit{acted: map[usage.Key]time.Time{opus: now}}
	at, err := (&Telemetry{Audit: audit}).LastAct(t.Context(), opus)
	require.NoError(t, err)
	require.Equal(t, now, at)
	audit.err = errAway
	_, err = (&Telemetry{Audit: audit}).LastAct(t.Context(), opus)
	require.ErrorIs(t, err, errAway)
}
