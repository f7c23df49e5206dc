package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/effect"
)

// reportsCommand holds the reports on money.
func reportsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "report", Short: "Report on money", Example: "  flyball report savings --from 2026-01-01 --to 2026-02-01"}
	cmd.AddCommand(savingsCommand())
	return cmd
}

// shortSavings are what people call the dimensions of savings.
var shortSavings = map[string]string{
	"tenant": clickhouse.SavingsByTenant, "model": clickhouse.SavingsByModel, "action": clickhouse.SavingsByAction,
	"day": clickhouse.SavingsByDay, "decision": clickhouse.SavingsByDecision,
}

func savingsCommand() *cobra.Command {
	var o storedRange
	var by []string
	var format string
	q := clickhouse.SavingsQuery{}
	cmd := &cobra.Command{
		Use:   "savings",
		Short: "Report what decisions saved, treated calls against the holdback",
		Long: "Report what decisions saved on the UTC days of a range, the last 30 when none is given, by the newest measurement of\n" +
			"each: no call counts twice. SAVED is of decisions whose treated calls cost less than the holdback's, SPENT of those that\n" +
			"cost more, as an upgrade does for quality; NET is both. ESTIMATED is the part of it that is what refused calls would\n" +
			"have cost. UNKNOWN decisions had nothing to be compared with, and are in no amount. Tenants of drills are left out\n" +
			"unless one is named. --by tells apart: tenant, model, action, day, decision.",
		Example: "  flyball report savings --from 2026-01-01 --to 2026-02-01\n  flyball report savings --tenant org_42 --by action,day --format csv",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := o.days(&q, by, format, time.Now().UTC()); err != nil {
				return &exitError{exitUsage, err}
			}
			store, err := o.openStored(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			rows, err := store.Savings(cmd.Context(), q)
			if err != nil {
				return storeError(err)
			}
			if len(rows) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no decision of this range has been measured")
			}
			return writeSavings(cmd.OutOrStdout(), format, q, rows)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&q.Tenant, "tenant", "", "of this tenant alone")
	cmd.Flags().StringSliceVar(&by, "by", []string{"tenant"}, "what to tell apart, comma-separated")
	cmd.Flags().StringVar(&format, "format", "table", "table, csv or json (one object per row)")
	return cmd
}

// days fills in a question about whole UTC days.
func (o *storedRange) days(q *clickhouse.SavingsQuery, by []string, format string, now time.Time) (err error) {
	if !slices.Contains([]string{"table", "csv", "json"}, format) {
		return fmt.Errorf("--format %q is none of table, csv, json", format)
	}
	for _, name := range by {
		dimension, ok := shortSavings[strings.TrimSpace(name)]
		if !ok || slices.Contains(q.GroupBy, dimension) {
			return fmt.Errorf("--by %q is none of tenant, model, action, day, decision, or is there twice", name)
		}
		q.GroupBy = append(q.GroupBy, dimension)
	}
	if o.from == "" && o.to == "" {
		o.from, o.to = now.AddDate(0, 0, -29).Format(time.DateOnly), now.AddDate(0, 0, 1).Format(time.DateOnly)
	}
	if q.From, q.To, err = o.times(); err != nil {
		return err
	}
	if day := 24 * time.Hour; !q.From.Equal(q.From.Truncate(day)) || !q.To.Equal(q.To.Truncate(day)) {
		return errors.New("savings are kept by the UTC day: begin and end with whole ones, as 2026-01-15")
	}
	return nil
}

// savingsColumns are what each row of the report has after its dimensions.
var savingsColumns = []string{
	"decisions", "unknown", "treated_calls", "compared_calls", "cost_usd", "saved_usd", "spent_usd", "net_usd", "estimated_usd",
}

func writeSavings(out io.Writer, format string, q clickhouse.SavingsQuery, rows []clickhouse.Savings) error {
	switch format {
	case "csv":
		table := csv.NewWriter(out)
		_ = table.Write(append(slices.Clone(q.GroupBy), savingsColumns...)) // Flush says what failed
		for _, r := range rows {
			_ = table.Write(append(slices.Clone(r.Values), savingsCells(r, dollars)...))
		}
		table.Flush()
		return table.Error()
	case "json":
		for _, r := range rows {
			row := map[string]any{}
			for i, d := range q.GroupBy {
				row[d] = r.Values[i]
			}
			for i, cell := range savingsCells(r, dollars) {
				if row[savingsColumns[i]] = cell; !strings.HasSuffix(savingsColumns[i], "_usd") {
					row[savingsColumns[i]] = json.Number(cell)
				}
			}
			if err := json.NewEncoder(out).Encode(row); err != nil {
				return err
			}
		}
		return nil
	}
	if len(rows) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells []string) { fmt.Fprintln(table, strings.Join(cells, "\t")) }
	var head []string
	for _, c := range append(slices.Clone(q.GroupBy), savingsColumns...) {
		head = append(head, strings.ToUpper(strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(c, "_usd"), "_id"), "_", " ")))
	}
	line(head)
	for _, r := range rows {
		line(append(slices.Clone(r.Values), savingsCells(r, effect.Dollars)...))
	}
	return table.Flush()
}

func savingsCells(r clickhouse.Savings, money func(*big.Int) string) []string {
	cells := make([]string, 0, len(savingsColumns))
	for _, n := range []int64{r.Decisions, r.Unknown, r.Treated, r.Compared} {
		cells = append(cells, strconv.FormatInt(n, 10))
	}
	for _, m := range []*big.Int{r.Cost, r.Saved, r.Spent, r.Net(), r.Estimated} {
		cells = append(cells, money(m))
	}
	return cells
}
