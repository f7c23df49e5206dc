// Package chservetest gives tests a real ClickHouse engine: it builds chserve, starts it on a free port
// over a directory of the test's own, and stops it at the test's end. Where the engine library is not
// installed the test is skipped with the reason.
package chservetest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/engine"
)

// The admin user that every server of this package has.
const (
	AdminUser     = "flyball"
	AdminPassword = "test-password"
)

// startTime bounds a start; a cold page cache makes the first one slow.
const startTime = 90 * time.Second

// User is an entry of chserve's users file.
type User struct {
	Name       string   `json:"user"`
	Password   string   `json:"password"`
	Tenants    []string `json:"tenants,omitempty"`
	AllTenants bool     `json:"all_tenants,omitempty"`
	Embargoed  bool     `json:"embargoed,omitempty"`
	Admin      bool     `json:"admin,omitempty"`
}

// Start runs a server with an empty database until the end of the test and returns its address and the
// admin user's credentials.
func Start(t testing.TB) (url, user, password string) {
	t.Helper()
	server := Launch(t, Options{})
	return server.URL, AdminUser, AdminPassword
}

// Options change how a server is launched; the zero value is a fresh server with its admin user.
type Options struct {
	// Data is the data directory; empty takes a new one.
	Data string
	// Users are added to the admin user.
	Users []User
	// Args are further arguments of chserve.
	Args []string
}

// Server is a running chserve.
type Server struct {
	URL string
	// Data is its data directory, for a later Launch on the same files.
	Data    string
	process *exec.Cmd
	stdin   io.Closer
	// log is what it wrote to standard error; complete once exited is closed.
	log    *lockedBuffer
	exited chan struct{}
}

// Launch runs a server until the end of the test, or until Kill or Stop.
func Launch(t testing.TB, o Options) *Server {
	t.Helper()
	library, err := engine.Find(".")
	if err != nil {
		t.Skip("needs the embedded ClickHouse: ", err)
	}
	if o.Data == "" {
		o.Data = filepath.Join(t.TempDir(), "clickhouse")
	}
	users, err := json.Marshal(append([]User{{Name: AdminUser, Password: AdminPassword, Admin: true}}, o.Users...))
	require.NoError(t, err)
	usersFile := filepath.Join(t.TempDir(), "users.json")
	require.NoError(t, os.WriteFile(usersFile, users, 0o600))

	process := exec.Command(Binary(t), append([]string{
		"--library", library, "--data", o.Data, "--users", usersFile, "--listen", "127.0.0.1:0", "--exit-with-stdin",
	}, o.Args...)...)
	s := &Server{Data: o.Data, process: process, log: &lockedBuffer{}, exited: make(chan struct{})}
	process.Stderr = s.log
	s.stdin, err = process.StdinPipe()
	require.NoError(t, err)
	stdout, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())

	ready := make(chan string, 1)
	go func() {
		defer close(s.exited)
		line, _ := bufio.NewReader(stdout).ReadString('\n')
		ready <- line
		_, _ = io.Copy(io.Discard, stdout)
		_ = process.Wait() // the state is read from ProcessState
	}()
	t.Cleanup(func() { s.Stop(t) })
	select {
	case line := <-ready:
		url, ok := strings.CutPrefix(strings.TrimSpace(line), "chserve ready ")
		if !ok {
			<-s.exited
			t.Fatalf("chserve did not start: %s", s.log)
		}
		s.URL = url
	case <-time.After(startTime):
		t.Fatalf("chserve was not ready after %s: %s", startTime, s.log)
	}
	return s
}

// PID is the server's process id.
func (s *Server) PID() int { return s.process.Process.Pid }

// Stop ends the server by closing its standard input, and requires that it ended cleanly. It does nothing
// when the server has ended already.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	select {
	case <-s.exited:
		return
	default:
	}
	_ = s.stdin.Close()
	select {
	case <-s.exited:
	case <-time.After(30 * time.Second):
		_ = s.process.Process.Kill()
		<-s.exited
		t.Errorf("chserve did not stop when its standard input closed: %s", s.log)
		return
	}
	if code := s.process.ProcessState.ExitCode(); code != 0 {
		t.Errorf("chserve exited with %d: %s", code, s.log)
	}
}

// Kill ends the server with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	_ = s.process.Process.Signal(syscall.SIGKILL) // an error means that it is gone already
	<-s.exited
}

var (
	buildOnce sync.Once
	binary    string
	buildErr  error
)

// Binary builds chserve once per test process and returns its path. The binary stays in the user's cache
// folder, so that the next build of the same sources has nothing to do.
func Binary(t testing.TB) string {
	t.Helper()
	buildOnce.Do(func() { binary, buildErr = build() })
	require.NoError(t, buildErr)
	return binary
}

func build() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	module, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module of chserve: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	checkout := sha256.Sum256(module) // each checkout has a binary of its own
	dir := filepath.Join(cache, "flyball-test", hex.EncodeToString(checkout[:8]))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("building chserve: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", fmt.Errorf("building chserve: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("waiting for another build of chserve: %w", err)
	}
	path := filepath.Join(dir, "chserve")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/flyball-dev/flyball/cmd/chserve").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building chserve: %w\n%s", err, out)
	}
	return path, nil
}

// lockedBuffer collects output while tests read it.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
