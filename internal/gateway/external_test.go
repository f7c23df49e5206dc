package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/apitest"
	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// bank is a treasury and a spool in memory: it promises as long as there is something left, and keeps what it was told.
type bank struct {
	mu      sync.Mutex
	budget  *budget.Budget // nil: there is none
	window  budget.Window
	left    budget.Micro
	away    bool
	broken  error // of the spool
	held    map[string]treasury.Call
	spans   map[string]usage.Span
	settled map[string]usage.PicoUSD
}

func newBank() *bank {
	return &bank{held: map[string]treasury.Call{}, spans: map[string]usage.Span{}, settled: map[string]usage.PicoUSD{}}
}

// monthly is a bank of one budget of a month of a tenant.
func monthly(ceiling budget.Micro) *bank {
	b := newBank()
	b.budget = &budget.Budget{ID: "org_42 in \"all\"", Tenant: "org_42", Per: budget.PerTenant, Period: budget.Month, Ceiling: ceiling}
	b.window = b.budget.Window(clock)
	b.left = ceiling
	return b
}

func (b *bank) standing() treasury.Standing {
	return treasury.Standing{Budget: *b.budget, Window: b.window, Left: b.left}
}

func (b *bank) Hold(_ context.Context, c treasury.Call) (treasury.Promise, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.away {
		return treasury.Promise{}, &treasury.Refusal{Away: true}
	}
	if b.budget == nil {
		b.held[c.ID] = c
		return treasury.Promise{ID: c.ID, Most: c.Most}, nil
	}
	if _, known := b.held[c.ID]; !known {
		if c.Most > b.left {
			return treasury.Promise{}, &treasury.Refusal{Standing: b.standing()}
		}
		b.held[c.ID] = c
		b.left -= c.Most
	}
	return treasury.Promise{ID: c.ID, Most: c.Most, Standings: []treasury.Standing{b.standing()}}, nil
}

func (b *bank) Settle(id string, cost usage.PicoUSD, _ time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	held, known := b.held[id]
	if !known {
		return false
	}
	delete(b.held, id)
	b.left += held.Most - budget.Ceil(int64(cost))
	b.settled[id] = cost
	return true
}

func (b *bank) accept(_ context.Context, spans []usage.Span, _ []usage.Quality) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return b.broken
	}
	for _, s := range spans {
		if s.Model == "bad" {
			return errors.Join(ingest.ErrRecord, errors.New("model: is bad"))
		}
	}
	for _, s := range spans {
		if _, known := b.spans[s.TraceID+"/"+s.SpanID]; !known {
			b.spans[s.TraceID+"/"+s.SpanID] = s
		}
	}
	return nil
}

// clock is when the tests of this file take place.
var clock = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func externalOptions(t testing.TB, b *bank) gateway.ExternalOptions {
	door, err := ingest.NewDoor(nil)
	require.NoError(t, err)
	return gateway.ExternalOptions{
		Door: door, Treasury: b, Accept: b.accept, OutputCap: 4000,
		Budgets: func(string) ([]budget.Budget, bool) {
			if b.budget == nil {
				return nil, true
			}
			return []budget.Budget{*b.budget}, true
		},
	}
}

// external is a gateway without flags, at a time that the test moves.
func external(t testing.TB, o gateway.ExternalOptions, now func() time.Time) http.Handler {
	all := options(t, &fixed{})
	all.Now = now
	rules := fallbacks(&trusts{})
	rules.Quality = nil
	all.Fallbacks = gateway.NewFallbacks(rules)
	h := gateway.NewExternal(gateway.New(all), o).Handler()
	if test, ok := t.(*testing.T); ok {
		return apitest.Hold(test, h)
	}
	return h
}

func still() time.Time { return clock }

// ask is question with more said, or said otherwise.
func ask(more map[string]any) string {
	body := map[string]any{
		"tenant_id": "org_42", "session_id": "s", "trace_id": "t", "requested_model": "big",
		"input_tokens": 1000, "max_output_tokens": 100, "task": "support", "provider": "test",
	}
	for name, value := range more {
		if value == nil {
			delete(body, name)
			continue
		}
		body[name] = value
	}
	text, _ := json.Marshal(body)
	return string(text)
}

func post(t testing.TB, h http.Handler, path, body string, status int) map[string]any {
	w := call(h, "POST", path, body)
	require.Equal(t, status, w.Code, w.Body.String())
	var answer map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	return answer
}

