package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
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
	"github.com/flyball-dev/flyball/internal/usage"
)

// TestExplainFromTelemetry stores a key's usual hours and a bad quarter of an hour, and asks why it is found.
func TestExplainFromTelemetry(t *testing.T) {
	t.Parallel()
	address := devstack.ClickHouseAddress{Database: "flyball"}
	address.URL, address.User, address.Password = chservetest.Start(t)
	store, err := openStore(t.Context(), embeddedClickHouse(address), slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	require.NoError(t, store.Migrate(t.Context()))
	key := usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	now := time.Now().UTC()
	storeFault(t, store, key, now)
	accepted := usage.Key{Tenant: "org_43", Model: key.Model}
	storeFault(t, store, accepted, now)
	_, err = store.RebuildBaselines(t.Context(), now, config.Demo.Tuning().Limits.Minimums)
	require.NoError(t, err)

	state := t.TempDir()
	addresses, err := json.Marshal(devstack.Addresses{ClickHouse: address, Profile: string(config.Demo)})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(state, "addresses.json"), addresses, 0o600))
	explain := func(code int, args ...string) (out, errs string) {
		var stdout, stderr bytes.Buffer
		args = append([]string{"policy", "explain", "--state", state}, args...)
		require.Equal(t, code, run(args, strings.NewReader(""), &stdout, &stderr), stdout.String()+stderr.String())
		return stdout.String(), stderr.String()
	}
	of := []string{"--tenant", key.Tenant, "--model", key.Model}

	out, _ := explain(0, of...)
	require.Contains(t, out, "from sweep_1m, up to the ingest watermark")
	require.Contains(t, out, "PAGE  by page-cost-and-quality\n  cost per call is 3.0")
	require.Contains(t, out, "▶ page-cost-and-quality  FIRED")
	require.NotContains(t, out, "note:")

	// A level that somebody accepts later changes nothing of what the sweep compared with before.
	found := time.Now().UTC()
	_, err = store.AcceptLevel(t.Context(), accepted, found.Add(time.Second), "ana", "a new prompt", config.Demo.Tuning().Limits.Minimums)
	require.NoError(t, err)
	then := []string{"--tenant", accepted.Tenant, "--model", accepted.Model, "--at", found.Format(time.RFC3339Nano)}
	out, _ = explain(0, then...)
	require.Contains(t, out, "▶ page-cost-and-quality  FIRED")
	out, _ = explain(0, append(then, "--late")...)
	require.NotContains(t, out, "▶ page-cost-and-quality  FIRED")

	// What was stored today says little of what was known an hour ago, and all of what was the case.
	hour := append(of, "--at", "-1h")
	_, errs := explain(exitFailed, hour...)
	require.Contains(t, errs, "no data: org_42/claude-3-opus had no call, score or outcome in the 15 minutes before")
	require.Contains(t, errs, "came later: --late counts them in")
	out, _ = explain(0, append(hour, "--late")...)
	require.Contains(t, out, "from stored calls, scores and outcomes up to that moment\n")
	require.Contains(t, out, "stored too late for the sweep to know them")
	require.Contains(t, out, "nothing stands out and no alert is active")
	require.Contains(t, out, "no baseline of the key was stored at that time")
	require.Contains(t, out, "INCONCLUSIVE  by nothing-known")

	_, errs = explain(exitFailed, "--tenant", "org_42", "--model", "claude-3-opsu")
	require.Contains(t, errs, "nor any call within a day before: look at the spelling of tenant and model")
	_, errs = explain(exitUsage, append(of, "--at", "2100-01-01T00:00:00Z")...)
	require.Contains(t, errs, "is yet to come")
	_, errs = explain(exitUsage, append(of, "--at", "yesterday")...)
	require.Contains(t, errs, "write 2026-01-15T09:23:47Z, -15m or now")

	// The incident that was opened for it.
	incident := recordIncident(t, store, key, now)
	out, _ = explain(0, append(of, "--json")...)
	var told struct {
		Notes []string
		Asked bool
		Trace struct {
			Fired string
			Facts []struct {
				Name  string
				Value any
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &told))
	require.True(t, told.Asked)
	require.Equal(t, "page-cost-and-quality", told.Trace.Fired)
	require.Len(t, told.Notes, 1)
	require.Contains(t, told.Notes[0], "active is PAGE, the level of incident "+contract.Handle(incident))
	for _, id := range []string{incident, contract.Handle(incident)} {
		out, _ = explain(0, "--incident", id)
		require.Contains(t, out, "act.yaml, revision ")
		require.Contains(t, out, "from the stored state of "+incident)
		require.Contains(t, out, "downgrade to claude-3-sonnet, ask  by downgrade\n")
		require.Contains(t, out, `  cooling_down   bool    true`)
		require.Contains(t, out, "note: whether traffic could prove an act is stored with decisions, and there is none")
	}
	out, _ = explain(0, "--incident", incident, "--set", "cooling_down=false")
	require.Contains(t, out, ", auto  by downgrade\n")
	_, errs = explain(exitUsage, "--incident", "abcdef")
	require.Contains(t, errs, `no incident "abcdef" is stored`)
}

