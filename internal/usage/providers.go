package usage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrUnsupported says that a provider's usage shape is not known here.
var ErrUnsupported = errors.New("provider not supported yet")

// Report is what a provider said about one call. Tokens hold what was understood; Complete is false
// when the final usage was not seen, or when a part of it has no bucket here, so that Tokens are at
// most a lower bound.
type Report struct {
	Model       string
	ServiceTier string // "" is the provider's standard tier
	Tokens      Tokens
	Complete    bool
}

// shape is how one provider reports usage. A further provider is one more entry in shapes.
type shape struct {
	name    string
	aliases []string // OpenTelemetry's names for it
	// usage reads the provider's usage object into r.
	usage func(r *Report, object json.RawMessage)
	// body reads a whole response.
	body func(r *Report, body json.RawMessage)
	// event reads the data of one server-sent event of a streamed response; acc carries what
	// earlier events said.
	event func(r *Report, acc *accumulator, data json.RawMessage)
}

// accumulator is what a stream has said so far and cannot be read back from a Report.
type accumulator struct {
	anthropic anthropicUsage
}

var shapes = []shape{
	{name: "openai", usage: openAIUsage, body: openAIBody, event: openAIEvent},
	{name: "anthropic", usage: anthropicObject, body: anthropicBody, event: anthropicEvent},
}

// Provider gives the canonical name of a provider, in which OpenTelemetry's aliases, case and
// surrounding space make no difference. A name that is not known comes back trimmed, in lower case.
func Provider(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if s := shapeOf(name); s != nil {
		return s.name
	}
	return name
}

func shapeOf(provider string) *shape {
	for i := range shapes {
		s := &shapes[i]
		if s.name == provider {
			return s
		}
		for _, alias := range s.aliases {
			if alias == provider {
				return s
			}
		}
	}
	return nil
}

func lookup(provider string) (*shape, error) {
	if s := shapeOf(Provider(provider)); s != nil {
		return s, nil
	}
	names := make([]string, len(shapes))
	for i, s := range shapes {
		names[i] = s.name
	}
	return nil, fmt.Errorf("%q: %w (known: %s)", provider, ErrUnsupported, strings.Join(names, ", "))
}

// FromUsage reads a provider's own usage object, as it stands in its responses. It fails only for a
// provider that is not known or for text that is not JSON; an object that is not understood gives a
// Report that is not Complete.
func FromUsage(provider string, object []byte) (Report, error) {
	s, err := lookup(provider)
	if err != nil {
		return Report{}, err
	}
	return read("usage object", object, s.usage)
}

// FromBody reads a provider's whole response body. It fails as FromUsage does; a body without usage,
// such as an error's, gives a Report that is not Complete.
func FromBody(provider string, body []byte) (Report, error) {
	s, err := lookup(provider)
	if err != nil {
		return Report{}, err
	}
	return read("body", body, s.body)
}

func read(what string, text []byte, into func(*Report, json.RawMessage)) (Report, error) {
	if !json.Valid(text) {
		return Report{}, fmt.Errorf("the %s is not JSON", what)
	}
	var r Report
	into(&r, text)
	return r, nil
}

// FromSSE reads a provider's whole streamed response, as server-sent events.
func FromSSE(provider string, stream []byte) (Report, error) {
	s, err := NewStream(provider)
	if err != nil {
		return Report{}, err
	}
	_, _ = s.Write(stream) // never fails
	return s.Report(), nil
}

// maxEvent bounds the one line of a stream that is kept while it is incomplete. Events that carry
// usage are far smaller; a longer line is passed over.
const maxEvent = 4 << 20

// Stream reads usage out of server-sent events while they pass by: it is an io.Writer to tee a
// streamed response into. It keeps one line and a few counters, whatever the length of the stream.
type Stream struct {
	shape    *shape
	report   Report
	acc      accumulator
	line     []byte
	overlong bool
	data     []byte // the data lines of the event that is being read
}

// NewStream starts to read a streamed response of provider.
func NewStream(provider string) (*Stream, error) {
	s, err := lookup(provider)
	if err != nil {
		return nil, err
	}
	return &Stream{shape: s}, nil
}

// Write takes the next bytes of the stream, cut anywhere. It never fails.
func (s *Stream) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			s.keep(p)
			return n, nil
		}
		s.keep(p[:end])
		s.endLine()
		p = p[end+1:]
	}
}

