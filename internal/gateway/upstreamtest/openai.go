package upstreamtest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
)

// created is when every answer was made: answers are the same on every run.
const created = 1_764_115_200

// openAI checks what OpenAI checks of every call.
func (u *Upstream) openAI(answer func(*exchange)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requestID := u.openAIHeaders(w)
		key, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		x, err := u.begin(w, r, key, requestID)
		switch {
		case x == nil:
			u.openAIError(w, nil, 413, "invalid_request_error", "request_too_large", err.Error())
		case !bearer || key == "":
			u.openAIError(w, x, 401, "invalid_request_error", "", "You didn't provide an API key.")
		case u.o.Key != "" && key != u.o.Key:
			u.openAIError(w, x, 401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided.")
		case err != nil:
			u.openAIError(w, x, 400, "invalid_request_error", "", err.Error())
		case x.call.Model == "":
			u.openAIError(w, x, 400, "invalid_request_error", "", "you must provide a model parameter")
		case !u.knows(x.call.Model):
			u.openAIError(w, x, 404, "invalid_request_error", "model_not_found", "The model `"+x.call.Model+"` does not exist or you do not have access to it.")
		default:
			x.failure = u.nextFailure(r.Header)
			if x.failure.Status != 0 {
				u.openAIFailure(w, x)
				return
			}
			answer(x)
		}
	}
}

func (u *Upstream) openAIHeaders(w http.ResponseWriter) (requestID string) {
	requestID = u.id("req_")
	h := w.Header()
	h.Set("X-Request-Id", requestID)
	h.Set("Openai-Processing-Ms", "5")
	h.Set("Openai-Version", "2020-10-01")
	h.Set("X-Ratelimit-Limit-Requests", "10000")
	h.Set("X-Ratelimit-Remaining-Requests", "9999")
	h.Set("X-Ratelimit-Reset-Requests", "6ms")
	h.Set("X-Ratelimit-Limit-Tokens", "2000000")
	h.Set("X-Ratelimit-Remaining-Tokens", "1999000")
	h.Set("X-Ratelimit-Reset-Tokens", "30ms")
	return requestID
}

func (u *Upstream) openAIError(w http.ResponseWriter, x *exchange, status int, kind, code, message string) {
	var orNull any
	if code != "" {
		orNull = code
	}
	if x != nil {
		x.edit(func(c *Call) { c.Status = status })
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":{"message":%s,"type":%s,"param":null,"code":%s}}`, quoted(message), quoted(kind), quoted(orNull))
}

func (u *Upstream) openAIFailure(w http.ResponseWriter, x *exchange) {
	retryAfter(w, x.failure)
	switch status := x.failure.Status; status {
	case 429:
		u.openAIError(w, x, status, "requests", "rate_limit_exceeded", "Rate limit reached for requests.")
	case 503:
		u.openAIError(w, x, status, "server_error", "", "The server is overloaded or not ready yet.")
	default:
		u.openAIError(w, x, status, "server_error", "", "The server had an error while processing your request.")
	}
}

func retryAfter(w http.ResponseWriter, f Failure) {
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(math.Ceil(f.RetryAfter.Seconds())))
		w.Header().Set("Retry-After-Ms", fmt.Sprint(f.RetryAfter.Milliseconds()))
	}
}

// integer reads a whole number of the body's; otherwise it is what is given.
func (x *exchange) integer(name string, otherwise int) int {
	if n, ok := x.body[name].(float64); ok {
		return int(n)
	}
	return otherwise
}

// tool is the name of the tool that the answer shall call; empty: none.
func (x *exchange) tool() string {
	tools, _ := x.body["tools"].([]any)
	if !x.u.o.CallTools || len(tools) == 0 {
		return ""
	}
	tool, _ := tools[0].(map[string]any)
	if f, ok := tool["function"].(map[string]any); ok {
		tool = f
	}
	name, _ := tool["name"].(string)
	return name
}

