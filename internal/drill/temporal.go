package drill

import (
	"context"
	"errors"
	"fmt"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Client is the part of a Temporal client by which a drill looks at the loop.
type Client interface {
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	GetWorkflowHistory(ctx context.Context, workflowID, runID string, isLongPoll bool, filterType enums.HistoryEventFilterType) client.HistoryEventIterator
}

// Temporal is the loop as Temporal holds it. Ask has a tenant's baselines computed anew.
type Temporal struct {
	Client Client
	Ask    func(context.Context, contract.AskRecalibrationRequest) error
}

// who is how a drill signs what it does.
const who = "drill"

// Tuning is that of the first shard's sweep.
func (t *Temporal) Tuning(ctx context.Context) (contract.Tuning, error) {
	var s contract.SweepState
	there, err := t.query(ctx, contract.SweepID(0), &s)
	if err == nil && !there {
		err = fmt.Errorf("%w: no sweep runs: start a worker (flyball serve --role worker)", ErrAway)
	}
	return s.Tuning, err
}

// Alert is the state of the key's loop; zero: it has none.
func (t *Temporal) Alert(ctx context.Context, key usage.Key) (s contract.AlertLoopState, err error) {
	_, err = t.query(ctx, contract.AlertLoopID(key), &s)
	return s, err
}

// Incident is the state of an incident, ended or not.
func (t *Temporal) Incident(ctx context.Context, id string) (s contract.IncidentState, err error) {
	_, err = t.query(ctx, id, &s)
	return s, err
}

func (t *Temporal) query(ctx context.Context, id string, state any) (there bool, err error) {
	answer, err := t.Client.QueryWorkflow(ctx, id, "", contract.State)
	var notFound *serviceerror.NotFound
	switch {
	case errors.As(err, &notFound):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("%w: asking %s: %w", ErrAway, id, err)
	}
	if err := answer.Get(state); err != nil {
		return false, fmt.Errorf("reading the state of %s: %w", id, err)
	}
	return true, nil
}

// postActivity is the name of the activity that brings notices to their channels.
const postActivity = "Post"

// Told reads in the incident's history when the activity that brings its notice to the channels came back, and with
// what: the channels' own answers, by Temporal's clock.
func (t *Temporal) Told(ctx context.Context, incident string, level detect.Level) (*Telling, error) {
	scheduled := map[int64]bool{}
	events := t.Client.GetWorkflowHistory(ctx, incident, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		if err != nil {
			return nil, fmt.Errorf("%w: reading the history of %s: %w", ErrAway, incident, err)
		}
		if calls(e, level) {
			scheduled[e.GetEventId()] = true
		}
		if done := e.GetActivityTaskCompletedEventAttributes(); done != nil && scheduled[done.GetScheduledEventId()] {
			told := &Telling{At: e.GetEventTime().AsTime()}
			if err := converter.GetDefaultDataConverter().FromPayloads(done.GetResult(), &told.Result); err != nil {
				return nil, fmt.Errorf("reading what became of a notice of %s: %w", incident, err)
			}
			return told, nil
		}
	}
	return nil, nil
}

// calls reports whether the event is the notice of an incident's opening, or of its rise, at the level.
func calls(e *history.HistoryEvent, level detect.Level) bool {
	s := e.GetActivityTaskScheduledEventAttributes()
	if s.GetActivityType().GetName() != postActivity {
		return false
	}
	var n contract.Notice
	err := converter.GetDefaultDataConverter().FromPayloads(s.GetInput(), &n)
	return err == nil && n.Level == level && (n.Kind == contract.NoticeOpened || n.Kind == contract.NoticeEscalated)
}

// Decide gives a verdict on a decision of a drill's key.
func (t *Temporal) Decide(ctx context.Context, decision, verdict string) error {
	key, err := contract.KeyOf(decision)
	if err != nil || !usage.IsDrill(key.Tenant) {
		return fmt.Errorf("%s is no decision of a drill's: a drill decides no other", decision)
	}
	return t.signal(ctx, decision, contract.Decide, contract.DecideRequest{Verdict: verdict, Who: who, Reason: "a drill approves its own acts that move calls, and no other"})
}

// Resolve closes the incident of a drill's key.
func (t *Temporal) Resolve(ctx context.Context, key usage.Key, reason string) error {
	if !usage.IsDrill(key.Tenant) {
		return fmt.Errorf("%s is no key of a drill's: a drill resolves no other", key)
	}
	return t.signal(ctx, contract.AlertLoopID(key), contract.Resolve, contract.ResolveRequest{Who: who, Reason: reason})
}

func (t *Temporal) signal(ctx context.Context, id, name string, arg any) error {
	err := t.Client.SignalWorkflow(ctx, id, "", name, arg)
	var notFound *serviceerror.NotFound
	if err == nil || errors.As(err, &notFound) { // it has ended: the next look says how
		return nil
	}
	return fmt.Errorf("%w: telling %s: %w", ErrAway, id, err)
}

// Recalibrate has the tenant's baselines computed anew.
func (t *Temporal) Recalibrate(ctx context.Context, tenant string, tuning contract.Tuning) error {
	return t.Ask(ctx, contract.AskRecalibrationRequest{
		Tenant: tenant, Tuning: tuning, Request: contract.RecalibrateRequest{Who: who, Reason: "a drill has laid down the past of " + tenant},
	})
}
