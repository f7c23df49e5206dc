package gateway_test

import (
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// TestFallback: what was not worked on goes to the next upstream of the family; what may have been goes nowhere.
func TestFallback(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	away := "http://" + closed.Addr().String()
	require.NoError(t, closed.Close())
	second, secondURL := upstreamtest.Start(t, upstreamtest.Options{Key: upstreamKey})
	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		first := upstreamOf("away", "openai", away)
		first.Fallback, first.Models = []string{"busy", "second"}, []string{"gpt-*"}
		s.Gate.Upstreams = append([]config.Upstream{first, upstreamOf("busy", "openai", s.Gate.Upstreams[0].URL[:len(s.Gate.Upstreams[0].URL)-3]), upstreamOf("second", "openai", secondURL)}, s.Gate.Upstreams[1])
	})
	r.upstream.Fail(upstreamtest.Failure{Status: 429})
	require.Equal(t, http.StatusOK, r.post(keyA, "/v1/chat/completions", chat).StatusCode)
	require.EqualValues(t, 1, second.Spend().Calls)

	r.upstream.Fail(upstreamtest.Failure{Cut: 3})
	require.Equal(t, http.StatusBadGateway, r.post(keyA, "/v1/chat/completions", chat).StatusCode)
	require.EqualValues(t, 1, second.Spend().Calls, "a call that may have been worked on was made again")
	span := r.span(2)
	require.False(t, span.UsageComplete)
	require.GreaterOrEqual(t, span.Tokens.Output, r.upstream.Spend().Output)
}

func TestOurKeyIsNoBusinessOfClients(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		s.Gate.Upstreams[0].KeyEnv = "" // it sends none
	})
	got := r.post(keyA, "/v1/chat/completions", chat)
	require.Equal(t, http.StatusBadGateway, got.StatusCode)
	require.Contains(t, got.body, "the gateway's own key")
	require.Empty(t, r.durable())
}

func TestPrivateAddressesAreNotDialled(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		u := &s.Gate.Upstreams[0]
		u.AllowPrivate, u.URL = false, strings.Replace(u.URL, "http://", "https://", 1)
	})
	require.Equal(t, http.StatusBadGateway, r.post(keyA, "/v1/chat/completions", chat).StatusCode)
	require.Empty(t, r.upstream.Calls())
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, func(s *setup) { s.MaxBody, s.MaxHeader = 2<<10, 4<<10 })
	for name, got := range map[string]answer{
		"413 request_too_large":    r.post(keyA, "/v1/chat/completions", strings.Repeat(" ", 3<<10)),
		"431 ":                     r.post(keyA, "/v1/chat/completions", chat, "X-Long", strings.Repeat("x", 16<<10)),
		"415 unsupported_encoding": r.post(keyA, "/v1/chat/completions", chat, "Content-Encoding", "gzip"),
		"400 X-Llm-Session":        r.post(keyA, "/v1/chat/completions", chat, "X-Llm-Session", strings.Repeat("x", 300)),
		"400 bad_request":          r.post(keyA, "/v1/chat/completions", `{"model":"gpt-4o","model":"gpt-5"}`),
		"401 invalid_api_key":      r.post("fly_nobody", "/v1/chat/completions", chat),
		"404 model_not_found":      r.post(keyA, "/v1/chat/completions", strings.Replace(chat, "gpt-4o", "*", 1)),
	} {
		status, says, _ := strings.Cut(name, " ")
		require.Equal(t, status, got.Status[:3], got.body)
		require.Contains(t, got.body, says)
	}
	require.Empty(t, r.upstream.Calls())
}

