package drill

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
)

type flag = routing.Flag

// course follows one fault through the loop.
type course struct {
	*drill
	fault    string
	level    detect.Level // that is to come
	acted    bool         // an act is to come
	began    time.Time
	risen    time.Time            // when the finding was first at the level
	ended    time.Time            // zero: it lasts
	at       map[string]time.Time // when each step was seen
	notes    map[string]string
	incident string
	approved time.Time
	asked    time.Time // when a decision was last answered
	yes      bool      // the act was approved by the drill
	rerouted int64     // calls that went elsewhere before the act
}

// fault strikes, follows the fault to the act's last share, ends it, and follows its end.
func (d *drill) fault(ctx context.Context, fault string) error {
	c := &course{drill: d, fault: fault, level: detect.Investigate, at: map[string]time.Time{}, notes: map[string]string{}}
	if c.acted = d.in.Pages(fault); c.acted {
		c.level = detect.Page
	}
	lasts := c.lasts()
	if !d.until.IsZero() {
		lasts = min(lasts, time.Until(d.until))
	}
	_, c.rerouted = d.traffic.Calls()
	if err := d.traffic.Strike(fault, lasts+time.Minute); err != nil {
		return err
	}
	c.began = time.Now()
	defer func() { d.result.Measures = append(d.result.Measures, c.measures()...) }()
	d.enter("fault "+fault, c.waiting(), lasts)
	settled := time.Time{}
	if _, err := d.look(ctx, func(ctx context.Context) (bool, error) {
		err := c.see(ctx)
		if d.phase.Waiting = c.waiting(); err != nil || d.phase.Waiting != "" {
			return false, err
		}
		d.phase.Waiting = "it to settle"
		if settled.IsZero() {
			settled = time.Now()
		}
		return time.Since(settled) >= settleFor, nil // at its last share, or the end would be that of the rise
	}); err != nil {
		return err
	}
	d.traffic.Heal()
	c.ended = time.Now()
	d.enter("end of "+fault, "every flag to be off and the incident to end", d.slo.Release+d.tuning.Holds.Recovery+quietWithin)
	_, err := d.look(ctx, func(ctx context.Context) (bool, error) { return c.over(ctx) })
	return err
}

// lasts is how long the fault lasts at the most: what its objectives allow, and a fifth for those that are missed,
// so that by how much shows.
func (c *course) lasts() time.Duration {
	if c.in.For > 0 {
		return c.in.For
	}
	d := c.slo.Detect + c.slo.Tell
	if c.acted {
		d += c.slo.Propose
		if !c.in.Watch {
			d += c.slo.Obey + c.slo.Full
		}
	}
	return d*6/5 + settleFor
}

// steps are those that are to come while the fault lasts, in their order.
func (c *course) steps() []string {
	steps := []string{contract.DrillFound, contract.DrillOpened, contract.DrillTold}
	if c.acted {
		steps = append(steps, contract.DrillProposed)
		if !c.in.Watch {
			steps = append(steps, contract.DrillObeyed, contract.DrillFull)
		}
	}
	return steps
}

// waitings are what people read of a step that has not come yet.
var waitings = map[string]string{
	contract.DrillFound: "the sweep to find it", contract.DrillOpened: "an incident", contract.DrillTold: "the notice to be out",
	contract.DrillProposed: "an act to be proposed", contract.DrillObeyed: "the first call to go elsewhere", contract.DrillFull: "the rollout's last share",
}

// waiting is what the fault waits for; empty: nothing.
func (c *course) waiting() string {
	for _, step := range c.steps() {
		if c.at[step].IsZero() {
			return waitings[step]
		}
	}
	return ""
}

func (c *course) reached(step string, at time.Time) {
	if c.at[step].IsZero() {
		c.at[step] = at.UTC()
	}
}

// see looks at the key's loop, its incident and the act.
func (c *course) see(ctx context.Context) error {
	alert, err := c.Loop.Alert(ctx, c.key)
	if err != nil {
		return err
	}
	// A tick judged by the worker's clock, which need not be ours to the second: nothing is found before it began.
	if f := alert.Finding; f != nil && found(f.Verdict.Level) && f.EvaluatedAt.After(c.began.Add(-time.Minute)) {
		at := time.Now()
		if tick := time.UnixMilli(f.Tick); tick.Before(at) && tick.After(c.began) {
			at = tick
		}
		c.reached(contract.DrillFound, at)
		if c.risen.IsZero() && (f.Verdict.Level == c.level || f.Verdict.Level == detect.Page) {
			c.risen = at
		}
	}
	if alert.Incident != "" && c.incident == "" {
		c.incident = alert.Incident
		c.result.Incidents = append(c.result.Incidents, alert.Incident)
	}
	if c.incident == "" {
		return nil
	}
	state, err := c.Loop.Incident(ctx, c.incident)
	if err != nil {
		return err
	}
	if err := c.seeOpened(ctx, state); err != nil {
		return err
	}
	return c.seeActed(ctx, state)
}

// seeOpened looks at whether the incident is at its level and people know.
func (c *course) seeOpened(ctx context.Context, s contract.IncidentState) error {
	if s.Level == c.level || s.Level == detect.Page {
		at := time.Now()
		if s.Input.Level == s.Level { // from the first on
			at = s.Input.Opened
		}
		c.reached(contract.DrillOpened, at)
		c.notes[contract.DrillOpened] = string(s.Level) + " by " + s.Finding.Verdict.Rule
	}
	if c.at[contract.DrillOpened].IsZero() || !c.at[contract.DrillTold].IsZero() {
		return nil
	}
	told, err := c.Loop.Told(ctx, c.incident, s.Level)
	if err != nil || told == nil {
		return err
	}
	switch r := told.Result; {
	case r.Muted != "":
		c.notes[contract.DrillTold] = "muted: " + r.Muted // nobody was told, and so it has not come
		return nil
	case len(r.Posted) == 0:
		c.notes[contract.DrillTold] = "no channel is configured for drills: the worker's log and the console's inbox have it"
	default:
		c.notes[contract.DrillTold] = "by " + strings.Join(r.Posted, ", ")
	}
	c.reached(contract.DrillTold, told.At)
	return nil
}

