package main

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/treasury"
)

// emptyLedger has no call.
type emptyLedger struct{}

func (emptyLedger) Spend(context.Context, clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	return nil, nil
}

func (emptyLedger) Spools(context.Context) (map[string]clickhouse.Spool, error) { return nil, nil }

func (emptyLedger) CallsBefore(context.Context, string, []clickhouse.Call, time.Time, time.Time) ([]clickhouse.Call, error) {
	return nil, nil
}

// budgetMemory keeps budgets as the store does, in memory.
type budgetMemory struct {
	mu       sync.Mutex
	versions []budget.Version
}

func (m *budgetMemory) SetBudget(_ context.Context, v budget.Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.versions {
		if w.Tenant == v.Tenant && w.ID == v.ID && w.Revision >= v.Revision {
			return clickhouse.ErrBudgetChanged
		}
	}
	m.versions = append(m.versions, v)
	return nil
}

func (m *budgetMemory) BudgetHistory(_ context.Context, tenant, id string) (list []budget.Version, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range slices.Backward(m.versions) {
		if v.Tenant == tenant && v.ID == id {
			list = append(list, v)
		}
	}
	return list, nil
}

func (m *budgetMemory) Budgets(context.Context) (list []budget.Version, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := map[string]bool{}
	for _, v := range slices.Backward(m.versions) {
		if name := v.Tenant + "/" + v.ID; !known[name] {
			known[name] = true
			if !v.Removed {
				list = append(list, v)
			}
		}
	}
	slices.SortFunc(list, func(a, b budget.Version) int { return strings.Compare(a.Tenant+"/"+a.ID, b.Tenant+"/"+b.ID) })
	return list, nil
}

// budgetServer is the gateway's API of budgets on a Redis that nobody has opened them in; close ends both.
func budgetServer() (handler http.Handler, closed func(), err error) {
	server, err := miniredis.Run()
	if err != nil {
		return nil, nil, err
	}
	client := redis.Open(redis.Options{Addr: server.Addr(), Logger: slog.New(slog.DiscardHandler)})
	admin := &treasury.Admin{Store: &budgetMemory{}, Redis: client, Ledger: emptyLedger{}, Now: time.Now}
	return admin.Handler(treasury.Asker{}), func() { _ = client.Close(); server.Close() }, nil
}
