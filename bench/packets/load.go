package main

import (
	"encoding/binary"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// load sends datagrams, 32 sends a call, from a thread of its own.
type load struct {
	conn    *net.UDPConn
	sent    atomic.Uint64
	stopped atomic.Bool
	done    chan struct{}
}

func startLoad(addr string, o *options, rate int) (*load, error) {
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		return nil, err
	}
	l := &load{conn: conn, done: make(chan struct{})}
	go l.run(o, rate)
	return l, nil
}

func (l *load) stop() {
	l.stopped.Store(true)
	<-l.done
	_ = l.conn.Close()
}

func (l *load) run(o *options, rate int) {
	defer close(l.done)
	if o.pin {
		runtime.LockOSThread() // and not unlocked: the thread ends with its CPU
		var set unix.CPUSet
		set.Set(1 % runtime.NumCPU())
		_ = unix.SchedSetaffinity(0, &set)
	}
	const batch = 32
	messages := make([]ipv4.Message, batch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, o.size*o.gso)}
		if o.gso > 1 {
			oob := make([]byte, unix.CmsgSpace(2))
			binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(2)))
			binary.NativeEndian.PutUint32(oob[8:], unix.SOL_UDP)
			binary.NativeEndian.PutUint32(oob[12:], unix.UDP_SEGMENT)
			binary.NativeEndian.PutUint16(oob[16:], uint16(o.size))
			messages[i].OOB = oob
		}
	}
	pc := ipv4.NewPacketConn(l.conn)
	begun := time.Now()
	for !l.stopped.Load() {
		if rate > 0 {
			ahead := time.Duration(float64(l.sent.Load())/float64(rate)*1e9) - time.Since(begun)
			if ahead > 0 {
				time.Sleep(ahead)
			}
		}
		n, err := pc.WriteBatch(messages, 0)
		if err != nil {
			continue // nobody there any more, or no room: not this program's to judge
		}
		l.sent.Add(uint64(n * o.gso))
	}
}
