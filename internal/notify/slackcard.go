package notify

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Slack's limits: what is longer is refused whole.
const (
	maxBlocks  = 50
	maxHeader  = 150
	maxSection = 3000
	maxField   = 2000
	maxContext = 2000
	maxValue   = 2000 // of a button
)

// The bounds of what a card lists: a page at three in the morning is read, not studied.
const (
	shownQuestions = 3
	shownDecisions = 5
	shownKeys      = 10
)

// The actions that a press names.
const (
	actApprove     = "approve"
	actDeny        = "deny"
	actAcknowledge = "acknowledge"
	actMute        = "mute"
)

// card is what is known of an incident, or of a group, when its message is drawn.
type card struct {
	notice    contract.Notice // the newest; it tells what neither state does
	state     *contract.IncidentState
	group     *contract.GroupState
	decisions map[string]contract.DecisionState // what notices told of them, by id
	console   string                            // the address of the console's page; may be empty
	temporal  string                            // of the workflow in Temporal's UI; may be empty
	now       time.Time
}

// blocks draws the card, and fallback is its one line for notifications.
func (c card) blocks() (blocks []slack.Block, fallback string) {
	var b drawing
	switch {
	case c.state != nil:
		c.incident(&b, *c.state)
	case c.group != nil:
		c.many(&b, *c.group)
	default: // only a notice is known, not yet the state of what it is about
		b.header(c.notice.Title)
		if c.notice.Decision == nil {
			b.section(body(c.notice.Text))
		}
		c.questions(&b, contract.IncidentState{Input: contract.IncidentInput{Key: c.notice.Key}})
		b.context(c.foot())
	}
	if len(b.blocks) > maxBlocks {
		b.blocks = b.blocks[:maxBlocks]
	}
	return b.blocks, b.fallback
}

// drawing gathers blocks, each within Slack's limits.
type drawing struct {
	blocks   []slack.Block
	fallback string
}

// mrkdwn is text in Slack's markup that has been made inert; verbatim tells Slack to look for no more.
func mrkdwn(text string, limit int) *slack.TextBlockObject {
	if r := []rune(text); len(r) > limit {
		text = string(r[:limit-1]) + "…"
	}
	return &slack.TextBlockObject{Type: slack.MarkdownType, Text: text, Verbatim: true}
}

func plainText(text string, limit int) *slack.TextBlockObject {
	return &slack.TextBlockObject{Type: slack.PlainTextType, Text: plain(text, limit)}
}

func (b *drawing) header(text string) {
	b.fallback = oneLine(text, maxSection)
	b.blocks = append(b.blocks, slack.NewHeaderBlock(plainText(cmp.Or(strings.TrimSpace(text), "Flyball"), maxHeader)))
}

// section adds a paragraph of markup that has been made inert; none for an empty one.
func (b *drawing) section(text string) {
	if text != "" {
		b.blocks = append(b.blocks, slack.NewSectionBlock(mrkdwn(text, maxSection), nil, nil))
	}
}

func (b *drawing) fields(texts []string) {
	if len(texts) == 0 {
		return
	}
	fields := make([]*slack.TextBlockObject, len(texts))
	for i, text := range texts {
		fields[i] = mrkdwn(text, maxField)
	}
	b.blocks = append(b.blocks, slack.NewSectionBlock(nil, fields, nil))
}

func (b *drawing) context(text string) {
	if text != "" {
		b.blocks = append(b.blocks, slack.NewContextBlock("", mrkdwn(text, maxContext)))
	}
}

func (b *drawing) actions(id string, elements ...slack.BlockElement) {
	b.blocks = append(b.blocks, slack.NewActionBlock(id, elements...))
}

// incident draws the incident of one key.
func (c card) incident(b *drawing, s contract.IncidentState) {
	closed := s.Phase == contract.IncidentClosed
	b.header(fmt.Sprintf("%s %s · %s%s", icon(s.Level, closed), level(s.Level, closed), s.Input.Key, standing(s)))
	b.fallback += ": " + oneLine(happened(s), 300)
	if closed {
		b.section("*" + sentence(cmp.Or(s.Reason, "it is over"), 1000) + "* " + lasted(s.Input.Opened, s.ClosedAt))
	}
	b.section(sentence(happened(s), 1000))
	if !closed {
		b.fields(figures(s.Finding.Facts))
		b.section(c.unreached())
		b.section(silence(s))
		b.section(muted(s.Mute, c.now))
	}
	b.section(cause(s.Steps, s.Evidence, closed))
	if s.Previous != nil && !closed {
		b.section(lastTime(*s.Previous))
	}
	c.questions(b, s)
	b.section(decided(c.newest(s.Decisions)))
	if s.Advice != "" && !closed {
		b.section("Nothing more is proposed: " + sentence(s.Advice, 500))
	}
	if !closed {
		c.taken(b, s.ID, s.Acknowledged, s.Mute)
	} else if a := s.Acknowledged; a != nil {
		b.section("Taken on by " + oneLine(a.Who, 200) + " at " + when(a.At) + ".")
	}
	b.context(c.foot())
}

