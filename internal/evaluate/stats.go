package evaluate

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/flyball-dev/flyball/internal/pricing"
)

type counters struct {
	offered, unsampled, dropped, unreadable, scored, lost            atomic.Int64
	judgeCalls, judgeDropped, capped, paused, judgeRefused, unparsed atomic.Int64
	judgeFailed                                                      atomic.Int64
}

// Stats are what a pipeline has done since it was made, and how it stands.
type Stats struct {
	Evaluators []Version   `json:"evaluators"`
	Taken      int64       `json:"taken"`      // calls
	Unsampled  int64       `json:"unsampled"`  // calls that sampling left out
	Dropped    int64       `json:"dropped"`    // calls for which there was no room
	Unreadable int64       `json:"unreadable"` // calls whose texts could not be read
	Waiting    int         `json:"waiting"`    // calls
	Bytes      int64       `json:"waiting_bytes"`
	Scores     int64       `json:"scores"` // stored
	Lost       int64       `json:"lost"`   // scores and calls of the judge that could not be stored
	Judge      *JudgeStats `json:"judge,omitempty"`
}

// Version is an evaluator with the version that its scores carry.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Kind    Kind   `json:"kind"`
}

// JudgeStats are those of the judge. What gave no score is counted by why.
type JudgeStats struct {
	Model      string      `json:"model"`
	Calls      int64       `json:"calls"` // that are accounted for
	Waiting    int         `json:"waiting"`
	Dropped    int64       `json:"dropped"` // calls for which there was no room
	Capped     int64       `json:"capped"`  // not judged: the day's cap
	Paused     int64       `json:"paused"`  // not judged: the endpoint fails
	Failed     int64       `json:"failed"`
	Refused    int64       `json:"refused"`  // the judge would not
	Unparsed   int64       `json:"unparsed"` // its answer was no score
	CapUSD     json.Number `json:"cap_usd_per_day"`
	SpentUSD   json.Number `json:"spent_usd_today"`
	HeldUSD    json.Number `json:"held_usd"`
	SpentKnown bool        `json:"spent_known"` // false: nothing is judged until the store has said what was spent
	PausedTill time.Time   `json:"paused_until,omitzero"`
}

// Stats reports counters and state.
func (p *Pipeline) Stats() Stats {
	c := &p.stats
	s := Stats{
		Evaluators: []Version{},
		Taken:      c.offered.Load(), Unsampled: c.unsampled.Load(), Dropped: c.dropped.Load(), Unreadable: c.unreadable.Load(),
		Waiting: len(p.calls), Bytes: p.waiting.Load(), Scores: c.scored.Load(), Lost: c.lost.Load(),
	}
	for _, e := range p.o.Set.Evaluators {
		s.Evaluators = append(s.Evaluators, Version{e.Name, e.Version, e.Kind})
	}
	if j := p.o.Judge; j != nil {
		now := j.o.Now()
		spent, held, known := j.budget.state(now)
		j.mu.Lock()
		pause := j.pause
		j.mu.Unlock()
		if !now.Before(pause) {
			pause = time.Time{}
		}
		s.Judge = &JudgeStats{
			Model: j.o.Model, Calls: c.judgeCalls.Load(), Waiting: len(p.judging), Dropped: c.judgeDropped.Load(),
			Capped: c.capped.Load(), Paused: c.paused.Load(), Failed: c.judgeFailed.Load(), Refused: c.judgeRefused.Load(),
			Unparsed: c.unparsed.Load(), CapUSD: json.Number(pricing.Format(j.o.DayCap)),
			SpentUSD: json.Number(pricing.Format(spent)), HeldUSD: json.Number(pricing.Format(held)), SpentKnown: known,
			PausedTill: pause.UTC(),
		}
		if pause.IsZero() {
			s.Judge.PausedTill = time.Time{}
		}
	}
	return s
}

// Handler serves GET /v1/evaluators, the Stats. Whoever mounts it decides who may ask: it concerns every tenant.
func (p *Pipeline) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/evaluators", p.serveStats)
	return mux
}

func (p *Pipeline) serveStats(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p.Stats()) // the caller has gone
}
