package ingest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// spanWith is a good span with some fields changed; a nil value takes a field out.
func spanWith(t testing.TB, changes map[string]any) string {
	t.Helper()
	fields := map[string]any{
		"trace_id": "t1", "span_id": "s1", "timestamp": "2026-06-01T11:00:00Z", "tenant_id": "org",
		"provider": "openai", "model": "gpt-4o", "tokens": map[string]any{"prompt": 10, "completion": 5},
	}
	for k, v := range changes {
		if v == nil {
			delete(fields, k)
		} else {
			fields[k] = v
		}
	}
	text, err := json.Marshal(fields)
	require.NoError(t, err)
	return string(text)
}

func TestBadSpans(t *testing.T) {
	t.Parallel()
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	raw := json.RawMessage(nil)
	for _, tc := range []struct {
		name          string
		changes       map[string]any
		body          string
		field, reason string
	}{
		{name: "no trace", changes: map[string]any{"trace_id": nil}, field: "trace_id", reason: "is missing"},
		{name: "null span", changes: map[string]any{"span_id": raw}, field: "span_id", reason: "is missing"},
		{name: "no tenant", changes: map[string]any{"tenant_id": nil}, field: "tenant_id", reason: "is missing"},
		{name: "no model", changes: map[string]any{"model": nil}, field: "model", reason: "is missing"},
		{name: "no time", changes: map[string]any{"timestamp": nil}, field: "timestamp", reason: "is missing"},
		{name: "1970", changes: map[string]any{"timestamp": "1970-01-01T00:00:00Z"}, field: "timestamp", reason: "is before 2020"},
		{name: "2100", changes: map[string]any{"timestamp": "2100-01-01T00:00:00Z"}, field: "timestamp", reason: "more than an hour in the future"},
		{name: "no zone", changes: map[string]any{"timestamp": "2026-06-01T11:00:00"}, field: "timestamp", reason: "RFC 3339"},
		{name: "epoch", changes: map[string]any{"timestamp": 1717236000}, field: "timestamp", reason: "must be a string"},
		{name: "wrong type", changes: map[string]any{"model": 4}, field: "model", reason: "must be a string"},
		{name: "long name", changes: map[string]any{"model": strings.Repeat("m", 257)}, field: "model", reason: "longer than 256"},
		{name: "all models", changes: map[string]any{"model": "*"}, field: "requested_model", reason: "stands for all models"},
		{name: "an experiment's key", changes: map[string]any{"model": "gpt-4o#experiment:ab-1"}, field: "requested_model", reason: "tells an experiment's calls"},
		{name: "all tenants", changes: map[string]any{"tenant_id": "*"}, field: "tenant_id", reason: "stands for all tenants"},
		{name: "unknown field", changes: map[string]any{"modle": "x"}, field: "modle", reason: "not a known field"},
		{name: "negative", changes: map[string]any{"tokens": map[string]any{"prompt": -1}}, field: "tokens.prompt", reason: "negative"},
		{name: "fraction", changes: map[string]any{"tokens": map[string]any{"completion": 1.5}}, field: "tokens.completion", reason: "whole number"},
		{name: "overflow", changes: map[string]any{"tokens": map[string]any{"prompt": 1 << 60}}, field: "tokens.prompt", reason: "at most"},
		{name: "cached beyond prompt", changes: map[string]any{"tokens": map[string]any{"prompt": 5, "cached": 6}}, field: "tokens.cached", reason: "exceed the prompt"},
		{name: "reasoning beyond completion", changes: map[string]any{"tokens": map[string]any{"completion": 5, "reasoning": 6}}, field: "tokens.reasoning", reason: "exceeds the completion"},
		{name: "negative cost", changes: map[string]any{"cost_usd": -0.1}, field: "cost_usd", reason: "negative"},
		{name: "cost in words", changes: map[string]any{"cost_usd": "much"}, field: "cost_usd", reason: "amount in dollars"},
		{name: "no complexity", changes: map[string]any{"complexity": 0}, field: "complexity", reason: "above 0"},
		{name: "arm", changes: map[string]any{"arm": "left"}, field: "arm", reason: "none, treated or holdback"},
		{name: "tag", changes: map[string]any{"tags": map[string]any{"a": 1}}, field: "tags.a", reason: "must be a string"},
		{name: "score", changes: map[string]any{"quality": map[string]any{"evaluator": "e", "score": 1.2}}, field: "quality.score", reason: "between 0 and 1"},
		{name: "no score", changes: map[string]any{"quality": map[string]any{"evaluator": "e"}}, field: "quality.score", reason: "is missing"},
		{name: "usage", changes: map[string]any{"usage": []int{1}}, field: "usage", reason: "must be an object"},
		{name: "not an object", body: `"x"`, reason: "must be an object"},
		{name: "NaN", body: `{"trace_id":NaN}`, field: "trace_id", reason: "NaN and Infinity are not JSON"},
		{name: "field twice", body: `{"trace_id":"a","trace_id":"b"}`, field: "trace_id", reason: "there twice"},
		{name: "NaN tokens", body: `{"tokens":{"prompt":NaN}}`, field: "tokens.prompt", reason: "NaN and Infinity are not JSON"},
		{name: "negative infinity", body: `{"complexity":-Infinity}`, field: "complexity", reason: "NaN and Infinity are not JSON"},
		{name: "nonsense", body: `{"complexity":Nonsense}`, reason: "not a JSON value"},
		{name: "UTF-8", body: "{\"trace_id\":\"\xff\"}", field: "trace_id", reason: "not valid UTF-8"},
		{name: "escaped UTF-8", body: "{\"trace_id\":\"\\n\xff\"}", field: "trace_id", reason: "not valid UTF-8"},
		{name: "lone surrogate", body: `{"trace_id":"\ud800"}`, field: "trace_id", reason: "half a surrogate pair"},
		{name: "bad escape", body: `{"trace_id":"\ud8zz"}`, reason: `bad \u escape`},
		{name: "cut off", body: `{"trace_id":"a"`, reason: "expected ',' or '}'"},
		{name: "bomb", body: `{"usage":` + strings.Repeat(`{"a":`, 100_000), field: "usage" + strings.Repeat(".a", maxDepth), reason: "nested deeper than 32 levels"},
		{name: "array bomb", body: strings.Repeat(`[`, 100_000), reason: "nested deeper than 32 levels"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := tc.body
			if body == "" {
				body = spanWith(t, tc.changes)
			}
			w := post(i, "/v1/spans", body)
			require.Equal(t, 400, w.Code, w.Body)
			var a answer
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
			require.Zero(t, a.Accepted)
			require.NotEmpty(t, a.Refused)
			require.Equal(t, 0, a.Refused[0].Index)
			require.Equal(t, tc.field, a.Refused[0].Field)
			require.Contains(t, a.Refused[0].Reason, tc.reason)
		})
	}
}

