package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
)

// CalibrationInput computes baselines anew, for a tenant or, with an empty one, for all.
type CalibrationInput struct {
	Tenant string `json:"tenant,omitempty"`
	Tuning Tuning `json:"tuning"`
	Bounds Bounds `json:"bounds,omitzero"` // zero: the product's
	// Evaluators judges evaluators against people in place of computing baselines.
	Evaluators bool              `json:"evaluators,omitempty"`
	State      *CalibrationState `json:"state,omitempty"` // after continue-as-new
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

	Judges     bool             `json:"judges,omitempty"`     // it judges evaluators, in place of computing baselines
	Drift      *DriftReport     `json:"drift,omitempty"`      // of the last run that could say
	Expires    time.Time        `json:"expires,omitzero"`     // when the moves that wait for a person wait no more
	Expired    int              `json:"expired,omitempty"`    // moves that nobody answered: they stay refused
	Evaluators []EvaluatorDrift `json:"evaluators,omitempty"` // of the last run, where they are what is calibrated
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

// AskRecalibrationRequest has a tenant's Calibration asked for one more run, and started when it does not run.
type AskRecalibrationRequest struct {
	Tenant  string             `json:"tenant,omitempty"`
	Tuning  Tuning             `json:"tuning"`
	Request RecalibrateRequest `json:"request"`
}

// CalibrationSchedule is the id of the schedule that starts the calibration of all each week.
const CalibrationSchedule = "calibration-weekly"

// EvaluatorsSchedule is the id of the schedule that has evaluators judged each month.
const EvaluatorsSchedule = "calibration-monthly"
