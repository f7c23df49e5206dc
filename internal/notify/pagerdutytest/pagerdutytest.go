// Package pagerdutytest is a PagerDuty for tests: it takes events and change events over the real wire
// (Events API v2, with its field limits, answers and deduplication), keeps incidents as PagerDuty does, fails
// when it is told to, and sends webhooks (v3) that are signed.
package pagerdutytest

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// RoutingKey is the one that it knows.
const RoutingKey = "R0123456789ABCDEF0123456789ABCDE"

// Event is an event as it came.
type Event struct {
	RoutingKey string  `json:"routing_key"`
	Action     string  `json:"event_action"`
	DedupKey   string  `json:"dedup_key"`
	Client     string  `json:"client"`
	ClientURL  string  `json:"client_url"`
	Links      []Link  `json:"links"`
	Payload    Payload `json:"payload"`
}

// Payload is what an event or a change event tells.
type Payload struct {
	Summary   string         `json:"summary"`
	Source    string         `json:"source"`
	Severity  string         `json:"severity"`
	Timestamp string         `json:"timestamp"`
	Component string         `json:"component"`
	Group     string         `json:"group"`
	Class     string         `json:"class"`
	Details   map[string]any `json:"custom_details"`
}

// Link is a link of an event.
type Link struct {
	Href string `json:"href"`
	Text string `json:"text"`
}

// Incident is what PagerDuty made of events with one key.
type Incident struct {
	ID       string
	DedupKey string
	Status   string // triggered, acknowledged or resolved
	Title    string
	Events   []Event // that it took for this incident
}

// Answer is how it answers one request.
type Answer struct {
	Status     int    // 0: as PagerDuty would
	RetryAfter string // header
	Takes      bool   // it takes the event whatever it answers
	Hangs      bool   // it does not answer until the caller has gone
}

// Server is one PagerDuty account.
type Server struct {
	URL string

	mu        sync.Mutex
	script    []Answer
	always    *Answer
	incidents []Incident
	changes   []Event
	requests  int
	closed    chan struct{}
}

// New starts one; it ends with the test.
func New(t testing.TB) *Server {
	s := &Server{closed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/enqueue", s.serve(s.take))
	mux.HandleFunc("POST /v2/change/enqueue", s.serve(s.takeChange))
	server := httptest.NewServer(mux)
	s.URL = server.URL
	t.Cleanup(func() { close(s.closed); server.Close() })
	return s
}

// Script says how the next requests are answered, one each; those after as PagerDuty would. It takes the place
// of what was left of the last script.
func (s *Server) Script(answers ...Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = answers
}

// Always says how all requests are answered until it says otherwise; nil: as PagerDuty would.
func (s *Server) Always(answer *Answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = answer
}

// Requests counts what came.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Incidents are all, oldest first: each is one page.
func (s *Server) Incidents() []Incident {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.incidents)
}

// Changes are the change events.
func (s *Server) Changes() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.changes)
}

