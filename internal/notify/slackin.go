package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	// answerTime is how long a press is worked on before Slack is answered: it waits three seconds.
	answerTime = 2500 * time.Millisecond
	// keepTime is how long the workflows may take to keep a press durably.
	keepTime = 2 * time.Second
	// nameTime is how long a name may take to look up; the press tells a name of its own.
	nameTime = 500 * time.Millisecond
	// sayTime bounds telling a person what became of a press.
	sayTime = 10 * time.Second
)

// The modal in which a denial gives its reason.
const (
	denyView   = "flyball_deny"
	reasonID   = "reason"
	reasonText = "text"
	maxReason  = 1000
)

// press is what a person pressed, or submitted.
type press struct {
	id      string // tells this press from any other; empty: it cannot be told
	action  string // one of the act… constants, or denyView
	value   string // the workflow that the button is of, or the choice in a menu
	reason  string // of a submitted denial
	user    string
	name    string // as the press tells it
	channel string
	message string
	trigger string // opens a modal, for three seconds
	about   string // the incident, as our message's metadata says
}

// parsePress reads an interaction payload. What is none of ours is an error: Slack may add kinds.
func parsePress(payload []byte) (press, error) {
	var cb slack.InteractionCallback
	if err := json.Unmarshal(payload, &cb); err != nil {
		return press{}, fmt.Errorf("reading the payload: %w", err)
	}
	return pressOf(cb)
}

func pressOf(cb slack.InteractionCallback) (press, error) {
	p := press{
		user: cb.User.ID, name: cmp.Or(cb.User.Profile.DisplayName, cb.User.Name), trigger: cb.TriggerID,
		channel: cmp.Or(cb.Channel.ID, cb.Container.ChannelID), message: cmp.Or(cb.Message.Timestamp, cb.Container.MessageTs),
	}
	if !userID.MatchString(p.user) {
		return press{}, errors.New("the payload names no user")
	}
	switch cb.Type {
	case slack.InteractionTypeBlockActions:
		if len(cb.ActionCallback.BlockActions) == 0 || cb.ActionCallback.BlockActions[0] == nil {
			return press{}, errors.New("the payload has no action")
		}
		a := cb.ActionCallback.BlockActions[0]
		p.action, p.value = a.ActionID, cmp.Or(a.Value, a.SelectedOption.Value)
		p.id = a.ActionTs + " " + a.ActionID + " " + p.user
		_, p.about, _ = told(cb.Message.Metadata)
		if a.ActionTs == "" {
			return press{}, errors.New("the action has no time")
		}
	case slack.InteractionTypeViewSubmission:
		p.action, p.id = cb.View.CallbackID, cb.View.ID+" "+p.user
		var opened denial
		if err := json.Unmarshal([]byte(cb.View.PrivateMetadata), &opened); err != nil {
			return press{}, fmt.Errorf("reading what the modal was opened for: %w", err)
		}
		p.value, p.channel = opened.Decision, opened.Channel
		if cb.View.State != nil {
			p.reason = strings.TrimSpace(cb.View.State.Values[reasonID][reasonText].Value)
		}
		if cb.View.ID == "" {
			return press{}, errors.New("the view has no id")
		}
	default:
		return press{}, fmt.Errorf("nothing of ours sends %q", cb.Type)
	}
	if !slices.Contains([]string{actApprove, actDeny, actAcknowledge, actMute, denyView}, p.action) {
		return press{}, fmt.Errorf("nothing of ours is called %q", p.action)
	}
	return p, nil
}

// denial is what a modal carries from the press that opened it to its submission.
type denial struct {
	Decision string `json:"decision"`
	Channel  string `json:"channel"`
}

// refusal is why a press does nothing, in words for the person who pressed.
type refusal string

func (r refusal) Error() string { return string(r) }

// answer is what Slack is answered: nothing, or what is wrong in a modal.
type answer = *slack.ViewSubmissionResponse

// handle carries a press out and answers within answerTime, whatever it waits for. The workflows have kept
// it before it is answered, or the person is told that they have not.
func (s *Slack) handle(ctx context.Context, p press) answer {
	if !s.seen.begin(p.id, s.o.Now()) {
		return nil // the same press again: it is, or was, carried out
	}
	done := make(chan answer, 1)
	working, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	go func() {
		defer cancel()
		done <- s.carryOut(working, p)
	}()
	timer := time.NewTimer(answerTime)
	defer timer.Stop()
	select {
	case a := <-done:
		return a
	case <-timer.C: // what became of it is told when it is known
		return nil
	}
}

// carryOut does what was pressed and tells the person.
func (s *Slack) carryOut(ctx context.Context, p press) answer {
	said, err := s.do(ctx, p)
	if err == nil {
		if said != "" {
			s.whisper(p, said)
		}
		return nil
	}
	s.seen.forget(p.id) // so that it can be pressed again, and a second copy of it counts
	var no refusal
	var text string
	switch {
	case errors.As(err, &no):
		text = string(no)
	case errors.Is(err, ErrGone):
		text = "This comes too late: it is over."
	default:
		s.o.Log.Error("A press in Slack was not kept", "action", p.action, "of", p.value, "user", p.user, "error", err)
		text = "This was *not* recorded: Flyball's workflows cannot be reached right now. Please press again in a minute, or use the console or the command line."
	}
	if p.action == denyView {
		return slack.NewErrorsViewSubmissionResponse(map[string]string{reasonID: strings.ReplaceAll(text, "*", "")})
	}
	s.whisper(p, text)
	return nil
}

