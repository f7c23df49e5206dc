package activities

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Temporal is the part of a Temporal client by which activities speak to workflows.
type Temporal interface {
	NewWithStartWorkflowOperation(options client.StartWorkflowOptions, workflow any, args ...any) client.WithStartWorkflowOperation
	UpdateWorkflow(ctx context.Context, options client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error)
	UpdateWithStartWorkflow(ctx context.Context, options client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error)
	ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	SignalWithStartWorkflow(ctx context.Context, workflowID, signalName string, signalArg any, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
}

// Loop speaks to the durable loops: the alert loops of the keys and the tenants' ledgers of trust.
type Loop struct {
	Client Temporal
	Log    *slog.Logger
}

// SetKeyFlag has the key's loop set a flag. To take one off, a loop that is not there is started:
// whatever its predecessor left in Redis, a new loop's orders are newer. To put one on the loop must be
// there, unless Start says otherwise: it is open while the incident is, so an order that finds none is
// one that nobody wants now.
func (l *Loop) SetKeyFlag(ctx context.Context, r contract.SetKeyFlagRequest) (contract.SetFlagResult, error) {
	var result contract.SetFlagResult
	var err error
	update := client.UpdateWorkflowOptions{
		WorkflowID: contract.AlertLoopID(r.Key), UpdateID: r.UpdateID, UpdateName: contract.SetFlag, Args: []any{r.Flag},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	}
	if r.Flag.Share > 0 && !r.Start {
		err = l.update(ctx, update, &result)
	} else {
		err = l.updateWithStart(ctx, update, keyAttributes(r.Key), contract.AlertLoop, contract.AlertLoopInput{Key: r.Key, Tuning: r.Tuning}, &result)
	}
	return result, settled(fmt.Sprintf("setting the %s flag of %s", r.Flag.Kind, r.Key), err)
}

// AskTrust asks the tenant's ledger whether a decision may be carried out without a person.
func (l *Loop) AskTrust(ctx context.Context, r contract.TrustRequest) (contract.TrustAnswer, error) {
	var answer contract.TrustAnswer
	err := l.updateLedger(ctx, r.Tenant, r.Decision+"/ask", contract.AskTrust, r, &answer)
	return answer, settled("asking the trust ledger of "+r.Tenant, err)
}

// TellTrust tells the tenant's ledger what became of a decision.
func (l *Loop) TellTrust(ctx context.Context, r contract.TrustOutcomeRequest) (contract.TrustAnswer, error) {
	var answer contract.TrustAnswer
	err := l.updateLedger(ctx, r.Tenant, r.Decision+"/"+r.Outcome, contract.TrustOutcome, r, &answer)
	return answer, settled("telling the trust ledger of "+r.Tenant, err)
}

// updateLedger sends an update to the tenant's ledger of trust.
func (l *Loop) updateLedger(ctx context.Context, tenant, updateID, name string, arg, result any) error {
	return l.updateWithStart(ctx, client.UpdateWorkflowOptions{
		WorkflowID: contract.AutonomyID(tenant), UpdateID: updateID, UpdateName: name, Args: []any{arg},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	}, tenantAttributes(tenant), contract.Autonomy, contract.AutonomyInput{Tenant: tenant}, result)
}

// updateWithStart sends an update under its fixed id, to a workflow that is started when it is not
// there, and waits for the result.
func (l *Loop) updateWithStart(ctx context.Context, o client.UpdateWorkflowOptions, attributes temporal.SearchAttributes, workflowType string, input, result any) error {
	handle, err := l.Client.UpdateWithStartWorkflow(ctx, client.UpdateWithStartWorkflowOptions{
		StartWorkflowOperation: l.Client.NewWithStartWorkflowOperation(startOptions(o.WorkflowID, attributes), workflowType, input),
		UpdateOptions:          o,
	})
	if err == nil {
		err = handle.Get(ctx, result)
	}
	return err
}

// update sends an update to a workflow that must be there.
func (l *Loop) update(ctx context.Context, o client.UpdateWorkflowOptions, result any) error {
	handle, err := l.Client.UpdateWorkflow(ctx, o)
	if err == nil {
		err = handle.Get(ctx, result)
	}
	var notFound *serviceerror.NotFound
	if errors.As(err, &notFound) {
		return temporal.NewNonRetryableApplicationError(o.WorkflowID+" does not run any more", contract.ErrRefused, err)
	}
	return err
}

// settled says what was being done when an update failed. A refusal by the workflow is final.
// Everything else (a server that is away, a workflow that ended before it could answer) is worth
// another try. The final error is the outermost one, since the SDK asks no error that another wraps
// whether it may be retried.
func settled(doing string, err error) error {
	if err == nil {
		return nil
	}
	var application *temporal.ApplicationError
	if errors.As(err, &application) && (application.Type() == contract.ErrRefused || application.Type() == contract.ErrBadInput) {
		return temporal.NewNonRetryableApplicationError(doing+": "+application.Message(), application.Type(), err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// startOptions are those of a durable loop: one per id, joined when it runs already.
func startOptions(id string, attributes temporal.SearchAttributes) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID: id, TaskQueue: contract.TaskQueue, WorkflowTaskTimeout: contract.WorkflowTaskTimeout,
		WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		TypedSearchAttributes:    attributes,
	}
}

func keyAttributes(k usage.Key) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(
		temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant).ValueSet(k.Tenant),
		temporal.NewSearchAttributeKeyKeyword(contract.AttrModel).ValueSet(k.Model),
	)
}

