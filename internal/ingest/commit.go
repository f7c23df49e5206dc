package ingest

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Bounds of one frame and of one commit.
const (
	frameRows   = 4096
	frameBytes  = 1 << 20
	commitBytes = 32 << 20
	housekeep   = time.Minute
	attend      = 500 * time.Millisecond // how often those that wait are looked after
)

// errBusy and errFull are why accepting fails for now; the handlers map them to status codes.
var (
	errBusy   = errors.New("the spool is full: the store behind it is away or slow; try again later")
	errFull   = errors.New("the spool's disk is full")
	errClosed = errors.New("ingest is shutting down")
)

// unit is a record of a request, kept or dropped whole: a span with the quality inside it, an event or a
// deployment.
type unit struct {
	index int // in the request
	kind  kind
	id    id
	body  slice // encoded; events are encoded when they are joined

	trace, any id // a span's traces, in its tenant and in any
	dims       dimensions
	unpriced   string // the model that has no price
	incomplete bool
	dropped    bool // by the committer: it had been accepted before

	event event // an event, or the one inside a span

	content slice  // encoded; empty: not to be kept
	heard   *Heard // nil: nobody wants to score it
}

// slice is a part of a request's buffer.
type slice struct{ from, to int }

// request is the good records of one sender's request on their way to the disk.
type request struct {
	ingest *Ingest
	units  []unit
	buf    []byte
	done   chan error

	// Set by the committer before done.
	accepted, duplicates int
	refused              []refusal
}

func newRequest(i *Ingest) *request { return &request{ingest: i, done: make(chan error, 1)} }

// addSpan prices and encodes a span, and gives it its task's complexity when it has none, that is 0, or 1 when the
// task has none either. The request keeps nothing of s.
func (r *request) addSpan(index int, s *usage.Span, q *usage.Quality) {
	u := unit{
		index: index, kind: kindSpan, id: spanID(s.TenantID, s.TraceID, s.SpanID),
		trace: traceID(s.TenantID, s.TraceID), dims: dimensionsOf(s), incomplete: !s.UsageComplete,
	}
	if r.ingest.anyTenant {
		u.any = traceID("", s.TraceID)
	}
	if score := r.ingest.opt.Complexity; score != nil && s.Complexity == 0 && s.Task != "" {
		s.Complexity = score(s.TenantID, s.Task)
	}
	set(&s.Complexity, 1)
	if s.PriceVersion == "" {
		_ = r.ingest.opt.Book.Price(s) // without a price the span is unpriced, and counted
	}
	if !s.Priced {
		u.unpriced = s.Model
	}
	if q != nil {
		u.event = r.score(q)
	}
	from := len(r.buf)
	r.buf = appendSpan(r.buf, s)
	u.body = slice{from, len(r.buf)}
	r.units = append(r.units, u)
}

func (r *request) addQuality(index int, q *usage.Quality) {
	r.addEvent(index, r.score(q))
}

// score is a copy of the score as it counts.
func (r *request) score(q *usage.Quality) scoreEvent {
	score := *q
	if r.ingest.opt.Standing != nil {
		r.ingest.opt.Standing(&score)
	}
	return scoreEvent{&score}
}

func (r *request) addOutcome(index int, o *usage.Outcome) {
	outcome := *o
	r.addEvent(index, outcomeEvent{&outcome})
}

func (r *request) addEvent(index int, e event) {
	r.units = append(r.units, unit{index: index, id: e.identity(), event: e})
}

func (r *request) addDeployment(index int, d *usage.Deployment) {
	from := len(r.buf)
	r.buf = appendDeployment(r.buf, d)
	r.units = append(r.units, unit{index: index, kind: kindDeployment, id: deploymentID(d), body: slice{from, len(r.buf)}})
}

// submit waits until the request's records are durable. When ctx ends while they stand in the queue, it waits all
// the same: the memory that they take there must be accounted for.
func (i *Ingest) submit(ctx context.Context, req *request) error {
	if len(req.units) == 0 {
		return nil
	}
	select {
	case <-i.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	case i.queue <- req:
	}
	select {
	case err := <-req.done:
		if err == nil {
			i.tell(req)
		}
		return err
	case <-i.stopped:
		select {
		case err := <-req.done:
			return err
		default:
			return errClosed
		}
	}
}

