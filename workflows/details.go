package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
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

// clock is a time of day, which each page says is in UTC; a zero time is a dash.
func clock(at time.Time) string {
	if at.IsZero() {
		return "–"
	}
	return at.UTC().Format("15:04:05")
}

// stopped ends what others wrote with one full stop.
func stopped(s string) string { return strings.TrimRight(s, ". ") + "." }

// sentence also gives it a capital.
func sentence(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + stopped(s[1:])
}

// lasting is a duration without its zeros: 2h, not 2h0m0s.
func lasting(d time.Duration) string {
	s := d.String()
	for _, zero := range []string{"0s", "0m"} {
		if head := strings.TrimSuffix(s, zero); head != s && strings.HasSuffix(head, map[string]string{"0s": "m", "0m": "h"}[zero]) {
			s = head
		}
	}
	return s
}

// words are a status as people say it.
func words[S ~string](status S) string { return strings.ReplaceAll(string(status), "_", " ") }

// headline names an act: "downgrade to claude-3-sonnet".
func headline(action, value string) string {
	switch {
	case value == "":
		return words(action)
	case action == contract.RollBack:
		return words(action) + " of " + value
	}
	return words(action) + " to " + value
}

// answers are the commands with which a person answers a decision.
func (t *text) answers(decision string) {
	handle := contract.Handle(decision)
	t.code("flyball approve %s\nflyball deny %s --reason 'why'", handle, handle)
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
}

func sweepDetails(s contract.SweepState) string {
	var t text
	t.line("Evaluates every key of shard %d at each tick, and wakes the alert loops of those that changed.", s.Shard)
	if last := s.Last; last.LastTick.IsZero() {
		t.line("\nNo round of ticks has ended in this run yet; %d had before it.", s.Rounds)
	} else {
		t.line("\nRounds of ticks so far: %d. The last one ended at %s UTC after %d ticks; its last tick saw %d keys. It sent %d messages to alert loops.",
			s.Rounds, last.LastTick.UTC().Format(time.DateTime), last.Ticks, last.Keys, last.Signals)
		if last.Failed > 0 {
			t.line("\n**%d of its ticks failed**: nothing was judged at those. The worker's log says why; is ClickHouse up?", last.Failed)
		}
	}
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
	t.line("**%s** · %s All times are UTC.", s.Key, phases[s.Alert.Phase])
	if s.Alert.Silent {
		t.line("\n**No facts for %s or more**: the key is inconclusive. Is its telemetry still arriving, and is the sweep (`%s`) running?", lasting(tuning.Holds.Silence), contract.SweepID(0))
	}
	muteDetails(&t, s.Mute)
	if s.Finding != nil && s.Alert.Phase != alert.Quiet {
		t.section("The last finding, at " + clock(s.Finding.EvaluatedAt))
		t.line("%s: %s (rule `%s`)", s.Finding.Verdict.Level, s.Finding.Verdict.Reason, s.Finding.Verdict.Rule)
		t.figures(s.Finding.Facts)
	}
	t.section("Flags")
	if len(s.Flags) == 0 {
		t.line("None is on.")
	}
	for _, f := range s.Flags {
		end := "it has no end of its own"
		if !f.ExpiresAt.IsZero() {
			end = "it ends at " + clock(f.ExpiresAt) + " at the latest"
		}
		t.line("- %s (%s). Renewed at %s; %s. Ordered by `%s`.", flagText(f), strings.TrimRight(f.Reason, ". "), clock(f.RenewedAt), end, f.Decision)
	}
	if s.Incident != "" {
		t.section("Incident")
		t.line("`%s` tells the story.", s.Incident)
		if contract.IsGroup(s.Incident) {
			t.line("This key fails together with many others, and nothing is decided for it alone while it belongs to them.")
		}
		if s.Closing {
			t.line("It has been told that its alert is over, and closes when its decisions have ended.")
		}
	}
	if s.Incident != "" && s.Alert.Open() {
		t.line("\nThere is no fault? Say so, which closes it and takes its flags off at once:")
		t.code("flyball incidents resolve %s --reason 'why'", contract.Handle(s.Incident))
		t.line("or, with Temporal alone:")
		t.code(`temporal workflow update execute -w '%s' --name resolve --input '{"who":"you","reason":"why"}'`, contract.AlertLoopID(s.Key))
	}
	return t.String()
}

