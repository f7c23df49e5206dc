package redis_test

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	key   = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func seq(n int64) routing.Sequence { return routing.Sequence{Loop: 1_770_000_000_000, N: n} }

func route(n int64, share float64) routing.Flag {
	return routing.Flag{
		Key: key, Kind: routing.Route, Value: "claude-3-haiku", Share: share, Reason: "cost", Decision: "d",
		Sequence: seq(n), RenewedAt: start,
	}
}

func apply(t require.TestingT, c *redis.Client, f routing.Flag) (bool, routing.Flag) {
	applied, current, err := c.Apply(context.Background(), f)
	require.NoError(t, err)
	return applied, current
}

func flags(t require.TestingT, c *redis.Client) []routing.Flag {
	all, _, err := c.Flags(context.Background())
	require.NoError(t, err)
	return all
}

func TestFencing(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c := open(t, s)
		ctx := t.Context()

		first, second := route(1, 0.1), route(2, 0.9473684210526315)
		applied, current := apply(t, c, second)
		require.True(t, applied)
		require.Equal(t, second, current)

		applied, current = apply(t, c, first)
		require.False(t, applied, "a late order won")
		require.Equal(t, second, current)

		retry := second
		retry.Reason = "the retry of an order changes nothing"
		applied, current = apply(t, c, retry)
		require.True(t, applied, "a retry is no failure")
		require.Equal(t, second, current)
		require.Equal(t, []routing.Flag{second}, flags(t, c))

		released, err := c.Release(ctx, key, routing.Route, seq(1))
		require.NoError(t, err)
		require.False(t, released, "a late release won")
		for range 2 {
			released, err = c.Release(ctx, key, routing.Route, seq(3))
			require.NoError(t, err)
			require.True(t, released)
			require.Empty(t, flags(t, c))
		}

		for _, late := range []routing.Flag{first, second, route(3, 0.5)} {
			applied, current = apply(t, c, late)
			require.False(t, applied, "order %d came back after release 3", late.Sequence.N)
			require.Equal(t, routing.Flag{Key: key, Kind: routing.Route, Sequence: seq(3)}, current)
		}
		nextLoop := route(0, 0.5)
		nextLoop.Sequence.Loop++
		applied, _ = apply(t, c, nextLoop)
		require.True(t, applied, "a later loop starts at zero and wins")
	})
}

func TestEveryChangeIsAnnounced(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		before, err := c.Revision(ctx)
		require.NoError(t, err)
		require.NotEmpty(t, before.Epoch)
		moved := func(what string) {
			after, err := c.Revision(ctx)
			require.NoError(t, err)
			require.Equal(t, before.Epoch, after.Epoch)
			require.Greater(t, after.Version, before.Version, what)
			before = after
		}
		apply(t, c, route(1, 0.1))
		moved("apply")
		apply(t, c, route(1, 0.1))
		moved("a retry, whose first attempt may have died before it announced")
		_, err = c.Renew(ctx, key, routing.Route, seq(1), start.Add(time.Minute))
		require.NoError(t, err)
		moved("renew")
		_, err = c.Release(ctx, key, routing.Route, seq(2))
		require.NoError(t, err)
		moved("release")

		apply(t, c, route(1, 0.1))
		after, err := c.Revision(ctx)
		require.NoError(t, err)
		require.Equal(t, before, after, "an order that lost changed nothing")
	})
}

