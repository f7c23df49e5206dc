package ingest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// spanLines makes NDJSON of spans such as a gateway sends.
func spanLines(n, run int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"trace_id":"%032x","span_id":"%016x","timestamp":"2026-05-31T09:23:%02d.%03dZ",`+
			`"provider":"anthropic","requested_model":"claude-3-opus","model":"claude-3-sonnet-20240229",`+
			`"tokens":{"prompt":%d,"completion":%d,"cached":800},"cost_usd":0.00471,"latency_ms":1843,"ttft_ms":210,`+
			`"tenant_id":"org_%d","session_id":"s%d","prompt_template_version":"rag-v3.2","task":"support",`+
			`"arm":"none","complexity":1.0,"tags":{"team":"search","cost-center":"cc-7"}}`+"\n",
			run<<32|i, i, i%60, i%1000, 1000+i%500, i%700, i%40, i/5)
	}
	return b.String()
}

// BenchmarkDecodeAndPrice is one core's work, from the body to encoded records, on the same calls in every format.
func BenchmarkDecodeAndPrice(b *testing.B) {
	const spans = 1000
	opt := testOptions(b, "", nil)
	opt.LiteLLMTenant = defaultLiteLLMTenant
	i := &Ingest{opt: opt, anyTenant: true}
	var calls []*tracepb.Span
	var entries []string
	for n := range spans {
		calls = append(calls, otelSpan(n+1, chat.with(attrs{
			"gen_ai.usage.input_tokens": 1000 + n%500, "gen_ai.conversation.id": fmt.Sprint("s", n/5), "flyball.tenant_id": fmt.Sprint("org_", n%40),
		})))
		entries = append(entries, strings.ReplaceAll(litellmWith(b, map[string]string{"id": fmt.Sprintf(`"chatcmpl-%d"`, n)}), "\n", ""))
	}
	otel := func(binary bool) func(*decoder, *request, *answer) {
		return func(d *decoder, req *request, a *answer) {
			if err := i.newOTLP(d, req, a).decode(traces, binary); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, format := range []struct {
		name, body string
		decode     func(*decoder, *request, *answer)
	}{
		{"native", spanLines(spans, 1), (*decoder).spans},
		{"otlp-protobuf", marshal(b, export(acme, calls...)), otel(true)},
		{"otlp-json", otlpJSON(b, export(acme, calls...)), otel(false)},
		{"litellm", strings.Join(entries, "\n"), i.litellm},
	} {
		b.Run(format.name, func(b *testing.B) {
			body := []byte(format.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			before := cpuTime(b)
			for b.Loop() {
				req, a := newRequest(i), &answer{}
				format.decode(newDecoder(body, testNow, &Caller{}), req, a)
				if len(req.units) != spans {
					b.Fatal(a.Refused)
				}
			}
			perCore(b, b.N*spans, before)
		})
	}
}

// BenchmarkOfficialDecoder is what proto.Unmarshal alone takes of the same request: why it is not used.
func BenchmarkOfficialDecoder(b *testing.B) {
	const spans = 1000
	var calls []*tracepb.Span
	for n := range spans {
		calls = append(calls, otelSpan(n+1, chat))
	}
	body := []byte(marshal(b, export(acme, calls...)))
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		var r coltracepb.ExportTraceServiceRequest
		if err := proto.Unmarshal(body, &r); err != nil {
			b.Fatal(err)
		}
	}
	perCore(b, b.N*spans, before)
}

// perCore reports spans per second of CPU time, collector included, so that the figure holds on a
// busy machine too.
func perCore(b *testing.B, spans int, before time.Duration) {
	b.ReportMetric(float64(spans)/(cpuTime(b)-before).Seconds(), "spans/cpu-s")
}

func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkAccept is the whole way to the disk, group commits and sync included.
func BenchmarkAccept(b *testing.B) {
	const spans = 1000
	opt := testOptions(b, b.TempDir(), newStore())
	opt.MaxIDs = 1 << 20
	i, err := Open(opt)
	if err != nil {
		b.Fatal(err)
	}
	defer i.Close()
	run := 0
	before := cpuTime(b)
	for b.Loop() {
		run++
		if w := post(i, "/v1/spans", spanLines(spans, run)); w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
	perCore(b, b.N*spans, before)
}
