package main

// The servers: each reads datagrams by one library's call, and answers by the one that goes with it.

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"

	"github.com/veloq/veloq"
)

const (
	seenAt, askAt, headSize = 16, 28, 32 // of udpload's struct head
	batchSize               = 32
	datagramRoom            = 2048
	pieceRoom               = 64 << 10
)

// doors are the servers by name.
var doors = map[string]func(c *net.UDPConn, s *sink) error{
	"net":         serveNet,
	"net-msg":     serveNetMsg,
	"xnet":        serveXNet,
	"veloq":       serveVeloq,
	"veloq-msg":   serveVeloqMsg,
	"veloq-batch": serveVeloqBatch,
	"veloq-gro":   serveVeloqGRO,
}

// sink is what is done with a datagram: echo it, or count it and answer only those that ask.
type sink struct {
	on   bool
	seen uint64
}

// answer tells whether p is to be answered.
func (s *sink) answer(p []byte) bool {
	if !s.on {
		return true
	}
	s.seen++
	if len(p) < headSize || p[askAt] == 0 {
		return false
	}
	binary.NativeEndian.PutUint64(p[seenAt:], s.seen)
	return true
}

// serve runs one door until the process is ended.
func serve(door string, sinking bool) error {
	fn, ok := doors[door]
	if !ok {
		return fmt.Errorf("no server %q", door)
	}
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	if err := c.SetReadBuffer(4 << 20); err != nil { // as much as the system lets
		return err
	}
	fmt.Fprintln(os.Stdout, c.LocalAddr())
	return fn(c, &sink{on: sinking})
}

// own gives up c for a UDPConn of veloq's on the same address.
func own(c *net.UDPConn) (*veloq.UDPConn, error) {
	addr := c.LocalAddr().(*net.UDPAddr)
	if err := c.Close(); err != nil {
		return nil, err
	}
	v, err := veloq.ListenUDP("udp4", addr)
	if err != nil {
		return nil, err
	}
	return v, v.SetReadBuffer(4 << 20)
}

type addrPortConn interface {
	ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
}

func serveOne(c addrPortConn, s *sink) error {
	p := make([]byte, datagramRoom)
	for {
		n, from, err := c.ReadFromUDPAddrPort(p)
		if err != nil {
			return err
		}
		if s.answer(p[:n]) {
			if _, err := c.WriteToUDPAddrPort(p[:n], from); err != nil {
				return err
			}
		}
	}
}

func serveMsg(c addrPortConn, s *sink) error {
	p := make([]byte, datagramRoom)
	for {
		n, _, _, from, err := c.ReadMsgUDPAddrPort(p, nil)
		if err != nil {
			return err
		}
		if s.answer(p[:n]) {
			if _, _, err := c.WriteMsgUDPAddrPort(p[:n], nil, from); err != nil {
				return err
			}
		}
	}
}

func serveNet(c *net.UDPConn, s *sink) error    { return serveOne(c, s) }
func serveNetMsg(c *net.UDPConn, s *sink) error { return serveMsg(c, s) }

func serveVeloq(c *net.UDPConn, s *sink) error {
	v, err := own(c)
	if err != nil {
		return err
	}
	return serveOne(v, s)
}

func serveVeloqMsg(c *net.UDPConn, s *sink) error {
	v, err := own(c)
	if err != nil {
		return err
	}
	return serveMsg(v, s)
}

func serveXNet(c *net.UDPConn, s *sink) error {
	pc := ipv4.NewPacketConn(c)
	in, out := make([]ipv4.Message, batchSize), make([]ipv4.Message, 0, batchSize)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, datagramRoom)}
	}
	views := make([][1][]byte, batchSize)
	for {
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		out = out[:0]
		for i, m := range in[:n] {
			if p := m.Buffers[0][:m.N]; s.answer(p) {
				views[i][0] = p
				out = append(out, ipv4.Message{Buffers: views[i][:], Addr: m.Addr})
			}
		}
		for sent := 0; sent < len(out); {
			n, err := pc.WriteBatch(out[sent:], 0)
			if err != nil {
				return err
			}
			sent += n
		}
	}
}

func serveVeloqBatch(c *net.UDPConn, s *sink) error {
	return serveBatch(c, s, batchSize, datagramRoom, false)
}

func serveVeloqGRO(c *net.UDPConn, s *sink) error { return serveBatch(c, s, 8, pieceRoom, true) }

func serveBatch(c *net.UDPConn, s *sink, count, room int, gro bool) error {
	v, err := own(c)
	if err != nil {
		return err
	}
	if gro {
		if err := v.SetGRO(true); err != nil {
			return err
		}
	}
	in, out := make([]veloq.UDPMessage, count), make([]veloq.UDPMessage, 0, count)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, room)}
	}
	views := make([][1][]byte, 0, count*64)
	for {
		n, err := v.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		out, views = out[:0], views[:0]
		add := func(m *veloq.UDPMessage, p []byte, segment int) {
			views = append(views, [1][]byte{p})
			out = append(out, veloq.UDPMessage{
				Buffers: views[len(views)-1][:], Addr: m.Addr, SegmentSize: segment,
			})
		}
		for i := range in[:n] {
			m := &in[i]
			p := m.Buffers[0][:m.N]
			if !s.on {
				add(m, p, m.SegmentSize)
				continue
			}
			for size := max(m.SegmentSize, 1); len(p) > 0; {
				if m.SegmentSize == 0 {
					size = len(p)
				}
				one := p[:min(size, len(p))]
				if p = p[len(one):]; s.answer(one) {
					add(m, one, 0)
				}
			}
		}
		if _, err := v.WriteBatch(out, 0); err != nil {
			return err
		}
	}
}
