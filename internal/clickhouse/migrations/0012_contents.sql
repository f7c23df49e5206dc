-- What was asked and answered, of calls whose texts are configured to be kept. Every row says itself when it is to be
-- forgotten; parts are of one day of expiry, so that whole ones are dropped. Readers need a right of their own.
CREATE TABLE IF NOT EXISTS contents (
  trace_id        String CODEC(ZSTD(1)),
  span_id         String CODEC(ZSTD(1)),
  timestamp       DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  tenant_id       LowCardinality(String),
  requested_model LowCardinality(String),
  model           LowCardinality(String),
  input           String CODEC(ZSTD(3)),
  output          String CODEC(ZSTD(3)),
  expires_at      DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(expires_at)
ORDER BY (tenant_id, trace_id, span_id)
TTL toDateTime(expires_at)
SETTINGS merge_with_ttl_timeout = 3600, non_replicated_deduplication_window = 10000;
