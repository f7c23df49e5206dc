package main_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/cmd/chserve/chservetest"
)

// testReadersKeepTheirBounds: whatever one reader sends, it is refused with a reason and the others go on.
func testReadersKeepTheirBounds(t *testing.T, server *chservetest.Server) {
	flyball := url.Values{"database": {"flyball"}}
	for _, test := range []struct {
		name, code, statement, reason string
		parameters                    url.Values
	}{
		{"a long statement", "62", "SELECT '" + strings.Repeat("x", 300_000) + "'", "longer than 262144 bytes", flyball},
		{"a long URL", "36", "", "longer than 65536 bytes", url.Values{"query": {"SELECT '" + strings.Repeat("x", 70_000) + "'"}}},
		{"a doubled parameter", "36", "SELECT 1", "database is there 2 times", url.Values{"database": {"flyball", "private"}}},
		{"a limit that is none", "36", "SELECT 1", "max_threads is not a number", url.Values{"max_threads": {"many"}}},
		{"endless counting", "158", "SELECT count() FROM numbers(100000000000) WHERE sipHash64(number) = 1", "max_rows_to_read", flyball},
		{"a slow statement", "159", "SELECT max(sipHash64(number)) FROM numbers(1900000000)", "Timeout exceeded", url.Values{"max_execution_time": {"1"}}},
		{"much memory", "241", "SELECT length(groupArray(number)) FROM numbers(1900000000)", "memory limit exceeded", url.Values{"max_memory_usage": {"100000000"}}},
		{"no limit of memory", "241", "SELECT length(groupArray(number)) FROM numbers(1900000000)", "memory limit exceeded", url.Values{"max_memory_usage": {"0"}, "max_execution_time": {"0"}}},
		{"a large answer", "396", "SELECT number FROM numbers(2000000)", "Limit for result exceeded", flyball},
		{"a large answer with a limit of its own", "396", "SELECT number FROM numbers(2000000)", "Limit for result exceeded", url.Values{"max_result_rows": {"9000000"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, text := post(t, server, "acme-reader", "a", test.parameters, test.statement) // the code is in the text when rows came before it
			require.Contains(t, text, "Code: "+test.code)
			require.Contains(t, text, test.reason)
			require.Less(t, len(text), 32<<20)
		})
	}
	for _, header := range []string{"X-ClickHouse-Database", "X-ClickHouse-Format", "X-ClickHouse-Role", "X-ClickHouse-Quota"} {
		t.Run(header, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, strings.NewReader("SELECT 1"))
			require.NoError(t, err)
			request.SetBasicAuth("acme-reader", "a")
			request.Header.Set(header, "private")
			answer, err := http.DefaultClient.Do(request)
			require.NoError(t, err)
			defer answer.Body.Close()
			require.Equal(t, http.StatusForbidden, answer.StatusCode)
			require.Equal(t, "164", answer.Header.Get("X-ClickHouse-Exception-Code"))
		})
	}
	t.Run("a gzip bomb", func(t *testing.T) {
		var bomb bytes.Buffer
		zip := gzip.NewWriter(&bomb)
		_, err := io.CopyN(zip, zeros{}, 100<<20)
		require.NoError(t, err)
		require.NoError(t, zip.Close())
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, &bomb)
		require.NoError(t, err)
		request.SetBasicAuth("acme-reader", "a")
		request.Header.Set("Content-Encoding", "gzip")
		answer, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(text), "longer than 262144 bytes")
	})
	t.Run("many at once", func(t *testing.T) { testTurns(t, server) })
	t.Run("a statement that does not come", func(t *testing.T) { testSlowStatement(t, server) })
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// testTurns: a reader runs four statements at once, a fifth is refused after a while, and an admin never waits.
func testTurns(t *testing.T, server *chservetest.Server) {
	var running sync.WaitGroup
	refused := make(chan string, 8)
	for range 8 {
		running.Go(func() {
			code, text := post(t, server, "busy-reader", "busy", url.Values{"max_execution_time": {"7"}, "max_threads": {"1"}},
				"SELECT max(sipHash128(toString(number))) FROM numbers(1900000000)")
			if code == "202" {
				refused <- text
			}
		})
	}
	admin := open(t, embedded(server).options("default"))
	require.Equal(t, uint8(1), one[uint8](t, admin, "SELECT toUInt8(1)"))
	running.Wait()
	require.NotEmpty(t, refused)
	require.Contains(t, <-refused, "busy-reader: Too many simultaneous queries: 4 of this user run already")
}

// testSlowStatement: who announces a statement and does not send it is told so, and holds nothing.
func testSlowStatement(t *testing.T, server *chservetest.Server) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(server.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Length: 100\r\n\r\nSELECT",
		base64.StdEncoding.EncodeToString([]byte("globex-reader:g")))
	require.NoError(t, err)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	defer answer.Body.Close()
	require.Equal(t, http.StatusRequestTimeout, answer.StatusCode)
	require.Equal(t, "159", answer.Header.Get("X-ClickHouse-Exception-Code"))
}
