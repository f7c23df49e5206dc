package gateway

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The recorder's pace and its bounds. A span takes about a kilobyte.
const (
	recordBatch  = 2000
	recordLimit  = 200_000 // calls that are not durable yet, beyond which new ones are refused
	recordGather = 20 * time.Millisecond
	recordRetry  = 250 * time.Millisecond
	recordSlow   = 5 * time.Second
	recordHeard  = 32 << 20        // bytes of texts that wait, beyond which calls go without theirs
	recordLast   = 8 * time.Second // for what is left when the gateway stops; below the ten seconds after which a container is killed
)

// recorder takes the telemetry of calls that have ended to the spool. Whoever records never waits: what the spool does
// not take now is kept and tried again. The bound on that is kept at the other end, where new calls are let in.
type recorder struct {
	accept func(context.Context, []usage.Span, []ingest.Said) error
	settle func(id string, cost usage.PicoUSD, durable time.Time) // once it is durable, and not before
	now    func() time.Time
	log    *slog.Logger

	mu    sync.Mutex
	queue []usage.Span
	said  []ingest.Said // one for each of the queue
	heard int64         // bytes of texts in it
	wake  chan struct{}

	waiting, durable, refused atomic.Int64
	failing                   atomic.Pointer[string]
}

// add records calls.
func (r *recorder) add(spans ...usage.Span) {
	r.waiting.Add(int64(len(spans)))
	r.mu.Lock()
	r.queue = append(r.queue, spans...)
	r.said = append(r.said, make([]ingest.Said, len(spans))...)
	r.mu.Unlock()
	r.rouse()
}

// addHeard records a call with what was said in it, where that may still be kept.
func (r *recorder) addHeard(span usage.Span, said ingest.Said) {
	r.waiting.Add(1)
	r.mu.Lock()
	if size := int64(len(said.Input) + len(said.Output)); r.heard+size > recordHeard {
		said = ingest.Said{}
	} else {
		r.heard += size
	}
	r.queue, r.said = append(r.queue, span), append(r.said, said)
	r.mu.Unlock()
	r.rouse()
}

func (r *recorder) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// full reports whether so much waits that no further calls should be made.
func (r *recorder) full() bool { return r.waiting.Load() >= recordLimit }

// run takes what is recorded to the spool until ctx ends, and then what is left.
func (r *recorder) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.wake:
			wait(ctx, recordGather) // one fsync for all that end meanwhile
			r.flush(ctx)
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordLast)
	defer cancel()
	r.flush(last)
	if left := r.waiting.Load(); left > 0 {
		r.log.Error("The telemetry of calls is lost: the spool takes none; calls with a budget are recovered from its journal", "calls", left)
	}
}

// flush goes on until nothing waits or ctx ends.
func (r *recorder) flush(ctx context.Context) {
	for {
		r.mu.Lock()
		batch := r.queue[:min(len(r.queue), recordBatch)]
		said := r.said[:len(batch)]
		r.mu.Unlock()
		if len(batch) == 0 || !r.store(ctx, batch, said) {
			return
		}
		r.mu.Lock()
		for i := range said {
			r.heard -= int64(len(said[i].Input) + len(said[i].Output))
		}
		clear(batch)
		clear(said)
		if r.queue, r.said = r.queue[len(batch):], r.said[len(batch):]; len(r.queue) == 0 {
			r.queue, r.said = nil, nil
		}
		r.mu.Unlock()
		r.waiting.Add(-int64(len(batch)))
	}
}

// store makes a batch durable, however long it takes, and settles it. It reports false when ctx ended first.
func (r *recorder) store(ctx context.Context, batch []usage.Span, said []ingest.Said) bool {
	for pause := recordRetry; ; pause = min(2*pause, recordSlow) {
		err := r.accept(ctx, batch, said)
		switch {
		case err == nil:
			r.done(batch)
			if r.failing.Swap(nil) != nil {
				r.log.Info("The spool takes the telemetry of calls again")
			}
			return true
		case errors.Is(err, ingest.ErrRecord) && len(batch) > 1:
			for i := range batch { // all are refused for one: find it
				if !r.store(ctx, batch[i:i+1], said[i:i+1]) {
					return false
				}
			}
			return true
		case errors.Is(err, ingest.ErrRecord):
			r.refused.Add(1)
			r.log.Error("The telemetry of a call is refused", "trace", batch[0].TraceID, "span", batch[0].SpanID, "error", err)
			r.done(batch)
			return true
		}
		why := err.Error()
		if r.failing.Swap(&why) == nil && ctx.Err() == nil {
			r.log.Warn("The spool does not take the telemetry of calls; it is kept and tried again", "error", err)
		}
		if wait(ctx, pause); ctx.Err() != nil {
			return false
		}
	}
}

func (r *recorder) done(batch []usage.Span) {
	r.durable.Add(int64(len(batch)))
	now := r.now()
	for i := range batch {
		r.settle(batch[i].TraceID+"/"+batch[i].SpanID, batch[i].Cost, now)
	}
}
