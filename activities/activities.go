// Package activities is the workflows' hands: thin methods that call one internal package and say
// whether an error is worth another try. Each struct holds the dependencies of one side of the
// system; its fields are set once, before the worker starts.
package activities

import (
	"context"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
)

// WatchFor is how long a watching activity runs before it hands back to its workflow, which starts
// the next. It bounds what one history event stands for, and lets new code take over.
const WatchFor = time.Hour

// HeartbeatTimeout is how long a watching activity may be silent before another worker gets it: the
// longest gap in the sweep that a dead worker may cause.
const HeartbeatTimeout = 15 * time.Second

// heartbeatEvery leaves room for two lost beats.
const heartbeatEvery = 5 * time.Second

// badInput is an error that no retry can mend.
func badInput(message string, cause error) error {
	return temporal.NewNonRetryableApplicationError(message, contract.ErrBadInput, cause)
}

// stopping is closed when the worker is asked to stop, so that watching activities hand over at once
// instead of being missed at the heartbeat timeout.
func stopping(ctx context.Context) <-chan struct{} { return activity.GetWorkerStopChannel(ctx) }

// errStopping is what a watching activity returns then: the server gives it to another worker.
func errStopping() error {
	return temporal.NewApplicationErrorWithOptions("the worker is stopping; another takes over", "WorkerStopping",
		temporal.ApplicationErrorOptions{Category: temporal.ApplicationErrorCategoryBenign, NextRetryDelay: time.Second})
}

// ended says why a watching activity has to end; nil while it has not.
func ended(ctx context.Context) error {
	select {
	case <-stopping(ctx):
		return errStopping()
	default:
		return ctx.Err()
	}
}
