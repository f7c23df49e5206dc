// Package workers runs Flyball's side of Temporal: it registers the workflows and activities, sees to
// the search attributes, and starts the sweep and the watch on calls that would fall back.
package workers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/drill"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/workflows"
)

// Store is what the workers read and write: package clickhouse.
type Store interface {
	activities.SweepStore
	activities.EvidenceStore
	activities.RolloutStore
	activities.AuditStore
	activities.BaselineStore
	activities.LedgerStore
	backtest.ShadowStore
	activities.LevelStore
	activities.CaseStore
	activities.TrainingStore
}

// Flags is where flags are kept: package redis.
type Flags interface {
	activities.FlagStore
	activities.FlagEpoch
	activities.TrustStore
}

// Options are what a worker stands on. All fields but the last seven are required.
type Options struct {
	Client    client.Client
	Namespace string // that the client speaks to
	Store     Store
	Flags     Flags
	Policies  func() *policy.Set
	Logger    *slog.Logger
	Tuning    contract.Tuning

	Shards      int               // of the sweep; zero is one
	SweepEvery  time.Duration     // between two ticks, and between two looks at a rollout; zero is five seconds
	StatusPages map[string]string // provider → address of its statuspage.io summary.json; nil is StatusPages()
	Router      activities.Router // of notices to people; nil: the log and the inbox alone
	Rollbacks   activities.RollbackHooks
	Drills      Drills
	Shadow      func() *policy.Set // a second set, judged and never acted upon; nil: there is none
	Embedding   router.Embedding   // by which the predictor of quality reads prompts; the zero value: by n-grams
}

// Drills say where the calls of drills are sent.
type Drills struct {
	Ingest string // address of ingest and gateway
	Token  string // trusted for all tenants; empty where they are open, on loopback
}

// StatusPages are the status pages of the providers that have a statuspage.io one.
func StatusPages() map[string]string {
	return map[string]string{
		"anthropic": "https://status.anthropic.com/api/v2/summary.json",
		"openai":    "https://status.openai.com/api/v2/summary.json",
		"cohere":    "https://status.cohere.com/api/v2/summary.json",
		"groq":      "https://groqstatus.com/api/v2/summary.json",
		"deepseek":  "https://status.deepseek.com/api/v2/summary.json",
	}
}

