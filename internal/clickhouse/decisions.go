package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/contract"
)

var decisionsTable = table{"decisions", []column{
	{"id", "String"},
	{"incident_id", "String"},
	{"tenant_id", symbol},
	{"model", symbol},
	{"opened_at", instant},
	{"ended_at", "Nullable(" + instant + ")"},
	{"action", symbol},
	{"mode", symbol},
	{"value", symbol},
	{"share", "Float64"},
	{"status", symbol},
	{"effect", symbol},
	{"reason", "String"},
	{"by", symbol},
	{"rule", symbol},
	{"revision", "String"},
	{"detail", "String"},
	{"updated_at", instant},
	{"alert_rule", symbol},
	{"facts", "String"},
	{"approvers", "Array(String)"},
	{"flag_before", "String"},
	{"flag_after", "String"},
	{"measured_at", "Nullable(" + instant + ")"},
	{"estimated", "Bool"},
	{"treated_calls", "Int64"},
	{"compared_calls", "Int64"},
	{"saved_pico_usd", "Nullable(Int128)"},
	{"saved_low_pico_usd", "Nullable(Int128)"},
	{"saved_high_pico_usd", "Nullable(Int128)"},
	{"quality_change", "Nullable(Float64)"},
	{"quality_change_low", "Nullable(Float64)"},
	{"quality_change_high", "Nullable(Float64)"},
}}

// RecordDecision stores the latest state of a decision, as RecordIncident does of an incident.
func (s *Store) RecordDecision(ctx context.Context, r contract.DecisionRecord) error {
	w := r.Worth
	if w == nil {
		w = new(contract.Worth)
	}
	err := s.insert(ctx, decisionsTable, "", 1, func(int) []any {
		return []any{
			r.ID, r.Incident, r.Key.Tenant, r.Key.Model, r.OpenedAt.UTC(),
			ended(r.EndedAt), r.Action, string(r.Mode), r.Value, r.Share,
			string(r.Status), string(r.Effect), r.Reason, r.By, r.Rule,
			r.Revision, string(r.Detail), r.UpdatedAt.UTC(),
			r.AlertRule, string(r.Facts), r.Approvers, string(r.FlagBefore), string(r.FlagAfter),
			ended(w.MeasuredAt), w.Estimated, w.Treated, w.Compared,
			nullable(w.Saved), nullable(w.SavedLow), nullable(w.SavedHigh), w.Quality, w.QualityLow, w.QualityHigh,
		}
	})
	if err != nil {
		return fmt.Errorf("recording decision %s: %w", r.ID, err)
	}
	return nil
}

// decisionNames are the columns of decisions, as a SELECT names them.
var decisionNames = func() string {
	names := make([]string, len(decisionsTable.columns))
	for i, c := range decisionsTable.columns {
		names[i] = "`" + c.name + "`"
	}
	return strings.Join(names, ", ")
}()

func scanDecision(rows driver.Rows, r *contract.DecisionRecord) error {
	var ends, measured *time.Time
	var mode, status, effect, detail, facts, before, after string
	var w contract.Worth
	if err := rows.Scan(&r.ID, &r.Incident, &r.Key.Tenant, &r.Key.Model, &r.OpenedAt, &ends, &r.Action, &mode, &r.Value, &r.Share,
		&status, &effect, &r.Reason, &r.By, &r.Rule, &r.Revision, &detail, &r.UpdatedAt,
		&r.AlertRule, &facts, &r.Approvers, &before, &after, &measured, &w.Estimated, &w.Treated, &w.Compared,
		&w.Saved, &w.SavedLow, &w.SavedHigh, &w.Quality, &w.QualityLow, &w.QualityHigh); err != nil {
		return err
	}
	r.Mode, r.Status, r.Effect = contract.Mode(mode), contract.Status(status), contract.Effect(effect)
	r.Detail, r.Facts, r.FlagBefore, r.FlagAfter = raw(detail), raw(facts), raw(before), raw(after)
	r.OpenedAt, r.EndedAt, r.UpdatedAt = r.OpenedAt.UTC(), end(ends), r.UpdatedAt.UTC()
	if len(r.Approvers) == 0 {
		r.Approvers = nil
	}
	if measured != nil {
		w.MeasuredAt = measured.UTC()
		r.Worth = &w
	}
	return nil
}

