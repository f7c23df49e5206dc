package workflows_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
	shipped "github.com/flyball-dev/flyball/policies"
	"github.com/flyball-dev/flyball/workers"
)

// TestRecord runs whole incidents on a real Temporal server, with real workers and policies over a
// small made-up world, and keeps the histories that are not there yet for TestReplay. It asserts what
// happened on the way, so it is also the test of the workflows against a real server.
func TestRecord(t *testing.T) {
	address := os.Getenv("FLYBALL_RECORD_ADDRESS")
	if address == "" {
		t.Skip("FLYBALL_RECORD_ADDRESS names no Temporal server; see testdata/record.sh")
	}
	s := newStage(t, address)
	recordServices(t, s)
	var rule string // the one that fires
	t.Run("approved", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.95)
		require.Equal(t, 1.0, s.world.flag(routing.Sampling).Share, "both arms are scored")
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, contract.Released, s.decision(t, d).Status)
		require.Equal(t, contract.Proven, s.decision(t, d).Effect)
		rule = s.decision(t, d).Input.Finding.Verdict.Rule
		s.keep(t, "approved", contract.AlertLoopID(key), id, d, contract.AutonomyID(key.Tenant), contract.SweepID(0))
	})
	t.Run("measured", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.95)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.NotNil(t, s.decision(t, d).FlagAfter)
		require.Eventually(t, func() bool {
			var state contract.DecisionState
			s.query(t, contract.EffectsID(d), &state)
			return state.Measured != nil
		}, time.Minute, 50*time.Millisecond)
		s.keep(t, "measured", d, contract.EffectsID(d))
	})
	t.Run("denied", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Deny)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, contract.Denied, s.decision(t, d).Status)
		s.keep(t, "denied", id, d)
	})
	t.Run("by people", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		_, err := s.inbox.Acknowledge(t.Context(), contract.Handle(id), contract.AcknowledgeRequest{Who: "ada", Note: "on it"})
		require.NoError(t, err)
		_, err = s.inbox.SkipStep(t.Context(), id, contract.SkipStepRequest{Step: "T+30", Who: "ada"})
		require.ErrorIs(t, err, inbox.ErrRefused)
		_, err = s.inbox.SkipStep(t.Context(), id, contract.SkipStepRequest{Step: "T+10", Who: "ada"})
		require.NoError(t, err)
		require.NoError(t, s.client.SignalWorkflow(t.Context(), d, "", contract.Decide, contract.DecideRequest{Verdict: contract.Approve, Who: "ada"}))
		s.awaitShare(t, 0.1)
		_, err = s.inbox.Resolve(t.Context(), id, contract.ResolveRequest{Who: "ada", Reason: "a load test"})
		require.NoError(t, err)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, contract.Released, s.decision(t, d).Status)
		s.keep(t, "people", contract.AlertLoopID(key), id, d)
	})
	t.Run("cancelled", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.1)
		require.NoError(t, s.client.CancelWorkflow(t.Context(), d, ""))
		s.awaitShare(t, 0)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, contract.Reverted, s.decision(t, d).Status)
		s.keep(t, "cancelled", id, d)
	})
	t.Run("terminated", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.1)
		require.NoError(t, s.client.TerminateWorkflow(t.Context(), d, "", "by the recorder"))
		s.awaitShare(t, 0) // the incident takes the orphan off
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		s.keep(t, "terminated", id)
	})
	t.Run("thin traffic", func(t *testing.T) {
		s.world.set(func(w *world) { w.perMinute = 3 })
		id := s.breakIt(t)
		d := s.question(t, id)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.5)
		s.awaitShare(t, 0)
		s.world.set(func(w *world) { w.fault, w.perMinute = false, 300 })
		s.ended(t, id)
		require.Equal(t, contract.Expired, s.decision(t, d).Status)
		require.Equal(t, contract.Unproven, s.decision(t, d).Effect)
		s.keep(t, "thin", id, d)
	})
	t.Run("whole runbook", func(t *testing.T) {
		id := s.breakIt(t)
		require.Eventually(t, func() bool {
			var state contract.IncidentState
			s.query(t, id, &state)
			return state.Step == "T+30" && state.Report != ""
		}, time.Minute, 50*time.Millisecond)
		s.world.set(func(w *world) { w.silent = true })
		require.Eventually(t, func() bool {
			var state contract.AlertLoopState
			s.query(t, contract.AlertLoopID(key), &state)
			return state.Alert.Silent && state.Alert.Phase == alert.Firing
		}, time.Minute, 50*time.Millisecond)
		s.world.set(func(w *world) { w.silent, w.fault = false, false })
		s.ended(t, id)
		s.keep(t, "runbook", contract.AlertLoopID(key), id)
	})
	t.Run("worker away", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.stop(t)
		require.Eventually(t, func() bool { // what waits is seen without a worker too
			open, err := s.inbox.Decisions(t.Context())
			return err == nil && len(open) == 1 && !open[0].Answered &&
				open[0].State.Status == contract.AwaitingApproval && open[0].State.Input.Key == key
		}, time.Minute, 100*time.Millisecond)
		o, _, err := s.inbox.Decide(t.Context(), contract.Handle(d), contract.DecideRequest{Verdict: contract.Approve, Who: "ada"})
		require.NoError(t, err)
		require.False(t, o.Answered)
		s.start(t)
		s.awaitShare(t, 0.5) // the verdict was kept
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, "ada", s.decision(t, d).Verdict.Who)
		s.keep(t, "away", contract.AlertLoopID(key), id, d)
	})
	t.Run("expired", func(t *testing.T) {
		in := contract.DecisionInput{
			Key: key, Incident: contract.IncidentID(key, time.Now()), Attempt: 1, Tuning: recordTuning(), Finding: finding(time.Now(), detect.Page),
			Proposal: contract.Proposal{Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost, Expiry: time.Second},
		}
		d := contract.DecisionID(in.Incident, "downgrade", 1)
		run, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: d, TaskQueue: contract.TaskQueue}, contract.Decision, in)
		require.NoError(t, err)
		var result contract.DecisionResult
		require.NoError(t, run.Get(t.Context(), &result))
		require.Equal(t, contract.Expired, result.Status)
		s.keep(t, "expired", d)
	})
	t.Run("withdrawn", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		s.world.set(func(w *world) { w.fault = false }) // it is over before anybody has answered
		s.ended(t, id)
		require.Equal(t, contract.Withdrawn, s.decision(t, d).Status)
		s.keep(t, "withdrawn", id, d)
	})
	t.Run("found cause", func(t *testing.T) {
		deployed := usage.Deployment{
			ID: "deploy-17", Service: "support-bot", Version: "8f2c1d", By: "ann", Timestamp: time.Now().Add(-time.Second),
			Previous: map[string]string{"prompt_template_version": "rag-v3.2"},
		}
		s.world.set(func(w *world) { w.deployments = []usage.Deployment{deployed} })
		id := s.breakIt(t)
		var state contract.IncidentState
		require.Eventually(t, func() bool {
			s.query(t, id, &state)
			return len(state.Steps) >= 3
		}, time.Minute, 50*time.Millisecond)
		require.Equal(t, runbook.CauseDeployment, runbook.Cause(state.Steps))
		require.Contains(t, state.Advice, "rag-v3.2")
		require.Empty(t, state.Decisions, "a template is rolled back by hand")
		s.world.set(func(w *world) { w.fault, w.deployments = false, nil })
		s.ended(t, id)
		s.keep(t, "cause", id)
	})
	recordRunbook(t, s)
	t.Run("continued", func(t *testing.T) {
		id := s.breakIt(t)
		d := s.question(t, id)
		old := contract.FactsMessage{Finding: finding(time.Unix(1, 0), detect.Page)} // which the loop drops
		s.continued(t, contract.AlertLoopID(key), contract.Facts, old)
		s.decide(t, d, contract.Approve)
		s.awaitShare(t, 0.1)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		require.Equal(t, contract.Released, s.decision(t, d).Status)
		s.keep(t, "carried", contract.AlertLoopID(key))
		s.continued(t, contract.AutonomyID(key.Tenant), contract.TrustOutcome, contract.TrustOutcomeRequest{Tenant: key.Tenant, Outcome: "refused"})
	})
	t.Run("muted", func(t *testing.T) {
		mute := contract.MuteRequest{For: 3 * time.Second, Who: "ada", Reason: "a migration"}
		_, err := s.client.SignalWithStartWorkflow(t.Context(), contract.AlertLoopID(key), contract.SetMute, mute,
			client.StartWorkflowOptions{TaskQueue: contract.TaskQueue}, contract.AlertLoop, contract.AlertLoopInput{Key: key, Tuning: recordTuning()})
		require.NoError(t, err)
		id := s.breakIt(t)
		require.Eventually(t, func() bool {
			var state contract.AlertLoopState
			s.query(t, contract.AlertLoopID(key), &state)
			return state.Incident == id && state.Mute == nil
		}, time.Minute, 50*time.Millisecond)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		s.keep(t, "muted", contract.AlertLoopID(key))
	})
	t.Run("accepted", func(t *testing.T) {
		id := s.breakIt(t)
		s.question(t, id)
		s.update(t, contract.AlertLoopID(key), contract.AcceptLevel, contract.AcceptLevelRequest{Who: "ada", Reason: "a dearer model, on purpose"})
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		s.keep(t, "accepted", contract.AlertLoopID(key))
	})
	t.Run("storm", func(t *testing.T) {
		s.world.set(func(w *world) { w.crowd, w.crowdFails, w.fault = crowdMost, true, true })
		group := s.incidentOf(t, key, contract.IsGroup)
		s.update(t, group, contract.Acknowledge, contract.AcknowledgeRequest{Who: "ada"})
		s.update(t, group, contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: "their status page says so too"})
		s.update(t, group, contract.Split, contract.SplitRequest{Key: crowd(3), Who: "ada", Reason: "it is worse"})
		s.incidentOf(t, crowd(3), func(id string) bool { return id != "" && !contract.IsGroup(id) })
		s.world.set(func(w *world) { w.crowdFails = false }) // and only the first key still does
		own := s.incidentOf(t, key, func(id string) bool { return id != "" && !contract.IsGroup(id) })
		s.completed(t, group)
		s.keep(t, "storm", group, contract.AlertLoopID(crowd(1)))
		s.keep(t, "split", contract.AlertLoopID(crowd(3)))
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, own)
		s.keep(t, "parted", contract.AlertLoopID(key))
		for n := range crowdMost {
			s.completed(t, contract.AlertLoopID(crowd(n)))
		}
		s.world.set(func(w *world) { w.crowd = 0 })
	})
	t.Run("earned", func(t *testing.T) {
		for n := range 10 {
			outcome := contract.TrustOutcomeRequest{
				Tenant: key.Tenant, Action: "downgrade", Rule: rule, Decision: fmt.Sprintf("recorder/%d", n), Outcome: contract.OutcomeApproved,
			}
			require.NoError(t, s.client.SignalWorkflow(t.Context(), contract.AutonomyID(key.Tenant), "", contract.TrustOutcome, outcome))
		}
		id := s.breakIt(t)
		s.awaitShare(t, 0.1)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		d := s.decision(t, contract.DecisionID(id, "downgrade", 1))
		require.True(t, d.Trust.Granted)
		require.NotContains(t, statuses(d), contract.AwaitingApproval)
		require.Equal(t, contract.Released, d.Status)
		s.keep(t, "earned", id, d.ID, contract.AutonomyID(key.Tenant))
	})
	require.Empty(t, s.world.on(), "no flag is left on")
}

