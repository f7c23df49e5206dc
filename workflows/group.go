package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Group is the incident of many keys that fail together: one page and one message, whose keys come and go
// while it lasts. Their alert loops tell it what they would tell incidents of their own. It looks for a cause
// that they share and leaves acts to people: what is right for one key is not for hundreds. It ends when
// every key has left.
func Group(ctx workflow.Context, in contract.GroupInput) (contract.GroupResult, error) {
	g, err := newGroup(ctx, in)
	if err != nil {
		return contract.GroupResult{}, err
	}
	return g.run(ctx)
}

// gatherFor is how long a group waits for more keys before it tells people of the first: those that failed
// at the same tick have held for as long as each other, and come within moments.
const gatherFor = 2 * time.Second

// cardEvery is the least time between two updates of a group's message: each key that joins changes it.
const cardEvery = 10 * time.Second

type group struct {
	in      contract.GroupInput
	state   contract.GroupState
	plan    []runbook.Step
	index   map[usage.Key]int // of the keys in the state
	visible attributes
	journal journal
	alarm   alarm
	changes workflow.ReceiveChannel
	changed bool // something happened since the group last looked
	stale   bool // its message shows less than its state
	queue   []contract.NoticeKind
	telling bool
	sending int // signals to loops on their way
	ended   bool
}

func newGroup(ctx workflow.Context, in contract.GroupInput) (*group, error) {
	if in.Cause == "" || in.Opened.IsZero() {
		return nil, invalid("an incident of many keys needs its cause and the time when it opened")
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	g := &group{in: in, index: map[usage.Key]int{}, changes: workflow.GetSignalChannel(ctx, contract.AlertChanged)}
	for _, step := range runbook.Plan(in.Tuning.TimeScale) {
		if step.Name == runbook.T0 || step.Name == runbook.T2 { // the later ones look into a single key
			g.plan = append(g.plan, step)
		}
	}
	if in.State != nil {
		g.state = *in.State
		g.stale = true
	} else {
		g.state = contract.GroupState{
			ID: workflow.GetInfo(ctx).WorkflowExecution.ID, Level: detect.None, Phase: contract.IncidentOpen,
			Reason: "waits for its first key to fail for long enough", EmptyAt: workflow.Now(ctx),
		}
	}
	g.in.State = nil
	g.state.Input = g.in
	for i, k := range g.state.Keys {
		g.index[k.Key] = i
	}
	return g, g.listen(ctx)
}

func (g *group) run(ctx workflow.Context) (contract.GroupResult, error) {
	g.recorded(ctx)
	for {
		g.changed = false
		g.tend(ctx)
		if g.over(workflow.Now(ctx)) {
			break
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() && g.settled(ctx) {
			if heard(ctx); g.settled(ctx) {
				in, state := g.in, g.state
				in.State = &state
				return contract.GroupResult{}, workflow.NewContinueAsNewError(ctx, Group, in)
			}
		}
		if err := g.wait(ctx); err != nil {
			g.state.Reason = "the group was cancelled"
			g.release(ctx, true)
			g.close(ctx)
			return g.result(), err
		}
	}
	g.close(ctx)
	return g.result(), nil
}

func (g *group) result() contract.GroupResult {
	return contract.GroupResult{Keys: g.state.Joined, Reason: g.state.Reason}
}

// over reports whether every key has left, and none that was about to join when the last one left has come.
func (g *group) over(now time.Time) bool {
	return g.state.In == 0 && !now.Before(g.endsAt())
}

// endsAt is when a group without keys ends. The first may take as long as a finding must hold, and a little;
// afterwards those that still hold come within it.
func (g *group) endsAt() time.Time {
	if g.state.Joined == 0 {
		return g.state.EmptyAt.Add(g.in.Tuning.Holds.Silence)
	}
	return g.state.EmptyAt.Add(g.in.Tuning.Holds.Page)
}

// settled reports whether nothing is under way that a new run would not know of.
func (g *group) settled(ctx workflow.Context) bool {
	return !g.changed && !g.journal.dirty && !g.journal.busy && g.told() && g.sending == 0 && g.changes.Len() == 0 && workflow.AllHandlersFinished(ctx)
}

func (g *group) wait(ctx workflow.Context) error {
	if at, what := g.deadline(workflow.Now(ctx)); at.IsZero() {
		g.alarm.off()
	} else {
		g.alarm.set(ctx, at, what)
	}
	// A new run is due as soon as nothing is under way any more.
	onward := func() bool { return workflow.GetInfo(ctx).GetContinueAsNewSuggested() && g.settled(ctx) }
	err := workflow.Await(ctx, func() bool { return g.changed || g.alarm.rang() || onward() })
	if g.alarm.rang() {
		g.alarm.off()
	}
	return err
}

// deadline is the next time at which the group must look even if nothing happens, and why.
func (g *group) deadline(now time.Time) (at time.Time, what string) {
	consider := func(t time.Time, why string) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at, what = t, why
		}
	}
	if g.state.In == 0 {
		consider(g.endsAt(), "does a key join?")
	}
	if step, due := g.next(); step != nil {
		consider(due, step.Name+": "+step.Title)
	}
	if g.stale && g.state.Told {
		consider(g.state.CardAt.Add(cardEvery), "bring its message up to date")
	}
	if g.remindable() {
		consider(g.state.RemindAt, "has anybody taken it on?")
	}
	if g.state.Mute.On(now) {
		consider(g.state.Mute.Until, "the mute ends")
	}
	return at, what
}

