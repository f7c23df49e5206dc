package treasury

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/usage"
)

func drawTime(t *rapid.T, label string) time.Time {
	if rapid.Bool().Draw(t, label+" zero") {
		return time.Time{}
	}
	return time.UnixMilli(rapid.Int64Range(1, 4e12).Draw(t, label)).UTC()
}

func drawRecord(t *rapid.T) journalRecord {
	text := rapid.StringN(0, 20, 60)
	r := journalRecord{
		Kind: rapid.SampledFrom([]recordKind{recordAsk, recordPromise, recordSettle, recordLease, recordEnd, recordTold}).Draw(t, "kind"),
		Run:  text.Draw(t, "run"), ID: text.Draw(t, "id"), Tenant: text.Draw(t, "tenant"),
		Amount: budget.Micro(rapid.Int64().Draw(t, "amount")), At: drawTime(t, "at"),
	}
	for range rapid.IntRange(0, 4).Draw(t, "parts") {
		w := budget.Window{From: drawTime(t, "from"), To: drawTime(t, "to")}
		c := budget.Counter{Budget: text.Draw(t, "budget"), Of: text.Draw(t, "of"), Window: w}
		r.Parts = append(r.Parts, part{c, budget.Micro(rapid.Int64().Draw(t, "ceiling")), text.Draw(t, "lease")})
	}
	if r.Kind == recordPromise {
		for _, s := range spanTexts(&r.Span) {
			*s = text.Draw(t, "span text")
		}
		for _, n := range spanTokens(&r.Span) {
			*n = rapid.Int64().Draw(t, "tokens")
		}
		r.Span.Arm, r.Span.Timestamp = usage.Arm(text.Draw(t, "arm")), drawTime(t, "timestamp")
		if tags := rapid.MapOfN(text, text, 0, 3).Draw(t, "tags"); len(tags) > 0 {
			r.Span.Tags = tags
		}
	}
	return r
}

func TestRecordsReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := drawRecord(t)
		raw := r.append(nil)
		got, ok := parseRecord(raw)
		require.True(t, ok)
		require.Equal(t, r, got)
		_, ok = parseRecord(raw[:rapid.IntRange(0, len(raw)-1).Draw(t, "cut")])
		require.False(t, ok, "a record that was cut short is none")
	})
}

func FuzzJournal(f *testing.F) {
	p := journalRecord{Kind: recordPromise, Run: "gw~1", ID: "t/s", Tenant: "acme", Amount: 5, Parts: []part{{Counter: budget.Counter{Budget: "month"}}}}
	f.Add(p.append(nil))
	f.Fuzz(func(t *testing.T, raw []byte) {
		state := journalState{live: map[string]journalRecord{}, told: map[toldKey]budget.Micro{}}
		state.read(raw)
		r, ok := parseRecord(raw)
		if !ok {
			return
		}
		again, ok := parseRecord(r.append(nil))
		require.True(t, ok)
		require.Equal(t, r, again)
	})
}

func promised(id string) journalRecord {
	return journalRecord{Kind: recordPromise, Run: "gw~1", ID: id, Tenant: "acme", Amount: 5, Parts: []part{{Counter: budget.Counter{Budget: "month"}}}}
}

// TestAJournalOutlivesItsProcess reads what was written without a close, with every end torn and every byte flipped.
func TestAJournalOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := openJournal(dir)
	require.NoError(t, err)
	at := time.Now().UTC().Truncate(time.Minute)
	require.NoError(t, j.write(promised("a")))
	require.NoError(t, j.write(promised("b")))
	require.NoError(t, j.write(journalRecord{Kind: recordSettle, Run: "gw~1", ID: "a", Amount: 3, At: at}))
	raw, err := os.ReadFile(j.path(j.number)) // the kernel's pages: no sync, no unmapping
	require.NoError(t, err)
	raw = raw[:j.end]
	read := func(raw []byte) journalState {
		s := journalState{live: map[string]journalRecord{}, told: map[toldKey]budget.Micro{}}
		s.read(raw)
		return s
	}
	whole := read(raw)
	require.Len(t, whole.live, 2, "one is promised, and what Redis holds of the other is to be ended")
	require.Contains(t, whole.live, string(recordAsk)+"a")
	require.Equal(t, budget.Micro(3), whole.told[toldKey{"gw~1", "acme", budget.Counter{Budget: "month"}, minuteOf(at)}])
	for n := range raw {
		require.LessOrEqual(t, len(read(raw[:n]).told), 0, "torn at %d", n)
		flipped := append([]byte(nil), raw...)
		flipped[n] ^= 0x55
		require.LessOrEqual(t, len(read(flipped).live), 2, "flipped at %d", n)
		require.Empty(t, read(flipped).told, "flipped at %d", n)
	}
	_, err = openJournal(dir)
	require.ErrorContains(t, err, "another gateway uses")
	require.NoError(t, j.close())
	require.ErrorContains(t, j.write(promised("c")), "closed")
}

// TestASegmentBeginsWithAllThatCounts writes many segments full, and reads the last.
func TestASegmentBeginsWithAllThatCounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := openJournal(dir)
	require.NoError(t, err)
	at, first := time.Now().UTC(), j.number
	const calls = 60_000
	for i := range calls {
		id := string(rune('a'+i%26)) + time.Duration(i).String()
		require.NoError(t, j.write(promised(id)))
		if i%1000 != 0 {
			require.NoError(t, j.write(journalRecord{Kind: recordSettle, Run: "gw~1", ID: id, Amount: 1, At: at}))
			require.NoError(t, j.write(journalRecord{Kind: recordEnd, ID: id}))
		}
	}
	require.Greater(t, j.number, first)
	require.NoError(t, j.close())
	files, err := filepath.Glob(filepath.Join(dir, segmentName+"*"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	j, err = openJournal(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, j.close()) }()
	require.Len(t, j.state.live, calls/1000)
	require.Equal(t, budget.Micro(calls-calls/1000), j.total(toldKey{"gw~1", "acme", budget.Counter{Budget: "month"}, minuteOf(at)}))
}

// TestTotalsAreForgottenByTheCallsThatCameAfter opens the journal of a gateway that was down for a day: Redis may not have
// been told what it has spent last, and what its leases and holds are presumed to have spent ends with that being told.
func TestTotalsAreForgottenByTheCallsThatCameAfter(t *testing.T) {
	t.Parallel()
	dir, at := t.TempDir(), time.Now().UTC().Add(-24*time.Hour)
	spend := func(j *journal, id string, at time.Time) toldKey {
		require.NoError(t, j.write(promised(id)))
		require.NoError(t, j.write(journalRecord{Kind: recordSettle, Run: "gw~1", ID: id, Amount: 3, At: at}))
		return toldKey{"gw~1", "acme", budget.Counter{Budget: "month"}, minuteOf(at)}
	}
	j, err := openJournal(dir)
	require.NoError(t, err)
	first, last := spend(j, "a", at), spend(j, "b", at.Add(time.Hour))
	require.NoError(t, j.close())
	j, err = openJournal(dir)
	require.NoError(t, err)
	require.Equal(t, budget.Micro(3), j.total(first))
	require.Equal(t, budget.Micro(3), j.total(last))
	spend(j, "c", time.Now())
	require.NoError(t, j.close())
	j, err = openJournal(dir)
	require.NoError(t, err)
	defer func() { require.NoError(t, j.close()) }()
	require.Zero(t, j.total(last))
}