// recordTuning makes seconds of the product's minutes.
func recordTuning() contract.Tuning {
	t := contract.NewTuning(0.005) // T+30 after nine seconds
	t.Holds = alert.Holds{Page: 200 * time.Millisecond, Investigate: 100 * time.Millisecond, Recovery: 600 * time.Millisecond, Silence: 3 * time.Second}
	// An arm's samples grow by the minute here, and a test that comes before the dwell is over is repeated
	// when they have doubled: so the dwell is over at once.
	t.Limits.Dwell, t.Limits.ClearFor = time.Millisecond, 300*time.Millisecond
	t.Limits.UnprovenHold, t.Limits.MaxHold, t.Limits.StepWait = 2*time.Second, time.Hour, time.Minute
	return t
}

// stage is a Temporal server with Flyball's workers over a made-up world.
type stage struct {
	client   client.Client
	inbox    *inbox.Inbox
	world    *world
	policies *policy.Set
	cancel   context.CancelFunc
	stopped  chan error
	hook     *httptest.Server
}

func newStage(t *testing.T, address string) *stage {
	t.Helper()
	c, err := workers.Dial(t.Context(), address, client.DefaultNamespace, silence)
	require.NoError(t, err)
	set, err := policy.Load(shipped.Files)
	require.NoError(t, err)
	s := &stage{client: c, inbox: inbox.New(c), policies: set, world: &world{perMinute: 300, flags: map[routing.Kind]routing.Flag{}}}
	s.hook = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	t.Cleanup(s.hook.Close)
	s.start(t)
	t.Cleanup(func() {
		_ = c.TerminateWorkflow(context.Background(), contract.SweepID(0), "", "the recorder has ended")
		s.stop(t)
		c.Close()
	})
	return s
}

