package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"

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
	c.Redis.Addr = store.Addr()
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
		{name: "a tenant's token", tokens: tokens, remote: "127.0.0.1:9", token: "for-org", want: 403, says: `the tenant \"org\" alone`},
		{name: "a token for all", tokens: tokens, remote: "192.0.2.1:9", token: "for-all", want: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := front(t, func(c *config.Config) { c.Tokens = tc.tokens })
			handler := s.frontHandler(s.gateway(), nil)
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
