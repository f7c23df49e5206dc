package policy

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/flyball-dev/flyball/internal/detect"
)

// How hard the facts are looked for that a rule fires on: facts at random, then walks towards what is wanted.
const (
	probeDraws = 2000
	probeWalks = 8
	probeSteps = 40
)

// probe looks for facts that reach the rules of a policy. The values that it tries are those that conditions compare
// facts with, and their neighbours; the same policy is always tried with the same ones.
type probe struct {
	*program
	random *rand.Rand
	pools  [][]reflect.Value // of each fact
	quiet  [][]reflect.Value // those of them that alone have nothing asked
	paths  map[*match][]*expression
	facts  map[*match][]int // those that its conditions depend on
	asked  func(facts reflect.Value) bool
	found  map[*match]*reach
}

// reach is what has been found of a rule.
type reach struct {
	fires   bool          // on facts that the policy is asked about
	dropped reflect.Value // it fires on these, and the policy is not asked about them; invalid: none were found
	held    bool          // its condition
	before  *match        // which fires instead, where its condition holds
}

// newProbe prepares the search. Tests of the policy are known to reach what they reach.
func newProbe(p *program, domains map[string][]string, cases []testCase) *probe {
	b := &probe{
		program: p, random: rand.New(rand.NewPCG(1, 2)), found: map[*match]*reach{},
		paths: map[*match][]*expression{}, facts: map[*match][]int{},
		asked: func(reflect.Value) bool { return true },
	}
	if p.kind.file == alertKind.file {
		b.asked = func(f reflect.Value) bool { return detect.Candidate(f.Interface().(detect.Facts)) }
	}
	b.path(p.root, nil)
	b.pool(domains)
	b.hush()
	for _, m := range p.matches {
		b.found[m] = &reach{}
	}
	for _, t := range cases {
		if m := b.fires(t.facts); m != nil {
			b.found[m].fires = b.found[m].fires || b.asked(t.facts)
		}
	}
	return b
}

// path notes the conditions that lead to each match, and the facts that those depend on.
func (b *probe) path(r *rule, above []*expression) {
	for _, m := range r.matches {
		conditions := slices.Clone(above)
		if m.condition != nil {
			conditions = append(conditions, m.condition)
		}
		if m.nested != nil {
			b.path(m.nested, conditions)
			continue
		}
		b.paths[m] = conditions
		needed := map[int]bool{}
		for _, c := range conditions {
			b.dependsOn(c.ast.Expr(), needed)
		}
		for i := range b.kind.facts.NumField() {
			if needed[i] {
				b.facts[m] = append(b.facts[m], i)
			}
		}
	}
}

// dependsOn notes the facts that an expression depends on, by way of variables too, and those that say whether they
// are known.
func (b *probe) dependsOn(e ast.Expr, needed map[int]bool) {
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.IdentKind {
			return
		}
		bound, ok := b.names[e.AsIdent()]
		switch {
		case !ok:
		case bound.variable != nil:
			if bound.variable.expr.constant == nil {
				b.dependsOn(bound.variable.expr.ast.Expr(), needed)
			}
		default:
			needed[bound.field] = true
			for _, i := range b.companions(e.AsIdent()) {
				needed[i] = true
			}
		}
	}))
}

// companions are the facts without which another is neutral: whether it is known, and the shift of which deviations
// are.
func (p *program) companions(name string) (fields []int) {
	family, _, _ := strings.Cut(name, "_")
	if family == "expected" || family == "silent" {
		family = "calls"
	}
	for other, b := range p.names {
		rest, same := strings.CutPrefix(other, family+"_")
		known := strings.HasSuffix(rest, "known")
		shift := strings.HasSuffix(name, "_sigmas") && (rest == "ratio" || rest == "rate" || family == "outcome" && rest == "baseline")
		if same && b.variable == nil && (known || shift) {
			fields = append(fields, b.field)
		}
	}
	return fields
}

// pool gathers the values to try of each fact.
func (b *probe) pool(domains map[string][]string) {
	n := b.kind.facts.NumField()
	b.pools = make([][]reflect.Value, n)
	numbers, texts := make([][]float64, n), make([][]string, n)
	for _, e := range b.expressions() {
		b.compared(e.ast.Expr(), numbers, texts)
	}
	edges := map[string][]float64{}
	if b.kind.file == alertKind.file {
		for _, e := range detect.Edges() {
			edges[e.Fact] = append(edges[e.Fact], e.At)
		}
	}
	for i := range n {
		field := b.kind.facts.Field(i)
		name := field.Tag.Get("cel")
		v := func(x any) { b.pools[i] = append(b.pools[i], reflect.ValueOf(x).Convert(field.Type)) }
		v(b.kind.neutral.Field(i).Interface())
		switch field.Type.Kind() {
		case reflect.Bool:
			v(true)
			if strings.HasSuffix(name, "_known") { // what is not known is tried less often
				v(true)
				v(true)
			}
		case reflect.String:
			v("x")
			known := domains[name]
			if known == nil {
				known = texts[i]
			}
			for _, text := range known {
				v(text)
			}
		case reflect.Int64:
			for _, x := range append(numbers[i], append(edges[name], 0, 1, 60)...) {
				for _, near := range []float64{x - 1, x, x + 1, 2 * x} {
					v(int64(near))
				}
			}
		default:
			for _, x := range append(numbers[i], append(edges[name], 0.1, 1, 6)...) {
				for _, near := range []float64{0.5, 0.99, 1, 1.01, 1.5} {
					v(x * near)
				}
			}
		}
	}
}

