package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/router"
)

// RouterTraining judges the versions of the predictor of quality by the calls that have been scored since: one that has
// come to be worse is rolled back, one in the shadow that is shown to be better is used. Where none waits in the shadow then, the
// next is trained into it. People are told of each change. A watch, between, only rolls back.
func RouterTraining(ctx workflow.Context, in contract.RouterTrainingInput) (contract.RouterTrainingState, error) {
	t := training{state: contract.RouterTrainingState{At: workflow.Now(ctx)}, watch: in.Watch}
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.RouterTrainingState, error) { return t.state, nil }); err != nil {
		return t.state, fmt.Errorf("registering the state query: %w", err)
	}
	err := t.judge(ctx)
	if err == nil && t.waits == "" && !t.watch {
		err = t.train(ctx)
	}
	if err != nil {
		t.state.Failed = err.Error()
	}
	t.show(ctx)
	t.tell(ctx)
	return t.state, err
}

type training struct {
	state contract.RouterTrainingState
	watch bool   // nothing is trained
	waits string // the version that stays in the shadow
}

// trainWithin bounds one training over the scored calls of a quarter.
const trainWithin = time.Hour

// judge has the versions judged, and then, the verdict being durable, changed.
func (t *training) judge(ctx workflow.Context) error {
	t.show(ctx)
	var v contract.RouterVerdict
	err := workflow.ExecuteActivity(calculating(ctx, "judge the predictor's versions by scored calls"), trainer.JudgeRouter, contract.RouterActivityRequest{At: t.state.At, Watch: t.watch}).Get(ctx, &v)
	if err != nil {
		return err
	}
	if err := t.change(ctx, v.Changes); err != nil {
		return err
	}
	t.state.Verdict, t.waits = &v.Verdict, v.Waits
	return nil
}

func (t *training) train(ctx workflow.Context) error {
	t.show(ctx)
	long := workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: trainWithin, ScheduleToCloseTimeout: 3 * trainWithin,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Minute},
		Summary:     "train a version of the predictor",
	})
	var trained contract.TrainedRouter
	if err := workflow.ExecuteActivity(long, trainer.TrainRouter, contract.RouterActivityRequest{At: t.state.At}).Get(ctx, &trained); err != nil {
		return err
	}
	if err := t.change(ctx, trained.Changes); err != nil {
		return err
	}
	t.state.Trained = &trained
	return nil
}

func (t *training) change(ctx workflow.Context, changes []router.Change) error {
	if len(changes) == 0 {
		return nil
	}
	ctx = calculating(ctx, "store what the predictor's versions are used for")
	return workflow.ExecuteActivity(ctx, trainer.ChangeRouter, contract.ChangeRouterRequest{Changes: changes}).Get(ctx, nil)
}

// tell posts what has changed as a report. A channel that is away for an hour is given up.
func (t *training) tell(ctx workflow.Context) {
	title, text := t.says()
	if title == "" {
		return
	}
	id := workflow.GetInfo(ctx).WorkflowExecution.ID
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: attempt, ScheduleToCloseTimeout: tellWithin,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: time.Minute},
		Summary:     "tell people: " + title,
	})
	notice := contract.Notice{
		Kind: contract.NoticeReport, ID: id, Incident: id, Seq: int(workflow.Now(ctx).Unix()), Audience: contract.Findings,
		Opened: workflow.Now(ctx), At: workflow.Now(ctx), Title: title, Text: text,
	}
	if err := workflow.ExecuteActivity(ctx, notify.Post, notice).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Error("nobody could be told", "title", title, "error", err)
	}
}

// says is what people are told; nothing where nothing has changed.
func (t *training) says() (title, text string) {
	if t.watch && (t.state.Verdict == nil || len(t.state.Verdict.Changes) == 0) {
		return "", "" // the next watch tries again, and the weekly training says what it cannot do
	}
	var lines []string
	if v := t.state.Verdict; v != nil {
		for _, c := range v.Changes {
			switch c.State {
			case router.RolledBack:
				title = "The predictor of quality is rolled back: calls may have fallen back that should not have"
			case router.InUse:
				if title == "" {
					title = "A better predictor of quality is used from now on"
				}
			}
		}
		for _, said := range v.Says {
			lines = append(lines, "- "+said)
		}
	}
	if new := t.state.Trained; new != nil && new.Version != "" {
		lines = append(lines, fmt.Sprintf("- **%s** was trained from %d scored calls, with %d heads, and is in the shadow.", new.Version, new.N, new.Heads))
	}
	if t.state.Failed != "" {
		lines = append(lines, "- The training failed, and is tried again next week: "+t.state.Failed)
	}
	if len(lines) == 0 {
		return "", ""
	}
	if title == "" {
		title = "The predictor of quality was judged and trained"
	}
	lines = append(lines, "\nAll versions: `flyball router list`. Another one: `flyball router use VERSION --reason …`, or `flyball router rollback --reason …`.")
	return title, strings.Join(lines, "\n")
}

// show puts where things are to whoever looks at the workflow.
func (t *training) show(ctx workflow.Context) {
	workflow.SetCurrentDetails(ctx, trainingDetails(t.state, t.waits, t.watch))
}

func trainingDetails(s contract.RouterTrainingState, waits string, watch bool) string {
	var t text
	t.line("Judges the versions of the predictor of quality by calls that have scores, and trains the next one.")
	switch v := s.Verdict; {
	case v == nil && s.Failed == "":
		t.line("\nThe versions are being judged.")
	case v != nil:
		if v.InUse != nil {
			t.line("\nIn use, against what it would say without reading prompts: %s.", v.InUse)
		}
		if v.Shadow != nil {
			t.line("\nIn the shadow, against the one in use: %s.", v.Shadow)
		}
		for _, c := range v.Changes {
			t.line("\n- **%s**: %s (%s)", c.Version, words(string(c.State)), c.Reason)
		}
	}
	switch {
	case watch:
		t.line("\nThis is the hourly watch over the version in use: it trains nothing.")
	case waits != "":
		t.line("\n**%s** waits in the shadow until enough is known of it; until then no other is trained.", waits)
	case s.Trained == nil && s.Verdict != nil && s.Failed == "":
		t.line("\nThe next version is being trained.")
	case s.Trained != nil && s.Trained.Few != "":
		t.line("\nNothing was trained: %s.", stopped(s.Trained.Few))
	case s.Trained != nil:
		t.line("\n**%s** was trained from %d scored calls, and is in the shadow.", s.Trained.Version, s.Trained.N)
	}
	if s.Failed != "" {
		t.line("\n**It failed**: %s", stopped(s.Failed))
	}
	return t.String()
}
