package main_test

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
)

// The contract is what the product asks of ClickHouse through clickhouse-go. It is tested on chserve and,
// unchanged, on the server that CLICKHOUSE_URL names (http://user:password@host:port).

// serverVariable names the environment variable with the address of a ClickHouse server.
const serverVariable = "CLICKHOUSE_URL"

// target is the server under test.
type target struct{ url, user, password string }

func newTarget(t *testing.T) target {
	t.Helper()
	if address := os.Getenv(serverVariable); address != "" {
		u, err := url.Parse(address)
		require.NoError(t, err)
		password, _ := u.User.Password()
		return target{"http://" + u.Host, cmp.Or(u.User.Username(), "default"), password}
	}
	address, user, password := chservetest.Start(t)
	return target{address, user, password}
}

// options are the client's options as the product sets them.
func (s target) options(database string) *clickhouse.Options {
	return &clickhouse.Options{
		Protocol: clickhouse.HTTP,
		Addr:     []string{strings.TrimPrefix(s.url, "http://")},
		Auth:     clickhouse.Auth{Database: database, Username: s.user, Password: s.password},
	}
}

// open connects; the connection is closed at the end of the test.
func open(t *testing.T, o *clickhouse.Options) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(o)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	require.NoError(t, conn.Ping(t.Context()))
	return conn
}

// database makes a database of the test's own and connects to it.
func (s target) database(t *testing.T, change ...func(*clickhouse.Options)) driver.Conn {
	t.Helper()
	name := "contract_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	admin := open(t, s.options("default"))
	require.NoError(t, admin.Exec(t.Context(), "CREATE DATABASE "+name))
	t.Cleanup(func() { _ = admin.Exec(context.Background(), "DROP DATABASE "+name) })
	o := s.options(name)
	for _, f := range change {
		f(o)
	}
	return open(t, o)
}

func execute(t *testing.T, conn driver.Conn, statements ...string) {
	t.Helper()
	for _, statement := range statements {
		require.NoError(t, conn.Exec(t.Context(), statement), statement)
	}
}

// one reads a single value.
func one[T any](t *testing.T, conn driver.Conn, query string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(t.Context(), query, args...).Scan(&v), query)
	return v
}

// requireCode requires that err carries ClickHouse's error code.
func requireCode(t *testing.T, code int, err error) {
	t.Helper()
	var exception *clickhouse.Exception
	require.ErrorAs(t, err, &exception)
	require.Equal(t, int32(code), exception.Code, exception.Message)
}

func TestContract(t *testing.T) {
	server := newTarget(t)
	for name, test := range map[string]func(*testing.T, target){
		"types":                testTypes,
		"parameters":           testParameters,
		"batch without lookup": testBatch,
		"compression":          testCompression,
		"aggregate views":      testAggregateViews,
		"deduplication":        testDeduplication,
		"cancelled query":      testCancelledQuery,
		"abandoned rows":       testAbandonedRows,
		"abandoned insert":     testAbandonedInsert,
		"exceptions":           testExceptions,
		"late exception":       testLateException,
		"large result":         testLargeResult,
		"empty result":         testEmptyResult,
		"settings":             testSettings,
		"several statements":   testSeveralStatements,
		"schema changes":       testSchemaChanges,
		"deletes":              testDeletes,
		"plain HTTP":           testPlainHTTP,
		"parallel clients":     testParallelClients,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, server)
		})
	}
}

