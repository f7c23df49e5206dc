package durability

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// amounts are what a record adds to a table or a family of rollups, by the rollups' column names.
type amounts map[string]int64

// record is one record on the wire and what it must add where: to a table by its name, to the rollups of a family
// (kpi, quality, outcomes, sweep) by the family's.
type record struct {
	stream, text, tenant string
	adds                 map[string]amounts
	acknowledged         bool
}

// ledger adds up what was acknowledged.
type ledger struct {
	streams []string

	mu       sync.Mutex
	sums     map[string]map[string]amounts // by table or family and tenant
	records  map[string]int                // acknowledged, by stream
	batches  int
	repeated int // records sent again although they had been acknowledged
	refused  int // requests without an answer or with a refusal for now
}

func newLedger(streams []string) *ledger {
	return &ledger{streams: streams, sums: map[string]map[string]amounts{}, records: map[string]int{}}
}

func (l *ledger) has(stream string) bool { return slices.Contains(l.streams, stream) }

// acknowledge counts a batch's records, each once.
func (l *ledger) acknowledge(batch []*record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.batches++
	for _, r := range batch {
		if r.acknowledged {
			l.repeated++
			continue
		}
		r.acknowledged = true
		l.records[r.stream]++
		for where, adds := range r.adds {
			if l.sums[where] == nil {
				l.sums[where] = map[string]amounts{}
			}
			if l.sums[where][r.tenant] == nil {
				l.sums[where][r.tenant] = amounts{}
			}
			for column, n := range adds {
				l.sums[where][r.tenant][column] += n
			}
		}
	}
}

func (l *ledger) report() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return fmt.Sprintf("acknowledged in %d batches: %v; sent again after that: %d records; requests that had to be tried again: %d",
		l.batches, l.records, l.repeated, l.refused)
}

// streams are the paths that this ingest serves.
func (s *stack) streams() (served []string) {
	for _, stream := range []string{"spans", "quality", "deployments", "outcomes"} {
		response, err := http.Post(s.address+"/v1/"+stream, "application/json", strings.NewReader(""))
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			served = append(served, stream)
		}
	}
	return served
}

// sender sends batches, each until it is acknowledged.
type sender struct {
	*stack
	book   *ledger
	random *rand.Rand
	name   int
	rest   time.Duration

	calls  int
	held   []*record            // evaluations and outcomes that come long after their calls
	recent map[string][]*record // acknowledged, by stream
	failed error
}

func newSender(s *stack, book *ledger, random *rand.Rand, name int, rest time.Duration) *sender {
	return &sender{stack: s, book: book, random: random, name: name, rest: rest, recent: map[string][]*record{}}
}

// send goes on until ctx ends, and then delivers what is left.
func (c *sender) send(ctx context.Context) {
	for c.failed == nil {
		// On a machine that stores more slowly than this sends, the end would be one long wait.
		for stats, err := c.stats(); err == nil && stats.SpoolRows > 100_000 && ctx.Err() == nil; stats, err = c.stats() {
			<-time.After(time.Second)
		}
		spans, others := c.batch()
		if c.random.IntN(5) == 0 { // long after
			c.held = append(c.held, others...)
			others = nil
		}
		if len(c.held) > 300 {
			others, c.held = append(others, c.held...), nil
		}
		if c.random.IntN(2) == 0 { // before their spans
			c.deliver(others)
			others = nil
		}
		c.deliver(spans)
		c.deliver(others)
		if c.random.IntN(8) == 0 {
			c.repeatRecent()
		}
		select {
		case <-ctx.Done():
			c.deliver(c.held)
			return
		case <-time.After(time.Duration(c.random.Int64N(int64(c.rest)))):
		}
	}
}

// deliver sends records by stream, mixed with some that were acknowledged before.
func (c *sender) deliver(records []*record) {
	for _, stream := range c.book.streams {
		var batch []*record
		for _, r := range records {
			if r.stream == stream {
				batch = append(batch, r)
			}
		}
		if len(batch) == 0 {
			continue
		}
		if old := c.recent[stream]; len(old) > 0 && c.random.IntN(6) == 0 {
			from := c.random.IntN(len(old))
			batch = append(batch, old[from:min(len(old), from+50)]...)
		}
		c.insist(stream, batch)
		c.remember(stream, batch)
	}
}

