package contract

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/calibrate"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Measure is what a calibrated level is one of.
type Measure string

// The measures.
const (
	CostMeasure    Measure = "cost"    // ln of the cost of a call in pico-dollars
	QualityMeasure Measure = "quality" // 0..1, on the scale of baselines
)

// Bounds are how far a key's baseline may move from its calibrated level without a person's approval.
type Bounds struct {
	CostFactor float64 `json:"cost_factor"` // above 1, either way: 1.25 is from −20 % to +25 %
	Quality    float64 `json:"quality"`     // either way
}

// DefaultBounds are the product's.
var DefaultBounds = Bounds{CostFactor: 1.25, Quality: 0.05}

// Of is the bound of a measure, as the level keeps it.
func (b Bounds) Of(m Measure) float64 {
	if m == CostMeasure {
		return math.Log(b.CostFactor)
	}
	return b.Quality
}

// Validate refuses bounds that hold nothing or everything.
func (b Bounds) Validate() error {
	if !(b.CostFactor > 1 && b.CostFactor <= 10) {
		return errors.New("bounds.cost_factor must be above 1 and at most 10; 1.25 lets a baseline move from -20 % to +25 %")
	}
	if !(b.Quality > 0 && b.Quality <= 1) {
		return errors.New("bounds.quality must be above 0 and at most 1")
	}
	return nil
}

// Level is where a key's baseline was calibrated: it is held within Bound of Value until a person, or people's
// ratings, move the level. The latest of a key and measure stands.
type Level struct {
	Key     usage.Key         `json:"key"`
	Measure Measure           `json:"measure"`
	At      time.Time         `json:"at"`
	Value   float64           `json:"value"`
	Bound   float64           `json:"bound"` // in units of Value
	Ratings calibrate.Ratings `json:"ratings"`
	By      string            `json:"by"`
	Reason  string            `json:"reason"`
}

// Excess is how far a level drawn from telemetry lies beyond the bound; 0: it does not.
func (l Level) Excess(drawn float64) float64 {
	by := drawn - l.Value
	return by - max(-l.Bound, min(l.Bound, by))
}

// DrawnLevel is where a key's baselines of the last day lie by telemetry alone: the median of its hours, so that the time
// of day does not count.
type DrawnLevel struct {
	Key     usage.Key
	Measure Measure
	Value   float64
}

