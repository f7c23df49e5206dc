package ingest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

const (
	watermarkEvery = time.Second
	firstRetry     = 100 * time.Millisecond
	lastRetry      = 5 * time.Second
	batchBytes     = 16 << 20 // of one insert as they are in the spool
	// endInsert is how long an insert may take to end once Run must. It is below the ten seconds after which a
	// container is killed.
	endInsert = 8 * time.Second
)

// batch is a frozen range of the spool on its way to the sink.
type batch struct {
	from, to    int64
	rows        int64
	spans       []usage.Span
	quality     []usage.Quality
	outcomes    []usage.Outcome
	deployments []usage.Deployment
	contents    []usage.Content
	tuples      []usage.Tuple
	done        [6]bool // which of the inserts have happened
}

// Run drains the spool into the sink until ctx ends; an insert that is under way then may end, so that no batch is
// left of which nobody knows whether the sink took it. It is the only inserter of its spool. It fails only when the
// spool itself cannot be read or its state not be written; a sink that is away is waited for.
func (i *Ingest) Run(ctx context.Context) error {
	mark := time.NewTicker(watermarkEvery)
	defer mark.Stop()
	defer i.save()
	var flush <-chan time.Time // runs while a row waits for others
	for {
		if i.backlogged() {
			if flush == nil && !i.frozen() {
				flush = time.After(i.opt.BatchDelay)
			}
			if i.frozen() || i.rows.Load() >= int64(i.opt.BatchRows) {
				flush = nil
				if err := i.drain(ctx); err != nil {
					return stopped(ctx, err)
				}
				i.publish(ctx, mark.C)
				continue
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-i.wake:
		case <-flush:
			flush = nil
			if err := i.drain(ctx); err != nil {
				return stopped(ctx, err)
			}
		case <-mark.C:
			if i.save() {
				if err := i.retire(ctx); err != nil {
					return stopped(ctx, err)
				}
			}
			i.watermark(ctx)
		}
	}
}

// save brings the state on disk up to date, and reports whether it is. A disk that is full keeps it
// from that; what is lost meanwhile is nothing, since batches only repeat.
func (i *Ingest) save() bool {
	if i.spool.state == i.spool.saved {
		return true
	}
	if err := i.spool.saveState(); err != nil {
		i.log.Error("the spool's state is not saved; it is tried again", "error", err)
		i.stats.sinkError(err)
		return false
	}
	return true
}

// mustSave waits until the state is on disk.
func (i *Ingest) mustSave(ctx context.Context) error {
	return retried(ctx, func(int) bool { return i.save() })
}

// retried tries again, at longer and longer pauses, until done or ctx ends.
func retried(ctx context.Context, done func(attempt int) bool) error {
	pause := firstRetry
	for attempt := 1; !done(attempt); attempt++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(2*pause, lastRetry)
	}
	return nil
}

// stopped tells an end by ctx from a failure.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (i *Ingest) backlogged() bool { return i.spool.backlog(i.cursor.Load()) > 0 }

// frozen reports whether an earlier run left a batch that may have been inserted.
func (i *Ingest) frozen() bool { return i.spool.state.Next > i.spool.state.Cursor }

// drain inserts one batch: freeze its range, insert it until that succeeds, move on. While the store works on it
// the next one is read.
func (i *Ingest) drain(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := i.freeze(ctx)
	if err != nil {
		return err
	}
	next := i.meanwhile(b)
	err = i.insert(ctx, b)
	i.next = <-next
	if err != nil {
		return err
	}
	i.cursor.Store(b.to)
	i.rows.Add(-b.rows)
	i.stats.inserted.Add(b.rows)
	// The state on disk follows when the next batch is frozen or a second later; a restart before
	// that tries this batch again, with its token.
	i.spool.state.Cursor = b.to
	i.retiring = append(i.retiring, i.spool.drained(b.to)...)
	if i.rows.Load() >= int64(i.opt.BatchRows) {
		return nil // they are summarized while the next batch is inserted
	}
	return i.retire(ctx)
}

