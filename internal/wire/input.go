package wire

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// input is what was seen of what the model is to read.
type input struct {
	media     int64 // bytes of images, audio and files, which are no text
	rendered  int64 // tokens that descriptions of tools and schemas may take beside their own bytes
	lowImages int   // images whose detail is said to be low or high
	builtIn   int   // tools that the provider describes itself
	spoken    []str // of the message that is being read
	last      []str // the user's last words
}

func (r *reader) unbounded(why string) {
	if r.r.Unbounded == "" {
		r.r.Unbounded = why
	}
}

// content reads messages, the items of a response's input, or the text or tokens to embed.
func (r *reader) content() {
	switch r.peek() {
	case '"':
		r.last = append(r.last[:0], r.string())
	case '[':
		r.enter('[')
		for r.next(']') {
			r.spoken = r.spoken[:0]
			if r.part(0) && len(r.spoken) > 0 {
				r.spoken, r.last = r.last, r.spoken
			}
		}
	case 'n':
		r.null()
	default:
		r.fail(r.at, "is neither a string nor an array", "write an array")
	}
}

// part is what one object says of itself: a message, an item, or a part of a message's content.
type part struct {
	seen   uint // keys, by their place in partKeys
	kind   []byte
	user   bool
	detail bool  // low or high
	blob   int64 // bytes that are no text if the kind says so
	source string
	refers bool // to something that is not in the body
}

// partKeys are the keys of a part that decide how it counts.
var partKeys = []string{
	"type", "role", "content", "text", "output", "image_url", "source", "input_audio", "file", "file_data", "file_id", "file_url", "audio", "detail",
}

// part reads a part at a level of nesting: 0 for messages and items, 1 for what a message's content is made of. It
// reports whether it was the user who spoke.
func (r *reader) part(level int) (user bool) {
	if r.peek() != '{' {
		r.value()
		return false
	}
	var p part
	r.enter('{')
	for r.next('}') {
		key := r.key()
		r.member(&p, string(r.name(key)), key, level)
	}
	r.weigh(&p)
	return p.user
}

// once refuses a key that decides how a part counts and is there twice: parsers differ in which of the two they believe.
func (r *reader) once(p *part, name string, key str) {
	for i, known := range partKeys {
		if known == name {
			if p.seen&(1<<i) != 0 {
				r.fail(key.start, fmt.Sprintf("has %q twice in one object", name), "send it once")
			}
			p.seen |= 1 << i
			return
		}
	}
}

func (r *reader) member(p *part, name string, key str, level int) {
	r.once(p, name, key)
	switch name {
	case "type":
		p.kind = r.short()
	case "role":
		p.user = string(r.short()) == "user"
	case "detail":
		detail := string(r.short())
		p.detail = detail == "low" || detail == "high"
	case "text":
		if r.peek() == '"' && level == 1 {
			r.spoken = append(r.spoken, r.string())
			return
		}
		r.value()
	case "content":
		if r.peek() == '"' && level == 0 {
			r.spoken = append(r.spoken, r.string())
			return
		}
		r.parts(level + 1)
	case "output":
		r.parts(level + 2)
	case "image_url", "source", "input_audio", "file":
		if r.peek() == '{' {
			r.source(p, level)
			return
		}
		p.blob += r.blob(p)
	case "file_data":
		p.blob += r.blob(p)
	case "file_id", "file_url", "audio":
		p.refers = p.refers || r.peek() != 'n'
		r.value()
	default:
		r.value()
	}
}

// short takes a value, and returns it if it is a string.
func (r *reader) short() []byte {
	if r.peek() != '"' {
		r.value()
		return nil
	}
	return r.name(r.string())
}

// parts reads a message's content, or a tool's output.
func (r *reader) parts(level int) {
	if r.peek() != '[' {
		r.part(level)
		return
	}
	r.enter('[')
	for r.next(']') {
		r.part(level)
	}
}

