package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/simulate"
)

// upOptions are the flags of `flyball up`.
type upOptions struct {
	state       string
	source      string
	portBase    int
	noSimulator bool
	noWorker    bool
	policies    string
	shadow      string
	access      string
	seed        uint64
}

// upCommand runs everything on this machine, engines included.
func upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run everything here: engines, all roles and a simulator",
		Long: "Start ClickHouse, Redis and Temporal (embedded, on loopback), all roles of Flyball, and a\n" +
			"simulator with the demo profile. The first start builds the Temporal server in the background,\n" +
			"which takes minutes; console, engine and simulator are up meanwhile. Ctrl-C stops it all.\n" +
			"Should that build fail, the rest goes on without decisions.\n\n" +
			"State, passwords included, is in --state; addresses are in its addresses.json.",
		Example: "  flyball up\n  flyball up --access access.yaml\n  flyball up --port-base 9000 --state /tmp/flyball-demo\n  flyball up --no-simulator",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := up(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			var setup *devstack.SetupError
			switch {
			case errors.Is(err, context.Canceled) && cmd.Context().Err() != nil:
				return nil // Ctrl-C, at whatever point
			case errors.As(err, &setup):
				return &exitError{exitUsage, err}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&o.state, "state", ".flyball", "state folder")
	cmd.Flags().StringVar(&o.source, "source", ".", "checkout to build the Temporal server from")
	cmd.Flags().IntVar(&o.portBase, "port-base", 0, "fix all ports, in a row from this one (0: 8080, 8088, 4317 or another, and free ones)")
	cmd.Flags().BoolVar(&o.noSimulator, "no-simulator", false, "send no synthetic traffic, and keep the standard profile")
	cmd.Flags().BoolVar(&o.noWorker, "no-worker", false, "run no workflows here: flyball serve --role worker does")
	cmd.Flags().StringVar(&o.policies, "policies", "", "policy directory in place of the shipped ones, reloaded when it changes")
	cmd.Flags().StringVar(&o.shadow, "policies-shadow", "", "a second policy directory, judged beside the one in force and never acted upon: see flyball policy shadow")
	cmd.Flags().StringVar(&o.access, "access", "", "configuration file of which the sections access (who may read the embedded ClickHouse), notify (who is told), evaluators, judge, content and gateway count here; the others are for servers")
	cmd.Flags().Uint64Var(&o.seed, "seed", 1, "of the simulator's randomness")
	return cmd
}

// banner is what the console says above everything while the simulator runs.
const banner = "Demo profile: synthetic traffic, low sample minimums, short holds, a runbook ten times as fast. Figures here are not a real deployment's."

