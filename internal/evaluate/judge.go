package evaluate

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// JudgeOptions are the model that judges and what it may spend. Every field without a remark is needed.
type JudgeOptions struct {
	BaseURL     string // of an OpenAI-compatible API, such as https://api.openai.com/v1
	APIKey      string // empty: the endpoint wants none
	Provider    string // as in the price book; empty where the model's name is enough
	Model       string
	Temperature *float64 // nil: the model's own
	JSONObject  bool     // the endpoint knows no JSON schemas in response_format
	Timeout     time.Duration
	Concurrency int

	Book    *pricing.Book
	DayCap  usage.PicoUSD // of one UTC day
	Tenant  string        // that its calls are accounted to
	Process string        // by which this process's calls are told from others'
	// Others is what was spent as the tenant on a day by other processes, this one's predecessor among them. Nil: nobody
	// else spends.
	Others func(ctx context.Context, day time.Time) (usage.PicoUSD, error)
	// Spent is told of every call that may have cost something, as the span that accounts for it.
	Spent func(usage.Span)

	Now    func() time.Time
	Logger *slog.Logger
}

// Judge asks a model. Make one with NewJudge, and keep Run running beside it.
type Judge struct {
	o      JudgeOptions
	chat   chat
	budget budget

	mu        sync.Mutex
	failures  int       // in a row
	pause     time.Time // until then nothing is asked
	capSaid   time.Time // the day for which it was said that the cap is reached
	agreement map[string]float64
}

// Why a judge gives no score beside ErrNoScore.
var (
	ErrCap     = errors.New("the judge's cap of the day is reached")
	ErrRefused = errors.New("the judge refused")
	ErrPaused  = errors.New("the judge's endpoint failed too often: it is left alone for a while")
	ErrAway    = errors.New("the judge's endpoint failed")
)

// NewJudge checks the options. A model without a price is refused: nothing could keep it below a cap.
func NewJudge(o JudgeOptions) (*Judge, error) {
	base, err := url.Parse(o.BaseURL)
	if err != nil || base.Host == "" {
		return nil, fmt.Errorf("judge: %q is not the address of an API", o.BaseURL)
	}
	j := &Judge{
		o: o, budget: budget{cap: o.DayCap, known: o.Others == nil}, agreement: map[string]float64{},
		chat: newChat(base, o.APIKey, o.Concurrency),
	}
	if _, err := j.worst(1, 1); err != nil {
		return nil, fmt.Errorf("judge: %w: without its price no cap could hold. Add it to the price book; a model of your own has the price 0", err)
	}
	return j, nil
}

// learnEvery is how often the store is asked what others have spent.
const learnEvery = time.Minute

