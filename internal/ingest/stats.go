package ingest

import (
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Stats are what an Ingest has done since it was opened, and how it stands.
type Stats struct {
	Accepted        int64            `json:"accepted"`               // records, embedded quality not counted
	Refused         int64            `json:"refused"`                // bad records
	Duplicates      int64            `json:"duplicates"`             // records that had been accepted before
	Ignored         int64            `json:"ignored"`                // of OTLP and LiteLLM: records that are no calls or evaluations
	Inserted        int64            `json:"inserted"`               // rows in the sink
	Unpriced        map[string]int64 `json:"unpriced"`               // spans by the model that has no price
	Incomplete      int64            `json:"incomplete"`             // spans whose usage was not complete
	Waiting         int64            `json:"waiting"`                // events that wait for their span
	Expired         int64            `json:"expired"`                // events whose span never came
	TextsLeftOut    int64            `json:"texts_left_out"`         // of calls to be scored or kept: too long, or not to be read
	SpoolBytes      int64            `json:"spool_bytes"`            // not drained
	SpoolRows       int64            `json:"spool_rows"`             // not drained
	OldestUnsent    time.Time        `json:"oldest_unsent,omitzero"` // when the first of them was accepted; zero when there is none
	CorruptSegments int64            `json:"corrupt_segments"`       // found damaged or missing when opened
	Forgotten       int64            `json:"forgotten"`              // ids that went before their day was over, for want of memory
	SinkError       string           `json:"sink_error,omitempty"`   // why the sink does not take batches now
}

type counters struct {
	accepted, refused, duplicates, inserted atomic.Int64
	ignored                                 atomic.Int64
	incomplete, waiting, expired            atomic.Int64
	corruptSegments, forgotten              atomic.Int64
	textsLeftOut                            atomic.Int64

	mu       sync.Mutex
	unpriced map[string]int64
	failing  string
}

// maxUnpriced bounds the models that are counted one by one; the rest count as otherModels.
const (
	maxUnpriced = 1000
	otherModels = "(other models)"
)

// count adds a request that has become durable.
func (c *counters) count(req *request) {
	c.accepted.Add(int64(req.accepted))
	c.duplicates.Add(int64(req.duplicates))
	for n := range req.units {
		u := &req.units[n]
		if u.dropped {
			continue
		}
		if u.incomplete {
			c.incomplete.Add(1)
		}
		if u.unpriced != "" {
			c.countUnpriced(u.unpriced)
		}
	}
}

func (c *counters) countUnpriced(model string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.unpriced[model]; !known && len(c.unpriced) >= maxUnpriced {
		model = otherModels
	}
	c.unpriced[model]++
}

func (c *counters) sinkError(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failing = ""; err != nil {
		c.failing = err.Error()
	}
}

// serveStats answers with the Stats. Whoever mounts it decides who may ask: it concerns every tenant.
func (i *Ingest) serveStats(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	reply(w, i.Stats())
}

// Stats reports counters and state.
func (i *Ingest) Stats() Stats {
	c := &i.stats
	oldest, err := i.oldest()
	if err != nil {
		i.log.Warn("look for the oldest unsent record", "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Accepted: c.accepted.Load(), Refused: c.refused.Load(), Duplicates: c.duplicates.Load(),
		Ignored: c.ignored.Load(), Inserted: c.inserted.Load(), Unpriced: maps.Clone(c.unpriced), Incomplete: c.incomplete.Load(),
		Waiting: c.waiting.Load(), Expired: c.expired.Load(), TextsLeftOut: c.textsLeftOut.Load(),
		SpoolBytes: i.spool.backlog(i.cursor.Load()), SpoolRows: i.rows.Load(), OldestUnsent: oldest,
		CorruptSegments: c.corruptSegments.Load(), Forgotten: c.forgotten.Load(), SinkError: c.failing,
	}
}
