// Package bench measures across packages what no package can by itself. Its benchmarks run with FLYBALL_BENCH=1.
package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	batchRows   = 10_000 // of one insert, ingest's own default
	batches     = 8
	requestRows = 1000
	senders     = 3
	ahead       = 4 * batchRows // senders wait while more than that is in the spool
)

// BenchmarkIngestEndToEnd sets what comes in by HTTP, goes through the spool and ends in ClickHouse beside a bare
// insert of the same rows in the same batches, one after the other on the same engine, and measures how long an
// acknowledged span takes to be visible in kpi_1m under that load, in a pass of its own, since looking costs the engine
// too. One iteration is all three, in turns.
func BenchmarkIngestEndToEnd(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	e := newEngine(b)
	var bare, whole, bareCPU, wholeCPU time.Duration
	var visible []time.Duration
	run := 0
	for b.Loop() {
		run++
		rows := make([][]usage.Span, batches)
		for n := range rows {
			rows[n] = spans(fmt.Sprint("bare-", run), n*batchRows, batchRows)
		}
		start, cpu := time.Now(), e.cpu(b)
		for n, batch := range rows {
			require.NoError(b, e.store.InsertSpans(b.Context(), batch, fmt.Sprintf("bare-%d-%d", run, n)))
		}
		bare, bareCPU = bare+time.Since(start), bareCPU+e.cpu(b)-cpu
		took, spent, _ := e.ingest(b, fmt.Sprint("ingest-", run), false)
		whole, wholeCPU = whole+took, wholeCPU+spent
		_, _, seen := e.ingest(b, fmt.Sprint("watched-", run), true)
		visible = append(visible, seen...)
	}
	total := float64(run * batches * batchRows)
	b.ReportMetric(total/bare.Seconds(), "bare-rows/s")
	b.ReportMetric(total/whole.Seconds(), "ingest-rows/s")
	b.ReportMetric(bare.Seconds()/whole.Seconds(), "ratio")
	// Of client, senders and engine together: on a machine that others use too, this is the steadier figure.
	b.ReportMetric(bareCPU.Seconds()*1e6/total, "bare-cpu-µs/row")
	b.ReportMetric(wholeCPU.Seconds()*1e6/total, "ingest-cpu-µs/row")
	slices.Sort(visible)
	require.NotEmpty(b, visible)
	at := func(share float64) float64 { return visible[int(share*float64(len(visible)-1))].Seconds() }
	b.ReportMetric(at(0.50), "visible-p50-s")
	b.ReportMetric(at(0.95), "visible-p95-s")
	b.ReportMetric(at(0.99), "visible-p99-s")
	b.ReportMetric(float64(len(visible)), "visible-n")
	b.ReportMetric(0, "ns/op")
}

// engine is a server with the schema.
type engine struct {
	store               *clickhouse.Store
	url, user, password string
	pid                 int
}

func newEngine(b *testing.B) *engine {
	server := chservetest.Launch(b, chservetest.Options{})
	e := &engine{url: server.URL, user: chservetest.AdminUser, password: chservetest.AdminPassword, pid: server.PID()}
	var err error
	e.store, err = clickhouse.Open(b.Context(), clickhouse.Options{URL: e.url, User: e.user, Password: e.password, Database: "flyball"})
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, e.store.Close()) })
	require.NoError(b, e.store.Migrate(b.Context()))
	return e
}

