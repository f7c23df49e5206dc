package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/flyball-dev/flyball/internal/contract"
)

// noticeEvent is the event type of the metadata of our messages.
const noticeEvent = "flyball_notice"

// metadata says which notice a message tells, and of a card how new what it shows is.
func metadata(incident string, key noticeKey, at time.Time) slack.MsgOption {
	payload := map[string]any{"id": key.id, "kind": string(key.kind), "seq": key.seq, "incident": incident}
	if key.carried != "" {
		payload["carried"] = key.carried
	}
	if !at.IsZero() {
		payload["at"] = at.UTC().Format(time.RFC3339Nano)
	}
	return slack.MsgOptionMetadata(slack.SlackMetadata{EventType: noticeEvent, EventPayload: payload})
}

// told reads a message's metadata back; ok is false for a message of anybody else.
func told(m slack.SlackMetadata) (v version, incident string, ok bool) {
	if m.EventType != noticeEvent {
		return version{}, "", false
	}
	text := func(name string) string { s, _ := m.EventPayload[name].(string); return s }
	v.key = noticeKey{kind: contract.NoticeKind(text("kind")), id: text("id"), carried: text("carried")}
	switch seq := m.EventPayload["seq"].(type) {
	case float64:
		v.key.seq = int(seq)
	case json.Number:
		v.key.seq, _ = strconv.Atoi(seq.String())
	case string:
		v.key.seq, _ = strconv.Atoi(seq)
	}
	v.at, _ = time.Parse(time.RFC3339Nano, text("at"))
	incident = text("incident")
	return v, incident, incident != ""
}

const (
	pageSize = 200
	// maxPages bounds what is read in search of one message. Beyond it the message counts as not there: a
	// page that comes twice is a nuisance, one that never comes is not.
	maxPages = 25
	// skew is how far Slack's clock and ours, or two of ours, may differ.
	skew = 5 * time.Minute
	// settle is how far back a channel that has been read is read again.
	settle = time.Minute
)

// slackChannel knows which of its messages are whose cards, as far as it has been read. Reads are shared:
// two hundred incidents that open at once ask Slack once or twice.
type slackChannel struct {
	id string

	mu     sync.Mutex
	cards  map[string]string // message by incident
	from   time.Time         // everything since then has been read; zero: nothing
	until  time.Time         // of the newest message that was read, by Slack's clock
	readAt time.Time         // when the last read began, by ours
}

// find returns the message of the incident's card; empty when there is none.
func (ch *slackChannel) find(ctx context.Context, s *Slack, incident string, opened time.Time) (string, error) {
	asked := time.Now()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ts := ch.cards[incident]; ts != "" {
		return ts, nil
	}
	if opened.IsZero() {
		opened = s.o.Now()
	}
	since := opened.Add(-skew)
	if covered := !ch.from.IsZero() && !ch.from.After(since); !covered || ch.readAt.Before(asked) {
		if err := ch.readSince(ctx, s, since, covered); err != nil {
			return "", fmt.Errorf("looking for the message in %s: %w", ch.id, err)
		}
	}
	return ch.cards[incident], nil
}

// readSince reads the channel's history, from where it has been read or from since. The caller holds the
// lock.
func (ch *slackChannel) readSince(ctx context.Context, s *Slack, since time.Time, covered bool) error {
	began := time.Now()
	if len(ch.cards) > maxCards { // what is forgotten has to be read again
		ch.cards, ch.from, ch.until, covered = nil, time.Time{}, time.Time{}, false
	}
	oldest := since
	if covered && ch.until.After(since) {
		oldest = ch.until.Add(-settle)
	}
	request := &slack.GetConversationHistoryParameters{
		ChannelID: ch.id, Oldest: stamp(oldest), Inclusive: true, Limit: pageSize, IncludeAllMetadata: true,
	}
	for page := 0; ; page++ {
		if page == maxPages {
			s.o.Log.Warn("A Slack channel has too many messages to look through; a notice may be posted twice", "channel", ch.id, "pages", page)
			break
		}
		answer, err := s.api.GetConversationHistoryContext(ctx, request)
		if err != nil {
			return err
		}
		for _, m := range answer.Messages {
			if at := stamped(m.Timestamp); at.After(ch.until) {
				ch.until = at
			}
			isReply := m.ThreadTimestamp != "" && m.ThreadTimestamp != m.Timestamp // told to the channel as well
			if _, incident, ours := told(m.Metadata); ours && !isReply {
				ch.keep(incident, m.Timestamp)
			}
		}
		request.Cursor = answer.ResponseMetaData.NextCursor
		if !answer.HasMore || request.Cursor == "" {
			break
		}
	}
	if ch.from.IsZero() || since.Before(ch.from) {
		ch.from = since
	}
	ch.readAt = began
	return nil
}

