package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/standing"
	"github.com/flyball-dev/flyball/internal/usage"
	"github.com/flyball-dev/flyball/policies"
)

// judged is a world of two tenants whose calls are scored by two evaluators each, the newer of which is much harsher.
type judged struct {
	t        *testing.T
	store    *clickhouse.Store
	registry *standing.Registry
	random   *rand.Rand
	batch    int
}

const (
	callsPerHour = 260 // 65 a bucket
	usualQuality = 0.8
)

// hour stores one hour of calls and their scores, as ingest would. A tenth of the calls are rated by people.
func (w *judged) hour(from time.Time) {
	require.NoError(w.t, w.registry.Refresh(w.t.Context()))
	clip := func(x float64) float64 { return max(0, min(1, x)) }
	var spans []usage.Span
	var scores []usage.Quality
	for _, tenant := range []string{"mapped", "unmapped"} {
		for i := range callsPerHour {
			at := from.Add(time.Duration(i) * time.Hour / callsPerHour).Truncate(time.Millisecond)
			trace := fmt.Sprint(tenant, "-", w.batch, "-", i)
			spans = append(spans, usage.Span{
				TraceID: trace, SpanID: "s", TenantID: tenant, RequestedModel: "m", Model: "m", Timestamp: at, Priced: true, UsageComplete: true, Complexity: 1,
				Cost: usage.PicoUSD(1e9 * (0.9 + 0.2*w.random.Float64())),
			})
			quality := usualQuality + 0.08*w.random.NormFloat64()
			score := func(evaluator, version, kind string, value float64) {
				q := usage.Quality{
					ID: trace + evaluator + version, TraceID: trace, SpanID: "s", TenantID: tenant, Model: "m", Evaluator: evaluator, EvaluatorVersion: version,
					Kind: kind, Score: clip(value), Confidence: 1, Timestamp: at,
				}
				w.registry.Apply(&q)
				scores = append(scores, q)
			}
			score("judge-of-"+tenant, "old", "judge", quality+0.02*w.random.NormFloat64())
			score("judge-of-"+tenant, "new", "judge", 0.1+0.4*(quality+0.02*w.random.NormFloat64()))
			if i%10 == 0 {
				score("ana", "", "human", quality+0.03*w.random.NormFloat64())
			}
		}
	}
	w.batch++
	require.NoError(w.t, w.store.InsertSpans(w.t.Context(), spans, fmt.Sprint("spans-", w.batch)))
	require.NoError(w.t, w.store.InsertQuality(w.t.Context(), scores, fmt.Sprint("scores-", w.batch)))
}

// baselines are those at a time, by tenant.
func (w *judged) baselines(at time.Time) map[string]detect.Baseline {
	_, err := w.store.RebuildBaselines(w.t.Context(), at, detect.DefaultMinimums)
	require.NoError(w.t, err)
	all, err := w.store.Baselines(w.t.Context(), at)
	require.NoError(w.t, err)
	of := map[string]detect.Baseline{}
	for key, b := range all {
		if !key.Pseudo() {
			of[key.Tenant] = b
		}
	}
	return of
}

// verdicts are what alert.yaml says of each tenant's key at a time, compared with baselines.
func (w *judged) verdicts(at time.Time, baselines map[string]detect.Baseline) map[string]detect.Verdict {
	set, err := policy.Load(policies.Files)
	require.NoError(w.t, err)
	observed, err := w.store.Sweep(w.t.Context(), clickhouse.SweepQuery{At: at})
	require.NoError(w.t, err)
	found := map[string]detect.Verdict{}
	for _, o := range observed {
		if o.Key.Pseudo() {
			continue
		}
		facts := detect.Assemble(o, baselines[o.Key.Tenant], detect.DefaultMinimums, detect.None)
		require.True(w.t, facts.QualityKnown, "%s at %s", o.Key, at)
		found[o.Key.Tenant], err = set.Alert(facts)
		require.NoError(w.t, err)
	}
	return found
}