// Run keeps what others spend up to date until ctx ends. Nothing is judged before it was known once.
func (j *Judge) Run(ctx context.Context) {
	if j.o.Others == nil {
		return
	}
	failed := false
	for {
		next := learnEvery
		day := dayOf(j.o.Now())
		others, err := j.o.Others(ctx, day)
		if err == nil {
			j.budget.learn(others, day, j.o.Now())
		} else if ctx.Err() == nil {
			if !failed {
				j.o.Logger.Warn("what judges have spent today cannot be read; it is tried again", "error", err)
			}
			next = time.Second
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// About is the call that is judged, and by what.
type About struct {
	ID        string // of the score
	Tenant    string
	Evaluator *Evaluator
}

// Score judges texts, several times where the answer is to be checked for consistency. The confidence of a call that
// was judged several times is the Agreement of its scores; of others it is the usual one of the evaluator: an
// exponentially weighted mean (0.1 the newest) that begins at 1.
func (j *Judge) Score(ctx context.Context, about About, t Texts, check bool) (score, confidence float64, err error) {
	e := about.Evaluator
	times := 1
	if check {
		times = e.Rubric.Consistency.Times
	}
	var scores []float64
	var first error
	for range times {
		answer, err := j.ask(ctx, about, e.Rubric.system(), judged{shortened(t.Input), shortened(t.Output)}, scoreSchema, e.Rubric.MaxTokens)
		if err == nil {
			var s float64
			if s, _, err = e.Rubric.Parse(answer); err == nil {
				scores = append(scores, s)
			}
		}
		if first == nil {
			first = err
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	usual, known := j.agreement[e.Name]
	if !known {
		usual = 1
	}
	switch len(scores) {
	case 0:
		return 0, 0, first
	case 1:
		return scores[0], usual, nil
	}
	score, confidence = Agreement(scores)
	j.agreement[e.Name] = 0.9*usual + 0.1*confidence
	return score, confidence, nil
}

// Compare asks which of two answers to one question is the better, in both orders: 1 the first, -1 the second, 0
// neither.
func (j *Judge) Compare(ctx context.Context, about About, input, a, b string) (better int, confidence float64, err error) {
	r := about.Evaluator.Rubric
	var verdicts [2]int
	for n, pair := range [...]judgedPair{{input, a, b}, {input, b, a}} {
		pair.Input, pair.First, pair.Second = shortened(pair.Input), shortened(pair.First), shortened(pair.Second)
		answer, err := j.ask(ctx, about, r.pairSystem(), pair, pairSchema, r.MaxTokens)
		if err != nil {
			return 0, 0, err
		}
		if verdicts[n], err = parsePair(answer); err != nil {
			return 0, 0, err
		}
	}
	better, confidence = Swapped(verdicts[0], verdicts[1])
	return better, confidence, nil
}

// schema is the form that an answer must have.
func schema(name string, field map[string]any) map[string]any {
	return map[string]any{
		"type": "object", "required": []string{"reason", name}, "additionalProperties": false,
		"properties": map[string]any{"reason": map[string]any{"type": "string"}, name: field},
	}
}

var (
	scoreSchema = schema("score", map[string]any{"type": "number"})
	pairSchema  = schema("better", map[string]any{"type": "string", "enum": []string{"first", "second", "tie"}})
)

// overhead is what a request has beside its texts, in tokens, rounded up.
const overhead = 512

// worst is what a call costs at most: no text has more tokens than bytes.
func (j *Judge) worst(bytes int, output int64) (usage.PicoUSD, error) {
	quote, err := j.o.Book.Quote(j.o.Provider, j.o.Model, "", j.o.Now())
	if err != nil {
		return 0, err
	}
	return quote.Cost(usage.Tokens{UncachedInput: int64(bytes) + overhead, Output: output})
}

// ask asks once and accounts for it. It is repeated only where the endpoint says that it did nothing (429) or was not
// reached.
func (j *Judge) ask(ctx context.Context, about About, system string, data any, form map[string]any, output int64) (string, error) {
	user := fenced(newMark(), data)
	hold, err := j.worst(len(system)+len(user), output)
	if err != nil {
		return "", err
	}
	if err := cmp.Or(ctx.Err(), j.ready()); err != nil {
		return "", err
	}
	if !j.budget.hold(hold, j.o.Now()) {
		j.sayCap()
		return "", ErrCap
	}
	began := j.o.Now()
	response, err := j.repeat(ctx, j.params(system, user, form, output))
	s := j.span(about, began)
	switch {
	case err == nil:
		j.account(&s, response, len(system)+len(user), output)
	case billed(err):
		j.unknown(&s, len(system)+len(user), output)
	default: // it was refused before anything was done
		j.budget.settle(hold, 0, j.o.Now())
		return "", j.failed(ctx, err)
	}
	j.budget.settle(hold, s.Cost, j.o.Now())
	j.o.Spent(s)
	if err != nil {
		return "", j.failed(ctx, err)
	}
	j.mu.Lock()
	j.failures = 0
	j.mu.Unlock()
	return wordsOf(response)
}

func newMark() string {
	var random [12]byte
	_, _ = rand.Read(random[:]) // never fails
	return hex.EncodeToString(random[:])
}

func (j *Judge) params(system, user string, form map[string]any, output int64) chatRequest {
	r := chatRequest{
		Model: j.o.Model, Temperature: j.o.Temperature,
		Messages: []chatMessage{{Role: "system", Content: system}, {Role: "user", Content: user}},
	}
	if j.chat.newName {
		r.MaxCompletionTokens = output
	} else {
		r.MaxTokens = output
	}
	if r.Format.Type = "json_object"; !j.o.JSONObject {
		r.Format.Type, r.Format.Schema = "json_schema", &chatSchema{"verdict", true, form}
	}
	return r
}

// wordsOf is the text of an answer that is one.
func wordsOf(c *completion) (string, error) {
	if len(c.Choices) == 0 {
		return "", errShape
	}
	choice := &c.Choices[0]
	switch {
	case choice.Message.Refusal != "" || choice.FinishReason == "content_filter":
		return "", ErrRefused
	case choice.FinishReason == "length":
		return "", fmt.Errorf("%w: its answer was cut off: raise max_tokens of the rubric", ErrNoScore)
	}
	if Refuses(choice.Message.Content) && !strings.Contains(choice.Message.Content, "{") {
		return "", ErrRefused
	}
	return choice.Message.Content, nil
}

// Retries of what did nothing.
const (
	attempts   = 4
	longestTry = 30 * time.Second // an endpoint that says to wait longer is not waited for
)

func (j *Judge) repeat(ctx context.Context, r chatRequest) (*completion, error) {
	pause := 500 * time.Millisecond
	for attempt := 1; ; attempt++ {
		try, cancel := context.WithTimeout(ctx, j.o.Timeout)
		response, err := j.chat.complete(try, r)
		cancel()
		if err == nil || attempt == attempts {
			return response, err
		}
		wait, safe := again(err, pause, j.o.Now())
		if !safe {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
		pause *= 2
	}
}

// again is how long to wait before a call is repeated, if that is safe.
func again(err error, pause time.Duration, now time.Time) (time.Duration, bool) {
	var refused *chatError
	if !errors.As(err, &refused) {
		return pause, dialled(err)
	}
	if refused.status != http.StatusTooManyRequests {
		return 0, false
	}
	if seconds, err := strconv.ParseFloat(refused.retryAfter, 64); err == nil && seconds >= 0 {
		wait := time.Duration(min(seconds, 1e6) * float64(time.Second))
		return wait, wait <= longestTry
	}
	if at, err := http.ParseTime(refused.retryAfter); err == nil {
		wait := max(0, at.Sub(now))
		return wait, wait <= longestTry
	}
	return pause, true
}

// dialled reports whether a call never reached the endpoint.
func dialled(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// billed reports whether a call that failed may have cost something: unless it was refused as a request, or never
// arrived, nobody knows.
func billed(err error) bool {
	var refused *chatError
	if errors.As(err, &refused) {
		return refused.status >= 500 || refused.status < 300
	}
	return !dialled(err)
}

// Pauses of a judge whose endpoint fails.
const (
	failuresInRow = 5
	firstPause    = 30 * time.Second
	longestPause  = 5 * time.Minute
)

// failed counts a failure, and says it without the words of the answer: endpoints repeat in it what they were sent.
func (j *Judge) failed(ctx context.Context, err error) error {
	told := fmt.Errorf("%w: no answer within %s, or the connection broke", ErrAway, j.o.Timeout)
	var refused *chatError
	switch {
	case errors.As(err, &refused):
		told = fmt.Errorf("%w: %w", ErrAway, refused)
	case dialled(err):
		told = fmt.Errorf("%w: it cannot be reached at %s", ErrAway, j.o.BaseURL)
	}
	if ctx.Err() != nil {
		return told // the end of this process is not the endpoint's fault
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failures++; j.failures >= failuresInRow {
		pause := min(firstPause<<min(j.failures-failuresInRow, 10), longestPause)
		j.pause = j.o.Now().Add(pause)
		j.o.Logger.Warn("the judge's endpoint fails; it is left alone for a while, heuristics go on", "pause", pause, "failures", j.failures, "error", told)
	}
	return told
}

func (j *Judge) ready() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.o.Now().Before(j.pause) {
		return ErrPaused
	}
	return nil
}

// sayCap says once a day that the cap is reached.
func (j *Judge) sayCap() {
	now := j.o.Now()
	spent, held, known := j.budget.state(now)
	j.mu.Lock()
	defer j.mu.Unlock()
	if day := dayOf(now); known && !j.capSaid.Equal(day) {
		j.capSaid = day
		j.o.Logger.Warn("the judge's cap of the day is reached; it goes on at midnight UTC, heuristics go on",
			"cap_usd", pricing.Format(j.o.DayCap), "spent_usd", pricing.Format(spent), "held_usd", pricing.Format(held))
	}
}
