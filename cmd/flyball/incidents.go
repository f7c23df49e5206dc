package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/workers"
)

// connector reaches Temporal for the inbox; the caller calls done.
type connector func(ctx context.Context, address, namespace string) (t inbox.Temporal, done func(), err error)

// connect is the connector of the command line.
func connect(ctx context.Context, address, namespace string) (inbox.Temporal, func(), error) {
	temporal, err := workers.Dial(ctx, address, namespace, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return temporal, temporal.Close, nil
}

// inboxOptions are the flags of every command that speaks to the inbox.
type inboxOptions struct {
	connect   connector
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
	temporal, done, err := o.connect(ctx, address, o.namespace)
	if err != nil {
		return nil, nil, &exitError{exitAway, fmt.Errorf("%w: is flyball up running? The first start builds the server for some minutes", err)}
	}
	return inbox.New(temporal), done, nil
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

// openWork is what flyball incidents shows.
type openWork struct {
	Groups    []inbox.Group    `json:"groups"`
	Incidents []inbox.Incident `json:"incidents"`
	Decisions []inbox.Decision `json:"decisions"`
	Mutes     inbox.Mutes      `json:"mutes"`
}

func readOpenWork(ctx context.Context, box *inbox.Inbox, now time.Time) (w openWork, err error) {
	if w.Groups, err = box.Groups(ctx); err != nil {
		return w, err
	}
	if w.Incidents, err = box.Incidents(ctx); err != nil {
		return w, err
	}
	if w.Decisions, err = box.Decisions(ctx); err != nil {
		return w, err
	}
	w.Mutes, err = box.Mutes(ctx, now)
	return w, err
}

// incidentsCommand lists what is open, and holds what can be asked of one incident.
func incidentsCommand(c connector) *cobra.Command {
	o := inboxOptions{connect: c}
	cmd := &cobra.Command{
		Use:   "incidents",
		Short: "List the open incidents, groups, mutes and what waits for a person; act on one",
		Long: "List the open incidents, those of many keys first, with what waits for a person, and what is muted.\n" +
			"The commands below act on one of them. ID is its short handle, as listed, its workflow id, or the start of one.\n" +
			"When no worker is there a request is kept, and takes effect when one is back.",
		Example: "  flyball incidents\n  flyball incidents --json\n  flyball incidents show 3be1c0\n  flyball incidents ack 3be1c0 --note looking",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			box, done, err := o.open(cmd.Context())
			if err != nil {
				return err
			}
			defer done()
			now := time.Now()
			work, err := readOpenWork(cmd.Context(), box, now)
			if err != nil {
				return inboxError(err)
			}
			if o.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(work)
			}
			return printIncidents(cmd.OutOrStdout(), work, now)
		},
	}
	o.flags(cmd)
	cmd.AddCommand(showCommand(c), reportCommand(c), ackCommand(c), resolveCommand(c), skipCommand(c), rerunCommand(c), noteCommand(c), splitCommand(c))
	return cmd
}

// printIncidents is the list for people: groups, each incident with its decisions below it, the decisions
// that outlive their incident, of which a rollout on its way down is one, and the mutes.
func printIncidents(out io.Writer, w openWork, now time.Time) error {
	var text strings.Builder
	for _, g := range w.Groups {
		writeGroup(&text, g, now)
	}
	below := map[string][]inbox.Decision{}
	for _, d := range w.Decisions {
		incident := incidentOf(d)
		below[incident] = append(below[incident], d)
	}
	for _, i := range w.Incidents {
		writeIncident(&text, i, now)
		for _, d := range below[i.State.ID] {
			writeDecision(&text, "        ", d, "")
		}
		delete(below, i.State.ID)
	}
	for _, d := range w.Decisions {
		if _, alone := below[incidentOf(d)]; alone {
			writeDecision(&text, "", d, fmt.Sprintf(" (%s, %s)", d.State.Input.Key, apart(d.State)))
		}
	}
	if text.Len() == 0 {
		text.WriteString("No incident is open.\n")
	}
	writeMutes(&text, w.Mutes, now)
	_, err := io.WriteString(out, text.String())
	return err
}

