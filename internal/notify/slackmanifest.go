package notify

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/slack-go/slack"
	"go.yaml.in/yaml/v3"
)

// slackScopes are what the app may do, which is what it does.
var slackScopes = []string{
	"channels:history",      // finding its own messages again in a public channel
	"chat:write",            // posting and editing them, and answering who presses
	"files:write",           // the picture of a breach
	"groups:history",        // finding its own messages again in a private channel
	"metadata.message:read", // reading which notice each of them tells
	"users:read",            // the name of who presses, for the record
}

// SlackHook is the path at which interactivity over HTTP is taken.
const SlackHook = "/hooks/slack"

// SlackManifest is the manifest of the Slack app, in YAML. With an address, by which Slack reaches this
// Flyball, what is pressed comes there over HTTP; without one it comes through Socket Mode.
func SlackManifest(address string) ([]byte, error) {
	interactivity := &slack.Interactivity{IsEnabled: true}
	if address != "" {
		u, err := url.Parse(address)
		switch {
		case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
			return nil, fmt.Errorf("%q is not the address of a site", address)
		case u.Scheme != "https":
			return nil, errors.New("Slack calls only https:// addresses")
		}
		interactivity.RequestUrl = strings.TrimSuffix(strings.TrimRight(address, "/"), SlackHook) + SlackHook
	}
	manifest, err := yaml.Marshal(slack.Manifest{
		Display: slack.Display{
			Name: "Flyball", Description: "Tells of LLM spend and quality going wrong, and asks before it acts", BackgroundColor: "#1d2433",
		},
		Features:    slack.Features{BotUser: slack.BotUser{DisplayName: "Flyball", AlwaysOnline: true}},
		OAuthConfig: slack.OAuthConfig{Scopes: slack.OAuthScopes{Bot: slackScopes}},
		Settings:    slack.Settings{Interactivity: interactivity, SocketModeEnabled: address == ""},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	return manifest, nil
}
