package gateway

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Calls that no budget bounds leave half of the room to those that one does, and what has lapsed gives way to what is new.
func TestHoldsAreBounded(t *testing.T) {
	t.Parallel()
	h := &holds{most: 4}
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	add := func(id string, bounded bool) error {
		_, err := h.add(&held{id: id, lapses: now.Add(time.Minute)}, bounded, now)
		return err
	}
	for i := range 2 {
		require.NoError(t, add(fmt.Sprint("free", i), false))
	}
	require.ErrorIs(t, add("free2", false), errTooMany)
	for i := range 2 {
		require.NoError(t, add(fmt.Sprint("bound", i), true))
	}
	require.ErrorIs(t, add("bound2", true), errTooMany)
	again, err := h.add(&held{id: "bound1", lapses: now.Add(time.Minute)}, true, now)
	require.NoError(t, err)
	require.True(t, again, "one that is open is not another")

	now = now.Add(time.Minute)
	require.NoError(t, add("bound2", true), "what has lapsed is forgotten first")
	require.Len(t, h.byID, 4)
	require.NotContains(t, h.byID, "free0")
	now = now.Add(rememberIt + time.Minute)
	require.NoError(t, add("free2", false))
	require.Len(t, h.byID, 1)
}