// storeFault stores six usual hours of a key and, in the last four minutes, calls that cost three times as much and
// are worse.
func storeFault(t *testing.T, store *clickhouse.Store, key usage.Key, now time.Time) {
	t.Helper()
	var spans []usage.Span
	var scores []usage.Quality
	call := func(at time.Time, cost usage.PicoUSD, score float64) {
		id := fmt.Sprint("t", len(spans))
		spans = append(spans, usage.Span{
			TraceID: id, SpanID: "s", Timestamp: at, TenantID: key.Tenant, RequestedModel: key.Model, Model: key.Model, Provider: "anthropic",
			Tokens: usage.Tokens{UncachedInput: 1000, Output: 100}, UsageComplete: true, Cost: cost, Priced: true, PriceVersion: "2026-01", LatencyMS: 900, Complexity: 1,
		})
		scores = append(scores, usage.Quality{
			ID: id, TraceID: id, SpanID: "s", TenantID: key.Tenant, Model: key.Model, Evaluator: "judge", EvaluatorVersion: "1",
			Score: score, Confidence: 1, Kind: "judge", Timestamp: at,
		})
	}
	for at := now.Add(-6 * time.Hour); at.Before(now.Add(-4 * time.Minute)); at = at.Add(20 * time.Second) {
		call(at, 5_000_000_000+usage.PicoUSD(len(spans)%7)*100_000_000, 0.9)
	}
	for at := now.Add(-4 * time.Minute); at.Before(now); at = at.Add(3 * time.Second) {
		call(at, 16_000_000_000, 0.6)
	}
	require.NoError(t, store.InsertSpans(t.Context(), spans, key.Tenant))
	require.NoError(t, store.InsertQuality(t.Context(), scores, key.Tenant))
}

// recordIncident stores an incident as its workflow does: at T0, soon after another act on the key.
func recordIncident(t *testing.T, store *clickhouse.Store, key usage.Key, now time.Time) (id string) {
	t.Helper()
	id = contract.IncidentID(key, now)
	finding := detect.Finding{
		Key: key, Verdict: detect.Verdict{Level: detect.Page, Rule: "page-cost-and-quality"},
		Facts: detect.Facts{CostKnown: true, CostRatio: 3, QualityKnown: true, QualityRatio: 0.67, SpendRatio: 1},
	}
	state := contract.IncidentState{
		ID: id, Input: contract.IncidentInput{Key: key, Opened: now, Tuning: config.Demo.Tuning()}, Level: detect.Page, Step: "T0",
		Finding: finding, LastAct: now.Add(-time.Minute), UpdatedAt: now,
	}
	detail, err := json.Marshal(state)
	require.NoError(t, err)
	require.NoError(t, store.RecordIncident(t.Context(), contract.IncidentRecord{
		ID: id, Key: key, OpenedAt: now.Add(-time.Second), Level: detect.Page, State: "open", Step: "T0", Rule: "page-cost-and-quality", Detail: detail, UpdatedAt: now,
	}))
	return id
}
