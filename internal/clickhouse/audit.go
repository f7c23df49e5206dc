package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// maxRecords bounds how many audit rows one question returns, newest first.
const maxRecords = 1000

var incidentsTable = table{"incidents", []column{
	{"id", "String"},
	{"tenant_id", symbol},
	{"model", symbol},
	{"opened_at", instant},
	{"ended_at", "Nullable(" + instant + ")"},
	{"level", symbol},
	{"state", symbol},
	{"step", symbol},
	{"rule", symbol},
	{"reason", "String"},
	{"report", "String"},
	{"detail", "String"},
	{"updated_at", instant},
}}

// RecordIncident stores the latest state of an incident. An update that is older than what is stored
// changes nothing, and repeating one does no harm.
func (s *Store) RecordIncident(ctx context.Context, r contract.IncidentRecord) error {
	if err := s.RecordIncidents(ctx, []contract.IncidentRecord{r}); err != nil {
		return fmt.Errorf("recording incident %s: %w", r.ID, err)
	}
	return nil
}

// RecordIncidents does so of many at once.
func (s *Store) RecordIncidents(ctx context.Context, records []contract.IncidentRecord) error {
	return s.insert(ctx, incidentsTable, "", len(records), func(i int) []any {
		r := records[i]
		return []any{
			r.ID, r.Key.Tenant, r.Key.Model, r.OpenedAt.UTC(), ended(r.EndedAt),
			string(r.Level), r.State, r.Step, r.Rule, r.Reason,
			r.Report, string(r.Detail), r.UpdatedAt.UTC(),
		}
	})
}

const incidentColumns = "id, tenant_id, model, opened_at, ended_at, level, state, step, rule, reason, report, detail, updated_at"

func scanIncident(rows driver.Rows, r *contract.IncidentRecord) error {
	var ends *time.Time
	var level, detail string
	if err := rows.Scan(&r.ID, &r.Key.Tenant, &r.Key.Model, &r.OpenedAt, &ends, &level, &r.State, &r.Step, &r.Rule, &r.Reason,
		&r.Report, &detail, &r.UpdatedAt); err != nil {
		return err
	}
	r.Level, r.Detail = detect.Level(level), raw(detail)
	r.OpenedAt, r.EndedAt, r.UpdatedAt = r.OpenedAt.UTC(), end(ends), r.UpdatedAt.UTC()
	return nil
}

// Incidents returns the incidents that are open or ended at or after since, newest first, at most 1,000.
func (s *Store) Incidents(ctx context.Context, since time.Time) ([]contract.IncidentRecord, error) {
	records, err := collect(ctx, s, fmt.Sprintf(`SELECT %s FROM incidents FINAL
WHERE ended_at IS NULL OR ended_at >= {since:DateTime64(3, 'UTC')}
ORDER BY opened_at DESC, id LIMIT %d`, incidentColumns, maxRecords),
		[]any{ch.Named("since", millis(since))}, scanIncident)
	if err != nil {
		return nil, fmt.Errorf("reading the incidents: %w", err)
	}
	return records, nil
}

// PastIncident returns what the newest closed incident of the key that opened before the time has to teach; nil when
// there is none. One that it had as one of many keys counts: its cause is theirs.
func (s *Store) PastIncident(ctx context.Context, key usage.Key, before time.Time) (*contract.PastIncident, error) {
	records, err := collect(ctx, s, fmt.Sprintf(`SELECT %s FROM incidents FINAL
WHERE tenant_id = {tenant:String} AND model = {model:String} AND ended_at IS NOT NULL AND opened_at < {before:DateTime64(3, 'UTC')}
ORDER BY opened_at DESC, id LIMIT 1`, incidentColumns), append(keyArgs(key), ch.Named("before", millis(before))), scanIncident)
	if err != nil {
		return nil, fmt.Errorf("reading the last incident of %s: %w", key, err)
	}
	if len(records) == 0 {
		return nil, nil
	}
	r := records[0]
	past := &contract.PastIncident{ID: r.ID, Opened: r.OpenedAt, Closed: r.EndedAt, Reason: r.Reason}
	var state contract.IncidentState
	switch {
	case contract.IsGroup(r.ID):
		past.Cause = r.Rule
	case len(r.Detail) > 0:
		if err := json.Unmarshal(r.Detail, &state); err != nil {
			return nil, fmt.Errorf("reading the last incident of %s: what is stored of %s: %w", key, r.ID, err)
		}
		past.Cause = runbook.Cause(state.Steps)
	}
	// As it was printed then, so that it is the one that people have seen.
	if _, fenced, ok := strings.Cut(r.Report, "```sql\n"); ok {
		past.Query, _, _ = strings.Cut(fenced, "\n```")
	} else {
		past.Query = runbook.Report{ID: r.ID, Key: key, Opened: r.OpenedAt, Steps: state.Steps}.Query()
	}
	return past, nil
}

// LastActEnded returns when an act on the key ended last: a decision whose flag was on at some time, which
// only its detail tells. It is zero when there was none.
func (s *Store) LastActEnded(ctx context.Context, key usage.Key) (time.Time, error) {
	ends, err := collect(ctx, s, `SELECT max(ended_at) FROM decisions FINAL
WHERE tenant_id = {tenant:String} AND model = {model:String} AND ended_at IS NOT NULL
  AND arrayExists(t -> JSONExtractFloat(t, 'share') > 0, JSONExtractArrayRaw(detail, 'history'))`, keyArgs(key),
		func(rows driver.Rows, at **time.Time) error { return rows.Scan(at) })
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the last act on %s: %w", key, err)
	}
	return end(ends[0]), nil // an aggregate is always one row
}

// ended is the stored form of an end: NULL while there is none.
func ended(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC()
	return &at
}

// end undoes ended.
func end(at *time.Time) time.Time {
	if at == nil {
		return time.Time{}
	}
	return at.UTC()
}

// raw is a stored detail; none is nil, which encoding/json can write.
func raw(detail string) json.RawMessage {
	if detail == "" {
		return nil
	}
	return json.RawMessage(detail)
}

// keyArgs are the parameters of a query on one key.
func keyArgs(key usage.Key) []any {
	return []any{ch.Named("tenant", key.Tenant), ch.Named("model", key.Model)}
}
