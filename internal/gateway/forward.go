package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/wire"
)

// suffixes are where behind an upstream's address the endpoints are.
var suffixes = map[wire.API]string{
	wire.Chat: "/chat/completions", wire.Responses: "/responses", wire.Embeddings: "/embeddings",
	wire.Messages: "/messages", wire.CountTokens: "/messages/count_tokens",
}

// again is after how long an upstream that could not be reached is dialled once more.
const again = 100 * time.Millisecond

// forward asks the upstreams in turn, and answers with what the first one says. A call is made again, there or
// elsewhere, only where it cannot have been worked on: no connection came about, or the upstream said that it does not
// take it now (429, 503, 529), which neither provider bills.
func (c *call) forward() *refusal {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { c.sent.Store(true) }})
	body := c.ask.Apply(wire.Edit{Model: c.answer.Model, IncludeUsage: true, MaxOutput: c.cap})
	c.tell()
	began := time.Now()
	var failed error
	for i, u := range c.chain {
		c.limit(u, began, u.Timeouts.FirstByte, cancel)
		last := i == len(c.chain)-1
		for try := 0; ; try++ {
			c.sent.Store(false)
			answer, err := u.transport.RoundTrip(outgoing(ctx, c.r, u, suffixes[c.api], body))
			if err == nil && (last || !busy(answer.StatusCode)) {
				defer answer.Body.Close()
				return c.relay(u, answer, began, cancel)
			}
			if err == nil { // somebody else may take it
				discard(answer)
				break
			}
			if failed = err; c.sent.Load() || ctx.Err() != nil {
				return c.lost(u, err)
			}
			if !last || try > 0 {
				break
			}
			wait(ctx, again)
		}
	}
	c.stopTimer()
	c.giveBack()
	c.p.gate.o.Logger.Warn("No upstream of a model can be reached", "model", c.answer.Model, "error", failed)
	return refused(badUpstream, "the provider of "+c.answer.Model+" cannot be reached: try again").after(time.Second)
}

// limit ends the call unless it is told otherwise within d, or at the end of the whole time that the upstream has.
func (c *call) limit(u *upstream, began time.Time, d time.Duration, end context.CancelFunc) {
	if d = min(d, u.Timeouts.Whole-time.Since(began)); c.timer == nil {
		c.timer = time.AfterFunc(d, func() { c.late.Store(true); end() })
		return
	}
	c.timer.Reset(d)
}

func (c *call) stopTimer() {
	if c.timer != nil {
		c.timer.Stop()
	}
}

// busy reports whether a status says that the call was not worked on and may be made later: rate limits and overload.
func busy(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable || status == 529
}

// discard reads the little that an answer says, so that its connection can be used again.
func discard(answer *http.Response) {
	_, _ = io.CopyN(io.Discard, answer.Body, 64<<10)
	_ = answer.Body.Close()
}

// lost ends a call that got no answer. Where it may have been worked on it is recorded at its worst.
func (c *call) lost(u *upstream, err error) *refusal {
	c.stopTimer()
	if c.sent.Load() {
		c.settleBy(c.ended(u, seen{}))
	} else {
		c.giveBack()
	}
	switch {
	case c.late.Load():
		return refused(upstreamLate, "the provider of "+c.answer.Model+" did not begin to answer in time")
	case c.r.Context().Err() != nil:
		return refused(badRequest, "the caller has gone") // who does not read this
	}
	c.p.gate.o.Logger.Warn("An upstream broke a call off", "upstream", u.Name, "model", c.answer.Model, "error", err)
	return refused(badUpstream, "the provider of "+c.answer.Model+" broke the call off, which may have cost its tokens all the same")
}

// outgoing is a client's request as an upstream gets it.
func outgoing(ctx context.Context, r *http.Request, u *upstream, suffix string, body []byte) *http.Request {
	to := *u.base
	to.Path, to.RawPath, to.RawQuery = u.base.Path+suffix, "", r.URL.RawQuery
	if strings.Contains(suffix, "%") {
		to.RawPath = to.Path
		to.Path, _ = url.PathUnescape(to.Path) // it was escaped when it came
	}
	h := passed(r.Header)
	h["Accept-Encoding"] = identity // usage is read as it passes by
	u.authorize(h)
	out := &http.Request{Method: r.Method, URL: &to, Host: u.base.Host, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if r.Method != http.MethodGet {
		out.ContentLength = int64(len(body))
		// Where a connection turns out to be closed before anything was written to it, the transport dials anew.
		out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		out.Body, _ = out.GetBody()
	}
	return out.WithContext(ctx)
}

var identity = []string{"identity"}

// kept are the headers of a request that are between the client and us, or between us and an upstream.
var kept = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Expect": true, "Content-Length": true, "Content-Encoding": true, "Accept-Encoding": true, "Host": true,
	"Authorization": true, "Proxy-Authorization": true, "X-Api-Key": true, "Api-Key": true, "X-Goog-Api-Key": true, "Cookie": true,
	"Openai-Organization": true, "Openai-Project": true, // of an account that is not ours
	"Forwarded": true, "Via": true, "X-Real-Ip": true, "Origin": true, "Referer": true,
	"Idempotency-Key": true, "X-Idempotency-Key": true,
}

// passed are a client's headers as an upstream gets them.
func passed(from http.Header) http.Header {
	h := make(http.Header, len(from)+4)
	named := from["Connection"]
	for name, values := range from {
		if kept[name] || strings.HasPrefix(name, "X-Llm-") || strings.HasPrefix(name, "X-Forwarded-") || names(named, name) {
			continue
		}
		h[name] = values
	}
	if key, ok := from["Idempotency-Key"]; ok {
		// Under this spelling, which is the same one to a server, Go's transport does not take it for leave to send a
		// call again that may have been worked on.
		h["idempotency-key"] = key
	}
	if _, ok := h["User-Agent"]; !ok {
		h["User-Agent"] = nil // no word of ours in its place
	}
	return h
}

// names reports whether a list of header names, as Connection has, names one.
func names(lists []string, name string) bool {
	for _, list := range lists {
		for one := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(one), name) {
				return true
			}
		}
	}
	return false
}

// private are the headers of an answer that are between an upstream and us.
var private = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Content-Length": true, "Set-Cookie": true, "Alt-Svc": true, "Strict-Transport-Security": true, "Proxy-Authenticate": true, "Www-Authenticate": true,
	"Openai-Organization": true, "Openai-Project": true, "Anthropic-Organization-Id": true,
	"Ratelimit": true, "Ratelimit-Policy": true,
}

// copyHeaders gives the client an answer's headers.
func copyHeaders(to, from http.Header) {
	named := from["Connection"]
	for name, values := range from {
		if private[name] || strings.HasPrefix(name, "X-Llm-") || strings.HasPrefix(name, "Access-Control-") || names(named, name) {
			continue
		}
		to[name] = values
	}
}

func setLength(h http.Header, n int) { h["Content-Length"] = []string{strconv.Itoa(n)} }
