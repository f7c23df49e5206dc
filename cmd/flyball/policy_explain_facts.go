package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// tickLag is how long after a moment a tick that judges it may read: what is stored by then was known to it.
const tickLag = 30 * time.Second

// fromTelemetry puts the facts of a key together as a tick of the sweep does.
func (o *explainOptions) fromTelemetry(ctx context.Context, c config.Config, store *clickhouse.Store) (e explained, err error) {
	now := time.Now().UTC()
	at, live, err := o.moment(now)
	if err != nil {
		return e, &exitError{exitUsage, err}
	}
	key := usage.Key{Tenant: o.tenant, Model: o.model}
	of := key
	if o.experiment != "" {
		key = key.OfExperiment(o.experiment)
	}
	minimums := c.Profile.Tuning().Limits.Minimums
	e.Key, e.At = &key, &at
	t := telling{store: store, key: key, e: &e}
	if live {
		if at, err = store.ReadWatermark(ctx, now); err != nil {
			return e, storeError(err)
		}
		err = t.live(ctx, at)
	} else {
		err = t.past(ctx, at, o.late)
	}
	if err != nil {
		return e, storeError(err)
	}
	baseline, err := t.baseline(ctx, of, minimums, at)
	if err != nil {
		return e, storeError(err)
	}
	if err := t.silence(ctx, at, baseline, minimums); err != nil {
		return e, err
	}
	active, err := t.active(ctx, at)
	if err != nil {
		return e, storeError(err)
	}
	if baseline.Slot.IsZero() {
		e.Notes = append(e.Notes, "no baseline of the key was stored at that time: there is nothing to compare with")
	} else if baseline.CostBuckets < minimums.Buckets {
		e.Notes = append(e.Notes, fmt.Sprintf("the baseline has %s of cost and %d of quality, fewer than %d: there is nothing to compare with", plural(baseline.CostBuckets, "bucket"), baseline.QualityBuckets, minimums.Buckets))
	}
	e.facts = detect.Assemble(t.seen, baseline, minimums, active)
	return e, nil
}

// telling gathers what is known of one key at one moment, and says where it comes from.
type telling struct {
	store *clickhouse.Store
	key   usage.Key
	e     *explained
	seen  detect.Observation
	any   bool  // it had calls, scores or outcomes in the longest window
	later int64 // calls and scores that were stored too late for the sweep

	then     bool // only what was stored by the moment counts, of baselines too
	expected bool // of usage.Everything: calls of anybody are to expect
}

func (t *telling) note(format string, args ...any) {
	t.e.Notes = append(t.e.Notes, fmt.Sprintf(format, args...))
}

// live takes the windows from the sweep's own query.
func (t *telling) live(ctx context.Context, at time.Time) error {
	_, _, experiment := t.key.Experiment()
	t.e.Source = "sweep_1m, up to the ingest watermark, as the sweep reads it now"
	found, err := t.store.Sweep(ctx, clickhouse.SweepQuery{At: at, Experiments: experiment})
	i := slices.IndexFunc(found, func(o detect.Observation) bool { return o.Key == t.key })
	if t.seen = (detect.Observation{Key: t.key}); i >= 0 {
		t.seen, t.any = found[i], true
	}
	return err
}

// past takes them from stored calls, since sweep_1m has a day only and minutes that are whole.
func (t *telling) past(ctx context.Context, at time.Time, late bool) (err error) {
	q := clickhouse.ObserveQuery{Key: t.key, At: at, StoredBy: at.Add(tickLag)}
	t.e.Source = fmt.Sprintf("stored calls, scores and outcomes up to that moment, as far as they were stored %v later", tickLag)
	if t.then = !late; late {
		t.e.Source, q.StoredBy = "stored calls, scores and outcomes up to that moment", time.Time{}
	}
	if t.seen, t.any, err = t.store.Observe(ctx, q); err != nil {
		return err
	}
	if t.later, err = t.store.StoredLater(ctx, q, at.Add(tickLag)); err != nil || t.later == 0 {
		return err
	}
	if late {
		t.note("%d of the calls and scores were stored too late for the sweep to know them", t.later)
	} else {
		t.note("%d calls and scores were stored too late for the sweep to know them; --late counts them in", t.later)
	}
	return nil
}

// baseline is what the key was compared with: for all telemetry together, the calls that all keys make.
func (t *telling) baseline(ctx context.Context, of usage.Key, minimums detect.Minimums, at time.Time) (detect.Baseline, error) {
	if of != usage.Everything && !t.then {
		return t.store.Baseline(ctx, of, at)
	}
	read := t.store.Baselines
	if t.then {
		read = t.store.BaselinesKnown
	}
	all, err := read(ctx, at)
	if err != nil || of != usage.Everything {
		return all[of], err
	}
	b, expected := new(detect.Silences).Expect(all, minimums.Cost, func(string) bool { return true }, at)
	t.expected = expected
	return b, nil
}

// silence says for how long a key that is expected to call has not, and refuses one of which nothing is known.
func (t *telling) silence(ctx context.Context, at time.Time, b detect.Baseline, minimums detect.Minimums) error {
	if t.key == usage.Everything {
		calls, err := t.store.Arrived(ctx, at)
		if err != nil {
			return storeError(err)
		}
		t.seen.Whole.Requests, t.any = calls, t.any || calls > 0
	}
	if t.seen.Whole.Requests > 0 {
		return nil
	}
	last, err := t.store.LastCall(ctx, t.key, at)
	if err != nil {
		return storeError(err)
	}
	if t.expected || detect.Expects(b, t.key, minimums.Cost) {
		t.seen.Silence = 24 * time.Hour
		if !last.IsZero() {
			t.seen.Silence = at.Sub(last)
		}
		t.note("silent_minutes count from the last stored call; a worker that started since has counted fewer")
		return nil
	}
	if t.any {
		return nil
	}
	return t.noData(at, last)
}

