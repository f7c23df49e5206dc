package treasury

import (
	"encoding/binary"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/budget"
	"github.com/flyball-dev/flyball/internal/usage"
)

var anyTime = rapid.Custom(func(t *rapid.T) time.Time {
	return time.UnixMilli(rapid.Int64Range(1, 4_000_000_000_000).Draw(t, "ms")).UTC()
})

var anyRecord = rapid.Custom(func(t *rapid.T) journalRecord {
	text := rapid.StringN(0, 20, 60)
	r := journalRecord{
		Kind: rapid.SampledFrom([]recordKind{recordAsk, recordPromise, recordSettle, recordLease, recordEnd, recordTold, recordRunEnd}).Draw(t, "kind"),
		Run:  text.Draw(t, "run"), ID: text.Draw(t, "id"), Tenant: text.Draw(t, "tenant"),
		Amount: budget.Micro(rapid.Int64().Draw(t, "amount")), At: anyTime.Draw(t, "at"),
	}
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		p := part{Counter: budget.Counter{Budget: text.Draw(t, "budget"), Of: text.Draw(t, "of")}, Ceiling: budget.Micro(rapid.Int64().Draw(t, "ceiling")), Lease: text.Draw(t, "lease")}
		if rapid.Bool().Draw(t, "window") {
			p.Counter.Window = budget.Window{From: anyTime.Draw(t, "from"), To: anyTime.Draw(t, "to")}
		}
		r.Parts = append(r.Parts, p)
	}
	if r.Kind == recordPromise {
		r.Span = usage.Span{TraceID: text.Draw(t, "trace"), Model: text.Draw(t, "model"), Arm: usage.Treated, Timestamp: anyTime.Draw(t, "span at"), Tokens: usage.Tokens{UncachedInput: 3, Output: rapid.Int64().Draw(t, "output")}}
		if rapid.Bool().Draw(t, "tags") {
			r.Span.Tags = map[string]string{text.Draw(t, "tag"): text.Draw(t, "value")}
		}
	}
	return r
})

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord.Draw(t, "record")
		got, ok := parseRecord(r.append(nil))
		require.True(t, ok)
		require.Equal(t, r, got)
	})
}

func FuzzJournal(f *testing.F) {
	r := journalRecord{Kind: recordPromise, ID: "a", Parts: []part{{Ceiling: 5}}, Span: usage.Span{Tags: map[string]string{"a": "b"}}}
	f.Add(r.append(nil))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		parseRecord(raw)
		s := journalState{live: map[string]journalRecord{}, told: map[toldKey]budget.Micro{}}
		s.read(raw)
	})
}

// A journal says the same after any end of its writer, but for a record that was being written.
func TestAJournalOutlivesItsWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j, err := openJournal(dir)
	require.NoError(t, err)
	_, err = openJournal(dir)
	require.ErrorContains(t, err, "another gateway uses")
	now := time.Now().UTC().Truncate(time.Millisecond)
	counter := budget.Counter{Budget: "b"}
	promise := func(id string) journalRecord {
		return journalRecord{Kind: recordPromise, Run: "r", ID: id, Tenant: "t", Amount: 9, Parts: []part{{Counter: counter}}, Span: usage.Span{TraceID: id}}
	}
	for i := range 100_000 { // several segments
		id := string(rune('a' + i%20))
		require.NoError(t, j.write(promise(id), journalRecord{Kind: recordSettle, Run: "r", ID: id, Amount: 2, At: now}))
	}
	require.NoError(t, j.write(journalRecord{Kind: recordAsk, Run: "r", ID: "asked", Tenant: "t"}, promise("open")))
	numbers, err := j.segments()
	require.NoError(t, err)
	require.Len(t, numbers, 1, "those before are gone")
	require.Greater(t, numbers[0], 1)
	path, end := j.path(numbers[0]), j.end
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, j.close())

	check := func(raw []byte, whole bool) {
		s := journalState{live: map[string]journalRecord{}, told: map[toldKey]budget.Micro{}}
		s.read(raw)
		require.Equal(t, budget.Micro(200_000), s.told[toldKey{"r", "t", counter, minuteOf(now)}])
		require.Contains(t, s.live, "aasked")
		if whole {
			require.Equal(t, promise("open"), s.live["popen"])
		} else {
			require.NotContains(t, s.live, "popen")
		}
	}
	check(raw, true)
	check(raw[:end-1], false)
	torn := append([]byte(nil), raw...)
	torn[end-1] ^= 1
	check(torn, false)
	binary.LittleEndian.PutUint32(torn[end:], 1<<30)
	check(torn, false)
	j, err = openJournal(dir)
	require.NoError(t, err)
	require.Equal(t, promise("open"), j.state.live["popen"])
	require.NoError(t, j.close())
}
