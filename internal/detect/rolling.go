package detect

import (
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// Arrival is what became known together of one minute and arm of a key: what the store adds to its table for the
// sweep when calls, scores and outcomes come in.
type Arrival struct {
	Key      usage.Key // an experiment's where the calls are one's
	Minute   int64     // since 1970
	Arm      usage.Arm
	Volume   Volume // of all arms
	CostPico int64
	Streams  Stream
	Outcomes int64
	Good     int64
	Costs    []int16 // codes of single calls and scores, as kpi has them
	Scores   []int16
}

// longest is the length of the longest window in minutes, recent of the one that ratios of sums follow.
const (
	longest = 15
	recent  = 5
)

// Rolling is what is known of one key by the minutes of its windows: the sweep's query as a computation that goes
// along with what arrives. The order of what arrives within a tick means nothing. Its memory is 2 bytes for each
// code of the last quarter of an hour, and some kilobytes.
type Rolling struct {
	key     usage.Key
	current int64 // the minute of the watermark
	ring    [longest]minuteOf
	ahead   []Arrival // of minutes that the watermark has not reached
	costs   histogram
	scores  histogram
	whole   sums
	recent  sums
	rows    int // arrivals in the windows
}

// minuteOf is what is known of one minute.
type minuteOf struct {
	sums
	costs, scores   []int16 // of untreated calls
	nCosts, nScores [2]int  // of each untreated arm
	rows            int
}

// sums are additive over minutes.
type sums struct {
	volume         Volume
	spend          int64
	streams        Stream
	calls          int64 // untreated
	outcomes, good int64
}

func (s *sums) add(o *sums, by int64) {
	s.volume.Requests += by * o.volume.Requests
	s.volume.InputTokens += by * o.volume.InputTokens
	s.volume.OutputTokens += by * o.volume.OutputTokens
	s.volume.CacheRead += by * o.volume.CacheRead
	s.spend += by * o.spend
	s.streams.Calls += by * o.streams.Calls
	s.streams.Tokens += by * o.streams.Tokens
	s.streams.MS += by * o.streams.MS
	s.calls += by * o.calls
	s.outcomes += by * o.outcomes
	s.good += by * o.good
}

// NewRolling knows nothing of a key yet, at a watermark.
func NewRolling(key usage.Key, watermark time.Time) *Rolling {
	return &Rolling{key: key, current: minuteAt(watermark)}
}

func minuteAt(t time.Time) int64 { return t.Unix() / 60 }

// Add takes in what has arrived. Of a minute that has left the longest window it takes nothing, as the sweep does.
// Codes beyond those that the store keeps of a minute and arm are cut off, in the arrival too.
func (r *Rolling) Add(a *Arrival) {
	back := r.current - a.Minute
	switch {
	case back < 0:
		r.ahead = append(r.ahead, *a)
		return
	case back >= longest:
		return
	}
	m := &r.ring[a.Minute%longest]
	m.rows++
	r.rows++
	of := sums{volume: a.Volume, spend: a.CostPico}
	if a.Arm != usage.Treated {
		of.calls, of.streams, of.outcomes, of.good = a.Volume.Requests, a.Streams, a.Outcomes, a.Good
		arm := 0
		if a.Arm == usage.Holdback {
			arm = 1
		}
		a.Costs, a.Scores = room(a.Costs, &m.nCosts[arm]), room(a.Scores, &m.nScores[arm])
		m.costs, m.scores = append(m.costs, a.Costs...), append(m.scores, a.Scores...)
		shortest := 0
		for back >= int64(Windows[shortest]) {
			shortest++
		}
		r.costs.add(shortest, a.Costs)
		r.scores.add(shortest, a.Scores)
	}
	m.add(&of, 1)
	r.whole.add(&of, 1)
	if back < recent {
		r.recent.add(&of, 1)
	}
}

// room cuts codes to what the store keeps of a minute and arm of which it has n.
func room(codes []int16, n *int) []int16 {
	codes = codes[:min(len(codes), max(kpi.CodeCap-*n, 0))]
	*n += len(codes)
	return codes
}

// Advance moves the watermark, which never goes back.
func (r *Rolling) Advance(watermark time.Time) {
	to := minuteAt(watermark)
	for r.current < to {
		if r.rows == 0 && len(r.ahead) == 0 {
			r.current = to
			return
		}
		r.current++
		gone := &r.ring[r.current%longest] // leaves the longest window, and gives its place
		for w, length := range Windows {
			if length < longest {
				if m := &r.ring[(r.current-int64(length)+longest)%longest]; m.rows > 0 {
					r.costs.remove(w, m.costs)
					r.scores.remove(w, m.scores)
				}
			} else if gone.rows > 0 {
				r.costs.remove(w, gone.costs)
				r.scores.remove(w, gone.scores)
			}
		}
		r.recent.add(&r.ring[(r.current-recent+longest)%longest].sums, -1)
		r.whole.add(&gone.sums, -1)
		r.rows -= gone.rows
		*gone = minuteOf{costs: gone.costs[:0], scores: gone.scores[:0]}
		r.due()
	}
}

// due takes in what was ahead of the watermark.
func (r *Rolling) due() {
	if len(r.ahead) == 0 {
		return
	}
	waiting := r.ahead
	r.ahead = nil
	for i := range waiting {
		r.Add(&waiting[i])
	}
}

// Key is the key that it is of.
func (r *Rolling) Key() usage.Key { return r.key }

// Idle reports whether there is nothing in the windows, nor ahead of them.
func (r *Rolling) Idle() bool { return r.rows == 0 && len(r.ahead) == 0 }

// Observe is the sweep's row of the key at the watermark, which must lie in the minute that Advance was told; ok is
// false when nothing is in its windows.
func (r *Rolling) Observe(watermark time.Time) (o Observation, ok bool) {
	if r.rows == 0 {
		return Observation{}, false
	}
	o = Observation{
		Key: r.key, Recent: r.recent.volume, Whole: r.whole.volume, RecentStream: r.recent.streams, WholeStream: r.whole.streams,
		Outcomes: Outcomes{Calls: r.whole.calls, All: r.whole.outcomes, Good: r.whole.good},
	}
	now, last := &r.ring[r.current%longest], &r.ring[(r.current-1)%longest]
	o.SpendLastPico = math.Max(float64(last.spend), float64(now.spend)*SpendScale(watermark.Sub(time.Unix(60*r.current, 0))))
	for w := range Windows {
		if n := r.costs.n[w]; n > 0 {
			o.Windows[w].CostN, o.Windows[w].LnCost = n, kpi.LnCost(float64(r.costs.median(w)))
		}
		if n := r.scores.n[w]; n > 0 {
			o.Windows[w].QualityN, o.Windows[w].Quality = n, kpi.Score(float64(r.scores.median(w)))
		}
	}
	return o, true
}

// Spends reports whether anything has been spent in the minute of the watermark, so that the pace of it counts.
func (r *Rolling) Spends() bool { return r.ring[r.current%longest].spend != 0 }

// PaceTurns reports whether the pace of spending comes to count between two watermarks of one minute: facts may
// then rise though nothing has arrived.
func PaceTurns(before, now time.Time) bool {
	within := func(t time.Time) time.Duration { return t.Sub(t.Truncate(time.Minute)) }
	return within(before) < spendAfter && within(now) >= spendAfter
}

// histogram counts codes by window, and follows their lower medians as they come and go.
type histogram struct {
	counts [][len(Windows)]int32
	from   int // the code of the first count
	n      [len(Windows)]int
	at     [len(Windows)]int   // where the median was found last
	below  [len(Windows)]int32 // how many are less than that
}

// add counts codes in the shortest window that they lie in, and in all longer ones.
func (h *histogram) add(shortest int, codes []int16) {
	for _, code := range codes {
		i := int(code) - h.from
		if i < 0 || i >= len(h.counts) {
			h.grow(int(code))
			i = int(code) - h.from
		}
		count := &h.counts[i]
		for w := shortest; w < len(Windows); w++ {
			count[w]++
			if i < h.at[w] {
				h.below[w]++
			}
		}
	}
	for w := shortest; w < len(Windows); w++ {
		h.n[w] += len(codes)
	}
}

// remove takes codes out of one window.
func (h *histogram) remove(w int, codes []int16) {
	h.n[w] -= len(codes)
	for _, code := range codes {
		i := int(code) - h.from
		h.counts[i][w]--
		if i < h.at[w] {
			h.below[w]--
		}
	}
}

// margin is by how many codes a histogram grows beyond what it must.
const margin = 32

// grow makes room for a code.
func (h *histogram) grow(code int) {
	if h.counts == nil {
		h.from = code - margin
		h.counts = make([][len(Windows)]int32, 2*margin)
		return
	}
	if before := h.from - code; before > 0 {
		before += margin
		h.counts = slices.Insert(h.counts, 0, make([][len(Windows)]int32, before)...)
		h.from -= before
		for w := range h.at {
			h.at[w] += before
		}
		return
	}
	h.counts = append(h.counts, make([][len(Windows)]int32, code-h.from-len(h.counts)+1+margin)...)
}

// median is the lower one, as the store takes it. There must be a code.
func (h *histogram) median(w int) int {
	rank := int32((h.n[w] - 1) / 2)
	for h.below[w] > rank {
		h.at[w]--
		h.below[w] -= h.counts[h.at[w]][w]
	}
	for h.below[w]+h.counts[h.at[w]][w] <= rank {
		h.below[w] += h.counts[h.at[w]][w]
		h.at[w]++
	}
	return h.at[w] + h.from
}