func settleOne(t testing.TB, h http.Handler, report map[string]any) map[string]any {
	text, err := json.Marshal(report)
	require.NoError(t, err)
	answer := post(t, h, "/v1/settle", string(text), http.StatusOK)
	require.Empty(t, answer["refused"])
	require.Len(t, answer["settled"], 1)
	return answer["settled"].([]any)[0].(map[string]any)
}

func TestDecideHoldsTheWorstCost(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	w := call(h, "POST", "/v1/decide", ask(map[string]any{"key": "web", "choices": 2, "span_id": "c1"}))
	require.Equal(t, http.StatusOK, w.Code)
	// 1,000 tokens at 10 dollars a million and 2 × 100 at 30
	require.JSONEq(t, `{"model":"big","route":"direct","reason":"no flag is on for this key","arm":"none","share":0,"stop":false,
		"hold_id":"t/c1","estimated_cost_usd":0.016,"budget_remaining_usd":0.984}`, w.Body.String())
	require.Equal(t, budget.Micro(16_000), b.held["t/c1"].Most)
	require.Equal(t, budget.Call{Tenant: "org_42", Key: "web", Session: "s", Model: "big"}, b.held["t/c1"].Of)
	require.Equal(t, usage.Tokens{UncachedInput: 1000, Output: 200}, b.held["t/c1"].Span.Tokens)
	require.Equal(t, "0.984", w.Header().Get("X-LLM-Budget-Remaining"))
	require.Equal(t, `"org_42 in \"all\"";q=1000000;qu="micro-usd";w=2592000`, w.Header().Get("RateLimit-Policy"))
	require.Equal(t, `"org_42 in \"all\"";r=984000;t=388800`, w.Header().Get("RateLimit"))

	// a retry is the same call
	require.Equal(t, 0.984, post(t, h, "/v1/decide", ask(map[string]any{"key": "web", "choices": 2, "span_id": "c1"}), http.StatusOK)["budget_remaining_usd"])

	// without a cap of its own the configured one is held, and the caller told
	capped := post(t, h, "/v1/decide", ask(map[string]any{"max_output_tokens": nil}), http.StatusOK)
	require.Equal(t, 4000.0, capped["max_output_tokens"])
	require.Equal(t, 0.854, capped["budget_remaining_usd"])

	// only asked: nothing is held
	asked := post(t, h, "/v1/decide", ask(map[string]any{"hold": false}), http.StatusOK)
	require.NotContains(t, asked, "hold_id")
	require.Len(t, b.held, 2)
	require.Equal(t, budget.Micro(854_000), b.left)

	// nor is the hold of a call that is under way given back by a question about it
	post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1", "hold": false}), http.StatusOK)
	require.Contains(t, b.held, "t/c1")
	require.Equal(t, budget.Micro(854_000), b.left)
}

func TestDecideRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	b := monthly(12_999)
	h := external(t, externalOptions(t, b), still)
	for _, more := range []map[string]any{{}, {"hold": false}, {"provider": "anthropic", "requested_model": "unknown"}} {
		w := call(h, "POST", "/v1/decide", ask(more))
		require.Equal(t, http.StatusOK, w.Code)
		var answer struct {
			Model, Route, Reason string
			Stop                 bool
			RetryAfter           int `json:"retry_after_seconds"`
			Refusal              struct {
				Status int
				Code   string
				Body   json.RawMessage
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
		require.True(t, answer.Stop)
		require.Equal(t, "budget", answer.Route)
		require.NotContains(t, w.Body.String(), "hold_id")
		if more["requested_model"] == "unknown" {
			require.Equal(t, http.StatusForbidden, answer.Refusal.Status)
			require.Contains(t, string(answer.Refusal.Body), `{"type":"error","error":{"type":"permission_error"`)
			continue
		}
		require.Equal(t, http.StatusTooManyRequests, answer.Refusal.Status)
		require.Equal(t, 388_800, answer.RetryAfter)
		require.Equal(t, "388800", w.Header().Get("Retry-After"))
		require.Equal(t, `"org_42 in \"all\"";r=12999;t=388800`, w.Header().Get("RateLimit"))
		require.Contains(t, answer.Reason, "has 0.012999 USD left until 2026-12-01T00:00:00Z")
		var body struct {
			Error struct{ Message, Type, Code string }
		}
		require.NoError(t, json.Unmarshal(answer.Refusal.Body, &body))
		require.Equal(t, "budget_exceeded", body.Error.Type)
		require.Equal(t, "budget_exceeded", body.Error.Code)
		require.Equal(t, answer.Reason, body.Error.Message)
	}
	require.Empty(t, b.held)

	b.away = true
	gone := post(t, h, "/v1/decide", ask(nil), http.StatusOK)
	require.Equal(t, true, gone["stop"])
	require.Equal(t, 503.0, gone["refusal"].(map[string]any)["status"])
}

func TestSessionsEndBeforeTheirBudget(t *testing.T) {
	t.Parallel()
	b := monthly(100_000)
	b.budget.Per, b.budget.Period, b.window = budget.PerSession, budget.Session, budget.Window{}
	h := external(t, externalOptions(t, b), still)
	b.left = 5_001                                                       // of 100,000: less than 95 % are gone
	small := map[string]any{"requested_model": "small", "span_id": "c1"} // 1,300 µ$
	require.Equal(t, false, post(t, h, "/v1/decide", ask(small), http.StatusOK)["stop"])
	b.left = 5_000
	small["span_id"] = "c2"
	require.Equal(t, true, post(t, h, "/v1/decide", ask(small), http.StatusOK)["stop"])
	require.NotContains(t, b.held, "t/c2")
}

func TestSettle(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	now := clock
	h := external(t, externalOptions(t, b), func() time.Time { return now })
	hold := post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1", "tags": map[string]string{"team": "search"}}), http.StatusOK)["hold_id"]
	now = now.Add(2 * time.Second)
	report := map[string]any{
		"hold_id": hold, "usage": map[string]any{"prompt_tokens": 900, "completion_tokens": 50, "total_tokens": 950},
		"provider": "openai", "cost_usd": 0.0107, "latency_ms": 1800, "ttft_ms": 200,
	}
	settled := settleOne(t, h, report)
	// 900 at 10 dollars a million and 50 at 30
	require.Equal(t, map[string]any{
		"hold_id": "t/c1", "known": true, "recorded": true, "repeated": false, "usage_complete": true, "cost_usd": 0.0105,
	}, settled)
	require.Equal(t, budget.Micro(989_500), b.left)
	s := b.spans["t/c1"]
	reported := usage.PicoUSD(10_700_000_000)
	require.Equal(t, usage.Span{
		TraceID: "t", SpanID: "c1", Timestamp: now, TenantID: "org_42", SessionID: "s", Provider: "openai", RequestedModel: "big", Model: "big",
		Task: "support", Tokens: usage.Tokens{UncachedInput: 900, Output: 50}, UsageComplete: true, Cost: 10_500_000_000, Priced: true,
		CostReported: &reported, PriceVersion: "test", LatencyMS: 1800, TTFTMS: 200, Route: "direct", Arm: usage.None,
		Tags: map[string]string{"team": "search"},
	}, s)

	// the same again, or something else, changes nothing
	report["usage"] = map[string]any{"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
	again := settleOne(t, h, report)
	settled["repeated"] = true
	require.Equal(t, settled, again)
	require.Equal(t, budget.Micro(989_500), b.left)
	require.Equal(t, s, b.spans["t/c1"])

	// and its id is taken
	require.Contains(t, call(h, "POST", "/v1/decide", ask(map[string]any{"span_id": "c1"})).Body.String(), "span_id: a call of this trace has it already")
}

func TestSettleByOutcome(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		report   map[string]any
		cost     float64
		recorded bool
		complete bool
		tokens   usage.Tokens
	}{
		"our counts": {
			map[string]any{"tokens": map[string]any{"prompt": 1000, "completion": 10, "cached": 0, "reasoning": 4}},
			0.0103, true, true,
			usage.Tokens{UncachedInput: 1000, Output: 10, Reasoning: 4},
		},
		"nothing known":         {map[string]any{}, 0.013, true, false, usage.Tokens{UncachedInput: 1000, Output: 100}},
		"cancelled":             {map[string]any{"status": "cancelled"}, 0, false, true, usage.Tokens{}},
		"failed":                {map[string]any{"status": "failed"}, 0, false, true, usage.Tokens{}},
		"failed, and billed":    {map[string]any{"status": "failed", "tokens": map[string]any{"prompt": 100}}, 0.001, true, true, usage.Tokens{UncachedInput: 100}},
		"aborted":               {map[string]any{"status": "aborted"}, 0.013, true, false, usage.Tokens{UncachedInput: 1000, Output: 100}},
		"aborted, input known":  {map[string]any{"status": "aborted", "tokens": map[string]any{"prompt": 100}}, 0.004, true, false, usage.Tokens{UncachedInput: 100, Output: 100}},
		"not understood":        {map[string]any{"provider": "openai", "usage": map[string]any{"words": 3}}, 0.013, true, false, usage.Tokens{UncachedInput: 1000, Output: 100}},
		"served by a small one": {map[string]any{"model": "small", "tokens": map[string]any{"prompt": 1000, "completion": 100}}, 0.0013, true, true, usage.Tokens{UncachedInput: 1000, Output: 100}},
		"by a name that the book does not know": {
			map[string]any{"model": "big-2026-11-01", "tokens": map[string]any{"prompt": 1000, "completion": 100}},
			0.013, true, true,
			usage.Tokens{UncachedInput: 1000, Output: 100},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := monthly(1_000_000)
			h := external(t, externalOptions(t, b), still)
			tc.report["hold_id"] = post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1"}), http.StatusOK)["hold_id"]
			settled := settleOne(t, h, tc.report)
			require.Equal(t, tc.cost, settled["cost_usd"])
			require.Equal(t, true, settled["known"])
			require.Equal(t, tc.recorded, settled["recorded"])
			require.Equal(t, tc.complete, settled["usage_complete"])
			require.Equal(t, tc.tokens, b.spans["t/c1"].Tokens)
			require.Equal(t, 1_000_000-budget.Micro(tc.cost*1e6+0.5), b.left)
		})
	}
}

