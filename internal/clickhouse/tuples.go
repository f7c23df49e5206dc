package clickhouse

import (
	"context"
	"fmt"

	"github.com/flyball-dev/flyball/internal/usage"
)

var tuplesTable = table{"tuples", []column{
	{"trace_id", "String"},
	{"span_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"task", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"estimated_cost_pico_usd", "Int64"},
	{"reading", symbol},
	{"features", "String"},
	{"predictor", symbol},
	{"predicted_quality", "Float64"},
}}

// InsertTuples stores a batch of what routers knew of calls, exactly once like InsertSpans.
func (s *Store) InsertTuples(ctx context.Context, tuples []usage.Tuple, token string) error {
	err := s.insertOnce(ctx, tuplesTable, token, len(tuples), func(i int) []any {
		t := &tuples[i]
		return []any{
			t.TraceID, t.SpanID, t.Timestamp.UTC(), t.TenantID, t.Task, t.RequestedModel, t.Model, int64(t.EstimatedCost),
			t.Reading, string(t.Features), t.Predictor, t.Predicted,
		}
	})
	if err != nil {
		return fmt.Errorf("storing %d tuples: %w", len(tuples), err)
	}
	return nil
}
