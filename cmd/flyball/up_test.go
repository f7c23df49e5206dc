package main

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// TestUpGoesOnWithoutTemporal: the mend is on the screen, and only a stop ends the wait.
func TestUpGoesOnWithoutTemporal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- goOnWithout(ctx, &screen{out: &out}, "state/temporal.log") }()
		synctest.Wait()
		require.Empty(t, ended)
		require.Contains(t, out.String(), "Everything else goes on")
		require.Contains(t, out.String(), "state/temporal.log")
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
}
