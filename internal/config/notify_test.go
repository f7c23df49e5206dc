package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
)

const bothChannels = `notify:
  slack: {bot_token: xoxb-1, app_token: xapp-1, channels: {on_call: C1, findings: C2, experiments: C3}}
  pagerduty: {routing_key: k1}
`

func TestNotifyOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text                          string
		onCall, findings, experiments []Channel
	}{
		"nothing":        {"", nil, nil, nil},
		"both":           {bothChannels, []Channel{ViaPagerDuty, ViaSlack}, []Channel{ViaSlack}, []Channel{ViaSlack}},
		"pagerduty only": {"notify: {pagerduty: {routing_key: k1}}", []Channel{ViaPagerDuty}, nil, nil},
		"its own": {
			bothChannels + "  order: {on_call: [slack], findings: [slack, pagerduty], experiments: []}",
			[]Channel{ViaSlack},
			[]Channel{ViaSlack, ViaPagerDuty},
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse([]byte(c.text), none)
			require.NoError(t, err)
			for audience, want := range map[contract.Audience][]Channel{contract.OnCall: c.onCall, contract.Findings: c.findings, contract.Experiments: c.experiments} {
				require.Equal(t, append([]Channel{}, want...), append([]Channel{}, got.Notify.Channels(audience)...), audience)
			}
		})
	}
}

func TestNotifySaysEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"no tokens": {
			"slack: {app_token: xapp-1, channels: {on_call: C1}}, pagerduty: {webhook_secrets: ['']}",
			[]string{"notify.slack.bot_token", "notify.pagerduty.routing_key", "notify.pagerduty.webhook_secrets[0]"},
		},
		"wrong tokens": {
			"console: console.example, slack: {bot_token: xapp-1, app_token: xoxb-1, api: 'http://x', channels: {on_call: a}}, pagerduty: {routing_key: 'a b', api: events}",
			[]string{"notify.console", "slack.bot_token", "slack.app_token", "slack.api", "pagerduty.routing_key", "pagerduty.api", "order.findings: slack has no channel", "order.experiments: slack has no channel"},
		},
		"no way in": {"slack: {bot_token: xoxb-1}", []string{"slack.app_token: give it for Socket Mode, or signing_secret"}},
		"order": {
			"pagerduty: {routing_key: k}, order: {on_call: [pagerduty, pagerduty, phone, slack], experiments: [pagerduty]}",
			[]string{"on_call: pagerduty is listed twice", `on_call: "phone" is neither`, "on_call: there is no section notify.slack", "experiments: findings of experiments never page"},
		},
		"drills":      {"pagerduty: {routing_key: k}, order: {drills: [pagerduty]}", []string{"drills: a drill never wakes anybody: set notify.pagerduty.drill_routing_key"}},
		"drills wake": {"pagerduty: {routing_key: k, drill_routing_key: k}", []string{"drill_routing_key: it is that of a service which wakes people"}},
		"approvers":   {"approvers: {on-call: [{name: ann}, {slack: U1}]}", []string{"approvers.on-call[0]", "approvers.on-call[1]"}},
		"unknown key": {"pagerduty: {routing-key: k}", []string{"routing-key not found"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Parse([]byte("notify: {"+c.text+"}"), none)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
		})
	}
}

func TestDrillsHaveAPlaceOfTheirOwn(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]Channel{
		"slack: {bot_token: xoxb-1, app_token: xapp-1, channels: {on_call: C1, findings: C2, experiments: C3}}, pagerduty: {routing_key: k}": {},
		"slack: {bot_token: xoxb-1, app_token: xapp-1, channels: {on_call: C1, findings: C2, experiments: C3, drills: C4}}":                  {ViaSlack},
		"pagerduty: {routing_key: k, drill_routing_key: d}, order: {findings: [], experiments: []}":                                          {ViaPagerDuty},
	} {
		c, err := Parse([]byte("notify: {"+text+"}"), none)
		require.NoError(t, err, text)
		require.Equal(t, want, c.Notify.Channels(contract.Drills), text)
	}
	c, err := Parse([]byte("ingest: {listen: '0.0.0.0:8080'}"), none)
	require.NoError(t, err)
	require.Equal(t, Drills{Ingest: "http://127.0.0.1:8080"}, c.DrillsTo())
	c, err = Parse([]byte("drills: {ingest: 'https://front:8080', token: t}"), none)
	require.NoError(t, err)
	require.Equal(t, Drills{Ingest: "https://front:8080", Token: "t"}, c.DrillsTo())
	_, err = Parse([]byte("drills: {ingest: front}"), none)
	require.ErrorContains(t, err, "drills.ingest")
}

func TestApprover(t *testing.T) {
	t.Parallel()
	ann, eve := Person{Name: "ann", Slack: "U1"}, Person{Name: "eve", Slack: "U2", PagerDuty: "P2"}
	n := Notify{Approvers: map[string][]Person{"on-call": {ann}, "compliance": {eve}}}
	bySlack := func(id string) func(Person) bool { return func(p Person) bool { return p.Slack == id } }
	got, ok := n.Approver([]string{"owner", "compliance"}, bySlack("U2"))
	require.True(t, ok)
	require.Equal(t, eve, got)
	_, ok = n.Approver([]string{"compliance"}, bySlack("U1"))
	require.False(t, ok, "ann is of another group")
	got, ok = n.Approver(nil, bySlack("U1"))
	require.True(t, ok, "a policy that names no group leaves it to all approvers")
	require.Equal(t, ann, got)
}

// TestNotifyExamples: what the documentation and the shipped configuration propose is accepted.
func TestNotifyExamples(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	_, after, found := strings.Cut(string(page), "```yaml\nnotify:")
	require.True(t, found)
	section, _, _ := strings.Cut(after, "```")
	examples := []string{"notify:" + section}

	shipped, err := os.ReadFile("../../deploy/flyball.yaml")
	require.NoError(t, err)
	_, after, found = strings.Cut(string(shipped), "\n# notify:\n")
	require.True(t, found)
	examples = append(examples, "notify:\n"+regexp.MustCompile(`(?m)^# `).ReplaceAllString(after, ""))

	environment := map[string]string{"SLACK_BOT_TOKEN": "xoxb-1", "SLACK_APP_TOKEN": "xapp-1", "PAGERDUTY_ROUTING_KEY": "r", "PAGERDUTY_WEBHOOK_SECRET": "s"}
	for _, example := range examples {
		c, err := Parse([]byte(example), func(name string) (string, bool) { v, ok := environment[name]; return v, ok })
		require.NoError(t, err, example)
		require.True(t, c.Notify.Slack.On())
		require.True(t, c.Notify.PagerDuty.On())
		require.Equal(t, []string{"s"}, c.Notify.PagerDuty.WebhookSecrets)
		require.Equal(t, []Channel{ViaPagerDuty, ViaSlack}, c.Notify.Channels(contract.OnCall))
		require.NotEmpty(t, c.Notify.Approvers["on-call"])
		require.NotEmpty(t, c.Notify.Console)
	}
}
