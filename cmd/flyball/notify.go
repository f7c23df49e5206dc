package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/flyball-dev/flyball/activities"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/notify"
)

// links lead people from a channel to the console and to Temporal's UI.
func (s *system) links() notify.Links {
	return notify.Links{Console: s.config.Notify.Console, TemporalUI: s.config.Temporal.UI, Namespace: s.config.Temporal.Namespace}
}

// channels are the ways to people that are configured, by name.
func (s *system) channels() map[string]notify.Channel {
	channels := map[string]notify.Channel{}
	if c := s.config.Notify.PagerDuty; c.On() {
		channels[string(config.ViaPagerDuty)] = notify.NewPagerDuty(notify.PagerDutyOptions{
			RoutingKey: c.RoutingKey, ChangeRoutingKey: c.ChangeRoutingKey, DrillRoutingKey: c.DrillRoutingKey, API: c.API, Links: s.links(),
		})
	}
	if s.slack != nil {
		channels[string(config.ViaSlack)] = s.slack
	}
	return channels
}

// router routes notices to the channels of their audience; nil where none is configured.
func (s *system) router() activities.Router {
	channels := s.channels()
	if len(channels) == 0 {
		return nil
	}
	order := map[contract.Audience][]string{}
	for _, audience := range config.Audiences() {
		for _, channel := range s.config.Notify.Channels(audience) {
			order[audience] = append(order[audience], string(channel))
		}
	}
	return notify.NewRouter(channels, order, s.log)
}

// hooks is what channels call, under /hooks/.
func (s *system) hooks() http.Handler {
	c := s.config.Notify
	mux := http.NewServeMux()
	if len(c.PagerDuty.WebhookSecrets) > 0 {
		mux.Handle("POST /hooks/pagerduty", notify.NewPagerDutyHook(notify.PagerDutyHookOptions{
			Secrets: c.PagerDuty.WebhookSecrets, People: &s.people, Open: &s.people, Log: s.log, Now: time.Now,
			Names: func(user string) string {
				person, _ := c.Approver(nil, func(p config.Person) bool { return p.PagerDuty == user && user != "" })
				return person.Name
			},
		}))
	}
	if s.slack != nil && c.Slack.SigningSecret != "" {
		mux.Handle("POST /hooks/slack", s.slack.Handler())
	}
	return mux
}

// hosts are the names by which browsers and hooks address the console.
func (s *system) hosts() []string {
	hosts := s.config.Hosts
	if u, err := url.Parse(s.config.Notify.Console); err == nil && u.Hostname() != "" {
		hosts = append(hosts[:len(hosts):len(hosts)], strings.ToLower(u.Hostname()))
	}
	return hosts
}

// latePeople carries the word of people to Temporal, which may come up long after the hooks.
type latePeople struct {
	signals atomic.Pointer[inbox.Signals]
}

// arrive gives it Temporal.
func (l *latePeople) arrive(temporal client.Client, c config.Config) {
	l.signals.Store(inbox.NewSignals(temporal, c.Temporal.Namespace, c.Profile.Tuning()))
}

// say says something once Temporal is there.
func (l *latePeople) say(word func(*inbox.Signals) error) error {
	if s := l.signals.Load(); s != nil {
		return word(s)
	}
	return fmt.Errorf("%w: the Temporal server is not up yet", inbox.ErrAway)
}

// Decide gives a verdict on a decision.
func (l *latePeople) Decide(ctx context.Context, decision string, r contract.DecideRequest) error {
	return l.say(func(s *inbox.Signals) error { return s.Decide(ctx, decision, r) })
}

// Acknowledge says who has taken the incident on.
func (l *latePeople) Acknowledge(ctx context.Context, incident string, r contract.AcknowledgeRequest) error {
	return l.say(func(s *inbox.Signals) error { return s.Acknowledge(ctx, incident, r) })
}

// Resolve closes the incident.
func (l *latePeople) Resolve(ctx context.Context, incident string, r contract.ResolveRequest) error {
	return l.say(func(s *inbox.Signals) error { return s.Resolve(ctx, incident, r) })
}

// Annotate writes a remark into its timeline.
func (l *latePeople) Annotate(ctx context.Context, incident string, r contract.AnnotateRequest) error {
	return l.say(func(s *inbox.Signals) error { return s.Annotate(ctx, incident, r) })
}

// Mute mutes a key, a tenant or a group.
func (l *latePeople) Mute(ctx context.Context, what string, r contract.MuteRequest) error {
	return l.say(func(s *inbox.Signals) error { return s.Mute(ctx, what, r) })
}

// OpenIncidents lists the ids of what is open.
func (l *latePeople) OpenIncidents(ctx context.Context) (ids []string, err error) {
	err = l.say(func(s *inbox.Signals) (err error) { ids, err = s.OpenIncidents(ctx); return err })
	return ids, err
}
