package inbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	opened    = time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	key       = usage.Key{Tenant: "org 42/eu", Model: "claude-3-opus"}
	incidents = []string{contract.IncidentID(key, opened), contract.IncidentID(key, opened.Add(time.Hour))}
	groups    = []string{contract.GroupID("provider:openai", opened)}
	loops     = []string{contract.AlertLoopID(key), contract.AlertLoopID(usage.Key{Tenant: "acme", Model: usage.AnyModel}), contract.AlertLoopID(usage.Key{Tenant: "acme", Model: "gpt-4o"})}
	decisions = []string{contract.DecisionID(incidents[0], "downgrade", 1), contract.DecisionID(incidents[0], "downgrade", 12)}
)

// server is Temporal as the inbox sees it.
type server struct {
	mu      sync.Mutex
	open    map[string][]string // ids by workflow type
	ended   map[string][]string // likewise
	states  map[string]any      // by id; without one no worker answers
	down    error
	refuse  error // with which updates are answered
	mute    bool  // no worker answers updates
	slow    bool  // updates are taken, and never end
	gone    bool  // signals find nobody
	updates []client.UpdateWorkflowOptions
	signals []string
	starts  []start // asked for with updates and signals
}

// start is a workflow that was to be started if there was none.
type start struct {
	client.WithStartWorkflowOperation
	options client.StartWorkflowOptions
	input   any
}

func newServer() *server {
	return &server{
		open:  map[string][]string{contract.Incident: incidents, contract.Group: groups, contract.Decision: decisions, contract.AlertLoop: loops},
		ended: map[string][]string{},
		states: map[string]any{
			incidents[0]: contract.IncidentState{ID: incidents[0], Input: contract.IncidentInput{Key: key, Opened: opened}, Level: detect.Page},
			incidents[1]: contract.IncidentState{ID: incidents[1], Input: contract.IncidentInput{Key: key, Opened: opened.Add(time.Hour)}},
			groups[0]: contract.GroupState{
				ID: groups[0], Input: contract.GroupInput{Cause: "provider:openai", Opened: opened}, Phase: contract.IncidentOpen,
				Keys: []contract.GroupKey{{Key: key}, {Key: usage.Key{Tenant: "acme", Model: "gpt-4o"}, LeftAt: opened}, {Key: usage.Key{Tenant: "acme", Model: "o3"}}},
			},
			decisions[0]: contract.DecisionState{ID: decisions[0], Opened: opened, Status: contract.AwaitingApproval},
			decisions[1]: contract.DecisionState{ID: decisions[1], Opened: opened.Add(time.Minute), Status: contract.Holding},
		},
	}
}

func (s *server) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	if s.down != nil {
		return nil, s.down
	}
	var kind string
	if _, err := fmt.Sscanf(r.GetQuery(), "WorkflowType=%q", &kind); err != nil {
		return nil, err
	}
	ids := s.open[kind]
	if !strings.HasSuffix(r.GetQuery(), ` AND ExecutionStatus="Running"`) {
		ids = append(s.ended[kind], ids...)
	}
	at := len(r.GetNextPageToken()) // one a page, so that pages are turned
	if at >= len(ids) {
		return &workflowservice.ListWorkflowExecutionsResponse{}, nil
	}
	attributes := map[string]*commonpb.Payload{}
	for name, value := range map[string]string{contract.AttrState: "open", contract.AttrSeverity: "PAGE", contract.AttrStep: "T+2"} {
		attributes[name], _ = converter.GetDefaultDataConverter().ToPayload(value)
	}
	return &workflowservice.ListWorkflowExecutionsResponse{
		Executions: []*workflow.WorkflowExecutionInfo{{
			Execution: &commonpb.WorkflowExecution{WorkflowId: ids[at]}, StartTime: timestamppb.New(opened),
			SearchAttributes: &commonpb.SearchAttributes{IndexedFields: attributes},
		}},
		NextPageToken: make([]byte, at+1),
	}, nil
}

func (s *server) QueryWorkflow(ctx context.Context, id, _, query string, _ ...any) (converter.EncodedValue, error) {
	state, ok := s.states[id]
	switch {
	case !ok:
		<-ctx.Done()
		return nil, ctx.Err()
	case query == metadataQuery:
		return value{&sdk.WorkflowMetadata{CurrentDetails: "the story of " + id}}, nil
	case query != contract.State:
		return nil, fmt.Errorf("unknown query %s", query)
	}
	return value{state}, nil
}

