package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/contract"
)

// Router gives each notice to the channels of its audience, the most urgent first. Every channel gets it
// once. One that cannot be reached is tried again as long as the caller's patience lasts, and meanwhile
// those that can be carry the notice for it and say so, so that somebody hears. What a channel missed is
// made up for by the next notice of the incident, which carries its whole state.
type Router struct {
	lines map[string]*line
	order map[contract.Audience][]string
	log   *slog.Logger
}

// NewRouter routes to channels by name, in the order given for each audience.
func NewRouter(channels map[string]Channel, order map[contract.Audience][]string, log *slog.Logger) *Router {
	r := &Router{lines: map[string]*line{}, order: order, log: log}
	for name, channel := range channels {
		r.lines[name] = &line{name: name, channel: channel, given: newRecent[given](memorized)}
	}
	return r
}

// The bounds on one delivery.
const (
	tryTimeout = 6 * time.Second  // of one try of one channel
	patience   = 12 * time.Second // of all tries, where the caller's context has no end
	margin     = time.Second      // that is left of the caller's time, to say what happened
	firstPause = time.Second      // before the second round of tries; doubled for each
)

// Post gives out a notice. Its error is an *Undelivered whenever a channel did not get it, though others
// did: whether that is worth another call is the caller's to judge, and another call gives nothing twice.
func (r *Router) Post(ctx context.Context, n contract.Notice) (contract.PostResult, error) {
	d := &delivery{log: r.log, notice: n, has: map[*line]int{}, failed: map[*line]error{}}
	for _, name := range r.order[n.For()] {
		if l, ok := r.lines[name]; ok {
			d.lines = append(d.lines, l)
		}
	}
	deadline, ends := ctx.Deadline()
	if !ends {
		deadline = time.Now().Add(patience)
	}
	for _, l := range d.lines {
		d.try(ctx, l)
	}
	d.carry(ctx)
	for pause := firstPause; d.again(ctx, pause, deadline.Add(-margin)); pause *= 2 {
		d.carry(ctx)
	}
	return d.result()
}

// delivery is one notice on its way.
type delivery struct {
	log    *slog.Logger
	notice contract.Notice
	lines  []*line
	has    map[*line]int   // how many unreached channels it was told of with the notice
	failed map[*line]error // and why
}

// try gives the notice to one channel.
func (d *delivery) try(ctx context.Context, l *line) {
	n := d.notice
	if n.Calls() {
		n.Unreached = d.unreached(l)
	}
	if err := l.post(ctx, n); err != nil {
		d.failed[l] = err
		return
	}
	delete(d.failed, l)
	d.has[l] = len(n.Unreached)
}

// unreached names the channels but l that do not have the notice.
func (d *delivery) unreached(l *line) []string {
	var names []string
	for _, other := range d.lines {
		if _, failed := d.failed[other]; failed && other != l {
			names = append(names, other.name)
		}
	}
	return names
}

// carry gives the notice again to those that got it before it was known how many others would not: they
// carry it for these too.
func (d *delivery) carry(ctx context.Context) {
	for _, l := range d.lines {
		if told, has := d.has[l]; has && d.notice.Calls() && len(d.unreached(l)) > told {
			n := d.notice
			n.Unreached = d.unreached(l)
			if err := l.post(ctx, n); err == nil {
				d.has[l] = len(n.Unreached)
			}
		}
	}
}

// again tries those once more that may take the notice yet, after a pause at least as long as they are to be
// left alone; false: there are none, or no time is left for it.
func (d *delivery) again(ctx context.Context, pause time.Duration, deadline time.Time) bool {
	var waiting []*line
	var wait time.Duration
	for _, l := range d.lines {
		err, failed := d.failed[l]
		if !failed || !retryable(err) {
			continue
		}
		needed := max(pause, l.wait())
		if len(waiting) == 0 || needed < wait {
			wait = needed
		}
		waiting = append(waiting, l)
	}
	if len(waiting) == 0 || time.Now().Add(wait).After(deadline) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
	}
	for _, l := range waiting {
		d.try(ctx, l)
	}
	return true
}

// result is what became of the notice.
func (d *delivery) result() (contract.PostResult, error) {
	var result contract.PostResult
	for _, l := range d.lines {
		if _, has := d.has[l]; has {
			result.Posted = append(result.Posted, l.name)
		}
	}
	if len(d.failed) == 0 {
		return result, nil
	}
	result.Unreached = map[string]string{}
	undelivered := &Undelivered{}
	for _, l := range d.lines {
		err, failed := d.failed[l]
		if !failed {
			continue
		}
		result.Unreached[l.name] = err.Error()
		undelivered.causes = append(undelivered.causes, fmt.Errorf("%s: %w", l.name, err))
		undelivered.retryable = undelivered.retryable || retryable(err)
		d.log.Warn("a channel does not have a notice", "channel", l.name, "notice", d.notice.Kind, "id", d.notice.ID,
			"why", err, "carried_by", strings.Join(result.Posted, ", "))
	}
	return result, undelivered
}

// Undelivered says which channels did not get a notice.
type Undelivered struct {
	causes    []error
	retryable bool
}

// Error names the channels and why each did not.
func (u *Undelivered) Error() string { return errors.Join(u.causes...).Error() }

// Unwrap gives the causes.
func (u *Undelivered) Unwrap() []error { return u.causes }

// Retryable reports whether one of them may get it yet with nothing mended by a person.
func (u *Undelivered) Retryable() bool { return u.retryable }
