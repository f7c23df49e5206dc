package ingest

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// litellmEntry is a StandardLoggingPayload of a streamed Anthropic call, in the shape that LiteLLM sends it.
const litellmEntry = `{
	"id": "chatcmpl-4e2c", "trace_id": "b980db26-9512-45cc-b1da-c511a363b83f", "call_type": "acompletion", "stream": true,
	"response_cost": 0.0064905, "cost_breakdown": {"input_cost": 0.001, "output_cost": 0.00549, "total_cost": 0.0064905},
	"response_cost_failure_debug_info": null, "status": "success", "status_fields": {"llm_api_status": "success", "guardrail_status": "not_run"},
	"custom_llm_provider": "anthropic", "saved_cache_cost": 0.0,
	"startTime": 1780313340.125, "endTime": 1780313342.3754, "completionStartTime": 1780313340.335, "response_time": 0.21,
	"model": "anthropic/claude-3-5-sonnet-20241022", "model_id": "cb41bc", "model_group": "claude-sonnet", "api_base": "https://api.anthropic.com/v1/messages",
	"metadata": {
		"user_api_key_hash": "88dc28d0f030c55e", "user_api_key_alias": "support-key", "user_api_key_team_id": "team-1", "user_api_key_org_id": null,
		"user_api_key_user_id": "default_user_id", "user_api_key_team_alias": "Support", "spend_logs_metadata": null, "requester_ip_address": "10.0.0.7",
		"requester_metadata": {"flyball.decision_id": "d1", "flyball.arm": "holdback", "other": {"deep": [1]}},
		"prompt_management_metadata": {"prompt_id": "rag-v3", "prompt_variables": null, "prompt_integration": "langfuse"},
		"usage_object": {
			"completion_tokens": 342, "prompt_tokens": 1247, "total_tokens": 1589,
			"completion_tokens_details": {"accepted_prediction_tokens": null, "audio_tokens": null, "reasoning_tokens": 12, "rejected_prediction_tokens": null},
			"prompt_tokens_details": {"audio_tokens": null, "cached_tokens": 800, "text_tokens": null, "image_tokens": null, "cache_creation_tokens": 100,
				"cache_creation_token_details": {"ephemeral_5m_input_tokens": 40, "ephemeral_1h_input_tokens": 60}},
			"cache_creation_input_tokens": 100, "cache_read_input_tokens": 800
		}
	},
	"cache_key": null, "cache_hit": null, "request_tags": ["team:search", "batch", "User-Agent: python-httpx", 7], "end_user": "customer-9", "requester_ip_address": "10.0.0.7",
	"total_tokens": 1589, "prompt_tokens": 1247, "completion_tokens": 342,
	"messages": [{"role": "user", "content": "an \ud83d alone, \"quoted\" and {braces"}], "response": {"choices": [{"logprobs": NaN}]},
	"model_parameters": {"max_tokens": 512, "temperature": Infinity}, "hidden_params": {"model_id": "cb41bc", "usage_object": null, "additional_headers": {}},
	"model_map_information": {"model_map_key": "claude-3-5-sonnet-20241022", "model_map_value": null}, "error_str": null
}`

// litellmWith is the entry with some top-level fields replaced by JSON; an empty text takes one out.
func litellmWith(t testing.TB, changes map[string]string) string {
	t.Helper()
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(strings.NewReplacer("NaN", "0", "Infinity", "0").Replace(litellmEntry)), &fields))
	for name, text := range changes {
		if text == "" {
			delete(fields, name)
		} else {
			fields[name] = json.RawMessage(text)
		}
	}
	var b strings.Builder
	for name, text := range fields { // by hand: some of the texts are no JSON
		fmt.Fprintf(&b, `,%q:%s`, name, text)
	}
	return "{" + b.String()[1:] + "}"
}

// decodeLiteLLM reads entries as the door does.
func decodeLiteLLM(t require.TestingT, opt Options, tenant, body string) ([]usage.Span, *answer, int64) {
	if opt.LiteLLMTenant == nil {
		opt.LiteLLMTenant = defaultLiteLLMTenant
	}
	i := &Ingest{opt: opt, anyTenant: true}
	req, a := newRequest(i), &answer{Refused: []refusal{}}
	i.litellm(newDecoder([]byte(body), testNow, &Caller{Tenant: tenant}), req, a)
	var spans []usage.Span
	for _, u := range req.units {
		in := reader{from: req.buf[u.body.from:u.body.to]}
		var s usage.Span
		in.span(&s)
		require.NoError(t, in.err)
		spans = append(spans, s)
	}
	return spans, a, i.stats.ignored.Load()
}