func testTypes(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, `CREATE TABLE spans (
		at DateTime64(3, 'UTC'), second DateTime('UTC'), day Date, tenant LowCardinality(String), name String,
		cohort Enum8('production' = 1, 'experiment' = 2), tokens UInt64, small UInt8, pico Int64, total Int128,
		codes Array(Int16), tags Map(LowCardinality(String), String), score Float64, complete Bool,
		maybe Nullable(Float64), id UUID, hash FixedString(4)
	) ENGINE = MergeTree ORDER BY (tenant, at)`)

	at := time.Date(2026, 7, 1, 12, 30, 15, 123e6, time.UTC)
	total, ok := new(big.Int).SetString("-170141183460469231731687303715884105727", 10)
	require.True(t, ok)
	id, half := uuid.New(), 0.5
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO spans")
	require.NoError(t, err)
	require.NoError(t, batch.Append(at, at.Truncate(time.Second), at, "org_42", "Grüße\n\x00'\\", "experiment",
		uint64(1<<63), uint8(255), int64(-1<<62), total, []int16{-32768, 0, 32767}, map[string]string{"team": "search", "": "x"},
		0.1, true, &half, id, "abcd"))
	require.NoError(t, batch.Append(at.Add(time.Millisecond), at.Truncate(time.Second), at, "org_42", "", "production",
		uint64(0), uint8(0), int64(0), big.NewInt(7), []int16{}, map[string]string{}, -1.5, false, nil, id, "efgh"))
	require.NoError(t, batch.Send())

	rows, err := conn.Query(t.Context(), "SELECT * FROM spans ORDER BY at")
	require.NoError(t, err)
	defer rows.Close()
	type row struct {
		at, second, day            time.Time
		tenant, name, cohort, hash string
		tokens                     uint64
		small                      uint8
		pico                       int64
		total                      big.Int
		codes                      []int16
		tags                       map[string]string
		score                      float64
		complete                   bool
		maybe                      *float64
		id                         uuid.UUID
	}
	var got []*row
	for rows.Next() {
		r := new(row)
		got = append(got, r)
		require.NoError(t, rows.Scan(&r.at, &r.second, &r.day, &r.tenant, &r.name, &r.cohort, &r.tokens, &r.small, &r.pico,
			&r.total, &r.codes, &r.tags, &r.score, &r.complete, &r.maybe, &r.id, &r.hash))
	}
	require.NoError(t, rows.Err())
	require.Len(t, got, 2)
	r := got[0]
	require.True(t, at.Equal(r.at), r.at)
	require.True(t, at.Truncate(time.Second).Equal(r.second), r.second)
	require.Equal(t, "2026-07-01", r.day.Format(time.DateOnly))
	require.Equal(t, []string{"org_42", "Grüße\n\x00'\\", "experiment", "abcd"}, []string{r.tenant, r.name, r.cohort, r.hash})
	require.Equal(t, uint64(1<<63), r.tokens)
	require.Equal(t, uint8(255), r.small)
	require.Equal(t, int64(-1<<62), r.pico)
	require.Zero(t, total.Cmp(&r.total), r.total.String())
	require.Equal(t, []int16{-32768, 0, 32767}, r.codes)
	require.Equal(t, map[string]string{"team": "search", "": "x"}, r.tags)
	require.InDelta(t, 0.1, r.score, 0)
	require.True(t, r.complete)
	require.InDelta(t, half, *r.maybe, 0)
	require.Equal(t, id, r.id)
	require.Nil(t, got[1].maybe)
	require.Empty(t, got[1].codes)
	require.Equal(t, "7", got[1].total.String())
}

func testParameters(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, "CREATE TABLE t (name String, at DateTime64(3, 'UTC'), n Int64) ENGINE = MergeTree ORDER BY n")
	at := time.Date(2026, 7, 1, 0, 0, 0, 5e6, time.UTC)
	tricky := "it's {a:b} \\ ? $1 \"ü\"\n\t"
	batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t")
	require.NoError(t, err)
	require.NoError(t, batch.Append(tricky, at, int64(1)))
	require.NoError(t, batch.Append("other", at.Add(time.Second), int64(2)))
	require.NoError(t, batch.Send())

	require.Equal(t, int64(1), one[int64](t, conn, "SELECT n FROM t WHERE name = {name:String}", clickhouse.Named("name", tricky)))
	require.Equal(t, int64(2), one[int64](t, conn, "SELECT n FROM t WHERE at > {at:DateTime64(3, 'UTC')}", clickhouse.Named("at", at.Format("2006-01-02 15:04:05.000"))))
	require.Equal(t, uint64(2), one[uint64](t, conn, "SELECT count() FROM t WHERE n IN {ids:Array(Int64)}", clickhouse.Named("ids", "[1,2,3]")))
	require.Equal(t, int64(1), one[int64](t, conn, "SELECT n FROM t WHERE name = $1 AND n = $2", tricky, 1))
	require.Equal(t, int64(1), one[int64](t, conn, "SELECT n FROM t WHERE name = ? AND n = ?", tricky, 1))
	require.Equal(t, int64(2), one[int64](t, conn, "SELECT n FROM t WHERE name = @name", clickhouse.Named("name", "other")))

	ctx := clickhouse.Context(t.Context(), clickhouse.WithParameters(clickhouse.Parameters{"table": "t", "n": "2"}))
	var name string
	require.NoError(t, conn.QueryRow(ctx, "SELECT name FROM {table:Identifier} WHERE n = {n:Int64}").Scan(&name))
	require.Equal(t, "other", name)
	execute(t, conn, "CREATE VIEW named AS SELECT * FROM t WHERE n = {n:Int64}")
	require.Equal(t, "other", one[string](t, conn, "SELECT name FROM named(n = 2)"))
	require.NoError(t, conn.Exec(ctx, "INSERT INTO t SELECT 'copy', at, n + 10 FROM t WHERE n = {n:Int64}"))
	require.Equal(t, int64(12), one[int64](t, conn, "SELECT n FROM t WHERE name = 'copy'"))
}

