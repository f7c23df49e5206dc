// Package effect says what an act was worth: what its treated calls cost and how good they were, against the
// holdback, which no flag touched.
//
// What is compared with what. The share of treated calls changes while an act is rolled out, and so does the fault, so
// all treated calls against the whole holdback would compare other times with each other: most of the holdback is
// from the first steps. At one share both arms are drawn from the same times in the same proportion, so arms are
// compared share by share, and what they differ by is weighed by the treated calls.
//
// How sure it is. Sessions are what is dealt to the arms, and calls of one session are alike, so calls are no
// independent samples, and sessions change arms when the share does. The interval is that of a delete-a-group
// jackknife (Kott, The Delete-A-Group Jackknife, Journal of Official Statistics 17, 2001): sessions are dealt into
// groups by a hash, the figure is computed anew without each of them, and its spread over the groups is its error,
// whatever sessions have in common. It needs sums per group alone, so that an act of a hundred million calls is
// measured by a few thousand integers.
package effect

import (
	"math"
	"math/big"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// Groups is how many groups sessions are dealt into. More would leave groups of a small holdback empty; 32 have a
// 95 % interval only 4 % wider than that of infinitely many.
const Groups = 32

// minGroups is in how many groups the holdback of a share must have calls to be compared with, and each arm to have
// an interval: the spread of fewer says nothing.
const minGroups = 5

// Cell is what is stored of one group of sessions in one arm at one share on one UTC day. Cells may come in any order
// and in any number: those of one place are added up.
type Cell struct {
	Share      float64 // of the calls that were treated at the time
	Day        time.Time
	Arm        usage.Arm // Treated or Holdback; others count nothing
	Group      int       // of the session, 0 to Groups−1
	Calls      int64     // with a known price
	Unpriced   int64     // without one: their cost is not known, and so not 0
	Cost       *big.Int  // of Calls, in pico-dollars
	Scores     int64
	ScoreMicro int64 // the sum of scores, each in millionths
}

// Effect is what an act did, as far as calls can tell. What is not known is nil, never 0.
type Effect struct {
	MeasuredAt time.Time `json:"measured_at"`         // by what was stored then
	Estimated  bool      `json:"estimated,omitempty"` // calls were refused: what they would have cost is drawn from the holdback alone
	Treated    int64     `json:"treated"`             // calls in the arms, those without a price among them
	Holdback   int64     `json:"holdback"`
	Unpriced   int64     `json:"unpriced,omitempty"` // of both
	Compared   int64     `json:"compared"`           // treated calls, or an estimate of the refused, that had a holdback to be compared with
	Cost       *big.Int  `json:"cost_pico_usd"`      // of the compared
	Saved      *Amount   `json:"saved,omitempty"`    // by the compared: what they would have cost by the holdback, less what they cost; negative: they cost more
	Quality    *Change   `json:"quality,omitempty"`  // treated less holdback
	Days       []Day     `json:"days,omitempty"`     // in order; their amounts add up to the whole ones
}

// Amount is an amount of money in pico-dollars, with its 95 % interval where enough sessions tell one.
type Amount struct {
	Pico *big.Int `json:"pico_usd"`
	Low  *big.Int `json:"low_pico_usd,omitempty"`
	High *big.Int `json:"high_pico_usd,omitempty"`
}

// Change is a change of a mean, with its 95 % interval where enough sessions tell one.
type Change struct {
	Treated  float64  `json:"treated"`  // mean
	Holdback float64  `json:"holdback"` // mean, weighed by the shares as the treated are
	Scores   int64    `json:"scores"`   // of treated calls
	By       float64  `json:"by"`
	Low      *float64 `json:"low,omitempty"`
	High     *float64 `json:"high,omitempty"`
}

// Day is the part of an effect that a UTC day has.
type Day struct {
	Day      time.Time `json:"day"`
	Treated  int64     `json:"treated"`
	Holdback int64     `json:"holdback"`
	Compared int64     `json:"compared"`
	Cost     *big.Int  `json:"cost_pico_usd"`
	Saved    *big.Int  `json:"saved_pico_usd,omitempty"` // nil when none of its calls could be compared
}

// sum adds up cells.
type sum struct {
	calls, unpriced, scores, score int64
	cost                           big.Int
}

func (s *sum) add(c Cell) {
	s.calls, s.unpriced, s.scores, s.score = s.calls+c.Calls, s.unpriced+c.Unpriced, s.scores+c.Scores, s.score+c.ScoreMicro
	if c.Cost != nil {
		s.cost.Add(&s.cost, c.Cost)
	}
}

// arm is the calls of one arm at one share.
type arm struct {
	all    sum
	groups [Groups]sum
	days   map[time.Time]*sum
}

// groupsWith counts the groups that have something.
func (a *arm) groupsWith(has func(*sum) int64) (n int) {
	for i := range a.groups {
		if has(&a.groups[i]) > 0 {
			n++
		}
	}
	return n
}

func calls(s *sum) int64  { return s.calls }
func scores(s *sum) int64 { return s.scores }

// stratum is both arms at one share.
type stratum struct {
	share             float64
	treated, holdback arm
}

// Measure computes the effect of an act from what is stored of its calls. Refused says that treated calls were not
// served, so that their share of the traffic is all that is known of them.
func Measure(cells []Cell, refused bool, at time.Time) Effect {
	strata, days := gather(cells)
	e := Effect{MeasuredAt: at, Estimated: refused, Cost: new(big.Int), Days: days}
	var compared []*stratum
	for _, s := range strata {
		e.Treated += s.treated.all.calls + s.treated.all.unpriced
		e.Holdback += s.holdback.all.calls + s.holdback.all.unpriced
		e.Unpriced += s.treated.all.unpriced + s.holdback.all.unpriced
		if s.comparable(refused) {
			compared = append(compared, s)
		}
	}
	if len(compared) > 0 {
		e.setSaved(compared)
	}
	if !refused {
		e.Quality = quality(strata)
	}
	return e
}

// gather sorts cells by share and by day.
func gather(cells []Cell) ([]*stratum, []Day) {
	byShare, byDay := map[float64]*stratum{}, map[time.Time]*Day{}
	for _, c := range cells {
		if c.Arm != usage.Treated && c.Arm != usage.Holdback {
			continue
		}
		s := byShare[c.Share]
		if s == nil {
			s = &stratum{share: c.Share}
			s.treated.days, s.holdback.days = map[time.Time]*sum{}, map[time.Time]*sum{}
			byShare[c.Share] = s
		}
		date := c.Day.UTC().Truncate(24 * time.Hour)
		day := byDay[date]
		if day == nil {
			day = &Day{Day: date, Cost: new(big.Int)}
			byDay[date] = day
		}
		a := &s.treated
		if c.Arm == usage.Holdback {
			a = &s.holdback
			day.Holdback += c.Calls + c.Unpriced
		} else {
			day.Treated += c.Calls + c.Unpriced
		}
		if a.days[date] == nil {
			a.days[date] = new(sum)
		}
		for _, to := range []*sum{&a.all, &a.groups[c.Group%Groups], a.days[date]} {
			to.add(c)
		}
	}
	strata := make([]*stratum, 0, len(byShare))
	for _, s := range byShare {
		strata = append(strata, s)
	}
	slices.SortFunc(strata, func(a, b *stratum) int { return compare(a.share, b.share) })
	days := make([]Day, 0, len(byDay))
	for _, d := range byDay {
		days = append(days, *d)
	}
	slices.SortFunc(days, func(a, b Day) int { return a.Day.Compare(b.Day) })
	return strata, days
}

func compare(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// comparable reports whether the holdback can stand for the treated calls of the share.
func (s *stratum) comparable(refused bool) bool {
	if s.holdback.groupsWith(calls) < minGroups {
		return false
	}
	if refused {
		return s.share > 0 && s.share < 1
	}
	return s.treated.all.calls > 0
}

// odds are how many treated calls there are to each of the holdback, by the share.
func (s *stratum) odds() *big.Rat {
	share := new(big.Rat).SetFloat64(s.share)
	return share.Quo(share, new(big.Rat).Sub(big.NewRat(1, 1), share))
}

// saved is what the treated calls of a day saved, exactly, with how many they are. The holdback of the whole share
// stands for each of its days, so that a day with few calls is no worse compared than another.
func (s *stratum) saved(day time.Time, refused bool) (saved, n *big.Rat) {
	saved, n = new(big.Rat), new(big.Rat)
	treated, holdback := s.treated.days[day], s.holdback.days[day]
	if refused {
		if holdback != nil {
			n.Mul(s.odds(), new(big.Rat).SetInt64(holdback.calls))
			saved.Mul(s.odds(), new(big.Rat).SetInt(&holdback.cost))
		}
	} else if treated != nil {
		n.SetInt64(treated.calls)
		saved.SetFrac(&s.holdback.all.cost, big.NewInt(s.holdback.all.calls))
		saved.Mul(saved, n)
	}
	if treated != nil {
		saved.Sub(saved, new(big.Rat).SetInt(&treated.cost))
	}
	return saved, n
}

// setSaved fills in the money. Each amount is rounded once: a day has what the sum up to its end, rounded, has over
// that up to its beginning, so that days add up to the whole to the last pico-dollar.
func (e *Effect) setSaved(strata []*stratum) {
	savedSoFar, callsSoFar := new(big.Rat), new(big.Rat)
	saved, compared := new(big.Int), new(big.Int)
	for i := range e.Days {
		d := &e.Days[i]
		some := false
		for _, s := range strata {
			ofDay, n := s.saved(d.Day, e.Estimated)
			savedSoFar.Add(savedSoFar, ofDay)
			callsSoFar.Add(callsSoFar, n)
			if t := s.treated.days[d.Day]; t != nil {
				d.Cost.Add(d.Cost, &t.cost)
				some = some || t.calls > 0
			}
			some = some || n.Sign() > 0
		}
		savedNow, comparedNow := rounded(savedSoFar), rounded(callsSoFar)
		d.Compared = new(big.Int).Sub(comparedNow, compared).Int64()
		if some {
			d.Saved = new(big.Int).Sub(savedNow, saved)
		}
		saved, compared = savedNow, comparedNow
		e.Cost.Add(e.Cost, d.Cost)
	}
	e.Compared, e.Saved = compared.Int64(), &Amount{Pico: saved}
	if half, ok := halfWidth(strata, calls, !e.Estimated, func(s *stratum, g int) float64 { return s.savedWithout(g, e.Estimated) }); ok {
		wide, _ := big.NewFloat(math.Ceil(half)).Int(nil)
		e.Saved.Low, e.Saved.High = new(big.Int).Sub(saved, wide), new(big.Int).Add(saved, wide)
	}
}

// rounded is the nearest integer; halves go away from zero, so that what costs as much as another saves is as much.
func rounded(r *big.Rat) *big.Int {
	n := new(big.Int).Abs(r.Num())
	n.Add(n.Lsh(n, 1), r.Denom())
	n.Quo(n, new(big.Int).Lsh(r.Denom(), 1))
	if r.Sign() < 0 {
		n.Neg(n)
	}
	return n
}

// savedWithout is what the share saved by all sessions but those of a group; of all when the group is negative.
func (s *stratum) savedWithout(g int, refused bool) float64 {
	t, h := &s.treated, &s.holdback
	if refused {
		odds, _ := s.odds().Float64()
		total := odds*without(h, g, cost) - without(t, g, cost)
		if g >= 0 {
			total *= Groups / (Groups - 1.0) // a total of fewer groups stands for that of all
		}
		return total
	}
	n := float64(t.all.calls)
	return n * (mean(h, g, cost, calls) - mean(t, g, cost, calls))
}

func cost(s *sum) float64 {
	f, _ := new(big.Float).SetInt(&s.cost).Float64()
	return f
}

// without is a sum over all groups but one; over all when that is negative.
func without(a *arm, g int, of func(*sum) float64) float64 {
	if g < 0 {
		return of(&a.all)
	}
	return of(&a.all) - of(&a.groups[g])
}

// mean is one sum over another without a group. Where the group has all there is, it is the mean of all.
func mean(a *arm, g int, of func(*sum) float64, n func(*sum) int64) float64 {
	left := n(&a.all)
	if g >= 0 {
		left -= n(&a.groups[g])
	}
	if left == 0 {
		g, left = -1, n(&a.all)
	}
	return without(a, g, of) / float64(left)
}

// halfWidth is half of the 95 % interval of a figure that is summed over strata; ok is false when too few groups of
// an arm have something to say. Treated says that the treated arm matters.
func halfWidth(strata []*stratum, has func(*sum) int64, treated bool, figure func(s *stratum, without int) float64) (half float64, ok bool) {
	total := 0.0
	var treatedGroups, holdbackGroups [Groups]bool
	for _, s := range strata {
		total += figure(s, -1)
		for g := range Groups {
			treatedGroups[g] = treatedGroups[g] || has(&s.treated.groups[g]) > 0
			holdbackGroups[g] = holdbackGroups[g] || has(&s.holdback.groups[g]) > 0
		}
	}
	in := count(holdbackGroups)
	if treated {
		in = min(in, count(treatedGroups))
	}
	if in < minGroups {
		return 0, false
	}
	squares := 0.0
	for g := range Groups {
		replicate := 0.0
		for _, s := range strata {
			replicate += figure(s, g)
		}
		squares += (replicate - total) * (replicate - total)
	}
	return quantile975(in-1) * math.Sqrt(squares*(Groups-1)/Groups), true
}

func count(in [Groups]bool) (n int) {
	for _, yes := range in {
		if yes {
			n++
		}
	}
	return n
}

// quality compares the scores of both arms, share by share, weighed by those of treated calls.
func quality(all []*stratum) *Change {
	var strata []*stratum
	var n int64
	for _, s := range all {
		if s.treated.all.scores > 0 && s.holdback.groupsWith(scores) >= minGroups {
			strata = append(strata, s)
			n += s.treated.all.scores
		}
	}
	if n == 0 {
		return nil
	}
	c := &Change{Scores: n}
	weight := func(s *stratum) float64 { return float64(s.treated.all.scores) / float64(n) }
	for _, s := range strata {
		c.Treated += weight(s) * mean(&s.treated, -1, score, scores)
		c.Holdback += weight(s) * mean(&s.holdback, -1, score, scores)
	}
	c.By = c.Treated - c.Holdback
	half, ok := halfWidth(strata, scores, true, func(s *stratum, g int) float64 {
		return weight(s) * (mean(&s.treated, g, score, scores) - mean(&s.holdback, g, score, scores))
	})
	if ok {
		low, high := c.By-half, c.By+half
		c.Low, c.High = &low, &high
	}
	return c
}

// score is a sum of scores as people read them.
func score(s *sum) float64 { return float64(s.score) / 1e6 }

// quantile975 is the value that Student's t with n degrees of freedom, 4 or more, stays below with 97.5 %: the
// Cornish–Fisher expansion about the normal one (Abramowitz and Stegun 26.7.5), right to three digits.
func quantile975(n int) float64 {
	const z = 1.959963984540054
	v := float64(n)
	z3, z5, z7 := z*z*z, math.Pow(z, 5), math.Pow(z, 7)
	return z + (z3+z)/(4*v) + (5*z5+16*z3+3*z)/(96*v*v) + (3*z7+19*z5+17*z3-15*z)/(384*v*v*v) +
		(79*math.Pow(z, 9)+776*z7+1482*z5-1920*z3-945*z)/(92160*math.Pow(v, 4))
}
