package activities

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// errAway is what a store or server says that is away.
var errAway = errors.New("connection refused")

// fakeStore is telemetry as a tick sees it.
type fakeStore struct {
	slots    []time.Time // that it was asked about
	traffic  []detect.Observation
	trials   []detect.Observation          // of experiments
	arrived  int64                         // calls of anybody where traffic has none
	stored   map[usage.Key]detect.Baseline // nil: none have been computed
	computed map[usage.Key]detect.Baseline // what a rebuild stores, at its own slot
	before   func(context.Context)         // every tick

	storedAt time.Time // of a baseline, last

	watermarkErr, sweepErr, baselinesErr, rebuildErr, storedErr error

	providers    map[usage.Key]string
	providersErr error

	queries         []clickhouse.SweepQuery
	loads, rebuilds int
	looks           int // at experiments
}

func (f *fakeStore) ReadWatermark(ctx context.Context, now time.Time) (time.Time, error) {
	if f.before != nil {
		f.before(ctx)
	}
	return now.Add(-5 * time.Second), f.watermarkErr
}

func (f *fakeStore) Sweep(_ context.Context, q clickhouse.SweepQuery) ([]detect.Observation, error) {
	if q.Experiments {
		f.looks++
		return f.trials, f.sweepErr
	}
	f.queries = append(f.queries, q)
	return slices.Clone(f.traffic), f.sweepErr
}

func (f *fakeStore) Providers(context.Context, time.Time, time.Time) (map[usage.Key]string, error) {
	return f.providers, f.providersErr
}

func (f *fakeStore) Arrived(context.Context, time.Time) (int64, error) { return f.arrived, f.sweepErr }

func (f *fakeStore) Baselines(context.Context, time.Time) (map[usage.Key]detect.Baseline, error) {
	if f.loads++; f.baselinesErr != nil {
		return nil, f.baselinesErr
	}
	all := map[usage.Key]detect.Baseline{}
	for k, b := range f.stored {
		all[k] = b
	}
	return all, nil
}

func (f *fakeStore) BaselinesStored(_ context.Context, slot time.Time) (time.Time, error) {
	f.slots = append(f.slots, slot)
	return f.storedAt, f.storedErr
}

func (f *fakeStore) RebuildBaselines(_ context.Context, at time.Time, _ detect.Minimums) (int, error) {
	if f.rebuilds++; f.rebuildErr != nil {
		return 0, f.rebuildErr
	}
	f.stored = map[usage.Key]detect.Baseline{}
	for k, b := range f.computed {
		b.Slot = at.Truncate(time.Hour)
		f.stored[k] = b
	}
	return len(f.stored), nil
}

// fakeLoops is Temporal as a tick sees it: the loops that run, and what they were told.
type fakeLoops struct {
	mu      sync.Mutex
	running map[usage.Key]detect.Level
	openErr error
	deaf    map[usage.Key]error // loops that cannot be told
	lists   int
	told    []told

	muted    map[usage.Key]bool   // loops that are open for nothing but a mute
	lent     map[usage.Key]bool   // loops that are open for nothing but a flag of another key's incident
	member   map[usage.Key]string // the group that a loop is in
	groups   map[string]bool      // those that were started; false: they have ended
	groupErr error
	starts   int
}

