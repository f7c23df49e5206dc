package workflows_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// hooked is the service that has a webhook.
const hooked = "checkout-bot"

// recordRunbook records what people and webhooks do to an incident's runbook, and calibrations.
func recordRunbook(t *testing.T, s *stage) {
	t.Run("rolled back by webhook", func(t *testing.T) {
		deployed := usage.Deployment{
			ID: "deploy-18", Service: hooked, Version: "9a3d2e", By: "ann", Model: "claude-3-opus-2", Timestamp: time.Now().Add(-time.Second),
			Previous: map[string]string{"model": "claude-3-opus-1"},
		}
		s.world.set(func(w *world) { w.deployments = []usage.Deployment{deployed} })
		id := s.breakIt(t)
		d := s.question(t, id)
		require.Equal(t, contract.RollBack, s.decision(t, d).Input.Proposal.Action)
		s.decide(t, d, contract.Approve)
		var state contract.IncidentState
		require.Eventually(t, func() bool {
			s.query(t, id, &state)
			return len(state.Evidence.Rollbacks) == 1
		}, time.Minute, 50*time.Millisecond)
		require.Equal(t, http.StatusAccepted, state.Evidence.Rollbacks[0].Status)
		s.world.set(func(w *world) { w.fault, w.deployments = false, nil })
		s.ended(t, id)
		s.query(t, id, &state)
		require.Equal(t, contract.CalibrationID(key.Tenant), state.Recalibration)
		s.completed(t, contract.CalibrationID(key.Tenant))
		s.keep(t, "webhook", id, d, contract.CalibrationID(key.Tenant))
	})
	t.Run("steered", func(t *testing.T) {
		id := s.breakIt(t)
		var state contract.IncidentState
		until := func(done func() bool) {
			require.Eventually(t, func() bool {
				state = contract.IncidentState{} // what an answer leaves out would stay
				s.query(t, id, &state)
				return done()
			}, time.Minute, 50*time.Millisecond)
		}
		until(func() bool { return len(state.Steps) >= 2 })
		s.update(t, id, contract.RerunStep, contract.RerunStepRequest{Step: "T+2", Who: "ada", Reason: "their page is up to date now"})
		s.update(t, id, contract.Annotate, contract.AnnotateRequest{Who: "ada", Text: "the launch is today"})
		until(func() bool { return len(state.Steps[1].Earlier) == 1 && len(state.Notes) == 1 })
		mute := contract.AlertChangedMessage{Key: key, Change: contract.Muted, Mute: &contract.Mute{Who: "ada", Reason: "a test", At: time.Now(), Until: time.Now().Add(2 * time.Second)}}
		require.NoError(t, s.client.SignalWorkflow(t.Context(), id, "", contract.AlertChanged, mute))
		until(func() bool { return state.Mute != nil })
		until(func() bool { return state.Mute == nil }) // and people are told that it is still open
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		s.query(t, id, &state)
		require.Contains(t, state.Report, "the launch is today")
		s.keep(t, "steered", id, contract.DecisionID(id, "downgrade", 1))
	})
	t.Run("reminded", func(t *testing.T) {
		id := s.breakIt(t)
		var state contract.IncidentState
		require.Eventually(t, func() bool {
			s.query(t, id, &state)
			return time.Since(state.Input.Opened) > 2*recordTuning().RemindEvery
		}, time.Minute, 100*time.Millisecond)
		s.world.set(func(w *world) { w.fault = false })
		s.ended(t, id)
		s.keep(t, "reminded", id)
	})
	t.Run("calibrated", func(t *testing.T) {
		id := contract.CalibrationID("")
		begin := s.client.NewWithStartWorkflowOperation(client.StartWorkflowOptions{
			ID: id, TaskQueue: contract.TaskQueue, WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		}, contract.Calibration, struct{}{})
		answer, err := s.client.UpdateWithStartWorkflow(t.Context(), client.UpdateWithStartWorkflowOptions{
			StartWorkflowOperation: begin, UpdateOptions: client.UpdateWorkflowOptions{
				WorkflowID: id, UpdateName: contract.Recalibrate, WaitForStage: client.WorkflowUpdateStageCompleted,
				Args: []any{contract.RecalibrateRequest{Who: "ada", Reason: "the price book has changed"}},
			},
		})
		require.NoError(t, err)
		var state contract.CalibrationState
		require.NoError(t, answer.Get(t.Context(), &state))
		require.Empty(t, state.Failed)
		s.completed(t, id)
		s.keep(t, "calibrated", id)
	})
	t.Run("drifted", func(t *testing.T) {
		others := usage.Key{Tenant: "org_43", Model: key.Model}
		s.world.set(func(w *world) {
			for _, k := range []usage.Key{key, others} {
				w.levels = append(w.levels, contract.Level{Key: k, Measure: contract.CostMeasure, At: time.Now().AddDate(0, -1, 0), Value: usualLnCost - 1, Bound: 0.2})
				w.drawn = append(w.drawn, contract.DrawnLevel{Key: k, Measure: contract.CostMeasure, Value: usualLnCost})
			}
		})
		id := contract.CalibrationID("") + "/drifted" // as a schedule adds its time
		_, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: contract.TaskQueue}, contract.Calibration, struct{}{})
		require.NoError(t, err)
		var state contract.CalibrationState
		require.Eventually(t, func() bool {
			s.query(t, id, &state)
			return state.Drift != nil && state.Drift.Open() == 2
		}, time.Minute, 50*time.Millisecond)
		s.update(t, id, contract.Decide, contract.DecideMovesRequest{Verdict: contract.Approve, Tenant: key.Tenant, Model: key.Model, Who: "ada", Reason: "longer prompts"})
		require.NoError(t, s.client.SignalWorkflow(t.Context(), id, "", contract.Decide, contract.DecideMovesRequest{Verdict: contract.Deny, Who: "bob", Reason: "not meant"}))
		s.completed(t, id)
		s.keep(t, "drifted", id)
		s.world.set(func(w *world) { w.levels, w.drawn = nil, nil })
	})
	t.Run("evaluators judged", func(t *testing.T) {
		s.world.set(func(w *world) {
			for n := range 120 { // it says the opposite of what people say
				w.rated = append(w.rated, contract.RatedScore{
					Key: key, Evaluator: "helpfulness", Version: "1", TraceID: fmt.Sprint(n), At: time.Now(), Human: float64(n) / 120, Judge: 1 - float64(n)/120, Raters: 1,
				})
			}
		})
		_, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: contract.EvaluatorsID, TaskQueue: contract.TaskQueue}, contract.Calibration,
			contract.CalibrationInput{Evaluators: true})
		require.NoError(t, err)
		s.completed(t, contract.EvaluatorsID)
		var state contract.CalibrationState
		s.query(t, contract.EvaluatorsID, &state)
		require.True(t, state.Evaluators[0].Failed)
		s.keep(t, "evaluators", contract.EvaluatorsID)
		s.world.set(func(w *world) { w.rated = nil })
	})
}
