package veloq

// How a connection changes doors: from a worker to any goroutine, and back.

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/veloq/veloq/internal/core"
)

// Detach takes the stream off its worker and returns it as a connection of the net door, for any
// goroutine: with the bytes that had arrived and were not read, after all that was written has gone
// out, for which the task waits. Deadlines don't go along, and the write deadline bounds the wait.
// A later Attach brings it back.
//
// The stream is closed then, and what it returns is the caller's to close. A handler's stream can be
// detached by a task that the handler spawns: OnClose is called with nil. After an error the stream
// is what it was. ErrBusy: another task reads or writes. errors.ErrUnsupported on Windows, where a
// socket belongs to one completion port for good. Worker only, in a task. Blocks.
func (s *Stream) Detach() (net.Conn, error) {
	if err := s.startRead(); err != nil {
		return nil, renamed(err, "detach")
	}
	t := s.w.running
	r := &s.recv
	switch {
	case !core.SharesSockets:
		return nil, s.opError("detach", errors.ErrUnsupported)
	case t == nil:
		return nil, s.opError("detach", ErrNotTask)
	case r.reader != nil || s.send.writer != nil:
		return nil, s.opError("detach", ErrBusy)
	}
	if err := s.lockWriter(t); err != nil {
		return nil, renamed(err, "detach")
	}
	paused := s.paused
	s.paused = true
	s.stopRecv()
	r.reader, t.readInto = t, nil
	err := s.quiesce(t)
	r.reader = nil
	var conn net.Conn
	if err == nil {
		conn, err = s.moveOut()
	}
	s.unlockWriter()
	if err != nil {
		s.paused = paused
		if !s.closed {
			s.armRecv()
		}
		return nil, renamed(err, "detach")
	}
	s.close(nil)
	return conn, nil
}

// quiesce waits until nothing of the stream is in flight, and nothing waits to be sent, FIN neither.
func (s *Stream) quiesce(t *task) error {
	for s.inFlight > 0 || s.pending() > 0 || s.unconfirmed() || (s.send.out != nil && s.send.out.busy) ||
		(s.shutWanted && !s.shutSent) {
		if err := s.parkWriter(t); err != nil {
			return err
		}
	}
	if err := s.recv.err; err != nil && err != io.EOF { //nolint:errorlint // io.EOF comes bare
		return err // whoever reads the socket next would not see it
	}
	return nil
}

// moveOut makes the net door's connection. Nothing is in flight.
func (s *Stream) moveOut() (net.Conn, error) {
	kept := s.keepOptions()
	fd, err := core.DupSocket(s.fd)
	if err != nil {
		return nil, s.opError("detach", os.NewSyscallError("fcntl", sysErr(err)))
	}
	f := os.NewFile(uintptr(fd), "")
	under, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return nil, err
	}
	kept.restore(s.fd)
	unread := make([]byte, 0, s.recv.bytes)
	for s.recv.bytes > 0 {
		l := s.recv.pop()
		unread = append(unread, l.Bytes()...)
		l.Release()
	}
	return connOver(under, s.network.String(), unread, s.w.rt.stager), nil
}

// keptOptions are the options that package net sets on every connection it makes.
type keptOptions [5]int32

var keptNames = [5]int32{
	core.OptNoDelay, core.OptKeepAlive, core.OptKeepIdleS, core.OptKeepIntervalS, core.OptKeepCount,
}

func (s *Stream) keepOptions() *keptOptions {
	var kept keptOptions
	for i, name := range keptNames {
		kept[i], _ = core.GetOption(s.fd, name)
	}
	return &kept
}

func (k *keptOptions) restore(fd int32) {
	for i, name := range keptNames {
		if now, err := core.GetOption(fd, name); err == nil && now != k[i] {
			_ = core.SetOption(fd, name, k[i])
		}
	}
}

// Attach brings a connection to the task's worker: a *TCPConn or *UnixConn of the net door, or one of
// package net. What was written to it goes out before; bytes that it had buffered come first, then
// unread: what the caller took from it and has not used, such as the rest of a bufio.Reader. Deadlines
// don't go along.
//
// conn is closed, as by its Close. ErrBusy: a goroutine reads from it. The
// stream is the caller's to close. After an error conn is what it was. errors.ErrUnsupported for
// other types, and on Windows. Worker only, in a task. Blocks.
func Attach(c *Context, conn net.Conn, unread ...[]byte) (*Stream, error) {
	if _, err := c.task(); err != nil {
		return nil, opError("attach", "", nil, netError(err))
	}
	under, network, d := connBelow(conn)
	if under == nil || !core.SharesSockets {
		return nil, opError("attach", "", nil, errors.ErrUnsupported)
	}
	if d != nil && d.stage != nil {
		if err := d.bypassBy(c); err != nil {
			return nil, d.opError("attach", err)
		}
	}
	var first []byte
	if d != nil {
		if !d.in.TryLock() {
			d.resume()
			return nil, d.opError("attach", ErrBusy)
		}
		first = d.in.unread
		d.in.Unlock()
	}
	fd, err := dupConn(under)
	if err != nil {
		if d != nil {
			d.resume()
		}
		return nil, renamed(err, "attach")
	}
	s := c.w.newStream(fd, network)
	s.keepCopy(first)
	for _, p := range unread {
		s.keepCopy(p)
	}
	_ = conn.Close()
	s.armRecv()
	return s, nil
}

// keepCopy is keep for bytes that came another way.
func (s *Stream) keepCopy(p []byte) {
	if len(p) > 0 {
		s.keep(Lease{heap: append([]byte(nil), p...)})
	}
}

// dupConn returns a descriptor of its own for conn's socket.
func dupConn(conn syscall.Conn) (int32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := int32(-1)
	var failed error
	if err := raw.Control(func(below uintptr) { fd, failed = core.DupSocket(int32(below)) }); err != nil {
		return -1, err
	}
	if failed != nil {
		return -1, opError("attach", "", nil, os.NewSyscallError("fcntl", sysErr(failed)))
	}
	return fd, nil
}

// connBelow returns package net's connection of conn, its network's name as errors have it, and what
// lies over it in the net door; nil if conn is nothing that a worker can have.
func connBelow(conn net.Conn) (below syscall.Conn, network string, d *directIO) {
	switch c := conn.(type) {
	case *TCPConn:
		if c.ok() {
			return c.tcp, c.d.network, &c.d
		}
	case *UnixConn:
		if c.ok() && c.d.network == networkUnix {
			return c.unix, networkUnix, &c.d
		}
	case *net.TCPConn:
		if c != nil {
			return c, "tcp", nil
		}
	case *net.UnixConn:
		if c != nil && c.LocalAddr().Network() == networkUnix {
			return c, networkUnix, nil
		}
	}
	return nil, "", nil
}

// bypassBy is bypass for a task.
func (d *directIO) bypassBy(c *Context) error {
	d.stage.bypass(1)
	if d.stage.idle() && !d.stage.lost() && !d.stage.ends() {
		return nil
	}
	_, err := offload(c, func(context.Context) (struct{}, error) {
		err := d.flush()
		if err == nil {
			d.endPassed() // a FIN that is due goes by this descriptor
		}
		return struct{}{}, err
	})
	if err != nil {
		d.stage.bypass(-1)
	}
	return err
}
