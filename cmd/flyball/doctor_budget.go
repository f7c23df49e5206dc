package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/treasury"
)

const (
	canaryBudget = "canary"
	// pricedModel is one that the shipped prices have: the cost of a call without a price cannot be held.
	pricedModel = "gpt-4o"
	// budgetOpens is how long the first budget of a tenant may take: gateways have 30 s to say what they hold, and the
	// worker looks every 5 s.
	budgetOpens = 45 * time.Second
)

// budgetRefuses sets a budget that no call fits in, and asks for one. While budgets cannot be asked calls may be refused
// too: only the budget's own refusal counts.
func (e *examination) budgetRefuses(ctx context.Context) error {
	if !e.limited { // every change is a version: one will do
		e.budgeted = true
		if err := e.call(ctx, http.MethodPut, budgetPath(canaryTenant, canaryBudget), treasury.Change{
			Per: budget.PerTenant, Period: budget.Day, Ceiling: "0.000001", Reason: "flyball doctor", Who: "flyball doctor",
		}, nil); err != nil {
			return err
		}
		e.limited = true
	}
	var answer struct {
		Stop    bool
		HoldID  string `json:"hold_id"`
		Refusal struct {
			Code string
			Body json.RawMessage
		}
	}
	err := e.call(ctx, http.MethodPost, "/v1/decide", map[string]any{
		"tenant_id": canaryTenant, "trace_id": e.id, "requested_model": pricedModel, "provider": "openai",
		"input_tokens": 1000, "max_output_tokens": 1000, "ttl_seconds": 60,
	}, &answer)
	switch {
	case err != nil:
		return err
	case answer.HoldID != "":
		e.release(ctx, answer.HoldID)
		return fmt.Errorf("a call of %s was let through, though a millionth of a dollar is all that it may cost", canaryTenant)
	case answer.Refusal.Code != "budget_exceeded":
		return fmt.Errorf("the call was not refused by its budget: stop is %t, the code %q %s", answer.Stop, answer.Refusal.Code, answer.Refusal.Body)
	}
	return nil
}

// release gives back what was held for a call that is not made. Without it the hold lapses within a minute.
func (e *examination) release(ctx context.Context, hold string) {
	_ = e.call(ctx, http.MethodPost, "/v1/settle", map[string]any{"hold_id": hold, "status": "cancelled"}, nil)
}

// removeBudget removes the canary's budget, if it is there.
func (e *examination) removeBudget(ctx context.Context) error {
	var all struct{ Budgets []treasury.View }
	if err := e.call(ctx, http.MethodGet, "/v1/budgets?tenant="+canaryTenant, nil, &all); err != nil {
		return err
	}
	for _, v := range all.Budgets {
		if v.ID == canaryBudget {
			if err := e.call(ctx, http.MethodDelete, budgetPath(canaryTenant, canaryBudget)+"?who=flyball+doctor&reason=done", nil, nil); err != nil {
				return err
			}
		}
	}
	e.budgeted = false
	return nil
}
