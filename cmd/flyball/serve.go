package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/console"
)

// serveCommand runs roles against real servers.
func serveCommand() *cobra.Command {
	var roles, file string
	cmd := &cobra.Command{
		Use:   "serve --role worker,ingest,gateway,console --config flyball.yaml",
		Short: "Run roles against ClickHouse, Redis and Temporal servers",
		Long: "Run one or more roles in this process. Every role may run in as many processes as you like;\n" +
			"each ingest needs a spool directory of its own. Without --config the servers are looked for\n" +
			"on this machine at their usual ports. Apply the schema first: flyball migrate.",
		Example: "  flyball serve --role worker,ingest,gateway,console --config deploy/flyball.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := config.ParseRoles(roles)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := loadConfig(file)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), c, wanted, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	cmd.Flags().StringVar(&roles, "role", "worker,ingest,gateway,console", "what to run, comma-separated")
	cmd.Flags().StringVar(&file, "config", "", "configuration file (YAML)")
	return cmd
}

// loadConfig reads the file, or takes the defaults when none is named.
func loadConfig(file string) (config.Config, error) {
	if file == "" {
		return config.Default(), nil
	}
	c, err := config.Load(file, os.LookupEnv)
	if err != nil {
		return c, &exitError{exitUsage, err}
	}
	return c, nil
}

// waitForServers is how long serve waits for servers that it cannot do without, which may start beside it
// or restart.
const waitForServers = time.Minute

// maxPause is the longest pause between two attempts to reach a server.
const maxPause = 10 * time.Second

// patiently tries until it works, fails for another reason than a server that is away, ctx ends, or the
// limit has passed; no limit is 0. The error is that of the last attempt, or ctx's.
func patiently(ctx context.Context, log *slog.Logger, limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for pause := time.Second; ; pause = min(2*pause, maxPause) {
		err := try()
		var exit *exitError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.As(err, &exit) || exit.code != exitAway || limit > 0 && time.Now().After(deadline):
			return err
		}
		log.WarnContext(ctx, "Waiting for a server", "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// serve runs the roles until ctx ends or one of them fails.
func serve(ctx context.Context, c config.Config, roles []config.Role, log *slog.Logger) error {
	var s *system
	err := patiently(ctx, log, waitForServers, func() (err error) { s, err = openSystem(ctx, c, roles, log); return err })
	if err == nil {
		defer s.close()
		err = s.serve(ctx, roles)
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

// serve runs the roles on an open system. It returns when everything that it started has ended.
func (s *system) serve(ctx context.Context, roles []config.Role) (err error) {
	serves := func(any ...config.Role) bool {
		return slices.ContainsFunc(any, func(r config.Role) bool { return slices.Contains(roles, r) })
	}
	// All that can fail at once does so before anything runs.
	var front, otlp, page net.Listener
	if serves(config.Ingest, config.Gateway) {
		if front, err = listen(s.config.Ingest.Listen, "ingest.listen"); err != nil {
			return err
		}
		defer front.Close()
	}
	if serves(config.Ingest) && s.config.OTLP.Listen != "" {
		if otlp, err = listen(s.config.OTLP.Listen, "otlp.listen"); err != nil {
			return err
		}
		defer otlp.Close()
	}
	if serves(config.Console) {
		if page, err = listen(s.config.Console.Listen, "console.listen"); err != nil {
			return err
		}
		defer page.Close()
	}
	if serves(config.Ingest) {
		if err := s.openIngest(ctx); err != nil {
			return err
		}
	} else if serves(config.Gateway) {
		if err := s.openSpool(); err != nil {
			return err
		}
	}
	work := &lateWork{}
	group, ctx := errgroup.WithContext(ctx)
	if s.config.Policies != "" {
		group.Go(func() error { s.policies.Watch(ctx, s.config.Policies); return nil })
	}
	if s.shadow != nil && serves(config.Worker) {
		group.Go(func() error { s.shadow.Watch(ctx, s.config.Shadow); return nil })
	}
	if serves(config.Worker) {
		group.Go(func() error { return s.reconcile(ctx) })
	}
	if front != nil {
		s.log.Info("Serving", "roles", roles, "address", front.Addr().String())
		group.Go(func() error { return s.runFront(ctx, front, roles, nil) })
	}
	if otlp != nil {
		s.log.Info("Serving", "protocol", "OTLP/gRPC", "address", otlp.Addr().String())
		group.Go(func() error { return s.ingest.ServeOTLP(ctx, otlp) })
	}
	if page != nil {
		s.log.Info("Serving", "role", config.Console, "address", page.Addr().String())
		group.Go(func() error {
			return s.runConsole(ctx, page, work, func() console.Status { return console.Status{TemporalUI: s.config.Temporal.UI} })
		})
	}
	if serves(config.Worker, config.Console) {
		limit := waitForServers
		if front != nil || page != nil {
			limit = 0 // they serve meanwhile
		}
		group.Go(func() error { return s.useTemporal(ctx, work, serves(config.Worker), limit) })
	}
	return group.Wait()
}

// useTemporal waits for Temporal, gives it to the console and works for it until ctx ends. It gives up after
// limit, or never when that is 0.
func (s *system) useTemporal(ctx context.Context, work *lateWork, worker bool, limit time.Duration) error {
	var temporal client.Client
	err := patiently(ctx, s.log, limit, func() (err error) {
		if temporal, err = dialTemporal(ctx, s.config.Temporal, s.log); err != nil {
			err = &exitError{exitAway, err}
		}
		return err
	})
	if err != nil {
		return err
	}
	defer temporal.Close()
	work.arrive(temporal, s.config.Temporal)
	s.people.arrive(temporal, s.config)
	if !worker {
		<-ctx.Done()
		return ctx.Err()
	}
	return patiently(ctx, s.log, limit, func() error { return s.runWorker(ctx, temporal) })
}
