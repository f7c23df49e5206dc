package evaluate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// inbox accepts what a pipeline stores.
type inbox struct {
	mu     sync.Mutex
	fail   int
	scores map[string]usage.Quality
	spans  []usage.Span
	block  chan struct{} // nil: it does not
}

func (i *inbox) accept(ctx context.Context, spans []usage.Span, quality []usage.Quality) error {
	if i.block != nil {
		select {
		case <-i.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.fail > 0 {
		i.fail--
		return errors.New("the spool is full")
	}
	for _, q := range quality {
		i.scores[q.ID] = q
	}
	i.spans = append(i.spans, spans...)
	return nil
}

func (i *inbox) all() map[string]usage.Quality {
	i.mu.Lock()
	defer i.mu.Unlock()
	byName := map[string]usage.Quality{}
	for _, q := range i.scores {
		byName[q.Evaluator] = q
	}
	return byName
}

func texts(input, output string) func() (string, string, error) {
	return func() (string, string, error) { return input, output, nil }
}

func call(n int) usage.Span {
	return usage.Span{
		TraceID: fmt.Sprint("trace-", n), SpanID: "s", TenantID: "org", RequestedModel: "asked", Model: "served", Provider: "openai",
		Timestamp: time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC), PromptTemplate: "p1", ExperimentID: "x", Arm: usage.Treated,
	}
}

// running runs a pipeline until the test ends.
func running(t *testing.T, o Options) *Pipeline {
	p := New(o)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-ended) })
	return p
}

