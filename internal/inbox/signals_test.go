package inbox

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/notify"
	"github.com/flyball-dev/flyball/internal/usage"
)

// signalServer is a Temporal server that keeps signals, each once by its request id.
type signalServer struct {
	*server
	running map[string]bool
	away    error
	kept    []string
	seen    map[string]bool
	started []string
}

func (s *signalServer) WorkflowService() workflowservice.WorkflowServiceClient {
	return signalService{signalServer: s}
}

// signalService is its raw side.
type signalService struct {
	workflowservice.WorkflowServiceClient
	*signalServer
}

func (s signalService) SignalWorkflowExecution(_ context.Context, r *workflowservice.SignalWorkflowExecutionRequest, _ ...grpc.CallOption) (*workflowservice.SignalWorkflowExecutionResponse, error) {
	id := r.GetWorkflowExecution().GetWorkflowId()
	switch {
	case s.away != nil:
		return nil, s.away
	case r.GetNamespace() != "prod" || r.GetRequestId() == "":
		return nil, serviceerror.NewInvalidArgument("namespace or request id")
	case !s.running[id]:
		return nil, serviceerror.NewNotFound("workflow execution already completed")
	case !s.seen[id+r.GetRequestId()]:
		s.seen[id+r.GetRequestId()] = true
		s.kept = append(s.kept, fmt.Sprintf("%s %s %s", id, r.GetSignalName(), converter.GetDefaultDataConverter().ToStrings(r.GetInput())))
	}
	return &workflowservice.SignalWorkflowExecutionResponse{}, nil
}

func (s signalService) DescribeWorkflowExecution(_ context.Context, r *workflowservice.DescribeWorkflowExecutionRequest, _ ...grpc.CallOption) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if s.away != nil {
		return nil, s.away
	}
	runs, known := s.running[r.GetExecution().GetWorkflowId()]
	if !known {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	status := enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
	if runs {
		status = enums.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflow.WorkflowExecutionInfo{Status: status}}, nil
}

func (s *signalServer) SignalWithStartWorkflow(_ context.Context, id, name string, arg any, o client.StartWorkflowOptions, kind any, in ...any) (client.WorkflowRun, error) {
	if s.away != nil {
		return nil, s.away
	}
	input := in[0].(contract.AlertLoopInput)
	if o.ID != id || o.TaskQueue != contract.TaskQueue || kind != contract.AlertLoop || contract.AlertLoopID(input.Key) != id || input.Tuning.Validate() != nil {
		return nil, serviceerror.NewInvalidArgument("not the loop of this key")
	}
	s.started = append(s.started, id)
	s.kept = append(s.kept, fmt.Sprintf("%s %s %v", id, name, arg))
	return nil, nil
}

func newSignals(running ...string) (*signalServer, *Signals) {
	s := &signalServer{server: newServer(), running: map[string]bool{}, seen: map[string]bool{}}
	for _, id := range running {
		s.running[id] = true
	}
	return s, NewSignals(s, "prod", contract.NewTuning(1))
}

var loop = contract.AlertLoopID(key)

