package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/router"
	"github.com/flyball-dev/flyball/internal/usage"
)

// meaning is a vector of 64 values of which the first says, among much else, whether a text is hard.
func meaning(text string) []float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(text))
	state, v := h.Sum64(), make([]float64, 64)
	for i := range v {
		state = state*6364136223846793005 + 1442695040888963407
		v[i] = float64(state>>40)/float64(1<<24) - 0.5
	}
	if strings.Contains(text, "hard") {
		v[0] += 2
	}
	return v
}

// embeddings is an endpoint's configuration. Tests may wait longer than calls do: machines are busy.
func embeddings(address string) config.Embeddings {
	return config.Embeddings{URL: address + "/v1", Model: "text-embedding-3-small", Dimensions: 32, KeyEnv: "K", Timeout: 20 * time.Second, AllowPrivate: true}
}

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func embedder(t *testing.T, c config.Embeddings) (*Embedder, *logged) {
	t.Helper()
	log := &logged{}
	e, err := NewEmbedder(c, func(name string) (string, bool) { return "sk-secret", name == "K" }, slog.New(slog.NewTextHandler(log, nil)))
	require.NoError(t, err)
	return e, log
}

func TestEmbedderSpeaksTheAPI(t *testing.T) {
	t.Parallel()
	upstream, address := upstreamtest.Start(t, upstreamtest.Options{Key: "sk-secret", Embed: meaning})
	e, log := embedder(t, embeddings(address))
	v, err := e.Vector("a hard puzzle")
	require.NoError(t, err)
	require.Len(t, v, 32)
	require.InDelta(t, meaning("a hard puzzle")[31], v[31], 1e-6)
	call := upstream.Calls()[0]
	require.Equal(t, "/v1/embeddings", call.Path)
	require.JSONEq(t, `{"input":["a hard puzzle"],"model":"text-embedding-3-small","dimensions":32,"encoding_format":"float"}`, string(call.Body))

	again, err := e.Vector("a hard puzzle")
	require.NoError(t, err)
	require.Equal(t, v, again)
	require.Len(t, upstream.Calls(), 1, "the last ones are remembered")

	var texts []string
	for i := range 2*embedBatch + 1 {
		texts = append(texts, fmt.Sprintf("number %d", i))
	}
	texts[5] = strings.Repeat("é", router.MaxText)[1:] // not UTF-8, and too long
	all, err := e.Vectors(t.Context(), texts)
	require.NoError(t, err)
	require.Len(t, upstream.Calls(), 4)
	for i, text := range texts {
		require.InDelta(t, meaning(embeddable(text))[7], all[i][7], 1e-6, i)
	}
	_, err = e.Vectors(t.Context(), []string{"fine", ""})
	require.ErrorIs(t, err, errEmbedText)
	require.Empty(t, log.String())
}

// answers is an endpoint that answers what it is told to.
type answers struct {
	asked atomic.Int64
	with  atomic.Pointer[http.HandlerFunc]
}

func (a *answers) start(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.asked.Add(1)
		(*a.with.Load())(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func (a *answers) say(status int, body string, header ...string) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
	a.with.Store(&h)
}

func TestEmbedderReadsByIndexAndRefusesTheRest(t *testing.T) {
	t.Parallel()
	a := &answers{}
	c := embeddings(a.start(t))
	c.Dimensions = 0
	a.say(200, `{"object":"list","data":[{"object":"embedding","index":1,"embedding":[2,3]},{"object":"embedding","index":0,"embedding":[0,1]}],"model":"m","usage":{"prompt_tokens":2,"total_tokens":2}}`)
	e, _ := embedder(t, c)
	all, err := e.Vectors(t.Context(), []string{"a", "b"})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{0, 1}, {2, 3}}, all)
	a.say(200, `{"data":[{"index":0,"embedding":[1,2,3]}]}`)
	_, err = e.Vector("c")
	require.ErrorContains(t, err, "set router.embeddings.dimensions")

	for body, want := range map[string]string{
		`{"data":[]}`: "0 embeddings of 1",
		`{"data":[{"index":0,"embedding":"AAAA"}]}`:                                                "floats",
		`{"data":[{"index":0,"embedding":[]}]}`:                                                    "0 values",
		`{"data":[{"index":1,"embedding":[1]}]}`:                                                   "data[0].index",
		`{"data":[{"embedding":[1]}]}`:                                                             "data[0].index",
		`{"data":[{"index":0,"embedding":[1,1e999]}]}`:                                             "floats",
		`{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}`:                       "data[1].index",
		strings.Repeat(" ", embedAround+router.MaxDimensions*embedNumber+1):                        "more than",
		`{"data":[{"index":0,"embedding":[` + strings.Repeat("1,", router.MaxDimensions) + `1]}]}`: "want 1 to",
	} {
		a.say(200, body)
		e, _ := embedder(t, c)
		_, err := e.Vector("a")
		require.ErrorContains(t, err, want)
	}
	a.say(302, "", "Location", "http://169.254.169.254/")
	_, err = e.Vector("d")
	require.ErrorContains(t, err, "redirects are not followed")
	c.Dimensions = 3
	a.say(200, `{"data":[{"index":0,"embedding":[1,2]}]}`)
	e, _ = embedder(t, c)
	_, err = e.Vector("a")
	require.ErrorContains(t, err, "dimensions are 3")
	c.AllowPrivate = false
	e, _ = embedder(t, c)
	_, err = e.Vector("a")
	require.ErrorIs(t, err, errPrivate)
}

