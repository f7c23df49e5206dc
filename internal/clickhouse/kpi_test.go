package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestKPISQL(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	day := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
	for name, q := range map[string]KPIQuery{
		"kpi_days": {From: day.AddDate(-1, 0, 0), To: day, GroupBy: []Dimension{ByTenant, ByProvider}},
		"kpi_ragged": {
			From: day.Add(22*time.Hour + 58*time.Minute), To: day.AddDate(0, 0, 3).Add(61 * time.Minute),
			Where:       map[Dimension][]string{ByTenant: {"org_1"}, ByCohort: {"production"}},
			Percentiles: true, Quality: true, Outcomes: true, OutcomeKinds: []string{"conversion"},
		},
		"kpi_steps": {
			From: day.Add(30 * time.Minute), To: day.AddDate(0, 0, 2), Step: 6 * time.Hour,
			GroupBy: []Dimension{ByModel}, Quality: true, QualityKinds: []string{"human"},
		},
	} {
		sql, args, err := q.SQL(now)
		require.NoError(t, err)
		golden(t, name, sql, args)
	}
}

func TestKPISegments(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	at := func(text string) time.Time {
		at, err := time.Parse("2006-01-02 15:04", text)
		require.NoError(t, err)
		return at
	}
	for _, test := range []struct {
		from, to string
		step     time.Duration
		want     string
	}{
		{"2026-01-10 00:00", "2026-01-12 00:00", 0, "1d 10T00:00-12T00:00"},
		{"2026-01-10 05:00", "2026-01-10 06:00", 0, "1h 10T05:00-10T06:00"},
		{"2026-01-10 05:10", "2026-01-10 05:50", 0, "1m 10T05:10-10T05:50"},
		{"2026-01-10 22:58", "2026-01-12 01:01", 0, "1m 10T22:58-10T23:00, 1h 10T23:00-11T00:00, 1d 11T00:00-12T00:00, 1h 12T00:00-12T01:00, 1m 12T01:00-12T01:01"},
		{"2026-01-10 00:00", "2026-01-12 00:00", time.Hour, "1h 10T00:00-12T00:00"},
		{"2026-01-10 00:00", "2026-01-12 00:00", 90 * time.Minute, "1m 10T00:00-12T00:00"},
		{"2026-01-10 00:00", "2026-01-12 00:00", 48 * time.Hour, "1d 10T00:00-12T00:00"},
	} {
		segments, err := KPIQuery{From: at(test.from), To: at(test.to), Step: test.step}.segments(now)
		require.NoError(t, err)
		var got []string
		for _, s := range segments {
			got = append(got, fmt.Sprintf("%s %s-%s", s.suffix, s.from.Format("02T15:04"), s.to.Format("02T15:04")))
		}
		require.Equal(t, test.want, strings.Join(got, ", "), "%s %s %s", test.from, test.to, test.step)
	}
	_, err := KPIQuery{From: at("2025-06-01 00:01"), To: at("2025-06-02 00:00")}.segments(now)
	require.ErrorContains(t, err, "the minutes before 2025-12-01 are kept no longer: begin, end and step must be whole hours there")
	_, err = KPIQuery{From: at("2023-06-01 01:00"), To: at("2023-06-02 00:00")}.segments(now)
	require.ErrorContains(t, err, "must be whole days there")
}

func TestKPIRefuses(t *testing.T) {
	day := time.Date(2026, 1, 15, 0, 0, 0, 0, time.UTC)
	for message, q := range map[string]KPIQuery{
		"the range is empty":    {From: day, To: day},
		"whole minutes":         {From: day, To: day.Add(time.Hour), Step: 90 * time.Second},
		"more than 10000 steps": {From: day, To: day.AddDate(0, 0, 8), Step: time.Minute},
		"is there twice":        {From: day, To: day.Add(time.Hour), GroupBy: []Dimension{ByTenant, ByTenant}},
		"no dimension to group": {From: day, To: day.Add(time.Hour), GroupBy: []Dimension{"1); DROP TABLE spans"}},
		"or has no value":       {From: day, To: day.Add(time.Hour), Where: map[Dimension][]string{ByTenant: nil}},
	} {
		_, _, err := q.SQL(day.AddDate(0, 0, 9))
		require.ErrorContains(t, err, message)
	}
}

