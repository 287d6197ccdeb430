package rudp

// What TestChaos does with one end of a stream, and what it holds against what came.

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/veloq/veloq"
)

// chaosSide is one end of a stream.
type chaosSide struct {
	x        *chaos
	s        *Stream
	id       uint64
	client   bool
	proper   bool // reads to the end and writes all
	sent     atomic.Int64
	tried    atomic.Int64 // written, or said not to be
	ended    atomic.Bool  // CloseWrite, Close or Reset was called
	closed   atomic.Bool  // Close or Reset was called
	timed    atomic.Bool  // a deadline was set
	got      int64
	first    [8]byte // of what was received
	readErr  error
	finished atomic.Bool
}

// amount draws a number of bytes, over all orders of magnitude.
func amount(r *rand.Rand) int { return 1 + r.IntN(1<<r.IntN(21)) }

// allowed are those that what has happened to the stream allows.
func (a *chaosSide) allowed(list ...error) []error {
	if a.closed.Load() {
		list = append(list, net.ErrClosed)
	}
	if a.timed.Load() {
		list = append(list, os.ErrDeadlineExceeded)
	}
	return list
}

// drive uses a stream until it is closed.
func (x *chaos) drive(s *Stream, client bool, r *rand.Rand) {
	a := &chaosSide{x: x, s: s, client: client, proper: r.IntN(2) == 0, id: r.Uint64()}
	if client {
		x.link(a.id, a)
	}
	plan := 0
	for range r.IntN(4) {
		plan += amount(r)
	}
	var done atomic.Int32
	end := func() {
		if done.Add(1) == 2 {
			a.close(func() { _ = s.Close() })
			a.finished.Store(true)
		}
	}
	x.run(func(r *rand.Rand) { a.read(r); end() })
	x.run(func(r *rand.Rand) { a.write(r, plan); end() })
	for range r.IntN(3) {
		x.run(a.meddle)
	}
}

func (x *chaos) link(id uint64, a *chaosSide) {
	x.mu.Lock()
	defer x.mu.Unlock()
	l := x.links[id]
	if l == nil {
		l = new([2]*chaosSide)
		x.links[id] = l
	}
	if a.client {
		l[0] = a
	} else {
		l[1] = a
	}
}

// close calls how, which ends the stream.
func (a *chaosSide) close(how func()) {
	a.ended.Store(true)
	a.closed.Store(true)
	how()
}

// tell logs the state of one that has not come to its end.
func (a *chaosSide) tell() {
	if a != nil && !a.finished.Load() {
		a.x.t.Logf("client %v, proper %v, sent %d, ended %v, got %d, closed %v, timed %v, %+v", a.client,
			a.proper, a.sent.Load(), a.ended.Load(), a.got, a.closed.Load(), a.timed.Load(), a.s.Stats())
	}
}

// take holds received bytes against the pattern.
func (a *chaosSide) take(p []byte) {
	for !a.client && a.got < 8 && len(p) > 0 {
		a.first[a.got] = p[0]
		a.got++
		if p = p[1:]; a.got == 8 {
			a.x.link(binary.LittleEndian.Uint64(a.first[:]), a)
		}
	}
	for len(p) > 0 {
		n := min(len(p), 1<<20)
		if !bytes.Equal(p[:n], chaosAt(a.got, n)) {
			a.x.t.Errorf("wrong bytes at %d to %d", a.got, a.got+int64(n))
		}
		a.got += int64(n)
		p = p[n:]
	}
}

func (a *chaosSide) read(r *rand.Rand) {
	buf := make([]byte, 64<<10)
	var held []Lease
	release := func(n int) {
		for ; len(held) > n; held = held[1:] {
			if l := held[0]; r.IntN(2) == 0 {
				a.x.run(func(*rand.Rand) { l.Release() })
			} else {
				l.Release()
				l.Release()
			}
		}
	}
	defer func() { release(0) }()
	since := int64(0)
	for {
		if a.got-since > 8<<10 { // who keeps a lease stops the peer
			release(0)
			since = a.got
		}
		if !a.proper && r.IntN(200) == 0 {
			a.close(func() { _ = a.s.Close() })
			return
		}
		var err error
		if r.IntN(2) == 0 {
			release(1 + r.IntN(3))
			var l Lease
			if l, err = a.s.ReadLease(1 + r.IntN(2<<10)); err == nil {
				a.take(l.Bytes())
				held = append(held, l)
			}
		} else {
			var n int
			n, err = a.s.Read(buf[:1+r.IntN(1<<r.IntN(17))])
			if n > 4<<10 {
				release(0)
			}
			a.take(buf[:n])
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && a.timed.Load():
			_ = a.s.SetReadDeadline(chaosDeadline(r))
		default:
			a.readErr = err
			a.x.check("read", err, a.allowed(io.EOF, syscall.ECONNRESET)...)
			if err != io.EOF {
				a.close(func() { _ = a.s.Close() })
			}
			return
		}
		if r.IntN(50) == 0 {
			pause(r, 5*time.Millisecond)
		}
	}
}

