package simulate

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// plant speaks the ingest and decision APIs and remembers what it was told.
type plant struct {
	mu     sync.Mutex
	spans  map[string]Span
	scores map[string]Score
	asked  map[string]routing.Request // by trace
	posts  int
	moods  map[int]func(w http.ResponseWriter) // what the n-th post meets after its records are stored
	refuse func(path string) (reason string)
}

func (p *plant) serve(t *testing.T) string {
	p.spans, p.scores, p.asked = map[string]Span{}, map[string]Score{}, map[string]routing.Request{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/spans", func(w http.ResponseWriter, r *http.Request) {
		take(p, w, r, p.spans, func(s Span) string { return s.SpanID })
	})
	mux.HandleFunc("POST /v1/quality", func(w http.ResponseWriter, r *http.Request) {
		take(p, w, r, p.scores, func(s Score) string { return s.ID })
	})
	mux.HandleFunc("POST /v1/decide", func(w http.ResponseWriter, r *http.Request) {
		var q routing.Request
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.asked[q.TraceID] = q
		p.mu.Unlock()
		a := routing.Answer{Model: q.RequestedModel, Route: routing.Direct, Arm: usage.None}
		switch {
		case q.RequestedModel == "claude-3-opus" && q.TraceID < "8":
			a = routing.Answer{Model: "claude-3-sonnet", Route: "route", Arm: usage.Treated, Share: 0.5, DecisionID: "d7"}
		case q.RequestedModel == "claude-3-opus":
			a.Arm, a.Share, a.DecisionID = usage.Holdback, 0.5, "d7"
		case q.RequestedModel == "gpt-4o":
			a.Stop = true
		}
		_ = json.NewEncoder(w).Encode(a)
	})
	mux.HandleFunc("GET /v1/sampling", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		_ = json.NewEncoder(w).Encode(map[string]any{"sampled": q.Get("tenant") == "org_42" && q.Get("model") == "claude-3-opus" && q.Get("trace_id") != "", "rate": 1})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

func take[T any](p *plant, w http.ResponseWriter, r *http.Request, into map[string]T, id func(T) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var records []T
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&records); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	type refusal struct {
		Index  int    `json:"index"`
		Field  string `json:"field"`
		Reason string `json:"reason"`
	}
	answer := struct {
		Accepted   int       `json:"accepted"`
		Refused    []refusal `json:"refused"`
		Duplicates int       `json:"duplicates"`
	}{}
	for i, record := range records {
		if p.refuse != nil && i == 0 {
			answer.Refused = append(answer.Refused, refusal{i, "model", p.refuse(r.URL.Path)})
			continue
		}
		if _, ok := into[id(record)]; ok {
			answer.Duplicates++
			continue
		}
		into[id(record)] = record
		answer.Accepted++
	}
	p.posts++
	if mood := p.moods[p.posts]; mood != nil {
		mood(w)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// hurried are demo workloads with enough calls for a test that runs in real time.
func hurried() []Workload {
	workloads := Demo()[:3]
	for i := range workloads {
		workloads[i].Rate = 20
	}
	return workloads
}

// start runs a simulator until the test ends or the returned function is called.
func start(t *testing.T, o Options) (*Simulator, func()) {
	o.Logger = quiet()
	s := New(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
	})
	t.Cleanup(stop)
	return s, stop
}

func TestSimulatorClosesTheLoop(t *testing.T) {
	t.Parallel()
	lost := func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) } // stored, but the answer was lost
	p := &plant{moods: map[int]func(http.ResponseWriter){1: lost, 2: lost, 4: lost}}
	url := p.serve(t)
	s, stop := start(t, Options{Ingest: url, Decide: url, Seed: 1, Workloads: hurried()})
	require.Eventually(t, func() bool {
		n := s.Stats()
		return n.Spans > 200 && n.Scores > 50
	}, 30*time.Second, 50*time.Millisecond)
	stop()

	stats := s.Stats()
	require.Zero(t, stats.Refused)
	require.Positive(t, stats.Stopped)
	require.Positive(t, stats.Treated)
	require.Positive(t, stats.Holdback)
	require.LessOrEqual(t, stats.Spans, int64(len(p.spans)), "what was acknowledged is stored")
	require.LessOrEqual(t, stats.Scores, int64(len(p.scores)))
	undecided := int64(0) // a busy machine may answer some questions too late
	for _, span := range p.spans {
		q, asked := p.asked[span.TraceID]
		if !asked || span.RequestedModel == "gpt-4o" || span.RequestedModel == "claude-3-opus" && span.DecisionID == "" {
			undecided++
			require.Equal(t, usage.None, span.Arm)
			continue
		}
		require.Equal(t, span.RequestedModel, q.RequestedModel)
		require.Equal(t, span.TenantID, q.TenantID)
		require.Equal(t, span.SessionID, q.SessionID)
		require.Positive(t, q.InputTokens)
		switch {
		case span.RequestedModel != "claude-3-opus":
			require.Equal(t, usage.None, span.Arm)
		case span.TraceID < "8":
			require.Equal(t, usage.Treated, span.Arm)
			require.Equal(t, "claude-3-sonnet-20240229", span.Model)
			require.Equal(t, "d7", span.DecisionID)
		default:
			require.Equal(t, usage.Holdback, span.Arm)
			require.Equal(t, "claude-3-opus-20240229", span.Model)
		}
	}
	require.LessOrEqual(t, undecided, stats.Undecided)
	for _, score := range p.scores {
		if score.Arm == usage.None {
			require.Positive(t, stats.Undecided, "a call was scored that /v1/sampling left out")
			continue
		}
		require.Equal(t, "claude-3-opus", score.Model, "the judge obeys /v1/sampling")
	}
}