var silence = slog.New(slog.DiscardHandler)

// start starts the workers, and stop stops them.
func (s *stage) start(t *testing.T) {
	t.Helper()
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	s.stopped = make(chan error, 1)
	go func() {
		s.stopped <- workers.Run(ctx, workers.Options{
			Client: s.client, Namespace: client.DefaultNamespace, Store: s.world, Flags: s.world, Policies: func() *policy.Set { return s.policies },
			Logger: silence, Tuning: recordTuning(), SweepEvery: 100 * time.Millisecond, StatusPages: map[string]string{},
			Rollbacks: activities.RollbackHooks{{Service: hooked, URL: s.hook.URL, Secret: "0123456789abcdef"}},
		})
	}()
}

func (s *stage) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	require.NoError(t, <-s.stopped)
}

// breakIt makes the key fail and returns the incident that opens.
func (s *stage) breakIt(t *testing.T) (incident string) {
	t.Helper()
	s.world.set(func(w *world) { w.fault = true })
	require.Eventually(t, func() bool {
		open, err := s.inbox.Incidents(t.Context())
		require.NoError(t, err)
		if len(open) == 1 && open[0].Answered {
			incident = open[0].State.ID
		}
		return incident != ""
	}, time.Minute, 50*time.Millisecond)
	return incident
}