// flagText says what a flag does to calls.
func flagText(f routing.Flag) string {
	calls := fmt.Sprintf("**%s**: %.0f %% of the calls", f.Kind, f.Share*100)
	switch f.Kind {
	case routing.Route, routing.Pin:
		return calls + " go to " + f.Value
	case routing.Stop:
		return calls + " are refused"
	case routing.Shape:
		return calls + " are refused for now"
	}
	return calls + " are scored"
}

func incidentTitle(s contract.IncidentState) string {
	return fmt.Sprintf("%s %s: %s", s.Level, s.Input.Key, s.Input.Finding.Verdict.Reason)
}

func incidentDetails(s contract.IncidentState) string {
	var t text
	t.line("**%s %s** · %s · opened %s · handle `%s`. All times are UTC.",
		s.Level, s.Input.Key, s.Phase, s.Input.Opened.UTC().Format(time.DateTime), contract.Handle(s.ID))
	if s.Phase != contract.IncidentOpen {
		t.line("\n%s", sentence(s.Reason))
	}
	if m := s.Mute; m != nil {
		t.line("\n**Muted** by %s until %s UTC: %s Nobody is told of it until then; everything else goes on.", m.Who, m.Until.UTC().Format(time.DateTime), stopped(m.Reason))
	}
	incidentQuestion(&t, s)
	incidentLeft(&t, s)
	t.section("What happened")
	t.line("%s (rule `%s`)", s.Input.Finding.Verdict.Reason, s.Input.Finding.Verdict.Rule)
	t.figures(s.Finding.Facts)
	if s.Silent {
		t.line("\n**Its telemetry has gone silent**: nothing can be said of it now. Is it still arriving?")
	}
	incidentPrevious(&t, s.Previous)
	incidentChecks(&t, s)
	t.section("What was decided")
	if len(s.Decisions) == 0 {
		t.line("Nothing yet.")
	}
	for _, d := range s.Decisions {
		t.line("- %s: **%s**%s, %s `%s`", headline(d.Action, d.Value), words(d.Status), atShare(d.Share), stopped(d.Reason), d.ID)
	}
	for _, r := range s.Evidence.Rollbacks {
		t.line("- %s %s", clock(r.At), sentence(r.Text()))
	}
	if s.Recalibration != "" {
		t.line("- Baselines are computed anew, since another model has come to serve the key: `%s`", s.Recalibration)
	}
	if s.Advice != "" {
		t.line("\nThe policy proposes nothing now: %s", stopped(s.Advice))
	}
	if len(s.Notes) > 0 {
		t.section("What people noted")
	}
	for _, n := range s.Notes {
		t.line("- %s %s: %s", clock(n.At), n.Who, strings.Join(strings.Fields(n.Text), " "))
	}
	if s.Phase != contract.IncidentClosed {
		incidentNext(&t, s)
	}
	if s.Report != "" {
		t.line("\n---\n\n%s", s.Report)
	}
	return t.String()
}

// incidentQuestion puts what a person is asked where it is read first.
func incidentQuestion(t *text, s contract.IncidentState) {
	for _, d := range s.Decisions {
		if d.Status == contract.AwaitingApproval {
			t.section("It waits for you")
			t.line("Until %s: %s? %s", clock(d.ExpiresAt), headline(d.Action, d.Value), sentence(d.Reason))
			t.answers(d.ID)
		}
	}
}

// incidentLeft says what is left to people.
func incidentLeft(t *text, s contract.IncidentState) {
	for _, d := range s.Steps {
		if d.Open() && s.Phase != contract.IncidentClosed {
			t.section("It is left to you")
			t.line("%s: %s Take the incident on (see below) or skip %s to say that this is seen to.", d.Step.Name, sentence(d.Needs), d.Step.Name)
		}
	}
}

