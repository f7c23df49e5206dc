// Package budget is the arithmetic of ceilings that cannot be overrun: which budgets a call belongs to and
// when their windows begin, what a call may cost at the most, and the blocks of a tenant's budget that a gateway
// takes in advance so that most calls ask nobody. It is arithmetic only; package redis keeps the counters that all
// gateways share.
//
// Amounts are micro-dollars (1e-6 USD): a store whose numbers are doubles counts them exactly up to nine billion
// dollars. What is held is rounded up.
package budget

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Micro is an amount of money in millionths of a dollar.
type Micro int64

// MaxMicro is the largest ceiling: 2^53 µ$, nine billion dollars, which a double still counts one by one.
const MaxMicro Micro = 1 << 53

// picoPerMicro is how many pico-dollars, the unit of a call's exact cost, make a micro-dollar.
const picoPerMicro = 1_000_000

// Ceil is the cost in pico-dollars as micro-dollars, rounded up: what is held or counted against a ceiling is never
// less than what is paid. A negative cost is 0.
func Ceil(pico int64) Micro {
	if pico <= 0 {
		return 0
	}
	return Micro((pico-1)/picoPerMicro + 1)
}

// USD writes the amount as a decimal of dollars.
func (m Micro) USD() string {
	sign := ""
	if m < 0 {
		sign, m = "-", -m
	}
	text := fmt.Sprintf("%s%d.%06d", sign, m/1_000_000, m%1_000_000)
	return strings.TrimRight(strings.TrimRight(text, "0"), ".")
}

// Per is what a budget's calls have in common, besides the tenant.
type Per string

// The scopes. Every budget is one tenant's; a narrower one counts for each virtual key, session or model by itself.
const (
	PerTenant  Per = "tenant"
	PerKey     Per = "key"     // each virtual key
	PerSession Per = "session" // each session, from its first call on
	PerModel   Per = "model"   // each requested model
)

// Period is how long a budget's window is.
type Period string

// The periods. A session's budget has none: its window is the session.
const (
	Day     Period = "day"
	Week    Period = "week"
	Month   Period = "month"
	Session Period = "session"
)

// Budget is a ceiling on what a tenant's calls may cost within a window. Its counters outlive a change of it: only
// ID, Per, Period, TimeZone and StartsOn name them, so a new ceiling never resets what was spent.
type Budget struct {
	ID       string `json:"id"` // unique within the tenant
	Tenant   string `json:"tenant_id"`
	Per      Per    `json:"per"`
	Only     string `json:"only,omitempty"` // the one key, session or model that it is for; empty: each
	Period   Period `json:"period"`
	TimeZone string `json:"time_zone,omitempty"` // IANA name; empty: UTC
	StartsOn int    `json:"starts_on,omitempty"` // day of the month 1..28, or of the week 1 (Monday)..7; 0: 1
	Ceiling  Micro  `json:"ceiling_micro_usd"`

	zone *time.Location // TimeZone's, once Located has read it
}

// maxName bounds names, in bytes.
const maxName = 128

// Validate reports everything that is wrong with the budget.
func (b Budget) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(b.ID != "" && len(b.ID) <= maxName, "id: name the budget in at most %d bytes", maxName)
	check(b.Tenant != "" && len(b.Tenant) <= maxName, "tenant_id: name the tenant in at most %d bytes", maxName)
	check(slices.Contains([]Per{PerTenant, PerKey, PerSession, PerModel}, b.Per), "per: %q is none of tenant, key, session, model", b.Per)
	check(b.Per != PerTenant || b.Only == "", "only: a budget of the whole tenant is for nothing narrower")
	check(slices.Contains([]Period{Day, Week, Month, Session}, b.Period), "period: %q is none of day, week, month, session", b.Period)
	check((b.Per == PerSession) == (b.Period == Session), "period: a budget per session, and no other, has the period session")
	if _, err := b.location(); err != nil {
		check(false, "time_zone: %q is not a name like Europe/Berlin", b.TimeZone)
	}
	switch b.Period {
	case Month:
		check(b.StartsOn >= 0 && b.StartsOn <= 28, "starts_on: %d is not a day that every month has (1..28)", b.StartsOn)
	case Week:
		check(b.StartsOn >= 0 && b.StartsOn <= 7, "starts_on: %d is not a day of the week (1 Monday .. 7 Sunday)", b.StartsOn)
	default:
		check(b.StartsOn == 0, "starts_on: only months and weeks have a first day")
	}
	check(b.Ceiling > 0 && b.Ceiling <= MaxMicro, "ceiling_micro_usd: %d is not between 1 and %d", b.Ceiling, MaxMicro)
	return errors.Join(errs...)
}

