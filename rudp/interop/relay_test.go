package interop

// This file changes if what happens to datagrams on their way to and from quic-go does.

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fate is what the relay does to datagrams, each way.
type fate struct {
	loss, reorder float64 // shares
	hold          time.Duration
	seed          uint64
}

// wayStats count one direction. Late are those that a later one overtook.
type wayStats struct{ datagrams, bytes, lost, late, retries int64 }

// relay stands between clients and a server: to each client it is the server, and each client has a
// socket of its own at it, so that the server sees who moves.
type relay struct {
	t       testing.TB
	fate    fate
	front   *net.UDPConn
	server  atomic.Pointer[netip.AddrPort]
	wg      sync.WaitGroup
	mu      sync.Mutex
	backs   map[netip.AddrPort]*net.UDPConn
	closed  bool
	up, dwn way
}

// way is one direction.
type way struct {
	mu     sync.Mutex
	rng    *rand.Rand
	next   int64 // number of the next datagram
	newest int64 // the highest number that has left
	stats  wayStats
}

func newRelay(t testing.TB, server netip.AddrPort, f fate) *relay {
	t.Helper()
	front, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	r := &relay{t: t, fate: f, front: front, backs: map[netip.AddrPort]*net.UDPConn{}}
	r.up.rng, r.dwn.rng = rand.New(rand.NewPCG(f.seed, 1)), rand.New(rand.NewPCG(f.seed, 2))
	r.toward(server)
	r.buffers(front)
	r.wg.Add(1)
	go r.fromClients()
	t.Cleanup(r.close)
	return r
}

// buffers are as large as the system lets them be: what overflows is lost, and not by the seed.
func (r *relay) buffers(c *net.UDPConn) {
	require.NoError(r.t, c.SetReadBuffer(4<<20))
	require.NoError(r.t, c.SetWriteBuffer(4<<20))
}

func (r *relay) addr() netip.AddrPort { return r.front.LocalAddr().(*net.UDPAddr).AddrPort() }

// toward makes another socket the server, as if the old one had never been: nothing that it still says
// arrives.
func (r *relay) toward(server netip.AddrPort) { r.server.Store(&server) }

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	_ = r.front.Close()
	for _, b := range r.backs {
		_ = b.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *relay) fromClients() {
	defer r.wg.Done()
	buf := make([]byte, 2048)
	for {
		n, from, err := r.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if back := r.back(from); back != nil {
			r.pass(&r.up, buf[:n], func(b []byte) { _, _ = back.WriteToUDPAddrPort(b, *r.server.Load()) })
		}
	}
}

// back is the socket that stands for a client.
func (r *relay) back(client netip.AddrPort) *net.UDPConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.backs[client]; b != nil || r.closed {
		return b
	}
	b, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		r.t.Error(err)
		return nil
	}
	r.buffers(b)
	r.backs[client] = b
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		buf := make([]byte, 2048)
		for {
			n, from, err := b.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && from == *r.server.Load() {
				r.pass(&r.dwn, buf[:n], func(b []byte) { _, _ = r.front.WriteToUDPAddrPort(b, client) })
			}
		}
	}()
	return b
}

// pass lets the seed decide about a datagram.
func (r *relay) pass(w *way, b []byte, send func([]byte)) {
	w.mu.Lock()
	number := w.next
	w.next++
	w.stats.datagrams++
	w.stats.bytes += int64(len(b))
	if len(b) > 5 && b[0]>>4 == 0xf {
		w.stats.retries++ // a long header of type Retry
	}
	lost, held := w.rng.Float64() < r.fate.loss, w.rng.Float64() < r.fate.reorder
	if lost {
		w.stats.lost++
	}
	w.mu.Unlock()
	switch {
	case lost:
	case held:
		late := append([]byte(nil), b...)
		time.AfterFunc(r.fate.hold, func() { w.left(number); send(late) })
	default:
		w.left(number)
		send(b)
	}
}

func (w *way) left(number int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if number < w.newest {
		w.stats.late++
	}
	w.newest = max(w.newest, number)
}

// stats are what happened so far.
func (r *relay) stats() (up, down wayStats) {
	for _, w := range []struct {
		from *way
		to   *wayStats
	}{{&r.up, &up}, {&r.dwn, &down}} {
		w.from.mu.Lock()
		*w.to = w.from.stats
		w.from.mu.Unlock()
	}
	return up, down
}