// The text that was seen bounds what an answer that was cut off can have cost, with what may have been under way.
func TestSettleAbortedByItsText(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	hold := post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1", "max_output_tokens": 5000}), http.StatusOK)["hold_id"]
	settleOne(t, h, map[string]any{"hold_id": hold, "status": "aborted", "output_bytes": 500})
	require.Equal(t, usage.Tokens{UncachedInput: 1000, Output: 1500}, b.spans["t/c1"].Tokens)
}

func TestSettleWithoutItsHold(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	report := map[string]any{
		"hold_id": "elsewhere/c1", "tokens": map[string]any{"prompt": 900, "completion": 50}, "tenant_id": "org_42", "requested_model": "big",
		"session_id": "s", "task": "support", "route": "direct", "arm": "none",
	}
	settled := settleOne(t, h, report)
	require.Equal(t, false, settled["known"])
	require.Equal(t, true, settled["recorded"])
	require.Equal(t, 0.0105, settled["cost_usd"])
	require.Equal(t, "elsewhere", b.spans["elsewhere/c1"].TraceID)
	require.Equal(t, budget.Micro(1_000_000), b.left, "the ledger will charge it")

	for field, report := range map[string]string{
		"tenant_id":       `{"hold_id":"t/x","tokens":{"prompt":1},"requested_model":"big"}`,
		"requested_model": `{"hold_id":"t/x","tokens":{"prompt":1},"tenant_id":"org_42"}`,
		"hold_id":         `{"hold_id":"x","tokens":{"prompt":1},"tenant_id":"org_42","requested_model":"big"}`,
	} {
		answer := post(t, h, "/v1/settle", report, http.StatusBadRequest)
		require.Equal(t, field, answer["refused"].([]any)[0].(map[string]any)["field"])
	}
}

// A hold that has lapsed is settled all the same: its gateway knows best.
func TestSettleLate(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	now := clock
	h := external(t, externalOptions(t, b), func() time.Time { return now })
	hold := post(t, h, "/v1/decide", ask(map[string]any{"ttl_seconds": 60}), http.StatusOK)["hold_id"]
	now = now.Add(30 * time.Minute)
	require.Equal(t, true, settleOne(t, h, map[string]any{"hold_id": hold, "status": "cancelled"})["known"])
	require.Equal(t, budget.Micro(1_000_000), b.left)
}

func TestSettleMany(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	for _, span := range []string{"c1", "c2", "c3"} {
		post(t, h, "/v1/decide", ask(map[string]any{"span_id": span}), http.StatusOK)
	}
	answer := post(t, h, "/v1/settle", `[
		{"hold_id":"t/c1","tokens":{"prompt":1,"completion":1}},
		{"hold_id":"t/c2","tokens":{"prompt":1,"completion":1},"model":"bad"},
		{"hold_id":"t/c1","tokens":{"prompt":1,"completion":1}},
		{"hold_id":"t/c3","tokens":{"prompt":1,"completion":1},"record":false},
		{"hold_id":"t/c3","status":"lost"},
		{"hold_id":"t/c3","tokens":{"prompt":1,"completion":1,"cached":2}},
		{"hold_id":"t/c3","token":{}},
		7,
		{"hold_id":"t/c3","tokens":{"prompt":1,"completion":1}}]`, http.StatusOK)
	require.Len(t, answer["settled"], 2)
	var wrong []string
	for _, r := range answer["refused"].([]any) {
		r := r.(map[string]any)
		wrong = append(wrong, r["field"].(string)+": "+r["reason"].(string))
	}
	require.Len(t, wrong, 7)
	all := strings.Join(wrong, "\n")
	for _, says := range []string{"another report settles it just now", "send it one way alone", `"lost" is none of`, "input tokens are negative", `unknown field "token"`, "not the JSON object expected", "model: is bad"} {
		require.Contains(t, all, says)
	}
	require.Contains(t, b.held, "t/c2", "what was refused can be settled still")
	require.Equal(t, true, settleOne(t, h, map[string]any{"hold_id": "t/c2", "tokens": map[string]any{"prompt": 1}})["known"])
	require.Empty(t, b.held)
}

