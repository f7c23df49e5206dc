package activities

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/common/v1"
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
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// start is a workflow that a message would start.
type start struct {
	client.WithStartWorkflowOperation
	options  client.StartWorkflowOptions
	workflow any
	input    any
}

// handle is an accepted update.
type handle struct {
	client.WorkflowUpdateHandle
	result any
	err    error
}

func (h handle) Get(_ context.Context, into any) error {
	if h.err == nil {
		switch into := into.(type) {
		case *contract.SetFlagResult:
			*into = h.result.(contract.SetFlagResult)
		case *contract.TrustAnswer:
			*into = h.result.(contract.TrustAnswer)
		case *contract.OpenCasesResult:
			*into = h.result.(contract.OpenCasesResult)
		}
	}
	return h.err
}

// fakeTemporal is a Temporal client that keeps what it was asked for.
type fakeTemporal struct {
	Temporal
	result    any   // of updates
	err       error // of sending
	updateErr error // of the update itself

	update  *client.UpdateWorkflowOptions
	started *start
	signal  any // the argument of the last one
	target  string

	pages   []*workflowservice.ListWorkflowExecutionsResponse
	listed  []string // the page tokens that were asked for
	query   string
	answers map[string]any // to queries, by workflow: a state, or an error
}

func (f *fakeTemporal) NewWithStartWorkflowOperation(options client.StartWorkflowOptions, workflow any, args ...any) client.WithStartWorkflowOperation {
	return start{options: options, workflow: workflow, input: args[0]}
}

func (f *fakeTemporal) UpdateWorkflow(_ context.Context, options client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	f.update = &options
	return handle{result: f.result, err: f.updateErr}, f.err
}

func (f *fakeTemporal) UpdateWithStartWorkflow(_ context.Context, options client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	s := options.StartWorkflowOperation.(start)
	f.update, f.started = &options.UpdateOptions, &s
	return handle{result: f.result, err: f.updateErr}, f.err
}

func (f *fakeTemporal) SignalWithStartWorkflow(_ context.Context, id, name string, arg any, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	f.target, f.signal, f.started = id+" "+name, arg, &start{options: options, workflow: workflow, input: args[0]}
	return nil, f.err
}

func (f *fakeTemporal) SignalWorkflow(_ context.Context, id, _, name string, arg any) error {
	f.target, f.signal = id+" "+name, arg
	return f.err
}

func (f *fakeTemporal) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.query = r.GetQuery()
	f.listed = append(f.listed, string(r.GetNextPageToken()))
	if f.err != nil {
		return nil, f.err
	}
	return f.pages[len(f.listed)-1], nil
}

func (f *fakeTemporal) QueryWorkflow(ctx context.Context, id, _, _ string, _ ...any) (converter.EncodedValue, error) {
	switch answer := f.answers[id].(type) {
	case nil:
		<-ctx.Done() // no worker answers
		return nil, ctx.Err()
	case error:
		return nil, answer
	default:
		payloads, err := converter.GetDefaultDataConverter().ToPayloads(answer)
		if err != nil {
			return nil, err
		}
		return client.NewValue(payloads), nil
	}
}

func TestAskRecalibration(t *testing.T) {
	t.Parallel()
	temporalClient := &fakeTemporal{}
	l := &Loop{Client: temporalClient, Log: silent()}
	request := contract.AskRecalibrationRequest{Tenant: "org_42", Tuning: tuning, Request: contract.RecalibrateRequest{Who: "incident/1", Reason: "claude-x has come"}}
	require.NoError(t, l.AskRecalibration(t.Context(), request))
	require.Equal(t, contract.CalibrationID("org_42")+" "+contract.Recalibrate, temporalClient.target)
	require.Equal(t, request.Request, temporalClient.signal)
	require.Equal(t, contract.Calibration, temporalClient.started.workflow)
	require.Equal(t, contract.CalibrationInput{Tenant: "org_42", Tuning: tuning}, temporalClient.started.input)
	temporalClient.err = errAway
	require.ErrorIs(t, l.AskRecalibration(t.Context(), request), errAway)
}

var setFlag = contract.SetFlagRequest{Kind: routing.Route, Value: haiku.Model, Share: 0.5, Reason: "the act helps", Decision: "decision/1"}

