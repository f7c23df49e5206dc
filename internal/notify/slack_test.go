package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// An incident has one message, edited as it moves; what happens is told in its thread.
func TestSlackOneMessageForEachIncident(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	s := w.slack(t)
	state := incidentState(opened)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
	step := notice(contract.NoticeStep, 1, later(state, time.Second, nil))
	step.Title, step.Text = "T0: look for a change", "**found**: ci deployed support-bot v3.2"
	require.NoError(t, s.Post(t.Context(), step))
	state, question, d := asked(state)
	require.NoError(t, s.Post(t.Context(), question))

	card := w.Messages(pages)
	require.Len(t, card, 1)
	require.Equal(t, 2, card[0].Edits)
	require.Contains(t, card[0].Text, "PAGE · org_42/claude-3-opus")
	require.Contains(t, string(card[0].Blocks), `"action_id":"approve"`)
	thread := w.Thread(pages, card[0].TS)
	require.Len(t, thread, 2)
	require.Contains(t, string(thread[0].Blocks), `*found*: ci deployed`)
	require.Contains(t, string(thread[1].Blocks), `\u003c@U0ADA\u003e`, "those who may answer are called")
	require.NotContains(t, string(thread[1].Blocks), "action_id", "there is one place to press")

	d.Status, d.Verdict, d.ChangedAt = contract.Actuating, &contract.DecideRequest{Verdict: contract.Approve, Who: "Ada (Slack U0ADA)"}, d.ChangedAt.Add(time.Minute)
	d.History = append(d.History, contract.Transition{Status: contract.Actuating})
	state = later(state, 3*time.Minute, func(s *contract.IncidentState) { s.Decisions = []contract.DecisionSummary{d.Summary()} })
	decided := notice(contract.NoticeDecided, 2, state)
	decided.ID, decided.Decision = d.ID, &d
	require.NoError(t, s.Post(t.Context(), decided))
	card = w.Messages(pages)
	require.NotContains(t, string(card[0].Blocks), `"action_id":"approve"`, "what is decided has no buttons")
	require.Contains(t, string(card[0].Blocks), "approved by Ada (Slack U0ADA)")
	require.Len(t, w.Thread(pages, card[0].TS), 3)
}

// Whatever goes wrong with whichever call, and whether the process remembers or not, a retry neither
// doubles nor loses anything.
func TestSlackNeverDoubles(t *testing.T) {
	t.Parallel()
	kinds := []slacktest.Fault{
		{Kind: slacktest.RateLimited, RetryAfter: 7},
		{Kind: slacktest.ServerError},
		{Kind: slacktest.Hang},
		{Kind: slacktest.AcceptHang},
		{Kind: slacktest.AcceptError},
	}
	for _, fault := range kinds {
		for _, method := range []string{"chat.postMessage", "chat.update", "conversations.history", "conversations.replies"} {
			for _, restarts := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s of %s, restarts %v", fault.Kind, method, restarts), func(t *testing.T) {
					t.Parallel()
					w := newWorkspace(t)
					w.options.HTTP.Timeout = 100 * time.Millisecond
					if fault.Kind == slacktest.RateLimited || fault.Kind == slacktest.ServerError {
						w.options.HTTP.Timeout = 5 * time.Second
					}
					s := w.slack(t)
					state := incidentState(opened)
					step := notice(contract.NoticeStep, 1, later(state, time.Second, nil))
					failed := 0
					for _, n := range []contract.Notice{notice(contract.NoticeOpened, 1, state), step, notice(contract.NoticeUpdated, 1, later(state, 2*time.Second, nil))} {
						f := fault
						f.Method, f.Times = method, 2
						w.Fail(f)
						for try := 0; ; try++ {
							require.Less(t, try, 20)
							err := s.Post(t.Context(), n)
							if err == nil {
								break
							}
							failed++
							var e interface {
								RetryAfter() time.Duration
								Retryable() bool
							}
							require.ErrorAs(t, err, &e)
							require.True(t, e.Retryable(), "%v", err)
							if fault.Kind == slacktest.RateLimited {
								require.Equal(t, 7*time.Second, e.RetryAfter())
							}
							if restarts {
								s = w.slack(t)
							}
						}
						w.Fail()
					}
					require.Positive(t, failed, "the fault was met")
					card := w.Messages(pages)
					require.Len(t, card, 1)
					require.Len(t, w.Thread(pages, card[0].TS), 1)
					require.Equal(t, "updated", card[0].Metadata.EventPayload["kind"])
				})
			}
		}
	}
}

