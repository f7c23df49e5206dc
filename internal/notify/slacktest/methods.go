package slacktest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// call carries a method out.
func (s *Server) call(method, token string, v url.Values) (map[string]any, error) {
	want := BotToken
	if method == "apps.connections.open" {
		want = AppToken
	}
	switch {
	case token == "":
		return nil, refused("not_authed")
	case token != want:
		return nil, refused("invalid_auth")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch method {
	case "auth.test":
		return map[string]any{"url": s.URL, "team": "Test", "user": "flyball", "team_id": "T1", "user_id": "UBOT", "bot_id": "B1"}, nil
	case "chat.postMessage":
		return s.post(v)
	case "chat.update":
		return s.update(v)
	case "chat.postEphemeral":
		if err := s.channel(v.Get("channel")); err != nil {
			return nil, err
		}
		m := &Message{Channel: v.Get("channel"), TS: s.stamp(), Text: v.Get("text"), Ephemeral: v.Get("user")}
		s.messages = append(s.messages, m)
		return map[string]any{"message_ts": m.TS}, nil
	case "conversations.history":
		return s.history(v)
	case "conversations.replies":
		return s.replies(v)
	case "users.info":
		name, ok := s.users[v.Get("user")]
		if !ok {
			return nil, refused("user_not_found")
		}
		return map[string]any{"user": map[string]any{"id": v.Get("user"), "name": name, "profile": map[string]any{"display_name": name}}}, nil
	case "views.open":
		return s.openView(v)
	case "files.getUploadURLExternal":
		size, err := strconv.Atoi(v.Get("length"))
		if err != nil || size <= 0 || v.Get("filename") == "" {
			return nil, refused("invalid_arguments")
		}
		f := &File{ID: fmt.Sprintf("F%d", len(s.files)+1), Name: v.Get("filename"), Size: size}
		s.files[f.ID] = f
		return map[string]any{"upload_url": s.URL + "/upload/" + f.ID, "file_id": f.ID}, nil
	case "files.completeUploadExternal":
		return s.completeUpload(v)
	case "apps.connections.open":
		return map[string]any{"url": "ws" + strings.TrimPrefix(s.URL, "http") + "/link?ticket=" + s.stamp()}, nil
	}
	return nil, refused("unknown_method")
}

func (s *Server) channel(id string) error {
	if !slices.Contains(s.channels, id) {
		return refused("channel_not_found")
	}
	return nil
}

func (s *Server) find(channel, ts string) *Message {
	for _, m := range s.messages {
		if m.Channel == channel && m.TS == ts && m.Ephemeral == "" {
			return m
		}
	}
	return nil
}

func (s *Server) post(v url.Values) (map[string]any, error) {
	if err := s.channel(v.Get("channel")); err != nil {
		return nil, err
	}
	m := &Message{Channel: v.Get("channel"), ThreadTS: v.Get("thread_ts"), Broadcast: v.Get("reply_broadcast") == "true"}
	if m.ThreadTS != "" {
		if parent := s.find(m.Channel, m.ThreadTS); parent == nil || parent.ThreadTS != "" {
			return nil, refused("thread_not_found")
		}
	}
	if err := m.fill(v); err != nil {
		return nil, err
	}
	m.TS = s.stamp()
	s.messages = append(s.messages, m)
	return map[string]any{"channel": m.Channel, "ts": m.TS, "message": wire(m, true)}, nil
}

func (s *Server) update(v url.Values) (map[string]any, error) {
	if err := s.channel(v.Get("channel")); err != nil {
		return nil, err
	}
	m := s.find(v.Get("channel"), v.Get("ts"))
	if m == nil {
		return nil, refused("message_not_found")
	}
	if err := m.fill(v); err != nil {
		return nil, err
	}
	m.Edits++
	return map[string]any{"channel": m.Channel, "ts": m.TS, "text": m.Text}, nil
}

// fill takes what a message says, as far as the call tells it.
func (m *Message) fill(v url.Values) error {
	if v.Get("text") == "" && v.Get("blocks") == "" {
		return refused("no_text")
	}
	m.Text = v.Get("text")
	if blocks := v.Get("blocks"); blocks != "" {
		if err := Validate([]byte(blocks)); err != nil {
			return refused("invalid_blocks")
		}
		m.Blocks = json.RawMessage(blocks)
	}
	if metadata := v.Get("metadata"); metadata != "" {
		var told Metadata
		if err := json.Unmarshal([]byte(metadata), &told); err != nil || told.EventType == "" || told.EventPayload == nil {
			return refused("invalid_metadata_format")
		}
		m.Metadata = &told
	}
	return nil
}

// wire is a message as the API tells it; without all metadata only the event's type is told.
func wire(m *Message, all bool) map[string]any {
	out := map[string]any{"type": "message", "user": "UBOT", "bot_id": "B1", "ts": m.TS, "text": m.Text}
	if m.ThreadTS != "" {
		out["thread_ts"] = m.ThreadTS
	}
	if m.Broadcast {
		out["subtype"] = "thread_broadcast"
	}
	if m.Blocks != nil {
		out["blocks"] = m.Blocks
	}
	if m.Metadata != nil {
		if all {
			out["metadata"] = m.Metadata
		} else {
			out["metadata"] = map[string]any{"event_type": m.Metadata.EventType}
		}
	}
	if m.Files != nil {
		out["files"] = m.Files
	}
	return out
}

// history tells a channel's messages, newest first, a page at a time.
func (s *Server) history(v url.Values) (map[string]any, error) {
	if err := s.channel(v.Get("channel")); err != nil {
		return nil, err
	}
	inclusive := v.Get("inclusive") == "1" || v.Get("inclusive") == "true"
	in := func(m *Message) bool {
		oldest, latest := seconds(v.Get("oldest")), seconds(v.Get("latest"))
		at := seconds(m.TS)
		return m.Channel == v.Get("channel") && m.Ephemeral == "" && (m.ThreadTS == "" || m.Broadcast) &&
			(v.Get("oldest") == "" || at > oldest || inclusive && at == oldest) && (v.Get("latest") == "" || at < latest || inclusive && at == latest)
	}
	var found []*Message
	for _, m := range slices.Backward(s.messages) {
		if in(m) {
			found = append(found, m)
		}
	}
	return page(found, v, 100)
}

// seconds reads a message's time in microseconds; 0 for what is none.
func seconds(ts string) int64 {
	whole, part, _ := strings.Cut(ts, ".")
	sec, _ := strconv.ParseInt(whole, 10, 64)
	us, _ := strconv.ParseInt((part + "000000")[:6], 10, 64)
	return sec*1e6 + us
}

// replies tells a thread, its message first.
func (s *Server) replies(v url.Values) (map[string]any, error) {
	if err := s.channel(v.Get("channel")); err != nil {
		return nil, err
	}
	parent := s.find(v.Get("channel"), v.Get("ts"))
	if parent == nil {
		return nil, refused("thread_not_found")
	}
	found := []*Message{parent}
	for _, m := range s.messages {
		if m.Channel == parent.Channel && m.ThreadTS == parent.TS && m.Ephemeral == "" {
			found = append(found, m)
		}
	}
	return page(found, v, 1000)
}

func page(found []*Message, v url.Values, standard int) (map[string]any, error) {
	limit, err := strconv.Atoi(v.Get("limit"))
	if err != nil || limit <= 0 {
		limit = standard
	}
	start := 0
	if cursor := v.Get("cursor"); cursor != "" {
		raw, err := base64.StdEncoding.DecodeString(cursor)
		if err != nil {
			return nil, refused("invalid_cursor")
		}
		if start, err = strconv.Atoi(strings.TrimPrefix(string(raw), "next:")); err != nil || start > len(found) {
			return nil, refused("invalid_cursor")
		}
	}
	end := min(start+limit, len(found))
	all := v.Get("include_all_metadata") == "1" || v.Get("include_all_metadata") == "true"
	messages := []map[string]any{}
	for _, m := range found[start:end] {
		messages = append(messages, wire(m, all))
	}
	out := map[string]any{"messages": messages, "has_more": end < len(found)}
	if end < len(found) {
		out["response_metadata"] = map[string]any{"next_cursor": base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "next:%d", end))}
	}
	return out, nil
}

