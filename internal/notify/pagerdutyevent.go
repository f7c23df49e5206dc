package notify

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/PagerDuty/go-pagerduty"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
)

// The actions of an event, as PagerDuty calls them.
const (
	pagerTrigger     = "trigger"
	pagerAcknowledge = "acknowledge"
	pagerResolve     = "resolve"
)

// pagerAction is what a notice asks of PagerDuty; empty: nothing. Told says that PagerDuty knows the incident.
func pagerAction(n contract.Notice, told bool) string {
	s := statusOf(n)
	switch {
	case n.Kind == contract.NoticeClosed, s.phase == contract.IncidentClosed:
		return pagerResolve
	case s.phase == contract.IncidentClosing, s.mute.On(n.At):
		return ""
	case n.Calls(), n.Kind == contract.NoticeReport:
		return pagerTrigger
	case n.Kind == contract.NoticeUpdated && s.acknowledged != nil:
		return pagerAcknowledge
	case n.Kind == contract.NoticeUpdated && !told:
		return pagerTrigger // it was away, or muted, when the incident opened
	}
	return ""
}

// incidentStatus is what an incident of one key and one of many have in common.
type incidentStatus struct {
	phase        contract.Phase
	acknowledged *contract.Acknowledgement
	mute         *contract.Mute
}

// statusOf is the incident's status, as far as the notice carries it.
func statusOf(n contract.Notice) incidentStatus {
	switch {
	case n.State != nil:
		return incidentStatus{n.State.Phase, n.State.Acknowledged, n.State.Mute}
	case n.Group != nil:
		return incidentStatus{n.Group.Phase, n.Group.Acknowledged, n.Group.Mute}
	}
	return incidentStatus{}
}

// The bounds of PagerDuty's fields.
const (
	maxDedupKey = 255
	maxSummary  = 1024
	maxSource   = 255
	maxDetail   = 4 << 10  // of one detail; the whole event may have 512 KB
	maxReport   = 64 << 10 // of the report
	maxKeys     = 50       // of a group
)

// hashedKey begins the deduplication keys that stand for ids that are too long.
const hashedKey = "incident/sha256:"

// dedupKey is the key of an incident's alert: its id, or its hash where that is too long for PagerDuty.
func dedupKey(incident string) string {
	if len(incident) <= maxDedupKey {
		return incident
	}
	sum := sha256.Sum256([]byte(incident))
	return hashedKey + hex.EncodeToString(sum[:])
}

// alertEvent is the event of a notice. It depends on nothing but the notice: sent twice, it is the same event.
func alertEvent(n contract.Notice, action string, o PagerDutyOptions) *pagerduty.V2Event {
	e := &pagerduty.V2Event{RoutingKey: o.alertKey(n), Action: action, DedupKey: dedupKey(n.Incident)}
	if action != pagerTrigger {
		return e
	}
	e.Client, e.ClientURL = "Flyball", o.Links.Incident(n.Incident)
	for _, link := range linksOf(n, o.Links) {
		e.Links = append(e.Links, link)
	}
	e.Payload = &pagerduty.V2Payload{
		Summary: titled(n.Title, n.Incident), Severity: severityOf(n.Level), Timestamp: n.At.UTC().Format(time.RFC3339Nano),
		Source: cut(inert(n.Key.String()), maxSource), Component: cut(inert(n.Key.Model), maxSource), Group: cut(inert(n.Key.Tenant), maxSource),
		Details: detailsOf(n),
	}
	switch {
	case n.Group != nil:
		e.Payload.Source, e.Payload.Component = cut(inert(n.Group.Input.Cause), maxSource), ""
		e.Payload.Group, e.Payload.Class = "several keys", "group"
	case n.State != nil:
		e.Payload.Class = n.State.Input.Finding.Verdict.Rule
	}
	return e
}

// titled is a summary that ends in the incident's handle: PagerDuty's notes name an incident by its
// summary alone, and handleIn reads it back.
func titled(title, incident string) string {
	handle := " [" + contract.Handle(incident) + "]"
	return cut(inert(title), maxSummary-len(handle)) + handle
}

// atHandle finds the handle at the end of a summary.
var atHandle = regexp.MustCompile(` \[([0-9a-f]+)\]$`)

// handleIn reads the handle out of a summary; empty: there is none.
func handleIn(summary string) string {
	if found := atHandle.FindStringSubmatch(summary); found != nil {
		return found[1]
	}
	return ""
}

func severityOf(l detect.Level) string {
	if l == detect.Page {
		return "critical"
	}
	return "warning"
}

// linksOf lead to the whole story.
func linksOf(n contract.Notice, l Links) []pagerduty.ChangeEventLink {
	var links []pagerduty.ChangeEventLink
	add := func(href, text string) {
		if href != "" {
			links = append(links, pagerduty.ChangeEventLink{Href: href, Text: text})
		}
	}
	add(l.Incident(n.Incident), "The incident in Flyball's console")
	add(l.Workflow(n.Incident), "Its workflow in Temporal's UI")
	if n.ID != n.Incident {
		add(l.Workflow(n.ID), "The decision in Temporal's UI")
	}
	return links
}