func testBatch(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, "CREATE TABLE t (a UInt64, b String, c LowCardinality(String) DEFAULT 'none') ENGINE = MergeTree ORDER BY a")
	ctx := clickhouse.Context(t.Context(), clickhouse.WithColumnNamesAndTypes([]clickhouse.ColumnNameAndType{
		{Name: "b", Type: "String"}, {Name: "a", Type: "UInt64"},
	}))
	const rows = 100_000
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO t (b, a)")
	require.NoError(t, err)
	for i := range uint64(rows) {
		require.NoError(t, batch.Append(fmt.Sprint("row ", i), i))
	}
	require.NoError(t, batch.Send())
	var count, sum uint64
	var last, filled string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT count(), sum(a), argMax(b, a), any(c) FROM t").Scan(&count, &sum, &last, &filled))
	require.Equal(t, uint64(rows), count)
	require.Equal(t, uint64(rows*(rows-1)/2), sum)
	require.Equal(t, "row 99999", last)
	require.Equal(t, "none", filled)

	empty, err := conn.PrepareBatch(ctx, "INSERT INTO t (b, a)")
	require.NoError(t, err)
	require.NoError(t, empty.Send(), "an empty batch does nothing")

	wrong := clickhouse.Context(t.Context(), clickhouse.WithColumnNamesAndTypes([]clickhouse.ColumnNameAndType{{Name: "nope", Type: "String"}}))
	bad, err := conn.PrepareBatch(wrong, "INSERT INTO t (nope)")
	require.NoError(t, err)
	require.NoError(t, bad.Append("x"))
	requireCode(t, 16, bad.Send())
}

func testCompression(t *testing.T, server target) {
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP} {
		t.Run(method.String(), func(t *testing.T) {
			conn := server.database(t, func(o *clickhouse.Options) {
				o.Compression = &clickhouse.Compression{Method: method, Level: 3}
			})
			execute(t, conn, "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
			const rows = 200_000
			batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t")
			require.NoError(t, err)
			for i := range uint64(rows) {
				require.NoError(t, batch.Append(i, "the same text in each of the rows"))
			}
			require.NoError(t, batch.Send())
			found, err := conn.Query(t.Context(), "SELECT a, b FROM t")
			require.NoError(t, err)
			defer found.Close()
			var n, sum uint64
			for found.Next() {
				var a uint64
				var b string
				require.NoError(t, found.Scan(&a, &b))
				n, sum = n+1, sum+a
			}
			require.NoError(t, found.Err())
			require.Equal(t, uint64(rows), n)
			require.Equal(t, uint64(rows*(rows-1)/2), sum)
			requireCode(t, 60, conn.QueryRow(t.Context(), "SELECT 1 FROM missing").Err())
		})
	}
}

