package evaluate

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/policies"
)

// Shipped are the evaluators that Flyball ships with, and their tests.
func Shipped() fs.FS {
	sub, err := fs.Sub(policies.Evaluators, "evaluators")
	if err != nil { // the folder is embedded
		panic(err)
	}
	return sub
}

// Load reads a directory of evaluators over the shipped ones, and runs their tests: a file that the directory has too
// replaces the shipped one, with its tests. Nil reads the shipped ones alone. The error is policy.Problems where files
// are wrong: all that were found.
func Load(fsys fs.FS) (*Set, error) {
	set, err := Compile(fsys)
	if err != nil {
		return nil, err
	}
	return set, sorted(set.Test().Failures)
}

// Compile is Load without running the tests.
func Compile(fsys fs.FS) (*Set, error) {
	files := map[string]source{}
	if err := gather(files, Shipped(), true); err != nil {
		return nil, err
	}
	if fsys != nil {
		if err := gather(files, fsys, false); err != nil {
			return nil, err
		}
	}
	set := &Set{}
	var problems policy.Problems
	byName := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if isTest(name) {
			if subject := strings.TrimSuffix(name, "_test.yaml") + ".yaml"; files[subject].text == nil {
				problems = append(problems, policy.Problem{File: name, Message: "tests no evaluator", Mend: "name it after the file that it tests"})
			}
			continue
		}
		f := newFile(name, files[name].text)
		e, off := f.evaluator(files[name].text)
		if e != nil && !off {
			if other, twice := byName[e.Name]; twice {
				f.wrong(nil, "give one of them another name", "the evaluator %s is in %s too", e.Name, other)
			}
			byName[e.Name] = name
			if tests, ok := files[testOf(name)]; ok && (tests.shipped == files[name].shipped) {
				t := newFile(testOf(name), tests.text)
				e.suite = t.suite(tests.text, e)
				problems = append(problems, t.problems...)
			}
			set.Evaluators = append(set.Evaluators, e)
		}
		problems = append(problems, f.problems...)
	}
	slices.SortFunc(set.Evaluators, func(a, b *Evaluator) int { return strings.Compare(a.Name, b.Name) })
	if err := sorted(problems); err != nil {
		return nil, err
	}
	return set, nil
}

// source is the text of a file, and whether it is a shipped one.
type source struct {
	text    []byte
	shipped bool
}

func gather(into map[string]source, fsys fs.FS, shipped bool) error {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return fmt.Errorf("read the evaluators: %w", err)
	}
	found := false
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if strings.HasSuffix(e.Name(), ".yml") {
			return policy.Problems{{File: e.Name(), Message: "is not read", Mend: "name it .yaml"}}
		}
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		text, err := fs.ReadFile(fsys, e.Name())
		if err != nil {
			return fmt.Errorf("read an evaluator: %w", err)
		}
		into[e.Name()] = source{text, shipped}
		found = true
	}
	if !found {
		return errors.New("the directory of evaluators has no .yaml file")
	}
	return nil
}

func isTest(name string) bool   { return strings.HasSuffix(name, "_test.yaml") }
func testOf(name string) string { return strings.TrimSuffix(name, ".yaml") + "_test.yaml" }

// evaluatorName is the form of names: they are dimensions of tables.
var evaluatorName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

