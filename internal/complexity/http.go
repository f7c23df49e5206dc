package complexity

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flyball-dev/flyball/internal/kpi"
)

// Bounds on one request.
const (
	maxBody       = 8 << 20
	maxRecords    = 10_000
	maxName       = 256     // bytes
	maxTimes      = 100_000 // of one task
	maxEmbeddings = 64      // of one task, and canonical examples as well
	maxDimensions = 4096
)

// Record is one task on the wire. What its score is follows from just one of score, minutes, and embeddings with
// canonical examples.
type Record struct {
	TenantID   string      `json:"tenant_id,omitempty"`
	Task       string      `json:"task"`
	Score      *float64    `json:"score,omitempty"`
	Minutes    []float64   `json:"minutes,omitempty"`
	Embeddings [][]float64 `json:"embeddings,omitempty"`
	Canonical  [][]float64 `json:"canonical,omitempty"`
	By         string      `json:"by,omitempty"`
}

// answer is what a sender is told, in the form of ingest's answers.
type answer struct {
	Accepted   int       `json:"accepted"`
	Refused    []refusal `json:"refused"`
	Duplicates int       `json:"duplicates"` // none: to set a score again is no harm
}

type refusal struct {
	Index  int    `json:"index"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// List is what GET answers: the scores in force, by tenant and task.
type List struct {
	Scores []InForce `json:"scores"`
}

// InForce is the score in force of one task. An empty tenant is all.
type InForce struct {
	TenantID string    `json:"tenant_id"`
	Task     string    `json:"task"`
	Source   string    `json:"source"`
	Score    float64   `json:"score"`
	Samples  int64     `json:"samples"`
	Minutes  float64   `json:"minutes,omitempty"`
	SetAt    time.Time `json:"set_at"`
	By       string    `json:"by"`
}

// Handler serves POST and GET /v1/complexity to a caller by name, who speaks for the tenant, or for all when
// that is empty.
func (s *Scores) Handler(tenant, by string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/complexity", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var large *http.MaxBytesError
		switch {
		case errors.As(err, &large):
			fail(w, http.StatusRequestEntityTooLarge, fmt.Errorf("the body is larger than %d bytes: send fewer tasks at once", maxBody))
			return
		case err != nil:
			fail(w, http.StatusBadRequest, fmt.Errorf("reading the body: %w", err))
			return
		}
		records, err := split(body)
		if err != nil {
			fail(w, http.StatusBadRequest, err)
			return
		}
		a, scores := s.read(records, tenant, by)
		switch err := s.Set(r.Context(), scores); {
		case errors.Is(err, errTooMany):
			fail(w, http.StatusBadRequest, err)
			return
		case err != nil:
			fail(w, http.StatusServiceUnavailable, err)
			return
		}
		status := http.StatusOK
		if a.Accepted == 0 {
			status = http.StatusBadRequest
		}
		reply(w, status, a)
	})
	mux.HandleFunc("GET /v1/complexity", func(w http.ResponseWriter, r *http.Request) {
		all, err := s.store.Complexity(r.Context())
		if err != nil {
			fail(w, http.StatusServiceUnavailable, err)
			return
		}
		seen := List{Scores: []InForce{}}
		for _, c := range all {
			if tenant == "" || c.Tenant == "" || c.Tenant == tenant {
				seen.Scores = append(seen.Scores, InForce{c.Tenant, c.Task, string(c.Source), float64(c.Milli) / 1000, c.Samples, c.Minutes, c.SetAt, c.By})
			}
		}
		reply(w, http.StatusOK, seen)
	})
	return mux
}

func reply(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(value) // the caller has gone: it will ask again
}

// fail refuses a whole request.
func fail(w http.ResponseWriter, status int, err error) {
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	reply(w, status, map[string]string{"error": err.Error()})
}

// split finds the records of a body: of an array, or one alone.
func split(body []byte) (records []json.RawMessage, err error) {
	body = bytes.TrimSpace(body)
	switch {
	case len(body) == 0:
		return nil, errors.New("the body is empty")
	case !utf8.Valid(body):
		return nil, errors.New("the body is not valid UTF-8")
	case body[0] == '[':
		err = json.Unmarshal(body, &records)
	case !json.Valid(body):
		err = json.Unmarshal(body, new(json.RawMessage)) // says where
	default:
		records = []json.RawMessage{body}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the body is not JSON: %w", err)
	case len(records) == 0:
		return nil, errors.New("the array is empty")
	case len(records) > maxRecords:
		return nil, fmt.Errorf("the body has %d records, more than %d: send fewer at once", len(records), maxRecords)
	}
	return records, nil
}

// read makes scores of the good records and says what is wrong with each of the others.
func (s *Scores) read(records []json.RawMessage, tenant, by string) (answer, []kpi.TaskScore) {
	a := answer{Refused: []refusal{}}
	var scores []kpi.TaskScore
	seen := map[taskOf]bool{}
	for i, raw := range records {
		score, err := decode(raw, tenant)
		if task := (taskOf{score.Tenant, score.Task}); err == nil && seen[task] {
			err = wrong("task", "%q is there twice: give all that is known of it at once", score.Task)
		} else if err == nil {
			seen[task] = true
			score.SetAt, score.By = s.now().UTC().Truncate(time.Millisecond), cmp.Or(score.By, by)
			scores = append(scores, score)
			continue
		}
		var f *fieldError
		errors.As(err, &f)
		a.Refused = append(a.Refused, refusal{i, f.field, f.reason})
	}
	a.Accepted = len(scores)
	return a, scores
}

// fieldError says what is wrong with one field of a record.
type fieldError struct{ field, reason string }

func (e *fieldError) Error() string { return e.field + ": " + e.reason }

func wrong(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}

// decode reads one record of a sender who speaks for a tenant. Its error is a *fieldError.
func decode(raw json.RawMessage, tenant string) (kpi.TaskScore, error) {
	var r Record
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&r); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return kpi.TaskScore{}, wrong(kind.Field, "must not be a JSON %s", kind.Value)
		}
		if name, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return kpi.TaskScore{}, wrong(strings.Trim(name, `"`), "is not a known field")
		}
		return kpi.TaskScore{}, wrong("", "%v", err)
	}
	for _, name := range [...]struct{ field, text string }{{"tenant_id", r.TenantID}, {"task", r.Task}, {"by", r.By}} {
		if len(name.text) > maxName {
			return kpi.TaskScore{}, wrong(name.field, "is longer than %d bytes", maxName)
		}
	}
	switch {
	case tenant != "" && r.TenantID == "":
		r.TenantID = tenant
	case tenant != "" && r.TenantID != tenant:
		return kpi.TaskScore{}, wrong("tenant_id", "%q is not the ingest token's tenant", r.TenantID)
	}
	if r.Task == "" {
		return kpi.TaskScore{}, wrong("task", "is missing")
	}
	score := kpi.TaskScore{Tenant: r.TenantID, Task: r.Task, By: r.By}
	return score, r.score(&score)
}

