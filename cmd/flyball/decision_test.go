package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// heldDecision is a downgrade that a person approved and that has ended; its calls are made by its test.
func heldDecision(began time.Time) contract.DecisionState {
	incident := contract.IncidentID(peopleKey, began)
	return contract.DecisionState{
		ID: contract.DecisionID(incident, "downgrade", 1), Status: contract.Released, Reason: "the untreated traffic is well, \"at last\"",
		Opened: began, ChangedAt: began.Add(30 * time.Minute), Effect: contract.Proven,
		Input: contract.DecisionInput{
			Key: peopleKey, Incident: incident, Opened: began,
			Proposal: contract.Proposal{Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: "haiku", Goal: routing.CutCost, Rule: "downgrade", Revision: "r1", Reason: "dear", Approvers: []string{"on-call"}},
			Finding:  detect.Finding{EvaluatedAt: began, Verdict: detect.Verdict{Level: detect.Page, Rule: "dual", Reason: "cost × 3.00"}, Facts: detect.Facts{CostKnown: true, CostRatio: 3}},
		},
		Verdict: &contract.DecideRequest{Verdict: contract.Approve, Who: "ada", Reason: "agreed"},
		History: []contract.Transition{
			{At: began, Status: contract.AwaitingApproval, Reason: "the policy asks people"},
			{At: began.Add(time.Minute), Status: contract.Actuating, Share: 0.5, Reason: "approved by ada"},
			{At: began.Add(30 * time.Minute), Status: contract.Released, Reason: "well"},
		},
		FlagAfter: &routing.Flag{Kind: routing.Route},
	}
}

// decisionShell runs the commands on a store, beside a Temporal.
type decisionShell struct {
	t     *testing.T
	m     *memory
	state string
}

func (s decisionShell) run(args ...string) (code int, out, errs string) {
	root := &cobra.Command{Use: "flyball", SilenceErrors: true, SilenceUsage: true}
	connect := func(context.Context, string, string) (inbox.Temporal, func(), error) {
		if s.m == nil {
			return nil, nil, context.DeadlineExceeded
		}
		return s.m, func() {}, nil
	}
	root.AddCommand(decisionCommand(connect), reportsCommand())
	var stdout, stderr bytes.Buffer
	root.SetArgs(append(args, "--state", s.state))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = execute(s.t.Context(), root)
	return code, stdout.String(), stderr.String()
}

func (s decisionShell) good(args ...string) string {
	code, out, errs := s.run(args...)
	require.Zero(s.t, code, errs)
	return out
}

