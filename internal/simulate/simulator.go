package simulate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/flyball-dev/flyball/internal/replay"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Options say where the simulator sends and what it simulates.
type Options struct {
	Ingest    string // address of the ingest API
	Decide    string // address of the decision API
	Token     string // of both, trusted for all tenants; empty where they are open, on loopback
	Seed      uint64
	Workloads []Workload // Demo() unless others are wanted
	// Scored is the share of the calls that is scored at the least, whatever sampling.yaml says; 0: as it says.
	Scored float64
	Logger *slog.Logger
}

// Stats count what the simulator did since it started.
type Stats struct {
	Calls      int64 `json:"calls"`     // requests that were made, stopped ones left out
	Stopped    int64 `json:"stopped"`   // requests that the decision API refused
	Undecided  int64 `json:"undecided"` // requests made as asked because the decision API gave no answer
	Treated    int64 `json:"treated"`
	Holdback   int64 `json:"holdback"`
	Spans      int64 `json:"spans"`      // acknowledged, each once
	Scores     int64 `json:"scores"`     // acknowledged, each once
	Refused    int64 `json:"refused"`    // records that ingest would not take
	Overflowed int64 `json:"overflowed"` // records dropped because ingest was away for too long
}

// Simulator runs a World in real time against the ingest and decision APIs.
type Simulator struct {
	Options
	http *http.Client

	mu     sync.Mutex
	world  *World
	stats  Stats
	outbox outbox
}

// outbox is what waits to be sent; wake tells the sender that it is not empty.
type outbox struct {
	spans, scores []json.RawMessage
	wake          chan struct{}
}

const (
	tick          = 250 * time.Millisecond
	decideTimeout = time.Second
	decideAtOnce  = 8
	// maxOutbox bounds the records that wait while ingest is away: half an hour of the demo.
	maxOutbox = 20_000
	// sendRows bounds one batch; ingest lists as many refusals.
	sendRows = 1000
)

// New returns a simulator whose world begins now. Run makes it go.
func New(o Options) *Simulator {
	if o.Workloads == nil {
		o.Workloads = Demo()
	}
	return &Simulator{
		Options: o,
		http:    &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: decideAtOnce + 2, IdleConnTimeout: time.Minute}},
		world:   NewWorld(o.Seed, o.Workloads, time.Now()),
		outbox:  outbox{wake: make(chan struct{}, 1)},
	}
}

// Stats returns the counts so far.
func (s *Simulator) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// Run makes calls until ctx ends, which is its only way to return. An ingest or decision API that is
// away is waited for: calls then go undecided, and their telemetry waits.
func (s *Simulator) Run(ctx context.Context) error {
	defer s.http.CloseIdleConnections()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.live(ctx) })
	group.Go(func() error { return s.deliver(ctx) })
	return group.Wait()
}

func (s *Simulator) live(ctx context.Context) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			s.step(ctx)
		}
	}
}

// step makes the calls that are due and queues the telemetry of those that are complete.
func (s *Simulator) step(ctx context.Context) {
	s.mu.Lock()
	requests := s.world.Arrivals(time.Now())
	s.mu.Unlock()

	verdicts := make([]verdict, len(requests))
	var group errgroup.Group
	group.SetLimit(decideAtOnce)
	for i := range requests {
		group.Go(func() error {
			verdicts[i] = s.ask(ctx, &requests[i])
			return nil
		})
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return // the questions were cut off, not left unanswered
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range requests {
		s.make(r, verdicts[i])
	}
	spans, scores := s.world.Due(time.Now())
	s.queue(spans, scores)
}

// verdict is what the decision API says of one call.
type verdict struct {
	answer    routing.Answer
	undecided bool
	scored    bool
}

// make makes one call as decided. s.mu is held.
func (s *Simulator) make(r Request, v verdict) {
	if v.answer.Stop {
		s.stats.Stopped++
		return
	}
	s.stats.Calls++
	switch {
	case v.undecided:
		s.stats.Undecided++
	case v.answer.Arm == usage.Treated:
		s.stats.Treated++
	case v.answer.Arm == usage.Holdback:
		s.stats.Holdback++
	}
	s.world.Serve(r, v.answer, v.scored)
}

// question only asks: nothing is promised for a call that is never settled, its telemetry comes by itself.
type question struct {
	routing.Request
	Hold bool `json:"hold"` // false
}

// ask asks for the decision on a call and whether the judge is to score it. Where no answer comes the
// call is made as requested and scored at the share of its tenant's class: a gateway that is away
// never stops an application.
func (s *Simulator) ask(ctx context.Context, r *Request) verdict {
	ctx, cancel := context.WithTimeout(ctx, decideTimeout)
	defer cancel()
	w := r.Workload
	var v verdict
	err := s.call(ctx, http.MethodPost, "/v1/decide", question{Request: routing.Request{
		TenantID: w.Tenant.ID, SessionID: r.SessionID, TraceID: r.TraceID, RequestedModel: r.RequestedModel,
		InputTokens: r.InputTokens(), MaxOutputTokens: w.MaxOutput, Task: w.Task,
	}}, &v.answer)
	if err == nil && v.answer.Model == "" {
		err = errors.New("the answer names no model")
	}
	if err != nil {
		s.Logger.DebugContext(ctx, "A call is made undecided", "tenant", w.Tenant.ID, "model", r.RequestedModel, "err", err)
		return verdict{answer: r.direct(), undecided: true, scored: r.sampled()}
	}
	var sampling struct {
		Sampled bool    `json:"sampled"`
		Rate    float64 `json:"rate"`
	}
	query := url.Values{"tenant": {w.Tenant.ID}, "model": {r.RequestedModel}, "trace_id": {r.TraceID}}
	if err := s.call(ctx, http.MethodGet, "/v1/sampling?"+query.Encode(), nil, &sampling); err != nil {
		s.Logger.DebugContext(ctx, "A call is sampled by its class", "tenant", w.Tenant.ID, "model", r.RequestedModel, "err", err)
		sampling.Sampled = r.sampled()
	}
	v.scored = sampling.Sampled || sampling.Rate < s.Scored && r.luck.sample < s.Scored
	return v
}

// call makes one request to the decision API.
func (s *Simulator) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding the question: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(s.Decide, "/")+path, body)
	if err != nil {
		return fmt.Errorf("making the question: %w", err)
	}
	if s.Token != "" {
		req.Header.Set("Authorization", "Bearer "+s.Token)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking the decision API: %w", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("reading the decision API's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the decision API answered %s: %.200s", resp.Status, text)
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("understanding the decision API's answer: %w", err)
	}
	return nil
}