// LevelDrift is how far a key's level has moved since it was calibrated.
type LevelDrift struct {
	Key     usage.Key         `json:"key"`
	Measure Measure           `json:"measure"`
	Since   time.Time         `json:"since"` // when it was calibrated
	From    float64           `json:"from"`
	To      float64           `json:"to"`
	Bound   float64           `json:"bound"`
	Witness calibrate.Witness `json:"witness,omitempty"` // what people's ratings say of a move of quality
	Ratings calibrate.Ratings `json:"ratings"`           // since it was calibrated
	Human   calibrate.Change  `json:"human"`             // of people's ratings since then
	Judges  calibrate.Change  `json:"judges"`            // of the evaluators' distance from people since then

	Verdict string `json:"verdict,omitempty"` // approve or deny; empty: nobody has said
	Who     string `json:"who,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// By is how far it has moved.
func (d LevelDrift) By() float64 { return d.To - d.From }

// Beyond reports whether that is more than the bound.
func (d LevelDrift) Beyond() bool { return math.Abs(d.By()) > d.Bound }

// String is the move in the terms of people: dollars' ratio, or points.
func (d LevelDrift) String() string {
	if d.Measure == CostMeasure {
		return fmt.Sprintf("cost of a call × %.2f", math.Exp(d.By()))
	}
	return fmt.Sprintf("quality %+.3f", d.By())
}

// Moved is the level after a move that has been approved.
func (d LevelDrift) Moved(at time.Time, bounds Bounds, by, reason string) Level {
	return Level{
		Key: d.Key, Measure: d.Measure, At: at, Value: d.To, Bound: bounds.Of(d.Measure), Ratings: d.Ratings, By: by, Reason: reason,
	}
}

// Says is what people's ratings say of a move, in words.
func (d LevelDrift) Says() string {
	switch d.Witness {
	case calibrate.CallsBetter, calibrate.CallsWorse:
		return fmt.Sprintf("people rate the calls %s, too: %+.3f (%+.3f to %+.3f), %d ratings", d.Witness, d.Human.By, d.Human.Low, d.Human.High, d.Ratings.Human.N)
	case calibrate.EvaluatorMoved:
		return fmt.Sprintf("people rate the calls as before, and the evaluators do not: %+.3f (%+.3f to %+.3f) against people, %d ratings",
			d.Judges.By, d.Judges.Low, d.Judges.High, d.Ratings.Human.N)
	case calibrate.Unclear:
		return fmt.Sprintf("people's ratings leave it open: %+.3f to %+.3f, %d ratings", d.Human.Low, d.Human.High, d.Ratings.Human.N)
	}
	if d.Measure == CostMeasure {
		return "no rating says what a call may cost"
	}
	return fmt.Sprintf("there are too few ratings to say (%d since; %d before and after are needed)", d.Ratings.Human.N, calibrate.LeastHeldOut)
}

// DriftReport is what a calibration found.
type DriftReport struct {
	At        time.Time    `json:"at"`
	Compared  int          `json:"compared"`            // levels of keys and measures
	First     int          `json:"first"`               // levels calibrated for the first time
	Confirmed []LevelDrift `json:"confirmed,omitempty"` // beyond the bound and moved, since people's ratings say so
	Refused   []LevelDrift `json:"refused,omitempty"`   // beyond the bound: they wait for a person
	Within    []LevelDrift `json:"within,omitempty"`    // the largest within the bound
	More      int          `json:"more,omitempty"`      // confirmed and refused ones that are not listed
}

// Open counts the moves that nobody has answered.
func (r DriftReport) Open() (n int) {
	for _, d := range r.Refused {
		if d.Verdict == "" {
			n++
		}
	}
	return n
}

// DriftRequest asks for the drift of a tenant's keys; of all with an empty one.
type DriftRequest struct {
	Tenant  string    `json:"tenant,omitempty"`
	At      time.Time `json:"at"`
	Buckets int       `json:"buckets"` // that a baseline takes to be relied on
	Bounds  Bounds    `json:"bounds"`
}

// MoveLevelsRequest has levels moved as a person approved, and baselines follow at once.
type MoveLevelsRequest struct {
	Levels      []Level                    `json:"levels"`
	Recalibrate RecalibrateActivityRequest `json:"recalibrate"`
}

// DecideMovesRequest approves or denies moves that wait: those of one key, or, without a model, of a tenant, or of all.
type DecideMovesRequest struct {
	Verdict string  `json:"verdict"` // approve or deny
	Tenant  string  `json:"tenant,omitempty"`
	Model   string  `json:"model,omitempty"`
	Measure Measure `json:"measure,omitempty"` // empty: both
	Who     string  `json:"who"`
	Reason  string  `json:"reason"`
}

// Of reports whether the request is about the move.
func (r DecideMovesRequest) Of(d LevelDrift) bool {
	return (r.Tenant == "" || r.Tenant == d.Key.Tenant) && (r.Model == "" || r.Model == d.Key.Model) && (r.Measure == "" || r.Measure == d.Measure)
}

// EvaluatorsRequest asks for the drift of every evaluator.
type EvaluatorsRequest struct {
	At time.Time `json:"at"`
}

// EvaluatorDrift is how far one version of an evaluator agrees with people, and has moved against them.
type EvaluatorDrift struct {
	EvaluatorVersion
	Standing Standing              `json:"standing"` // after this
	Gate     calibrate.Correlation `json:"gate"`
	Low      float64               `json:"low"` // of the interval of 95 % of Spearman's correlation
	High     float64               `json:"high"`
	Verdict  calibrate.Verdict     `json:"verdict"`
	Failed   bool                  `json:"failed,omitempty"` // it has come to fail now
	Judges   calibrate.Change      `json:"judges"`           // of its distance from people since it was anchored
	Mapped   bool                  `json:"mapped,omitempty"` // its scores are brought back to the anchor from now on
	Text     string                `json:"text"`             // what came of it
}
