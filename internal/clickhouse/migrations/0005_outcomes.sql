-- What calls led to in the business. Value is above 0 where that is good. Sums are of millionths, as integers,
-- so that no order of merging changes them.

CREATE TABLE IF NOT EXISTS outcomes (
  id                      String CODEC(ZSTD(1)),
  trace_id                String CODEC(ZSTD(1)),
  timestamp               DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  ingested_at             DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  provider                LowCardinality(String),
  requested_model         LowCardinality(String),
  model                   LowCardinality(String),
  prompt_template_version LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  experiment_id           LowCardinality(String),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  kind                    LowCardinality(String),
  value                   Float64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (tenant_id, requested_model, timestamp)
TTL toDateTime(timestamp) + INTERVAL 2 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS outcomes_1m (
  minute                  DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  provider                LowCardinality(String),
  requested_model         LowCardinality(String),
  model                   LowCardinality(String),
  prompt_template_version LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  kind                    LowCardinality(String),
  outcomes                SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  good                    SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  value_micro             SimpleAggregateFunction(sum, Int64) CODEC(T64, ZSTD(1))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMMDD(minute)
PRIMARY KEY (toStartOfHour(minute), tenant_id, requested_model)
ORDER BY (toStartOfHour(minute), tenant_id, requested_model, minute, provider, model, prompt_template_version, cohort, arm, kind)
TTL minute + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS outcomes_1m_from_outcomes TO outcomes_1m AS
SELECT
  toStartOfMinute(o.timestamp) AS minute,
  o.tenant_id AS tenant_id,
  o.provider AS provider,
  o.requested_model AS requested_model,
  o.model AS model,
  o.prompt_template_version AS prompt_template_version,
  o.cohort AS cohort,
  o.arm AS arm,
  o.kind AS kind,
  count() AS outcomes,
  countIf(o.value > 0) AS good,
  sum(toInt64(floor(o.value * 1000000 + 0.5))) AS value_micro
FROM outcomes AS o
GROUP BY minute, tenant_id, provider, requested_model, model, prompt_template_version, cohort, arm, kind;