// next is the next step of the runbook and when it is due; nil before the first key and after the last step.
func (g *group) next() (*runbook.Step, time.Time) {
	n := len(g.state.Steps)
	if n >= len(g.plan) || len(g.state.Keys) == 0 {
		return nil, time.Time{}
	}
	due := g.in.Opened.Add(g.plan[n].After)
	if first := g.state.Keys[0].JoinedAt.Add(gatherFor); due.Before(first) {
		due = first
	}
	return &g.plan[n], due
}

// tend does what the clock asks.
func (g *group) tend(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if m := g.state.Mute; m != nil && !m.On(now) {
		g.state.Mute = nil
		g.unmuted(ctx)
	}
	step, due := g.next()
	if step != nil && !now.Before(due) {
		g.perform(ctx, *step)
		now = workflow.Now(ctx)
	}
	_, g.state.NextAt = g.next()
	g.announce(ctx)
	if g.remindable() && !now.Before(g.state.RemindAt) {
		g.post(ctx, contract.NoticeReminder)
		g.state.RemindAt = now.Add(g.in.Tuning.RemindEvery)
	}
	if g.stale && g.state.Told && !now.Before(g.state.CardAt.Add(cardEvery)) {
		g.post(ctx, contract.NoticeUpdated)
	}
	g.publish(ctx)
}

// perform walks one step.
func (g *group) perform(ctx workflow.Context, step runbook.Step) {
	at := workflow.Now(ctx)
	if step.Name == runbook.T0 {
		g.state.Due = true
		g.announce(ctx) // people are told before anything is looked into
	}
	g.state.Steps = append(g.state.Steps, runbook.Done{Step: step, At: at, Verdict: g.check(ctx, step.Name)})
	g.recorded(ctx)
}

// check looks for a cause that the keys share, by the first of them that is still in.
func (g *group) check(ctx workflow.Context, step string) runbook.Verdict {
	request := contract.EvidenceRequest{Key: g.state.Keys[0].Key, Opened: g.in.Opened}
	if i := slices.IndexFunc(g.state.Keys, in); i >= 0 {
		request.Key = g.state.Keys[i].Key
	}
	if step == runbook.T0 {
		err := workflow.ExecuteActivity(asking(ctx, "deployments and first-seen tags of "+request.Key.String()), telemetry.FindChanges, request).Get(ctx, &g.state.Evidence.Changes)
		if err != nil {
			return unknown("changes", err)
		}
		v := runbook.JudgeChange(g.state.Evidence.Changes.Deployments, g.state.Evidence.Changes.FirstSeen, g.in.Opened)
		v.Text += " (looked at " + request.Key.String() + ")"
		return v
	}
	err := workflow.ExecuteActivity(asking(ctx, "the provider's status page"), providers.CheckProvider, request).Get(ctx, &g.state.Evidence.Provider)
	if err != nil {
		return unknown("the provider's status", err)
	}
	return runbook.JudgeProvider(g.state.Evidence.Provider)
}

// close ends the group: no key that comes too late is left with an incident that has ended.
func (g *group) close(ctx workflow.Context) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	g.ended = true
	g.state.Phase, g.state.ClosedAt, g.state.NextAt = contract.IncidentClosed, workflow.Now(ctx), time.Time{}
	g.recorded(ctx)
	if g.state.Told {
		g.post(ctx, contract.NoticeClosed)
	}
	g.journal.close(ctx)
	done := func() bool {
		return g.told() && g.sending == 0 && g.changes.Len() == 0 && workflow.AllHandlersFinished(ctx)
	}
	for heard(ctx); !done(); heard(ctx) {
		_ = workflow.Await(ctx, done)
	}
}

// recorded shows a change and has it written.
func (g *group) recorded(ctx workflow.Context) {
	g.state.UpdatedAt = workflow.Now(ctx)
	g.stale, g.changed = true, true
	g.journal.changed()
	g.publish(ctx)
}