func (s *Stream) keep(p []byte) {
	if s.overlong || len(s.line)+len(p) > maxEvent {
		s.overlong, s.line = true, s.line[:0]
		return
	}
	s.line = append(s.line, p...)
}

func (s *Stream) endLine() {
	line := bytes.TrimSuffix(s.line, []byte{'\r'})
	if s.overlong {
		s.data = s.data[:0]
	} else if len(line) == 0 {
		s.endEvent()
	} else if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && len(s.data)+len(data) <= maxEvent {
		// A provider that leaves out the blank line between events still puts each on one line.
		if json.Valid(s.data) {
			s.endEvent()
		}
		s.data = append(append(s.data, '\n'), data...)
	}
	s.line, s.overlong = s.line[:0], false
}

func (s *Stream) endEvent() {
	if data := bytes.TrimSpace(s.data); len(data) > 0 && data[0] == '{' && json.Valid(data) {
		s.shape.event(&s.report, &s.acc, data)
	}
	s.data = s.data[:0]
}

// Report is what the stream has said so far. It is not Complete until the final usage was seen.
func (s *Stream) Report() Report {
	at := *s
	at.line, at.data = bytes.Clone(s.line), bytes.Clone(s.data)
	if len(at.line) > 0 {
		at.endLine()
	}
	at.endEvent() // a stream may end without its last blank line
	return at.report
}

// count is a token count that may be absent or null. Anything but a whole number of zero or more
// makes the object that holds it unreadable.
type count struct {
	n   int64
	set bool
}

func (c *count) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	if err := json.Unmarshal(text, &c.n); err != nil {
		return err
	}
	if c.n < 0 || c.n > MaxTokens {
		return fmt.Errorf("token count %d is out of range", c.n)
	}
	c.set = true
	return nil
}

// ServiceTier maps the providers' names of their ordinary service to "", and leaves others alone.
func ServiceTier(name string) string {
	switch name {
	case "standard", "default", "auto", "standard_only":
		return ""
	}
	return name
}

// OpenAI's chat completions count prompt and completion, its responses input and output; in both the
// first includes what was read from and written to the cache, and the second includes reasoning.
type openAICounts struct {
	Prompt            count         `json:"prompt_tokens"`
	Completion        count         `json:"completion_tokens"`
	Total             count         `json:"total_tokens"`
	PromptDetails     openAIDetails `json:"prompt_tokens_details"`
	CompletionDetails openAIDetails `json:"completion_tokens_details"`

	Input         count         `json:"input_tokens"`
	Output        count         `json:"output_tokens"`
	InputDetails  openAIDetails `json:"input_tokens_details"`
	OutputDetails openAIDetails `json:"output_tokens_details"`

	// Anthropic's names: here they mean that the object is not OpenAI's, and that its input leaves
	// the cached tokens out.
	ForeignRead  json.RawMessage `json:"cache_read_input_tokens"`
	ForeignWrite json.RawMessage `json:"cache_creation_input_tokens"`
}

type openAIDetails struct {
	Cached     count `json:"cached_tokens"`
	CacheWrite count `json:"cache_write_tokens"`
	Reasoning  count `json:"reasoning_tokens"`
	Audio      count `json:"audio_tokens"` // priced apart from text, and without a bucket here
}

func openAIUsage(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	var u openAICounts
	if json.Unmarshal(object, &u) != nil || u.ForeignRead != nil || u.ForeignWrite != nil {
		return
	}
	in, out, inDetails, outDetails := u.Prompt, u.Completion, u.PromptDetails, u.CompletionDetails
	if !in.set {
		in, out, inDetails, outDetails = u.Input, u.Output, u.InputDetails, u.OutputDetails
	}
	if !out.set && u.Total.set && u.Total.n == in.n {
		out.set = true // embeddings have no output
	}
	tokens := Tokens{
		UncachedInput: in.n - inDetails.Cached.n - inDetails.CacheWrite.n,
		CacheRead:     inDetails.Cached.n,
		CacheWrite5m:  inDetails.CacheWrite.n,
		Output:        out.n,
		Reasoning:     outDetails.Reasoning.n,
	}
	if !in.set || !out.set || tokens.Validate() != nil {
		return
	}
	r.Tokens = tokens
	r.Complete = inDetails.Audio.n == 0 && outDetails.Audio.n == 0
}

type openAIResponse struct {
	Model       string          `json:"model"`
	ServiceTier string          `json:"service_tier"`
	Usage       json.RawMessage `json:"usage"`
}

