-- What routers knew of calls before they were made: features of the prompts, hashed under the salt below, and what was
-- predicted. The prompts themselves are in no table but contents, where that is configured.
CREATE TABLE IF NOT EXISTS tuples (
  trace_id                String CODEC(ZSTD(1)),
  span_id                 String CODEC(ZSTD(1)),
  timestamp               DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id               LowCardinality(String),
  task                    LowCardinality(String),
  requested_model         LowCardinality(String),
  model                   LowCardinality(String),
  estimated_cost_pico_usd Int64 CODEC(T64, ZSTD(1)),
  reading                 LowCardinality(String),
  features                String CODEC(ZSTD(3)),
  predictor               LowCardinality(String),
  predicted_quality       Float64 CODEC(ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toMonday(timestamp)
ORDER BY (tenant_id, trace_id, span_id)
TTL toDateTime(timestamp) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Versions of the predictor of quality: JSON of weights, and how they came about.
CREATE TABLE IF NOT EXISTS predictors (
  version    String,
  trained_at DateTime64(3, 'UTC'),
  reading    String,
  n          UInt64,
  artefact   String CODEC(ZSTD(3)),
  stored_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY version;

-- What became of each version: shadow, in_use, retired, rolled_back. The latest stands.
CREATE TABLE IF NOT EXISTS predictor_states (
  version   String,
  since     DateTime64(3, 'UTC'),
  state     LowCardinality(String),
  `by`      String,
  reason    String,
  stored_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (version, since);

-- The deployment's salt of features: the first one counts. Readers see no table that has no tenants.
CREATE TABLE IF NOT EXISTS router_salts (
  salt       String,
  created_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY created_at;
