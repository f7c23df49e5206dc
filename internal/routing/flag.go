// Package routing decides which model serves a call: flags and how they are rolled out and proved,
// tiers and floors, and the per-request decision over an in-memory snapshot.
package routing

import (
	"cmp"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Kind is what a flag orders.
type Kind string

// The kinds of flag. A key has at most one flag of each.
const (
	Route    Kind = "route"    // serve a share of the calls by another model
	Pin      Kind = "pin"      // serve by a named model version or template; no TTL
	Stop     Kind = "stop"     // refuse calls
	Shape    Kind = "shape"    // refuse a share of the calls for now, drawn anew each minute
	Sampling Kind = "sampling" // score this share of calls
)

// Sequence orders the writes of one key's flags: the AlertLoop's start in unix milliseconds, then
// its own counter. A write with a lower sequence than what is stored loses, so a late retry of an
// old order can never undo a newer one.
type Sequence struct {
	Loop int64 `json:"loop"`
	N    int64 `json:"n"`
}

// Compare orders sequences.
func (s Sequence) Compare(t Sequence) int {
	return cmp.Or(cmp.Compare(s.Loop, t.Loop), cmp.Compare(s.N, t.N))
}

// Flag is a routing order for one key, owned by the key's AlertLoop.
type Flag struct {
	Key       usage.Key `json:"key"`
	Kind      Kind      `json:"kind"`
	Value     string    `json:"value"` // the model to route to or pin; empty for stop and sampling
	Share     float64   `json:"share"` // of the key's calls that it touches, 0..1; the rest is the holdback
	Reason    string    `json:"reason"`
	Decision  string    `json:"decision_id"`
	Sequence  Sequence  `json:"sequence"`
	RenewedAt time.Time `json:"renewed_at"`
	ExpiresAt time.Time `json:"expires_at"` // after this no gateway obeys it, whatever its TTL; zero: never
}

// TTL and RenewEvery are how long Redis keeps a flag whose owner has gone silent, and how often the
// owner renews it.
const (
	TTL        = 30 * time.Minute
	RenewEvery = 10 * time.Minute
)
