package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Mode is how an act may be carried out.
type Mode string

// The modes.
const (
	Auto  Mode = "auto" // by itself, once it has earned trust; asks until then
	Ask   Mode = "ask"  // only when a person approves
	Never Mode = "never"
)

// Proposal is what act.yaml wants done. It is an activity's answer and so recorded: a reload of the
// policies changes what is proposed next, never what is under way.
type Proposal struct {
	Action    string        `json:"action"` // the action class: downgrade, upgrade, pin, hard_stop, shape, sampling, rollback; empty: nothing
	Mode      Mode          `json:"mode"`
	Kind      routing.Kind  `json:"kind"`
	Value     string        `json:"value"` // the model to route to; of a rollback, the service
	Goal      routing.Goal  `json:"goal"`
	Approvers []string      `json:"approvers,omitempty"` // the groups that the policy names, for people to see
	Expiry    time.Duration `json:"expiry"`              // of the question, in real time
	Rule      string        `json:"rule"`
	Reason    string        `json:"reason"`
	Revision  string        `json:"revision"`
	// Deployment is what a rollback undoes.
	Deployment *usage.Deployment `json:"deployment,omitempty"`
}

// ScoreCalls is the action of scoring every call. It touches no answer and has no rollout: the incident
// carries it out, at once or when a person has approved it.
const ScoreCalls = "sampling"

// Wanted reports whether there is anything to do.
func (p Proposal) Wanted() bool { return p.Action != "" && p.Mode != Never }

// DecisionInput starts one attempt at an act.
type DecisionInput struct {
	Key      usage.Key      `json:"key"`
	Incident string         `json:"incident"`
	Attempt  int            `json:"attempt"`
	Tuning   Tuning         `json:"tuning"`
	Proposal Proposal       `json:"proposal"`
	Finding  detect.Finding `json:"finding"`        // the one that it answers
	Opened   time.Time      `json:"opened"`         // the incident
	Mute     *Mute          `json:"mute,omitempty"` // of the key as it began; later ones come by AlertChanged

	// Mix is set when the finding is of the tenant's pseudo-key and the key that of the model whose share rose: the
	// act is released when the requested mix is back.
	Mix *routing.Mix `json:"mix,omitempty"`

	// Case is the call that the fallback rule fired on. Such a decision has no incident, carries nothing out, and only
	// says whether people would have done what the rule would; Standing is how far its trust had come by then.
	Case     *FallbackCase `json:"case,omitempty"`
	Standing *TrustAnswer  `json:"standing,omitempty"`
}

// Origin is what the decision is about: its incident, or the one call.
func (in DecisionInput) Origin() string {
	if in.Case != nil {
		return "the call of trace " + in.Case.Trace
	}
	return in.Incident
}

// PolicyFile is the file that its rule stands in.
func (in DecisionInput) PolicyFile() string {
	if in.Case != nil {
		return "tradeoff.yaml"
	}
	return "act.yaml"
}

// DecisionResult is the decision's fate.
type DecisionResult struct {
	Status Status `json:"status"`
	Reason string `json:"reason"`
}

// Status is where a decision stands.
type Status string

// The statuses. The ones from Denied on are final.
const (
	Proposed         Status = "proposed"
	AwaitingApproval Status = "awaiting_approval"
	Actuating        Status = "actuating" // on its way to its last share
	Holding          Status = "holding"   // at its last share, watching the holdback
	Releasing        Status = "releasing" // on its way down
	Denied           Status = "denied"    // a person said no
	Expired          Status = "expired"   // time was up: nobody answered, or it was held as long as allowed
	Withdrawn        Status = "withdrawn" // not needed any more before it began
	Approved         Status = "approved"  // and handed to the incident, which needs no rollout for it
	Released         Status = "released"  // the fault was over
	Reverted         Status = "reverted"  // it harmed, could not be proved, or was cancelled
)

// Final reports whether the decision has ended.
func (s Status) Final() bool {
	switch s {
	case Denied, Expired, Withdrawn, Approved, Released, Reverted:
		return true
	}
	return false
}

// DecisionState is everything about a decision: the query's answer and the audit row.
type DecisionState struct {
	ID        string          `json:"id"`
	Input     DecisionInput   `json:"input"`
	Status    Status          `json:"status"`
	Reason    string          `json:"reason"` // of the status
	Opened    time.Time       `json:"opened"`
	ChangedAt time.Time       `json:"changed_at"`
	ExpiresAt time.Time       `json:"expires_at"` // of the question; zero when none is open
	Verdict   *DecideRequest  `json:"verdict,omitempty"`
	Trust     *TrustAnswer    `json:"trust,omitempty"`
	Plan      RolloutPlan     `json:"plan"`
	Rollout   routing.Rollout `json:"rollout"`
	Share     float64         `json:"share"` // now applied
	Frozen    string          `json:"frozen,omitempty"`
	Effect    Effect          `json:"effect"`
	History   []Transition    `json:"history"`

	FlagBefore *routing.Flag  `json:"flag_before,omitempty"` // that stood when the first order came; nil: none did
	FlagAfter  *routing.Flag  `json:"flag_after,omitempty"`  // as the last order left it, at share 0 when it is off; nil: there was no order
	Measured   *effect.Effect `json:"measured,omitempty"`    // the last measurement; nil: none yet
}

// Effect is what is known about the help of an act.
type Effect string

// The effects.
const (
	Unproven Effect = "UNPROVEN"
	Proven   Effect = "PROVEN"
)

