package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/flyball-dev/flyball/internal/usage"
)

// listener hears calls.
type listener struct {
	mu    sync.Mutex
	heard []Heard
}

func (l *listener) hear(h Heard) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = append(l.heard, h)
}

// texts are those of the only call that was heard.
func (l *listener) texts(t *testing.T) (input, output string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Len(t, l.heard, 1)
	input, output, err := l.heard[0].Texts()
	require.NoError(t, err)
	return input, output
}

func listening(t *testing.T) (*Ingest, *listener) {
	l := &listener{}
	opt := testOptions(t, t.TempDir(), newStore())
	opt.Wants, opt.Heard = func(*usage.Span) bool { return true }, l.hear
	i, _ := start(t, opt)
	return i, l
}

func TestTextsOfSpans(t *testing.T) {
	t.Parallel()
	i, l := listening(t)
	body := spanWith(t, map[string]any{"input": "why \"so\"?\n", "output": `{"role":"user","content":"an answer that looks like a message"}`})
	require.Equal(t, 200, post(i, "/v1/spans", body).Code)
	require.Equal(t, 200, post(i, "/v1/spans", body).Code)
	input, output := l.texts(t) // once: the second is a duplicate
	require.Equal(t, "why \"so\"?\n", input)
	require.JSONEq(t, `{"role":"user","content":"an answer that looks like a message"}`, output, "what our own format says is what it is")
	require.Equal(t, "org", l.heard[0].Span.TenantID)

	w := post(i, "/v1/spans", spanWith(t, map[string]any{"span_id": "long", "input": strings.Repeat("x", maxText)}))
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), `"field":"input","reason":"is longer than 262144 bytes"`)
	require.Contains(t, post(i, "/v1/spans", spanWith(t, map[string]any{"output": []int{1}})).Body.String(), `"must be a string"`)
}

func TestTextsOfLiteLLM(t *testing.T) {
	t.Parallel()
	i, l := listening(t)
	body := litellmWith(t, map[string]string{
		"messages": `[{"role":"system","content":"be kind"},{"role":"user","content":[{"type":"text","text":"hello"},{"type":"image_url","image_url":{"url":"x"}}]}]`,
		"response": `{"id":"x","choices":[{"message":{"role":"assistant","content":"good day","tool_calls":null}}]}`,
	})
	require.Equal(t, 200, post(i, "/v1/litellm", body).Code)
	input, output := l.texts(t)
	require.Equal(t, "system: be kind\nuser: hello", input)
	require.Equal(t, "good day", output)
}

// TestTextsOfOTLP: the forms that senders have used, in both encodings.
func TestTextsOfOTLP(t *testing.T) {
	t.Parallel()
	text := func(s string) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: s}}
	}
	list := func(values ...*commonpb.AnyValue) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: values}}}
	}
	mapping := func(pairs ...*commonpb.KeyValue) *commonpb.AnyValue {
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: pairs}}}
	}
	kv := func(key string, v *commonpb.AnyValue) *commonpb.KeyValue {
		return &commonpb.KeyValue{Key: key, Value: v}
	}
	event := func(name string, attributes ...*commonpb.KeyValue) func(*tracepb.Span) {
		return func(s *tracepb.Span) {
			s.Events = append(s.Events, &tracepb.Span_Event{Name: name, TimeUnixNano: s.EndTimeUnixNano, Attributes: attributes})
		}
	}
	attributes := func(list ...*commonpb.KeyValue) func(*tracepb.Span) {
		return func(s *tracepb.Span) { s.Attributes = append(s.Attributes, list...) }
	}
	for name, tc := range map[string]struct {
		change        []func(*tracepb.Span)
		input, output string
	}{
		"messages as JSON": {[]func(*tracepb.Span){attributes(
			kv("gen_ai.input.messages", text(`[{"role":"user","parts":[{"type":"text","content":"hello"}]}]`)),
			kv("gen_ai.output.messages", text(`[{"role":"assistant","parts":[{"type":"reasoning","content":"hm"},{"type":"text","content":"good day"}],"finish_reason":"stop"}]`)),
		)}, "user: hello", "good day"},
		"messages as values": {[]func(*tracepb.Span){attributes(
			kv("gen_ai.output.messages", list(mapping(kv("role", text("assistant")), kv("parts", list(mapping(kv("type", text("text")), kv("content", text("good day")))))))),
		)}, "", "good day"},
		"the newer name wins": {[]func(*tracepb.Span){attributes(
			kv("output.value", text("old")), kv("gen_ai.output.messages", text("new")), kv("gen_ai.completion", text("older")),
		)}, "", "new"},
		"OpenInference":          {[]func(*tracepb.Span){attributes(kv("input.value", text("hello")), kv("output.value", text("good day")))}, "hello", "good day"},
		"an answer that is JSON": {[]func(*tracepb.Span){attributes(kv("output.value", text(`{"total":3}`)))}, "", `{"total":3}`},
		"numbered": {[]func(*tracepb.Span){attributes(
			kv("gen_ai.prompt.0.content", text("be kind")), kv("gen_ai.prompt.1.content", text("hello")), kv("gen_ai.completion.0.content", text("good day")),
		)}, "hello", "good day"},
		"events with prompt and completion": {[]func(*tracepb.Span){
			event("gen_ai.content.prompt", kv("gen_ai.prompt", text(`[{"role":"user","content":"hello"}]`))),
			event("gen_ai.content.completion", kv("gen_ai.completion", text("good day"))),
		}, "user: hello", "good day"},
		"events of messages": {[]func(*tracepb.Span){
			event("gen_ai.user.message", kv("gen_ai.event.content", text(`{"role":"user","content":"hello"}`))),
			event("gen_ai.choice", kv("gen_ai.event.content", text(`{"index":0,"message":{"content":"good day"}}`))),
		}, "user: hello", "good day"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := otelSpan(1, callAttributes(t))
			for _, change := range tc.change {
				change(s)
			}
			req := export(attrs{"flyball.tenant_id": "org"}, s)
			for _, encoded := range [][2]string{{"application/x-protobuf", marshal(t, req)}, {"application/json", otlpJSON(t, req)}} {
				i, l := listening(t)
				w := post(i, "/v1/traces", encoded[1], "Content-Type", encoded[0])
				require.Equal(t, http.StatusOK, w.Code, w.Body)
				input, output := l.texts(t)
				require.Equal(t, tc.input, input, encoded[0])
				require.Equal(t, tc.output, output, encoded[0])
			}
		})
	}
}

