package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/apitest"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is ten poll periods; only a failing test waits so long.
const patience = 10 * time.Second

var key = usage.Key{Tenant: "org_42", Model: "big"}

func route(share float64) routing.Flag {
	return routing.Flag{
		Key: key, Kind: routing.Route, Value: "small", Share: share, Reason: "cost", Decision: "d1",
		Sequence: routing.Sequence{Loop: 1, N: 1}, RenewedAt: time.Now().UTC(),
	}
}

// book prices big at 10 and 30 dollars per million tokens and small at a tenth of that.
func book(t testing.TB) *pricing.Book {
	b := pricing.NewBook("test")
	for model, rates := range map[string][2]string{"big": {"10", "30"}, "small": {"1", "3"}} {
		in, err := pricing.ParseRate(rates[0])
		require.NoError(t, err)
		out, err := pricing.ParseRate(rates[1])
		require.NoError(t, err)
		require.NoError(t, b.Add(pricing.Entry{Provider: "test", Model: model, Periods: []pricing.Period{{
			Services: map[string]pricing.Service{pricing.Standard: {Rates: pricing.Rates{Input: in, Output: out}}},
		}}}))
	}
	return b
}

func options(t testing.TB, flags gateway.Flags) gateway.Options {
	return gateway.Options{
		Flags: flags, Prices: book(t), SampleRate: func(usage.Key, string) (float64, string) { return 0, "none" },
		Logger: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

// run starts the gateway and stops it with the test.
func run(t *testing.T, o gateway.Options) http.Handler { return handlers(t, start(t, o)) }

func start(t *testing.T, o gateway.Options) *gateway.Gateway {
	g := gateway.New(o)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return g
}

// handlers are those of a gateway whose tenants have no budgets.
func handlers(t testing.TB, g *gateway.Gateway) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", g.Handler())
	external := gateway.NewExternal(g, externalOptions(t, newBank())).Handler()
	for _, path := range []string{"/v1/decide", "/v1/settle", "/v1/settle/response", "/v1/authz/"} {
		mux.Handle(path, external)
	}
	if test, ok := t.(*testing.T); ok {
		return apitest.Hold(test, mux)
	}
	return mux
}

func call(h http.Handler, method, target, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, local(httptest.NewRequest(method, target, strings.NewReader(body))))
	return w
}

// local makes a request one of a program on this machine.
func local(r *http.Request) *http.Request {
	r.RemoteAddr, r.Host = "127.0.0.1:1", "localhost"
	return r
}

const question = `{"tenant_id":"org_42","session_id":"s","trace_id":"t","requested_model":"big","input_tokens":1000,"max_output_tokens":100,"task":"support"}`

func decide(t require.TestingT, h http.Handler) map[string]any {
	w := call(h, "POST", "/v1/decide", question)
	require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	var answer map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	if stop, _ := answer["stop"].(bool); !stop {
		require.NotEmpty(t, answer["hold_id"])
	}
	delete(answer, "hold_id") // it is random
	return answer
}

