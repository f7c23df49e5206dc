package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// EvidenceStore answers an incident's questions: package clickhouse.
type EvidenceStore interface {
	Deployments(ctx context.Context, key usage.Key, from, to time.Time) ([]usage.Deployment, error)
	FirstSeen(ctx context.Context, key usage.Key, from, to time.Time, lookback time.Duration) ([]clickhouse.Sighting, error)
	Completion(ctx context.Context, key usage.Key, from, to time.Time) ([]clickhouse.CompletionChange, error)
	WorstTraces(ctx context.Context, key usage.Key, from, to time.Time, n int) ([]clickhouse.Trace, error)
	Flows(ctx context.Context, key usage.Key, times runbook.Times) ([]runbook.Flow, error)
	PastIncident(ctx context.Context, key usage.Key, before time.Time) (*contract.PastIncident, error)
}

// RolloutStore is what a rollout is sized and watched by: package clickhouse.
type RolloutStore interface {
	Minutes(ctx context.Context, key usage.Key, from, to time.Time) ([]kpi.Minute, error)
	Baseline(ctx context.Context, key usage.Key, slot time.Time) (detect.Baseline, error)
}

// AuditStore keeps what was decided: package clickhouse.
type AuditStore interface {
	RecordIncident(ctx context.Context, r contract.IncidentRecord) error
	RecordIncidents(ctx context.Context, records []contract.IncidentRecord) error
	RecordDecision(ctx context.Context, r contract.DecisionRecord) error
	LastActEnded(ctx context.Context, key usage.Key) (time.Time, error)
}

// BaselineStore keeps what is usual: package clickhouse.
type BaselineStore interface {
	AcceptLevel(ctx context.Context, key usage.Key, at time.Time, who, reason string, minimums detect.Minimums) (detect.Baseline, error)
	RebuildBaselines(ctx context.Context, at time.Time, minimums detect.Minimums) (int, error)
	RebuildTenant(ctx context.Context, tenant string, at time.Time, minimums detect.Minimums) (int, error)
}

// Telemetry reads what is stored, and stores what was decided.
type Telemetry struct {
	Evidence  EvidenceStore
	Rollouts  RolloutStore
	Audit     AuditStore
	Baselines BaselineStore
	Levels    LevelStore
	Log       *slog.Logger
	Poll      time.Duration // between two looks at a rollout; zero is five seconds
}

// What evidence looks at: changes up to an hour before the incident, new against the week before, and
// so many traces.
const (
	changesBefore = time.Hour
	newAgainst    = 7 * 24 * time.Hour
	worstTraces   = 5
)

// FindChanges lists what was shipped, or first seen, shortly before an incident.
func (t *Telemetry) FindChanges(ctx context.Context, r contract.EvidenceRequest) (contract.Changes, error) {
	from, now := r.Opened.Add(-changesBefore), time.Now()
	deployments, err := t.Evidence.Deployments(ctx, r.Key, from, now)
	if err != nil {
		return contract.Changes{}, err
	}
	sightings, err := t.Evidence.FirstSeen(ctx, r.Key, from, now, newAgainst)
	if err != nil {
		return contract.Changes{}, err
	}
	changes := contract.Changes{Deployments: deployments}
	if len(sightings) == 0 {
		return changes, nil
	}
	minutes, err := t.Rollouts.Minutes(ctx, r.Key, from, now)
	if err != nil {
		return contract.Changes{}, err
	}
	for _, s := range sightings {
		changes.FirstSeen = append(changes.FirstSeen, runbook.FirstSeen{
			Kind: s.Kind, Value: s.Value, At: s.FirstAt, Share: share(s.Requests, minutes, s.FirstAt),
		})
	}
	return changes, nil
}

// share is the part that n calls are of the key's untreated calls since the given minute.
func share(n int64, minutes []kpi.Minute, since time.Time) float64 {
	var all int64
	for _, m := range minutes {
		if m.Arm != usage.Treated && !m.Start.Before(since) {
			all += m.Requests
		}
	}
	if all == 0 {
		return 0
	}
	return min(float64(n)/float64(all), 1)
}

// templateShare is the least part of a key's calls for which a template can explain an incident.
const templateShare = 0.10

// CompareCompletion compares the completion ratio of the incident with the time before it, for the
// template, among those that carry a good part of the calls, whose ratio changed most.
func (t *Telemetry) CompareCompletion(ctx context.Context, r contract.EvidenceRequest) (runbook.Completion, error) {
	now := time.Now()
	changes, err := t.Evidence.Completion(ctx, r.Key, r.Opened, now)
	if err != nil {
		return runbook.Completion{}, err
	}
	traces, err := t.Evidence.WorstTraces(ctx, r.Key, r.Opened, now, worstTraces)
	if err != nil {
		return runbook.Completion{}, err
	}
	c := mostChanged(changes)
	for _, trace := range traces {
		c.Worst = append(c.Worst, trace.TraceID)
		c.Traces = append(c.Traces, runbook.Trace{
			ID: trace.TraceID, At: trace.Timestamp, Model: trace.Model, Template: trace.PromptTemplate, Cost: trace.Cost,
			InputTokens: trace.InputTokens, OutputTokens: trace.OutputTokens, Score: trace.Score,
		})
	}
	return c, nil
}

