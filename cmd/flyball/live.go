package main

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/console"
	"github.com/flyball-dev/flyball/internal/detect"
	"github.com/flyball-dev/flyball/internal/usage"
)

// liveTelemetry shows the store to the console.
type liveTelemetry struct{ store *clickhouse.Store }

// Live joins the minutes of the dearest keys with their baselines.
func (l liveTelemetry) Live(ctx context.Context, from, to time.Time, limit int) ([]console.Series, error) {
	points, err := l.store.Live(ctx, from, to, time.Minute, limit)
	if err != nil {
		return nil, err
	}
	baselines, err := l.store.Baselines(ctx, to)
	if err != nil {
		return nil, err
	}
	var list []console.Series
	spend := map[usage.Key]usage.PicoUSD{}
	for _, p := range points {
		if len(list) == 0 || list[len(list)-1].Key != p.Key {
			list = append(list, console.Series{Key: p.Key, Usual: usual(baselines[p.Key])})
		}
		series := &list[len(list)-1]
		minute := console.Minute{Start: p.At, Arm: p.Arm, Requests: p.Requests, Spend: console.USD(p.Spend), Scores: p.Scored, Quality: p.Quality}
		if p.CostN > 0 {
			minute.Cost = console.USD(math.Exp(p.CostP50))
		}
		series.Minutes = append(series.Minutes, minute)
		spend[p.Key] += p.Spend
	}
	slices.SortStableFunc(list, func(a, b console.Series) int { return int(min(1, max(-1, spend[b.Key]-spend[a.Key]))) })
	return list, nil
}

// usual is the console's view of a baseline; nil where there is none.
func usual(b detect.Baseline) *console.Usual {
	if b.CostBuckets == 0 {
		return nil
	}
	return &console.Usual{Cost: console.USD(math.Exp(b.LnCost)), Quality: b.Quality, SpendPerMinute: console.USD(b.SpendPerMinute)}
}
