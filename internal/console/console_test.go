package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a Telemetry, a Work and a Status that the test sets.
type world struct {
	mu        sync.Mutex
	now       time.Time
	err       error // of telemetry and work
	series    []console.Series
	incidents []console.Incident
	decisions []console.Decision
	verdicts  []console.Verdict
	groups    []console.Group
	mutes     console.Mutes
	orders    []console.Order
	status    console.Status
	from, to  time.Time // what telemetry was asked for last
}

func (w *world) Live(_ context.Context, from, to time.Time, _ int) ([]console.Series, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.from, w.to = from, to
	var all []console.Series
	for _, s := range w.series {
		part := s
		part.Minutes = nil
		for _, m := range s.Minutes {
			if !m.Start.Before(from) && m.Start.Before(to) {
				part.Minutes = append(part.Minutes, m)
			}
		}
		all = append(all, part)
	}
	return all, w.err
}

func (w *world) Incidents(context.Context) ([]console.Incident, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.incidents, w.err
}

func (w *world) Decisions(context.Context) ([]console.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]console.Decision{}, w.decisions...), w.err
}

func (w *world) Decide(_ context.Context, v console.Verdict) (console.Decision, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return console.Decision{}, w.err
	}
	for i := range w.decisions {
		d := &w.decisions[i]
		if d.ID != v.ID {
			continue
		}
		w.verdicts = append(w.verdicts, v)
		if v.Verdict == "deny" {
			gone := *d
			w.decisions = append(w.decisions[:i:i], w.decisions[i+1:]...)
			return gone, nil
		}
		d.Waiting, d.Status, d.Share = false, "actuating", d.Shares[0]
		return *d, nil
	}
	return console.Decision{}, fmt.Errorf("decision %s: %w", v.ID, console.ErrNotFound)
}

func (w *world) Groups(context.Context) ([]console.Group, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]console.Group{}, w.groups...), w.err
}

func (w *world) Mutes(context.Context) (console.Mutes, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return console.Mutes{Muted: append([]console.Mute{}, w.mutes.Muted...), Unanswered: w.mutes.Unanswered}, w.err
}

func (w *world) Report(_ context.Context, id string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return "# The report of " + id + "\n", w.err
}

// Order keeps what was ordered, and does what the page shows of it.
func (w *world) Order(_ context.Context, o console.Order) (console.Outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return console.Outcome{}, w.err
	}
	w.orders = append(w.orders, o)
	remark := console.Remark{Who: o.Who, Text: o.Reason, At: w.now}
	incidents := append([]console.Incident{}, w.incidents...)
	for i := range incidents {
		if incidents[i].ID == o.ID && o.Do == "acknowledge" {
			incidents[i].Acknowledged = &remark
		}
		if incidents[i].ID == o.ID && o.Do == "annotate" {
			incidents[i].Notes = append(incidents[i].Notes, remark)
		}
	}
	w.incidents = incidents
	switch o.Do {
	case "mute":
		w.mutes.Muted = append(w.mutes.Muted, console.Mute{Target: o.ID, Until: w.now.Add(time.Duration(o.Minutes) * time.Minute), Who: o.Who, Reason: o.Reason})
	case "unmute":
		w.mutes.Muted = slices.DeleteFunc(w.mutes.Muted, func(m console.Mute) bool { return m.Target == o.ID })
	}
	return console.Outcome{ID: o.ID, Answered: true}, nil
}

func (w *world) ordered() []console.Order {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]console.Order{}, w.orders...)
}

func (w *world) given() []console.Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]console.Verdict{}, w.verdicts...)
}

