package main_test

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
)

// embeddedOnly skips tests of chserve's own process where a server is under test.
func embeddedOnly(t *testing.T) {
	t.Helper()
	if os.Getenv(serverVariable) != "" {
		t.Skip("kills and restarts its server, which is only done to chserve: unset " + serverVariable)
	}
}

func TestRestartKeepsData(t *testing.T) {
	t.Parallel()
	embeddedOnly(t)
	server := chservetest.Launch(t, chservetest.Options{})
	conn := open(t, embedded(server).options("default"))
	execute(t, conn, "CREATE DATABASE kept")
	conn = open(t, embedded(server).options("kept"))
	createCounted(t, conn)
	require.NoError(t, insertCounted(t.Context(), conn, "a", []uint64{1, 2, 3}))
	server.Stop(t)

	conn = open(t, embedded(chservetest.Launch(t, chservetest.Options{Data: server.Data})).options("kept"))
	require.NoError(t, insertCounted(t.Context(), conn, "a", []uint64{1, 2, 3}), "a retry after the restart")
	require.NoError(t, insertCounted(t.Context(), conn, "b", []uint64{4}))
	require.Equal(t, uint64(4), one[uint64](t, conn, "SELECT count() FROM spans"))
	require.Equal(t, uint64(4), one[uint64](t, conn, "SELECT sum(requests) FROM minutes"))
	require.Equal(t, uint64(4), one[uint64](t, conn, "SELECT sum(requests) FROM hours"))
}

// embedded is a launched server as a target.
func embedded(s *chservetest.Server) target {
	return target{s.URL, chservetest.AdminUser, chservetest.AdminPassword}
}

// The server is killed while writers insert. Every acknowledged batch is there whole after the restart, and
// when the writers retry what was not acknowledged, table and rollups count every row exactly once.
func TestKillDuringInsertsLosesNothing(t *testing.T) {
	t.Parallel()
	embeddedOnly(t)
	const rounds, writers, rowsPerBatch, acknowledgedPerRound = 3, 4, 1000, 12

	var mu sync.Mutex
	acknowledged, pending := map[string]bool{}, map[string][]uint64{}
	var next atomic.Uint64
	server := chservetest.Launch(t, chservetest.Options{})
	execute(t, open(t, embedded(server).options("default")), "CREATE DATABASE kept")
	createCounted(t, open(t, embedded(server).options("kept")))

	for range rounds {
		o := embedded(server).options("kept")
		o.MaxOpenConns, o.MaxIdleConns = writers+1, writers+1
		conn, err := clickhouse.Open(o)
		require.NoError(t, err)
		var acks atomic.Int64
		var group sync.WaitGroup
		for range writers {
			group.Go(func() {
				for {
					n := next.Add(1)
					token, ids := fmt.Sprint("batch-", n), make([]uint64, rowsPerBatch)
					for i := range ids {
						ids[i] = n*rowsPerBatch + uint64(i)
					}
					mu.Lock()
					pending[token] = ids
					mu.Unlock()
					if err := insertCounted(t.Context(), conn, token, ids); err != nil {
						return
					}
					mu.Lock()
					acknowledged[token] = true
					delete(pending, token)
					mu.Unlock()
					acks.Add(1)
				}
			})
		}
		require.Eventually(t, func() bool { return acks.Load() >= acknowledgedPerRound }, time.Minute, time.Millisecond)
		server.Kill()
		group.Wait()
		require.NoError(t, conn.Close())
		server = chservetest.Launch(t, chservetest.Options{Data: server.Data})

		conn = open(t, embedded(server).options("kept"))
		rows, err := conn.Query(t.Context(), "SELECT batch, count() FROM spans GROUP BY batch")
		require.NoError(t, err)
		stored := map[string]uint64{}
		for rows.Next() {
			var token string
			var count uint64
			require.NoError(t, rows.Scan(&token, &count))
			stored[token] = count
		}
		require.NoError(t, rows.Err())
		for token := range acknowledged {
			require.Equal(t, uint64(rowsPerBatch), stored[token], token)
		}
		t.Logf("killed with %d acknowledged batches; %d of %d others were stored", len(acknowledged), len(stored)-len(acknowledged), len(pending))
		for token, ids := range pending {
			require.NoError(t, insertCounted(t.Context(), conn, token, ids))
			acknowledged[token] = true
			delete(pending, token)
		}
		total := uint64(len(acknowledged) * rowsPerBatch)
		require.Equal(t, total, one[uint64](t, conn, "SELECT count() FROM spans"))
		require.Equal(t, total, one[uint64](t, conn, "SELECT uniqExact(id) FROM spans"))
		require.Equal(t, total, one[uint64](t, conn, "SELECT sum(requests) FROM minutes"))
		require.Equal(t, total, one[uint64](t, conn, "SELECT sum(requests) FROM hours"))
	}
}
