package ingest

import (
	"context"
	"crypto/rand"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/flyball-dev/flyball/internal/usage"
)

// serveGRPC serves an ingest's OTLP/gRPC until the test ends, and returns its address.
func serveGRPC(t *testing.T, i *Ingest) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- i.ServeOTLP(ctx, l) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	return l.Addr().String()
}

func dialGRPC(t *testing.T, address string) *grpc.ClientConn {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close()) })
	return conn
}

// The official SDK and its exporters send a call; it arrives as it was meant, over HTTP and over gRPC.
func TestOfficialExporters(t *testing.T) {
	t.Parallel()
	sink := newStore()
	opt := testOptions(t, t.TempDir(), sink)
	opt.Now = time.Now
	opt.Door = doorOf(t, Token{Hashes: []string{HashToken("secret")}, Tenant: "org"})
	i, _ := start(t, opt)
	front := httptest.NewServer(i.Handler())
	defer front.Close()
	authorization := map[string]string{"authorization": "Bearer secret"}
	for name, client := range map[string]otlptrace.Client{
		"http": otlptracehttp.NewClient(otlptracehttp.WithEndpointURL(front.URL+"/v1/traces"), otlptracehttp.WithHeaders(authorization), otlptracehttp.WithCompression(otlptracehttp.GzipCompression)),
		"grpc": otlptracegrpc.NewClient(otlptracegrpc.WithEndpoint(serveGRPC(t, i)), otlptracegrpc.WithInsecure(), otlptracegrpc.WithHeaders(authorization), otlptracegrpc.WithCompressor("gzip")),
	} {
		exporter, err := otlptrace.New(t.Context(), client)
		require.NoError(t, err)
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", "bot"), attribute.String("flyball.tag.team", "search"))))
		ctx, agent := provider.Tracer("test").Start(t.Context(), "invoke_agent", trace.WithAttributes(attribute.String("gen_ai.operation.name", "invoke_agent"), attribute.Int("gen_ai.usage.input_tokens", 99)))
		_, call := provider.Tracer("test").Start(ctx, "chat gpt-4o", trace.WithAttributes(
			attribute.String("gen_ai.operation.name", "chat"), attribute.String("gen_ai.provider.name", "openai"), attribute.String("gen_ai.request.model", "gpt-4o"),
			attribute.Int("gen_ai.usage.input_tokens", 10), attribute.Int("gen_ai.usage.output_tokens", 5), attribute.StringSlice("gen_ai.response.finish_reasons", []string{"stop"})))
		call.AddEvent(evaluationEvent, trace.WithAttributes(attribute.String("gen_ai.evaluation.name", name), attribute.Float64("gen_ai.evaluation.score.value", 0.5)))
		call.End()
		agent.End()
		require.NoError(t, provider.Shutdown(t.Context()))
		key := "org/" + call.SpanContext().TraceID().String() + "/" + call.SpanContext().SpanID().String()
		require.Eventually(t, func() bool { return sink.span(key).SpanID != "" }, 10*time.Second, time.Millisecond, name)
		s := sink.span(key)
		require.Equal(t, usage.Tokens{UncachedInput: 10, Output: 5}, s.Tokens)
		require.Equal(t, map[string]string{"team": "search"}, s.Tags)
		require.True(t, s.UsageComplete)
	}
	require.Eventually(t, func() bool { return sink.count() == 4 }, 10*time.Second, time.Millisecond, "two calls with a score each, and no agent")
	require.EqualValues(t, 2, i.Stats().Ignored)
}

func TestOTLPOverGRPC(t *testing.T) {
	t.Parallel()
	sink := newStore()
	i, _ := start(t, testOptions(t, t.TempDir(), sink))
	conn := dialGRPC(t, serveGRPC(t, i))
	client := coltracepb.NewTraceServiceClient(conn)
	for _, options := range [][]grpc.CallOption{nil, {grpc.UseCompressor(gzip.Name)}} {
		r, err := client.Export(t.Context(), export(acme, otelSpan(1, chat), otelSpan(2, chat.with(attrs{"gen_ai.usage.input_tokens": -1}))), options...)
		require.NoError(t, err)
		require.EqualValues(t, 1, r.GetPartialSuccess().GetRejectedSpans())
		require.Contains(t, r.GetPartialSuccess().GetErrorMessage(), "record 1: gen_ai.usage.input_tokens must not be negative")
	}
	r, err := client.Export(t.Context(), &coltracepb.ExportTraceServiceRequest{})
	require.NoError(t, err)
	require.Nil(t, r.PartialSuccess)

	p := otelSpan(1, nil)
	record := &logspb.LogRecord{
		EventName: evaluationEvent, TimeUnixNano: p.EndTimeUnixNano, TraceId: p.TraceId, SpanId: p.SpanId,
		Attributes: attrs{"gen_ai.evaluation.name": "Relevance", "gen_ai.evaluation.score.value": 1}.list(),
	}
	logged, err := collogspb.NewLogsServiceClient(conn).Export(t.Context(), &collogspb.ExportLogsServiceRequest{ResourceLogs: []*logspb.ResourceLogs{{
		Resource: &resourcepb.Resource{Attributes: acme.list()}, ScopeLogs: []*logspb.ScopeLogs{{LogRecords: []*logspb.LogRecord{record}}},
	}}})
	require.NoError(t, err)
	require.Nil(t, logged.PartialSuccess)
	require.Eventually(t, func() bool { return sink.count() == 2 }, 10*time.Second, time.Millisecond)

	noise := make([]byte, 5<<20)
	_, _ = rand.Read(noise)
	_, err = client.Export(t.Context(), export(attrs{"noise": noise}))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
	require.Empty(t, status.Convert(err).Details(), "without RetryInfo it is not sent again")
	_, err = client.Export(t.Context(), export(attrs{"bomb": strings.Repeat("a", 64<<20)}), grpc.UseCompressor(gzip.Name), grpc.MaxCallSendMsgSize(1<<30))
	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

func TestGRPCErrors(t *testing.T) {
	t.Parallel()
	opt := testOptions(t, t.TempDir(), newStore())
	opt.Door = doorOf(t, Token{Hashes: []string{HashToken("secret")}, Tenant: "org"}, Token{Hashes: []string{HashToken("small")}, MaxBody: 10})
	opt.MinFree = 1 << 60
	i, _ := start(t, opt)
	client := coltracepb.NewTraceServiceClient(dialGRPC(t, serveGRPC(t, i)))
	_, err := client.Export(t.Context(), export(acme, otelSpan(1, chat)))
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer secret")
	_, err = client.Export(ctx, export(acme, otelSpan(1, chat)))
	s := status.Convert(err)
	require.Equal(t, codes.Unavailable, s.Code(), "what a sender must send again")
	require.Contains(t, s.Message(), "disk is full")
	require.Len(t, s.Details(), 1)
	_, err = client.Export(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer small"), export(acme, otelSpan(1, chat)))
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "larger than the token may send")
	require.Empty(t, status.Convert(err).Details(), "without RetryInfo it is not sent again")
	require.EqualValues(t, 30, s.Details()[0].(*errdetails.RetryInfo).GetRetryDelay().GetSeconds())
}
