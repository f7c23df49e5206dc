// Package wire reads and changes what the clients of OpenAI's and Anthropic's APIs send, as far as a gateway must:
// which model is asked for, how much may be generated, what the call may cost at the most. Everything else of a body
// stays byte for byte what the client wrote.
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
	IncludeUsage  bool  // the client asked for usage in the stream
	MaxOutput     int64 // tokens that the client allows for each choice; 0: it did not say
	Choices       int64 // n; at least 1
	InputEstimate int64 // tokens of input, about
	InputBound    int64 // tokens of input, at the most
	User          string
	PreviousID    string // previous_response_id
	Text          string // what the predictor of quality reads: the user's last words, cut at 8 KiB
	HasMedia      bool   // images, audio or files, whose tokens are not in the body
	ServiceTier   string
}
