// Package evaluate scores calls by their texts: heuristics that cost nothing (regular expressions, JSON schemas,
// lengths, refusals) and a judge, another model that is asked by a rubric. Evaluators are YAML files that people keep
// in git, with tests beside them. The package hides how scoring keeps out of the way of ingest, what a judge may say and
// still be understood, and how its spend stays below the day's cap.
package evaluate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Kind is how an evaluator comes to its score.
type Kind string

// The kinds.
const (
	Regex      Kind = "regex"       // texts that must or must not be in the answer
	JSONSchema Kind = "json_schema" // the answer is JSON of a form
	Length     Kind = "length"      // the answer is neither too short nor too long
	Refusal    Kind = "refusal"     // the answer does not refuse
	JudgeKind  Kind = "judge"       // another model scores it by a rubric
)

var kinds = []string{string(Regex), string(JSONSchema), string(Length), string(Refusal), string(JudgeKind)}

// Texts are what was asked and what was answered.
type Texts struct{ Input, Output string }

// Evaluator scores calls.
type Evaluator struct {
	Name    string
	Kind    Kind
	Version string // as people count it, and a hash of what decides over scores: see stamp
	File    string
	Rubric  *Rubric // of a judge
	Trial   bool    // its scores do not count until somebody says so

	applies scope
	score   func(Texts) float64 // of a heuristic, from 0 to 1
	suite   *suite
}

// Applies reports whether the evaluator is for a call.
func (e *Evaluator) Applies(s *usage.Span) bool {
	return e.applies.tenants.has(s.TenantID) && e.applies.models.has(s.RequestedModel) &&
		e.applies.tasks.has(s.Task) && e.applies.templates.has(s.PromptTemplate)
}

// scope is where an evaluator applies.
type scope struct{ tenants, models, tasks, templates globs }

// globs are names with * and ? as wildcards; none of them means all.
type globs struct{ any *regexp.Regexp }

func newGlobs(names []string) globs {
	if len(names) == 0 {
		return globs{}
	}
	alternatives := make([]string, len(names))
	for i, name := range names {
		alternatives[i] = strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(name))
	}
	return globs{regexp.MustCompile("^(?s:" + strings.Join(alternatives, "|") + ")$")}
}

func (g globs) has(name string) bool { return g.any == nil || g.any.MatchString(name) }

// stamp is the version that scores carry: the file's own number and a hash of the kind and of everything that decides
// over scores. A rubric that was changed without a word is another version, whatever its number says, so that its
// scores are never taken for the earlier one's. Where it applies, its description
// and its standing do not count.
func stamp(version string, kind Kind, decides any) string {
	text, err := json.Marshal(decides)
	if err != nil { // it was read from YAML
		panic(fmt.Sprintf("an evaluator's parameters are no JSON: %v", err))
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", kind, text))
	return version + "-" + hex.EncodeToString(sum[:4])
}

// Set is the evaluators of one directory over the shipped ones. It is immutable and safe for concurrent use.
type Set struct {
	Evaluators []*Evaluator // by name
}

// For is which heuristics and judges are for a call.
func (s *Set) For(span *usage.Span) (heuristics, judges []*Evaluator) {
	for _, e := range s.Evaluators {
		switch {
		case !e.Applies(span):
		case e.Kind == JudgeKind:
			judges = append(judges, e)
		default:
			heuristics = append(heuristics, e)
		}
	}
	return heuristics, judges
}

// Judges reports whether any evaluator needs a judge.
func (s *Set) Judges() bool {
	return slices.ContainsFunc(s.Evaluators, func(e *Evaluator) bool { return e.Kind == JudgeKind })
}

// Find is the evaluator of a name; nil: there is none.
func (s *Set) Find(name string) *Evaluator {
	for _, e := range s.Evaluators {
		if e.Name == name {
			return e
		}
	}
	return nil
}
