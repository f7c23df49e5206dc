package contract

import (
	"net/url"
	"time"

	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// EffectsID is the id of the measuring of a decision.
func EffectsID(decision string) string { return "effects/" + url.PathEscape(decision) }

// MeasureEvery is how often a decision that holds is measured.
const MeasureEvery = time.Hour

// MeasureAfter is when a decision that has ended is measured: when what came until its end is surely stored (the
// watermark is at most 30 s behind), when what was delivered late or ran long has come, and when spools that were
// down for hours have delivered. Each time all of it is measured anew.
var MeasureAfter = []time.Duration{time.Minute, time.Hour, 24 * time.Hour}

// EffectsInput starts the measuring of a decision that has ended.
type EffectsInput struct {
	Decision DecisionState `json:"decision"`
}

// MeasureRequest asks what a decision has been worth so far.
type MeasureRequest struct {
	Decision string    `json:"decision"`
	Key      usage.Key `json:"key"`
	Action   string    `json:"action"`
	Refused  bool      `json:"refused"` // its treated calls are not served
	Steps    []Step    `json:"steps"`   // the shares that were applied, in order
	Until    time.Time `json:"until"`   // its flag was off from then on; zero while it is on
}

// Step is a share and when it was applied.
type Step struct {
	From  time.Time `json:"from"`
	Share float64   `json:"share"`
}

// Refuses reports whether calls that a flag of the kind touches are not served.
func Refuses(k routing.Kind) bool { return k == routing.Stop || k == routing.Shape }

// Measure is the request to measure the decision; ok is false when it never touched a call.
func (s DecisionState) Measure() (r MeasureRequest, ok bool) {
	r = MeasureRequest{Decision: s.ID, Key: s.Input.Key, Action: s.Input.Proposal.Action, Refused: Refuses(s.Input.Proposal.Kind)}
	share := 0.0
	for _, h := range s.History {
		if h.Share == share {
			continue
		}
		share = h.Share
		if r.Until = h.At; share > 0 {
			r.Steps, r.Until = append(r.Steps, Step{h.At, share}), time.Time{}
		}
	}
	return r, len(r.Steps) > 0
}

// SavingsRecord is a measurement for the ledger of savings. It replaces every earlier one of its decision.
type SavingsRecord struct {
	Decision string        `json:"decision"`
	Key      usage.Key     `json:"key"`
	Action   string        `json:"action"`
	Effect   effect.Effect `json:"effect"`
}
