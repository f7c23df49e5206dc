package activities

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// traffic is n calls that cost so many pico-dollars each.
func traffic(n int64, cost usage.PicoUSD) runbook.Traffic {
	return runbook.Traffic{Requests: n, Cost: usage.PicoUSD(n) * cost}
}

func TestAttributeRise(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		opened := time.Now().UTC().Truncate(time.Minute)
		time.Sleep(90 * time.Second) // a step of the runbook may be late
		evidence := &fakeEvidence{flows: []runbook.Flow{
			{RequestedModel: "a", Model: "a-1", Template: "v1", Before: traffic(600, 100), Now: traffic(10, 100)},
			{RequestedModel: "a", Model: "a-1", Template: "v2", Now: traffic(50, 300)},
		}}
		telemetry := &Telemetry{Evidence: evidence}
		a, err := telemetry.AttributeRise(t.Context(), contract.EvidenceRequest{Key: opus, Opened: opened, WindowMinutes: 2})
		require.NoError(t, err)
		require.Equal(t, opus, evidence.key)
		from := opened.Add(-2 * time.Minute)
		require.Equal(t, runbook.Times{Before: from.Add(-time.Hour), From: from, To: opened.Add(time.Minute)}, evidence.times, "whole minutes")
		require.Equal(t, evidence.times, a.Times)
		require.Equal(t, []string{runbook.ByTemplate, runbook.ByModel}, []string{a.Dimensions[0].Name, a.Dimensions[1].Name})
		require.Equal(t, "v2", a.Dimensions[0].Parts[0].Value)

		a, err = telemetry.AttributeRise(t.Context(), contract.EvidenceRequest{Key: whole, Opened: opened})
		require.NoError(t, err)
		require.Equal(t, opened.Add(-15*time.Minute), evidence.times.From, "the longest window where none is named")
		require.Equal(t, runbook.ByRequested, a.Dimensions[0].Name)

		evidence.flowsErr = errAway
		_, err = telemetry.AttributeRise(t.Context(), contract.EvidenceRequest{Key: opus, Opened: opened})
		require.ErrorIs(t, err, errAway)
	})
}

func TestAttributeShift(t *testing.T) {
	t.Parallel()
	evidence := &fakeEvidence{flows: []runbook.Flow{
		{RequestedModel: "mini", Before: traffic(900, 100), Now: traffic(40, 100)},
		{RequestedModel: "large", Before: traffic(100, 1000), Now: traffic(60, 1000)},
	}}
	telemetry := &Telemetry{Evidence: evidence}
	shift, err := telemetry.AttributeShift(t.Context(), contract.EvidenceRequest{Key: whole, Opened: now})
	require.NoError(t, err)
	require.True(t, shift.Known)
	require.Equal(t, "large", shift.Model)
	require.InDelta(t, 0.6, shift.Now, 1e-9)
	for _, key := range []usage.Key{opus, usage.Everything} {
		_, err = telemetry.AttributeShift(t.Context(), contract.EvidenceRequest{Key: key, Opened: now})
		refused(t, err, contract.ErrBadInput)
	}
	evidence.flowsErr = errAway
	_, err = telemetry.AttributeShift(t.Context(), contract.EvidenceRequest{Key: whole, Opened: now})
	require.ErrorIs(t, err, errAway)
}

// refused requires an error that no retry can mend.
func refused(t *testing.T, err error, kind string) {
	t.Helper()
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	require.Equal(t, kind, application.Type())
	require.True(t, application.NonRetryable())
}

func TestPastIncident(t *testing.T) {
	t.Parallel()
	evidence := &fakeEvidence{past: &contract.PastIncident{ID: "incident/1", Query: "SELECT 1"}}
	past, err := (&Telemetry{Evidence: evidence}).PastIncident(t.Context(), contract.EvidenceRequest{Key: opus, Opened: now})
	require.NoError(t, err)
	require.Equal(t, evidence.past, past)
	require.Equal(t, now, evidence.from, "only what came before it")
}

// fakeBaselines keeps what it was asked.
type fakeBaselines struct {
	asked []string
	err   error
}

func (f *fakeBaselines) AcceptLevel(_ context.Context, key usage.Key, at time.Time, who, reason string, m detect.Minimums) (detect.Baseline, error) {
	f.asked = append(f.asked, fmt.Sprint(key, at, who, reason, m))
	return detect.Baseline{Key: key, Version: "accepted"}, f.err
}

func (f *fakeBaselines) RebuildBaselines(context.Context, time.Time, detect.Minimums) (int, error) {
	f.asked = append(f.asked, "all")
	return 7, f.err
}

func (f *fakeBaselines) RebuildTenant(_ context.Context, tenant string, _ time.Time, _ detect.Minimums) (int, error) {
	f.asked = append(f.asked, tenant)
	return 2, f.err
}