// retire summarizes the drained segments, once the state on disk is past them. One that cannot be, on a full disk,
// stays until the next time.
func (i *Ingest) retire(ctx context.Context) error {
	if len(i.retiring) == 0 {
		return nil
	}
	if err := i.mustSave(ctx); err != nil {
		return err
	}
	i.summarizeDrained()
	return nil
}

func (i *Ingest) summarizeDrained() {
	for len(i.retiring) > 0 {
		seg := i.retiring[0]
		if err := i.summarize(seg); err != nil && !errors.Is(err, fs.ErrNotExist) {
			i.log.Error("a drained segment stays on disk; it is tried again", "segment", seg.path, "error", err)
			return
		}
		i.retiring = i.retiring[1:]
	}
}

// meanwhile does what can be done while the store works on a frozen batch: it summarizes what was drained before,
// which the state on disk is past since the batch was frozen, and reads what comes behind the batch, where that is a
// full one already. Else, and when it cannot be read, it gives nil, and the next batch is read when its turn comes.
func (i *Ingest) meanwhile(b *batch) <-chan *batch {
	read := make(chan *batch, 1)
	full := i.rows.Load()-b.rows >= int64(i.opt.BatchRows)
	go func() {
		i.summarizeDrained()
		if !full {
			read <- nil
			return
		}
		next, err := i.read(b.to, b.to)
		if err != nil {
			next = nil
		}
		read <- next
	}()
	return read
}

// freeze takes the next batch and writes its range down before anyone sees its token.
func (i *Ingest) freeze(ctx context.Context) (*batch, error) {
	st := &i.spool.state
	b := i.next
	i.next = nil
	if b == nil || b.from != st.Cursor || i.frozen() {
		var err error
		if b, err = i.read(st.Cursor, st.Next); err != nil {
			return nil, err
		}
	}
	// A batch that was frozen before keeps its name, even if damage has taken some of it since: had it been
	// inserted, what is left must not come again under another.
	st.Next = max(st.Next, b.to)
	b.to = st.Next
	return b, i.mustSave(ctx)
}

// read collects whole frames from an offset on, up to the given end or else until the batch is full.
func (i *Ingest) read(from, until int64) (*batch, error) {
	b := &batch{from: from}
	names := map[string]string{}
	var failed error
	size := 0
	to, err := i.spool.read(from, func(_ time.Time, records []byte) bool {
		rows := countRows(records)
		size += len(records)
		if until <= from && b.rows > 0 && (b.rows+rows > int64(i.opt.BatchRows) || size > batchBytes) {
			return false
		}
		if failed = b.add(records, names); failed != nil {
			return false
		}
		b.rows += rows
		return true
	}, until)
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("read a batch from the spool: %w", err)
	}
	b.to = to
	return b, nil
}

func (b *batch) add(records []byte, names map[string]string) error {
	return eachRecord(records, func(k kind, body []byte) error {
		in := reader{from: body, names: names}
		switch k {
		case kindSpan:
			b.spans = append(b.spans, usage.Span{})
			in.span(&b.spans[len(b.spans)-1])
		case kindReleased:
			in.id()
			e, err := in.nested()
			return b.addEvent(e, err)
		case kindReleased1:
			in.id()
			fallthrough
		case kindQuality, kindQuality2, kindQuality1, kindOutcome:
			return b.addEvent(in.event(k))
		case kindDeployment:
			b.deployments = append(b.deployments, usage.Deployment{})
			in.deployment(&b.deployments[len(b.deployments)-1])
		case kindContent:
			b.contents = append(b.contents, usage.Content{})
			in.content(&b.contents[len(b.contents)-1])
		case kindTuple:
			b.tuples = append(b.tuples, usage.Tuple{})
			in.tuple(&b.tuples[len(b.tuples)-1])
		}
		return in.err
	})
}

