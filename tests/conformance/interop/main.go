// The service of gRPC's interop cases, and the cases of compressed messages, which the stock programs of Go leave out.
//
//	interop serve PORT            serves what google.golang.org/grpc/interop serves, and compresses when asked to
//	interop call HOST:PORT CASE   runs client_compressed_unary or server_compressed_unary
//
// The cases are described in grpc/doc/interop-test-descriptions.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

const (
	requestSize  = 271828
	responseSize = 314159
	within       = 30 * time.Second
)

func main() {
	err := errors.New("usage: interop serve PORT | call HOST:PORT CASE")
	switch {
	case len(os.Args) == 3 && os.Args[1] == "serve":
		err = serve(os.Args[2])
	case len(os.Args) == 4 && os.Args[1] == "call":
		err = call(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// seen tells whether the last message that came was compressed.
type seen struct{ compressed bool }

type seenKey struct{}

// watch looks at messages as they come, in their order, before they are handed on.
type watch struct{}

func (watch) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	if _, known := ctx.Value(seenKey{}).(*seen); known {
		return ctx
	}
	return context.WithValue(ctx, seenKey{}, &seen{})
}

func (watch) HandleRPC(ctx context.Context, event stats.RPCStats) {
	if payload, ok := event.(*stats.InPayload); ok {
		ctx.Value(seenKey{}).(*seen).compressed = payload.CompressedLength != payload.Length
	}
}

func (watch) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (watch) HandleConn(context.Context, stats.ConnStats)                      {}

type server struct{ pb.TestServiceServer }

func (s server) UnaryCall(ctx context.Context, request *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if expected := request.GetExpectCompressed(); expected.GetValue() && !ctx.Value(seenKey{}).(*seen).compressed {
		return nil, status.Error(codes.InvalidArgument, "the request was to be compressed and is not")
	}
	if request.GetResponseCompressed().GetValue() {
		if err := grpc.SetSendCompressor(ctx, gzip.Name); err != nil {
			return nil, err
		}
	}
	return s.TestServiceServer.UnaryCall(ctx, request)
}

func serve(port string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	grpcServer := grpc.NewServer(grpc.StatsHandler(watch{}))
	pb.RegisterTestServiceServer(grpcServer, server{interop.NewTestServer()})
	return grpcServer.Serve(listener)
}

func call(target, name string) error {
	channel, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStatsHandler(watch{}))
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	client := pb.NewTestServiceClient(channel)
	switch name {
	case "client_compressed_unary":
		return clientCompressed(ctx, client)
	case "server_compressed_unary":
		return serverCompressed(ctx, client)
	}
	return fmt.Errorf("no case is called %s", name)
}

func request() *pb.SimpleRequest {
	payload := interop.ClientNewPayload(pb.PayloadType_COMPRESSABLE, requestSize)
	return &pb.SimpleRequest{ResponseType: pb.PayloadType_COMPRESSABLE, ResponseSize: responseSize, Payload: payload}
}

func clientCompressed(ctx context.Context, client pb.TestServiceClient) error {
	// A server that does not look would let everything pass.
	probe := request()
	probe.ExpectCompressed = &pb.BoolValue{Value: true}
	if _, err := client.UnaryCall(ctx, probe); status.Code(err) != codes.InvalidArgument {
		return fmt.Errorf("the probe ended with %v and not with INVALID_ARGUMENT", err)
	}
	if err := unary(ctx, client, probe, grpc.UseCompressor(gzip.Name)); err != nil {
		return err
	}
	plain := request()
	plain.ExpectCompressed = &pb.BoolValue{Value: false}
	return unary(ctx, client, plain)
}

func serverCompressed(ctx context.Context, client pb.TestServiceClient) error {
	for _, compressed := range []bool{true, false} {
		asked := request()
		asked.ResponseCompressed = &pb.BoolValue{Value: compressed}
		last := &seen{}
		if err := unary(context.WithValue(ctx, seenKey{}, last), client, asked); err != nil {
			return err
		}
		if last.compressed != compressed {
			return fmt.Errorf("the answer was to be compressed: %v; it was: %v", compressed, last.compressed)
		}
	}
	return nil
}

func unary(ctx context.Context, client pb.TestServiceClient, asked *pb.SimpleRequest, options ...grpc.CallOption) error {
	answer, err := client.UnaryCall(ctx, asked, options...)
	if err != nil {
		return err
	}
	if n := len(answer.GetPayload().GetBody()); n != responseSize {
		return fmt.Errorf("%d bytes were answered and not %d", n, responseSize)
	}
	return nil
}
