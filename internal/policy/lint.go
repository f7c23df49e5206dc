package policy

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/flyball-dev/flyball/internal/detect"
)

// WarningKind says what a warning is of.
type WarningKind string

// The kinds of warnings.
const (
	NotAsked     WarningKind = "not-asked"     // a rule holds of facts that are never put to the policy
	Unreachable  WarningKind = "unreachable"   // no facts tried reach the rule
	Untested     WarningKind = "untested"      // no test reaches it, or there are none
	UnknownValue WarningKind = "unknown-value" // a fact is compared with what it never is
	UnknownModel WarningKind = "unknown-model" // a model has no tier
	UnknownGroup WarningKind = "unknown-group" // approvers that no configuration names
)

// Warning is something that compiles and is still not as it should be.
type Warning struct {
	Kind WarningKind
	Problem
}

// domains are the facts with few values.
func (s *Set) domains() map[string]map[string][]string {
	levels := alertKind.values["level"]
	var rules []string
	for _, m := range s.alert.matches {
		rules = append(rules, m.id)
	}
	return map[string]map[string][]string{
		alertKind.file:    {"active": {string(detect.None), string(detect.Investigate), string(detect.Page)}},
		actKind.file:      {"tenant_class": classes, "risk_class": risks, "level": levels, "alert_rule": rules},
		samplingKind.file: {"tenant_class": classes},
	}
}

