package notify

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/notify/slacktest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// hook is the workspace with a question on its card and the HTTP way in.
type hook struct {
	*workspace
	slack    *Slack
	url      string
	card     string // the message
	incident contract.IncidentState
	decision contract.DecisionState
}

func newHook(t *testing.T) *hook {
	t.Helper()
	w := newWorkspace(t)
	h := &hook{workspace: w, slack: w.slack(t)}
	var n contract.Notice
	h.incident, n, h.decision = asked(incidentState(opened))
	w.decisions[h.decision.ID] = h.decision
	require.NoError(t, h.slack.Post(t.Context(), n))
	h.card = w.Messages(pages)[0].TS
	server := httptest.NewServer(h.slack.Handler())
	t.Cleanup(server.Close)
	h.url = server.URL
	return h
}

// send sends a payload as Slack does and returns the status and the answer.
func (h *hook) send(t *testing.T, payload []byte) (int, string) {
	t.Helper()
	return h.sendAt(t, payload, time.Now())
}

// sendAt sends it as of another time, and so with another signature.
func (h *hook) sendAt(t *testing.T, payload []byte, at time.Time) (int, string) {
	t.Helper()
	r, err := slacktest.Request(h.url, slacktest.SigningSecret, payload, at)
	require.NoError(t, err)
	return do(t, r)
}

func do(t *testing.T, r *http.Request) (int, string) {
	t.Helper()
	began := time.Now()
	answer, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Less(t, time.Since(began), 3*time.Second, "Slack waits three seconds")
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.StatusCode, string(text)
}

func (h *hook) press(t *testing.T, user, action, pick string) []byte {
	t.Helper()
	payload, err := h.Press(user, pages, h.card, action, pick)
	require.NoError(t, err)
	return payload
}

// hears waits until the user was told something with the words.
func (h *hook) hears(t *testing.T, user, words string) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, m := range h.Ephemeral(user) {
			if strings.Contains(m.Text, words) {
				return true
			}
		}
		return false
	}, 5*time.Second, 5*time.Millisecond, "%s was not told %q but %v", user, words, h.Ephemeral(user))
}

// A press is the word of the person, by a name and by the id, and counts once however often it comes.
func TestSlackPress(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	approve := h.press(t, "U0ADA", actApprove, "")
	for i := range 3 {
		status, body := h.sendAt(t, approve, time.Now().Add(time.Duration(-i)*time.Second))
		require.Equal(t, http.StatusOK, status)
		require.Empty(t, body)
	}
	h.send(t, h.press(t, "U0BOB", actAcknowledge, ""))
	h.send(t, h.press(t, "U0NOBODY", actMute, "this 4h0m0s")) // not known to users.info
	h.send(t, h.press(t, "U0BOB", actMute, "tenant 1h0m0s"))
	require.Equal(t, []string{
		"approve " + h.decision.ID + " by Ada (Slack U0ADA): approved in Slack",
		"acknowledge " + h.incident.ID + " by Bob (Slack U0BOB)",
		"mute " + h.incident.ID + " for 4h0m0s by u.U0NOBODY (Slack U0NOBODY)",
		"mute " + contract.AlertLoopID(usage.Key{Tenant: "org_42", Model: usage.AnyModel}) + " for 1h0m0s by Bob (Slack U0BOB)",
	}, h.people.said())
	h.hears(t, "U0ADA", "approval is recorded")
	h.hears(t, "U0BOB", "Muted for 1h")
}

// A press whose message tells no metadata is traced by asking Slack for the message.
func TestSlackMuteAsksSlackForTheIncident(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	var payload map[string]any
	require.NoError(t, json.Unmarshal(h.press(t, "U0BOB", actMute, "this 1h0m0s"), &payload))
	delete(payload["message"].(map[string]any), "metadata")
	raw, err := json.Marshal(payload)
	require.NoError(t, err)
	h.send(t, raw)
	require.Equal(t, []string{"mute " + h.incident.ID + " for 1h0m0s by Bob (Slack U0BOB)"}, h.people.said())
}

