package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/apitest"
	"github.com/flyball-dev/flyball/internal/config"
	"github.com/flyball-dev/flyball/internal/ingest"
	"github.com/flyball-dev/flyball/internal/redis"
)

func TestPatience(t *testing.T) {
	away := &exitError{exitAway, errors.New("away")}
	quiet := slog.New(slog.DiscardHandler)
	// after answers once so much time has passed.
	after := func(wait time.Duration, answer error) func() error {
		began := time.Now()
		return func() error {
			if time.Since(began) < wait {
				return away
			}
			return answer
		}
	}
	t.Run("a server that comes up late is waited for", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			require.NoError(t, patiently(t.Context(), quiet, time.Minute, after(50*time.Second, nil)))
		})
	})
	t.Run("for so long", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			require.ErrorIs(t, patiently(t.Context(), quiet, time.Minute, after(time.Hour, nil)), away)
			require.Less(t, time.Since(began), 2*time.Minute)
		})
	})
	t.Run("or without end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			require.NoError(t, patiently(t.Context(), quiet, 0, after(24*time.Hour, nil)))
		})
	})
	t.Run("another failure is final", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			broken := errors.New("broken")
			require.ErrorIs(t, patiently(t.Context(), quiet, 0, after(time.Minute, broken)), broken)
		})
	})
	t.Run("a stop is not a server's fault", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.ErrorIs(t, patiently(ctx, quiet, 0, after(time.Hour, nil)), context.DeadlineExceeded)
		})
	})
}

// freeAddress is one at which nothing listens, most likely.
func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// front is a system whose gateway can serve.
func front(t *testing.T, change func(*config.Config)) *system {
	store := miniredis.RunT(t)
	c := config.Default()
	c.Ingest.Listen, c.Console.Listen, c.Temporal.Address = freeAddress(t), freeAddress(t), freeAddress(t)
	c.OTLP.Listen = freeAddress(t)
	c.Redis.Addr, c.Spool = store.Addr(), t.TempDir()
	change(&c)
	s := &system{config: c, log: slog.New(slog.DiscardHandler)}
	require.NoError(t, s.loadFiles())
	s.redis = redis.Open(redis.Options{Addr: c.Redis.Addr, Logger: s.log})
	t.Cleanup(s.close)
	return s
}

// get is the status and body of an answer; the status is 0 when nobody answers.
func get(t require.TestingT, url string) (int, string) {
	r, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return r.StatusCode, string(body)
}

// TestServeGoesOnWithoutTemporal: gateway and console serve while Temporal is away, and a stop is no error.
func TestServeGoesOnWithoutTemporal(t *testing.T) {
	t.Parallel()
	s := front(t, func(*config.Config) {})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, []config.Role{config.Gateway, config.Console}) }()
	for url, want := range map[string]int{
		"http://" + s.config.Ingest.Listen + "/v1/flags":       http.StatusOK,
		"http://" + s.config.Console.Listen + "/":              http.StatusOK,
		"http://" + s.config.Console.Listen + "/api/incidents": http.StatusServiceUnavailable,
	} {
		require.Eventually(t, func() bool { status, _ := get(t, url); return status == want }, 10*time.Second, 10*time.Millisecond, "%s: want %d", url, want)
	}
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// TestServeStartsNothingThatItCannotFinish: a taken port is found before anything runs.
func TestServeStartsNothingThatItCannotFinish(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	s := front(t, func(c *config.Config) { c.Console.Listen = taken.Addr().String() })
	err = s.serve(t.Context(), []config.Role{config.Gateway, config.Console})
	require.ErrorContains(t, err, "console.listen")
	status, _ := get(t, "http://"+s.config.Ingest.Listen+"/healthz")
	require.Zero(t, status)
}

