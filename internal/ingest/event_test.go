package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

func outcome(id, tenant, trace, spanID string) usage.Outcome {
	return usage.Outcome{ID: id, TenantID: tenant, TraceID: trace, SpanID: spanID, Arm: usage.None, Kind: "conversion", Value: 1, Timestamp: testNow}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	whole := `{"id":"o1","trace_id":"t","tenant_id":"org","kind":"conversion","timestamp":"2026-06-01T11:30:00Z"}`
	require.JSONEq(t, `{"accepted":1,"refused":[],"duplicates":0}`, post(i, "/v1/outcomes", whole).Body.String())
	require.JSONEq(t, `{"accepted":0,"refused":[],"duplicates":1}`, post(i, "/v1/outcomes", whole).Body.String())
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)
	require.Equal(t, usage.Outcome{
		ID: "o1", TraceID: "t", TenantID: "org", Model: "gpt-4o", ServedModel: "gpt-4o", Provider: "openai", PromptTemplate: "v1",
		Arm: usage.Treated, Kind: "conversion", Value: 1, Timestamp: time.Date(2026, 6, 1, 11, 30, 0, 0, time.UTC),
	}, sink.outcomes["o1"])
	require.EqualValues(t, 2, i.Stats().Accepted)

	for _, tc := range []struct {
		name, body, field, reason string
	}{
		{"no id", `{"trace_id":"t"}`, "id", "is missing"},
		{"no trace", `{"id":"o"}`, "trace_id", "is missing"},
		{"no kind", `{"id":"o","trace_id":"t"}`, "kind", "is missing"},
		{"no time", `{"id":"o","trace_id":"t","kind":"ticket"}`, "timestamp", "is missing"},
		{"no value of a kind of one's own", `{"id":"o","trace_id":"t","kind":"upsell","timestamp":"2026-06-01T11:30:00Z"}`, "value", `not of "upsell"`},
		{"NaN", `{"id":"o","trace_id":"t","value":NaN}`, "value", "NaN and Infinity are not JSON"},
		{"too large", `{"id":"o","trace_id":"t","value":1000001}`, "value", "between -1e+06 and 1e+06"},
		{"infinite", `{"id":"o","trace_id":"t","value":1e999}`, "value", "between -1e+06 and 1e+06"},
		{"not a number", `{"id":"o","trace_id":"t","value":"1"}`, "value", "must be a number"},
		{"a score", `{"id":"o","trace_id":"t","score":1}`, "score", "not a known field"},
	} {
		var a answer
		w := post(i, "/v1/outcomes", tc.body)
		require.Equal(t, 400, w.Code, tc.name)
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		require.Equal(t, tc.field, a.Refused[0].Field, tc.name)
		require.Contains(t, a.Refused[0].Reason, tc.reason, tc.name)
	}
	for kind, value := range map[string]float64{"conversion": 1, "retention": 1, "ticket": -1, "escalation": -1} {
		d := newDecoder([]byte(fmt.Sprintf(`{"id":"o","trace_id":"t","kind":%q,"value":null,"timestamp":"2026-06-01T11:30:00Z"}`, kind)), testNow, &Caller{})
		var o usage.Outcome
		require.NoError(t, d.outcome(&o))
		require.Equal(t, value, o.Value, kind)
	}
}

// arrival is one thing that comes, in a world of calls, their scores and outcomes.
type arrival struct {
	span    *usage.Span
	quality *usage.Quality
	outcome *usage.Outcome
}

