package ingest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // lets senders compress
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	googleproto "google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Bounds of OTLP/gRPC. Together they are what the bodies of HTTP may take.
const (
	maxMessage = 4 << 20          // bytes after decompression: gRPC's own default, which senders keep to
	maxCalls   = 64               // being read or made durable
	callTime   = 30 * time.Second // in which a message must have come and be durable, and a body of HTTP have come
)

// ServeOTLP serves OTLP/gRPC, traces and logs, until ctx ends; calls under way may then finish.
func (i *Ingest) ServeOTLP(ctx context.Context, listener net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(int(min(maxMessage, i.opt.MaxBody))),
		grpc.MaxConcurrentStreams(maxCalls),
		grpc.MaxHeaderListSize(16<<10),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.ForceServerCodecV2(rawCodec{encoding.GetCodecV2(proto.Name)}),
	)
	calls := make(chan struct{}, maxCalls)
	server.RegisterService(i.exportService(coltracepb.TraceService_ServiceDesc, traces, calls), nil)
	server.RegisterService(i.exportService(collogspb.LogsService_ServiceDesc, logs, calls), nil)
	stop := context.AfterFunc(ctx, func() {
		late := time.AfterFunc(5*time.Second, server.Stop)
		defer late.Stop()
		server.GracefulStop()
	})
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving OTLP on %s: %w", listener.Addr(), err)
	}
	return nil
}

// exportService is an official service whose Export is served as a stream of one message, which is the same on
// the wire: so a sender is let in before its message is read, and the message is never held decoded.
func (i *Ingest) exportService(official grpc.ServiceDesc, sig signal, calls chan struct{}) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: official.ServiceName,
		HandlerType: (*any)(nil),
		Metadata:    official.Metadata,
		Streams: []grpc.StreamDesc{{
			StreamName: official.Methods[0].MethodName, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return i.export(sig, stream, calls) },
		}},
	}
}

func (i *Ingest) export(sig signal, stream grpc.ServerStream, calls chan struct{}) error {
	ctx, cancel := context.WithTimeout(stream.Context(), callTime)
	defer cancel()
	select {
	case calls <- struct{}{}:
		defer func() { <-calls }()
	default:
		return callError(&statusError{http.StatusTooManyRequests, 1, errors.New("too many requests at once; try again")})
	}
	caller, err := i.admitted(callRequest(ctx), sig.scope)
	if err != nil {
		return callError(err)
	}
	body, err := receive(ctx, stream)
	if err != nil {
		return err
	}
	if limit := caller.maxBody(i.opt.MaxBody); int64(len(body)) > limit {
		return callError(tooLarge(limit))
	}
	var o *otlp
	a, err := i.keep(ctx, body, caller, func(d *decoder, req *request, a *answer) error {
		o = i.newOTLP(d, req, a)
		return o.decode(sig, true)
	})
	if err != nil {
		return callError(err)
	}
	return stream.SendMsg(i.answerOTLP(sig, o, a))
}

// receive reads a call's message. A sender that does not come to its end is left when ctx ends: it must not hold a
// place for ever.
func receive(ctx context.Context, stream grpc.ServerStream) (rawMessage, error) {
	var body rawMessage
	received := make(chan error, 1)
	go func() { received <- stream.RecvMsg(&body) }() // ends when the call does
	select {
	case err := <-received:
		return body, err
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// callRequest puts what a call says of its sender into the form that the door knows.
func callRequest(ctx context.Context) *http.Request {
	r := &http.Request{Method: http.MethodPost, Header: http.Header{}}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, secret := range md.Get("authorization") {
			r.Header.Add("Authorization", secret)
		}
		for _, host := range md.Get(":authority") {
			r.Host = host
		}
	}
	if p, ok := peer.FromContext(ctx); ok {
		r.RemoteAddr = p.Addr.String()
	}
	return r.WithContext(ctx)
}

// callError maps a refusal to gRPC. Senders repeat UNAVAILABLE, and RESOURCE_EXHAUSTED only with RetryInfo.
func callError(err error) error { return status.ErrorProto(statusOf(err).rpc()) }

func retryInfo(seconds int) googleproto.Message {
	return &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(seconds) * time.Second)}
}

func details(m googleproto.Message) []*anypb.Any {
	packed, err := anypb.New(m)
	if err != nil { // never of these messages
		return nil
	}
	return []*anypb.Any{packed}
}

// rawMessage is a message as it came.
type rawMessage []byte

// rawCodec leaves what comes in undecoded.
type rawCodec struct{ encoding.CodecV2 }

// Unmarshal copies the message out of gRPC's buffers.
func (c rawCodec) Unmarshal(data mem.BufferSlice, into any) error {
	if raw, ok := into.(*rawMessage); ok {
		*raw = data.Materialize()
		return nil
	}
	return c.CodecV2.Unmarshal(data, into)
}
