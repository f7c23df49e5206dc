package ingest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// HashToken is how a token's secret is stored: hex SHA-256. Tokens are long random strings, so a
// slow hash would add nothing.
func HashToken(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// Scope is what a token is for.
type Scope string

// The scopes.
const (
	ScopeSpans       Scope = "spans"
	ScopeQuality     Scope = "quality" // scores, and asking which calls to score
	ScopeOutcomes    Scope = "outcomes"
	ScopeDeployments Scope = "deployments"
	ScopeDecide      Scope = "decide"  // asking the gateway; concerns every tenant
	ScopeBudgets     Scope = "budgets" // reading budgets, and with no tenant setting them; never given unasked
	ScopeCalls       Scope = "calls"   // calling models through the gateway, on one tenant's account; never given unasked
)

// Scopes are all scopes, the ones for telemetry first.
var Scopes = [...]Scope{ScopeSpans, ScopeQuality, ScopeOutcomes, ScopeDeployments, ScopeDecide, ScopeBudgets, ScopeCalls}

// Token lets a sender in. Limits of zero are none.
type Token struct {
	Name              string    // in logs and answers
	Hashes            []string  // HashToken of each secret: two while one replaces the other
	Tenant            string    // whose telemetry it may send; "" is trusted for all tenants
	Scopes            []Scope   // none: all telemetry, and with no tenant decisions too
	NotBefore         time.Time // zero: since ever
	Expires           time.Time // zero: never
	RequestsPerSecond float64   // on average; bursts of a second's worth
	RecordsPerSecond  float64   // on average: after a larger request it must wait until the mean is met again
	MaxBody           int64     // bytes of one request after decompression; at most ingest's own bound
}

// check completes a token and refuses one that would not do what it says.
func (t *Token) check() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("ingest token %q: %s", t.Name, fmt.Sprintf(format, args...))
	}
	if len(t.Hashes) == 0 {
		return fail("has no hash: want the hex SHA-256 of the secret")
	}
	for _, hash := range t.Hashes {
		if raw, err := hex.DecodeString(hash); err != nil || len(raw) != sha256.Size || strings.ToLower(hash) != hash {
			return fail("want the hex SHA-256 of the secret as its hash, in 64 lower-case digits")
		}
	}
	for _, s := range t.Scopes {
		switch {
		case !slices.Contains(Scopes[:], s):
			return fail("scope %q is not one of %s", s, Scopes)
		case s == ScopeDecide && t.Tenant != "":
			return fail("scope decide concerns every tenant: leave the tenant out")
		case s == ScopeCalls && t.Tenant == "":
			return fail("scope calls spends a tenant's money: say which tenant's")
		}
	}
	switch {
	case t.RequestsPerSecond < 0 || t.RecordsPerSecond < 0 || t.MaxBody < 0 || math.IsNaN(t.RequestsPerSecond+t.RecordsPerSecond):
		return fail("limits must not be negative; leave out those that it has not")
	case !t.Expires.IsZero() && !t.Expires.After(t.NotBefore):
		return fail("it expires before it begins")
	}
	if len(t.Scopes) == 0 {
		t.Scopes = Scopes[:5]
		if t.Tenant != "" {
			t.Scopes = Scopes[:4]
		}
	}
	return nil
}

// ErrNoToken is why a request is refused that needs a token and brings none that is known.
var ErrNoToken = errors.New("send a valid ingest token: Authorization: Bearer …")

// StatusOf is how an error of a Door is answered: the HTTP status, and after how long to try again where that helps.
func StatusOf(err error) (status int, retryAfter time.Duration) {
	var limit *limitError
	var timed *timeError
	switch {
	case errors.Is(err, ErrNoToken) || errors.As(err, &timed):
		return http.StatusUnauthorized, 0
	case errors.As(err, &limit):
		return http.StatusTooManyRequests, limit.wait
	}
	return http.StatusForbidden, 0
}

// limitError says that a token has been used too much lately.
type limitError struct {
	token, what string
	perSecond   float64
	wait        time.Duration
}

func (e *limitError) Error() string {
	return fmt.Sprintf("ingest token %q is limited to %g %s a second: try again in %s", e.token, e.perSecond, e.what, e.wait.Round(time.Millisecond))
}

// timeError says that a token is not valid now.
type timeError struct{ reason string }

func (e *timeError) Error() string { return e.reason }

// Door decides who may speak to ingest, and to whatever else is served beside it.
type Door struct {
	keys atomic.Pointer[map[string]*key] // by hash
}

// key is a token with what it has used.
type key struct {
	Token
	requests, records *rate.Limiter // nil: no limit
	complain          rate.Sometimes
}

// Caller is somebody whom a Door has let in.
type Caller struct {
	Name   string // of the token; empty for a program on this machine
	Tenant string // whose data it may send and see; "" is every tenant's
	key    *key
}

// NewDoor returns the door to which tokens are the keys. Without any it lets in programs on this machine alone.
func NewDoor(tokens []Token) (*Door, error) {
	d := &Door{}
	d.keys.Store(&map[string]*key{})
	return d, d.Replace(tokens)
}

