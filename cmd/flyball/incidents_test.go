package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestPrintIncidents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 15, 9, 30, 0, 0, time.UTC)
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	open, gone := contract.IncidentID(key, now.Add(-time.Minute)), contract.IncidentID(key, now.Add(-time.Hour))

	incident := inbox.Incident{Handle: "111111"}
	incident.State.ID, incident.State.Level, incident.State.Phase = open, detect.Page, "open"
	incident.State.Input = contract.IncidentInput{Key: key, Opened: now.Add(-time.Minute)}
	incident.State.Finding.Verdict.Reason = "cost is 3 times its baseline"

	advised := incident
	advised.State.Advice = "roll the template back by hand"

	decision := func(handle, of string, status contract.Status, share float64) inbox.Decision {
		d := inbox.Decision{Handle: handle}
		d.State.ID, d.State.Status, d.State.Share = contract.DecisionID(of, "downgrade", 1), status, share
		d.State.Input = contract.DecisionInput{Key: key, Incident: of, Proposal: contract.Proposal{Action: "downgrade", Value: "claude-3-haiku"}}
		return d
	}
	asking := decision("222222", open, contract.AwaitingApproval, 0)
	silent := inbox.Decision{Handle: "333333"} // no worker was there to say whose it is
	silent.State.ID, silent.State.Status, silent.State.Input.Key = contract.DecisionID(open, "pin", 1), contract.Holding, key
	orphan := decision("444444", gone, contract.Releasing, 0.5)

	for _, tc := range []struct {
		name      string
		incidents []inbox.Incident
		decisions []inbox.Decision
		want      string
	}{
		{"nothing", nil, nil, "No incident is open.\n"},
		{
			"a decision without its incident", nil,
			[]inbox.Decision{orphan},
			"444444  downgrade to claude-3-haiku: releasing at 50 % (org_42/claude-3-opus, whose incident is not open)\n",
		},
		{"what a person has to do", []inbox.Incident{advised}, nil, strings.Join([]string{
			"111111  PAGE  org_42/claude-3-opus  open for 1m0s",
			"        cost is 3 times its baseline",
			"        nothing is proposed: roll the template back by hand",
			"",
		}, "\n")},
		{"all", []inbox.Incident{incident}, []inbox.Decision{orphan, asking, silent}, strings.Join([]string{
			"111111  PAGE  org_42/claude-3-opus  open for 1m0s",
			"        cost is 3 times its baseline",
			"        222222  downgrade to claude-3-haiku: awaiting approval",
			"                flyball approve 222222    or: flyball deny 222222 --reason WHY",
			"        333333  decision: holding",
			"444444  downgrade to claude-3-haiku: releasing at 50 % (org_42/claude-3-opus, whose incident is not open)",
			"",
		}, "\n")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			require.NoError(t, printIncidents(&out, openWork{Incidents: tc.incidents, Decisions: tc.decisions}, now))
			require.Equal(t, tc.want, out.String())
		})
	}
}

func TestPrintGroupsAndMutes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 15, 9, 30, 0, 0, time.UTC)
	group := inbox.Group{Handle: "555555", Answered: true}
	group.State = contract.GroupState{
		Input: contract.GroupInput{Cause: "provider:openai", Opened: now.Add(-3 * time.Minute)}, Level: detect.Page, Phase: "open",
		Acknowledged: &contract.Acknowledgement{Who: "ann"}, Mute: &contract.Mute{Until: now.Add(time.Hour)},
	}
	for _, tenant := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		group.State.Keys = append(group.State.Keys, contract.GroupKey{Key: usage.Key{Tenant: tenant, Model: "gpt-4o"}})
	}
	group.State.Keys[0].LeftAt = now
	silent := inbox.Group{Handle: "666666"}
	silent.State = contract.GroupState{Input: contract.GroupInput{Cause: "telemetry", Opened: now}, Level: detect.Page, Phase: "open"}
	incident := inbox.Incident{Handle: "111111"}
	incident.State = contract.IncidentState{
		Level: detect.Page, Phase: "open", Input: contract.IncidentInput{Key: usage.Key{Tenant: "a", Model: "o3"}, Opened: now.Add(-time.Minute)},
		Mute:     &contract.Mute{Until: now}, // over
		Previous: &contract.PastIncident{ID: "incident/a/o3/1", Opened: now.Add(-72 * time.Hour), Cause: "deployment"},
	}
	incident.State.Finding.Verdict.Reason = "cost is 3 times its baseline"
	var out strings.Builder
	require.NoError(t, printIncidents(&out, openWork{
		Groups: []inbox.Group{group, silent}, Incidents: []inbox.Incident{incident},
		Mutes: inbox.Mutes{Muted: []inbox.Muted{
			{Target: "555555", Cause: "provider:openai", Mute: contract.Mute{Until: now.Add(time.Hour), Who: "ann", Reason: "they know"}},
			{Target: "org_42/*", Mute: contract.Mute{Until: now.Add(2 * time.Hour), Who: "bob", Reason: "load test"}},
		}, Unanswered: 2},
	}, now))
	require.Equal(t, strings.Join([]string{
		"555555  PAGE  provider:openai  6 keys, open for 3m0s, taken by ann, muted for 1h0m0s",
		"        b/gpt-4o, c/gpt-4o, d/gpt-4o, e/gpt-4o, f/gpt-4o, and 1 more",
		"666666  PAGE  telemetry  no worker is there to tell its keys, open for 0s",
		"111111  PAGE  a/o3  open for 1m0s",
		"        cost is 3 times its baseline",
		"        last time, 2026-01-12: deployment (flyball incidents show " + contract.Handle("incident/a/o3/1") + ")",
		"muted   555555 (provider:openai) for 1h0m0s by ann: they know",
		"muted   org_42/* for 2h0m0s by bob: load test",
		"No worker is there to tell of the mutes of 2 keys and groups.",
		"",
	}, "\n"), out.String())
}
