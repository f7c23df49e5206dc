WITH
left_out AS (
  SELECT tenant_id, arrayJoin(arraySlice([model, '*'], 1, if(position(model, {mark:String}) > 0, 1, 2))) AS model, toDateTime(arrayJoin(range(begins, ends, 900)), 'UTC') AS bucket
  FROM (
    SELECT tenant_id, model,
      toUInt32(greatest(toStartOfFifteenMinutes(opened_at - INTERVAL 15 MINUTE), {first:DateTime('UTC')})) AS begins,
      toUInt32(least(ifNull(toDateTime(ended_at), {at:DateTime('UTC')}), {at:DateTime('UTC')})) AS ends
    FROM incidents FINAL
    WHERE opened_at < {at:DateTime('UTC')} AND (ended_at IS NULL OR ended_at > {first:DateTime('UTC')})
  )
  UNION ALL
  SELECT tenant_id, model, toDateTime(arrayJoin(range(toUInt32({first:DateTime('UTC')}), toUInt32(toDateTime(accepted_at)), 900)), 'UTC')
  FROM accepted_levels FINAL
  WHERE accepted_at > {first:DateTime('UTC')}
),
usable AS (
  SELECT *, cost_n >= {min_cost:UInt32} AS for_cost, quality_n >= {min_quality:UInt32} AS for_quality,
    for_cost AND outcomes > 0 AND untreated > 0 AS for_outcomes, for_cost AND velocity_ms > 0 AS for_velocity
  FROM baseline_buckets FINAL
  WHERE bucket >= {first:DateTime('UTC')} AND bucket <= {last:DateTime('UTC')} AND (for_cost OR for_quality)
    AND (tenant_id, model, bucket) NOT IN (SELECT tenant_id, model, bucket FROM left_out)
)
SELECT
  tenant_id, model,
  toInt64(length(cw)),
  arrayReduce('quantileExactWeighted(0.5)', cost, cw) AS cost_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> toInt64(abs(x - cost_m)), cost), cw),
  arrayReduce('quantileExactWeighted(0.5)', cost_iqr, cw),
  arrayReduce('quantileExactWeighted(0.5)', costs, cw),
  toInt64(length(qw)),
  arrayReduce('quantileExactWeighted(0.5)', quality, qw) AS quality_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> toInt64(abs(x - quality_m)), quality), qw),
  arrayReduce('quantileExactWeighted(0.5)', quality_iqr, qw),
  arrayReduce('quantileExactWeighted(0.5)', scores, qw),
  arrayReduce('quantileExactWeighted(0.5)', spend, cw) AS spend_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(log(x / spend_m)), spend), cw),
  arrayReduce('quantileExactWeighted(0.5)', bursts, cw),
  arrayReduce('quantileExactWeighted(0.5)', calls, cw),
  arrayReduce('quantileExactWeighted(0.5)', completion, cw),
  arrayReduce('quantileExactWeighted(0.5)', cached, cw),
  toInt64(length(ow)),
  arrayReduce('quantileExactWeighted(0.5)', rates, ow) AS rate_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(x - rate_m), rates), ow),
  arrayReduce('quantileExactWeighted(0.5)', untreated_calls, ow),
  toInt64(length(vw)),
  arrayReduce('quantileExactWeighted(0.5)', velocities, vw) AS velocity_m,
  arrayReduce('quantileExactWeighted(0.5)', arrayMap(x -> abs(log(x / velocity_m)), velocities), vw)
FROM (
  SELECT
    tenant_id, model,
    groupArrayIf(toInt64(cost_q50), for_cost) AS cost, groupArrayIf(toInt64(if(cost_n < 4, 0, cost_q75 - cost_q25)), for_cost) AS cost_iqr,
    groupArrayIf(toInt64(cost_n), for_cost) AS costs, groupArrayIf(weight, for_cost) AS cw,
    groupArrayIf(toInt64(quality_q50), for_quality) AS quality, groupArrayIf(toInt64(if(quality_n < 4, 0, quality_q75 - quality_q25)), for_quality) AS quality_iqr,
    groupArrayIf(toInt64(quality_n), for_quality) AS scores, groupArrayIf(weight, for_quality) AS qw,
    groupArrayIf(toFloat64(cost_pico_usd) / 15, for_cost) AS spend, groupArrayIf(spend_burst, for_cost) AS bursts,
    groupArrayIf(toInt64(requests), for_cost) AS calls,
    groupArrayIf(if(input_tokens > 0, output_tokens / input_tokens, 0), for_cost) AS completion,
    groupArrayIf(if(input_tokens > 0, cache_read_tokens / input_tokens, 0), for_cost) AS cached,
    groupArrayIf(good / untreated, for_outcomes) AS rates, groupArrayIf(toInt64(untreated), for_outcomes) AS untreated_calls,
    groupArrayIf(weight, for_outcomes) AS ow,
    groupArrayIf(1000 * velocity_tokens / velocity_ms, for_velocity) AS velocities, groupArrayIf(weight, for_velocity) AS vw
  FROM (
    SELECT *, toUInt32(round(1e6 * exp2(-dateDiff('second', bucket, {at:DateTime('UTC')}) / 604800))) AS weight
    FROM usable
    WHERE half_hour IN ({half:UInt8}, {half:UInt8} + 1)
  )
  GROUP BY tenant_id, model
)

-- at = 2026-01-15T09:02:03Z
-- first = 2025-12-18T09:15:00Z
-- last = 2026-01-15T08:45:00Z
-- min_cost = 50
-- min_quality = 20
-- half = 18
-- mark = #experiment:
