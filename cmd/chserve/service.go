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
	"time"

	"github.com/flyball-dev/flyball/cmd/chserve/chdb"
)

// service is a started engine with a bound listener.
type service struct {
	db       *database
	lock     *os.File
	listener net.Listener
	http     *http.Server
	// cancelRequests ends every running request.
	cancelRequests context.CancelFunc
}

// start takes the data directory and the port, loads the library and starts the engine. The directory
// holds lock, the engine's configuration (config) and its files (store).
func start(opts options, log *slog.Logger) (_ *service, err error) {
	data, err := filepath.Abs(opts.data)
	if err != nil {
		return nil, fmt.Errorf("finding the data directory: %w", err)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	lock, err := lockDirectory(data)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	listener, err := net.Listen("tcp", opts.listen)
	if err != nil {
		return nil, fmt.Errorf("cannot serve on %s, choose another --listen: %w", opts.listen, err)
	}
	defer func() {
		if err != nil {
			listener.Close()
		}
	}()
	config, err := writeEngineConfig(filepath.Join(data, "config"), opts.config, opts.tenantTables, opts.embargo)
	if err != nil {
		return nil, err
	}
	if err := chdb.Load(opts.library); err != nil {
		return nil, fmt.Errorf("%w\nrun `make engine` to install the library for this platform, or name another with --library", err)
	}
	if err := forgetLostParts(filepath.Join(data, "store"), log); err != nil {
		return nil, err
	}
	db, err := openDatabase(filepath.Join(data, "store"), config, log)
	if err != nil {
		return nil, err
	}
	guard, err := newGuard(db.keeper, opts.tenantTables)
	if err != nil {
		db.close()
		return nil, err
	}
	requests, cancelRequests := context.WithCancel(context.Background())
	return &service{
		db:             db,
		lock:           lock,
		listener:       listener,
		cancelRequests: cancelRequests,
		http: &http.Server{
			Handler:           newHandler(db, guard, opts),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       5 * time.Minute,
			MaxHeaderBytes:    1 << 20,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
			BaseContext:       func(net.Listener) context.Context { return requests },
		},
	}, nil
}

func (s *service) url() string { return "http://" + s.listener.Addr().String() }

// How long stopping waits for running statements to end by themselves, then for those that it killed.
const (
	drainTime = 5 * time.Second
	killTime  = 5 * time.Second
)

// serve answers requests until ctx is done, then stops the engine.
func (s *service) serve(ctx context.Context) error {
	defer s.lock.Close()
	defer s.cancelRequests()
	failed := make(chan error, 1)
	go func() { failed <- s.http.Serve(s.listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	if err := s.drain(drainTime); err != nil {
		s.cancelRequests()
		if err := s.drain(killTime); err != nil {
			return fmt.Errorf("a statement did not stop: %w", err)
		}
	}
	<-failed
	s.db.close()
	return nil
}

// drain waits until no request runs, or for the timeout.
func (s *service) drain(timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := s.http.Shutdown(ctx); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
