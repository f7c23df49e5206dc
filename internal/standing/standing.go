// Package standing tells ingest, from memory, what an evaluator's score counts for and what it is on the scale of
// baselines. It hides that other processes change that, and that the store may be away.
package standing

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Store is where records are kept: the latest of each version of an evaluator, the newest first.
type Store interface {
	EvaluatorHistory(ctx context.Context) ([]contract.EvaluatorRecord, error)
}

const (
	// refreshEvery is how often records are read.
	refreshEvery = 15 * time.Second
	// patience bounds what the store is waited for.
	patience = 10 * time.Second
)

// Lead is how long before a record's Since it must be stored, so that every ingest knows of it in time.
const Lead = 2 * time.Minute

// Registry is the records as they were last read. It is safe for concurrent use.
type Registry struct {
	store Store
	log   *slog.Logger
	known atomic.Pointer[map[version][]contract.EvaluatorRecord]
}

type version struct{ evaluator, version string }

// New returns a registry that knows of no record before the first Refresh.
func New(store Store, log *slog.Logger) *Registry {
	r := &Registry{store: store, log: log}
	r.known.Store(&map[version][]contract.EvaluatorRecord{})
	return r
}

// Apply writes into the score what its evaluator counted for at the score's own time. People's ratings, and those of
// evaluators that nobody has spoken of by then, stay as they came. It never waits.
func (r *Registry) Apply(q *usage.Quality) {
	if q.Kind == "human" {
		return
	}
	for _, record := range (*r.known.Load())[version{q.Evaluator, q.EvaluatorVersion}] {
		if record.Since.After(q.Timestamp) {
			continue
		}
		q.Aside = record.Standing != contract.Counting
		if len(record.Mapping.From) > 0 {
			q.Mapped, q.Calibrated = true, record.Mapping.Apply(q.Score)
		}
		return
	}
}

// Run refreshes the records until ctx ends. While the store is away the last ones stay.
func (r *Registry) Run(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := r.Refresh(ctx)
		if err != nil && !away && ctx.Err() == nil {
			r.log.WarnContext(ctx, "What evaluators count for stays as it was", "error", err)
		}
		away = err != nil
	}
}

// Refresh reads the records. On an error the last ones stay.
func (r *Registry) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	records, err := r.store.EvaluatorHistory(ctx)
	if err != nil {
		return err
	}
	known := map[version][]contract.EvaluatorRecord{}
	for _, record := range records {
		v := version{record.Evaluator, record.Version}
		known[v] = append(known[v], record)
	}
	r.known.Store(&known)
	return nil
}
