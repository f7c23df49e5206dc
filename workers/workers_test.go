package workers

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/policies"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errAway = errors.New("connection refused")

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// book is a worker that also notes what is registered with it.
type book struct {
	worker.Worker
	workflows, activities []string
	structs               []any
}

func (b *book) RegisterWorkflow(w any) {
	b.Worker.RegisterWorkflow(w)
	name := runtime.FuncForPC(reflect.ValueOf(w).Pointer()).Name()
	b.workflows = append(b.workflows, name[strings.LastIndex(name, ".")+1:])
}

func (b *book) RegisterActivity(a any) {
	b.Worker.RegisterActivity(a)
	b.structs = append(b.structs, a)
	for method := range reflect.TypeOf(a).Methods() {
		b.activities = append(b.activities, method.Name)
	}
}

type store struct{ Store }

type flags struct{ Flags }

type noticed struct{ activities.Router }

// registered is what a worker with these options registers. It never meets a server.
func registered(t *testing.T, o Options) *book {
	t.Helper()
	c, err := client.NewLazyClient(client.Options{Logger: log.NewStructuredLogger(silent())})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	set, err := policy.Compile(policies.Files)
	require.NoError(t, err)
	o.Client, o.Logger, o.Store, o.Flags = c, silent(), store{}, flags{}
	o.Policies = func() *policy.Set { return set }
	b := &book{Worker: worker.New(c, contract.TaskQueue, worker.Options{})}
	Register(b, o)
	return b
}

// Names stand in the histories of workflows that are under way: one that is not registered any more
// would leave them waiting.
func TestRegisterKeepsEveryName(t *testing.T) {
	b := registered(t, Options{})
	require.ElementsMatch(t, []string{
		contract.Sweep, contract.AlertLoop, contract.Incident, contract.Group, contract.Decision, contract.Autonomy, contract.Calibration,
		contract.Effects, contract.Drill, contract.Fallback, contract.RouterTraining,
	}, b.workflows)
	require.Subset(t, b.activities, []string{
		"SweepKeys",
		"Recalibrate", "MeasureDrift", "MoveLevels", "JudgeEvaluators",
		"FindChanges", "CompareCompletion", "PlanRollout", "AwaitRollout", "WriteReport", "RecordIncident", "RecordDecision",
		"ProposeAct",
		"ApplyFlag", "ReleaseFlag", "RenewFlags",
		"SetKeyFlag", "AskTrust", "TellTrust", "AskRecalibration",
		"CallRollback",
		"MeasureDecision",
		"CheckProvider",
		"Post",
		"RunDrill",
		"WatchFallbacks",
		"JudgeRouter", "TrainRouter", "ChangeRouter",
	})
}

func TestRegisterGivesActivitiesWhatTheyStandOn(t *testing.T) {
	hooks := activities.RollbackHooks{{Service: "support-bot"}}
	b := registered(t, Options{SweepEvery: time.Second, Tuning: contract.NewTuning(1), Router: noticed{}, Rollbacks: hooks, Shadow: func() *policy.Set { return nil }, Embedding: router.Embedding{Model: "e"}})
	require.Len(t, b.structs, 12)
	for _, s := range b.structs {
		fields := reflect.ValueOf(s).Elem()
		for field, value := range fields.Fields() {
			if !field.IsExported() {
				continue
			}
			require.False(t, value.IsZero(), "%T.%s is not set", s, field.Name)
		}
		switch s := s.(type) {
		case *activities.Sweeper:
			require.Equal(t, time.Second, s.Every)
		case *activities.Telemetry:
			require.Equal(t, time.Second, s.Poll)
		case *activities.Rollback:
			require.Equal(t, hooks, s.Hooks)
		case *activities.Policy:
			require.True(t, s.Rollback("support-bot"))
			require.False(t, s.Rollback("another"))
		case *activities.Notify:
			require.Equal(t, noticed{}, s.Router)
			require.Equal(t, silent(), s.Log, "the log is always told")
		case *activities.Provider:
			require.Equal(t, "anthropic", s.Of("claude-3-opus"))
			require.Empty(t, s.Of("somebody's own"))
			require.Equal(t, StatusPages(), s.Pages)
		}
	}
}

