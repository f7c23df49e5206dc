package gateway_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

const bigChat = `{"model": "big", "messages": [{"role": "user", "content": "Which \"model\": is it?"}], "stream": true}`

// authz asks as Envoy's ext_authz filter does.
func authz(h http.Handler, path, body string, headers map[string]string) *httptest.ResponseRecorder {
	r := local(httptest.NewRequest("POST", "/v1/authz"+path, strings.NewReader(body)))
	r.Header.Set("X-LLM-Tenant", "org_42")
	r.Header.Set("X-LLM-Provider", "test")
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// edited is the body as a gateway makes it that knows no JSON.
func edited(t testing.TB, body, edits string) string {
	if edits == "" {
		return body
	}
	for _, edit := range strings.Split(edits, ", ") {
		parts := strings.SplitN(edit, ":", 3)
		offset, err := strconv.Atoi(parts[0])
		require.NoError(t, err)
		length, err := strconv.Atoi(parts[1])
		require.NoError(t, err)
		text, err := url.PathUnescape(parts[2])
		require.NoError(t, err)
		body = body[:offset] + text + body[offset+length:]
	}
	return body
}

func TestAuthz(t *testing.T) {
	t.Parallel()
	b := monthly(10_000_000)
	o := options(t, &fixed{flags: []routing.Flag{route(1)}})
	h := handlersWith(t, o, b)
	eventually(t, "the flag is not obeyed", func() bool {
		w := call(h, "POST", "/v1/decide", ask(map[string]any{"hold": false}))
		return strings.Contains(w.Body.String(), `"small"`)
	})
	w := authz(h, "/v1/chat/completions", bigChat, map[string]string{
		"X-LLM-Session": "s1", "X-LLM-Task": "support", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	})
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	require.Empty(t, w.Body.String())
	require.Equal(t, "route", w.Header().Get("X-LLM-Route"))
	require.Equal(t, "small", w.Header().Get("X-LLM-Model"))
	require.NotEmpty(t, w.Header().Get("RateLimit"))
	require.NotEmpty(t, w.Header().Get("X-LLM-Budget-Remaining"))
	hold := w.Header().Get("X-Flyball-Hold-Id")
	require.Regexp(t, `^0af7651916cd43dd8448eb211c80319c/[0-9a-f]{16}$`, hold)
	require.JSONEq(t, `{"model": "small", "messages": [{"role": "user", "content": "Which \"model\": is it?"}], "stream": true,
		"stream_options": {"include_usage": true}, "max_completion_tokens": 4000}`, edited(t, bigChat, w.Header().Get("X-Flyball-Edits")))
	held := b.held[hold]
	require.Equal(t, budget.Call{Tenant: "org_42", Session: "s1", Model: "big"}, held.Of)
	require.Equal(t, "support", held.Span.Task)
	require.Equal(t, usage.Treated, held.Span.Arm)
	require.Equal(t, int64(4000), held.Span.Tokens.Output)
	require.Positive(t, held.Span.Tokens.UncachedInput)

	// what its provider answers settles it
	stream := "data: {\"id\":\"c\",\"model\":\"small\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\n" +
		"data: {\"id\":\"c\",\"model\":\"small\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
	end := "data: {\"id\":\"c\",\"model\":\"small\",\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":5,\"total_tokens\":25}}\n\ndata: [DONE]\n\n"
	b.held[hold] = held
	settled := settleBy(t, h, hold, "text/event-stream; charset=utf-8", stream+end, map[string]string{"X-Flyball-Upstream-Status": "200", "X-Flyball-Latency-Ms": "120"})
	require.Equal(t, true, settled["known"])
	require.Equal(t, true, settled["usage_complete"])
	require.Equal(t, 0.000035, settled["cost_usd"])
	require.Equal(t, usage.Tokens{UncachedInput: 20, Output: 5}, b.spans[hold].Tokens)
	require.Equal(t, int64(120), b.spans[hold].LatencyMS)
	require.Equal(t, true, settleBy(t, h, hold, "application/json", "{}", nil)["repeated"])

	// a stream that breaks off counts by its text
	hold = authz(h, "/v1/chat/completions", bigChat, nil).Header().Get("X-Flyball-Hold-Id")
	require.Equal(t, false, settleBy(t, h, hold, "text/event-stream", stream[:len(stream)/2], nil)["usage_complete"])
	require.Equal(t, int64(1002), b.spans[hold].Tokens.Output)
	// and a body that does, by all that it could have had
	hold = authz(h, "/v1/chat/completions", bigChat, nil).Header().Get("X-Flyball-Hold-Id")
	require.Equal(t, false, settleBy(t, h, hold, "application/json", `{"choices":[`, map[string]string{"X-Flyball-Complete": "false"})["usage_complete"])
	require.Equal(t, int64(4000), b.spans[hold].Tokens.Output)
	// an error costs nothing
	hold = authz(h, "/v1/chat/completions", bigChat, nil).Header().Get("X-Flyball-Hold-Id")
	require.Equal(t, 0.0, settleBy(t, h, hold, "application/json", `{"error":{}}`, map[string]string{"X-Flyball-Upstream-Status": "500"})["cost_usd"])
	require.NotContains(t, b.spans, hold)
	require.Empty(t, b.held)
}

// handlersWith runs a gateway whose tenants have the bank's budget.
func handlersWith(t *testing.T, o gateway.Options, b *bank) http.Handler {
	g := start(t, o)
	return gateway.NewExternal(g, externalOptions(t, b)).Handler()
}

func settleBy(t testing.TB, h http.Handler, hold, kind, body string, headers map[string]string) map[string]any {
	r := local(httptest.NewRequest("POST", "/v1/settle/response", strings.NewReader(body)))
	r.Header.Set("X-Flyball-Hold-Id", hold)
	r.Header.Set("Content-Type", kind)
	for name, value := range headers {
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	var answer struct{ Settled []map[string]any }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.Len(t, answer.Settled, 1)
	return answer.Settled[0]
}

func TestAuthzRefuses(t *testing.T) {
	t.Parallel()
	b := monthly(100)
	h := external(t, externalOptions(t, b), still)
	for name, tc := range map[string]struct {
		path, body string
		headers    map[string]string
		status     int
		says       string
	}{
		"OpenAI's shape":      {"/v1/chat/completions", bigChat, nil, 429, `"type":"budget_exceeded"`},
		"Anthropic's shape":   {"/v1/messages", `{"model":"big","max_tokens":10000,"messages":[{"role":"user","content":"hi"}]}`, nil, 429, `{"type":"error","error":{"type":"budget_exceeded"`},
		"no body":             {"/v1/chat/completions", "", nil, 400, "invalid_request_error"},
		"no model":            {"/v1/chat/completions", `{"messages":[]}`, nil, 400, `add \"model\"`},
		"a part of a body":    {"/v1/chat/completions", bigChat, map[string]string{"X-Envoy-Auth-Partial-Body": "true"}, 413, "allow_partial_message"},
		"compressed":          {"/v1/chat/completions", bigChat, map[string]string{"Content-Encoding": "gzip"}, 415, "compressed"},
		"another path":        {"/v1/batches", "{}", nil, 404, "is not let through"},
		"a pseudo-model":      {"/v1/responses", `{"model":"*","input":"hi"}`, nil, 404, "is no model"},
		"no tenant":           {"/v1/chat/completions", bigChat, map[string]string{"X-LLM-Tenant": ""}, 400, "X-LLM-Tenant is missing"},
		"a long session name": {"/v1/chat/completions", bigChat, map[string]string{"X-LLM-Session": strings.Repeat("x", 300)}, 400, "session_id is 300 bytes"},
	} {
		w := authz(h, tc.path, tc.body, tc.headers)
		require.Equal(t, tc.status, w.Code, name)
		require.Contains(t, w.Body.String(), tc.says, name)
		require.True(t, json.Valid(w.Body.Bytes()), name)
		if tc.status == 429 {
			require.Equal(t, "false", w.Header().Get("X-Should-Retry"))
			require.Equal(t, "388800", w.Header().Get("Retry-After"))
			require.NotEmpty(t, w.Header().Get("RateLimit"))
		}
	}
	require.Empty(t, b.held)
	for _, path := range []string{"/v1/authz/v1/models", "/v1/authz/v1/models/big"} {
		r := local(httptest.NewRequest("GET", path, nil))
		r.Header.Set("X-LLM-Tenant", "org_42")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, http.StatusOK, w.Code)
	}

	for name, headers := range map[string]map[string]string{
		"no hold":           {},
		"unknown":           {"X-Flyball-Hold-Id": "t/x"},
		"no status of HTTP": {"X-Flyball-Hold-Id": "t/x", "X-Flyball-Upstream-Status": "ok"},
		"no latency":        {"X-Flyball-Hold-Id": "t/x", "X-Flyball-Latency-Ms": "soon"},
	} {
		r := local(httptest.NewRequest("POST", "/v1/settle/response", strings.NewReader("{}")))
		for n, value := range headers {
			r.Header.Set(n, value)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusConflict}, w.Code, name)
	}
}

