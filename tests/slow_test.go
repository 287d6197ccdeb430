package tests

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// forwardHandler echoes leases; what the stream refuses waits with the stream paused.
type forwardHandler struct{ veloq.HandlerBase }

func (forwardHandler) OnData(_ *veloq.Context, s *veloq.Stream, l veloq.Lease) error {
	if n, err := s.WriteLease(l.Retain()); err != nil {
		s.SetUserData(append([]byte(nil), l.Bytes()[n:]...))
		return s.PauseRead()
	}
	return nil
}

func (forwardHandler) OnWritable(_ *veloq.Context, s *veloq.Stream) {
	rest, _ := s.UserData().([]byte)
	n, err := s.Write(rest)
	s.SetUserData(rest[n:])
	if err == nil {
		_ = s.ResumeRead()
	}
}

func forwardTask(_ *veloq.Context, s *veloq.Stream) error {
	for {
		l, err := s.ReadLease()
		if err != nil {
			return err
		}
		if _, err := s.WriteLease(l); err != nil {
			return err
		}
	}
}

// Peers that send and never read fill every queue there is, far beyond the receive buffers: a
// connection beside them is served all the same.
func TestStream_PeersThatNeverReadDoNotStallOthers(t *testing.T) {
	for _, door := range []string{"task", "handler"} {
		t.Run(door, func(t *testing.T) {
			needDriver(t)
			rt, err := veloq.New(veloq.Config{Workers: 1, BufferCount: 8, BufferSize: 16 << 10, WriteHigh: 64 << 10, ReadLimit: 64 << 10})
			require.NoError(t, err)
			defer rt.Close()
			lc := veloq.ListenConfig{ReadBuffer: 32 << 10, WriteBuffer: 32 << 10}
			var srv *veloq.Server
			if door == "task" {
				srv, err = lc.Start(context.Background(), rt, "tcp", "127.0.0.1:0", forwardTask)
			} else {
				srv, err = lc.StartHandler(context.Background(), rt, "tcp", "127.0.0.1:0", forwardHandler{})
			}
			require.NoError(t, err)

			const peers = 32
			stuck := make(chan error, peers)
			for range peers {
				c, err := net.Dial("tcp", srv.Addr().String())
				require.NoError(t, err)
				defer c.Close()
				require.NoError(t, c.(*net.TCPConn).SetReadBuffer(32<<10))
				go func() {
					// Until nothing has been accepted for a while: every queue is full.
					block := make([]byte, 32<<10)
					for {
						_ = c.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
						if _, err := c.Write(block); err != nil {
							stuck <- err
							return
						}
					}
				}()
			}
			for range peers {
				var timeout net.Error
				require.ErrorAs(t, <-stuck, &timeout)
				require.True(t, timeout.Timeout())
			}
			for range 20 {
				c, err := net.Dial("tcp", srv.Addr().String())
				require.NoError(t, err)
				require.NoError(t, c.SetDeadline(time.Now().Add(30*time.Second)))
				_, err = c.Write([]byte("hello"))
				require.NoError(t, err)
				got := make([]byte, 5)
				_, err = io.ReadFull(c, got)
				require.NoError(t, err)
				require.Equal(t, "hello", string(got))
				require.NoError(t, c.Close())
			}
		})
	}
}