func TestSetKeyFlag(t *testing.T) {
	t.Parallel()
	off := setFlag
	off.Share = 0
	for name, tc := range map[string]struct {
		flag   contract.SetFlagRequest
		start  bool
		starts bool
	}{
		"on goes to a loop that is there":      {flag: setFlag},
		"on may start one where it is told so": {flag: setFlag, start: true, starts: true},
		"off starts one":                       {flag: off, starts: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := contract.SetFlagResult{Flag: order(routing.Route, 2), Changed: true}
			temporalClient := &fakeTemporal{result: want}
			got, err := (&Loop{Client: temporalClient, Log: silent()}).SetKeyFlag(t.Context(), contract.SetKeyFlagRequest{
				Key: opus, Tuning: tuning, UpdateID: "decision/1/2", Start: tc.start, Flag: tc.flag,
			})
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, client.UpdateWorkflowOptions{
				WorkflowID: contract.AlertLoopID(opus), UpdateID: "decision/1/2", UpdateName: contract.SetFlag,
				Args: []any{tc.flag}, WaitForStage: client.WorkflowUpdateStageCompleted,
			}, *temporalClient.update)
			if !tc.starts {
				require.Nil(t, temporalClient.started)
				return
			}
			require.Equal(t, contract.AlertLoop, temporalClient.started.workflow)
			require.Equal(t, contract.AlertLoopInput{Key: opus, Tuning: tuning}, temporalClient.started.input)
			requireLoopOptions(t, temporalClient.started.options, contract.AlertLoopID(opus), keyAttributes(opus))
		})
	}
}

// requireLoopOptions checks that a loop is started once for its id, and joined from then on.
func requireLoopOptions(t *testing.T, o client.StartWorkflowOptions, id string, attributes temporal.SearchAttributes) {
	t.Helper()
	require.Equal(t, id, o.ID)
	require.Equal(t, contract.TaskQueue, o.TaskQueue)
	require.Equal(t, contract.WorkflowTaskTimeout, o.WorkflowTaskTimeout)
	require.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING, o.WorkflowIDConflictPolicy)
	require.Equal(t, attributes, o.TypedSearchAttributes)
}

func TestTrustLedger(t *testing.T) {
	t.Parallel()
	answer := contract.TrustAnswer{Granted: true, Approved: 10, Needed: 10}
	ask := contract.TrustRequest{Tenant: "org_42", Action: "downgrade", Rule: "page-cost-and-quality", Decision: "decision/1"}
	outcome := contract.TrustOutcomeRequest{Tenant: "org_42", Action: "downgrade", Decision: "decision/1", Outcome: contract.OutcomeApproved}
	for name, tc := range map[string]struct {
		call     func(ctx context.Context, l *Loop) (contract.TrustAnswer, error)
		updateID string
		name     string
		arg      any
	}{
		"is asked": {
			call:     func(ctx context.Context, l *Loop) (contract.TrustAnswer, error) { return l.AskTrust(ctx, ask) },
			updateID: "decision/1/ask", name: contract.AskTrust, arg: ask,
		},
		"is told": {
			call:     func(ctx context.Context, l *Loop) (contract.TrustAnswer, error) { return l.TellTrust(ctx, outcome) },
			updateID: "decision/1/approved", name: contract.TrustOutcome, arg: outcome,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temporalClient := &fakeTemporal{result: answer}
			got, err := tc.call(t.Context(), &Loop{Client: temporalClient, Log: silent()})
			require.NoError(t, err)
			require.Equal(t, answer, got)
			require.Equal(t, client.UpdateWorkflowOptions{
				WorkflowID: contract.AutonomyID("org_42"), UpdateID: tc.updateID, UpdateName: tc.name,
				Args: []any{tc.arg}, WaitForStage: client.WorkflowUpdateStageCompleted,
			}, *temporalClient.update, "a retry has the same id, and so counts once")
			require.Equal(t, contract.Autonomy, temporalClient.started.workflow)
			require.Equal(t, contract.AutonomyInput{Tenant: "org_42"}, temporalClient.started.input)
			requireLoopOptions(t, temporalClient.started.options, contract.AutonomyID("org_42"), tenantAttributes("org_42"))

			temporalClient.err = errAway
			_, err = tc.call(t.Context(), &Loop{Client: temporalClient, Log: silent()})
			require.ErrorIs(t, err, errAway)
		})
	}
}