// question waits until a decision of the incident waits for a person.
func (s *stage) question(t *testing.T, incident string) (decision string) {
	t.Helper()
	require.Eventually(t, func() bool {
		open, err := s.inbox.Decisions(t.Context())
		require.NoError(t, err)
		for _, d := range open {
			if d.State.Input.Incident == incident && d.State.Status == contract.AwaitingApproval {
				decision = d.State.ID
			}
		}
		return decision != ""
	}, time.Minute, 50*time.Millisecond)
	return decision
}

// decide gives a verdict twice, as an impatient person does: it is one.
func (s *stage) decide(t *testing.T, decision, verdict string) {
	t.Helper()
	for range 2 {
		o, state, err := s.inbox.Decide(t.Context(), contract.Handle(decision), contract.DecideRequest{Verdict: verdict, Who: "ada"})
		if err != nil { // it has ended since
			require.ErrorIs(t, err, inbox.ErrNotFound)
			continue
		}
		require.True(t, o.Answered)
		require.Equal(t, verdict, state.Verdict.Verdict)
	}
}

func (s *stage) awaitShare(t *testing.T, share float64) {
	t.Helper()
	require.Eventually(t, func() bool {
		return s.world.flag(routing.Route).Share >= share && (share > 0 || s.world.flag(routing.Route).Share == 0)
	},
		time.Minute, 20*time.Millisecond)
}

// ended waits until the incident and its key's loop have completed.
func (s *stage) ended(t *testing.T, incident string) {
	t.Helper()
	s.completed(t, incident, contract.AlertLoopID(key))
}

// incidentOf waits until the key's loop has such an incident.
func (s *stage) incidentOf(t *testing.T, k usage.Key, such func(id string) bool) string {
	t.Helper()
	var state contract.AlertLoopState
	require.Eventually(t, func() bool {
		answer, err := s.client.QueryWorkflow(t.Context(), contract.AlertLoopID(k), "", contract.State)
		return err == nil && answer.Get(&state) == nil && such(state.Incident)
	}, time.Minute, 50*time.Millisecond)
	return state.Incident
}

