//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/replay"
	"github.com/flyball-dev/flyball/internal/usage"
)

// stream is the calls of one key. Its tenant, model and provider are its own, so that keys which fail at
// the same time share no cause.
type stream struct {
	n      int
	rate   float64 // calls a second
	scored float64 // share of the calls that get a score

	mu    sync.Mutex
	fault fault
	route route
}

// fault is what goes wrong with a key's calls from begins until ends, as factors.
type fault struct {
	begins, ends          time.Time
	cost, quality, volume float64
}

func (f fault) on(at time.Time) bool { return !at.Before(f.begins) && at.Before(f.ends) }

// route is the share of a key's calls that a flag sends elsewhere, where they are as good and cheap as ever.
type route struct {
	share           float64
	model, decision string
}

func (s *stream) key() usage.Key { return usage.Key{Tenant: tenantOf(s.n), Model: modelOf(s.n)} }

func tenantOf(n int) string   { return fmt.Sprintf("bench-%03d", n) }
func modelOf(n int) string    { return fmt.Sprintf("model-%03d", n) }
func providerOf(n int) string { return fmt.Sprintf("provider-%03d", n) }

// inject begins a fault now, which lasts until mend.
func (s *stream) inject(f fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.begins, f.ends = time.Now(), time.Now().Add(24*time.Hour)
	s.fault = f
}

func (s *stream) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault.ends = time.Now()
}

func (s *stream) obey(r route) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.route = r
}

// perMillion is what the book of these tests asks for a million tokens of every bucket, in dollars.
const perMillion = 2

// book is the price book of the streams' providers.
func book(streams []*stream) string {
	var b strings.Builder
	b.WriteString("models:\n")
	for _, s := range streams {
		fmt.Fprintf(&b, "  - {provider: %s, model: %s, globs: [\"*\"], prices: [{standard: {input: %d, output: %[3]d}}]}\n", providerOf(s.n), modelOf(s.n), perMillion)
	}
	return b.String()
}

// traffic sends the calls of many keys and their scores as gateways and a judge would, in real time.
type traffic struct {
	t        *testing.T
	client   *replay.Client
	random   *rand.Rand
	sigma    float64 // of ln cost
	quality  float64 // mean score
	scoreSD  float64
	streams  []*stream
	unjudged []score
	behind   atomic.Int64 // nanoseconds from what is sent to now
	calls    atomic.Int64
}

// score is a judge's word that is due at a time.
type score struct {
	due  time.Time
	json json.RawMessage
}

// judgeDelay is the mean time from a call to its score, exponentially distributed.
const judgeDelay = 3 * time.Second

func newTraffic(t *testing.T, ingest string, sigma, scoreSD float64, streams []*stream) *traffic {
	return &traffic{
		t: t, client: &replay.Client{URL: ingest, HTTP: &http.Client{Timeout: 30 * time.Second}}, random: rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano()))),
		sigma: sigma, quality: 0.85, scoreSD: scoreSD, streams: streams,
	}
}

// start sends everything from a time in the past on, as fast as it is taken until now is reached and then
// as time passes, until the test ends.
func (w *traffic) start(from time.Time) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	w.behind.Store(int64(time.Since(from)))
	done.Go(func() {
		for at := from; ctx.Err() == nil; {
			step := 250 * time.Millisecond
			if time.Since(at) > 10*time.Second {
				step = 2 * time.Second
			}
			time.Sleep(time.Until(at.Add(step)))
			if err := w.send(ctx, at, step); err != nil {
				if ctx.Err() == nil {
					w.t.Errorf("sending traffic: %v", err)
				}
				return
			}
			at = at.Add(step)
			w.behind.Store(int64(time.Since(at)))
		}
	})
	w.t.Cleanup(func() { cancel(); done.Wait() })
}

// caughtUp reports whether what is sent is of now.
func (w *traffic) caughtUp() bool { return time.Duration(w.behind.Load()) < 2*time.Second }

// send makes the calls of [at, at+step), and sends them with the scores that have become due.
func (w *traffic) send(ctx context.Context, at time.Time, step time.Duration) error {
	var spans, scores []json.RawMessage
	for _, s := range w.streams {
		s.mu.Lock()
		f, r := s.fault, s.route
		s.mu.Unlock()
		rate := s.rate
		if f.on(at) {
			rate *= f.volume
		}
		for range poisson(w.random, rate*step.Seconds()) {
			when := at.Add(time.Duration(w.random.Int64N(int64(step))))
			spans = append(spans, w.call(s, f, r, when))
		}
	}
	w.unjudged = slices.DeleteFunc(w.unjudged, func(s score) bool {
		if s.due.After(at.Add(step)) {
			return false
		}
		scores = append(scores, s.json)
		return true
	})
	for path, records := range map[string][]json.RawMessage{"/v1/spans": spans, "/v1/quality": scores} {
		if len(records) == 0 {
			continue
		}
		receipt, err := w.client.Send(ctx, path, records)
		if err != nil {
			return err
		}
		if len(receipt.Refused) > 0 {
			return fmt.Errorf("%s: refused %+v", path, receipt.Refused[0])
		}
	}
	w.calls.Add(int64(len(spans)))
	return nil
}

