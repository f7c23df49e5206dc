package ingest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

// childDir, when set, makes the test binary a sender that writes to that spool until it is killed.
const childDir = "FLYBALL_INGEST_CHILD"

func span(tenant, trace, id string) usage.Span {
	return usage.Span{
		TenantID: tenant, TraceID: trace, SpanID: id, Timestamp: testNow, Provider: "openai",
		Model: "gpt-4o", PromptTemplate: "v1", Arm: usage.Treated, Tokens: usage.Tokens{UncachedInput: 10, Output: 5}, UsageComplete: true,
	}
}

func score(id, tenant, trace, spanID string) usage.Quality {
	return usage.Quality{ID: id, TenantID: tenant, TraceID: trace, SpanID: spanID, Evaluator: "e", Score: 0.5, Confidence: 1, Timestamp: testNow}
}

func TestRetryCountsOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	dir, sink := t.TempDir(), newStore()
	opt := testOptions(t, dir, sink)
	opt.SegmentSize = 2000 // many segments, and summaries of them
	body := spanLines(50, 1)
	for run := range 3 {
		i, stop := start(t, opt)
		for range 2 {
			w := post(i, "/v1/spans", body)
			require.Equal(t, 200, w.Code)
			if run == 0 {
				body = spanLines(50, 1)
			}
		}
		want := 0
		if run == 0 {
			want = 50
		}
		require.EqualValues(t, want, i.Stats().Accepted, "run %d", run)
		require.Eventually(t, func() bool { return sink.count() == 50 && i.Stats().SpoolBytes == 0 }, 10*time.Second, time.Millisecond)
		// One more makes the inserter retire the segments that are full.
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "more", fmt.Sprint(run))}, nil))
		require.Eventually(t, func() bool { return sink.count() == 51 }, 10*time.Second, time.Millisecond)
		stop()
		sink.rows--
	}
	summaries, err := filepath.Glob(filepath.Join(dir, "*"+summarySuffix))
	require.NoError(t, err)
	require.NotEmpty(t, summaries, "drained segments are summarized")
}

func TestSinkThatFails(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		sink := newStore()
		sink.fail, sink.failAfter = 3, after
		i, _ := start(t, testOptions(t, t.TempDir(), sink))
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, []usage.Quality{score("q", "org", "t", "1")}))
		require.Eventually(t, func() bool { return i.Stats().Inserted == 2 }, 20*time.Second, time.Millisecond)
		require.Equal(t, 2, sink.count(), "failing after the insert: %v", after)
		require.Empty(t, i.Stats().SinkError)
	}
}

// A process that dies between an insert and the note of it repeats the batch with its token, and with
// its very rows.
func TestBatchIsFrozen(t *testing.T) {
	t.Parallel()
	dir, sink := t.TempDir(), newStore()
	sink.fail, sink.failAfter = 1, true // the insert happens, the answer is lost
	opt := testOptions(t, dir, sink)
	i, err := Open(opt)
	require.NoError(t, err)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- i.Run(ctx) }()
	require.Eventually(t, func() bool { return i.Stats().SinkError != "" }, 10*time.Second, time.Millisecond)
	cancel()
	require.NoError(t, <-ran)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "2")}, nil))
	require.NoError(t, i.Close())

	i, _ = start(t, opt)
	require.Eventually(t, func() bool { return sink.count() == 2 && i.Stats().SpoolRows == 0 }, 10*time.Second, time.Millisecond)
}

// slowStore is a store whose inserts take until they are let go.
type slowStore struct {
	*store
	begun, letGo chan struct{}
}

func (s *slowStore) InsertSpans(ctx context.Context, spans []usage.Span, token string) error {
	s.begun <- struct{}{}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.letGo:
		return s.store.InsertSpans(ctx, spans, token)
	}
}

