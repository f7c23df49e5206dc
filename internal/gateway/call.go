package gateway

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// DefaultTenant is whose calls are that come from a program on this machine, without a key, and say no other.
const DefaultTenant = "default"

// The headers by which a client says more of a call. None of them goes to a provider.
const (
	headerTenant   = "X-Llm-Tenant" // only where there are no keys
	headerSession  = "X-Llm-Session"
	headerTask     = "X-Llm-Task"
	headerTemplate = "X-Llm-Template"
	headerTags     = "X-Llm-Tags" // name=value, …
)

// call is one call of a model on its way.
type call struct {
	p   *Proxy
	w   http.ResponseWriter
	r   *http.Request
	out *http.ResponseController

	api    wire.API
	family wire.Family
	began  time.Time
	wrote  time.Time // when the deadline for writing was last moved

	tenant, key             string
	trace, span             string
	session, task, template string
	tags                    map[string]string
	body                    []byte
	ask                     *wire.Request
	answer                  routing.Answer
	chain                   []*upstream
	cost                    costs
	promise                 treasury.Promise
	cap                     int64       // of its output, injected; 0: none
	sent                    atomic.Bool // an upstream may have begun to work on it
	said                    ingest.Said // what was asked and answered, where somebody has a use for it
	first                   time.Time   // when the first byte of the answer came
	timer                   *time.Timer // ends the call
	late                    atomic.Bool // it did
}

// id names the call: as a promise, and, with a dash, to its caller.
func (c *call) id() string   { return c.trace + "/" + c.span }
func (c *call) name() string { return c.trace + "-" + c.span }

// model handles the calls of an endpoint that costs money.
func (p *Proxy) model(api wire.API) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{p: p, w: w, r: r, out: http.NewResponseController(w), api: api, family: api.Family(), began: p.gate.o.Now()}
		no := p.enter()
		if no == nil {
			defer p.leave()
			no = c.serve()
		}
		if no != nil {
			c.refuse(no)
		}
	})
}

// refuse answers a call that is not made. It is no call, and so nothing of it is recorded.
func (c *call) refuse(no *refusal) {
	if c.trace != "" {
		c.w.Header()["X-Llm-Request-Id"] = []string{c.name()}
	}
	c.deadline()
	no.write(c.w, c.family, c.name())
	c.flushed()
}

// serve takes a call all the way.
func (c *call) serve() (no *refusal) {
	if c.tenant, c.key, no = c.p.admit(c.r); no != nil {
		return no
	}
	if no = c.identify(); no != nil {
		return no
	}
	if no = c.read(); no != nil {
		return no
	}
	if no = c.decide(); no != nil {
		return no
	}
	if no = c.hold(); no != nil {
		return no
	}
	return c.forward()
}

// admit finds whose key the request brings. Where there are no keys, programs on this machine are let in.
func (p *Proxy) admit(r *http.Request) (tenant, key string, no *refusal) {
	caller, err := p.o.Door.Admit(r, ingest.ScopeCalls, p.gate.o.Now())
	if err == nil {
		if caller.Name == "" && caller.Tenant == "" { // no key: loopback
			tenant = r.Header.Get(headerTenant)
			if tenant == "" {
				return DefaultTenant, "", nil
			}
			return tenant, "", checkHeader(headerTenant, tenant)
		}
		return caller.Tenant, caller.Name, nil
	}
	status, retry := ingest.StatusOf(err)
	switch {
	case errors.Is(err, ingest.ErrNoToken):
		return "", "", refused(badKey, "send a valid virtual key, as Authorization: Bearer … or x-api-key: flyball token new --scope calls --tenant … makes one")
	case status == http.StatusUnauthorized:
		return "", "", refused(badKey, err.Error())
	case status == http.StatusTooManyRequests:
		return "", "", refused(rateLimited, err.Error()).after(retry)
	}
	return "", "", refused(forbidden, err.Error())
}

