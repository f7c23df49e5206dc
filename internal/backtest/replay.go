package backtest

import (
	"fmt"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Options say how a Replay goes through the past.
type Options struct {
	Sets        []*policy.Set // judged beside each other on the same observations
	Tuning      contract.Tuning
	Lag         time.Duration // how far the watermark is behind a tick
	Workers     int           // goroutines, between which keys are spread by tenant; 0 and 1: one
	Partial     bool          // the telemetry is only a part of all: nothing can be said of everybody's silence
	OneModel    bool          // it is not even all of a tenant: there are no pseudo-keys
	Deployments func(key usage.Key, from, to time.Time) []usage.Deployment
	Observed    func(now time.Time, o detect.Observation) // for tests; called from any goroutine
}

// Replay gives the courses of sets the ticks of the past, each with what was known then. Add what arrived since the
// tick before, in any order, then Tick; Finish ends it.
type Replay struct {
	o       Options
	seed    maphash.Seed
	shards  []*shard
	pending []batch
	arrived arrivals
	wait    sync.WaitGroup
	keys    atomic.Int64 // observed × ticks
}

// batch is what a shard gets for one tick.
type batch struct {
	now       time.Time
	arrivals  []detect.Arrival
	calls     int64                         // of everybody, in the longest window
	baselines map[usage.Key]detect.Baseline // new ones; nil: as before
}

// backlog is how many ticks a shard may be behind the reader: memory is bounded by that many ticks' arrivals.
const backlog = 16

// NewReplay begins one. Baselines are none until they are given.
func NewReplay(o Options) *Replay {
	o.Workers = max(o.Workers, 1)
	r := &Replay{o: o, seed: maphash.MakeSeed(), pending: make([]batch, o.Workers)}
	for i := range o.Workers {
		r.shards = append(r.shards, newShard(r, i))
	}
	for _, s := range r.shards {
		r.wait.Go(func() {
			for b := range s.batches {
				s.tick(b)
			}
		})
	}
	return r
}

func (r *Replay) shardOf(tenant string) int {
	if len(r.shards) == 1 {
		return 0
	}
	return int(maphash.String(r.seed, tenant) % uint64(len(r.shards)))
}

// Add takes in what became known before the next tick.
func (r *Replay) Add(a detect.Arrival) {
	if !usage.IsDrill(a.Key.Tenant) { // made-up calls must not hide that no others come
		r.arrived.add(a.Minute, a.Volume.Requests)
	}
	p := &r.pending[r.shardOf(a.Key.Tenant)]
	p.arrivals = append(p.arrivals, a)
}

// Baselines replaces the baselines from the next tick on. The map is read from then on.
func (r *Replay) Baselines(all map[usage.Key]detect.Baseline) {
	for i := range r.pending {
		r.pending[i].baselines = all
	}
}

// Tick judges every key at now.
func (r *Replay) Tick(now time.Time) {
	calls := r.arrived.window(now.Add(-r.o.Lag).Unix() / 60)
	if r.o.Partial && calls == 0 {
		calls = 1 // that others call is all that may be taken for granted
	}
	for i, s := range r.shards {
		p := r.pending[i]
		p.now, p.calls = now, calls
		s.batches <- p
		r.pending[i] = batch{}
	}
}

// Observed is how many times a key has been observed so far.
func (r *Replay) Observed() int64 { return r.keys.Load() }

// Result is what came of a Replay.
type Result struct {
	Changes   [][]Change // of each set, in the order of time within each key
	Observed  int64      // keys, each tick counted
	Keys      int        // that were ever observed
	Baselines BaselineUse
	Unjudged  int64 // times that a set could not be asked
}

// BaselineUse counts observations by the baseline that they were compared with.
type BaselineUse struct {
	Hour    int64 `json:"hour"`    // that of their own hour
	Older   int64 `json:"older"`   // the latest one before it that was stored then and is kept
	Missing int64 `json:"missing"` // none
}

// Finish waits for what is under way, and returns what came of it. The error is that of the first key that a set could
// not be asked about.
func (r *Replay) Finish() (Result, error) {
	for _, s := range r.shards {
		close(s.batches)
	}
	r.wait.Wait()
	result := Result{Changes: make([][]Change, len(r.o.Sets)), Observed: r.keys.Load()}
	var failed []error
	for _, s := range r.shards {
		for i, changes := range s.changes {
			result.Changes[i] = append(result.Changes[i], changes...)
		}
		result.Keys += len(s.ever)
		result.Baselines.Hour += s.use.Hour
		result.Baselines.Older += s.use.Older
		result.Baselines.Missing += s.use.Missing
		result.Unjudged += s.unjudged
		if s.failed != nil {
			failed = append(failed, s.failed)
		}
	}
	if len(failed) > 0 {
		return result, fmt.Errorf("facts that a set could not judge: %d; the first: %w", result.Unjudged, failed[0])
	}
	return result, nil
}

// arrivals counts calls of all by minute, to tell the silence of one from that of everybody.
type arrivals struct {
	counts  map[int64]int64
	current int64
}

func (a *arrivals) add(minute, calls int64) {
	if calls == 0 || minute < a.current-minutesKept {
		return
	}
	if a.counts == nil {
		a.counts = map[int64]int64{}
	}
	a.counts[minute] += calls
}

// minutesKept is the length of the longest window.
var minutesKept = int64(detect.Windows[len(detect.Windows)-1])

// window counts the calls in the longest window at a minute, and forgets what has left it.
func (a *arrivals) window(current int64) (calls int64) {
	if current > a.current {
		for minute := range a.counts {
			if minute <= current-minutesKept {
				delete(a.counts, minute)
			}
		}
		a.current = current
	}
	for minute, n := range a.counts {
		if minute <= current {
			calls += n
		}
	}
	return calls
}
