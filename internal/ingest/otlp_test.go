package ingest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/flyball-dev/flyball/internal/usage"
)

var (
	binaryType = []string{"Content-Type", "application/x-protobuf"}
	jsonType   = []string{"Content-Type", "application/json"}
)

// value makes an attribute's value of a Go value.
func value(v any) *commonpb.AnyValue {
	switch v := v.(type) {
	case string:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}
	case int:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(v)}}
	case float64:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: v}}
	case bool:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: v}}
	case []byte:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: v}}
	case []string:
		list := &commonpb.ArrayValue{}
		for _, s := range v {
			list.Values = append(list.Values, value(s))
		}
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: list}}
	}
	return nil
}

type attrs map[string]any

func (a attrs) list() []*commonpb.KeyValue {
	var list []*commonpb.KeyValue
	for _, name := range slices.Sorted(maps.Keys(a)) {
		list = append(list, &commonpb.KeyValue{Key: name, Value: value(a[name])})
	}
	return list
}

// with returns the attributes with some changed; a nil value takes one out.
func (a attrs) with(changes attrs) attrs {
	b := maps.Clone(a)
	for name, v := range changes {
		if v == nil {
			delete(b, name)
		} else {
			b[name] = v
		}
	}
	return b
}

// chat is a call as the current conventions describe it.
var chat = attrs{
	"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic",
	"gen_ai.request.model": "claude-3-opus", "gen_ai.response.model": "claude-3-sonnet-20240229",
	"gen_ai.response.id": "msg_1", "gen_ai.response.finish_reasons": []string{"stop"},
	"gen_ai.usage.input_tokens": 1247, "gen_ai.usage.output_tokens": 342,
	"gen_ai.usage.cache_read.input_tokens": 800, "gen_ai.conversation.id": "s1",
	"gen_ai.input.messages": `[{"role":"user","parts":[{"type":"text","content":"hello"}]}]`,
	"server.address":        "api.anthropic.com", "server.port": 443,
}

func otelSpan(n int, a attrs) *tracepb.Span {
	end := testNow.Add(-time.Minute)
	return &tracepb.Span{
		TraceId: fmt.Appendf(nil, "trace-%010d", n), SpanId: fmt.Appendf(nil, "s-%06d", n),
		Name: "chat claude-3-opus", Kind: tracepb.Span_SPAN_KIND_CLIENT,
		StartTimeUnixNano: uint64(end.Add(-1843 * time.Millisecond).UnixNano()), EndTimeUnixNano: uint64(end.UnixNano()),
		Attributes: a.list(),
	}
}

func traceOf(n int) string { return hex.EncodeToString(fmt.Appendf(nil, "trace-%010d", n)) }
func spanOf(n int) string  { return hex.EncodeToString(fmt.Appendf(nil, "s-%06d", n)) }

// export is a request with one resource.
func export(resource attrs, spans ...*tracepb.Span) *coltracepb.ExportTraceServiceRequest {
	return &coltracepb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
		Resource:   &resourcepb.Resource{Attributes: resource.list()},
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: "test"}, Spans: spans}},
	}}}
}

var acme = attrs{"service.name": "support-bot", "tenant.id": "org"}

func marshal(t require.TestingT, m proto.Message) string {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return string(b)
}

// otlpJSON writes a message as OTLP does: as protojson, but for ids in hex and numbers for enums.
func otlpJSON(t require.TestingT, m proto.Message) string {
	text, err := protojson.MarshalOptions{UseEnumNumbers: true}.Marshal(m)
	require.NoError(t, err)
	var tree any
	require.NoError(t, json.Unmarshal(text, &tree))
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, v := range node {
				walk(v)
			}
		case map[string]any:
			for k, v := range node {
				if s, ok := v.(string); ok && (k == "traceId" || k == "spanId") {
					var id []byte
					require.NoError(t, json.Unmarshal([]byte(`"`+s+`"`), &id))
					node[k] = hex.EncodeToString(id)
				}
				walk(v)
			}
		}
	}
	walk(tree)
	text, err = json.Marshal(tree)
	require.NoError(t, err)
	return string(text)
}