func (f *fakeLoops) Groups(context.Context) (ids []string, err error) {
	for id, runs := range f.groups {
		if runs {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

func (f *fakeLoops) StartGroup(_ context.Context, in contract.GroupInput) (ended bool, err error) {
	if f.starts++; f.groupErr != nil {
		return false, f.groupErr
	}
	id := contract.GroupID(in.Cause, in.Opened)
	if runs, known := f.groups[id]; known {
		return !runs, nil
	}
	if f.groups == nil {
		f.groups = map[string]bool{}
	}
	f.groups[id] = true
	return false, nil
}

// told is one message to a loop.
type told struct {
	key   usage.Key
	level detect.Level
	start bool
	epoch string
	group string
}

func (f *fakeLoops) Open(_ context.Context, known func(usage.Key, string) bool) (open []OpenLoop, err error) {
	if f.lists++; f.openErr != nil {
		return nil, f.openErr
	}
	for key, level := range f.running {
		state := "firing"
		if f.muted[key] {
			state = contract.StateMuted
		}
		if f.lent[key] {
			state = string(alert.Quiet)
		}
		if !known(key, state) {
			open = append(open, OpenLoop{Key: key, Level: level, Group: f.member[key], Muted: f.muted[key] || f.lent[key]})
		}
	}
	return open, nil
}

func (f *fakeLoops) Tell(_ context.Context, m contract.FactsMessage, _ contract.Tuning, start bool) (gone bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, level := m.Finding.Key, m.Finding.Verdict.Level
	f.told = append(f.told, told{key: key, level: level, start: start, epoch: m.Epoch, group: m.Group})
	if err := f.deaf[key]; err != nil {
		return false, err
	}
	if _, runs := f.running[key]; !runs && !start {
		return true, nil
	}
	f.running[key] = level
	return false, nil
}

// heard is what the loops were told since the last time, by key.
func (f *fakeLoops) heard() []told {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.told
	f.told = nil
	slices.SortFunc(all, func(a, b told) int { return slices.Compare([]byte(a.key.String()), []byte(b.key.String())) })
	return all
}

// fakeEpoch is the life of the store of flags.
type fakeEpoch struct {
	name string
	err  error
}

func (f *fakeEpoch) Revision(context.Context) (routing.Revision, error) {
	return routing.Revision{Epoch: f.name, Version: 1}, f.err
}

// usual is the baseline of every key here: calls of 4 milli-dollars and scores of 0.87.
func usual(k usage.Key) detect.Baseline {
	return detect.Baseline{
		Key: k, Slot: now.Truncate(time.Hour), CostBuckets: 100, LnCost: math.Log(4e9), LnCostDev: 0.05, LnCostSD: 0.5, CostBucketN: 200,
		QualityBuckets: 100, Quality: 0.87, QualityDev: 0.01, QualitySD: 0.05, QualityBucketN: 200,
		SpendPerMinute: 4e9 * 100, SpendDev: 0.1, RequestsPerMin: 100,
	}
}

// seen is a key whose calls cost so many times the usual, with so much of the usual quality.
func seen(k usage.Key, cost, quality float64) detect.Observation {
	o := detect.Observation{Key: k, SpendLastPico: 4e9 * 100, Recent: detect.Volume{Requests: 1000}, Whole: detect.Volume{Requests: 3000}}
	for i := range o.Windows {
		o.Windows[i] = detect.Window{CostN: 500, LnCost: math.Log(4e9 * cost), QualityN: 500, Quality: 0.87 * quality}
	}
	return o
}

// The traffic of one key in three states.
func well(k usage.Key) detect.Observation { return seen(k, 1, 1) }
func ill(k usage.Key) detect.Observation  { return seen(k, 3, 0.8) } // PAGE
func dear(k usage.Key) detect.Observation { return seen(k, 3, 1) }   // INVESTIGATE

// mute is a key too few of whose calls are known to say anything.
func mute(k usage.Key) detect.Observation {
	o := seen(k, 1, 1)
	for i := range o.Windows {
		o.Windows[i].CostN, o.Windows[i].QualityN = 1, 0
	}
	return o
}

// plant is a sweep on fakes.
type plant struct {
	*sweep
	store *fakeStore
	loops *fakeLoops
	flags *fakeEpoch
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	p := &plant{
		store: &fakeStore{computed: map[usage.Key]detect.Baseline{}},
		loops: &fakeLoops{running: map[usage.Key]detect.Level{}, deaf: map[usage.Key]error{}},
		flags: &fakeEpoch{name: "first"},
	}
	for _, k := range []usage.Key{opus, haiku, other, whole} {
		p.store.computed[k] = usual(k)
	}
	p.sweep = &sweep{
		Sweeper: &Sweeper{Store: p.store, Set: shippedSet(t), Loops: p.loops, Flags: p.flags, Log: silent()},
		request: contract.SweepRequest{Shard: 1, Shards: 3, Tuning: tuning},
		held:    map[usage.Key]*held{},
	}
	return p
}

// see runs a tick so long after the tests' beginning over this traffic, and returns what the loops heard.
func (p *plant) see(t *testing.T, after time.Duration, traffic ...detect.Observation) []told {
	t.Helper()
	p.store.traffic = traffic
	require.NoError(t, p.tick(t.Context(), now.Add(after)))
	return p.loops.heard()
}

func page(k usage.Key) told { return told{key: k, level: detect.Page, start: true, epoch: "first"} }

// kept is a page that was judged by what holds one: it starts no loop.
func kept(k usage.Key) told { return told{key: k, level: detect.Page, epoch: "first"} }
func none(k usage.Key) told { return told{key: k, level: detect.None, epoch: "first"} }

// A person resolved the page although the cost stays up: what would hold a page does not raise it again.
func TestSweepForgetsAResolvedPage(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.Equal(t, []told{page(opus)}, p.see(t, 0, ill(opus)))
	delete(p.loops.running, opus)
	require.Equal(t, []told{kept(opus)}, p.see(t, time.Minute, seen(opus, 1.3, 0.97)))
	require.Empty(t, p.see(t, 65*time.Second, seen(opus, 1.3, 0.97)))
	require.Equal(t, []told{page(opus)}, p.see(t, 70*time.Second, ill(opus)), "a new breach does")
}

func TestSweepTellsChangesOfLevel(t *testing.T) {
	t.Parallel()
	const second = time.Second
	type tick struct {
		after   time.Duration
		traffic detect.Observation
		want    []told
	}
	for name, tc := range map[string]struct {
		running detect.Level // the level of a loop that runs already; empty: none does
		ticks   []tick
	}{
		"a finding starts a loop once": {ticks: []tick{
			{0, ill(opus), []told{page(opus)}},
			{5 * second, ill(opus), nil},
		}},
		"a key that is well has no loop": {ticks: []tick{
			{0, well(opus), nil},
			{61 * second, well(opus), nil},
		}},
		"a key of which nothing is known has none either": {ticks: []tick{{0, mute(opus), nil}}},
		"an investigation that becomes a page is told": {ticks: []tick{
			{0, dear(opus), []told{{key: opus, level: detect.Investigate, start: true, epoch: "first"}}},
			{5 * second, ill(opus), []told{kept(opus)}},
		}},
		"a recovery is told, and starts nothing": {ticks: []tick{
			{0, ill(opus), []told{page(opus)}},
			{5 * second, well(opus), []told{none(opus)}},
			{10 * second, well(opus), nil},
			{15 * second, ill(opus), []told{page(opus)}},
		}},
		"a level that is held is left late": {ticks: []tick{
			{0, seen(opus, 1.3, 0.97), nil},
			{5 * second, ill(opus), []told{page(opus)}},
			{10 * second, seen(opus, 1.3, 0.97), nil},
			{15 * second, seen(opus, 1.1, 0.97), []told{none(opus)}},
			{20 * second, seen(opus, 1.3, 0.97), nil},
		}},
		"no data is no change": {ticks: []tick{
			{0, ill(opus), []told{page(opus)}},
			{5 * second, mute(opus), nil},
			{61 * second, mute(opus), []told{{key: opus, level: detect.Inconclusive, epoch: "first"}}},
			{66 * second, ill(opus), nil},
			{71 * second, well(opus), []told{none(opus)}},
		}},
		"a state that stays is told again within a minute": {ticks: []tick{
			{0, ill(opus), []told{page(opus)}},
			{59 * second, ill(opus), nil},
			{60 * second, ill(opus), []told{kept(opus)}},
			{65 * second, well(opus), []told{none(opus)}},
			{124 * second, well(opus), nil},
			{125 * second, well(opus), []told{none(opus)}},
		}},
		"a loop that runs already is told at once where it differs or not": {running: detect.Page, ticks: []tick{
			{0, ill(opus), []told{kept(opus)}},
			{5 * second, ill(opus), nil},
		}},
		"the level of a loop that runs already decides what holds": {running: detect.Page, ticks: []tick{
			{0, seen(opus, 1.3, 0.97), []told{kept(opus)}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			if tc.running != "" {
				p.loops.running[opus] = tc.running
			}
			for _, tick := range tc.ticks {
				require.Equal(t, tick.want, p.see(t, tick.after, tick.traffic), "after %s", tick.after)
			}
		})
	}
}

func TestSweepReaffirmsTwiceWithinARecovery(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.request.Tuning.Holds.Recovery = 20 * time.Second
	require.Len(t, p.see(t, 0, ill(opus)), 1)
	require.Empty(t, p.see(t, 9*time.Second, ill(opus)))
	require.Len(t, p.see(t, 10*time.Second, ill(opus)), 1)
}

func TestSweepJudgesCandidatesOnly(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.see(t, 0, well(opus), ill(haiku), well(other))
	require.Equal(t, 3, p.report.Keys)
	require.Equal(t, 1, p.report.Candidates, "a key that is well is not worth a question")
	p.see(t, 5*time.Second, well(opus), well(haiku), well(other))
	require.Equal(t, 1, p.report.Candidates, "but an open loop is told by the policy's own word that it is over")
}

func TestSweepAsksForItsShardAtTheWatermark(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.see(t, 0, well(opus))
	require.Equal(t, []clickhouse.SweepQuery{{At: now.Add(-5 * time.Second), Shard: 1, Shards: 3}}, p.store.queries)
	require.Equal(t, contract.SweepReport{Ticks: 1, Keys: 1, LastTick: now}, p.report)
}

func TestSweepFindingSaysWhatItWasDrawnFrom(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.NoError(t, p.freshen(t.Context(), now, now))
	findings, err := p.judge([]detect.Observation{ill(opus)}, now.Add(-5*time.Second), now)
	require.NoError(t, err)
	require.Len(t, findings, 1)
	f := findings[0]
	require.Equal(t, now.UnixMilli(), f.Tick)
	require.Equal(t, now.Add(-5*time.Second), f.EvaluatedAt)
	require.Equal(t, p.Set().Revision(), f.Revision)
	require.Equal(t, detect.Assemble(ill(opus), usual(opus), tuning.Limits.Minimums, detect.None), f.Facts)
	require.Equal(t, "page-cost-and-quality", f.Verdict.Rule)
}

func TestSweepRelistsOpenLoops(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.Empty(t, p.see(t, 0, well(opus)))
	p.loops.running[opus] = detect.Page // started by somebody else
	require.Empty(t, p.see(t, 55*time.Second, well(opus)), "not listed again yet")
	require.Equal(t, []told{none(opus)}, p.see(t, 60*time.Second, well(opus)))
	require.Empty(t, p.see(t, 65*time.Second, well(opus)))
	require.Equal(t, 2, p.loops.lists)
}

func TestSweepForgetsLoopsThatEnded(t *testing.T) {
	t.Parallel()
	t.Run("as one says when it is told", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.see(t, 0, ill(opus))
		delete(p.loops.running, opus)
		require.Equal(t, []told{none(opus)}, p.see(t, 5*time.Second, well(opus)))
		require.Empty(t, p.see(t, 70*time.Second, well(opus)), "it is gone, and a NONE does not bring it back")
	})
	t.Run("as the list says of one whose key has no traffic", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.see(t, 0, ill(opus))
		delete(p.loops.running, opus)
		require.Empty(t, p.see(t, time.Minute, ill(whole)), "a list may lag behind")
		require.Equal(t, []told{page(whole)}, p.see(t, 2*time.Minute, ill(whole)))
	})
	t.Run("but one that runs and has no traffic is remembered", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.see(t, 0, ill(opus))
		for minute := range 10 {
			require.Empty(t, p.see(t, time.Duration(minute+1)*time.Minute, ill(whole)))
		}
	})
}

func TestSweepMutesThePseudoKey(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.Equal(t, []told{page(whole)}, p.see(t, 0, well(opus), ill(whole)), "no key of the tenant says it")
	require.Equal(t, []told{page(opus)}, p.see(t, 5*time.Second, ill(opus), ill(whole)))
	muted := told{key: whole, level: detect.Inconclusive, epoch: "first"}
	require.Empty(t, p.see(t, 10*time.Second, ill(opus), ill(whole)), "a key says the same and more")
	require.Equal(t, []told{muted, kept(opus)}, p.see(t, time.Minute+10*time.Second, ill(opus), ill(whole)),
		"that is no recovery, and starts no loop")
	require.Equal(t, []told{muted, kept(opus)}, p.see(t, 3*time.Minute, ill(opus), well(whole)),
		"nor is what cannot be told apart from it")
	anybody := usage.Key{Tenant: other.Tenant, Model: usage.AnyModel}
	p.baselines[anybody] = usual(anybody)
	require.Equal(t, []told{page(anybody)}, p.see(t, 20*time.Second, ill(opus), ill(anybody)), "another tenant's is not muted")
}

func TestSweepMutesThePseudoKeyAtTheTickAtWhichAKeyIsFound(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.Equal(t, []told{page(opus)}, p.see(t, 0, ill(whole), ill(opus)), "in whatever order the store lists them")
}

func TestSweepIsNotMutedByAKeyThatIsOnlyMuted(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.loops.running[opus], p.loops.muted = detect.None, map[usage.Key]bool{opus: true}
	require.Equal(t, []told{page(whole), none(opus)}, p.see(t, 0, well(opus), ill(whole)), "its loop is open, and says nothing")
	require.Empty(t, p.see(t, 5*time.Second, well(opus), ill(whole)))

	p = newPlant(t)
	p.loops.running[opus] = detect.None // recovering, or with a flag
	require.Equal(t, []told{none(opus)}, p.see(t, 0, well(opus), ill(whole)))
	p.loops.muted = map[usage.Key]bool{opus: true} // that is over, and it is muted still
	require.Equal(t, []told{page(whole), none(opus)}, p.see(t, time.Minute, well(opus), ill(whole)))
}

func TestSweepIsNotMutedByAKeyThatLendsItsFlag(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.loops.running[opus], p.loops.lent = detect.None, map[usage.Key]bool{opus: true}
	p.loops.running[whole] = detect.Page // whose incident has every call of opus scored
	require.Contains(t, p.see(t, 0, well(opus), well(whole)), none(whole), "it can be over while the flag is on")
	require.Contains(t, p.see(t, 65*time.Second, well(opus), ill(whole)), page(whole), "nor does the next list forget it")

	p.loops.lent, p.loops.running[opus] = nil, detect.Page
	require.Contains(t, p.see(t, 2*time.Minute+10*time.Second, ill(opus), ill(whole)), told{key: whole, level: detect.Inconclusive, epoch: "first"},
		"a finding of its own mutes")
}

func TestSweepExperiments(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	trial := opus.OfExperiment("ab-1")
	investigate := told{key: trial, level: detect.Investigate, start: true, epoch: "first"}
	held := told{key: trial, level: detect.Investigate, epoch: "first"}
	p.store.trials = []detect.Observation{ill(trial)}
	require.Equal(t, []told{investigate}, p.see(t, 0, well(opus), well(whole)), "compared with production, and no page")
	require.Empty(t, p.see(t, 5*time.Second, well(opus), well(whole)))
	require.Equal(t, 1, p.store.looks, "not at every tick")
	require.Equal(t, []told{held}, p.see(t, time.Minute, well(opus), well(whole)))
	require.Equal(t, []told{page(whole)}, p.see(t, 65*time.Second, well(opus), ill(whole)), "it mutes nobody")
	p.store.trials = []detect.Observation{well(trial)}
	require.Contains(t, p.see(t, 2*time.Minute, well(opus), well(whole)), none(trial))

	set, err := policy.Compile(fstest.MapFS{"alert.yaml": {Data: []byte(stumbling)}})
	require.NoError(t, err)
	p = newPlant(t)
	p.Sweeper.Set = func() *policy.Set { return set }
	p.store.trials = []detect.Observation{ill(trial)}
	require.Equal(t, []told{investigate}, p.see(t, 0), "whatever the policy says")

	p = newPlant(t)
	nobody := usage.Key{Tenant: "org_42", Model: "new"}.OfExperiment("ab-1")
	p.store.trials = []detect.Observation{ill(nobody)}
	require.Empty(t, p.see(t, 0, well(opus)), "there is nothing to compare with")
	p.see(t, 6*time.Minute, well(opus))
	require.Equal(t, 1, p.store.rebuilds, "and no baseline to be had by computing it again")
}

func TestSweepFailures(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(p *plant){
		"the list of loops":  func(p *plant) { p.loops.openErr = errAway },
		"the watermark":      func(p *plant) { p.store.watermarkErr = errAway },
		"the query":          func(p *plant) { p.store.sweepErr = errAway },
		"the first baseline": func(p *plant) { p.store.baselinesErr = errAway },
		"the first rebuild":  func(p *plant) { p.store.rebuildErr = errAway },
		"the loop":           func(p *plant) { p.loops.deaf[opus] = errAway },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			breakIt(p)
			p.store.traffic = []detect.Observation{ill(opus)}
			require.ErrorIs(t, p.tick(t.Context(), now), errAway)
			p.loops.heard()
			p.loops.openErr, p.store.watermarkErr, p.store.sweepErr, p.store.baselinesErr, p.store.rebuildErr = nil, nil, nil, nil, nil
			delete(p.loops.deaf, opus)
			require.Equal(t, []told{page(opus)}, p.see(t, 5*time.Second, ill(opus)), "the next tick makes up for it")
		})
	}
}

