package contract

import (
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
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

	AlertRule  string          `json:"alert_rule"` // of alert.yaml, that fired
	Facts      json.RawMessage `json:"facts,omitempty"`
	Approvers  []string        `json:"approvers,omitempty"` // that the policy names
	FlagBefore json.RawMessage `json:"flag_before,omitempty"`
	FlagAfter  json.RawMessage `json:"flag_after,omitempty"`
	Worth      *Worth          `json:"worth,omitempty"` // nil: not measured
}

// Worth is what a decision was worth by its last measurement. What is not known is nil, and never 0.
type Worth struct {
	MeasuredAt  time.Time `json:"measured_at"`
	Estimated   bool      `json:"estimated"`
	Treated     int64     `json:"treated_calls"`
	Compared    int64     `json:"compared_calls"`
	Saved       *big.Int  `json:"saved_pico_usd"`
	SavedLow    *big.Int  `json:"saved_low_pico_usd"`
	SavedHigh   *big.Int  `json:"saved_high_pico_usd"`
	Quality     *float64  `json:"quality_change"`
	QualityLow  *float64  `json:"quality_change_low"`
	QualityHigh *float64  `json:"quality_change_high"`
}

// Record is the decision's audit row.
func (s DecisionState) Record() (DecisionRecord, error) {
	p := s.Input.Proposal
	r := DecisionRecord{
		ID: s.ID, Incident: s.Input.Incident, Key: s.Input.Key, OpenedAt: s.Opened, Action: p.Action, Mode: p.Mode, Value: p.Value,
		Share: s.Share, Status: s.Status, Effect: s.Effect, Reason: s.Reason, Rule: p.Rule, Revision: p.Revision, UpdatedAt: s.ChangedAt,
		AlertRule: s.Input.Finding.Verdict.Rule, Approvers: p.Approvers, Worth: worth(s.Measured),
	}
	if s.Status.Final() {
		r.EndedAt = s.ChangedAt
	}
	if s.Verdict != nil {
		r.By = s.Verdict.Who
	}
	if w := r.Worth; w != nil && w.MeasuredAt.After(r.UpdatedAt) {
		r.UpdatedAt = w.MeasuredAt
	}
	for _, part := range []struct {
		to   *json.RawMessage
		what any
		has  bool
	}{{&r.Detail, s, true}, {&r.Facts, s.Input.Finding.Facts, true}, {&r.FlagBefore, s.FlagBefore, s.FlagBefore != nil}, {&r.FlagAfter, s.FlagAfter, s.FlagAfter != nil}} {
		if !part.has {
			continue
		}
		text, err := json.Marshal(part.what)
		if err != nil {
			return DecisionRecord{}, fmt.Errorf("writing decision %s as JSON: %w", s.ID, err)
		}
		*part.to = text
	}
	return r, nil
}

func worth(e *effect.Effect) *Worth {
	if e == nil {
		return nil
	}
	w := &Worth{MeasuredAt: e.MeasuredAt, Estimated: e.Estimated, Treated: e.Treated, Compared: e.Compared}
	if a := e.Saved; a != nil {
		w.Saved, w.SavedLow, w.SavedHigh = a.Pico, a.Low, a.High
	}
	if q := e.Quality; q != nil {
		w.Quality, w.QualityLow, w.QualityHigh = &q.By, q.Low, q.High
	}
	return w
}
