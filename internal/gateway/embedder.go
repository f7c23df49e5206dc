package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/router"
)

// Embedder asks an endpoint of OpenAI's API for the vectors of texts. A caller who waits is kept for a bounded time, and
// not at all while the endpoint fails. Any number of goroutines may ask. Make one with NewEmbedder.
type Embedder struct {
	config  config.Embeddings
	address string
	lookup  func(string) (string, bool)
	http    http.RoundTripper // follows no redirect
	log     *slog.Logger
	now     func() time.Time

	slots   chan struct{} // of callers who wait
	waiting circuit       // for those: an endpoint that is too slow for them may do for the others
	behind  circuit       // for the others
	recent  vectors
	size    atomic.Int64 // of the vectors so far; 0: none has come yet
	refused atomic.Bool  // a text, and that was told
	counts  [len(outcomes)]atomic.Int64
}

// The bounds of an Embedder.
const (
	embedSlots   = 32               // requests of waiting callers under way
	embedBatch   = 32               // texts of one request: of 8,192 bytes each they are fewer tokens than the 300,000 that OpenAI takes
	embedAtOnce  = 4                // requests under way for those who do not wait
	embedWithin  = 30 * time.Second // that one of them may take
	embedConnect = 5 * time.Second
	embedRefused = 4       // texts in a row that the endpoint refuses before the rest is not asked about
	embedRecent  = 1024    // texts whose vectors are remembered: a call's features are stored after it has ended
	embedNumber  = 32      // bytes of one value, as JSON, at the most
	embedAround  = 1 << 16 // bytes of an answer beside its values
)

// The outcomes of what waiting callers asked.
const (
	embedAnswered = iota
	embedRemembered
	embedLate
	embedBusy
	embedSkipped
	embedFailed
)

var outcomes = [...]string{"answered", "remembered", "late", "busy", "skipped", "failed"}

// The reasons why there is no vector, beside what the endpoint says.
var (
	errEmbedBusy = errors.New("as many texts as may be are being embedded")
	errEmbedOpen = errors.New("the embeddings endpoint has failed, and is left alone for a while")
	errEmbedText = errors.New("the text is empty")
)

// embedRefusal is an answer that is none. It keeps the status and the code, and not the words: endpoints repeat in them what
// they were sent.
type embedRefusal struct {
	status int
	code   string
	retry  time.Duration // 0: it does not say
}

func (e *embedRefusal) Error() string {
	text := fmt.Sprintf("the embeddings endpoint has answered %d", e.status)
	if e.code != "" {
		text += " (" + e.code + ")"
	}
	if e.status >= 300 && e.status < 400 {
		text += ": redirects are not followed, give its own address as router.embeddings.url"
	}
	return text
}

// text says that the endpoint refused what it was asked, and not who asks or how often.
func (e *embedRefusal) text() bool {
	return e.status == http.StatusBadRequest || e.status == http.StatusRequestEntityTooLarge || e.status == http.StatusUnprocessableEntity
}

// NewEmbedder returns nil where no endpoint is configured; lookup is os.LookupEnv.
func NewEmbedder(c config.Embeddings, lookup func(string) (string, bool), log *slog.Logger) (*Embedder, error) {
	if c.URL == "" {
		return nil, nil
	}
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("router.embeddings.url cannot be read")
	}
	if _, err := c.Key(lookup); err != nil {
		return nil, err
	}
	return &Embedder{
		config: c, address: base.JoinPath("embeddings").String(), lookup: lookup, log: log, now: time.Now, slots: make(chan struct{}, embedSlots),
		http: newTransport(config.Upstream{AllowPrivate: c.AllowPrivate, Timeouts: config.Timeouts{Connect: embedConnect}}),
	}, nil
}

// Reading names the vectors; of a nil Embedder it is the zero value.
func (e *Embedder) Reading() router.Embedding {
	if e == nil {
		return router.Embedding{}
	}
	return e.config.Reading()
}

// Vector is a text's, for somebody who waits: no longer than the configured timeout, whatever the endpoint does.
func (e *Embedder) Vector(text string) ([]float32, error) {
	vector, outcome, err := e.vector(embeddable(text))
	e.counts[outcome].Add(1)
	return vector, err
}

func (e *Embedder) vector(text string) ([]float32, int, error) {
	if text == "" {
		return nil, embedFailed, errEmbedText
	}
	if v := e.recent.get(text); v != nil {
		return v, embedRemembered, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), e.config.Timeout)
	defer cancel()
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return nil, embedBusy, errEmbedBusy
	}
	v, err := e.ask(ctx, &e.waiting, []string{text})
	switch {
	case err == nil:
		return v[0], embedAnswered, nil
	case errors.Is(err, errEmbedOpen):
		return nil, embedSkipped, err
	case ctx.Err() != nil:
		return nil, embedLate, fmt.Errorf("the embeddings endpoint has not answered within %s", e.config.Timeout)
	}
	return nil, embedFailed, err
}

