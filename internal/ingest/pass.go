package ingest

import "bytes"

// pass moves behind a value without looking into it, and returns its text. Formats that are not ours carry
// whole conversations, in which senders write what JSON forbids: NaN, lone surrogates, bytes that are no
// UTF-8. Only quotes, commas and the number of open brackets matter here, so that nesting costs nothing.
func (c *cursor) pass() ([]byte, error) {
	start, depth, behindValue := c.pos, 0, false
	for {
		c.space()
		switch b := c.peek(); {
		case c.pos == len(c.text):
			return nil, c.syntax("the text ends within a value")
		case (b == '}' || b == ']') && depth > 0:
			depth--
			c.pos++
		case (b == ',' || b == ':') && depth > 0:
			c.pos++
			behindValue = false
			continue
		case behindValue:
			return nil, c.syntax("expected a comma or the end of a value")
		case b == '{' || b == '[':
			depth++
			c.pos++
			continue
		case b == '"':
			if err := c.passString(); err != nil {
				return nil, err
			}
		default:
			if !c.passWord() {
				return nil, c.syntax("not a JSON value")
			}
		}
		if behindValue = true; depth == 0 {
			return c.text[start:c.pos], nil
		}
	}
}

// passString moves behind a string.
func (c *cursor) passString() error {
	for at := c.pos + 1; ; {
		end := bytes.IndexByte(c.text[at:], '"')
		if end < 0 {
			c.pos = len(c.text)
			return c.syntax("string does not end")
		}
		slashes := 0
		for end > slashes && c.text[at+end-1-slashes] == '\\' {
			slashes++
		}
		at += end + 1
		if slashes%2 == 0 {
			c.pos = at
			return nil
		}
	}
}

// passWord moves behind a number or a literal, NaN and Infinity included.
func (c *cursor) passWord() bool {
	start := c.pos
	for c.pos < len(c.text) {
		switch b := c.text[c.pos]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '+', b == '.':
			c.pos++
		default:
			return c.pos > start
		}
	}
	return c.pos > start
}
