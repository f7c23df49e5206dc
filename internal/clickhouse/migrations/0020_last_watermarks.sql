-- The watermark that each spool gave last, beside the highest that it ever gave, which is what ingest_watermarks keeps: the
-- two differ for as long as the spool's clock is behind what it was. Budgets confirm by the last.
CREATE TABLE IF NOT EXISTS ingest_watermarks_last (
  spool     String,
  `at`      DateTime64(3, 'UTC'),
  stored_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY spool
TTL toDateTime(stored_at) + INTERVAL 1 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS ingest_watermarks_last_from_ingest_watermarks TO ingest_watermarks_last AS
SELECT spool, `at`, now64(6, 'UTC') AS stored_at
FROM ingest_watermarks;
