package contract

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Drill is the workflow type of a drill: faults in the calls of a marked tenant, made up and sent through the real
// pipeline, and what became of them against the objectives.
const Drill = "Drill"

// The faults of a drill.
const (
	DrillCost    = "cost"    // calls cost Factor times as much, and score CostScores times as high
	DrillQuality = "quality" // calls score QualityFactor times as high
)

// DrillInput starts a drill. What is zero is the usual.
type DrillInput struct {
	Tenant        string        `json:"tenant"`                   // flyball-drill or flyball-drill-<name>
	Model         string        `json:"model"`                    // that its calls ask for
	Faults        []string      `json:"faults"`                   // one after the other
	Factor        float64       `json:"factor,omitempty"`         // of a cost fault
	CostScores    float64       `json:"cost_scores,omitempty"`    // factor on the scores of a cost fault; 1: cost alone, which pages nobody
	QualityFactor float64       `json:"quality_factor,omitempty"` // of a quality fault
	Rate          float64       `json:"rate,omitempty"`           // calls a second
	Scored        float64       `json:"scored,omitempty"`         // share of the calls that are scored, where no flag raises it
	WarmUp        time.Duration `json:"warm_up,omitempty"`        // steady traffic before the first fault
	For           time.Duration `json:"for,omitempty"`            // how long each fault lasts at the most; 0: as long as its objectives allow
	Window        string        `json:"window,omitempty"`         // 02:00-04:00, UTC: it begins within it, and its faults end with it; empty: at once
	Watch         bool          `json:"watch,omitempty"`          // approve nothing: acts stay proposals
	SLO           DrillSLO      `json:"slo"`                      // in place of the deployment's
	Who           string        `json:"who,omitempty"`
	Schedule      string        `json:"schedule,omitempty"` // by which it was started
}

// The usual numbers of a drill. At five calls a second and a tenth of them scored the objectives are stated.
const (
	drillModel   = "claude-3-sonnet" // which has a cheaper and a better model beside it, so that both kinds of act are proposed
	drillFactor  = 10
	drillScores  = 0.8
	drillQuality = 0.5
	drillRate    = 5
	drillScored  = 0.1
	drillWarmUp  = 2 * time.Minute
)

// WithDefaults fills in what is zero.
func (d DrillInput) WithDefaults() DrillInput {
	or := func(v *float64, usual float64) {
		if *v == 0 {
			*v = usual
		}
	}
	if d.Tenant == "" {
		d.Tenant = usage.DrillPrefix
	}
	if d.Model == "" {
		d.Model = drillModel
	}
	if len(d.Faults) == 0 {
		d.Faults = []string{DrillCost, DrillQuality}
	}
	or(&d.Factor, drillFactor)
	or(&d.CostScores, drillScores)
	or(&d.QualityFactor, drillQuality)
	or(&d.Rate, drillRate)
	or(&d.Scored, drillScored)
	if d.WarmUp == 0 {
		d.WarmUp = drillWarmUp
	}
	return d
}

// Key is the one whose calls are made up.
func (d DrillInput) Key() usage.Key { return usage.Key{Tenant: d.Tenant, Model: d.Model} }

// The bounds of a drill: enough calls for a baseline (50 in a quarter of an hour), and no load test.
const (
	minDrillRate = 0.5
	maxDrillRate = 50
	maxDrillFor  = 2 * time.Hour
)

// Validate says what is wrong with a drill whose defaults are filled in.
func (d DrillInput) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(usage.IsDrill(d.Tenant), "tenant: %q is no drill's; drills strike %s or %s-<name> alone", d.Tenant, usage.DrillPrefix, usage.DrillPrefix)
	check(d.Model != "" && d.Model != usage.AnyModel, "model: name one")
	for i, f := range d.Faults {
		check(f == DrillCost || f == DrillQuality, "faults: %q is neither %s nor %s", f, DrillCost, DrillQuality)
		check(!slices.Contains(d.Faults[:i], f), "faults: %s is there twice", f)
	}
	check(d.Factor > 1 && d.Factor <= 100, "factor: %g is not above 1 and at most 100", d.Factor)
	check(d.CostScores > 0 && d.CostScores <= 1, "cost_scores: %g is not above 0 and at most 1", d.CostScores)
	check(d.QualityFactor > 0 && d.QualityFactor < 0.7, "quality_factor: %g is not above 0 and below 0.7, where quality alone pages", d.QualityFactor)
	check(d.Rate >= minDrillRate && d.Rate <= maxDrillRate, "rate: %g is not between %g and %d calls a second", d.Rate, minDrillRate, maxDrillRate)
	check(d.Scored > 0 && d.Scored <= 1, "scored: %g is not above 0 and at most 1", d.Scored)
	check(d.WarmUp >= 0 && d.WarmUp <= time.Hour, "warm_up: %s is not between 0 and an hour", d.WarmUp)
	check(d.For >= 0 && d.For <= maxDrillFor, "for: %s is not between 0 and %s", d.For, maxDrillFor)
	for _, slo := range []time.Duration{d.SLO.Detect, d.SLO.Tell, d.SLO.Propose, d.SLO.Obey, d.SLO.Full, d.SLO.Release} {
		check(slo >= 0, "slo: %s is negative", slo)
	}
	if d.Window != "" {
		_, err := ParseWindow(d.Window)
		check(err == nil, "window: %v", err)
	}
	return errors.Join(errs...)
}

