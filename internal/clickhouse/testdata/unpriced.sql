SELECT
  provider, model, toInt64(uniqExact(tenant_id)), toInt64(count()) AS calls,
  sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens), sum(output_tokens),
  min(timestamp), max(timestamp)
FROM spans
PREWHERE price_version = {version:String}
WHERE timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')} AND provider != 'flyball' AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-'))
GROUP BY provider, model
ORDER BY calls DESC, provider, model

-- version = unknown
-- from = 2026-01-15T08:23:47Z
-- to = 2026-01-15T09:23:47Z