// happened is the newest sentence about what is wrong; once it is over, what was.
func happened(s contract.IncidentState) string {
	if v := s.Finding.Verdict; v.Reason != "" && v.Level != detect.None && s.Phase == contract.IncidentOpen {
		return v.Reason
	}
	return s.Input.Finding.Verdict.Reason
}

func icon(l detect.Level, closed bool) string {
	switch {
	case closed:
		return "✅"
	case l == detect.Page:
		return "🔴"
	case l == detect.Investigate:
		return "🟡"
	}
	return "⚪"
}

func level(l detect.Level, closed bool) string {
	if closed {
		return "CLOSED"
	}
	return cmp.Or(string(l), "INCIDENT")
}

// standing is where the incident stands, as far as it is not plainly open.
func standing(s contract.IncidentState) string {
	var words string
	switch {
	case s.Phase == contract.IncidentRecovering || s.Phase == contract.IncidentClosing:
		words = " · " + string(s.Phase)
	case s.Phase == contract.IncidentOpen && s.Acknowledged != nil:
		words = " · taken"
	}
	if s.Silent && s.Phase != contract.IncidentClosed {
		words += " · no telemetry"
	}
	return words
}

// figures is the table of now against usual; what is unknown is left out.
func figures(f detect.Facts) []string {
	var rows []string
	add := func(known bool, what, now, usual string, ratio float64) {
		if known {
			rows = append(rows, fmt.Sprintf("*%s*\n%s, usually %s · *× %.2f*", what, now, usual, ratio))
		}
	}
	add(f.CostKnown, "Cost of a call", dollars(f.CostUSD), dollars(f.CostBaseline), f.CostRatio)
	add(f.QualityKnown, "Quality", fmt.Sprintf("%.2f", f.Quality), fmt.Sprintf("%.2f", f.QualityBaseline), f.QualityRatio)
	add(f.SpendKnown, "Spend a minute", dollars(f.SpendPerMinute), dollars(f.SpendBaseline), f.SpendRatio)
	if f.CostSamples+f.QualitySamples > 0 {
		rows = append(rows, fmt.Sprintf("*Measured on*\n%d costs, %d scores in %d min", f.CostSamples, f.QualitySamples, f.WindowMinutes))
	}
	return rows
}

// unreached names the channels that could not be reached, and for which this message stands in.
func (c card) unreached() string {
	if len(c.notice.Unreached) == 0 {
		return ""
	}
	return "📟 *Could not be reached:* " + oneLine(strings.Join(c.notice.Unreached, ", "), 200) + ". This message stands in for it."
}

func silence(s contract.IncidentState) string {
	if !s.Silent {
		return ""
	}
	return "🔇 *Its telemetry has gone silent*: nothing can be said of it now. Is it still arriving?"
}

func muted(m *contract.Mute, now time.Time) string {
	if !m.On(now) {
		return ""
	}
	text := fmt.Sprintf("🔕 *Muted* until %s by %s.", when(m.Until), oneLine(m.Who, 200))
	if m.Reason != "" {
		text += " " + sentence(m.Reason, 500)
	}
	return text
}

// cause is what explains the incident; while nothing does, what was looked at last.
func cause(steps []runbook.Done, evidence contract.Evidence, closed bool) string {
	for _, d := range slices.Backward(steps) {
		if d.Verdict.Status == runbook.Found {
			text := "*Cause:* " + ended(d.Verdict.Text, 1000)
			if d.Verdict.Cause == runbook.CauseProvider {
				text += " " + link(evidence.Provider.Link, "Its status page")
			}
			return text
		}
	}
	switch {
	case len(steps) == 0:
		return ""
	case closed:
		return "*Cause:* none was found."
	}
	last := steps[len(steps)-1]
	return fmt.Sprintf("*Cause:* not found yet. %s: %s", last.Step.Name, ended(last.Verdict.Text, 1000))
}

// lastTime is what the key's last incident has to teach.
func lastTime(p contract.PastIncident) string {
	why := cmp.Or(p.Cause, p.Reason)
	if why == "" {
		return ""
	}
	return fmt.Sprintf("*Last time* (<!date^%d^{date_short_pretty}|%s>): %s", p.Opened.Unix(), p.Opened.UTC().Format(time.DateOnly), ended(words(why), 500))
}

