package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/standing"
)

// judging is what the commands on stored scores have in common.
type judging struct {
	stored
	who, reason string
	oldName     string // of the evaluator that is replaced, where it is not another version of the same
	since       string
	from        time.Time // that since says
	asJSON      bool
}

func (o *judging) flags(cmd *cobra.Command) {
	o.stored.flags(cmd)
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
}

func (o *judging) changeFlags(cmd *cobra.Command) {
	o.flags(cmd)
	cmd.Flags().StringVar(&o.who, "who", whoami(), "who says so")
	cmd.Flags().StringVar(&o.reason, "reason", "", "why")
	o.oldFlag(cmd)
}

func (o *judging) oldFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.oldName, "old-evaluator", "", "name of the old evaluator (default: the same)")
}

func (o *judging) sinceFlag(cmd *cobra.Command, since, what string) {
	cmd.Flags().StringVar(&o.since, "since", since, what+": 7d, 36h, 2026-01-15 or 2026-01-15T09:00:00Z (UTC)")
}

// open connects to where scores are stored.
func (o *judging) open(cmd *cobra.Command) (*clickhouse.Store, error) {
	now := time.Now().UTC()
	var err error
	if o.from, err = parseSince("--since", o.since, now); err == nil && !o.from.Before(now) {
		err = fmt.Errorf("--since %q is not in the past", o.since)
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	c, err := o.configuration()
	if err != nil {
		return nil, err
	}
	return openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
}

// versions are those that the arguments NAME OLD NEW speak of.
func (o *judging) versions(name, old, now string) (was, will contract.EvaluatorVersion) {
	return contract.EvaluatorVersion{Evaluator: cmp.Or(o.oldName, name), Version: old}, contract.EvaluatorVersion{Evaluator: name, Version: now}
}

func (o *judging) by(otherwise string) (standing.Who, error) {
	if o.who == "" {
		return standing.Who{}, &exitError{exitUsage, errors.New("say who you are with --who: it is kept with what you say")}
	}
	return standing.Who{By: o.who, Reason: cmp.Or(o.reason, otherwise)}, nil
}

// store writes records down, and says so.
func (o *judging) store(ctx context.Context, store *clickhouse.Store, records []contract.EvaluatorRecord, out io.Writer) error {
	if err := store.SetEvaluators(ctx, records); err != nil {
		return storeError(err)
	}
	if o.asJSON {
		return writeLines(out, records)
	}
	for _, r := range records {
		scale := "as they are"
		if len(r.Mapping.From) > 0 {
			scale = fmt.Sprintf("by a mapping (%s, %s)", r.Mapping.Method, plural(len(r.Mapping.From), "knot"))
		}
		fmt.Fprintf(out, "%s is %s for scores from %s on, %s\n",
			contract.EvaluatorVersion{Evaluator: r.Evaluator, Version: r.Version}, r.Standing, r.Since.Format(time.RFC3339), scale)
	}
	return nil
}

func judgeEvaluatorsCommand() *cobra.Command {
	o := judging{}
	cmd := &cobra.Command{
		Use:     "evaluators",
		Short:   "List the evaluators, what their scores count for, and what they gave lately",
		Example: "  flyball judge evaluators\n  flyball judge evaluators --json --since 1d",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			now := time.Now().UTC()
			history, err := store.EvaluatorHistory(cmd.Context())
			if err != nil {
				return storeError(err)
			}
			scores, err := store.EvaluatorScores(cmd.Context(), o.from, now.Add(time.Hour))
			if err != nil {
				return storeError(err)
			}
			lines := standing.List(history, scores, now)
			if o.asJSON {
				return writeLines(cmd.OutOrStdout(), lines)
			}
			return printEvaluators(cmd.OutOrStdout(), lines)
		},
	}
	o.flags(cmd)
	o.sinceFlag(cmd, "7d", "count scores since then")
	return cmd
}

