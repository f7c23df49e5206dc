package routing_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/routing"
	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	key = usage.Key{Tenant: "org_42", Model: "claude-3-opus"}
	now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

func flag(kind routing.Kind, value string, share float64) routing.Flag {
	return routing.Flag{
		Key: key, Kind: kind, Value: value, Share: share, Reason: "because of " + string(kind),
		Decision: "decision/" + string(kind), Sequence: routing.Sequence{Loop: 1, N: 1}, RenewedAt: now,
	}
}

func snapshot(flags ...routing.Flag) *routing.Snapshot {
	return routing.NewSnapshot(flags, routing.Revision{Epoch: "e", Version: 1})
}

func request(trace string) routing.Request {
	return routing.Request{TenantID: key.Tenant, TraceID: trace, RequestedModel: key.Model, InputTokens: 100}
}

func TestDecide(t *testing.T) {
	route, pin, stop := flag(routing.Route, "cheap", 1), flag(routing.Pin, "previous", 1), flag(routing.Stop, "", 1)
	held := flag(routing.Route, "cheap", 0)
	expired, abandoned, abandonedPin := route, route, pin
	expired.ExpiresAt = now
	abandoned.RenewedAt = now.Add(-routing.TTL)
	abandonedPin.RenewedAt = now.Add(-100 * routing.TTL)
	older := flag(routing.Route, "older", 1)
	older.Sequence = routing.Sequence{Loop: 0, N: 9}
	other := route
	other.Key.Tenant = "org_43"

	direct := routing.Answer{Model: key.Model, Route: routing.Direct, Arm: usage.None, Reason: "no flag is on for this key"}
	holdback := routing.Answer{
		Model: key.Model, Route: routing.Direct, Arm: usage.Holdback, DecisionID: held.Decision,
		Reason: "holdback: left alone to show whether the flag helps",
	}
	treated := func(f routing.Flag) routing.Answer {
		return routing.Answer{Model: f.Value, Route: string(f.Kind), Arm: usage.Treated, Share: f.Share, DecisionID: f.Decision, Reason: f.Reason}
	}
	stopped := treated(stop)
	stopped.Model, stopped.Stop = key.Model, true

	for _, tt := range []struct {
		name  string
		flags []routing.Flag
		want  routing.Answer
	}{
		{"no flag", nil, direct},
		{"another tenant's flag", []routing.Flag{other}, direct},
		{"route", []routing.Flag{route}, treated(route)},
		{"nobody is treated at share 0", []routing.Flag{held}, holdback},
		{"pin goes before route", []routing.Flag{route, pin}, treated(pin)},
		{"stop goes before pin", []routing.Flag{route, pin, stop}, stopped},
		{"a call that the pin leaves alone is routed", []routing.Flag{route, flag(routing.Pin, "previous", 0)}, treated(route)},
		{"expired", []routing.Flag{expired}, direct},
		{"its owner is silent", []routing.Flag{abandoned}, direct},
		{"a pin outlives its owner", []routing.Flag{abandonedPin}, treated(abandonedPin)},
		{"sampling makes no arm", []routing.Flag{flag(routing.Sampling, "", 1)}, direct},
		{"an unknown kind is ignored", []routing.Flag{flag("teleport", "moon", 1)}, direct},
		{"the higher sequence counts", []routing.Flag{route, older}, treated(route)},
		{"in whatever order", []routing.Flag{older, route}, treated(route)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, routing.Decide(snapshot(tt.flags...), request("t1"), now))
		})
	}
	require.Equal(t, direct, routing.Decide(&routing.Snapshot{}, request("t1"), now), "the zero snapshot")
}

// TestPositionIsFixed guards the hash: gateways of two versions must put a session in the same arm.
func TestPositionIsFixed(t *testing.T) {
	require.InDelta(t, 0.7159116148686464, routing.Position(key, "decision/1", "session"), 1e-9)
	require.NotEqual(t,
		routing.Position(usage.Key{Tenant: "ab", Model: "c"}, "d", "e"),
		routing.Position(usage.Key{Tenant: "a", Model: "bc"}, "d", "e"))
}