// questions are the decisions that wait for a person, each with its buttons. They are on the card alone:
// there is one place to press.
func (c card) questions(b *drawing, s contract.IncidentState) {
	shown := 0
	for _, d := range c.newest(s.Decisions) {
		if d.Status != contract.AwaitingApproval {
			continue
		}
		if shown++; shown > shownQuestions {
			b.section("More decisions wait: see the console.")
			return
		}
		act := headline(d.Action, d.Value)
		text := "❓ *" + strings.ReplaceAll(oneLine(upper(act), 300), "*", "") + "?* " + c.why(d) + "\n"
		if detail, known := c.decisions[d.ID]; known {
			text += expectation(detail) + "\n"
		}
		text += fmt.Sprintf("Open until %s, then it expires. May approve: %s.", when(d.ExpiresAt), oneLine(anyone(d.Approvers), 300))
		b.section(text)
		if len(d.ID) > maxValue {
			b.section("Answer it in the console: its id is too long for Slack.")
			continue
		}
		approve := slack.NewButtonBlockElement(actApprove, d.ID, plainText("Approve", 75)).WithStyle(slack.StylePrimary).WithConfirm(slack.NewConfirmationBlockObject(
			plainText("Approve this?", 100), plainText(fmt.Sprintf("%s for %s.", upper(act), s.Input.Key), 300), plainText("Approve", 30), plainText("Not yet", 30)))
		deny := slack.NewButtonBlockElement(actDeny, d.ID, plainText("Deny…", 75)).WithStyle(slack.StyleDanger)
		b.actions("decision:"+contract.Handle(d.ID), approve, deny)
	}
}

// newest are the decisions with what notices told of them later than the incident has heard.
func (c card) newest(list []contract.DecisionSummary) []contract.DecisionSummary {
	list = slices.Clone(list)
	for id, told := range c.decisions {
		summary := told.Summary()
		i := slices.IndexFunc(list, func(d contract.DecisionSummary) bool { return d.ID == id })
		switch {
		case i < 0:
			list = append(list, summary)
		case summary.Moves > list[i].Moves:
			list[i] = summary
		}
	}
	// Oldest first, and a map has no order.
	slices.SortStableFunc(list, func(x, y contract.DecisionSummary) int {
		return cmp.Or(x.ChangedAt.Compare(y.ChangedAt), cmp.Compare(x.ID, y.ID))
	})
	return list
}

// why is what the policy says for an act.
func (c card) why(d contract.DecisionSummary) string {
	if detail, known := c.decisions[d.ID]; known && detail.Input.Proposal.Reason != "" {
		return sentence(detail.Input.Proposal.Reason, 700)
	}
	return sentence(d.Reason, 700)
}

// expectation says what an act is meant to do and how far it goes.
func expectation(d contract.DecisionState) string {
	var text string
	switch p := d.Input.Proposal; {
	case d.Input.Case != nil:
		return "Nothing is done to this call. " + fmt.Sprintf("After %d approvals the rule acts by itself; a denial starts the count again.", contract.TrustNeeded)
	case p.Action == contract.ScoreCalls:
		return "Expected: every call is scored; no answer changes."
	case p.Goal == routing.CutCost:
		text = "Expected: cheaper calls at the same quality"
	case p.Goal == routing.MendQuality:
		text = "Expected: better answers, whatever they cost"
	default:
		text = "Expected: what the policy says"
	}
	plan := d.Plan.Plan
	if len(plan.Steps) == 0 {
		return text + "."
	}
	if !plan.Provable {
		return fmt.Sprintf("%s, on %.0f %% of the calls at once. *Traffic cannot prove it*: it comes off by itself after %s.",
			text, plan.Steps[len(plan.Steps)-1]*100, lasting(d.Input.Tuning.Limits.UnprovenHold))
	}
	shares := make([]string, len(plan.Steps))
	for i, share := range plan.Steps {
		shares[i] = fmt.Sprintf("%.0f %%", share*100)
	}
	return fmt.Sprintf("%s, on %s of the calls; each step stays only while it beats the calls left alone.", text, strings.Join(shares, " → "))
}

