package wire

import "bytes"

// watched is what one event of a stream says of itself.
type watched struct {
	terminal  bool
	usageOnly bool
	hidden    bool
	text      int64
}

// read reads an event: its lines, of which each that carries data is one JSON object by itself in both families' streams.
func (e *watched) read(api API, event []byte) {
	var name []byte
	for len(event) > 0 {
		var line []byte
		if n := bytes.IndexByte(event, '\n'); n >= 0 {
			line, event = event[:n], event[n+1:]
		} else {
			line, event = event, nil
		}
		line = bytes.TrimSuffix(line, []byte{'\r'})
		if value, ok := bytes.CutPrefix(line, []byte("event:")); ok {
			name = bytes.TrimSpace(value)
		} else if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			e.data(api, bytes.TrimLeft(data, " "))
		}
	}
	e.terminal = e.terminal || terminal(name)
}

// terminal reports whether an event by its name is the last one.
func terminal(name []byte) bool {
	switch string(name) {
	case "message_stop", "response.completed", "response.failed", "response.incomplete", "response.cancelled", "error":
		return true
	}
	return false
}

func (e *watched) data(api API, data []byte) {
	if bytes.HasPrefix(data, []byte("[DONE]")) {
		e.terminal = true
		return
	}
	s := scanner{body: data}
	if s.peek() != '{' {
		return
	}
	if api == Chat {
		e.chunk(&s)
	} else {
		e.typed(&s, int64(len(data)))
	}
	if s.err != nil {
		e.text += int64(len(data))
	}
}

// chunk reads a chunk of a chat.
func (e *watched) chunk(s *scanner) {
	none, usage := false, false
	s.enter('{')
	for s.next('}') {
		key := s.key()
		switch string(s.name(key)) {
		case "choices":
			none = e.choices(s)
		case "usage":
			usage = s.peek() == '{'
			s.value()
		case "error":
			e.terminal = e.terminal || s.peek() != 'n'
			s.value()
		default:
			s.value()
		}
	}
	e.usageOnly = none && usage && s.err == nil
}

// choices reads a chunk's choices, and reports whether there are none.
func (e *watched) choices(s *scanner) (none bool) {
	if s.peek() != '[' {
		s.value()
		return false
	}
	none = true
	s.enter('[')
	for s.next(']') {
		none = false
		if s.peek() != '{' {
			s.value()
			continue
		}
		s.enter('{')
		for s.next('}') {
			key := s.key()
			if string(s.name(key)) == "delta" {
				e.delta(s)
				continue
			}
			s.value()
		}
	}
	return none
}

// delta counts what was generated: every string but the names of things.
func (e *watched) delta(s *scanner) {
	if s.peek() != '{' {
		before := s.text
		s.value()
		e.text += s.text - before
		return
	}
	s.enter('{')
	for s.next('}') {
		key := s.key()
		switch string(s.name(key)) {
		case "role", "type", "id", "signature":
			s.value()
		default:
			before := s.text
			s.value()
			e.text += s.text - before
		}
	}
}

// typed reads an event that says its type: a response's, or a message's.
func (e *watched) typed(s *scanner, size int64) {
	var kind []byte
	s.enter('{')
	for s.next('}') {
		key := s.key()
		switch string(s.name(key)) {
		case "type":
			if s.peek() == '"' {
				kind = s.name(s.string())
				continue
			}
			s.value()
		case "delta":
			e.delta(s)
		case "content_block", "item":
			start := s.at
			s.value()
			e.hidden = e.hidden || reasoning(s.body[start:s.at])
		default:
			s.value()
		}
	}
	switch {
	case string(kind) == "content_block_start", string(kind) == "response.output_item.added":
		e.text += size // what begins a block names what it calls: the whole event bounds that
	case terminal(kind):
		e.terminal = true
	}
}

// reasoning reports whether a block or an item that begins is reasoning, by the type that it says.
func reasoning(block []byte) bool {
	s := scanner{body: block}
	if s.peek() != '{' {
		return false
	}
	s.enter('{')
	for s.next('}') {
		key := s.key()
		if string(s.name(key)) != "type" || s.peek() != '"' {
			s.value()
			continue
		}
		switch string(s.name(s.string())) {
		case "thinking", "redacted_thinking", "reasoning":
			return true
		}
	}
	return false
}
