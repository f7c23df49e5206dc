// Package upstreamtest is a provider for tests: a server that speaks OpenAI's and Anthropic's APIs as they do, refuses
// what they refuse, fails on demand, and knows what it really spent on every call.
package upstreamtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Options is how a provider behaves. The zero value answers every call with 16 tokens at once.
type Options struct {
	Key             string                      // the only key that it takes; empty: any
	Models          []string                    // that there are; empty: any
	OutputTokens    int                         // that each answer would have without a cap; 0: 16
	ReasoningTokens int                         // that come before, unseen, and are billed as output
	CachedTokens    int                         // of the input, at the most, that come from a cache
	BytesPerToken   int                         // of text; 0: 4. With 1 every byte is a token: the dearest that a tokenizer may be
	Pace            time.Duration               // of each token
	CallTools       bool                        // answers call the first tool that the call describes
	Embed           func(text string) []float64 // the vector of a text, cut to the dimensions that are asked for; nil: always the same
	Constant        bool                        // answers are the same 2 KiB always, or OutputTokens when streamed, made once and sent at once: for benchmarks
}

// Spend is what calls really cost, in tokens.
type Spend struct {
	Calls  int64
	Input  int64
	Output int64
}

// Call is one call as the provider saw it. Input is spent as soon as a call is taken; Output grows until the call is
// answered or the provider notices that its client is gone.
type Call struct {
	Path      string
	Header    http.Header
	Body      []byte
	Key       string
	Model     string
	Stream    bool
	RequestID string
	Status    int
	Input     int64 // cached tokens among them
	Cached    int64
	Output    int64 // reasoning among it
	Whole     bool  // the answer was written to its end
}

// Upstream is the provider. Serve it with httptest, or by any other server.
type Upstream struct {
	o   Options
	mux *http.ServeMux

	ids      atomic.Int64
	inFlight atomic.Int64
	calls    atomic.Int64
	input    atomic.Int64
	output   atomic.Int64

	mu       sync.Mutex
	kept     []*Call
	failures []Failure

	constants sync.Map // of constantKey to *constant
}

// New returns a provider.
func New(o Options) *Upstream {
	o.OutputTokens = orDefault(o.OutputTokens, 16)
	o.BytesPerToken = orDefault(o.BytesPerToken, 4)
	u := &Upstream{o: o, mux: http.NewServeMux()}
	u.mux.HandleFunc("POST /v1/chat/completions", u.openAI(u.chat))
	u.mux.HandleFunc("POST /v1/responses", u.openAI(u.responses))
	u.mux.HandleFunc("POST /v1/embeddings", u.openAI(u.embeddings))
	u.mux.HandleFunc("POST /v1/messages", u.anthropic(u.messages))
	u.mux.HandleFunc("POST /v1/messages/count_tokens", u.anthropic(u.countTokens))
	u.mux.HandleFunc("GET /v1/models", u.models)
	u.mux.HandleFunc("GET /v1/models/{id}", u.models)
	return u
}

func orDefault(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// Start serves a provider for as long as a test runs, and returns its URL too.
func Start(t testing.TB, o Options) (*Upstream, string) {
	t.Helper()
	u := New(o)
	server := httptest.NewServer(u)
	t.Cleanup(func() {
		server.CloseClientConnections() // a call that hangs would be waited for
		server.Close()
	})
	return u, server.URL
}

// ServeHTTP answers a call.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.inFlight.Add(1)
	defer u.inFlight.Add(-1)
	if u.o.Constant && r.Method == http.MethodPost {
		u.constant(w, r)
		return
	}
	u.mux.ServeHTTP(w, r)
}

// InFlight is how many calls are not over yet. What they spend is final at zero.
func (u *Upstream) InFlight() int { return int(u.inFlight.Load()) }

// Spend is what all calls cost so far.
func (u *Upstream) Spend() Spend {
	return Spend{Calls: u.calls.Load(), Input: u.input.Load(), Output: u.output.Load()}
}

// Calls are copies of all calls so far, oldest first, refused ones too. A provider with constant answers keeps none.
func (u *Upstream) Calls() []Call {
	u.mu.Lock()
	defer u.mu.Unlock()
	calls := make([]Call, len(u.kept))
	for i, c := range u.kept {
		calls[i] = *c
	}
	return calls
}

// Fail lets the next calls that would be answered fail, one after another.
func (u *Upstream) Fail(failures ...Failure) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.failures = append(u.failures, failures...)
}

func (u *Upstream) nextFailure(header http.Header) Failure {
	if text := header.Get(FailureHeader); text != "" {
		return parseFailure(text)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.failures) == 0 {
		return Failure{}
	}
	next := u.failures[0]
	u.failures = slices.Delete(u.failures, 0, 1)
	return next
}

// id makes ids that look like a provider's and come in the same order on every run.
func (u *Upstream) id(prefix string) string { return fmt.Sprintf("%s%022d", prefix, u.ids.Add(1)) }

func (u *Upstream) knows(model string) bool {
	return len(u.o.Models) == 0 || slices.Contains(u.o.Models, model)
}