// commits is the committer: it alone appends to the spool and knows the ids. One write and one sync
// serve all requests that have come meanwhile.
func (i *Ingest) commits() {
	defer close(i.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		if cancel(); i.asking {
			<-i.answers
		}
	}()
	tick, often := time.NewTicker(housekeep), time.NewTicker(attend)
	defer tick.Stop()
	defer often.Stop()
	for {
		select {
		case <-i.closing:
			return
		case <-tick.C:
			i.forgetSummaries()
		case <-often.C:
			i.expire()
			i.ask(ctx, i.opt.Now())
		case answer := <-i.answers:
			i.answered(answer)
		case first := <-i.queue:
			group, size := []*request{first}, len(first.buf)
			for len(i.queue) > 0 && size < commitBytes {
				next := <-i.queue
				group, size = append(group, next), size+len(next.buf)
			}
			err := i.commit(group)
			for _, req := range group {
				req.done <- err
			}
		}
	}
}

// commit is one group's commit in the making. Its marks on memory and lounge are taken back when
// the write fails.
type commit struct {
	*Ingest
	at        time.Time
	began     int // of the open frame
	frameRows int
	rows      int64
	added     []id
	entered   []*waiting
	left      []*waiting
	expired   int64
}

func (i *Ingest) commit(group []*request) error {
	if err := i.admit(); err != nil {
		return err
	}
	c := i.begin()
	defer i.end()
	for _, req := range group {
		req.accepted, req.duplicates, req.refused = 0, 0, nil
		for n := range req.units {
			c.unit(req, &req.units[n])
		}
	}
	if err := c.write(); err != nil {
		return err
	}
	for _, req := range group {
		i.stats.count(req)
	}
	if gone := i.memory.forgotten; gone > i.stats.forgotten.Swap(gone) {
		i.log.Warn("ids were forgotten before their day was over: a retry of their records would count twice", "ids", gone)
	}
	return nil
}

// admit refuses more while the spool or its disk is full.
func (i *Ingest) admit() error {
	if i.spool.backlog(i.cursor.Load()) > i.opt.MaxSpool {
		return errBusy
	}
	if left, err := free(i.opt.Dir); err == nil && left < i.opt.MinFree {
		return fmt.Errorf("%w: %d MiB are left, %d MiB must stay free", errFull, left>>20, i.opt.MinFree>>20)
	}
	return nil
}

func (i *Ingest) begin() *commit {
	i.commitMu.Lock()
	defer i.commitMu.Unlock()
	i.committing = i.opt.Now()
	i.buf = i.buf[:0]
	return &commit{Ingest: i, at: i.committing}
}

func (i *Ingest) end() {
	i.commitMu.Lock()
	i.committing = time.Time{}
	i.commitMu.Unlock()
	if cap(i.buf) > 4*frameBytes {
		i.buf = nil
	}
}

// record appends one record to the open frame.
func (c *commit) record(k kind, parts ...[]byte) {
	if c.frameRows == 0 {
		c.began = len(c.buf)
		c.buf = beginFrame(c.buf, c.at)
	}
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	c.buf = appendRecord(c.buf, k, size, parts...)
	c.frameRows++
	if !k.waits() {
		c.rows++
	}
	if c.frameRows >= frameRows || len(c.buf)-c.began >= frameBytes {
		c.closeFrame()
	}
}

func (c *commit) closeFrame() {
	if c.frameRows > 0 {
		endFrame(c.buf, c.began)
		c.frameRows = 0
	}
}

func (c *commit) write() error {
	c.closeFrame()
	if len(c.buf) == 0 {
		return nil
	}
	if err := c.spool.append(c.buf); err != nil {
		c.undo()
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return fmt.Errorf("%w: %w", errFull, err)
		}
		return err
	}
	c.Ingest.rows.Add(c.rows)
	c.stats.waiting.Store(int64(len(c.lounge.byID)))
	c.stats.expired.Add(c.expired)
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return nil
}

// undo takes the marks back in the reverse order: an event that came in with its span has entered before it left.
func (c *commit) undo() {
	for _, w := range c.left {
		c.lounge.enter(w)
	}
	for _, w := range c.entered {
		c.lounge.leave(w)
	}
	for _, k := range c.added {
		c.memory.remove(k)
	}
}