func TestSweepTellsTheOthersWhenOneIsDeaf(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.loops.deaf[haiku] = errAway
	p.store.traffic = []detect.Observation{ill(haiku), ill(opus), ill(other)}
	require.ErrorIs(t, p.tick(t.Context(), now), errAway)
	require.Len(t, p.loops.heard(), 3)
	require.Equal(t, 2, p.report.Signals)
	require.ErrorIs(t, p.tick(t.Context(), now.Add(5*time.Second)), errAway)
	require.Equal(t, []told{page(haiku)}, p.loops.heard(), "only what could not be told is told again")
	delete(p.loops.deaf, haiku)
	require.Equal(t, []told{page(haiku)}, p.see(t, 10*time.Second, ill(haiku), ill(opus), ill(other)))
}

// stumbling is a policy that fails on one key and pages on every other.
const stumbling = `
name: alert
imports:
  - name: detect.Verdict
rule:
  id: alert
  match:
    - condition: |
        model == "claude-3-haiku" && int(model) > 0
      output: |
        Verdict{level: "PAGE", rule: "never", reason: "no model is a number"}
    - output: |
        Verdict{level: "PAGE", rule: "always", reason: "this policy pages"}
`

func TestSweepJudgesTheOthersWhenOneCannotBeJudged(t *testing.T) {
	t.Parallel()
	set, err := policy.Compile(fstest.MapFS{"alert.yaml": {Data: []byte(stumbling)}})
	require.NoError(t, err)
	p := newPlant(t)
	p.Sweeper.Set = func() *policy.Set { return set }
	p.store.traffic = []detect.Observation{ill(haiku), ill(opus), ill(other)}
	require.ErrorContains(t, p.tick(t.Context(), now), "keys that cannot be judged: 1; the first: judging org_42/claude-3-haiku")
	require.Equal(t, []told{page(other), page(opus)}, p.loops.heard())
	require.Equal(t, now, p.report.LastTick)
}

