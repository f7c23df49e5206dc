package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
)

const (
	// movesWait is how long moves wait for a person: until shortly before the next weekly run, which asks anew and is
	// skipped while this one is open. What nobody answers stays as it is.
	movesWait = 6 * 24 * time.Hour
	// tellWithin is how long people are tried to be told.
	tellWithin = time.Hour
	// toldMoves bounds what a notice lists.
	toldMoves = 10
	// expired is the verdict of time.
	expired = "expired"
)

// movesAsked are the moves beyond their bounds that wait for a person.
type movesAsked struct {
	signals workflow.ReceiveChannel
	alarm   alarm
	telling int
	told    []string // what people were told of last
	moving  []string // moves that a person has approved and that are being stored
}

// moveOf names a move.
func moveOf(d contract.LevelDrift) string { return d.Key.String() + " " + string(d.Measure) }

// askForVerdicts lets people say what becomes of moves.
func (c *calibration) askForVerdicts(ctx workflow.Context) error {
	c.moves.signals = workflow.GetSignalChannel(ctx, contract.Decide)
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.Decide, c.decide, workflow.UpdateHandlerOptions{
		Validator:   c.checkVerdict,
		Description: "Approve or deny moves that wait: {verdict, who, reason}, and of which tenant, model and measure; without, of all.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.Decide, err)
	}
	return nil
}

func (c *calibration) open() bool { return c.state.Drift != nil && c.state.Drift.Open() > 0 }

// measureDrift compares levels with where they were calibrated, and asks about those beyond their bounds. What a person has
// denied stays denied while this calibration is open.
func (c *calibration) measureDrift(ctx workflow.Context) error {
	var report contract.DriftReport
	ctx = calculating(ctx, "compare levels with where they were calibrated")
	if err := workflow.ExecuteActivity(ctx, telemetry.MeasureDrift, contract.DriftRequest{
		Tenant: c.in.Tenant, At: workflow.Now(ctx), Buckets: c.in.Tuning.Limits.Minimums.Buckets, Bounds: c.in.Bounds,
	}).Get(ctx, &report); err != nil {
		return err
	}
	if before := c.state.Drift; before != nil {
		for i := range report.Refused {
			for _, d := range before.Refused {
				said := d.Verdict == contract.Deny || slices.Contains(c.moves.moving, moveOf(d))
				if said && moveOf(d) == moveOf(report.Refused[i]) {
					report.Refused[i].Verdict, report.Refused[i].Who, report.Refused[i].Reason = d.Verdict, d.Who, d.Reason
				}
			}
		}
	}
	c.state.Drift, c.state.Expires, c.state.Expired = &report, time.Time{}, 0
	if c.open() {
		c.state.Expires = workflow.Now(ctx).Add(c.in.Tuning.Scaled(movesWait))
	}
	c.tellOfMoves(ctx)
	return nil
}

func (c *calibration) checkVerdict(r contract.DecideMovesRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who decides (who)")
	case r.Verdict != contract.Approve && r.Verdict != contract.Deny:
		return invalid(fmt.Sprintf("the verdict is %q: it must be %s or %s", r.Verdict, contract.Approve, contract.Deny))
	case r.Model != "" && r.Tenant == "":
		return invalid("a model is that of a tenant: say which (tenant)")
	case r.Measure != "" && r.Measure != contract.CostMeasure && r.Measure != contract.QualityMeasure:
		return invalid(fmt.Sprintf("the measure is %q: it must be %s or %s, or left out", r.Measure, contract.CostMeasure, contract.QualityMeasure))
	case len(c.asked(r)) == 0:
		return refuse("no move of these waits for a person: they are answered, or nothing has moved beyond its bound")
	}
	return nil
}

// asked are the places of the open moves that the request is about.
func (c *calibration) asked(r contract.DecideMovesRequest) (places []int) {
	if c.state.Drift == nil {
		return nil
	}
	for i, d := range c.state.Drift.Refused {
		if d.Verdict == "" && r.Of(d) {
			places = append(places, i)
		}
	}
	return places
}

// receiveVerdict takes one verdict that came as a signal. A bad one changes nothing and is logged.
func (c *calibration) receiveVerdict(ctx workflow.Context) bool {
	var r contract.DecideMovesRequest
	if !c.moves.signals.ReceiveAsync(&r) {
		return false
	}
	err := c.checkVerdict(r)
	if err == nil {
		_, err = c.decide(ctx, r)
	}
	if err != nil {
		workflow.GetLogger(ctx).Warn("a verdict was not taken", "who", r.Who, "error", err)
	}
	return true
}

// decide gives a person's verdict on moves, and answers when they are carried out. Verdicts at once never meet on one move: it is
// marked before anything is done. A move that cannot be stored waits again.
func (c *calibration) decide(ctx workflow.Context, r contract.DecideMovesRequest) (contract.CalibrationState, error) {
	places, report := c.asked(r), c.state.Drift
	if len(places) == 0 { // answered between the validator and now
		return c.state, refuse("another verdict was faster")
	}
	var levels []contract.Level
	tenant := report.Refused[places[0]].Key.Tenant
	for _, i := range places {
		d := &report.Refused[i]
		d.Verdict, d.Who, d.Reason = r.Verdict, r.Who, r.Reason
		levels = append(levels, d.Moved(workflow.Now(ctx), c.in.Bounds, r.Who, r.Reason))
		if d.Key.Tenant != tenant {
			tenant = c.in.Tenant
		}
	}
	if r.Verdict == contract.Approve {
		var moves []string
		for _, i := range places {
			moves = append(moves, moveOf(report.Refused[i]))
		}
		c.moves.moving = append(c.moves.moving, moves...)
		request := contract.MoveLevelsRequest{Levels: levels, Recalibrate: c.recalibration(ctx, tenant)}
		err := workflow.ExecuteActivity(calculating(ctx, "move baselines as "+r.Who+" approved"), telemetry.MoveLevels, request).Get(ctx, nil)
		c.moves.moving = slices.DeleteFunc(c.moves.moving, func(m string) bool { return slices.Contains(moves, m) })
		if err != nil {
			for i := range c.state.Drift.Refused { // which another look may have replaced meanwhile
				if d := &c.state.Drift.Refused[i]; slices.Contains(moves, moveOf(*d)) {
					d.Verdict, d.Who, d.Reason = "", "", ""
				}
			}
			c.rest(ctx)
			return c.state, err
		}
	}
	c.rest(ctx)
	return c.state, nil
}

