package activities

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/policy"
	"github.com/flyball-dev/flyball/internal/routing"
)

// CaseStore tells which calls the fallback rule fired on: package clickhouse.
type CaseStore interface {
	FallbackCases(ctx context.Context, q clickhouse.FallbackQuery) ([]contract.FallbackCase, error)
}

// TrustStore is where gateways read who trusts the fallback rule: package redis.
type TrustStore interface {
	PublishTrust(ctx context.Context, rules map[string]string) error
}

// Fallbacks has calls that would fall back put to people until the rule is trusted.
type Fallbacks struct {
	Store  CaseStore
	Set    func() *policy.Set
	Loops  *Loop
	Trust  TrustStore
	Log    *slog.Logger
	Tuning contract.Tuning
	Every  time.Duration // between two looks; zero: fallbackEvery
}

const (
	fallbackEvery = 5 * time.Second
	// casesOf is how far back cases are looked for: whoever was away for longer asks about those that come next.
	casesOf = 30 * time.Minute
	// casesEach bounds the cases of a tenant that its ledger is offered. Those that it has asked about already are the
	// earliest ones, so it is several times the number that it may ask about at once.
	casesEach = 40
)

// WatchFallbacks looks for WatchFor. A look that fails is logged, and the next one tries again.
func (f *Fallbacks) WatchFallbacks(ctx context.Context) (report contract.FallbackReport, err error) {
	every := f.Every
	if every == 0 {
		every = fallbackEvery
	}
	ticks := time.NewTicker(every)
	defer ticks.Stop()
	deadline := time.Now().Add(WatchFor)
	for {
		looking, cancel := context.WithTimeout(ctx, HeartbeatTimeout/2) // a look that hangs is no dead worker
		if err := f.look(looking, time.Now().UTC(), &report); err != nil && ctx.Err() == nil {
			f.Log.WarnContext(ctx, "a look at calls that would fall back failed", "error", err)
		}
		cancel()
		activity.RecordHeartbeat(ctx, report)
		if time.Now().After(deadline) {
			return report, nil
		}
		select {
		case <-ctx.Done():
		case <-stopping(ctx):
		case <-ticks.C:
		}
		if err := ended(ctx); err != nil {
			return report, err
		}
	}
}

// look does both halves, whatever becomes of the other: a store that is away must not let trust lapse.
func (f *Fallbacks) look(ctx context.Context, now time.Time, report *contract.FallbackReport) error {
	return errors.Join(f.publish(ctx, report), f.offer(ctx, now, report))
}

// publish tells the gateways who trusts the rule, all of it each time, so that a wiped Redis knows soon again.
func (f *Fallbacks) publish(ctx context.Context, report *contract.FallbackReport) error {
	rules, err := f.Loops.Trusting(ctx)
	if err != nil {
		return err
	}
	if err := f.Trust.PublishTrust(ctx, rules); err != nil {
		return err
	}
	report.Trusted = len(rules)
	return nil
}

// offer gives each tenant's ledger the cases that the rule in force would act on.
func (f *Fallbacks) offer(ctx context.Context, now time.Time, report *contract.FallbackReport) error {
	tradeoff := f.Set().Tradeoff()
	if len(tradeoff.Fallback.Tasks) == 0 {
		return nil
	}
	cases, err := f.Store.FallbackCases(ctx, clickhouse.FallbackQuery{
		From: now.Add(-casesOf), To: now.Add(time.Minute), Stored: true, Shadowed: true, PerTenant: casesEach,
	})
	if err != nil {
		return err
	}
	offers := map[string]*contract.OpenCasesRequest{}
	for _, c := range cases {
		if !wanted(tradeoff, c) {
			continue
		}
		if offers[c.Tenant] == nil {
			offers[c.Tenant] = &contract.OpenCasesRequest{Tenant: c.Tenant, Rule: c.Rule, Tuning: f.Tuning}
		}
		offers[c.Tenant].Cases = append(offers[c.Tenant].Cases, c)
	}
	var failed []error
	for _, offer := range offers {
		opened, err := f.Loops.OpenCases(ctx, *offer)
		report.Asked += len(opened)
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// wanted reports whether the case is one of the rule in force, and worth a person's time. Whoever sends spans can write
// the tags of a case: what it says has to be what the rule would do.
func wanted(t routing.Tradeoff, c contract.FallbackCase) bool {
	return c.Rule == t.Fallback.Rule && t.Tenant(c.Tenant).Risk != routing.Regulated && // which the rule never acts on
		c.Estimate > c.Ceiling && c.Ceiling > 0 && c.Cheaper > 0 && c.Saves() > 0 && c.Quality < c.Threshold &&
		c.Instead != "" && c.Instead == t.Downgrade(c.Tenant, c.Model).Model
}

// OpenCases offers cases to the tenant's ledger of trust, and returns the decisions that it has put to people.
func (l *Loop) OpenCases(ctx context.Context, r contract.OpenCasesRequest) ([]string, error) {
	var result contract.OpenCasesResult
	err := l.updateLedger(ctx, r.Tenant, contract.OpenCases+"/"+uuid.NewString(), contract.OpenCases, r, &result)
	var application *temporal.ApplicationError
	if errors.As(err, &application) && application.Type() == contract.ErrRefused { // as many are asked about as may count
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("offering cases to the trust ledger of %s: %w", r.Tenant, err)
	}
	return result.Opened, nil
}

// Trusting are the tenants that trust their fallback rule, with the rule. Each ledger that is listed as trusting is asked:
// a listing may lag.
func (l *Loop) Trusting(ctx context.Context) (map[string]string, error) {
	rules := map[string]string{}
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowType=%q AND ExecutionStatus=%q AND %s=%q", contract.Autonomy, "Running", contract.AttrState, contract.StateTrusted), PageSize: 200,
	}
	for {
		page, err := l.Client.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("listing the ledgers of trust: %w", err)
		}
		for _, e := range page.GetExecutions() {
			state, err := l.ledger(ctx, e.GetExecution().GetWorkflowId())
			if err != nil {
				return nil, err
			}
			if t := state.Classes[contract.FallBack]; t.Trusted() {
				rules[state.Tenant] = t.Rule
			}
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return rules, nil
		}
	}
}

func (l *Loop) ledger(ctx context.Context, id string) (state contract.AutonomyState, err error) {
	answer, err := l.Client.QueryWorkflow(ctx, id, "", contract.State)
	if err == nil {
		err = answer.Get(&state)
	}
	if err != nil {
		return state, fmt.Errorf("asking %s how far trust has come: %w", id, err)
	}
	return state, nil
}
