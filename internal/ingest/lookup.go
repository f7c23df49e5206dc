package ingest

import (
	"context"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Bounds of one question to the store.
const (
	maxQuestions  = 500 // traces
	lookupTimeout = 30 * time.Second
)

// found is the answer to a question: the dimensions of the spans that the store has, by span and trace.
type found struct {
	asked []*waiting
	dims  map[id]dimensions
	err   error
}

// ask asks the store for the spans of events that wait: spans that came before what is remembered, or
// through another spool. The committer goes on meanwhile; one question is under way at a time.
func (i *Ingest) ask(ctx context.Context, now time.Time) {
	if i.opt.Lookup == nil || i.asking {
		return
	}
	due := i.lounge.those(func(w *waiting) bool { return !now.Before(w.ask) })
	if len(due) == 0 {
		return
	}
	due = due[:min(len(due), maxQuestions)]
	traces := make([]usage.Trace, 0, len(due))
	seen := make(map[usage.Trace]bool, len(due))
	for _, w := range due {
		s := w.event.subject()
		if t := (usage.Trace{TenantID: *s.tenant, ID: *s.trace}); !seen[t] {
			seen[t] = true
			traces = append(traces, t)
		}
	}
	i.asking = true
	go func() {
		ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		spans, err := i.opt.Lookup(ctx, traces)
		i.answers <- found{due, byReference(spans), err} // has room for it
	}()
}

// byReference is what the spans' dimensions are, by all that an event may refer to them by. Of a trace the
// first one counts.
func byReference(spans []usage.Span) map[id]dimensions {
	dims := make(map[id]dimensions, 3*len(spans))
	for n := range spans {
		s := &spans[n]
		for _, k := range [...]id{spanID(s.TenantID, s.TraceID, s.SpanID), traceID(s.TenantID, s.TraceID), traceID("", s.TraceID)} {
			if _, known := dims[k]; !known {
				dims[k] = dimensionsOf(s)
			}
		}
	}
	return dims
}

// answered lets the events go whose spans the store has. The others wait on, and are asked about again
// later.
func (i *Ingest) answered(f found) {
	i.asking = false
	now := i.opt.Now()
	if f.err != nil {
		if !i.isClosing() {
			i.log.Warn("look for the spans of events that wait; it is tried again", "events", len(f.asked), "error", f.err)
		}
		for _, w := range f.asked {
			w.ask = now.Add(lookupTimeout)
		}
		return
	}
	c := i.begin()
	defer i.end()
	for _, w := range f.asked {
		if i.lounge.byID[w.id] != w {
			continue // its span has come meanwhile
		}
		w.later(now)
		if dims, known := f.dims[w.awaits]; known {
			c.released(w, filled(w.event, dims))
		}
	}
	if err := c.write(); err != nil {
		i.log.Error("store events whose spans were found", "events", len(c.left), "error", err)
	}
}

func (i *Ingest) isClosing() bool {
	select {
	case <-i.closing:
		return true
	default:
		return false
	}
}