// An evaluator is replaced by one of another scale: through its mapping nothing is found and baselines stay as they are;
// without it the key pages, and its baseline moves.
func TestJudgeSwitch(t *testing.T) {
	t.Parallel()
	c := config.Default().ClickHouse
	c.Database = "flyball"
	c.URL, c.User, c.Password = chservetest.Start(t)
	store, err := openStore(t.Context(), c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Migrate(t.Context()))
	state := t.TempDir()
	addresses, err := json.Marshal(devstack.Addresses{ClickHouse: devstack.ClickHouseAddress{URL: c.URL, User: c.User, Password: c.Password, Database: c.Database}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(state, "addresses.json"), addresses, 0o600))
	judge := func(code int, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		require.Equal(t, code, run(append(append([]string{"judge"}, args...), "--state", state), strings.NewReader(""), &out, &errs), "%s%s", out.String(), errs.String())
		return out.String() + errs.String()
	}
	w := &judged{t: t, store: store, registry: standing.New(store, slog.New(slog.DiscardHandler)), random: rand.New(rand.NewPCG(5, 6))}

	for _, tenant := range []string{"mapped", "unmapped"} {
		require.Contains(t, judge(0, "trial", "judge-of-"+tenant, "new", "--against", "old"), "is trial for scores from 2020-01-01")
	}
	require.Contains(t, judge(1, "trial", "judge-of-mapped", "new", "--against", "old"), "is on trial already")
	require.Contains(t, judge(1, "switch", "judge-of-mapped", "old", "new"), "both have scored 0 calls, and it takes 100")
	require.Contains(t, judge(0, "compare", "judge-of-mapped", "old", "new"), "not known")

	today := time.Now().UTC().Truncate(time.Hour)
	w.hour(today.AddDate(0, 0, -1))
	require.Contains(t, judge(1, "switch", "judge-of-mapped", "old", "new"), "ran beside each other for 1h0m0s, and it takes 7 days")
	for day := -9; day < -1; day++ {
		w.hour(today.AddDate(0, 0, day))
	}
	before := w.baselines(today)
	for _, b := range before {
		require.InDelta(t, usualQuality, b.Quality, 0.015, "of the old one alone")
		require.GreaterOrEqual(t, b.QualityBuckets, detect.DefaultMinimums.Buckets)
	}

	var found compared
	require.NoError(t, json.Unmarshal([]byte(judge(0, "compare", "judge-of-mapped", "old", "new", "--json", "--since", "720h")), &found))
	require.True(t, found.Ready)
	require.Equal(t, 9*callsPerHour, found.Agreement.N)
	require.InDelta(t, -0.38, found.Shift, 0.01, "0.1 + 0.4 × 0.8 is 0.42")
	require.Greater(t, found.Agreement.Spearman, 0.85)
	require.Equal(t, 9*callsPerHour/10, found.NewHuman.N)
	require.Greater(t, found.NewHuman.Spearman, 0.8)
	require.Len(t, found.Keys, 1)
	require.InDelta(t, 0, found.Keys[0].Mapped, 0.005)
	require.Contains(t, judge(0, "compare", "judge-of-mapped", "old", "new", "--since", "720h"), "Ready: flyball judge switch judge-of-mapped old new")
	require.Contains(t, judge(2, "compare", "judge-of-mapped", "old"), "accepts 3 arg(s)")

	judge(2, "switch", "judge-of-mapped", "old", "new", "--mapping", "best")
	require.Contains(t, judge(0, "switch", "judge-of-mapped", "old", "new", "--who", "ana"), "judge-of-mapped new is counting for scores from")
	require.Contains(t, judge(0, "switch", "judge-of-unmapped", "old", "new", "--mapping", "none", "--json"), `"standing":"retired"`)
	require.Contains(t, judge(1, "switch", "judge-of-mapped", "old", "new"), "judge-of-mapped old is retired")

	// The day after, and the ten days until most of what a baseline is drawn from is the new one's.
	for day := 1; day <= 11; day++ {
		w.hour(today.AddDate(0, 0, day))
	}
	first := w.verdicts(today.AddDate(0, 0, 1).Add(50*time.Minute), before)
	require.Equal(t, detect.None, first["mapped"].Level, first["mapped"].Reason)
	require.Equal(t, detect.Page, first["unmapped"].Level, "0.42 of 0.80 is a severe degradation")
	later := today.AddDate(0, 0, 12)
	after := w.baselines(later)
	noise := before["mapped"].QualityDev
	require.InDelta(t, before["mapped"].Quality, after["mapped"].Quality, noise, "within noise")
	require.Less(t, after["unmapped"].Quality, 0.5, "it has moved")
	t.Logf("baseline %.3f before, %.3f after, ± %.3f; %.3f without a mapping; %s",
		before["mapped"].Quality, after["mapped"].Quality, noise, after["unmapped"].Quality, found.Mappings.Best)
	for day := 1; day <= 11; day++ {
		got := w.verdicts(today.AddDate(0, 0, day).Add(50*time.Minute), after)
		require.Equal(t, detect.None, got["mapped"].Level, got["mapped"].Reason)
	}

	// Back again: the old one counts from an instant on, by the time of its scores.
	require.Contains(t, judge(0, "switch", "judge-of-mapped", "old", "new", "--back"), "judge-of-mapped old is counting")
	require.NoError(t, w.registry.Refresh(t.Context()))
	aside := func(version string, at time.Time) bool {
		q := usage.Quality{Evaluator: "judge-of-mapped", EvaluatorVersion: version, Kind: "judge", Timestamp: at}
		w.registry.Apply(&q)
		return q.Aside
	}
	history, err := store.EvaluatorHistory(t.Context())
	require.NoError(t, err)
	var back, switched time.Time
	for _, r := range history {
		if r.Of(contract.EvaluatorVersion{Evaluator: "judge-of-mapped", Version: "old"}) {
			if back.IsZero() {
				back = r.Since
			} else {
				switched = r.Since
			}
		}
	}
	for at, newCounts := range map[time.Time]bool{switched.Add(-1): false, switched: true, back.Add(-1): true, back: false} {
		require.Equal(t, []bool{newCounts, !newCounts}, []bool{aside("old", at), aside("new", at)}, "just one of them counts at any time")
	}
	require.Contains(t, judge(1, "switch", "judge-of-mapped", "old", "new", "--back"), "there is no switch to undo")

	list := judge(0, "evaluators", "--since", "720h")
	require.Regexp(t, `judge-of-unmapped +new +judge +trial`, list, "the switch is still to come")
	require.Regexp(t, `ana +- +human +calibrates .* 0 +0\.[78]`, list)
}