func (w *world) change(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func (w *world) handler(t *testing.T, hosts ...string) http.Handler {
	c, err := console.New(console.Options{
		Telemetry: w, Work: w, Hosts: hosts, Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Status: func() console.Status {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.status
		},
	})
	require.NoError(t, err)
	return c.Handler()
}

// pico is dollars in pico-dollars, for fixtures only.
func pico(dollars float64) console.USD { return console.USD(math.Round(dollars * 1e12)) }

// story is a busy hour: one key's calls got dear and worse a while ago and a downgrade is asked for, on
// another one an act is half way up.
func story(now time.Time) *world {
	rng := rand.New(rand.NewPCG(1, 2))
	w := &world{now: now, status: console.Status{
		Banner:     "Demo profile: simulated tenants, a runbook ten times as fast, and a week of invented history. Nothing here is billed to anyone.",
		Components: []console.Component{{Name: "clickhouse", State: "ready"}, {Name: "redis", State: "ready"}, {Name: "temporal", State: "ready", Detail: "127.0.0.1:7233"}},
		TemporalUI: "http://127.0.0.1:8233",
	}}
	first := now.Truncate(time.Minute).Add(-62 * time.Minute)
	for _, k := range []struct {
		key                usage.Key
		calls, cost, score float64
		change, acting     int // the minutes when it got worse, and when an act began; 0: never
	}{
		{usage.Key{Tenant: "org_42", Model: "claude-3-opus"}, 90, 0.0044, 0.88, 53, 0},
		{usage.Key{Tenant: "acme-retail", Model: "gpt-4o"}, 140, 0.0021, 0.84, 30, 38},
		{usage.Key{Tenant: "acme-retail", Model: "gpt-4o-mini"}, 420, 0.00021, 0.81, 0, 0},
		{usage.Key{Tenant: "northwind", Model: "gemini-1.5-pro"}, 55, 0.0032, 0.86, 0, 0},
		{usage.Key{Tenant: "northwind", Model: "text-embedding-3-large"}, 600, 0.0000042, 0, 0, 0},
	} {
		s := console.Series{Key: k.key, Usual: &console.Usual{Cost: pico(k.cost), Quality: k.score, SpendPerMinute: pico(k.cost * k.calls * 1.3)}}
		for m := range 63 {
			arms := map[usage.Arm]float64{usage.None: 1}
			if k.acting > 0 && m >= k.acting {
				share := map[bool]float64{true: 0.5, false: 0.1}[m >= k.acting+8]
				arms = map[usage.Arm]float64{usage.Treated: share, usage.Holdback: 1 - share}
			}
			for arm, share := range arms {
				cost, score := k.cost, k.score
				if k.change > 0 && m >= k.change && arm != usage.Treated {
					cost, score = cost*2.9, score*0.8
				}
				noise := func(sd float64) float64 { return math.Exp(rng.NormFloat64() * sd) }
				calls := math.Round(k.calls * share * noise(0.08))
				row := console.Minute{
					Start: first.Add(time.Duration(m) * time.Minute), Arm: arm, Requests: int64(calls),
					Cost: pico(cost * noise(0.04)), Spend: pico(calls * cost * 1.3 * noise(0.06)),
				}
				if score > 0 {
					row.Scores, row.Quality = int64(calls/5), math.Min(1, score*noise(0.012))
				}
				s.Minutes = append(s.Minutes, row)
			}
		}
		w.series = append(w.series, s)
	}
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	w.incidents = []console.Incident{
		{
			Carried: "prompt template rag-v3.2 carries 91 % of the rise in spend: $8.20 of $9.00 an hour more",
			ID:      "incident/org_42/claude-3-opus/1", Handle: "a41f09", Key: w.series[0].Key, Level: "PAGE", State: "open", Opened: at(6 * time.Minute),
			Rule: "cost_and_quality", Reason: "A call costs 2.9 times the usual and quality fell to 0.80 of it.",
			Evidence: []console.Evidence{
				{What: "Median cost of a call", Now: "$0.0128", Usual: "usually $0.0044"},
				{What: "Median quality", Now: "0.70", Usual: "usually 0.88"},
				{What: "Samples, 2 minutes", Now: "178 costs, 36 scores"},
			},
			Steps: []console.Step{
				{Name: "T0", Title: "Tell, and look for a change", Status: "clear", Text: "No deployment, new model or new template within 30m of the regression", At: at(6 * time.Minute)},
				{Name: "T+2", Title: "Is the provider healthy?", Status: "unknown", Text: "The status of anthropic is unknown: its page did not answer", At: at(4 * time.Minute)},
				{Name: "T+5", Title: "What does the completion ratio say?", Status: "found", Text: "Completion ratio 0.61 against 0.27 before (× 2.26): a spike means prompt injection, runaway output or context overflow", At: at(time.Minute)},
				{Name: "T+10", Title: "Still unclear: score every call, freeze the automatic downgrade", Status: "pending", At: at(-4 * time.Minute)},
				{Name: "T+30", Title: "Report: what it was, what it cost, how to find it next time", Status: "pending", At: at(-24 * time.Minute)},
			},
			Link: "http://127.0.0.1:8233/namespaces/default/workflows/x",
		},
		{
			ID: "incident/acme-retail/gpt-4o/1", Handle: "07be12", Key: w.series[1].Key, Level: "INVESTIGATE", State: "recovering", Opened: at(31 * time.Minute),
			Rule: "cost_z", Reason: "A call costs 2.9 times the usual; quality is stable.",
			Evidence: []console.Evidence{{What: "Median cost of a call", Now: "$0.0061", Usual: "usually $0.0021"}},
			Steps: []console.Step{
				{Name: "T0", Title: "Tell, and look for a change", Status: "found", Text: "deploy-bot deployed rag-service v3.3, 2m10s before the regression", At: at(31 * time.Minute)},
				{Name: "T+2", Title: "Deployment found: roll back. None: is the provider healthy?", Status: "skipped", Text: "skipped: a deployment explains it", At: at(29 * time.Minute)},
			},
		},
	}
	w.incidents[0].Previous = &console.Previous{
		ID: "incident/org_42/claude-3-opus/0", Handle: "51d0aa", Opened: at(9 * 24 * time.Hour), Cause: "deployment",
		Reason: "rag-service v3.1 was rolled back", Query: "SELECT prompt_template_version, count() FROM spans GROUP BY 1",
	}
	w.incidents[1].Notes = []console.Remark{{Who: "Eve", Text: "The team of rag-service knows.", At: at(20 * time.Minute)}}
	w.incidents[1].Mute = &console.Mute{Target: w.incidents[1].ID, Until: at(-time.Hour), Who: "Eve", Reason: "they know"}
	w.mutes.Muted = []console.Mute{{Target: "acme-retail/gpt-4o", Until: at(-time.Hour), Who: "Eve", Reason: "they know"}}
	group := console.Group{
		ID: "incident/group/provider:google/1", Handle: "5e0f11", Cause: "provider:google", Level: "INVESTIGATE", State: "open", Opened: at(3 * time.Minute),
		Reason: "Nine keys that google serves are failing together.",
		Steps:  []console.Step{{Name: "T0", Title: "Tell, and look for a change", Status: "clear", Text: "No deployment explains it", At: at(3 * time.Minute)}},
	}
	for i := range 9 {
		group.Keys = append(group.Keys, console.Member{Key: usage.Key{Tenant: fmt.Sprintf("tenant-%d", i), Model: "gemini-1.5-pro"}, Level: "INVESTIGATE"})
	}
	group.Keys[8].Left = "resolved"
	w.groups = []console.Group{group}
	w.decisions = []console.Decision{
		{
			ID: "decision/incident/org_42/claude-3-opus/1/downgrade/1", Handle: "c3d9e0", Incident: w.incidents[0].ID, Key: w.series[0].Key,
			Action: "downgrade", Value: "claude-3-sonnet", Waiting: true, Status: "awaiting_approval",
			Reason: "Cost is 2.9 times its baseline; claude-3-sonnet meets the floor of 0.75 at a fifth of the price.",
			Rule:   "downgrade_on_page", Opened: at(5 * time.Minute), ExpiresAt: at(-25 * time.Minute), Shares: []float64{0.1, 0.5, 0.93},
			Trust: "3 of 10 approvals before it may act by itself", Link: "http://127.0.0.1:8233/namespaces/default/workflows/y",
		},
		{
			ID: "decision/incident/acme-retail/gpt-4o/1/downgrade/1", Handle: "9f00aa", Incident: w.incidents[1].ID, Key: w.series[1].Key,
			Action: "downgrade", Value: "gpt-4o-mini", Status: "actuating", Reason: "Approved by Dana.", Rule: "downgrade_on_cost",
			Opened: at(25 * time.Minute), Shares: []float64{0.1, 0.5, 0.95}, Share: 0.5,
			Effect: "The act helps: treated costs 0.36 × the holdback (z −21.4), quality +0.151 (z 6.0)",
		},
	}
	return w
}

var noon = time.Date(2026, 3, 1, 12, 0, 20, 0, time.UTC)

func get(h http.Handler, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost:8088"+target, nil))
	return w
}

func TestPages(t *testing.T) {
	h := story(noon).handler(t)
	for path, contentType := range map[string]string{
		"/": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8",
		"/style.css": "text/css; charset=utf-8", "/icon.svg": "image/svg+xml",
	} {
		w := get(h, path)
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Equal(t, contentType, w.Header().Get("Content-Type"))
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
		require.NotContains(t, w.Header().Get("Content-Security-Policy"), "unsafe")
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.NotContains(t, w.Body.String(), "https://", "%s asks another host", path)

		again := httptest.NewRequest("GET", "http://localhost"+path, nil)
		again.Header.Set("If-None-Match", w.Header().Get("ETag"))
		unchanged := httptest.NewRecorder()
		h.ServeHTTP(unchanged, again)
		require.Equal(t, http.StatusNotModified, unchanged.Code)
	}
	require.Equal(t, http.StatusNotFound, get(h, "/index.html.bak").Code)
	require.Equal(t, http.StatusNotFound, get(h, "/api/nothing").Code)
}

func TestLive(t *testing.T) {
	w := story(noon)
	h := w.handler(t)
	r := get(h, "/api/live")
	require.Equal(t, http.StatusOK, r.Code)
	require.Equal(t, "no-store", r.Header().Get("Cache-Control"))
	require.Equal(t, time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC), w.from)
	require.Equal(t, noon, w.to)
	var body struct {
		From, To time.Time
		Keys     []struct {
			Key     usage.Key
			Usual   map[string]json.Number
			Minutes []map[string]any
		}
	}
	require.NoError(t, json.Unmarshal(r.Body.Bytes(), &body))
	require.Equal(t, noon, body.To)
	require.Len(t, body.Keys, 5)
	require.Equal(t, json.Number("0.0044"), body.Keys[0].Usual["cost_usd"], "money is an exact decimal")
	require.Len(t, body.Keys[0].Minutes, 61)

	for asked, want := range map[string]time.Time{
		"2026-03-01T11:57:20Z":     time.Date(2026, 3, 1, 11, 57, 20, 0, time.UTC),
		"2020-01-01T00:00:00Z":     time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC),
		"2026-03-01T11:57:20.123Z": time.Date(2026, 3, 1, 11, 57, 20, 123e6, time.UTC),
	} {
		require.Equal(t, http.StatusOK, get(h, "/api/live?from="+asked).Code)
		require.Equal(t, want, w.from)
	}
	require.Equal(t, http.StatusBadRequest, get(h, "/api/live?from=yesterday").Code)
}

