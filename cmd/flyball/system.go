package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/complexity"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/notify"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/standing"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// system is the process's part of Flyball: one configuration and the connections that its roles
// share.
type system struct {
	config   config.Config
	log      *slog.Logger
	store    *clickhouse.Store
	redis    *redis.Client
	policies *policy.Holder
	shadow   *policy.Holder // of the second set; nil: not configured
	slack    *notify.Slack  // nil: not configured
	book     *pricing.Book
	door     *ingest.Door   // to all that the front serves
	ingest   *ingest.Ingest // with its spool; where only the gateway is, nobody else may send
	takesIn  bool           // telemetry, from others
	treasury *treasury.Treasury
	proxy    *gateway.Proxy
	external *gateway.External
	budgets  *treasury.Registry
	metrics  *prometheus.Registry // of the gateway
	scores   *complexity.Scores   // of tasks, where ingest is
	judges   *standing.Registry
	people   latePeople // whose word comes from channels

	evaluation evaluation
	fallbacks  *gateway.Fallbacks // nil: no gateway is served
	predictors *gateway.Predictors

	rates sync.Map // sampleQuestion → policy.Sample
	known atomic.Int64
}

// openSystem loads policies and prices and connects to what the roles need: a gateway must start though
// ClickHouse is away, an ingest though Redis is. Its errors carry the exit code: what is wrong in files is
// bad configuration, what does not answer is away.
func openSystem(ctx context.Context, c config.Config, roles []config.Role, log *slog.Logger) (_ *system, err error) {
	s := &system{config: c, log: log}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := s.loadFiles(); err != nil {
		return nil, &exitError{exitUsage, err}
	}
	needs := func(any ...config.Role) bool {
		return slices.ContainsFunc(any, func(r config.Role) bool { return slices.Contains(roles, r) })
	}
	if needs(config.Worker, config.Ingest, config.Console) {
		if s.store, err = openStore(ctx, c.ClickHouse, log); err != nil {
			return nil, err
		}
	}
	if needs(config.Worker, config.Gateway) {
		s.redis = redis.Open(redis.Options{Addr: c.Redis.Addr, Password: c.Redis.Password, Logger: log})
		err := s.redis.Ping(ctx)
		switch {
		case err != nil && needs(config.Worker):
			return nil, &exitError{exitAway, err}
		case err != nil:
			log.WarnContext(ctx, "Redis is away: the gateway obeys no flags until it can read them", "error", err)
		}
	}
	return s, nil
}

// embeddedClickHouse is the configuration of the engine that flyball up runs.
func embeddedClickHouse(a devstack.ClickHouseAddress) config.ClickHouse {
	return config.ClickHouse{URL: a.URL, User: a.User, Password: a.Password, Database: a.Database}
}

func storeOptions(c config.ClickHouse, log *slog.Logger) clickhouse.Options {
	return clickhouse.Options{
		URL: c.URL, User: c.User, Password: c.Password, Database: c.Database,
		StoragePolicy: c.StoragePolicy, Cluster: c.Cluster, Logger: log,
	}
}

// openStore connects to ClickHouse.
func openStore(ctx context.Context, c config.ClickHouse, log *slog.Logger) (*clickhouse.Store, error) {
	store, err := clickhouse.Open(ctx, storeOptions(c, log))
	if err != nil {
		return nil, &exitError{exitAway, err}
	}
	return store, nil
}

// loadFiles reads the policies and the price book.
func (s *system) loadFiles() error {
	set, err := policy.Load(policies.Files)
	if err != nil {
		return fmt.Errorf("the shipped policies: %w", err)
	}
	s.policies = policy.NewHolder(set, s.log)
	if s.config.Policies != "" {
		if err := s.policies.Reload(os.DirFS(s.config.Policies)); err != nil {
			return fmt.Errorf("policies in %s: %w", s.config.Policies, err)
		}
	}
	if s.config.Shadow != "" { // loaded when it is watched: one that is not good disturbs nothing
		s.shadow = policy.NewHolder(nil, s.log.With("policies", "shadow"))
	}
	if s.book, err = loadBook(s.config.PriceBook); err != nil {
		return err
	}
	if s.config.Evaluators != "" {
		if s.evaluation.set, err = loadEvaluators(s.config.Evaluators); err != nil {
			return fmt.Errorf("evaluators: %w", err)
		}
	}
	if s.slack, err = s.newSlack(); err != nil {
		return fmt.Errorf("notify.slack: %w", err)
	}
	s.door, err = s.openDoor()
	return err
}

