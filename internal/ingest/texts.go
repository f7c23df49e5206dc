package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
	"unicode/utf8"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	"google.golang.org/protobuf/proto"

	"github.com/flyball-dev/flyball/internal/usage"
)

// maxText bounds one text of a call, what was asked or what was answered, in bytes as it came. A native record with a
// longer one is refused; the other formats carry whole conversations, and their longer texts are left out and counted.
const maxText = 256 << 10

// MaxText is the bound for who collects texts: longer ones are left out.
const MaxText = maxText

// Said are the texts of a call that a gateway of this process has passed on, each as JSON: what was asked and answered
// as the provider's API has it, or a string. Empty: nothing is told.
type Said struct{ Input, Output []byte }

// Listens reports whether anybody has a use for the texts of a call that is about to be answered: to score it or to keep
// them. It answers from memory.
func (i *Ingest) Listens(s *usage.Span) bool {
	return i.opt.Keep != nil && i.opt.Keep(s.TenantID) > 0 || i.opt.Wants != nil && i.opt.Wants(s)
}

// Heard is a call that became durable, with its texts as they came. They are read when somebody asks: most calls are
// not scored, and a sender must not wait for it.
type Heard struct {
	Span          usage.Span // without its tags
	input, output words
}

// Size is what the texts take in memory, in bytes.
func (h Heard) Size() int { return len(h.input.raw) + len(h.output.raw) }

// Texts are what was asked and what was answered, as plain text.
func (h Heard) Texts() (input, output string, err error) {
	input, errIn := h.input.text(true)
	output, errOut := h.output.text(false)
	return input, output, errors.Join(errIn, errOut)
}

// words is one text of a call, not looked into yet.
type words struct {
	form form
	rank int // among the names that senders have for it; the lowest wins
	raw  []byte
}

// form is how a text was written.
type form byte

const (
	formString form = iota // a JSON string
	formChat               // JSON: a text, messages, or a provider's answer
	formOTLP               // an AnyValue in OTLP's JSON
	formWire               // an AnyValue in protobuf
)

var errNoText = errors.New("the texts of the call cannot be read")

// text reads the words. Roles are written before messages where asked.
func (w words) text(roles bool) (string, error) {
	if len(w.raw) == 0 {
		return "", nil
	}
	var value any
	switch w.form {
	case formString, formChat:
		if err := json.Unmarshal(w.raw, &value); err != nil {
			return "", errNoText
		}
	case formOTLP:
		var v otlpValue
		if err := json.Unmarshal(w.raw, &v); err != nil {
			return "", errNoText
		}
		value = v.value(maxDepth)
	case formWire:
		var v commonpb.AnyValue
		if err := proto.Unmarshal(w.raw, &v); err != nil {
			return "", errNoText
		}
		value = anyValue(&v, maxDepth)
	}
	if s, ok := value.(string); ok {
		if w.form == formString || w.form == formChat {
			return s, nil // what our own format says is never taken for messages
		}
		if value = messagesIn(s); value == nil {
			return s, nil
		}
	}
	text := wordsOf(value, roles, maxDepth)
	if !utf8.ValidString(text) {
		return "", errNoText
	}
	return text, nil
}

// messagesIn reads a text that is messages or a provider's answer written as JSON; nil: it is neither.
func messagesIn(s string) any {
	trimmed := strings.TrimSpace(s)
	if trimmed == "" || trimmed[0] != '[' && trimmed[0] != '{' {
		return nil
	}
	var value any
	if json.Unmarshal([]byte(trimmed), &value) != nil {
		return nil
	}
	first, _ := value.(map[string]any)
	if list, ok := value.([]any); ok && len(list) > 0 {
		first, _ = list[0].(map[string]any)
	}
	has := func(name string) bool { _, ok := first[name]; return ok }
	if has("role") && (has("content") || has("parts")) || has("choices") || has("message") || has("messages") {
		return value
	}
	return nil
}

