-- Rollups by the minute, filled by materialized views.
--
-- Percentiles are kept as log-bucket codes, the first 4,096 of a row, which merge in any order and are
-- exact integers in SQL and in Go: hundredths of log2 for costs (pico-dollars) and latencies (ms), two
-- hundredths for scores. floor(x + 0.5) rounds halves up as Go does; round() would round them to even.

-- For dashboards: hour first, so that a recent range reads its hours only, then by tenant and model.
CREATE TABLE IF NOT EXISTS kpi_1m (
  minute                  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  requested_model         LowCardinality(String),
  model                   LowCardinality(String),
  prompt_template_version LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  requests                SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  unpriced                SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  uncached_input_tokens   SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cache_read_tokens       SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cache_write_5m_tokens   SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cache_write_1h_tokens   SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  output_tokens           SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  reasoning_tokens        SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cost_pico_usd           SimpleAggregateFunction(sum, Int128) CODEC(ZSTD(1)),
  cost_codes              SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1)),
  latency_codes           SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1)),
  ttft_codes              SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(minute)
PRIMARY KEY (toStartOfHour(minute), tenant_id, requested_model)
ORDER BY (toStartOfHour(minute), tenant_id, requested_model, minute, model, prompt_template_version, cohort, arm)
TTL minute + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS kpi_1m_from_spans TO kpi_1m AS
SELECT
  toStartOfMinute(s.timestamp) AS minute,
  s.tenant_id AS tenant_id,
  s.requested_model AS requested_model,
  s.model AS model,
  s.prompt_template_version AS prompt_template_version,
  s.cohort AS cohort,
  s.arm AS arm,
  count() AS requests,
  countIf(s.price_version = 'unknown') AS unpriced,
  sum(s.uncached_input_tokens) AS uncached_input_tokens,
  sum(s.cache_read_tokens) AS cache_read_tokens,
  sum(s.cache_write_5m_tokens) AS cache_write_5m_tokens,
  sum(s.cache_write_1h_tokens) AS cache_write_1h_tokens,
  sum(s.output_tokens) AS output_tokens,
  sum(s.reasoning_tokens) AS reasoning_tokens,
  sum(toInt128(s.cost_pico_usd)) AS cost_pico_usd,
  groupArrayIf(4096)(toInt16(floor(log2(greatest(s.cost_pico_usd, 1)) * 100 + 0.5)), s.cost_pico_usd > 0) AS cost_codes,
  groupArrayIf(4096)(toInt16(floor(log2(greatest(s.latency_ms, 1)) * 100 + 0.5)), s.latency_ms > 0) AS latency_codes,
  groupArrayIf(4096)(toInt16(floor(log2(greatest(s.ttft_ms, 1)) * 100 + 0.5)), s.ttft_ms > 0) AS ttft_codes
FROM spans AS s
GROUP BY minute, tenant_id, requested_model, model, prompt_template_version, cohort, arm;

CREATE TABLE IF NOT EXISTS quality_1m (
  minute                  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  requested_model         LowCardinality(String),
  prompt_template_version LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  evaluator               LowCardinality(String),
  evaluator_version       LowCardinality(String),
  kind                    LowCardinality(String),
  scored                  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  -- The sum of the scores' codes, not of the floats, so that no order of merging changes it.
  code_sum                SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  quality_codes           SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(minute)
PRIMARY KEY (toStartOfHour(minute), tenant_id, requested_model)
ORDER BY (toStartOfHour(minute), tenant_id, requested_model, minute, prompt_template_version, cohort, arm, evaluator, evaluator_version, kind)
TTL minute + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1m_from_quality TO quality_1m AS
SELECT
  toStartOfMinute(q.timestamp) AS minute,
  q.tenant_id AS tenant_id,
  q.requested_model AS requested_model,
  q.prompt_template_version AS prompt_template_version,
  q.cohort AS cohort,
  q.arm AS arm,
  q.evaluator AS evaluator,
  q.evaluator_version AS evaluator_version,
  q.kind AS kind,
  count() AS scored,
  sum(toInt64(floor(q.score * 200 + 0.5))) AS code_sum,
  groupArray(4096)(toInt16(floor(q.score * 200 + 0.5))) AS quality_codes
FROM quality AS q
GROUP BY minute, tenant_id, requested_model, prompt_template_version, cohort, arm, evaluator, evaluator_version, kind;

-- For detection alone: small, minute first, kept for a day. Its views take only what is recent enough to
-- be looked at, so that a replayed year does not pass through it. Human ratings calibrate evaluators;
-- they are no signal of their own.
CREATE TABLE IF NOT EXISTS sweep_1m (
  minute            DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
  key               UInt64 CODEC(ZSTD(1)),
  tenant_id         LowCardinality(String),
  model             LowCardinality(String),
  cohort            Enum8('production' = 1, 'experiment' = 2),
  arm               Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  requests          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  cost_pico_usd     SimpleAggregateFunction(sum, Int128) CODEC(ZSTD(1)),
  input_tokens      SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  output_tokens     SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cache_read_tokens SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1)),
  cost_codes        SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1)),
  quality_codes     SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)) CODEC(ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toStartOfInterval(minute, INTERVAL 6 HOUR)
PRIMARY KEY (minute, key)
ORDER BY (minute, key, cohort, arm, tenant_id, model)
TTL minute + INTERVAL 1 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_spans TO sweep_1m AS
SELECT
  toStartOfMinute(s.timestamp) AS minute,
  cityHash64(s.tenant_id, s.requested_model) AS key,
  s.tenant_id AS tenant_id,
  s.requested_model AS model,
  s.cohort AS cohort,
  s.arm AS arm,
  count() AS requests,
  sum(toInt128(s.cost_pico_usd)) AS cost_pico_usd,
  sum(s.uncached_input_tokens + s.cache_read_tokens + s.cache_write_5m_tokens + s.cache_write_1h_tokens) AS input_tokens,
  sum(s.output_tokens) AS output_tokens,
  sum(s.cache_read_tokens) AS cache_read_tokens,
  groupArrayIf(4096)(toInt16(floor(log2(greatest(s.cost_pico_usd, 1)) * 100 + 0.5)), s.cost_pico_usd > 0) AS cost_codes
FROM spans AS s
WHERE s.timestamp >= now() - INTERVAL 1 DAY
GROUP BY minute, key, tenant_id, model, cohort, arm;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality TO sweep_1m AS
SELECT
  toStartOfMinute(q.timestamp) AS minute,
  cityHash64(q.tenant_id, q.requested_model) AS key,
  q.tenant_id AS tenant_id,
  q.requested_model AS model,
  q.cohort AS cohort,
  q.arm AS arm,
  groupArray(4096)(toInt16(floor(q.score * 200 + 0.5))) AS quality_codes
FROM quality AS q
WHERE q.timestamp >= now() - INTERVAL 1 DAY AND q.kind != 'human'
GROUP BY minute, key, tenant_id, model, cohort, arm;
