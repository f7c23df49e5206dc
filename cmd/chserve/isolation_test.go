package main_test

import (
	"context"
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
			{Name: "acme-reader", Password: "a", Tenants: []string{"acme"}},
			{Name: "globex-reader", Password: "g", Tenants: []string{"globex"}},
			{Name: "odd-reader", Password: "o", Tenants: []string{"o'dd\\ *=ü"}},
			{Name: "both-reader", Password: "b", Tenants: []string{"acme", "o'dd\\ *=ü"}},
			{Name: "all-reader", Password: "all", AllTenants: true},
			{Name: "embargo-reader", Password: "e", AllTenants: true, Embargoed: true},
			{Name: "acme-embargo", Password: "ae", Tenants: []string{"acme"}, Embargoed: true},
			{Name: "busy-reader", Password: "busy", Tenants: []string{"acme"}},
			{Name: "nobody", Password: "n"},
		},
		Args: []string{
			"--tenant-tables", "flyball.spans,flyball.kpi_1m,flyball.recent,flyball.quality",
			"--embargo", "flyball.quality.model,flyball.quality.served", "--embargoed-models", "^(?s:next-.*)$",
		},
	})
	execute(t, open(t, embedded(server).options("default")), "CREATE DATABASE flyball", "CREATE DATABASE private")
	admin := open(t, embedded(server).options("flyball"))
	execute(t, admin,
		"CREATE TABLE spans (tenant_id LowCardinality(String), model String, cost Int64, PROJECTION by_model (SELECT tenant_id, model, sum(cost) GROUP BY tenant_id, model)) ENGINE = MergeTree ORDER BY (tenant_id, cost) SETTINGS lightweight_mutation_projection_mode = 'rebuild'",
		"CREATE TABLE kpi_1m (tenant_id String, cost SimpleAggregateFunction(sum, Int64)) ENGINE = AggregatingMergeTree ORDER BY tenant_id",
		"CREATE MATERIALIZED VIEW kpi_1m_from_spans TO kpi_1m AS SELECT tenant_id, sum(s.cost) AS cost FROM spans AS s GROUP BY tenant_id",
		"CREATE VIEW recent AS SELECT tenant_id, cost FROM spans WHERE cost > 0",
		"CREATE VIEW totals AS SELECT count() AS n FROM spans",
		"CREATE TABLE quality (tenant_id LowCardinality(String), model LowCardinality(String), served LowCardinality(String), score Float64, at DateTime) ENGINE = MergeTree PARTITION BY toYYYYMMDD(at) ORDER BY (tenant_id, model)",
		"INSERT INTO quality SELECT tenant, if(number % 2 = 0, 'next-1', 'now-1'), if(number = 9, 'next-1', 'now-1'), number / 10, toDateTime('2026-01-01 00:00:00') + 86400 * (tenant = 'globex') FROM numbers(10) ARRAY JOIN ['acme', 'globex'] AS tenant",
		"CREATE VIEW dearer AS SELECT * FROM spans WHERE cost > {least:Int64}",
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
			"learn nothing":           testTenantsLearnNothing,
			"respect the embargo":     testEmbargo,
			"keep their bounds":       testReadersKeepTheirBounds,
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
		{"both-reader", "b", 2000, 2},
		{"all-reader", "all", 4000, 4},
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
		err := conn.Exec(t.Context(), "SELECT * FROM "+table)
		requireCode(t, 497, err)
		require.ErrorContains(t, err, "is not shared with tenants, these are: flyball.spans, ", table)
	}
	// Where the name could be a column's, the row filters are what is left, and they show nothing.
	require.Zero(t, one[uint64](t, conn, "SELECT count() FROM spans WHERE model IN settings"))
	require.Zero(t, one[uint64](t, conn, "WITH settings AS (SELECT 'x' AS name WHERE 0) SELECT count() FROM spans WHERE model IN settings"))
}