// detailsOf is what the person who is woken needs to know at once.
func detailsOf(n contract.Notice) map[string]any {
	d := details{}
	d.set("incident", n.Incident)
	d.set("level", string(n.Level))
	d.set("opened", shownTime(n.Opened))
	d.set("could not be reached", strings.Join(n.Unreached, ", "))
	if len(n.Unreached) > 0 {
		d.set("text", n.Text)
	}
	if n.State != nil {
		d.incident(*n.State)
	}
	if n.Group != nil {
		d.group(*n.Group)
	}
	if s := n.Decision; s != nil && s.Status == contract.AwaitingApproval {
		d.question(s.Summary())
	}
	return d
}

// details are named values; what is empty is left out.
type details map[string]any

func (d details) set(name, value string) {
	if value = cut(value, maxDetail); value != "" {
		d[name] = value
	}
}

// incident adds what was measured, decided and found out.
func (d details) incident(s contract.IncidentState) {
	d.set("key", inert(s.Input.Key.String()))
	d.set("rule", s.Input.Finding.Verdict.Rule)
	d.set("reason", s.Finding.Verdict.Reason)
	if f := s.Finding.Facts; f.CostKnown {
		d.set("cost of a call", fmt.Sprintf("$%.6f, usually $%.6f (× %.2f)", f.CostUSD, f.CostBaseline, f.CostRatio))
	}
	if f := s.Finding.Facts; f.QualityKnown {
		d.set("quality", fmt.Sprintf("%.3f, usually %.3f (× %.2f)", f.Quality, f.QualityBaseline, f.QualityRatio))
	}
	if f := s.Finding.Facts; f.SpendKnown {
		d.set("spend a minute", fmt.Sprintf("$%.4f, usually $%.4f (× %.2f)", f.SpendPerMinute, f.SpendBaseline, f.SpendRatio))
	}
	for _, decision := range s.Decisions {
		if decision.Status == contract.AwaitingApproval {
			d.question(decision)
		}
	}
	d.acknowledged(s.Acknowledged)
	d.set("policy", s.Advice)
	if report := cut(s.Report, maxReport); report != "" {
		d["report"] = report
	}
}

// group adds the keys, as far as a person reads them.
func (d details) group(s contract.GroupState) {
	d.set("cause", inert(s.Input.Cause))
	d.acknowledged(s.Acknowledged)
	var keys []string
	for _, k := range s.Keys {
		if !k.LeftAt.IsZero() {
			continue
		}
		if len(keys) < maxKeys {
			keys = append(keys, cut(inert(k.Key.String()+": "+k.Reason), maxSource))
		} else if len(keys) == maxKeys {
			keys = append(keys, "and more: the console lists them all")
		}
	}
	d["keys"] = keys
}

func (d details) acknowledged(a *contract.Acknowledgement) {
	if a != nil {
		d.set("taken on by", a.Who)
	}
}

// question adds what a person is asked, and how to answer.
func (d details) question(s contract.DecisionSummary) {
	handle := contract.Handle(s.ID)
	d.set("decision", strings.TrimSpace(strings.ReplaceAll(s.Action, "_", " ")+" "+inert(s.Value))+": "+s.Reason)
	d.set("decide until", shownTime(s.ExpiresAt))
	d.set("how to decide", fmt.Sprintf("in the console's inbox or Slack, or: flyball approve %s; flyball deny %s --reason 'why'", handle, handle))
}

// changeEvent is the change event of an act of ours.
func changeEvent(n contract.Notice, o PagerDutyOptions) pagerduty.ChangeEvent {
	d := details{}
	d.set("incident", n.Incident)
	d.set("key", inert(n.Key.String()))
	if s := n.Decision; s != nil {
		d.set("decision", s.ID)
		d.set("action", strings.TrimSpace(s.Input.Proposal.Action+" "+inert(s.Input.Proposal.Value)))
		d.set("status", string(s.Status))
		d.set("share", fmt.Sprintf("%.0f %%", s.Share*100))
		d.set("effect", string(s.Effect))
		d.set("reason", s.Reason)
	}
	return pagerduty.ChangeEvent{
		RoutingKey: o.changeKey(n), Links: linksOf(n, o.Links),
		Payload: pagerduty.ChangeEventPayload{
			Summary: titled(n.Title, n.Incident), Source: cut(inert(n.Key.String()), maxSource),
			Timestamp: n.At.UTC().Format(time.RFC3339Nano), CustomDetails: d,
		},
	}
}

func shownTime(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// inert is s on one line, without marks that are not seen: names of tenants and models come from telemetry,
// and so from anybody.
func inert(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))), " ")
}

// cut is s in at most limit bytes, whole characters, and an ellipsis where something is missing.
func cut(s string, limit int) string {
	const ellipsis = "…"
	s = strings.ToValidUTF8(s, "")
	if len(s) <= limit {
		return s
	}
	end := max(limit-len(ellipsis), 0)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
