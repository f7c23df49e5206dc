package routing

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Revision identifies one state of the stored flags. Two revisions are the same state or they are
// not; they have no order across epochs, because a wiped store counts from one again.
type Revision struct {
	Epoch   string `json:"epoch"`
	Version int64  `json:"version"`
}

// Snapshot is an immutable, indexed view of all flags at one revision. The zero Snapshot holds no
// flags and is ready to use; any number of goroutines may decide on one.
type Snapshot struct {
	Revision Revision
	byKey    map[usage.Key]keyFlags
}

// keyFlags are the flags of one key; a kind without a flag is nil.
type keyFlags struct{ stop, shape, pin, route, sampling *Flag }

func (k *keyFlags) slot(kind Kind) **Flag {
	switch kind {
	case Stop:
		return &k.stop
	case Shape:
		return &k.shape
	case Pin:
		return &k.pin
	case Route:
		return &k.route
	case Sampling:
		return &k.sampling
	}
	return nil
}

// NewSnapshot indexes flags. Flags of an unknown kind are left out, so that an older gateway is not
// stopped by a newer order; of two flags for one key and kind the higher sequence counts.
func NewSnapshot(flags []Flag, revision Revision) *Snapshot {
	s := &Snapshot{Revision: revision, byKey: make(map[usage.Key]keyFlags, len(flags))}
	for i := range flags {
		f := flags[i]
		k := s.byKey[f.Key]
		slot := k.slot(f.Kind)
		if slot == nil || (*slot != nil && (*slot).Sequence.Compare(f.Sequence) >= 0) {
			continue
		}
		*slot = &f
		s.byKey[f.Key] = k
	}
	return s
}

// Live lists the flags that are obeyed at the given time, ordered by tenant, model and kind.
func (s *Snapshot) Live(now time.Time) []Flag {
	live := []Flag{}
	for _, k := range s.byKey {
		for _, f := range []*Flag{k.stop, k.shape, k.pin, k.route, k.sampling} {
			if f.Live(now) {
				live = append(live, *f)
			}
		}
	}
	slices.SortFunc(live, func(a, b Flag) int {
		return cmp.Or(cmp.Compare(a.Key.Tenant, b.Key.Tenant), cmp.Compare(a.Key.Model, b.Key.Model), cmp.Compare(a.Kind, b.Kind))
	})
	return live
}

// Live reports whether the flag is obeyed at the given time: not after ExpiresAt, and, pins apart,
// not when its owner has been silent for TTL. The second rule repeats the store's own, so that a
// gateway cut off from the store does not obey an abandoned order for ever. A nil flag is not live.
func (f *Flag) Live(now time.Time) bool {
	switch {
	case f == nil:
		return false
	case !f.ExpiresAt.IsZero() && !now.Before(f.ExpiresAt):
		return false
	case f.Kind == Pin || f.RenewedAt.IsZero():
		return true
	default:
		return now.Before(f.RenewedAt.Add(TTL))
	}
}

// Request is what a gateway asks about one call before it is made. Tokens are the caller's estimate.
type Request struct {
	TenantID        string `json:"tenant_id"`
	SessionID       string `json:"session_id,omitempty"`
	TraceID         string `json:"trace_id"`
	RequestedModel  string `json:"requested_model"`
	InputTokens     int64  `json:"input_tokens"`
	MaxOutputTokens int64  `json:"max_output_tokens,omitempty"`
	Task            string `json:"task,omitempty"`
}

// Key is the key that the call belongs to.
func (r *Request) Key() usage.Key { return usage.Key{Tenant: r.TenantID, Model: r.RequestedModel} }

// Direct is the route of a call that goes to the requested model, and nothing touched; the route of every other call is
// the kind of the flag that touched it, or Fallback, SessionBudget or TenantBudget.
const Direct = "direct"

// Answer is what to do with one call. Route, Arm and DecisionID belong on the call's span: they are
// what the proof compares.
type Answer struct {
	Model      string    `json:"model"` // the model to call; the requested one when Stop
	Route      string    `json:"route"`
	Reason     string    `json:"reason"`
	Arm        usage.Arm `json:"arm"`
	Share      float64   `json:"share"`                         // the flag's; 0 without a flag
	DecisionID string    `json:"decision_id,omitempty"`         // of the flag whose arm the call is in
	Stop       bool      `json:"stop"`                          // refuse the call
	RetryAfter int       `json:"retry_after_seconds,omitempty"` // of a refused call that may be made later; 0: that is no use
}

