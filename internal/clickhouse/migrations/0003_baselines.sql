-- What is usual: medians of 15-minute buckets, and from them one baseline per key and hour.

-- Which buckets new rows have reached and when, by the server's clock, so that the hourly job rebuilds
-- those alone, however late the rows came.
CREATE TABLE IF NOT EXISTS bucket_changes (
  bucket     DateTime('UTC'),
  changed_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY bucket
TTL bucket + INTERVAL 60 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_spans TO bucket_changes AS
SELECT toStartOfFifteenMinutes(s.timestamp) AS bucket, max(s.ingested_at) AS changed_at
FROM spans AS s
GROUP BY bucket;

CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_quality TO bucket_changes AS
SELECT toStartOfFifteenMinutes(q.timestamp) AS bucket, max(q.ingested_at) AS changed_at
FROM quality AS q
GROUP BY bucket;

-- One row per bucket and key, (tenant, *) included: production cohort; quartiles of untreated calls as
-- codes, sums over all arms. Half-hour of the day first: a baseline reads the same hour of 28 days.
CREATE TABLE IF NOT EXISTS baseline_buckets (
  half_hour         UInt8,
  bucket            DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id         LowCardinality(String),
  model             LowCardinality(String),
  cost_n            UInt32 CODEC(T64, ZSTD(1)),
  cost_q25          Int16 CODEC(ZSTD(1)),
  cost_q50          Int16 CODEC(ZSTD(1)),
  cost_q75          Int16 CODEC(ZSTD(1)),
  quality_n         UInt32 CODEC(T64, ZSTD(1)),
  quality_q25       Int16 CODEC(ZSTD(1)),
  quality_q50       Int16 CODEC(ZSTD(1)),
  quality_q75       Int16 CODEC(ZSTD(1)),
  requests          UInt64 CODEC(T64, ZSTD(1)),
  cost_pico_usd     Int128 CODEC(ZSTD(1)),
  input_tokens      Int64 CODEC(T64, ZSTD(1)),
  output_tokens     Int64 CODEC(T64, ZSTD(1)),
  cache_read_tokens Int64 CODEC(T64, ZSTD(1)),
  built_at          DateTime64(3, 'UTC') CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(built_at)
PARTITION BY toMonday(bucket)
PRIMARY KEY (half_hour, tenant_id, model)
ORDER BY (half_hour, tenant_id, model, bucket)
TTL bucket + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1;

-- When each bucket was last computed, by the server's clock.
CREATE TABLE IF NOT EXISTS bucket_builds (
  bucket   DateTime('UTC'),
  built_at SimpleAggregateFunction(max, DateTime64(3, 'UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY bucket
TTL bucket + INTERVAL 60 DAY;

CREATE TABLE IF NOT EXISTS baselines (
  slot                  DateTime('UTC'),
  tenant_id             LowCardinality(String),
  model                 LowCardinality(String),
  version               LowCardinality(String),
  computed_at           DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
  cost_buckets          UInt32,
  ln_cost               Float64,
  ln_cost_dev           Float64,
  ln_cost_sd            Float64,
  cost_bucket_n         Float64,
  quality_buckets       UInt32,
  quality               Float64,
  quality_dev           Float64,
  quality_sd            Float64,
  quality_bucket_n      Float64,
  spend_per_minute_pico Float64,
  spend_dev             Float64,
  requests_per_minute   Float64,
  completion_ratio      Float64,
  cache_hit_rate        Float64
)
ENGINE = ReplacingMergeTree(computed_at)
PARTITION BY toYYYYMMDD(slot)
ORDER BY (slot, tenant_id, model)
TTL slot + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1;