// call makes one call and, where it is to be scored, its score.
func (w *traffic) call(s *stream, f fault, r route, when time.Time) json.RawMessage {
	cost, quality, arm, model, decision := 1.0, 1.0, usage.None, modelOf(s.n), ""
	if f.on(when) {
		cost, quality = f.cost, f.quality
	}
	scored := s.scored
	if r.share > 0 { // while a flag is on every call is scored
		scored, arm = 1, usage.Holdback
		if w.random.Float64() < r.share {
			cost, quality, arm, model, decision = 0.3, 1, usage.Treated, r.model, r.decision
		}
	}
	input, output, latency := w.size(cost)
	id, stamp := fmt.Sprintf("%016x%016x", w.random.Uint64(), w.random.Uint64()), when.UTC().Format("2006-01-02T15:04:05.000Z")
	if w.random.Float64() < scored {
		value := max(0, min(1, w.quality*quality+w.scoreSD*w.random.NormFloat64()))
		due := when.Add(time.Duration(w.random.ExpFloat64() * float64(judgeDelay)))
		w.unjudged = append(w.unjudged, score{due, fmt.Appendf(nil,
			`{"id":"j%s","trace_id":"%[1]s","span_id":"1","tenant_id":%q,"model":%q,"arm":%q,"evaluator":"judge","evaluator_version":"1","kind":"judge","confidence":1,"score":%.4f,"timestamp":%q}`,
			id, tenantOf(s.n), modelOf(s.n), arm, value, due.UTC().Format("2006-01-02T15:04:05.000Z"))})
	}
	return fmt.Appendf(nil,
		`{"trace_id":"%s","span_id":"1","timestamp":%q,"provider":%q,"requested_model":%q,"model":%q,"tenant_id":%q,"arm":%q,"decision_id":%q,"tokens":{"prompt":%d,"completion":%d},"latency_ms":%d,"ttft_ms":300}`,
		id, stamp, providerOf(s.n), modelOf(s.n), model, tenantOf(s.n), arm, decision, input, output, latency)
}

// size draws the tokens of a call and its latency. Input and output grow alike with the cost, so that it is
// the cost rules that see it.
func (w *traffic) size(cost float64) (input, output, latencyMS int64) {
	tokens := cost * 1000 * math.Exp(w.sigma*w.random.NormFloat64())
	input, output = int64(math.Ceil(tokens*0.8)), int64(math.Ceil(tokens*0.2))
	return input, output, 300 + 10*output
}

// historyDays times four buckets of an hour are as many as a baseline needs, so the hour may turn meanwhile.
const historyDays = 3

// storeHistory stores the rollups of earlier days at this time of day: what the views would have made of
// calls and scores like those that start sends, drawn one by one, at a hundredth of the rows.
func (w *traffic) storeHistory(s *stack, now time.Time) {
	w.t.Helper()
	hour := now.UTC().Truncate(time.Hour)
	var calls, scores, changes bytes.Buffer
	for day := 1; day <= historyDays; day++ {
		for quarter := range 8 { // of this hour and the next
			bucket := hour.AddDate(0, 0, -day).Add(time.Duration(quarter) * 15 * time.Minute)
			fmt.Fprintf(&changes, "{\"bucket\":%d,\"changed_at\":%q}\n", bucket.Unix(), now.UTC().Format("2006-01-02 15:04:05.000"))
			for _, stream := range w.streams {
				w.writeBucket(&calls, &scores, stream, bucket)
			}
		}
	}
	for table, rows := range map[string]*bytes.Buffer{"kpi_1m": &calls, "quality_1m": &scores, "bucket_changes": &changes} {
		_, err := s.trySQL("INSERT INTO " + table + " FORMAT JSONEachRow\n" + rows.String())
		require.NoError(w.t, err)
	}
}

// writeBucket draws a quarter of an hour of a key, minute by minute: how they differ is a part of its baseline.
func (w *traffic) writeBucket(calls, scores *bytes.Buffer, s *stream, bucket time.Time) {
	for minute := range 15 {
		w.writeMinute(calls, scores, s, bucket.Add(time.Duration(minute)*time.Minute))
	}
}

func (w *traffic) writeMinute(calls, scores *bytes.Buffer, s *stream, minute time.Time) {
	const kept = 30 // codes of a minute: the median of fifteen of them needs no more
	n := poisson(w.random, s.rate*60)
	var input, output, latency, tokens int64
	var costs, qualities []int16
	for range n {
		in, out, ms := w.size(1)
		input, output, latency, tokens = input+in, output+out, latency+ms-300, tokens+in+out
		if len(costs) < kept {
			code, _ := kpi.CostCode(usage.PicoUSD((in + out) * perMillion * 1e6))
			costs = append(costs, code)
		}
		if w.random.Float64() < s.scored && len(qualities) < kept {
			qualities = append(qualities, kpi.QualityCode(max(0, min(1, w.quality+w.scoreSD*w.random.NormFloat64()))))
		}
	}
	row := func(to *bytes.Buffer, fields map[string]any) {
		fields["minute"], fields["tenant_id"], fields["requested_model"] = minute.Unix(), tenantOf(s.n), modelOf(s.n)
		fields["cohort"], fields["arm"], fields["provider"], fields["model"] = "production", "none", providerOf(s.n), modelOf(s.n)
		text, err := json.Marshal(fields)
		require.NoError(w.t, err)
		to.Write(append(text, '\n'))
	}
	row(calls, map[string]any{
		"requests": n, "uncached_input_tokens": input, "output_tokens": output, "velocity_tokens": output, "velocity_ms": latency,
		"cost_pico_usd": tokens * perMillion * 1e6, "cost_codes": costs,
	})
	if len(qualities) > 0 {
		row(scores, map[string]any{"evaluator": "judge", "evaluator_version": "1", "kind": "judge", "scored": len(qualities), "quality_codes": qualities})
	}
}

// poisson draws a count; large means by the normal approximation.
func poisson(r *rand.Rand, mean float64) int {
	if mean > 50 {
		return max(0, int(math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	n := -1
	for limit, p := math.Exp(-mean), 1.0; ; {
		p *= r.Float64()
		n++
		if p <= limit {
			return n
		}
	}
}
