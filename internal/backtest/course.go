// Package backtest says what a policy set makes of telemetry over time without acting on any of it: what would have
// fired, what would have been proposed, how that compares with incidents that people know of, and with what another
// set makes of the same. A Course follows one set through ticks, live in the sweep (shadow mode) or over stored
// telemetry; a Replay gives Courses the ticks of the past, each from what was known then; a Report tells what came
// of them.
package backtest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Kind is what a Change is.
type Kind string

// The kinds of change. An incident is from a fire to the resolve that follows it.
const (
	Level    Kind = "level"    // what the set finds of the key is another level
	Fire     Kind = "fire"     // the finding has held: an incident would open
	Escalate Kind = "escalate" // the incident rises to a PAGE
	Resolve  Kind = "resolve"  // the incident would end
	Propose  Kind = "propose"  // act.yaml wants something done about the incident
	Failed   Kind = "failed"   // the set could not be asked
)

// Change is one thing that a set made of a key.
type Change struct {
	At       time.Time     `json:"at"`
	Key      usage.Key     `json:"key"`
	Kind     Kind          `json:"kind"`
	Revision string        `json:"revision"` // of the set
	Level    detect.Level  `json:"level"`    // now held; of the incident with fire, escalate, resolve and propose
	Rule     string        `json:"rule"`
	Reason   string        `json:"reason"`
	Facts    *detect.Facts `json:"facts,omitempty"` // with resolve: those of the incident that stood out most
	Act      *Act          `json:"act,omitempty"`
}

// Act is something that act.yaml proposes.
type Act struct {
	Step   string        `json:"step"` // of the runbook, after which it was asked
	Action policy.Action `json:"action"`
	Target string        `json:"target,omitempty"`
	Mode   policy.Mode   `json:"mode"`
	Rule   string        `json:"rule"`
	Reason string        `json:"reason"`
}

// same reports whether two proposals are for the same.
func (a Act) same(b Act) bool {
	return a.Action == b.Action && a.Target == b.Target && a.Mode == b.Mode
}

func (a Act) String() string {
	text := fmt.Sprintf("%s (%s)", a.Action, a.Mode)
	if a.Target != "" {
		text = fmt.Sprintf("%s to %s (%s)", a.Action, a.Target, a.Mode)
	}
	return text
}

// State is what a course knows of a key with an alert; a course that is restored goes on from it.
type State struct {
	Level    detect.Level   `json:"level"` // last found
	Alert    alert.State    `json:"alert"`
	Opened   time.Time      `json:"opened"` // of the incident
	Rule     string         `json:"rule"`   // of the last level that was found
	Reason   string         `json:"reason"`
	Facts    detect.Facts   `json:"facts"` // of the last level that was found
	Peak     detect.Facts   `json:"peak"`  // of the incident
	Done     []runbook.Done `json:"done,omitempty"`
	Proposed []Act          `json:"proposed,omitempty"`
}

// Course follows what one set makes of every key: the level that each holds, by its own hysteresis, and the life of its
// alert. Nothing that a set wants is done, so every alert lives as if nobody had done anything. It is for one
// goroutine.
type Course struct {
	tuning  contract.Tuning
	deploys func(key usage.Key, from, to time.Time) []usage.Deployment // known at to; nil: none are known of
	tell    func(Change, *State)
	keys    map[usage.Key]*life
	busy    map[string]int // tenants' keys with an alert that own flags
}

// life is a key with an alert.
type life struct {
	State
	told  time.Time // when the alert last heard
	calls int64     // in the longest window, as last seen
	base  detect.Baseline
}

// NewCourse follows a set by a tuning, and tells of every change, together with what a course needs to go on behind it:
// nil when the key has no alert any more, else to be read before tell returns.
func NewCourse(tuning contract.Tuning, deployments func(key usage.Key, from, to time.Time) []usage.Deployment, tell func(Change, *State)) *Course {
	return &Course{tuning: tuning, deploys: deployments, tell: tell, keys: map[usage.Key]*life{}, busy: map[string]int{}}
}

// Holds reports whether the key has an alert.
func (c *Course) Holds(key usage.Key) bool { return c.keys[key] != nil }

// Restore has the course go on from what another knew of a key at now.
func (c *Course) Restore(key usage.Key, s State, now time.Time) {
	if c.keys[key] != nil || s.Alert.Idle() {
		return
	}
	// What it heard since its last change is not stored; it has hardly been silent.
	s.Alert.LastAny = now
	if s.Alert.LastFact.Before(now.Add(-c.tuning.Holds.Recovery)) && s.Alert.Phase == alert.Firing {
		s.Alert.LastFact = now
	}
	c.open(key, &life{State: s})
}

func (c *Course) open(key usage.Key, l *life) {
	c.keys[key] = l
	if key.OwnsFlags() {
		c.busy[key.Tenant]++
	}
}

func (c *Course) close(key usage.Key) {
	delete(c.keys, key)
	if key.OwnsFlags() {
		if c.busy[key.Tenant]--; c.busy[key.Tenant] == 0 {
			delete(c.busy, key.Tenant)
		}
	}
}

func up(l detect.Level) bool { return l == detect.Investigate || l == detect.Page }

// Seen is a key at a tick: its facts but for the level that is held, and what they were drawn from.
type Seen struct {
	Key      usage.Key
	Facts    *detect.Facts // Active is set by whoever judges
	Calls    int64         // in the longest window
	Baseline *detect.Baseline
	Watch    time.Time // the watermark
	Now      time.Time
}

