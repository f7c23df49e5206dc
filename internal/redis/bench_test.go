package redis_test

import (
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
)

// TestBenchRedis sends holds at a fixed rate, whether or not those before were answered, and a script that does nothing
// at the same rate. A call's time is from when it was due.
func TestBenchRedis(t *testing.T) {
	if os.Getenv("FLYBALL_BENCH") != "budget" {
		t.Skip("FLYBALL_BENCH=budget measures Redis")
	}
	addr, _ := startRedis(t, "0")
	client := redis.Open(redis.Options{Addr: addr, Logger: slog.New(slog.DiscardHandler)})
	defer func() { _ = client.Close() }()
	plain := goredis.NewClient(&goredis.Options{Addr: addr, PoolSize: 64})
	defer func() { _ = plain.Close() }()
	b := budgetsOf(t, client, "org_1")
	nothing := goredis.NewScript("return 1")
	require.NoError(t, nothing.Load(t.Context(), plain).Err())
	noop := func(int) error { return nothing.EvalSha(t.Context(), plain, []string{"k"}).Err() }
	hold := func(i int) error {
		_, err := b.Hold(t.Context(), "org_1", redis.Hold{ID: strconv.Itoa(i), Amount: 1, TTL: 30 * time.Second, Limits: []redis.Limit{{Counter: month, Ceiling: budget.MaxMicro}}})
		return err
	}
	for _, rate := range []int{2_000, 10_000} {
		p50, p99 := paced(t, rate, noop)
		h50, h99 := paced(t, rate, hold)
		t.Logf("%d/s: no-op p50 %v p99 %v, hold p50 %v p99 %v: %.1f and %.1f times", rate, p50, p99, h50, h99,
			float64(h50)/float64(p50), float64(h99)/float64(p99))
	}
}

var benchID int

func paced(t *testing.T, rate int, do func(int) error) (p50, p99 time.Duration) {
	took := make([]time.Duration, 2*rate)
	var group sync.WaitGroup
	start := time.Now()
	for i := range took {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if early := time.Until(due); early > 500*time.Microsecond {
			time.Sleep(early)
		}
		benchID++
		group.Add(1)
		go func(id int) {
			defer group.Done()
			if err := do(id); err != nil {
				t.Error(err)
			}
			took[i] = time.Since(due)
		}(benchID)
	}
	group.Wait()
	slices.Sort(took)
	return took[len(took)/2].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond)
}