// up runs until ctx ends.
func up(ctx context.Context, o upOptions, out, errs io.Writer) error {
	given, err := loadConfig(o.access)
	if err != nil {
		return err
	}
	sharing, err := sharingOf(given, devstack.ClickHouseDatabase)
	if err != nil {
		return err
	}
	// Engines must outlive the roles on the way down, so they do not stop by ctx.
	screen := &screen{out: errs, tenth: -1}
	stack, err := devstack.Start(ctx, devstack.Options{
		Dir: o.state, Source: o.source, PortBase: o.portBase, Chserve: siblingProgram("chserve"), Sharing: sharing,
		SearchAttributes: contract.SearchAttributes(), Report: screen.report,
	})
	if err != nil {
		return err
	}
	defer func() {
		screen.say("Stopping")
		if err := stack.Stop(); err != nil {
			fmt.Fprintln(errs, "flyball:", err)
		}
	}()
	log, closeLog, err := openLog(stack.Folder().Path("flyball.log"))
	if err != nil {
		return &exitError{exitUsage, err}
	}
	defer closeLog()

	addresses := stack.Addresses()
	redisPassword, err := stack.Folder().Password("redis")
	if err != nil {
		return err
	}
	ports := stack.Ports()
	c := config.Default()
	c.Profile, c.Access, c.Notify = config.Demo, given.Access, given.Notify
	c.Evaluators, c.Judge, c.Content, c.Gateway = given.Evaluators, given.Judge, given.Content, given.Gateway
	if o.noSimulator {
		c.Profile = config.Standard
	}
	c.Shadow = o.shadow
	if o.policies != "" { // commands that run elsewhere read it too
		if c.Policies, err = filepath.Abs(o.policies); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	c.Spool = stack.Folder().Path("spool")
	c.Ingest.Listen, c.OTLP.Listen, c.Console.Listen = loopback(ports.Ingest), loopback(ports.OTLP), loopback(ports.Console)
	c.ClickHouse = embeddedClickHouse(addresses.ClickHouse)
	c.Redis = config.Redis{Addr: loopback(ports.Redis), Password: redisPassword}
	c.Temporal.Address, c.Temporal.UI = loopback(ports.Temporal), addresses.TemporalUI
	if err := c.Validate(); err != nil {
		return &exitError{exitUsage, err}
	}
	return runUp(ctx, o, c, stack, screen, out, log)
}

// runUp runs the roles and the simulator on a running stack.
func runUp(ctx context.Context, o upOptions, c config.Config, stack *devstack.Stack, screen *screen, out io.Writer, log *slog.Logger) error {
	s, err := openSystem(ctx, c, config.Roles(), log)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.store.Migrate(ctx); err != nil {
		return &exitError{exitAway, err}
	}
	if err := s.openIngest(ctx); err != nil {
		return err
	}
	front, err := listen(c.Ingest.Listen, "--port-base")
	if err != nil {
		return err
	}
	otlp, err := listen(c.OTLP.Listen, "--port-base")
	if err != nil {
		return err
	}
	page, err := listen(c.Console.Listen, "--port-base")
	if err != nil {
		return err
	}
	addresses := stack.Addresses()
	simulator := simulate.New(simulate.Options{Ingest: addresses.Ingest, Decide: addresses.Ingest, Seed: o.seed, Logger: log})
	extra := map[string]http.Handler{}
	if !o.noSimulator {
		extra["/v1/chaos"], extra["/v1/chaos/"] = simulator.Handler(), simulator.Handler()
	}
	work := &lateWork{}
	status := func() console.Status {
		st := console.Status{Components: components(stack.Status())}
		if !o.noSimulator {
			st.Banner = banner
		}
		if work.here() {
			st.TemporalUI = addresses.TemporalUI
		}
		return st
	}

	if err := stack.Publish(string(c.Profile), c.Policies); err != nil { // all listeners take connections by now
		return &exitError{exitUsage, err}
	}
	group, ctx := errgroup.WithContext(ctx)
	if c.Policies != "" {
		group.Go(func() error { s.policies.Watch(ctx, c.Policies); return nil })
	}
	if s.shadow != nil {
		group.Go(func() error { s.shadow.Watch(ctx, c.Shadow); return nil })
	}
	if !o.noWorker {
		group.Go(func() error { return s.reconcile(ctx) })
	}
	group.Go(func() error { return s.runFront(ctx, front, config.Roles(), extra) })
	group.Go(func() error { return s.ingest.ServeOTLP(ctx, otlp) })
	group.Go(func() error { return s.runConsole(ctx, page, work, status) })
	screen.say("Console  %s", addresses.Console)
	screen.say("Ingest   %s", addresses.Ingest)
	if upstreams, err := c.Gateway.LoadUpstreams(os.LookupEnv); err == nil && len(upstreams) > 0 {
		screen.say("Gateway  %s/v1 (calls of models go through it: %s)", addresses.Ingest, upstreamNames(upstreams))
	}
	screen.say("OTLP     %s (gRPC; OTLP/HTTP is at the ingest's /v1/traces)", addresses.OTLP)
	group.Go(func() error {
		if !o.noSimulator {
			if err := s.seed(ctx, simulator, stack.Folder(), screen); err != nil {
				return err
			}
			group.Go(func() error { return simulator.Run(ctx) })
		}
		temporal, err := awaitTemporal(ctx, stack, screen, c.Temporal, log)
		if err != nil {
			return goOnWithout(ctx, screen, stack.Folder().Path("temporal.log"))
		}
		defer temporal.Close()
		work.arrive(temporal, c.Temporal)
		s.people.arrive(temporal, c)
		screen.say("Temporal %s", addresses.TemporalUI)
		welcome(out, addresses, o)
		if o.noWorker {
			<-ctx.Done()
			return ctx.Err()
		}
		return patiently(ctx, log, 0, func() error { return s.runWorker(ctx, temporal) })
	})
	return group.Wait()
}

// awaitTemporal waits until the stack's server is built and started, and connects to it. What fails is on the
// screen when it returns.
func awaitTemporal(ctx context.Context, stack *devstack.Stack, screen *screen, c config.Temporal, log *slog.Logger) (client.Client, error) {
	if _, err := stack.Temporal(ctx); err != nil {
		return nil, err // the stack has reported it
	}
	temporal, err := dialTemporal(ctx, c, log)
	if err != nil && ctx.Err() == nil {
		screen.report(devstack.Event{Component: devstack.Temporal, Condition: devstack.Failed, Detail: err.Error()})
	}
	return temporal, err
}

// goOnWithout waits for the end although Temporal will not come: ingest, console, gateway and simulator serve
// without it.
func goOnWithout(ctx context.Context, screen *screen, logFile string) error {
	if ctx.Err() == nil {
		screen.say("Everything else goes on, but nothing is decided, approved or rerouted.")
		screen.say("Mend what failed (%s may say more), stop this with Ctrl-C and start it again", logFile)
	}
	<-ctx.Done()
	return ctx.Err()
}

// seed sends the demo's history once per state folder and waits until it is stored, so that the first
// tick of the sweep finds baselines to build.
func (s *system) seed(ctx context.Context, simulator *simulate.Simulator, folder *devstack.Folder, screen *screen) error {
	marker := folder.Path("seeded")
	if _, err := os.Stat(marker); err == nil {
		return nil
	}
	began := time.Now()
	screen.say("Seeding a week of history")
	if err := simulator.SeedHistory(ctx, began.UTC()); err != nil {
		return err
	}
	for s.ingest.Stats().SpoolRows > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if _, err := s.store.RebuildBaselines(ctx, time.Now().UTC(), s.config.Profile.Tuning().Limits.Minimums); err != nil {
		return err
	}
	if err := s.seedBudget(ctx, began); err != nil {
		return err
	}
	screen.say("Seeded in %s", time.Since(began).Round(time.Second))
	return os.WriteFile(marker, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o600)
}

// seedBudget sets the demo's budget, unless somebody has set one under its name: a month's that the demo's calls come
// nowhere near. It refuses no call of the simulator, which asks for routes alone.
func (s *system) seedBudget(ctx context.Context, now time.Time) error {
	b := budget.Budget{ID: "demo-month", Tenant: "org_42", Per: budget.PerTenant, Period: budget.Month, Ceiling: 1_000_000 * 1_000_000} // µ$
	have, err := s.store.Budgets(ctx)
	if err != nil || slices.ContainsFunc(have, func(v budget.Version) bool { return v.Tenant == b.Tenant && v.ID == b.ID }) {
		return err
	}
	v := budget.Version{Budget: b, Revision: 1, SetAt: now.UTC().Truncate(time.Millisecond), By: "flyball up", Reason: "a budget of the demo"}
	return s.store.SetBudget(ctx, v)
}

// welcome prints the three lines that a newcomer needs, on stdout.
func welcome(out io.Writer, a devstack.Addresses, o upOptions) {
	fmt.Fprintf(out, "\nOpen     %s\n", a.Console)
	if !o.noSimulator {
		fmt.Fprintf(out, "Inject   %s chaos cost --tenant org_42 --model claude-3-opus --factor 3 --quality 0.8 --for 6m\n", os.Args[0])
	}
	fmt.Fprintf(out, "Approve  in the console's inbox, or: %s approve ID --who YOU\n\n", os.Args[0])
}

// components are the console's view of the stack.
func components(events []devstack.Event) []console.Component {
	var list []console.Component
	for _, e := range events {
		list = append(list, console.Component{Name: e.Component, State: string(e.Condition), Progress: e.Progress, Detail: e.Detail})
	}
	return list
}

// upstreamNames lists upstreams for people.
func upstreamNames(list []config.Upstream) string {
	names := make([]string, len(list))
	for i, u := range list {
		names[i] = u.Name
	}
	return strings.Join(names, ", ")
}

// screen prints what happens, for people. A build's progress is one line per tenth.
type screen struct {
	mu    sync.Mutex
	out   io.Writer
	tenth int // of the build that was last told; −1 before the first
}

// componentNames are the engines' proper names.
var componentNames = map[string]string{"clickhouse": "ClickHouse", "redis": "Redis", "temporal": "Temporal"}

func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.out, time.Now().Format("15:04:05")+"  "+format+"\n", args...)
}

func (s *screen) report(e devstack.Event) {
	switch e.Condition {
	case devstack.Building:
		tenth := int(e.Progress * 10)
		s.mu.Lock()
		news, first := tenth != s.tenth, s.tenth < 0
		s.tenth = tenth
		s.mu.Unlock()
		if first {
			s.say("%s is built once, in the background: this takes minutes the first time", componentNames[e.Component])
		} else if news {
			s.say("%s building, %d %%", componentNames[e.Component], tenth*10)
		}
	case devstack.Starting:
	default:
		detail := e.Detail
		if detail != "" {
			detail = ": " + detail
		}
		s.say("%s %s%s", componentNames[e.Component], e.Condition, detail)
	}
}

// openLog opens the process's own log, kept apart from the terminal.
func openLog(path string) (*slog.Logger, func(), error) {
	if info, err := os.Stat(path); err == nil && info.Size() > 64<<20 {
		_ = os.Rename(path, path+".1")
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(file, nil)), func() { _ = file.Close() }, nil
}

// siblingProgram is the path of a program built beside this one.
func siblingProgram(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(port)) }
