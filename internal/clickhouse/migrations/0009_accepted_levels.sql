-- Levels of cost and quality that a person called the usual ones from then on. The latest of a key stands: its
-- baselines are drawn from later buckets alone, and are the level itself until there are enough of those. The level
-- is a whole baseline as JSON.
CREATE TABLE IF NOT EXISTS accepted_levels (
  tenant_id   LowCardinality(String),
  model       LowCardinality(String),
  accepted_at DateTime64(3, 'UTC'),
  `by`        String,
  reason      String,
  level       String CODEC(ZSTD(3)),
  stored_at   DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (tenant_id, model, accepted_at)
TTL toDateTime(accepted_at) + INTERVAL 2 YEAR;