func printEvaluators(out io.Writer, lines []standing.Line) error {
	if len(lines) == 0 {
		_, err := fmt.Fprintln(out, "No evaluator has given a score, and nobody has spoken of one.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "EVALUATOR\tVERSION\tKIND\tSTANDING\tSINCE\tSCORED\tCOUNTED\tMEAN\tON SCALE\tMAPPING\tBY\tREASON")
	for _, l := range lines {
		since, mean, calibrated := "-", "-", "-"
		if l.Since.Year() > 2020 {
			since = l.Since.Format(time.DateTime)
		}
		if l.Scored > 0 {
			mean, calibrated = fmt.Sprintf("%.3f", l.Mean), fmt.Sprintf("%.3f", l.Calibrated)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s\n", l.Evaluator, cmp.Or(l.Version, "-"), cmp.Or(l.Kind, "-"), l.Standing, since,
			l.Scored, l.Counted, mean, calibrated, cmp.Or(l.Mapping, "-"), cmp.Or(l.By, "-"), l.Reason)
	}
	return table.Flush()
}

func trialCommand() *cobra.Command {
	o := judging{}
	var against string
	cmd := &cobra.Command{
		Use:   "trial NAME VERSION --against OLD",
		Short: "Put a version of an evaluator beside the one that counts",
		Long: "The scores of a version on trial are stored, and reach neither detection nor baselines. Say so before it sends\n" +
			"its first score. Then let whoever sends the scores send those of both for a week, and compare them.",
		Example: "  flyball judge trial helpfulness 2026-06 --against 2026-05",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if against == "" {
				return &exitError{exitUsage, errors.New("say with --against which version counts now")}
			}
			who, err := o.by("beside " + against)
			if err != nil {
				return err
			}
			store, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			history, err := store.EvaluatorHistory(cmd.Context())
			if err != nil {
				return storeError(err)
			}
			old, now := o.versions(args[0], against, args[1])
			record, err := standing.Trial(history, now, old, time.Now(), who)
			if err != nil {
				return &exitError{exitFailed, err}
			}
			return o.store(cmd.Context(), store, []contract.EvaluatorRecord{record}, cmd.OutOrStdout())
		},
	}
	o.changeFlags(cmd)
	cmd.Flags().StringVar(&against, "against", "", "the version that counts now")
	return cmd
}

func compareCommand() *cobra.Command {
	o := judging{}
	cmd := &cobra.Command{
		Use:   "compare NAME OLD NEW",
		Short: "Compare two versions of an evaluator by the calls that both have scored",
		Long: `Pair the scores of two versions by their calls, and say how far they agree, how far the new ones lie from the old
ones, and which mapping would put them on the same scale: the quantile mapping, which gives equal ranks equal scores, or the
isotonic one, which errs least on each call, by errors on calls that the fit has not seen; also how far each agrees
with people where they rated calls, and what a switch would do to each tenant's model. Of more than 100,000
calls a share is taken.`,
		Example: "  flyball judge compare helpfulness 2026-05 2026-06\n  flyball judge compare helpfulness 2026-05 2026-06 --since 30d --json",
		Args:    cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			old, now := o.versions(args[0], args[1], args[2])
			found, err := o.compare(cmd.Context(), store, old, now)
			if err != nil {
				return err
			}
			if o.asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(found)
			}
			return printComparison(cmd.OutOrStdout(), found)
		},
	}
	o.flags(cmd)
	o.oldFlag(cmd)
	o.sinceFlag(cmd, "7d", "compare calls since then")
	return cmd
}

// compared is what the store says of two versions.
type compared struct {
	standing.Comparison
	Part  int    `json:"one_in"` // of the calls, when there are too many
	Ready bool   `json:"ready"`
	Why   string `json:"why,omitempty"` // it is not ready

	pairs   []calibrate.Pair
	history []contract.EvaluatorRecord
}

