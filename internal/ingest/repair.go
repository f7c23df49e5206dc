package ingest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// openSegment reads a segment of an earlier run. What is not whole at the end of the spool is the rest of a write
// that was never acknowledged, and so is what reaches beyond the start of the next segment: it is cut off. Elsewhere,
// or with whole frames behind it, it is damage: a copy of the segment is set aside, it is reported, and the frames
// on both sides of it are kept.
func (s *spool) openSegment(start, end int64, replay func(time.Time, []byte) error) (_ *segment, damaged bool, err error) {
	path := s.path(start, segmentSuffix)
	text, done, err := mapped(path)
	if err != nil {
		return nil, false, fmt.Errorf("read segment: %w", err)
	}
	defer done()
	size := len(text)
	text = text[:min(int64(size), end-start)]
	good, last, mended := 0, time.Time{}, false
	for {
		n, err := scan(text, good, func(at time.Time, records []byte) error { last = at; return replay(at, records) })
		if good = n; err != nil {
			return nil, damaged, fmt.Errorf("segment %s at %d: %w", path, good, err)
		}
		behind := frameBehind(text, good)
		if !damaged && good < len(text) && (end != math.MaxInt64 || behind > 0 || good == 0 && size > len(segmentMagic)) {
			damaged = true
			if err := setAside(s.path(start, corruptSuffix), text); err != nil {
				return nil, false, err
			}
			s.log.Error("spool segment is damaged; a copy is set aside, and the whole frames of it are kept",
				"segment", path, "at", good, "size", size, "next_whole", behind, "copy", s.path(start, corruptSuffix))
		}
		if behind == 0 {
			break
		}
		if err := bridge(path, text, good, behind, last); err != nil {
			return nil, damaged, fmt.Errorf("mend a damaged segment: %w", err)
		}
		mended = true
	}
	seg := &segment{start: start, size: int64(good), path: path}
	if good == size && !mended && end != math.MaxInt64 {
		return seg, damaged, nil
	}
	// Of the last segment, what an earlier run wrote may not have reached the disk before it died.
	if err := settleFile(path, int64(good)); err != nil {
		return nil, damaged, fmt.Errorf("cut the torn tail: %w", err)
	}
	return seg, damaged, nil
}

// mapped gives a file's bytes without a copy in memory, until done.
func mapped(path string) (text []byte, done func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, func() {}, err
	}
	text, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("map %s: %w", path, err)
	}
	return text, func() { _ = unix.Munmap(text) }, nil
}

// setAside keeps a copy of a damaged file as it was found, the first time.
func setAside(aside string, text []byte) error {
	if _, err := os.Stat(aside); err == nil {
		return nil
	}
	if err := writeDurably(aside, func(f io.Writer) error { _, err := f.Write(text); return err }); err != nil {
		return fmt.Errorf("set a copy of a damaged file aside: %w", err)
	}
	return nil
}

// settleFile cuts a file to a size and brings it to the disk.
func settleFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Sync(), f.Close())
}

// bridge makes one whole frame of the damaged bytes between two whole frames, so that every offset stays what it
// was: its one record is skipped.
func bridge(path string, text []byte, from, to int, at time.Time) error {
	b := beginFrame(nil, at)
	body := to - from - len(b) - 5
	b = append(b, byte(kindDamaged), byte(body)|0x80, byte(body>>7)|0x80, byte(body>>14)|0x80, byte(body>>21))
	frame := append(slices.Clone(b), text[from+len(b):to]...)
	endFrame(frame, 0)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(frame[:len(b)], int64(from))
	return errors.Join(err, f.Sync(), f.Close())
}

// frameBehind finds the next whole frame behind the broken one at good, 0 when there is none. Where the broken
// one's length is broken too, that may be anywhere: what cannot be a frame of ours is passed over before its
// checksum is computed.
func frameBehind(text []byte, good int) int {
	if good == 0 {
		return 0 // not even a segment
	}
	const least, most = frameHeader + payloadHeader + 5, 4 << 20 // what bridge needs; a full frame with a full record
	for at := good + least; at+frameHeader+payloadHeader < len(text); at++ {
		size := binary.LittleEndian.Uint32(text[at:])
		accepted := binary.LittleEndian.Uint64(text[at+frameHeader:])
		kind := kind(text[at+frameHeader+payloadHeader])
		if size > most || accepted>>56 < 0x15 || accepted>>56 > 0x38 || kind == 0 || kind >= 32 && kind != kindDamaged {
			continue // too long; accepted before 2020 or after 2100; no kind of record
		}
		if _, n := frame(text[at:]); n > 0 {
			return at
		}
	}
	return 0
}