// expire sets the alarm by which moves wait no more, and ends those whose time is over.
func (m *movesAsked) expire(ctx workflow.Context, c *calibration) {
	if !c.open() {
		m.alarm.off()
		return
	}
	if workflow.Now(ctx).Before(c.state.Expires) {
		m.alarm.set(ctx, c.state.Expires, "moves wait for a person")
		return
	}
	m.alarm.off()
	for i := range c.state.Drift.Refused {
		if d := &c.state.Drift.Refused[i]; d.Verdict == "" {
			d.Verdict = expired
			c.state.Expired++
		}
	}
	c.rest(ctx)
}

// judgeEvaluators compares evaluators with people, and tells people which of them fail.
func (c *calibration) judgeEvaluators(ctx workflow.Context) error {
	var found []contract.EvaluatorDrift
	ctx = calculating(ctx, "compare evaluators with people")
	if err := workflow.ExecuteActivity(ctx, telemetry.JudgeEvaluators, contract.EvaluatorsRequest{At: workflow.Now(ctx)}).Get(ctx, &found); err != nil {
		return err
	}
	c.state.Evaluators = found
	var told, failed []string
	for _, d := range found {
		if !d.Failed && !d.Mapped && d.Standing != contract.Failing {
			continue
		}
		told = append(told, fmt.Sprintf("- **%s** %s.", d.EvaluatorVersion, d.Text))
		if d.Failed {
			failed = append(failed, d.EvaluatorVersion.String())
		}
	}
	if len(told) == 0 {
		return nil
	}
	title := "Evaluators have drifted: their scores are brought back to their anchor"
	if len(failed) > 0 {
		title = "Evaluators do not agree with people any more: " + strings.Join(failed, ", ")
		told = append(told, "\nWhat fails is stored as ever, and reaches neither detection nor baselines: a fall in quality that only it would see **pages nobody**. "+
			"Once it is mended, or a person knows better: `flyball calibration restore NAME VERSION --reason …`.")
	}
	c.tell(ctx, title, strings.Join(told, "\n"))
	return nil
}

// tellOfMoves tells people of moves beyond their bounds, but not of the same ones twice.
func (c *calibration) tellOfMoves(ctx workflow.Context) {
	r := c.state.Drift
	var now, lines []string
	for _, d := range slices.Concat(r.Refused, r.Confirmed) {
		now = append(now, moveOf(d))
	}
	if len(now) == 0 || slices.Equal(now, c.moves.told) {
		return
	}
	c.moves.told = now
	for _, d := range r.Refused[:min(len(r.Refused), toldMoves)] {
		lines = append(lines, fmt.Sprintf("- **%s**: %s since %s, refused; %s.", d.Key, d, d.Since.UTC().Format(time.DateOnly), d.Says()))
	}
	for _, d := range r.Confirmed[:min(len(r.Confirmed), toldMoves)] {
		lines = append(lines, fmt.Sprintf("- **%s**: %s since %s, moved; %s.", d.Key, d, d.Since.UTC().Format(time.DateOnly), d.Says()))
	}
	if n := len(now) + r.More - len(lines); n > 0 {
		lines = append(lines, fmt.Sprintf("- and %d more: `flyball calibration show`.", n))
	}
	title := fmt.Sprintf("%d baselines follow what people's ratings confirm", len(r.Confirmed))
	if n := r.Open(); n > 0 {
		title = fmt.Sprintf("%d baselines would move beyond their bound", n)
		lines = append(lines, "\nThey are held on the bound, so that detection goes on against the old level. Is the new level right? "+
			"`flyball calibration approve TENANT/MODEL --reason …`, or `deny`, until "+c.state.Expires.UTC().Format(time.DateTime)+" UTC; unanswered they stay held.")
	}
	c.tell(ctx, title, strings.Join(lines, "\n"))
}

// tell posts a report beside what goes on: a channel that is away delays nothing but the end.
func (c *calibration) tell(ctx workflow.Context, title, text string) {
	id := workflow.GetInfo(ctx).WorkflowExecution.ID
	notice := contract.Notice{
		Kind: contract.NoticeReport, ID: id, Incident: id, Seq: int(workflow.Now(ctx).Unix()), Audience: contract.Findings,
		Opened: workflow.Now(ctx), At: workflow.Now(ctx), Title: title, Text: text,
	}
	c.moves.telling++
	workflow.GoNamed(ctx, "tell", func(ctx workflow.Context) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: attempt, ScheduleToCloseTimeout: tellWithin,
			RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Minute},
			Summary:     "tell people: " + title,
		})
		if err := workflow.ExecuteActivity(ctx, notify.Post, notice).Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Error("nobody could be told", "title", title, "error", err)
		}
		c.moves.telling--
	})
}
