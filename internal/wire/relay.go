package wire

import (
	"bytes"
	"strings"
)

// maxEvent bounds what a Relay holds back of an event that is not whole yet. A longer one is passed on as it comes.
const maxEvent = 1 << 20

// Relay passes a streamed answer on, event by event, byte for byte, and watches it. It takes a chunk out that the client
// did not ask for, and lets a comment in before the last event. A client acts on whole events only, so it loses no time
// by never getting half of one.
type Relay struct {
	api       API
	dropUsage bool
	last      func() string

	held     []byte // of an event that is not whole yet
	open     bool   // the rest of an event that was too long to hold passes by
	terminal bool
	text     int64
	hidden   bool
}

// NewRelay starts to pass on a streamed answer of the endpoint. With dropUsage the chunk of a chat that carries only
// usage is dropped: the client did not ask for it. Last is called once, before the terminal event goes out; what it
// returns goes before that event as a comment, which no client takes for data. Last may be nil.
func NewRelay(api API, dropUsage bool, last func() string) *Relay {
	return &Relay{api: api, dropUsage: dropUsage && api == Chat, last: last}
}

// Pass takes the next bytes of the answer, cut anywhere, and appends to dst what the client shall get of them now.
func (r *Relay) Pass(dst, p []byte) []byte {
	for len(p) > 0 {
		end := r.end(p)
		switch {
		case end == 0 && r.open:
			r.text += int64(len(p))
			r.held = tail(append(r.held, p[max(len(p)-2, 0):]...))
			return append(dst, p...)
		case end == 0:
			return r.hold(dst, p)
		case r.open:
			r.text += int64(end)
			dst, r.open, r.held = append(dst, p[:end]...), false, r.held[:0]
		case len(r.held) > 0:
			r.held = append(r.held, p[:end]...)
			dst, r.held = r.event(dst, r.held), r.held[:0]
		default:
			dst = r.event(dst, p[:end])
		}
		p = p[end:]
	}
	return dst
}

// Rest appends what is still held back: the answer has ended without the last blank line.
func (r *Relay) Rest(dst []byte) []byte {
	if r.open || len(r.held) == 0 {
		return dst
	}
	dst, r.held = r.event(dst, r.held), r.held[:0]
	return dst
}

// Terminal reports whether the event was seen that says that the answer is whole, or has failed for good.
func (r *Relay) Terminal() bool { return r.terminal }

// Text is how many bytes of generated text were seen, arguments of tools and shown reasoning among them. A token is at
// least a byte, so no more tokens than that were generated and seen.
func (r *Relay) Text() int64 { return r.text }

// Hidden reports whether the answer showed signs of reasoning that it does not show whole: then Text is no bound.
func (r *Relay) Hidden() bool { return r.hidden }

// end is how many bytes of p end the current event with its blank line; 0: p does not.
func (r *Relay) end(p []byte) int {
	for at := 0; ; {
		n := bytes.IndexByte(p[at:], '\n')
		if n < 0 {
			return 0
		}
		if at += n + 1; blank(r.held, p[:at-1]) {
			return at
		}
	}
}

// blank reports whether the line that ends held and then p is empty; what stands before it does not matter.
func blank(held, p []byte) bool {
	last := func(i int) byte { // the i-th byte from the end
		switch {
		case i < len(p):
			return p[len(p)-1-i]
		case i-len(p) < len(held):
			return held[len(held)-1-(i-len(p))]
		}
		return '\n' // the stream's beginning
	}
	c := last(0)
	if c == '\r' {
		c = last(1)
	}
	return c == '\n'
}

func (r *Relay) hold(dst, p []byte) []byte {
	if r.held = append(r.held, p...); len(r.held) <= maxEvent {
		return dst
	}
	dst = r.event(dst, r.held) // not valid JSON yet: all of it counts as text
	r.open, r.held = true, tail(r.held)
	return dst
}

// tail is as much of an event that passes by as it takes to see its end.
func tail(p []byte) []byte { return append(p[:0], p[max(len(p)-2, 0):]...) }

// event passes on one event, or as much of it as could be held.
func (r *Relay) event(dst, event []byte) []byte {
	var e watched
	e.read(r.api, event)
	r.text += e.text
	r.hidden = r.hidden || e.hidden
	if e.usageOnly && r.dropUsage {
		return dst
	}
	if e.terminal && !r.terminal {
		r.terminal = true
		if r.last != nil {
			dst = comment(dst, r.last())
		}
	}
	return append(dst, event...)
}

var lineEnds = strings.NewReplacer("\r", " ", "\n", " ")

// comment writes a comment as a line of the event that follows. It has no blank line of its own: some clients would take
// that for the end of an event without data.
func comment(dst []byte, text string) []byte {
	if text == "" {
		return dst
	}
	dst = append(dst, ": "...)
	dst = append(dst, lineEnds.Replace(text)...)
	return append(dst, '\n')
}
