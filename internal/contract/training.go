package contract

import (
	"time"

	"github.com/flyball-dev/flyball/internal/router"
)

// RouterTrainingID is the id of the training of the predictor of quality.
const RouterTrainingID = "router-training"

// RouterTrainingSchedule is the id of the schedule that starts it each week.
const RouterTrainingSchedule = "router-weekly"

// RouterWatchID is the id of the watch over the version in use, and RouterWatchSchedule that of the schedule that starts
// it each hour.
const (
	RouterWatchID       = "router-watch"
	RouterWatchSchedule = "router-hourly"
)

// RouterTrainingInput has the predictor's versions judged, and the next one trained.
type RouterTrainingInput struct {
	Watch bool `json:"watch,omitempty"` // only roll back the version in use, should it have come to be worse
}

// RouterTrainingState answers its query, and is its result.
type RouterTrainingState struct {
	At      time.Time       `json:"at"` // up to when calls count
	Verdict *router.Verdict `json:"verdict,omitempty"`
	Trained *TrainedRouter  `json:"trained,omitempty"` // nil: not yet, or a version waits in the shadow still
	Failed  string          `json:"failed,omitempty"`
}

// RouterActivityRequest asks for a verdict on versions, or for a new one, by the scored calls before a time.
type RouterActivityRequest struct {
	At    time.Time `json:"at"`
	Watch bool      `json:"watch,omitempty"` // look at the version in use alone
}

// RouterVerdict is what is to become of the predictor's versions.
type RouterVerdict struct {
	router.Verdict
	Waits string `json:"waits,omitempty"` // the version that is in the shadow after that
}

// TrainedRouter is a version that was trained and stored, or why there is none.
type TrainedRouter struct {
	Version string          `json:"version,omitempty"`
	N       int             `json:"n,omitempty"` // scored calls
	Heads   int             `json:"heads,omitempty"`
	Few     string          `json:"few,omitempty"`     // why there is none
	Changes []router.Change `json:"changes,omitempty"` // that put it into the shadow
}

// ChangeRouterRequest stores what becomes of the predictor's versions.
type ChangeRouterRequest struct {
	Changes []router.Change `json:"changes"`
}
