// Package workflows asks the clock in a workflow: `make lint` checks that workflowcheck says so.
package workflows

import (
	"time"

	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// Late is not deterministic.
func Late(workflow.Context) (time.Time, error) { return time.Now(), nil }

// Register makes it a workflow.
func Register(r worker.WorkflowRegistry) { r.RegisterWorkflow(Late) }
