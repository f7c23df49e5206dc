-- What the scores of each version of an evaluator count for, and on which scale. Of a version's records the one with
-- the latest since that has come stands; the same since again replaces. The mapping is JSON.
CREATE TABLE IF NOT EXISTS evaluators (
  evaluator         LowCardinality(String),
  evaluator_version LowCardinality(String),
  since             DateTime64(3, 'UTC'),
  standing          LowCardinality(String),
  mapping           String CODEC(ZSTD(3)),
  anchor_mean       Float64,
  anchor_sd         Float64,
  `by`              String,
  reason            String,
  stored_at         DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (evaluator, evaluator_version, since);

-- Written when a score comes in, so that what is drawn from it never changes with a later record. What was stored
-- before counts as it is, people's ratings aside, which calibrate and are no signal of their own.
ALTER TABLE quality
  ADD COLUMN IF NOT EXISTS counts Bool DEFAULT kind != 'human' CODEC(ZSTD(1)),
  ADD COLUMN IF NOT EXISTS calibrated Float64 DEFAULT score CODEC(ZSTD(1));

-- Rollups hold the scores that count, and people's, told by their kind, as calibrated; of the others only how many there
-- were.
ALTER TABLE quality_1m ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1));
ALTER TABLE quality_1h ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1));
ALTER TABLE quality_1d ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1));

-- The coarsest first and dropped and created anew, for the reason that 0006 gives.
DROP VIEW IF EXISTS quality_1d_from_quality_1h;

CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1d_from_quality_1h TO quality_1d AS
SELECT
  toDate(f.hour) AS day,
  f.tenant_id AS tenant_id,
  f.requested_model AS requested_model,
  f.provider AS provider,
  f.model AS model,
  f.prompt_template_version AS prompt_template_version,
  f.cohort AS cohort,
  f.arm AS arm,
  f.evaluator AS evaluator,
  f.evaluator_version AS evaluator_version,
  f.kind AS kind,
  sum(f.scored) AS scored,
  sum(f.code_sum) AS code_sum,
  sum(f.aside) AS aside,
  sumMap(f.quality_histogram) AS quality_histogram
FROM quality_1h AS f
GROUP BY day, tenant_id, requested_model, provider, model, prompt_template_version, cohort, arm, evaluator, evaluator_version, kind;

DROP VIEW IF EXISTS quality_1h_from_quality_1m;

CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1h_from_quality_1m TO quality_1h AS
SELECT
  toStartOfHour(f.minute) AS hour,
  f.tenant_id AS tenant_id,
  f.requested_model AS requested_model,
  f.provider AS provider,
  f.model AS model,
  f.prompt_template_version AS prompt_template_version,
  f.cohort AS cohort,
  f.arm AS arm,
  f.evaluator AS evaluator,
  f.evaluator_version AS evaluator_version,
  f.kind AS kind,
  sum(f.scored) AS scored,
  sum(f.code_sum) AS code_sum,
  sum(f.aside) AS aside,
  sumMap(f.quality_histogram) AS quality_histogram
FROM quality_1m AS f
GROUP BY hour, tenant_id, requested_model, provider, model, prompt_template_version, cohort, arm, evaluator, evaluator_version, kind;

DROP VIEW IF EXISTS quality_1m_from_quality;

CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1m_from_quality TO quality_1m AS
SELECT
  toStartOfMinute(q.timestamp) AS minute,
  q.tenant_id AS tenant_id,
  q.requested_model AS requested_model,
  q.prompt_template_version AS prompt_template_version,
  q.cohort AS cohort,
  q.arm AS arm,
  q.evaluator AS evaluator,
  q.evaluator_version AS evaluator_version,
  q.kind AS kind,
  q.provider AS provider,
  q.model AS model,
  countIf(q.counts OR q.kind = 'human') AS scored,
  countIf(NOT q.counts AND q.kind != 'human') AS aside,
  sumIf(toInt64(floor(q.calibrated * 200 + 0.5)), q.counts OR q.kind = 'human') AS code_sum,
  groupArrayIf(4096)(toInt16(floor(q.calibrated * 200 + 0.5)), q.counts OR q.kind = 'human') AS quality_codes,
  sumMapIf(map(toInt16(floor(q.calibrated * 200 + 0.5)), toUInt64(1)), q.counts OR q.kind = 'human') AS quality_histogram
FROM quality AS q
GROUP BY minute, tenant_id, requested_model, prompt_template_version, cohort, arm, evaluator, evaluator_version, kind, provider, model;

DROP VIEW IF EXISTS sweep_1m_from_quality;

CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality TO sweep_1m AS
SELECT
  toStartOfMinute(q.timestamp) AS minute,
  cityHash64(q.tenant_id, q.requested_model) AS key,
  q.tenant_id AS tenant_id,
  q.requested_model AS model,
  q.cohort AS cohort,
  q.arm AS arm,
  q.experiment_id AS experiment_id,
  groupArray(4096)(toInt16(floor(q.calibrated * 200 + 0.5))) AS quality_codes
FROM quality AS q
WHERE q.timestamp >= now() - INTERVAL 1 DAY AND q.kind != 'human' AND q.counts
GROUP BY minute, key, tenant_id, model, cohort, arm, experiment_id;