func TestGoodRecordsOfABatchGoIn(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	good := func(n int) string { return spanWith(t, map[string]any{"span_id": fmt.Sprint("s", n)}) }
	bad := spanWith(t, map[string]any{"model": 1})

	w := post(i, "/v1/spans", "["+good(1)+","+bad+","+good(2)+","+good(1)+"]")
	require.Equal(t, 200, w.Code)
	require.JSONEq(t, `{"accepted":2,"duplicates":1,"refused":[{"index":1,"field":"model","reason":"must be a string"}]}`, w.Body.String())

	w = post(i, "/v1/spans", good(3)+"\n{\"trace_id\":\n"+bad+"\nrubbish\n\n"+good(4)+"\n")
	require.Equal(t, 200, w.Code)
	var a answer
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.Equal(t, 2, a.Accepted)
	require.Len(t, a.Refused, 3)
	require.Equal(t, []int{1, 2, 3}, []int{a.Refused[0].Index, a.Refused[1].Index, a.Refused[2].Index})

	w = post(i, "/v1/spans", "["+good(5)+", oops, "+good(6)+"]")
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), `"accepted":1`)
	require.Contains(t, w.Body.String(), "the rest of the body was not read")

	w = post(i, "/v1/spans", "["+good(7)+"] trailing")
	require.Contains(t, w.Body.String(), "more behind the array")
	w = post(i, "/v1/spans", "[]")
	require.Equal(t, 200, w.Code)
	w = post(i, "/v1/spans", " \n")
	require.Equal(t, 400, w.Code)

	require.Eventually(t, func() bool { return i.Stats().Inserted == 6 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 6, sink.count())
	s := i.Stats()
	require.EqualValues(t, 6, s.Accepted)
	require.EqualValues(t, 1, s.Duplicates)
	require.EqualValues(t, 6, s.Refused)
}