// Pages reports whether the fault is one that pages and is acted on. Cost alone is looked at and never acted on.
func (d DrillInput) Pages(fault string) bool { return fault != DrillCost || d.CostScores < 0.85 }

// DrillSLO is how long each step may take. Zero is the deployment's.
type DrillSLO struct {
	Detect  time.Duration `json:"detect,omitempty"`  // from the fault's begin to the incident
	Tell    time.Duration `json:"tell,omitempty"`    // from the first tick that found it until the channel had the notice, the hold included
	Propose time.Duration `json:"propose,omitempty"` // from the incident to what is to be done
	Obey    time.Duration `json:"obey,omitempty"`    // from the approval to the first call that goes elsewhere
	Full    time.Duration `json:"full,omitempty"`    // from there to the last share of the rollout, each step proved
	Release time.Duration `json:"release,omitempty"` // from the fault's end until every flag is off
}

// What the objectives are made of. The hold's share follows the deployment's tuning, and so do rollout and release;
// a finding waits for samples, which come at the traffic's pace whatever the tuning.
const (
	drillDetect  = 2 * time.Minute
	drillTell    = 10 * time.Second // beside the hold
	drillPropose = 30 * time.Second
	drillObey    = 30 * time.Second
	drillRelease = 20 * time.Minute
	drillLeast   = 6 * time.Minute // of a release at any pace: the holdback must refill its window
)

// DrillSLOs are the objectives of a deployment with the tuning: those of the product at five calls a second of which
// a tenth is scored.
func DrillSLOs(t Tuning) DrillSLO {
	return DrillSLO{
		Detect: drillDetect, Tell: t.Holds.Page + drillTell, Propose: drillPropose, Obey: drillObey,
		Full:    2*t.Limits.SampleWithin + 4*t.Limits.Dwell,
		Release: max(t.Scaled(drillRelease), drillLeast),
	}
}

// Or fills in what is zero.
func (s DrillSLO) Or(usual DrillSLO) DrillSLO {
	for _, f := range []struct {
		have  *time.Duration
		usual time.Duration
	}{
		{&s.Detect, usual.Detect}, {&s.Tell, usual.Tell}, {&s.Propose, usual.Propose}, {&s.Obey, usual.Obey}, {&s.Full, usual.Full}, {&s.Release, usual.Release},
	} {
		if *f.have == 0 {
			*f.have = f.usual
		}
	}
	return s
}

// The steps that a fault takes through the loop, in their order.
const (
	DrillFound    = "found"    // the sweep has a finding
	DrillOpened   = "opened"   // an incident is open at the level that was to come
	DrillTold     = "told"     // the channel of drills has the notice
	DrillProposed = "proposed" // act.yaml wants something done
	DrillObeyed   = "obeyed"   // the first call goes elsewhere
	DrillFull     = "full"     // the rollout is at its last share
	DrillReleased = "released" // the fault is over and every flag is off
	DrillClosed   = "closed"   // the incident has ended
)

// The verdicts on a step and on a drill.
const (
	DrillPass    = "PASS"
	DrillFail    = "FAIL"
	DrillAborted = "ABORTED" // of a drill alone: it could not be walked to its end
)

// DrillOverlap is why a drill was left out.
const DrillOverlap = "another drill of the tenant was under way"

// DrillMeasure is one step of one fault.
type DrillMeasure struct {
	Fault   string        `json:"fault"`
	Step    string        `json:"step"`
	Since   string        `json:"since"`         // what it is measured from
	At      time.Time     `json:"at,omitzero"`   // zero: it did not come
	Took    time.Duration `json:"took,omitzero"` // where it did not come, how long it was waited for
	SLO     time.Duration `json:"slo,omitzero"`  // zero: none is set
	Verdict string        `json:"verdict,omitempty"`
	Note    string        `json:"note,omitempty"`
}

// DrillResult is what a drill showed.
type DrillResult struct {
	Tenant    string         `json:"tenant"`
	Model     string         `json:"model"`
	Schedule  string         `json:"schedule,omitempty"`
	Who       string         `json:"who,omitempty"`
	Began     time.Time      `json:"began"`
	Ended     time.Time      `json:"ended"`
	Verdict   string         `json:"verdict"`
	Reason    string         `json:"reason"`
	Away      bool           `json:"away,omitempty"` // it was aborted because a service did not answer
	Measures  []DrillMeasure `json:"measures"`
	Incidents []string       `json:"incidents,omitempty"`
	Calls     int64          `json:"calls"`
	Left      string         `json:"left,omitempty"` // what could not be cleaned up; empty: nothing
}

