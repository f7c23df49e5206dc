package notify

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/notify/pagerdutytest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// listeners are the workflows, as the hook sees them.
type listeners struct {
	People // what the hook never says fails the test
	mu     sync.Mutex
	heard  []string
	ids    []string // of the words
	open   []string
	err    error
}

func (l *listeners) hear(ctx context.Context, words ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	l.heard, l.ids = append(l.heard, strings.Join(words, " | ")), append(l.ids, ID(ctx))
	return nil
}

func (l *listeners) Acknowledge(ctx context.Context, incident string, r contract.AcknowledgeRequest) error {
	return l.hear(ctx, "acknowledge", incident, r.Who)
}

func (l *listeners) Resolve(ctx context.Context, incident string, r contract.ResolveRequest) error {
	return l.hear(ctx, "resolve", incident, r.Who, r.Reason)
}

func (l *listeners) Annotate(ctx context.Context, incident string, r contract.AnnotateRequest) error {
	return l.hear(ctx, "annotate", incident, r.Who, r.Text)
}

func (l *listeners) OpenIncidents(context.Context) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.open), l.err
}

const (
	oldSecret = "lDQHScfUeXUKaQRNF+8XIiDKZ7XX3itBAYzwU0TARw8lJqRnkKl2iB1anSb0Z+IK"
	newSecret = "kEqHScfUeXUKaQRNF+8XIiDKZ7XX3itBAYzwU0TARw8lJqRnkKl2iB1anSb0Z+XX"
)

var hookNow = time.Date(2026, 1, 1, 0, 5, 0, 0, time.UTC)

func hookOf(l *listeners) *PagerDutyHook {
	return NewPagerDutyHook(PagerDutyHookOptions{
		Secrets: []string{oldSecret, newSecret}, People: l, Open: l, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return hookNow },
		Names: func(user string) string { return map[string]string{"PANN": "ann"}[user] },
	})
}

// incidentThere is the incident as PagerDuty has it.
func incidentThere(id string) pagerdutytest.Incident {
	return pagerdutytest.Incident{ID: "PGR0VU2", DedupKey: dedupKey(id), Status: "triggered", Title: titled("PAGE: cost × 3", id)}
}

