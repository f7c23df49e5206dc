package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// fallbackCommand is about the fallback rule of tradeoff.yaml for single calls.
func fallbackCommand(c connector) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fallback",
		Short: "See which tenants trust the rule for single calls, what it fired on, and withdraw trust",
		Long: "The fallback rule of tradeoff.yaml serves a call that is dear and predicted to be answered badly by a cheaper model.\n" +
			"Until people have approved the first ten such calls of a tenant (flyball incidents shows them, flyball approve and\n" +
			"flyball deny answer them) it only says what it would have done.",
		Example: "  flyball fallback list\n  flyball fallback cases --tenant org_42\n  flyball fallback hold org_42 --reason 'customers complain'",
	}
	cmd.AddCommand(fallbackListCommand(c), fallbackCasesCommand(), fallbackReportCommand(), fallbackHoldCommand(c, true), fallbackHoldCommand(c, false))
	return cmd
}

func fallbackListCommand(c connector) *cobra.Command {
	o := inboxOptions{connect: c}
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the tenants whose people were asked, and how far each is",
		Example: "  flyball fallback list\n  flyball fallback list --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			box, done, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			all, err := box.Fallbacks(cmd.Context())
			if err != nil {
				return inboxError(err)
			}
			if o.json {
				return writeLines(cmd.OutOrStdout(), all)
			}
			return printFallbacks(cmd.OutOrStdout(), all)
		},
	}
	o.flags(cmd)
	return cmd
}

func printFallbacks(out io.Writer, all []inbox.FallbackTrust) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "Nobody has been asked about a call that would fall back yet.")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "TENANT\tRULE\tSTANDING\tAPPROVED\tWITH PEOPLE")
	for _, t := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d of %d\t%d\n", t.Tenant, t.Rule, trustIn(t), t.Approved, contract.TrustNeeded, len(t.Open))
	}
	return table.Flush()
}

// trustIn is what the rule does for the tenant now.
func trustIn(t inbox.FallbackTrust) string {
	switch {
	case !t.Answered:
		return "no worker is there to tell"
	case t.Held != nil:
		return fmt.Sprintf("held by %s since %s: %s", t.Held.Who, t.Held.At.UTC().Format(time.DateTime), t.Held.Reason)
	case t.Trusted:
		return "trusted: it acts"
	}
	return "shadowed"
}

// fallbackHoldCommand withdraws trust, or lifts that.
func fallbackHoldCommand(c connector, hold bool) *cobra.Command {
	p := person{must: "it is kept with the tenant's ledger of trust"}
	use, short, did := "hold", "Withdraw a tenant's trust: the rule stops acting within seconds, and nobody is asked", "Held: calls of %s do not fall back, and nobody is asked about them"
	if !hold {
		use, short, did = "resume", "Lift a hold: the tenant's next ten cases are put to people", "Resumed: the next calls of %s that would fall back are put to people"
	}
	return asking(&cobra.Command{
		Use: use + " TENANT", Short: short, Args: cobra.ExactArgs(1),
		Example: "  flyball fallback " + use + " org_42 --who ana --reason 'customers complain'",
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, trust, err := box.HoldFallback(ctx, contract.HoldTrustRequest{Tenant: args[0], Hold: hold, Who: p.who, Reason: p.reason})
		return answer{outcome, fmt.Sprintf(did, args[0]), map[string]any{"trust": trust}}, err
	})
}

// maxCases bounds the cases of a tenant that are shown.
const maxCases = 10_000

func fallbackCasesCommand() *cobra.Command {
	var o storedRange
	var tenant string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "cases [--from TIME --to TIME] [--tenant TENANT]",
		Short: "Show the calls that the rule fired on, whether it acted or not",
		Long: `Show the calls of a range, the last 24 hours when none is given, that the fallback rule fired on.
  ARM      none: it did not act; treated: INSTEAD served; holdback: left alone to be compared with
  SAVES    what falling back is estimated to save
  QUALITY  predicted with the requested model
At most 10,000 of each tenant are shown, the earliest.`,
		Example: "  flyball fallback cases --tenant org_42\n  flyball fallback cases --from 2026-01-15 --to 2026-01-16 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.from == "" && o.to == "" {
				now := time.Now().UTC()
				o.from, o.to = now.AddDate(0, 0, -1).Format(time.RFC3339), now.Format(time.RFC3339)
			}
			q := clickhouse.FallbackQuery{Tenant: tenant, PerTenant: maxCases}
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
			cases, err := store.FallbackCases(cmd.Context(), q)
			if err != nil {
				return storeError(err)
			}
			if asJSON {
				return writeLines(cmd.OutOrStdout(), cases)
			}
			return printCases(cmd.OutOrStdout(), cases)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant alone; drills are shown only so")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per call")
	return cmd
}

func printCases(out io.Writer, cases []contract.FallbackCase) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "AT\tTENANT\tMODEL\tINSTEAD\tARM\tESTIMATE\tSAVES\tQUALITY\tTASK\tTRACE")
	for _, c := range cases {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t$%s\t$%s\t%.2f\t%s\t%s\n", c.At.Format(time.DateTime), c.Tenant, c.Model, c.Instead, c.Arm,
			cents(c.Estimate), cents(c.Saves()), c.Quality, c.Task, c.Trace)
	}
	return table.Flush()
}

// cents writes an amount to a hundredth of a cent.
func cents(pico usage.PicoUSD) string {
	const digit = 100_000_000
	return pricing.Format((pico + digit/2) / digit * digit)
}