// incidentPrevious tells what the key's last incident taught.
func incidentPrevious(t *text, p *contract.PastIncident) {
	if p == nil {
		return
	}
	t.section("The one before")
	cause := "Its cause stayed unclear."
	if p.Cause != "" {
		cause = "Its cause was " + words(p.Cause) + "."
	}
	t.line("Opened %s UTC. %s %s `%s`", p.Opened.UTC().Format(time.DateTime), cause, sentence(p.Reason), p.ID)
	if p.Query != "" {
		t.line("This query showed it:\n\n```sql\n%s\n```", p.Query)
	}
}

// incidentChecks tells what the runbook's steps saw.
func incidentChecks(t *text, s contract.IncidentState) {
	t.section("What was checked")
	if len(s.Steps) == 0 {
		t.line("Nothing yet.")
	}
	for _, d := range s.Steps {
		t.line("- **%s** %s, %s: %s", d.Step.Name, clock(d.At), d.Verdict.Status, d.Verdict.Text)
		if d.Why != "" {
			t.line("  - %s", d.Why)
		}
		if d.Settled != "" {
			t.line("  - to be done: %s (%s)", d.Needs, d.Settled)
		}
		for _, e := range d.Earlier {
			t.line("  - before, at %s, %s: %s", clock(e.At), e.Verdict.Status, e.Verdict.Text)
		}
	}
	if text := attributed(s.Evidence); text != "" {
		t.line("- %s", sentence(text))
	}
	for _, w := range s.Evidence.Completion.Lines() {
		t.line("- worst trace %s", w)
	}
	if h := s.Evidence.Provider; h.Link != "" {
		t.line("- [status page of %s](%s)", h.Provider, h.Link)
	}
}

// incidentNext says what the incident waits for and what a person can do.
func incidentNext(t *text, s contract.IncidentState) {
	t.section("What is next")
	if s.Phase == contract.IncidentClosing {
		t.line("It closes when its decisions have ended.")
		return
	}
	if plan := runbook.Plan(s.Input.Tuning.TimeScale); len(s.Steps) < len(plan) && !s.NextAt.IsZero() {
		step := plan[len(s.Steps)]
		t.line("- %s, %s: %s", clock(s.NextAt), step.Name, step.Title)
	}
	t.line("- It ends by itself when the finding stays away from the untreated traffic and its decisions have ended.")
	t.line("- The key's alert and flags are in `%s`.", s.Input.Loop)
	if a := s.Acknowledged; a != nil {
		t.line("\n%s has taken it on at %s. %s", a.Who, clock(a.At), a.Note)
		return
	}
	t.line("\nNobody has taken it on yet:")
	t.code(`temporal workflow update execute -w '%s' --name acknowledge --input '{"who":"you"}'`, s.ID)
}

// rollback says what to go back to, as far as the deployment tells when one is the cause.
func rollback(cause string, d *usage.Deployment) string {
	if cause != runbook.CauseDeployment || d == nil {
		return "roll it back or pin what was there before"
	}
	text := "roll it back"
	if model := d.Previous["model"]; model != "" {
		text += ", to the model " + model
	}
	if template := d.Previous["prompt_template_version"]; template != "" {
		text += ", to the prompt template " + template
	}
	return text
}

// atShare says how much of the traffic an act has; nothing for an act that has none.
func atShare(share float64) string {
	if share == 0 {
		return ""
	}
	return fmt.Sprintf(" at %.0f %%", share*100)
}

func decisionTitle(s contract.DecisionState) string {
	p := s.Input.Proposal
	return fmt.Sprintf("%s: %s: %s", s.Input.Key, headline(p.Action, p.Value), p.Reason)
}

