package docs

import (
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// external is the address of a gateway that other gateways ask: its treasury, prices and spool are real, its tenants
// have no budgets, and its store is away.
func external(t *testing.T) string {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	prices, err := book.Default()
	require.NoError(t, err)
	door, err := ingest.NewDoor(nil)
	require.NoError(t, err)
	spool, err := ingest.Open(ingest.Options{Dir: t.TempDir(), Sink: &clickhouse.Store{}, Book: prices, Logger: log, Door: door})
	require.NoError(t, err)
	t.Cleanup(func() { _ = spool.Close() })
	client := redis.Open(redis.Options{Addr: miniredis.RunT(t).Addr(), Logger: log})
	t.Cleanup(func() { _ = client.Close() })
	none := func(string) ([]budget.Budget, bool) { return nil, true }
	money, err := treasury.Open(treasury.Options{
		Dir: t.TempDir(), Process: spool.Spool(), Redis: client, Budgets: none, Logger: log, Now: time.Now,
		Away: func(string) treasury.Away { return treasury.Away{Closed: true} },
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = money.Close() })
	gate := gateway.New(gateway.Options{
		Flags: client, Prices: prices, Logger: log, Now: time.Now,
		SampleRate: func(usage.Key, string) (float64, string) { return 1, "all" },
	})
	server := httptest.NewServer(gateway.NewExternal(gate, gateway.ExternalOptions{
		Door: door, Treasury: money, Budgets: none, Accept: spool.Accept, OutputCap: 4096,
	}).Handler())
	t.Cleanup(server.Close)
	return server.URL
}
