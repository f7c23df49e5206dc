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

// TestBenchAlert prints how fast detection is on this machine under the product's own profile: rows one to
// four of the design's targets, over many injections, and what idle keys and incidents cost in actions of
// Temporal. It asserts no figure: machines are noisy. FLYBALL_BENCH_N is the number of injections
// of each kind.
func TestBenchAlert(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") != "alert" {
		t.Skip("a benchmark: make bench-alert")
	}
	n := 100
	if v, err := strconv.Atoi(os.Getenv("FLYBALL_BENCH_N")); err == nil && v > 0 {
		n = v
	}
	b := newAlertBench(t, n)
	visible := b.visibility(200)
	b.quiet(min(3*time.Minute, time.Duration(n)*10*time.Second))
	b.run()
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "what\tn\tp50 s\tp95 s\tp99 s\tworst s\tnot seen\t")
	row := func(what string, seconds []float64, missed int) {
		fmt.Fprintf(table, "%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t\n", what, len(seconds), nearest(seconds, 0.5), nearest(seconds, 0.95), nearest(seconds, 0.99), nearest(seconds, 1), missed)
	}
	row("span acknowledged → visible in kpi_1m", visible, 0)
	for _, kind := range b.kinds {
		row(kind.name+" → "+string(kind.level)+" posted", kind.fromFault, kind.missed)
	}
	for _, kind := range b.kinds {
		row("the rule holds on stored data → "+string(kind.level)+" posted: "+kind.name, kind.fromRule, kind.unexplained)
	}
	require.NoError(t, table.Flush())
	b.printAside()
	b.printActions()
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

// TestBenchIdle prints what each process of a Flyball without traffic takes.
func TestBenchIdle(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") != "alert" {
		t.Skip("a benchmark: make bench-alert")
	}
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
