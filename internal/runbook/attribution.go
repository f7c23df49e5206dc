package runbook

import (
	"cmp"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// The dimensions that a key's traffic is split by.
const (
	ByRequested = "requested_model" // of a pseudo-key alone: every other key has one
	ByModel     = "model"           // that served
	ByTemplate  = "prompt_template_version"
)

// Traffic is exact sums over some calls.
type Traffic struct {
	Requests   int64         `json:"requests"`
	Cost       usage.PicoUSD `json:"cost_pico_usd"`
	Scored     int64         `json:"scored"`
	ScoreCodes int64         `json:"score_codes"` // the sum of kpi.QualityCode, two hundredths of a score
}

// Flow is the calls of one requested model, served model and prompt template, now and before.
type Flow struct {
	RequestedModel string  `json:"requested_model"`
	Model          string  `json:"model"`
	Template       string  `json:"prompt_template_version"`
	Now            Traffic `json:"now"`
	Before         Traffic `json:"before"`
}

// value is the flow's place in a dimension.
func (f Flow) value(dimension string) string {
	switch dimension {
	case ByRequested:
		return f.RequestedModel
	case ByModel:
		return f.Model
	}
	return f.Template
}

// Times are what is compared: [From, To) is now, [Before, From) is before.
type Times struct {
	Before time.Time `json:"before"`
	From   time.Time `json:"from"`
	To     time.Time `json:"to"`
}

// Attribution splits what changed in a key's traffic over the values of each dimension. Nothing of a change is
// lost and nothing is invented: the parts of a dimension sum to the change exactly, and their shares to 100 %, in
// whole numbers. A part that went the other way is negative.
type Attribution struct {
	Times
	Spend       Change      `json:"spend"`         // pico-dollars an hour
	CostPerCall Change      `json:"cost_per_call"` // pico-dollars, the mean
	Quality     Change      `json:"quality"`       // millionths of a score, the mean
	Dimensions  []Dimension `json:"dimensions"`
}

// Change is one quantity now and before, rounded to its unit.
type Change struct {
	Known  bool  `json:"known"` // there were calls (scores, of quality) both now and before
	Before int64 `json:"before"`
	Now    int64 `json:"now"`
	Rise   int64 `json:"rise"` // which the parts sum to; negative: a fall
}

// Dimension is the parts of one dimension, those that matter most first. At most maxParts have a name of
// their own; the others are one part.
type Dimension struct {
	Name  string `json:"name"`
	Parts []Part `json:"parts"`
}

// maxParts bounds the named parts of a dimension: they ride in an incident's state.
const maxParts = 5

// Part is what one value of a dimension, or the others together, had to do with the changes.
type Part struct {
	Value       string `json:"value"`            // empty: calls that name none
	Others      int    `json:"others,omitempty"` // how many values are taken together here
	Calls       int64  `json:"calls"`
	CallsBefore int64  `json:"calls_before"`
	Spend       Term   `json:"spend"`
	CostPerCall Term   `json:"cost_per_call"`
	Quality     Term   `json:"quality"`
}

// Term is a part of a change, in the change's unit. A mean changes because the share of a part in the calls does
// (Mix) and because the part's own mean does (Within); a rate has no such terms.
type Term struct {
	Rise   int64 `json:"rise"` // Mix + Within, where it has them
	Mix    int64 `json:"mix,omitempty"`
	Within int64 `json:"within,omitempty"`
	Share  int64 `json:"share_bp"` // of the whole change, in hundredths of a per cent; 0 when nothing changed
}

// percent is the share for people.
func (t Term) percent() string { return fmt.Sprintf("%.0f %%", float64(t.Share)/100) }

// Attribute splits the changes of a key's traffic. It fails only when a sum does not fit 64 bits.
//
// With C a part's cost, N its calls, T the length of a time, and 0 for before:
//
//   - its part of the change of spend is C/T − C0/T0;
//   - its part of the change of the mean cost of a call, M − M0, is Mix + Within, where w = N/ΣN is its share of
//     the calls and m = C/N its own mean: Mix = (w − w0)·(m0 − M0), Within = w·(m − m0). Σ(w − w0) is 0, so all
//     sum to M − M0. A part without calls before has no m0 and takes m in its place: that it is here at all is
//     mix. One without calls now has w = 0;
//   - quality is split like the cost of a call, over scores in place of calls.
//
// All of it is rational arithmetic; only results are rounded, to whole units that still sum to the rounded whole.
func Attribute(times Times, dimensions []string, flows []Flow) (Attribution, error) {
	a := Attribution{Times: times}
	now, before := minutesOf(times.From, times.To), minutesOf(times.Before, times.From)
	if now <= 0 || before <= 0 {
		return a, fmt.Errorf("attributing a change: %s to %s to %s are not two times of a minute or more", times.Before, times.From, times.To)
	}
	for _, name := range dimensions {
		groups := grouped(flows, name)
		parts, _, err := a.split(groups, now, before)
		if err != nil {
			return a, err
		}
		if len(groups) > maxParts+1 {
			parts, _, err = a.split(bounded(groups, parts), now, before)
			if err != nil {
				return a, err
			}
		}
		slices.SortStableFunc(parts, func(p, q Part) int {
			return cmp.Or(cmp.Compare(p.Others, q.Others), cmp.Compare(q.weight(), p.weight()), cmp.Compare(p.Value, q.Value))
		})
		a.Dimensions = append(a.Dimensions, Dimension{Name: name, Parts: parts})
	}
	_, changes, err := a.split([]group{whole(flows)}, now, before)
	a.Spend, a.CostPerCall, a.Quality = changes[0], changes[1], changes[2]
	return a, err
}

// weight is how much a part has to do with whatever changed.
func (p Part) weight() int64 {
	return max(magnitude(p.Spend.Share), magnitude(p.CostPerCall.Share), magnitude(p.Quality.Share))
}

func magnitude(n int64) int64 { return max(n, -n) }

func minutesOf(from, to time.Time) int64 { return int64(to.Sub(from) / time.Minute) }

// group is the sums of one part.
type group struct {
	value       string
	others      int
	now, before sums
}

type sums struct{ calls, cost, scored, codes *big.Int }

func newGroup(value string) group {
	zero := func() sums { return sums{new(big.Int), new(big.Int), new(big.Int), new(big.Int)} }
	return group{value: value, now: zero(), before: zero()}
}

func (s sums) add(t sums) {
	s.calls.Add(s.calls, t.calls)
	s.cost.Add(s.cost, t.cost)
	s.scored.Add(s.scored, t.scored)
	s.codes.Add(s.codes, t.codes)
}

func sumsOf(t Traffic) sums {
	return sums{big.NewInt(t.Requests), big.NewInt(int64(t.Cost)), big.NewInt(t.Scored), big.NewInt(t.ScoreCodes)}
}

func whole(flows []Flow) group {
	all := newGroup("")
	for _, f := range flows {
		all.now.add(sumsOf(f.Now))
		all.before.add(sumsOf(f.Before))
	}
	return all
}

// grouped sums the flows by a dimension, in order of its values.
func grouped(flows []Flow, dimension string) []group {
	var groups []group
	for _, f := range flows {
		value := f.value(dimension)
		i, found := slices.BinarySearchFunc(groups, value, func(g group, v string) int { return cmp.Compare(g.value, v) })
		if !found {
			groups = slices.Insert(groups, i, newGroup(value))
		}
		groups[i].now.add(sumsOf(f.Now))
		groups[i].before.add(sumsOf(f.Before))
	}
	return groups
}

// bounded keeps the groups whose parts matter most, and takes the others together.
func bounded(groups []group, parts []Part) []group {
	order := make([]int, len(groups))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(parts[j].weight(), parts[i].weight()) })
	others := newGroup("")
	var kept []group
	for rank, i := range order {
		if rank < maxParts {
			kept = append(kept, groups[i])
			continue
		}
		others.others++
		others.now.add(groups[i].now)
		others.before.add(groups[i].before)
	}
	return append(kept, others)
}

