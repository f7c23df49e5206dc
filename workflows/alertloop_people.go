package workflows

import (
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

// listenToPeople registers the updates by which people say what telemetry cannot: that the incident is over,
// that they do not want to hear of the key, that what it does now is what it does from now on.
func (l *alertLoop) listenToPeople(ctx workflow.Context) error {
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.Resolve, l.resolve, workflow.UpdateHandlerOptions{
		Validator: l.checkResolve, Description: "Close this key's incident by hand.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.Resolve, err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.SetMute, l.mute, workflow.UpdateHandlerOptions{
		Validator: checkMute, Description: "Mute the key, or with the model * the whole tenant: {for, who, reason}; for 0 unmutes.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.SetMute, err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.AcceptLevel, l.acceptLevel, workflow.UpdateHandlerOptions{
		Validator: l.checkAccept, Description: "The key's new level is the usual one from now on: {who, reason}.",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.AcceptLevel, err)
	}
	return nil
}

// checkMute refuses a mute that nobody would own or that would outlast everybody's memory.
func checkMute(r contract.MuteRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who mutes (who)")
	case r.For < 0 || r.For > contract.MaxMute:
		return invalid(fmt.Sprintf("cannot mute for %s (for, in nanoseconds): want 0, which unmutes, to %s", r.For, lasting(contract.MaxMute)))
	case r.For > 0 && r.Reason == "":
		return invalid("say why it is muted (reason): whoever misses a message will ask")
	}
	return nil
}

// muted is the mute that a request asks for; nil: none.
func muted(ctx workflow.Context, r contract.MuteRequest) *contract.Mute {
	if r.For == 0 {
		return nil
	}
	now := workflow.Now(ctx)
	return &contract.Mute{Until: now.Add(r.For), Who: r.Who, Reason: r.Reason, At: now}
}

// mute keeps the loop open until the mute ends, whatever the key does. The incident hears of it from the
// loop itself, which alone may speak to it.
func (l *alertLoop) mute(ctx workflow.Context, r contract.MuteRequest) (contract.MuteState, error) {
	l.state.Mute = muted(ctx, r)
	l.remuted = &occurrence{who: r.Who, reason: r.Reason}
	l.changed = true
	return contract.MuteState{Mute: l.state.Mute}, nil
}

// tendMute ends a mute whose time is up, and tells the incident what changed.
func (l *alertLoop) tendMute(ctx workflow.Context) {
	if m := l.state.Mute; m != nil && !m.On(workflow.Now(ctx)) {
		l.state.Mute = nil
		l.remuted = &occurrence{reason: "the mute has ended"}
	}
	if o := l.remuted; o != nil {
		l.remuted = nil
		l.tell(ctx, contract.Muted, o.who, o.reason)
	}
}

func (l *alertLoop) checkAccept(r contract.AcceptLevelRequest) error {
	_, _, experiment := l.in.Key.Experiment()
	switch {
	case r.Who == "":
		return invalid("say who accepts the new level (who)")
	case r.Reason == "":
		return invalid("say why the new level is right (reason): it is kept with the baseline")
	case experiment:
		return invalid("an experiment has no level of its own: it is compared with the key that it belongs to")
	case l.in.Key == usage.Everything:
		return invalid("all telemetry together has no level")
	}
	return nil
}

// acceptLevel has the baseline set to what the key does now, and closes its incident: a person has said that
// there is no fault, so its flags come off at once too.
func (l *alertLoop) acceptLevel(ctx workflow.Context, r contract.AcceptLevelRequest) (contract.AcceptLevelResult, error) {
	defer func() { l.changed = true }()
	request := contract.AcceptLevelActivityRequest{
		Key: l.in.Key, Who: r.Who, Reason: r.Reason, Minimums: l.in.Tuning.Limits.Minimums, At: workflow.Now(ctx),
	}
	var result contract.AcceptLevelResult
	within := workflow.WithScheduleToCloseTimeout(doing(ctx, "accept the new level"), evidenceWithin) // a person waits
	if err := workflow.ExecuteActivity(within, telemetry.AcceptLevel, request).Get(ctx, &result); err != nil {
		return result, fmt.Errorf("accepting the new level of %s: %w", l.in.Key, err)
	}
	if l.state.Alert.Open() {
		result.Incident = l.state.Incident
		_, _ = l.resolve(ctx, contract.ResolveRequest{Who: r.Who, Reason: byWhom("level accepted", r.Who, r.Reason)})
	}
	return result, nil
}

func (l *alertLoop) checkResolve(r contract.ResolveRequest) error {
	switch {
	case r.Who == "":
		return invalid("say who resolves the incident (who)")
	case !l.state.Alert.Open():
		return refuse("no incident of " + l.in.Key.String() + " is open")
	}
	return nil
}

// resolve closes the incident on a person's word.
func (l *alertLoop) resolve(_ workflow.Context, r contract.ResolveRequest) (contract.ResolveResult, error) {
	l.events = append(l.events, occurrence{event: alert.Event{Resolved: true}, who: r.Who, reason: r.Reason})
	return contract.ResolveResult{Incident: l.state.Incident}, nil
}
