package main_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
)

// tenants launches a server with rows of two tenants and of none, a rollup, a view and a projection of
// them, and tables that are not shared.
func tenants(t *testing.T) *chservetest.Server {
	t.Helper()
	server := chservetest.Launch(t, chservetest.Options{
		Users: []chservetest.User{
			{Name: "acme-reader", Password: "a", Tenant: "acme"},
			{Name: "globex-reader", Password: "g", Tenant: "globex"},
			{Name: "odd-reader", Password: "o", Tenant: "o'dd\\ *=ü"},
			{Name: "nobody", Password: "n"},
		},
		Args: []string{"--tenant-tables", "flyball.spans,flyball.kpi_1m,flyball.recent"},
	})
	execute(t, open(t, embedded(server).options("default")), "CREATE DATABASE flyball", "CREATE DATABASE private")
	admin := open(t, embedded(server).options("flyball"))
	execute(t, admin,
		"CREATE TABLE spans (tenant_id LowCardinality(String), model String, cost Int64, PROJECTION by_model (SELECT tenant_id, model, sum(cost) GROUP BY tenant_id, model)) ENGINE = MergeTree ORDER BY (tenant_id, cost) SETTINGS lightweight_mutation_projection_mode = 'rebuild'",
		"CREATE TABLE kpi_1m (tenant_id String, cost SimpleAggregateFunction(sum, Int64)) ENGINE = AggregatingMergeTree ORDER BY tenant_id",
		"CREATE MATERIALIZED VIEW kpi_1m_from_spans TO kpi_1m AS SELECT tenant_id, sum(s.cost) AS cost FROM spans AS s GROUP BY tenant_id",
		"CREATE VIEW recent AS SELECT tenant_id, cost FROM spans WHERE cost > 0",
		"CREATE VIEW totals AS SELECT count() AS n FROM spans",
		"CREATE TABLE settings (name String) ENGINE = MergeTree ORDER BY name",
		"CREATE TABLE private.t (n UInt8) ENGINE = MergeTree ORDER BY n",
		"INSERT INTO settings VALUES ('secret')", "INSERT INTO private.t VALUES (1)",
		"INSERT INTO spans SELECT tenant, 'm', number FROM numbers(1000) ARRAY JOIN ['acme', 'globex', '', 'o\\'dd\\\\ *=ü'] AS tenant")
	return server
}

func TestIsolation(t *testing.T) {
	t.Parallel()
	if os.Getenv(serverVariable) != "" {
		t.Skip("tests how chserve isolates tenants, a server does it with roles: unset " + serverVariable)
	}
	server := tenants(t)
	t.Run("tenants", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, *chservetest.Server){
			"see their rows":          testTenantsSeeTheirRows,
			"see nothing else":        testTenantsSeeNothingElse,
			"cannot escape":           testTenantsCannotEscape,
			"may bound their queries": testTenantsMayBoundTheirQueries,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, server)
			})
		}
	})
	t.Run("admins are not hindered", func(t *testing.T) { testFiltersLeaveAdminsAlone(t, server) })
}

func testTenantsSeeTheirRows(t *testing.T, server *chservetest.Server) {
	for _, test := range []struct {
		user, password string
		rows, everyone uint64
	}{
		{"acme-reader", "a", 1000, 1},
		{"globex-reader", "g", 1000, 1},
		{"odd-reader", "o", 1000, 1},
		{"nobody", "n", 0, 0},
		{chservetest.AdminUser, chservetest.AdminPassword, 4000, 4},
	} {
		t.Run(test.user, func(t *testing.T) {
			t.Parallel()
			conn := open(t, target{server.URL, test.user, test.password}.options("flyball"))
			for _, table := range []string{"spans", "flyball.spans", "(SELECT * FROM spans)", "spans AS s"} {
				require.Equal(t, test.rows, one[uint64](t, conn, "SELECT count() FROM "+table), table)
			}
			require.Equal(t, test.everyone, one[uint64](t, conn, "SELECT uniqExact(tenant_id) FROM spans"))
			require.Equal(t, test.everyone, one[uint64](t, conn, "SELECT count() FROM kpi_1m"))
			require.Equal(t, test.everyone, one[uint64](t, conn, "SELECT uniqExact(tenant_id) FROM recent"))
			require.Equal(t, test.everyone, one[uint64](t, conn, "SELECT count() FROM (SELECT tenant_id, model, sum(cost) FROM spans GROUP BY tenant_id, model)"), "the projection")
			require.Equal(t, test.rows, one[uint64](t, conn, "WITH mine AS (SELECT * FROM spans) SELECT count() FROM mine WHERE cost IN (SELECT cost FROM spans)"))
			require.Equal(t, uint64(10), one[uint64](t, conn, "SELECT count() FROM numbers(10)"))
			require.Equal(t, uint64(1), one[uint64](t, conn, "SELECT count() FROM (SELECT 1)"))
		})
	}
}

