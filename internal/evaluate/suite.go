package evaluate

import (
	"fmt"
	"math"

	"go.yaml.in/yaml/v3"

	"github.com/flyball-dev/flyball/internal/policy"
)

// suite is the tests of one evaluator.
type suite struct {
	file  *file
	cases []testCase
}

// testCase is texts, or a judge's recorded answer, with the score that is expected.
type testCase struct {
	at        *yaml.Node
	name      string
	texts     Texts
	answer    string
	low, high float64
	none      bool // a judge's answer that must be no score
}

// within is how far a score may be from one that is written as a single number.
const within = 0.0005

// suite reads the tests of an evaluator.
func (f *file) suite(text []byte, e *Evaluator) *suite {
	s := &suite{file: f}
	root := f.root(text)
	if root == nil {
		return s
	}
	list := f.fields(root, "the file", "tests!")["tests"]
	if list == nil {
		return s
	}
	if list.Kind != yaml.SequenceNode || len(list.Content) == 0 {
		f.wrong(list, "add an item that begins with a dash", "tests must be a list of at least one")
		return s
	}
	for _, n := range list.Content {
		known := []string{"name!", "input", "output", "score!"}
		if e.Kind == JudgeKind {
			known = []string{"name!", "answer!", "score!"}
		}
		v := f.fields(n, "a test", known...)
		c := testCase{at: n, name: f.text(v["name"], "name")}
		for key, into := range map[string]*string{"input": &c.texts.Input, "output": &c.texts.Output, "answer": &c.answer} {
			if v[key] != nil {
				*into = v[key].Value // it may be empty
			}
		}
		f.expected(v["score"], e, &c)
		s.cases = append(s.cases, c)
	}
	return s
}

func (f *file) expected(n *yaml.Node, e *Evaluator, c *testCase) {
	switch {
	case n == nil:
	case n.Kind == yaml.MappingNode:
		v := f.fields(n, "score", "min!", "max!")
		c.low, c.high = f.number(v["min"], "min", 0, 1, 0), f.number(v["max"], "max", 0, 1, 1)
	case e.Kind == JudgeKind && n.Value == "none":
		c.none = true
	default:
		score := f.number(n, "score", 0, 1, 0)
		c.low, c.high = score-within, score+within
	}
}

// Report is what the tests of a set came to.
type Report struct {
	Results  []Result
	Failures policy.Problems
}

// Result is what the tests of one evaluator came to.
type Result struct {
	Evaluator     *Evaluator
	Tests, Failed int
}

// Test runs the tests of every evaluator.
func (s *Set) Test() Report {
	var r Report
	for _, e := range s.Evaluators {
		result := Result{Evaluator: e}
		if e.suite != nil {
			result.Tests = len(e.suite.cases)
			for _, c := range e.suite.cases {
				if failure := e.test(c); failure != "" {
					result.Failed++
					before := len(e.suite.file.problems)
					e.suite.file.wrong(c.at, "mend the evaluator or what the test expects", "%s: %s", c.name, failure)
					r.Failures = append(r.Failures, e.suite.file.problems[before])
					e.suite.file.problems = e.suite.file.problems[:before]
				}
			}
		}
		r.Results = append(r.Results, result)
	}
	return r
}

// test says what is wrong with a case, or nothing.
func (e *Evaluator) test(c testCase) string {
	var score float64
	if e.Kind == JudgeKind {
		var err error
		score, _, err = e.Rubric.Parse(c.answer)
		switch {
		case err != nil && c.none:
			return ""
		case err != nil:
			return err.Error()
		case c.none:
			return fmt.Sprintf("the answer was read as %g, and should be no score", score)
		}
	} else {
		score = e.score(c.texts)
	}
	if score < c.low || score > c.high || math.IsNaN(score) {
		return fmt.Sprintf("the score is %.4g, not from %.4g to %.4g", score, max(c.low, 0), min(c.high, 1))
	}
	return ""
}