// remember adds an id and reports whether it was new.
func (c *commit) remember(k id, d dimensions) bool {
	if _, known := c.memory.find(k); known {
		return false
	}
	c.memory.add(k, d, c.at)
	c.added = append(c.added, k)
	return true
}

func (c *commit) unit(req *request, u *unit) {
	switch {
	case u.kind == kindSpan:
		if u.dropped = !c.remember(u.id, u.dims); !u.dropped {
			c.record(kindSpan, req.buf[u.body.from:u.body.to])
			if u.content != (slice{}) {
				c.record(kindContent, req.buf[u.content.from:u.content.to])
			}
			c.remember(u.trace, u.dims)
			if u.any != (id{}) {
				c.remember(u.any, u.dims)
			}
		}
		// Of a write that was torn off here the span may be known and these not.
		if u.event != nil && c.remember(u.event.identity(), dimensions{}) {
			c.event(u.event)
		}
		c.release(u)
		if u.dropped {
			req.duplicates++
			return
		}
	case u.event != nil:
		c.join(req, u)
		return
	default:
		if !c.remember(u.id, dimensions{}) {
			req.duplicates++
			return
		}
		c.record(u.kind, req.buf[u.body.from:u.body.to])
	}
	req.accepted++
}

func (c *commit) event(e event) {
	k, body := e.encode()
	c.record(k, body)
}

// release lets the events go that waited for this span or its trace.
func (c *commit) release(u *unit) {
	for _, awaited := range [...]id{u.id, u.trace, u.any} {
		for _, w := range c.lounge.waitingFor(awaited) {
			c.released(w, filled(w.event, u.dims))
		}
	}
}

// released writes down an event that waits no more.
func (c *commit) released(w *waiting, e event) {
	c.lounge.leave(w)
	c.left = append(c.left, w)
	c.joined(w.id, e)
}

// joined writes down an event behind the id that it was sent with.
func (c *commit) joined(sent id, e event) {
	k, body := e.encode()
	c.record(kindReleased, sent[:], []byte{byte(k)}, body)
}

// join stores an event with the dimensions of its span: as sent, as remembered, or later.
func (c *commit) join(req *request, u *unit) {
	if _, known := c.memory.find(u.id); known {
		req.duplicates++
		return
	}
	about := u.event.subject()
	dims, joined := c.memory.find(about.awaits())
	joined = joined && dims != (dimensions{}) // else its span is known and what it was is lost: the store may know
	full := len(c.lounge.byID) >= c.opt.MaxWaiting
	if !joined && full && !about.described() {
		req.refused = append(req.refused, refusal{
			u.index, "trace_id",
			"its span is not known yet and too many events wait for theirs: send tenant_id and model, or try again later",
		})
		return
	}
	c.remember(u.id, dimensions{})
	req.accepted++
	if !joined && !full {
		w := newWaiting(u.event, c.at)
		c.lounge.enter(w)
		c.entered = append(c.entered, w)
		k, body := u.event.encode()
		c.record(kindWaiting, []byte{byte(k)}, body)
		return
	}
	if joined {
		about.fill(dims)
	}
	if u.event.identity() != u.id { // it has its tenant from its span: a retry must be known after a restart too
		c.joined(u.id, u.event)
		return
	}
	c.event(u.event)
}

// expire stores the events that have waited long enough as they are.
func (i *Ingest) expire() {
	now := i.opt.Now()
	if now.Before(i.pause) {
		return
	}
	late := i.lounge.those(func(w *waiting) bool { return w.over(now, i.opt.Lookup != nil) })
	if len(late) == 0 {
		return
	}
	c := i.begin()
	for _, w := range late {
		if !w.event.subject().described() {
			c.expired++
		}
		c.released(w, w.event)
	}
	lost := c.expired
	err := c.write()
	i.end()
	switch {
	case err != nil:
		i.pause = now.Add(housekeep)
		i.log.Error("store events whose span did not come", "events", len(late), "error", err)
	case lost > 0:
		i.log.Warn("stored events whose span never came", "events", lost)
	}
}
