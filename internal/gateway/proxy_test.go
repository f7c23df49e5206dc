package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/apitest"
	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing"
	pricebook "github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The secrets of tests. None of the upstream's may reach a client, none of the clients' an upstream, and no log any.
const (
	upstreamKey = "sk-upstream-secret"
	keyA        = "fly_virtual-secret-a"
	keyB        = "fly_virtual-secret-b"
)

// rig is a gateway between clients and a provider, over real sockets.
type rig struct {
	t        *testing.T
	upstream *upstreamtest.Upstream
	url      string
	gate     *gateway.Gateway
	proxy    *gateway.Proxy
	bank     *scripted
	server   *httptest.Server
	stop     context.CancelFunc // of the gateway
	ended    chan error

	mu    sync.Mutex
	spans []usage.Span
	fails int // so many times the spool takes nothing
	log   bytes.Buffer
}

// setup is what a test may change of a rig.
type setup struct {
	config.Gate
	gateway.ProxyOptions
	gate   gateway.Options
	tokens []ingest.Token
	loose  bool // not held to the OpenAPI file, which would be most of what is measured
}

func (r *rig) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(p)
}

func (r *rig) accept(_ context.Context, spans []usage.Span, _ []usage.Quality) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fails > 0 {
		r.fails--
		return io.ErrShortWrite
	}
	r.spans = append(r.spans, spans...)
	return nil
}

func (r *rig) durable() []usage.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]usage.Span(nil), r.spans...)
}

// span waits for the telemetry of the n-th call.
func (r *rig) span(n int) usage.Span {
	r.t.Helper()
	eventually(r.t, "the telemetry of a call did not come", func() bool { return len(r.durable()) >= n })
	return r.durable()[n-1]
}

func upstreamOf(name, family, url string) config.Upstream {
	return config.Upstream{Name: name, Family: family, URL: url + "/v1", KeyEnv: "KEY", AllowPrivate: true}
}

func environment(name string) (string, bool) { return upstreamKey, name == "KEY" }

// newRig starts a provider and a gateway before it.
func newRig(t *testing.T, o upstreamtest.Options, change func(*setup)) *rig {
	r := &rig{t: t, ended: make(chan error, 1), bank: &scripted{}}
	o.Key = upstreamKey
	r.upstream, r.url = upstreamtest.Start(t, o)
	prices, err := pricebook.Default()
	require.NoError(t, err)
	s := setup{Gate: config.Default().Gateway, gate: options(t, &fixed{}), tokens: []ingest.Token{
		{Name: "a", Hashes: []string{ingest.HashToken(keyA)}, Tenant: "org_a", Scopes: []ingest.Scope{ingest.ScopeCalls}},
		{Name: "b", Hashes: []string{ingest.HashToken(keyB)}, Tenant: "org_b", Scopes: []ingest.Scope{ingest.ScopeCalls}},
	}}
	s.gate.Prices, s.gate.Logger = prices, slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s.Gate.Upstreams = []config.Upstream{upstreamOf("openai", "openai", r.url), upstreamOf("anthropic", "anthropic", r.url)}
	s.Accept, s.Treasury = r.accept, r.bank
	s.Budgets = func(string) ([]budget.Budget, bool) { return r.bank.budgets, true }
	if change != nil {
		change(&s)
	}
	door, err := ingest.NewDoor(s.tokens)
	require.NoError(t, err)
	upstreams, err := gateway.OpenUpstreams(s.Gate, environment, s.gate.Logger)
	require.NoError(t, err)
	s.ProxyOptions.Upstreams, s.ProxyOptions.Gate, s.Door = upstreams, s.Gate, door
	r.gate = gateway.New(s.gate)
	r.proxy = gateway.NewProxy(r.gate, s.ProxyOptions)
	mux := http.NewServeMux()
	for pattern, handler := range r.proxy.Routes() {
		mux.Handle(pattern, handler)
	}
	var handler http.Handler = mux
	if !s.loose {
		handler = apitest.Hold(t, mux)
	}
	r.server = httptest.NewUnstartedServer(handler)
	r.server.Config.MaxHeaderBytes = s.MaxHeader
	r.server.Start()
	r.run()
	return r
}

func (r *rig) run() {
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	flags := make(chan error, 1)
	go func() { flags <- r.gate.Run(ctx) }()
	go func() { r.ended <- r.proxy.Run(ctx, nil) }()
	r.t.Cleanup(func() {
		r.stop()
		r.server.CloseClientConnections()
		require.NoError(r.t, <-r.ended)
		require.NoError(r.t, <-flags)
		r.server.Close()
		r.secrets()
	})
}

