package policy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"
	celpolicy "github.com/google/cel-go/policy"
)

// costLimit bounds every single expression, in CEL's cost units (about one per operation). It is
// proved when a set is loaded, for facts of the greatest size, and those sizes are checked at every
// evaluation: counting the cost as it arises would make each evaluation five times as slow. The
// dearest shipped expression needs about a thousand.
const costLimit = 10_000

// maxText is the greatest size of a fact that is a text, in bytes.
const maxText = 1024

// kind is one kind of policy: which facts it sees and what it must answer.
type kind struct {
	file     string
	facts    reflect.Type        // a struct; its cel tags are the variables
	neutral  reflect.Value       // facts of which nothing is known
	output   reflect.Type        // a struct; its json tags are the fields
	required []string            // the fields that every output sets
	values   map[string][]string // what a text field may hold
}

// program is a compiled policy. It is immutable and safe for concurrent use.
type program struct {
	kind    kind
	env     *cel.Env
	root    *rule
	texts   []int              // the facts that are texts
	names   map[string]binding // what expressions can refer to
	vars    []*variable        // in the order of the file
	matches []*match           // those with an output, in the order of the file
}

// binding says where a name's value comes from: a field of the facts, or a variable of the policy.
type binding struct {
	field    int
	variable *variable
}

type variable struct {
	name  string
	index int
	expr  *expression
}

type rule struct{ matches []*match }

type match struct {
	id        string
	src       *source
	line, col int
	condition *expression // nil: always
	nested    *rule       // nil: this match has an output
	output    reflect.Value
	computed  []assignment // the fields of output that are not constant
}

type assignment struct {
	field   int
	allowed []string // what a text may be; empty: anything
	expr    *expression
}

// compiler turns one source into a program.
type compiler struct {
	kind kind
	src  *source
	env  *cel.Env
	info *ast.SourceInfo
	out  *program
	ids  map[string]int // rule id → line
}

// compile compiles a policy; problems are noted in src, and then the program is nil.
func compile(k kind, src *source) *program {
	root := src.parse()
	if root == nil {
		return nil
	}
	if src.structure(root); len(src.problems) > 0 {
		return nil
	}
	c := &compiler{kind: k, src: src, ids: map[string]int{}, out: &program{kind: k, names: map[string]binding{}}}
	c.policy()
	if len(src.problems) > 0 {
		return nil
	}
	return c.out
}

// policy runs cel-go's parser and compiler. Their panics become problems: a file that a person wrote
// must never bring the process down.
func (c *compiler) policy() {
	defer func() {
		if r := recover(); r != nil {
			c.src.report(1, 1, "take the last change back and make it in smaller steps", "the compiler failed: %v", r)
		}
	}()
	var err error
	if c.env, err = c.environment(); err != nil {
		c.src.report(1, 1, "", "prepare the environment: %v", err)
		return
	}
	c.out.env = c.env
	parser, err := celpolicy.NewParser()
	if err != nil {
		c.src.report(1, 1, "", "prepare the parser: %v", err)
		return
	}
	parsed, issues := parser.Parse(celpolicy.StringSource(c.src.text, c.src.name))
	if c.issues(issues) {
		return
	}
	c.info = parsed.SourceInfo()
	compiled, issues := celpolicy.CompileRule(c.env, parsed)
	if c.issues(issues) {
		return
	}
	c.out.root = c.rule(parsed.Rule(), compiled)
	if compiled.HasOptionalOutput() {
		c.gap(parsed.Rule(), compiled)
	}
}

// gap reports the rule that can end without an answer: the last rule reached, or a nested one behind a
// condition, whose silence would be the answer (only an unconditional one falls through to the next).
func (c *compiler) gap(parsed *celpolicy.Rule, compiled *celpolicy.CompiledRule) {
	for i, m := range compiled.Matches() {
		nested := m.NestedRule()
		if nested != nil && nested.HasOptionalOutput() && !m.ConditionIsLiteral(types.True) {
			c.gap(parsed.Matches()[i].Rule(), nested)
			return
		}
	}
	last := parsed.Matches()[len(parsed.Matches())-1]
	line, col := c.place(last.SourceID())
	c.src.report(line, col, "end with a match that has no condition", "nothing is said when no condition of this rule holds")
}

