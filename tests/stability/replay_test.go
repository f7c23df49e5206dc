package stability

import (
	"encoding/csv"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/replay"
)

// TestRecordedTraffic prints how often real traffic in which nothing is known to be wrong pages and
// investigates: recorded calls under the shipped rules, with baselines as the hourly job would have drawn
// them from the days before. It asserts nothing about the rates: they are findings. FLYBALL_DATA names the
// folder that holds traces/, as for scripts/check-data.sh.
func TestRecordedTraffic(t *testing.T) {
	t.Parallel()
	data := os.Getenv("FLYBALL_DATA")
	if data == "" {
		t.Skip("needs recorded traces: set FLYBALL_DATA to the folder that holds traces/ (scripts/check-data.sh does)")
	}
	traces := filepath.Join(data, "traces")
	azure := readTrace(t, filepath.Join(traces, "AzureLLMInferenceTrace_code.csv"))
	mooncake := readTrace(t, filepath.Join(traces, "synthetic_trace.jsonl"))
	type row struct {
		name  string
		calls func(seed uint64) iter.Seq[recorded]
	}
	rows := []row{
		{"Azure code, over and over", func(uint64) iter.Seq[recorded] { return again(azure) }},
		{"Mooncake, over and over", func(uint64) iter.Seq[recorded] { return again(mooncake) }},
	}
	files, err := filepath.Glob(filepath.Join(traces, "servegen_*.csv"))
	require.NoError(t, err)
	for _, file := range files {
		windows := readWindows(t, file)
		name := filepath.Base(file)
		rows = append(rows,
			row{name + ", fitted gaps", func(seed uint64) iter.Seq[recorded] { return arrivals(turned(windows, seed), azure, seed, false) }},
			row{name + ", recorded cv", func(seed uint64) iter.Seq[recorded] { return arrivals(turned(windows, seed), azure, seed, true) }})
	}
	seeds := 2 * size(t)
	shipped := shipped(t)
	results := each(len(rows)*seeds, func(i int) *replayed {
		seed := uint64(i % seeds)
		return replayTrace(rows[i/seeds].calls(seed), 0.1, seed, shipped)
	})
	table := tabwriter.NewWriter(t.Output(), 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "trace\tkeys\tkey-days\tcalls/s\tjudged\tpages\ta key-month\tinvestigations\ta key-month\trules\t")
	var all tally
	for i, r := range rows {
		var one tally
		for _, res := range results[i*seeds : (i+1)*seeds] {
			one.add(res)
			all.add(res)
		}
		one.print(table, r.name)
	}
	all.print(table, "all")
	require.NoError(t, table.Flush())
}

// tally sums up replays of the week that counts.
type tally struct {
	keys         int
	calls        int64
	busy         time.Duration
	pages, looks int
	rules        map[string]int
}

func (c *tally) add(p *replayed) {
	if c.rules == nil {
		c.rules = map[string]int{}
	}
	c.keys++
	c.calls += p.calls
	c.busy += p.busy - p.unknown
	for _, r := range p.res.incidents {
		if r.at <= warming {
			continue
		}
		if r.level == detect.Page {
			c.pages++
		} else {
			c.looks++
		}
		c.rules[r.rule]++
	}
}

func (c *tally) print(to *tabwriter.Writer, name string) {
	simulated := time.Duration(c.keys) * (replayLength - warming)
	fmt.Fprintf(to, "%s\t%d\t%.0f\t%.2f\t%.0f %%\t%d\t%.2f\t%d\t%.1f\t%s\t\n", name, c.keys, simulated.Hours()/24, float64(c.calls)/simulated.Seconds(),
		100*c.busy.Seconds()/simulated.Seconds(), c.pages, float64(c.pages)/months(simulated), c.looks, float64(c.looks)/months(simulated), tallied(c.rules))
}

// readTrace reads a trace whose rows are calls.
func readTrace(t *testing.T, path string) []recorded {
	file, err := replay.Open(path, "")
	require.NoError(t, err)
	var calls []recorded
	var start time.Time
	for row, err := range file.Rows() {
		require.NoError(t, err)
		if len(calls) == 0 {
			start = row.At
		}
		used := row.Fields["tokens"].(map[string]any)
		calls = append(calls, recorded{row.At.Sub(start), tokens{used["prompt"].(int64), used["completion"].(int64), used["cached"].(int64)}})
	}
	require.NotEmpty(t, calls)
	return calls
}

// again repeats a trace without end.
func again(calls []recorded) iter.Seq[recorded] {
	length := calls[len(calls)-1].at + calls[len(calls)-1].at/time.Duration(len(calls))
	return func(yield func(recorded) bool) {
		for begins := time.Duration(0); ; begins += length {
			for _, c := range calls {
				c.at += begins
				if !yield(c) {
					return
				}
			}
		}
	}
}

// window is how one real tenant called in ten minutes.
type window struct {
	start    time.Duration
	rate, cv float64
	law      string // of the gaps between calls
	shape    float64
}

const windowLength = 10 * time.Minute

// readWindows reads rates: rows of second, calls a second, coefficient of variation of the gaps, the law
// fitted to them and its parameters.
func readWindows(t *testing.T, path string) []window {
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	rows, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	all := make([]window, len(rows))
	number := func(cell string) float64 {
		v, err := strconv.ParseFloat(cell, 64)
		require.NoError(t, err)
		return v
	}
	for i, r := range rows {
		all[i] = window{time.Duration(number(r[0])) * time.Second, number(r[1]), number(r[2]), r[3], number(r[4])}
	}
	return all
}

// turned puts the second week before the first for odd seeds, so that each of them is the one that counts.
func turned(windows []window, seed uint64) []window {
	if seed%2 == 0 {
		return windows
	}
	half := len(windows) / 2
	all := slices.Concat(windows[half:], windows[:half])
	for i := range all {
		all[i].start = windows[i].start
	}
	return all
}

// arrivals draws calls from the windows, their tokens from another trace. The gaps follow the fitted law, or
// a gamma law of the recorded variation.
func arrivals(windows []window, sizes []recorded, seed uint64, recordedCV bool) iter.Seq[recorded] {
	return func(yield func(recorded) bool) {
		random := rand.New(rand.NewPCG(seed, 4))
		for _, w := range windows {
			if w.rate <= 0 {
				continue
			}
			gap := w.gaps(random, recordedCV)
			for at := gap(); at < windowLength.Seconds(); at += gap() {
				c := sizes[random.IntN(len(sizes))]
				c.at = w.start + time.Duration(at*float64(time.Second))
				if !yield(c) {
					return
				}
			}
		}
	}
}

// gaps draws seconds between calls whose mean is one by the rate.
func (w window) gaps(random *rand.Rand, recordedCV bool) func() float64 {
	switch {
	case recordedCV && w.cv > 0:
		shape := 1 / (w.cv * w.cv)
		return func() float64 { return gamma(random, shape) / shape / w.rate }
	case w.law == "Weibull":
		mean := math.Gamma(1 + 1/w.shape)
		return func() float64 { return math.Pow(random.ExpFloat64(), 1/w.shape) / mean / w.rate }
	case w.law == "Gamma":
		return func() float64 { return gamma(random, w.shape) / w.shape / w.rate }
	}
	return func() float64 { return random.ExpFloat64() / w.rate }
}

// gamma draws from a gamma law of scale 1 by Marsaglia and Tsang's method.
func gamma(random *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(random, shape+1) * math.Pow(random.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		z := random.NormFloat64()
		v := 1 + c*z
		if v <= 0 {
			continue
		}
		v *= v * v
		if math.Log(random.Float64()) < z*z/2+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}