func litellmSpan(t testing.TB) usage.Span {
	reported := usage.PicoUSD(6_490_500_000)
	s := usage.Span{
		TraceID: "b980db26-9512-45cc-b1da-c511a363b83f", SpanID: "chatcmpl-4e2c",
		Timestamp: time.Date(2026, 6, 1, 11, 29, 2, 375_400_000, time.UTC), TenantID: "team-1", Provider: "anthropic",
		RequestedModel: "claude-sonnet", Model: "claude-3-5-sonnet-20241022", PromptTemplate: "rag-v3",
		Tokens:        usage.Tokens{UncachedInput: 347, CacheRead: 800, CacheWrite5m: 40, CacheWrite1h: 60, Output: 342, Reasoning: 12},
		UsageComplete: true, CostReported: &reported, LatencyMS: 2250, TTFTMS: 210, Complexity: 1,
		DecisionID: "d1", Arm: usage.Holdback, Tags: map[string]string{"team": "search", "batch": "true"},
	}
	_ = testBook(t).Price(&s)
	return s
}

func TestLiteLLMFormats(t *testing.T) {
	t.Parallel()
	line := strings.ReplaceAll(strings.ReplaceAll(litellmEntry, "\n", ""), "\t", "")
	second := strings.Replace(line, "chatcmpl-4e2c", "chatcmpl-2", 1)
	for format, body := range map[string]string{
		"json_array": "[" + line + ", " + second + "]",
		"ndjson":     line + "\n" + second,
		"single":     litellmEntry,
	} {
		t.Run(format, func(t *testing.T) {
			sink := newStore()
			i, _ := start(t, testOptions(t, t.TempDir(), sink))
			want := 2
			if format == "single" {
				want = 1
			}
			for range 2 { // LiteLLM may send a batch again
				w := post(i, "/v1/litellm", body, jsonType...)
				require.Equal(t, 200, w.Code, w.Body)
				require.Contains(t, w.Body.String(), `"refused":[]`)
			}
			require.EqualValues(t, want, i.Stats().Duplicates)
			require.Eventually(t, func() bool { return sink.count() == want }, 10*time.Second, time.Millisecond)
			require.Equal(t, litellmSpan(t), sink.span("team-1/b980db26-9512-45cc-b1da-c511a363b83f/chatcmpl-4e2c"))
		})
	}
}