// world draws calls with events about them, and says what the sink must have in the end. Calls of a trace
// differ in everything; an event that leaves out its span is about a trace of one call.
func world(r *rapid.T) (all []arrival, quality map[string]usage.Quality, outcomes map[string]usage.Outcome) {
	quality, outcomes = map[string]usage.Quality{}, map[string]usage.Outcome{}
	for n := range rapid.IntRange(1, 6).Draw(r, "traces") {
		tenant, trace := fmt.Sprint("org", n%2), fmt.Sprint("t", n)
		calls := rapid.IntRange(1, 2).Draw(r, "calls")
		for c := range calls {
			s := span(tenant, trace, fmt.Sprint(c))
			s.Provider, s.Model, s.RequestedModel = "somebody", fmt.Sprint("served", c), fmt.Sprint("asked", c)
			s.PromptTemplate, s.Arm = fmt.Sprint("v", c), usage.Arm(rapid.SampledFrom([]string{"none", "treated", "holdback"}).Draw(r, "arm"))
			if rapid.Bool().Draw(r, "experiment") {
				s.ExperimentID = "ab"
			}
			all = append(all, arrival{span: &s})
			for e := range rapid.IntRange(0, 3).Draw(r, "events") {
				id := fmt.Sprintf("%s-%d-%d", trace, c, e)
				var about subject
				if rapid.Bool().Draw(r, "outcome") {
					o := outcome(id, "", trace, "")
					all = append(all, arrival{outcome: &o})
					about = outcomeEvent{&o}.subject()
				} else {
					q := score(id, "", trace, "")
					q.Arm, q.Kind = usage.None, "judge"
					all = append(all, arrival{quality: &q})
					about = scoreEvent{&q}.subject()
				}
				if calls > 1 || rapid.Bool().Draw(r, "says span") {
					*about.tenant, *about.span = tenant, s.SpanID
				}
				switch rapid.IntRange(0, 3).Draw(r, "says") {
				case 1:
					*about.tenant = tenant
				case 2: // its key, and nothing of the rest
					*about.tenant, *about.model = tenant, s.RequestedModel
				case 3: // all that can be said
					*about.tenant, *about.model, *about.template, *about.experiment, *about.arm = tenant, s.RequestedModel, s.PromptTemplate, s.ExperimentID, s.Arm
				}
				switch last := all[len(all)-1]; {
				case last.outcome != nil:
					o := *last.outcome
					o.TenantID, o.Model, o.ServedModel, o.Provider = tenant, s.RequestedModel, s.Model, s.Provider
					o.PromptTemplate, o.ExperimentID, o.Arm = s.PromptTemplate, s.ExperimentID, s.Arm
					outcomes[id] = o
				default:
					q := *last.quality
					q.TenantID, q.Model, q.ServedModel, q.Provider = tenant, s.RequestedModel, s.Model, s.Provider
					q.PromptTemplate, q.ExperimentID, q.Arm = s.PromptTemplate, s.ExperimentID, s.Arm
					quality[id] = q
				}
			}
		}
	}
	return all, quality, outcomes
}

// In whatever order calls, scores and outcomes come, again and again, with restarts and drained segments
// between: what reaches the sink is the same, and all of it carries the dimensions of its call.
func TestEveryOrderOfArrival(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		all, quality, outcomes := world(r)
		spans := 0
		for _, a := range all {
			if a.span != nil {
				spans++
			}
		}
		again := rapid.SliceOfN(rapid.SampledFrom(all), 0, 5).Draw(r, "again")
		order := rapid.Permutation(append(all, again...)).Draw(r, "order")

		dir, err := os.MkdirTemp(t.TempDir(), "")
		require.NoError(r, err)
		sink := newStore()
		opt := testOptions(t, dir, sink)
		opt.SegmentSize = rapid.Int64Range(1, 2000).Draw(r, "segment")
		i, err := Open(opt)
		require.NoError(r, err)
		for len(order) > 0 {
			switch rapid.IntRange(0, 5).Draw(r, "step") {
			case 0:
				require.NoError(r, i.Close())
				i, err = Open(opt)
				require.NoError(r, err)
			case 1:
				for i.backlogged() {
					require.NoError(r, i.drain(r.Context()))
				}
			default:
				n := rapid.IntRange(1, min(4, len(order))).Draw(r, "batch")
				req := newRequest(i)
				for index, a := range order[:n] {
					switch {
					case a.span != nil:
						s := *a.span
						req.addSpan(index, &s, nil)
					case a.quality != nil:
						req.addQuality(index, a.quality)
					default:
						req.addOutcome(index, a.outcome)
					}
				}
				require.NoError(r, i.submit(r.Context(), req))
				require.Empty(r, req.refused)
				order = order[n:]
			}
		}
		for i.backlogged() {
			require.NoError(r, i.drain(r.Context()))
		}
		require.Zero(r, i.Stats().Waiting)
		require.NoError(r, i.Close())
		require.Equal(r, quality, sink.quality)
		require.Equal(r, outcomes, sink.outcomes)
		require.Len(r, sink.spans, spans)
		require.Equal(r, spans+len(quality)+len(outcomes), sink.rows, "each once")
	})
}

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }

func (c *clock) advance(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(d) }