// A process that has just started finds what was posted before, behind other people's messages too, and
// does not set a card back.
func TestSlackAfterARestart(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	state := incidentState(opened)
	newer := later(state, time.Minute, func(s *contract.IncidentState) { s.Silent = true })
	require.NoError(t, w.slack(t).Post(t.Context(), notice(contract.NoticeUpdated, 5, newer)))
	for i := range 450 {
		w.Say(pages, fmt.Sprint("chatter ", i))
	}
	s := w.slack(t)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)), "late, and of before")
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeUpdated, 4, newer)), "an older one of its kind")
	var cards []slacktest.Message
	for _, m := range w.Messages(pages) {
		if m.Metadata != nil {
			cards = append(cards, m)
		}
	}
	require.Len(t, cards, 1)
	require.Zero(t, cards[0].Edits)
	require.InDelta(t, 5, cards[0].Metadata.EventPayload["seq"], 0)
	require.GreaterOrEqual(t, w.Calls("conversations.history"), 4, "pages are turned")

	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeUpdated, 6, later(newer, 2*time.Minute, nil))))
	require.Equal(t, 1, w.Messages(pages)[0].Edits)
}

// What has been read of a channel for a young incident is not enough for one that opened before.
func TestSlackAfterARestartAnOlderIncident(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	old := incidentState(opened.Add(-time.Hour))
	require.NoError(t, w.slack(t).Post(t.Context(), notice(contract.NoticeOpened, 1, old)))
	w.Age(time.Hour)
	w.Say(pages, "chatter")
	s := w.slack(t)
	young := incidentState(opened)
	young.Input.Key.Tenant = "org_43"
	young.ID = contract.IncidentID(young.Input.Key, opened)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, young)))
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeUpdated, 1, later(old, time.Minute, nil))))
	require.Len(t, w.Messages(pages), 3, "two cards and the chatter")
}

// Two workers never post the same incident twice in a row, nor set each other's card back.
func TestSlackTwoWorkers(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	one, two := w.slack(t), w.slack(t)
	state := incidentState(opened)
	require.NoError(t, one.Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
	newest := later(state, time.Minute, nil)
	require.NoError(t, two.Post(t.Context(), notice(contract.NoticeUpdated, 2, newest)))
	require.NoError(t, one.Post(t.Context(), notice(contract.NoticeUpdated, 1, later(state, 30*time.Second, nil))))
	reply := notice(contract.NoticeReminder, 1, newest)
	require.NoError(t, two.Post(t.Context(), reply))
	require.NoError(t, one.Post(t.Context(), reply))
	card := w.Messages(pages)
	require.Len(t, card, 1)
	require.InDelta(t, 1, card[0].Metadata.EventPayload["seq"], 0)
	require.Equal(t, "reminder", card[0].Metadata.EventPayload["kind"])
	require.Len(t, w.Thread(pages, card[0].TS), 1)
}

// Many incidents that open at once share the look at the channel.
func TestSlackStorm(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	s := w.slack(t)
	const incidents = 60
	var all sync.WaitGroup
	errs := make(chan error, 2*incidents)
	for i := range incidents {
		state := incidentState(opened)
		state.Input.Key.Tenant = fmt.Sprint("org_", i)
		state.ID = contract.IncidentID(state.Input.Key, opened)
		for range 2 { // the same notice from two hands
			all.Go(func() { errs <- s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)) })
		}
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Len(t, w.Messages(pages), incidents)
	require.Less(t, w.Calls("conversations.history"), incidents, "reads are shared")
}

