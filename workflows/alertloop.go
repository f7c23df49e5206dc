package workflows

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/routing"
)

// AlertLoop is the durable loop of one key, a shell over alert.Step. It opens the key's incidents and
// owns the key's flags. It completes when the key is quiet and owns nothing.
func AlertLoop(ctx workflow.Context, in contract.AlertLoopInput) (contract.AlertLoopResult, error) {
	l, err := newAlertLoop(ctx, in)
	if err != nil {
		return contract.AlertLoopResult{}, err
	}
	return l.run(ctx)
}

// expireAgain is how long after a refusal an expired flag is ordered off again. A store that is away is
// no refusal: that write waits for it by itself.
const expireAgain = time.Minute

type alertLoop struct {
	in      contract.AlertLoopInput
	state   contract.AlertLoopState
	visible attributes
	alarm   alarm
	lock    workflow.Mutex // held while a flag is being written: writes keep their order
	writing int            // background writes of flags under way
	patient time.Time      // until then no expired flag is ordered off: the last order was refused
	events  []occurrence   // what handlers have seen; only the loop itself steps the alert
	changed bool           // something happened since the loop last looked
	remuted *occurrence    // who muted or unmuted the key; nil: the incident knows

	facts, resolves, setFlags, ended, mutes, accepts workflow.ReceiveChannel
}

// occurrence is an event for the alert, with the person who caused it, if one did.
type occurrence struct {
	event       alert.Event
	who, reason string
}

func newAlertLoop(ctx workflow.Context, in contract.AlertLoopInput) (*alertLoop, error) {
	if in.Key.Tenant == "" || in.Key.Model == "" {
		return nil, invalid("an alert loop needs a tenant and a model")
	}
	if err := in.Tuning.Validate(); err != nil {
		return nil, invalid(err.Error())
	}
	l := &alertLoop{
		in: in, lock: workflow.NewMutex(ctx),
		facts:    workflow.GetSignalChannel(ctx, contract.Facts),
		resolves: workflow.GetSignalChannel(ctx, contract.Resolve),
		setFlags: workflow.GetSignalChannel(ctx, contract.SetFlag),
		ended:    workflow.GetSignalChannel(ctx, contract.IncidentEnded),
		mutes:    workflow.GetSignalChannel(ctx, contract.SetMute),
		accepts:  workflow.GetSignalChannel(ctx, contract.AcceptLevel),
	}
	if in.State != nil {
		l.state = *in.State
	} else {
		now := workflow.Now(ctx)
		l.state = contract.AlertLoopState{
			Key: in.Key, Alert: alert.New(now), Book: routing.Book{Sequence: routing.Sequence{Loop: now.UnixMilli()}}, RenewAt: now.Add(routing.RenewEvery),
		}
	}
	return l, l.listen(ctx)
}

// listen registers the query and the updates.
func (l *alertLoop) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, contract.State, func() (contract.AlertLoopState, error) { return l.state, nil }); err != nil {
		return fmt.Errorf("registering the state query: %w", err)
	}
	if err := workflow.SetUpdateHandlerWithOptions(ctx, contract.SetFlag, l.setFlag, workflow.UpdateHandlerOptions{
		Validator: l.checkFlag, Description: "Put a flag of this key on at a share, or take it off (share 0).",
	}); err != nil {
		return fmt.Errorf("registering %s: %w", contract.SetFlag, err)
	}
	return l.listenToPeople(ctx)
}

func (l *alertLoop) run(ctx workflow.Context) (contract.AlertLoopResult, error) {
	for {
		for l.receive(ctx) { // everything that has come is heard before anything is concluded
		}
		l.changed = false
		l.advance(ctx)
		l.tend(ctx)
		l.publish(ctx)
		if !l.pending() && l.writing == 0 && workflow.AllHandlersFinished(ctx) {
			if l.idle(ctx) {
				return contract.AlertLoopResult{Incidents: l.state.Opened}, nil
			}
			if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
				state := l.state
				return contract.AlertLoopResult{}, workflow.NewContinueAsNewError(ctx, AlertLoop,
					contract.AlertLoopInput{Key: l.in.Key, Tuning: l.in.Tuning, State: &state})
			}
		}
		if err := l.wait(ctx); err != nil {
			return contract.AlertLoopResult{}, l.abandon(ctx, err)
		}
	}
}

// idle reports whether the loop has nothing left to own.
func (l *alertLoop) idle(ctx workflow.Context) bool {
	return l.state.Alert.Idle() && len(l.state.Flags) == 0 && l.state.Incident == "" && !l.state.Mute.On(workflow.Now(ctx))
}

