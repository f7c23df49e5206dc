package contract

import (
	"fmt"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
)

// story builds plain text for a terminal.
type story struct{ strings.Builder }

func (t *story) line(format string, args ...any) {
	t.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " ") + "\n")
}

// paragraph is a text of sentences, broken at width.
func (t *story) paragraph(text string) {
	const width = 100
	line := "  "
	for word := range strings.FieldsSeq(text) {
		if len([]rune(line))+len([]rune(word)) > width && line != "  " {
			t.line("%s", line)
			line = "  "
		}
		line += word + " "
	}
	if line != "  " {
		t.line("%s", line)
	}
}

func (t *story) section(title string) { t.line("\n%s", title) }

// Story tells all about the decision in prose, for whoever comes to it later or at night: what became of it and what a
// person can do now first, then how it came to that.
func (s DecisionState) Story(now time.Time) string {
	var t story
	p := s.Input.Proposal
	act := spoken(p.Action) + " of " + s.Input.Key.String()
	if p.Value != "" && p.Action != RollBack {
		act += " to " + p.Value
	}
	t.line("%s: %s%s", strings.ToUpper(act[:1])+act[1:], spoken(s.Status), atShare(s.Share))
	t.line("%s  %s\n", Handle(s.ID), s.ID)
	s.tellLead(&t, now)
	s.tellFound(&t)
	s.tellProposed(&t)
	s.tellAsked(&t)
	s.tellCarriedOut(&t)
	if _, acted := s.Measure(); acted {
		s.tellProof(&t)
		t.section("WHAT IT WAS WORTH")
		t.paragraph(s.Measured.Text())
		if m := s.Measured; m != nil {
			t.paragraph(fmt.Sprintf("Measured at %s.", s.at(m.MeasuredAt)))
		}
	}
	return t.String()
}

// tellLead says what became of it, and of an open one what it waits for.
func (s DecisionState) tellLead(t *story, now time.Time) {
	opened := fmt.Sprintf("Opened %s for %s. All times are UTC.", s.Opened.UTC().Format(time.DateTime), s.Input.Origin())
	if s.Status.Final() {
		t.paragraph(fmt.Sprintf("%s It ended at %s, after %s: %s %s", opened, s.at(s.ChangedAt), lasted(s.ChangedAt.Sub(s.Opened)), stopped(s.Reason), s.Measured.Short()))
		return
	}
	t.paragraph(fmt.Sprintf("%s It has been %s for %s: %s %s", opened, spoken(s.Status), lasted(now.Sub(s.ChangedAt)), stopped(s.Reason), s.Measured.Short()))
	t.section("WHAT IS NEXT")
	s.tellNext(t, now)
}

// at is a time, with its date where that is not the day on which the decision opened.
func (s DecisionState) at(t time.Time) string {
	switch {
	case t.IsZero():
		return "an unknown time"
	case t.UTC().Format(time.DateOnly) == s.Opened.UTC().Format(time.DateOnly):
		return t.UTC().Format(time.TimeOnly)
	}
	return t.UTC().Format(time.DateTime)
}

func (s DecisionState) tellFound(t *story) {
	f := s.Input.Finding
	t.section("WHAT WAS FOUND")
	if c := s.Input.Case; c != nil {
		t.paragraph(c.Would())
		return
	}
	t.paragraph(fmt.Sprintf("%s: %s Found at %s by rule %q of alert.yaml, revision %s.",
		f.Verdict.Level, stopped(f.Verdict.Reason), s.at(f.EvaluatedAt), f.Verdict.Rule, orNone(f.Revision)))
	row := func(known bool, what, unit string, now, usual, ratio float64, n int64) {
		if !known {
			return
		}
		format := unit + "%.3f"
		if unit == "$" {
			format = "$%.6f"
		}
		samples := ""
		if n > 0 {
			samples = fmt.Sprintf("  (%d samples)", n)
		}
		t.line("    %-22s %12s   usually %12s   × %.2f%s", what, fmt.Sprintf(format, now), fmt.Sprintf(format, usual), ratio, samples)
	}
	x := f.Facts
	row(x.CostKnown, "cost of a call", "$", x.CostUSD, x.CostBaseline, x.CostRatio, x.CostSamples)
	row(x.QualityKnown, "quality", "", x.Quality, x.QualityBaseline, x.QualityRatio, x.QualitySamples)
	row(x.SpendKnown, "spend a minute", "$", x.SpendPerMinute, x.SpendBaseline, x.SpendRatio, 0)
	row(x.CompletionKnown, "output per input token", "", x.Completion, x.CompletionBaseline, x.CompletionChange, 0)
	row(x.VelocityKnown, "tokens a second", "", x.Velocity, x.VelocityBaseline, x.VelocityRatio, 0)
	row(x.CacheKnown, "cache hit rate", "", x.CacheHit, x.CacheBaseline, over(x.CacheHit, x.CacheBaseline), 0)
	row(x.OutcomeKnown, "good outcomes a call", "", x.OutcomeRate, x.OutcomeBaseline, over(x.OutcomeRate, x.OutcomeBaseline), x.OutcomeSamples)
	if !x.QualityKnown && f.Verdict.Level != detect.None {
		t.paragraph("Nothing was known of its quality.")
	}
}

