package router

import "math"

// shape is what a prompt looks like from afar. It tells hard prompts from easy ones better than words do where few
// prompts have been scored.
type shape struct {
	words, numbers, longNumbers, fractions, sentences, questions, lines, commas, money, code, quotes, capitals, other int

	inNumber int // digits of the number that is being read
	last     byte
}

// shapes is how many values a shape has.
const shapes = 16

func (s *shape) see(b byte, class int) {
	if class == digit {
		s.inNumber++
		if s.inNumber == 1 {
			s.numbers++
		}
		if s.inNumber == 3 {
			s.longNumbers++
		}
	} else if b != ',' { // 80,000 is one number
		s.inNumber = 0
	}
	switch b {
	case '.', '!':
		s.sentences++
	case '?':
		s.questions++
	case '\n':
		s.lines++
	case ',':
		s.commas++
	case '$', '%':
		s.money++
	case '/':
		s.fractions++
	case '{', '}', '(', ')', '[', ']', ';', '=', '<', '>', '`', '_', '\\', '|':
		s.code++
	case '"', '\'':
		s.quotes++
	}
	switch {
	case b >= 'A' && b <= 'Z' && (s.last == ' ' || s.last == 0):
		s.capitals++
	case b >= 0x80:
		s.other++
	}
	s.last = b
}

// values are on scales of logarithms and shares, so that long prompts do not drown the others.
func (s *shape) values(size int) [shapes]float32 {
	log := func(n int) float32 { return float32(math.Log1p(float64(n))) }
	share := func(n, of int) float32 { return float32(n) / float32(max(of, 1)) }
	return [shapes]float32{
		log(size), log(s.words), share(size, s.words), log(s.numbers), share(s.numbers, s.words), log(s.longNumbers),
		log(s.fractions), log(s.sentences), share(s.words, s.sentences+s.questions), log(s.questions), log(s.lines),
		log(s.commas), log(s.money), log(s.code), share(s.capitals, s.words), share(s.other, size),
	}
}
