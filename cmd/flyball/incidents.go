package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/workers"
)

// inboxOptions are the flags of every command that speaks to the inbox.
type inboxOptions struct {
	temporal  string
	namespace string
	json      bool
}

func (o *inboxOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.temporal, "temporal", "", "Temporal's host:port (default from "+addressesFile+", else 127.0.0.1:7233)")
	cmd.Flags().StringVar(&o.namespace, "namespace", "default", "Temporal namespace")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
}

// open connects to the inbox; the caller closes it.
func (o *inboxOptions) open(ctx context.Context) (*inbox.Inbox, func(), error) {
	address := o.temporal
	if address == "" {
		at, err := serviceURL("", "temporal", "http://127.0.0.1:7233")
		if err != nil {
			return nil, nil, err
		}
		address = strings.TrimPrefix(at, "http://")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	temporal, err := workers.Dial(ctx, address, o.namespace, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, &exitError{exitAway, fmt.Errorf("%w: is flyball up running? The first start builds the server for some minutes", err)}
	}
	return inbox.New(temporal), temporal.Close, nil
}

// inboxError gives an error of the inbox its exit code.
func inboxError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, inbox.ErrAway):
		return &exitError{exitAway, err}
	case errors.Is(err, inbox.ErrRefused):
		return &exitError{exitFailed, err}
	}
	return &exitError{exitUsage, err}
}

// incidentsCommand lists what is open.
func incidentsCommand() *cobra.Command {
	var o inboxOptions
	cmd := &cobra.Command{
		Use:     "incidents",
		Short:   "List the open incidents and what waits for a person",
		Example: "  flyball incidents\n  flyball incidents --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			box, done, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			incidents, err := box.Incidents(cmd.Context())
			if err != nil {
				return inboxError(err)
			}
			decisions, err := box.Decisions(cmd.Context())
			if err != nil {
				return inboxError(err)
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"incidents": incidents, "decisions": decisions})
			}
			return printIncidents(cmd.OutOrStdout(), incidents, decisions, time.Now())
		},
	}
	o.flags(cmd)
	return cmd
}

// printIncidents is the list for people: each incident with its decisions below it, then the decisions
// that outlive their incident, of which a rollout on its way down is one.
func printIncidents(out io.Writer, incidents []inbox.Incident, decisions []inbox.Decision, now time.Time) error {
	var text strings.Builder
	below := map[string][]inbox.Decision{}
	for _, d := range decisions {
		incident := incidentOf(d)
		below[incident] = append(below[incident], d)
	}
	for _, i := range incidents {
		s := i.State
		fmt.Fprintf(&text, "%s  %s  %s  %s for %s\n", i.Handle, s.Level, s.Input.Key, s.Phase, age(s.Input.Opened, now))
		fmt.Fprintf(&text, "        %s\n", s.Finding.Verdict.Reason)
		if s.Advice != "" {
			fmt.Fprintf(&text, "        nothing is proposed: %s\n", s.Advice)
		}
		for _, d := range below[s.ID] {
			writeDecision(&text, "        ", d, "")
		}
		delete(below, s.ID)
	}
	for _, d := range decisions {
		if _, alone := below[incidentOf(d)]; alone {
			writeDecision(&text, "", d, fmt.Sprintf(" (%s, whose incident is not open)", d.State.Input.Key))
		}
	}
	if text.Len() == 0 {
		text.WriteString("No incident is open.\n")
	}
	_, err := io.WriteString(out, text.String())
	return err
}

// writeDecision writes a decision's line, note at its end, and below it how to answer one that asks.
func writeDecision(to *strings.Builder, indent string, d inbox.Decision, note string) {
	act := d.State.Input.Proposal
	fmt.Fprintf(to, "%s%s  %s", indent, d.Handle, cmp.Or(act.Action, "decision"))
	if act.Value != "" {
		fmt.Fprintf(to, " to %s", act.Value)
	}
	fmt.Fprintf(to, ": %s", strings.ReplaceAll(string(d.State.Status), "_", " "))
	if d.State.Share > 0 {
		fmt.Fprintf(to, " at %.0f %%", d.State.Share*100)
	}
	fmt.Fprintln(to, note)
	if d.State.Status == contract.AwaitingApproval {
		fmt.Fprintf(to, "%s        flyball approve %s    or: flyball deny %s --reason WHY\n", indent, d.Handle, d.Handle)
	}
}

// incidentOf is the id of a decision's incident, which the decision's own id holds when no worker was
// there to say it.
func incidentOf(d inbox.Decision) string {
	if d.State.Input.Incident != "" {
		return d.State.Input.Incident
	}
	parts := strings.Split(strings.TrimPrefix(d.State.ID, "decision/"), "/")
	return strings.Join(parts[:max(0, len(parts)-2)], "/") // without action and attempt: contract.DecisionID
}

func age(since, now time.Time) time.Duration { return now.Sub(since).Round(time.Second) }

// verdictCommand is approve or deny.
func verdictCommand(verdict, short string) *cobra.Command {
	var o inboxOptions
	request := contract.DecideRequest{Verdict: verdict}
	cmd := &cobra.Command{
		Use:   verdict + " ID",
		Short: short,
		Long: short + ". ID is what flyball incidents shows, a decision's workflow id, or the start of one.\n" +
			"When no worker is there the verdict is kept, and takes effect when one is back.\n" +
			"Exit 1 when it is refused (decided already, expired), 3 when Temporal is away.",
		Example: "  flyball " + verdict + " a41f09 --who ana",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if verdict == contract.Deny && request.Reason == "" {
				return &exitError{exitUsage, errors.New("say why with --reason: it is kept with the decision")}
			}
			box, done, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			outcome, state, err := box.Decide(cmd.Context(), args[0], request)
			if err != nil {
				return inboxError(err)
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"outcome": outcome, "decision": state})
			}
			if !outcome.Answered {
				fmt.Fprintf(cmd.OutOrStdout(), "Kept: %s takes effect when a worker is back (%s)\n", verdict, outcome.ID)
				return nil
			}
			p := state.Input.Proposal
			fmt.Fprintf(cmd.OutOrStdout(), "%s of %s to %s: %s\n", p.Action, state.Input.Key, p.Value, strings.ReplaceAll(string(state.Status), "_", " "))
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&request.Who, "who", whoami(), "who decides")
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why")
	return cmd
}

// resolveCommand ends an incident by a person's word.
func resolveCommand() *cobra.Command {
	var o inboxOptions
	var request contract.ResolveRequest
	cmd := &cobra.Command{
		Use:     "resolve ID",
		Short:   "Close an incident by hand; its flags come off",
		Example: "  flyball resolve 3be1c0 --who ana --reason 'expected: new prompt'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			box, done, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			outcome, err := box.Resolve(cmd.Context(), args[0], request)
			if err != nil {
				return inboxError(err)
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{"outcome": outcome})
			}
			if !outcome.Answered {
				fmt.Fprintf(cmd.OutOrStdout(), "Kept: it is resolved when a worker is back (%s)\n", outcome.ID)
				return nil
			}
			fmt.Fprintf(cmd.OutOrStdout(), "Resolved: %s\n", outcome.ID)
			return nil
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&request.Who, "who", whoami(), "who says so")
	cmd.Flags().StringVar(&request.Reason, "reason", "", "why")
	return cmd
}

// whoami is the system's name of the person at the keyboard.
func whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
