package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/internal/wire"
)

// maxAuthzBody bounds a call's body; Envoy's own bound, max_request_bytes, is below it as a rule.
const maxAuthzBody = 32 << 20

// mostInput bounds the input of a call that refers to what its body does not hold, such as an earlier answer: no model
// takes more tokens.
const mostInput = 2_000_000

// The headers that tell the asking gateway what to do with the call.
const (
	headerEdits   = "X-Flyball-Edits" // of the body: offset:length:text, …; see edits
	headerModel   = "X-Llm-Model"
	headerPartial = "X-Envoy-Auth-Partial-Body"
)

// endpoints are the paths that cost money and can be held to a budget, by how they end.
var endpoints = map[string]wire.API{
	"/v1/chat/completions": wire.Chat, "/v1/responses": wire.Responses, "/v1/embeddings": wire.Embeddings,
	"/v1/messages": wire.Messages,
}

// free are those that cost nothing.
var free = map[string]bool{"/v1/models": true, "/v1/messages/count_tokens": true}

// authorize answers Envoy's ext_authz filter in its HTTP mode, and whoever asks alike: it is sent the client's own
// call, its path behind /v1/authz, and answers 200 with headers for the call, or the refusal for the client.
func (x *External) authorize(w http.ResponseWriter, r *http.Request) {
	path := "/" + r.PathValue("path")
	if before, rest, ok := strings.Cut(path, "/v1/models/"); ok && before == "" && rest != "" {
		path = "/v1/models"
	}
	api, costs := endpoints[path]
	family := api.Family()
	c, no := x.client(r)
	switch {
	case no != nil:
	case free[path]:
		w.WriteHeader(http.StatusOK)
		return
	case !costs || r.Method != http.MethodPost:
		no = refused(notFound, fmt.Sprintf("%s %.128q is no call that budgets can bound: it is not let through", r.Method, path))
	default:
		no = x.authorizeCall(w, r, api, c)
	}
	if no != nil {
		no.write(w, family, "")
	}
}

// client finds whose call it is: the client's virtual key says so, or a trusted gateway by header.
func (x *External) client(r *http.Request) (caller, *refusal) {
	now := x.gate.o.Now()
	own, err := x.o.Door.Admit(r, ingest.ScopeCalls, now)
	if err == nil && own.Tenant != "" {
		return caller{own.Tenant, own.Name}, nil
	}
	if err == nil || !limited(err) {
		if _, trusted := x.o.Door.Admit(r, ingest.ScopeDecide, now); trusted == nil || limited(trusted) {
			err = trusted
		}
	}
	switch {
	case err == nil:
	case limited(err):
		_, retry := ingest.StatusOf(err)
		return caller{}, refused(rateLimited, err.Error()).after(retry)
	case errors.Is(err, ingest.ErrNoToken):
		return caller{}, refused(badKey, "send a valid virtual key, as Authorization: Bearer … or x-api-key")
	default:
		return caller{}, refused(forbidden, err.Error())
	}
	tenant := r.Header.Get("X-LLM-Tenant")
	if tenant == "" {
		return caller{}, refused(badRequest, "the header X-LLM-Tenant is missing: a token that is trusted for every tenant says whose call it is")
	}
	return caller{tenant, r.Header.Get("X-LLM-Key")}, nil
}

func limited(err error) bool {
	status, _ := ingest.StatusOf(err)
	return err != nil && status == http.StatusTooManyRequests
}

