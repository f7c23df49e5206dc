package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/flyball-dev/flyball/internal/kpi"
)

// Dimension is what KPIs can be told apart by: a column of every rollup.
type Dimension string

// The dimensions.
const (
	ByTenant         Dimension = "tenant_id"
	ByRequestedModel Dimension = "requested_model"
	ByModel          Dimension = "model" // that served
	ByTemplate       Dimension = "prompt_template_version"
	ByCohort         Dimension = "cohort"
	ByProvider       Dimension = "provider"
	ByArm            Dimension = "arm"
)

var dimensions = []Dimension{ByTenant, ByRequestedModel, ByModel, ByTemplate, ByCohort, ByProvider, ByArm}

// KPIQuery asks for the measures of the calls in a range, per step of time and combination of dimensions.
// Calls, scores and outcomes each count at their own time; scores and outcomes of calls that ingest never
// saw have no served model and no provider.
type KPIQuery struct {
	From, To time.Time     // widened to whole minutes
	Step     time.Duration // whole minutes, from midnight UTC (of a Monday where longer than a day); 0: all in one
	GroupBy  []Dimension
	Where    map[Dimension][]string // a call's value is one of these; drills count only where their tenant is named

	Percentiles bool // of cost, latency and time to first token; they are most of the work
	Quality     bool // percentiles of scores among it: those that count, as calibrated
	Outcomes    bool

	QualityKinds []string // judge, heuristic, human; empty: all but human
	OutcomeKinds []string // empty: all
}

// KPI is the measures of one combination of dimensions in one step.
type KPI struct {
	At     time.Time // the step's start; zero without steps
	Values []string  // of GroupBy, in its order
	kpi.Measures
}

// The limits of one question.
const (
	maxSteps    = 10_000
	maxKPIs     = 200_000
	minutesKept = 90 * 24 * time.Hour
	hoursKept   = 2 * 365 * 24 * time.Hour
)

// resolution is one of the grains that rollups are kept in.
type resolution struct {
	suffix string // of its tables
	column string // of its time
	grain  time.Duration
	kept   time.Duration // 0: for ever
}

// resolutions are all of them, the coarsest first.
var resolutions = []resolution{
	{"1d", "day", 24 * time.Hour, 0},
	{"1h", "hour", time.Hour, hoursKept},
	{"1m", "minute", time.Minute, minutesKept},
}

// segment is a part of a range that one resolution answers exactly.
type segment struct {
	resolution
	from, to time.Time
}

// segments covers the range by the coarsest resolutions: whole days by days, what is left at either end by whole
// hours, and the rest by minutes. A resolution coarser than the step, or that does not divide it, cannot
// answer.
func (q KPIQuery) segments(now time.Time) ([]segment, error) {
	from, to := minutes(q.From, q.To)
	usable := slices.Clone(resolutions)
	if q.Step > 0 {
		usable = slices.DeleteFunc(usable, func(r resolution) bool { return q.Step%r.grain != 0 })
	}
	all := cover(from, to, usable)
	for _, s := range all {
		if oldest := now.Add(-s.kept); s.kept > 0 && s.from.Before(oldest) {
			return nil, fmt.Errorf("the %ss before %s are kept no longer: begin, end and step must be whole %s there",
				s.column, oldest.UTC().Format(time.DateOnly), map[string]string{"minute": "hours", "hour": "days"}[s.column])
		}
	}
	return all, q.checkCompacted(now)
}

// checkCompacted refuses percentiles of years that Compact may have had when the range cuts their months, whether it
// has run or not: what can be asked does not depend on when it does.
func (q KPIQuery) checkCompacted(now time.Time) error {
	limit := compactBefore(now)
	from, to := minutes(q.From, q.To)
	if !q.Percentiles && !q.Quality || !from.Before(limit) {
		return nil
	}
	if q.Step == 0 && from.Equal(monthOf(from)) && (!to.Before(limit) || to.Equal(monthOf(to))) {
		return nil
	}
	return fmt.Errorf("percentiles before %s are kept by the month: begin and end there with whole months and take no steps, or leave percentiles and quality out",
		limit.Format(time.DateOnly))
}