// TestSharesConverge holds the treated count of many sessions, of several shapes of id, against the
// exact binomial distribution; the ids are fixed, so that the outcome is too.
func TestSharesConverge(t *testing.T) {
	const n, tail = 20_000, 1e-5
	rng := rand.New(rand.NewPCG(7, 7))
	shapes := map[string]func(i int) string{
		"counted": func(i int) string { return fmt.Sprintf("s%d", i) },
		"single":  func(i int) string { return string(rune(0x4e00 + i)) },
		"random":  func(int) string { return fmt.Sprintf("%016x%016x", rng.Uint64(), rng.Uint64()) },
	}
	for name, id := range shapes {
		for _, share := range []float64{0.01, 0.1, 0.5, 0.95} {
			s := snapshot(flag(routing.Route, "cheap", share))
			treated := 0
			for i := range n {
				r := request("t")
				r.SessionID = id(i)
				if routing.Decide(s, r, now).Arm == usage.Treated {
					treated++
				}
			}
			below, above := binomialTails(n, treated, share)
			require.Greater(t, below, tail, "%s ids at share %v: only %d of %d treated", name, share, treated, n)
			require.Greater(t, above, tail, "%s ids at share %v: %d of %d treated", name, share, treated, n)
		}
	}
}

// TestDecisionsDrawAnew checks that the holdbacks of two decisions are independent: half of one
// decision's treated half is treated by the other.
func TestDecisionsDrawAnew(t *testing.T) {
	const n = 20_000
	both, first := 0, 0
	for i := range n {
		unit := fmt.Sprint(i)
		if routing.Position(key, "d1", unit) < 0.5 {
			first++
			if routing.Position(key, "d2", unit) < 0.5 {
				both++
			}
		}
	}
	below, above := binomialTails(first, both, 0.5)
	require.Greater(t, min(below, above), 1e-5)
}

// binomialTails are P(X ≤ k) and P(X ≥ k) of n draws with probability p, summed exactly.
func binomialTails(n, k int, p float64) (below, above float64) {
	lgamma := func(x int) float64 { v, _ := math.Lgamma(float64(x)); return v }
	for i := range n + 1 {
		mass := math.Exp(lgamma(n+1) - lgamma(i+1) - lgamma(n-i+1) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p))
		if i <= k {
			below += mass
		}
		if i >= k {
			above += mass
		}
	}
	return below, above
}

func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Float64Range(0, 1).Draw(t, "low")
		high := rapid.Float64Range(low, 1).Draw(t, "high")
		r := request(rapid.String().Draw(t, "trace"))
		r.SessionID = rapid.String().Draw(t, "session")

		before := routing.Decide(snapshot(flag(routing.Route, "cheap", low)), r, now)
		after := routing.Decide(snapshot(flag(routing.Route, "cheap", high)), r, now)
		if before.Arm == usage.Treated {
			require.Equal(t, usage.Treated, after.Arm, "a higher share moved a treated session back")
		}
		require.NotEqual(t, usage.None, after.Arm, "a call of a key with a flag is in an arm")
		require.Equal(t, usage.Treated, routing.Decide(snapshot(flag(routing.Stop, "", 1)), r, now).Arm, "share 1 touches all")

		again := r
		again.TraceID += "'"
		if r.SessionID != "" {
			require.Equal(t, after, routing.Decide(snapshot(flag(routing.Route, "cheap", high)), again, now), "a session changed its arm")
		}
	})
}

