-- What happened, one row each: calls, their evaluations, and the changes that were shipped.
--
-- Every table that a batch reaches, views' targets included, remembers the tokens of its last 10,000
-- inserts (non_replicated_deduplication_window), so that a batch sent twice is stored once everywhere.

CREATE TABLE IF NOT EXISTS spans (
  trace_id                String CODEC(ZSTD(1)),
  span_id                 String CODEC(ZSTD(1)),
  timestamp               DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  ingested_at             DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  session_id              String CODEC(ZSTD(1)),
  provider                LowCardinality(String),
  requested_model         LowCardinality(String),
  model                   LowCardinality(String),
  prompt_template_version LowCardinality(String),
  task                    LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  experiment_id           LowCardinality(String),
  uncached_input_tokens   Int64 CODEC(T64, ZSTD(1)),
  cache_read_tokens       Int64 CODEC(T64, ZSTD(1)),
  cache_write_5m_tokens   Int64 CODEC(T64, ZSTD(1)),
  cache_write_1h_tokens   Int64 CODEC(T64, ZSTD(1)),
  output_tokens           Int64 CODEC(T64, ZSTD(1)),
  reasoning_tokens        Int64 CODEC(T64, ZSTD(1)),
  usage_complete          Bool,
  cost_pico_usd           Int64 CODEC(T64, ZSTD(1)),
  cost_reported_pico_usd  Nullable(Int64) CODEC(T64, ZSTD(1)),
  -- 'unknown' when no price was found: the cost is then 0 and means nothing.
  price_version           LowCardinality(String),
  latency_ms              Int64 CODEC(T64, ZSTD(1)),
  ttft_ms                 Int64 CODEC(T64, ZSTD(1)),
  complexity              Float64 CODEC(ZSTD(1)),
  route                   LowCardinality(String),
  decision_id             String CODEC(ZSTD(1)),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  tags                    Map(LowCardinality(String), String) CODEC(ZSTD(1)),
  attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (tenant_id, requested_model, timestamp)
TTL toDateTime(timestamp) + INTERVAL 2 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS quality (
  id                      String CODEC(ZSTD(1)),
  trace_id                String CODEC(ZSTD(1)),
  span_id                 String CODEC(ZSTD(1)),
  timestamp               DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  ingested_at             DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  requested_model         LowCardinality(String),
  prompt_template_version LowCardinality(String),
  cohort                  Enum8('production' = 1, 'experiment' = 2),
  experiment_id           LowCardinality(String),
  arm                     Enum8('none' = 0, 'treated' = 1, 'holdback' = 2),
  evaluator               LowCardinality(String),
  evaluator_version       LowCardinality(String),
  kind                    LowCardinality(String),
  score                   Float64 CODEC(ZSTD(1)),
  confidence              Float64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(timestamp)
ORDER BY (tenant_id, requested_model, timestamp)
TTL toDateTime(timestamp) + INTERVAL 2 YEAR
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- A deployment is an upsert by its id: the last one inserted stands. An empty tenant or model means all.
CREATE TABLE IF NOT EXISTS deployments (
  id                      String,
  timestamp               DateTime64(3, 'UTC'),
  ingested_at             DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC'),
  service                 LowCardinality(String),
  tenant_id               LowCardinality(String),
  model                   LowCardinality(String),
  prompt_template_version LowCardinality(String),
  previous                Map(String, String),
  version                 String,
  `by`                    String
)
ENGINE = ReplacingMergeTree(ingested_at)
ORDER BY (tenant_id, id)
SETTINGS non_replicated_deduplication_window = 10000;

-- How far each spool has come: everything it had accepted before `at` is in the tables.
CREATE TABLE IF NOT EXISTS ingest_watermarks (
  spool String,
  `at`  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(`at`)
ORDER BY spool
TTL toDateTime(`at`) + INTERVAL 1 DAY;