// A text that is too long for the endpoint's model takes no other with it, and says nothing of the endpoint.
func TestEmbedderLeavesOutWhatIsRefused(t *testing.T) {
	t.Parallel()
	a := &answers{}
	c := embeddings(a.start(t))
	c.Dimensions = 0
	e, log := embedder(t, c)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ask embedAsk
		_ = json.NewDecoder(r.Body).Decode(&ask)
		if strings.Contains(strings.Join(ask.Input, " "), "long") {
			w.WriteHeader(400)
			_, _ = w.Write([]byte(`{"error":{"message":"This model's maximum context length is 512 tokens: long","type":"invalid_request_error","param":null,"code":null}}`))
			return
		}
		var entries []string
		for i := range ask.Input {
			entries = append(entries, fmt.Sprintf(`{"index":%d,"embedding":[%d]}`, i, len(ask.Input[i])))
		}
		fmt.Fprintf(w, `{"data":[%s]}`, strings.Join(entries, ","))
	})
	a.with.Store(&h)
	all, err := e.Vectors(t.Context(), []string{"a", "long", "ccc"})
	require.ErrorContains(t, err, "400 (invalid_request_error)")
	require.Equal(t, [][]float32{{1}, nil, {3}}, all)
	for range 2 * circuitFailures {
		_, err = e.Vector("long")
		require.ErrorContains(t, err, "400")
	}
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.NotContains(t, log.String(), "context length")
	before := a.asked.Load()
	_, err = e.Vectors(t.Context(), strings.Split(strings.Repeat("long,", 20)+"long", ","))
	require.Error(t, err)
	require.EqualValues(t, 1+embedRefused, a.asked.Load()-before, "one that refuses all is not asked about all")
}

// While the endpoint fails it is left alone, and callers do not wait for it; what is asked for behind them has a circuit of
// its own.
func TestEmbedderLeavesAFailingEndpointAlone(t *testing.T) {
	t.Parallel()
	a := &answers{}
	c := embeddings(a.start(t))
	c.Dimensions = 0
	e, log := embedder(t, c)
	var clock atomic.Int64
	e.now = func() time.Time { return trainedAt.Add(time.Duration(clock.Load())) }
	ask := func() error { _, err := e.Vector(fmt.Sprint(a.asked.Load(), clock.Load())); return err }
	a.say(500, `{"error":{"message":"sk-secret","type":"server_error","param":null,"code":null}}`)
	for range circuitFailures {
		require.ErrorContains(t, ask(), "500 (server_error)")
	}
	require.ErrorIs(t, ask(), errEmbedOpen)
	require.EqualValues(t, circuitFailures, a.asked.Load())
	clock.Add(int64(circuitFirst))
	require.ErrorContains(t, ask(), "500", "one is let through")
	require.ErrorIs(t, ask(), errEmbedOpen)
	clock.Add(int64(circuitFirst))
	require.ErrorIs(t, ask(), errEmbedOpen, "and the next one later")
	clock.Add(int64(circuitFirst))
	a.say(200, `{"data":[{"index":0,"embedding":[1]}]}`)
	require.NoError(t, ask())
	require.NoError(t, ask())
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "answers again"))
	require.NotContains(t, log.String(), "sk-secret")

	a.say(429, `{"error":{"message":"Rate limit reached","type":"requests","param":null,"code":"rate_limit_exceeded"}}`, "Retry-After", "20")
	require.ErrorContains(t, ask(), "429 (rate_limit_exceeded)")
	a.say(200, `{"data":[{"index":0,"embedding":[1]}]}`)
	require.ErrorIs(t, ask(), errEmbedOpen, "a wait that is asked for is kept from the first time on")
	_, err := e.Vectors(t.Context(), []string{"behind"})
	require.NoError(t, err)
	clock.Add(int64(20 * time.Second))
	require.NoError(t, ask())
	pages := prometheus.NewPedanticRegistry()
	pages.MustRegister(e)
	metrics := httptest.NewRecorder()
	promhttp.HandlerFor(pages, promhttp.HandlerOpts{}).ServeHTTP(metrics, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range []string{`{outcome="answered"} 3`, `{outcome="failed"} 5`, `{outcome="skipped"} 4`} {
		require.Contains(t, metrics.Body.String(), "flyball_router_embeddings_total"+line)
	}
}

