// Package drill rehearses the loop in earnest: it makes up the calls of a marked tenant, puts faults into them, sends
// them through the real pipeline, and measures what alerting and actuation make of it against their objectives. What
// it stands on is asked by three small faces, so that a whole drill can be rehearsed in virtual time.
package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ErrAway says that a service which the drill needs does not answer.
var ErrAway = errors.New("a service does not answer")

// Traffic is the calls that are made up: Plant.
type Traffic interface {
	// Check reports whether ingest and gateway let the drill in; ErrAway: they do not answer.
	Check(ctx context.Context) error
	// Lay sends the quarters of an hour before now, as whole as a baseline needs them.
	Lay(ctx context.Context, now time.Time, buckets int) error
	// Run makes calls until ctx ends.
	Run(ctx context.Context) error
	// Strike begins the fault of the name, for lifetime at the most; Heal ends all.
	Strike(fault string, lifetime time.Duration) error
	Heal()
	// Calls are how many were made so far, and how many of them went elsewhere by a flag.
	Calls() (made, rerouted int64)
}

// Telling is what became of the notice of an incident.
type Telling struct {
	At     time.Time
	Result contract.PostResult
}

// Loop is what a drill sees of the loop, and asks of it: Temporal. What is not there is a zero value.
type Loop interface {
	// Tuning is that of the sweep that runs.
	Tuning(ctx context.Context) (contract.Tuning, error)
	Alert(ctx context.Context, key usage.Key) (contract.AlertLoopState, error)
	Incident(ctx context.Context, id string) (contract.IncidentState, error)
	// Told is the first delivery of a notice that called people to the incident at the level; nil: none yet.
	Told(ctx context.Context, incident string, level detect.Level) (*Telling, error)
	// Decide gives the verdict, approve or deny, on a decision of the drill's.
	Decide(ctx context.Context, decision, verdict string) error
	// Resolve closes the key's incident and takes its flags off.
	Resolve(ctx context.Context, key usage.Key, reason string) error
	Recalibrate(ctx context.Context, tenant string, tuning contract.Tuning) error
}

// Baselines is where the key's usual is read: package clickhouse.
type Baselines interface {
	Baseline(ctx context.Context, key usage.Key, at time.Time) (detect.Baseline, error)
}

// Runner runs drills.
type Runner struct {
	Traffic   func(contract.DrillInput) Traffic
	Loop      Loop
	Baselines Baselines
	Log       *slog.Logger
}

// The pace of looking, and the bounds on what has no objective.
const (
	lookEvery   = time.Second
	checkWithin = 20 * time.Second
	layWithin   = 15 * time.Minute
	askEvery    = 30 * time.Second // for baselines to be computed
	usualWithin = 12 * time.Minute // more than two rounds of the sweep's own
	quietWithin = 15 * time.Minute // an incident of the key that is open already
	cleanWithin = 6 * time.Minute
	calmFor     = 90 * time.Second // the minute that a page looks at, its hold, and the ticks before and after
	awayFor     = 2 * time.Minute  // that Temporal may not answer in the middle
	settleFor   = 15 * time.Second
)

// Run walks the drill to its end and returns what it showed. When ctx ends, or until has come, faults end at once, and
// flags and incident with them; the result then says what was seen so far. It reports where it stands once a second.
func (r *Runner) Run(ctx context.Context, in contract.DrillInput, until time.Time, report func(contract.DrillProgress)) contract.DrillResult {
	d := &drill{Runner: r, in: in, key: in.Key(), until: until, report: report, traffic: r.Traffic(in)}
	d.result = contract.DrillResult{Tenant: in.Tenant, Model: in.Model, Schedule: in.Schedule, Who: in.Who, Began: time.Now().UTC()}
	err := d.run(ctx)
	d.result.Ended = time.Now().UTC()
	d.result.Calls, _ = d.traffic.Calls()
	switch {
	case err != nil:
		d.result.Verdict, d.result.Reason, d.result.Away = contract.DrillAborted, err.Error(), errors.Is(err, ErrAway)
	case d.result.Passed():
		d.result.Verdict, d.result.Reason = contract.DrillPass, "every objective was met"
	default:
		d.result.Verdict, d.result.Reason = contract.DrillFail, "an objective was missed"
	}
	return d.result
}

// Abandon cleans up behind a drill whose worker has died, by what its last heartbeat said.
func (r *Runner) Abandon(ctx context.Context, in contract.DrillInput, last contract.DrillProgress, report func(contract.DrillProgress)) contract.DrillResult {
	d := &drill{Runner: r, in: in, key: in.Key(), report: report, result: last.Result}
	d.result.Tenant, d.result.Model, d.result.Schedule, d.result.Who = in.Tenant, in.Model, in.Schedule, in.Who
	if d.result.Began.IsZero() {
		d.result.Began = time.Now().UTC()
	}
	d.clean(ctx, "the drill's worker died", calmFor)
	d.result.Verdict, d.result.Reason = contract.DrillAborted, "the worker that ran it died during: "+orStart(last.Phase)
	d.result.Ended = time.Now().UTC()
	return d.result
}

