package backtest

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
)

// The longest lists of a page; the rest is a count. The JSON of a report is whole.
const (
	pageEpisodes = 8
	pageRules    = 10
	pageOthers   = 5
)

// WritePage writes the report for people, on one page.
func (r Report) WritePage(out io.Writer) error {
	p := &page{w: tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	p.line("%s to %s UTC%s", moment(r.From), moment(r.To), r.pace())
	if r.Baselines != nil {
		p.line("%s, %.1f key-days; baselines: %s", count(r.Keys, "key"), r.KeyDays, r.Baselines)
	}
	for i := range r.Sets {
		r.Sets[i].write(p, r.To)
	}
	if r.Difference != nil && len(r.Sets) == 2 {
		r.Difference.write(p, r.Sets[0].Name, r.Sets[1].Name)
	}
	for _, n := range r.Notes {
		p.line("note: %s", n)
	}
	if p.err != nil {
		return p.err
	}
	return p.w.Flush()
}

// page writes lines until one fails.
type page struct {
	w   *tabwriter.Writer
	err error
}

func (p *page) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format+"\n", args...)
	}
}

// list writes the first lines of a list, and how many more there are.
func list[T any](p *page, all []T, most int, line func(T)) {
	for i, x := range all {
		if i == most {
			p.line("  … and %d more (--json has all)", len(all)-most)
			return
		}
		line(x)
	}
}

func (r Report) pace() string {
	if r.Every == 0 {
		return ""
	}
	return fmt.Sprintf(", a tick every %s, the watermark %s behind", r.Every, r.Lag)
}

func (b *BaselineUse) String() string {
	all := b.Hour + b.Older + b.Missing
	if all == 0 {
		return "none used"
	}
	share := func(n int64) float64 { return 100 * float64(n) / float64(all) }
	return fmt.Sprintf("%.1f %% of their hour, %.1f %% older, %.1f %% none", share(b.Hour), share(b.Older), share(b.Missing))
}

func (s *SetReport) write(p *page, end time.Time) {
	p.line("")
	p.line("%s, revision %s: %s", strings.ToUpper(s.Name), strings.Join(s.Revision, ", "), count(len(s.Episodes), "episode"))
	if s.Failures > 0 {
		p.line("  could not be asked %d times, the last: %s", s.Failures, s.Failure)
	}
	if len(s.Rules) > 0 {
		p.line("  RULE\tLEVEL\tEPISODES\tKEYS\tLONGEST")
		list(p, s.Rules, pageRules, func(c RuleCount) {
			p.line("  %s\t%s\t%d\t%d\t%s", c.Rule, c.Level, c.Episodes, c.Keys, c.Longest.Round(time.Second))
		})
	}
	if len(s.Acts) > 0 {
		p.line("  PROPOSED\tMODE\tBY\tEPISODES")
		list(p, s.Acts, pageRules, func(c ActCount) { p.line("  %s\t%s\t%s\t%d", c.Action, c.Mode, c.Rule, c.Episodes) })
	}
	s.writeScore(p)
	if len(s.Episodes) > 0 {
		p.line("  FROM\tFOR\tKEY\tLEVEL\tRULE\tCOST\tQUALITY\tSPEND")
		list(p, s.Episodes, pageEpisodes, func(e Episode) { p.line("  %s", e.row(end)) })
	}
}

func (s *SetReport) writeScore(p *page) {
	if s.Score == nil {
		p.line("  precision and recall unknown: no log of incidents was given (--labels)")
		return
	}
	c := s.Score
	p.line("  precision %s, recall %s%s", c.Precision, c.Recall, c.delay())
	list(p, c.Missed, pageOthers, func(l Label) { p.line("  missed %s/%s at %s %s", l.Tenant, l.Model, moment(l.From), l.Note) })
	list(p, c.False, pageOthers, func(i int) {
		e := s.Episodes[i]
		p.line("  false  %s at %s by %s", e.Key, moment(e.From), e.Rule)
	})
	if c.Unlabeled > 0 {
		p.line("  %d episodes of times that the log says nothing of", c.Unlabeled)
	}
}

func (s *Score) delay() string {
	if s.Median == nil {
		return ""
	}
	return fmt.Sprintf(", median delay %s", seconds(*s.Median))
}

// String is "3 of 4, 75 % (30–95)"; the interval is of 95 %.
func (s Share) String() string {
	if s.Rate == nil {
		return "unknown"
	}
	return fmt.Sprintf("%d of %d, %.0f %% (%.0f–%.0f)", s.N, s.Of, 100**s.Rate, 100*s.Low, 100*s.High)
}

func (e Episode) row(end time.Time) string {
	lasted := end.Sub(e.From).Round(time.Second).String() + " (open)"
	if !e.To.IsZero() {
		lasted = e.To.Sub(e.From).Round(time.Second).String()
	}
	f := e.Peak
	if f == nil {
		f = &detect.Facts{}
	}
	return strings.Join([]string{
		moment(e.From), lasted, e.Key.String(), string(e.Level), e.Rule,
		ratio(f.CostKnown, f.CostRatio), ratio(f.QualityKnown, f.QualityRatio), ratio(f.SpendKnown, f.SpendRatio),
	}, "\t")
}

// ratio is a ratio to the baseline for people; one that is not known is "-".
func ratio(known bool, r float64) string {
	if !known {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

func (d *Difference) write(p *page, a, b string) {
	p.line("")
	p.line("DIFFERENCE of %s (A) and %s (B): %d alike, %d only by A, %d only by B, %d by both and different", a, b, d.Same, len(d.OnlyA), len(d.OnlyB), len(d.Changed))
	only := func(name string, all []Episode) {
		list(p, all, pageOthers, func(e Episode) {
			p.line("  only %s\t%s\t%s\t%s\t%s\t%s", name, moment(e.From), e.Key, e.Level, e.Rule, acts(e.Acts))
		})
	}
	only("A", d.OnlyA)
	only("B", d.OnlyB)
	list(p, d.Changed, pageOthers, func(c Changed) {
		what := []string{"B fires " + seconds(c.Later) + " later"}
		if c.Later < 0 {
			what[0] = "B fires " + seconds(-c.Later) + " earlier"
		}
		if c.Level {
			what = append(what, fmt.Sprintf("%s, not %s", c.B.Level, c.A.Level))
		}
		if c.Rule {
			what = append(what, fmt.Sprintf("by %s, not %s", c.B.Rule, c.A.Rule))
		}
		if c.Acts {
			what = append(what, fmt.Sprintf("proposes %s, not %s", acts(c.B.Acts), acts(c.A.Acts)))
		}
		p.line("  both\t%s\t%s\t%s", moment(c.A.From), c.A.Key, strings.Join(what, "; "))
	})
}

func acts(all []Act) string {
	if len(all) == 0 {
		return "nothing"
	}
	var names []string
	for _, a := range all {
		names = append(names, a.String())
	}
	return strings.Join(names, ", then ")
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Second).String()
}

func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
