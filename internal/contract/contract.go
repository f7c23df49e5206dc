// Package contract holds what the processes of Flyball say to each other through Temporal: workflow
// ids, the task queue, search attributes, and the messages. Activities and the console need these
// and may not import the workflows.
package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// TaskQueue is the one task queue of all Flyball workers.
const TaskQueue = "flyball"

// WorkflowTaskTimeout is how long a workflow task may be lost with a killed worker before another
// worker gets it. Temporal's default of 10 s would be half of a PAGE's hold.
const WorkflowTaskTimeout = 5 * time.Second

// The search attributes, all keywords.
const (
	AttrTenant   = "FlyballTenant"
	AttrModel    = "FlyballModel"
	AttrSeverity = "FlyballSeverity"
	AttrState    = "FlyballState"
	AttrStep     = "FlyballStep"
)

// SearchAttributes are the names that a namespace must know before any workflow starts.
func SearchAttributes() []string {
	return []string{AttrTenant, AttrModel, AttrSeverity, AttrState, AttrStep}
}

// The FlyballStates of a ledger of trust: of one whose tenant trusts its fallback rule, and of every other.
const (
	StateLedger  = "ledger"
	StateTrusted = "trusted"
)

// StateMuted is the FlyballState of an alert loop that is open for nothing but a mute.
const StateMuted = "muted"

// The workflow types.
const (
	Sweep     = "Sweep"
	AlertLoop = "AlertLoop"
	Incident  = "Incident"
	Group     = "Group" // the incident of many keys
	Decision  = "Decision"
	Autonomy  = "Autonomy"
	Effects   = "Effects" // measures what a decision was worth, once it has ended

	Calibration = "Calibration"

	RouterTraining = "RouterTraining" // judges the versions of the predictor of quality, and trains the next

	Fallback = "Fallback" // has the first calls that would fall back put to people
)

// The names of messages. A name that people use is both an update, which answers, and a signal,
// which waits for a worker that is away and is all that tctl can send.
const (
	Retune        = "retune"         // signal to Sweep: RetuneMessage
	Facts         = "facts"          // signal to AlertLoop: FactsMessage
	SetFlag       = "set_flag"       // update of AlertLoop: SetFlagRequest → SetFlagResult; signal twin
	Resolve       = "resolve"        // update of AlertLoop, and of Group for all its keys: ResolveRequest → ResolveResult; signal twin
	SetMute       = "mute"           // update of AlertLoop, for a key or a whole tenant (*), and of Group: MuteRequest → MuteState; signal twin
	AcceptLevel   = "accept_level"   // update of AlertLoop: AcceptLevelRequest → AcceptLevelResult; signal twin
	IncidentEnded = "incident_ended" // signal to AlertLoop: IncidentEndedMessage
	AlertChanged  = "alert_changed"  // signal to Incident and Group: AlertChangedMessage
	Split         = "split"          // update of Group: SplitRequest → GroupState; signal twin
	Acknowledge   = "acknowledge"    // update of Incident: AcknowledgeRequest → IncidentState, and of Group → GroupState; signal twin
	SkipStep      = "skip_step"      // update of Incident: SkipStepRequest → IncidentState; signal twin
	RerunStep     = "rerun_step"     // update of Incident: RerunStepRequest → IncidentState; signal twin
	Annotate      = "annotate"       // update of Incident and Group: AnnotateRequest → Note; signal twin
	DecisionMoved = "decision_moved" // signal to Incident: DecisionState
	Decide        = "decide"         // update of Decision: DecideRequest → DecisionState, and of Calibration: DecideMovesRequest → CalibrationState; signal twin
	Withdraw      = "withdraw"       // signal to Decision: WithdrawMessage
	Freeze        = "freeze"         // signal to Decision: FreezeMessage
	AskTrust      = "ask_trust"      // update of Autonomy: TrustRequest → TrustAnswer
	TrustOutcome  = "trust_outcome"  // update of Autonomy: TrustOutcomeRequest → TrustAnswer; signal twin
	OpenCases     = "open_cases"     // update of Autonomy: OpenCasesRequest → OpenCasesResult
	HoldTrust     = "hold_trust"     // update of Autonomy: HoldTrustRequest → AutonomyState; signal twin
	Recalibrate   = "recalibrate"    // update of Calibration: RecalibrateRequest → CalibrationState; signal twin
	State         = "state"          // query of every workflow: its …State
)

// The types of errors that tell a caller that asking again is no use.
const (
	ErrRefused  = "Refused"  // a workflow would not do it as things stand; the message says why
	ErrBadInput = "BadInput" // the message itself is wrong
)

// SweepID is the id of the sweep of one shard.
func SweepID(shard int) string { return fmt.Sprintf("sweep/%d", shard) }

// AlertLoopID is the id of the key's alert loop.
func AlertLoopID(k usage.Key) string { return "alert/" + path(k) }

