package policy

import (
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxFile bounds one file of a set, and of facts, in bytes: shipped ones have a few thousand.
const MaxFile = 256 << 10

// maxDepth bounds the nesting of YAML in a set, so that no file can exhaust the stack.
const maxDepth = 64

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// parse reads the one YAML document of the file, and refuses what YAML lets pass and cel-go's parser
// too: duplicate keys, aliases, and documents after the first. It is nil when anything was refused.
func (s *source) parse() *yaml.Node {
	if len(s.text) > MaxFile {
		s.report(1, 1, "split it, or drop what is not used", "the file has %d bytes, more than %d", len(s.text), MaxFile)
		return nil
	}
	decoder := yaml.NewDecoder(strings.NewReader(s.text))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		s.reportYAML(err)
		return nil
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		line := max(second.Line, 1)
		s.report(line, 1, "keep one document in a file", "a second YAML document begins here")
		return nil
	}
	if len(document.Content) == 0 {
		s.reportYAML(io.EOF)
		return nil
	}
	root := document.Content[0]
	before := len(s.problems)
	s.strict(root, 0)
	if len(s.problems) > before {
		return nil
	}
	return root
}

func (s *source) reportYAML(err error) {
	if errors.Is(err, io.EOF) {
		s.report(1, 1, "write it, or delete it to use the shipped one", "the file is empty")
		return
	}
	line, message := 1, err.Error()
	if m := yamlLine.FindStringSubmatch(message); m != nil {
		message = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	s.report(line, 1, "mend the YAML here or in the line above: indentation, colons and quotes", "not YAML: %s", message)
}

func (s *source) strict(n *yaml.Node, depth int) {
	switch {
	case depth > maxDepth:
		s.report(n.Line, n.Column, "flatten it", "nested deeper than %d", maxDepth)
		return
	case n.Kind == yaml.AliasNode:
		s.report(n.Line, n.Column, "write the value out", "aliases are not allowed")
		return
	case n.Kind == yaml.MappingNode:
		first := map[string]int{}
		for i := 0; i < len(n.Content); i += 2 {
			key := n.Content[i]
			if line, twice := first[key.Value]; twice {
				s.report(key.Line, key.Column, "keep one of them", "%q is set twice (first in line %d)", key.Value, line)
			}
			first[key.Value] = key.Line
		}
	}
	for _, child := range n.Content {
		s.strict(child, depth+1)
	}
}

// fields returns the values of a mapping by key, and refuses keys other than the known ones and the
// lack of the required ones (marked by a trailing !). It is nil when n is not a mapping.
func (s *source) fields(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		s.report(n.Line, n.Column, "write key: value pairs", "%s must be a mapping", what)
		return nil
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = strings.TrimSuffix(k, "!")
	}
	values := map[string]*yaml.Node{}
	for i := 0; i < len(n.Content); i += 2 {
		values[n.Content[i].Value] = n.Content[i+1]
		s.checkKnown(n.Content[i], what, names)
	}
	for i, k := range known {
		if _, has := values[names[i]]; !has && strings.HasSuffix(k, "!") {
			s.report(n.Line, n.Column, fmt.Sprintf("add %s:", names[i]), "%s has no %s", what, names[i])
		}
	}
	return values
}

func (s *source) checkKnown(key *yaml.Node, what string, names []string) {
	for _, n := range names {
		if key.Value == n {
			return
		}
	}
	mend := "known are " + strings.Join(names, ", ")
	if n := nearest(key.Value, names); n != "" {
		mend = "did you mean " + n + "?"
	}
	s.report(key.Line, key.Column, mend, "%s has no field %q", what, key.Value)
}

// items returns the elements of a list that must not be empty.
func (s *source) items(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		s.report(n.Line, n.Column, "add an item that begins with a dash", "%s must be a list of at least one", what)
		return nil
	}
	return n.Content
}
