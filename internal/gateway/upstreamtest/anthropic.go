package upstreamtest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// anthropic checks what Anthropic checks of every call.
func (u *Upstream) anthropic(answer func(*exchange)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requestID := u.anthropicHeaders(w)
		key := r.Header.Get("X-Api-Key")
		x, err := u.begin(w, r, key, requestID)
		switch {
		case x == nil:
			u.anthropicError(w, nil, 413, "request_too_large", err.Error())
		case !u.admitted(w, r, x):
		case err != nil:
			u.anthropicError(w, x, 400, "invalid_request_error", err.Error())
		case x.call.Model == "":
			u.anthropicError(w, x, 400, "invalid_request_error", "model: Field required")
		case !u.knows(x.call.Model):
			u.anthropicError(w, x, 404, "not_found_error", "model: "+x.call.Model)
		case x.body["messages"] == nil:
			u.anthropicError(w, x, 400, "invalid_request_error", "messages: Field required")
		default:
			x.failure = u.nextFailure(r.Header)
			if x.failure.Status != 0 {
				retryAfter(w, x.failure)
				u.anthropicFailure(w, x)
				return
			}
			answer(x)
		}
	}
}

// admitted checks the headers that every call must have.
func (u *Upstream) admitted(w http.ResponseWriter, r *http.Request, x *exchange) bool {
	key := r.Header.Get("X-Api-Key")
	switch {
	case key == "":
		u.anthropicError(w, x, 401, "authentication_error", "x-api-key header is required")
	case u.o.Key != "" && key != u.o.Key:
		u.anthropicError(w, x, 401, "authentication_error", "invalid x-api-key")
	case r.Header.Get("Anthropic-Version") == "":
		u.anthropicError(w, x, 400, "invalid_request_error", "anthropic-version: header is required")
	default:
		return true
	}
	return false
}

func (u *Upstream) anthropicHeaders(w http.ResponseWriter) (requestID string) {
	requestID = u.id("req_")
	h := w.Header()
	h.Set("Request-Id", requestID)
	h.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-000000000000")
	reset := time.Unix(created+60, 0).UTC().Format(time.RFC3339)
	for name, limit := range map[string]int{"Requests": 4_000, "Input-Tokens": 2_000_000, "Output-Tokens": 400_000} {
		h.Set("Anthropic-Ratelimit-"+name+"-Limit", fmt.Sprint(limit))
		h.Set("Anthropic-Ratelimit-"+name+"-Remaining", fmt.Sprint(limit-1_000))
		h.Set("Anthropic-Ratelimit-"+name+"-Reset", reset)
	}
	return requestID
}

func (u *Upstream) anthropicError(w http.ResponseWriter, x *exchange, status int, kind, message string) {
	if x != nil {
		x.edit(func(c *Call) { c.Status = status })
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, anthropicErrorBody(kind, message, w.Header().Get("Request-Id")))
}

func anthropicErrorBody(kind, message, requestID string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%s,"message":%s},"request_id":%s}`, quoted(kind), quoted(message), quoted(requestID))
}

func (u *Upstream) anthropicFailure(w http.ResponseWriter, x *exchange) {
	switch status := x.failure.Status; status {
	case 429:
		u.anthropicError(w, x, status, "rate_limit_error", "This request would exceed your organization's rate limit.")
	case 529:
		u.anthropicError(w, x, status, "overloaded_error", "Overloaded")
	default:
		u.anthropicError(w, x, status, "api_error", "Internal server error")
	}
}

// countTokens answers POST /v1/messages/count_tokens, which costs nothing.
func (u *Upstream) countTokens(x *exchange) {
	x.serve(func() { x.answer(fmt.Sprintf(`{"input_tokens":%d}`, u.inputTokens("anthropic", x.body))) }, nil)
}

// messages answers POST /v1/messages.
func (u *Upstream) messages(x *exchange) {
	if x.cap = x.integer("max_tokens", -1); x.cap < 0 {
		u.anthropicError(x.w, x, 400, "invalid_request_error", "max_tokens: Field required")
		return
	}
	x.take("anthropic")
	x.serve(func() {
		if x.call.Stream {
			x.messageStream()
		} else {
			x.messageWhole()
		}
	}, func() {
		x.event("error", "%s", anthropicErrorBody("overloaded_error", "Overloaded", x.call.RequestID))
	})
}

func (x *exchange) messageHead() string {
	return fmt.Sprintf(`"model":%s,"id":%q,"type":"message","role":"assistant"`, quoted(x.call.Model), x.u.id("msg_01"))
}

// messageUsage is the usage so far. Anthropic's input_tokens leave cached ones out.
func (x *exchange) messageUsage(output int) string {
	return fmt.Sprintf(`{"input_tokens":%d,"cache_creation_input_tokens":0,"cache_read_input_tokens":%d,"cache_creation":{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":0},"output_tokens":%d,"service_tier":"standard"}`,
		x.call.Input-x.call.Cached, x.call.Cached, output)
}

