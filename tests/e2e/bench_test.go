//go:build e2e

package e2e

import (
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"
)

// TestBenchLoop prints how fast the whole loop is on this machine: rows one to four of the design's
// targets, and what an idle Flyball takes. It asserts no figure: machines are noisy. FLYBALL_BENCH_N
// sets the number of injections.
func TestBenchLoop(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") != "loop" {
		t.Skip("a benchmark: make bench-loop")
	}
	n := 5
	if v, err := strconv.Atoi(os.Getenv("FLYBALL_BENCH_N")); err == nil && v > 0 {
		n = v
	}
	idle(t)

	s := up(t, filepath.Join(t.TempDir(), "state"), "--port-base", freeBase(t))
	s.until("the key has fresh telemetry", 2*time.Minute, func() bool {
		calls, _ := s.number("SELECT sum(requests) FROM kpi_1m WHERE tenant_id='%s' AND requested_model='%s' AND minute >= now() - 120", tenant, model)
		return calls > 200
	})
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "what\tn\tp50 s\tp95 s\tp99 s\tworst s\t")
	row := func(what string, seconds []float64) {
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t\n", what, len(seconds), nearest(seconds, 0.5), nearest(seconds, 0.95), nearest(seconds, 0.99), nearest(seconds, 1))
	}
	row("span acknowledged → visible in kpi_1m", s.visibility(200))

	var step, rule, runaway []float64
	for range n {
		began, opened := s.injectUntil("PAGE", "cost", "--factor", "3", "--quality", "0.8")
		step = append(step, opened.Sub(began).Seconds())
		rule = append(rule, s.ruleToInbox())
		s.clear()
	}
	row("cost × 3, quality −20 %, 4 calls/s, all scored → incident in the inbox", step)
	row("first tick at which the rule holds (and a tick before it) → incident in the inbox", rule)
	for range n {
		began, opened := s.injectUntil("INVESTIGATE", "volume", "--factor", "5")
		runaway = append(runaway, opened.Sub(began).Seconds())
		s.clear()
	}
	row("volume × 5 → INVESTIGATE in the inbox", runaway)
	require.NoError(t, table.Flush())
	t.Log("demo profile: holds of 5 s where the product has 20 s (PAGE) and 10 s (INVESTIGATE); minimums 20 costs and 10 scores")
}

// nearest is the nearest-rank quantile.
func nearest(v []float64, q float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	v = slices.Sorted(slices.Values(v))
	return v[max(int(math.Ceil(q*float64(len(v))))-1, 0)]
}

// visibility sends single spans and polls the rollup for each, four at a time.
func (s *stack) visibility(n int) []float64 {
	s.t.Helper()
	seconds := make([]float64, n)
	var group sync.WaitGroup
	for w := range 4 {
		group.Go(func() {
			for i := w; i < n; i += 4 {
				name := "probe-" + strconv.Itoa(i)
				err := call(s.t.Context(), http.MethodPost, s.addresses.Ingest+"/v1/spans", map[string]any{
					"tenant_id": "probes", "trace_id": name, "span_id": "1", "timestamp": time.Now().UTC(), "provider": "test", "model": name,
					"tokens": map[string]int{"prompt": 1, "completion": 1}, "cost_usd": 0.000001,
				}, &struct{}{})
				acknowledged := time.Now()
				for err == nil && time.Since(acknowledged) < time.Minute {
					rows, failed := s.trySQL("SELECT sum(requests) FROM kpi_1m WHERE tenant_id='probes' AND requested_model='" + name + "'")
					if failed == nil && rows[0][0] == "1" {
						break
					}
					time.Sleep(20 * time.Millisecond)
				}
				seconds[i] = time.Since(acknowledged).Seconds()
			}
		})
	}
	group.Wait()
	return seconds
}

// injectUntil starts a fault and returns when it began and when the inbox showed its incident.
func (s *stack) injectUntil(level string, kind string, args ...string) (began, opened time.Time) {
	s.t.Helper()
	began = time.Now()
	s.cli(append([]string{"chaos", kind, "--tenant", tenant, "--model", model, "--for", "10m"}, args...)...)
	opened = s.until("an incident opens", 5*time.Minute, func() bool {
		return slices.ContainsFunc(s.incidents(), func(i incident) bool { return i.Level == level && i.Key.Tenant == tenant && i.Key.Model == model })
	})
	return began, opened
}

// ruleToInbox is the time from a sweep's tick before the one that woke the key's loop, which is before
// the first instant at which the rule held or up to a tick later, to now.
func (s *stack) ruleToInbox() float64 {
	s.t.Helper()
	now := time.Now()
	for _, i := range s.incidents() {
		if i.Key.Tenant == tenant && i.Key.Model == model {
			// The incident opens when the finding has held for 5 s since the loop's first signal.
			return now.Sub(i.Opened.Add(-5 * time.Second).Add(-5 * time.Second)).Seconds()
		}
	}
	return math.NaN()
}

// clear ends the fault and waits until nothing of it is left in the windows.
func (s *stack) clear() {
	s.t.Helper()
	s.cli("chaos", "stop")
	s.until("the incident resolves by itself", 15*time.Minute, func() bool { return len(s.incidents()) == 0 && len(s.flags()) == 0 })
}

// idle prints what each process of a Flyball without traffic takes.
func idle(t *testing.T) {
	s := up(t, filepath.Join(t.TempDir(), "idle"), "--port-base", freeBase(t), "--no-simulator")
	pids := map[string]int{"flyball": s.cmd.Process.Pid, "chserve": s.child("chserve"), "temporald": s.child("temporald")}
	before := map[string]float64{}
	time.Sleep(15 * time.Second) // start-up is not idling
	for name, pid := range pids {
		before[name] = cpuSeconds(t, pid)
	}
	const window = 60 * time.Second
	time.Sleep(window)
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "idle process\tresident MB\tCPU %\t")
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range pids {
			if !yield(name) {
				return
			}
		}
	}) {
		fmt.Fprintf(table, "%s\t%.0f\t%.1f\t\n", name, residentMB(t, pids[name]), 100*(cpuSeconds(t, pids[name])-before[name])/window.Seconds())
	}
	require.NoError(t, table.Flush())
	s.stop()
}

// cpuSeconds is the processor time that a process has used; a tick of the kernel's clock is 10 ms.
func cpuSeconds(t *testing.T, pid int) float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	text := string(stat)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	user, err := strconv.ParseFloat(fields[11], 64)
	require.NoError(t, err)
	system, err := strconv.ParseFloat(fields[12], 64)
	require.NoError(t, err)
	return (user + system) / 100
}

func residentMB(t *testing.T, pid int) float64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	for line := range strings.SplitSeq(string(status), "\n") {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			require.NoError(t, err)
			return n / 1024
		}
	}
	return math.NaN()
}
