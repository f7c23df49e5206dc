package evaluate

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Options configure a Pipeline. Fields without a remark are needed.
type Options struct {
	Set   *Set
	Judge *Judge // nil: evaluators of the kind judge do not run
	// Sampled says whether a call is to be scored.
	Sampled func(s *usage.Span) bool
	// Accept stores scores and the judge's own calls: when it returns nil they are durable.
	Accept func(ctx context.Context, spans []usage.Span, quality []usage.Quality) error
	// JudgeTenant is whose calls are the judge's own and never scored.
	JudgeTenant string
	Concurrency int // calls of the judge at once

	Calls  int // that may wait; 10,000
	Bytes  int64
	Logger *slog.Logger
}

// The bounds of what waits, unless configured.
const (
	defaultCalls = 10_000
	defaultBytes = 64 << 20
	workers      = 2   // of heuristics
	batchScores  = 256 // stored at once
	// endJudging is how long calls of the judge that are under way may take once Run must end, and endStoring how long
	// storing what came of them may take then: a call that was cut off has cost something too. Together they are below the
	// ten seconds after which a container is killed.
	endJudging  = 5 * time.Second
	endStoring  = 3 * time.Second
	firstAccept = 100 * time.Millisecond // the pause after a store that takes nothing
	lastAccept  = 5 * time.Second
	tries       = 8 // of storing one batch
)

// heard is a call that waits to be scored.
type heard struct {
	span  usage.Span
	size  int64
	texts func() (input, output string, err error)
}

// toJudge is one call for one judge.
type toJudge struct {
	heard
	texts Texts
	by    *Evaluator
}

// Pipeline scores calls beside ingest, in bounded memory: what does not fit is dropped and counted, and nothing
// waits for it. What waits when the process dies is lost, as unsampled calls are. Make one with New, and keep Run
// running.
type Pipeline struct {
	o       Options
	calls   chan heard
	judging chan toJudge
	scores  chan usage.Quality
	spends  chan usage.Span
	waiting atomic.Int64 // bytes
	stats   counters
}

// New makes a pipeline.
func New(o Options) *Pipeline {
	if o.Calls == 0 {
		o.Calls = defaultCalls
	}
	if o.Bytes == 0 {
		o.Bytes = defaultBytes
	}
	return &Pipeline{
		o: o, calls: make(chan heard, o.Calls), judging: make(chan toJudge, o.Calls),
		scores: make(chan usage.Quality, batchScores), spends: make(chan usage.Span, batchScores),
	}
}

// Wants reports whether a call's texts are of use: some evaluator is for it, it is sampled, and there is room.
func (p *Pipeline) Wants(s *usage.Span) bool {
	if s.TenantID == p.o.JudgeTenant {
		return false
	}
	heuristics, judges := p.o.Set.For(s)
	if len(heuristics) == 0 && (len(judges) == 0 || p.o.Judge == nil) {
		return false
	}
	if !p.o.Sampled(s) {
		p.stats.unsampled.Add(1)
		return false
	}
	return true
}

// Offer hands a call over and returns at once. The texts are asked for later; they take size bytes until then.
func (p *Pipeline) Offer(s usage.Span, size int, texts func() (input, output string, err error)) {
	n := int64(size)
	if p.waiting.Add(n) > p.o.Bytes {
		p.waiting.Add(-n)
		p.stats.dropped.Add(1)
		return
	}
	select {
	case p.calls <- heard{s, n, texts}:
		p.stats.offered.Add(1)
	default:
		p.waiting.Add(-n)
		p.stats.dropped.Add(1)
	}
}

// Spend takes a call of the judge's to be stored.
func (p *Pipeline) Spend(s usage.Span) { p.spends <- s }

// Run scores until ctx ends; then calls of the judge that are under way may end, and what is scored is stored.
func (p *Pipeline) Run(ctx context.Context) error {
	late, cancel := outlasting(ctx, endJudging)
	defer cancel()
	last, cancelLast := outlasting(ctx, endJudging+endStoring)
	defer cancelLast()
	var scoring sync.WaitGroup
	for range workers {
		scoring.Go(func() { p.heuristics(ctx) })
	}
	for range p.o.Concurrency {
		scoring.Go(func() { p.judges(ctx, late) })
	}
	if p.o.Judge != nil {
		scoring.Go(func() { p.o.Judge.Run(ctx) })
	}
	stored := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(stored)
		p.store(last, ended)
	}()
	scoring.Wait()
	close(ended)
	<-stored
	return nil
}

// outlasting is a context that ends so long after another.
func outlasting(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(by, cancel) })
	return late, func() { stop(); cancel() }
}

// heuristics scores calls by what costs nothing and passes on those that a judge is to see.
func (p *Pipeline) heuristics(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case h := <-p.calls:
			p.score(h)
		}
	}
}

