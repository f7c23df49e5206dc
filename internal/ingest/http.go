package ingest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/flyball-dev/flyball/internal/usage"
)

// maxRefusals bounds the refusals that an answer lists; further ones are only counted.
const maxRefusals = 1000

// refusal says what is wrong with one record of a request.
type refusal struct {
	Index  int    `json:"index"`
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// answer is what a sender is told.
type answer struct {
	Accepted   int       `json:"accepted"`
	Refused    []refusal `json:"refused"`
	Unlisted   int       `json:"refused_unlisted,omitempty"` // refusals beyond those that are listed
	Duplicates int       `json:"duplicates"`
}

// statusError is a refusal of a whole request.
type statusError struct {
	status int
	retry  int // seconds; 0 leaves Retry-After out
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

func refuseAll(status int, format string, args ...any) error {
	return &statusError{status: status, err: fmt.Errorf(format, args...)}
}

// serve answers requests whose bodies decode reads, of senders whose token has the scope.
func (i *Ingest) serve(scope Scope, decode func(*decoder, *request, *answer)) http.HandlerFunc {
	records := func(d *decoder, req *request, a *answer) error {
		if len(bytes.TrimSpace(d.text)) == 0 {
			return refuseAll(http.StatusBadRequest, "the body is empty")
		}
		decode(d, req, a)
		return nil
	}
	return func(w http.ResponseWriter, r *http.Request) {
		a, err := i.take(w, r, scope, checkType, records)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			s := statusOf(err)
			if s.retry > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(s.retry))
			}
			w.WriteHeader(s.status)
			reply(w, map[string]string{"error": s.Error()})
			return
		}
		if len(a.Refused) > 0 && a.Accepted+a.Duplicates == 0 {
			w.WriteHeader(http.StatusBadRequest)
		}
		reply(w, a)
	}
}

func reply(w io.Writer, value any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	_ = e.Encode(value) // the sender has gone: it will ask again
}

func statusOf(err error) *statusError {
	var s *statusError
	switch {
	case errors.As(err, &s):
		return s
	case errors.Is(err, errBusy):
		return &statusError{http.StatusTooManyRequests, 5, err}
	case errors.Is(err, errFull):
		return &statusError{http.StatusServiceUnavailable, 30, err}
	}
	return &statusError{http.StatusServiceUnavailable, 1, err}
}

// admitted lets a sender in, unless it must wait, or says why not.
func (i *Ingest) admitted(r *http.Request, scope Scope) (*Caller, error) {
	caller, err := i.opt.Door.Admit(r, scope, i.opt.Now())
	if err == nil {
		if i.spool.backlog(i.cursor.Load()) > i.opt.MaxSpool {
			return nil, errBusy
		}
		return caller, nil
	}
	status, retry := StatusOf(err)
	if status == http.StatusTooManyRequests {
		caller.key.complain.Do(func() {
			i.log.Warn("a sender is at its limit", "token", caller.Name, "tenant", caller.Tenant, "error", err)
		})
	}
	return nil, &statusError{status, int(math.Ceil(retry.Seconds())), err}
}

// take lets a request in, reads its body and makes its records durable. The error of decode refuses all of it.
func (i *Ingest) take(w http.ResponseWriter, r *http.Request, scope Scope, check func(contentType string) error, decode func(*decoder, *request, *answer) error) (*answer, error) {
	// Until the body is there: one that does not come holds a connection, refused or not, and a part of the memory.
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Now().Add(i.bodyTime)) // only a test's response has none
	caller, err := i.admitted(r, scope)
	if err != nil {
		return nil, err
	}
	if err := check(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	body, release, err := i.body(r, caller.maxBody(i.opt.MaxBody))
	defer release()
	if err != nil {
		return nil, err
	}
	_ = connection.SetReadDeadline(time.Time{}) // else it would end the request
	return i.keep(r.Context(), body, caller, decode)
}