// publish shows the state to people: search attributes and current details.
func (g *group) publish(ctx workflow.Context) {
	step := ""
	if n := len(g.state.Steps); n > 0 {
		step = g.state.Steps[n-1].Step.Name
	}
	g.visible.set(ctx, attributes{Severity: string(g.state.Level), State: string(g.state.Phase), Step: step})
	workflow.SetCurrentDetails(ctx, groupDetails(g.state))
}

// in reports whether the key is in its group now.
func in(k contract.GroupKey) bool { return k.LeftAt.IsZero() }

// alertChanged takes the news of one key's loop.
func (g *group) alertChanged(ctx workflow.Context, m contract.AlertChangedMessage) {
	if g.ended {
		if m.Change == contract.Joined {
			g.dismiss(ctx, m.Key, false)
		}
		return
	}
	k := g.key(m.Key)
	switch m.Change {
	case contract.Joined:
		g.join(m)
	case contract.Resolved, contract.Parted:
		g.leave(m.Key, m.Change, m.At)
	case contract.Recovering, contract.Refired:
		if k != nil {
			k.Well = m.Change == contract.Recovering
		}
	case contract.Muted:
		if k != nil {
			k.Mute = m.Mute
		}
	}
	if _, listed := g.index[m.Key]; up(m.Level) && (!listed || g.key(m.Key) != nil) {
		g.rise(ctx, m)
	}
	g.stand(workflow.Now(ctx), m)
	g.recorded(ctx)
}

// key is the key as the group knows it; nil when it is not in, or is beyond what the group lists.
func (g *group) key(k usage.Key) *contract.GroupKey {
	i, known := g.index[k]
	if !known || !in(g.state.Keys[i]) {
		return nil
	}
	return &g.state.Keys[i]
}

// reasonLimit bounds what is kept of a key's reason, in bytes.
const reasonLimit = 160

func (g *group) join(m contract.AlertChangedMessage) {
	if g.key(m.Key) != nil {
		return // said twice
	}
	k := contract.GroupKey{Key: m.Key, Level: m.Level, Reason: m.Reason[:min(len(m.Reason), reasonLimit)], JoinedAt: m.At, Mute: m.Mute}
	i, known := g.index[m.Key]
	switch {
	case known: // it is back, as if it had never left: the time between belongs to the fault too
		k.JoinedAt = g.state.Keys[i].JoinedAt
		g.state.Keys[i] = k
		g.state.In++
		return
	case len(g.state.Keys) < contract.GroupKeysKept:
		g.index[m.Key] = len(g.state.Keys)
		g.state.Keys = append(g.state.Keys, k)
	default:
		g.state.Beyond++
	}
	g.state.In++
	g.state.Joined++
}

func (g *group) leave(key usage.Key, how contract.AlertChange, at time.Time) {
	_, listed := g.index[key]
	switch k := g.key(key); {
	case k != nil:
		k.LeftAt, k.Left = at, how
		g.state.In--
	case !listed && g.state.Beyond > 0:
		g.state.Beyond--
		g.state.In--
	}
}

// rise follows the highest level of the keys. Its one rise, from INVESTIGATE to PAGE, calls somebody.
func (g *group) rise(ctx workflow.Context, m contract.AlertChangedMessage) {
	if k := g.key(m.Key); k != nil {
		k.Level = m.Level
	}
	switch {
	case !up(g.state.Level):
		g.state.Level = m.Level
	case m.Level == detect.Page && g.state.Level != detect.Page:
		g.state.Level = detect.Page
		g.post(ctx, contract.NoticeEscalated)
	}
}

// stand says where the group stands after a change.
func (g *group) stand(now time.Time, m contract.AlertChangedMessage) {
	if g.state.In == 0 {
		if g.state.EmptyAt.IsZero() {
			g.state.EmptyAt = now
			g.state.Phase = contract.IncidentClosing
			g.state.Reason = "every key has left: " + fmt.Sprintf("the last was %s, %s", m.Key, stopped(m.Reason))
			if m.Who != "" {
				g.state.Reason = byWhom("resolved", m.Who, m.Reason)
			}
		}
		return
	}
	g.state.EmptyAt = time.Time{}
	ill := func(k contract.GroupKey) bool { return in(k) && !k.Well }
	if slices.ContainsFunc(g.state.Keys, ill) || g.state.Beyond > 0 {
		g.state.Phase, g.state.Reason = contract.IncidentOpen, causeText(g.in.Cause)+": keys that fail together"
		return
	}
	g.state.Phase, g.state.Reason = contract.IncidentRecovering, "the findings of all its keys are gone from the untreated traffic"
}