// microPerCode is millionths of a score in one kpi.QualityCode.
const microPerCode = 1_000_000 / 200

// split computes the groups' parts of the three changes, and the changes: spend, cost per call, quality.
func (a Attribution) split(groups []group, now, before int64) ([]Part, [3]Change, error) {
	parts := make([]Part, len(groups))
	hour, hourBefore := big.NewRat(60, now), big.NewRat(60, before)
	spend := terms{mix: make([]*big.Rat, len(groups)), now: new(big.Rat), before: new(big.Rat)}
	calls, callsBefore := new(big.Int), new(big.Int)
	for i, g := range groups {
		rate, rateBefore := new(big.Rat).Mul(rat(g.now.cost), hour), new(big.Rat).Mul(rat(g.before.cost), hourBefore)
		spend.now.Add(spend.now, rate)
		spend.before.Add(spend.before, rateBefore)
		spend.mix[i] = new(big.Rat).Sub(rate, rateBefore)
		calls.Add(calls, g.now.calls)
		callsBefore.Add(callsBefore, g.before.calls)
		parts[i] = Part{Value: g.value, Others: g.others, Calls: g.now.calls.Int64(), CallsBefore: g.before.calls.Int64()}
	}
	spend.known = calls.Sign() > 0 && callsBefore.Sign() > 0
	perCall := meanTerms(groups, 1, func(s sums) (n, sum *big.Int) { return s.calls, s.cost })
	quality := meanTerms(groups, microPerCode, func(s sums) (n, sum *big.Int) { return s.scored, s.codes })
	var changes [3]Change
	for i, t := range []terms{spend, perCall, quality} {
		if !t.known {
			continue
		}
		change, rounded, err := t.round()
		if err != nil {
			return nil, changes, err
		}
		changes[i] = change
		for j := range parts {
			*[]*Term{&parts[j].Spend, &parts[j].CostPerCall, &parts[j].Quality}[i] = rounded[j]
		}
	}
	return parts, changes, nil
}