func (b Budget) location() (*time.Location, error) {
	if b.TimeZone == "" {
		return time.UTC, nil
	}
	if b.zone != nil {
		return b.zone, nil
	}
	return time.LoadLocation(b.TimeZone)
}

// Located is the same budget with its time zone read: each reading is of a file, and each call has its windows told.
func (b Budget) Located() Budget {
	if zone, err := b.location(); err == nil && b.TimeZone != "" {
		b.zone = zone
	}
	return b
}

// Window is the half-open span of time that one ceiling is for. A session's has no bounds.
type Window struct {
	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`
}

// Window is the one that holds the instant, in UTC. It begins at midnight by the budget's clock: a day with a change
// of the clock has 23 or 25 hours. The zone of a budget that is not valid counts as UTC.
func (b Budget) Window(at time.Time) Window {
	zone, err := b.location()
	if err != nil {
		zone = time.UTC
	}
	local := at.In(zone)
	midnight := func(year int, month time.Month, day int) time.Time {
		return time.Date(year, month, day, 0, 0, 0, 0, zone).UTC()
	}
	year, month, day := local.Date()
	first := max(b.StartsOn, 1)
	switch b.Period {
	case Day:
		return Window{midnight(year, month, day), midnight(year, month, day+1)}
	case Week:
		weekday := (int(local.Weekday())+6)%7 + 1 // Monday is 1
		start := day - (weekday-first+7)%7
		return Window{midnight(year, month, start), midnight(year, month, start+7)}
	case Month:
		if day < first {
			month--
		}
		return Window{midnight(year, month, first), midnight(year, month+1, first)}
	}
	return Window{}
}

// Call is what of a call says which budgets it belongs to.
type Call struct {
	Tenant  string
	Key     string // the virtual key's name; empty: none
	Session string
	Model   string // the requested one
}

// of is the call's key, session or model, whichever the budget counts by; ok is false when it has none.
func (c Call) of(p Per) (name string, ok bool) {
	switch p {
	case PerTenant:
		return "", true
	case PerKey:
		return c.Key, c.Key != ""
	case PerSession:
		return c.Session, c.Session != ""
	case PerModel:
		return c.Model, c.Model != ""
	}
	return "", false
}

// Counter names what one ceiling is compared with: a budget's spend of one key, session or model in one window.
type Counter struct {
	Budget string `json:"budget"`
	Of     string `json:"of,omitempty"`
	Window Window `json:"window"`
}

// Counter is the budget's counter that the call adds to at the instant; ok is false when the call is none of the
// budget's.
func (b Budget) Counter(c Call, at time.Time) (counter Counter, ok bool) {
	of, ok := c.of(b.Per)
	if !ok || c.Tenant != b.Tenant || b.Only != "" && b.Only != of {
		return Counter{}, false
	}
	return Counter{Budget: b.ID, Of: of, Window: b.Window(at)}, true
}

// Leased reports whether gateways take the budget in blocks. The others are asked for each call: what is one
// session's or one key's passes one gateway, and a block for each would tie up more than it spends.
func (b Budget) Leased() bool { return b.Per == PerTenant }
