//go:build e2e

// Package e2e runs the built programs on real servers and asserts every hop of the loop by its public
// face: the HTTP APIs, the command line, ClickHouse and Temporal.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
)

// root is the checkout, and bin where TestMain put the programs.
var root, bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if root, err = filepath.Abs("../.."); err != nil {
		panic(err)
	}
	if bin, err = os.MkdirTemp("", "flyball-e2e-bin-"); err != nil {
		panic(err)
	}
	defer os.RemoveAll(bin)
	build := exec.Command("go", "build", "-o", bin, "./cmd/flyball", "./cmd/chserve")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the programs: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// process is a running program and what it has printed.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer // stdout and stderr
	done chan struct{}
	err  error // how it ended, after done
}

// start runs a program of the build in its own process group, until the test ends at the latest.
func start(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(filepath.Join(bin, program), args...), done: make(chan struct{})}
	p.cmd.Dir = root
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s %s printed:\n%s", program, strings.Join(args, " "), tail(p.output(), 40))
		}
	})
	return p
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// stop sends an interrupt and waits.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.done:
	case <-time.After(40 * time.Second):
		p.t.Errorf("%s did not stop within 40 s of an interrupt", p.cmd.Path)
		p.kill()
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// alive fails the test when the program has ended.
func (p *process) alive() {
	p.t.Helper()
	select {
	case <-p.done:
		require.FailNowf(p.t, "the program ended", "%s: %v\n%s", p.cmd.Path, p.err, tail(p.output(), 40))
	default:
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// stack is a running `flyball up`.
type stack struct {
	*process
	t         *testing.T
	dir       string
	addresses struct {
		Ingest     string `json:"ingest"`
		Console    string `json:"console"`
		Temporal   string `json:"temporal"`
		Redis      string `json:"redis"`
		ClickHouse struct {
			URL      string `json:"url"`
			User     string `json:"user"`
			Password string `json:"password"`
			Database string `json:"database"`
		} `json:"clickhouse"`
	}
}

// up starts a stack on free ports and waits until it says how to approve. The first start on a machine
// builds the Temporal server.
func up(t *testing.T, dir string, args ...string) *stack {
	t.Helper()
	s := &stack{t: t, dir: dir}
	s.process = start(t, "flyball", append([]string{"up", "--state", dir, "--source", root}, args...)...)
	deadline := time.Now().Add(25 * time.Minute)
	for !strings.Contains(s.output(), "Approve ") {
		s.alive()
		require.True(t, time.Now().Before(deadline), "the stack is not up after 25 minutes:\n%s", s.output())
		time.Sleep(100 * time.Millisecond)
	}
	text, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &s.addresses))
	return s
}

// freeBase finds ten free ports in a row.
func freeBase(t *testing.T) string {
	t.Helper()
	for base := 21000; base < 31000; base += 10 {
		free := true
		for port := base; port < base+10 && free; port++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return strconv.Itoa(base)
		}
	}
	require.FailNow(t, "no ten free ports in a row")
	return ""
}

// cli runs a command of the product to its end and returns its stdout.
func (s *stack) cli(args ...string) string {
	s.t.Helper()
	out, errs, err := s.tryCLI(args...)
	require.NoErrorf(s.t, err, "flyball %s: %s%s", strings.Join(args, " "), out, errs)
	return out
}

func (s *stack) tryCLI(args ...string) (out, errs string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "flyball"), args...)
	cmd.Dir = s.t.TempDir()
	require.NoError(s.t, os.Symlink(s.dir, filepath.Join(cmd.Dir, ".flyball")))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

// call makes one HTTP request with a JSON body (nil: GET) and decodes the JSON answer.
func call(ctx context.Context, method, address string, body, into any) error {
	var reader io.Reader
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, address, reader)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %s: %s", method, address, response.Status, raw)
	}
	return json.Unmarshal(raw, into)
}

// sql asks ClickHouse and returns the rows' tab-separated columns. It retries while the engine restarts.
func (s *stack) sql(query string, args ...any) [][]string {
	s.t.Helper()
	rows, err := s.trySQL(fmt.Sprintf(query, args...))
	for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); rows, err = s.trySQL(fmt.Sprintf(query, args...)) {
		time.Sleep(200 * time.Millisecond)
	}
	require.NoError(s.t, err)
	return rows
}

func (s *stack) trySQL(query string) ([][]string, error) {
	ch := s.addresses.ClickHouse
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, ch.URL+"/?"+url.Values{"database": {ch.Database}}.Encode(), strings.NewReader(query))
	if err != nil {
		return nil, err
	}
	request.SetBasicAuth(ch.User, ch.Password)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(string(raw))
	}
	var rows [][]string
	for scanner := bufio.NewScanner(bytes.NewReader(raw)); scanner.Scan(); {
		rows = append(rows, strings.Split(scanner.Text(), "\t"))
	}
	return rows, nil
}

// number is the one number that a query answers with; ok is false for NULL and NaN.
func (s *stack) number(query string, args ...any) (value float64, ok bool) {
	s.t.Helper()
	rows := s.sql(query, args...)
	require.Len(s.t, rows, 1)
	value, err := strconv.ParseFloat(rows[0][0], 64)
	return value, err == nil && value == value
}

// until polls a condition and returns how long it took; it fails the test at the deadline.
func (s *stack) until(what string, within time.Duration, condition func() bool) time.Time {
	s.t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(250 * time.Millisecond) {
		s.alive()
		if condition() {
			return time.Now()
		}
		require.Truef(s.t, time.Now().Before(deadline), "%s: not within %s", what, within)
	}
}

func (s *stack) dialTemporal() client.Client {
	s.t.Helper()
	c, err := client.Dial(client.Options{HostPort: strings.TrimPrefix(s.addresses.Temporal, "http://"), Namespace: "default"})
	require.NoError(s.t, err)
	return c
}

// signal sends a signal to a workflow, as temporal and tctl do.
func (s *stack) signal(workflow, name string, input any) {
	s.t.Helper()
	c := s.dialTemporal()
	defer c.Close()
	require.NoError(s.t, c.SignalWorkflow(s.t.Context(), workflow, "", name, input))
}

// running counts the open workflows of a type.
func (s *stack) running(workflowType string) int {
	s.t.Helper()
	c := s.dialTemporal()
	defer c.Close()
	page, err := c.ListWorkflow(s.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", workflowType, "Running"),
	})
	require.NoError(s.t, err)
	return len(page.GetExecutions())
}

// child finds the process of an embedded engine by its program's name among the stack's descendants.
func (s *stack) child(name string) int {
	s.t.Helper()
	pid, ok := s.findChild(name)
	require.Truef(s.t, ok, "no such child: %s", name)
	return pid
}

// findChild is child where the process may be away.
func (s *stack) findChild(name string) (pid int, ok bool) {
	s.t.Helper()
	parents := map[int]int{}
	names := map[int]string{}
	entries, err := os.ReadDir("/proc")
	require.NoError(s.t, err)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		text := string(stat)
		fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
		parents[pid], _ = strconv.Atoi(fields[1])
		names[pid] = text[strings.IndexByte(text, '(')+1 : strings.LastIndexByte(text, ')')]
	}
	for pid, program := range names {
		if !strings.HasPrefix(program, name) {
			continue
		}
		for up := pid; up > 1; up = parents[up] {
			if up == s.cmd.Process.Pid {
				return pid, true
			}
		}
	}
	return 0, false
}