// What no trying again mends says so, and how a person mends it. Tokens are not told.
func TestSlackErrorsSayTheMend(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	for word, mend := range map[string]string{"invalid_auth": "bot token is not valid", "channel_not_found": "invite the app", "missing_scope": "flyball slack manifest"} {
		w.Fail(slacktest.Fault{Kind: slacktest.Refuse, Error: word})
		err := w.slack(t).Post(t.Context(), notice(contract.NoticeOpened, 1, incidentState(opened)))
		require.ErrorContains(t, err, mend)
		require.NotContains(t, err.Error(), slacktest.BotToken)
		var e interface{ Retryable() bool }
		require.ErrorAs(t, err, &e)
		require.False(t, e.Retryable())
	}
	n := notice(contract.NoticeOpened, 1, incidentState(opened))
	n.Audience = contract.Experiments
	require.ErrorContains(t, w.slack(t).Post(t.Context(), n), "no channel for experiments")

	w.options.BotToken, w.options.Channels[contract.OnCall] = "secret", "#incidents"
	_, err := NewSlack(w.options)
	require.ErrorContains(t, err, "xoxb-")
	require.ErrorContains(t, err, "#incidents")
	require.NotContains(t, err.Error(), "secret")
}

// A finding that becomes a page is posted where people are called, and its first message stays true.
func TestSlackFindingBecomesAPage(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	s := w.slack(t)
	state := incidentState(opened)
	state.Level, state.Input.Level, state.Finding.Verdict.Level = detect.Investigate, detect.Investigate, detect.Investigate
	n := notice(contract.NoticeOpened, 1, state)
	n.Audience = contract.Findings
	require.NoError(t, s.Post(t.Context(), n))
	state = later(state, time.Minute, func(s *contract.IncidentState) { s.Level, s.Finding.Verdict.Level = detect.Page, detect.Page })
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeEscalated, 1, state)))
	require.Len(t, w.Messages(pages), 1)
	require.Contains(t, w.Messages(findings)[0].Text, "PAGE")
	require.Empty(t, w.Thread(pages, w.Messages(pages)[0].TS), "a new message calls by itself")

	// In one and the same channel an edit calls nobody, so the channel hears of it.
	w.options.Channels[contract.Findings] = pages
	s = w.slack(t)
	state.Input.Key.Tenant = "org_43"
	state.ID = contract.IncidentID(state.Input.Key, opened)
	before := state
	before.UpdatedAt = opened
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, before)))
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeEscalated, 1, state)))
	require.True(t, w.Thread(pages, w.Messages(pages)[1].TS)[0].Broadcast)
}