// TestBudgets: refused in the provider's own shape, with what is left and until when; a session's last fifth is thrifty.
func TestBudgets(t *testing.T) {
	t.Parallel()
	from := time.Now().UTC().Truncate(24 * time.Hour)
	day := treasury.Standing{
		Budget: budget.Budget{ID: "d", Tenant: "org_b", Per: budget.PerTenant, Period: budget.Day, Ceiling: 1000},
		Window: budget.Window{From: from, To: from.Add(24 * time.Hour)}, Left: 3,
	}
	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		t := tradeoff()
		t.Tiers = []routing.Tier{
			{Provider: "openai", Model: "gpt-4o", CostMult: 10, QualityFloor: 0.95}, {Provider: "openai", Model: "gpt-4o-mini", CostMult: 1, QualityFloor: 0.8},
		}
		o := fallbacks(&trusts{})
		o.Tradeoff = func() routing.Tradeoff { return t }
		s.gate.Fallbacks = gateway.NewFallbacks(o)
	})
	r.bank.budgets = []budget.Budget{day.Budget}
	r.bank.answer = func(treasury.Call) (treasury.Promise, error) {
		return treasury.Promise{}, &treasury.Refusal{Standing: day}
	}
	got := r.post(keyB, "/v1/messages", messages, "Anthropic-Version", "2023-06-01")
	require.Equal(t, http.StatusTooManyRequests, got.StatusCode)
	require.Contains(t, got.body, `"type":"budget_exceeded"`)
	require.Equal(t, `"d";q=1000;qu="micro-usd";w=86400`, got.Header.Get("RateLimit-Policy"))
	require.Contains(t, got.Header.Get("RateLimit"), `"d";r=3;t=`)
	require.Equal(t, "0.000003", got.Header.Get("X-LLM-Budget-Remaining"))
	require.NotEmpty(t, got.Header.Get("Retry-After"))
	require.Empty(t, r.upstream.Calls())

	session := treasury.Standing{Budget: budget.Budget{ID: "s", Per: budget.PerSession, Period: budget.Session, Ceiling: 1_000_000}}
	left := func(share float64) func(treasury.Call) (treasury.Promise, error) {
		return func(c treasury.Call) (treasury.Promise, error) {
			s := session
			s.Left = budget.Micro(share*1_000_000) - c.Most
			return treasury.Promise{ID: c.ID, Most: c.Most, Standings: []treasury.Standing{s}}, nil
		}
	}
	uncapped := strings.Replace(chat, `,"max_completion_tokens":100`, "", 1)
	r.bank.answer = left(0.5)
	require.Equal(t, "gpt-4o", r.post(keyA, "/v1/chat/completions", uncapped).Header.Get("X-LLM-Model"))
	require.Contains(t, string(r.upstream.Calls()[0].Body), `"max_completion_tokens":16384`)
	r.bank.answer = left(0.15)
	thrifty := r.post(keyA, "/v1/chat/completions", chat)
	require.Equal(t, "gpt-4o-mini", thrifty.Header.Get("X-LLM-Model"))
	require.Equal(t, routing.SessionBudget, thrifty.Header.Get("X-LLM-Route"))
	r.bank.answer = left(0.04)
	over := r.post(keyA, "/v1/chat/completions", chat)
	require.Equal(t, http.StatusTooManyRequests, over.StatusCode)
	require.Contains(t, over.body, `"code":"budget_exceeded"`)
	require.Contains(t, over.body, "Start a new session")
}

func TestFlagsDecideWhoServes(t *testing.T) {
	t.Parallel()
	flag := route(1)
	flag.Key.Tenant, flag.Key.Model, flag.Value = "org_a", "gpt-4o", "gpt-4o-mini"
	halt := route(1)
	halt.Key.Tenant, halt.Key.Model, halt.Kind, halt.Value = "org_b", "gpt-4o", routing.Stop, ""
	r := newRig(t, upstreamtest.Options{}, func(s *setup) { s.gate.Flags = &fixed{flags: []routing.Flag{flag, halt}} })
	eventually(t, "the flags are not obeyed", func() bool { return r.post(keyB, "/v1/chat/completions", chat).StatusCode == http.StatusForbidden })
	got := r.post(keyA, "/v1/chat/completions", chat)
	require.Equal(t, "gpt-4o-mini", got.Header.Get("X-LLM-Model"))
	calls := r.upstream.Calls()
	require.Equal(t, strings.Replace(chat, "gpt-4o", "gpt-4o-mini", 1), string(calls[len(calls)-1].Body))
	eventually(t, "no treated span", func() bool {
		for _, s := range r.durable() {
			if s.Arm == "treated" && s.DecisionID == "d1" && s.RequestedModel == "gpt-4o" {
				return true
			}
		}
		return false
	})
}

// TestDrain: no further calls, those under way finish, and their telemetry is durable though the spool was full.
func TestDrain(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{OutputTokens: 100, Pace: 2 * time.Millisecond}, nil)
	r.mu.Lock()
	r.fails = 2
	r.mu.Unlock()
	done := make(chan answer, 1)
	go func() { done <- r.post(keyA, "/v1/chat/completions", streamed) }()
	eventually(t, "the call is not under way", func() bool { return r.upstream.InFlight() == 1 })
	r.stop()
	eventually(t, "calls are let in", func() bool {
		got := r.post(keyA, "/v1/chat/completions", chat)
		return got.StatusCode == http.StatusServiceUnavailable && got.Close
	})
	require.Contains(t, (<-done).body, "[DONE]")
	err := <-r.ended
	r.ended <- err
	require.NoError(t, err)
	require.NotEmpty(t, r.durable())
}
