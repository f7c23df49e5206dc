package standing

import (
	"cmp"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Line is one version of an evaluator: what it counts for, and what it gave.
type Line struct {
	contract.EvaluatorScores
	Standing contract.Standing `json:"standing"`
	Since    time.Time         `json:"since"` // zero: nobody has spoken of it
	Mapping  string            `json:"mapping,omitempty"`
	By       string            `json:"by,omitempty"`
	Reason   string            `json:"reason,omitempty"`
}

// calibrates is what people's ratings count for.
const calibrates contract.Standing = "calibrates"

// List joins what was given with what is in force, by name, version and kind.
func List(history []contract.EvaluatorRecord, scores []contract.EvaluatorScores, now time.Time) []Line {
	var lines []Line
	seen := map[contract.EvaluatorVersion]bool{}
	add := func(s contract.EvaluatorScores) {
		r := standing(history, s.EvaluatorVersion, now)
		switch {
		case s.Kind == "human":
			r = contract.EvaluatorRecord{Standing: calibrates}
		case r.Since.IsZero() && s.Scored > 0 && s.Counted == 0:
			r.Standing = contract.Trial // as its own file says
		}
		seen[s.EvaluatorVersion] = true
		lines = append(lines, Line{s, r.Standing, r.Since, string(r.Mapping.Method), r.By, r.Reason})
	}
	for _, s := range scores {
		add(s)
	}
	for _, r := range history {
		if v := (contract.EvaluatorVersion{Evaluator: r.Evaluator, Version: r.Version}); !seen[v] {
			add(contract.EvaluatorScores{EvaluatorVersion: v})
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		return cmp.Or(cmp.Compare(a.Evaluator, b.Evaluator), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind))
	})
	return lines
}