func TestWhatWasDecided(t *testing.T) {
	t.Parallel()
	o := clickhouse.Options{Database: "flyball"}
	o.URL, o.User, o.Password = chservetest.Start(t)
	store, err := clickhouse.Open(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Migrate(t.Context()))
	at := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	held := heldDecision(at)
	record, err := held.Record()
	require.NoError(t, err)
	require.NoError(t, store.RecordDecision(t.Context(), record))
	var spans []usage.Span
	for i := range 400 {
		s := usage.Span{
			TraceID: fmt.Sprint("t", i), SpanID: "s", Timestamp: at.Add(time.Duration(2+i%20) * time.Minute), TenantID: peopleKey.Tenant, RequestedModel: peopleKey.Model,
			Model: "m", Provider: "p", Complexity: 1, DecisionID: held.ID, Arm: usage.Holdback, Cost: 3e10, Priced: true, PriceVersion: "v",
		}
		if i%2 == 0 {
			s.Arm, s.Cost = usage.Treated, 1e10
		}
		spans = append(spans, s)
	}
	require.NoError(t, store.InsertSpans(t.Context(), spans, "spans"))

	dir := t.TempDir()
	addresses, err := json.Marshal(devstack.Addresses{ClickHouse: devstack.ClickHouseAddress{URL: o.URL, User: o.User, Password: o.Password, Database: o.Database}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "addresses.json"), addresses, 0o600))
	shell := decisionShell{t, newMemory(), dir}
	handle := contract.Handle(held.ID)

	// It has ended: its row tells it, measured or not.
	require.Contains(t, shell.good("decision", "explain", handle), "It has not been measured.")
	require.Equal(t, "It saved $4.00 (95 % interval $4.00 to $4.00): 200 treated calls cost $2.00 and would have cost $6.00 by the holdback. What it did to quality is not known: too few scores.\n",
		shell.good("decision", "measure", handle))
	story := shell.good("decision", "explain", held.ID)
	require.Contains(t, story, "It saved $4.00.")
	require.Contains(t, story, `ada approved it after 1m: "agreed".`)
	var state contract.DecisionState
	require.NoError(t, json.Unmarshal([]byte(shell.good("decision", "explain", handle, "--json")), &state))
	require.EqualValues(t, 4e12, state.Measured.Saved.Pico.Int64())

	// An open one is told by Temporal; without it, and when it does not run any more, by its row.
	story = shell.good("decision", "explain", contract.Handle(aDecision))
	require.Contains(t, story, "flyball approve "+contract.Handle(aDecision))
	code, _, errs := shell.run("decision", "explain", "ffffff")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, `no decision is called "ffffff"`)
	open := held
	open.ID, open.Status, open.Share = contract.DecisionID(contract.IncidentID(peopleKey, at), "downgrade", 2), contract.Holding, 0.5
	record, err = open.Record()
	require.NoError(t, err)
	require.NoError(t, store.RecordDecision(t.Context(), record))
	code, out, errs := shell.run("decision", "explain", contract.Handle(open.ID))
	require.Zero(t, code)
	require.Contains(t, out, "holding at 50 %")
	require.Contains(t, errs, "it was terminated")
	shell.m = nil
	_, _, errs = shell.run("decision", "explain", contract.Handle(open.ID))
	require.Contains(t, errs, "this is as it was last stored")

	// Lists and exports.
	list := shell.good("decision", "list")
	require.Regexp(t, `(?m)^`+handle+` .* org_42/claude-3-opus +downgrade to haiku +released +ada +\$4\.00 `, list)
	require.Equal(t, 3, strings.Count(list, "\n"))
	require.Equal(t, 2, strings.Count(shell.good("decision", "list", "--status", "holding"), "\n"))
	code, out, errs = shell.run("decision", "list", "--tenant", "org_7")
	require.Zero(t, code)
	require.Empty(t, out)
	require.Contains(t, errs, "no decision is stored that this chooses")
	rows, err := csv.NewReader(strings.NewReader(shell.good("decision", "export", "--since", "7d"))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 3)
	cells := map[string]string{}
	for i, name := range rows[0] {
		cells[name] = rows[1][i]
	}
	if cells["id"] != held.ID {
		for i, name := range rows[0] {
			cells[name] = rows[2][i]
		}
	}
	for name, want := range map[string]string{
		"id": held.ID, "handle": handle, "saved_usd": "4", "reason": `the untreated traffic is well, "at last"`, "by": "ada", "approvers": "on-call",
		"flag_before": "", "quality_change": "", "estimated": "false", "treated_calls": "200", "alert_rule": "dual", "rule": "downgrade", "revision": "r1",
	} {
		require.Equal(t, want, cells[name], name)
	}
	require.Contains(t, cells["facts"], `"cost_ratio":3`)
	require.Contains(t, cells["flag_after"], `"kind":"route"`)
	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.SplitN(shell.good("decision", "export", "--format", "ndjson", "--status", "released"), "\n", 2)[0]), &object))
	require.Equal(t, "4", object["saved_usd"])
	require.Nil(t, object["quality_change"])
	require.Equal(t, 3.0, object["facts"].(map[string]any)["cost_ratio"])
	require.Len(t, object, len(decisionFields))

	// The ledger has each call once, however often it was measured.
	for range 2 {
		shell.good("decision", "measure", handle)
	}
	require.Regexp(t, `(?m)^TENANT .*\norg_42 +1 +0 +200 +200 +\$2\.00 +\$4\.00 +\$0\.00 +\$4\.00 +\$0\.00\n`, shell.good("report", "savings"))
	require.Equal(t, "action,decisions,unknown,treated_calls,compared_calls,cost_usd,saved_usd,spent_usd,net_usd,estimated_usd\ndowngrade,1,0,200,200,2,4,0,4,0\n",
		shell.good("report", "savings", "--by", "action", "--format", "csv"))
	require.JSONEq(t, `{"tenant_id":"org_42","decisions":1,"unknown":0,"treated_calls":200,"compared_calls":200,"cost_usd":"2","saved_usd":"4","spent_usd":"0","net_usd":"4","estimated_usd":"0"}`,
		shell.good("report", "savings", "--format", "json"))
	audit := storedAudit{store}
	all, err := audit.Decided(t.Context(), console.DecidedQuery{Status: "released", Limit: 5})
	require.NoError(t, err)
	require.Len(t, all, 1)
	require.Equal(t, "4", all[0].Worth.Saved.String())
	require.Contains(t, all[0].Story, "ada approved it after 1m")
	saved, err := audit.Savings(t.Context(), console.SavingsQuery{From: at.AddDate(0, 0, -2), To: at.AddDate(0, 0, 2), By: []string{"action"}})
	require.NoError(t, err)
	require.Len(t, saved, 1)
	require.Equal(t, "downgrade", saved[0].Action)
	require.Equal(t, "4", saved[0].Net.String())

	code, out, errs = shell.run("report", "savings", "--tenant", "org_7")
	require.Zero(t, code)
	require.Empty(t, out)
	require.Contains(t, errs, "no decision of this range has been measured")
	code, _, errs = shell.run("decision", "measure", "ffffff")
	require.Equal(t, exitUsage, code, errs)
}

// The documentation tells every column of the export, in order, and no other.
func TestExportIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/formats.md")
	require.NoError(t, err)
	_, after, found := strings.Cut(string(text), "\n## Decisions, exported\n")
	require.True(t, found)
	section, _, _ := strings.Cut(after, "\n## ")
	var documented, fields []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1])
	}
	for _, f := range decisionFields {
		fields = append(fields, f.name)
	}
	require.Equal(t, fields, documented)
}