func TestRefusalsAreBounded(t *testing.T) {
	t.Parallel()
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	w := post(i, "/v1/spans", strings.Repeat("1\n", 5000))
	var a answer
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.Len(t, a.Refused, maxRefusals)
	require.Equal(t, 5000-maxRefusals, a.Unlisted)
}

func TestUsageWinsOverTokens(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	for n, tc := range []struct {
		provider string
		usage    any
		want     usage.Tokens
		complete bool
	}{
		{
			"openai",
			map[string]any{"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": map[string]any{"cached_tokens": 2}},
			usage.Tokens{UncachedInput: 5, CacheRead: 2, Output: 3},
			true,
		},
		{"openai", map[string]any{"strange": 7}, usage.Tokens{UncachedInput: 10, Output: 5}, false},
		{"somebody", map[string]any{"in": 7}, usage.Tokens{UncachedInput: 10, Output: 5}, false},
		{"openai", nil, usage.Tokens{UncachedInput: 10, Output: 5}, true},
	} {
		id := fmt.Sprint("s", n)
		w := post(i, "/v1/spans", spanWith(t, map[string]any{"span_id": id, "provider": tc.provider, "usage": tc.usage}))
		require.Equal(t, 200, w.Code, w.Body)
		require.Eventually(t, func() bool { return sink.span("org/t1/"+id).SpanID == id }, 10*time.Second, time.Millisecond)
		s := sink.span("org/t1/" + id)
		require.Equal(t, tc.want, s.Tokens)
		require.Equal(t, tc.complete, s.UsageComplete)
		require.Equal(t, tc.provider == "openai", s.Priced, "an unknown model is not free, it is unpriced")
	}
	s := i.Stats()
	require.EqualValues(t, 2, s.Incomplete)
	require.Equal(t, map[string]int64{"gpt-4o": 1}, s.Unpriced)
}

func gzipped(t *testing.T, text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.String()
}

