package clickhouse

import (
	"cmp"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestSweepSQL(t *testing.T) {
	at := time.Date(2026, 1, 15, 9, 23, 47, 0, time.UTC)
	for name, q := range map[string]SweepQuery{
		"sweep": {At: at, Shards: 1}, "sweep_sharded": {At: at, Shard: 2, Shards: 8}, "sweep_experiments": {At: at, Experiments: true},
	} {
		sql, args := q.SQL()
		golden(t, name, sql, args)
	}
}

// golden compares a query's text and parameters with a file in testdata; -update writes it.
func golden(t *testing.T, name, sql string, args []any) {
	t.Helper()
	text := sql + "\n\n"
	for _, a := range args {
		p := a.(driver.NamedValue)
		if at, ok := p.Value.(time.Time); ok {
			p.Value = at.Format(time.RFC3339)
		}
		text += fmt.Sprintf("-- %s = %v\n", p.Name, p.Value)
	}
	path := "testdata/" + name + ".sql"
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run the test with -update to write the golden file")
	require.Equal(t, string(want), text)
}

// observeExperiments is the sweep of experiments in plain Go: that of production over their spans under names of
// their own, without the pseudo-keys.
func observeExperiments(spans []usage.Span, evaluations []usage.Quality, at time.Time, outcomes ...usage.Outcome) []detect.Observation {
	rename := func(tenant, model, id string) string {
		if id == "" {
			return ""
		}
		return usage.Key{Tenant: tenant, Model: model}.OfExperiment(id).Model
	}
	spans, evaluations, outcomes = slices.Clone(spans), slices.Clone(evaluations), slices.Clone(outcomes)
	for i := range spans {
		p := &spans[i]
		p.RequestedModel, p.ExperimentID = rename(p.TenantID, p.RequestedModel, p.ExperimentID), ""
	}
	for i := range evaluations {
		q := &evaluations[i]
		q.Model, q.ExperimentID = rename(q.TenantID, q.Model, q.ExperimentID), ""
	}
	for i := range outcomes {
		o := &outcomes[i]
		o.Model, o.ExperimentID = rename(o.TenantID, o.Model, o.ExperimentID), ""
	}
	return slices.DeleteFunc(observe(spans, evaluations, at, outcomes...), func(o detect.Observation) bool {
		return o.Key.Pseudo() || o.Key.Model == ""
	})
}

// observe is the sweep in plain Go over the same facts.
func observe(spans []usage.Span, evaluations []usage.Quality, at time.Time, outcomes ...usage.Outcome) []detect.Observation {
	type sums struct {
		detect.Observation
		cost, quality [len(detect.Windows)][]int16
		last, partial int64
	}
	current := at.Truncate(time.Minute)
	keys := map[usage.Key]*sums{}
	of := func(k usage.Key) []*sums {
		var both []*sums
		for _, k := range []usage.Key{k, {Tenant: k.Tenant, Model: usage.AnyModel}} {
			if keys[k] == nil {
				keys[k] = &sums{Observation: detect.Observation{Key: k}}
			}
			both = append(both, keys[k])
		}
		return both
	}
	inWindow := func(t time.Time, n int) bool {
		return !t.Before(current.Add(-time.Duration(n-1)*time.Minute)) && t.Before(current.Add(time.Minute))
	}
	for i := range spans {
		p := &spans[i]
		if p.Cohort() != usage.Production || !inWindow(p.Timestamp, 15) {
			continue
		}
		for _, s := range of(p.Key()) {
			for _, v := range []struct {
				volume  *detect.Volume
				minutes int
			}{{&s.Whole, 15}, {&s.Recent, 5}} {
				if inWindow(p.Timestamp, v.minutes) {
					v.volume.Requests++
					v.volume.InputTokens += p.Tokens.Input()
					v.volume.OutputTokens += p.Tokens.Output
					v.volume.CacheRead += p.Tokens.CacheRead
				}
			}
			switch minute := p.Timestamp.Truncate(time.Minute); {
			case minute.Equal(current):
				s.partial += int64(p.Cost)
			case minute.Equal(current.Add(-time.Minute)):
				s.last += int64(p.Cost)
			}
			if p.Arm == usage.Treated {
				continue
			}
			s.Outcomes.Calls++
			if p.TTFTMS > 0 && p.LatencyMS > p.TTFTMS {
				for minutes, stream := range map[int]*detect.Stream{15: &s.WholeStream, 5: &s.RecentStream} {
					if inWindow(p.Timestamp, minutes) {
						stream.Calls++
						stream.Tokens += p.Tokens.Output
						stream.MS += p.LatencyMS - p.TTFTMS
					}
				}
			}
			if code, ok := kpi.CostCode(p.Cost); ok {
				for w, n := range detect.Windows {
					if inWindow(p.Timestamp, n) {
						s.cost[w] = append(s.cost[w], code)
					}
				}
			}
		}
	}
	for i := range evaluations {
		q := &evaluations[i]
		if q.ExperimentID != "" || q.Kind == "human" || !inWindow(q.Timestamp, 15) {
			continue
		}
		for _, s := range of(usage.Key{Tenant: q.TenantID, Model: q.Model}) {
			for w, n := range detect.Windows {
				if q.Arm != usage.Treated && inWindow(q.Timestamp, n) {
					s.quality[w] = append(s.quality[w], kpi.QualityCode(q.Score))
				}
			}
		}
	}
	for i := range outcomes {
		o := &outcomes[i]
		if o.ExperimentID != "" || !inWindow(o.Timestamp, 15) {
			continue
		}
		for _, s := range of(usage.Key{Tenant: o.TenantID, Model: o.Model}) {
			if o.Arm == usage.Treated {
				continue
			}
			if s.Outcomes.All++; o.Value > 0 {
				s.Outcomes.Good++
			}
		}
	}
	var all []detect.Observation
	for _, s := range keys {
		s.SpendLastPico = max(float64(s.last), float64(s.partial)*detect.SpendScale(at.Sub(current)))
		for w := range detect.Windows {
			cost, quality := kpi.CostSample(s.cost[w]), kpi.QualitySample(s.quality[w])
			s.Windows[w] = detect.Window{CostN: cost.N, LnCost: cost.Median, QualityN: quality.N, Quality: quality.Median}
		}
		all = append(all, s.Observation)
	}
	return sorted(all)
}

func sorted(all []detect.Observation) []detect.Observation {
	slices.SortFunc(all, func(a, b detect.Observation) int {
		return cmp.Or(cmp.Compare(a.Key.Tenant, b.Key.Tenant), cmp.Compare(a.Key.Model, b.Key.Model))
	})
	return all
}

// testSweep compares the query with the same computation in Go, also while parts are unmerged, after
// they were merged, and at watermarks that cut the data.
func testSweep(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(7, 8))
	now := time.Now().UTC()
	spans, evaluations := traffic(random, 4000, now.Add(-25*time.Minute), now)
	for i, part := range slices.Collect(slices.Chunk(spans, 700)) {
		require.NoError(t, s.InsertSpans(t.Context(), part, fmt.Sprint("s", i)))
	}
	for i, part := range slices.Collect(slices.Chunk(evaluations, 200)) {
		require.NoError(t, s.InsertQuality(t.Context(), part, fmt.Sprint("q", i)))
	}
	outcomes := outcomesOf(random, spans)
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes, "o"))
	check := func() {
		for _, at := range []time.Time{now, now.Truncate(time.Minute), now.Add(-30 * time.Second), now.Add(-7*time.Minute - 13*time.Second), now.Add(14 * time.Minute)} {
			got, err := s.Sweep(t.Context(), SweepQuery{At: at, Shards: 1})
			require.NoError(t, err)
			require.Equal(t, observe(spans, evaluations, at, outcomes...), sorted(got), "at %s", at)
			got, err = s.Sweep(t.Context(), SweepQuery{At: at, Experiments: true})
			require.NoError(t, err)
			require.Equal(t, observeExperiments(spans, evaluations, at, outcomes...), sorted(got), "experiments at %s", at)
		}
	}
	check()
	require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE sweep_1m FINAL"))
	check()

	got, err := s.Sweep(t.Context(), SweepQuery{At: now.Add(time.Hour)})
	require.NoError(t, err)
	require.Empty(t, got, "no traffic, no observation")

	arrived := 0
	for i := range spans {
		if at := spans[i].Timestamp; !at.Before(now.Truncate(time.Minute).Add(-14 * time.Minute)) {
			arrived++
		}
	}
	calls, err := s.Arrived(t.Context(), now)
	require.NoError(t, err)
	require.EqualValues(t, arrived, calls, "every cohort counts")
	calls, err = s.Arrived(t.Context(), now.Add(time.Hour))
	require.NoError(t, err)
	require.Zero(t, calls)
}