// chaosDeadline is past, soon or never.
func chaosDeadline(r *rand.Rand) time.Time {
	if r.IntN(2) == 0 {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(r.IntN(10)-1) * time.Millisecond)
}

func (a *chaosSide) write(r *rand.Rand, plan int) {
	var err error
	if a.client {
		err = a.put(r, binary.LittleEndian.AppendUint64(nil, a.id))
	}
	for left := plan; left > 0 && err == nil; {
		n := min(left, amount(r))
		err = a.put(r, chaosAt(a.sent.Load(), n))
		left -= n
		if r.IntN(10) == 0 {
			pause(r, 5*time.Millisecond)
		}
	}
	if err == nil && r.IntN(8) == 0 {
		err = a.putLease(r)
	}
	switch {
	case err != nil:
	case a.proper || r.IntN(2) == 0:
		a.ended.Store(true)
		if err = a.s.CloseWrite(); err != nil {
			a.x.check("close", err, a.allowed(syscall.EPIPE)...)
		}
	default: // or both sides may wait for the other's end
		a.close(func() { _ = a.s.Close() })
	}
}

// put writes p, through deadlines.
func (a *chaosSide) put(r *rand.Rand, p []byte) error {
	for len(p) > 0 {
		var n int
		var err error
		a.tried.Store(a.sent.Load() + int64(len(p)))
		switch r.IntN(4) {
		case 0:
			n, err = a.x.loans.lend(a.s, p)
		case 1:
			var m int64
			m, err = a.s.ReadFrom(bytes.NewReader(p[:min(len(p), copySize)]))
			n = int(m)
			if err == nil && n < min(len(p), copySize) {
				a.x.t.Errorf("%d of %d read from, without an error", n, len(p))
			}
		default:
			if n, err = a.s.Write(p); err == nil && n < len(p) {
				a.x.t.Errorf("%d of %d written without an error", n, len(p))
			}
		}
		a.sent.Add(int64(n))
		p = p[n:]
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && a.timed.Load():
			_ = a.s.SetWriteDeadline(chaosDeadline(r))
		default:
			a.x.check("write", err, a.allowed(syscall.EPIPE)...)
			return err
		}
	}
	return nil
}

// chaosLease is a part of the pattern that a worker has received over TCP.
type chaosLease struct {
	veloq.Lease
	off int64
}

// putLease writes one, after what comes before it in the pattern.
func (a *chaosSide) putLease(r *rand.Rand) error {
	select {
	case l := <-a.x.leases:
		sent := a.sent.Load()
		if err := a.put(r, chaosAt(sent, int((l.off-sent)%chaosPeriod+chaosPeriod)%chaosPeriod)); err != nil {
			l.Release()
			return err
		}
		a.tried.Store(a.sent.Load() + int64(l.Len()))
		n, err := a.s.WriteLease(l.Lease)
		a.sent.Add(int64(n))
		if err != nil {
			a.x.check("write", err, a.allowed(syscall.EPIPE)...)
		}
		return err
	default:
		return nil
	}
}

// meddle does what others may do meanwhile.
func (a *chaosSide) meddle(r *rand.Rand) {
	for range r.IntN(6) {
		pause(r, 20*time.Millisecond)
		switch r.IntN(6) {
		case 0, 1:
			a.timed.Store(true)
			set := []func(time.Time) error{a.s.SetDeadline, a.s.SetReadDeadline, a.s.SetWriteDeadline}[r.IntN(3)]
			if err := set(chaosDeadline(r)); err != nil {
				a.x.check("set", err, a.allowed()...)
			}
		case 2:
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(10))*time.Millisecond)
			if err := a.s.Drain(ctx); err != nil {
				a.x.check("drain", err, a.allowed(context.DeadlineExceeded, syscall.EPIPE, net.ErrClosed)...)
			}
			cancel()
		case 3:
			if a.x.real {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.IntN(20))*time.Millisecond)
				if err := a.s.Migrate(ctx, netip.AddrPort{}); err != nil {
					a.x.check("migrate", err, context.DeadlineExceeded, ErrNotMigratable, ErrReplaced, ErrPathFailed,
						net.ErrClosed, syscall.ECONNRESET, io.EOF)
				}
				cancel()
			}
		case 4:
			_, _, _ = a.s.Stats(), a.s.RemoteAddr().String(), a.s.LocalAddr().String()
		case 5:
			if a.proper {
				continue
			}
			switch r.IntN(3) {
			case 0:
				a.close(func() { _ = a.s.Close() })
			case 1:
				a.close(func() { _ = a.s.Reset(r.Uint64N(1 << 62)) })
			default:
				a.ended.Store(true)
				_ = a.s.CloseWrite()
			}
		}
	}
}
