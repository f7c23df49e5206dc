-- Where each key's baseline was calibrated. Baselines are held within the bound of the latest level of their key and
-- measure. The ratings are those by which a later calibration tells whether the calls have changed or the evaluators.
CREATE TABLE IF NOT EXISTS calibrated_levels (
  tenant_id     LowCardinality(String),
  model         LowCardinality(String),
  measure       LowCardinality(String),
  calibrated_at DateTime64(3, 'UTC'),
  level         Float64,
  bound         Float64,
  rated         UInt32,
  human_mean    Float64,
  human_sd      Float64,
  residual_mean Float64,
  residual_sd   Float64,
  `by`          String,
  reason        String,
  stored_at     DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(stored_at)
ORDER BY (tenant_id, model, measure, calibrated_at);

-- What the bound took off a baseline: the two together are what the buckets alone say.
ALTER TABLE baselines
  ADD COLUMN IF NOT EXISTS ln_cost_held Float64 DEFAULT 0,
  ADD COLUMN IF NOT EXISTS quality_held Float64 DEFAULT 0;

-- What people said of the set that an evaluator was anchored to: how far its scores lie from theirs is what drifts.
ALTER TABLE evaluators
  ADD COLUMN IF NOT EXISTS anchor_n UInt32 DEFAULT 0,
  ADD COLUMN IF NOT EXISTS anchor_human_mean Float64 DEFAULT 0,
  ADD COLUMN IF NOT EXISTS anchor_human_sd Float64 DEFAULT 0,
  ADD COLUMN IF NOT EXISTS anchor_residual_sd Float64 DEFAULT 0;