// DrillProgress is where a drill stands; its activity's heartbeat carries it.
type DrillProgress struct {
	Phase   string        `json:"phase"`   // history, baseline, warm-up, a fault, its recovery, cleaning up
	Waiting string        `json:"waiting"` // for what
	Since   time.Time     `json:"since"`
	Bound   time.Duration `json:"bound,omitzero"` // how long that may take
	Result  DrillResult   `json:"result"`         // so far
}

// DrillState answers the drill's query.
type DrillState struct {
	Input  DrillInput  `json:"input"`
	Phase  string      `json:"phase"` // waiting, running, ended
	Until  time.Time   `json:"until,omitzero"`
	Result DrillResult `json:"result"`
}

// DrillRequest asks an activity to run a drill.
type DrillRequest struct {
	Input DrillInput `json:"input"`
	Until time.Time  `json:"until,omitzero"` // the end of its window; zero: none
}

// DrillID is the id of the tenant's drill: of two, the second is refused.
func DrillID(tenant string) string { return "drill/" + segment(tenant) }

// DrillSchedule is the id of the schedule of the name.
func DrillSchedule(name string) string { return drillSchedules + name }

// DrillScheduleName reads the name back out of the id of a schedule; false: it is of something else.
func DrillScheduleName(id string) (string, bool) { return strings.CutPrefix(id, drillSchedules) }

const drillSchedules = "drill/"

// Window is a time of each day, in UTC. One that ends before it begins goes over midnight.
type Window struct{ From, To time.Duration }

// ParseWindow reads a window: 02:00-04:00.
func ParseWindow(s string) (w Window, err error) {
	from, to, ok := strings.Cut(s, "-")
	if ok {
		if w.From, err = timeOfDay(from); err == nil {
			w.To, err = timeOfDay(to)
		}
	}
	switch {
	case !ok || err != nil:
		return w, fmt.Errorf("%q is no window like 02:00-04:00 (UTC)", s)
	case w.From == w.To:
		return w, fmt.Errorf("the window %q is empty", s)
	}
	return w, nil
}

func timeOfDay(s string) (time.Duration, error) {
	t, err := time.Parse("15:04", strings.TrimSpace(s))
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, err
}

// Next is the window that now lies in, else the next to come.
func (w Window) Next(now time.Time) (from, to time.Time) {
	length := w.To - w.From
	if length <= 0 {
		length += 24 * time.Hour
	}
	from = now.UTC().Truncate(24 * time.Hour).Add(w.From - 24*time.Hour)
	for !now.Before(from.Add(length)) {
		from = from.Add(24 * time.Hour)
	}
	return from, from.Add(length)
}

// Passed judges the measures: every one with an objective has met it.
func (r DrillResult) Passed() bool {
	return len(r.Measures) > 0 && !slices.ContainsFunc(r.Measures, func(m DrillMeasure) bool { return m.Verdict == DrillFail })
}

// Title is the drill in one line.
func (r DrillResult) Title() string {
	met, set := 0, 0
	for _, m := range r.Measures {
		if m.Verdict != "" {
			set++
		}
		if m.Verdict == DrillPass {
			met++
		}
	}
	return fmt.Sprintf("Drill of %s/%s: %s, %d of %d objectives met", r.Tenant, r.Model, r.Verdict, met, set)
}

// Markdown is the report for people.
func (r DrillResult) Markdown() string {
	var b strings.Builder
	b.WriteString(fmt.Sprintf("**%s**: %s.\n\n", r.Verdict, strings.TrimRight(r.Reason, ". ")))
	b.WriteString(fmt.Sprintf("%s UTC, %s, %d calls made up.\n", r.Began.UTC().Format("2006-01-02 15:04:05"), r.Ended.Sub(r.Began).Round(time.Second), r.Calls))
	if len(r.Measures) > 0 {
		b.WriteString("\n| fault | step | took | objective | verdict | |\n| --- | --- | --- | --- | --- | --- |\n")
	}
	for _, m := range r.Measures {
		b.WriteString(fmt.Sprintf("| %s | %s | %s | %s | %s | %s |\n", m.Fault, m.Step, m.TookText(), m.SLOText(), m.Verdict, strings.ReplaceAll(m.Note, "|", "/")))
	}
	for _, id := range r.Incidents {
		b.WriteString(fmt.Sprintf("\nIncident `%s`.\n", id))
	}
	if r.Left != "" {
		b.WriteString(fmt.Sprintf("\n**Left behind**: %s.\n", r.Left))
	}
	return b.String()
}

// TookText is how long the step took.
func (m DrillMeasure) TookText() string {
	took := m.Took.Round(100 * time.Millisecond).String()
	if m.At.IsZero() {
		return "not within " + took
	}
	return took
}

// SLOText is the objective; a dash where none is set.
func (m DrillMeasure) SLOText() string {
	if m.SLO == 0 {
		return "–"
	}
	return "≤ " + m.SLO.String()
}