// decided is what became of the other decisions, and who said so.
func decided(decisions []contract.DecisionSummary) string {
	var lines []string
	for _, d := range decisions {
		if d.Status == contract.AwaitingApproval {
			continue
		}
		line := fmt.Sprintf("• %s: *%s*", oneLine(upper(headline(d.Action, d.Value)), 200), words(d.Status))
		if d.Share > 0 {
			line += fmt.Sprintf(" at %.0f %%", d.Share*100)
		}
		switch {
		case d.Who == "":
		case d.Status == contract.Denied:
			line += " by " + oneLine(d.Who, 200)
		default:
			line += ", approved by " + oneLine(d.Who, 200)
		}
		lines = append(lines, fmt.Sprintf("%s · %s. %s", line, when(d.ChangedAt), sentence(d.Reason, 200)))
	}
	if len(lines) == 0 {
		return ""
	}
	if cut := len(lines) - shownDecisions; cut > 0 {
		lines = append([]string{fmt.Sprintf("• … %d earlier", cut)}, lines[cut:]...)
	}
	return "*Decided*\n" + strings.Join(lines, "\n")
}

// taken is who has taken the incident on, and what anyone can press.
func (c card) taken(b *drawing, id string, a *contract.Acknowledgement, m *contract.Mute) {
	var elements []slack.BlockElement
	if a != nil {
		b.section(strings.TrimSpace(fmt.Sprintf("👤 *Taken on* by %s at %s. %s", oneLine(a.Who, 200), when(a.At), sentence(a.Note, 500))))
	} else if len(id) <= maxValue {
		elements = append(elements, slack.NewButtonBlockElement(actAcknowledge, id, plainText("Acknowledge", 75)))
	}
	mute := slack.NewOptionsGroupSelectBlockElement(slack.OptTypeStatic, plainText("Mute…", 150), actMute, c.mutes(m)...)
	mute.Confirm = slack.NewConfirmationBlockObject(plainText("Mute?", 100),
		plainText("People hear no more of it for that time. Findings and acts go on, and the inbox shows them.", 300), plainText("Do it", 30), plainText("Not now", 30))
	b.actions("incident", append(elements, mute)...)
}

// muteFor are the times to mute for.
var muteFor = []struct {
	text string
	d    time.Duration
}{{"1 h", time.Hour}, {"4 h", 4 * time.Hour}, {"24 h", 24 * time.Hour}}

// What can be muted.
const (
	muteThis   = "this"
	muteTenant = "tenant"
)

// mutes are the choices of what to mute and how long. A choice's value names no incident: it may have 150
// characters, and the message that it is pressed on says which.
func (c card) mutes(m *contract.Mute) []*slack.OptionGroupBlockObject {
	group := func(what, label, name string, unmute bool) *slack.OptionGroupBlockObject {
		var options []*slack.OptionBlockObject
		for _, f := range muteFor {
			options = append(options, slack.NewOptionBlockObject(what+" "+f.d.String(), plainText(name+" for "+f.text, 75), nil))
		}
		if unmute {
			options = append(options, slack.NewOptionBlockObject(what+" 0s", plainText("Unmute "+strings.ToLower(name[:1])+name[1:], 75), nil))
		}
		return slack.NewOptionGroupBlockElement(plainText(label, 75), options...)
	}
	if c.group != nil {
		return []*slack.OptionGroupBlockObject{group(muteThis, "This group", "The group", m.On(c.now))}
	}
	groups := []*slack.OptionGroupBlockObject{group(muteThis, "This key", "The key", m.On(c.now))}
	if tenant := c.state.Input.Key.Tenant; tenant != "" && c.state.Input.Key != usage.Everything {
		groups = append(groups, group(muteTenant, "Tenant "+tenant, "The tenant", false))
	}
	return groups
}

// foot is the small print: when, where to read on, and what to call it on the command line.
func (c card) foot() string {
	parts := []string{}
	if !c.notice.Opened.IsZero() {
		parts = append(parts, "Opened "+when(c.notice.Opened))
	}
	if c.console != "" {
		parts = append(parts, link(c.console, "Console"))
	}
	if c.temporal != "" {
		parts = append(parts, link(c.temporal, "Temporal"))
	}
	if id := cmp.Or(c.notice.Incident, c.notice.ID); id != "" {
		parts = append(parts, "`"+contract.Handle(id)+"`")
	}
	return strings.Join(parts, " · ")
}

func lasted(opened, closed time.Time) string {
	if closed.IsZero() || closed.Before(opened) {
		return ""
	}
	return "It lasted " + lasting(closed.Sub(opened)) + "."
}

// lasting is a duration to the second, without its zeros: 2h, not 2h0m0s.
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

// upper gives a phrase its capital.
func upper(s string) string {
	r := []rune(s)
	if len(r) == 0 {
		return s
	}
	return strings.ToUpper(string(r[:1])) + string(r[1:])
}

func anyone(groups []string) string {
	if len(groups) == 0 {
		return "anyone"
	}
	return strings.Join(groups, ", ")
}
