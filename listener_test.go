package veloq

import (
	"io"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq/internal/core"
)

// Goal: what an accept says of a connection, of its network or of the system ends no listener: the next
// connection is accepted, if after a pause. What it says of the listening socket does.
func TestListener_AcceptFails(t *testing.T) {
	rt := newTestRuntime(t, Config{Workers: 1})
	errnos := []int32{
		1, core.ErrnoNOMEM, core.ErrnoMFILE, core.ErrnoNFILE, 71, 92, core.ErrnoNOTSUP, 100, 101,
		core.ErrnoCONNABORTED, 104, core.ErrnoNOBUFS, 107, 110, 112, 113, core.ErrnoCANCELED,
	}
	h := Spawn(rt, func(c *Context) (struct{}, error) {
		l, err := c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return struct{}{}, err
		}
		dialed := make(chan error, 1)
		for _, errno := range errnos {
			l.complete(opAccept, -errno, core.CQEMore)
			if !assert.NoError(t, l.err, "errno %d", errno) {
				break
			}
			go func() {
				conn, err := net.Dial("tcp", l.Addr().String())
				if err == nil {
					_, err = io.ReadAll(conn)
					_ = conn.Close()
				}
				dialed <- err
			}()
			s, err := l.Accept()
			if err != nil {
				return struct{}{}, err
			}
			_ = s.Close()
			for len(dialed) == 0 {
				if err := c.Yield(); err != nil {
					return struct{}{}, err
				}
			}
			assert.NoError(t, <-dialed, "errno %d", errno)
		}
		return struct{}{}, l.Close()
	})
	require.NoError(t, second(h.Wait(t.Context())))

	for errno, want := range map[int32]error{core.ErrnoINVAL: syscall.EINVAL, core.ErrnoNOSYS: syscall.ENOSYS} {
		h = Spawn(rt, func(c *Context) (struct{}, error) {
			l, err := c.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return struct{}{}, err
			}
			defer func() { _ = l.Close() }()
			l.complete(opAccept, -errno, core.CQEMore)
			_, err = l.Accept()
			return struct{}{}, err
		})
		require.ErrorIs(t, second(h.Wait(t.Context())), want)
	}
}