// Transition is one change of a decision's status or share.
type Transition struct {
	At     time.Time `json:"at"`
	Status Status    `json:"status"`
	Share  float64   `json:"share"`
	Reason string    `json:"reason"`
}

// The verdicts that a person can give.
const (
	Approve = "approve"
	Deny    = "deny"
)

// DecideRequest is a person's verdict on a decision.
type DecideRequest struct {
	Verdict string `json:"verdict"` // approve or deny
	Who     string `json:"who"`
	Reason  string `json:"reason"`
}

// WithdrawMessage tells a decision that its incident is over. A question that is still open is then
// withdrawn. Release also takes a flag off at once: a person said that there is no fault.
type WithdrawMessage struct {
	Who     string `json:"who,omitempty"`
	Reason  string `json:"reason"`
	Release bool   `json:"release"`
}

// FreezeMessage tells a decision to stay at its share: the cause is unclear.
type FreezeMessage struct {
	Reason string `json:"reason"`
}

// PlanRolloutRequest asks how an act would be rolled out on a key.
type PlanRolloutRequest struct {
	Key    usage.Key      `json:"key"`
	Kind   routing.Kind   `json:"kind"`
	Limits routing.Limits `json:"limits"`
	Spend  float64        `json:"spend,omitempty"` // the key's spend beside the usual, of which a shape lets the usual through
}

// RolloutPlan is how an act would be rolled out, with what it was sized by.
type RolloutPlan struct {
	Plan      routing.Plan    `json:"plan"`
	PerSecond float64         `json:"per_second"`       // the key's calls
	Volume    float64         `json:"volume,omitempty"` // calls of the last whole minute beside the usual; 0: unknown
	Baseline  detect.Baseline `json:"baseline"`
}

// AwaitRolloutRequest asks to watch a rollout until it wants something done.
type AwaitRolloutRequest struct {
	Key      usage.Key       `json:"key"`
	Decision string          `json:"decision"`
	Rollout  routing.Rollout `json:"rollout"`
	Baseline detect.Baseline `json:"baseline"`
	Mix      *routing.Mix    `json:"mix,omitempty"` // see DecisionInput
}

// AwaitRolloutResult is the rollout with the act it wants. An act without change means only that
// the watch ended: its time was up, or it was called off.
type AwaitRolloutResult struct {
	Rollout routing.Rollout `json:"rollout"`
	Act     routing.Act     `json:"act"`
}

// SetKeyFlagRequest asks an activity to send a SetFlagRequest to the key's loop.
type SetKeyFlagRequest struct {
	Key      usage.Key      `json:"key"`
	Tuning   Tuning         `json:"tuning"` // for a loop that has to be started
	UpdateID string         `json:"update_id"`
	Start    bool           `json:"start,omitempty"` // start a loop that is not there: a canary has no incident, and a pseudo-key's acts on another key
	Flag     SetFlagRequest `json:"flag"`
}

// AutonomyInput starts a tenant's trust ledger. State is nil but after continue-as-new.
type AutonomyInput struct {
	Tenant string         `json:"tenant"`
	State  *AutonomyState `json:"state,omitempty"`
}

// AutonomyResult is what a ledger that was cancelled leaves.
type AutonomyResult struct {
	State AutonomyState `json:"state"`
}

// AutonomyState is how far each class of action has earned the tenant's trust.
type AutonomyState struct {
	Tenant  string           `json:"tenant"`
	Classes map[string]Trust `json:"classes"`
}

// Trust is how far one class of action has come.
type Trust struct {
	Rule     string   `json:"rule"`     // the alert rule that all counted decisions answered
	Approved int      `json:"approved"` // human-approved decisions that were carried out
	Granted  int      `json:"granted"`  // decisions carried out without asking
	Seen     []string `json:"seen"`     // what was counted lately, "decision outcome", newest last

	Open map[string]time.Time `json:"open,omitempty"` // the cases that people are asked about, and until when: see OpenCases
	Held *TrustHold           `json:"held,omitempty"` // a person withdrew it: nothing is granted, and nobody asked
}

// TrustNeeded is how many human-approved decisions a class of action needs before it may act alone.
const TrustNeeded = 10

// Trusted reports whether the class may act alone, by the rule that it was earned with.
func (t Trust) Trusted() bool { return t.Held == nil && t.Approved >= TrustNeeded }

// TrustRequest asks whether a decision may be carried out without a person.
type TrustRequest struct {
	Tenant   string `json:"tenant"`
	Action   string `json:"action"`
	Rule     string `json:"rule"`
	Decision string `json:"decision"`
}

// TrustAnswer is the standing of a class of action.
type TrustAnswer struct {
	Granted  bool   `json:"granted"`
	Approved int    `json:"approved"`
	Needed   int    `json:"needed"`
	Reason   string `json:"reason"`
}

// The outcomes that move trust.
const (
	OutcomeApproved = "approved" // a person approved it, and it was carried out
	OutcomeDenied   = "denied"
	OutcomeReverted = "reverted"
	OutcomeLapsed   = "lapsed" // of a case: nobody said anything, which counts neither way
)

// TrustOutcomeRequest tells the ledger what became of a decision.
type TrustOutcomeRequest struct {
	Tenant   string `json:"tenant"`
	Action   string `json:"action"`
	Rule     string `json:"rule"`
	Decision string `json:"decision"`
	Outcome  string `json:"outcome"`
}