func open(t *testing.T, mini *miniredis.Miniredis) *redis.Client {
	c := redis.Open(redis.Options{Addr: mini.Addr(), Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func eventually(t *testing.T, why string, holds func() bool) {
	t.Helper()
	require.Eventually(t, holds, patience, 5*time.Millisecond, why)
}

func TestFlagsAreObeyed(t *testing.T) {
	mini := miniredis.RunT(t)
	store := open(t, mini)
	h := run(t, options(t, store))

	require.Equal(t, map[string]any{
		"model": "big", "route": "direct", "reason": "no flag is on for this key", "arm": "none", "share": 0.0,
		"stop": false, "estimated_cost_usd": 0.013,
	}, decide(t, h))

	_, _, err := store.Apply(t.Context(), route(1))
	require.NoError(t, err)
	eventually(t, "the flag is not obeyed", func() bool { return decide(t, h)["model"] == "small" })
	require.Equal(t, map[string]any{
		"model": "small", "route": "route", "reason": "cost", "arm": "treated", "share": 1.0, "decision_id": "d1",
		"stop": false, "estimated_cost_usd": 0.0013,
	}, decide(t, h))
	w := call(h, "POST", "/v1/decide", question)
	require.Equal(t, "route", w.Header().Get("X-LLM-Route"))
	require.Equal(t, "0.0013", w.Header().Get("X-LLM-Cost-Estimate"))
	require.Empty(t, w.Header().Get("X-LLM-Flags-Stale-Ms"))

	stop := route(1)
	stop.Kind, stop.Value = routing.Stop, ""
	_, _, err = store.Apply(t.Context(), stop)
	require.NoError(t, err)
	eventually(t, "the stop is not obeyed", func() bool { return decide(t, h)["stop"] == true })
	require.NotContains(t, decide(t, h), "estimated_cost_usd", "a call that is not made costs nothing")

	for _, kind := range []routing.Kind{routing.Stop, routing.Route} {
		_, err = store.Release(t.Context(), key, kind, routing.Sequence{Loop: 1, N: 2})
		require.NoError(t, err)
	}
	eventually(t, "the release is not obeyed", func() bool { return decide(t, h)["arm"] == "none" })
}

// TestPollFindsWhatPubSubMissed changes the store without any notice of it.
func TestPollFindsWhatPubSubMissed(t *testing.T) {
	mini := miniredis.RunT(t)
	store := open(t, mini)
	_, _, err := store.Apply(t.Context(), route(0))
	require.NoError(t, err)
	h := run(t, options(t, store))
	eventually(t, "the flag is not obeyed", func() bool { return decide(t, h)["arm"] == "holdback" })

	changed, err := json.Marshal(route(1))
	require.NoError(t, err)
	require.NoError(t, mini.Set("flyball:flag:{org_42}:big:route", string(changed)))
	_, err = mini.Incr("flyball:flags:version", 1)
	require.NoError(t, err)
	eventually(t, "the poll did not see the new version", func() bool { return decide(t, h)["arm"] == "treated" })
}

func TestRedisAwayKeepsTheLastSnapshot(t *testing.T) {
	mini := miniredis.RunT(t)
	store := open(t, mini)
	_, _, err := store.Apply(t.Context(), route(1))
	require.NoError(t, err)
	h := run(t, options(t, store))
	eventually(t, "the flag is not obeyed", func() bool { return decide(t, h)["arm"] == "treated" })

	mini.Close()
	eventually(t, "no answer says that it is stale", func() bool {
		return call(h, "POST", "/v1/decide", question).Header().Get("X-LLM-Flags-Stale-Ms") != ""
	})
	require.Equal(t, "treated", decide(t, h)["arm"])
	require.Greater(t, status(t, h).StaleMS, int64(0))

	require.NoError(t, mini.Restart())
	eventually(t, "the gateway did not find Redis again", func() bool {
		return call(h, "POST", "/v1/decide", question).Header().Get("X-LLM-Flags-Stale-Ms") == ""
	})
	require.Equal(t, "treated", decide(t, h)["arm"])
}

func TestWipedRedisDropsTheFlags(t *testing.T) {
	mini := miniredis.RunT(t)
	store := open(t, mini)
	_, _, err := store.Apply(t.Context(), route(1))
	require.NoError(t, err)
	h := run(t, options(t, store))
	eventually(t, "the flag is not obeyed", func() bool { return decide(t, h)["arm"] == "treated" })
	before := status(t, h)
	require.Len(t, before.Flags, 1)
	require.Equal(t, key, before.Flags[0].Key)

	mini.FlushAll()
	eventually(t, "a wiped Redis's flags are obeyed still", func() bool { return decide(t, h)["arm"] == "none" })
	after := status(t, h)
	require.Empty(t, after.Flags)
	require.NotEqual(t, before.Epoch, after.Epoch)
}

type flagsBody struct {
	Epoch   string
	Version int64
	StaleMS int64 `json:"stale_ms"`
	Flags   []routing.Flag
}

func status(t *testing.T, h http.Handler) flagsBody {
	w := call(h, "GET", "/v1/flags", "")
	require.Equal(t, http.StatusOK, w.Code)
	var body flagsBody
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
	require.NotNil(t, body.Flags, "no flags are an empty list")
	return body
}

// fixed is a store whose flags the test sets; a hung one answers when the caller's patience ends.
type fixed struct {
	mu    sync.Mutex
	flags []routing.Flag
	hung  bool
	reads int
}

func (f *fixed) set(hung bool, flags ...routing.Flag) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hung, f.flags = hung, flags
}

func (f *fixed) readCount() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func (f *fixed) Revision(ctx context.Context) (routing.Revision, error) {
	f.mu.Lock()
	hung := f.hung
	f.mu.Unlock()
	if hung {
		<-ctx.Done()
		return routing.Revision{}, ctx.Err()
	}
	return routing.Revision{Epoch: "e", Version: 1}, nil
}

func (f *fixed) Flags(ctx context.Context) ([]routing.Flag, routing.Revision, error) {
	revision, err := f.Revision(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	return f.flags, revision, err
}

func (f *fixed) Subscribe(context.Context, func()) error { return errors.New("no subscriptions here") }

// TestPace runs on a simulated clock: without notices an unannounced change is found by the slow
// re-read, and a hung store neither delays an answer nor stops the loop.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &fixed{}
		h := run(t, options(t, store))
		synctest.Wait()
		require.Equal(t, 1, store.readCount())
		store.set(false, route(1))
		time.Sleep(20 * time.Second)
		require.Equal(t, "none", decide(t, h)["arm"], "the flags were read though their revision stood still")
		time.Sleep(11 * time.Second)
		require.Equal(t, "treated", decide(t, h)["arm"])
		require.Equal(t, 2, store.readCount())

		store.set(true)
		time.Sleep(time.Minute)
		w := call(h, "POST", "/v1/decide", question)
		require.Equal(t, http.StatusOK, w.Code)
		stale, err := strconv.Atoi(w.Header().Get("X-LLM-Flags-Stale-Ms"))
		require.NoError(t, err)
		require.Greater(t, stale, 55_000)

		time.Sleep(routing.TTL)
		require.Equal(t, "none", decide(t, h)["arm"], "an order is obeyed though its owner is silent for long")
		require.Empty(t, status(t, h).Flags)

		store.set(false)
		time.Sleep(5 * time.Second)
		require.Empty(t, call(h, "POST", "/v1/decide", question).Header().Get("X-LLM-Flags-Stale-Ms"))
	})
}

