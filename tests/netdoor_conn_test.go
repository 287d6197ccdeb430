package tests

// Connections of the net door, beside package net's: every scenario runs on both, and must be told the
// same by both.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var past = time.Unix(1, 0)

// Goal: nothing to read is no end, and close and deadline are looked at first, as io.Reader's users
// know it from package net.
func TestNetdoorConn_EmptyReadsAndWrites(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("package net's read of nothing waits for something here")
	}
	sameAsNet(t, append(streamNetworks, "unixpacket"), func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		empty := func(what string) {
			n, err := c.Read(nil)
			seen.note("read nothing, "+what, c, n, err)
			n, err = c.Write(nil)
			seen.note("write nothing, "+what, c, n, err)
		}
		empty("open")
		require.NoError(t, c.SetDeadline(past))
		empty("past the deadline")
		require.NoError(t, c.SetDeadline(time.Time{}))
		require.NoError(t, s.Close())
		n, err := c.Read(make([]byte, 1))
		seen.note("end", c, n, err)
		n, err = c.Read(nil)
		seen.note("read nothing after the end", c, n, err)
		require.NoError(t, c.Close())
		empty("closed")
	})
}

// Goal: a deadline that has passed fails the call before it looks at the socket, takes no byte, and can
// be moved on; one that passes in a call ends it.
func TestNetdoorConn_Deadlines(t *testing.T) {
	sameAsNet(t, streamNetworks, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		buf := make([]byte, 8)
		_, err := s.Write([]byte("first"))
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(past))
		n, err := c.Read(buf)
		seen.note("read past the deadline, with data", c, n, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		n, err = io.ReadFull(c, buf[:5])
		seen.note("read after it was moved, "+string(buf[:5]), c, n, err)

		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Millisecond)))
		n, err = c.Read(buf)
		seen.note("read until the deadline", c, n, err)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		n, err = c.Read(buf)
		seen.note("read again", c, n, err)
		n, err = c.Write([]byte("x"))
		seen.note("write meanwhile", c, n, err)

		require.NoError(t, c.SetWriteDeadline(past))
		n, err = c.Write([]byte("y"))
		seen.note("write past the deadline", c, n, err)
		require.NoError(t, c.SetDeadline(time.Time{}))
		n, err = c.Write([]byte("z"))
		seen.note("write after it was moved", c, n, err)
		n, err = io.ReadFull(s, buf[:2])
		seen.note("what came of it, "+string(buf[:2]), s, n, err)

		// A reader that waits is woken by a deadline set into the past.
		got := make(chan error, 1)
		go func() {
			_, err := c.Read(buf)
			got <- err
		}()
		require.NoError(t, c.SetReadDeadline(past))
		seen.note("deadline set while reading", c, 0, await(t, "Read", got))
	})
}

// Goal: a write that fills the socket waits, and its deadline ends it with what was written counted;
// the peer gets exactly those bytes.
func TestNetdoorConn_WriteDeadlineCountsBytes(t *testing.T) {
	sameAsNet(t, streamNetworks, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		sent := 0
		for _, size := range []int{1 << 10, 64 << 10, 4 << 20} {
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
			block := make([]byte, size)
			for {
				for i := range block {
					block[i] = byte((sent + i) % 251)
				}
				n, err := c.Write(block)
				sent += n
				if err != nil {
					seen.note(fmt.Sprint("full with pieces of ", size), c, n < size, err)
					break
				}
			}
		}
		require.NoError(t, c.CloseWrite())
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Len(t, got, sent)
		for i, b := range got {
			if b != byte(i%251) {
				t.Fatalf("byte %d of %d is %d", i, sent, b)
			}
		}
	})
}

// Goal: each half ends by itself.
func TestNetdoorConn_HalfClose(t *testing.T) {
	sameAsNet(t, streamNetworks, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		buf := make([]byte, 64)
		_, err := c.Write([]byte("request"))
		require.NoError(t, err)
		seen.note("CloseWrite", c, 0, c.CloseWrite())
		got, err := io.ReadAll(s)
		seen.note("the peer reads "+string(got), s, 0, err)
		n, err := c.Write([]byte("more"))
		seen.note("write after CloseWrite", c, n, err)
		seen.note("CloseWrite again", c, 0, c.CloseWrite())
		n, err = s.Write([]byte("answer"))
		seen.note("the other direction", s, n, err)
		n, err = io.ReadFull(c, buf[:6])
		seen.note("read "+string(buf[:6]), c, n, err)
		seen.note("CloseRead", c, 0, c.CloseRead())
		n, err = c.Read(buf)
		seen.note("read after CloseRead", c, n, err)
	})
}