// facts are what a KPI query is about.
type facts struct {
	spans       []usage.Span
	evaluations []usage.Quality
	outcomes    []usage.Outcome
}

// measured is the KPI query in plain Go over the same facts.
func (f facts) measured(q KPIQuery) []KPI {
	type collected struct {
		KPI
		cost, latency, ttft, quality []int16
	}
	groups := map[string]*collected{}
	of := func(at time.Time, dims map[Dimension]string) *collected {
		from, to := minutes(q.From, q.To)
		if at.Before(from) || !at.Before(to) {
			return nil
		}
		for d, values := range q.Where {
			if !slices.Contains(values, dims[d]) {
				return nil
			}
		}
		var key KPI
		if q.Step > 0 {
			key.At = at.Truncate(q.Step)
		}
		for _, d := range q.GroupBy {
			key.Values = append(key.Values, dims[d])
		}
		name := key.At.Format(time.RFC3339) + "\x00" + strings.Join(key.Values, "\x00")
		if groups[name] == nil {
			key.Cost, key.ReportedCost = new(big.Int), new(big.Int)
			groups[name] = &collected{KPI: key}
		}
		return groups[name]
	}
	for i := range f.spans {
		s := &f.spans[i]
		g := of(s.Timestamp, map[Dimension]string{
			ByTenant: s.TenantID, ByRequestedModel: s.RequestedModel, ByModel: s.Model,
			ByTemplate: s.PromptTemplate, ByCohort: string(s.Cohort()), ByProvider: s.Provider, ByArm: arm(s.Arm),
		})
		if g == nil {
			continue
		}
		g.Requests++
		g.Cost.Add(g.Cost, big.NewInt(int64(s.Cost)))
		if s.Priced {
			g.ComplexityMilli += kpi.ComplexityMilli(s.Complexity)
		} else {
			g.Unpriced++
		}
		if !s.UsageComplete {
			g.Incomplete++
		}
		if s.CostReported != nil {
			g.Reported++
			g.ReportedCost.Add(g.ReportedCost, big.NewInt(int64(*s.CostReported)))
		}
		g.Tokens.UncachedInput += s.Tokens.UncachedInput
		g.Tokens.CacheRead += s.Tokens.CacheRead
		g.Tokens.CacheWrite5m += s.Tokens.CacheWrite5m
		g.Tokens.CacheWrite1h += s.Tokens.CacheWrite1h
		g.Tokens.Output += s.Tokens.Output
		g.Tokens.Reasoning += s.Tokens.Reasoning
		if s.TTFTMS > 0 && s.LatencyMS > s.TTFTMS {
			g.VelocityTokens += s.Tokens.Output
			g.VelocityMS += s.LatencyMS - s.TTFTMS
		}
		if code, ok := kpi.CostCode(s.Cost); ok {
			g.cost = append(g.cost, code)
		}
		if code, ok := kpi.LatencyCode(s.LatencyMS); ok {
			g.latency = append(g.latency, code)
		}
		if code, ok := kpi.LatencyCode(s.TTFTMS); ok {
			g.ttft = append(g.ttft, code)
		}
	}
	for _, e := range f.evaluations {
		if !q.Quality || len(q.QualityKinds) == 0 && e.Kind == "human" || len(q.QualityKinds) > 0 && !slices.Contains(q.QualityKinds, e.Kind) {
			continue
		}
		if g := of(e.Timestamp, map[Dimension]string{
			ByTenant: e.TenantID, ByRequestedModel: e.Model, ByModel: e.ServedModel,
			ByTemplate: e.PromptTemplate, ByCohort: cohort(e.ExperimentID), ByProvider: e.Provider, ByArm: arm(e.Arm),
		}); g != nil {
			g.Scored++
			g.ScoreCodes += int64(kpi.QualityCode(e.Score))
			g.quality = append(g.quality, kpi.QualityCode(e.Score))
		}
	}
	for _, o := range f.outcomes {
		if !q.Outcomes || len(q.OutcomeKinds) > 0 && !slices.Contains(q.OutcomeKinds, o.Kind) {
			continue
		}
		if g := of(o.Timestamp, map[Dimension]string{
			ByTenant: o.TenantID, ByRequestedModel: o.Model, ByModel: o.ServedModel,
			ByTemplate: o.PromptTemplate, ByCohort: cohort(o.ExperimentID), ByProvider: o.Provider, ByArm: arm(o.Arm),
		}); g != nil {
			g.Outcomes++
			g.ValueMicro += int64(o.Value) * 1_000_000 // whole in these tests
			if o.Value > 0 {
				g.Good++
			}
		}
	}
	var all []KPI
	for _, g := range groups {
		if q.Percentiles {
			g.CostUSD, g.LatencyMS, g.TTFTMS = ranked(g.cost, kpi.CostUSD), ranked(g.latency, kpi.Latency), ranked(g.ttft, kpi.Latency)
		}
		g.Quality = ranked(g.quality, kpi.Score)
		all = append(all, g.KPI)
	}
	slices.SortFunc(all, func(a, b KPI) int { return cmp.Or(a.At.Compare(b.At), slices.Compare(a.Values, b.Values)) })
	return all
}

