package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/runbook"
)

// What people say to an incident, and what it tells them.

// The bounds on what people write into an incident, and on how often they have a step walked again: every
// notice and every record carries all of it, and a payload of Temporal has 2 MB at most.
const (
	noteLength   = 1000 // bytes
	notesKept    = 50
	earlierWalks = 20
)

func (i *incident) checkAcknowledge(r contract.AcknowledgeRequest) error {
	if r.Who == "" {
		return invalid("say who takes the incident on (who)")
	}
	return nil
}

// acknowledge takes the incident on, and with it whatever its steps leave to people. No step waits for it:
// what the runbook does by itself it does at its time, since an incident that nobody looks at needs it most.
func (i *incident) acknowledge(ctx workflow.Context, r contract.AcknowledgeRequest) (contract.IncidentState, error) {
	i.state.Acknowledged = &contract.Acknowledgement{Who: r.Who, Note: r.Note, At: workflow.Now(ctx)}
	for n := range i.state.Steps {
		if d := &i.state.Steps[n]; d.Open() {
			d.Settled = byWhom("taken on", r.Who, r.Note)
		}
	}
	i.recorded(ctx)
	return i.state, nil
}

func (i *incident) checkSkip(r contract.SkipStepRequest) error {
	if d := i.done(r.Step); d != nil && d.Open() && r.Who != "" {
		return nil
	}
	switch {
	case r.Who == "":
		return invalid("say who skips the step (who)")
	case r.Step == runbook.T30:
		return refuse("the report cannot be skipped")
	case !slices.ContainsFunc(i.plan, func(s runbook.Step) bool { return s.Name == r.Step }):
		return refuse(fmt.Sprintf("there is no step %q ahead", r.Step))
	}
	return nil
}

// skipStep has a step skipped: at once if it is the next, else when its turn comes. Of a step that has been
// walked it skips what is left to people.
func (i *incident) skipStep(ctx workflow.Context, r contract.SkipStepRequest) (contract.IncidentState, error) {
	if d := i.done(r.Step); d != nil && d.Open() {
		d.Settled = byWhom("skipped", r.Who, r.Reason)
		i.recorded(ctx)
		return i.state, nil
	}
	i.skip[r.Step] = r
	return i.state, nil
}

func (i *incident) skipped(step string) bool {
	_, ok := i.skip[step]
	return ok
}

func (i *incident) checkRerun(r contract.RerunStepRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who wants the step walked again (who)")
	case i.resolved:
		return refuse("the incident is " + string(i.state.Phase) + ": its runbook has ended")
	case i.done(r.Step) == nil:
		return refuse(fmt.Sprintf("no step %q has been walked yet", r.Step))
	case len(i.done(r.Step).Earlier) >= earlierWalks:
		return refuse(fmt.Sprintf("%s has been walked again %d times already", r.Step, earlierWalks))
	case slices.ContainsFunc(i.reruns, func(have contract.RerunStepRequest) bool { return have.Step == r.Step }):
		return refuse(fmt.Sprintf("%s is about to be walked again already", r.Step))
	}
	return nil
}

// rerunStep has a step that has been walked walked again, beside the others. It answers at once: the new
// verdict comes with the checks that it needs.
func (i *incident) rerunStep(_ workflow.Context, r contract.RerunStepRequest) (contract.IncidentState, error) {
	i.reruns = append(i.reruns, r)
	return i.state, nil
}

func (i *incident) checkNote(r contract.AnnotateRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who writes (who)")
	case r.Text == "":
		return invalid("a remark needs words (text)")
	case len(r.Text) > noteLength:
		return invalid(fmt.Sprintf("a remark has at most %d bytes, not %d: link to what is longer", noteLength, len(r.Text)))
	case len(i.state.Notes) >= notesKept:
		return refuse(fmt.Sprintf("the incident has %d remarks already", notesKept))
	}
	return nil
}

// annotate writes a remark down.
func (i *incident) annotate(ctx workflow.Context, r contract.AnnotateRequest) (contract.Note, error) {
	note := contract.Note{Who: r.Who, Text: r.Text, At: workflow.Now(ctx)}
	i.state.Notes = append(i.state.Notes, note)
	i.recorded(ctx)
	return note, nil
}

