package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// How much of an answer is held: a whole one until its cost is known, and an error's.
const (
	maxHeld  = 8 << 20
	maxError = 1 << 20
	maxTail  = 16 << 10 // of a longer one, which ends with its usage
)

// buffers are for streams.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

type buffer struct {
	in  [16 << 10]byte
	out []byte
}

// source is an upstream's answer, of which each read moves the call's limit.
type source struct {
	c     *call
	u     *upstream
	began time.Time
	end   context.CancelFunc
	body  io.Reader
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	if n > 0 {
		if s.c.first.IsZero() {
			s.c.first = s.c.p.gate.o.Now()
		}
		s.c.limit(s.u, s.began, s.u.Timeouts.Idle, s.end)
	}
	return n, err
}

// relay passes an answer on, and records the call.
func (c *call) relay(u *upstream, answer *http.Response, began time.Time, end context.CancelFunc) *refusal {
	defer c.stopTimer()
	c.limit(u, began, u.Timeouts.Idle, end)
	from := &source{c, u, began, end, answer.Body}
	switch status := answer.StatusCode; {
	case status >= 400:
		return c.failed(u, answer, from)
	case status < 200 || status >= 300: // a redirect is not followed: it could lead anywhere, with the key
		c.giveBack()
		return refused(badUpstream, "the provider of "+c.answer.Model+" answered with a redirect, which is not followed")
	case eventStream(answer.Header):
		return c.stream(u, answer, from)
	}
	return c.whole(u, answer, from)
}

func eventStream(h http.Header) bool {
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}

// whole passes on an answer that is held until its cost is known, so that a header can say it.
func (c *call) whole(u *upstream, answer *http.Response, from io.Reader) *refusal {
	body, more, err := hold(from, answer.ContentLength, maxHeld)
	if err != nil {
		return c.brokeOff(u, int64(len(body)), err)
	}
	if more {
		return c.tooLong(u, answer, body, from)
	}
	report, _ := usage.FromBody(u.shape, body) // what is not understood is not complete
	span := c.ended(u, seen{report: report, text: int64(len(body))})
	if c.listened() {
		c.said = ingest.Said{Input: c.body, Output: body}
	}
	h := c.w.Header()
	copyHeaders(h, answer.Header)
	setLength(h, len(body))
	if span.Priced && span.UsageComplete {
		h["X-Llm-Cost-This-Request"] = []string{usd(span.Cost)}
	}
	c.settleBy(span)
	c.deadline()
	c.w.WriteHeader(answer.StatusCode)
	_, _ = c.w.Write(body) // an error means that the caller has gone
	c.flushed()
	return nil
}

// hold reads at most limit bytes, and reports whether there is more.
func hold(from io.Reader, length int64, limit int) (body []byte, more bool, err error) {
	body = make([]byte, 0, min(max(length, 4<<10), smallBody)+1)
	for {
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return body, false, nil
		case err != nil:
			return body, false, err
		case len(body) > limit:
			return body, true, nil
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
	}
}

// brokeOff is an answer of which the client has got nothing yet.
func (c *call) brokeOff(u *upstream, text int64, err error) *refusal {
	c.settleBy(c.ended(u, seen{text: text}))
	if c.late.Load() {
		return refused(upstreamLate, "the provider of "+c.answer.Model+" did not answer in time")
	}
	if c.r.Context().Err() == nil {
		c.p.gate.o.Logger.Warn("An upstream broke an answer off", "upstream", u.Name, "model", c.answer.Model, "error", err)
	}
	return refused(badUpstream, "the provider of "+c.answer.Model+" broke its answer off")
}

// tooLong passes on an answer that is too long to hold, such as many embeddings, whose usage stands at its end.
func (c *call) tooLong(u *upstream, answer *http.Response, body []byte, from io.Reader) *refusal {
	h := c.w.Header()
	copyHeaders(h, answer.Header)
	if answer.ContentLength > 0 {
		setLength(h, int(answer.ContentLength))
	}
	c.w.WriteHeader(answer.StatusCode)
	size, end := int64(0), []byte(nil)
	part := body
	var err error
	for err == nil {
		size += int64(len(part))
		end = append(end, part[max(0, len(part)-maxTail):]...)
		end = append(end[:0], end[max(0, len(end)-maxTail):]...)
		c.deadline()
		if _, gone := c.w.Write(part); gone != nil {
			break
		}
		var n int
		n, err = from.Read(body[:cap(body)])
		part = body[:n]
	}
	s := seen{text: size}
	if errors.Is(err, io.EOF) {
		s.report = atTheEnd(u.shape, append(end, part...))
	}
	c.settleBy(c.ended(u, s))
	if !errors.Is(err, io.EOF) {
		panic(http.ErrAbortHandler) // what was said of the length must not come true
	}
	if len(part) > 0 {
		_, _ = c.w.Write(part)
	}
	c.flushed()
	return nil
}

// atTheEnd reads the usage object that is the last of an answer.
func atTheEnd(shape string, text []byte) usage.Report {
	at := bytes.LastIndex(text, []byte(`"usage"`))
	if at < 0 {
		return usage.Report{}
	}
	rest := bytes.TrimLeft(text[at+len(`"usage"`):], ": \t\r\n")
	var object json.RawMessage
	if json.NewDecoder(bytes.NewReader(rest)).Decode(&object) != nil {
		return usage.Report{}
	}
	report, _ := usage.FromUsage(shape, object)
	return report
}