// FuzzExternal sends anything to everything that gateways which are not ours are served by: it answers in JSON, holds
// nothing that it does not name, and what it says of a body's edits makes a body that still asks for a model.
func FuzzExternal(f *testing.F) {
	f.Add("/v1/decide", ask(nil))
	f.Add("/v1/decide", ask(map[string]any{"tags": map[string]string{"a": "b"}, "span_id": "c", "hold": false, "choices": 3}))
	f.Add("/v1/settle", `{"hold_id":"t/c","status":"aborted","output_bytes":7,"tokens":{"prompt":1,"completion":2,"reasoning":1}}`)
	f.Add("/v1/settle", `[{"hold_id":"t/c","provider":"anthropic","usage":{"input_tokens":3,"output_tokens":1},"cost_usd":1e-3,"tenant_id":"o","requested_model":"big","timestamp":"2026-11-26T11:00:00Z"}]`)
	f.Add("/v1/authz/v1/chat/completions", bigChat)
	f.Add("/v1/authz/v1/messages", `{"model":"big","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`)
	f.Add("/v1/authz/v1/responses", `{"input":"hi","max_output_tokens":null,"model":"big","stream":true}`)
	f.Add("/v1/authz/v1/embeddings", `{"model":"big","input":["a","b"]}`)
	f.Add("/v1/settle/response", "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\ndata: [DONE]\n\n")
	b := monthly(1 << 40)
	h := external(f, externalOptions(f, b), still)
	f.Fuzz(func(t *testing.T, path, body string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || target.IsAbs() || target.Host != "" {
			t.Skip("no path")
		}
		hold := ""
		if path == "/v1/settle/response" {
			w := call(h, "POST", "/v1/decide", ask(nil))
			var d struct {
				ID string `json:"hold_id"`
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &d))
			hold = d.ID
		}
		r := local(httptest.NewRequest("POST", "/x", strings.NewReader(body)))
		r.URL = target
		r.Header.Set("X-LLM-Tenant", "org_42")
		r.Header.Set("X-LLM-Provider", "test")
		r.Header.Set("X-Flyball-Hold-Id", hold)
		r.Header.Set("Content-Type", "text/event-stream")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch {
		case w.Code == http.StatusNotFound || w.Code >= 300 && w.Code < 400 || w.Code == http.StatusMethodNotAllowed:
			return
		case w.Body.Len() > 0:
			require.True(t, json.Valid(w.Body.Bytes()), w.Body.String())
		}
		require.Less(t, w.Code, 500, w.Body.String())
		if id := w.Header().Get("X-Flyball-Hold-Id"); id != "" {
			require.Contains(t, b.held, id)
			var asked struct{ Model string }
			require.NoError(t, json.Unmarshal([]byte(edited(t, body, w.Header().Get("X-Flyball-Edits"))), &asked))
			require.Equal(t, w.Header().Get("X-LLM-Model"), asked.Model)
		}
	})
}
