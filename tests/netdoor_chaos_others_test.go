package tests

// Seeded chance for what the pairs of TestNetdoorChaos leave out: connections that change doors,
// listeners that close while they accept, datagrams.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/veloq/veloq"
)

// chaosTimes runs fn with seeds until the time is over, each in a test of its own.
func chaosTimes(t *testing.T, fn func(t *testing.T, r *rand.Rand, seed uint64)) {
	t.Helper()
	end := time.Now().Add(time.Duration(sized(60_000, 200, 200)) * time.Millisecond)
	for seed, once := firstSeed(t); ; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			noLeak(t)
			fn(t, rand.New(rand.NewPCG(seed, 0)), seed)
		})
		if once || t.Failed() || time.Now().After(end) {
			return
		}
	}
}

// A hopper is a connection that goes between doors, while it writes and checks what it reads.
type hopper struct {
	conn    net.Conn
	out, in *pattern
}

// some writes and reads a little.
func (h *hopper) some(r *rand.Rand, c net.Conn) error {
	for range 1 + r.IntN(4) {
		if n, err := c.Write(h.out.next(chaosSize(r, 3000, false))); err != nil {
			return fmt.Errorf("write, %d: %w", n, err)
		}
		if r.IntN(2) == 0 {
			continue
		}
		if err := c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(1000)) * time.Microsecond)); err != nil {
			return err
		}
		if err := h.take(c, 1+r.IntN(5000)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			return err
		}
	}
	return nil
}

// take reads once, at most n bytes.
func (h *hopper) take(c net.Conn, n int) error {
	p := make([]byte, n)
	n, err := c.Read(p)
	if wrong := h.in.check(p[:n]); wrong != nil {
		return wrong
	}
	return err
}

// visit takes the connection to a worker, and back unless it stays.
func (h *hopper) visit(r *rand.Rand, stay bool) func(c *veloq.Context) error {
	return func(c *veloq.Context) error {
		s, err := veloq.Attach(c, h.conn)
		if err != nil {
			return fmt.Errorf("attach: %w", err)
		}
		h.conn = nil
		if err := h.some(r, s); err != nil {
			_ = s.Close()
			return err
		}
		if stay {
			return h.finish(s)
		}
		h.conn, err = s.Detach()
		if err != nil {
			_ = s.Close()
			return fmt.Errorf("detach: %w", err)
		}
		return nil
	}
}