// keep decodes a body and makes its records durable.
func (i *Ingest) keep(ctx context.Context, body []byte, caller *Caller, decode func(*decoder, *request, *answer) error) (*answer, error) {
	d := newDecoder(body, i.opt.Now(), caller)
	d.texts.wanted = i.opt.Wants != nil || i.opt.Keep != nil
	req, a := newRequest(i), &answer{Refused: []refusal{}}
	if err := decode(d, req, a); err != nil {
		return nil, err
	}
	caller.Charge(len(req.units)+len(a.Refused)+a.Unlisted, i.opt.Now())
	if err := i.submit(ctx, req); err != nil {
		return nil, err
	}
	a.Accepted, a.Duplicates = req.accepted, req.duplicates
	for _, late := range req.refused {
		a.refuse(late)
	}
	i.stats.refused.Add(int64(len(a.Refused) + a.Unlisted))
	slices.SortStableFunc(a.Refused, func(x, y refusal) int { return cmp.Compare(x.Index, y.Index) })
	return a, nil
}

func (a *answer) refuse(r refusal) {
	if len(a.Refused) == maxRefusals {
		a.Unlisted++
		return
	}
	a.Refused = append(a.Refused, r)
}

// checkType lets JSON in under the names that it goes by, and what has no name.
func checkType(contentType string) error {
	if contentType == "" {
		return nil
	}
	kind, _, err := mime.ParseMediaType(contentType)
	if err == nil {
		switch kind {
		case "application/json", "application/x-ndjson", "application/ndjson", "application/jsonl",
			"application/x-jsonlines", "application/json-seq", "text/plain", "text/json",
			"application/x-www-form-urlencoded": // what curl -d sends when told nothing
			return nil
		}
	}
	return refuseAll(http.StatusUnsupportedMediaType, "content type %q is not taken: send application/json or application/x-ndjson", contentType)
}

const (
	// bodyChunk is how far a body is read between looks at the memory that all bodies take.
	bodyChunk = 64 << 10
	// zstdWindow is what a body's own encoder may make its reader keep, from the first byte on.
	zstdWindow = 8 << 20
)

var errCrowded = &statusError{http.StatusTooManyRequests, 1, errors.New("too many large requests at once; try again")}

// crowded reports whether the bodies under way take more memory than they may.
func (i *Ingest) crowded(more int64) bool {
	return i.inFlight.Add(more) > max(8*i.opt.MaxBody, 8*zstdWindow)
}

// body reads a request's body, decompressed and bounded. Release gives its memory back.
func (i *Ingest) body(r *http.Request, limit int64) (body []byte, release func(), err error) {
	taken := int64(0)
	release = func() { i.inFlight.Add(-taken) }
	if strings.EqualFold(strings.TrimSpace(r.Header.Get("Content-Encoding")), "zstd") {
		defer i.inFlight.Add(-zstdWindow)
		if i.crowded(zstdWindow) {
			return nil, release, errCrowded
		}
	}
	source := io.Reader(http.MaxBytesReader(nil, r.Body, limit))
	source, closeSource, err := decompress(source, r.Header.Get("Content-Encoding"))
	if err != nil {
		return nil, release, err
	}
	defer closeSource()
	if r.ContentLength > limit {
		return nil, release, tooLarge(limit)
	}
	for {
		if len(body) == cap(body) { // memory is taken as bytes arrive, whatever length was announced
			body = append(make([]byte, 0, min(max(2*cap(body), bodyChunk), int(limit)+1)), body...)
		}
		if more := int64(cap(body)) - taken; more > 0 {
			taken += more
			if i.crowded(more) {
				return nil, release, errCrowded
			}
		}
		n, err := source.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		if int64(len(body)) > limit {
			return nil, release, tooLarge(limit)
		}
		var large *http.MaxBytesError
		switch {
		case err == io.EOF:
			return body, release, nil
		case errors.As(err, &large):
			return nil, release, tooLarge(limit)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, release, refuseAll(http.StatusRequestTimeout, "the body took longer than %s to come: send fewer records at once", i.bodyTime)
		case err != nil:
			return nil, release, refuseAll(http.StatusBadRequest, "read the body: %w", err)
		}
	}
}

func tooLarge(limit int64) error {
	return refuseAll(http.StatusRequestEntityTooLarge, "the body is larger than %d bytes: send fewer records at once", limit)
}

