// Package router predicts how good a model's answer to a prompt will be, before the call is made: logistic regression
// on features of the prompt. It hides what the features are, how weights are found, and how a router's worth is
// measured. Prompts are read once and never kept; features are.
package router

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
)

const (
	// buckets is how many places n-grams are hashed into. Several hundred n-grams of a prompt share few thousand places,
	// so that a place says little of any one of them.
	buckets = 1 << 12
	// countMost bounds how often an n-gram counts in one prompt.
	countMost = 127
	// MaxText is how much of a prompt is read, in bytes.
	MaxText = 8 << 10
	// ngrams names this file's reading of a prompt. Weights go with one reading: change both together.
	ngrams = "ngrams-1"
	// embeddings names the reading of prompts by their shape and a model's vectors.
	embeddings = "embeddings-1"
)

// Features are what is kept of a prompt: how often n-grams fell into each place, hashed with the deployment's salt, and
// the prompt's shape. Whoever has them and not the salt cannot look n-grams up; whoever has both can test a guess, but
// order is lost, digits were never read, and n-grams share places. With an embeddings endpoint its vector stands in
// place of the n-grams.
type Features struct {
	Grams []Gram    // by place, ascending; none has a count of 0
	Dense []float32 // the shape, then the embedding where there is one
}

// Gram is one place and the signed count of what fell into it.
type Gram struct {
	Bucket uint16
	Count  int8
}

// Extractor reads prompts under a deployment's salt. Make one with NewExtractor.
type Extractor struct {
	start, key uint64
	name       string
	embeds     bool // an embedding stands in place of the n-grams
}

// NewExtractor derives the hashes from the salt. Features of different salts have nothing to say to each other.
func NewExtractor(salt string) Extractor {
	sum := sha256.Sum256([]byte("flyball router " + salt))
	return Extractor{
		start: binary.LittleEndian.Uint64(sum[:8]), key: binary.LittleEndian.Uint64(sum[8:16]),
		name: ngrams + ":" + hex.EncodeToString(sum[16:20]),
	}
}

// Embedding names the model whose vectors stand in place of the n-grams. The zero value: none does.
type Embedding struct {
	Model      string
	Dimensions int // 0: as many as the model makes by itself
}

// Extractor reads prompts by the model's vectors, or without a model by n-grams hashed under the salt.
func (m Embedding) Extractor(salt string) Extractor {
	e := NewExtractor(salt)
	if m.Model == "" {
		return e
	}
	e.embeds, e.name = true, embeddings+":"+m.Model
	if m.Dimensions > 0 {
		e.name += fmt.Sprintf("/%d", m.Dimensions)
	}
	return e
}

// Name identifies the reading of prompts and, without telling it, the salt; of embeddings, their model and dimensions.
func (e Extractor) Name() string { return e.name }

// Embeds says that Embedded makes the features, and not Features.
func (e Extractor) Embeds() bool { return e.embeds }

// Features reads a prompt.
func (e Extractor) Features(text string) Features {
	var r reading
	e.read(text, &r)
	n := 0
	for _, c := range r.counts {
		if c != 0 {
			n++
		}
	}
	f := Features{Grams: make([]Gram, 0, n), Dense: make([]float32, len(r.shape))}
	for i, c := range r.counts {
		if c != 0 {
			f.Grams = append(f.Grams, Gram{uint16(i), int8(c)})
		}
	}
	copy(f.Dense, r.shape[:])
	return f
}

// Embedded reads a prompt that an embeddings endpoint made a vector of.
func (e Extractor) Embedded(text string, vector []float32) Features {
	var r reading
	e.read(text, &r)
	return Features{Dense: append(append(make([]float32, 0, shapes+len(vector)), r.shape[:]...), vector...)}
}

// reading is one pass over a prompt. It lives on the stack.
type reading struct {
	counts [buckets]int16
	shape  [shapes]float32
}

func (r *reading) add(hash uint64) {
	at := &r.counts[hash>>52] // 12 bits
	if hash&1 == 0 {
		*at = min(*at+1, countMost)
	} else {
		*at = max(*at-1, -countMost)
	}
}