// TestPipelineScores: heuristics and the judge, the dimensions of the call, the judge's own spend, and a store that is
// away for a moment.
func TestPipelineScores(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(int, seenRequest) reply { return reply{content: verdict(4)} })
	var log bytes.Buffer
	in := &inbox{scores: map[string]usage.Quality{}, fail: 2}
	var p *Pipeline
	j, _ := testJudge(t, e.URL, func(o *JudgeOptions) { o.Spent = func(s usage.Span) { p.Spend(s) } })
	set, err := Load(nil)
	require.NoError(t, err)
	p = New(Options{
		Set: set, Judge: j, JudgeTenant: "flyball-judge", Concurrency: 2, Sampled: func(*usage.Span) bool { return true },
		Accept: in.accept, Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	s := call(1)
	require.True(t, p.Wants(&s))
	p.Offer(s, 100, texts("what is it?", "I'm sorry, but I can't help with that: "+secretText))
	require.Eventually(t, func() bool { return len(in.all()) == 4 }, 20*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(t, <-ended)

	got := in.all()
	require.InDelta(t, 0, got["no-refusal"].Score, 0)
	require.InDelta(t, 1, got["answered"].Score, 0)
	require.InDelta(t, 0.75, got["helpful"].Score, 1e-9)
	require.Equal(t, "judge", got["helpful"].Kind)
	q := got["no-refusal"]
	require.Equal(t, usage.Quality{
		ID: q.ID, TraceID: "trace-1", SpanID: "s", TenantID: "org", Model: "asked", ServedModel: "served", Provider: "openai",
		PromptTemplate: "p1", ExperimentID: "x", Arm: usage.Treated, Evaluator: "no-refusal", EvaluatorVersion: q.EvaluatorVersion,
		Kind: "heuristic", Confidence: 1, Timestamp: s.Timestamp, Aside: true,
	}, q)
	require.False(t, got["helpful"].Aside)
	require.NotEmpty(t, in.spans)
	require.Equal(t, "flyball-judge", in.spans[0].TenantID)
	require.False(t, p.Wants(&in.spans[0]), "the judge's own calls are not judged")
	require.Zero(t, p.Stats().Bytes)
	require.NotContains(t, log.String(), "launch code")
}

// TestPipelineEnds: a call of the judge that the end cuts off may have cost something, and is accounted for.
func TestPipelineEnds(t *testing.T) {
	t.Parallel()
	asked, cut := make(chan struct{}), make(chan struct{})
	e := newEndpoint(t, func(int, seenRequest) reply { close(asked); <-cut; return reply{content: verdict(4)} })
	var p *Pipeline
	j, _ := testJudge(t, e.URL, func(o *JudgeOptions) { o.Timeout, o.Spent = time.Minute, func(s usage.Span) { p.Spend(s) } })
	var spent []usage.Span
	set := &Set{Evaluators: []*Evaluator{testRubric(t)}}
	p = New(Options{
		Set: set, Judge: j, JudgeTenant: "flyball-judge", Concurrency: 1, Sampled: func(*usage.Span) bool { return true },
		Accept: func(ctx context.Context, spans []usage.Span, _ []usage.Quality) error {
			if ctx.Err() == nil {
				spent = append(spent, spans...)
			}
			return ctx.Err()
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	p.Offer(call(1), 100, texts("what?", "that"))
	<-asked
	stop()
	require.NoError(t, <-ended)
	close(cut)
	require.Len(t, spent, 1, "what was not asked any more has cost nothing")
	require.Positive(t, spent[0].Cost)
	require.Zero(t, p.Stats().Lost)
}

// TestPipelineDrops: nobody waits for a pipeline that is behind; what does not fit is counted.
func TestPipelineDrops(t *testing.T) {
	t.Parallel()
	in := &inbox{scores: map[string]usage.Quality{}, block: make(chan struct{})}
	set, err := Load(nil)
	require.NoError(t, err)
	p := running(t, Options{
		Set: set, Sampled: func(*usage.Span) bool { return true }, Accept: in.accept, Calls: 10, Bytes: 1000,
		Logger: slog.New(slog.DiscardHandler),
	})
	began := time.Now()
	for n := range 2000 {
		p.Offer(call(n), 1, texts("", "yes"))
	}
	require.Less(t, time.Since(began), 5*time.Second)
	p.Offer(call(0), 2000, texts("", "too large"))
	require.Positive(t, p.Stats().Dropped)
	require.Less(t, p.Stats().Waiting, 11)
	close(in.block)
	require.Eventually(t, func() bool { st := p.Stats(); return st.Waiting == 0 && st.Scores == 3*st.Taken }, 20*time.Second, 5*time.Millisecond)
	st := p.Stats()
	require.EqualValues(t, 2001, st.Taken+st.Dropped)
	require.Zero(t, st.Bytes)
}

// TestPipelineSamples: what is not sampled is not taken, and neither is what no evaluator is for.
func TestPipelineSamples(t *testing.T) {
	t.Parallel()
	set, err := Load(nil)
	require.NoError(t, err)
	p := New(Options{Set: set, Sampled: func(s *usage.Span) bool { return s.TraceID == "trace-1" }})
	one, two := call(1), call(2)
	require.True(t, p.Wants(&one))
	require.False(t, p.Wants(&two))
	require.EqualValues(t, 1, p.Stats().Unsampled)
	require.False(t, New(Options{Set: &Set{}, Sampled: func(*usage.Span) bool { return true }}).Wants(&one))
}

// TestPipelineAfterTheCap: judging stops and heuristics go on.
func TestPipelineAfterTheCap(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(int, seenRequest) reply { return reply{content: verdict(4)} })
	in := &inbox{scores: map[string]usage.Quality{}}
	var p *Pipeline
	j, _ := testJudge(t, e.URL, func(o *JudgeOptions) {
		o.DayCap = 1
		o.Spent = func(s usage.Span) { p.Spend(s) }
	})
	set, err := Load(nil)
	require.NoError(t, err)
	p = New(Options{
		Set: set, Judge: j, Concurrency: 2, Sampled: func(*usage.Span) bool { return true }, Accept: in.accept,
		Logger: slog.New(slog.DiscardHandler),
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	for n := range 5 {
		p.Offer(call(n), 1, texts("q", "a"))
	}
	require.Eventually(t, func() bool { st := p.Stats(); return st.Judge.Capped == 5 && st.Scores == 15 }, 20*time.Second, 5*time.Millisecond)
	stop()
	require.NoError(t, <-ended)
	require.Empty(t, e.asked())
}

func BenchmarkHeuristics(b *testing.B) {
	set, err := Load(nil)
	require.NoError(b, err)
	s := call(1)
	heuristics, _ := set.For(&s)
	answer := Texts{"what is it?", string(bytes.Repeat([]byte("The order ships on Monday and arrives on Wednesday. "), 20))}
	b.SetBytes(int64(len(answer.Output)))
	scores := 0
	for b.Loop() {
		for _, e := range heuristics {
			e.score(answer)
			scores++
		}
	}
	b.ReportMetric(float64(scores)/b.Elapsed().Seconds(), "scores/s")
}
