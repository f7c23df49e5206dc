package wire

import (
	"bytes"
	"fmt"
	"unicode/utf8"
)

// How much is kept of what a client says.
const (
	maxText = 8 << 10
	maxName = 256
)

// spots are where in a body the values stand that an Edit may change.
type spots struct {
	inside       int  // just behind the outermost object's brace
	model        span // with its quotes
	options      span // stream_options
	optionsEmpty bool // an object without members
	includeUsage span
	caps         [2]limit
	text         int64 // bound of all input but images, in tokens
	scaled       int   // images that are scaled down more than others
}

// span is a part of a body; the zero value is none.
type span struct{ start, end int }

// limit is a field that caps the output.
type limit struct {
	key, value span
	tokens     int64
	said       bool // not null
}

// field is a member of the outermost object that Read knows.
type field uint

const (
	unknownField field = iota
	modelField
	streamField
	streamOptionsField
	maxTokensField
	maxCompletionTokensField
	maxOutputTokensField
	nField
	userField
	safetyField
	metadataField
	previousField
	conversationField
	promptField
	tierField
	messagesField
	inputField
	toolsField
	functionsField
	schemaField
	serverSideField
	backgroundField
	thinkingField
	predictionField
)

// fields are the names that mean something, in the endpoints where they do.
var fields = []struct {
	name  string
	field field
	apis  []API
}{
	{"model", modelField, []API{Chat, Responses, Embeddings, Messages, CountTokens}},
	{"stream", streamField, []API{Chat, Responses, Messages}},
	{"stream_options", streamOptionsField, []API{Chat}},
	{"max_tokens", maxTokensField, []API{Chat, Messages}},
	{"max_completion_tokens", maxCompletionTokensField, []API{Chat}},
	{"max_output_tokens", maxOutputTokensField, []API{Responses}},
	{"n", nField, []API{Chat}},
	{"user", userField, []API{Chat, Responses, Embeddings}},
	{"safety_identifier", safetyField, []API{Chat, Responses}},
	{"metadata", metadataField, []API{Chat, Responses, Messages}},
	{"previous_response_id", previousField, []API{Responses}},
	{"conversation", conversationField, []API{Responses}},
	{"prompt", promptField, []API{Responses}},
	{"service_tier", tierField, []API{Chat, Responses, Messages}},
	{"messages", messagesField, []API{Chat, Messages, CountTokens}},
	{"input", inputField, []API{Responses, Embeddings}},
	{"tools", toolsField, []API{Chat, Responses, Messages, CountTokens}},
	{"functions", functionsField, []API{Chat}},
	{"response_format", schemaField, []API{Chat}},
	{"text", schemaField, []API{Responses}},
	{"output_format", schemaField, []API{Messages, CountTokens}},
	{"output_config", schemaField, []API{Messages, CountTokens}},
	{"mcp_servers", serverSideField, []API{Messages, CountTokens}},
	{"container", serverSideField, []API{Messages}},
	{"context_management", serverSideField, []API{Responses, Messages, CountTokens}},
	{"web_search_options", serverSideField, []API{Chat}},
	{"background", backgroundField, []API{Responses}},
	{"reasoning_effort", thinkingField, []API{Chat}},
	{"reasoning", thinkingField, []API{Responses}},
	{"thinking", thinkingField, []API{Messages}},
	{"prediction", predictionField, []API{Chat}},
}

// known are the fields of each endpoint by name.
var known = func() map[API]map[string]int {
	all := map[API]map[string]int{}
	for i, f := range fields {
		for _, api := range f.apis {
			if all[api] == nil {
				all[api] = map[string]int{}
			}
			all[api][f.name] = i
		}
	}
	return all
}()

// reader reads one body.
type reader struct {
	scanner
	r     *Request
	names map[string]int
	seen  uint64 // by index in fields

	input
}

// Read reads the body of a call of an endpoint that takes one. A body may come from anyone: it is refused with an
// *Error unless it is one JSON object whose fields have the types that the provider documents, as far as they are read
// here, each of them once and in the provider's own spelling. So nobody's parser can find another model in it than ours did.
func Read(api API, body []byte) (*Request, error) {
	names := known[api]
	if names == nil {
		return nil, &Error{Problem: fmt.Sprintf("the endpoint %q takes none", api), Mend: "send none"}
	}
	r := &reader{scanner: scanner{body: body}, names: names, r: &Request{API: api, Choices: 1, body: body}}
	if !utf8.Valid(body) {
		r.fail(notUTF8(body), "is not UTF-8", "encode it as UTF-8")
		return nil, r.err
	}
	r.object()
	if r.err == nil && r.peek() != 0 || r.err == nil && r.at < len(body) {
		r.unexpected()
	}
	if r.err == nil && r.r.Model == "" {
		r.fail(0, "names no model", `add "model"`)
	}
	if r.err != nil {
		return nil, r.err
	}
	r.finish()
	return r.r, nil
}