func TestTTL(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		const flagKey, fenceKey = "flyball:flag:{org_42}:claude-3-opus:route", "flyball:fence:{org_42}:claude-3-opus:route"
		ttl := func(key string) time.Duration {
			d, err := s.raw.PTTL(ctx, key).Result()
			require.NoError(t, err)
			return d
		}
		apply(t, c, route(1, 0.1))
		require.InDelta(t, routing.TTL, ttl(flagKey), float64(time.Minute))
		require.InDelta(t, redis.FenceTTL, ttl(fenceKey), float64(time.Minute))

		require.NoError(t, s.raw.PExpire(ctx, flagKey, time.Minute).Err())
		renewed, err := c.Renew(ctx, key, routing.Route, seq(1), start.Add(time.Hour))
		require.NoError(t, err)
		require.True(t, renewed)
		require.InDelta(t, routing.TTL, ttl(flagKey), float64(time.Minute))
		want := route(1, 0.1)
		want.RenewedAt = start.Add(time.Hour)
		require.Equal(t, []routing.Flag{want}, flags(t, c))

		renewed, err = c.Renew(ctx, key, routing.Route, seq(1), start)
		require.NoError(t, err)
		require.True(t, renewed)
		require.Equal(t, []routing.Flag{want}, flags(t, c), "a late renewal turned the time back")

		renewed, err = c.Renew(ctx, key, routing.Route, seq(2), start)
		require.NoError(t, err)
		require.False(t, renewed, "another order's flag was renewed")

		pin := route(1, 1)
		pin.Kind = routing.Pin
		apply(t, c, pin)
		require.Equal(t, time.Duration(-1), ttl("flyball:flag:{org_42}:claude-3-opus:pin"), "a pin outlives its owner")
		require.Equal(t, time.Duration(-1), ttl("flyball:fence:{org_42}:claude-3-opus:pin"), "and so does its fence")
		renewed, err = c.Renew(ctx, key, routing.Pin, seq(1), start.Add(time.Hour))
		require.NoError(t, err)
		require.True(t, renewed)
		require.Equal(t, time.Duration(-1), ttl("flyball:flag:{org_42}:claude-3-opus:pin"))
		_, err = c.Release(ctx, key, routing.Pin, seq(2))
		require.NoError(t, err)
		require.InDelta(t, redis.FenceTTL, ttl("flyball:fence:{org_42}:claude-3-opus:pin"), float64(time.Minute))
	})
}

func TestLapsedFlag(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		apply(t, c, route(5, 0.1))
		require.NoError(t, s.raw.Del(ctx, "flyball:flag:{org_42}:claude-3-opus:route").Err())

		require.Empty(t, flags(t, c))
		listed, err := s.raw.SCard(ctx, "flyball:flags:{org_42}").Result()
		require.NoError(t, err)
		require.Zero(t, listed, "a lapsed flag stays listed")

		renewed, err := c.Renew(ctx, key, routing.Route, seq(5), start)
		require.NoError(t, err)
		require.False(t, renewed)
		applied, _ := apply(t, c, route(4, 0.1))
		require.False(t, applied, "an older order came back after the flag had lapsed")
		applied, _ = apply(t, c, route(5, 0.1))
		require.True(t, applied, "the owner cannot put its lapsed flag on again")
		require.Len(t, flags(t, c), 1)
	})
}

func TestHostileNames(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		hostile := []string{
			"a", "a:b", "{a}", "a}", "a*", "*?[a]", "a b", "a\nb", "a\x00b", "openai/gpt-4o", "%3A", ":", "}:x:route", "a:route", "ü", "日本",
			strings.Repeat("x", 512),
		}
		var want []routing.Flag
		for _, tenant := range hostile {
			for _, model := range hostile {
				f := route(1, 0.5)
				f.Key = usage.Key{Tenant: tenant, Model: model}
				want = append(want, f)
				applied, _ := apply(t, c, f)
				require.True(t, applied, "%q met another key's fence", f.Key)
			}
		}
		require.ElementsMatch(t, want, flags(t, c))
		keys, err := s.raw.Keys(ctx, "flyball:flag:*").Result()
		require.NoError(t, err)
		for _, k := range keys {
			require.Equal(t, 1, strings.Count(k, "{"), "more than one hash tag in %q", k)
			require.Equal(t, 4, strings.Count(k, ":"), "%q has more parts than a flag's key", k)
		}
	})
}

