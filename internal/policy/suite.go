package policy

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// suite is the tests of one policy, in the format of cel-go's own tests.
type suite struct {
	program *program
	src     *source // nil: the policy has no tests
	cases   []testCase
}

type testCase struct {
	name   string
	line   int
	col    int
	facts  reflect.Value
	values map[string]expected // fields of the output, by name
	whole  reflect.Value       // the whole output; invalid when values or failure says it
	errors []string            // texts of which the error holds one; nil when it must succeed
}

type expected struct {
	value     reflect.Value
	line, col int
}

// Report is the outcome of a set's tests.
type Report struct {
	Policies []Coverage
	Failures Problems
}

// Coverage says how a policy's tests went and which of its rules they reached.
type Coverage struct {
	File      string
	Tests     int
	Failed    int
	Rules     int
	Uncovered []Problem // the rules that no test reached
}

// Test runs the tests of every policy of the set.
func (s *Set) Test() Report {
	var r Report
	for _, suite := range s.suites {
		c, failures := suite.run()
		r.Policies = append(r.Policies, c)
		r.Failures = append(r.Failures, failures...)
	}
	return r
}

func (s *suite) run() (Coverage, Problems) {
	c := Coverage{File: s.program.kind.file, Tests: len(s.cases), Rules: len(s.program.matches)}
	var failures Problems
	reached := map[*match]bool{}
	for _, t := range s.cases {
		fired, found := s.runCase(t)
		reached[fired] = true
		if len(found) > 0 {
			c.Failed++
			failures = append(failures, found...)
		}
	}
	for _, m := range s.program.matches {
		if !reached[m] {
			c.Uncovered = append(c.Uncovered, m.src.at(m.line, m.col, fmt.Sprintf("no test reaches the rule %q", m.id),
				"add a test to "+testFile(c.File)))
		}
	}
	return c, failures
}

func (s *suite) runCase(t testCase) (*match, Problems) {
	fired, out, err := s.program.run(t.facts)
	fail := func(line, col int, format string, args ...any) Problem {
		return s.src.at(line, col, fmt.Sprintf("test %q: ", t.name)+fmt.Sprintf(format, args...), "")
	}
	switch {
	case t.errors != nil && err == nil:
		return fired, Problems{fail(t.line, t.col, "answered %s, and should have failed", describe(out))}
	case t.errors != nil:
		for _, text := range t.errors {
			if strings.Contains(err.Error(), text) {
				return fired, nil
			}
		}
		return fired, Problems{fail(t.line, t.col, "failed otherwise than expected: %v", err)}
	case err != nil:
		var placed Problem
		if !errors.As(err, &placed) {
			placed = fail(t.line, t.col, "failed: %v", err)
		} else {
			placed.Message += fmt.Sprintf(" in the test %q (%s:%d)", t.name, s.src.name, t.line)
		}
		return fired, Problems{placed}
	case t.whole.IsValid():
		if !reflect.DeepEqual(out.Interface(), t.whole.Interface()) {
			return fired, Problems{fail(t.line, t.col, "answered %s, not %s", describe(out), describe(t.whole))}
		}
		return fired, nil
	}
	var failures Problems
	for i := range out.NumField() {
		name := jsonName(out.Type().Field(i))
		want, given := t.values[name]
		if given && !reflect.DeepEqual(out.Field(i).Interface(), want.value.Interface()) {
			failures = append(failures, fail(want.line, want.col, "%s is %s, not %s (rule %q)", name, describe(out.Field(i)), describe(want.value), fired.id))
		}
	}
	return fired, failures
}

// describe renders an output or a field of one for a failure.
func describe(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case fmt.Stringer:
		return x.String()
	default:
		if v.Kind() == reflect.String {
			return fmt.Sprintf("%q", v.String())
		}
		return fmt.Sprintf("%+v", x)
	}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// parseSuite reads a test file. Problems are noted in src; p is nil when the policy has its own.
func parseSuite(p *program, k kind, src *source) *suite {
	s := &suite{program: p, src: src}
	root := src.parse()
	if root == nil {
		return s
	}
	top := src.fields(root, "a test suite", "name!", "description", "section!")
	if top["section"] == nil {
		return s
	}
	for _, section := range src.items(top["section"], "section") {
		f := src.fields(section, "a section", "name!", "description", "tests!")
		if f["tests"] == nil {
			continue
		}
		for _, n := range src.items(f["tests"], "tests") {
			if t, ok := s.parseCase(k, n); ok {
				s.cases = append(s.cases, t)
			}
		}
	}
	return s
}

