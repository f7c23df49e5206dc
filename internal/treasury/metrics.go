package treasury

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// Metrics serves, in Prometheus's text format, how this gateway's promises stand, and by how much the ceilings of all
// tenants were overrun, as the counters say that all gateways share: the reconciler sets them by the ledger.
type Metrics struct {
	Treasury *Treasury
	Registry *Registry
	Redis    *redis.Client
	Now      func() time.Time
}

const (
	// overshootSeries bounds the series of overshoot; of more the largest are served, and the rest is counted.
	overshootSeries = 1000
	// scrapeWithin bounds what a scrape waits for Redis.
	scrapeWithin = 5 * time.Second
)

// overrun is by how much one budget was overrun, all its counters together.
type overrun struct {
	tenant, budget string
	over           budget.Micro
}

func (m *Metrics) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), scrapeWithin)
	defer cancel()
	overruns, closed, err := m.overruns(ctx)
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	m.promises(w)
	up := 1
	if err != nil { // what was not read is left out, and is not 0
		up = 0
	}
	metric(w, "redis_up", "gauge", "1 if Redis could be asked for all budgets during this scrape.", up)
	if err != nil {
		return
	}
	metric(w, "tenants_closed", "gauge", "Tenants whose counters are being rebuilt.", closed)
	left := max(0, len(overruns)-overshootSeries)
	metric(w, "overshoot_left_out", "gauge", "Budgets that were overrun and have no series of their own.", left)
	head(w, "overshoot_usd", "gauge", "Spend beyond the ceiling in present windows, as the ledger has it; budgets without any have no series.")
	for _, o := range overruns[:len(overruns)-left] {
		fmt.Fprintf(w, "flyball_budget_overshoot_usd{tenant=\"%s\",budget=\"%s\"} %s\n", label(o.tenant), label(o.budget), o.over.USD())
	}
}

func (m *Metrics) promises(w io.Writer) {
	s := m.Treasury.Stats()
	metric(w, "promises_total", "counter", "Calls that were promised their worst cost.", s.Promises)
	metric(w, "refusals_total", "counter", "Calls that a budget refused.", s.Refusals)
	metric(w, "away_promises_total", "counter", "Calls that were allowed while budgets could not be asked.", s.AwayPromises)
	metric(w, "away_refusals_total", "counter", "Calls that were refused since budgets could not be asked.", s.AwayRefusals)
	metric(w, "expired_total", "counter", "Promises that nobody settled in time.", s.Expired)
	metric(w, "open_promises", "gauge", "Promises that are not settled.", s.Open)
	metric(w, "leased_usd", "gauge", "Of all blocks that this gateway has taken, promised or not.", s.Leased.USD())
	metric(w, "untold", "gauge", "What Redis has not been told yet.", s.Waiting)
	metric(w, "beyond_promise_usd_total", "counter", "What calls have cost beyond their promise.", s.Overshoot.USD())
}

// overruns are the budgets that were overrun, the largest first, and how many tenants' budgets are closed.
func (m *Metrics) overruns(ctx context.Context) (all []overrun, closed int, err error) {
	counters, err := m.Redis.Budgets(ctx)
	if err != nil {
		return nil, 0, err
	}
	now := m.Now().UTC()
	byTenant := m.Registry.all()
	for _, tenant := range slices.Sorted(maps.Keys(byTenant)) {
		_, open, err := counters.Read(ctx, tenant, nil)
		if err != nil {
			return nil, 0, err
		}
		if !open {
			closed++
			continue
		}
		live, err := counters.Live(ctx, tenant)
		if err != nil {
			return nil, 0, err
		}
		for _, b := range byTenant[tenant] {
			o, present := overrun{tenant: tenant, budget: b.ID}, b.Window(now)
			for _, l := range live {
				if c, ok := l.CounterOf(b); ok && c.Window == present {
					o.over += max(0, l.Confirmed-b.Ceiling)
				}
			}
			if o.over > 0 {
				all = append(all, o)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b overrun) int {
		switch {
		case a.over > b.over:
			return -1
		case a.over < b.over:
			return 1
		}
		return 0
	})
	return all, closed, nil
}

func head(w io.Writer, name, kind, help string) {
	fmt.Fprintf(w, "# HELP flyball_budget_%s %s\n# TYPE flyball_budget_%[1]s %[3]s\n", name, help, kind)
}

func metric(w io.Writer, name, kind, help string, value any) {
	head(w, name, kind, help)
	fmt.Fprintf(w, "flyball_budget_%s %v\n", name, value)
}

// label escapes a label's value as the format has it: names may hold anything.
func label(value string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(strings.ToValidUTF8(value, "�"))
}
