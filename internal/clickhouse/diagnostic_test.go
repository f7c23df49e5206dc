package clickhouse

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// testDiagnostic runs the query that a report prints, for every cause and every kind of key, as it is
// printed: only the database is the test's own.
func testDiagnostic(t *testing.T, s *Store) {
	opened := time.Now().UTC().Truncate(time.Minute).Add(-2 * time.Hour)
	hostile := `o'brien\`
	span := usage.Span{Model: "m-1", Provider: "anthropic", PromptTemplate: "v1", Cost: 1e12, Tokens: usage.Tokens{UncachedInput: 100, Output: 50}}
	spans := calls(10, opened, span)
	treated, experiment := span, span
	experiment.ExperimentID, experiment.TraceID = "ab", "ab"
	spans = append(spans, calls(1, opened, experiment)...)
	treated.RequestedModel = "other"
	spans = append(spans, calls(5, opened.Add(time.Minute), treated)...)
	for i := range spans {
		spans[i].TenantID = hostile
	}
	spans = append(spans, calls(1, opened, usage.Span{Model: "x", RequestedModel: "x", TraceID: "of another tenant"})...)
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	key := usage.Key{Tenant: hostile, Model: "m"}
	for name, k := range map[string]struct {
		key  usage.Key
		want int64
	}{
		"a key": {key, 11}, "an experiment": {key.OfExperiment("ab"), 1}, "a tenant": {usage.Key{Tenant: hostile, Model: usage.AnyModel}, 16}, "everything": {usage.Everything, 17},
	} {
		for _, cause := range []string{"", runbook.CauseDeployment, runbook.CauseFirstSeen, runbook.CauseProvider, runbook.CauseSpike, runbook.CauseDrop} {
			r := runbook.Report{Key: k.key, Opened: opened}
			if cause != "" {
				r.Steps = []runbook.Done{{Step: runbook.Plan(1)[0], Verdict: runbook.Verdict{Status: runbook.Found, Cause: cause}}}
			}
			_, fenced, ok := strings.Cut(r.Markdown(), "```sql\n")
			require.True(t, ok)
			printed, _, _ := strings.Cut(fenced, "\n```")
			sql := strings.Replace(printed, "flyball.spans", "spans", 1)
			require.NotEqual(t, printed, sql)
			require.Equal(t, k.want, number(t, s, "SELECT sum(requests) FROM ("+sql+")"), "%s, %s", name, cause)
			require.EqualValues(t, 1, number(t, s, "SELECT max(cost_p50_usd) FROM ("+sql+")"))
		}
	}
}
