// Package runbook is the plan of an incident: which step comes when, what evidence it asks for, and
// what the evidence says. It holds no clock and asks nobody; the Incident workflow walks it.
package runbook

import (
	"fmt"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
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

// FirstSeen is a served model or a prompt template that the key had never used before.
type FirstSeen struct {
	Kind  string    `json:"kind"` // model or prompt_template_version
	Value string    `json:"value"`
	At    time.Time `json:"at"`
	Share float64   `json:"share"` // of the key's calls since
}

// JudgeChange says whether a change explains an incident that was first seen at onset: a deployment
// or a first-seen tag that carries a good part of the traffic, shortly before or at the onset.
func JudgeChange(deployments []usage.Deployment, seen []FirstSeen, onset time.Time) Verdict {
	const before, after, share = 30 * time.Minute, 2 * time.Minute, 0.10
	near := func(t time.Time) bool { return t.After(onset.Add(-before)) && t.Before(onset.Add(after)) }
	for _, d := range deployments {
		if near(d.Timestamp) {
			return Verdict{Found, CauseDeployment, fmt.Sprintf("%s deployed %s %s, %s before the regression",
				orSomeone(d.By), d.Service, d.Version, onset.Sub(d.Timestamp).Round(time.Second))}
		}
	}
	for _, s := range seen {
		if near(s.At) && s.Share >= share {
			return Verdict{Found, CauseFirstSeen, fmt.Sprintf("%s %q was first seen at %s and now carries %.0f %% of the calls",
				s.Kind, s.Value, s.At.UTC().Format("15:04:05"), s.Share*100)}
		}
	}
	return Verdict{Clear, "", fmt.Sprintf("no deployment, new model or new template within %s of the regression", before)}
}

func orSomeone(who string) string {
	if who == "" {
		return "someone"
	}
	return who
}

// ProviderHealth is what a provider's status page says.
type ProviderHealth struct {
	Provider    string `json:"provider"`
	Indicator   string `json:"indicator"` // none, minor, major, critical as on statuspage.io; empty: unknown
	Description string `json:"description"`
	Incident    string `json:"incident,omitempty"` // the newest unresolved one
	Link        string `json:"link,omitempty"`
}

// JudgeProvider reads the status page. A page that cannot be read is unknown, never healthy.
func JudgeProvider(h ProviderHealth) Verdict {
	switch h.Indicator {
	case "":
		return Verdict{Unknown, "", fmt.Sprintf("the status of %s is unknown: %s", orNoProvider(h.Provider), h.Description)}
	case "none":
		return Verdict{Clear, "", fmt.Sprintf("%s says: %s", h.Provider, h.Description)}
	}
	text := fmt.Sprintf("%s reports a %s problem: %s", h.Provider, h.Indicator, h.Description)
	if h.Incident != "" {
		text += " (" + h.Incident + ")"
	}
	return Verdict{Found, CauseProvider, text}
}

func orNoProvider(p string) string {
	if p == "" {
		return "the provider"
	}
	return p
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
}

// Cause is the first cause that a step found; empty while unclear.
func Cause(done []Done) string {
	for _, d := range done {
		if d.Verdict.Status == Found {
			return d.Verdict.Cause
		}
	}
	return ""
}

// Act is a decision's fate, for the report.
type Act struct {
	ID     string `json:"id"`
	Action string `json:"action"`
	Target string `json:"target"`
	State  string `json:"state"`
	Effect string `json:"effect"`
	By     string `json:"by"`
}

// Report is everything that the T+30 report tells.
type Report struct {
	ID      string         `json:"id"`
	Key     usage.Key      `json:"key"`
	Opened  time.Time      `json:"opened"`
	Closed  time.Time      `json:"closed"` // zero: still open
	Finding detect.Finding `json:"finding"`
	Steps   []Done         `json:"steps"`
	Acts    []Act          `json:"acts"`
}

// Query is the diagnostic query that shows the incident's cause, runnable as printed.
func (r Report) Query() string {
	from := r.Opened.Add(-30 * time.Minute).UTC().Format(time.DateTime)
	to := r.Opened.Add(30 * time.Minute).UTC().Format(time.DateTime)
	dimension := "model"
	switch Cause(r.Steps) {
	case CauseDeployment, CauseFirstSeen:
		dimension = "model, prompt_template_version"
	case CauseSpike, CauseDrop:
		dimension = "prompt_template_version"
	}
	return fmt.Sprintf(`SELECT toStartOfMinute(timestamp) AS minute, %s, count() AS requests,
       quantile(0.5)(cost_pico_usd) / 1e12 AS cost_p50_usd,
       sum(output_tokens) / sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS completion_ratio
FROM flyball.spans
WHERE tenant_id = %s AND requested_model = %s
  AND timestamp >= toDateTime64('%s', 3, 'UTC') AND timestamp < toDateTime64('%s', 3, 'UTC')
GROUP BY minute, %s ORDER BY minute, requests DESC`, dimension, quote(r.Key.Tenant), quote(r.Key.Model), from, to, dimension)
}

// quote makes a ClickHouse string literal.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// Markdown renders the report for people.
func (r Report) Markdown() string {
	var b strings.Builder
	f := r.Finding.Facts
	fmt.Fprintf(&b, "# Incident %s\n\n", r.ID)
	fmt.Fprintf(&b, "**Key** %s · **level** %s · **rule** %s\n\n", r.Key, r.Finding.Verdict.Level, r.Finding.Verdict.Rule)
	fmt.Fprintf(&b, "Opened %s", r.Opened.UTC().Format(time.RFC3339))
	if r.Closed.IsZero() {
		b.WriteString(", still open.\n\n")
	} else {
		fmt.Fprintf(&b, ", closed %s (%s).\n\n", r.Closed.UTC().Format(time.RFC3339), r.Closed.Sub(r.Opened).Round(time.Second))
	}
	fmt.Fprintf(&b, "%s\n\n", r.Finding.Verdict.Reason)
	b.WriteString("| | now | baseline | ratio |\n| --- | --- | --- | --- |\n")
	if f.CostKnown {
		fmt.Fprintf(&b, "| cost of a call (median) | $%.6f | $%.6f | × %.2f |\n", f.CostUSD, f.CostBaseline, f.CostRatio)
	}
	if f.QualityKnown {
		fmt.Fprintf(&b, "| quality (median) | %.3f | %.3f | × %.2f |\n", f.Quality, f.QualityBaseline, f.QualityRatio)
	}
	if f.SpendKnown {
		fmt.Fprintf(&b, "| spend a minute | $%.4f | $%.4f | × %.2f |\n", f.SpendPerMinute, f.SpendBaseline, f.SpendRatio)
	}
	b.WriteString("\n## What was checked\n\n")
	for _, d := range r.Steps {
		fmt.Fprintf(&b, "- **%s** (%s) %s: %s\n", d.Step.Name, d.At.UTC().Format("15:04:05"), d.Verdict.Status, d.Verdict.Text)
	}
	b.WriteString("\n## What was done\n\n")
	if len(r.Acts) == 0 {
		b.WriteString("Nothing.\n")
	}
	for _, a := range r.Acts {
		fmt.Fprintf(&b, "- %s", a.Action)
		if a.Target != "" {
			fmt.Fprintf(&b, " to %s", a.Target)
		}
		fmt.Fprintf(&b, ": %s", a.State)
		if a.By != "" {
			fmt.Fprintf(&b, " (by %s)", a.By)
		}
		if a.Effect != "" {
			fmt.Fprintf(&b, "; %s", a.Effect)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n## How to see it again\n\n```sql\n%s\n```\n", r.Query())
	return b.String()
}