// An insert that is under way when ingest is told to stop ends, and is noted; no other begins.
func TestInsertEndsAtShutdown(t *testing.T) {
	t.Parallel()
	sink := &slowStore{newStore(), make(chan struct{}), make(chan struct{})}
	opt := testOptions(t, t.TempDir(), sink)
	i, err := Open(opt)
	require.NoError(t, err)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error)
	go func() { ran <- i.Run(ctx) }()
	<-sink.begun
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "2")}, nil))
	cancel()
	select {
	case sink.letGo <- struct{}{}:
	case err := <-ran:
		require.Fail(t, "the insert was cut off", err)
	}
	require.NoError(t, <-ran)
	require.Equal(t, 1, sink.count())
	require.False(t, i.frozen())
	require.Equal(t, i.spool.state, i.spool.saved)
	require.EqualValues(t, 1, i.Stats().SpoolRows)
	require.NoError(t, i.Close())
}

// An insert that does not end is given up: the batch is sent again at the next start.
func TestInsertIsGivenUpAtShutdown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		late, release := outlasting(ctx, endInsert)
		defer release()
		cancel()
		time.Sleep(endInsert - time.Millisecond)
		require.NoError(t, late.Err())
		time.Sleep(time.Millisecond)
		synctest.Wait()
		require.Error(t, late.Err())
	})
}

func TestQualityFindsItsSpan(t *testing.T) {
	t.Parallel()
	full := func(q usage.Quality) usage.Quality {
		q.TenantID, q.Model, q.PromptTemplate, q.Arm, q.Kind = "org", "gpt-4o", "v1", usage.Treated, "judge"
		q.ServedModel, q.Provider = "gpt-4o", "openai"
		return q
	}
	for _, tc := range []struct {
		name  string
		event usage.Quality
	}{
		{"by trace", score("q", "org", "t", "")},
		{"by span", score("q", "org", "t", "1")},
		{"by trace alone", score("q", "", "t", "")},
		{"by trace and span, tenant unsaid", score("q", "", "t", "1")},
	} {
		for _, order := range []string{"span first", "event first", "event first, then a restart"} {
			t.Run(tc.name+", "+order, func(t *testing.T) {
				t.Parallel()
				sink := newStore()
				opt := testOptions(t, t.TempDir(), sink)
				opt.SegmentSize = 1 // a segment for each commit
				i, stop := start(t, opt)
				spans := []usage.Span{span("org", "t", "1")}
				other := []usage.Span{span("other", "t", "9")}
				if order == "span first" {
					require.NoError(t, i.Accept(t.Context(), spans, nil))
				}
				require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{tc.event}))
				if order != "span first" {
					require.EqualValues(t, 1, i.Stats().Waiting)
				}
				if strings.HasSuffix(order, "restart") {
					// Drain the waiting event's segment, so that only its summary is left.
					filler := span("org", "filler", "1")
					require.NoError(t, i.Accept(t.Context(), []usage.Span{filler}, nil))
					filler.SpanID = "2"
					require.NoError(t, i.Accept(t.Context(), []usage.Span{filler}, nil))
					require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)
					stop()
					i, _ = start(t, opt)
					require.EqualValues(t, 1, i.Stats().Waiting)
				}
				if order != "span first" {
					if tc.event.TenantID != "" {
						require.NoError(t, i.Accept(t.Context(), other, nil), "another tenant's trace of that name")
						require.EqualValues(t, 1, i.Stats().Waiting)
					}
					require.NoError(t, i.Accept(t.Context(), spans, nil))
				}
				require.Eventually(t, func() bool { return sink.score("q").ID == "q" }, 10*time.Second, time.Millisecond)
				require.Equal(t, full(tc.event), sink.score("q"))
				require.Zero(t, i.Stats().Waiting)
				require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{tc.event}))
				require.EqualValues(t, 1, i.Stats().Duplicates, "a retry of the event counts once")
			})
		}
	}
}

