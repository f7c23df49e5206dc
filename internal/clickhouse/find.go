package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	// findAtOnce is how many traces one query looks for. The index lets a granule be skipped when none of
	// them can be in it: of a hundred, a tenth of the granules is read in vain.
	findAtOnce = 100
	// findPerTrace bounds the spans that one trace contributes.
	findPerTrace = 1000
)

// findDays is how many days back spans are looked for, the nearest first: most events come within days.
// Without a tenant the sorting key is of no help, and the search ends with the second.
var findDays = [...]int{2, 14, 90}

// findQuery looks for the spans of traces in [From, To). Tenants empty means any.
type findQuery struct {
	Tenants, Traces []string
	From, To        time.Time
}

// SQL is the query's text and parameters.
func (q findQuery) SQL() (string, []any) {
	args := []any{ch.Named("traces", q.Traces), ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To))}
	tenant := ""
	if len(q.Tenants) > 0 {
		tenant = "tenant_id IN {tenants:Array(String)} AND "
		args = append(args, ch.Named("tenants", q.Tenants))
	}
	return fmt.Sprintf(`SELECT
  trace_id, span_id, timestamp, tenant_id, requested_model, model, provider, prompt_template_version, experiment_id, toString(arm)
FROM spans
WHERE %strace_id IN {traces:Array(String)}
  AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
ORDER BY ingested_at, timestamp, span_id
LIMIT %d BY tenant_id, trace_id`, tenant, findPerTrace), args
}

// FindSpans returns the spans of traces with their ids and dimensions, the first that came first. It looks
// 90 days back from now, and 14 for a trace without a tenant. A trace that is found in nearer days is not
// looked for in those before.
func (s *Store) FindSpans(ctx context.Context, traces []usage.Trace, now time.Time) ([]usage.Span, error) {
	byTenant := slices.SortedFunc(slices.Values(traces), func(a, b usage.Trace) int { return cmp.Compare(a.TenantID, b.TenantID) })
	n := slices.IndexFunc(byTenant, func(t usage.Trace) bool { return t.TenantID != "" })
	if n < 0 {
		n = len(byTenant)
	}
	all, err := s.findChunks(ctx, byTenant[n:], now, findDays[:])
	if err == nil && n > 0 {
		var anyones []usage.Span
		anyones, err = s.findChunks(ctx, byTenant[:n], now, findDays[:2])
		all = append(all, anyones...)
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the spans of %d traces: %w", len(traces), err)
	}
	return all, nil
}

// findChunks looks for traces a hundred at a time; sorted by tenant, so that each query is about few.
func (s *Store) findChunks(ctx context.Context, traces []usage.Trace, now time.Time, days []int) (all []usage.Span, err error) {
	for chunk := range slices.Chunk(traces, findAtOnce) {
		found, err := s.findChunk(ctx, chunk, now, days)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	return all, nil
}

// findChunk looks for traces in ranges of days, the nearest first.
func (s *Store) findChunk(ctx context.Context, traces []usage.Trace, now time.Time, days []int) (all []usage.Span, err error) {
	to := now.Add(time.Hour) // senders' clocks may be ahead
	missing := slices.Clone(traces)
	for _, back := range days {
		if len(missing) == 0 {
			return all, nil
		}
		q := findQuery{From: now.AddDate(0, 0, -back), To: to}
		tenants := map[string]bool{}
		for _, t := range missing {
			q.Traces = append(q.Traces, t.ID)
			if t.TenantID != "" && !tenants[t.TenantID] {
				tenants[t.TenantID] = true
				q.Tenants = append(q.Tenants, t.TenantID)
			}
		}
		sql, args := q.SQL()
		found, err := collect(ctx, s, sql, args, func(rows driver.Rows, p *usage.Span) error {
			err := rows.Scan(&p.TraceID, &p.SpanID, &p.Timestamp, &p.TenantID, &p.RequestedModel, &p.Model, &p.Provider,
				&p.PromptTemplate, &p.ExperimentID, (*string)(&p.Arm))
			p.Timestamp = p.Timestamp.UTC()
			return err
		})
		if err != nil {
			return nil, err
		}
		// Tenants and traces were asked for apart: another tenant's trace by that name is none of them.
		got := map[usage.Trace]bool{}
		for _, p := range found {
			mine, anyones := usage.Trace{TenantID: p.TenantID, ID: p.TraceID}, usage.Trace{ID: p.TraceID}
			if slices.Contains(missing, mine) || slices.Contains(missing, anyones) {
				all = append(all, p)
				got[mine], got[anyones] = true, true
			}
		}
		missing = slices.DeleteFunc(missing, func(t usage.Trace) bool { return got[t] })
		to = q.From
	}
	return all, nil
}
