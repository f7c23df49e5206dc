package main

import (
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
)

// reportDays is how many UTC days are reported on when no range is given, today among them: as the console's API has it.
const reportDays = 30

func fallbackReportCommand() *cobra.Command {
	var o storedRange
	var tenant string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "report [--from TIME --to TIME] [--tenant TENANT]",
		Short: "Show what the rule saved and what quality it cost, against its holdback",
		Long: `Show for each tenant and rule, over the last 30 days when no range is given, what the calls that fell back cost and how
good they were, against the holdback: calls that the rule fired on and left alone. Sessions are dealt to the arms, and
intervals of 95 % are those of a jackknife over sessions. What cannot be told is left empty, never 0.`,
		Example: "  flyball fallback report --tenant org_42\n  flyball fallback report --from 2026-01-15 --to 2026-02-15 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.from == "" && o.to == "" {
				tomorrow := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 1)
				o.from, o.to = tomorrow.AddDate(0, 0, -reportDays).Format(time.RFC3339), tomorrow.Format(time.RFC3339)
			}
			q := clickhouse.WorthQuery{Tenant: tenant}
			var err error
			if q.From, q.To, err = o.times(); err != nil {
				return &exitError{exitUsage, err}
			}
			config, err := o.configuration()
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), config.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			worth, err := store.FallbackWorth(cmd.Context(), q)
			if err != nil {
				return storeError(err)
			}
			if asJSON {
				return writeLines(cmd.OutOrStdout(), fallbackWorths(worth))
			}
			return printWorth(cmd.OutOrStdout(), worth)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant alone; drills are shown only so")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per tenant and rule, as GET /api/fallback does")
	return cmd
}

// fallbackWorths are measurements as the console's API and --json show them.
func fallbackWorths(all []contract.FallbackWorth) []console.FallbackWorth {
	shown := make([]console.FallbackWorth, len(all))
	for i, w := range all {
		shown[i] = console.FallbackWorth{Tenant: w.Tenant, Rule: w.Rule, Holdback: w.Holdback, Worth: console.Worth{
			MeasuredAt: w.MeasuredAt, Treated: w.Treated, Compared: w.Compared,
		}}
		if s := w.Saved; s != nil {
			shown[i].Saved, shown[i].SavedLow, shown[i].SavedHigh = decimal(s.Pico), decimal(s.Low), decimal(s.High)
		}
		if q := w.Quality; q != nil {
			shown[i].Quality, shown[i].QualityLow, shown[i].QualityHigh = &q.By, q.Low, q.High
		}
	}
	return shown
}

func printWorth(out io.Writer, all []contract.FallbackWorth) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "No call fell back in this time, nor was one held back.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "TENANT\tRULE\tTREATED\tHOLDBACK\tSAVED\tQUALITY")
	for _, w := range all {
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", w.Tenant, w.Rule, w.Treated, w.Holdback, worthSaved(w), worthQuality(w))
	}
	return table.Flush()
}

func worthSaved(w contract.FallbackWorth) string {
	s := w.Saved
	switch {
	case s == nil:
		return "not known"
	case s.Low == nil:
		return "$" + dollars(s.Pico)
	}
	return fmt.Sprintf("$%s (%s to %s)", dollars(s.Pico), dollars(s.Low), dollars(s.High))
}

func worthQuality(w contract.FallbackWorth) string {
	q := w.Quality
	switch {
	case q == nil:
		return "not known"
	case q.Low == nil:
		return fmt.Sprintf("%+.3f", q.By)
	}
	return fmt.Sprintf("%+.3f (%+.3f to %+.3f)", q.By, *q.Low, *q.High)
}
