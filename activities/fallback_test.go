package activities

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/routing"
)

// caseStore has cases, and keeps what was asked for.
type caseStore struct {
	cases []contract.FallbackCase
	query clickhouse.FallbackQuery
	err   error
}

func (s *caseStore) FallbackCases(_ context.Context, q clickhouse.FallbackQuery) ([]contract.FallbackCase, error) {
	s.query = q
	return s.cases, s.err
}

// publications are what was published.
type publications struct {
	rules []map[string]string
	err   error
}

func (p *publications) PublishTrust(_ context.Context, rules map[string]string) error {
	p.rules = append(p.rules, rules)
	return p.err
}

// fallbackTrial is a watch on calls that would fall back over fakes, by the shipped policies.
func fallbackTrial(t *testing.T) (*Fallbacks, *caseStore, *publications, *fakeTemporal) {
	store, published, client := &caseStore{}, &publications{}, &fakeTemporal{result: contract.OpenCasesResult{Opened: []string{"d1", "d2"}}}
	client.pages = []*workflowservice.ListWorkflowExecutionsResponse{{}}
	return &Fallbacks{
		Store: store, Set: shippedSet(t), Loops: &Loop{Client: client, Log: silent()}, Trust: published,
		Log: silent(), Tuning: contract.NewTuning(1),
	}, store, published, client
}

// case1 is a case of the shipped rule.
func case1(f *Fallbacks, change func(c *contract.FallbackCase)) contract.FallbackCase {
	c := contract.FallbackCase{Tenant: "org_1", Trace: "t1", Case: routing.Case{
		Rule: f.Set().Tradeoff().Fallback.Rule, Model: "claude-3-opus", Instead: "claude-3-haiku", Estimate: 9, Cheaper: 1, Ceiling: 5, Quality: 0.5, Threshold: 0.7,
	}}
	if change != nil {
		change(&c)
	}
	return c
}

func TestCasesAreOffered(t *testing.T) {
	f, store, published, client := fallbackTrial(t)
	now := time.Date(2026, 3, 2, 3, 0, 0, 0, time.UTC)
	store.cases = []contract.FallbackCase{case1(f, nil), case1(f, func(c *contract.FallbackCase) { c.Trace = "t2" })}
	for name, change := range map[string]func(c *contract.FallbackCase){
		"of another rule":                   func(c *contract.FallbackCase) { c.Rule = "fallback/other" },
		"of a regulated tenant":             func(c *contract.FallbackCase) { c.Tenant = "acme_bank" },
		"to what the rule would not":        func(c *contract.FallbackCase) { c.Instead = "gpt-4o-mini" },
		"below a tenant's floor":            func(c *contract.FallbackCase) { c.Tenant = "org_42" }, // 0.90
		"forged, without an estimate":       func(c *contract.FallbackCase) { c.Estimate = 0 },
		"forged, good enough":               func(c *contract.FallbackCase) { c.Quality = 0.9 },
		"forged, of a model without a tier": func(c *contract.FallbackCase) { c.Model, c.Instead = "mystery", "" },
	} {
		store.cases = append(store.cases, case1(f, func(c *contract.FallbackCase) { c.Trace = name; change(c) }))
	}
	var report contract.FallbackReport
	require.NoError(t, f.look(t.Context(), now, &report))
	require.Equal(t, contract.FallbackReport{Asked: 2}, report)
	require.Equal(t, clickhouse.FallbackQuery{From: now.Add(-casesOf), To: now.Add(time.Minute), Stored: true, Shadowed: true, PerTenant: casesEach}, store.query)
	require.Equal(t, contract.AutonomyID("org_1"), client.update.WorkflowID)
	require.Equal(t, contract.AutonomyInput{Tenant: "org_1"}, client.started.input, "a tenant's first case starts its ledger")
	offered := client.update.Args[0].(contract.OpenCasesRequest)
	require.Equal(t, store.cases[:2], offered.Cases)
	require.Equal(t, []map[string]string{{}}, published.rules)

	id := client.update.UpdateID
	client.updateErr, client.listed = temporal.NewNonRetryableApplicationError("no case is to be asked about", contract.ErrRefused, nil), nil
	require.NoError(t, f.look(t.Context(), now, &report), "which is how a ledger says that it has asked about enough")
	require.Equal(t, 2, report.Asked)
	require.NotEqual(t, id, client.update.UpdateID, "each offer is one of its own")
}