// expressions are the conditions and variables that are not constant.
func (p *program) expressions() (all []*expression) {
	for _, v := range p.vars {
		if v.expr.constant == nil {
			all = append(all, v.expr)
		}
	}
	var walk func(r *rule)
	walk = func(r *rule) {
		for _, m := range r.matches {
			if m.condition != nil {
				all = append(all, m.condition)
			}
			if m.nested != nil {
				walk(m.nested)
			}
		}
	}
	walk(p.root)
	return all
}

// compared notes with which literals facts are compared: those within one operand of a logical operator.
func (b *probe) compared(e ast.Expr, numbers [][]float64, texts [][]string) {
	if e.Kind() == ast.CallKind {
		switch call := e.AsCall(); call.FunctionName() {
		case operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot, operators.Conditional:
			for _, operand := range call.Args() {
				b.compared(operand, numbers, texts)
			}
			return
		}
	}
	facts := map[int]bool{}
	b.dependsOn(e, facts)
	b.literals(e, func(_ ast.Expr, v ref.Val) {
		x, isNumber := asNumber(v)
		text, isText := v.(types.String)
		for i := range facts {
			switch {
			case isNumber:
				numbers[i] = append(numbers[i], x)
			case isText:
				texts[i] = append(texts[i], string(text))
			}
		}
	})
}

// literals visits the literals of an expression, and those of the constants that it mentions.
func (p *program) literals(e ast.Expr, visit func(ast.Expr, ref.Val)) {
	ast.PreOrderVisit(e, ast.NewExprVisitor(func(e ast.Expr) {
		switch e.Kind() {
		case ast.LiteralKind:
			visit(e, e.AsLiteral())
		case ast.IdentKind:
			if b := p.names[e.AsIdent()]; b.variable != nil && b.variable.expr.constant != nil {
				visit(e, b.variable.expr.constant)
			}
		}
	}))
}

// fires is the match that fires on the facts; nil when the evaluation fails.
func (b *probe) fires(facts reflect.Value) *match {
	m, err := b.root.first(b.frame(facts))
	if err != nil {
		return nil
	}
	return m
}

func (p *program) frame(facts reflect.Value) *frame {
	return &frame{program: p, facts: facts, variables: make([]ref.Val, len(p.vars))}
}

// holds reports whether all conditions hold that lead to the match.
func (b *probe) holds(m *match, facts reflect.Value) bool {
	f := b.frame(facts)
	for _, c := range b.paths[m] {
		if v, err := c.eval(f); err != nil || v != types.True {
			return false
		}
	}
	return true
}

// settle makes facts possible.
func (b *probe) settle(facts reflect.Value) {
	if f, is := facts.Interface().(detect.Facts); is {
		facts.Set(reflect.ValueOf(f.Possible()))
	}
}

// run looks for facts for every rule.
func (b *probe) run() {
	for i, m := range b.matches {
		others := map[int]bool{}
		for _, earlier := range b.matches[:i] {
			for _, f := range b.facts[earlier] {
				others[f] = true
			}
		}
		for draw := range probeDraws {
			if b.settled(m) {
				break
			}
			facts := b.draw(m, b.pools)
			if draw%3 == 0 {
				facts = b.draw(m, b.quiet)
			}
			for f := range b.pools {
				if draw%2 == 1 && others[f] && b.random.IntN(5) == 0 {
					facts.Field(f).Set(b.value(b.pools[f]))
				}
			}
			b.settle(facts)
			b.note(m, facts)
		}
		for walk := 0; walk < probeWalks && !b.settled(m); walk++ {
			b.walk(m)
		}
	}
}

// settled reports whether there is nothing more to learn of the rule: that it fires, and that it is not always asked
// about, unless every fact is.
func (b *probe) settled(m *match) bool {
	r := b.found[m]
	return r.fires && (r.dropped.IsValid() || !b.mayAlarm(m))
}

// draw takes the facts that the rule depends on at random.
func (b *probe) draw(m *match, pools [][]reflect.Value) reflect.Value {
	facts := b.kind.neutralFacts()
	for _, i := range b.facts[m] {
		facts.Field(i).Set(b.value(pools[i]))
	}
	return facts
}

