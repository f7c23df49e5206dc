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
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/simulate"
)

func chaosCommand() *cobra.Command {
	var c chaosClient
	cmd := &cobra.Command{
		Use:   "chaos",
		Short: "Make the simulator's traffic misbehave",
		Long: `Chaos starts and stops regressions in the traffic of the simulator that runs under flyball up. One of its
commands is for every deployment: a drill makes up calls of its own (flyball chaos drill --help).

Cost and quality faults are the provider's: they strike the calls that the model serves, so calls that
Flyball reroutes to another model escape them. Shift and volume faults are the application's. Every
fault ends by itself after --for. Exit 3 when no simulator answers.`,
		Example: `  flyball chaos cost --factor 3 --quality 0.8
  flyball chaos shift --tenant acme_bank --model claude-3-sonnet
  flyball chaos stop`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		c.faultCommand(simulate.Cost, "Make the calls served by a model cost more", "org_42", "claude-3-opus", 3, "factor on the cost of a call"),
		c.faultCommand(simulate.Quality, "Make the calls served by a model score lower", "org_42", "claude-3-opus", 0.65, "factor on the scores"),
		c.faultCommand(simulate.Shift, "Make an application silently ask for a dearer model than --model", "acme_bank", "claude-3-sonnet", 1, "share of the calls that shift"),
		c.faultCommand(simulate.Volume, "Make an application call a model more often", "org_42", "claude-3-opus", 5, "factor on the rate of calls"),
		c.listCommand(), c.stopCommand())
	for _, sub := range cmd.Commands() {
		sub.Flags().StringVar(&c.url, "url", "", "ingest address (default from "+addressesFile+", else "+ingestDefault+")")
		sub.Flags().BoolVar(&c.json, "json", false, "print JSON")
	}
	cmd.AddCommand(drillCommand())
	return cmd
}

// chaosClient talks to the control API of the running simulator.
type chaosClient struct {
	url  string
	json bool
}

func (c *chaosClient) faultCommand(kind simulate.Kind, short, tenant, model string, factor float64, meaning string) *cobra.Command {
	order := simulate.Order{Kind: kind}
	var lifetime time.Duration
	cmd := &cobra.Command{
		Use:   string(kind),
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			order.For = lifetime.String()
			var fault simulate.Fault
			if err := c.do(cmd.Context(), http.MethodPost, "/v1/chaos", order, &fault); err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), fault, func(w io.Writer) {
				fmt.Fprintf(w, "%s\nStop it earlier with: flyball chaos stop %s\n", sentence(fault), fault.ID)
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&order.Tenant, "tenant", tenant, "tenant whose calls are struck")
	flags.StringVar(&order.Model, "model", model, "model, by its requested name")
	flags.Float64Var(&order.Factor, "factor", factor, meaning)
	flags.DurationVar(&lifetime, "for", 10*time.Minute, "how long it lasts")
	if kind == simulate.Cost {
		flags.Float64Var(&order.Quality, "quality", 0, "factor on the scores as well, such as 0.8")
	}
	return cmd
}

func (c *chaosClient) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the faults that are on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			faults, err := c.faults(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(cmd.OutOrStdout(), faults, func(w io.Writer) {
				if len(faults.Faults) == 0 {
					fmt.Fprintln(w, "No fault is on.")
				}
				for _, f := range faults.Faults {
					fmt.Fprintln(w, sentence(f))
				}
			})
		},
	}
}

func (c *chaosClient) stopCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "stop [ID]",
		Short: "End one fault, or all of them",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ids := args
			if len(ids) == 0 {
				faults, err := c.faults(cmd.Context())
				if err != nil {
					return err
				}
				for _, f := range faults.Faults {
					ids = append(ids, f.ID)
				}
			}
			for _, id := range ids {
				if err := c.do(cmd.Context(), http.MethodDelete, "/v1/chaos/"+url.PathEscape(id), nil, nil); err != nil {
					return err
				}
			}
			stopped := struct {
				Stopped []string `json:"stopped"`
			}{append([]string{}, ids...)}
			return c.print(cmd.OutOrStdout(), stopped, func(w io.Writer) {
				if len(ids) == 0 {
					fmt.Fprintln(w, "No fault was on.")
					return
				}
				fmt.Fprintln(w, "Stopped:", strings.Join(ids, ", "))
			})
		},
	}
}

// sentence tells a fault to people.
func sentence(f simulate.Fault) string {
	var what string
	switch f.Kind {
	case simulate.Cost:
		what = fmt.Sprintf("calls of %s served by %s cost × %g", f.Tenant, f.Model, f.Factor)
		if f.Quality != 0 {
			what += fmt.Sprintf(" and score × %g", f.Quality)
		}
	case simulate.Quality:
		what = fmt.Sprintf("calls of %s served by %s score × %g", f.Tenant, f.Model, f.Factor)
	case simulate.Shift:
		what = fmt.Sprintf("%.0f %% of the calls of %s for %s ask for %s instead", f.Factor*100, f.Tenant, f.Model, f.To)
	case simulate.Volume:
		what = fmt.Sprintf("%s makes × %g calls for %s", f.Tenant, f.Factor, f.Model)
	}
	return fmt.Sprintf("%s: %s, until %s UTC", f.ID, what, f.Ends.UTC().Format(time.TimeOnly))
}

func (c *chaosClient) faults(ctx context.Context) (simulate.Faults, error) {
	var faults simulate.Faults
	err := c.do(ctx, http.MethodGet, "/v1/chaos", nil, &faults)
	return faults, err
}

func (c *chaosClient) print(w io.Writer, data any, people func(io.Writer)) error {
	if !c.json {
		people(w)
		return nil
	}
	if err := json.NewEncoder(w).Encode(data); err != nil {
		return &exitError{exitFailed, fmt.Errorf("writing the answer: %w", err)}
	}
	return nil
}

// do makes one request to the control API and reads its answer into out, where there is one.
func (c *chaosClient) do(ctx context.Context, method, path string, in, out any) error {
	base, err := serviceURL(c.url, "ingest", ingestDefault)
	if err != nil {
		return err
	}
	body, err := json.Marshal(in)
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("encoding the order: %w", err)}
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return &exitError{exitUsage, fmt.Errorf("making the request: %w", err)}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Timeout: 10 * time.Second, Transport: transport}).Do(req)
	if err != nil {
		return &exitError{exitAway, fmt.Errorf("nothing answers at %s (%w): start the simulator with `flyball up`, or pass --url", base, err)}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return &exitError{exitAway, fmt.Errorf("reading the answer of %s: %w", base, err)}
	}
	var refusal simulate.Problem
	switch {
	case resp.StatusCode/100 == 2 && out == nil:
		return nil
	case resp.StatusCode/100 == 2:
		if err := json.Unmarshal(text, out); err != nil {
			return &exitError{exitAway, fmt.Errorf("%s is not a simulator: %w", base, err)}
		}
		return nil
	case json.Unmarshal(text, &refusal) == nil && refusal.Error.Message != "":
		return &exitError{exitUsage, errors.New(refusal.Error.Message)}
	default:
		return &exitError{exitAway, fmt.Errorf("%s serves no simulator (%s): start one with `flyball up`", base, resp.Status)}
	}
}
