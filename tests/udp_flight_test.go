package tests

// UDPConn with calls in flight: deadlines, Close, many goroutines.

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Goal: a waiting read ends by a deadline that is set meanwhile, and the socket reads on after it.
func TestUDP_DeadlineInFlight(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		a, b := listenUDP(t, k, network, loopback), listenUDP(t, k, network, loopback)
		buf := make([]byte, 10)
		for name, read := range map[string]func() error{
			"Read":     func() error { return first(b.Read(buf)) },
			"ReadFrom": func() error { return second(b.ReadFrom(buf)) },
			"ReadMsg":  func() error { _, _, _, _, err := b.ReadMsgUDPAddrPort(buf, nil); return err },
		} {
			require.NoError(t, b.SetReadDeadline(time.Time{}))
			done := make(chan error, 1)
			go func() { done <- read() }()
			require.NoError(t, b.SetReadDeadline(time.Now().Add(time.Millisecond)))
			err := await(t, name, done)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded, name)
			require.True(t, isTimeout(err))
			// A datagram that waits doesn't count against a deadline that is over; it stays.
			_, err = a.WriteTo([]byte("late"), b.LocalAddr())
			require.NoError(t, err)
			require.ErrorIs(t, read(), os.ErrDeadlineExceeded)
			require.NoError(t, b.SetReadDeadline(time.Now().Add(patience)))
			require.NoError(t, read())
			require.Equal(t, "late", string(buf[:4]))
		}
	})
}

// Goal: Close wakes all readers, those that wait for their turn too, and frees the descriptor.
func TestUDP_CloseInFlight(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		c := listenUDP(t, k, network, loopback)
		require.NoError(t, c.SetDeadline(time.Time{}))
		const readers = 8
		began, done := make(chan struct{}, readers), make(chan error, readers)
		for i := range readers {
			go func() {
				buf := make([]byte, 10)
				began <- struct{}{}
				switch i % 3 {
				case 0:
					done <- first(c.Read(buf))
				case 1:
					done <- second(c.ReadFromUDPAddrPort(buf))
				default:
					_, _, _, _, err := c.ReadMsgUDP(buf, nil)
					done <- err
				}
			}()
		}
		for range readers {
			await(t, "readers", began)
		}
		require.NoError(t, c.Close())
		for range readers {
			require.ErrorIs(t, await(t, "reader", done), net.ErrClosed)
		}
		require.ErrorIs(t, c.Close(), net.ErrClosed)
	})
}

// Goal: many goroutines on one socket, in both directions: nothing is mixed up.
func TestUDP_ConcurrentEcho(t *testing.T) {
	forUDP(t, func(t *testing.T, k udpKind, network string, loopback *net.UDPAddr) {
		server := listenUDP(t, k, network, loopback)
		require.NoError(t, server.SetDeadline(time.Time{}))
		var serving, asking sync.WaitGroup
		for i := range 3 {
			serving.Go(func() {
				buf := make([]byte, 2048)
				for {
					var err error
					if i%2 == 0 {
						n, from, readErr := server.ReadFromUDPAddrPort(buf)
						if err = readErr; err == nil {
							_, err = server.WriteToUDPAddrPort(buf[:n], from)
						}
					} else {
						n, _, _, from, readErr := server.ReadMsgUDP(buf, nil)
						if err = readErr; err == nil {
							_, _, err = server.WriteMsgUDP(buf[:n], nil, from)
						}
					}
					if errors.Is(err, net.ErrClosed) {
						return
					}
					assert.NoError(t, err)
				}
			})
		}
		rounds := sized(2000, 200, 50)
		for i := range 6 {
			client := dialUDP(t, k, network, udpAddr(server))
			asking.Go(func() {
				got := make([]byte, 2048)
				for j := range rounds {
					p := udpPatterned(1+(i*j)%1200, i*7+j)
					if _, err := client.Write(p); !assert.NoError(t, err) {
						return
					}
					n, err := client.Read(got)
					if !assert.NoError(t, err) || !assert.Equal(t, p, got[:n]) {
						return
					}
				}
			})
		}
		asking.Wait()
		require.NoError(t, server.Close())
		serving.Wait()
	})
}
