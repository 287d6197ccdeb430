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
var doors = map[string]func(s *sink) error{
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
	return fn(&sink{on: sinking})
}

var loopback = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}

// ready readies the socket that the server will read, and then tells its address: what is sent from
// now on is the server's to answer.
func ready(c interface {
	SetReadBuffer(bytes int) error
	LocalAddr() net.Addr
},
) error {
	if err := c.SetReadBuffer(4 << 20); err != nil { // as much as the system lets
		return err
	}
	_, err := fmt.Fprintln(os.Stdout, c.LocalAddr())
	return err
}

func openNet() (*net.UDPConn, error) {
	c, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		return nil, err
	}
	return c, ready(c)
}

func openVeloq(gro bool) (*veloq.UDPConn, error) {
	c, err := veloq.ListenUDP("udp4", loopback)
	if err != nil {
		return nil, err
	}
	if gro {
		if err := c.SetGRO(true); err != nil {
			return nil, err
		}
	}
	return c, ready(c)
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

func serveNet(s *sink) error {
	c, err := openNet()
	if err != nil {
		return err
	}
	return serveOne(c, s)
}

func serveNetMsg(s *sink) error {
	c, err := openNet()
	if err != nil {
		return err
	}
	return serveMsg(c, s)
}

func serveVeloq(s *sink) error {
	c, err := openVeloq(false)
	if err != nil {
		return err
	}
	return serveOne(c, s)
}

func serveVeloqMsg(s *sink) error {
	c, err := openVeloq(false)
	if err != nil {
		return err
	}
	return serveMsg(c, s)
}

func serveXNet(s *sink) error {
	c, err := openNet()
	if err != nil {
		return err
	}
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

func serveVeloqBatch(s *sink) error { return serveBatch(s, batchSize, datagramRoom, false) }
func serveVeloqGRO(s *sink) error   { return serveBatch(s, 8, pieceRoom, true) }

func serveBatch(s *sink, count, room int, gro bool) error {
	v, err := openVeloq(gro)
	if err != nil {
		return err
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
