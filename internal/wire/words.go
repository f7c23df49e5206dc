package wire

import (
	"bytes"
	"encoding/json"
)

// Words collects what a streamed answer says, for whoever is to score it: no calls of tools, no reasoning. It keeps at
// most as many bytes as it is given. Of several choices the first counts.
type Words struct {
	api   API
	limit int
	line  []byte
	text  []byte
	over  bool
}

// NewWords collects the text of a stream of the endpoint.
func NewWords(api API, limit int) *Words { return &Words{api: api, limit: limit} }

// Text is what was said; ok is false when it was more than may be kept, or a line of the stream was.
func (w *Words) Text() (text string, ok bool) { return string(w.text), !w.over }

// Write takes the next bytes of the stream, cut anywhere. It never fails.
func (w *Words) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !w.over {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			w.line = append(w.line, p...)
			w.over = len(w.line) > maxEvent
			break
		}
		line := p[:end]
		if len(w.line) > 0 {
			w.line = append(w.line, line...)
			line = w.line
		}
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			w.data(data)
		}
		w.line, p = w.line[:0], p[end+1:]
	}
	return n, nil
}

// spoken is what of an event carries text, in the shapes of both families.
type spoken struct {
	Type    string `json:"type"`
	Choices []struct {
		Index int `json:"index"`
		Delta struct {
			Content string `json:"content"`
			Refusal string `json:"refusal"`
		} `json:"delta"`
	} `json:"choices"`
	Delta json.RawMessage `json:"delta"`
}

func (w *Words) data(data []byte) {
	var e spoken
	if json.Unmarshal(data, &e) != nil { // [DONE], or what a client would stumble over
		return
	}
	switch e.Type {
	case "":
		for _, c := range e.Choices {
			if w.api == Chat && c.Index == 0 {
				w.say(c.Delta.Content)
				w.say(c.Delta.Refusal)
			}
		}
	case "response.output_text.delta", "response.refusal.delta":
		var text string
		_ = json.Unmarshal(e.Delta, &text) // what is no text says nothing
		w.say(text)
	case "content_block_delta":
		var text struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}
		if json.Unmarshal(e.Delta, &text) == nil && text.Type == "text_delta" {
			w.say(text.Text)
		}
	case "content_block_start", "response.content_part.added": // parts are lines, as those of an answer that comes whole
		if len(w.text) > 0 && w.text[len(w.text)-1] != '\n' {
			w.say("\n")
		}
	}
}

func (w *Words) say(text string) {
	if w.over = w.over || len(w.text)+len(text) > w.limit; !w.over {
		w.text = append(w.text, text...)
	}
}