// finish ends the sending direction, reads to the end, and closes.
func (h *hopper) finish(c net.Conn) error {
	err := c.(interface{ CloseWrite() error }).CloseWrite()
	for err == nil {
		err = h.take(c, 8000)
	}
	if err == io.EOF {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// Goal: a connection that goes to a worker and back at any moment loses, repeats and mixes nothing.
func TestNetdoorChaos_Doors(t *testing.T) {
	needDriver(t)
	sharesSockets(t)
	chaosTimes(t, func(t *testing.T, r *rand.Rand, seed uint64) {
		rt := newRuntime(t, veloq.Config{Workers: 2, Stage: veloq.StageMode(r.IntN(3))})
		var wg sync.WaitGroup
		errs := make([]error, 6)
		for i := range errs {
			network, address := "tcp", "127.0.0.1:0"
			if r.IntN(2) == 0 {
				network, address = "unix", workerSocketPath(t)
			}
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			p := netPackage{listen: rt.Listen, dial: rt.Dial}
			a, b, err := chaosConnect(p, netPackages[0], network, address)
			require.NoError(t, err)
			wg.Go(func() { errs[i] = hop(t, mine, rt, a, b) })
		}
		bounded(t, fmt.Sprintf("VELOQ_SEED=%d", seed), wg.Wait)
		require.NoError(t, errors.Join(errs...), "VELOQ_SEED=%d", seed)
	})
}

// hop has a go between doors, and b echo to it.
func hop(t *testing.T, r *rand.Rand, rt *veloq.Runtime, a net.Conn, b fullConn) error {
	t.Helper()
	echoed := make(chan error, 1)
	go func() {
		var mu sync.Mutex
		var queue []byte
		over, more := false, make(chan struct{}, 1)
		go func() { // reads whatever is written: neither end waits for the other's room
			buf := make([]byte, 4096)
			for {
				n, err := b.Read(buf)
				mu.Lock()
				queue = append(queue, buf[:n]...)
				over = err != nil
				mu.Unlock()
				select {
				case more <- struct{}{}:
				default:
				}
				if err != nil {
					return
				}
			}
		}()
		for ended := false; !ended; {
			<-more
			mu.Lock()
			p := queue
			queue, ended = nil, over
			mu.Unlock()
			if _, err := b.Write(p); err != nil {
				break
			}
		}
		echoed <- errors.Join(b.CloseWrite(), b.Close())
	}()
	h := &hopper{conn: a, out: newPattern(3), in: newPattern(3)}
	var err error
	for range 1 + r.IntN(12) {
		if err = h.some(r, h.conn); err == nil {
			err = inTask(t, rt, h.visit(r, false))
		}
		if err != nil {
			break
		}
	}
	switch {
	case err != nil:
		if h.conn != nil {
			_ = h.conn.Close()
		}
	case r.IntN(2) == 0:
		err = inTask(t, rt, h.visit(r, true))
	default:
		err = h.finish(h.conn)
	}
	<-echoed // it may have had nobody to echo to
	if err == nil && h.in.at != h.out.at {
		err = fmt.Errorf("the pattern ends at %d, written to %d", h.in.at, h.out.at)
	}
	return err
}

// Goal: a listener closed while it accepts ends every Accept, and loses no connection it accepted.
func TestNetdoorChaos_Listeners(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("package net's Accept returns WSAENOTCONN for a connection that was reset, under Wine")
	}
	chaosTimes(t, func(t *testing.T, r *rand.Rand, seed uint64) {
		ln, err := veloq.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 1 + r.IntN(3) {
			wg.Go(func() {
				for {
					c, err := ln.Accept()
					if errors.Is(err, os.ErrDeadlineExceeded) {
						continue
					}
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("Accept: %v", err)
						}
						return
					}
					wg.Go(func() {
						_, _ = io.Copy(c, struct{ io.Reader }{c})
						_ = c.Close()
					})
				}
			})
		}
		for i := range 4 {
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			wg.Go(func() {
				for range mine.IntN(20) {
					c, err := veloq.Dial("tcp", ln.Addr().String())
					if err != nil {
						continue
					}
					if mine.IntN(3) == 0 {
						_ = c.(*veloq.TCPConn).SetLinger(0)
					} else {
						out, in := newPattern(i), newPattern(i)
						n := 1 + mine.IntN(2000)
						_, _ = c.Write(out.next(n))
						got := make([]byte, n)
						n, _ = io.ReadFull(c, got) // none where the listener had it still when it closed
						if err := in.check(got[:n]); err != nil {
							t.Errorf("echo: %v", err)
						}
					}
					_ = c.Close()
				}
			})
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond)
		_ = ln.(*veloq.TCPListener).SetDeadline(chaosDeadline(r))
		time.Sleep(time.Duration(r.IntN(1000)) * time.Microsecond)
		require.NoError(t, ln.Close())
		require.Error(t, ln.Close())
		bounded(t, fmt.Sprintf("VELOQ_SEED=%d", seed), wg.Wait)
	})
}

// chaosDatagram makes datagram i: its number, then the pattern.
func chaosDatagram(i, size int) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(i))
	return append(b, newPattern(i).next(size-4)...)
}

