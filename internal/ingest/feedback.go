package ingest

import (
	"encoding/hex"
	"math"

	"github.com/flyball-dev/flyball/internal/usage"
)

// feedbackFields are the fields of a person's verdict on the wire.
var feedbackFields = index("id", "trace_id", "span_id", "tenant_id", "model", "thumb", "stars", "score", "by", "evaluator", "timestamp")

// maxStars is the best of the stars; the worst is 1.
const maxStars = 5

func (d *decoder) feedbacks(req *request, a *answer) {
	var q usage.Quality
	d.each(a, func() error { return d.feedback(&q) }, func(index int) { req.addQuality(index, &q) })
}

// feedback reads what a person thinks of a call as a quality event of the kind human: a thumb, stars or a score. Who
// it was tells one vote from another and is kept as a part of a hash alone: the first vote of a person on a call
// stands.
func (d *decoder) feedback(q *usage.Quality) error {
	*q = usage.Quality{Confidence: 1, Arm: usage.None, Kind: "human"}
	var by string
	scale, scales := "", 0
	given := func(name string, score float64) {
		q.Score, scale = score, name
		scales++
	}
	err := d.record(feedbackFields, func(name []byte) (err error) {
		switch string(name) {
		case "id":
			return d.unique(&q.ID)
		case "trace_id":
			return d.unique(&q.TraceID)
		case "span_id":
			return d.unique(&q.SpanID)
		case "tenant_id":
			return d.name(&q.TenantID)
		case "model":
			return d.name(&q.Model)
		case "by":
			return d.unique(&by)
		case "evaluator":
			return d.name(&q.Evaluator)
		case "timestamp":
			return d.time(&q.Timestamp)
		case "thumb":
			var thumb string
			if err := d.name(&thumb); err != nil || thumb == "" {
				return err
			}
			if thumb != "up" && thumb != "down" {
				return wrong("must be up or down (%.32q)", thumb)
			}
			given("thumbs", map[string]float64{"up": 1, "down": 0}[thumb])
		case "stars":
			if d.null() {
				return nil
			}
			stars, err := d.integer(maxStars)
			if err == nil && stars < 1 {
				return wrong("must be from 1 to %d (%d)", maxStars, stars)
			}
			given("stars", float64(stars-1)/(maxStars-1))
			return err
		case "score":
			score := math.NaN()
			if err := d.fraction(&score); err != nil || math.IsNaN(score) {
				return err
			}
			given("score", score)
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case q.TraceID == "":
		return wrongField("trace_id", "is missing: say which call this is about")
	case scales == 0:
		return wrongField("score", "is missing: give a thumb (up, down), stars (1 to %d) or a score (0 to 1)", maxStars)
	case scales > 1:
		return wrongField("score", "give one of thumb, stars and score, not several: they may disagree")
	case q.ID == "" && by == "":
		return wrongField("by", "is missing, and so is id: a retry is known by one of them")
	}
	set(&q.Evaluator, "human-"+scale)
	if q.ID == "" {
		id := identify('f', q.TraceID, q.SpanID, q.Evaluator, by)
		q.ID = "feedback-" + hex.EncodeToString(id[:])
	}
	if q.Timestamp.IsZero() {
		q.Timestamp = d.now
	}
	if err := checkModel("model", q.Model); err != nil {
		return err
	}
	return d.owner(&q.TenantID, false)
}
