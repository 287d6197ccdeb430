package veloq

// Bytes that need not come one buffer at a time, or into the program at all: sendfile, splice, and
// gathered writes.

import (
	"io"
	"math"
	"net"
	"os"
	"syscall"
)

// tcpReader is a TCPConn without WriteTo, so that io.Copy asks the destination's ReadFrom.
type tcpReader struct{ c *TCPConn }

func (r tcpReader) Read(p []byte) (int, error) { return r.c.Read(p) }

// ReadFrom implements io.ReaderFrom: it sends what r yields until its end, where the system can
// without taking it into the program: files by sendfile(2); stream connections, this package's or
// package net's, by splice(2); either also below an io.LimitedReader. It returns how many bytes it
// sent. Any goroutine. Blocks.
func (c *TCPConn) ReadFrom(r io.Reader) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	limited, _ := r.(*io.LimitedReader)
	src, limit := r, int64(math.MaxInt64)
	if limited != nil {
		if limited.N <= 0 {
			return 0, nil
		}
		src, limit = limited.R, limited.N
	}
	below, unread := readerBelow(src)
	if below == nil {
		// io.Copy's own loop, over this connection's Write alone.
		n, err := io.Copy(struct{ io.Writer }{c}, r)
		if err != nil {
			err = c.d.opError("readfrom", err)
		}
		return n, err
	}
	var sent int64
	if unread != nil {
		var err error
		if sent, err = unread.sendUnread(c, limit); err != nil {
			err = c.d.opError("readfrom", err)
		}
		if limited != nil {
			limited.N -= sent
		}
		if err != nil || sent == limit {
			return sent, err
		}
	}
	if limited != nil {
		rest := &io.LimitedReader{R: below, N: limited.N}
		defer func() { limited.N = rest.N }()
		below = rest
	}
	err := c.d.bypass()
	defer c.d.resume()
	if err != nil {
		return sent, c.d.opError("readfrom", err)
	}
	n, err := c.tcp.ReadFrom(below)
	if unread != nil {
		err = unread.whyOver(err)
	}
	return sent + n, err
}

// readerBelow returns what package net's ReadFrom knows how to take without copying, and where bytes
// are unread above it; nil, nil if r is nothing of that kind.
func readerBelow(r io.Reader) (below io.Reader, unread *directIO) {
	switch v := r.(type) {
	case *TCPConn:
		if v.ok() {
			return v.tcp, &v.d
		}
	case tcpReader:
		return v.c.tcp, &v.c.d
	case *UnixConn:
		if v.ok() && v.d.network == "unix" {
			return v.unix, &v.d
		}
	case syscall.Conn: // a file, or a connection of package net
		return r, nil
	}
	return nil, nil
}

// WriteTo implements io.WriterTo: it writes what it receives to w until the peer's end, and returns how
// many bytes that was. To stream connections and files it goes as in ReadFrom. Any goroutine. Blocks.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	below := w
	switch dst := w.(type) {
	case *UnixConn:
		if !dst.ok() || dst.d.network != "unix" {
			below = nil
			break
		}
		err := dst.d.bypass()
		defer dst.d.resume()
		if err != nil {
			return 0, c.d.opError("writeto", err)
		}
		below = dst.unix
	case *net.UnixConn, *net.TCPConn, *os.File:
	default:
		below = nil
	}
	if below == nil {
		n, err := io.Copy(w, tcpReader{c})
		if err != nil {
			err = c.d.opError("writeto", err)
		}
		return n, err
	}
	sent, err := c.d.sendUnread(w, math.MaxInt64)
	if err != nil {
		return sent, c.d.opError("writeto", err)
	}
	n, err := c.tcp.WriteTo(below)
	return sent + n, c.d.whyOver(err)
}

// WriteBuffers sends the buffers of v as if they were one, by writev(2), and takes from v what it sent.
// It is what net.Buffers.WriteTo does on package net's types; on others that makes one Write of each
// buffer. The bytes of one call are not mixed with those of another. Any goroutine. Blocks.
func (c *TCPConn) WriteBuffers(v *net.Buffers) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.writeBuffers(c.tcp, v)
}

// WriteBuffers sends the buffers of v as if they were one, as TCPConn's does. Any goroutine. Blocks.
func (c *UnixConn) WriteBuffers(v *net.Buffers) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	return c.d.writeBuffers(c.unix, v)
}

func (d *directIO) writeBuffers(below net.Conn, v *net.Buffers) (int64, error) {
	err := d.bypass()
	defer d.resume()
	if err != nil {
		return 0, d.opError("writev", err)
	}
	return v.WriteTo(below)
}

// sendUnread writes what Read would deliver first to w, limit bytes of it at most.
func (d *directIO) sendUnread(w io.Writer, limit int64) (int64, error) {
	d.in.Lock()
	defer d.in.Unlock()
	p := d.in.unread
	p = p[:min(int64(len(p)), limit)]
	if len(p) == 0 {
		return 0, nil
	}
	n, err := w.Write(p)
	d.in.unread = d.in.unread[n:]
	return int64(n), err
}
