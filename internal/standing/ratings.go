package standing

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Scale is the range of ratings that a score from 0 to 1 is made of.
type Scale struct{ Low, High float64 }

// ParseScale reads a scale as 1..5.
func ParseScale(text string) (Scale, error) {
	low, high, ok := strings.Cut(text, "..")
	from, lowErr := strconv.ParseFloat(low, 64)
	to, highErr := strconv.ParseFloat(high, 64)
	if !ok || lowErr != nil || highErr != nil || !(to > from) || to-from > 1e9 {
		return Scale{}, fmt.Errorf("%q is no scale: write the least and the greatest rating, as 1..5", text)
	}
	return Scale{from, to}, nil
}

// Rating is what a person said of one call: a quality event of kind human.
type Rating struct {
	ID        string  `json:"id"` // follows from the rest, so that the same rating twice is stored once
	TraceID   string  `json:"trace_id"`
	SpanID    string  `json:"span_id,omitempty"`
	TenantID  string  `json:"tenant_id,omitempty"`
	Model     string  `json:"model,omitempty"`
	Rater     string  `json:"evaluator"`
	Score     float64 `json:"score"`
	Kind      string  `json:"kind"`
	Timestamp string  `json:"timestamp"`

	Line int `json:"-"`
}

// ratingColumns are the columns that a file may have.
var ratingColumns = []string{"trace_id", "span_id", "tenant_id", "model", "rater", "score", "rating", "timestamp"}

// defaultRater is who rated where the file does not say.
const defaultRater = "people"

// Ratings reads a CSV file of ratings, one row at a time. A rating without a time is of now.
type Ratings struct {
	rows    *csv.Reader
	columns map[string]int
	scale   *Scale
	now     time.Time
}

// ReadRatings reads the header. A file with ratings needs their scale, one with scores must not have one.
func ReadRatings(file io.Reader, scale *Scale, now time.Time) (*Ratings, error) {
	rows := csv.NewReader(file)
	rows.ReuseRecord, rows.TrimLeadingSpace = true, true
	header, err := rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty: the first row names the columns")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	r := &Ratings{rows: rows, columns: map[string]int{}, scale: scale, now: now}
	for i, name := range header {
		name = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(name, "\ufeff")))
		if _, twice := r.columns[name]; twice || !slices.Contains(ratingColumns, name) {
			return nil, fmt.Errorf("the header has a column %q that is not known, or twice: there are %s", name, strings.Join(ratingColumns, ", "))
		}
		r.columns[name] = i
	}
	_, hasScore := r.columns["score"]
	_, hasRating := r.columns["rating"]
	_, hasTrace := r.columns["trace_id"]
	switch {
	case !hasTrace:
		return nil, errors.New("the header has no trace_id")
	case hasScore == hasRating:
		return nil, errors.New("the header needs either score (0 to 1) or rating (on a scale)")
	case hasRating && scale == nil:
		return nil, errors.New("the scale of the ratings is not known: pass --scale, as 1..5")
	case hasScore && scale != nil:
		return nil, errors.New("scores are from 0 to 1 and need no --scale: name the column rating, or leave --scale out")
	}
	return r, nil
}

// RowError is a row that is no rating; the rows after it may be.
type RowError struct {
	Line   int
	Reason string
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Next reads the next rating; io.EOF is the end of the file, a *RowError concerns one row.
func (r *Ratings) Next() (Rating, error) {
	row, err := r.rows.Read()
	var broken *csv.ParseError
	switch {
	case errors.As(err, &broken):
		return Rating{}, &RowError{broken.StartLine, broken.Err.Error()}
	case err != nil:
		return Rating{}, err
	}
	line, _ := r.rows.FieldPos(0)
	rating, err := r.rating(row)
	if err != nil {
		return Rating{}, &RowError{line, err.Error()}
	}
	rating.Line = line
	return rating, nil
}

func (r *Ratings) rating(row []string) (Rating, error) {
	field := func(name string) string {
		if i, ok := r.columns[name]; ok {
			return strings.TrimSpace(row[i])
		}
		return ""
	}
	for i, text := range row {
		if !utf8.ValidString(text) {
			return Rating{}, fmt.Errorf("column %d is not valid UTF-8", i+1)
		}
	}
	rating := Rating{
		TraceID: field("trace_id"), SpanID: field("span_id"), TenantID: field("tenant_id"), Model: field("model"),
		Rater: field("rater"), Kind: "human", Timestamp: field("timestamp"),
	}
	if rating.TraceID == "" {
		return rating, errors.New("the trace_id is missing")
	}
	if rating.Rater == "" {
		rating.Rater = defaultRater
	}
	var err error
	if rating.Score, err = r.score(field("score"), field("rating")); err != nil {
		return rating, err
	}
	if rating.Timestamp != "" {
		if _, err := time.Parse(time.RFC3339, rating.Timestamp); err != nil {
			return rating, fmt.Errorf("timestamp %.64q is not a time: write 2026-01-15T09:23:47Z", rating.Timestamp)
		}
	}
	rating.ID = ratingID(rating)
	if rating.Timestamp == "" {
		rating.Timestamp = r.now.UTC().Format(time.RFC3339Nano)
	}
	return rating, nil
}

// score is the rating as a score.
func (r *Ratings) score(score, rating string) (float64, error) {
	name, text, scale := "score", score, Scale{0, 1}
	if r.scale != nil {
		name, text, scale = "rating", rating, *r.scale
	}
	value, err := strconv.ParseFloat(text, 64)
	switch {
	case text == "":
		return 0, fmt.Errorf("the %s is missing", name)
	case err != nil:
		return 0, fmt.Errorf("%s %.32q is not a number", name, text)
	case !(value >= scale.Low && value <= scale.High):
		return 0, fmt.Errorf("%s must be from %g to %g (%g)", name, scale.Low, scale.High, value)
	}
	return (value - scale.Low) / (scale.High - scale.Low), nil
}

// ratingID follows from what the file says. Another rating of the same call by the same person is another event.
func ratingID(r Rating) string {
	h := sha256.New()
	for _, part := range []string{r.TenantID, r.TraceID, r.SpanID, r.Rater, strconv.FormatFloat(r.Score, 'g', -1, 64), r.Timestamp} {
		fmt.Fprintf(h, "%d:%s", len(part), part) // the length keeps ("a", "bc") and ("ab", "c") apart
	}
	return "rating-" + hex.EncodeToString(h.Sum(nil)[:16])
}