// Vectors are the texts', for nobody who waits. One that cannot be had is nil, and the error then says why of one of them.
func (e *Embedder) Vectors(ctx context.Context, texts []string) ([][]float32, error) {
	all := make([][]float32, len(texts))
	var group errgroup.Group
	group.SetLimit(embedAtOnce)
	for from := 0; from < len(texts); from += embedBatch {
		to := min(from+embedBatch, len(texts))
		group.Go(func() error { return e.fill(ctx, all[from:to], texts[from:to]) })
	}
	return all, group.Wait()
}

// fill asks for the vectors that are not remembered.
func (e *Embedder) fill(ctx context.Context, all [][]float32, texts []string) (err error) {
	var missing []int
	var ask []string
	for i, text := range texts {
		text = embeddable(text)
		if text == "" {
			err = errEmbedText
		} else if all[i] = e.recent.get(text); all[i] == nil {
			missing, ask = append(missing, i), append(ask, text)
		}
	}
	if len(ask) == 0 {
		return err
	}
	got, failed := e.within(ctx, ask)
	var refused *embedRefusal
	if errors.As(failed, &refused) && refused.text() && len(ask) > 1 {
		got, failed = e.single(ctx, ask) // the others are not to blame for one that is too long for the model
	}
	for k, i := range missing {
		if k < len(got) {
			all[i] = got[k]
		}
	}
	return errors.Join(err, failed)
}

// single asks for each text alone, until the endpoint seems to refuse all.
func (e *Embedder) single(ctx context.Context, texts []string) (all [][]float32, last error) {
	all = make([][]float32, len(texts))
	row := 0
	for i := range texts {
		got, err := e.within(ctx, texts[i:i+1])
		if err == nil {
			all[i], row = got[0], 0
			continue
		}
		last = err
		var refused *embedRefusal
		if row++; row == embedRefused || !errors.As(err, &refused) || !refused.text() {
			break
		}
	}
	return all, last
}

func (e *Embedder) within(ctx context.Context, texts []string) ([][]float32, error) {
	ctx, cancel := context.WithTimeout(ctx, embedWithin)
	defer cancel()
	return e.ask(ctx, &e.behind, texts)
}

// ask makes one request, unless the circuit is open.
func (e *Embedder) ask(ctx context.Context, c *circuit, texts []string) ([][]float32, error) {
	if !c.enter(e.now()) {
		return nil, errEmbedOpen
	}
	vectors, err := e.request(ctx, texts)
	e.tell(c, c.leave(e.now(), err), err)
	if err != nil {
		return nil, err
	}
	for i, text := range texts {
		e.recent.put(text, vectors[i])
	}
	return vectors, nil
}

// tell logs what has changed, and not each failure.
func (e *Embedder) tell(c *circuit, turned bool, err error) {
	lost := "their calls leave no features to train from"
	if c == &e.waiting {
		lost = "calls over their ceiling do not fall back"
	}
	var no *embedRefusal
	switch {
	case turned && err != nil:
		e.log.Warn("The embeddings endpoint fails, and is left alone for a while: until it answers, "+lost, "error", err)
	case turned:
		e.log.Info("The embeddings endpoint answers again")
	case errors.As(err, &no) && no.text() && !e.refused.Swap(true):
		e.log.Warn("The embeddings endpoint refuses a text, and perhaps others: without its vector, "+lost, "error", err)
	}
}

// embedAsk and embedAnswer are the bodies of OpenAI's POST /v1/embeddings.
type embedAsk struct {
	Input          []string `json:"input"`
	Model          string   `json:"model"`
	Dimensions     int      `json:"dimensions,omitempty"`
	EncodingFormat string   `json:"encoding_format"`
}

type embedAnswer struct {
	Data []struct {
		Index     *int      `json:"index"`
		Embedding []float32 `json:"embedding"`
	} `json:"data"`
}

func (e *Embedder) request(ctx context.Context, texts []string) ([][]float32, error) {
	key, err := e.config.Key(e.lookup)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(embedAsk{texts, e.config.Model, e.config.Dimensions, "float"})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := e.http.RoundTrip(request)
	if err != nil {
		return nil, fmt.Errorf("asking the embeddings endpoint: %w", err)
	}
	defer response.Body.Close()
	limit := int64(embedAround + len(texts)*router.MaxDimensions*embedNumber)
	said, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the embeddings: %w", err)
	case response.StatusCode != http.StatusOK:
		return nil, refusalOf(response, said, e.now())
	case int64(len(said)) > limit:
		return nil, fmt.Errorf("the embeddings are more than %d bytes", limit)
	}
	return e.read(said, len(texts))
}

