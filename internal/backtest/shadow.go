package backtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The sets of shadow mode.
const (
	LiveSet   = "live"
	ShadowSet = "shadow"
)

// Running is the kind of change that says that shadow mode was running at the time.
const Running Kind = "run"

// ShadowStore keeps what shadow mode finds: package clickhouse.
type ShadowStore interface {
	RecordShadow(ctx context.Context, rows []clickhouse.ShadowRow) error
	ShadowStates(ctx context.Context) ([]clickhouse.ShadowRow, error)
}

// itself is the key of what shadow mode says of itself: no telemetry has a tenant * and no model.
var itself = usage.Key{Tenant: usage.AnyModel}

const (
	// aliveEvery is how often shadow mode says that it is running.
	aliveEvery = 10 * time.Minute
	// aliveGap is how long nothing may have been said for what was found before to be gone on from.
	aliveGap = 3 * aliveEvery
	// retryRestore is how often a store that is away is asked where shadow mode was; until it answers nothing is judged.
	retryRestore = time.Minute
	// maxPending bounds the changes that wait while the store is away.
	maxPending = 10_000
	// tellFailure is how often it is stored that the second set cannot be asked.
	tellFailure = time.Minute
	// storeTime bounds what a tick waits for the store.
	storeTime = 5 * time.Second
)

// Shadow follows a second set beside the live one through the ticks of a sweep, on the same candidates, by levels and
// alerts of its own. It acts on nothing and tells nobody. Nothing that goes wrong with it is the tick's concern: it is
// counted, and shown by its report. It is for one goroutine.
type Shadow struct {
	store    ShadowStore
	tuning   contract.Tuning
	mine     func(tenant string) bool // the shard's
	speaks   bool                     // for all shards, of whether shadow mode is running
	courses  map[string]*Course
	pending  []clickhouse.ShadowRow
	seq      uint32
	restored bool
	tried    time.Time // to restore
	alive    time.Time // when it was said last
	told     time.Time // when a failure was told last
	live     *policy.Set
	set      *policy.Set // the second one; nil: none that is good yet

	Failed  int64 // times that the second set could not be asked
	Dropped int64 // changes that were lost because the store was away for too long
}

// NewShadow begins to follow the keys of a shard. One shard speaks for all.
func NewShadow(store ShadowStore, tuning contract.Tuning, mine func(tenant string) bool, speaks bool) *Shadow {
	s := &Shadow{store: store, tuning: tuning, mine: mine, speaks: speaks, courses: map[string]*Course{}}
	for _, name := range []string{LiveSet, ShadowSet} {
		s.courses[name] = NewCourse(tuning, nil, func(c Change, state *State) { s.note(name, c, state) })
	}
	return s
}

// Begin begins a tick with the sets in force. Before the first one it reads where an earlier sweep was.
func (s *Shadow) Begin(ctx context.Context, live, shadow *policy.Set, now time.Time) error {
	s.live, s.set = live, shadow
	if s.set == nil {
		return nil
	}
	if !s.restored {
		if now.Sub(s.tried) < retryRestore {
			return nil
		}
		s.tried = now
		if err := s.restore(ctx, now); err != nil {
			return err
		}
		s.restored = true
	}
	if s.speaks && now.Sub(s.alive) >= aliveEvery {
		s.alive = now
		s.note(ShadowSet, Change{At: now, Key: itself, Kind: Running, Revision: shadow.Revision()}, nil)
		s.note(LiveSet, Change{At: now, Key: itself, Kind: Running, Revision: live.Revision()}, nil)
	}
	s.failed(s.courses[LiveSet].Advance(live, now), now)
	s.failed(s.courses[ShadowSet].Advance(shadow, now), now)
	return nil
}

// restore goes on from what was stored last. When shadow mode has been away for long, that says nothing of now: what was
// open ends where it was last seen, and so does what cannot be read.
func (s *Shadow) restore(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	rows, err := s.store.ShadowStates(ctx)
	if err != nil {
		return err
	}
	var alive time.Time
	for _, r := range rows {
		if r.Key == itself && r.At.After(alive) {
			alive = r.At
		}
	}
	for _, r := range rows {
		if r.State == "" || !s.mine(r.Key.Tenant) || s.courses[r.Set] == nil {
			continue
		}
		var state State
		unread := json.Unmarshal([]byte(r.State), &state)
		if unread == nil && now.Sub(alive) <= aliveGap {
			s.courses[r.Set].Restore(r.Key, state, now)
			continue
		}
		end, reason := r.At, "shadow mode was away"
		if alive.After(end) {
			end = alive
		}
		if unread != nil { // of another version; it must not keep the others from being followed
			reason = "what was known of it cannot be read"
		}
		s.note(r.Set, Change{At: end.Add(time.Millisecond), Key: r.Key, Kind: Resolve, Revision: r.Revision, Level: detect.None, Reason: reason}, nil)
	}
	return nil
}

