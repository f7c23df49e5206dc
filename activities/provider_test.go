package activities

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// pageFormat is a statuspage.io summary.json with all that such a page says, but for its incidents,
// indicator and description.
const pageFormat = `{
  "page": {"id": "abcdefgh1234", "name": "Example", "url": "https://status.example.com", "time_zone": "Etc/UTC", "updated_at": "2026-03-02T03:00:00.000Z"},
  "components": [
    {"id": "c1", "name": "API", "status": "operational", "created_at": "2023-07-11T17:57:06.000Z", "updated_at": "2026-03-02T03:00:00.000Z",
     "position": 1, "description": null, "showcase": true, "start_date": "2023-07-11", "group_id": null, "page_id": "abcdefgh1234", "group": false, "only_show_if_degraded": false}
  ],
  "incidents": %s,
  "scheduled_maintenances": [],
  "status": {"indicator": %q, "description": %q}
}`

const (
	noIncidents = `[]`
	incidents   = `[
    {"id": "i2", "name": "Elevated errors on all models", "status": "investigating", "created_at": "2026-03-02T02:51:00.000Z", "updated_at": "2026-03-02T02:58:00.000Z",
     "monitoring_at": null, "resolved_at": null, "impact": "major", "shortlink": "https://stspg.io/i2", "started_at": "2026-03-02T02:51:00.000Z", "page_id": "abcdefgh1234",
     "incident_updates": [{"id": "u1", "status": "investigating", "body": "We are investigating.", "incident_id": "i2"}], "components": []},
    {"id": "i1", "name": "Slow logins", "status": "monitoring", "impact": "minor", "shortlink": "https://stspg.io/i1"}
  ]`
)

// answering is a handler that answers with a status and a body.
func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func TestCheckProvider(t *testing.T) {
	t.Parallel()
	operational := fmt.Sprintf(pageFormat, noIncidents, "none", "All Systems Operational")
	for name, tc := range map[string]struct {
		model   string
		page    http.HandlerFunc
		want    runbook.ProviderHealth
		says    string // part of the description where it is another's words
		verdict runbook.Status
	}{
		"operational": {
			page:    answering(200, operational),
			want:    runbook.ProviderHealth{Indicator: "none", Description: "All Systems Operational", Link: "https://status.example.com"},
			verdict: runbook.Clear,
		},
		"degraded, with an incident": {
			page: answering(200, fmt.Sprintf(pageFormat, incidents, "major", "Partial System Outage")),
			want: runbook.ProviderHealth{
				Indicator: "major", Description: "Partial System Outage", Incident: "Elevated errors on all models", Link: "https://stspg.io/i2",
			},
			verdict: runbook.Found,
		},
		"degraded, without one": {
			page:    answering(200, fmt.Sprintf(pageFormat, noIncidents, "minor", "Minor Service Outage")),
			want:    runbook.ProviderHealth{Indicator: "minor", Description: "Minor Service Outage", Link: "https://status.example.com"},
			verdict: runbook.Found,
		},
		"an incident that nobody links to": {
			page:    answering(200, fmt.Sprintf(pageFormat, `[{"name": "Errors"}]`, "critical", "Major System Outage")),
			want:    runbook.ProviderHealth{Indicator: "critical", Description: "Major System Outage", Incident: "Errors", Link: "https://status.example.com"},
			verdict: runbook.Found,
		},
		"an error":                   {page: answering(500, operational), says: "answers 500 Internal Server Error", verdict: runbook.Unknown},
		"not there":                  {page: answering(404, "no such page"), says: "answers 404 Not Found", verdict: runbook.Unknown},
		"not JSON":                   {page: answering(200, "<html>All Systems Operational</html>"), says: "is not a statuspage.io summary", verdict: runbook.Unknown},
		"JSON of something else":     {page: answering(200, `{"status": {"description": "fine"}}`), says: "has no status.indicator", verdict: runbook.Unknown},
		"JSON of yet something else": {page: answering(200, `["none"]`), says: "is not a statuspage.io summary", verdict: runbook.Unknown},
		"cut off":                    {page: answering(200, operational[:len(operational)-2]), says: "is not a statuspage.io summary", verdict: runbook.Unknown},
		"endless": {
			page:    answering(200, strings.Replace(operational, `"Example"`, `"`+strings.Repeat("x", 2*statusLimit)+`"`, 1)),
			says:    "is not a statuspage.io summary",
			verdict: runbook.Unknown,
		},
		"hung up on": {
			page:    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			says:    "reading its status page",
			verdict: runbook.Unknown,
		},
		"a model that nobody knows": {
			model: "llama", page: answering(200, operational),
			want:    runbook.ProviderHealth{Description: "tradeoff.yaml does not say whose model llama is"},
			verdict: runbook.Unknown,
		},
		"a provider without a page": {
			model: "gpt-4o", page: answering(200, operational),
			want:    runbook.ProviderHealth{Provider: "openai", Description: "no status page is configured for it"},
			verdict: runbook.Unknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.page)
			t.Cleanup(server.Close)
			client := server.Client()
			t.Cleanup(client.CloseIdleConnections)
			provider := &Provider{Client: client, Pages: map[string]string{"anthropic": server.URL}, Of: provider}
			request := contract.EvidenceRequest{Key: opus}
			if tc.model != "" {
				request.Key.Model = tc.model
			} else {
				tc.want.Provider = "anthropic"
			}
			health, err := provider.CheckProvider(t.Context(), request)
			require.NoError(t, err)
			if tc.says != "" {
				require.Contains(t, health.Description, tc.says)
				tc.want.Description = health.Description
			}
			require.Equal(t, tc.want, health)
			require.Equal(t, tc.verdict, runbook.JudgeProvider(health).Status)
		})
	}
}

// provider is whose models these are.
func provider(model string) string {
	return map[string]string{opus.Model: "anthropic", "gpt-4o": "openai"}[model]
}

// transport answers requests as a function.
type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestCheckProviderWaitsNoLonger(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]transport{
		"for an answer": func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		},
		"for its end": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Request: r, Body: io.NopCloser(endless{r})}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				asked := time.Now()
				p := &Provider{Client: &http.Client{Transport: hang}, Pages: map[string]string{"anthropic": "http://status.example.com"}, Of: provider}
				health, err := p.CheckProvider(t.Context(), contract.EvidenceRequest{Key: opus})
				require.NoError(t, err)
				require.Equal(t, asked.Add(statusTimeout), time.Now())
				require.Empty(t, health.Indicator)
				require.Contains(t, health.Description, "deadline exceeded")
				require.Equal(t, runbook.Unknown, runbook.JudgeProvider(health).Status)
			})
		})
	}
}

// endless is a body that never comes to an end, and says no more.
type endless struct{ request *http.Request }

func (e endless) Read([]byte) (int, error) {
	<-e.request.Context().Done()
	return 0, e.request.Context().Err()
}

func TestCheckProviderRefusesAWrongAddress(t *testing.T) {
	t.Parallel()
	p := &Provider{Client: http.DefaultClient, Pages: map[string]string{"anthropic": "::"}, Of: provider}
	health, err := p.CheckProvider(t.Context(), contract.EvidenceRequest{Key: opus})
	require.NoError(t, err)
	require.Contains(t, health.Description, "its status page's address is wrong")
}