// An event that says its key waits a moment for the rest, and is stored without when its span does not come.
func TestDescribedEventWaitsAMoment(t *testing.T) {
	t.Parallel()
	sink, c := newStore(), &clock{at: testNow}
	opt := testOptions(t, t.TempDir(), sink)
	opt.Now, opt.MaxWaiting = c.now, 1
	i, _ := start(t, opt)
	described := score("q", "org", "t", "")
	described.Model, described.Arm, described.Kind = "gpt-4o", usage.None, "judge"
	other := described
	other.ID = "q2"
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{described, other}))
	require.EqualValues(t, 1, i.Stats().Waiting, "the one for which there is no room is stored at once")
	require.Eventually(t, func() bool { return sink.score("q2") == other }, 10*time.Second, time.Millisecond)
	require.Empty(t, sink.score("q").ID)
	c.advance(describedWait)
	require.Eventually(t, func() bool { return sink.score("q") == described }, 10*time.Second, time.Millisecond)
	require.Zero(t, i.Stats().Expired)

	// One that says another key than its span keeps to what it says.
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	other.ID, other.Model = "q3", "another"
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{other}))
	require.Eventually(t, func() bool { return sink.score("q3") == other }, 10*time.Second, time.Millisecond)
}

// A span that came days before its events, or through another spool, is found in the store.
func TestSpansAreLookedUp(t *testing.T) {
	t.Parallel()
	sink, c := newStore(), &clock{at: testNow}
	opt := testOptions(t, t.TempDir(), sink)
	opt.Now = c.now
	var mu sync.Mutex
	var stored []usage.Span
	questions, away := [][]usage.Trace{}, true
	opt.Lookup = func(_ context.Context, traces []usage.Trace) ([]usage.Span, error) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			away = false
			return nil, errors.New("the store is away")
		}
		questions = append(questions, traces)
		return stored, nil
	}
	asked := func() int { mu.Lock(); defer mu.Unlock(); return len(questions) }
	i, _ := start(t, opt)
	req := newRequest(i)
	whole := outcome("whole", "org", "t", "1")
	whole.Model = "gpt-4o"
	for n, o := range []usage.Outcome{outcome("by trace", "org", "t", ""), outcome("by trace alone", "", "t", ""), whole, outcome("unknown", "org", "t9", "")} {
		req.addOutcome(n, &o)
	}
	require.NoError(t, i.submit(t.Context(), req))
	require.Eventually(t, func() bool { // the store is away at first
		c.advance(lookupTimeout)
		return asked() == 1
	}, 20*time.Second, 50*time.Millisecond)
	mu.Lock()
	require.ElementsMatch(t, []usage.Trace{{TenantID: "org", ID: "t"}, {ID: "t"}, {TenantID: "org", ID: "t9"}}, questions[0])
	old := span("org", "t", "1")
	old.RequestedModel = "gpt-4o"
	stored = []usage.Span{span("other", "t8", "1"), old}
	mu.Unlock()
	require.Eventually(t, func() bool { return asked() == 1 && sink.count() == 1 }, 20*time.Second, time.Millisecond, "the described one has waited long enough")
	require.Eventually(t, func() bool { c.advance(time.Minute); return sink.count() == 3 }, 20*time.Second, 50*time.Millisecond)
	for _, id := range []string{"by trace", "by trace alone"} {
		sink.mu.Lock()
		require.Equal(t, usage.Outcome{
			ID: id, TraceID: "t", TenantID: "org", Model: "gpt-4o", ServedModel: "gpt-4o", Provider: "openai",
			PromptTemplate: "v1", Arm: usage.Treated, Kind: "conversion", Value: 1, Timestamp: testNow,
		}, sink.outcomes[id])
		sink.mu.Unlock()
	}
	require.EqualValues(t, 1, i.Stats().Waiting)
}

