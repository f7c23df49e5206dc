// Package durability proves that nothing acknowledged is lost and nothing counts twice: real processes, senders
// that repeat, reorder and overlap, and a hand that kills ingest and engine, keeps the engine away and leaves torn
// tails in the spool. In the end every table and every rollup holds what was acknowledged, to the token and the
// pico-dollar.
package durability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// plan is how long a run takes and how hard it is.
type plan struct {
	run   time.Duration // senders send for so long
	away  time.Duration // the engine is away for so long, again and again
	every time.Duration // between two such absences
	calm  time.Duration // the longest pause between two other faults
	rest  time.Duration // the longest pause of a sender between two batches
}

// plans: half a minute as part of the quick tests, an hour or what FLYBALL_SOAK says (30m, 4h) as a soak.
func planned(t *testing.T) plan {
	switch text := os.Getenv("FLYBALL_SOAK"); text {
	case "":
		return plan{run: 20 * time.Second, away: 5 * time.Second, every: 8 * time.Second, calm: 2 * time.Second, rest: 50 * time.Millisecond}
	case "1":
		return plan{run: time.Hour, away: time.Minute, every: 6 * time.Minute, calm: 15 * time.Second, rest: 200 * time.Millisecond}
	default:
		run, err := time.ParseDuration(text)
		require.NoError(t, err, "FLYBALL_SOAK is 1 or a duration")
		return plan{run: run, away: time.Minute, every: 4 * time.Minute, calm: 8 * time.Second, rest: 200 * time.Millisecond}
	}
}

// seed is of all that is random here, printed by every run and fixed by FLYBALL_SEED.
func seed(t *testing.T) uint64 {
	if text := os.Getenv("FLYBALL_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		return n
	}
	return uint64(time.Now().UnixNano())
}

func TestExactlyOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("kills real processes for half a minute")
	}
	p, seed := planned(t), seed(t)
	t.Logf("FLYBALL_SEED=%d, for %s", seed, p.run)
	s := newStack(t)
	s.startEngine()
	s.migrate()
	s.startIngest()

	const senders = 4
	book := newLedger(s.streams())
	ctx, cancel := context.WithTimeout(t.Context(), p.run)
	defer cancel()
	var group sync.WaitGroup
	crowd := make([]*sender, senders)
	for n := range crowd {
		crowd[n] = newSender(s, book, rand.New(rand.NewPCG(seed, uint64(n))), n, p.rest)
		group.Go(func() { crowd[n].send(ctx) })
	}
	h := hand{stack: s, random: rand.New(rand.NewPCG(seed, senders)), plan: p}
	h.trouble(ctx)
	group.Wait() // each has delivered what it had begun
	for _, c := range crowd {
		require.NoError(t, c.failed)
	}
	s.awaitDrained()
	before := s.compare(book)
	s.stopIngest()
	s.startIngest()
	for _, c := range crowd {
		c.repeatRecent() // after a clean restart retries are still known as such
		require.NoError(t, c.failed)
	}
	s.awaitDrained()
	h.measure()
	after := s.compare(book)

	t.Logf("\n%s\n%s", h.report(), book.report())
	t.Logf("\n%s", table(after))
	for _, row := range append(before, after...) {
		require.Zerof(t, row.stored-row.acknowledged, "%s.%s of %q: %d acknowledged, %d stored", row.table, row.column, row.tenant, row.acknowledged, row.stored)
	}
	require.NotEmpty(t, after)
	require.Zero(t, s.corrupt(), "only torn tails were made, and none is called damage")
	if p.run >= 10*time.Minute {
		require.Positive(t, h.absences)
	}
	require.Positive(t, h.killedIngest)
	require.Positive(t, h.killedEngine)
}

// hand makes trouble.
type hand struct {
	*stack
	plan
	random *rand.Rand

	killedIngest, killedEngine, terminated, absences, torn int
	resident                                               []int // MiB of ingest, sampled before each fault
}

// trouble goes on until ctx ends, and leaves everything running.
func (h *hand) trouble(ctx context.Context) {
	absent := time.Now().Add(h.every / 2)
	for h.pause(ctx, h.between(h.calm/8, h.calm)) {
		h.measure()
		if time.Now().After(absent) {
			h.engineAway(ctx)
			absent = time.Now().Add(h.every)
			continue
		}
		switch n := h.random.IntN(10); {
		case n < 4:
			h.killIngest()
			h.pause(ctx, h.between(0, h.calm/4))
			h.startIngest()
		case n < 5:
			h.terminated++
			h.stopIngest()
			h.startIngest()
		case n < 9:
			h.killedEngine++
			h.killEngine()
			h.pause(ctx, h.between(0, h.calm/4))
			h.startEngine()
		default:
			h.killIngest()
			h.killedEngine++
			h.killEngine()
			h.startEngine()
			h.startIngest()
		}
	}
}

// engineAway keeps the engine down while senders go on; ingest may die meanwhile, too.
func (h *hand) engineAway(ctx context.Context) {
	h.absences++
	h.killedEngine++
	h.killEngine()
	back := time.Now().Add(h.away)
	if h.pause(ctx, h.between(0, h.away/2)); h.random.IntN(3) == 0 {
		h.killIngest()
	}
	h.pause(ctx, time.Until(back))
	h.startEngine()
	h.startIngest()
}

func (h *hand) killIngest() {
	h.killedIngest++
	h.stack.killIngest()
	if h.random.IntN(2) == 0 {
		h.tear()
	}
}

// tear leaves at the end of the spool what a write that was never acknowledged may leave: the start of a frame,
// rubbish, or blocks that were allocated and never written.
func (h *hand) tear() {
	segments, err := filepath.Glob(filepath.Join(h.spool, "*.seg"))
	require.NoError(h.t, err)
	if len(segments) == 0 {
		return
	}
	path := segments[len(segments)-1] // names sort by offset
	text, err := os.ReadFile(path)
	require.NoError(h.t, err)
	var tail []byte
	switch n := h.random.IntN(3); {
	case n == 0 && len(text) > 60: // the segment's first frame, cut off before its end
		size := int(text[8]) | int(text[9])<<8 | int(text[10])<<16
		tail = text[8 : 8+min(8+size-1, 1+h.random.IntN(8+size), len(text)-8)]
	case n == 1:
		tail = make([]byte, 1+h.random.IntN(5000))
	default:
		tail = make([]byte, 1+h.random.IntN(5000))
		for i := range tail {
			tail[i] = byte(h.random.Uint32())
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(h.t, err)
	_, err = f.Write(tail)
	require.NoError(h.t, err)
	require.NoError(h.t, f.Close())
	h.torn++
}

func (h *hand) between(low, high time.Duration) time.Duration {
	return low + time.Duration(h.random.Int64N(int64(high-low)+1))
}

// pause waits and reports whether ctx goes on.
func (h *hand) pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func (h *hand) measure() {
	if mib := h.ingestResident(); mib > 0 {
		h.resident = append(h.resident, mib)
	}
}

func (h *hand) report() string {
	r := h.resident
	return fmt.Sprintf("kill -9 of ingest %d, of the engine %d; SIGTERM of ingest %d; engine away for %s %d times; torn tails %d\n"+
		"resident memory of ingest: start %d MiB, middle %d MiB, end %d MiB, most %d MiB",
		h.killedIngest, h.killedEngine, h.terminated, h.away, h.absences, h.torn, r[0], r[len(r)/2], r[len(r)-1], most(r))
}

func most(list []int) (n int) {
	for _, m := range list {
		n = max(n, m)
	}
	return n
}