// callAttributes are those of a plain call.
func callAttributes(testing.TB) attrs {
	return attrs{"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 5}
}

// leaks lists the files below a folder in which a text stands. Files come and go meanwhile.
func leaks(t *testing.T, dir, text string) (found []string) {
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var raw []byte
		if err == nil && !d.IsDir() {
			raw, err = os.ReadFile(path)
		}
		if bytes.Contains(raw, []byte(text)) {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}))
	return found
}

// TestTextsAreNotKept: unless it is configured, no text reaches the disk, the store or the log, however it came and
// whoever listens; where it is configured for a tenant, that tenant's alone do, and they are gone with the segment.
func TestTextsAreNotKept(t *testing.T) {
	t.Parallel()
	const secret = "the launch code is 7-alpha"
	send := func(t *testing.T, i *Ingest, tenant string) {
		require.Equal(t, 200, post(i, "/v1/spans", spanWith(t, map[string]any{"tenant_id": tenant, "trace_id": "native", "input": secret, "output": "I must not say: " + secret})).Code)
		require.Equal(t, 200, post(i, "/v1/litellm", litellmWith(t, map[string]string{
			"metadata": fmt.Sprintf(`{"user_api_key_team_id":%q}`, tenant), "messages": fmt.Sprintf(`[{"role":"user","content":%q}]`, secret), "response": fmt.Sprintf("%q", secret),
		})).Code)
		a := callAttributes(t)
		a["gen_ai.input.messages"], a["flyball.tenant_id"] = secret, tenant
		require.Equal(t, 200, post(i, "/v1/traces", marshal(t, export(attrs{}, otelSpan(1, a))), "Content-Type", "application/x-protobuf").Code)
		bad := post(i, "/v1/spans", spanWith(t, map[string]any{"tenant_id": tenant, "span_id": "bad", "input": secret, "latency_ms": -1}))
		require.Equal(t, 400, bad.Code)
		require.NotContains(t, bad.Body.String(), secret)
	}
	for name, tc := range map[string]struct {
		wants, keeps bool
		kept         int
	}{
		"off": {}, "scored": {wants: true}, "kept of another": {keeps: true, wants: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			sink := newStore()
			sink.fail = 1 << 30 // what is in the spool stays there
			opt := testOptions(t, t.TempDir(), sink)
			opt.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			if tc.wants {
				opt.Wants, opt.Heard = func(*usage.Span) bool { return true }, func(Heard) {}
			}
			if tc.keeps {
				opt.Keep = func(tenant string) time.Duration { return map[string]time.Duration{"other": time.Hour}[tenant] }
			}
			i, stop := start(t, opt)
			send(t, i, "org")
			require.Empty(t, leaks(t, opt.Dir, "launch code"))
			stop()
			require.NotContains(t, log.String(), "launch code")
		})
	}
	t.Run("kept", func(t *testing.T) {
		t.Parallel()
		var log bytes.Buffer
		sink := newStore()
		sink.fail = 2
		opt := testOptions(t, t.TempDir(), sink)
		opt.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		opt.Keep = func(string) time.Duration { return 7 * 24 * time.Hour }
		opt.SegmentSize = 1 // every write begins another
		i, stop := start(t, opt)
		send(t, i, "org")
		require.Eventually(t, func() bool { sink.mu.Lock(); defer sink.mu.Unlock(); return len(sink.contents) == 3 }, 20*time.Second, time.Millisecond)
		c := sink.contents[0]
		require.Equal(t, usage.Content{
			TraceID: "native", SpanID: c.SpanID, TenantID: "org", RequestedModel: c.RequestedModel, Model: c.Model, Timestamp: c.Timestamp,
			ExpiresAt: testNow.Add(7 * 24 * time.Hour), Input: secret, Output: "I must not say: " + secret,
		}, c)
		require.Equal(t, 200, post(i, "/v1/spans", spanWith(t, nil)).Code) // the next segment lets the last one go
		require.Eventually(t, func() bool { return len(leaks(t, opt.Dir, "launch code")) == 0 }, 20*time.Second, 10*time.Millisecond, "drained segments leave no text")
		stop()
		require.NotContains(t, log.String(), "launch code")

		again, _ := start(t, opt)
		require.Equal(t, 200, post(again, "/v1/spans", spanWith(t, map[string]any{"tenant_id": "org", "trace_id": "native", "input": secret})).Code)
		require.Len(t, sink.contents, 3, "a retry stores nothing twice, after a restart too")
	})
}