// keep notes a card; of two, the first that was posted is the one.
func (ch *slackChannel) keep(incident, ts string) {
	if ch.cards == nil {
		ch.cards = map[string]string{}
	}
	if have := ch.cards[incident]; have == "" || stamped(ts).Before(stamped(have)) {
		ch.cards[incident] = ts
	}
}

func (ch *slackChannel) note(incident, ts string) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.keep(incident, ts)
}

func (ch *slackChannel) drop(incident, ts string) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if ch.cards[incident] == ts {
		delete(ch.cards, incident)
	}
}

// read reads what the card shows and what its thread has told.
func (s *Slack) read(ctx context.Context, c *postedCard, channel string) error {
	request := &slack.GetConversationRepliesParameters{ChannelID: channel, Timestamp: c.ts, Limit: pageSize, IncludeAllMetadata: true}
	for page := 0; page < maxPages; page++ {
		messages, more, cursor, err := s.api.GetConversationRepliesContext(ctx, request)
		if err != nil {
			return fmt.Errorf("reading the thread %s: %w", c.ts, err)
		}
		for _, m := range messages {
			v, _, ours := told(m.Metadata)
			switch {
			case m.Timestamp == c.ts && m.SubType == "tombstone":
				return slack.SlackErrorResponse{Err: "message_not_found"} // deleted, while its thread lives on
			case m.Timestamp == c.ts && ours:
				c.shown = v
			case ours:
				c.posted[v.key] = true
			}
			c.chart = c.chart || slices.ContainsFunc(m.Files, func(f slack.File) bool { return strings.HasPrefix(f.Name, "flyball-") })
		}
		if request.Cursor = cursor; !more || cursor == "" {
			return nil
		}
	}
	return nil
}

// tell posts the notice in the card's thread, where it is of a kind that is told there.
func (s *Slack) tell(ctx context.Context, c *postedCard, channel string, n contract.Notice, fresh bool) error {
	reply, told := s.reply(n, fresh)
	if !told || c.posted[keyOf(n)] {
		return nil
	}
	return s.say(ctx, c, channel, n.Incident, keyOf(n), reply)
}

