package gateway_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// saying is a rig whose provider of both APIs is the handler.
func saying(t *testing.T, says http.HandlerFunc) *rig {
	provider := httptest.NewServer(says)
	t.Cleanup(provider.Close)
	return newRig(t, upstreamtest.Options{}, func(s *setup) {
		s.Gate.Upstreams[0].URL, s.Gate.Upstreams[1].URL = provider.URL+"/v1", provider.URL+"/v1"
	})
}

// TestNumbersOrderAndEventsStay: what a provider says in a way of its own comes as it was said.
func TestNumbersOrderAndEventsStay(t *testing.T) {
	t.Parallel()
	const body = "{\"z\":1.50e+2, \"a\" : 12345678901234567890,\"x\":\"\\u00e9\\/\",\r\n \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5,\"novel\":{\"n\":0.10}},\"model\":\"gpt-4o\",\"z\":null}\n"
	const events = "event: novel.thing\r\nid: 7\r\nretry: 10\r\ndata: {\"b\":1.0,\r\ndata:  \"a\":2}\r\n\r\n: a comment\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}],\"n\":1.00}\n\nunknown: field\n\ndata: not JSON\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\ndata: [DONE]\n\n"
	r := saying(t, func(w http.ResponseWriter, r *http.Request) {
		said, _ := io.ReadAll(r.Body)
		if strings.Contains(string(said), `"stream":true`) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, events)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, body)
	})
	require.Equal(t, body, r.post(keyA, "/v1/chat/completions", chat).body)
	asked := strings.Replace(streamed, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
	got := r.post(keyA, "/v1/chat/completions", asked).body
	comment := ": x-llm-cost-this-request " + dollars(r.span(2).Cost) + "\n"
	require.Equal(t, 1, strings.Count(got, comment))
	require.Equal(t, events, strings.Replace(got, comment, "", 1))
	for n := range 2 {
		require.EqualValues(t, 2, r.span(n+1).Tokens.Output)
		require.True(t, r.span(n+1).UsageComplete)
	}
}

// TestRedirectsLeadNowhere: neither the call nor the key goes where an upstream points.
func TestRedirectsLeadNowhere(t *testing.T) {
	t.Parallel()
	elsewhere, url := upstreamtest.Start(t, upstreamtest.Options{})
	r := saying(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, url+r.URL.Path, http.StatusTemporaryRedirect)
	})
	require.Equal(t, http.StatusBadGateway, r.post(keyA, "/v1/chat/completions", chat).StatusCode)
	require.Equal(t, http.StatusBadGateway, r.get(keyA, "/v1/models/gpt-4o").StatusCode)
	require.Empty(t, elsewhere.Calls())
	require.Empty(t, r.durable())
}

