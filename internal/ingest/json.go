package ingest

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Bounds on one record.
const (
	maxDepth  = 32        // levels of nesting
	maxRecord = 1 << 20   // bytes
	maxName   = 256       // bytes of an id or a name
	maxNames  = 16 * 1024 // names that one request shares in memory
)

// cursor reads JSON text once, from left to right, into typed values. It is stricter than
// encoding/json: invalid UTF-8, lone surrogates and names in the wrong case are refused, numbers
// are not rounded, and an error says which field it is about. It is several times faster, too: a
// span costs about a microsecond.
type cursor struct {
	text    []byte
	pos     int
	scratch []byte
	names   map[string]string // strings that many records share
	passes  bool              // values that nobody looks at may be what JSON forbids: see pass
}

// syntaxError says that the text is not JSON at an offset: where the next record starts is unknown.
type syntaxError struct {
	offset int
	reason string
}

func (e *syntaxError) Error() string { return fmt.Sprintf("%s at byte %d", e.reason, e.offset) }

// fieldError says what is wrong with one field of a record that is JSON.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string {
	if e.field == "" {
		return e.reason
	}
	return e.field + ": " + e.reason
}

func wrong(format string, args ...any) error {
	return &fieldError{reason: fmt.Sprintf(format, args...)}
}

func wrongField(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

func (c *cursor) syntax(reason string) error { return &syntaxError{c.pos, reason} }

func (c *cursor) space() {
	for c.pos < len(c.text) {
		switch c.text[c.pos] {
		case ' ', '\t', '\n', '\r':
			c.pos++
		default:
			return
		}
	}
}

func (c *cursor) peek() byte {
	if c.pos < len(c.text) {
		return c.text[c.pos]
	}
	return 0
}

func (c *cursor) take(b byte) bool {
	if c.peek() == b && c.pos < len(c.text) {
		c.pos++
		return true
	}
	return false
}

// expected complains that the value here is not of the wanted kind, or not a value at all.
func (c *cursor) expected(kind string) error {
	start := c.pos
	if _, err := c.skip(); err != nil {
		return err
	}
	c.pos = start
	return wrong("must be %s", kind)
}

// null takes a null, which everywhere stands for an absent field.
func (c *cursor) null() bool {
	if c.peek() == 'n' && len(c.text)-c.pos >= 4 && string(c.text[c.pos:c.pos+4]) == "null" {
		c.pos += 4
		return true
	}
	return false
}

// object reads an object, calling field with each name when the cursor stands at its value. The
// name is valid until the next string is read.
func (c *cursor) object(field func(name []byte) error) error {
	if !c.take('{') {
		return c.expected("an object")
	}
	c.space()
	if c.take('}') {
		return nil
	}
	for {
		c.space()
		if c.peek() != '"' {
			return c.syntax("expected a field's name in quotes")
		}
		from := c.pos
		name, err := c.bytes()
		if err != nil {
			return err
		}
		quoted := c.text[from:c.pos]
		c.space()
		if !c.take(':') {
			return c.syntax("expected ':'")
		}
		c.space()
		if err := field(name); err != nil {
			return inField(quoted, err)
		}
		c.space()
		if c.take(',') {
			continue
		}
		if c.take('}') {
			return nil
		}
		return c.syntax("expected ',' or '}'")
	}
}

func inField(quoted []byte, err error) error {
	var f *fieldError
	if !errors.As(err, &f) {
		return err
	}
	name := string(quoted[1 : len(quoted)-1])
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	if f.field != "" {
		name += "." + f.field
	}
	return &fieldError{name, f.reason}
}

// name reads a string of at most maxName bytes. What it returns is valid until the next string is
// read.
func (c *cursor) name() ([]byte, error) {
	if c.null() {
		return nil, nil
	}
	if c.peek() != '"' {
		return nil, c.expected("a string")
	}
	b, err := c.bytes()
	if err == nil && len(b) > maxName {
		return nil, wrong("is longer than %d bytes", maxName)
	}
	return b, err
}

// share makes a string that many records have one copy of.
func (c *cursor) share(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := c.names[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(c.names) < maxNames {
		c.names[s] = s
	}
	return s
}

// bytes reads a string. What it returns is valid until the next string is read.
func (c *cursor) bytes() ([]byte, error) {
	c.pos++ // the quote
	start := c.pos
	plain := true
	for i := start; i < len(c.text); i++ {
		switch b := c.text[i]; {
		case b == '"':
			c.pos = i + 1
			s := c.text[start:i]
			if !plain && !utf8.Valid(s) {
				return nil, wrong("is not valid UTF-8")
			}
			return s, nil
		case b == '\\':
			return c.escaped(start, i)
		case b < ' ':
			c.pos = i
			return nil, c.syntax("control character in a string")
		case b >= utf8.RuneSelf:
			plain = false
		}
	}
	c.pos = len(c.text)
	return nil, c.syntax("string does not end")
}

// escaped reads on, into scratch, a string that started at start and has its first escape at i.
func (c *cursor) escaped(start, i int) ([]byte, error) {
	out := append(c.scratch[:0], c.text[start:i]...)
	for i < len(c.text) {
		b := c.text[i]
		switch {
		case b == '"':
			c.pos, c.scratch = i+1, out
			if !utf8.Valid(out) {
				return nil, wrong("is not valid UTF-8")
			}
			return out, nil
		case b < ' ':
			c.pos = i
			return nil, c.syntax("control character in a string")
		case b != '\\':
			out = append(out, b)
			i++
			continue
		}
		if i+1 >= len(c.text) {
			break
		}
		switch e := c.text[i+1]; e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, n := unicodeEscape(c.text[i:])
			if n == 0 {
				c.pos = i
				return nil, c.syntax(`bad \u escape`)
			}
			if r < 0 {
				return nil, wrong(`has half a surrogate pair (%s)`, c.text[i:i+6])
			}
			out = utf8.AppendRune(out, r)
			i += n
			continue
		default:
			c.pos = i
			return nil, c.syntax("bad escape")
		}
		i += 2
	}
	c.pos = len(c.text)
	return nil, c.syntax("string does not end")
}

// unicodeEscape reads \uXXXX, or two of them that make a surrogate pair, and how long that is. Half a pair is -1.
func unicodeEscape(b []byte) (rune, int) {
	hex := func(b []byte) (rune, bool) {
		if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
			return 0, false
		}
		var r rune
		for _, d := range b[2:6] {
			switch {
			case '0' <= d && d <= '9':
				d -= '0'
			case 'a' <= d && d <= 'f':
				d -= 'a' - 10
			case 'A' <= d && d <= 'F':
				d -= 'A' - 10
			default:
				return 0, false
			}
			r = r<<4 | rune(d)
		}
		return r, true
	}
	r, ok := hex(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	low, ok := hex(b[6:])
	if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
		return -1, 6
	}
	return r, 12
}