func TestBodies(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, t.TempDir(), newStore())
	opt.MaxBody = 100_000
	i, _ := start(t, opt)
	z, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	zstded := func(text string) string { return string(z.EncodeAll([]byte(text), nil)) }
	good := spanWith(t, nil)
	bomb := strings.Repeat(" ", 10<<20)
	lying := gzipped(t, good)
	for _, tc := range []struct {
		name, body string
		header     []string
		want       int
	}{
		{"plain", good, nil, 200},
		{"gzip", gzipped(t, good), []string{"Content-Encoding", "gzip"}, 200},
		{"zstd", zstded(good), []string{"Content-Encoding", "zstd", "Content-Type", "application/x-ndjson"}, 200},
		{"large", bomb, nil, 413},
		{"gzip bomb", gzipped(t, bomb), []string{"Content-Encoding", "gzip"}, 413},
		{"zstd bomb", zstded(bomb), []string{"Content-Encoding", "zstd"}, 413},
		{"not gzip", good, []string{"Content-Encoding", "gzip"}, 400},
		{"gzip cut off", lying[:len(lying)-4], []string{"Content-Encoding", "gzip"}, 400},
		{"gzip with a wrong checksum", lying[:len(lying)-8] + "\x00\x00\x00\x00" + lying[len(lying)-4:], []string{"Content-Encoding", "gzip"}, 400},
		{"not zstd", good, []string{"Content-Encoding", "zstd"}, 400},
		{"brotli", good, []string{"Content-Encoding", "br"}, 415},
		{"protobuf", good, []string{"Content-Type", "application/x-protobuf"}, 415},
	} {
		w := post(i, "/v1/spans", tc.body, tc.header...)
		require.Equal(t, tc.want, w.Code, "%s: %s", tc.name, w.Body)
		require.True(t, json.Valid(w.Body.Bytes()))
	}
	require.Zero(t, i.inFlight.Load(), "the memory of bodies is given back")
	asked := httptest.NewRecorder()
	i.Handler().ServeHTTP(asked, httptest.NewRequest(http.MethodGet, "/v1/ingest", nil))
	require.Contains(t, asked.Body.String(), `"accepted":1,"refused":0,"duplicates":2,`)

	r := httptest.NewRequest(http.MethodGet, "/v1/spans", nil)
	w := httptest.NewRecorder()
	i.Handler().ServeHTTP(w, r)
	require.Equal(t, 405, w.Code)
}

// endless is a body that does not end; it counts what was read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) { e.read += len(p); clear(p); return len(p), nil }

// Bodies that are meant to fill the memory are refused, the memory is given back, and the heap stays within what the
// bound on bodies allows. Not parallel: it looks at the process's own heap.
func TestHostileBodiesAreBounded(t *testing.T) {
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	send := func(body io.Reader, encoding string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodPost, "/v1/spans", body)
		r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
		r.Header.Set("Content-Encoding", encoding)
		w := httptest.NewRecorder()
		i.Handler().ServeHTTP(w, r)
		return w
	}
	var bomb bytes.Buffer // claims a little, and is 200 MB
	z := gzip.NewWriter(&bomb)
	chunk := bytes.Repeat([]byte(" "), 1<<20)
	for range 200 {
		_, err := z.Write(chunk)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	lie := bytes.Clone(bomb.Bytes())
	copy(lie[len(lie)-4:], "\x10\x00\x00\x00") // 16 bytes, says its own end
	names := strings.Repeat(`{"`+strings.Repeat("x", 10_000)+`":1}`+"\n", 2000)

	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 3 {
		e := &endless{}
		require.Equal(t, 413, send(e, "").Code)
		require.Less(t, e.read, 40<<20, "the rest of the body is not read")
		require.Equal(t, 413, send(io.LimitReader(&endless{}, 100<<20), "").Code)
		require.Equal(t, 413, send(bytes.NewReader(bomb.Bytes()), "gzip").Code)
		require.Equal(t, 413, send(bytes.NewReader(lie), "gzip").Code)
		require.Equal(t, 400, send(strings.NewReader(names), "").Code)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapSys)-int64(before.HeapSys), int64(512<<20))
	require.Zero(t, i.inFlight.Load())
}

// Each body in zstd counts with what its encoder may make the reader keep, however little of it has come.
func TestManyZstdBodies(t *testing.T) {
	t.Parallel()
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	i.crowded(8 * i.opt.MaxBody) // as if so many were being read
	require.Equal(t, 429, post(i, "/v1/spans", spanWith(t, nil), "Content-Encoding", "zstd").Code)
	i.inFlight.Store(0)
}

