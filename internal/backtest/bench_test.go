package backtest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/usage"
)

// benchKeys are keys of tenants with ten models each.
func benchKeys(n int) (keys []usage.Key) {
	for i := range n {
		keys = append(keys, usage.Key{Tenant: fmt.Sprint("t", i/10), Model: fmt.Sprint("m", i%10)})
	}
	return keys
}

// BenchmarkCore measures going over the past without a store: arrivals, windows, facts and the shipped policies for
// keys with a call a minute and with five a second, a tenth of them scored, at a tick every 15 s. One key in a hundred
// costs three times its baseline, so that a set has something to say. Pseudo-keys count as keys. Time is that of the
// processor, of all goroutines together, so that a busy machine does not count.
func BenchmarkCore(b *testing.B) {
	set := shippedSet(b)
	for _, c := range []struct {
		name  string
		keys  int
		calls float64 // a tick
		ticks int
	}{{"sparse", 2000, 0.25, 480}, {"dense", 100, 75, 480}} {
		b.Run(c.name, func(b *testing.B) {
			keys := benchKeys(c.keys)
			random := rand.New(rand.NewPCG(1, 2))
			var observed int64
			var took time.Duration
			for b.Loop() {
				r := backtest.NewReplay(backtest.Options{Sets: []*policy.Set{set}, Tuning: contract.NewTuning(1)})
				r.Baselines(usualBaselines(keys...))
				arrivals := make([][]detect.Arrival, c.ticks)
				for tick := range c.ticks {
					arrivals[tick] = benchArrivals(random, keys, begin.Add(time.Duration(tick)*every), c.calls)
				}
				began := cpuTime()
				for tick := range c.ticks {
					for _, a := range arrivals[tick] {
						r.Add(a)
					}
					r.Tick(begin.Add(time.Duration(tick) * every))
				}
				result, err := r.Finish()
				require.NoError(b, err)
				took += cpuTime() - began
				observed += result.Observed
			}
			b.ReportMetric(backtest.KeyDays(observed, every)/took.Seconds(), "key-days/cpu-s")
			b.ReportMetric(float64(took.Nanoseconds())/float64(observed), "cpu-ns/observation")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime is the time that this process has had of processors.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchArrivals(random *rand.Rand, keys []usage.Key, at time.Time, calls float64) (all []detect.Arrival) {
	for i, k := range keys {
		n := int(calls)
		if random.Float64() < calls-float64(n) {
			n++
		}
		if n == 0 {
			continue
		}
		a := detect.Arrival{Key: k, Minute: at.Unix() / 60, Arm: usage.None, Volume: detect.Volume{Requests: int64(n), InputTokens: int64(600 * n), OutputTokens: int64(300 * n)}, CostPico: int64(n) * 1e9}
		for range n {
			code := usualCode + int(60*random.NormFloat64())
			if i%100 == 7 {
				code += 158
			}
			a.Costs = append(a.Costs, int16(code))
			if random.IntN(10) == 0 {
				a.Scores = append(a.Scores, int16(160+10*random.NormFloat64()))
			}
		}
		all = append(all, a)
	}
	return all
}

// nowhere keeps nothing of shadow mode.
type nowhere struct{}

func (nowhere) RecordShadow(context.Context, []clickhouse.ShadowRow) error { return nil }

func (nowhere) ShadowStates(context.Context) ([]clickhouse.ShadowRow, error) { return nil, nil }

// BenchmarkShadow measures what shadow mode adds to a tick of 10,000 keys, one in a thousand of which costs three times its
// baseline: the live set's verdicts are taken as they are, and the second set is the shipped one too.
func BenchmarkShadow(b *testing.B) {
	set := shippedSet(b)
	tuning := contract.NewTuning(1)
	keys := benchKeys(10_000)
	baselines := usualBaselines(keys...)
	var facts []detect.Facts
	var verdicts []detect.Verdict
	for i, k := range keys {
		o := detect.Observation{Key: k, Whole: detect.Volume{Requests: 900}}
		for w := range o.Windows {
			o.Windows[w] = detect.Window{CostN: 300, LnCost: baselines[k].LnCost, QualityN: 100, Quality: 0.8}
			if i%1000 == 7 {
				o.Windows[w].LnCost++
				o.Windows[w].Quality = 0.6
			}
		}
		f := detect.Assemble(o, baselines[k], tuning.Limits.Minimums, detect.None)
		v, err := set.Alert(f)
		require.NoError(b, err)
		facts, verdicts = append(facts, f), append(verdicts, v)
	}
	shadow := backtest.NewShadow(nowhere{}, tuning, func(string) bool { return true }, true)
	now := begin
	began, ticks := cpuTime(), 0
	for b.Loop() {
		now = now.Add(5 * time.Second)
		require.NoError(b, shadow.Begin(b.Context(), set, set, now))
		for i, k := range keys {
			base := baselines[k]
			shadow.See(backtest.Seen{Key: k, Facts: &facts[i], Calls: 900, Baseline: &base, Watch: now, Now: now}, &verdicts[i])
		}
		require.NoError(b, shadow.End(b.Context()))
		ticks++
	}
	require.Zero(b, shadow.Failed)
	b.ReportMetric(float64((cpuTime()-began).Microseconds())/1000/float64(ticks), "cpu-ms/tick")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkStored measures a whole backtest over stored telemetry: the engine's reading and gathering, the way to here,
// and the core, on as many goroutines as there are processors. Each key makes two calls a minute, a tenth of them
// scored, with baselines of every hour. Run it with FLYBALL_BENCH=1.
func BenchmarkStored(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	set := shippedSet(b)
	for _, c := range []struct{ keys, days int }{{50, 1}, {500, 1}} {
		b.Run(fmt.Sprintf("keys=%d/days=%d", c.keys, c.days), func(b *testing.B) {
			store, exec := openStore(b)
			from := time.Now().UTC().Truncate(time.Hour).Add(-time.Duration(c.days) * 24 * time.Hour)
			exec(fmt.Sprintf(`INSERT INTO spans (trace_id, span_id, timestamp, ingested_at, tenant_id, requested_model, model, cohort, uncached_input_tokens, output_tokens, cost_pico_usd, latency_ms, ttft_ms, arm)
SELECT toString(number), '1', fromUnixTimestamp64Milli(toInt64(%[1]d + number * %[2]d)) AS at, at + INTERVAL 2 SECOND, concat('t', toString(intDiv(k, 10))), concat('m', toString(k %% 10)) AS m, m, 'production', 600, 300, toInt64(exp2((3000 + 60 * randNormal(0, 1)) / 100)), 900, 200, 'none'
FROM (SELECT number, cityHash64(number) %% %[3]d AS k FROM numbers(%[4]d))`, from.UnixMilli(), 30_000/c.keys, c.keys, c.days*2880*c.keys))
			exec(`INSERT INTO quality (id, trace_id, timestamp, ingested_at, tenant_id, requested_model, cohort, arm, evaluator, kind, score, confidence)
SELECT trace_id, trace_id, timestamp, ingested_at + INTERVAL 5 SECOND, tenant_id, requested_model, 'production', 'none', 'judge', 'judge', 0.8 + randNormal(0, 0.05), 1 FROM spans WHERE cityHash64(trace_id) % 10 = 0`)
			exec(fmt.Sprintf(`INSERT INTO baselines (slot, computed_at, tenant_id, model, version, cost_buckets, ln_cost, ln_cost_dev, ln_cost_sd, cost_bucket_n, quality_buckets, quality, quality_dev, quality_sd, quality_bucket_n, spend_per_minute_pico, requests_per_minute)
SELECT toDateTime(%[1]d + 3600 * intDiv(number, %[2]d), 'UTC') AS slot, slot + 5, concat('t', toString(intDiv(number %% %[2]d, 10))), concat('m', toString(number %% 10)), 'test', 100, 30 * log(2), 0.02, 0.4, 30, 100, 0.8, 0.01, 0.05, 3, 2e9, 2 FROM numbers(%[3]d)`, from.Unix(), c.keys, c.keys*24*c.days))
			var days float64
			var took, cpu time.Duration
			for b.Loop() {
				past := backtest.Past{
					KnownQuery: clickhouse.KnownQuery{From: from, To: from.Add(time.Duration(c.days) * 24 * time.Hour), Every: every},
					Options:    backtest.Options{Sets: []*policy.Set{set}, Tuning: contract.NewTuning(1), Lag: 2 * time.Second, Workers: runtime.NumCPU()},
				}
				began, used := time.Now(), cpuTime()
				result, err := backtest.Run(b.Context(), store, past)
				require.NoError(b, err)
				took, cpu = took+time.Since(began), cpu+cpuTime()-used
				days += backtest.KeyDays(result.Observed, every)
				require.Positive(b, result.Baselines.Hour)
			}
			b.ReportMetric(days/took.Seconds(), "key-days/s")
			b.ReportMetric(days/cpu.Seconds(), "key-days/cpu-s-here")
			b.ReportMetric(took.Seconds()/float64(b.N), "s/backtest")
			b.ReportMetric(0, "ns/op")
		})
	}
}
