package router

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Four prompts, worked by hand: the perfect router's PGR after 0 to 4 strong calls is 0, 1/2, 1, 1, 1, the mean of whose
// trapezoids is 3/4.
func TestWorthByHand(t *testing.T) {
	t.Parallel()
	pairs := []Pair{{Weak: 1, Strong: 1}, {Weak: 0, Strong: 1}, {Weak: 1, Strong: 1}, {Weak: 0, Strong: 1}}
	perfect := Worth(pairs, []float64{0, 1, 0, 1})
	require.InDelta(t, 0.5, perfect.Weak, 1e-12)
	require.InDelta(t, 1, perfect.Strong, 1e-12)
	require.InDelta(t, 0.75, *perfect.APGR, 1e-12)
	require.InDelta(t, 0.25, *perfect.CPT50, 1e-12)
	require.InDelta(t, 0.5, *perfect.CPT80, 1e-12)
	lots := Worth(pairs, make([]float64, 4)) // all alike: as a fair draw in the mean
	require.InDelta(t, 0.5, *lots.APGR, 1e-12)
	require.InDelta(t, 0.5, *lots.CPT50, 1e-12)
	worst := Worth(pairs, []float64{1, 0, 1, 0})
	require.InDelta(t, 0.25, *worst.APGR, 1e-12)
	require.Nil(t, Worth([]Pair{{Weak: 1, Strong: 1}}, []float64{0}).APGR, "no gap, no share of it")
}

func TestAUCByHand(t *testing.T) {
	t.Parallel()
	auc, ok := AUC([]float64{0.1, 0.4, 0.35, 0.8}, []float64{0, 0, 1, 1})
	require.True(t, ok)
	require.InDelta(t, 0.75, auc, 1e-12)
	auc, _ = AUC([]float64{1, 1}, []float64{0, 1})
	require.InDelta(t, 0.5, auc, 1e-12)
	_, ok = AUC([]float64{1, 2}, []float64{1, 1})
	require.False(t, ok)
}

func TestFeaturesGoThroughTheirStoredForm(t *testing.T) {
	t.Parallel()
	f := NewExtractor("salt").Features("How many of the 12 ducks are left?")
	raw, err := f.MarshalBinary()
	require.NoError(t, err)
	var back Features
	require.NoError(t, back.UnmarshalBinary(raw))
	require.Equal(t, f, back)
	require.Error(t, back.UnmarshalBinary(raw[:len(raw)-1]))
}