// An event that leaves its tenant out is known again after a restart, although it is stored with its span's.
func TestRetryWithoutTenantAcrossRestarts(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	i, stop := start(t, opt)
	event := []usage.Quality{score("q", "", "t", "")}
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	require.NoError(t, i.Accept(t.Context(), nil, event))
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)
	stop()
	i, _ = start(t, opt)
	require.NoError(t, i.Accept(t.Context(), nil, event))
	require.EqualValues(t, 1, i.Stats().Duplicates)
	require.Equal(t, "org", sink.score("q").TenantID)
}

func TestQualityThatWaitsTooLong(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	now := testNow
	var mu sync.Mutex
	opt.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	opt.MaxWaiting = 1
	i, err := Open(opt)
	require.NoError(t, err)
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score("q", "org", "t", "")}))
	require.ErrorContains(t, i.Accept(t.Context(), nil, []usage.Quality{score("q2", "org", "t2", "")}), "too many events wait")
	require.NoError(t, i.Close())

	i, err = Open(opt) // without its committer, which the test stands in for
	require.NoError(t, err)
	close(i.closing)
	<-i.stopped
	mu.Lock()
	now = now.Add(remember + time.Second)
	mu.Unlock()
	i.expire()
	require.Zero(t, i.Stats().Waiting)
	require.EqualValues(t, 1, i.Stats().Expired)
	require.EqualValues(t, 1, i.Stats().SpoolRows)
	require.NoError(t, i.spool.close())

	i, _ = start(t, opt)
	require.Zero(t, i.Stats().Waiting)
	require.Eventually(t, func() bool { return sink.score("q").ID == "q" }, 10*time.Second, time.Millisecond)
	require.Empty(t, sink.score("q").Model)
}

func TestWatermark(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	now := testNow
	opt.Now = func() time.Time { return now }
	i, err := Open(opt)
	require.NoError(t, err)
	at, err := i.drainedUntil()
	require.NoError(t, err)
	require.Equal(t, testNow, at, "idle: now")
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	i.begin()
	i.end()
	now = now.Add(time.Minute)
	at, err = i.drainedUntil()
	require.NoError(t, err)
	require.Equal(t, testNow, at, "the oldest that is not inserted")
	require.NoError(t, i.drain(t.Context()))
	at, err = i.drainedUntil()
	require.NoError(t, err)
	require.Equal(t, now, at)
	require.NoError(t, i.Close())
}

// A spool whose clock is set back says how far it has come by the new time, but nothing while calls wait that it accepted
// before: those of the new time are behind them.
func TestWatermarksFollowAClockThatIsSetBack(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	now := testNow
	opt.Now = func() time.Time { return now }
	i, err := Open(opt)
	require.NoError(t, err)
	sink.clockSet = true
	published := func() time.Time {
		i.watermark(t.Context())
		return sink.mark
	}
	require.Equal(t, testNow, published())
	now = now.Add(time.Second)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	now = testNow.Add(-time.Hour)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "2")}, nil))
	now = now.Add(time.Minute)
	require.Equal(t, testNow, published(), "the second call waits behind the first")
	require.NoError(t, i.drain(t.Context()))
	require.Equal(t, now, published())
	require.NoError(t, i.Close())
}

func TestOneProcessASpool(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, t.TempDir(), newStore())
	start(t, opt)
	_, err := Open(opt)
	require.ErrorContains(t, err, "in use by another process")
}

func TestDamagedState(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, t.TempDir(), newStore())
	_, stop := start(t, opt)
	stop()
	require.NoError(t, os.WriteFile(filepath.Join(opt.Dir, "state.json"), []byte("{"), 0o600))
	_, err := Open(opt)
	require.ErrorContains(t, err, "state.json is damaged")
}

