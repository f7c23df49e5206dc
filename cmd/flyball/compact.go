package main

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
)

// compactCommand shrinks the rollups of closed years.
func compactCommand() *cobra.Command {
	var where stored
	var before int
	var dry bool
	cmd := &cobra.Command{
		Use:   "compact",
		Short: "Shrink the day rollups of years long closed",
		Long: "Keep the percentiles of closed years by the month, where their sums stay by the day. Closed are the years\n" +
			"before the last two, of which hours and calls have expired. Run it once a year. It may run while calls\n" +
			"come in, and be cut short and repeated: what is done already is left as it is.",
		Example: "  flyball compact --dry-run\n" +
			"  flyball compact --before 2024 --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now()
			if cmd.Flags().Changed("before") {
				if err := clickhouse.CheckCompactBefore(before, now); err != nil {
					return &exitError{exitUsage, fmt.Errorf("--before: %w", err)}
				}
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
			fmt.Fprintln(cmd.OutOrStdout(), "month\ttable\trows_moved\tbytes_before\tbytes_after")
			if err := store.Compact(cmd.Context(), before, now, dry, func(c clickhouse.Compaction) { printCompaction(cmd.OutOrStdout(), c, dry) }); err != nil {
				return storeError(err)
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&before, "before", 0, "the first year that stays as it is (default: two years ago)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be moved, and move nothing")
	where.flags(cmd)
	return cmd
}

func printCompaction(out io.Writer, c clickhouse.Compaction, dry bool) {
	after := fmt.Sprint(c.After)
	if dry {
		after = "-"
	}
	fmt.Fprintf(out, "%s\t%s\t%d\t%d\t%s\n", c.Month.Format("2006-01"), c.Table, c.Moved, c.Before, after)
}
