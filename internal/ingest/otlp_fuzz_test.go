package ingest

import (
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/proto"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/flyball-dev/flyball/internal/usage"
)

// fuzzed reads a request as the door does, and holds what it keeps to its bounds.
func fuzzed(t *testing.T, opt Options, body string, sig signal, binary bool) (spans []usage.Span, a *answer, err error) {
	i := &Ingest{opt: opt, anyTenant: true}
	req, a := newRequest(i), &answer{}
	o := i.newOTLP(newDecoder([]byte(body), testNow, &Caller{}), req, a)
	err = o.decode(sig, binary)
	if int(o.rejected) > len(a.Refused)+a.Unlisted {
		t.Fatalf("%d rejected, %d explained", o.rejected, len(a.Refused))
	}
	for _, u := range req.units {
		switch u.kind {
		case kindSpan:
			var s usage.Span
			in := reader{from: req.buf[u.body.from:u.body.to]}
			if in.span(&s); in.err != nil {
				t.Fatal(in.err)
			}
			if s.Tokens.Validate() != nil || s.TenantID == "" || s.Model == "" || len(s.TraceID) != 32 || len(s.SpanID) != 16 || s.Timestamp.Before(earliest) || s.Cost < 0 || len(s.Tags) > maxTags {
				t.Fatalf("took %+v", s)
			}
			spans = append(spans, s)
		default:
			if q := u.event.(scoreEvent).Quality; !(q.Score >= 0 && q.Score <= 1) || q.Evaluator == "" || q.TraceID == "" || q.ID == "" {
				t.Fatalf("took %+v", q)
			}
		}
	}
	return spans, a, err
}

// What the official decoder takes is taken, with as many spans; its own encoding of that gives the same calls.
func FuzzOTLPBinary(f *testing.F) {
	p := otelSpan(1, chat)
	p.Events = []*tracepb.Span_Event{{Name: evaluationEvent, TimeUnixNano: p.EndTimeUnixNano, Attributes: attrs{"gen_ai.evaluation.name": "e", "gen_ai.evaluation.score.value": 0.5}.list()}}
	f.Add(marshal(f, export(acme, p, otelSpan(2, chat.with(attrs{"gen_ai.usage.output_tokens": -1})))))
	f.Add(marshal(f, export(nil, otelSpan(3, attrs{"flyball.tag.a": "b", "flyball.tenant_id": true}))))
	f.Add("\x0a\x00\x0a\x04\x12\x02\x12\x00")
	opt := testOptions(f, "", nil)
	f.Fuzz(func(t *testing.T, body string) {
		_, _, _ = fuzzed(t, opt, body, logs, true)
		spans, _, err := fuzzed(t, opt, body, traces, true)
		var official coltracepb.ExportTraceServiceRequest
		if proto.Unmarshal([]byte(body), &official) != nil {
			return
		}
		if err != nil {
			t.Fatalf("refused what the official decoder takes: %v", err)
		}
		again, _, err := fuzzed(t, opt, marshal(t, &official), traces, true)
		if err != nil || len(again) != len(spans) {
			t.Fatalf("%d spans, and %d of the same request as it is encoded officially (%v)", len(spans), len(again), err)
		}
	})
}

func FuzzOTLPJSON(f *testing.F) {
	f.Add(otlpJSON(f, export(acme, otelSpan(1, chat), otelSpan(2, chat.with(attrs{"gen_ai.usage.output_tokens": 1.5})))))
	f.Add(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"00","attributes":[{"value":{"intValue":"1"},"key":"gen_ai.usage.input_tokens"}],"events":[{"name":"gen_ai.evaluation.result"}]}]}],"resource":null}]}`)
	f.Add(`{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"eventName":"gen_ai.evaluation.result","body":{"stringValue":"\ud800"}}]}]}]}`)
	opt := testOptions(f, "", nil)
	f.Fuzz(func(t *testing.T, body string) {
		_, _, _ = fuzzed(t, opt, body, logs, false)
		_, _, _ = fuzzed(t, opt, body, traces, false)
	})
}

// What is passed over ends where JSON says that it ends.
func FuzzPass(f *testing.F) {
	for _, text := range []string{litellmEntry, `[1,"\\\"]",{"a":[]}]`, `"\\"`, `-1e5`, `nul`, `[}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := cursor{text: []byte(text), passes: true}
		c.space()
		_, err := c.skip()
		c.space()
		if json.Valid([]byte(text)) && (err != nil || c.pos != len(text)) {
			t.Fatalf("%q ends at %d of %d: %v", text, c.pos, len(text), err)
		}
	})
}
