package effect_test

import (
	"math/big"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/effect"
)

func TestMoneyAsPeopleReadIt(t *testing.T) {
	t.Parallel()
	for pico, want := range map[int64]string{
		0: "$0.00", 1: "$0.000000000001", -131_845_000_000_000: "−$131.85", 999_949_000_000: "$0.9999", 12_345_678_900_000_000: "$12,345.68",
		4_321_000: "$0.000004321", 1e12: "$1.00",
	} {
		require.Equal(t, want, effect.Dollars(big.NewInt(pico)))
	}
	require.Equal(t, "unknown", effect.Dollars(nil))
	require.Equal(t, "1,234,567", effect.Count(1_234_567))
}

func TestWhatIsNotKnownIsSaid(t *testing.T) {
	t.Parallel()
	var none *effect.Effect
	require.Equal(t, "It has not been measured.", none.Text())
	require.Empty(t, none.Short())
	require.Contains(t, (&effect.Effect{}).Text(), "no call of it is stored")
	few := &effect.Effect{Treated: 1000, Holdback: 3}
	require.Contains(t, few.Text(), "not known: 1,000 treated and 3 holdback calls are stored")
	require.Empty(t, few.Short())
	doubtful := &effect.Effect{Treated: 9, Compared: 9, Cost: big.NewInt(5), Saved: &effect.Amount{Pico: big.NewInt(3), Low: big.NewInt(-1), High: big.NewInt(7)}}
	require.Contains(t, doubtful.Text(), "cannot be told from no difference")
	require.Contains(t, doubtful.Text(), "What it did to quality is not known")
	require.Equal(t, "What it saved cannot be told from nothing.", doubtful.Short())
}
