package veloq

// How the net door's connections move bytes: by their callers' own system calls.

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"

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
	stage struct {
		sync.Mutex        // held while stage is called, never while anything waits
		by         stager // nil if writes are never staged; does not change
		bypassed   int    // nothing is staged while it is not 0
	}
}

// A stager takes small writes, to send those of many connections together. What it took is sent
// before anything else of the connection: everything here that sends otherwise, or lets others do so,
// calls flush first.
type stager interface {
	// stage takes all of p, by copying it, or nothing: then it is sent at once, after a flush. The
	// error is one that earlier bytes met, or that the write's deadline has passed. Called by one
	// goroutine at a time.
	stage(p []byte) (taken bool, err error)
	// flush returns when everything taken is with the kernel, or never will be: then with the error,
	// once. Any goroutine. Blocks.
	flush() error
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
		return 0, renamed(failed, "read")
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
	switch taken, err := d.staged(p); {
	case err != nil:
		return 0, d.opError("write", err)
	case taken:
		return len(p), nil
	}
	if !rawio.Available {
		return d.under.Write(p)
	}
	w.p = p
	failed := d.raw.Write(w.call)
	n, err := w.n, w.err
	w.p, w.n, w.err = nil, 0, nil
	switch {
	case failed != nil:
		return n, renamed(failed, "write")
	case err != nil:
		return n, d.opError("write", wrapErrno("write", err))
	}
	return n, nil
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

// flush sends what is staged.
func (d *directIO) flush() error {
	if d.stage.by == nil {
		return nil
	}
	return d.stage.by.flush()
}

// bypass is flush for when others will send by means that are not seen here: nothing is staged until
// resume, or if that never comes, any more.
func (d *directIO) bypass() error {
	if d.stage.by == nil {
		return nil
	}
	d.stage.Lock()
	d.stage.bypassed++
	d.stage.Unlock()
	return d.stage.by.flush()
}

func (d *directIO) resume() {
	if d.stage.by == nil {
		return
	}
	d.stage.Lock()
	d.stage.bypassed--
	d.stage.Unlock()
}

// staged gives p to the stager, if there is one and it takes it. If not, what it has is sent first.
func (d *directIO) staged(p []byte) (bool, error) {
	if d.stage.by == nil {
		return false, nil
	}
	taken := false
	var err error
	d.stage.Lock()
	if d.stage.bypassed == 0 {
		taken, err = d.stage.by.stage(p)
	}
	d.stage.Unlock()
	if err == nil && !taken {
		err = d.stage.by.flush()
	}
	return taken, err
}

// copyUnread is Read for as long as there are unread bytes.
func (d *directIO) copyUnread(p []byte) int {
	d.in.Lock()
	defer d.in.Unlock()
	n := copy(p, d.in.unread)
	d.in.unread = d.in.unread[n:]
	return n
}

func (d *directIO) close() error {
	flushed := d.flush()
	if err := d.under.Close(); err != nil {
		return err
	}
	if flushed != nil {
		return d.opError("close", flushed)
	}
	return nil
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
func (c rawConn) Read(f func(fd uintptr) bool) error { return c.d.raw.Read(f) }

// Write implements syscall.RawConn.
func (c rawConn) Write(f func(fd uintptr) bool) error {
	err := c.d.bypass()
	defer c.d.resume()
	if err != nil {
		return c.d.opError("raw-write", err)
	}
	return c.d.raw.Write(f)
}