func (b *batch) addEvent(e event, err error) error {
	switch e := e.(type) {
	case scoreEvent:
		b.quality = append(b.quality, *e.Quality)
	case outcomeEvent:
		b.outcomes = append(b.outcomes, *e.Outcome)
	}
	return err
}

// insert hands a batch to the sink, again and again until it takes it or ctx ends.
func (i *Ingest) insert(ctx context.Context, b *batch) error {
	late, cancel := outlasting(ctx, endInsert)
	defer cancel()
	return retried(ctx, func(attempt int) bool {
		err := i.try(late, b)
		if err != nil && ctx.Err() == nil {
			i.log.Warn("insert a batch; it is safe in the spool and is tried again",
				"from", b.from, "to", b.to, "rows", b.rows, "attempt", attempt, "error", err)
		}
		if err == nil && attempt > 1 {
			i.log.Info("the store takes batches again", "attempts", attempt)
		}
		i.stats.sinkError(err)
		return err == nil
	})
}

// outlasting is a context that ends so long after another.
func outlasting(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() { stop(); cancel() }
}

func (i *Ingest) try(ctx context.Context, b *batch) error {
	token := fmt.Sprintf("%s:%x-%x", i.spool.state.Spool, b.from, b.to)
	for n, insert := range [...]struct {
		rows int
		into func() error
	}{
		{len(b.spans), func() error { return i.opt.Sink.InsertSpans(ctx, b.spans, token+":spans") }},
		{len(b.quality), func() error { return i.opt.Sink.InsertQuality(ctx, b.quality, token+":quality") }},
		{len(b.outcomes), func() error { return i.opt.Sink.InsertOutcomes(ctx, b.outcomes, token+":outcomes") }},
		{len(b.deployments), func() error { return i.opt.Sink.InsertDeployments(ctx, b.deployments, token+":deployments") }},
		{len(b.contents), func() error { return i.opt.Sink.InsertContents(ctx, b.contents, token+":contents") }},
		{len(b.tuples), func() error { return i.opt.Sink.InsertTuples(ctx, b.tuples, token+":tuples") }},
	} {
		if b.done[n] || insert.rows == 0 {
			continue
		}
		if err := insert.into(); err != nil {
			return err
		}
		b.done[n] = true
	}
	return nil
}

// publish writes the watermark when its second has passed.
func (i *Ingest) publish(ctx context.Context, due <-chan time.Time) {
	select {
	case <-due:
		i.watermark(ctx)
	default:
	}
}

func (i *Ingest) watermark(ctx context.Context) {
	at, err := i.drainedUntil()
	if err == nil && !at.IsZero() && !at.Equal(i.marked) {
		i.marked = at
		err = i.opt.Sink.Watermark(ctx, i.spool.state.Spool, at)
	}
	if err != nil && ctx.Err() == nil {
		i.log.Warn("publish the watermark", "error", err)
	}
}

// drainedUntil is the moment before which all that was accepted is in the sink, by this clock; zero where that cannot be
// said, since the clock was set back, and what was accepted before that is not drained.
func (i *Ingest) drainedUntil() (time.Time, error) {
	i.commitMu.Lock()
	at := i.opt.Now()
	if !i.committing.IsZero() {
		at = i.committing
	}
	i.commitMu.Unlock()
	oldest, err := i.oldest()
	switch {
	case err != nil || oldest.IsZero():
		return at.UTC(), err
	case oldest.After(i.opt.Now()): // what was accepted since waits behind it
		return time.Time{}, nil
	case oldest.After(at):
		return at.UTC(), nil
	}
	return oldest, nil
}

// oldest is when the first frame that is not drained was accepted; zero when there is none.
func (i *Ingest) oldest() (oldest time.Time, err error) {
	for range 3 {
		_, err = i.spool.read(i.cursor.Load(), func(at time.Time, _ []byte) bool {
			oldest = at
			return false
		}, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			break // else its segment has just been drained: look again
		}
	}
	return oldest, err
}
