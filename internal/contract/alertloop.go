package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// SweepInput starts the sweep of one shard of the keys.
type SweepInput struct {
	Shard  int    `json:"shard"`
	Shards int    `json:"shards"`
	Tuning Tuning `json:"tuning"`
	Rounds int    `json:"rounds"` // completed by earlier runs
}

// RetuneMessage tells a sweep the tuning that a worker was started with. The sweep goes on with it,
// and so do the loops that it starts from then on; those that run keep theirs.
type RetuneMessage struct {
	Shards int    `json:"shards"`
	Tuning Tuning `json:"tuning"`
}

// SweepResult is what a sweep that was told to stop leaves.
type SweepResult struct {
	Rounds int `json:"rounds"`
}

// SweepState answers the sweep's query.
type SweepState struct {
	Shard  int         `json:"shard"`
	Rounds int         `json:"rounds"`
	Last   SweepReport `json:"last"`   // of the last completed round
	Tuning Tuning      `json:"tuning"` // that loops are started with
}

// SweepRequest asks the sweep activity for one round: an hour or so of ticks.
type SweepRequest struct {
	Shard  int    `json:"shard"`
	Shards int    `json:"shards"`
	Tuning Tuning `json:"tuning"`
}

// SweepReport is what a round of ticks did; the activity's heartbeat carries it too.
type SweepReport struct {
	Ticks      int       `json:"ticks"`
	Failed     int       `json:"failed"` // ticks that could not read or judge
	Keys       int       `json:"keys"`   // seen at the last tick
	Candidates int       `json:"candidates"`
	Signals    int       `json:"signals"`
	LastTick   time.Time `json:"last_tick"`

	ShadowFailed int64 `json:"shadow_failed,omitempty"` // times that the second policy set could not be asked
	ShadowLost   int64 `json:"shadow_lost,omitempty"`   // what it found that could not be stored
}

// AlertLoopInput starts the durable loop of one key. State is nil but after continue-as-new.
type AlertLoopInput struct {
	Key    usage.Key       `json:"key"`
	Tuning Tuning          `json:"tuning"`
	State  *AlertLoopState `json:"state,omitempty"`
}

// AlertLoopState is everything that an alert loop knows, and what its query answers.
type AlertLoopState struct {
	routing.Book
	Key      usage.Key       `json:"key"`
	Alert    alert.State     `json:"alert"`
	RenewAt  time.Time       `json:"renew_at"`
	Epoch    string          `json:"epoch,omitempty"` // of the store of flags, as last heard
	Incident string          `json:"incident"`        // the open incident's workflow id
	Closing  bool            `json:"closing"`         // the incident has been told that it is resolved
	Finding  *detect.Finding `json:"finding,omitempty"`
	Done     []string        `json:"done,omitempty"`  // the last decisions that took their flag off
	Opened   int             `json:"opened"`          // incidents opened so far
	Group    string          `json:"group,omitempty"` // the incident of many keys that the next finding joins
	Mute     *Mute           `json:"mute,omitempty"`  // nil: people are told
	Apart    string          `json:"apart,omitempty"` // the group that this key has left while it failed: it does not go back
	Astray   time.Time       `json:"astray,omitzero"` // since when facts name another group than the one it is in, or none
}

// AlertLoopResult is what a loop that went quiet leaves.
type AlertLoopResult struct {
	Incidents int `json:"incidents"`
}

// FactsMessage tells a loop what the sweep found at a tick, NONE included. Findings not newer than
// the last are dropped, so a repeated or late message does no harm.
type FactsMessage struct {
	Finding detect.Finding `json:"finding"`
	// Epoch names the life of the store of flags. Another one means that the store has lost its flags:
	// the loop then writes its own again at once.
	Epoch string `json:"epoch,omitempty"`
	// Group is the id of the incident of many keys that the finding belongs to; empty: its own.
	Group string `json:"group,omitempty"`
}

// MaxMute is the longest that anything can be muted for: a mute that nobody remembers hides an outage.
const MaxMute = 30 * 24 * time.Hour

