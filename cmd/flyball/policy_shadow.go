package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/backtest"
)

// policyShadowCommand reports on what a second policy set has found beside the live one.
func policyShadowCommand() *cobra.Command {
	var where stored
	var o verdictOptions
	var since string
	cmd := &cobra.Command{
		Use:   "shadow",
		Short: "Compare what the second policy set found with what the live one did",
		Long: `Report on shadow mode: what a second policy set (policies_shadow in the configuration, flyball up --policies-shadow) would
have found and proposed, beside what the live set did, and how the two differ.

Both are followed alike, as if nobody had acted: an incident of either lasts until the telemetry is well again. Of
incidents that began before the time in question only their end is known, and they are left out. With --labels both are
compared with a log of incidents, see docs/formats.md; --min-recall and --min-precision are of the second set.`,
		Example: "  flyball policy shadow\n" +
			"  flyball policy shadow --since 14d --labels incidents.yaml --min-recall 0.9\n" +
			"  flyball policy shadow --since 24h --json --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			to := time.Now().UTC()
			from, err := shadowSince(since, to)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			labels, labelled, err := o.read()
			if err != nil {
				return err
			}
			c, err := where.configuration()
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			report, err := backtest.ReadShadow(cmd.Context(), store, from, to)
			if err != nil {
				return storeError(err)
			}
			if labelled {
				report.Label(labels.Within(report.From, report.To, "", ""), o.grace)
			}
			report.Compare(o.grace)
			return o.print(report, 1, cmd.OutOrStdout())
		},
	}
	where.flags(cmd)
	o.flags(cmd)
	cmd.Flags().StringVar(&since, "since", "14d", "from then on: 14d, 36h, 2026-01-15 or 2026-01-15T09:00:00Z (UTC); 60 days are kept")
	return cmd
}

// maxSpan is how long what shadow mode finds is kept.
const maxSpan = 60 * 24 * time.Hour

// shadowSince reads from when on shadow mode is reported on.
func shadowSince(text string, now time.Time) (time.Time, error) {
	from, err := parseSince("--since", text, now)
	if err == nil && (!from.Before(now) || now.Sub(from) > maxSpan) {
		err = fmt.Errorf("--since %q: give a time within the last 60 days, as 14d, 36h or 2026-01-15", text)
	}
	return from, err
}
