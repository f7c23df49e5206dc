// Package ingest takes telemetry in: it decodes spans, quality events, outcomes and deployments, prices
// spans, joins events to them, makes all durable in a spool on the local disk, and drains the spool into a Sink.
//
// What is acknowledged is on the disk. A record that comes again within a day counts once. A batch
// for the sink is a range of the spool with a token of its own, kept through every retry and
// restart, so that a sink that remembers tokens stores each record exactly once.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Sink is where the spool drains to. A token names the rows it comes with: the same token always
// comes with the same rows, and a sink that has stored them must take them again as a success.
type Sink interface {
	InsertSpans(ctx context.Context, spans []usage.Span, token string) error
	InsertQuality(ctx context.Context, quality []usage.Quality, token string) error
	InsertOutcomes(ctx context.Context, outcomes []usage.Outcome, token string) error
	InsertDeployments(ctx context.Context, deployments []usage.Deployment, token string) error
	InsertContents(ctx context.Context, contents []usage.Content, token string) error
	InsertTuples(ctx context.Context, tuples []usage.Tuple, token string) error
	// Watermark publishes that all that the named spool accepted before at is in the sink.
	Watermark(ctx context.Context, spool string, at time.Time) error
}

// Options configure an Ingest. Dir, Sink, Book and Logger are needed; zero values elsewhere mean the
// defaults.
type Options struct {
	Dir    string // of the spool; made when it is not there
	Sink   Sink
	Book   *pricing.Book
	Logger *slog.Logger
	Now    func() time.Time

	// Door lets senders in. Nil: those on loopback alone.
	Door *Door

	// Lookup finds the spans of traces that the store has, the oldest first, with at least their ids and
	// dimensions. It is asked about events whose span is not remembered. Nil: they wait for the span alone.
	Lookup func(ctx context.Context, traces []usage.Trace) ([]usage.Span, error)

	// Complexity is what a call of the tenant's task counts for when it does not say so itself; 0 is unknown. It is
	// asked about every such call that names a task, and must answer from memory. Nil: nothing is known.
	Complexity func(tenant, task string) float64

	// Standing writes into a score what its evaluator counts for. It is asked about every score, and must answer from
	// memory. Nil: all count as they are.
	Standing func(*usage.Quality)
	// Wants says whether somebody wants to read a call's texts to score it, and Heard gives them to whom wants once the
	// call is durable. Both are asked while the sender waits: they must neither block nor take long. Nil: nobody does,
	// and texts are passed over as they come.
	Wants func(s *usage.Span) bool
	Heard func(h Heard)

	// Keep is for how long the texts of a tenant's calls are stored; 0: not at all. Nil: nobody's are.
	Keep func(tenant string) time.Duration

	// TenantAttribute is the OpenTelemetry attribute that names the tenant where neither flyball.tenant_id nor
	// tenant.id does.
	TenantAttribute string
	// LiteLLMTenant are the metadata fields of LiteLLM that may name the tenant, the first that is there wins:
	// user_api_key_team_id, user_api_key_org_id, user_api_key_alias when empty.
	LiteLLMTenant []string

	MaxBody     int64         // bytes of one request after decompression; 32 MiB
	MaxSpool    int64         // bytes not drained before senders are told to wait; 4 GiB
	MinFree     int64         // bytes that stay free on the spool's disk; 64 MiB
	SegmentSize int64         // bytes; 16 MiB
	MaxIDs      int           // remembered for 24 h, about 40 bytes of memory each; 16 million
	MaxWaiting  int           // events that wait for their span; 100,000
	BatchRows   int           // of one insert; 10,000
	BatchDelay  time.Duration // a row waits at most so long for others; 250 ms
}