func TestSweepTakesThePolicyInForce(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	require.Empty(t, p.see(t, 0, seen(opus, 1.3, 1)))
	set, err := policy.Compile(fstest.MapFS{"alert.yaml": {Data: []byte(stumbling)}})
	require.NoError(t, err)
	p.Sweeper.Set = func() *policy.Set { return set }
	require.Equal(t, []told{page(opus)}, p.see(t, 5*time.Second, seen(opus, 1.3, 1)))
}

func TestSweepBaselines(t *testing.T) {
	t.Parallel()
	type counts struct{ loads, rebuilds int }
	seenOf := func(p *plant) counts { return counts{p.store.loads, p.store.rebuilds} }
	untilHour := 50*time.Minute + 5*time.Second // the watermark is five seconds behind

	t.Run("are computed with the hour and read once", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		for after := time.Duration(0); after < untilHour; after += time.Minute {
			p.see(t, after, well(opus))
		}
		require.Equal(t, counts{2, 1}, seenOf(p), "found stale, computed, and read again")
		p.see(t, untilHour, well(opus))
		p.see(t, untilHour+time.Minute, well(opus))
		require.Equal(t, counts{4, 2}, seenOf(p))
	})
	t.Run("that another worker has computed are read", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.store.stored = p.store.computed
		require.Equal(t, []told{page(opus)}, p.see(t, 0, ill(opus)))
		require.Equal(t, counts{1, 0}, seenOf(p))
	})
	t.Run("are computed again while a busy key lacks one", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		delete(p.store.computed, opus)
		p.see(t, 0, ill(opus))
		require.Equal(t, counts{2, 1}, seenOf(p))
		p.see(t, 4*time.Minute, ill(opus))
		require.Equal(t, counts{2, 1}, seenOf(p), "not at every tick")
		p.store.computed[opus] = usual(opus)
		require.Equal(t, []told{page(opus)}, p.see(t, 5*time.Minute, ill(opus)))
		require.Equal(t, counts{4, 2}, seenOf(p))
		p.see(t, 15*time.Minute, ill(opus))
		require.Equal(t, counts{4, 2}, seenOf(p), "nothing is lacking any more")
	})
	t.Run("that somebody stored since are compared with at the next tick", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.see(t, 0, well(opus))
		accepted := usual(opus)
		accepted.Slot, accepted.LnCost, accepted.Quality = now.Truncate(time.Hour), accepted.LnCost+math.Log(3), accepted.Quality*0.6
		p.store.stored[opus], p.store.storedAt = accepted, now.Add(time.Second)
		require.Empty(t, p.see(t, 5*time.Second, seen(opus, 3, 0.6)), "the accepted level is the usual one")
		require.Equal(t, counts{3, 1}, seenOf(p))
		p.see(t, 10*time.Second, seen(opus, 3, 0.6))
		require.Equal(t, counts{3, 1}, seenOf(p), "and is read once")
		p.store.storedErr = errAway
		p.see(t, 15*time.Second, seen(opus, 3, 0.6))
		require.Equal(t, counts{3, 1}, seenOf(p))
	})
	t.Run("are not computed for a key with little traffic", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		delete(p.store.computed, opus)
		p.see(t, 0, mute(opus))
		p.see(t, 20*time.Minute, mute(opus))
		require.Equal(t, counts{2, 1}, seenOf(p))
	})
	t.Run("serve on when the new ones cannot be had, and those are tried once a minute", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.see(t, 0, well(opus))
		p.store.rebuildErr = errAway
		require.Equal(t, []told{page(opus)}, p.see(t, untilHour, ill(opus)))
		require.Equal(t, counts{3, 2}, seenOf(p))
		p.see(t, untilHour+55*time.Second, ill(opus))
		require.Equal(t, counts{3, 2}, seenOf(p))
		p.store.rebuildErr = nil
		p.see(t, untilHour+60*time.Second, ill(opus))
		require.Equal(t, counts{5, 3}, seenOf(p))
		p.see(t, untilHour+65*time.Second, ill(opus))
		require.Equal(t, counts{5, 3}, seenOf(p))
	})
	t.Run("of an earlier hour serve a new worker that cannot compute them", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.store.stored = map[usage.Key]detect.Baseline{opus: usual(opus)}
		p.store.rebuildErr = errAway
		require.Equal(t, []told{page(opus)}, p.see(t, untilHour, ill(opus)))
	})
	t.Run("are needed once", func(t *testing.T) {
		t.Parallel()
		p := newPlant(t)
		p.store.baselinesErr = errAway
		require.ErrorContains(t, p.tick(t.Context(), now), "no baselines to compare with: connection refused")
	})
}

