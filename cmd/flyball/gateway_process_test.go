package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/usage"
)

// gatewayProcess is a gateway as people run it: a process with a spool on a disk, its servers all away.
type gatewayProcess struct {
	t          *testing.T
	url, spool string
	log        string // file
	cmd        *exec.Cmd
	ended      chan error
	client     *http.Client
}

const (
	gatewaySecret  = "fly_process-virtual-key"
	upstreamSecret = "sk-process-upstream-key"
)

// startGateway starts a gateway before a provider at url.
func startGateway(t *testing.T, url string, env ...string) *gatewayProcess {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	home := t.TempDir()
	g := &gatewayProcess{
		t: t, url: "http://" + address, spool: filepath.Join(home, "spool"), log: filepath.Join(home, "log"), ended: make(chan error, 1),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	key, file := filepath.Join(home, "key"), filepath.Join(home, "flyball.yaml")
	require.NoError(t, os.WriteFile(key, []byte(upstreamSecret), 0o600))
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `
ingest: {listen: %q}
spool: %q
clickhouse: {url: "http://127.0.0.1:1", user: nobody, password: nothing, database: flyball}
redis: {addr: "127.0.0.1:1"}
tokens: [{name: web, hash: %s, tenant: org_a, scopes: [calls]}, {name: ops, hash: %s, scopes: [decide]}]
gateway:
  drain: 3s
  upstreams:
    - {name: openai, family: openai, url: %q, key_file: %q, allow_private: true}
    - {name: anthropic, family: anthropic, url: %q, key_file: %q, allow_private: true}
`, address, g.spool, ingest.HashToken(gatewaySecret), ingest.HashToken("fly_ops"), url+"/v1", key, url+"/v1", key), 0o600))
	log, err := os.Create(g.log)
	require.NoError(t, err)
	g.cmd = exec.Command("flyball", "serve", "--role", "gateway", "--config", file)
	g.cmd.Stdout, g.cmd.Stderr, g.cmd.Env = log, log, append(os.Environ(), env...)
	require.NoError(t, g.cmd.Start())
	go func() { g.ended <- g.cmd.Wait(); log.Close() }()
	t.Cleanup(func() {
		_ = g.cmd.Process.Kill()
		text, _ := os.ReadFile(g.log)
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", text)
		}
		require.NotContains(t, string(text), gatewaySecret)
		require.NotContains(t, string(text), upstreamSecret)
	})
	require.Eventually(t, func() bool {
		got, err := g.client.Get(g.url + "/healthz")
		if err != nil {
			return false
		}
		return got.Body.Close() == nil
	}, time.Minute, 20*time.Millisecond, "the gateway does not answer")
	return g
}

// end waits until the process has ended.
func (g *gatewayProcess) end() error {
	select {
	case err := <-g.ended:
		return err
	case <-time.After(time.Minute):
		g.t.Fatal("the gateway does not end")
		return nil
	}
}

// call begins a call of tokens tokens, streamed or not.
func (g *gatewayProcess) call(ctx context.Context, tokens int, stream bool) (*http.Response, error) {
	body := fmt.Sprintf(`{"model":"gpt-4o","messages":[{"role":"user","content":"Tell me."}],"max_completion_tokens":%d,"stream":%t}`, tokens, stream)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader(body))
	require.NoError(g.t, err)
	r.Header.Set("Authorization", "Bearer "+gatewaySecret)
	r.Header.Set("Content-Type", "application/json")
	return g.client.Do(r)
}

// whole makes a call, and returns its id.
func (g *gatewayProcess) whole() string {
	got, err := g.call(g.t.Context(), 3, false)
	require.NoError(g.t, err)
	defer got.Body.Close()
	said, err := io.ReadAll(got.Body)
	require.NoError(g.t, err)
	require.Equal(g.t, http.StatusOK, got.StatusCode, string(said))
	return got.Header.Get("X-LLM-Request-Id")
}

// sink is a store that keeps spans in memory.
type sink struct {
	mu    sync.Mutex
	spans []usage.Span
}

func (s *sink) InsertSpans(_ context.Context, spans []usage.Span, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spans = append(s.spans, spans...)
	return nil
}
func (*sink) InsertQuality(context.Context, []usage.Quality, string) error        { return nil }
func (*sink) InsertOutcomes(context.Context, []usage.Outcome, string) error       { return nil }
func (*sink) InsertDeployments(context.Context, []usage.Deployment, string) error { return nil }
func (*sink) InsertContents(context.Context, []usage.Content, string) error       { return nil }
func (*sink) InsertTuples(context.Context, []usage.Tuple, string) error           { return nil }
func (s *sink) Watermark(context.Context, string, time.Time) error                { return nil }

