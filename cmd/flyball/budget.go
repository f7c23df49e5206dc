package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// budgetCommand sets and shows what tenants' calls may cost.
func budgetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "budget",
		Short: "Set and show what a tenant's calls may cost",
		Long: "A budget is a ceiling on what the calls of a tenant, or of each of its virtual keys, sessions or models, may cost in\n" +
			"a day, week, month or session. The gateway holds calls to all that they belong to. A change takes seconds, keeps what\n" +
			"was spent, and stays in the history with who made it.\n\n" +
			"Where the gateway wants a token (scope budgets, without a tenant), it is taken from the environment variable " + ingestToken + ".",
		Example: "  flyball budget set org_42 month --ceiling 5000 --per tenant --period month --reason 'contract 2026'\n" +
			"  flyball budget set org_42 talk --ceiling 0.50 --per session\n" +
			"  flyball budget list\n  flyball budget history org_42 month\n  flyball budget remove org_42 talk",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(budgetListCommand(), budgetShowCommand(), budgetSetCommand(), budgetRemoveCommand(), budgetHistoryCommand())
	return cmd
}

// budgetAPI is where budgets are asked for.
type budgetAPI struct {
	url  string
	json bool
}

func (a *budgetAPI) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&a.url, "url", "", "gateway address (default from "+addressesFile+", else "+ingestDefault+")")
	cmd.Flags().BoolVar(&a.json, "json", false, "print JSON")
}

// call asks the gateway, and reads its answer.
func (a *budgetAPI) call(ctx context.Context, method, path string, body, into any) error {
	base, err := serviceURL(a.url, "ingest", ingestDefault)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, base+path, bytes.NewReader(raw))
	if err != nil {
		return &exitError{exitUsage, err}
	}
	request.Header.Set("Content-Type", "application/json")
	if token := os.Getenv(ingestToken); token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return &exitError{exitAway, fmt.Errorf("%w\nIs the gateway running? Start it with `flyball up`, or pass --url", err)}
	}
	defer answer.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(answer.Body, 32<<20))
	if err != nil {
		return &exitError{exitAway, fmt.Errorf("reading the gateway's answer: %w", err)}
	}
	if answer.StatusCode == http.StatusOK {
		if err := json.Unmarshal(raw, into); err != nil {
			return &exitError{exitFailed, fmt.Errorf("%s is no gateway of Flyball: %w", base, err)}
		}
		return nil
	}
	var problem struct {
		Error struct{ Message string }
	}
	if json.Unmarshal(raw, &problem) != nil || problem.Error.Message == "" {
		problem.Error.Message = answer.Status
	}
	code := exitFailed
	switch {
	case answer.StatusCode == http.StatusBadRequest:
		code = exitUsage
	case answer.StatusCode >= http.StatusInternalServerError:
		code = exitAway
	}
	return &exitError{code, errors.New(problem.Error.Message)}
}

func budgetPath(tenant, id string) string {
	return "/v1/budgets/" + url.PathEscape(tenant) + "/" + url.PathEscape(id)
}

func budgetListCommand() *cobra.Command {
	var a budgetAPI
	var tenant string
	cmd := &cobra.Command{
		Use:     "list [--tenant T]",
		Short:   "List budgets, and what of them is spent",
		Example: "  flyball budget list\n  flyball budget list --tenant org_42 --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var answer struct{ Budgets []treasury.View }
			path := "/v1/budgets"
			if tenant != "" {
				path += "?tenant=" + url.QueryEscape(tenant)
			}
			if err := a.call(cmd.Context(), http.MethodGet, path, nil, &answer); err != nil {
				return err
			}
			return a.print(cmd.OutOrStdout(), answer.Budgets)
		},
	}
	cmd.Flags().StringVar(&tenant, "tenant", "", "of this tenant alone")
	a.flags(cmd)
	return cmd
}

func budgetShowCommand() *cobra.Command {
	var a budgetAPI
	cmd := &cobra.Command{
		Use: "show TENANT ID", Short: "Show one budget", Example: "  flyball budget show org_42 month", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v treasury.View
			if err := a.call(cmd.Context(), http.MethodGet, budgetPath(args[0], args[1]), nil, &v); err != nil {
				return err
			}
			return a.print(cmd.OutOrStdout(), []treasury.View{v})
		},
	}
	a.flags(cmd)
	return cmd
}

func budgetSetCommand() *cobra.Command {
	var a budgetAPI
	var c treasury.Change
	var ceiling, per, period string
	cmd := &cobra.Command{
		Use:   "set TENANT ID --ceiling USD",
		Short: "Make a budget, or change its ceiling",
		Long: "Make a budget, or change one. What it counts by (--per, --period, --time-zone, --starts-on) stays as it was made: a\n" +
			"change never forgets what was spent. What is left out of a change stays as it is.",
		Example: "  flyball budget set org_42 month --ceiling 5000 --reason 'contract 2026'\n" +
			"  flyball budget set org_42 keys --ceiling 50 --per key --period day --time-zone Europe/Berlin\n" +
			"  flyball budget set org_42 talk --ceiling 0.50 --per session\n" +
			"  flyball budget set org_42 opus --ceiling 300 --per model --only claude-3-opus --period week --starts-on 1",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if ceiling == "" {
				return &exitError{exitUsage, errors.New("give the --ceiling in US dollars")}
			}
			if _, err := treasury.ParseUSD(ceiling); err != nil {
				return &exitError{exitUsage, fmt.Errorf("--ceiling: %w", err)}
			}
			c.Ceiling, c.Per, c.Period = json.Number(ceiling), budget.Per(per), budget.Period(period)
			if err := a.complete(cmd, args, &c); err != nil {
				return err
			}
			var v treasury.View
			if err := a.call(cmd.Context(), http.MethodPut, budgetPath(args[0], args[1]), c, &v); err != nil {
				return err
			}
			return a.print(cmd.OutOrStdout(), []treasury.View{v})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&ceiling, "ceiling", "", "in US dollars, to the millionth")
	flags.StringVar(&per, "per", "", "tenant (default), key, session or model: each counts by itself")
	flags.StringVar(&c.Only, "only", "", "the one key, session or model that it is for")
	flags.StringVar(&period, "period", "", "day, week or month (default); a session's budget has none")
	flags.StringVar(&c.TimeZone, "time-zone", "", "by whose clock the period begins, as in Europe/Berlin (default UTC)")
	flags.IntVar(&c.StartsOn, "starts-on", 0, "day of the month (1 to 28), or of the week (1 is Monday)")
	flags.StringVar(&c.Reason, "reason", "", "why, for the history")
	flags.StringVar(&c.Who, "who", whoami(), "who says so, where the token does not")
	a.flags(cmd)
	return cmd
}