func cover(from, to time.Time, usable []resolution) []segment {
	if !from.Before(to) || len(usable) == 0 {
		return nil
	}
	r := usable[0]
	first, last := from.Add(r.grain-1).Truncate(r.grain), to.Truncate(r.grain)
	if !first.Before(last) {
		return cover(from, to, usable[1:])
	}
	return slices.Concat(cover(from, first, usable[1:]), []segment{{r, first, last}}, cover(last, to, usable[1:]))
}

// measure is a column of the union over the rollups: which of them has it, how it is read there, what stands
// in its place elsewhere, and how the union is summed.
type measure struct{ table, name, read, absent, sum string }

func sumOf(table, column, kind string) measure {
	return measure{table, column, column, "to" + kind + "(0)", "sum(" + column + ")"}
}

func countOf(table, column string) measure {
	return measure{table, column, column, "toUInt64(0)", "toInt64(sum(" + column + "))"}
}

// histogramOf is the percentiles, as codes, and the count of a histogram.
func histogramOf(table, name string) []measure {
	codes, counts := name+"_codes", name+"_counts"
	levels := make([]string, len(kpi.Levels))
	for i, l := range kpi.Levels {
		levels[i] = fmt.Sprint(l)
	}
	return []measure{
		{
			table, codes, name + "_histogram.keys", "CAST([], 'Array(Int16)')",
			fmt.Sprintf("quantilesExactWeightedArray(%s)(%s, %s)", strings.Join(levels, ", "), codes, counts),
		},
		{
			table, counts, name + "_histogram.values", "CAST([], 'Array(UInt64)')",
			"toInt64(sum(arraySum(" + counts + ")))",
		},
	}
}

// measures are the columns that the query needs, in the order in which scanKPI reads them.
func (q KPIQuery) measures() []measure {
	all := []measure{
		countOf("kpi", "requests"), countOf("kpi", "unpriced"), countOf("kpi", "incomplete"), countOf("kpi", "reported"),
		sumOf("kpi", "uncached_input_tokens", "Int64"), sumOf("kpi", "cache_read_tokens", "Int64"),
		sumOf("kpi", "cache_write_5m_tokens", "Int64"), sumOf("kpi", "cache_write_1h_tokens", "Int64"),
		sumOf("kpi", "output_tokens", "Int64"), sumOf("kpi", "reasoning_tokens", "Int64"),
		sumOf("kpi", "cost_pico_usd", "Int128"), sumOf("kpi", "reported_pico_usd", "Int128"),
		sumOf("kpi", "complexity_milli", "Int64"), sumOf("kpi", "velocity_tokens", "Int64"), sumOf("kpi", "velocity_ms", "Int64"),
	}
	if q.Percentiles {
		all = slices.Concat(all, histogramOf("kpi", "cost"), histogramOf("kpi", "latency"), histogramOf("kpi", "ttft"))
	}
	if q.Quality {
		all = append(all, countOf("quality", "scored"), sumOf("quality", "code_sum", "Int64"))
		all = append(all, histogramOf("quality", "quality")...)
	}
	if q.Outcomes {
		all = append(all, countOf("outcomes", "outcomes"), countOf("outcomes", "good"), sumOf("outcomes", "value_micro", "Int64"))
	}
	return all
}

func (q KPIQuery) check() error {
	switch {
	case !q.From.Before(q.To):
		return errors.New("the range is empty: it must begin before it ends")
	case q.Step < 0 || q.Step%time.Minute != 0:
		return errors.New("the step must be whole minutes, or 0")
	case q.Step > 0 && q.To.Sub(q.From)/q.Step >= maxSteps:
		return fmt.Errorf("the range has more than %d steps: take longer ones", maxSteps)
	}
	for i, d := range q.GroupBy {
		if !slices.Contains(dimensions, d) || slices.Contains(q.GroupBy[:i], d) {
			return fmt.Errorf("%q is no dimension to group by, or is there twice: the dimensions are %v", d, dimensions)
		}
	}
	for d, values := range q.Where {
		if !slices.Contains(dimensions, d) || len(values) == 0 {
			return fmt.Errorf("%q is no dimension to filter by, or has no value: the dimensions are %v", d, dimensions)
		}
	}
	return nil
}

