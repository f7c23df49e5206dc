package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
)

// The current details are what an on-call engineer reads in the Temporal UI at three in the morning:
// what happened, what was seen, what comes next, and how to act. Everything here is text only.

// text builds Markdown.
type text struct{ strings.Builder }

func (t *text) line(format string, args ...any) { t.WriteString(fmt.Sprintf(format+"\n", args...)) }

// section starts a heading.
func (t *text) section(title string) { t.WriteString("\n### " + title + "\n\n") }

// code shows a command.
func (t *text) code(format string, args ...any) {
	t.WriteString("```\n" + fmt.Sprintf(format, args...) + "\n```\n")
}

// clock is a time of day in UTC; a zero time is a dash.
func clock(at time.Time) string {
	if at.IsZero() {
		return "–"
	}
	return at.UTC().Format("15:04:05")
}

// figures is a table of what was measured; what is unknown is left out.
func (t *text) figures(f detect.Facts) {
	if !f.CostKnown && !f.QualityKnown && !f.SpendKnown {
		return
	}
	t.line("\n| | now | usually | ratio |\n| --- | --- | --- | --- |")
	if f.CostKnown {
		t.line("| cost of a call | $%.6f | $%.6f | × %.2f |", f.CostUSD, f.CostBaseline, f.CostRatio)
	}
	if f.QualityKnown {
		t.line("| quality | %.3f | %.3f | × %.2f |", f.Quality, f.QualityBaseline, f.QualityRatio)
	}
	if f.SpendKnown {
		t.line("| spend a minute | $%.4f | $%.4f | × %.2f |", f.SpendPerMinute, f.SpendBaseline, f.SpendRatio)
	}
	t.line("")
}

func sweepDetails(s contract.SweepState) string {
	var t text
	t.line("Evaluates every key of shard %d at each tick, and wakes the alert loops of those that changed.", s.Shard)
	t.line("\nRounds of ticks so far: %d. The last one: %d ticks, %d of them failed, %d keys at its last tick, %d messages to alert loops.",
		s.Rounds, s.Last.Ticks, s.Last.Failed, s.Last.Keys, s.Last.Signals)
	t.line("\nThe round under way beats its heart with the same figures: see the pending activity.")
	return t.String()
}

// phases say what each phase means and what comes next.
var phases = map[alert.Phase]string{
	alert.Quiet:      "Quiet: nothing is wrong.",
	alert.Pending:    "Pending: a finding that has not held long enough to open an incident.",
	alert.Firing:     "Firing: an incident is open.",
	alert.Recovering: "Recovering: the finding is gone; the incident resolves once it has stayed away and no flag is on.",
}

func alertLoopDetails(s contract.AlertLoopState, tuning contract.Tuning) string {
	var t text
	t.line("**%s** · %s", s.Key, phases[s.Alert.Phase])
	if s.Alert.Silent {
		t.line("\n**No facts for %s or more**: the key is inconclusive. Is its telemetry still arriving, and is the sweep running?", tuning.Holds.Silence)
	}
	if s.Finding != nil && s.Alert.Phase != alert.Quiet {
		t.section("The last finding, at " + clock(s.Finding.EvaluatedAt))
		t.line("%s: %s", s.Finding.Verdict.Level, s.Finding.Verdict.Reason)
		t.figures(s.Finding.Facts)
	}
	t.section("Flags")
	if len(s.Flags) == 0 {
		t.line("None is on.")
	}
	for _, f := range s.Flags {
		t.line("- %s %s for %.0f %% of the calls: %s (renewed %s, obeyed until %s at the latest, by `%s`)",
			f.Kind, f.Value, f.Share*100, f.Reason, clock(f.RenewedAt), clock(f.ExpiresAt), f.Decision)
	}
	if s.Incident != "" {
		t.section("Incident")
		t.line("`%s` tells the story.", s.Incident)
		t.line("\nIt is not one? Resolve it:")
		t.code(`temporal workflow update execute -w '%s' --name resolve --input '{"who":"you","reason":"why"}'`, contract.AlertLoopID(s.Key))
	}
	return t.String()
}

func incidentTitle(s contract.IncidentState) string {
	return fmt.Sprintf("%s %s: %s", s.Level, s.Input.Key, s.Input.Finding.Verdict.Reason)
}

func incidentDetails(s contract.IncidentState) string {
	var t text
	t.line("**%s %s** · %s · opened %s", s.Level, s.Input.Key, s.Phase, s.Input.Opened.UTC().Format(time.RFC3339))
	t.section("What happened")
	t.line("%s (rule `%s`)", s.Input.Finding.Verdict.Reason, s.Input.Finding.Verdict.Rule)
	t.figures(s.Finding.Facts)
	if s.Silent {
		t.line("**Its telemetry has gone silent**: nothing can be said of it now.")
	}
	if s.Phase != contract.IncidentOpen {
		t.line("Now %s: %s.", s.Phase, s.Reason)
	}
	t.section("What was checked")
	for _, d := range s.Steps {
		t.line("- **%s** %s, %s: %s", d.Step.Name, clock(d.At), d.Verdict.Status, d.Verdict.Text)
	}
	for _, w := range s.Evidence.Completion.Worst {
		t.line("  - worst trace `%s`", w)
	}
	if h := s.Evidence.Provider; h.Link != "" {
		t.line("  - [status of %s](%s)", h.Provider, h.Link)
	}
	t.section("What was decided")
	if len(s.Decisions) == 0 {
		t.line("Nothing yet.")
	}
	for _, d := range s.Decisions {
		t.line("- %s %s: **%s**, %s (`%s`)", d.Action, d.Value, d.Status, d.Reason, d.ID)
	}
	if s.Phase != contract.IncidentClosed {
		t.section("What is next")
		incidentNext(&t, s)
	}
	if s.Report != "" {
		t.line("\n---\n\n%s", s.Report)
	}
	return t.String()
}