func TestPagerDutyWebhooks(t *testing.T) {
	t.Parallel()
	long := contract.IncidentID(usage.Key{Tenant: strings.Repeat("t", 300), Model: "m"}, hookNow)
	at := hookNow.Add(-time.Minute)
	for name, c := range map[string]struct {
		about   pagerdutytest.Incident
		webhook pagerdutytest.Webhook
		open    []string
		heard   []string
		why     string
	}{
		"acknowledged": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.acknowledged", At: at, Agent: "Ann Lee"},
			heard: []string{"acknowledge | " + incidentID + " | Ann Lee via PagerDuty"},
		},
		"resolved": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.resolved", At: at, Agent: "Ann\nLee"},
			heard: []string{"resolve | " + incidentID + " | Ann Lee via PagerDuty | resolved in PagerDuty"},
		},
		"a note, which names the incident by its summary": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.annotated", At: at, Agent: "Ann Lee", Note: "the prompt was changed"},
			open:  []string{"incident/a/b/1", incidentID},
			heard: []string{"annotate | " + incidentID + " | Ann Lee via PagerDuty | the prompt was changed"},
		},
		"a note on what has ended": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.annotated", At: at, Agent: "Ann Lee", Note: "x"},
			why: "no open incident of ours is meant",
		},
		"a note on something else": {
			about: pagerdutytest.Incident{ID: "P1", Title: "The server is on fire."}, webhook: pagerdutytest.Webhook{Type: "incident.annotated", At: at, Agent: "Ann Lee", Note: "x"},
			open: []string{incidentID}, why: "no open incident of ours is meant",
		},
		"an id too long for PagerDuty": {
			about: incidentThere(long), webhook: pagerdutytest.Webhook{Type: "incident.acknowledged", At: at, Agent: "Ann Lee"},
			open: []string{incidentID, long}, heard: []string{"acknowledge | " + long + " | Ann Lee via PagerDuty"},
		},
		"one that has ended": {
			about: incidentThere(long), webhook: pagerdutytest.Webhook{Type: "incident.acknowledged", At: at, Agent: "Ann Lee"},
			open: []string{incidentID}, why: "no open incident of ours is meant",
		},
		"another monitor's incident": {
			about: pagerdutytest.Incident{ID: "P1", DedupKey: "d3640fbd41094207a1c11e58e46b1662"}, webhook: pagerdutytest.Webhook{Type: "incident.resolved", At: at, Agent: "Ann Lee"},
			why: "no open incident of ours is meant",
		},
		"what we did ourselves": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.resolved", At: at, Agent: "Events API V2", AgentType: "inbound_integration_reference"},
			why: "no person did it",
		},
		"reopened": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.reopened", At: at, Agent: "Ann Lee"},
			why: "nothing follows from incident.reopened here",
		},
		"of the future": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.foretold", At: at, Agent: "Ann Lee"},
			why: "nothing follows from incident.foretold here",
		},
		"an old one, sent anew": {
			about: incidentThere(incidentID), webhook: pagerdutytest.Webhook{Type: "incident.resolved", At: hookNow.Add(-2 * time.Hour), Agent: "Ann Lee"},
			why: "it is older than an hour",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &listeners{open: c.open}
			server := httptest.NewServer(hookOf(l))
			defer server.Close()
			c.webhook.ID = "01BWDWL3NYY7LUFPZCC28QUCMK"
			body := c.about.Body(c.webhook)
			for range 2 { // PagerDuty delivers at least once
				status, answer := pagerdutytest.Send(t, server.URL, body, pagerdutytest.Sign(body, newSecret))
				require.Equal(t, http.StatusAccepted, status)
				if c.why != "" {
					require.Contains(t, answer, c.why)
				}
			}
			require.Equal(t, c.heard, l.heard)
			for _, id := range l.ids {
				require.Equal(t, "pagerduty/01BWDWL3NYY7LUFPZCC28QUCMK", id, "so that another process hears it once too")
			}
		})
	}
}

func TestPagerDutyNamesOfPeople(t *testing.T) {
	t.Parallel()
	h := hookOf(&listeners{})
	require.Equal(t, "ann via PagerDuty", h.who(&pagerDutyReference{ID: "PANN", Summary: "Ann Lee"}))
	require.Equal(t, "P1 via PagerDuty", h.who(&pagerDutyReference{ID: "P1"}))
	require.LessOrEqual(t, len(h.who(&pagerDutyReference{Summary: strings.Repeat("é", 500)})), maxWho)
}

func TestPagerDutySignatures(t *testing.T) {
	t.Parallel()
	l := &listeners{}
	server := httptest.NewServer(hookOf(l))
	defer server.Close()
	body := incidentThere(incidentID).Body(pagerdutytest.Webhook{Type: "incident.acknowledged", At: hookNow, Agent: "Ann Lee"})
	good := pagerdutytest.Sign(body, oldSecret)
	for name, c := range map[string]struct {
		body      []byte
		signature string
		status    int
	}{
		"none":                 {body, "", http.StatusForbidden},
		"of another secret":    {body, pagerdutytest.Sign(body, "guessed"), http.StatusForbidden},
		"of an empty secret":   {body, pagerdutytest.Sign(body, ""), http.StatusForbidden},
		"of another body":      {append([]byte(" "), body...), good, http.StatusForbidden},
		"of another version":   {body, strings.Replace(good, "v1=", "v0=", 1), http.StatusForbidden},
		"not hexadecimal":      {body, "v1=zz", http.StatusForbidden},
		"of no body":           {nil, pagerdutytest.Sign(nil, oldSecret), http.StatusForbidden},
		"of what is too large": {make([]byte, maxWebhook+1), pagerdutytest.Sign(make([]byte, maxWebhook+1), oldSecret), http.StatusRequestEntityTooLarge},
		"of no event":          {[]byte("[]"), pagerdutytest.Sign([]byte("[]"), oldSecret), http.StatusAccepted},
		"of an event without id": {
			[]byte(`{"event":{"event_type":"incident.resolved"}}`), pagerdutytest.Sign([]byte(`{"event":{"event_type":"incident.resolved"}}`), oldSecret), http.StatusAccepted,
		},
	} {
		status, answer := pagerdutytest.Send(t, server.URL, c.body, c.signature)
		require.Equal(t, c.status, status, "%s: %s", name, answer)
		require.NotContains(t, answer, oldSecret)
	}
	require.Empty(t, l.heard)

	status, _ := pagerdutytest.Send(t, server.URL, body, pagerdutytest.Sign(body, "another subscription's", newSecret))
	require.Equal(t, http.StatusAccepted, status, "one of several signatures, by one of several secrets")
	require.Len(t, l.heard, 1)
}

