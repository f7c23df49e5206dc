package usage

import (
	"bytes"
	"encoding/json"
)

// FromSSE reads a provider's whole streamed response: server-sent events, a JSON array of events (Gemini
// without alt=sse), or events as JSON objects one after another (Cohere's first API, Bedrock's events).
func FromSSE(provider string, stream []byte) (Report, error) {
	s, err := NewStream(provider)
	if err != nil {
		return Report{}, err
	}
	_, _ = s.Write(stream) // never fails
	return s.Report(), nil
}

// maxEvent bounds the part of a stream that is kept while it is incomplete: a line, or an event. Events that
// carry usage are far smaller; a longer one is passed over.
const maxEvent = 4 << 20

// Stream reads usage out of a streamed response while it passes by: it is an io.Writer to tee the response
// into. It keeps one event and a few counters, whatever the length of the stream.
type Stream struct {
	shape    *shape
	report   Report
	acc      accumulator
	format   streamFormat
	line     []byte // of server-sent events; or the JSON object that is being read
	overlong bool
	data     []byte // the data lines of the event that is being read
	json     jsonScan
}

// streamFormat is how events follow one another, known from the first byte that is not space.
type streamFormat int

const (
	unknownFormat streamFormat = iota
	sseFormat
	jsonFormat
)

// NewStream starts to read a streamed response of provider.
func NewStream(provider string) (*Stream, error) {
	s, err := lookup(provider)
	if err != nil {
		return nil, err
	}
	return &Stream{shape: s}, nil
}

// Write takes the next bytes of the stream, cut anywhere. It never fails.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	if s.format == unknownFormat {
		p = bytes.TrimLeft(p, " \t\r\n")
		if len(p) == 0 {
			return n, nil
		}
		s.format = sseFormat
		if p[0] == '[' || p[0] == '{' {
			s.format = jsonFormat
		}
	}
	if s.format == jsonFormat {
		s.writeJSON(p)
	} else {
		s.writeSSE(p)
	}
	return n, nil
}

func (s *Stream) writeSSE(p []byte) {
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.keep(p)
			return
		}
		s.keep(p[:end])
		s.endLine()
		p = p[end+1:]
	}
}

func (s *Stream) keep(p []byte) {
	if s.overlong || len(s.line)+len(p) > maxEvent {
		s.overlong, s.line = true, s.line[:0]
		return
	}
	s.line = append(s.line, p...)
}

func (s *Stream) endLine() {
	line := bytes.TrimSuffix(s.line, []byte{'\r'})
	if s.overlong {
		s.data = s.data[:0]
	} else if len(line) == 0 {
		s.endEvent()
	} else if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && len(s.data)+len(data) <= maxEvent {
		// A provider that leaves out the blank line between events still puts each on one line.
		if object(data) && object(s.data) && bytes.HasSuffix(s.data, []byte{'}'}) && json.Valid(s.data) {
			s.endEvent()
		}
		s.data = append(append(s.data, '\n'), bytes.TrimRight(data, " \t")...)
	}
	s.line, s.overlong = s.line[:0], false
}

func (s *Stream) endEvent() {
	s.read(s.data)
	s.data = s.data[:0]
}

// read reads an event. What is no valid JSON says nothing to any shape: each unmarshals the whole of it first.
func (s *Stream) read(data []byte) {
	if data = bytes.TrimSpace(data); object(data) {
		s.shape.event(&s.report, &s.acc, data)
	}
}

// object reports whether text begins like a JSON object.
func object(text []byte) bool {
	text = bytes.TrimLeft(text, " \t\r\n")
	return len(text) > 0 && text[0] == '{'
}

// jsonScan is where a reader of JSON objects stands.
type jsonScan struct {
	depth   int // of braces: 0 is between events
	quoted  bool
	escaped bool
}

// writeJSON reads each outermost object as an event. What stands between them, a list's brackets and commas or
// the ends of lines, says nothing.
func (s *Stream) writeJSON(p []byte) {
	start := 0 // of what is not kept yet
	for i, c := range p {
		switch at := &s.json; {
		case at.escaped:
			at.escaped = false
		case at.quoted:
			at.escaped, at.quoted = c == '\\', c != '"'
		case c == '"' && at.depth > 0:
			at.quoted = true
		case c == '{':
			if at.depth == 0 {
				start = i
			}
			at.depth++
		case c == '}' && at.depth > 0:
			if at.depth--; at.depth == 0 {
				s.keep(p[start : i+1])
				s.read(s.line)
				s.line, s.overlong = s.line[:0], false
			}
		}
	}
	if s.json.depth > 0 {
		s.keep(p[start:])
	}
}

// Report is what the stream has said so far. It is not Complete until the final usage was seen.
func (s *Stream) Report() Report {
	if s.format != sseFormat {
		return s.report
	}
	at := *s
	at.line, at.data = bytes.Clone(s.line), bytes.Clone(s.data)
	if len(at.line) > 0 {
		at.endLine()
	}
	at.endEvent() // a stream may end without its last blank line
	return at.report
}