// A store that is away does not let trust lapse, and a Redis that is away does not keep people from being asked.
func TestTrustIsPublished(t *testing.T) {
	f, store, published, client := fallbackTrial(t)
	execution := func(tenant string) *workflow.WorkflowExecutionInfo {
		return &workflow.WorkflowExecutionInfo{Execution: &common.WorkflowExecution{WorkflowId: contract.AutonomyID(tenant)}}
	}
	ledger := func(tenant string, trust contract.Trust) contract.AutonomyState {
		return contract.AutonomyState{Tenant: tenant, Classes: map[string]contract.Trust{contract.FallBack: trust}}
	}
	client.pages = []*workflowservice.ListWorkflowExecutionsResponse{
		{Executions: []*workflow.WorkflowExecutionInfo{execution("org_1"), execution("org_2")}, NextPageToken: []byte("2")},
		{Executions: []*workflow.WorkflowExecutionInfo{execution("org_3")}},
	}
	client.answers = map[string]any{
		contract.AutonomyID("org_1"): ledger("org_1", contract.Trust{Rule: "fallback/a", Approved: 10}),
		contract.AutonomyID("org_2"): ledger("org_2", contract.Trust{Rule: "fallback/a", Approved: 3}), // since it was listed
		contract.AutonomyID("org_3"): ledger("org_3", contract.Trust{Rule: "fallback/b", Approved: 10, Held: &contract.TrustHold{Who: "ada"}}),
	}
	store.err = errors.New("ClickHouse is away")
	var report contract.FallbackReport
	require.ErrorContains(t, f.look(t.Context(), time.Now(), &report), "ClickHouse is away")
	require.Equal(t, []map[string]string{{"org_1": "fallback/a"}}, published.rules)
	require.Equal(t, 1, report.Trusted)
	require.Contains(t, client.query, `WorkflowType="Autonomy" AND ExecutionStatus="Running" AND FlyballState="trusted"`)

	store.err, published.err, client.listed = nil, errors.New("Redis is away"), nil
	store.cases = []contract.FallbackCase{case1(f, nil)}
	require.ErrorContains(t, f.look(t.Context(), time.Now(), &report), "Redis is away")
	require.Equal(t, 2, report.Asked)

	client.answers[contract.AutonomyID("org_1")] = errors.New("no worker")
	client.listed = nil
	before := len(published.rules)
	require.ErrorContains(t, f.look(t.Context(), time.Now(), &report), "no worker")
	require.Len(t, published.rules, before, "what cannot be read is not published as if nobody trusted")
}

// The watch goes on however often a look fails, and hands over after its hour.
func TestWatchFallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, store, _, client := fallbackTrial(t)
		client.err, store.err = errors.New("Temporal is away"), errors.New("ClickHouse is away")
		began, b := time.Now(), newBench(t, f)
		_, _ = b.ExecuteActivity(f.WatchFallbacks)
		require.NoError(t, b.err)
		require.Equal(t, contract.FallbackReport{}, b.result)
		require.Equal(t, WatchFor+fallbackEvery, time.Since(began))
		require.Len(t, b.beats, int(WatchFor/fallbackEvery)+2)
	})
	synctest.Test(t, func(t *testing.T) {
		f, _, _, client := fallbackTrial(t)
		client.pages = nil
		client.err = errors.New("Temporal is away")
		b := newBench(t, f)
		time.AfterFunc(12*time.Second, func() { close(b.stop) })
		_, _ = b.ExecuteActivity(f.WatchFallbacks)
		require.ErrorContains(t, b.err, "another takes over")
		require.Len(t, b.beats, 3)
	})
}