// incidentNext says what the incident waits for and what a person can do.
func incidentNext(t *text, s contract.IncidentState) {
	for _, d := range s.Decisions {
		if d.Status == contract.AwaitingApproval {
			t.line("**It waits for you** until %s: %s %s?", clock(d.ExpiresAt), d.Action, d.Value)
			t.code("flyball approve %s\nflyball deny %s", contract.Handle(d.ID), contract.Handle(d.ID))
		}
	}
	if !s.NextAt.IsZero() {
		t.line("The next step of the runbook is at %s.", clock(s.NextAt))
	}
	t.line("It ends by itself when the finding stays away from the untreated traffic and its decisions have ended.")
	if a := s.Acknowledged; a != nil {
		t.line("\n%s has it since %s. %s", a.Who, clock(a.At), a.Note)
		return
	}
	t.line("\nNobody has taken it on yet:")
	t.code(`temporal workflow update execute -w '%s' --name acknowledge --input '{"who":"you"}'`, s.ID)
}

func decisionTitle(s contract.DecisionState) string {
	p := s.Input.Proposal
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", p.Action, s.Input.Key, p.Value)) + ": " + p.Reason
}

func decisionDetails(s contract.DecisionState) string {
	var t text
	p := s.Input.Proposal
	t.line("**%s %s** %s · **%s**", p.Action, s.Input.Key, p.Value, s.Status)
	t.line("\n%s.", s.Reason)
	if s.Status == contract.AwaitingApproval {
		t.section("It waits for you")
		t.line("Until %s; then it expires, which is not a denial. Approvers by policy: %s.", clock(s.ExpiresAt), orAnyone(p.Approvers))
		t.code("flyball approve %s\nflyball deny %s", contract.Handle(s.ID), contract.Handle(s.ID))
		t.line("or, with Temporal alone:")
		t.code(`temporal workflow update execute -w '%s' --name decide --input '{"verdict":"approve","who":"you","reason":"why"}'`, s.ID)
	}
	t.section("Why")
	t.line("%s (rule `%s` of act.yaml, revision `%s`).", p.Reason, p.Rule, p.Revision)
	f := s.Input.Finding
	t.line("\nIt answers: %s (rule `%s`).", f.Verdict.Reason, f.Verdict.Rule)
	t.figures(f.Facts)
	if v := s.Verdict; v != nil {
		t.line("%s said **%s**. %s", v.Who, v.Verdict, v.Reason)
	}
	t.section("How it is carried out")
	rolloutDetails(&t, s)
	t.section("So far")
	for _, h := range s.History {
		t.line("- %s %s at %.0f %%: %s", clock(h.At), h.Status, h.Share*100, h.Reason)
	}
	if s.Share > 0 {
		t.line("\nTo take it off at once, cancel this workflow: it then reverts.")
		t.code("temporal workflow cancel -w '%s'", s.ID)
	}
	return t.String()
}

// rolloutDetails says how the act is rolled out and what the arms show.
func rolloutDetails(t *text, s contract.DecisionState) {
	plan := s.Plan.Plan
	if len(plan.Steps) == 0 {
		t.line("Not planned yet.")
		return
	}
	shares := make([]string, len(plan.Steps))
	for i, share := range plan.Steps {
		shares[i] = fmt.Sprintf("%.0f %%", share*100)
	}
	t.line("Treated share %s; the holdback stays untouched and shows when the fault is over. %s.", strings.Join(shares, " → "), plan.Reason)
	if !plan.Provable {
		t.line("\n**Traffic cannot prove this act**: only a person can order it, and it comes off after %s.", s.Input.Tuning.Limits.UnprovenHold)
	}
	if s.Frozen != "" {
		t.line("\nFrozen at its share: %s.", s.Frozen)
	}
	if s.Share > 0 {
		t.line("\nNow %s at **%.0f %%**; effect **%s**.", s.Rollout.Phase, s.Share*100, s.Effect)
	}
	comparison(t, s.Rollout.Effect)
}

// comparison is the last test of treated against holdback.
func comparison(t *text, c *routing.Comparison) {
	if c == nil {
		return
	}
	t.line("\n| | treated | holdback |\n| --- | --- | --- |")
	t.line("| calls compared | %d | %d |", c.TreatedCost.N, c.HoldbackCost.N)
	t.line("| scores compared | %d | %d |", c.TreatedQuality.N, c.HoldbackQuality.N)
	t.line("| quality (median) | %.3f | %.3f |", c.TreatedQuality.Median, c.HoldbackQuality.Median)
	t.line("\nTreated costs × %.2f of the holdback (z %.1f). %s.", c.CostRatio, c.CostZ, c.Reason)
}

func orAnyone(groups []string) string {
	if len(groups) == 0 {
		return "anyone"
	}
	return strings.Join(groups, ", ")
}

func autonomyDetails(s contract.AutonomyState) string {
	var t text
	t.line("How far each class of action has earned the trust of **%s**: after %d decisions that people approved in a row, for the same rule, it may act alone.", s.Tenant, trustNeeded)
	t.line("\n| action | rule | approved | acted alone |\n| --- | --- | --- | --- |")
	for _, action := range workflow.DeterministicKeys(s.Classes) {
		c := s.Classes[action]
		t.line("| %s | %s | %d of %d | %d |", action, c.Rule, c.Approved, trustNeeded, c.Granted)
	}
	t.line("\nA denial, a revert, or a change of the rule that fires starts the count again.")
	return t.String()
}