func TestErrorsOfUpdatesAreClassified(t *testing.T) {
	t.Parallel()
	off := setFlag
	off.Share = 0
	refused := temporal.NewApplicationError("the incident is over", contract.ErrRefused)
	for name, tc := range map[string]struct {
		flag      contract.SetFlagRequest
		err       error // of sending
		updateErr error // of the update
		kind      string
		final     bool
		says      string
	}{
		"a refusal is final":                 {flag: setFlag, updateErr: refused, kind: contract.ErrRefused, final: true, says: "the incident is over"},
		"by a loop that was started too":     {flag: off, updateErr: refused, kind: contract.ErrRefused, final: true, says: "the incident is over"},
		"so is one that came while sending":  {flag: setFlag, err: refused, kind: contract.ErrRefused, final: true, says: "the incident is over"},
		"and a request that is wrong":        {flag: setFlag, updateErr: temporal.NewApplicationError("share is 2", contract.ErrBadInput), kind: contract.ErrBadInput, final: true, says: "share is 2"},
		"a loop that is gone wants no flag":  {flag: setFlag, err: serviceerror.NewNotFound("no such workflow"), kind: contract.ErrRefused, final: true, says: contract.AlertLoopID(opus) + " does not run any more"},
		"or went before it answered":         {flag: setFlag, updateErr: serviceerror.NewNotFound("workflow ended"), kind: contract.ErrRefused, final: true},
		"a server that is away is tried":     {flag: setFlag, err: serviceerror.NewUnavailable("connection refused"), says: "connection refused"},
		"and one that is away from starting": {flag: off, err: serviceerror.NewUnavailable("connection refused")},
		"and a loop that ends as it answers": {flag: off, updateErr: serviceerror.NewNotFound("workflow ended")},
		"and what another error says":        {flag: setFlag, updateErr: temporal.NewApplicationError("panic", "Panic")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &Loop{Client: &fakeTemporal{err: tc.err, updateErr: tc.updateErr}, Log: silent()}
			_, err := newBench(t, l).ExecuteActivity(l.SetKeyFlag, contract.SetKeyFlagRequest{Key: opus, Tuning: tuning, UpdateID: "u", Flag: tc.flag})
			var application *temporal.ApplicationError // as the server gets it
			require.ErrorAs(t, err, &application)
			require.Equal(t, tc.final, application.NonRetryable())
			require.Contains(t, application.Message(), "setting the route flag of org_42/claude-3-opus: "+tc.says)
			if tc.kind != "" {
				require.Equal(t, tc.kind, application.Type())
			}
		})
	}
}

func TestTell(t *testing.T) {
	t.Parallel()
	message := contract.FactsMessage{Epoch: "first", Finding: detect.Finding{Key: opus, Tick: 7, Verdict: detect.Verdict{Level: detect.Page}}}
	notFound := serviceerror.NewNotFound("workflow ended")
	for name, tc := range map[string]struct {
		start bool
		err   error
		gone  bool
		fails bool
	}{
		"a loop that is there":          {},
		"one that is not there":         {err: notFound, gone: true},
		"one that cannot be reached":    {err: errAway, fails: true},
		"or starts one":                 {start: true},
		"or cannot start one":           {start: true, err: errAway, fails: true},
		"or is told so, without reason": {start: true, err: notFound, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			temporalClient := &fakeTemporal{err: tc.err}
			gone, err := (&Loop{Client: temporalClient, Log: silent()}).Tell(t.Context(), message, tuning, tc.start)
			require.Equal(t, tc.gone, gone)
			require.Equal(t, tc.fails, err != nil)
			if tc.fails {
				require.ErrorIs(t, err, tc.err)
				require.ErrorContains(t, err, "telling the loop of org_42/claude-3-opus")
			}
			require.Equal(t, contract.AlertLoopID(opus)+" "+contract.Facts, temporalClient.target)
			require.Equal(t, message, temporalClient.signal)
			if !tc.start {
				require.Nil(t, temporalClient.started)
				return
			}
			require.Equal(t, contract.AlertLoop, temporalClient.started.workflow)
			require.Equal(t, contract.AlertLoopInput{Key: opus, Tuning: tuning}, temporalClient.started.input)
			requireLoopOptions(t, temporalClient.started.options, contract.AlertLoopID(opus), keyAttributes(opus))
		})
	}
}

// listing is a page of open loops; severity is what visibility knows of each, nil for nothing.
func listing(t *testing.T, next string, severity map[string]any, ids ...string) *workflowservice.ListWorkflowExecutionsResponse {
	t.Helper()
	page := &workflowservice.ListWorkflowExecutionsResponse{NextPageToken: []byte(next)}
	for _, id := range ids {
		e := &workflow.WorkflowExecutionInfo{Execution: &common.WorkflowExecution{WorkflowId: id}}
		if level := severity[id]; level != nil {
			payload, err := converter.GetDefaultDataConverter().ToPayload(level)
			require.NoError(t, err)
			e.SearchAttributes = &common.SearchAttributes{IndexedFields: map[string]*common.Payload{contract.AttrSeverity: payload}}
		}
		page.Executions = append(page.Executions, e)
	}
	return page
}