func (s *server) NewWithStartWorkflowOperation(o client.StartWorkflowOptions, workflow any, args ...any) client.WithStartWorkflowOperation {
	if workflow != contract.AlertLoop {
		panic(workflow)
	}
	return start{options: o, input: args[0]}
}

func (s *server) UpdateWithStartWorkflow(ctx context.Context, o client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	s.mu.Lock()
	s.starts = append(s.starts, o.StartWorkflowOperation.(start))
	s.mu.Unlock()
	return s.UpdateWorkflow(ctx, o.UpdateOptions)
}

func (s *server) SignalWithStartWorkflow(ctx context.Context, id, name string, arg any, o client.StartWorkflowOptions, _ any, args ...any) (client.WorkflowRun, error) {
	s.mu.Lock()
	s.starts = append(s.starts, start{options: o, input: args[0]})
	s.mu.Unlock()
	return nil, s.SignalWorkflow(ctx, id, "", name, arg)
}

func (s *server) UpdateWorkflow(ctx context.Context, o client.UpdateWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, o)
	if s.refuse != nil {
		return nil, s.refuse
	}
	if s.mute {
		<-ctx.Done()
		return nil, client.NewWorkflowUpdateServiceTimeoutOrCanceledError(ctx.Err())
	}
	return updated{value: value{s.states[o.WorkflowID]}, slow: s.slow}, nil
}

func (s *server) SignalWorkflow(_ context.Context, id, _, name string, _ any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return serviceerror.NewNotFound("no such workflow")
	}
	s.signals = append(s.signals, name+" "+id)
	return nil
}

// value is what a workflow answers.
type value struct{ v any }