// wordsOf is what a message, a list of them or an answer says, in the shapes of OpenTelemetry and of the providers: no
// calls of tools, no pictures, no reasoning.
func wordsOf(value any, roles bool, depth int) string {
	if depth == 0 {
		return ""
	}
	switch v := value.(type) {
	case string:
		return v
	case []any:
		var all []string
		for _, element := range v {
			if text := wordsOf(element, roles, depth-1); text != "" {
				all = append(all, text)
			}
		}
		return strings.Join(all, "\n")
	case map[string]any:
		switch kind, _ := v["type"].(string); kind {
		case "", "text", "output_text", "input_text", "message":
		case "refusal":
			refusal, _ := v["refusal"].(string)
			return refusal
		default:
			return ""
		}
		if choices, ok := v["choices"].([]any); ok && len(choices) > 0 {
			return wordsOf(choices[0], roles, depth-1)
		}
		for _, name := range [...]string{"message", "messages", "parts", "content", "output", "input", "text"} {
			inner, ok := v[name]
			if !ok || inner == nil {
				continue
			}
			text := wordsOf(inner, roles, depth-1)
			if role, ok := v["role"].(string); ok && roles && text != "" {
				return role + ": " + text
			}
			return text
		}
	}
	return ""
}

// anyValue is an OTLP value as encoding/json would have read it.
func anyValue(v *commonpb.AnyValue, depth int) any {
	if depth == 0 {
		return nil
	}
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_ArrayValue:
		var list []any
		for _, element := range v.ArrayValue.GetValues() {
			list = append(list, anyValue(element, depth-1))
		}
		return list
	case *commonpb.AnyValue_KvlistValue:
		m := map[string]any{}
		for _, kv := range v.KvlistValue.GetValues() {
			m[kv.GetKey()] = anyValue(kv.GetValue(), depth-1)
		}
		return m
	}
	return nil
}

// otlpValue is an AnyValue in OTLP's JSON, as far as it can hold text.
type otlpValue struct {
	String *string `json:"stringValue"`
	Array  *struct {
		Values []otlpValue `json:"values"`
	} `json:"arrayValue"`
	List *struct {
		Values []struct {
			Key   string    `json:"key"`
			Value otlpValue `json:"value"`
		} `json:"values"`
	} `json:"kvlistValue"`
}

func (v otlpValue) value(depth int) any {
	switch {
	case depth == 0:
	case v.String != nil:
		return *v.String
	case v.Array != nil:
		var list []any
		for _, element := range v.Array.Values {
			list = append(list, element.value(depth-1))
		}
		return list
	case v.List != nil:
		m := map[string]any{}
		for _, kv := range v.List.Values {
			m[kv.Key] = kv.Value.value(depth - 1)
		}
		return m
	}
	return nil
}

// texts are what a decoder has found of the call that it reads.
type texts struct {
	wanted        bool // by anybody; else nothing is taken
	input, output words
}

func (t *texts) reset() { t.input, t.output = words{}, words{} }

// take keeps the words of the better name. They are the body's own bytes.
func (t *texts) note(output bool, w words) {
	into := &t.input
	if output {
		into = &t.output
	}
	if into.raw == nil || w.rank <= into.rank {
		*into = w
	}
}

// textNames are the attributes with a call's texts: OpenTelemetry's and what came before, then OpenInference's.
var textNames = map[string]struct {
	output bool
	rank   int
}{
	"gen_ai.input.messages": {false, 0}, "gen_ai.prompt": {false, 1}, "input.value": {false, 2},
	"gen_ai.output.messages": {true, 0}, "gen_ai.completion": {true, 1}, "output.value": {true, 2},
	"gen_ai.completion.0.content": {true, 3}, "llm.output_messages.0.message.content": {true, 4},
}

