package activities

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// SweepStore is what a tick reads: package clickhouse.
type SweepStore interface {
	ReadWatermark(ctx context.Context, now time.Time) (time.Time, error)
	Sweep(ctx context.Context, q clickhouse.SweepQuery) ([]detect.Observation, error)
	Baselines(ctx context.Context, slot time.Time) (map[usage.Key]detect.Baseline, error)
	BaselinesStored(ctx context.Context, slot time.Time) (time.Time, error)
	RebuildBaselines(ctx context.Context, at time.Time, min detect.Minimums) (int, error)
	Providers(ctx context.Context, from, to time.Time) (map[usage.Key]string, error)
	Arrived(ctx context.Context, at time.Time) (calls int64, err error)
}

// Loops is how a tick speaks to the alert loops and their groups: Loop. Open asks about every loop that
// runs, with the FlyballState that it is listed in, whether it is known.
type Loops interface {
	Open(ctx context.Context, known func(key usage.Key, state string) bool) ([]OpenLoop, error)
	Groups(ctx context.Context) ([]string, error)
	StartGroup(ctx context.Context, in contract.GroupInput) (ended bool, err error)
	Tell(ctx context.Context, m contract.FactsMessage, tuning contract.Tuning, start bool) (gone bool, err error)
}

// FlagEpoch tells one life of the store of flags from another: package redis.
type FlagEpoch interface {
	Revision(ctx context.Context) (routing.Revision, error)
}

// Sweeper evaluates every key at every tick, and tells the alert loops what changed.
type Sweeper struct {
	Store SweepStore
	Set   func() *policy.Set
	Loops Loops
	Flags FlagEpoch
	Log   *slog.Logger
	Every time.Duration // between two ticks; zero is five seconds

	// Shadow is a second policy set that is judged beside the one in force and acts on nothing; nil: there is none. What it
	// finds is kept in the store of shadows.
	Shadow  func() *policy.Set
	Shadows backtest.ShadowStore
}

// reaffirmAtMost is the longest time between two messages to an open loop, NONE included: it must hear
// well within its silence.
const reaffirmAtMost = time.Minute

// relistEvery is how often the open loops are listed anew, to learn of those that somebody else
// started.
const relistEvery = time.Minute

// forgetAfter is how long a loop that is not listed any more is still taken to run since it was last
// told: a listing may lag behind what has just been started.
const forgetAfter = 2 * relistEvery

// experimentsEvery is how often experiments are judged: they wake nobody.
const experimentsEvery = time.Minute

// tellers bounds how many loops are told at once: a storm must not open a thousand connections.
const tellers = 16