func mostChanged(changes []clickhouse.CompletionChange) runbook.Completion {
	var all int64
	for _, c := range changes {
		all += c.Requests
	}
	var most runbook.Completion
	far := -1.0
	for _, c := range changes {
		if float64(c.Requests) < templateShare*float64(all) || c.Change <= 0 {
			continue
		}
		if d := math.Abs(math.Log(c.Change)); d > far {
			far = d
			most = runbook.Completion{Template: c.Template, Now: c.Ratio, Before: c.RatioBefore, Calls: c.Requests}
			most.OutcomeRate, most.OutcomeRateBefore, most.OutcomesKnown = c.OutcomeRate()
		}
	}
	return most
}

// rateOver is the time over which a key's traffic is measured to size a rollout.
const rateOver = 15 * time.Minute

// PlanRollout sizes a rollout by the key's traffic: that of the last quarter of an hour, or its usual
// one if that is less, since a surge may end.
func (t *Telemetry) PlanRollout(ctx context.Context, r contract.PlanRolloutRequest) (contract.RolloutPlan, error) {
	now := time.Now().UTC()
	current := now.Truncate(time.Minute)
	minutes, err := t.Rollouts.Minutes(ctx, r.Key, current.Add(-rateOver), current)
	if err != nil {
		return contract.RolloutPlan{}, err
	}
	usual, err := t.Rollouts.Baseline(ctx, r.Key, now)
	if err != nil {
		return contract.RolloutPlan{}, err
	}
	plan := contract.RolloutPlan{Baseline: usual}
	var calls, last int64
	for _, m := range minutes {
		calls += m.Requests
		if m.Start.Equal(current.Add(-time.Minute)) {
			last += m.Requests
		}
	}
	if usual.RequestsPerMin > 0 {
		plan.Volume = float64(last) / usual.RequestsPerMin
	}
	plan.PerSecond = float64(calls) / rateOver.Seconds()
	if perSecond := usual.RequestsPerMin / 60; perSecond > 0 {
		plan.PerSecond = min(plan.PerSecond, perSecond)
	}
	r.Spend = max(r.Spend, plan.Volume) // the finding's spend is of when it began
	plan.Plan = planFor(r, plan.PerSecond)
	return plan, nil
}

// planFor is the plan for a kind of flag.
func planFor(r contract.PlanRolloutRequest, perSecond float64) routing.Plan {
	if r.Kind == routing.Stop || r.Kind == routing.Shape {
		return routing.PlanVolume(r.Kind, r.Spend, r.Limits)
	}
	return routing.PlanRollout(perSecond, r.Limits)
}

// The least and the longest that a look at a rollout reaches back: what untreated traffic is judged
// by, and what a comparison needs at most.
const (
	lookBack    = 16 * time.Minute
	lookBackMax = time.Hour
)