// partial reads the answer to traces.
func partial(t require.TestingT, w *httptest.ResponseRecorder) *coltracepb.ExportTracePartialSuccess {
	require.Equal(t, 200, w.Code, w.Body)
	var r coltracepb.ExportTraceServiceResponse
	if w.Header().Get("Content-Type") == "application/json" {
		require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &r))
	} else {
		require.Equal(t, "application/x-protobuf", w.Header().Get("Content-Type"))
		require.NoError(t, proto.Unmarshal(w.Body.Bytes(), &r))
	}
	return r.PartialSuccess
}

func TestOTLPSpanReachesTheSink(t *testing.T) {
	t.Parallel()
	for encoding, body := range map[string]string{
		"binary": marshal(t, export(acme, otelSpan(1, chat))),
		"json":   otlpJSON(t, export(acme, otelSpan(1, chat))),
	} {
		t.Run(encoding, func(t *testing.T) {
			sink := newStore()
			i, _ := start(t, testOptions(t, t.TempDir(), sink))
			header := binaryType
			if encoding == "json" {
				header = jsonType
			}
			require.Nil(t, partial(t, post(i, "/v1/traces", body, header...)))
			require.Nil(t, partial(t, post(i, "/v1/traces", body, header...)), "an export that is sent again is no error")
			require.EqualValues(t, 1, i.Stats().Duplicates)
			require.Eventually(t, func() bool { return sink.count() == 1 }, 10*time.Second, time.Millisecond)
			require.Equal(t, usage.Span{
				TraceID: traceOf(1), SpanID: spanOf(1), Timestamp: testNow.Add(-time.Minute),
				TenantID: "org", SessionID: "s1", Provider: "anthropic",
				RequestedModel: "claude-3-opus", Model: "claude-3-sonnet-20240229",
				Tokens:        usage.Tokens{UncachedInput: 447, CacheRead: 800, Output: 342},
				UsageComplete: true, Cost: 6_711_000_000, Priced: true, PriceVersion: testBook(t).Version(),
				LatencyMS: 1843, Complexity: 1, Arm: usage.None,
			}, sink.span("org/"+traceOf(1)+"/"+spanOf(1)))
		})
	}
}

// decodeOne reads the one span of a request, in both encodings, which must agree.
func decodeOne(t require.TestingT, opt Options, tenant string, req *coltracepb.ExportTraceServiceRequest) (spans []usage.Span, quality []usage.Quality, a *answer, ignored int64) {
	read := func(binary bool, body string) ([]usage.Span, []usage.Quality, *answer, int64) {
		i := &Ingest{opt: opt, anyTenant: true}
		r, a := newRequest(i), &answer{Refused: []refusal{}}
		o := i.newOTLP(newDecoder([]byte(body), testNow, &Caller{Tenant: tenant}), r, a)
		require.NoError(t, o.decode(traces, binary))
		var spans []usage.Span
		var quality []usage.Quality
		for _, u := range r.units {
			switch u.kind {
			case kindSpan:
				in := reader{from: r.buf[u.body.from:u.body.to]}
				var s usage.Span
				in.span(&s)
				require.NoError(t, in.err)
				spans = append(spans, s)
			case kindQuality:
				quality = append(quality, *u.event.(scoreEvent).Quality)
			}
		}
		return spans, quality, a, o.ignored
	}
	spans, quality, a, ignored = read(true, marshal(t, req))
	spans2, quality2, a2, ignored2 := read(false, otlpJSON(t, req))
	require.Equal(t, spans, spans2)
	require.Equal(t, quality, quality2)
	require.Equal(t, a, a2)
	require.Equal(t, ignored, ignored2)
	return spans, quality, a, ignored
}

