package notify

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/flyball-dev/flyball/internal/contract"
)

// SlackOptions are what Slack needs.
type SlackOptions struct {
	BotToken      string // xoxb-…
	AppToken      string // xapp-…, for Socket Mode; Run needs it
	SigningSecret string // for interactivity over HTTP; Handler needs it

	Channels  map[contract.Audience]string // ids (C…) of the channels for each audience
	Approvers map[string][]string          // the Slack user ids (U…) of each group that act.yaml names; whoever sees a message may acknowledge and mute

	Links Links

	// People carries what is pressed to the workflows. Nil: nothing can be pressed.
	People People
	// Decision is the state of a decision as its workflow tells it: whom the policy lets approve is read
	// from there, never from what Slack sends.
	Decision func(ctx context.Context, id string) (contract.DecisionState, error)
	// Chart draws the breach beside what is usual, as a PNG, once an incident opens. Nil: no picture.
	Chart func(ctx context.Context, n contract.Notice) ([]byte, error)

	API  string       // the API's address; empty: Slack's own
	HTTP *http.Client // empty: one that gives up after ten seconds
	Log  *slog.Logger
	Now  func() time.Time
}

// Slack is the channel to Slack, and back. Each incident has one message there, its card, which is kept as
// the incident is; what happens along the way is told in the card's thread.
//
// A notice is posted once. Slack keeps no idempotency keys, so each message carries in its metadata which
// notice it tells, and Slack is asked for it before anything is posted whose fate is not known: after a
// restart, after an answer that never came, and when another worker may have posted it.
type Slack struct {
	o        SlackOptions
	api      *slack.Client
	channels map[string]*slackChannel

	mu    sync.Mutex
	cards map[cardKey]*postedCard
	names map[string]string // of users, by id

	seen     *memory // presses that were carried out
	verified *memory // signatures that were taken
}

// NewSlack returns the channel to Slack. Nothing is sent yet.
func NewSlack(o SlackOptions) (*Slack, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.HTTP == nil {
		o.HTTP = &http.Client{Timeout: 10 * time.Second}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.API = strings.TrimRight(cmp.Or(o.API, slack.APIURL), "/") + "/"
	s := &Slack{
		o:        o,
		api:      slack.New(o.BotToken, slack.OptionHTTPClient(o.HTTP), slack.OptionAPIURL(o.API), slack.OptionAppLevelToken(o.AppToken)),
		channels: map[string]*slackChannel{}, cards: map[cardKey]*postedCard{}, names: map[string]string{},
		seen: newMemory(10*time.Minute, 4096), verified: newMemory(2*tolerance, 65536),
	}
	for _, id := range o.Channels {
		s.channels[id] = &slackChannel{id: id}
	}
	return s, nil
}

var (
	channelID = regexp.MustCompile(`^[CGD][A-Z0-9]{2,}$`)
	userID    = regexp.MustCompile(`^[UW][A-Z0-9]{2,}$`)
)

// validate says everything that is wrong with the options at once. Tokens are never part of what it says.
func (o SlackOptions) validate() error {
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf(format, args...)) }
	if !strings.HasPrefix(o.BotToken, "xoxb-") {
		refuse("Slack's bot token must begin with xoxb-: it is on the page OAuth & Permissions of the app")
	}
	if o.AppToken != "" && !strings.HasPrefix(o.AppToken, "xapp-") {
		refuse("Slack's app-level token must begin with xapp-: make one with the scope connections:write on the page Basic Information of the app")
	}
	if len(o.Channels) == 0 {
		refuse("Slack needs a channel: name one for %s at least", contract.OnCall)
	}
	for audience, id := range o.Channels {
		if !channelID.MatchString(id) {
			refuse("Slack's channel for %s, %q, is not a channel's id (C…): it is at the end of the channel's About", audience, id)
		}
	}
	for group, ids := range o.Approvers {
		for _, id := range ids {
			if !userID.MatchString(id) {
				refuse("the approver %q of the group %s is not a Slack user's id (U…): it is in the profile's menu as Copy member ID", id, group)
			}
		}
	}
	for name, address := range map[string]string{"console": o.Links.Console, "Temporal UI": o.Links.TemporalUI, "Slack API": o.API} {
		if u, err := url.Parse(address); address != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
			refuse("the address of the %s, %q, is not one of http:// or https://", name, address)
		}
	}
	return errors.Join(wrong...)
}

// cardKey names a card: an incident that began as a finding and became a page has one in each channel.
type cardKey struct{ incident, channel string }

// maxCards bounds the cards that are remembered; one that was forgotten is found again in its channel.
const maxCards = 4096

// postedCard is what this process knows of a card.
type postedCard struct {
	mu   sync.Mutex
	used time.Time // by the lock of Slack

	ts        string // the message's; empty while none is known
	shown     version
	posted    map[noticeKey]bool // in the thread
	state     *contract.IncidentState
	group     *contract.GroupState
	decisions map[string]contract.DecisionState
	chart     bool // the picture was tried, or is there
}