func TestWhoMaySend(t *testing.T) {
	t.Parallel()
	open, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	for remote, want := range map[string]int{"127.0.0.1:9": 200, "[::1]:9": 200, "[::ffff:127.0.0.1]:9": 200, "192.0.2.1:9": 403, "": 403} {
		r := httptest.NewRequest(http.MethodPost, "/v1/spans", strings.NewReader(spanWith(t, nil)))
		r.RemoteAddr, r.Host = remote, "127.0.0.1:8080"
		w := httptest.NewRecorder()
		open.Handler().ServeHTTP(w, r)
		require.Equal(t, want, w.Code, "from %q: %s", remote, w.Body)
	}
	require.Equal(t, 403, post(open, "/v1/spans", spanWith(t, nil), "Origin", "https://example.com").Code)

	opt := testOptions(t, t.TempDir(), newStore())
	opt.Door = doorOf(t, Token{Hashes: []string{HashToken("for-org")}, Tenant: "org"}, Token{Hashes: []string{HashToken("for-all")}})
	i, _ := start(t, opt)
	for _, tc := range []struct {
		name, token string
		tenant      any
		want        int
	}{
		{"no token", "", "org", 401},
		{"wrong token", "for-orG", "org", 401},
		{"the hash is not the secret", HashToken("for-org"), "org", 401},
		{"its tenant", "for-org", "org", 200},
		{"its tenant, unsaid", "for-org", nil, 200},
		{"another tenant", "for-org", "other", 400},
		{"trusted for all", "for-all", "other", 200},
		{"trusted for all must say", "for-all", nil, 400},
	} {
		w := post(i, "/v1/spans", spanWith(t, map[string]any{"tenant_id": tc.tenant}), "Authorization", "Bearer "+tc.token)
		require.Equal(t, tc.want, w.Code, "%s: %s", tc.name, w.Body)
	}
	mixed := "[" + spanWith(t, map[string]any{"span_id": "mixed"}) + "," + spanWith(t, map[string]any{"tenant_id": "other"}) + "]"
	require.JSONEq(t, `{"accepted":1,"duplicates":0,"refused":[{"index":1,"field":"tenant_id","reason":"\"other\" is not the ingest token's tenant"}]}`,
		post(i, "/v1/spans", mixed, "Authorization", "Bearer for-org").Body.String(), "the good records are kept")
}

