package routing

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Fallback is the route of a call that the fallback rule sent to a cheaper model.
const Fallback = "fallback"

// Fallbacks is the rule for single calls: one that is estimated to cost more than its task's ceiling, and that the
// requested model is predicted to answer worse than the task's threshold, is money that buys nothing. The cheapest
// model of the same provider that meets the tenant's floor serves it.
type Fallbacks struct {
	Rule     string         `json:"rule"`     // names the ceilings, thresholds and tiers: with others it is another rule, which has to earn trust anew
	Holdback float64        `json:"holdback"` // the share of what would fall back that is left alone, to show what the rule does
	Tasks    []TaskFallback `json:"tasks"`
}

// TaskFallback is when the calls of a task fall back.
type TaskFallback struct {
	Task             string        `json:"task"` // AnyTask: of every task that has none of its own
	Ceiling          usage.PicoUSD `json:"ceiling_pico_usd"`
	QualityThreshold float64       `json:"quality_threshold"`
}

// AnyTask stands for the tasks that are not listed.
const AnyTask = "*"

// Named is the rule under the name that its ceilings and thresholds, and the tiers that it chooses among, give it.
func (f Fallbacks) Named(tiers []Tier) Fallbacks {
	h := fnvOffset
	for _, t := range f.Tasks {
		h = hash(h, fmt.Sprint(t))
	}
	for _, t := range tiers {
		h = hash(h, fmt.Sprint(t))
	}
	f.Rule = "fallback/" + strconv.FormatUint(h, 36)
	return f
}

// task finds what holds for the task.
func (f Fallbacks) task(name string) (found TaskFallback, ok bool) {
	for _, t := range f.Tasks {
		if t.Task == name {
			return t, true
		}
		if t.Task == AnyTask {
			found, ok = t, true
		}
	}
	return found, ok
}

// Call is a call that is about to be made, as far as the fallback rule asks about it.
type Call struct {
	Request  Request
	Estimate func(model string) (cost usage.PicoUSD, known bool)
	Quality  func() (score float64, predictor string, known bool) // that the requested model is predicted to reach; asked only of a call over its ceiling that a cheaper model may serve
	Trusted  bool                                                 // people have approved what the rule would have done
}

// Case is a call that the fallback rule fired on.
type Case struct {
	Rule      string        `json:"rule"`
	Task      string        `json:"task,omitempty"`
	Model     string        `json:"model"`   // the requested one
	Instead   string        `json:"instead"` // the one to serve the call
	Estimate  usage.PicoUSD `json:"estimate_pico_usd"`
	Cheaper   usage.PicoUSD `json:"instead_pico_usd"` // the estimate with Instead
	Ceiling   usage.PicoUSD `json:"ceiling_pico_usd"`
	Quality   float64       `json:"quality"` // predicted with the requested model
	Threshold float64       `json:"threshold"`
	Predictor string        `json:"predictor"` // its version
	Floor     float64       `json:"floor"`     // the tenant's
}

// Saves is what the fallback is estimated to save.
func (c Case) Saves() usage.PicoUSD { return c.Estimate - c.Cheaper }

// Reason says in one sentence why the call falls back.
func (c Case) Reason() string {
	task := "a call"
	if c.Task != "" {
		task = "a call of the task " + c.Task
	}
	return fmt.Sprintf("an estimated %s is over the ceiling of %s for %s, and the quality predicted with %s, %.2f, is under %.2f: %s for about %s is the cheapest model that meets the quality floor of %.2f",
		dollars(c.Estimate), dollars(c.Ceiling), task, c.Model, c.Quality, c.Threshold, c.Instead, dollars(c.Cheaper), c.Floor)
}

// dollars writes an amount to a ten-thousandth of a cent, rounded to the nearest: what a sentence needs.
func dollars(pico usage.PicoUSD) string {
	const digit = 1_000_000 // pico-dollars of the last digit
	n := (int64(pico) + digit/2) / digit
	text := strings.TrimRight(fmt.Sprintf("%d.%06d", n/1_000_000, n%1_000_000), "0")
	return "$" + strings.TrimSuffix(text, ".")
}