func (p *Pipeline) score(h heard) {
	heuristics, judges := p.o.Set.For(&h.span)
	input, output, err := h.texts()
	if err != nil || output == "" && input == "" {
		p.stats.unreadable.Add(1)
		p.waiting.Add(-h.size)
		return
	}
	h.texts = nil // they are in memory once, as plain text
	t := Texts{input, output}
	for _, e := range heuristics {
		p.emit(&h.span, e, "heuristic", e.score(t), 1)
	}
	waits := false
	if p.o.Judge != nil {
		for _, e := range judges {
			select {
			case p.judging <- toJudge{h, t, e}:
				// The bytes are counted until the last judge has seen them; one count a judge is near enough.
				if waits {
					p.waiting.Add(h.size)
				}
				waits = true
			default:
				p.stats.judgeDropped.Add(1)
			}
		}
	}
	if !waits {
		p.waiting.Add(-h.size)
	}
}

func (p *Pipeline) judges(ctx, late context.Context) {
	for {
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case c := <-p.judging:
			p.judge(late, c)
		}
	}
}

func (p *Pipeline) judge(ctx context.Context, c toJudge) {
	defer p.waiting.Add(-c.size)
	about := About{scoreID(&c.span, c.by), c.span.TenantID, c.by}
	check := fraction("consistency", about.ID) < c.by.Rubric.Consistency.Share
	score, confidence, err := p.o.Judge.Score(ctx, about, c.texts, check)
	switch {
	case err == nil:
		p.emit(&c.span, c.by, "judge", score, confidence)
	case errors.Is(err, ErrCap):
		p.stats.capped.Add(1)
	case errors.Is(err, ErrPaused):
		p.stats.paused.Add(1)
	case errors.Is(err, ErrRefused):
		p.stats.judgeRefused.Add(1)
	case errors.Is(err, ErrNoScore):
		p.stats.unparsed.Add(1)
	default:
		p.stats.judgeFailed.Add(1)
	}
}

// emit makes the quality event of a score: of the call's own moment, so that a backlog moves no score into another
// window, and with the call's dimensions, so that it lands at once. What the file says of its standing holds unless ingest
// knows of a record that says another.
func (p *Pipeline) emit(s *usage.Span, e *Evaluator, kind string, score, confidence float64) {
	p.scores <- usage.Quality{
		ID: scoreID(s, e), TraceID: s.TraceID, SpanID: s.SpanID, TenantID: s.TenantID, Model: s.RequestedModel,
		ServedModel: s.Model, Provider: s.Provider, PromptTemplate: s.PromptTemplate, ExperimentID: s.ExperimentID,
		Arm: s.Arm, Evaluator: e.Name, EvaluatorVersion: e.Version, Score: score, Confidence: confidence, Kind: kind,
		Timestamp: s.Timestamp, Aside: e.Trial,
	}
}

// scoreID names a score by the call and the evaluator, so that the same call scored again counts once.
func scoreID(s *usage.Span, e *Evaluator) string {
	return "eval-" + hex.EncodeToString(digest(s.TenantID, s.TraceID, s.SpanID, e.Name, e.Version)[:16])
}

func digest(parts ...string) []byte {
	var b []byte
	for _, part := range parts {
		b = binary.AppendUvarint(b, uint64(len(part)))
		b = append(b, part...)
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

// fraction is where something stands in [0, 1) for a purpose.
func fraction(purpose, id string) float64 {
	return float64(binary.BigEndian.Uint64(digest(purpose, id))>>11) / (1 << 53)
}

// store stores what was scored and spent, as much at once as has come meanwhile, until ended is closed and nothing is
// left.
func (p *Pipeline) store(ctx context.Context, ended <-chan struct{}) {
	for {
		var spans []usage.Span
		var scores []usage.Quality
		select {
		case s := <-p.spends:
			spans = append(spans, s)
		case q := <-p.scores:
			scores = append(scores, q)
		case <-ended:
			ended = nil
			if len(p.spends)+len(p.scores) == 0 {
				return
			}
			continue
		}
		for more := true; more && len(spans)+len(scores) < batchScores; {
			select {
			case s := <-p.spends:
				spans = append(spans, s)
			case q := <-p.scores:
				scores = append(scores, q)
			default:
				more = false
			}
		}
		p.accept(ctx, spans, scores)
		if ended == nil && len(p.spends)+len(p.scores) == 0 {
			return
		}
	}
}

// accept stores a batch, again and again for half a minute: its ids make that safe. A batch that one bad record refuses
// would be refused for ever.
func (p *Pipeline) accept(ctx context.Context, spans []usage.Span, scores []usage.Quality) {
	pause := firstAccept
	for try := 1; ; try++ {
		err := p.o.Accept(ctx, spans, scores)
		if err == nil {
			p.stats.scored.Add(int64(len(scores)))
			p.stats.judgeCalls.Add(int64(len(spans)))
			return
		}
		if try == tries || ctx.Err() != nil {
			p.stats.lost.Add(int64(len(scores) + len(spans)))
			p.o.Logger.Error("scores could not be stored", "scores", len(scores), "judge_calls", len(spans), "error", err)
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastAccept)
	}
}