func tenantAttributes(tenant string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(temporal.NewSearchAttributeKeyKeyword(contract.AttrTenant).ValueSet(tenant))
}

// OpenLoop is an alert loop that is open, with the level that it holds.
type OpenLoop struct {
	Key   usage.Key
	Level detect.Level
	Group string // the incident of many keys that it is in, or was told to join
	Muted bool   // it has neither a finding nor an incident: it is open for a mute, or for a flag that it lends to another key's incident
}

// Tell gives a key's loop a finding. When start is set a loop that is not there is started; else gone
// reports that there is none.
func (l *Loop) Tell(ctx context.Context, message contract.FactsMessage, tuning contract.Tuning, start bool) (gone bool, err error) {
	f := message.Finding
	id := contract.AlertLoopID(f.Key)
	if start {
		options := startOptions(id, keyAttributes(f.Key))
		options.StaticSummary = "the alert loop of " + f.Key.String()
		_, err = l.Client.SignalWithStartWorkflow(ctx, id, contract.Facts, message, options, contract.AlertLoop,
			contract.AlertLoopInput{Key: f.Key, Tuning: tuning})
	} else {
		err = l.Client.SignalWorkflow(ctx, id, "", contract.Facts, message)
	}
	var notFound *serviceerror.NotFound
	if errors.As(err, &notFound) && !start {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("telling the loop of %s: %w", f.Key, err)
	}
	return false, nil
}

// answerWithin is how long a listed loop may take to say its level: its worker may only be starting.
const answerWithin = 2 * time.Second

// Open lists the open alert loops that are not known yet, with the levels that they hold. A loop that
// does not answer is listed with the level that visibility knows.
func (l *Loop) Open(ctx context.Context, known func(key usage.Key, state string) bool) ([]OpenLoop, error) {
	var open []OpenLoop
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q", contract.AlertLoop, "Running"), PageSize: 200,
	}
	for {
		page, err := l.Client.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("listing the open alert loops: %w", err)
		}
		for _, e := range page.GetExecutions() {
			id := e.GetExecution().GetWorkflowId()
			key, err := contract.KeyOf(id)
			if err != nil {
				l.Log.WarnContext(ctx, "an alert loop under a foreign id is left alone", "workflow", id, "error", err)
				continue
			}
			state := listed(e, contract.AttrState)
			if !known(key, state) {
				loop := OpenLoop{Key: key, Muted: state == contract.StateMuted}
				l.ask(ctx, id, e, &loop)
				open = append(open, loop)
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return open, nil
		}
	}
}

// ask has a loop say the level that it holds, the group that it is in, and whether it is open for others only.
func (l *Loop) ask(ctx context.Context, id string, seen *workflow.WorkflowExecutionInfo, loop *OpenLoop) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	answer, err := l.Client.QueryWorkflow(ctx, id, "", contract.State)
	if err == nil {
		var state contract.AlertLoopState
		if err = answer.Get(&state); err == nil {
			loop.Level, loop.Group = state.Alert.Level, state.Group
			if contract.IsGroup(state.Incident) {
				loop.Group = state.Incident
			}
			loop.Muted = loop.Muted || state.Alert.Phase == alert.Quiet && state.Incident == ""
			return
		}
	}
	l.Log.InfoContext(ctx, "an alert loop did not say its level", "workflow", id, "error", err)
	if loop.Level = detect.Level(listed(seen, contract.AttrSeverity)); !up(loop.Level) {
		loop.Level = detect.None
	}
}

// listed is a search attribute that visibility knows; empty when it knows none.
func listed(e *workflow.WorkflowExecutionInfo, attribute string) (value string) {
	if payload := e.GetSearchAttributes().GetIndexedFields()[attribute]; payload != nil {
		_ = converter.GetDefaultDataConverter().FromPayload(payload, &value) // what cannot be read is not known
	}
	return value
}