func TestLiteLLMVaries(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	const bare = `{"user_api_key_alias":"key-7","user_api_key_team_id":null,"user_api_key_org_id":""}`
	object := func(text string) string { return `{"user_api_key_team_id":"team-1","usage_object":` + text + `}` }
	plain := func(s *usage.Span) { s.PromptTemplate, s.DecisionID, s.Arm = "", "", usage.None }
	for _, tc := range []struct {
		name    string
		changes map[string]string
		tenant  string
		fields  []string
		want    func(s *usage.Span)
		ignored bool
	}{
		{name: "ISO times with a zone", changes: map[string]string{"startTime": `"2026-06-01T13:29:00.125+02:00"`, "endTime": `"2026-06-01T11:29:02.3754Z"`, "completionStartTime": `"2026-06-01T11:29:00.335Z"`}, want: func(*usage.Span) {}},
		{name: "ISO times without one", changes: map[string]string{"startTime": `"2026-06-01T11:29:00.125"`, "endTime": `"2026-06-01 11:29:02.3754"`, "completionStartTime": `"2026-06-01 11:29:00.335000"`}, want: func(*usage.Span) {}},
		{name: "not streamed", changes: map[string]string{"stream": "false"}, want: func(s *usage.Span) { s.TTFTMS = 0 }},
		{name: "stream unknown", changes: map[string]string{"stream": "null"}, want: func(s *usage.Span) { s.TTFTMS = 0 }},
		{name: "whole seconds", changes: map[string]string{"startTime": "1780313340", "endTime": "1780313342", "completionStartTime": "null"}, want: func(s *usage.Span) {
			s.Timestamp, s.LatencyMS, s.TTFTMS = time.Date(2026, 6, 1, 11, 29, 2, 0, time.UTC), 2000, 0
		}},
		{name: "no trace", changes: map[string]string{"trace_id": "null"}, want: func(s *usage.Span) { s.TraceID = s.SpanID }},
		{name: "no group", changes: map[string]string{"model_group": "null"}, want: func(s *usage.Span) { s.RequestedModel = s.Model }},
		{name: "the key's alias as tenant", changes: map[string]string{"metadata": bare}, want: func(s *usage.Span) {
			plain(s)
			s.TenantID, s.UsageComplete, s.Tokens = "key-7", false, usage.Tokens{UncachedInput: 1247, Output: 342}
		}},
		{name: "a configured field", fields: []string{"user_api_key_user_id"}, want: func(s *usage.Span) { s.TenantID = "default_user_id" }},
		{name: "the token's tenant", tenant: "org", want: func(s *usage.Span) { s.TenantID = "org" }},
		{name: "usage of the hidden parameters", changes: map[string]string{"metadata": `{"user_api_key_team_id":"team-1"}`, "hidden_params": `{"usage_object":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}`}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens = usage.Tokens{UncachedInput: 5, CacheRead: 4, Output: 3}
		}},
		{name: "the provider's own usage", changes: map[string]string{"metadata": object(`{"input_tokens":4,"cache_read_input_tokens":10,"output_tokens":3}`)}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens = usage.Tokens{UncachedInput: 4, CacheRead: 10, Output: 3}
		}},
		{name: "usage of an unknown shape", changes: map[string]string{"metadata": object(`{"units":4}`)}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens, s.UsageComplete = usage.Tokens{UncachedInput: 1247, Output: 342}, false
		}},
		{name: "counts that do not fit together", changes: map[string]string{"metadata": object(`{"prompt_tokens":4,"completion_tokens":3,"cache_creation_input_tokens":1167}`)}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens, s.UsageComplete = usage.Tokens{UncachedInput: 1247, Output: 342}, false
		}},
		{name: "audio has no bucket", changes: map[string]string{"metadata": object(`{"prompt_tokens":4,"completion_tokens":3,"prompt_tokens_details":{"audio_tokens":2}}`)}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens, s.UsageComplete = usage.Tokens{UncachedInput: 4, Output: 3}, false
		}},
		{name: "embeddings", changes: map[string]string{"call_type": `"aembedding"`, "metadata": object(`{"prompt_tokens":8,"total_tokens":8}`)}, want: func(s *usage.Span) {
			plain(s)
			s.Tokens = usage.Tokens{UncachedInput: 8}
		}},
		{name: "the documentation's call type", changes: map[string]string{"call_type": `"litellm.completion"`}, want: func(*usage.Span) {}},
		{name: "Anthropic's endpoint", changes: map[string]string{"call_type": `"anthropic_messages"`}, want: func(*usage.Span) {}},
		{name: "Bedrock", changes: map[string]string{"custom_llm_provider": `"bedrock"`, "model": `"anthropic.claude-3-haiku-20240307-v1:0"`}, want: func(s *usage.Span) {
			s.Provider, s.Model = usage.Provider("aws"), "anthropic.claude-3-haiku-20240307-v1:0"
		}},
		{name: "out of LiteLLM's own cache", changes: map[string]string{"cache_hit": "true", "response_cost": "0.0"}, want: func(s *usage.Span) { s.Tokens, s.CostReported = usage.Tokens{}, new(usage.PicoUSD) }},
		{name: "the same, as text", changes: map[string]string{"cache_hit": `"True"`}, want: func(s *usage.Span) { s.Tokens, s.CostReported = usage.Tokens{}, new(usage.PicoUSD) }},
		{name: "cost unknown", changes: map[string]string{"response_cost": "null"}, want: func(s *usage.Span) { s.CostReported = nil }},
		{name: "cost as text, in full", changes: map[string]string{"response_cost": `"6.4905e-03"`}, want: func(*usage.Span) {}},
		{name: "failed after it used tokens", changes: map[string]string{"status": `"failure"`}, want: func(*usage.Span) {}},
		{name: "failed", changes: map[string]string{"status": `"failure"`, "prompt_tokens": "0", "completion_tokens": "0", "metadata": bare}, ignored: true},
		{name: "an image", changes: map[string]string{"call_type": `"aimage_generation"`}, ignored: true},
		{name: "tags of other kinds", changes: map[string]string{"request_tags": `{"a":1}`}, want: func(s *usage.Span) { s.Tags = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := opt
			opt.LiteLLMTenant = tc.fields
			spans, a, ignored := decodeLiteLLM(t, opt, tc.tenant, litellmWith(t, tc.changes))
			require.Empty(t, a.Refused)
			if tc.ignored {
				require.Empty(t, spans)
				require.EqualValues(t, 1, ignored)
				return
			}
			want := litellmSpan(t)
			tc.want(&want)
			want.Cost, want.Priced, want.PriceVersion = 0, false, ""
			_ = opt.Book.Price(&want)
			require.Equal(t, []usage.Span{want}, spans)
		})
	}
}

