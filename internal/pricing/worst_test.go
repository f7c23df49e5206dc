package pricing

import (
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Whatever a call turns out to use within its bounds, it costs no more than was promised for it.
func TestNothingCostsMoreThanTheWorst(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		price := func(name string) Rate { return Rate{rapid.Int64Range(0, maxRate).Draw(t, name), true} }
		rates := func(name string) Rates {
			return Rates{price(name + " input"), price(name + " read"), price(name + " 5m"), price(name + " 1h"), price(name + " output")}
		}
		above := rapid.Int64Range(0, 1000).Draw(t, "above")
		q := Quote{service: Service{Rates: rates("base"), Tiers: []Tier{{above, rates("tier")}}}}
		n := rapid.Int64Range(0, 1000)
		tokens := usage.Tokens{
			UncachedInput: n.Draw(t, "input"), CacheRead: n.Draw(t, "read"), CacheWrite5m: n.Draw(t, "5m"), CacheWrite1h: n.Draw(t, "1h"), Output: n.Draw(t, "output"),
		}
		cost, err := q.Cost(tokens)
		require.NoError(t, err)
		worst, err := q.Worst(tokens.Input()+n.Draw(t, "spare"), tokens.Output+n.Draw(t, "unused"))
		require.NoError(t, err)
		require.LessOrEqual(t, cost, worst)
	})
}

func TestWorst(t *testing.T) {
	t.Parallel()
	q := Quote{Model: "m", service: tiered.Periods[1].Services[Standard]}
	for input, want := range map[int64]string{1000: "0.0045", 200_000: "0.6015", 200_001: "1.202256"} {
		got, err := q.Worst(input, 100)
		require.NoError(t, err)
		require.Equal(t, want, Format(got), input)
	}
	_, err := q.Worst(-1, 0)
	require.Error(t, err)
	unknown := Quote{Model: "m"}
	_, err = unknown.Worst(1, 0)
	require.ErrorIs(t, err, ErrUnknown)
	dear := Quote{Model: "m", service: Service{Rates: Rates{Input: Rate{1 << 62, true}, Output: Rate{1 << 62, true}}}}
	_, err = dear.Worst(usage.MaxTokens, 1)
	require.ErrorIs(t, err, ErrRange)
}
