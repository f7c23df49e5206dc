package workflows_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/router"
)

// recordServices records what runs beside incidents: the training of the predictor and the watch over it, a drill whose
// deployment is away, and the watch over calls that fall back.
func recordServices(t *testing.T, s *stage) {
	run := func(id, kind string, in, result any) error {
		r, err := s.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: contract.TaskQueue}, kind, in)
		require.NoError(t, err)
		return r.Get(t.Context(), result)
	}
	t.Run("training", func(t *testing.T) {
		var state contract.RouterTrainingState
		require.NoError(t, run(contract.RouterTrainingID, contract.RouterTraining, contract.RouterTrainingInput{}, &state))
		require.Equal(t, 300, state.Trained.N)
		s.keep(t, "trained", contract.RouterTrainingID)
		require.NoError(t, run(contract.RouterWatchID, contract.RouterTraining, contract.RouterTrainingInput{Watch: true}, &state))
		s.keep(t, "watched", contract.RouterWatchID)
	})
	t.Run("drill", func(t *testing.T) {
		id := contract.DrillID("flyball-drill")
		var result contract.DrillResult
		_ = run(id, contract.Drill, contract.DrillInput{}, &result) // its deployment has no address: an error, or a report of that
		s.keep(t, "away", id)
	})
	t.Run("fallback", func(t *testing.T) {
		require.Eventually(t, func() bool { // its activity is under way
			d, err := s.client.DescribeWorkflowExecution(t.Context(), contract.FallbackID, "")
			return err == nil && len(d.GetPendingActivities()) == 1 && d.GetPendingActivities()[0].GetLastStartedTime() != nil
		}, time.Minute, 50*time.Millisecond)
		s.keep(t, "watching", contract.FallbackID)
		require.NoError(t, s.client.CancelWorkflow(t.Context(), contract.FallbackID, ""))
		require.Error(t, s.client.GetWorkflow(t.Context(), contract.FallbackID, "").Get(t.Context(), nil))
		s.keep(t, "cancelled", contract.FallbackID)
	})
}

// scored is a store of three hundred scored calls, of which the hard ones turned out bad. It forgets what is trained.
type scored struct{}

func (scored) RouterSalt(context.Context) (string, error) { return "recorded", nil }

func (scored) ScoredTuples(_ context.Context, _ string, _, to time.Time) (tuples []router.Tuple, err error) {
	e := router.NewExtractor("recorded")
	for i := range 300 {
		text, score := fmt.Sprintf("an easy one of %d", i), 1.0
		if i%2 == 0 {
			text, score = fmt.Sprintf("a hard puzzle of %d", i), 0
		}
		tuples = append(tuples, router.Tuple{Prompt: text, Features: e.Features(text), Model: "big", Score: score, At: to.Add(time.Duration(i-400) * time.Minute)})
	}
	return tuples, nil
}

func (scored) Predictors(context.Context) ([]router.Version, error)      { return nil, nil }
func (scored) Predictor(context.Context, string) ([]byte, error)         { return nil, nil }
func (scored) AddPredictor(context.Context, *router.Model, []byte) error { return nil }
func (scored) SetPredictorStates(context.Context, []router.Change) error { return nil }
