package main

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/contract"
)

func decisionExportCommand() *cobra.Command {
	var f decisionFilter
	var format string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Export decisions with everything that their rows hold, as CSV or NDJSON",
		Long: "Export decisions, the oldest first, with everything that their rows hold: what was found, by which rules, who said what,\n" +
			"the flags before and after, what it was worth. Rows are written as they are read, so that years of them need no memory.\n" +
			"docs/formats.md tells the columns. What is not known is empty in CSV and null in NDJSON.",
		Example: "  flyball decision export --since 2026-01-01 --until 2026-04-01 > q1.csv\n  flyball decision export --since 90d --format ndjson --tenant org_42 | jq .saved_usd",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "csv" && format != "ndjson" {
				return &exitError{exitUsage, fmt.Errorf("--format %q is neither csv nor ndjson", format)}
			}
			if err := f.check(time.Now()); err != nil {
				return err
			}
			store, err := f.openStored(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			to := newExport(format, cmd.OutOrStdout())
			if err := to.begin(); err != nil {
				return exported(err)
			}
			return exported(errors.Join(store.EachDecision(cmd.Context(), f.DecisionFilter, to.write), to.end()))
		},
	}
	f.flags(cmd, "")
	cmd.Flags().StringVar(&format, "format", "csv", "csv or ndjson")
	return cmd
}

// exported gives an error of an export its exit code: whoever reads it may have had enough.
func exported(err error) error {
	if err == nil || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return storeError(err)
}

// field is one column of the export. A value that is not known is nil.
type field struct {
	name  string
	value func(contract.DecisionRecord) any
}

// decisionFields are the columns of the export, in order: docs/formats.md tells them.
var decisionFields = []field{
	{"id", func(r contract.DecisionRecord) any { return r.ID }},
	{"handle", func(r contract.DecisionRecord) any { return contract.Handle(r.ID) }},
	{"incident_id", func(r contract.DecisionRecord) any { return r.Incident }},
	{"tenant_id", func(r contract.DecisionRecord) any { return r.Key.Tenant }},
	{"model", func(r contract.DecisionRecord) any { return r.Key.Model }},
	{"opened_at", func(r contract.DecisionRecord) any { return moment(r.OpenedAt) }},
	{"ended_at", func(r contract.DecisionRecord) any { return moment(r.EndedAt) }},
	{"action", func(r contract.DecisionRecord) any { return r.Action }},
	{"mode", func(r contract.DecisionRecord) any { return string(r.Mode) }},
	{"value", func(r contract.DecisionRecord) any { return r.Value }},
	{"status", func(r contract.DecisionRecord) any { return string(r.Status) }},
	{"reason", func(r contract.DecisionRecord) any { return r.Reason }},
	{"share", func(r contract.DecisionRecord) any { return r.Share }},
	{"alert_rule", func(r contract.DecisionRecord) any { return r.AlertRule }},
	{"facts", func(r contract.DecisionRecord) any { return whole(r.Facts) }},
	{"rule", func(r contract.DecisionRecord) any { return r.Rule }},
	{"revision", func(r contract.DecisionRecord) any { return r.Revision }},
	{"approvers", func(r contract.DecisionRecord) any { return append([]string{}, r.Approvers...) }},
	{"by", func(r contract.DecisionRecord) any { return r.By }},
	{"flag_before", func(r contract.DecisionRecord) any { return whole(r.FlagBefore) }},
	{"flag_after", func(r contract.DecisionRecord) any { return whole(r.FlagAfter) }},
	{"effect", func(r contract.DecisionRecord) any { return string(r.Effect) }},
	{"measured_at", worthOf(func(w *contract.Worth) any { return moment(w.MeasuredAt) })},
	{"estimated", worthOf(func(w *contract.Worth) any { return w.Estimated })},
	{"treated_calls", worthOf(func(w *contract.Worth) any { return w.Treated })},
	{"compared_calls", worthOf(func(w *contract.Worth) any { return w.Compared })},
	{"saved_usd", worthOf(func(w *contract.Worth) any { return exactDollars(w.Saved) })},
	{"saved_low_usd", worthOf(func(w *contract.Worth) any { return exactDollars(w.SavedLow) })},
	{"saved_high_usd", worthOf(func(w *contract.Worth) any { return exactDollars(w.SavedHigh) })},
	{"quality_change", worthOf(func(w *contract.Worth) any { return number(w.Quality) })},
	{"quality_change_low", worthOf(func(w *contract.Worth) any { return number(w.QualityLow) })},
	{"quality_change_high", worthOf(func(w *contract.Worth) any { return number(w.QualityHigh) })},
	{"updated_at", func(r contract.DecisionRecord) any { return moment(r.UpdatedAt) }},
	{"detail", func(r contract.DecisionRecord) any { return whole(r.Detail) }},
}

func worthOf(of func(*contract.Worth) any) func(contract.DecisionRecord) any {
	return func(r contract.DecisionRecord) any {
		if r.Worth == nil {
			return nil
		}
		return of(r.Worth)
	}
}

func moment(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at.UTC().Format("2006-01-02T15:04:05.000Z")
}

func whole(j json.RawMessage) any {
	if len(j) == 0 {
		return nil
	}
	return j
}

func exactDollars(pico *big.Int) any {
	if pico == nil {
		return nil
	}
	return dollars(pico)
}

func number(f *float64) any {
	if f == nil {
		return nil
	}
	return *f
}

// export writes decisions in one of the formats.
type export struct {
	begin func() error
	write func(contract.DecisionRecord) error
	end   func() error
}

func newExport(format string, out io.Writer) export {
	if format == "ndjson" {
		nothing := func() error { return nil }
		return export{nothing, func(r contract.DecisionRecord) error { return writeObject(out, r) }, nothing}
	}
	table := csv.NewWriter(out)
	cells := make([]string, len(decisionFields))
	write := func(cell func(field) string) error {
		for i, f := range decisionFields {
			cells[i] = cell(f)
		}
		return table.Write(cells)
	}
	return export{
		func() error { return write(func(f field) string { return f.name }) },
		func(r contract.DecisionRecord) error { return write(func(f field) string { return cell(f.value(r)) }) },
		func() error { table.Flush(); return table.Error() },
	}
}

// writeObject writes a decision as one line of JSON, in the order of the columns.
func writeObject(out io.Writer, r contract.DecisionRecord) error {
	var line strings.Builder
	for i, f := range decisionFields {
		value, err := json.Marshal(f.value(r))
		if err != nil {
			return fmt.Errorf("decision %s: %s: %w", r.ID, f.name, err)
		}
		line.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		line.WriteString(strconv.Quote(f.name) + ":")
		line.Write(value)
	}
	_, err := io.WriteString(out, line.String()+"}\n")
	return err
}

// cell is a value as CSV has it.
func cell(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case json.RawMessage:
		return string(v)
	case []string:
		return strings.Join(v, " ")
	}
	return fmt.Sprint(value)
}
