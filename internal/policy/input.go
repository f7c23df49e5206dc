package policy

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Names are the policies that decide by facts, as people call them.
var Names = []string{"alert", "act", "sampling"}

var kinds = map[string]kind{"alert": alertKind, "act": actKind, "sampling": samplingKind}

// ReadFacts reads facts for the policy of the name (see Names) from YAML or JSON: a mapping from names to values.
// What it does not say is unknown and neutral. The result is for Set.Explain. The error is Problems where the text
// is wrong.
func ReadFacts(policy, file string, text []byte) (any, error) {
	k, known := kinds[policy]
	if !known {
		return nil, fmt.Errorf("no policy %q decides by facts: write one of %s", policy, strings.Join(Names, ", "))
	}
	src := newSource(file, text)
	facts := k.neutralFacts()
	if root := src.parse(); root != nil {
		k.read(src, root, facts)
	}
	if err := src.problems.err(); err != nil {
		return nil, err
	}
	return facts.Interface(), nil
}

// WithFact is facts with one of them changed. The value is YAML.
func WithFact(facts any, name, value string) (any, error) {
	changed := reflect.New(reflect.TypeOf(facts)).Elem()
	changed.Set(reflect.ValueOf(facts))
	index := fieldByTag(changed.Type(), "cel", name)
	if index < 0 {
		mend := ""
		if n := nearest(name, tags(changed.Type(), "cel")); n != "" {
			mend = ": did you mean " + n + "?"
		}
		return nil, fmt.Errorf("there is no fact %q%s", name, mend)
	}
	if value == "" && changed.Field(index).Kind() == reflect.String { // YAML would call it null
		changed.Field(index).SetString("")
		return changed.Interface(), nil
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(value), &document); err != nil || len(document.Content) != 1 {
		return nil, fmt.Errorf("the value %q of %s is not a YAML value", value, name)
	}
	if err := decodeFact(document.Content[0], changed.Field(index)); err != nil {
		return nil, fmt.Errorf("%s %w, not %q", name, err, value)
	}
	return changed.Interface(), nil
}

func (k kind) neutralFacts() reflect.Value {
	facts := reflect.New(k.facts).Elem()
	facts.Set(k.neutral)
	return facts
}

func (k kind) read(src *source, root *yaml.Node, facts reflect.Value) {
	for name, n := range src.fields(root, "the facts of "+k.file, tags(k.facts, "cel")...) {
		index := fieldByTag(k.facts, "cel", name)
		if index < 0 {
			continue // reported as unknown
		}
		if err := decodeFact(n, facts.Field(index)); err != nil {
			src.report(n.Line, n.Column, "", "%s %v, not %q", name, err, n.Value)
		}
	}
}

// decodeFact sets a fact to a YAML value. Its error says what it must be. YAML would cut a fraction off for an int.
func decodeFact(n *yaml.Node, v reflect.Value) error {
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" || v.Kind() == reflect.Int64 && n.Tag != "!!int" || n.Decode(v.Addr().Interface()) != nil {
		return errors.New("must be of the type " + factType(v.Type()))
	}
	if v.Kind() == reflect.Float64 && (math.IsNaN(v.Float()) || math.IsInf(v.Float(), 0)) {
		return errors.New("must be a finite number")
	}
	return nil
}
