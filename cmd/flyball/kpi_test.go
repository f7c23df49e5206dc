package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/devstack"
)

// TestKPICountsCallsAsTheirTask imports people's times on a running ingest, sends calls, and asks for the KPIs.
func TestKPICountsCallsAsTheirTask(t *testing.T) {
	t.Parallel()
	c := config.Default()
	c.Spool = t.TempDir()
	c.ClickHouse.Database = "flyball"
	c.ClickHouse.URL, c.ClickHouse.User, c.ClickHouse.Password = chservetest.Start(t)
	s, err := openSystem(t.Context(), c, []config.Role{config.Ingest}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(s.close)
	require.NoError(t, s.store.Migrate(t.Context()))
	require.NoError(t, s.openIngest(t.Context()))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.runFront(ctx, listener, []config.Role{config.Ingest}, nil) }()
	t.Cleanup(func() { stop(); require.NoError(t, <-ended) })
	at := "http://" + listener.Addr().String()

	state := t.TempDir()
	addresses, err := json.Marshal(devstack.Addresses{Ingest: at, ClickHouse: devstack.ClickHouseAddress{URL: c.ClickHouse.URL, User: c.ClickHouse.User, Password: c.ClickHouse.Password, Database: c.ClickHouse.Database}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(state, "addresses.json"), addresses, 0o600))
	command := func(args ...string) string {
		var out, errs bytes.Buffer
		require.Equal(t, 0, run(args, strings.NewReader(""), &out, &errs), errs.String())
		return out.String()
	}

	// The usual task takes 10 minutes, a contract 240: it counts 24.
	times := filepath.Join(state, "times.csv")
	require.NoError(t, os.WriteFile(times, []byte("task,minutes\nclassify,2\nanswer,10\ncontract,240\n"), 0o600))
	require.Equal(t, "3 tasks set from 3 times\n", command("complexity", "import", times, "--url", at))

	// 1,000 tokens in at $2.50 a million and 100 out at $10 are $0.0035 a call. Three calls of 24, 1 (as it says) and 1
	// (its task is not known): 0.0105/26.
	for i, more := range []string{`"task":"contract"`, `"task":"contract","complexity":1`, `"task":"other"`} {
		body := fmt.Sprintf(`{"trace_id":"t%d","span_id":"s","timestamp":%q,"tenant_id":"org","provider":"openai","model":"gpt-4o","latency_ms":900,"ttft_ms":400,
			"tokens":{"prompt":1000,"completion":100},%s}`, i, time.Now().UTC().Format(time.RFC3339Nano), more)
		answer, err := http.Post(at+"/v1/spans", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, 200, answer.StatusCode)
	}
	var row kpiRow
	require.Eventually(t, func() bool {
		line := command("kpi", "--state", state, "--by", "tenant_id,requested_model", "--json")
		row = kpiRow{}
		return line != "" && json.Unmarshal([]byte(line), &row) == nil && row.Requests == 3
	}, 20*time.Second, 100*time.Millisecond)
	require.Equal(t, map[string]string{"tenant_id": "org", "requested_model": "gpt-4o"}, row.By)
	require.Equal(t, "0.0105", row.SpendUSD)
	require.InDelta(t, 0.0105/26, *row.NTC, 1e-15)
	require.InDelta(t, 200, *row.Velocity, 1e-12, "300 tokens in 1.5 s")
	require.InDelta(t, 0.1, *row.CompletionRatio, 1e-12)
	require.Nil(t, row.OutcomeRate)
	require.Contains(t, command("kpi", "--state", state), "0.0105  0.000404  200.0     0.100   0.000  -")
	require.Contains(t, command("complexity", "show", "--url", at), "contract  24.000")
}
