SELECT
  at,
  toString(model),
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
  sum(velocity_ms),
  toInt64(sum(scored)),
  sum(code_sum),
  quantilesExactWeightedArray(0.5, 0.95, 0.99)(quality_codes, quality_counts),
  toInt64(sum(arraySum(quality_counts)))
FROM (
  SELECT
    toDateTime({origin:Int64} + intDiv(toUnixTimestamp(toDateTime(hour, 'UTC')) - {origin:Int64}, {step:Int64}) * {step:Int64}, 'UTC') AS at, model, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts
  FROM kpi_1h
  WHERE hour >= {from1:DateTime('UTC')} AND hour < {to1:DateTime('UTC')} AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-'))
  UNION ALL
  SELECT
    toDateTime({origin:Int64} + intDiv(toUnixTimestamp(toDateTime(minute, 'UTC')) - {origin:Int64}, {step:Int64}) * {step:Int64}, 'UTC') AS at, model, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts
  FROM kpi_1m
  WHERE minute >= {from0:DateTime('UTC')} AND minute < {to0:DateTime('UTC')} AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-'))
  UNION ALL
  SELECT
    toDateTime({origin:Int64} + intDiv(toUnixTimestamp(toDateTime(hour, 'UTC')) - {origin:Int64}, {step:Int64}) * {step:Int64}, 'UTC') AS at, model, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, scored, code_sum, quality_histogram.keys AS quality_codes, quality_histogram.values AS quality_counts
  FROM quality_1h
  WHERE hour >= {from1:DateTime('UTC')} AND hour < {to1:DateTime('UTC')} AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-')) AND kind IN {quality_kinds:Array(String)}
  UNION ALL
  SELECT
    toDateTime({origin:Int64} + intDiv(toUnixTimestamp(toDateTime(minute, 'UTC')) - {origin:Int64}, {step:Int64}) * {step:Int64}, 'UTC') AS at, model, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, scored, code_sum, quality_histogram.keys AS quality_codes, quality_histogram.values AS quality_counts
  FROM quality_1m
  WHERE minute >= {from0:DateTime('UTC')} AND minute < {to0:DateTime('UTC')} AND NOT (tenant_id = 'flyball-drill' OR startsWith(tenant_id, 'flyball-drill-')) AND kind IN {quality_kinds:Array(String)}
)
GROUP BY at, model
ORDER BY 1, 2
LIMIT 200001

-- from0 = 2026-01-15T00:30:00Z
-- to0 = 2026-01-15T01:00:00Z
-- from1 = 2026-01-15T01:00:00Z
-- to1 = 2026-01-17T00:00:00Z
-- origin = 1768435200
-- step = 21600
-- quality_kinds = [human]
