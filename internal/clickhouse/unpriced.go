package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// UnpricedQuery asks for the models whose calls in [From, To) were stored without a price. It reads spans and not
// kpi_1m, whose count of unpriced calls lacks the provider and the calls' own tokens; of spans it reads one column
// of small codes, and the others only where that says unknown. Flyball's own canary and
// drills are left out.
type UnpricedQuery struct {
	From, To time.Time
}

// SQL is the query's text and its named parameters.
func (q UnpricedQuery) SQL() (string, []any) {
	sql := `SELECT
  provider, model, toInt64(uniqExact(tenant_id)), toInt64(count()) AS calls,
  sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens), sum(output_tokens),
  min(timestamp), max(timestamp)
FROM spans
PREWHERE price_version = {version:String}
WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')} AND provider != 'flyball' AND ` + notDrills + `
GROUP BY provider, model
ORDER BY calls DESC, provider, model`
	return sql, []any{
		ch.Named("version", UnknownPrice),
		ch.Named("from", millis(q.From)), ch.Named("to", millis(q.To)),
	}
}

// Unpriced is a model that was called without a price.
type Unpriced struct {
	Provider     string    `json:"provider"`
	Model        string    `json:"model"`
	Tenants      int64     `json:"tenants"`
	Calls        int64     `json:"calls"`
	InputTokens  int64     `json:"input_tokens"`
	OutputTokens int64     `json:"output_tokens"`
	First        time.Time `json:"first"`
	Last         time.Time `json:"last"`
}

// Unpriced returns the models that were called without a price, those with most calls first.
func (s *Store) Unpriced(ctx context.Context, q UnpricedQuery) ([]Unpriced, error) {
	sql, args := q.SQL()
	models, err := collect(ctx, s, sql, args, func(rows driver.Rows, u *Unpriced) error {
		err := rows.Scan(&u.Provider, &u.Model, &u.Tenants, &u.Calls, &u.InputTokens, &u.OutputTokens, &u.First, &u.Last)
		u.First, u.Last = u.First.UTC(), u.Last.UTC()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("looking for models without a price: %w", err)
	}
	return models, nil
}
