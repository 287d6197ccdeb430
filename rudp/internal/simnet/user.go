package simnet

// This file changes if what the users of connections do, or what they check, does.

import (
	"errors"
	"io"
	"math/rand/v2"

	"github.com/veloq/veloq/rudp/internal/core"
	"github.com/veloq/veloq/rudp/internal/mono"
)

// User is one side's user of a connection: it writes a known stream of bytes and holds what it reads
// against what the other side writes.
type User struct {
	Conn *core.Conn
	Peer *User // nil until known
	host *Host

	ToWrite    int  // bytes in all
	Chunk      int  // bytes a write
	ReadChunk  int  // bytes a read; 0: doesn't read
	HalfClose  bool // CloseWrite once everything is written
	CloseAtEOF bool // Close once EOF was read and everything is written
	Echo       bool // writes what it read, in place of its own stream

	Written, Received int
	Ended             bool // CloseWrite or Close was called
	EOF               bool
	ReadErr, WriteErr error
	Closed            bool // EventClosed came
	Connected         bool
	Migrated          int
	DoneAt            mono.Time // when EOF came
	salt              byte
	gaveUp            bool
	buf               []byte
	onRead            func(u *User, n int)
}

var pattern = func() []byte {
	b := make([]byte, 65521)
	r := rand.New(rand.NewPCG(3, 5))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}()

// patternAt fills p with the stream of a side from off on.
func patternAt(p []byte, off int, salt byte) {
	for len(p) > 0 {
		round := byte(off/len(pattern))*31 ^ salt
		n := copy(p, pattern[off%len(pattern):])
		for i := range p[:n] {
			p[i] ^= round
		}
		p, off = p[n:], off+n
	}
}

// Use gives a connection a user.
func (h *Host) Use(c *core.Conn, u User) *User {
	u.Conn, u.host = c, h
	if h == h.world.Server {
		u.salt = 0x5a
	}
	if u.Chunk == 0 {
		u.Chunk = 16 << 10
	}
	u.buf = make([]byte, max(u.Chunk, u.ReadChunk, 1))
	c.User = &u
	h.users = append(h.users, &u)
	h.world.After(0, func() {}) // the user acts at once
	return &u
}

// Dial connects the client's endpoint to the server's.
func (w *World) Dial(u User) *User {
	path := core.Path{Local: ClientAddr, Remote: ServerAddr}
	c, err := w.Client.Endpoint.Dial(w.Now, path, nil)
	if err != nil {
		w.Fail("dial: %v", err)
		return nil
	}
	return w.Client.Use(c, u)
}

// act runs every user of a host.
func (h *Host) act() {
	for c := h.Endpoint.Next(); c != nil; c = h.Endpoint.Next() {
		events := c.Events()
		u, _ := c.User.(*User)
		if u == nil {
			continue
		}
		u.Connected = u.Connected || events&core.EventConnected != 0
		if events&core.EventMigrated != 0 {
			u.Migrated++
		}
		u.Closed = u.Closed || events&core.EventClosed != 0
	}
	for _, u := range h.users {
		u.read()
		u.write()
	}
}

func (u *User) fail(format string, args ...any) {
	u.host.world.Fail(u.host.Name+": "+format, args...)
}

func (u *User) read() {
	w := u.host.world
	for u.ReadChunk > 0 && !u.EOF && u.ReadErr == nil && !u.gaveUp {
		p := u.buf[:u.ReadChunk]
		n, err := u.Conn.Read(w.Now, p)
		if n > 0 {
			u.verify(p[:n])
		}
		if errors.Is(err, io.EOF) {
			u.EOF, u.DoneAt = true, w.Now
			u.checkEOF()
		} else if err != nil {
			u.ReadErr = err
		}
		if n == 0 {
			return
		}
	}
}

func (u *User) verify(p []byte) {
	want := make([]byte, len(p))
	salt := u.salt ^ 0x5a
	patternAt(want, u.Received, salt)
	for i := range p {
		if p[i] != want[i] {
			u.fail("byte %d is 0x%02x, was written as 0x%02x", u.Received+i, p[i], want[i])
			return
		}
	}
	u.Received += len(p)
	if u.Peer != nil && u.Received > u.Peer.Written {
		u.fail("read %d bytes, %d were written", u.Received, u.Peer.Written)
	}
	if u.onRead != nil {
		u.onRead(u, len(p))
	}
}

func (u *User) checkEOF() {
	if u.Peer == nil {
		return
	}
	if !u.Peer.Ended || u.Received != u.Peer.Written {
		u.fail("end of stream after %d bytes, %d were written (ended: %v)", u.Received, u.Peer.Written, u.Peer.Ended)
	}
}

func (u *User) write() {
	w := u.host.world
	for !u.Ended && u.WriteErr == nil && !u.gaveUp && u.Written < u.ToWrite {
		p := u.buf[:min(u.Chunk, u.ToWrite-u.Written)]
		patternAt(p, u.Written, u.salt)
		n, err := u.Conn.Write(w.Now, p)
		u.Written += n
		u.WriteErr = err
		if n < len(p) {
			break
		}
	}
	if u.HalfClose && !u.Ended && u.Written == u.ToWrite && !u.gaveUp {
		u.Ended = true
		u.WriteErr = u.Conn.CloseWrite(w.Now)
	}
	if u.CloseAtEOF && u.EOF && u.Written == u.ToWrite && !u.gaveUp {
		u.gaveUp = true
		u.Ended = true
		u.Conn.Close(w.Now)
	}
}

// Close, Reset and their like end what the user does by itself.
func (u *User) Close() {
	u.gaveUp, u.Ended = true, true
	u.Conn.Close(u.host.world.Now)
}

// Reset is Conn.Reset.
func (u *User) Reset(code uint64) {
	u.gaveUp = true
	u.Conn.Reset(u.host.world.Now, code)
}
