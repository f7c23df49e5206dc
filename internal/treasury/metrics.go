package treasury

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// Metrics collects for Prometheus how this gateway's promises stand, and by how much the ceilings of all tenants were
// overrun, as the counters say that all gateways share: the reconciler sets them by the ledger.
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

// desc is what one metric is called and says.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("flyball_budget_"+name, help, labels, nil)
}

var (
	redisUp     = desc("redis_up", "1 if Redis could be asked for all budgets during this scrape.")
	closedDesc  = desc("tenants_closed", "Tenants whose counters are being rebuilt.")
	leftOut     = desc("overshoot_left_out", "Budgets that were overrun and have no series of their own.")
	overshotUSD = desc("overshoot_usd", "Spend beyond the ceiling in present windows, as the ledger has it; budgets without any have no series.", "tenant", "budget")
)

// ofPromises are the metrics of this gateway's own promises.
var ofPromises = [...]struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(s Stats) float64
}{
	{desc("promises_total", "Calls that were promised their worst cost."), prometheus.CounterValue, func(s Stats) float64 { return float64(s.Promises) }},
	{desc("refusals_total", "Calls that a budget refused."), prometheus.CounterValue, func(s Stats) float64 { return float64(s.Refusals) }},
	{desc("away_promises_total", "Calls that were allowed while budgets could not be asked."), prometheus.CounterValue, func(s Stats) float64 { return float64(s.AwayPromises) }},
	{desc("away_refusals_total", "Calls that were refused since budgets could not be asked."), prometheus.CounterValue, func(s Stats) float64 { return float64(s.AwayRefusals) }},
	{desc("expired_total", "Promises that nobody settled in time."), prometheus.CounterValue, func(s Stats) float64 { return float64(s.Expired) }},
	{desc("open_promises", "Promises that are not settled."), prometheus.GaugeValue, func(s Stats) float64 { return float64(s.Open) }},
	{desc("leased_usd", "Of all blocks that this gateway has taken, promised or not."), prometheus.GaugeValue, func(s Stats) float64 { return dollars(s.Leased) }},
	{desc("untold", "What Redis has not been told yet."), prometheus.GaugeValue, func(s Stats) float64 { return float64(s.Waiting) }},
	{desc("beyond_promise_usd_total", "What calls have cost beyond their promise."), prometheus.CounterValue, func(s Stats) float64 { return dollars(s.Overshoot) }},
}

// dollars is an amount for a graph, which has no better than a float.
func dollars(m budget.Micro) float64 { return float64(m) / 1e6 }

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, p := range ofPromises {
		to <- p.desc
	}
	for _, d := range [...]*prometheus.Desc{redisUp, closedDesc, leftOut, overshotUSD} {
		to <- d
	}
}

// Collect implements prometheus.Collector. What Redis could not be asked for is left out, and is not 0.
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	stats := m.Treasury.Stats()
	for _, p := range ofPromises {
		to <- prometheus.MustNewConstMetric(p.desc, p.kind, p.of(stats))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeWithin) // a collector is given none
	defer cancel()
	overruns, closed, err := m.overruns(ctx)
	if err != nil {
		gauge(redisUp, 0)
		return
	}
	gauge(redisUp, 1)
	gauge(closedDesc, float64(closed))
	left := max(0, len(overruns)-overshootSeries)
	gauge(leftOut, float64(left))
	for _, o := range overruns[:len(overruns)-left] {
		gauge(overshotUSD, dollars(o.over), strings.ToValidUTF8(o.tenant, "�"), strings.ToValidUTF8(o.budget, "�"))
	}
}

// overrun is by how much one budget was overrun, all its counters together.
type overrun struct {
	tenant, budget string
	over           budget.Micro
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
	slices.SortStableFunc(all, func(a, b overrun) int { return cmp.Compare(b.over, a.over) })
	return all, closed, nil
}