// ingest sends the rows by HTTP from several senders at once, no further ahead of the sink than a few batches, and
// returns how long it took until the last was stored, and the processor time of all. When watched, one span at a time is sent besides and waited for.
func (e *engine) ingest(b *testing.B, run string, watched bool) (took, spent time.Duration, visible []time.Duration) {
	prices, err := book.Default()
	require.NoError(b, err)
	i, err := ingest.Open(ingest.Options{Dir: b.TempDir(), Sink: e.store, Book: prices, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	ran := make(chan error, 1)
	go func() { ran <- i.Run(ctx) }()
	server := httptest.NewServer(i.Handler())
	defer func() {
		stop()
		require.NoError(b, <-ran)
		server.Close()
		require.NoError(b, i.Close())
	}()

	bodies := make(chan string, batches*batchRows/requestRows)
	for n := range cap(bodies) {
		bodies <- ndjson(spans(run, n*requestRows, requestRows))
	}
	close(bodies)
	var group sync.WaitGroup
	start, cpu := time.Now(), e.cpu(b)
	for range senders {
		group.Go(func() {
			for body := range bodies {
				for i.Stats().SpoolRows > ahead {
					<-time.After(50 * time.Millisecond)
				}
				post(b, server.URL, body)
			}
		})
	}
	probing := make(chan struct{})
	var probes sync.WaitGroup
	probes.Go(func() {
		tenant := "probe-" + run
		for n := 1; watched; n++ {
			select {
			case <-probing:
				return
			default:
			}
			probe := spans(tenant, n, 1)
			probe[0].TenantID = tenant
			post(b, server.URL, ndjson(probe))
			sent := time.Now()
			for e.count(b, tenant) < n {
				<-time.After(50 * time.Millisecond)
			}
			visible = append(visible, time.Since(sent))
		}
	})
	group.Wait()
	for i.Stats().SpoolRows > 0 {
		<-time.After(10 * time.Millisecond)
	}
	took, spent = time.Since(start), e.cpu(b)-cpu
	close(probing)
	probes.Wait()
	return took, spent, visible
}

// cpu is the processor time that this process and the engine have taken; the engine's is known on Linux alone.
func (e *engine) cpu(b *testing.B) time.Duration {
	var u unix.Rusage
	require.NoError(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	took := time.Duration(u.Utime.Nano() + u.Stime.Nano())
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.pid)); err == nil {
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		for _, field := range fields[11:13] { // utime, stime
			ticks, err := strconv.Atoi(field)
			require.NoError(b, err)
			took += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	return took
}

// count is how many calls of a tenant kpi_1m shows.
func (e *engine) count(b *testing.B, tenant string) int {
	n, err := strconv.Atoi(e.ask(b, "SELECT sum(requests) FROM kpi_1m WHERE tenant_id = '"+tenant+"'"))
	require.NoError(b, err)
	return n
}

func post(b *testing.B, address, body string) {
	response, err := http.Post(address+"/v1/spans", "application/x-ndjson", strings.NewReader(body))
	require.NoError(b, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b, err)
	require.Equal(b, http.StatusOK, response.StatusCode, string(text))
}

// spans are calls of forty tenants over the last half hour, as a gateway sends them.
func spans(run string, from, n int) []usage.Span {
	now := time.Now().UTC().Truncate(time.Millisecond)
	list := make([]usage.Span, n)
	for i := range list {
		k := from + i
		list[i] = usage.Span{
			TraceID: fmt.Sprintf("%s-%032x", run, k), SpanID: fmt.Sprintf("%016x", k), Timestamp: now.Add(-time.Duration(k%1800_000) * time.Millisecond),
			TenantID: fmt.Sprint("org_", k%40), SessionID: fmt.Sprint("s", k/5), Provider: "anthropic",
			RequestedModel: "claude-3-opus", Model: "claude-3-sonnet-20240229", PromptTemplate: fmt.Sprint("rag-v", k%3), Task: "support",
			Tokens:        usage.Tokens{UncachedInput: int64(200 + k%500), CacheRead: 800, Output: int64(k % 700)},
			UsageComplete: true, Cost: usage.PicoUSD(1_000_000 * (k % 9000)), Priced: true, PriceVersion: "2026-01",
			LatencyMS: 1843, TTFTMS: 210, Complexity: 1, Arm: usage.None, Tags: map[string]string{"team": "search", "cost-center": "cc-7"},
		}
	}
	return list
}

// ndjson writes spans as their senders do; ingest prices them itself.
func ndjson(spans []usage.Span) string {
	var b strings.Builder
	for i := range spans {
		s := &spans[i]
		fmt.Fprintf(&b, `{"trace_id":%q,"span_id":%q,"timestamp":%q,"provider":"anthropic","requested_model":%q,"model":%q,`+
			`"tokens":{"prompt":%d,"completion":%d,"cached":800},"latency_ms":1843,"ttft_ms":210,"tenant_id":%q,"session_id":%q,`+
			`"prompt_template_version":%q,"task":"support","arm":"none","complexity":1.0,"tags":{"team":"search","cost-center":"cc-7"}}`+"\n",
			s.TraceID, s.SpanID, s.Timestamp.Format(time.RFC3339Nano), s.RequestedModel, s.Model, s.Tokens.UncachedInput+800, s.Tokens.Output,
			s.TenantID, s.SessionID, s.PromptTemplate)
	}
	return b.String()
}