// environment declares what expressions can see: the facts, the output's type, the functions.
func (c *compiler) environment() (*cel.Env, error) {
	options := []cel.EnvOption{
		ext.NativeTypes(c.kind.output, ext.ParseStructTag("json")),
		cel.EagerlyValidateDeclarations(true),
	}
	options = append(options, functions()...)
	for i := range c.kind.facts.NumField() {
		field := c.kind.facts.Field(i)
		name := field.Tag.Get("cel")
		t, err := celType(field.Type)
		if err != nil {
			return nil, fmt.Errorf("fact %s: %w", name, err)
		}
		c.out.names[name] = binding{field: i}
		if field.Type.Kind() == reflect.String {
			c.out.texts = append(c.out.texts, i)
		}
		options = append(options, cel.Variable(name, t))
	}
	return cel.NewEnv(options...)
}

func celType(t reflect.Type) (*cel.Type, error) {
	switch t.Kind() {
	case reflect.Bool:
		return cel.BoolType, nil
	case reflect.Int64:
		return cel.IntType, nil
	case reflect.Float64:
		return cel.DoubleType, nil
	case reflect.String:
		return cel.StringType, nil
	}
	return nil, fmt.Errorf("%v has no CEL type here", t)
}

// rule takes over a compiled rule beside its parsed form, which knows the positions.
func (c *compiler) rule(parsed *celpolicy.Rule, compiled *celpolicy.CompiledRule) *rule {
	for i, v := range compiled.Variables() {
		expr := c.expression(v.Expr(), parsed.Variables()[i].Expression())
		declared := &variable{name: "variables." + v.Name(), index: len(c.out.vars), expr: expr}
		c.out.names[declared.name] = binding{variable: declared}
		c.out.vars = append(c.out.vars, declared)
	}
	r := &rule{}
	for i, m := range compiled.Matches() {
		r.matches = append(r.matches, c.match(parsed.Matches()[i], m))
	}
	return r
}

func (c *compiler) match(parsed *celpolicy.Match, compiled *celpolicy.CompiledMatch) *match {
	m := &match{src: c.src}
	m.line, m.col = c.place(parsed.SourceID())
	if t := compiled.Condition().OutputType(); !t.IsExactType(cel.BoolType) {
		line, col := c.place(parsed.Condition().ID)
		c.src.report(line, col, "compare it with something, so that it is true or false", "the condition is %s, not bool", t)
	}
	if !compiled.ConditionIsLiteral(types.True) {
		m.condition = c.expression(compiled.Condition(), parsed.Condition())
	}
	if parsed.HasRule() {
		m.nested = c.rule(parsed.Rule(), compiled.NestedRule())
		return m
	}
	c.out.matches = append(c.out.matches, m)
	c.output(m, parsed.Output(), compiled.Output().Expr())
	return m
}

// output takes the output's fields apart. Constant ones are set once and for all; only the others
// are evaluated, straight into the Go struct.
func (c *compiler) output(m *match, text celpolicy.ValueString, checked *cel.Ast) {
	line, col := c.place(text.ID)
	typeName := c.kind.output.String()
	expr := checked.NativeRep().Expr()
	if expr.Kind() != ast.StructKind || checked.OutputType().TypeName() != typeName {
		c.src.report(line, col, fmt.Sprintf("write %s{…}; where it depends on something, write two matches", typeName),
			"the output must be a %s", typeName)
		return
	}
	m.output = reflect.New(c.kind.output).Elem()
	set := map[string]bool{}
	for _, entry := range expr.AsStruct().Fields() {
		field := entry.AsStructField()
		set[field.Name()] = true
		c.outputField(m, field.Name(), field.Value(), checked)
	}
	c.constant(m, line, col)
	for _, name := range c.kind.required {
		if !set[name] {
			c.src.report(line, col, fmt.Sprintf("add %s: …", name), "the output does not set %s", name)
		}
	}
}

