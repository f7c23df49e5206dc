package router

import (
	"fmt"
	"time"
)

// State is what a version of the predictor is used for.
type State string

// The states. A version that was rolled back is never gone back to.
const (
	Shadow     State = "shadow" // it is compared with the one in use, and acts on nothing
	InUse      State = "in_use"
	Retired    State = "retired"
	RolledBack State = "rolled_back"
)

// Version is a version and where it stands.
type Version struct {
	Version   string    `json:"version"`
	TrainedAt time.Time `json:"trained_at"`
	N         int       `json:"n"`
	State     State     `json:"state"`
	Since     time.Time `json:"since"`
	By        string    `json:"by,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Used      bool      `json:"used"` // it was in use at some time
}

// Change puts a version into a state.
type Change struct {
	Version string    `json:"version"`
	State   State     `json:"state"`
	Since   time.Time `json:"since"`
	By      string    `json:"by"`
	Reason  string    `json:"reason"`
}

// Lineup is who is what: the version in use, the one before it, to which it is rolled back, and the one in shadow.
type Lineup struct{ InUse, Before, Shadow *Version }

// LineupOf finds them among all versions, whatever their order.
func LineupOf(versions []Version) (l Lineup) {
	newer := func(at **Version, v *Version) {
		if *at == nil || v.Since.After((*at).Since) || v.Since.Equal((*at).Since) && v.Version > (*at).Version {
			*at = v
		}
	}
	for i := range versions {
		switch v := &versions[i]; {
		case v.State == InUse:
			newer(&l.InUse, v)
		case v.State == Shadow:
			newer(&l.Shadow, v)
		case v.State == Retired && v.Used:
			newer(&l.Before, v)
		}
	}
	return l
}

// Use puts a version in use, and the one that was there into the given state.
func (l Lineup) Use(version string, then State, at time.Time, by, reason string) []Change {
	changes := []Change{{version, InUse, at, by, reason}}
	if l.InUse != nil && l.InUse.Version != version {
		changes = append(changes, Change{l.InUse.Version, then, at, by, reason})
	}
	return changes
}

// Introduce puts a new version into the shadow, and one that is there out of it.
func (l Lineup) Introduce(version string, at time.Time, by string) []Change {
	changes := []Change{{version, Shadow, at, by, "trained"}}
	if l.Shadow != nil && l.Shadow.Version != version {
		changes = append(changes, Change{l.Shadow.Version, Retired, at, by, "a newer one was trained: " + version})
	}
	return changes
}

// Rollback goes back to the version before, or to none where there is none. Without a version in use there is nothing to
// roll back.
func (l Lineup) Rollback(at time.Time, by, reason string) ([]Change, error) {
	if l.InUse == nil {
		return nil, fmt.Errorf("no version is in use")
	}
	changes := []Change{{l.InUse.Version, RolledBack, at, by, reason}}
	if l.Before != nil {
		changes = append(changes, Change{l.Before.Version, InUse, at, by, "gone back to: " + reason})
	}
	return changes, nil
}
