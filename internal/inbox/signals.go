package inbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/notify"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Signaller is the part of a Temporal client that Signals uses.
type Signaller interface {
	Temporal
	WorkflowService() workflowservice.WorkflowServiceClient
	SignalWithStartWorkflow(ctx context.Context, workflowID, signalName string, signalArg any, options client.StartWorkflowOptions, workflow any, workflowArgs ...any) (client.WorkflowRun, error)
}

// Signals carries the word of people who press buttons elsewhere: notify.People. Everything is a signal, which
// Temporal keeps for a worker that is away. What carries an id (notify.WithID) is one signal however often it
// comes, to whichever process.
type Signals struct {
	temporal  Signaller
	namespace string
	tuning    contract.Tuning // of an alert loop that is started to be muted
}

// NewSignals speaks to the namespace of the client.
func NewSignals(t Signaller, namespace string, tuning contract.Tuning) *Signals {
	return &Signals{temporal: t, namespace: namespace, tuning: tuning}
}

// Decide gives a verdict on a decision.
func (s *Signals) Decide(ctx context.Context, decision string, r contract.DecideRequest) error {
	return s.signal(ctx, decision, contract.Decide, r)
}

// Acknowledge says who has taken the incident, or the group, on.
func (s *Signals) Acknowledge(ctx context.Context, incident string, r contract.AcknowledgeRequest) error {
	return s.signal(ctx, incident, contract.Acknowledge, r)
}

// Annotate writes a remark into its timeline.
func (s *Signals) Annotate(ctx context.Context, incident string, r contract.AnnotateRequest) error {
	return s.signal(ctx, incident, contract.Annotate, r)
}

// Resolve closes a group, and an incident by the alert loop of its key. An incident that has ended is left
// alone, since its key may have another by now.
func (s *Signals) Resolve(ctx context.Context, incident string, r contract.ResolveRequest) error {
	if contract.IsGroup(incident) {
		return s.signal(ctx, incident, contract.Resolve, r)
	}
	key, err := contract.KeyOf(incident)
	if err != nil {
		return fmt.Errorf("%w: %w", notify.ErrGone, err)
	}
	if err := s.runs(ctx, incident); err != nil {
		return err
	}
	return s.signal(ctx, contract.AlertLoopID(key), contract.Resolve, r)
}

// Mute mutes a group, the key of an incident, or the key or tenant of an alert loop, which is started where it
// does not run.
func (s *Signals) Mute(ctx context.Context, what string, r contract.MuteRequest) error {
	if contract.IsGroup(what) {
		return s.signal(ctx, what, contract.SetMute, r)
	}
	key, err := contract.KeyOf(what)
	if err != nil {
		return fmt.Errorf("%w: %w", notify.ErrGone, err)
	}
	if r.For == 0 { // and where no loop runs, nothing is muted
		err := s.signal(ctx, contract.AlertLoopID(key), contract.SetMute, r)
		if errors.Is(err, notify.ErrGone) {
			err = nil
		}
		return err
	}
	_, err = s.temporal.SignalWithStartWorkflow(ctx, contract.AlertLoopID(key), contract.SetMute, r, loopOptions(key),
		contract.AlertLoop, contract.AlertLoopInput{Key: key, Tuning: s.tuning})
	return s.failed(contract.AlertLoopID(key), err)
}

// loopOptions are those with which the alert loop of a key is started.
func loopOptions(k usage.Key) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID: contract.AlertLoopID(k), TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		TypedSearchAttributes: temporal.NewSearchAttributes(
			temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant).ValueSet(k.Tenant),
			temporal.NewSearchAttributeKeyKeyword(contract.AttrModel).ValueSet(k.Model),
		),
	}
}

// OpenIncidents lists the ids of the incidents and groups that are open now.
func (s *Signals) OpenIncidents(ctx context.Context) ([]string, error) {
	var ids []string
	for _, workflowType := range []string{contract.Incident, contract.Group} {
		open, err := (&Inbox{temporal: s.temporal}).listed(ctx, workflowType, true)
		if err != nil {
			return nil, err
		}
		for _, e := range open {
			ids = append(ids, e.GetExecution().GetWorkflowId())
		}
	}
	return ids, nil
}

// State asks a workflow for its state.
func (s *Signals) State(ctx context.Context, id string, state any) error {
	answer, err := s.temporal.QueryWorkflow(ctx, id, "", contract.State)
	if err != nil {
		return explain(id, err)
	}
	return answer.Get(state)
}

// runs reports, by its error, whether the workflow has ended. It needs no worker.
func (s *Signals) runs(ctx context.Context, id string) error {
	description, err := s.temporal.WorkflowService().DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: s.namespace, Execution: &commonpb.WorkflowExecution{WorkflowId: id},
	})
	if err != nil {
		return s.failed(id, err)
	}
	if description.GetWorkflowExecutionInfo().GetStatus() != enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		return fmt.Errorf("%s: %w", id, notify.ErrGone)
	}
	return nil
}

// identity is how Temporal records who sent the signals.
const identity = "flyball"

// signal sends a signal under the id of the person's word. The server drops one whose id it has seen.
func (s *Signals) signal(ctx context.Context, id, name string, arg any) error {
	input, err := converter.GetDefaultDataConverter().ToPayloads(arg)
	if err != nil {
		return fmt.Errorf("writing the signal %s: %w", name, err)
	}
	request := notify.ID(ctx)
	if request == "" {
		request = uuid.NewString()
	}
	_, err = s.temporal.WorkflowService().SignalWorkflowExecution(ctx, &workflowservice.SignalWorkflowExecutionRequest{
		Namespace: s.namespace, WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: id},
		SignalName: name, Input: input, Identity: identity, RequestId: request,
	})
	return s.failed(id, err)
}

// failed says an error of Temporal's in the words of notify.People.
func (s *Signals) failed(id string, err error) error {
	var notFound *serviceerror.NotFound
	switch {
	case err == nil:
		return nil
	case errors.As(err, &notFound):
		return fmt.Errorf("%s: %w", id, notify.ErrGone)
	}
	return explain(id, err)
}