// TestAnUpstreamCannotSpeakForUs: its headers of our names, and those between it and us, do not reach the client.
func TestAnUpstreamCannotSpeakForUs(t *testing.T) {
	t.Parallel()
	r := saying(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("X-LLM-Cost-This-Request", "0")
		h.Set("X-LLM-Budget-Remaining", "1000000")
		h.Set("RateLimit", `"x";r=9`)
		h.Set("Set-Cookie", "a=b")
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Connection", "X-Hop")
		h.Set("X-Hop", "1")
		h.Set("X-Kept", "1")
		h.Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}`)
	})
	got := r.post(keyA, "/v1/chat/completions", chat).Header
	require.Equal(t, dollars(r.span(1).Cost), got.Get("X-LLM-Cost-This-Request"))
	require.Equal(t, "1", got.Get("X-Kept"))
	for _, name := range []string{"X-LLM-Budget-Remaining", "RateLimit", "Set-Cookie", "Access-Control-Allow-Origin", "X-Hop"} {
		require.Empty(t, got.Values(name), name)
	}
}

// TestHeadersBetweenClientAndUs: they do not go on, whatever their names, and nothing can be put into ours.
func TestHeadersBetweenClientAndUs(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	got := r.post(keyA, "/v1/chat/completions", chat, "Connection", "X-Hop, close", "X-Hop", "1", "Te", "trailers", "X-Forwarded-For", "10.0.0.1",
		"Proxy-Authorization", "Basic x", "X-Llm-Session", "s\"1; r=0", "X-Llm-Model", "gpt-5", "X-Llm-Route", "pin")
	require.Equal(t, http.StatusOK, got.StatusCode)
	require.Equal(t, "gpt-4o", got.Header.Get("X-LLM-Model"))
	require.Equal(t, "direct", got.Header.Get("X-LLM-Route"))
	for _, name := range []string{"X-Hop", "Te", "X-Forwarded-For", "Proxy-Authorization", "Connection"} {
		require.Empty(t, r.upstream.Calls()[0].Header.Get(name), name)
	}
	// a model's name goes into a header of the answer: no line break in it gets that far
	for _, model := range []string{`gpt-4o\r\nX-Injected: 1`, `gpt-4o\u000aX-Injected: 1`} {
		injected := r.post(keyA, "/v1/chat/completions", strings.Replace(chat, "gpt-4o", model, 1))
		require.Empty(t, injected.Header.Get("X-Injected"))
		require.NotContains(t, injected.Header.Get("X-LLM-Model"), "\n")
	}
}

// TestNoRequestInARequest: where two readers could see different ends of a body, there is no call.
func TestNoRequestInARequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	head := "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + keyA + "\r\nContent-Type: application/json\r\n"
	for name, text := range map[string]string{
		"two lengths":            head + "Content-Length: 10\r\nContent-Length: 20\r\n\r\n" + chat,
		"an unknown encoding":    head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
		"a name with a space":    head + "Content-Length : 10\r\n\r\n" + chat,
		"a folded header":        head + "X-A: b\r\n\tTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n{}\n",
		"a chunk that is no hex": head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n" + chat + "\r\n0\r\n\r\n",
	} {
		conn := r.dialled(text)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		got, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, name)
		require.GreaterOrEqual(t, got.StatusCode, 400, name)
		require.NoError(t, got.Body.Close())
	}
	require.Empty(t, r.upstream.Calls())
	// Where both are there the encoding counts, as RFC 9112 has it, and what follows is a call of nobody's.
	conn := r.dialled(head + "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	said, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(said), "HTTP/1.1 400 ")
	require.NotContains(t, string(said), "HTTP/1.1 200 ")
	require.Empty(t, r.upstream.Calls())
}

// TestAClientIsToldOfItsBudget: as an error that it knows, and it does not try again by itself.
func TestAClientIsToldOfItsBudget(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	day := treasury.Standing{
		Budget: budget.Budget{ID: "d", Tenant: "org_a", Per: budget.PerTenant, Period: budget.Day, Ceiling: 1000},
		Window: budget.Window{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Minute)}, Left: 3,
	}
	r.bank.answer = func(treasury.Call) (treasury.Promise, error) {
		return treasury.Promise{}, &treasury.Refusal{Standing: day}
	}
	_, err := r.openAI(option.WithMaxRetries(3)).Chat.Completions.New(t.Context(), chatParams())
	var failed *openai.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, http.StatusTooManyRequests, failed.StatusCode)
	require.Equal(t, "budget_exceeded", failed.Code)
	require.Equal(t, "budget_exceeded", failed.Type)
	require.Equal(t, "false", failed.Response.Header.Get("X-Should-Retry"))
	require.Len(t, r.bank.held, 1, "it was asked again")
}

// TestAShapeSaysItsQuota: who is kept out hears until when, and who is let through what share is.
func TestAShapeSaysItsQuota(t *testing.T) {
	t.Parallel()
	flag := route(0.75)
	flag.Key.Tenant, flag.Key.Model, flag.Kind, flag.Value = "org_a", "gpt-4o", routing.Shape, ""
	r := newRig(t, upstreamtest.Options{}, func(s *setup) { s.gate.Flags = &fixed{flags: []routing.Flag{flag}} })
	var out, in answer
	eventually(t, "nobody is kept out, or nobody let in", func() bool {
		got := r.post(keyA, "/v1/chat/completions", chat)
		switch {
		case got.StatusCode == http.StatusTooManyRequests:
			out = got
		case got.Header.Get("RateLimit") != "":
			in = got
		}
		return out.Response != nil && in.Response != nil
	})
	require.Equal(t, "shape", out.Header.Get("X-LLM-Route"))
	require.Equal(t, `"shape";q=25;qu="percent";w=60`, out.Header.Get("RateLimit-Policy"))
	require.Equal(t, `"shape";r=0;t=`+out.Header.Get("Retry-After"), out.Header.Get("RateLimit"))
	require.Equal(t, out.Header.Get("RateLimit-Policy"), in.Header.Get("RateLimit-Policy"))
	require.Regexp(t, `^"shape";r=25;t=[1-9][0-9]?$`, in.Header.Get("RateLimit"))
	require.Empty(t, r.post(keyB, "/v1/chat/completions", chat).Header.Get("RateLimit"), "another tenant's")
}