// A statement that is allowed tells nothing about other tenants either: not by what it returns, nor by failing.
func testTenantsLearnNothing(t *testing.T, server *chservetest.Server) {
	ask := func(statement string) string {
		code, text := post(t, server, "acme-reader", "a", url.Values{"database": {"flyball"}}, statement)
		require.Empty(t, code, "%s: %s", statement, text)
		return text
	}
	for statement, want := range map[string]string{
		// A condition of the reader's is evaluated on its own rows only, or these would divide by zero.
		"SELECT count() FROM spans WHERE intDiv(1, toUInt8(tenant_id != 'globex')) = 1":                             "1000\n",
		"SELECT count() FROM spans PREWHERE intDiv(1, toUInt8(tenant_id != 'globex')) = 1":                          "1000\n",
		"SELECT sum(intDiv(1, toUInt8(tenant_id != 'globex'))) FROM spans":                                          "1000\n",
		"SELECT count() FROM spans WHERE toFloat64OrNull(tenant_id) IS NULL AND toUInt8(tenant_id = 'acme') = 1":    "1000\n",
		"SELECT count() FROM quality WHERE intDiv(1, toUInt8(toYYYYMMDD(at) != 20260102)) = 1":                      "4\n",
		"SELECT count() FROM quality WHERE intDiv(1, toUInt8(toDate(at) != '2026-01-02')) = 1":                      "4\n",
		"SELECT count() FROM quality WHERE at >= '2026-01-02 00:00:00'":                                             "0\n",
		"SELECT min(cost), max(cost), min(tenant_id), max(tenant_id), count() FROM spans":                           "0\t999\tacme\tacme\t1000\n",
		"SELECT min(at), max(at), count() FROM quality":                                                             "2026-01-01 00:00:00\t2026-01-01 00:00:00\t4\n",
		"SELECT tenant_id FROM spans UNION DISTINCT SELECT tenant_id FROM flyball.spans WHERE tenant_id = 'globex'": "acme\n",
		"SELECT count() FROM spans AS a RIGHT JOIN spans AS b USING cost WHERE b.tenant_id != 'acme'":               "0\n",
		"SELECT count() FROM spans WHERE tenant_id IN (SELECT tenant_id FROM recent WHERE tenant_id != 'acme')":     "0\n",
		"SELECT (SELECT count() FROM spans WHERE tenant_id = 'globex')":                                             "0\n",
		"SELECT DISTINCT tenant_id FROM kpi_1m FINAL":                                                               "acme\n",
		"SELECT tenant_id FROM spans ORDER BY tenant_id DESC LIMIT 1 BY tenant_id":                                  "acme\n",
		"SELECT tenant_id, count() FROM spans GROUP BY tenant_id WITH TOTALS":                                       "acme\t1000\n\n\t1000\n",
		"SELECT groupUniqArray(tenant_id) FROM spans":                                                               "['acme']\n",
		"SELECT any(tenant_id) FROM spans WHERE tenant_id LIKE 'g%' OR 1":                                           "acme\n",
	} {
		require.Equal(t, want, ask(statement), statement)
	}
	// A dictionary-encoded column does not carry the words of rows that were left out.
	require.NotContains(t, ask("SELECT tenant_id FROM spans FORMAT Native"), "globex")
	// Nor does an answer count what was read and left out.
	require.NotContains(t, ask("SELECT count() FROM spans WHERE cost > 5 FORMAT JSON"), "rows_read")
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/?database=flyball", strings.NewReader("# not streamed\nSELECT sum(cost) FROM spans"))
	require.NoError(t, err)
	request.SetBasicAuth("acme-reader", "a")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusOK, answer.StatusCode)
	require.Empty(t, answer.Header.Get("X-ClickHouse-Summary"))
}

