package gateway_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/evaluate"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/ingest"
	pricebook "github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ledger keeps what a spool drains.
type ledger struct {
	mu       sync.Mutex
	spans    []usage.Span
	quality  []usage.Quality
	contents []usage.Content
}

func (l *ledger) InsertSpans(_ context.Context, spans []usage.Span, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.spans = append(l.spans, spans...)
	return nil
}

func (l *ledger) InsertQuality(_ context.Context, quality []usage.Quality, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quality = append(l.quality, quality...)
	return nil
}

func (l *ledger) InsertContents(_ context.Context, contents []usage.Content, _ string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.contents = append(l.contents, contents...)
	return nil
}

func (l *ledger) InsertOutcomes(context.Context, []usage.Outcome, string) error       { return nil }
func (l *ledger) InsertDeployments(context.Context, []usage.Deployment, string) error { return nil }
func (l *ledger) InsertTuples(context.Context, []usage.Tuple, string) error           { return nil }
func (l *ledger) Watermark(context.Context, string, time.Time) error                  { return nil }

// scoredOf are the evaluators that scored the trace.
func (l *ledger) scoredOf(trace string) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.quality {
		if q.TraceID == trace {
			names = append(names, q.Evaluator)
		}
	}
	return names
}

// Calls that pass through the gateway are scored by what was said in them, whole or streamed, as those of senders are.
// Of another tenant, of which nobody asks, nothing is told; and nothing is kept that is not configured to be.
func TestCallsAreScoredByTheirTexts(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	prices, err := pricebook.Default()
	require.NoError(t, err)
	set, err := evaluate.Load(nil)
	require.NoError(t, err)
	stored := &ledger{}
	var spool *ingest.Ingest
	pipeline := evaluate.New(evaluate.Options{
		Set: set, Logger: log, Sampled: func(s *usage.Span) bool { return s.TenantID == "org_a" },
		Accept: func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error {
			return spool.Accept(ctx, spans, quality)
		},
	})
	var mu sync.Mutex
	said := map[string][2]string{}
	spool, err = ingest.Open(ingest.Options{
		Dir: t.TempDir(), Sink: stored, Book: prices, Logger: log, Wants: pipeline.Wants, BatchDelay: time.Millisecond,
		Keep: func(tenant string) time.Duration {
			if tenant == "org_b" {
				return time.Hour
			}
			return 0
		},
		Heard: func(h ingest.Heard) {
			input, output, err := h.Texts()
			mu.Lock()
			said[h.Span.TraceID] = [2]string{input, output}
			mu.Unlock()
			if err == nil {
				pipeline.Offer(h.Span, h.Size(), h.Texts)
			}
		},
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	var group errgroup.Group
	group.Go(func() error { return spool.Run(ctx) })
	group.Go(func() error { return pipeline.Run(ctx) })
	t.Cleanup(func() {
		stop()
		require.NoError(t, group.Wait())
		require.NoError(t, spool.Close())
	})

	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		s.Accept, s.Listens, s.AcceptCalls = spool.Accept, spool.Listens, spool.AcceptCalls
	})
	const trace = "0af7651916cd43dd8448eb211c80319"
	for i, c := range []struct{ path, body string }{
		{"/v1/chat/completions", `{"model":"gpt-4o","max_tokens":5,"messages":[{"role":"user","content":"How many ducks?"}]}`},
		{"/v1/chat/completions", `{"model":"gpt-4o","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"How many ducks?"}]}`},
		{"/v1/responses", `{"model":"gpt-4o","max_output_tokens":20,"input":"How many ducks?","text":{"format":{"type":"text"}}}`},
		{"/v1/responses", `{"model":"gpt-4o","max_output_tokens":20,"stream":true,"input":"How many ducks?"}`},
		{"/v1/messages", `{"model":"claude-3-opus-20240229","max_tokens":5,"messages":[{"role":"user","content":[{"type":"text","text":"How many ducks?"}]}]}`},
		{"/v1/messages", `{"model":"claude-3-opus-20240229","max_tokens":5,"stream":true,"messages":[{"role":"user","content":"How many ducks?"}]}`},
	} {
		id := trace + string(rune('a'+i))
		answer := r.post(keyA, c.path, c.body, "Traceparent", "00-"+id+"-b7ad6b7169203331-01", "Anthropic-Version", "2023-06-01")
		require.Equal(t, 200, answer.StatusCode, answer.body)
		eventually(t, "the call of "+c.body+" is not scored", func() bool { return len(stored.scoredOf(id)) > 0 })
		mu.Lock()
		texts := said[id]
		mu.Unlock()
		require.True(t, strings.HasSuffix(texts[0], "How many ducks?"), texts[0])
		require.NotEmpty(t, texts[1])
		require.NotContains(t, texts[1], "data:")
		if i%2 == 1 {
			mu.Lock()
			whole := said[trace+string(rune('a'+i-1))]
			mu.Unlock()
			require.Equal(t, whole[1], texts[1], "what was streamed is what comes whole")
		}
	}
	require.Equal(t, 200, r.post(keyB, "/v1/chat/completions", `{"model":"gpt-4o","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}`).StatusCode)
	eventually(t, "the texts of a tenant whose are kept are not", func() bool {
		stored.mu.Lock()
		defer stored.mu.Unlock()
		return len(stored.contents) == 1
	})
	require.Equal(t, "org_b", stored.contents[0].TenantID, "nothing of others is kept")
	require.Equal(t, "user: Hi", stored.contents[0].Input)
	mu.Lock()
	defer mu.Unlock()
	require.Len(t, said, 6)
}