// slow never answers.
type slow struct{}

func (slow) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// Nobody waits longer than the timeout, also who waits for others to be done.
func TestEmbedderBoundsTheWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := embeddings("https://api.example")
		c.Timeout = 150 * time.Millisecond
		e, _ := embedder(t, c)
		e.http = slow{}
		began := time.Now()
		var group sync.WaitGroup
		for i := range embedSlots + 10 {
			group.Go(func() {
				_, err := e.Vector(fmt.Sprint(i))
				require.Error(t, err)
				require.Equal(t, 150*time.Millisecond, time.Since(began))
			})
		}
		group.Wait()
		late, busy, skipped := e.counts[embedLate].Load(), e.counts[embedBusy].Load(), e.counts[embedSkipped].Load()
		require.EqualValues(t, embedSlots+10, late+busy+skipped)
		require.GreaterOrEqual(t, late, int64(embedSlots))
		_, err := e.Vector("another")
		require.ErrorIs(t, err, errEmbedOpen)
		require.Equal(t, 150*time.Millisecond, time.Since(began), "nobody waits for it now")
	})
}

// From calls to a version that predicts: what is kept of calls is what a version is trained from, and only a version of
// the same vectors predicts.
func TestPredictorsReadByEmbeddings(t *testing.T) {
	t.Parallel()
	upstream, address := upstreamtest.Start(t, upstreamtest.Options{Key: "sk-secret", Embed: meaning})
	store := &versions{salt: "s", artefacts: map[string][]byte{}}
	o := store.options(t)
	o.Embedder, _ = embedder(t, embeddings(address))
	p := NewPredictors(o)
	require.NoError(t, p.refresh(t.Context()))
	features, later := p.read("a hard puzzle")
	require.Nil(t, features)
	require.Equal(t, "a hard puzzle", later, "nobody waits for what is only to be kept")
	for i := range 200 {
		text := fmt.Sprintf("a soft puzzle of %d", i) // of the same shape
		if i%2 == 0 {
			text = fmt.Sprintf("a hard puzzle of %d", i)
		}
		p.record(usage.Tuple{SpanID: fmt.Sprint(i), RequestedModel: "big", Model: "big"}, text)
	}
	require.Empty(t, upstream.Calls())
	ended, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, p.Run(ended))
	require.Len(t, store.tuples, 200)

	var scored []router.Tuple
	for i, kept := range store.tuples {
		require.Equal(t, "embeddings-1:text-embedding-3-small/32", kept.Reading)
		x := router.Tuple{Prompt: string(kept.Features), Model: kept.Model, Score: float64(i % 2)}
		require.NoError(t, x.Features.UnmarshalBinary(kept.Features))
		scored = append(scored, x)
	}
	m, err := router.Train(scored, router.Training{Features: store.tuples[0].Reading, Seed: 1, At: trainedAt})
	require.NoError(t, err)
	require.Greater(t, *m.Heads[0].Metrics.AUC, 0.9)
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	store.artefacts[m.Version] = raw
	store.all = append(store.all, router.Version{Version: m.Version, State: router.InUse, Since: trainedAt})
	require.NoError(t, p.refresh(t.Context()))
	hard, version, known := p.Quality("org", "", "big", "a hard puzzle of 777")
	require.True(t, known)
	require.Equal(t, m.Version, version)
	easy, _, known := p.Quality("org", "", "big", "a soft puzzle of 778")
	require.True(t, known)
	require.Greater(t, easy, 0.5)
	require.Less(t, hard, 0.5)
	asked := len(upstream.Calls())
	_, _, known = p.Quality("org", "", "stranger", "whatever")
	require.False(t, known)
	require.Len(t, upstream.Calls(), asked, "nothing is asked where nothing is known of the model")
	upstream.Fail(upstreamtest.Failure{Status: 500})
	_, _, known = p.Quality("org", "", "big", "a soft puzzle of 779")
	require.False(t, known, "without a vector nothing is predicted")

	c := embeddings(address)
	c.Dimensions = 16
	o.Embedder, _ = embedder(t, c)
	other := NewPredictors(o)
	require.ErrorContains(t, other.refresh(t.Context()), "text-embedding-3-small/16: configure router.embeddings as it was then")
	_, _, known = other.Quality("org", "", "big", "a hard nut")
	require.False(t, known)
	o.Embedder = nil
	require.ErrorContains(t, NewPredictors(o).refresh(t.Context()), "configure router.embeddings as it was then")
}
