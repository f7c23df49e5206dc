package ingest

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/flyball-dev/flyball/internal/usage"
)

// signal is one kind of telemetry of OTLP: how its requests are read and what they are answered.
type signal struct {
	scope        Scope
	binary, json func(o *otlp) error
	evaluations  bool // are its records; elsewhere they are events of records
	// answer is a whole success when nothing is rejected and the message is empty.
	answer func(rejected int64, message string) proto.Message
}

var (
	traces = signal{
		scope:  ScopeSpans,
		binary: (*otlp).wireTraces,
		json:   (*otlp).jsonTraces,
		answer: func(rejected int64, message string) proto.Message {
			r := &coltracepb.ExportTraceServiceResponse{}
			if rejected > 0 || message != "" {
				r.PartialSuccess = &coltracepb.ExportTracePartialSuccess{RejectedSpans: rejected, ErrorMessage: message}
			}
			return r
		},
	}
	logs = signal{
		scope:  ScopeQuality,
		binary: (*otlp).wireLogs,
		json:   (*otlp).jsonLogs, evaluations: true,
		answer: func(rejected int64, message string) proto.Message {
			r := &collogspb.ExportLogsServiceResponse{}
			if rejected > 0 || message != "" {
				r.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: rejected, ErrorMessage: message}
			}
			return r
		},
	}
)

// otlp reads one export request: its readers put a record into the official types, and its methods in
// otlp_genai.go make a call or an evaluation of it.
type otlp struct {
	*decoder
	req             *request
	answer          *answer
	tenantAttribute string // the configured name

	p      tracepb.Span
	r      logspb.LogRecord
	status tracepb.Status
	events []*tracepb.Span_Event

	attributes, resourceAttributes attributeList
	own, resource                  facts
	resourceErr                    error // what is wrong with the resource, and so with its records

	index    int   // of the record that comes next
	rejected int64 // spans or log records
	ignored  int64 // records that are neither calls nor evaluations
}

func (i *Ingest) newOTLP(d *decoder, req *request, a *answer) *otlp {
	d.passes = true
	return &otlp{
		decoder: d, req: req, answer: a, tenantAttribute: i.opt.TenantAttribute,
		attributes: attributeList{pool: &slots{}}, resourceAttributes: attributeList{pool: &slots{}},
	}
}

func (o *otlp) wireTraces() error {
	return o.wireEnvelope(o.decoder.text, func(b []byte) error {
		return o.takeSpan(func() error { return o.wireSpan(b, &o.p) })
	})
}

func (o *otlp) wireLogs() error {
	return o.wireEnvelope(o.decoder.text, func(b []byte) error {
		return o.takeLogRecord(func() error { return o.wireLogRecord(b, &o.r) })
	})
}

func (o *otlp) beginResource() {
	o.resourceAttributes.reset()
	o.resource.reset()
	o.resourceErr = nil
}

// takeResource reads the resource of the records that follow. What is wrong with it is refused with each of them: others
// of the same request are not concerned.
func (o *otlp) takeResource(read func() error) error {
	err := read()
	if err == nil {
		err = o.collect(&o.resource, o.resourceAttributes.all)
	}
	var syntax *syntaxError
	if errors.As(err, &syntax) {
		return err
	}
	o.resourceErr = cmpErr(o.resourceErr, err)
	return nil
}

// takeSpan reads the next span and keeps it if it is a call, and the evaluations among its events. What is wrong with it
// is refused alone. Its error says that the request cannot be read any further.
func (o *otlp) takeSpan(read func() error) error {
	index := o.index
	o.index++
	o.attributes.reset()
	o.events = o.events[:0]
	o.texts.reset()
	o.status.Code = 0
	p := &o.p
	p.TraceId, p.SpanId, p.StartTimeUnixNano, p.EndTimeUnixNano, p.Status = nil, nil, 0, 0, &o.status
	if err := read(); err != nil {
		return o.reject(index, "", err)
	}
	if o.resourceErr != nil {
		return o.reject(index, "resource", o.resourceErr)
	}
	p.Attributes, p.Events = o.attributes.all, o.events
	err := o.collect(&o.own, p.Attributes)
	var s usage.Span
	isCall := false
	if err == nil {
		isCall, err = o.call(p, &s)
	}
	if err != nil {
		return o.reject(index, "", err)
	}
	if isCall {
		o.req.addSpan(index, &s, nil)
		o.req.addTexts(&s, &o.texts)
	} else {
		o.ignored++
	}
	for n, e := range p.Events {
		var q usage.Quality
		counts, err := o.event(e, &s, isCall, p, &q)
		if err == nil && counts && !o.mayScore {
			err = errMayNotScore
		}
		switch {
		case err != nil: // the span stays: its events are not what rejected_spans counts
			o.refuse(index, fmt.Sprintf("events[%d]", n), err)
		case counts:
			o.req.addQuality(index, &q)
		}
	}
	return nil
}

// maxEvents bounds the evaluations that one span carries.
const maxEvents = 64

// newEvent adds an evaluation to the span that is being read.
func (o *otlp) newEvent() (*tracepb.Span_Event, error) {
	if len(o.events) == maxEvents {
		return nil, wrongField("events", "at most %d evaluations of one span", maxEvents)
	}
	e := &tracepb.Span_Event{Name: evaluationEvent}
	o.events = append(o.events, e)
	return e, nil
}