func TestEmptyListsAreLists(t *testing.T) {
	h := (&world{now: noon}).handler(t)
	require.Equal(t, "[]\n", get(h, "/api/incidents").Body.String())
	require.Equal(t, "[]\n", get(h, "/api/groups").Body.String())
	require.Equal(t, "[]\n", get(h, "/api/decisions").Body.String())
	require.JSONEq(t, `{"muted":[],"unanswered":0}`, get(h, "/api/mutes").Body.String())
	require.JSONEq(t, `{"components":[]}`, get(h, "/api/status").Body.String())
	require.Contains(t, get(h, "/api/live").Body.String(), `"keys":[]`)
}

func TestFailures(t *testing.T) {
	w := story(noon)
	h := w.handler(t)
	for _, tt := range []struct {
		err    error
		status int
		says   string
	}{
		{fmt.Errorf("temporal is building: %w", console.ErrAway), 503, "temporal is building"},
		{fmt.Errorf("it has expired: %w", console.ErrRefused), 409, "it has expired"},
		{console.ErrNotFound, 404, "not found"},
		{errors.New("dial tcp 10.0.0.7: a secret"), 500, "the log says why"},
	} {
		w.err = tt.err
		for _, path := range []string{"/api/live", "/api/incidents", "/api/groups", "/api/decisions", "/api/mutes", "/api/report?id=x"} {
			r := get(h, path)
			require.Equal(t, tt.status, r.Code)
			require.Contains(t, r.Body.String(), tt.says)
			require.NotContains(t, r.Body.String(), "secret")
		}
		require.Equal(t, http.StatusOK, get(h, "/api/status").Code, "the status needs nobody")
	}
}

