package budget

import (
	"errors"
	"fmt"
	"time"
)

// Version is a budget as somebody has set it. The versions of a budget are its history; a removed one is the last.
type Version struct {
	Budget
	Revision int       `json:"revision"` // 1, 2, …
	Removed  bool      `json:"removed,omitempty"`
	SetAt    time.Time `json:"set_at"`
	By       string    `json:"by"`
	Reason   string    `json:"reason,omitempty"`
}

// maxReason bounds a reason, in bytes.
const maxReason = 1024

// Validate reports everything that is wrong with the version.
func (v Version) Validate() error {
	errs := []error{v.Budget.Validate()}
	if v.Revision < 1 {
		errs = append(errs, fmt.Errorf("revision: %d is not 1 or more", v.Revision))
	}
	if v.By == "" || len(v.By) > maxName {
		errs = append(errs, fmt.Errorf("who: say who changes the budget, in at most %d bytes", maxName))
	}
	if len(v.Reason) > maxReason {
		errs = append(errs, fmt.Errorf("reason: it is longer than %d bytes", maxReason))
	}
	return errors.Join(errs...)
}

// SameCounters reports whether both budgets count in the same counters: only then one can take the other's place
// without forgetting what was spent.
func (b Budget) SameCounters(c Budget) bool {
	return b.ID == c.ID && b.Tenant == c.Tenant && b.Per == c.Per && b.Period == c.Period && b.TimeZone == c.TimeZone && max(b.StartsOn, 1) == max(c.StartsOn, 1)
}
