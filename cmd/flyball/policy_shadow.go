package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
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
			span, err := parseSpan(since)
			if err != nil {
				return &exitError{exitUsage, fmt.Errorf("--since %q: %w", since, err)}
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
			to := time.Now().UTC()
			report, err := backtest.ReadShadow(cmd.Context(), store, to.Add(-span), to)
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
	cmd.Flags().StringVar(&since, "since", "14d", "how far back, as 14d or 36h; 60 days are kept")
	return cmd
}

// maxSpan is how long what shadow mode finds is kept.
const maxSpan = 60 * 24 * time.Hour

// parseSpan reads a duration that may be in days.
func parseSpan(text string) (time.Duration, error) {
	span, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		span = time.Duration(min(max(n, -1), 1000)) * 24 * time.Hour
	}
	if err != nil || span <= 0 || span > maxSpan {
		return 0, errors.New("give a time up to 60d, as 14d or 36h")
	}
	return span, nil
}