func TestOTLPMeanings(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	opt.TenantAttribute = "customer.id"
	tokens := func(in, cached, written5m, written1h, out, reasoning int64) usage.Tokens {
		return usage.Tokens{UncachedInput: in, CacheRead: cached, CacheWrite5m: written5m, CacheWrite1h: written1h, Output: out, Reasoning: reasoning}
	}
	bare := chat.with(attrs{"gen_ai.usage.input_tokens": nil, "gen_ai.usage.output_tokens": nil, "gen_ai.usage.cache_read.input_tokens": nil})
	for _, tc := range []struct {
		name     string
		resource attrs
		span     attrs
		edit     func(p *tracepb.Span)
		want     func(s *usage.Span)
		ignored  bool
	}{
		{name: "cache writes are inside the input", span: chat.with(attrs{"gen_ai.usage.cache_write.input_tokens": 100}), want: func(s *usage.Span) { s.Tokens = tokens(347, 800, 100, 0, 342, 0) }},
		{name: "writes for an hour are inside the writes", span: chat.with(attrs{"gen_ai.usage.cache_creation.input_tokens": 100, "flyball.usage.cache_write_1h.input_tokens": 60}), want: func(s *usage.Span) { s.Tokens = tokens(347, 800, 40, 60, 342, 0) }},
		{
			name: "older names", span: bare.with(attrs{"gen_ai.system": "openai", "gen_ai.provider.name": nil, "gen_ai.usage.prompt_tokens": 10, "gen_ai.usage.completion_tokens": 5, "gen_ai.usage.cache_read_input_tokens": 4, "gen_ai.usage.cache_creation_input_tokens": 3}),
			want: func(s *usage.Span) { s.Provider, s.Tokens = "openai", tokens(3, 4, 3, 0, 5, 0) },
		},
		{name: "the name between", span: bare.with(attrs{"gen_ai.usage.input_tokens": 10, "gen_ai.usage.input_tokens.cached": 4, "gen_ai.usage.output_tokens": 9, "gen_ai.usage.reasoning.output_tokens": 7}), want: func(s *usage.Span) { s.Tokens = tokens(6, 4, 0, 0, 9, 7) }},
		{name: "the current name wins", span: chat.with(attrs{"gen_ai.usage.prompt_tokens": 1, "gen_ai.system": "openai"}), want: func(*usage.Span) {}},
		{name: "counts as doubles", span: chat.with(attrs{"gen_ai.usage.input_tokens": 1247.0}), want: func(*usage.Span) {}},
		{
			name: "OpenInference", span: attrs{"openinference.span.kind": "LLM", "llm.provider": "anthropic", "llm.model_name": "claude-3-opus", "llm.token_count.prompt": 100, "llm.token_count.completion": 20, "llm.token_count.prompt_details.cache_read": 60, "llm.token_count.prompt_details.cache_write": 30, "session.id": "s9", "llm.cost.total": 0.25},
			want: func(s *usage.Span) {
				reported := usage.PicoUSD(250_000_000_000)
				s.RequestedModel, s.Model, s.SessionID, s.Tokens, s.CostReported = "claude-3-opus", "claude-3-opus", "s9", tokens(10, 60, 30, 0, 20, 0), &reported
			},
		},
		{name: "embeddings have no output", span: bare.with(attrs{"gen_ai.operation.name": "embeddings", "gen_ai.usage.input_tokens": 8}), want: func(s *usage.Span) { s.Tokens = tokens(8, 0, 0, 0, 0, 0) }},
		{name: "OpenInference embedding", span: bare.with(attrs{"gen_ai.operation.name": nil, "openinference.span.kind": "EMBEDDING", "gen_ai.usage.input_tokens": 8}), want: func(s *usage.Span) { s.Tokens = tokens(8, 0, 0, 0, 0, 0) }},
		{name: "without usage it is incomplete", span: bare, want: func(s *usage.Span) { s.Tokens, s.UsageComplete = usage.Tokens{}, false }},
		{name: "with half of it too", span: bare.with(attrs{"gen_ai.usage.input_tokens": 8}), want: func(s *usage.Span) { s.Tokens, s.UsageComplete = tokens(8, 0, 0, 0, 0, 0), false }},
		{name: "an error that used tokens counts", span: chat.with(attrs{"error.type": "timeout"}), edit: func(p *tracepb.Span) { p.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR} }, want: func(*usage.Span) {}},
		{name: "one that used none does not", span: bare, edit: func(p *tracepb.Span) {
			p.Status = &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR, Message: "429"}
		}, ignored: true},
		{name: "agents repeat their children", span: chat.with(attrs{"gen_ai.operation.name": "invoke_agent"}), ignored: true},
		{name: "tools are no calls", span: chat.with(attrs{"gen_ai.operation.name": "execute_tool"}), ignored: true},
		{name: "chains neither", span: chat.with(attrs{"gen_ai.operation.name": nil, "openinference.span.kind": "CHAIN"}), ignored: true},
		{name: "nor other spans", span: attrs{"http.request.method": "GET"}, ignored: true},
		{name: "our own attributes", span: chat.with(attrs{
			"flyball.prompt_template_version": "rag-v3.2", "gen_ai.prompt.name": "rag", "flyball.task": "support", "flyball.experiment_id": "e1", "flyball.decision_id": "d1",
			"flyball.arm": "treated", "flyball.route": "route", "flyball.complexity": 2.5, "flyball.tag.team": "search", "gen_ai.usage.cost": 0.00471,
			"gen_ai.response.time_to_first_chunk": 0.21, "openai.response.service_tier": "flex",
		}), want: func(s *usage.Span) {
			reported := usage.PicoUSD(4_710_000_000)
			s.PromptTemplate, s.Task, s.ExperimentID, s.DecisionID, s.Arm, s.Route = "rag-v3.2", "support", "e1", "d1", usage.Treated, "route"
			s.Complexity, s.Tags, s.CostReported, s.TTFTMS, s.ServiceTier = 2.5, map[string]string{"team": "search"}, &reported, 210, "flex"
			s.Cost, s.Priced, s.PriceVersion = 0, false, ""
		}},
		{name: "the prompt's name", span: chat.with(attrs{"gen_ai.prompt.name": "rag"}), want: func(s *usage.Span) { s.PromptTemplate = "rag" }},
		{name: "tags of the resource", resource: acme.with(attrs{"flyball.tag.team": "ads", "flyball.tag.env": "prod"}), span: chat.with(attrs{"flyball.tag.team": "search"}), want: func(s *usage.Span) { s.Tags = map[string]string{"team": "search", "env": "prod"} }},
		{name: "flyball.tenant_id of the resource", resource: attrs{"flyball.tenant_id": "a", "tenant.id": "b"}, span: chat, want: func(s *usage.Span) { s.TenantID = "a" }},
		{name: "the span's before the resource's", resource: attrs{"tenant.id": "b"}, span: chat.with(attrs{"tenant.id": "c"}), want: func(s *usage.Span) { s.TenantID = "c" }},
		{name: "flyball's before OpenTelemetry's", resource: attrs{"flyball.tenant_id": "a"}, span: chat.with(attrs{"tenant.id": "c"}), want: func(s *usage.Span) { s.TenantID = "a" }},
		{name: "the configured attribute last", resource: attrs{"customer.id": 42}, span: chat, want: func(s *usage.Span) { s.TenantID = "42" }},
		{name: "served by what was asked for", span: chat.with(attrs{"gen_ai.response.model": nil}), want: func(s *usage.Span) { s.Model = "claude-3-opus" }},
		{name: "no start", span: chat, edit: func(p *tracepb.Span) { p.StartTimeUnixNano = 0 }, want: func(s *usage.Span) { s.LatencyMS = 0 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.resource == nil {
				tc.resource = acme
			}
			p := otelSpan(1, tc.span)
			if tc.edit != nil {
				tc.edit(p)
			}
			spans, _, a, ignored := decodeOne(t, opt, "", export(tc.resource, p))
			require.Empty(t, a.Refused)
			if tc.ignored {
				require.Empty(t, spans)
				require.EqualValues(t, 1, ignored)
				return
			}
			want := usage.Span{
				TraceID: traceOf(1), SpanID: spanOf(1), Timestamp: testNow.Add(-time.Minute), TenantID: "org", SessionID: "s1",
				Provider: "anthropic", RequestedModel: "claude-3-opus", Model: "claude-3-sonnet-20240229",
				Tokens: tokens(447, 800, 0, 0, 342, 0), UsageComplete: true, LatencyMS: 1843, Complexity: 1, Arm: usage.None,
			}
			tc.want(&want)
			_ = opt.Book.Price(&want)
			require.Equal(t, []usage.Span{want}, spans)
		})
	}
}

