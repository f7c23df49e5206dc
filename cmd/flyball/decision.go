package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/inbox"
)

// decisionCommand tells what was decided, of open and ended decisions alike.
func decisionCommand(c connector) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "decision",
		Short:   "Tell what was decided, why, by whom, and what it was worth",
		Example: "  flyball decision list --since 7d\n  flyball decision explain a41f09",
	}
	cmd.AddCommand(decisionExplainCommand(c), decisionListCommand(), decisionExportCommand(), decisionMeasureCommand())
	return cmd
}

// openStored connects to where rows are stored; the caller closes the store.
func (o *stored) openStored(cmd *cobra.Command) (*clickhouse.Store, error) {
	c, err := o.configuration()
	if err != nil {
		return nil, err
	}
	return openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
}

func decisionExplainCommand(c connector) *cobra.Command {
	o := inboxOptions{connect: c}
	var s stored
	cmd := &cobra.Command{
		Use:   "explain ID",
		Short: "Tell the whole story of a decision as prose",
		Long: "Tell the whole story of a decision as prose: what was found, which rules proposed what, who was asked and what they\n" +
			"said, each step, the proof, the flags, what it was worth, how it ended or what is next. ID is its handle, as listed,\n" +
			"its workflow id, or the start of one. An open decision is told by Temporal, an ended one by its row in ClickHouse;\n" +
			"where Temporal is away the row tells what was last stored. Exit 2 when no decision is called so, 3 when neither is there.",
		Example: "  flyball decision explain a41f09\n  flyball decision explain a41f09 --json | jq .measured",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			state, note, err := findDecision(cmd, &o, &s, args[0])
			if err != nil {
				return err
			}
			if note != "" {
				fmt.Fprintln(cmd.ErrOrStderr(), note)
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(state)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), state.Story(time.Now()))
			return err
		},
	}
	o.flags(cmd)
	s.flags(cmd)
	return cmd
}

// findDecision reads a decision from wherever it is told best. The note is for people: what may be amiss with it.
func findDecision(cmd *cobra.Command, o *inboxOptions, s *stored, name string) (state contract.DecisionState, note string, err error) {
	state, unseen := openDecision(cmd.Context(), o, name)
	if unseen == nil && !state.Status.Final() {
		return state, "", nil
	}
	stored, err := storedDecision(cmd, s, name)
	switch {
	case errors.Is(err, clickhouse.ErrNoDecision) && unseen == nil:
		return state, "It has ended, and its row is not stored yet.", nil
	case err != nil && isAway(unseen):
		return state, "", &exitError{exitAway, errors.Join(unseen, err)}
	case err != nil || stored.Status.Final():
		return stored, "", err
	case errors.Is(unseen, inbox.ErrNotFound):
		return stored, "It does not run any more, and no end of it is stored: it was terminated, and its incident takes its flag off.", nil
	case unseen != nil:
		return stored, fmt.Sprintf("Temporal does not tell it (%v): this is as it was last stored.", unseen), nil
	}
	return state, "", nil // it has ended a moment ago
}

// openDecision asks Temporal.
func openDecision(ctx context.Context, o *inboxOptions, name string) (contract.DecisionState, error) {
	box, done, err := o.open(ctx)
	if err != nil {
		return contract.DecisionState{}, err
	}
	defer done()
	state, err := box.Decision(ctx, name)
	return state, inboxError(err)
}

// storedDecision asks ClickHouse.
func storedDecision(cmd *cobra.Command, s *stored, name string) (state contract.DecisionState, err error) {
	store, err := s.openStored(cmd)
	if err != nil {
		return state, err
	}
	defer store.Close()
	r, err := store.FindDecision(cmd.Context(), name)
	if err != nil {
		return state, namedError(err)
	}
	if err := json.Unmarshal(r.Detail, &state); err != nil {
		return state, fmt.Errorf("what is stored of %s cannot be read: %w", r.ID, err)
	}
	return state, nil
}

func isAway(err error) bool {
	var exit *exitError
	return errors.As(err, &exit) && exit.code == exitAway
}

// namedError gives an error about a decision's name its exit code.
func namedError(err error) error {
	if errors.Is(err, clickhouse.ErrNoDecision) || errors.Is(err, clickhouse.ErrManyDecisions) {
		return &exitError{exitUsage, err}
	}
	return storeError(err)
}

// decisionFilter are the flags that choose decisions.
type decisionFilter struct {
	stored
	clickhouse.DecisionFilter
	since, until string
}

// flags adds them; since is where the range begins when nothing is said.
func (f *decisionFilter) flags(cmd *cobra.Command, since string) {
	f.stored.flags(cmd)
	cmd.Flags().StringVar(&f.Tenant, "tenant", "", "of this tenant alone")
	cmd.Flags().StringVar(&f.Model, "model", "", "of this requested model alone")
	cmd.Flags().StringVar(&f.Status, "status", "", "with this status alone: "+strings.Join(statuses(), ", "))
	cmd.Flags().StringVar(&f.Action, "action", "", "of this action alone: downgrade, upgrade, pin, hard_stop …")
	cmd.Flags().BoolVar(&f.Open, "open", false, "that have not ended")
	cmd.Flags().StringVar(&f.since, "since", since, "opened since then: 7d, 36h, 2026-01-15 or 2026-01-15T09:00:00Z (UTC)")
	cmd.Flags().StringVar(&f.until, "until", "", "opened before then")
}

func statuses() []string {
	var all []string
	for _, s := range []contract.Status{
		contract.Proposed, contract.AwaitingApproval, contract.Actuating, contract.Holding, contract.Releasing, contract.Denied,
		contract.Expired, contract.Withdrawn, contract.Approved, contract.Released, contract.Reverted,
	} {
		all = append(all, string(s))
	}
	return all
}