// authorizeCall decides about one call by its body and headers.
func (x *External) authorizeCall(w http.ResponseWriter, r *http.Request, api wire.API, c caller) *refusal {
	ask, no := readCall(w, r, api)
	if no != nil {
		return no
	}
	now := x.gate.o.Now()
	q := x.questionOf(r.Header, ask, c)
	if err := q.check(); err != nil {
		return refused(badRequest, err.Error())
	}
	v, err := x.judge(r.Context(), q, now)
	h := w.Header()
	switch {
	case errors.Is(err, errTooMany):
		return refused(overloaded, err.Error()).after(time.Second)
	case err != nil:
		return refused(badRequest, err.Error())
	case v.refused != nil:
		x.verdictHeaders(h, &v, now)
		return v.refused
	}
	x.holds.wire(v.HoldID, ask)
	x.verdictHeaders(h, &v, now)
	h.Set(headerHold, v.HoldID)
	h.Set(headerModel, v.Model)
	if list := edits(ask, wire.Edit{Model: v.Model, MaxOutput: v.MaxOutputTokens, IncludeUsage: true}); list != "" {
		h.Set(headerEdits, list)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// readCall reads the body of a call.
func readCall(w http.ResponseWriter, r *http.Request, api wire.API) (*wire.Request, *refusal) {
	switch {
	case r.Header.Get(headerPartial) == "true":
		return nil, refused(tooLarge, "the gateway sent a part of the body alone: have it send all (allow_partial_message: false)")
	case r.Header.Get("Content-Encoding") != "" && r.Header.Get("Content-Encoding") != "identity":
		return nil, refused(encoded, "the body is compressed, which the providers do not take either: send it as it is")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAuthzBody))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, refused(tooLarge, fmt.Sprintf("the body is larger than %d bytes", maxAuthzBody))
	case err != nil:
		return nil, refused(badRequest, "the body broke off")
	}
	ask, err := wire.Read(api, body)
	switch {
	case err != nil:
		return nil, refused(badRequest, err.Error())
	case ask.Model == usage.AnyModel || strings.Contains(ask.Model, usage.ExperimentMark):
		return nil, refused(noModel, fmt.Sprintf("%.128q is no model", ask.Model))
	case ask.Background:
		return nil, refused(badRequest, "background: what such a call costs could not be seen; leave it out")
	}
	return ask, nil
}

// questionOf is what a client's call asks.
func (x *External) questionOf(h http.Header, ask *wire.Request, c caller) *question {
	q := &question{
		Request: routing.Request{
			TenantID: c.tenant, SessionID: h.Get("X-LLM-Session"), TraceID: traceIn(h.Get("Traceparent")),
			RequestedModel: ask.Model, InputTokens: min(ask.InputEstimate, usage.MaxTokens), MaxOutputTokens: ask.MaxOutput, Task: h.Get("X-LLM-Task"),
		},
		Key: c.key, Provider: h.Get("X-LLM-Provider"), ServiceTier: ask.ServiceTier, Choices: ask.Choices,
		PromptTemplate: h.Get("X-LLM-Template"),
	}
	if q.Provider == "" {
		q.Provider = string(ask.API.Family())
	}
	if q.SessionID == "" {
		q.SessionID = ask.Session
	}
	q.call = ask
	if ask.API.Generates() {
		q.Text = ask.Text
	}
	return q
}

// traceIn is the trace id of a W3C traceparent, or a new one.
func traceIn(parent string) string {
	parts := strings.Split(parent, "-")
	if len(parts) >= 4 && len(parts[0]) == 2 && parts[0] != "ff" && len(parts[1]) == 32 && len(parts[2]) == 16 &&
		strings.Trim(parts[1], "0123456789abcdef") == "" && strings.Trim(parts[1], "0") != "" {
		return parts[1]
	}
	return newSpanID() + newSpanID()
}

// edits are what policy changes in the body, for a gateway that can replace bytes of it: a list of offset:length:text,
// from the last to the first, so that each offset is one of the body as the client sent it. The text is
// percent-encoded. Offsets count from 0. It is empty where nothing changes.
func edits(ask *wire.Request, all wire.Edit) string {
	body := ask.Apply(wire.Edit{})
	var list []edit
	for _, one := range [...]wire.Edit{{Model: all.Model}, {MaxOutput: all.MaxOutput}, {IncludeUsage: all.IncludeUsage}} {
		if e := difference(body, ask.Apply(one)); e.length > 0 || e.text != "" {
			list = append(list, e)
		}
	}
	if len(list) == 0 {
		return ""
	}
	sortEdits(list)
	var b strings.Builder
	for i, e := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(e.offset) + ":" + strconv.Itoa(e.length) + ":" + url.PathEscape(e.text))
	}
	return b.String()
}

// edit replaces a part of a body.
type edit struct {
	offset, length int
	text           string
}

// difference is the one replacement that makes after of before.
func difference(before, after []byte) edit {
	start := 0
	for start < len(before) && start < len(after) && before[start] == after[start] {
		start++
	}
	end := 0
	for end < len(before)-start && end < len(after)-start && before[len(before)-1-end] == after[len(after)-1-end] {
		end++
	}
	return edit{start, len(before) - end - start, string(after[start : len(after)-end])}
}

// sortEdits puts the last first, so that none moves what another is about.
func sortEdits(list []edit) {
	for i := range list {
		for j := i; j > 0 && list[j].offset > list[j-1].offset; j-- {
			list[j], list[j-1] = list[j-1], list[j]
		}
	}
}