func orStart(phase string) string {
	if phase == "" {
		return "its start"
	}
	return phase
}

// drill is one run.
type drill struct {
	*Runner
	in      contract.DrillInput
	key     usage.Key
	until   time.Time // its window's end; zero: none
	report  func(contract.DrillProgress)
	traffic Traffic
	result  contract.DrillResult
	tuning  contract.Tuning
	slo     contract.DrillSLO
	phase   contract.DrillProgress
	away    time.Time // since when Temporal does not answer
}

func (d *drill) run(ctx context.Context) error {
	if err := d.prepare(ctx); err != nil {
		return err
	}
	// Traffic goes on while the drill cleans up, whyever it ends: a flag is released by what its untreated calls do.
	making, stop := context.WithCancel(context.WithoutCancel(ctx))
	stopped := make(chan struct{})
	go func() { defer close(stopped); _ = d.traffic.Run(making) }()
	defer func() { stop(); <-stopped }()
	err := d.course(ctx)
	d.traffic.Heal()
	calm := calmFor
	if err == nil {
		calm = 0 // the end of each fault was followed already
	}
	d.clean(context.WithoutCancel(ctx), why(ctx, err), calm)
	return err
}

// why says what ended a drill.
func why(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "the drill was called off"
	case err != nil:
		return "the drill was aborted: " + err.Error()
	}
	return "the drill is over"
}

// enter begins a phase.
func (d *drill) enter(phase, waiting string, bound time.Duration) {
	d.phase = contract.DrillProgress{Phase: phase, Waiting: waiting, Since: time.Now().UTC(), Bound: bound}
	d.Log.Info("Drill", "tenant", d.in.Tenant, "phase", phase, "waiting", waiting)
	d.tell()
}

func (d *drill) tell() {
	d.phase.Result = d.result
	d.phase.Result.Measures = slices.Clone(d.result.Measures)
	d.report(d.phase)
}

// look calls f once a second until it is done, its bound has passed (done is then false), or the drill is to
// end. A look at a Temporal that does not answer is tried again for a while.
func (d *drill) look(ctx context.Context, f func(ctx context.Context) (done bool, err error)) (done bool, err error) {
	ticks := time.NewTicker(lookEvery)
	defer ticks.Stop()
	began := time.Now()
	for {
		d.tell()
		done, err := f(ctx)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case err == nil:
			d.away = time.Time{}
			if done {
				return true, nil
			}
		case d.away.IsZero():
			d.away = time.Now()
		case time.Since(d.away) > awayFor:
			return false, fmt.Errorf("%w: %w", ErrAway, err)
		}
		if d.phase.Bound > 0 && time.Since(began) >= d.phase.Bound {
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-ticks.C:
		}
	}
}

// prepare sees to everything that must be there before the first fault: services, objectives, a baseline, and no
// incident that is open already.
func (d *drill) prepare(ctx context.Context) (err error) {
	d.enter("checks", "ingest, gateway and Temporal", checkWithin)
	if err := d.answer(ctx); err != nil {
		return err
	}
	d.slo = d.in.SLO.Or(contract.DrillSLOs(d.tuning))
	usual, err := d.usual(ctx)
	if err != nil {
		return err
	}
	if !usual {
		if err := d.lay(ctx); err != nil {
			return err
		}
	}
	return nil
}

// answer asks every service once, and again while it may only be starting.
func (d *drill) answer(ctx context.Context) error {
	var last error
	ok, err := d.look(ctx, func(ctx context.Context) (bool, error) {
		if last = d.traffic.Check(ctx); last == nil {
			d.tuning, last = d.Loop.Tuning(ctx)
		}
		if last != nil && !errors.Is(last, ErrAway) {
			return true, nil // no patience mends it
		}
		return last == nil, nil
	})
	if err == nil && last != nil {
		err = last
	} else if err == nil && !ok {
		err = ErrAway
	}
	return err
}

// buckets is how much of a past a key is given that has none: one more than a baseline needs.
func (d *drill) buckets() int { return d.tuning.Limits.Minimums.Buckets + 1 }

// steady is how far the calls of the baseline may be from those of the drill: the spend of a minute is judged
// against it, and three times as much is a finding.
const steady = 1.8

