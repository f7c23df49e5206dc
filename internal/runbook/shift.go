package runbook

import (
	"fmt"
	"math/big"
)

// Shift is a turn of a tenant's callers to another model: what a finding of the pseudo-key names.
type Shift struct {
	Model       string  `json:"model"`
	Before      float64 `json:"before"` // its share of the tenant's calls
	Now         float64 `json:"now"`
	SpendBefore float64 `json:"spend_before"` // its share of the tenant's spend
	SpendNow    float64 `json:"spend_now"`
	Known       bool    `json:"known"` // false: no model explains what changed
	Text        string  `json:"text"`  // why, or why not
}

// shiftLeast is the least rise of a model's share of the calls that is called a shift: five points of a hundred.
const shiftLeast = 0.05

// JudgeShift finds the requested model that callers turned to, and whether that explains what the finding says: of the
// models whose share of the calls rose by five points or more, the one whose share rose most and whose larger
// share (the mix, not what its own calls cost or are worth) is at least half of the rise of the mean cost of a
// call or of the fall of mean quality.
func JudgeShift(times Times, flows []Flow) (Shift, error) {
	groups := grouped(flows, ByRequested)
	a, all := Attribution{Times: times}, whole(flows)
	if all.now.calls.Sign() == 0 || all.before.calls.Sign() == 0 {
		return Shift{Text: "there is no traffic before the incident to compare with"}, nil
	}
	now, before := minutesOf(times.From, times.To), minutesOf(times.Before, times.From)
	if now <= 0 || before <= 0 {
		return Shift{}, fmt.Errorf("judging a shift: %s to %s to %s are not two times of a minute or more", times.Before, times.From, times.To)
	}
	parts, changes, err := a.split(groups, now, before)
	if err != nil {
		return Shift{}, err
	}
	best := Shift{Text: "no model's share of the calls rose by as much as 5 points and explains the change"}
	for i, g := range groups {
		s := Shift{
			Model: g.value, Known: true,
			Before: part(g.before.calls, all.before.calls), Now: part(g.now.calls, all.now.calls),
			SpendBefore: part(g.before.cost, all.before.cost), SpendNow: part(g.now.cost, all.now.cost),
		}
		dearer := changes[1].Rise > 0 && 2*parts[i].CostPerCall.Mix >= changes[1].Rise
		worse := changes[2].Rise < 0 && 2*parts[i].Quality.Mix <= changes[2].Rise
		if s.Now-s.Before >= shiftLeast && (dearer || worse) && (!best.Known || s.Now-s.Before > best.Now-best.Before) {
			s.Text = fmt.Sprintf("callers turned to %s: %.0f %% of the calls against %.0f %% before, %.0f %% of the spend against %.0f %%",
				s.Model, 100*s.Now, 100*s.Before, 100*s.SpendNow, 100*s.SpendBefore)
			best = s
		}
	}
	return best, nil
}

// part is what share n is of all; 0 of nothing.
func part(n, all *big.Int) float64 {
	if all.Sign() == 0 {
		return 0
	}
	share, _ := new(big.Rat).SetFrac(n, all).Float64()
	return share
}
