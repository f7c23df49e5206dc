package devstack

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Options says what to start and from where.
type Options struct {
	// Dir is the state folder; it is made when absent.
	Dir string
	// Source is the checkout: temporald is built from its cmd/temporald into its .flyball/bin, whatever the
	// state folder, so that a second folder costs no second build.
	Source string
	// PortBase fixes all ports, in a row; zero picks them (see PickPorts).
	PortBase int
	// Chserve is the program that serves ClickHouse, and Library the engine that it loads.
	Chserve, Library string
	// Sharing says what others than the admin may read of ClickHouse.
	Sharing Sharing
	// SearchAttributes are the keyword attributes to register with Temporal.
	SearchAttributes []string
	// Report, if there is one, hears of every change, one call at a time. It must not call the Stack back,
	// except for Status.
	Report func(Event)
}

// Stack is the running engines of one state folder.
type Stack struct {
	options Options
	folder  *Folder
	ports   Ports

	reporting sync.Mutex // held during Report
	mu        sync.Mutex // guards status
	status    map[string]Event

	redisPassword, clickHousePassword string

	clickHouse   *Child
	stopRedis    func()
	temporal     *Child // settled before temporalDone closes
	temporalErr  error
	temporalDone chan struct{}
	giveUp       context.CancelFunc // ends a build or start of Temporal

	stopOnce sync.Once
	stopErr  error
}

// Start takes the state folder and the ports, and starts all engines at once. It returns when ClickHouse and
// Redis serve; Temporal, which may be building for minutes, follows in its own time (see Stack.Temporal). On
// failure, or when ctx ends before, nothing is left running. The stack itself lives until Stop, not until ctx
// ends.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	folder, err := OpenFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{options: o, folder: folder, status: map[string]Event{}, temporalDone: make(chan struct{})}
	background, giveUp := context.WithCancel(context.Background())
	s.giveUp = giveUp
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	if err := s.prepare(); err != nil {
		close(s.temporalDone)
		return nil, err
	}
	go s.startTemporal(background)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.startRedis() })
	group.Go(func() error { return s.startClickHouse(ctx) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare settles what must not change while the engines start at once: the ports and the passwords.
func (s *Stack) prepare() (err error) {
	if s.ports, err = PickPorts(s.options.PortBase); err != nil {
		return err
	}
	if s.redisPassword, err = s.folder.Password("redis"); err != nil {
		return err
	}
	s.clickHousePassword, err = s.folder.Password("clickhouse/" + clickHouseUser)
	return err
}

func (s *Stack) startRedis() (err error) {
	s.report(Event{Component: Redis, Condition: Starting})
	if s.stopRedis, err = StartRedis(s.ports.Redis, s.redisPassword); err != nil {
		return s.failed(Redis, err)
	}
	s.report(Event{Component: Redis, Condition: Ready, Detail: "in memory: it begins empty at every start"})
	return nil
}

func (s *Stack) startClickHouse(ctx context.Context) (err error) {
	s.clickHouse, err = StartClickHouse(ctx, s.folder, ClickHouseOptions{
		Program: s.options.Chserve,
		Library: s.options.Library,
		Port:    s.ports.ClickHouse,
		Sharing: s.options.Sharing,
	}, s.report)
	if err != nil {
		return s.failed(ClickHouse, err)
	}
	return nil
}

func (s *Stack) startTemporal(ctx context.Context) {
	defer close(s.temporalDone)
	child, err := StartTemporal(ctx, s.folder, TemporalOptions{
		Source:           filepath.Join(s.options.Source, "cmd", "temporald"),
		Bin:              filepath.Join(s.options.Source, ".flyball", "bin"),
		Port:             s.ports.Temporal,
		UIPort:           s.ports.TemporalUI,
		SearchAttributes: s.options.SearchAttributes,
	}, s.report)
	if err != nil && ctx.Err() == nil {
		err = s.failed(Temporal, err)
	}
	s.temporal, s.temporalErr = child, err
}

// failed reports that a component is given up and returns err.
func (s *Stack) failed(component string, err error) error {
	s.report(Event{Component: component, Condition: Failed, Detail: err.Error()})
	return err
}

// report records and passes on an event.
func (s *Stack) report(e Event) {
	s.reporting.Lock()
	defer s.reporting.Unlock()
	s.mu.Lock()
	s.status[e.Component] = e
	s.mu.Unlock()
	if s.options.Report != nil {
		s.options.Report(e)
	}
}

// Status is the last event of each component, in a fixed order.
func (s *Stack) Status() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Event
	for _, component := range []string{ClickHouse, Redis, Temporal} {
		if e, ok := s.status[component]; ok {
			all = append(all, e)
		}
	}
	return all
}

// Temporal waits for the Temporal server and returns its host:port for clients. An error other than the
// context's is final: the server could not be built or started, and everything else goes on without it.
func (s *Stack) Temporal(ctx context.Context) (hostPort string, err error) {
	select {
	case <-s.temporalDone:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if s.temporalErr != nil {
		return "", s.temporalErr
	}
	return address(s.ports.Temporal), nil
}

// Ports are the ports of the stack; those of ingest, OTLP and console are for the caller to listen on.
func (s *Stack) Ports() Ports { return s.ports }

// Folder is the state folder, for what else outlives a run.
func (s *Stack) Folder() *Folder { return s.folder }

// Addresses are where everything serves, or will: the caller publishes them once it serves its own part.
func (s *Stack) Addresses() Addresses {
	serves := func(port int) string { return "http://" + address(port) }
	redis := url.URL{Scheme: "redis", User: url.UserPassword("", s.redisPassword), Host: address(s.ports.Redis)}
	return Addresses{
		Ingest:     serves(s.ports.Ingest),
		OTLP:       serves(s.ports.OTLP),
		Console:    serves(s.ports.Console),
		Temporal:   serves(s.ports.Temporal),
		TemporalUI: serves(s.ports.TemporalUI),
		Redis:      redis.String(),
		ClickHouse: ClickHouseAddress{
			URL:      serves(s.ports.ClickHouse),
			User:     clickHouseUser,
			Password: s.clickHousePassword,
			Database: ClickHouseDatabase,
		},
	}
}

// Publish writes addresses.json, which tells other commands that the stack can be used, at which pace, and by
// which policies it decides.
func (s *Stack) Publish(profile, policies string) error {
	a := s.Addresses()
	a.Profile, a.Policies = profile, policies
	return s.folder.WriteAddresses(a)
}

// Stop ends every engine, a build included, and lets the state folder go. It takes as long as the slowest
// clean stop, at most 20 s, and can be called again.
func (s *Stack) Stop() error {
	s.stopOnce.Do(func() {
		s.giveUp()
		var group sync.WaitGroup
		group.Go(func() {
			<-s.temporalDone
			if s.temporal != nil {
				s.temporal.Stop()
			}
		})
		if s.clickHouse != nil {
			group.Go(s.clickHouse.Stop)
		}
		if s.stopRedis != nil {
			s.stopRedis()
		}
		group.Wait()
		if err := s.folder.Close(); err != nil {
			s.stopErr = fmt.Errorf("leaving the state folder: %w", err)
		}
	})
	return s.stopErr
}
