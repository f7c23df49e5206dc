package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
)

// Standing is what the scores of one version of an evaluator count for.
type Standing string

// The standings. Scores are stored whatever it is; only counting ones reach detection and baselines.
const (
	Counting Standing = "counting" // the default of an evaluator that nobody has spoken of
	Trial    Standing = "trial"    // beside another, to be compared with it
	Failing  Standing = "failing"  // it does not agree with people any more
	Retired  Standing = "retired"  // replaced by another
)

// EvaluatorRecord is what one version of an evaluator counts for from Since on; the newest record stands.
type EvaluatorRecord struct {
	Evaluator string            `json:"evaluator"`
	Version   string            `json:"evaluator_version"`
	Standing  Standing          `json:"standing"`
	Mapping   calibrate.Mapping `json:"mapping"` // of its scores onto the scale that baselines were drawn on; zero: as they are
	Since     time.Time         `json:"since"`
	By        string            `json:"by"` // a person, or calibration
	Reason    string            `json:"reason"`

	// AnchorMean and AnchorSD are the moments of its scores of the human-rated set when it was anchored; both 0: it
	// has not been.
	AnchorMean float64 `json:"anchor_mean,omitempty"`
	AnchorSD   float64 `json:"anchor_sd,omitempty"`
}