// mix spreads every bit of what it is given over every bit of the hash.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// The classes of bytes. Bytes of other scripts count as letters.
const (
	letter = iota
	digit
	space
	mark
)

func class(b byte) int {
	switch {
	case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= 0x80, b == '_':
		return letter
	case b >= '0' && b <= '9':
		return digit
	case b <= ' ':
		return space
	}
	return mark
}

// read counts words, pairs of words and runs of four characters, in lower case, each digit as 0, and takes the shape.
func (e Extractor) read(text string, r *reading) {
	if len(text) > MaxText {
		text = text[:MaxText]
	}
	const prime = 1099511628211
	s := shape{}
	word, before := e.start, uint64(0)
	length := 0
	var run uint32 // the last four characters
	end := func() {
		if length == 0 {
			return
		}
		word = mix(word ^ e.key)
		r.add(word)
		if before != 0 {
			r.add(mix(before + word*3))
		}
		s.words++
		before, word, length = word, e.start, 0
	}
	for i := 0; i < len(text); i++ {
		b := text[i]
		c := class(b)
		s.see(b, c)
		switch c {
		case letter:
			if b >= 'A' && b <= 'Z' {
				b += 'a' - 'A'
			}
		case digit:
			b = '0'
		case space:
			b = ' '
		}
		if c == letter || c == digit {
			word = (word ^ uint64(b)) * prime
			length++
		} else {
			end()
		}
		if b == ' ' && run&0xff == ' ' {
			continue
		}
		run = run<<8 | uint32(b)
		if i >= 3 {
			r.add(mix(uint64(run)*prime ^ e.key ^ e.start))
		}
	}
	end()
	r.shape = s.values(len(text))
}

// scale makes a count's weight: the tenth time that a word comes says less than the first.
func scale(count int) float64 {
	if count < 0 {
		return -logs[-count]
	}
	return logs[count]
}

var logs = func() (table [countMost + 1]float64) {
	for i := range table {
		table[i] = math.Log1p(float64(i))
	}
	return table
}()

// errFeatures says that stored features are not what AppendBinary writes.
var errFeatures = errors.New("the features are damaged")

// AppendBinary appends the compact form that is stored: about two bytes a place.
func (f Features) AppendBinary(to []byte) ([]byte, error) {
	to = binary.AppendUvarint(to, uint64(len(f.Grams)))
	last := uint16(0)
	for _, g := range f.Grams {
		to = binary.AppendUvarint(to, uint64(g.Bucket-last))
		to = append(to, byte(g.Count))
		last = g.Bucket
	}
	for _, x := range f.Dense {
		to = binary.LittleEndian.AppendUint32(to, math.Float32bits(x))
	}
	return to, nil
}

// MarshalBinary is AppendBinary to nothing.
func (f Features) MarshalBinary() ([]byte, error) { return f.AppendBinary(nil) }

// UnmarshalBinary reads what AppendBinary wrote. It refuses anything else.
func (f *Features) UnmarshalBinary(from []byte) error {
	n, size := binary.Uvarint(from)
	if size <= 0 || n > buckets {
		return errFeatures
	}
	from = from[size:]
	read := Features{Grams: make([]Gram, n)}
	at := uint64(0)
	for i := range read.Grams {
		step, size := binary.Uvarint(from)
		if size <= 0 || len(from) <= size || (step == 0 && i > 0) || step >= buckets || at+step >= buckets || from[size] == 0 {
			return errFeatures
		}
		at += step
		read.Grams[i] = Gram{uint16(at), int8(from[size])}
		from = from[size+1:]
	}
	if len(from)%4 != 0 || len(from)/4 > maxDense {
		return errFeatures
	}
	read.Dense = make([]float32, len(from)/4)
	for i := range read.Dense {
		x := math.Float32frombits(binary.LittleEndian.Uint32(from[4*i:]))
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return fmt.Errorf("%w: value %d is no number", errFeatures, i)
		}
		read.Dense[i] = x
	}
	*f = read
	return nil
}

const (
	// maxDense bounds an embedding, with the shape before it.
	maxDense = 1 << 13
	// MaxDimensions bounds it without.
	MaxDimensions = maxDense - shapes
)