func TestRegisterTakesOtherStatusPages(t *testing.T) {
	pages := map[string]string{}
	for _, s := range registered(t, Options{StatusPages: pages}).structs {
		if p, ok := s.(*activities.Provider); ok {
			require.Equal(t, pages, p.Pages, "none at all are an option too")
		}
	}
}

// fakeClient is a Temporal client with its operator's side.
type fakeClient struct {
	client.Client
	operatorservice.OperatorServiceClient

	known           map[string]bool
	listErr, addErr error
	knownAfter      int // lists until what was added is known
	lists           int
	added           *operatorservice.AddSearchAttributesRequest

	started  map[string]contract.SweepInput
	told     map[string]contract.RetuneMessage
	startErr map[string]error
	executed *client.StartWorkflowOptions

	schedules *fakeSchedules
}

func (f *fakeClient) OperatorService() operatorservice.OperatorServiceClient { return f }

func (f *fakeClient) ListSearchAttributes(_ context.Context, r *operatorservice.ListSearchAttributesRequest, _ ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	if f.listErr != nil {
		return nil, f.listErr
	}
	if r.GetNamespace() != "prod" {
		return nil, errors.New("another namespace")
	}
	if f.lists++; f.added != nil && f.lists > f.knownAfter {
		for name := range f.added.GetSearchAttributes() {
			f.known[name] = true
		}
	}
	known := map[string]enums.IndexedValueType{}
	for name := range f.known {
		known[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	}
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: known}, nil
}

func (f *fakeClient) AddSearchAttributes(_ context.Context, r *operatorservice.AddSearchAttributesRequest, _ ...grpc.CallOption) (*operatorservice.AddSearchAttributesResponse, error) {
	f.added = r
	return &operatorservice.AddSearchAttributesResponse{}, f.addErr
}

func (f *fakeClient) SignalWithStartWorkflow(_ context.Context, id, signal string, arg any, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	if err := f.startErr[id]; err != nil {
		return nil, err
	}
	if signal != contract.Retune || workflow != contract.Sweep || o.TaskQueue != contract.TaskQueue {
		return nil, errors.New("not a sweep")
	}
	f.told[id], f.started[id] = arg.(contract.RetuneMessage), args[0].(contract.SweepInput)
	return nil, nil
}

// fakeSchedules keep schedules by their ids.
type fakeSchedules struct {
	client.ScheduleClient
	client.ScheduleHandle
	kept      map[string]*client.ScheduleOptions
	createErr error
	id        string // that a handle is of
	updated   map[string]client.ScheduleAction
}

func (f *fakeClient) ScheduleClient() client.ScheduleClient { return f.schedules }

func (f *fakeSchedules) Create(_ context.Context, o client.ScheduleOptions) (client.ScheduleHandle, error) {
	if f.createErr != nil {
		return nil, f.createErr
	}
	if f.kept[o.ID] != nil {
		return nil, temporal.ErrScheduleAlreadyRunning
	}
	f.kept[o.ID] = &o
	return f, nil
}

func (f *fakeSchedules) GetHandle(_ context.Context, id string) client.ScheduleHandle {
	return &fakeSchedules{id: id, kept: f.kept, updated: f.updated}
}

func (f *fakeSchedules) Update(_ context.Context, o client.ScheduleUpdateOptions) error {
	update, err := o.DoUpdate(client.ScheduleUpdateInput{Description: client.ScheduleDescription{Schedule: client.Schedule{Action: f.kept[f.id].Action}}})
	if err == nil {
		f.updated[f.id] = update.Schedule.Action
	}
	return err
}

