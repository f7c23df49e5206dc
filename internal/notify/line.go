package notify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// The circuit breaker's numbers.
const (
	breakAfter = 3                // failures in a row
	firstBreak = 15 * time.Second // then nothing is tried for so long; doubled for each failure after
	maxBreak   = 2 * time.Minute
	maxAsked   = 10 * time.Minute // the longest that a channel may ask to be left alone
)

// line is one channel with a circuit breaker, so that one that is dead does not eat every notice's
// patience, and a memory of what the channel has, so that nothing is given to it twice.
type line struct {
	name    string
	channel Channel

	mu       sync.Mutex
	given    *recent[given]
	failures int       // in a row
	shut     time.Time // nothing is tried before
	probing  bool      // one try is under way that says whether the channel is back
	last     error
}

// given is a notice that the channel has.
type given struct {
	kind      contract.NoticeKind
	id        string
	seq       int
	unreached string // the channels for which it was carried
}

// errShut is what is said of a channel that is not tried now.
type errShut struct {
	until time.Time
	last  error
}

func (e *errShut) Error() string {
	return fmt.Sprintf("not tried again before %s: %v", e.until.UTC().Format(time.TimeOnly), e.last)
}

// Unwrap gives the failure that shut it.
func (e *errShut) Unwrap() error { return e.last }

// Retryable reports that time mends it.
func (e *errShut) Retryable() bool { return true }

// post gives the channel a notice, unless it has it or is not to be tried now.
func (l *line) post(ctx context.Context, n contract.Notice) error {
	key := given{n.Kind, n.ID, n.Seq, fmt.Sprint(n.Unreached)}
	if has, err := l.enter(key); has || err != nil {
		return err
	}
	try, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	err := l.channel.Post(try, n)
	l.leave(key, err, ctx.Err() != nil)
	return err
}

// wait is how long the channel is not to be tried.
func (l *line) wait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Until(l.shut)
}

// enter asks whether a try is due.
func (l *line) enter(key given) (has bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given.has(key) {
		return true, nil
	}
	if time.Now().Before(l.shut) || l.probing {
		return false, &errShut{l.shut, l.last}
	}
	l.probing = l.failures >= breakAfter
	return false, nil
}

// leave tells what came of a try. One that was called off says nothing about the channel.
func (l *line) leave(key given, err error, calledOff bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.probing = false
	switch {
	case err == nil:
		l.failures, l.last = 0, nil
		l.given.add(key)
	case calledOff:
	case !retryable(err): // it answers
		l.failures = 0
	default:
		l.failures++
		l.last = err
		if l.failures >= breakAfter {
			l.shut = time.Now().Add(min(firstBreak<<min(l.failures-breakAfter, 10), maxBreak))
		}
		if asked := min(retryAfter(err), maxAsked); asked > 0 {
			l.shut = time.Now().Add(asked)
		}
	}
}

// memorized bounds each memory: enough for hours of storms.
const memorized = 10_000

// recent remembers the newest of what it is given.
type recent[T comparable] struct {
	set   map[T]struct{}
	order []T // a ring once it is full
	next  int
}

func newRecent[T comparable](limit int) *recent[T] {
	return &recent[T]{set: map[T]struct{}{}, order: make([]T, 0, limit)}
}

func (m *recent[T]) has(v T) bool { _, ok := m.set[v]; return ok }

func (m *recent[T]) add(v T) {
	switch {
	case m.has(v):
		return
	case len(m.order) < cap(m.order):
		m.order = append(m.order, v)
	default:
		delete(m.set, m.order[m.next])
		m.order[m.next] = v
		m.next = (m.next + 1) % len(m.order)
	}
	m.set[v] = struct{}{}
}
