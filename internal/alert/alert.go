// Package alert is the lifecycle of one key's alert as a pure state machine: a finding must hold
// before it fires, a recovery must hold before it ends, "no data" changes nothing, and nothing is
// told twice. The AlertLoop workflow is its shell.
package alert

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
)

// Phase is where the key's alert stands.
type Phase string

// The phases, in the order in which an alert passes through them.
const (
	Quiet      Phase = "quiet"
	Pending    Phase = "pending"    // a finding that has not held yet
	Firing     Phase = "firing"     // an incident is open
	Recovering Phase = "recovering" // the finding is gone; the incident is still open
)

// Holds are how long things must last. The demo profile scales them.
type Holds struct {
	Page        time.Duration `json:"page"`        // a PAGE, before it fires
	Investigate time.Duration `json:"investigate"` // an INVESTIGATE, before it fires
	Recovery    time.Duration `json:"recovery"`    // NONE, before the incident resolves
	Silence     time.Duration `json:"silence"`     // without facts, after which the key is inconclusive
	Forget      time.Duration `json:"forget"`      // without anything conclusive, after which an incident closes as it is; 0: never
}

// DefaultHolds are the product's.
var DefaultHolds = Holds{
	Page: 20 * time.Second, Investigate: 10 * time.Second, Recovery: 2 * time.Minute, Silence: 3 * time.Minute,
	Forget: 24 * time.Hour,
}

// Scaled returns the holds times scale (1 is real time).
func (h Holds) Scaled(scale float64) Holds {
	f := func(d time.Duration) time.Duration { return time.Duration(float64(d) * scale) }
	return Holds{f(h.Page), f(h.Investigate), f(h.Recovery), h.Silence, f(h.Forget)}
}

// State is the whole state of one key's alert; it survives continue-as-new as JSON.
type State struct {
	Phase    Phase        `json:"phase"`
	Level    detect.Level `json:"level"`     // of the finding now held
	Peak     detect.Level `json:"peak"`      // the incident's highest level
	Since    time.Time    `json:"since"`     // when the phase began
	LastFact time.Time    `json:"last_fact"` // evaluation time of the last conclusive fact
	LastTick int64        `json:"last_tick"`
	LastAny  time.Time    `json:"last_any"` // evaluation time of the last fact of any kind
	Flags    int          `json:"flags"`    // the key's flags that are on
	Silent   bool         `json:"silent"`
	Refires  int          `json:"refires"`
}

// New is a quiet key's state.
func New(now time.Time) State {
	return State{Phase: Quiet, Level: detect.None, Peak: detect.None, Since: now}
}

// Open reports whether the key has an incident.
func (s State) Open() bool { return s.Phase == Firing || s.Phase == Recovering }

// Idle reports whether nothing is left to do for the key.
func (s State) Idle() bool { return s.Phase == Quiet && s.Flags == 0 }

// Event is what happened: exactly one of its fields is set, or none when only time passed.
type Event struct {
	Fact     *Fact
	Flags    *int // the number of the key's flags that are on, when it changes
	Resolved bool // a person resolved the incident
}

// Fact is the part of a finding that the lifecycle needs.
type Fact struct {
	Tick        int64
	EvaluatedAt time.Time
	Level       detect.Level
}

// Effect is what the shell must do.
type Effect string

// The effects.
const (
	Fire     Effect = "fire"     // open an incident at State.Peak
	Escalate Effect = "escalate" // the open incident rose from INVESTIGATE to PAGE
	Recover  Effect = "recover"  // the finding is gone; the incident may soon resolve
	Refire   Effect = "refire"   // it came back before the incident was resolved
	Silence  Effect = "silence"  // no facts for Holds.Silence while not quiet
	Heard    Effect = "heard"    // facts are back after a silence
	Resolve  Effect = "resolve"  // close the incident
)