func post(h http.Handler, target, contentType, origin, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", target, strings.NewReader(body))
	r.Header.Set("Content-Type", contentType)
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestDecide(t *testing.T) {
	w := story(noon)
	h := w.handler(t)
	id := w.decisions[0].ID
	const target, own, asJSON = "http://localhost:8088/api/decide", "http://localhost:8088", "application/json; charset=utf-8"
	approve := `{"id":"` + id + `","verdict":"approve","who":" Dana ","reason":""}`
	for _, tt := range []struct {
		name, contentType, origin, body string
		status                          int
		says                            string
	}{
		{"a form of another page", "text/plain", own, approve, 415, "send application/json"},
		{"another origin", asJSON, "http://evil.example", approve, 403, ""},
		{"no id", asJSON, own, `{"verdict":"approve","who":"Dana"}`, 400, "id is missing"},
		{"no such verdict", asJSON, own, `{"id":"x","verdict":"maybe","who":"Dana"}`, 400, "approve or deny"},
		{"unsigned", asJSON, own, `{"id":"x","verdict":"approve","who":"  "}`, 400, "who is missing"},
		{"deny without reason", asJSON, own, `{"id":"x","verdict":"deny","who":"Dana","reason":" "}`, 400, "reason is missing"},
		{"long reason", asJSON, own, `{"id":"x","verdict":"deny","who":"Dana","reason":"` + strings.Repeat("x", 2001) + `"}`, 400, "longer than 2000"},
		{"large body", asJSON, own, `{"id":"` + strings.Repeat("x", 20_000) + `"}`, 400, "too large"},
		{"two objects", asJSON, own, `{}{}`, 400, "id is missing|more than one"},
		{"unknown field", asJSON, own, `{"force":true}`, 400, "unknown field"},
		{"unknown decision", asJSON, own, `{"id":"x","verdict":"approve","who":"Dana"}`, 404, "decision x: not found"},
		{"approved from the page", asJSON, own, approve, 200, `"status":"actuating"`},
		{"denied by a program", asJSON, "", `{"id":"` + w.decisions[1].ID + `","verdict":"deny","who":"Dana","reason":"the launch is today"}`, 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := post(h, target, tt.contentType, tt.origin, tt.body)
			require.Equal(t, tt.status, r.Code, r.Body.String())
			require.Regexp(t, tt.says, r.Body.String())
		})
	}
	require.Equal(t, []console.Verdict{
		{ID: id, Verdict: "approve", Who: "Dana"},
		{ID: "decision/incident/acme-retail/gpt-4o/1/downgrade/1", Verdict: "deny", Who: "Dana", Reason: "the launch is today"},
	}, w.given())
}