// say posts a message in the card's thread.
func (s *Slack) say(ctx context.Context, c *postedCard, channel, incident string, key noticeKey, reply slackReply) error {
	options := []slack.MsgOption{
		slack.MsgOptionTS(c.ts), slack.MsgOptionText(reply.fallback, false), slack.MsgOptionBlocks(reply.blocks...), metadata(incident, key, time.Time{}),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
	if reply.aloud {
		options = append(options, slack.MsgOptionBroadcast())
	}
	if _, _, err := s.api.PostMessageContext(ctx, channel, options...); err != nil {
		return err
	}
	c.posted[key] = true
	return nil
}

// standIn calls everybody in the channel when another channel, the pager most of all, could not be reached
// with a notice that calls somebody: then this is the only call that there is.
func (s *Slack) standIn(ctx context.Context, c *postedCard, channel string, n contract.Notice) error {
	key := carriedKey(n)
	if key.carried == "" || !n.Calls() || c.posted[key] {
		return nil
	}
	text := "📟 *" + oneLine(key.carried, 200) + " could not be reached*: this message is the only call."
	if n.For() == contract.OnCall {
		text = "<!channel> " + text
	}
	var b drawing
	b.section(text)
	return s.say(ctx, c, channel, n.Incident, key, slackReply{blocks: b.blocks, fallback: text, aloud: true})
}

// slackReply is a message of a thread.
type slackReply struct {
	blocks   []slack.Block
	fallback string
	aloud    bool // shown in the channel as well: editing a card calls nobody
}

// maxReply is the length of a reply that is no report, and maxParts how many blocks a report may have.
const (
	maxReply = 2500
	maxParts = 12
)

// reply is how the notice is told in the thread. A notice that came with a new card needs no second call.
func (s *Slack) reply(n contract.Notice, fresh bool) (r slackReply, told bool) {
	title := oneLine(n.Title, 300)
	var text string
	switch n.Kind {
	case contract.NoticeOpened, contract.NoticeUpdated:
		return r, false
	case contract.NoticeEscalated:
		if fresh {
			return r, false
		}
		title, text, r.aloud = "🔴 Now "+string(n.Level), brief(n), true
	case contract.NoticeReminder:
		title, text, r.aloud = "⏰ Still open, and nobody has taken it on", brief(n)+"\nAcknowledge it on the message above.", !fresh
	case contract.NoticeClosed:
		title, text = "✅ Closed", brief(n)
	case contract.NoticeActed:
		title, text = actedOn(n)
	case contract.NoticeQuestion:
		title, text, r.aloud = s.question(n, fresh)
	case contract.NoticeDecided:
		title, text = verdictOf(n)
	case contract.NoticeReport:
		parts, cut := pieces(fromMarkdown(n.Text), maxSection, maxParts)
		r.fallback = cmp.Or(title, "Report")
		var b drawing
		b.section("*" + strings.ReplaceAll(r.fallback, "*", "") + "*")
		for _, part := range parts {
			b.section(part)
		}
		if cut {
			b.section("… The whole report is in the console.")
		}
		r.blocks = b.blocks
		return r, true
	default:
		text = body(n.Text)
	}
	r.fallback = cmp.Or(title, words(n.Kind))
	var b drawing
	b.section(strings.TrimSpace("*" + strings.ReplaceAll(r.fallback, "*", "") + "*\n" + text))
	r.blocks = b.blocks
	return r, true
}

// brief is one sentence on how what the notice is about stands; the card above tells the rest.
func brief(n contract.Notice) string {
	switch {
	case n.State != nil && n.State.Phase == contract.IncidentClosed:
		return sentence(n.State.Reason, 700) + " " + lasted(n.State.Input.Opened, n.State.ClosedAt)
	case n.State != nil:
		return sentence(happened(*n.State), 700)
	case n.Group != nil:
		return sentence(n.Group.Reason, 700)
	}
	return body(n.Text)
}

// actedOn says what was put on, changed or taken off.
func actedOn(n contract.Notice) (title, text string) {
	d := n.Decision
	if d == nil {
		return "⚙️ " + oneLine(upper(n.Title), 300), body(n.Text)
	}
	share := "taken off"
	if d.Share > 0 {
		share = fmt.Sprintf("%.0f %% of the calls", d.Share*100)
	}
	return "⚙️ " + oneLine(upper(headline(d.Input.Proposal.Action, d.Input.Proposal.Value)), 300) + ": " + share, sentence(d.Reason, 700)
}

// body is a notice's text, at the length of a reply.
func body(markdown string) string {
	parts, cut := pieces(fromMarkdown(markdown), maxReply, 1)
	if len(parts) == 0 {
		return ""
	}
	if cut {
		return parts[0] + "\n…"
	}
	return parts[0]
}

// maxMentions bounds how many people one question calls.
const maxMentions = 10

// question calls those who may answer; the buttons are on the card.
func (s *Slack) question(n contract.Notice, fresh bool) (title, text string, aloud bool) {
	d := n.Decision
	if d == nil {
		return "❓ " + oneLine(n.Title, 300), body(n.Text), !fresh
	}
	p := d.Input.Proposal
	title = "❓ " + oneLine(upper(headline(p.Action, p.Value)), 300) + "?"
	text = sentence(p.Reason, 700) + "\n" + expectation(*d)
	var mentions []string
	for _, group := range p.Approvers {
		for _, id := range s.o.Approvers[group] {
			if mention := "<@" + id + ">"; !slices.Contains(mentions, mention) {
				mentions = append(mentions, mention)
			}
		}
	}
	call := "Answer on the message above"
	if len(mentions) > 0 {
		call = strings.Join(mentions[:min(len(mentions), maxMentions)], " ") + ": answer on the message above"
	}
	return title, fmt.Sprintf("%s\n%s until %s.", text, call, when(d.ExpiresAt)), len(mentions) == 0 && !fresh
}

// verdictOf says who decided what, or that nobody did.
func verdictOf(n contract.Notice) (title, text string) {
	d := n.Decision
	if d == nil {
		return oneLine(n.Title, 300), body(n.Text)
	}
	act := oneLine(upper(headline(d.Input.Proposal.Action, d.Input.Proposal.Value)), 300)
	if v := d.Verdict; v != nil {
		said, mark := "approved", "👍"
		if v.Verdict == contract.Deny {
			said, mark = "denied", "👎"
		}
		return fmt.Sprintf("%s %s: %s by %s", mark, act, said, oneLine(v.Who, 200)), sentence(v.Reason, 700)
	}
	return fmt.Sprintf("%s: %s", act, words(d.Status)), sentence(d.Reason, 700)
}

// stamp is a time as Slack writes it.
func stamp(t time.Time) string { return fmt.Sprintf("%d.%06d", t.Unix(), t.Nanosecond()/1000) }

// stamped reads it back; what is not one is the zero time.
func stamped(ts string) time.Time {
	sec, micro, _ := strings.Cut(ts, ".")
	s, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}
	}
	us, _ := strconv.ParseInt(micro, 10, 64)
	return time.Unix(s, us*1000).UTC()
}

// median is the middle of times.
func median(times []time.Time) time.Time {
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)/2]
}
