-- What the remaining rules of detection need: the speed of streams, and which experiment a call was of.
--
-- Streams are calls that told their first token; the sums are of what came after it.
ALTER TABLE sweep_1m
  ADD COLUMN IF NOT EXISTS experiment_id LowCardinality(String) AFTER arm,
  ADD COLUMN IF NOT EXISTS streamed SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)) AFTER cache_read_tokens,
  ADD COLUMN IF NOT EXISTS velocity_tokens SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)) AFTER streamed,
  ADD COLUMN IF NOT EXISTS velocity_ms SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)) AFTER velocity_tokens,
  MODIFY ORDER BY (minute, key, cohort, arm, tenant_id, model, experiment_id);

-- Of untreated calls, since another model streams at another speed.
ALTER TABLE baseline_buckets
  ADD COLUMN IF NOT EXISTS velocity_tokens Int64 CODEC(T64, ZSTD(1)) AFTER good,
  ADD COLUMN IF NOT EXISTS velocity_ms     Int64 CODEC(T64, ZSTD(1)) AFTER velocity_tokens,
  ADD COLUMN IF NOT EXISTS spend_burst     Float64 CODEC(ZSTD(1)) AFTER velocity_ms;

ALTER TABLE baselines
  ADD COLUMN IF NOT EXISTS velocity_buckets UInt32,
  ADD COLUMN IF NOT EXISTS velocity         Float64,
  ADD COLUMN IF NOT EXISTS velocity_dev     Float64,
  ADD COLUMN IF NOT EXISTS least_calls      Float64,
  ADD COLUMN IF NOT EXISTS spend_burst      Float64;

-- Dropped and created anew, for the reason that 0006 gives.
DROP VIEW IF EXISTS sweep_1m_from_spans;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_spans TO sweep_1m AS
SELECT
  toStartOfMinute(s.timestamp) AS minute,
  cityHash64(s.tenant_id, s.requested_model) AS key,
  s.tenant_id AS tenant_id,
  s.requested_model AS model,
  s.cohort AS cohort,
  s.arm AS arm,
  s.experiment_id AS experiment_id,
  count() AS requests,
  sum(toInt128(s.cost_pico_usd)) AS cost_pico_usd,
  sum(s.uncached_input_tokens + s.cache_read_tokens + s.cache_write_5m_tokens + s.cache_write_1h_tokens) AS input_tokens,
  sum(s.output_tokens) AS output_tokens,
  sum(s.cache_read_tokens) AS cache_read_tokens,
  countIf(s.ttft_ms > 0 AND s.latency_ms > s.ttft_ms) AS streamed,
  sumIf(s.output_tokens, s.ttft_ms > 0 AND s.latency_ms > s.ttft_ms) AS velocity_tokens,
  sumIf(s.latency_ms - s.ttft_ms, s.ttft_ms > 0 AND s.latency_ms > s.ttft_ms) AS velocity_ms,
  groupArrayIf(4096)(toInt16(floor(log2(greatest(s.cost_pico_usd, 1)) * 100 + 0.5)), s.cost_pico_usd > 0) AS cost_codes
FROM spans AS s
WHERE s.timestamp >= now() - INTERVAL 1 DAY
GROUP BY minute, key, tenant_id, model, cohort, arm, experiment_id;

DROP VIEW IF EXISTS sweep_1m_from_quality;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality TO sweep_1m AS
SELECT
  toStartOfMinute(q.timestamp) AS minute,
  cityHash64(q.tenant_id, q.requested_model) AS key,
  q.tenant_id AS tenant_id,
  q.requested_model AS model,
  q.cohort AS cohort,
  q.arm AS arm,
  q.experiment_id AS experiment_id,
  groupArray(4096)(toInt16(floor(q.score * 200 + 0.5))) AS quality_codes
FROM quality AS q
WHERE q.timestamp >= now() - INTERVAL 1 DAY AND q.kind != 'human'
GROUP BY minute, key, tenant_id, model, cohort, arm, experiment_id;

DROP VIEW IF EXISTS sweep_1m_from_outcomes;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_outcomes TO sweep_1m AS
SELECT
  toStartOfMinute(o.timestamp) AS minute,
  cityHash64(o.tenant_id, o.requested_model) AS key,
  o.tenant_id AS tenant_id,
  o.requested_model AS model,
  o.cohort AS cohort,
  o.arm AS arm,
  o.experiment_id AS experiment_id,
  count() AS outcomes,
  countIf(o.value > 0) AS good
FROM outcomes AS o
WHERE o.timestamp >= now() - INTERVAL 1 DAY
GROUP BY minute, key, tenant_id, model, cohort, arm, experiment_id;
