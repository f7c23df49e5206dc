package runbook

import (
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

// anyTraffic draws the sums of a flow: none at all, or up to ten thousand dollars.
func anyTraffic(t *rapid.T, name string) Traffic {
	n := rapid.Int64Range(0, 1e6).Draw(t, name+" calls")
	if n == 0 {
		return Traffic{}
	}
	scored := rapid.Int64Range(0, n).Draw(t, name+" scored")
	return Traffic{
		Requests: n, Cost: usage.PicoUSD(rapid.Int64Range(0, 1e16).Draw(t, name+" cost")),
		Scored: scored, ScoreCodes: rapid.Int64Range(0, 200*scored).Draw(t, name+" codes"),
	}
}

func anyFlows(t *rapid.T) []Flow {
	name := func(label string) string { return fmt.Sprint(rapid.IntRange(0, 9).Draw(t, label)) }
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Flow {
		return Flow{
			RequestedModel: name("requested"), Model: name("model"), Template: name("template"),
			Now: anyTraffic(t, "now"), Before: anyTraffic(t, "before"),
		}
	}), 0, 30).Draw(t, "flows")
}

func anyTimes(t *rapid.T) Times {
	minutes := rapid.IntRange(1, 1440)
	return Times{
		Before: onset.Add(-time.Duration(minutes.Draw(t, "minutes before")) * time.Minute),
		From:   onset, To: onset.Add(time.Duration(minutes.Draw(t, "minutes")) * time.Minute),
	}
}

// Whatever the traffic, the parts of each dimension are the whole change to the last pico-dollar and millionth, their
// shares are 100 %, and the change is that of the sums.
func TestAttributionIsExact(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		times, flows := anyTimes(t), anyFlows(t)
		a, err := Attribute(times, []string{ByRequested, ByModel, ByTemplate}, flows)
		require.NoError(t, err)
		all := whole(flows)
		rate := func(cost *big.Int, from, to time.Time) *big.Rat {
			return new(big.Rat).Mul(rat(cost), big.NewRat(60, minutesOf(from, to)))
		}
		want := map[*Change]*big.Rat{}
		if all.now.calls.Sign() > 0 && all.before.calls.Sign() > 0 {
			want[&a.Spend] = new(big.Rat).Sub(rate(all.now.cost, times.From, times.To), rate(all.before.cost, times.Before, times.From))
			want[&a.CostPerCall] = new(big.Rat).Sub(new(big.Rat).SetFrac(all.now.cost, all.now.calls), new(big.Rat).SetFrac(all.before.cost, all.before.calls))
		}
		if all.now.scored.Sign() > 0 && all.before.scored.Sign() > 0 {
			want[&a.Quality] = new(big.Rat).Sub(new(big.Rat).SetFrac(all.now.codes, all.now.scored), new(big.Rat).SetFrac(all.before.codes, all.before.scored))
			want[&a.Quality].Mul(want[&a.Quality], big.NewRat(5000, 1))
		}
		for c, term := range map[*Change]func(Part) Term{
			&a.Spend:       func(p Part) Term { return p.Spend },
			&a.CostPerCall: func(p Part) Term { return p.CostPerCall },
			&a.Quality:     func(p Part) Term { return p.Quality },
		} {
			require.Equal(t, want[c] != nil, c.Known)
			if !c.Known {
				require.Equal(t, Change{}, *c)
				continue
			}
			require.Equal(t, nearest(want[c]).Int64(), c.Rise)
			for _, d := range a.Dimensions {
				var rise, share int64
				for _, p := range d.Parts {
					rise += term(p).Rise
					share += term(p).Share
					if c != &a.Spend {
						require.Equal(t, term(p).Rise, term(p).Mix+term(p).Within)
					}
				}
				require.Equal(t, c.Rise, rise, d.Name)
				if want[c].Sign() != 0 {
					require.EqualValues(t, 10_000, share, d.Name)
				} else {
					require.Zero(t, share, d.Name)
				}
			}
		}
		for _, d := range a.Dimensions {
			require.LessOrEqual(t, len(d.Parts), maxParts+1)
			calls, before := new(big.Int), new(big.Int)
			for _, p := range d.Parts {
				calls.Add(calls, big.NewInt(p.Calls))
				before.Add(before, big.NewInt(p.CallsBefore))
			}
			require.Zero(t, calls.Cmp(all.now.calls))
			require.Zero(t, before.Cmp(all.before.calls))
		}
		require.NotEmpty(t, a.Text())
	})
}