// terms are every group's parts of one change. Of a rate there are no within terms.
type terms struct {
	known       bool
	now, before *big.Rat
	mix, within []*big.Rat
}

func rat(n *big.Int) *big.Rat { return new(big.Rat).SetInt(n) }

// meanTerms are the groups' terms of the change of a mean, in units of which the sum's has so many.
func meanTerms(groups []group, units int64, of func(sums) (n, sum *big.Int)) terms {
	all := newGroup("")
	for _, g := range groups {
		all.now.add(g.now)
		all.before.add(g.before)
	}
	n, sum := of(all.now)
	n0, sum0 := of(all.before)
	if n.Sign() == 0 || n0.Sign() == 0 {
		return terms{}
	}
	mean := func(n, sum *big.Int) *big.Rat {
		return new(big.Rat).Mul(new(big.Rat).SetFrac(sum, n), big.NewRat(units, 1))
	}
	t := terms{known: true, now: mean(n, sum), before: mean(n0, sum0)}
	for _, g := range groups {
		gn, gsum := of(g.now)
		gn0, gsum0 := of(g.before)
		w, w0 := new(big.Rat).SetFrac(gn, n), new(big.Rat).SetFrac(gn0, n0)
		m, m0 := new(big.Rat), new(big.Rat)
		if gn.Sign() > 0 {
			m = mean(gn, gsum)
			m0 = m
		}
		if gn0.Sign() > 0 {
			m0 = mean(gn0, gsum0)
		}
		mix := new(big.Rat).Sub(w, w0)
		mix.Mul(mix, new(big.Rat).Sub(m0, t.before))
		within := new(big.Rat).Sub(m, m0)
		within.Mul(within, w)
		t.mix, t.within = append(t.mix, mix), append(t.within, within)
	}
	return t
}

// round brings the terms to whole units that sum to the rounded change, and their shares to whole hundredths of a
// per cent that sum to 100 %.
func (t terms) round() (Change, []Term, error) {
	rise := new(big.Rat).Sub(t.now, t.before)
	units, err := apportion(append(slices.Clone(t.mix), t.within...))
	if err != nil {
		return Change{}, nil, err
	}
	shares := make([]*big.Rat, len(t.mix))
	for i := range shares {
		shares[i] = new(big.Rat)
		if rise.Sign() == 0 {
			continue
		}
		if shares[i].Set(t.mix[i]); t.within != nil {
			shares[i].Add(shares[i], t.within[i])
		}
		shares[i].Mul(shares[i], big.NewRat(10_000, 1))
		shares[i].Quo(shares[i], rise)
	}
	points, err := apportion(shares)
	if err != nil {
		return Change{}, nil, err
	}
	rounded := make([]Term, len(t.mix))
	c := Change{Known: true}
	for i := range rounded {
		rounded[i] = Term{Rise: units[i], Share: points[i]}
		if t.within != nil {
			rounded[i].Mix, rounded[i].Within = units[i], units[len(t.mix)+i]
			rounded[i].Rise += rounded[i].Within
		}
		c.Rise += rounded[i].Rise
	}
	ends, err := wholes(nearest(t.before), nearest(t.now))
	if err != nil {
		return Change{}, nil, err
	}
	c.Before, c.Now = ends[0], ends[1]
	return c, rounded, nil
}

