package simulate

import (
	"encoding/json"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

// run lets the world live for d from start and returns what it emitted. decide may be nil.
func run(w *World, start time.Time, d, step time.Duration, decide func(Request) routing.Answer) (requests []Request, spans []Span, scores []Score) {
	// After d no more calls are made, and what is under way is waited for.
	for now := start; !now.After(start.Add(d)); now = now.Add(step) {
		for _, r := range w.Arrivals(now) {
			a := r.direct()
			if decide != nil {
				a = decide(r)
			}
			w.Serve(r, a, true)
			requests = append(requests, r)
		}
	}
	spans, scores = w.Due(start.Add(d + time.Hour))
	return requests, spans, scores
}

func median[T int64 | float64](values []T) float64 {
	slices.Sort(values)
	return float64(values[len(values)/2])
}

var defaultBook = sync.OnceValues(book.Default)

// cost prices a span as the ingest pipeline does.
func cost(t require.TestingT, s Span) float64 {
	prices, err := defaultBook()
	require.NoError(t, err)
	report, err := usage.FromUsage(s.Provider, s.Usage)
	require.NoError(t, err)
	require.True(t, report.Complete, "usage %s", s.Usage)
	priced := usage.Span{Provider: s.Provider, Model: s.Model, Timestamp: s.Timestamp, Tokens: report.Tokens}
	require.NoError(t, prices.Price(&priced))
	require.True(t, priced.Priced, "%s %s has no price", s.Provider, s.Model)
	return float64(priced.Cost)
}

func TestWorldRepeatsItselfHoweverItIsStepped(t *testing.T) {
	t.Parallel()
	_, fine, fineScores := run(NewWorld(7, Demo(), noon), noon, time.Minute, slot, nil)
	_, coarse, coarseScores := run(NewWorld(7, Demo(), noon), noon, time.Minute, 3*time.Second, nil)
	require.NotEmpty(t, fine)
	require.Equal(t, fine, coarse)
	require.Equal(t, fineScores, coarseScores)

	_, other, _ := run(NewWorld(8, Demo(), noon), noon, time.Minute, slot, nil)
	require.NotEqual(t, fine[0].SpanID, other[0].SpanID)
	_, later, _ := run(NewWorld(7, Demo(), noon.Add(time.Nanosecond)), noon, time.Minute, slot, nil)
	require.NotEqual(t, fine[0].SpanID, later[0].SpanID, "a restart repeats no ids")
}

func TestWorldIsBelievable(t *testing.T) {
	t.Parallel()
	const minutes = 20
	_, spans, scores := run(NewWorld(1, Demo(), noon), noon, minutes*time.Minute, slot, nil)

	ids := map[string]bool{}
	byKey := map[usage.Key][]Span{}
	for _, s := range spans {
		require.False(t, ids[s.SpanID])
		ids[s.SpanID] = true
		byKey[usage.Key{Tenant: s.TenantID, Model: s.RequestedModel}] = append(byKey[usage.Key{Tenant: s.TenantID, Model: s.RequestedModel}], s)
		require.Positive(t, s.TTFTMS)
		require.Greater(t, s.LatencyMS, s.TTFTMS)
	}
	total := 0.0
	for _, w := range Demo() {
		total += w.Rate * (1 + dailySwing)
		key := usage.Key{Tenant: w.Tenant.ID, Model: w.Model}
		of := byKey[key]
		expected := w.rateAt(noon.Add(minutes/2*time.Minute)) * minutes * 60
		require.InDelta(t, expected, len(of), 5*math.Sqrt(expected), "%s: calls", key)

		var costs, input, output []float64
		cached, all := int64(0), int64(0)
		for _, s := range of {
			report, err := usage.FromUsage(s.Provider, s.Usage)
			require.NoError(t, err)
			costs = append(costs, math.Log(cost(t, s)))
			input, output = append(input, float64(report.Tokens.Input())), append(output, float64(report.Tokens.Output))
			cached, all = cached+report.Tokens.CacheRead, all+report.Tokens.Input()
		}
		m := modelNamed(w.Model)
		require.InEpsilon(t, float64(w.Prefix)+w.Prompt.median, median(input), 0.1, "%s: prompt", key)
		require.InEpsilon(t, w.Output.median*m.verbosity, median(output), 0.1, "%s: output", key)
		require.Greater(t, float64(cached)/float64(all), 0.35, "%s: cache hit rate", key)
		slices.Sort(costs)
		sigma := (costs[len(costs)*84/100] - costs[len(costs)*16/100]) / 2
		require.Greater(t, sigma, 0.15, "%s: spread of ln cost", key)
		require.Less(t, sigma, 1.2, "%s: spread of ln cost", key)
	}
	require.LessOrEqual(t, total, 30.0)

	quality := map[string][]float64{}
	spanTime := map[string]time.Time{}
	for _, s := range spans {
		spanTime[s.SpanID] = s.Timestamp
	}
	for _, s := range scores {
		require.GreaterOrEqual(t, s.Score, 0.0)
		require.LessOrEqual(t, s.Score, 1.0)
		require.True(t, s.Timestamp.After(spanTime[s.SpanID]), "a score is late")
		quality[s.Model] = append(quality[s.Model], s.Score)
	}
	for name, of := range quality {
		require.InDelta(t, modelNamed(name).quality, median(of), 0.01, name)
	}
}

func TestDailyCycle(t *testing.T) {
	t.Parallel()
	w := Demo()[0]
	day := noon.Truncate(24 * time.Hour)
	require.InDelta(t, w.Rate*1.25, w.rateAt(day.Add(14*time.Hour)), 1e-9)
	require.InDelta(t, w.Rate*0.75, w.rateAt(day.Add(2*time.Hour)), 1e-9)
	require.InDelta(t, w.rateAt(day.Add(5*time.Hour)), w.rateAt(day.Add(29*time.Hour)), 1e-9)
}

func TestASleepingMachineMakesNoCalls(t *testing.T) {
	t.Parallel()
	w := NewWorld(1, Demo(), noon)
	for _, r := range w.Arrivals(noon.Add(time.Hour)) {
		require.Fail(t, "a call was made while the machine slept", r.At)
	}
	requests := w.Arrivals(noon.Add(time.Hour + 4*time.Second))
	require.NotEmpty(t, requests)
	require.False(t, requests[0].At.Before(noon.Add(time.Hour-slot)))
}

func TestServeObeysTheAnswer(t *testing.T) {
	t.Parallel()
	w := NewWorld(1, Demo()[:1], noon)
	_, spans, scores := run(w, noon, 5*time.Minute, slot, func(r Request) routing.Answer {
		switch r.TraceID[0] % 4 {
		case 0:
			return routing.Answer{Model: "claude-3-haiku", Route: "route", Arm: usage.Treated, DecisionID: "d1"}
		case 1:
			return routing.Answer{Model: r.RequestedModel, Route: routing.Direct, Arm: usage.Holdback, DecisionID: "d1"}
		case 2:
			return routing.Answer{Model: "no-such-model", Route: "route", Arm: usage.Treated, DecisionID: "d1"}
		default:
			return routing.Answer{Model: r.RequestedModel, Route: "stop", Arm: usage.Treated, Stop: true}
		}
	})
	seen := map[usage.Arm]int{}
	for _, s := range spans {
		require.Equal(t, "claude-3-opus", s.RequestedModel)
		seen[s.Arm]++
		switch s.TraceID[0] % 4 {
		case 0:
			require.Equal(t, "claude-3-haiku-20240307", s.Model)
			require.Equal(t, usage.Treated, s.Arm)
			require.Equal(t, "d1", s.DecisionID)
			require.Equal(t, "route", s.Route)
		case 1:
			require.Equal(t, "claude-3-opus-20240229", s.Model)
			require.Equal(t, usage.Holdback, s.Arm)
			require.Equal(t, "d1", s.DecisionID)
		case 2:
			require.Equal(t, "claude-3-opus-20240229", s.Model, "the application falls back")
			require.Equal(t, usage.None, s.Arm)
			require.Empty(t, s.DecisionID)
		default:
			require.Fail(t, "a stopped call was made")
		}
	}
	require.Len(t, seen, 3)
	require.Len(t, scores, len(spans))
	byArm := map[usage.Arm][]float64{}
	for _, s := range scores {
		byArm[s.Arm] = append(byArm[s.Arm], s.Score)
	}
	require.InDelta(t, modelNamed("claude-3-haiku").quality, median(byArm[usage.Treated]), 0.03)
	require.InDelta(t, modelNamed("claude-3-opus").quality, median(byArm[usage.Holdback]), 0.03)
}

func TestCostFaultIsExactOnEveryCall(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		workload := rapid.SampledFrom(Demo()).Draw(t, "workload")
		served := rapid.SampledFrom(models).Draw(t, "served")
		factor := rapid.Float64Range(1, 20).Draw(t, "factor")
		r := newSource(rapid.Uint64().Draw(t, "seed"), &workload, noon).request(noon)
		answer := routing.Answer{Model: served.name}
		with := func(d disturbance) (Span, Score) {
			return r.serve(answer, func(*model) disturbance { return d })
		}
		healthy, _ := with(disturbance{1, 1})
		faulty, _ := with(disturbance{factor, 1})
		before, after := cost(t, healthy), cost(t, faulty)
		// A call is billed in whole tokens, so it is off by at most half an output token.
		token := served.price.output / 1e6 * 1e12
		require.InDelta(t, factor*before, after, token/2+0.001*factor*before)
		require.Equal(t, healthy.SpanID, faulty.SpanID)
	})
}