// constant checks an output that depends on no fact when the set is loaded, not when it is used.
func (c *compiler) constant(m *match, line, col int) {
	checked, can := m.output.Interface().(consistent)
	if !can || len(m.computed) > 0 {
		return
	}
	if err := checked.check(); err != nil {
		c.src.report(line, col, "", "%v", err)
	}
}

func (c *compiler) outputField(m *match, name string, value ast.Expr, checked *cel.Ast) {
	index := fieldByTag(c.kind.output, "json", name)
	line, col := c.within(checked, value.ID())
	if name == "rule" {
		c.ruleID(m, value, line, col)
	}
	c.checkValues(name, value, checked)
	part := ast.NewCheckedAST(ast.NewAST(value, checked.NativeRep().SourceInfo()), checked.NativeRep().TypeMap(), checked.NativeRep().ReferenceMap())
	e := c.plan(part, line, col)
	if e.constant == nil {
		m.computed = append(m.computed, assignment{index, c.kind.values[name], e})
		return
	}
	if err := assign(m.output.Field(index), e.constant); err != nil { // the checker lets no other type pass
		c.src.report(line, col, "", "set %s: %v", name, err)
	}
}

// ruleID wants a name for every output, so that each decision can say which rule it came from.
func (c *compiler) ruleID(m *match, value ast.Expr, line, col int) {
	id, ok := types.String(""), value.Kind() == ast.LiteralKind
	if ok {
		id, ok = value.AsLiteral().(types.String)
	}
	if !ok || id == "" {
		c.src.report(line, col, `name it, as in rule: "page-severe-quality"`, "the rule must be a text that is not empty")
		return
	}
	m.id = string(id)
	if first, twice := c.ids[m.id]; twice {
		c.src.report(line, col, "give each output its own", "rule %q is named twice (first in line %d)", m.id, first)
	}
	c.ids[m.id] = line
}

// checkValues refuses literals that the field may not hold, in the arms of conditionals too.
func (c *compiler) checkValues(name string, value ast.Expr, checked *cel.Ast) {
	allowed, limited := c.kind.values[name]
	if !limited {
		return
	}
	switch value.Kind() {
	case ast.LiteralKind:
		if text, ok := value.AsLiteral().(types.String); ok && !slices.Contains(allowed, string(text)) {
			line, col := c.within(checked, value.ID())
			c.src.report(line, col, "write one of "+strings.Join(allowed, ", "), "%s cannot be %q", name, string(text))
		}
	case ast.CallKind:
		if call := value.AsCall(); call.FunctionName() == "_?_:_" {
			c.checkValues(name, call.Args()[1], checked)
			c.checkValues(name, call.Args()[2], checked)
		}
	}
}

func fieldByTag(t reflect.Type, tag, name string) int {
	for i := range t.NumField() {
		if got, _, _ := strings.Cut(t.Field(i).Tag.Get(tag), ","); got == name {
			return i
		}
	}
	return -1
}

// expression plans a whole expression of the file.
func (c *compiler) expression(checked *cel.Ast, text celpolicy.ValueString) *expression {
	line, col := c.place(text.ID)
	e := c.plan(checked.NativeRep(), line, col)
	e.text = strings.TrimSpace(text.Value)
	return e
}

