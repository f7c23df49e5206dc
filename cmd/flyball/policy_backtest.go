package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/flyball-dev/flyball/internal/backtest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/policy"
)

// verdictOptions are what backtests and the report of shadow mode have in common: what their episodes are compared with,
// and how they are shown.
type verdictOptions struct {
	labels                  string
	grace                   time.Duration
	minRecall, minPrecision float64
	asJSON                  bool
}

func (o *verdictOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.labels, "labels", "", "log of incidents as people know of them (YAML)")
	f.DurationVar(&o.grace, "grace", 5*time.Minute, "by which an episode may miss an incident, or another set's episode, in time")
	f.Float64Var(&o.minRecall, "min-recall", 0, "exit 1 when the share of incidents that were found is less, 0 to 1")
	f.Float64Var(&o.minPrecision, "min-precision", 0, "exit 1 when the share of episodes that were of an incident is less, 0 to 1")
	f.BoolVar(&o.asJSON, "json", false, "print the whole report as JSON")
}

// read checks the options and reads the log; ok is false when none is given.
func (o *verdictOptions) read() (labels backtest.Labels, ok bool, err error) {
	for flag, share := range map[string]float64{"--min-recall": o.minRecall, "--min-precision": o.minPrecision} {
		if !(share >= 0 && share <= 1) {
			return labels, false, &exitError{exitUsage, fmt.Errorf("%s %g: give a share from 0 to 1", flag, share)}
		}
	}
	if o.grace < 0 || o.grace > 24*time.Hour {
		return labels, false, &exitError{exitUsage, fmt.Errorf("--grace %s: give a duration from 0 to 24h", o.grace)}
	}
	if o.labels == "" {
		if o.minRecall > 0 || o.minPrecision > 0 {
			return labels, false, &exitError{exitUsage, errors.New("--min-recall and --min-precision need --labels: without a log of incidents both are unknown")}
		}
		return labels, false, nil
	}
	file, err := os.Open(o.labels)
	if err != nil {
		return labels, false, &exitError{exitUsage, fmt.Errorf("reading the log of incidents: %w", err)}
	}
	defer file.Close()
	if labels, err = backtest.ReadLabels(file); err != nil {
		return labels, false, &exitError{exitUsage, fmt.Errorf("%s: %w", o.labels, err)}
	}
	return labels, true, nil
}

// print writes the report, and fails when the set of the number does not reach what is asked of it.
func (o *verdictOptions) print(r backtest.Report, of int, out io.Writer) error {
	var err error
	if o.asJSON {
		err = json.NewEncoder(out).Encode(r)
	} else {
		err = r.WritePage(out)
	}
	if err != nil {
		return &exitError{exitFailed, fmt.Errorf("writing the report: %w", err)}
	}
	s := r.Sets[of].Score
	if s == nil {
		return nil
	}
	return errors.Join(atLeast("recall", s.Recall, o.minRecall), atLeast("precision", s.Precision, o.minPrecision))
}

// atLeast fails when a share is less than asked, or unknown.
func atLeast(name string, s backtest.Share, least float64) error {
	switch {
	case least == 0:
		return nil
	case s.Rate == nil:
		return &exitError{exitFailed, fmt.Errorf("the %s is unknown, and at least %g is asked of it", name, least)}
	case *s.Rate < least:
		return &exitError{exitFailed, fmt.Errorf("the %s is %s, less than %g", name, s, least)}
	}
	return nil
}

// backtestOptions are the flags of `flyball policy backtest`.
type backtestOptions struct {
	storedRange
	verdictOptions
	dir, against       string
	tenant, model      string
	every, lag         time.Duration
	baselines, profile string
	workers            int
	fromTime, toTime   time.Time
}

const backtestLong = `Go over stored telemetry as it was known then, and say what a policy directory would have found and proposed.

Every tick sees what had come in by then: a late score counts late, a baseline from when it was stored, a deployment from
when it was told. Nothing is acted upon, so an incident lasts until the telemetry is well again. What is not stored is
neutral: the provider's health, first-seen models and templates, rollback webhooks, cool-downs.

--every is the time between two ticks. The sweep's is 5s; a longer one takes less time and finds the same up to one tick
later, and misses what lasts less than a tick.

The range is the last two weeks when none is given. With --labels the episodes are compared with a log of incidents, see
docs/formats.md; with --against with those of another directory, or of the shipped policies.`

// policyBacktestCommand goes over the past with a policy directory.
func policyBacktestCommand() *cobra.Command {
	var o backtestOptions
	cmd := &cobra.Command{
		Use:   "backtest DIR",
		Short: "Say what policies would have found and done, over stored telemetry as it was known then",
		Long:  backtestLong,
		Example: "  flyball policy backtest policies\n" +
			"  flyball policy backtest policies --against shipped --labels incidents.yaml --min-recall 0.9\n" +
			"  flyball policy backtest policies --from 2026-01-01 --to 2026-01-15 --tenant org_42 --json --config deploy/flyball.yaml",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.dir = args[0]
			if err := o.check(time.Now().UTC()); err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.storedRange.flags(cmd)
	o.verdictOptions.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.against, "against", "", "a second policy directory to compare with, or shipped")
	f.StringVar(&o.tenant, "tenant", "", "of this tenant only")
	f.StringVar(&o.model, "model", "", "of this requested model only; pseudo-keys are then left out")
	f.DurationVar(&o.every, "every", 15*time.Second, "between two ticks, from 1s to 1m")
	f.DurationVar(&o.lag, "lag", 2*time.Second, "how far the watermark is behind, from 0s to 30s")
	f.StringVar(&o.baselines, "baselines", "stored", "stored: as they were then; recompute: those of hours that none are stored of are computed")
	f.StringVar(&o.profile, "profile", "", "holds and sample minimums: standard or demo (default: of --config; demo for flyball up)")
	f.IntVar(&o.workers, "workers", runtime.NumCPU(), "goroutines that judge")
	return cmd
}

