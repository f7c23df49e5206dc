package console

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// NewIncident is how the page shows an incident's state.
func NewIncident(s contract.IncidentState, link string, now time.Time) Incident {
	state := stateOf(s.Phase, s.Acknowledged)
	if s.Silent {
		state += ", no telemetry"
	}
	page := Incident{
		ID: s.ID, Handle: contract.Handle(s.ID), Key: s.Input.Key, Level: string(s.Level), State: state,
		Opened: s.Input.Opened, Rule: s.Finding.Verdict.Rule, Reason: s.Finding.Verdict.Reason,
		Evidence: evidenceOf(s.Finding.Facts), Steps: stepsOf(s.Steps, s.Input.Opened, s.Input.Tuning), Advice: s.Advice, Link: link,
		Acknowledged: takenBy(s.Acknowledged), Notes: notesOf(s.Notes), Mute: muteOf(s.ID, s.Mute, now),
	}
	if a := s.Evidence.Attribution; a != nil {
		page.Carried = a.Text()
	}
	if p := s.Previous; p != nil {
		page.Previous = &Previous{ID: p.ID, Handle: contract.Handle(p.ID), Opened: p.Opened, Cause: p.Cause, Reason: p.Reason, Query: p.Query}
	}
	return page
}

// NewGroup is how the page shows the state of an incident of many keys.
func NewGroup(s contract.GroupState, link string, now time.Time) Group {
	page := Group{
		ID: s.ID, Handle: contract.Handle(s.ID), Cause: s.Input.Cause, Level: string(s.Level), State: stateOf(s.Phase, s.Acknowledged),
		Opened: s.Input.Opened, Reason: s.Reason, Keys: []Member{}, Steps: []Step{}, Link: link,
		Acknowledged: takenBy(s.Acknowledged), Notes: notesOf(s.Notes), Mute: muteOf(s.ID, s.Mute, now),
	}
	for _, d := range s.Steps { // a group has no plan, only what was found out
		page.Steps = append(page.Steps, Step{Name: d.Step.Name, Title: d.Step.Title, Status: string(d.Verdict.Status), Text: d.Verdict.Text, At: d.At})
	}
	for _, k := range s.Keys {
		page.Keys = append(page.Keys, Member{Key: k.Key, Level: string(k.Level), Reason: k.Reason, Left: string(k.Left)})
	}
	return page
}

func stateOf(phase contract.Phase, taken *contract.Acknowledgement) string {
	if taken != nil && phase == contract.IncidentOpen {
		return "taken by " + taken.Who
	}
	return string(phase)
}

func takenBy(a *contract.Acknowledgement) *Remark {
	if a == nil {
		return nil
	}
	return &Remark{a.Who, a.Note, a.At}
}

func notesOf(notes []contract.Note) []Remark {
	var page []Remark
	for _, n := range notes {
		page = append(page, Remark{n.Who, n.Text, n.At})
	}
	return page
}

// muteOf is the mute that holds now; nil when none does.
func muteOf(target string, m *contract.Mute, now time.Time) *Mute {
	if !m.On(now) {
		return nil
	}
	return &Mute{target, m.Until, m.Who, m.Reason}
}

// stepsOf is the whole runbook: what was walked with its verdict, the rest with when it is due.
func stepsOf(walked []runbook.Done, opened time.Time, tuning contract.Tuning) []Step {
	var steps []Step
	for _, planned := range runbook.Plan(tuning.TimeScale) {
		step := Step{Name: planned.Name, Title: planned.Title, Status: "pending", At: opened.Add(planned.After)}
		if i := slices.IndexFunc(walked, func(d runbook.Done) bool { return d.Step.Name == planned.Name }); i >= 0 {
			done := walked[i]
			step.Status, step.Text, step.At = string(done.Verdict.Status), done.Verdict.Text, done.At
		}
		steps = append(steps, step)
	}
	return steps
}

// evidenceOf are the facts that are known, with what is usual. Quantities that are as usual and did
// not raise the finding still count as evidence: they say what it is not.
func evidenceOf(f detect.Facts) []Evidence {
	var list []Evidence
	add := func(known bool, what, now, usual string) {
		if known {
			list = append(list, Evidence{what, now, "usually " + usual})
		}
	}
	add(f.CostKnown, "Median cost of a call", dollars(f.CostUSD), dollars(f.CostBaseline))
	add(f.QualityKnown, "Median quality", fmt.Sprintf("%.2f", f.Quality), fmt.Sprintf("%.2f", f.QualityBaseline))
	add(f.SpendKnown, "Spend per minute", dollars(f.SpendPerMinute), dollars(f.SpendBaseline))
	add(f.CompletionKnown, "Output per input token", fmt.Sprintf("%.2f", f.Completion), fmt.Sprintf("%.2f", f.CompletionBaseline))
	add(f.CacheKnown, "Input read from cache", fmt.Sprintf("%.0f %%", f.CacheHit*100), fmt.Sprintf("%.0f %%", f.CacheBaseline*100))
	add(f.OutcomeKnown, "Calls with a good outcome", fmt.Sprintf("%.1f %%", f.OutcomeRate*100), fmt.Sprintf("%.1f %%", f.OutcomeBaseline*100))
	if f.CostSamples+f.QualitySamples > 0 {
		list = append(list, Evidence{What: fmt.Sprintf("Samples in %d min", f.WindowMinutes), Now: fmt.Sprintf("%d costs, %d scores", f.CostSamples, f.QualitySamples)})
	}
	return list
}

// dollars writes an amount that is only shown, to three significant digits.
func dollars(amount float64) string {
	if amount <= 0 || math.IsInf(amount, 0) || math.IsNaN(amount) {
		return "$0"
	}
	unit := math.Pow(10, math.Floor(math.Log10(amount))-2)
	return "$" + pricing.Format(usage.PicoUSD(math.Round(math.Round(amount/unit)*unit*1e12)))
}

// NewDecision is how the page shows a decision's state.
func NewDecision(s contract.DecisionState, link string) Decision {
	d := Decision{
		ID: s.ID, Handle: contract.Handle(s.ID), Incident: s.Input.Incident, Key: s.Input.Key,
		Action: s.Input.Proposal.Action, Value: s.Input.Proposal.Value,
		Waiting: s.Status == contract.AwaitingApproval && s.Verdict == nil, Status: string(s.Status),
		Reason: s.Input.Proposal.Reason, Rule: s.Input.Proposal.Rule, Opened: s.Opened, ExpiresAt: s.ExpiresAt,
		Shares: s.Plan.Plan.Steps, Share: s.Share, Link: link,
	}
	if !d.Waiting && s.Reason != "" {
		d.Reason = s.Reason
	}
	if len(d.Shares) > 0 && !s.Plan.Plan.Provable {
		d.Caution = "Its help cannot be proved: " + s.Plan.Plan.Reason
	}
	switch {
	case s.Input.Case != nil:
		d.Effect = s.Input.Case.Would()
		d.Caution = "Nothing is done to this call: an approval counts towards the trust in the rule, a denial starts the count again"
	case s.Frozen != "":
		d.Effect = "Frozen at its share: " + s.Frozen
	case s.Rollout.Effect != nil:
		d.Effect = s.Rollout.Effect.Reason
	}
	if s.Trust != nil && d.Waiting {
		d.Trust = fmt.Sprintf("%d of %d approvals before it may act by itself", s.Trust.Approved, s.Trust.Needed)
	}
	return d
}