func TestSampled(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags []routing.Flag
		class float64
		want  float64
		by    routing.Kind
	}{
		{"the class's rate", nil, 0.1, 0.1, ""},
		{"a sampling flag raises it", []routing.Flag{flag(routing.Sampling, "", 0.5)}, 0.1, 0.5, routing.Sampling},
		{"a sampling flag never lowers it", []routing.Flag{flag(routing.Sampling, "", 0.5)}, 1, 1, ""},
		{"another key's flag does not concern it", []routing.Flag{ofAnother(flag(routing.Sampling, "", 1))}, 0.1, 0.1, ""},
		{"both arms of a route are scored", []routing.Flag{flag(routing.Route, "cheap", 0.1)}, 0.1, 1, routing.Route},
		{"whatever the sampling flag says", []routing.Flag{flag(routing.Sampling, "", 0.5), flag(routing.Route, "cheap", 0.1)}, 0.1, 1, routing.Route},
		{"of a pin", []routing.Flag{flag(routing.Pin, "previous", 0.1)}, 0, 1, routing.Pin},
		{"of a stop", []routing.Flag{flag(routing.Stop, "", 0.1)}, 0, 1, routing.Stop},
	} {
		t.Run(tt.name, func(t *testing.T) {
			const n = 20_000
			s, hits := snapshot(tt.flags...), 0
			for i := range n {
				sampled, rate, by := routing.Sampled(s, key, fmt.Sprintf("trace-%d", i), tt.class, now)
				require.InDelta(t, tt.want, rate, 0)
				require.Equal(t, tt.by, by)
				if sampled {
					hits++
				}
			}
			if tt.want == 1 {
				require.Equal(t, n, hits)
				return
			}
			below, above := binomialTails(n, hits, tt.want)
			require.Greater(t, min(below, above), 1e-5)
		})
	}
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Float64Range(0, 1).Draw(t, "low")
		high := rapid.Float64Range(low, 1).Draw(t, "high")
		trace := rapid.String().Draw(t, "trace")
		few, _, _ := routing.Sampled(snapshot(), key, trace, low, now)
		many, _, _ := routing.Sampled(snapshot(), key, trace, high, now)
		require.True(t, !few || many, "a higher rate dropped a trace")
	})
}

func ofAnother(f routing.Flag) routing.Flag {
	f.Key.Model = "another"
	return f
}

// TestSampledIsTheSameEverywhere: other processes, other versions and evaluators that compute it themselves
// must agree about a trace, so what a trace id comes to never changes. docs/formats.md has these numbers.
func TestSampledIsTheSameEverywhere(t *testing.T) {
	for trace, position := range map[string]float64{
		"abc123":                           0.65215655693641905,
		"4bf92f3577b34da6a3ce929d0e0e4736": 0.10507577885112007,
		"":                                 0.59579104402249639,
	} {
		sampled, _, _ := routing.Sampled(snapshot(), key, trace, position, now)
		require.False(t, sampled, "%q stands at %v: a rate of just that leaves it out", trace, position)
		sampled, _, _ = routing.Sampled(snapshot(), usage.Key{Tenant: "another", Model: "m"}, trace, math.Nextafter(position, 1), now)
		require.True(t, sampled, "%q stands at %v", trace, position)
	}
}

func TestLiveListsInOrder(t *testing.T) {
	gone := flag(routing.Pin, "previous", 1)
	gone.ExpiresAt = now
	earlier := flag(routing.Route, "cheap", 1)
	earlier.Key.Tenant = "org_1"
	s := snapshot(flag(routing.Stop, "", 1), flag(routing.Route, "cheap", 1), gone, earlier)
	require.Equal(t, []routing.Flag{earlier, flag(routing.Route, "cheap", 1), flag(routing.Stop, "", 1)}, s.Live(now))
}

func BenchmarkDecide(b *testing.B) {
	flags := make([]routing.Flag, 0, 10_000)
	for i := range cap(flags) {
		f := flag(routing.Route, "cheap", 0.5)
		f.Key.Tenant = fmt.Sprintf("org_%d", i)
		flags = append(flags, f)
	}
	s := snapshot(flags...)
	r := request("4bf92f3577b34da6a3ce929d0e0e4736")
	b.ReportAllocs()
	for b.Loop() {
		if routing.Decide(s, r, now).Arm == usage.None {
			b.Fatal("the benchmark must decide on a flag")
		}
	}
}