// pending reports whether something has happened that the loop has not looked at.
func (l *alertLoop) pending() bool {
	waiting := l.facts.Len() + l.resolves.Len() + l.setFlags.Len() + l.ended.Len() + l.mutes.Len() + l.accepts.Len()
	return l.changed || len(l.events) > 0 || waiting > 0
}

// wait returns when there is something to look at.
func (l *alertLoop) wait(ctx workflow.Context) error {
	at, what := l.deadline()
	if at.IsZero() {
		l.alarm.off()
	} else {
		l.alarm.set(ctx, at, what)
	}
	err := workflow.Await(ctx, func() bool { return l.pending() || l.alarm.rang() })
	if l.alarm.rang() {
		l.alarm.off()
	}
	return err
}

// deadline is the next time at which the loop must look even if nothing happens, and why.
func (l *alertLoop) deadline() (at time.Time, what string) {
	consider := func(t time.Time, why string) {
		if at.IsZero() || t.Before(at) {
			at, what = t, why
		}
	}
	if t, ok := l.state.Alert.NextWake(l.in.Tuning.Holds); ok {
		consider(t, fmt.Sprintf("%s: has it held?", l.state.Alert.Phase))
	}
	if len(l.state.Flags) > 0 || l.state.Closing {
		consider(l.state.RenewAt, "renew the flags")
	}
	if m := l.state.Mute; m != nil {
		consider(m.Until, "the mute ends")
	}
	for _, f := range l.state.Flags {
		if t, ok := l.expiry(f); ok {
			consider(t, fmt.Sprintf("the %s flag expires", f.Kind))
		}
	}
	return at, what
}

// expiry is when the flag is to be ordered off, if that is up to the clock. While flags are being written
// it is not: the flag whose time is up may be the one that is coming off, and the end of the write wakes
// the loop.
func (l *alertLoop) expiry(f routing.Flag) (time.Time, bool) {
	if f.ExpiresAt.IsZero() || l.writing > 0 {
		return time.Time{}, false
	}
	if f.ExpiresAt.Before(l.patient) {
		return l.patient, true
	}
	return f.ExpiresAt, true
}

// receive handles one signal of those that wait, and reports whether there was one.
func (l *alertLoop) receive(ctx workflow.Context) bool {
	var (
		facts   contract.FactsMessage
		resolve contract.ResolveRequest
		set     contract.SetFlagRequest
		ended   contract.IncidentEndedMessage
		mute    contract.MuteRequest
		accept  contract.AcceptLevelRequest
	)
	switch {
	case l.facts.ReceiveAsync(&facts):
		l.hear(ctx, facts)
	case l.ended.ReceiveAsync(&ended):
		l.incidentEnded(ctx, ended)
	case l.resolves.ReceiveAsync(&resolve):
		if err := l.checkResolve(resolve); err != nil {
			workflow.GetLogger(ctx).Warn("a signal was refused", "signal", contract.Resolve, "error", err)
			break
		}
		_, _ = l.resolve(ctx, resolve) // queues an event, and cannot fail
	case l.mutes.ReceiveAsync(&mute):
		if err := checkMute(mute); err != nil {
			workflow.GetLogger(ctx).Warn("a signal was refused", "signal", contract.SetMute, "error", err)
			break
		}
		_, _ = l.mute(ctx, mute) // only remembers, and cannot fail
	case l.accepts.ReceiveAsync(&accept):
		l.beside(ctx, contract.AcceptLevel, func(ctx workflow.Context) error {
			if err := l.checkAccept(accept); err != nil {
				return err
			}
			_, err := l.acceptLevel(ctx, accept)
			return err
		})
	case l.setFlags.ReceiveAsync(&set):
		l.beside(ctx, contract.SetFlag, func(ctx workflow.Context) error {
			if err := l.checkFlag(set); err != nil {
				return err
			}
			_, err := l.setFlag(ctx, set)
			return err
		})
	default:
		return false
	}
	return true
}

// hear takes a finding of the sweep. When the store of flags has begun a new life the flags are due to
// be renewed, which writes those that are gone.
func (l *alertLoop) hear(ctx workflow.Context, m contract.FactsMessage) {
	if m.Epoch != "" && m.Epoch != l.state.Epoch {
		if l.state.Epoch != "" && len(l.state.Flags) > 0 {
			l.state.RenewAt = workflow.Now(ctx)
		}
		l.state.Epoch = m.Epoch
	}
	f := m.Finding
	if f.Tick <= l.state.Alert.LastTick {
		return
	}
	if f.Verdict.Level != detect.Inconclusive {
		l.state.Finding = &f
	}
	if up(f.Verdict.Level) {
		l.state.Group = m.Group
	}
	l.step(ctx, occurrence{event: alert.Event{Fact: &alert.Fact{Tick: f.Tick, EvaluatedAt: f.EvaluatedAt, Level: f.Verdict.Level}}})
	if up(f.Verdict.Level) {
		l.regroup(ctx)
	}
}