func ranked(codes []int16, value func(float64) float64) kpi.Percentiles {
	n := int64(len(codes))
	if n == 0 {
		return kpi.Percentiles{}
	}
	slices.Sort(codes)
	of := func(level float64) float64 { return value(float64(codes[kpi.Rank(n, level)])) }
	return kpi.Percentiles{N: n, P50: of(0.50), P95: of(0.95), P99: of(0.99)}
}

// manyFacts are three days of traffic in every dimension, in a range of whole days, with outcomes, and some calls of
// which less is known.
func manyFacts(random *rand.Rand, n int, from, to time.Time) facts {
	var f facts
	f.spans, f.evaluations = traffic(random, n, from, to)
	for i := range f.spans {
		s := &f.spans[i]
		s.Provider = []string{"openai", "anthropic", ""}[random.IntN(3)]
		s.Complexity = []float64{0, 1, 0.25, 3.3337, 1e-9}[random.IntN(5)]
		s.UsageComplete = random.IntN(7) > 0
		if random.IntN(4) == 0 {
			reported := usage.PicoUSD(random.Int64N(1 << 40))
			s.CostReported = &reported
		}
		if random.IntN(4) == 0 {
			f.outcomes = append(f.outcomes, usage.Outcome{
				ID: fmt.Sprint("o-", i), TraceID: s.TraceID, TenantID: s.TenantID, Model: s.RequestedModel, ServedModel: s.Model,
				Provider: s.Provider, PromptTemplate: s.PromptTemplate, ExperimentID: s.ExperimentID, Arm: s.Arm,
				Kind: []string{"conversion", "ticket"}[random.IntN(2)], Value: float64(random.IntN(5) - 2), Timestamp: s.Timestamp,
			})
		}
	}
	for i := range f.evaluations { // some of calls that ingest never saw
		if random.IntN(5) == 0 {
			f.evaluations[i].ServedModel, f.evaluations[i].Provider = "", ""
		}
	}
	return f
}

// store inserts the facts in batches, in an order of their own, each batch twice.
func (f facts) store(t testing.TB, s *Store, random *rand.Rand) {
	t.Helper()
	spans := slices.Clone(f.spans)
	random.Shuffle(len(spans), func(i, j int) { spans[i], spans[j] = spans[j], spans[i] })
	for i := range 3 {
		part := spans[i*len(spans)/3 : (i+1)*len(spans)/3]
		for range 2 {
			require.NoError(t, s.InsertSpans(t.Context(), part, fmt.Sprint("facts-", i)))
			require.NoError(t, s.InsertQuality(t.Context(), f.evaluations, "facts"))
			require.NoError(t, s.InsertOutcomes(t.Context(), f.outcomes, "facts"))
		}
	}
}