func (o *Options) defaults() error {
	if o.Dir == "" || o.Sink == nil || o.Book == nil || o.Logger == nil {
		return errors.New("ingest needs a directory, a sink, a price book and a logger")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Door == nil {
		o.Door, _ = NewDoor(nil) // no token can be wrong
	}
	if len(o.LiteLLMTenant) == 0 {
		o.LiteLLMTenant = defaultLiteLLMTenant
	}
	set(&o.MaxBody, 32<<20)
	set(&o.MaxSpool, 4<<30)
	set(&o.MinFree, 64<<20)
	set(&o.SegmentSize, 16<<20)
	set(&o.MaxIDs, 16_000_000)
	set(&o.MaxWaiting, 100_000)
	set(&o.BatchRows, 10_000)
	set(&o.BatchDelay, 250*time.Millisecond)
	return nil
}

func set[T comparable](value *T, otherwise T) {
	var zero T
	if *value == zero {
		*value = otherwise
	}
}

// Ingest is one spool with its senders in front and its sink behind.
type Ingest struct {
	opt       Options
	log       *slog.Logger
	anyTenant bool // senders may leave the tenant out; of tokens that come later they are found by Lookup

	queue    chan *request
	closing  chan struct{}
	stopped  chan struct{} // the committer has ended
	stopOnce sync.Once
	wake     chan struct{} // tells the inserter that rows have come

	inFlight atomic.Int64  // bytes of bodies being read
	bodyTime time.Duration // in which a body must have come

	// Of the committer alone, once it runs.
	spool  *spool
	memory memory
	lounge *lounge
	buf    []byte
	asking bool      // the store is being asked for spans
	pause  time.Time // until then nobody is let go whose wait is over: writing failed

	answers chan found // to that, at most one

	cursor atomic.Int64 // drained up to here
	rows   atomic.Int64 // durable, not drained

	commitMu   sync.Mutex // covers committing
	committing time.Time  // when the running commit accepted its records; zero when none runs

	// Of the inserter.
	marked   time.Time  // the last watermark
	next     *batch     // read ahead; nil: none is
	retiring []*segment // drained, not summarized yet

	stats counters
}

// Open opens the spool, recovers what an earlier run left, and starts to accept. Run drains.
func Open(opt Options) (*Ingest, error) {
	if err := opt.defaults(); err != nil {
		return nil, err
	}
	i := &Ingest{
		opt:       opt,
		log:       opt.Logger,
		anyTenant: opt.Door.AnyTenant(),
		queue:     make(chan *request, 256),
		closing:   make(chan struct{}),
		stopped:   make(chan struct{}),
		wake:      make(chan struct{}, 1),
		memory:    memory{limit: opt.MaxIDs},
		lounge:    newLounge(),
		answers:   make(chan found, 1),
		bodyTime:  callTime,
	}
	i.stats.unpriced = map[string]int64{}
	if err := i.recover(); err != nil {
		return nil, err
	}
	go i.commits()
	return i, nil
}

// recover rebuilds what is kept in memory from the summaries and the segments, oldest first.
func (i *Ingest) recover() error {
	var summaries []int64
	listed := false
	reached := func(start int64) (err error) {
		if !listed { // by now the spool is ours: nobody else summarizes
			if summaries, err = list(i.opt.Dir, summarySuffix); err != nil {
				return err
			}
			listed = true
		}
		for len(summaries) > 0 && summaries[0] < start {
			if err := i.loadSummary(summaries[0]); err != nil {
				return err
			}
			summaries = summaries[1:]
		}
		return nil
	}
	r := recovery{ingest: i}
	var corrupt int
	var err error
	if i.spool, corrupt, err = openSpool(i.opt.Dir, i.opt.SegmentSize, i.log, reached, r.frame); err != nil {
		return err
	}
	i.stats.corruptSegments.Add(int64(corrupt))
	i.cursor.Store(i.spool.state.Cursor)
	rows := int64(0)
	_, err = i.spool.read(i.spool.state.Cursor, func(_ time.Time, records []byte) bool {
		rows += countRows(records)
		return true
	}, 0)
	if err != nil {
		return errors.Join(err, i.spool.close())
	}
	i.rows.Store(rows)
	i.stats.waiting.Store(int64(len(i.lounge.byID)))
	i.stats.forgotten.Store(i.memory.forgotten)
	return nil
}

// Spool names the spool, as the watermark does.
func (i *Ingest) Spool() string { return i.spool.state.Spool }

// Close stops accepting and closes the files. Run must have ended. What is not drained yet stays in
// the spool for the next Open.
func (i *Ingest) Close() error {
	var err error
	i.stopOnce.Do(func() {
		close(i.closing)
		<-i.stopped
		err = i.spool.close()
	})
	return err
}

// Handler serves, each behind the door, POST /v1/spans, /v1/quality, /v1/feedback, /v1/outcomes and /v1/deployments, OTLP/HTTP at
// /v1/traces and /v1/logs, and LiteLLM's log at /v1/litellm; and GET /v1/ingest, the Stats.
func (i *Ingest) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/spans", i.serve(ScopeSpans, (*decoder).spans))
	mux.HandleFunc("POST /v1/quality", i.serve(ScopeQuality, (*decoder).qualities))
	mux.HandleFunc("POST /v1/feedback", i.serve(ScopeQuality, (*decoder).feedbacks))
	mux.HandleFunc("POST /v1/outcomes", i.serve(ScopeOutcomes, (*decoder).outcomes))
	mux.HandleFunc("POST /v1/deployments", i.serve(ScopeDeployments, (*decoder).deployments))
	mux.HandleFunc("POST /v1/traces", i.serveOTLP(traces))
	mux.HandleFunc("POST /v1/logs", i.serveOTLP(logs))
	mux.HandleFunc("POST /v1/litellm", i.serve(ScopeSpans, i.litellm))
	mux.HandleFunc("GET /v1/ingest", i.serveStats)
	return mux
}