// IncidentID is the id of the key's incident that opened at the given time.
func IncidentID(k usage.Key, opened time.Time) string {
	return fmt.Sprintf("incident/%s/%d", path(k), opened.Unix())
}

// groupSegment stands where an incident of one key has its tenant.
const groupSegment = "group"

// GroupID is the id of the incident of many keys that fail together by the cause ("provider:openai") and
// that opened at the given time.
func GroupID(cause string, opened time.Time) string {
	return fmt.Sprintf("incident/%s/%s/%d", groupSegment, url.PathEscape(cause), opened.Unix())
}

// IsGroup reports whether the id is that of an incident of many keys.
func IsGroup(id string) bool { return strings.HasPrefix(id, "incident/"+groupSegment+"/") }

// GroupOf reads the cause and the opening time back out of the id of an incident of many keys.
func GroupOf(id string) (cause string, opened time.Time, err error) {
	if !IsGroup(id) {
		return "", time.Time{}, fmt.Errorf("workflow id %q is not that of an incident of many keys: want incident/%s/<cause>/<unix time>", id, groupSegment)
	}
	if opened, err = OpenedAt(id); err != nil {
		return "", time.Time{}, err
	}
	if cause, err = url.PathUnescape(strings.Split(id, "/")[2]); err != nil {
		return "", time.Time{}, fmt.Errorf("reading the cause in workflow id %q: %w", id, err)
	}
	return cause, opened, nil
}

// GroupMemberID names the time that a key was in a group since it joined, in the audit: no workflow has it.
func GroupMemberID(group string, k usage.Key, joined time.Time) string {
	return fmt.Sprintf("%s/%s/%d", group, path(k), joined.Unix())
}

// DecisionID is the id of one attempt at an action within an incident.
func DecisionID(incident, action string, attempt int) string {
	return fmt.Sprintf("decision/%s/%s/%d", incident, url.PathEscape(action), attempt)
}

// AutonomyID is the id of the tenant's trust ledger.
func AutonomyID(tenant string) string { return "autonomy/" + url.PathEscape(tenant) }

// CalibrationID is the id of the calibration of a tenant; empty: of all.
func CalibrationID(tenant string) string {
	if tenant == "" {
		return "calibration/" + allTenants
	}
	return "calibration/" + segment(tenant)
}

// EvaluatorsID is the id of the calibration that judges evaluators.
const EvaluatorsID = "calibration/" + allTenants + "/evaluators"

// allTenants stands where a calibration has its tenant.
const allTenants = "all"

func path(k usage.Key) string { return segment(k.Tenant) + "/" + url.PathEscape(k.Model) }

// segment is a tenant as a part of an id. One that is called like a word of ours is told from it by an
// escape that no other needs, and that reads back as any.
func segment(tenant string) string {
	escaped := url.PathEscape(tenant)
	if escaped == groupSegment || escaped == allTenants {
		return fmt.Sprintf("%%%02X%s", escaped[0], escaped[1:])
	}
	return escaped
}

// KeyOf reads the key back out of the id of an alert loop, an incident or a decision, that on a single call included.
func KeyOf(id string) (usage.Key, error) {
	rest := strings.TrimPrefix(id, "decision/")
	kind, rest, _ := strings.Cut(rest, "/")
	parts := strings.Split(rest, "/")
	if (kind != "alert" && kind != "incident" && !IsFallback(id)) || len(parts) < 2 || IsGroup(id) {
		return usage.Key{}, fmt.Errorf("workflow id %q names no key: want alert/…, incident/… or decision/incident/…", id)
	}
	tenant, err := url.PathUnescape(parts[0])
	if err != nil {
		return usage.Key{}, fmt.Errorf("reading the tenant in workflow id %q: %w", id, err)
	}
	model, err := url.PathUnescape(parts[1])
	if err != nil {
		return usage.Key{}, fmt.Errorf("reading the model in workflow id %q: %w", id, err)
	}
	return usage.Key{Tenant: tenant, Model: model}, nil
}

// OpenedAt reads the opening time back out of an incident's or a decision's id; of a decision on a single call, when that
// was made.
func OpenedAt(id string) (time.Time, error) {
	parts := strings.Split(strings.TrimPrefix(id, "decision/"), "/")
	if len(parts) < 4 || parts[0] != "incident" && !IsFallback(id) {
		return time.Time{}, fmt.Errorf("workflow id %q is not an incident's", id)
	}
	sec, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the time in workflow id %q: %w", id, err)
	}
	return time.Unix(sec, 0).UTC(), nil
}

// handleLength is enough hexadecimal digits that a hundred open workflows collide with a chance
// under one in a thousand; whoever looks a handle up is told when it fits two.
const handleLength = 6

// Handle is a short name for a workflow id, to be typed by people: "a41f09".
func Handle(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])[:handleLength]
}
