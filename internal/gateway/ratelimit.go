package gateway

import (
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// The headers that say where a call's budgets stand: RateLimit and RateLimit-Policy as in
// draft-ietf-httpapi-ratelimit-headers-10, one item for the shape in force, and one for each budget, the tightest first.
const (
	headerPolicy    = "Ratelimit-Policy"
	headerLimit     = "Ratelimit"
	headerRemaining = "X-Llm-Budget-Remaining" // US dollars of the tightest budget
	headerRetry     = "Retry-After"
	quotaUnit       = "micro-usd" // of no registry: budgets are not counted in requests
)

// maxInteger is the largest integer of a structured field (RFC 9651): fifteen digits.
const maxInteger = 999_999_999_999_999

// maxLimits bounds the budgets that an answer's headers tell of, the tightest first.
const maxLimits = 8

// shapeUnit is the unit of a shape's quota: of a hundred calls, so many are let through.
const shapeUnit = "percent"

// limitHeaders says what a shape lets through, and where the budgets stand.
func limitHeaders(h http.Header, shape routing.Shaping, standings []treasury.Standing, now time.Time) {
	if len(standings) == 0 && shape.Left == 0 {
		return
	}
	policy, limit := make([]byte, 0, 256), make([]byte, 0, 128)
	if shape.Left > 0 {
		through := int64(math.Round(100 * shape.Through))
		policy = param(append(policy, `"shape"`...), "q", through)
		policy = append(policy, `;qu="`+shapeUnit+`";w=60`...)
		if shape.Refused {
			through = 0
		}
		limit = param(append(limit, `"shape"`...), "r", through)
		limit = param(limit, "t", int64(shape.Left))
	}
	for _, s := range standings[:min(len(standings), maxLimits)] {
		if len(policy) > 0 {
			policy, limit = append(policy, ", "...), append(limit, ", "...)
		}
		name := sfString(s.Budget.ID)
		policy = param(append(policy, name...), "q", int64(s.Budget.Ceiling))
		policy = append(policy, `;qu="`+quotaUnit+`"`...)
		limit = param(append(limit, name...), "r", int64(s.Left))
		if !s.Window.To.IsZero() {
			policy = param(policy, "w", int64(s.Window.To.Sub(s.Window.From)/time.Second))
			limit = param(limit, "t", seconds(s.Window.To.Sub(now)))
		}
	}
	h.Set(headerPolicy, string(policy))
	h.Set(headerLimit, string(limit))
	if len(standings) > 0 {
		h.Set(headerRemaining, max(standings[0].Left, 0).USD())
	}
}

// param appends a parameter of a structured field.
func param(to []byte, name string, n int64) []byte {
	return strconv.AppendInt(append(append(append(to, ';'), name...), '='), integer(n), 10)
}

var sfEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// sfString is a string of a structured field. It holds printable ASCII alone; anything else is percent-encoded.
func sfString(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		text = url.PathEscape(text)
	}
	return `"` + sfEscape.Replace(text) + `"`
}

func integer(n int64) int64 { return min(max(n, 0), maxInteger) }

// seconds rounds up: who waits so long has waited long enough.
func seconds(d time.Duration) int64 { return int64((max(d, 0) + time.Second - 1) / time.Second) }

// dollars is an amount that is not below zero, as JSON number and header have it.
func dollars(m budget.Micro) string { return max(m, 0).USD() }

func retryAfter(h http.Header, after int64) {
	if after > 0 {
		h.Set(headerRetry, strconv.FormatInt(after, 10))
	}
}