// source reads where the bytes of a part come from.
func (r *reader) source(p *part, level int) {
	var seen uint
	r.enter('{')
	for r.next('}') {
		key := r.key()
		name := string(r.name(key))
		bit := uint(0)
		switch name {
		case "type":
			bit = 1
			p.source = string(r.short())
		case "data":
			bit = 2
			p.blob += r.blob(p)
		case "url", "file_data":
			bit = 4
			p.blob += r.blob(p)
		case "file_id":
			bit = 8
			p.refers = p.refers || r.peek() != 'n'
			r.value()
		case "detail":
			detail := string(r.short())
			p.detail = detail == "low" || detail == "high"
		case "content":
			bit = 16
			r.parts(level + 2)
		default:
			r.value()
		}
		if seen&bit != 0 {
			r.fail(key.start, fmt.Sprintf("has %q twice in one object", name), "send it once")
		}
		seen |= bit
	}
}

// blob takes a value that may be data or where data is, and returns its length in the body.
func (r *reader) blob(p *part) int64 {
	if r.peek() != '"' {
		r.value()
		return 0
	}
	v := r.string()
	if v.escaped { // counted as text: neither base64 nor a URL needs it
		return 0
	}
	if raw := r.body[v.start:v.end]; bytes.HasPrefix(raw, []byte("http")) {
		p.refers = true
	}
	return int64(v.end - v.start)
}

// weigh counts a part that was read.
func (r *reader) weigh(p *part) {
	switch kind := string(p.kind); kind {
	case "image_url", "input_image", "computer_screenshot", "image":
		r.image(p)
	case "input_audio":
		r.attached(p)
		r.unbounded("audio is billed by its length in time")
	case "file", "input_file", "document", "container_upload":
		if p.source == "text" || p.source == "content" {
			return
		}
		r.attached(p)
		r.unbounded("a file is billed by what is read in it")
	case "item_reference":
		r.unbounded("an item_reference stands for an item that the body does not contain")
	default:
		if p.blob > 0 || p.refers {
			r.r.HasMedia = true
			r.unbounded(fmt.Sprintf("a part of type %.64q is of unknown size", kind))
		}
	}
}

// attached takes a part's data for no text.
func (r *reader) attached(p *part) {
	r.r.HasMedia = true
	r.media += p.blob
	r.text -= p.blob
}

func (r *reader) image(p *part) {
	if p.source == "text" || p.source == "content" {
		return // of another kind than it says: it counts as text
	}
	r.attached(p)
	r.r.Images++
	if p.detail {
		r.lowImages++
	}
}

// tools reads the descriptions of tools.
func (r *reader) tools() {
	if r.peek() != '[' {
		r.value()
		return
	}
	r.enter('[')
	for r.next(']') {
		r.r.Tools++
		if r.peek() != '{' {
			r.value()
			continue
		}
		r.enter('{')
		for r.next('}') {
			key := r.key()
			if string(r.name(key)) == "type" && r.peek() == '"' {
				r.tool(string(r.name(r.string())))
				continue
			}
			r.value()
		}
	}
}

// clientTools are the beginnings of the types of tools that the client runs though the provider describes them.
var clientTools = []string{
	"bash_", "text_editor_", "computer", "memory_", "local_shell", "apply_patch", // of both families
}

// tool looks at what kind of tool is described. One that runs at the provider brings in what it finds.
func (r *reader) tool(kind string) {
	if kind == "function" || kind == "custom" {
		return
	}
	r.builtIn++
	for _, known := range clientTools {
		if strings.HasPrefix(kind, known) {
			return
		}
	}
	r.unbounded(fmt.Sprintf("a tool of type %.64q runs at the provider, who bills what it brings in", kind))
}

// described counts a description that a provider renders in a form of its own before the model reads it. Exponents is
// how many numbers with one came before it.
func (r *reader) described(at span, exponents int64) {
	if r.err != nil || at.start >= at.end {
		return
	}
	r.rendered += int64(at.end-at.start) + tokensPerExponent*(r.exponents-exponents)
	for _, c := range r.body[at.start:at.end] {
		if c >= utf8.RuneSelf {
			r.rendered++
		}
	}
}
