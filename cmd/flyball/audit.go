package main

import (
	"context"
	"encoding/json"
	"math/big"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/contract"
)

// storedAudit shows the rows of decisions and the ledger of savings to the console.
type storedAudit struct{ store *clickhouse.Store }

// Decided are the decisions that the query chooses.
func (a storedAudit) Decided(ctx context.Context, q console.DecidedQuery) (all []console.Decided, err error) {
	f := clickhouse.DecisionFilter{Tenant: q.Tenant, Model: q.Model, Status: q.Status, Action: q.Action, Since: q.Since, Until: q.Until, Newest: q.Limit}
	err = a.store.EachDecision(ctx, f, func(r contract.DecisionRecord) error {
		all = append(all, decided(r, time.Now()))
		return nil
	})
	return all, err
}

func decided(r contract.DecisionRecord, now time.Time) console.Decided {
	d := console.Decided{
		ID: r.ID, Handle: contract.Handle(r.ID), Incident: r.Incident, Key: r.Key, Opened: r.OpenedAt, Action: r.Action, Mode: string(r.Mode),
		Value: r.Value, Status: string(r.Status), Reason: r.Reason, Share: r.Share, AlertRule: r.AlertRule, Rule: r.Rule, Revision: r.Revision,
		Approvers: append([]string{}, r.Approvers...), By: r.By, Effect: string(r.Effect),
	}
	if !r.EndedAt.IsZero() {
		d.Ended = &r.EndedAt
	}
	if w := r.Worth; w != nil {
		d.Worth = &console.Worth{
			MeasuredAt: w.MeasuredAt, Estimated: w.Estimated, Treated: w.Treated, Compared: w.Compared,
			Saved: decimal(w.Saved), SavedLow: decimal(w.SavedLow), SavedHigh: decimal(w.SavedHigh),
			Quality: w.Quality, QualityLow: w.QualityLow, QualityHigh: w.QualityHigh,
		}
	}
	var state contract.DecisionState
	if json.Unmarshal(r.Detail, &state) == nil { // a row without its detail has no story
		d.Story = state.Story(now)
	}
	return d
}

// decimal is an amount as JSON has it; nil when it is not known.
func decimal(pico *big.Int) *json.Number {
	if pico == nil {
		return nil
	}
	n := json.Number(dollars(pico))
	return &n
}

// Fallback is what fallback rules were worth.
func (a storedAudit) Fallback(ctx context.Context, q console.FallbackQuery) ([]console.FallbackWorth, error) {
	worth, err := a.store.FallbackWorth(ctx, clickhouse.WorthQuery{From: q.From, To: q.To, Tenant: q.Tenant})
	return fallbackWorths(worth), err
}

// Savings are what the ledger answers.
func (a storedAudit) Savings(ctx context.Context, q console.SavingsQuery) ([]console.Savings, error) {
	rows, err := a.store.Savings(ctx, clickhouse.SavingsQuery{From: q.From, To: q.To, Tenant: q.Tenant, GroupBy: q.By})
	if err != nil {
		return nil, err
	}
	all := make([]console.Savings, len(rows))
	for i, r := range rows {
		all[i] = console.Savings{
			Decisions: r.Decisions, Unknown: r.Unknown, Treated: r.Treated, Compared: r.Compared, Cost: *decimal(r.Cost),
			Saved: *decimal(r.Saved), Spent: *decimal(r.Spent), Net: *decimal(r.Net()), Estimated: *decimal(r.Estimated),
		}
		to := map[string]*string{
			clickhouse.SavingsByTenant: &all[i].Tenant, clickhouse.SavingsByModel: &all[i].Model, clickhouse.SavingsByAction: &all[i].Action,
			clickhouse.SavingsByDay: &all[i].Day, clickhouse.SavingsByDecision: &all[i].Decision,
		}
		for n, d := range q.By {
			*to[d] = r.Values[n]
		}
	}
	return all, nil
}