func (v value) HasValue() bool { return true }
func (v value) Get(into any) error {
	text, err := json.Marshal(v.v)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// updated is an update that was taken, and has completed unless it is slow.
type updated struct {
	client.WorkflowUpdateHandle
	value value
	slow  bool
}

func (u updated) Get(ctx context.Context, into any) error {
	if u.slow {
		<-ctx.Done()
		return client.NewWorkflowUpdateServiceTimeoutOrCanceledError(ctx.Err())
	}
	if into == nil || u.value.v == nil {
		return nil
	}
	return u.value.Get(into)
}

// impatient is an inbox that waits for no worker.
func impatient(s *server) *Inbox { return &Inbox{temporal: s, patience: 50 * time.Millisecond} }

func TestListsAreNewestFirst(t *testing.T) {
	b := New(newServer())
	open, err := b.Incidents(t.Context())
	require.NoError(t, err)
	require.Len(t, open, 2)
	require.Equal(t, incidents[1], open[0].State.ID)
	require.True(t, open[0].Answered)
	require.Equal(t, contract.Handle(incidents[1]), open[0].Handle)

	waiting, err := b.Decisions(t.Context())
	require.NoError(t, err)
	require.Equal(t, decisions[1], waiting[0].State.ID)
	require.Equal(t, contract.AwaitingApproval, waiting[1].State.Status)
}

func TestListsWithoutAWorker(t *testing.T) {
	s := newServer()
	s.states = nil
	open, err := impatient(s).Incidents(t.Context())
	require.NoError(t, err)
	require.Len(t, open, 2)
	i := open[1]
	require.False(t, i.Answered)
	require.Equal(t, incidents[0], i.State.ID)
	require.Equal(t, key, i.State.Input.Key)
	require.Equal(t, opened, i.State.Input.Opened)
	require.Equal(t, detect.Page, i.State.Level)
	require.Equal(t, contract.IncidentOpen, i.State.Phase)
	require.Equal(t, "T+2", i.State.Step)

	waiting, err := impatient(s).Decisions(t.Context())
	require.NoError(t, err)
	require.Equal(t, key, waiting[0].State.Input.Key)
	require.Equal(t, opened, waiting[0].State.Opened.UTC())
}

func TestWhatANameMeans(t *testing.T) {
	unlisted := contract.DecisionID(incidents[1], "upgrade", 1)
	for name, c := range map[string]struct {
		name, want, fails string
	}{
		"an id":                         {decisions[0], decisions[0], ""},
		"an id that begins another":     {decisions[0], decisions[0], ""},
		"a handle":                      {contract.Handle(decisions[1]), decisions[1], ""},
		"a prefix of one":               {decisions[0] + "2", decisions[1], ""},
		"a prefix of two":               {"decision/", "", "means 2 of them"},
		"one that is not listed yet":    {unlisted, unlisted, ""},
		"nothing":                       {"", "", "say which decision"},
		"nonsense":                      {"zzz", "", `no open decision is called "zzz"`},
		"the id of another kind":        {incidents[0], "", "no open decision"},
		"the handle of another kind":    {contract.Handle(incidents[0]), "", "no open decision"},
		"the id of an unknown incident": {"decision/incident/a/b/soon/x/1", "", "no open decision"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _, err := New(newServer()).Decide(t.Context(), c.name, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
			if c.fails != "" {
				require.ErrorIs(t, err, ErrNotFound)
				require.ErrorContains(t, err, c.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, o.ID)
		})
	}
}

func TestDecideIsOneRequestHoweverOftenItIsPressed(t *testing.T) {
	s := newServer()
	for range 2 {
		o, state, err := New(s).Decide(t.Context(), decisions[0], contract.DecideRequest{Verdict: contract.Deny, Who: "ada", Reason: "no"})
		require.NoError(t, err)
		require.True(t, o.Answered)
		require.Equal(t, decisions[0], state.ID)
	}
	require.Equal(t, s.updates[0].UpdateID, s.updates[1].UpdateID)
	require.Equal(t, contract.Decide, s.updates[0].UpdateName)
	require.Equal(t, client.WorkflowUpdateStageAccepted, s.updates[0].WaitForStage)
	require.Empty(t, s.signals)
}

func TestResolveIsAskedAnewAfterARefire(t *testing.T) {
	s := newServer()
	for range 2 {
		o, err := New(s).Resolve(t.Context(), incidents[0], contract.ResolveRequest{Who: "ada"})
		require.NoError(t, err)
		require.True(t, o.Answered)
	}
	require.Len(t, s.updates, 2)
	require.Equal(t, contract.AlertLoopID(key), s.updates[1].WorkflowID)
	require.NotEqual(t, s.updates[0].UpdateID, s.updates[1].UpdateID, "the first one's stored answer would be given again")
}

func TestRequestsOutliveAWorkerThatIsAway(t *testing.T) {
	s := newServer()
	s.mute = true
	b := impatient(s)
	o, _, err := b.Decide(t.Context(), decisions[0], contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	require.NoError(t, err)
	require.Equal(t, Outcome{ID: decisions[0]}, o)
	o, err = b.Acknowledge(t.Context(), incidents[0], contract.AcknowledgeRequest{Who: "ada"})
	require.NoError(t, err)
	require.False(t, o.Answered)
	_, err = b.SkipStep(t.Context(), incidents[0], contract.SkipStepRequest{Step: "T+5", Who: "ada"})
	require.NoError(t, err)
	o, err = b.Resolve(t.Context(), contract.Handle(incidents[0]), contract.ResolveRequest{Who: "ada"})
	require.NoError(t, err)
	require.Equal(t, incidents[0], o.ID)
	require.Equal(t, []string{
		"decide " + decisions[0], "acknowledge " + incidents[0], "skip_step " + incidents[0], "resolve " + contract.AlertLoopID(key),
	}, s.signals)

	s.gone = true
	_, _, err = b.Decide(t.Context(), decisions[0], contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	require.ErrorIs(t, err, ErrNotFound)

	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	s.signals = nil
	_, _, err = b.Decide(cancelled, decisions[0], contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
	require.Error(t, err)
	require.Empty(t, s.signals, "whoever gave up waiting did not ask for it to happen")
}

func TestFailuresThatPeopleUnderstand(t *testing.T) {
	for name, c := range map[string]struct {
		answer, want error
	}{
		"refused":     {temporal.NewNonRetryableApplicationError("ada has already said approve", contract.ErrRefused, nil), ErrRefused},
		"ended":       {serviceerror.NewNotFound("completed"), ErrNotFound},
		"unavailable": {serviceerror.NewUnavailable("shutting down"), ErrAway},
		"other":       {errors.New("bad luck"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer()
			s.refuse = c.answer
			_, _, err := New(s).Decide(t.Context(), decisions[0], contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
			require.Empty(t, s.signals, "an answer is an answer")
		})
	}
	s := newServer()
	s.down = serviceerror.NewUnavailable("not yet")
	_, err := New(s).Incidents(t.Context())
	require.ErrorIs(t, err, ErrAway)
	_, err = New(s).Resolve(t.Context(), "x", contract.ResolveRequest{Who: "ada"})
	require.ErrorIs(t, err, ErrAway)
}

func TestTheConsolesPage(t *testing.T) {
	s := newServer()
	walked := runbook.Plan(1)[:2]
	s.states[incidents[0]] = contract.IncidentState{
		ID: incidents[0], Level: detect.Page, Phase: contract.IncidentOpen,
		Input: contract.IncidentInput{
			Key: key, Opened: opened, Tuning: contract.NewTuning(1),
			Finding: detect.Finding{Verdict: detect.Verdict{Rule: "dual", Reason: "cost × 3"}},
		},
		Finding:      detect.Finding{Facts: detect.Facts{CostKnown: true, CostUSD: 0.012, CostBaseline: 0.004, CostRatio: 3}},
		Steps:        []runbook.Done{{Step: walked[0], At: opened, Verdict: runbook.Verdict{Status: runbook.Clear, Text: "nothing"}}, {Step: walked[1], At: opened.Add(2 * time.Minute), Verdict: runbook.Verdict{Status: runbook.Unknown}}},
		Acknowledged: &contract.Acknowledgement{Who: "ada"},
	}
	thin := routing.PlanRollout(0.01, routing.DefaultLimits)
	s.states[decisions[0]] = contract.DecisionState{
		ID: decisions[0], Status: contract.AwaitingApproval, Opened: opened, ExpiresAt: opened.Add(time.Hour), Reason: "people have approved 3 of 10",
		Input: contract.DecisionInput{Key: key, Incident: incidents[0], Proposal: contract.Proposal{Action: "downgrade", Value: "claude-3-sonnet", Reason: "cost is up", Rule: "r"}},
		Plan:  contract.RolloutPlan{Plan: thin}, Trust: &contract.TrustAnswer{Approved: 3, Needed: 10, Reason: "people have approved 3 of 10"},
	}
	w := Work{Inbox: New(s), UI: func() string { return "http://127.0.0.1:8233" }, Namespace: "default"}
	var page console.Work = w

	open, err := page.Incidents(t.Context())
	require.NoError(t, err)
	i := open[1]
	require.Equal(t, "PAGE", i.Level)
	require.Contains(t, i.State, "ada")
	require.Len(t, i.Steps, 5, "the whole runbook")
	require.Equal(t, "clear", i.Steps[0].Status)
	require.Equal(t, "pending", i.Steps[2].Status)
	require.Equal(t, opened.Add(5*time.Minute), i.Steps[2].At)
	require.Len(t, i.Evidence, 1)
	require.Contains(t, i.Link, "http://127.0.0.1:8233/namespaces/default/workflows/incident%2F")

	waiting, err := page.Decisions(t.Context())
	require.NoError(t, err)
	d := waiting[1]
	require.True(t, d.Waiting)
	require.Equal(t, incidents[0], d.Incident)
	require.Equal(t, "cost is up", d.Reason)
	require.Contains(t, d.Caution, thin.Reason)
	require.Contains(t, d.Trust, "3 of 10")
	require.False(t, waiting[0].Waiting)

	decided, err := page.Decide(t.Context(), console.Verdict{ID: decisions[0], Verdict: contract.Approve, Who: "ada"})
	require.NoError(t, err)
	require.Equal(t, decisions[0], decided.ID)
	_, err = page.Decide(t.Context(), console.Verdict{ID: "zzz", Verdict: contract.Approve, Who: "ada"})
	require.ErrorIs(t, err, console.ErrNotFound)
	s.refuse = temporal.NewNonRetryableApplicationError("expired", contract.ErrRefused, nil)
	_, err = page.Decide(t.Context(), console.Verdict{ID: decisions[0], Verdict: contract.Approve, Who: "ada"})
	require.ErrorIs(t, err, console.ErrRefused)
	s.down = errors.New("connection refused")
	_, err = page.Incidents(t.Context())
	require.ErrorIs(t, err, console.ErrAway)
	_, err = page.Decisions(t.Context())
	require.ErrorIs(t, err, console.ErrAway)

	s = newServer()
	s.mute = true
	w.Inbox, w.UI = impatient(s), func() string { return "" }
	decided, err = w.Decide(t.Context(), console.Verdict{ID: decisions[0], Verdict: contract.Approve, Who: "ada"})
	require.NoError(t, err)
	require.Contains(t, decided.Reason, "takes effect when a worker is back")
	require.Equal(t, key, decided.Key)
	require.Empty(t, decided.Link)
}
