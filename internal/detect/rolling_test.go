package detect

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// rolled is what Rolling computes, from all arrivals at once.
func rolled(key usage.Key, all []Arrival, watermark time.Time) (Observation, bool) {
	o := Observation{Key: key}
	current := watermark.Unix() / 60
	var costs, scores [len(Windows)][]int16
	var last, now int64
	seen := false
	for _, a := range all {
		back := current - a.Minute
		if back < 0 || back >= 15 {
			continue
		}
		seen = true
		volumes, streams := []*Volume{&o.Whole}, []*Stream{&o.WholeStream}
		if back < 5 {
			volumes, streams = append(volumes, &o.Recent), append(streams, &o.RecentStream)
		}
		for _, v := range volumes {
			v.Requests += a.Volume.Requests
			v.InputTokens += a.Volume.InputTokens
			v.OutputTokens += a.Volume.OutputTokens
			v.CacheRead += a.Volume.CacheRead
		}
		switch back {
		case 0:
			now += a.CostPico
		case 1:
			last += a.CostPico
		}
		if a.Arm == usage.Treated {
			continue
		}
		for _, s := range streams {
			s.Calls += a.Streams.Calls
			s.Tokens += a.Streams.Tokens
			s.MS += a.Streams.MS
		}
		o.Outcomes.Calls += a.Volume.Requests
		o.Outcomes.All += a.Outcomes
		o.Outcomes.Good += a.Good
		for w, length := range Windows {
			if back < int64(length) {
				costs[w], scores[w] = append(costs[w], a.Costs...), append(scores[w], a.Scores...)
			}
		}
	}
	o.SpendLastPico = math.Max(float64(last), float64(now)*SpendScale(watermark.Sub(watermark.Truncate(time.Minute))))
	for w := range Windows {
		cost, quality := kpi.CostSample(costs[w]), kpi.QualitySample(scores[w])
		o.Windows[w] = Window{CostN: cost.N, LnCost: cost.Median, QualityN: quality.N, Quality: quality.Median}
	}
	return o, seen
}

func drawArrival(t *rapid.T, base int64) Arrival {
	small := rapid.Int64Range(0, 50)
	codes := func(name string, from, to int) []int16 {
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) int16 { return int16(rapid.IntRange(from, to).Draw(t, "code")) }), 0, 6).Draw(t, name)
	}
	return Arrival{
		Key: usage.Key{Tenant: "t", Model: "m"}, Minute: base + rapid.Int64Range(-20, 6).Draw(t, "minute"),
		Arm:    rapid.SampledFrom([]usage.Arm{usage.None, usage.Holdback, usage.Treated}).Draw(t, "arm"),
		Volume: Volume{small.Draw(t, "calls"), small.Draw(t, "in"), small.Draw(t, "out"), small.Draw(t, "cached")}, CostPico: small.Draw(t, "cost"),
		Streams: Stream{small.Draw(t, "streams"), small.Draw(t, "tokens"), small.Draw(t, "ms")}, Outcomes: small.Draw(t, "outcomes"), Good: small.Draw(t, "good"),
		Costs: codes("costs", 900, 2400), Scores: codes("scores", 0, 200),
	}
}

// What Rolling says at every tick is what all that has arrived by then says at once, in whatever order it came.
func TestRollingIsTheWindows(t *testing.T) {
	t.Parallel()
	key := usage.Key{Tenant: "t", Model: "m"}
	rapid.Check(t, func(t *rapid.T) {
		at := time.Date(2026, 3, 2, 3, 10, rapid.IntRange(0, 59).Draw(t, "second"), 0, time.UTC)
		a, b := NewRolling(key, at), NewRolling(key, at)
		var all []Arrival
		for range rapid.IntRange(1, 12).Draw(t, "ticks") {
			at = at.Add(time.Duration(rapid.SampledFrom([]int{5, 15, 60, 600, 1500}).Draw(t, "step")) * time.Second)
			a.Advance(at)
			b.Advance(at)
			var came []Arrival
			for range rapid.IntRange(0, 5).Draw(t, "n") {
				came = append(came, drawArrival(t, at.Unix()/60))
			}
			all = append(all, came...)
			for i := range came {
				one, other := came[i], came[len(came)-1-i]
				a.Add(&one)
				b.Add(&other)
			}
			want, seen := rolled(key, all, at)
			got, ok := a.Observe(at)
			require.Equal(t, seen, ok)
			if ok {
				require.Equal(t, want, got)
			}
			reversed, _ := b.Observe(at)
			require.Equal(t, got, reversed, "the order within a tick means nothing")
		}
	})
}

func TestRollingKeepsWhatTheStoreKeeps(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 2, 3, 10, 0, 0, time.UTC)
	r := NewRolling(usage.Key{Tenant: "t", Model: "m"}, at)
	for range 3 {
		for _, arm := range []usage.Arm{usage.None, usage.Holdback, usage.Treated} {
			r.Add(&Arrival{Minute: at.Unix() / 60, Arm: arm, Volume: Volume{Requests: 3000}, Costs: slices.Repeat([]int16{1000}, 3000)})
		}
	}
	o, ok := r.Observe(at)
	require.True(t, ok)
	require.Equal(t, 2*kpi.CodeCap, o.Windows[0].CostN, "of each arm that no flag touches")
	require.EqualValues(t, 27000, o.Whole.Requests)
	require.False(t, r.Idle())
	r.Advance(at.Add(15 * time.Minute))
	require.True(t, r.Idle())
}