// number reads the text of a number.
func (c *cursor) number() ([]byte, error) {
	start := c.pos
	digits := func() bool {
		from := c.pos
		for c.pos < len(c.text) && '0' <= c.text[c.pos] && c.text[c.pos] <= '9' {
			c.pos++
		}
		return c.pos > from
	}
	c.take('-')
	if b := c.peek(); b == 'N' || b == 'I' {
		return nil, c.notANumber()
	}
	if !c.take('0') && !digits() {
		return nil, c.syntax("not a JSON value")
	}
	if c.take('.') && !digits() {
		return nil, c.syntax("expected a digit after the point")
	}
	if c.take('e') || c.take('E') {
		if !c.take('+') {
			c.take('-')
		}
		if !digits() {
			return nil, c.syntax("expected a digit in the exponent")
		}
	}
	return c.text[start:c.pos], nil
}

func (c *cursor) isNumber() bool {
	b := c.peek()
	return b == '-' || '0' <= b && b <= '9'
}

// integer reads a whole number in [0, limit].
func (c *cursor) integer(limit int64) (int64, error) {
	if c.null() {
		return 0, nil
	}
	if !c.isNumber() {
		return 0, c.expected("a whole number")
	}
	text, err := c.number()
	if err != nil {
		return 0, err
	}
	if text[0] == '-' {
		return 0, wrong("must not be negative (%.32s)", text)
	}
	var n int64
	for _, d := range text {
		if d < '0' || d > '9' {
			return 0, wrong("must be a whole number (%.32s)", text)
		}
		if n = n*10 + int64(d-'0'); n > limit {
			return 0, wrong("must be at most %d (%.32s)", limit, text)
		}
	}
	return n, nil
}

// float reads a number in [low, high].
func (c *cursor) float(low, high float64) (float64, error) {
	if !c.isNumber() {
		return 0, c.expected("a number")
	}
	text, err := c.number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || f < low || f > high {
		return 0, wrong("must be between %g and %g (%.32s)", low, high, text)
	}
	return f, nil
}

// notANumber reads what some encoders write for numbers that JSON does not have.
func (c *cursor) notANumber() error {
	for _, name := range [...]string{"NaN", "Infinity"} {
		if bytes.HasPrefix(c.text[c.pos:], []byte(name)) {
			c.pos += len(name)
			return wrong("NaN and Infinity are not JSON")
		}
	}
	return c.syntax("not a JSON value")
}

// skip reads any value and returns its text.
func (c *cursor) skip() ([]byte, error) {
	if c.passes {
		return c.pass()
	}
	start := c.pos
	err := c.value(maxDepth)
	return c.text[start:c.pos], err
}

func (c *cursor) value(depth int) error {
	if b := c.peek(); depth == 0 && (b == '[' || b == '{') {
		return wrong("is nested deeper than %d levels", maxDepth)
	}
	var literal string
	switch c.peek() {
	case '{':
		return c.object(func([]byte) error { return c.value(depth - 1) })
	case '[':
		return c.array(func() error { return c.value(depth - 1) })
	case '"':
		_, err := c.bytes()
		return err
	case 't':
		literal = "true"
	case 'f':
		literal = "false"
	case 'n':
		literal = "null"
	case 'N', 'I':
		return c.notANumber()
	default:
		if c.pos >= len(c.text) {
			return c.syntax("the text ends within a value")
		}
		_, err := c.number()
		return err
	}
	if len(c.text)-c.pos < len(literal) || string(c.text[c.pos:c.pos+len(literal)]) != literal {
		return c.syntax("not a JSON value")
	}
	c.pos += len(literal)
	return nil
}

// array reads an array, calling each when the cursor stands at an element.
func (c *cursor) array(each func() error) error {
	if !c.take('[') {
		return c.expected("an array")
	}
	c.space()
	if c.take(']') {
		return nil
	}
	for {
		c.space()
		if err := each(); err != nil {
			return err
		}
		c.space()
		if c.take(',') {
			continue
		}
		if c.take(']') {
			return nil
		}
		return c.syntax("expected ',' or ']'")
	}
}
