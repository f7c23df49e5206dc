package devstack

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// redisSays sends commands on one connection and returns the answer to the last.
func redisSays(t *testing.T, port int, commands ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address(port))
	require.NoError(t, err)
	defer conn.Close()
	reader, answer := bufio.NewReader(conn), ""
	for _, command := range commands {
		words := strings.Fields(command)
		_, err = fmt.Fprintf(conn, "*%d\r\n", len(words))
		require.NoError(t, err)
		for _, word := range words {
			_, err = fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(word), word)
			require.NoError(t, err)
		}
		answer, err = reader.ReadString('\n')
		require.NoError(t, err)
	}
	return strings.TrimSpace(answer)
}

func TestRedisKeysExpireByTheRealClock(t *testing.T) {
	t.Parallel()
	port := freeBase(t)
	stop, err := StartRedis(port, "secret")
	require.NoError(t, err)
	defer stop()

	require.Contains(t, redisSays(t, port, "GET key"), "NOAUTH")
	require.Equal(t, "+OK", redisSays(t, port, "AUTH secret", "SET key value PX 50"))
	require.Eventually(t, func() bool { return redisSays(t, port, "AUTH secret", "EXISTS key") == ":0" }, patience, 10*time.Millisecond)

	_, err = StartRedis(port, "secret")
	require.ErrorContains(t, err, "starting Redis on port")
}
