// Package runbook is the plan of an incident: which step comes when, what evidence it asks for, and
// what the evidence says. It holds no clock and asks nobody; the Incident workflow walks it.
package runbook

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Step is one step of the runbook.
type Step struct {
	Name  string        `json:"name"`
	After time.Duration `json:"after"` // since the incident opened
	Title string        `json:"title"`
}

// The steps' names.
const (
	T0  = "T0"
	T2  = "T+2"
	T5  = "T+5"
	T10 = "T+10"
	T30 = "T+30"
)

// Plan is the runbook in order. Scale multiplies the times (1 is real time).
func Plan(scale float64) []Step {
	steps := []Step{
		{T0, 0, "Tell, and look for a change: deployments, first-seen models and templates"},
		{T2, 2 * time.Minute, "Deployment found: roll back. None: is the provider healthy?"},
		{T5, 5 * time.Minute, "Provider healthy: what does the completion ratio say?"},
		{T10, 10 * time.Minute, "Still unclear: score every call, freeze the automatic downgrade"},
		{T30, 30 * time.Minute, "Report: what it was, what it cost, how to find it next time"},
	}
	for i := range steps {
		steps[i].After = time.Duration(float64(steps[i].After) * scale)
	}
	return steps
}

// Status is a step's verdict.
type Status string

// The verdicts of a step. Unknown is "no data": the check ran and nothing can be said.
const (
	Found   Status = "found" // it explains the incident
	Clear   Status = "clear" // looked, and it does not
	Unknown Status = "unknown"
	Skipped Status = "skipped"
)

// Verdict is what a step concludes, for people and for act.yaml.
type Verdict struct {
	Status Status `json:"status"`
	Cause  string `json:"cause,omitempty"` // deployment, first_seen, provider, completion_spike, completion_drop
	Text   string `json:"text"`
}

// The causes.
const (
	CauseDeployment = "deployment"
	CauseFirstSeen  = "first_seen"
	CauseProvider   = "provider"
	CauseSpike      = "completion_spike"
	CauseDrop       = "completion_drop"
)

// kindModel is the kind of what was first seen that is a served model.
const kindModel = "model"

// FirstSeen is a served model or a prompt template that the key had never used before.
type FirstSeen struct {
	Kind  string    `json:"kind"` // model or prompt_template_version
	Value string    `json:"value"`
	At    time.Time `json:"at"`
	Share float64   `json:"share"` // of the key's calls since
}

// The time around an incident's onset within which a change can explain it, and the least part of the calls
// that something new must carry to do so.
const (
	changeBefore = 30 * time.Minute
	changeAfter  = 2 * time.Minute
	changeShare  = 0.10
)

func near(t, onset time.Time) bool {
	return t.After(onset.Add(-changeBefore)) && t.Before(onset.Add(changeAfter))
}

// Correlated is the deployment that explains an incident that was first seen at onset: the first of the list
// that was shipped shortly before or at the onset. Nil: none was.
func Correlated(deployments []usage.Deployment, onset time.Time) *usage.Deployment {
	i := slices.IndexFunc(deployments, func(d usage.Deployment) bool { return near(d.Timestamp, onset) })
	if i < 0 {
		return nil
	}
	return &deployments[i]
}

// JudgeChange says whether a change explains an incident that was first seen at onset: a deployment
// or a first-seen tag that carries a good part of the traffic, shortly before or at the onset.
func JudgeChange(deployments []usage.Deployment, seen []FirstSeen, onset time.Time) Verdict {
	if d := Correlated(deployments, onset); d != nil {
		return Verdict{Found, CauseDeployment, fmt.Sprintf("%s deployed %s %s, %s before the regression",
			orSomeone(d.By), d.Service, d.Version, lasting(onset.Sub(d.Timestamp)))}
	}
	for _, s := range seen {
		if near(s.At, onset) && s.Share >= changeShare {
			return Verdict{Found, CauseFirstSeen, fmt.Sprintf("%s %q was first seen at %s and now carries %.0f %% of the calls",
				s.Kind, s.Value, s.At.UTC().Format("15:04:05"), s.Share*100)}
		}
	}
	return Verdict{Clear, "", fmt.Sprintf("no deployment, new model or new template within %s of the regression", lasting(changeBefore))}
}

