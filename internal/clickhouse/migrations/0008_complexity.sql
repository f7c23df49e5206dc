-- What a call of a task counts for where it says nothing itself: one score in force per tenant and task, the latest.
-- An empty tenant is all of them. minutes is the median of people's times, from which scores are worked out anew when
-- the usual time changes: set_at is when somebody set the task, updated_at when its score was last worked out.
CREATE TABLE IF NOT EXISTS complexity (
  tenant_id   LowCardinality(String),
  task        String,
  source      LowCardinality(String),
  score_milli Int64,
  samples     Int64,
  minutes     Float64,
  set_at      DateTime64(3, 'UTC'),
  `by`        LowCardinality(String),
  updated_at  DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(updated_at)
ORDER BY (tenant_id, task);