func TestADrillsCostFaultLeavesTheCompletionRatioAlone(t *testing.T) {
	t.Parallel()
	workload := Drill("flyball-drill", "claude-3-sonnet", 5)
	source := newSource(1, &workload, noon)
	for range 100 {
		r := source.request(noon)
		tokens := func(d disturbance) (in, out float64, s Score) {
			span, score := r.serve(routing.Answer{Model: "claude-3-sonnet"}, func(*model) disturbance { return d })
			var u struct {
				Input  float64 `json:"input_tokens"`
				Output float64 `json:"output_tokens"`
			}
			require.NoError(t, json.Unmarshal(span.Usage, &u))
			return u.Input, u.Output, score
		}
		in, out, score := tokens(disturbance{1, 1})
		faultyIn, faultyOut, faulty := tokens(disturbance{10, 0.8})
		require.Equal(t, []float64{10 * in, 10 * out}, []float64{faultyIn, faultyOut})
		require.Less(t, faulty.Score, score.Score)
		require.Equal(t, DrillEvaluator, score.Evaluator)
	}
}

func TestFaultsStrikeTheServedModelOnly(t *testing.T) {
	t.Parallel()
	fault := Fault{Kind: Cost, Tenant: "org_42", Model: "claude-3-opus", Factor: 3, Quality: 0.8}
	reroute := func(r Request) routing.Answer {
		if r.RequestedModel == "claude-3-opus" {
			return routing.Answer{Model: "claude-3-sonnet", Arm: usage.Treated}
		}
		return r.direct()
	}
	for _, c := range []struct {
		name          string
		decide        func(Request) routing.Answer
		cost, quality float64
	}{
		{"asked for and served by the faulty model", nil, 3, 0.8},
		{"rerouted away from it", reroute, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			healthy, faulty := NewWorld(3, Demo(), noon), NewWorld(3, Demo(), noon)
			_, err := faulty.Inject(fault, time.Hour, noon)
			require.NoError(t, err)
			_, before, beforeScores := run(healthy, noon, 10*time.Minute, slot, c.decide)
			_, after, afterScores := run(faulty, noon, 10*time.Minute, slot, c.decide)

			costs := func(spans []Span) map[bool][]float64 {
				of := map[bool][]float64{}
				for _, s := range spans {
					struck := s.TenantID == "org_42" && s.RequestedModel == "claude-3-opus"
					of[struck] = append(of[struck], cost(t, s))
				}
				return of
			}
			scored := func(scores []Score) map[bool][]float64 {
				of := map[bool][]float64{}
				for _, s := range scores {
					struck := s.TenantID == "org_42" && s.Model == "claude-3-opus"
					of[struck] = append(of[struck], s.Score)
				}
				return of
			}
			b, a := costs(before), costs(after)
			require.InEpsilon(t, c.cost, median(a[true])/median(b[true]), 0.02)
			require.InEpsilon(t, 1, median(a[false])/median(b[false]), 0.001, "other keys are untouched")
			bs, as := scored(beforeScores), scored(afterScores)
			require.InEpsilon(t, c.quality, median(as[true])/median(bs[true]), 0.02)
			require.InEpsilon(t, 1, median(as[false])/median(bs[false]), 0.001)
		})
	}
}