// chat answers POST /v1/chat/completions.
func (u *Upstream) chat(x *exchange) {
	x.cap = x.integer("max_completion_tokens", x.integer("max_tokens", -1))
	options, _ := x.body["stream_options"].(map[string]any)
	_, old := x.body["max_tokens"]
	switch {
	case x.body["messages"] == nil:
		u.openAIError(x.w, x, 400, "invalid_request_error", "missing_required_parameter", "Missing required parameter: 'messages'.")
		return
	case old && (strings.HasPrefix(x.call.Model, "o") || strings.HasPrefix(x.call.Model, "gpt-5")):
		u.openAIError(x.w, x, 400, "invalid_request_error", "unsupported_parameter", "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
		return
	case options != nil && !x.call.Stream:
		u.openAIError(x.w, x, 400, "invalid_request_error", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
		return
	}
	x.take("openai")
	x.serve(func() {
		if x.call.Stream {
			x.chatStream(options["include_usage"] == true)
		} else {
			x.chatWhole()
		}
	}, func() {
		x.event("", `{"error":{"message":"The server had an error while processing your request.","type":"server_error","param":null,"code":null}}`)
	})
}

func (x *exchange) chatWhole() {
	id := x.u.id("chatcmpl-")
	var choices []string
	reasoned := 0
	for i := range x.integer("n", 1) {
		var text strings.Builder
		var message string
		reasoning, left := x.reason()
		reasoned += reasoning
		short := x.words(left, func(word string) { text.WriteString(word) })
		finish := finished(short, "length", "stop")
		if tool := x.tool(); tool != "" {
			finish = finished(short, "length", "tool_calls")
			message = fmt.Sprintf(`"content":null,"tool_calls":[{"id":"call_%d","type":"function","function":{"name":%s,"arguments":%s}}]`, i, quoted(tool), quoted(arguments(text.String())))
		} else {
			message = `"content":` + quoted(text.String())
		}
		choices = append(choices, fmt.Sprintf(`{"index":%d,"message":{"role":"assistant",%s,"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":%q}`, i, message, finish))
	}
	x.answer(fmt.Sprintf(`{"id":%q,"object":"chat.completion","created":%d,"model":%s,"choices":[%s],"usage":%s,"service_tier":"default","system_fingerprint":"fp_0123456789"}`,
		id, created, quoted(x.call.Model), strings.Join(choices, ","), x.chatUsage(reasoned)))
}

// arguments are a tool's arguments that contain a text, as JSON.
func arguments(text string) string { return `{"text":` + quoted(text) + `}` }

func finished(short bool, cut, whole string) string {
	if short {
		return cut
	}
	return whole
}

func (x *exchange) chatUsage(reasoning int) string {
	in, out := x.call.Input, x.tokens
	return fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,"prompt_tokens_details":{"cached_tokens":%d,"audio_tokens":0},"completion_tokens_details":{"reasoning_tokens":%d,"audio_tokens":0,"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		in, out, in+int64(out), x.call.Cached, reasoning)
}

func (x *exchange) chatStream(includeUsage bool) {
	x.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	head := fmt.Sprintf(`"id":%q,"object":"chat.completion.chunk","created":%d,"model":%s,"service_tier":"default","system_fingerprint":"fp_0123456789"`, x.u.id("chatcmpl-"), created, quoted(x.call.Model))
	usage := ""
	if includeUsage {
		usage = `,"usage":null`
	}
	chunk := func(choice int, delta, finish string) {
		x.event("", `{%s,"choices":[{"index":%d,"delta":%s,"logprobs":null,"finish_reason":%s}]%s}`, head, choice, delta, finish, usage)
	}
	reasoned := 0
	for i := range x.integer("n", 1) {
		tool := x.tool()
		reasoning, left := x.reason()
		reasoned += reasoning
		end := "stop"
		piece := func(word string) { chunk(i, `{"content":`+quoted(word)+`}`, "null") }
		if tool == "" {
			chunk(i, `{"role":"assistant","content":"","refusal":null}`, "null")
		} else {
			end = "tool_calls"
			chunk(i, fmt.Sprintf(`{"role":"assistant","content":null,"tool_calls":[{"index":0,"id":"call_%d","type":"function","function":{"name":%s,"arguments":""}}],"refusal":null}`, i, quoted(tool)), "null")
			argument := func(text string) {
				chunk(i, `{"tool_calls":[{"index":0,"function":{"arguments":`+quoted(text)+`}}]}`, "null")
			}
			argument(`{"text":"`)
			piece = argument
		}
		short := x.words(left, piece)
		if tool != "" && !short {
			piece(`"}`)
		}
		chunk(i, `{}`, quoted(finished(short, "length", end)))
	}
	if includeUsage {
		x.event("", `{%s,"choices":[],"usage":%s}`, head, x.chatUsage(reasoned))
	}
	x.event("", "[DONE]")
}

// embeddings answers POST /v1/embeddings.
func (u *Upstream) embeddings(x *exchange) {
	if list, ok := x.body["input"].([]any); x.body["input"] == nil || x.body["input"] == "" || ok && (len(list) == 0 || len(list) > 2048 || slices.Contains(list, any(""))) {
		u.openAIError(x.w, x, 400, "invalid_request_error", "", "'$.input' is invalid.")
		return
	}
	x.take("openai")
	x.serve(func() {
		n := 1
		if list, ok := x.body["input"].([]any); ok && len(list) > 0 {
			if _, tokens := list[0].(float64); !tokens {
				n = len(list)
			}
		}
		vector := "[0.0125,-0.25,0.5,0.0625]"
		if x.body["encoding_format"] == "base64" {
			vector = `"AABAPAAAgL4AAAA/AACAPQ=="`
		}
		entries := make([]string, n)
		for i := range entries {
			if u.o.Embed != nil {
				vector = x.embedding(i)
			}
			entries[i] = fmt.Sprintf(`{"object":"embedding","index":%d,"embedding":%s}`, i, vector)
		}
		x.answer(fmt.Sprintf(`{"object":"list","data":[%s],"model":%s,"usage":{"prompt_tokens":%d,"total_tokens":%d}}`,
			strings.Join(entries, ","), quoted(x.call.Model), x.call.Input, x.call.Input))
	}, nil)
}

// embedding is the vector of the input's nth text.
func (x *exchange) embedding(n int) string {
	text, _ := x.body["input"].(string)
	if list, ok := x.body["input"].([]any); ok {
		text, _ = list[n].(string)
	}
	values := x.u.o.Embed(text)
	if most, ok := x.body["dimensions"].(float64); ok {
		values = values[:min(int(most), len(values))]
	}
	vector, _ := json.Marshal(values)
	return string(vector)
}

// models answers GET /v1/models of either family: whose it is shows in the headers.
func (u *Upstream) models(w http.ResponseWriter, r *http.Request) {
	anthropic := r.Header.Get("Anthropic-Version") != "" || r.Header.Get("X-Api-Key") != ""
	names := u.o.Models
	if len(names) == 0 {
		names = []string{"gpt-4o", "gpt-4o-mini"}
		if anthropic {
			names = []string{"claude-sonnet-4-5", "claude-haiku-4-5"}
		}
	}
	if anthropic {
		u.anthropicModels(w, r, names)
		return
	}
	u.openAIHeaders(w)
	if key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); !ok || u.o.Key != "" && key != u.o.Key {
		u.openAIError(w, nil, 401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided.")
		return
	}
	entry := func(name string) string {
		return fmt.Sprintf(`{"id":%s,"object":"model","created":%d,"owned_by":"system"}`, quoted(name), created)
	}
	u.listOrOne(w, r, names, entry, func(entries []string) string {
		return `{"object":"list","data":[` + strings.Join(entries, ",") + `]}`
	}, func(id string) {
		u.openAIError(w, nil, 404, "invalid_request_error", "model_not_found", "The model '"+id+"' does not exist")
	})
}

// listOrOne answers with all models, or the one that the path names.
func (u *Upstream) listOrOne(w http.ResponseWriter, r *http.Request, names []string, entry func(string) string, list func([]string) string, missing func(id string)) {
	id := r.PathValue("id")
	var entries []string
	for _, name := range names {
		if id == "" || id == name {
			entries = append(entries, entry(name))
		}
	}
	switch {
	case id == "":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, list(entries))
	case len(entries) == 0:
		missing(id)
	default:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, entries[0])
	}
}

// madeAt is created as Anthropic writes times.
func madeAt() string { return time.Unix(created, 0).UTC().Format(time.RFC3339) }