func testTenantsSeeNothingElse(t *testing.T, server *chservetest.Server) {
	conn := open(t, target{server.URL, "acme-reader", "a"}.options("flyball"))
	for _, table := range []string{
		"settings", "totals", "system.processes", "system.tables", "system.columns", "system.parts",
		"system.databases", "system.functions", "system.server_settings", "system.errors", "system.stack_trace",
		"information_schema.tables", "INFORMATION_SCHEMA.COLUMNS",
	} {
		rows, err := conn.Query(t.Context(), "SELECT * FROM "+table)
		require.NoError(t, err, table)
		require.False(t, rows.Next(), table)
		require.NoError(t, rows.Err(), table)
		require.NoError(t, rows.Close())
	}
}

func testTenantsCannotEscape(t *testing.T, server *chservetest.Server) {
	dir := t.TempDir()
	stolen := filepath.Join(dir, "stolen.csv")
	secret := filepath.Join(dir, "secret.csv")
	require.NoError(t, os.WriteFile(secret, []byte("'x',1,1\n"), 0o600))
	admin := newMarkerOfAdmin()
	for _, test := range []struct {
		name  string
		code  int
		query string
	}{
		{"write a file", 497, "SELECT * FROM spans INTO OUTFILE '" + stolen + "'"},
		{"write a file through a function", 497, "INSERT INTO FUNCTION file('" + stolen + "') SELECT * FROM spans"},
		{"read a file into a table", 164, "INSERT INTO spans FROM INFILE '" + secret + "' FORMAT CSV"},
		{"read a file as a table", 497, "SELECT * FROM file('" + secret + "')"},
		{"read a file as a value", 497, "SELECT file('" + secret + "')"},
		{"read a file in upper case", 497, "SELECT FILE('" + secret + "')"},
		{"read a file in quotes", 497, "SELECT `file`('" + secret + "')"},
		{"read a file in a lambda", 497, "SELECT arrayMap(x -> file(x), ['" + secret + "'])"},
		{"read a file in a transformer", 497, "SELECT * APPLY(x -> file(x)) FROM (SELECT '" + secret + "')"},
		{"read a file in a replacement", 497, "SELECT * REPLACE(file(p) AS p) FROM (SELECT '" + secret + "' AS p)"},
		{"read a file in a window", 497, "SELECT sum(cost) OVER (ORDER BY file('" + secret + "')) FROM spans"},
		{"read a file in an alias of a lambda", 497, "WITH (x) -> file(x) AS f SELECT f('" + secret + "')"},
		{"change a setting", 497, "SET readonly = 0"},
		{"set log_comment", 497, "SET log_comment = '" + admin + "'"},
		{"set log_comment for a query", 164, "SELECT count() FROM spans SETTINGS log_comment = '" + admin + "'"},
		{"reset log_comment", 497, "SELECT count() FROM spans SETTINGS log_comment = DEFAULT"},
		{"reset readonly in a subquery", 497, "SELECT * FROM (SELECT 1 SETTINGS readonly = DEFAULT)"},
		{"set log_comment after a reset", 164, "SELECT count() FROM spans SETTINGS readonly = DEFAULT, log_comment = '" + admin + "'"},
		{"kill", 497, "KILL QUERY WHERE 1"},
		{"back up", 497, "BACKUP DATABASE flyball TO File('" + stolen + "')"},
		{"use another database", 497, "USE private"},
		{"another database", 497, "SELECT * FROM private.t"},
		{"another database in IN", 497, "SELECT cost IN private.t FROM spans"},
		{"system command", 497, "SYSTEM FLUSH LOGS"},
		{"two statements", 62, "SELECT 1; SELECT 2"},
		{"two statements, one in disguise", 62, "SELECT 1; DROP TABLE spans"},
		{"two statements in parallel", 62, "SELECT 1 PARALLEL WITH DROP TABLE spans"},
		{"insert", 164, "INSERT INTO spans VALUES ('acme', 'm', 1)"},
		{"drop", 164, "DROP TABLE spans"},
		{"create", 164, "CREATE TABLE copy ENGINE = Memory AS SELECT * FROM spans"},
		{"create a temporary table", 497, "CREATE TEMPORARY TABLE copy AS SELECT * FROM spans"},
		{"delete", 164, "DELETE FROM spans WHERE 1"},
		{"create a function", 164, "CREATE FUNCTION f AS (x) -> file(x)"},
		{"merge()", 497, "SELECT * FROM merge('flyball', '.*')"},
		{"remote()", 497, "SELECT * FROM remote('127.0.0.1', flyball.spans)"},
		{"url()", 497, "SELECT * FROM url('http://127.0.0.1/', 'RawBLOB')"},
		{"executable()", 497, "SELECT * FROM executable('id', 'TSV', 'x String')"},
		{"loop()", 497, "SELECT * FROM loop('flyball', 'spans')"},
		{"the keys of every tenant", 497, "SELECT * FROM mergeTreeIndex('flyball', 'spans')"},
		{"a projection's rows", 497, "SELECT * FROM mergeTreeProjection('flyball', 'spans', 'by_model')"},
		{"view()", 497, "SELECT * FROM view(SELECT * FROM spans)"},
		{"eval()", 497, "SELECT * FROM eval('SELECT 1')"},
		{"dictionaries", 497, "SELECT dictGet('d', 'x', 1)"},
		{"server settings", 497, "SELECT getServerSetting('path')"},
		{"others' queries", 497, "SHOW PROCESSLIST"},
		{"plans", 497, "EXPLAIN ESTIMATE SELECT * FROM spans"},
		{"explain an explanation", 497, "EXPLAIN AST SELECT file('" + secret + "')"},
		{"not SQL", 62, "graph = 1 SELECT file('" + secret + "')"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			code, text := post(t, server, "acme-reader", "a", url.Values{"database": {"flyball"}}, test.query)
			require.Equal(t, fmt.Sprint(test.code), code, text)
		})
	}
	for name, value := range map[string]string{
		"log_comment": admin, "readonly": "0", "additional_table_filters": "{}", "use_query_cache": "1",
		"default_table_engine": "Memory", "user_files_path": "/",
	} {
		t.Run("setting "+name, func(t *testing.T) {
			t.Parallel()
			code, text := post(t, server, "acme-reader", "a", url.Values{"database": {"flyball"}, name: {value}}, "SELECT count() FROM spans")
			require.Contains(t, []string{"164", "115"}, code, text)
		})
	}
	t.Run("databases", func(t *testing.T) {
		t.Parallel()
		code, text := post(t, server, "acme-reader", "a", url.Values{"database": {"private"}}, "SELECT * FROM t")
		require.Equal(t, "497", code, text)
	})
	t.Run("an admin cannot set log_comment either", func(t *testing.T) {
		t.Parallel()
		code, text := post(t, server, chservetest.AdminUser, chservetest.AdminPassword, url.Values{"log_comment": {"x"}}, "SELECT 1")
		require.Equal(t, "164", code, text)
	})
	t.Cleanup(func() { require.NoFileExists(t, stolen) })
}