// Judge says what the set makes of a key at a tick, as the sweep does: keys without an alert are put to the set only
// when they are candidates; a pseudo-key is muted while a key of its tenant has an alert, so that it comes behind
// those; experiments never page; a key of which nothing can be said hears nothing.
func (c *Course) Judge(set *policy.Set, s Seen) error {
	l := c.keys[s.Key]
	s.Facts.Active = string(detect.None)
	if l != nil {
		s.Facts.Active = string(l.Level)
	}
	_, _, experiment := s.Key.Experiment()
	var verdict detect.Verdict
	switch {
	case s.Key.Pseudo() && c.busy[s.Key.Tenant] > 0:
		if l == nil {
			return nil
		}
		verdict = detect.Verdict{Level: detect.Inconclusive, Reason: "muted: one of the tenant's models has an open alert"}
	case l != nil || detect.Candidate(*s.Facts):
		var err error
		if verdict, err = set.Alert(*s.Facts); err != nil {
			return fmt.Errorf("judging %s: %w", s.Key, err)
		}
	default:
		return nil
	}
	if experiment && verdict.Level == detect.Page {
		verdict.Level = detect.Investigate
	}
	return c.Hear(set, s, verdict)
}

// Hear takes a verdict on a key at a tick, whoever judged it. What act.yaml says of the incident that follows is
// asked of the set.
func (c *Course) Hear(set *policy.Set, s Seen, v detect.Verdict) error {
	if v.Level == detect.Inconclusive && s.Facts.CallsKnown && s.Facts.Calls == 0 {
		return nil
	}
	l := c.keys[s.Key]
	if l == nil {
		if !up(v.Level) {
			return nil
		}
		l = &life{State: State{Level: detect.None, Alert: alert.New(s.Now)}}
		c.open(s.Key, l)
	}
	l.calls, l.base = s.Calls, *s.Baseline
	moved := v.Level != l.Level && v.Level != detect.Inconclusive
	if up(v.Level) {
		l.Rule, l.Reason, l.Facts = v.Rule, v.Reason, *s.Facts
		if l.Alert.Open() && severity(&l.Facts) > severity(&l.Peak) {
			l.Peak = l.Facts
		}
	}
	if !moved && s.Now.Sub(l.told) < min(time.Minute, c.tuning.Holds.Recovery/2) {
		return nil
	}
	l.told = s.Now
	var level *Change
	if moved {
		l.Level = v.Level
		facts := *s.Facts
		level = &Change{At: s.Now, Kind: Level, Level: v.Level, Rule: v.Rule, Reason: v.Reason, Facts: &facts, Revision: set.Revision()}
	}
	fact := &alert.Fact{Tick: s.Now.UnixMilli(), EvaluatedAt: s.Watch, Level: v.Level}
	return c.step(set, s.Key, l, alert.Event{Fact: fact}, s.Now, level)
}

// severity says how far facts are from usual.
func severity(f *detect.Facts) float64 {
	worst := max(f.CostRatio, f.SpendRatio, 1)
	if f.QualityRatio > 0 {
		worst = max(worst, 1/f.QualityRatio)
	}
	return worst
}

// Advance carries out what only time decides until now: holds, silences, and the steps of the runbook.
func (c *Course) Advance(set *policy.Set, now time.Time) error {
	var failed error
	for _, key := range slices.SortedFunc(maps.Keys(c.keys), compareKeys) {
		l := c.keys[key]
		for l.Alert.Phase != alert.Quiet {
			at, due := l.Alert.NextWake(c.tuning.Holds)
			if !due || at.After(now) {
				break
			}
			before := l.Alert
			if err := c.step(set, key, l, alert.Event{}, at, nil); err != nil && failed == nil {
				failed = err
			}
			if l.Alert == before {
				break
			}
		}
		if err := c.walk(set, key, l, now); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

func compareKeys(a, b usage.Key) int {
	if n := strings.Compare(a.Tenant, b.Tenant); n != 0 {
		return n
	}
	return strings.Compare(a.Model, b.Model)
}

// step gives the key's alert an event, and tells of the level that came with it and of what follows.
func (c *Course) step(set *policy.Set, key usage.Key, l *life, e alert.Event, now time.Time, level *Change) (failed error) {
	var effects []alert.Effect
	l.Alert, effects = alert.Step(l.Alert, e, c.tuning.Holds, now)
	if level != nil {
		c.change(key, l, *level)
	}
	for _, effect := range effects {
		change := Change{At: now, Level: l.Alert.Peak, Rule: l.Rule, Reason: l.Reason, Revision: set.Revision()}
		facts := l.Facts
		change.Facts = &facts
		switch effect {
		case alert.Fire:
			l.Opened, l.Peak, l.Done, l.Proposed = now, l.Facts, nil, nil
			change.Kind = Fire
			c.change(key, l, change)
			failed = c.walk(set, key, l, now)
		case alert.Escalate:
			change.Kind = Escalate
			c.change(key, l, change)
			failed = c.ask(set, key, l, now)
		case alert.Refire:
			failed = c.ask(set, key, l, now)
		case alert.Resolve:
			change.Kind, change.Level = Resolve, detect.None
			facts = l.Peak
			c.change(key, l, change)
		}
	}
	if l.Alert.Idle() {
		c.close(key)
	}
	return failed
}

// change tells of one.
func (c *Course) change(key usage.Key, l *life, change Change) {
	change.Key = key
	if l.Alert.Idle() {
		c.tell(change, nil)
		return
	}
	c.tell(change, &l.State)
}