// Only those whom the policy names decide, whatever a payload says; the others are told whom to ask.
func TestSlackApprovers(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.send(t, h.press(t, "U0BOB", actApprove, ""))
	h.send(t, h.press(t, "U0BOB", actDeny, ""))
	h.hears(t, "U0BOB", "`ml-leads` may decide this")
	h.hears(t, "U0BOB", "approvers in Flyball's configuration")
	require.Empty(t, h.Views(), "who may not decide is asked for no reason")

	// A forged value names another decision, whose own approvers then count; one that there is not counts none.
	other := h.decision
	other.ID, other.Input.Proposal.Approvers = contract.DecisionID(h.incident.ID, "hard_stop", 1), []string{"finance"}
	h.decisions[other.ID] = other
	for _, value := range []string{other.ID, "decision/that/is/none", `{"id":"x","approvers":["anyone"]}`} {
		payload, err := h.Forge("U0ADA", pages, h.card, actApprove, value)
		require.NoError(t, err)
		h.send(t, payload)
	}
	h.hears(t, "U0ADA", "`finance` may decide this")
	require.Empty(t, h.people.said())

	// Where the policy names nobody, everybody who sees it may.
	other.Input.Proposal.Approvers = nil
	h.decisions[other.ID] = other
	payload, err := h.Forge("U0BOB", pages, h.card, actApprove, other.ID)
	require.NoError(t, err)
	h.send(t, payload)
	require.Len(t, h.people.said(), 1)

	// What is decided is said, not decided again.
	h.decision.Verdict = &contract.DecideRequest{Verdict: contract.Deny, Who: "Cy"}
	h.decisions[h.decision.ID] = h.decision
	h.send(t, h.press(t, "U0ADA", actApprove, ""))
	h.hears(t, "U0ADA", "Cy has already said deny")
	require.Len(t, h.people.said(), 1)
}

// A denial asks for its reason first, keeps it while the workflows are away, and is told with it.
func TestSlackDenyModal(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	h.send(t, h.press(t, "U0ADA", actDeny, ""))
	require.Empty(t, h.people.said(), "the press alone denies nothing")
	require.Len(t, h.Views(), 1)
	view := h.Views()[0]
	submit := func(user, reason string) string {
		payload, err := h.Submit(user, view.ID, reasonID, reasonText, reason)
		require.NoError(t, err)
		status, body := h.send(t, payload)
		require.Equal(t, http.StatusOK, status)
		return body
	}
	require.Contains(t, submit("U0ADA", "  "), `"response_action":"errors"`)
	require.Contains(t, submit("U0BOB", "because"), "may decide this")
	h.people.fail(errors.New("Temporal is away"))
	require.Contains(t, submit("U0ADA", "it is a load test"), "not recorded")
	h.people.fail(nil)
	require.Empty(t, submit("U0ADA", "it is a  load test"))
	require.Equal(t, []string{"deny " + h.decision.ID + " by Ada (Slack U0ADA): it is a load test"}, h.people.said())
	h.hears(t, "U0ADA", "denial is recorded")
}