// maxHeader bounds what a client says in one header, in bytes: names of telemetry are no longer.
const maxHeaderName = 256

func checkHeader(name, value string) *refusal {
	if len(value) > maxHeaderName || !utf8.ValidString(value) || strings.ContainsFunc(value, unicode.IsControl) {
		return refused(badRequest, fmt.Sprintf("the header %s is not plain text of at most %d bytes", name, maxHeaderName))
	}
	return nil
}

// identify reads what the headers say of the call, and gives it its ids.
func (c *call) identify() *refusal {
	h := c.r.Header
	for _, x := range [...]struct {
		name string
		to   *string
	}{{headerSession, &c.session}, {headerTask, &c.task}, {headerTemplate, &c.template}} {
		if said := h[x.name]; len(said) > 0 {
			if *x.to = said[0]; checkHeader(x.name, said[0]) != nil {
				return checkHeader(x.name, said[0])
			}
		}
	}
	if said := h[headerTags]; len(said) > 0 {
		if c.tags = tags(said[0]); c.tags == nil {
			return refused(badRequest, "the header X-LLM-Tags is not name=value, name=value: at most 32 of them, of at most 128 and 256 bytes")
		}
	}
	var random [24]byte
	_, _ = rand.Read(random[:]) // never fails
	var text [48]byte
	hex.Encode(text[:], random[:])
	ids := string(text[:])
	c.trace, c.span = ids[:32], ids[32:]
	if parent := h["Traceparent"]; len(parent) > 0 {
		if trace := traceOf(parent[0]); trace != "" {
			c.trace = trace
		}
	}
	return nil
}

// tags reads the header of tags; nil: it cannot be.
func tags(text string) map[string]string {
	list := strings.Split(text, ",")
	read := make(map[string]string, len(list))
	for _, pair := range list {
		name, value, ok := strings.Cut(strings.TrimSpace(pair), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || len(list) > 32 || len(name) > 128 || checkHeader("", value) != nil || checkHeader("", name) != nil {
			return nil
		}
		read[name] = value
	}
	return read
}

// traceOf is the trace id of a W3C traceparent; empty: it is not valid.
func traceOf(parent string) string {
	// version "-" trace-id "-" parent-id "-" flags; later versions may say more behind that
	if len(parent) < 55 || parent[2] != '-' || parent[35] != '-' || parent[52] != '-' || parent[:2] == "ff" || len(parent) > 55 && (parent[:2] == "00" || parent[55] != '-') {
		return ""
	}
	zero := true
	for _, b := range []byte(parent[3:35]) {
		if !(b >= '0' && b <= '9' || b >= 'a' && b <= 'f') {
			return ""
		}
		zero = zero && b == '0'
	}
	if zero {
		return ""
	}
	return parent[3:35]
}

// read reads the body, and what it asks for.
func (c *call) read() *refusal {
	if e := c.r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return refused(encoded, "the body is compressed, which the providers do not take either: send it as it is")
	}
	var no *refusal
	if c.body, no = c.p.body(c.w, c.out, c.r); no != nil {
		return no
	}
	var err error
	if c.ask, err = wire.Read(c.api, c.body); err != nil {
		return refused(badRequest, err.Error())
	}
	switch model := c.ask.Model; {
	case model == usage.AnyModel || strings.Contains(model, usage.ExperimentMark):
		return refused(noModel, fmt.Sprintf("%q is no model", model))
	case c.ask.Background:
		return refused(badRequest, "background: the gateway could not see what such a call costs; leave it out")
	}
	if c.session == "" && checkHeader("", c.ask.Session) == nil {
		c.session = c.ask.Session
	}
	return nil
}

// smallBody is how much memory a body gets at once by its own word.
const smallBody = 1 << 20

