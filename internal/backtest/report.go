package backtest

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Episode is an incident that a set would have opened.
type Episode struct {
	Key    usage.Key     `json:"key"`
	Level  detect.Level  `json:"level"` // the highest
	From   time.Time     `json:"from"`
	To     time.Time     `json:"to,omitzero"` // zero: still open at the end
	Rule   string        `json:"rule"`        // that fired
	Reason string        `json:"reason"`
	Peak   *detect.Facts `json:"peak"` // those that stood out most
	Acts   []Act         `json:"acts,omitempty"`
}

// Episodes are the incidents in the changes of one set, by their begin. A fire of a key whose incident is open already,
// which two sweeps that overlap can tell twice, opens no other.
func Episodes(changes []Change) []Episode {
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b Change) int { return a.At.Compare(b.At) })
	open := map[usage.Key]int{}
	var all []Episode
	for _, c := range changes {
		i, is := open[c.Key]
		switch {
		case c.Kind == Fire && !is:
			open[c.Key] = len(all)
			all = append(all, Episode{Key: c.Key, Level: c.Level, From: c.At, Rule: c.Rule, Reason: c.Reason, Peak: c.Facts})
			continue
		case !is:
			continue
		}
		e := &all[i]
		switch c.Kind {
		case Escalate:
			e.Level, e.Rule, e.Reason = detect.Page, c.Rule, c.Reason
		case Propose:
			if c.Act != nil && !slices.ContainsFunc(e.Acts, c.Act.same) {
				e.Acts = append(e.Acts, *c.Act)
			}
		case Resolve:
			e.To = c.At
			delete(open, c.Key)
		}
		if c.Facts != nil && (e.Peak == nil || severity(c.Facts) > severity(e.Peak)) {
			e.Peak = c.Facts
		}
	}
	return all
}

// overlaps reports whether the episode was open within grace of [from, to).
func (e *Episode) overlaps(from, to time.Time, grace time.Duration) bool {
	return e.From.Before(to.Add(grace)) && (e.To.IsZero() || e.To.After(from.Add(-grace)))
}

// Report is what came of a backtest, or of some time of shadow mode.
type Report struct {
	From       time.Time     `json:"from"`
	To         time.Time     `json:"to"`
	Every      time.Duration `json:"every_ns,omitempty"` // between two ticks
	Lag        time.Duration `json:"lag_ns,omitempty"`
	Keys       int           `json:"keys,omitempty"`
	KeyDays    float64       `json:"key_days,omitempty"`
	Baselines  *BaselineUse  `json:"baselines,omitempty"`
	Sets       []SetReport   `json:"sets"`
	Difference *Difference   `json:"difference,omitempty"` // of two sets
	Notes      []string      `json:"notes,omitempty"`      // what could not be known
}

// SetReport is what one set made of it.
type SetReport struct {
	Name     string      `json:"name"`
	Revision []string    `json:"revision"` // more than one where the set changed meanwhile
	Episodes []Episode   `json:"episodes"`
	Rules    []RuleCount `json:"rules"`
	Acts     []ActCount  `json:"acts"`
	Score    *Score      `json:"score"` // against a log of incidents; null: there is none, so nothing is known
	Failures int64       `json:"failures,omitempty"`
	Failure  string      `json:"failure,omitempty"` // the last time that the set could not be asked
}

// RuleCount is how often a rule fired.
type RuleCount struct {
	Rule     string        `json:"rule"`
	Level    detect.Level  `json:"level"`
	Episodes int           `json:"episodes"`
	Keys     int           `json:"keys"`
	Longest  time.Duration `json:"longest_ns"`
}

// ActCount is how often an act was proposed.
type ActCount struct {
	Act
	Episodes int `json:"episodes"`
}

