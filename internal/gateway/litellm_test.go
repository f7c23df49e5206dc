package gateway_test

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
)

// litellm is what LiteLLM's proxy does with the hook, its base class stood in for.
const litellm = `
import asyncio, datetime, sys, types
base = types.ModuleType("litellm.integrations.custom_logger")
class CustomLogger:
    def __init__(self, **kwargs): pass
base.CustomLogger = CustomLogger
for name in ("litellm", "litellm.integrations"): sys.modules[name] = types.ModuleType(name)
sys.modules["litellm.integrations.custom_logger"] = base
from flyball_hook import flyball, Refused

class Key: team_id, key_alias = "org_42", "web"

async def main():
    start = datetime.datetime.now()
    end = start + datetime.timedelta(milliseconds=1500)
    def call(**more): return {"model": "big", "messages": [{"role": "user", "content": "hi"}], "litellm_trace_id": "t", **more}
    def logged(data): return {"litellm_params": {"metadata": data["metadata"]}}
    data = await flyball.async_pre_call_hook(Key(), None, call(max_tokens=100), "completion")
    usage = {"prompt_tokens": 30, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 20}}
    await flyball.async_log_success_event(logged(data), {"usage": usage}, start, end)
    data = await flyball.async_pre_call_hook(Key(), None, call(max_tokens=100), "completion")
    await flyball.async_log_failure_event(logged(data), None, start, end)
    try:
        await flyball.async_pre_call_hook(Key(), None, call(max_tokens=100000), "completion")
        sys.exit("it was not refused")
    except Refused as no:
        assert no.status_code == 429 and no.detail["error"]["code"] == "budget_exceeded", no.detail
    data = await flyball.async_pre_call_hook(Key(), None, call(), "completion")
    assert data["max_tokens"] == 4000, data
asyncio.run(main())
`

func TestLiteLLMHook(t *testing.T) {
	t.Parallel()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed: the LiteLLM hook is not run")
	}
	b := monthly(200_000)
	server := httptest.NewServer(external(t, externalOptions(t, b), still))
	defer server.Close()
	folder, err := filepath.Abs("../../docs/examples/litellm")
	require.NoError(t, err)
	run := exec.CommandContext(t.Context(), python, "-B", "-c", litellm)
	run.Env = append(os.Environ(), "PYTHONPATH="+folder, "FLYBALL_URL="+server.URL)
	out, err := run.CombinedOutput()
	require.NoError(t, err, string(out))

	require.Len(t, b.spans, 1, "a call that failed has no telemetry")
	for id, s := range b.spans {
		require.Equal(t, int64(20), s.Tokens.CacheRead)
		require.Equal(t, int64(10), s.Tokens.UncachedInput)
		require.Equal(t, int64(10), s.Tokens.Output)
		require.Equal(t, int64(1500), s.LatencyMS)
		require.Equal(t, "org_42", s.TenantID)
		require.Contains(t, b.settled, id)
	}
	require.Len(t, b.settled, 2)
	require.Len(t, b.held, 1)
	for _, held := range b.held {
		require.Equal(t, budget.Call{Tenant: "org_42", Key: "web", Model: "big"}, held.Of)
	}
}