// Dial connects to Temporal and waits until it answers.
func Dial(ctx context.Context, address, namespace string, logger *slog.Logger) (client.Client, error) {
	c, err := client.DialContext(ctx, client.Options{
		HostPort: address, Namespace: namespace, Logger: log.NewStructuredLogger(logger),
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to Temporal at %s, namespace %s: %w", address, namespace, err)
	}
	return c, nil
}

// The bounds on one worker process. A rollout under way holds one activity for as long as it lasts.
const (
	maxActivities = 1000
	stopTimeout   = 10 * time.Second
)

// Run works until ctx ends or the worker fails for good, and starts the sweep if it does not run yet.
func Run(ctx context.Context, o Options) error {
	if err := o.Tuning.Validate(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	if err := EnsureSearchAttributes(ctx, o.Client, o.Namespace); err != nil {
		return err
	}
	failed := make(chan error, 1)
	w := worker.New(o.Client, contract.TaskQueue, worker.Options{
		MaxConcurrentActivityExecutionSize: maxActivities,
		WorkerStopTimeout:                  stopTimeout,
		OnFatalError: func(err error) {
			select {
			case failed <- err:
			default:
			}
		},
	})
	Register(w, o)
	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop()
	if err := errors.Join(startSweeps(ctx, o), startFallback(ctx, o), scheduleCalibrations(ctx, o), scheduleTraining(ctx, o)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("working for Temporal: %w", err)
	}
}

// registry is what Register fills: a worker, or a replayer in tests.
type registry interface {
	worker.WorkflowRegistry
	worker.ActivityRegistry
}

// Register gives a worker every workflow and activity.
func Register(r registry, o Options) {
	RegisterWorkflows(r)
	pages := o.StatusPages
	if pages == nil {
		pages = StatusPages()
	}
	loop := &activities.Loop{Client: o.Client, Log: o.Logger}
	r.RegisterActivity(&activities.Sweeper{Store: o.Store, Set: o.Policies, Loops: loop, Flags: o.Flags, Log: o.Logger, Every: o.SweepEvery, Shadow: o.Shadow, Shadows: o.Store})
	r.RegisterActivity(&activities.Telemetry{Evidence: o.Store, Rollouts: o.Store, Audit: o.Store, Baselines: o.Store, Levels: o.Store, Log: o.Logger, Poll: o.SweepEvery})
	r.RegisterActivity(&activities.Ledger{Store: o.Store})
	r.RegisterActivity(&activities.Trainer{Store: o.Store, Embedding: o.Embedding})
	r.RegisterActivity(&activities.Policy{Set: o.Policies, Rollback: o.Rollbacks.Has})
	r.RegisterActivity(&activities.Rollback{Client: &http.Client{}, Hooks: o.Rollbacks})
	r.RegisterActivity(&activities.Routing{Flags: o.Flags, Log: o.Logger})
	r.RegisterActivity(loop)
	r.RegisterActivity(&activities.Provider{Client: &http.Client{}, Pages: pages, Of: func(model string) string {
		tier, _ := o.Policies().Tradeoff().Tier(model)
		return tier.Provider
	}})
	r.RegisterActivity(&activities.Drills{Runner: &drill.Runner{
		Traffic: func(in contract.DrillInput) drill.Traffic {
			return drill.NewPlant(in, o.Drills.Ingest, o.Drills.Token, o.Logger)
		},
		Loop: &drill.Temporal{Client: o.Client, Ask: loop.AskRecalibration}, Baselines: o.Store, Log: o.Logger,
	}})
	r.RegisterActivity(&activities.Fallbacks{Store: o.Store, Set: o.Policies, Loops: loop, Trust: o.Flags, Log: o.Logger, Tuning: o.Tuning, Every: o.SweepEvery})
	r.RegisterActivity(&activities.Notify{Router: o.Router, Mutes: activities.NewMutes(o.Client, time.Now), Log: o.Logger})
}

// RegisterWorkflows registers every workflow under its name in package contract.
func RegisterWorkflows(r worker.WorkflowRegistry) {
	r.RegisterWorkflow(workflows.Sweep)
	r.RegisterWorkflow(workflows.AlertLoop)
	r.RegisterWorkflow(workflows.Incident)
	r.RegisterWorkflow(workflows.Group)
	r.RegisterWorkflow(workflows.Decision)
	r.RegisterWorkflow(workflows.Effects)
	r.RegisterWorkflow(workflows.Autonomy)
	r.RegisterWorkflow(workflows.Calibration)
	r.RegisterWorkflow(workflows.Drill)
	r.RegisterWorkflow(workflows.Fallback)
	r.RegisterWorkflow(workflows.RouterTraining)
}

// startSweeps starts the sweep of every shard, and tells one that runs already the tuning of now.
func startSweeps(ctx context.Context, o Options) error {
	shards := max(o.Shards, 1)
	var failed []error
	for shard := range shards {
		_, err := o.Client.SignalWithStartWorkflow(ctx, contract.SweepID(shard), contract.Retune, contract.RetuneMessage{Shards: shards, Tuning: o.Tuning},
			client.StartWorkflowOptions{
				TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
				StaticSummary: fmt.Sprintf("evaluates every key of shard %d of %d", shard, shards),
			}, contract.Sweep, contract.SweepInput{Shard: shard, Shards: shards, Tuning: o.Tuning})
		if err != nil {
			failed = append(failed, fmt.Errorf("starting the sweep of shard %d: %w", shard, err))
		}
	}
	return errors.Join(failed...)
}

// startFallback starts what has calls that would fall back put to people, unless it runs already.
func startFallback(ctx context.Context, o Options) error {
	_, err := o.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: contract.FallbackID, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            "has calls that would fall back put to people, until they trust the rule",
	}, contract.Fallback, contract.FallbackInput{})
	if err != nil {
		return fmt.Errorf("starting the watch on calls that would fall back: %w", err)
	}
	return nil
}