func TestOTLPBadSpans(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	many := attrs{}
	for n := range 65 {
		many[fmt.Sprintf("flyball.tag.t%d", n)] = "x"
	}
	for _, tc := range []struct {
		name          string
		change        attrs
		edit          func(p *tracepb.Span)
		tenant        string
		field, reason string
	}{
		{name: "negative", change: attrs{"gen_ai.usage.output_tokens": -1}, field: "gen_ai.usage.output_tokens", reason: "negative"},
		{name: "overflow", change: attrs{"gen_ai.usage.prompt_tokens": math.MaxInt64, "gen_ai.usage.input_tokens": nil}, field: "gen_ai.usage.prompt_tokens", reason: "at most"},
		{name: "fraction", change: attrs{"gen_ai.usage.output_tokens": 1.5}, field: "gen_ai.usage.output_tokens", reason: "whole number"},
		{name: "NaN tokens", change: attrs{"gen_ai.usage.output_tokens": math.NaN()}, field: "gen_ai.usage.output_tokens", reason: "whole number"},
		{name: "infinite tokens", change: attrs{"gen_ai.usage.output_tokens": math.Inf(1)}, field: "gen_ai.usage.output_tokens", reason: "whole number"},
		{name: "tokens in words", change: attrs{"gen_ai.usage.output_tokens": "5"}, field: "gen_ai.usage.output_tokens", reason: "whole number"},
		{name: "cached beyond input", change: attrs{"gen_ai.usage.cache_read.input_tokens": 1248}, field: "gen_ai.usage.cache_read.input_tokens", reason: "exceed the input"},
		{name: "written beyond input", change: attrs{"gen_ai.usage.cache_read.input_tokens": nil, "gen_ai.usage.cache_write.input_tokens": 1248}, field: "gen_ai.usage.cache_write.input_tokens", reason: "exceeds the input"},
		{name: "reasoning beyond output", change: attrs{"gen_ai.usage.reasoning.output_tokens": 343}, field: "gen_ai.usage.reasoning.output_tokens", reason: "exceeds the output"},
		{name: "no model", change: attrs{"gen_ai.request.model": nil, "gen_ai.response.model": nil}, field: "gen_ai.response.model", reason: "is missing"},
		{name: "a list as model", change: attrs{"gen_ai.response.model": []string{"a"}}, field: "gen_ai.response.model", reason: "must be a string"},
		{name: "bytes as model", change: attrs{"gen_ai.response.model": []byte("a")}, field: "gen_ai.response.model", reason: "must be a string"},
		{name: "long name", change: attrs{"gen_ai.conversation.id": strings.Repeat("m", 257)}, field: "gen_ai.conversation.id", reason: "longer than 256"},
		{name: "all models", change: attrs{"gen_ai.request.model": "*"}, field: "requested_model", reason: "stands for all"},
		{name: "arm", change: attrs{"flyball.arm": "left"}, field: "flyball.arm", reason: "treated or holdback"},
		{name: "complexity", change: attrs{"flyball.complexity": 0}, field: "flyball.complexity", reason: "above 0"},
		{name: "NaN cost", change: attrs{"gen_ai.usage.cost": math.NaN()}, field: "gen_ai.usage.cost", reason: "amount"},
		{name: "negative cost", change: attrs{"gen_ai.usage.cost": -1}, field: "gen_ai.usage.cost", reason: "negative"},
		{name: "first token", change: attrs{"gen_ai.response.time_to_first_chunk": math.NaN()}, field: "gen_ai.response.time_to_first_chunk", reason: "between"},
		{name: "tags", change: many, field: "flyball.tag.*", reason: "at most 64"},
		{name: "another tenant", tenant: "other", field: "tenant_id", reason: "not the ingest token's"},
		{name: "1970", edit: func(p *tracepb.Span) { p.EndTimeUnixNano, p.StartTimeUnixNano = 1, 0 }, field: "end_time_unix_nano", reason: "before 2020"},
		{name: "2100", edit: func(p *tracepb.Span) { p.EndTimeUnixNano = 4102444800 * 1e9 }, field: "end_time_unix_nano", reason: "in the future"},
		{name: "beyond all time", edit: func(p *tracepb.Span) { p.EndTimeUnixNano = math.MaxUint64 }, field: "end_time_unix_nano", reason: "in the future"},
		{name: "no end", edit: func(p *tracepb.Span) { p.EndTimeUnixNano = 0 }, field: "end_time_unix_nano", reason: "is missing"},
		{name: "ends before it starts", edit: func(p *tracepb.Span) { p.StartTimeUnixNano = p.EndTimeUnixNano + 1e9 }, field: "start_time_unix_nano", reason: "after the end"},
		{name: "no trace", edit: func(p *tracepb.Span) { p.TraceId = nil }, field: "trace_id", reason: "16 bytes"},
		{name: "zero span", edit: func(p *tracepb.Span) { p.SpanId = make([]byte, 8) }, field: "span_id", reason: "all zeros"},
		{name: "long span", edit: func(p *tracepb.Span) { p.SpanId = make([]byte, 9) }, field: "span_id", reason: "8 bytes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bad := otelSpan(1, chat.with(tc.change))
			if tc.edit != nil {
				tc.edit(bad)
			}
			good := otelSpan(2, chat)
			if tc.tenant != "" {
				good = otelSpan(2, chat.with(attrs{"flyball.tenant_id": tc.tenant}))
			}
			spans, _, a, _ := decodeOne(t, opt, tc.tenant, export(acme, bad, good))
			require.Len(t, a.Refused, 1)
			require.Equal(t, 0, a.Refused[0].Index)
			require.Equal(t, tc.field, a.Refused[0].Field)
			require.Contains(t, a.Refused[0].Reason, tc.reason)
			require.Len(t, spans, 1, "the good span is kept")
			require.Equal(t, spanOf(2), spans[0].SpanID)
		})
	}
}

