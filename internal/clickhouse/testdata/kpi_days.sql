SELECT
  at,
  toString(tenant_id),
  toString(provider),
  toInt64(sum(requests)),
  toInt64(sum(unpriced)),
  toInt64(sum(incomplete)),
  toInt64(sum(reported)),
  sum(uncached_input_tokens),
  sum(cache_read_tokens),
  sum(cache_write_5m_tokens),
  sum(cache_write_1h_tokens),
  sum(output_tokens),
  sum(reasoning_tokens),
  sum(cost_pico_usd),
  sum(reported_pico_usd),
  sum(complexity_milli),
  sum(velocity_tokens),
  sum(velocity_ms)
FROM (
  SELECT
    toDateTime(0, 'UTC') AS at, tenant_id, provider, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms
  FROM kpi_1d
  WHERE day >= toDate({from0:DateTime('UTC')}) AND day < toDate({to0:DateTime('UTC')}) AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-'))
)
GROUP BY at, tenant_id, provider
ORDER BY 1, 2, 3
LIMIT 200001

-- from0 = 2025-01-15T00:00:00Z
-- to0 = 2026-01-15T00:00:00Z
