package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/workflows"
)

var (
	sweeper   *activities.Sweeper
	telemetry *activities.Telemetry
	policies  *activities.Policy
	flags     *activities.Routing
	loops     *activities.Loop
	notify    *activities.Notify
	providers *activities.Provider
	rollbacks *activities.Rollback
	savings   *activities.Ledger
	trainer   *activities.Trainer
	drills    *activities.Drills
)

// start is when every test's clock starts.
var start = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)

var key = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}

// newEnv is a time-skipping environment in which every activity is registered and none is mocked yet.
// The fakes take the place of the workflows of their name.
func newEnv(t *testing.T, fakes map[string]any) *testsuite.TestWorkflowEnvironment {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(quiet{})
	env := suite.NewTestWorkflowEnvironment()
	env.SetStartTime(start)
	env.SetDetachedChildWait(false)
	env.SetTestTimeout(10 * time.Second)
	env.SetWorkerOptions(worker.Options{
		DeadlockDetectionTimeout: 30 * time.Second, Interceptors: []interceptor.WorkerInterceptor{&summaries{t: t}},
	})
	for name, w := range map[string]any{
		contract.Sweep: workflows.Sweep, contract.AlertLoop: workflows.AlertLoop, contract.Incident: workflows.Incident,
		contract.Decision: workflows.Decision, contract.Autonomy: workflows.Autonomy, contract.Group: workflows.Group,
		contract.Calibration: workflows.Calibration, contract.Effects: workflows.Effects, contract.Drill: workflows.Drill,
		contract.RouterTraining: workflows.RouterTraining,
	} {
		if fake := fakes[name]; fake != nil {
			w = fake
		}
		env.RegisterWorkflowWithOptions(w, workflow.RegisterOptions{Name: name})
	}
	for _, a := range []any{sweeper, telemetry, policies, flags, loops, notify, providers, rollbacks, savings, drills, trainer} {
		env.RegisterActivity(a)
	}
	return env
}

// quiet drops the environment's log.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// tuning is that of real time.
var tuning = contract.NewTuning(1)

// finding is what a sweep tells at a time.
func finding(at time.Time, level detect.Level) detect.Finding {
	return detect.Finding{
		Key: key, Tick: at.UnixMilli(), EvaluatedAt: at, Revision: "r1",
		Verdict: detect.Verdict{Level: level, Rule: "dual", Reason: "cost × 3.00 and quality × 0.80"},
		Facts: detect.Facts{
			Tenant: key.Tenant, Model: key.Model, CostKnown: true, CostUSD: 0.012, CostBaseline: 0.004, CostRatio: 3,
			QualityKnown: true, Quality: 0.7, QualityBaseline: 0.87, QualityRatio: 0.8,
		},
	}
}

// at runs f when the workflow's clock has advanced by d.
func at(env *testsuite.TestWorkflowEnvironment, d time.Duration, f func()) {
	env.RegisterDelayedCallback(f, d)
}

// update sends an update and returns a place where its outcome appears.
func update(env *testsuite.TestWorkflowEnvironment, name, id string, arg any) *outcome {
	o := &outcome{}
	env.UpdateWorkflow(name, id, o, arg)
	return o
}

// outcome records what became of an update.
type outcome struct {
	accepted bool
	rejected error
	result   any
	err      error
}

func (o *outcome) Accept()          { o.accepted = true }
func (o *outcome) Reject(err error) { o.rejected = err }
func (o *outcome) Complete(result any, err error) {
	o.result, o.err = result, err
}

// query asks the workflow for its state.
func query[T any](t *testing.T, env *testsuite.TestWorkflowEnvironment) (state T) {
	t.Helper()
	answer, err := env.QueryWorkflow(contract.State)
	require.NoError(t, err)
	require.NoError(t, answer.Get(&state))
	return state
}

// provable is the plan of a key with enough traffic, unprovable that of one without.
var (
	provable = contract.RolloutPlan{
		PerSecond: 5, Plan: routing.PlanRollout(5, tuning.Limits),
		Baseline: detect.Baseline{Key: key, LnCost: 22, Quality: 0.87, CostBuckets: 100, QualityBuckets: 100},
	}
	unprovable = contract.RolloutPlan{PerSecond: 0.01, Plan: routing.PlanRollout(0.01, tuning.Limits)}
)

// anyArgs matches an activity with one argument.
func anyArgs() []any { return []any{mock.Anything, mock.Anything} }

// dataConverter reads what continue-as-new carries.
var dataConverter = converter.GetDefaultDataConverter()

// startOptions give a workflow the id that it has in earnest.
func startOptions(id string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: id, TaskQueue: contract.TaskQueue}
}

// anyString matches any argument of a mocked signal.
const anyString = mock.Anything

// accepts stands in for the activity that accepts a level.
func accepts(l *keyLoop, accept func(contract.AcceptLevelActivityRequest) (contract.AcceptLevelResult, error)) {
	l.OnActivity("AcceptLevel", anyArgs()...).Return(func(_ context.Context, r contract.AcceptLevelActivityRequest) (contract.AcceptLevelResult, error) {
		return accept(r)
	})
}
