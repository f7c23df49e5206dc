package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/activities"
)

// The activities by the structs that hold their dependencies, for type-checked references only.
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
	drills    *activities.Drills
	fallbacks *activities.Fallbacks
	trainer   *activities.Trainer
)

// attempt is how long one try of a quick activity may take. A worker that dies in the middle costs
// its incident no more than this.
const attempt = 15 * time.Second

// evidenceWithin bounds the wait for a fact that an incident can do without: what cannot be read in
// time is unknown, and the runbook goes on.
const evidenceWithin = time.Minute

// asking is the context of an activity whose answer is useful but not needed.
func asking(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    attempt,
		ScheduleToCloseTimeout: evidenceWithin,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 10 * time.Second},
		Summary:                summary,
	})
}

// doing is the context of an activity that must come to pass: it is tried until it does, or until
// it refuses.
func doing(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: attempt,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 15 * time.Second},
		Summary:             summary,
	})
}

// measuring is doing for a question that reads all calls of a decision.
func measuring(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 5 * time.Minute,
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: 5 * time.Second, MaximumInterval: time.Minute},
		Summary:             summary,
	})
}

// watching is the context of an activity that runs long and beats its heart.
func watching(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 2 * activities.WatchFor,
		HeartbeatTimeout:    activities.HeartbeatTimeout,
		WaitForCancellation: true, // so that what it has seen so far comes back
		RetryPolicy:         &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 10 * time.Second},
		Summary:             summary,
	})
}

// callWebhookWithin is how long an approved rollback is tried for: a service that is down for longer is not
// rolled back by its webhook, and a person has to.
const callWebhookWithin = 5 * time.Minute

// calling is the context of a webhook's call, which the webhook may refuse for good.
func calling(ctx workflow.Context, summary string) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout:    attempt,
		ScheduleToCloseTimeout: callWebhookWithin,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: 30 * time.Second},
		Summary:                summary,
	})
}
