package activities

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// RecordGroup stores the state of an incident of many keys, beside the incidents of single keys: its key is
// that of no traffic, any tenant and the cause.
func (t *Telemetry) RecordGroup(ctx context.Context, s contract.GroupState) error {
	detail, err := json.Marshal(s)
	if err != nil {
		return badInput("the group's state cannot be written as JSON", err)
	}
	r := contract.IncidentRecord{
		ID: s.ID, Key: usage.Key{Tenant: usage.AnyModel, Model: s.Input.Cause}, OpenedAt: s.Input.Opened, EndedAt: s.ClosedAt,
		Level: s.Level, State: string(s.Phase), Reason: s.Reason, Detail: detail, UpdatedAt: s.UpdatedAt,
	}
	if n := len(s.Steps); n > 0 {
		r.Step = s.Steps[n-1].Step.Name
	}
	if err := t.Audit.RecordIncident(ctx, r); err != nil {
		return fmt.Errorf("storing the group: %w", err)
	}
	return nil
}
