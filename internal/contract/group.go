package contract

import (
	"slices"
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

	State *GroupState `json:"state,omitempty"` // after continue-as-new
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
	Keys         []GroupKey       `json:"keys"`             // in the order in which they joined; the first GroupKeysShown in a notice
	In           int              `json:"in"`               // keys that are in it now
	Joined       int              `json:"joined"`           // keys that belonged to it at any time
	Beyond       int              `json:"beyond,omitempty"` // of those in it, the ones that Keys has no room for
	Steps        []runbook.Done   `json:"steps"`
	NextAt       time.Time        `json:"next_at"`
	Evidence     Evidence         `json:"evidence"`
	Acknowledged *Acknowledgement `json:"acknowledged,omitempty"`
	Notes        []Note           `json:"notes,omitempty"`
	Mute         *Mute            `json:"mute,omitempty"`
	UpdatedAt    time.Time        `json:"updated_at"`
	ClosedAt     time.Time        `json:"closed_at"`
	Reason       string           `json:"reason"`

	Due      bool      `json:"due"`       // enough keys have come, or time enough has passed, to tell people
	Told     bool      `json:"told"`      // people have been told
	Posted   int       `json:"posted"`    // notices so far: the Seq of the last
	RemindAt time.Time `json:"remind_at"` // when people are reminded next, if nobody has taken it on
	CardAt   time.Time `json:"card_at"`   // when its message was brought up to date last
	EmptyAt  time.Time `json:"empty_at"`  // since when no key is in it; zero while one is
}

// GroupKeysKept bounds the keys that a group knows by name. Those that join beyond it are counted.
const GroupKeysKept = 1000

// GroupKeysShown bounds the keys in what a group tells people: a message that lists 500 is not read.
const GroupKeysShown = 50

// Shown is the state as people are told of it.
func (s GroupState) Shown() GroupState {
	s.Keys = slices.Clone(s.Keys[:min(len(s.Keys), GroupKeysShown)])
	return s
}

// GroupKey is one key of a group.
type GroupKey struct {
	Key      usage.Key    `json:"key"`
	Level    detect.Level `json:"level"`
	Reason   string       `json:"reason"`         // of its finding
	Well     bool         `json:"well,omitempty"` // its finding is gone; it may soon resolve
	Mute     *Mute        `json:"mute,omitempty"` // of the key
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
