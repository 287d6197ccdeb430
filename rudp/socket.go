package rudp

// This file changes if how datagrams are read from and written to sockets does.

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/veloq/veloq"
	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// PacketConn is what an endpoint needs of a socket; every net.PacketConn has it. Datagrams longer
// than 2,048 bytes need not come whole: none of rudp's are.
type PacketConn interface {
	ReadFrom(p []byte) (n int, addr net.Addr, err error)
	WriteTo(p []byte, addr net.Addr) (n int, err error)
	LocalAddr() net.Addr
	SetReadDeadline(t time.Time) error
	Close() error
}

const (
	datagramMax = 2048
	pieceMax    = 64 << 10
	readsMax    = 8 // datagrams or pieces a call
	// failuresMax is how many reads in a row may fail before the socket is given up.
	failuresMax = 1000
	socketRoom  = 4 << 20 // what is asked for of the kernel's buffers, in bytes
)

// packet is what one read gave: a datagram, or several of one size from one sender.
type packet struct {
	socket  *socket
	buf     []byte
	n       int
	segment int // 0: one datagram
	from    netip.AddrPort
	ecn     core.ECN
	err     error // the socket is at its end; nothing else is set
}

var (
	datagrams = sync.Pool{New: func() any { return &packet{buf: make([]byte, datagramMax)} }}
	pieces    = sync.Pool{New: func() any { return &packet{buf: make([]byte, pieceMax)} }}
	sends     = sync.Pool{New: func() any { b := make([]byte, core.SendMax); return &b }}
)

func (p *packet) release() {
	p.socket = nil
	if len(p.buf) == pieceMax {
		pieces.Put(p)
	} else {
		datagrams.Put(p)
	}
}

// addrPortConn is what package net's UDP sockets have, which spares the addresses' memory.
type addrPortConn interface {
	ReadFromUDPAddrPort(p []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(p []byte, addr netip.AddrPort) (int, error)
}

// socket is one of an endpoint's. Its reader goroutine reads, the actor writes.
type socket struct {
	pc    PacketConn
	local netip.AddrPort
	veloq *veloq.UDPConn // nil: another kind
	udp   addrPortConn   // nil: another kind
	gro   bool
	ecn   bool
	one   [1]*packet // the reader's

	// The actor's.
	users    int       // migrations under way to it
	unusedAt mono.Time // since when nobody uses it; Never: somebody does
	batch    [1]veloq.UDPMessage
	vector   [1][]byte
	to       netip.AddrPort // toAddr's
	toAddr   net.Addr
}

func newSocket(pc PacketConn) (*socket, error) {
	local, ok := addrPort(pc.LocalAddr())
	if !ok {
		return nil, &net.AddrError{Err: "not an address and port", Addr: pc.LocalAddr().String()}
	}
	s := &socket{pc: pc, local: local, unusedAt: mono.Never}
	if c, ok := pc.(syscall.Conn); ok {
		forbidFragments(c)
	}
	if c, ok := pc.(interface {
		SetReadBuffer(bytes int) error
		SetWriteBuffer(bytes int) error
	}); ok {
		_, _ = c.SetReadBuffer(socketRoom), c.SetWriteBuffer(socketRoom) // less is no failure
	}
	s.udp, _ = pc.(addrPortConn)
	if s.veloq, ok = pc.(*veloq.UDPConn); ok {
		s.gro = s.veloq.SetGRO(true) == nil
		s.ecn = s.veloq.SetReceiveECN(true) == nil
		s.batch[0].Buffers = s.vector[:]
	}
	return s, nil
}

// addrPort is the address as the core has it: IPv4 as IPv4.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	var ap netip.AddrPort
	switch a := a.(type) {
	case nil:
		return ap, false
	case *net.UDPAddr:
		ap = a.AddrPort()
	case interface{ AddrPort() netip.AddrPort }:
		ap = a.AddrPort()
	default:
		ap, _ = netip.ParseAddrPort(a.String())
	}
	return unmapped(ap), ap.IsValid()
}