func testTenantsMayBoundTheirQueries(t *testing.T, server *chservetest.Server) {
	conn := open(t, target{server.URL, "acme-reader", "a"}.options("flyball"))
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_rows_to_read": 10}))
	requireCode(t, 158, conn.Exec(ctx, "SELECT sum(cost + 1) FROM spans"))
	require.Equal(t, "acme", one[string](t, conn, "SELECT any(tenant_id) FROM spans WHERE cost > {c:Int64}", clickhouse.Named("c", 5)))
}

// The filters bind whoever reads; what an admin starts works on every row, in the background too.
func testFiltersLeaveAdminsAlone(t *testing.T, server *chservetest.Server) {
	conn := open(t, embedded(server).options("flyball"))
	count := func(where string) uint64 { return one[uint64](t, conn, "SELECT count() FROM spans WHERE "+where) }
	execute(t, conn, "DELETE FROM spans WHERE tenant_id = 'acme' AND cost < 10")
	require.Equal(t, uint64(990), count("tenant_id = 'acme'"))
	execute(t, conn, "ALTER TABLE spans DELETE WHERE tenant_id = 'globex' SETTINGS mutations_sync = 0")
	require.Eventually(t, func() bool { return count("tenant_id = 'globex'") == 0 }, 30*time.Second, 20*time.Millisecond)
	execute(t, conn,
		"OPTIMIZE TABLE spans FINAL",
		"CREATE TABLE copy ENGINE = MergeTree ORDER BY cost AS SELECT * FROM spans",
		"INSERT INTO copy SELECT * FROM spans")
	require.Equal(t, 2*count("1"), one[uint64](t, conn, "SELECT count() FROM copy"))
}

// newMarkerOfAdmin is what an admin's connection could have in log_comment.
func newMarkerOfAdmin() string { return strings.Repeat("0", 32) + "*" }

// post sends a statement and returns the exception code, empty when there is none, and the answer.
func post(t *testing.T, server *chservetest.Server, user, password string, parameters url.Values, statement string) (code, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/?"+parameters.Encode(), strings.NewReader(statement))
	require.NoError(t, err)
	request.SetBasicAuth(user, password)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return answer.Header.Get("X-ClickHouse-Exception-Code"), string(body)
}