// update sends an update that must be accepted.
func (s *stage) update(t *testing.T, id, name string, request any) {
	t.Helper()
	handle, err := s.client.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: name, Args: []any{request}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	require.NoError(t, err)
	require.NoError(t, handle.Get(t.Context(), nil))
}

// completed waits until the workflows have.
func (s *stage) completed(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		require.Eventually(t, func() bool {
			d, err := s.client.DescribeWorkflowExecution(t.Context(), id, "")
			require.NoError(t, err)
			return d.GetWorkflowExecutionInfo().GetStatus() == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED
		}, time.Minute, 50*time.Millisecond, id)
	}
}

// continued sends a workflow what changes nothing until the server has it continue as new, and keeps the
// history of the run that then ended.
func (s *stage) continued(t *testing.T, id, signal string, message any) {
	t.Helper()
	run := s.run(t, id)
	deadline := time.Now().Add(5 * time.Minute)
	for s.run(t, id) == run {
		require.True(t, time.Now().Before(deadline), "%s does not continue as new", id)
		for range 50 {
			require.NoError(t, s.client.SignalWorkflow(t.Context(), id, "", signal, message))
		}
	}
	s.keepRun(t, "continued", id, run)
}

// run is the id of the workflow's newest run.
func (s *stage) run(t *testing.T, id string) string {
	t.Helper()
	d, err := s.client.DescribeWorkflowExecution(t.Context(), id, "")
	require.NoError(t, err)
	return d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}

func (s *stage) query(t *testing.T, id string, state any) {
	t.Helper()
	answer, err := s.client.QueryWorkflow(t.Context(), id, "", contract.State)
	require.NoError(t, err)
	require.NoError(t, answer.Get(state))
}

func (s *stage) decision(t *testing.T, id string) (state contract.DecisionState) {
	t.Helper()
	s.query(t, id, &state)
	return state
}

// identity is where a history names the process that wrote an event.
var identity = regexp.MustCompile(`"identity":"[^"]*"`)

// keep stores the histories of the workflows' newest runs, except those that are stored already.
func (s *stage) keep(t *testing.T, scenario string, ids ...string) {
	t.Helper()
	for _, id := range ids {
		s.keepRun(t, scenario, id, "")
	}
}

func (s *stage) keepRun(t *testing.T, scenario, id, run string) {
	t.Helper()
	kind, _, _ := strings.Cut(id, "/")
	if contract.IsGroup(id) {
		kind = "group"
	}
	file := filepath.Join("testdata", "replay_"+kind+"_"+scenario+".json.gz")
	if _, err := os.Stat(file); err == nil {
		return
	}
	h := &history.History{}
	events := s.client.GetWorkflowHistory(t.Context(), id, run, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		e, err := events.Next()
		require.NoError(t, err)
		h.Events = append(h.Events, e)
	}
	text, err := temporalproto.CustomJSONMarshalOptions{}.Marshal(h)
	require.NoError(t, err)
	host, err := os.Hostname() // who recorded it is nobody's business
	require.NoError(t, err)
	text = bytes.ReplaceAll(identity.ReplaceAll(text, []byte(`"identity":"recorder"`)), []byte(host+":"), []byte("recorder:"))
	f, err := os.Create(file)
	require.NoError(t, err)
	zipped, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	require.NoError(t, err)
	_, err = zipped.Write(text)
	require.NoError(t, err)
	require.NoError(t, zipped.Close())
	require.NoError(t, f.Close())
}

// world is one key's traffic and the flags that it obeys. While the fault lasts, a call costs three
// times the usual and its quality is three quarters of it, except where a route flag treats it.
type world struct {
	scored

	mu        sync.Mutex
	fault     bool
	silent    bool
	perMinute int64
	flags     map[routing.Kind]routing.Flag

	deployments []usage.Deployment

	crowd      int // tenants that use the same model, and fail or not
	crowdFails bool

	levels []contract.Level // where keys are calibrated, where they are, and what people rated
	drawn  []contract.DrawnLevel
	rated  []contract.RatedScore
}