func unmapped(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// send writes a batch. What the system refuses is lost, as it may be on the way.
func (s *socket) send(b *core.Batch, buf []byte) (refused int) {
	if s.veloq != nil {
		m := &s.batch[0]
		s.vector[0], m.Addr, m.SegmentSize, m.ECN = buf[:b.N], b.Path.Remote, 0, veloq.ECNNone
		if b.N > b.Segment {
			m.SegmentSize = b.Segment
		}
		if s.ecn {
			m.ECN = veloq.ECN(b.ECN)
		}
		_, err := s.veloq.WriteBatch(s.batch[:], 0)
		s.vector[0] = nil
		if err != nil {
			return 1
		}
		return 0
	}
	for at := 0; at < b.N; at += b.Segment {
		var err error
		datagram := buf[at:min(at+b.Segment, b.N)]
		if s.udp != nil {
			_, err = s.udp.WriteToUDPAddrPort(datagram, b.Path.Remote)
		} else {
			if s.to != b.Path.Remote || s.toAddr == nil {
				s.to, s.toAddr = b.Path.Remote, net.UDPAddrFromAddrPort(b.Path.Remote)
			}
			_, err = s.pc.WriteTo(datagram, s.toAddr)
		}
		if err != nil {
			refused++
		}
	}
	return refused
}

// read is the reader goroutine: it hands what comes to the actor until the socket is closed. The
// actor's queue is bounded; while it is full the kernel's buffer fills, and what it has no room for
// is lost.
func (e *Endpoint) read(s *socket) {
	defer e.readers.Done()
	failures := 0
	next := s.readOne
	if s.veloq != nil {
		next = s.batchReader()
	}
	for {
		list, err := next()
		for _, p := range list {
			select {
			case e.packets <- p:
			case <-e.quit:
				return
			}
		}
		if err == nil {
			failures = 0
			continue
		}
		if failures++; failures >= failuresMax || errors.Is(err, net.ErrClosed) {
			select {
			case e.packets <- &packet{socket: s, err: err}:
			case <-e.quit:
			}
			return
		}
	}
}

func (s *socket) readOne() ([]*packet, error) {
	p := datagrams.Get().(*packet)
	var err error
	ok := true
	if s.udp != nil {
		p.n, p.from, err = s.udp.ReadFromUDPAddrPort(p.buf)
		p.from = unmapped(p.from)
	} else {
		var from net.Addr
		p.n, from, err = s.pc.ReadFrom(p.buf)
		p.from, ok = addrPort(from)
	}
	if err != nil || !ok {
		p.release()
		return nil, err
	}
	p.socket, p.segment, p.ecn = s, 0, core.NotECT
	s.one[0] = p
	return s.one[:], nil
}

// batchReader returns a function that reads as many as have come at once. It offers one buffer to
// an idle socket, since each is 64 KiB, and more the more there is.
func (s *socket) batchReader() func() ([]*packet, error) {
	pool := &datagrams
	if s.gro {
		pool = &pieces
	}
	var messages [readsMax]veloq.UDPMessage
	var vectors [readsMax][1][]byte
	var offered, taken [readsMax]*packet
	want := 1
	return func() ([]*packet, error) {
		for i := range want {
			if offered[i] == nil {
				offered[i] = pool.Get().(*packet)
				vectors[i][0] = offered[i].buf
				messages[i].Buffers = vectors[i][:]
			}
		}
		for i := want; i < readsMax && offered[i] != nil; i++ {
			offered[i].release()
			offered[i] = nil
		}
		n, err := s.veloq.ReadBatch(messages[:want], 0)
		for i := range n {
			m, p := &messages[i], offered[i]
			p.socket, p.n, p.segment, p.ecn = s, m.N, m.SegmentSize, core.ECN(m.ECN)
			p.from = unmapped(m.Addr)
			taken[i], offered[i] = p, nil
		}
		// Those left over move to the front, so that the next call finds its first ones there.
		copy(offered[:], offered[n:])
		clear(offered[readsMax-n:])
		for i, p := range offered {
			if p != nil {
				vectors[i][0] = p.buf
				messages[i].Buffers = vectors[i][:]
			}
		}
		switch {
		case n == want:
			want = min(2*want, readsMax)
		case n < want/2:
			want = max(want/2, 1)
		}
		if err != nil && n == 0 {
			for i := range offered {
				if offered[i] != nil {
					offered[i].release()
					offered[i] = nil
				}
			}
		}
		return taken[:n], err
	}
}