// TestHooks: programs elsewhere call what is under /hooks/, by the console's name; nothing else is theirs.
func TestHooks(t *testing.T) {
	w := story(noon)
	c, err := console.New(console.Options{
		Telemetry: w, Work: w, Hosts: []string{"flyball.corp.example"}, Logger: slog.New(slog.DiscardHandler), Now: time.Now,
		Status: func() console.Status { return console.Status{} },
		Hooks:  http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hook ", r.URL.Path) }),
	})
	require.NoError(t, err)
	call := func(h http.Handler, host, path string) (int, string) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader("payload=x"))
		r.Host = host
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", "https://elsewhere.example")
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, r)
		return answer.Code, answer.Body.String()
	}
	status, body := call(c.Handler(), "flyball.corp.example", "/hooks/pagerduty")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "hook /hooks/pagerduty", body)
	status, _ = call(c.Handler(), "evil.example", "/hooks/pagerduty")
	require.Equal(t, http.StatusForbidden, status)
	status, _ = call(c.Handler(), "flyball.corp.example", "/api/decide")
	require.Equal(t, http.StatusForbidden, status, "the API is for its own origin still")
	status, _ = call(w.handler(t), "localhost", "/hooks/pagerduty")
	require.NotEqual(t, http.StatusOK, status, "without hooks there are none")
}

