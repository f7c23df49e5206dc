//go:build e2e

package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// refused runs `flyball up` where it cannot start, and returns what it says.
func refused(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin, "flyball"), append([]string{"up", "--source", root}, args...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "it should not start")
	require.Equal(t, 2, exit.ExitCode(), "%s", out)
	return string(out)
}

func TestUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	base := freeBase(t)
	s := up(t, dir, "--port-base", base, "--no-simulator")
	children := []int{s.child("chserve"), s.child("temporald")}

	require.Contains(t, refused(t, "--state", dir), "running")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	require.Contains(t, refused(t, "--state", filepath.Join(t.TempDir(), "other"), "--port-base", strconv.Itoa(taken.Addr().(*net.TCPAddr).Port)), "port")
	broken := filepath.Join(t.TempDir(), "broken")
	require.NoError(t, os.WriteFile(broken, []byte("not a folder"), 0o600))
	require.Contains(t, refused(t, "--state", broken), broken)

	s.cli("doctor", "--state", dir)

	t.Log("kill -9 of each engine: both come back, and say so")
	for _, pid := range children {
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	s.until("the whole loop works again", 2*time.Minute, func() bool {
		_, _, err := s.tryCLI("doctor", "--state", dir, "--within", "10s")
		return err == nil
	})
	require.Contains(t, s.output(), "ClickHouse died")
	require.Contains(t, s.output(), "Temporal died")
	children = []int{s.child("chserve"), s.child("temporald")}

	t.Log("kill -9 of flyball: no child is left, and the next start finds all as it was")
	s.kill()
	gone := time.Now().Add(time.Minute)
	for _, pid := range children {
		for syscall.Kill(pid, 0) == nil {
			require.True(t, time.Now().Before(gone), "process %d outlives flyball", pid)
			time.Sleep(100 * time.Millisecond)
		}
	}
	s = up(t, dir, "--port-base", base, "--no-simulator")
	s.cli("doctor", "--state", dir)
	children = []int{s.child("chserve"), s.child("temporald")}

	t.Log("an interrupt: all ends, exit 0")
	s.stop()
	require.NoError(t, s.err)
	for _, pid := range children {
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	}
}
