package policy

import (
	"strings"

	"go.yaml.in/yaml/v3"
)

// structure checks the shape of a policy document before cel-go's parser sees it: that one panics on
// a missing or empty rule and on an empty match, and lets a variable be declared twice.
func (s *source) structure(root *yaml.Node) {
	top := s.fields(root, "a policy", "name!", "description", "imports", "rule!")
	if rule := top["rule"]; rule != nil {
		s.ruleStructure(rule, map[string]int{})
	}
}

func (s *source) ruleStructure(n *yaml.Node, declared map[string]int) {
	rule := s.fields(n, "a rule", "id", "description", "variables", "match!")
	if list := rule["variables"]; list != nil {
		for _, v := range s.items(list, "variables") {
			s.variableStructure(v, declared)
		}
	}
	if list := rule["match"]; list != nil {
		for _, m := range s.items(list, "match") {
			s.matchStructure(m, declared)
		}
	}
}

// variableStructure wants every name once in a whole file, nested rules included: cel-go would let
// the inner one hide the outer one without a word.
func (s *source) variableStructure(n *yaml.Node, declared map[string]int) {
	v := s.fields(n, "a variable", "name!", "expression!")
	if e := v["expression"]; e != nil {
		s.expression(e)
	}
	name := v["name"]
	if name == nil {
		return
	}
	if line, twice := declared[name.Value]; twice {
		s.report(name.Line, name.Column, "give it another name", "variable %q is declared twice (first in line %d)", name.Value, line)
	}
	declared[name.Value] = name.Line
}

func (s *source) matchStructure(n *yaml.Node, declared map[string]int) {
	m := s.fields(n, "a match", "condition", "output", "rule", "explanation")
	if m == nil {
		return
	}
	if e := m["explanation"]; e != nil {
		s.report(e.Line, e.Column, "say it in the reason of the output", "explanations are not used")
	}
	if c := m["condition"]; c != nil {
		s.expression(c)
	}
	switch output, rule := m["output"], m["rule"]; {
	case (output == nil) == (rule == nil):
		s.report(n.Line, n.Column, "give it one of the two", "a match needs either an output or a rule")
	case output != nil:
		s.expression(output)
	default:
		s.ruleStructure(rule, declared)
	}
}

// expression wants a CEL expression that stands in the file as it will be compiled, so that every
// position in it can be told: on one line without escapes, or as a block (|).
func (s *source) expression(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode || n.Tag != "!!str" {
		s.report(n.Line, n.Column, `put it in quotes, as in "1.5"`, "an expression must be a string")
		return
	}
	if strings.TrimSpace(n.Value) == "" {
		s.report(n.Line, n.Column, "write it, or drop the field", "the expression is empty")
		return
	}
	col := n.Column - 1
	switch n.Style {
	case yaml.LiteralStyle, yaml.FoldedStyle:
		return
	case yaml.DoubleQuotedStyle, yaml.SingleQuotedStyle:
		col++
	}
	line := []rune(s.lines[n.Line-1])
	if col > len(line) || !strings.HasPrefix(string(line[col:]), n.Value) {
		s.report(n.Line, n.Column, "write it as a block: a | and the expression indented below it", "an expression over several lines or with YAML escapes")
	}
}
