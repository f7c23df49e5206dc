package workflows_test

import (
	"compress/gzip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/workers"
)

// Every recorded history must replay on today's code: a workflow that was under way before a release
// goes on after it. When one fails, the change that broke it needs workflow.GetVersion and a history of
// its own; see testdata/record.sh.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/replay_*.json.gz")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	replayed := map[string]bool{}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			history := recorded(t, file)
			started := history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
			require.NotNil(t, started)
			replayed[started.GetWorkflowType().GetName()] = true

			replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{})
			require.NoError(t, err)
			workers.RegisterWorkflows(replayer)
			require.NoError(t, replayer.ReplayWorkflowHistoryWithOptions(quiet{}, history, worker.ReplayWorkflowHistoryOptions{
				OriginalExecution: workflow.Execution{ID: started.GetWorkflowId(), RunID: started.GetOriginalExecutionRunId()},
			}))
		})
	}
	for _, name := range []string{
		contract.Sweep, contract.AlertLoop, contract.Incident, contract.Group, contract.Decision, contract.Autonomy, contract.Calibration, contract.Effects,
		contract.RouterTraining, contract.Fallback, contract.Drill,
	} {
		require.True(t, replayed[name], "no history of %s is recorded", name)
	}
}

// recorded reads a history of testdata.
func recorded(t *testing.T, file string) *history.History {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	require.NoError(t, err)
	h, err := client.HistoryFromJSON(unzipped, client.HistoryJSONOptions{})
	require.NoError(t, err)
	return h
}
