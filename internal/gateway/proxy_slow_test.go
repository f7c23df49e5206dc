package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/gateway/upstreamtest"
)

// dialled sends a request as it stands, and leaves the connection to the test.
func (r *rig) dialled(text string) net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.server.Listener.Addr().String())
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close() })
	require.NoError(r.t, conn.(*net.TCPConn).SetReadBuffer(4<<10))
	_, err = io.WriteString(conn, text)
	require.NoError(r.t, err)
	return conn
}

func rawCall(body string, length int) string {
	return fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", keyA, length, body)
}

func TestASlowBodyIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{}, func(s *setup) { s.BodyTime = 50 * time.Millisecond })
	conn := r.dialled(rawCall(chat[:20], len(chat)))
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	said := make([]byte, 4<<10)
	n, err := conn.Read(said)
	require.NoError(t, err)
	require.Contains(t, string(said[:n]), "HTTP/1.1 408 ")
	require.Contains(t, string(said[:n]), "request_timeout")
	require.Empty(t, r.upstream.Calls())
	require.Equal(t, http.StatusOK, r.post(keyA, "/v1/chat/completions", chat).StatusCode)
}

// TestASlowClientIsLeft: who takes nothing of its stream holds neither the upstream nor the gateway, and is accounted.
func TestASlowClientIsLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t, upstreamtest.Options{OutputTokens: 100_000}, func(s *setup) { s.WriteTime = 100 * time.Millisecond })
	body := strings.Replace(streamed, ":100}", ":100000}", 1)
	r.dialled(rawCall(body, len(body)))
	span := r.span(1)
	require.False(t, span.UsageComplete)
	require.Positive(t, span.Tokens.Output)
	eventually(t, "the upstream still generates", func() bool { return r.upstream.InFlight() == 0 })
	require.GreaterOrEqual(t, span.Tokens.Output, int64(1000))
	eventually(t, "the promise is not settled", func() bool { cost, ok := r.bank.cost(span.TraceID + "/" + span.SpanID); return ok && cost == span.Cost })
}

// TestUpstreamsAreReadAgain: a changed list or key is in force soon, a bad one never.
func TestUpstreamsAreReadAgain(t *testing.T) {
	t.Parallel()
	second, secondURL := upstreamtest.Start(t, upstreamtest.Options{Key: "sk-second"})
	home := t.TempDir()
	list, key := filepath.Join(home, "upstreams.yaml"), filepath.Join(home, "key")
	write := func(name, text string) { require.NoError(t, os.WriteFile(name, []byte(text), 0o600)) }
	entry := func(url string) string {
		return fmt.Sprintf("- {name: one, family: openai, url: '%s/v1', key_file: '%s', allow_private: true}\n", url, key)
	}
	r := newRig(t, upstreamtest.Options{}, func(s *setup) {
		write(key, upstreamKey)
		write(list, entry("http://"+strings.TrimPrefix(strings.TrimSuffix(s.Gate.Upstreams[0].URL, "/v1"), "http://")))
		s.Gate.Upstreams, s.UpstreamsFile = nil, list
	})
	status := func() int { return r.post(keyA, "/v1/chat/completions", chat).StatusCode }
	require.Equal(t, http.StatusOK, status())
	write(list, "- {name: one, family: nobody}\n")
	eventually(t, "nobody is told of a bad list", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return bytes.Contains(r.log.Bytes(), []byte("stay as they were"))
	})
	require.Equal(t, http.StatusOK, status(), "a bad list is in force")
	write(list, entry(secondURL))
	eventually(t, "the list is not read again", func() bool { return status() == http.StatusBadGateway }) // it has another key
	write(key, "sk-second\n")
	eventually(t, "the key is not read again", func() bool { return status() == http.StatusOK })
	require.NotZero(t, second.Spend().Calls)
}