// advance steps the alert by what handlers have seen, and by the time that has passed.
func (l *alertLoop) advance(ctx workflow.Context) {
	for len(l.events) > 0 {
		o := l.events[0]
		l.events = l.events[1:]
		l.step(ctx, o)
	}
	l.step(ctx, occurrence{})
}

// step moves the alert and carries out what follows. It waits for children and signals, so nothing
// but the loop itself may call it: two at once could resolve an incident that is only being opened.
func (l *alertLoop) step(ctx workflow.Context, o occurrence) {
	next, effects := alert.Step(l.state.Alert, o.event, l.in.Tuning.Holds, workflow.Now(ctx))
	l.state.Alert = next
	for _, effect := range effects {
		switch effect {
		case alert.Fire:
			l.fire(ctx)
		case alert.Escalate:
			l.tell(ctx, contract.Escalated, "", "the finding rose to PAGE and held")
		case alert.Recover:
			l.tell(ctx, contract.Recovering, "", "the finding is gone from the untreated traffic")
		case alert.Refire:
			// Its incident was gone when it was told of the recovery. 1: before it, a key that no group explained any
			// more fired with nobody told.
			if l.state.Incident == "" && (l.state.Group != "" || workflow.GetVersion(ctx, "refire-opens-anew", workflow.DefaultVersion, 1) >= 1) {
				l.fire(ctx)
				break
			}
			l.tell(ctx, contract.Refired, "", "the finding came back before the incident was resolved")
		case alert.Silence:
			l.tell(ctx, contract.Silent, "", fmt.Sprintf("no facts for %s: the key is inconclusive", l.in.Tuning.Holds.Silence))
		case alert.Heard:
			l.tell(ctx, contract.Heard, "", "facts are back after a silence")
		case alert.Resolve:
			if o.who == "" {
				o.reason = "the finding stayed away from the untreated traffic"
			}
			l.state.Closing = true
			l.remindLater(ctx)
			l.tell(ctx, contract.Resolved, o.who, o.reason)
			if l.grouped() {
				l.forget() // no decision of a group holds a flag of this key's, so there is nothing to wait for
			}
		}
	}
}

// fire opens an incident, or joins the one of many keys that the finding belongs to. One that is still closing is taken up again instead: its decisions still
// hold flags, and two incidents of one key would fight over them.
func (l *alertLoop) fire(ctx workflow.Context) {
	if l.state.Incident != "" {
		l.state.Closing = false
		l.tell(ctx, contract.Refired, "", "the finding came back while the incident was closing")
		if l.state.Incident != "" {
			return
		}
	}
	if g := l.state.Group; g != "" && g != l.state.Apart && l.join(ctx, g) {
		return
	}
	now := workflow.Now(ctx)
	in := contract.IncidentInput{
		Key: l.in.Key, Opened: now, Level: l.state.Alert.Peak, Tuning: l.in.Tuning, Mute: l.state.Mute,
		Loop: workflow.GetInfo(ctx).WorkflowExecution.ID,
	}
	if l.state.Finding != nil {
		in.Finding = *l.state.Finding
	}
	id := contract.IncidentID(l.in.Key, now)
	ctx, _ = workflow.NewDisconnectedContext(ctx) // to cancel the loop is to resolve its incident, not to cancel it
	child := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            id,
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowTaskTimeout:   contract.WorkflowTaskTimeout,
		TypedSearchAttributes: keyAttributes(l.in.Key, string(in.Level), "open"),
		StaticSummary:         fmt.Sprintf("%s %s: %s", in.Level, l.in.Key, in.Finding.Verdict.Reason),
	}), Incident, in)
	if err := child.GetChildWorkflowExecution().Get(ctx, nil); err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		workflow.GetLogger(ctx).Error("the incident could not be opened", "incident", id, "error", err)
		return
	}
	l.state.Incident, l.state.Closing = id, false
	l.state.Opened++
}

