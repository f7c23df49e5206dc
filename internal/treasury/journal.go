package treasury

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/flyball-dev/flyball/internal/budget"
)

// The journal says what this gateway has promised, so that the one that comes after a kill knows what was under way:
// the kernel keeps what is written to a mapped file whatever becomes of the process. Nothing is synced. A machine that
// loses its power loses the end of it, and what Redis holds for it then lapses into spent.
//
// It is a row of segments, journal.<n>. Each begins with all that still counts, so only the last is needed; the one
// before goes when that is written. A record is its length, its checksum and what journalRecord writes; a length of 0,
// or a checksum that is wrong, ends a segment.

const (
	segmentSize = 4 << 20
	recordHead  = 8
	segmentName = "journal."
)

// toldFor is for how long totals are remembered: what Redis lost is told again from them. It is time in which calls were
// made: a gateway that comes back after a day still knows what the run before it has spent last.
const toldFor = 2 * time.Hour

// journal is written by one process at a time. It is safe for concurrent use.
type journal struct {
	dir  string
	lock *os.File

	mu      sync.Mutex
	segment []byte // mapped
	end     int    // of what is written
	number  int
	buf     []byte
	state   journalState
}

// journalState is what a journal says.
type journalState struct {
	live map[string]journalRecord // promises and leases, by kind and id
	told map[toldKey]budget.Micro
}

// toldKey names the total that a run of a gateway has spent of a counter in a minute.
type toldKey struct {
	run, tenant string
	counter     budget.Counter
	minute      int64 // unix
}

// openJournal reads what the directory's journal says, and begins a segment with all of it.
func openJournal(dir string) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of the journal of budgets: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock of the journal of budgets: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another gateway uses %s: give each a directory of its own", dir), lock.Close())
	}
	j := &journal{dir: dir, lock: lock, state: journalState{live: map[string]journalRecord{}, told: map[toldKey]budget.Micro{}}}
	if err := j.recover(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// segments are the numbers of the segments that there are, ascending.
func (j *journal) segments() ([]int, error) {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return nil, fmt.Errorf("listing the journal of budgets: %w", err)
	}
	var numbers []int
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), segmentName); ok {
			if n, err := strconv.Atoi(rest); err == nil && n > 0 {
				numbers = append(numbers, n)
			}
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

func (j *journal) path(n int) string { return filepath.Join(j.dir, segmentName+strconv.Itoa(n)) }

func (j *journal) recover() error {
	numbers, err := j.segments()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		raw, err := os.ReadFile(j.path(n))
		if err != nil {
			return fmt.Errorf("reading the journal of budgets: %w", err)
		}
		j.state.read(raw)
		j.number = n
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rotate(0)
}

// read applies a segment up to the first record that is not whole.
func (s *journalState) read(raw []byte) {
	for len(raw) >= recordHead {
		size := int(binary.LittleEndian.Uint32(raw))
		if size == 0 || size > len(raw)-recordHead {
			return
		}
		payload := raw[recordHead : recordHead+size]
		if crc32.ChecksumIEEE(payload) != binary.LittleEndian.Uint32(raw[4:]) {
			return
		}
		if r, ok := parseRecord(payload); ok {
			s.apply(r)
		}
		raw = raw[recordHead+size:]
	}
}

// apply is idempotent for all that a segment begins with, so that reading the one before too changes nothing.
func (s *journalState) apply(r journalRecord) {
	switch r.Kind {
	case recordAsk, recordLease:
		s.live[r.key()] = r
	case recordPromise:
		delete(s.live, string(recordAsk)+r.ID)
		s.live[r.key()] = r
	case recordEnd:
		delete(s.live, string(recordAsk)+r.ID)
		delete(s.live, string(recordPromise)+r.ID)
		delete(s.live, string(recordLease)+r.ID)
	case recordSettle:
		p, ok := s.live[string(recordPromise)+r.ID]
		if !ok {
			return
		}
		delete(s.live, p.key())
		at, recovered := r.At, r.Run != p.Run
		if recovered { // it is settled in the windows of its promise
			at = p.Span.Timestamp
		}
		if recovered || len(own(p.Parts)) > 0 { // until Redis has heard, or what it holds would lapse into spent
			ask := journalRecord{Kind: recordAsk, Run: r.Run, ID: p.ID, Tenant: p.Tenant, Amount: p.Amount, Parts: p.Parts}
			s.live[ask.key()] = ask
		}
		for _, c := range counters(p.Parts, at) {
			s.told[toldKey{r.Run, p.Tenant, c, minuteOf(r.At)}] += r.Amount
		}
	case recordTold:
		for _, p := range r.Parts {
			k := toldKey{r.Run, r.Tenant, p.Counter, minuteOf(r.At)}
			s.told[k] = max(s.told[k], r.Amount)
		}
	}
}

func minuteOf(at time.Time) int64 { return at.Unix() - at.Unix()%60 }

// write appends the record and applies it. What ends something counts for this process also where it cannot be
// appended: a successor ends it again.
func (j *journal) write(r journalRecord) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	err := j.append(r)
	if err == nil || r.Kind == recordSettle || r.Kind == recordEnd {
		j.state.apply(r)
	}
	return err
}