// SQL is the query's text and its named parameters: a union over the rollups that it needs, summed once.
// It fails on a question that makes no sense, and on one about times of which the rollups that could answer
// exactly are gone at now.
func (q KPIQuery) SQL(now time.Time) (string, []any, error) {
	if err := q.check(); err != nil {
		return "", nil, err
	}
	segments, err := q.segments(now)
	if err != nil {
		return "", nil, err
	}
	measures := q.measures()
	var args []any
	var parts []string
	for _, table := range []struct {
		name, more string
		wanted     bool
	}{
		{"kpi", "", true},
		{"quality", kindsSQL(q.QualityKinds, "quality_kinds", "kind != 'human'"), q.Quality},
		{"outcomes", kindsSQL(q.OutcomeKinds, "outcome_kinds", ""), q.Outcomes},
	} {
		for _, r := range resolutions {
			if in := inSegments(r, segments); table.wanted && in != "" {
				parts = append(parts, q.partSQL(table.name, r, in, table.more, measures))
			}
		}
	}
	for i, s := range segments {
		args = append(args, ch.Named(fmt.Sprint("from", i), s.from), ch.Named(fmt.Sprint("to", i), s.to))
	}
	if q.Step > 0 {
		from, _ := minutes(q.From, q.To)
		args = append(args, ch.Named("origin", from.Truncate(q.Step).Unix()), ch.Named("step", int64(q.Step/time.Second)))
	}
	for i, d := range dimensions {
		if values := q.Where[d]; values != nil {
			args = append(args, ch.Named(fmt.Sprint("where", i), values))
		}
	}
	if q.Quality && len(q.QualityKinds) > 0 {
		args = append(args, ch.Named("quality_kinds", q.QualityKinds))
	}
	if q.Outcomes && len(q.OutcomeKinds) > 0 {
		args = append(args, ch.Named("outcome_kinds", q.OutcomeKinds))
	}
	groups, order := []string{"at"}, []string{"1"} // by position: the text of an enum, not its number
	columns := []string{"at"}
	for i, d := range q.GroupBy {
		groups, order = append(groups, string(d)), append(order, strconv.Itoa(i+2))
		columns = append(columns, fmt.Sprintf("toString(%s)", d))
	}
	for _, m := range measures {
		columns = append(columns, m.sum)
	}
	return fmt.Sprintf("SELECT\n  %s\nFROM (\n%s\n)\nGROUP BY %s\nORDER BY %s\nLIMIT %d",
		strings.Join(columns, ",\n  "), strings.Join(parts, "\n  UNION ALL\n"), strings.Join(groups, ", "), strings.Join(order, ", "), maxKPIs+1), args, nil
}

// kindsSQL is the condition on the kind of scores or outcomes.
func kindsSQL(kinds []string, parameter, otherwise string) string {
	if len(kinds) == 0 {
		return otherwise
	}
	return fmt.Sprintf("kind IN {%s:Array(String)}", parameter)
}

// inSegments is the condition that a row of the resolution lies in one of its segments, "" when it has none.
func inSegments(r resolution, segments []segment) string {
	var in []string
	for i, s := range segments {
		if s.suffix == r.suffix {
			from, to := fmt.Sprintf("{from%d:DateTime('UTC')}", i), fmt.Sprintf("{to%d:DateTime('UTC')}", i)
			if r.grain == 24*time.Hour {
				from, to = "toDate("+from+")", "toDate("+to+")"
			}
			in = append(in, fmt.Sprintf("%s >= %s AND %[1]s < %[3]s", r.column, from, to))
		}
	}
	if len(in) > 1 {
		return "(" + strings.Join(in, " OR ") + ")"
	}
	return strings.Join(in, "")
}