// tell sends the open incident a change. One that is not there any more is forgotten, so that an
// incident that somebody terminated does not hold its key's loop open.
func (l *alertLoop) tell(ctx workflow.Context, change contract.AlertChange, who, reason string) {
	if l.state.Incident == "" {
		return
	}
	err := l.send(ctx, l.state.Incident, change, who, reason)
	if err != nil && ctx.Err() == nil {
		workflow.GetLogger(ctx).Warn("the incident is gone", "incident", l.state.Incident, "error", err)
		orphaned := l.grouped() && l.state.Alert.Phase == alert.Firing && change != contract.Parted
		l.forget()
		if orphaned { // somebody has ended the incident of many keys, which says nothing of this one
			l.fire(ctx)
		}
	}
}

// send signals a change to an incident.
func (l *alertLoop) send(ctx workflow.Context, incident string, change contract.AlertChange, who, reason string) error {
	return workflow.SignalExternalWorkflow(ctx, incident, "", contract.AlertChanged, contract.AlertChangedMessage{
		Key: l.in.Key, Change: change, Level: l.state.Alert.Peak, At: workflow.Now(ctx), Finding: l.state.Finding,
		Who: who, Reason: reason, Mute: l.state.Mute,
	}).Get(ctx, nil)
}

// incidentEnded takes the word of an incident that it has ended.
func (l *alertLoop) incidentEnded(ctx workflow.Context, m contract.IncidentEndedMessage) {
	if m.Incident != l.state.Incident {
		return
	}
	if l.grouped() {
		l.state.Apart = m.Incident // a person has split this key off: the next facts must not bring it back
	}
	l.forget()
	if l.state.Alert.Phase == alert.Firing && !m.Cancelled {
		l.fire(ctx) // the finding came back when it was too late to take the incident up again
	}
}

// forget drops the incident from the state: it has ended, or the key has left it.
func (l *alertLoop) forget() {
	l.state.Incident, l.state.Closing, l.state.Astray = "", false, time.Time{}
}

// checkFlag refuses what the key's flags do not allow.
func (l *alertLoop) checkFlag(r contract.SetFlagRequest) error {
	err := l.state.Check(l.in.Key, routing.Order(r))
	switch {
	case errors.Is(err, routing.ErrOrder):
		return invalid(err.Error())
	case err != nil:
		return refuse(err.Error())
	}
	return nil
}

// setFlag puts a flag on, changes its share, or takes it off. The sequence number is taken before the
// write, so a write whose answer was lost is repeated under the same number and changes nothing.
func (l *alertLoop) setFlag(ctx workflow.Context, r contract.SetFlagRequest) (contract.SetFlagResult, error) {
	if err := l.lock.Lock(ctx); err != nil {
		return contract.SetFlagResult{}, fmt.Errorf("waiting for another write of a flag: %w", err)
	}
	defer l.lock.Unlock()
	defer func() { l.changed = true }()
	if err := l.checkFlag(r); err != nil { // it may have changed hands while this waited
		return contract.SetFlagResult{}, err
	}
	var before *routing.Flag
	if have := l.state.Flag(r.Kind); have != nil {
		stood := *have
		before = &stood
	}
	now := workflow.Now(ctx)
	// 1: before it, the flag by which an incident has every call scored never expired, and outlived an incident that
	// somebody terminated.
	if r.Share > 0 && r.ExpiresAt.IsZero() && workflow.GetVersion(ctx, "every-flag-expires", workflow.DefaultVersion, 1) >= 1 {
		r.ExpiresAt = now.Add(l.in.Tuning.Limits.MaxHold)
	}
	flag, write := l.state.Take(l.in.Key, routing.Order(r), now)
	if !write {
		return contract.SetFlagResult{Flag: flag, Before: before}, nil
	}
	if err := l.write(ctx, flag); err != nil {
		return contract.SetFlagResult{}, err
	}
	if flag.Share > 0 && len(l.state.Flags) == 0 {
		l.remindLater(ctx)
	}
	l.state.Written(flag)
	l.count()
	return contract.SetFlagResult{Flag: flag, Changed: true, Before: before}, nil
}

// write has a flag put on, or taken off, until that is done.
func (l *alertLoop) write(ctx workflow.Context, f routing.Flag) error {
	if f.Share == 0 {
		if err := workflow.ExecuteActivity(doing(ctx, fmt.Sprintf("%s flag off", f.Kind)), flags.ReleaseFlag, f).Get(ctx, nil); err != nil {
			return fmt.Errorf("taking the %s flag of %s off: %w", f.Kind, l.in.Key, err)
		}
		return nil
	}
	what := fmt.Sprintf("%s flag on at %.0f %%", f.Kind, f.Share*100)
	if err := workflow.ExecuteActivity(doing(ctx, what), flags.ApplyFlag, f).Get(ctx, nil); err != nil {
		return fmt.Errorf("putting the %s flag of %s on: %w", f.Kind, l.in.Key, err)
	}
	return nil
}

