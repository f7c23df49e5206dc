package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// NoticeKind says what a notice is about.
type NoticeKind string

// The kinds of notice.
const (
	NoticeOpened    NoticeKind = "opened"
	NoticeEscalated NoticeKind = "escalated"
	NoticeUpdated   NoticeKind = "updated"  // the incident's card has changed; nobody is called
	NoticeStep      NoticeKind = "step"     // a step of the runbook has been walked
	NoticeQuestion  NoticeKind = "question" // a decision waits for a person
	NoticeDecided   NoticeKind = "decided"  // it waits no more: who said what, or nobody did
	NoticeActed     NoticeKind = "acted"    // a flag of ours was set, changed or taken off
	NoticeReminder  NoticeKind = "reminder" // the incident is still open and nobody has taken it on
	NoticeReport    NoticeKind = "report"
	NoticeClosed    NoticeKind = "closed"
)

// Audience is who a notice is for. Each has its own channels.
type Audience string

// The audiences.
const (
	OnCall      Audience = "on_call"     // PAGE: somebody is woken
	Findings    Audience = "findings"    // INVESTIGATE: somebody looks when there is time
	Experiments Audience = "experiments" // findings of deliberate experiments; they never page
	Drills      Audience = "drills"      // findings of drills; they never wake anybody
)

// AudienceOf is who hears of a finding of the key at the level: an experiment and a drill never wake anybody.
func AudienceOf(k usage.Key, l detect.Level) Audience {
	if usage.IsDrill(k.Tenant) {
		return Drills
	}
	if _, _, ok := k.Experiment(); ok {
		return Experiments
	}
	if l == detect.Page {
		return OnCall
	}
	return Findings
}

// Notice is something that people should hear. Its ID, Kind and Seq together are unique, so a channel can
// post it once however often it is told. It carries the whole state of what it is about, so that a channel
// shows everything as it is now, in its own form, and asks nobody.
type Notice struct {
	Kind     NoticeKind   `json:"kind"`
	ID       string       `json:"id"`       // of the incident, group or decision
	Seq      int          `json:"seq"`      // tells notices of one kind and id apart; of two updates the higher is the newer
	Incident string       `json:"incident"` // under whose message it belongs; ID itself but for a decision
	Audience Audience     `json:"audience"`
	Key      usage.Key    `json:"key"` // zero for a group
	Level    detect.Level `json:"level"`
	Opened   time.Time    `json:"opened"` // the incident
	At       time.Time    `json:"at"`
	Title    string       `json:"title"`
	Text     string       `json:"text"` // Markdown

	State    *IncidentState `json:"state,omitempty"`    // of the incident
	Group    *GroupState    `json:"group,omitempty"`    // of the incident of many keys
	Decision *DecisionState `json:"decision,omitempty"` // that the notice is about

	// Unreached names the channels that could not be reached with it, once that is known: those that are
	// told carry it for them too, and show that they do. It is no part of what tells notices apart.
	Unreached []string `json:"unreached,omitempty"`
}

// For is who the notice is for; one that does not say is judged by its key and level.
func (n Notice) For() Audience {
	if n.Audience != "" {
		return n.Audience
	}
	return AudienceOf(n.Key, n.Level)
}

// Calls reports whether the notice asks something of somebody, as against telling what is.
func (n Notice) Calls() bool {
	switch n.Kind {
	case NoticeOpened, NoticeEscalated, NoticeQuestion, NoticeReminder:
		return true
	}
	return false
}

// PostResult is what became of a notice.
type PostResult struct {
	Muted     string            `json:"muted,omitempty"`     // who mutes it and until when; empty: nobody does
	Posted    []string          `json:"posted,omitempty"`    // the channels that have it
	Unreached map[string]string `json:"unreached,omitempty"` // channel: why it does not have it
}
