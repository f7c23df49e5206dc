package contract

import (
	"fmt"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/runbook"
)

// Timeline is the incident's course as far as it is known, oldest first: the steps and what they said before
// they were walked again, what people did and wrote, the decisions as they stand, the answers of webhooks.
func (s IncidentState) Timeline() []runbook.Event {
	all := []runbook.Event{{At: s.Input.Opened, Text: fmt.Sprintf("opened: %s", s.Input.Finding.Verdict.Reason)}}
	for _, d := range s.Steps {
		for _, e := range append(slices.Clone(d.Earlier), d) {
			all = append(all, runbook.Event{At: e.At, Text: fmt.Sprintf("%s %s: %s", e.Step.Name, e.Verdict.Status, e.Verdict.Text)})
		}
	}
	if a := s.Acknowledged; a != nil {
		all = append(all, runbook.Event{At: a.At, Text: strings.TrimSuffix(a.Who+" took it on: "+a.Note, ": ")})
	}
	for _, n := range s.Notes {
		all = append(all, runbook.Event{At: n.At, Text: n.Who + ": " + n.Text})
	}
	if m := s.Mute; m != nil {
		all = append(all, runbook.Event{At: m.At, Text: fmt.Sprintf("muted by %s until %s: %s", m.Who, m.Until.UTC().Format("15:04:05"), m.Reason)})
	}
	for _, d := range s.Decisions {
		all = append(all, runbook.Event{At: d.ChangedAt, Text: fmt.Sprintf("%s %s: %s", strings.ReplaceAll(d.Action, "_", " "), strings.ReplaceAll(string(d.Status), "_", " "), d.Reason)})
	}
	for _, r := range s.Evidence.Rollbacks {
		all = append(all, runbook.Event{At: r.At, Text: r.Text()})
	}
	if !s.ClosedAt.IsZero() {
		all = append(all, runbook.Event{At: s.ClosedAt, Text: "closed: " + s.Reason})
	}
	slices.SortStableFunc(all, func(a, b runbook.Event) int { return a.At.Compare(b.At) })
	return all
}

// Text says what became of a call of a webhook.
func (r RollbackResult) Text() string {
	if r.Failed != "" {
		return fmt.Sprintf("the rollback webhook of %s failed: %s", r.Service, r.Failed)
	}
	return fmt.Sprintf("the rollback webhook of %s answered %d: %s", r.Service, r.Status, r.Body)
}
