package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// GroupInput opens the incident of many keys that fail together.
type GroupInput struct {
	Cause  string    `json:"cause"` // "provider:openai", "model:gpt-4o", "telemetry"
	Opened time.Time `json:"opened"`
	Tuning Tuning    `json:"tuning"`
}

// GroupResult is how it ended.
type GroupResult struct {
	Keys   int    `json:"keys"` // that belonged to it at any time
	Reason string `json:"reason"`
}

// GroupState is everything about an incident of many keys: its query's answer and the stored row.
type GroupState struct {
	ID           string           `json:"id"`
	Input        GroupInput       `json:"input"`
	Level        detect.Level     `json:"level"` // the highest of its keys so far
	Phase        Phase            `json:"phase"`
	Keys         []GroupKey       `json:"keys"` // in the order in which they joined
	Steps        []runbook.Done   `json:"steps"`
	NextAt       time.Time        `json:"next_at"`
	Evidence     Evidence         `json:"evidence"`
	Acknowledged *Acknowledgement `json:"acknowledged,omitempty"`
	Notes        []Note           `json:"notes,omitempty"`
	Mute         *Mute            `json:"mute,omitempty"`
	UpdatedAt    time.Time        `json:"updated_at"`
	ClosedAt     time.Time        `json:"closed_at"`
	Reason       string           `json:"reason"`
}

// GroupKey is one key of a group.
type GroupKey struct {
	Key      usage.Key    `json:"key"`
	Level    detect.Level `json:"level"`
	Reason   string       `json:"reason"` // of its finding
	JoinedAt time.Time    `json:"joined_at"`
	LeftAt   time.Time    `json:"left_at"`        // zero while it is in; resolved, or parted
	Left     AlertChange  `json:"left,omitempty"` // Resolved or Parted
}

// SplitRequest takes a key out of a group: it gets an incident of its own.
type SplitRequest struct {
	Key    usage.Key `json:"key"`
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
}