// A write that was torn off between a span and its evaluation was not acknowledged: when it comes again, the span is
// known and the evaluation goes in, and so do those that wait for the span.
func TestTornBetweenSpanAndItsQuality(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	i, err := Open(opt)
	require.NoError(t, err)
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score("waits", "org", "t1", "")}))
	var lines []string
	for n := range frameRows - 1 {
		lines = append(lines, spanWith(t, map[string]any{"span_id": fmt.Sprint(n), "trace_id": "others"}))
	}
	lines = append(lines, spanWith(t, map[string]any{"quality": map[string]any{"id": "inside", "evaluator": "e", "score": 0.5}}))
	body := strings.Join(lines, "\n")
	require.Equal(t, 200, post(i, "/v1/spans", body).Code)
	path := i.spool.active.Name()
	require.NoError(t, i.Close())
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	end := len(segmentMagic)
	for range 2 { // the waiting event, and the spans
		_, n := frame(text[end:])
		end += n
	}
	require.Less(t, end, len(text))
	require.NoError(t, os.Truncate(path, int64(end)))

	i, _ = start(t, opt)
	require.JSONEq(t, fmt.Sprintf(`{"accepted":0,"duplicates":%d,"refused":[]}`, frameRows), post(i, "/v1/spans", body).Body.String())
	require.Eventually(t, func() bool { return sink.count() == frameRows+2 }, 10*time.Second, time.Millisecond)
	require.Equal(t, "inside", sink.score("inside").ID)
	require.Equal(t, "gpt-4o", sink.score("waits").Model)
	require.Zero(t, i.Stats().Waiting)
}

// Events that come and are joined while an old one waits leave nothing behind.
func TestLoungeIsBounded(t *testing.T) {
	t.Parallel()
	i, err := Open(testOptions(t, t.TempDir(), newStore()))
	require.NoError(t, err)
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score("oldest", "org", "never", "")}))
	for round := range 10 {
		var events []usage.Quality
		var spans []usage.Span
		for n := range 1000 {
			id := fmt.Sprintf("%d-%d", round, n)
			events, spans = append(events, score(id, "org", id, "")), append(spans, span("org", id, "1"))
		}
		require.NoError(t, i.Accept(t.Context(), nil, events))
		require.NoError(t, i.Accept(t.Context(), spans, nil))
	}
	require.NoError(t, i.Close())
	require.Len(t, i.lounge.byID, 1)
	require.Len(t, i.lounge.byAwait, 1)
}

// A batch is bounded by its bytes too: ten thousand large records are more memory than an insert should take.
func TestBatchIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	i, err := Open(testOptions(t, t.TempDir(), newStore()))
	require.NoError(t, err)
	large := span("org", "t", "")
	large.Tags = map[string]string{}
	for n := range maxTags {
		large.Tags[fmt.Sprint(n)] = strings.Repeat("x", maxName)
	}
	spans := make([]usage.Span, 2500)
	for n := range spans {
		spans[n] = large
		spans[n].SpanID = fmt.Sprint(n)
	}
	require.NoError(t, i.Accept(t.Context(), spans, nil))
	b, err := i.freeze(t.Context())
	require.NoError(t, err)
	require.NoError(t, i.Close())
	require.Less(t, b.to-b.from, int64(batchBytes+2*frameBytes))
	require.Positive(t, b.rows)
	require.Less(t, b.rows, int64(len(spans)))
}

