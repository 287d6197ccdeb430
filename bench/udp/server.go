package main

// The servers: each reads by one library's call, and answers by the one that goes with it. Here is what
// they share, and those that take one datagram a call.

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/veloq/veloq"
)

const (
	seenAt, askAt, headSize = 16, 28, 32 // of udpload's struct head
	batchSize               = 32
	pieceBatchSize          = 8
	datagramRoom            = 2048
	pieceRoom               = 64 << 10
)

// doors are the servers by name.
var doors = map[string]func(s *sink) error{
	"net":                 serveNet,
	"net-msg":             serveNetMsg,
	"xnet":                serveXNet,
	"xnet-gro":            serveXNetGRO,
	"veloq":               serveVeloq,
	"veloq-msg":           serveVeloqMsg,
	"veloq-batch":         serveVeloqBatch,
	"veloq-gro":           serveVeloqGRO,
	"veloq-handler":       serveHandler,
	"veloq-handler-gro":   serveHandlerGRO,
	"veloq-handler-delay": serveHandlerDelay,
	"veloq-task":          serveTask,
	"veloq-task-gro":      serveTaskGRO,
	"veloq-task-delay":    serveTaskDelay,
}

// sink is what is done with a datagram: echo it, or count it and answer only those that ask.
type sink struct {
	on   bool
	seen uint64
	// delay is Config.WakeDelay of the servers that have one.
	delay time.Duration
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

// answers calls add for what of piece is to go back: all as it came, or the datagrams that ask.
func (s *sink) answers(piece []byte, segment int, add func(p []byte, segment int)) {
	if !s.on {
		add(piece, segment)
		return
	}
	if segment <= 0 {
		segment = max(len(piece), 1)
	}
	for more := true; more; more = len(piece) > 0 {
		p := piece[:min(segment, len(piece))]
		if piece = piece[len(p):]; s.answer(p) {
			add(p, 0)
		}
	}
}

// serve runs one door until the process is ended.
func serve(door string, sinking bool, delay time.Duration) error {
	fn, ok := doors[door]
	if !ok {
		return fmt.Errorf("no server %q", door)
	}
	return fn(&sink{on: sinking, delay: delay})
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
