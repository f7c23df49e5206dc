package clickhouse

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/usage"
)

func TestBaselineSQL(t *testing.T) {
	at := time.Date(2026, 1, 15, 9, 2, 3, 0, time.UTC)
	for name, q := range map[string]baselineQuery{
		"baseline":           {At: at, Minimums: detect.DefaultMinimums},
		"baseline_all_hours": {At: at, Minimums: detect.DefaultMinimums, AllHours: true},
	} {
		sql, args := q.SQL()
		golden(t, name, sql, args)
	}
	sql, args := leastCallsSQL(at)
	golden(t, "least_calls", sql, args)
}

func TestBucketBounds(t *testing.T) {
	at := time.Date(2026, 1, 29, 9, 20, 0, 0, time.UTC)
	require.Equal(t, time.Date(2026, 1, 1, 9, 30, 0, 0, time.UTC), firstBucket(at))
	require.Equal(t, time.Date(2026, 1, 29, 9, 0, 0, 0, time.UTC), lastBucket(at))
	at = time.Date(2026, 1, 29, 9, 0, 0, 0, time.UTC)
	require.Equal(t, time.Date(2026, 1, 1, 9, 0, 0, 0, time.UTC), firstBucket(at))
	require.Equal(t, time.Date(2026, 1, 29, 8, 45, 0, 0, time.UTC), lastBucket(at))
}

// bucketFacts is one bucket of one key in plain Go.
type bucketFacts struct {
	cost, quality                         []int16
	requests, pico, input, output, cached int64
	untreated, outcomes, good             int64
	streamed, streaming                   int64 // tokens and milliseconds after the first token
	minutes                               [15]float64
}

// burst is the variance of the minutes' spends, with Bessel's correction, relative to their mean squared.
func (f *bucketFacts) burst() float64 {
	mean, variance := float64(f.pico)/15, 0.0
	for _, spend := range f.minutes {
		variance += (spend - mean) * (spend - mean) / 14
	}
	return variance / (mean * mean)
}

