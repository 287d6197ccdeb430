package interop

// grpc-go over the net door, by its own interoperability tests: their service, and their client's
// cases. Left out are those that need credentials of a cloud's; pick_first_unary, for which their
// service has no answer; and orca_oob, which takes a minute without a setting that they keep internal.

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	grpcinterop "google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/status"
)

// A grpcFailure is what a case of grpc's panics with here.
type grpcFailure string

// A panicLogger's Fatal calls panic, so that a failed case ends its test and not the process.
type panicLogger struct{ grpclog.LoggerV2 }

func (panicLogger) Fatal(args ...any)   { panic(grpcFailure(fmt.Sprint(args...))) }
func (panicLogger) Fatalln(args ...any) { panic(grpcFailure(fmt.Sprintln(args...))) }
func (panicLogger) Fatalf(format string, args ...any) {
	panic(grpcFailure(fmt.Sprintf(format, args...)))
}

// FatalDepth implements grpclog.DepthLoggerV2, which is how grpc's components log.
func (l panicLogger) FatalDepth(_ int, args ...any) { l.Fatalln(args...) }

// InfoDepth implements grpclog.DepthLoggerV2.
func (l panicLogger) InfoDepth(_ int, args ...any) { l.Infoln(args...) }

// WarningDepth implements grpclog.DepthLoggerV2.
func (l panicLogger) WarningDepth(_ int, args ...any) { l.Warningln(args...) }

// ErrorDepth implements grpclog.DepthLoggerV2.
func (l panicLogger) ErrorDepth(_ int, args ...any) { l.Errorln(args...) }

// logByPanic is for before grpc's first goroutine, which may log.
var logByPanic = sync.OnceFunc(func() {
	grpclog.SetLoggerV2(panicLogger{grpclog.NewLoggerV2(io.Discard, io.Discard, os.Stderr)})
})

// grpcPair serves grpc's test service and connects to it, to the end of the test.
func grpcPair(t *testing.T, server, client door, secure bool, dial ...grpc.DialOption) (*grpc.Server, *grpc.ClientConn) {
	t.Helper()
	logByPanic()
	serverCreds, clientCreds := insecure.NewCredentials(), insecure.NewCredentials()
	if secure {
		serverTLS, clientTLS := certificates(t)
		serverCreds, clientCreds = credentials.NewTLS(serverTLS), credentials.NewTLS(clientTLS)
	}
	l := server.listen(t, "tcp")
	metrics := orca.NewServerMetricsRecorder()
	s := grpc.NewServer(grpc.Creds(serverCreds), orca.CallMetricsServerOption(nil))
	require.NoError(t, orca.Register(s, orca.ServiceOptions{ServerMetricsProvider: metrics}))
	testgrpc.RegisterTestServiceServer(s, grpcinterop.NewTestServer(
		grpcinterop.NewTestServerOptions{MetricsRecorder: metrics}))
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		assert.NoError(t, await(t, "end of Serve", served))
	})
	cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(), append(dial,
		grpc.WithTransportCredentials(clientCreds),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return client.dialContext(ctx, "tcp", address)
		}))...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = cc.Close() })
	return s, cc
}

// grpcCase runs one of grpc's, whose failures panic.
func grpcCase(t *testing.T, name string, fn func()) {
	t.Run(name, func(t *testing.T) {
		defer func() {
			switch failed := recover().(type) {
			case nil:
			case grpcFailure:
				t.Fatal(string(failed))
			default:
				panic(failed)
			}
		}()
		fn()
	})
}