// hear takes an attribute of a span or of one of its events for a text, if it is one. Of the numbered messages of
// older conventions the last one that is asked counts.
func (t *texts) hear(name []byte, event string, f form, value []byte) {
	if n, ok := textNames[string(name)]; ok {
		t.note(n.output, words{f, n.rank, value})
		return
	}
	switch {
	case bytes.HasPrefix(name, []byte("gen_ai.prompt.")) && bytes.HasSuffix(name, []byte(".content")):
		t.note(false, words{f, 3, value})
	case bytes.HasPrefix(name, []byte("llm.input_messages.")) && bytes.HasSuffix(name, []byte(".message.content")):
		t.note(false, words{f, 4, value})
	case string(name) == "gen_ai.event.content" && event == "gen_ai.user.message":
		t.note(false, words{f, 5, value})
	case string(name) == "gen_ai.event.content" && event == "gen_ai.choice":
		t.note(true, words{f, 5, value})
	}
}

// saysText reports whether an event of a span may carry texts.
func saysText(event string) bool {
	return strings.HasPrefix(event, "gen_ai.") && event != evaluationEvent
}

// string reads a text of the native format. Its length is bounded whether anybody wants it or not.
func (d *decoder) string(output bool) error {
	if d.null() {
		return nil
	}
	if d.peek() != '"' {
		return d.expected("a string")
	}
	raw, err := d.skip()
	switch {
	case err != nil:
		return err
	case len(raw) > maxText:
		return wrong("is longer than %d bytes", maxText)
	case d.texts.wanted:
		d.note(output, words{formString, 0, raw})
	}
	return nil
}

// addTexts gives the call that was added last its texts: to be scored, if somebody wants to, and to be kept, where
// that is configured.
func (r *request) addTexts(s *usage.Span, t *texts) {
	if t.input.raw == nil && t.output.raw == nil {
		return
	}
	o := &r.ingest.opt
	keep := time.Duration(0)
	if o.Keep != nil {
		keep = o.Keep(s.TenantID)
	}
	h := &Heard{Span: *s, input: t.input, output: t.output} // s stays where it is: it is the stack's
	h.Span.Tags = nil                                       // the decoder's own
	wants := o.Wants != nil && o.Wants(&h.Span)
	if keep == 0 && !wants {
		return
	}
	if len(t.input.raw) > maxText || len(t.output.raw) > maxText {
		r.ingest.stats.textsLeftOut.Add(1)
		return
	}
	u := &r.units[len(r.units)-1]
	if keep > 0 {
		r.keep(u, h, keep)
	}
	if wants { // the body's memory is not held for texts in it
		h.input.raw, h.output.raw = bytes.Clone(h.input.raw), bytes.Clone(h.output.raw)
		u.heard = h
	}
}

// keep encodes the texts that are to be stored beside the call.
func (r *request) keep(u *unit, h *Heard, retention time.Duration) {
	input, output, err := h.Texts()
	if err != nil {
		r.ingest.stats.textsLeftOut.Add(1)
		return
	}
	s := &h.Span
	from := len(r.buf)
	r.buf = appendContent(r.buf, &usage.Content{
		TraceID: s.TraceID, SpanID: s.SpanID, TenantID: s.TenantID, RequestedModel: s.RequestedModel, Model: s.Model,
		Timestamp: s.Timestamp, ExpiresAt: r.ingest.opt.Now().Add(retention), Input: input, Output: output,
	})
	u.content = slice{from, len(r.buf)}
}

// tell hands the calls of a request that is durable to those who score them.
func (i *Ingest) tell(req *request) {
	if i.opt.Heard == nil {
		return
	}
	for n := range req.units {
		if u := &req.units[n]; u.heard != nil && !u.dropped {
			i.opt.Heard(*u.heard)
		}
	}
}

func appendContent(to []byte, c *usage.Content) []byte {
	w := writer(to)
	for _, text := range [...]string{c.TraceID, c.SpanID, c.TenantID, c.RequestedModel, c.Model, c.Input, c.Output} {
		w.string(text)
	}
	w.time(c.Timestamp)
	w.time(c.ExpiresAt)
	return w
}

func (r *reader) content(c *usage.Content) {
	for _, text := range [...]*string{&c.TraceID, &c.SpanID, &c.TenantID, &c.RequestedModel, &c.Model, &c.Input, &c.Output} {
		*text = r.unique()
	}
	c.Timestamp, c.ExpiresAt = r.time(), r.time()
}
