package ingest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// A call that says what it counts for is believed, 1 included; one that says nothing counts as its task, and as 1 where
// that is not known. That holds for every way in.
func TestComplexityOfTheTask(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.Complexity = func(tenant, task string) float64 {
		require.NotEmpty(t, task, "a call without a task is not asked about")
		return map[string]float64{"org/contract": 24, "team-1/contract": 12}[tenant+"/"+task]
	}
	i, _ := start(t, opt)

	want := map[string]float64{}
	span := func(id string, complexity any, task string, stored float64) {
		body := spanWith(t, map[string]any{"span_id": id, "tenant_id": "org", "trace_id": "t", "complexity": complexity, "task": task})
		require.Equal(t, 200, post(i, "/v1/spans", body).Code)
		want["org/t/"+id] = stored
	}
	span("left out", nil, "contract", 24)
	span("said 1", 1, "contract", 1)
	span("said 2.5", 2.5, "contract", 2.5)
	span("unknown task", nil, "other", 1)
	span("no task", nil, "", 1)

	for n, test := range []struct {
		changes attrs
		stored  float64
	}{
		{attrs{"flyball.task": "contract"}, 24},
		{attrs{"flyball.task": "contract", "flyball.complexity": 1}, 1},
		{attrs{"flyball.task": "other"}, 1},
		{attrs{}, 1},
	} {
		require.Nil(t, partial(t, post(i, "/v1/traces", marshal(t, export(acme, otelSpan(n, chat.with(test.changes)))), binaryType...)))
		want["org/"+traceOf(n)+"/"+spanOf(n)] = test.stored
	}
	w := post(i, "/v1/traces", marshal(t, export(acme, otelSpan(9, chat.with(attrs{"flyball.task": "contract", "flyball.complexity": 0})))), binaryType...)
	require.Contains(t, partial(t, w).ErrorMessage, "above 0", "what was said is checked before the task is asked")

	for _, task := range []string{"contract", "other"} {
		metadata := fmt.Sprintf(`{"user_api_key_team_id":"team-1","requester_metadata":{"flyball.task":%q}}`, task)
		require.Equal(t, 200, post(i, "/v1/litellm", litellmWith(t, map[string]string{"id": `"` + task + `"`, "trace_id": `"lite"`, "metadata": metadata})).Code)
		want["team-1/lite/"+task] = map[string]float64{"contract": 12, "other": 1}[task]
	}

	require.NoError(t, i.Accept(t.Context(), []usage.Span{
		{TraceID: "within", SpanID: "left out", TenantID: "org", Model: "m", Task: "contract", Timestamp: testNow},
		{TraceID: "within", SpanID: "said 1", TenantID: "org", Model: "m", Task: "contract", Timestamp: testNow, Complexity: 1},
	}, nil))
	want["org/within/left out"], want["org/within/said 1"] = 24, 1

	require.Eventually(t, func() bool { return sink.count() == len(want) }, 10*time.Second, time.Millisecond)
	for id, complexity := range want {
		require.Equal(t, complexity, sink.span(id).Complexity, id)
	}
}