func testAggregateViews(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn,
		`CREATE TABLE spans (at DateTime64(3, 'UTC'), key UInt64, cost Int64, latency UInt32) ENGINE = MergeTree ORDER BY at`,
		`CREATE TABLE minutes (
			minute DateTime('UTC'), key UInt64,
			requests SimpleAggregateFunction(sum, UInt64), cost SimpleAggregateFunction(sum, Int128),
			codes SimpleAggregateFunction(groupArrayArray(4096), Array(Int16)),
			latency AggregateFunction(quantilesTDigest(0.5, 0.95), UInt32)
		) ENGINE = AggregatingMergeTree ORDER BY (minute, key)`,
		`CREATE MATERIALIZED VIEW minutes_from_spans TO minutes AS
			SELECT toStartOfMinute(s.at) AS minute, s.key AS key, count() AS requests, sum(toInt128(s.cost)) AS cost,
				groupArray(4096)(toInt16(round(log2(s.cost) * 100))) AS codes, quantilesTDigestState(0.5, 0.95)(s.latency) AS latency
			FROM spans AS s GROUP BY minute, key`)
	start := time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)
	for part := range 3 {
		batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO spans")
		require.NoError(t, err)
		for i := range 100 {
			require.NoError(t, batch.Append(start.Add(time.Duration(i)*100*time.Millisecond), uint64(i%2), int64(1)<<62, uint32(part*100+i+1)))
		}
		require.NoError(t, batch.Send())
	}
	var requests, length uint64
	var cost big.Int
	var median int16
	var latency []float32
	require.NoError(t, conn.QueryRow(t.Context(), `SELECT sum(requests), sum(cost), length(groupArrayArray(codes)),
		toInt16(quantileExactLowArray(0.5)(codes)), quantilesTDigestMerge(0.5, 0.95)(latency)
		FROM minutes WHERE key = 1 GROUP BY key`).Scan(&requests, &cost, &length, &median, &latency))
	require.Equal(t, uint64(150), requests)
	require.Equal(t, new(big.Int).Mul(big.NewInt(150), big.NewInt(1<<62)).String(), cost.String())
	require.Equal(t, uint64(150), length)
	require.Equal(t, int16(6200), median)
	require.InDelta(t, 150, latency[0], 5)
	require.InDelta(t, 285, latency[1], 5)
	execute(t, conn, "OPTIMIZE TABLE minutes FINAL")
	require.Equal(t, uint64(2), one[uint64](t, conn, "SELECT count() FROM minutes"))
}

// Each batch has a token; sent again with it, the batch changes neither the table nor what views made of it,
// and another batch counts even where a view makes the same rows of it. This needs a deduplication window on
// the table and on every view's target, and deduplicate_blocks_in_dependent_materialized_views, which older
// servers have off.
func testDeduplication(t *testing.T, server target) {
	conn := server.database(t)
	createCounted(t, conn)
	send := func(token string, ids ...uint64) {
		require.NoError(t, insertCounted(t.Context(), conn, token, ids))
	}
	send("a", 1, 2, 3)
	send("a", 1, 2, 3)
	send("b", 4, 5, 6) // the view makes the same row of it as of the first
	send("b", 4, 5, 6)
	send("a", 1, 2, 3)
	require.Equal(t, uint64(6), one[uint64](t, conn, "SELECT count() FROM spans"))
	require.Equal(t, uint64(6), one[uint64](t, conn, "SELECT sum(requests) FROM minutes"))
	require.Equal(t, uint64(6), one[uint64](t, conn, "SELECT sum(requests) FROM hours"))
}

// createCounted makes a table of ids, a rollup of it and a rollup of the rollup, all deduplicated. Each batch
// falls into several partitions, which the engine commits one after another.
func createCounted(t *testing.T, conn driver.Conn) {
	t.Helper()
	const (
		window = " SETTINGS non_replicated_deduplication_window = 1000"
		rollup = " (slot UInt8, requests SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree PARTITION BY slot ORDER BY slot" + window
	)
	execute(t, conn,
		"CREATE TABLE spans (id UInt64, batch String) ENGINE = MergeTree PARTITION BY id % 3 ORDER BY id"+window,
		"CREATE TABLE minutes"+rollup,
		"CREATE TABLE hours"+rollup,
		"CREATE MATERIALIZED VIEW minutes_from_spans TO minutes AS SELECT toUInt8(id % 3) AS slot, count() AS requests FROM spans GROUP BY slot",
		"CREATE MATERIALIZED VIEW hours_from_minutes TO hours AS SELECT m.slot AS slot, sum(m.requests) AS requests FROM minutes AS m GROUP BY slot")
}

