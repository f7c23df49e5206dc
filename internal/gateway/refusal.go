package gateway

import (
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/flyball-dev/flyball/internal/wire"
)

// why is a kind of refusal, as the two families would answer it.
type why struct {
	status    int
	openAI    string // type
	code      string // OpenAI's code, and ours
	anthropic string // type
	final     bool   // the providers' own clients should not try again by themselves
}

// The kinds. Where a provider has a type for the case it is that, so that its clients raise the error that they would.
var (
	badRequest   = why{http.StatusBadRequest, "invalid_request_error", "bad_request", "invalid_request_error", true}
	badKey       = why{http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "authentication_error", true}
	forbidden    = why{http.StatusForbidden, "invalid_request_error", "forbidden", "permission_error", true}
	notFound     = why{http.StatusNotFound, "invalid_request_error", "not_found", "not_found_error", true}
	noModel      = why{http.StatusNotFound, "invalid_request_error", "model_not_found", "not_found_error", true}
	slowBody     = why{http.StatusRequestTimeout, "invalid_request_error", "request_timeout", "timeout_error", true}
	tooLarge     = why{http.StatusRequestEntityTooLarge, "invalid_request_error", "request_too_large", "request_too_large", true}
	encoded      = why{http.StatusUnsupportedMediaType, "invalid_request_error", "unsupported_encoding", "invalid_request_error", true}
	stopped      = why{http.StatusForbidden, "stopped", "stopped", "permission_error", true}
	rateLimited  = why{http.StatusTooManyRequests, "requests", "rate_limit_exceeded", "rate_limit_error", false}
	shaped       = why{http.StatusTooManyRequests, "requests", "shaped", "rate_limit_error", false}
	overBudget   = why{http.StatusTooManyRequests, "budget_exceeded", "budget_exceeded", "budget_exceeded", true}
	unpriced     = why{http.StatusForbidden, "invalid_request_error", "model_not_priced", "permission_error", true}
	away         = why{http.StatusServiceUnavailable, "server_error", "budgets_unavailable", "api_error", false}
	stopping     = why{http.StatusServiceUnavailable, "server_error", "shutting_down", "overloaded_error", false}
	overloaded   = why{http.StatusServiceUnavailable, "server_error", "overloaded", "overloaded_error", false}
	badUpstream  = why{http.StatusBadGateway, "server_error", "upstream_failed", "api_error", false}
	upstreamLate = why{http.StatusGatewayTimeout, "server_error", "upstream_timeout", "timeout_error", false}
)

// refusal is a call that is not made, or did not work out.
type refusal struct {
	why
	message string
	retry   time.Duration
}

func refused(w why, message string) *refusal { return &refusal{why: w, message: message} }

// after says when it is worth to try again.
func (f *refusal) after(d time.Duration) *refusal {
	f.retry = d
	return f
}

// in is the refusal in the shape of the family.
func (f *refusal) in(family wire.Family, id string) wire.Refusal {
	r := wire.Refusal{Family: family, Status: f.status, Type: f.openAI, Code: f.code, Message: f.message, RequestID: id}
	if family == wire.Anthropic {
		r.Type = f.anthropic
	}
	return r
}

// write answers in the shape of the family.
func (f *refusal) write(w http.ResponseWriter, family wire.Family, id string) {
	body := f.in(family, id).Body()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if f.retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(f.retry.Seconds())), 10))
	}
	if f.final {
		h.Set("X-Should-Retry", "false") // both providers' clients obey it
	}
	switch f.code {
	case stopping.code, tooLarge.code, slowBody.code: // of what is left of a body nobody reads
		h.Set("Connection", "close")
	case badKey.code:
		h.Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(f.status)
	_, _ = w.Write(body) // an error means that the caller has gone
}
