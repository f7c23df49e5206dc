// Package gateway answers, per call, which model to use and whether to score it. It decides over a
// snapshot of the flags in memory and asks no other system while a caller waits; it hides how the
// snapshot is kept fresh, and that it may be stale.
package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Flags is where the routing flags are kept: Redis.
type Flags interface {
	// Revision is cheap; it changes whenever a flag does.
	Revision(ctx context.Context) (routing.Revision, error)
	// Flags are all flags and a revision that is not newer than they are.
	Flags(ctx context.Context) ([]routing.Flag, routing.Revision, error)
	// Subscribe calls changed when the flags may have changed, until ctx ends or the connection fails.
	Subscribe(ctx context.Context, changed func()) error
}

// SampleRate is the share of a key's calls of a task to score while no flag asks for more, and the rule that says so.
type SampleRate func(key usage.Key, task string) (rate float64, rule string)

// Options is all that a gateway needs; every field is required but Fallbacks.
type Options struct {
	Flags      Flags
	Prices     *pricing.Book
	SampleRate SampleRate
	Logger     *slog.Logger
	Now        func() time.Time
	Fallbacks  *Fallbacks // nil: flags alone decide
}

// Gateway decides over its last snapshot. Make one with New, and keep Run running beside the
// handler.
type Gateway struct {
	o         Options
	snapshot  atomic.Pointer[routing.Snapshot]
	confirmed atomic.Int64 // unix nanoseconds of the last time that the snapshot was known to be current
}

// New returns a gateway that obeys no flags until Run has read them.
func New(o Options) *Gateway {
	g := &Gateway{o: o}
	g.snapshot.Store(&routing.Snapshot{})
	g.confirmed.Store(o.Now().UnixNano())
	return g
}

// The pace of the snapshot: how often the revision is read, how long a read may take, how often the
// flags are read though the revision stands still (a writer may have died before it announced), and
// from which age on answers say that they rest on old flags.
const (
	pollEvery   = time.Second
	readWithin  = 2 * time.Second
	rereadEvery = 30 * time.Second
	staleAfter  = 3 * time.Second
)

// Run keeps the snapshot fresh until ctx ends, which is not an error. While the store is away the
// last snapshot stays in force.
func (g *Gateway) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.subscribe(ctx, changed) })
	group.Go(func() error { return g.poll(ctx, changed) })
	return group.Wait()
}

// subscribe turns notices of changes into at most one waiting token. A failed subscription only
// costs speed: the poll finds every change.
func (g *Gateway) subscribe(ctx context.Context, changed chan<- struct{}) error {
	for ctx.Err() == nil {
		err := g.o.Flags.Subscribe(ctx, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
		if ctx.Err() == nil {
			g.o.Logger.WarnContext(ctx, "the subscription to flags ended; polling goes on", "error", err)
			wait(ctx, pollEvery)
		}
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (g *Gateway) poll(ctx context.Context, changed <-chan struct{}) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var lastRead time.Time
	away := false
	for {
		read, err := g.refresh(ctx, time.Since(lastRead) >= rereadEvery)
		if read {
			lastRead = time.Now()
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !away:
			g.o.Logger.WarnContext(ctx, "flags cannot be read; the last ones stay in force", "error", err)
		case err == nil && away:
			g.o.Logger.InfoContext(ctx, "flags can be read again")
		}
		away = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-changed:
		}
	}
}

// refresh reads the flags when their revision has changed, or anyway when reread is set, and
// reports whether it did.
func (g *Gateway) refresh(ctx context.Context, reread bool) (read bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, readWithin)
	defer cancel()
	began := g.o.Now()
	if !reread {
		revision, err := g.o.Flags.Revision(ctx)
		if err != nil {
			return false, fmt.Errorf("reading the flags' revision: %w", err)
		}
		if revision == g.snapshot.Load().Revision {
			g.confirmed.Store(began.UnixNano())
			return false, nil
		}
	}
	flags, revision, err := g.o.Flags.Flags(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the flags: %w", err)
	}
	g.snapshot.Store(routing.NewSnapshot(flags, revision))
	g.confirmed.Store(began.UnixNano())
	return true, nil
}

// stale is how long ago the snapshot was last known to be current.
func (g *Gateway) stale(now time.Time) time.Duration {
	return max(0, now.Sub(time.Unix(0, g.confirmed.Load())))
}

// Handler serves /v1/sampling and /v1/flags.
func (g *Gateway) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/sampling", g.sampling)
	mux.HandleFunc("GET /v1/flags", g.flags)
	return mux
}
