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
)

// errBusy and errFull are why accepting fails for now; the handlers map them to status codes.
var (
	errBusy   = errors.New("the spool is full: the store behind it is away or slow; try again later")
	errFull   = errors.New("the spool's disk is full")
	errClosed = errors.New("ingest is shutting down")
)

// unit is a record of a request, kept or dropped whole: a span with the quality inside it, a quality
// event or a deployment.
type unit struct {
	index int // in the request
	kind  kind
	id    id
	body  slice // encoded; quality events are encoded when they are joined

	trace, any id // a span's traces, in its tenant and in any
	dims       dimensions
	unpriced   string // the model that has no price
	incomplete bool
	dropped    bool // by the committer: it had been accepted before

	quality *usage.Quality // a quality event, or the one inside a span
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

// addSpan prices and encodes a span. The request keeps nothing of s.
func (r *request) addSpan(index int, s *usage.Span, q *usage.Quality) {
	u := unit{
		index: index, kind: kindSpan, id: spanID(s.TenantID, s.TraceID, s.SpanID),
		trace: traceID(s.TenantID, s.TraceID), dims: dimensionsOf(s), incomplete: !s.UsageComplete,
	}
	if r.ingest.anyTenant {
		u.any = traceID("", s.TraceID)
	}
	if s.PriceVersion == "" {
		_ = r.ingest.opt.Book.Price(s) // without a price the span is unpriced, and counted
	}
	if !s.Priced {
		u.unpriced = s.Model
	}
	if q != nil {
		event := *q
		u.quality = &event
	}
	from := len(r.buf)
	r.buf = appendSpan(r.buf, s)
	u.body = slice{from, len(r.buf)}
	r.units = append(r.units, u)
}

func (r *request) addQuality(index int, q *usage.Quality) {
	event := *q
	r.units = append(r.units, unit{index: index, kind: kindQuality, id: qualityID(q), quality: &event})
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
	tick := time.NewTicker(housekeep)
	defer tick.Stop()
	for {
		select {
		case <-i.closing:
			return
		case <-tick.C:
			i.expire()
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
	i.lounge.tidy()
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
	if k != kindWaiting {
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

func (c *commit) undo() {
	for _, k := range c.added {
		c.memory.remove(k)
	}
	for _, w := range c.entered {
		c.lounge.leave(w)
	}
	for _, w := range c.left {
		c.lounge.restore(w)
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
	switch u.kind {
	case kindQuality:
		c.quality(req, u)
		return
	case kindSpan:
		if u.dropped = !c.remember(u.id, u.dims); !u.dropped {
			c.record(kindSpan, req.buf[u.body.from:u.body.to])
			c.remember(u.trace, u.dims)
			if u.any != (id{}) {
				c.remember(u.any, u.dims)
			}
		}
		// Of a write that was torn off here the span may be known and these not.
		if u.quality != nil && c.remember(qualityID(u.quality), dimensions{}) {
			c.record(kindQuality, encodeQuality(u.quality))
		}
		c.release(u)
		if u.dropped {
			req.duplicates++
			return
		}
	default:
		if !c.remember(u.id, dimensions{}) {
			req.duplicates++
			return
		}
		c.record(u.kind, req.buf[u.body.from:u.body.to])
	}
	req.accepted++
}

// release lets the events go that waited for this span or its trace.
func (c *commit) release(u *unit) {
	for _, awaited := range [...]id{u.id, u.trace, u.any} {
		for _, w := range c.lounge.leaveAll(awaited) {
			event := w.event
			fill(&event, u.dims)
			c.released(w, &event)
		}
	}
}

func (c *commit) released(w *waiting, event *usage.Quality) {
	c.left = append(c.left, w)
	c.record(kindReleased, w.id[:], encodeQuality(event))
}

// awaitedBy is what an event's dimensions come from: its span, or the first span of its trace when it
// does not name the span or the tenant.
func awaitedBy(q *usage.Quality) id {
	if q.SpanID != "" && q.TenantID != "" {
		return spanID(q.TenantID, q.TraceID, q.SpanID)
	}
	return traceID(q.TenantID, q.TraceID)
}

// quality stores an event with the dimensions of its span: as sent, as remembered, or later.
func (c *commit) quality(req *request, u *unit) {
	q := u.quality
	if _, known := c.memory.find(u.id); known {
		req.duplicates++
		return
	}
	awaits := awaitedBy(q)
	dims, joined := c.memory.find(awaits)
	incomplete := q.TenantID == "" || q.Model == ""
	if incomplete && !joined && len(c.lounge.byID) >= c.opt.MaxWaiting {
		req.refused = append(req.refused, refusal{
			u.index, "trace_id",
			"its span is not known yet and too many events wait for theirs: send tenant_id and model, or try again later",
		})
		return
	}
	c.remember(u.id, dimensions{})
	req.accepted++
	if incomplete && !joined {
		w := &waiting{id: u.id, awaits: awaits, since: c.at, event: *q}
		c.lounge.enter(w)
		c.entered = append(c.entered, w)
		c.record(kindWaiting, encodeQuality(q))
		return
	}
	if joined && (incomplete || q.Model == dims.Model) {
		fill(q, dims)
	}
	if qualityID(q) != u.id { // its tenant is its span's: a retry will not name it either
		c.record(kindReleased, u.id[:], encodeQuality(q))
		return
	}
	c.record(kindQuality, encodeQuality(q))
}

// expire stores the events whose span did not come in time as they are.
func (i *Ingest) expire() {
	late := i.lounge.expired(i.opt.Now().Add(-remember))
	if len(late) > 0 {
		c := i.begin()
		for _, w := range late {
			c.lounge.leave(w)
			c.released(w, &w.event)
		}
		c.expired = int64(len(late))
		err := c.write()
		i.end()
		if err != nil {
			i.log.Error("store quality events whose span never came", "events", len(late), "error", err)
			return
		}
		i.log.Warn("stored quality events whose span never came", "events", len(late))
	}
	i.forgetSummaries()
}
