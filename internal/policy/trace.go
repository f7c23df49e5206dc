package policy

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/flyball-dev/flyball/docs"
	"github.com/flyball-dev/flyball/internal/detect"
)

// Trace is one evaluation, taken apart for people.
type Trace struct {
	Policy    string     `json:"policy"` // the file
	Revision  string     `json:"revision"`
	Facts     []Fact     `json:"facts"`
	Variables []Variable `json:"variables"`
	Rules     []Rule     `json:"rules"`            // every match, in the order of the file
	Fired     string     `json:"fired"`            // empty when the evaluation failed
	Output    any        `json:"output,omitempty"` // detect.Verdict, Proposal or Sample
	Error     string     `json:"error,omitempty"`  // with its place
}

// Fact is one fact as the policy saw it.
type Fact struct {
	Name    string `json:"name"`
	Type    string `json:"type"`
	Value   any    `json:"value"`
	Neutral bool   `json:"neutral"`       // it says nothing: not known, or as usual
	Doc     string `json:"doc,omitempty"` // from docs/policies.md
}

// Variable is one variable of the policy.
type Variable struct {
	Name     string `json:"name"`
	Text     string `json:"text"` // its expression
	Value    string `json:"value"`
	Constant bool   `json:"constant"`
	Used     bool   `json:"used"` // what was reached mentions it: conditions, and the output
	File     string `json:"file"`
	Line     int    `json:"line"`
	Col      int    `json:"col"`
}

// Outcome is what became of a rule.
type Outcome string

// The outcomes. Held is that of a match with a nested rule, whose matches follow it.
const (
	Fired      Outcome = "fired"
	Held       Outcome = "held"
	DidNotHold Outcome = "did not hold"
	Failed     Outcome = "failed"
	NotReached Outcome = "not reached"
)

// Rule is one match of the policy.
type Rule struct {
	Rule      string  `json:"rule"` // its id; empty when it has a nested rule
	File      string  `json:"file"`
	Line      int     `json:"line"`
	Col       int     `json:"col"`
	Depth     int     `json:"depth"`               // how many rules it is nested in
	Condition string  `json:"condition,omitempty"` // as in the file; empty: always
	Outcome   Outcome `json:"outcome"`
	Why       *Part   `json:"why,omitempty"` // the condition taken apart, when it was reached
	// Near is how far the numbers of the condition are from holding, as a share of them; nil when it held, was not
	// reached, or something else than a number keeps it from holding.
	Near *float64 `json:"near,omitempty"`
}

// Explain evaluates the policy that decides by facts of this type (detect.Facts, ActFacts or SamplingFacts) and
// says how it came to its answer. An evaluation that fails is explained too. It takes a hundred times
// as long as the evaluation itself, or twice that.
func (s *Set) Explain(facts any) Trace {
	p := s.deciding(facts)
	t := Trace{Policy: p.kind.file, Revision: s.revision}
	value := reflect.ValueOf(facts)
	t.Facts = p.kind.describe(value)
	f := &frame{program: p, facts: value, variables: make([]ref.Val, len(p.vars))}
	walk := &walker{frame: f, trace: &t}
	if err := f.bounded(); err != nil {
		t.Error, walk.over = err.Error(), true
	}
	walk.rule(p.root, 0)
	if t.Error == "" {
		fired, out, err := p.run(value)
		if err != nil {
			t.Error = err.Error()
		} else {
			t.Fired, t.Output = fired.id, out.Interface()
			if proposal, is := t.Output.(Proposal); is {
				t.Output = proposal.about(facts.(ActFacts))
			}
			for _, a := range fired.computed {
				_, _ = a.expr.eval(f) // for the variables that the output mentions; run has evaluated it well
			}
		}
	}
	walk.variables()
	return t
}

// deciding is the policy that decides by facts of this type.
func (s *Set) deciding(facts any) *program {
	switch facts.(type) {
	case detect.Facts:
		return s.alert
	case ActFacts:
		return s.act
	case SamplingFacts:
		return s.sampling
	}
	panic(fmt.Sprintf("policy: no policy decides by %T", facts))
}

// describe lists the facts with what docs/policies.md says of them.
func (k kind) describe(facts reflect.Value) []Fact {
	reference := docs.Facts(k.file)
	list := make([]Fact, facts.NumField())
	for i := range list {
		field := k.facts.Field(i)
		name := field.Tag.Get("cel")
		list[i] = Fact{
			Name: name, Type: factType(field.Type), Value: facts.Field(i).Interface(), Doc: reference[name],
			Neutral: facts.Field(i).Equal(k.neutral.Field(i)),
		}
	}
	return list
}

// factType is the CEL type of a field, as people know it.
func factType(t reflect.Type) string {
	c, err := celType(t)
	if err != nil {
		return t.String()
	}
	return c.String()
}

// walker goes through the rules as an evaluation does, and on to those that it does not reach.
type walker struct {
	frame *frame
	trace *Trace
	over  bool // something fired, or failed
}

func (w *walker) rule(r *rule, depth int) {
	for _, m := range r.matches {
		i := len(w.trace.Rules)
		w.trace.Rules = append(w.trace.Rules, Rule{Rule: m.id, File: m.src.name, Line: m.line, Col: m.col, Depth: depth, Outcome: NotReached})
		entered := w.match(m, &w.trace.Rules[i])
		if m.nested == nil {
			continue
		}
		before := w.over
		w.over = w.over || !entered
		w.rule(m.nested, depth+1)
		if !entered {
			w.over = before
		}
	}
}

// match notes what becomes of a match, and reports whether it held.
func (w *walker) match(m *match, note *Rule) (held bool) {
	if m.condition != nil {
		at := m.src.at(m.condition.line, m.condition.col, "", "")
		note.Condition, note.Line, note.Col = m.condition.text, at.Line, at.Col
	}
	if w.over {
		return false
	}
	if m.condition != nil {
		v, err := m.condition.eval(w.frame)
		why := m.condition.explain(w.frame)
		note.Why = &why
		switch {
		case err != nil:
			note.Outcome, w.over, w.trace.Error = Failed, true, err.Error()
			return false
		case v != types.True:
			note.Outcome = DidNotHold
			if d := why.distance(true); !math.IsInf(d, 0) {
				note.Near = &d
			}
			return false
		}
	}
	if note.Outcome = Held; m.nested == nil {
		note.Outcome, w.over = Fired, true
	}
	return true
}

// variables lists the values of all variables; those that no rule has asked for are evaluated now.
func (w *walker) variables() {
	used := make([]bool, len(w.frame.variables))
	for i, v := range w.frame.variables {
		used[i] = v != nil
	}
	for i, v := range w.frame.program.vars {
		value, known := any(nil), w.trace.Error == "" || used[i]
		if known {
			value, _ = w.frame.ResolveName(v.name)
		}
		at := v.expr.src.at(v.expr.line, v.expr.col, "", "")
		note := Variable{
			Name: v.name, Text: v.expr.text, Value: "not evaluated", Constant: v.expr.constant != nil, Used: used[i],
			File: at.File, Line: at.Line, Col: at.Col,
		}
		if val, ok := value.(ref.Val); ok {
			note.Value = show(val)
		}
		w.trace.Variables = append(w.trace.Variables, note)
	}
}

// String writes the value as a policy would.
func (f Fact) String() string {
	switch v := f.Value.(type) {
	case float64:
		return digitsOf(v, 4)
	case string:
		return fmt.Sprintf("%q", v)
	case time.Duration:
		return v.String()
	}
	return fmt.Sprint(f.Value)
}