func (o *openAIResponse) report(r *Report) {
	if o.Model != "" {
		r.Model = o.Model
	}
	if o.ServiceTier != "" {
		r.ServiceTier = ServiceTier(o.ServiceTier)
	}
	if present(o.Usage) {
		openAIUsage(r, o.Usage)
	}
}

func present(object json.RawMessage) bool { return len(object) > 0 && string(object) != "null" }

func openAIBody(r *Report, body json.RawMessage) {
	var o openAIResponse
	if json.Unmarshal(body, &o) == nil {
		o.report(r)
	}
}

// openAIEvent reads a chunk of a chat completion, whose last one has the usage when the request
// asked for it (stream_options.include_usage), or an event of a response, whose last one has it.
func openAIEvent(r *Report, _ *accumulator, data json.RawMessage) {
	var event struct {
		openAIResponse
		Response *openAIResponse `json:"response"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	if event.Response != nil {
		event.Response.report(r)
		return
	}
	event.report(r)
}

// anthropicUsage counts three disjoint groups of input: fresh, written to the cache and read from
// it. Writes are of 5 minutes unless they are split by their time to live.
type anthropicUsage struct {
	Input         count           `json:"input_tokens"`
	CacheCreation count           `json:"cache_creation_input_tokens"`
	CacheRead     count           `json:"cache_read_input_tokens"`
	Split         *anthropicSplit `json:"cache_creation"`
	Output        count           `json:"output_tokens"`
	ServiceTier   string          `json:"service_tier"`
	Speed         string          `json:"speed"` // "fast" is a dearer service of its own
}

type anthropicSplit struct {
	FiveMinutes count `json:"ephemeral_5m_input_tokens"`
	OneHour     count `json:"ephemeral_1h_input_tokens"`
}

func (u *anthropicUsage) report(r *Report) {
	if u.ServiceTier != "" {
		r.ServiceTier = ServiceTier(u.ServiceTier)
	}
	if u.Speed != "" && u.Speed != "standard" {
		r.ServiceTier = u.Speed
	}
	tokens := Tokens{UncachedInput: u.Input.n, CacheRead: u.CacheRead.n, Output: u.Output.n}
	understood := true
	if split := u.Split; split != nil && (split.FiveMinutes.set || split.OneHour.set) {
		tokens.CacheWrite5m, tokens.CacheWrite1h = split.FiveMinutes.n, split.OneHour.n
		understood = !u.CacheCreation.set || split.FiveMinutes.n+split.OneHour.n == u.CacheCreation.n
	} else {
		tokens.CacheWrite5m = u.CacheCreation.n
	}
	if !u.Input.set || tokens.Validate() != nil {
		r.Tokens, r.Complete = Tokens{}, false
		return
	}
	r.Tokens, r.Complete = tokens, understood && u.Output.set
}

func anthropicObject(r *Report, object json.RawMessage) {
	r.Tokens, r.Complete = Tokens{}, false
	var u anthropicUsage
	if json.Unmarshal(object, &u) == nil {
		u.report(r)
	}
}

type anthropicMessage struct {
	Model string          `json:"model"`
	Usage json.RawMessage `json:"usage"`
}

func anthropicBody(r *Report, body json.RawMessage) {
	var m anthropicMessage
	if json.Unmarshal(body, &m) != nil {
		return
	}
	r.Model = m.Model
	if present(m.Usage) {
		anthropicObject(r, m.Usage)
	}
}

// anthropicEvent reads message_start, which carries the input, and message_delta, whose counts are
// cumulative and stand over what was said before. Without a message_delta the stream was cut off,
// and its output is not known.
func anthropicEvent(r *Report, acc *accumulator, data json.RawMessage) {
	var event struct {
		Type    string            `json:"type"`
		Message *anthropicMessage `json:"message"`
		Usage   json.RawMessage   `json:"usage"`
	}
	if json.Unmarshal(data, &event) != nil {
		return
	}
	var said json.RawMessage
	switch event.Type {
	case "message_start":
		if event.Message == nil {
			return
		}
		r.Model, said = event.Message.Model, event.Message.Usage
	case "message_delta":
		said = event.Usage
	}
	if !present(said) {
		return
	}
	if json.Unmarshal(said, &acc.anthropic) != nil { // what is absent stays as it was
		r.Complete = false
		return
	}
	acc.anthropic.report(r)
	if event.Type == "message_start" {
		r.Complete = false
	}
}