func decisionDetails(s contract.DecisionState) string {
	var t text
	p := s.Input.Proposal
	t.line("**%s: %s** · **%s**%s. All times are UTC.", s.Input.Key, headline(p.Action, p.Value), words(s.Status), atShare(s.Share))
	if s.Reason != p.Reason {
		t.line("\n%s", sentence(s.Reason))
	}
	if s.Status == contract.AwaitingApproval {
		t.section("It waits for you")
		t.line("Until %s; then it expires, which is not a denial. Approvers by policy: %s.", clock(s.ExpiresAt), orAnyone(p.Approvers))
		t.answers(s.ID)
		t.line("or, with Temporal alone:")
		t.code(`temporal workflow update execute -w '%s' --name decide --input '{"verdict":"approve","who":"you","reason":"why"}'`, s.ID)
	}
	t.section("Why")
	if c := s.Input.Case; c != nil {
		caseDetails(&t, s, *c)
		t.history(s.History)
		return t.String()
	}
	t.line("%s Rule `%s` of act.yaml, revision `%s`.", sentence(p.Reason), p.Rule, p.Revision)
	f := s.Input.Finding
	t.line("\nIt answers: %s (rule `%s`)", f.Verdict.Reason, f.Verdict.Rule)
	t.figures(f.Facts)
	t.line("\nThe whole story: `%s`.", s.Input.Incident)
	switch p.Action {
	case contract.ScoreCalls:
	case contract.RollBack:
		rollbackDetails(&t, p)
	default:
		rolloutDetails(&t, s)
	}
	if s.Measured != nil {
		t.section("What it has been worth")
		t.line("%s", s.Measured.Text())
	}
	t.history(s.History)
	if s.Share > 0 {
		t.line("\nTo take it off at once, cancel this workflow: it then reverts.")
		t.code("temporal workflow cancel -w '%s'", s.ID)
	}
	return t.String()
}

func (t *text) history(moves []contract.Transition) {
	t.section("So far")
	for _, h := range moves {
		t.line("- %s %s%s: %s", clock(h.At), words(h.Status), atShare(h.Share), h.Reason)
	}
}

// caseDetails says what would have been done to the call, and what an answer does.
func caseDetails(t *text, s contract.DecisionState, c contract.FallbackCase) {
	t.line("%s Rule `%s` of tradeoff.yaml.", sentence(s.Input.Proposal.Reason), c.Rule)
	t.line("\n%s", c.Would())
	t.section("What an answer does")
	t.line("Nothing to this call, which was answered as it was asked. Once people have approved %d such cases of %s in a row, the rule acts by itself on its calls, but for a holdback; a denial starts the count again.", contract.TrustNeeded, c.Tenant)
	if standing := s.Input.Standing; standing != nil {
		t.line("\nAs this was asked, %s.", standing.Reason)
	}
}

// rollbackDetails says what an approval sets going.
func rollbackDetails(t *text, p contract.Proposal) {
	t.section("How it is carried out")
	t.line("The incident calls the webhook of %s, signed, until it answers: its own deployment system does the rest. No flag is set, and nothing of it is undone when the incident ends: **the way back is another deployment**.", p.Value)
	if d := p.Deployment; d != nil {
		t.line("\nTo be taken back: version %s, deployed at %s by %s.", d.Version, clock(d.Timestamp), cmp.Or(d.By, "someone"))
	}
}

