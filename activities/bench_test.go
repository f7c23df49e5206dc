package activities

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// BenchmarkTick measures a whole tick of the sweep: watermark, query, decoding, the facts of every key against
// its baseline, and alert.yaml on the candidates. Traffic is Zipf-distributed, five calls per key in the
// quarter of an hour, a tenth of them scored; one key in a thousand costs three times its baseline.
// Baselines are in memory, as they are but for one tick an hour. Memory is this process's, the engine being
// another: what is live between two ticks, baselines included, and the most that was resident. Run it with
// FLYBALL_BENCH=1.
func BenchmarkTick(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	set, err := policy.Compile(policies.Files)
	require.NoError(b, err)
	url, user, password := chservetest.Start(b)
	for _, keys := range []int{1_000, 10_000, 100_000} {
		store, err := clickhouse.Open(b.Context(), clickhouse.Options{URL: url, User: user, Password: password, Database: fmt.Sprintf("tick_%d", keys)})
		require.NoError(b, err)
		b.Cleanup(func() { _ = store.Close() })
		require.NoError(b, store.Migrate(b.Context()))
		at := time.Now().UTC()
		world := &tickWorld{Store: store, at: at, baselines: load(b, store, keys, at)}
		b.Run(fmt.Sprintf("keys=%d", keys), func(b *testing.B) {
			s := &sweep{
				Sweeper: &Sweeper{Store: world, Set: func() *policy.Set { return set }, Loops: world, Flags: world, Log: silent()},
				request: contract.SweepRequest{Shards: 1, Tuning: tuning}, held: map[usage.Key]*held{},
			}
			var took []time.Duration
			debug.FreeOSMemory() // what loading took is not the tick's
			resetPeak()
			for b.Loop() {
				began := time.Now()
				require.NoError(b, s.tick(b.Context(), time.Now().UTC()))
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			milliseconds := func(share float64) float64 {
				return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
			}
			b.ReportMetric(milliseconds(0.50), "p50-ms")
			b.ReportMetric(milliseconds(0.95), "p95-ms")
			b.ReportMetric(float64(s.report.Keys), "observed")
			b.ReportMetric(float64(s.report.Candidates), "candidates")
			if peak, ok := peakMB(); ok {
				b.ReportMetric(peak, "peak-resident-MB")
			}
			runtime.GC()
			var memory runtime.MemStats
			runtime.ReadMemStats(&memory)
			b.ReportMetric(float64(memory.HeapAlloc)/(1<<20), "live-heap-MB")
			runtime.KeepAlive(s)
			b.ReportMetric(0, "ns/op")
		})
	}
}

// resetPeak has the kernel, where it is Linux, forget the most memory that was resident.
func resetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600) }

// peakMB is the most memory that was resident since; ok is false where the kernel does not tell.
func peakMB() (mb float64, ok bool) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.SplitSeq(string(status), "\n") {
		if kb, found := strings.CutPrefix(line, "VmHWM:"); found {
			n, err := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			return n / 1024, err == nil
		}
	}
	return 0, false
}

// tickWorld is the store of the measured ticks, with baselines in memory, and loops that hear and do nothing.
type tickWorld struct {
	*clickhouse.Store
	at        time.Time
	baselines map[usage.Key]detect.Baseline
}

func (w *tickWorld) ReadWatermark(ctx context.Context, now time.Time) (time.Time, error) {
	_, err := w.Store.ReadWatermark(ctx, now) // asked as ever, but the traffic was made for this moment
	return w.at, err
}

func (w *tickWorld) Baselines(context.Context, time.Time) (map[usage.Key]detect.Baseline, error) {
	return w.baselines, nil
}

func (w *tickWorld) Open(context.Context, func(usage.Key, string) bool) ([]OpenLoop, error) {
	return nil, nil
}

func (w *tickWorld) Groups(context.Context) ([]string, error) { return nil, nil }

func (w *tickWorld) StartGroup(context.Context, contract.GroupInput) (bool, error) { return false, nil }

func (w *tickWorld) Tell(context.Context, contract.FactsMessage, contract.Tuning, bool) (bool, error) {
	return true, nil // gone at once: each tick finds the same
}

func (w *tickWorld) Revision(context.Context) (routing.Revision, error) {
	return routing.Revision{}, nil
}

// load stores the traffic of the quarter of an hour before at, in five inserts as under live traffic, and
// returns every key's baseline.
func load(b *testing.B, store *clickhouse.Store, keys int, at time.Time) map[usage.Key]detect.Baseline {
	random := rand.New(rand.NewPCG(1, uint64(keys)))
	name := func(rank int) usage.Key {
		return usage.Key{Tenant: fmt.Sprint("tenant-", rank%1000), Model: fmt.Sprint("model-", rank/1000)}
	}
	const median = 1e9 // pico-dollars
	for part := range 5 {
		spans, scores := make([]usage.Span, keys), []usage.Quality(nil)
		for i := range spans {
			rank := int(math.Exp(random.Float64() * math.Log(float64(keys))))
			k := name(rank)
			cost := median * math.Exp(0.5*random.NormFloat64())
			if rank%1000 == 7 {
				cost *= 3
			}
			id := fmt.Sprint(part, "-", i)
			when := at.Add(-time.Duration(random.Int64N(int64(14 * time.Minute)))).Truncate(time.Millisecond)
			spans[i] = usage.Span{
				TraceID: id, SpanID: "1", Timestamp: when, TenantID: k.Tenant, RequestedModel: k.Model, Model: k.Model, Provider: "test",
				Tokens: usage.Tokens{UncachedInput: 1000, CacheRead: 100, Output: 200}, UsageComplete: true,
				Cost: usage.PicoUSD(cost), Priced: true, PriceVersion: "1", Complexity: 1,
			}
			if i%10 == 0 {
				scores = append(scores, usage.Quality{
					ID: id, TraceID: id, TenantID: k.Tenant, Model: k.Model, Evaluator: "judge", Kind: "judge", Confidence: 1,
					Score: 0.7 + 0.2*random.Float64(), Timestamp: when,
				})
			}
		}
		require.NoError(b, store.InsertSpans(b.Context(), spans, fmt.Sprint("spans-", part)))
		require.NoError(b, store.InsertQuality(b.Context(), scores, fmt.Sprint("quality-", part)))
	}
	baselines := make(map[usage.Key]detect.Baseline, keys)
	add := func(k usage.Key) {
		baselines[k] = detect.Baseline{
			Key: k, Slot: at.Truncate(time.Hour), Version: "1", CostBuckets: 100, LnCost: math.Log(median), LnCostDev: 0.05, LnCostSD: 0.5, CostBucketN: 100,
			QualityBuckets: 100, Quality: 0.8, QualityDev: 0.02, QualitySD: 0.06, QualityBucketN: 50,
			SpendPerMinute: 1e12, SpendDev: 0.2, RequestsPerMin: 10, Completion: 0.18, CacheHit: 0.09,
		}
	}
	for rank := range keys + 1 {
		k := name(rank)
		add(k)
		add(usage.Key{Tenant: k.Tenant, Model: usage.AnyModel})
	}
	return baselines
}