func testSweepShards(t *testing.T, s *Store) {
	now := time.Now().UTC()
	spans, evaluations := traffic(rand.New(rand.NewPCG(9, 10)), 500, now.Add(-10*time.Minute), now)
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	var all []detect.Observation
	for shard := range 3 {
		part, err := s.Sweep(t.Context(), SweepQuery{At: now, Shard: shard, Shards: 3})
		require.NoError(t, err)
		for _, o := range part {
			require.Equal(t, shard, ShardOf(o.Key.Tenant, 3))
		}
		all = append(all, part...)
	}
	require.Zero(t, ShardOf("org_1", 0))
	require.Equal(t, observe(spans, evaluations, now), sorted(all), "the shards together are the whole")
}

func testMinutes(t *testing.T, s *Store) {
	now := time.Now().UTC()
	spans, evaluations := traffic(rand.New(rand.NewPCG(11, 12)), 2000, now.Add(-20*time.Minute), now)
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), evaluations, "a"))
	from, to := now.Add(-10*time.Minute), now.Add(-2*time.Minute).Truncate(time.Minute)
	for _, key := range []usage.Key{{Tenant: "org_1", Model: "model-2"}, {Tenant: "org_1", Model: usage.AnyModel}, usage.Key{Tenant: "org_1", Model: "model-2"}.OfExperiment("ab-1"), {Tenant: "nobody", Model: "x"}} {
		want := map[string]*kpi.Minute{}
		at := func(timestamp time.Time, arm usage.Arm) *kpi.Minute {
			start := timestamp.Truncate(time.Minute)
			if arm == "" {
				arm = usage.None
			}
			if start.Before(from.Truncate(time.Minute)) || !start.Before(to) {
				return &kpi.Minute{}
			}
			id := fmt.Sprint(start, arm)
			if want[id] == nil {
				want[id] = &kpi.Minute{Start: start, Arm: arm, CostCodes: []int16{}, QualityCodes: []int16{}}
			}
			return want[id]
		}
		of, experiment := key, ""
		if base, id, ok := key.Experiment(); ok {
			of, experiment = base, id
		}
		ours := func(tenant, model, id string) bool {
			return tenant == of.Tenant && (of.Pseudo() || model == of.Model) && id == experiment
		}
		for i := range spans {
			p := &spans[i]
			if !ours(p.TenantID, p.RequestedModel, p.ExperimentID) {
				continue
			}
			m := at(p.Timestamp, p.Arm)
			m.Requests++
			m.CostPico += int64(p.Cost)
			m.InputTokens += p.Tokens.Input()
			m.OutputTokens += p.Tokens.Output
			m.CacheRead += p.Tokens.CacheRead
			if code, ok := kpi.CostCode(p.Cost); ok {
				m.CostCodes = append(m.CostCodes, code)
			}
		}
		for i := range evaluations {
			q := &evaluations[i]
			if ours(q.TenantID, q.Model, q.ExperimentID) && q.Kind != "human" {
				m := at(q.Timestamp, q.Arm)
				m.QualityCodes = append(m.QualityCodes, kpi.QualityCode(q.Score))
			}
		}
		got, err := s.Minutes(t.Context(), key, from, to)
		require.NoError(t, err)
		require.Len(t, got, len(want))
		require.True(t, slices.IsSortedFunc(got, func(a, b kpi.Minute) int { return a.Start.Compare(b.Start) }))
		for _, m := range got {
			expected := want[fmt.Sprint(m.Start, m.Arm)]
			require.NotNil(t, expected, "%v %v", m.Start, m.Arm)
			for _, codes := range [][]int16{m.CostCodes, m.QualityCodes, expected.CostCodes, expected.QualityCodes} {
				slices.Sort(codes)
			}
			require.Equal(t, *expected, m)
		}
	}
}

// testCap sends more calls in one minute than a row keeps codes of.
func testCap(t *testing.T, s *Store) {
	minute := time.Now().UTC().Truncate(time.Minute).Add(-time.Minute)
	span := usage.Span{TenantID: "t", RequestedModel: "m", Model: "m", Timestamp: minute, Cost: 1000, Priced: true}
	for i := range 3 {
		require.NoError(t, s.InsertSpans(t.Context(), slices.Repeat([]usage.Span{span}, kpi.CodeCap/2), fmt.Sprint(i)))
	}
	for range 2 {
		got, err := s.Minutes(t.Context(), span.Key(), minute, minute.Add(time.Minute))
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.EqualValues(t, kpi.CodeCap/2*3, got[0].Requests, "sums are exact")
		require.Len(t, got[0].CostCodes, kpi.CodeCap)
		require.NoError(t, s.conn.Exec(t.Context(), "OPTIMIZE TABLE sweep_1m FINAL"))
	}
}