// Goal: a reset is told once by Read as such, and by Write.
func TestNetdoorConn_Reset(t *testing.T) {
	if resetReadsAsEnd() {
		t.Skip("a reset reads as the end here, or not, from run to run")
	}
	sameAsNet(t, []string{"tcp", "tcp4", "tcp6"}, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, s := pair(t, p, network)
		require.NoError(t, s.(interface{ SetLinger(sec int) error }).SetLinger(0))
		require.NoError(t, s.Close())
		buf := make([]byte, 1)
		n, err := c.Read(buf)
		seen.note("read", c, n, err)
		n, err = c.Read(buf)
		seen.note("read again", c, n, err)
		n, err = c.Write(buf)
		seen.note("write", c, n, err)
		n, err = c.Write(make([]byte, 1<<20))
		seen.note("write much", c, n, err)
	})
}

// Goal: after Close every method says so as package net's do.
func TestNetdoorConn_EveryMethodAfterClose(t *testing.T) {
	sameAsNet(t, streamNetworks, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, _ := pair(t, p, network)
		raw, err := c.SyscallConn()
		require.NoError(t, err)
		seen.note("Close", c, 0, c.Close())
		buf := make([]byte, 8)
		n, err := c.Read(buf)
		seen.note("Read", c, n, err)
		require.ErrorIs(t, err, net.ErrClosed)
		n, err = c.Write(buf)
		seen.note("Write", c, n, err)
		n, err = c.Write(make([]byte, 1<<20))
		seen.note("Write much", c, n, err)
		for what, err := range map[string]error{
			"Close": c.Close(), "CloseRead": c.CloseRead(), "CloseWrite": c.CloseWrite(),
			"SetDeadline": c.SetDeadline(past), "SetReadDeadline": c.SetReadDeadline(past),
			"SetWriteDeadline": c.SetWriteDeadline(past), "SetReadBuffer": c.SetReadBuffer(1 << 16),
			"SetWriteBuffer": c.SetWriteBuffer(1 << 16),
			"Control":        raw.Control(func(uintptr) {}),
			"raw Read":       raw.Read(func(uintptr) bool { return true }),
			"raw Write":      raw.Write(func(uintptr) bool { return true }),
		} {
			seen.note(what, c, 0, err)
		}
		slices.Sort(seen.lines)
		_, err = c.File()
		seen.note("File", c, 0, err)
		_, err = c.SyscallConn()
		seen.note("SyscallConn", c, 0, err)
		if tcp, ok := c.(tcpMethods); ok {
			seen.note("SetLinger", c, 0, tcp.SetLinger(1))
			seen.note("SetNoDelay", c, 0, tcp.SetNoDelay(true))
			seen.note("SetKeepAlive", c, 0, tcp.SetKeepAlive(true))
			seen.note("SetKeepAlivePeriod", c, 0, tcp.SetKeepAlivePeriod(time.Second))
			seen.note("SetKeepAliveConfig", c, 0, tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}))
			m, err := tcp.ReadFrom(bytes.NewReader(buf))
			seen.note("ReadFrom", c, m, err)
			m, err = tcp.WriteTo(io.Discard)
			seen.note("WriteTo", c, m, err)
		}
	})
}

