package interop

// net/rpc, by gob and by JSON, over TCP and unix(7) sockets.

import (
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Texts is net/rpc's service.
type Texts struct{}

// Repeat is its method.
func (Texts) Repeat(args *RepeatArgs, out *string) error {
	if args.Count < 0 {
		return io.ErrShortBuffer
	}
	*out = strings.Repeat(args.Text, args.Count)
	return nil
}

// RepeatArgs are its arguments.
type RepeatArgs struct {
	Text  string
	Count int
}

func TestRPC_Calls(t *testing.T) {
	codecs := []struct {
		name   string
		server func(s *rpc.Server, c net.Conn)
		client func(c net.Conn) *rpc.Client
	}{
		{
			"gob", func(s *rpc.Server, c net.Conn) { s.ServeConn(c) },
			func(c net.Conn) *rpc.Client { return rpc.NewClient(c) },
		},
		{
			"json", func(s *rpc.Server, c net.Conn) { s.ServeCodec(jsonrpc.NewServerCodec(c)) },
			func(c net.Conn) *rpc.Client { return jsonrpc.NewClient(c) },
		},
	}
	for _, network := range []string{"tcp", "unix"} {
		for _, codec := range codecs {
			t.Run(codec.name+" over "+network, func(t *testing.T) {
				forDoors(t, func(t *testing.T, server, client door) {
					s := rpc.NewServer()
					require.NoError(t, s.Register(Texts{}))
					l := server.listen(t, network)
					var serving sync.WaitGroup
					serving.Go(func() {
						for {
							c, err := l.Accept()
							if err != nil {
								return
							}
							serving.Go(func() { codec.server(s, c) })
						}
					})
					var wg sync.WaitGroup
					for range 3 {
						c := codec.client(client.dial(t, l))
						wg.Go(func() { rpcCalls(t, c) })
					}
					wg.Wait()
					require.NoError(t, l.Close())
					serving.Wait()
				})
			})
		}
	}
}

// rpcCalls has many calls in flight at once, one of which fails, and closes the client.
func rpcCalls(t *testing.T, c *rpc.Client) {
	var calls []*rpc.Call
	for i := range 100 {
		calls = append(calls, c.Go("Texts.Repeat", &RepeatArgs{"ab", i * 10}, new(string), nil))
	}
	for i, call := range calls {
		assert.NoError(t, await(t, "call", call.Done).Error)
		assert.Equal(t, strings.Repeat("ab", i*10), *call.Reply.(*string))
	}
	assert.ErrorContains(t, c.Call("Texts.Repeat", &RepeatArgs{"x", -1}, new(string)), "short buffer")
	assert.NoError(t, c.Close())
	assert.ErrorIs(t, c.Call("Texts.Repeat", &RepeatArgs{"x", 1}, new(string)), rpc.ErrShutdown)
}
