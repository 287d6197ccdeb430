package tests

// What TestStream_Chaos has tasks do with a stream.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/veloq/veloq"
)

// session is a stream that a scope of tasks uses.
type session struct {
	k   *streamChaos
	r   *rand.Rand
	s   *veloq.Stream
	in  *flow
	out *flow
	// moves: between doors; over: the scope's body is.
	moves, over bool
}

// serve uses a stream until something ends that, at the latest what end does.
func (k *streamChaos) serve(c *veloq.Context, s *veloq.Stream) error {
	r := k.rand()
	u := &session{k: k, r: r, s: s, in: &flow{}, out: newFlow(byte(r.Uint32()))}
	if r.IntN(2) == 0 {
		_ = s.SetWriteBuffer(4 << 10)
	}
	use := func(c *veloq.Context) error { return veloq.Scope(c, u.use) }
	if r.IntN(3) == 0 {
		return veloq.Timeout(c, moment(r, 30*time.Millisecond), use)
	}
	return use(c)
}

func (u *session) use(sc *veloq.TaskScope) error {
	if u.r.IntN(2) == 0 {
		if err := sc.Own(u.s); err != nil {
			return err
		}
	}
	kind := u.r.IntN(6)
	do := []func(*veloq.Context){u.read, u.write}
	switch {
	case kind == 0:
		do = []func(*veloq.Context){u.echo}
	case kind == 1:
		u.moves = true
		do = []func(*veloq.Context){u.changeDoors}
	case u.out.all != nil:
		do = append(do, u.write, u.write)
	}
	if kind > 1 {
		if _, err := u.s.Write([]byte{u.out.id}); err != nil {
			return err
		}
	}
	for _, fn := range do {
		if err := sc.Go(func(c *veloq.Context) error { fn(c); return nil }); err != nil {
			return err
		}
	}
	return u.end(sc)
}

// end is the scope's body: it sees to it that the others end.
func (u *session) end(sc *veloq.TaskScope) error {
	defer func() { u.over = true }()
	c := sc.Context()
	if err := c.Sleep(moment(u.r, 40*time.Millisecond)); err != nil {
		return err
	}
	switch u.r.IntN(8) {
	case 0:
		return io.ErrNoProgress
	case 1:
		return sc.Cancel()
	case 2:
		_ = u.s.SetDeadline(time.Now().Add(moment(u.r, 10*time.Millisecond) - time.Millisecond))
	case 3:
		if !u.moves { // what it drops would be a gap, behind which the other door reads on
			_ = u.s.CloseRead()
		}
		_ = u.s.CloseWrite()
	case 4:
		_ = u.s.SetLinger(0)
		return u.s.Close()
	case 5:
		_ = u.s.CloseWrite()
	default:
		return u.s.Close()
	}
	if err := c.Sleep(moment(u.r, 20*time.Millisecond)); err != nil {
		return err
	}
	if u.r.IntN(2) == 0 {
		return sc.Cancel()
	}
	return u.s.Close()
}

// goesOn says whether to try again after an error: sometimes, where a deadline has passed.
func (u *session) goesOn(err error, set func(time.Time) error) bool {
	var timeout *veloq.TimeoutError
	if err == nil {
		return true
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) || u.r.IntN(3) == 0 {
		return false
	}
	return set(time.Time{}) == nil
}

func (u *session) deadline() time.Time {
	return time.Now().Add(moment(u.r, 10*time.Millisecond) - time.Duration(u.r.IntN(2))*time.Millisecond)
}

func (u *session) read(c *veloq.Context) {
	r, s := u.r, u.s
	buf := make([]byte, 1<<17)
	for range 200 {
		var got []byte
		var err error
		n := size(r, len(buf))
		op := r.IntN(12)
		switch op {
		case 0, 1:
			n, err = s.Read(buf[:n])
			got = buf[:n]
		case 2:
			n, err = s.ReadFull(buf[:n])
			got = buf[:n]
		case 3:
			if got, err = s.Next(n); err != nil {
				got = nil
			}
		case 4:
			got, err = s.Peek(n)
			if len(got) > 0 && u.in.p != nil {
				seen := flow{id: u.in.id, all: u.in.all, p: &pattern{block: u.in.p.block, at: u.in.p.at}}
				_ = u.k.report("Peek", seen.check(got))
			}
			got = nil
		case 5:
			if u.in.p == nil {
				continue
			}
			n, err = s.Skip(n)
			u.in.sent(n)
		case 6, 7:
			var l veloq.Lease
			if l, err = s.ReadLease(); err == nil {
				_ = u.k.report("lease", u.in.check(l.Bytes()))
				if r.IntN(4) == 0 {
					u.k.hold(l, moment(r, 5*time.Millisecond))
				} else {
					_ = c.Yield()
					l.Release()
				}
			}
		case 8:
			_ = s.PauseRead()
			_ = c.Sleep(moment(r, 3*time.Millisecond))
			err = s.ResumeRead()
		case 9:
			err = s.SetReadDeadline(u.deadline())
		case 10:
			err = c.Sleep(moment(r, 2*time.Millisecond))
		case 11:
			if r.IntN(20) == 0 {
				err = s.CloseRead()
			}
		}
		if errors.Is(err, veloq.ErrTooLong) {
			err = nil // more than ReadLimit
		}
		if u.k.report(fmt.Sprint("read ", op), u.in.check(got)) != nil || !u.goesOn(err, s.SetReadDeadline) {
			return
		}
	}
}

func (u *session) write(c *veloq.Context) {
	r, s, out := u.r, u.s, u.out
	for range 100 {
		var n int
		var err error
		p := out.next(size(r, 1_000_000))
		switch r.IntN(9) {
		case 0, 1, 2:
			n, err = s.Write(p)
		case 3:
			var all int64
			a, b := r.IntN(len(p)+1), r.IntN(len(p)+1)
			all, err = s.Writev([][]byte{p[:min(a, b)], p[min(a, b):max(a, b)], p[max(a, b):]})
			n = int(all)
		case 4:
			if n, err = s.TryWrite(p); errors.Is(err, veloq.ErrFull) {
				err = nil
			}
		case 5:
			if !u.reserve(c) {
				return
			}
			continue
		case 6:
			if out.all == nil {
				var all int64
				all, err = s.SendFile(u.k.file, int64(out.p.at), int64(len(p)))
				n = int(all)
			}
		case 7:
			err = s.SetWriteDeadline(u.deadline())
		case 8:
			err = c.Sleep(moment(r, 2*time.Millisecond))
			if r.IntN(30) == 0 {
				_ = s.CloseWrite()
			}
		}
		out.sent(n)
		if !u.goesOn(err, s.SetWriteDeadline) {
			return
		}
	}
}

// reserve fills what Malloc gives, and has it sent.
func (u *session) reserve(c *veloq.Context) bool {
	for range 1 + u.r.IntN(3) {
		p, err := u.s.Malloc(size(u.r, 32<<10))
		if err != nil {
			break
		}
		copy(p, u.out.next(len(p)))
		u.out.sent(len(p))
	}
	for {
		err := u.s.Flush()
		if err == nil {
			return true
		}
		if errors.Is(err, veloq.ErrBusy) {
			err = c.Sleep(time.Millisecond)
		}
		if !u.goesOn(err, u.s.SetWriteDeadline) {
			return false
		}
	}
}

func (u *session) echo(c *veloq.Context) {
	s := u.s
	buf := make([]byte, 1<<17)
	for {
		n, err := 0, error(nil)
		var l veloq.Lease
		switch u.r.IntN(6) {
		case 0:
			if n, err = s.Read(buf[:size(u.r, len(buf))]); err == nil {
				_, err = s.Write(buf[:n])
			}
		case 1:
			var p []byte
			if p, err = s.Next(size(u.r, 2000)); err == nil {
				_, err = s.Write(p)
			}
		case 2, 3:
			if l, err = s.ReadLease(); err == nil {
				_, err = s.WriteLease(l)
			}
		case 4:
			if l, err = s.ReadLease(); err == nil {
				part, second := u.r.IntN(l.Len()+1), l.Retain()
				if _, err = s.WriteLease(l.Slice(0, part)); err != nil {
					second.Release()
				} else {
					_, err = s.WriteLease(second.Slice(part, second.Len()))
				}
			}
		case 5:
			if u.r.IntN(10) == 0 {
				_, err = s.ReadFrom(s)
			}
		}
		if errors.Is(err, veloq.ErrTooLong) {
			err = nil
		}
		if err == nil {
			err = c.Yield()
		}
		if err != nil {
			return
		}
	}
}

// changeDoors reads on a worker, on a goroutine, and on a worker again.
func (u *session) changeDoors(c *veloq.Context) {
	defer func() { _ = u.s.Close() }() // what was attached is nobody's else
	buf := make([]byte, 1<<14)
	for {
		n, err := u.s.Read(buf)
		if u.k.report("doors worker", u.in.check(buf[:n])) != nil || err != nil {
			return
		}
		if u.r.IntN(4) == 0 {
			_ = u.s.CloseWrite()
		}
		conn, err := u.s.Detach()
		if err != nil {
			return
		}
		_, _ = veloq.SpawnBlocking(c, func(context.Context) (int, error) {
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
			n, err := conn.Read(buf)
			_ = u.k.report("doors conn", u.in.check(buf[:n]))
			return n, err
		}).Join(c)
		if !u.attach(c, conn) {
			return
		}
	}
}

func (u *session) attach(c *veloq.Context, conn net.Conn) bool {
	s, err := veloq.Attach(c, conn)
	if err != nil {
		_ = conn.Close()
		return false
	}
	u.s = s
	if u.over || u.r.IntN(4) == 0 {
		_ = s.Close()
	}
	return true
}