func TestSimulatorOutlivesTheDecisionAPI(t *testing.T) {
	t.Parallel()
	p := &plant{}
	url := p.serve(t)
	away := httptest.NewServer(nil)
	away.Close()
	s, stop := start(t, Options{Ingest: url, Decide: away.URL, Seed: 1, Workloads: hurried()})
	require.Eventually(t, func() bool { return s.Stats().Spans > 50 }, 30*time.Second, 50*time.Millisecond)
	stop()
	require.Equal(t, s.Stats().Calls, s.Stats().Undecided)
	for _, span := range p.spans {
		require.Equal(t, usage.None, span.Arm)
	}
}

func TestSimulatorGoesOnAfterRefusals(t *testing.T) {
	t.Parallel()
	p := &plant{refuse: func(string) string { return "is not welcome" }}
	url := p.serve(t)
	s, _ := start(t, Options{Ingest: url, Decide: url, Seed: 1, Workloads: hurried()})
	require.Eventually(t, func() bool { return s.Stats().Refused > 2 && s.Stats().Spans > 50 }, 30*time.Second, 50*time.Millisecond)
}

func TestOutboxIsBounded(t *testing.T) {
	t.Parallel()
	s := New(Options{Logger: quiet()})
	s.queue(make([]Span, maxOutbox+7), nil)
	require.Len(t, s.outbox.spans, maxOutbox)
	require.Equal(t, int64(7), s.Stats().Overflowed)
}

func TestSeedHistoryStoresOnce(t *testing.T) {
	t.Parallel()
	p := &plant{moods: map[int]func(http.ResponseWriter){1: func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) }}}
	workloads := Demo()[1:2]
	workloads[0].Rate = 0.1
	s := New(Options{Ingest: p.serve(t), Seed: 1, Workloads: workloads, Logger: quiet()})
	defer s.http.CloseIdleConnections()
	require.NoError(t, s.SeedHistory(t.Context(), noon))
	stored := len(p.spans)
	require.Greater(t, stored, 1000)
	require.Equal(t, int64(stored), s.Stats().Spans)
	require.NoError(t, s.SeedHistory(t.Context(), noon))
	require.Len(t, p.spans, stored)

	p.mu.Lock()
	p.refuse = func(string) string { return "is not welcome" }
	p.mu.Unlock()
	require.ErrorContains(t, s.SeedHistory(t.Context(), noon), "refused")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, s.SeedHistory(ctx, noon), context.Canceled)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	h := New(Options{Logger: quiet()}).Handler()
	do := func(method, path, body string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body)))
		return w.Code, w.Body.String()
	}
	code, body := do("POST", "/v1/chaos", `{"kind":"cost","tenant_id":"org_42","model":"claude-3-opus","factor":3,"quality":0.8,"for":"5m"}`)
	require.Equal(t, http.StatusCreated, code, body)
	var f Fault
	require.NoError(t, json.Unmarshal([]byte(body), &f))
	require.Equal(t, 5*time.Minute, f.Ends.Sub(f.Began))

	code, body = do("GET", "/v1/chaos", "")
	require.Equal(t, http.StatusOK, code)
	var list Faults
	require.NoError(t, json.Unmarshal([]byte(body), &list))
	require.Equal(t, []Fault{f}, list.Faults)

	for _, c := range []struct {
		body string
		code int
		says string
	}{
		{`{"kind":"cost"`, http.StatusBadRequest, "not an order"},
		{`{"kind":"cost","tennant":"x"}`, http.StatusBadRequest, "tennant"},
		{`{"for":"5m"} {}`, http.StatusBadRequest, "more than one"},
		{`{"kind":"cost","for":"soon"}`, http.StatusBadRequest, "not a duration"},
		{`{"kind":"cost","tenant_id":"nobody","model":"gpt-4o","factor":2,"for":"5m"}`, http.StatusUnprocessableEntity, "org_42 claude-3-opus"},
		{`{"kind":"` + strings.Repeat("x", maxOrder) + `"}`, http.StatusBadRequest, "too large"},
	} {
		code, body = do("POST", "/v1/chaos", c.body)
		require.Equal(t, c.code, code, body)
		var problem Problem
		require.NoError(t, json.Unmarshal([]byte(body), &problem))
		require.Contains(t, problem.Error.Message, c.says)
	}

	code, _ = do("DELETE", "/v1/chaos/"+f.ID, "")
	require.Equal(t, http.StatusNoContent, code)
	code, body = do("DELETE", "/v1/chaos/"+f.ID, "")
	require.Equal(t, http.StatusNotFound, code, body)
	_, body = do("GET", "/v1/chaos", "")
	require.JSONEq(t, `{"faults":[]}`, body)
}
