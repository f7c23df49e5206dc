package main

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/usage"
)

// calibrations is a Temporal with open calibrations.
type calibrations struct {
	*memory
	open    []string
	started contract.CalibrationInput
	asked   contract.RecalibrateRequest
	id      string
}

func (c *calibrations) ListWorkflow(context.Context, *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	page := &workflowservice.ListWorkflowExecutionsResponse{}
	for _, id := range c.open {
		page.Executions = append(page.Executions, &workflow.WorkflowExecutionInfo{Execution: &commonpb.WorkflowExecution{WorkflowId: id}})
	}
	return page, nil
}

func (c *calibrations) SignalWithStartWorkflow(_ context.Context, id, _ string, signal any, _ client.StartWorkflowOptions, _ any, args ...any) (client.WorkflowRun, error) {
	c.id, c.asked, c.started = id, signal.(contract.RecalibrateRequest), args[0].(contract.CalibrationInput)
	return nil, nil
}

func TestCalibrationByCommand(t *testing.T) {
	t.Parallel()
	weekly := contract.CalibrationID("") + "-2026-03-02T03:00:00Z"
	waits := func(tenant string, verdict string) contract.LevelDrift {
		return contract.LevelDrift{Key: usage.Key{Tenant: tenant, Model: "m"}, Measure: contract.CostMeasure, Verdict: verdict}
	}
	fresh := func() *calibrations {
		c := &calibrations{memory: newMemory(), open: []string{weekly, contract.EvaluatorsID}}
		c.states[weekly] = contract.CalibrationState{Drift: &contract.DriftReport{Refused: []contract.LevelDrift{waits("org_42", ""), waits("org_43", ""), waits("org_44", contract.Deny)}}}
		c.states[contract.EvaluatorsID] = contract.CalibrationState{Judges: true}
		return c
	}
	run := func(c *calibrations, args ...string) (int, string, string) {
		root := &cobra.Command{Use: "flyball", SilenceErrors: true, SilenceUsage: true}
		root.AddCommand(calibrationCommand(func(context.Context, string, string) (inbox.Temporal, func(), error) { return c, func() {}, nil }))
		var stdout, stderr bytes.Buffer
		root.SetArgs(append([]string{"calibration"}, args...))
		root.SetOut(&stdout)
		root.SetErr(&stderr)
		code := execute(t.Context(), root)
		return code, stdout.String(), stderr.String()
	}
	for name, test := range map[string]struct {
		args  []string
		code  int
		says  string
		asked *contract.DecideMovesRequest
	}{
		"a key": {
			[]string{"approve", "org_42/m", "--who", "ada", "--reason", "longer prompts"},
			0, "approve: 1 move of " + weekly,
			&contract.DecideMovesRequest{Verdict: contract.Approve, Tenant: "org_42", Model: "m", Who: "ada", Reason: "longer prompts"},
		},
		"a tenant's costs": {
			[]string{"deny", "org_43", "--measure", "cost", "--who", "ada", "--reason", "no"},
			0, "deny: 1 move",
			&contract.DecideMovesRequest{Verdict: contract.Deny, Tenant: "org_43", Measure: contract.CostMeasure, Who: "ada", Reason: "no"},
		},
		"all": {
			[]string{"approve", "--all", "--who", "ada", "--reason", "yes"},
			0, "approve: 2 moves",
			&contract.DecideMovesRequest{Verdict: contract.Approve, Who: "ada", Reason: "yes"},
		},
		"none":            {[]string{"approve", "org_44/m", "--who", "ada", "--reason", "yes"}, exitFailed, "no move of these waits", nil},
		"which":           {[]string{"approve", "--who", "ada", "--reason", "yes"}, exitUsage, "say which moves", nil},
		"both":            {[]string{"approve", "org_42", "--all", "--who", "ada", "--reason", "yes"}, exitUsage, "say which moves", nil},
		"why":             {[]string{"deny", "--all", "--who", "ada"}, exitUsage, "say why with --reason", nil},
		"another measure": {[]string{"deny", "--all", "--measure", "spend", "--who", "ada", "--reason", "no"}, exitUsage, "must be cost or quality", nil},
	} {
		c := fresh()
		code, out, errs := run(c, test.args...)
		require.Equal(t, test.code, code, "%s: %s", name, errs)
		require.Contains(t, out+errs, test.says, name)
		if test.asked == nil {
			require.Empty(t, c.updates, name)
			continue
		}
		require.Len(t, c.updates, 1, name)
		require.Equal(t, weekly, c.updates[0].WorkflowID)
		require.Equal(t, contract.Decide, c.updates[0].UpdateName)
		require.Equal(t, []any{*test.asked}, c.updates[0].Args, name)
	}

	c := fresh()
	code, out, _ := run(c, "show")
	require.Zero(t, code)
	require.Contains(t, out, weekly+"\n\nthe story")
	_, out, _ = run(c, "show", "--json")
	var shown []inbox.Calibration
	require.NoError(t, json.Unmarshal([]byte(out), &shown))
	require.Len(t, shown, 2)
	require.Equal(t, 2, shown[0].State.Drift.Open())

	code, out, _ = run(c, "run", "--tenant", "org_42", "--who", "ada", "--reason", "new prices")
	require.Zero(t, code)
	require.Contains(t, out, "calibration/org_42")
	require.Equal(t, "org_42", c.started.Tenant)
	require.Equal(t, contract.DefaultBounds, c.started.Bounds)
	require.Equal(t, contract.RecalibrateRequest{Who: "ada", Reason: "new prices"}, c.asked)
	code, _, _ = run(c, "run", "--evaluators", "--who", "ada")
	require.Zero(t, code)
	require.Equal(t, contract.EvaluatorsID, c.id)
	code, _, _ = run(c, "run", "--evaluators", "--tenant", "org_42")
	require.Equal(t, exitUsage, code)
	code, _, errs := run(c, "restore", "helpfulness", "1", "--who", "ada")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--reason")
}
