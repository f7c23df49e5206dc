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

// Work shows the inbox on the console's page.
type Work struct {
	Inbox     *Inbox
	UI        func() string // the address of Temporal's UI; empty while there is none
	Namespace string
}

// Incidents are the open ones, newest first.
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
	page := console.NewIncident(i.State, w.link(i.State.ID))
	if !i.Answered {
		page.Reason = "no worker is there to tell more"
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