func requireKPIs(t testing.TB, want, got []KPI, message string) {
	t.Helper()
	require.Len(t, got, len(want), message)
	for i := range want {
		w, g := want[i], got[i]
		require.Equal(t, []any{w.At, append([]string{}, w.Values...)}, []any{g.At, g.Values}, message)
		require.Equal(t, []string{w.Cost.String(), w.ReportedCost.String()}, []string{g.Cost.String(), g.ReportedCost.String()}, message)
		w.Cost, w.ReportedCost, g.Cost, g.ReportedCost = nil, nil, nil, nil
		require.Equal(t, w.Measures, g.Measures, "%s: %v %v", message, w.At, w.Values)
	}
}

// testKPI compares the queries with plain Go over the raw facts, for ranges, steps and dimensions that need
// each resolution and several at once, and the resolutions with each other.
func testKPI(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(21, 22))
	now := time.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	from, to := today.AddDate(0, 0, -4), today
	f := manyFacts(random, 2500, from, to)
	f.store(t, s, random)
	compare := func(q KPIQuery, message string) {
		t.Helper()
		got, err := s.KPI(t.Context(), q, now)
		require.NoError(t, err, message)
		requireKPIs(t, f.measured(q), got, message)
	}
	everything := KPIQuery{From: from, To: to, Percentiles: true, Quality: true, Outcomes: true}
	for name, step := range map[string]time.Duration{"at once": 0, "by the day": 24 * time.Hour, "by six hours": 6 * time.Hour, "by 90 minutes": 90 * time.Minute} {
		q := everything
		q.Step = step
		compare(q, name)
		q.GroupBy = []Dimension{ByProvider, ByArm}
		compare(q, name+" by provider and arm")
	}
	all := everything
	all.GroupBy = dimensions
	compare(all, "by every dimension")

	for range 20 {
		q := KPIQuery{
			From: from.Add(time.Duration(random.Int64N(int64(48 * time.Hour)))), To: to.Add(-time.Duration(random.Int64N(int64(47 * time.Hour)))),
			Percentiles: random.IntN(2) == 0, Quality: random.IntN(2) == 0, Outcomes: random.IntN(2) == 0,
			Step: []time.Duration{0, 0, 24 * time.Hour, time.Hour, 30 * time.Minute}[random.IntN(5)],
		}
		for _, i := range random.Perm(len(dimensions))[:random.IntN(3)] {
			q.GroupBy = append(q.GroupBy, dimensions[i])
		}
		if random.IntN(2) == 0 {
			q.Where = map[Dimension][]string{ByTenant: {"org_0", "org_2"}, ByRequestedModel: {"model-1", "model-2", "it's"}}
		}
		if random.IntN(2) == 0 {
			q.QualityKinds, q.OutcomeKinds = []string{"human", "judge"}, []string{"ticket"}
		}
		compare(q, fmt.Sprintf("%+v", q))
	}
	requireResolutionsAgree(t, s)

	// As after an upgrade: rollups that lack what came before, and minutes that lack what they were given since.
	for _, sql := range []string{
		"TRUNCATE TABLE kpi_1h", "TRUNCATE TABLE kpi_1d", "TRUNCATE TABLE quality_1d", "TRUNCATE TABLE outcomes_1h",
		"INSERT INTO kpi_1m (minute, requests) SELECT min(minute), 7 FROM kpi_1m",
	} {
		require.NoError(t, s.conn.Exec(t.Context(), sql))
	}
	require.NoError(t, s.RebuildRollups(t.Context(), from, to, func(string) {}))
	compare(all, "rebuilt")
	requireResolutionsAgree(t, s)
	require.NoError(t, s.conn.Exec(t.Context(), "ALTER TABLE spans DELETE WHERE trace_id = 'trace-7' SETTINGS mutations_sync = 2"))
	require.ErrorContains(t, s.RebuildRollups(t.Context(), from, to, func(string) {}), "raw rows have expired")
}

