package activities

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
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

// theAPI is what pageFormat says of components.
var theAPI = []runbook.Component{{Name: "API", Status: "operational"}}

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
			want:    runbook.ProviderHealth{Indicator: "none", Description: "All Systems Operational", Link: "https://status.example.com", Components: theAPI},
			verdict: runbook.Clear,
		},
		"degraded, with an incident": {
			page: answering(200, fmt.Sprintf(pageFormat, incidents, "major", "Partial System Outage")),
			want: runbook.ProviderHealth{
				Indicator: "major", Description: "Partial System Outage", Incident: "Elevated errors on all models", Link: "https://stspg.io/i2",
				Components: theAPI, Unplaced: true,
			},
			verdict: runbook.Found,
		},
		"degraded, without one": {
			page:    answering(200, fmt.Sprintf(pageFormat, noIncidents, "minor", "Minor Service Outage")),
			want:    runbook.ProviderHealth{Indicator: "minor", Description: "Minor Service Outage", Link: "https://status.example.com", Components: theAPI},
			verdict: runbook.Found,
		},
		"an incident that nobody links to": {
			page:    answering(200, fmt.Sprintf(pageFormat, `[{"name": "Errors"}]`, "critical", "Major System Outage")),
			want:    runbook.ProviderHealth{Indicator: "critical", Description: "Major System Outage", Incident: "Errors", Link: "https://status.example.com", Components: theAPI, Unplaced: true},
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

func TestCheckProviderReadsComponents(t *testing.T) {
	t.Parallel()
	const components = `{
  "page": {"url": "https://status.example.com"},
  "components": [
    {"id": "g1", "name": "APIs", "status": "operational", "group": true, "group_id": null},
    {"id": "g2", "name": "ChatGPT", "status": "major_outage", "group": true, "group_id": null},
    {"id": "c1", "name": "Chat Completions", "status": "operational", "group": false, "group_id": "g1"},
    {"id": "c2", "name": "Batch", "status": "operational", "group": false, "group_id": "g1"},
    {"id": "c3", "name": "Login", "status": "major_outage", "group": false, "group_id": "g2"},
    {"id": "c4", "name": "GPTs", "status": "operational", "group": false, "group_id": "g2"}
  ],
  "incidents": [
    {"name": "Nobody can log in", "shortlink": "https://stspg.io/l", "components": [{"id": "c3", "name": "Login", "status": "major_outage", "group_id": "g2"}]}%s
  ],
  "status": {"indicator": "major", "description": "Partial System Outage"}
}`
	see := func(more string) runbook.ProviderHealth {
		server := httptest.NewServer(answering(200, fmt.Sprintf(components, more)))
		t.Cleanup(server.Close)
		client := server.Client()
		t.Cleanup(client.CloseIdleConnections)
		h, err := (&Provider{Client: client, Pages: map[string]string{"openai": server.URL}, Of: provider}).CheckProvider(t.Context(), contract.EvidenceRequest{
			Key: usage.Key{Tenant: "t", Model: "gpt-4o"}.OfExperiment("ab"),
		})
		require.NoError(t, err)
		return h
	}
	h := see("")
	require.Equal(t, []runbook.Component{
		{Name: "Chat Completions", Group: "APIs", Status: "operational"},
		{Name: "Batch", Group: "APIs", Status: "operational"},
		{Name: "Login", Group: "ChatGPT", Status: "major_outage", Incident: "Nobody can log in"},
	}, h.Components)
	require.Equal(t, runbook.Clear, runbook.JudgeProvider(h).Status, "who cannot log in is not why calls fail")
	require.Equal(t, "Nobody can log in", h.Incident)

	h = see(`, {"name": "Slow answers", "shortlink": "https://stspg.io/s", "components": [{"id": "c1", "name": "Chat Completions", "group_id": "g1"}]}`)
	require.Equal(t, "https://stspg.io/s", h.Link, "the incident that concerns calls is the one to look at")
	require.Equal(t, runbook.Found, runbook.JudgeProvider(h).Status)
	require.Contains(t, runbook.JudgeProvider(h).Text, "Slow answers")

	require.Equal(t, runbook.Found, runbook.JudgeProvider(see(`, {"name": "Something is wrong", "components": []}`)).Status, "it may be the calls")
}

// Five hundred incidents of one provider are one look at its page, and those who come within the minute see
// what it said.
func TestCheckProviderDoesNotHammerAPage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		status := http.StatusOK
		page := transport(func(r *http.Request) (*http.Response, error) {
			reads.Add(1)
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
			body := fmt.Sprintf(pageFormat, noIncidents, "none", "All Systems Operational")
			return &http.Response{StatusCode: status, Status: http.StatusText(status), Request: r, Body: io.NopCloser(strings.NewReader(body))}, nil
		})
		p := &Provider{Client: &http.Client{Transport: page}, Pages: map[string]string{"anthropic": "http://status.example.com"}, Of: provider}
		check := func(n int, indicator string) {
			var all sync.WaitGroup
			for range n {
				all.Go(func() {
					h, err := p.CheckProvider(t.Context(), contract.EvidenceRequest{Key: opus})
					require.NoError(t, err)
					require.Equal(t, indicator, h.Indicator)
					require.Equal(t, "anthropic", h.Provider)
				})
			}
			all.Wait()
		}
		check(500, "none")
		require.EqualValues(t, 1, reads.Load())
		time.Sleep(statusFresh - time.Second)
		check(1, "none")
		require.EqualValues(t, 1, reads.Load())
		time.Sleep(time.Second)
		status = http.StatusBadGateway
		check(500, "")
		require.EqualValues(t, 2, reads.Load(), "a page that cannot be read is not asked 500 times either")
		time.Sleep(statusFailed)
		status = http.StatusOK
		check(1, "none")
		require.EqualValues(t, 3, reads.Load(), "but sooner again")

		// Whoever gives up is not held by those who read, and does not spoil the page for them.
		gone, cancel := context.WithCancel(t.Context())
		time.Sleep(2 * statusFresh)
		cancel()
		h, err := p.CheckProvider(gone, contract.EvidenceRequest{Key: opus})
		require.NoError(t, err)
		require.Empty(t, h.Indicator)
		check(1, "none")
	})
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
