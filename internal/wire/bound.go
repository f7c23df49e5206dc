package wire

import "strings"

// What a provider may bill for input beside the text that the client sent. A token is at least one byte of text, so
// the bytes of a body, decoded, bound the tokens of all that is text in it; the punctuation and the keys of the body
// stand for the provider's own marks between messages.
//
// The providers do not publish what all of their marks and tools cost: where no source is named, a constant is a
// conservative guess. The others are rounded up from the providers' pages on tool use, vision and images.
const (
	tokensPerKey      = 8     // conservative: marks around a message, a part, a tool's argument; OpenAI's cookbook counts 3 for a message and 1 for a name
	tokensPerRequest  = 64    // conservative: marks around the whole; the cookbook counts 3
	tokensPerExponent = 24    // conservative: 1e20 may be written out in 21 digits; longer numbers keep their exponent in JavaScript and Python
	tokensForTools    = 1_024 // Anthropic adds a system prompt of up to 530 tokens when there are tools (Claude 3 Opus, its page on the pricing of tool use; later models less); twice that
	tokensPerBuiltIn  = 2_048 // Anthropic's own tools: text editor 700, bash 245, computer use 735 + a prompt of 499. Conservative for those it does not count out, and for OpenAI's

	// Images, however large, are scaled down first. Anthropic, by its page on vision: to a long edge of 2,576 pixels and
	// at most 4,784 tokens since Claude Opus 4.7, 1,568 of each before. OpenAI, by its page on images: tiles (at most 8 of
	// 170 + 85 tokens; gpt-4o-mini 5,667 + 2,833) or patches times a factor of up to 2.46; how many patches there can be,
	// 2,500, or 10,000 with the detail "original", which "auto" may mean, was not found in print: it is meant to be high.
	tokensPerAnthropicImage = 5_000
	tokensPerTiledMini      = 8*5_667 + 2_833
	tokensPerOpenAIImage    = 24_600
	tokensPerScaledImage    = 6_150

	// An image of a common size, for estimates: a middle of both families' examples, and no bound.
	tokensPerCommonImage = 1_000
)

// finish counts what was read.
func (r *reader) finish() {
	req := r.r
	req.Text = r.lastWords()
	req.InputEstimate = (r.text+r.rendered)/4 + int64(req.Images)*tokensPerCommonImage
	if req.API == Embeddings {
		req.InputEstimate += r.numbers
	}
	req.spots.text = int64(len(req.body)) - r.shrunk - r.media + r.rendered + tokensPerKey*r.keys + tokensPerRequest
	if req.Tools > 0 {
		req.spots.text += tokensForTools + int64(r.builtIn)*tokensPerBuiltIn
	}
	req.spots.scaled = r.lowImages
	req.InputBound = req.InputBoundOn(req.Model)
	req.Reasons = req.Reasons || req.API != Messages && reasons(req.Model)
}

// InputBoundOn is InputBound if another model than the one that was asked for answers.
func (r *Request) InputBoundOn(model string) int64 {
	all, scaled := int64(r.Images), int64(r.spots.scaled)
	switch {
	case r.API.Family() == Anthropic:
		return r.spots.text + all*tokensPerAnthropicImage
	case strings.Contains(model, "4o-mini"):
		return r.spots.text + all*tokensPerTiledMini
	}
	return r.spots.text + scaled*tokensPerScaledImage + (all-scaled)*tokensPerOpenAIImage
}

// reasons reports whether a model of OpenAI's reasons out of sight by its name: o1, o3, o4, gpt-5 and what follows.
func reasons(model string) bool {
	model = model[strings.LastIndexByte(model, '/')+1:]
	if digit, ok := strings.CutPrefix(model, "gpt-"); ok {
		return digit != "" && '5' <= digit[0] && digit[0] <= '9'
	}
	return len(model) > 1 && model[0] == 'o' && '1' <= model[1] && model[1] <= '9'
}

// lastWords is what the user said last, in one string.
func (r *reader) lastWords() string {
	if len(r.last) == 0 || r.r.API == Embeddings {
		return ""
	}
	size := 0
	for _, w := range r.last {
		size += w.end - w.start + 1
	}
	text := make([]byte, 0, min(size, maxText))
	for i, w := range r.last {
		if i > 0 && len(text) < maxText {
			text = append(text, '\n')
		}
		text = r.appendDecoded(text, w, maxText)
	}
	return string(text)
}