// apportion rounds values to whole numbers that sum to their rounded sum: each is rounded down, and what is
// missing then goes to those that lost most by it. None is off by one or more.
func apportion(values []*big.Rat) ([]int64, error) {
	total := new(big.Rat)
	floors := make([]*big.Int, len(values))
	order := make([]int, len(values))
	missing := new(big.Int)
	for i, v := range values {
		total.Add(total, v)
		floors[i], order[i] = floor(v), i
		missing.Sub(missing, floors[i])
	}
	missing.Add(missing, nearest(total))
	lost := func(i int) *big.Rat { return new(big.Rat).Sub(values[i], rat(floors[i])) }
	slices.SortStableFunc(order, func(i, j int) int { return lost(j).Cmp(lost(i)) })
	for _, i := range order[:missing.Int64()] { // each floor lost less than one, so fewer are missing than there are
		floors[i].Add(floors[i], big.NewInt(1))
	}
	return wholes(floors...)
}

// floor is the largest whole number that is not above r: Div rounds so, for a positive denominator.
func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }

func nearest(r *big.Rat) *big.Int { return floor(new(big.Rat).Add(r, big.NewRat(1, 2))) }

func wholes(values ...*big.Int) ([]int64, error) {
	all := make([]int64, len(values))
	for i, v := range values {
		if !v.IsInt64() {
			return nil, fmt.Errorf("attributing a change: %s does not fit 64 bits", v)
		}
		all[i] = v.Int64()
	}
	return all, nil
}

// What is worth telling: spend and costs that moved by a tenth, quality that moved by two hundredths, and a part
// that carries half of it.
const (
	tellRatio   = 10
	tellQuality = 20_000
	tellShare   = 5_000
)

// Text says in a line what changed and which parts carry it: "prompt template rag-v3.2 carries 91 % of the rise in
// spend: $8.20 of $9.00 an hour more".
func (a Attribution) Text() string {
	var said []string
	tell := func(what, unit string, c Change, worth bool, amount func(int64) string, term func(Part) Term) {
		if !c.Known || !worth {
			return
		}
		direction, more := "rise", "more"
		if c.Rise < 0 {
			direction, more = "fall", "less"
		}
		before := len(said)
		for _, d := range a.Dimensions {
			p := d.leading(term)
			if p == nil {
				continue
			}
			t := term(*p)
			text := fmt.Sprintf("%s %s carries %s of the %s in %s: %s of %s%s %s", dimensionWords[d.Name], p.name(), t.percent(), direction, what,
				amount(magnitude(t.Rise)), amount(magnitude(c.Rise)), unit, more)
			if t.Mix != 0 || t.Within != 0 {
				text += fmt.Sprintf(" (%s by its share of the calls, %s by itself)", signed(t.Mix, amount), signed(t.Within, amount))
			}
			said = append(said, text)
		}
		if len(said) == before {
			said = append(said, fmt.Sprintf("the %s in %s of %s%s is spread: nothing carries half of it", direction, what, amount(magnitude(c.Rise)), unit))
		}
	}
	worth := func(c Change) bool { return magnitude(c.Rise) >= max(magnitude(c.Before)/tellRatio, 1) }
	tell("spend", " an hour", a.Spend, worth(a.Spend), dollars, func(p Part) Term { return p.Spend })
	tell("the cost of a call", "", a.CostPerCall, worth(a.CostPerCall), dollars, func(p Part) Term { return p.CostPerCall })
	tell("quality", "", a.Quality, magnitude(a.Quality.Rise) >= tellQuality, score, func(p Part) Term { return p.Quality })
	switch {
	case len(said) > 0:
		return strings.Join(said, "; ")
	case !a.Spend.Known:
		return "there is no traffic before the incident to compare with"
	}
	return "spend, the cost of a call and quality are much as before"
}