func (o *judging) compare(ctx context.Context, store *clickhouse.Store, old, now contract.EvaluatorVersion) (*compared, error) {
	at := time.Now().UTC()
	c := &compared{}
	var err error
	if c.history, err = store.EvaluatorHistory(ctx); err != nil {
		return nil, storeError(err)
	}
	both, part, err := store.BothScored(ctx, contract.BothScoredQuery{Old: old, New: now, From: o.from, To: at.Add(time.Hour)})
	if err != nil {
		return nil, storeError(err)
	}
	var rated []contract.RatedScore
	for _, v := range []contract.EvaluatorVersion{old, now} {
		of, err := store.HumanPairs(ctx, contract.HumanPairsQuery{
			Evaluator: v.Evaluator, Version: v.Version, From: o.from, To: at.Add(time.Hour),
		})
		if err != nil {
			return nil, storeError(err)
		}
		rated = append(rated, of...)
	}
	inForce, _ := standing.InForce(c.history, old, at)
	c.Comparison, c.Part = standing.Compare(old, now, both, inForce.Mapping, rated), part
	c.pairs = standing.PairsOf(both, inForce.Mapping)
	if err := c.Comparison.Ready(); err != nil {
		c.Why = err.Error()
	}
	c.Ready = c.Why == ""
	return c, nil
}

// maxKeyRows is how many keys are shown.
const maxKeyRows = 20