// The thread tells what is new in a sentence; the whole story, which notices carry as their text, is not
// repeated there but for the report.
func TestSlackReplies(t *testing.T) {
	t.Parallel()
	s := newWorkspace(t).slack(t)
	state, question, d := asked(incidentState(opened))
	closed := later(state, 47*time.Minute, func(s *contract.IncidentState) {
		s.Phase, s.Reason, s.ClosedAt = contract.IncidentClosed, "cost and quality are back", s.Input.Opened.Add(47*time.Minute)
	})
	acted, nobody := d, d
	acted.Status, acted.Share, acted.Reason = contract.Actuating, 0.5, "the treated calls are cheaper"
	nobody.Status, nobody.Reason = contract.Expired, "nobody answered"
	of := func(kind contract.NoticeKind, s contract.IncidentState, d *contract.DecisionState) contract.Notice {
		n := notice(kind, 1, s)
		n.Decision, n.Title, n.Text = d, "title", "**the whole story**"
		return n
	}
	for _, c := range []struct {
		n     contract.Notice
		want  string
		aloud bool
	}{
		{of(contract.NoticeReminder, state, nil), "⏰ Still open, and nobody has taken it on*\nA call costs 3.0 times", true},
		{of(contract.NoticeEscalated, state, nil), "🔴 Now PAGE*\nA call costs 3.0 times", true},
		{of(contract.NoticeClosed, closed, nil), "✅ Closed*\nCost and quality are back. It lasted 47m.", false},
		{of(contract.NoticeActed, state, &acted), "⚙️ Downgrade to claude-3-sonnet: 50 % of the calls*\nThe treated calls are cheaper.", false},
		{of(contract.NoticeDecided, state, &nobody), "Downgrade to claude-3-sonnet: expired*\nNobody answered.", false},
		{question, "<@U0ADA>: answer on the message above until", false},
		{of(contract.NoticeStep, state, nil), "*title*\n*the whole story*", false},
		{of(contract.NoticeReport, state, nil), "*title*", false},
	} {
		r, told := s.reply(c.n, false)
		require.True(t, told)
		require.Equal(t, c.aloud, r.aloud, c.n.Kind)
		raw, err := json.Marshal(r.blocks)
		require.NoError(t, err)
		require.NoError(t, slacktest.Validate(raw))
		var shown any
		require.NoError(t, json.Unmarshal(raw, &shown))
		text := strings.Join(markup(shown), "\n")
		require.Contains(t, text, c.want)
		if c.n.State != nil && c.n.Kind != contract.NoticeStep && c.n.Kind != contract.NoticeReport {
			require.NotContains(t, text, "the whole story")
		}
	}
	for _, kind := range []contract.NoticeKind{contract.NoticeOpened, contract.NoticeUpdated} {
		_, told := s.reply(of(kind, state, nil), false)
		require.False(t, told, "the card tells it")
	}
}

// A decision's own notice knows nothing of its incident. Where nobody here does, the card stays as it is and
// the thread tells; what the notice told of the decision is on the card once the incident says more.
func TestSlackDecisionAlone(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	state, question, _ := asked(incidentState(opened))
	require.NoError(t, w.slack(t).Post(t.Context(), notice(contract.NoticeOpened, 1, incidentState(opened))))
	s := w.slack(t)
	question.State = nil
	require.NoError(t, s.Post(t.Context(), question))
	card := w.Messages(pages)
	require.Zero(t, card[0].Edits)
	require.Len(t, w.Thread(pages, card[0].TS), 1)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeUpdated, 1, state)))
	require.Contains(t, string(w.Messages(pages)[0].Blocks), "Expected: cheaper calls")

	// Where the state is known, the question is on the card at once.
	w = newWorkspace(t)
	s = w.slack(t)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, incidentState(opened))))
	require.NoError(t, s.Post(t.Context(), question))
	require.Contains(t, string(w.Messages(pages)[0].Blocks), `"action_id":"approve"`)
}

// When the pager is away, Slack carries the page for it: it says so once, to everybody there, also when the
// notice had been posted before that was known.
func TestSlackStandsIn(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	n := notice(contract.NoticeOpened, 1, incidentState(opened))
	require.NoError(t, w.slack(t).Post(t.Context(), n))
	n.Unreached = []string{"pagerduty"}
	for range 2 {
		s := w.slack(t)
		require.NoError(t, s.Post(t.Context(), n))
		require.NoError(t, s.Post(t.Context(), n))
	}
	card := w.Messages(pages)
	require.Len(t, card, 1)
	require.Contains(t, string(card[0].Blocks), "Could not be reached:* pagerduty")
	thread := w.Thread(pages, card[0].TS)
	require.Len(t, thread, 1)
	require.True(t, thread[0].Broadcast)
	require.Contains(t, thread[0].Text, "<!channel>")
}

// A message that somebody deleted is posted again.
func TestSlackMessageDeleted(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	s := w.slack(t)
	state := incidentState(opened)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
	w.Delete(pages, w.Messages(pages)[0].TS)
	require.NoError(t, s.Post(t.Context(), notice(contract.NoticeUpdated, 1, later(state, time.Minute, nil))))
	require.Len(t, w.Messages(pages), 1)
}