// stored is what a copy of the spool holds, by the ids of calls.
func (g *gatewayProcess) stored() map[string]usage.Span {
	g.t.Helper()
	folder := filepath.Join(g.t.TempDir(), "spool")
	require.NoError(g.t, os.CopyFS(folder, os.DirFS(g.spool)))
	prices, err := book.Default()
	require.NoError(g.t, err)
	var into sink
	spool, err := ingest.Open(ingest.Options{Dir: folder, Sink: &into, Book: prices, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(g.t, err)
	ctx, stop := context.WithCancel(g.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- spool.Run(ctx) }()
	require.Eventually(g.t, func() bool { return spool.Stats().SpoolRows == 0 }, time.Minute, 5*time.Millisecond, "the spool is not read")
	stop()
	<-ended
	require.NoError(g.t, spool.Close())
	byID := map[string]usage.Span{}
	for _, s := range into.spans {
		id := s.TraceID + "-" + s.SpanID
		require.NotContains(g.t, byID, id, "a call is there twice")
		byID[id] = s
	}
	return byID
}

// TestSIGTERMLosesNoCall: streams finish or are cut at the end of the drain, new calls are refused, and every call has
// one span.
func TestSIGTERMLosesNoCall(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Key: upstreamSecret, OutputTokens: 100_000, Pace: 5 * time.Millisecond})
	g := startGateway(t, url)
	var ids []string
	for range 20 {
		ids = append(ids, g.whole())
	}
	var open []*http.Response
	begin := func(ctx context.Context, tokens int) {
		got, err := g.call(ctx, tokens, true)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, got.StatusCode)
		_, err = io.ReadFull(got.Body, make([]byte, 10))
		require.NoError(t, err)
		ids = append(ids, got.Header.Get("X-LLM-Request-Id"))
		open = append(open, got)
	}
	leaving, leave := context.WithCancel(t.Context())
	for range 5 {
		begin(leaving, 10_000)
	}
	for range 5 {
		begin(t.Context(), 200) // about a second
	}
	begin(t.Context(), 50_000) // longer than the drain
	leave()
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool {
		got, err := g.call(t.Context(), 3, false)
		if err != nil {
			return true // nobody listens
		}
		defer got.Body.Close()
		if got.StatusCode == http.StatusOK { // let in just before
			ids = append(ids, got.Header.Get("X-LLM-Request-Id"))
			return false
		}
		return got.StatusCode == http.StatusServiceUnavailable && got.Header.Get("Retry-After") != ""
	}, time.Minute, time.Millisecond, "calls are let in though the gateway stops")
	for i, got := range open {
		said, err := io.ReadAll(got.Body)
		_ = got.Body.Close()
		switch {
		case i < 5:
			require.ErrorIs(t, err, context.Canceled)
		case i < 10:
			require.NoError(t, err)
			require.Contains(t, string(said), "[DONE]", "a stream that had time was cut")
		default:
			require.NotContains(t, string(said), "[DONE]")
		}
	}
	require.NoError(t, g.end(), "SIGTERM is no failure")
	stored := g.stored()
	require.Len(t, stored, len(ids))
	cut := 0
	for _, id := range ids {
		require.Contains(t, stored, id)
		if !stored[id].UsageComplete {
			cut++
		}
	}
	require.Equal(t, 6, cut, "those that were left, and the one that took too long")
	require.Zero(t, upstream.InFlight())
}

// TestKillKeepsWhatWasAcknowledged: what was in the spool, or settled, is there after kill -9, once.
func TestKillKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	_, url := upstreamtest.Start(t, upstreamtest.Options{Key: upstreamSecret})
	g := startGateway(t, url)
	var ids []string
	for range 20 {
		ids = append(ids, g.whole())
	}
	require.Eventually(t, func() bool { return len(g.stored()) == len(ids) }, time.Minute, 50*time.Millisecond, "calls are not in the spool")
	ask := func(path, body string) map[string]any {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+path, strings.NewReader(body))
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer fly_ops")
		got, err := g.client.Do(r)
		require.NoError(t, err)
		defer got.Body.Close()
		var answer map[string]any
		require.NoError(t, json.NewDecoder(got.Body).Decode(&answer))
		require.Equal(t, http.StatusOK, got.StatusCode, answer)
		return answer
	}
	for n := range 20 {
		hold := ask("/v1/decide", fmt.Sprintf(`{"tenant_id":"org_a","trace_id":"t%d","span_id":"c","requested_model":"gpt-4o","provider":"openai","input_tokens":10,"max_output_tokens":10}`, n))
		ask("/v1/settle", fmt.Sprintf(`{"hold_id":%q,"tokens":{"prompt":10,"completion":5}}`, hold["hold_id"]))
		ids = append(ids, fmt.Sprintf("t%d-c", n))
	}
	require.NoError(t, g.cmd.Process.Kill())
	require.Error(t, g.end())
	stored := g.stored()
	require.Len(t, stored, len(ids))
	for _, id := range ids {
		require.Contains(t, stored, id)
	}
}

