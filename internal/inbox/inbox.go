// Package inbox is how people see and decide open work: the incidents and decisions that Temporal
// holds. It keeps nothing of its own, so whatever the console, the command line or a colleague did is
// what everybody sees next.
package inbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
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

// Outcome is what became of a request. Answered is false when no worker was there: the request is then
// kept by Temporal, and takes effect when one is back.
type Outcome struct {
	ID       string `json:"id"`
	Answered bool   `json:"answered"`
}

// Decide gives a person's verdict on the decision that name means: its id, the start of one, or its
// handle.
func (b *Inbox) Decide(ctx context.Context, name string, r contract.DecideRequest) (Outcome, contract.DecisionState, error) {
	var state contract.DecisionState
	o, err := b.request(ctx, contract.Decision, name, contract.Decide, r.Verdict+"/"+r.Who, r, &state)
	return o, state, err
}

// Acknowledge says that a person has taken the incident on.
func (b *Inbox) Acknowledge(ctx context.Context, name string, r contract.AcknowledgeRequest) (Outcome, error) {
	return b.request(ctx, contract.Incident, name, contract.Acknowledge, r.Who, r, new(contract.IncidentState))
}

// SkipStep skips a step of the incident's runbook.
func (b *Inbox) SkipStep(ctx context.Context, name string, r contract.SkipStepRequest) (Outcome, error) {
	return b.request(ctx, contract.Incident, name, contract.SkipStep, r.Step, r, new(contract.IncidentState))
}

// Resolve closes the incident on a person's word. Its key's alert loop does so. Every request is one of
// its own: a finding may come back while the incident is closing, and it is then resolved a second time.
func (b *Inbox) Resolve(ctx context.Context, name string, r contract.ResolveRequest) (Outcome, error) {
	id, err := b.find(ctx, contract.Incident, name)
	if err != nil {
		return Outcome{}, err
	}
	key, err := contract.KeyOf(id)
	if err != nil {
		return Outcome{}, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	answered, err := b.send(ctx, contract.AlertLoopID(key), contract.Resolve, contract.Resolve+"/"+uuid.NewString(), r, new(contract.ResolveResult))
	return Outcome{ID: id, Answered: answered}, err
}

// request finds the workflow that name means and sends it an update under a fixed id, so that pressing
// a button twice is one request.
func (b *Inbox) request(ctx context.Context, workflowType, name, update, about string, arg, result any) (Outcome, error) {
	id, err := b.find(ctx, workflowType, name)
	if err != nil {
		return Outcome{}, err
	}
	answered, err := b.send(ctx, id, update, update+"/"+about, arg, result)
	return Outcome{ID: id, Answered: answered}, err
}

// send sends an update, and the signal of the same name when no worker answers in time.
func (b *Inbox) send(ctx context.Context, id, name, updateID string, arg, result any) (answered bool, err error) {
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	handle, err := b.temporal.UpdateWorkflow(patient, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateID: updateID, UpdateName: name, Args: []any{arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(patient, result)
	}
	if err == nil {
		return true, nil
	}
	if !noAnswer(err) || ctx.Err() != nil {
		return false, explain(id, err)
	}
	if err := b.temporal.SignalWorkflow(ctx, id, "", name, arg); err != nil {
		return false, explain(id, err)
	}
	return false, nil
}

// noAnswer reports whether nobody answered in time, as against an answer that says no.
func noAnswer(err error) bool {
	var slow *client.WorkflowUpdateServiceTimeoutOrCanceledError
	var deadline *serviceerror.DeadlineExceeded
	return errors.As(err, &slow) || errors.As(err, &deadline) || errors.Is(err, context.DeadlineExceeded)
}

// explain says an error of Temporal's in the words of people.
func explain(id string, err error) error {
	var application *temporal.ApplicationError
	var notFound *serviceerror.NotFound
	var unavailable *serviceerror.Unavailable
	switch {
	case errors.As(err, &application):
		return fmt.Errorf("%w: %s", ErrRefused, application.Message())
	case errors.As(err, &notFound):
		return fmt.Errorf("%w: %s does not run any more", ErrNotFound, id)
	case errors.As(err, &unavailable), noAnswer(err):
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return fmt.Errorf("asking Temporal about %s: %w", id, err)
}

// find is the id of the open workflow that name means: its id, its handle, or the start of its id.
func (b *Inbox) find(ctx context.Context, workflowType, name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("%w: say which %s", ErrNotFound, strings.ToLower(workflowType))
	}
	open, err := b.open(ctx, workflowType)
	if err != nil {
		return "", err
	}
	var byPrefix, byHandle []string
	for _, e := range open {
		id := e.GetExecution().GetWorkflowId()
		switch {
		case id == name:
			return id, nil
		case contract.Handle(id) == name:
			byHandle = append(byHandle, id)
		case strings.HasPrefix(id, name):
			byPrefix = append(byPrefix, id)
		}
	}
	for _, matches := range [][]string{byHandle, byPrefix} {
		switch len(matches) {
		case 0:
		case 1:
			return matches[0], nil
		default:
			slices.Sort(matches)
			return "", fmt.Errorf("%w: %q means %d of them: %s", ErrNotFound, name, len(matches), strings.Join(matches, ", "))
		}
	}
	// What has only just started may not be listed yet.
	if _, err := contract.OpenedAt(name); err == nil && strings.HasPrefix(name, strings.ToLower(workflowType)+"/") {
		return name, nil
	}
	return "", fmt.Errorf("%w: no open %s is called %q", ErrNotFound, strings.ToLower(workflowType), name)
}

// open lists the running workflows of a type.
func (b *Inbox) open(ctx context.Context, workflowType string) ([]*workflow.WorkflowExecutionInfo, error) {
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", workflowType, "Running"), PageSize: pageSize,
	}
	var open []*workflow.WorkflowExecutionInfo
	for len(open) < maxItems {
		page, err := b.temporal.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("%w: listing the open %ss: %w", ErrAway, strings.ToLower(workflowType), err)
		}
		open = append(open, page.GetExecutions()...)
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	return open[:min(len(open), maxItems)], nil
}

// list lists the running workflows of a type and asks each for its state.
func list[T any](ctx context.Context, b *Inbox, workflowType string, describe func(context.Context, string, *workflow.WorkflowExecutionInfo) T) ([]T, error) {
	open, err := b.open(ctx, workflowType)
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
