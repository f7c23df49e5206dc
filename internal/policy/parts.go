package policy

import (
	"math"
	"strconv"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// Part is a part of a condition with its value: a comparison, or what joins several of them. All of them are
// evaluated, also those that could not change the answer any more.
type Part struct {
	Text  string  `json:"text"`  // with the values of its sides: cost_ratio (1.32) > variables.cost_breach (1.5)
	Value string  `json:"value"` // true, false, or the error
	Line  int     `json:"line"`
	Col   int     `json:"col"`
	Op    string  `json:"op,omitempty"`    // and, or, not: what joins the parts
	Parts []Part  `json:"parts,omitempty"` // of a variable, those of its expression
	Short float64 `json:"short,omitempty"` // of a comparison of two numbers that does not hold: how far they are apart

	far float64 // how far from its opposite, as a share of the larger side; infinite when no number decides it
}

func (p Part) holds() bool { return p.Value == "true" }

// distance is how far the part is from the value wanted, as a share of the numbers that it compares; infinite when
// something else than a number would have to change.
func (p Part) distance(want bool) float64 {
	if p.Value == strconv.FormatBool(want) {
		return 0
	}
	one := want == (p.Op == "or") // one part that changes is enough
	switch {
	case p.Op == "not":
		return p.Parts[0].distance(!want)
	case len(p.Parts) == 0:
		return p.far
	case len(p.Parts) == 1:
		return p.Parts[0].distance(want)
	}
	d := 0.0
	if one {
		d = math.Inf(1)
	}
	for _, q := range p.Parts {
		if one {
			d = min(d, q.distance(want))
		} else {
			d = max(d, q.distance(want))
		}
	}
	return d
}

// Numeric reports whether numbers alone keep the part from holding.
func (p Part) Numeric() bool { return !math.IsInf(p.distance(true), 0) }

// comparisons are the operators that a person reads a < b of.
var comparisons = map[string]string{
	operators.Greater: ">", operators.GreaterEquals: ">=", operators.Less: "<", operators.LessEquals: "<=",
	operators.Equals: "==", operators.NotEquals: "!=", operators.In: "in",
}

// explainer takes the expressions of one evaluation apart.
type explainer struct {
	frame *frame
	expr  *expression
	state interpreter.EvalState
}

// explain evaluates every part of a condition.
func (e *expression) explain(f *frame) Part {
	if e.constant != nil {
		return Part{Text: e.text, Value: show(e.constant), Line: e.line, Col: e.col, far: math.Inf(1)}
	}
	program, err := e.tracked()
	if err != nil { // what was planned without tracking is planned with it
		return Part{Text: e.text, Value: err.Error(), Line: e.line, Col: e.col, far: math.Inf(1)}
	}
	_, details, _ := program.Eval(f) // the error is the value of the part that failed
	return explainer{f, e, details.State()}.part(e.ast.Expr())
}

func (x explainer) part(e ast.Expr) Part {
	p := Part{Text: x.text(e), Value: x.value(e), far: math.Inf(1)}
	p.Line, p.Col = position(x.expr.info, e.ID())
	switch e.Kind() {
	case ast.IdentKind:
		// A bool that is a variable says nothing by itself.
		if b := x.frame.program.names[e.AsIdent()]; b.variable != nil && b.variable.expr.constant == nil {
			inner := b.variable.expr.explain(x.frame)
			if p.Parts = []Part{inner}; inner.Op == "and" || inner.Op == "or" {
				p.Op, p.Parts = inner.Op, inner.Parts
			}
		}
	case ast.CallKind:
		x.call(&p, e)
	}
	return p
}

func (x explainer) call(p *Part, e ast.Expr) {
	call := e.AsCall()
	switch name := call.FunctionName(); name {
	case operators.LogicalAnd, operators.LogicalOr:
		p.Op = map[string]string{operators.LogicalAnd: "and", operators.LogicalOr: "or"}[name]
		for _, operand := range flat(e, name) {
			p.Parts = append(p.Parts, x.part(operand))
		}
	case operators.LogicalNot:
		p.Op, p.Parts = "not", []Part{x.part(call.Args()[0])}
	default:
		if operator, ok := comparisons[name]; ok {
			x.comparison(p, operator, call.Args()[0], call.Args()[1])
		}
	}
}

// flat are the operands of a chain of one operator, however it was parsed.
func flat(e ast.Expr, name string) []ast.Expr {
	if e.Kind() != ast.CallKind || e.AsCall().FunctionName() != name {
		return []ast.Expr{e}
	}
	var all []ast.Expr
	for _, operand := range e.AsCall().Args() {
		all = append(all, flat(operand, name)...)
	}
	return all
}

func (x explainer) comparison(p *Part, operator string, left, right ast.Expr) {
	a, aKnown := x.state.Value(left.ID())
	b, bKnown := x.state.Value(right.ID())
	m, mIs := asNumber(a)
	n, nIs := asNumber(b)
	digits := 4
	for mIs && nIs && m != n && digits < 17 && digitsOf(m, digits) == digitsOf(n, digits) {
		digits++
	}
	side := func(e ast.Expr, v ref.Val, known bool) string {
		text := x.text(e)
		if !known || e.Kind() == ast.LiteralKind || e.Kind() == ast.ListKind {
			return text
		}
		if number, is := asNumber(v); is {
			return text + " (" + digitsOf(number, digits) + ")"
		}
		return text + " (" + show(v) + ")"
	}
	p.Text = side(left, a, aKnown) + " " + operator + " " + side(right, b, bKnown)
	if mIs && nIs {
		p.far = max(math.Abs(m-n)/max(math.Abs(m), math.Abs(n), 1e-9), 1e-9) // on the very edge it is not over it
		if !p.holds() {
			p.Short = math.Abs(m - n)
		}
	}
}

// text is the expression as CEL writes it, on one line.
func (x explainer) text(e ast.Expr) string {
	text, err := cel.ExprToString(e, x.expr.info)
	if err != nil { // every expression that was parsed can be written
		return x.expr.text
	}
	return strings.Join(strings.Fields(text), " ")
}

func (x explainer) value(e ast.Expr) string {
	if e.Kind() == ast.LiteralKind {
		return show(e.AsLiteral())
	}
	if v, ok := x.state.Value(e.ID()); ok {
		return show(v)
	}
	return "not evaluated"
}

func asNumber(v ref.Val) (float64, bool) {
	switch v := v.(type) {
	case types.Double:
		return float64(v), true
	case types.Int:
		return float64(v), true
	}
	return 0, false
}

// show is a value for people.
func show(v ref.Val) string {
	if x, ok := asNumber(v); ok {
		return digitsOf(x, 4)
	}
	switch v := v.(type) {
	case *types.Err:
		return "error: " + v.Error()
	case types.String:
		return strconv.Quote(string(v))
	case types.Bool:
		return strconv.FormatBool(bool(v))
	case types.Duration:
		return v.Duration.String()
	case traits.Lister:
		var items []string
		for it := v.Iterator(); it.HasNext() == types.True; {
			items = append(items, show(it.Next()))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	if text := v.ConvertToType(types.StringType); !types.IsError(text) {
		return string(text.(types.String))
	}
	return v.Type().TypeName()
}

// digitsOf writes a number with so many significant digits, and without those that say nothing.
func digitsOf(x float64, digits int) string {
	if a := math.Abs(x); a != 0 && (a < 1e-6 || a >= 1e9) {
		return strconv.FormatFloat(x, 'g', digits, 64)
	}
	decimals := digits - 1
	if x != 0 {
		decimals = max(digits-1-int(math.Floor(math.Log10(math.Abs(x)))), 0)
	}
	text := strconv.FormatFloat(x, 'f', decimals, 64)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}
