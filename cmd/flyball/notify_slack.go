package main

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/inbox"
	"github.com/flyball-dev/flyball/internal/notify"
)

// newSlack is the channel to Slack, and back; nil where none is configured.
func (s *system) newSlack() (*notify.Slack, error) {
	c := s.config.Notify
	if !c.Slack.On() {
		return nil, nil
	}
	channels := map[contract.Audience]string{}
	for _, audience := range config.Audiences() {
		if id := c.Slack.Channels.Of(audience); id != "" {
			channels[audience] = id
		}
	}
	approvers := map[string][]string{}
	for group, people := range c.Approvers {
		for _, p := range people {
			if p.Slack != "" {
				approvers[group] = append(approvers[group], p.Slack)
			}
		}
	}
	return notify.NewSlack(notify.SlackOptions{
		BotToken: c.Slack.BotToken, AppToken: c.Slack.AppToken, SigningSecret: c.Slack.SigningSecret, API: c.Slack.API,
		Channels: channels, Approvers: approvers, Links: s.links(),
		People: &s.people, Decision: s.people.Decision, Chart: s.breachChart, Log: s.log,
	})
}

// listenToSlack takes what is pressed in Slack through Socket Mode until ctx ends. A token that is not good keeps nothing
// else from running.
func (s *system) listenToSlack(ctx context.Context) {
	if s.slack == nil || s.config.Notify.Slack.AppToken == "" {
		return
	}
	if err := s.slack.Run(ctx); err != nil {
		s.log.ErrorContext(ctx, "Nothing that is pressed in Slack is heard; the console and the command line still are", "error", err)
	}
}

// Decision is the state of a decision as its workflow tells it.
func (l *latePeople) Decision(ctx context.Context, id string) (d contract.DecisionState, err error) {
	return d, l.say(func(s *inbox.Signals) error { return s.State(ctx, id, &d) })
}

// The thresholds that a picture of a breach shows: those at which alert.yaml, as it is shipped, calls somebody.
const (
	costBreach    = 1.5
	qualityBreach = 0.85
)

// breachChart draws the hour before a notice beside what is usual.
func (s *system) breachChart(ctx context.Context, n contract.Notice) ([]byte, error) {
	minutes, err := s.store.Minutes(ctx, n.Key, n.At.Add(-time.Hour), n.At.Add(time.Minute))
	if err != nil {
		return nil, err
	}
	usual, err := s.store.Baseline(ctx, n.Key, n.At)
	if err != nil {
		return nil, err
	}
	return notify.Chart(notify.Breach{
		Key: n.Key, Baseline: usual, Minutes: minutes, Opened: n.Opened, Until: n.At,
		CostOver: costBreach, QualityUnder: qualityBreach,
	})
}
