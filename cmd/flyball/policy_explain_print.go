package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
)

// nearEnough is how far the numbers of a rule that did not hold may be off, as a share, for it to be called near.
const nearEnough = 0.25

// printExplained is the explanation for people: the answer first, then what it comes from.
func printExplained(out io.Writer, e explained) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, revision %s\n", e.Trace.Policy, e.Trace.Revision)
	if e.Key != nil {
		fmt.Fprint(&b, *e.Key)
		if e.At != nil {
			fmt.Fprintf(&b, " at %s", e.At.Format(time.RFC3339))
		}
		b.WriteString(", ")
	}
	fmt.Fprintf(&b, "from %s\n", e.Source)
	for _, n := range e.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	b.WriteString("\n" + answered(e.Trace) + "\n")
	writeFacts(&b, e.Trace.Facts)
	writeVariables(&b, e.Trace.Variables)
	writeRules(&b, e.Trace.Rules)
	writeNear(&b, e.Trace.Rules)
	_, err := io.WriteString(out, trailing.ReplaceAllString(b.String(), "\n"))
	return err
}

// trailing are the blanks that a table leaves behind a last cell that is empty.
var trailing = regexp.MustCompile(` +\n`)

// answered is the policy's answer in a line or two.
func answered(t policy.Trace) string {
	if t.Error != "" {
		return "FAILED  " + strings.ReplaceAll(t.Error, "\n", "\n        ")
	}
	switch o := t.Output.(type) {
	case detect.Verdict:
		return fmt.Sprintf("%s  by %s\n  %s", o.Level, t.Fired, o.Reason)
	case policy.Proposal:
		text := string(o.Action)
		if o.Target != "" {
			text += " " + toward(string(o.Action)) + " " + o.Target
		}
		text += fmt.Sprintf(", %s  by %s\n  %s", o.Mode, t.Fired, o.Reason)
		if o.Mode != policy.Never {
			text += fmt.Sprintf("\n  asks %s, within %v", cmp.Or(strings.Join(o.Approvers, ", "), "anybody"), o.Expiry)
		}
		return text
	case policy.Sample:
		return fmt.Sprintf("%g %% of calls are scored  by %s", 100*o.Rate, t.Fired)
	}
	return fmt.Sprint(t.Output)
}

