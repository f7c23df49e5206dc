package backtest

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// shard follows the keys of some tenants, in a goroutine of its own.
type shard struct {
	*Replay
	index    int // the first speaks for all telemetry
	batches  chan batch
	courses  []*Course
	changes  [][]Change
	entries  map[usage.Key]*entry
	order    [3][]*entry // keys, experiments, and pseudo-keys, which come last
	ever     map[usage.Key]struct{}
	silences detect.Silences
	base     map[usage.Key]detect.Baseline
	everyone detect.Baseline // of usage.Everything
	tried    time.Time       // when experiments were judged last
	before   time.Time       // the watermark of the last tick
	seen     []detect.Observation
	of       []*entry // of each of them; nil: a key that is silent
	use      BaselineUse
	unjudged int64
	failed   error
}

// entry is a key with something in its windows.
type entry struct {
	rolling *detect.Rolling
	seen    detect.Observation
	ok      bool
	base    *detect.Baseline
	fresh   bool // something came or left since it was observed last
	boring  bool // it was no candidate when it was judged last
}

const (
	ofKeys = iota
	ofExperiments
	ofPseudo
)

func newShard(r *Replay, n int) *shard {
	s := &shard{
		Replay: r, index: n, batches: make(chan batch, backlog), changes: make([][]Change, len(r.o.Sets)),
		entries: map[usage.Key]*entry{}, ever: map[usage.Key]struct{}{},
	}
	for i := range r.o.Sets {
		s.courses = append(s.courses, NewCourse(r.o.Tuning, r.o.Deployments, func(c Change, _ *State) { s.changes[i] = append(s.changes[i], c) }))
	}
	return s
}

func kindOf(k usage.Key) int {
	if _, _, experiment := k.Experiment(); experiment {
		return ofExperiments
	}
	if k.Pseudo() {
		return ofPseudo
	}
	return ofKeys
}

// entry is the key's, made when it is not there.
func (s *shard) entry(key usage.Key, watermark time.Time) *entry {
	e := s.entries[key]
	if e == nil {
		e = &entry{rolling: detect.NewRolling(key, watermark)}
		s.entries[key] = e
		s.ever[key] = struct{}{}
		kind := kindOf(key)
		s.order[kind] = append(s.order[kind], e)
		s.rebase(key, e)
	}
	e.fresh = true
	return e
}

// rebase gives an entry its baseline: an experiment's is that of the key that it belongs to.
func (s *shard) rebase(key usage.Key, e *entry) {
	if of, _, ok := key.Experiment(); ok {
		key = of
	}
	b := s.base[key]
	e.base, e.fresh = &b, true
}

// tick takes in what has arrived, and judges every key.
func (s *shard) tick(b batch) {
	at := b.now.Add(-s.o.Lag)
	if b.baselines != nil {
		s.rebaseAll(b.baselines, at)
	}
	turned := at.Unix()/60 != s.before.Unix()/60
	if turned {
		for _, e := range s.entries {
			e.rolling.Advance(at)
			e.fresh = true
		}
	}
	for i := range b.arrivals {
		a := &b.arrivals[i]
		s.entry(a.Key, at).rolling.Add(a)
		if kindOf(a.Key) == ofKeys && !s.o.OneModel {
			s.entry(usage.Key{Tenant: a.Key.Tenant, Model: usage.AnyModel}, at).rolling.Add(a)
		}
	}
	s.observe(b, at, detect.PaceTurns(s.before, at))
	s.judge(b.now, at)
	s.before = at
}

func (s *shard) rebaseAll(baselines map[usage.Key]detect.Baseline, at time.Time) {
	s.base = baselines
	for key, e := range s.entries {
		s.rebase(key, e)
	}
	mine := func(tenant string) bool { return s.shardOf(tenant) == s.index }
	s.everyone, _ = s.silences.Expect(baselines, s.o.Tuning.Limits.Minimums.Cost, mine, at)
}

