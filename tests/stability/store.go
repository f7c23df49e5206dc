package stability

import (
	"math"
	"time"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

// arm is usage.Arm as an index.
type arm uint8

const (
	untouched arm = iota
	holdback
	treated
	arms = 3
)

var armNames = [arms]usage.Arm{usage.None, usage.Holdback, usage.Treated}

// slots is how many minutes are kept: a rollout looks back 16, and rows may be ahead of the watermark.
const slots = 24

// minute is a row of sweep_1m.
type minute struct {
	index    int64
	requests [arms]int64
	tokens   tokens
	spend    float64
	costs    [arms][]int16
	scores   [arms][]int16
}

// tokens are sums over calls; the plant's calls have none, recorded ones do.
type tokens struct{ input, output, cacheRead int64 }

func (t *tokens) add(u tokens) {
	t.input, t.output, t.cacheRead = t.input+u.input, t.output+u.output, t.cacheRead+u.cacheRead
}

// volume is what the tokens of so many requests are to the detector.
func (t tokens) volume(requests int64) detect.Volume {
	return detect.Volume{Requests: requests, InputTokens: t.input, OutputTokens: t.output, CacheRead: t.cacheRead}
}

// store is what has been stored of the key. Sweeps see it up to the watermark's minute; a rollout sees
// all of it.
type store struct {
	ring      [slots]minute
	watermark time.Duration
	fresh     bool                           // something changed since the last observation
	costs     [len(detect.Windows)]histogram // of what no flag touches, by window
	scores    [len(detect.Windows)]histogram
}

func newStore() store {
	var s store
	for i := range s.ring {
		s.ring[i].index = -1
	}
	for w := range detect.Windows {
		s.costs[w] = histogram{counts: make([]int32, 4096), from: 1000} // the plant's costs are codes far above 1000
		s.scores[w] = histogram{counts: make([]int32, 256)}
	}
	return s
}

// minute is the row of the minute, emptied when it still holds an older one.
func (s *store) minute(i int64) *minute {
	m := &s.ring[i%slots]
	if m.index != i {
		for a := range arms {
			m.costs[a], m.scores[a] = m.costs[a][:0], m.scores[a][:0]
		}
		m.index, m.requests, m.tokens, m.spend = i, [arms]int64{}, tokens{}, 0
	}
	return m
}

// kept is the row of the minute, nil when nothing is stored of it.
func (s *store) kept(i int64) *minute {
	if i < 0 || s.ring[i%slots].index != i {
		return nil
	}
	return &s.ring[i%slots]
}

func (s *store) addCount(c count) {
	m := s.minute(c.minute)
	for a, n := range c.requests {
		m.requests[a] += n
	}
	m.tokens.add(c.tokens)
	m.spend += c.spend
	s.fresh = true
}

func (s *store) addCost(r record) {
	m := s.minute(r.minute)
	m.costs[r.arm] = append(m.costs[r.arm], r.code)
	s.count(&s.costs, r)
}

func (s *store) addScore(r record) {
	m := s.minute(r.minute)
	m.scores[r.arm] = append(m.scores[r.arm], r.code)
	s.count(&s.scores, r)
	s.fresh = true
}

// current is the watermark's minute, the current partial one.
func (s *store) current() int64 { return int64(s.watermark / time.Minute) }

// count puts an untreated call's code into the windows that it lies in now.
func (s *store) count(windows *[len(detect.Windows)]histogram, r record) {
	if r.arm == treated {
		return
	}
	back := s.current() - r.minute
	for w, length := range detect.Windows {
		if back >= 0 && back < int64(length) {
			windows[w].add(r.code, 1)
		}
	}
}

// advance moves the watermark, and with its minute the windows.
func (s *store) advance(to time.Duration) {
	before := s.current()
	if s.watermark = to; s.current() == before {
		return
	}
	s.fresh = true
	for w, length := range detect.Windows {
		s.slide(w, s.kept(s.current()-int64(length)), -1)
		s.slide(w, s.kept(s.current()), 1)
	}
}

func (s *store) slide(w int, m *minute, by int32) {
	if m == nil {
		return
	}
	for a := range treated {
		for _, c := range m.costs[a] {
			s.costs[w].add(c, by)
		}
		for _, c := range m.scores[a] {
			s.scores[w].add(c, by)
		}
	}
}

// observe is the sweep's row of the key at the watermark; false when nothing is in its windows.
func (s *store) observe() (detect.Observation, bool) {
	o := detect.Observation{Key: key}
	current := s.current()
	var recent, whole tokens
	for back := range int64(detect.Windows[len(detect.Windows)-1]) {
		m := s.kept(current - back)
		if m == nil {
			continue
		}
		for _, n := range m.requests {
			o.Whole.Requests += n
		}
		whole.add(m.tokens)
		if back < 5 {
			recent, o.Recent.Requests = whole, o.Whole.Requests
		}
		switch back {
		case 0:
			o.SpendLastPico = m.spend * detect.SpendScale(s.watermark%time.Minute)
		case 1:
			o.SpendLastPico = math.Max(o.SpendLastPico, m.spend)
		}
	}
	o.Whole, o.Recent = whole.volume(o.Whole.Requests), recent.volume(o.Recent.Requests)
	var n int
	for w := range detect.Windows {
		c, q := &s.costs[w], &s.scores[w]
		o.Windows[w] = detect.Window{CostN: c.n, QualityN: q.n}
		if c.n > 0 {
			o.Windows[w].LnCost = kpi.LnCost(float64(c.median()))
		}
		if q.n > 0 {
			o.Windows[w].Quality = kpi.Score(float64(q.median()))
		}
		n = c.n + q.n
	}
	return o, o.Whole.Requests > 0 || n > 0
}

// rolloutCodes is how many codes of a minute and arm a rollout is shown, evenly picked: it sorts them at
// every look.
const rolloutCodes = 48

// minutes are the rows by arm that a rollout sees at now.
func (s *store) minutes(now time.Duration) []kpi.Minute {
	out := make([]kpi.Minute, 0, 3*slots)
	current := int64(now / time.Minute)
	for i := max(current-16, 0); i <= current; i++ {
		m := s.kept(i)
		if m == nil {
			continue
		}
		for a, name := range armNames {
			if m.requests[a] > 0 || len(m.scores[a]) > 0 {
				out = append(out, kpi.Minute{
					Start: epoch.Add(time.Duration(i) * time.Minute), Arm: name,
					Requests: m.requests[a], CostCodes: thin(m.costs[a]), QualityCodes: thin(m.scores[a]),
				})
			}
		}
	}
	return out
}

func thin(codes []int16) []int16 {
	if len(codes) <= rolloutCodes {
		return codes
	}
	out := make([]int16, rolloutCodes)
	for i := range out {
		out[i] = codes[i*len(codes)/rolloutCodes]
	}
	return out
}

// perSecond is the key's rate over the last quarter of an hour of whole minutes, as a rollout is sized
// by it.
func (s *store) perSecond(now time.Duration) float64 {
	var n int64
	current := int64(now / time.Minute)
	for i := current - 15; i < current; i++ {
		if m := s.kept(i); m != nil {
			for _, r := range m.requests {
				n += r
			}
		}
	}
	return float64(n) / (15 * 60)
}

// histogram counts codes, and follows their median as they come and go.
type histogram struct {
	counts []int32
	from   int16 // the least code that it tells apart
	n      int
	at     int   // where the median was found last
	below  int32 // how many are less than that
}

func (h *histogram) add(code int16, by int32) {
	i := max(0, min(int(code-h.from), len(h.counts)-1))
	h.n += int(by)
	h.counts[i] += by
	if i < h.at {
		h.below += by
	}
}

// median is the lower median, as the store takes it. It needs at least one code.
func (h *histogram) median() int16 {
	rank := int32((h.n - 1) / 2)
	for h.below > rank {
		h.at--
		h.below -= h.counts[h.at]
	}
	for h.below+h.counts[h.at] <= rank {
		h.below += h.counts[h.at]
		h.at++
	}
	return int16(h.at) + h.from
}
