-- Outcomes as a quantity to detect by, and spans by their trace.

-- Scores and outcomes may come days after their call, and name no more of it than its trace. One in a thousand
-- granules is read in vain for a trace, for 14 bits a row.
ALTER TABLE spans ADD INDEX IF NOT EXISTS trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1;
ALTER TABLE spans MATERIALIZE INDEX trace;

-- Outcomes of a minute are those that happened in it, whenever their calls were.
ALTER TABLE sweep_1m
  ADD COLUMN IF NOT EXISTS outcomes SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)),
  ADD COLUMN IF NOT EXISTS good     SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1));

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_outcomes TO sweep_1m AS
SELECT
  toStartOfMinute(o.timestamp) AS minute,
  cityHash64(o.tenant_id, o.requested_model) AS key,
  o.tenant_id AS tenant_id,
  o.requested_model AS model,
  o.cohort AS cohort,
  o.arm AS arm,
  count() AS outcomes,
  countIf(o.value > 0) AS good
FROM outcomes AS o
WHERE o.timestamp >= now() - INTERVAL 1 DAY
GROUP BY minute, key, tenant_id, model, cohort, arm;

CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_outcomes TO bucket_changes AS
SELECT toStartOfFifteenMinutes(o.timestamp) AS bucket, max(o.ingested_at) AS changed_at
FROM outcomes AS o
GROUP BY bucket;

-- Calls and outcomes that no flag touched: what an outcome rate is drawn from.
ALTER TABLE baseline_buckets
  ADD COLUMN IF NOT EXISTS untreated UInt64 CODEC(T64, ZSTD(1)) AFTER cache_read_tokens,
  ADD COLUMN IF NOT EXISTS outcomes  UInt64 CODEC(T64, ZSTD(1)) AFTER untreated,
  ADD COLUMN IF NOT EXISTS good      UInt64 CODEC(T64, ZSTD(1)) AFTER outcomes;

ALTER TABLE baselines
  ADD COLUMN IF NOT EXISTS outcome_buckets  UInt32,
  ADD COLUMN IF NOT EXISTS outcome_rate     Float64,
  ADD COLUMN IF NOT EXISTS outcome_dev      Float64,
  ADD COLUMN IF NOT EXISTS outcome_bucket_n Float64;
