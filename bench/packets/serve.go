package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/veloq/veloq"
)

const socketBuffer = 4 << 20

var received atomic.Uint64

// A server receives until the process ends, and counts.
type server struct {
	name  string
	start func() (net.Addr, error)
}

var servers = []server{
	{"go", goServer},
	{"xnet", func() (net.Addr, error) { return xnetServer(false) }},
	{"xnet-gro", func() (net.Addr, error) { return xnetServer(true) }},
	{"veloq", func() (net.Addr, error) { return veloqServer(false) }},
	{"veloq-gro", func() (net.Addr, error) { return veloqServer(true) }},
	{"veloq-task", veloqTask},
}

func serverNames() []string {
	var names []string
	for _, s := range servers {
		names = append(names, s.name)
	}
	return names
}

// runServer prints the address, and at each line of stdin its CPU time and what it has received.
func runServer(name string) {
	i := slices.IndexFunc(servers, func(s server) bool { return s.name == name })
	if i < 0 {
		fail(fmt.Errorf("no server %q", name))
	}
	addr, err := servers[i].start()
	if err != nil {
		fail(err)
	}
	fmt.Println(addr)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			fail(err)
		}
		fmt.Println(u.Utime.Nano()+u.Stime.Nano(), received.Load())
	}
}

func listen() (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err == nil {
		err = conn.SetReadBuffer(socketBuffer)
	}
	return conn, err
}

func goServer() (net.Addr, error) {
	conn, err := listen()
	if err != nil {
		return nil, err
	}
	go func() {
		buf, oob := make([]byte, 65536), make([]byte, 128)
		for {
			if _, _, _, _, err := conn.ReadMsgUDPAddrPort(buf, oob); err != nil {
				fail(err)
			}
			received.Add(1)
		}
	}()
	return conn.LocalAddr(), nil
}

func xnetServer(gro bool) (net.Addr, error) {
	conn, err := listen()
	if err != nil {
		return nil, err
	}
	size := 2048
	if gro {
		size = 65536
		raw, err := conn.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_GRO, 1)
		}); err != nil {
			return nil, err
		}
		if err != nil {
			return nil, err
		}
	}
	messages := make([]ipv4.Message, 64)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, size)}
		messages[i].OOB = make([]byte, 128)
	}
	pc := ipv4.NewPacketConn(conn)
	go func() {
		for {
			n, err := pc.ReadBatch(messages, 0)
			if err != nil {
				fail(err)
			}
			count := 0
			for i := range messages[:n] {
				m := &messages[i]
				count += packets(m.N, segmentOf(m.OOB[:m.NN]))
			}
			received.Add(uint64(count))
		}
	}()
	return conn.LocalAddr(), nil
}

// segmentOf reads the control message of GRO, the only one there may be.
func segmentOf(oob []byte) int {
	if len(oob) < unix.CmsgLen(2) {
		return 0
	}
	return int(oob[unix.CmsgLen(0)]) | int(oob[unix.CmsgLen(0)+1])<<8
}

func packets(bytes, segment int) int {
	if segment <= 0 {
		return 1
	}
	return (bytes + segment - 1) / segment
}

type sink struct {
	veloq.DatagramHandlerBase
	gro bool
}

func (s sink) OnOpen(_ *veloq.Context, d *veloq.Datagram) {
	if err := d.SetReadBuffer(socketBuffer); err != nil {
		fail(err)
	}
	if s.gro {
		if on, err := d.SetGRO(true); err != nil || !on {
			fail(fmt.Errorf("no GRO: %w", err))
		}
	}
}

func (sink) OnPackets(_ *veloq.Context, _ *veloq.Datagram, ps []veloq.Packet) {
	count := 0
	for i := range ps {
		count += packets(ps[i].Data.Len(), ps[i].SegmentSize)
	}
	received.Add(uint64(count))
}

func veloqServer(gro bool) (net.Addr, error) {
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		return nil, err
	}
	s, err := (&veloq.ListenConfig{}).StartDatagramHandler(context.Background(), rt, "udp4", "127.0.0.1:0", sink{gro: gro})
	if err != nil {
		return nil, err
	}
	return s.Addr(), nil
}

func veloqTask() (net.Addr, error) {
	rt, err := veloq.New(veloq.Config{Workers: 1})
	if err != nil {
		return nil, err
	}
	s, err := (&veloq.ListenConfig{ReadBuffer: socketBuffer}).StartDatagram(context.Background(), rt, "udp4", "127.0.0.1:0",
		func(_ *veloq.Context, d *veloq.Datagram) error {
			ps := make([]veloq.Packet, 64)
			for {
				n, err := d.RecvBatch(ps)
				if err != nil {
					return err
				}
				for i := range ps[:n] {
					ps[i].Release()
				}
				received.Add(uint64(n))
			}
		})
	if err != nil {
		return nil, err
	}
	return s.Addr(), nil
}
