package clickhouse

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/usage"
)

// tieredEngine starts an engine that declares policies, or starts one again on its data.
func tieredEngine(t *testing.T, disks, data string) *chservetest.Server {
	config := filepath.Join(t.TempDir(), "engine.xml")
	volume := func(name, disk string) string {
		return fmt.Sprintf("<%s><disk>%s</disk></%[1]s>", name, disk)
	}
	var declared, tiers strings.Builder
	for _, name := range []string{hotVolume, warmVolume, coldVolume} {
		fmt.Fprintf(&declared, "<%s><path>%s/</path></%[1]s>", name, filepath.Join(disks, name))
		if name != hotVolume {
			tiers.WriteString(volume(name, name))
		}
	}
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `<clickhouse><storage_configuration><disks>%[1]s</disks><policies>
	<tiered><volumes>%[2]s%[3]s</volumes></tiered>
	<succession><volumes>%[4]s%[3]s</volumes></succession>
	<afterthought><volumes>%[2]s%[3]s%[4]s</volumes></afterthought>
	<backwards><volumes>%[3]s%[2]s</volumes></backwards>
	<halves><volumes>%[2]s</volumes></halves>
</policies></storage_configuration></clickhouse>`, declared.String(), volume(hotVolume, hotVolume), tiers.String(), volume(defaultVolume, defaultVolume)), 0o600))
	return chservetest.Launch(t, chservetest.Options{Data: data, Args: []string{"--config", config}})
}

// TestTiers puts rows of all ages under storage policies, on new and on existing tables.
func TestTiers(t *testing.T) {
	disks := t.TempDir()
	engine := tieredEngine(t, disks, "")
	open := func(database, policy string) *Store {
		s, err := Open(t.Context(), Options{URL: engine.URL, User: chservetest.AdminUser, Password: chservetest.AdminPassword, Database: database, StoragePolicy: policy})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	now := time.Now().UTC()
	// Days old: two of each volume, and one that has expired.
	ages := []int{0, 29, 31, 89, 91, 700, 740}
	spans := make([]usage.Span, len(ages))
	for i, age := range ages {
		spans[i] = usage.Span{TraceID: fmt.Sprint("t", i), SpanID: "s", TenantID: "org_1", RequestedModel: "m", Model: "m", Timestamp: now.AddDate(0, 0, -age), Cost: 1, Priced: true, PriceVersion: "1"}
	}
	require.ErrorContains(t, open("lacking", "halves").Migrate(t.Context()), "the storage policy halves lacks the volumes warm, cold")
	require.ErrorContains(t, open("lacking", "backwards").Migrate(t.Context()), "begins with the volume warm, where new rows would go")

	created := open("created", "tiered")
	plan, err := created.PlanMigration(t.Context())
	require.NoError(t, err)
	require.Equal(t, "CREATE DATABASE IF NOT EXISTS created", plan[0])
	require.Contains(t, strings.Join(plan, "\n"), "storage_policy = 'tiered'")
	require.Zero(t, number(t, created.outside(), "SELECT count() FROM system.databases WHERE name = 'created'"), "a plan makes nothing")
	require.NoError(t, created.Migrate(t.Context()))
	require.NoError(t, created.InsertSpans(t.Context(), spans, "a"))

	plain := open("altered", "")
	require.NoError(t, plain.Migrate(t.Context()))
	require.NoError(t, plain.InsertSpans(t.Context(), spans, "a"))
	for _, policy := range []string{"tiered", "afterthought"} {
		require.ErrorContains(t, open("altered", policy).Migrate(t.Context()), "put <default><disk>default</disk></default> as the first volume of the policy "+policy)
	}
	altered := open("altered", "succession")
	plan, err = altered.PlanMigration(t.Context())
	require.NoError(t, err)
	require.Len(t, plan, 3*len(rawTables))
	require.NoError(t, altered.Migrate(t.Context()))

	for _, test := range []struct {
		store         *Store
		policy, first string
	}{{created, "tiered", "hot"}, {altered, "succession", "default"}} {
		plan, err := test.store.PlanMigration(t.Context())
		require.NoError(t, err)
		require.Empty(t, plan, "once is enough")
		require.NoError(t, test.store.Migrate(t.Context()))
		require.EqualValues(t, len(rawTables), number(t, test.store, "SELECT count() FROM system.tables WHERE database = currentDatabase() AND storage_policy = '"+test.policy+"'"))

		require.NoError(t, test.store.conn.Exec(t.Context(), "OPTIMIZE TABLE spans FINAL"))
		placed := func() (disks string) {
			require.NoError(t, test.store.conn.QueryRow(t.Context(), `SELECT arrayStringConcat(groupArray(concat(disk_name, ' ', toString(rows))), ', ') FROM
				(SELECT disk_name, sum(rows) AS rows FROM system.parts WHERE database = currentDatabase() AND table = 'spans' AND active GROUP BY disk_name ORDER BY disk_name)`).Scan(&disks))
			return disks
		}
		want := "cold 2, " + test.first + " 2, warm 2"
		require.Eventually(t, func() bool { return placed() == want }, time.Minute, 50*time.Millisecond, "%s: %s", test.policy, placed())
	}

	// A batch that is sent again after all this is still known, and after a restart too.
	again := func() {
		for _, s := range []*Store{created, altered} {
			require.NoError(t, s.InsertSpans(t.Context(), spans, "a"))
		}
		require.EqualValues(t, len(ages)-1, number(t, created, "SELECT count() FROM spans"))
		require.EqualValues(t, len(ages), number(t, created, "SELECT sum(requests) FROM kpi_1d"))
		require.EqualValues(t, len(ages)-1, number(t, altered, "SELECT count() FROM spans"))
		require.EqualValues(t, len(ages), number(t, altered, "SELECT sum(requests) FROM kpi_1d"))
	}
	again()
	engine.Kill()
	engine = tieredEngine(t, disks, engine.Data)
	created, altered = open("created", "tiered"), open("altered", "succession")
	again()
}
