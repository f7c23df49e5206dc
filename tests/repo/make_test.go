package repo

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// checkout is a folder with the real Makefile and stand-ins for what `make up` runs: a preflight that ends as told,
// an engine that is installed, and a go command that "builds" the program given.
func checkout(t *testing.T, preflight, program string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	write := func(path, text string, mode os.FileMode) {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
	}
	write("Makefile", read(t, "Makefile"), 0o600)
	write("scripts/preflight.sh", preflight, 0o600)
	write("cmd/chserve/engine/package-lock.json", "{}", 0o600)
	write("cmd/chserve/engine/node_modules/.package-lock.json", "{}", 0o600)
	write("program", "#!/bin/sh\n"+program, 0o700)
	write("path/go", "#!/bin/sh\nmkdir -p bin && cp program bin/flyball\n", 0o700)
	cmd := exec.CommandContext(t.Context(), "make", "up")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(dir, "path")+string(os.PathListSeparator)+os.Getenv("PATH"), "MAKEFLAGS=", "MAKELEVEL=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "it ended with %v", err)
	return exit.ExitCode()
}

func TestMakeUpPassesFailureOn(t *testing.T) {
	for name, test := range map[string]struct {
		preflight, program string
		built              bool
	}{
		"a machine that lacks something": {"echo npm is missing >&2; exit 2", "exit 0", false},
		"a flyball that cannot start":    {"exit 0", "echo port 8080 is taken >&2; exit 2", true},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := checkout(t, test.preflight, test.program)
			out, err := cmd.CombinedOutput()
			require.Equal(t, 2, exitCode(t, err), string(out))
			require.Regexp(t, "is missing|is taken", string(out))
			_, err = os.Stat(filepath.Join(cmd.Dir, "bin", "flyball"))
			require.Equal(t, test.built, err == nil, "nothing is built before the machine is checked")
		})
	}
}

// A terminal's Ctrl-C goes to the whole process group: make must wait for the clean stop.
func TestMakeUpStopsByCtrlC(t *testing.T) {
	cmd := checkout(t, "exit 0", `trap 'echo stopped cleanly; exit 0' INT; echo ready; while :; do sleep 0.1; done`)
	out := &buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "ready") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	_ = cmd.Wait() // make's own end differs between versions
	require.Contains(t, out.String(), "stopped cleanly")
	require.ErrorIs(t, syscall.Kill(-cmd.Process.Pid, 0), syscall.ESRCH, "nothing of the group is left")
}

// buffer is written by a process while a test reads it.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