// Decisions returns the decisions of an incident, oldest first.
func (s *Store) Decisions(ctx context.Context, incident string) ([]contract.DecisionRecord, error) {
	records, err := collect(ctx, s, fmt.Sprintf("SELECT %s FROM decisions FINAL\n"+
		"WHERE incident_id = {incident:String} ORDER BY opened_at, id LIMIT %d", decisionNames, maxRecords),
		[]any{ch.Named("incident", incident)}, scanDecision)
	if err != nil {
		return nil, fmt.Errorf("reading the decisions of %s: %w", incident, err)
	}
	return records, nil
}

// DecisionFilter chooses decisions; what is empty chooses all.
type DecisionFilter struct {
	Tenant, Model, Status, Action string
	Open                          bool      // not ended
	Since, Until                  time.Time // opened in [Since, Until)
	Newest                        int       // at most so many, the newest first; 0: all, the oldest first
}

// EachDecision hands every decision that the filter chooses to yield, one at a time as they are read, until it fails.
func (s *Store) EachDecision(ctx context.Context, f DecisionFilter, yield func(contract.DecisionRecord) error) error {
	where, args := []string{"1"}, []any{}
	for column, value := range map[string]string{"tenant_id": f.Tenant, "model": f.Model, "status": f.Status, "action": f.Action} {
		if value != "" {
			where = append(where, fmt.Sprintf("%s = {%[1]s:String}", column))
			args = append(args, ch.Named(column, value))
		}
	}
	if f.Open {
		where = append(where, "ended_at IS NULL")
	}
	for name, at := range map[string]time.Time{"since": f.Since, "until": f.Until} {
		if !at.IsZero() {
			where = append(where, fmt.Sprintf("opened_at %s {%s:DateTime64(3, 'UTC')}", map[string]string{"since": ">=", "until": "<"}[name], name))
			args = append(args, ch.Named(name, millis(at)))
		}
	}
	order := "opened_at, id"
	if f.Newest > 0 {
		order = fmt.Sprintf("opened_at DESC, id LIMIT %d", f.Newest)
	}
	rows, err := s.conn.Query(ctx, fmt.Sprintf("SELECT %s FROM decisions FINAL WHERE %s ORDER BY %s", decisionNames, strings.Join(where, " AND "), order), args...)
	if err != nil {
		return fmt.Errorf("reading decisions: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r contract.DecisionRecord
		if err := scanDecision(rows, &r); err != nil {
			return fmt.Errorf("reading decisions: %w", err)
		}
		if err := yield(r); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("reading decisions: %w", err)
	}
	return nil
}

// What finding a decision by its name can come to.
var (
	ErrNoDecision     = errors.New("no decision is called")
	ErrManyDecisions  = errors.New("several decisions are called")
	decisionsByName   = `id = {name:String} OR startsWith(id, {name:String}) OR startsWith(lower(hex(SHA256(id))), {name:String}) AND length({name:String}) = 6`
	maxNamedDecisions = 20
)

// FindDecision returns the decision that a name means: its id, its handle, or the start of its id.
func (s *Store) FindDecision(ctx context.Context, name string) (r contract.DecisionRecord, err error) {
	if name == "" {
		return r, fmt.Errorf("%w nothing: say which", ErrNoDecision)
	}
	found, err := collect(ctx, s, fmt.Sprintf("SELECT %s FROM decisions FINAL WHERE %s ORDER BY id = {name:String} DESC, id LIMIT %d",
		decisionNames, decisionsByName, maxNamedDecisions), []any{ch.Named("name", name)}, scanDecision)
	switch {
	case err != nil:
		return r, fmt.Errorf("looking for decision %q: %w", name, err)
	case len(found) == 0:
		return r, fmt.Errorf("%w %q", ErrNoDecision, name)
	case len(found) > 1 && found[0].ID != name:
		ids := make([]string, len(found))
		for i := range found {
			ids[i] = found[i].ID
		}
		return r, fmt.Errorf("%w %q: %s", ErrManyDecisions, name, strings.Join(ids, ", "))
	}
	return found[0], nil
}
