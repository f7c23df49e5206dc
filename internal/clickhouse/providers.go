package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Providers returns which provider served most of each key's calls in [from, to): that of its requested
// model, since calls that a flag treated, and may have sent elsewhere, are left out.
func (s *Store) Providers(ctx context.Context, from, to time.Time) (map[usage.Key]string, error) {
	providers := map[usage.Key]string{}
	_, err := collect(ctx, s, `SELECT tenant_id, requested_model, argMax(provider, (n, provider))
FROM (
  SELECT tenant_id, requested_model, toString(provider) AS provider, count() AS n FROM spans
  WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')} AND arm != 'treated' AND provider != ''
  GROUP BY tenant_id, requested_model, provider
)
GROUP BY tenant_id, requested_model`, []any{ch.Named("from", millis(from)), ch.Named("to", millis(to))},
		func(rows driver.Rows, _ *struct{}) error {
			var k usage.Key
			var provider string
			if err := rows.Scan(&k.Tenant, &k.Model, &provider); err != nil {
				return err
			}
			providers[k] = provider
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("reading the keys' providers: %w", err)
	}
	return providers, nil
}