func (c *sender) remember(stream string, batch []*record) {
	c.recent[stream] = append(c.recent[stream], batch...)
	if n := len(c.recent[stream]); n > 20_000 {
		c.recent[stream] = slices.Clone(c.recent[stream][n-10_000:])
	}
}

// repeatRecent sends some acknowledged records once more, in other batches than before.
func (c *sender) repeatRecent() {
	for stream, old := range c.recent {
		n := min(len(old), 200)
		if from := c.random.IntN(len(old) - n + 1); n > 0 {
			c.insist(stream, slices.Clone(old[from:from+n]))
		}
	}
}

// insist sends a batch until it is acknowledged whole.
func (c *sender) insist(stream string, batch []*record) {
	for deadline := time.Now().Add(6 * time.Minute); c.failed == nil; {
		c.random.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
		again, err := c.post(stream, batch)
		if err == nil {
			c.lastAck.Store(time.Now().UnixNano())
			c.book.acknowledge(batch)
			return
		}
		if !again || time.Now().After(deadline) {
			c.failed = fmt.Errorf("POST /v1/%s: %w", stream, err)
			return
		}
		c.book.mu.Lock()
		c.book.refused++
		c.book.mu.Unlock()
		<-time.After(time.Duration(10+c.random.IntN(200)) * time.Millisecond)
	}
}

var client = &http.Client{Timeout: 10 * time.Second}

// post sends a batch once, in one of the forms that a body may have. An error that a sender cannot mend by
// sending again is the test's failure.
func (c *sender) post(stream string, batch []*record) (again bool, err error) {
	text := make([]string, len(batch))
	for i, r := range batch {
		text[i] = r.text
	}
	body := []byte(strings.Join(text, "\n"))
	if c.random.IntN(2) == 0 {
		body = []byte("[" + strings.Join(text, ",") + "]")
	}
	request, err := http.NewRequest(http.MethodPost, c.address+"/v1/"+stream, nil)
	if err != nil {
		return false, err
	}
	if c.random.IntN(2) == 0 {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, _ = z.Write(body) // into memory
		_ = z.Close()
		body = packed.Bytes()
		request.Header.Set("Content-Encoding", "gzip")
	}
	request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	response, err := client.Do(request)
	if err != nil {
		return true, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return true, err
	}
	if response.StatusCode != http.StatusOK {
		again = response.StatusCode == http.StatusTooManyRequests || response.StatusCode >= 500
		return again, fmt.Errorf("%s: %s", response.Status, answer)
	}
	var said struct {
		Accepted, Duplicates int
		Refused              []json.RawMessage
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return false, err
	}
	if len(said.Refused) > 0 || said.Accepted+said.Duplicates != len(batch) {
		return false, fmt.Errorf("%d records: %.500s", len(batch), answer)
	}
	return false, nil
}

// Prices of gpt-4o in pico-dollars per token, by hand: $2.50, $1.25 and $10 per million.
const inputPrice, cachedPrice, outputPrice = 2_500_000, 1_250_000, 10_000_000

// batch makes a batch's worth of calls and what is said of them.
func (c *sender) batch() (spans, others []*record) {
	n := 1 + c.random.IntN(300)
	old := c.random.IntN(20) == 0 // days ago, so that one batch reaches many partitions
	for range n {
		at := time.Now().Add(-time.Duration(c.random.Int64N(int64(time.Hour)))).UTC()
		if old {
			at = at.AddDate(0, 0, -2-c.random.IntN(6))
		}
		span, about := c.call(at, !old)
		spans, others = append(spans, span), append(others, about...)
	}
	return spans, others
}