// openView opens a modal. A trigger is good for three seconds, once.
func (s *Server) openView(v url.Values) (map[string]any, error) {
	trigger := v.Get("trigger_id")
	at, ok := s.triggers[trigger]
	switch {
	case !ok:
		return nil, refused("invalid_trigger_id")
	case time.Since(at) > 3*time.Second:
		return nil, refused("expired_trigger_id")
	}
	delete(s.triggers, trigger)
	var view View
	if err := json.Unmarshal([]byte(v.Get("view")), &view); err != nil || len(view.PrivateMetadata) > 3000 || Validate(view.Blocks) != nil {
		return nil, refused("invalid_arguments")
	}
	view.ID = fmt.Sprintf("V%03d", len(s.views)+1)
	view.TriggerID = trigger
	s.views[view.ID] = &view
	return map[string]any{"view": map[string]any{"id": view.ID, "callback_id": view.CallbackID}}, nil
}

// upload takes a file's content.
func (s *Server) upload(w http.ResponseWriter, r *http.Request) {
	part, _, err := r.FormFile("file")
	if err != nil {
		http.Error(w, "no file", http.StatusBadRequest)
		return
	}
	content, err := io.ReadAll(io.LimitReader(part, 10<<20))
	if err != nil {
		http.Error(w, "not whole", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.files[r.PathValue("file")]
	if f == nil || f.Size != len(content) {
		http.Error(w, "not the file that was announced", http.StatusBadRequest)
		return
	}
	f.Content = content
	_, _ = fmt.Fprintf(w, "OK - %d", len(content))
}

// completeUpload shares the files in a thread.
func (s *Server) completeUpload(v url.Values) (map[string]any, error) {
	var listed []struct{ ID, Title string }
	if err := json.Unmarshal([]byte(v.Get("files")), &listed); err != nil || len(listed) == 0 {
		return nil, refused("invalid_arguments")
	}
	if err := s.channel(v.Get("channel_id")); err != nil {
		return nil, err
	}
	m := &Message{Channel: v.Get("channel_id"), ThreadTS: v.Get("thread_ts"), TS: s.stamp()}
	out := []map[string]any{}
	for _, l := range listed {
		f := s.files[l.ID]
		if f == nil || f.Content == nil {
			return nil, refused("file_not_found")
		}
		f.Title = l.Title
		m.Files = append(m.Files, *f)
		out = append(out, map[string]any{"id": f.ID, "title": f.Title})
	}
	s.messages = append(s.messages, m)
	return map[string]any{"files": out}, nil
}

// Validate checks blocks against Slack's documented limits.
func Validate(raw []byte) error {
	var blocks []struct {
		Type    string `json:"type"`
		BlockID string `json:"block_id"`
		Text    *text  `json:"text"`
		Fields  []text `json:"fields"`
		// Of an actions block elements that can be pressed, of a context block texts.
		Elements []json.RawMessage `json:"elements"`
	}
	if err := json.Unmarshal(raw, &blocks); err != nil {
		return err
	}
	if len(blocks) == 0 || len(blocks) > 50 {
		return fmt.Errorf("%d blocks: want 1 to 50", len(blocks))
	}
	ids := map[string]bool{}
	for i, b := range blocks {
		where := fmt.Sprintf("block %d (%s)", i, b.Type)
		if len(b.BlockID) > 255 || b.BlockID != "" && ids[b.BlockID] {
			return fmt.Errorf("%s: its block_id is too long or not unique", where)
		}
		ids[b.BlockID] = true
		var err error
		switch b.Type {
		case "header":
			err = b.Text.check(150, "plain_text")
		case "section":
			if b.Text == nil && len(b.Fields) == 0 || len(b.Fields) > 10 {
				return fmt.Errorf("%s: want a text or 1 to 10 fields", where)
			}
			if b.Text != nil {
				err = b.Text.check(3000, "")
			}
			for _, f := range b.Fields {
				if bad := f.check(2000, ""); bad != nil {
					err = bad
				}
			}
		case "context":
			if len(b.Elements) == 0 || len(b.Elements) > 10 {
				return fmt.Errorf("%s: want 1 to 10 elements", where)
			}
		case "actions":
			if len(b.Elements) == 0 || len(b.Elements) > 25 {
				return fmt.Errorf("%s: want 1 to 25 elements", where)
			}
			for _, e := range b.Elements {
				if bad := checkElement(e); bad != nil {
					err = bad
				}
			}
		case "input", "divider":
		default:
			return fmt.Errorf("%s: not a block that this server knows", where)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
	}
	return nil
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

func (t *text) check(limit int, kind string) error {
	if t == nil || kind != "" && t.Type != kind || t.Type != "plain_text" && t.Type != "mrkdwn" {
		return fmt.Errorf("its text is missing or of the wrong type")
	}
	if n := utf8.RuneCountInString(t.Text); n == 0 || n > limit {
		return fmt.Errorf("its text has %d characters: want 1 to %d", n, limit)
	}
	return nil
}

func checkElement(raw json.RawMessage) error {
	var e element
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	switch {
	case e.ActionID == "" || len(e.ActionID) > 255:
		return fmt.Errorf("an element's action_id is missing or too long")
	case len(e.Value) > 2000:
		return fmt.Errorf("a button's value is too long")
	}
	if e.Text != nil {
		if err := e.Text.check(75, "plain_text"); err != nil {
			return err
		}
	}
	if e.Confirm != nil {
		if err := e.Confirm.Title.check(100, "plain_text"); err != nil {
			return err
		}
		if err := e.Confirm.Text.check(300, "plain_text"); err != nil {
			return err
		}
	}
	for _, g := range e.OptionGroups {
		if err := g.Label.check(75, "plain_text"); err != nil {
			return err
		}
		for _, o := range g.Options {
			if len(o.Value) > 150 {
				return fmt.Errorf("an option's value is too long")
			}
			if err := o.Text.check(75, "plain_text"); err != nil {
				return err
			}
		}
	}
	return nil
}

// element is one that can be pressed.
type element struct {
	Type     string `json:"type"`
	ActionID string `json:"action_id"`
	Value    string `json:"value"`
	Text     *text  `json:"text"`
	Confirm  *struct {
		Title *text `json:"title"`
		Text  *text `json:"text"`
	} `json:"confirm"`
	OptionGroups []struct {
		Label   *text `json:"label"`
		Options []struct {
			Text  *text  `json:"text"`
			Value string `json:"value"`
		} `json:"options"`
	} `json:"option_groups"`
}
