package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
)

// A key that fails together with many others has no incident of its own: its loop belongs to the group that
// the sweep's facts name, and tells that what it would tell its own incident.

// grouped reports whether the loop's incident is one of many keys.
func (l *alertLoop) grouped() bool { return contract.IsGroup(l.state.Incident) }

// join makes the group the loop's incident. The sweep starts a group before it names it, so one that is not
// there has ended, and the key is left to itself.
func (l *alertLoop) join(ctx workflow.Context, group string) bool {
	reason := ""
	if f := l.state.Finding; f != nil {
		reason = f.Verdict.Reason
	}
	if err := l.send(ctx, group, contract.Joined, "", reason); err != nil {
		workflow.GetLogger(ctx).Warn("the group is gone", "group", group, "error", err)
		l.state.Group = ""
		return false
	}
	l.forget()
	l.state.Incident = group
	return true
}

// regroup follows the facts of a firing key to another group, or to none. Leaving is slow: a sweep that has
// just been replaced may not know its storms yet, and each way out is a message to people.
func (l *alertLoop) regroup(ctx workflow.Context) {
	now := workflow.Now(ctx)
	switch {
	case l.state.Alert.Phase != alert.Firing:
	case l.grouped() && l.state.Group == l.state.Incident:
		l.state.Astray = time.Time{}
	case l.grouped() && l.state.Astray.IsZero():
		l.state.Astray = now
	case l.grouped() && now.Sub(l.state.Astray) >= l.in.Tuning.Holds.Recovery:
		l.state.Apart = l.state.Incident
		l.tell(ctx, contract.Parted, "", "it still fails, and not by the cause of the others any more")
		l.forget()
		l.fire(ctx)
	case l.fresh(now):
		l.moveIn(ctx)
	}
}

// fresh reports whether the key's own incident may still become a part of the group that its facts name: it
// opened so shortly before the storm was seen that nobody has done anything about it. An older one stays.
func (l *alertLoop) fresh(now time.Time) bool {
	if l.state.Group == "" || l.state.Group == l.state.Apart || l.state.Incident == "" || l.grouped() || l.state.Closing || len(l.state.Flags) > 0 {
		return false
	}
	opened, err := contract.OpenedAt(l.state.Incident)
	return err == nil && now.Sub(opened) < l.in.Tuning.Holds.Page
}

// moveIn closes the key's own incident in favour of the group's. It ends by itself; whatever it says then
// concerns the loop no more.
func (l *alertLoop) moveIn(ctx workflow.Context) {
	own := l.state.Incident
	if l.join(ctx, l.state.Group) {
		_ = l.send(ctx, own, contract.Resolved, "", "it is one of many: "+l.state.Incident+" tells the story") // one that is gone needs no word
	}
}
