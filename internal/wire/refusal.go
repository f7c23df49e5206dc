package wire

import "encoding/json"

// Refusal is an error of ours in the shape that the clients of a family know, so that their libraries raise what their
// users expect.
type Refusal struct {
	Family    Family
	Status    int    // of HTTP; it decides Type where that is empty
	Type      string // as the provider names kinds of errors
	Code      string // OpenAI only
	Param     string // OpenAI only: which field is at fault
	Message   string
	RequestID string // Anthropic only
}

type openAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`
}

type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type    string `json:"type"`
		Message string `json:"message"`
	} `json:"error"`
	RequestID string `json:"request_id,omitempty"`
}

// Body is the body of the answer.
func (r Refusal) Body() []byte {
	if r.Family == Anthropic {
		e := anthropicError{Type: "error", RequestID: r.RequestID}
		e.Error.Type, e.Error.Message = r.kind(), r.Message
		return marshal(e)
	}
	return marshal(map[string]openAIError{"error": r.openAI()})
}

// Event is the event that ends a stream which has already begun.
func (r Refusal) Event(api API) []byte {
	switch api {
	case Messages:
		return event("error", r.Body())
	case Responses:
		e := r.openAI()
		return event("error", marshal(struct {
			Type string `json:"type"`
			openAIResponsesError
		}{"error", openAIResponsesError{Code: e.Code, Message: e.Message, Param: e.Param}}))
	}
	return event("", r.Body())
}

// openAIResponsesError is what an error event of a response's stream says.
type openAIResponsesError struct {
	Code           *string `json:"code"`
	Message        string  `json:"message"`
	Param          *string `json:"param"`
	SequenceNumber int     `json:"sequence_number"`
}

func (r Refusal) openAI() openAIError {
	e := openAIError{Message: r.Message, Type: r.kind()}
	if r.Code != "" {
		e.Code = &r.Code
	}
	if r.Param != "" {
		e.Param = &r.Param
	}
	return e
}

// kind is the type of error that the family gives a status.
func (r Refusal) kind() string {
	if r.Type != "" {
		return r.Type
	}
	types := openAITypes
	if r.Family == Anthropic {
		types = anthropicTypes
	}
	switch kind := types[r.Status]; {
	case kind != "":
		return kind
	case r.Status >= 500:
		return types[500]
	}
	return types[400]
}

var openAITypes = map[int]string{
	400: "invalid_request_error", 403: "permission_error", 429: "rate_limit_error", 500: "server_error",
}

var anthropicTypes = map[int]string{
	400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
	413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}

func marshal(v any) []byte {
	text, _ := json.Marshal(v) // structs of strings always can be
	return text
}

func event(name string, data []byte) []byte {
	var e []byte
	if name != "" {
		e = append(append(append(e, "event: "...), name...), '\n')
	}
	return append(append(append(e, "data: "...), data...), "\n\n"...)
}