func TestOrder(t *testing.T) {
	w := story(noon)
	h := w.handler(t)
	const target, own, asJSON = "http://localhost:8088/api/order", "http://localhost:8088", "application/json"
	for _, tt := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"no such order", `{"do":"ignore","id":"x","who":"Dana"}`, 400, "it is acknowledge, resolve"},
		{"about nothing", `{"do":"resolve","who":"Dana"}`, 400, "id is missing"},
		{"unsigned", `{"do":"resolve","id":"x","who":" "}`, 400, "who is missing"},
		{"mute for no time", `{"do":"mute","id":"x","who":"Dana","reason":"why"}`, 400, "needs 1 to 43200"},
		{"mute for ever", `{"do":"mute","id":"x","who":"Dana","reason":"why","minutes":43201}`, 400, "needs 1 to 43200"},
		{"mute backwards", `{"do":"mute","id":"x","who":"Dana","reason":"why","minutes":-1}`, 400, "needs 1 to 43200"},
		{"mute without reason", `{"do":"mute","id":"x","who":"Dana","reason":" ","minutes":60}`, 400, "reason is missing"},
		{"note of nothing", `{"do":"annotate","id":"x","who":"Dana"}`, 400, "reason is missing"},
		{"no step", `{"do":"skip_step","id":"x","who":"Dana"}`, 400, "step is for"},
		{"a step of something else", `{"do":"resolve","id":"x","who":"Dana","step":"T0"}`, 400, "step is for"},
		{"split nothing off", `{"do":"split","id":"x","who":"Dana","reason":"why"}`, 400, "key is for split"},
		{"too long", `{"do":"resolve","id":"` + strings.Repeat("x", 2001) + `","who":"Dana"}`, 400, "longer than any"},
		{"unknown field", `{"do":"resolve","id":"x","who":"Dana","force":true}`, 400, "unknown field"},
		{"good", `{"do":"mute","id":"org_42/*","who":" Dana ","reason":"load test","minutes":60}`, 200, `{"id":"org_42/\*","answered":true}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := post(h, target, asJSON, own, tt.body)
			require.Equal(t, tt.status, r.Code, r.Body.String())
			require.Regexp(t, tt.says, r.Body.String())
		})
	}
	require.Equal(t, []console.Order{{Do: "mute", ID: "org_42/*", Who: "Dana", Reason: "load test", Minutes: 60}}, w.ordered())
	require.Equal(t, http.StatusForbidden, post(h, target, asJSON, "http://evil.example", `{}`).Code)
	require.Equal(t, http.StatusUnsupportedMediaType, post(h, target, "text/plain", own, `{}`).Code)
	w.err = console.ErrRefused
	require.Equal(t, http.StatusConflict, post(h, target, asJSON, own, `{"do":"resolve","id":"x","who":"Dana"}`).Code)
}

func TestReport(t *testing.T) {
	h := story(noon).handler(t)
	r := get(h, "/api/report?id=incident/a/b/1")
	require.Equal(t, http.StatusOK, r.Code)
	require.Equal(t, "text/plain; charset=utf-8", r.Header().Get("Content-Type"), "a report quotes what others wrote: no browser may run it")
	require.Equal(t, "# The report of incident/a/b/1\n", r.Body.String())
	require.Equal(t, http.StatusBadRequest, get(h, "/api/report").Code)
}

func TestHosts(t *testing.T) {
	h := story(noon).handler(t, "flyball.corp.example")
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8088": 200, "127.0.0.1:8088": 200, "[::1]:8088": 200, "10.1.2.3": 200,
		"flyball.corp.example:443": 200, "evil.example": 403, "localhost.evil.example": 403, "": 403,
	} {
		r := httptest.NewRequest("GET", "/api/status", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, want, w.Code, host)
		_, err := io.Copy(io.Discard, w.Body)
		require.NoError(t, err)
	}
}