// serve answers as the script says, or with what take says.
func (s *Server) serve(take func(Event) (status int, body any)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 512<<10))
		s.mu.Lock()
		s.requests++
		var answer Answer
		switch {
		case len(s.script) > 0:
			answer, s.script = s.script[0], s.script[1:]
		case s.always != nil:
			answer = *s.always
		}
		status, body := http.StatusRequestEntityTooLarge, any(nil)
		if err == nil && (answer.Status == 0 && !answer.Hangs || answer.Takes) {
			var e Event
			if err = json.Unmarshal(raw, &e); err != nil {
				status, body = invalid("Event object is invalid", err.Error())
			} else {
				status, body = take(e)
			}
		}
		s.mu.Unlock()
		if answer.Hangs {
			select {
			case <-r.Context().Done():
			case <-s.closed:
			}
			return
		}
		if answer.Status != 0 {
			status, body = answer.Status, map[string]any{"status": "error", "message": http.StatusText(answer.Status)}
		}
		if answer.RetryAfter != "" {
			w.Header().Set("Retry-After", answer.RetryAfter)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func invalid(message string, problems ...string) (int, any) {
	return http.StatusBadRequest, map[string]any{"status": "invalid event", "message": message, "errors": problems}
}

// problems are what PagerDuty would refuse.
func (e Event) problems(change bool) (problems []string) {
	say := func(wrong bool, problem string) {
		if wrong {
			problems = append(problems, problem)
		}
	}
	say(len(e.RoutingKey) != 32, "Length of 'routing_key' is incorrect (should be 32 characters)")
	say(e.RoutingKey != RoutingKey, "'routing_key' is invalid")
	say(len(e.Payload.Summary) > 1024, "'payload.summary' is too long (maximum 1024)")
	for _, l := range e.Links {
		say(l.Href == "", "'links.href' is missing or blank")
	}
	if change {
		say(e.Payload.Summary == "", "'payload.summary' is missing or blank")
		return problems
	}
	say(!slices.Contains([]string{"trigger", "acknowledge", "resolve"}, e.Action), "'event_action' is invalid")
	say(len(e.DedupKey) > 255, "'dedup_key' is too long (maximum 255)")
	say(e.Action != "trigger" && e.DedupKey == "", "'dedup_key' is missing or blank")
	if e.Action == "trigger" {
		say(e.Payload.Summary == "", "'payload.summary' is missing or blank")
		say(e.Payload.Source == "", "'payload.source' is missing or blank")
		say(!slices.Contains([]string{"critical", "error", "warning", "info"}, e.Payload.Severity), "'payload.severity' is invalid")
	}
	return problems
}

// take applies an event to the open incident of its key; a trigger without one opens one, anything else
// without one is dropped.
func (s *Server) take(e Event) (int, any) {
	if problems := e.problems(false); len(problems) > 0 {
		return invalid("Event object is invalid", problems...)
	}
	open := s.open(e.DedupKey)
	switch {
	case open == nil && e.Action == "trigger":
		s.incidents = append(s.incidents, Incident{
			ID: fmt.Sprintf("Q%013d", len(s.incidents)+1), DedupKey: e.DedupKey, Status: "triggered", Title: e.Payload.Summary, Events: []Event{e},
		})
	case open != nil:
		open.Events = append(open.Events, e)
		switch e.Action {
		case "acknowledge":
			open.Status = "acknowledged"
		case "resolve":
			open.Status = "resolved"
		}
	}
	return http.StatusAccepted, map[string]string{"status": "success", "message": "Event processed", "dedup_key": e.DedupKey}
}

func (s *Server) open(key string) *Incident {
	for i := range s.incidents {
		if s.incidents[i].DedupKey == key && s.incidents[i].Status != "resolved" {
			return &s.incidents[i]
		}
	}
	return nil
}

func (s *Server) takeChange(e Event) (int, any) {
	if problems := e.problems(true); len(problems) > 0 {
		return invalid("Change event is invalid", problems...)
	}
	s.changes = append(s.changes, e)
	return http.StatusAccepted, map[string]string{"status": "success", "message": "Change event processed"}
}

// Webhook is the body of a webhook about the incident, as PagerDuty's documentation shows it.
type Webhook struct {
	ID        string // of the event; empty: a new one
	Type      string // incident.acknowledged …
	At        time.Time
	AgentType string // empty: user_reference
	Agent     string // name
	Note      string // of incident.annotated
}

// Body writes the webhook's body.
func (i Incident) Body(w Webhook) []byte {
	reference := func(id, kind, summary string) map[string]any {
		return map[string]any{"id": id, "type": kind, "summary": summary, "self": "https://api.pagerduty.com/x/" + id, "html_url": "https://acme.pagerduty.com/x/" + id}
	}
	if w.ID == "" {
		w.ID = uuid.NewString()
	}
	if w.AgentType == "" {
		w.AgentType = "user_reference"
	}
	data := map[string]any{
		"id": i.ID, "type": "incident", "number": 2, "status": i.Status, "incident_key": i.DedupKey, "title": i.Title,
		"service": reference("PF9KMXH", "service_reference", "Flyball"), "urgency": "high", "resolve_reason": nil,
	}
	if w.Type == "incident.annotated" {
		data = map[string]any{
			"id": "P2LA89X", "type": "incident_note", "content": w.Note, "trimmed": false,
			"incident": reference(i.ID, "incident_reference", i.Title),
		}
	}
	body, err := json.Marshal(map[string]any{"event": map[string]any{
		"id": w.ID, "event_type": w.Type, "resource_type": "incident", "occurred_at": w.At.UTC().Format("2006-01-02T15:04:05.000Z"),
		"agent": reference("PLH1HKV", w.AgentType, w.Agent), "client": map[string]string{"name": "PagerDuty"}, "data": data,
	}})
	if err != nil {
		panic(err) // strings and maps of them
	}
	return body
}

// Sign is the value of X-PagerDuty-Signature for a body and the subscription's secrets, of which there are
// two while one replaces the other.
func Sign(body []byte, secrets ...string) string {
	var signatures []string
	for _, secret := range secrets {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		signatures = append(signatures, "v1="+hex.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(signatures, ",")
}

// Send posts a webhook and returns the status and body of the answer.
func Send(t testing.TB, url string, body []byte, signature string) (status int, answer string) {
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "PagerDuty-Webhook/V3.0")
	request.Header.Set("X-Webhook-Id", uuid.NewString())
	request.Header.Set("X-PagerDuty-Signature", signature)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(said)
}