// noData says why nothing can be explained.
func (t *telling) noData(at, last time.Time) error {
	text := fmt.Sprintf("%s had no call, score or outcome in the %d minutes before %s", t.key, detect.Windows[len(detect.Windows)-1], at.Format(time.RFC3339))
	switch {
	case t.later > 0:
		text += fmt.Sprintf(" that was stored by then; %d came later: --late counts them in", t.later)
	case last.IsZero():
		text += ", nor any call within a day before: look at the spelling of tenant and model (flyball kpi --by tenant,requested_model)"
	default:
		text += "; its last call was at " + last.Format(time.RFC3339)
	}
	return &exitError{exitFailed, fmt.Errorf("no data: %s", text)}
}

// active is the level that the key held, which the incidents tell that were open.
func (t *telling) active(ctx context.Context, at time.Time) (detect.Level, error) {
	records, err := t.store.Incidents(ctx, at)
	if err != nil {
		return detect.None, err
	}
	active := detect.None
	for _, r := range records {
		if r.OpenedAt.After(at) || contract.IsGroup(r.ID) {
			continue
		}
		switch {
		case r.Key == t.key:
			active = r.Level
			t.note("active is %s, the level of incident %s, which was open; --set active=NONE asks as if it were not", r.Level, contract.Handle(r.ID))
		case t.key.Pseudo() && r.Key.Tenant == t.key.Tenant && r.Key.OwnsFlags():
			t.note("muted: %s had an open incident (%s), so that this pseudo-key was not judged", r.Key, contract.Handle(r.ID))
		}
	}
	return active, nil
}

// fromIncident rebuilds what act.yaml is asked about an incident from its stored state.
func (o *explainOptions) fromIncident(ctx context.Context, c config.Config, set *policy.Set, store *clickhouse.Store) (e explained, err error) {
	records, err := store.Incidents(ctx, time.Unix(0, 0))
	if err != nil {
		return e, storeError(err)
	}
	i := slices.IndexFunc(records, func(r contract.IncidentRecord) bool {
		return r.ID == o.incident || contract.Handle(r.ID) == o.incident || strings.HasPrefix(r.ID, o.incident+"/")
	})
	if i < 0 {
		return e, &exitError{exitUsage, fmt.Errorf("no incident %q is stored: flyball incidents lists the open ones", o.incident)}
	}
	record := records[i]
	if contract.IsGroup(record.ID) {
		return e, &exitError{exitUsage, fmt.Errorf("%s is of many keys, for which act.yaml is not asked: name the incident of one key", record.ID)}
	}
	var state contract.IncidentState
	if err := json.Unmarshal(record.Detail, &state); err != nil {
		return e, &exitError{exitFailed, fmt.Errorf("what is stored of %s cannot be read: %w", record.ID, err)}
	}
	decisions, err := store.Decisions(ctx, record.ID)
	if err != nil {
		return e, storeError(err)
	}
	request := e.request(state, decisions)
	e.Key, e.At, e.Source = &request.Key, &record.UpdatedAt, "the stored state of "+record.ID
	asks := &activities.Policy{Set: func() *policy.Set { return set }, Rollback: hooks(c.Rollbacks).Has}
	e.facts = activities.ActFacts(asks, request)
	return e, nil
}

// request is what the incident would ask as it is stored.
func (e *explained) request(state contract.IncidentState, decisions []contract.DecisionRecord) contract.ActRequest {
	r := contract.ActRequest{
		Key: state.Input.Key, Level: state.Level, Finding: state.Finding, Step: state.Step, Steps: state.Steps,
		Changes: state.Evidence.Changes, Frozen: state.Frozen, Scoring: state.Scoring, Provable: true,
		Deployment: runbookDeployment(state),
	}
	if s := state.Evidence.Shift; s != nil && s.Known {
		r.Key.Model = s.Model
	}
	cool := state.UpdatedAt.Add(-state.Input.Tuning.Limits.CoolDown)
	r.CoolingDown = state.LastAct.After(cool) || slices.ContainsFunc(state.Decisions, func(d contract.DecisionSummary) bool {
		return d.Acted && d.Status.Final() && d.ChangedAt.After(cool)
	})
	for _, d := range slices.Backward(decisions) {
		var decided contract.DecisionState
		if json.Unmarshal(d.Detail, &decided) == nil && len(decided.Plan.Plan.Steps) > 0 {
			r.Provable = decided.Plan.Plan.Provable
			e.Notes = append(e.Notes, "provable is that of decision "+contract.Handle(d.ID))
			return r
		}
	}
	e.Notes = append(e.Notes, "whether traffic could prove an act is stored with decisions, and there is none: taken as provable; --set provable=false asks otherwise")
	return r
}

// judged says what the sweep does with facts beside asking the policy.
func (e *explained) judged() {
	f, is := e.facts.(detect.Facts)
	if !is {
		return
	}
	asked := detect.Candidate(f)
	e.Asked = &asked
	if !asked {
		e.Notes = append(e.Notes, "nothing stands out and no alert is active: the sweep takes it as NONE and does not ask the policy; below is what it would answer")
	}
	if f.Experiment != "" {
		e.Notes = append(e.Notes, "an experiment never pages: a PAGE counts as INVESTIGATE")
	}
}

// runbookDeployment is the deployment that explains the incident; nil: none does.
func runbookDeployment(state contract.IncidentState) *usage.Deployment {
	if runbook.Cause(state.Steps) != runbook.CauseDeployment {
		return nil
	}
	return runbook.Correlated(state.Evidence.Changes.Deployments, state.Input.Opened)
}
