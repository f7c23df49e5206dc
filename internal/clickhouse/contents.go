package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/usage"
)

var contentsTable = table{"contents", []column{
	{"trace_id", "String"},
	{"span_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"input", "String"},
	{"output", "String"},
	{"expires_at", instant},
}}

// InsertContents stores a batch of calls' texts, exactly once like InsertSpans.
func (s *Store) InsertContents(ctx context.Context, contents []usage.Content, token string) error {
	err := s.insertOnce(ctx, contentsTable, token, len(contents), func(i int) []any {
		c := &contents[i]
		return []any{
			c.TraceID, c.SpanID, c.Timestamp.UTC(), c.TenantID, c.RequestedModel, c.Model, c.Input, c.Output, c.ExpiresAt.UTC(),
		}
	})
	if err != nil {
		return fmt.Errorf("storing the texts of %d calls: %w", len(contents), err)
	}
	return nil
}

// JudgeProcess is the tag by which a judge's calls say which process made them.
const JudgeProcess = "judge_process"

// JudgeSpendQuery asks what judges have spent of the tenant that they spend as, from a moment on, without the calls of
// one process.
type JudgeSpendQuery struct {
	Tenant  string
	From    time.Time
	Without string // the process
}

// SQL is the query's text and its named parameters.
func (q JudgeSpendQuery) SQL() (string, []any) {
	const sql = `SELECT toInt64(sum(cost_pico_usd))
FROM spans
WHERE tenant_id = {tenant:String} AND timestamp >= {from:DateTime64(3, 'UTC')} AND tags['` + JudgeProcess + `'] != {without:String}`
	return sql, []any{ch.Named("tenant", q.Tenant), ch.Named("from", millis(q.From)), ch.Named("without", q.Without)}
}

// JudgeSpend is what judges have spent, in pico-dollars.
func (s *Store) JudgeSpend(ctx context.Context, q JudgeSpendQuery) (usage.PicoUSD, error) {
	sql, args := q.SQL()
	sums, err := collect(ctx, s, sql, args, func(rows driver.Rows, sum *int64) error { return rows.Scan(sum) })
	if err != nil {
		return 0, fmt.Errorf("reading what the judges have spent: %w", err)
	}
	if len(sums) != 1 {
		return 0, fmt.Errorf("reading what the judges have spent: %d rows", len(sums))
	}
	return usage.PicoUSD(sums[0]), nil
}
