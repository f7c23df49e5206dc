// Package inbox is how people see and decide open work: the incidents, groups, decisions and mutes that
// Temporal holds. It keeps nothing of its own, so whatever the console, the command line or a colleague did is
// what everybody sees next.
package inbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
)

// The ways in which a request can fail that people can understand.
var (
	ErrAway     = errors.New("Temporal is away")
	ErrNotFound = errors.New("not found")
	ErrRefused  = errors.New("refused")
)

// Temporal is the part of a Temporal client that the inbox uses.
type Temporal interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
	UpdateWorkflow(ctx context.Context, options client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	NewWithStartWorkflowOperation(options client.StartWorkflowOptions, workflow any, args ...any) client.WithStartWorkflowOperation
	UpdateWithStartWorkflow(ctx context.Context, options client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error)
	SignalWithStartWorkflow(ctx context.Context, workflowID, signalName string, signalArg any, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
}

// Inbox reads and decides open work through Temporal.
type Inbox struct {
	temporal Temporal
	patience time.Duration // for a worker's answer
}

// New returns the inbox of the namespace that the client speaks to.
func New(t Temporal) *Inbox { return &Inbox{temporal: t, patience: patience} }

const (
	// patience is how long a worker may take to answer before it counts as away.
	patience = 3 * time.Second
	// pageSize and maxItems bound a listing.
	pageSize = 200
	maxItems = 1000
	// asking bounds how many workflows are asked at once.
	asking = 16
)

// Incident is an open incident.
type Incident struct {
	Handle string                 `json:"handle"`
	State  contract.IncidentState `json:"state"`
	// Answered is false when no worker was there to tell the state, which then holds only what is
	// known without one: id, key, opening, level, phase and step.
	Answered bool `json:"answered"`
}

// Group is an open incident of many keys.
type Group struct {
	Handle string              `json:"handle"`
	State  contract.GroupState `json:"state"`
	// Answered is false when no worker was there to tell the state, which then holds only what is
	// known without one: id, cause, opening, level and phase.
	Answered bool `json:"answered"`
}

// Decision is a decision that waits for a person, or is being carried out.
type Decision struct {
	Handle   string                 `json:"handle"`
	State    contract.DecisionState `json:"state"`
	Answered bool                   `json:"answered"`
}

// Incidents lists the open incidents, newest first.
func (b *Inbox) Incidents(ctx context.Context) ([]Incident, error) {
	incidents, err := list(ctx, b, contract.Incident, func(ctx context.Context, id string, e *workflow.WorkflowExecutionInfo) Incident {
		i := Incident{Handle: contract.Handle(id)}
		if i.Answered = b.query(ctx, id, &i.State); !i.Answered {
			key, opened := parts(id)
			i.State = contract.IncidentState{
				ID: id, Input: contract.IncidentInput{Key: key, Opened: opened},
				Level: detect.Level(attribute(e, contract.AttrSeverity)), Phase: contract.Phase(attribute(e, contract.AttrState)), Step: attribute(e, contract.AttrStep),
			}
		}
		return i
	})
	slices.SortStableFunc(incidents, func(x, y Incident) int {
		return cmp.Or(y.State.Input.Opened.Compare(x.State.Input.Opened), cmp.Compare(x.State.ID, y.State.ID))
	})
	return incidents, err
}

// Groups lists the open incidents of many keys, newest first.
func (b *Inbox) Groups(ctx context.Context) ([]Group, error) {
	groups, err := list(ctx, b, contract.Group, func(ctx context.Context, id string, e *workflow.WorkflowExecutionInfo) Group {
		g := Group{Handle: contract.Handle(id)}
		if g.Answered = b.query(ctx, id, &g.State); !g.Answered {
			_, opened := parts(id)
			g.State = contract.GroupState{
				ID: id, Input: contract.GroupInput{Cause: causeOf(id), Opened: opened},
				Level: detect.Level(attribute(e, contract.AttrSeverity)), Phase: contract.Phase(attribute(e, contract.AttrState)),
			}
		}
		return g
	})
	slices.SortStableFunc(groups, func(x, y Group) int {
		return cmp.Or(y.State.Input.Opened.Compare(x.State.Input.Opened), cmp.Compare(x.State.ID, y.State.ID))
	})
	return groups, err
}

// causeOf reads the cause back out of the id of a group.
func causeOf(id string) string {
	escaped := strings.Split(id, "/")[2] // contract.GroupID
	if cause, err := url.PathUnescape(escaped); err == nil {
		return cause
	}
	return escaped
}

// Decisions lists the decisions that wait for a person or are under way, newest first.
func (b *Inbox) Decisions(ctx context.Context) ([]Decision, error) {
	decisions, err := list(ctx, b, contract.Decision, func(ctx context.Context, id string, e *workflow.WorkflowExecutionInfo) Decision {
		d := Decision{Handle: contract.Handle(id)}
		if d.Answered = b.query(ctx, id, &d.State); !d.Answered {
			key, _ := parts(id)
			d.State = contract.DecisionState{
				ID: id, Input: contract.DecisionInput{Key: key}, Opened: e.GetStartTime().AsTime(),
				Status: contract.Status(attribute(e, contract.AttrState)),
			}
		}
		return d
	})
	slices.SortStableFunc(decisions, func(x, y Decision) int {
		return cmp.Or(y.State.Opened.Compare(x.State.Opened), cmp.Compare(x.State.ID, y.State.ID))
	})
	return decisions, err
}

// listed are the workflows of a type, newest first, running ones only or ended ones too.
func (b *Inbox) listed(ctx context.Context, workflowType string, running bool) ([]*workflow.WorkflowExecutionInfo, error) {
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: fmt.Sprintf("WorkflowType=%q", workflowType), PageSize: pageSize}
	if running {
		request.Query += fmt.Sprintf(" AND ExecutionStatus=%q", "Running")
	}
	var all []*workflow.WorkflowExecutionInfo
	for len(all) < maxItems {
		page, err := b.temporal.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("%w: listing workflows of the type %s: %w", ErrAway, workflowType, err)
		}
		all = append(all, page.GetExecutions()...)
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	return all[:min(len(all), maxItems)], nil
}

// list lists the running workflows of a type and asks each for its state.
func list[T any](ctx context.Context, b *Inbox, workflowType string, describe func(context.Context, string, *workflow.WorkflowExecutionInfo) T) ([]T, error) {
	open, err := b.listed(ctx, workflowType, true)
	if err != nil {
		return nil, err
	}
	all := make([]T, len(open))
	var group errgroup.Group
	group.SetLimit(asking)
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	for i, e := range open {
		group.Go(func() error {
			all[i] = describe(patient, e.GetExecution().GetWorkflowId(), e)
			return nil
		})
	}
	_ = group.Wait() // describing cannot fail
	return all, nil
}

// query asks a workflow for its state; a worker that does not answer is no error.
func (b *Inbox) query(ctx context.Context, id string, state any) bool {
	answer, err := b.temporal.QueryWorkflow(ctx, id, "", contract.State)
	return err == nil && answer.Get(state) == nil
}

// attribute is a search attribute of a listed workflow.
func attribute(e *workflow.WorkflowExecutionInfo, name string) string {
	var payload *commonpb.Payload
	if payload = e.GetSearchAttributes().GetIndexedFields()[name]; payload == nil {
		return ""
	}
	var value string
	if converter.GetDefaultDataConverter().FromPayload(payload, &value) != nil {
		return ""
	}
	return value
}