// observe makes the observations of the tick, those of keys in front.
func (s *shard) observe(b batch, at time.Time, pace bool) {
	s.seen, s.of = s.seen[:0], s.of[:0]
	experiments := b.now.Sub(s.tried) >= experimentsEvery
	if experiments {
		s.tried = b.now
	}
	for kind := range s.order {
		if kind == ofExperiments && !experiments {
			continue
		}
		kept := s.order[kind][:0]
		for _, e := range s.order[kind] {
			e.fresh = e.fresh || pace && e.rolling.Spends()
			if e.fresh || !e.boring || s.o.Observed != nil || s.held(e.rolling.Key()) {
				e.seen, e.ok = e.rolling.Observe(at)
			}
			if !e.ok && e.rolling.Idle() {
				delete(s.entries, e.rolling.Key())
				continue
			}
			kept = append(kept, e)
			if e.ok && kind == ofKeys {
				s.seen, s.of = append(s.seen, e.seen), append(s.of, e)
			}
		}
		clear(s.order[kind][len(kept):])
		s.order[kind] = kept
	}
	s.silent(b, at)
	for _, kind := range []int{ofExperiments, ofPseudo} {
		if kind == ofExperiments && !experiments {
			continue
		}
		for _, e := range s.order[kind] {
			if e.ok {
				s.seen, s.of = append(s.seen, e.seen), append(s.of, e)
			}
		}
	}
	s.keys.Add(int64(len(s.seen)))
}

// experimentsEvery is how often experiments are judged, as in the sweep.
const experimentsEvery = time.Minute

// silent adds the keys that are silent to the observations, which are only those of keys yet.
func (s *shard) silent(b batch, at time.Time) {
	if !s.silences.Any() {
		return
	}
	calls := s.silences.Hear(s.seen, at)
	if calls == 0 {
		calls = b.calls
	}
	n := len(s.seen)
	s.seen = s.silences.Add(s.seen, calls, s.index == 0 && !s.o.Partial, s.held, at)
	for range s.seen[n:] {
		s.of = append(s.of, nil)
	}
}

// judge puts every observation to every course. Of a key without an alert whose facts are what they were when it was no
// candidate, no set can say anything new.
func (s *shard) judge(now, at time.Time) {
	slot := at.Truncate(time.Hour)
	for i, set := range s.o.Sets {
		s.note(s.courses[i].Advance(set, now))
	}
	for i := range s.seen {
		o, e := &s.seen[i], s.of[i]
		if s.o.Observed != nil {
			s.o.Observed(now, *o)
		}
		base := s.baselineOf(o.Key, e)
		switch {
		case base.Version == "" && base.LeastCalls == 0:
			s.use.Missing++
		case base.Slot.Equal(slot):
			s.use.Hour++
		default:
			s.use.Older++
		}
		if e != nil && e.boring && !e.fresh && o.Silence == 0 && !s.held(o.Key) {
			continue
		}
		facts := detect.Assemble(*o, *base, s.o.Tuning.Limits.Minimums, detect.None)
		if e != nil {
			e.fresh, e.boring = false, !detect.Candidate(facts)
		}
		for n, set := range s.o.Sets {
			f := facts
			s.note(s.courses[n].Judge(set, Seen{Key: o.Key, Facts: &f, Calls: o.Whole.Requests, Baseline: base, Watch: at, Now: now}))
		}
	}
}

func (s *shard) held(key usage.Key) bool {
	for _, c := range s.courses {
		if c.Holds(key) {
			return true
		}
	}
	return false
}

func (s *shard) baselineOf(key usage.Key, e *entry) *detect.Baseline {
	switch {
	case e != nil:
		return e.base
	case key == usage.Everything:
		return &s.everyone
	}
	b := s.base[key]
	return &b
}

func (s *shard) note(err error) {
	if err == nil {
		return
	}
	if s.unjudged++; s.failed == nil {
		s.failed = err
	}
}