func TestFaultEndsByItself(t *testing.T) {
	t.Parallel()
	w := NewWorld(3, Demo()[:1], noon)
	_, err := w.Inject(Fault{Kind: Quality, Tenant: "org_42", Model: "claude-3-opus", Factor: 0.5}, 5*time.Minute, noon)
	require.NoError(t, err)
	requests, _, scores := run(w, noon, 10*time.Minute, slot, nil)
	at := map[string]time.Time{}
	for _, r := range requests {
		at[r.SpanID] = r.At
	}
	for _, s := range scores {
		faulty := at[s.SpanID].Before(noon.Add(5 * time.Minute))
		require.Equal(t, faulty, s.Score < 0.72, "a call at %s scored %g", at[s.SpanID], s.Score)
	}
	require.Empty(t, w.Faults(noon.Add(10*time.Minute)))
}

func TestShiftAndVolumeAreTheApplications(t *testing.T) {
	t.Parallel()
	count := func(faults ...Fault) map[usage.Key]float64 {
		w := NewWorld(3, Demo(), noon)
		for _, f := range faults {
			_, err := w.Inject(f, time.Hour, noon)
			require.NoError(t, err)
		}
		requests, _, _ := run(w, noon, 20*time.Minute, slot, nil)
		n := map[usage.Key]float64{}
		for _, r := range requests {
			n[usage.Key{Tenant: r.Workload.Tenant.ID, Model: r.RequestedModel}]++
		}
		return n
	}
	bank, opus := usage.Key{Tenant: "acme_bank", Model: "claude-3-sonnet"}, usage.Key{Tenant: "acme_bank", Model: "claude-3-opus"}
	normal := count()
	require.Zero(t, normal[opus])

	all := count(Fault{Kind: Shift, Tenant: bank.Tenant, Model: bank.Model, Factor: 1})
	require.Zero(t, all[bank])
	require.Equal(t, normal[bank], all[opus], "the same calls, asking for another model")

	half := count(Fault{Kind: Shift, Tenant: bank.Tenant, Model: bank.Model, Factor: 0.5})
	require.InDelta(t, normal[bank]/2, half[opus], 4*math.Sqrt(normal[bank]))
	require.Equal(t, normal[bank], half[bank]+half[opus])

	more := count(Fault{Kind: Volume, Tenant: bank.Tenant, Model: bank.Model, Factor: 5})
	require.InEpsilon(t, 5, more[bank]/normal[bank], 0.1)
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	require.Equal(t, normal[key], more[key], "one workload's luck does not move another's")
}

func TestInjectRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	ok := Fault{Kind: Cost, Tenant: "org_42", Model: "claude-3-opus", Factor: 3}
	for _, c := range []struct {
		name     string
		change   func(*Fault)
		lifetime time.Duration
		says     string
	}{
		{"kind", func(f *Fault) { f.Kind = "gremlin" }, time.Minute, "unknown kind"},
		{"tenant", func(f *Fault) { f.Tenant = "nobody" }, time.Minute, "org_42 claude-3-opus"},
		{"model", func(f *Fault) { f.Model = "gpt-99" }, time.Minute, "no traffic"},
		{"requested model", func(f *Fault) { f.Kind, f.Model = Volume, "gpt-4o" }, time.Minute, "no traffic"},
		{"no factor", func(f *Fault) { f.Factor = 0 }, time.Minute, "factor 0"},
		{"NaN", func(f *Fault) { f.Factor = math.NaN() }, time.Minute, "factor NaN"},
		{"huge", func(f *Fault) { f.Factor = 1e9 }, time.Minute, "factor 1e+09"},
		{"no time", func(*Fault) {}, 0, "lasts more than 0"},
		{"too long", func(*Fault) {}, 25 * time.Hour, "at most 24h"},
		{"quality of a quality fault", func(f *Fault) { f.Kind, f.Quality = Quality, 0.5 }, time.Minute, "give a cost fault"},
		{"shift of the dearest", func(f *Fault) { f.Kind, f.Factor = Shift, 1 }, time.Minute, "dearer"},
		{"shift of more than all", func(f *Fault) { f.Kind, f.Model, f.Factor = Shift, "claude-3-haiku", 2 }, time.Minute, "at most 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w, f := NewWorld(1, Demo(), noon), ok
			c.change(&f)
			_, err := w.Inject(f, c.lifetime, noon)
			require.ErrorContains(t, err, c.says)
			require.Empty(t, w.Faults(noon))
		})
	}
	w := NewWorld(1, Demo(), noon)
	f, err := w.Inject(Fault{Kind: Quality, Tenant: "org_42", Model: "claude-3-opus-20240229", Factor: 0.5}, time.Minute, noon)
	require.NoError(t, err)
	require.Equal(t, "claude-3-opus", f.Model, "a version names its model")
	for len(w.Faults(noon)) < maxFaults {
		_, err = w.Inject(ok, time.Minute, noon)
		require.NoError(t, err)
	}
	_, err = w.Inject(ok, time.Minute, noon)
	require.ErrorContains(t, err, "stop some")
	require.True(t, w.Stop(f.ID))
	require.False(t, w.Stop(f.ID))
}

