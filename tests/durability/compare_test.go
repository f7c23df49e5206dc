package durability

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/require"
)

// raw says how the amounts of a table of records are computed; in a rollup each is the sum of its column.
var raw = map[string]map[string]string{
	"spans": {
		"requests": "count()", "unpriced": "countIf(price_version = 'unknown')", "uncached_input_tokens": "", "cache_read_tokens": "",
		"output_tokens": "", "reasoning_tokens": "", "cost_pico_usd": "",
	},
	"quality":     {"scored": "count()", "code_sum": "sum(toInt64(floor(score * 200 + 0.5)))"},
	"outcomes":    {"outcomes": "count()", "good": "countIf(value > 0)", "value_micro": "sum(toInt64(floor(value * 1000000 + 0.5)))"},
	"deployments": {"deployments": "uniqExact(id)"},
}

// difference is one amount of one tenant in one table.
type difference struct {
	table, column, tenant string
	acknowledged, stored  int64
}

// compare reads every table and every rollup that there is and sets it beside the ledger.
func (s *stack) compare(book *ledger) (rows []difference) {
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if book.has(name) {
			rows = append(rows, s.table(book, name, name, raw[name])...)
		}
	}
	rollups, err := s.query("SELECT name FROM system.tables WHERE database = currentDatabase() AND match(name, '^(kpi|quality|outcomes|sweep)_(1m|1h|1d)$') ORDER BY name")
	require.NoError(s.t, err)
	require.NotEmpty(s.t, rollups)
	for _, rollup := range rollups {
		family, _, _ := strings.Cut(rollup[0], "_")
		if family == "outcomes" && !book.has("outcomes") {
			continue
		}
		known := map[string]bool{}
		for _, adds := range book.sums[family] {
			for column := range adds {
				known[column] = true
			}
		}
		columns, err := s.query("SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '" + rollup[0] + "' AND NOT startsWith(type, 'AggregateFunction')")
		require.NoError(s.t, err)
		sums := map[string]string{}
		for _, column := range columns {
			if known[column[0]] {
				sums[column[0]] = ""
			}
		}
		require.NotEmpty(s.t, sums, rollup[0])
		rows = append(rows, s.table(book, rollup[0], family, sums)...)
	}
	return rows
}

// table sums up one table by tenant.
func (s *stack) table(book *ledger, name, family string, sums map[string]string) (rows []difference) {
	columns := slices.Sorted(maps.Keys(sums))
	sql := "SELECT tenant_id"
	for _, column := range columns {
		expression := sums[column]
		if expression == "" {
			expression = "sum(toInt128(" + column + "))"
		}
		sql += ", toString(" + expression + ")"
	}
	answer, err := s.query(sql + " FROM " + name + " GROUP BY tenant_id")
	require.NoError(s.t, err)
	stored := map[string]amounts{}
	for _, row := range answer {
		stored[row[0]] = amounts{}
		for i, column := range columns {
			stored[row[0]][column], err = strconv.ParseInt(row[1+i], 10, 64)
			require.NoError(s.t, err)
		}
	}
	tenants := map[string]bool{}
	for tenant := range stored {
		tenants[tenant] = true
	}
	for tenant := range book.sums[family] {
		tenants[tenant] = true
	}
	for _, tenant := range slices.Sorted(maps.Keys(tenants)) {
		for _, column := range columns {
			rows = append(rows, difference{name, column, tenant, book.sums[family][tenant][column], stored[tenant][column]})
		}
	}
	return rows
}

// table prints amounts over all tenants.
func table(rows []difference) string {
	type line struct{ table, column string }
	var order []line
	sums := map[line]difference{}
	for _, r := range rows {
		l := line{r.table, r.column}
		sum, ok := sums[l]
		if !ok {
			order = append(order, l)
		}
		sum.acknowledged += r.acknowledged
		sum.stored += r.stored
		sums[l] = sum
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %-22s %22s %22s %10s\n", "table", "amount", "acknowledged", "stored", "difference")
	for _, l := range order {
		d := sums[l]
		fmt.Fprintf(&b, "%-12s %-22s %22d %22d %10d\n", l.table, l.column, d.acknowledged, d.stored, d.stored-d.acknowledged)
	}
	return b.String()
}