// While the spool takes nothing, nothing is settled, and all of it can be sent again.
func TestSettleWaitsForTheSpool(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1"}), http.StatusOK)
	b.broken = errors.New("the disk is full")
	w := call(h, "POST", "/v1/settle", `{"hold_id":"t/c1","tokens":{"prompt":1}}`)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, b.held, "t/c1")
	b.broken = nil
	require.Equal(t, false, settleOne(t, h, map[string]any{"hold_id": "t/c1", "tokens": map[string]any{"prompt": 1}})["repeated"])
}

func TestSettleOnceUnderManyHands(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	h := external(t, externalOptions(t, b), still)
	post(t, h, "/v1/decide", ask(map[string]any{"span_id": "c1"}), http.StatusOK)
	var hands sync.WaitGroup
	for range 20 {
		hands.Go(func() { call(h, "POST", "/v1/settle", `{"hold_id":"t/c1","tokens":{"prompt":1000}}`) })
	}
	hands.Wait()
	require.Equal(t, budget.Micro(990_000), b.left)
	require.Equal(t, map[string]usage.PicoUSD{"t/c1": 10_000_000_000}, b.settled)
}

// Who speaks for one tenant sees and ends no other's calls.
func TestCallersKeepToTheirTenant(t *testing.T) {
	t.Parallel()
	b := monthly(1_000_000)
	o := externalOptions(t, b)
	door, err := ingest.NewDoor([]ingest.Token{
		{Name: "litellm", Hashes: []string{ingest.HashToken("trusted")}, Scopes: []ingest.Scope{ingest.ScopeDecide}},
		{Name: "web", Hashes: []string{ingest.HashToken("ours")}, Tenant: "org_42", Scopes: []ingest.Scope{ingest.ScopeCalls}},
		{Name: "other", Hashes: []string{ingest.HashToken("theirs")}, Tenant: "org_7", Scopes: []ingest.Scope{ingest.ScopeCalls}},
		{Name: "senders", Hashes: []string{ingest.HashToken("spans")}, Scopes: []ingest.Scope{ingest.ScopeSpans}},
	})
	require.NoError(t, err)
	o.Door = door
	h := external(t, o, still)
	as := func(secret, path, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", path, strings.NewReader(body))
		if secret != "" {
			r.Header.Set("Authorization", "Bearer "+secret)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, http.StatusUnauthorized, as("", "/v1/decide", ask(nil)).Code)
	require.Equal(t, http.StatusForbidden, as("spans", "/v1/decide", ask(nil)).Code)
	require.Equal(t, http.StatusForbidden, as("theirs", "/v1/decide", ask(nil)).Code)
	require.Equal(t, http.StatusOK, as("trusted", "/v1/decide", ask(map[string]any{"span_id": "c1", "key": "named"})).Code)
	require.Equal(t, "named", b.held["t/c1"].Of.Key)
	require.Equal(t, http.StatusForbidden, as("ours", "/v1/decide", ask(map[string]any{"key": "named"})).Code)
	require.Equal(t, http.StatusOK, as("ours", "/v1/decide", ask(map[string]any{"span_id": "c2", "tenant_id": nil})).Code)
	require.Equal(t, budget.Call{Tenant: "org_42", Key: "web", Session: "s", Model: "big"}, b.held["t/c2"].Of)
	require.Contains(t, as("theirs", "/v1/decide", ask(map[string]any{"span_id": "c1", "tenant_id": nil})).Body.String(), "span_id: a call of this trace has it")

	cancel := `{"hold_id":"t/c1","status":"cancelled"}`
	require.Contains(t, as("theirs", "/v1/settle", cancel).Body.String(), `"known":false`)
	require.Contains(t, b.held, "t/c1")
	require.Contains(t, as("ours", "/v1/settle", cancel).Body.String(), `"known":true`)
	require.NotContains(t, b.held, "t/c1")
}