// Lint warns of what compiles and does not do what it seems to. Groups are the groups of approvers that are configured;
// nil: not known. It evaluates each rule some thousand times.
func (s *Set) Lint(groups []string) []Warning {
	l := &linter{set: s, domains: s.domains(), groups: groups}
	for _, suite := range s.suites {
		l.policy(suite)
	}
	slices.SortStableFunc(l.found, func(a, b Warning) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return l.found
}

type linter struct {
	set     *Set
	domains map[string]map[string][]string
	groups  []string
	told    []string // groups that are unknown, each with the first rule that asks it
	found   []Warning
}

func (l *linter) warn(kind WarningKind, p Problem) { l.found = append(l.found, Warning{kind, p}) }

func (l *linter) policy(s *suite) {
	p := s.program
	l.tests(s)
	for _, e := range p.expressions() {
		l.values(p, e)
	}
	for _, m := range p.matches {
		l.output(p, m)
	}
	b := newProbe(p, l.domains[p.kind.file], s.cases)
	b.run()
	for _, m := range p.matches {
		l.reach(b, m)
	}
}

func (l *linter) tests(s *suite) {
	file := s.program.kind.file
	if len(s.cases) == 0 {
		l.warn(Untested, Problem{File: file, Message: "there are no tests: nothing would tell that a change broke it", Mend: "write " + testFile(file)})
		return
	}
	coverage, _ := s.run()
	for _, p := range coverage.Uncovered {
		l.warn(Untested, p)
	}
}

// reach warns of rules that cannot do what they are there for.
func (l *linter) reach(b *probe, m *match) {
	r := b.found[m]
	line, col := m.line, m.col
	if m.condition != nil {
		line, col = m.condition.line, m.condition.col
	}
	switch {
	case r.dropped.IsValid():
		often := "does not fire on all that it holds for"
		if !r.fires {
			often = "never fires"
		}
		l.warn(NotAsked, m.src.at(line, col,
			fmt.Sprintf("the rule %q %s: of a key with %s nothing is asked unless an alert is open", m.id, often, b.kind.example(r.dropped)),
			"let it begin where keys are asked about: "+edgesOf(b, m)))
	case r.fires:
	case r.held:
		before := r.before.src.at(r.before.line, r.before.col, "", "")
		l.warn(Unreachable, m.src.at(line, col, fmt.Sprintf("no facts tried reach the rule %q: where it holds, %q fires before it (%s:%d)", m.id, r.before.id, before.File, before.Line),
			fmt.Sprintf("put it above %q, or drop it", r.before.id)))
	default:
		l.warn(Unreachable, m.src.at(line, col, fmt.Sprintf("no facts tried make the condition of the rule %q hold", m.id),
			"look for parts of it that exclude each other, or for a value that a fact never has"))
	}
}

// edgesOf says from where on keys are asked about, by the facts that the rule depends on.
func edgesOf(b *probe, m *match) string {
	var which []string
	for _, edge := range detect.Edges() {
		if slices.Contains(b.facts[m], fieldByTag(b.kind.facts, "cel", edge.Fact)) {
			which = append(which, edge.String())
		}
	}
	if len(which) == 0 {
		return "none of its facts has a key asked about (docs/policies.md names those that do)"
	}
	return strings.Join(which, ", ") + " (docs/policies.md)"
}

// values warns of literals that a fact is compared with and never is.
func (l *linter) values(p *program, e *expression) {
	ast.PreOrderVisit(e.ast.Expr(), ast.NewExprVisitor(func(x ast.Expr) {
		if x.Kind() != ast.CallKind {
			return
		}
		call := x.AsCall()
		switch call.FunctionName() {
		case operators.Equals, operators.NotEquals, operators.In:
		default:
			return
		}
		name := ""
		for _, side := range call.Args() {
			if side.Kind() == ast.IdentKind && p.names[side.AsIdent()].variable == nil {
				name = side.AsIdent()
			}
		}
		for _, side := range call.Args() {
			p.literals(side, func(at ast.Expr, v ref.Val) {
				if text, ok := v.(types.String); ok && text != "" {
					l.value(p, e, at, name, string(text))
				}
			})
		}
	}))
}

func (l *linter) value(p *program, e *expression, at ast.Expr, name, text string) {
	line, col := position(e.info, at.ID())
	if known, limited := l.domains[p.kind.file][name]; limited && !slices.Contains(known, text) {
		mend := "it is one of " + strings.Join(known, ", ")
		if n := nearest(text, known); n != "" {
			mend = "did you mean " + n + "?"
		}
		l.warn(UnknownValue, e.src.at(line, col, fmt.Sprintf("%s is never %q", name, text), mend))
	}
	switch name {
	case "model", "target_model", "upgrade_model":
		l.model(e.src, line, col, text)
	}
}

func (l *linter) model(src *source, line, col int, name string) {
	if _, known := l.set.tradeoff.Tier(name); known || name == "*" || name == "" {
		return
	}
	var models []string
	for _, t := range l.set.tradeoff.Tiers {
		models = append(models, t.Model)
	}
	mend := "give it a tier in " + tradeoffFile
	if n := nearest(name, models); n != "" {
		mend += ", or did you mean " + n + "?"
	}
	l.warn(UnknownModel, src.at(line, col, fmt.Sprintf("the model %q has no tier", name), mend))
}

// output warns of models and approvers in the output of a match that nothing else knows.
func (l *linter) output(p *program, m *match) {
	if p.kind.file != actKind.file {
		return
	}
	said := m.output.Interface().(Proposal)
	if said.Action != Rollback {
		l.model(m.src, m.line, m.col, said.Target)
	}
	if l.groups == nil {
		return
	}
	groups := map[string]bool{}
	for _, g := range said.Approvers {
		groups[g] = true
	}
	for _, a := range m.computed {
		if a.field == fieldByTag(reflect.TypeFor[Proposal](), "json", "approvers") {
			p.spelled(a.expr, groups)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(groups)) {
		if !slices.Contains(l.groups, g) && !slices.Contains(l.told, g) {
			l.told = append(l.told, g)
			l.warn(UnknownGroup, m.src.at(m.line, m.col, fmt.Sprintf("the rule %q asks the group %q, which is not configured", m.id, g),
				"add notify.approvers."+g+"; there are "+cmp.Or(strings.Join(l.groups, ", "), "none")))
		}
	}
}

// spelled gathers the texts that an expression can consist of, by way of variables too; what is compared is not among
// them.
func (p *program) spelled(e *expression, found map[string]bool) {
	var visit func(x ast.Expr)
	visit = func(x ast.Expr) {
		switch x.Kind() {
		case ast.LiteralKind:
			if text, ok := x.AsLiteral().(types.String); ok {
				found[string(text)] = true
			}
		case ast.ListKind:
			for _, item := range x.AsList().Elements() {
				visit(item)
			}
		case ast.IdentKind:
			if b := p.names[x.AsIdent()]; b.variable != nil && b.variable.expr.ast != nil {
				visit(b.variable.expr.ast.Expr())
			}
		case ast.CallKind:
			args := x.AsCall().Args()
			if x.AsCall().FunctionName() == operators.Conditional {
				args = args[1:]
			}
			for _, a := range args {
				visit(a)
			}
		}
	}
	if e.ast != nil {
		visit(e.ast.Expr())
	}
}
