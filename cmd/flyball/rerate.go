package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"os/user"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
)

// stored is what the commands that work on stored telemetry have in common: where it is.
type stored struct{ config, state string }

func (o *stored) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.config, "config", "", "configuration of a real deployment, in place of --state")
	cmd.Flags().StringVar(&o.state, "state", ".flyball", "state folder of the running flyball up")
}

// configuration says where ClickHouse is, by which policies what runs there decides and at which pace: that of a
// deployment, or of a running flyball up.
func (o *stored) configuration() (config.Config, error) {
	if o.config != "" {
		return loadConfig(o.config)
	}
	c := config.Default()
	a, err := devstack.ReadAddresses(o.state)
	if err != nil {
		return c, &exitError{exitUsage, fmt.Errorf("%w: start flyball up here, or pass --config", err)}
	}
	c.ClickHouse = embeddedClickHouse(a.ClickHouse)
	c.Profile, c.Policies = cmp.Or(config.Profile(a.Profile), c.Profile), a.Policies
	return c, nil
}

// storedRange is where telemetry is stored, and when it is from.
type storedRange struct {
	stored
	from, to string
}

func (o *storedRange) flags(cmd *cobra.Command) {
	o.stored.flags(cmd)
	cmd.Flags().StringVar(&o.from, "from", "", "begin, as 2026-01-15 or 2026-01-15T09:00:00Z (UTC)")
	cmd.Flags().StringVar(&o.to, "to", "", "end, which is not in the range")
}

// times parses the range.
func (o *storedRange) times() (from, to time.Time, err error) {
	from, fromErr := parseMoment("--from", o.from)
	to, toErr := parseMoment("--to", o.to)
	if err := errors.Join(fromErr, toErr); err != nil {
		return from, to, err
	}
	if !from.Before(to) {
		return from, to, errors.New("--from must be before --to")
	}
	return from, to, nil
}

// rerateCommand prices stored calls again.
func rerateCommand() *cobra.Command {
	var o storedRange
	q := clickhouse.RerateQuery{}
	var bookFile string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rerate --from TIME --to TIME",
		Short: "Price stored calls again, once, with an audit row",
		Long: "Price the calls of a range by the current book: those that no price was found for, or with --all every\n" +
			"one. The differences reach every rollup and the calls themselves, and what was done is kept in the table\n" +
			"rerates. It may run while calls come in. A run that is cut short is finished by the next one.",
		Example: "  flyball rerate --from 2026-01-01 --to 2026-02-01 --dry-run\n" +
			"  flyball rerate --from 2026-01-01 --to 2026-02-01 --book prices.yaml --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if q.From, q.To, err = o.times(); err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := o.configuration()
			if err != nil {
				return err
			}
			if q.Book, err = loadBook(cmp.Or(bookFile, c.PriceBook)); err != nil {
				return &exitError{exitUsage, err}
			}
			store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			q.ID = uuid.NewString()
			if u, err := user.Current(); err == nil && q.By == "" {
				q.By = u.Username
			}
			q.Progress = func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), step) }
			done, err := store.Rerate(cmd.Context(), q)
			if err != nil {
				return storeError(err)
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(rerateJSON(done, q.DryRun))
			}
			printRerate(cmd.OutOrStdout(), done, q.DryRun)
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&bookFile, "book", "", "price book to use in place of the configured one")
	cmd.Flags().BoolVar(&q.All, "all", false, "every call, not only those without a price")
	cmd.Flags().BoolVar(&q.DryRun, "dry-run", false, "say what would change, and change nothing")
	cmd.Flags().StringVar(&q.By, "who", "", "who orders it, for the audit (default: your login)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// storeError gives an error of the store its exit code.
func storeError(err error) error {
	if clickhouse.Retryable(err) {
		return &exitError{exitAway, err}
	}
	return &exitError{exitFailed, err}
}

// dollars is a sum of pico-dollars, of any size, as a decimal.
func dollars(pico *big.Int) string {
	text := new(big.Rat).SetFrac(pico, big.NewInt(1e12)).FloatString(12)
	return strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
}

func rerateJSON(r clickhouse.Rerate, dry bool) map[string]any {
	return map[string]any{
		"id": r.ID, "by": r.By, "from": r.From, "to": r.To, "all": r.All, "dry_run": dry, "books_before": append([]string{}, r.BooksBefore...), "book": r.Book,
		"examined": r.Examined, "changed": r.Changed, "unknown": r.Unknown, "cost_before_usd": dollars(r.CostBefore), "cost_after_usd": dollars(r.CostAfter),
	}
}

func printRerate(out io.Writer, r clickhouse.Rerate, dry bool) {
	verb := "changed"
	if dry {
		verb = "would change"
	}
	fmt.Fprintf(out, "%d calls examined, %d %s, %d without a price by book %s\n", r.Examined, r.Changed, verb, r.Unknown, r.Book)
	if r.Changed > 0 {
		fmt.Fprintf(out, "their cost: $%s before (%s), $%s after\n", dollars(r.CostBefore), strings.Join(r.BooksBefore, ", "), dollars(r.CostAfter))
	}
}

// rebuildCommand computes rollups anew.
func rebuildCommand() *cobra.Command {
	var o storedRange
	cmd := &cobra.Command{
		Use:   "rebuild --from TIME --to TIME",
		Short: "Compute the rollups of whole months anew from the raw rows",
		Long: "Compute the rollups of the months that the range touches from the raw calls, scores and outcomes: once\n" +
			"after an upgrade that adds rollups. Before it stop the senders, wait until GET /v1/ingest says\n" +
			"spool_rows: 0, and stop ingest: a batch that is under way would count twice. A rerate that was cut short\n" +
			"is finished first; start none meanwhile. It is safe to be cut short and repeated. Months whose raw rows\n" +
			"have expired are refused.",
		Example: "  flyball rebuild --from 2026-01-01 --to 2026-03-01 --config deploy/flyball.yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, to, err := o.times()
			if err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := o.configuration()
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			if err := store.RebuildRollups(cmd.Context(), from, to, func(step string) { fmt.Fprintln(cmd.ErrOrStderr(), step) }); err != nil {
				return storeError(err)
			}
			return nil
		},
	}
	o.flags(cmd)
	return cmd
}
