package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	pages    = "C0PAGES"
	findings = "C0FINDINGS"
)

// people writes down what it is told, and fails while failing is set.
type people struct {
	mu      sync.Mutex
	failing error
	heard   []string
	delay   time.Duration
}

func (p *people) hear(ctx context.Context, format string, args ...any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delay > 0 {
		select {
		case <-time.After(p.delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if p.failing != nil {
		return p.failing
	}
	p.heard = append(p.heard, fmt.Sprintf(format, args...))
	return nil
}

func (p *people) said() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string{}, p.heard...)
}

func (p *people) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failing = err
}

func (p *people) Decide(ctx context.Context, id string, r contract.DecideRequest) error {
	return p.hear(ctx, "%s %s by %s: %s", r.Verdict, id, r.Who, r.Reason)
}

func (p *people) Acknowledge(ctx context.Context, id string, r contract.AcknowledgeRequest) error {
	return p.hear(ctx, "acknowledge %s by %s", id, r.Who)
}

func (p *people) Resolve(ctx context.Context, id string, r contract.ResolveRequest) error {
	return p.hear(ctx, "resolve %s by %s", id, r.Who)
}

func (p *people) Annotate(ctx context.Context, id string, r contract.AnnotateRequest) error {
	return p.hear(ctx, "annotate %s by %s", id, r.Who)
}

func (p *people) Mute(ctx context.Context, what string, r contract.MuteRequest) error {
	return p.hear(ctx, "mute %s for %s by %s", what, r.For, r.Who)
}

// workspace is a Slack to test against with the channel under test.
type workspace struct {
	*slacktest.Server
	people    *people
	options   SlackOptions
	decisions map[string]contract.DecisionState // what the workflows tell
	away      error                             // why they tell nothing
}

func newWorkspace(t *testing.T) *workspace {
	t.Helper()
	server, err := slacktest.Listen("127.0.0.1:0", pages, findings)
	require.NoError(t, err)
	t.Cleanup(server.Close)
	server.AddUser("U0ADA", "Ada")
	server.AddUser("U0BOB", "Bob")
	w := &workspace{Server: server, people: &people{}, decisions: map[string]contract.DecisionState{}}
	w.options = SlackOptions{
		BotToken: slacktest.BotToken, AppToken: slacktest.AppToken, SigningSecret: slacktest.SigningSecret,
		Channels:  map[contract.Audience]string{contract.OnCall: pages, contract.Findings: findings},
		Approvers: map[string][]string{"ml-leads": {"U0ADA"}},
		Links:     Links{Console: "https://flyball.example", TemporalUI: "https://temporal.example", Namespace: "prod"},
		People:    w.people, API: server.API(), HTTP: &http.Client{Timeout: 10 * time.Second},
		Decision: func(_ context.Context, id string) (contract.DecisionState, error) {
			if w.away != nil {
				return contract.DecisionState{}, w.away
			}
			d, ok := w.decisions[id]
			if !ok {
				return d, errors.New("there is no such decision")
			}
			return d, nil
		},
	}
	return w
}

// slack is a process that has just started: it remembers nothing.
func (w *workspace) slack(t *testing.T) *Slack {
	t.Helper()
	s, err := NewSlack(w.options)
	require.NoError(t, err)
	return s
}

var testKey = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}

// opened is when the incidents of tests open: lately, since Slack stamps messages by its clock.
var opened = time.Now().UTC().Truncate(time.Second).Add(-time.Minute)

func testFacts() detect.Facts {
	return detect.Facts{
		Tenant: testKey.Tenant, Model: testKey.Model, WindowMinutes: 2,
		CostKnown: true, CostSamples: 412, CostUSD: 0.0312, CostBaseline: 0.0104, CostRatio: 3,
		QualityKnown: true, QualitySamples: 61, Quality: 0.69, QualityBaseline: 0.87, QualityRatio: 0.79,
		SpendKnown: true, SpendPerMinute: 6.43, SpendBaseline: 2.15, SpendRatio: 2.99,
	}
}

// incidentState is an open PAGE as it is after its first step.
func incidentState(at time.Time) contract.IncidentState {
	finding := detect.Finding{
		Key: testKey, EvaluatedAt: at, Facts: testFacts(),
		Verdict: detect.Verdict{Level: detect.Page, Rule: "cost_and_quality", Reason: "a call costs 3.0 times what is usual and quality is down to 79 %"},
	}
	return contract.IncidentState{
		ID: contract.IncidentID(testKey, at), Level: detect.Page, Phase: contract.IncidentOpen, Finding: finding,
		Input:     contract.IncidentInput{Key: testKey, Opened: at, Level: detect.Page, Finding: finding, Loop: contract.AlertLoopID(testKey)},
		UpdatedAt: at,
		Steps: []runbook.Done{{
			Step: runbook.Plan(1)[0], At: at,
			Verdict: runbook.Verdict{Status: runbook.Found, Cause: runbook.CauseDeployment, Text: "ci deployed support-bot v3.2, 4m0s before the regression"},
		}},
	}
}

// decisionState is the question whether to downgrade.
func decisionState(incident contract.IncidentState) contract.DecisionState {
	at := incident.Input.Opened.Add(2 * time.Minute)
	return contract.DecisionState{
		ID: contract.DecisionID(incident.ID, "downgrade", 1), Status: contract.AwaitingApproval, Reason: "3 of 10 approvals before it may act alone",
		Opened: at, ChangedAt: at, ExpiresAt: at.Add(30 * time.Minute),
		Input: contract.DecisionInput{
			Key: testKey, Incident: incident.ID, Attempt: 1, Tuning: contract.NewTuning(1), Finding: incident.Finding,
			Proposal: contract.Proposal{
				Action: "downgrade", Mode: contract.Ask, Kind: routing.Route, Value: "claude-3-sonnet", Goal: routing.CutCost,
				Approvers: []string{"ml-leads"}, Rule: "downgrade_on_cost", Reason: "a cheaper model of the same tier meets the tenant's floor",
			},
		},
		Plan:    contract.RolloutPlan{Plan: routing.Plan{Steps: []float64{0.1, 0.5, 0.95}, Holdback: 0.05, Provable: true}},
		History: []contract.Transition{{Status: contract.Proposed, At: at}, {Status: contract.AwaitingApproval, At: at}},
	}
}

// notice is one of the incident as it is.
func notice(kind contract.NoticeKind, seq int, s contract.IncidentState) contract.Notice {
	return contract.Notice{
		Kind: kind, ID: s.ID, Seq: seq, Incident: s.ID, Audience: contract.OnCall, Key: s.Input.Key, Level: s.Level,
		Opened: s.Input.Opened, At: s.UpdatedAt, Title: "PAGE " + s.Input.Key.String(), State: &s,
	}
}

// later is the state so long after it opened, with what change does to it.
func later(s contract.IncidentState, after time.Duration, change func(*contract.IncidentState)) contract.IncidentState {
	s.UpdatedAt = s.Input.Opened.Add(after)
	if change != nil {
		change(&s)
	}
	return s
}

// asked is the incident with the question open, and the notice that asks it.
func asked(s contract.IncidentState) (contract.IncidentState, contract.Notice, contract.DecisionState) {
	d := decisionState(s)
	s = later(s, 2*time.Minute, func(s *contract.IncidentState) { s.Decisions = []contract.DecisionSummary{d.Summary()} })
	n := notice(contract.NoticeQuestion, 1, s)
	n.ID, n.Decision, n.Title = d.ID, &d, "downgrade to claude-3-sonnet"
	return s, n, d
}
