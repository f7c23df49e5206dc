package workflows

import (
	"fmt"
	"slices"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// What people say to a group, and what it tells them and its keys.

// listen registers the query, the updates and the signals.
func (g *group) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.GroupState, error) { return g.state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	for _, register := range []func() error{
		func() error {
			return both(ctx, contract.Acknowledge, "Take the group on: {who, note}.", g.checkAcknowledge, g.acknowledge)
		},
		func() error {
			return both(ctx, contract.Annotate, "Write a remark into its timeline: {who, text}.", g.checkAnnotate, g.annotate)
		},
		func() error {
			return both(ctx, contract.SetMute, "Mute the group: {for, who, reason}; for 0 unmutes.", g.checkMute, g.mute)
		},
		func() error {
			return both(ctx, contract.Split, "Take a key out, which gets an incident of its own: {key, who, reason}.", g.checkSplit, g.split)
		},
		func() error {
			return both(ctx, contract.Resolve, "Close the alerts of all its keys by hand: {who, reason}.", g.checkResolve, g.resolve)
		},
	} {
		if err := register(); err != nil {
			return err
		}
	}
	twins(ctx, contract.AlertChanged, func(ctx workflow.Context, m contract.AlertChangedMessage) error {
		g.alertChanged(ctx, m)
		return nil
	})
	g.journal.open(ctx, func(ctx workflow.Context) error {
		return workflow.ExecuteActivity(doing(ctx, "record the group"), telemetry.RecordGroup, g.state).Get(ctx, nil)
	})
	return nil
}

// both registers an update and the signal that is its twin.
func both[T, R any](ctx workflow.Context, name, description string, check func(T) error, handle func(workflow.Context, T) (R, error)) error {
	if err := workflow.SetUpdateHandlerWithOptions(ctx, name, handle, workflow.UpdateHandlerOptions{Validator: check, Description: description}); err != nil {
		return fmt.Errorf("registering %s: %w", name, err)
	}
	twins(ctx, name, func(ctx workflow.Context, request T) error {
		if err := check(request); err != nil {
			return err
		}
		_, err := handle(ctx, request)
		return err
	})
	return nil
}

// open refuses what comes too late or from nobody.
func (g *group) open(who string) error {
	switch {
	case who == "":
		return invalid("say who you are (who)")
	case g.ended:
		return refuse(g.state.ID + " has ended")
	}
	return nil
}

func (g *group) checkAcknowledge(r contract.AcknowledgeRequest) error { return g.open(r.Who) }

func (g *group) acknowledge(ctx workflow.Context, r contract.AcknowledgeRequest) (contract.GroupState, error) {
	g.state.Acknowledged = &contract.Acknowledgement{Who: r.Who, Note: r.Note, At: workflow.Now(ctx)}
	g.recorded(ctx)
	return g.state.Shown(), nil
}

func (g *group) checkAnnotate(r contract.AnnotateRequest) error {
	switch {
	case r.Text == "":
		return invalid("say what is to be written down (text)")
	case len(r.Text) > noteLength:
		return invalid(fmt.Sprintf("the text has %d bytes: want %d at most", len(r.Text), noteLength))
	case len(g.state.Notes) >= notesKept:
		return refuse(fmt.Sprintf("%d remarks are enough for one incident", notesKept))
	}
	return g.open(r.Who)
}

func (g *group) annotate(ctx workflow.Context, r contract.AnnotateRequest) (contract.Note, error) {
	n := contract.Note{Who: r.Who, Text: r.Text, At: workflow.Now(ctx)}
	g.state.Notes = append(g.state.Notes, n)
	g.recorded(ctx)
	return n, nil
}

func (g *group) checkMute(r contract.MuteRequest) error {
	if err := checkMute(r); err != nil {
		return err
	}
	return g.open(r.Who)
}

func (g *group) mute(ctx workflow.Context, r contract.MuteRequest) (contract.MuteState, error) {
	was := g.state.Mute
	g.state.Mute = muted(ctx, r)
	if was != nil && g.state.Mute == nil {
		g.unmuted(ctx)
	}
	g.recorded(ctx)
	return contract.MuteState{Mute: g.state.Mute}, nil
}

// unmuted reminds people at once of what they did not hear of, if nobody has taken it on.
func (g *group) unmuted(ctx workflow.Context) {
	if g.state.Told && g.state.Level == detect.Page && g.state.Acknowledged == nil && g.state.In > 0 {
		g.post(ctx, contract.NoticeReminder)
	}
	g.recorded(ctx)
}

func (g *group) checkSplit(r contract.SplitRequest) error {
	if err := g.open(r.Who); err != nil {
		return err
	}
	if g.key(r.Key) == nil {
		return refuse(fmt.Sprintf("%s is not among the keys of %s that can be named", r.Key, g.state.ID))
	}
	return nil
}

// split lets a key go: its loop opens an incident of its own, which can be acted on.
func (g *group) split(ctx workflow.Context, r contract.SplitRequest) (contract.GroupState, error) {
	now := workflow.Now(ctx)
	g.dismiss(ctx, r.Key, false)
	g.leave(r.Key, contract.Parted, now)
	reason := byWhom("split off "+r.Key.String(), r.Who, r.Reason)
	if len(g.state.Notes) < notesKept {
		g.state.Notes = append(g.state.Notes, contract.Note{Who: r.Who, Text: reason, At: now})
	}
	g.stand(now, contract.AlertChangedMessage{Key: r.Key, Reason: reason})
	g.recorded(ctx)
	return g.state.Shown(), nil
}