func decompress(source io.Reader, encoding string) (io.Reader, func(), error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return source, func() {}, nil
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(source)
		if err != nil {
			return nil, nil, refuseAll(http.StatusBadRequest, "the body is not gzip: %w", err)
		}
		return z, func() { z.Close() }, nil
	case "zstd":
		z, err := zstd.NewReader(source, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, refuseAll(http.StatusBadRequest, "the body is not zstd: %w", err)
		}
		return z, z.Close, nil
	}
	return nil, nil, refuseAll(http.StatusUnsupportedMediaType, "content encoding %q is not taken: send gzip or zstd", encoding)
}

func (d *decoder) spans(req *request, a *answer) {
	var s usage.Span
	var q usage.Quality
	hasQuality := false
	d.each(a,
		func() (err error) { hasQuality, err = d.span(&s, &q); return err },
		func(index int) {
			switch {
			case hasQuality && d.mayScore:
				req.addSpan(index, &s, &q)
			case hasQuality:
				a.refuse(refusal{index, "quality", errMayNotScore.Error()})
				fallthrough
			default:
				req.addSpan(index, &s, nil)
			}
			req.addTexts(&s, &d.texts)
		})
}

func (d *decoder) qualities(req *request, a *answer) {
	var q usage.Quality
	d.each(a, func() error { return d.qualityEvent(&q) }, func(index int) { req.addQuality(index, &q) })
}

func (d *decoder) outcomes(req *request, a *answer) {
	var o usage.Outcome
	d.each(a, func() error { return d.outcome(&o) }, func(index int) { req.addOutcome(index, &o) })
}

func (d *decoder) deployments(req *request, a *answer) {
	var p usage.Deployment
	d.each(a, func() error { return d.deployment(&p) }, func(index int) { req.addDeployment(index, &p) })
}

// parts are the field that an error names, if any, and its reason.
func parts(err error) (field, reason string) {
	var f *fieldError
	if errors.As(err, &f) {
		return f.field, f.reason
	}
	return "", err.Error()
}

// maxAgain bounds the bytes of refused records. Lines that are torn off seem to go on to the end of the body, and to
// look for the next one behind each takes the square of its length: what is honest stays far below the bound.
func (d *decoder) maxAgain() int { return 4*len(d.text) + maxRecord }

var errTornOff = errors.New("too many records before this one are torn off: the rest of the body was not read")

// each reads a body's records, of an array or one after the other, and keeps the good ones. Where an
// array is broken what follows cannot be read; where a line is, the next one can.
func (d *decoder) each(a *answer, one func() error, keep func(index int)) {
	index := 0
	record := func() error {
		start := d.pos
		if d.again > d.maxAgain() {
			return errTornOff
		}
		err := one()
		if err == nil && d.pos-start > d.maxRecord {
			err = wrong("the record is larger than %d bytes", d.maxRecord)
		}
		var field *fieldError
		switch {
		case err == nil:
			keep(index)
		case errors.As(err, &field):
			d.again += d.pos - start
			d.pos = start
			if _, err := d.pass(); err != nil {
				d.again += d.pos - start
				return &fieldError{field.field, field.reason + "; " + err.Error()}
			}
			a.refuse(refusal{index, field.field, field.reason})
		default:
			d.again += d.pos - start
			return err
		}
		index++
		return nil
	}
	d.space()
	if d.peek() == '[' {
		err := d.array(record)
		if d.space(); err == nil && d.pos < len(d.text) {
			err = d.syntax("there is more behind the array")
		}
		if err != nil {
			field, reason := parts(err)
			a.refuse(refusal{index, field, reason + "; the rest of the body was not read"})
		}
		return
	}
	for d.space(); d.pos < len(d.text); d.space() {
		start := d.pos
		err := record()
		if err == nil {
			continue
		}
		field, reason := parts(err)
		a.refuse(refusal{index, field, reason})
		if errors.Is(err, errTornOff) {
			return
		}
		index++
		next := bytes.IndexByte(d.text[start:], '\n')
		if next < 0 {
			return
		}
		d.pos = start + next
	}
}