func printComparison(out io.Writer, c *compared) error {
	fmt.Fprintf(out, "%s against %s: %s", c.New, c.Old, plural(c.Agreement.N, "call"))
	if c.Part > 1 {
		fmt.Fprintf(out, ", one in %d", c.Part)
	}
	if c.Agreement.N > 0 {
		fmt.Fprintf(out, ", %s to %s, mean %+.3f", c.First.Format(time.DateTime), c.Last.Format(time.DateTime), c.Shift)
	}
	fmt.Fprint(out, "\n\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "AGREEMENT OF\tCALLS\tSPEARMAN\t95 %\tKENDALL\tPEARSON")
	for _, row := range []struct {
		name string
		c    calibrate.Correlation
	}{{"new with old", c.Agreement}, {"old with people", c.OldHuman}, {"new with people", c.NewHuman}} {
		if !row.c.Known {
			fmt.Fprintf(table, "%s\t%d\tnot known\n", row.name, row.c.N)
			continue
		}
		low, high := row.c.SpearmanInterval()
		fmt.Fprintf(table, "%s\t%d\t%.3f\t%.3f to %.3f\t%.3f\t%.3f\n", row.name, row.c.N, row.c.Spearman, low, high, row.c.Kendall, row.c.Pearson)
	}
	fmt.Fprintln(table)
	if len(c.Mappings.Errors) > 0 {
		fmt.Fprintf(table, "MAPPING\tERROR\tMEDIAN\tSPREAD\t(on calls that the fit has not seen, %d folds)\n", c.Mappings.Folds)
	}
	for _, e := range c.Mappings.Errors {
		best := ""
		if e.Method == c.Mappings.Best {
			best = "the better one"
		}
		fmt.Fprintf(table, "%s\t%.4f\t%+.4f\t%.2f\t%s\n", e.Method, e.RMSE, e.Median, e.Spread, best)
	}
	for i, k := range c.Keys {
		if i == 0 {
			fmt.Fprintln(table, "\nTENANT\tMODEL\tCALLS\tSPEARMAN\tMEAN MOVES\tMAPPED")
		}
		if i == maxKeyRows {
			fmt.Fprintf(table, "and %d more\n", len(c.Keys)-i)
			break
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.3f\t%+.3f\t%+.3f\n", k.Key.Tenant, k.Key.Model, k.Agreement.N, k.Agreement.Spearman, k.Shift, k.Mapped)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if !c.Ready {
		_, err := fmt.Fprintf(out, "\nNot ready to be switched:\n%s\n", indent(c.Why))
		return err
	}
	_, err := fmt.Fprintf(out, "\nReady: flyball judge switch %s %s %s\n", c.New.Evaluator, c.Old.Version, c.New.Version)
	return err
}

func switchCommand() *cobra.Command {
	o := judging{}
	var mapping string
	var force, back bool
	cmd := &cobra.Command{
		Use:   "switch NAME OLD NEW",
		Short: "Let a new version of an evaluator count in place of the old one",
		Long: fmt.Sprintf(`From one instant on, %s from now, so that every ingest hears of it in time, the new version's scores count, put on the
scale of the baselines by a mapping that is fitted to the calls that both have scored, and the old one's are kept aside.
Baselines stay as they are. Scores count by their own time, however late they come.

It is refused while both have scored fewer than %d calls, or ran beside each other for less than a week, or the new one does
not agree with people. --force does it all the same; --back undoes the last switch of the two.`, standing.Lead, calibrate.LeastPairs),
		Example: "  flyball judge switch helpfulness 2026-05 2026-06\n" +
			"  flyball judge switch helpfulness 2026-05 2026-06 --mapping quantile\n" +
			"  flyball judge switch helpfulness 2026-05 2026-06 --back",
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			methods := map[string]calibrate.Method{"auto": "", "isotonic": calibrate.Isotonic, "quantile": calibrate.Quantile, "none": calibrate.Same}
			method, ok := methods[mapping]
			if !ok {
				return &exitError{exitUsage, fmt.Errorf("--mapping %q: there are auto, isotonic, quantile and none", mapping)}
			}
			store, err := o.open(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			old, now := o.versions(args[0], args[1], args[2])
			var records []contract.EvaluatorRecord
			if back {
				records, err = o.backRecords(cmd.Context(), store, old, now)
			} else {
				records, err = o.switchRecords(cmd.Context(), store, old, now, method, force)
			}
			if err != nil {
				return err
			}
			return o.store(cmd.Context(), store, records, cmd.OutOrStdout())
		},
	}
	o.changeFlags(cmd)
	cmd.Flags().StringVar(&mapping, "mapping", "auto", "auto (the better one by held-out error), isotonic, quantile or none")
	cmd.Flags().BoolVar(&force, "force", false, "although it is not ready")
	cmd.Flags().BoolVar(&back, "back", false, "undo the last switch of the two")
	o.sinceFlag(cmd, "30d", "compare calls since then")
	return cmd
}

func (o *judging) switchRecords(ctx context.Context, store *clickhouse.Store, old, now contract.EvaluatorVersion,
	method calibrate.Method, force bool,
) ([]contract.EvaluatorRecord, error) {
	c, err := o.compare(ctx, store, old, now)
	if err != nil {
		return nil, err
	}
	if !c.Ready && !force {
		return nil, &exitError{exitFailed, fmt.Errorf("%s is not ready to replace %s:\n%s\nLet both run on, or pass --force", now, old, indent(c.Why))}
	}
	if method == "" {
		method = c.Mappings.Best
	}
	if method != calibrate.Same && c.Agreement.N < 2 {
		return nil, &exitError{exitFailed, errors.New("no call has been scored by both, and a mapping is fitted to those: pass --mapping none")}
	}
	who, err := o.by(fmt.Sprintf("in place of %s: %s, Spearman %.2f", old, plural(c.Agreement.N, "call"), c.Agreement.Spearman))
	if err != nil {
		return nil, err
	}
	records, err := standing.Switch(c.history, old, now, calibrate.Fit(method, c.pairs), time.Now(), who)
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	return records, nil
}

func (o *judging) backRecords(ctx context.Context, store *clickhouse.Store, old, now contract.EvaluatorVersion) ([]contract.EvaluatorRecord, error) {
	who, err := o.by("the switch is undone")
	if err != nil {
		return nil, err
	}
	history, err := store.EvaluatorHistory(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	records, err := standing.Back(history, old, now, time.Now(), who)
	if err != nil {
		return nil, &exitError{exitFailed, err}
	}
	return records, nil
}