func TestDeployments(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	body := `{"id":"d1","service":"support-bot","tenant_id":"org","model":"gpt-4o","prompt_template_version":"v2",
		"previous":{"prompt_template_version":"v1"},"version":"abc","by":"ann","timestamp":"2026-06-01T11:00:00+02:00"}`
	require.JSONEq(t, `{"accepted":1,"refused":[],"duplicates":0}`, post(i, "/v1/deployments", body).Body.String())
	require.JSONEq(t, `{"accepted":0,"refused":[],"duplicates":1}`, post(i, "/v1/deployments", body).Body.String())
	require.JSONEq(t, `{"accepted":0,"refused":[{"index":0,"field":"id","reason":"is missing: a retry is known by it"}],"duplicates":0}`,
		post(i, "/v1/deployments", `{"service":"x"}`).Body.String())
	require.Eventually(t, func() bool { return sink.count() == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, usage.Deployment{
		ID: "d1", Service: "support-bot", TenantID: "org", Model: "gpt-4o", PromptTemplate: "v2",
		Previous: map[string]string{"prompt_template_version": "v1"}, Version: "abc", By: "ann",
		Timestamp: time.Date(2026, 6, 1, 9, 0, 0, 0, time.UTC),
	}, sink.deployments[0])
}

func TestBackPressure(t *testing.T) {
	t.Parallel()
	sink := newStore()
	sink.fail = 1 << 30
	opt := testOptions(t, t.TempDir(), sink)
	opt.MaxSpool = 500
	i, _ := start(t, opt)
	codes := map[int]int{}
	for n := range 20 {
		w := post(i, "/v1/spans", spanWith(t, map[string]any{"span_id": fmt.Sprint(n)}))
		codes[w.Code]++
		if w.Code == 429 {
			require.NotEmpty(t, w.Header().Get("Retry-After"))
			require.Contains(t, w.Body.String(), "spool is full")
		}
	}
	require.Positive(t, codes[200])
	require.Positive(t, codes[429])
	require.Equal(t, 20, codes[200]+codes[429])
	require.Eventually(t, func() bool { return i.Stats().SinkError != "" }, 10*time.Second, time.Millisecond)
	require.False(t, i.Stats().OldestUnsent.IsZero())
	sink.mu.Lock()
	sink.fail = 0
	sink.mu.Unlock()
	require.Eventually(t, func() bool { return sink.count() == codes[200] }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, 200, post(i, "/v1/spans", spanWith(t, nil)).Code)
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, t.TempDir(), newStore())
	opt.MinFree = 1 << 60
	i, _ := start(t, opt)
	w := post(i, "/v1/spans", spanWith(t, nil))
	require.Equal(t, 503, w.Code)
	require.Contains(t, w.Body.String(), "disk is full")
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// Whatever is wrong with one record of an array, the others are read.
func TestBadRecordsInAnArray(t *testing.T) {
	t.Parallel()
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	bad := []string{
		`{"tokens":{"prompt":NaN}}`, `{"complexity":-Infinity}`, "{\"trace_id\":\"\xff\"}", `{"trace_id":"\ud800"}`,
		`{"usage":` + strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000) + "}",
		strings.Repeat("[", 200_000) + strings.Repeat("]", 200_000), `{"a":"]","b":` + strings.Repeat("[", 40) + `"]\"]"` + strings.Repeat("]", 40) + "}",
	}
	var records []string
	for n, text := range bad {
		records = append(records, spanWith(t, map[string]any{"span_id": fmt.Sprint(n)}), text)
	}
	records = append(records, spanWith(t, map[string]any{"span_id": "last"}))
	for _, body := range []string{"[" + strings.Join(records, ",") + "]", strings.Join(records, "\n")} {
		var a answer
		require.NoError(t, json.Unmarshal(post(i, "/v1/spans", body).Body.Bytes(), &a))
		require.Equal(t, len(bad)+1, a.Accepted+a.Duplicates)
		require.Len(t, a.Refused, len(bad))
		for n, r := range a.Refused {
			require.Equal(t, 2*n+1, r.Index)
		}
	}
}

// Lines that each seem to open what never ends are told apart in time that grows with the body, not its square: what
// cannot be is not read.
func TestBombALine(t *testing.T) {
	t.Parallel()
	i := &Ingest{opt: testOptions(t, "", nil)}
	for path, decode := range map[string]func(*decoder, *request, *answer){"/v1/spans": (*decoder).spans, "/v1/litellm": i.litellm} {
		for _, line := range []string{`{"usage":` + strings.Repeat("[", 40), `{"usage":{"a":[`, `{"a":[1,`, `{"id":[`, `{"trace_id":`, `{"a":"`} {
			body := []byte(strings.Repeat(line+"\n", 2<<20/len(line)))
			d, a := newDecoder(body, testNow, &Caller{}), &answer{}
			decode(d, newRequest(i), a)
			require.LessOrEqual(t, d.again, 6*len(body)+maxRecord, "%s of %s", path, line)
			require.NotEmpty(t, a.Refused)
		}
	}
	// A few torn lines cost themselves alone.
	torn := strings.Repeat(`{"trace_id":`+"\n", 100)
	d, a := newDecoder([]byte(torn+spanWith(t, nil)), testNow, &Caller{}), &answer{}
	req := newRequest(i)
	d.spans(req, a)
	require.Len(t, a.Refused, 100)
	require.Len(t, req.units, 1)
}

// A write that fails leaves nothing behind: the retry is no duplicate.
func TestFailedWriteIsForgotten(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	require.Equal(t, 200, post(i, "/v1/spans", spanWith(t, nil)).Code)
	require.NoError(t, i.spool.active.Close()) // the next write fails
	w := post(i, "/v1/spans", spanWith(t, map[string]any{"span_id": "s2"}))
	require.Equal(t, 503, w.Code)
	w = post(i, "/v1/spans", spanWith(t, map[string]any{"span_id": "s2"}))
	require.JSONEq(t, `{"accepted":1,"refused":[],"duplicates":0}`, w.Body.String())
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)
}

