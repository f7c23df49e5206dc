package contract

import (
	"encoding/json"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// IncidentRecord is the audit row of an incident: its latest state, replaced by every later one. The
// time from shortly before OpenedAt until EndedAt is left out of the key's baselines.
type IncidentRecord struct {
	ID        string          `json:"id"`
	Key       usage.Key       `json:"key"`
	OpenedAt  time.Time       `json:"opened_at"`
	EndedAt   time.Time       `json:"ended_at"` // zero while it is open
	Level     detect.Level    `json:"level"`
	State     string          `json:"state"`
	Step      string          `json:"step"` // of the runbook
	Rule      string          `json:"rule"` // of alert.yaml, that opened it
	Reason    string          `json:"reason"`
	Report    string          `json:"report,omitempty"` // Markdown, once it is written
	Detail    json.RawMessage `json:"detail,omitempty"` // the whole state, evidence included
	UpdatedAt time.Time       `json:"updated_at"`       // orders the updates
}

// DecisionRecord is the audit row of a decision: its latest state, replaced by every later one.
type DecisionRecord struct {
	ID        string          `json:"id"`
	Incident  string          `json:"incident"`
	Key       usage.Key       `json:"key"`
	OpenedAt  time.Time       `json:"opened_at"`
	EndedAt   time.Time       `json:"ended_at"` // zero while it is not final
	Action    string          `json:"action"`
	Mode      Mode            `json:"mode"`
	Value     string          `json:"value"` // the model that it routes to or pins
	Share     float64         `json:"share"` // now applied
	Status    Status          `json:"status"`
	Effect    Effect          `json:"effect"`
	Reason    string          `json:"reason"`
	By        string          `json:"by,omitempty"` // who approved or denied it
	Rule      string          `json:"rule"`         // of act.yaml
	Revision  string          `json:"revision"`     // of the policy set
	Detail    json.RawMessage `json:"detail,omitempty"`
	UpdatedAt time.Time       `json:"updated_at"`
}
