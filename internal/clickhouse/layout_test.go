package clickhouse

import (
	"regexp"
	"strings"
	"testing"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"
)

// onCluster are all statements of a migration of an empty database, as they are and as a cluster has them.
func onCluster(t testing.TB) (single, cluster []string) {
	migrations, err := loadMigrations(migrationFiles)
	require.NoError(t, err)
	single = []string{"CREATE DATABASE IF NOT EXISTS flyball", migrationsTable}
	for _, m := range migrations {
		single = append(single, m.statements...)
	}
	cluster, err = layout{cluster: "prod"}.statements(single)
	require.NoError(t, err)
	return single, cluster
}

// Every statement gets ON CLUSTER and every table a replicated engine, and nothing else changes: the golden file has
// every line that does.
func TestClusterSQL(t *testing.T) {
	single, cluster := onCluster(t)
	var changed strings.Builder
	tables := 0
	for i, sql := range cluster {
		was, is := strings.Split(single[i], "\n"), strings.Split(sql, "\n")
		require.Len(t, is, len(was), sql)
		require.Contains(t, is[0], " ON CLUSTER 'prod'")
		require.Equal(t, 1, strings.Count(sql, "ON CLUSTER"), sql)
		require.NotContains(t, sql, "non_replicated")
		for j := range is {
			if is[j] != was[j] {
				changed.WriteString(is[j] + "\n")
			}
		}
		if strings.HasPrefix(sql, "CREATE TABLE") {
			tables++
			require.Regexp(t, `ENGINE = Replicated\w*MergeTree\('/clickhouse/tables/\{uuid\}/\{shard\}', '\{replica\}'(, \S+)?\)`, sql)
		} else {
			require.NotContains(t, sql, "ENGINE")
		}

		back := strings.NewReplacer(" ON CLUSTER 'prod'", "", " replicated_deduplication", " non_replicated_deduplication").Replace(sql)
		back = regexp.MustCompile(`ENGINE = Replicated(\w*)\('/clickhouse/tables/\{uuid\}/\{shard\}', '\{replica\}'(?:, ([^)]+))?\)`).ReplaceAllString(back, "ENGINE = $1($2)")
		require.Equal(t, single[i], strings.ReplaceAll(back, "MergeTree()", "MergeTree"), "and it can be taken back")
	}
	require.Greater(t, tables, 15)
	golden(t, "cluster", strings.TrimSpace(changed.String()), nil)
}

// A statement of a kind that was never thought of must not run on one server of several.
func TestClusterRefuses(t *testing.T) {
	for _, sql := range []string{"INSERT INTO spans SELECT * FROM old", "OPTIMIZE TABLE spans", "RENAME TABLE a TO b"} {
		_, err := layout{cluster: "prod"}.statement(sql)
		require.ErrorContains(t, err, "cannot be run on a cluster")
	}
}

// The storage policy is in the settings of the raw tables, and nowhere else.
func TestPolicySQL(t *testing.T) {
	single, _ := onCluster(t)
	tiered, err := layout{policy: "tiered"}.statements(single)
	require.NoError(t, err)
	var under []string
	for i, sql := range tiered {
		if sql == single[i] {
			continue
		}
		require.Equal(t, single[i]+", storage_policy = 'tiered'", sql)
		require.Regexp(t, `\nSETTINGS [^\n]+$`, sql)
		under = append(under, createTable.FindStringSubmatch(sql)[1])
	}
	require.Equal(t, rawTables, under)
}

// testClusterParses has the engine's parser read what a cluster would be sent. No cluster runs it here.
func testClusterParses(t *testing.T, s *Store) {
	_, cluster := onCluster(t)
	for _, sql := range cluster {
		var formatted string
		require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine({sql:String})", ch.Named("sql", sql)).Scan(&formatted), sql)
		require.Contains(t, formatted, "ON CLUSTER prod", "the parser took it for what it is")
	}
}

func testLayoutMissing(t *testing.T, s *Store) {
	for _, test := range []struct {
		layout
		want string
	}{
		{layout{policy: "tiered"}, "the server declares no storage policy tiered: declare it under <storage_configuration>"},
		{layout{policy: "default"}, "the storage policy default lacks the volumes warm, cold"},
		{layout{cluster: "prod"}, "the server knows no cluster prod: declare it under <remote_servers>"},
	} {
		other := s.outside()
		other.layout = test.layout
		require.ErrorContains(t, other.Migrate(t.Context()), test.want)
		_, err := other.PlanMigration(t.Context())
		require.ErrorContains(t, err, test.want)
	}
	_, err := Open(t.Context(), Options{URL: "http://127.0.0.1:1", Database: "flyball", Cluster: "a'b"})
	require.ErrorContains(t, err, "the cluster must be letters")
}
