package veloq

// What UDPConn leaves to package net's socket.

import (
	"net"
	"os"
	"syscall"
	"time"
)

// Close closes the socket: calls that wait return net.ErrClosed. Any goroutine.
func (c *UDPConn) Close() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	noteOver(c.note)
	return c.netUDPConn.Close()
}

// File returns a copy of the descriptor, which the caller closes; neither close touches the other. Any goroutine.
func (c *UDPConn) File() (*os.File, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	return c.netUDPConn.File()
}

// SetDeadline implements net.Conn. Any goroutine.
func (c *UDPConn) SetDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.netUDPConn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn. Any goroutine.
func (c *UDPConn) SetReadDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.netUDPConn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn. Any goroutine.
func (c *UDPConn) SetWriteDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.netUDPConn.SetWriteDeadline(t)
}

// SetReadBuffer sets the size of the socket's receive buffer: SO_RCVBUF, socket(7). Any goroutine.
func (c *UDPConn) SetReadBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.netUDPConn.SetReadBuffer(bytes)
}

// SetWriteBuffer sets the size of the socket's send buffer: SO_SNDBUF, socket(7). Any goroutine.
func (c *UDPConn) SetWriteBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.netUDPConn.SetWriteBuffer(bytes)
}

// SyscallConn implements syscall.Conn. Any goroutine.
func (c *UDPConn) SyscallConn() (syscall.RawConn, error) {
	if !c.ok() {
		return nil, syscall.EINVAL
	}
	noteOver(c.note)
	return c.netUDPConn.SyscallConn()
}

// LocalAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *UDPConn) LocalAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.netUDPConn.LocalAddr()
}

// RemoteAddr implements net.Conn. The caller must not change what it returns. Any goroutine.
func (c *UDPConn) RemoteAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.netUDPConn.RemoteAddr()
}