// TestPagerDutyWebhookWhileTemporalIsAway: what cannot be kept is sent again, and then heard.
func TestPagerDutyWebhookWhileTemporalIsAway(t *testing.T) {
	t.Parallel()
	l := &listeners{err: errAway}
	server := httptest.NewServer(hookOf(l))
	defer server.Close()
	body := incidentThere(incidentID).Body(pagerdutytest.Webhook{Type: "incident.acknowledged", At: hookNow, Agent: "Ann Lee"})
	status, _ := pagerdutytest.Send(t, server.URL, body, pagerdutytest.Sign(body, oldSecret))
	require.Equal(t, http.StatusServiceUnavailable, status)
	l.err = nil
	status, _ = pagerdutytest.Send(t, server.URL, body, pagerdutytest.Sign(body, oldSecret))
	require.Equal(t, http.StatusAccepted, status)
	require.Len(t, l.heard, 1)

	l.err = ErrGone
	body = incidentThere(incidentID).Body(pagerdutytest.Webhook{Type: "incident.resolved", At: hookNow, Agent: "Ann Lee"})
	status, answer := pagerdutytest.Send(t, server.URL, body, pagerdutytest.Sign(body, oldSecret))
	require.Equal(t, http.StatusAccepted, status, "it came too late, and sending it again does not help")
	require.Contains(t, answer, "the incident has ended")
}

// FuzzPagerDutyWebhook: whatever comes, nobody without a secret is heard, and nothing panics.
func FuzzPagerDutyWebhook(f *testing.F) {
	body := incidentThere(incidentID).Body(pagerdutytest.Webhook{Type: "incident.acknowledged", At: hookNow, Agent: "Ann Lee"})
	f.Add(body, pagerdutytest.Sign(body, oldSecret), false)
	f.Add(body, "v1=,v1=00,,v2=x", false)
	f.Add(body, "", true)
	f.Add([]byte(`{"event":{"id":"x","event_type":"incident.annotated","agent":{"type":"user"},"data":{"incident":{"summary":"[aaaaaa]"}}}}`), "", true)
	f.Fuzz(func(t *testing.T, body []byte, signature string, signed bool) {
		l := &listeners{open: []string{incidentID}}
		right := pagerdutytest.Sign(body, oldSecret)
		if signed {
			signature = right
		}
		r := httptest.NewRequest(http.MethodPost, "/hooks/pagerduty", strings.NewReader(string(body)))
		r.Header["X-Pagerduty-Signature"] = []string{signature}
		w := httptest.NewRecorder()
		hookOf(l).ServeHTTP(w, r)
		answer, err := io.ReadAll(w.Result().Body)
		require.NoError(t, err)
		require.True(t, json.Valid(answer))
		if trusted := strings.Contains(strings.ToLower(signature), strings.TrimPrefix(right, "v1=")); !trusted {
			require.NotEqual(t, http.StatusAccepted, w.Code)
			require.Empty(t, l.heard)
		}
	})
}
