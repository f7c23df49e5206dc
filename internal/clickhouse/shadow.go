package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/usage"
)

// ShadowRow is one change that the live policy set or the second one made of a key.
type ShadowRow struct {
	At       time.Time
	Key      usage.Key
	Set      string // live or shadow
	Seq      uint32 // among those of one time
	Kind     string
	Revision string // of the set
	Level    string
	Rule     string
	Reason   string
	Facts    string // JSON; empty: none
	Act      string // JSON of what was proposed; empty: nothing
	State    string // JSON of what a sweep goes on from; empty: the key has no alert any more
}

var shadowTable = table{"shadow_changes", []column{
	{"at", instant},
	{"tenant_id", symbol},
	{"model", symbol},
	{"policy_set", "Enum8('live' = 1, 'shadow' = 2)"},
	{"seq", "UInt32"},
	{"kind", symbol},
	{"revision", symbol},
	{"level", symbol},
	{"rule", symbol},
	{"reason", "String"},
	{"facts", "String"},
	{"act", "String"},
	{"state", "String"},
}}

// RecordShadow stores changes. The same ones again are stored once.
func (s *Store) RecordShadow(ctx context.Context, rows []ShadowRow) error {
	err := s.insert(ctx, shadowTable, "", len(rows), func(i int) []any {
		r := &rows[i]
		return []any{
			r.At.UTC(), r.Key.Tenant, r.Key.Model, r.Set, r.Seq, r.Kind, r.Revision, r.Level, r.Rule, r.Reason, r.Facts, r.Act, r.State,
		}
	})
	if err != nil {
		return fmt.Errorf("storing %d changes of shadow mode: %w", len(rows), err)
	}
	return nil
}

// ShadowStates are the last changes of the keys that have an alert still, by each set, and the last of what shadow mode
// said of itself, under the tenant * without a model.
func (s *Store) ShadowStates(ctx context.Context) ([]ShadowRow, error) {
	rows, err := s.shadowRows(ctx, `FROM (SELECT * FROM shadow_changes ORDER BY at DESC, seq DESC, stored_at DESC LIMIT 1 BY tenant_id, model, policy_set)
WHERE state != '' OR model = ''`)
	if err != nil {
		return nil, fmt.Errorf("reading where shadow mode was: %w", err)
	}
	return rows, nil
}

// ShadowChanges are those of [from, to), in their order.
func (s *Store) ShadowChanges(ctx context.Context, from, to time.Time) ([]ShadowRow, error) {
	rows, err := s.shadowRows(ctx, `FROM shadow_changes FINAL
WHERE at >= {from:DateTime64(3, 'UTC')} AND at < {to:DateTime64(3, 'UTC')}
ORDER BY at, seq`, ch.Named("from", millis(from)), ch.Named("to", millis(to)))
	if err != nil {
		return nil, fmt.Errorf("reading the changes of shadow mode: %w", err)
	}
	return rows, nil
}

func (s *Store) shadowRows(ctx context.Context, from string, args ...any) ([]ShadowRow, error) {
	return collect(ctx, s, "SELECT at, tenant_id, model, toString(policy_set), seq, kind, revision, level, rule, reason, facts, act, state\n"+from, args,
		func(rows driver.Rows, r *ShadowRow) error {
			if err := rows.Scan(&r.At, &r.Key.Tenant, &r.Key.Model, &r.Set, &r.Seq, &r.Kind, &r.Revision, &r.Level, &r.Rule, &r.Reason, &r.Facts, &r.Act, &r.State); err != nil {
				return err
			}
			r.At = r.At.UTC()
			return nil
		})
}