func TestScheduleCalibrations(t *testing.T) {
	schedules := &fakeSchedules{kept: map[string]*client.ScheduleOptions{}, updated: map[string]client.ScheduleAction{}}
	o := Options{Client: &fakeClient{schedules: schedules}, Tuning: contract.NewTuning(1)}
	require.NoError(t, scheduleCalibrations(t.Context(), o))
	require.Len(t, schedules.kept, 2)
	weekly, monthly := schedules.kept[contract.CalibrationSchedule], schedules.kept[contract.EvaluatorsSchedule]
	require.Equal(t, enums.SCHEDULE_OVERLAP_POLICY_SKIP, weekly.Overlap)
	action := weekly.Action.(*client.ScheduleWorkflowAction)
	require.Equal(t, contract.CalibrationID(""), action.ID)
	require.Equal(t, contract.Calibration, action.Workflow)
	require.Equal(t, []any{contract.CalibrationInput{Tuning: o.Tuning, Bounds: contract.DefaultBounds}}, action.Args)
	action = monthly.Action.(*client.ScheduleWorkflowAction)
	require.Equal(t, contract.EvaluatorsID, action.ID)
	require.Equal(t, []any{contract.CalibrationInput{Tuning: o.Tuning, Evaluators: true}}, action.Args)
	require.Equal(t, []client.ScheduleRange{{Start: 1}}, monthly.Spec.Calendars[0].DayOfMonth)

	o.Tuning = contract.NewTuning(0.1)
	require.NoError(t, scheduleCalibrations(t.Context(), o), "those that are there go on")
	updated := schedules.updated[contract.CalibrationSchedule].(*client.ScheduleWorkflowAction)
	require.Equal(t, []any{contract.CalibrationInput{Tuning: o.Tuning, Bounds: contract.DefaultBounds}}, updated.Args, "with the tuning of now")

	schedules.createErr = errAway
	require.ErrorIs(t, scheduleCalibrations(t.Context(), o), errAway)
}

func TestScheduleTraining(t *testing.T) {
	schedules := &fakeSchedules{kept: map[string]*client.ScheduleOptions{}, updated: map[string]client.ScheduleAction{}}
	require.NoError(t, scheduleTraining(t.Context(), Options{Client: &fakeClient{schedules: schedules}}))
	weekly := schedules.kept[contract.RouterTrainingSchedule]
	require.Equal(t, enums.SCHEDULE_OVERLAP_POLICY_SKIP, weekly.Overlap)
	action := weekly.Action.(*client.ScheduleWorkflowAction)
	require.Equal(t, contract.RouterTrainingID, action.ID)
	require.Equal(t, contract.RouterTraining, action.Workflow)
	require.Equal(t, contract.TaskQueue, action.TaskQueue)
	hourly := schedules.kept[contract.RouterWatchSchedule].Action.(*client.ScheduleWorkflowAction)
	require.Equal(t, []any{contract.RouterTrainingInput{Watch: true}}, hourly.Args)
}

// all are every attribute that a namespace has to know.
func all() map[string]bool {
	known := map[string]bool{"SomebodyElses": true}
	for _, name := range contract.SearchAttributes() {
		known[name] = true
	}
	return known
}

func TestEnsureSearchAttributes(t *testing.T) {
	t.Run("adds nothing that is known", func(t *testing.T) {
		c := &fakeClient{known: all()}
		require.NoError(t, EnsureSearchAttributes(t.Context(), c, "prod"))
		require.Nil(t, c.added)
	})
	t.Run("adds what is missing, and waits until it can be used", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c := &fakeClient{known: all(), knownAfter: 5}
			delete(c.known, contract.AttrStep)
			delete(c.known, contract.AttrState)
			require.NoError(t, EnsureSearchAttributes(t.Context(), c, "prod"))
			require.Equal(t, "prod", c.added.GetNamespace())
			require.Equal(t, map[string]enums.IndexedValueType{
				contract.AttrStep: enums.INDEXED_VALUE_TYPE_KEYWORD, contract.AttrState: enums.INDEXED_VALUE_TYPE_KEYWORD,
			}, c.added.GetSearchAttributes())
			require.Equal(t, 6, c.lists)
		})
	})
	t.Run("waits no longer than half a minute", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			c := &fakeClient{known: all(), knownAfter: 1_000_000}
			delete(c.known, contract.AttrStep)
			err := EnsureSearchAttributes(t.Context(), c, "prod")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.ErrorContains(t, err, contract.AttrStep)
			require.Equal(t, began.Add(attributesWithin), time.Now())
		})
	})
	t.Run("says what an operator can run where it may not", func(t *testing.T) {
		c := &fakeClient{known: map[string]bool{}, addErr: errAway}
		err := EnsureSearchAttributes(t.Context(), c, "prod")
		require.ErrorIs(t, err, errAway)
		require.ErrorContains(t, err, "temporal operator search-attribute create --name FlyballTenant --type Keyword --name FlyballModel --type Keyword")
	})
	t.Run("fails without a list", func(t *testing.T) {
		require.ErrorIs(t, EnsureSearchAttributes(t.Context(), &fakeClient{listErr: errAway}, "prod"), errAway)
	})
}

