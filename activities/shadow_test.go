package activities

import (
	"context"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

// fakeShadows is the store of what shadow mode finds.
type fakeShadows struct {
	rows   []clickhouse.ShadowRow
	err    error
	before func(ctx context.Context) // of every question; may be nil
}

func (f *fakeShadows) ask(ctx context.Context) {
	if f.before != nil {
		f.before(ctx)
	}
}

func (f *fakeShadows) RecordShadow(ctx context.Context, rows []clickhouse.ShadowRow) error {
	f.ask(ctx)
	if f.err == nil {
		f.rows = append(f.rows, rows...)
	}
	return f.err
}

func (f *fakeShadows) ShadowStates(ctx context.Context) ([]clickhouse.ShadowRow, error) {
	f.ask(ctx)
	type of struct {
		key usage.Key
		set string
	}
	last := map[of]clickhouse.ShadowRow{}
	for _, r := range f.rows {
		last[of{r.Key, r.Set}] = r
	}
	var states []clickhouse.ShadowRow
	for _, r := range last {
		if r.State != "" || r.Key.Model == "" {
			states = append(states, r)
		}
	}
	return states, f.err
}

const eager = `
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
    - condition: |
        cost_ratio > 1.25
      output: |
        Verdict{level: "PAGE", rule: "eager", reason: "this policy pages early"}
    - output: |
        Verdict{level: "NONE", rule: "none", reason: ""}
`

// shadowed is a plant with a second set: one that pages from a cost of 1.25 ×, and cannot judge haiku.
func shadowed(t *testing.T, rows *fakeShadows) *plant {
	t.Helper()
	set, err := policy.Compile(fstest.MapFS{"alert.yaml": {Data: []byte(eager)}})
	require.NoError(t, err)
	p := newPlant(t)
	p.request.Shard, p.request.Shards = 0, 1
	p.Sweeper.Shadow, p.Sweeper.Shadows = func() *policy.Set { return set }, rows
	p.sweep = newSweep(p.Sweeper, p.request)
	return p
}

// ticks has the plant tick every five seconds.
func (p *plant) ticks(t *testing.T, from, to time.Duration, traffic ...detect.Observation) (heard []told) {
	t.Helper()
	for after := from; after < to; after += 5 * time.Second {
		heard = append(heard, p.see(t, after, traffic...)...)
	}
	return heard
}

// report is what `flyball policy shadow` tells of an hour.
func (f *fakeShadows) report(t *testing.T) backtest.Report {
	t.Helper()
	r, err := backtest.ShadowReport(f.rows, now.Add(-time.Minute), now.Add(time.Hour))
	require.NoError(t, err)
	r.Compare(5 * time.Minute)
	return r
}

func TestShadowJudgesAndTellsNobody(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	require.Empty(t, p.ticks(t, 0, time.Minute, seen(opus, 1.3, 1)), "no loop hears of the second set")
	require.Empty(t, p.ticks(t, time.Minute, 5*time.Minute, well(opus)))
	r := rows.report(t)
	require.Empty(t, r.Sets[0].Episodes)
	require.Len(t, r.Sets[1].Episodes, 1)
	e := r.Sets[1].Episodes[0]
	require.Equal(t, opus, e.Key)
	require.Equal(t, detect.Page, e.Level)
	require.Equal(t, now.Add(20*time.Second), e.From, "after its own hold, to the second")
	require.Equal(t, now.Add(time.Minute+2*time.Minute), e.To)
	require.Greater(t, e.Peak.CostRatio, 1.29)
	require.NotEmpty(t, e.Acts, "what it would have done is known too")
	require.Len(t, r.Difference.OnlyB, 1)
	require.Zero(t, p.report.ShadowFailed)
}

// Both sets find it; each holds its own level, and the one that leaves later has the longer incident.
func TestShadowHoldsLevelsOfItsOwn(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	p.ticks(t, 0, time.Minute, ill(opus))
	p.ticks(t, time.Minute, 6*time.Minute, seen(opus, 1.22, 1)) // still held by the live set, which leaves at 1.2
	p.ticks(t, 6*time.Minute, 10*time.Minute, well(opus))
	r := rows.report(t)
	require.Len(t, r.Sets[0].Episodes, 1)
	require.Len(t, r.Sets[1].Episodes, 1)
	require.Equal(t, now.Add(8*time.Minute), r.Sets[0].Episodes[0].To)
	require.Empty(t, r.Difference.OnlyA)
	require.Empty(t, r.Difference.OnlyB)
}

func TestShadowThatCannotBeAskedIsNoFailureOfTheTick(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	require.Equal(t, []told{page(haiku), page(opus)}, p.ticks(t, 0, 30*time.Second, ill(haiku), ill(opus)))
	require.EqualValues(t, 6, p.report.ShadowFailed)
	r := rows.report(t)
	require.EqualValues(t, 1, r.Sets[1].Failures, "told once a minute")
	require.Contains(t, r.Sets[1].Failure, "judging org_42/claude-3-haiku")
	require.Len(t, r.Sets[1].Episodes, 1, "and the other key was judged")
	require.Len(t, r.Sets[0].Episodes, 2)
}

func TestShadowGoesOnAfterARestart(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	p.ticks(t, 0, time.Minute, seen(opus, 1.3, 1))
	p = shadowed(t, rows) // another worker
	p.ticks(t, time.Minute, 2*time.Minute, seen(opus, 1.3, 1))
	p.ticks(t, 2*time.Minute, 5*time.Minute, well(opus))
	e := rows.report(t).Sets[1].Episodes
	require.Len(t, e, 1)
	require.Equal(t, now.Add(20*time.Second), e[0].From)
	require.Equal(t, now.Add(4*time.Minute), e[0].To)

	p = shadowed(t, rows)
	p.ticks(t, 10*time.Minute, 11*time.Minute, seen(opus, 1.3, 1))
	p = shadowed(t, rows) // long after: what was found then says nothing of now
	p.ticks(t, 50*time.Minute, 51*time.Minute, well(opus))
	e = rows.report(t).Sets[1].Episodes
	require.Len(t, e, 2)
	require.WithinDuration(t, now.Add(10*time.Minute+20*time.Second), e[1].To, time.Second, "it ends where it was last seen")
	require.Contains(t, rows.report(t).Notes[0], "shadow mode ran")
}

// However slow the store of shadow mode is, loops hear what the live set found before it is waited for, and it is never
// waited for without an end.
func TestShadowKeepsNobodyWaiting(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	var heard [][]told
	rows.before = func(ctx context.Context) {
		_, bounded := ctx.Deadline()
		require.True(t, bounded)
		heard = append(heard, p.loops.heard())
	}
	p.see(t, 0, ill(opus))
	require.Equal(t, [][]told{nil, {page(opus)}}, heard, "where it was, and what it found")
}

// A state that cannot be read, of another version say, ends what it is of and keeps nothing else from being followed.
func TestShadowGoesOnFromWhatItCanRead(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{}
	p := shadowed(t, rows)
	p.ticks(t, 0, time.Minute, seen(opus, 1.3, 1))
	for i := range rows.rows {
		if rows.rows[i].State != "" {
			rows.rows[i].State = `{"alert":1}`
		}
	}
	p = shadowed(t, rows)
	p.ticks(t, time.Minute, 90*time.Second, seen(opus, 1.3, 1))
	e := rows.report(t).Sets[1].Episodes
	require.Len(t, e, 2)
	require.Equal(t, now.Add(80*time.Second), e[1].From, "it begins anew")
}

func TestShadowWaitsForItsStore(t *testing.T) {
	t.Parallel()
	rows := &fakeShadows{err: errAway}
	p := shadowed(t, rows)
	require.Empty(t, p.ticks(t, 0, 30*time.Second, seen(opus, 1.3, 1)), "and the tick goes on")
	rows.err = nil
	p.ticks(t, 61*time.Second, 90*time.Second, seen(opus, 1.3, 1))
	rows.err = errAway
	p.ticks(t, 90*time.Second, 4*time.Minute, well(opus))
	rows.err = nil
	p.ticks(t, 4*time.Minute, 5*time.Minute, well(opus))
	e := rows.report(t).Sets[1].Episodes
	require.Len(t, e, 1)
	require.Equal(t, now.Add(81*time.Second), e[0].From, "it judges when it knows where it was")
	require.False(t, e[0].To.IsZero(), "what could not be stored came later")

	none := &fakeShadows{}
	p = shadowed(t, none)
	p.Sweeper.Shadow = func() *policy.Set { return nil } // no set is good yet
	p.ticks(t, 0, time.Minute, ill(opus))
	require.Empty(t, none.rows)
}
