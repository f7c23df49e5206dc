package inbox

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// parts are the key and the opening time that an id holds; zero where it holds none.
func parts(id string) (key usage.Key, opened time.Time) {
	key, _ = contract.KeyOf(id)
	opened, _ = contract.OpenedAt(id)
	return key, opened
}

// unanswered stands where an incident says what happened.
const unanswered = "no worker is there to tell more"

// Work shows the inbox on the console's page.
type Work struct {
	Inbox     *Inbox
	UI        func() string // the address of Temporal's UI; empty while there is none
	Namespace string
}

// Incidents are the open ones of one key each, newest first.
func (w Work) Incidents(ctx context.Context) ([]console.Incident, error) {
	incidents, err := w.Inbox.Incidents(ctx)
	if err != nil {
		return nil, forConsole(err)
	}
	page := make([]console.Incident, 0, len(incidents))
	for _, i := range incidents {
		page = append(page, w.incident(i))
	}
	return page, nil
}

// Groups are the open incidents of many keys, newest first.
func (w Work) Groups(ctx context.Context) ([]console.Group, error) {
	groups, err := w.Inbox.Groups(ctx)
	if err != nil {
		return nil, forConsole(err)
	}
	page := make([]console.Group, 0, len(groups))
	for _, g := range groups {
		shown := console.NewGroup(g.State, w.link(g.State.ID), time.Now())
		if !g.Answered {
			shown.Reason = unanswered
		}
		page = append(page, shown)
	}
	return page, nil
}

// Mutes are what people are not told about now, the first to end first.
func (w Work) Mutes(ctx context.Context) (console.Mutes, error) {
	mutes, err := w.Inbox.Mutes(ctx, time.Now())
	if err != nil {
		return console.Mutes{}, forConsole(err)
	}
	page := console.Mutes{Unanswered: mutes.Unanswered}
	for _, m := range mutes.Muted {
		page.Muted = append(page.Muted, console.Mute{Target: m.Target, Until: m.Mute.Until, Who: m.Mute.Who, Reason: m.Mute.Reason})
	}
	return page, nil
}

// Order carries a person's order to what it is about.
func (w Work) Order(ctx context.Context, o console.Order) (console.Outcome, error) {
	outcome, err := w.order(ctx, o)
	if err != nil {
		return console.Outcome{}, forConsole(err)
	}
	return console.Outcome(outcome), nil
}

func (w Work) order(ctx context.Context, o console.Order) (outcome Outcome, err error) {
	b := w.Inbox
	switch o.Do {
	case contract.Acknowledge:
		return b.Acknowledge(ctx, o.ID, contract.AcknowledgeRequest{Who: o.Who, Note: o.Reason})
	case contract.Resolve:
		return b.Resolve(ctx, o.ID, contract.ResolveRequest{Who: o.Who, Reason: o.Reason})
	case contract.SkipStep:
		return b.SkipStep(ctx, o.ID, contract.SkipStepRequest{Step: o.Step, Who: o.Who, Reason: o.Reason})
	case contract.RerunStep:
		return b.RerunStep(ctx, o.ID, contract.RerunStepRequest{Step: o.Step, Who: o.Who, Reason: o.Reason})
	case contract.Annotate:
		return b.Annotate(ctx, o.ID, contract.AnnotateRequest{Who: o.Who, Text: o.Reason})
	case contract.SetMute:
		outcome, _, err = b.Mute(ctx, o.ID, contract.MuteRequest{For: time.Duration(o.Minutes) * time.Minute, Who: o.Who, Reason: o.Reason})
		return outcome, err
	case console.Unmute:
		outcome, _, err = b.Unmute(ctx, o.ID, o.Who, o.Reason)
		return outcome, err
	case contract.AcceptLevel:
		outcome, _, err = b.AcceptLevel(ctx, o.ID, contract.AcceptLevelRequest{Who: o.Who, Reason: o.Reason})
		return outcome, err
	case contract.Split:
		key, err := Key(o.Key)
		if err != nil {
			return Outcome{}, err
		}
		return b.Split(ctx, o.ID, contract.SplitRequest{Key: key, Who: o.Who, Reason: o.Reason})
	}
	return Outcome{}, fmt.Errorf("%w: there is no order %q", ErrRefused, o.Do)
}

// Report is the report of an incident or a group in Markdown, ended or not.
func (w Work) Report(ctx context.Context, id string) (string, error) {
	text, err := w.Inbox.Report(ctx, id)
	if err != nil {
		return "", forConsole(err)
	}
	return text, nil
}

// Decisions are those that wait for a person or are under way, newest first.
func (w Work) Decisions(ctx context.Context) ([]console.Decision, error) {
	decisions, err := w.Inbox.Decisions(ctx)
	if err != nil {
		return nil, forConsole(err)
	}
	page := make([]console.Decision, 0, len(decisions))
	for _, d := range decisions {
		page = append(page, w.decision(d.State))
	}
	return page, nil
}

// Decide carries a person's verdict to a decision and returns the decision as it then stands.
func (w Work) Decide(ctx context.Context, v console.Verdict) (console.Decision, error) {
	o, state, err := w.Inbox.Decide(ctx, v.ID, contract.DecideRequest{Verdict: v.Verdict, Who: v.Who, Reason: v.Reason})
	if err != nil {
		return console.Decision{}, forConsole(err)
	}
	if !o.Answered {
		key, opened := parts(o.ID)
		state = contract.DecisionState{
			ID: o.ID, Input: contract.DecisionInput{Key: key}, Opened: opened,
			Reason: "the verdict is kept; it takes effect when a worker is back",
		}
	}
	return w.decision(state), nil
}

// forConsole names an error as the console knows it.
func forConsole(err error) error {
	for ours, theirs := range map[error]error{ErrAway: console.ErrAway, ErrNotFound: console.ErrNotFound, ErrRefused: console.ErrRefused} {
		if errors.Is(err, ours) {
			return fmt.Errorf("%w: %w", theirs, err)
		}
	}
	return err
}

func (w Work) incident(i Incident) console.Incident {
	page := console.NewIncident(i.State, w.link(i.State.ID), time.Now())
	if !i.Answered {
		page.Reason = unanswered
	}
	return page
}

func (w Work) decision(s contract.DecisionState) console.Decision {
	return console.NewDecision(s, w.link(s.ID))
}

// link is the workflow's page in Temporal's UI.
func (w Work) link(id string) string {
	ui := w.UI()
	if ui == "" {
		return ""
	}
	return fmt.Sprintf("%s/namespaces/%s/workflows/%s", ui, url.PathEscape(w.Namespace), url.PathEscape(id))
}
