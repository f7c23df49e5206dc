SELECT
  at,
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
  quantilesExactWeightedArray(0.5, 0.95, 0.99)(cost_codes, cost_counts),
  toInt64(sum(arraySum(cost_counts))),
  quantilesExactWeightedArray(0.5, 0.95, 0.99)(latency_codes, latency_counts),
  toInt64(sum(arraySum(latency_counts))),
  quantilesExactWeightedArray(0.5, 0.95, 0.99)(ttft_codes, ttft_counts),
  toInt64(sum(arraySum(ttft_counts))),
  toInt64(sum(scored)),
  sum(code_sum),
  quantilesExactWeightedArray(0.5, 0.95, 0.99)(quality_codes, quality_counts),
  toInt64(sum(arraySum(quality_counts))),
  toInt64(sum(outcomes)),
  toInt64(sum(good)),
  sum(value_micro)
FROM (
  SELECT
    toDateTime(0, 'UTC') AS at, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms, cost_histogram.keys AS cost_codes, cost_histogram.values AS cost_counts, latency_histogram.keys AS latency_codes, latency_histogram.values AS latency_counts, ttft_histogram.keys AS ttft_codes, ttft_histogram.values AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM kpi_1d
  WHERE day >= toDate({from2:DateTime('UTC')}) AND day < toDate({to2:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)}
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms, cost_histogram.keys AS cost_codes, cost_histogram.values AS cost_counts, latency_histogram.keys AS latency_codes, latency_histogram.values AS latency_counts, ttft_histogram.keys AS ttft_codes, ttft_histogram.values AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM kpi_1h
  WHERE (hour >= {from1:DateTime('UTC')} AND hour < {to1:DateTime('UTC')} OR hour >= {from3:DateTime('UTC')} AND hour < {to3:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)}
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, requests, unpriced, incomplete, reported, uncached_input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, cost_pico_usd, reported_pico_usd, complexity_milli, velocity_tokens, velocity_ms, cost_histogram.keys AS cost_codes, cost_histogram.values AS cost_counts, latency_histogram.keys AS latency_codes, latency_histogram.values AS latency_counts, ttft_histogram.keys AS ttft_codes, ttft_histogram.values AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM kpi_1m
  WHERE (minute >= {from0:DateTime('UTC')} AND minute < {to0:DateTime('UTC')} OR minute >= {from4:DateTime('UTC')} AND minute < {to4:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)}
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, scored, code_sum, quality_histogram.keys AS quality_codes, quality_histogram.values AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM quality_1d
  WHERE day >= toDate({from2:DateTime('UTC')}) AND day < toDate({to2:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind != 'human'
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, scored, code_sum, quality_histogram.keys AS quality_codes, quality_histogram.values AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM quality_1h
  WHERE (hour >= {from1:DateTime('UTC')} AND hour < {to1:DateTime('UTC')} OR hour >= {from3:DateTime('UTC')} AND hour < {to3:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind != 'human'
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, scored, code_sum, quality_histogram.keys AS quality_codes, quality_histogram.values AS quality_counts, toUInt64(0) AS outcomes, toUInt64(0) AS good, toInt64(0) AS value_micro
  FROM quality_1m
  WHERE (minute >= {from0:DateTime('UTC')} AND minute < {to0:DateTime('UTC')} OR minute >= {from4:DateTime('UTC')} AND minute < {to4:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind != 'human'
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, outcomes, good, value_micro
  FROM outcomes_1d
  WHERE day >= toDate({from2:DateTime('UTC')}) AND day < toDate({to2:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind IN {outcome_kinds:Array(String)}
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, outcomes, good, value_micro
  FROM outcomes_1h
  WHERE (hour >= {from1:DateTime('UTC')} AND hour < {to1:DateTime('UTC')} OR hour >= {from3:DateTime('UTC')} AND hour < {to3:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind IN {outcome_kinds:Array(String)}
  UNION ALL
  SELECT
    toDateTime(0, 'UTC') AS at, toUInt64(0) AS requests, toUInt64(0) AS unpriced, toUInt64(0) AS incomplete, toUInt64(0) AS reported, toInt64(0) AS uncached_input_tokens, toInt64(0) AS cache_read_tokens, toInt64(0) AS cache_write_5m_tokens, toInt64(0) AS cache_write_1h_tokens, toInt64(0) AS output_tokens, toInt64(0) AS reasoning_tokens, toInt128(0) AS cost_pico_usd, toInt128(0) AS reported_pico_usd, toInt64(0) AS complexity_milli, toInt64(0) AS velocity_tokens, toInt64(0) AS velocity_ms, CAST([], 'Array(Int16)') AS cost_codes, CAST([], 'Array(UInt64)') AS cost_counts, CAST([], 'Array(Int16)') AS latency_codes, CAST([], 'Array(UInt64)') AS latency_counts, CAST([], 'Array(Int16)') AS ttft_codes, CAST([], 'Array(UInt64)') AS ttft_counts, toUInt64(0) AS scored, toInt64(0) AS code_sum, CAST([], 'Array(Int16)') AS quality_codes, CAST([], 'Array(UInt64)') AS quality_counts, outcomes, good, value_micro
  FROM outcomes_1m
  WHERE (minute >= {from0:DateTime('UTC')} AND minute < {to0:DateTime('UTC')} OR minute >= {from4:DateTime('UTC')} AND minute < {to4:DateTime('UTC')}) AND tenant_id IN {where0:Array(String)} AND cohort IN {where4:Array(String)} AND kind IN {outcome_kinds:Array(String)}
)
GROUP BY at
ORDER BY 1
LIMIT 200001

-- from0 = 2026-01-15T22:58:00Z
-- to0 = 2026-01-15T23:00:00Z
-- from1 = 2026-01-15T23:00:00Z
-- to1 = 2026-01-16T00:00:00Z
-- from2 = 2026-01-16T00:00:00Z
-- to2 = 2026-01-18T00:00:00Z
-- from3 = 2026-01-18T00:00:00Z
-- to3 = 2026-01-18T01:00:00Z
-- from4 = 2026-01-18T01:00:00Z
-- to4 = 2026-01-18T01:01:00Z
-- where0 = [org_1]
-- where4 = [production]
-- outcome_kinds = [conversion]
