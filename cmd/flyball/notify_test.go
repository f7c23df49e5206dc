package main

import (
	"context"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/pagerdutytest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// notifying is a configuration with PagerDuty.
func notifying(t *testing.T, server *pagerdutytest.Server, more string) config.Config {
	c, err := config.Parse([]byte(`notify:
  console: https://Flyball.example.com
  pagerduty: {routing_key: "${KEY}", webhook_secrets: [s3cret], api: "`+server.URL+`"}
  approvers: {on-call: [{name: ann, pagerduty: PLH1HKV}]}
`+more), func(name string) (string, bool) { return pagerdutytest.RoutingKey, name == "KEY" })
	require.NoError(t, err)
	return c
}

// TestNoticesGoWhereTheConfigurationSays: from the configuration to PagerDuty's wire.
func TestNoticesGoWhereTheConfigurationSays(t *testing.T) {
	t.Parallel()
	server := pagerdutytest.New(t)
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	notice := func(opened time.Time, level detect.Level, audience contract.Audience) contract.Notice {
		id := contract.IncidentID(key, opened)
		return contract.Notice{
			Kind: contract.NoticeOpened, ID: id, Incident: id, Audience: audience, Key: key, Level: level, Opened: opened, At: opened, Title: "cost × 3",
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := front(t, func(c *config.Config) {
		c.Notify = notifying(t, server, "").Notify
		c.Temporal.UI = "https://temporal.example.com"
	})
	for _, n := range []contract.Notice{
		notice(at, detect.Page, contract.OnCall), notice(at.Add(time.Hour), detect.Investigate, contract.Findings), notice(at.Add(2*time.Hour), detect.Investigate, contract.Experiments),
	} {
		_, err := s.router().Post(t.Context(), n)
		require.NoError(t, err)
	}
	require.Len(t, server.Incidents(), 1, "INVESTIGATE and experiments page nobody")
	event := server.Incidents()[0].Events[0]
	require.Equal(t, "critical", event.Payload.Severity)
	require.Contains(t, event.ClientURL, "https://Flyball.example.com/#incident")
	require.Contains(t, event.Links[1].Href, "https://temporal.example.com/namespaces/default/workflows/incident")

	s = front(t, func(c *config.Config) {
		c.Notify = notifying(t, server, "  order: {findings: [pagerduty]}\n").Notify
	})
	_, err := s.router().Post(t.Context(), notice(at.Add(3*time.Hour), detect.Investigate, contract.Findings))
	require.NoError(t, err)
	require.Len(t, server.Incidents(), 2)
	require.Equal(t, "warning", server.Incidents()[1].Events[0].Payload.Severity)

	require.Nil(t, front(t, func(*config.Config) {}).router(), "without keys the log and the inbox are the ways")
}

// TestServeTakesWebhooks: under the console's public name, signed, and kept or sent again.
func TestServeTakesWebhooks(t *testing.T) {
	t.Parallel()
	s := front(t, func(c *config.Config) { c.Notify = notifying(t, pagerdutytest.New(t), "").Notify })
	require.Equal(t, []string{"flyball.example.com"}, s.hosts())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, []config.Role{config.Console}) }()
	require.Eventually(t, func() bool {
		c, err := net.Dial("tcp", s.config.Console.Listen)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)

	url := "http://" + s.config.Console.Listen + "/hooks/pagerduty"
	incident := pagerdutytest.Incident{ID: "P1", DedupKey: "incident/org_42/claude-3-opus/1767225600", Status: "acknowledged", Title: "cost × 3"}
	body := incident.Body(pagerdutytest.Webhook{Type: "incident.acknowledged", At: time.Now(), Agent: "Ann Lee"})
	status, answer := pagerdutytest.Send(t, url, body, pagerdutytest.Sign(body, "s3cret"))
	require.Equal(t, http.StatusServiceUnavailable, status, "Temporal is away: PagerDuty sends it again. %s", answer)
	status, _ = pagerdutytest.Send(t, url, body, pagerdutytest.Sign(body, "guessed"))
	require.Equal(t, http.StatusForbidden, status)
	status, _ = get(t, url)
	require.Equal(t, http.StatusMethodNotAllowed, status)
	status, _ = get(t, strings.Replace(url, "pagerduty", "slack", 1))
	require.Equal(t, http.StatusNotFound, status)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// TestDoctorSaysWhatItCannotCheck: a channel that cannot be asked without telling anybody.
func TestDoctorSaysWhatItCannotCheck(t *testing.T) {
	t.Parallel()
	e := &examination{config: notifying(t, pagerdutytest.New(t), "")}
	var text, lines strings.Builder
	require.NoError(t, e.examine(t.Context(), e.channels(), doctorOptions{}, &text))
	require.Equal(t, "--    PagerDuty                              configured, not checked: its events API has no call that tells nobody anything\n", text.String())
	require.NoError(t, e.examine(t.Context(), e.channels(), doctorOptions{json: true}, &lines))
	require.JSONEq(t, `{"hop":"PagerDuty","ok":true,"ms":0,"note":"configured, not checked: its events API has no call that tells nobody anything"}`, lines.String())
	require.Empty(t, (&examination{config: config.Default()}).channels())
}
