package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
)

// peopleCommands are those by which people see and decide open work.
func peopleCommands(c connector) []*cobra.Command {
	return []*cobra.Command{
		incidentsCommand(c), muteCommand(c), unmuteCommand(c), mutesCommand(c), acceptLevelCommand(c),
		verdictCommand(c, contract.Approve, "Approve a decision that waits for a person"),
		verdictCommand(c, contract.Deny, "Deny a decision that waits for a person"),
	}
}

// person is who asks something, and why.
type person struct {
	who, reason string
	must        string // why a reason has to be given; empty: it need not be
}

func (p *person) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.who, "who", whoami(), "who says so")
	cmd.Flags().StringVar(&p.reason, "reason", "", "why")
}

func (p *person) check() error {
	switch {
	case p.who == "":
		return &exitError{exitUsage, errors.New("say who you are with --who: it is kept with what you ask")}
	case p.must != "" && p.reason == "":
		return &exitError{exitUsage, errors.New("say why with --reason: " + p.must)}
	}
	return nil
}

// answer is what became of a request: a line for people, and what --json shows beside the outcome.
type answer struct {
	outcome inbox.Outcome
	done    string
	more    map[string]any
}

// asking makes a command of cmd that asks something of open work once, when the person's words are complete.
func asking(cmd *cobra.Command, c connector, p *person, ask func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error)) *cobra.Command {
	o := inboxOptions{connect: c}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := p.check(); err != nil {
			return err
		}
		box, done, err := o.open(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		a, err := ask(cmd.Context(), box, args)
		if err != nil {
			return inboxError(err)
		}
		if o.json {
			all := map[string]any{"outcome": a.outcome}
			if a.outcome.Answered {
				for name, value := range a.more {
					all[name] = value
				}
			}
			return json.NewEncoder(cmd.OutOrStdout()).Encode(all)
		}
		if !a.outcome.Answered {
			a.done = fmt.Sprintf("Kept: it takes effect as soon as a worker gets to it (%s)", a.outcome.ID)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), a.done)
		return err
	}
	o.flags(cmd)
	p.flags(cmd)
	return cmd
}

// verdictCommand is approve or deny.
func verdictCommand(c connector, verdict, short string) *cobra.Command {
	var p person
	if verdict == contract.Deny {
		p.must = "it is kept with the decision"
	}
	return asking(&cobra.Command{
		Use:   verdict + " ID",
		Short: short,
		Long: short + ". ID is what flyball incidents shows, a decision's workflow id, or the start of one.\n" +
			"When no worker is there the verdict is kept, and takes effect when one is back.\n" +
			"Exit 1 when it is refused (decided already, expired), 3 when Temporal is away.",
		Example: "  flyball " + verdict + " a41f09 --who ana --reason 'agreed on the call'",
		Args:    cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, state, err := box.Decide(ctx, args[0], contract.DecideRequest{Verdict: verdict, Who: p.who, Reason: p.reason})
		act := state.Input.Proposal
		to := ""
		if act.Value != "" {
			to = " to " + act.Value
		}
		text := fmt.Sprintf("%s of %s%s: %s", act.Action, state.Input.Key, to, strings.ReplaceAll(string(state.Status), "_", " "))
		return answer{outcome, text, map[string]any{"decision": state}}, err
	})
}

func ackCommand(c connector) *cobra.Command {
	var p person
	var note string
	cmd := asking(&cobra.Command{
		Use:     "ack ID",
		Short:   "Take an incident or a group on: everybody sees by whom, and reminders end",
		Example: "  flyball incidents ack 3be1c0\n  flyball incidents ack 3be1c0 --who ana --note 'looking at the gateway'",
		Args:    cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, err := box.Acknowledge(ctx, args[0], contract.AcknowledgeRequest{Who: p.who, Note: cmp.Or(note, p.reason)})
		return answer{outcome: outcome, done: fmt.Sprintf("Taken on by %s: %s", p.who, outcome.ID)}, err
	})
	cmd.Flags().StringVar(&note, "note", "", "a word for the others")
	_ = cmd.Flags().MarkHidden("reason") // the note is the reason
	return cmd
}

func resolveCommand(c connector) *cobra.Command {
	var p person
	return asking(&cobra.Command{
		Use:     "resolve ID",
		Short:   "Close an incident, or all incidents of a group, by hand; its flags come off",
		Example: "  flyball incidents resolve 3be1c0 --who ana --reason 'expected: new prompt'",
		Args:    cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, err := box.Resolve(ctx, args[0], contract.ResolveRequest{Who: p.who, Reason: p.reason})
		return answer{outcome: outcome, done: "Resolved: " + outcome.ID}, err
	})
}

