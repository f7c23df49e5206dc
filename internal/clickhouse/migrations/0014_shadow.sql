-- What the live policy set and a second one that acts on nothing made of the same keys: changes of level, incidents that
-- opened, rose and ended, proposals, and that the second set was running at all (kind run, of tenant *). The state is what
-- the sweep goes on from after a restart; empty where the key has no alert any more.
CREATE TABLE IF NOT EXISTS shadow_changes (
  at         DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id  LowCardinality(String),
  model      LowCardinality(String),
  policy_set Enum8('live' = 1, 'shadow' = 2),
  seq        UInt32,
  kind       LowCardinality(String),
  revision   LowCardinality(String),
  level      LowCardinality(String),
  rule       LowCardinality(String),
  reason     String CODEC(ZSTD(1)),
  facts      String CODEC(ZSTD(3)),
  act        String CODEC(ZSTD(1)),
  state      String CODEC(ZSTD(3)),
  stored_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
PARTITION BY toMonday(at)
ORDER BY (tenant_id, model, policy_set, at, seq, kind)
TTL toDateTime(at) + INTERVAL 60 DAY
SETTINGS ttl_only_drop_parts = 1;
