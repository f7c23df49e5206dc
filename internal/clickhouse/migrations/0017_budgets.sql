-- What a tenant's calls may cost, as people set it: every version, so that the table is its own audit log. Of two that
-- were written at once as the same revision the first counts, by the server's clock.
CREATE TABLE IF NOT EXISTS budgets (
  tenant_id         LowCardinality(String),
  id                String,
  revision          UInt32,
  per               LowCardinality(String),
  only              String,
  period            LowCardinality(String),
  time_zone         LowCardinality(String),
  starts_on         UInt8,
  ceiling_micro_usd Int64,
  removed           Bool,
  set_at            DateTime64(3, 'UTC'),
  `by`              String,
  reason            String,
  nonce             String,
  stored_at         DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (tenant_id, id, revision, stored_at, nonce);