// Replace changes the locks at once. A token that stays keeps what it has used of its limits. On an error
// nothing changes.
func (d *Door) Replace(tokens []Token) error {
	before, after := *d.keys.Load(), map[string]*key{}
	var errs []error
	for _, t := range tokens {
		t.Hashes, t.Scopes = slices.Clone(t.Hashes), slices.Clone(t.Scopes)
		if err := t.check(); err != nil {
			errs = append(errs, err)
			continue
		}
		k := &key{Token: t, complain: rate.Sometimes{Interval: time.Minute}}
		k.requests, k.records = limiter(t.RequestsPerSecond), limiter(t.RecordsPerSecond)
		for _, hash := range t.Hashes {
			if old := before[hash]; old != nil && old.RequestsPerSecond == t.RequestsPerSecond && old.RecordsPerSecond == t.RecordsPerSecond {
				k.requests, k.records = old.requests, old.records
			}
		}
		for _, hash := range t.Hashes {
			if other := after[hash]; other != nil {
				errs = append(errs, fmt.Errorf("ingest tokens %q and %q have the same hash", other.Name, t.Name))
			}
			after[hash] = k
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.keys.Store(&after)
	return nil
}

func limiter(perSecond float64) *rate.Limiter {
	if perSecond == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(math.Ceil(min(perSecond, 1e9))))
}

// AnyTenant reports whether somebody may come in who speaks for every tenant, and so may leave the tenant out.
func (d *Door) AnyTenant() bool {
	keys := *d.keys.Load()
	for _, k := range keys {
		if k.Tenant == "" {
			return true
		}
	}
	return len(keys) == 0
}

// Admit finds who sent a request, and whether they may do at a moment what the scope says. It counts as
// one request of the token's.
func (d *Door) Admit(r *http.Request, scope Scope, now time.Time) (*Caller, error) {
	if d.Open() {
		return &Caller{}, admitLocal(r)
	}
	secret, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok && scope == ScopeCalls { // Anthropic's clients name their key so
		secret, ok = r.Header.Get("X-Api-Key"), true
	}
	if secret = strings.TrimSpace(secret); !ok || secret == "" {
		return nil, ErrNoToken
	}
	return d.AdmitToken(secret, scope, now)
}

// Open reports whether there are no tokens, and programs on this machine are let in without one.
func (d *Door) Open() bool { return len(*d.keys.Load()) == 0 }

// AdmitToken is Admit for a token that came another way than in a header of HTTP. Without configured tokens
// nobody is let in: it is for the caller to know who is on this machine.
func (d *Door) AdmitToken(secret string, scope Scope, now time.Time) (*Caller, error) {
	k := (*d.keys.Load())[HashToken(secret)]
	switch {
	case k == nil:
		return nil, ErrNoToken
	case now.Before(k.NotBefore):
		return nil, &timeError{fmt.Sprintf("ingest token %q is not valid before %s", k.Name, k.NotBefore.UTC().Format(time.RFC3339))}
	case !k.Expires.IsZero() && !now.Before(k.Expires):
		return nil, &timeError{fmt.Sprintf("ingest token %q expired on %s: ask for a new one", k.Name, k.Expires.UTC().Format(time.RFC3339))}
	case !slices.Contains(k.Scopes, scope):
		return nil, fmt.Errorf("ingest token %q is not for %s: its scopes are %s", k.Name, scope, k.Scopes)
	}
	c := &Caller{Name: k.Name, Tenant: k.Tenant, key: k}
	// Records are counted when a request has been read, and may put the token into debt: it waits it out.
	if wait := until(k.records, now); wait > 0 {
		return c, &limitError{k.Name, "records", k.RecordsPerSecond, wait}
	}
	if wait := until(k.requests, now); wait > 0 {
		return c, &limitError{k.Name, "requests", k.RequestsPerSecond, wait}
	}
	charge(k.requests, 1, now)
	return c, nil
}

// until is how long a limiter takes to allow one event; 0 when it does now.
func until(l *rate.Limiter, now time.Time) time.Duration {
	if l == nil {
		return 0
	}
	missing := 1 - l.TokensAt(now)
	if missing <= 0 {
		return 0
	}
	return time.Duration(missing / float64(l.Limit()) * float64(time.Second))
}

// charge takes n events from a limiter, which may go into debt by them.
func charge(l *rate.Limiter, n int, now time.Time) {
	for l != nil && n > 0 {
		step := min(n, l.Burst())
		l.ReserveN(now, step)
		n -= step
	}
}

// Charge counts records that a request brought.
func (c *Caller) Charge(records int, now time.Time) {
	if c.key != nil {
		charge(c.key.records, records, now)
	}
}

// may reports whether the caller's token has a scope too.
func (c *Caller) may(scope Scope) bool { return c.key == nil || slices.Contains(c.key.Scopes, scope) }

// maxBody bounds one of the caller's requests.
func (c *Caller) maxBody(atMost int64) int64 {
	if c.key == nil || c.key.MaxBody == 0 {
		return atMost
	}
	return min(c.key.MaxBody, atMost)
}

// admitLocal lets programs on this machine in, and no web page that runs in a browser here: neither one
// that says where it is from, nor one whose own host name was made to point to this machine.
func admitLocal(r *http.Request) error {
	switch {
	case !loopback(r.RemoteAddr):
		return errors.New("no ingest tokens are configured, so only loopback is let in: configure a token for this sender")
	case r.Header.Get("Origin") != "":
		return errors.New("web pages are not let in without an ingest token")
	case !plainHost(r.Host):
		return fmt.Errorf("no ingest tokens are configured, so the host name %q is not answered to: use localhost or an IP address", r.Host)
	}
	return nil
}

func loopback(remote string) bool {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return false
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// plainHost reports whether the host that a request names is an IP address or localhost, which nobody
// else's DNS can make to mean this machine.
func plainHost(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		host = hostPort
	}
	host = strings.Trim(strings.ToLower(host), "[]")
	_, err = netip.ParseAddr(host)
	return err == nil || host == "localhost"
}
