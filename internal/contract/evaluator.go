package contract

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/usage"
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

// EvaluatorRecord is what one version of an evaluator counts for from Since on; the newest record stands. It holds for
// scores by their own time, so that one that comes late counts as it would have then. A Since to come leaves every
// ingest the time to hear of it, so that all change at one instant.
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

	// What people said of the same AnchorN calls, and the deviation of its distance from them.
	AnchorN          int     `json:"anchor_n,omitempty"`
	AnchorHumanMean  float64 `json:"anchor_human_mean,omitempty"`
	AnchorHumanSD    float64 `json:"anchor_human_sd,omitempty"`
	AnchorResidualSD float64 `json:"anchor_residual_sd,omitempty"`
}

// maxEvaluatorName bounds the names in a record, in bytes, as ingest bounds those of scores.
const maxEvaluatorName = 256

// Validate refuses a record that says nothing, or nothing that could be applied.
func (r EvaluatorRecord) Validate() error {
	switch {
	case r.Evaluator == "":
		return errors.New("the evaluator has no name")
	case len(r.Evaluator) > maxEvaluatorName || len(r.Version) > maxEvaluatorName:
		return fmt.Errorf("the name of the evaluator or of its version is longer than %d bytes", maxEvaluatorName)
	case !slices.Contains([]Standing{Counting, Trial, Failing, Retired}, r.Standing):
		return fmt.Errorf("%q is no standing: there are %s, %s, %s and %s", r.Standing, Counting, Trial, Failing, Retired)
	case r.Since.IsZero():
		return errors.New("the record does not say since when")
	}
	return r.Mapping.Validate()
}

// HumanPairsQuery asks for an evaluator's scores of calls that people rated. An empty name or tenant means all.
type HumanPairsQuery struct {
	Evaluator, Version, Tenant string
	From, To                   time.Time // of the evaluator's scores, half-open
	Limit                      int       // the newest; 0: 100,000
}

// RatedScore is what people and an evaluator said of one call.
type RatedScore struct {
	Key       usage.Key `json:"key"`
	Evaluator string    `json:"evaluator"`
	Version   string    `json:"evaluator_version"`
	TraceID   string    `json:"trace_id"`
	At        time.Time `json:"at"`     // when the evaluator last scored it
	Human     float64   `json:"human"`  // the mean of the raters, each of whom counts once
	Judge     float64   `json:"judge"`  // the evaluator's score as it gave it, not calibrated
	Raters    int       `json:"raters"` // how many people rated it
}

// Pair is the two scores.
func (r RatedScore) Pair() calibrate.Pair { return calibrate.Pair{Human: r.Human, Judge: r.Judge} }

// EvaluatorVersion names one version of an evaluator.
type EvaluatorVersion struct {
	Evaluator string `json:"evaluator"`
	Version   string `json:"evaluator_version"`
}

func (v EvaluatorVersion) String() string {
	if v.Version == "" {
		return v.Evaluator
	}
	return v.Evaluator + " " + v.Version
}

// Of reports whether the record is of the version.
func (r EvaluatorRecord) Of(v EvaluatorVersion) bool {
	return r.Evaluator == v.Evaluator && r.Version == v.Version
}

// BothScoredQuery asks for the calls that two versions have scored.
type BothScoredQuery struct {
	Old, New EvaluatorVersion
	From, To time.Time // of the scores, half-open
	Limit    int       // 0: 100,000; of more a share is taken, by their trace ids
}

// BothScored is what two evaluators said of one call, as they gave it.
type BothScored struct {
	Key     usage.Key
	TraceID string
	At      time.Time // when the later one scored it
	Old     float64
	New     float64
}

// EvaluatorScores is what one version of an evaluator gave in a range.
type EvaluatorScores struct {
	EvaluatorVersion
	Kind       string    `json:"kind"`
	Scored     int64     `json:"scored"`
	Counted    int64     `json:"counted"`    // of these, how many reached detection
	Mean       float64   `json:"mean"`       // of the scores as given
	Calibrated float64   `json:"calibrated"` // their mean on the scale of baselines
	Last       time.Time `json:"last"`
}