func insertCounted(ctx context.Context, conn driver.Conn, token string, ids []uint64) error {
	ctx = clickhouse.Context(ctx,
		clickhouse.WithSettings(clickhouse.Settings{
			"insert_deduplication_token":                         token,
			"deduplicate_blocks_in_dependent_materialized_views": 1,
		}),
		clickhouse.WithColumnNamesAndTypes([]clickhouse.ColumnNameAndType{{Name: "id", Type: "UInt64"}, {Name: "batch", Type: "String"}}))
	batch, err := conn.PrepareBatch(ctx, "INSERT INTO spans (id, batch)")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := batch.Append(id, token); err != nil {
			return err
		}
	}
	return batch.Send()
}

// running counts the statements that contain the mark, other than the question itself.
func running(t *testing.T, conn driver.Conn, mark string) uint64 {
	t.Helper()
	return one[uint64](t, conn, "SELECT count() FROM system.processes WHERE position(query, {mark:String}) > 0 AND position(query, 'system.processes') = 0", clickhouse.Named("mark", mark))
}

func testCancelledQuery(t *testing.T, server target) {
	conn := server.database(t)
	mark := "mark-" + uuid.NewString()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		failed <- conn.QueryRow(ctx, "SELECT sum(sipHash64(number)), '"+mark+"' FROM numbers(1000000000000)").Err()
	}()
	require.Eventually(t, func() bool { return running(t, conn, mark) == 1 }, 30*time.Second, 20*time.Millisecond)
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Eventually(t, func() bool { return running(t, conn, mark) == 0 }, 30*time.Second, 20*time.Millisecond)
}

// A client that goes away in the middle of a result stops the query too.
func testAbandonedRows(t *testing.T, server target) {
	conn := server.database(t)
	mark := "mark-" + uuid.NewString()
	ctx, cancel := context.WithCancel(t.Context())
	rows, err := conn.Query(ctx, "SELECT number, '"+mark+"' FROM numbers(1000000000000)")
	require.NoError(t, err)
	require.True(t, rows.Next())
	require.Equal(t, uint64(1), running(t, conn, mark))
	cancel()
	for rows.Next() {
	}
	require.Error(t, rows.Err())
	_ = rows.Close()
	require.Eventually(t, func() bool { return running(t, conn, mark) == 0 }, 30*time.Second, 20*time.Millisecond)
}

// An insert whose client goes away in the middle leaves no row.
func testAbandonedInsert(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, "CREATE TABLE t (n UInt64) ENGINE = MergeTree ORDER BY n")
	table := one[string](t, conn, "SELECT currentDatabase()") + ".t"
	body, rows := io.Pipe()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		server.url+"/?"+url.Values{"query": {"INSERT INTO " + table + " FORMAT TSV"}}.Encode(), body)
	require.NoError(t, err)
	request.SetBasicAuth(server.user, server.password)
	go func() {
		_, _ = io.WriteString(rows, strings.Repeat("1\n", 100_000))
		_ = rows.CloseWithError(io.ErrUnexpectedEOF)
	}()
	answer, err := http.DefaultClient.Do(request)
	if err == nil {
		_ = answer.Body.Close()
	}
	require.Error(t, err)
	require.Eventually(t, func() bool { return running(t, conn, table) == 0 }, 30*time.Second, 20*time.Millisecond)
	require.Equal(t, uint64(0), one[uint64](t, conn, "SELECT count() FROM t"))
}