// A press that the workflows could not keep is answered with that, and the same press counts when it comes
// again.
func TestSlackPressWhileTheWorkflowsAreAway(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	approve := h.press(t, "U0ADA", actApprove, "")
	h.people.fail(errors.New("Temporal is away"))
	status, _ := h.send(t, approve)
	require.Equal(t, http.StatusOK, status, "for anything else Slack shows a riddle")
	h.hears(t, "U0ADA", "*not* recorded")
	h.people.fail(ErrGone)
	h.send(t, h.press(t, "U0BOB", actAcknowledge, ""))
	h.hears(t, "U0BOB", "too late")
	h.people.fail(nil)
	h.people.delay = time.Minute // it hangs
	h.send(t, h.press(t, "U0ADA", actApprove, ""))
	h.people.delay = 0
	require.Eventually(t, func() bool { return len(h.Ephemeral("U0ADA")) == 2 }, 5*time.Second, 5*time.Millisecond)
	require.Empty(t, h.people.said())

	// With no worker to tell the decision, the notice that was posted here tells whom the policy names.
	h.away = errors.New("no worker answers")
	h.send(t, h.press(t, "U0BOB", actApprove, ""))
	h.hears(t, "U0BOB", "`ml-leads` may decide this")
	h.send(t, h.press(t, "U0ADA", actApprove, ""))
	require.Len(t, h.people.said(), 1)

	// A process that knows of neither takes nothing, and says so.
	h.slack = h.workspace.slack(t)
	server := httptest.NewServer(h.slack.Handler())
	defer server.Close()
	h.url = server.URL
	h.send(t, h.press(t, "U0ADA", actApprove, ""))
	require.Eventually(t, func() bool { return strings.Contains(last(h.Ephemeral("U0ADA")), "*not* recorded") }, 5*time.Second, 5*time.Millisecond)
	require.Len(t, h.people.said(), 1)
}

func last(m []slacktest.Message) string {
	if len(m) == 0 {
		return ""
	}
	return m[len(m)-1].Text
}

// Only what Slack signed lately, and once, is believed.
func TestSlackHandlerRefuses(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	payload := h.press(t, "U0ADA", actApprove, "")
	request := func(secret string, at time.Time, change func(*http.Request)) *http.Request {
		r, err := slacktest.Request(h.url, secret, payload, at)
		require.NoError(t, err)
		if change != nil {
			change(r)
		}
		return r
	}
	now := time.Now()
	for name, r := range map[string]*http.Request{
		"another secret": request("guess", now, nil),
		"too old":        request(slacktest.SigningSecret, now.Add(-6*time.Minute), nil),
		"of the future":  request(slacktest.SigningSecret, now.Add(6*time.Minute), nil),
		"no signature":   request(slacktest.SigningSecret, now, func(r *http.Request) { r.Header.Del("X-Slack-Signature") }),
		"no time":        request(slacktest.SigningSecret, now, func(r *http.Request) { r.Header.Del("X-Slack-Request-Timestamp") }),
		"another body": request(slacktest.SigningSecret, now, func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader("payload=%7B%7D")), 14
		}),
	} {
		status, _ := do(t, r)
		require.Equal(t, http.StatusUnauthorized, status, name)
	}
	require.Empty(t, h.people.said())

	first, again := request(slacktest.SigningSecret, now, nil), request(slacktest.SigningSecret, now, nil)
	status, _ := do(t, first)
	require.Equal(t, http.StatusOK, status)
	status, body := do(t, again)
	require.Equal(t, http.StatusUnauthorized, status, "a replay")
	require.Contains(t, body, "taken already")
	require.Len(t, h.people.said(), 1)

	big := request(slacktest.SigningSecret, now, func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(strings.Repeat("x", maxPayload+1))), maxPayload+1
	})
	status, _ = do(t, big)
	require.Equal(t, http.StatusRequestEntityTooLarge, status)
	get, err := http.NewRequest(http.MethodGet, h.url, nil)
	require.NoError(t, err)
	status, _ = do(t, get)
	require.Equal(t, http.StatusMethodNotAllowed, status)
}

// The signature is the one of Slack's own example.
func TestSlackSignature(t *testing.T) {
	t.Parallel()
	body := "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
	require.Equal(t, "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
		Signature("8f742231b10e8888abcd99yyyzzz85a5", "1531420618", []byte(body)))
}

