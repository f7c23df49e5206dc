package gateway_test

import (
	"context"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/internal/usage"
)

// salted is a store without a version in use, and a spool of tuples.
type salted struct {
	mu     sync.Mutex
	tuples []usage.Tuple
}

func (*salted) RouterSalt(context.Context) (string, error)           { return "s", nil }
func (*salted) Predictors(context.Context) ([]router.Version, error) { return nil, nil }
func (*salted) Predictor(context.Context, string) ([]byte, error)    { return nil, nil }
func (s *salted) Record(_ context.Context, tuples []usage.Tuple) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tuples = append(s.tuples, tuples...)
	return nil
}

// start runs Predictors until the salt is known: from then on the file is there.
func (s *salted) start(t *testing.T) *gateway.Predictors {
	file := filepath.Join(t.TempDir(), "predictor.json")
	p := gateway.NewPredictors(gateway.PredictorOptions{Store: s, File: file, Record: s.Record, Logger: slog.New(slog.DiscardHandler)})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-ended) })
	eventually(t, "the salt was not read", func() bool { found, _ := filepath.Glob(file); return len(found) == 1 })
	return p
}

func (s *salted) first(t *testing.T) usage.Tuple {
	eventually(t, "nothing was kept of a call", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.tuples) > 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tuples[0]
}

func featuresOf(t *testing.T, text string) []byte {
	raw, err := router.NewExtractor("s").Features(text).MarshalBinary()
	require.NoError(t, err)
	return raw
}

func TestACallLeavesItsFeatures(t *testing.T) {
	t.Parallel()
	store := &salted{}
	p := store.start(t)
	r := newRig(t, upstreamtest.Options{}, func(s *setup) { s.Predictors = p })
	got := r.post(keyA, "/v1/chat/completions", `{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"a hard puzzle"}]}`, "X-Llm-Task", "sums")
	require.Equal(t, http.StatusOK, got.StatusCode, got.body)
	span, kept := r.span(1), store.first(t)
	require.Equal(t, featuresOf(t, "a hard puzzle"), kept.Features)
	require.Equal(t, []string{span.TraceID, span.SpanID, "org_a", "sums", "gpt-4o", span.Model}, []string{kept.TraceID, kept.SpanID, kept.TenantID, kept.Task, kept.RequestedModel, kept.Model})
	require.Positive(t, kept.EstimatedCost)
}

func TestASettledHoldLeavesItsFeatures(t *testing.T) {
	t.Parallel()
	store, b := &salted{}, monthly(1_000_000)
	o := externalOptions(t, b)
	o.Predictors = store.start(t)
	h := external(t, o, still)
	post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1", "text": "a hard puzzle"}), http.StatusOK)
	require.Empty(t, store.tuples, "it may never be made")
	post(t, h, "/v1/settle", `{"hold_id":"t/c1","model":"small","tokens":{"prompt":10,"completion":5}}`, http.StatusOK)
	kept := store.first(t)
	require.Equal(t, featuresOf(t, "a hard puzzle"), kept.Features)
	require.Equal(t, []string{"t", "c1", "org_42", "big", "small"}, []string{kept.TraceID, kept.SpanID, kept.TenantID, kept.RequestedModel, kept.Model})
	require.Equal(t, usage.PicoUSD(13_000_000_000), kept.EstimatedCost)
}