// usual computes baselines in plain Go over the same facts.
func usual(spans []usage.Span, evaluations []usage.Quality, incidents []contract.IncidentRecord, at time.Time, minimums detect.Minimums, outcomes ...usage.Outcome) map[usage.Key]detect.Baseline {
	buckets := map[usage.Key]map[time.Time]*bucketFacts{}
	excluded := func(k usage.Key, start time.Time) bool {
		for _, r := range incidents {
			if _, _, experiment := r.Key.Experiment(); r.Key.Tenant != k.Tenant || ((experiment || !k.Pseudo()) && r.Key.Model != k.Model) {
				continue
			}
			end := r.EndedAt
			if end.IsZero() {
				end = at
			}
			if start.Before(end) && !start.Before(r.OpenedAt.Add(-15*time.Minute).Truncate(15*time.Minute)) {
				return true
			}
		}
		return false
	}
	of := func(k usage.Key, timestamp time.Time) []*bucketFacts {
		var both []*bucketFacts
		start := timestamp.Truncate(15 * time.Minute)
		for _, k := range []usage.Key{k, {Tenant: k.Tenant, Model: usage.AnyModel}} {
			if excluded(k, start) || start.Before(at.Add(-28*24*time.Hour)) || start.Add(15*time.Minute).After(at) {
				continue
			}
			if buckets[k] == nil {
				buckets[k] = map[time.Time]*bucketFacts{}
			}
			if buckets[k][start] == nil {
				buckets[k][start] = &bucketFacts{}
			}
			both = append(both, buckets[k][start])
		}
		return both
	}
	for i := range spans {
		p := &spans[i]
		if p.Cohort() != usage.Production {
			continue
		}
		for _, b := range of(p.Key(), p.Timestamp) {
			b.requests++
			b.pico += int64(p.Cost)
			b.minutes[p.Timestamp.Minute()%15] += float64(p.Cost)
			b.input += p.Tokens.Input()
			b.output += p.Tokens.Output
			b.cached += p.Tokens.CacheRead
			if p.Arm != usage.Treated {
				b.untreated++
				if p.TTFTMS > 0 && p.LatencyMS > p.TTFTMS {
					b.streamed += p.Tokens.Output
					b.streaming += p.LatencyMS - p.TTFTMS
				}
			}
			if code, ok := kpi.CostCode(p.Cost); ok && p.Arm != usage.Treated {
				b.cost = append(b.cost, code)
			}
		}
	}
	for i := range evaluations {
		q := &evaluations[i]
		if q.ExperimentID != "" || q.Kind == "human" || q.Arm == usage.Treated {
			continue
		}
		for _, b := range of(usage.Key{Tenant: q.TenantID, Model: q.Model}, q.Timestamp) {
			b.quality = append(b.quality, kpi.QualityCode(q.Score))
		}
	}
	for i := range outcomes {
		o := &outcomes[i]
		if o.ExperimentID != "" || o.Arm == usage.Treated {
			continue
		}
		for _, b := range of(usage.Key{Tenant: o.TenantID, Model: o.Model}, o.Timestamp) {
			if b.outcomes++; o.Value > 0 {
				b.good++
			}
		}
	}
	all := map[usage.Key]detect.Baseline{}
	for key, starts := range buckets {
		var cost, quality [2][]time.Time // of the slot's hour, of all hours
		for start, b := range starts {
			here := start.Hour() == at.Hour()
			for wide := range 2 {
				if len(b.cost) >= minimums.Cost && (here || wide == 1) {
					cost[wide] = append(cost[wide], start)
				}
				if len(b.quality) >= minimums.Quality && (here || wide == 1) {
					quality[wide] = append(quality[wide], start)
				}
			}
		}
		pick := func(sets [2][]time.Time) []time.Time {
			if len(sets[0]) >= minimums.Buckets {
				return sets[0]
			}
			return sets[1]
		}
		median := func(which []time.Time, value func(*bucketFacts) float64) (middle, mad float64) {
			type weighed struct {
				value  float64
				weight uint64
			}
			middleOf := func(values []weighed) float64 {
				slices.SortFunc(values, func(a, b weighed) int { return int(math.Copysign(1, a.value-b.value)) })
				var sum, seen uint64
				for _, v := range values {
					sum += v.weight
				}
				for _, v := range values {
					if seen += v.weight; seen >= uint64(math.Ceil(float64(sum)*0.5)) {
						return v.value
					}
				}
				return 0
			}
			var values []weighed
			for _, start := range which {
				age := at.Truncate(time.Second).Sub(start).Seconds() / (7 * 86400)
				values = append(values, weighed{value(starts[start]), uint64(math.Round(1e6 * math.Exp2(-age)))})
			}
			middle = middleOf(values)
			for i := range values {
				values[i].value = math.Abs(values[i].value - middle)
			}
			return middle, middleOf(values)
		}
		b := detect.Baseline{Key: key, Slot: at.Truncate(time.Hour), Version: at.Format(time.RFC3339)}
		if which := pick(cost); len(which) > 0 {
			b.CostBuckets = len(which)
			var mad float64
			b.LnCost, mad = median(which, func(f *bucketFacts) float64 { return kpi.CostSample(f.cost).Median })
			if len(which) > 1 {
				b.LnCostDev = 1.4826 * max(mad, kpi.LnCost(0.5))
			}
			b.LnCostSD, _ = median(which, func(f *bucketFacts) float64 { return kpi.CostSample(f.cost).SD })
			b.CostBucketN, _ = median(which, func(f *bucketFacts) float64 { return float64(len(f.cost)) })
			b.SpendPerMinute, _ = median(which, func(f *bucketFacts) float64 { return float64(f.pico) / 15 })
			_, b.SpendDev = median(which, func(f *bucketFacts) float64 { return math.Log(float64(f.pico) / 15) })
			b.SpendDev *= 1.4826
			b.SpendBurst, _ = median(which, (*bucketFacts).burst)
			b.RequestsPerMin, _ = median(which, func(f *bucketFacts) float64 { return float64(f.requests) / 15 })
			b.Completion, _ = median(which, func(f *bucketFacts) float64 { return float64(f.output) / float64(f.input) })
			b.CacheHit, _ = median(which, func(f *bucketFacts) float64 { return float64(f.cached) / float64(f.input) })
			streaming := slices.DeleteFunc(slices.Clone(which), func(start time.Time) bool { return starts[start].streaming == 0 })
			if b.VelocityBuckets = len(streaming); len(streaming) > 0 {
				speed := func(f *bucketFacts) float64 { return 1000 * float64(f.streamed) / float64(f.streaming) }
				b.Velocity, _ = median(streaming, speed)
				_, b.VelocityDev = median(streaming, func(f *bucketFacts) float64 { return math.Log(speed(f)) })
				b.VelocityDev *= 1.4826
			}
			which = slices.DeleteFunc(slices.Clone(which), func(start time.Time) bool { return starts[start].outcomes == 0 || starts[start].untreated == 0 })
			if b.OutcomeBuckets = len(which); len(which) > 0 {
				b.OutcomeRate, b.OutcomeDev = median(which, func(f *bucketFacts) float64 { return float64(f.good) / float64(f.untreated) })
				b.OutcomeDev *= 1.4826
				b.OutcomeBucketN, _ = median(which, func(f *bucketFacts) float64 { return float64(f.untreated) })
			}
		}
		if which := pick(quality); len(which) > 0 {
			b.QualityBuckets = len(which)
			var mad float64
			b.Quality, mad = median(which, func(f *bucketFacts) float64 { return kpi.QualitySample(f.quality).Median })
			if len(which) > 1 {
				b.QualityDev = 1.4826 * max(mad, kpi.Score(0.5))
			}
			b.QualitySD, _ = median(which, func(f *bucketFacts) float64 { return kpi.QualitySample(f.quality).SD })
			b.QualityBucketN, _ = median(which, func(f *bucketFacts) float64 { return float64(len(f.quality)) })
		}
		b.LeastCalls = leastCalls(spans, key, at)
		if b.CostBuckets+b.QualityBuckets > 0 {
			all[key] = b
		}
	}
	return all
}

