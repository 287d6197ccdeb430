package simnet

// This file changes if what the users of connections do, or what they check, does.

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync/atomic"

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
	Refer      bool // writes by Refer, from memory that it spoils once the peer has the bytes
	Share      bool // reads from the connection's ring

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
	referred          []referred
	taken             uint64 // Share's
	freed             *atomic.Uint64
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
	if u.Share {
		u.freed = new(atomic.Uint64)
		c.Share(u.freed)
	}
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
		n, err := u.get(p)
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

// get is Conn.Read, or the same by the shared ring. What it took it gives back when it comes again.
func (u *User) get(p []byte) (int, error) {
	w := u.host.world
	if !u.Share {
		return u.Conn.Read(w.Now, p)
	}
	at := u.taken
	u.freed.Store(at)
	ring, ready, _, err := u.Conn.Incoming(w.Now)
	if at == ready {
		return 0, err
	}
	n := 0
	for ; n < len(p) && at < ready; n++ {
		p[n] = ring[at&uint64(len(ring)-1)]
		at++
	}
	u.taken = at
	return n, nil
}

// referred is bytes that Refer took, and where they end.
type referred struct {
	end  uint64
	data []byte
}

// put is Conn.Write, or the same by Refer.
func (u *User) put(p []byte) (int, error) {
	if !u.Refer {
		return u.Conn.Write(u.host.world.Now, p)
	}
	from, bound := u.Conn.Kept()
	for len(u.referred) > 0 && u.referred[0].end <= from {
		clear(u.referred[0].data)
		u.referred = u.referred[1:]
	}
	written := u.Conn.Written()
	p = bytes.Clone(p[:max(0, min(len(p), bound-int(written-from)))])
	if err := u.Conn.Refer(u.host.world.Now, p); err != nil {
		return 0, err
	}
	_, _ = u.Conn.Kept() // so that room is told
	u.referred = append(u.referred, referred{written + uint64(len(p)), p})
	return len(p), nil
}

// end is what must come before Close and Reset.
func (u *User) end() {
	if u.Share {
		u.Share, u.ReadChunk = false, 0
		u.Conn.Unshare(u.taken)
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
		n, err := u.put(p)
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
		u.end()
		u.Conn.Close(w.Now)
	}
}

// Close, Reset and their like end what the user does by itself.
func (u *User) Close() {
	u.gaveUp, u.Ended = true, true
	u.end()
	u.Conn.Close(u.host.world.Now)
}

// Reset is Conn.Reset.
func (u *User) Reset(code uint64) {
	u.gaveUp = true
	u.end()
	u.Conn.Reset(u.host.world.Now, code)
}