// See takes in a key that the sweep looks at: what the live set says of it, where it could be asked, and asks the second.
// Pseudo-keys come behind the others.
func (s *Shadow) See(seen Seen, live *detect.Verdict) {
	if s.set == nil || !s.restored {
		return
	}
	if live != nil {
		s.failed(s.courses[LiveSet].Hear(s.live, seen, *live), seen.Now)
	}
	if course := s.courses[ShadowSet]; course.Holds(seen.Key) || detect.Candidate(*seen.Facts) {
		facts := *seen.Facts
		seen.Facts = &facts
		s.failed(course.Judge(s.set, seen), seen.Now)
	}
}

// Holds reports whether the second set holds an alert of the key.
func (s *Shadow) Holds(key usage.Key) bool { return s.courses[ShadowSet].Holds(key) }

func (s *Shadow) failed(err error, now time.Time) {
	if err == nil {
		return
	}
	if s.Failed++; now.Sub(s.told) >= tellFailure {
		s.told = now
		s.note(ShadowSet, Change{At: now, Key: itself, Kind: Failed, Revision: s.set.Revision(), Reason: err.Error()}, nil)
	}
}

// note puts a change among those to be stored.
func (s *Shadow) note(set string, c Change, state *State) {
	if len(s.pending) >= maxPending {
		s.Dropped++
		return
	}
	s.seq++
	r := clickhouse.ShadowRow{
		At: c.At, Key: c.Key, Set: set, Seq: s.seq, Kind: string(c.Kind), Revision: c.Revision,
		Level: string(c.Level), Rule: c.Rule, Reason: c.Reason,
	}
	if c.Facts != nil {
		r.Facts = text(c.Facts)
	}
	if c.Act != nil {
		r.Act = text(c.Act)
	}
	if state != nil {
		r.State = text(state)
	}
	s.pending = append(s.pending, r)
}

// text is a value as JSON. Facts are finite, so that all of these have one.
func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(raw)
}

// End stores what changed in the tick. What cannot be stored waits for the next one.
func (s *Shadow) End(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if err := s.store.RecordShadow(ctx, s.pending); err != nil {
		return err
	}
	s.pending = s.pending[:0]
	return nil
}

// ReadShadow reports on what shadow mode found in [from, to): of incidents that began there.
func ReadShadow(ctx context.Context, store *clickhouse.Store, from, to time.Time) (Report, error) {
	rows, err := store.ShadowChanges(ctx, from, to)
	if err != nil {
		return Report{}, err
	}
	return ShadowReport(rows, from, to)
}

// ShadowReport is ReadShadow on its rows.
func ShadowReport(rows []clickhouse.ShadowRow, from, to time.Time) (Report, error) {
	report := Report{From: from, To: to}
	changes, revisions := map[string][]Change{}, map[string][]string{}
	ran := map[int64]bool{}
	keys := map[usage.Key]bool{}
	for i := range rows {
		r := &rows[i]
		c, err := changeOf(r)
		if err != nil {
			return report, fmt.Errorf("the change of %s at %s: %w", r.Key, moment(r.At), err)
		}
		if r.Revision != "" && !slices.Contains(revisions[r.Set], r.Revision) {
			revisions[r.Set] = append(revisions[r.Set], r.Revision)
		}
		if c.Kind == Running {
			ran[r.At.Unix()/int64(aliveEvery.Seconds())] = true
			continue
		}
		if r.Key != itself {
			keys[r.Key] = true
		}
		changes[r.Set] = append(changes[r.Set], c)
	}
	report.Keys = len(keys)
	for _, name := range []string{LiveSet, ShadowSet} {
		report.Sets = append(report.Sets, NewSetReport(name, revisions[name], changes[name], to))
	}
	switch all := int64(to.Sub(from) / aliveEvery); {
	case len(ran) == 0:
		report.Notes = append(report.Notes, "shadow mode did not run in this time, so that nothing is known: name a directory by policies_shadow (flyball up --policies-shadow)")
	case int64(len(ran)) < all:
		report.Notes = append(report.Notes, fmt.Sprintf("shadow mode ran %.1f %% of this time; nothing is known of the rest", 100*float64(len(ran))/float64(all)))
	}
	report.Notes = append(report.Notes, "proposals are as nothing was done and nothing was looked up: deployments, provider health and cool-downs are neutral, for both sets")
	return report, nil
}

func changeOf(r *clickhouse.ShadowRow) (Change, error) {
	c := Change{At: r.At, Key: r.Key, Kind: Kind(r.Kind), Revision: r.Revision, Level: detect.Level(r.Level), Rule: r.Rule, Reason: r.Reason}
	var failed error
	if r.Facts != "" {
		c.Facts = new(detect.Facts)
		failed = json.Unmarshal([]byte(r.Facts), c.Facts)
	}
	if r.Act != "" {
		c.Act = new(Act)
		failed = errors.Join(failed, json.Unmarshal([]byte(r.Act), c.Act))
	}
	return c, failed
}