// Step applies one event at now. Facts that are not newer than the last are dropped. It returns at
// most a few effects, in the order in which they are to be carried out.
func Step(s State, e Event, h Holds, now time.Time) (State, []Effect) {
	var effects []Effect
	switch {
	case e.Fact != nil:
		if e.Fact.Tick <= s.LastTick {
			return s, nil
		}
		if s.Silent && s.Open() {
			effects = []Effect{Heard}
		}
		s.LastTick, s.LastAny, s.Silent = e.Fact.Tick, e.Fact.EvaluatedAt, false
		if e.Fact.Level != detect.Inconclusive {
			s.LastFact = e.Fact.EvaluatedAt
			var moved []Effect
			s, moved = s.fact(e.Fact.Level, now)
			effects = append(effects, moved...)
		}
	case e.Flags != nil:
		s.Flags = *e.Flags
	case e.Resolved:
		if s.Open() {
			return s.to(Quiet, now), []Effect{Resolve}
		}
	}
	s, more := s.time(h, now)
	return s, append(effects, more...)
}

// fact moves the phase by a conclusive level.
func (s State) fact(level detect.Level, now time.Time) (State, []Effect) {
	was := s.Level
	s.Level = level
	up := level == detect.Page || level == detect.Investigate
	switch s.Phase {
	case Quiet:
		if up {
			s = s.to(Pending, now)
		}
	case Pending:
		switch {
		case !up:
			s = s.to(Quiet, now)
		case level != was:
			s.Since = now // the hold counts from this level's own first signal
		}
	case Firing:
		switch {
		case !up:
			return s.to(Recovering, now), []Effect{Recover}
		case level == detect.Page && s.Peak != detect.Page:
			if was != detect.Page {
				s.Since = now
			}
		}
	case Recovering:
		if up {
			s.Refires++
			return s.to(Firing, now), []Effect{Refire}
		}
	}
	return s, nil
}

// time carries out what only waiting decides: holds that have passed and silence.
func (s State) time(h Holds, now time.Time) (State, []Effect) {
	held := now.Sub(s.Since)
	switch {
	case s.Phase == Pending && held >= h.forLevel(s.Level):
		s = s.to(Firing, now)
		s.Peak = s.Level
		s.Refires = 0
		return s, []Effect{Fire}
	case s.Phase == Firing && s.Level == detect.Page && s.Peak != detect.Page && held >= h.Page:
		s.Peak = detect.Page
		return s, []Effect{Escalate}
	case s.Phase == Recovering && s.Flags == 0 && !s.Silent && held >= h.Recovery && s.LastFact.Sub(s.Since) >= h.Recovery/2:
		// The second half of the condition: one NONE followed by "no data" is not a recovery.
		return s.to(Quiet, now), []Effect{Resolve}
	}
	if s.forgotten(h, now) {
		return s.to(Quiet, now), []Effect{Resolve}
	}
	if s.Phase != Quiet && !s.Silent && !s.LastAny.IsZero() && now.Sub(s.LastAny) >= h.Silence {
		s.Silent = true
		if s.Phase == Pending {
			s = s.to(Quiet, now)
		}
		return s, []Effect{Silence}
	}
	return s, nil
}

// forgotten reports whether an incident has had no conclusive fact for so long that nobody can say any
// more whether it is over: its key's traffic has gone, or is too thin.
func (s State) forgotten(h Holds, now time.Time) bool {
	return s.Open() && s.Flags == 0 && h.Forget > 0 && now.Sub(s.LastFact) >= h.Forget
}

// to enters a phase.
func (s State) to(p Phase, now time.Time) State {
	s.Phase, s.Since = p, now
	if p == Quiet {
		s.Level, s.Peak = detect.None, detect.None
	}
	return s
}

func (h Holds) forLevel(l detect.Level) time.Duration {
	if l == detect.Page {
		return h.Page
	}
	return h.Investigate
}

// NextWake is when Step must be called again even if nothing happens, and whether it must at all.
func (s State) NextWake(h Holds) (time.Time, bool) {
	var at time.Time
	consider := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	switch {
	case s.Phase == Pending:
		consider(s.Since.Add(h.forLevel(s.Level)))
	case s.Phase == Firing && s.Level == detect.Page && s.Peak != detect.Page:
		consider(s.Since.Add(h.Page))
	case s.Phase == Recovering && s.Flags == 0 && !s.Silent && s.LastFact.Sub(s.Since) >= h.Recovery/2:
		consider(s.Since.Add(h.Recovery))
	}
	if s.Phase != Quiet && !s.Silent && !s.LastAny.IsZero() {
		consider(s.LastAny.Add(h.Silence))
	}
	if s.Open() && s.Flags == 0 && h.Forget > 0 {
		consider(s.LastFact.Add(h.Forget))
	}
	return at, !at.IsZero()
}