func TestRefusals(t *testing.T) {
	c := open(t, server{addr: "127.0.0.1:1"})
	for _, tt := range []struct {
		name string
		bend func(*routing.Flag)
		says string
	}{
		{"no tenant", func(f *routing.Flag) { f.Key.Tenant = "" }, "tenant is empty"},
		{"no model", func(f *routing.Flag) { f.Key.Model = "" }, "model is empty"},
		{"long model", func(f *routing.Flag) { f.Key.Model = strings.Repeat("x", 513) }, "more than 512"},
		{"not UTF-8", func(f *routing.Flag) { f.Key.Tenant = "\xff" }, "not UTF-8"},
		{"pseudo-key", func(f *routing.Flag) { f.Key.Model = usage.AnyModel }, "owns no flags"},
		{"experiment", func(f *routing.Flag) { f.Key = f.Key.OfExperiment("ab-1") }, "owns no flags"},
		{"kind", func(f *routing.Flag) { f.Kind = "x:y" }, "no kind of flag"},
		{"share above one", func(f *routing.Flag) { f.Share = 1.1 }, "not in 0..1"},
		{"share not a number", func(f *routing.Flag) { f.Share = math.NaN() }, "not in 0..1"},
		{"nowhere to route", func(f *routing.Flag) { f.Value = "" }, "names no model"},
		{"sequence", func(f *routing.Flag) { f.Sequence.N = 1 << 53 }, "not in 0..2^53"},
		{"long reason", func(f *routing.Flag) { f.Reason = strings.Repeat("x", 20_000) }, "shorten its reason"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := route(1, 0.5)
			tt.bend(&f)
			_, _, err := c.Apply(t.Context(), f)
			require.ErrorContains(t, err, tt.says)
		})
	}
	_, err := c.Release(t.Context(), usage.Key{}, routing.Route, seq(1))
	require.ErrorContains(t, err, "tenant is empty")
	_, err = c.Renew(t.Context(), key, "x", seq(1), start)
	require.ErrorContains(t, err, "no kind of flag")
}

func TestForeignValuesAreLeftOut(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		apply(t, c, route(1, 0.1))
		for name, value := range map[string]string{
			"flyball:flag:{org_42}:garbage:route": `{`,
			"flyball:flag:{org_42}:forged:route":  `{"key":{"tenant":"org_42","model":"claude-3-opus"},"kind":"route","value":"x","share":1}`,
			"flyball:flag:{org_42}:absurd:route":  `{"key":{"tenant":"org_42","model":"absurd"},"kind":"route","value":"x","share":7}`,
		} {
			require.NoError(t, s.raw.Set(ctx, name, value, 0).Err())
			require.NoError(t, s.raw.SAdd(ctx, "flyball:flags:{org_42}", name).Err())
		}
		require.Equal(t, []routing.Flag{route(1, 0.1)}, flags(t, c))
	})
}

// TestOrdersInAnyOrder plays orders, their retries and lapses in any interleaving against a model of
// what the fence promises.
func TestOrdersInAnyOrder(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		rapid.Check(t, func(t *rapid.T) {
			require.NoError(t, s.raw.FlushAll(ctx).Err())
			var (
				fence  routing.Sequence
				known  bool // any order has been seen
				on     bool // the highest order put a flag on
				stored *routing.Flag
			)
			steps := rapid.IntRange(1, 25).Draw(t, "steps")
			for range steps {
				sq := routing.Sequence{Loop: rapid.Int64Range(1, 2).Draw(t, "loop"), N: rapid.Int64Range(0, 3).Draw(t, "n")}
				order := sq.Compare(fence)
				switch rapid.SampledFrom([]string{"apply", "release", "renew", "lapse"}).Draw(t, "op") {
				case "apply":
					f := route(0, rapid.Float64Range(0, 1).Draw(t, "share"))
					f.Sequence = sq
					want := !known || order > 0 || (order == 0 && on)
					if want && (stored == nil || order != 0) {
						stored, fence, known, on = &f, sq, true, true
					}
					applied, current := apply(t, c, f)
					require.Equal(t, want, applied)
					switch {
					case stored != nil:
						require.Equal(t, *stored, current)
					default:
						require.Equal(t, fence, current.Sequence)
					}
				case "release":
					want := !known || order >= 0
					if want {
						stored, fence, known, on = nil, sq, true, false
					}
					released, err := c.Release(ctx, key, routing.Route, sq)
					require.NoError(t, err)
					require.Equal(t, want, released)
				case "renew":
					at := start.Add(time.Duration(rapid.IntRange(0, 100).Draw(t, "minute")) * time.Minute)
					want := stored != nil && stored.Sequence == sq
					if want && at.After(stored.RenewedAt) {
						stored.RenewedAt = at
					}
					renewed, err := c.Renew(ctx, key, routing.Route, sq, at)
					require.NoError(t, err)
					require.Equal(t, want, renewed)
				case "lapse":
					require.NoError(t, s.raw.Del(ctx, "flyball:flag:{org_42}:claude-3-opus:route").Err())
					stored = nil
				}
				if stored == nil {
					require.Empty(t, flags(t, c))
				} else {
					require.Equal(t, []routing.Flag{*stored}, flags(t, c))
				}
			}
		})
	})
}