// whisper tells the person who pressed, and nobody else. It does not hold up the answer to Slack.
func (s *Slack) whisper(p press, text string) {
	if p.channel == "" {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), sayTime)
		defer cancel()
		if _, err := s.api.PostEphemeralContext(ctx, p.channel, p.user, slack.MsgOptionText(text, false)); err != nil {
			s.o.Log.Warn("A person could not be told what became of a press in Slack", "user", p.user, "error", explained("telling a person", err))
		}
	}()
}

// do does what was pressed and returns what to tell the person.
func (s *Slack) do(ctx context.Context, p press) (string, error) {
	ctx = WithID(ctx, "slack "+p.id) // so that another process, given the same press, says nothing twice
	switch p.action {
	case actApprove:
		if err := s.mayDecide(ctx, p); err != nil {
			return "", err
		}
		err := s.o.People.Decide(ctx, p.value, contract.DecideRequest{Verdict: contract.Approve, Who: s.who(ctx, p), Reason: "approved in Slack"})
		return "👍 Your approval is recorded. The message above changes as soon as it takes effect.", err
	case actDeny:
		if err := s.mayDecide(ctx, p); err != nil {
			return "", err
		}
		return "", s.askReason(ctx, p)
	case denyView:
		if p.reason == "" {
			return "", refusal("Please say why: it is what the next person learns from.")
		}
		if err := s.mayDecide(ctx, p); err != nil {
			return "", err
		}
		err := s.o.People.Decide(ctx, p.value, contract.DecideRequest{Verdict: contract.Deny, Who: s.who(ctx, p), Reason: plain(p.reason, maxReason)})
		return "👎 Your denial is recorded.", err
	case actAcknowledge:
		if err := s.mayPress(); err != nil {
			return "", err
		}
		err := s.o.People.Acknowledge(ctx, p.value, contract.AcknowledgeRequest{Who: s.who(ctx, p)})
		return "👤 You have taken it on.", err
	case actMute:
		return s.mute(ctx, p)
	}
	return "", fmt.Errorf("nothing of ours is called %q", p.action)
}

// mayDecide returns a refusal unless the policy lets the person decide. Whom it names is read from the
// decision itself: a button only says which decision it is of.
func (s *Slack) mayDecide(ctx context.Context, p press) error {
	if s.o.People == nil || s.o.Decision == nil {
		return refusal("This Flyball takes no decisions from Slack: use the console or the command line.")
	}
	d, err := s.decision(ctx, p.value)
	if err != nil {
		return err
	}
	switch {
	case d.Verdict != nil:
		return refusal(fmt.Sprintf("%s has already said %s.", oneLine(d.Verdict.Who, 200), oneLine(d.Verdict.Verdict, 20)))
	case d.Status != contract.AwaitingApproval:
		return refusal(fmt.Sprintf("This decision waits for nobody: it is %s.", oneLine(words(d.Status), 50)))
	}
	groups := d.Input.Proposal.Approvers
	if len(groups) == 0 {
		return nil
	}
	var named []string
	for _, group := range groups {
		if slices.Contains(s.o.Approvers[group], p.user) {
			return nil
		}
		named = append(named, code(group, 100))
	}
	return refusal(fmt.Sprintf("Only %s may decide this, by the policy act.yaml, and <@%s> is not among them here. Ask one of them, or have your Slack id added to that group's approvers in Flyball's configuration.",
		strings.Join(named, " and "), p.user))
}

// decision is the decision's state: as its workflow tells it, or, while no worker is there to tell, as the
// newest notice that came through here did. Whom a policy lets approve never changes once it is proposed.
func (s *Slack) decision(ctx context.Context, id string) (contract.DecisionState, error) {
	patient, cancel := context.WithTimeout(ctx, keepTime/2)
	defer cancel()
	d, err := s.o.Decision(patient, id)
	if err == nil {
		return d, nil
	}
	s.mu.Lock()
	cards := make([]*postedCard, 0, len(s.cards))
	for key, c := range s.cards {
		if strings.HasPrefix(id, "decision/"+key.incident+"/") {
			cards = append(cards, c)
		}
	}
	s.mu.Unlock()
	for _, c := range cards {
		if !c.mu.TryLock() { // a post is under way, which may take longer than a press
			continue
		}
		d, ok := c.decisions[id]
		c.mu.Unlock()
		if ok {
			return d, nil
		}
	}
	return contract.DecisionState{}, fmt.Errorf("asking who may decide %s: %w", id, err)
}

// mayPress returns a refusal where nothing can be pressed.
func (s *Slack) mayPress() error {
	if s.o.People == nil {
		return refusal("This Flyball takes nothing from Slack: use the console or the command line.")
	}
	return nil
}

