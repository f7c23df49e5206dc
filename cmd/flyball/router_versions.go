package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/router"
)

func routerTrainCommand() *cobra.Command {
	var file outcomesFile
	var o stored
	var store bool
	t := router.Training{}
	cmd := &cobra.Command{
		Use:   "train [FILE]",
		Short: "Train a version of the predictor from a file of outcomes, or from stored calls that have scores",
		Long: `Train a head for each model, and for each task of a model that has enough scored answers, at least 100 with 10 good and
10 bad ones. With FILE, of flyball router eval's formats, print the version as JSON; - is standard input. Without, train from the
stored calls of the last 90 days that have scores, and store the version. With FILE and --store, store that one. Where the
configuration has router.embeddings, that endpoint reads the prompts of FILE; stored calls keep what it has made of theirs.

A stored version is in the shadow: it acts on nothing until flyball router use.
Exit 1 when there are too few scored calls, or a bad row was left out.`,
		Example: "  flyball router train outcomes.csv > predictor.json\n  flyball router train outcomes.csv --store\n  flyball router train",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.Folds < 2 || t.Folds > 100 {
				return &exitError{exitUsage, errors.New("want 2 to 100 --folds")}
			}
			t.At = time.Now().UTC().Truncate(time.Second)
			var db *clickhouse.Store
			store = store || len(args) == 0
			reads, err := o.reading(store)
			if err != nil {
				return err
			}
			extract := reads.Reading().Extractor("")
			if store {
				if db, err = o.openStored(cmd); err != nil {
					return err
				}
				defer db.Close()
				salt, err := db.RouterSalt(cmd.Context())
				if err != nil {
					return err
				}
				extract = reads.Reading().Extractor(salt)
			}
			t.Features = extract.Name()
			tuples, bad, err := tuplesToTrain(cmd, db, &file, promptReader{reads, extract}, args, t.At)
			if err != nil {
				return err
			}
			m, err := router.Train(tuples, t)
			if errors.Is(err, router.ErrFew) {
				return &exitError{exitFailed, err}
			}
			if err != nil {
				return &exitError{exitUsage, err}
			}
			if err := keepOrPrint(cmd, db, m); err != nil {
				return err
			}
			if bad > 0 {
				return &exitError{exitFailed, fmt.Errorf("%s: %s left out", args[0], plural(bad, "bad row"))}
			}
			return nil
		},
	}
	file.flags(cmd)
	o.flags(cmd)
	cmd.Flags().BoolVar(&store, "store", false, "store what was trained from FILE, in the shadow")
	cmd.Flags().IntVar(&t.Folds, "folds", 5, "that the prompts are divided into, to choose penalties and to measure")
	cmd.Flags().Uint64Var(&t.Seed, "seed", 1, "of the division into folds")
	return cmd
}

func tuplesToTrain(cmd *cobra.Command, db *clickhouse.Store, file *outcomesFile, reads promptReader, args []string, now time.Time) (tuples []router.Tuple, bad int, err error) {
	if len(args) == 0 {
		tuples, err = db.ScoredTuples(cmd.Context(), reads.extract.Name(), now.Add(-router.Memory), now)
		return tuples, 0, err
	}
	rows, _, bad, err := file.read(cmd, args[0])
	if err != nil {
		return nil, bad, err
	}
	features, err := reads.features(cmd.Context(), rows)
	if err != nil {
		return nil, bad, err
	}
	return router.Tuples(rows, features), bad, nil
}

// keepOrPrint stores the version in the shadow and tells how good it is, or prints it where there is no store.
func keepOrPrint(cmd *cobra.Command, db *clickhouse.Store, m *router.Model) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if db == nil {
		if err := printHeads(cmd.ErrOrStderr(), m); err != nil {
			return err
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), string(raw))
		return err
	}
	versions, err := db.Predictors(cmd.Context())
	if err != nil {
		return err
	}
	if err := db.AddPredictor(cmd.Context(), m, raw); err != nil {
		return err
	}
	changes := router.LineupOf(versions).Introduce(m.Version, time.Now().UTC(), whoami())
	if err := db.SetPredictorStates(cmd.Context(), changes); err != nil {
		return err
	}
	return printHeads(cmd.OutOrStdout(), m)
}

func printHeads(out io.Writer, m *router.Model) error {
	fmt.Fprintf(out, "%s, from %s\n", m.Version, plural(m.N, "scored answer"))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "MODEL\tTASK\tN\tMEAN\tAUC\tLOG LOSS\tOF THE MEAN")
	for _, h := range m.Heads {
		auc := "-"
		if h.Metrics.AUC != nil {
			auc = fmt.Sprintf("%.4f", *h.Metrics.AUC)
		}
		task := h.Task
		if task == "" {
			task = "all"
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%.4f\t%s\t%.4f\t%.4f\n", h.Model, task, h.Metrics.N, h.Base, auc, h.Metrics.LogLoss, h.Metrics.BaseLogLoss)
	}
	return table.Flush()
}