func TestOTLPAnswers(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.MaxBody = 1 << 20
	i, _ := start(t, opt)
	bad := otelSpan(1, chat.with(attrs{"gen_ai.usage.input_tokens": -5}))
	agent := otelSpan(2, chat.with(attrs{"gen_ai.operation.name": "invoke_agent"}))
	mixed := export(acme, bad, agent, otelSpan(3, chat))
	for _, answer := range []*coltracepb.ExportTracePartialSuccess{
		partial(t, post(i, "/v1/traces", marshal(t, mixed), binaryType...)),
		partial(t, post(i, "/v1/traces", otlpJSON(t, mixed), jsonType...)),
		partial(t, post(i, "/v1/traces", gzipped(t, otlpJSON(t, mixed)), "Content-Type", "application/json; charset=utf-8", "Content-Encoding", "gzip")),
	} {
		require.EqualValues(t, 1, answer.GetRejectedSpans())
		require.Equal(t, "record 0: gen_ai.usage.input_tokens must not be negative (-5)", answer.GetErrorMessage())
	}
	require.EqualValues(t, 3, i.Stats().Ignored)

	allBad := partial(t, post(i, "/v1/traces", marshal(t, export(acme, bad, bad, bad, bad, bad, bad, bad)), binaryType...))
	require.EqualValues(t, 7, allBad.GetRejectedSpans(), "a request that can be decoded is answered 200, whatever is in it")
	require.Contains(t, allBad.GetErrorMessage(), "; and 2 more")

	require.Nil(t, partial(t, post(i, "/v1/traces", "", binaryType...)), "no telemetry is a success")
	require.Nil(t, partial(t, post(i, "/v1/traces", "{}", jsonType...)))

	for _, tc := range []struct {
		name, body string
		header     []string
		want       int
		message    string
	}{
		{"not protobuf", "\xff\xff\xff", binaryType, 400, "no OTLP request"},
		{"not JSON", `{"resourceSpans":[`, jsonType, 400, "no OTLP request"},
		{"an empty JSON body", " ", jsonType, 400, "empty"},
		{"another kind of JSON", `[]`, jsonType, 400, "must be an object"},
		{"NDJSON", "{}\n{}", jsonType, 400, "more behind"},
		{"no type", "{}", []string{"Content-Type", "text/plain"}, 415, "content type"},
		{"large", strings.Repeat(" ", 2<<20), jsonType, 413, "larger than"},
		{"gzip bomb", gzipped(t, strings.Repeat(" ", 100<<20)), append(slices.Clone(jsonType), "Content-Encoding", "gzip"), 413, "larger than"},
		{"lying gzip", "not gzip", append(slices.Clone(binaryType), "Content-Encoding", "gzip"), 400, "not gzip"},
		{"web page", "", append(slices.Clone(binaryType), "Origin", "https://example.com"), 403, "web pages"},
	} {
		w := post(i, "/v1/traces", tc.body, tc.header...)
		require.Equal(t, tc.want, w.Code, tc.name)
		var s rpcstatus.Status
		if tc.header[1] == "application/x-protobuf" {
			require.Equal(t, "application/x-protobuf", w.Header().Get("Content-Type"))
			require.NoError(t, proto.Unmarshal(w.Body.Bytes(), &s), tc.name)
		} else {
			require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &s), tc.name)
		}
		require.Contains(t, s.Message, tc.message, tc.name)
	}
	require.Zero(t, i.inFlight.Load())
	full := testOptions(t, t.TempDir(), newStore())
	full.MinFree = 1 << 60
	noSpace, _ := start(t, full)
	w := post(noSpace, "/v1/traces", marshal(t, export(acme, otelSpan(1, chat))), binaryType...)
	require.Equal(t, 503, w.Code)
	require.Equal(t, "30", w.Header().Get("Retry-After"))
}

