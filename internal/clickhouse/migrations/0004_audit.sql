-- What the governor saw and did. Each row is the latest state of one incident or decision; a later
-- update replaces an earlier one, and the same update twice is one row.

CREATE TABLE IF NOT EXISTS incidents (
  id         String,
  tenant_id  LowCardinality(String),
  model      LowCardinality(String),
  opened_at  DateTime64(3, 'UTC'),
  ended_at   Nullable(DateTime64(3, 'UTC')),
  level      LowCardinality(String),
  state      LowCardinality(String),
  step       LowCardinality(String),
  rule       LowCardinality(String),
  reason     String,
  report     String CODEC(ZSTD(3)),
  detail     String CODEC(ZSTD(3)),
  updated_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, id);

CREATE TABLE IF NOT EXISTS decisions (
  id          String,
  incident_id String,
  tenant_id   LowCardinality(String),
  model       LowCardinality(String),
  opened_at   DateTime64(3, 'UTC'),
  ended_at    Nullable(DateTime64(3, 'UTC')),
  action      LowCardinality(String),
  mode        LowCardinality(String),
  value       LowCardinality(String),
  share       Float64,
  status      LowCardinality(String),
  effect      LowCardinality(String),
  reason      String,
  `by`        LowCardinality(String),
  rule        LowCardinality(String),
  revision    String,
  detail      String CODEC(ZSTD(3)),
  updated_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, id);