func (f *decisionFilter) check(now time.Time) (err error) {
	f.Status = strings.ReplaceAll(f.Status, " ", "_")
	if f.Status != "" && !slices.Contains(statuses(), f.Status) {
		return &exitError{exitUsage, fmt.Errorf("--status %q is none: they are %s", f.Status, strings.Join(statuses(), ", "))}
	}
	if f.Since, err = parseSince("--since", f.since, now); err != nil {
		return &exitError{exitUsage, err}
	}
	if f.Until, err = parseSince("--until", f.until, now); err != nil {
		return &exitError{exitUsage, err}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return &exitError{exitUsage, errors.New("--since must be before --until")}
	}
	return nil
}

// parseSince reads how long ago, or a moment; empty is the zero time.
func parseSince(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if d, err := time.ParseDuration(days + "h"); err == nil && d >= 0 {
			return now.Add(-24 * d), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return parseMoment(flag, text)
}

func decisionListCommand() *cobra.Command {
	var f decisionFilter
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List decisions, open and ended, the newest first",
		Long: "List decisions, open and ended, the newest first, as their rows in ClickHouse tell them: those of the last 30 days,\n" +
			"100 at most, when nothing else is said. SAVED is against the holdback, negative where it cost more, \"~\" where it is an\n" +
			"estimate of what refused calls would have cost, and \"-\" where it is not known.",
		Example: "  flyball decision list\n  flyball decision list --tenant org_42 --action downgrade --since 7d\n  flyball decision list --status reverted --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.Newest < 1 {
				return &exitError{exitUsage, errors.New("--limit must be at least 1")}
			}
			if err := f.check(time.Now()); err != nil {
				return err
			}
			store, err := f.openStored(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			if asJSON {
				return exported(store.EachDecision(cmd.Context(), f.DecisionFilter, newExport("ndjson", cmd.OutOrStdout()).write))
			}
			return listDecisions(cmd, store, f.DecisionFilter)
		},
	}
	f.flags(cmd, "30d")
	cmd.Flags().IntVar(&f.Newest, "limit", 100, "at most so many")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per decision, as export does")
	return cmd
}

func listDecisions(cmd *cobra.Command, store *clickhouse.Store, f clickhouse.DecisionFilter) error {
	table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	n := 0
	err := store.EachDecision(cmd.Context(), f, func(r contract.DecisionRecord) error {
		if n++; n == 1 {
			fmt.Fprintln(table, "ID\tOPENED\tKEY\tACT\tSTATUS\tBY\tSAVED\tREASON")
		}
		act, status := strings.ReplaceAll(r.Action, "_", " "), strings.ReplaceAll(string(r.Status), "_", " ")
		if r.Value != "" {
			act += " " + toward(r.Action) + " " + r.Value
		}
		if r.Share > 0 {
			status += fmt.Sprintf(" at %.0f %%", r.Share*100)
		}
		_, err := fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", contract.Handle(r.ID), r.OpenedAt.Format("2006-01-02 15:04"), r.Key,
			act, status, orDash(r.By), savedText(r.Worth), clipped(r.Reason, 60))
		return err
	})
	switch {
	case err != nil:
		return exported(err)
	case n == 0:
		fmt.Fprintln(cmd.ErrOrStderr(), "no decision is stored that this chooses")
	case n == f.Newest:
		fmt.Fprintf(cmd.ErrOrStderr(), "these are the newest %d; --limit shows more\n", n)
	}
	return table.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// savedText is what a decision saved, in one word.
func savedText(w *contract.Worth) string {
	switch {
	case w == nil || w.Saved == nil:
		return "-"
	case w.Estimated:
		return "~" + effect.Dollars(w.Saved)
	}
	return effect.Dollars(w.Saved)
}

// clipped is a text in one line of at most n characters.
func clipped(text string, n int) string {
	words := []rune(strings.Join(strings.Fields(text), " "))
	if len(words) <= n {
		return string(words)
	}
	return string(words[:n-1]) + "…"
}

func decisionMeasureCommand() *cobra.Command {
	var o stored
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "measure ID",
		Short: "Measure again what a decision was worth, by what is stored now",
		Long: "Measure again what a decision was worth, by what is stored now, and put it into its row and into the ledger of savings\n" +
			"in place of what stands there. Decisions are measured by themselves every hour, and a minute, an hour and a day after\n" +
			"their end; this is for calls that came later still, after a rerate, and for decisions that were terminated.",
		Example: "  flyball decision measure a41f09",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := o.openStored(cmd)
			if err != nil {
				return err
			}
			defer store.Close()
			measured, err := measureAgain(cmd.Context(), store, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(measured)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), measured.Text())
			return err
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func measureAgain(ctx context.Context, store *clickhouse.Store, name string) (*effect.Effect, error) {
	r, err := store.FindDecision(ctx, name)
	if err != nil {
		return nil, namedError(err)
	}
	var state contract.DecisionState
	if err := json.Unmarshal(r.Detail, &state); err != nil {
		return nil, fmt.Errorf("what is stored of %s cannot be read: %w", r.ID, err)
	}
	request, ok := state.Measure()
	if !ok {
		return nil, fmt.Errorf("%s never touched a call: there is nothing to measure", r.ID)
	}
	measured, err := store.Measure(ctx, request)
	if err != nil {
		return nil, storeError(err)
	}
	if err := store.RecordSavings(ctx, contract.SavingsRecord{Decision: r.ID, Key: r.Key, Action: r.Action, Effect: measured}); err != nil {
		return nil, storeError(err)
	}
	state.Measured = &measured
	if r, err = state.Record(); err != nil {
		return nil, err
	}
	if err := store.RecordDecision(ctx, r); err != nil {
		return nil, storeError(err)
	}
	return &measured, nil
}
