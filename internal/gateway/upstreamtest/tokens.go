package upstreamtest

import (
	"encoding/json"
	"strings"
)

// What images and marks around messages cost here: the providers' figures for common models.
const (
	imageTokens   = 1_445
	messageTokens = 4
	toolsTokens   = 346
)

// InputTokens is what the provider would bill for the input of a body: the same for the same body, and no more than a
// token for each BytesPerToken bytes of text beside the marks around messages, images and tools.
func (u *Upstream) InputTokens(family string, body []byte) int {
	var decoded map[string]any
	if json.Unmarshal(body, &decoded) != nil {
		return 0
	}
	return u.inputTokens(family, decoded)
}

func (u *Upstream) inputTokens(family string, body map[string]any) int {
	bytes, extra := 0, 0
	for _, field := range []string{"messages", "input", "system", "instructions"} {
		b, e := prompt(body[field])
		bytes, extra = bytes+b, extra+e
	}
	if list, ok := body["messages"].([]any); ok {
		extra += messageTokens * len(list)
	}
	if tools, ok := body["tools"].([]any); ok && len(tools) > 0 {
		bytes += len(quoted(tools))
		if family == "anthropic" {
			extra += toolsTokens
		}
	}
	return (bytes+u.o.BytesPerToken-1)/u.o.BytesPerToken + extra
}

// prompt counts what a model reads of a value: text in bytes; images and tokens by their numbers.
func prompt(value any) (bytes, tokens int) {
	switch v := value.(type) {
	case string:
		return len(v), 0
	case float64: // a token of an embedding's input
		return 0, 1
	case []any:
		for _, item := range v {
			b, t := prompt(item)
			bytes, tokens = bytes+b, tokens+t
		}
	case map[string]any:
		kind, _ := v["type"].(string)
		if kind == "image" || kind == "image_url" || kind == "input_image" {
			return 0, imageTokens
		}
		for name, item := range v {
			if name == "type" || name == "role" || name == "id" || strings.HasSuffix(name, "_id") || name == "cache_control" {
				continue
			}
			b, t := prompt(item)
			bytes, tokens = bytes+b, tokens+t
		}
	}
	return bytes, tokens
}