// setMute hears that the key is muted, or is not any more. A muted incident goes on as ever and calls nobody.
func (i *incident) setMute(ctx workflow.Context, m *contract.Mute) {
	was := i.state.Mute != nil
	if i.state.Mute = m; !m.On(workflow.Now(ctx)) {
		i.state.Mute = nil
	}
	if i.live != "" {
		i.signal(ctx, i.live, contract.AlertChanged, contract.AlertChangedMessage{Key: i.in.Key, Change: contract.Muted, At: workflow.Now(ctx), Mute: m})
	}
	i.recorded(ctx)
	switch {
	case i.state.Mute != nil && i.told != "":
		i.bulletin.changed() // the last that people hear: the card says that it is muted
	case i.state.Mute == nil && was:
		i.speakAgain(ctx)
	}
}

// speakAgain tells people of an incident that is still open when its mute has ended: that it is there, if they
// have not heard of it; else that it still is.
func (i *incident) speakAgain(ctx workflow.Context) {
	switch {
	case i.resolved || len(i.state.Steps) == 0 && i.state.Step == "": // nothing to tell of yet, or any more
	case i.told == "":
		i.callPeople(ctx, contract.NoticeOpened)
	case i.told != i.audience():
		i.callPeople(ctx, contract.NoticeEscalated)
	case i.state.Acknowledged == nil:
		i.callPeople(ctx, contract.NoticeReminder)
	}
}

// audience is who hears of the incident now.
func (i *incident) audience() contract.Audience {
	return contract.AudienceOf(i.in.Key, i.state.Level)
}

// callPeople tells people what they may have to get up for, and counts the time to the next reminder.
func (i *incident) callPeople(ctx workflow.Context, kind contract.NoticeKind) {
	if i.post(ctx, kind) {
		i.told = i.audience()
		i.remindAt = workflow.Now(ctx).Add(i.in.Tuning.RemindEvery)
	}
}

// sayClosed tells that the incident has ended. Where people have heard of it a muted one says so too, which
// calls nobody: they must not go on believing that it is open.
func (i *incident) sayClosed(ctx workflow.Context) {
	if i.told != "" || !i.state.Mute.On(workflow.Now(ctx)) {
		i.bulletin.post(ctx, contract.Notice{Kind: contract.NoticeClosed})
	}
}

// remind watches for the end of the mute, and reminds people of a PAGE that nobody has taken on.
func (i *incident) remind(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "reminders", func(ctx workflow.Context) {
		for !i.over {
			at, why := i.nextCall()
			moved := func() bool { next, _ := i.nextCall(); return i.over || !next.Equal(at) }
			if at.IsZero() {
				_ = workflow.Await(ctx, moved)
				continue
			}
			earlier, _ := workflow.AwaitWithOptions(ctx, workflow.AwaitOptions{
				Timeout: max(at.Sub(workflow.Now(ctx)), time.Millisecond), TimerOptions: workflow.TimerOptions{Summary: why},
			}, moved)
			switch {
			case earlier:
			case i.state.Mute != nil:
				i.setMute(ctx, nil)
			default:
				i.callPeople(ctx, contract.NoticeReminder)
			}
		}
	})
}

// nextCall is when people are to be told of the incident though nothing happens to it; zero: never.
func (i *incident) nextCall() (at time.Time, why string) {
	switch {
	case i.state.Mute != nil:
		return i.state.Mute.Until, "the mute ends"
	case i.in.Tuning.RemindEvery > 0 && i.told == contract.OnCall && i.state.Acknowledged == nil && i.state.Phase == contract.IncidentOpen:
		return i.remindAt, "remind people: nobody has taken it on"
	}
	return time.Time{}, ""
}

// post tells people how the incident stands, and reports whether it did: a muted one tells nothing.
func (i *incident) post(ctx workflow.Context, kind contract.NoticeKind) bool {
	return i.postText(ctx, kind, "", "")
}

// postText tells people something of the incident, in words of its own.
func (i *incident) postText(ctx workflow.Context, kind contract.NoticeKind, title, text string) bool {
	if i.state.Mute.On(workflow.Now(ctx)) {
		return false
	}
	i.bulletin.post(ctx, contract.Notice{Kind: kind, Title: title, Text: text})
	return true
}

// fill completes a notice with the incident as it is now.
func (i *incident) fill(n *contract.Notice) {
	n.ID, n.Key, n.Level = i.state.ID, i.in.Key, i.state.Level
	if n.Title == "" {
		n.Title = incidentTitle(i.state)
	}
	if n.Text == "" {
		if n.Text = incidentDetails(i.state); i.state.Report != "" {
			n.Text = i.state.Report
		}
	}
	state := i.state
	n.Incident, n.Audience, n.Opened, n.State = i.state.ID, i.audience(), i.in.Opened, &state
}
