package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"github.com/flyball-dev/flyball/internal/usage"
)

// UnknownPrice is the price_version of a span that no price was found for.
const UnknownPrice = "unknown"

// table is a table with the columns that an insert writes. Naming the types spares each batch a
// DESCRIBE.
type table struct {
	name    string
	columns []column
}

type column struct{ name, kind string }

const (
	symbol  = "LowCardinality(String)"
	instant = "DateTime64(3, 'UTC')"
	cohorts = "Enum8('production' = 1, 'experiment' = 2)"
	arms    = "Enum8('none' = 0, 'treated' = 1, 'holdback' = 2)"
	labels  = "Map(LowCardinality(String), String)"
)

var spansTable = table{"spans", []column{
	{"trace_id", "String"},
	{"span_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"session_id", "String"},
	{"provider", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"prompt_template_version", symbol},
	{"task", symbol},
	{"cohort", cohorts},
	{"experiment_id", symbol},
	{"uncached_input_tokens", "Int64"},
	{"cache_read_tokens", "Int64"},
	{"cache_write_5m_tokens", "Int64"},
	{"cache_write_1h_tokens", "Int64"},
	{"output_tokens", "Int64"},
	{"reasoning_tokens", "Int64"},
	{"usage_complete", "Bool"},
	{"cost_pico_usd", "Int64"},
	{"cost_reported_pico_usd", "Nullable(Int64)"},
	{"price_version", symbol},
	{"latency_ms", "Int64"},
	{"ttft_ms", "Int64"},
	{"complexity", "Float64"},
	{"route", symbol},
	{"decision_id", "String"},
	{"arm", arms},
	{"tags", labels},
	{"attributes", labels},
}}

// InsertSpans stores a batch. The token names the batch: the same batch sent again under the same token
// is stored once, in the table and in every rollup, as long as fewer than 10,000 parts came between: a batch makes
// one for each day that it reaches.
// A batch must therefore be sent again unchanged, and under a token of its own.
func (s *Store) InsertSpans(ctx context.Context, spans []usage.Span, token string) error {
	err := s.insertOnce(ctx, spansTable, token, len(spans), func(i int) []any {
		p := &spans[i]
		var attributes map[string]string
		if p.ServiceTier != "" {
			attributes = map[string]string{"service_tier": p.ServiceTier}
		}
		return []any{
			p.TraceID, p.SpanID, p.Timestamp.UTC(), p.TenantID,
			p.SessionID, p.Provider, p.RequestedModel, p.Model,
			p.PromptTemplate, p.Task, string(p.Cohort()), p.ExperimentID,
			p.Tokens.UncachedInput, p.Tokens.CacheRead, p.Tokens.CacheWrite5m,
			p.Tokens.CacheWrite1h, p.Tokens.Output, p.Tokens.Reasoning,
			p.UsageComplete, int64(p.Cost), (*int64)(p.CostReported),
			priceVersion(p), p.LatencyMS, p.TTFTMS, p.Complexity,
			p.Route, p.DecisionID, arm(p.Arm), p.Tags, attributes,
		}
	})
	if err != nil {
		return fmt.Errorf("storing %d spans: %w", len(spans), err)
	}
	return nil
}

// priceVersion is the stored version of the book that priced the call.
func priceVersion(s *usage.Span) string {
	if !s.Priced {
		return UnknownPrice
	}
	return s.PriceVersion
}

var qualityTable = table{"quality", []column{
	{"id", "String"},
	{"trace_id", "String"},
	{"span_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"provider", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"prompt_template_version", symbol},
	{"cohort", cohorts},
	{"experiment_id", symbol},
	{"arm", arms},
	{"evaluator", symbol},
	{"evaluator_version", symbol},
	{"kind", symbol},
	{"score", "Float64"},
	{"confidence", "Float64"},
	{"counts", "Bool"},
	{"calibrated", "Float64"},
}}

// InsertQuality stores a batch of evaluations, exactly once like InsertSpans.
func (s *Store) InsertQuality(ctx context.Context, evaluations []usage.Quality, token string) error {
	err := s.insertOnce(ctx, qualityTable, token, len(evaluations), func(i int) []any {
		q := &evaluations[i]
		return []any{
			q.ID, q.TraceID, q.SpanID, q.Timestamp.UTC(),
			q.TenantID, q.Provider, q.Model, q.ServedModel, q.PromptTemplate,
			cohort(q.ExperimentID), q.ExperimentID, arm(q.Arm), q.Evaluator,
			q.EvaluatorVersion, q.Kind, q.Score, q.Confidence,
			q.Kind != "human" && !q.Aside, q.OnScale(),
		}
	})
	if err != nil {
		return fmt.Errorf("storing %d evaluations: %w", len(evaluations), err)
	}
	return nil
}

var outcomesTable = table{"outcomes", []column{
	{"id", "String"},
	{"trace_id", "String"},
	{"timestamp", instant},
	{"tenant_id", symbol},
	{"provider", symbol},
	{"requested_model", symbol},
	{"model", symbol},
	{"prompt_template_version", symbol},
	{"cohort", cohorts},
	{"experiment_id", symbol},
	{"arm", arms},
	{"kind", symbol},
	{"value", "Float64"},
}}

// InsertOutcomes stores a batch of outcomes, exactly once like InsertSpans.
func (s *Store) InsertOutcomes(ctx context.Context, outcomes []usage.Outcome, token string) error {
	err := s.insertOnce(ctx, outcomesTable, token, len(outcomes), func(i int) []any {
		o := &outcomes[i]
		return []any{
			o.ID, o.TraceID, o.Timestamp.UTC(), o.TenantID, o.Provider, o.Model, o.ServedModel, o.PromptTemplate,
			cohort(o.ExperimentID), o.ExperimentID, arm(o.Arm), o.Kind, o.Value,
		}
	})
	if err != nil {
		return fmt.Errorf("storing %d outcomes: %w", len(outcomes), err)
	}
	return nil
}

var deploymentsTable = table{"deployments", []column{
	{"id", "String"},
	{"timestamp", instant},
	{"service", symbol},
	{"tenant_id", symbol},
	{"model", symbol},
	{"prompt_template_version", symbol},
	{"previous", "Map(String, String)"},
	{"version", "String"},
	{"by", "String"},
}}

// InsertDeployments stores a batch of deployments. One with the id of an earlier one replaces it.
func (s *Store) InsertDeployments(ctx context.Context, deployments []usage.Deployment, token string) error {
	err := s.insertOnce(ctx, deploymentsTable, token, len(deployments), func(i int) []any {
		d := &deployments[i]
		return []any{d.ID, d.Timestamp.UTC(), d.Service, d.TenantID, d.Model, d.PromptTemplate, d.Previous, d.Version, d.By}
	})
	if err != nil {
		return fmt.Errorf("storing %d deployments: %w", len(deployments), err)
	}
	return nil
}

// cohort is the stored name of the cohort of what belongs to an experiment, or to none.
func cohort(experiment string) string {
	if experiment != "" {
		return string(usage.Experiment)
	}
	return string(usage.Production)
}

// arm is the stored name of an arm: the empty one means None.
func arm(a usage.Arm) string {
	if a == "" {
		return string(usage.None)
	}
	return string(a)
}

func (s *Store) insertOnce(ctx context.Context, t table, token string, n int, row func(i int) []any) error {
	if token == "" {
		return errors.New("the batch has no token, and without one a retry would count twice")
	}
	return s.insert(ctx, t, token, n, row)
}

// insertTimeout bounds one insert whose caller set no deadline.
const insertTimeout = 2 * time.Minute

// insert sends n rows in one block. With a token, tables and views that have seen it leave it out.
func (s *Store) insert(ctx context.Context, t table, token string, n int, row func(i int) []any) error {
	if n == 0 {
		return nil
	}
	settings := ch.Settings{
		"async_insert":                    0, // an acknowledged insert is stored, and its token remembered
		"max_partitions_per_insert_block": 0, // a replayed month is many partitions
	}
	if token != "" {
		settings["insert_deduplicate"] = 1
		settings["insert_deduplication_token"] = token
		settings["deduplicate_blocks_in_dependent_materialized_views"] = 1
	}
	names := make([]string, len(t.columns))
	types := make([]ch.ColumnNameAndType, len(t.columns))
	for i, c := range t.columns {
		names[i] = "`" + c.name + "`"
		types[i] = ch.ColumnNameAndType{Name: c.name, Type: c.kind}
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, insertTimeout)
		defer cancel()
	}
	ctx = ch.Context(ctx, ch.WithSettings(settings), ch.WithColumnNamesAndTypes(types))
	batch, err := s.conn.PrepareBatch(ctx, "INSERT INTO "+t.name+" ("+strings.Join(names, ", ")+")")
	if err != nil {
		return fmt.Errorf("preparing the insert into %s: %w", t.name, err)
	}
	defer batch.Close()
	for i := range n {
		if err := batch.Append(row(i)...); err != nil {
			return fmt.Errorf("row %d for %s: %w", i, t.name, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("inserting into %s: %w", t.name, err)
	}
	return nil
}