func testExceptions(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, "CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n")
	for _, test := range []struct {
		code  int
		query string
	}{
		{60, "SELECT 1 FROM missing"},
		{47, "SELECT missing FROM t"},
		{62, "SELEC 1"},
		{46, "SELECT missing(1)"},
		{57, "CREATE TABLE t (n UInt8) ENGINE = MergeTree ORDER BY n"},
		{81, "SELECT 1 FROM missing.t"},
		{395, "SELECT throwIf(1)"},
		{159, "SELECT sum(sipHash64(number)) FROM numbers(1000000000000) SETTINGS max_execution_time = 0.1"},
		{158, "SELECT count() FROM numbers(100) SETTINGS max_rows_to_read = 10"},
		{241, "SELECT groupArray(number) FROM numbers(100000000) SETTINGS max_memory_usage = 1000000"},
		{164, "INSERT INTO t SELECT 1 SETTINGS readonly = 1"},
	} {
		t.Run(fmt.Sprint(test.code), func(t *testing.T) { requireCode(t, test.code, conn.Exec(t.Context(), test.query)) })
	}
	var missing uint8
	require.ErrorContains(t, conn.QueryRow(t.Context(), "SELECT n FROM t").Scan(&missing), "no rows")

	o := server.options("missing")
	strange, err := clickhouse.Open(o)
	require.NoError(t, err)
	defer strange.Close()
	requireCode(t, 81, strange.Exec(t.Context(), "CREATE TABLE x (n UInt8) ENGINE = Memory"))

	o = server.options("default")
	o.Auth.Password += "wrong"
	stranger, err := clickhouse.Open(o)
	require.NoError(t, err)
	defer stranger.Close()
	requireCode(t, 516, stranger.Ping(t.Context()))
}

// A query that fails after its first rows went out reports the failure with its code.
func testLateException(t *testing.T, server target) {
	for _, compression := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4} {
		t.Run(compression.String(), func(t *testing.T) {
			conn := server.database(t, func(o *clickhouse.Options) {
				o.Compression = &clickhouse.Compression{Method: compression}
			})
			rows, err := conn.Query(t.Context(), "SELECT number, throwIf(number = 3000000, 'too far') FROM numbers(5000000) SETTINGS max_block_size = 10000, max_threads = 1")
			require.NoError(t, err)
			defer rows.Close()
			n := 0
			for rows.Next() {
				n++
			}
			require.Positive(t, n)
			require.LessOrEqual(t, n, 3_000_000)
			requireCode(t, 395, rows.Err())
			require.ErrorContains(t, rows.Err(), "too far")
		})
	}
}

func testLargeResult(t *testing.T, server target) {
	conn := server.database(t)
	const count = 3_000_000
	rows, err := conn.Query(t.Context(), "SELECT number, toString(number) FROM numbers({n:UInt64})", clickhouse.Named("n", count))
	require.NoError(t, err)
	defer rows.Close()
	var n, sum, digits uint64
	for rows.Next() {
		var number uint64
		var text string
		require.NoError(t, rows.Scan(&number, &text))
		n, sum, digits = n+1, sum+number, digits+uint64(len(text))
	}
	require.NoError(t, rows.Err())
	require.Equal(t, uint64(count), n)
	require.Equal(t, uint64(count)*(count-1)/2, sum)
	require.Equal(t, uint64(10+90*2+900*3+9000*4+90000*5+900000*6+(count-1000000)*7), digits)
}

func testEmptyResult(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn, "CREATE TABLE t (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
	rows, err := conn.Query(t.Context(), "SELECT a, b FROM t WHERE a > 5")
	require.NoError(t, err)
	defer rows.Close()
	require.False(t, rows.Next())
	require.NoError(t, rows.Err())
	var all []struct {
		A uint64 `ch:"a"`
	}
	require.NoError(t, conn.Select(t.Context(), &all, "SELECT a FROM t"))
	require.Empty(t, all)
}

func testSettings(t *testing.T, server target) {
	conn := server.database(t)
	with := func(settings clickhouse.Settings) context.Context {
		return clickhouse.Context(t.Context(), clickhouse.WithSettings(settings))
	}
	var threads string
	const question = "SELECT value FROM system.settings WHERE name = 'max_threads'"
	require.NoError(t, conn.QueryRow(with(clickhouse.Settings{"max_threads": 3}), question).Scan(&threads))
	require.Equal(t, "3", threads)
	require.NoError(t, conn.QueryRow(t.Context(), question).Scan(&threads))
	require.NotEqual(t, "3", threads, "a setting lasts for one query")
	requireCode(t, 115, conn.Exec(with(clickhouse.Settings{"no_such_setting": 1}), "SELECT 1"))
	var exception *clickhouse.Exception
	require.ErrorAs(t, conn.Exec(with(clickhouse.Settings{"max_threads": "many"}), "SELECT 1"), &exception)
	require.Contains(t, []int32{6, 27, 72}, exception.Code, exception.Message) // one of the codes for unparsable values
	requireCode(t, 159, conn.Exec(with(clickhouse.Settings{"max_execution_time": 0.1}), "SELECT sum(sipHash64(number)) FROM numbers(1000000000000)"))
	require.Equal(t, "UTC", one[string](t, conn, "SELECT timezone() SETTINGS session_timezone = 'UTC'"))
}