// read takes the vectors of n texts, each by its index.
func (e *Embedder) read(said []byte, n int) ([][]float32, error) {
	var answer embedAnswer
	if err := json.Unmarshal(said, &answer); err != nil {
		return nil, errors.New("the answer is no list of embeddings of floats")
	}
	all := make([][]float32, n)
	for k := range answer.Data {
		d := &answer.Data[k]
		if d.Index == nil || *d.Index < 0 || *d.Index >= n || all[*d.Index] != nil {
			return nil, fmt.Errorf("data[%d].index is missing, outside 0..%d, or there twice", k, n-1)
		}
		size := len(d.Embedding)
		if size == 0 || size > router.MaxDimensions {
			return nil, fmt.Errorf("data[%d].embedding has %d values: want 1 to %d", k, size, router.MaxDimensions)
		}
		if want := e.config.Dimensions; want > 0 && size != want {
			return nil, fmt.Errorf("data[%d].embedding has %d values, and router.embeddings.dimensions are %d: set what the model makes", k, size, want)
		}
		if e.size.CompareAndSwap(0, int64(size)); e.size.Load() != int64(size) {
			return nil, fmt.Errorf("data[%d].embedding has %d values, and one before had %d: set router.embeddings.dimensions", k, size, e.size.Load())
		}
		all[*d.Index] = d.Embedding
	}
	if len(answer.Data) != n {
		return nil, fmt.Errorf("the answer has %d embeddings of %d texts", len(answer.Data), n)
	}
	return all, nil
}

// refusalOf reads an error's code, and when to ask again.
func refusalOf(response *http.Response, said []byte, now time.Time) *embedRefusal {
	no := &embedRefusal{status: response.StatusCode}
	var body struct {
		Error struct {
			Code any    `json:"code"`
			Type string `json:"type"`
		} `json:"error"`
	}
	if json.Unmarshal(said, &body) == nil {
		no.code, _ = body.Error.Code.(string)
		if no.code == "" {
			no.code = body.Error.Type
		}
		if len(no.code) > 64 || strings.Trim(no.code, "abcdefghijklmnopqrstuvwxyz_") != "" { // it is no code
			no.code = ""
		}
	}
	after := response.Header.Get("Retry-After")
	if n, err := strconv.Atoi(after); err == nil {
		no.retry = time.Duration(min(max(n, 0), 3600)) * time.Second
	} else if at, err := http.ParseTime(after); err == nil {
		no.retry = max(0, at.Sub(now))
	}
	return no
}

// embeddable is as much of a text as is read, in the encoding that JSON takes.
func embeddable(text string) string {
	if len(text) > router.MaxText {
		text = text[:router.MaxText]
	}
	return strings.ToValidUTF8(text, "")
}

// circuit keeps an endpoint that fails from being asked, and callers from waiting for it.
type circuit struct {
	mu     sync.Mutex
	failed int // times in a row
	until  time.Time
}

// The pace of a circuit: how many failures in a row open it, and for how long, twice as long each time that the one
// request fails which is then let through. No Retry-After keeps it open for longer than the longest.
const (
	circuitFailures = 3
	circuitFirst    = 5 * time.Second
	circuitLongest  = time.Minute
)

// enter says whether the endpoint may be asked. Of an open circuit whose time has passed it lets one in.
func (c *circuit) enter(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Before(c.until) {
		return false
	}
	if c.failed >= circuitFailures {
		c.until = now.Add(circuitFirst)
	}
	return true
}

// leave notes how it went, and says whether that has opened or closed the circuit. A text that was refused, and a request
// that its own caller gave up, say nothing of the endpoint.
func (c *circuit) leave(now time.Time, err error) (turned bool) {
	var no *embedRefusal
	c.mu.Lock()
	defer c.mu.Unlock()
	open := c.failed >= circuitFailures
	switch {
	case errors.Is(err, context.Canceled):
		return false
	case err == nil || errors.As(err, &no) && no.text():
		c.failed, c.until = 0, time.Time{}
		return open
	}
	c.failed++
	if no != nil && no.retry > 0 { // it is asked for patience, and that at once
		c.failed = max(c.failed, circuitFailures)
		c.until = now.Add(min(no.retry, circuitLongest))
	} else if c.failed >= circuitFailures {
		again := min(c.failed-circuitFailures, 10)
		c.until = now.Add(min(circuitFirst<<again, circuitLongest))
	}
	return !open && c.failed >= circuitFailures
}

// vectors remembers those of the last texts, by their hashes.
type vectors struct {
	mu   sync.Mutex
	of   map[[sha256.Size]byte][]float32
	ring [embedRecent][sha256.Size]byte
	next int
}

func (v *vectors) get(text string) []float32 {
	name := sha256.Sum256([]byte(text))
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.of[name]
}

func (v *vectors) put(text string, vector []float32) {
	name := sha256.Sum256([]byte(text))
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.of == nil {
		v.of = map[[sha256.Size]byte][]float32{}
	}
	if _, known := v.of[name]; known {
		return
	}
	delete(v.of, v.ring[v.next]) // the oldest; at first nobody's
	v.ring[v.next], v.of[name] = name, vector
	v.next = (v.next + 1) % embedRecent
}

var embeddingsTotal = prometheus.NewDesc("flyball_router_embeddings_total", "Texts whose vectors a call waited for, by what became of that.", []string{"outcome"}, nil)

// Describe implements prometheus.Collector.
func (e *Embedder) Describe(to chan<- *prometheus.Desc) { to <- embeddingsTotal }

// Collect implements prometheus.Collector.
func (e *Embedder) Collect(to chan<- prometheus.Metric) {
	for i, name := range outcomes {
		to <- prometheus.MustNewConstMetric(embeddingsTotal, prometheus.CounterValue, float64(e.counts[i].Load()), name)
	}
}
