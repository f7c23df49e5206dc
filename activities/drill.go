package activities

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/drill"
)

// Drills runs drills: package drill.
type Drills struct {
	Runner *drill.Runner
}

// Why a drill ends before its end.
var (
	errDrillStopped = errors.New("the worker that ran it was stopped")
	errDrillOff     = errors.New("it was called off")
)

// RunDrill runs a drill to its end, with a heartbeat that says where it stands. Cancelled, or with its worker stopping,
// it ends its faults, cleans up and says what was seen so far. After a worker's death the next one only cleans up
// behind it: half a measurement is none, and a drill that began anew would strike twice.
func (d *Drills) RunDrill(ctx context.Context, r contract.DrillRequest) (contract.DrillResult, error) {
	report, stop := beating(ctx)
	defer stop()
	if activity.GetInfo(ctx).Attempt > 1 {
		var last contract.DrillProgress
		if activity.HasHeartbeatDetails(ctx) {
			_ = activity.GetHeartbeatDetails(ctx, &last) // what cannot be read is lost with the worker
		}
		return d.Runner.Abandon(ctx, r.Input, last, report), nil
	}
	running, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	go func() {
		select {
		case <-stopping(ctx):
			end(errDrillStopped)
		case <-ctx.Done():
			end(errDrillOff)
		case <-running.Done():
		}
	}()
	return d.Runner.Run(running, r.Input, r.Until, report), nil
}

// beating beats the heart of an activity with what was reported last, however long the next report takes. It goes on
// beating when the activity is cancelled, which would else be called dead while it cleans up.
func beating(ctx context.Context) (report func(contract.DrillProgress), stop func()) {
	ctx = context.WithoutCancel(ctx)
	var last atomic.Pointer[contract.DrillProgress]
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticks := time.NewTicker(time.Second)
		defer ticks.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticks.C:
			}
			if p := last.Load(); p != nil {
				activity.RecordHeartbeat(ctx, *p)
			}
		}
	}()
	return func(p contract.DrillProgress) { last.Store(&p) }, func() { close(done); <-ended }
}