// TestHTTP2OnBothSides: streams pass over HTTP/2 as they come, and one that is left is ended upstream, its connection not.
func TestHTTP2OnBothSides(t *testing.T) {
	t.Parallel()
	upstream := upstreamtest.New(upstreamtest.Options{Key: upstreamSecret, OutputTokens: 100_000, Pace: 2 * time.Millisecond})
	var connections atomic.Int64
	protocols := make(chan string, 100)
	provider := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocols <- r.Proto
		upstream.ServeHTTP(w, r)
	}))
	provider.EnableHTTP2 = true
	provider.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			connections.Add(1)
		}
	}
	provider.StartTLS()
	t.Cleanup(func() { provider.CloseClientConnections(); provider.Close() })
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}), 0o600))
	g := startGateway(t, provider.URL, "SSL_CERT_FILE="+roots)
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	g.client = &http.Client{Transport: transport}

	whole, err := g.call(t.Context(), 50, true)
	require.NoError(t, err)
	require.Equal(t, "HTTP/2.0", whole.Proto)
	said, err := io.ReadAll(whole.Body)
	require.NoError(t, err)
	require.NoError(t, whole.Body.Close())
	require.Contains(t, string(said), "x-llm-cost-this-request")
	require.Contains(t, string(said), "[DONE]")

	// several at once, each as it comes, on one connection
	var ids []string
	ctx, leave := context.WithCancel(t.Context())
	for range 4 {
		got, err := g.call(ctx, 50_000, true)
		require.NoError(t, err)
		defer got.Body.Close()
		_, err = io.ReadFull(got.Body, make([]byte, 10))
		require.NoError(t, err)
		ids = append(ids, got.Header.Get("X-LLM-Request-Id"))
	}
	require.Equal(t, 4, upstream.InFlight())
	leave()
	require.Eventually(t, func() bool { return upstream.InFlight() == 0 }, time.Minute, 5*time.Millisecond, "the provider goes on for nobody")
	g.whole()
	require.EqualValues(t, 1, connections.Load(), "a stream that was left took its connection with it")
	for range 6 {
		require.Equal(t, "HTTP/2.0", <-protocols)
	}
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, g.end())
	stored := g.stored()
	require.Len(t, stored, 6)
	for id, s := range stored {
		require.Equal(t, !slices.Contains(ids, id), s.UsageComplete)
	}
}

// TestClientsThroughAProcess: the providers' own clients, and what they see.
func TestClientsThroughAProcess(t *testing.T) {
	t.Parallel()
	upstream, url := upstreamtest.Start(t, upstreamtest.Options{Key: upstreamSecret})
	g := startGateway(t, url)
	var raw *http.Response
	client := openai.NewClient(option.WithBaseURL(g.url+"/v1/"), option.WithAPIKey(gatewaySecret))
	ask := openai.ChatCompletionNewParams{Model: "gpt-4o", MaxCompletionTokens: openai.Int(50), Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Hello")}}
	said, err := client.Chat.Completions.New(t.Context(), ask, option.WithResponseInto(&raw))
	require.NoError(t, err)
	require.NotEmpty(t, said.Choices[0].Message.Content)
	for _, name := range []string{"X-LLM-Request-Id", "X-LLM-Route", "X-LLM-Model", "X-LLM-Cost-Estimate", "X-LLM-Cost-This-Request"} {
		require.NotEmpty(t, raw.Header.Get(name), name)
	}
	claude := anthropic.NewClient(anthropicoption.WithBaseURL(g.url), anthropicoption.WithAPIKey(gatewaySecret))
	stream := claude.Messages.NewStreaming(t.Context(), anthropic.MessageNewParams{
		Model: "claude-sonnet-4-5", MaxTokens: 50, Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Hello"))},
	})
	var all anthropic.Message
	for stream.Next() {
		require.NoError(t, all.Accumulate(stream.Current()))
	}
	require.NoError(t, stream.Err())
	require.NotEmpty(t, all.Content)

	// its own limit, and then none: the client waits as it is told, and asks again
	upstream.Fail(upstreamtest.Failure{Status: http.StatusTooManyRequests, RetryAfter: time.Millisecond})
	_, err = client.Chat.Completions.New(t.Context(), ask)
	require.NoError(t, err)
	other := openai.NewClient(option.WithBaseURL(g.url+"/v1/"), option.WithAPIKey("fly_nobody"))
	_, err = other.Chat.Completions.New(t.Context(), ask)
	var failed *openai.Error
	require.ErrorAs(t, err, &failed)
	require.Equal(t, http.StatusUnauthorized, failed.StatusCode)
	require.NoError(t, g.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, g.end())
	require.Len(t, g.stored(), 3)
}