// Whatever comes in, in whatever batches, with retries, restarts and a sink that fails and forgets to
// answer: the sink has each acknowledged span exactly once, to the pico-dollar.
func TestExactlyOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(r, err)
		sink := newStore()
		opt := testOptions(t, dir, sink)
		opt.SegmentSize = rapid.Int64Range(1, 3000).Draw(r, "segment")
		opt.BatchRows = rapid.IntRange(1, 20).Draw(r, "batch")
		want := map[string]bool{}
		i, err := Open(opt)
		require.NoError(r, err)
		for range rapid.IntRange(1, 12).Draw(r, "steps") {
			switch rapid.IntRange(0, 4).Draw(r, "step") {
			case 0: // a restart
				require.NoError(r, i.Close())
				i, err = Open(opt)
				require.NoError(r, err)
			case 1: // a batch whose insert fails, before or after it happened; then the process ends
				sink.fail, sink.failAfter = 1, rapid.Bool().Draw(r, "after")
				if i.backlogged() {
					b, err := i.freeze(r.Context())
					require.NoError(r, err)
					require.Error(r, i.try(r.Context(), b))
				}
				sink.fail = 0
				require.NoError(r, i.Close())
				i, err = Open(opt)
				require.NoError(r, err)
			case 2:
				if i.backlogged() {
					require.NoError(r, i.drain(r.Context()))
				}
			default:
				var spans []usage.Span
				for _, n := range rapid.SliceOfN(rapid.IntRange(0, 40), 1, 15).Draw(r, "spans") {
					s := span("org", fmt.Sprint(n%7), fmt.Sprint(n))
					spans = append(spans, s)
					want["org/"+s.TraceID+"/"+s.SpanID] = true
				}
				require.NoError(r, i.Accept(r.Context(), spans, nil))
			}
		}
		for i.backlogged() {
			require.NoError(r, i.drain(r.Context()))
		}
		require.Zero(r, i.rows.Load())
		require.NoError(r, i.Close())
		require.Equal(r, len(want), sink.rows)
		for key := range want {
			require.EqualValues(r, 75_000_000, sink.spans[key].Cost)
		}
	})
}

// TestKilledChild is the child's body when it is one, and otherwise kills such children while they
// write: each span that a child called durable is there.
func TestKilledChild(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		child(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for run := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledChild$")
		cmd.Env = append(os.Environ(), childDir+"="+dir, fmt.Sprintf("RUN=%d", run))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			if key, ok := strings.CutPrefix(lines.Text(), "durable "); ok {
				acknowledged[key] = true
			}
			if n == 40+17*run {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait()
	}
	require.Greater(t, len(acknowledged), 100)
	sink := newStore()
	i, _ := start(t, testOptions(t, dir, sink))
	require.Eventually(t, func() bool { return i.Stats().SpoolRows == 0 }, 20*time.Second, time.Millisecond)
	sink.mu.Lock()
	defer sink.mu.Unlock()
	for key := range acknowledged {
		require.Contains(t, sink.spans, key)
	}
	require.Len(t, sink.spans, sink.rows, "none is there twice")
}

// child accepts from four senders at once, so that commits are groups, and says what is durable.
func child(t *testing.T, dir string) {
	opt := testOptions(t, dir, newStore())
	opt.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	opt.SegmentSize = 4000
	i, err := Open(opt)
	require.NoError(t, err)
	run := os.Getenv("RUN")
	var senders sync.WaitGroup
	for sender := range 4 {
		senders.Go(func() {
			for n := range 1_000_000 {
				s := span("org", run, fmt.Sprintf("%d-%d", sender, n))
				if err := i.Accept(context.Background(), []usage.Span{s}, nil); err != nil {
					fmt.Println("failed", err)
					return
				}
				fmt.Printf("durable org/%s/%s\n", s.TraceID, s.SpanID)
			}
		})
	}
	senders.Wait()
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := memory{limit: 1000}
	at := testNow
	for n := range 5000 {
		m.add(identify('s', fmt.Sprint(n)), dimensions{Model: fmt.Sprint(n % 3)}, at)
	}
	require.LessOrEqual(t, m.size(), 1000)
	require.Positive(t, m.forgotten)
	d, ok := m.find(identify('s', "4999"))
	require.True(t, ok)
	require.Equal(t, "1", d.Model)

	m = memory{limit: 1000}
	for hour := range 100 {
		m.add(identify('s', fmt.Sprint(hour)), dimensions{}, at.Add(time.Duration(hour)*time.Hour))
		if hour >= 23 {
			_, ok := m.find(identify('s', fmt.Sprint(hour-23)))
			require.True(t, ok, "remembered for 24 hours")
		}
	}
	require.Less(t, m.size(), 50)
	require.Zero(t, m.forgotten)
}
