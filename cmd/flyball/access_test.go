package main

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/cmd/chserve/engine"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
	"github.com/flyball-dev/flyball/internal/usage"
)

// TestGroupsReadTheEmbeddedEngine: what the configuration says of a group holds for its user of the engine that
// flyball up starts, with the password from the state folder.
func TestGroupsReadTheEmbeddedEngine(t *testing.T) {
	t.Parallel()
	library, err := engine.Find(".")
	if err != nil {
		t.Skip("needs the embedded ClickHouse: ", err)
	}
	c := config.Default()
	c.Access = config.Access{
		Groups: map[string]config.AccessGroup{
			"acme-analysts": {Roles: []config.AccessRole{config.Tenant}, Tenants: []string{"acme", "acme-labs"}},
			"fin-ops":       {Roles: []config.AccessRole{config.FinOps}},
			"evaluation":    {Roles: []config.AccessRole{config.AIEngineering, config.Embargo}},
		},
		EmbargoedModels: []string{"next-*"},
	}
	require.NoError(t, c.Validate())
	sharing, err := sharingOf(c, devstack.ClickHouseDatabase)
	require.NoError(t, err)

	folder, err := devstack.OpenFolder(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, folder.Close()) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().(*net.TCPAddr)
	require.NoError(t, listener.Close())
	child, err := devstack.StartClickHouse(t.Context(), folder, devstack.ClickHouseOptions{
		Program: chservetest.Binary(t), Library: library, Port: address.Port, Sharing: sharing,
	}, func(devstack.Event) {})
	require.NoError(t, err)
	t.Cleanup(child.Stop)

	as := func(user string) *clickhouse.Store {
		password, err := folder.Password("clickhouse/" + user)
		require.NoError(t, err)
		store, err := clickhouse.Open(t.Context(), clickhouse.Options{
			URL: "http://" + address.String(), User: user, Password: password, Database: devstack.ClickHouseDatabase,
		})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, store.Close()) })
		return store
	}
	admin := as("flyball")
	require.NoError(t, admin.Migrate(t.Context()))
	at := time.Now().UTC().Truncate(time.Minute)
	for _, key := range []usage.Key{{Tenant: "acme", Model: "now-1"}, {Tenant: "acme-labs", Model: "next-1"}, {Tenant: "globex", Model: "next-1"}} {
		id := key.Tenant + key.Model
		require.NoError(t, admin.InsertSpans(t.Context(), []usage.Span{{TraceID: id, SpanID: id, TenantID: key.Tenant, RequestedModel: key.Model, Model: key.Model, Timestamp: at}}, id))
		require.NoError(t, admin.InsertQuality(t.Context(), []usage.Quality{{ID: id, TraceID: id, TenantID: key.Tenant, Model: key.Model, Timestamp: at, Score: 0.5, Kind: "judge"}}, id))
	}
	for user, want := range map[string][2]int64{"acme-analysts": {2, 1}, "fin-ops": {3, 1}, "evaluation": {3, 3}, "flyball": {3, 3}} {
		totals, err := as(user).Totals(t.Context(), at, at.Add(time.Minute))
		require.NoError(t, err, user)
		require.Equal(t, want, [2]int64{totals.Requests, totals.Scored}, user)
	}
}