func TestLiteLLMBadEntries(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	object := func(text string) string { return `{"user_api_key_team_id":"team-1","usage_object":` + text + `}` }
	for _, tc := range []struct {
		name          string
		changes       map[string]string
		body          string
		field, reason string
	}{
		{name: "negative", changes: map[string]string{"prompt_tokens": "-1"}, field: "prompt_tokens", reason: "negative"},
		{name: "NaN", changes: map[string]string{"completion_tokens": "NaN"}, field: "completion_tokens", reason: "whole number"},
		{name: "NaN cost", changes: map[string]string{"response_cost": "NaN"}, field: "response_cost", reason: "amount in dollars"},
		{name: "infinite cost", changes: map[string]string{"response_cost": "-Infinity"}, field: "response_cost", reason: "amount in dollars"},
		{name: "negative cost", changes: map[string]string{"response_cost": "-0.1"}, field: "response_cost", reason: "negative"},
		{name: "overflow", changes: map[string]string{"metadata": object(`{"prompt_tokens":99999999999999999999}`)}, field: "usage_object.prompt_tokens", reason: "at most"},
		{name: "negative detail", changes: map[string]string{"metadata": object(`{"prompt_tokens":9,"prompt_tokens_details":{"cached_tokens":-4}}`)}, field: "usage_object.prompt_tokens_details.cached_tokens", reason: "negative"},
		{name: "1970", changes: map[string]string{"endTime": "0.5"}, field: "endTime", reason: "before 2020"},
		{name: "2100", changes: map[string]string{"endTime": "4102444800"}, field: "endTime", reason: "in the future"},
		{name: "milliseconds", changes: map[string]string{"endTime": "1780313342375"}, field: "endTime", reason: "seconds since 1970"},
		{name: "no time", changes: map[string]string{"endTime": "NaN"}, field: "endTime", reason: "seconds since 1970"},
		{name: "ends before it starts", changes: map[string]string{"startTime": "1780313343.0"}, field: "startTime", reason: "after endTime"},
		{name: "no id", changes: map[string]string{"id": ""}, field: "id", reason: "is missing"},
		{name: "no model", changes: map[string]string{"model": `""`}, field: "model", reason: "is missing"},
		{name: "no tenant", changes: map[string]string{"metadata": "null"}, field: "tenant_id", reason: "is missing"},
		{name: "arm", changes: map[string]string{"metadata": `{"user_api_key_team_id":"a","requester_metadata":{"flyball.arm":"left"}}`}, field: "metadata.requester_metadata.flyball.arm", reason: "holdback"},
		{name: "not an object", body: "7", reason: "must be an object"},
		{name: "UTF-8", body: "{\"id\":\"\xff\"}", field: "id", reason: "not valid UTF-8"},
		{name: "bomb", body: `{"messages":` + strings.Repeat(`[`, 1_000_000), reason: "ends within a value"},
		{name: "cut off", body: `{"id":"a"`, reason: "expected"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := tc.body
			if body == "" {
				body = litellmWith(t, tc.changes)
			}
			spans, a, _ := decodeLiteLLM(t, opt, "", body+"\n"+litellmWith(t, nil))
			require.NotEmpty(t, a.Refused)
			require.Equal(t, 0, a.Refused[0].Index)
			require.Equal(t, tc.field, a.Refused[0].Field)
			require.Contains(t, a.Refused[0].Reason, tc.reason)
			require.Len(t, spans, 1, "the good entry is kept")
		})
	}
}

// A conversation may be far longer than a record of ours, and memory for it is the body's alone.
func TestLiteLLMLongConversation(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	body := litellmWith(t, map[string]string{"messages": `"` + strings.Repeat(`long \"text\" `, 200_000) + `"`})
	spans, a, _ := decodeLiteLLM(t, opt, "", body)
	require.Empty(t, a.Refused)
	require.Len(t, spans, 1)
}

func FuzzLiteLLM(f *testing.F) {
	f.Add(litellmEntry)
	f.Add("[" + litellmEntry + ",7]")
	f.Add(litellmWith(f, map[string]string{"endTime": `"2026-06-01 11:29:02"`, "cache_hit": "true"}) + "\n{")
	f.Add(`{"id":"a","endTime":1780313342,"model":"gpt-4o","metadata":{"user_api_key_org_id":"o","usage_object":{"prompt_tokens":3,"completion_tokens":1e3}},"response_cost":"1e-400"}`)
	i, _ := start(f, testOptions(f, f.TempDir(), newStore()))
	f.Fuzz(func(t *testing.T, body string) {
		w := post(i, "/v1/litellm", body)
		if w.Code != 200 && w.Code != 400 || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		checkStored(t, w, body)
	})
}

// checkStored holds spans that were taken to their bounds.
func checkStored(t *testing.T, w *httptest.ResponseRecorder, body string) {
	spans, _, _ := decodeLiteLLM(t, testOptions(t, "", nil), "", body)
	for _, s := range spans {
		if s.Tokens.Validate() != nil || s.TenantID == "" || s.Model == "" || s.SpanID == "" || s.Timestamp.Before(earliest) || s.Cost < 0 {
			t.Fatalf("%d took %+v", w.Code, s)
		}
	}
}
