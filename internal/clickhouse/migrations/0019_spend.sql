-- What sessions and keys have cost by the minute, for budgets, which ask every few seconds. They are projections of the
-- calls and no tables of their own: a part of spans and its sums are written, mutated and dropped as one, so that
-- nothing has to keep them right when a call is sent twice, comes late or is priced again. Parts from before have none
-- until they are merged or materialized; a query reads the calls of those.
ALTER TABLE spans ADD PROJECTION IF NOT EXISTS spend_by_session (
  SELECT tenant_id, session_id, toStartOfMinute(timestamp), sum(toInt128(cost_pico_usd))
  GROUP BY tenant_id, session_id, toStartOfMinute(timestamp)
);

ALTER TABLE spans ADD COLUMN IF NOT EXISTS virtual_key LowCardinality(String) MATERIALIZED tags['virtual_key'] CODEC(ZSTD(1));

ALTER TABLE spans ADD PROJECTION IF NOT EXISTS spend_by_key (
  SELECT tenant_id, virtual_key, toStartOfMinute(timestamp), sum(toInt128(cost_pico_usd))
  GROUP BY tenant_id, virtual_key, toStartOfMinute(timestamp)
);

ALTER TABLE spans MATERIALIZE PROJECTION IF EXISTS spend_by_session;

ALTER TABLE spans MATERIALIZE PROJECTION IF EXISTS spend_by_key;

-- A version of a budget is inserted with a token that names it: of all who write one only the first is stored.
ALTER TABLE budgets MODIFY SETTING non_replicated_deduplication_window = 10000;