// noticeKey is what makes a message of a thread one.
type noticeKey struct {
	kind    contract.NoticeKind
	id      string
	seq     int
	carried string // the channels for which the message stands in; empty: it is the notice itself
}

func keyOf(n contract.Notice) noticeKey { return noticeKey{kind: n.Kind, id: n.ID, seq: n.Seq} }

// carriedKey is that of the message that stands in for the channels that could not be reached.
func carriedKey(n contract.Notice) noticeKey {
	key := keyOf(n)
	key.carried = strings.Join(n.Unreached, ", ")
	return key
}

// version says how new what a card shows is.
type version struct {
	at  time.Time // of the state
	key noticeKey
}

func versionOf(n contract.Notice) version {
	v := version{key: keyOf(n)}
	switch {
	case n.State != nil:
		v.at = n.State.UpdatedAt
	case n.Group != nil:
		v.at = n.Group.UpdatedAt
	}
	return v
}

// older reports whether v must not replace w: its state is of before, or it is of the same kind and comes
// before it in their order.
func (v version) older(w version) bool {
	if v.key.kind == w.key.kind && v.key.id == w.key.id && v.key.seq != w.key.seq {
		return v.key.seq < w.key.seq
	}
	return v.at.Before(w.at)
}

// Check asks Slack whether it knows the bot.
func (s *Slack) Check(ctx context.Context) error {
	if _, err := s.api.AuthTestContext(ctx); err != nil {
		return explained("asking Slack who this is", err)
	}
	return nil
}

// Post brings the card of the notice's incident up to date and tells the notice in its thread, where it is
// of a kind that is told there.
func (s *Slack) Post(ctx context.Context, n contract.Notice) error {
	channel, ok := s.o.Channels[n.For()]
	if !ok {
		return &slackError{doing: "posting a notice", err: fmt.Errorf("there is no channel for %s", n.For()), mend: "configure one", final: true}
	}
	n.Incident = cmp.Or(n.Incident, n.ID)
	if err := s.post(ctx, channel, n); err != nil {
		return explained(fmt.Sprintf("posting %s of %s in %s", n.Kind, n.Incident, channel), err)
	}
	return s.alsoIn(ctx, channel, n)
}

// alsoIn keeps the card true that an incident has in the channel of findings from before it became a page.
func (s *Slack) alsoIn(ctx context.Context, channel string, n contract.Notice) error {
	findings := s.o.Channels[contract.Findings]
	if n.For() != contract.OnCall || findings == "" || findings == channel {
		return nil
	}
	key := cardKey{n.Incident, findings}
	began := n.State != nil && n.State.Input.Level != n.State.Level
	s.mu.Lock()
	_, remembered := s.cards[key]
	s.mu.Unlock()
	if !began && !remembered {
		return nil
	}
	c, done := s.card(key)
	defer done()
	if err := s.locate(ctx, c, findings, n); err != nil || c.ts == "" {
		return explained("looking for the card of "+n.Incident, err)
	}
	return explained("updating the card of "+n.Incident, s.show(ctx, c, findings, n))
}

// card returns the remembered card, locked, and what unlocks it.
func (s *Slack) card(key cardKey) (*postedCard, func()) {
	s.mu.Lock()
	c := s.cards[key]
	if c == nil {
		if len(s.cards) >= maxCards {
			s.forget()
		}
		c = &postedCard{posted: map[noticeKey]bool{}, decisions: map[string]contract.DecisionState{}}
		s.cards[key] = c
	}
	c.used = s.o.Now()
	s.mu.Unlock()
	c.mu.Lock()
	return c, c.mu.Unlock
}

// forget drops the half of the cards that were used longest ago, but for those in use.
func (s *Slack) forget() {
	var times []time.Time
	for _, c := range s.cards {
		times = append(times, c.used)
	}
	middle := median(times)
	for key, c := range s.cards {
		if !c.used.After(middle) && c.mu.TryLock() {
			delete(s.cards, key)
			c.mu.Unlock()
		}
	}
}

// post does the work of Post in one channel.
func (s *Slack) post(ctx context.Context, channel string, n contract.Notice) error {
	c, done := s.card(cardKey{n.Incident, channel})
	defer done()
	if err := s.locate(ctx, c, channel, n); err != nil {
		return err
	}
	fresh := c.ts == ""
	if err := s.show(ctx, c, channel, n); err != nil {
		return err
	}
	if err := s.tell(ctx, c, channel, n, fresh); err != nil {
		return err
	}
	if err := s.standIn(ctx, c, channel, n); err != nil {
		return err
	}
	if n.Kind == contract.NoticeOpened {
		s.picture(ctx, c, channel, n)
	}
	return nil
}

