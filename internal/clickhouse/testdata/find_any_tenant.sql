SELECT
  trace_id, span_id, timestamp, tenant_id, requested_model, model, provider, prompt_template_version, experiment_id, toString(arm)
FROM spans
WHERE trace_id IN {traces:Array(String)}
  AND timestamp >= {from:DateTime64(3, 'UTC')} AND timestamp < {to:DateTime64(3, 'UTC')}
ORDER BY ingested_at, timestamp, span_id
LIMIT 1000 BY tenant_id, trace_id

-- traces = [a b]
-- from = 2026-01-13T09:00:00Z
-- to = 2026-01-15T09:00:00Z
