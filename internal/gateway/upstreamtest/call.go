package upstreamtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// maxBody is what the providers take: Anthropic's limit is 32 MB, OpenAI's is above it.
const maxBody = 32 << 20

// exchange is one call that is being answered.
type exchange struct {
	u       *Upstream
	w       http.ResponseWriter
	ctx     context.Context
	call    *Call
	body    map[string]any
	failure Failure
	tokens  int // generated so far
	cap     int // tokens for each choice; -1: none
}

// begin reads a call, and records it.
func (u *Upstream) begin(w http.ResponseWriter, r *http.Request, key, requestID string) (*exchange, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, err
	}
	x := &exchange{u: u, w: w, ctx: r.Context(), cap: -1}
	x.call = &Call{Path: r.URL.Path, Header: r.Header, Body: raw, Key: key, RequestID: requestID, Status: http.StatusOK}
	u.mu.Lock()
	u.kept = append(u.kept, x.call)
	u.mu.Unlock()
	if err := json.Unmarshal(raw, &x.body); err != nil {
		return x, fmt.Errorf("we could not parse the JSON body of your request: %w", err)
	}
	x.edit(func(c *Call) {
		c.Model, _ = x.body["model"].(string)
		c.Stream, _ = x.body["stream"].(bool)
	})
	return x, nil
}

// edit changes the record of the call, which others may be reading.
func (x *exchange) edit(change func(*Call)) {
	x.u.mu.Lock()
	defer x.u.mu.Unlock()
	change(x.call)
}

// take spends the input: from here on the call costs.
func (x *exchange) take(family string) {
	input := int64(x.u.inputTokens(family, x.body))
	cached := min(input, int64(x.u.o.CachedTokens))
	x.edit(func(c *Call) { c.Input, c.Cached = input, cached })
	x.u.calls.Add(1)
	x.u.input.Add(input)
}

// wait lets time pass, and reports whether the client is still there.
func (x *exchange) wait(d time.Duration) bool {
	if d <= 0 {
		return x.ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-x.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// errGone ends a call whose client is gone, or whose connection is to break.
type errGone struct{}

// generate spends one token, unless the client is gone or the call fails here.
func (x *exchange) generate() {
	if !x.wait(x.u.o.Pace) {
		panic(errGone{})
	}
	if x.failure.Cut > 0 && x.tokens >= x.failure.Cut {
		if f, ok := x.w.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	x.tokens++
	x.u.output.Add(1)
	x.edit(func(c *Call) { c.Output++ })
}

// reason spends the tokens that nobody sees, and returns how many are left of the cap.
func (x *exchange) reason() (reasoning, left int) {
	left = x.cap
	if left < 0 {
		left = 1 << 30
	}
	reasoning = min(x.u.o.ReasoningTokens, left)
	for range reasoning {
		x.generate()
	}
	return reasoning, left - reasoning
}

// words generates the text of an answer, of at most left tokens, and calls each with every token of it. It reports
// whether the answer was cut short.
func (x *exchange) words(left int, each func(word string)) (short bool) {
	want := x.u.o.OutputTokens
	for i := range min(want, left) {
		if x.failure.Err > 0 && x.tokens >= x.failure.Err {
			panic(errMidway{})
		}
		x.generate()
		each(x.u.word(i))
	}
	return want > left
}

// errMidway ends a stream in an error event.
type errMidway struct{}

var vocabulary = strings.Fields("the governor holds a steady speed while load and price keep changing under it")

// word is the text of a token of an answer: at least a byte, as every provider's.
func (u *Upstream) word(i int) string {
	if u.o.BytesPerToken == 1 {
		return "x"
	}
	word := vocabulary[i%len(vocabulary)]
	if i == 0 {
		return word
	}
	return " " + word
}

// answer writes a whole answer at once.
func (x *exchange) answer(body string) {
	x.w.Header().Set("Content-Type", "application/json")
	if _, err := io.WriteString(x.w, body); err != nil {
		panic(errGone{})
	}
}

// event writes one event of a stream, and sends it.
func (x *exchange) event(name, format string, args ...any) {
	var b strings.Builder
	if name != "" {
		b.WriteString("event: " + name + "\n")
	}
	b.WriteString("data: ")
	fmt.Fprintf(&b, format, args...)
	b.WriteString("\n\n")
	if _, err := io.WriteString(x.w, b.String()); err != nil {
		panic(errGone{})
	}
	if f, ok := x.w.(http.Flusher); ok {
		f.Flush()
	}
}

// serve runs answer, and ends it as it is to end.
func (x *exchange) serve(answer, midway func()) {
	defer func() {
		switch ended := recover().(type) {
		case nil:
			x.edit(func(c *Call) { c.Whole = true })
		case errGone:
		case errMidway:
			midway()
		default:
			panic(ended)
		}
	}()
	if x.failure.Hang > 0 && !x.wait(x.failure.Hang) {
		return
	}
	answer()
}

// quoted writes a value as JSON, as servers do that are not made for browsers.
func quoted(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v)
	return strings.TrimSuffix(b.String(), "\n")
}