// locate finds the card's message and what its thread has told. It asks Slack each time: another worker
// may have posted since.
func (s *Slack) locate(ctx context.Context, c *postedCard, channel string, n contract.Notice) error {
	if c.ts == "" {
		ts, err := s.channels[channel].find(ctx, s, n.Incident, n.Opened)
		if err != nil || ts == "" {
			return err
		}
		c.ts = ts
	}
	err := s.read(ctx, c, channel)
	if saidError(err, "thread_not_found", "message_not_found") {
		s.lost(c, channel, n.Incident) // somebody deleted it
		return nil
	}
	return err
}

// lost forgets a message that is not there any more; what was told with it is told anew.
func (s *Slack) lost(c *postedCard, channel, incident string) {
	s.channels[channel].drop(incident, c.ts)
	c.ts, c.shown, c.chart = "", version{}, false
	clear(c.posted)
}

// hear takes up what a notice tells of a decision, unless more is known.
func (c *postedCard) hear(d *contract.DecisionState) {
	if d != nil && len(d.History) >= len(c.decisions[d.ID].History) {
		c.decisions[d.ID] = *d
	}
}

// learn takes up the state that a notice tells, unless a newer one is known.
func (c *postedCard) learn(n contract.Notice) {
	if n.State != nil && (c.state == nil || !n.State.UpdatedAt.Before(c.state.UpdatedAt)) {
		c.state = n.State
	}
	if n.Group != nil && (c.group == nil || !n.Group.UpdatedAt.Before(c.group.UpdatedAt)) {
		c.group = n.Group
	}
}

// show brings the card's message up to date, or posts it. What is shown never goes back in time.
func (s *Slack) show(ctx context.Context, c *postedCard, channel string, n contract.Notice) error {
	c.hear(n.Decision)
	v := versionOf(n)
	stateless := n.State == nil && n.Group == nil
	if c.ts != "" {
		same := v.key == c.shown.key && (stateless || v.at.Equal(c.shown.at))
		switch {
		case same && (len(n.Unreached) == 0 || c.posted[carriedKey(n)]):
			return nil // it shows this notice
		case !stateless && v.older(c.shown):
			return nil
		case stateless && c.state == nil && c.group == nil:
			return nil // the message shows more than is known here
		case stateless && c.known().Before(c.shown.at):
			return nil // another worker's message is newer than what is known here
		}
	}
	c.learn(n)
	if stateless {
		v.at = c.known()
	}
	blocks, fallback := s.draw(c, n)
	options := []slack.MsgOption{
		slack.MsgOptionBlocks(blocks...), slack.MsgOptionText(fallback, false), metadata(n.Incident, v.key, v.at),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
	if c.ts != "" {
		_, _, _, err := s.api.UpdateMessageContext(ctx, channel, c.ts, options...)
		if err == nil {
			c.shown = v
			return nil
		}
		if !saidError(err, "message_not_found") {
			return err
		}
		s.lost(c, channel, n.Incident)
	}
	_, ts, err := s.api.PostMessageContext(ctx, channel, options...)
	if err != nil {
		return err
	}
	c.ts, c.shown = ts, v
	s.channels[channel].note(n.Incident, ts)
	return nil
}

// known is how new the state is that this process knows.
func (c *postedCard) known() time.Time {
	switch {
	case c.state != nil:
		return c.state.UpdatedAt
	case c.group != nil:
		return c.group.UpdatedAt
	}
	return time.Time{}
}

// draw draws the card as it is known now.
func (s *Slack) draw(c *postedCard, n contract.Notice) ([]slack.Block, string) {
	drawn := card{
		notice: n, state: c.state, group: c.group, decisions: c.decisions, now: s.o.Now(),
		console: s.o.Links.Incident(n.Incident), temporal: s.o.Links.Workflow(n.Incident),
	}
	return drawn.blocks()
}

// pictureTime bounds what the picture may take: nobody waits for it.
const pictureTime = 20 * time.Second

// picture posts the chart of the breach in the card's thread. It is tried once, and an incident without it
// is told all the same.
func (s *Slack) picture(ctx context.Context, c *postedCard, channel string, n contract.Notice) {
	if s.o.Chart == nil || c.chart || n.State == nil {
		return
	}
	c.chart = true
	ctx, cancel := context.WithTimeout(ctx, pictureTime)
	defer cancel()
	png, err := s.o.Chart(ctx, n)
	if err == nil && len(png) > 0 {
		_, err = s.api.UploadFileContext(ctx, slack.UploadFileParameters{
			Channel: channel, ThreadTimestamp: c.ts, Filename: chartName(n.Incident), FileSize: len(png), Reader: bytes.NewReader(png),
			Title:  plain("The last hour of "+n.Key.String(), 200),
			AltTxt: plain("Cost of a call and quality of "+n.Key.String()+" over the last hour, beside what is usual", 1000),
		})
	}
	if err != nil {
		s.o.Log.Warn("No picture was posted of an incident; the rest was", "incident", n.Incident, "error", err)
	}
}

// chartName is the picture's file name, by which it is known again.
func chartName(incident string) string { return "flyball-" + contract.Handle(incident) + ".png" }
