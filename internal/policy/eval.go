package policy

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/ast"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// expression is one CEL expression with what is needed to say where it failed.
type expression struct {
	constant  ref.Val // not nil: the value, and program is nil
	program   cel.Program
	tracked   func() (cel.Program, error) // the same for an explanation: every part is evaluated and its value kept
	src       *source
	text      string // as in the file
	ast       *ast.AST
	info      *ast.SourceInfo
	line, col int
}

func (e *expression) eval(f *frame) (ref.Val, error) {
	if e.constant != nil {
		return e.constant, nil
	}
	value, _, err := e.program.Eval(f)
	if err == nil {
		return value, nil
	}
	return nil, e.placed(err)
}

// placed says where an evaluation failed.
func (e *expression) placed(err error) error {
	var placed Problem
	if errors.As(err, &placed) { // a variable that failed, at its own place
		return placed
	}
	line, col := e.line, e.col
	var failed *types.Err
	if errors.As(err, &failed) {
		if _, known := e.info.GetOffsetRange(failed.NodeID()); known {
			line, col = position(e.info, failed.NodeID())
		}
	}
	return e.src.at(line, col, err.Error(), "")
}

// frame is one evaluation: the activation over one facts struct, with its variables evaluated when
// they are first asked for.
type frame struct {
	program   *program
	facts     reflect.Value
	variables []ref.Val
}

// Parent implements cel.Activation.
func (*frame) Parent() cel.Activation { return nil }

// ResolveName implements cel.Activation.
func (f *frame) ResolveName(name string) (any, bool) {
	b, ok := f.program.names[name]
	if !ok {
		return nil, false
	}
	if b.variable == nil {
		return celValue(f.facts.Field(b.field)), true
	}
	if v := f.variables[b.variable.index]; v != nil {
		return v, true
	}
	v, err := b.variable.expr.eval(f)
	if err != nil {
		v = types.WrapErr(err)
	}
	f.variables[b.variable.index] = v
	return v, true
}

func celValue(v reflect.Value) ref.Val {
	switch v.Kind() {
	case reflect.Bool:
		return types.Bool(v.Bool())
	case reflect.Int64:
		return types.Int(v.Int())
	case reflect.Float64:
		return types.Double(v.Float())
	default: // celType lets nothing else pass
		return types.String(v.String())
	}
}

// consistent is an output whose fields must fit together.
type consistent interface{ check() error }

// run evaluates the policy for facts (a struct of the kind's type) and returns the match that fired
// with its output.
func (p *program) run(facts reflect.Value) (*match, reflect.Value, error) {
	f := &frame{program: p, facts: facts, variables: make([]ref.Val, len(p.vars))}
	if err := f.bounded(); err != nil {
		return nil, reflect.Value{}, err
	}
	m, err := p.root.first(f)
	if err != nil {
		return nil, reflect.Value{}, err
	}
	if m == nil { // the compiler has seen to it that the last match always fires
		return nil, reflect.Value{}, errors.New("no match fired")
	}
	out := reflect.New(p.kind.output).Elem()
	out.Set(m.output)
	for _, a := range m.computed {
		if err := p.compute(f, out, a); err != nil {
			return m, reflect.Value{}, err
		}
	}
	if c, ok := out.Interface().(consistent); ok {
		if err := c.check(); err != nil {
			return m, reflect.Value{}, m.src.at(m.line, m.col, err.Error(), "")
		}
	}
	return m, out, nil
}

// bounded holds the facts to the size for which costs were proved.
func (f *frame) bounded() error {
	for _, i := range f.program.texts {
		if v := f.facts.Field(i); v.Len() > maxText {
			return fmt.Errorf("the fact %s has %d bytes, more than %d", f.facts.Type().Field(i).Tag.Get("cel"), v.Len(), maxText)
		}
	}
	return nil
}

// compute sets one field of the output that depends on the facts.
func (p *program) compute(f *frame, out reflect.Value, a assignment) error {
	v, err := a.expr.eval(f)
	if err != nil {
		return err
	}
	if err := assign(out.Field(a.field), v); err != nil {
		return a.expr.src.at(a.expr.line, a.expr.col, err.Error(), "")
	}
	if len(a.allowed) > 0 && !slices.Contains(a.allowed, out.Field(a.field).String()) {
		return a.expr.src.at(a.expr.line, a.expr.col, fmt.Sprintf("%q is none of %s", out.Field(a.field), strings.Join(a.allowed, ", ")), "")
	}
	return nil
}

// first finds the match that fires. When none of an unconditional nested rule does, the next match of
// the outer rule is tried; a conditional one always answers, as the compiler has seen to.
func (r *rule) first(f *frame) (*match, error) {
	for _, m := range r.matches {
		if m.condition != nil {
			v, err := m.condition.eval(f)
			if err != nil {
				return nil, err
			}
			if v != types.True {
				continue
			}
		}
		if m.nested == nil {
			return m, nil
		}
		if inner, err := m.nested.first(f); err != nil || inner != nil {
			return inner, err
		}
	}
	return nil, nil
}

// assign sets a field of an output to a CEL value.
func assign(field reflect.Value, v ref.Val) error {
	switch v := v.(type) {
	case types.String:
		if field.Kind() == reflect.String {
			field.SetString(string(v))
			return nil
		}
	case types.Double:
		if field.Kind() == reflect.Float64 {
			field.SetFloat(float64(v))
			return nil
		}
	case types.Duration:
		if field.Type() == reflect.TypeFor[time.Duration]() {
			field.SetInt(int64(v.Duration))
			return nil
		}
	}
	native, err := v.ConvertToNative(field.Type())
	if err != nil {
		return fmt.Errorf("a %s is not a %s: %w", v.Type().TypeName(), field.Type(), err)
	}
	field.Set(reflect.ValueOf(native))
	return nil
}
