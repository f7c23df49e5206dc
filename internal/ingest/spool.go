package ingest

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// The spool is a directory of segments, files of frames that are only ever appended to. A segment is
// named by the offset of its first byte in the whole spool; a frame is
//
//	length of the payload, 4 bytes · CRC-32C of the payload, 4 bytes · payload
//
// little-endian, and a payload is the time of acceptance (unix nanoseconds, 8 bytes) and records. A
// frame counts when it is whole; what was acknowledged is whole, since it was synced before.
//
// Beside them lie `state.json` (the spool's name, and how far the inserter is), summaries of segments
// that were drained (`.ids`, see summary.go), segments that were found damaged (`.corrupt`), and a lock.
const (
	segmentMagic  = "flyspl\x00\x01"
	segmentSuffix = ".seg"
	corruptSuffix = ".corrupt"
	frameHeader   = 8
	payloadHeader = 8
	maxFrame      = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// state is how far the inserter is. Next is the end of a batch whose insert may have happened: the
// batch [Cursor, Next) is tried again with the same token, until it is known to have happened.
type state struct {
	Spool  string `json:"spool"`
	Cursor int64  `json:"cursor"`
	Next   int64  `json:"next"`
}

type segment struct {
	start, size int64 // size of whole frames, header included
	path        string
}

func (s *segment) end() int64 { return s.start + s.size }

// spool owns the files. One goroutine appends, another reads and drops; the mutex covers the list
// and the durable end that they share.
type spool struct {
	dir         string
	segmentSize int64
	log         *slog.Logger
	lock        *os.File
	state       state // of the inserter
	saved       state // as it is on disk

	mu       sync.Mutex
	segments []*segment // the last is the active one

	// Of the appender.
	active *os.File // nil after a failed write
	floor  int64    // where the first segment starts at the earliest
}

// openSpool opens or makes the spool in dir, repairs its tail, and hands every frame that is still
// there to replay, oldest first; before each segment it calls reached with its offset.
func openSpool(dir string, segmentSize int64, log *slog.Logger, reached func(start int64) error,
	replay func(at time.Time, records []byte) error,
) (_ *spool, corrupt int, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, 0, fmt.Errorf("make the spool: %w", err)
	}
	s := &spool{dir: dir, segmentSize: segmentSize, log: log}
	if s.lock, err = lockDir(dir); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	starts, err := list(dir, segmentSuffix)
	if err != nil {
		return nil, 0, err
	}
	if err := s.loadState(len(starts) > 0); err != nil {
		return nil, 0, err
	}
	s.floor = max(s.state.Cursor, s.state.Next)
	expected := s.state.Cursor
	for i, start := range starts {
		if err := reached(start); err != nil {
			return nil, corrupt, err
		}
		end := int64(math.MaxInt64)
		if i+1 < len(starts) {
			end = starts[i+1]
		}
		if _, err := os.Stat(s.path(start, summarySuffix)); err == nil {
			// It was drained and summarized; only its removal is missing.
			if err := os.Remove(s.path(start, segmentSuffix)); err != nil {
				return nil, corrupt, fmt.Errorf("remove a drained segment: %w", err)
			}
			continue
		}
		if start > expected {
			corrupt++
			log.Error("a part of the spool that is not drained is missing: what was acknowledged there is lost",
				"from", expected, "to", start, "before", s.path(start, segmentSuffix))
		}
		seg, damaged, err := s.openSegment(start, end, replay)
		if err != nil {
			return nil, corrupt, err
		}
		if damaged {
			corrupt++
		}
		expected = max(expected, seg.end())
		if seg.size <= int64(len(segmentMagic)) && !damaged {
			if err := os.Remove(seg.path); err != nil {
				return nil, corrupt, fmt.Errorf("remove an empty segment: %w", err)
			}
			continue
		}
		s.segments = append(s.segments, seg)
	}
	// The first append starts a segment: a full disk must not keep what is there from being drained.
	return s, corrupt, reached(math.MaxInt64)
}

func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the spool: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("spool %s is in use by another process: %w", dir, err)
	}
	return f, nil
}

// list gives the offsets of the files with a suffix, ascending.
func list(dir, suffix string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the spool: %w", err)
	}
	var starts []int64
	for _, e := range entries {
		base, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok {
			continue
		}
		if start, err := strconv.ParseInt(base, 16, 64); err == nil {
			starts = append(starts, start)
		}
	}
	slices.Sort(starts)
	return starts, nil
}