// takeLogRecord reads the next log record and keeps it if it is an evaluation.
func (o *otlp) takeLogRecord(read func() error) error {
	index := o.index
	o.index++
	o.attributes.reset()
	r := &o.r
	r.TraceId, r.SpanId, r.TimeUnixNano, r.ObservedTimeUnixNano, r.EventName = nil, nil, 0, 0, ""
	if err := read(); err != nil {
		return o.reject(index, "", err)
	}
	if o.resourceErr != nil {
		return o.reject(index, "resource", o.resourceErr)
	}
	r.Attributes = o.attributes.all
	err := o.collect(&o.own, r.Attributes)
	var q usage.Quality
	counts := false
	if err == nil {
		counts, err = o.logRecord(r, &q)
	}
	switch {
	case err != nil:
		return o.reject(index, "", err)
	case counts:
		o.req.addQuality(index, &q)
	default:
		o.ignored++
	}
	return nil
}

// reject refuses a record. An error in the text of a JSON body is passed on: what follows cannot be read.
func (o *otlp) reject(index int, field string, err error) error {
	var syntax *syntaxError
	if errors.As(err, &syntax) {
		return err
	}
	o.rejected++
	o.refuse(index, field, err)
	return nil
}

func (o *otlp) refuse(index int, field string, err error) {
	var f *fieldError
	if !errors.As(err, &f) {
		f = &fieldError{"", err.Error()}
	}
	if field != "" && f.field != "" {
		field += "."
	}
	o.answer.refuse(refusal{index, field + f.field, f.reason})
}

// serveOTLP answers OTLP/HTTP requests of one signal, in the encoding that they came in.
func (i *Ingest) serveOTLP(sig signal) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		binary, typeErr := isBinary(r.Header.Get("Content-Type"))
		var o *otlp
		a, err := i.take(w, r, sig.scope, func(string) error { return typeErr }, func(d *decoder, req *request, a *answer) error {
			o = i.newOTLP(d, req, a)
			return o.decode(sig, binary)
		})
		if err != nil {
			s := statusOf(err)
			if s.retry > 0 {
				w.Header().Set("Retry-After", strconv.Itoa(s.retry))
			}
			writeOTLP(w, binary, s.status, s.rpc())
			return
		}
		writeOTLP(w, binary, http.StatusOK, i.answerOTLP(sig, o, a))
	}
}

// decode reads a whole request. Its error is a refusal of all of it.
func (o *otlp) decode(sig signal, binary bool) error {
	read := sig.json
	if binary {
		read = sig.binary
	}
	if err := read(o); err != nil {
		return refuseAll(http.StatusBadRequest, "the body is no OTLP request: %w", err)
	}
	return nil
}

// answerOTLP says what became of a request that was taken, and counts what was ignored.
func (i *Ingest) answerOTLP(sig signal, o *otlp, a *answer) proto.Message {
	i.stats.ignored.Add(o.ignored)
	rejected := o.rejected
	if sig.evaluations {
		rejected += int64(len(o.req.refused))
	}
	return sig.answer(rejected, explain(a))
}

// explain writes the first few refusals out for the partial_success of an answer.
func explain(a *answer) string {
	const most = 5
	var b strings.Builder
	for n, r := range a.Refused {
		if n == most {
			break
		}
		if n > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "record %d: ", r.Index)
		if r.Field != "" {
			b.WriteString(r.Field + " ")
		}
		b.WriteString(r.Reason)
	}
	if more := len(a.Refused) + a.Unlisted - most; more > 0 {
		fmt.Fprintf(&b, "; and %d more", more)
	}
	return strings.ToValidUTF8(b.String(), "�")
}

// isBinary tells OTLP's two encodings apart.
func isBinary(contentType string) (bool, error) {
	kind, _, _ := mime.ParseMediaType(contentType)
	switch kind {
	case "application/x-protobuf", "application/protobuf":
		return true, nil
	case "application/json":
		return false, nil
	}
	return false, refuseAll(http.StatusUnsupportedMediaType, "content type %q is not taken: send application/x-protobuf or application/json", contentType)
}

// writeOTLP writes a message in the encoding of the request.
func writeOTLP(w http.ResponseWriter, binary bool, status int, m proto.Message) {
	marshal, contentType := protojson.Marshal, "application/json"
	if binary {
		marshal, contentType = proto.Marshal, "application/x-protobuf"
	}
	body, err := marshal(m)
	if err != nil { // only text that is not UTF-8 could be the cause, and there is none
		body, status = nil, http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = w.Write(body) // the sender has gone: it will ask again
}

// rpc is a refusal as google.rpc.Status, in which OTLP wants errors.
func (e *statusError) rpc() *rpcstatus.Status {
	message := strings.ToValidUTF8(e.Error(), "�")
	s := &rpcstatus.Status{Message: message}
	switch e.status {
	case http.StatusBadRequest:
		s.Code = int32(codes.InvalidArgument)
		s.Details = details(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "body", Description: message}}})
	case http.StatusUnsupportedMediaType:
		s.Code = int32(codes.InvalidArgument)
	case http.StatusRequestTimeout:
		s.Code = int32(codes.DeadlineExceeded)
	case http.StatusUnauthorized:
		s.Code = int32(codes.Unauthenticated)
	case http.StatusForbidden:
		s.Code = int32(codes.PermissionDenied)
	case http.StatusTooManyRequests, http.StatusRequestEntityTooLarge: // which comes without RetryInfo
		s.Code = int32(codes.ResourceExhausted)
	default:
		s.Code = int32(codes.Unavailable)
	}
	if e.retry > 0 {
		s.Details = details(retryInfo(e.retry))
	}
	return s
}