func TestHistory(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 2, 20, 11, 0, time.UTC)
	total, calls, scores, last := 0, map[time.Time]map[usage.Key]int{}, map[usage.Key]int{}, time.Time{}
	for b := range History(5, Demo(), now) {
		start := b.Spans[0].Timestamp.Truncate(bucket)
		require.True(t, start.After(last), "oldest first")
		last, calls[start] = start, map[usage.Key]int{}
		total += len(b.Spans)
		for _, s := range b.Spans {
			require.False(t, s.Timestamp.After(now))
			calls[start][usage.Key{Tenant: s.TenantID, Model: s.RequestedModel}]++
		}
		for _, s := range b.Scores {
			require.False(t, s.Timestamp.After(now))
			scores[usage.Key{Tenant: s.TenantID, Model: s.Model}]++
		}
	}
	require.LessOrEqual(t, total, 200_000)
	for _, w := range Demo() {
		key := usage.Key{Tenant: w.Tenant.ID, Model: w.Model}
		for start, of := range calls {
			require.GreaterOrEqual(t, of[key], 50, "%s at %s", key, start)
		}
		if w.Tenant.Value != BatchValue {
			require.Greater(t, scores[key], 20*len(calls), "%s: scores", key)
		}
	}
}

// At any time of day the allowance pays for buckets of every day, more than a baseline's minimum of
// twelve, whole and at the live rate.
func TestHistoryBuckets(t *testing.T) {
	t.Parallel()
	for minute := 0; minute < 24*60; minute += 7 {
		now := noon.Truncate(24 * time.Hour).Add(time.Duration(minute) * time.Minute)
		starts := historyBuckets(Demo(), now)
		expected, days := 0.0, map[string]bool{}
		for _, start := range starts {
			require.Equal(t, start, start.Truncate(bucket))
			require.False(t, start.After(now))
			days[now.Sub(start).Round(24*time.Hour).String()] = true
			for _, w := range Demo() {
				expected += w.rateAt(start) * bucket.Seconds()
			}
		}
		require.True(t, slices.IsSortedFunc(starts, time.Time.Compare))
		require.LessOrEqual(t, expected, float64(historySpans))
		require.GreaterOrEqual(t, len(starts), 16)
		require.Len(t, days, historyDays+1, "%s", now)
	}
}

func TestHistoryIsTheSameWhenLoadedAgain(t *testing.T) {
	t.Parallel()
	workloads := Demo()[1:2]
	workloads[0].Rate = 0.1
	ids := func(now time.Time) map[string]Span {
		all := map[string]Span{}
		for b := range History(5, workloads, now) {
			for _, s := range b.Spans {
				all[s.SpanID] = s
			}
		}
		return all
	}
	first, second := ids(noon), ids(noon.Add(3*time.Minute))
	for id, s := range first {
		require.Equal(t, s, second[id])
	}
}