// Mute keeps notices about a key, a tenant or a group from people until a time. Findings, incidents and
// flags go on as ever, and the inbox shows them.
type Mute struct {
	Until  time.Time `json:"until"`
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

// On reports whether the mute holds at now. A nil mute never does.
func (m *Mute) On(now time.Time) bool { return m != nil && now.Before(m.Until) }

// MuteRequest mutes for a time, or, with For zero, unmutes.
type MuteRequest struct {
	For    time.Duration `json:"for"`
	Who    string        `json:"who"`
	Reason string        `json:"reason"`
}

// MuteState answers a MuteRequest; Mute is nil when nothing is muted now.
type MuteState struct {
	Mute *Mute `json:"mute,omitempty"`
}

// AcceptLevelRequest is a person's word that a key's new level of cost or quality is the usual one from now
// on: the baseline is set to it at once, and the incident ends.
type AcceptLevelRequest struct {
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// AcceptLevelResult is the baseline that holds from now on.
type AcceptLevelResult struct {
	Baseline detect.Baseline `json:"baseline"`
	Incident string          `json:"incident,omitempty"` // that ended by it
}

// AcceptLevelActivityRequest asks the store to take the level of a key at a time as its usual one. At is part of what
// is accepted: a retry with the same time is the same level.
type AcceptLevelActivityRequest struct {
	Key      usage.Key       `json:"key"`
	Who      string          `json:"who"`
	Reason   string          `json:"reason"`
	Minimums detect.Minimums `json:"minimums"`
	At       time.Time       `json:"at"`
}

// SetFlagRequest asks a key's loop to put a flag on at a share, or to take it off (share 0). The
// same request twice changes nothing the second time.
type SetFlagRequest struct {
	Kind      routing.Kind `json:"kind"`
	Value     string       `json:"value,omitempty"`
	Share     float64      `json:"share"`
	Reason    string       `json:"reason"`
	Decision  string       `json:"decision"`
	ExpiresAt time.Time    `json:"expires_at"`
}

// SetFlagResult is the flag as it now stands, at share 0 when it is off; Changed is false when there was nothing to do.
type SetFlagResult struct {
	Flag    routing.Flag  `json:"flag"`
	Changed bool          `json:"changed"`
	Before  *routing.Flag `json:"before,omitempty"` // of the same kind, that stood until then; nil: none did
}

// ResolveRequest is a person's word that the incident is over, whatever the telemetry says.
type ResolveRequest struct {
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// ResolveResult is what was resolved.
type ResolveResult struct {
	Incident string `json:"incident"`
}

// IncidentEndedMessage tells a loop that its incident has ended and left nothing behind.
type IncidentEndedMessage struct {
	Incident  string `json:"incident"`
	Cancelled bool   `json:"cancelled"` // by an operator, whatever the alert says
}

// AlertChange is what a loop tells its incident.
type AlertChange string

// The changes.
const (
	Escalated  AlertChange = "escalated"
	Recovering AlertChange = "recovering"
	Refired    AlertChange = "refired"
	Silent     AlertChange = "silent"
	Heard      AlertChange = "heard" // after a silence
	Resolved   AlertChange = "resolved"
	Muted      AlertChange = "muted"  // or unmuted: Mute says
	Joined     AlertChange = "joined" // a key, its incident of many keys
	Parted     AlertChange = "parted" // a key, whose cause is another after all
)

// AlertChangedMessage tells an incident how its alert moved. Who is set when a person moved it.
type AlertChangedMessage struct {
	Key     usage.Key       `json:"key"` // whose alert; an incident of many keys has many
	Change  AlertChange     `json:"change"`
	Level   detect.Level    `json:"level"`
	At      time.Time       `json:"at"`
	Finding *detect.Finding `json:"finding,omitempty"`
	Who     string          `json:"who,omitempty"`
	Reason  string          `json:"reason,omitempty"`
	Mute    *Mute           `json:"mute,omitempty"` // of the key, as it now is
}