// A resource may follow its spans, names may follow values, and nobody is stopped by what we do not know.
func TestOTLPJSONInAnyOrder(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	body := fmt.Sprintf(`{"futureField":{"a":[NaN]},"resourceSpans":[{"scopeSpans":[{"scope":null,"spans":[{
		"attributes":[{"value":{"stringValue":"chat"},"key":"gen_ai.operation.name"},{"key":"gen_ai.request.model","value":{"stringValue":"gpt-4o"}},
			{"key":"gen_ai.provider.name","value":{"stringValue":"openai"}},
			{"key":"gen_ai.usage.input_tokens","value":{"intValue":"10"}},{"key":"gen_ai.usage.output_tokens","value":{"intValue":5}},
			{"key":"gen_ai.input.messages","value":{"arrayValue":{"values":[{"kvlistValue":{"values":[{"key":"x","value":{"stringValue":"\ud800"}}]}}]}}},
			{"key":"gen_ai.request.temperature","value":{"doubleValue":"NaN"}}],
		"traceId":"5B8EFFF798038103D269B633813FC60C","spanId":"EEE19B7EC3C1B174","kind":3,"status":{},"links":[{}],
		"startTimeUnixNano":%d,"endTimeUnixNano":"%d","flags":257,"unknown":[1,2]}]}],
		"resource":{"attributes":[{"key":"tenant.id","value":{"stringValue":"org"}}]},"schemaUrl":""}]}`,
		testNow.Add(-2*time.Second).UnixNano(), testNow.Add(-time.Second).UnixNano())
	require.Nil(t, partial(t, post(i, "/v1/traces", body, jsonType...)))
	require.Eventually(t, func() bool { return sink.count() == 1 }, 10*time.Second, time.Millisecond)
	s := sink.span("org/5b8efff798038103d269b633813fc60c/eee19b7ec3c1b174")
	require.Equal(t, usage.Tokens{UncachedInput: 10, Output: 5}, s.Tokens)
	require.EqualValues(t, 1000, s.LatencyMS)
}

