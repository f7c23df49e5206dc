package gateway

import (
	"fmt"
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
	headerPolicy    = "RateLimit-Policy"
	headerLimit     = "RateLimit"
	headerRemaining = "X-LLM-Budget-Remaining" // US dollars of the tightest budget
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
	policy, limit := make([]string, 0, 1+maxLimits), make([]string, 0, 1+maxLimits)
	if shape.Left > 0 {
		through := int64(math.Round(100 * shape.Through))
		policy = append(policy, fmt.Sprintf(`"shape";q=%d;qu="%s";w=60`, through, shapeUnit))
		if shape.Refused {
			through = 0
		}
		limit = append(limit, fmt.Sprintf(`"shape";r=%d;t=%d`, through, shape.Left))
	}
	for _, s := range standings[:min(len(standings), maxLimits)] {
		name := sfString(s.Budget.ID)
		p := fmt.Sprintf(`%s;q=%d;qu="%s"`, name, integer(int64(s.Budget.Ceiling)), quotaUnit)
		l := fmt.Sprintf(`%s;r=%d`, name, integer(int64(s.Left)))
		if !s.Window.To.IsZero() {
			p += fmt.Sprintf(";w=%d", integer(int64(s.Window.To.Sub(s.Window.From)/time.Second)))
			l += fmt.Sprintf(";t=%d", integer(seconds(s.Window.To.Sub(now))))
		}
		policy, limit = append(policy, p), append(limit, l)
	}
	h.Set(headerPolicy, strings.Join(policy, ", "))
	h.Set(headerLimit, strings.Join(limit, ", "))
	if len(standings) > 0 {
		h.Set(headerRemaining, max(standings[0].Left, 0).USD())
	}
}

// sfString is a string of a structured field. It holds printable ASCII alone; anything else is percent-encoded.
func sfString(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
		text = url.PathEscape(text)
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
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