// writeFacts lists the facts that say something, and names the others.
func writeFacts(b *strings.Builder, facts []policy.Fact) {
	b.WriteString("\nFACTS\n")
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	var neutral []string
	for _, f := range facts {
		if f.Neutral {
			neutral = append(neutral, f.Name)
			continue
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\t%s\n", f.Name, f.Type, f, short(f.Doc, 100))
	}
	_ = table.Flush() // into memory
	if len(neutral) > 0 {
		b.WriteString(wrap("  not known, or as usual: ", strings.Join(neutral, ", ")))
	}
}

// writeVariables lists those that the rules which were reached mention. A constant is shown where it is used.
func writeVariables(b *strings.Builder, variables []policy.Variable) {
	used := slices.DeleteFunc(slices.Clone(variables), func(v policy.Variable) bool { return !v.Used || v.Constant })
	if len(used) == 0 {
		return
	}
	b.WriteString("\nVARIABLES\n")
	table := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, v := range used {
		fmt.Fprintf(table, "  %s\t%s\t%s\n", strings.TrimPrefix(v.Name, "variables."), short(v.Value, 60), short(strings.Join(strings.Fields(v.Text), " "), 60))
	}
	_ = table.Flush()
}

func short(text string, runes int) string {
	if utf8.RuneCountInString(text) <= runes {
		return text
	}
	return string([]rune(text)[:runes-1]) + "…"
}

// marks stand before a rule.
var marks = map[policy.Outcome]string{policy.Fired: "▶", policy.Held: "✓", policy.DidNotHold: "✗", policy.Failed: "!"}

// shouts are the outcomes that an eye looks for.
var shouts = map[policy.Outcome]string{policy.Fired: "FIRED", policy.Failed: "FAILED"}

// writeRules lists the rules that were reached: of those that did not hold what kept them from it, of the others
// everything. Those after the one that fired are named.
func writeRules(b *strings.Builder, rules []policy.Rule) {
	b.WriteString("\nRULES\n")
	var rest []string
	for _, r := range rules {
		if r.Outcome == policy.NotReached {
			if r.Rule != "" {
				rest = append(rest, r.Rule)
			}
			continue
		}
		indent := strings.Repeat("  ", r.Depth)
		fmt.Fprintf(b, "%s%s %s  %s", indent, marks[r.Outcome], cmp.Or(r.Rule, "nested rule"), cmp.Or(shouts[r.Outcome], string(r.Outcome)))
		fmt.Fprintf(b, "  (%s:%d:%d)\n", r.File, r.Line, r.Col)
		switch {
		case r.Why == nil:
			fmt.Fprintf(b, "%s    without a condition\n", indent)
		case r.Outcome == policy.DidNotHold:
			writeBlockers(b, *r.Why, indent+"    ")
		default:
			writeTop(b, *r.Why, indent+"    ")
		}
	}
	if len(rest) > 0 {
		b.WriteString(wrap("  not reached: ", strings.Join(rest, ", ")))
	}
}

// writeBlockers draws what keeps a condition from holding: what no number could change, else every number.
func writeBlockers(b *strings.Builder, p policy.Part, indent string) {
	if p.Op != "and" {
		writePart(b, p, indent)
		return
	}
	failing := slices.DeleteFunc(slices.Clone(p.Parts), func(q policy.Part) bool { return q.Value == "true" })
	hard := slices.DeleteFunc(slices.Clone(failing), policy.Part.Numeric)
	if len(hard) > 0 {
		failing = hard
	}
	for _, q := range failing {
		writePart(b, q, indent)
	}
}

// writeTop draws a whole condition. The operands of one that joins several are enough.
func writeTop(b *strings.Builder, p policy.Part, indent string) {
	if p.Op != "and" {
		writePart(b, p, indent)
		return
	}
	for _, q := range p.Parts {
		writePart(b, q, indent)
	}
}

// writePart draws a part of a condition and what it consists of.
func writePart(b *strings.Builder, p policy.Part, indent string) {
	text, operands := p.Text, p.Parts
	switch {
	case p.Op == "" && len(p.Parts) == 1 && len(p.Parts[0].Parts) == 0: // a variable that is one comparison
		text, p.Short, operands = p.Text+": "+p.Parts[0].Text, p.Parts[0].Short, nil
	case p.Op == "not" && len(p.Parts[0].Parts) == 0 && !strings.Contains(p.Parts[0].Text, " "): // of a fact
		operands = nil
	case p.Op == "or" && strings.Contains(text, "||"):
		text = "one of these"
	case p.Op == "and" && strings.Contains(text, "&&"):
		text = "all of these"
	}
	fmt.Fprintf(b, "%s%s → %s", indent, text, p.Value)
	if p.Short > 0 {
		fmt.Fprintf(b, "   (%.3g apart)", p.Short)
	}
	b.WriteByte('\n')
	for _, q := range operands {
		writePart(b, q, indent+"  ")
	}
}

// writeNear names the rules whose numbers were not far from holding, the nearest first.
func writeNear(b *strings.Builder, rules []policy.Rule) {
	near := slices.DeleteFunc(slices.Clone(rules), func(r policy.Rule) bool { return r.Near == nil || *r.Near > nearEnough || r.Rule == "" })
	if len(near) == 0 {
		return
	}
	slices.SortStableFunc(near, func(x, y policy.Rule) int { return cmp.Compare(*x.Near, *y.Near) })
	b.WriteString("\nNEAR, by what their numbers lack\n")
	for _, r := range near {
		fmt.Fprintf(b, "  %s  %.1f %%\n", r.Rule, 100**r.Near)
	}
}

// wrap breaks a list after commas at about a hundred characters, indented below its title.
func wrap(title, list string) string {
	var b strings.Builder
	b.WriteString(title)
	width := utf8.RuneCountInString(title)
	for i, word := range strings.SplitAfter(list, ", ") {
		if n := utf8.RuneCountInString(word); i > 0 && width+n > 110 {
			b.WriteString("\n    ")
			width = 4
		}
		b.WriteString(word)
		width += utf8.RuneCountInString(word)
	}
	return strings.ReplaceAll(b.String(), ", \n", ",\n") + "\n"
}