// twoWeeks is the range when none is given, and maxBacktest the longest one: baselines are kept for 60 days.
const (
	twoWeeks    = 14 * 24 * time.Hour
	maxBacktest = 60 * 24 * time.Hour
)

// check refuses what cannot be run.
func (o *backtestOptions) check(now time.Time) (err error) {
	usage := func(format string, args ...any) error { return &exitError{exitUsage, fmt.Errorf(format, args...)} }
	o.to = cmp.Or(o.to, now.Format(time.RFC3339))
	if o.from == "" {
		if to, err := parseMoment("--to", o.to); err == nil {
			o.from = to.Add(-twoWeeks).Format(time.RFC3339)
		}
	}
	if o.fromTime, o.toTime, err = o.times(); err != nil {
		return usage("%w", err)
	}
	switch {
	case o.toTime.Sub(o.fromTime) > maxBacktest:
		return usage("a range of %s is longer than 60 days, for which baselines are kept", o.toTime.Sub(o.fromTime))
	case o.every < time.Second || o.every > time.Minute || o.every%time.Millisecond != 0:
		return usage("--every %s: give whole milliseconds from 1s to 1m", o.every)
	case o.lag < 0 || o.lag > 30*time.Second:
		return usage("--lag %s: give a duration from 0s to 30s, which is as far as a watermark falls behind", o.lag)
	case o.workers < 1 || o.workers > 1024:
		return usage("--workers %d: give a number from 1 to 1024", o.workers)
	case o.baselines != "stored" && o.baselines != "recompute":
		return usage("--baselines %q is neither stored nor recompute", o.baselines)
	case o.profile != "" && o.profile != string(config.Standard) && o.profile != string(config.Demo):
		return usage("--profile %q is neither standard nor demo", o.profile)
	}
	return nil
}

func (o *backtestOptions) run(ctx context.Context, out, errs io.Writer) error {
	labels, labelled, err := o.verdictOptions.read()
	if err != nil {
		return err
	}
	names, sets, err := o.sets(errs)
	if err != nil {
		return err
	}
	c, err := o.configuration()
	if err != nil {
		return err
	}
	if o.config == "" {
		c.Profile = config.Demo
	}
	if o.profile != "" {
		c.Profile = config.Profile(o.profile)
	}
	store, err := openStore(ctx, c.ClickHouse, slog.New(slog.NewTextHandler(errs, nil)))
	if err != nil {
		return err
	}
	defer store.Close()
	past := backtest.Past{
		KnownQuery: clickhouse.KnownQuery{From: o.fromTime, To: o.toTime, Every: o.every, Tenant: o.tenant, Model: o.model},
		Options: backtest.Options{
			Sets: sets, Tuning: c.Profile.Tuning(), Lag: o.lag, Workers: o.workers,
			Partial: o.tenant != "" || o.model != "", OneModel: o.model != "",
		},
		Recompute: o.baselines == "recompute",
	}
	began := time.Now()
	finish := showProgress(&past, errs)
	result, err := backtest.Run(ctx, store, past)
	finish()
	if err != nil {
		return storeError(err)
	}
	report := past.Report(names, result)
	if labelled {
		report.Label(labels.Within(o.fromTime, o.toTime, o.tenant, o.model), o.grace)
	}
	if len(sets) == 2 {
		report.Compare(o.grace)
	}
	fmt.Fprintf(errs, "%.1f key-days in %s\n", report.KeyDays, time.Since(began).Round(10*time.Millisecond))
	return o.print(report, 0, out)
}

// sets compiles the directory and what it is compared with.
func (o *backtestOptions) sets(errs io.Writer) (names []string, sets []*policy.Set, err error) {
	dirs := [][]string{{o.dir}}
	switch o.against {
	case "":
	case "shipped":
		dirs = append(dirs, nil)
	default:
		dirs = append(dirs, []string{o.against})
	}
	for _, dir := range dirs {
		set, err := compilePolicies(dir, errs)
		if err != nil {
			return nil, nil, err
		}
		name := "shipped"
		if len(dir) == 1 {
			name = filepath.Base(filepath.Clean(dir[0]))
		}
		names, sets = append(names, name), append(sets, set)
	}
	return names, sets, nil
}

// showProgress has a backtest show how far it is, in key-days, with the time that is left. The bar is there on
// terminals only; finish takes it away.
func showProgress(past *backtest.Past, errs io.Writer) (finish func()) {
	terminal, _ := errs.(*os.File)
	ticks := int64(past.To.Sub(past.From)/past.Every) + 1
	bar := progressbar.NewOptions64(ticks,
		progressbar.OptionSetWriter(errs),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetVisibility(terminal != nil && term.IsTerminal(int(terminal.Fd()))))
	n := int64(0)
	past.Progress = func(_ time.Time, observed int64) {
		if n++; n%64 == 0 {
			bar.Describe(fmt.Sprintf("%.1f key-days", backtest.KeyDays(observed, past.Every)))
			_ = bar.Set64(n)
		}
	}
	return func() { _ = bar.Finish() }
}
