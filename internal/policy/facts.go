package policy

import (
	"fmt"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
)

// ActFacts are what act.yaml sees of an incident after a step of its runbook; the cel tags are its
// variable names. As with the facts of an alert, a quantity that is not known is neutral (ratio 1).
type ActFacts struct {
	Tenant      string `cel:"tenant" json:"tenant"`
	TenantClass string `cel:"tenant_class" json:"tenant_class"` // high-value, standard or batch
	RiskClass   string `cel:"risk_class" json:"risk_class"`     // ordinary or regulated
	Model       string `cel:"model" json:"model"`               // the requested one
	Experiment  string `cel:"experiment" json:"experiment"`     // whose calls of the model these are; empty: production
	Level       string `cel:"level" json:"level"`               // of the incident
	AlertRule   string `cel:"alert_rule" json:"alert_rule"`     // the rule that found it
	Step        int64  `cel:"step" json:"step"`                 // the runbook's step just done, in minutes: 0, 2, 5, 10, 30

	CostKnown    bool    `cel:"cost_known" json:"cost_known"`
	CostRatio    float64 `cel:"cost_ratio" json:"cost_ratio"`
	QualityKnown bool    `cel:"quality_known" json:"quality_known"`
	QualityRatio float64 `cel:"quality_ratio" json:"quality_ratio"`
	SpendKnown   bool    `cel:"spend_known" json:"spend_known"`
	SpendRatio   float64 `cel:"spend_ratio" json:"spend_ratio"`
	VolumeRatio  float64 `cel:"volume_ratio" json:"volume_ratio"`

	TargetModel  string `cel:"target_model" json:"target_model"`   // a cheaper model that meets the tenant's floor; empty: none
	UpgradeModel string `cel:"upgrade_model" json:"upgrade_model"` // a better model; empty: none

	DeploymentCorrelated bool   `cel:"deployment_correlated" json:"deployment_correlated"` // one began inside the window
	PreviousModel        string `cel:"previous_model" json:"previous_model"`               // what it replaced, where known
	PreviousTemplate     string `cel:"previous_template" json:"previous_template"`
	DeployedService      string `cel:"deployed_service" json:"deployed_service"`     // that it deployed
	RollbackAvailable    bool   `cel:"rollback_available" json:"rollback_available"` // the service has a webhook that undoes it
	ProviderUnhealthy    bool   `cel:"provider_unhealthy" json:"provider_unhealthy"` // its status page says so; unknown is false
	CompletionSpike      bool   `cel:"completion_spike" json:"completion_spike"`
	CompletionDrop       bool   `cel:"completion_drop" json:"completion_drop"`
	CauseFound           bool   `cel:"cause_found" json:"cause_found"`

	Provable       bool `cel:"provable" json:"provable"`         // traffic gives both arms 50 costs and 20 scores
	CoolingDown    bool `cel:"cooling_down" json:"cooling_down"` // an act on the key ended a short time ago
	Frozen         bool `cel:"frozen" json:"frozen"`             // the runbook froze automatic downgrades
	SamplingRaised bool `cel:"sampling_raised" json:"sampling_raised"`
}

// Action is a class of act; trust is earned per tenant and class.
type Action string

// The actions.
const (
	Downgrade Action = "downgrade" // serve by Target, a cheaper model
	Upgrade   Action = "upgrade"   // serve by Target, a better model
	Pin       Action = "pin"       // serve by Target, what was there before
	HardStop  Action = "hard_stop" // refuse calls
	Shaping   Action = "shape"     // refuse, for now, the calls beyond the usual spend
	Sampling  Action = "sampling"  // score every call
	Rollback  Action = "rollback"  // undo the deployment of Target, a service, through its webhook
	NoAction  Action = "none"
)

// Mode is who decides about a proposal.
type Mode string

// The modes. Auto is still a question until the tenant's trust in the action has been earned.
const (
	Auto  Mode = "auto"
	Ask   Mode = "ask"
	Never Mode = "never" // nobody: it is not to be done
)

// Proposal is what act.yaml wants done.
type Proposal struct {
	Action    Action        `json:"action"`
	Target    string        `json:"target"` // a model, or a service to roll back; empty with hard_stop, shape, sampling and none
	Mode      Mode          `json:"mode"`
	Approvers []string      `json:"approvers"` // the groups of which anyone may approve
	Expiry    time.Duration `json:"expiry"`    // how long the question stands open
	Rule      string        `json:"rule"`
	Reason    string        `json:"reason"` // one sentence for people
}

// check refuses proposals that no one could carry out.
func (p Proposal) check() error {
	switch p.Action {
	case Downgrade, Upgrade, Pin, Rollback:
		if p.Target == "" {
			return fmt.Errorf("rule %s proposes the action %s without a target", p.Rule, p.Action)
		}
	}
	if p.Mode != Never && p.Expiry <= 0 {
		return fmt.Errorf("rule %s proposes the action %s without an expiry", p.Rule, p.Action)
	}
	return nil
}

// SamplingFacts are what sampling.yaml sees of a key.
type SamplingFacts struct {
	Tenant      string `cel:"tenant" json:"tenant"`
	TenantClass string `cel:"tenant_class" json:"tenant_class"`
	Model       string `cel:"model" json:"model"`
	Task        string `cel:"task" json:"task"`
}

// Sample is which share of calls is scored.
type Sample struct {
	Rate float64 `json:"rate"` // 0..1
	Rule string  `json:"rule"`
}

func (s Sample) check() error {
	if !(s.Rate >= 0 && s.Rate <= 1) {
		return fmt.Errorf("rule %s samples a share of %v, which is not between 0 and 1", s.Rule, s.Rate)
	}
	return nil
}

// classes and risks are what tenants can be, for checking tradeoff.yaml.
var (
	classes = []string{string(routing.HighValue), string(routing.Standard), string(routing.Batch)}
	risks   = []string{string(routing.Ordinary), string(routing.Regulated)}
)