func testSeveralStatements(t *testing.T, server target) {
	conn := server.database(t)
	requireCode(t, 62, conn.Exec(t.Context(), "CREATE TABLE a (n UInt8) ENGINE = Memory; CREATE TABLE b (n UInt8) ENGINE = Memory"))
	require.Equal(t, uint64(0), one[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = currentDatabase()"))
	execute(t, conn, "CREATE TABLE a (n UInt8) ENGINE = Memory;", "-- a comment\nINSERT INTO a VALUES (1), (2)")
	require.Equal(t, uint64(2), one[uint64](t, conn, "/* ; */ SELECT count() FROM a -- ;"))
}

func testSchemaChanges(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn,
		`CREATE TABLE t (day Date, key LowCardinality(String) CODEC(ZSTD(1)), n Int64 CODEC(T64, ZSTD(1)), INDEX n_index n TYPE minmax)
			ENGINE = MergeTree PARTITION BY toYYYYMM(day) ORDER BY (key, day) TTL day + INTERVAL 20 YEAR`,
		"ALTER TABLE t ADD COLUMN extra String DEFAULT 'x'",
		"ALTER TABLE t MODIFY TTL day + INTERVAL 10 YEAR",
		"ALTER TABLE t ADD PROJECTION by_day (SELECT day, sum(n) GROUP BY day)",
		"INSERT INTO t (day, key, n) VALUES ('2026-07-01', 'a', 1), ('2026-08-01', 'b', 2)",
		"ALTER TABLE t DROP PARTITION 202608",
		"CREATE TABLE latest (key String, n Int64, version UInt64) ENGINE = ReplacingMergeTree(version) ORDER BY key",
		"INSERT INTO latest VALUES ('a', 1, 1)", "INSERT INTO latest VALUES ('a', 2, 2)",
		"CREATE OR REPLACE VIEW v AS SELECT key, sum(n) AS n FROM t GROUP BY key",
		"RENAME TABLE v TO w")
	require.Equal(t, int64(1), one[int64](t, conn, "SELECT sum(n) FROM w"))
	require.Equal(t, int64(2), one[int64](t, conn, "SELECT n FROM latest FINAL"))
	require.Contains(t, one[string](t, conn, "SHOW CREATE TABLE t"), "`extra` String DEFAULT 'x'")
	rows, err := conn.Query(t.Context(), "DESCRIBE TABLE t")
	require.NoError(t, err)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name, rest string
		require.NoError(t, rows.Scan(&name, &rest, &rest, &rest, &rest, &rest, &rest))
		names = append(names, name)
	}
	require.Equal(t, []string{"day", "key", "n", "extra"}, names)
	execute(t, conn, "TRUNCATE TABLE t", "DROP TABLE w")
}

func testDeletes(t *testing.T, server target) {
	conn := server.database(t)
	execute(t, conn,
		"CREATE TABLE t (n UInt64, s String) ENGINE = MergeTree ORDER BY n",
		"INSERT INTO t SELECT number, 'old' FROM numbers(100)",
		"DELETE FROM t WHERE n < 10",
		"ALTER TABLE t DELETE WHERE n >= 90 SETTINGS mutations_sync = 1",
		"ALTER TABLE t UPDATE s = 'new' WHERE n = 50 SETTINGS mutations_sync = 1")
	require.Equal(t, uint64(80), one[uint64](t, conn, "SELECT count() FROM t"))
	require.Equal(t, uint64(50), one[uint64](t, conn, "SELECT n FROM t WHERE s = 'new'"))
}