var dimensionWords = map[string]string{ByRequested: "requested model", ByModel: "served model", ByTemplate: "prompt template"}

// leading is the named part that carries at least half of a change; nil where there is none, or no other part.
func (d Dimension) leading(term func(Part) Term) *Part {
	var best *Part
	for i, p := range d.Parts {
		if p.Others == 0 && term(p).Share >= tellShare && (best == nil || term(p).Share > term(*best).Share) {
			best = &d.Parts[i]
		}
	}
	if len(d.Parts) < 2 {
		return nil
	}
	return best
}

func (p Part) name() string {
	switch {
	case p.Others > 0:
		return fmt.Sprintf("%d others", p.Others)
	case p.Value == "":
		return "(none)"
	}
	return p.Value
}

// dollars writes pico-dollars with the digits that tell something.
func dollars(pico int64) string {
	usd := float64(pico) / 1e12
	if usd >= 1 || usd <= -1 || usd == 0 {
		return fmt.Sprintf("$%.2f", usd)
	}
	return fmt.Sprintf("$%.3g", usd)
}

// score writes millionths of a score.
func score(micro int64) string { return fmt.Sprintf("%.3f", float64(micro)/1e6) }

// signed puts a sign before an amount.
func signed(n int64, amount func(int64) string) string {
	if n < 0 {
		return "−" + amount(-n)
	}
	return "+" + amount(n)
}

// Markdown are the changes and their parts as tables; empty without an hour to compare with.
func (a Attribution) Markdown() string {
	if !a.Spend.Known {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s against the time from %s:\n\n", a.From.UTC().Format("15:04"), a.To.UTC().Format("15:04"), a.Before.UTC().Format("15:04"))
	b.WriteString("| | before | now | change |\n| --- | --- | --- | --- |\n")
	row := func(what string, c Change, amount func(int64) string) {
		if c.Known {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", what, amount(c.Before), amount(c.Now), signed(c.Rise, amount))
		}
	}
	row("spend an hour", a.Spend, dollars)
	row("cost of a call (mean)", a.CostPerCall, dollars)
	row("quality (mean)", a.Quality, score)
	for _, d := range a.Dimensions {
		fmt.Fprintf(&b, "\n| %s | calls before | calls now | spend an hour | share of it | cost of a call: mix, own | quality: mix, own |\n", dimensionWords[d.Name])
		b.WriteString("| --- | --- | --- | --- | --- | --- | --- |\n")
		for _, p := range d.Parts {
			fmt.Fprintf(&b, "| %s | %d | %d | %s | %s | %s, %s | %s |\n", cell(p.name()), p.CallsBefore, p.Calls,
				signed(p.Spend.Rise, dollars), p.Spend.percent(), signed(p.CostPerCall.Mix, dollars), signed(p.CostPerCall.Within, dollars),
				qualityCell(a.Quality, p.Quality))
		}
	}
	return b.String()
}

func qualityCell(c Change, t Term) string {
	if !c.Known {
		return "unknown"
	}
	return signed(t.Mix, score) + ", " + signed(t.Within, score)
}

// cell keeps a name that callers chose within its cell of a table.
func cell(name string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ", "\r", " ").Replace(name)
}

// Trace is one call, as evidence.
type Trace struct {
	ID           string        `json:"id"`
	At           time.Time     `json:"at"`
	Model        string        `json:"model"` // that served
	Template     string        `json:"prompt_template_version"`
	Cost         usage.PicoUSD `json:"cost_pico_usd"`
	InputTokens  int64         `json:"input_tokens"`
	OutputTokens int64         `json:"output_tokens"`
	Score        *float64      `json:"score,omitempty"` // the lowest that it got; nil when it got none
}

// String tells what a trace cost and did in a line.
func (t Trace) String() string {
	text := fmt.Sprintf("%s: %s for %d tokens in and %d out by %s", t.ID, dollars(int64(t.Cost)), t.InputTokens, t.OutputTokens, t.Model)
	if t.Template != "" {
		text += " with " + t.Template
	}
	if t.Score != nil {
		text += fmt.Sprintf(", scored %.2f", *t.Score)
	}
	return text
}