// TestConcurrentWriters lets many writers race, each order sent three times over: whatever the
// interleaving, the highest order stands, and while they race the stored sequence never falls.
func TestConcurrentWriters(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		const orders = 60
		c := open(t, s)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var watch sync.WaitGroup
		watch.Go(func() {
			var last routing.Sequence
			for ctx.Err() == nil {
				all, _, err := c.Flags(ctx)
				if err != nil || len(all) == 0 {
					continue
				}
				if all[0].Sequence.Compare(last) < 0 {
					t.Errorf("the stored sequence fell from %v to %v", last, all[0].Sequence)
				}
				last = all[0].Sequence
			}
		})
		var g errgroup.Group
		for writer := range 3 {
			g.Go(func() error {
				for i := range int64(orders) {
					n := (i*7+int64(writer)*13)%orders + 1
					var err error
					if n%4 == 0 { // the last order, 60, is a release
						_, err = c.Release(t.Context(), key, routing.Route, seq(n))
					} else {
						_, _, err = c.Apply(t.Context(), route(n, 0.5))
					}
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		require.NoError(t, g.Wait())
		stop()
		watch.Wait()
		require.Empty(t, flags(t, c))
		applied, current := apply(t, c, route(59, 0.5))
		require.False(t, applied)
		require.Equal(t, seq(60), current.Sequence)
	})
}

func TestWipedRedisHasAnotherEpoch(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c, ctx := open(t, s), t.Context()
		apply(t, c, route(3, 0.1))
		before, err := c.Revision(ctx)
		require.NoError(t, err)
		require.NoError(t, s.raw.FlushAll(ctx).Err())

		none, after, err := c.Flags(ctx)
		require.NoError(t, err)
		require.Empty(t, none)
		require.NotEqual(t, before.Epoch, after.Epoch)
		applied, _ := apply(t, c, route(3, 0.1))
		require.True(t, applied, "the owner cannot assert its flag again")
		again, err := c.Revision(ctx)
		require.NoError(t, err)
		require.Equal(t, after.Epoch, again.Epoch, "the new epoch lasts")
	})
}

// watch subscribes until the test ends and counts the notices.
func watch(t *testing.T, c *redis.Client) *atomic.Int64 {
	var notices atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Subscribe(ctx, func() { notices.Add(1) }) }()
	t.Cleanup(func() {
		stop()
		require.ErrorIs(t, <-ended, context.Canceled)
	})
	require.Eventually(t, func() bool { return notices.Load() > 0 }, patience, time.Millisecond, "no notice of the subscription")
	return &notices
}

func TestSubscribe(t *testing.T) {
	everyServer(t, func(t *testing.T, s server) {
		c := open(t, s)
		notices := watch(t, c)
		before := notices.Load()
		apply(t, c, route(1, 0.1))
		require.Eventually(t, func() bool { return notices.Load() > before }, patience, time.Millisecond)
	})
}

func TestReconnect(t *testing.T) {
	t.Run("miniredis", func(t *testing.T) {
		mini := miniredis.RunT(t)
		reconnect(t, mini.Addr(), mini.Close, func() { require.NoError(t, mini.Restart()) })
	})
	t.Run("redis-server", func(t *testing.T) {
		addr, kill := startRedis(t, "0")
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		reconnect(t, addr, kill, func() { startRedis(t, port) })
	})
}

// reconnect takes the server away and brings it back: calls fail with an error meanwhile, then work
// again, and the subscriber is told that it may have missed something.
func reconnect(t *testing.T, addr string, leave, comeBack func()) {
	c := open(t, server{addr: addr})
	notices := watch(t, c)
	apply(t, c, route(1, 0.1))
	leave()
	_, _, err := c.Flags(t.Context())
	require.Error(t, err)
	require.False(t, errors.Is(err, context.Canceled))
	before := notices.Load()
	comeBack()
	require.Eventually(t, func() bool { _, _, err := c.Flags(t.Context()); return err == nil }, patience, 10*time.Millisecond)
	require.Eventually(t, func() bool { return notices.Load() > before }, patience, 10*time.Millisecond, "no notice after the server came back")
	applied, _ := apply(t, c, route(2, 0.5))
	require.True(t, applied)
}
