package slacktest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// Press is the payload of a person pressing what a message shows: the button with the action id, or the
// choice of a menu whose value is pick. What the message does not show can't be pressed.
func (s *Server) Press(user, channel, ts, actionID, pick string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.find(channel, ts)
	if m == nil {
		return nil, fmt.Errorf("there is no message %s in %s", ts, channel)
	}
	var blocks []struct {
		Type     string            `json:"type"`
		BlockID  string            `json:"block_id"`
		Elements []json.RawMessage `json:"elements"`
	}
	if err := json.Unmarshal(m.Blocks, &blocks); err != nil {
		return nil, err
	}
	for _, b := range blocks {
		if b.Type != "actions" {
			continue
		}
		for _, raw := range b.Elements {
			var e element
			if err := json.Unmarshal(raw, &e); err != nil {
				return nil, err
			}
			if e.ActionID != actionID {
				continue
			}
			action := map[string]any{"type": e.Type, "action_id": e.ActionID, "block_id": b.BlockID, "action_ts": s.stamp()}
			if e.Type == "button" {
				action["value"] = e.Value
				return s.blockActions(user, m, action)
			}
			for _, g := range e.OptionGroups {
				for _, o := range g.Options {
					if o.Value == pick {
						action["selected_option"] = map[string]any{"text": o.Text, "value": o.Value}
						return s.blockActions(user, m, action)
					}
				}
			}
			return nil, fmt.Errorf("the menu %s has no choice %q", actionID, pick)
		}
	}
	return nil, fmt.Errorf("the message shows nothing called %s", actionID)
}

// Forge is the payload of a press that no message shows: the action id and value are as given.
func (s *Server) Forge(user, channel, ts, actionID, value string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.find(channel, ts)
	if m == nil {
		return nil, fmt.Errorf("there is no message %s in %s", ts, channel)
	}
	return s.blockActions(user, m, map[string]any{"type": "button", "action_id": actionID, "block_id": "b", "value": value, "action_ts": s.stamp()})
}

// blockActions is Slack's payload for an action; the caller holds the lock.
func (s *Server) blockActions(user string, m *Message, action map[string]any) ([]byte, error) {
	trigger := s.stamp() + ".trigger"
	s.triggers[trigger] = time.Now()
	return json.Marshal(map[string]any{
		"type": "block_actions", "user": map[string]any{"id": user, "username": "u." + user, "name": "u." + user, "team_id": "T1"},
		"api_app_id": "A1", "token": "verification", "trigger_id": trigger, "team": map[string]any{"id": "T1", "domain": "test"},
		"container":    map[string]any{"type": "message", "message_ts": m.TS, "channel_id": m.Channel, "is_ephemeral": false},
		"channel":      map[string]any{"id": m.Channel, "name": "incidents"},
		"message":      wire(m, true),
		"state":        map[string]any{"values": map[string]any{}},
		"response_url": s.URL + "/response",
		"actions":      []any{action},
	})
}

// Submit is the payload of a person submitting a modal with one text.
func (s *Server) Submit(user, viewID, blockID, actionID, value string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.views[viewID]
	if v == nil {
		return nil, fmt.Errorf("no modal %s was opened", viewID)
	}
	return json.Marshal(map[string]any{
		"type": "view_submission", "user": map[string]any{"id": user, "username": "u." + user, "name": "u." + user, "team_id": "T1"},
		"team": map[string]any{"id": "T1", "domain": "test"}, "api_app_id": "A1", "trigger_id": "none",
		"view": map[string]any{
			"id": v.ID, "type": "modal", "callback_id": v.CallbackID, "private_metadata": v.PrivateMetadata, "blocks": v.Blocks, "hash": "h",
			"state": map[string]any{"values": map[string]any{blockID: map[string]any{actionID: map[string]any{"type": "plain_text_input", "value": value}}}},
		},
	})
}

