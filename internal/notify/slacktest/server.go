// Package slacktest is a Slack to test against: a server that speaks the Web API, Socket Mode and
// interactivity as Slack documents them, fails on request, and shows what was posted to it.
package slacktest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The tokens and the secret that the server knows.
const (
	BotToken      = "xoxb-test"
	AppToken      = "xapp-test"
	SigningSecret = "test-signing-secret"
)

// Message is one message as the server keeps it.
type Message struct {
	Channel   string          `json:"channel"`
	TS        string          `json:"ts"`
	ThreadTS  string          `json:"thread_ts,omitempty"`
	Text      string          `json:"text"`
	Blocks    json.RawMessage `json:"blocks,omitempty"`
	Metadata  *Metadata       `json:"metadata,omitempty"`
	Broadcast bool            `json:"broadcast,omitempty"` // a reply that the channel shows as well
	Ephemeral string          `json:"ephemeral,omitempty"` // the only user who sees it
	Files     []File          `json:"files,omitempty"`
	Edits     int             `json:"edits"`
}

// Metadata is a message's metadata.
type Metadata struct {
	EventType    string         `json:"event_type"`
	EventPayload map[string]any `json:"event_payload"`
}

// File is an uploaded file.
type File struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	Title   string `json:"title"`
	Size    int    `json:"size"`
	Content []byte `json:"-"`
}

// View is a modal that was opened.
type View struct {
	ID              string          `json:"id"`
	TriggerID       string          `json:"-"`
	CallbackID      string          `json:"callback_id"`
	PrivateMetadata string          `json:"private_metadata"`
	Blocks          json.RawMessage `json:"blocks"`
}

// The ways to fail.
const (
	RateLimited = "rate_limited" // 429 with Retry-After, nothing done
	ServerError = "server_error" // 500, nothing done
	Hang        = "hang"         // no answer, nothing done
	AcceptHang  = "accept_hang"  // done, and no answer
	AcceptError = "accept_error" // done, and 500
	Refuse      = "refuse"       // {"ok":false,"error":…}
)

// Fault makes the next calls of a method fail.
type Fault struct {
	Method     string `json:"method"` // chat.postMessage, …; empty: any
	Kind       string `json:"kind"`
	Times      int    `json:"times"`       // how many calls; 0: one; negative: until they are cleared
	RetryAfter int    `json:"retry_after"` // seconds, of RateLimited
	Error      string `json:"error"`       // of Refuse
}

// Server is a Slack workspace with one app.
type Server struct {
	URL string // of the server; the API is at URL + "/api/"

	listener net.Listener
	server   *http.Server

	mu       sync.Mutex
	channels []string
	messages []*Message
	users    map[string]string
	files    map[string]*File
	views    map[string]*View
	faults   []*Fault
	calls    map[string]int
	last     time.Time
	triggers map[string]time.Time
	sockets  []*socket
	waiting  map[string]chan json.RawMessage // acknowledgements, by envelope
	closed   bool
}

// Listen starts a workspace with the channels on an address; "127.0.0.1:0" is a free port. Besides Slack's
// API it serves /control/ for whoever runs it as a process of its own: GET messages, POST faults, POST press.
func Listen(address string, channels ...string) (*Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for Slack's calls: %w", err)
	}
	s := &Server{
		URL: "http://" + listener.Addr().String(), listener: listener, channels: channels,
		users: map[string]string{}, files: map[string]*File{}, views: map[string]*View{}, calls: map[string]int{},
		triggers: map[string]time.Time{}, waiting: map[string]chan json.RawMessage{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/{method}", s.api)
	mux.HandleFunc("POST /upload/{file}", s.upload)
	mux.HandleFunc("GET /link", s.link)
	mux.HandleFunc("GET /control/messages", s.controlMessages)
	mux.HandleFunc("POST /control/faults", s.controlFaults)
	mux.HandleFunc("POST /control/press", s.controlPress)
	s.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.server.Serve(listener) }() // ends when Close closes it
	return s, nil
}

// Close ends the server and its connections.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for _, open := range s.sockets {
		open.close()
	}
	s.mu.Unlock()
	_ = s.server.Close()
}

// API is the address of the API.
func (s *Server) API() string { return s.URL + "/api/" }

// AddUser gives a user a display name.
func (s *Server) AddUser(id, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[id] = name
}

// Fail makes calls fail; it replaces earlier faults, and none at all clears them.
func (s *Server) Fail(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
	for _, f := range faults {
		if f.Times == 0 {
			f.Times = 1
		}
		s.faults = append(s.faults, &f)
	}
}

