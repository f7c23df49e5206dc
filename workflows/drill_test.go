package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/workflows"
)

// drilled is what a drill of the tests showed.
var drilled = contract.DrillResult{
	Tenant: "flyball-drill", Model: "claude-3-sonnet", Began: start, Ended: start.Add(time.Hour), Verdict: contract.DrillFail, Reason: "an objective was missed",
	Measures: []contract.DrillMeasure{{Fault: "cost", Step: contract.DrillOpened, Took: time.Minute, SLO: 2 * time.Minute, At: start, Verdict: contract.DrillPass}},
}

// drilling drives a Drill under the id; a drill takes an hour.
func drilling(t *testing.T, id string) (env *testsuite.TestWorkflowEnvironment, asked *[]contract.DrillRequest, told *[]contract.Notice) {
	env = newEnv(t, nil)
	env.SetStartWorkflowOptions(startOptions(id))
	asked, told = &[]contract.DrillRequest{}, &[]contract.Notice{}
	env.OnActivity("RunDrill", anyArgs()...).After(time.Hour).Return(func(_ context.Context, r contract.DrillRequest) (contract.DrillResult, error) {
		*asked = append(*asked, r)
		return drilled, nil
	}).Maybe()
	env.OnActivity("Post", anyArgs()...).Return(func(_ context.Context, n contract.Notice) (contract.PostResult, error) {
		*told = append(*told, n)
		return contract.PostResult{}, nil
	}).Maybe()
	return env, asked, told
}

func TestDrillTellsItsReport(t *testing.T) {
	env, asked, told := drilling(t, contract.DrillID("flyball-drill"))
	at(env, time.Minute, func() {
		require.Equal(t, "running", query[contract.DrillState](t, env).Phase)
		require.Contains(t, details(t, env), "Nobody is woken")
	})
	env.ExecuteWorkflow(workflows.Drill, contract.DrillInput{}) // as temporal and tctl start it with {}
	require.NoError(t, env.GetWorkflowError())
	var result contract.DrillResult
	require.NoError(t, env.GetWorkflowResult(&result))
	require.Equal(t, drilled.Measures, result.Measures)
	require.Equal(t, contract.DrillInput{}.WithDefaults(), (*asked)[0].Input)
	require.True(t, (*asked)[0].Until.IsZero())
	require.Len(t, *told, 1)
	n := (*told)[0]
	require.Equal(t, contract.NoticeReport, n.Kind)
	require.Equal(t, contract.Drills, n.For())
	require.Contains(t, n.Title, "FAIL, 1 of 1 objectives met")
	require.Contains(t, n.Text, "| cost | opened | 1m0s | ≤ 2m0s | PASS |")
	require.Contains(t, details(t, env), "an objective was missed")
}

func TestDrillWaitsForItsWindow(t *testing.T) {
	env, asked, _ := drilling(t, contract.DrillID("flyball-drill")) // it is 03:00
	at(env, time.Minute, func() {
		state := query[contract.DrillState](t, env)
		require.Equal(t, "waiting", state.Phase)
		require.Equal(t, start.Add(23*time.Hour), state.Until)
		require.Contains(t, details(t, env), "begins at 2026-03-03 02:00:00 UTC")
	})
	env.ExecuteWorkflow(workflows.Drill, contract.DrillInput{Window: "02:00-02:45"})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, start.Add(23*time.Hour+45*time.Minute), (*asked)[0].Until.UTC())
}

func TestDrillIsCalledOffBeforeItsWindow(t *testing.T) {
	env, asked, told := drilling(t, contract.DrillID("flyball-drill"))
	at(env, time.Minute, env.CancelWorkflow)
	env.ExecuteWorkflow(workflows.Drill, contract.DrillInput{Window: "02:00-02:45"})
	var cancelled *temporal.CanceledError
	require.ErrorAs(t, env.GetWorkflowError(), &cancelled)
	require.Empty(t, *asked)
	require.Empty(t, *told)
}

func TestDrillOfAScheduleIsTheTenantsOnly(t *testing.T) {
	env, asked, told := drilling(t, "drill-schedule/weekly-2026-03-02T03:00:00Z")
	var under []string
	env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, _ converter.EncodedValues) {
		under = append(under, info.WorkflowExecution.ID)
	})
	env.ExecuteWorkflow(workflows.Drill, contract.DrillInput{Tenant: "flyball-drill-eu", Schedule: "weekly"})
	require.NoError(t, env.GetWorkflowError())
	require.Equal(t, []string{"drill/flyball-drill-eu"}, under)
	require.Len(t, *asked, 1, "it runs as the tenant's drill alone")
	require.Len(t, *told, 1)
	var result contract.DrillResult
	require.NoError(t, env.GetWorkflowResult(&result))
	require.Equal(t, drilled.Verdict, result.Verdict)
}

func TestDrillRefusesAnotherTenant(t *testing.T) {
	for _, in := range []contract.DrillInput{{Tenant: "org_42"}, {Tenant: "flyball-drills"}, {Factor: 1000}, {Faults: []string{"volume"}}, {Window: "25:00-26:00"}, {Rate: 1000}} {
		env, asked, _ := drilling(t, contract.DrillID(in.Tenant))
		env.ExecuteWorkflow(workflows.Drill, in)
		var application *temporal.ApplicationError
		require.ErrorAs(t, env.GetWorkflowError(), &application)
		require.Equal(t, contract.ErrBadInput, application.Type())
		require.Empty(t, *asked)
	}
}