// body reads a bounded body that must come in time.
func (p *Proxy) body(w http.ResponseWriter, out *http.ResponseController, r *http.Request) ([]byte, *refusal) {
	limit := p.o.Gate.MaxBody
	large := refused(tooLarge, fmt.Sprintf("the body is larger than %d bytes", limit))
	if r.ContentLength > limit {
		return nil, large
	}
	_ = out.SetReadDeadline(time.Now().Add(p.o.Gate.BodyTime)) // a test's recorder knows no deadlines
	defer func() { _ = out.SetReadDeadline(time.Time{}) }()    // else it would end the call itself
	body := make([]byte, 0, min(max(r.ContentLength, 512), smallBody)+1)
	from := http.MaxBytesReader(w, r.Body, limit)
	for {
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		var over *http.MaxBytesError
		switch {
		case errors.Is(err, io.EOF):
			return body, nil
		case errors.As(err, &over):
			return nil, large
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, refused(slowBody, fmt.Sprintf("the body did not come within %s", p.o.Gate.BodyTime))
		case err != nil:
			return nil, refused(badRequest, "the body broke off")
		}
		if len(body) == cap(body) {
			body = append(body, 0)[:len(body)]
		}
	}
}

// decide asks flags and policies which model serves the call, and finds who has it.
func (c *call) decide() *refusal {
	p := c.p
	said := c.tags
	c.answer, c.tags = p.gate.Route(Call{Request: c.request(), Text: c.ask.Text, Estimate: c.estimate, Tags: said}, c.began)
	if c.answer.Stop {
		c.w.Header()["X-Llm-Route"] = []string{c.answer.Route}
		message := fmt.Sprintf("calls of %s are stopped for now: %s", c.ask.Model, c.answer.Reason)
		if c.answer.RetryAfter > 0 {
			return refused(shaped, message).after(time.Duration(c.answer.RetryAfter) * time.Second)
		}
		return refused(stopped, message)
	}
	set := p.o.Upstreams.inForce.Load()
	if c.chain = set.chain(c.family, c.answer.Model); c.chain == nil && c.answer.Model != c.ask.Model {
		// A model that cannot answer this API. No proof must count the call for either arm.
		c.answer = routing.Answer{Model: c.ask.Model, Route: routing.Direct, Arm: usage.None, Reason: c.answer.Model + " has no upstream of this API"}
		c.tags = said
		c.chain = set.chain(c.family, c.ask.Model)
	}
	if c.chain == nil {
		return refused(noModel, fmt.Sprintf("no upstream of the gateway serves the model %q by the API of %s", c.ask.Model, c.family))
	}
	c.price()
	return nil
}

// request is the call as flags and policies are asked about it.
func (c *call) request() routing.Request {
	return routing.Request{
		TenantID: c.tenant, SessionID: c.session, TraceID: c.trace, RequestedModel: c.ask.Model,
		InputTokens: c.ask.InputEstimate, MaxOutputTokens: c.ask.MaxOutput, Task: c.task,
	}
}

// estimate is what the call is likely to cost, were the model to serve it.
func (c *call) estimate(model string) (usage.PicoUSD, bool) {
	chain := c.p.o.Upstreams.inForce.Load().chain(c.family, model)
	if chain == nil {
		return 0, false
	}
	quote, err := c.p.gate.o.Prices.Quote(chain[0].Provider, model, "", c.began)
	if err != nil {
		return 0, false
	}
	cost, err := quote.Cost(usage.Tokens{UncachedInput: min(c.ask.InputEstimate, usage.MaxTokens), Output: min(c.ask.MaxOutput, usage.MaxTokens) * c.ask.Choices})
	return cost, err == nil
}

// turn lets another model serve the call, where somebody of its family has it.
func (c *call) turn(to routing.Answer) bool {
	chain := c.p.o.Upstreams.inForce.Load().chain(c.family, to.Model)
	if chain == nil {
		return false
	}
	c.chain, c.answer = chain, to
	c.price()
	return true
}