func routerListCommand() *cobra.Command {
	var o stored
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the stored versions of the predictor, and what each is used for", Args: cobra.NoArgs,
		Example: "  flyball router list\n  flyball router list --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			db, err := o.openStored(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			versions, err := db.Predictors(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(append([]router.Version{}, versions...))
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "VERSION\tN\tSTATE\tSINCE\tBY\tREASON")
			for _, v := range versions {
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\n", v.Version, v.N, v.State, v.Since.Format(time.RFC3339), v.By, v.Reason)
			}
			return table.Flush()
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func routerShowCommand() *cobra.Command {
	var o stored
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show VERSION", Short: "Show how well a stored version predicts, out of fold", Args: cobra.ExactArgs(1),
		Example: "  flyball router show 20260504T090000Z-0a1b2c3d\n  flyball router show 20260504T090000Z-0a1b2c3d --json > predictor.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			db, err := o.openStored(cmd)
			if err != nil {
				return err
			}
			defer db.Close()
			raw, err := db.Predictor(cmd.Context(), args[0])
			if err != nil {
				return predictorError(err)
			}
			if asJSON {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), string(raw))
				return err
			}
			m, err := router.ReadModel(raw)
			if err != nil {
				return err
			}
			return printHeads(cmd.OutOrStdout(), m)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the version with its weights")
	return cmd
}

// predictorError says that a version that is not there was named, not that something failed.
func predictorError(err error) error {
	if errors.Is(err, clickhouse.ErrNoPredictor) {
		return &exitError{exitFailed, fmt.Errorf("%w: flyball router list names those that are", err)}
	}
	return err
}

func routerUseCommand() *cobra.Command {
	var o stored
	p := person{must: "it is kept with the version"}
	cmd := &cobra.Command{
		Use: "use VERSION", Short: "Use a version from now on, in place of the one that is", Args: cobra.ExactArgs(1),
		Example: "  flyball router use 20260504T090000Z-0a1b2c3d --reason 'better in the shadow'",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.switchPredictor(cmd, &p, func(ctx context.Context, db *clickhouse.Store, versions []router.Version) ([]router.Change, error) {
				at := slices.IndexFunc(versions, func(v router.Version) bool { return v.Version == args[0] })
				if at < 0 {
					return nil, predictorError(fmt.Errorf("%w: %q", clickhouse.ErrNoPredictor, args[0]))
				}
				raw, err := db.Predictor(ctx, args[0])
				if err != nil {
					return nil, err
				}
				salt, err := db.RouterSalt(ctx)
				if err != nil {
					return nil, err
				}
				m, err := router.ReadModel(raw)
				if err != nil {
					return nil, err
				}
				reads, err := o.reading(true)
				if err != nil {
					return nil, err
				}
				if _, err := router.NewPredictor(m, reads.Reading().Extractor(salt)); err != nil {
					return nil, &exitError{exitFailed, err}
				}
				return router.LineupOf(versions).Use(args[0], router.Retired, time.Now().UTC(), p.who, p.reason), nil
			})
		},
	}
	o.flags(cmd)
	p.flags(cmd)
	return cmd
}

func routerRollbackCommand() *cobra.Command {
	var o stored
	p := person{must: "it is kept with the version"}
	cmd := &cobra.Command{
		Use: "rollback", Short: "Go back to the version that was used before, or to none where there is none", Args: cobra.NoArgs,
		Long:    "Go back to the version that was used before, or to none where there is none. The one that is left is never gone back to.",
		Example: "  flyball router rollback --reason 'it takes hard prompts for easy ones'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.switchPredictor(cmd, &p, func(_ context.Context, _ *clickhouse.Store, versions []router.Version) ([]router.Change, error) {
				changes, err := router.LineupOf(versions).Rollback(time.Now().UTC(), p.who, p.reason)
				if err != nil {
					return nil, &exitError{exitFailed, err}
				}
				return changes, nil
			})
		},
	}
	o.flags(cmd)
	p.flags(cmd)
	return cmd
}

// switchPredictor stores what becomes of versions and prints it.
func (o *stored) switchPredictor(cmd *cobra.Command, p *person, decide func(context.Context, *clickhouse.Store, []router.Version) ([]router.Change, error)) error {
	if err := p.check(); err != nil {
		return err
	}
	db, err := o.openStored(cmd)
	if err != nil {
		return err
	}
	defer db.Close()
	versions, err := db.Predictors(cmd.Context())
	if err != nil {
		return err
	}
	changes, err := decide(cmd.Context(), db, versions)
	if err != nil {
		return err
	}
	if err := db.SetPredictorStates(cmd.Context(), changes); err != nil {
		return err
	}
	for _, c := range changes {
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", c.Version, c.State)
	}
	return nil
}
