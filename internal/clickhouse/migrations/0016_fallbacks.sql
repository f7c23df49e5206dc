-- The calls that the fallback rule fired on, as the gateways marked their spans: those that it only would have moved
-- (arm none), and those that it moved, with their holdback. A tag that is no number is 0, which no case has.
CREATE TABLE IF NOT EXISTS fallback_cases (
  timestamp         DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  stored_at         DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id         LowCardinality(String),
  trace_id          String CODEC(ZSTD(1)),
  span_id           String CODEC(ZSTD(1)),
  session_id        String CODEC(ZSTD(1)),
  requested_model   LowCardinality(String),
  model             LowCardinality(String),
  task              LowCardinality(String),
  arm               Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  cost_pico_usd     Int64 CODEC(T64, ZSTD(1)),
  rule              LowCardinality(String),
  instead           LowCardinality(String),
  estimate_pico_usd Int64 CODEC(T64, ZSTD(1)),
  instead_pico_usd  Int64 CODEC(T64, ZSTD(1)),
  ceiling_pico_usd  Int64 CODEC(T64, ZSTD(1)),
  quality           Float64 CODEC(ZSTD(1)),
  threshold         Float64 CODEC(ZSTD(1)),
  predictor         LowCardinality(String)
)
ENGINE = ReplacingMergeTree(stored_at)
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (tenant_id, timestamp, trace_id, span_id)
TTL toDateTime(timestamp) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS fallback_cases_from_spans TO fallback_cases AS
SELECT
  s.timestamp AS timestamp,
  s.tenant_id AS tenant_id,
  s.trace_id AS trace_id,
  s.span_id AS span_id,
  s.session_id AS session_id,
  s.requested_model AS requested_model,
  s.model AS model,
  s.task AS task,
  s.arm AS arm,
  s.cost_pico_usd AS cost_pico_usd,
  s.tags['fallback.rule'] AS rule,
  s.tags['fallback.instead'] AS instead,
  toInt64OrZero(s.tags['fallback.estimate_pico_usd']) AS estimate_pico_usd,
  toInt64OrZero(s.tags['fallback.instead_pico_usd']) AS instead_pico_usd,
  toInt64OrZero(s.tags['fallback.ceiling_pico_usd']) AS ceiling_pico_usd,
  toFloat64OrZero(s.tags['fallback.quality']) AS quality,
  toFloat64OrZero(s.tags['fallback.threshold']) AS threshold,
  s.tags['fallback.predictor'] AS predictor
FROM spans AS s
WHERE s.tags['fallback.rule'] != '';