func TestSweepTellsEveryLoopThatTheFlagsAreLost(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	p.see(t, 0, ill(opus), ill(haiku), well(other))
	require.Empty(t, p.see(t, 5*time.Second, ill(opus), ill(haiku), well(other)))

	p.flags.name, p.flags.err = "", errAway
	require.Empty(t, p.see(t, 10*time.Second, ill(opus), ill(haiku), well(other)), "a store that is away has lost nothing")

	p.flags.name, p.flags.err = "second", nil
	p.loops.deaf[haiku] = errAway
	p.store.traffic = []detect.Observation{ill(opus), ill(haiku), well(other)}
	require.ErrorIs(t, p.tick(t.Context(), now.Add(15*time.Second)), errAway)
	second := func(k usage.Key) told { return told{key: k, level: detect.Page, epoch: "second"} }
	require.Equal(t, []told{second(haiku), second(opus)}, p.loops.heard())

	delete(p.loops.deaf, haiku)
	require.Equal(t, []told{second(haiku)}, p.see(t, 20*time.Second, ill(opus), ill(haiku), well(other)), "it has not heard of it yet")
	require.Empty(t, p.see(t, 25*time.Second, ill(opus), ill(haiku), well(other)))
}

// round runs SweepKeys on a bench: a whole round unless somebody ends it before.
func round(t *testing.T, p *plant, before func(b *bench)) (contract.SweepReport, *bench, error) {
	t.Helper()
	for k, u := range p.store.computed { // the bench has its own time
		u.Slot = time.Time{}
		p.store.computed[k] = u
	}
	b := newBench(t, p.Sweeper)
	before(b)
	report, err := run[contract.SweepReport](t, b, p.SweepKeys, p.request)
	return report, b, err
}