// ErrRecord says that a record is bad: it is no use to send it again.
var ErrRecord = errors.New("a record is refused")

// Accept takes spans and quality events from within the process, as the handlers do from outside:
// when it returns nil they are durable, or were before. A span without a price version is priced. One bad
// record refuses them all, with ErrRecord; any other error says that the spool takes none for now.
func (i *Ingest) Accept(ctx context.Context, spans []usage.Span, quality []usage.Quality) error {
	return i.accept(ctx, spans, nil, quality)
}

// AcceptCalls is Accept of calls with their texts, one for each: to be scored and kept as those of senders are.
func (i *Ingest) AcceptCalls(ctx context.Context, spans []usage.Span, said []Said) error {
	return i.accept(ctx, spans, said, nil)
}

func (i *Ingest) accept(ctx context.Context, spans []usage.Span, said []Said, quality []usage.Quality) error {
	now := i.opt.Now()
	req := newRequest(i)
	for n := range spans {
		s := spans[n]
		if err := settle(&s, now); err != nil {
			return fmt.Errorf("%w: span %d: %w", ErrRecord, n, err)
		}
		req.addSpan(n, &s, nil)
		if n < len(said) {
			req.addTexts(&s, &texts{input: words{form: formChat, raw: said[n].Input}, output: words{form: formChat, raw: said[n].Output}})
		}
	}
	for n := range quality {
		q := quality[n]
		if err := settleQuality(&q, now); err != nil {
			return fmt.Errorf("%w: quality event %d: %w", ErrRecord, n, err)
		}
		req.addQuality(len(spans)+n, &q)
	}
	if err := i.submit(ctx, req); err != nil {
		return err
	}
	for _, r := range req.refused {
		return fmt.Errorf("%w: record %d: %s: %s", ErrRecord, r.Index, r.Field, r.Reason)
	}
	return nil
}

// settle gives a span of ours its defaults and refuses what the wire would have refused.
func settle(s *usage.Span, now time.Time) error {
	set(&s.Arm, usage.None)
	set(&s.RequestedModel, s.Model)
	s.Provider, s.ServiceTier = usage.Provider(s.Provider), usage.ServiceTier(s.ServiceTier)
	for _, f := range [...]struct{ name, value string }{
		{"trace_id", s.TraceID}, {"span_id", s.SpanID}, {"tenant_id", s.TenantID}, {"model", s.Model},
	} {
		if f.value == "" {
			return wrongField(f.name, "is missing")
		}
	}
	for _, name := range [...]string{
		s.TraceID, s.SpanID, s.TenantID, s.Model, s.RequestedModel, s.Provider,
		s.SessionID, s.PromptTemplate, s.Task, s.ExperimentID, s.ServiceTier, s.Route, s.DecisionID,
	} {
		if len(name) > maxName {
			return wrong("a name is longer than %d bytes: %.32q…", maxName, name)
		}
	}
	if err := s.Tokens.Validate(); err != nil {
		return wrongField("tokens", "%v", err)
	}
	return inTime(&s.Timestamp, now)
}

func settleQuality(q *usage.Quality, now time.Time) error {
	set(&q.Arm, usage.None)
	if err := checkScore(q); err != nil {
		return err
	}
	switch {
	case q.ID == "":
		return wrongField("id", "is missing")
	case q.TraceID == "":
		return wrongField("trace_id", "is missing")
	case !(q.Score >= 0 && q.Score <= 1 && q.Confidence >= 0 && q.Confidence <= 1):
		return wrongField("score", "score and confidence must be between 0 and 1")
	}
	return inTime(&q.Timestamp, now)
}

func inTime(t *time.Time, now time.Time) error {
	if err := bounded(t, *t, now); err != nil {
		return inField([]byte(`"timestamp"`), err)
	}
	return nil
}
