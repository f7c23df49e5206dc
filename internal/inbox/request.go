package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Outcome is what became of a request. Answered is false when no worker was there, or none has finished it
// yet: the request is then kept by Temporal, and takes effect when a worker gets to it.
type Outcome struct {
	ID       string `json:"id"`
	Answered bool   `json:"answered"`
}

// Decide gives a person's verdict on the decision that name means: its id, the start of one, or its
// handle.
func (b *Inbox) Decide(ctx context.Context, name string, r contract.DecideRequest) (Outcome, contract.DecisionState, error) {
	var state contract.DecisionState
	o, err := b.request(ctx, name, request{update: contract.Decide, about: r.Verdict + "/" + r.Who, arg: r, result: &state}, contract.Decision)
	return o, state, err
}

// Acknowledge says that a person has taken the incident or the group on.
func (b *Inbox) Acknowledge(ctx context.Context, name string, r contract.AcknowledgeRequest) (Outcome, error) {
	return b.request(ctx, name, request{update: contract.Acknowledge, about: r.Who, arg: r}, contract.Incident, contract.Group)
}

// SkipStep skips a step of the incident's runbook. A group walks none.
func (b *Inbox) SkipStep(ctx context.Context, name string, r contract.SkipStepRequest) (Outcome, error) {
	return b.request(ctx, name, request{update: contract.SkipStep, about: r.Step, arg: r}, contract.Incident)
}

// RerunStep walks a step of the incident's runbook once more. It may be asked any number of times.
func (b *Inbox) RerunStep(ctx context.Context, name string, r contract.RerunStepRequest) (Outcome, error) {
	return b.request(ctx, name, request{update: contract.RerunStep, arg: r}, contract.Incident)
}

// Annotate writes a remark into the timeline of the incident or the group. The same one may be made twice.
func (b *Inbox) Annotate(ctx context.Context, name string, r contract.AnnotateRequest) (Outcome, error) {
	return b.request(ctx, name, request{update: contract.Annotate, arg: r}, contract.Incident, contract.Group)
}

// Split takes a key out of a group: it gets an incident of its own.
func (b *Inbox) Split(ctx context.Context, name string, r contract.SplitRequest) (Outcome, error) {
	return b.request(ctx, name, request{update: contract.Split, arg: r}, contract.Group)
}

// AcceptLevel says that the level which the key has now is its usual one. Name is whatever Target
// understands, but for a group: each key of one has a level of its own.
func (b *Inbox) AcceptLevel(ctx context.Context, name string, r contract.AcceptLevelRequest) (Outcome, contract.AcceptLevelResult, error) {
	var result contract.AcceptLevelResult
	id, err := b.Target(ctx, name)
	if err != nil {
		return Outcome{}, result, err
	}
	if contract.IsGroup(id) {
		return Outcome{}, result, fmt.Errorf("%w: %s is of many keys; accept the level of each by its name, tenant/model", ErrRefused, name)
	}
	answered, err := b.send(ctx, id, request{update: contract.AcceptLevel, arg: r, result: &result})
	return Outcome{ID: id, Answered: answered}, result, err
}

// Resolve closes the incident on a person's word. Its key's alert loop does so; a group closes the alerts of
// all its keys. Every request is one of its own: a finding may come back while the incident is closing, and
// it is then resolved a second time.
func (b *Inbox) Resolve(ctx context.Context, name string, r contract.ResolveRequest) (Outcome, error) {
	id, err := b.find(ctx, name, contract.Incident, contract.Group)
	if err != nil {
		return Outcome{}, err
	}
	owner := id
	if !contract.IsGroup(id) {
		if owner, err = loopOf(id); err != nil {
			return Outcome{}, err
		}
	}
	answered, err := b.send(ctx, owner, request{update: contract.Resolve, arg: r})
	return Outcome{ID: id, Answered: answered}, err
}

// request is something asked of a workflow, by an update or by the signal of the same name.
type request struct {
	update string
	about  string // makes the update's id a fixed one, so that pressing a button twice is one request; empty: each is its own
	arg    any
	result any                      // that the answer is decoded into; nil: nobody reads it
	start  *contract.AlertLoopInput // of the loop that is started when there is none; nil: it must be there
}

func (r request) id() string {
	if r.about == "" {
		return r.update + "/" + uuid.NewString()
	}
	return r.update + "/" + r.about
}

// request finds the open workflow of one of the types that name means and sends it the request.
func (b *Inbox) request(ctx context.Context, name string, r request, types ...string) (Outcome, error) {
	id, err := b.find(ctx, name, types...)
	if err != nil {
		return Outcome{}, err
	}
	answered, err := b.send(ctx, id, r)
	return Outcome{ID: id, Answered: answered}, err
}

// send sends an update, and the signal of the same name when no worker takes it in time. An update that was
// taken needs no signal, however long it takes: it is in the workflow's history.
func (b *Inbox) send(ctx context.Context, id string, r request) (answered bool, err error) {
	patient, cancel := context.WithTimeout(ctx, b.patience)
	defer cancel()
	handle, err := b.update(patient, id, r)
	if err == nil {
		switch err = handle.Get(patient, r.result); {
		case err == nil:
			return true, nil
		case noAnswer(err) && ctx.Err() == nil:
			return false, nil
		}
	}
	if !noAnswer(err) || ctx.Err() != nil {
		return false, explain(id, err)
	}
	if r.start == nil {
		err = b.temporal.SignalWorkflow(ctx, id, "", r.update, r.arg)
	} else {
		_, err = b.temporal.SignalWithStartWorkflow(ctx, id, r.update, r.arg, startOptions(id, r.start.Key), contract.AlertLoop, *r.start)
	}
	if err != nil {
		return false, explain(id, err)
	}
	return false, nil
}

func (b *Inbox) update(ctx context.Context, id string, r request) (client.WorkflowUpdateHandle, error) {
	o := client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateID: r.id(), UpdateName: r.update, Args: []any{r.arg}, WaitForStage: client.WorkflowUpdateStageAccepted,
	}
	if r.start == nil {
		return b.temporal.UpdateWorkflow(ctx, o)
	}
	return b.temporal.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: b.temporal.NewWithStartWorkflowOperation(startOptions(id, r.start.Key), contract.AlertLoop, *r.start),
		UpdateOptions:          o,
	})
}

// startOptions are those of an alert loop, as whoever else starts one gives them.
func startOptions(id string, k usage.Key) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant).ValueSet(k.Tenant),
			temporal.NewSearchAttributeKeyKeyword(contract.AttrModel).ValueSet(k.Model),
		),
	}
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
