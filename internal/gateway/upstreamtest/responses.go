package upstreamtest

import (
	"fmt"
	"strings"
)

// responses answers POST /v1/responses.
func (u *Upstream) responses(x *exchange) {
	if x.body["input"] == nil {
		u.openAIError(x.w, x, 400, "invalid_request_error", "missing_required_parameter", "Missing required parameter: 'input'.")
		return
	}
	x.cap = x.integer("max_output_tokens", -1)
	x.take("openai")
	r := &response{exchange: x, id: u.id("resp_"), item: u.id("msg_"), tool: x.tool()}
	x.serve(func() {
		if x.call.Stream {
			r.stream()
		} else {
			r.whole()
		}
	}, func() {
		r.emit("error", `"code":"server_error","message":"The server had an error while processing your request.","param":null`)
	})
}

// response is one answer of the responses API.
type response struct {
	*exchange
	id, item, tool string
	sequence       int
	reasoning      int
	text           strings.Builder
}

// object is the response in a state of its making.
func (r *response) object(status, output, usage string) string {
	details, completed := "null", "null"
	switch status {
	case "incomplete":
		details = `{"reason":"max_output_tokens"}`
	case "completed":
		completed = fmt.Sprint(created + 1)
	}
	limit := "null"
	if r.cap >= 0 {
		limit = fmt.Sprint(r.cap)
	}
	return fmt.Sprintf(`{"id":%q,"object":"response","created_at":%d,"status":%q,"background":false,"completed_at":%s,"error":null,"incomplete_details":%s,"instructions":%s,"max_output_tokens":%s,"model":%s,"output":[%s],"parallel_tool_calls":true,"previous_response_id":%s,"reasoning":{"effort":null,"summary":null},"service_tier":"default","store":true,"temperature":1.0,"text":{"format":{"type":"text"},"verbosity":"medium"},"tool_choice":"auto","tools":[],"top_p":1.0,"truncation":"disabled","usage":%s,"user":null,"metadata":{}}`,
		r.id, created, status, completed, details, quoted(r.body["instructions"]), limit, quoted(r.call.Model), output, quoted(r.body["previous_response_id"]), usage)
}

func (r *response) usage() string {
	in, out := r.call.Input, r.tokens
	return fmt.Sprintf(`{"input_tokens":%d,"input_tokens_details":{"cached_tokens":%d},"output_tokens":%d,"output_tokens_details":{"reasoning_tokens":%d},"total_tokens":%d}`,
		in, r.call.Cached, out, r.reasoning, in+int64(out))
}

// output is the one item of the answer, as it stands.
func (r *response) output(status string, content string) string {
	if r.tool != "" {
		return fmt.Sprintf(`{"id":%q,"type":"function_call","status":%q,"call_id":"call_0","name":%s,"arguments":%s}`, r.item, status, quoted(r.tool), quoted(content))
	}
	part := ""
	if content != "" {
		part = r.part(content)
	}
	return fmt.Sprintf(`{"id":%q,"type":"message","status":%q,"content":[%s],"role":"assistant"}`, r.item, status, part)
}

func (r *response) part(text string) string {
	return fmt.Sprintf(`{"type":"output_text","annotations":[],"logprobs":[],"text":%s}`, quoted(text))
}

// content is what the item says: text, or a tool's arguments.
func (r *response) content() string {
	if r.tool != "" {
		return arguments(r.text.String())
	}
	return r.text.String()
}

func (r *response) whole() {
	reasoning, left := r.reason()
	r.reasoning = reasoning
	short := r.words(left, func(word string) { r.text.WriteString(word) })
	status := finished(short, "incomplete", "completed")
	r.answer(r.object(status, r.output(status, r.content()), r.usage()))
}

// emit sends an event, numbered.
func (r *response) emit(kind, format string, args ...any) {
	rest := fmt.Sprintf(format, args...)
	r.event(kind, `{"type":%q,%s,"sequence_number":%d}`, kind, rest, r.sequence)
	r.sequence++
}

func (r *response) stream() {
	r.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	begun := `"response":` + r.object("in_progress", "", "null")
	r.emit("response.created", "%s", begun)
	r.emit("response.in_progress", "%s", begun)
	reasoning, left := r.reason()
	r.reasoning = reasoning
	r.emit("response.output_item.added", `"item":%s,"output_index":0`, r.output("in_progress", ""))
	var short bool
	if r.tool != "" {
		short = r.callTool(left)
	} else {
		short = r.speak(left)
	}
	status := finished(short, "incomplete", "completed")
	item := r.output(status, r.content())
	r.emit("response.output_item.done", `"item":%s,"output_index":0`, item)
	r.emit("response."+status, `"response":%s`, r.object(status, item, r.usage()))
}

func (r *response) speak(left int) (short bool) {
	at := fmt.Sprintf(`"content_index":0,"item_id":%q,"output_index":0`, r.item)
	r.emit("response.content_part.added", `%s,"part":%s`, at, r.part(""))
	short = r.words(left, func(word string) {
		r.text.WriteString(word)
		r.emit("response.output_text.delta", `%s,"delta":%s,"logprobs":[],"obfuscation":"abcdefgh"`, at, quoted(word))
	})
	r.emit("response.output_text.done", `%s,"text":%s,"logprobs":[]`, at, quoted(r.text.String()))
	r.emit("response.content_part.done", `%s,"part":%s`, at, r.part(r.text.String()))
	return short
}

func (r *response) callTool(left int) (short bool) {
	at := fmt.Sprintf(`"item_id":%q,"output_index":0`, r.item)
	delta := func(text string) {
		r.emit("response.function_call_arguments.delta", `%s,"delta":%s`, at, quoted(text))
	}
	delta(`{"text":"`)
	short = r.words(left, func(word string) {
		r.text.WriteString(word)
		delta(word)
	})
	delta(`"}`)
	r.emit("response.function_call_arguments.done", `%s,"arguments":%s`, at, quoted(arguments(r.text.String())))
	return short
}
