package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/complexity"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// openSpool opens the spool of a gateway that takes in no telemetry but its own. It needs nobody to be there.
func (s *system) openSpool() (err error) {
	if s.store == nil {
		if s.store, err = clickhouse.New(storeOptions(s.config.ClickHouse, s.log)); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	s.scores = complexity.New(s.store, s.log, time.Now)
	options := ingest.Options{
		Dir: filepath.Clean(s.config.Spool), Sink: s.store, Book: s.book, Logger: s.log, Door: s.door, Complexity: s.scores.Of,
	}
	s.hear(&options)
	s.ingest, err = ingest.Open(options)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	return nil
}

// openGateway makes the gateway and what passes calls through it. The spool must be open.
func (s *system) openGateway() (*gateway.Gateway, error) {
	upstreams, err := gateway.OpenUpstreams(s.config.Gateway, os.LookupEnv, s.log)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	home := filepath.Join(filepath.Clean(s.config.Spool), "treasury")
	if s.budgets, err = treasury.NewRegistry(s.store, filepath.Join(home, "budgets.json"), s.log); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	s.treasury, err = treasury.Open(treasury.Options{
		Dir: filepath.Join(home, "journal"), Process: s.ingest.Spool(), Redis: s.redis,
		Budgets: s.budgets.Budgets, Away: s.budgetsAway, Logger: s.log, Now: time.Now,
	})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	embedder, err := gateway.NewEmbedder(s.config.Router.Embeddings, os.LookupEnv, s.log)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	s.predictors = gateway.NewPredictors(gateway.PredictorOptions{
		Store: s.store, File: filepath.Join(filepath.Clean(s.config.Spool), "router", "predictor.json"), Record: s.ingest.Record, Logger: s.log,
		Embedder: embedder,
	})
	s.fallbacks = gateway.NewFallbacks(gateway.FallbackOptions{
		Tradeoff: func() routing.Tradeoff { return s.policies.Set().Tradeoff() }, Trusts: s.redis, Logger: s.log, Now: time.Now,
		Quality: s.predictors.Quality,
	})
	gate := s.gateway()
	s.proxy = gateway.NewProxy(gate, gateway.ProxyOptions{
		Upstreams: upstreams, Gate: s.config.Gateway, Door: s.door, Accept: s.ingest.Accept,
		Listens: s.ingest.Listens, AcceptCalls: s.ingest.AcceptCalls,
		Treasury: s.treasury, Budgets: s.budgets.Budgets, Predictors: s.predictors,
	})
	s.external = gateway.NewExternal(gate, gateway.ExternalOptions{
		Door: s.door, Treasury: s.treasury, Budgets: s.budgets.Budgets, Accept: s.ingest.Accept, OutputCap: s.config.Gateway.OutputCap,
		Predictors: s.predictors,
	})
	s.metrics = prometheus.NewRegistry()
	s.metrics.MustRegister(&treasury.Metrics{Treasury: s.treasury, Registry: s.budgets, Redis: s.redis, Now: time.Now})
	if embedder != nil {
		s.metrics.MustRegister(embedder)
	}
	return gate, nil
}

// runProxy keeps calls' telemetry and money moving until ctx ends and the last call with it: what a call settles, the
// treasury has still to tell.
func (s *system) runProxy(ctx context.Context, group *errgroup.Group) {
	late, stop := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stop()
		return s.proxy.Run(ctx, s.treasury.Recovered())
	})
	group.Go(func() error { return s.treasury.Run(late) })
	group.Go(func() error { return s.predictors.Run(late) })
	group.Go(func() error { return s.budgets.Run(ctx) })
}

// budgetsAway is what holds while a tenant's budgets cannot be asked.
func (s *system) budgetsAway(tenant string) treasury.Away {
	tradeoff := s.policies.Set().Tradeoff()
	closed := tradeoff.Away.Closed
	if tradeoff.Tenant(tenant).Risk == routing.Regulated {
		closed = tradeoff.Away.RegulatedClosed
	}
	return treasury.Away{Closed: closed, Allowance: budget.Ceil(int64(tradeoff.Away.Allowance))}
}

// reconcile sets the counters of budgets by the ledger until ctx ends.
func (s *system) reconcile(ctx context.Context) error {
	r := &treasury.Reconciler{Budgets: s.store.Budgets, Redis: s.redis, Ledger: s.store, Logger: s.log, Now: time.Now}
	if s.config.Profile == config.Demo {
		r.Grace = time.Second // nobody else has promised anything
	}
	return r.Run(ctx)
}

// budgetRoutes serves budgets to who sets them, to a tenant's tokens, and to virtual keys.
func (s *system) budgetRoutes(mux *http.ServeMux) {
	admin := &treasury.Admin{Store: s.store, Registry: s.budgets, Redis: s.redis, Ledger: s.store, Now: time.Now}
	serve := known(s.door, ingest.ScopeBudgets, func(w http.ResponseWriter, r *http.Request, caller *ingest.Caller) {
		admin.Handler(treasury.Asker{Tenant: caller.Tenant, Key: caller.Name}).ServeHTTP(w, r)
	})
	mux.Handle("/v1/budgets", serve)
	mux.Handle("/v1/budgets/", serve)
	mux.Handle("GET /v1/budgets/self", known(s.door, ingest.ScopeCalls, func(w http.ResponseWriter, r *http.Request, caller *ingest.Caller) {
		who := treasury.Asker{Tenant: caller.Tenant, Key: caller.Name}
		if who.Tenant == "" { // without keys, a program on this machine
			who.Tenant = cmp.Or(r.Header.Get("X-LLM-Tenant"), gateway.DefaultTenant)
		}
		admin.Self(who).ServeHTTP(w, r)
	}))
}

// serveFront serves what clients, senders of telemetry and evaluators are given, with TLS where that is configured, over
// HTTP/1.1 and HTTP/2. Calls under way when ctx ends have longer to finish than what else is served.
func (s *system) serveFront(ctx context.Context, listener net.Listener, handler http.Handler, calls bool) error {
	c, drain := s.config.Gateway, 5*time.Second
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: c.MaxHeader,
		Protocols: &http.Protocols{}, HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 1000},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true) // by prior knowledge
	if calls {
		drain = c.Drain
	}
	if c.TLS.CertFile == "" {
		return runServer(ctx, server, drain, func() error { return server.Serve(listener) })
	}
	cert, err := newCertificate(c.TLS, s.log, time.Now)
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("gateway.tls: %w", err)}
	}
	server.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get}
	return runServer(ctx, server, drain, func() error { return server.ServeTLS(listener, "", "") })
}