func (s *spool) path(start int64, suffix string) string {
	return filepath.Join(s.dir, fmt.Sprintf("%016x%s", start, suffix))
}

func (s *spool) loadState(segments bool) error {
	text, err := os.ReadFile(filepath.Join(s.dir, "state.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !segments:
		s.state = state{Spool: uuid.NewString()}
		return s.saveState()
	case err != nil:
		return fmt.Errorf("read how far the spool was drained: %w; move %s away to start an empty spool", err, s.dir)
	}
	err = json.Unmarshal(text, &s.state)
	if err == nil && s.state.Spool == "" {
		err = errors.New("it names no spool")
	}
	if err != nil {
		return fmt.Errorf("%s/state.json is damaged (%w): move %s away to start an empty spool", s.dir, err, s.dir)
	}
	s.saved = s.state
	return nil
}

func (s *spool) saveState() error {
	text, err := json.Marshal(s.state)
	if err != nil {
		return err
	}
	err = writeDurably(filepath.Join(s.dir, "state.json"), func(f io.Writer) error {
		_, err := f.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("save how far the spool is drained: %w", err)
	}
	s.saved = s.state
	return nil
}

// writeDurably replaces a file in one step that survives a crash.
func writeDurably(path string, fill func(io.Writer) error) (err error) {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<16)
	if err = fill(buffered); err != nil {
		return err
	}
	if err = errors.Join(buffered.Flush(), f.Sync()); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// scan gives the whole frames of a segment from an offset on to each, and returns where they end.
func scan(text []byte, from int, each func(at time.Time, records []byte) error) (good int, err error) {
	if len(text) < len(segmentMagic) || string(text[:len(segmentMagic)]) != segmentMagic {
		return 0, nil
	}
	good = max(from, len(segmentMagic))
	for {
		payload, n := frame(text[good:])
		if n == 0 {
			return good, nil
		}
		if err := each(acceptedAt(payload), payload[payloadHeader:]); err != nil {
			return good, err
		}
		good += n
	}
}

// frame reads the frame at the start of text; n is 0 when there is no whole one.
func frame(text []byte) (payload []byte, n int) {
	if len(text) < frameHeader {
		return nil, 0
	}
	size := int64(binary.LittleEndian.Uint32(text))
	if size < payloadHeader || size > maxFrame || int64(len(text)) < frameHeader+size {
		return nil, 0
	}
	payload = text[frameHeader : frameHeader+size]
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(text[4:]) {
		return nil, 0
	}
	return payload, frameHeader + int(size)
}

func acceptedAt(payload []byte) time.Time {
	return time.Unix(0, int64(binary.LittleEndian.Uint64(payload))).UTC()
}

// beginFrame reserves a frame's headers; endFrame fills them.
func beginFrame(to []byte, at time.Time) []byte {
	to = append(to, make([]byte, frameHeader)...)
	return binary.LittleEndian.AppendUint64(to, uint64(at.UnixNano()))
}

func endFrame(buf []byte, begin int) {
	payload := buf[begin+frameHeader:]
	binary.LittleEndian.PutUint32(buf[begin:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(buf[begin+4:], crc32.Checksum(payload, castagnoli))
}

// startSegment opens a new active segment behind the last.
func (s *spool) startSegment() error {
	start := max(s.end(), s.floor)
	s.mu.Lock()
	if n := len(s.segments); n > 0 {
		// One that nothing could be written to is begun again, lest each attempt on a full disk leave a file.
		if last := s.segments[n-1]; last.size <= int64(len(segmentMagic)) && last.start >= s.floor {
			start = last.start
		}
	}
	s.mu.Unlock()
	path := s.path(start, segmentSuffix)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("start a segment: %w", err)
	}
	if _, err = f.WriteString(segmentMagic); err == nil {
		err = errors.Join(f.Sync(), syncDir(s.dir))
	}
	if err != nil {
		return fmt.Errorf("start a segment: %w", errors.Join(err, f.Close()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg := &segment{start: start, size: int64(len(segmentMagic)), path: path}
	if n := len(s.segments); n > 0 && s.segments[n-1].start == start {
		s.segments[n-1] = seg // an empty one, begun again
	} else {
		s.segments = append(s.segments, seg)
	}
	s.active = f
	return nil
}

// end is the offset behind the last durable frame.
func (s *spool) end() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.segments) == 0 {
		return 0
	}
	return s.segments[len(s.segments)-1].end()
}

// append writes whole frames and syncs them. After an error nothing of them counts: the segment is
// given up at its last durable byte and the next append starts another, since the state of a file
// after a failed sync is not known.
func (s *spool) append(frames []byte) error {
	if s.active == nil {
		if err := s.startSegment(); err != nil {
			return err
		}
	}
	s.mu.Lock()
	seg := s.segments[len(s.segments)-1]
	s.mu.Unlock()
	_, err := s.active.Write(frames)
	if err == nil {
		err = s.active.Sync()
	}
	if err != nil {
		cut := errors.Join(s.active.Truncate(seg.size), s.active.Close())
		s.active = nil
		if cut != nil {
			s.log.Error("cut off a failed write", "segment", seg.path, "error", cut)
		}
		return fmt.Errorf("write the spool: %w", err)
	}
	s.mu.Lock()
	seg.size += int64(len(frames))
	full := seg.size >= s.segmentSize
	s.mu.Unlock()
	if full {
		err := s.active.Close()
		s.active = nil // the next append starts another
		if err != nil {
			s.log.Error("close a segment", "segment", seg.path, "error", err)
		}
	}
	return nil
}

// read gives the whole frames from an offset on, until each returns false, or up to the offset until
// when that is beyond from, or to the durable end. It returns the offset behind the last one taken.
func (s *spool) read(from int64, each func(at time.Time, records []byte) bool, until int64) (to int64, err error) {
	s.mu.Lock()
	segments := make([]segment, len(s.segments))
	for i, seg := range s.segments {
		segments[i] = *seg
	}
	s.mu.Unlock()
	to = from
	for _, seg := range segments {
		if until > from && seg.end() > until {
			seg.size = until - seg.start
		}
		if seg.end() <= to {
			continue
		}
		more, err := readSegment(&seg, &to, each)
		if err != nil || !more {
			return to, err
		}
	}
	return to, nil
}

func readSegment(seg *segment, to *int64, each func(time.Time, []byte) bool) (more bool, err error) {
	f, err := os.Open(seg.path)
	if err != nil {
		return false, fmt.Errorf("read the spool: %w", err)
	}
	defer f.Close()
	at := max(*to, seg.start+int64(len(segmentMagic)))
	in := bufio.NewReaderSize(io.NewSectionReader(f, at-seg.start, seg.end()-at), 1<<18)
	var header [frameHeader]byte
	for at < seg.end() {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return false, fmt.Errorf("read the spool at %d: %w", at, err)
		}
		size := int64(binary.LittleEndian.Uint32(header[:]))
		if size < payloadHeader || size > maxFrame || size > seg.end()-at-frameHeader {
			return false, fmt.Errorf("spool at %d: frame of %d bytes", at, size)
		}
		payload := make([]byte, size)
		if _, err := io.ReadFull(in, payload); err != nil {
			return false, fmt.Errorf("read the spool at %d: %w", at, err)
		}
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(header[4:]) {
			return false, fmt.Errorf("spool at %d: checksum does not match", at)
		}
		if !each(acceptedAt(payload), payload[payloadHeader:]) {
			return false, nil
		}
		at += frameHeader + size
		*to = at
	}
	return true, nil
}

// drained takes the sealed segments that lie wholly before an offset off the list.
func (s *spool) drained(before int64) (gone []*segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.segments) > 1 && s.segments[0].end() <= before {
		gone = append(gone, s.segments[0])
		s.segments = s.segments[1:]
	}
	return gone
}

// backlog is how many bytes are durable here but not drained.
func (s *spool) backlog(cursor int64) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		if first := max(cursor, seg.start+int64(len(segmentMagic))); first < seg.end() {
			n += seg.end() - first
		}
	}
	return n
}

// free is how many bytes the spool's disk still has for us.
func free(dir string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, err
	}
	return int64(fs.Bavail) * int64(fs.Bsize), nil //nolint:unconvert // 32 bits wide on macOS
}

func (s *spool) close() error {
	var err error
	if s.active != nil {
		err = s.active.Close()
		s.active = nil
	}
	if s.lock != nil {
		// Closing alone would not unlock at once: a process that is just being forked holds a copy of the file.
		err = errors.Join(err, unix.Flock(int(s.lock.Fd()), unix.LOCK_UN), s.lock.Close())
	}
	return err
}
