package effect_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	later  = time.Date(2026, 3, 4, 0, 0, 0, 0, time.UTC)
)

// drawCells draws a decision: an arm of its cells may be thin, or missing.
func drawCells(t *rapid.T) []effect.Cell {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) effect.Cell {
		c := effect.Cell{
			Share: rapid.SampledFrom([]float64{0.1, 0.5, 0.95}).Draw(t, "share"),
			Day:   monday.AddDate(0, 0, rapid.IntRange(0, 2).Draw(t, "day")),
			Arm:   rapid.SampledFrom([]usage.Arm{usage.Treated, usage.Holdback}).Draw(t, "arm"),
			Group: rapid.IntRange(0, effect.Groups-1).Draw(t, "group"),
			Calls: rapid.Int64Range(0, 1e6).Draw(t, "calls"), Unpriced: rapid.Int64Range(0, 3).Draw(t, "unpriced"),
			Cost:   big.NewInt(rapid.Int64Range(0, 1e17).Draw(t, "cost")),
			Scores: rapid.Int64Range(0, 100).Draw(t, "scores"), ScoreMicro: rapid.Int64Range(0, 1e8).Draw(t, "score"),
		}
		if c.Calls == 0 { // nothing costs nothing
			c.Cost = new(big.Int)
		}
		return c
	}), 1, 200).Draw(t, "cells")
}

// plain is an effect without what computes it: big integers have several forms of the same value.
func plain(e effect.Effect) map[string]any {
	text := func(i *big.Int) string {
		if i == nil {
			return "unknown"
		}
		return i.String()
	}
	p := map[string]any{"treated": e.Treated, "holdback": e.Holdback, "unpriced": e.Unpriced, "compared": e.Compared, "cost": text(e.Cost)}
	if e.Saved != nil {
		p["saved"], p["low"], p["high"] = text(e.Saved.Pico), text(e.Saved.Low), text(e.Saved.High)
	}
	for _, d := range e.Days {
		p[d.Day.Format(time.DateOnly)] = []any{d.Treated, d.Holdback, d.Compared, text(d.Cost), text(d.Saved)}
	}
	return p
}

// Money is exact: the whole is the rational sum over shares rounded once, and the days add up to it.
func TestMoneyIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cells := drawCells(t)
		e := effect.Measure(cells, false, later)
		want, cost, compared, known := new(big.Rat), new(big.Int), int64(0), false
		for _, share := range []float64{0.1, 0.5, 0.95} {
			var n, held int64
			paid, control := new(big.Int), new(big.Int)
			in := map[int]bool{}
			for _, c := range cells {
				switch {
				case c.Share != share:
				case c.Arm == usage.Treated:
					n += c.Calls
					paid.Add(paid, c.Cost)
				default:
					held += c.Calls
					control.Add(control, c.Cost)
					in[c.Group] = in[c.Group] || c.Calls > 0
				}
			}
			groups := 0
			for _, yes := range in {
				if yes {
					groups++
				}
			}
			if n == 0 || groups < 5 {
				continue
			}
			known = true
			one := new(big.Rat).SetFrac(control, big.NewInt(held))
			one.Mul(one, new(big.Rat).SetInt64(n))
			want.Add(want, one.Sub(one, new(big.Rat).SetInt(paid)))
			cost.Add(cost, paid)
			compared += n
		}
		if !known {
			require.Nil(t, e.Saved, "no data is unknown, and not 0")
			require.Zero(t, e.Compared)
			return
		}
		off := new(big.Rat).Sub(want, new(big.Rat).SetInt(e.Saved.Pico))
		require.LessOrEqual(t, off.Abs(off).Cmp(big.NewRat(1, 2)), 0, "it is rounded once, to the nearest")
		require.Equal(t, cost.String(), e.Cost.String())
		require.Equal(t, compared, e.Compared)
		days, calls := new(big.Int), int64(0)
		for _, d := range e.Days {
			calls += d.Compared
			if d.Saved != nil {
				days.Add(days, d.Saved)
			}
		}
		require.Equal(t, e.Saved.Pico.String(), days.String(), "the days add up")
		require.Equal(t, e.Compared, calls)
	})
}

