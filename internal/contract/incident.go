package contract

import (
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// IncidentInput opens an incident.
type IncidentInput struct {
	Key     usage.Key      `json:"key"`
	Opened  time.Time      `json:"opened"`
	Level   detect.Level   `json:"level"`
	Finding detect.Finding `json:"finding"`
	Loop    string         `json:"loop"` // the workflow id of the alert loop that opened it
	Tuning  Tuning         `json:"tuning"`
	Mute    *Mute          `json:"mute,omitempty"` // of the key as it opened; later ones come by AlertChanged
}

// IncidentResult is how an incident ended.
type IncidentResult struct {
	Cause  string `json:"cause"` // empty: unclear
	Reason string `json:"reason"`
	Report string `json:"report"`
}

// Phase is where an incident stands.
type Phase string

// The phases of an incident.
const (
	IncidentOpen       Phase = "open"
	IncidentRecovering Phase = "recovering" // the finding is gone; it may soon resolve
	IncidentClosing    Phase = "closing"    // resolved; its decisions have not ended yet
	IncidentClosed     Phase = "closed"
)

// IncidentState is everything about an incident: the query's answer and the stored row.
type IncidentState struct {
	ID           string            `json:"id"`
	Input        IncidentInput     `json:"input"`
	Level        detect.Level      `json:"level"` // the highest so far
	Phase        Phase             `json:"phase"`
	Silent       bool              `json:"silent"` // telemetry has gone silent
	Step         string            `json:"step"`   // the last one walked
	Steps        []runbook.Done    `json:"steps"`
	NextAt       time.Time         `json:"next_at"` // of the next step; zero when there is none
	Evidence     Evidence          `json:"evidence"`
	Finding      detect.Finding    `json:"finding"` // the newest
	Acknowledged *Acknowledgement  `json:"acknowledged,omitempty"`
	Decisions    []DecisionSummary `json:"decisions"`
	Advice       string            `json:"advice,omitempty"` // why act.yaml wants nothing done, when it does
	Scoring      bool              `json:"scoring"`          // every call is scored
	Frozen       bool              `json:"frozen"`           // no act rises above its share any more
	LastAct      time.Time         `json:"last_act"`         // when an act on the key ended last before this incident; zero: none is known
	UpdatedAt    time.Time         `json:"updated_at"`
	ClosedAt     time.Time         `json:"closed_at"` // zero while it is open
	Reason       string            `json:"reason"`    // of the phase
	Report       string            `json:"report,omitempty"`
	Notes        []Note            `json:"notes,omitempty"`    // what people wrote down, oldest first
	Mute         *Mute             `json:"mute,omitempty"`     // of the key; its tenant may be muted beside
	Previous     *PastIncident     `json:"previous,omitempty"` // the key's last one, with what showed its cause
	// Recalibration is the workflow that computes the tenant's baselines anew, since the model that serves the
	// key has changed; empty: none was asked for.
	Recalibration string `json:"recalibration,omitempty"`
}

// PastIncident is what an earlier incident of the same key has to teach.
type PastIncident struct {
	ID     string    `json:"id"`
	Opened time.Time `json:"opened"`
	Closed time.Time `json:"closed"`
	Cause  string    `json:"cause"` // empty: it stayed unclear
	Reason string    `json:"reason"`
	Query  string    `json:"query"` // the diagnostic query that showed it, runnable as printed
}

// Note is a remark of a person's on an incident.
type Note struct {
	Who  string    `json:"who"`
	Text string    `json:"text"`
	At   time.Time `json:"at"`
}

// Evidence is what the steps have gathered, as data.
type Evidence struct {
	Changes    Changes                `json:"changes"`
	Provider   runbook.ProviderHealth `json:"provider"`
	Completion runbook.Completion     `json:"completion"`
	Rollbacks  []RollbackResult       `json:"rollbacks,omitempty"` // what webhooks answered, oldest first

	Attribution *runbook.Attribution `json:"attribution,omitempty"` // of what changed; nil: not asked yet
	Shift       *runbook.Shift       `json:"shift,omitempty"`       // of a pseudo-key alone
}

// Changes are what was shipped, or first seen, shortly before an incident.
type Changes struct {
	Deployments []usage.Deployment  `json:"deployments"`
	FirstSeen   []runbook.FirstSeen `json:"first_seen"`
}

// EvidenceRequest asks for evidence about a key around the opening of its incident.
type EvidenceRequest struct {
	Key    usage.Key `json:"key"`
	Opened time.Time `json:"opened"`

	// WindowMinutes is the window of the finding that opened it; zero: the longest is taken.
	WindowMinutes int64 `json:"window_minutes,omitempty"`
}

// Acknowledgement is who has taken an incident on.
type Acknowledgement struct {
	Who  string    `json:"who"`
	Note string    `json:"note"`
	At   time.Time `json:"at"`
}

// DecisionSummary is one line about one of an incident's decisions.
type DecisionSummary struct {
	ID        string       `json:"id"`
	Action    string       `json:"action"`
	Kind      routing.Kind `json:"kind"` // of its flag
	Value     string       `json:"value"`
	Status    Status       `json:"status"`
	Reason    string       `json:"reason"`
	Who       string       `json:"who,omitempty"`
	Share     float64      `json:"share"`
	Acted     bool         `json:"acted"` // its flag was on at some time
	Effect    Effect       `json:"effect"`
	ExpiresAt time.Time    `json:"expires_at"`
	ChangedAt time.Time    `json:"changed_at"`
	Moves     int          `json:"moves"` // how many transitions this tells of; a lower one is old news
	Approvers []string     `json:"approvers,omitempty"`
}

// Summary is the decision in one line.
func (s DecisionState) Summary() DecisionSummary {
	d := DecisionSummary{
		ID: s.ID, Action: s.Input.Proposal.Action, Kind: s.Input.Proposal.Kind, Value: s.Input.Proposal.Value,
		Status: s.Status, Reason: s.Reason, Share: s.Share, Effect: s.Effect, ExpiresAt: s.ExpiresAt, ChangedAt: s.ChangedAt, Moves: len(s.History), Approvers: s.Input.Proposal.Approvers,
		Acted: slices.ContainsFunc(s.History, func(t Transition) bool { return t.Share > 0 }),
	}
	if s.Verdict != nil {
		d.Who = s.Verdict.Who
	}
	return d
}

// AcknowledgeRequest says who takes the incident on.
type AcknowledgeRequest struct {
	Who  string `json:"who"`
	Note string `json:"note"`
}

// SkipStepRequest skips a step that has not been walked yet, or one that waits for a person.
type SkipStepRequest struct {
	Step   string `json:"step"`
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// RerunStepRequest walks a step that has been walked already once more: its verdict replaces the old one.
type RerunStepRequest struct {
	Step   string `json:"step"`
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// AnnotateRequest writes a remark into an incident's timeline.
type AnnotateRequest struct {
	Who  string `json:"who"`
	Text string `json:"text"`
}

// ActRequest asks act.yaml what to do about an incident as it stands.
type ActRequest struct {
	Key     usage.Key      `json:"key"`
	Level   detect.Level   `json:"level"`
	Finding detect.Finding `json:"finding"`
	Step    string         `json:"step"` // the last one walked
	Steps   []runbook.Done `json:"steps"`
	Changes Changes        `json:"changes"`
	// Deployment is the one that explains the incident; nil: none does.
	Deployment  *usage.Deployment `json:"deployment,omitempty"`
	Provable    bool              `json:"provable"`         // traffic can prove an act
	Volume      float64           `json:"volume,omitempty"` // calls of the last whole minute beside the usual; 0: as the finding says
	CoolingDown bool              `json:"cooling_down"`
	Frozen      bool              `json:"frozen"`
	Scoring     bool              `json:"scoring"`
}

// WrittenReport is an incident's report for people.
type WrittenReport struct {
	Markdown string `json:"markdown"`
}
