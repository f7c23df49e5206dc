package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/evaluate"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The load of the benchmark of evaluators: every call is sampled, scored by the shipped heuristics and judged.
const (
	evaluateCalls   = 100 // a second
	evaluateFor     = 10 * time.Second
	judgeLatency    = 500 * time.Millisecond
	judgeAtOnce     = 80
	evaluateTenants = 10
)

// nowhere takes what drains out of the spool.
type nowhere struct{}

func (nowhere) InsertSpans(context.Context, []usage.Span, string) error             { return nil }
func (nowhere) InsertQuality(context.Context, []usage.Quality, string) error        { return nil }
func (nowhere) InsertOutcomes(context.Context, []usage.Outcome, string) error       { return nil }
func (nowhere) InsertDeployments(context.Context, []usage.Deployment, string) error { return nil }
func (nowhere) InsertContents(context.Context, []usage.Content, string) error       { return nil }
func (nowhere) InsertTuples(context.Context, []usage.Tuple, string) error           { return nil }
func (nowhere) Watermark(context.Context, string, time.Time) error                  { return nil }

// judgeServer answers as OpenAI's API does, always after the same time.
func judgeServer(b *testing.B) *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		time.Sleep(judgeLatency)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"finish_reason":"stop","logprobs":null,`+
			`"message":{"role":"assistant","content":"{\"reason\":\"Complete.\",\"score\":4}","refusal":null}}],"usage":{"prompt_tokens":300,"completion_tokens":20,"total_tokens":320}}`)
	}))
	b.Cleanup(server.Close)
	return server
}

// BenchmarkEvaluate measures how long it takes from the acknowledgement of a call until its score is accepted, which
// means durable: of heuristics, and of the judge on top of the judge's own latency. Calls come one by one over HTTP at
// a steady rate.
func BenchmarkEvaluate(b *testing.B) {
	if os.Getenv("FLYBALL_BENCH") == "" {
		b.Skip("set FLYBALL_BENCH=1 to measure")
	}
	prices, err := book.Default()
	require.NoError(b, err)
	// Without checks of consistency, which make a call wait for several answers.
	set, err := evaluate.Load(fstest.MapFS{"helpful.yaml": {Data: []byte("name: helpful\nversion: 1\nkind: judge\nrubric: Is it of help?\n")}})
	require.NoError(b, err)
	log := slog.New(slog.DiscardHandler)
	var mu sync.Mutex
	acknowledged, accepted := map[string]time.Time{}, map[string]map[string]time.Time{}
	var in *ingest.Ingest
	var pipeline *evaluate.Pipeline
	judge, err := evaluate.NewJudge(evaluate.JudgeOptions{
		BaseURL: judgeServer(b).URL + "/v1", Provider: "openai", Model: "gpt-4o", Timeout: 30 * time.Second, Concurrency: judgeAtOnce,
		Book: prices, DayCap: 1e15, Tenant: "flyball-judge", Spent: func(s usage.Span) { pipeline.Spend(s) }, Now: time.Now, Logger: log,
	})
	require.NoError(b, err)
	pipeline = evaluate.New(evaluate.Options{
		Set: set, Judge: judge, JudgeTenant: "flyball-judge", Concurrency: judgeAtOnce, Logger: log,
		Sampled: func(*usage.Span) bool { return true },
		Accept: func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error {
			err := in.Accept(ctx, spans, quality)
			now := time.Now()
			mu.Lock()
			defer mu.Unlock()
			for _, q := range quality {
				if accepted[q.TraceID] == nil {
					accepted[q.TraceID] = map[string]time.Time{}
				}
				accepted[q.TraceID][q.Evaluator] = now
			}
			return err
		},
	})
	in, err = ingest.Open(ingest.Options{
		Dir: b.TempDir(), Sink: nowhere{}, Book: prices, Logger: log, Wants: pipeline.Wants,
		Heard: func(h ingest.Heard) { pipeline.Offer(h.Span, h.Size(), h.Texts) },
	})
	require.NoError(b, err)
	ctx, stop := context.WithCancel(b.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = in.Run(ctx) })
	running.Go(func() { _ = pipeline.Run(ctx) })
	front := httptest.NewServer(in.Handler())

	for b.Loop() {
		var senders sync.WaitGroup
		tick := time.NewTicker(time.Second / evaluateCalls)
		for n := range int(evaluateFor.Seconds() * evaluateCalls) {
			<-tick.C
			senders.Go(func() {
				id := fmt.Sprintf("%d-%d", b.N, n)
				body, _ := json.Marshal(map[string]any{
					"trace_id": id, "span_id": "s", "timestamp": time.Now().UTC(), "tenant_id": fmt.Sprint("org-", n%evaluateTenants),
					"provider": "openai", "model": "gpt-4o", "tokens": map[string]int{"prompt": 300, "completion": 200},
					"input": strings.Repeat("When does my order arrive? ", 40), "output": strings.Repeat("It arrives on Wednesday. ", 40),
				})
				response, err := http.Post(front.URL+"/v1/spans", "application/json", strings.NewReader(string(body)))
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				mu.Lock()
				acknowledged[id] = time.Now()
				mu.Unlock()
			})
		}
		tick.Stop()
		senders.Wait()
		deadline := time.Now().Add(time.Minute)
		for st := pipeline.Stats(); st.Waiting+st.Judge.Waiting > 0 || st.Scores < 4*st.Taken; st = pipeline.Stats() {
			require.Less(b, time.Now(), deadline, "%+v %+v", st, st.Judge)
			time.Sleep(10 * time.Millisecond)
		}
	}
	b.StopTimer()
	front.Close()
	stop()
	running.Wait()
	require.NoError(b, in.Close())
	require.Zero(b, pipeline.Stats().Dropped)
	for _, of := range []struct {
		name, evaluator string
		less            time.Duration
	}{{"heuristic", "no-refusal", 0}, {"judge", "helpful", judgeLatency}} {
		var took []time.Duration
		for id, at := range acknowledged {
			wait := accepted[id][of.evaluator].Sub(at) - of.less
			took = append(took, max(0, wait))
		}
		slices.Sort(took)
		for _, p := range []int{50, 95, 99} {
			b.ReportMetric(float64(took[len(took)*p/100].Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", of.name, p))
		}
	}
	b.ReportMetric(0, "ns/op")
}