// usual reports whether the key has a baseline that the drill's calls are as usual for.
func (d *drill) usual(ctx context.Context) (bool, error) {
	b, err := d.Baselines.Baseline(ctx, d.key, time.Now().UTC())
	if err != nil {
		return false, fmt.Errorf("%w: reading the baseline of %s: %w", ErrAway, d.key, err)
	}
	least := d.tuning.Limits.Minimums.Buckets
	ratio := b.RequestsPerMin / (60 * d.in.Rate)
	return b.CostBuckets >= least && b.QualityBuckets >= least && ratio > 1/steady && ratio < steady, nil
}

// lay gives the key a past, and waits until its baseline is drawn from it.
func (d *drill) lay(ctx context.Context) error {
	d.enter("history", fmt.Sprintf("%d quarters of an hour of %.3g calls a second to be stored", d.buckets(), d.in.Rate), layWithin)
	laid := make(chan error, 1)
	go func() { laid <- d.traffic.Lay(ctx, time.Now().UTC(), d.buckets()) }()
	ok, err := d.look(ctx, func(context.Context) (bool, error) {
		select {
		case err := <-laid:
			laid <- err
			return true, nil
		default:
			return false, nil
		}
	})
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: ingest did not take the history within %s", ErrAway, layWithin)
	}
	if err := <-laid; err != nil {
		return err
	}
	d.enter("baseline", "the key's usual to be computed", usualWithin)
	var asked time.Time
	ok, err = d.look(ctx, func(ctx context.Context) (bool, error) {
		if time.Since(asked) >= askEvery {
			asked = time.Now()
			if err := d.Loop.Recalibrate(ctx, d.in.Tenant, d.tuning); err != nil {
				d.Log.Warn("A drill's baseline could not be asked for; the sweep computes it within minutes", "error", err)
			}
		}
		return d.usual(ctx)
	})
	if err == nil && !ok {
		err = fmt.Errorf("the baseline of %s is not that of %.3g calls a second within %s: take another --tenant (%s-<name>), or the --rate of its drills before", d.key, d.in.Rate, usualWithin, usage.DrillPrefix)
	}
	return err
}

// course is the warm-up and the faults, one after the other.
func (d *drill) course(ctx context.Context) error {
	d.enter("warm-up", "steady calls to be as usual", d.in.WarmUp+quietWithin)
	began := time.Now()
	quiet, err := d.look(ctx, func(ctx context.Context) (bool, error) {
		state, err := d.Loop.Alert(ctx, d.key)
		return err == nil && time.Since(began) >= d.in.WarmUp && calm(state), err
	})
	if err != nil {
		return err
	}
	if !quiet {
		return fmt.Errorf("%s has an alert before any fault, for %s: look at it with flyball incidents, or take another --tenant", d.key, d.in.WarmUp+quietWithin)
	}
	for _, fault := range d.in.Faults {
		if !d.until.IsZero() && !time.Now().Before(d.until) {
			return fmt.Errorf("its window ended before the fault %s", fault)
		}
		if err := d.fault(ctx, fault); err != nil {
			return err
		}
	}
	return nil
}

// calm reports whether the key's loop has nothing to do.
func calm(s contract.AlertLoopState) bool {
	return !s.Alert.Open() && s.Incident == "" && !found(s.Alert.Level) && !flagged(s)
}

func found(l detect.Level) bool { return l == detect.Page || l == detect.Investigate }

// flagged reports whether one of the key's flags is on.
func flagged(s contract.AlertLoopState) bool {
	return slices.ContainsFunc(s.Flags, func(f flag) bool { return f.Share > 0 })
}

// clean leaves nothing behind: what is still open of the key is resolved, and every flag is off. A fault that was cut
// short is still in the sweep's window, and would raise what was resolved again: so the key must be calm for so long.
func (d *drill) clean(ctx context.Context, reason string, calmFor time.Duration) {
	d.enter("cleaning up", "the key's incident and flags to be gone", cleanWithin)
	var asked, since time.Time
	left := "the key's loop was not heard"
	ok, err := d.look(ctx, func(ctx context.Context) (bool, error) {
		state, err := d.Loop.Alert(ctx, d.key)
		if err != nil {
			return false, err
		}
		if calm(state) {
			if since.IsZero() {
				since = time.Now()
			}
			left = fmt.Sprintf("%s was not calm for %s", d.key, calmFor)
			return time.Since(since) >= calmFor, nil
		}
		since = time.Time{}
		left = fmt.Sprintf("incident %q and %d flags of %s", state.Incident, len(state.Flags), d.key)
		if time.Since(asked) >= askEvery {
			asked = time.Now()
			err = d.Loop.Resolve(ctx, d.key, reason)
		}
		return false, err
	})
	if err != nil {
		left += ": " + err.Error()
	}
	if d.result.Left = ""; !ok {
		d.result.Left = left
	}
}
