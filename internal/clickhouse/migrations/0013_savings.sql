-- What decisions were worth, and what else their rows tell without their detail.
--
-- Amounts are of the treated calls that had a holdback to be compared with; NULL is unknown, and never 0.
ALTER TABLE decisions
  ADD COLUMN IF NOT EXISTS alert_rule          LowCardinality(String),
  ADD COLUMN IF NOT EXISTS facts               String CODEC(ZSTD(3)),
  ADD COLUMN IF NOT EXISTS approvers           Array(String),
  ADD COLUMN IF NOT EXISTS flag_before         String,
  ADD COLUMN IF NOT EXISTS flag_after          String,
  ADD COLUMN IF NOT EXISTS measured_at         Nullable(DateTime64(3, 'UTC')),
  ADD COLUMN IF NOT EXISTS estimated           Bool,
  ADD COLUMN IF NOT EXISTS treated_calls       Int64,
  ADD COLUMN IF NOT EXISTS compared_calls      Int64,
  ADD COLUMN IF NOT EXISTS saved_pico_usd      Nullable(Int128),
  ADD COLUMN IF NOT EXISTS saved_low_pico_usd  Nullable(Int128),
  ADD COLUMN IF NOT EXISTS saved_high_pico_usd Nullable(Int128),
  ADD COLUMN IF NOT EXISTS quality_change      Nullable(Float64),
  ADD COLUMN IF NOT EXISTS quality_change_low  Nullable(Float64),
  ADD COLUMN IF NOT EXISTS quality_change_high Nullable(Float64);

-- The ledger of savings: a row for each decision and UTC day. Every call belongs to one decision at most, and of a
-- decision only the rows of its newest measurement stand, which are inserted at once: whoever reads takes FINAL, for
-- rows that were inserted twice, and the newest measured_at of each decision, for days that an older measurement had
-- alone.
CREATE TABLE IF NOT EXISTS savings (
  tenant_id      LowCardinality(String),
  decision_id    String,
  day            Date,
  model          LowCardinality(String),
  action         LowCardinality(String),
  estimated      Bool,
  treated_calls  Int64,
  holdback_calls Int64,
  compared_calls Int64,
  cost_pico_usd  Int128,
  saved_pico_usd Nullable(Int128),
  measured_at    DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(measured_at)
ORDER BY (tenant_id, decision_id, day);