func TestOpenListsLoopsWithTheirLevels(t *testing.T) {
	t.Parallel()
	id := contract.AlertLoopID
	odd := usage.Key{Tenant: "a/b c", Model: "ünï/*"}
	temporalClient := &fakeTemporal{
		pages: []*workflowservice.ListWorkflowExecutionsResponse{
			listing(t, "next", nil, id(opus), "somebody-else's", id(haiku)),
			listing(t, "", nil, id(other), id(odd)),
		},
		answers: map[string]any{
			id(opus): contract.AlertLoopState{Key: opus, Alert: alert.State{Level: detect.Page}},
			id(odd):  contract.AlertLoopState{Key: odd, Alert: alert.State{Level: detect.None, Phase: alert.Quiet, Flags: 1}},
		},
	}
	logger, text := recorded()
	var asked []usage.Key
	open, err := (&Loop{Client: temporalClient, Log: logger}).Open(t.Context(), func(k usage.Key, _ string) bool {
		asked = append(asked, k)
		return k == haiku || k == other
	})
	require.NoError(t, err)
	require.Equal(t, []OpenLoop{{Key: opus, Level: detect.Page}, {Key: odd, Level: detect.None, Muted: true}}, open, "odd lends a flag")
	require.Equal(t, []usage.Key{opus, haiku, other, odd}, asked, "about every loop that runs")
	require.Equal(t, []string{"", "next"}, temporalClient.listed)
	require.Equal(t, `WorkflowType="AlertLoop" AND ExecutionStatus="Running"`, temporalClient.query)
	require.Contains(t, text.String(), "an alert loop under a foreign id is left alone")
}

func TestOpenFailsWithoutAList(t *testing.T) {
	t.Parallel()
	_, err := (&Loop{Client: &fakeTemporal{err: errAway}, Log: silent()}).Open(t.Context(), func(usage.Key, string) bool { return false })
	require.ErrorIs(t, err, errAway)
}

func TestOpenTakesTheListsWordForALoopThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	id := contract.AlertLoopID(opus)
	for name, tc := range map[string]struct {
		answer   any // nil: none comes
		severity any
		want     detect.Level
	}{
		"none comes":                  {severity: "PAGE", want: detect.Page},
		"the query fails":             {answer: errAway, severity: "INVESTIGATE", want: detect.Investigate},
		"the answer is another's":     {answer: "what", severity: "PAGE", want: detect.Page},
		"nothing is listed either":    {want: detect.None},
		"a level that is none listed": {severity: "SEVERE", want: detect.None},
		"no level that holds listed":  {severity: string(detect.Inconclusive), want: detect.None},
		"no text listed":              {severity: 7, want: detect.None},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				temporalClient := &fakeTemporal{
					pages:   []*workflowservice.ListWorkflowExecutionsResponse{listing(t, "", map[string]any{id: tc.severity}, id)},
					answers: map[string]any{id: tc.answer},
				}
				open, err := (&Loop{Client: temporalClient, Log: silent()}).Open(t.Context(), func(usage.Key, string) bool { return false })
				require.NoError(t, err)
				require.Equal(t, []OpenLoop{{Key: opus, Level: tc.want}}, open)
				require.LessOrEqual(t, time.Since(began), answerWithin)
			})
		})
	}
}

func TestOpenOfManyLoops(t *testing.T) {
	t.Parallel()
	var ids []string
	answers := map[string]any{}
	for i := range 500 {
		k := usage.Key{Tenant: fmt.Sprint("tenant", i), Model: "gpt-4o"}
		ids = append(ids, contract.AlertLoopID(k))
		answers[contract.AlertLoopID(k)] = contract.AlertLoopState{Key: k, Alert: alert.State{Level: detect.Investigate}}
	}
	temporalClient := &fakeTemporal{answers: answers, pages: []*workflowservice.ListWorkflowExecutionsResponse{
		listing(t, "b", nil, ids[:200]...), listing(t, "c", nil, ids[200:400]...), listing(t, "", nil, ids[400:]...),
	}}
	open, err := (&Loop{Client: temporalClient, Log: silent()}).Open(t.Context(), func(usage.Key, string) bool { return false })
	require.NoError(t, err)
	require.Len(t, open, 500)
}
