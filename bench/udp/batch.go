package main

// The servers that take many datagrams a call: x/net's batches and those of UDPConn.

import (
	"encoding/binary"
	"net"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/veloq/veloq"
)

func serveVeloqBatch(s *sink) error { return serveBatch(s, batchSize, datagramRoom, false) }
func serveVeloqGRO(s *sink) error   { return serveBatch(s, pieceBatchSize, pieceRoom, true) }

func serveBatch(s *sink, count, room int, gro bool) error {
	v, err := openVeloq(gro)
	if err != nil {
		return err
	}
	in, out := make([]veloq.UDPMessage, count), make([]veloq.UDPMessage, 0, count)
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, room)}
	}
	views := newViews(count)
	for {
		n, err := v.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		out = out[:0]
		views.reset()
		for i := range in[:n] {
			m := &in[i]
			s.answers(m.Buffers[0][:m.N], m.SegmentSize, func(p []byte, segment int) {
				out = append(out, veloq.UDPMessage{
					Buffers: views.of(p), Addr: m.Addr, SegmentSize: segment,
				})
			})
		}
		if _, err := v.WriteBatch(out, 0); err != nil {
			return err
		}
	}
}

// views are the lists of one slice each that batches take, without an allocation a datagram.
type views struct{ list [][1][]byte }

func newViews(count int) *views { return &views{make([][1][]byte, 0, count*64)} }

func (v *views) reset() { v.list = v.list[:0] }

func (v *views) of(p []byte) [][]byte {
	v.list = append(v.list, [1][]byte{p})
	return v.list[len(v.list)-1][:]
}

func serveXNet(s *sink) error    { return serveXNetBatch(s, batchSize, datagramRoom, false) }
func serveXNetGRO(s *sink) error { return serveXNetBatch(s, pieceBatchSize, pieceRoom, true) }

func serveXNetBatch(s *sink, count, room int, gro bool) error {
	c, err := net.ListenUDP("udp4", loopback)
	if err != nil {
		return err
	}
	if gro {
		if err := setGRO(c); err != nil {
			return err
		}
	}
	if err := ready(c); err != nil {
		return err
	}
	pc := ipv4.NewPacketConn(c)
	in, out := make([]ipv4.Message, count), make([]ipv4.Message, 0, count)
	cuts := make([][]byte, count) // control messages for what is echoed in one piece
	for i := range in {
		in[i].Buffers = [][]byte{make([]byte, room)}
		if gro {
			in[i].OOB = make([]byte, unix.CmsgSpace(4)) // GRO's, of an int
			cuts[i] = make([]byte, unix.CmsgSpace(2))
		}
	}
	views := newViews(count)
	for {
		n, err := pc.ReadBatch(in, 0)
		if err != nil {
			return err
		}
		out = out[:0]
		views.reset()
		for i := range in[:n] {
			m := &in[i]
			s.answers(m.Buffers[0][:m.N], segmentOf(m.OOB[:m.NN]), func(p []byte, segment int) {
				answer := ipv4.Message{Buffers: views.of(p), Addr: m.Addr}
				if segment > 0 {
					answer.OOB = putSegment(cuts[i], segment)
				}
				out = append(out, answer)
			})
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

func setGRO(c *net.UDPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
	}); err != nil {
		return err
	}
	return failed
}

// segmentOf reads GRO's control message, the only one that there may be; 0 without it. udp(7).
func segmentOf(oob []byte) int {
	if len(oob) < unix.CmsgLen(4) {
		return 0
	}
	return int(binary.NativeEndian.Uint32(oob[unix.CmsgLen(0):]))
}

// putSegment writes the control message that has the kernel cut a send, udp(7), as on 64-bit systems:
// the length in 8 bytes, the level and the type in 4 each.
func putSegment(oob []byte, size int) []byte {
	binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(oob[8:], unix.SOL_UDP)
	binary.NativeEndian.PutUint32(oob[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], uint16(size))
	return oob
}
