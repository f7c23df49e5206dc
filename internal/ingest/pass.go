package ingest

import (
	"bytes"
	"fmt"
)

// maxPassDepth bounds the nesting of what is passed over: above what any sender's tool schemas have.
const maxPassDepth = 512

// pass moves behind a value without looking into it, and returns its text. Formats that are not ours carry
// whole conversations, in which senders write what JSON forbids: NaN, lone surrogates, bytes that are no
// UTF-8. Only quotes and brackets matter here, and nothing is kept per level but one byte.
func (c *cursor) pass() ([]byte, error) {
	start := c.pos
	var open [maxPassDepth]byte
	depth := 0
	for {
		c.space()
		switch b := c.peek(); b {
		case '"':
			if err := c.passString(); err != nil {
				return nil, err
			}
		case '{', '[':
			if depth == maxPassDepth {
				return nil, c.syntax(fmt.Sprintf("nested deeper than %d levels", maxPassDepth))
			}
			open[depth] = b + 2 // in ASCII, what closes a bracket stands two behind it
			depth++
			c.pos++
		case '}', ']':
			if depth == 0 || open[depth-1] != b {
				return nil, c.syntax("not a JSON value")
			}
			depth--
			c.pos++
		case ',', ':':
			if depth == 0 {
				return nil, c.syntax("not a JSON value")
			}
			c.pos++
			continue
		default:
			if !c.passWord() {
				return nil, c.syntax("not a JSON value")
			}
		}
		if depth == 0 {
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
