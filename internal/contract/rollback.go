package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// RollBack is the action of undoing a deployment through its service's webhook. It sets no flag and has no
// rollout: the incident carries it out once it is approved, and the way back is another deployment.
const RollBack = "rollback"

// RollbackRequest asks the webhook of the deployment's service to undo the deployment.
type RollbackRequest struct {
	Incident   string           `json:"incident"`
	Key        usage.Key        `json:"key"`
	Deployment usage.Deployment `json:"deployment"`
	Attempt    int              `json:"attempt"` // of the decision; the idempotency key does not depend on it
}

// IdempotencyKey is the same for every call that would undo the same deployment for the same incident, so
// that the webhook can do it once however often it is told.
func (r RollbackRequest) IdempotencyKey() string {
	sum := sha256.Sum256([]byte(r.Incident + "\x00" + r.Deployment.Service + "\x00" + r.Deployment.ID + "\x00" + r.Deployment.Version))
	return hex.EncodeToString(sum[:16])
}

// RollbackResult is what a webhook answered, as evidence.
type RollbackResult struct {
	Decision string    `json:"decision"`
	Service  string    `json:"service"`
	Version  string    `json:"version"` // that was to be undone
	Status   int       `json:"status"`  // of HTTP; 0: no answer came
	Body     string    `json:"body"`    // its beginning
	Failed   string    `json:"failed,omitempty"`
	At       time.Time `json:"at"`
}
