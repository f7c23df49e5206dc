package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Problem is one thing that is wrong in a file of a policy set, where it is, and how to mend it.
type Problem struct {
	File    string
	Line    int // from 1; 0 when the problem is of the whole file
	Col     int // in characters, from 1
	Message string
	Mend    string // what to do about it; may be empty
	Source  string // the text of the line
}

// String draws the problem with a caret under the place:
//
//	alert.yaml:12:18: undeclared reference to 'cost_ration'
//	 12 |     condition: cost_ration > 1.5
//	    |                ^
//	  mend: did you mean cost_ratio?
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
	}
	b.WriteString(": " + p.Message)
	if p.Line > 0 && p.Source != "" {
		number := fmt.Sprint(p.Line)
		text := strings.ReplaceAll(p.Source, "\t", " ")
		fmt.Fprintf(&b, "\n %s | %s\n %s | %s^", number, text,
			strings.Repeat(" ", len(number)), strings.Repeat(" ", min(p.Col-1, utf8.RuneCountInString(text))))
	}
	if p.Mend != "" {
		b.WriteString("\n  mend: " + p.Mend)
	}
	return b.String()
}

// Error draws the problem.
func (p Problem) Error() string { return p.String() }

// Problems are everything found wrong in a set, in the order of files and lines.
type Problems []Problem

// Error draws every problem.
func (ps Problems) Error() string {
	drawn := make([]string, len(ps))
	for i, p := range ps {
		drawn[i] = p.String()
	}
	return strings.Join(drawn, "\n")
}

// err is nil without problems, so that a nil error is returned and not an empty list in one.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
	return slices.Compact(ps)
}

// source is one file's text, and what has been found wrong in it.
type source struct {
	name     string
	text     string
	lines    []string
	problems Problems
}

func newSource(name string, text []byte) *source {
	return &source{name: name, text: string(text), lines: strings.Split(string(text), "\n")}
}

// at makes the problem at a place of the file, without noting it. A place in the indentation of a line,
// as that of a block is, is moved to where the line's text begins.
func (s *source) at(line, col int, message, mend string) Problem {
	p := Problem{File: s.name, Line: max(line, 1), Col: max(col, 1), Message: message, Mend: mend}
	if p.Line <= len(s.lines) {
		p.Source = strings.TrimRight(s.lines[p.Line-1], "\r")
		p.Col = max(p.Col, len(p.Source)-len(strings.TrimLeft(p.Source, " \t"))+1)
	}
	return p
}

// report notes a problem.
func (s *source) report(line, col int, mend, format string, args ...any) {
	s.problems = append(s.problems, s.at(line, col, fmt.Sprintf(format, args...), mend))
}

// nearest is the name most like word among names, or "" when none is close.
func nearest(word string, names []string) string {
	best, distance := "", len(word)/3+2
	for _, n := range names {
		if d := edits(word, n); d < distance {
			best, distance = n, d
		}
	}
	return best
}

// edits is the Levenshtein distance of a and b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
