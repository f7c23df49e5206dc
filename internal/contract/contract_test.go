package contract_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Whatever tenants and models are called, ids are told apart and give back what they were made of.
func TestIDsAreReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[^\x00]{1,20}`)
		key := usage.Key{Tenant: name.Draw(t, "tenant"), Model: name.Draw(t, "model")}
		opened := time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "opened"), 0).UTC()
		incident := contract.IncidentID(key, opened)
		decision := contract.DecisionID(incident, rapid.StringMatching(`[^\x00]{1,10}`).Draw(t, "action"), 3)
		for _, id := range []string{contract.AlertLoopID(key), incident, decision} {
			back, err := contract.KeyOf(id)
			require.NoError(t, err)
			require.Equal(t, key, back)
		}
		for _, id := range []string{incident, decision} {
			at, err := contract.OpenedAt(id)
			require.NoError(t, err)
			require.Equal(t, opened, at)
		}
	})
}

func TestIDsThatNameNoKey(t *testing.T) {
	for _, id := range []string{"", "sweep/0", "autonomy/a", "alert", "alert/a", "alert/%zz/b", "incident/a/%zz/1", "decision/downgrade/1"} {
		_, err := contract.KeyOf(id)
		require.Error(t, err, id)
	}
	for _, id := range []string{"", "alert/a/b", "incident/a/b", "incident/a/b/soon"} {
		_, err := contract.OpenedAt(id)
		require.Error(t, err, id)
	}
}

func TestHandlesAreShortAndSteady(t *testing.T) {
	a, b := contract.Handle("decision/incident/a/b/1/downgrade/1"), contract.Handle("decision/incident/a/b/1/downgrade/2")
	require.Len(t, a, 6)
	require.NotEqual(t, a, b)
	require.Equal(t, a, contract.Handle("decision/incident/a/b/1/downgrade/1"))
}

func TestTuningScalesAndValidates(t *testing.T) {
	demo := contract.NewTuning(0.1)
	require.NoError(t, demo.Validate())
	require.Equal(t, 12*time.Second, demo.Scaled(2*time.Minute))
	text, err := json.Marshal(demo)
	require.NoError(t, err)
	var back contract.Tuning
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, demo, back)

	for _, spoil := range []func(*contract.Tuning){
		func(t *contract.Tuning) { t.TimeScale = 0 },
		func(t *contract.Tuning) { t.TimeScale = 1000 },
		func(t *contract.Tuning) { t.Holds.Silence = 0 },
		func(t *contract.Tuning) { t.Limits.MaxHold = 0 },
		func(t *contract.Tuning) { t.Limits.UnprovenHold = 0 },
		func(t *contract.Tuning) { t.RemindEvery = -1 },
	} {
		bad := demo
		spoil(&bad)
		require.Error(t, bad.Validate())
	}
}

func TestStatusesThatAreFinal(t *testing.T) {
	for _, s := range []contract.Status{contract.Denied, contract.Expired, contract.Withdrawn, contract.Approved, contract.Released, contract.Reverted} {
		require.True(t, s.Final(), s)
	}
	for _, s := range []contract.Status{contract.Proposed, contract.AwaitingApproval, contract.Actuating, contract.Holding, contract.Releasing} {
		require.False(t, s.Final(), s)
	}
	require.False(t, contract.Proposal{}.Wanted())
	require.False(t, contract.Proposal{Action: "downgrade", Mode: contract.Never}.Wanted())
	require.True(t, contract.Proposal{Action: "downgrade", Mode: contract.Ask}.Wanted())
}

func TestWordsOfOursAsTenants(t *testing.T) {
	t.Parallel()
	opened := time.Unix(1_700_000_000, 0).UTC()
	for _, tenant := range []string{"group", "all"} {
		k := usage.Key{Tenant: tenant, Model: "gpt-4o"}
		for _, id := range []string{contract.AlertLoopID(k), contract.IncidentID(k, opened), contract.DecisionID(contract.IncidentID(k, opened), "pin", 1)} {
			got, err := contract.KeyOf(id)
			require.NoError(t, err)
			require.Equal(t, k, got, id)
			require.False(t, contract.IsGroup(id), id)
		}
		require.NotEqual(t, contract.CalibrationID(""), contract.CalibrationID(tenant))
	}
	group := contract.GroupID("provider:openai", opened)
	require.True(t, contract.IsGroup(group))
	_, err := contract.KeyOf(group)
	require.Error(t, err)
	at, err := contract.OpenedAt(group)
	require.NoError(t, err)
	require.Equal(t, opened, at)

	for _, cause := range []string{"provider:openai", "model:meta/llama 3", "tenant:group", "telemetry"} {
		got, at, err := contract.GroupOf(contract.GroupID(cause, opened))
		require.NoError(t, err)
		require.Equal(t, cause, got)
		require.Equal(t, opened, at)
	}
	for _, id := range []string{"incident/group/x", "incident/group/x/y", "incident/group/%zz/1", "incident/t/m/1", "alert/t/m", ""} {
		_, _, err := contract.GroupOf(id)
		require.Error(t, err, id)
	}
}

func TestAudiences(t *testing.T) {
	key := usage.Key{Tenant: "t", Model: "m"}
	require.Equal(t, contract.OnCall, contract.AudienceOf(key, detect.Page))
	require.Equal(t, contract.Findings, contract.AudienceOf(key, detect.Investigate))
	require.Equal(t, contract.Experiments, contract.AudienceOf(key.OfExperiment("ab"), detect.Page), "an experiment never pages")
	require.Equal(t, contract.Experiments, contract.Notice{Key: key.OfExperiment("ab"), Level: detect.Page}.For(), "whoever tells it")
	require.Equal(t, contract.OnCall, contract.Notice{Level: detect.Page}.For(), "a group has no key")
}

func TestTimelineIsInOrder(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	after := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
	plan := runbook.Plan(1)
	s := contract.IncidentState{
		Input: contract.IncidentInput{Opened: noon}, Reason: "over", ClosedAt: after(30),
		Steps: []runbook.Done{runbook.Again(
			runbook.Done{Step: plan[0], At: after(1), Verdict: runbook.Verdict{Status: runbook.Clear, Text: "nothing"}},
			runbook.Done{Step: plan[0], At: after(8), Verdict: runbook.Verdict{Status: runbook.Found, Text: "a deployment"}},
		)},
		Acknowledged: &contract.Acknowledgement{Who: "ada", At: after(2)}, Notes: []contract.Note{{Who: "bob", Text: "hm", At: after(3)}},
		Mute:      &contract.Mute{Who: "ada", Reason: "a test", At: after(4), Until: after(9)},
		Decisions: []contract.DecisionSummary{{Action: "hard_stop", Status: contract.AwaitingApproval, Reason: "dear", ChangedAt: after(5)}},
		Evidence:  contract.Evidence{Rollbacks: []contract.RollbackResult{{Service: "rag", Status: 202, Body: "ok", At: after(7)}, {Service: "rag", Failed: "no", At: after(6)}}},
	}
	var said []string
	for _, e := range s.Timeline() {
		said = append(said, e.At.Format("15:04 ")+e.Text)
	}
	require.Equal(t, []string{
		"12:00 opened: ", "12:01 T0 clear: nothing", "12:02 ada took it on", "12:03 bob: hm", "12:04 muted by ada until 12:09:00: a test",
		"12:05 hard stop awaiting approval: dear", "12:06 the rollback webhook of rag failed: no", "12:07 the rollback webhook of rag answered 202: ok",
		"12:08 T0 found: a deployment", "12:30 closed: over",
	}, said)
}
