// Package wire reads and changes what the clients of OpenAI's and Anthropic's APIs send, as far as a gateway must:
// which model is asked for, how much may be generated, what the call may cost at the most. Everything else of a body
// stays byte for byte what the client wrote, and so does a streamed answer on its way back.
package wire

// API is an endpoint of a provider's API.
type API string

// The endpoints.
const (
	Chat        API = "chat"         // OpenAI's POST /v1/chat/completions
	Responses   API = "responses"    // OpenAI's POST /v1/responses
	Embeddings  API = "embeddings"   // OpenAI's POST /v1/embeddings
	Models      API = "models"       // GET /v1/models, of either family
	Messages    API = "messages"     // Anthropic's POST /v1/messages
	CountTokens API = "count_tokens" // Anthropic's POST /v1/messages/count_tokens
)

// Family is whose API an endpoint is of. Both families have Models; it is said to be OpenAI's, so that a caller who can
// tell by the headers must.
func (a API) Family() Family {
	if a == Messages || a == CountTokens {
		return Anthropic
	}
	return OpenAI
}

// Generates reports whether a call of the endpoint is answered by generated text, which a cap can bound.
func (a API) Generates() bool { return a == Chat || a == Responses || a == Messages }

// Family is a provider's API: a call can only be served by another upstream of its own.
type Family string

// The families.
const (
	OpenAI    Family = "openai"
	Anthropic Family = "anthropic"
)

// Request is what a gateway must know of a call. Counts of tokens are ours, made before the provider counts.
type Request struct {
	API           API
	Model         string
	Stream        bool
	IncludeUsage  bool   // the client asked for usage in the stream
	MaxOutput     int64  // tokens that the client allows for each choice; 0: it did not say
	Choices       int64  // n; at least 1
	InputEstimate int64  // tokens of input, about
	InputBound    int64  // tokens of input, at the most, where Unbounded is empty
	Unbounded     string // why InputBound is no bound: what the body refers to without containing it. The model's context is one, but where tools run at the provider, whose every pass is billed
	User          string // user, safety_identifier or metadata.user_id, cut at 256 bytes
	Session       string // metadata.session_id, cut at 256 bytes
	PreviousID    string // previous_response_id
	Text          string // what the predictor of quality reads: the user's last words, cut at 8 KiB
	HasMedia      bool   // images, audio or files, whose tokens are not in the body
	Images        int    // parts that are images
	Tools         int    // tools that are described to the model
	Reasons       bool   // the call may be billed for reasoning that its answer does not show
	Background    bool   // the answer comes later, by another call: so does the usage
	Predicted     int64  // bytes of predicted output: what of it is rejected is billed as output beside MaxOutput
	ServiceTier   string

	body  []byte
	spots spots
}