func (g *group) checkResolve(r contract.ResolveRequest) error {
	if err := g.open(r.Who); err != nil {
		return err
	}
	if g.state.In == 0 {
		return refuse("no key is in " + g.state.ID)
	}
	return nil
}

// resolve closes the alert of every key. Each loop says so itself when it has done it, which is what ends
// the group.
func (g *group) resolve(ctx workflow.Context, r contract.ResolveRequest) (contract.ResolveResult, error) {
	g.state.Phase, g.state.Reason = contract.IncidentClosing, byWhom("resolved", r.Who, r.Reason)
	for _, k := range g.state.Keys {
		if in(k) {
			g.signal(ctx, k.Key, contract.Resolve, r)
		}
	}
	g.recorded(ctx)
	return contract.ResolveResult{Incident: g.state.ID}, nil
}

// release lets every key go.
func (g *group) release(ctx workflow.Context, cancelled bool) {
	for _, k := range g.state.Keys {
		if in(k) {
			g.dismiss(ctx, k.Key, cancelled)
		}
	}
}

// dismiss tells a loop that the group is no incident of its key's any more.
func (g *group) dismiss(ctx workflow.Context, key usage.Key, cancelled bool) {
	g.signal(ctx, key, contract.IncidentEnded, contract.IncidentEndedMessage{Incident: g.state.ID, Cancelled: cancelled})
}

// signal sends a key's loop a message, beside what the group does. A loop that is gone has left.
func (g *group) signal(ctx workflow.Context, key usage.Key, name string, message any) {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	g.sending++
	sent := workflow.SignalExternalWorkflow(ctx, contract.AlertLoopID(key), "", name, message)
	workflow.GoNamed(ctx, name, func(ctx workflow.Context) {
		if err := sent.Get(ctx, nil); err != nil {
			workflow.GetLogger(ctx).Warn("the alert loop is gone", "key", key.String(), "error", err)
			if !g.ended && g.key(key) != nil {
				now := workflow.Now(ctx)
				g.leave(key, contract.Resolved, now)
				g.stand(now, contract.AlertChangedMessage{Key: key, Reason: "its alert loop is gone"})
				g.recorded(ctx)
			}
		}
		g.sending--
	})
}

// quiet reports whether people are not to be called: the group is muted, or every key in it is.
func (g *group) quiet(now time.Time) bool {
	loud := func(k contract.GroupKey) bool { return in(k) && !k.Mute.On(now) }
	return g.state.Mute.On(now) || g.state.Beyond == 0 && !slices.ContainsFunc(g.state.Keys, loud)
}

// announce calls people once the group is due to be told of and may be.
func (g *group) announce(ctx workflow.Context) {
	now := workflow.Now(ctx)
	if g.state.Due && !g.state.Told && g.state.In > 0 && !g.quiet(now) {
		g.state.Told = true
		g.state.RemindAt = now.Add(g.in.Tuning.RemindEvery)
		g.post(ctx, contract.NoticeOpened)
	}
}

// remindable reports whether people are to be reminded of the group some day.
func (g *group) remindable() bool {
	return g.state.Told && g.in.Tuning.RemindEvery > 0 && g.state.Level == detect.Page && g.state.Acknowledged == nil && g.state.In > 0
}

// post gives out a notice, in its turn. While people are not to be called only what calls nobody goes out:
// the message that they have already is kept true, and is closed.
func (g *group) post(ctx workflow.Context, kind contract.NoticeKind) {
	calls := kind != contract.NoticeUpdated && kind != contract.NoticeClosed
	if !g.state.Told || calls && g.quiet(workflow.Now(ctx)) {
		return
	}
	g.stale, g.state.CardAt = false, workflow.Now(ctx)
	g.queue = append(g.queue, kind)
	if g.telling {
		return
	}
	g.telling = true
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.GoNamed(ctx, "post", func(ctx workflow.Context) {
		for len(g.queue) > 0 {
			kind := g.queue[0]
			g.queue = g.queue[1:]
			g.state.Posted++
			within := workflow.WithScheduleToCloseTimeout(doing(ctx, "tell people: "+string(kind)), postWithin)
			if err := workflow.ExecuteActivity(within, notify.Post, g.notice(kind, workflow.Now(ctx))).Get(ctx, nil); err != nil {
				workflow.GetLogger(ctx).Warn("a notice could not be posted", "kind", kind, "error", err)
			}
		}
		g.telling = false
	})
}

// postWithin is how long a notice is tried for before the next has its turn.
const postWithin = 10 * time.Minute

// told reports whether every notice is out, or has failed for as long as it may.
func (g *group) told() bool { return len(g.queue) == 0 && !g.telling }

// notice is what people are told, as the group stands when it goes out.
func (g *group) notice(kind contract.NoticeKind, now time.Time) contract.Notice {
	shown := g.state.Shown()
	audience := contract.Findings
	if g.state.Level == detect.Page {
		audience = contract.OnCall
	}
	return contract.Notice{
		Kind: kind, ID: g.state.ID, Seq: g.state.Posted, Incident: g.state.ID, Audience: audience, Level: g.state.Level,
		Opened: g.in.Opened, At: now, Title: groupTitle(g.state), Text: groupDetails(g.state), Group: &shown,
	}
}