// secrets checks where they must not be.
func (r *rig) secrets() {
	r.mu.Lock()
	log := r.log.String()
	r.mu.Unlock()
	for _, secret := range []string{upstreamKey, keyA, keyB} {
		require.NotContains(r.t, log, secret)
	}
	for _, call := range r.upstream.Calls() {
		seen := call.Path + string(call.Body)
		for name, values := range call.Header {
			seen += name + strings.Join(values, "\n")
		}
		require.NotContains(r.t, seen, keyA)
		require.NotContains(r.t, seen, keyB)
		require.NotContains(r.t, seen, "X-Llm-")
	}
}

// scripted is a treasury that promises everything, or what the test says.
type scripted struct {
	mu      sync.Mutex
	budgets []budget.Budget
	answer  func(treasury.Call) (treasury.Promise, error)
	held    []treasury.Call
	settled map[string]usage.PicoUSD
}

func (b *scripted) Hold(_ context.Context, c treasury.Call) (treasury.Promise, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = append(b.held, c)
	if b.answer != nil {
		return b.answer(c)
	}
	return treasury.Promise{ID: c.ID, Most: c.Most}, nil
}

func (b *scripted) Settle(id string, cost usage.PicoUSD, _ time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settled == nil {
		b.settled = map[string]usage.PicoUSD{}
	}
	b.settled[id] = cost
	return true
}

func (b *scripted) cost(id string) (usage.PicoUSD, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	cost, ok := b.settled[id]
	return cost, ok
}

// answer is what a client got.
type answer struct {
	*http.Response
	body string
}

// post sends a call as the key's owner, and reads the whole answer.
func (r *rig) post(key, path, body string, header ...string) answer {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodPost, r.server.URL+path, strings.NewReader(body))
	require.NoError(r.t, err)
	return r.do(key, request, header...)
}

func (r *rig) get(key, path string, header ...string) answer {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, r.server.URL+path, nil)
	require.NoError(r.t, err)
	return r.do(key, request, header...)
}

func (r *rig) do(key string, request *http.Request, header ...string) answer {
	r.t.Helper()
	request.Header.Set("Content-Type", "application/json")
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header[header[i]] = []string{header[i+1]}
	}
	got, err := r.server.Client().Do(request)
	require.NoError(r.t, err)
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	require.NoError(r.t, err)
	for name, values := range got.Header {
		require.NotContains(r.t, name+strings.Join(values, "\n"), upstreamKey)
	}
	require.NotContains(r.t, string(body), upstreamKey)
	return answer{got, string(body)}
}

const (
	chat     = `{"model":"gpt-4o","messages":[{"role":"user","content":"Tell me about governors."}],"max_completion_tokens":100}`
	messages = `{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[{"role":"user","content":"Tell me about governors."}]}`
	streamed = `{"stream":true, "model":"gpt-4o","messages":[{"role":"user","content":"Tell me about governors."}],"max_completion_tokens":100}`
)

func (r *rig) openAI(o ...option.RequestOption) *openai.Client {
	client := openai.NewClient(append([]option.RequestOption{option.WithBaseURL(r.server.URL + "/v1/"), option.WithAPIKey(keyA), option.WithMaxRetries(0)}, o...)...)
	return &client
}

func (r *rig) claude(o ...anthropicoption.RequestOption) *anthropic.Client {
	client := anthropic.NewClient(append([]anthropicoption.RequestOption{anthropicoption.WithBaseURL(r.server.URL), anthropicoption.WithAPIKey(keyB), anthropicoption.WithMaxRetries(0)}, o...)...)
	return &client
}