// NewSetReport sums up the episodes of a set.
func NewSetReport(name string, revisions []string, changes []Change, end time.Time) SetReport {
	s := SetReport{Name: name, Revision: revisions, Episodes: Episodes(changes)}
	for _, c := range changes {
		if c.Kind == Failed {
			s.Failures++
			s.Failure = c.Reason
		}
	}
	type ruleLevel struct {
		rule  string
		level detect.Level
	}
	rules, keys := map[ruleLevel]*RuleCount{}, map[ruleLevel]map[usage.Key]bool{}
	for i := range s.Episodes {
		e := &s.Episodes[i]
		r := ruleLevel{e.Rule, e.Level}
		if rules[r] == nil {
			rules[r], keys[r] = &RuleCount{Rule: e.Rule, Level: e.Level}, map[usage.Key]bool{}
		}
		rules[r].Episodes++
		keys[r][e.Key] = true
		to := e.To
		if to.IsZero() {
			to = end
		}
		rules[r].Longest = max(rules[r].Longest, to.Sub(e.From))
		for _, a := range e.Acts {
			j := slices.IndexFunc(s.Acts, func(c ActCount) bool { return c.Action == a.Action && c.Mode == a.Mode && c.Rule == a.Rule })
			if j < 0 {
				j = len(s.Acts)
				a.Step, a.Target, a.Reason = "", "", ""
				s.Acts = append(s.Acts, ActCount{Act: a})
			}
			s.Acts[j].Episodes++
		}
	}
	for r, count := range rules {
		count.Keys = len(keys[r])
		s.Rules = append(s.Rules, *count)
	}
	slices.SortFunc(s.Rules, func(a, b RuleCount) int {
		return cmp.Or(cmp.Compare(b.Level, a.Level), b.Episodes-a.Episodes, cmp.Compare(a.Rule, b.Rule))
	})
	slices.SortFunc(s.Acts, func(a, b ActCount) int {
		return cmp.Or(b.Episodes-a.Episodes, cmp.Compare(a.Action, b.Action), cmp.Compare(a.Rule, b.Rule))
	})
	return s
}

// Score is how a set did against a log of incidents.
type Score struct {
	Incidents int      `json:"incidents"`
	Hits      int      `json:"hits"`      // incidents with an episode; many of one incident are one hit
	Missed    []Label  `json:"missed"`    // incidents without one
	False     []int    `json:"false"`     // indexes of episodes that belong to no incident
	Unlabeled int      `json:"unlabeled"` // episodes of times that the log says nothing of
	Precision Share    `json:"precision"` // of hits among hits and false episodes
	Recall    Share    `json:"recall"`    // of hits among incidents
	Delays    []Delay  `json:"delays"`    // of the hits, in the order of the log
	Median    *float64 `json:"median_delay_seconds"`
}

// Delay is how long after an incident's begin a set would have told of it; negative: before.
type Delay struct {
	Label   Label   `json:"incident"`
	Seconds float64 `json:"seconds"`
	Episode int     `json:"episode"` // its index
	Grouped int     `json:"grouped"` // episodes of the incident
}

// Share is n of all with its 95 % interval by Wilson, which holds for the few that there are. Without any, nothing is
// known: the share is null.
type Share struct {
	N    int      `json:"n"`
	Of   int      `json:"of"`
	Rate *float64 `json:"rate"`
	Low  float64  `json:"low"`
	High float64  `json:"high"`
}

// z95 is the normal quantile of a two-sided 95 % interval.
const z95 = 1.959964

// NewShare is n of all.
func NewShare(n, of int) Share {
	s := Share{N: n, Of: of, High: 1}
	if of == 0 {
		return s
	}
	p, m := float64(n)/float64(of), float64(of)
	s.Rate = &p
	centre, half := p+z95*z95/(2*m), z95*math.Sqrt(p*(1-p)/m+z95*z95/(4*m*m))
	s.Low, s.High = max((centre-half)/(1+z95*z95/m), 0), min((centre+half)/(1+z95*z95/m), 1)
	return s
}

// rank orders levels.
func rank(l detect.Level) int {
	switch l {
	case detect.Page:
		return 2
	case detect.Investigate:
		return 1
	}
	return 0
}