// Rows of embargoed models, asked for or served, are for those alone who may see them; tenants stay apart as before.
func testEmbargo(t *testing.T, server *chservetest.Server) {
	for _, test := range []struct {
		user, password    string
		next, now, spends uint64
	}{
		{"acme-reader", "a", 0, 4, 1000},
		{"acme-embargo", "ae", 5, 5, 1000},
		{"all-reader", "all", 0, 8, 4000},
		{"embargo-reader", "e", 10, 10, 4000},
		{"nobody", "n", 0, 0, 0},
		{chservetest.AdminUser, chservetest.AdminPassword, 10, 10, 4000},
	} {
		conn := open(t, target{server.URL, test.user, test.password}.options("flyball"))
		require.Equal(t, test.next, one[uint64](t, conn, "SELECT count() FROM quality WHERE model = 'next-1'"), test.user)
		require.Equal(t, test.now, one[uint64](t, conn, "SELECT count() FROM quality WHERE model != 'next-1'"), test.user)
		require.Equal(t, test.next+test.now, one[uint64](t, conn, "SELECT count() FROM quality"), test.user)
		require.Equal(t, test.spends, one[uint64](t, conn, "SELECT count() FROM spans"), "%s: what is no quality is under no embargo", test.user)
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
		{"where other rows lie", 497, "SELECT min(_part_offset) FROM spans"},
		{"which parts there are", 497, "SELECT DISTINCT s._part FROM spans AS s"},
		{"which partitions there are", 497, "SELECT `_partition_id` FROM flyball.spans"},
		{"a table that is not shared", 497, "SELECT * FROM (SELECT * FROM flyball.settings)"},
		{"a table that is not shared in a join", 497, "SELECT * FROM spans, settings"},
		{"the view that fills a rollup", 497, "SELECT * FROM kpi_1m_from_spans"},
		{"a virtual column in an escape", 497, "SELECT `_p\\x61rt` FROM spans"},
		{"a virtual column in USING", 497, "SELECT count() FROM spans AS a JOIN spans AS b USING (_part_offset)"},
		{"a virtual column in a tuple", 497, "SELECT x.1 FROM (SELECT tuple(_part) AS x FROM spans)"},
		{"a parameterised view", 497, "SELECT * FROM dearer(least = 1)"},
		{"the identity of the connection", 497, "SELECT getSetting('log_comment')"},
		{"who am I", 497, "SELECT currentUser(), hostName()"},
		{"a table through a function", 497, "SELECT joinGet('flyball.settings', 'name', 'x')"},
		{"a table through IN", 497, "SELECT count() FROM spans WHERE model IN (SELECT name FROM settings)"},
		{"throw at others' rows", 497, "SELECT throwIf(tenant_id != 'acme') FROM spans"},
		{"wait", 497, "SELECT sleepEachRow(1) FROM spans"},
		{"S3", 497, "SELECT * FROM s3('http://127.0.0.1/x', 'CSV', 'x String')"},
		{"a cluster", 497, "SELECT * FROM cluster('default', flyball.spans)"},
		{"generated rows", 497, "SELECT * FROM generateRandom('x UInt8')"},
		{"filters of its own", 164, "SELECT * FROM spans SETTINGS additional_table_filters = {'flyball.spans': '1'}"},
		{"log_comment in a subquery", 497, "SELECT * FROM (SELECT * FROM spans SETTINGS log_comment = '" + admin + "')"},
		{"the words of a dictionary-encoded column", 497, "SELECT lowCardinalityKeys(tenant_id) FROM spans"},
		{"describe", 497, "DESCRIBE TABLE spans"},
		{"show a table's definition", 497, "SHOW CREATE TABLE spans"},
		{"show columns", 497, "SHOW COLUMNS FROM spans"},
		{"does it exist", 497, "EXISTS TABLE settings"},
		{"check a table", 497, "CHECK TABLE spans"},
		{"a plan with its indexes", 497, "EXPLAIN indexes = 1 SELECT * FROM spans"},
		{"become another", 497, "SET ROLE DEFAULT"},
		{"insert by a function", 497, "INSERT INTO FUNCTION url('http://127.0.0.1/', 'CSV') SELECT * FROM spans"},
		{"insert what it may read", 164, "INSERT INTO quality SELECT tenant_id, model, 1, now() FROM spans"},
		{"create a view", 164, "CREATE VIEW mine AS SELECT * FROM spans"},
		{"create a dictionary", 164, "CREATE DICTIONARY d (x String) PRIMARY KEY x SOURCE(CLICKHOUSE(TABLE 'spans')) LAYOUT(FLAT()) LIFETIME(0)"},
		{"let go of a filter", 164, "DROP ROW POLICY p ON flyball.spans"},
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
			require.Regexp(t, `^Code: \d+\. DB::Exception: .{20,} \([A-Z_]+\)`, text, "a reason")
			require.NotContains(t, text, "globex")
		})
	}
	for name, value := range map[string]string{
		"log_comment": admin, "readonly": "0", "additional_table_filters": "{}", "use_query_cache": "1",
		"default_table_engine": "Memory", "user_files_path": "/", "max_rows_to_read": "1", "role": "admin", "session_id": "s",
		"use_partition_pruning": "1", "quota_key": "x",
	} {
		t.Run("setting "+name, func(t *testing.T) {
			t.Parallel()
			code, text := post(t, server, "acme-reader", "a", url.Values{"database": {"flyball"}, name: {value}}, "SELECT count() FROM spans")
			require.Contains(t, []string{"164", "115"}, code, text)
		})
	}
	for name, value := range map[string]string{"table": "settings", "column": "_part_offset"} {
		t.Run("a "+name+" by a parameter", func(t *testing.T) {
			t.Parallel()
			names := url.Values{"database": {"flyball"}, "param_table": {"spans"}, "param_column": {"model"}}
			names.Set("param_"+name, value)
			code, text := post(t, server, "acme-reader", "a", names, "SELECT {column:Identifier} FROM {table:Identifier}")
			require.Equal(t, "497", code, text)
			require.Contains(t, text, value)
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
	ctx := clickhouse.Context(t.Context(), clickhouse.WithSettings(clickhouse.Settings{"max_result_rows": 10}))
	requireCode(t, 396, conn.Exec(ctx, "SELECT cost FROM spans"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour) // the client asks for that, the reader's limit stands
	defer cancel()
	require.NoError(t, conn.Exec(ctx, "SELECT 1"))
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