// stream passes a streamed answer on as it comes.
func (c *call) stream(u *upstream, answer *http.Response, from io.Reader) *refusal {
	h := c.w.Header()
	copyHeaders(h, answer.Header)
	h["X-Accel-Buffering"] = []string{"no"} // nor shall a proxy before us hold it back
	c.deadline()
	c.w.WriteHeader(answer.StatusCode)
	meter, _ := usage.NewStream(u.shape) // the shape is known since the upstream was read
	relay := wire.NewRelay(c.api, !c.ask.IncludeUsage, func() string { return c.comment(u, meter.Report()) })
	var words *wire.Words
	if c.listened() {
		words = wire.NewWords(c.api, ingest.MaxText)
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	var err error
	gone := false
	for err == nil && !gone {
		var n int
		n, err = from.Read(b.in[:])
		_, _ = meter.Write(b.in[:n]) // never fails
		if words != nil {
			_, _ = words.Write(b.in[:n]) // nor does this
		}
		b.out = relay.Pass(b.out[:0], b.in[:n])
		gone = c.send(b.out) != nil
	}
	s := seen{report: meter.Report(), text: relay.Text(), hidden: relay.Hidden()}
	if words != nil && errors.Is(err, io.EOF) && !gone { // half an answer is not the model's fault
		c.hear(words)
	}
	c.settleBy(c.ended(u, s))
	switch {
	case gone || c.r.Context().Err() != nil:
		return nil
	case errors.Is(err, io.EOF):
		_ = c.send(relay.Rest(b.out[:0]))
	default:
		c.p.gate.o.Logger.Warn("An upstream broke a stream off", "upstream", u.Name, "model", c.answer.Model, "late", c.late.Load(), "error", err)
		_ = c.send(refused(badUpstream, "the provider broke its answer off").in(c.family, c.name()).Event(c.api))
	}
	c.flushed()
	return nil
}

// listened reports whether somebody has a use for what is said in the call.
func (c *call) listened() bool {
	if c.p.o.Listens == nil || !c.api.Generates() || len(c.body) > ingest.MaxText {
		return false
	}
	span := c.record(c.p.gate.o.Now())
	return c.p.o.Listens(&span)
}

// hear takes what a stream has said.
func (c *call) hear(words *wire.Words) {
	if text, ok := words.Text(); ok && text != "" {
		output, _ := json.Marshal(text) // a text never fails
		c.said = ingest.Said{Input: c.body, Output: output}
	}
}

// comment says what the stream cost, just before it ends.
func (c *call) comment(u *upstream, report usage.Report) string {
	if span := c.ended(u, seen{report: report}); report.Complete && span.Priced {
		return "x-llm-cost-this-request " + usd(span.Cost)
	}
	return ""
}

// send writes a part of a stream, and has it leave at once. An error means that the client takes no more.
func (c *call) send(part []byte) error {
	if len(part) == 0 {
		return nil
	}
	c.deadline()
	if _, err := c.w.Write(part); err != nil {
		return err
	}
	return c.out.Flush()
}

// deadline gives the client its time to take what it is sent next.
func (c *call) deadline() {
	now, d := time.Now(), c.p.o.Gate.WriteTime
	if now.Sub(c.wrote) < d/8 {
		return // the last one does
	}
	c.wrote = now
	_ = c.out.SetWriteDeadline(now.Add(d)) // a test's recorder knows no deadlines
}

// flushed sends what is left, within its time, and leaves the connection without a deadline to whoever uses it next.
func (c *call) flushed() {
	_ = c.out.Flush()
	_ = c.out.SetWriteDeadline(time.Time{})
}

// failed passes an upstream's error on. What providers answer with an error they do not bill; what stands between us
// and them may answer for one that works on, and then the error is none of theirs.
func (c *call) failed(u *upstream, answer *http.Response, from io.Reader) *refusal {
	body, more, err := hold(from, answer.ContentLength, maxError)
	if answer.StatusCode < 500 || busy(answer.StatusCode) || err == nil && theirs(body) {
		c.giveBack()
	} else {
		c.settleBy(c.ended(u, seen{}))
	}
	if err != nil || more {
		return refused(badUpstream, "the provider of "+c.answer.Model+" failed, and did not say why")
	}
	return c.p.passError(c.w, u, answer, body, func() { c.deadline() }, c.flushed)
}

// theirs reports whether an error is in the shape of the families: both have an object of that name.
func theirs(body []byte) bool {
	var e struct {
		Error json.RawMessage `json:"error"`
	}
	return json.Unmarshal(body, &e) == nil && len(e.Error) > 0 && e.Error[0] == '{'
}

// passError passes an upstream's error on, unless it is about our key, or shows it: that concerns whoever runs the
// gateway, and a client would take it for its own.
func (p *Proxy) passError(w http.ResponseWriter, u *upstream, answer *http.Response, body []byte, before, after func()) *refusal {
	if answer.StatusCode == http.StatusUnauthorized || u.key != "" && bytes.Contains(body, []byte(u.key)) {
		p.gate.o.Logger.Error("An upstream does not take the gateway's key", "upstream", u.Name, "status", answer.StatusCode)
		return refused(badUpstream, "the provider does not take the gateway's own key: whoever runs the gateway has to mend that")
	}
	h := w.Header()
	copyHeaders(h, answer.Header)
	setLength(h, len(body))
	before()
	w.WriteHeader(answer.StatusCode)
	_, _ = w.Write(body)
	after()
	return nil
}
