package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/contract"
)

// patient is what the canary meets: an ingest and gateway, and the canary's alert loop, each of which
// can be ill. Its gateway obeys its loop's flag.
type patient struct {
	activities.Temporal
	refuses  bool  // ingest
	deaf     bool  // the gateway never obeys
	stubborn bool  // it goes on obeying
	away     error // the loop
	lavish   bool  // budgets refuse nothing
	closed   bool  // budgets cannot be asked, and so everything is refused
	forgets  bool  // budgets are not removed

	mu     sync.Mutex
	orders []contract.SetFlagRequest
	ids    []string // of the orders
	budget bool     // is set
	given  []string // back: holds
}

func (p *patient) NewWithStartWorkflowOperation(client.StartWorkflowOptions, any, ...any) client.WithStartWorkflowOperation {
	return nil
}

func (p *patient) UpdateWithStartWorkflow(_ context.Context, o client.UpdateWithStartWorkflowOptions) (client.WorkflowUpdateHandle, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orders = append(p.orders, o.UpdateOptions.Args[0].(contract.SetFlagRequest))
	p.ids = append(p.ids, o.UpdateOptions.UpdateID)
	return settledUpdate{}, p.away
}

type settledUpdate struct{ client.WorkflowUpdateHandle }

func (settledUpdate) Get(context.Context, any) error { return nil }

func (p *patient) share() (share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.orders {
		if o.Share > 0 || !p.stubborn {
			share = o.Share
		}
	}
	return share
}

func (p *patient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/v1/spans" && p.refuses:
		http.Error(w, "send a valid ingest token", http.StatusUnauthorized)
	case strings.HasPrefix(r.URL.Path, "/v1/budgets"):
		p.budgets(w, r)
	case r.URL.Path == "/v1/settle":
		var report struct {
			Hold string `json:"hold_id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&report)
		p.mu.Lock()
		p.given = append(p.given, report.Hold)
		p.mu.Unlock()
		_, _ = w.Write([]byte("{}"))
	case r.URL.Path == "/v1/decide" && p.isSet():
		code := "budget_exceeded"
		if p.closed {
			code = "budgets_unavailable"
		}
		answer := map[string]any{"model": canaryModel, "stop": true, "refusal": map[string]any{"code": code}}
		if p.lavish {
			answer = map[string]any{"model": canaryModel, "hold_id": "canary/budget"}
		}
		_ = json.NewEncoder(w).Encode(answer)
	case r.URL.Path == "/v1/decide":
		model := canaryModel
		if p.share() > 0 && !p.deaf {
			model = canaryRoute
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"model": model})
	default:
		_, _ = w.Write([]byte("{}"))
	}
}

func (p *patient) isSet() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.budget
}

// budgets has room for the canary's alone.
func (p *patient) budgets(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch r.Method {
	case http.MethodPut:
		p.budget = true
	case http.MethodDelete:
		if p.forgets {
			http.Error(w, "the store is away", http.StatusServiceUnavailable)
			return
		}
		p.budget = false
	}
	list := []map[string]any{}
	if p.budget {
		list = append(list, map[string]any{"id": canaryBudget, "ceiling_usd": 0.000001})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"budgets": list})
}

func TestDoctorNamesTheHopThatFails(t *testing.T) {
	t.Parallel()
	const ack, on, obeys, off = "a call is acknowledged", "a durable loop puts a flag on", "the gateway obeys it", "the flag comes off"
	const holds, gone = "a budget refuses a call", "the budget is gone"
	for name, tc := range map[string]struct {
		ill    *patient
		cut    time.Duration // after which whoever called gives up
		fails  string        // empty: nothing
		says   string
		orders int // of which the last takes the flag off
		also   string
	}{
		"well":                {ill: &patient{}, orders: 2},
		"ingest refuses":      {ill: &patient{refuses: true}, fails: ack, says: "send a valid ingest token"},
		"the loop is away":    {ill: &patient{away: errors.New("no worker")}, fails: on, says: "no worker", orders: 2, also: "could not be taken off, and ends by itself within 2m0s"},
		"the gateway is deaf": {ill: &patient{deaf: true}, fails: obeys, says: `it decides "canary", want "canary-rerouted"`, orders: 2},
		"the flag stays":      {ill: &patient{stubborn: true}, fails: off, says: `it decides "canary-rerouted", want "canary"`, orders: 3},
		"budgets are lavish":  {ill: &patient{lavish: true}, fails: holds, says: "was let through", orders: 3},
		"budgets are away":    {ill: &patient{closed: true}, fails: holds, says: `not refused by its budget: stop is true, the code "budgets_unavailable"`, orders: 3},
		"the budget stays":    {ill: &patient{forgets: true}, fails: gone, says: "the store is away", orders: 3, also: "the canary's budget could not be removed, and binds the tenant flyball-canary alone"},
		"the caller leaves":   {ill: &patient{deaf: true}, cut: 20 * time.Millisecond, fails: obeys, says: "it decides", orders: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.ill)
			t.Cleanup(server.Close)
			e := &examination{ingest: server.URL, id: "canary", loop: &activities.Loop{Client: tc.ill, Log: slog.New(slog.DiscardHandler)}}
			var hops []hop // those that need no engine
			for _, h := range e.canary() {
				if slices.Contains([]string{ack, on, obeys, off, holds, gone}, h.name) {
					hops = append(hops, h)
				}
			}
			require.Len(t, hops, 6)
			ctx := t.Context()
			if tc.cut > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tc.cut)
				defer cancel()
			}
			var out strings.Builder
			err := e.examine(ctx, hops, doctorOptions{within: 100 * time.Millisecond}, &out)

			orders := slices.CompactFunc(slices.Clone(tc.ill.ids), func(a, b string) bool { return a == b }) // a repeated order is one
			require.Len(t, orders, tc.orders)
			if n := len(tc.ill.orders); n > 0 {
				last := tc.ill.orders[n-1]
				require.Zero(t, last.Share, "the canary leaves no flag")
				require.Equal(t, "doctor/canary", last.Decision)
				require.LessOrEqual(t, time.Until(last.ExpiresAt), canaryExpiry)
			}
			require.Equal(t, tc.ill.forgets, tc.ill.isSet(), "the canary leaves no budget")
			require.Equal(t, tc.ill.lavish, len(tc.ill.given) > 0, "what was held is given back")
			if tc.fails == "" {
				require.NoError(t, err)
				require.NotContains(t, out.String(), "FAIL")
				return
			}
			var exit *exitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, exitFailed, exit.code)
			require.ErrorContains(t, err, "this hop does not work: "+tc.fails)
			require.ErrorContains(t, err, tc.also)
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			require.Regexp(t, "^FAIL  "+tc.fails+" .*"+tc.says, lines[len(lines)-2])
			require.Regexp(t, "^      mend: .", lines[len(lines)-1])
			for _, line := range lines[:len(lines)-2] {
				require.Regexp(t, "^ok ", line)
			}
		})
	}
}

func TestDoctorTakesAServiceThatDoesNotAnswerForAway(t *testing.T) {
	t.Parallel()
	e := &examination{}
	for _, h := range e.connections() {
		require.Equal(t, exitAway, h.code, h.name)
		require.NotEmpty(t, h.mend, h.name)
	}
	for _, h := range e.canary() {
		require.Equal(t, exitFailed, h.code, h.name)
		require.NotEmpty(t, h.mend, h.name)
	}
}