// crowdMost is how many of them there can be.
const crowdMost = 11

// crowd is the key of one of the other tenants.
func crowd(n int) usage.Key { return usage.Key{Tenant: fmt.Sprintf("crowd_%02d", n), Model: key.Model} }

const (
	usualLnCost  = 22.0 // about 0.36 cents
	usualQuality = 0.88
)

func (w *world) set(f func(*world)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(w)
}

func (w *world) flag(k routing.Kind) (f routing.Flag) {
	w.set(func(w *world) { f = w.flags[k] })
	return f
}

func (w *world) on() (all []routing.Flag) {
	w.set(func(w *world) {
		for _, f := range w.flags {
			all = append(all, f)
		}
	})
	return all
}

func (w *world) Apply(_ context.Context, f routing.Flag) (bool, routing.Flag, error) {
	w.set(func(w *world) { w.flags[f.Kind] = f })
	return true, f, nil
}

func (w *world) Release(_ context.Context, _ usage.Key, k routing.Kind, _ routing.Sequence) (bool, error) {
	w.set(func(w *world) { delete(w.flags, k) })
	return true, nil
}

func (w *world) Renew(context.Context, usage.Key, routing.Kind, routing.Sequence, time.Time) (bool, error) {
	return true, nil
}

func (w *world) ReadWatermark(_ context.Context, now time.Time) (time.Time, error) { return now, nil }

func (w *world) Arrived(context.Context, time.Time) (int64, error) { return 0, nil }

func (w *world) Sweep(_ context.Context, q clickhouse.SweepQuery) ([]detect.Observation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.silent || q.Experiments {
		return nil, nil
	}
	all := []detect.Observation{observed(key, w.fault)}
	for n := range w.crowd {
		all = append(all, observed(crowd(n), w.crowdFails))
	}
	return all, nil
}

// observed is a key's traffic of now.
func observed(k usage.Key, fault bool) detect.Observation {
	window := detect.Window{CostN: 600, QualityN: 600, LnCost: usualLnCost, Quality: usualQuality}
	if fault {
		window.LnCost += math.Log(3)
		window.Quality *= 0.75
	}
	return detect.Observation{Key: k, Windows: [4]detect.Window{window, window, window, window}}
}

func (w *world) Baseline(ctx context.Context, key usage.Key, slot time.Time) (detect.Baseline, error) {
	all, err := w.Baselines(ctx, slot)
	return all[key], err
}

func (w *world) Baselines(_ context.Context, slot time.Time) (map[usage.Key]detect.Baseline, error) {
	all := map[usage.Key]detect.Baseline{}
	for n := range crowdMost + 1 {
		k := key
		if n < crowdMost {
			k = crowd(n)
		}
		all[k] = detect.Baseline{
			Key: k, Slot: slot.UTC().Truncate(time.Hour), CostBuckets: 100, LnCost: usualLnCost, LnCostDev: 0.05, LnCostSD: 0.5, CostBucketN: 4500,
			QualityBuckets: 100, Quality: usualQuality, QualityDev: 0.01, QualitySD: 0.05, QualityBucketN: 4500, RequestsPerMin: 300,
		}
	}
	return all, nil
}

func (w *world) Providers(context.Context, time.Time, time.Time) (map[usage.Key]string, error) {
	return map[usage.Key]string{key: "anthropic"}, nil
}

func (w *world) RebuildBaselines(context.Context, time.Time, detect.Minimums) (int, error) {
	return 1, nil
}

func (w *world) Minutes(_ context.Context, _ usage.Key, from, to time.Time) ([]kpi.Minute, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var minutes []kpi.Minute
	for at := from.UTC().Truncate(time.Minute); at.Before(to); at = at.Add(time.Minute) {
		if w.flags[routing.Route].Share == 0 {
			minutes = append(minutes, w.minute(at, usage.None))
		} else {
			minutes = append(minutes, w.minute(at, usage.Treated), w.minute(at, usage.Holdback))
		}
	}
	return minutes, nil
}

