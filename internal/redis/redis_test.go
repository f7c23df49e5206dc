package redis_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/flyball-dev/flyball/internal/redis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a Redis under test: the stand-in that the embedded default uses, or a real one.
type server struct {
	addr string
	raw  *goredis.Client // sees the stored keys, past the package under test
}

// everyServer runs the test against both servers. A missing redis-server is a visible skip.
func everyServer(t *testing.T, test func(t *testing.T, s server)) {
	t.Run("miniredis", func(t *testing.T) {
		mini := miniredis.RunT(t)
		test(t, server{addr: mini.Addr(), raw: rawClient(t, mini.Addr())})
	})
	t.Run("redis-server", func(t *testing.T) {
		addr, _ := startRedis(t, "0")
		test(t, server{addr: addr, raw: rawClient(t, addr)})
	})
}

// startRedis runs redis-server on the port (0: a free one) without persistence and waits until it
// is ready; kill ends it as a crash does.
func startRedis(t *testing.T, port string) (addr string, kill func()) {
	t.Helper()
	return startRedisIn(t, port, t.TempDir())
}

// startRedisIn runs one that finds in the folder what was saved there.
func startRedisIn(t *testing.T, port, dir string) (addr string, kill func()) {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not on the PATH; install Debian's redis-server to run this on a real one")
	}
	if port == "0" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		_, port, _ = net.SplitHostPort(l.Addr().String())
		require.NoError(t, l.Close())
	}
	cmd := exec.Command(binary, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go io.Copy(io.Discard, out)
			return "127.0.0.1:" + port, kill
		}
	}
	require.Fail(t, "redis-server ended before it was ready")
	return "", nil
}

func rawClient(t *testing.T, addr string) *goredis.Client {
	c := goredis.NewClient(&goredis.Options{Addr: addr})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func open(t *testing.T, s server) *redis.Client {
	c := redis.Open(redis.Options{Addr: s.addr, Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func TestPing(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		require.NoError(t, open(t, s).Ping(t.Context()))
	})
	gone := miniredis.RunT(t)
	c := open(t, server{addr: gone.Addr()})
	gone.Close()
	require.ErrorContains(t, c.Ping(t.Context()), "pinging redis")
}

const patience = 10 * time.Second
