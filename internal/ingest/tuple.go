package ingest

import (
	"context"
	"fmt"

	"github.com/flyball-dev/flyball/internal/usage"
)

// maxFeatures bounds a tuple's features, in bytes: those of the longest prompt, or of an embedding, are below it.
const maxFeatures = 64 << 10

// Record takes tuples from within the process: when it returns nil they are durable. The same call's counts once. One
// bad tuple refuses them all.
func (i *Ingest) Record(ctx context.Context, tuples []usage.Tuple) error {
	now := i.opt.Now()
	req := newRequest(i)
	for n := range tuples {
		t := tuples[n]
		if err := settleTuple(&t); err != nil {
			return fmt.Errorf("tuple %d: %w", n, err)
		}
		if err := inTime(&t.Timestamp, now); err != nil {
			return fmt.Errorf("tuple %d: %w", n, err)
		}
		from := len(req.buf)
		req.buf = appendTuple(req.buf, &t)
		req.units = append(req.units, unit{index: n, kind: kindTuple, id: tupleID(&t), body: slice{from, len(req.buf)}})
	}
	return i.submit(ctx, req)
}

func settleTuple(t *usage.Tuple) error {
	for _, f := range [...]struct {
		name, value string
		needed      bool
	}{
		{"trace_id", t.TraceID, true},
		{"span_id", t.SpanID, true},
		{"tenant_id", t.TenantID, true},
		{"requested_model", t.RequestedModel, true},
		{"model", t.Model, true},
		{"reading", t.Reading, true},
		{"task", t.Task, false},
		{"predictor", t.Predictor, false},
	} {
		if f.needed && f.value == "" {
			return wrongField(f.name, "is missing")
		}
		if len(f.value) > maxName {
			return wrongField(f.name, "is longer than %d bytes", maxName)
		}
	}
	switch {
	case len(t.Features) == 0 || len(t.Features) > maxFeatures:
		return wrongField("features", "are %d bytes: want 1 to %d", len(t.Features), maxFeatures)
	case !(t.Predicted >= 0 && t.Predicted <= 1):
		return wrongField("predicted", "must be between 0 and 1")
	}
	return nil
}

func tupleID(t *usage.Tuple) id { return identify('p', t.TenantID, t.TraceID, t.SpanID) }

func appendTuple(to []byte, t *usage.Tuple) []byte {
	w := writer(to)
	for _, text := range [...]string{
		t.TraceID, t.SpanID, t.TenantID, t.Task, t.RequestedModel, t.Model, t.Reading, t.Predictor, string(t.Features),
	} {
		w.string(text)
	}
	w.time(t.Timestamp)
	w.int(int64(t.EstimatedCost))
	w.float(t.Predicted)
	return w
}

func (r *reader) tuple(t *usage.Tuple) {
	t.TraceID, t.SpanID = r.unique(), r.unique()
	for _, text := range [...]*string{&t.TenantID, &t.Task, &t.RequestedModel, &t.Model, &t.Reading, &t.Predictor} {
		*text = r.string()
	}
	t.Features = []byte(r.unique())
	t.Timestamp, t.EstimatedCost, t.Predicted = r.time(), usage.PicoUSD(r.int()), r.float()
}