func TestSweepKeysTicksForAnHour(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	synctest.Test(t, func(t *testing.T) {
		p.store.traffic = []detect.Observation{ill(opus), well(haiku)}
		started := time.Now()
		report, b, err := round(t, p, func(*bench) {})
		require.NoError(t, err)
		require.Equal(t, 722, report.Ticks, "one every five seconds, the first and the last included")
		require.Zero(t, report.Failed)
		require.Equal(t, 2, report.Keys)
		require.Equal(t, started.Add(WatchFor+5*time.Second), report.LastTick.Local())
		for i := 1; i < len(b.beats); i++ {
			require.LessOrEqual(t, b.beats[i].at.Sub(b.beats[i-1].at), heartbeatEvery)
		}
		require.Equal(t, report, b.beats[len(b.beats)-1].details, "the heart tells the newest report")
	})
}

func TestSweepKeysGoesOnAfterATickThatFails(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	synctest.Test(t, func(t *testing.T) {
		logger, text := recorded()
		p.Log = logger
		p.Every = time.Minute
		p.store.traffic = []detect.Observation{ill(opus)}
		p.store.sweepErr = errAway
		back := time.Now().Add(150 * time.Second)
		p.store.before = func(context.Context) {
			if time.Now().After(back) {
				p.store.sweepErr = nil
			}
		}
		report, _, err := round(t, p, func(*bench) {})
		require.NoError(t, err)
		require.Equal(t, 3, report.Failed)
		require.Equal(t, 59, report.Ticks)
		require.Equal(t, page(opus), p.loops.heard()[0])
		require.Contains(t, text.String(), "a tick of the sweep failed")
	})
}