// tcpMethods are what only TCPConn has, of both packages.
type tcpMethods interface {
	io.ReaderFrom
	io.WriterTo
	SetLinger(sec int) error
	SetNoDelay(on bool) error
	SetKeepAlive(on bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetKeepAliveConfig(config net.KeepAliveConfig) error
	MultipathTCP() (bool, error)
}

// Goal: Close wakes those who wait in Read and Write, several of each, and they are told that this end
// was closed; what is not sent by then is counted.
func TestNetdoorConn_CloseWakesAll(t *testing.T) {
	sameAsNet(t, streamNetworks, func(t *testing.T, p netPackage, network string, seen *protocol) {
		c, _ := pair(t, p, network)
		const each = 4
		results := make(chan string, 2*each)
		var began sync.WaitGroup
		began.Add(2 * each)
		for range each {
			go func() {
				began.Done()
				n, err := c.Read(make([]byte, 1))
				results <- fmt.Sprint("read ", n, " ", describe(err, c))
			}()
			go func() {
				block := make([]byte, 16<<20) // more than the socket takes
				began.Done()
				n, err := c.Write(block)
				results <- fmt.Sprint("write, all: ", n == len(block), " ", describe(err, c))
			}()
		}
		began.Wait()
		require.NoError(t, c.Close())
		for range 2 * each {
			seen.lines = append(seen.lines, await(t, "Read or Write", results))
		}
		slices.Sort(seen.lines)
	})
}

// Goal: many goroutines write frames and many read them: none is torn, lost or doubled. The sizes lie
// around those at which the way of sending changes.
func TestNetdoorConn_WritesAreNotMixed(t *testing.T) {
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			noLeak(t)
			c, s := pair(t, netPackages[1], network)
			const writers = 4
			rounds := sized(200, 40, 10)
			sizes := []int{1, 100, 16 << 10, 64<<10 - 9, 64 << 10, 64<<10 + 1, 300 << 10}
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for r := range rounds {
						size := sizes[(w+r)%len(sizes)]
						frame := bytes.Repeat([]byte{byte(w + 1)}, 5+size)
						binary.BigEndian.PutUint32(frame[1:], uint32(size))
						if n, err := c.Write(frame); err != nil || n != len(frame) {
							t.Errorf("write: %d of %d, %v", n, len(frame), err)
						}
					}
				})
			}
			counts := map[byte]int{}
			head, body := make([]byte, 5), make([]byte, 300<<10)
			for range writers * rounds {
				_, err := io.ReadFull(s, head)
				require.NoError(t, err)
				size := binary.BigEndian.Uint32(head[1:])
				require.LessOrEqual(t, size, uint32(len(body)))
				_, err = io.ReadFull(s, body[:size])
				require.NoError(t, err)
				require.Equal(t, int(size), bytes.Count(body[:size], head[:1]), "a frame of another writer inside")
				counts[head[0]]++
			}
			wg.Wait()
			assert.Len(t, counts, writers)
			for w, n := range counts {
				assert.Equal(t, rounds, n, "writer %d", w)
			}
		})
	}
}

// Goal: readers share a stream without losing or doubling a byte of it, while deadlines come and go.
func TestNetdoorConn_ManyReaders(t *testing.T) {
	noLeak(t)
	c, s := pair(t, netPackages[1], "tcp")
	total := sized(16<<20, 4<<20, 1<<20)
	sum := make(chan [256]int, 4)
	for range 4 {
		go func() {
			var counts [256]int
			buf := make([]byte, 3000)
			for {
				n, err := s.Read(buf)
				for _, b := range buf[:n] {
					counts[b]++
				}
				switch {
				case errors.Is(err, os.ErrDeadlineExceeded):
					_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
				case errors.Is(err, io.EOF):
					sum <- counts
					return
				case err != nil:
					t.Errorf("read: %v", err)
					sum <- counts
					return
				}
			}
		}()
	}
	require.NoError(t, s.SetReadDeadline(past))
	var want, got [256]int
	p := newPattern(1)
	for sent := 0; sent < total; {
		b := p.next(min(10_000, total-sent))
		for _, b := range b {
			want[b]++
		}
		_, err := c.Write(b)
		require.NoError(t, err)
		sent += len(b)
	}
	require.NoError(t, c.CloseWrite())
	for range 4 {
		for b, n := range await(t, "reader", sum) {
			got[b] += n
		}
	}
	assert.Equal(t, want, got)
}

// Goal: reading and writing allocate nothing.
func TestNetdoorConn_NoAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, network := range streamNetworks {
		t.Run(network, func(t *testing.T) {
			c, s := pair(t, netPackages[1], network)
			buf := make([]byte, 100)
			assert.Zero(t, testing.AllocsPerRun(1000, func() {
				if _, err := c.Write(buf); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(s, buf); err != nil {
					t.Fatal(err)
				}
			}))
		})
	}
}