// Calls is how often a method was called, failures included.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// Called are the methods that were called, in order of their names.
func (s *Server) Called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.calls))
}

// Messages are the messages of a channel that everybody sees in it, oldest first; threads are left out.
func (s *Server) Messages(channel string) []Message {
	return s.selected(func(m *Message) bool { return m.Channel == channel && m.ThreadTS == "" && m.Ephemeral == "" })
}

// Thread are the replies to a message, oldest first.
func (s *Server) Thread(channel, ts string) []Message {
	return s.selected(func(m *Message) bool { return m.Channel == channel && m.ThreadTS == ts && m.Ephemeral == "" })
}

// Ephemeral are the messages that only the user saw.
func (s *Server) Ephemeral(user string) []Message {
	return s.selected(func(m *Message) bool { return m.Ephemeral == user })
}

// Views are the modals that were opened, oldest first.
func (s *Server) Views() []View {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []View
	for _, v := range s.views {
		all = append(all, *v)
	}
	slices.SortFunc(all, func(x, y View) int { return strings.Compare(x.ID, y.ID) })
	return all
}

// Delete removes a message, as a person would.
func (s *Server) Delete(channel, ts string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = slices.DeleteFunc(s.messages, func(m *Message) bool { return m.Channel == channel && (m.TS == ts || m.ThreadTS == ts) })
}

// Age makes every message so much older, as if the time had passed.
func (s *Server) Age(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	older := func(ts string) string {
		if ts == "" {
			return ""
		}
		us := seconds(ts) - by.Microseconds()
		return fmt.Sprintf("%d.%06d", us/1e6, us%1e6)
	}
	for _, m := range s.messages {
		m.TS, m.ThreadTS = older(m.TS), older(m.ThreadTS)
	}
}

// Say posts a message of somebody else's.
func (s *Server) Say(channel, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages = append(s.messages, &Message{Channel: channel, TS: s.stamp(), Text: text})
}

func (s *Server) selected(which func(*Message) bool) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Message
	for _, m := range s.messages {
		if which(m) {
			found = append(found, *m)
		}
	}
	return found
}

// stamp is the time of a new message; no two are the same. The caller holds the lock.
func (s *Server) stamp() string {
	now := time.Now().Truncate(time.Microsecond)
	if !now.After(s.last) {
		now = s.last.Add(time.Microsecond)
	}
	s.last = now
	return fmt.Sprintf("%d.%06d", now.Unix(), now.Nanosecond()/1000)
}

// args are a call's arguments, from a form or from JSON.
func args(r *http.Request) (url.Values, error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/json" {
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		return r.Form, nil
	}
	var fields map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&fields); err != nil {
		if r.ContentLength <= 0 {
			return url.Values{}, nil
		}
		return nil, err
	}
	values := url.Values{}
	for name, raw := range fields {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			text = string(raw)
		}
		values.Set(name, text)
	}
	return values, nil
}

// refused is an error that Slack answers with {"ok":false}.
type refused string

func (r refused) Error() string { return string(r) }

// api serves one call of the Web API, with the fault that waits for it.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	method := r.PathValue("method")
	fault := s.fault(method)
	switch fault.Kind {
	case RateLimited:
		w.Header().Set("Retry-After", fmt.Sprint(max(fault.RetryAfter, 1)))
		http.Error(w, "", http.StatusTooManyRequests)
		return
	case ServerError:
		http.Error(w, "<html>oops</html>", http.StatusInternalServerError)
		return
	}
	values, err := args(r) // the body is read to its end, or the server would not see the client leave
	if err != nil {
		answer(w, nil, refused("invalid_form_data"))
		return
	}
	switch fault.Kind {
	case Hang:
		<-r.Context().Done()
		return
	case Refuse:
		answer(w, nil, refused(fault.Error))
		return
	}
	result, err := s.call(method, token(r, values), values)
	switch fault.Kind {
	case AcceptHang:
		<-r.Context().Done()
		return
	case AcceptError:
		http.Error(w, "<html>oops</html>", http.StatusInternalServerError)
		return
	}
	answer(w, result, err)
}

func token(r *http.Request, values url.Values) string {
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		return bearer
	}
	return values.Get("token")
}

func (s *Server) fault(method string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[method]++
	for _, f := range s.faults {
		if (f.Method == "" || f.Method == method) && f.Times != 0 {
			f.Times--
			return *f
		}
	}
	return Fault{}
}

func answer(w http.ResponseWriter, result map[string]any, err error) {
	if result == nil {
		result = map[string]any{}
	}
	result["ok"] = err == nil
	var no refused
	if errors.As(err, &no) {
		result["error"] = string(no)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(result) // a client that is gone reads nothing
}
