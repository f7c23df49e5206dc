package routing

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Tier is a model with what it costs and what quality it can be relied on for.
type Tier struct {
	Model        string  `json:"model" yaml:"model"`
	Provider     string  `json:"provider" yaml:"provider"`           // one stands in for another only within a provider: APIs and prompts differ between them
	CostMult     float64 `json:"cost_mult" yaml:"cost_mult"`         // cost of a call, relative to the other tiers
	QualityFloor float64 `json:"quality_floor" yaml:"quality_floor"` // the score it does not fall below, 0..1
}

// Class is how much a tenant's calls are worth; sampling.yaml scores by it.
type Class string

// The classes of tenants.
const (
	HighValue Class = "high-value"
	Standard  Class = "standard"
	Batch     Class = "batch"
)

// Risk is how freely acts on a tenant's traffic may be automated.
type Risk string

// The risk classes. An act on a regulated tenant always asks.
const (
	Ordinary  Risk = "ordinary"
	Regulated Risk = "regulated"
)

// Tenant is what the tradeoff knows of one tenant.
type Tenant struct {
	Tenant       string  `json:"tenant" yaml:"tenant"`
	Class        Class   `json:"class" yaml:"class"`
	Risk         Risk    `json:"risk" yaml:"risk"`
	QualityFloor float64 `json:"quality_floor" yaml:"quality_floor"` // no act takes the tenant below a tier of this floor
}

// OnExhausted says what happens when a budget is all but spent.
type OnExhausted string

// At an exhausted budget calls are served by the cheapest tier that meets the floor, or stopped. No
// budget is a reason to serve below the floor.
const (
	KeepFloor OnExhausted = "floor"
	StopCalls OnExhausted = "stop"
)

// Away is what holds while budgets cannot be asked: Redis is away, or its counters are being rebuilt.
type Away struct {
	Closed          bool          `json:"closed"`             // no call of a tenant with budgets is made
	Allowance       usage.PicoUSD `json:"allowance_pico_usd"` // that each gateway may promise a tenant until they can be asked again
	RegulatedClosed bool          `json:"regulated_closed"`   // as Closed, for regulated tenants
}

// Tradeoff is the table between cost and quality: the tiers, and what each tenant demands of them.
type Tradeoff struct {
	Tiers       []Tier      `json:"tiers"`
	Default     Tenant      `json:"default"` // of tenants that are not listed
	Tenants     []Tenant    `json:"tenants"`
	OnExhausted OnExhausted `json:"on_exhausted"`
	Session     Session     `json:"session"`
	Fallback    Fallbacks   `json:"fallback"`
	Away        Away        `json:"budgets"` // what holds for a tenant's calls while its budgets cannot be asked
}

// Tenant returns what is demanded for the tenant.
func (t Tradeoff) Tenant(name string) Tenant {
	for _, x := range t.Tenants {
		if x.Tenant == name {
			return x
		}
	}
	d := t.Default
	d.Tenant = name
	return d
}

// dated matches what providers append to a model's name to pin a snapshot of it.
var dated = regexp.MustCompile(`^-(\d{8}|\d{4}-\d{2}-\d{2}|latest)$`)

// Undated is the model's name without the date of a snapshot.
func Undated(model string) string {
	for i := range len(model) {
		if model[i] == '-' && dated.MatchString(model[i:]) {
			return model[:i]
		}
	}
	return model
}

// Tier finds the model's tier, also for a dated snapshot of it.
func (t Tradeoff) Tier(model string) (Tier, bool) {
	for _, x := range t.Tiers {
		if rest, ok := strings.CutPrefix(model, x.Model); ok && (rest == "" || dated.MatchString(rest)) {
			return x, true
		}
	}
	return Tier{}, false
}

// Downgrade is the cheapest model of the same provider that is cheaper than the given one and meets
// the tenant's floor.
func (t Tradeoff) Downgrade(tenant, model string) Selection {
	from, ok := t.Tier(model)
	if !ok {
		return Selection{Reason: unknownTier(model)}
	}
	cheaper := t.others(from, func(x Tier) bool { return x.CostMult < from.CostMult })
	if len(cheaper) == 0 {
		return Selection{Reason: fmt.Sprintf("%s is the cheapest model of %s", from.Model, from.Provider)}
	}
	return SelectModel(cheaper, t.Tenant(tenant).QualityFloor, 1, t.OnExhausted)
}

// Upgrade is the cheapest model of the same provider with a higher quality floor than the given one.
func (t Tradeoff) Upgrade(model string) Selection {
	from, ok := t.Tier(model)
	if !ok {
		return Selection{Reason: unknownTier(model)}
	}
	better := t.others(from, func(x Tier) bool { return x.QualityFloor > from.QualityFloor })
	if len(better) == 0 {
		return Selection{Reason: fmt.Sprintf("%s is the best model of %s", from.Model, from.Provider)}
	}
	return SelectModel(better, 0, 1, t.OnExhausted)
}

func (t Tradeoff) others(from Tier, keep func(Tier) bool) []Tier {
	var kept []Tier
	for _, x := range t.Tiers {
		if x.Provider == from.Provider && x.Model != from.Model && keep(x) {
			kept = append(kept, x)
		}
	}
	return kept
}

func unknownTier(model string) string { return fmt.Sprintf("tradeoff.yaml has no tier for %s", model) }

// Selection is the outcome of a choice of model: the model, or none, and why.
type Selection struct {
	Model  string  `json:"model"` // empty: none will do
	Tier   Tier    `json:"tier"`
	Stop   bool    `json:"stop"` // the budget's policy stops calls
	Reason string  `json:"reason"`
	Floor  float64 `json:"floor"`
}

// exhausted is the share of a budget below which it counts as spent.
const exhausted = 0.05

// SelectModel picks the cheapest of the tiers that meet the floor; of equally cheap ones the better,
// then the first by name. budgetRemaining is the share of the budget that is left, 0..1: under 5 %
// the policy's word counts, which may stop calls but never goes below the floor.
func SelectModel(tiers []Tier, floor, budgetRemaining float64, on OnExhausted) Selection {
	spent := budgetRemaining < exhausted
	if spent && on == StopCalls {
		return Selection{Stop: true, Floor: floor, Reason: fmt.Sprintf("%.1f %% of the budget is left, and the policy stops calls then", budgetRemaining*100)}
	}
	var met []Tier
	for _, t := range tiers {
		if t.QualityFloor >= floor {
			met = append(met, t)
		}
	}
	if len(met) == 0 {
		return Selection{Floor: floor, Reason: fmt.Sprintf("no tier meets the quality floor of %.2f", floor)}
	}
	best := slices.MinFunc(met, func(a, b Tier) int {
		return cmp.Or(cmp.Compare(a.CostMult, b.CostMult), cmp.Compare(b.QualityFloor, a.QualityFloor), cmp.Compare(a.Model, b.Model))
	})
	reason := fmt.Sprintf("%s is the cheapest model that meets the quality floor of %.2f", best.Model, floor)
	if spent {
		reason += "; the budget is all but spent"
	}
	return Selection{Model: best.Model, Tier: best, Floor: floor, Reason: reason}
}