// An event that waited for its span within the write that failed waits for nothing afterwards.
func TestFailedWriteOfAnEventAndItsSpan(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "first", "1")}, nil))
	require.NoError(t, i.spool.active.Close()) // the next write fails
	call, event := span("org", "t", "1"), score("q", "org", "t", "1")
	both := newRequest(i)
	both.addQuality(0, &event)
	both.addSpan(1, &call, nil)
	require.Error(t, i.submit(t.Context(), both))
	require.NoError(t, i.Accept(t.Context(), []usage.Span{call}, nil))
	require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{event}))
	require.Eventually(t, func() bool { return i.Stats().SpoolRows == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 3, sink.count(), "each once")
}

// stalled opens a connection on which a request announces a body of 32 MiB that does not come.
func stalled(t *testing.T, front *httptest.Server, path string) net.Conn {
	conn, err := net.Dial("tcp", front.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n{", path, 32<<20)
	require.NoError(t, err)
	return conn
}

// waitsFor is a body that says when its first byte is not enough.
type waitsFor struct {
	io.ReadCloser
	more func()
	read int
}

func (b *waitsFor) Read(p []byte) (int, error) {
	if b.read > 0 {
		b.more()
	}
	n, err := b.ReadCloser.Read(p)
	b.read += n
	return n, err
}

// Senders that announce much and send nothing keep nobody else out.
func TestStalledBodiesTakeLittle(t *testing.T) {
	t.Parallel()
	i, _ := start(t, testOptions(t, t.TempDir(), newStore()))
	var settled atomic.Int64 // requests that are refused, or of which nothing more comes
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &waitsFor{ReadCloser: r.Body, more: sync.OnceFunc(func() { settled.Add(1) })}
		r.Body = body
		i.Handler().ServeHTTP(w, r)
		body.more()
	}))
	defer front.Close()
	const senders = 300
	var open []net.Conn
	for range senders {
		open = append(open, stalled(t, front, "/v1/spans"))
	}
	require.Eventually(t, func() bool { return settled.Load() == senders }, 20*time.Second, time.Millisecond)
	answer, err := http.Post(front.URL+"/v1/spans", "application/json", strings.NewReader(spanWith(t, nil)+strings.Repeat(" ", 2<<20)))
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, 200, answer.StatusCode)
	for _, conn := range open {
		require.NoError(t, conn.Close())
	}
}

// A body that does not come is given up, and its memory given back.
func TestStalledBodiesEnd(t *testing.T) {
	t.Parallel()
	i, err := Open(testOptions(t, t.TempDir(), newStore()))
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	i.bodyTime = 200 * time.Millisecond
	front := httptest.NewServer(i.Handler())
	defer front.Close()
	for _, path := range []string{"/v1/spans", "/v1/traces"} {
		answer, err := http.ReadResponse(bufio.NewReader(stalled(t, front, path)), nil)
		require.NoError(t, err)
		require.Equal(t, 408, answer.StatusCode)
		require.NoError(t, answer.Body.Close())
	}
	require.Zero(t, i.inFlight.Load())

	w := &timedResponse{ResponseRecorder: httptest.NewRecorder()}
	r := httptest.NewRequest(http.MethodPost, "/v1/spans", strings.NewReader(spanWith(t, nil)))
	r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
	i.Handler().ServeHTTP(w, r)
	require.Equal(t, 200, w.Code)
	require.Len(t, w.deadlines, 2)
	require.True(t, w.deadlines[1].IsZero(), "the bound ends with the body")
}

// timedResponse notes by when the request must have come.
type timedResponse struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (w *timedResponse) SetReadDeadline(at time.Time) error {
	w.deadlines = append(w.deadlines, at)
	return nil
}
