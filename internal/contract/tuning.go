package contract

import (
	"errors"
	"time"

	"github.com/flyball-dev/flyball/internal/alert"
	"github.com/flyball-dev/flyball/internal/routing"
)

// Tuning holds the numbers that steer a workflow. They ride in its input, so that they are recorded
// with it: a new release, or a demo beside a real deployment, never changes a workflow under way.
type Tuning struct {
	// TimeScale multiplies the waits that only people live by: the runbook's steps. One is real time.
	TimeScale float64        `json:"time_scale"`
	Holds     alert.Holds    `json:"holds"`
	Limits    routing.Limits `json:"limits"`
	// RemindEvery is how often people are reminded of a PAGE that nobody has taken on; zero: never.
	RemindEvery time.Duration `json:"remind_every,omitempty"`
}

// remindEvery is the product's: long enough for whoever was woken to sit down, short enough for a shift.
const remindEvery = 30 * time.Minute

// NewTuning returns the product's numbers with their times multiplied by scale: 1 in earnest, 0.1 in
// the demo.
func NewTuning(scale float64) Tuning {
	t := Tuning{TimeScale: scale, Holds: alert.DefaultHolds.Scaled(scale), Limits: routing.DefaultLimits.Scaled(scale)}
	t.RemindEvery = t.Scaled(remindEvery)
	return t
}

// Validate refuses a tuning that would make a workflow spin or wait for ever.
func (t Tuning) Validate() error {
	if t.TimeScale <= 0 || t.TimeScale > 100 {
		return errors.New("tuning.time_scale must be above 0 and at most 100; 1 is real time")
	}
	if t.Holds.Silence <= 0 {
		return errors.New("tuning.holds.silence must be above 0")
	}
	if t.Limits.MaxHold <= 0 || t.Limits.UnprovenHold <= 0 {
		return errors.New("tuning.limits: max_hold and unproven_hold must be above 0, or a flag would never come off")
	}
	if t.RemindEvery < 0 {
		return errors.New("tuning.remind_every must not be negative; 0 reminds nobody")
	}
	return nil
}

// Scaled returns d at the tuning's pace.
func (t Tuning) Scaled(d time.Duration) time.Duration {
	return time.Duration(float64(d) * t.TimeScale)
}