// Goal: all cases, in the clear and with TLS.
func TestGRPC_Cases(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls %t", secure), func(t *testing.T) {
			forDoors(t, func(t *testing.T, server, client door) {
				_, cc := grpcPair(t, server, client, secure)
				tc, ctx := testgrpc.NewTestServiceClient(cc), soon(t)
				for _, c := range []struct {
					name string
					run  func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
				}{
					{"empty_unary", grpcinterop.DoEmptyUnaryCall},
					{"large_unary", grpcinterop.DoLargeUnaryCall},
					{"client_streaming", grpcinterop.DoClientStreaming},
					{"server_streaming", grpcinterop.DoServerStreaming},
					{"ping_pong", grpcinterop.DoPingPong},
					{"empty_stream", grpcinterop.DoEmptyStream},
					{"timeout_on_sleeping_server", grpcinterop.DoTimeoutOnSleepingServer},
					{"cancel_after_begin", grpcinterop.DoCancelAfterBegin},
					{"cancel_after_first_response", grpcinterop.DoCancelAfterFirstResponse},
					{"custom_metadata", grpcinterop.DoCustomMetadata},
					{"status_code_and_message", grpcinterop.DoStatusCodeAndMessage},
					{"special_status_message", grpcinterop.DoSpecialStatusMessage},
				} {
					grpcCase(t, c.name, func() { c.run(ctx, tc) })
				}
				grpcCase(t, "unimplemented_method", func() { grpcinterop.DoUnimplementedMethod(ctx, cc) })
				grpcCase(t, "unimplemented_service", func() {
					grpcinterop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
				})
				require.EqualValues(t, 1, client.dialed.Load(), "one connection for all")
			})
		})
	}
}

// Goal: the cases in which the server reports its load, with each call and beside them.
func TestGRPC_LoadReports(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		_, cc := grpcPair(t, server, client, false, grpc.WithDefaultServiceConfig(
			`{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`))
		tc := testgrpc.NewTestServiceClient(cc)
		grpcCase(t, "orca_per_rpc", func() { grpcinterop.DoORCAPerRPCTest(soon(t), tc) })
	})
}

// Goal: many channels at once, each call on a new one.
func TestGRPC_ChannelSoak(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		logByPanic()
		l := server.listen(t, "tcp")
		s := grpc.NewServer()
		testgrpc.RegisterTestServiceServer(s, grpcinterop.NewTestServer())
		served := make(chan error, 1)
		go func() { served <- s.Serve(l) }()
		config := grpcinterop.SoakTestConfig{
			RequestSize: 27182, ResponseSize: 31415, NumWorkers: 4, Iterations: 40,
			PerIterationMaxAcceptableLatency: patience, OverallTimeout: patience,
			ServerAddr: l.Addr().String(),
		}
		config.ChannelForTest = func() (*grpc.ClientConn, func()) {
			cc, err := grpc.NewClient("passthrough:///"+config.ServerAddr,
				grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
					return client.dialContext(ctx, "tcp", address)
				}))
			if err != nil {
				panic(err)
			}
			return cc, func() { _ = cc.Close() }
		}
		grpcCase(t, "channel_soak", func() { grpcinterop.DoSoakTest(soon(t), config) })
		require.EqualValues(t, config.Iterations, client.dialed.Load())
		s.Stop()
		require.NoError(t, await(t, "end of Serve", served))
	})
}

// Goal: GracefulStop takes no more connections and waits for the stream that runs; Stop ends it.
func TestGRPC_Stops(t *testing.T) {
	forDoors(t, func(t *testing.T, server, client door) {
		for _, graceful := range []bool{true, false} {
			s, cc := grpcPair(t, server, client, false)
			stream, err := testgrpc.NewTestServiceClient(cc).FullDuplexCall(soon(t))
			require.NoError(t, err)
			ask := &testgrpc.StreamingOutputCallRequest{
				ResponseParameters: []*testgrpc.ResponseParameters{{Size: 1000}},
			}
			exchange := func() {
				require.NoError(t, stream.Send(ask))
				res, err := stream.Recv()
				require.NoError(t, err)
				require.Len(t, res.Payload.Body, 1000)
			}
			exchange()
			if !graceful {
				s.Stop()
				_, err := stream.Recv()
				require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
				continue
			}
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				s.GracefulStop()
			}()
			exchange()
			select {
			case <-stopped:
				t.Fatal("GracefulStop did not wait")
			case <-time.After(time.Millisecond):
			}
			require.NoError(t, stream.CloseSend())
			_, err = stream.Recv()
			require.ErrorIs(t, err, io.EOF)
			await(t, "GracefulStop", stopped)
		}
	})
}
