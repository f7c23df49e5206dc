package activities

import (
	"context"
	"fmt"

	"github.com/flyball-dev/flyball/internal/contract"
)

// AskRecalibration has the tenant's baselines computed anew, by a Calibration that is started when none runs.
func (l *Loop) AskRecalibration(ctx context.Context, r contract.AskRecalibrationRequest) error {
	id := contract.CalibrationID(r.Tenant)
	options := startOptions(id, tenantAttributes(r.Tenant))
	options.StaticSummary = "computes the baselines of " + r.Tenant + " anew"
	_, err := l.Client.SignalWithStartWorkflow(ctx, id, contract.Recalibrate, r.Request, options, contract.Calibration,
		contract.CalibrationInput{Tenant: r.Tenant, Tuning: r.Tuning})
	if err != nil {
		return fmt.Errorf("asking for new baselines of %s: %w", r.Tenant, err)
	}
	return nil
}
