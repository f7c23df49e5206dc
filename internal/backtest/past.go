package backtest

import (
	"context"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Past is which stored telemetry a backtest goes over, and how.
type Past struct {
	clickhouse.KnownQuery
	Options
	Recompute bool                                // baselines of hours that none are stored of
	Progress  func(now time.Time, observed int64) // after each tick; may be nil
}

// Run goes over stored telemetry as it was known then: calls, scores and outcomes count from when they came in, baselines
// from when they were stored, deployments from when they were told. What a later write has replaced is gone: of a
// baseline or a deployment that was stored twice only the last is known, from its own time on.
func Run(ctx context.Context, store *clickhouse.Store, p Past) (Result, error) {
	deployments, err := store.KnownDeployments(ctx, p.From.Add(-2*time.Hour), p.To)
	if err != nil {
		return Result{}, err
	}
	p.Options.Deployments = knownThen(deployments)
	changes, err := store.BaselineChanges(ctx, p.From, p.To)
	if err != nil {
		return Result{}, err
	}
	run := &run{Past: p, store: store, replay: NewReplay(p.Options), changes: changes}
	err = store.Known(ctx, p.KnownQuery, func(tick int64, a detect.Arrival) error {
		for run.next < tick {
			if err := run.tick(ctx); err != nil {
				return err
			}
		}
		run.replay.Add(a)
		return nil
	})
	for err == nil && run.now().Before(p.To) {
		err = run.tick(ctx)
	}
	result, unjudged := run.replay.Finish()
	if err == nil {
		err = unjudged
	}
	return result, err
}

// knownThen looks for the deployments that concern a key among those that were known by the end of a range.
func knownThen(all []clickhouse.KnownDeployment) func(key usage.Key, from, to time.Time) []usage.Deployment {
	return func(key usage.Key, from, to time.Time) (concern []usage.Deployment) {
		for _, d := range all {
			if d.Timestamp.Before(from) {
				break // newest first
			}
			if d.Timestamp.Before(to) && !d.Known.After(to) && (d.TenantID == "" || d.TenantID == key.Tenant) &&
				(d.Model == "" || d.Model == key.Model || key.Pseudo()) {
				concern = append(concern, d.Deployment)
			}
		}
		return concern
	}
}

// run is a backtest under way.
type run struct {
	Past
	store   *clickhouse.Store
	replay  *Replay
	next    int64       // the number of the next tick
	changes []time.Time // when baselines were stored, still to come
	slot    time.Time   // the hour of the last tick
}

func (r *run) now() time.Time { return r.From.Add(time.Duration(r.next) * r.Every) }

// tick loads the baselines where others serve now, and judges.
func (r *run) tick(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	now := r.now()
	if err := r.freshen(ctx, now); err != nil {
		return err
	}
	r.replay.Tick(now)
	if r.next++; r.Progress != nil {
		r.Progress(now, r.replay.Observed())
	}
	return nil
}

// freshen loads the baselines that serve from now on, when others were stored and when the hour turns.
func (r *run) freshen(ctx context.Context, now time.Time) error {
	stored := false
	for len(r.changes) > 0 && !r.changes[0].After(now) {
		stored, r.changes = true, r.changes[1:]
	}
	slot := now.Add(-r.Lag).Truncate(time.Hour)
	if slot.Equal(r.slot) && !stored {
		return nil
	}
	r.slot = slot
	baselines, err := r.store.BaselinesKnown(ctx, now)
	if err == nil && r.Recompute && !ofSlot(baselines, slot) && !r.storedWithin(slot) {
		baselines, err = r.store.RecomputeBaselines(ctx, slot, r.Tuning.Limits.Minimums)
	}
	if err == nil {
		r.replay.Baselines(baselines)
	}
	return err
}

// storedWithin reports whether baselines are still to be stored in the hour.
func (r *run) storedWithin(slot time.Time) bool {
	return slices.ContainsFunc(r.changes, func(at time.Time) bool { return at.Before(slot.Add(time.Hour)) })
}

// ofSlot reports whether the baselines are those of the hour.
func ofSlot(baselines map[usage.Key]detect.Baseline, slot time.Time) bool {
	for _, b := range baselines {
		return b.Slot.Equal(slot)
	}
	return false
}

// KeyDays are observations at ticks so far apart in days of one key.
func KeyDays(observed int64, every time.Duration) float64 {
	return float64(observed) * every.Hours() / 24
}

// Report tells what came of the backtest, of the sets by their names.
func (p Past) Report(names []string, r Result) Report {
	report := Report{
		From: p.From, To: p.To, Every: p.Every, Lag: p.Lag, Keys: r.Keys, KeyDays: KeyDays(r.Observed, p.Every), Baselines: &r.Baselines,
		Notes: []string{"provider health, first-seen models and templates, webhooks and cool-downs are not stored: proposals are as without them"},
	}
	for i, name := range names {
		report.Sets = append(report.Sets, NewSetReport(name, []string{p.Sets[i].Revision()}, r.Changes[i], p.To))
	}
	if r.Observed == 0 {
		report.Notes = append(report.Notes, "nothing that came in in this range counted: telemetry counts from when it came in, not from what time it is of")
	} else if r.Baselines.Hour+r.Baselines.Older == 0 {
		report.Notes = append(report.Notes, "no baselines were stored then, so that nothing could be found; --baselines recompute computes them")
	}
	if p.Partial {
		report.Notes = append(report.Notes, "a part of the telemetry says nothing of whether everybody was silent")
	}
	return report
}

// Label compares the episodes of every set with a log of incidents.
func (r *Report) Label(labels Labels, grace time.Duration) {
	for i := range r.Sets {
		r.Sets[i].Score = Judge(r.Sets[i].Episodes, labels, grace)
	}
}

// Compare says how the second set differs from the first. Episodes that begin within a tick are as early as each other.
func (r *Report) Compare(grace time.Duration) {
	r.Difference = Compare(r.Sets[0].Episodes, r.Sets[1].Episodes, grace, r.Every)
}
