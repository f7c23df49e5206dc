package alert

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/detect"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// moment is one event at so many seconds: a fact where level is set, the number of flags where set is
// true, a person's resolve, or time that merely passed.
type moment struct {
	at      int
	level   detect.Level
	set     bool
	flags   int
	resolve bool
	want    []Effect
	phase   Phase
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	for name, moments := range map[string][]moment{
		"a page fires after its hold and resolves by itself": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 19, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 60, level: detect.None, want: []Effect{Recover}, phase: Recovering},
			{at: 120, level: detect.None, phase: Recovering},
			{at: 180, level: detect.None, want: []Effect{Resolve}, phase: Quiet},
		},
		"noise that does not hold fires nothing": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 10, level: detect.None, phase: Quiet},
			{at: 30, phase: Quiet},
		},
		"a level change in pending starts the hold again": {
			{at: 0, level: detect.Investigate, phase: Pending},
			{at: 8, level: detect.Page, phase: Pending},
			{at: 20, phase: Pending},
			{at: 28, want: []Effect{Fire}, phase: Firing},
		},
		"an investigation escalates once": {
			{at: 0, level: detect.Investigate, phase: Pending},
			{at: 10, want: []Effect{Fire}, phase: Firing},
			{at: 30, level: detect.Page, phase: Firing},
			{at: 50, want: []Effect{Escalate}, phase: Firing},
			{at: 70, level: detect.Page, phase: Firing},
		},
		"no data neither starts nor ends anything": {
			{at: 0, level: detect.Inconclusive, phase: Quiet},
			{at: 10, level: detect.Page, phase: Pending},
			{at: 30, want: []Effect{Fire}, phase: Firing},
			{at: 60, level: detect.Inconclusive, phase: Firing},
			{at: 120, level: detect.Inconclusive, phase: Firing},
		},
		"one NONE and then no data is not a recovery": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 60, level: detect.None, want: []Effect{Recover}, phase: Recovering},
			{at: 120, level: detect.Inconclusive, phase: Recovering},
			{at: 200, level: detect.Inconclusive, phase: Recovering},
		},
		"an incident with a flag on does not resolve": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 30, set: true, flags: 1, phase: Firing},
			{at: 60, level: detect.None, want: []Effect{Recover}, phase: Recovering},
			{at: 150, level: detect.None, phase: Recovering},
			{at: 210, level: detect.None, phase: Recovering},
			{at: 220, set: true, flags: 0, want: []Effect{Resolve}, phase: Quiet},
		},
		"it comes back before it was resolved": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 60, level: detect.None, want: []Effect{Recover}, phase: Recovering},
			{at: 90, level: detect.Page, want: []Effect{Refire}, phase: Firing},
		},
		"silence is told once, and after a day the incident is forgotten": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 180, want: []Effect{Silence}, phase: Firing},
			{at: 400, phase: Firing},
			{at: 410, level: detect.Page, want: []Effect{Heard}, phase: Firing},
			{at: 590, want: []Effect{Silence}, phase: Firing},
			{at: 410 + 86399, phase: Firing},
			{at: 410 + 86400, want: []Effect{Resolve}, phase: Quiet},
		},
		"a person resolves": {
			{at: 0, level: detect.Page, phase: Pending},
			{at: 20, want: []Effect{Fire}, phase: Firing},
			{at: 40, resolve: true, want: []Effect{Resolve}, phase: Quiet},
			{at: 50, resolve: true, phase: Quiet},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := New(start)
			for i, m := range moments {
				now := start.Add(time.Duration(m.at) * time.Second)
				e := Event{Resolved: m.resolve}
				if m.level != "" {
					e.Fact = &Fact{Tick: int64(m.at) + 1, EvaluatedAt: now, Level: m.level}
				}
				if m.set {
					e.Flags = &m.flags
				}
				var got []Effect
				s, got = Step(s, e, DefaultHolds, now)
				require.Equal(t, m.want, got, "moment %d", i)
				require.Equal(t, m.phase, s.Phase, "moment %d", i)
			}
		})
	}
}

// TestOrder: whatever happens, fire and resolve alternate, nothing else is told of a closed
// incident, old ticks change nothing, and the state survives JSON.
func TestOrder(t *testing.T) {
	t.Parallel()
	levels := []detect.Level{detect.None, detect.Investigate, detect.Page, detect.Inconclusive}
	rapid.Check(t, func(t *rapid.T) {
		s, now, open := New(start), start, false
		for i := range rapid.IntRange(1, 200).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
			var e Event
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				e.Resolved = true
			case 1:
				n := rapid.IntRange(0, 2).Draw(t, "flags")
				e.Flags = &n
			case 2: // only time
			default:
				e.Fact = &Fact{Tick: int64(i) + 1, EvaluatedAt: now, Level: rapid.SampledFrom(levels).Draw(t, "level")}
			}
			var effects []Effect
			s, effects = Step(s, e, DefaultHolds, now)
			for _, f := range effects {
				switch f {
				case Fire:
					require.False(t, open)
					open = true
				case Resolve:
					require.True(t, open)
					open = false
				case Escalate, Recover, Refire, Heard:
					require.True(t, open)
				}
			}
			require.Equal(t, open, s.Open())
			if e.Fact != nil {
				again, none := Step(s, e, DefaultHolds, now)
				require.Empty(t, none)
				require.Equal(t, s, again)
			}
			raw, err := json.Marshal(s)
			require.NoError(t, err)
			var back State
			require.NoError(t, json.Unmarshal(raw, &back))
			require.Equal(t, s, back)
			if at, ok := s.NextWake(DefaultHolds); ok && !at.After(now) {
				next, effects := Step(s, Event{}, DefaultHolds, now)
				require.True(t, len(effects) > 0 || next != s, "a wake that is due does something")
			}
		}
	})
}