func (b *probe) value(pool []reflect.Value) reflect.Value { return pool[b.random.IntN(len(pool))] }

// hush keeps of every pool the values that alone do not have the policy asked.
func (b *probe) hush() {
	b.quiet = make([][]reflect.Value, len(b.pools))
	for i, pool := range b.pools {
		for _, v := range pool {
			facts := b.kind.neutralFacts()
			for known := range b.pools {
				if k := facts.Field(known); k.Kind() == reflect.Bool {
					k.SetBool(true)
				}
			}
			facts.Field(i).Set(v)
			if b.settle(facts); !b.asked(facts) {
				b.quiet[i] = append(b.quiet[i], v)
			}
		}
		if len(b.quiet[i]) == 0 {
			b.quiet[i] = pool
		}
	}
}

// walk changes one fact after the other as long as the conditions come nearer to holding: to find what fires the rule
// or, where that is known, what does so without being asked about.
func (b *probe) walk(m *match) {
	pools := b.pools
	if b.found[m].fires {
		pools = b.quiet
	}
	facts := b.draw(m, pools)
	b.settle(facts)
	best := b.missing(m, facts)
	for range probeSteps {
		if len(b.facts[m]) == 0 || best == 0 {
			return
		}
		next := reflect.New(b.kind.facts).Elem()
		next.Set(facts)
		i := b.facts[m][b.random.IntN(len(b.facts[m]))]
		next.Field(i).Set(b.value(pools[i]))
		b.settle(next)
		if b.found[m].fires && b.asked(next) {
			continue
		}
		b.note(m, next)
		if d := b.missing(m, next); d <= best {
			facts, best = next, d
		}
	}
}

// missing is how far the conditions are from holding: parts that no number brings about count one each.
func (b *probe) missing(m *match, facts reflect.Value) (sum float64) {
	f := b.frame(facts)
	for _, c := range b.paths[m] {
		sum += c.explain(f).missing(true)
	}
	return sum
}

// missing sums up what has to change for the part to have the value wanted, each part at most one.
func (p Part) missing(want bool) float64 {
	if p.Value == fmt.Sprint(want) {
		return 0
	}
	switch {
	case p.Op == "not":
		return p.Parts[0].missing(!want)
	case len(p.Parts) == 0:
		return min(p.far, 1)
	}
	sum, least := 0.0, math.Inf(1)
	for _, q := range p.Parts {
		d := q.missing(want)
		sum, least = sum+d, min(least, d)
	}
	if len(p.Parts) > 1 && want == (p.Op == "or") {
		return least
	}
	return sum
}

// note learns from facts what fires on them.
func (b *probe) note(m *match, facts reflect.Value) {
	fired := b.fires(facts)
	if fired == nil {
		return
	}
	if fired != m && !b.found[m].held && b.holds(m, facts) {
		b.found[m].held, b.found[m].before = true, fired
	}
	r := b.found[fired]
	r.held = true
	switch {
	case b.asked(facts):
		r.fires = true
	case !r.dropped.IsValid() && b.alarms(facts):
		r.dropped = b.shrink(fired, facts)
	case !b.alarms(facts):
		r.fires = true // it says what is taken for granted of keys that are not asked about
	}
}

// alarms reports whether the policy says something of the facts that somebody should hear.
func (b *probe) alarms(facts reflect.Value) bool {
	if b.kind.file != alertKind.file {
		return false
	}
	_, out, err := b.program.run(facts)
	return err == nil && alarming(out)
}

// mayAlarm reports whether the match can do so.
func (b *probe) mayAlarm(m *match) bool {
	level := fieldByTag(b.kind.output, "json", "level")
	return b.kind.file == alertKind.file &&
		(alarming(m.output) || slices.ContainsFunc(m.computed, func(a assignment) bool { return a.field == level }))
}

func alarming(output reflect.Value) bool {
	level := output.Interface().(detect.Verdict).Level
	return level == detect.Page || level == detect.Investigate
}

// shrink makes every fact neutral that the match does not need to fire unasked.
func (b *probe) shrink(m *match, facts reflect.Value) reflect.Value {
	small := reflect.New(b.kind.facts).Elem()
	small.Set(facts)
	for i := range b.pools {
		before := reflect.ValueOf(small.Field(i).Interface())
		small.Field(i).Set(b.kind.neutral.Field(i))
		if b.fires(small) != m || b.asked(small) || !b.alarms(small) {
			small.Field(i).Set(before)
		}
	}
	return small
}

// example writes facts as flyball policy explain --facts reads them.
func (k kind) example(facts reflect.Value) string {
	var set []string
	for _, f := range k.describe(facts) {
		if !f.Neutral {
			set = append(set, f.Name+": "+f.String())
		}
	}
	return "{" + strings.Join(set, ", ") + "}"
}