// People and dashboards use plain HTTP.
func testPlainHTTP(t *testing.T, server target) {
	ask := func(change func(*http.Request), parameters url.Values, body string) (*http.Response, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.url+"/?"+parameters.Encode(), strings.NewReader(body))
		require.NoError(t, err)
		request.SetBasicAuth(server.user, server.password)
		if change != nil {
			change(request)
		}
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		return answer, string(text)
	}
	_, text := ask(nil, nil, "SELECT 1 AS a, 'x' AS b FORMAT JSONEachRow")
	require.JSONEq(t, `{"a":1,"b":"x"}`, text)
	_, text = ask(nil, url.Values{"query": {"SELECT {a:String}"}, "param_a": {"it's"}}, "")
	require.Equal(t, "it\\'s\n", text)
	_, text = ask(nil, url.Values{"default_format": {"CSVWithNames"}}, "SELECT 1 AS a")
	require.Equal(t, "\"a\"\n1\n", text)
	answer, text := ask(nil, url.Values{"query_id": {"my-query"}}, "SELECT 1 FROM missing")
	require.Equal(t, http.StatusNotFound, answer.StatusCode)
	require.Equal(t, "60", answer.Header.Get("X-ClickHouse-Exception-Code"))
	require.Equal(t, "my-query", answer.Header.Get("X-ClickHouse-Query-Id"))
	require.Contains(t, text, "Code: 60. DB::Exception")
	_, text = ask(func(r *http.Request) {
		r.Header.Del("Authorization")
		r.Header.Set("X-ClickHouse-User", server.user)
		r.Header.Set("X-ClickHouse-Key", server.password)
	}, nil, "SELECT 2")
	require.Equal(t, "2\n", text)
	_, text = ask(func(r *http.Request) { r.Header.Del("Authorization") }, url.Values{"user": {server.user}, "password": {server.password}}, "SELECT 3")
	require.Equal(t, "3\n", text)
	_, text = ask(func(r *http.Request) { r.URL.Path = "/ping"; r.Header.Del("Authorization") }, nil, "")
	require.Equal(t, "Ok.\n", text)

	table := "default.plain_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	_, text = ask(nil, nil, "CREATE TABLE "+table+" (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
	require.Empty(t, text)
	defer ask(nil, nil, "DROP TABLE "+table)
	answer, text = ask(nil, url.Values{"query": {"INSERT INTO " + table + " FORMAT JSONEachRow"}}, `{"a":1,"b":"x"} {"a":2,"b":"y"}`)
	require.Empty(t, text)
	require.Contains(t, answer.Header.Get("X-ClickHouse-Summary"), `"written_rows":"2"`)
	_, text = ask(nil, nil, "INSERT INTO "+table+" FORMAT CSV\n3,z\n")
	require.Empty(t, text)
	_, text = ask(nil, url.Values{"query": {"INSERT INTO " + table + " VALUES"}}, "(4,'w')")
	require.Empty(t, text)
	_, text = ask(nil, nil, "SELECT groupArray(b) FROM (SELECT b FROM "+table+" ORDER BY a)")
	require.Equal(t, "['x','y','z','w']\n", text)
}

func testParallelClients(t *testing.T, server target) {
	conn := server.database(t, func(o *clickhouse.Options) { o.MaxOpenConns = 40; o.MaxIdleConns = 40 })
	execute(t, conn, "CREATE TABLE t (client UInt64, n UInt64) ENGINE = MergeTree ORDER BY (client, n)")
	const clients, batches = 20, 5
	var group sync.WaitGroup
	errs := make(chan error, clients)
	for client := range uint64(clients) {
		group.Go(func() {
			for n := range uint64(batches) {
				batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO t")
				if err == nil {
					err = batch.Append(client, n)
				}
				if err == nil {
					err = batch.Send()
				}
				var count uint64
				if err == nil {
					err = conn.QueryRow(t.Context(), "SELECT count() FROM t WHERE client = {c:UInt64}", clickhouse.Named("c", client)).Scan(&count)
				}
				if err == nil && count != n+1 {
					err = fmt.Errorf("client %d sees %d rows after %d inserts", client, count, n+1)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}
