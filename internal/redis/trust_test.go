package redis_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/routing"
)

func TestTrustIsWhatWasPublishedLast(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c := redis.Open(redis.Options{Addr: s.addr, Logger: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() { require.NoError(t, c.Close()) })
		trusts := func(want map[string]string) {
			t.Helper()
			rules, err := c.Trust(t.Context())
			require.NoError(t, err)
			require.Equal(t, want, rules)
		}
		trusts(map[string]string{})
		require.NoError(t, c.PublishTrust(t.Context(), map[string]string{"org_1": "fallback/a", "org 2": "fallback/a"}))
		trusts(map[string]string{"org_1": "fallback/a", "org 2": "fallback/a"})
		require.NoError(t, c.PublishTrust(t.Context(), map[string]string{"org_1": "fallback/b"}))
		trusts(map[string]string{"org_1": "fallback/b"})
		left, err := s.raw.PTTL(t.Context(), "flyball:trust:fallback").Result()
		require.NoError(t, err)
		require.InDelta(t, routing.TTL, left, float64(routing.TTL)/60)
		require.NoError(t, s.raw.FlushAll(t.Context()).Err())
		trusts(map[string]string{})
		require.NoError(t, c.PublishTrust(t.Context(), map[string]string{"org_1": "fallback/b"}))
		require.NoError(t, c.PublishTrust(t.Context(), nil))
		trusts(map[string]string{})
	})
}