// What was stored when, and in how many pieces it is read, makes no difference.
func TestOrderAndPiecesDoNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cells := drawCells(t)
		refused := rapid.Bool().Draw(t, "refused")
		want := plain(effect.Measure(cells, refused, later))
		var pieces []effect.Cell
		for _, c := range cells {
			rest := c
			part := rapid.Int64Range(0, c.Calls).Draw(t, "part")
			c.Calls, c.Unpriced, c.Cost, c.Scores, c.ScoreMicro = part, 0, big.NewInt(part), 0, 0
			rest.Calls, rest.Cost = rest.Calls-part, new(big.Int).Sub(rest.Cost, big.NewInt(part))
			pieces = append(pieces, rest, c)
		}
		slices.Reverse(pieces)
		require.Equal(t, want, plain(effect.Measure(pieces, refused, later)))
	})
}

// What one act saves, its mirror image costs: the same calls with the arms changed about, at half and half.
func TestSignsAreSymmetric(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(1, 1000).Draw(t, "calls of a group")
		var there, back []effect.Cell
		for g := range effect.Groups {
			for _, arm := range []usage.Arm{usage.Treated, usage.Holdback} {
				c := effect.Cell{
					Share: 0.5, Day: monday.AddDate(0, 0, g%2), Arm: arm, Group: g, Calls: n, Cost: big.NewInt(rapid.Int64Range(0, 1e15).Draw(t, "cost")),
					Scores: n, ScoreMicro: rapid.Int64Range(0, n*1e6).Draw(t, "score"),
				}
				there = append(there, c)
				c.Arm = map[usage.Arm]usage.Arm{usage.Treated: usage.Holdback, usage.Holdback: usage.Treated}[arm]
				back = append(back, c)
			}
		}
		a, b := effect.Measure(there, false, later), effect.Measure(back, false, later)
		require.Zero(t, new(big.Int).Add(a.Saved.Pico, b.Saved.Pico).Sign())
		wide := func(e effect.Effect) float64 { f, _ := new(big.Int).Sub(e.Saved.High, e.Saved.Low).Float64(); return f }
		require.InDelta(t, wide(a), wide(b), 1e-9*wide(a)+4)
		require.InDelta(t, a.Quality.By, -b.Quality.By, 1e-12)
		require.InDelta(t, *a.Quality.Low, -*b.Quality.High, 1e-12)
	})
}

// A fault that grows while the act is rolled out fools whoever compares all treated calls with the whole holdback:
// most of that is from before.
func TestSharesAreComparedApart(t *testing.T) {
	t.Parallel()
	var cells []effect.Cell
	add := func(share float64, arm usage.Arm, calls, cost int64) {
		for g := range effect.Groups {
			cells = append(cells, effect.Cell{Share: share, Day: monday, Arm: arm, Group: g, Calls: calls, Cost: big.NewInt(calls * cost)})
		}
	}
	add(0.1, usage.Treated, 10, 50)
	add(0.1, usage.Holdback, 90, 100)
	add(0.9, usage.Treated, 90, 150) // everything has become dearer by 200
	add(0.9, usage.Holdback, 10, 300)
	e := effect.Measure(cells, false, later)
	require.EqualValues(t, 32*(10*50+90*150), e.Saved.Pico.Int64())
	require.EqualValues(t, 32*100, e.Compared)
	require.Equal(t, e.Saved.Pico, e.Saved.Low, "sessions that are all alike leave no doubt")
}

func TestUnknownIsNotNothing(t *testing.T) {
	t.Parallel()
	require.Nil(t, effect.Measure(nil, false, later).Saved)
	one := effect.Cell{Share: 0.5, Day: monday, Arm: usage.Treated, Calls: 3, Unpriced: 1, Cost: big.NewInt(30)}
	e := effect.Measure([]effect.Cell{one}, false, later)
	require.Nil(t, e.Saved, "no holdback")
	require.Nil(t, e.Quality)
	require.EqualValues(t, 4, e.Treated)
	require.Len(t, e.Days, 1)
	require.Nil(t, e.Days[0].Saved)

	cells := []effect.Cell{one}
	for g := range 5 {
		cells = append(cells, effect.Cell{Share: 0.5, Day: monday, Arm: usage.Holdback, Group: g, Calls: 1, Cost: big.NewInt(20)})
	}
	e = effect.Measure(cells, false, later)
	require.EqualValues(t, 30, e.Saved.Pico.Int64(), "3 × 20 − 30: the call without a price counts for nothing")
	require.Nil(t, e.Saved.Low, "one session tells no error")
}