func TestOTLPEvaluations(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	at := testNow.Add(-30 * time.Second)
	scored := func(a attrs) *tracepb.Span_Event {
		return &tracepb.Span_Event{Name: evaluationEvent, TimeUnixNano: uint64(at.UnixNano()), Attributes: a.list()}
	}
	relevance := attrs{"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 0.75, "gen_ai.evaluation.score.label": "relevant"}
	p := otelSpan(1, chat)
	p.Events = []*tracepb.Span_Event{
		{Name: "gen_ai.content.prompt", Attributes: attrs{"gen_ai.prompt": "hi"}.list()},
		scored(relevance.with(attrs{"flyball.evaluation.confidence": 0.5, "flyball.evaluation.version": "v2", "flyball.evaluation.kind": "heuristic"})),
		scored(relevance.with(attrs{"gen_ai.evaluation.score.value": 4.0})),
		scored(attrs{"gen_ai.evaluation.name": "Broken", "error.type": "timeout"}),
	}
	body := marshal(t, export(acme, p))
	for range 2 {
		warning := partial(t, post(i, "/v1/traces", body, binaryType...))
		require.Zero(t, warning.GetRejectedSpans(), "the span is in")
		require.Equal(t, "record 0: events[1].gen_ai.evaluation.score.value must be between 0 and 1 (4)", warning.GetErrorMessage())
	}
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)

	record := func(a attrs) *logspb.LogRecord {
		return &logspb.LogRecord{EventName: evaluationEvent, ObservedTimeUnixNano: uint64(at.UnixNano()), TraceId: p.TraceId, SpanId: p.SpanId, Attributes: a.list()}
	}
	old := record(relevance.with(attrs{"event.name": evaluationEvent, "gen_ai.evaluation.score.value": 0.25, "gen_ai.evaluation.name": "Old"}))
	old.EventName = ""
	lost := record(relevance)
	lost.TraceId = nil
	sent := &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: &resourcepb.Resource{Attributes: acme.list()},
		ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{
			{Body: value("just a log line")},
			record(relevance), old, lost,
			record(attrs{"gen_ai.evaluation.name": "Label", "gen_ai.evaluation.score.label": "pass"}),
		}}},
	}}}
	for body, header := range map[string][]string{marshal(t, sent): binaryType, otlpJSON(t, sent): jsonType} {
		w := post(i, "/v1/logs", body, header...)
		require.Equal(t, 200, w.Code, w.Body)
		var r collogspb.ExportLogsServiceResponse
		if header[1] == "application/json" {
			require.NoError(t, protojson.Unmarshal(w.Body.Bytes(), &r))
		} else {
			require.NoError(t, proto.Unmarshal(w.Body.Bytes(), &r))
		}
		require.EqualValues(t, 2, r.PartialSuccess.GetRejectedLogRecords())
		require.Contains(t, r.PartialSuccess.GetErrorMessage(), "record 3: trace_id is missing")
		require.Contains(t, r.PartialSuccess.GetErrorMessage(), "record 4: gen_ai.evaluation.score.value is missing")
	}
	require.Eventually(t, func() bool { return sink.count() == 4 }, 10*time.Second, time.Millisecond, "each export counts once")
	sink.mu.Lock()
	defer sink.mu.Unlock()
	scores := map[string]float64{}
	for id, q := range sink.quality {
		require.True(t, strings.HasPrefix(id, "otel-"))
		require.Equal(t, usage.Key{Tenant: "org", Model: "claude-3-opus"}, usage.Key{Tenant: q.TenantID, Model: q.Model}, "an event takes its span's dimensions")
		require.Equal(t, spanOf(1), q.SpanID)
		require.Equal(t, at, q.Timestamp)
		scores[q.Evaluator+q.EvaluatorVersion+q.Kind] = q.Score
	}
	require.Equal(t, map[string]float64{"Relevancev2heuristic": 0.75, "Relevancejudge": 0.75, "Oldjudge": 0.25}, scores)
}