func notUTF8(body []byte) int {
	for i := 0; i < len(body); {
		c, size := utf8.DecodeRune(body[i:])
		if c == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return len(body)
}

func (r *reader) object() {
	if !r.enter('{') {
		return
	}
	r.r.spots.inside = r.at
	for r.next('}') {
		key := r.key()
		r.read(r.lookup(key), key)
		r.field = ""
	}
}

// lookup finds which field a key is, and refuses one that is there twice, or that a parser which looks past case
// would take for a field that is read here.
func (r *reader) lookup(key str) field {
	name := r.name(key)
	i, ok := r.names[string(name)]
	if !ok {
		r.foreign(name, key)
		return unknownField
	}
	r.field = fields[i].name
	if r.seen&(1<<i) != 0 {
		r.fail(key.start, "is there twice", "send it once")
	}
	r.seen |= 1 << i
	return fields[i].field
}

func (r *reader) foreign(name []byte, key str) {
	for _, c := range name {
		if 'A' <= c && c <= 'Z' || c >= utf8.RuneSelf {
			for known := range r.names {
				if bytes.EqualFold(name, []byte(known)) {
					r.field = known
					r.fail(key.start, fmt.Sprintf("is spelled %q", name), fmt.Sprintf("write %q", known))
				}
			}
			return
		}
	}
}

// read reads the value of a field.
func (r *reader) read(f field, key str) {
	req := r.r
	r.peek()
	start, exponents := r.at, r.exponents
	switch f {
	case modelField:
		req.Model = r.words(true)
		req.spots.model = span{start, r.at}
	case streamField:
		req.Stream = r.bool()
	case streamOptionsField:
		r.streamOptions()
		req.spots.options = span{start, r.at}
	case maxTokensField, maxOutputTokensField:
		r.cap(0, key)
	case maxCompletionTokensField:
		r.cap(1, key)
	case nField:
		if n, said := r.integer(1, 128); said {
			req.Choices = n
		}
	case userField:
		req.User = r.words(false)
	case safetyField:
		if id := r.words(false); req.User == "" {
			req.User = id
		}
	case metadataField:
		r.metadata()
	case previousField:
		if req.PreviousID = r.words(true); req.PreviousID != "" {
			r.unbounded("previous_response_id continues an answer that the body does not contain")
		}
	case tierField:
		req.ServiceTier = r.words(true)
	case backgroundField:
		req.Background = r.bool()
	case messagesField, inputField:
		r.content()
	case toolsField:
		r.tools()
		r.described(span{start, r.at}, exponents)
	case functionsField, schemaField:
		r.value()
		r.described(span{start, r.at}, exponents)
	case thinkingField:
		r.thinking()
	case predictionField:
		r.value()
		req.Predicted = int64(r.at - start)
	case serverSideField, conversationField, promptField:
		if !r.null() {
			r.value()
			r.unbounded(r.field + " brings in what the body does not contain")
		}
	default:
		r.value()
	}
}

// words takes a string, or null. With whole, one that is longer than maxName bytes is refused; else it is cut.
func (r *reader) words(whole bool) string {
	if r.null() {
		return ""
	}
	if r.peek() != '"' {
		r.fail(r.at, "is not a string", "write a string")
		return ""
	}
	v := r.string()
	if whole && v.end-v.start > maxName {
		r.fail(v.start, fmt.Sprintf("is longer than %d bytes", maxName), "shorten it")
		return ""
	}
	if !v.escaped && v.end-v.start <= maxName {
		return string(r.body[v.start:v.end])
	}
	return string(r.decode(v, maxName))
}

func (r *reader) cap(i int, key str) {
	r.peek()
	start := r.at
	least := int64(1) // as OpenAI has it: servers that are only like it may take 0 for no cap
	if r.r.API == Messages {
		least = 0 // fills the cache, and generates nothing
	}
	n, said := r.integer(least, maxInteger)
	r.r.spots.caps[i] = limit{key: span{key.start, key.end}, value: span{start, r.at}, tokens: n, said: said}
	r.r.MaxOutput = max(r.r.MaxOutput, n)
}

func (r *reader) streamOptions() {
	if r.null() {
		return
	}
	s := &r.r.spots
	s.optionsEmpty = true
	if r.peek() != '{' {
		r.fail(r.at, "is not an object", `write {"include_usage":true}`)
		return
	}
	r.enter('{')
	for r.next('}') {
		s.optionsEmpty = false
		key := r.key()
		if string(r.name(key)) != "include_usage" {
			if bytes.EqualFold(r.name(key), []byte("include_usage")) {
				r.fail(key.start, "misspells include_usage", "write it in lower case")
			}
			r.value()
			continue
		}
		if s.includeUsage.end > 0 {
			r.fail(key.start, "has include_usage twice", "send it once")
		}
		r.peek()
		start := r.at
		r.r.IncludeUsage = r.bool()
		s.includeUsage = span{start, r.at}
	}
}

func (r *reader) metadata() {
	if r.peek() != '{' {
		r.value()
		return
	}
	r.enter('{')
	for r.next('}') {
		key := r.key()
		switch name := string(r.name(key)); {
		case r.peek() != '"' || name != "user_id" && name != "session_id":
			r.value()
		case name == "session_id":
			r.r.Session = r.words(false)
		default:
			if id := r.words(false); r.r.User == "" {
				r.r.User = id
			}
		}
	}
}

// thinking reads how much the model is to reason: an effort, or an object.
func (r *reader) thinking() {
	off := false
	switch r.peek() {
	case 'n':
		off = r.null()
	case '"':
		off = r.words(false) == "none"
	case '{':
		r.enter('{')
		for r.next('}') {
			key := r.key()
			name := string(r.name(key))
			if r.peek() != '"' {
				r.value()
				continue
			}
			value := r.words(false)
			off = off || name == "type" && value == "disabled" || name == "effort" && value == "none"
		}
	default:
		r.value()
	}
	if !off {
		r.r.Reasons = true
	}
}
