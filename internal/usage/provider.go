package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrUnsupported says that a provider's usage shape is not known here.
var ErrUnsupported = errors.New("provider not supported yet")

// Report is what a provider said about one call. Tokens hold what was understood; Complete is false
// when the final usage was not seen, when it contradicts itself, or when a part of it has no bucket here,
// so that Tokens are at most a lower bound.
type Report struct {
	Model       string
	ServiceTier string // "" is the provider's standard tier
	Tokens      Tokens
	Complete    bool
}

// shape is how one provider reports usage. A further provider is one more entry in shapes.
type shape struct {
	name    string
	aliases []string // OpenTelemetry's and LiteLLM's names for it
	// usage reads the provider's usage object into r, over what an earlier one said.
	usage func(r *Report, object json.RawMessage)
	// body reads a whole response.
	body func(r *Report, body json.RawMessage)
	// event reads one event of a streamed response; acc carries what earlier events said.
	event func(r *Report, acc *accumulator, data json.RawMessage)
}

// accumulator is what a stream has said so far and cannot be read back from a Report.
type accumulator struct {
	anthropic anthropicUsage
	finished  bool // a reason was given why the text ends
	exact     bool // the last usage was understood and whole, whether or not it was the final one
}

// final sets whether r is complete: the usage must be whole, and it must be the last.
func (acc *accumulator) final(r *Report, last bool) {
	acc.finished = acc.finished || last
	r.Complete = acc.exact && acc.finished
}

var shapes = []shape{
	{
		name: "openai", aliases: []string{"text-completion-openai"},
		usage: openAIUsage, body: openAIBody, event: openAIEvent,
	},
	{
		name: "anthropic", aliases: []string{"anthropic_text"},
		usage: anthropicObject, body: anthropicBody, event: anthropicEvent,
	},
	{
		name: "google",
		aliases: []string{
			"gcp.gemini", "gcp.vertex_ai", "gcp.gen_ai", "gemini", "vertex_ai", "vertex_ai_beta", "vertexai",
			"google_genai", "google-gla", "google-vertex",
		},
		usage: googleUsage, body: googleBody, event: googleEvent,
	},
	{
		name: "aws",
		aliases: []string{
			"aws.bedrock", "aws_bedrock", "bedrock", "bedrock_converse", "amazon_bedrock", "amazon-bedrock",
			"sagemaker", "sagemaker_chat",
		},
		usage: bedrockUsage, body: bedrockBody, event: bedrockEvent,
	},
	{
		name: "azure",
		aliases: []string{
			"azure.ai.openai", "azure.ai.inference", "az.ai.openai", "az.ai.inference", "azure_ai", "azure_openai", "azure_text",
		},
		usage: openAIUsage, body: openAIBody, event: openAIEvent,
	},
	{name: "deepseek", usage: deepSeekUsage, body: openAILike(deepSeekUsage), event: openAILikeEvent(deepSeekUsage)},
	{
		name: "mistral", aliases: []string{"mistral_ai", "mistralai"},
		usage: mistralUsage, body: openAILike(mistralUsage), event: openAILikeEvent(mistralUsage),
	},
	{name: "groq", usage: openAIUsage, body: openAIBody, event: openAIEvent},
	{
		name: "xai", aliases: []string{"x_ai", "x-ai", "x.ai"},
		usage: xaiUsage, body: openAILike(xaiUsage), event: openAILikeEvent(xaiUsage),
	},
	{
		name: "cohere", aliases: []string{"cohere_chat"},
		usage: cohereUsage, body: cohereBody, event: cohereEvent,
	},
	{name: "openrouter", aliases: []string{"open_router"}, usage: openAIUsage, body: openAIBody, event: openAIEvent},
}

// shapesByName finds a shape by any of its names.
var shapesByName = func() map[string]*shape {
	byName := map[string]*shape{}
	for i := range shapes {
		s := &shapes[i]
		byName[s.name] = s
		for _, alias := range s.aliases {
			byName[alias] = s
		}
	}
	return byName
}()

// Providers are the canonical names of the providers whose usage is understood.
func Providers() []string {
	names := make([]string, len(shapes))
	for i := range shapes {
		names[i] = shapes[i].name
	}
	return names
}

// Provider gives the canonical name of a provider, in which OpenTelemetry's and LiteLLM's aliases, case and
// surrounding space make no difference. A name that is not known comes back trimmed, in lower case.
func Provider(name string) string {
	name = strings.ToLower(strings.TrimSpace(name))
	if s := shapesByName[name]; s != nil {
		return s.name
	}
	return name
}

func lookup(provider string) (*shape, error) {
	if s := shapesByName[Provider(provider)]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%q: %w (known: %s)", provider, ErrUnsupported, strings.Join(Providers(), ", "))
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

// ServiceTier maps the providers' names of their ordinary service to "", and writes the others alike.
func ServiceTier(name string) string {
	switch name = strings.ToLower(name); name {
	case "standard", "default", "auto", "standard_only", "on_demand", "unspecified":
		return ""
	}
	return name
}

// count is a token count that may be absent or null. Anything but a whole number of zero or more
// makes the object that holds it unreadable. A whole number may be written as 12.0, as Cohere does.
type count struct {
	n   int64
	set bool
}

func (c *count) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	if whole, part, ok := strings.Cut(string(text), "."); ok && part != "" && strings.Trim(part, "0") == "" {
		text = []byte(whole)
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

func present(object json.RawMessage) bool { return len(object) > 0 && string(object) != "null" }

// fields are the members of a JSON object by their names; nil when it is none.
func fields(object json.RawMessage) map[string]json.RawMessage {
	var members map[string]json.RawMessage
	if json.Unmarshal(object, &members) != nil {
		return nil
	}
	return members
}
