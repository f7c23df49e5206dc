package policy

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

const tradeoffFile = "tradeoff.yaml"

// tradeoff reads the tradeoff, which is plain data; problems are noted in src.
func tradeoff(src *source) routing.Tradeoff {
	var t routing.Tradeoff
	root := src.parse()
	if root == nil {
		return t
	}
	top := src.fields(root, "the tradeoff", "tiers!", "on_exhausted!", "default!", "tenants", "fallback", "session", "budgets")
	if n := top["tiers"]; n != nil {
		t.Tiers = src.tiers(n)
	}
	if n := top["on_exhausted"]; n != nil {
		t.OnExhausted = routing.OnExhausted(src.oneOf(n, "on_exhausted", string(routing.KeepFloor), string(routing.StopCalls)))
	}
	if n := top["default"]; n != nil {
		t.Default = src.tenant(src.fields(n, "the default tenant", "class!", "risk!", "quality_floor!"))
	}
	if n := top["tenants"]; n != nil {
		t.Tenants = src.tenants(n)
	}
	if n := top["fallback"]; n != nil {
		t.Fallback = src.fallback(n).Named(t.Tiers)
	}
	if n := top["session"]; n != nil {
		f := src.fields(n, "the session", "downgrade_at", "stop_at")
		t.Session = routing.Session{DowngradeAt: src.decimal(f["downgrade_at"], "downgrade_at", 1), StopAt: src.decimal(f["stop_at"], "stop_at", 1)}
	}
	if n := top["budgets"]; n != nil {
		t.Away = src.away(n)
	}
	src.reachableFloors(top, t)
	return t
}

// away reads what holds while budgets cannot be asked.
func (s *source) away(n *yaml.Node) routing.Away {
	f := s.fields(n, "the budgets", "away!", "allowance_usd", "regulated")
	away := routing.Away{Closed: s.oneOf(f["away"], "away", "open", "closed") == "closed", Allowance: s.money(f["allowance_usd"], "allowance_usd")}
	away.RegulatedClosed = away.Closed
	if r := f["regulated"]; r != nil {
		away.RegulatedClosed = s.oneOf(r, "regulated", "open", "closed") == "closed"
	}
	if f["away"] != nil && !away.Closed && away.Allowance == 0 {
		s.report(n.Line, n.Column, `write allowance_usd: "5.00", or away: closed`, "without an allowance nothing is open")
	}
	return away
}

func (s *source) tiers(list *yaml.Node) []routing.Tier {
	var tiers []routing.Tier
	for _, n := range s.items(list, "tiers") {
		f := s.fields(n, "a tier", "provider!", "model!", "cost_mult!", "quality_floor!")
		tier := routing.Tier{
			Provider: s.word(f["provider"], "provider"), Model: s.word(f["model"], "model"),
			CostMult: s.decimal(f["cost_mult"], "cost_mult", 1e6), QualityFloor: s.decimal(f["quality_floor"], "quality_floor", 1),
		}
		if tier.CostMult == 0 && f["cost_mult"] != nil {
			s.report(f["cost_mult"].Line, f["cost_mult"].Column, "give its cost relative to the other tiers", "no model is free")
		}
		if slices.ContainsFunc(tiers, func(x routing.Tier) bool { return x.Model == tier.Model }) {
			s.report(n.Line, n.Column, "keep one of them", "the model %s has two tiers", tier.Model)
		}
		tiers = append(tiers, tier)
	}
	return tiers
}

func (s *source) tenants(list *yaml.Node) []routing.Tenant {
	var tenants []routing.Tenant
	for _, n := range s.items(list, "tenants") {
		f := s.fields(n, "a tenant", "tenant!", "class!", "risk!", "quality_floor!")
		tenant := s.tenant(f)
		tenant.Tenant = s.word(f["tenant"], "tenant")
		if slices.ContainsFunc(tenants, func(x routing.Tenant) bool { return x.Tenant == tenant.Tenant }) {
			s.report(n.Line, n.Column, "keep one of them", "the tenant %s is listed twice", tenant.Tenant)
		}
		tenants = append(tenants, tenant)
	}
	return tenants
}