// seeActed looks at the act, and approves it.
func (c *course) seeActed(ctx context.Context, s contract.IncidentState) error {
	if !c.acted {
		return nil
	}
	i := slices.IndexFunc(s.Decisions, func(d contract.DecisionSummary) bool { return d.Kind == routing.Route || d.Kind == routing.Pin })
	if i < 0 {
		c.notes[contract.DrillProposed] = s.Advice
		return c.deny(ctx, s.Decisions)
	}
	d := s.Decisions[i]
	c.reached(contract.DrillProposed, time.Now())
	c.notes[contract.DrillProposed] = strings.TrimSuffix(d.Action+" to "+d.Value, " to ")
	if c.in.Watch {
		return nil
	}
	switch {
	case d.Status == contract.AwaitingApproval:
		if time.Since(c.asked) >= 5*time.Second {
			c.asked, c.yes = time.Now(), true
			return c.Loop.Decide(ctx, d.ID, contract.Approve)
		}
		return nil
	case d.Status.Final():
		c.notes[contract.DrillFull] = fmt.Sprintf("%s: %s", d.Status, d.Reason)
	case d.Status == contract.Holding:
		c.reached(contract.DrillFull, time.Now())
		c.notes[contract.DrillFull] = fmt.Sprintf("%.0f %% of the calls, %s", d.Share*100, strings.ToLower(string(d.Effect)))
	}
	if c.approved.IsZero() && d.Status != contract.Proposed {
		if c.approved = time.Now(); c.yes {
			c.approved = c.asked
		}
	}
	if _, rerouted := c.traffic.Calls(); rerouted > c.rerouted {
		c.reached(contract.DrillObeyed, time.Now())
	}
	return nil
}

// deny answers acts that move no call, such as a stop that a tenfold spend calls for before anything is known of the
// scores: while one waits, nothing else is proposed, and a drill that stopped its own calls would measure nothing more.
func (c *course) deny(ctx context.Context, decisions []contract.DecisionSummary) error {
	for _, d := range decisions {
		if d.Kind != routing.Sampling && d.Status == contract.AwaitingApproval && !c.in.Watch && time.Since(c.asked) >= 5*time.Second {
			c.asked = time.Now()
			return c.Loop.Decide(ctx, d.ID, contract.Deny)
		}
	}
	return nil
}

// over reports whether the fault's end has been followed to its own.
func (c *course) over(ctx context.Context) (bool, error) {
	alert, err := c.Loop.Alert(ctx, c.key)
	if err != nil {
		return false, err
	}
	if !slices.ContainsFunc(alert.Flags, func(f flag) bool { return (f.Kind == routing.Route || f.Kind == routing.Pin) && f.Share > 0 }) {
		c.reached(contract.DrillReleased, time.Now())
	}
	if alert.Incident == "" && calm(alert) {
		c.reached(contract.DrillClosed, time.Now())
	}
	return !c.at[contract.DrillClosed].IsZero() && !c.at[contract.DrillReleased].IsZero(), nil
}

// measures are the steps against their objectives.
func (c *course) measures() []contract.DrillMeasure {
	all := []contract.DrillMeasure{
		c.measure(contract.DrillFound, "the fault's begin", c.began, 0),
		c.measure(contract.DrillOpened, "the fault's begin", c.began, c.slo.Detect),
		c.measure(contract.DrillTold, "the first finding at its level", c.risen, c.slo.Tell),
	}
	if c.acted {
		all = append(all, c.measure(contract.DrillProposed, "the incident", c.at[contract.DrillOpened], c.slo.Propose))
	}
	if c.acted && !c.in.Watch {
		all = append(all,
			c.measure(contract.DrillObeyed, "the approval", c.approved, c.slo.Obey),
			c.measure(contract.DrillFull, "the first call elsewhere", c.at[contract.DrillObeyed], c.slo.Full))
	}
	if !c.ended.IsZero() {
		if !c.at[contract.DrillObeyed].IsZero() { // else there was nothing to release
			all = append(all, c.measure(contract.DrillReleased, "the fault's end", c.ended, c.slo.Release))
		}
		all = append(all, c.measure(contract.DrillClosed, "the fault's end", c.ended, 0))
	}
	return all
}

// measure judges a step. One that did not come has missed its objective, and so has one whose beginning did not.
func (c *course) measure(step, since string, from time.Time, slo time.Duration) contract.DrillMeasure {
	m := contract.DrillMeasure{Fault: c.fault, Step: step, Since: since, At: c.at[step], SLO: slo, Note: c.notes[step]}
	switch {
	case !m.At.IsZero() && !from.IsZero():
		m.Took = max(m.At.Sub(from), 0)
	case m.At.IsZero() && !from.IsZero():
		end := c.ended
		if end.IsZero() || step == contract.DrillReleased || step == contract.DrillClosed {
			end = time.Now()
		}
		m.Took = max(end.Sub(from), 0)
	}
	if slo > 0 {
		switch {
		case !m.At.IsZero() && m.Took <= slo:
			m.Verdict = contract.DrillPass
		case !c.ended.IsZero() || m.Took > slo: // else it was called off before its time was up
			m.Verdict = contract.DrillFail
		}
	}
	return m
}
