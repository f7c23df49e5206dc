package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// aim settles whose flags an act would be, and reports whether any may be asked for. A finding of a tenant's pseudo-key
// names the model that callers turned to, asked anew until something is done about it; while no model
// explains it, act.yaml is asked about the pseudo-key itself, and says why there is nothing to do.
func (i *incident) aim(ctx workflow.Context) bool {
	if !i.in.Key.Pseudo() {
		return i.in.Key.OwnsFlags()
	}
	// 1: before it, an incident of a pseudo-key asked for nothing.
	if i.in.Key == usage.Everything || workflow.GetVersion(ctx, "shifted-model-is-acted-on", workflow.DefaultVersion, 1) < 1 {
		return false
	}
	if i.state.Scoring || len(i.state.Decisions) > 0 {
		return true
	}
	var shift runbook.Shift
	if err := workflow.ExecuteActivity(asking(ctx, "which model did callers turn to?"), telemetry.AttributeShift, i.evidence()).Get(ctx, &shift); err != nil {
		workflow.GetLogger(ctx).Warn("the requested mix could not be read", "error", err)
		shift = runbook.Shift{Text: unknown("the requested mix", err).Text}
	}
	i.state.Evidence.Shift = &shift
	i.target, i.mix = i.in.Key, nil
	if shift.Known {
		i.target = usage.Key{Tenant: i.in.Key.Tenant, Model: shift.Model}
		i.mix = &routing.Mix{Usual: shift.Before, Shifted: shift.Now}
		i.lastAct = workflow.ExecuteActivity(asking(ctx, "when did the last act on "+i.target.String()+" end?"), telemetry.LastAct, i.target)
	}
	return true
}
