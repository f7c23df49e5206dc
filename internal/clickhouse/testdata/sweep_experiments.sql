SELECT
  tenant_id, name, calls, input, output, cached, calls_5, input_5, output_5, cached_5, untreated_calls, outcomes_all, outcomes_good, spend_last,
  streams, streams_tokens, streams_ms, streams_5, streams_tokens_5, streams_ms_5,
  toInt64(length(cost_1)), bitShiftRight(cost_1[intDiv(length(cost_1) + 1, 2)], 2),
  toInt64(length(quality_1)), bitShiftRight(quality_1[intDiv(length(quality_1) + 1, 2)], 2),
  toInt64(length(cost_2)), bitShiftRight(cost_2[intDiv(length(cost_2) + 1, 2)], 2),
  toInt64(length(quality_2)), bitShiftRight(quality_2[intDiv(length(quality_2) + 1, 2)], 2),
  toInt64(length(cost_5)), bitShiftRight(cost_5[intDiv(length(cost_5) + 1, 2)], 2),
  toInt64(length(quality_5)), bitShiftRight(quality_5[intDiv(length(quality_5) + 1, 2)], 2),
  toInt64(length(cost_15)), bitShiftRight(cost_15[intDiv(length(cost_15) + 1, 2)], 2),
  toInt64(length(quality_15)), bitShiftRight(quality_15[intDiv(length(quality_15) + 1, 2)], 2)
FROM (
  SELECT *,
    arrayFilter(c -> bitAnd(c, 3) <= 0, cost) AS cost_1,
    arrayFilter(c -> bitAnd(c, 3) <= 0, quality) AS quality_1,
    arrayFilter(c -> bitAnd(c, 3) <= 1, cost) AS cost_2,
    arrayFilter(c -> bitAnd(c, 3) <= 1, quality) AS quality_2,
    arrayFilter(c -> bitAnd(c, 3) <= 2, cost) AS cost_5,
    arrayFilter(c -> bitAnd(c, 3) <= 2, quality) AS quality_5,
    cost AS cost_15,
    quality AS quality_15
  FROM (
    SELECT
      tenant_id, concat(model, {mark:String}, experiment_id) AS name,
      toInt64(sum(requests)) AS calls, sum(input_tokens) AS input, sum(output_tokens) AS output, sum(cache_read_tokens) AS cached,
      greatest(toFloat64(sumIf(cost_pico_usd, minute = {last:DateTime('UTC')})), toFloat64(sumIf(cost_pico_usd, minute = {current:DateTime('UTC')})) * {scale:Float64}) AS spend_last,
      toInt64(sumIf(requests, minute >= {w5:DateTime('UTC')})) AS calls_5, sumIf(input_tokens, minute >= {w5:DateTime('UTC')}) AS input_5,
      sumIf(output_tokens, minute >= {w5:DateTime('UTC')}) AS output_5, sumIf(cache_read_tokens, minute >= {w5:DateTime('UTC')}) AS cached_5,
      toInt64(sumIf(requests, untreated)) AS untreated_calls, toInt64(sumIf(outcomes, untreated)) AS outcomes_all, toInt64(sumIf(good, untreated)) AS outcomes_good,
      toInt64(sumIf(streamed, untreated)) AS streams, sumIf(velocity_tokens, untreated) AS streams_tokens, sumIf(velocity_ms, untreated) AS streams_ms,
      toInt64(sumIf(streamed, untreated AND minute >= {w5:DateTime('UTC')})) AS streams_5,
      sumIf(velocity_tokens, untreated AND minute >= {w5:DateTime('UTC')}) AS streams_tokens_5, sumIf(velocity_ms, untreated AND minute >= {w5:DateTime('UTC')}) AS streams_ms_5,
      arraySort(groupArrayArrayIf(arrayMap(c -> toInt16(c * 4 + shortest), cost_codes), untreated)) AS cost,
      arraySort(groupArrayArrayIf(arrayMap(c -> toInt16(c * 4 + shortest), quality_codes), untreated)) AS quality
    FROM (
      SELECT
        minute, tenant_id, model, experiment_id, requests, input_tokens, output_tokens, cache_read_tokens, cost_pico_usd, outcomes, good,
        streamed, velocity_tokens, velocity_ms, cost_codes, quality_codes, arm != 'treated' AS untreated, multiIf(minute >= {w1:DateTime('UTC')}, 0, minute >= {w2:DateTime('UTC')}, 1, minute >= {w5:DateTime('UTC')}, 2, 3) AS shortest
      FROM sweep_1m
      WHERE minute >= {w15:DateTime('UTC')} AND minute <= {current:DateTime('UTC')} AND cohort = 'experiment'
    )
    GROUP BY tenant_id, model, experiment_id
    ORDER BY calls DESC, tenant_id, name LIMIT 1000
  )
)

-- current = 2026-01-15T09:23:00Z
-- last = 2026-01-15T09:22:00Z
-- scale = 1.2765957446808511
-- w1 = 2026-01-15T09:23:00Z
-- w2 = 2026-01-15T09:22:00Z
-- w5 = 2026-01-15T09:19:00Z
-- w15 = 2026-01-15T09:09:00Z
-- mark = #experiment:
