package ingest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/flyball-dev/flyball/internal/usage"
)

// fill writes spans to a new spool, one commit each, and gives the text of its one segment.
func fillSpool(t *testing.T, dir string, spans int) (path string, text []byte) {
	t.Helper()
	i, err := Open(testOptions(t, dir, newStore()))
	require.NoError(t, err)
	for n := range spans {
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", fmt.Sprint(n))}, nil))
	}
	path = i.spool.active.Name()
	require.NoError(t, i.Close())
	text, err = os.ReadFile(path)
	require.NoError(t, err)
	return path, text
}

// Wherever the last segment is cut, what stands whole before the cut is kept and nothing else, and
// the spool goes on.
func TestTornTailAtAnyByte(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, text := fillSpool(t, dir, 3)
	ends := []int{}
	for at := len(segmentMagic); at < len(text); {
		_, n := frame(text[at:])
		at += n
		ends = append(ends, at)
	}
	require.Len(t, ends, 3)
	state, err := os.ReadFile(filepath.Join(dir, "state.json"))
	require.NoError(t, err)
	opt := testOptions(t, "", newStore())
	for cut := range len(text) + 1 {
		dir := filepath.Join(t.TempDir(), "spool")
		require.NoError(t, os.MkdirAll(dir, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(path)), text[:cut], 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "state.json"), state, 0o600))
		opt.Dir = dir
		i, err := Open(opt)
		require.NoError(t, err)
		whole := 0
		for whole < 3 && ends[whole] <= cut {
			whole++
		}
		s := i.Stats()
		require.EqualValues(t, whole, s.SpoolRows, "cut at %d", cut)
		require.Zero(t, s.CorruptSegments)
		if cut%16 == 0 {
			require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "2")}, nil))
			require.EqualValues(t, min(whole+1, 3), i.Stats().SpoolRows)
		}
		require.NoError(t, i.Close())
	}
}

// A damaged byte in the middle is not a torn tail: a copy is set aside and it is reported.
func TestCorruptSegmentIsSetAside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, text := fillSpool(t, dir, 3)
	_, n := frame(text[len(segmentMagic):])
	text[len(segmentMagic)+n+frameHeader+20] ^= 1 // in the second frame
	require.NoError(t, os.WriteFile(path, text, 0o600))
	sink := newStore()
	i, stop := start(t, testOptions(t, dir, sink))
	require.EqualValues(t, 1, i.Stats().CorruptSegments)
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)
	require.NotEmpty(t, sink.span("org/t/0"), "what stands before the damage is kept")
	require.NotEmpty(t, sink.span("org/t/2").SpanID, "and what stands behind it")
	aside, err := os.ReadFile(strings.TrimSuffix(path, segmentSuffix) + corruptSuffix)
	require.NoError(t, err)
	require.Equal(t, text, aside)
	stop()
	i, _ = start(t, testOptions(t, dir, sink))
	require.Zero(t, i.Stats().CorruptSegments, "reported once")
	require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
	require.Eventually(t, func() bool { return sink.count() == 3 }, 10*time.Second, time.Millisecond)
}

// Damage to any byte of a frame, its length included, takes that frame alone, and is reported, unless nothing
// whole stands behind it.
func TestDamageTakesOneFrame(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, text := fillSpool(t, dir, 3)
	_, n := frame(text[len(segmentMagic):])
	opt := testOptions(t, dir, newStore())
	for at := len(segmentMagic) + n; at < len(text); at += 7 {
		second := at < len(segmentMagic)+2*n
		broken := slices.Clone(text)
		broken[at] ^= 0x40
		require.NoError(t, os.WriteFile(path, broken, 0o600))
		require.NoError(t, os.RemoveAll(strings.TrimSuffix(path, segmentSuffix)+corruptSuffix))
		for range 2 { // what was mended stays so
			i, err := Open(opt)
			require.NoError(t, err)
			b, err := i.read(0, 0)
			require.NoError(t, err)
			require.NoError(t, i.Close())
			require.Equal(t, "0", b.spans[0].SpanID, "damaged at %d", at)
			if second {
				require.Len(t, b.spans, 2, "damaged at %d", at)
				require.Equal(t, "2", b.spans[1].SpanID)
			} else {
				require.Len(t, b.spans, 2)
				require.Equal(t, "1", b.spans[1].SpanID)
			}
		}
		_, err := os.Stat(strings.TrimSuffix(path, segmentSuffix) + corruptSuffix)
		require.Equal(t, second, err == nil, "a copy is set aside of what is not a torn tail (%d)", at)
	}
}

// A batch that may have been inserted keeps its token when damage has taken some of it since.
func TestDamagedFrozenBatchKeepsItsToken(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.SegmentSize = 1 // one for each commit
	i, err := Open(opt)
	require.NoError(t, err)
	var paths []string
	for n := range 3 {
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", fmt.Sprint(n))}, nil))
	}
	for _, seg := range i.spool.segments {
		paths = append(paths, seg.path)
	}
	b, err := i.freeze(t.Context())
	require.NoError(t, err)
	require.NoError(t, i.try(t.Context(), b))
	require.NoError(t, i.Close()) // before it is noted
	text, err := os.ReadFile(paths[2])
	require.NoError(t, err)
	text[len(text)-1] ^= 1
	require.NoError(t, os.WriteFile(paths[2], text, 0o600))

	i, err = Open(opt)
	require.NoError(t, err)
	again, err := i.freeze(t.Context())
	require.NoError(t, err)
	require.Len(t, again.spans, 2)
	require.Equal(t, [2]int64{b.from, b.to}, [2]int64{again.from, again.to})
	require.NoError(t, i.Close())
}