// Judge compares episodes with a log of incidents. An episode belongs to an incident of its key when it was open within
// the grace of it; an incident without a model, and a pseudo-key, stand for all of a tenant's. An incident is hit by an
// episode of at least its level, where it names one. Episodes of no incident are false, or, where the log lists quiet
// times, false in those and unlabelled elsewhere.
func Judge(episodes []Episode, labels Labels, grace time.Duration) *Score {
	s := &Score{Incidents: len(labels.Incidents), Missed: []Label{}, False: []int{}, Delays: []Delay{}}
	belongs := make([]bool, len(episodes))
	for _, l := range labels.Incidents {
		d := Delay{Label: l, Episode: -1}
		for i := range episodes {
			e := &episodes[i]
			if !l.of(e.Key) || !e.overlaps(l.From, l.To, grace) {
				continue
			}
			belongs[i] = true
			d.Grouped++
			if rank(e.Level) >= rank(l.Level) && d.Episode < 0 {
				d.Episode, d.Seconds = i, e.From.Sub(l.From).Seconds()
			}
		}
		if d.Episode < 0 {
			s.Missed = append(s.Missed, l)
			continue
		}
		s.Hits++
		s.Delays = append(s.Delays, d)
	}
	for i := range episodes {
		e := &episodes[i]
		switch {
		case belongs[i]:
		case len(labels.Quiet) > 0 && !slices.ContainsFunc(labels.Quiet, func(l Label) bool { return l.of(e.Key) && e.overlaps(l.From, l.To, 0) }):
			s.Unlabeled++
		default:
			s.False = append(s.False, i)
		}
	}
	s.Precision, s.Recall = NewShare(s.Hits, s.Hits+len(s.False)), NewShare(s.Hits, s.Incidents)
	if n := len(s.Delays); n > 0 {
		seconds := make([]float64, n)
		for i, d := range s.Delays {
			seconds[i] = d.Seconds
		}
		slices.Sort(seconds)
		s.Median = &seconds[(n-1)/2]
	}
	return s
}

// Difference is what two sets made of the same differently.
type Difference struct {
	Same    int       `json:"same"`      // episodes of both that are alike
	OnlyA   []Episode `json:"only_a"`    // of the first set
	OnlyB   []Episode `json:"only_b"`    // of the second
	Changed []Changed `json:"different"` // of both
}

// Changed is an episode of both sets that is not the same in both.
type Changed struct {
	A     Episode `json:"a"`
	B     Episode `json:"b"`
	Later float64 `json:"later_seconds"` // how much later the second fired; negative: earlier
	Level bool    `json:"level"`         // levels differ
	Rule  bool    `json:"rule"`
	Acts  bool    `json:"acts"` // what was proposed differs
}

// Compare pairs the episodes of two sets: those of one key that overlap within the grace are of the same thing. Of
// several the first are paired, and what is left over belongs to the same thing too.
func Compare(a, b []Episode, grace, tolerance time.Duration) *Difference {
	d := &Difference{OnlyA: []Episode{}, OnlyB: []Episode{}, Changed: []Changed{}}
	byKey := map[usage.Key][]int{}
	for i := range b {
		byKey[b[i].Key] = append(byKey[b[i].Key], i)
	}
	met := make([]bool, len(b)) // by an episode of a
	for i := range a {
		first := -1
		for _, j := range byKey[a[i].Key] {
			to := a[i].To
			if to.IsZero() {
				to = b[j].From.Add(time.Nanosecond)
			}
			if !b[j].overlaps(a[i].From, to, grace) {
				continue
			}
			if first < 0 && !met[j] {
				first = j
			} else if first < 0 {
				first = -2 // the same thing, paired already
			}
			met[j] = true
		}
		switch {
		case first == -1:
			d.OnlyA = append(d.OnlyA, a[i])
		case first >= 0:
			d.pair(a[i], b[first], tolerance)
		}
	}
	for j := range b {
		if !met[j] {
			d.OnlyB = append(d.OnlyB, b[j])
		}
	}
	return d
}

func (d *Difference) pair(a, b Episode, tolerance time.Duration) {
	later := b.From.Sub(a.From)
	c := Changed{A: a, B: b, Later: later.Seconds(), Level: a.Level != b.Level, Rule: a.Rule != b.Rule, Acts: !slices.EqualFunc(a.Acts, b.Acts, Act.same)}
	if c.Level || c.Rule || c.Acts || later.Abs() > tolerance {
		d.Changed = append(d.Changed, c)
		return
	}
	d.Same++
}
