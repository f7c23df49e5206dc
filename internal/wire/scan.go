package wire

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep a body may nest: schemas of tools nest deepest, and stay far below it.
const maxDepth = 128

// Error says what is wrong with a body, where, and the mend.
type Error struct {
	Field   string // of the body's outermost object; empty: the body itself
	Offset  int    // in bytes, of the body
	Problem string
	Mend    string
}

func (e *Error) Error() string {
	field := e.Field
	if field == "" {
		field = "the body"
	}
	return fmt.Sprintf("%s, at byte %d: %s; %s", field, e.Offset, e.Problem, e.Mend)
}

// scanner reads JSON once, from left to right, and strictly. The first error sticks, and ends every loop over it.
type scanner struct {
	body  []byte
	at    int
	depth int
	first bool   // the next member is the first of its object or array
	field string // of the outermost object
	err   *Error

	text      int64 // decoded bytes of the values that are strings
	shrunk    int64 // bytes by which strings shrink when decoded
	keys      int64
	numbers   int64
	exponents int64 // numbers that have one
}

// str is a string's content in the body, between its quotes.
type str struct {
	start, end int
	escaped    bool
}

func (s *scanner) fail(at int, problem, mend string) {
	if s.err == nil {
		s.err = &Error{Field: s.field, Offset: at, Problem: problem, Mend: mend}
	}
}

// peek is the next byte that is not space, which it does not take; 0 at the end and after an error.
func (s *scanner) peek() byte {
	for ; s.at < len(s.body); s.at++ {
		switch c := s.body[s.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			if s.err != nil {
				return 0
			}
			return c
		}
	}
	return 0
}

// enter takes the bracket that opens an object or an array.
func (s *scanner) enter(open byte) bool {
	if s.peek() != open {
		s.unexpected()
		return false
	}
	if s.depth++; s.depth > maxDepth {
		s.fail(s.at, fmt.Sprintf("nests deeper than %d", maxDepth), "nest less")
		return false
	}
	s.at++
	s.first = true
	return true
}

// next goes on to the next member of the object or array that was entered, or takes its closing bracket.
func (s *scanner) next(closing byte) bool {
	c := s.peek()
	if c == closing && c != 0 {
		s.at++
		s.depth--
		s.first = false
		return false
	}
	if !s.first {
		if c != ',' {
			s.unexpected()
			return false
		}
		s.at++
	}
	s.first = false
	return s.err == nil
}

func (s *scanner) unexpected() {
	if s.at >= len(s.body) {
		s.fail(len(s.body), "ends too early", "send the whole of it, with its Content-Length")
		return
	}
	s.fail(s.at, fmt.Sprintf("unexpected %q", s.body[s.at]), "send valid JSON")
}

// key takes a member's name and its colon.
func (s *scanner) key() str {
	k := s.rawString()
	s.keys++
	if s.peek() != ':' {
		s.unexpected()
		return str{}
	}
	s.at++
	return k
}

// string takes a value that is a string.
func (s *scanner) string() str {
	before := s.shrunk
	v := s.rawString()
	s.text += int64(v.end-v.start) - (s.shrunk - before)
	return v
}

func (s *scanner) rawString() str {
	if s.peek() != '"' {
		s.unexpected()
		return str{}
	}
	v := str{start: s.at + 1}
	for i := v.start; ; {
		i = plain(s.body, i)
		if i >= len(s.body) {
			s.at = i
			s.unexpected()
			return str{}
		}
		switch s.body[i] {
		case '"':
			v.end, s.at = i, i+1
			return v
		case '\\':
			r, size := unescape(s.body[i:])
			if size == 0 {
				s.fail(i, "a string has an escape that JSON does not know", "send valid JSON")
				return str{}
			}
			v.escaped = true
			s.shrunk += int64(size - utf8.RuneLen(r))
			i += size
		default:
			s.fail(i, "a string has a control character", `write it as \u00XX`)
			return str{}
		}
	}
}

// plain is the index, from i on, of the first byte that ends a string or is special in it. It looks at eight at once.
func plain(b []byte, i int) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, backslash := x^(ones*'"'), x^(ones*'\\')
		special := ((x - ones*0x20) | (quote - ones)) & ^x
		special |= (backslash - ones) & ^backslash
		special |= (quote - ones) & ^quote
		// A borrow can mark a byte above a special one by mistake, never below it: the lowest mark is right.
		if special &= highs; special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == '"' || c == '\\' {
			return i
		}
	}
	return i
}