// FallBack says what becomes of a call that Decide has answered. The case is that of a call which the rule fires on,
// whether it acts or not, else nil. It acts once it is trusted, never for a regulated tenant, whose every act asks a
// person, and then on all but the holdback, which is drawn by session as that of a flag is. A call that a flag has
// refused, moved or kept as its holdback is left alone, so that the flag's proof stays clean. What is not known (a
// price, a prediction) is no reason to fall back.
func (t *Tradeoff) FallBack(a Answer, c Call) (Answer, *Case) {
	if a.Stop || a.Arm != usage.None || a.Route != Direct {
		return a, nil
	}
	fired, ok := t.fallbackCase(c)
	switch {
	case !ok:
		return a, nil
	case !c.Trusted || t.Tenant(c.Request.TenantID).Risk == Regulated:
		return a, &fired
	}
	a.Share, a.DecisionID = 1-t.Fallback.Holdback, fired.Rule
	if Position(c.Request.Key(), fired.Rule, c.Request.unit()) >= a.Share {
		a.Arm, a.Reason = usage.Holdback, "holdback: left alone to show whether falling back helps"
		return a, &fired
	}
	a.Model, a.Route, a.Arm, a.Reason = fired.Instead, Fallback, usage.Treated, fired.Reason()
	return a, &fired
}

// fallbackCase asks the cheap questions first: most calls are under their ceiling, and a prediction may be waited for.
func (t *Tradeoff) fallbackCase(c Call) (Case, bool) {
	r := &c.Request
	task, ok := t.Fallback.task(r.Task)
	if !ok {
		return Case{}, false
	}
	estimate, known := c.Estimate(r.RequestedModel)
	if !known || estimate <= task.Ceiling {
		return Case{}, false
	}
	to := t.Downgrade(r.TenantID, r.RequestedModel)
	if to.Model == "" {
		return Case{}, false
	}
	cheaper, known := c.Estimate(to.Model)
	if !known || cheaper >= estimate { // for this call's tokens, whatever the tiers say of most
		return Case{}, false
	}
	score, predictor, known := c.Quality()
	if !known || !(score < task.QualityThreshold) {
		return Case{}, false
	}
	return Case{
		Rule: t.Fallback.Rule, Task: r.Task, Model: r.RequestedModel, Instead: to.Model, Estimate: estimate, Cheaper: cheaper,
		Ceiling: task.Ceiling, Quality: score, Threshold: task.QualityThreshold, Predictor: predictor, Floor: to.Floor,
	}, true
}

// The tags by which the span of a call says that the rule fired on it, and what the rule saw.
const (
	caseTags      = "fallback."
	TagRule       = caseTags + "rule"
	TagInstead    = caseTags + "instead"
	TagEstimate   = caseTags + "estimate_pico_usd"
	TagCheaper    = caseTags + "instead_pico_usd"
	TagCeiling    = caseTags + "ceiling_pico_usd"
	TagQuality    = caseTags + "quality"
	TagThreshold  = caseTags + "threshold"
	TagPredictor  = caseTags + "predictor"
	tagsOfOneCase = 8
)

// Mark puts the case, which may be nil, among the tags of a call. Whatever the caller itself says under these names is
// dropped: only a gateway knows. The tags that are given are not changed.
func (c *Case) Mark(tags map[string]string) map[string]string {
	forged := false
	for name := range tags {
		forged = forged || strings.HasPrefix(name, caseTags)
	}
	if c == nil && !forged {
		return tags
	}
	marked := make(map[string]string, len(tags)+tagsOfOneCase)
	for name, value := range tags {
		if !strings.HasPrefix(name, caseTags) {
			marked[name] = value
		}
	}
	if c == nil {
		return marked
	}
	whole := func(n usage.PicoUSD) string { return strconv.FormatInt(int64(n), 10) }
	decimal := func(f float64) string { return strconv.FormatFloat(f, 'f', 4, 64) }
	marked[TagRule], marked[TagInstead], marked[TagPredictor] = c.Rule, c.Instead, c.Predictor
	marked[TagEstimate], marked[TagCheaper], marked[TagCeiling] = whole(c.Estimate), whole(c.Cheaper), whole(c.Ceiling)
	marked[TagQuality], marked[TagThreshold] = decimal(c.Quality), decimal(c.Threshold)
	return marked
}