func (s *system) close() {
	if s.treasury != nil {
		if err := s.treasury.Close(); err != nil {
			s.log.Error("Closing the treasury's journal", "error", err)
		}
	}
	if s.ingest != nil {
		if err := s.ingest.Close(); err != nil {
			s.log.Error("Closing the spool", "error", err)
		}
	}
	if s.redis != nil {
		_ = s.redis.Close()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
}

// runFront serves ingest (opened by openIngest) and gateway (opened by openGateway), either or both, on one listener
// until ctx ends and the calls under way have ended too. extra handlers, by pattern, are served beside them.
func (s *system) runFront(ctx context.Context, listener net.Listener, roles []config.Role, extra map[string]http.Handler) error {
	group, ctx := errgroup.WithContext(ctx)
	var gate *gateway.Gateway
	if slices.Contains(roles, config.Gateway) {
		var err error
		if gate, err = s.openGateway(); err != nil {
			return err
		}
		group.Go(func() error { return gate.Run(ctx) })
		group.Go(func() error { return s.fallbacks.Run(ctx) })
		s.runProxy(ctx, group)
	}
	if s.ingest != nil {
		group.Go(func() error { return s.ingest.Run(ctx) })
		group.Go(func() error { s.scores.Run(ctx); return nil })
	}
	if s.takesIn {
		group.Go(func() error { s.judges.Run(ctx); return nil })
		if e := s.evaluation; e.pipeline != nil {
			group.Go(func() error { return e.flags.Run(ctx) })
			group.Go(func() error { return e.pipeline.Run(ctx) })
		}
	}
	if s.config.TokensFile != "" {
		group.Go(func() error { s.watchTokens(ctx); return nil })
	}
	group.Go(func() error { return s.serveFront(ctx, listener, s.frontHandler(gate, extra), gate != nil) })
	return group.Wait()
}

// gateway makes the gateway.
func (s *system) gateway() *gateway.Gateway {
	return gateway.New(gateway.Options{
		Flags: s.redis, Prices: s.book, Logger: s.log, Now: time.Now,
		SampleRate: s.sampleRate, Fallbacks: s.fallbacks,
	})
}

// frontHandler routes to ingest, where it is open, to gate, unless that is nil, and to extra. Ingest lets in
// whoever may send; a tenant's evaluators may ask which of its calls to score; everything else but the health
// check is for whoever is trusted for all tenants.
func (s *system) frontHandler(gate *gateway.Gateway, extra map[string]http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	for pattern, handler := range extra {
		mux.Handle(pattern, admitted(s.door, ingest.ScopeDecide, trusted, handler))
	}
	if s.takesIn {
		for _, path := range []string{"/v1/spans", "/v1/quality", "/v1/feedback", "/v1/outcomes", "/v1/deployments", "/v1/traces", "/v1/logs", "/v1/litellm"} {
			mux.Handle(path, s.ingest.Handler())
		}
		// Who sends calls says what each counts for, and so may say it of a task.
		mux.Handle("/v1/complexity", known(s.door, ingest.ScopeSpans, func(w http.ResponseWriter, r *http.Request, caller *ingest.Caller) {
			s.scores.Handler(caller.Tenant, caller.Name).ServeHTTP(w, r)
		}))
		if s.evaluation.pipeline != nil {
			mux.Handle("/v1/evaluators", admitted(s.door, ingest.ScopeSpans, trusted, s.evaluation.pipeline.Handler()))
		}
		mux.Handle("/v1/ingest", admitted(s.door, ingest.ScopeSpans, trusted, s.ingest.Handler()))
	}
	if gate != nil {
		mux.Handle("/v1/flags", admitted(s.door, ingest.ScopeDecide, trusted, gate.Handler()))
		external := s.external.Handler()
		for _, path := range []string{"/v1/decide", "/v1/settle", "/v1/settle/response", "/v1/authz/"} {
			mux.Handle(path, external)
		}
		mux.Handle("/v1/sampling", admitted(s.door, ingest.ScopeQuality, ofItsTenant, gate.Handler()))
	}
	if s.budgets != nil {
		s.budgetRoutes(mux)
		mux.Handle("GET /metrics", admitted(s.door, ingest.ScopeBudgets, trusted, promhttp.HandlerFor(s.metrics, promhttp.HandlerOpts{})))
	}
	if s.proxy != nil { // which has its own way in, since it refuses as the providers do
		for pattern, handler := range s.proxy.Routes() {
			mux.Handle(pattern, handler)
		}
	}
	// A web page must not start faults or send telemetry through the browser of somebody who may.
	return http.NewCrossOriginProtection().Handler(mux)
}

// sampleQuestion is what a sampling rate depends on.
type sampleQuestion struct {
	revision string
	key      usage.Key
	task     string
}

// maxRates bounds the memory of rates: made-up names of models and tasks must not fill it.
const maxRates = 100_000

// sampleRate is the share of the key's calls of a task to score by sampling.yaml, and the rule that says so,
// remembered per revision since it is asked for every call. A policy that fails scores every call: scores
// are how it would be noticed.
func (s *system) sampleRate(k usage.Key, task string) (float64, string) {
	set := s.policies.Set()
	question := sampleQuestion{set.Revision(), k, task}
	if known, ok := s.rates.Load(question); ok {
		sample := known.(policy.Sample)
		return sample.Rate, sample.Rule
	}
	sample, err := set.Sampling(policy.SamplingFacts{
		Tenant: k.Tenant, TenantClass: string(set.Tradeoff().Tenant(k.Tenant).Class), Model: k.Model, Task: task,
	})
	if err != nil {
		s.log.Error("sampling.yaml failed; every call is scored", "key", k.String(), "error", err)
		sample = policy.Sample{Rate: 1, Rule: "sampling.yaml failed"}
	}
	if s.known.Add(1) > maxRates {
		s.rates.Clear()
		s.known.Store(0)
	}
	s.rates.Store(question, sample)
	return sample.Rate, sample.Rule
}

// openIngest opens the spool. Calls that come before tasks' complexity could be read count as 1.
func (s *system) openIngest(ctx context.Context) (err error) {
	s.scores = complexity.New(s.store, s.log, time.Now)
	if err := s.scores.Refresh(ctx); err != nil {
		s.log.Warn("The complexity of tasks is not known yet", "error", err)
	}
	s.judges = standing.New(s.store, s.log)
	if err := s.judges.Refresh(ctx); err != nil { // else scores on trial would page
		return storeError(err)
	}
	if err := s.openEvaluation(); err != nil {
		return err
	}
	options := ingest.Options{
		Dir: filepath.Clean(s.config.Spool), Sink: s.store, Book: s.book, Logger: s.log, Door: s.door,
		Lookup: func(ctx context.Context, traces []usage.Trace) ([]usage.Span, error) {
			return s.store.FindSpans(ctx, traces, time.Now())
		},
		Complexity:      s.scores.Of,
		Standing:        s.judges.Apply,
		TenantAttribute: s.config.OTLP.TenantAttribute, LiteLLMTenant: s.config.LiteLLM.Tenant,
	}
	s.hear(&options)
	if s.ingest, err = ingest.Open(options); err != nil {
		return &exitError{exitUsage, err}
	}
	s.takesIn = true
	return nil
}

// serveHTTP serves until ctx ends, then lets what is under way finish.
func serveHTTP(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	return runServer(ctx, server, 5*time.Second, func() error { return server.Serve(listener) })
}

// runServer serves until ctx ends, then lets what is under way finish, and after the time for that cuts it off.
func runServer(ctx context.Context, server *http.Server, drain time.Duration, serve func() error) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		err := server.Shutdown(deadline)
		if errors.Is(err, context.DeadlineExceeded) {
			err = server.Close()
		}
		stopped <- err
	})
	defer stop()
	if err := serve(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving: %w", err)
	}
	return <-stopped
}

// listen opens a listener, or says how to use another port.
func listen(address, key string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &exitError{exitUsage, fmt.Errorf("%w: stop what listens there, or change %s", err, key)}
	}
	return l, nil
}