// score fills in what the record says.
func (r *Record) score(to *kpi.TaskScore) error {
	given := 0
	for _, is := range [...]bool{r.Score != nil, r.Minutes != nil, r.Embeddings != nil || r.Canonical != nil} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return wrong("score", "give one of score, minutes (people's times), or embeddings with canonical examples")
	case r.Score != nil:
		if !(*r.Score >= kpi.MinComplexity && *r.Score <= kpi.MaxComplexity) {
			return wrong("score", "must be between %g and %g (%g)", kpi.MinComplexity, kpi.MaxComplexity, *r.Score)
		}
		to.Source, to.Milli = kpi.FromPerson, kpi.ComplexityMilli(*r.Score)
	case r.Minutes != nil:
		if len(r.Minutes) > maxTimes {
			return wrong("minutes", "has %d times, more than %d", len(r.Minutes), maxTimes)
		}
		minutes, err := kpi.MedianMinutes(r.Minutes)
		if err != nil {
			return wrong("minutes", "%v", err)
		}
		to.Source, to.Minutes, to.Samples = kpi.FromTime, minutes, int64(len(r.Minutes))
	default:
		return r.fromDistance(to)
	}
	return nil
}

// fromDistance scores the task by the median of its calls, whose embeddings are given.
func (r *Record) fromDistance(to *kpi.TaskScore) error {
	for _, vectors := range [...]struct {
		field string
		list  [][]float64
	}{{"embeddings", r.Embeddings}, {"canonical", r.Canonical}} {
		if n := len(vectors.list); n == 0 || n > maxEmbeddings {
			return wrong(vectors.field, "must be 1 to %d vectors (%d)", maxEmbeddings, n)
		}
		for i, v := range vectors.list {
			if len(v) > maxDimensions {
				return wrong(vectors.field, "vector %d has more than %d dimensions", i, maxDimensions)
			}
		}
	}
	canonical, err := kpi.NewCanonical(map[string][][]float64{r.Task: r.Canonical})
	if err != nil {
		return wrong("canonical", "%v", err)
	}
	scores := make([]float64, len(r.Embeddings))
	for i, v := range r.Embeddings {
		d, err := kpi.ComplexityFromDistance(v, canonical)
		if err != nil {
			return wrong("embeddings", "vector %d: %v", i, err)
		}
		scores[i] = d.Score
	}
	slices.Sort(scores)
	to.Source, to.Samples = kpi.FromDistance, int64(len(scores))
	to.Milli = kpi.ComplexityMilli((scores[(len(scores)-1)/2] + scores[len(scores)/2]) / 2)
	return nil
}
