package stability

import (
	"math/rand/v2"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

var key = usage.Key{Tenant: "t", Model: "usual"}

// rules say what facts are and what is done about an incident: the policies.
type rules struct {
	alert    func(detect.Facts) detect.Verdict
	act      func(policy.ActFacts) policy.Proposal
	shortest bool // take the shortest window with the minimum samples, whatever its noise
}

// loop governs one plant as the workflows govern a key: sweep, alert loop, incident and decision, in
// simulated time. Of the plant it sees what is stored, and it moves it by orders alone.
type loop struct {
	*plant
	rules    rules
	limits   routing.Limits
	holds    alert.Holds
	base     detect.Baseline
	verdict  detect.Verdict // what the last sweep found
	finding  *detect.Facts  // the facts of the last level that was told, "no data" apart
	rule     string         // that said that level
	told     *told          // nil: no alert loop runs
	alert    alert.State
	incident *incident
	act      *act
	lastEnd  time.Time // of an act
	orders   []order   // on their way to where they take effect
	res      result
}

// told is what the sweep told the key's alert loop last.
type told struct {
	level detect.Level
	at    time.Time
}

// order takes effect at its tick: it passes through an update, the store of flags and the gateways'
// snapshots.
type order struct {
	due   int64
	carry func()
}

// later gives an order that takes effect at the next tick or the one after.
func (l *loop) later(carry func()) {
	l.orders = append(l.orders, order{l.ticks + 1 + l.rand.Int64N(2), carry})
}

// simulate runs the loop over a plant for the given time, and on until no flag is on or four hours more
// have passed.
func simulate(p params, seed uint64, rule rules, length time.Duration) result {
	l := &loop{
		plant: newPlant(p, rand.New(rand.NewPCG(seed, 1))), rules: rule, limits: routing.DefaultLimits, holds: alert.DefaultHolds,
		verdict: detect.Verdict{Level: detect.None}, res: result{params: p, detected: -1},
	}
	l.base = l.baseline(l.limits.Minimums)
	if rule.shortest { // without the spread of single calls no window is known to be too noisy
		l.base.LnCostSD, l.base.QualitySD = 0, 0
	}
	l.alert = alert.New(l.clock())
	for l.now < length || l.act != nil && l.now < length+4*time.Hour {
		l.step()
		l.carryOut()
		l.tick(l.clock())
		if p.fault.excuses(l.now) {
			l.res.faulty += tick
		} else {
			l.res.quiet += tick
		}
	}
	if l.act != nil {
		l.ended(l.act, "")
	}
	return l.res
}

func (l *loop) carryOut() {
	due := l.orders
	l.orders = nil
	for _, o := range due {
		if o.due <= l.ticks {
			o.carry()
		} else {
			l.orders = append(l.orders, o)
		}
	}
}

// tick is what everybody does in one interval of the sweep.
func (l *loop) tick(now time.Time) {
	fact := l.sweep(now)
	if fact != nil || l.alert.Phase != alert.Quiet {
		l.advance(alert.Event{Fact: fact}, now)
	}
	if l.incident != nil {
		l.walk(now)
	}
	if l.act != nil {
		l.watch(now)
	}
}

// sweep judges the key at the watermark, and returns what its alert loop is to hear: changes of level,
// and the state of an open loop once a minute.
func (l *loop) sweep(now time.Time) *alert.Fact {
	active := detect.None
	if l.told != nil {
		active = l.told.level
	}
	o, seen := l.observe()
	if !seen {
		return nil
	}
	var facts detect.Facts
	if l.fresh {
		l.fresh = false
		facts = detect.Assemble(o, l.base, l.limits.Minimums, active)
		l.verdict = detect.Verdict{Level: detect.None}
		if l.told != nil || detect.Candidate(facts) {
			l.verdict = l.rules.alert(facts)
		}
	}
	level := l.verdict.Level
	up := level == detect.Page || level == detect.Investigate
	switch {
	case l.told == nil && !up:
		return nil
	case l.told != nil && (level == l.told.level || level == detect.Inconclusive) && now.Sub(l.told.at) < time.Minute:
		return nil
	}
	if facts.Tenant == "" {
		facts = detect.Assemble(o, l.base, l.limits.Minimums, active)
	}
	if level != detect.Inconclusive {
		l.finding, l.rule = &facts, l.verdict.Rule
	}
	if l.told == nil || level != detect.Inconclusive {
		l.fresh = l.fresh || l.told == nil || l.told.level != level // the next tick is judged from another level
		l.told = &told{level: level}
	}
	l.told.at = now
	return &alert.Fact{Tick: l.ticks, EvaluatedAt: epoch.Add(l.watermark), Level: level}
}

// advance steps the alert and carries out what follows.
func (l *loop) advance(e alert.Event, now time.Time) {
	var effects []alert.Effect
	l.alert, effects = alert.Step(l.alert, e, l.holds, now)
	for _, effect := range effects {
		switch effect {
		case alert.Fire:
			l.incident = newIncident(l.alert.Peak, *l.finding, now)
			l.raised(l.alert.Peak)
		case alert.Escalate:
			l.incident.level, l.incident.facts, l.incident.reconsider = detect.Page, *l.finding, true
			l.raised(detect.Page)
		case alert.Refire:
			l.incident.facts, l.incident.reconsider = *l.finding, true
		case alert.Resolve:
			l.incident = nil
			l.later(func() { l.scoreAll = l.incident != nil && l.incident.scoring })
		}
	}
	if l.alert.Idle() && l.told != nil && l.told.level == detect.None {
		l.told = nil
	}
}

// flags tells the alert how many flags touch where calls go.
func (l *loop) flags(n int) { l.advance(alert.Event{Flags: &n}, l.clock()) }

// act is one decision with its flag on, or on its way there.
type act struct {
	deed
	action  policy.Action
	rollout routing.Rollout
	on      bool  // the share last ordered is applied
	since   int64 // the tick at which it was
}

// begin orders an act's first share.
func (l *loop) begin(action policy.Action, plan routing.Plan, auto bool, now time.Time) {
	goal, other := routing.CutCost, l.cheaper
	if action == policy.Upgrade {
		goal, other = routing.MendQuality, l.better
	}
	l.act = &act{action: action, rollout: routing.Start(plan, l.limits, goal, now), deed: deed{auto: auto, plan: plan, start: l.now}}
	l.other = other
	l.again()
	l.apply(l.act, l.act.rollout.Share())
}

// apply orders a share. The rollout counts from when it is set, and is not watched meanwhile.
func (l *loop) apply(a *act, share float64) {
	a.on = false
	l.later(func() {
		l.share = share
		if a.rollout.Phase == routing.Ended {
			l.ended(a, a.rollout.Outcome)
			return
		}
		a.on, a.since, a.rollout.Since = true, l.ticks, l.clock()
		l.flags(1)
		l.score()
	})
}

// ended closes an act whose flag is off; without an outcome it is still on when the simulation ends.
func (l *loop) ended(a *act, o routing.Outcome) {
	a.end, a.outcome, a.reversals = l.now, o, a.rollout.Reversals
	l.res.acts = append(l.res.acts, a.deed)
	if o == "" {
		return
	}
	l.act, l.lastEnd = nil, l.clock()
	l.res.let = true
	if l.incident != nil && o == routing.Reverted {
		l.incident.reverted = append(l.incident.reverted, a.action)
	}
	l.flags(0)
}

// watch looks at the rollout every third tick.
func (l *loop) watch(now time.Time) {
	a := l.act
	if !a.on || (l.ticks-a.since)%3 != 0 {
		return
	}
	next, do := a.rollout.Step(routing.Observation{Minutes: l.minutes(l.now), Baseline: l.base}, now)
	a.rollout = next
	if do.Change {
		l.apply(a, do.Share)
	}
}

// deed is what became of an act.
type deed struct {
	auto       bool // without asking anybody
	plan       routing.Plan
	start, end time.Duration
	outcome    routing.Outcome // empty: its flag is still on
	reversals  int
}

// result is what the loop did to one plant.
type result struct {
	params
	faulty, quiet time.Duration // simulated: in a fault that pages and its grace, and outside
	incidents     []raised
	pages         []time.Duration
	falsePages    int           // outside a fault that pages and its grace
	detected      time.Duration // from the fault's start to the page, or the incident where none is due; −1: never
	raisedAgain   int           // pages and acts of one fault after an act of it had ended
	acts          []deed
	let           bool // an act has ended since the last page or act
}

// raised is an incident that opened, or rose to a PAGE, and the rule that said so.
type raised struct {
	at    time.Duration
	level detect.Level
	rule  string
}

// raised records an incident that opens at a level, or rises to it.
func (l *loop) raised(level detect.Level) {
	l.res.incidents = append(l.res.incidents, raised{l.now, level, l.rule})
	f := l.fault
	due := f != nil && l.now >= f.start && l.now < f.end+grace
	if due && l.res.detected < 0 && (level == detect.Page || !f.kind.pages()) {
		l.res.detected = l.now - f.start
	}
	if level != detect.Page {
		return
	}
	l.res.pages = append(l.res.pages, l.now)
	if !f.excuses(l.now) {
		l.res.falsePages++
	}
	l.again()
}

// again counts a page or an act that follows an act's end within one fault.
func (l *loop) again() {
	if l.res.let && l.fault.excuses(l.now) {
		l.res.raisedAgain++
	}
	l.res.let = false
}

// reversals are the changes of mind about one fault: releases taken back, and what was raised again.
func (r *result) reversals() int {
	n := r.raisedAgain
	for _, d := range r.acts {
		n += d.reversals
	}
	return n
}
