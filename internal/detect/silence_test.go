package detect

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

func TestExpects(t *testing.T) {
	t.Parallel()
	busy := Baseline{LeastCalls: 50}
	for key, want := range map[usage.Key]bool{
		{Tenant: "org", Model: "m"}:                    true,
		{Tenant: "org", Model: usage.AnyModel}:         false,
		{Tenant: usage.DrillPrefix + "-1", Model: "m"}: false,
		usage.Everything:                               false,
	} {
		require.Equal(t, want, Expects(busy, key, 50), key)
		require.False(t, Expects(busy, key, 51), key)
		require.False(t, Expects(Baseline{}, key, 0), key)
	}

	// Of all together nobody expects a drill's calls either.
	all := func(string) bool { return true }
	everything, ok := new(Silences).Expect(map[usage.Key]Baseline{
		{Tenant: "org", Model: "m"}: busy, {Tenant: usage.DrillPrefix, Model: "m"}: busy,
	}, 50, all, time.Time{})
	require.True(t, ok)
	require.InDelta(t, 50, everything.LeastCalls, 0)
}
