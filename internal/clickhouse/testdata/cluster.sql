CREATE DATABASE IF NOT EXISTS flyball ON CLUSTER 'prod'
CREATE TABLE IF NOT EXISTS migrations ON CLUSTER 'prod' (
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', applied_at) ORDER BY version
CREATE TABLE IF NOT EXISTS spans ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS quality ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS deployments ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', ingested_at)
SETTINGS replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS ingest_watermarks ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', `at`)
CREATE TABLE IF NOT EXISTS kpi_1m ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS kpi_1m_from_spans ON CLUSTER 'prod' TO kpi_1m AS
CREATE TABLE IF NOT EXISTS quality_1m ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1m_from_quality ON CLUSTER 'prod' TO quality_1m AS
CREATE TABLE IF NOT EXISTS sweep_1m ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_spans ON CLUSTER 'prod' TO sweep_1m AS
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality ON CLUSTER 'prod' TO sweep_1m AS
CREATE TABLE IF NOT EXISTS bucket_changes ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_spans ON CLUSTER 'prod' TO bucket_changes AS
CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_quality ON CLUSTER 'prod' TO bucket_changes AS
CREATE TABLE IF NOT EXISTS baseline_buckets ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', built_at)
CREATE TABLE IF NOT EXISTS bucket_builds ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
CREATE TABLE IF NOT EXISTS baselines ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', computed_at)
CREATE TABLE IF NOT EXISTS incidents ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', updated_at)
CREATE TABLE IF NOT EXISTS decisions ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', updated_at)
CREATE TABLE IF NOT EXISTS outcomes ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS outcomes_1m ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS outcomes_1m_from_outcomes ON CLUSTER 'prod' TO outcomes_1m AS
ALTER TABLE kpi_1m ON CLUSTER 'prod'
ALTER TABLE quality ON CLUSTER 'prod'
ALTER TABLE quality_1m ON CLUSTER 'prod'
CREATE TABLE IF NOT EXISTS kpi_1h ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS kpi_1h_from_kpi_1m ON CLUSTER 'prod' TO kpi_1h AS
CREATE TABLE IF NOT EXISTS kpi_1d ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS kpi_1d_from_kpi_1h ON CLUSTER 'prod' TO kpi_1d AS
CREATE TABLE IF NOT EXISTS quality_1h ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1h_from_quality_1m ON CLUSTER 'prod' TO quality_1h AS
CREATE TABLE IF NOT EXISTS quality_1d ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1d_from_quality_1h ON CLUSTER 'prod' TO quality_1d AS
CREATE TABLE IF NOT EXISTS outcomes_1h ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS outcomes_1h_from_outcomes_1m ON CLUSTER 'prod' TO outcomes_1h AS
CREATE TABLE IF NOT EXISTS outcomes_1d ON CLUSTER 'prod' (
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS outcomes_1d_from_outcomes_1h ON CLUSTER 'prod' TO outcomes_1d AS
DROP VIEW IF EXISTS kpi_1m_from_spans ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS kpi_1m_from_spans ON CLUSTER 'prod' TO kpi_1m AS
DROP VIEW IF EXISTS quality_1m_from_quality ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1m_from_quality ON CLUSTER 'prod' TO quality_1m AS
CREATE TABLE IF NOT EXISTS repricings ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS rerates ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', updated_at)
ALTER TABLE spans ON CLUSTER 'prod'
ALTER TABLE spans ON CLUSTER 'prod' ADD INDEX IF NOT EXISTS trace trace_id TYPE bloom_filter(0.001) GRANULARITY 1
ALTER TABLE spans ON CLUSTER 'prod' MATERIALIZE INDEX trace
ALTER TABLE sweep_1m ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_outcomes ON CLUSTER 'prod' TO sweep_1m AS
CREATE MATERIALIZED VIEW IF NOT EXISTS bucket_changes_from_outcomes ON CLUSTER 'prod' TO bucket_changes AS
ALTER TABLE baseline_buckets ON CLUSTER 'prod'
ALTER TABLE baselines ON CLUSTER 'prod'
CREATE TABLE IF NOT EXISTS complexity ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', updated_at)
CREATE TABLE IF NOT EXISTS accepted_levels ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
ALTER TABLE sweep_1m ON CLUSTER 'prod'
ALTER TABLE baseline_buckets ON CLUSTER 'prod'
ALTER TABLE baselines ON CLUSTER 'prod'
DROP VIEW IF EXISTS sweep_1m_from_spans ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_spans ON CLUSTER 'prod' TO sweep_1m AS
DROP VIEW IF EXISTS sweep_1m_from_quality ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality ON CLUSTER 'prod' TO sweep_1m AS
DROP VIEW IF EXISTS sweep_1m_from_outcomes ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_outcomes ON CLUSTER 'prod' TO sweep_1m AS
CREATE TABLE IF NOT EXISTS evaluators ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
ALTER TABLE quality ON CLUSTER 'prod'
ALTER TABLE quality_1m ON CLUSTER 'prod' ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))
ALTER TABLE quality_1h ON CLUSTER 'prod' ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))
ALTER TABLE quality_1d ON CLUSTER 'prod' ADD COLUMN IF NOT EXISTS aside SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1))
DROP VIEW IF EXISTS quality_1d_from_quality_1h ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1d_from_quality_1h ON CLUSTER 'prod' TO quality_1d AS
DROP VIEW IF EXISTS quality_1h_from_quality_1m ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1h_from_quality_1m ON CLUSTER 'prod' TO quality_1h AS
DROP VIEW IF EXISTS quality_1m_from_quality ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS quality_1m_from_quality ON CLUSTER 'prod' TO quality_1m AS
DROP VIEW IF EXISTS sweep_1m_from_quality ON CLUSTER 'prod'
CREATE MATERIALIZED VIEW IF NOT EXISTS sweep_1m_from_quality ON CLUSTER 'prod' TO sweep_1m AS
CREATE TABLE IF NOT EXISTS contents ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS merge_with_ttl_timeout = 3600, replicated_deduplication_window = 10000
ALTER TABLE decisions ON CLUSTER 'prod'
CREATE TABLE IF NOT EXISTS savings ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', measured_at)
CREATE TABLE IF NOT EXISTS shadow_changes ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
CREATE TABLE IF NOT EXISTS calibrated_levels ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
ALTER TABLE baselines ON CLUSTER 'prod'
ALTER TABLE evaluators ON CLUSTER 'prod'
CREATE TABLE IF NOT EXISTS fallback_cases ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE MATERIALIZED VIEW IF NOT EXISTS fallback_cases_from_spans ON CLUSTER 'prod' TO fallback_cases AS
CREATE TABLE IF NOT EXISTS budgets ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
CREATE TABLE IF NOT EXISTS tuples ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
SETTINGS ttl_only_drop_parts = 1, replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS predictors ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
CREATE TABLE IF NOT EXISTS predictor_states ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
CREATE TABLE IF NOT EXISTS router_salts ON CLUSTER 'prod' (
ENGINE = ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}')
ALTER TABLE spans ON CLUSTER 'prod' ADD PROJECTION IF NOT EXISTS spend_by_session (
ALTER TABLE spans ON CLUSTER 'prod' ADD COLUMN IF NOT EXISTS virtual_key LowCardinality(String) MATERIALIZED tags['virtual_key'] CODEC(ZSTD(1))
ALTER TABLE spans ON CLUSTER 'prod' ADD PROJECTION IF NOT EXISTS spend_by_key (
ALTER TABLE spans ON CLUSTER 'prod' MATERIALIZE PROJECTION IF EXISTS spend_by_session
ALTER TABLE spans ON CLUSTER 'prod' MATERIALIZE PROJECTION IF EXISTS spend_by_key
ALTER TABLE budgets ON CLUSTER 'prod' MODIFY SETTING replicated_deduplication_window = 10000
CREATE TABLE IF NOT EXISTS ingest_watermarks_last ON CLUSTER 'prod' (
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', stored_at)
CREATE MATERIALIZED VIEW IF NOT EXISTS ingest_watermarks_last_from_ingest_watermarks ON CLUSTER 'prod' TO ingest_watermarks_last AS