// unescape reads the escape that b begins with; size 0: there is none. Half of a surrogate pair is U+FFFD.
func unescape(b []byte) (r rune, size int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/':
		return rune(b[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
	default:
		return 0, 0
	}
	r, ok := hex4(b)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if low, ok := hex4(b[6:]); ok {
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// hex4 reads \uXXXX.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// decode returns at most limit bytes of what a string says, cut between characters.
func (s *scanner) decode(v str, limit int) []byte { return s.appendDecoded(nil, v, limit) }

func (s *scanner) appendDecoded(dst []byte, v str, limit int) []byte {
	raw := s.body[v.start:v.end]
	for len(raw) > 0 {
		n := len(raw)
		if v.escaped {
			n = plain(raw, 0)
		}
		if n > limit-len(dst) {
			for n = max(limit-len(dst), 0); n > 0 && !utf8.RuneStart(raw[n]); n-- {
			}
			return append(dst, raw[:n]...)
		}
		if dst, raw = append(dst, raw[:n]...), raw[n:]; len(raw) > 0 {
			r, size := unescape(raw)
			if len(dst)+utf8.RuneLen(r) > limit {
				return dst
			}
			dst, raw = utf8.AppendRune(dst, r), raw[size:]
		}
	}
	return dst
}

// name is a key, or another short string, as bytes that must not be kept.
func (s *scanner) name(k str) []byte {
	if !k.escaped {
		return s.body[k.start:k.end]
	}
	return s.decode(k, 64)
}

// value takes a value of any kind.
func (s *scanner) value() {
	switch c := s.peek(); c {
	case '{':
		if s.enter('{') {
			for s.next('}') {
				s.key()
				s.value()
			}
		}
	case '[':
		if s.enter('[') {
			for s.next(']') {
				s.value()
			}
		}
	case '"':
		s.string()
	case 't':
		s.literal("true")
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.number()
	}
}

func (s *scanner) literal(want string) {
	if len(s.body)-s.at < len(want) || string(s.body[s.at:s.at+len(want)]) != want {
		s.unexpected()
		return
	}
	s.at += len(want)
}

// null takes a null, if that is next.
func (s *scanner) null() bool {
	if s.peek() != 'n' {
		return false
	}
	s.literal("null")
	return s.err == nil
}

// bool takes true, false, or null, which is false.
func (s *scanner) bool() bool {
	switch s.peek() {
	case 't':
		s.literal("true")
		return s.err == nil
	case 'f':
		s.literal("false")
	case 'n':
		s.literal("null")
	default:
		s.fail(s.at, "is not a boolean", "write true or false")
	}
	return false
}

// maxInteger is the largest number of tokens that a field may say.
const maxInteger = 1<<31 - 1

// integer takes a whole number from least to most; said is false for null.
func (s *scanner) integer(least, most int64) (n int64, said bool) {
	if s.null() {
		return 0, false
	}
	s.peek()
	start := s.at
	s.number()
	mend := fmt.Sprintf("write a whole number from %d to %d", least, most)
	for _, c := range s.body[start:s.at] {
		if c < '0' || c > '9' || n > most {
			s.fail(start, "is not a whole number in its range", mend)
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	if s.err == nil && (n < least || n > most) {
		s.fail(start, "is not a whole number in its range", mend)
	}
	return n, s.err == nil
}

func (s *scanner) number() {
	s.numbers++
	b, i := s.body, s.at
	if i < len(b) && b[i] == '-' {
		i++
	}
	whole := digits(b, i)
	if whole == i || (b[i] == '0' && whole > i+1) {
		s.unexpected()
		return
	}
	i = whole
	if i < len(b) && b[i] == '.' {
		end := digits(b, i+1)
		if end == i+1 {
			s.at = end
			s.unexpected()
			return
		}
		i = end
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		s.exponents++
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		end := digits(b, i)
		if end == i {
			s.at = end
			s.unexpected()
			return
		}
		i = end
	}
	s.at = i
}

func digits(b []byte, i int) int {
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	return i
}