// complete takes what a change leaves out from the budget as it is, and from the defaults where there is none.
func (a *budgetAPI) complete(cmd *cobra.Command, args []string, c *treasury.Change) error {
	var was treasury.View
	err := a.call(cmd.Context(), http.MethodGet, budgetPath(args[0], args[1]), nil, &was)
	var exit *exitError
	if err != nil && (!errors.As(err, &exit) || exit.code != exitFailed) {
		return err
	}
	if was.ID == "" {
		was = treasury.View{Per: budget.PerTenant, Period: string(budget.Month)}
		if c.Per == budget.PerSession {
			was.Period = string(budget.Session)
		}
	}
	revision := was.Revision
	c.Revision = &revision
	given := cmd.Flags().Changed
	if !given("per") {
		c.Per = was.Per
	}
	if !given("period") {
		c.Period = budget.Period(was.Period)
	}
	if !given("only") {
		c.Only = was.Only
	}
	if !given("time-zone") {
		c.TimeZone = was.TimeZone
	}
	if !given("starts-on") {
		c.StartsOn = was.StartsOn
	}
	if err != nil && was.Revision == 0 {
		c.Revision = nil // one that was removed may be made again
	}
	return nil
}

func budgetRemoveCommand() *cobra.Command {
	var a budgetAPI
	var who, reason string
	cmd := &cobra.Command{
		Use: "remove TENANT ID", Short: "Remove a budget: its calls are no longer held to it", Example: "  flyball budget remove org_42 talk --reason 'the trial is over'", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v treasury.View
			query := url.Values{"who": {who}, "reason": {reason}}
			if err := a.call(cmd.Context(), http.MethodDelete, budgetPath(args[0], args[1])+"?"+query.Encode(), nil, &v); err != nil {
				return err
			}
			return a.print(cmd.OutOrStdout(), []treasury.View{v})
		},
	}
	cmd.Flags().StringVar(&who, "who", whoami(), "who says so, where the token does not")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history")
	a.flags(cmd)
	return cmd
}

func budgetHistoryCommand() *cobra.Command {
	var a budgetAPI
	cmd := &cobra.Command{
		Use: "history TENANT ID", Short: "Show who changed a budget, when and why", Example: "  flyball budget history org_42 month", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var answer struct{ Versions []treasury.View }
			if err := a.call(cmd.Context(), http.MethodGet, budgetPath(args[0], args[1])+"/history", nil, &answer); err != nil {
				return err
			}
			if a.json {
				return writeLines(cmd.OutOrStdout(), answer.Versions)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "REVISION\tSET\tCEILING\tBY\tREASON")
			for _, v := range answer.Versions {
				ceiling := "$" + v.Ceiling.String()
				if v.Removed {
					ceiling = "removed"
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", v.Revision, v.SetAt.Format(time.DateTime), ceiling, v.By, v.Reason)
			}
			return w.Flush()
		},
	}
	a.flags(cmd)
	return cmd
}

// print writes budgets, one a line.
func (a *budgetAPI) print(out io.Writer, views []treasury.View) error {
	if a.json {
		return writeLines(out, views)
	}
	if len(views) == 0 {
		_, err := fmt.Fprintln(out, "no budgets: flyball budget set TENANT ID --ceiling USD makes one")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tBUDGET\tCEILING\tPER\tPERIOD\tSPENT\tHELD\tLEFT\tRESETS (UTC)")
	for _, v := range views {
		spent, held, left, resets := "", "", "", ""
		if s := v.Spending; s != nil {
			spent, held, left = "$"+s.Spent.String(), "$"+s.Held.String(), "$"+s.Left.String()
			if s.Over != "" {
				left = "over by $" + s.Over.String()
			}
			if !s.Open {
				spent, held, left = "being counted", "", ""
			}
			if !s.ResetsAt.IsZero() {
				resets = s.ResetsAt.UTC().Format(time.DateTime)
			}
		}
		per := string(v.Per)
		if v.Only != "" {
			per += " " + v.Only
		}
		period := v.Period
		if v.TimeZone != "" {
			period += " " + v.TimeZone
		}
		ceiling := "$" + v.Ceiling.String()
		if v.Removed {
			ceiling = "removed"
		}
		fmt.Fprintln(w, strings.Join([]string{v.Tenant, v.ID, ceiling, per, period, spent, held, left, resets}, "\t"))
	}
	return w.Flush()
}