var evaluatorVersion = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._]{0,31}$`)

// common are the fields of every evaluator, parameters those of each kind.
var (
	common     = []string{"name!", "version!", "kind!", "description", "applies", "standing", "off"}
	parameters = map[Kind][]string{
		Regex:      {"matches", "forbids", "of"},
		JSONSchema: {"schema!"},
		Length:     {"min", "max"},
		Refusal:    {},
		JudgeKind:  {"rubric!", "scale", "consistency", "max_tokens"},
	}
)

// evaluator reads one. Off is one that is switched off, which a file of a directory may do to a shipped one.
func (f *file) evaluator(text []byte) (e *Evaluator, off bool) {
	root := f.root(text)
	if root == nil {
		return nil, false
	}
	all := slices.Clone(common)
	for _, k := range kinds {
		for _, p := range parameters[Kind(k)] {
			all = append(all, strings.TrimSuffix(p, "!"))
		}
	}
	// What belongs to which kind is said once the kind is known.
	kind := Kind(f.oneOf(peek(root, "kind"), "kind", kinds))
	if kind != "" {
		all = append(slices.Clone(common), parameters[kind]...)
	}
	v := f.fields(root, "the evaluator", all...)
	e = &Evaluator{Name: f.text(v["name"], "name"), Kind: kind, File: f.name}
	if e.Name != "" && !evaluatorName.MatchString(e.Name) {
		f.wrong(v["name"], "use small letters, digits, dots, dashes and underscores", "%q is no name of an evaluator", e.Name)
	}
	version := f.text(v["version"], "version")
	if version != "" && !evaluatorVersion.MatchString(version) {
		f.wrong(v["version"], "use letters, digits and dots, such as 2 or 2026.11", "%q is no version", version)
	}
	if n := v["off"]; n != nil {
		off = f.oneOf(n, "off", []string{"true", "false"}) == "true"
	}
	if n := v["standing"]; n != nil {
		e.Trial = f.oneOf(n, "standing", []string{string(contract.Trial), string(contract.Counting)}) == string(contract.Trial)
	}
	f.scope(v["applies"], &e.applies)
	decides := f.parameters(e, v, root)
	if len(f.problems) > 0 {
		return nil, off
	}
	e.Version = stamp(version, kind, decides)
	return e, off
}

// peek is the value of a key of a mapping, nil when there is none.
func peek(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func (f *file) scope(n *yaml.Node, s *scope) {
	v := f.fields(n, "applies", "tenants", "models", "tasks", "templates")
	for name, into := range map[string]*globs{"tenants": &s.tenants, "models": &s.models, "tasks": &s.tasks, "templates": &s.templates} {
		*into = newGlobs(f.texts(v[name], name))
	}
}

// parameters reads what a kind needs, makes its score, and returns what decides over scores.
func (f *file) parameters(e *Evaluator, v map[string]*yaml.Node, root *yaml.Node) (decides any) {
	switch e.Kind {
	case Regex:
		return f.regex(e, v, root)
	case JSONSchema:
		var value any
		if n := v["schema"]; n != nil {
			if err := n.Decode(&value); err != nil {
				f.wrong(n, "write a JSON schema in YAML or JSON", "the schema cannot be read: %v", err)
				return nil
			}
			schema, err := compileSchema(value)
			if err != nil {
				f.wrong(n, "mend the schema; $ref may only point into it (#/$defs/…)", "%s", firstLine(err))
				return nil
			}
			e.score = bySchema(schema)
		}
		return value
	case Length:
		low, high := f.whole(v["min"], "min", 0, 10_000_000, 0), f.whole(v["max"], "max", 1, 10_000_000, 0)
		if low == 0 && high == 0 {
			f.wrong(root, "add min: or max:, in characters", "the length has no bound")
		} else if high > 0 && low > high {
			f.wrong(v["min"], "swap them", "min is greater than max")
		}
		e.score = byLength(low, high)
		return []int{low, high}
	case Refusal:
		e.score = byRefusal
		rules := make([]string, len(refusals))
		for i, r := range refusals {
			rules[i] = r.is.String()
		}
		return rules // so that another version of Flyball with other rules is another version of the evaluator
	case JudgeKind:
		return f.judge(e, v)
	}
	return nil
}

func firstLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

func (f *file) regex(e *Evaluator, v map[string]*yaml.Node, root *yaml.Node) any {
	compile := func(name string) (list []*regexp.Regexp, texts []string) {
		texts = f.texts(v[name], name)
		for i, text := range texts {
			r, err := regexp.Compile(text)
			if err != nil {
				at := v[name]
				if at.Kind == yaml.SequenceNode {
					at = at.Content[i]
				}
				f.wrong(at, "write it in Go's syntax (RE2), best in single quotes", "%v", err)
				continue
			}
			list = append(list, r)
		}
		return list, texts
	}
	matches, must := compile("matches")
	forbids, mustNot := compile("forbids")
	if len(must)+len(mustNot) == 0 {
		f.wrong(root, "add matches: or forbids:", "the evaluator has no expression")
	}
	of, subject := "output", func(t Texts) string { return t.Output }
	if n := v["of"]; n != nil {
		if of = f.oneOf(n, "of", []string{"output", "input"}); of == "input" {
			subject = func(t Texts) string { return t.Input }
		}
	}
	e.score = byRegex(matches, forbids, subject)
	return []any{must, mustNot, of}
}

func (f *file) judge(e *Evaluator, v map[string]*yaml.Node) any {
	r := &Rubric{Text: strings.TrimSpace(f.text(v["rubric"], "rubric")), Low: 1, High: 5}
	if n := v["scale"]; n != nil {
		s := f.fields(n, "scale", "min!", "max!")
		r.Low, r.High = f.number(s["min"], "min", -1000, 1000, 0), f.number(s["max"], "max", -1000, 1000, 1)
		if r.Low >= r.High {
			f.wrong(n, "put the worst score into min and the best into max", "the scale is empty")
		}
	}
	r.MaxTokens = int64(f.whole(v["max_tokens"], "max_tokens", 16, 100_000, 1000))
	c := f.fields(v["consistency"], "consistency", "share!", "times")
	r.Consistency = Consistency{f.number(c["share"], "share", 0, 1, 0), f.whole(c["times"], "times", 2, 10, 3)}
	e.Rubric = r
	return []any{frame, r}
}