func (s *suite) parseCase(k kind, n *yaml.Node) (testCase, bool) {
	before := len(s.src.problems)
	f := s.src.fields(n, "a test", "name!", "description", "input", "output!")
	t := testCase{name: s.src.word(f["name"], "name"), line: n.Line, col: n.Column, facts: reflect.New(k.facts).Elem()}
	t.facts.Set(k.neutral)
	if input := f["input"]; input != nil {
		s.parseInput(k, input, t.facts)
	}
	if output := f["output"]; output != nil {
		s.parseOutput(k, output, &t)
	}
	return t, len(s.src.problems) == before
}

// parseInput sets facts over the neutral ones.
func (s *suite) parseInput(k kind, input *yaml.Node, facts reflect.Value) {
	for name, n := range s.src.fields(input, "the input", tags(k.facts, "cel")...) {
		index := fieldByTag(k.facts, "cel", name)
		if index < 0 {
			continue // reported as unknown
		}
		f := s.src.fields(n, "an input", "value", "expr")
		switch value, expr := f["value"], f["expr"]; {
		case f == nil:
		case (value == nil) == (expr == nil):
			s.src.report(n.Line, n.Column, "write {value: …}", "an input has either a value or an expr")
		case value != nil:
			if err := decodeFact(value, facts.Field(index)); err != nil {
				s.src.report(value.Line, value.Column, "", "%s %v, not %q", name, err, value.Value)
			}
		default:
			s.evaluate(expr, facts.Field(index))
		}
	}
}

func (s *suite) parseOutput(k kind, output *yaml.Node, t *testCase) {
	f := s.src.fields(output, "the output", "value", "expr", "error_set")
	if f == nil {
		return
	}
	if len(f) != 1 {
		s.src.report(output.Line, output.Column, "keep one of them", "the output has either a value, an expr or an error_set")
		return
	}
	switch {
	case f["expr"] != nil:
		t.whole = reflect.New(k.output).Elem()
		s.evaluate(f["expr"], t.whole)
	case f["error_set"] != nil:
		for _, n := range s.src.items(f["error_set"], "error_set") {
			t.errors = append(t.errors, s.src.word(n, "an error"))
		}
	case f["value"] != nil:
		t.values = map[string]expected{}
		for name, n := range s.src.fields(f["value"], "the output's value", tags(k.output, "json")...) {
			index := fieldByTag(k.output, "json", name)
			if index < 0 {
				continue // reported as unknown
			}
			v := reflect.New(k.output.Field(index).Type).Elem()
			s.decode(n, v, name)
			t.values[name] = expected{v, n.Line, n.Column}
		}
	}
}

func tags(t reflect.Type, tag string) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i], _, _ = strings.Cut(t.Field(i).Tag.Get(tag), ",")
	}
	return names
}

// decode sets v to a YAML value; a duration is written as Go does, "2h30m".
func (s *suite) decode(n *yaml.Node, v reflect.Value, name string) {
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(n.Value)
		if err != nil {
			s.src.report(n.Line, n.Column, `write it as "2h30m"`, "%s must be a duration, not %q", name, n.Value)
		}
		v.SetInt(int64(d))
		return
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		s.src.report(n.Line, n.Column, "", "%s must be a %s, not %q", name, v.Kind(), n.Value)
	}
}

// evaluate sets v to the value of a CEL expression over no facts.
func (s *suite) evaluate(n *yaml.Node, v reflect.Value) {
	if s.program == nil {
		return // its problems come first
	}
	if s.src.expression(n); len(s.src.problems) > 0 {
		return
	}
	checked, issues := s.program.env.Compile(n.Value)
	if issues.Err() != nil {
		s.src.report(n.Line, n.Column, "", "%s", issues.Errors()[0].Message)
		return
	}
	planned, err := s.program.env.Program(checked)
	if err == nil {
		var value any
		if out, _, evalErr := planned.Eval(map[string]any{}); evalErr != nil {
			err = evalErr
		} else if value, err = out.ConvertToNative(v.Type()); err == nil {
			v.Set(reflect.ValueOf(value))
		}
	}
	if err != nil {
		s.src.report(n.Line, n.Column, fmt.Sprintf("write an expression of the type %s", v.Type()), "%v", err)
	}
}