func (c *sender) call(at time.Time, recent bool) (span *record, others []*record) {
	c.calls++
	id := fmt.Sprintf("%d-%d", c.name, c.calls)
	tenant := fmt.Sprint("org_", c.random.IntN(4))
	prompt, completion := c.random.Int64N(4000), c.random.Int64N(900)
	cached := c.random.Int64N(prompt + 1)
	reasoning := c.random.Int64N(completion + 1)
	model, unpriced := "gpt-4o", int64(0)
	cost := (prompt-cached)*inputPrice + cached*cachedPrice + completion*outputPrice
	if c.random.IntN(20) == 0 {
		model, unpriced, cost = "nobody-knows", 1, 0
	}
	arm := []string{"none", "none", "treated", "holdback"}[c.random.IntN(4)]
	adds := amounts{
		"requests": 1, "unpriced": unpriced, "uncached_input_tokens": prompt - cached, "cache_read_tokens": cached,
		"output_tokens": completion, "reasoning_tokens": reasoning, "cost_pico_usd": cost,
	}
	span = &record{stream: "spans", tenant: tenant, adds: map[string]amounts{"spans": adds, "kpi": adds}}
	if recent {
		span.adds["sweep"] = amounts{"requests": 1, "cost_pico_usd": cost, "input_tokens": prompt, "output_tokens": completion, "cache_read_tokens": cached}
	}
	stamp := at.Format("2006-01-02T15:04:05.000Z")
	inside := ""
	if c.random.IntN(10) == 0 {
		score := c.random.Int64N(201)
		inside = fmt.Sprintf(`,"quality":{"evaluator":"inline","score":%s}`, fraction(score))
		span.adds["quality"] = amounts{"scored": 1, "code_sum": score}
	}
	span.text = fmt.Sprintf(`{"trace_id":"t-%s","span_id":"s-%s","timestamp":%q,"tenant_id":%q,"provider":"openai","model":%q,`+
		`"tokens":{"prompt":%d,"completion":%d,"cached":%d,"reasoning":%d},"latency_ms":%d,"prompt_template_version":"v%d","arm":%q,"tags":{"team":"t%d"}%s}`,
		id, id, stamp, tenant, model, prompt, completion, cached, reasoning, c.random.IntN(4000), c.random.IntN(3), arm, c.random.IntN(5), inside)

	if c.random.IntN(3) == 0 {
		score := c.random.Int64N(201)
		dimensions := [...]string{ // all of its own, its span's, its trace's
			fmt.Sprintf(`,"tenant_id":%q,"model":%q`, tenant, model), fmt.Sprintf(`,"tenant_id":%q,"span_id":"s-%s"`, tenant, id), "",
		}[c.random.IntN(3)]
		others = append(others, &record{
			stream: "quality", tenant: tenant, adds: map[string]amounts{"quality": {"scored": 1, "code_sum": score}},
			text: fmt.Sprintf(`{"id":"q-%s","trace_id":"t-%s","evaluator":"judge","score":%s,"timestamp":%q%s}`, id, id, fraction(score), stamp, dimensions),
		})
	}
	if c.random.IntN(10) == 0 && c.book.has("outcomes") {
		value := c.random.Int64N(2000) - 500
		good := int64(0)
		if value > 0 {
			good = 1
		}
		others = append(others, &record{
			stream: "outcomes", tenant: tenant, adds: map[string]amounts{"outcomes": {"outcomes": 1, "good": good, "value_micro": value * 1_000_000}},
			text: fmt.Sprintf(`{"id":"o-%s","trace_id":"t-%s","tenant_id":%q,"kind":"conversion","value":%d,"timestamp":%q}`, id, id, tenant, value, stamp),
		})
	}
	if c.random.IntN(200) == 0 {
		others = append(others, &record{
			stream: "deployments", tenant: tenant, adds: map[string]amounts{"deployments": {"deployments": 1}},
			text: fmt.Sprintf(`{"id":"d-%s","service":"bot","tenant_id":%q,"model":%q,"version":"v1","timestamp":%q}`, id, tenant, model, stamp),
		})
	}
	return span, others
}

// fraction writes a number of two-hundredths, which is what the rollups keep of a score.
func fraction(twoHundredths int64) string {
	return fmt.Sprintf("%d.%03d", twoHundredths/200, twoHundredths%200*5)
}