func (s *source) tenant(f map[string]*yaml.Node) routing.Tenant {
	return routing.Tenant{
		Class:        routing.Class(s.oneOf(f["class"], "class", classes...)),
		Risk:         routing.Risk(s.oneOf(f["risk"], "risk", risks...)),
		QualityFloor: s.decimal(f["quality_floor"], "quality_floor", 1),
	}
}

// fallback reads the rule for single calls.
func (s *source) fallback(n *yaml.Node) routing.Fallbacks {
	f := s.fields(n, "the fallback", "holdback!", "tasks!")
	rule := routing.Fallbacks{Holdback: s.decimal(f["holdback"], "holdback", 1)}
	if h := f["holdback"]; h != nil && rule.Holdback == 0 {
		s.report(h.Line, h.Column, "leave a share alone, such as 0.1", "without a holdback nothing shows whether falling back helps")
	}
	if f["tasks"] == nil {
		return rule
	}
	for _, n := range s.items(f["tasks"], "tasks") {
		f := s.fields(n, "a task", "task!", "ceiling_usd!", "quality_threshold!")
		task := routing.TaskFallback{
			Task: s.word(f["task"], "task"), Ceiling: s.money(f["ceiling_usd"], "ceiling_usd"),
			QualityThreshold: s.decimal(f["quality_threshold"], "quality_threshold", 1),
		}
		if slices.ContainsFunc(rule.Tasks, func(x routing.TaskFallback) bool { return x.Task == task.Task }) {
			s.report(n.Line, n.Column, "keep one of them", "the task %s is listed twice", task.Task)
		}
		rule.Tasks = append(rule.Tasks, task)
	}
	return rule
}

// reachableFloors refuses a demand that no tier meets: every choice for that tenant would fail.
func (s *source) reachableFloors(top map[string]*yaml.Node, t routing.Tradeoff) {
	if len(s.problems) > 0 {
		return
	}
	best := 0.0
	for _, tier := range t.Tiers {
		best = max(best, tier.QualityFloor)
	}
	check := func(n *yaml.Node, floor float64) {
		if floor > best {
			s.report(n.Line, n.Column, "lower the floor or add a tier", "no tier meets the quality floor of %v; the best has %v", floor, best)
		}
	}
	check(top["default"], t.Default.QualityFloor)
	for i, tenant := range t.Tenants {
		check(top["tenants"].Content[i], tenant.QualityFloor)
	}
}

// word, oneOf, decimal and money read a value of a field. A nil node was reported as missing.

func (s *source) word(n *yaml.Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		s.report(n.Line, n.Column, "write a name", "%s must be a text that is not empty", what)
		return ""
	}
	return n.Value
}

func (s *source) oneOf(n *yaml.Node, what string, allowed ...string) string {
	value := s.word(n, what)
	if n == nil || value == "" || slices.Contains(allowed, value) {
		return value
	}
	s.report(n.Line, n.Column, "write one of "+strings.Join(allowed, ", "), "%s cannot be %q", what, value)
	return ""
}

func (s *source) decimal(n *yaml.Node, what string, limit float64) float64 {
	if n == nil {
		return 0
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || err != nil || !(v >= 0 && v <= limit) {
		s.report(n.Line, n.Column, "write a decimal such as 0.85", "%s must be a number from 0 to %v, not %q", what, limit, n.Value)
		return 0
	}
	return v
}

// money reads an exact amount of dollars.
func (s *source) money(n *yaml.Node, what string) usage.PicoUSD {
	if n == nil {
		return 0
	}
	amount, exact, err := pricing.Parse(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || !exact || amount <= 0 {
		s.report(n.Line, n.Column, `write an amount above 0 such as "0.05"`, "%s must be an amount of US dollars, not %q", what, n.Value)
		return 0
	}
	return amount
}
