package devstack

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPortsFromABaseAreARow(t *testing.T) {
	t.Parallel()
	base := freeBase(t)
	ports, err := PickPorts(base)
	require.NoError(t, err)
	require.Equal(t, Ports{base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 6}, ports)
}

func TestTakenPortIsNamedWithItsUseAndTheMend(t *testing.T) {
	t.Parallel()
	base := freeBase(t)
	taken, err := net.Listen("tcp", address(base+1))
	require.NoError(t, err)
	defer taken.Close()
	_, err = PickPorts(base)
	var setup *SetupError
	require.ErrorAs(t, err, &setup)
	require.ErrorContains(t, err, "for the console, cannot be had")
	require.ErrorContains(t, err, "--port-base N")
}

func TestPortBaseMustLeaveRoom(t *testing.T) {
	t.Parallel()
	for _, base := range []int{-1, 65531, 70000} {
		_, err := PickPorts(base)
		var setup *SetupError
		require.ErrorAs(t, err, &setup, base)
	}
}

func TestFreePortsAreWhereNoConnectionTakesThem(t *testing.T) {
	t.Parallel()
	for range 100 {
		port, err := freePort(freeTo - 1)
		require.NoError(t, err)
		require.True(t, port >= freeFrom && port < freeTo, port)
	}
}

// The default ports are the machine's own, so the test takes whichever answer is right for it.
func TestDefaultPortsAreTheKnownOnesAndFreeOnes(t *testing.T) {
	t.Parallel()
	ports, err := PickPorts(0)
	if checkFree(defaultIngest) != nil || checkFree(defaultConsole) != nil {
		require.Error(t, err)
		return
	}
	require.NoError(t, err)
	require.Equal(t, 8080, ports.Ingest)
	require.Equal(t, 8088, ports.Console)
	require.NotZero(t, ports.OTLP)
	distinct := map[int]bool{}
	for _, port := range []int{ports.ClickHouse, ports.Redis, ports.Temporal, ports.TemporalUI} {
		require.True(t, port >= freeFrom && port < freeTo, port)
		distinct[port] = true
	}
	require.Len(t, distinct, 4)
}