// Of refused calls nothing is known but that for each call of the holdback there were share/(1 − share) of them.
func TestRefusedCallsAreEstimated(t *testing.T) {
	t.Parallel()
	var cells []effect.Cell
	for g := range effect.Groups {
		cells = append(cells, effect.Cell{Share: 0.75, Day: monday, Arm: usage.Holdback, Group: g, Calls: 10, Cost: big.NewInt(1000 + int64(g%2)*200)})
	}
	e := effect.Measure(cells, true, later)
	require.True(t, e.Estimated)
	require.EqualValues(t, 960, e.Compared)
	require.EqualValues(t, 3*(32*1000+16*200), e.Saved.Pico.Int64())
	require.NotNil(t, e.Saved.Low)
	require.Nil(t, e.Quality, "nobody scored what was never answered")
	require.Nil(t, effect.Measure([]effect.Cell{{Share: 1, Day: monday, Arm: usage.Treated, Calls: 1, Cost: new(big.Int)}}, true, later).Saved, "without a holdback")
}

// The interval has what it promises in a simulated world of sessions of several calls with costs of their own, a
// rollout by steps in which sessions change arms, a fault that grows meanwhile, and a small holdback at its end.
func TestIntervalsCover(t *testing.T) {
	t.Parallel()
	const worlds = 600
	random := rand.New(rand.NewPCG(1, 2))
	covered, coveredQuality, known := 0, 0, 0
	for range worlds {
		type place struct {
			share float64
			arm   usage.Arm
			group int
		}
		cells := map[place]*effect.Cell{}
		truth := 0.0 // what the treated calls would have cost more by the true means of both ways
		for range 3000 {
			position, group := random.Float64(), random.IntN(effect.Groups)
			level, taste := math.Exp(0.6*random.NormFloat64()), 0.05*random.NormFloat64()
			for step, share := range []float64{0.1, 0.5, 0.9} {
				dear := []float64{1, 1.5, 2}[step]
				for range random.IntN(4) {
					arm, cost, mean := usage.Holdback, dear*level*math.Exp(0.4*random.NormFloat64()), 0.8
					if position < share {
						arm, cost, mean = usage.Treated, 0.4*cost, 0.78
						truth += 0.6 * dear * math.Exp(0.6*0.6/2+0.4*0.4/2)
					}
					at := place{share, arm, group}
					if cells[at] == nil {
						cells[at] = &effect.Cell{Share: share, Day: monday, Arm: arm, Group: group, Cost: new(big.Int)}
					}
					c := cells[at]
					c.Calls++
					c.Cost.Add(c.Cost, big.NewInt(int64(cost*1e9)))
					c.Scores++
					c.ScoreMicro += int64(1e6 * (mean + taste + 0.05*random.NormFloat64()))
				}
			}
		}
		all := make([]effect.Cell, 0, len(cells))
		for _, c := range cells {
			all = append(all, *c)
		}
		e := effect.Measure(all, false, later)
		if e.Saved == nil || e.Saved.Low == nil || e.Quality == nil || e.Quality.Low == nil {
			continue
		}
		known++
		want := big.NewInt(int64(truth * 1e9))
		if e.Saved.Low.Cmp(want) <= 0 && want.Cmp(e.Saved.High) <= 0 {
			covered++
		}
		if *e.Quality.Low <= -0.02 && -0.02 <= *e.Quality.High {
			coveredQuality++
		}
	}
	require.Equal(t, worlds, known)
	t.Logf("a 95 %% interval covered the saving in %.1f %% and the change of quality in %.1f %% of %d worlds",
		100*float64(covered)/worlds, 100*float64(coveredQuality)/worlds, worlds)
	for _, n := range []int{covered, coveredQuality} {
		require.InDelta(t, 0.95, float64(n)/worlds, 0.03, "600 worlds tell it to ±1.8 % at two deviations")
	}
}