// leastCalls is the twentieth part from below of the key's calls in the quarter-hours of the hour, by weight,
// those without any included.
func leastCalls(spans []usage.Span, key usage.Key, at time.Time) float64 {
	calls := map[time.Time]int64{}
	from := at
	for i := range spans {
		p := &spans[i]
		start := p.Timestamp.Truncate(15 * time.Minute)
		if p.Key() != key || p.Cohort() != usage.Production || start.Hour() != at.Hour() || start.Before(at.Add(-28*24*time.Hour)) || start.Add(15*time.Minute).After(at) {
			continue
		}
		if calls[start]++; start.Before(from) {
			from = start
		}
	}
	if from.After(at.Add(-156 * time.Hour)) {
		return 0
	}
	weights := map[int64]uint64{}
	var sum, seen uint64
	for start := from; !start.Add(15 * time.Minute).After(at); start = start.Add(15 * time.Minute) {
		if start.Hour() == at.Hour() {
			w := uint64(math.Round(1e6 * math.Exp2(-at.Truncate(time.Second).Sub(start).Seconds()/(7*86400))))
			weights[calls[start]] += w
			sum += w
		}
	}
	for _, n := range slices.Sorted(maps.Keys(weights)) {
		if seen += weights[n]; float64(seen) >= math.Ceil(float64(sum)*0.05) {
			return float64(n)
		}
	}
	return 0
}

// sameBaselines requires equality up to the rounding of floats.
func sameBaselines(t *testing.T, want, got map[usage.Key]detect.Baseline) {
	t.Helper()
	require.Len(t, got, len(want))
	for key, w := range want {
		g := got[key]
		for _, pair := range [][2]*float64{
			{&w.LnCost, &g.LnCost},
			{&w.LnCostDev, &g.LnCostDev},
			{&w.LnCostSD, &g.LnCostSD},
			{&w.Quality, &g.Quality},
			{&w.QualityDev, &g.QualityDev},
			{&w.QualitySD, &g.QualitySD},
			{&w.SpendPerMinute, &g.SpendPerMinute},
			{&w.SpendDev, &g.SpendDev},
			{&w.SpendBurst, &g.SpendBurst},
			{&w.RequestsPerMin, &g.RequestsPerMin},
			{&w.Completion, &g.Completion},
			{&w.CacheHit, &g.CacheHit},
			{&w.OutcomeRate, &g.OutcomeRate},
			{&w.OutcomeDev, &g.OutcomeDev},
			{&w.Velocity, &g.Velocity},
			{&w.VelocityDev, &g.VelocityDev},
		} {
			require.InDelta(t, 1, (*pair[1]+1e-9)/(*pair[0]+1e-9), 1e-6, "%s: want %+v, got %+v", key, w, g)
			*pair[1] = *pair[0]
		}
		require.Equal(t, w, g)
	}
}