func over(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (s DecisionState) tellProposed(t *story) {
	p := s.Input.Proposal
	t.section("WHAT WAS PROPOSED")
	aim := map[routing.Goal]string{routing.CutCost: ", to cut cost", routing.MendQuality: ", to mend quality"}[p.Goal]
	t.paragraph(fmt.Sprintf("%s%s: %s By rule %q of %s, revision %s, which says %q%s.", headline(p), aim, stopped(p.Reason), p.Rule, s.Input.PolicyFile(), orNone(p.Revision), p.Mode,
		map[Mode]string{Auto: " (by itself, once the action has earned trust)", Ask: " (only when a person approves)"}[p.Mode]))
	if d := p.Deployment; d != nil {
		t.paragraph(fmt.Sprintf("It takes back version %s of %s, deployed at %s by %s.", d.Version, d.Service, s.at(d.Timestamp), orNone(d.By)))
	}
	if s.Trust != nil {
		granted := "Trust was not granted"
		if s.Trust.Granted {
			granted = "Trust was granted, so nobody was asked"
		}
		t.paragraph(fmt.Sprintf("%s: %s", granted, stopped(s.Trust.Reason)))
	}
}

// tellAsked tells who was asked and what they said.
func (s DecisionState) tellAsked(t *story) {
	for i, h := range s.History {
		if h.Status != AwaitingApproval {
			continue
		}
		t.section("WHO WAS ASKED")
		who := "whoever may approve"
		if a := s.Input.Proposal.Approvers; len(a) > 0 {
			who = strings.Join(a, ", ")
		}
		t.paragraph(fmt.Sprintf("Asked at %s: %s. Why a person: %s", s.at(h.At), who, stopped(h.Reason)))
		switch v := s.Verdict; {
		case v != nil:
			after := ""
			if i+1 < len(s.History) {
				after = " after " + lasted(s.History[i+1].At.Sub(h.At))
			}
			did := map[string]string{Approve: "approved", Deny: "denied"}[v.Verdict]
			if v.Reason == "" {
				t.paragraph(fmt.Sprintf("%s %s it%s, and gave no reason.", v.Who, did, after))
			} else {
				t.paragraph(fmt.Sprintf("%s %s it%s: %q.", v.Who, did, after, v.Reason))
			}
		case s.Status == AwaitingApproval:
			t.paragraph("Nobody has answered yet.")
		default:
			t.paragraph("Nobody answered.")
		}
		return
	}
}

func (s DecisionState) tellCarriedOut(t *story) {
	if len(s.History) == 0 {
		return
	}
	t.section("STEP BY STEP")
	if plan := s.Plan.Plan; len(plan.Steps) > 0 {
		shares := make([]string, len(plan.Steps))
		for i, share := range plan.Steps {
			shares[i] = fmt.Sprintf("%.0f %%", share*100)
		}
		t.paragraph(fmt.Sprintf("Planned: %s of the calls. %s", strings.Join(shares, ", then "), stopped(plan.Reason)))
	}
	for _, h := range s.History {
		share := ""
		if h.Share > 0 {
			share = fmt.Sprintf("%.0f %%", h.Share*100)
		}
		t.line("    %s  %5s  %-17s  %s", s.at(h.At), share, spoken(h.Status), h.Reason)
	}
	if s.Frozen != "" {
		t.paragraph("It was frozen at its share: " + stopped(s.Frozen))
	}
}

// tellProof tells what the last test of treated against holdback said, and which flags that left.
func (s DecisionState) tellProof(t *story) {
	t.section("THE PROOF")
	switch last := s.Rollout.Effect; {
	case Refuses(s.Input.Proposal.Kind):
		t.paragraph("Refused calls leave nothing to compare with the holdback, so its help is not proved.")
	case last == nil && s.Share > 0:
		t.paragraph("Not proven yet: treated and holdback have not had enough calls and scores for a test.")
	case last == nil:
		t.paragraph(fmt.Sprintf("%s: treated and holdback never had enough calls and scores for a test.", proof(s.Effect)))
	default:
		t.paragraph(fmt.Sprintf("%s. The last test, at %s: %s", proof(s.Effect), s.at(s.Rollout.LookedAt), stopped(last.Reason)))
	}
	after := "after "
	if s.Share > 0 {
		after = "now   "
	}
	t.section("FLAGS")
	t.line("    before  %s", s.flagText(s.FlagBefore))
	t.line("    %s  %s", after, s.flagText(s.FlagAfter))
}

// proof is what is known of its help, as a sentence begins.
func proof(e Effect) string {
	if e == Proven {
		return "Proven"
	}
	return "Not proven"
}

// tellNext says what an open decision waits for, and how a person answers or ends it.
func (s DecisionState) tellNext(t *story, now time.Time) {
	switch s.Status {
	case AwaitingApproval:
		t.paragraph(fmt.Sprintf("It waits for a person until %s, %s from now; then it expires, which is not a denial.", s.at(s.ExpiresAt), lasted(s.ExpiresAt.Sub(now))))
		t.line("    flyball approve %s\n    flyball deny %[1]s --reason 'why'", Handle(s.ID))
	case Actuating:
		t.paragraph("Treated calls are tested against the holdback: it rises to the next share when they show that it helps, and is taken off when they show harm, or nothing in time.")
	case Holding:
		t.paragraph("It stays at its share until the untreated traffic is well again, and then comes down step by step.")
	case Releasing:
		t.paragraph("It comes down step by step, as long as the untreated traffic stays well.")
	default:
		t.paragraph("It is being sized, and trust is asked.")
	}
	if s.Share > 0 {
		t.line("    To take it off at once: flyball incidents resolve %s --reason 'why'", Handle(s.Input.Incident))
	}
}

// flagText says what a flag does to calls.
func (s DecisionState) flagText(f *routing.Flag) string {
	switch {
	case f == nil:
		return fmt.Sprintf("no %s flag", s.Input.Proposal.Kind)
	case f.Share == 0:
		return fmt.Sprintf("no %s flag: it was taken off (sequence %d/%d)", f.Kind, f.Sequence.Loop, f.Sequence.N)
	}
	to, by := "", "this decision"
	if f.Value != "" {
		to = " to " + f.Value
	}
	if f.Decision != s.ID {
		by = f.Decision
	}
	return fmt.Sprintf("%s%s for %.0f %% of the calls, by %s (sequence %d/%d)", f.Kind, to, f.Share*100, by, f.Sequence.Loop, f.Sequence.N)
}

// headline names an act: "downgrade to claude-3-sonnet".
func headline(p Proposal) string {
	switch action := spoken(p.Action); {
	case p.Value == "":
		return action
	case p.Action == RollBack:
		return action + " of " + p.Value
	default:
		return action + " to " + p.Value
	}
}

func atShare(share float64) string {
	if share == 0 {
		return ""
	}
	return fmt.Sprintf(" at %.0f %%", share*100)
}

func spoken[S ~string](s S) string { return strings.ReplaceAll(string(s), "_", " ") }

func stopped(s string) string { return strings.TrimRight(s, ". ") + "." }

func orNone(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// lasted is a duration in whole seconds, without its zeros: 2h, not 2h0m0s.
func lasted(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
