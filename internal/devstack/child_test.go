package devstack

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serveSpec runs the stand-in server.
func serveSpec(t *testing.T, addr string) ChildSpec {
	return ChildSpec{
		Name:    "child",
		Path:    stand(t, "serve"),
		Args:    []string{"--listen", addr},
		Ready:   chserveReady,
		ReadyIn: patience,
		Grace:   patience,
		LogFile: filepath.Join(t.TempDir(), "child.log"),
	}
}

func TestChildIsReadyServesAndStops(t *testing.T) {
	t.Parallel()
	addr, events := freeAddress(t), make(chan Event, 100)
	child, err := StartChild(t.Context(), serveSpec(t, addr), func(e Event) { events <- e })
	require.NoError(t, err)
	pid := child.PID()
	require.Equal(t, Event{Component: "child", Condition: Starting}, <-events)
	require.Equal(t, Event{Component: "child", Condition: Ready, Detail: "chserve ready http://" + addr, PID: pid}, <-events)
	requireServes(t, addr)
	group, err := syscall.Getpgid(pid)
	require.NoError(t, err)
	require.Equal(t, pid, group, "a terminal's Ctrl-C must not reach the child")

	child.Stop()
	require.False(t, alive(pid))
	child.Stop()
	require.Empty(t, events, "a stop that was asked for is no death")
}

func TestKilledChildComesBackOnTheSamePort(t *testing.T) {
	t.Parallel()
	for name, deaf := range map[string]bool{"heeds stdin": false, "deaf to stdin": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, events := freeAddress(t), make(chan Event, 100)
			spec := serveSpec(t, addr)
			if spec.DeafToStdin = deaf; deaf {
				spec.Args, spec.Grace = append(spec.Args, "--stubborn"), time.Millisecond
			}
			child, err := StartChild(t.Context(), spec, func(e Event) { events <- e })
			require.NoError(t, err)
			defer child.Stop()
			pid := await(t, events, "child", Ready).PID
			for range 2 {
				require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
				require.Contains(t, await(t, events, "child", Died).Detail, "killed")
				next := await(t, events, "child", Restarted).PID
				require.NotEqual(t, pid, next)
				requireServes(t, addr)
				pid = next
			}
		})
	}
}

func TestStopKillsTheGroupOfAChildThatIgnoresSIGTERM(t *testing.T) {
	t.Parallel()
	spec := serveSpec(t, freeAddress(t))
	spec.Args, spec.Grace = append(spec.Args, "--stubborn"), time.Millisecond
	child, err := StartChild(t.Context(), spec, func(Event) {})
	require.NoError(t, err)
	pid := child.PID()
	log, err := os.ReadFile(spec.LogFile)
	require.NoError(t, err)
	grandchild := firstInt(t, string(log), "grandchild")

	child.Stop()
	requireGone(t, pid)
	requireGone(t, grandchild)
}

func TestStopEndsADeafChildByItsOwnHand(t *testing.T) {
	t.Parallel()
	spec := serveSpec(t, freeAddress(t))
	program := script(t, t.TempDir(), "deaf", `trap 'echo bye; exit 0' TERM
echo "chserve ready http://"
while :; do sleep 0.05; done`)
	spec.Path, spec.Args, spec.DeafToStdin = program, nil, true
	child, err := StartChild(t.Context(), spec, func(Event) {})
	require.NoError(t, err)
	pid := child.PID()
	child.Stop()
	require.False(t, alive(pid))
	log, err := os.ReadFile(spec.LogFile)
	require.NoError(t, err)
	require.Contains(t, string(log), "bye", "SIGTERM must reach the program and the program must have its time")
}

func TestChildThatNeverBecomesReadyFails(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		role  string
		args  []string
		in    time.Duration
		setup bool
		words []string
	}{
		"bad configuration": {role: "exit", args: []string{"2"}, in: patience, setup: true, words: []string{"words of 2", "child.log"}},
		"crash":             {role: "exit", args: []string{"1"}, in: patience, words: []string{"words of 1", "exit status 1", "child.log"}},
		"early good end":    {role: "exit", args: []string{"0"}, in: patience, words: []string{"exit status 0"}},
		"silence":           {role: "mute", in: time.Millisecond, words: []string{"not ready within 1ms", "it said nothing"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := serveSpec(t, freeAddress(t))
			spec.Path, spec.Args, spec.ReadyIn = stand(t, test.role), test.args, test.in
			_, err := StartChild(t.Context(), spec, func(Event) {})
			for _, words := range test.words {
				require.ErrorContains(t, err, words)
			}
			var setup *SetupError
			require.Equal(t, test.setup, errors.As(err, &setup))
		})
	}
}

func TestStartOfAMissingProgramFails(t *testing.T) {
	t.Parallel()
	spec := serveSpec(t, freeAddress(t))
	spec.Path = filepath.Join(t.TempDir(), "nothing")
	_, err := StartChild(t.Context(), spec, func(Event) {})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestCancelledStartLeavesNoChild(t *testing.T) {
	t.Parallel()
	spec := serveSpec(t, freeAddress(t))
	pidFile := filepath.Join(t.TempDir(), "pid")
	spec.Path = script(t, t.TempDir(), "slow", `echo "pid $$" >`+pidFile+`; exec sleep 1000`)
	spec.Args = nil
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() {
		_, err := StartChild(ctx, spec, func(Event) {})
		started <- err
	}()
	require.Eventually(t, func() bool { return len(readFile(pidFile)) > 0 }, patience, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-started, context.Canceled)
	requireGone(t, firstInt(t, readFile(pidFile), "pid"))
}

func TestKilledParentLeavesNoChild(t *testing.T) {
	t.Parallel()
	addr := freeAddress(t)
	parent := exec.Command(stand(t, "parent"), stand(t, "serve"), addr, filepath.Join(t.TempDir(), "log"))
	out, err := parent.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, parent.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	pid := firstInt(t, line, "pid")
	requireServes(t, addr)

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	requireGone(t, pid)
}

func TestKilledParentLeavesNoBuild(t *testing.T) {
	t.Parallel()
	bin, pidFile := t.TempDir(), filepath.Join(t.TempDir(), "pid")
	script(t, bin, "go", `sleep 1000 & echo "pid $$ compiler $!" >`+pidFile+`; wait`)
	parent := exec.Command(stand(t, "builder"), bin)
	parent.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	require.NoError(t, parent.Start())
	require.Eventually(t, func() bool { return len(readFile(pidFile)) > 0 }, patience, 10*time.Millisecond)
	pid, compiler := firstInt(t, readFile(pidFile), "pid"), firstInt(t, readFile(pidFile), "compiler")
	require.True(t, alive(pid) && alive(compiler))

	require.NoError(t, parent.Process.Kill())
	_ = parent.Wait()
	requireGone(t, pid)
	requireGone(t, compiler)
}

func TestLogIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	log, err := openLog(path)
	require.NoError(t, err)
	defer log.Close()
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = "abcdefg\n"[i%8]
	}
	for range 40 {
		n, err := log.Write(block)
		require.NoError(t, err)
		require.Equal(t, len(block), n)
	}
	_, err = io.WriteString(log, "the last line\n")
	require.NoError(t, err)
	var total int64
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		require.NoError(t, err)
		total += info.Size()
	}
	require.LessOrEqual(t, total, int64(2*maxLog+2*len(block)))
	require.Contains(t, log.Tail(), "abcdefg\nthe last line")
	require.Contains(t, readFile(path), "the last line")
}