// NewModel is the model that came to serve an incident's calls shortly before its onset, by a deployment or
// first seen there: what baselines said of the old one says little of it. Empty: none did.
func NewModel(deployments []usage.Deployment, seen []FirstSeen, onset time.Time) string {
	if d := Correlated(deployments, onset); d != nil && d.Previous["model"] != "" && d.Previous["model"] != d.Model {
		if d.Model == "" {
			return d.Service + " " + d.Version
		}
		return d.Model
	}
	for _, s := range seen {
		if s.Kind == kindModel && near(s.At, onset) && s.Share >= changeShare {
			return s.Value
		}
	}
	return ""
}

// lasting writes a duration to the second, without the zeros that Go's own text ends in: 30m, not 30m0s.
func lasting(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func orSomeone(who string) string {
	if who == "" {
		return "someone"
	}
	return who
}

// Completion compares output / input tokens of the incident with the time before it, for the template of
// which they changed most.
type Completion struct {
	Template string   `json:"template,omitempty"`
	Now      float64  `json:"now"`
	Before   float64  `json:"before"` // 0: unknown
	Calls    int64    `json:"calls"`
	Worst    []string `json:"worst"`            // trace ids
	Traces   []Trace  `json:"traces,omitempty"` // the same, with what they cost

	OutcomesKnown     bool    `json:"outcomes_known,omitempty"`
	OutcomeRate       float64 `json:"outcome_rate,omitempty"` // good outcomes per call of the template
	OutcomeRateBefore float64 `json:"outcome_rate_before,omitempty"`
}

// JudgeCompletion reads the completion ratio: a spike means injection or context overflow, a drop
// means truncation by max_tokens.
func JudgeCompletion(c Completion, minimum int) Verdict {
	const spike, drop = 1.8, 0.55
	if c.Before <= 0 || c.Calls < int64(minimum) {
		return Verdict{Unknown, "", fmt.Sprintf("too few calls (%d) to read the completion ratio", c.Calls)}
	}
	change := c.Now / c.Before
	figures := fmt.Sprintf("completion ratio %.2f against %.2f before (× %.2f)", c.Now, c.Before, change)
	if c.OutcomesKnown {
		figures += fmt.Sprintf(", good outcomes of %.1f %% of calls against %.1f %% before", 100*c.OutcomeRate, 100*c.OutcomeRateBefore)
	}
	switch {
	case change >= spike:
		return Verdict{Found, CauseSpike, figures + ": a spike means prompt injection, runaway output or context overflow"}
	case change <= drop:
		return Verdict{Found, CauseDrop, figures + ": a drop means answers truncated by max_tokens"}
	}
	return Verdict{Clear, "", figures + ": as usual"}
}

// Done is a step that has been walked.
type Done struct {
	Step    Step      `json:"step"`
	At      time.Time `json:"at"`
	Verdict Verdict   `json:"verdict"`
	Why     string    `json:"why,omitempty"` // it was walked again, and by whom
	// Needs is what a person has to do. The step stays open until somebody takes the incident on or skips the
	// step, which Settled tells; the steps after it do not wait.
	Needs   string `json:"needs,omitempty"`
	Settled string `json:"settled,omitempty"`
	Earlier []Done `json:"earlier,omitempty"` // what was found before it was walked again, oldest first
}

// Open reports whether the step still waits for a person.
func (d Done) Open() bool { return d.Needs != "" && d.Settled == "" }

// Cause is the first cause that a check found; empty while unclear. The last step checks nothing: it only
// concludes.
func Cause(done []Done) string { return CauseBefore(done, T30) }

// CauseBefore is the cause that the steps before the named one found. A step that is walked again must not
// take its own earlier word for a fact.
func CauseBefore(done []Done, step string) string {
	for _, d := range done {
		if d.Step.Name == step {
			break
		}
		if d.Verdict.Status == Found {
			return d.Verdict.Cause
		}
	}
	return ""
}

// Again has a step walked anew: its verdict takes the place of the old one, which is kept.
func Again(old, d Done) Done {
	earlier := slices.Clone(old.Earlier)
	old.Earlier = nil
	d.Earlier = append(earlier, old)
	return d
}