// append adds a record to the segment. j.mu is held.
func (j *journal) append(r journalRecord) error {
	j.buf = append(j.buf[:0], make([]byte, recordHead)...)
	j.buf = r.append(j.buf)
	payload := j.buf[recordHead:]
	if j.segment == nil {
		return errors.New("the journal of budgets is closed")
	}
	if j.end+len(j.buf)+recordHead > len(j.segment) {
		held := slices.Clone(j.buf)
		if err := j.rotate(len(held)); err != nil {
			return err
		}
		j.buf = append(j.buf[:0], held...)
		payload = j.buf[recordHead:]
	}
	binary.LittleEndian.PutUint32(j.buf[4:], crc32.ChecksumIEEE(payload))
	// The length goes last: a record that was cut short by a kill is none.
	copy(j.segment[j.end+4:], j.buf[4:])
	binary.LittleEndian.PutUint32(j.segment[j.end:], uint32(len(payload)))
	j.end += len(j.buf)
	return nil
}

// rotate begins a segment with all that counts, with room for more bytes. j.mu is held.
func (j *journal) rotate(room int) error {
	newest := int64(0)
	for k := range j.state.told {
		newest = max(newest, k.minute)
	}
	old := min(newest, time.Now().Unix()) - int64(toldFor/time.Second)
	snapshot := make([]byte, 0, 64<<10)
	add := func(r journalRecord) {
		at := len(snapshot)
		snapshot = append(snapshot, make([]byte, recordHead)...)
		snapshot = r.append(snapshot)
		payload := snapshot[at+recordHead:]
		binary.LittleEndian.PutUint32(snapshot[at:], uint32(len(payload)))
		binary.LittleEndian.PutUint32(snapshot[at+4:], crc32.ChecksumIEEE(payload))
	}
	for k, total := range j.state.told {
		if k.minute < old {
			delete(j.state.told, k)
			continue
		}
		add(journalRecord{Kind: recordTold, Run: k.run, Tenant: k.tenant, Parts: []part{{Counter: k.counter}}, Amount: total, At: time.Unix(k.minute, 0).UTC()})
	}
	for _, r := range j.state.live {
		add(r)
	}
	size := max(segmentSize, 2*(len(snapshot)+room))
	f, err := os.OpenFile(j.path(j.number+1), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("beginning a segment of the journal of budgets: %w", err)
	}
	defer f.Close()
	// Written, not only mapped: a full disk is an error here and not a fault later.
	if _, err := f.Write(make([]byte, size)); err != nil {
		return errors.Join(fmt.Errorf("beginning a segment of the journal of budgets: %w", err), os.Remove(f.Name()))
	}
	mapped, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping a segment of the journal of budgets: %w", err)
	}
	copy(mapped, snapshot)
	before := j.segment
	j.segment, j.end = mapped, len(snapshot)
	j.number++
	if before != nil {
		_ = syscall.Munmap(before) // of a file that goes now
	}
	numbers, err := j.segments()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if n != j.number {
			_ = os.Remove(j.path(n)) // read once more next time, which changes nothing
		}
	}
	return nil
}

// learn adds the parts of a promise that was made when they were not known.
func (j *journal) learn(id string, parts []part) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.state.live[string(recordPromise)+id]
	if !ok {
		return
	}
	r.Parts = parts
	_ = j.append(r) // its successor learns them too
	j.state.apply(r)
}

// total is what a run has spent of a counter in a minute.
func (j *journal) total(k toldKey) budget.Micro {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.told[k]
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.segment != nil {
		_ = syscall.Munmap(j.segment)
		j.segment = nil
	}
	return j.lock.Close()
}