// calls is traffic of so many calls of a cost in pico-dollars, all scored.
func calls(n int64, cost usage.PicoUSD, code int64) Traffic {
	return Traffic{Requests: n, Cost: usage.PicoUSD(n) * cost, Scored: n, ScoreCodes: n * code}
}

var anHour = Times{Before: onset.Add(-time.Hour), From: onset, To: onset.Add(10 * time.Minute)}

// A new template that costs thrice the old one takes over most of the calls, which are as many as before.
func TestAttributionOfATemplate(t *testing.T) {
	t.Parallel()
	a, err := Attribute(anHour, []string{ByModel, ByTemplate}, []Flow{
		{Model: "opus", Template: "rag-v3.1", Before: calls(600, 1e9, 180), Now: calls(20, 1e9, 180)},
		{Model: "opus", Template: "rag-v3.2", Now: calls(80, 3e9, 140)},
		{Model: "haiku", Template: "faq", Before: calls(60, 1e8, 160), Now: calls(15, 1e8, 160)},
	})
	require.NoError(t, err)
	// An hour: 600·1e9 + 60·1e8 before; 6·(20·1e9 + 80·3e9 + 15·1e8) now.
	require.Equal(t, Change{Known: true, Before: 606e9, Now: 1569e9, Rise: 963e9}, a.Spend)
	require.Equal(t, []named{
		{ByModel, []string{"opus", "haiku"}}, {ByTemplate, []string{"rag-v3.2", "rag-v3.1", "faq"}},
	}, names(a))
	template := a.Dimensions[1].Parts
	require.Equal(t, Term{Rise: 1440e9, Share: 14953}, template[0].Spend)
	require.Equal(t, Term{Rise: -480e9, Share: -4984}, template[1].Spend)
	require.Equal(t, Term{Rise: 3e9, Share: 31}, template[2].Spend)
	require.Zero(t, template[0].CostPerCall.Within, "that it is here at all is mix")
	require.Positive(t, template[0].CostPerCall.Mix)
	require.Negative(t, template[0].Quality.Rise)
	require.Contains(t, a.Text(), "prompt template rag-v3.2 carries 150 % of the rise in spend: $1.44 of $0.963 an hour more; ")
	require.Contains(t, a.Text(), "of the fall in quality")
	require.Contains(t, a.Markdown(), "| spend an hour | $0.606 | $1.57 | +$0.963 |")
	require.Contains(t, a.Markdown(), "| rag-v3.2 | 0 | 80 | +$1.44 | 150 % |")
}

// names are the values of each dimension in order.
func names(a Attribution) (all []named) {
	for _, d := range a.Dimensions {
		n := named{Name: d.Name}
		for _, p := range d.Parts {
			n.Values = append(n.Values, p.Value)
		}
		all = append(all, n)
	}
	return all
}

type named struct {
	Name   string
	Values []string
}

func TestAttributionWithinAPart(t *testing.T) {
	t.Parallel()
	a, err := Attribute(anHour, []string{ByTemplate}, []Flow{
		{Template: "a", Before: calls(300, 1000, 180), Now: calls(50, 3000, 180)},
		{Template: "b|\nc", Before: calls(300, 1000, 180), Now: calls(50, 1000, 180)},
	})
	require.NoError(t, err)
	require.Equal(t, Term{Rise: 1000, Within: 1000, Share: 10_000}, a.Dimensions[0].Parts[0].CostPerCall)
	require.Equal(t, Term{}, a.Dimensions[0].Parts[1].CostPerCall)
	require.Equal(t, Change{Known: true, Before: 900_000, Now: 900_000}, a.Quality)
	require.Contains(t, a.Text(), "prompt template a carries 100 % of the rise in the cost of a call: $1e-09 of $1e-09 more (+$0.00 by its share of the calls, +$1e-09 by itself)")
	require.Contains(t, a.Markdown(), `| b\| c |`)
}