func TestStartSweeps(t *testing.T) {
	tuning := contract.NewTuning(0.1)
	for name, tc := range map[string]struct {
		shards int
		want   []string
	}{
		"one unless told otherwise": {0, []string{contract.SweepID(0)}},
		"one for every shard":       {3, []string{contract.SweepID(0), contract.SweepID(1), contract.SweepID(2)}},
	} {
		t.Run(name, func(t *testing.T) {
			c := &fakeClient{started: map[string]contract.SweepInput{}, told: map[string]contract.RetuneMessage{}}
			require.NoError(t, startSweeps(t.Context(), Options{Client: c, Shards: tc.shards, Tuning: tuning}))
			require.Len(t, c.started, len(tc.want))
			for shard, id := range tc.want {
				require.Equal(t, contract.SweepInput{Shard: shard, Shards: len(tc.want), Tuning: tuning}, c.started[id])
				require.Equal(t, contract.RetuneMessage{Shards: len(tc.want), Tuning: tuning}, c.told[id], "one that runs already goes on with it")
			}
		})
	}
	t.Run("the others when one cannot be", func(t *testing.T) {
		c := &fakeClient{
			started: map[string]contract.SweepInput{}, told: map[string]contract.RetuneMessage{},
			startErr: map[string]error{contract.SweepID(0): errAway},
		}
		err := startSweeps(t.Context(), Options{Client: c, Shards: 2, Tuning: tuning})
		require.ErrorIs(t, err, errAway)
		require.ErrorContains(t, err, "starting the sweep of shard 0")
		require.Contains(t, c.started, contract.SweepID(1))
	})
}

func (f *fakeClient) ExecuteWorkflow(_ context.Context, o client.StartWorkflowOptions, _ any, _ ...any) (client.WorkflowRun, error) {
	f.executed = &o
	return nil, f.startErr[o.ID]
}

func TestStartFallback(t *testing.T) {
	c := &fakeClient{}
	require.NoError(t, startFallback(t.Context(), Options{Client: c}))
	require.Equal(t, contract.FallbackID, c.executed.ID)
	require.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, c.executed.WorkflowIDConflictPolicy, "one that runs already goes on")
	c.startErr = map[string]error{contract.FallbackID: errAway}
	require.ErrorIs(t, startFallback(t.Context(), Options{Client: c}), errAway)
}

func TestRunRefusesToBegin(t *testing.T) {
	t.Run("with a tuning that would spin", func(t *testing.T) {
		require.ErrorContains(t, Run(t.Context(), Options{}), "tuning.time_scale")
	})
	t.Run("without search attributes", func(t *testing.T) {
		require.ErrorIs(t, Run(t.Context(), Options{Client: &fakeClient{listErr: errAway}, Tuning: contract.NewTuning(1)}), errAway)
	})
}

func TestDialSaysWhereItFailed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Dial(ctx, "127.0.0.1:1", "prod", silent())
	require.ErrorContains(t, err, "connecting to Temporal at 127.0.0.1:1, namespace prod")
}

func TestStatusPages(t *testing.T) {
	for provider, page := range StatusPages() {
		require.True(t, strings.HasPrefix(page, "https://") && strings.HasSuffix(page, "/api/v2/summary.json"), provider)
	}
}
