package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
)

// CalibrationInput computes baselines anew, for a tenant or, with an empty one, for all.
type CalibrationInput struct {
	Tenant string            `json:"tenant,omitempty"`
	Tuning Tuning            `json:"tuning"`
	State  *CalibrationState `json:"state,omitempty"` // after continue-as-new
}

// CalibrationResult is what was done.
type CalibrationResult struct {
	Runs int `json:"runs"`
}

// CalibrationState answers its query.
type CalibrationState struct {
	Tenant    string    `json:"tenant,omitempty"`
	Runs      int       `json:"runs"`
	Baselines int       `json:"baselines"` // stored by the last run
	At        time.Time `json:"at"`        // of the last run
	Why       string    `json:"why"`       // of the last run: weekly, by hand, a new model version
	Who       string    `json:"who,omitempty"`
	Failed    string    `json:"failed,omitempty"` // why the last run failed; empty: it did not
}

// RecalibrateRequest asks for one more run.
type RecalibrateRequest struct {
	Who    string `json:"who"`
	Reason string `json:"reason"`
}

// RecalibrateActivityRequest asks the store to compute the baselines of a tenant's keys anew; of all with an empty one.
type RecalibrateActivityRequest struct {
	Tenant   string          `json:"tenant,omitempty"`
	Minimums detect.Minimums `json:"minimums"`
	At       time.Time       `json:"at"`
}
