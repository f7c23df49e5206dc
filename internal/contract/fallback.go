package contract

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/effect"
	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// FallBack is the action class of the fallback rule for single calls. A call cannot wait for a person, so no decision
// carries it out: the first cases of a tenant are put to people as what would have been done, and once they have approved
// ten the gateways act.
const FallBack = "fallback"

// FallbackCase is a call that the fallback rule fired on, as its span tells.
type FallbackCase struct {
	routing.Case
	Tenant  string        `json:"tenant_id"`
	Trace   string        `json:"trace_id"`
	Span    string        `json:"span_id"`
	Session string        `json:"session_id,omitempty"`
	At      time.Time     `json:"at"`
	Served  string        `json:"served"` // the model that did serve it
	Arm     usage.Arm     `json:"arm"`    // none: the rule did not act
	Cost    usage.PicoUSD `json:"cost_pico_usd"`
}

// Key is the key that the call belongs to.
func (c FallbackCase) Key() usage.Key { return usage.Key{Tenant: c.Tenant, Model: c.Model} }

// FallbackWorth is what a fallback rule was worth to a tenant: the calls that fell back against its holdback.
type FallbackWorth struct {
	Tenant string `json:"tenant_id"`
	Rule   string `json:"rule"`
	effect.Effect
}

// ID is the id of the decision by which people judge the case: one for each call, whoever finds it.
func (c FallbackCase) ID() string {
	return fmt.Sprintf("decision/%s/%s/%d/%s", FallBack, path(c.Key()), c.At.Unix(), url.PathEscape(c.Trace))
}

// IsFallback reports whether the id is that of a decision on a single call.
func IsFallback(id string) bool { return strings.HasPrefix(id, "decision/"+FallBack+"/") }

// caseExpiry is how long people may take over a case. Nothing waits for them but trust.
const caseExpiry = 72 * time.Hour

// Decision is the decision by which people judge the case, where trust stands as given.
func (c FallbackCase) Decision(tuning Tuning, standing TrustAnswer) DecisionInput {
	reason := c.Reason()
	return DecisionInput{
		Key: c.Key(), Attempt: 1, Tuning: tuning, Opened: c.At, Case: &c, Standing: &standing,
		Proposal: Proposal{
			Action: FallBack, Mode: Ask, Kind: routing.Route, Value: c.Instead, Goal: routing.CutCost, Expiry: caseExpiry, Rule: c.Rule, Reason: reason,
		},
		Finding: detect.Finding{Key: c.Key(), EvaluatedAt: c.At, Verdict: detect.Verdict{Level: detect.None, Rule: c.Rule, Reason: reason}},
	}
}

// Would says what an approval would have done to the call.
func (c FallbackCase) Would() string {
	session := ""
	if c.Session != "" {
		session = ", session " + c.Session
	}
	return fmt.Sprintf("The call of trace %s%s at %s UTC was served by %s for $%s. %s would have served it, which is estimated to save $%s; its quality with %s was predicted to be %.2f (predictor %s).",
		c.Trace, session, c.At.UTC().Format(time.DateTime), c.Served, pricing.Format(c.Cost), c.Instead, pricing.Format(c.Saves()), c.Model, c.Quality, c.Predictor)
}

// FallbackID is the id of the workflow that has cases put to people and tells the gateways who trusts the rule.
const FallbackID = "fallback"

// FallbackInput starts it.
type FallbackInput struct {
	Rounds int `json:"rounds"` // so far
}

// FallbackState is where it stands.
type FallbackState struct {
	Rounds int            `json:"rounds"`
	Last   FallbackReport `json:"last"` // of the last round that ended
}

// FallbackReport is what one round of it has done.
type FallbackReport struct {
	Asked   int `json:"asked"`   // cases that were put to people
	Trusted int `json:"trusted"` // tenants, as last published
}

// OpenCasesRequest offers cases to a tenant's ledger of trust, the earliest first. It has as many put to people as may
// still count towards trust.
type OpenCasesRequest struct {
	Tenant string         `json:"tenant"`
	Rule   string         `json:"rule"`
	Tuning Tuning         `json:"tuning"`
	Cases  []FallbackCase `json:"cases"`
}

// OpenCasesResult says which were.
type OpenCasesResult struct {
	Opened []string `json:"opened"` // ids of decisions
}

// HoldTrustRequest withdraws the trust in an action class, whatever it has earned, and has nobody asked about it until
// it is lifted (Hold false): it is then earned from the start.
type HoldTrustRequest struct {
	Tenant string `json:"tenant"`
	Action string `json:"action"`
	Hold   bool   `json:"hold"`
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// TrustHold is a hold that stands.
type TrustHold struct {
	Who    string    `json:"who"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}