// partSQL reads one rollup.
func (q KPIQuery) partSQL(table string, r resolution, in, more string, measures []measure) string {
	at := "toDateTime(0, 'UTC')"
	if q.Step > 0 {
		at = fmt.Sprintf("toDateTime({origin:Int64} + intDiv(toUnixTimestamp(toDateTime(%s, 'UTC')) - {origin:Int64}, {step:Int64}) * {step:Int64}, 'UTC')", r.column)
	}
	columns := []string{at + " AS at"}
	for _, d := range q.GroupBy {
		columns = append(columns, string(d))
	}
	for _, m := range measures {
		switch {
		case m.table != table:
			columns = append(columns, m.absent+" AS "+m.name)
		case m.read != m.name:
			columns = append(columns, m.read+" AS "+m.name)
		default:
			columns = append(columns, m.name)
		}
	}
	where := []string{in}
	for i, d := range dimensions {
		if q.Where[d] != nil {
			where = append(where, fmt.Sprintf("%s IN {where%d:Array(String)}", d, i))
		}
	}
	if q.Where[ByTenant] == nil {
		where = append(where, notDrills)
	}
	if more != "" {
		where = append(where, more)
	}
	return fmt.Sprintf("  SELECT\n    %s\n  FROM %s_%s\n  WHERE %s", strings.Join(columns, ", "), table, r.suffix, strings.Join(where, " AND "))
}

// KPI answers the query as of now, in the order of time and then of the dimensions. Combinations without any
// call, score or outcome are not there.
func (s *Store) KPI(ctx context.Context, q KPIQuery, now time.Time) ([]KPI, error) {
	sql, args, err := q.SQL(now)
	if err != nil {
		return nil, fmt.Errorf("reading KPIs: %w", err)
	}
	rows, err := collect(ctx, s, sql, args, q.scan)
	if err != nil {
		return nil, fmt.Errorf("reading KPIs: %w", err)
	}
	if len(rows) > maxKPIs {
		return nil, fmt.Errorf("reading KPIs: the answer has more than %d rows: take fewer dimensions, a longer step or a filter", maxKPIs)
	}
	return rows, nil
}

// scan reads a row in the order of measures.
func (q KPIQuery) scan(rows driver.Rows, k *KPI) error {
	k.Values = make([]string, len(q.GroupBy))
	k.Cost, k.ReportedCost = new(big.Int), new(big.Int)
	t := &k.Tokens
	dest := []any{&k.At}
	for i := range k.Values {
		dest = append(dest, &k.Values[i])
	}
	dest = append(dest, &k.Requests, &k.Unpriced, &k.Incomplete, &k.Reported,
		&t.UncachedInput, &t.CacheRead, &t.CacheWrite5m, &t.CacheWrite1h, &t.Output, &t.Reasoning,
		k.Cost, k.ReportedCost, &k.ComplexityMilli, &k.VelocityTokens, &k.VelocityMS)
	var cost, latency, ttft, quality []int16
	if q.Percentiles {
		dest = append(dest, &cost, &k.CostUSD.N, &latency, &k.LatencyMS.N, &ttft, &k.TTFTMS.N)
	}
	if q.Quality {
		dest = append(dest, &k.Scored, &k.ScoreCodes, &quality, &k.Quality.N)
	}
	if q.Outcomes {
		dest = append(dest, &k.Outcomes, &k.Good, &k.ValueMicro)
	}
	if err := rows.Scan(dest...); err != nil {
		return err
	}
	k.At = k.At.UTC()
	if q.Step == 0 {
		k.At = time.Time{}
	}
	setPercentiles(&k.CostUSD, cost, kpi.CostUSD)
	setPercentiles(&k.LatencyMS, latency, kpi.Latency)
	setPercentiles(&k.TTFTMS, ttft, kpi.Latency)
	setPercentiles(&k.Quality, quality, kpi.Score)
	return nil
}

// setPercentiles turns codes into values. The percentiles of nothing come as codes of 0, which mean something.
func setPercentiles(p *kpi.Percentiles, codes []int16, value func(float64) float64) {
	if p.N == 0 || len(codes) != len(kpi.Levels) {
		return
	}
	p.P50, p.P95, p.P99 = value(float64(codes[0])), value(float64(codes[1])), value(float64(codes[2]))
}