// Request is the signed request in which Slack sends a payload over HTTP.
func Request(address, secret string, payload []byte, at time.Time) (*http.Request, error) {
	body := url.Values{"payload": {string(payload)}}.Encode()
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("v0:" + stamp + ":" + body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("X-Slack-Request-Timestamp", stamp)
	r.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	return r, nil
}

// socket is a Socket Mode connection.
type socket struct {
	conn *websocket.Conn
	send chan any
	done chan struct{}
}

func (k *socket) close() {
	select {
	case <-k.done:
	default:
		close(k.done)
		_ = k.conn.Close()
	}
}

// pingEvery is how often the server pings: a client takes a silent connection for dead.
const pingEvery = 5 * time.Second

// link serves a Socket Mode connection.
func (s *Server) link(w http.ResponseWriter, r *http.Request) {
	upgrader := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	k := &socket{conn: conn, send: make(chan any, 16), done: make(chan struct{})}
	k.send <- map[string]any{"type": "hello", "num_connections": 1, "connection_info": map[string]any{"app_id": "A1"}}
	s.mu.Lock()
	s.sockets = append(s.sockets, k)
	s.mu.Unlock()
	go s.write(k)
	for {
		var ack struct {
			EnvelopeID string          `json:"envelope_id"`
			Payload    json.RawMessage `json:"payload"`
		}
		if err := conn.ReadJSON(&ack); err != nil {
			break
		}
		s.mu.Lock()
		if waiting := s.waiting[ack.EnvelopeID]; waiting != nil {
			select {
			case waiting <- ack.Payload:
			default:
			}
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k.close()
	for i, open := range s.sockets {
		if open == k {
			s.sockets = append(s.sockets[:i], s.sockets[i+1:]...)
			break
		}
	}
}

func (s *Server) write(k *socket) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	_ = k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
	for {
		select {
		case <-k.done:
			return
		case <-ping.C:
			_ = k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(time.Second))
		case m := <-k.send:
			if err := k.conn.WriteJSON(m); err != nil {
				return
			}
		}
	}
}

// Connections is how many Socket Mode connections are open.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sockets)
}

// Disconnect ends every connection: politely, with a message that says so first, or by cutting it.
func (s *Server) Disconnect(politely bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.sockets {
		if politely {
			k.send <- map[string]any{"type": "disconnect", "reason": "refresh_requested", "debug_info": map[string]any{"host": "test"}}
		} else {
			_ = k.conn.Close()
		}
	}
}

// ErrNotAnswered says that an envelope got no acknowledgement in time: Slack shows the person an error.
var ErrNotAnswered = errors.New("the envelope was not acknowledged within three seconds")

// Deliver sends a payload as an interactive envelope to the newest connection and returns what its
// acknowledgement carries.
func (s *Server) Deliver(envelope string, payload []byte) (json.RawMessage, error) {
	acknowledged := make(chan json.RawMessage, 1)
	s.mu.Lock()
	if len(s.sockets) == 0 {
		s.mu.Unlock()
		return nil, errors.New("no Socket Mode connection is open")
	}
	s.waiting[envelope] = acknowledged
	s.sockets[len(s.sockets)-1].send <- map[string]any{
		"type": "interactive", "envelope_id": envelope, "accepts_response_payload": true, "payload": json.RawMessage(payload),
	}
	s.mu.Unlock()
	select {
	case answer := <-acknowledged:
		return answer, nil
	case <-time.After(3 * time.Second):
		return nil, ErrNotAnswered
	}
}

func (s *Server) controlMessages(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.selected(func(*Message) bool { return true })) // a client that is gone reads nothing
}

func (s *Server) controlFaults(w http.ResponseWriter, r *http.Request) {
	var faults []Fault
	if err := json.NewDecoder(r.Body).Decode(&faults); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.Fail(faults...)
}

// controlPress presses, and delivers it through Socket Mode.
func (s *Server) controlPress(w http.ResponseWriter, r *http.Request) {
	var p struct {
		User, Channel, TS, Action, Pick string
	}
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	payload, err := s.Press(p.User, p.Channel, p.TS, p.Action, p.Pick)
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	s.mu.Lock()
	envelope := "envelope-" + s.stamp()
	s.mu.Unlock()
	answer, err := s.Deliver(envelope, payload)
	if err != nil {
		http.Error(w, err.Error(), http.StatusGatewayTimeout)
		return
	}
	_, _ = w.Write(answer)
}
