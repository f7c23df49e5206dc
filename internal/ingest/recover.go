package ingest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/flyball-dev/flyball/internal/usage"
)

// A segment that has been drained is replaced by its summary, a file of the same frames that keeps
// what the memory needs of it: the ids, what each span's dimensions were, and the events that still
// waited. Summaries are kept for a day and a bit; what they take is about 50 bytes a span.
const (
	summarySuffix = ".ids"
	keepSummaries = remember + time.Hour
)

// recovery replays frames into memory and lounge. It reads segments and summaries alike.
type recovery struct {
	ingest *Ingest
	dims   []dimensions // that the summary has named, by their numbers
	lost   bool         // some of them: the numbers of later ones are not known
}

func (r *recovery) frame(at time.Time, records []byte) error {
	return eachRecord(records, func(k kind, body []byte) error { return r.record(at, k, body) })
}

func (r *recovery) record(at time.Time, k kind, body []byte) error {
	i := r.ingest
	in := reader{from: body}
	switch k {
	case kindDimensions, kindDimensions1:
		if d := in.dimensions(k); !r.lost {
			r.dims = append(r.dims, d)
		}
	case kindSeen:
		d := dimensions{}
		if n := in.uvarint(); n > 0 && n <= uint64(len(r.dims)) {
			d = r.dims[n-1]
		} else if n > 0 && !r.lost {
			return fmt.Errorf("dimensions %d of %d", n, len(r.dims))
		}
		for len(in.from) > 0 && in.err == nil {
			r.saw(at, d, in.id())
		}
	case kindDamaged:
		r.lost = true
	case kindWaiting, kindWaiting1:
		e, err := waitingEvent(k, &in)
		if err != nil {
			return err
		}
		w := newWaiting(e, at)
		if _, known := i.lounge.byID[w.id]; known {
			break
		}
		r.saw(at, dimensions{}, w.id)
		i.lounge.enter(w)
	default:
		d, ids, err := identities(k, &in, i.anyTenant)
		if err != nil {
			return err
		}
		for _, k := range ids {
			r.saw(at, d, k)
		}
	}
	return in.err
}

func waitingEvent(k kind, in *reader) (event, error) {
	if k == kindWaiting1 {
		return in.event(k)
	}
	return in.nested()
}

// saw remembers an id; an event by that id waits no more.
func (r *recovery) saw(at time.Time, d dimensions, k id) {
	if w := r.ingest.lounge.byID[k]; w != nil {
		r.ingest.lounge.leave(w)
	}
	if _, known := r.ingest.memory.find(k); !known {
		r.ingest.memory.add(k, d, at)
	}
}

// identities are the ids to remember of a record in a segment.
func identities(k kind, in *reader, anyTenant bool) (d dimensions, ids []id, err error) {
	switch k {
	case kindSpan:
		var s usage.Span
		in.span(&s)
		ids = append(ids, spanID(s.TenantID, s.TraceID, s.SpanID), traceID(s.TenantID, s.TraceID))
		if anyTenant {
			ids = append(ids, traceID("", s.TraceID))
		}
		return dimensionsOf(&s), ids, in.err
	case kindQuality, kindQuality2, kindQuality1, kindOutcome:
		e, err := in.event(k)
		if err != nil {
			return d, nil, err
		}
		return d, append(ids, e.identity()), nil
	case kindReleased, kindReleased1:
		return d, append(ids, in.id()), in.err
	case kindContent: // it goes with its span
		return d, nil, nil
	case kindTuple:
		var t usage.Tuple
		in.tuple(&t)
		return d, append(ids, tupleID(&t)), in.err
	case kindDeployment:
		var p usage.Deployment
		in.deployment(&p)
		return d, append(ids, deploymentID(&p)), in.err
	}
	return d, nil, fmt.Errorf("unknown kind of record: a newer version wrote it")
}

func (r *reader) id() (k id) {
	copy(k[:], r.take(uint64(len(k))))
	return k
}

func (r *reader) dimensions(k kind) dimensions {
	d := dimensions{Tenant: r.unique(), Model: r.unique(), Template: r.unique(), Experiment: r.unique(), Arm: usage.Arm(r.unique())}
	if k == kindDimensions {
		d.Served, d.Provider = r.unique(), r.unique()
	}
	return d
}

func appendDimensions(to []byte, d dimensions) []byte {
	w := writer(to)
	for _, text := range [...]string{d.Tenant, d.Model, d.Template, d.Experiment, string(d.Arm), d.Served, d.Provider} {
		w.string(text)
	}
	return w
}

