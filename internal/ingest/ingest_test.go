package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

// store is a Sink that remembers tokens, as the real one does, and fails when told to.
type store struct {
	mu          sync.Mutex
	fail        int  // that many inserts fail
	failAfter   bool // after having stored
	tokens      map[string]string
	spans       map[string]usage.Span
	quality     map[string]usage.Quality
	outcomes    map[string]usage.Outcome
	deployments []usage.Deployment
	tuples      []usage.Tuple
	contents    []usage.Content
	rows        int
	mark        time.Time
	clockSet    bool // the mark may go back
}

func newStore() *store {
	return &store{tokens: map[string]string{}, spans: map[string]usage.Span{}, quality: map[string]usage.Quality{}, outcomes: map[string]usage.Outcome{}}
}

func (s *store) insert(token, content string, put func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail > 0 && !s.failAfter {
		s.fail--
		return errors.New("the store is away")
	}
	if before, ok := s.tokens[token]; ok {
		if before != content {
			return fmt.Errorf("token %s came with other rows", token)
		}
	} else {
		s.tokens[token] = content
		put()
	}
	if s.fail > 0 {
		s.fail--
		return errors.New("the answer was lost")
	}
	return nil
}

func (s *store) InsertSpans(_ context.Context, spans []usage.Span, token string) error {
	return s.insert(token, fmt.Sprint(spans), func() {
		for _, span := range spans {
			s.rows++
			s.spans[span.TenantID+"/"+span.TraceID+"/"+span.SpanID] = span
		}
	})
}

func (s *store) InsertQuality(_ context.Context, quality []usage.Quality, token string) error {
	return s.insert(token, fmt.Sprint(quality), func() {
		for _, q := range quality {
			s.rows++
			s.quality[q.ID] = q
		}
	})
}

func (s *store) InsertOutcomes(_ context.Context, outcomes []usage.Outcome, token string) error {
	return s.insert(token, fmt.Sprint(outcomes), func() {
		for _, o := range outcomes {
			s.rows++
			s.outcomes[o.ID] = o
		}
	})
}

func (s *store) InsertDeployments(_ context.Context, deployments []usage.Deployment, token string) error {
	return s.insert(token, fmt.Sprint(deployments), func() {
		s.rows += len(deployments)
		s.deployments = append(s.deployments, deployments...)
	})
}

func (s *store) InsertContents(_ context.Context, contents []usage.Content, token string) error {
	return s.insert(token, fmt.Sprint(contents), func() {
		s.rows += len(contents)
		s.contents = append(s.contents, contents...)
	})
}

func (s *store) InsertTuples(_ context.Context, tuples []usage.Tuple, token string) error {
	return s.insert(token, fmt.Sprint(tuples), func() {
		s.rows += len(tuples)
		s.tuples = append(s.tuples, tuples...)
	})
}

func (s *store) Watermark(_ context.Context, _ string, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Before(s.mark) && !s.clockSet {
		return errors.New("the watermark went back")
	}
	s.mark = at
	return nil
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows
}

func (s *store) span(key string) usage.Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spans[key]
}

func (s *store) score(id string) usage.Quality {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quality[id]
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testBook(t testing.TB) *pricing.Book {
	t.Helper()
	b, err := book.Default()
	require.NoError(t, err)
	return b
}

// testNow is when the tests' senders live.
var testNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func testOptions(t testing.TB, dir string, sink Sink) Options {
	return Options{
		Dir: dir, Sink: sink, Book: testBook(t), Now: func() time.Time { return testNow },
		Logger:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		BatchDelay: 5 * time.Millisecond,
	}
}

// start opens an ingest and drains it until the test or stop ends it.
func start(t testing.TB, opt Options) (i *Ingest, stop func()) {
	t.Helper()
	i, err := Open(opt)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- i.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-ran)
			require.NoError(t, i.Close())
		})
	}
	t.Cleanup(stop)
	return i, stop
}

func post(i *Ingest, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost:8080"
	for n := 0; n < len(header); n += 2 {
		r.Header.Set(header[n], header[n+1])
	}
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, r)
	return w
}

const gatewaySpan = `{"trace_id":"abc123","span_id":"gateway-001","timestamp":"2024-01-15T09:23:47.123Z",
 "provider":"anthropic","requested_model":"claude-3-opus","model":"claude-3-sonnet-20240229",
 "tokens":{"prompt":1247,"completion":342,"cached":800},"cost_usd":0.00471,"latency_ms":1843,
 "ttft_ms":210,"quality":{"evaluator":"llm-as-judge-v2","score":0.87,"confidence":0.92},
 "tenant_id":"org_42","session_id":"s1","prompt_template_version":"rag-v3.2","task":"support",
 "experiment_id":"","decision_id":"","arm":"none","complexity":1.0,
 "tags":{"team":"search","cost-center":"cc-7"}}`

func TestSpanReachesTheSink(t *testing.T) {
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))

	w := post(i, "/v1/spans", gatewaySpan)
	require.Equal(t, 200, w.Code, w.Body)
	require.JSONEq(t, `{"accepted":1,"refused":[],"duplicates":0}`, w.Body.String())
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)

	reported := usage.PicoUSD(4_710_000_000)
	require.Equal(t, usage.Span{
		TraceID: "abc123", SpanID: "gateway-001",
		Timestamp: time.Date(2024, 1, 15, 9, 23, 47, 123_000_000, time.UTC),
		TenantID:  "org_42", SessionID: "s1", Provider: "anthropic",
		RequestedModel: "claude-3-opus", Model: "claude-3-sonnet-20240229",
		PromptTemplate: "rag-v3.2", Task: "support",
		Tokens:        usage.Tokens{UncachedInput: 447, CacheRead: 800, Output: 342},
		UsageComplete: true,
		Cost:          6_711_000_000, Priced: true, CostReported: &reported,
		PriceVersion: testBook(t).Version(),
		LatencyMS:    1843, TTFTMS: 210, Complexity: 1, Arm: usage.None,
		Tags: map[string]string{"team": "search", "cost-center": "cc-7"},
	}, sink.span("org_42/abc123/gateway-001"))
	require.Equal(t, usage.Quality{
		ID: "abc123/gateway-001/llm-as-judge-v2", TraceID: "abc123", SpanID: "gateway-001",
		TenantID: "org_42", Model: "claude-3-opus", ServedModel: "claude-3-sonnet-20240229", Provider: "anthropic",
		PromptTemplate: "rag-v3.2", Arm: usage.None,
		Evaluator: "llm-as-judge-v2", Score: 0.87, Confidence: 0.92, Kind: "judge",
		Timestamp: time.Date(2024, 1, 15, 9, 23, 47, 123_000_000, time.UTC),
	}, sink.score("abc123/gateway-001/llm-as-judge-v2"))

	w = post(i, "/v1/spans", gatewaySpan)
	require.JSONEq(t, `{"accepted":0,"refused":[],"duplicates":1}`, w.Body.String(), "a retry counts once")
}