func skipCommand(c connector) *cobra.Command {
	var p person
	return asking(&cobra.Command{
		Use:     "skip ID STEP",
		Short:   "Skip a step of an incident's runbook that has not been walked",
		Long:    "Skip a step of an incident's runbook that has not been walked: T+2, T+5 or T+10. The report of T+30 cannot be skipped.",
		Example: "  flyball incidents skip 3be1c0 T+2 --reason 'nothing was deployed'",
		Args:    cobra.ExactArgs(2),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, err := box.SkipStep(ctx, args[0], contract.SkipStepRequest{Step: args[1], Who: p.who, Reason: p.reason})
		return answer{outcome: outcome, done: fmt.Sprintf("%s is skipped: %s", args[1], outcome.ID)}, err
	})
}

func rerunCommand(c connector) *cobra.Command {
	var p person
	return asking(&cobra.Command{
		Use:     "rerun ID STEP",
		Short:   "Walk a step of an incident's runbook once more; its verdict replaces the old one",
		Example: "  flyball incidents rerun 3be1c0 T+2 --reason 'the status page is back'",
		Args:    cobra.ExactArgs(2),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, err := box.RerunStep(ctx, args[0], contract.RerunStepRequest{Step: args[1], Who: p.who, Reason: p.reason})
		return answer{outcome: outcome, done: fmt.Sprintf("%s is walked once more: %s", args[1], outcome.ID)}, err
	})
}

func noteCommand(c connector) *cobra.Command {
	var p person
	cmd := asking(&cobra.Command{
		Use:     "note ID TEXT",
		Short:   "Write a remark into an incident's timeline",
		Example: "  flyball incidents note 3be1c0 'rag-service was rolled back at 10:40'",
		Args:    cobra.ExactArgs(2),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, err := box.Annotate(ctx, args[0], contract.AnnotateRequest{Who: p.who, Text: args[1]})
		return answer{outcome: outcome, done: "Noted: " + outcome.ID}, err
	})
	_ = cmd.Flags().MarkHidden("reason") // the note is the reason
	return cmd
}

func splitCommand(c connector) *cobra.Command {
	p := person{must: "it is kept with the group"}
	cmd := asking(&cobra.Command{
		Use:     "split GROUP TENANT/MODEL",
		Short:   "Take a key out of a group: it gets an incident of its own",
		Example: "  flyball incidents split 5e0f11 org_42/gpt-4o --reason 'its prompt changed, the provider is well'",
		Args:    cobra.ExactArgs(2),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		key, _ := inbox.Key(args[1]) // checked below
		outcome, err := box.Split(ctx, args[0], contract.SplitRequest{Key: key, Who: p.who, Reason: p.reason})
		return answer{outcome: outcome, done: fmt.Sprintf("%s is out of %s", key, outcome.ID)}, err
	})
	cmd.PreRunE = func(_ *cobra.Command, args []string) error {
		if key, err := inbox.Key(args[1]); err != nil || key.Pseudo() {
			return &exitError{exitUsage, fmt.Errorf("%q is no key: say which leaves the group, as tenant/model", args[1])}
		}
		return nil
	}
	return cmd
}

// targets says what the commands that take one mean by it.
const targets = "TARGET is an incident, a group or a decision as flyball incidents shows it; or a key, tenant/model; or a whole\n" +
	"tenant: tenant/*, or just its name. A tenant whose name has a slash is written as in workflow ids: alert/org%2F42/gpt-4o.\n"

func muteCommand(c connector) *cobra.Command {
	p := person{must: "whoever wonders at the silence will read it"}
	var d time.Duration
	cmd := asking(&cobra.Command{
		Use:   "mute TARGET",
		Short: "Keep notices about a key, a tenant or a group from people for a time",
		Long: "Keep notices about a key, a tenant or a group from people for a time. Findings, incidents and flags go on as ever,\n" +
			"and flyball incidents shows them. Muting again sets a new end.\n" + targets,
		Example: "  flyball mute 3be1c0 --for 2h --reason 'the vendor is on it'\n" +
			"  flyball mute org_42/claude-3-opus --for 45m --reason 'load test'\n  flyball mute org_42 --for 24h --reason 'migration'",
		Args: cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, state, err := box.Mute(ctx, args[0], contract.MuteRequest{For: d, Who: p.who, Reason: p.reason})
		return muted(outcome, state), err
	})
	cmd.Flags().DurationVar(&d, "for", 0, "how long: 45m, 2h")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if d <= 0 {
			return &exitError{exitUsage, errors.New("say for how long with --for: 45m, 2h; to end a mute, flyball unmute")}
		}
		return nil
	}
	return cmd
}