// loadSummary reads the summary of an earlier segment. A damaged one is mended as a segment is: a copy is set aside,
// and the file keeps its whole frames, on which waiting events depend.
func (i *Ingest) loadSummary(start int64) error {
	path := summaryPath(i.opt.Dir, start)
	text, done, err := mapped(path)
	if err != nil {
		return fmt.Errorf("read a summary: %w", err)
	}
	defer done()
	r := recovery{ingest: i}
	good, damaged, last := 0, false, time.Time{}
	for {
		good, err = scan(text, good, func(at time.Time, records []byte) error { last = at; return r.frame(at, records) })
		if err == nil && good > 0 && good == len(text) {
			return nil
		}
		behind := frameBehind(text, good)
		if !damaged {
			damaged = true
			i.stats.corruptSegments.Add(1)
			if err := setAside(path+corruptSuffix, text); err != nil {
				return err
			}
			i.log.Error("summary of a drained segment is damaged: retries of the records in its damaged part may count twice, and events that waited there are lost; a copy is set aside",
				"summary", path, "at", good, "size", len(text), "next_whole", behind, "copy", path+corruptSuffix, "error", err)
		}
		if behind == 0 {
			break
		}
		if err := bridge(path, text, good, behind, last); err != nil {
			return fmt.Errorf("mend a damaged summary: %w", err)
		}
	}
	if good == 0 {
		err = os.Remove(path)
	} else {
		err = settleFile(path, int64(good))
	}
	if err != nil {
		return fmt.Errorf("cut off the damaged end of a summary: %w", err)
	}
	return nil
}

func summaryPath(dir string, start int64) string {
	return (&spool{dir: dir}).path(start, summarySuffix)
}

// summarize replaces a drained segment by its summary.
func (i *Ingest) summarize(seg *segment) error {
	err := writeDurably(summaryPath(i.opt.Dir, seg.start), func(out io.Writer) error {
		if _, err := io.WriteString(out, segmentMagic); err != nil {
			return err
		}
		s := summary{anyTenant: i.anyTenant, index: map[dimensions]uint64{}, out: out}
		at := seg.start
		var failed error
		_, err := readSegment(seg, &at, func(at time.Time, records []byte) bool {
			failed = s.frame(at, records)
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	if err != nil {
		return fmt.Errorf("summarize a drained segment: %w", err)
	}
	return os.Remove(seg.path)
}

// summary writes one.
type summary struct {
	anyTenant bool
	index     map[dimensions]uint64 // from 1
	out       io.Writer
	buf       []byte
}

func (s *summary) frame(at time.Time, records []byte) error {
	s.buf = beginFrame(s.buf[:0], at)
	err := eachRecord(records, func(k kind, body []byte) error {
		switch {
		case k == kindDamaged:
			return nil
		case k.waits():
			s.buf = appendRecord(s.buf, k, len(body), body)
			return nil
		}
		d, ids, err := identities(k, &reader{from: body}, s.anyTenant)
		if err != nil {
			return err
		}
		seen := binary.AppendUvarint(nil, s.number(d))
		for _, k := range ids {
			seen = append(seen, k[:]...)
		}
		s.buf = appendRecord(s.buf, kindSeen, len(seen), seen)
		return nil
	})
	if err != nil {
		return err
	}
	endFrame(s.buf, 0)
	_, err = s.out.Write(s.buf)
	return err
}

func (s *summary) number(d dimensions) uint64 {
	if d == (dimensions{}) {
		return 0
	}
	n, ok := s.index[d]
	if !ok {
		n = uint64(len(s.index) + 1)
		s.index[d] = n
		body := appendDimensions(nil, d)
		s.buf = appendRecord(s.buf, kindDimensions, len(body), body)
	}
	return n
}

// forgetSummaries removes the summaries whose last record is older than what is remembered.
func (i *Ingest) forgetSummaries() {
	starts, err := list(i.opt.Dir, summarySuffix)
	if err != nil {
		i.log.Error("look for old summaries", "error", err)
		return
	}
	for _, start := range starts {
		path := summaryPath(i.opt.Dir, start)
		last, err := lastAccepted(path)
		if err == nil {
			if i.opt.Now().Sub(last) <= keepSummaries {
				return // the later ones are younger
			}
			err = os.Remove(path)
		}
		if err != nil { // one that cannot be read may be needed yet
			i.log.Error("remove an old summary; it stays", "file", path, "error", err)
		}
	}
}

// lastAccepted is when the last record of a summary was accepted.
func lastAccepted(path string) (last time.Time, err error) {
	f, err := os.Open(path)
	if err != nil {
		return last, err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	if _, err := in.Discard(len(segmentMagic)); err != nil {
		return last, err
	}
	var head [frameHeader + payloadHeader]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err == io.EOF {
			return last, nil
		} else if err != nil {
			return last, err
		}
		last = acceptedAt(head[frameHeader:])
		if _, err := in.Discard(int(binary.LittleEndian.Uint32(head[:])) - payloadHeader); err != nil {
			return last, err
		}
	}
}

// countRows is how many of a frame's records go to the sink.
func countRows(records []byte) (n int64) {
	_ = eachRecord(records, func(k kind, _ []byte) error {
		if !k.waits() && k != kindDamaged {
			n++
		}
		return nil
	})
	return n
}