func TestSampling(t *testing.T) {
	o := options(t, &fixed{flags: []routing.Flag{route(0.1)}})
	raised := route(0)
	raised.Kind, raised.Key.Model, raised.Value, raised.Share = routing.Sampling, "watched", "", 1
	o.Flags = &fixed{flags: []routing.Flag{route(0.1), raised}}
	now := time.Now().UTC()
	o.Now = func() time.Time { return now }
	o.SampleRate = func(k usage.Key, task string) (float64, string) {
		if k.Model == "valued" || task == "triage" {
			return 1, "high-value"
		}
		return 0, "batch"
	}
	h := run(t, o)
	eventually(t, "the flag is not obeyed", func() bool { return decide(t, h)["arm"] != "none" })
	until := now.Add(10 * time.Second).Format(time.RFC3339Nano)
	for target, want := range map[string]string{
		"/v1/sampling?tenant=org_42&model=other&trace_id=t":             `{"sampled":false,"rate":0,"reason":"batch"`,
		"/v1/sampling?tenant=org_42&model=other&trace_id=t&task=triage": `{"sampled":true,"rate":1,"reason":"high-value"`,
		"/v1/sampling?tenant=org_42&model=valued&trace_id=t":            `{"sampled":true,"rate":1,"reason":"high-value"`,
		"/v1/sampling?tenant=org_42&model=big&trace_id=t":               `{"sampled":true,"rate":1,"reason":"flag: route"`,
		"/v1/sampling?tenant=org_42&model=watched&trace_id=t":           `{"sampled":true,"rate":1,"reason":"flag: sampling"`,
	} {
		w := call(h, "GET", target, "")
		require.Equal(t, http.StatusOK, w.Code)
		require.JSONEq(t, want+`,"valid_until":"`+until+`"}`, w.Body.String(), target)
		require.Equal(t, "private, max-age=10", w.Header().Get("Cache-Control"))
	}
	w := call(h, "GET", "/v1/sampling?tenant=org_42&model=big", "")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.JSONEq(t, `{"error":{"code":"bad_request","message":"trace_id is missing"}}`, w.Body.String())
}

