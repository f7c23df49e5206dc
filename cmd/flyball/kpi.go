package main

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/kpi"
)

// shortDimensions are what people call dimensions.
var shortDimensions = map[string]string{"tenant": "tenant_id", "template": "prompt_template_version"}

// kpiCommand answers what calls cost and gave.
func kpiCommand() *cobra.Command {
	var o storedRange
	var by, tenants []string
	var step time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "kpi [--from TIME --to TIME] [--by tenant,requested_model,…] [--step 1h]",
		Short: "Show the KPIs of stored calls",
		Long: `Show requests, spend and the KPIs of a range, the last 24 hours when none is given, widened to whole minutes:
  NTC        the normalised task cost: dollars of priced calls over their complexity (flyball complexity)
  TOKENS/S   token velocity: output tokens a second after the first token, of calls that told it
  OUT/IN     completion ratio: output over input tokens
  CACHE      cache hit rate: the share of input tokens that were read from a cache
  OUTCOMES   good outcomes per call
and the percentiles of cost in dollars and latency in milliseconds. What is not known is "-", in JSON null.
--by tells apart: tenant, requested_model, model (that served), template, cohort, provider, arm.`,
		Example: "  flyball kpi --by tenant,requested_model\n" +
			"  flyball kpi --from 2026-01-01 --to 2026-02-01 --step 24h --json\n" +
			"  flyball kpi --from 2026-01-15T09:00:00Z --to 2026-01-15T10:00:00Z --by model --config deploy/flyball.yaml",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			now := time.Now().UTC()
			if o.from == "" && o.to == "" {
				o.from, o.to = now.AddDate(0, 0, -1).Format(time.RFC3339), now.Format(time.RFC3339)
			}
			q := clickhouse.KPIQuery{Step: step, Percentiles: true, Outcomes: true}
			for _, dimension := range by {
				dimension = strings.TrimSpace(dimension)
				q.GroupBy = append(q.GroupBy, clickhouse.Dimension(cmp.Or(shortDimensions[dimension], dimension)))
			}
			if len(tenants) > 0 {
				q.Where = map[clickhouse.Dimension][]string{clickhouse.ByTenant: tenants}
			}
			var err error
			if q.From, q.To, err = o.times(); err != nil {
				return &exitError{exitUsage, err}
			}
			if _, _, err := q.SQL(now); err != nil {
				return &exitError{exitUsage, err}
			}
			c, err := o.configuration()
			if err != nil {
				return err
			}
			store, err := openStore(cmd.Context(), c.ClickHouse, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
			if err != nil {
				return err
			}
			defer store.Close()
			found, err := store.KPI(cmd.Context(), q, now)
			if err != nil {
				return storeError(err)
			}
			// Scores and outcomes whose call is not known belong to no call here.
			found = slices.DeleteFunc(found, func(k clickhouse.KPI) bool { return k.Requests == 0 })
			rows := kpiRows(q, found)
			if asJSON {
				return writeLines(cmd.OutOrStdout(), rows)
			}
			if len(rows) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), "no call is stored of this range")
				return nil
			}
			return printKPI(cmd.OutOrStdout(), q, rows)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringSliceVar(&by, "by", nil, "dimensions to tell apart, comma-separated")
	cmd.Flags().StringSliceVar(&tenants, "tenant", nil, "these tenants alone, comma-separated; drills are shown only so")
	cmd.Flags().DurationVar(&step, "step", 0, "a row for each step of time, as 5m, 1h or 24h")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object per row")
	return cmd
}

// kpiRow is one row of the answer. What is not known is null.
type kpiRow struct {
	At              *time.Time        `json:"at,omitempty"`
	By              map[string]string `json:"by,omitempty"`
	Requests        int64             `json:"requests"`
	Unpriced        int64             `json:"unpriced"`
	SpendUSD        string            `json:"spend_usd"`
	NTC             *float64          `json:"ntc_usd"`
	Velocity        *float64          `json:"token_velocity"`
	CompletionRatio *float64          `json:"completion_ratio"`
	CacheHitRate    *float64          `json:"cache_hit_rate"`
	OutcomeRate     *float64          `json:"outcome_rate"`
	CostUSD         *kpi.Percentiles  `json:"cost_usd"`
	LatencyMS       *kpi.Percentiles  `json:"latency_ms"`

	spend *big.Int
}

func kpiRows(q clickhouse.KPIQuery, found []clickhouse.KPI) []kpiRow {
	rows := make([]kpiRow, len(found))
	for i := range found {
		m := &found[i]
		rows[i] = kpiRow{
			Requests: m.Requests, Unpriced: m.Unpriced, SpendUSD: dollars(m.Cost), NTC: m.NTC(), Velocity: m.Velocity(),
			CompletionRatio: m.CompletionRatio(), CacheHitRate: m.CacheHitRate(), OutcomeRate: m.OutcomeRate(),
			CostUSD: some(m.CostUSD), LatencyMS: some(m.LatencyMS), spend: m.Cost,
		}
		if q.Step > 0 {
			rows[i].At = &m.At
		}
		for n, dimension := range q.GroupBy {
			if rows[i].By == nil {
				rows[i].By = map[string]string{}
			}
			rows[i].By[string(dimension)] = m.Values[n]
		}
	}
	return rows
}

// some are the percentiles of something; of nothing there are none.
func some(p kpi.Percentiles) *kpi.Percentiles {
	if p.N == 0 {
		return nil
	}
	return &p
}

func printKPI(out io.Writer, q clickhouse.KPIQuery, rows []kpiRow) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(cells ...string) { fmt.Fprintln(table, strings.Join(cells, "\t")) }
	var head []string
	if q.Step > 0 {
		head = append(head, "AT")
	}
	for _, dimension := range q.GroupBy {
		head = append(head, strings.ToUpper(string(dimension)))
	}
	line(append(head, "REQUESTS", "UNPRICED", "SPEND", "NTC", "TOKENS/S", "OUT/IN", "CACHE", "OUTCOMES",
		"COST P50", "P95", "P99", "MS P50", "P95", "P99")...)
	for _, r := range rows {
		var cells []string
		if r.At != nil {
			cells = append(cells, r.At.Format("2006-01-02 15:04"))
		}
		for _, dimension := range q.GroupBy {
			cells = append(cells, r.By[string(dimension)])
		}
		cells = append(cells, strconv.FormatInt(r.Requests, 10), strconv.FormatInt(r.Unpriced, 10),
			new(big.Rat).SetFrac(r.spend, big.NewInt(1e12)).FloatString(4),
			shown(r.NTC, 6), shown(r.Velocity, 1), shown(r.CompletionRatio, 3), shown(r.CacheHitRate, 3), shown(r.OutcomeRate, 3))
		line(append(cells, append(shownAll(r.CostUSD, 6), shownAll(r.LatencyMS, 0)...)...)...)
	}
	return table.Flush()
}

// shown is a figure with its decimals, or "-" where it is not known.
func shown(v *float64, decimals int) string {
	if v == nil {
		return "-"
	}
	return strconv.FormatFloat(*v, 'f', decimals, 64)
}

func shownAll(p *kpi.Percentiles, decimals int) []string {
	if p == nil {
		return []string{"-", "-", "-"}
	}
	return []string{shown(&p.P50, decimals), shown(&p.P95, decimals), shown(&p.P99, decimals)}
}