// SweepKeys ticks for WatchFor. A tick that fails is logged and counted, and the next one tries again:
// a store that is away must not end the sweep. What cannot be told is told again at the next tick.
func (s *Sweeper) SweepKeys(ctx context.Context, r contract.SweepRequest) (contract.SweepReport, error) {
	sweep := newSweep(s, r)
	every := s.Every
	if every == 0 {
		every = heartbeatEvery
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	beats := time.NewTicker(heartbeatEvery)
	defer beats.Stop()
	deadline := time.Now().Add(WatchFor)
	for {
		// The heart beats beside the tick: a rebuild of the baselines may take longer than its timeout.
		done := make(chan error, 1)
		go func() { done <- sweep.tick(ctx, time.Now().UTC()) }()
		for ticking := true; ticking; {
			select {
			case err := <-done:
				ticking = false
				if err != nil && ctx.Err() == nil {
					sweep.report.Failed++
					s.Log.WarnContext(ctx, "a tick of the sweep failed", "shard", r.Shard, "error", err)
				}
				sweep.beat = sweep.report
			case <-beats.C:
			}
			activity.RecordHeartbeat(ctx, sweep.beat)
		}
		if time.Now().After(deadline) {
			return sweep.report, nil
		}
		select {
		case <-ctx.Done():
		case <-stopping(ctx):
		case <-ticks.C:
		}
		if err := ended(ctx); err != nil { // after a slow tick the next one is due as well
			return sweep.report, err
		}
	}
}

// newSweep begins a round of ticks.
func newSweep(s *Sweeper, r contract.SweepRequest) *sweep {
	round := &sweep{Sweeper: s, request: r, held: map[usage.Key]*held{}}
	if s.Shadow != nil {
		round.shadow = backtest.NewShadow(s.Shadows, r.Tuning, round.mine, r.Shard == 0)
	}
	return round
}

// mine reports whether the tenant's keys are of this shard.
func (s *sweep) mine(tenant string) bool {
	return clickhouse.ShardOf(tenant, s.request.Shards) == s.request.Shard
}

// sweep is one round of ticks over a shard.
type sweep struct {
	*Sweeper
	request   contract.SweepRequest
	report    contract.SweepReport // written by the tick
	beat      contract.SweepReport // the report of the last whole tick
	held      map[usage.Key]*held  // the keys with an open loop
	listedAt  time.Time
	slot      time.Time // the hour of baselines
	baselines map[usage.Key]detect.Baseline
	silences  detect.Silences
	triedAt   time.Time // when the experiments were judged last
	builtAt   time.Time
	storedAt  time.Time // when the last of them was stored, by the store's clock
	failedAt  time.Time // when the baselines could not be brought up to date last
	epoch     string    // of the store of flags, as last read
	lacking   bool      // an observed key has traffic enough to be judged, and no baseline
	storms    storms
	shadow    *backtest.Shadow // nil: no second set is judged
}

// held is what the loop of a key was last told.
type held struct {
	level  detect.Level
	toldAt time.Time // zero: nothing by this round
	group  string    // the incident of many keys that the finding belonged to
	muted  bool      // the loop has neither a finding nor an incident (see OpenLoop)
}

// tick evaluates every key of the shard at the watermark, and tells the loops.
func (s *sweep) tick(ctx context.Context, now time.Time) error {
	if now.Sub(s.listedAt) >= relistEvery {
		if err := s.relist(ctx, now); err != nil {
			return err
		}
		s.listedAt = now
	}
	s.watchFlags(ctx)
	at, err := s.Store.ReadWatermark(ctx, now)
	if err != nil {
		return err
	}
	if err := s.freshen(ctx, at, now); err != nil {
		return err
	}
	observations, err := s.Store.Sweep(ctx, clickhouse.SweepQuery{At: at, Shard: s.request.Shard, Shards: s.request.Shards})
	if err != nil {
		return err
	}
	s.report.Keys = len(observations)
	observations, blind := s.silent(ctx, observations, at)
	if now.Sub(s.triedAt) >= experimentsEvery {
		experiments, err := s.Store.Sweep(ctx, clickhouse.SweepQuery{At: at, Shard: s.request.Shard, Shards: s.request.Shards, Experiments: true})
		if err == nil {
			s.triedAt = now
		}
		observations, blind = append(observations, experiments...), errors.Join(blind, err)
	}
	s.beginShadow(ctx, now)
	findings, unjudged := s.judge(observations, at, now)
	s.report.Ticks++
	s.report.LastTick = now
	messages, ungrouped := s.group(ctx, findings, now)
	untold := s.tell(ctx, messages, now)
	s.endShadow(ctx) // behind everything that somebody waits for
	return errors.Join(blind, unjudged, ungrouped, untold)
}

// watchFlags notices that the store of flags has begun a new life, and has every open loop told at this
// tick: they write again what it has lost. A store that is away has lost nothing yet.
func (s *sweep) watchFlags(ctx context.Context) {
	revision, err := s.Flags.Revision(ctx)
	if err != nil || revision.Epoch == s.epoch {
		return
	}
	s.epoch = revision.Epoch
	for _, h := range s.held {
		h.toldAt = time.Time{}
	}
}

// relist learns of open loops that this round has not told anything, and forgets those that have ended
// since: a tenant's pseudo-key would stay muted by a key without traffic. Those of other shards do no
// harm: their keys are never observed here.
func (s *sweep) relist(ctx context.Context, now time.Time) error {
	if err := s.recall(ctx, now); err != nil {
		return err
	}
	running := map[usage.Key]bool{}
	open, err := s.Loops.Open(ctx, func(k usage.Key, state string) bool {
		running[k] = true
		if h := s.held[k]; h != nil {
			// A loop that lends a flag is listed as quiet, as is one whose incident is closing; what it said itself tells
			// them apart for as long as nothing is found.
			h.muted = state == contract.StateMuted || h.muted && state == string(alert.Quiet)
		}
		return s.held[k] != nil
	})
	if err != nil {
		return err
	}
	maps.DeleteFunc(s.held, func(k usage.Key, h *held) bool { return !running[k] && now.Sub(h.toldAt) >= forgetAfter })
	for _, l := range open {
		s.held[l.Key] = &held{level: l.Level, group: l.Group, muted: l.Muted}
		s.belongs(l.Key, l.Group)
	}
	return nil
}

// rebuildEvery is how often baselines are computed within their hour while an observed key has none: a
// new key should not wait for the hour to turn.
const rebuildEvery = 5 * time.Minute

// retryEvery is how often baselines that cannot be brought up to date are tried again while the last
// ones serve: a try may take longer than many ticks, and no tick looks at the keys meanwhile.
const retryEvery = time.Minute

// freshen loads the baselines of the hour, computing them first when the hour is new, or when a key
// lacks one. While that fails the last ones serve, which at the start are the latest that are stored.
func (s *sweep) freshen(ctx context.Context, at, now time.Time) error {
	slot := at.Truncate(time.Hour)
	lacking := s.lacking && now.Sub(s.builtAt) >= s.request.Tuning.Scaled(rebuildEvery)
	stored := s.lastStored(ctx)
	stale := !stored.Equal(s.storedAt)
	if slot.Equal(s.slot) && !lacking && !stale {
		return nil
	}
	if s.baselines != nil && now.Sub(s.failedAt) < retryEvery {
		return nil
	}
	baselines, err := s.Store.Baselines(ctx, at)
	if err == nil && (lacking || !current(baselines, slot)) {
		s.builtAt = now
		if s.baselines == nil && len(baselines) > 0 {
			s.baselines = baselines
			s.expect(at)
		}
		if _, err = s.Store.RebuildBaselines(ctx, at, s.request.Tuning.Limits.Minimums); err == nil {
			baselines, err = s.Store.Baselines(ctx, at)
		}
	}
	if err != nil {
		if s.baselines == nil {
			return fmt.Errorf("no baselines to compare with: %w", err)
		}
		s.failedAt = now
		s.Log.WarnContext(ctx, "the last baselines serve on", "slot", slot, "error", err)
		return nil
	}
	s.slot, s.baselines = slot, baselines
	s.storedAt = stored // before they were loaded: what has come since is loaded at the next tick
	s.expect(at)
	return nil
}

// lastStored is when a baseline of the hour that serves was stored last: somebody may have accepted a level, or had
// the baselines computed anew, and the next tick must compare with those. A store that cannot say has nothing new.
func (s *sweep) lastStored(ctx context.Context) time.Time {
	for _, b := range s.baselines {
		at, err := s.Store.BaselinesStored(ctx, b.Slot)
		if err != nil {
			return s.storedAt
		}
		return at
	}
	return time.Time{}
}

// current reports whether the baselines are those of the slot.
func current(baselines map[usage.Key]detect.Baseline, slot time.Time) bool {
	for _, b := range baselines {
		return b.Slot.Equal(slot)
	}
	return false
}

// judge says what every observed key's facts mean, and returns what a loop should hear, changes of level and
// the state of each open loop once in a while, together with all that is found. A loop whose key has no traffic
// at all, and none to expect, hears nothing, and knows silence by itself; so does one that holds what silence says
// nothing of. A key that cannot be judged is left out, and does not keep the others from being judged.
func (s *sweep) judge(observations []detect.Observation, at, now time.Time) ([]detect.Finding, error) {
	set := s.Set()
	minimums := s.request.Tuning.Limits.Minimums
	busy := s.busyTenants()
	var findings []detect.Finding
	var unjudged int
	var first error
	s.report.Candidates, s.lacking = 0, false
	s.storms.observed = s.storms.observed[:0]
	for o := range pseudoLast(observations) {
		h := s.held[o.Key]
		active := detect.None
		if h != nil {
			active = h.level
		}
		of, _, experiment := o.Key.Experiment()
		if !experiment {
			of = o.Key
		}
		baseline := s.baselines[of]
		s.lacking = s.lacking || !experiment && baseline.CostBuckets < minimums.Buckets && o.Windows[len(o.Windows)-1].CostN >= minimums.Cost
		facts := detect.Assemble(*o, baseline, minimums, active)
		f := detect.Finding{
			Key: o.Key, Tick: now.UnixMilli(), EvaluatedAt: at, Facts: facts, Revision: set.Revision(),
			Verdict: detect.Verdict{Level: detect.None},
		}
		switch {
		case o.Key.Pseudo() && busy[o.Key.Tenant]:
			f.Verdict = detect.Verdict{Level: detect.Inconclusive, Reason: "muted: one of the tenant's models has an open alert"}
		case h != nil || detect.Candidate(facts):
			s.report.Candidates++
			verdict, err := set.Alert(facts)
			if err != nil {
				if unjudged++; first == nil {
					first = fmt.Errorf("judging %s: %w", o.Key, err)
				}
				s.seeShadow(o, &baseline, &facts, nil, at, now)
				continue
			}
			f.Verdict = verdict
		}
		if experiment && f.Verdict.Level == detect.Page { // whatever a policy says
			f.Verdict.Level = detect.Investigate
		}
		s.seeShadow(o, &baseline, &facts, &f.Verdict, at, now)
		if f.Verdict.Level == detect.Inconclusive && facts.CallsKnown && facts.Calls == 0 {
			continue
		}
		if up(f.Verdict.Level) && o.Key.OwnsFlags() {
			busy[o.Key.Tenant] = true
		}
		s.storms.observe(f)
		if up(f.Verdict.Level) || s.due(h, f.Verdict.Level, now) {
			findings = append(findings, f)
		}
	}
	if first != nil {
		return findings, fmt.Errorf("keys that cannot be judged: %d; the first: %w", unjudged, first)
	}
	return findings, nil
}

// pseudoLast yields the pseudo-keys behind the others, so that one is muted already at the tick at which
// a key of its tenant is first found.
func pseudoLast(observations []detect.Observation) iter.Seq[*detect.Observation] {
	return func(yield func(*detect.Observation) bool) {
		for _, pseudo := range []bool{false, true} {
			for i := range observations {
				if o := &observations[i]; o.Key.Pseudo() == pseudo && !yield(o) {
					return
				}
			}
		}
	}
}

// busyTenants are the tenants one of whose keys has an open loop: their pseudo-key is muted, since it
// would only say the same again. Muted is not well: an incident that it has open stays as it is. A loop that
// is open only because a person muted its key says nothing at all, and one that only lends its flag says what the
// pseudo-key's own incident has it do, which could else never hear that it is over.
func (s *sweep) busyTenants() map[string]bool {
	busy := map[string]bool{}
	for key, h := range s.held {
		if key.OwnsFlags() && !h.muted {
			busy[key.Tenant] = true
		}
	}
	return busy
}

// due reports whether a loop should hear the level now.
func (s *sweep) due(h *held, level detect.Level, now time.Time) bool {
	if h == nil {
		return up(level)
	}
	every := min(reaffirmAtMost, s.request.Tuning.Holds.Recovery/2)
	return level != h.level && level != detect.Inconclusive || now.Sub(h.toldAt) >= every
}

func up(l detect.Level) bool { return l == detect.Investigate || l == detect.Page }

// tell gives each message to its key's loop.
func (s *sweep) tell(ctx context.Context, messages []message, now time.Time) error {
	var mu sync.Mutex
	var group errgroup.Group // one loop that cannot be told does not keep the others from hearing
	group.SetLimit(tellers)
	for _, m := range messages {
		group.Go(func() error {
			gone, err := s.Loops.Tell(ctx, m.FactsMessage, s.request.Tuning, m.start)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			s.report.Signals++
			key, level := m.Finding.Key, m.Finding.Verdict.Level
			if gone {
				delete(s.held, key)
				return nil
			}
			told := &held{level: holds(s.held[key], level), toldAt: now, group: m.Group}
			if h := s.held[key]; h != nil && !up(level) {
				told.group, told.muted = h.group, h.muted
			}
			s.held[key] = told
			return nil
		})
	}
	return group.Wait()
}

// holds is the level that a loop holds after hearing one: "no data" changes nothing.
func holds(h *held, level detect.Level) detect.Level {
	if level == detect.Inconclusive && h != nil {
		return h.level
	}
	return level
}