// AwaitRollout watches a rollout until it wants a change, for WatchFor at most. Telemetry that cannot
// be read is telemetry without samples: the rollout then waits, and runs out of time as it would
// without traffic. Called off, it hands back what it has seen so far.
func (t *Telemetry) AwaitRollout(ctx context.Context, r contract.AwaitRolloutRequest) (contract.AwaitRolloutResult, error) {
	rollout := r.Rollout
	if activity.HasHeartbeatDetails(ctx) {
		var beaten routing.Rollout
		if err := activity.GetHeartbeatDetails(ctx, &beaten); err != nil {
			return contract.AwaitRolloutResult{}, badInput("the heartbeat of an earlier attempt cannot be read", err)
		}
		rollout = beaten
	}
	every := t.Poll
	if every == 0 {
		every = heartbeatEvery
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	deadline := time.Now().Add(WatchFor)
	for {
		now := time.Now().UTC()
		next, act := rollout.Step(t.observe(ctx, r, rollout, now), now)
		if act.Change {
			return contract.AwaitRolloutResult{Rollout: next, Act: act}, nil
		}
		settled := next.Phase != rollout.Phase // to be shown, though nothing is to be done
		rollout = next
		activity.RecordHeartbeat(ctx, rollout)
		if settled || now.After(deadline) {
			return contract.AwaitRolloutResult{Rollout: rollout}, nil
		}
		select {
		case <-ctx.Done():
			return contract.AwaitRolloutResult{Rollout: rollout}, nil
		case <-stopping(ctx):
			return contract.AwaitRolloutResult{}, errStopping()
		case <-ticks.C:
		}
	}
}

// observe reads what a step of the rollout looks at.
func (t *Telemetry) observe(ctx context.Context, r contract.AwaitRolloutRequest, rollout routing.Rollout, now time.Time) routing.Observation {
	o := routing.Observation{Baseline: r.Baseline, Mix: r.Mix}
	from := now.Add(-lookBack)
	if rollout.Since.Before(from) {
		from = rollout.Since
	}
	if oldest := now.Add(-lookBackMax); from.Before(oldest) {
		from = oldest
	}
	within, cancel := context.WithTimeout(ctx, heartbeatEvery)
	defer cancel()
	minutes, err := t.Rollouts.Minutes(within, r.Key, from, now)
	var tenant []kpi.Minute
	if err == nil && r.Mix != nil {
		tenant, err = t.Rollouts.Minutes(within, usage.Key{Tenant: r.Key.Tenant, Model: usage.AnyModel}, now.Add(-lookBack), now)
	}
	if err != nil {
		if ctx.Err() == nil {
			t.Log.WarnContext(ctx, "a rollout cannot see its telemetry", "decision", r.Decision, "error", err)
		}
		return o
	}
	o.Minutes, o.Tenant = minutes, tenant
	return o
}

// WriteReport writes an incident's report. It is an activity so that its words are on record: a later
// release may find better ones.
func (t *Telemetry) WriteReport(_ context.Context, r runbook.Report) (contract.WrittenReport, error) {
	return contract.WrittenReport{Markdown: r.Markdown()}, nil
}

// RecordIncident stores an incident's state.
func (t *Telemetry) RecordIncident(ctx context.Context, s contract.IncidentState) error {
	detail, err := json.Marshal(s)
	if err != nil {
		return badInput("the incident's state cannot be written as JSON", err)
	}
	err = t.Audit.RecordIncident(ctx, contract.IncidentRecord{
		ID: s.ID, Key: s.Input.Key, OpenedAt: s.Input.Opened, EndedAt: s.ClosedAt, Level: s.Level, State: string(s.Phase),
		Step: s.Step, Rule: s.Input.Finding.Verdict.Rule, Reason: s.Reason, Report: s.Report, Detail: detail, UpdatedAt: s.UpdatedAt,
	})
	if err != nil {
		return fmt.Errorf("storing the incident: %w", err)
	}
	return nil
}

// RecordGroup stores the state of an incident of many keys: one row of the group, which belongs to no tenant and so
// is seen by those alone who see every tenant, and one of each key, of its tenant, by which the time that the key
// was in the group is left out of its baselines. What findings say of a key is told in its own row alone.
func (t *Telemetry) RecordGroup(ctx context.Context, s contract.GroupState) error {
	shown := s
	shown.Keys = slices.Clone(s.Keys)
	for i := range shown.Keys {
		shown.Keys[i].Reason = ""
	}
	shown.Evidence.Completion, shown.Evidence.Attribution = runbook.Completion{}, nil
	detail, err := json.Marshal(shown)
	if err != nil {
		return badInput("the group's state cannot be written as JSON", err)
	}
	step := ""
	if len(s.Steps) > 0 {
		step = s.Steps[len(s.Steps)-1].Step.Name
	}
	records := []contract.IncidentRecord{{
		ID: s.ID, Key: usage.Everything, OpenedAt: s.Input.Opened, EndedAt: s.ClosedAt, Level: s.Level, State: string(s.Phase),
		Step: step, Rule: s.Input.Cause, Reason: s.Reason, Detail: detail, UpdatedAt: s.UpdatedAt,
	}}
	for _, k := range s.Keys {
		member := contract.IncidentRecord{
			ID: contract.GroupMemberID(s.ID, k.Key, k.JoinedAt), Key: k.Key, OpenedAt: k.JoinedAt, EndedAt: k.LeftAt, Level: k.Level,
			State: string(s.Phase), Step: step, Rule: s.Input.Cause, Reason: k.Reason, UpdatedAt: s.UpdatedAt,
		}
		if member.EndedAt.IsZero() {
			member.EndedAt = s.ClosedAt
		}
		if !member.EndedAt.IsZero() {
			member.State = string(contract.IncidentClosed)
		}
		records = append(records, member)
	}
	if err := t.Audit.RecordIncidents(ctx, records); err != nil {
		return fmt.Errorf("storing the group with %d keys: %w", len(s.Keys), err)
	}
	return nil
}

// RecordDecision stores a decision's state.
func (t *Telemetry) RecordDecision(ctx context.Context, s contract.DecisionState) error {
	r, err := s.Record()
	if err != nil {
		return badInput("the decision's state cannot be written as JSON", err)
	}
	if err := t.Audit.RecordDecision(ctx, r); err != nil {
		return fmt.Errorf("storing the decision: %w", err)
	}
	return nil
}

// LastAct is when an act on the key ended last, of whatever incident; zero when there was none.
func (t *Telemetry) LastAct(ctx context.Context, key usage.Key) (time.Time, error) {
	at, err := t.Audit.LastActEnded(ctx, key)
	if err != nil {
		return time.Time{}, fmt.Errorf("looking for the key's last act: %w", err)
	}
	return at, nil
}