// rolloutDetails says how the act is rolled out and what the arms show.
func rolloutDetails(t *text, s contract.DecisionState) {
	t.section("How it is carried out")
	plan := s.Plan.Plan
	if len(plan.Steps) == 0 {
		t.line("Not planned yet.")
		return
	}
	shares := make([]string, len(plan.Steps))
	for i, share := range plan.Steps {
		shares[i] = fmt.Sprintf("%.0f %%", share*100)
	}
	if plan.Provable {
		t.line("Treated share %s, with a test between the steps; the holdback stays untouched and shows whether it helps and when the fault is over. %s",
			strings.Join(shares, " → "), sentence(plan.Reason))
	} else {
		t.line("**Traffic cannot prove this act**: only a person can order it. It then treats %s of the calls at once, its effect is recorded as unproven, and it comes off after %s. %s",
			shares[len(shares)-1], lasting(s.Input.Tuning.Limits.UnprovenHold), sentence(plan.Reason))
	}
	if s.Frozen != "" {
		t.line("\nFrozen at its share: %s", stopped(s.Frozen))
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
	t.line("\nA treated call costs %.2f times an untreated one (z %.1f). %s", c.CostRatio, c.CostZ, sentence(c.Reason))
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
	if len(s.Classes) == 0 {
		t.line("\nNo decision has been made yet.")
	} else {
		t.line("\n| action | rule | approved in a row | may it act alone? | acted alone so far |\n| --- | --- | --- | --- | --- |")
	}
	for _, action := range workflow.DeterministicKeys(s.Classes) {
		c := s.Classes[action]
		alone := fmt.Sprintf("not yet: %d to go", trustNeeded-c.Approved)
		switch {
		case c.Held != nil:
			alone = byWhom("no: withdrawn", c.Held.Who, c.Held.Reason)
		case c.Trusted():
			alone = "yes"
		case len(c.Open) > 0:
			alone += fmt.Sprintf(", %d of them with people", len(c.Open))
		}
		t.line("| %s | %s | %d | %s | %d |", words(action), c.Rule, c.Approved, alone, c.Granted)
	}
	t.line("\nA denial, a revert, or a change of the rule that fires starts the count again.")
	return t.String()
}

func calibrationDetails(s contract.CalibrationState) string {
	var t text
	whose := "all tenants"
	if s.Tenant != "" {
		whose = "**" + s.Tenant + "**"
	}
	if s.Judges {
		t.line("Judges evaluators against people's ratings.")
	} else {
		t.line("Computes the baselines of %s anew: once as it starts, and once more for whoever asks while it runs.", whose)
	}
	switch {
	case s.Runs == 0:
		t.line("\nThe first run is under way.")
	case s.Judges:
		t.line("\nRuns so far: %d. The last one ended at %s UTC.", s.Runs, s.At.UTC().Format(time.DateTime))
	default:
		t.line("\nRuns so far: %d. The last one ended at %s UTC and stored %d baselines.", s.Runs, s.At.UTC().Format(time.DateTime), s.Baselines)
	}
	if s.Why != "" {
		t.line("\nAsked for: %s", stopped(byWhom(s.Why, s.Who, "")))
	}
	if s.Failed != "" {
		t.line("\n**The last run failed**: %s", stopped(s.Failed))
	}
	if s.Drift != nil {
		t.drift(*s.Drift, s)
	}
	for i, d := range s.Evaluators {
		if i == 0 {
			t.line("\n### Evaluators\n\n| Evaluator | Standing | Verdict |\n|---|---|---|")
		}
		t.line("| %s | %s | %s |", d.EvaluatorVersion, d.Standing, d.Text)
	}
	return t.String()
}

// drift tells how far keys have moved since they were calibrated, those that wait for a person first.
func (t *text) drift(r contract.DriftReport, s contract.CalibrationState) {
	t.line("\n### Drift\n\nLevels compared with where they were calibrated: %d; calibrated for the first time: %d.", r.Compared, r.First)
	if n := r.Open(); n > 0 {
		t.line("\n**Moves that wait for a person, until %s UTC: %d.** Until then, and after it, their baselines are held on the bound:", s.Expires.UTC().Format(time.DateTime), n)
		t.line("`flyball calibration approve` or `deny`, or the update `%s`: `{\"verdict\":\"approve\",\"who\":\"…\",\"reason\":\"…\"}`.", contract.Decide)
	}
	if s.Expired > 0 {
		t.line("\nNobody answered %d moves in time: they stay held, and the next calibration asks again.", s.Expired)
	}
	if len(r.Refused)+len(r.Confirmed)+len(r.Within) == 0 {
		return
	}
	t.line("\n| Key | Moved since | By | What became of it |\n|---|---|---|---|")
	row := func(d contract.LevelDrift, became string) {
		t.line("| %s | %s | %s | %s |", d.Key, d.Since.UTC().Format(time.DateOnly), d, became)
	}
	for _, d := range r.Refused {
		became := "held; "
		switch d.Verdict {
		case "":
			became = "held, waits; "
		case contract.Approve:
			became = "approved by " + d.Who + "; "
		case contract.Deny:
			became = "held, denied by " + d.Who + "; "
		}
		row(d, became+d.Says())
	}
	for _, d := range r.Confirmed {
		row(d, "moved; "+d.Says())
	}
	for _, d := range r.Within {
		row(d, "within its bound")
	}
	if r.More > 0 {
		t.line("\n%d more lie beyond their bounds; answer these first, then calibrate again.", r.More)
	}
}