// testBaselines seeds twelve days of two hours, a faint model and a tenant with an incident, and
// compares with the computation in Go; then again after late scores and a new incident.
func testBaselines(t *testing.T, s *Store) {
	random := rand.New(rand.NewPCG(13, 14))
	at := time.Now().UTC().Truncate(time.Hour).Add(20*time.Minute + 3*time.Second)
	if at.After(time.Now()) {
		at = at.Add(-time.Hour)
	}
	slot := at.Truncate(time.Hour)
	var spans []usage.Span
	var evaluations []usage.Quality
	for day := range 12 {
		for _, hour := range []int{0, 5} {
			from := slot.Add(-time.Duration(24*day+hour) * time.Hour)
			more, scores := traffic(random, 900, from, from.Add(time.Hour))
			for _, p := range more {
				if p.RequestedModel != "model-4" || hour == 5 || day == 3 { // model-4 has no traffic to speak of in the slot's hour
					spans = append(spans, p)
				}
			}
			evaluations = append(evaluations, scores...)
		}
	}
	late := evaluations[:len(evaluations)/3]
	early := evaluations[len(evaluations)/3:]
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	require.NoError(t, s.InsertQuality(t.Context(), early, "a"))
	outcomes := outcomesOf(random, spans)
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes[:1000], "a"))
	incidents := []contract.IncidentRecord{
		{ID: "over", Key: usage.Key{Tenant: "org_0", Model: "model-1"}, OpenedAt: slot.Add(-48*time.Hour + 20*time.Minute), EndedAt: slot.Add(-48*time.Hour + 40*time.Minute), UpdatedAt: at},
		{ID: "open", Key: usage.Key{Tenant: "org_1", Model: "*"}, OpenedAt: slot.Add(-2 * time.Minute), UpdatedAt: at},
		{ID: "tried", Key: usage.Key{Tenant: "org_0", Model: "model-0"}.OfExperiment("b"), OpenedAt: slot.Add(-72 * time.Hour), EndedAt: slot.Add(-71 * time.Hour), UpdatedAt: at},
		{ID: "elsewhere", Key: usage.Key{Tenant: "org_9", Model: "model-1"}, OpenedAt: slot.Add(-2 * time.Minute), UpdatedAt: at},
	}
	for _, r := range incidents {
		require.NoError(t, s.RecordIncident(t.Context(), r))
	}
	minimums := detect.Minimums{Cost: 8, Quality: 2, Buckets: 12}
	rebuild := func(evaluations []usage.Quality, outcomes []usage.Outcome) {
		t.Helper()
		n, err := s.RebuildBaselines(t.Context(), at, minimums)
		require.NoError(t, err)
		want := usual(spans, evaluations, incidents, at, minimums, outcomes...)
		require.Equal(t, len(want), n)
		got, err := s.Baselines(t.Context(), at)
		require.NoError(t, err)
		sameBaselines(t, want, got)
	}
	rebuild(early, outcomes[:1000])
	got, err := s.Baselines(t.Context(), at)
	require.NoError(t, err)
	faint, usual := got[usage.Key{Tenant: "org_0", Model: "model-4"}], got[usage.Key{Tenant: "org_0", Model: "model-0"}]
	require.Less(t, faint.CostBuckets, 96)
	require.LessOrEqual(t, usual.CostBuckets, 48, "its own hour suffices")
	require.GreaterOrEqual(t, faint.CostBuckets, 12, "drawn from all hours")
	require.Positive(t, usual.LeastCalls)
	require.Zero(t, faint.LeastCalls, "what is usual at other hours is not expected at this one")

	require.NoError(t, s.InsertQuality(t.Context(), late, "b"))
	require.NoError(t, s.InsertOutcomes(t.Context(), outcomes[1000:], "b"))
	incidents = append(incidents, contract.IncidentRecord{ID: "new", Key: usage.Key{Tenant: "org_2", Model: "model-3"}, OpenedAt: slot.Add(-24 * time.Hour), EndedAt: slot.Add(-23 * time.Hour), UpdatedAt: at})
	require.NoError(t, s.RecordIncident(t.Context(), incidents[len(incidents)-1]))
	rebuild(evaluations, outcomes)

	later, err := s.Baselines(t.Context(), at.Add(3*time.Hour))
	require.NoError(t, err)
	require.Len(t, later, len(got), "the latest slot stands in for one that is not computed")
	none, err := s.Baselines(t.Context(), at.Add(-30*time.Hour))
	require.NoError(t, err)
	require.Empty(t, none)
}