// minute is a minute of an arm, with a little spread around its medians.
func (w *world) minute(at time.Time, arm usage.Arm) kpi.Minute {
	m := kpi.Minute{Start: at, Arm: arm, Requests: w.perMinute}
	cost, quality := usualLnCost, usualQuality
	switch {
	case arm == usage.Treated:
		cost -= math.Log(3)
	case w.fault:
		cost, quality = cost+math.Log(3), quality*0.75
	}
	for i := range min(w.perMinute, 100) {
		spread := float64(i%11-5) / 100
		m.CostCodes = append(m.CostCodes, int16(math.Round((cost+spread)/math.Ln2*100)))
		m.QualityCodes = append(m.QualityCodes, kpi.QualityCode(quality+spread/2))
	}
	return m
}

func (w *world) Deployments(context.Context, usage.Key, time.Time, time.Time) (all []usage.Deployment, err error) {
	w.set(func(w *world) { all = w.deployments })
	return all, nil
}

func (w *world) FirstSeen(context.Context, usage.Key, time.Time, time.Time, time.Duration) ([]clickhouse.Sighting, error) {
	return nil, nil
}

func (w *world) Completion(context.Context, usage.Key, time.Time, time.Time) ([]clickhouse.CompletionChange, error) {
	return []clickhouse.CompletionChange{{Template: "rag-v3", Requests: 900, Ratio: 0.5, RatioBefore: 0.5, Change: 1}}, nil
}

func (w *world) WorstTraces(context.Context, usage.Key, time.Time, time.Time, int) ([]clickhouse.Trace, error) {
	return []clickhouse.Trace{{TraceID: "trace-1"}}, nil
}

func (w *world) Flows(context.Context, usage.Key, runbook.Times) ([]runbook.Flow, error) {
	return nil, nil
}

func (w *world) PastIncident(context.Context, usage.Key, time.Time) (*contract.PastIncident, error) {
	return nil, nil
}

func (w *world) BaselinesStored(context.Context, time.Time) (time.Time, error) {
	return time.Time{}, nil
}

func (w *world) AcceptLevel(_ context.Context, k usage.Key, _ time.Time, _, _ string, _ detect.Minimums) (detect.Baseline, error) {
	return detect.Baseline{Key: k, Version: "accepted"}, nil
}

func (w *world) Levels(context.Context, string, time.Time) ([]contract.Level, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.levels, nil
}

func (w *world) DrawnLevels(context.Context, string, time.Time, int) ([]contract.DrawnLevel, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.drawn, nil
}

func (w *world) SetLevels(context.Context, []contract.Level) error { return nil }

func (w *world) HumanPairs(context.Context, contract.HumanPairsQuery) ([]contract.RatedScore, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rated, nil
}

func (w *world) EvaluatorHistory(context.Context) ([]contract.EvaluatorRecord, error) {
	return nil, nil
}

func (w *world) SetEvaluators(context.Context, []contract.EvaluatorRecord) error { return nil }

func (w *world) RebuildTenant(context.Context, string, time.Time, detect.Minimums) (int, error) {
	return 1, nil
}

func (w *world) RecordIncident(context.Context, contract.IncidentRecord) error    { return nil }
func (w *world) RecordIncidents(context.Context, []contract.IncidentRecord) error { return nil }
func (w *world) RecordDecision(context.Context, contract.DecisionRecord) error    { return nil }
func (w *world) RecordShadow(context.Context, []clickhouse.ShadowRow) error       { return nil }
func (w *world) ShadowStates(context.Context) ([]clickhouse.ShadowRow, error)     { return nil, nil }

func (w *world) Measure(context.Context, contract.MeasureRequest) (effect.Effect, error) {
	return effect.Effect{MeasuredAt: time.Now(), Treated: 7}, nil
}

func (w *world) RecordSavings(context.Context, contract.SavingsRecord) error { return nil }

func (w *world) LastActEnded(context.Context, usage.Key) (time.Time, error) {
	return time.Time{}, nil
}

// Revision says that the store of flags has never been wiped.
func (w *world) Revision(context.Context) (routing.Revision, error) {
	return routing.Revision{Epoch: "recorded"}, nil
}

func (w *world) FallbackCases(context.Context, clickhouse.FallbackQuery) ([]contract.FallbackCase, error) {
	return nil, nil
}

func (w *world) PublishTrust(context.Context, map[string]string) error { return nil }