// What an older version left in the spool is still read: drained, waiting and summarized.
func TestOlderSpool(t *testing.T) {
	t.Parallel()
	// Without what its evaluator counts for, which came last, and before that the served model and the provider.
	before := func(q usage.Quality) []byte {
		b := appendQuality(nil, &q)
		return b[:len(b)-2]
	}
	old := func(q usage.Quality) []byte { b := before(q); return b[:len(b)-2] }
	later := score("later", "org", "t", "")
	later.Model, later.ServedModel = "gpt-4o", "m"
	landed, waits, released := score("landed", "org", "t", ""), score("waits", "org", "t", ""), score("released", "org", "t", "")
	landed.Model, released.Model = "gpt-4o", "gpt-4o"
	known, absent := identify('q', "org", "released as sent"), score("summarized", "org", "t5", "")
	dir := t.TempDir()
	i, err := Open(testOptions(t, dir, newStore()))
	require.NoError(t, err)
	require.NoError(t, i.Close())
	frameOf := func(records ...[]byte) []byte {
		b := beginFrame(nil, testNow)
		for _, r := range records {
			b = append(b, r...)
		}
		endFrame(b, 0)
		return b
	}
	segment := (&spool{dir: dir}).path(0, segmentSuffix)
	wl, ww, wr, wt := old(landed), old(waits), old(released), append([]byte{byte(kindQuality2)}, before(later)...)
	text := append([]byte(segmentMagic), frameOf(
		appendRecord(nil, kindQuality1, len(wl), wl),
		appendRecord(nil, kindQuality2, len(wt)-1, wt[1:]),
		appendRecord(nil, kindReleased, len(known)+len(wt), known[:], wt),
		appendRecord(nil, kindWaiting1, len(ww), ww),
		appendRecord(nil, kindReleased1, len(known)+len(wr), known[:], wr),
	)...)
	require.NoError(t, os.WriteFile(segment, text, 0o600))

	sink := newStore()
	opt := testOptions(t, dir, sink)
	i, _ = start(t, opt)
	require.Zero(t, i.Stats().CorruptSegments)
	require.EqualValues(t, 1, i.Stats().Waiting)
	require.Eventually(t, func() bool { return sink.count() == 4 }, 10*time.Second, time.Millisecond)
	require.Equal(t, later, sink.score("later"))
	require.Equal(t, landed, sink.score("landed"))
	require.Equal(t, released, sink.score("released"))
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score("released as sent", "org", "t", "")}))
	require.EqualValues(t, 1, i.Stats().Duplicates)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	require.Eventually(t, func() bool { return sink.score("waits").ServedModel == "gpt-4o" }, 10*time.Second, time.Millisecond)

	// A summary's dimensions of five.
	r := recovery{ingest: i}
	var w writer
	for _, text := range []string{"org", "gpt-4o", "v1", "", "none"} {
		w.string(text)
	}
	seen := append([]byte{1}, traceIDBytes("org", "t5")...)
	wa := old(absent)
	fresh := &Ingest{memory: memory{limit: 100}, lounge: newLounge()}
	r.ingest = fresh
	var records []byte
	records = appendRecord(records, kindDimensions1, len(w), w)
	records = appendRecord(records, kindSeen, len(seen), seen)
	records = appendRecord(records, kindWaiting1, len(wa), wa)
	require.NoError(t, r.frame(testNow, records))
	dims, found := fresh.memory.find(traceID("org", "t5"))
	require.True(t, found)
	require.Equal(t, dimensions{Tenant: "org", Model: "gpt-4o", Template: "v1", Arm: "none"}, dims)
	require.Len(t, fresh.lounge.byID, 1)
}

func traceIDBytes(tenant, trace string) []byte { k := traceID(tenant, trace); return k[:] }

// A score counts for what its evaluator did when it came in, however late its call comes and whatever is restarted.
func TestStanding(t *testing.T) {
	t.Parallel()
	dir, sink := t.TempDir(), newStore()
	opt := testOptions(t, dir, sink)
	opt.Standing = func(q *usage.Quality) {
		q.Aside, q.Mapped, q.Calibrated = q.ID != "counts", q.ID != "as it is", q.Score/4
	}
	i, stop := start(t, opt)
	scores := []usage.Quality{score("counts", "org", "t", ""), score("as it is", "org", "t", ""), score("waits", "", "t", "")}
	scores[0].Model, scores[1].Model = "gpt-4o", "gpt-4o"
	require.NoError(t, i.Accept(t.Context(), nil, scores))
	stop()
	opt.Standing = func(*usage.Quality) { panic("asked again") }
	i, _ = start(t, opt)
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	require.Eventually(t, func() bool {
		return sink.score("waits").Model != "" && sink.score("as it is").ID != "" && sink.score("counts").ID != ""
	}, 10*time.Second, time.Millisecond)
	for _, q := range scores {
		got := sink.score(q.ID)
		require.Equal(t, 0.5, got.Score, q.ID)
		require.Equal(t, q.ID != "counts", got.Aside, q.ID)
		onScale := 0.125
		if q.ID == "as it is" {
			onScale = 0.5
		}
		require.Equal(t, onScale, got.OnScale(), q.ID)
	}
}