func unmuteCommand(c connector) *cobra.Command {
	var p person
	return asking(&cobra.Command{
		Use:     "unmute TARGET",
		Short:   "Let notices about a key, a tenant or a group through again",
		Long:    "Let notices about a key, a tenant or a group through again.\n" + targets,
		Example: "  flyball mutes\n  flyball unmute org_42/claude-3-opus",
		Args:    cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, state, err := box.Unmute(ctx, args[0], p.who, p.reason)
		return muted(outcome, state), err
	})
}

// muted says how a mute now stands.
func muted(o inbox.Outcome, s contract.MuteState) answer {
	text := "Not muted: " + o.ID
	if s.Mute != nil {
		text = fmt.Sprintf("Muted until %s: %s", s.Mute.Until.UTC().Format(time.RFC3339), o.ID)
	}
	return answer{o, text, map[string]any{"mute": s.Mute}}
}

func mutesCommand(c connector) *cobra.Command {
	return showing(&cobra.Command{
		Use:     "mutes",
		Short:   "List what people are not told about, the first to end first",
		Example: "  flyball mutes\n  flyball mutes --json",
		Args:    cobra.NoArgs,
	}, c, func(ctx context.Context, box *inbox.Inbox, _ []string) (any, string, error) {
		now := time.Now()
		mutes, err := box.Mutes(ctx, now)
		var text strings.Builder
		if len(mutes.Muted) == 0 && mutes.Unanswered == 0 {
			text.WriteString("Nothing is muted.\n")
		}
		writeMutes(&text, mutes, now)
		return mutes, text.String(), err
	})
}

func acceptLevelCommand(c connector) *cobra.Command {
	p := person{must: "it is kept with the baseline"}
	return asking(&cobra.Command{
		Use:   "accept-level TARGET",
		Short: "Say that a key's new level of cost or quality is the usual one from now on",
		Long: "Say that a key's new level of cost or quality is the usual one from now on: its baseline is set to it at once, and\n" +
			"its incident ends. A group has many keys; accept the level of each.\n" + targets,
		Example: "  flyball accept-level org_42/claude-3-opus --reason 'the longer prompt is meant to stay'",
		Args:    cobra.ExactArgs(1),
	}, c, &p, func(ctx context.Context, box *inbox.Inbox, args []string) (answer, error) {
		outcome, level, err := box.AcceptLevel(ctx, args[0], contract.AcceptLevelRequest{Who: p.who, Reason: p.reason})
		text := "The new level is the usual one: " + outcome.ID
		if level.Incident != "" {
			text += "; that ends " + level.Incident
		}
		return answer{outcome, text, map[string]any{"level": level}}, err
	})
}

// showing makes a command of cmd that shows what the inbox knows: as JSON, or as a text.
func showing(cmd *cobra.Command, c connector, read func(ctx context.Context, box *inbox.Inbox, args []string) (data any, text string, err error)) *cobra.Command {
	o := inboxOptions{connect: c}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		box, done, err := o.open(cmd.Context())
		if err != nil {
			return err
		}
		defer done()
		data, text, err := read(cmd.Context(), box, args)
		if err != nil {
			return inboxError(err)
		}
		if o.json {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(data)
		}
		_, err = io.WriteString(cmd.OutOrStdout(), text)
		return err
	}
	o.flags(cmd)
	return cmd
}

func showCommand(c connector) *cobra.Command {
	return showing(&cobra.Command{
		Use:     "show ID",
		Short:   "Tell the story of an incident, a group or a decision, open or ended",
		Long:    "Tell the story of an incident, a group or a decision: what happened, evidence, what is next, as Markdown. Ended ones\nare told for as long as Temporal retains them. --json has the whole state.",
		Example: "  flyball incidents show 3be1c0\n  flyball incidents show 3be1c0 --json",
		Args:    cobra.ExactArgs(1),
	}, c, func(ctx context.Context, box *inbox.Inbox, args []string) (any, string, error) {
		story, err := box.Story(ctx, args[0])
		return story, story.ID + "\n\n" + strings.TrimRight(story.Details, "\n") + "\n", err
	})
}

func reportCommand(c connector) *cobra.Command {
	return showing(&cobra.Command{
		Use:     "report ID",
		Short:   "Print the report of an incident as Markdown",
		Long:    "Print the report of an incident as Markdown. It is written at T+30 and when the incident ends; before, and for a group,\nthe story so far is printed.",
		Example: "  flyball incidents report 3be1c0 > report.md",
		Args:    cobra.ExactArgs(1),
	}, c, func(ctx context.Context, box *inbox.Inbox, args []string) (any, string, error) {
		text, err := box.Report(ctx, args[0])
		return map[string]string{"markdown": text}, text, err
	})
}

// whoami is the system's name of the person at the keyboard.
func whoami() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}
