package treasury

import (
	"context"
	"log/slog"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/redis"
	"github.com/flyball-dev/flyball/internal/usage"
)

// leasing is a treasury with one budget and a lease of all of it, with nobody to be asked.
func leasing(b *testing.B) (*Treasury, budget.Counter) {
	list := []budget.Budget{{ID: "month", Tenant: tenant, Per: budget.PerTenant, Period: budget.Month, Ceiling: budget.MaxMicro}}
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	client := redis.Open(redis.Options{Addr: "127.0.0.1:1", Logger: slog.New(slog.DiscardHandler)})
	t, err := Open(Options{
		Dir: b.TempDir(), Process: "gw", Redis: client, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return at },
		Budgets: func(string) ([]budget.Budget, bool) { return list, true },
		Away:    func(string) Away { return Away{Closed: true} },
	})
	require.NoError(b, err)
	b.Cleanup(func() { _ = t.Close(); _ = client.Close() })
	counter, _ := list[0].Counter(budget.Call{Tenant: tenant}, at)
	t.account(tenant).leases["l"] = &lease{Lease: budget.Lease{ID: "l", Left: budget.MaxMicro / 2, Expires: time.Now().Add(time.Hour)}, counter: counter, taken: budget.MaxMicro / 2}
	return t, counter
}

// reportCPU reports the process's own time for each operation: what a machine that others use takes longer is not the
// treasury's.
func reportCPU(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkLeaseDecision is what finding and taking the amount costs: no journal.
func BenchmarkLeaseDecision(b *testing.B) {
	t, _ := leasing(b)
	a := t.account(tenant)
	budgets, _ := t.o.Budgets(tenant)
	c := Call{Of: budget.Call{Tenant: tenant}, Most: 10}
	b.ReportAllocs()
	defer reportCPU(b)()
	for b.Loop() {
		var room [4]want
		wants := t.wants(room[:0], budgets, c, t.o.Now())
		p := promise{of: a, most: 10}
		p.parts = p.room[:0]
		if taken, _ := a.takeFrom(&p, &wants[0]); !taken {
			b.Fatal("the lease has too little")
		}
		a.leases["l"].Settle(10, 0)
	}
}

// BenchmarkLeaseHoldSettle is a call's whole way, with both records of the journal and its span.
func BenchmarkLeaseHoldSettle(b *testing.B) {
	t, _ := leasing(b)
	at := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	span := usage.Span{TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", SpanID: "00f067aa0ba902b7", TenantID: tenant, Model: "gpt-5", Provider: "openai", Timestamp: at, Tags: map[string]string{"virtual_key": "k"}}
	b.ReportAllocs()
	defer reportCPU(b)()
	i := 0
	for b.Loop() {
		i++
		id := "4bf92f3577b34da6a3ce929d0e0e4736/" + strconv.Itoa(i)
		if _, err := t.Hold(context.Background(), Call{ID: id, Of: budget.Call{Tenant: tenant}, Most: 10, Span: span}); err != nil {
			b.Fatal(err)
		}
		t.Settle(id, 5_000_000, at)
	}
}

// BenchmarkLeaseJournal is the journal's part of it.
func BenchmarkLeaseJournal(b *testing.B) {
	t, counter := leasing(b)
	r := journalRecord{Kind: recordPromise, Run: t.run, ID: "t/s", Tenant: tenant, Amount: 10, Parts: []part{{Counter: counter, Lease: "l"}}}
	b.ReportAllocs()
	for b.Loop() {
		_ = t.journal.write(r)
		_ = t.journal.write(journalRecord{Kind: recordSettle, Run: t.run, ID: "t/s", Amount: 5, At: time.Unix(1_800_000_000, 0)})
	}
}
