package devstack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// fakeTemporald writes a module that builds in a moment into dir; its program serves on --listen.
func fakeTemporald(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	for name, content := range map[string]string{
		"go.mod": "module fake\n\ngo 1.26\n",
		"go.sum": "",
		"main.go": `package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
)

func main() {
	listen := flag.String("listen", "", "")
	flag.Bool("exit-with-stdin", false, "")
	for _, name := range []string{"data", "ui-listen", "search-attribute"} {
		flag.String(name, "", "")
	}
	flag.Parse()
	if _, err := net.Listen("tcp", *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Println("temporald ready grpc=" + *listen)
	io.Copy(io.Discard, os.Stdin)
}
`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
}

func TestBuildHappensOnceForEachSource(t *testing.T) {
	t.Parallel()
	source, bin := t.TempDir(), filepath.Join(t.TempDir(), "bin")
	fakeTemporald(t, source)
	var progress []float64
	report := func(p float64, _ string) { progress = append(progress, p) }

	first, err := BuildTemporald(t.Context(), source, bin, report)
	require.NoError(t, err)
	require.IsIncreasing(t, append([]float64{-1}, dedupe(progress)...))
	require.Equal(t, 1.0, progress[len(progress)-1])

	progress = nil
	again, err := BuildTemporald(t.Context(), source, bin, report)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Empty(t, progress, "nothing is built again")

	require.NoError(t, os.WriteFile(filepath.Join(source, "go.sum"), []byte("\n"), 0o600))
	changed, err := BuildTemporald(t.Context(), source, bin, report)
	require.NoError(t, err)
	require.NotEqual(t, first, changed)
	require.FileExists(t, changed)
	require.NoFileExists(t, first, "programs of older sources go")
}

// dedupe drops values that repeat the one before.
func dedupe(values []float64) []float64 {
	var out []float64
	for _, v := range values {
		if len(out) == 0 || out[len(out)-1] != v {
			out = append(out, v)
		}
	}
	return out
}

func TestFailedBuildShowsTheCompilersWords(t *testing.T) {
	t.Parallel()
	source, bin := t.TempDir(), t.TempDir()
	fakeTemporald(t, source)
	require.NoError(t, os.WriteFile(filepath.Join(source, "main.go"), []byte("package main\n\nfunc main() { nonsense() }\n"), 0o600))
	_, err := BuildTemporald(t.Context(), source, bin, func(float64, string) {})
	require.ErrorContains(t, err, "building temporald")
	require.ErrorContains(t, err, "main.go:3:15: undefined: nonsense")
	left, err := filepath.Glob(filepath.Join(bin, "temporald-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestBuildWithoutSourceNamesTheMend(t *testing.T) {
	t.Parallel()
	_, err := BuildTemporald(t.Context(), filepath.Join(t.TempDir(), "nowhere"), t.TempDir(), func(float64, string) {})
	var setup *SetupError
	require.ErrorAs(t, err, &setup)
	require.ErrorContains(t, err, "start in a checkout")
}

func TestBuildsWaitForEachOther(t *testing.T) {
	t.Parallel()
	source, bin := t.TempDir(), t.TempDir()
	fakeTemporald(t, source)
	lock, err := waitLock(t.Context(), filepath.Join(bin, "temporald.lock"), func() { t.Error("nobody has it") })
	require.NoError(t, err)
	defer unlock(lock)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = BuildTemporald(ctx, source, bin, func(_ float64, detail string) {
		require.Equal(t, "waiting for another build", detail)
		cancel()
	})
	require.ErrorIs(t, err, context.Canceled)
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	t.Parallel()
	source, bin := t.TempDir(), t.TempDir()
	fakeTemporald(t, source)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := BuildTemporald(ctx, source, bin, func(float64, string) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	left, err := filepath.Glob(filepath.Join(bin, "temporald-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestLeashPassesTheExitCodeOn(t *testing.T) {
	t.Parallel()
	path, args := leash("/bin/sh", []string{"-c", "exit 7"})
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = childAttributes()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Run(), &exit)
	require.Equal(t, 7, exit.ExitCode())
}

func TestLinesAreTheSameHoweverTheyAreWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(rapid.StringMatching(`[a-z ]{0,20}`)).Draw(t, "lines")
		var text []byte
		for _, line := range want {
			text = append(text, line+"\n"...)
		}
		got := []string{}
		scanner := &lineScanner{each: func(line string) { got = append(got, line) }}
		for len(text) > 0 {
			n := rapid.IntRange(1, len(text)).Draw(t, "chunk")
			written, err := scanner.Write(text[:n])
			if err != nil || written != n {
				t.Fatalf("wrote %d of %d: %v", written, n, err)
			}
			text = text[n:]
		}
		if len(want) == 0 {
			want = []string{}
		}
		require.Equal(t, want, got)
	})
}

func TestLineWithoutEndIsBounded(t *testing.T) {
	t.Parallel()
	var got string
	scanner := &lineScanner{each: func(line string) { got = line }}
	for range 100 {
		_, err := scanner.Write(make([]byte, 4096))
		require.NoError(t, err)
	}
	_, err := scanner.Write([]byte("\n"))
	require.NoError(t, err)
	require.Len(t, got, maxLine)
}