func testBaselinesEmpty(t *testing.T, s *Store) {
	n, err := s.RebuildBaselines(t.Context(), time.Now(), detect.DefaultMinimums)
	require.NoError(t, err)
	require.Zero(t, n)
}

// testLeastCalls stores a week of one hour of keys that call at different times, and says of which of them calls are
// expected.
func testLeastCalls(t *testing.T, s *Store) {
	at := time.Now().UTC().Truncate(time.Hour).Add(2 * time.Minute)
	if at.After(time.Now()) {
		at = at.Add(-time.Hour)
	}
	const days = 9
	var spans []usage.Span
	call := func(model string, day, quarter, n int) {
		start := at.Truncate(time.Hour).Add(-time.Duration(day)*24*time.Hour + time.Duration(quarter)*15*time.Minute)
		for i := range n {
			spans = append(spans, usage.Span{TenantID: "t", RequestedModel: model, Model: model, Timestamp: start.Add(time.Duration(i) * time.Second), Cost: 1000, Priced: true})
		}
	}
	for day := 1; day <= days; day++ {
		for quarter := range 4 {
			call("always", day, quarter, 60+day)
			if day != 1 {
				call("gone for a day", day, quarter, 60)
			}
			if day%7 != 3 && day%7 != 4 {
				call("rests at the weekend", day, quarter, 60)
			}
			if quarter == 0 {
				call("once an hour", day, quarter, 400)
			}
			call("another hour", day, quarter+8, 60) // two hours later
			if day <= 5 {
				call("new", day, quarter, 60)
			}
			if (4*day+quarter)%2 == 0 {
				call("by fits and starts", day, quarter, 300)
			} else {
				call("by fits and starts", day, quarter, 2)
			}
		}
	}
	require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
	_, err := s.RebuildBaselines(t.Context(), at, detect.Minimums{Cost: 50, Quality: 20, Buckets: 12})
	require.NoError(t, err)
	got, err := s.Baselines(t.Context(), at)
	require.NoError(t, err)
	for model, want := range map[string]float64{
		"always": 61, "gone for a day": 0, "rests at the weekend": 0, "once an hour": 0, "another hour": 0, "new": 0, "by fits and starts": 2, "*": 0,
	} {
		b := got[usage.Key{Tenant: "t", Model: model}]
		require.GreaterOrEqual(t, b.CostBuckets, 4, model)
		require.Equal(t, want, b.LeastCalls, model)
	}
	require.GreaterOrEqual(t, got[usage.Key{Tenant: "t", Model: "another hour"}].CostBuckets, 12, "its cost is judged by all hours, its silence is not")
}

// testBaselinesGrow rebuilds while data goes on coming: a bucket that was incomplete at one rebuild is
// taken at the next.
func testBaselinesGrow(t *testing.T, s *Store) {
	base := time.Now().UTC().Truncate(15 * time.Minute).Add(-2 * time.Hour)
	key := usage.Key{Tenant: "t", Model: "m"}
	minimums := detect.Minimums{Cost: 3, Quality: 1, Buckets: 12} // never reached, so all hours count
	for i := range 4 {
		at := base.Add(time.Duration(i)*15*time.Minute + 5*time.Minute)
		var spans []usage.Span
		for j := range 10 {
			spans = append(spans, usage.Span{TenantID: "t", RequestedModel: "m", Model: "m", Timestamp: at.Add(-time.Duration(j) * time.Second), Cost: 1000, Priced: true})
		}
		require.NoError(t, s.InsertSpans(t.Context(), spans, fmt.Sprint(i)))
		_, err := s.RebuildBaselines(t.Context(), at, minimums)
		require.NoError(t, err)
		got, err := s.Baselines(t.Context(), at)
		require.NoError(t, err)
		require.Equal(t, i, got[key].CostBuckets, "only whole buckets")
		if i >= 2 {
			require.Positive(t, got[key].LnCostDev, "a deviation too small to see is not an unknown one")
		}
	}
}
