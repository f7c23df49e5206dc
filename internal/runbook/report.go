package runbook

import (
	"fmt"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Act is a decision's fate, for the report.
type Act struct {
	ID     string `json:"id"`
	Action string `json:"action"`
	Target string `json:"target"`
	State  string `json:"state"`
	Effect string `json:"effect"`
	By     string `json:"by"`
}

// Event is something that happened in an incident's course.
type Event struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// Past is an earlier incident of the same key.
type Past struct {
	ID     string    `json:"id"`
	Opened time.Time `json:"opened"`
	Closed time.Time `json:"closed"`
	Cause  string    `json:"cause"`
	Reason string    `json:"reason"`
	Query  string    `json:"query"`
}

// Report is everything that the T+30 report tells.
type Report struct {
	ID       string         `json:"id"`
	Key      usage.Key      `json:"key"`
	Opened   time.Time      `json:"opened"`
	Closed   time.Time      `json:"closed"` // zero: still open
	Finding  detect.Finding `json:"finding"`
	Steps    []Done         `json:"steps"`
	Acts     []Act          `json:"acts"`
	Rise     *Attribution   `json:"rise,omitempty"`  // nil: not known
	Shift    *Shift         `json:"shift,omitempty"` // of a tenant's whole mix alone
	Worst    []string       `json:"worst,omitempty"` // traces, a line each
	Links    []string       `json:"links,omitempty"` // addresses
	Timeline []Event        `json:"timeline,omitempty"`
	Notes    []Event        `json:"notes,omitempty"`
	Previous *Past          `json:"previous,omitempty"`
	// Recalibration is the workflow that computes the tenant's baselines anew; empty: none was asked for.
	Recalibration string `json:"recalibration,omitempty"`
}

// Query is the diagnostic query that shows the incident's cause, runnable as printed: the key's calls around
// the onset by minute, split by what the cause lies in.
func (r Report) Query() string {
	from := r.Opened.Add(-30 * time.Minute).UTC().Format(time.DateTime)
	to := r.Opened.Add(30 * time.Minute).UTC().Format(time.DateTime)
	dimension := "model"
	switch Cause(r.Steps) {
	case CauseDeployment, CauseFirstSeen:
		dimension = "model, prompt_template_version"
	case CauseSpike, CauseDrop:
		dimension = "prompt_template_version"
	case CauseProvider:
		dimension = "provider, model"
	}
	if r.Key.Pseudo() {
		dimension = "requested_model, " + dimension
	}
	return fmt.Sprintf(`SELECT toStartOfMinute(timestamp) AS minute, %s, count() AS requests,
       quantile(0.5)(cost_pico_usd) / 1e12 AS cost_p50_usd,
       sum(output_tokens) / sum(uncached_input_tokens + cache_read_tokens + cache_write_5m_tokens + cache_write_1h_tokens) AS completion_ratio
FROM flyball.spans
WHERE %stimestamp >= toDateTime64('%s', 3, 'UTC') AND timestamp < toDateTime64('%s', 3, 'UTC')
GROUP BY minute, %s ORDER BY minute, requests DESC`, dimension, filter(r.Key), from, to, dimension)
}

// filter is what the calls of a key are found by: an experiment's by its id too, those of a pseudo-key
// whatever they ask for.
func filter(k usage.Key) string {
	var conditions []string
	and := func(column, value string) { conditions = append(conditions, column+" = "+quote(value)) }
	of, experiment, isExperiment := k.Experiment()
	if isExperiment {
		k = of
	}
	if k.Tenant != usage.AnyModel {
		and("tenant_id", k.Tenant)
	}
	if !k.Pseudo() {
		and("requested_model", k.Model)
	}
	if isExperiment {
		and("experiment_id", experiment)
	}
	if len(conditions) == 0 {
		return ""
	}
	return strings.Join(conditions, " AND ") + "\n  AND "
}

// quote makes a ClickHouse string literal.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// Markdown renders the report for people.
func (r Report) Markdown() string {
	var b strings.Builder
	r.heading(&b)
	r.figures(&b)
	r.carried(&b)
	section(&b, "What was checked", r.Steps, stepText)
	section(&b, "Worst traces", r.Worst, func(trace string) string { return trace })
	b.WriteString("\n## What was done\n\n")
	if len(r.Acts) == 0 {
		b.WriteString("Nothing.\n")
	}
	for _, a := range r.Acts {
		b.WriteString("- " + a.text() + "\n")
	}
	if r.Recalibration != "" {
		fmt.Fprintf(&b, "- baselines are computed anew, since the model that serves the key has changed: `%s`\n", r.Recalibration)
	}
	section(&b, "What people noted", r.Notes, Event.text)
	section(&b, "When", r.Timeline, Event.text)
	section(&b, "Links", r.Links, func(link string) string { return "<" + link + ">" })
	if p := r.Previous; p != nil {
		fmt.Fprintf(&b, "\n## The one before\n\n%s\n", p.text())
	}
	fmt.Fprintf(&b, "\n## How to see it again\n\n```sql\n%s\n```\n", r.Query())
	return b.String()
}

func (r Report) heading(b *strings.Builder) {
	fmt.Fprintf(b, "# Incident %s\n\n", r.ID)
	fmt.Fprintf(b, "**Key** %s · **level** %s · **rule** %s\n\n", r.Key, r.Finding.Verdict.Level, r.Finding.Verdict.Rule)
	fmt.Fprintf(b, "Opened %s", r.Opened.UTC().Format(time.RFC3339))
	if r.Closed.IsZero() {
		b.WriteString(", still open.\n\n")
	} else {
		fmt.Fprintf(b, ", closed %s (%s).\n\n", r.Closed.UTC().Format(time.RFC3339), lasting(r.Closed.Sub(r.Opened)))
	}
	fmt.Fprintf(b, "%s\n\n", r.Finding.Verdict.Reason)
}

func (r Report) figures(b *strings.Builder) {
	f := r.Finding.Facts
	b.WriteString("| | now | baseline | ratio |\n| --- | --- | --- | --- |\n")
	if f.CostKnown {
		fmt.Fprintf(b, "| cost of a call (median) | $%.6f | $%.6f | × %.2f |\n", f.CostUSD, f.CostBaseline, f.CostRatio)
	}
	if f.QualityKnown {
		fmt.Fprintf(b, "| quality (median) | %.3f | %.3f | × %.2f |\n", f.Quality, f.QualityBaseline, f.QualityRatio)
	}
	if f.SpendKnown {
		fmt.Fprintf(b, "| spend a minute | $%.4f | $%.4f | × %.2f |\n", f.SpendPerMinute, f.SpendBaseline, f.SpendRatio)
	}
}

// carried tells what carries the rise, as far as that is known.
func (r Report) carried(b *strings.Builder) {
	var text string
	if r.Shift != nil && r.Shift.Text != "" {
		text = r.Shift.Text + "\n\n"
	}
	if r.Rise != nil {
		text += r.Rise.Markdown()
	}
	if text = strings.TrimSpace(text); text != "" {
		fmt.Fprintf(b, "\n## What carries it\n\n%s\n", text)
	}
}

// section lists what there is under a heading; nothing has no heading.
func section[T any](b *strings.Builder, title string, all []T, text func(T) string) {
	if len(all) == 0 {
		return
	}
	b.WriteString("\n## " + title + "\n\n")
	for _, one := range all {
		b.WriteString("- " + text(one) + "\n")
	}
}

func stepText(d Done) string {
	text := fmt.Sprintf("**%s** (%s) %s: %s", d.Step.Name, d.At.UTC().Format(time.TimeOnly), d.Verdict.Status, d.Verdict.Text)
	switch {
	case d.Open():
		text += "; nobody took on what is to be done: " + d.Needs
	case d.Needs != "":
		text += "; to be done: " + d.Needs + " (" + d.Settled + ")"
	}
	if d.Why != "" {
		text += " (" + d.Why + ")"
	}
	for _, e := range d.Earlier {
		text += fmt.Sprintf("\n  - before, at %s, %s: %s", e.At.UTC().Format(time.TimeOnly), e.Verdict.Status, e.Verdict.Text)
	}
	return text
}

func (a Act) text() string {
	text := a.Action
	if a.Target != "" {
		text += " to " + a.Target
	}
	text += ": " + a.State
	if a.By != "" {
		text += " (by " + a.By + ")"
	}
	if a.Effect != "" {
		text += "; " + a.Effect
	}
	return text
}

// text is the event in one line, whatever it says.
func (e Event) text() string {
	return e.At.UTC().Format(time.TimeOnly) + " " + strings.Join(strings.Fields(e.Text), " ")
}

func (p Past) text() string {
	cause := "its cause stayed unclear"
	if p.Cause != "" {
		cause = "its cause was " + p.Cause
	}
	text := fmt.Sprintf("`%s`, opened %s: %s. %s", p.ID, p.Opened.UTC().Format(time.RFC3339), cause, p.Reason)
	if p.Query != "" {
		text += "\n\n```sql\n" + p.Query + "\n```"
	}
	return text
}

// Lines are the worst traces for people: with what they cost where that is known.
func (c Completion) Lines() []string {
	if len(c.Traces) == 0 {
		return c.Worst
	}
	lines := make([]string, len(c.Traces))
	for i, t := range c.Traces {
		lines[i] = t.String()
	}
	return lines
}