func TestFeedback(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	require.Equal(t, 200, post(i, "/v1/spans", gatewaySpan).Code)
	for _, tc := range []struct {
		body, evaluator string
		score           float64
	}{
		{`{"trace_id":"abc123","tenant_id":"org_42","id":"f1","thumb":"up"}`, "human-thumbs", 1},
		{`{"trace_id":"abc123","tenant_id":"org_42","id":"f2","thumb":"down","by":"ann"}`, "human-thumbs", 0},
		{`{"trace_id":"abc123","tenant_id":"org_42","id":"f3","stars":4}`, "human-stars", 0.75},
		{`{"trace_id":"abc123","tenant_id":"org_42","id":"f4","stars":1}`, "human-stars", 0},
		{`{"trace_id":"abc123","tenant_id":"org_42","id":"f5","score":0.3,"evaluator":"panel"}`, "panel", 0.3},
	} {
		w := post(i, "/v1/feedback", tc.body)
		require.JSONEq(t, `{"accepted":1,"refused":[],"duplicates":0}`, w.Body.String(), tc.body)
		id := tc.body[strings.Index(tc.body, `"id":"`)+6:][:2]
		require.Eventually(t, func() bool { return sink.score(id).ID != "" }, 10*time.Second, time.Millisecond, tc.body)
		q := sink.score(id)
		require.Equal(t, "human", q.Kind)
		require.Equal(t, tc.evaluator, q.Evaluator)
		require.InDelta(t, tc.score, q.Score, 1e-9)
		require.Equal(t, "claude-3-opus", q.Model, "it takes the dimensions of its call")
		require.Equal(t, testNow, q.Timestamp)
	}
	vote := `{"trace_id":"abc123","tenant_id":"org_42","thumb":"up","by":"ann"}`
	require.Contains(t, post(i, "/v1/feedback", vote).Body.String(), `"accepted":1`)
	require.Contains(t, post(i, "/v1/feedback", strings.Replace(vote, "up", "down", 1)).Body.String(), `"duplicates":1`, "the first vote stands")
	require.Contains(t, post(i, "/v1/feedback", strings.Replace(vote, "ann", "bob", 1)).Body.String(), `"accepted":1`)
	for body, want := range map[string]string{
		`{"thumb":"up","by":"a"}`:                            `"field":"trace_id"`,
		`{"trace_id":"t","by":"a"}`:                          "give a thumb",
		`{"trace_id":"t","by":"a","thumb":"up","stars":1}`:   "not several",
		`{"trace_id":"t","by":"a","thumb":"sideways"}`:       "must be up or down",
		`{"trace_id":"t","by":"a","stars":0}`:                "from 1 to 5",
		`{"trace_id":"t","by":"a","stars":6}`:                "at most 5",
		`{"trace_id":"t","by":"a","score":1.5}`:              "between 0 and 1",
		`{"trace_id":"t","score":1}`:                         `"field":"by"`,
		`{"trace_id":"t","by":"a","score":1,"kind":"judge"}`: "not a known field",
	} {
		w := post(i, "/v1/feedback", body)
		require.Equal(t, 400, w.Code, body)
		require.Contains(t, w.Body.String(), want, body)
	}
}