// TestOTLPGoodAmongBad: whatever mix of records comes, the good ones are stored and the bad ones counted.
func TestOTLPGoodAmongBad(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, "", nil)
	rapid.Check(t, func(t *rapid.T) {
		var spans []*tracepb.Span
		var want []string
		var bad []int
		ignored := int64(0)
		for n := range rapid.IntRange(0, 12).Draw(t, "spans") {
			p := otelSpan(n+1, chat.with(attrs{"gen_ai.usage.output_tokens": rapid.IntRange(0, usage.MaxTokens).Draw(t, "output")}))
			switch rapid.SampledFrom([]string{"good", "good", "agent", "tokens", "time", "id", "text", "type"}).Draw(t, "kind") {
			case "good":
				want = append(want, spanOf(n+1))
			case "agent":
				p.Attributes = attrs{"gen_ai.operation.name": "invoke_agent"}.list()
				ignored++
			case "tokens":
				p.Attributes = chat.with(attrs{"gen_ai.usage.input_tokens": rapid.IntRange(math.MinInt64, 799).Draw(t, "input")}).list()
				bad = append(bad, n)
			case "time":
				p.EndTimeUnixNano = rapid.Uint64Range(0, uint64(earliest.UnixNano())-1).Draw(t, "end")
				bad = append(bad, n)
			case "id":
				p.TraceId = p.TraceId[:rapid.IntRange(1, 11).Draw(t, "length")]
				bad = append(bad, n)
			case "text":
				p.Attributes = chat.with(attrs{"flyball.task": strings.Repeat("é", 129)}).list()
				bad = append(bad, n)
			case "type":
				p.Attributes = chat.with(attrs{"gen_ai.response.model": []string{"x"}}).list()
				bad = append(bad, n)
			}
			spans = append(spans, p)
		}
		stored, _, a, skipped := decodeOne(t, opt, "", export(acme, spans...))
		var got []string
		for _, s := range stored {
			got = append(got, s.SpanID)
		}
		var refused []int
		for _, r := range a.Refused {
			refused = append(refused, r.Index)
			require.NotEmpty(t, r.Field)
		}
		require.Equal(t, want, got)
		require.Equal(t, bad, refused)
		require.Equal(t, ignored, skipped)
	})
}
