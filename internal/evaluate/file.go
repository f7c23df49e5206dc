package evaluate

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/policy"
)

// maxFile bounds one file, in bytes.
const maxFile = 256 << 10

// file is one file of a set as it is read, with what is wrong in it.
type file struct {
	name     string
	lines    []string
	problems policy.Problems
}

func newFile(name string, text []byte) *file {
	return &file{name: name, lines: strings.Split(string(text), "\n")}
}

// wrong notes a problem at a node; nil is the file's beginning.
func (f *file) wrong(n *yaml.Node, mend, format string, args ...any) {
	p := policy.Problem{File: f.name, Line: 1, Col: 1, Message: fmt.Sprintf(format, args...), Mend: mend}
	if n != nil {
		p.Line, p.Col = max(n.Line, 1), max(n.Column, 1)
	}
	if p.Line <= len(f.lines) {
		p.Source = strings.TrimRight(f.lines[p.Line-1], "\r")
	}
	f.problems = append(f.problems, p)
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)

// root reads the file's one document; nil when it is none.
func (f *file) root(text []byte) *yaml.Node {
	if len(text) > maxFile {
		f.wrong(nil, "split it", "the file has %d bytes, more than %d", len(text), maxFile)
		return nil
	}
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	var document, second yaml.Node
	if err := d.Decode(&document); err != nil {
		line, message := 1, err.Error()
		if m := yamlLine.FindStringSubmatch(message); m != nil {
			message = m[2]
			if n, err := strconv.Atoi(m[1]); err == nil {
				line = n
			}
		}
		if errors.Is(err, io.EOF) {
			message = "the file is empty"
		}
		f.wrong(&yaml.Node{Line: line}, "mend the YAML here or in the line above: indentation, colons and quotes", "not YAML: %s", message)
		return nil
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		f.wrong(&second, "keep one document in a file", "a second YAML document begins here")
		return nil
	}
	if len(document.Content) == 0 {
		f.wrong(nil, "write it, or delete it", "the file is empty")
		return nil
	}
	return document.Content[0]
}

// fields are the values of a mapping. Keys that are not known, and the lack of those with a trailing !, are wrong.
func (f *file) fields(n *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	values := map[string]*yaml.Node{}
	if n == nil {
		return values
	}
	if n.Kind != yaml.MappingNode {
		f.wrong(n, "write key: value pairs", "%s must be a mapping", what)
		return values
	}
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = strings.TrimSuffix(k, "!")
	}
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || !slices.Contains(names, key.Value):
			f.wrong(key, "known are "+strings.Join(names, ", "), "%s has no field %q", what, key.Value)
		case values[key.Value] != nil:
			f.wrong(key, "keep one of them", "%q is set twice", key.Value)
		default:
			values[key.Value] = n.Content[i+1]
		}
	}
	for i, k := range known {
		if values[names[i]] == nil && strings.HasSuffix(k, "!") {
			f.wrong(n, "add "+names[i]+":", "%s has no %s", what, names[i])
		}
	}
	return values
}

// text reads a text; a nil node was reported as missing, or may be.
func (f *file) text(n *yaml.Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || strings.TrimSpace(n.Value) == "" {
		f.wrong(n, "write a text", "%s must be a text that is not empty", what)
		return ""
	}
	return n.Value
}

func (f *file) texts(n *yaml.Node, what string) []string {
	if n == nil {
		return nil
	}
	if n.Kind == yaml.ScalarNode {
		return []string{f.text(n, what)}
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		f.wrong(n, "add an item that begins with a dash", "%s must be a text or a list of them", what)
		return nil
	}
	var list []string
	for _, item := range n.Content {
		list = append(list, f.text(item, what))
	}
	return list
}

func (f *file) oneOf(n *yaml.Node, what string, allowed []string) string {
	value := f.text(n, what)
	if value != "" && !slices.Contains(allowed, value) {
		f.wrong(n, "write one of "+strings.Join(allowed, ", "), "%s cannot be %q", what, value)
		return ""
	}
	return value
}

// number reads a decimal from low to high; otherwise where it is left out.
func (f *file) number(n *yaml.Node, what string, low, high, otherwise float64) float64 {
	if n == nil {
		return otherwise
	}
	v, err := strconv.ParseFloat(n.Value, 64)
	if n.Kind != yaml.ScalarNode || err != nil || !(v >= low && v <= high) {
		f.wrong(n, fmt.Sprintf("write a number from %g to %g", low, high), "%s must be a number from %g to %g, not %q", what, low, high, n.Value)
		return otherwise
	}
	return v
}

// whole is number for whole ones.
func (f *file) whole(n *yaml.Node, what string, low, high, otherwise int) int {
	v := f.number(n, what, float64(low), float64(high), float64(otherwise))
	if v != float64(int(v)) {
		f.wrong(n, "write a whole number", "%s must be a whole number, not %q", what, n.Value)
	}
	return int(v)
}

func sorted(problems policy.Problems) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b policy.Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return problems
}