// queue puts records in the outbox and drops the oldest beyond its bound. s.mu is held.
func (s *Simulator) queue(spans []Span, scores []Score) {
	o := &s.outbox
	o.spans = append(o.spans, encode(spans)...)
	o.scores = append(o.scores, encode(scores)...)
	for _, records := range []*[]json.RawMessage{&o.spans, &o.scores} {
		if over := len(*records) - maxOutbox; over > 0 {
			*records = slices.Delete(*records, 0, over)
			s.stats.Overflowed += int64(over)
		}
	}
	if len(o.spans)+len(o.scores) > 0 {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// deliver sends what is in the outbox until ctx ends.
func (s *Simulator) deliver(ctx context.Context) error {
	client := s.client()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.outbox.wake:
		}
		s.mu.Lock()
		spans, scores := s.outbox.spans, s.outbox.scores
		s.outbox.spans, s.outbox.scores = nil, nil
		s.mu.Unlock()
		if _, err := s.send(ctx, client, spans, scores); err != nil {
			return err
		}
	}
}

// send delivers records and returns how many were refused, which it also counts and logs: a world
// that stopped at a refused record would hide what comes after. Its error is that ctx ended.
func (s *Simulator) send(ctx context.Context, client *replay.Client, spans, scores []json.RawMessage) (int, error) {
	total := 0
	for _, part := range []struct {
		path    string
		records []json.RawMessage
		count   *int64
	}{{"/v1/spans", spans, &s.stats.Spans}, {"/v1/quality", scores, &s.stats.Scores}} {
		for records := range slices.Chunk(part.records, sendRows) {
			receipt, err := client.Send(ctx, part.path, records)
			if ctx.Err() != nil {
				return total, ctx.Err()
			}
			refused := len(receipt.Refused)
			if err != nil {
				refused = len(records)
				s.Logger.WarnContext(ctx, "The ingest API refused a batch", "path", part.path, "records", refused, "err", err)
			} else if refused > 0 {
				first := receipt.Refused[0]
				s.Logger.WarnContext(ctx, "The ingest API refused records", "path", part.path, "records", refused, "field", first.Field, "reason", first.Reason)
			}
			total += refused
			s.mu.Lock()
			*part.count += int64(receipt.Accepted + receipt.Duplicates)
			s.stats.Refused += int64(refused)
			s.mu.Unlock()
		}
	}
	return total, nil
}

// client sends to the ingest API.
func (s *Simulator) client() *replay.Client {
	return &replay.Client{URL: s.Ingest, Token: s.Token, HTTP: &http.Client{Transport: s.http.Transport, Timeout: time.Minute}}
}

// SeedHistory sends the week before now, so that baselines exist, and returns when all of it has been
// acknowledged. It waits for an ingest API that is not up yet, and may run beside Run.
func (s *Simulator) SeedHistory(ctx context.Context, now time.Time) error {
	return s.seed(ctx, History(s.Seed, s.Workloads, now))
}

// SeedRecent is SeedHistory of the given number of whole quarters of an hour before now, and of the one that now
// lies in, for a key that has no past yet.
func (s *Simulator) SeedRecent(ctx context.Context, now time.Time, buckets int) error {
	return s.seed(ctx, recent(s.Seed, s.Workloads, now, buckets))
}

func (s *Simulator) seed(ctx context.Context, history iter.Seq[Batch]) error {
	began := time.Now()
	client := s.client()
	spans, scores, refused := 0, 0, 0
	for batch := range history {
		n, err := s.send(ctx, client, encode(batch.Spans), encode(batch.Scores))
		if err != nil {
			return fmt.Errorf("sending the history: %w", err)
		}
		spans, scores, refused = spans+len(batch.Spans), scores+len(batch.Scores), refused+n
	}
	if refused > 0 {
		return fmt.Errorf("the ingest API refused %d of %d records of the history: see the log for the first of each batch", refused, spans+scores)
	}
	s.Logger.InfoContext(ctx, "The history is in", "spans", spans, "scores", scores, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// Inject starts a fault now, for lifetime.
func (s *Simulator) Inject(f Fault, lifetime time.Duration) (Fault, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.Inject(f, lifetime, time.Now())
}

// Heal ends every fault.
func (s *Simulator) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.world.Faults(time.Now()) {
		s.world.Stop(f.ID)
	}
}

func encode[T any](records []T) []json.RawMessage {
	encoded := make([]json.RawMessage, len(records))
	for i, r := range records {
		text, err := json.Marshal(r)
		if err != nil {
			panic("simulate: a record did not encode: " + err.Error())
		}
		encoded[i] = text
	}
	return encoded
}
