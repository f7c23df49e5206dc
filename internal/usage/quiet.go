package usage

// quiet reports whether an event in OpenAI's shape surely says nothing that is not known already, as nearly all of a
// stream's do: then nothing of it need be decoded. Of an event that is no valid JSON, or whose fields have other types
// than they should, it may report either: such an event says nothing anyhow.
func quiet(r *Report, acc *accumulator, event []byte) bool {
	if r.Complete != (acc.exact && acc.finished) { // any event would put that right
		return false
	}
	g := glance{text: event}
	return g.members(func(name []byte) bool {
		switch string(name) {
		case "model":
			text, ok := g.plain()
			return ok && string(text) == r.Model
		case "service_tier":
			if g.null() {
				return true
			}
			text, ok := g.plain()
			return ok && (string(text) == r.ServiceTier || string(text) == "default" && r.ServiceTier == "")
		case "usage", "response", "x_groq":
			return g.null()
		case "choices":
			return g.null() || g.choices()
		}
		return g.skip()
	})
}

// glance reads JSON for what little is asked of it, and allocates nothing. Each of its methods stands before a value
// and takes it; it reports false where the text is not as it expects.
type glance struct {
	text []byte
	at   int
}

// next is the next byte that is not space, which is not taken; 0 at the end.
func (g *glance) next() byte {
	for ; g.at < len(g.text); g.at++ {
		switch c := g.text[g.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

func (g *glance) take(c byte) bool {
	if g.next() != c {
		return false
	}
	g.at++
	return true
}

// members takes an object, and lets value take the value of each of its members. A name that is not written plainly and
// in lower case may mean another: encoding/json is not strict about case.
func (g *glance) members(value func(name []byte) bool) bool {
	if !g.take('{') {
		return false
	}
	if g.take('}') {
		return true
	}
	for {
		name, ok := g.plain()
		for _, c := range name {
			ok = ok && (c < 'A' || c > 'Z')
		}
		if !ok || !g.take(':') || !value(name) {
			return false
		}
		if !g.take(',') {
			return g.take('}')
		}
	}
}

// choices takes a list of choices, none of which has ended.
func (g *glance) choices() bool {
	if !g.take('[') {
		return false
	}
	if g.take(']') {
		return true
	}
	for {
		going := g.members(func(name []byte) bool {
			if string(name) == "finish_reason" {
				return g.null()
			}
			return g.skip()
		})
		if !going {
			return false
		}
		if !g.take(',') {
			return g.take(']')
		}
	}
}

// plain takes a string that means what it is written as.
func (g *glance) plain() (text []byte, ok bool) {
	if !g.take('"') {
		return nil, false
	}
	for i, c := range g.text[g.at:] {
		switch {
		case c == '"':
			text = g.text[g.at : g.at+i]
			g.at += i + 1
			return text, true
		case c == '\\' || c < ' ' || c > '~':
			return nil, false
		}
	}
	return nil, false
}

// null takes null; another value it leaves.
func (g *glance) null() bool {
	if g.next() != 'n' {
		return false
	}
	return g.skip()
}

// skip takes any value.
func (g *glance) skip() bool {
	depth := 0
	for g.next() != 0 {
		switch c := g.text[g.at]; c {
		case '"':
			if !g.quoted() {
				return false
			}
		case '{', '[':
			depth++
			g.at++
		case '}', ']':
			depth--
			g.at++
		case ',', ':':
			g.at++
		default:
			g.scalar()
		}
		if depth <= 0 {
			return depth == 0
		}
	}
	return false
}

// quoted takes a string, whatever it is.
func (g *glance) quoted() bool {
	for g.at++; g.at < len(g.text); g.at++ {
		switch g.text[g.at] {
		case '\\':
			g.at++
		case '"':
			g.at++
			return true
		}
	}
	return false
}

// scalar takes a number, true, false or null.
func (g *glance) scalar() {
	for ; g.at < len(g.text); g.at++ {
		switch g.text[g.at] {
		case ',', ':', '}', ']', '{', '[', '"', ' ', '\t', '\r', '\n':
			return
		}
	}
}