// The picture is in the thread once, and an incident without it is told all the same.
func TestSlackPicture(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	png := []byte("\x89PNG not really")
	w.options.Chart = func(_ context.Context, _ contract.Notice) ([]byte, error) { return png, nil }
	state := incidentState(opened)
	for range 2 { // a retry, and a retry after a restart
		s := w.slack(t)
		require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
		require.NoError(t, s.Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
	}
	thread := w.Thread(pages, w.Messages(pages)[0].TS)
	require.Len(t, thread, 1)
	require.Equal(t, png, thread[0].Files[0].Content)

	w = newWorkspace(t)
	w.options.Chart = func(_ context.Context, _ contract.Notice) ([]byte, error) { return nil, errors.New("no data") }
	require.NoError(t, w.slack(t).Post(t.Context(), notice(contract.NoticeOpened, 1, state)))
	require.Len(t, w.Messages(pages), 1)
}

// Hostile names call nobody and lead nowhere, and the longest state fits Slack's limits.
func TestSlackHostileNames(t *testing.T) {
	t.Parallel()
	w := newWorkspace(t)
	s := w.slack(t)
	evil := "<!here> <@U0ADA> <https://evil.example|Approve> & *bold* `code` \u202e\x00 " + strings.Repeat("<", 4000)
	state, n, d := asked(incidentState(opened))
	state.Input.Key = usage.Key{Tenant: evil, Model: evil}
	state.ID = contract.IncidentID(usage.Key{Tenant: "t", Model: "m"}, opened)
	state.Input.Finding.Verdict.Reason, state.Finding.Verdict.Reason, state.Advice = evil, evil, evil
	state.Steps[0].Verdict.Text = evil
	state.Previous = &contract.PastIncident{Reason: evil}
	state.Mute = &contract.Mute{Until: time.Now().Add(time.Hour), Who: evil, Reason: evil}
	d.Input.Proposal.Reason, d.Input.Proposal.Value, d.Input.Proposal.Approvers = evil, evil, []string{evil}
	for i := range 40 {
		other := d.Summary()
		other.ID = contract.DecisionID(state.ID, fmt.Sprint(i), 1)
		if i%2 == 0 {
			other.Status, other.Who = contract.Denied, evil
		}
		state.Decisions = append(state.Decisions, other)
	}
	n.State, n.Decision, n.Incident, n.Title, n.Key = &state, &d, state.ID, evil, state.Input.Key
	require.NoError(t, s.Post(t.Context(), n))
	report := notice(contract.NoticeReport, 1, later(state, time.Hour, nil))
	report.Text = strings.Repeat("# "+evil+"\n\n| a | b |\n| --- | --- |\n| <!channel> | [x](https://evil.example) |\n```\n<!everyone>\n```\n", 30)
	require.NoError(t, s.Post(t.Context(), report))

	card := w.Messages(pages)[0]
	for _, m := range append(w.Thread(pages, card.TS), card) {
		var shown []any
		require.NoError(t, json.Unmarshal(m.Blocks, &shown))
		texts := append(markup(shown), m.Text)
		for _, text := range texts {
			for _, call := range []string{"<!here", "<!channel", "<!everyone", "<@U0ADA", "|Approve>", "\u202e", "\x00"} {
				if call == "<@U0ADA" && strings.Contains(text, "answer on the message above") {
					continue // those who may answer are called on purpose
				}
				require.NotContains(t, text, call)
			}
		}
	}
}

// markup are all texts that Slack reads as markup.
func markup(v any) (texts []string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			texts = append(texts, markup(e)...)
		}
	case map[string]any:
		if text, ok := v["text"].(string); ok && v["type"] == "mrkdwn" {
			texts = append(texts, text)
		}
		for _, e := range v {
			texts = append(texts, markup(e)...)
		}
	}
	return texts
}