// Decide says which model serves the call. A stop goes before a shape, that before a pin and a pin before a route; a
// call that the shares of all of a key's flags leave alone is that key's holdback. A call stays in
// its arm for as long as the flag's decision lasts: see Position. What a shape refuses is drawn anew each minute, so
// that a session is kept out for a while and never for good.
func Decide(s *Snapshot, r Request, now time.Time) Answer {
	answer := Answer{Model: r.RequestedModel, Route: Direct, Arm: usage.None, Reason: "no flag is on for this key"}
	key := r.Key()
	flags, ok := s.byKey[key]
	if !ok {
		return answer
	}
	for _, f := range [...]*Flag{flags.stop, flags.shape, flags.pin, flags.route} {
		if !f.Live(now) {
			continue
		}
		drawn, retry := f.Decision, 0
		if f.Kind == Shape {
			drawn, retry = lot(f.Decision, r.unit(), now)
		}
		if Position(key, drawn, r.unit()) < f.Share {
			answer = Answer{
				Model: f.Value, Route: string(f.Kind), Arm: usage.Treated,
				Reason: f.Reason, Share: f.Share, DecisionID: f.Decision,
			}
			if f.Kind == Stop || f.Kind == Shape {
				answer.Model, answer.Stop = r.RequestedModel, true
			}
			answer.RetryAfter = retry
			return answer
		}
		if answer.Arm == usage.None {
			answer.Arm, answer.Share, answer.DecisionID = usage.Holdback, f.Share, f.Decision
			answer.Reason = "holdback: left alone to show whether the flag helps"
		}
	}
	return answer
}

// lot names the lot that a session (or trace) draws at the time, and says in how many seconds it draws the next. Each
// has a minute of its own, so that those who are refused do not all come back at once.
func lot(decision, unit string, now time.Time) (drawn string, left int) {
	at := now.Unix() + int64(60*unitInterval(hash(hash(fnvOffset, "shape"), unit)))
	return decision + "@" + strconv.FormatInt(at/60, 10), int(60 - at%60)
}

// unit is what is assigned to an arm: a whole session, so that a conversation does not change its
// model midway, or else the single trace.
func (r *Request) unit() string {
	if r.SessionID != "" {
		return r.SessionID
	}
	return r.TraceID
}

// Position is where a session (or trace) stands in [0, 1) for one decision on one key. It is below
// the flag's share for treated calls, so raising the share only ever adds sessions to the treated
// arm. It depends on the decision, so that the holdback is drawn anew for each.
func Position(key usage.Key, decision, unit string) float64 {
	h := hash(fnvOffset, key.Tenant)
	h = hash(h, key.Model)
	h = hash(h, decision)
	return unitInterval(hash(h, unit))
}

// Sampled says whether a call is to be scored, the rate that was applied, and the kind of the flag that
// raised it; empty where classRate stands. While a stop, pin or route flag is on, every call is, for the
// proof needs scores from both arms; else the higher of classRate and the key's sampling flag counts. The
// answer depends on the trace id alone, so that all who ask about one trace agree, and a higher rate keeps
// all that a lower one chose.
func Sampled(s *Snapshot, key usage.Key, traceID string, classRate float64, now time.Time) (sampled bool, rate float64, raisedBy Kind) {
	rate = classRate
	flags := s.byKey[key]
	for _, f := range [...]*Flag{flags.stop, flags.shape, flags.pin, flags.route, flags.sampling} {
		if !f.Live(now) {
			continue
		}
		share := f.Share
		if f.Kind != Sampling {
			share = 1
		}
		if share > rate {
			rate, raisedBy = share, f.Kind
		}
	}
	return unitInterval(hash(hash(fnvOffset, "sampling"), traceID)) < rate, rate, raisedBy
}

// The 64-bit FNV-1a constants.
const (
	fnvOffset uint64 = 14695981039346656037
	fnvPrime  uint64 = 1099511628211
)

// hash continues an FNV-1a hash over the string and then its length, so that moving a byte from one
// field to the next gives another hash. It never changes: gateways of two versions must agree.
func hash(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	for n := uint64(len(s)); ; n >>= 8 {
		h = (h ^ n&0xff) * fnvPrime
		if n < 0x100 {
			return h
		}
	}
}

// unitInterval spreads a hash evenly over [0, 1): FNV leaves the high bits of short inputs poorly
// mixed, so they pass through the finaliser of SplitMix64 first.
func unitInterval(h uint64) float64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	h ^= h >> 31
	return float64(h>>11) / (1 << 53)
}
