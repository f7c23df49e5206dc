package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

// The bounds on a request: its body and each name in it, in bytes.
const (
	maxBody = 64 << 10
	maxName = 256
)

// The headers of an answer. The cost is an estimate in US dollars, the age is in milliseconds.
const (
	headerRoute    = "X-Llm-Route"
	headerEstimate = "X-Llm-Cost-Estimate"
	headerStale    = "X-Llm-Flags-Stale-Ms"
)

func (g *Gateway) markStale(h http.Header, now time.Time) {
	if age := g.stale(now); age >= staleAfter {
		h.Set(headerStale, strconv.FormatInt(age.Milliseconds(), 10))
	}
}

func checkName(field, value string, required bool) error {
	if required && value == "" {
		return fmt.Errorf("%s is missing", field)
	}
	if len(value) > maxName {
		return fmt.Errorf("%s is %d bytes long, more than %d", field, len(value), maxName)
	}
	return nil
}

// sampling is the body of GET /v1/sampling.
type sampling struct {
	Sampled    bool      `json:"sampled"`
	Rate       float64   `json:"rate"`
	Reason     string    `json:"reason"`      // the rule of sampling.yaml, or "flag: " and the kind of the flag that raised it
	ValidUntil time.Time `json:"valid_until"` // the rate may change after
}

// samplingValid is how long an evaluator may go by a rate before it asks again: an incident that
// raises it should not wait for scores.
const samplingValid = 10 * time.Second

func (g *Gateway) sampling(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	for _, field := range []string{"tenant", "model", "trace_id", "task"} {
		if err := checkName(field, query.Get(field), field != "task"); err != nil {
			refuse(w, err)
			return
		}
	}
	now := g.o.Now()
	key := usage.Key{Tenant: query.Get("tenant"), Model: query.Get("model")}
	classRate, reason := g.o.SampleRate(key, query.Get("task"))
	sampled, rate, raisedBy := routing.Sampled(g.snapshot.Load(), key, query.Get("trace_id"), classRate, now)
	if raisedBy != "" {
		reason = "flag: " + string(raisedBy)
	}
	g.markStale(w.Header(), now)
	w.Header().Set("Cache-Control", fmt.Sprintf("private, max-age=%d", int(samplingValid.Seconds())))
	reply(w, http.StatusOK, sampling{sampled, rate, reason, now.Add(samplingValid).UTC()})
}

// Sampled says whether a call is to be scored, as GET /v1/sampling does.
func (g *Gateway) Sampled(key usage.Key, task, traceID string) bool {
	classRate, _ := g.o.SampleRate(key, task)
	sampled, _, _ := routing.Sampled(g.snapshot.Load(), key, traceID, classRate, g.o.Now())
	return sampled
}

// obeyed is the body of GET /v1/flags.
type obeyed struct {
	routing.Revision
	StaleMS int64          `json:"stale_ms"`
	Flags   []routing.Flag `json:"flags"`
}

func (g *Gateway) flags(w http.ResponseWriter, _ *http.Request) {
	now, snapshot := g.o.Now(), g.snapshot.Load()
	g.markStale(w.Header(), now)
	reply(w, http.StatusOK, obeyed{snapshot.Revision, g.stale(now).Milliseconds(), snapshot.Live(now)})
}

// decode reads one JSON object. Unknown fields are refused: a mistyped session_id would silently
// scatter a conversation over both arms.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		if errors.Is(err, io.EOF) {
			return errors.New("the body is empty; send one JSON object")
		}
		return fmt.Errorf("the body is not the JSON object expected: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body holds more than one JSON object")
	}
	return nil
}

// problem is the body of every refusal.
type problem struct {
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func refuse(w http.ResponseWriter, err error) {
	status, p := http.StatusBadRequest, problem{}
	p.Error.Code, p.Error.Message = "bad_request", err.Error()
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		status, p.Error.Code = http.StatusRequestEntityTooLarge, "too_large"
		p.Error.Message = fmt.Sprintf("the body is larger than %d bytes", maxBody)
	}
	reply(w, status, p)
}

// reply writes the body. An error here means that the caller has gone, and nobody is left to tell.
func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuseWith(w http.ResponseWriter, status int, code string, err error) {
	p := problem{}
	p.Error.Code, p.Error.Message = code, err.Error()
	reply(w, status, p)
}
