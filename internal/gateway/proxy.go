package gateway

import (
	"context"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// Treasury promises each call its worst cost of the budgets that it belongs to, and takes back what it did not cost.
type Treasury interface {
	Hold(ctx context.Context, c treasury.Call) (treasury.Promise, error)
	Settle(id string, cost usage.PicoUSD, durable time.Time) bool
}

// ProxyOptions is all that a Proxy needs beside a Gateway.
type ProxyOptions struct {
	Upstreams *Upstreams
	Gate      config.Gate
	Door      *ingest.Door
	// Accept makes telemetry durable.
	Accept   func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error
	Treasury Treasury
	// Listens says whether the texts of a call are of use, and AcceptCalls makes calls durable and hands on their texts; both
	// nil: nobody has a use for them.
	Listens     func(s *usage.Span) bool
	AcceptCalls func(ctx context.Context, spans []usage.Span, said []ingest.Said) error
	// Budgets are a tenant's, from memory; not known: they have never been read.
	Budgets func(tenant string) (budgets []budget.Budget, known bool)
	// Predictors keep what was known of calls; nil: nobody does.
	Predictors *Predictors
}

// Proxy passes calls of OpenAI's and Anthropic's APIs on to their providers, or to whoever speaks the same API: what
// policy does not change is byte for byte what the client sent, and what it is answered. Keep Run running beside it.
type Proxy struct {
	gate     *Gateway
	o        ProxyOptions
	recorder recorder
	recent   recent

	mu       sync.Mutex
	under    int // calls under way
	draining bool
	idle     chan struct{} // closed when the last call has ended and no other will come
}

// NewProxy returns a Proxy that decides by the gateway's snapshot.
func NewProxy(gate *Gateway, o ProxyOptions) *Proxy {
	if o.AcceptCalls == nil {
		o.AcceptCalls = func(ctx context.Context, spans []usage.Span, _ []ingest.Said) error { return o.Accept(ctx, spans, nil) }
	}
	return &Proxy{
		gate: gate, o: o, idle: make(chan struct{}),
		recorder: recorder{
			accept: o.AcceptCalls, now: gate.o.Now, log: gate.o.Logger, wake: make(chan struct{}, 1),
			settle: func(id string, cost usage.PicoUSD, durable time.Time) { o.Treasury.Settle(id, cost, durable) },
		},
	}
}

// Routes are the handlers by their patterns.
func (p *Proxy) Routes() map[string]http.Handler {
	routes := map[string]http.Handler{
		"GET /v1/models":         p.plain(wire.Models),
		"GET /v1/models/{id...}": p.plain(wire.Models),
		"GET /v1/requests/{id}":  http.HandlerFunc(p.request),
	}
	for pattern, api := range map[string]wire.API{
		"POST /v1/chat/completions": wire.Chat, "POST /v1/responses": wire.Responses,
		"POST /v1/embeddings": wire.Embeddings, "POST /v1/messages": wire.Messages,
	} {
		routes[pattern] = p.model(api)
	}
	routes["POST /v1/messages/count_tokens"] = p.plain(wire.CountTokens)
	return routes
}

// Run takes the telemetry of calls to the spool, that of an earlier run's calls first, and watches the upstreams'
// files. When ctx ends no further calls are let in, and Run returns when those under way have ended and all telemetry
// is durable: whoever serves the handlers ends them.
func (p *Proxy) Run(ctx context.Context, recovered []usage.Span) error {
	if len(recovered) > 0 {
		p.gate.o.Logger.WarnContext(ctx, "An earlier run of the gateway was cut off: calls that were under way count at their worst cost", "calls", len(recovered))
		p.recorder.add(recovered...)
	}
	recording, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var group errgroup.Group
	group.Go(func() error { p.recorder.run(recording); return nil })
	group.Go(func() error { p.o.Upstreams.watch(ctx); return nil })
	<-ctx.Done()
	p.drain()
	<-p.idle
	stop()
	err := group.Wait()
	p.o.Upstreams.close()
	return err
}

// drain lets no further calls in.
func (p *Proxy) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining = true; p.under == 0 {
		close(p.idle)
	}
}

// enter lets a call in, unless there are too many or the gateway is about to stop.
func (p *Proxy) enter() *refusal {
	full := p.recorder.full()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.draining:
		return refused(stopping, "the gateway is about to stop: try again, another one answers")
	case p.under >= p.o.Gate.MaxCalls:
		return refused(overloaded, "as many calls as the gateway takes at once are under way: try again").after(time.Second)
	case full:
		return refused(overloaded, "the gateway cannot store its telemetry for now, and makes no call that it could not account for: try again").after(5 * time.Second)
	}
	p.under++
	return nil
}

func (p *Proxy) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.under--; p.under == 0 && p.draining {
		close(p.idle)
	}
}

// request answers GET /v1/requests/{id}.
func (p *Proxy) request(w http.ResponseWriter, r *http.Request) {
	tenant, _, no := p.admit(r)
	if no != nil {
		no.write(w, wire.OpenAI, "")
		return
	}
	found, ok := p.recent.get(tenant, r.PathValue("id"))
	if !ok {
		refused(notFound, "no call with this id is remembered: it is under way still, long over, or another tenant's").write(w, wire.OpenAI, "")
		return
	}
	w.Header().Set("Cache-Control", "private, no-store")
	reply(w, http.StatusOK, found.view())
}