// Socket Mode: an envelope is answered when its press is kept, a second copy counts nothing, and a lost
// connection is opened anew.
func TestSlackSocketMode(t *testing.T) {
	t.Parallel()
	h := newHook(t)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.slack.Run(ctx) }()
	connected := func() bool { return h.Connections() == 1 }
	require.Eventually(t, connected, 10*time.Second, 5*time.Millisecond)

	approve := h.press(t, "U0ADA", actApprove, "")
	for range 2 {
		answer, err := h.Deliver("e1", approve)
		require.NoError(t, err)
		require.Empty(t, answer)
	}
	require.Len(t, h.people.said(), 1)
	answer, err := h.Deliver("e2", []byte(`{"type":"block_actions","user":{"id":"U0ADA"},"actions":[{"action_id":"of another app","action_ts":"1.2"}]}`))
	require.NoError(t, err, "what is not ours is answered too")
	require.Empty(t, answer)

	h.send(t, h.press(t, "U0ADA", actDeny, ""))
	submit, err := h.Submit("U0ADA", h.Views()[0].ID, reasonID, reasonText, "")
	require.NoError(t, err)
	answer, err = h.Deliver("e3", submit)
	require.NoError(t, err)
	require.Contains(t, string(answer), "response_action")

	for i, politely := range []bool{true, false} {
		opened := h.Calls("apps.connections.open")
		h.Disconnect(politely)
		require.Eventually(t, func() bool { return h.Calls("apps.connections.open") > opened && connected() }, 20*time.Second, 5*time.Millisecond)
		payload := h.press(t, "U0BOB", actAcknowledge, "")
		require.Eventually(t, func() bool {
			_, err := h.Deliver("e4"+strings.Repeat("x", i), payload)
			return err == nil
		}, 20*time.Second, 10*time.Millisecond)
		require.Len(t, h.people.said(), 2+i)
	}
	stop()
	require.NoError(t, <-ended)

	h.Fail(slacktest.Fault{Method: "apps.connections.open", Kind: slacktest.Refuse, Error: "invalid_auth"})
	require.ErrorContains(t, h.slack.Run(t.Context()), "app-level token")
}

func TestSlackMemory(t *testing.T) {
	t.Parallel()
	m := newMemory(time.Minute, 2)
	require.True(t, m.begin("a", noon))
	require.False(t, m.begin("a", noon))
	m.forget("a")
	require.True(t, m.begin("a", noon))
	require.True(t, m.begin("b", noon))
	require.True(t, m.begin("c", noon), "there is room for two: the oldest goes")
	require.True(t, m.begin("a", noon))
	require.True(t, m.begin("c", noon.Add(2*time.Minute)), "a minute is over")
}

// Whatever Slack, or somebody with its secret, sends: a press of ours with everything it needs, or an error.
func FuzzSlackPress(f *testing.F) {
	f.Add([]byte(`{"type":"block_actions","user":{"id":"U0ADA","name":"ada"},"channel":{"id":"C1"},"message":{"ts":"1.2","metadata":{"event_type":"flyball_notice","event_payload":{"incident":"incident/a/b/1","seq":1}}},"actions":[{"type":"button","action_id":"approve","value":"decision/x","action_ts":"1.3"}]}`))
	f.Add([]byte(`{"type":"block_actions","user":{"id":"U0ADA"},"actions":[{"type":"static_select","action_id":"mute","selected_option":{"value":"this 1h0m0s"},"action_ts":"1.3"}]}`))
	f.Add([]byte(`{"type":"view_submission","user":{"id":"U0ADA"},"view":{"id":"V1","callback_id":"flyball_deny","private_metadata":"{\"decision\":\"d\",\"channel\":\"C1\"}","state":{"values":{"reason":{"text":{"value":"no"}}}}}}`))
	f.Add([]byte(`{"type":"block_actions","actions":[null]}`))
	f.Add([]byte(`{"type":"shortcut"}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := parsePress(payload)
		if err != nil {
			return
		}
		require.NotEmpty(t, p.id)
		require.Regexp(t, userID, p.user)
		require.Contains(t, []string{actApprove, actDeny, actAcknowledge, actMute, denyView}, p.action)
	})
}