func TestSweepKeysBeatsWhileATickIsSlow(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	synctest.Test(t, func(t *testing.T) {
		started := time.Now()
		p.store.before = func(ctx context.Context) {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Minute):
			}
		}
		report, b, err := round(t, p, func(b *bench) { time.AfterFunc(time.Minute+time.Second, b.callOff) })
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 1, report.Ticks, "no further one, though it is due")
		require.Len(t, b.beats, 13, "every five seconds, and at the end")
		require.Equal(t, started.Add(heartbeatEvery), b.beats[0].at)
	})
}

func TestSweepKeysEndsAtOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		end   func(b *bench)
		check func(t *testing.T, err error)
	}{
		"when it is called off": {
			end: func(b *bench) { b.callOff() },
			check: func(t *testing.T, err error) {
				require.ErrorContains(t, err, context.Canceled.Error())
			},
		},
		"when the worker stops, for another to take over": {
			end: func(b *bench) { close(b.stop) },
			check: func(t *testing.T, err error) {
				var handover *temporal.ApplicationError
				require.ErrorAs(t, err, &handover)
				require.Equal(t, "WorkerStopping", handover.Type())
				require.False(t, handover.NonRetryable())
				require.Equal(t, time.Second, handover.NextRetryDelay())
				require.Equal(t, temporal.ApplicationErrorCategoryBenign, handover.Category())
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			synctest.Test(t, func(t *testing.T) {
				started := time.Now()
				_, b, err := round(t, p, func(b *bench) { time.AfterFunc(12*time.Second, func() { tc.end(b) }) })
				tc.check(t, err)
				require.Equal(t, started.Add(12*time.Second), time.Now(), "not at the next tick")
				require.Equal(t, 3, b.beats[len(b.beats)-1].details.(contract.SweepReport).Ticks)
			})
		})
	}
}

func TestSweepStartsAThousandLoopsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	var storm []detect.Observation
	for i := range 1000 {
		k := usage.Key{Tenant: fmt.Sprint("tenant", i), Model: "gpt-4o"}
		p.store.computed[k] = usual(k)
		storm = append(storm, ill(k))
	}
	require.Len(t, p.see(t, 0, storm...), 1000)
	require.Equal(t, 1000, p.report.Signals)
	require.Empty(t, p.see(t, 5*time.Second, storm...))
}
