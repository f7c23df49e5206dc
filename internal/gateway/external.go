package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// ExternalOptions is all that an External needs beside a Gateway; every field is required but Predictors.
type ExternalOptions struct {
	Door *ingest.Door
	// Treasury promises each call its worst cost of the budgets that it belongs to, and takes back what it did not cost.
	Treasury interface {
		Hold(ctx context.Context, c treasury.Call) (treasury.Promise, error)
		Settle(id string, cost usage.PicoUSD, durable time.Time) bool
	}
	// Budgets are a tenant's, from memory; not known: they have never been read.
	Budgets func(tenant string) (budgets []budget.Budget, known bool)
	// Accept makes telemetry durable.
	Accept    func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error
	OutputCap int64 // tokens that are held for a call that does not say how many it may generate
	// Predictors keep what was known of calls; nil: nobody does.
	Predictors *Predictors
}

// External answers gateways that are not ours: which model to call, and that the budgets allow it, before a call; what
// it cost, after. Each call's worst cost is held from one to the other. Between them it remembers the call, so that
// whoever settles says only what is new.
type External struct {
	gate  *Gateway
	o     ExternalOptions
	holds holds
}

// NewExternal returns an External that decides by the gateway's snapshot.
func NewExternal(gate *Gateway, o ExternalOptions) *External { return &External{gate: gate, o: o} }

// Handler serves, each behind the door, /v1/decide, /v1/settle, /v1/settle/response and everything below /v1/authz.
func (x *External) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/decide", x.admitted(x.decide))
	mux.HandleFunc("POST /v1/settle", x.admitted(x.settle))
	mux.HandleFunc("POST /v1/settle/response", x.admitted(x.settleResponse))
	mux.HandleFunc("POST /v1/authz/{path...}", x.authorize)
	mux.HandleFunc("GET /v1/authz/{path...}", x.authorize)
	return mux
}

// caller is who asks. A token of the scope decide is trusted for every tenant and says whose call it asks about; a
// virtual key asks about its own tenant's calls alone.
type caller struct{ tenant, key string }

// admit finds who asks.
func (x *External) admit(r *http.Request) (caller, error) {
	now := x.gate.o.Now()
	trusted, err := x.o.Door.Admit(r, ingest.ScopeDecide, now)
	if err == nil {
		return caller{tenant: trusted.Tenant}, nil
	}
	if status, _ := ingest.StatusOf(err); status == http.StatusTooManyRequests {
		return caller{}, err
	}
	own, ownErr := x.o.Door.Admit(r, ingest.ScopeCalls, now)
	if ownErr != nil {
		if status, _ := ingest.StatusOf(ownErr); status == http.StatusTooManyRequests {
			return caller{}, ownErr
		}
		return caller{}, err
	}
	return caller{own.Tenant, own.Name}, nil
}

// admitted lets in whom the door knows.
func (x *External) admitted(next func(http.ResponseWriter, *http.Request, caller)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, err := x.admit(r)
		if err != nil {
			turnAway(w, err)
			return
		}
		next(w, r, c)
	}
}

// turnAway answers whom the door does not let in.
func turnAway(w http.ResponseWriter, err error) {
	status, retry := ingest.StatusOf(err)
	p := problem{}
	p.Error.Message = err.Error()
	switch status {
	case http.StatusUnauthorized:
		p.Error.Code = "unauthorized"
		w.Header().Set("WWW-Authenticate", "Bearer")
	case http.StatusTooManyRequests:
		p.Error.Code = "too_many_requests"
	default:
		p.Error.Code = "forbidden"
	}
	if retry > 0 {
		w.Header().Set(headerRetry, strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
	reply(w, status, p)
}

// errBadToken is why a caller is refused that speaks for another tenant, or another key.
var errBadToken = errors.New("the token speaks for its own tenant and key alone: leave tenant_id and key out, or send theirs")

// about sets the tenant and the key that a request is about: the caller's own, or, where it is trusted, those that it
// says.
func (c caller) about(tenant, key *string) error {
	if c.tenant == "" {
		return nil
	}
	if *tenant != "" && *tenant != c.tenant || *key != "" && *key != c.key {
		return errBadToken
	}
	*tenant, *key = c.tenant, c.key
	return nil
}