// TestWhatComesAndGoesIsWhatWasSent: byte for byte, but for what policy changes.
func TestWhatComesAndGoesIsWhatWasSent(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{CachedTokens: 3}, nil)
	odd := "{ \"messages\" : [{\"content\":\"Ünï \\u0041\",\"role\":\"user\"}],\n\t\"temperature\":0.10, \"model\":\"gpt-4o\", \"x\":[1,{\"y\":null}],\"max_tokens\":9}"
	got := r.post(keyA, "/v1/chat/completions?beta=1", odd, "X-Custom", "kept", "Cookie", "a=b", "Openai-Organization", "org-client",
		"X-Llm-Session", "s1", "X-Llm-Task", "support", "X-Llm-Template", "v3", "X-Llm-Tags", "team=search, cost-center=cc-7",
		"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	require.Equal(t, http.StatusOK, got.StatusCode, got.body)
	seen := r.upstream.Calls()[0]
	require.Equal(t, odd, string(seen.Body))
	require.Equal(t, upstreamKey, seen.Key)
	require.Equal(t, "kept", seen.Header.Get("X-Custom"))
	require.Equal(t, "identity", seen.Header.Get("Accept-Encoding"))
	for _, gone := range []string{"Cookie", "Openai-Organization", "X-Forwarded-For"} {
		require.Empty(t, seen.Header.Get(gone), gone)
	}

	span := r.span(1)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", span.TraceID)
	require.Equal(t, "org_a", span.TenantID)
	require.Equal(t, []string{"s1", "support", "v3", "openai", "gpt-4o", "direct"}, []string{span.SessionID, span.Task, span.PromptTemplate, span.Provider, span.RequestedModel, span.Route})
	require.Equal(t, map[string]string{"team": "search", "cost-center": "cc-7", usage.TagVirtualKey: "a"}, span.Tags)
	require.True(t, span.UsageComplete && span.Priced)
	require.Equal(t, usage.Tokens{UncachedInput: seen.Input - seen.Cached, CacheRead: seen.Cached, Output: seen.Output}, span.Tokens)

	id := span.TraceID + "-" + span.SpanID
	for name, want := range map[string]string{
		"X-LLM-Request-Id": id, "X-LLM-Route": "direct", "X-LLM-Model": "gpt-4o", "X-Request-Id": seen.RequestID,
		"X-LLM-Cost-This-Request": dollars(span.Cost), "Content-Type": "application/json",
	} {
		require.Equal(t, want, got.Header.Get(name), name)
	}
	require.NotEmpty(t, got.Header.Get("X-LLM-Cost-Estimate"))
	eventually(t, "the promise is not settled", func() bool { cost, ok := r.bank.cost(span.TraceID + "/" + span.SpanID); return ok && cost == span.Cost })

	var said gateway.Recent
	own := r.get(keyA, "/v1/requests/"+id)
	require.NoError(t, json.Unmarshal([]byte(own.body), &said))
	require.Equal(t, dollars(span.Cost), said.Cost)
	require.Equal(t, "complete", said.State)
	require.Equal(t, span.Tokens, said.Usage)
	require.Equal(t, http.StatusNotFound, r.get(keyB, "/v1/requests/"+id).StatusCode, "another tenant's call")
	require.Equal(t, http.StatusUnauthorized, r.get("", "/v1/requests/"+id).StatusCode)
}

func dollars(p usage.PicoUSD) string { return pricing.Format(p) }

// TestStreams: the answer is the provider's byte for byte but for the cost, and for usage that the client did not ask
// for.
func TestStreams(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, nil)
	direct, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/chat/completions", strings.NewReader(streamed))
	require.NoError(t, err)
	direct.Header.Set("Authorization", "Bearer "+upstreamKey)
	plain, err := http.DefaultTransport.RoundTrip(direct)
	require.NoError(t, err)
	want, err := io.ReadAll(plain.Body)
	require.NoError(t, plain.Body.Close())
	require.NoError(t, err)

	got := r.post(keyA, "/v1/chat/completions", streamed)
	span := r.span(1)
	comment := ": x-llm-cost-this-request " + dollars(span.Cost) + "\n"
	require.Contains(t, got.body, comment+"data: [DONE]")
	require.Contains(t, string(r.upstream.Calls()[1].Body), `"include_usage":true`)
	require.True(t, span.UsageComplete)
	require.EqualValues(t, 16, span.Tokens.Output)
	require.Equal(t, withoutIDs(string(want)), withoutIDs(strings.ReplaceAll(got.body, comment, "")))

	asked := r.post(keyA, "/v1/chat/completions", strings.Replace(streamed, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1))
	require.Contains(t, asked.body, `"usage":{`)
	require.NotContains(t, got.body, `"usage":{`)

	r.post(keyB, "/v1/messages", strings.Replace(messages, "{", `{"stream":true,`, 1), "Anthropic-Version", "2023-06-01")
	own := r.span(3)
	require.Equal(t, "anthropic", own.Provider)
	require.True(t, own.UsageComplete && own.Priced)
	require.EqualValues(t, 16, own.Tokens.Output)
}

// withoutIDs takes out what differs between two answers: their ids, and the usage that is null but where it is asked for.
func withoutIDs(stream string) string {
	var lines []string
	for line := range strings.Lines(stream) {
		if _, rest, ok := strings.Cut(line, `"id":"`); ok {
			_, line, _ = strings.Cut(rest, `"`)
		}
		lines = append(lines, strings.ReplaceAll(line, `,"usage":null`, ""))
	}
	return strings.Join(lines, "")
}
