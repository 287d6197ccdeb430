package veloq

// How the net door's connections move bytes: by their callers' own system calls.

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/veloq/veloq/internal/debugtag"
	"github.com/veloq/veloq/internal/rawio"
)

// directIO is the half of a net-door connection that moves bytes. It lies over package net's object,
// which keeps the descriptor, the deadlines, and Go's netpoller for when a call would wait; where
// there is no rawio, package net moves the bytes too.
//
// The calls are made by two functions that package net calls with the descriptor, under its own lock
// of the direction. They are built once, and get their arguments through fields, so that a call
// allocates nothing; a mutex a direction guards those.
type directIO struct {
	under   net.Conn
	raw     syscall.RawConn
	network string // as package net names it in errors: "tcp4" where LocalAddr().Network() is "tcp"
	packets bool   // no bytes is a packet of none, not the end
	note    debugtag.Note[openNote]

	in struct {
		sync.Mutex
		call   func(fd uintptr) bool
		p      []byte
		n      int
		err    error
		unread []byte // received before the connection was made, delivered first
	}
	out struct {
		sync.Mutex
		call func(fd uintptr) bool
		p    []byte
		n    int
		err  error
	}
	stage   *stagedSend // nil if writes are never staged; does not change
	closing atomic.Bool // closed, but for what is staged
	ending  sync.Mutex  // who has it sends the last of what is staged, and has out
	// deadlines is held while one is set for the user: none is after close or closeWrite.
	deadlines sync.Mutex
	reset     atomic.Bool // close throws away what was not sent
}

func (d *directIO) init(under net.Conn, raw syscall.RawConn, network string) {
	d.under, d.raw, d.network = under, raw, network
	d.in.call = d.receive
	d.out.call = d.send
}

func (d *directIO) read(p []byte) (int, error) {
	if len(p) == 0 {
		return d.under.Read(p) // which only says whether the connection is closed
	}
	r := &d.in
	r.Lock()
	if !rawio.Available && len(r.unread) == 0 {
		r.Unlock()
		return d.under.Read(p)
	}
	r.p = p
	failed := d.raw.Read(r.call)
	n, err := r.n, r.err
	r.p, r.n, r.err = nil, 0, nil
	r.Unlock()
	switch {
	case failed != nil:
		return 0, d.opError("read", d.cause(failed))
	case err != nil:
		return 0, d.opError("read", os.NewSyscallError("read", err))
	case n == 0 && !d.packets:
		return 0, io.EOF
	}
	return n, nil
}

// receive is called with the descriptor, after package net has looked at close and deadline, and
// again whenever there may be something; false is to wait for that.
func (d *directIO) receive(fd uintptr) bool {
	r := &d.in
	if len(r.unread) > 0 {
		r.n = copy(r.p, r.unread)
		r.unread = r.unread[r.n:]
		if len(r.unread) == 0 {
			r.unread = nil
		}
		return true
	}
	var again bool
	r.n, again, r.err = rawio.Recv(fd, r.p)
	return !again
}

// write keeps the bytes of one call together.
func (d *directIO) write(p []byte) (int, error) {
	if len(p) == 0 {
		return d.under.Write(p)
	}
	w := &d.out
	w.Lock()
	defer w.Unlock()
	if c := d.stage; c != nil {
		if c.ends() {
			return 0, d.opError("write", d.whyEnds())
		}
		if c.take(p) {
			return len(p), nil
		}
		if err := d.clear(); err != nil {
			return 0, d.opError("write", err)
		}
	}
	if !rawio.Available {
		return d.under.Write(p)
	}
	n, err := d.sendNow(p)
	if err != nil {
		err = d.opError("write", err)
	}
	return n, err
}

// sendNow sends all of p, with the lock held. The error is what goes into the OpError.
func (d *directIO) sendNow(p []byte) (int, error) {
	w := &d.out
	w.p = p
	failed := d.raw.Write(w.call)
	n, err := w.n, w.err
	w.p, w.n, w.err = nil, 0, nil
	if failed != nil {
		return n, d.whyNot(d.cause(failed))
	}
	if err != nil {
		return n, wrapErrno("write", err)
	}
	return n, nil
}

// cause is what package net's error of a raw call was made of.
func (d *directIO) cause(err error) error {
	oe, ok := err.(*net.OpError) //nolint:errorlint // made for this call, wrapped by nobody
	switch {
	case !ok:
		return err
	case d.closing.Load():
		return net.ErrClosed // its deadline is what woke the call
	}
	return oe.Err
}

// send is receive's counterpart; it is through when everything is sent.
func (d *directIO) send(fd uintptr) bool {
	w := &d.out
	for w.n < len(w.p) {
		n, again, err := rawio.Send(fd, w.p[w.n:])
		w.n += n
		switch {
		case again:
			return false
		case err != nil:
			w.err = err
			return true
		case n == 0:
			w.err = io.ErrUnexpectedEOF
			return true
		}
	}
	return true
}

// copyUnread is Read for as long as there are unread bytes.
func (d *directIO) copyUnread(p []byte) int {
	d.in.Lock()
	defer d.in.Unlock()
	n := copy(p, d.in.unread)
	d.in.unread = d.in.unread[n:]
	return n
}

func (d *directIO) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: d.network, Source: d.under.LocalAddr(), Addr: d.under.RemoteAddr(), Err: err}
}

// renamed turns package net's error of a raw call into that of the method: it differs by Op alone.
func renamed(err error, op string) error {
	if oe, ok := err.(*net.OpError); ok { //nolint:errorlint // made for this call, wrapped by nobody
		oe.Op = op
	}
	return err
}

func wrapErrno(call string, err error) error {
	if errno, ok := err.(syscall.Errno); ok { //nolint:errorlint // as package os does
		return os.NewSyscallError(call, errno)
	}
	return err
}

// rawConn is package net's raw connection; who writes by it goes around what is staged.
type rawConn struct{ d *directIO }

// Control implements syscall.RawConn.
func (c rawConn) Control(f func(fd uintptr)) error { return c.d.raw.Control(f) }

// Read implements syscall.RawConn.
func (c rawConn) Read(f func(fd uintptr) bool) error { return c.d.whyOver(c.d.raw.Read(f)) }

// Write implements syscall.RawConn.
func (c rawConn) Write(f func(fd uintptr) bool) error {
	err := c.d.bypass()
	defer c.d.resume()
	if err != nil {
		return c.d.opError("raw-write", err)
	}
	return c.d.raw.Write(f)
}
