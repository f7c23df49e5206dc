package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/workers"
)

// dialTemporal connects to Temporal.
func dialTemporal(ctx context.Context, c config.Temporal, log *slog.Logger) (client.Client, error) {
	return workers.Dial(ctx, c.Address, c.Namespace, log)
}

// runWorker works for Temporal until ctx ends. An error that may pass by itself, such as that of a namespace
// which a new server has not made yet, carries the exit code of a service that is away.
func (s *system) runWorker(ctx context.Context, temporal client.Client) error {
	listening, stop := context.WithCancel(ctx)
	heard := make(chan struct{})
	go func() { defer close(heard); s.listenToSlack(listening) }()
	defer func() { stop(); <-heard }()
	var shadow func() *policy.Set
	if s.shadow != nil {
		shadow = s.shadow.Set
	}
	err := workers.Run(ctx, workers.Options{
		Client: temporal, Namespace: s.config.Temporal.Namespace, Store: s.store, Flags: s.redis,
		Policies: s.policies.Set, Logger: s.log, Tuning: s.config.Profile.Tuning(), StatusPages: s.config.StatusPages,
		Router:    s.router(),
		Rollbacks: hooks(s.config.Rollbacks),
		Drills:    workers.Drills(s.config.DrillsTo()),
		Shadow:    shadow,
		Embedding: s.config.Router.Embeddings.Reading(),
	})
	var unavailable *serviceerror.Unavailable
	var slow *serviceerror.DeadlineExceeded
	var noNamespace *serviceerror.NamespaceNotFound
	if errors.As(err, &unavailable) || errors.As(err, &slow) || errors.As(err, &noNamespace) {
		return &exitError{exitAway, err}
	}
	return err
}

// hooks are the configured webhooks as the workers call them.
func hooks(configured []config.Rollback) activities.RollbackHooks {
	all := make(activities.RollbackHooks, len(configured))
	for i, r := range configured {
		all[i] = activities.RollbackHook(r)
	}
	return all
}

// runConsole serves the console until ctx ends.
func (s *system) runConsole(ctx context.Context, listener net.Listener, work console.Work, status func() console.Status) error {
	c, err := console.New(console.Options{
		Telemetry: liveTelemetry{s.store}, Work: work, Audit: storedAudit{s.store}, Status: status, Logger: s.log, Now: time.Now, Hosts: s.hosts(), Hooks: s.hooks(),
	})
	if err != nil {
		return fmt.Errorf("preparing the console: %w", err)
	}
	return serveHTTP(ctx, listener, c.Handler())
}

// lateWork is the console's view of Temporal, which may come up long after the console.
type lateWork struct{ work atomic.Pointer[inbox.Work] }

// arrive gives it Temporal.
func (l *lateWork) arrive(temporal client.Client, c config.Temporal) {
	l.work.Store(&inbox.Work{Inbox: inbox.New(temporal), UI: func() string { return c.UI }, Namespace: c.Namespace})
}

func (l *lateWork) here() bool { return l.work.Load() != nil }

// errBuilding is what is said until Temporal has arrived.
var errBuilding = fmt.Errorf("%w: the Temporal server is not up yet", console.ErrAway)

// late asks the work, if it has arrived.
func late[T any](l *lateWork, ask func(*inbox.Work) (T, error)) (T, error) {
	if w := l.work.Load(); w != nil {
		return ask(w)
	}
	var nothing T
	return nothing, errBuilding
}

// Incidents are the open ones of one key each.
func (l *lateWork) Incidents(ctx context.Context) ([]console.Incident, error) {
	return late(l, func(w *inbox.Work) ([]console.Incident, error) { return w.Incidents(ctx) })
}

// Groups are the open incidents of many keys.
func (l *lateWork) Groups(ctx context.Context) ([]console.Group, error) {
	return late(l, func(w *inbox.Work) ([]console.Group, error) { return w.Groups(ctx) })
}

// Decisions are the open ones.
func (l *lateWork) Decisions(ctx context.Context) ([]console.Decision, error) {
	return late(l, func(w *inbox.Work) ([]console.Decision, error) { return w.Decisions(ctx) })
}

// Decide carries a verdict.
func (l *lateWork) Decide(ctx context.Context, v console.Verdict) (console.Decision, error) {
	return late(l, func(w *inbox.Work) (console.Decision, error) { return w.Decide(ctx, v) })
}

// Mutes are what people are not told about.
func (l *lateWork) Mutes(ctx context.Context) (console.Mutes, error) {
	return late(l, func(w *inbox.Work) (console.Mutes, error) { return w.Mutes(ctx) })
}

// Order carries an order.
func (l *lateWork) Order(ctx context.Context, o console.Order) (console.Outcome, error) {
	return late(l, func(w *inbox.Work) (console.Outcome, error) { return w.Order(ctx, o) })
}

// Report is a report in Markdown.
func (l *lateWork) Report(ctx context.Context, id string) (string, error) {
	return late(l, func(w *inbox.Work) (string, error) { return w.Report(ctx, id) })
}
