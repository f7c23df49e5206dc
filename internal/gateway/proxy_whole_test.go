package gateway_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/clickhouse"
	"github.com/flyball-dev/flyball/internal/gateway"
	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
	"github.com/flyball-dev/flyball/internal/ingest"
	pricebook "github.com/flyball-dev/flyball/internal/pricing/book"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/treasury"
	"github.com/flyball-dev/flyball/internal/usage"
)

// blank is a ledger in which nothing was ever spent, and a sink that drops what it is given.
type blank struct{ spool string }

func (b *blank) Spend(context.Context, clickhouse.SpendQuery) (map[string]budget.Micro, error) {
	return map[string]budget.Micro{}, nil
}

func (b *blank) Spools(context.Context) (map[string]clickhouse.Spool, error) {
	now := time.Now()
	return map[string]clickhouse.Spool{b.spool: {Last: now, Highest: now}}, nil
}

func (b *blank) CallsBefore(context.Context, string, []clickhouse.Call, time.Time, time.Time) ([]clickhouse.Call, error) {
	return nil, nil
}

func (b *blank) InsertSpans(context.Context, []usage.Span, string) error             { return nil }
func (b *blank) InsertQuality(context.Context, []usage.Quality, string) error        { return nil }
func (b *blank) InsertOutcomes(context.Context, []usage.Outcome, string) error       { return nil }
func (b *blank) InsertDeployments(context.Context, []usage.Deployment, string) error { return nil }
func (b *blank) InsertContents(context.Context, []usage.Content, string) error       { return nil }
func (b *blank) InsertTuples(context.Context, []usage.Tuple, string) error           { return nil }
func (b *blank) Watermark(context.Context, string, time.Time) error                  { return nil }

// redisServer starts one without persistence.
func redisServer(t *testing.T) *redis.Client {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not on the PATH; install Debian's redis-server to run this on a real one")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close())
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command(binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	client := redis.Open(redis.Options{Addr: addr, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { _ = client.Close() })
	eventually(t, "redis-server did not answer", func() bool { return client.Ping(t.Context()) == nil })
	return client
}

// newWholeRig is a rig with everything on that a gateway in production has: budgets promised by a treasury on a real
// Redis with its journal on disk, telemetry through a spool on disk, a flag that moves a share of the calls, and a
// fallback rule. The tenant's month and day are promised from leases; where keys have a budget too, Redis is asked for
// each call.
func newWholeRig(t *testing.T, o upstreamtest.Options, keys bool) *rig {
	client, ledger := redisServer(t), &blank{}
	prices, err := pricebook.Default()
	require.NoError(t, err)
	quiet := slog.New(slog.DiscardHandler)
	in, err := ingest.Open(ingest.Options{Dir: t.TempDir(), Sink: ledger, Book: prices, Logger: quiet})
	require.NoError(t, err)
	ledger.spool = in.Spool()

	dollars := func(n int64) budget.Micro { return budget.Micro(n * 1_000_000) }
	list := []budget.Budget{
		{ID: "month", Tenant: "org_a", Per: budget.PerTenant, Period: budget.Month, Ceiling: dollars(1_000_000)},
		{ID: "day", Tenant: "org_a", Per: budget.PerTenant, Period: budget.Day, Ceiling: dollars(100_000)},
	}
	if keys {
		list = append(list, budget.Budget{ID: "keys", Tenant: "org_a", Per: budget.PerKey, Period: budget.Day, Ceiling: dollars(100_000)})
	}
	budgets := func(tenant string) ([]budget.Budget, bool) {
		if tenant == "org_a" {
			return list, true
		}
		return nil, true
	}
	bank, err := treasury.Open(treasury.Options{
		Dir: t.TempDir(), Process: in.Spool(), Redis: client, Budgets: budgets, Logger: quiet, Now: time.Now,
		Away: func(string) treasury.Away { return treasury.Away{Closed: true} },
	})
	require.NoError(t, err)
	reconciler := &treasury.Reconciler{
		Budgets: func(context.Context) (versions []budget.Version, err error) {
			for _, b := range list {
				versions = append(versions, budget.Version{Budget: b, Revision: 1})
			}
			return versions, nil
		},
		Redis: client, Ledger: ledger, Logger: quiet, Now: time.Now, Grace: time.Millisecond,
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 3)
	go func() { ended <- in.Run(ctx) }()
	go func() { ended <- bank.Run(ctx) }()
	go func() { ended <- reconciler.Run(ctx) }()
	t.Cleanup(func() { // after the rig's own, so that its last calls are settled
		stop()
		for range cap(ended) {
			require.NoError(t, <-ended)
		}
		require.NoError(t, bank.Close())
		require.NoError(t, in.Close())
	})

	rules := gateway.NewFallbacks(gateway.FallbackOptions{
		Tradeoff: tradeoff, Trusts: client, Logger: quiet, Now: time.Now,
		Quality: func(_, _, _, text string) (float64, string, bool) { return 0.9, "v1", text != "" },
	})
	flags := &fixed{}
	flags.set(false, routing.Flag{
		Key: usage.Key{Tenant: "org_a", Model: "gpt-4o"}, Kind: routing.Route, Value: "gpt-4o-mini", Share: 0.5, Reason: "bench", Decision: "d",
		ExpiresAt: time.Now().Add(time.Hour),
	})
	r := newRig(t, o, func(s *setup) {
		s.loose = true
		s.gate.Flags, s.gate.Fallbacks, s.gate.Logger = flags, rules, quiet
		s.Accept, s.Treasury, s.Budgets = in.Accept, bank, budgets
	})
	// Until the reconciler has opened the counters nothing is promised.
	eventually(t, "no call was let through", func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.server.URL+"/v1/chat/completions", strings.NewReader(chat))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+keyA)
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		return answer.StatusCode == http.StatusOK && answer.Header.Get("X-LLM-Budget-Remaining") != ""
	})
	return r
}
