package evaluate

import (
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// budget keeps judges below a cap of one UTC day. What a call may cost at most is held before it and settled after it.
// What others spend, and what this process did before it was restarted, is read from the store; what this process
// spends it knows itself, so that neither counts twice nor a store that lags loses anything.
type budget struct {
	cap usage.PicoUSD

	mu     sync.Mutex
	day    time.Time
	known  bool          // what others have spent today; until then nothing may be spent
	others usage.PicoUSD // by the store
	own    usage.PicoUSD
	held   usage.PicoUSD // by calls under way, whichever day they began on
}

func dayOf(now time.Time) time.Time { return now.UTC().Truncate(24 * time.Hour) }

// turn begins a new day.
func (b *budget) turn(now time.Time) {
	if day := dayOf(now); day.After(b.day) {
		b.day, b.own, b.others = day, 0, 0
	}
}

// hold sets an amount aside, or reports that it does not fit any more.
func (b *budget) hold(amount usage.PicoUSD, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	// Compared by what is left: sums of what is hostile must not overflow.
	if !b.known || amount < 0 || amount > b.cap-b.others-b.own-b.held {
		return false
	}
	b.held += amount
	return true
}

// settle replaces what was held by what was spent.
func (b *budget) settle(held, spent usage.PicoUSD, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	b.held -= held
	b.own += spent
}

// learn takes in what others have spent on a day. An answer about yesterday is of no use today.
func (b *budget) learn(others usage.PicoUSD, day, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	if day.Equal(b.day) {
		b.others, b.known = others, true
	}
}

// state is what has been spent and what is held today.
func (b *budget) state(now time.Time) (spent, held usage.PicoUSD, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	return b.others + b.own, b.held, b.known
}