func TestSignalsAreKept(t *testing.T) {
	t.Parallel()
	everyKey := usage.Key{Tenant: key.Tenant, Model: usage.AnyModel}
	group := contract.GroupID("provider:openai", opened)
	server, signals := newSignals(incidents[0], decisions[0], loop, group)
	var people notify.People = signals
	ctx := t.Context()
	for _, c := range []struct {
		say  func() error
		kept string
	}{
		{func() error {
			return people.Decide(ctx, decisions[0], contract.DecideRequest{Verdict: "deny", Who: "ann", Reason: "no"})
		}, decisions[0] + ` decide [{"verdict":"deny","who":"ann","reason":"no"}]`},
		{func() error { return people.Acknowledge(ctx, incidents[0], contract.AcknowledgeRequest{Who: "ann"}) }, incidents[0] + ` acknowledge [{"who":"ann","note":""}]`},
		{func() error { return people.Annotate(ctx, group, contract.AnnotateRequest{Who: "ann", Text: "x"}) }, group + ` annotate [{"who":"ann","text":"x"}]`},
		{func() error {
			return people.Resolve(ctx, incidents[0], contract.ResolveRequest{Who: "ann", Reason: "x"})
		}, loop + ` resolve [{"who":"ann","reason":"x"}]`},
		{func() error { return people.Resolve(ctx, group, contract.ResolveRequest{Who: "ann", Reason: "x"}) }, group + ` resolve [{"who":"ann","reason":"x"}]`},
		{func() error { return people.Mute(ctx, group, contract.MuteRequest{For: time.Hour, Who: "ann"}) }, group + ` mute [{"for":3600000000000,"who":"ann","reason":""}]`},
		{func() error { return people.Mute(ctx, incidents[0], contract.MuteRequest{For: time.Hour, Who: "ann"}) }, loop + " mute {1h0m0s ann }"},
		{func() error { return people.Mute(ctx, loop, contract.MuteRequest{Who: "ann"}) }, loop + ` mute [{"for":0,"who":"ann","reason":""}]`},
		{func() error {
			return people.Mute(ctx, contract.AlertLoopID(everyKey), contract.MuteRequest{For: time.Hour, Who: "ann"})
		}, contract.AlertLoopID(everyKey) + " mute {1h0m0s ann }"},
	} {
		server.kept = nil
		require.NoError(t, c.say(), c.kept)
		require.Equal(t, []string{c.kept}, server.kept)
	}
	require.Equal(t, []string{loop, contract.AlertLoopID(everyKey)}, server.started, "a loop that does not run is started to be muted")
	require.NoError(t, people.Mute(ctx, "alert/a/none", contract.MuteRequest{Who: "ann"}), "what does not run is not muted")
}

// TestSignalsAreOneByTheirID: what a channel sends again is one signal; what a person says again is two.
func TestSignalsAreOneByTheirID(t *testing.T) {
	t.Parallel()
	server, signals := newSignals(incidents[0])
	ctx := notify.WithID(t.Context(), "pagerduty/01BW")
	for range 3 {
		require.NoError(t, signals.Annotate(ctx, incidents[0], contract.AnnotateRequest{Who: "ann", Text: "x"}))
	}
	require.Len(t, server.kept, 1)
	for range 2 {
		require.NoError(t, signals.Annotate(t.Context(), incidents[0], contract.AnnotateRequest{Who: "ann", Text: "x"}))
	}
	require.Len(t, server.kept, 3)
}

func TestSignalsComeTooLate(t *testing.T) {
	t.Parallel()
	server, signals := newSignals(loop) // of a newer incident
	server.running[incidents[0]] = false
	ctx := t.Context()
	require.ErrorIs(t, signals.Decide(ctx, decisions[0], contract.DecideRequest{Verdict: "approve", Who: "ann"}), notify.ErrGone)
	require.ErrorIs(t, signals.Acknowledge(ctx, incidents[1], contract.AcknowledgeRequest{Who: "ann"}), notify.ErrGone)
	require.ErrorIs(t, signals.Resolve(ctx, incidents[0], contract.ResolveRequest{Who: "ann"}), notify.ErrGone, "the loop may have another incident by now")
	require.ErrorIs(t, signals.Resolve(ctx, incidents[1], contract.ResolveRequest{Who: "ann"}), notify.ErrGone)
	require.ErrorIs(t, signals.Mute(ctx, "sweep/0", contract.MuteRequest{For: time.Hour, Who: "ann"}), notify.ErrGone)
	require.Empty(t, server.kept)
}

func TestSignalsWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	server, signals := newSignals(incidents[0], loop)
	server.away = serviceerror.NewUnavailable("connection refused")
	server.down = server.away
	ctx := t.Context()
	require.ErrorIs(t, signals.Acknowledge(ctx, incidents[0], contract.AcknowledgeRequest{Who: "ann"}), ErrAway)
	require.ErrorIs(t, signals.Resolve(ctx, incidents[0], contract.ResolveRequest{Who: "ann"}), ErrAway)
	require.ErrorIs(t, signals.Mute(ctx, loop, contract.MuteRequest{For: time.Hour, Who: "ann"}), ErrAway)
	_, err := signals.OpenIncidents(ctx)
	require.ErrorIs(t, err, ErrAway)
}

func TestOpenIncidents(t *testing.T) {
	t.Parallel()
	server, signals := newSignals()
	group := contract.GroupID("provider:openai", opened)
	server.open[contract.Group] = []string{group}
	ids, err := signals.OpenIncidents(t.Context())
	require.NoError(t, err)
	require.Equal(t, append(append([]string{}, incidents...), group), ids)
}