func TestWhoMayAskTheGateway(t *testing.T) {
	t.Parallel()
	tokens := []config.Token{{Hash: ingest.HashToken("for-org"), Tenant: "org"}, {Hash: ingest.HashToken("for-all")}}
	for _, tc := range []struct {
		name          string
		tokens        []config.Token
		remote, token string
		want          int
		says          string
	}{
		{name: "this machine, no tokens", remote: "127.0.0.1:9", want: 200},
		{name: "elsewhere, no tokens", remote: "192.0.2.1:9", want: 403, says: `{"error":{"code":"forbidden","message":"no ingest tokens are configured`},
		{name: "no token", tokens: tokens, remote: "127.0.0.1:9", want: 401, says: `{"error":{"code":"unauthorized"`},
		{name: "a wrong token", tokens: tokens, remote: "127.0.0.1:9", token: "for-none", want: 401},
		{name: "a tenant's token", tokens: tokens, remote: "127.0.0.1:9", token: "for-org", want: 403},
		{name: "a token for all", tokens: tokens, remote: "192.0.2.1:9", token: "for-all", want: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := front(t, func(c *config.Config) { c.Tokens = tc.tokens })
			require.NoError(t, s.openSpool())
			gate, err := s.openGateway()
			require.NoError(t, err)
			handler := apitest.Hold(t, s.frontHandler(gate, nil))
			for _, r := range []*http.Request{
				httptest.NewRequest(http.MethodGet, "/v1/flags", nil),
				httptest.NewRequest(http.MethodGet, "/v1/sampling?tenant=a&model=b&trace_id=c", nil),
				httptest.NewRequest(http.MethodPost, "/v1/decide", strings.NewReader(`{"tenant_id":"a","trace_id":"b","requested_model":"c"}`)),
			} {
				r.RemoteAddr, r.Host = tc.remote, "127.0.0.1:8080"
				if tc.token != "" {
					r.Header.Set("Authorization", "Bearer "+tc.token)
				}
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, r)
				require.Equal(t, tc.want, w.Code, w.Body)
				require.Contains(t, w.Body.String(), tc.says)
			}
			r := httptest.NewRequest(http.MethodGet, "/healthz", nil)
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			require.Equal(t, http.StatusOK, w.Code, "health is no secret")
		})
	}
}

// TestATenantsEvaluatorAsksWhatToScore: of its own tenant alone, and nothing else.
func TestATenantsEvaluatorAsksWhatToScore(t *testing.T) {
	t.Parallel()
	s := front(t, func(c *config.Config) {
		c.Tokens = []config.Token{
			{Name: "judge", Hash: ingest.HashToken("judge"), Tenant: "org", Scopes: []string{"quality"}, RequestsPerSecond: 3},
			{Name: "sender", Hash: ingest.HashToken("sender"), Tenant: "org", Scopes: []string{"spans"}},
			{Name: "gateway", Hash: ingest.HashToken("gateway"), Scopes: []string{"decide"}},
		}
	})
	handler := apitest.Hold(t, s.frontHandler(s.gateway(), nil))
	ask := func(token, path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	own := "/v1/sampling?tenant=org&model=m&trace_id=t"
	require.Equal(t, 200, ask("judge", own).Code)
	w := ask("judge", "/v1/sampling?tenant=other&model=m&trace_id=t")
	require.Equal(t, 403, w.Code)
	require.Contains(t, w.Body.String(), `the tenant \"org\" alone, not for \"other\"`)
	require.Contains(t, ask("judge", "/v1/flags").Body.String(), `\"judge\" is not for decide`)
	require.Equal(t, 403, ask("sender", own).Code)
	require.Equal(t, 403, ask("gateway", own).Code)
	require.Equal(t, 200, ask("gateway", "/v1/flags").Code)
	require.Equal(t, 200, ask("judge", own).Code)
	w = ask("judge", own)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
}

// TestTokensAreReadAgain: a file of tokens that has changed counts without a restart, and a bad one changes nothing.
func TestTokensAreReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tokens.yaml")
	write := func(text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	stanza := func(secret, more string) string {
		return "- {name: n, hash: " + ingest.HashToken(secret) + more + "}\n"
	}
	write(stanza("first", ""))
	s := front(t, func(c *config.Config) { c.TokensFile = file })
	letsIn := func(secret string) bool {
		_, err := s.door.AdmitToken(secret, ingest.ScopeSpans, time.Now())
		return err == nil
	}
	require.True(t, letsIn("first"))
	for _, bad := range []string{"", "[]", "- {hash: x}", "- {hsah: x}", stanza("second", ", scopes: [all]"), stanza("second", "") + stanza("second", "")} {
		write(bad)
		s.reloadTokens()
		require.True(t, letsIn("first") && !letsIn("second"), bad)
	}
	synctest.Test(t, func(t *testing.T) {
		write(stanza("first", ", next_hash: "+ingest.HashToken("second"))) // while the rest of the system starts
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { s.watchTokens(ctx); close(ended) }()
		time.Sleep(readTokensEvery + time.Second)
		require.True(t, letsIn("first") && letsIn("second"), "both while one replaces the other")
		write(stanza("second", ""))
		time.Sleep(readTokensEvery)
		require.True(t, !letsIn("first") && letsIn("second"))
		stop()
		<-ended
	})
}

func TestBadTokensAreBadConfiguration(t *testing.T) {
	t.Parallel()
	s := &system{config: config.Default(), log: slog.New(slog.DiscardHandler)}
	s.config.TokensFile = filepath.Join(t.TempDir(), "none.yaml")
	require.ErrorContains(t, s.loadFiles(), "reading the ingest tokens")
	s.config.TokensFile = ""
	s.config.Tokens = []config.Token{{Name: "n", Hash: ingest.HashToken("x"), Tenant: "org", Scopes: []string{"decide"}}}
	require.ErrorContains(t, s.loadFiles(), `ingest token "n": scope decide concerns every tenant`)
}
