package config

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Notify says by which channels people hear of incidents, and whose word counts there. Without any, the
// console's inbox and the command line do the same.
type Notify struct {
	Console   string              `yaml:"console"` // address of the console as people reach it, for links and among hosts; empty: no links
	Slack     Slack               `yaml:"slack"`
	PagerDuty PagerDuty           `yaml:"pagerduty"`
	Approvers map[string][]Person `yaml:"approvers"` // the members of the groups that act.yaml names
	Order     Order               `yaml:"order"`
}

// Slack is the app that posts incidents and takes what people press.
type Slack struct {
	BotToken      string        `yaml:"bot_token"`      // xoxb-…; empty: no Slack
	AppToken      string        `yaml:"app_token"`      // xapp-…, for Socket Mode; empty: Slack calls /hooks/slack
	SigningSecret string        `yaml:"signing_secret"` // with which Slack signs its calls of /hooks/slack
	Channels      SlackChannels `yaml:"channels"`
	API           string        `yaml:"api"` // its address, ending in /; empty: Slack's own
}

// SlackChannels are where each audience reads.
type SlackChannels struct {
	OnCall      string `yaml:"on_call"`
	Findings    string `yaml:"findings"`
	Experiments string `yaml:"experiments"`
	Drills      string `yaml:"drills"`
}

// Of is the channel of an audience; empty: none.
func (c SlackChannels) Of(a contract.Audience) string {
	switch a {
	case contract.OnCall:
		return c.OnCall
	case contract.Findings:
		return c.Findings
	case contract.Experiments:
		return c.Experiments
	case contract.Drills:
		return c.Drills
	}
	return ""
}

// On reports whether there is Slack.
func (s Slack) On() bool { return s.BotToken != "" }

// PagerDuty is the service that wakes people up.
type PagerDuty struct {
	RoutingKey       string   `yaml:"routing_key"`        // of an Events API v2 integration; empty: no PagerDuty
	ChangeRoutingKey string   `yaml:"change_routing_key"` // of the service that shows our acts as changes; empty: routing_key
	DrillRoutingKey  string   `yaml:"drill_routing_key"`  // of a service that wakes nobody, for drills; empty: it hears nothing of them
	WebhookSecrets   []string `yaml:"webhook_secrets"`    // of the webhook subscriptions that call /hooks/pagerduty; any of them signs
	API              string   `yaml:"api"`                // of the events; https://events.eu.pagerduty.com in the EU region
}

// On reports whether there is PagerDuty.
func (p PagerDuty) On() bool { return p.RoutingKey != "" }

// Person is somebody who may decide, by the names that the channels know.
type Person struct {
	Name      string `yaml:"name"`      // as it is recorded
	Slack     string `yaml:"slack"`     // member id, U…
	PagerDuty string `yaml:"pagerduty"` // user id, P…: all that a webhook tells beside a display name
}

// Channel names a way to people.
type Channel string

// The channels.
const (
	ViaSlack     Channel = "slack"
	ViaPagerDuty Channel = "pagerduty"
)

// Order lists, for each audience, the channels that hear its notices, the most urgent first. All of them
// do; when one is away, the others say so and carry what it could not. Left out: PagerDuty, then Slack, as
// far as they are there, for pages, and Slack for the rest; for drills those that have a place of their own for
// them. An empty list is nobody.
type Order struct {
	OnCall      []Channel `yaml:"on_call"`
	Findings    []Channel `yaml:"findings"`
	Experiments []Channel `yaml:"experiments"`
	Drills      []Channel `yaml:"drills"`
}

// Channels are those of an audience, defaults included.
func (n Notify) Channels(a contract.Audience) []Channel {
	given, usual := n.Order.Experiments, []Channel{ViaSlack}
	switch a {
	case contract.OnCall:
		given, usual = n.Order.OnCall, []Channel{ViaPagerDuty, ViaSlack}
	case contract.Findings:
		given = n.Order.Findings
	case contract.Drills:
		given, usual = n.Order.Drills, []Channel{ViaPagerDuty, ViaSlack}
	}
	if given != nil {
		return given
	}
	return slices.DeleteFunc(usual, func(c Channel) bool { return !n.has(c) || a == contract.Drills && !n.drills(c) })
}

// Audiences are all of them.
func Audiences() []contract.Audience {
	return []contract.Audience{contract.OnCall, contract.Findings, contract.Experiments, contract.Drills}
}

// drills reports whether the channel has a place of its own for drills.
func (n Notify) drills(c Channel) bool {
	return c == ViaSlack && n.Slack.Channels.Drills != "" || c == ViaPagerDuty && n.PagerDuty.DrillRoutingKey != ""
}

func (n Notify) has(c Channel) bool {
	return c == ViaSlack && n.Slack.On() || c == ViaPagerDuty && n.PagerDuty.On()
}

