package clickhouse

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/contract"
	"github.com/flyball-dev/flyball/internal/kpi"
	"github.com/flyball-dev/flyball/internal/runbook"
	"github.com/flyball-dev/flyball/internal/usage"
)

// someAccess has a group of every kind, and a tenant that would break out of a badly quoted literal.
func someAccess() Access {
	return Access{
		Roles: []string{"finops", "ai_engineering", "oncall"},
		Groups: map[string]Group{
			"fin-ops":      {Roles: []string{"finops"}},
			"night shift":  {Roles: []string{"oncall"}},
			"evaluation":   {Roles: []string{"ai_engineering"}, Embargoed: true},
			"t-analysts":   {Tenants: []string{"t"}},
			"t-evaluation": {Tenants: []string{"t"}, Embargoed: true},
			"partners":     {Tenants: []string{"t", `o'dd\`}},
		},
		EmbargoedModels: []string{"next-*", "model.?"},
		Unrestricted:    []string{"flyball", "backup"},
	}
}

var someTables = []TenantTable{
	{Name: "baselines", Models: []string{"model"}, Quality: true},
	{Name: "kpi_1m", Models: []string{"requested_model", "model"}},
	{Name: "quality", Models: []string{"requested_model", "model"}, Quality: true},
}

func TestAccessSQL(t *testing.T) {
	t.Parallel()
	got := strings.Join(someAccess().AccessSQL("flyball", someTables), ";\n") + ";\n"
	if *update {
		require.NoError(t, os.WriteFile("testdata/access.sql", []byte(got), 0o600))
	}
	want, err := os.ReadFile("testdata/access.sql")
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// What differs is mended, and nothing else is touched.
func TestAccessDrift(t *testing.T) {
	t.Parallel()
	a := someAccess()
	wanted := func() accessState { return a.wanted("flyball", someTables) }
	require.Empty(t, wanted().since(wanted(), "flyball"), "applied twice, it does nothing")
	for name, test := range map[string]struct {
		drift func(*accessState)
		want  []string
	}{
		"a policy was widened": {
			func(s *accessState) {
				s.policies[policyName{"flyball_others", "quality"}] = rowPolicy{filter: "1", toAll: true}
			},
			[]string{"CREATE ROW POLICY OR REPLACE `flyball_others` ON flyball.quality AS PERMISSIVE FOR SELECT USING 0 TO ALL"},
		},
		"a policy is gone": {
			func(s *accessState) { delete(s.policies, policyName{"flyball_embargo", "quality"}) },
			[]string{"CREATE ROW POLICY OR REPLACE `flyball_embargo` ON flyball.quality AS RESTRICTIVE FOR SELECT USING " +
				"NOT (match(requested_model, '^(?s:next-.*|model\\\\..)$') OR match(model, '^(?s:next-.*|model\\\\..)$')) TO ALL EXCEPT `backup`, `flyball`, `flyball_embargo`"},
		},
		"a right too many": {
			func(s *accessState) {
				s.grants[grant{"flyball_reader", "INSERT", "quality"}] = true
				s.grants[grant{"flyball_finops", "READ", "*.*"}] = true
			},
			[]string{"REVOKE READ ON *.* FROM `flyball_finops`", "REVOKE INSERT ON flyball.quality FROM `flyball_reader`"},
		},
		"a group that left": {
			func(s *accessState) {
				s.roles["old"] = true
				s.members[membership{"old", "flyball_finops"}] = true
			},
			[]string{"REVOKE `flyball_finops` FROM `old`"},
		},
		"a tenant that left": {
			func(s *accessState) {
				s.roles["flyball_tenant_x"] = true
				s.policies[policyName{"flyball_tenant_x", "quality"}] = rowPolicy{filter: "tenant_id = 'x'", to: "flyball_tenant_x"}
			},
			[]string{"DROP ROW POLICY IF EXISTS `flyball_tenant_x` ON flyball.quality", "DROP ROLE IF EXISTS `flyball_tenant_x`"},
		},
		"a limit was lifted": {
			func(s *accessState) {
				s.profile = maps.Clone(s.profile)
				s.profile["readonly"] = limit{value: "0"}
			},
			[]string{"CREATE SETTINGS PROFILE OR REPLACE `flyball_reader` SETTINGS " + limitsSQL(readerProfile) + " TO `flyball_reader`"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			has := wanted()
			test.drift(&has)
			require.Equal(t, test.want, wanted().since(has, "flyball"))
		})
	}
}

// TestAccess holds the rules to an engine: the embedded one, whose readers chserve binds, or the server of
// CLICKHOUSE_URL, where the roles and row policies do it.
func TestAccess(t *testing.T) {
	if os.Getenv("CLICKHOUSE_URL") != "" {
		testServerAccess(t)
		return
	}
	a := someAccess()
	tables, err := TenantTables()
	require.NoError(t, err)
	var names, columns []string
	for _, table := range tables {
		names = append(names, "flyball."+table.Name)
		if table.Quality {
			for _, model := range table.Models {
				columns = append(columns, "flyball."+table.Name+"."+model)
			}
		}
	}
	var users []chservetest.User
	for _, r := range a.Readers() {
		users = append(users, chservetest.User{Name: r.Name, Password: "p", Tenants: r.Tenants, AllTenants: r.AllTenants, Embargoed: r.Embargoed})
	}
	engine := chservetest.Launch(t, chservetest.Options{Users: users, Args: []string{
		"--tenant-tables", strings.Join(names, ","), "--embargo", strings.Join(columns, ","), "--embargoed-models", a.EmbargoPattern(),
	}})
	open := func(user, password string) *Store {
		s, err := Open(t.Context(), Options{URL: engine.URL, User: user, Password: password, Database: "flyball"})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	}
	admin := open(chservetest.AdminUser, chservetest.AdminPassword)
	require.NoError(t, admin.Migrate(t.Context()))
	testTenantTables(t, admin)
	testAccessParses(t, admin)
	testReadAccess(t, admin)
	_, err = admin.PlanAccess(t.Context(), a)
	require.ErrorIs(t, err, ErrNoAccessManagement)
	testReaders(t, admin, func(group string) *Store { return open(group, "p") })
}

// testTenantTables: what is read from the migrations is what the engine's catalogue says.
func testTenantTables(t *testing.T, s *Store) {
	tables, err := TenantTables()
	require.NoError(t, err)
	rows, err := collect(t.Context(), s, `SELECT arrayConcat([table], groupArray(name)) FROM system.columns
WHERE database = currentDatabase() AND table IN (SELECT name FROM system.tables WHERE database = currentDatabase() AND engine != 'MaterializedView')
GROUP BY table ORDER BY table`, nil, func(rows driver.Rows, r *[]string) error { return rows.Scan(r) })
	require.NoError(t, err)
	var want []TenantTable
	for _, row := range rows {
		if table, ok := tenantTable(row[0], row[1:]); ok {
			want = append(want, table)
		}
	}
	require.NotEmpty(t, want)
	require.Equal(t, want, tables, "a table with a tenant_id that readColumns does not see has no row policies: teach it the statement")
	for _, name := range []string{"baselines", "decisions", "incidents", "outcomes", "outcomes_1m", "quality", "quality_1m", "sweep_1m"} {
		require.True(t, slices.ContainsFunc(tables, func(t TenantTable) bool { return t.Name == name && t.Quality }), name)
	}
	for _, name := range []string{"spans", "kpi_1m", "deployments"} {
		require.True(t, slices.ContainsFunc(tables, func(t TenantTable) bool { return t.Name == name && !t.Quality }), name)
	}
}

// testAccessParses: the engine's own parser takes every statement, and repeats filters as we write them, by
// which drift is told.
func testAccessParses(t *testing.T, s *Store) {
	a := someAccess()
	for _, statement := range a.AccessSQL("flyball", someTables) {
		var formatted string
		require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine("+quote(statement)+")").Scan(&formatted), statement)
	}
	for name, p := range a.wanted("flyball", someTables).policies {
		var formatted string
		require.NoError(t, s.conn.QueryRow(t.Context(), "SELECT formatQuerySingleLine("+quote("SELECT "+p.filter)+")").Scan(&formatted))
		require.Equal(t, "SELECT "+p.filter, formatted, name)
	}
}

// testReadAccess: a server's catalogue of what is wanted reads as what is wanted. The embedded engine shows its
// own to nobody, so tables of the same columns stand for it.
func testReadAccess(t *testing.T, s *Store) {
	run := func(format string, args ...any) {
		require.NoError(t, s.conn.Exec(t.Context(), fmt.Sprintf(format, args...)))
	}
	run("CREATE DATABASE catalogue")
	for _, table := range []string{"roles", "role_grants", "grants", "row_policies", "settings_profile_elements", "settings_profiles"} {
		run("CREATE TABLE catalogue.%s ENGINE = Memory AS system.%s", table, table)
	}
	list := func(names string) string {
		if names == "" {
			return "[]"
		}
		all := strings.Split(names, nameSeparator)
		slices.Reverse(all) // a server promises no order
		for i, name := range all {
			all[i] = quote(name)
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	a := someAccess()
	wanted := a.wanted(s.database, someTables)
	for role := range wanted.roles {
		run("INSERT INTO catalogue.roles (name) VALUES (%s)", quote(role))
	}
	for m := range wanted.members {
		run("INSERT INTO catalogue.role_grants (role_name, granted_role_name) VALUES (%s, %s)", quote(m.role), quote(m.granted))
	}
	for g := range wanted.grants {
		run("INSERT INTO catalogue.grants (role_name, access_type, database, table) VALUES (%s, %s, %s, %s)", quote(g.role), quote(g.right), quote(s.database), quote(g.on))
	}
	for n, p := range wanted.policies {
		to, except := list(p.to), "[]"
		if p.toAll {
			to, except = except, to
		}
		run("INSERT INTO catalogue.row_policies (short_name, database, table, select_filter, is_restrictive, apply_to_all, apply_to_list, apply_to_except) VALUES (%s, %s, %s, %s, %t, %t, %s, %s)",
			quote(n.name), quote(s.database), quote(n.table), quote(p.filter), p.restrictive, p.toAll, to, except)
	}
	for name, l := range wanted.profile {
		run("INSERT INTO catalogue.settings_profile_elements (profile_name, setting_name, value, min, max, writability) VALUES (%s, %s, %s, nullIf(%s, ''), nullIf(%s, ''), %s)",
			quote(s.database+"_reader"), quote(name), quote(l.value), quote(l.min), quote(l.max), quote(l.writability))
	}
	run("INSERT INTO catalogue.settings_profiles (name, apply_to_list) VALUES (%s, [%s])", quote(s.database+"_reader"), quote(s.database+"_reader"))
	// What is not ours is left alone.
	run("INSERT INTO catalogue.roles (name) VALUES ('theirs')")
	run("INSERT INTO catalogue.role_grants (role_name, granted_role_name) VALUES ('theirs', 'night shift'), (NULL, 'flyball_finops')")
	run("INSERT INTO catalogue.row_policies (short_name, database, table, select_filter) VALUES ('theirs', 'flyball', 'spans', '1')")
	run("INSERT INTO catalogue.grants (user_name, access_type) VALUES ('flyball_me', 'ALL')")
	has, err := s.readAccess(t.Context(), "catalogue", a)
	require.NoError(t, err)
	require.Empty(t, wanted.since(has, s.database))

	run("INSERT INTO catalogue.grants (role_name, access_type) VALUES ('flyball_finops', 'READ')")
	run("INSERT INTO catalogue.grants (role_name, access_type, database) VALUES ('flyball_oncall', 'SELECT', 'flyball')")
	run("INSERT INTO catalogue.role_grants (role_name, granted_role_name) VALUES ('old', 'flyball_embargo')")
	has, err = s.readAccess(t.Context(), "catalogue", a)
	require.NoError(t, err)
	require.Equal(t, []string{
		"REVOKE READ ON *.* FROM `flyball_finops`", "REVOKE SELECT ON flyball.* FROM `flyball_oncall`", "REVOKE `flyball_embargo` FROM `old`",
	}, wanted.since(has, s.database))
}

// testReaders runs the product's own questions as each group and requires that it sees what is its own.
func testReaders(t *testing.T, admin *Store, open func(group string) *Store) {
	ctx := t.Context()
	base := time.Now().UTC().Truncate(time.Minute).Add(-30 * time.Minute)
	to := base.Add(10 * time.Minute)
	record := func(tenant, model, served string, n int) {
		spans := calls(n, base, usage.Span{RequestedModel: model, Model: served, Cost: 100, TraceID: "", Tokens: usage.Tokens{UncachedInput: 5, Output: 1}})
		for i := range spans {
			spans[i].TenantID, spans[i].TraceID = tenant, fmt.Sprint(tenant, model, i)
			spans[i].SpanID = spans[i].TraceID
		}
		token := tenant + model
		require.NoError(t, admin.InsertSpans(ctx, spans, token))
		require.NoError(t, admin.InsertQuality(ctx, []usage.Quality{{ID: token, TraceID: token, TenantID: tenant, Model: model, ServedModel: served, Timestamp: base, Score: 0.5, Kind: "judge"}}, token))
		require.NoError(t, admin.RecordIncident(ctx, contract.IncidentRecord{
			ID: token, Key: usage.Key{Tenant: tenant, Model: model}, OpenedAt: base, EndedAt: to, UpdatedAt: base, Reason: "quality fell", Detail: []byte("{}"),
		}))
	}
	record("t", "now-1", "now-1", 3)
	record("t", "next-1", "now-1", 2)
	record("other", "now-1", "now-1", 10)
	record("other", "now-2", "next-1", 1) // a route leads there
	record(`o'dd\`, "model.5", "model.5", 20)
	// A group is of many tenants, and belongs to none.
	require.NoError(t, admin.RecordIncident(ctx, contract.IncidentRecord{
		ID: contract.GroupID("provider:openai", base), Key: usage.Everything, OpenedAt: base, UpdatedAt: base, Detail: []byte(`{"keys":[{"tenant":"other"}]}`),
	}))

	for _, test := range []struct {
		group             string
		keys, calls       int64
		scored, incidents int
	}{
		{"fin-ops", 5, 36, 2, 4},
		{"night shift", 5, 36, 2, 4},
		{"evaluation", 5, 36, 5, 6},
		{"t-analysts", 2, 5, 1, 1},
		{"t-evaluation", 2, 5, 2, 2},
		{"partners", 3, 25, 1, 1},
	} {
		t.Run(test.group, func(t *testing.T) {
			s := open(test.group)
			totals, err := s.Totals(ctx, base, to)
			require.NoError(t, err)
			require.Equal(t, [3]int64{test.keys, test.calls, int64(test.scored)}, [3]int64{totals.Keys, totals.Requests, totals.Scored})
			points, err := s.Live(ctx, base, to, time.Minute, 100)
			require.NoError(t, err)
			require.Len(t, points, int(test.keys))
			incidents, err := s.Incidents(ctx, base.Add(-time.Hour))
			require.NoError(t, err)
			require.Len(t, incidents, test.incidents)
			theirs := usage.Key{Tenant: "other", Model: "now-1"}
			sees := test.keys == 5
			traces, err := s.WorstTraces(ctx, theirs, base, to, 5)
			require.NoError(t, err)
			require.Equal(t, sees, len(traces) > 0)
			series, err := s.Minutes(ctx, theirs, base, to)
			require.NoError(t, err)
			require.Equal(t, sees, slices.ContainsFunc(series, func(m kpi.Minute) bool { return m.Requests > 0 }))

			// The rest of what people are shown: it is answered, and holds nothing of theirs.
			deployments, err := s.Deployments(ctx, theirs, base, to)
			require.NoError(t, err)
			require.Empty(t, deployments)
			sightings, err := s.FirstSeen(ctx, theirs, base, to, time.Hour)
			require.NoError(t, err)
			require.Empty(t, sightings) // nothing came before
			changes, err := s.Completion(ctx, theirs, base, to)
			require.NoError(t, err)
			require.Equal(t, sees, len(changes) > 0)
			flows, err := s.Flows(ctx, theirs, runbook.Times{Before: base.Add(-time.Hour), From: base, To: to})
			require.NoError(t, err)
			require.Equal(t, sees, len(flows) > 0)
			past, err := s.PastIncident(ctx, theirs, to.Add(time.Hour))
			require.NoError(t, err)
			require.Equal(t, sees, past != nil)
			_, err = s.Decisions(ctx, "othernow-1")
			require.NoError(t, err)
			_, err = s.LastActEnded(ctx, theirs)
			require.NoError(t, err)
			_, err = s.Baselines(ctx, base.Truncate(time.Hour))
			require.NoError(t, err)
			known, err := s.HasSpan(ctx, "other", "othernow-10")
			require.NoError(t, err)
			require.Equal(t, sees, known)

			var n uint64
			for _, hidden := range []string{"migrations", "ingest_watermarks", "ingest_watermarks_last", "bucket_changes", "kpi_1m_from_spans", "system.parts"} {
				require.Error(t, s.conn.QueryRow(ctx, "SELECT count() FROM "+hidden+" WHERE NOT ignore(*)").Scan(&n), hidden)
			}
			require.Error(t, s.InsertSpans(ctx, calls(1, base, usage.Span{Model: "m"}), "x"), "a reader writes nothing")
			require.Error(t, s.Migrate(ctx))
		})
	}
}

// testServerAccess: on a server the plan makes what it says, once, and users in the roles see what they should.
func testServerAccess(t *testing.T) {
	admin := startServer(t).database(t)
	options := startServer(t).options
	ctx := t.Context()
	a := someAccess()
	a.Unrestricted = []string{options.User}
	if _, err := admin.PlanAccess(ctx, a); errors.Is(err, ErrNoAccessManagement) {
		t.Skip("the user of CLICKHOUSE_URL may not manage access: ", err)
	}
	t.Cleanup(func() { dropAccess(t, admin, a) })
	plan, err := admin.PlanAccess(ctx, a)
	require.NoError(t, err)
	require.NoError(t, admin.ApplyAccess(ctx, plan))
	plan, err = admin.PlanAccess(ctx, a)
	require.NoError(t, err)
	require.Empty(t, plan, "what was applied is there")
	require.NoError(t, admin.server.Exec(ctx, "DROP ROW POLICY "+admin.database+"_others ON "+admin.database+".quality"))
	plan, err = admin.PlanAccess(ctx, a)
	require.NoError(t, err)
	require.Len(t, plan, 1)
	require.NoError(t, admin.ApplyAccess(ctx, plan))

	secret := sha256.Sum256([]byte("p"))
	testReaders(t, admin, func(group string) *Store {
		user := admin.database + " " + group
		require.NoError(t, admin.server.Exec(ctx, "CREATE USER "+identifier(user)+" IDENTIFIED WITH sha256_hash BY '"+hex.EncodeToString(secret[:])+"'"))
		require.NoError(t, admin.server.Exec(ctx, "GRANT "+identifier(group)+" TO "+identifier(user)))
		s, err := Open(ctx, Options{URL: options.URL, User: user, Password: "p", Database: admin.database})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		return s
	})
}

// dropAccess leaves the server as it was.
func dropAccess(t *testing.T, s *Store, a Access) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	tables, err := TenantTables()
	require.NoError(t, err)
	wanted := a.wanted(s.database, tables)
	for name := range wanted.policies {
		require.NoError(t, s.server.Exec(ctx, "DROP ROW POLICY IF EXISTS "+identifier(name.name)+" ON "+s.database+"."+name.table))
	}
	require.NoError(t, s.server.Exec(ctx, "DROP SETTINGS PROFILE IF EXISTS "+identifier(s.database+"_reader")))
	for group := range a.Groups {
		require.NoError(t, s.server.Exec(ctx, "DROP USER IF EXISTS "+identifier(s.database+" "+group)))
	}
	for role := range wanted.roles {
		require.NoError(t, s.server.Exec(ctx, "DROP ROLE IF EXISTS "+identifier(role)))
	}
}