// plan makes a checked expression runnable and bounds its cost.
func (c *compiler) plan(part *ast.AST, line, col int) *expression {
	e := &expression{src: c.src, ast: part, info: part.SourceInfo(), line: line, col: col}
	if part.Expr().Kind() == ast.LiteralKind {
		e.constant = part.Expr().AsLiteral()
		return e
	}
	estimate, err := checker.Cost(part, sizes{})
	if err != nil {
		c.src.report(line, col, "", "estimate the cost: %v", err)
		return e
	}
	if estimate.Max > costLimit {
		c.src.report(line, col, "make it simpler: fewer nested loops over lists and texts",
			"the expression may cost %d, more than %d", estimate.Max, costLimit)
		return e
	}
	e.tracked = sync.OnceValues(func() (cel.Program, error) { return c.env.PlanProgram(part, cel.EvalOptions(cel.OptExhaustiveEval)) })
	e.program, err = c.env.PlanProgram(c.folded(part), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		c.src.report(line, col, "", "plan the expression: %v", err)
	}
	return e
}

// folded is the expression with the constants that it mentions in the place of their names: looking a name up takes as
// long as comparing what it stands for.
func (c *compiler) folded(part *ast.AST) *ast.AST {
	part = ast.Copy(part)
	factory := ast.NewExprFactory()
	ast.PostOrderVisit(part.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() != ast.IdentKind {
			return
		}
		if b := c.out.names[e.AsIdent()]; b.variable != nil && b.variable.expr.constant != nil {
			e.SetKindCase(factory.NewLiteral(e.ID(), b.variable.expr.constant))
		}
	}))
	return part
}

// sizes tells the cost estimate how large facts, and texts made of them, can be.
type sizes struct{}

func (sizes) EstimateSize(checker.AstNode) *checker.SizeEstimate {
	return &checker.SizeEstimate{Max: maxText}
}

func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}

// issues notes what cel-go found, each with its mend where the message tells it.
func (c *compiler) issues(found *cel.Issues) bool {
	if found == nil || found.Err() == nil {
		return false
	}
	for _, e := range found.Errors() {
		line, col := e.Location.Line(), e.Location.Column()+1
		c.src.report(line, col, c.mend(e.Message), "%s", strings.TrimSpace(strings.TrimSuffix(e.Message, " (in container '')")))
	}
	return true
}

// mend says what to do about a message of cel-go's.
func (c *compiler) mend(message string) string {
	quoted := ""
	if parts := strings.SplitN(message, "'", 3); len(parts) == 3 {
		quoted = parts[1]
	}
	switch {
	case strings.HasPrefix(message, "undeclared reference"):
		var names []string
		for name := range c.out.names {
			names = append(names, name)
		}
		slices.Sort(names)
		if n := nearest(quoted, names); n != "" {
			return "did you mean " + n + "?"
		}
		return "use a fact, or declare it above as a variable and write variables." + quoted
	case strings.HasPrefix(message, "undefined field"):
		return "the fields are " + strings.Join(tags(c.kind.output, "json"), ", ")
	case strings.Contains(message, "no matching overload") && strings.Contains(message, "double") && strings.Contains(message, "int"):
		return "write numbers that are compared with decimals with a decimal point: 2.0, not 2"
	case strings.Contains(message, "no matching overload"):
		return "make the types on both sides agree"
	case strings.Contains(message, "Syntax error"):
		return "look for a missing quote, bracket or operator"
	case strings.Contains(message, "incompatible output types"):
		return "let every match answer with " + c.kind.output.String() + "{…}"
	case strings.Contains(message, "unreachable"):
		return "put the match without a condition last"
	}
	return ""
}

// place is where the policy's element with the id begins.
func (c *compiler) place(id int64) (line, col int) { return position(c.info, id) }

// within is where a part of an expression begins.
func (c *compiler) within(whole *cel.Ast, id int64) (line, col int) {
	return position(whole.NativeRep().SourceInfo(), id)
}

// position is where the node with the id begins in the file, from 1; it is the file's beginning for
// nodes that have no place in it.
func position(info *ast.SourceInfo, id int64) (line, col int) {
	l := info.GetStartLocation(id)
	if l.Line() < 1 || l.Column() < 0 {
		return 1, 1
	}
	return l.Line(), l.Column() + 1
}
