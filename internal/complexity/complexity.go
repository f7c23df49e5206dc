// Package complexity keeps what calls of each task count for: it takes scores, or what they are worked out from,
// and tells ingest from memory. It hides how a task's score follows from people's times when others' change,
// and that the store may be away.
package complexity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/kpi"
)

// Store is where scores are kept, one in force per tenant and task.
type Store interface {
	SetComplexity(ctx context.Context, scores []kpi.TaskScore) error
	Complexity(ctx context.Context) ([]kpi.TaskScore, error)
}

const (
	// refreshEvery is how often scores are read that another process may have set.
	refreshEvery = time.Minute
	// patience bounds what the store is waited for: what else wants to change the scores waits too.
	patience = 10 * time.Second
	// maxTasks bounds the tasks of one tenant, and those for all: made-up names must not fill the memory.
	maxTasks = 10_000
)

// errTooMany says that a tenant has too many tasks.
var errTooMany = errors.New("too many tasks")

// Scores are the scores in force. It is safe for concurrent use.
type Scores struct {
	store Store
	log   *slog.Logger
	now   func() time.Time

	changing sync.Mutex // one change or refresh at a time
	known    atomic.Pointer[map[taskOf]float64]
}

type taskOf struct{ tenant, task string }

// New returns scores of which none is known before the first Refresh.
func New(store Store, log *slog.Logger, now func() time.Time) *Scores {
	s := &Scores{store: store, log: log, now: now}
	s.known.Store(&map[taskOf]float64{})
	return s
}

// Of is the score of a tenant's task: the tenant's own, else that for all; 0 when there is none. It never waits.
func (s *Scores) Of(tenant, task string) float64 {
	known := *s.known.Load()
	if score, ok := known[taskOf{tenant, task}]; ok {
		return score
	}
	return known[taskOf{"", task}]
}

// Run refreshes the scores every minute until ctx ends. While the store is away the last ones stay.
func (s *Scores) Run(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.Refresh(ctx)
		if err != nil && !away && ctx.Err() == nil {
			s.log.WarnContext(ctx, "The complexity of tasks stays as it was", "error", err)
		}
		away = err != nil
	}
}

// Refresh reads the scores in force. On an error the last ones stay.
func (s *Scores) Refresh(ctx context.Context) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := s.store.Complexity(ctx)
	if err == nil {
		s.remember(all)
	}
	return err
}

func (s *Scores) remember(all []kpi.TaskScore) {
	known := make(map[taskOf]float64, len(all))
	for _, score := range all {
		known[taskOf{score.Tenant, score.Task}] = float64(score.Milli) / 1000
	}
	s.known.Store(&known)
}

// Set puts scores in force, in place of those of the same tenant and task, and works the others anew that come from
// people's times: the usual time may be another now. Of two processes that set scores at the same moment,
// one may not see the other's times; the next change makes up for it.
func (s *Scores) Set(ctx context.Context, scores []kpi.TaskScore) error {
	if len(scores) == 0 {
		return nil
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all, err := s.store.Complexity(ctx)
	if err != nil {
		return err
	}
	place, count := map[taskOf]int{}, map[string]int{}
	before := map[int]int64{}
	for i, score := range all {
		place[taskOf{score.Tenant, score.Task}] = i
		count[score.Tenant]++
		before[i] = score.Milli
	}
	for _, score := range scores {
		task := taskOf{score.Tenant, score.Task}
		if i, ok := place[task]; ok {
			all[i] = score
			delete(before, i)
			continue
		}
		place[task] = len(all)
		all = append(all, score)
		if count[score.Tenant]++; count[score.Tenant] > maxTasks {
			return fmt.Errorf("%w: tenant %q may have scores for %d", errTooMany, score.Tenant, maxTasks)
		}
	}
	kpi.ScoreTimes(all)
	var changed []kpi.TaskScore
	for i, score := range all {
		if was, stored := before[i]; !stored || was != score.Milli {
			changed = append(changed, score)
		}
	}
	if err := s.store.SetComplexity(ctx, changed); err != nil {
		return err
	}
	s.remember(all)
	return nil
}
