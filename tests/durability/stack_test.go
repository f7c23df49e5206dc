package durability

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/ingest"
)

// stack is an engine and an ingest as real processes at fixed addresses. Its methods are for one goroutine, except
// those that senders use.
type stack struct {
	t                    *testing.T
	flyball, config      string // the program and its configuration
	spool, data, logPath string
	engineAddress        string
	address              string // of ingest, with http://

	engine  *chservetest.Server
	program *exec.Cmd     // ingest
	ended   chan struct{} // closed when ingest has ended
	lastAck atomic.Int64  // unix nanoseconds
}

const database = "flyball"

func newStack(t *testing.T) *stack {
	dir := t.TempDir()
	s := &stack{
		t: t, flyball: filepath.Join(dir, "flyball"), config: filepath.Join(dir, "flyball.yaml"),
		spool: filepath.Join(dir, "spool"), data: filepath.Join(dir, "clickhouse"), logPath: filepath.Join(dir, "ingest.log"),
		engineAddress: freeAddress(t),
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.flyball, "./cmd/flyball")
	build.Dir = filepath.Join("..", "..")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	listen := freeAddress(t)
	s.address = "http://" + listen
	require.NoError(t, os.WriteFile(s.config, fmt.Appendf(nil, `
ingest: {listen: %q}
spool: %q
clickhouse: {url: "http://%s", user: %s, password: %s, database: %s}
`, listen, s.spool, s.engineAddress, chservetest.AdminUser, chservetest.AdminPassword, database), 0o600))
	t.Cleanup(func() {
		if s.running() {
			s.stopIngest()
		}
		if t.Failed() {
			text, _ := os.ReadFile(s.logPath)
			t.Logf("the end of ingest's log:\n%s", text[max(0, len(text)-8000):])
		}
	})
	return s
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func (s *stack) startEngine() {
	s.engine = chservetest.Launch(s.t, chservetest.Options{Data: s.data, Args: []string{"--listen", s.engineAddress}})
}

func (s *stack) killEngine() { s.engine.Kill() }

func (s *stack) migrate() {
	out, err := exec.CommandContext(s.t.Context(), s.flyball, "migrate", "--config", s.config).CombinedOutput()
	require.NoError(s.t, err, string(out))
}

func (s *stack) running() bool {
	if s.ended == nil {
		return false
	}
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// startIngest starts ingest unless it runs, and waits until it answers.
func (s *stack) startIngest() {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if !s.running() {
			log, err := os.OpenFile(s.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			require.NoError(s.t, err)
			s.program, s.ended = exec.Command(s.flyball, "serve", "--role", "ingest", "--config", s.config), make(chan struct{})
			s.program.Stdout, s.program.Stderr = log, log
			require.NoError(s.t, s.program.Start())
			go func(cmd *exec.Cmd, ended chan struct{}) {
				_ = cmd.Wait() // killed more often than not
				log.Close()
				close(ended)
			}(s.program, s.ended)
		}
		if response, err := http.Get(s.address + "/healthz"); err == nil {
			response.Body.Close()
			return
		}
		require.True(s.t, time.Now().Before(deadline), "ingest does not answer")
		select {
		case <-s.ended:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (s *stack) killIngest() {
	if s.running() {
		_ = s.program.Process.Kill()
		<-s.ended
	}
}

// stopIngest sends SIGTERM and requires a clean end.
func (s *stack) stopIngest() {
	require.NoError(s.t, s.program.Process.Signal(syscall.SIGTERM))
	select {
	case <-s.ended:
		require.Zero(s.t, s.program.ProcessState.ExitCode(), "ingest did not stop cleanly")
	case <-time.After(30 * time.Second):
		require.FailNow(s.t, "ingest does not stop")
	}
}

var residentLine = regexp.MustCompile(`(?m)^VmRSS:\s+(\d+) kB$`)

// ingestResident is ingest's memory in MiB, 0 when it does not run or the system does not say.
func (s *stack) ingestResident() int {
	if !s.running() {
		return 0
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.program.Process.Pid))
	m := residentLine.FindSubmatch(text)
	if err != nil || m == nil {
		return 0
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib >> 10
}

// corrupt counts the segments that ingest has set aside.
func (s *stack) corrupt() int {
	aside, err := filepath.Glob(filepath.Join(s.spool, "*.corrupt"))
	require.NoError(s.t, err)
	return len(aside)
}

// stats are what ingest says of itself.
func (s *stack) stats() (stats ingest.Stats, err error) {
	response, err := client.Get(s.address + "/v1/ingest")
	if err != nil {
		return stats, err
	}
	defer response.Body.Close()
	return stats, json.NewDecoder(response.Body).Decode(&stats)
}

// awaitDrained waits for a watermark behind the last acknowledgement, as long as there is progress.
func (s *stack) awaitDrained() {
	sent := time.Unix(0, s.lastAck.Load()).UTC().Format("2006-01-02 15:04:05.000")
	for least, since := int64(math.MaxInt64), time.Now(); ; {
		rows, err := s.query("SELECT count() FROM ingest_watermarks WHERE at > toDateTime64('" + sent + "', 3, 'UTC')")
		if err == nil && rows[0][0] != "0" {
			return
		}
		if stats, err := s.stats(); err == nil && stats.SpoolRows < least {
			least, since = stats.SpoolRows, time.Now()
		}
		require.Less(s.t, time.Since(since), 3*time.Minute, "ingest does not drain: %d rows are left", least)
		<-time.After(200 * time.Millisecond)
	}
}

// query asks the engine and gives the rows' columns.
func (s *stack) query(sql string) ([][]string, error) {
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost,
		"http://"+s.engineAddress+"/?"+url.Values{"database": {database}}.Encode(), strings.NewReader(sql))
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(chservetest.AdminUser, chservetest.AdminPassword)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", sql, text)
	}
	var rows [][]string
	for line := range strings.Lines(string(text)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows, nil
}