func writeIncident(to *strings.Builder, i inbox.Incident, now time.Time) {
	s := i.State
	fmt.Fprintf(to, "%s  %s  %s  %s for %s%s\n", i.Handle, s.Level, s.Input.Key, s.Phase, age(s.Input.Opened, now), aside(s.Acknowledged, s.Mute, now))
	fmt.Fprintf(to, "        %s\n", s.Finding.Verdict.Reason)
	if s.Advice != "" {
		fmt.Fprintf(to, "        nothing is proposed: %s\n", s.Advice)
	}
	if p := s.Previous; p != nil {
		fmt.Fprintf(to, "        last time, %s: %s (flyball incidents show %s)\n", p.Opened.UTC().Format(time.DateOnly), cmp.Or(p.Cause, "it stayed unclear"), contract.Handle(p.ID))
	}
}

// keysShown is how many keys of a group are named in a list.
const keysShown = 5

func writeGroup(to *strings.Builder, g inbox.Group, now time.Time) {
	s := g.State
	var in []string
	for _, k := range s.Keys {
		if k.LeftAt.IsZero() {
			in = append(in, k.Key.String())
		}
	}
	count := fmt.Sprintf("%d keys", len(in))
	switch {
	case !g.Answered:
		count = "no worker is there to tell its keys"
	case len(in) == 1:
		count = "1 key"
	}
	fmt.Fprintf(to, "%s  %s  %s  %s, %s for %s%s\n", g.Handle, s.Level, s.Input.Cause, count, s.Phase, age(s.Input.Opened, now), aside(s.Acknowledged, s.Mute, now))
	if len(in) > keysShown {
		in = append(in[:keysShown:keysShown], fmt.Sprintf("and %d more", len(in)-keysShown))
	}
	if len(in) > 0 {
		fmt.Fprintf(to, "        %s\n", strings.Join(in, ", "))
	}
}

// aside is who has taken it on, and until when it is muted.
func aside(taken *contract.Acknowledgement, mute *contract.Mute, now time.Time) string {
	text := ""
	if taken != nil {
		text += ", taken by " + taken.Who
	}
	if mute.On(now) {
		text += ", muted for " + age(now, mute.Until).String()
	}
	return text
}

// writeMutes writes what is muted, and below it what nobody could tell of.
func writeMutes(to *strings.Builder, m inbox.Mutes, now time.Time) {
	for _, muted := range m.Muted {
		fmt.Fprintf(to, "muted   %s%s for %s by %s: %s\n", muted.Target, about(muted.Cause), age(now, muted.Mute.Until), muted.Mute.Who, muted.Mute.Reason)
	}
	if m.Unanswered > 0 {
		fmt.Fprintf(to, "No worker is there to tell of the mutes of %d keys and groups.\n", m.Unanswered)
	}
}

func about(cause string) string {
	if cause == "" {
		return ""
	}
	return " (" + cause + ")"
}

// writeDecision writes a decision's line, note at its end, and below it how to answer one that asks.
func writeDecision(to *strings.Builder, indent string, d inbox.Decision, note string) {
	act := d.State.Input.Proposal
	fmt.Fprintf(to, "%s%s  %s", indent, d.Handle, cmp.Or(act.Action, "decision"))
	if act.Value != "" {
		fmt.Fprintf(to, " %s %s", toward(act.Action), act.Value)
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

// apart says why a decision stands by itself.
func apart(s contract.DecisionState) string {
	if s.Input.Case != nil {
		return s.Input.Origin() + ": what the rule would do"
	}
	if contract.IsFallback(s.ID) {
		return "a call that would fall back"
	}
	return "whose incident is not open"
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

// toward is the word between an action and its value: a rollback is of its service.
func toward(action string) string {
	if action == contract.RollBack {
		return "of"
	}
	return "to"
}
