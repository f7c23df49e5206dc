package clickhouse

import (
	"context"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/kpi"
)

var complexityTable = table{"complexity", []column{
	{"tenant_id", symbol},
	{"task", "String"},
	{"source", symbol},
	{"score_milli", "Int64"},
	{"samples", "Int64"},
	{"minutes", "Float64"},
	{"set_at", instant},
	{"by", symbol},
}}

// SetComplexity puts scores in force, each in place of an earlier one of its tenant and task, by the server's clock.
func (s *Store) SetComplexity(ctx context.Context, scores []kpi.TaskScore) error {
	err := s.insert(ctx, complexityTable, "", len(scores), func(i int) []any {
		c := &scores[i]
		return []any{c.Tenant, c.Task, string(c.Source), c.Milli, c.Samples, c.Minutes, c.SetAt.UTC(), c.By}
	})
	if err != nil {
		return fmt.Errorf("storing %d complexity scores: %w", len(scores), err)
	}
	return nil
}

// Complexity returns the scores in force, by tenant and task.
func (s *Store) Complexity(ctx context.Context) ([]kpi.TaskScore, error) {
	scores, err := collect(ctx, s, "SELECT tenant_id, task, source, score_milli, samples, minutes, set_at, `by` FROM complexity FINAL ORDER BY tenant_id, task", nil,
		func(rows driver.Rows, c *kpi.TaskScore) error {
			err := rows.Scan(&c.Tenant, &c.Task, (*string)(&c.Source), &c.Milli, &c.Samples, &c.Minutes, &c.SetAt, &c.By)
			c.SetAt = c.SetAt.UTC()
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("reading the complexity scores: %w", err)
	}
	return scores, nil
}
