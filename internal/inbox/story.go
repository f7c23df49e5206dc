package inbox

import (
	"context"
	"strings"

	"go.temporal.io/api/sdk/v1"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Story is all about one incident, group or decision, open or ended. One of the states is set.
type Story struct {
	ID       string                  `json:"id"`
	Handle   string                  `json:"handle"`
	Details  string                  `json:"details"` // Markdown, as Temporal's UI shows it
	Incident *contract.IncidentState `json:"incident,omitempty"`
	Group    *contract.GroupState    `json:"group,omitempty"`
	Decision *contract.DecisionState `json:"decision,omitempty"`
}

// Story tells all about the incident, group or decision that name means. Only a worker can tell it; ended
// ones are told for as long as Temporal retains them.
func (b *Inbox) Story(ctx context.Context, name string) (Story, error) {
	id, err := b.findAny(ctx, name, contract.Incident, contract.Group, contract.Decision)
	if err != nil {
		return Story{}, err
	}
	s := Story{ID: id, Handle: contract.Handle(id)}
	var state any
	switch typeOf(id) {
	case contract.Group:
		s.Group = new(contract.GroupState)
		state = s.Group
	case contract.Decision:
		s.Decision = new(contract.DecisionState)
		state = s.Decision
	default:
		s.Incident = new(contract.IncidentState)
		state = s.Incident
	}
	if err := b.ask(ctx, id, contract.State, state); err != nil {
		return Story{}, err
	}
	var metadata sdk.WorkflowMetadata
	if err := b.ask(ctx, id, metadataQuery, &metadata); err != nil {
		return Story{}, err
	}
	s.Details = metadata.GetCurrentDetails()
	return s, nil
}

// notYet heads the story of what has no report.
const notYet = "*There is no report yet. This is the story so far.*\n\n"

// Report is the report of the incident or the group that name means, in Markdown. Until one is written it is
// the story so far, and says so.
func (b *Inbox) Report(ctx context.Context, name string) (string, error) {
	s, err := b.Story(ctx, name)
	if err != nil {
		return "", err
	}
	text := s.Details
	switch {
	case s.Incident != nil && s.Incident.Report != "":
		text = s.Incident.Report
	case s.Incident != nil:
		text = notYet + text
	}
	return strings.TrimRight(text, "\n") + "\n", nil
}

// metadataQuery is the query that the SDK answers for every workflow. Its answer has the current details.
const metadataQuery = "__temporal_workflow_metadata"

// ask has a workflow answer a query; it fails in the words of people.
func (b *Inbox) ask(ctx context.Context, id, query string, into any) error {
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	answer, err := b.temporal.QueryWorkflow(patient, id, "", query)
	if err == nil {
		err = answer.Get(into)
	}
	if err != nil {
		return explain(id, err)
	}
	return nil
}