// chaosUDPSend sends until something but a deadline ends it.
func chaosUDPSend(r *rand.Rand, c *veloq.UDPConn) error {
	for {
		var err error
		switch i := r.IntN(1 << 20); r.IntN(4) {
		case 0:
			_, err = c.Write(chaosDatagram(i, 4+r.IntN(1400)))
		case 1:
			size, count := 4+r.IntN(1000), 1+r.IntN(20)
			var p []byte
			for range count {
				p = append(p, chaosDatagram(i, size)...)
			}
			_, err = c.WriteSegments(p, size, netip.AddrPort{})
		default:
			ms := make([]veloq.UDPMessage, 1+r.IntN(40))
			for j := range ms {
				b := chaosDatagram(i+j, 4+r.IntN(1400))
				cut := r.IntN(len(b))
				ms[j].Buffers = [][]byte{b[:cut], b[cut:]}
			}
			var n int
			n, err = c.WriteBatch(ms, 0)
			if n < len(ms) && err == nil {
				return fmt.Errorf("%d of %d sent, and no error", n, len(ms))
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errRefused) {
			return err
		}
	}
}

// chaosUDPReceive receives until something but a deadline ends it.
func chaosUDPReceive(r *rand.Rand, c *veloq.UDPConn) error {
	check := func(p []byte) error {
		i := -1
		if len(p) >= 4 {
			i = int(binary.BigEndian.Uint32(p))
			if string(p) == string(chaosDatagram(i, len(p))) {
				return nil
			}
		}
		return fmt.Errorf("datagram %d of %d bytes is not what was sent", i, len(p))
	}
	for {
		var err error
		if r.IntN(2) == 0 {
			p := make([]byte, 2000)
			var n int
			if n, err = c.Read(p); err == nil {
				err = check(p[:n])
			}
		} else {
			ms := roomFor(1+r.IntN(30), 2000)
			var n int
			n, err = c.ReadBatch(ms, 0)
			for _, m := range ms[:n] {
				var p []byte
				for _, b := range m.Buffers {
					p = append(p, b...)
				}
				err = errors.Join(err, check(p[:m.N]))
			}
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, errRefused) {
			return err
		}
	}
}

// Goal: batches, deadlines and Close at once keep datagrams whole, and Close ends every call.
func TestNetdoorChaos_Datagrams(t *testing.T) {
	local := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	first, err := net.ListenUDP("udp4", local)
	if err != nil {
		t.Skip("package net opens no UDP socket here: ", err)
	}
	require.NoError(t, first.Close())
	chaosTimes(t, func(t *testing.T, r *rand.Rand, seed uint64) {
		in, err := veloq.ListenUDP("udp4", local)
		require.NoError(t, err)
		out, err := veloq.DialUDP("udp4", nil, in.LocalAddr().(*net.UDPAddr))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 6 {
			mine := rand.New(rand.NewPCG(r.Uint64(), 0))
			wg.Go(func() {
				run := chaosUDPSend
				c := out
				if i%2 == 0 {
					run, c = chaosUDPReceive, in
				}
				if err := run(mine, c); !errors.Is(err, net.ErrClosed) {
					t.Errorf("VELOQ_SEED=%d: %v", seed, err)
				}
			})
		}
		for range r.IntN(20) {
			c := [...]*veloq.UDPConn{in, out}[r.IntN(2)]
			set := [...]func(time.Time) error{c.SetDeadline, c.SetReadDeadline, c.SetWriteDeadline}[r.IntN(3)]
			require.NoError(t, set(chaosDeadline(r)))
			time.Sleep(time.Duration(r.IntN(500)) * time.Microsecond)
		}
		closing := [...]*veloq.UDPConn{in, out}
		r.Shuffle(2, func(i, j int) { closing[i], closing[j] = closing[j], closing[i] })
		for _, c := range closing {
			require.NoError(t, c.Close())
			require.ErrorIs(t, c.Close(), net.ErrClosed)
		}
		bounded(t, fmt.Sprintf("VELOQ_SEED=%d", seed), wg.Wait)
	})
}