func (x *exchange) messageWhole() {
	head, tool, text := x.messageHead(), x.tool(), strings.Builder{}
	_, left := x.reason()
	short := x.words(left, func(word string) { text.WriteString(word) })
	content := fmt.Sprintf(`{"type":"text","text":%s}`, quoted(text.String()))
	end := "end_turn"
	if tool != "" {
		content, end = fmt.Sprintf(`{"type":"tool_use","id":"toolu_010","name":%s,"input":%s}`, quoted(tool), arguments(text.String())), "tool_use"
	}
	x.answer(fmt.Sprintf(`{%s,"content":[%s],"stop_reason":%q,"stop_sequence":null,"usage":%s}`, head, content, finished(short, "max_tokens", end), x.messageUsage(x.tokens)))
}

func (x *exchange) messageStream() {
	x.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	x.event("message_start", `{"type":"message_start","message":{%s,"content":[],"stop_reason":null,"stop_sequence":null,"usage":%s}}`, x.messageHead(), x.messageUsage(1))
	tool := x.tool()
	block, kind, field, end := `{"type":"text","text":""}`, "text_delta", "text", "end_turn"
	if tool != "" {
		block, kind, field, end = fmt.Sprintf(`{"type":"tool_use","id":"toolu_010","name":%s,"input":{}}`, quoted(tool)), "input_json_delta", "partial_json", "tool_use"
	}
	_, left := x.reason()
	x.event("content_block_start", `{"type":"content_block_start","index":0,"content_block":%s}`, block)
	x.event("ping", `{"type": "ping"}`)
	delta := func(text string) {
		x.event("content_block_delta", `{"type":"content_block_delta","index":0,"delta":{"type":%q,%q:%s}}`, kind, field, quoted(text))
	}
	if tool != "" {
		delta(`{"text":"`)
	}
	short := x.words(left, delta)
	if tool != "" && !short {
		delta(`"}`)
	}
	x.event("content_block_stop", `{"type":"content_block_stop","index":0}`)
	x.event("message_delta", `{"type":"message_delta","delta":{"stop_reason":%q,"stop_sequence":null},"usage":%s}`, finished(short, "max_tokens", end), x.messageUsage(x.tokens))
	x.event("message_stop", `{"type":"message_stop"}`)
}

func (u *Upstream) anthropicModels(w http.ResponseWriter, r *http.Request, names []string) {
	u.anthropicHeaders(w)
	if !u.admitted(w, r, nil) {
		return
	}
	entry := func(name string) string {
		return fmt.Sprintf(`{"type":"model","id":%s,"display_name":%s,"created_at":%q}`, quoted(name), quoted(name), madeAt())
	}
	u.listOrOne(w, r, names, entry, func(entries []string) string {
		return fmt.Sprintf(`{"data":[%s],"has_more":false,"first_id":%s,"last_id":%s}`, strings.Join(entries, ","), quoted(names[0]), quoted(names[len(names)-1]))
	}, func(id string) {
		u.anthropicError(w, nil, 404, "not_found_error", "model: "+id)
	})
}
