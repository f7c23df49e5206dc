SELECT tick, minute, tenant, model, experiment, toString(arm), calls, cost, input, output, cached, streams, stream_tokens, stream_ms, outcomes, good, costs, scores
FROM (
  SELECT
    greatest(intDiv(toUnixTimestamp64Milli(r.ingested_at) - {first:Int64} + {every:Int64} - 1, {every:Int64}), 0) AS tick,
    toInt64(intDiv(toUnixTimestamp(r.timestamp), 60)) AS minute, r.tenant_id AS tenant, r.requested_model AS model,
    r.experiment_id AS experiment, r.arm AS arm, toInt64(count()) AS calls, accurateCast(sum(toInt128(r.cost_pico_usd)), 'Int64') AS cost,
    sum(r.uncached_input_tokens + r.cache_read_tokens + r.cache_write_5m_tokens + r.cache_write_1h_tokens) AS input,
    sum(r.output_tokens) AS output, sum(r.cache_read_tokens) AS cached,
    toInt64(countIf(r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms)) AS streams, sumIf(r.output_tokens, r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms) AS stream_tokens, sumIf(r.latency_ms - r.ttft_ms, r.ttft_ms > 0 AND r.latency_ms > r.ttft_ms) AS stream_ms,
    toInt64(0) AS outcomes, toInt64(0) AS good,
    groupArrayIf(4096)(toInt16(floor(log2(greatest(r.cost_pico_usd, 1)) * 100 + 0.5)), r.cost_pico_usd > 0 AND r.arm != 'treated') AS costs, CAST([], 'Array(Int16)') AS scores
  FROM spans AS r
  WHERE r.timestamp >= {oldest:DateTime64(3, 'UTC')} AND r.timestamp < {newest:DateTime64(3, 'UTC')}
    AND r.ingested_at > {after:DateTime64(3, 'UTC')} AND r.ingested_at <= {until:DateTime64(3, 'UTC')}
    AND r.timestamp >= r.ingested_at - INTERVAL 960 SECOND AND r.tenant_id = {tenant:String} AND r.requested_model = {model:String}
  GROUP BY tick, minute, tenant, model, experiment, arm
  UNION ALL
  SELECT
    greatest(intDiv(toUnixTimestamp64Milli(r.ingested_at) - {first:Int64} + {every:Int64} - 1, {every:Int64}), 0) AS tick,
    toInt64(intDiv(toUnixTimestamp(r.timestamp), 60)) AS minute, r.tenant_id AS tenant, r.requested_model AS model,
    r.experiment_id AS experiment, r.arm AS arm, toInt64(0) AS calls, toInt64(0) AS cost, toInt64(0) AS input, toInt64(0) AS output, toInt64(0) AS cached,
    toInt64(0) AS streams, toInt64(0) AS stream_tokens, toInt64(0) AS stream_ms, toInt64(0) AS outcomes, toInt64(0) AS good,
    CAST([], 'Array(Int16)') AS costs, groupArrayIf(4096)(toInt16(floor(r.calibrated * 200 + 0.5)), r.arm != 'treated') AS scores
  FROM quality AS r
  WHERE r.timestamp >= {oldest:DateTime64(3, 'UTC')} AND r.timestamp < {newest:DateTime64(3, 'UTC')}
    AND r.ingested_at > {after:DateTime64(3, 'UTC')} AND r.ingested_at <= {until:DateTime64(3, 'UTC')}
    AND r.timestamp >= r.ingested_at - INTERVAL 960 SECOND AND r.kind != 'human' AND r.counts AND r.tenant_id = {tenant:String} AND r.requested_model = {model:String}
  GROUP BY tick, minute, tenant, model, experiment, arm
  UNION ALL
  SELECT
    greatest(intDiv(toUnixTimestamp64Milli(r.ingested_at) - {first:Int64} + {every:Int64} - 1, {every:Int64}), 0) AS tick,
    toInt64(intDiv(toUnixTimestamp(r.timestamp), 60)) AS minute, r.tenant_id AS tenant, r.requested_model AS model,
    r.experiment_id AS experiment, r.arm AS arm, toInt64(0) AS calls, toInt64(0) AS cost, toInt64(0) AS input, toInt64(0) AS output, toInt64(0) AS cached,
    toInt64(0) AS streams, toInt64(0) AS stream_tokens, toInt64(0) AS stream_ms, toInt64(count()) AS outcomes, toInt64(countIf(r.value > 0)) AS good,
    CAST([], 'Array(Int16)') AS costs, CAST([], 'Array(Int16)') AS scores
  FROM outcomes AS r
  WHERE r.timestamp >= {oldest:DateTime64(3, 'UTC')} AND r.timestamp < {newest:DateTime64(3, 'UTC')}
    AND r.ingested_at > {after:DateTime64(3, 'UTC')} AND r.ingested_at <= {until:DateTime64(3, 'UTC')}
    AND r.timestamp >= r.ingested_at - INTERVAL 960 SECOND AND r.tenant_id = {tenant:String} AND r.requested_model = {model:String}
  GROUP BY tick, minute, tenant, model, experiment, arm
)
ORDER BY tick

-- first = 1768467600000
-- every = 15000
-- after = 2026-01-15T09:00:00Z
-- until = 2026-01-15T10:00:00Z
-- oldest = 2026-01-15T08:44:00Z
-- newest = 2026-01-15T11:01:00Z
-- tenant = org_1
-- model = m
