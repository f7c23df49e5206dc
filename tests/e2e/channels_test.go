//go:build e2e

package e2e

import (
	"fmt"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/notify/pagerdutytest"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
)

// slackChannels are those for pages, findings and experiments.
var slackChannels = []string{"C0000000001", "C0000000002", "C0000000003"}

// channels are where a worker's notices go, and what has arrived there.
type channels struct {
	// sections is the worker's configuration of them.
	sections []string
	// fail makes them answer with errors, or well again.
	fail func(on bool)
	// pages and messages count what has opened, by incident.
	pages, messages func() map[string]int
}

// fakeChannels are fakes of PagerDuty and of Slack that speak their wire formats.
func (s *stack) fakeChannels() channels {
	pagerDuty := pagerdutytest.New(s.t)
	slack, err := slacktest.Listen("127.0.0.1:0", slackChannels...)
	require.NoError(s.t, err)
	s.t.Cleanup(slack.Close)
	return channels{
		sections: []string{fmt.Sprintf(`notify:
  pagerduty: {routing_key: %s, api: %q}
  slack: {bot_token: xoxb-test, app_token: xapp-test, channels: {on_call: %s, findings: %s, experiments: %s}, api: %q}`,
			pagerdutytest.RoutingKey, pagerDuty.URL, slackChannels[0], slackChannels[1], slackChannels[2], slack.API())},
		fail: func(on bool) {
			if on {
				pagerDuty.Always(&pagerdutytest.Answer{Status: 500})
				slack.Fail(slacktest.Fault{Kind: slacktest.AcceptError, Times: 20}, slacktest.Fault{Kind: slacktest.ServerError, Times: -1})
				return
			}
			pagerDuty.Always(nil)
			slack.Fail()
		},
		pages: func() map[string]int {
			n := map[string]int{}
			for _, i := range pagerDuty.Incidents() {
				n[i.DedupKey]++
			}
			return n
		},
		messages: func() map[string]int {
			n := map[string]int{}
			for _, channel := range slackChannels {
				for _, m := range slack.Messages(channel) {
					if m.Metadata != nil && m.Metadata.EventPayload["carried"] == nil { // a stand-in for another channel is not the card
						n[fmt.Sprint(m.Metadata.EventPayload["incident"])]++
					}
				}
			}
			return n
		},
	}
}