// Approver finds the person that is meant among those of the groups; without groups, among all.
func (n Notify) Approver(groups []string, is func(Person) bool) (Person, bool) {
	if len(groups) == 0 {
		groups = slices.Sorted(maps.Keys(n.Approvers))
	}
	for _, group := range groups {
		if i := slices.IndexFunc(n.Approvers[group], is); i >= 0 {
			return n.Approvers[group][i], true
		}
	}
	return Person{}, false
}

// problems is everything that is wrong.
func (n Notify) problems() []error {
	return slices.Concat(n.linkProblems(), n.Slack.problems(), n.PagerDuty.problems(), n.approverProblems(), n.orderProblems())
}

// webAddress reports whether a program can call, or a person open, the address.
func webAddress(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.User == nil
}

func (n Notify) linkProblems() []error {
	if n.Console != "" && !webAddress(n.Console) {
		return []error{fmt.Errorf("notify.console: %q is not an http or https address", n.Console)}
	}
	return nil
}

func (s Slack) problems() (errs []error) {
	say := func(format string, args ...any) { errs = append(errs, fmt.Errorf("notify.slack."+format, args...)) }
	if !s.On() {
		if s.AppToken != "" || s.SigningSecret != "" || s.Channels != (SlackChannels{}) {
			say("bot_token: without it nothing is posted; give the app's xoxb-… token, or leave notify.slack out")
		}
		return errs
	}
	if !strings.HasPrefix(s.BotToken, "xoxb-") {
		say("bot_token: want the app's bot token, which begins with xoxb-")
	}
	if s.AppToken != "" && !strings.HasPrefix(s.AppToken, "xapp-") {
		say("app_token: want an app-level token, which begins with xapp-")
	}
	if s.AppToken == "" && s.SigningSecret == "" {
		say("app_token: give it for Socket Mode, or signing_secret so that Slack may call /hooks/slack")
	}
	if s.API != "" && (!webAddress(s.API) || !strings.HasSuffix(s.API, "/")) {
		say("api: %q is not an http or https address that ends in /", s.API)
	}
	return errs
}

func (p PagerDuty) problems() (errs []error) {
	say := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("notify.pagerduty."+format, args...))
	}
	if !p.On() && (p.ChangeRoutingKey != "" || p.DrillRoutingKey != "" || len(p.WebhookSecrets) > 0) {
		say("routing_key: without it nobody is paged; give that of an Events API v2 integration, or leave notify.pagerduty out")
	}
	for key, value := range map[string]string{"routing_key": p.RoutingKey, "change_routing_key": p.ChangeRoutingKey, "drill_routing_key": p.DrillRoutingKey} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
			say("%s: it holds characters that no integration key has", key)
		}
	}
	if p.DrillRoutingKey != "" && (p.DrillRoutingKey == p.RoutingKey || p.DrillRoutingKey == p.ChangeRoutingKey) {
		say("drill_routing_key: it is that of a service which wakes people; give drills a service of their own")
	}
	for i, secret := range p.WebhookSecrets {
		if secret == "" {
			say("webhook_secrets[%d]: it is empty, and everybody could sign with it", i)
		}
	}
	if !webAddress(p.API) {
		say("api: %q is not an http or https address", p.API)
	}
	return errs
}

func (n Notify) approverProblems() (errs []error) {
	for _, group := range slices.Sorted(maps.Keys(n.Approvers)) {
		if !plainName(group) {
			errs = append(errs, errors.New("notify.approvers: the name of a group must not be empty or hold control characters"))
		}
		for i, p := range n.Approvers[group] {
			if !plainName(p.Name) || p.Slack == "" && p.PagerDuty == "" {
				errs = append(errs, fmt.Errorf("notify.approvers.%s[%d]: give a name, and an id of the person in slack or pagerduty", group, i))
			}
		}
	}
	return errs
}

func (n Notify) orderProblems() (errs []error) {
	for _, a := range Audiences() {
		say := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("notify.order.%s: "+format, append([]any{a}, args...)...))
		}
		channels := n.Channels(a)
		for i, c := range channels {
			switch {
			case c != ViaSlack && c != ViaPagerDuty:
				say("%q is neither slack nor pagerduty", c)
			case slices.Contains(channels[:i], c):
				say("%s is listed twice", c)
			case !n.has(c):
				say("there is no section notify.%s that says how", c)
			case c == ViaPagerDuty && a == contract.Drills && !n.drills(c):
				say("a drill never wakes anybody: set notify.pagerduty.drill_routing_key to that of a service of its own, or take pagerduty out")
			case c == ViaPagerDuty && a == contract.Experiments:
				say("findings of experiments never page; take pagerduty out")
			case c == ViaSlack && n.Slack.Channels.Of(a) == "":
				say("slack has no channel for it; set notify.slack.channels.%s, or take slack out", a)
			}
		}
	}
	return errs
}