func TestRefusals(t *testing.T) {
	h := handlers(t, gateway.New(options(t, &fixed{})))
	for _, tt := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"empty", ``, 400, "the body is empty"},
		{"not JSON", `tenant`, 400, "not the JSON object expected"},
		{"two objects", question + question, 400, "more than one JSON object"},
		{"unknown field", `{"sesion_id":"s"}`, 400, `unknown field \"sesion_id\"`},
		{"wrong type", `{"input_tokens":"many"}`, 400, "input_tokens"},
		{"no tenant", `{"trace_id":"t","requested_model":"m"}`, 400, "tenant_id is missing"},
		{"no trace", `{"tenant_id":"t","requested_model":"m"}`, 400, "trace_id is missing"},
		{"no model", `{"tenant_id":"t","trace_id":"t"}`, 400, "requested_model is missing"},
		{"negative", `{"tenant_id":"t","trace_id":"t","requested_model":"m","input_tokens":-1}`, 400, "input_tokens is -1"},
		{"absurd", `{"tenant_id":"t","trace_id":"t","requested_model":"m","max_output_tokens":9999999999}`, 400, "max_output_tokens is 9999999999"},
		{"long name", `{"tenant_id":"t","trace_id":"` + strings.Repeat("x", 257) + `","requested_model":"m"}`, 400, "trace_id is 257 bytes long"},
		{"large", `{"task":"` + strings.Repeat("x", 70_000) + `"}`, 413, "larger than 65536 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := call(h, "POST", "/v1/decide", tt.body)
			require.Equal(t, tt.status, w.Code)
			require.Contains(t, w.Body.String(), tt.says)
			require.True(t, json.Valid(w.Body.Bytes()))
		})
	}
	require.Equal(t, http.StatusMethodNotAllowed, call(h, "GET", "/v1/decide", "").Code)
}

func TestModelWithoutPriceHasNoEstimate(t *testing.T) {
	h := handlers(t, gateway.New(options(t, &fixed{})))
	w := call(h, "POST", "/v1/decide", strings.Replace(question, `"big"`, `"novel"`, 1))
	require.Equal(t, http.StatusOK, w.Code)
	require.NotContains(t, w.Body.String(), "estimated_cost_usd")
	require.Empty(t, w.Header().Get("X-LLM-Cost-Estimate"))
}

// BenchmarkDecide is the handler without the network, over 10,000 flags.
func BenchmarkDecide(b *testing.B) {
	store := &fixed{}
	for i := range 10_000 {
		f := route(0.5)
		f.Key.Tenant = "org_" + strconv.Itoa(i)
		store.flags = append(store.flags, f)
	}
	g := gateway.New(options(b, store))
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	h := handlers(b, g)
	for call(h, "GET", "/v1/flags", "").Body.Len() < 1000 {
		time.Sleep(time.Millisecond)
	}
	body := strings.NewReader(question)
	r := local(httptest.NewRequest("POST", "/v1/decide", nil))
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	took := make([]time.Duration, 0, 1<<20)
	for b.Loop() {
		body.Reset(question)
		r.Body = io.NopCloser(body)
		began := time.Now()
		h.ServeHTTP(w, r)
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
	require.Equal(b, http.StatusOK, w.status)
	require.NotEmpty(b, w.header.Get("X-LLM-Cost-Estimate"))
	stop()
	require.NoError(b, <-ended)
}

// discard is a response writer that costs nothing.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(status int)      { d.status = status }