// A segment that somebody removed before it was drained is missed and reported; the rest goes on.
func TestMissingSegment(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.SegmentSize = 1
	i, err := Open(opt)
	require.NoError(t, err)
	for n := range 3 {
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", fmt.Sprint(n))}, nil))
	}
	path := i.spool.segments[1].path
	require.NoError(t, i.Close())
	require.NoError(t, os.Remove(path))
	i, _ = start(t, opt)
	require.EqualValues(t, 1, i.Stats().CorruptSegments)
	require.Eventually(t, func() bool { return sink.count() == 2 && i.Stats().SpoolRows == 0 }, 10*time.Second, time.Millisecond)
}

// A drained segment whose summary cannot be written stays, and is summarized when it can be.
func TestSummaryIsTriedAgain(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.SegmentSize = 1
	i, err := Open(opt)
	require.NoError(t, err)
	for n := range 3 {
		require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", fmt.Sprint(n))}, nil))
	}
	first := i.spool.segments[0]
	require.NoError(t, i.Close())
	inTheWay := summaryPath(opt.Dir, first.start) + ".tmp"
	require.NoError(t, os.Mkdir(inTheWay, 0o700))
	start(t, opt)
	require.Eventually(t, func() bool { return sink.count() == 3 }, 10*time.Second, time.Millisecond)
	require.FileExists(t, first.path)
	require.NoError(t, os.Remove(inTheWay))
	require.Eventually(t, func() bool { _, err := os.Stat(first.path); return os.IsNotExist(err) }, 10*time.Second, 5*time.Millisecond)
	require.FileExists(t, summaryPath(opt.Dir, first.start))
}

// Old summaries go; one that cannot be read now is kept until it can.
func TestOldSummariesAreForgotten(t *testing.T) {
	t.Parallel()
	c := &clock{at: testNow}
	opt := testOptions(t, t.TempDir(), newStore())
	opt.Now = c.now
	i, err := Open(opt)
	require.NoError(t, err)
	defer func() { require.NoError(t, i.Close()) }()
	summaryAt := func(start int64, text string) string {
		path := summaryPath(opt.Dir, start)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	whole := segmentMagic + string(framed(nil))
	unread, old := summaryAt(0, whole[:len(whole)-1]), summaryAt(1, whole)
	i.forgetSummaries()
	require.FileExists(t, old)
	c.advance(keepSummaries + time.Second)
	i.forgetSummaries()
	require.NoFileExists(t, old)
	require.FileExists(t, unread)
}

// Damage to a summary costs what stands in the damaged frame, however often the spool is opened: the events that wait
// on both sides of it find their spans, and spans whose dimensions may be lost give nobody wrong ones.
func TestDamagedSummary(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		frame   int // that is damaged
		waiting int64
	}{{"in the middle", 1, 2}, {"at the end", 3, 1}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			sink := newStore()
			opt := testOptions(t, t.TempDir(), sink)
			opt.SegmentSize = 500
			i, err := Open(opt)
			require.NoError(t, err)
			waits := func(id string) { // until its call comes
				require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score(id, "org", "trace of "+id, "")}))
			}
			other := span("org", "other", "1")
			other.Model = "gpt-4o-mini"
			waits("before")
			require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "t", "1")}, nil))
			require.NoError(t, i.Accept(t.Context(), []usage.Span{other}, nil))
			waits("behind")
			for n := 0; len(i.spool.segments) < 2; n++ {
				require.NoError(t, i.Accept(t.Context(), []usage.Span{span("org", "filler", fmt.Sprint(n))}, nil))
			}
			for i.backlogged() {
				require.NoError(t, i.drain(t.Context()))
			}
			path := summaryPath(opt.Dir, 0)
			require.FileExists(t, path)
			require.NoError(t, i.Close())
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			at := len(segmentMagic)
			for range tc.frame {
				_, n := frame(text[at:])
				at += n
			}
			if tc.frame == 3 { // and nothing behind it
				_, n := frame(text[at:])
				text = text[:at+n]
			}
			text[at+frameHeader+payloadHeader+3] ^= 1
			require.NoError(t, os.WriteFile(path, text, 0o600))

			for run := range 3 {
				i, err = Open(opt)
				require.NoError(t, err)
				require.EqualValues(t, tc.waiting, i.Stats().Waiting)
				require.Equal(t, run == 0, i.Stats().CorruptSegments == 1, "reported once")
				if run < 2 {
					require.NoError(t, i.Close())
				}
			}
			aside, err := os.ReadFile(path + corruptSuffix)
			require.NoError(t, err)
			require.Equal(t, text, aside)
			require.NoError(t, i.Accept(t.Context(), nil, []usage.Quality{score("late", "org", "other", "1")}))
			require.NoError(t, i.Accept(t.Context(), []usage.Span{other, span("org", "trace of before", "1"), span("org", "trace of behind", "1")}, nil))
			require.EqualValues(t, 1, i.Stats().Duplicates, "a call behind the damage is known, and so is one before it")
			for i.backlogged() {
				require.NoError(t, i.drain(t.Context()))
			}
			require.NoError(t, i.Close())
			require.Equal(t, "gpt-4o-mini", sink.score("late").ServedModel)
			require.Equal(t, "gpt-4o", sink.score("before").ServedModel)
			if tc.frame != 3 {
				require.Equal(t, "gpt-4o", sink.score("behind").ServedModel)
			}
		})
	}
}