// count tells the alert how many of its flags touch where calls go: one that touches only what is scored does not
// keep an incident from resolving.
func (l *alertLoop) count() {
	n := l.state.Moving()
	l.events = append(l.events, occurrence{event: alert.Event{Flags: &n}})
}

// tend does what the clock asks: it renews flags, takes expired ones off, ends a mute, and reminds a closing
// incident. Writes of flags run beside the loop, so that a Redis that is away delays no finding.
func (l *alertLoop) tend(ctx workflow.Context) {
	now := workflow.Now(ctx)
	l.tendMute(ctx)
	for _, f := range l.state.Flags {
		if t, ok := l.expiry(f); ok && !now.Before(t) {
			request := contract.SetFlagRequest{Kind: f.Kind, Decision: f.Decision, Reason: "expired at " + f.ExpiresAt.Format(time.RFC3339)}
			l.beside(ctx, "expire", func(ctx workflow.Context) error {
				_, err := l.setFlag(ctx, request)
				if err != nil {
					l.patient = workflow.Now(ctx).Add(expireAgain)
				}
				return err
			})
		}
	}
	if now.Before(l.state.RenewAt) {
		return
	}
	l.remindLater(ctx)
	if l.state.Closing {
		l.tell(ctx, contract.Resolved, "", "reminder: the incident is resolved")
	}
	if len(l.state.Flags) > 0 {
		l.beside(ctx, "renew", l.renew)
	}
}

// remindLater sets the time at which flags are renewed and a closing incident is reminded.
func (l *alertLoop) remindLater(ctx workflow.Context) {
	l.state.RenewAt = workflow.Now(ctx).Add(routing.RenewEvery)
}

// beside runs a write of flags in its own coroutine; the loop neither completes nor continues as new
// meanwhile.
func (l *alertLoop) beside(ctx workflow.Context, name string, write func(workflow.Context) error) {
	l.writing++
	workflow.GoNamed(ctx, name, func(ctx workflow.Context) {
		if err := write(ctx); err != nil {
			workflow.GetLogger(ctx).Error("a flag could not be written", "what", name, "error", err)
		}
		l.writing--
		l.changed = true
	})
}

// renew puts every flag on again, which keeps it alive and brings it back to a Redis that lost it.
func (l *alertLoop) renew(ctx workflow.Context) error {
	if err := l.lock.Lock(ctx); err != nil {
		return err
	}
	defer l.lock.Unlock()
	if len(l.state.Flags) == 0 {
		return nil
	}
	now := workflow.Now(ctx)
	for i := range l.state.Flags {
		l.state.Flags[i].RenewedAt = now
	}
	ctx = workflow.WithScheduleToCloseTimeout(doing(ctx, "renew the flags"), routing.RenewEvery/2)
	return workflow.ExecuteActivity(ctx, flags.RenewFlags, slices.Clone(l.state.Flags)).Get(ctx, nil)
}

// abandon ends a cancelled loop: it takes its flags off and closes its incident, so that nothing is
// left that nobody owns.
func (l *alertLoop) abandon(ctx workflow.Context, cause error) error {
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	l.state.Closing = true
	l.tell(ctx, contract.Resolved, "whoever cancelled "+workflow.GetInfo(ctx).WorkflowExecution.ID, "the key's alert loop was cancelled")
	_ = workflow.Await(ctx, func() bool { return l.writing == 0 && workflow.AllHandlersFinished(ctx) })
	for _, f := range slices.Clone(l.state.Flags) {
		if _, err := l.setFlag(ctx, contract.SetFlagRequest{Kind: f.Kind, Decision: f.Decision, Reason: "the key's alert loop was cancelled"}); err != nil {
			workflow.GetLogger(ctx).Error("a flag could not be taken off", "kind", f.Kind, "error", err)
		}
	}
	return cause
}

// publish shows the state to people: search attributes and current details.
func (l *alertLoop) publish(ctx workflow.Context) {
	state := string(l.state.Alert.Phase)
	if l.state.Alert.Idle() && l.state.Incident == "" && l.state.Mute.On(workflow.Now(ctx)) {
		state = contract.StateMuted
	}
	severity := string(l.state.Alert.Level)
	if l.state.Alert.Silent {
		state, severity = "silent", string(detect.Inconclusive)
	}
	l.visible.set(ctx, attributes{Severity: severity, State: state})
	workflow.SetCurrentDetails(ctx, alertLoopDetails(l.state, l.in.Tuning))
}
