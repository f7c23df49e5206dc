package activities

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestRecordGroup(t *testing.T) {
	t.Parallel()
	state := contract.GroupState{
		ID: contract.GroupID("provider:openai", now), Input: contract.GroupInput{Cause: "provider:openai", Opened: now}, Level: detect.Page,
		Phase: contract.IncidentClosed, Reason: "over", ClosedAt: now.Add(time.Hour), UpdatedAt: now.Add(time.Hour),
		Keys: []contract.GroupKey{{Key: opus, Level: detect.Page, JoinedAt: now}}, Steps: []runbook.Done{{Step: runbook.Step{Name: runbook.T2}}},
	}
	audit := &fakeAudit{}
	require.NoError(t, (&Telemetry{Audit: audit}).RecordGroup(t.Context(), state))
	var detail contract.GroupState
	require.NoError(t, json.Unmarshal(audit.incident.Detail, &detail))
	require.Equal(t, state, detail, "the whole state is kept")
	audit.incident.Detail = nil
	require.Equal(t, contract.IncidentRecord{
		ID: state.ID, Key: usage.Key{Tenant: "*", Model: "provider:openai"}, OpenedAt: now, EndedAt: now.Add(time.Hour), Level: detect.Page,
		State: "closed", Step: runbook.T2, Reason: "over", UpdatedAt: now.Add(time.Hour),
	}, audit.incident)

	audit.err = errAway
	require.ErrorIs(t, (&Telemetry{Audit: audit}).RecordGroup(t.Context(), state), errAway)
}
