package ingest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// smallDisk is a file system of its own, of so many bytes.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skip("needs to mount a small file system, which takes root: ", err)
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// While the disk is really full, senders are told so; a restart still works; and when there is space again, all goes
// on by itself, with what was acknowledged and nothing else.
func TestDiskThatFillsUp(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 8<<20)
	sink := newStore()
	sink.fail = 1 << 30
	opt := testOptions(t, filepath.Join(disk, "spool"), sink)
	opt.SegmentSize = 64 << 10
	opt.MinFree = -1 // the real end, not the reserve
	i, stop := start(t, opt)
	require.Equal(t, 200, post(i, "/v1/spans", spanLines(2000, 1)).Code)
	ballast, err := os.Create(filepath.Join(disk, "ballast"))
	require.NoError(t, err)
	for chunk := make([]byte, 4096); err == nil; {
		_, err = ballast.Write(chunk)
	}
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, ballast.Close())

	full := func() {
		w := post(i, "/v1/spans", spanLines(500, 2))
		require.Equal(t, 503, w.Code, w.Body)
		require.Contains(t, w.Body.String(), "disk is full")
		require.NotEmpty(t, w.Header().Get("Retry-After"))
	}
	full()
	files, err := os.ReadDir(opt.Dir)
	require.NoError(t, err)
	for range 20 {
		full()
	}
	after, err := os.ReadDir(opt.Dir)
	require.NoError(t, err)
	require.LessOrEqual(t, len(after), len(files)+1, "attempts leave nothing behind")
	stop()
	i, _ = start(t, opt)
	require.EqualValues(t, 2000, i.Stats().SpoolRows)
	full()

	sink.mu.Lock()
	sink.fail = 0
	sink.mu.Unlock()
	require.NoError(t, os.Remove(ballast.Name()))
	w := post(i, "/v1/spans", spanLines(500, 2))
	require.JSONEq(t, `{"accepted":500,"duplicates":0,"refused":[]}`, w.Body.String())
	require.Eventually(t, func() bool { return sink.count() == 2500 && i.Stats().SpoolRows == 0 }, 30*time.Second, 5*time.Millisecond)
	require.Zero(t, i.Stats().CorruptSegments)
}