func TestAttributionOfNothing(t *testing.T) {
	t.Parallel()
	a, err := Attribute(anHour, []string{ByTemplate}, []Flow{{Template: "a", Now: calls(5, 1, 1)}})
	require.NoError(t, err)
	require.False(t, a.Spend.Known, "nothing to compare with is no rise")
	require.Equal(t, "there is no traffic before the incident to compare with", a.Text())
	require.Empty(t, a.Markdown())
	a, err = Attribute(anHour, []string{ByTemplate}, []Flow{{Template: "a", Before: calls(60, 7, 1), Now: calls(10, 7, 1)}})
	require.NoError(t, err)
	require.Equal(t, "spend, the cost of a call and quality are much as before", a.Text())
	_, err = Attribute(Times{Before: onset, From: onset, To: onset.Add(time.Minute)}, nil, nil)
	require.ErrorContains(t, err, "not two times of a minute or more")
}

// Many values are few parts, and the text speaks of what is spread as such.
func TestAttributionOfManyValues(t *testing.T) {
	t.Parallel()
	var flows []Flow
	for i := range int64(40) {
		flows = append(flows, Flow{Template: fmt.Sprint("t-", i), Before: calls(60, 10, 100), Now: calls(10+i, 30, 100)})
	}
	a, err := Attribute(anHour, []string{ByTemplate}, flows)
	require.NoError(t, err)
	parts := a.Dimensions[0].Parts
	require.Len(t, parts, maxParts+1)
	require.Equal(t, "t-39", parts[0].Value)
	require.Equal(t, 35, parts[maxParts].Others)
	require.Contains(t, a.Text(), "is spread: nothing carries half of it")
	require.Contains(t, a.Markdown(), "| 35 others |")
}

func TestJudgeShift(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		flows []Flow
		want  Shift
	}{
		"to a dearer model": {
			[]Flow{
				{RequestedModel: "mini", Before: calls(480, 100, 180), Now: calls(40, 100, 180)},
				{RequestedModel: "large", Before: calls(120, 1000, 180), Now: calls(60, 1000, 180)},
			},
			Shift{
				Model: "large", Before: 0.2, Now: 0.6, SpendBefore: 120. / 168, SpendNow: 60. / 64, Known: true,
				Text: "callers turned to large: 60 % of the calls against 20 % before, 94 % of the spend against 71 %",
			},
		},
		"to a worse one": {
			[]Flow{
				{RequestedModel: "mini", Before: calls(60, 100, 100), Now: calls(90, 100, 100)},
				{RequestedModel: "large", Before: calls(540, 100, 180), Now: calls(10, 100, 180)},
			},
			Shift{
				Model: "mini", Before: 0.1, Now: 0.9, SpendBefore: 0.1, SpendNow: 0.9, Known: true,
				Text: "callers turned to mini: 90 % of the calls against 10 % before, 90 % of the spend against 10 %",
			},
		},
		"to a new one": {
			[]Flow{
				{RequestedModel: "mini", Before: calls(100, 100, 180), Now: calls(50, 100, 180)},
				{RequestedModel: "new", Now: calls(50, 900, 180)},
			},
			Shift{
				Model: "new", Now: 0.5, SpendNow: 0.9, Known: true,
				Text: "callers turned to new: 50 % of the calls against 0 % before, 90 % of the spend against 0 %",
			},
		},
		"its own calls became dearer": {
			[]Flow{
				{RequestedModel: "mini", Before: calls(300, 100, 180), Now: calls(44, 100, 180)},
				{RequestedModel: "large", Before: calls(300, 100, 180), Now: calls(56, 5000, 180)},
			},
			Shift{Text: "no model's share of the calls rose by as much as 5 points and explains the change"},
		},
		"to a cheaper one": {
			[]Flow{
				{RequestedModel: "mini", Before: calls(100, 100, 180), Now: calls(90, 100, 180)},
				{RequestedModel: "large", Before: calls(100, 1000, 180), Now: calls(10, 1000, 180)},
			},
			Shift{Text: "no model's share of the calls rose by as much as 5 points and explains the change"},
		},
		"from nothing": {
			[]Flow{{RequestedModel: "mini", Now: calls(90, 100, 180)}},
			Shift{Text: "there is no traffic before the incident to compare with"},
		},
	} {
		s, err := JudgeShift(anHour, tc.flows)
		require.NoError(t, err, name)
		require.Equal(t, tc.want, s, name)
	}
}