// askReason opens the modal in which a denial says why.
func (s *Slack) askReason(ctx context.Context, p press) error {
	opened, err := json.Marshal(denial{p.value, p.channel})
	if err != nil {
		return err
	}
	input := slack.NewPlainTextInputBlockElement(plainText("What speaks against it?", 150), reasonText)
	input.Multiline, input.MaxLength = true, maxReason
	_, err = s.api.OpenViewContext(ctx, p.trigger, slack.ModalViewRequest{
		Type: slack.VTModal, CallbackID: denyView, PrivateMetadata: string(opened),
		Title: plainText("Deny", 24), Submit: plainText("Deny", 24), Close: plainText("Cancel", 24),
		Blocks: slack.Blocks{BlockSet: []slack.Block{
			slack.NewSectionBlock(mrkdwn("A denial sets back how far this kind of act is trusted to act alone.", maxSection), nil, nil),
			slack.NewInputBlock(reasonID, plainText("Why?", 100), nil, input),
		}},
	})
	if err != nil {
		s.o.Log.Warn("The modal for a denial could not be opened", "decision", p.value, "error", explained("opening a modal", err))
		return refusal("The window for the reason could not be opened. Please press Deny again, or use the console or the command line.")
	}
	return nil
}

// mute mutes what the menu's choice says of the incident that the message is of.
func (s *Slack) mute(ctx context.Context, p press) (string, error) {
	if err := s.mayPress(); err != nil {
		return "", err
	}
	what, length, _ := strings.Cut(p.value, " ")
	d, err := time.ParseDuration(length)
	if err != nil || d < 0 || d > 24*time.Hour || what != muteThis && what != muteTenant {
		return "", refusal("This choice is not one of Flyball's.")
	}
	target, err := s.incidentOf(ctx, p)
	if err != nil {
		return "", err
	}
	if what == muteTenant {
		key, err := contract.KeyOf(target)
		if err != nil {
			return "", refusal("Only an incident of one key has a tenant.")
		}
		target = contract.AlertLoopID(usage.Key{Tenant: key.Tenant, Model: usage.AnyModel})
	}
	if err := s.o.People.Mute(ctx, target, contract.MuteRequest{For: d, Who: s.who(ctx, p), Reason: "in Slack"}); err != nil {
		return "", err
	}
	if d == 0 {
		return "🔔 It is not muted any more.", nil
	}
	return fmt.Sprintf("🔕 Muted for %s.", lasting(d)), nil
}

// incidentOf is the incident that a message is of. The press may tell its metadata; else Slack is asked.
func (s *Slack) incidentOf(ctx context.Context, p press) (string, error) {
	if p.about != "" {
		return p.about, nil
	}
	history, err := s.api.GetConversationHistoryContext(ctx, &slack.GetConversationHistoryParameters{
		ChannelID: p.channel, Oldest: p.message, Latest: p.message, Inclusive: true, Limit: 1, IncludeAllMetadata: true,
	})
	if err != nil {
		return "", explained("reading the message that was pressed on", err)
	}
	for _, m := range history.Messages {
		if _, incident, ours := told(m.Metadata); ours && m.Timestamp == p.message {
			return incident, nil
		}
	}
	return "", refusal("Which incident this message is of can't be told any more: use the console or the command line.")
}

// who names the person for the record: by a name, which anybody can change, and by the id, which nobody can.
func (s *Slack) who(ctx context.Context, p press) string {
	return fmt.Sprintf("%s (Slack %s)", s.name(ctx, p), p.user)
}

func (s *Slack) name(ctx context.Context, p press) string {
	s.mu.Lock()
	name, known := s.names[p.user]
	s.mu.Unlock()
	if known {
		return name
	}
	patient, cancel := context.WithTimeout(ctx, nameTime)
	defer cancel()
	user, err := s.api.GetUserInfoContext(patient, p.user)
	if err != nil {
		return plain(cmp.Or(p.name, "somebody"), 80)
	}
	name = plain(cmp.Or(user.Profile.DisplayName, user.Profile.RealName, user.RealName, user.Name, p.name, "somebody"), 80)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) >= maxCards {
		clear(s.names)
	}
	s.names[p.user] = name
	return name
}

// memory remembers what has been seen for a while, in bounded room: the oldest is forgotten first.
type memory struct {
	mu   sync.Mutex
	keep time.Duration
	room int
	at   map[string]time.Time
	old  []string // in order of time
}

func newMemory(keep time.Duration, room int) *memory {
	return &memory{keep: keep, room: room, at: map[string]time.Time{}}
}

// begin remembers id and reports whether it is new.
func (m *memory) begin(id string, now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.old) > 0 && (len(m.old) >= m.room || now.Sub(m.at[m.old[0]]) > m.keep) {
		delete(m.at, m.old[0])
		m.old = m.old[1:]
	}
	if _, seen := m.at[id]; seen {
		return false
	}
	m.at[id] = now
	m.old = append(m.old, id)
	return true
}

// forget makes id new again.
func (m *memory) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, seen := m.at[id]; seen {
		delete(m.at, id)
		m.old = slices.DeleteFunc(m.old, func(o string) bool { return o == id })
	}
}