func TestAcceptLevel(t *testing.T) {
	t.Parallel()
	baselines := &fakeBaselines{}
	telemetry := &Telemetry{Baselines: baselines}
	request := contract.AcceptLevelActivityRequest{Key: opus, Who: "ada", Reason: "the new price", Minimums: tuning.Limits.Minimums, At: now}
	result, err := telemetry.AcceptLevel(t.Context(), request)
	require.NoError(t, err)
	require.Equal(t, contract.AcceptLevelResult{Baseline: detect.Baseline{Key: opus, Version: "accepted"}}, result)
	require.Equal(t, []string{fmt.Sprint(opus, now, "ada", "the new price", tuning.Limits.Minimums)}, baselines.asked)

	baselines.err = fmt.Errorf("accepting the level of %s: %w: 3 costs", opus, clickhouse.ErrNoLevel)
	_, err = telemetry.AcceptLevel(t.Context(), request)
	refused(t, err, contract.ErrRefused)
	require.ErrorContains(t, err, "3 costs")
	baselines.err = errAway
	_, err = telemetry.AcceptLevel(t.Context(), request)
	require.ErrorIs(t, err, errAway)
	require.NotErrorAs(t, err, new(*temporal.ApplicationError), "a store that is away is asked again")
}

func TestRecalibrate(t *testing.T) {
	t.Parallel()
	baselines := &fakeBaselines{}
	telemetry := &Telemetry{Baselines: baselines}
	n, err := telemetry.Recalibrate(t.Context(), contract.RecalibrateActivityRequest{At: now})
	require.NoError(t, err)
	require.Equal(t, 7, n)
	n, err = telemetry.Recalibrate(t.Context(), contract.RecalibrateActivityRequest{Tenant: "org_42", At: now})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, []string{"all", "org_42"}, baselines.asked)
}

func TestRecordGroup(t *testing.T) {
	t.Parallel()
	id := contract.GroupID("provider:openai", now)
	state := contract.GroupState{
		ID: id, Input: contract.GroupInput{Cause: "provider:openai", Opened: now}, Level: detect.Page, Phase: contract.IncidentOpen,
		Keys: []contract.GroupKey{
			{Key: opus, Level: detect.Page, Reason: "quality is 0.6 × its baseline", JoinedAt: now},
			{Key: other, Level: detect.Investigate, Reason: "cost is 2 × its baseline", JoinedAt: now.Add(time.Second), LeftAt: now.Add(time.Minute), Left: contract.Parted},
		},
		Steps: []runbook.Done{{Step: runbook.Plan(1)[0]}}, UpdatedAt: now.Add(time.Minute), Reason: "2 keys",
	}
	audit := &fakeAudit{}
	telemetry := &Telemetry{Audit: audit}
	require.NoError(t, telemetry.RecordGroup(t.Context(), state))
	require.Len(t, audit.many, 3)
	var detail contract.GroupState
	require.NoError(t, json.Unmarshal(audit.many[0].Detail, &detail))
	require.Len(t, detail.Keys, 2)
	require.NotContains(t, string(audit.many[0].Detail), "its baseline", "what findings say is in the keys' rows alone")
	require.NotEmpty(t, state.Keys[0].Reason, "the state itself stays as it is")
	audit.many[0].Detail = nil
	member := contract.IncidentRecord{
		ID: id + "/org_42/claude-3-opus/" + fmt.Sprint(now.Unix()), Key: opus, OpenedAt: now, Level: detect.Page, State: "open", Step: runbook.T0,
		Rule: "provider:openai", Reason: "quality is 0.6 × its baseline", UpdatedAt: now.Add(time.Minute),
	}
	parted := member
	parted.ID, parted.Key = id+"/datamill/gpt-4o/"+fmt.Sprint(now.Unix()+1), other
	parted.OpenedAt, parted.EndedAt, parted.State = now.Add(time.Second), now.Add(time.Minute), "closed"
	parted.Level, parted.Reason = detect.Investigate, "cost is 2 × its baseline"
	require.Equal(t, []contract.IncidentRecord{
		{ID: id, Key: usage.Everything, OpenedAt: now, Level: detect.Page, State: "open", Step: runbook.T0, Rule: "provider:openai", Reason: "2 keys", UpdatedAt: now.Add(time.Minute)},
		member, parted,
	}, audit.many)

	state.Phase, state.ClosedAt = contract.IncidentClosed, now.Add(time.Hour)
	require.NoError(t, telemetry.RecordGroup(t.Context(), state))
	require.Equal(t, now.Add(time.Hour), audit.many[1].EndedAt, "a group that is over holds no key")
	require.Equal(t, now.Add(time.Minute), audit.many[2].EndedAt)
	audit.err = errAway
	require.ErrorIs(t, telemetry.RecordGroup(t.Context(), state), errAway)
}