// testRebuildOld rebuilds a month whose minutes have expired, while merges are forced that would come in the background
// at some time: its hours and days hold every call.
func testRebuildOld(t *testing.T, s *Store) {
	now := time.Now().UTC()
	from := monthOf(now.AddDate(0, 0, -150))
	q := KPIQuery{From: from, To: from.AddDate(0, 0, 10), Step: 24 * time.Hour, GroupBy: []Dimension{ByTenant}, Percentiles: true}
	f := manyFacts(rand.New(rand.NewPCG(51, 52)), 300, q.From, q.To)
	f.evaluations, f.outcomes = nil, nil
	require.NoError(t, s.InsertSpans(t.Context(), f.spans, "old"))
	ctx, stop := context.WithCancel(t.Context())
	merged := make(chan struct{})
	go func() {
		defer close(merged)
		for ctx.Err() == nil {
			_ = s.conn.Exec(ctx, "OPTIMIZE TABLE kpi_1m_rebuild FINAL") // the table comes and goes
		}
	}()
	err := s.RebuildRollups(t.Context(), q.From, q.To, func(string) {})
	stop()
	<-merged
	require.NoError(t, err)
	got, err := s.KPI(t.Context(), q, now)
	require.NoError(t, err)
	requireKPIs(t, f.measured(q), got, "rebuilt")
}

// requireResolutionsAgree compares the sums of every column of every rollup, histograms code by code.
func requireResolutionsAgree(t testing.TB, s *Store) {
	t.Helper()
	for _, table := range []string{"kpi", "quality", "outcomes"} {
		seen := map[string]string{}
		for _, r := range resolutions {
			var sums []string
			for _, m := range (KPIQuery{Percentiles: true, Quality: true, Outcomes: true}).measures() {
				if column, _, isHistogram := strings.Cut(m.read, "."); m.table == table && isHistogram {
					sums = append(sums, fmt.Sprintf("arraySort(mapFilter((k, v) -> v != 0, sumMap(%s))::Array(Tuple(Int16, UInt64)))", column))
				} else if m.table == table {
					sums = append(sums, "sum("+m.read+")")
				}
			}
			var text string
			require.NoError(t, s.conn.QueryRow(t.Context(), fmt.Sprintf("SELECT toString((%s)) FROM %s_%s", strings.Join(sums, ", "), table, r.suffix)).Scan(&text))
			seen[r.suffix] = text
		}
		require.Len(t, slices.Compact(slices.Sorted(maps.Values(seen))), 1, "%s: %v", table, seen)
	}
}

// testKPIHot has a key with more calls in a minute than its row keeps codes of: percentiles are of all of them, in
// whichever order they came.
func testKPIHot(t *testing.T, s *Store) {
	now := time.Now().UTC()
	at := now.Truncate(24 * time.Hour).Add(-time.Hour)
	var f facts
	for i := range 3 * kpi.CodeCap {
		cost := usage.PicoUSD(1_000_000)
		if i >= kpi.CodeCap {
			cost = 8_000_000
		}
		f.spans = append(f.spans, usage.Span{SpanID: fmt.Sprint(i), TenantID: "hot", RequestedModel: "m", Model: "m", Timestamp: at, Cost: cost, Priced: true})
	}
	require.NoError(t, s.InsertSpans(t.Context(), f.spans, "hot"))
	for _, step := range []time.Duration{0, time.Minute, time.Hour} {
		q := KPIQuery{From: at.Truncate(24 * time.Hour), To: at.Truncate(24*time.Hour).AddDate(0, 0, 1), Step: step, Percentiles: true}
		got, err := s.KPI(t.Context(), q, now)
		require.NoError(t, err)
		requireKPIs(t, f.measured(q), got, step.String())
	}
}
