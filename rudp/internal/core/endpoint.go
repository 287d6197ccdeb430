package core

// This file changes if how datagrams find their connection, or which new ones are taken, does.

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"

	"github.com/veloq/veloq/rudp/internal/mono"
	"github.com/veloq/veloq/rudp/internal/protect"
	"github.com/veloq/veloq/rudp/internal/wire"
)

// DefaultALPN is the protocol that TLS negotiates if its configuration names none.
const DefaultALPN = "rudp"

// Endpoint is all connections of one socket. Its methods, and those of its Conns, belong to one driver.
type Endpoint struct {
	cfg    *Config
	server bool // takes connections
	tls    *tls.Config

	conns  map[wire.CID]*Conn
	tokens map[[16]byte]*Conn // of stateless resets that peers may send

	ready    queue // connections that may have something to send
	told     queue // connections with events
	accepts  []*Conn
	replies  []reply // datagrams that belong to no connection
	timers   timerHeap
	halfOpen int
	count    int

	nextNumber uint64
	pool       [64]byte // of random bytes
	poolLeft   int
	scratch    []byte
	resetAt    mono.Time // when the next stateless reset may go
	stats      EndpointStats
}

// EndpointStats count what happened to datagrams without a connection.
type EndpointStats struct {
	Conns, HalfOpen                             int
	Dropped, Retries, Negotiations, Resets      uint64
	Refused, Accepted, BadTokens, ForgedInitial uint64
}

type reply struct {
	path Path
	data []byte
}

// repliesMax bounds the datagrams that wait without a connection.
const repliesMax = 64

// NewEndpoint returns an endpoint that can dial and, with accept, takes connections.
func NewEndpoint(cfg *Config, accept bool) (*Endpoint, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	e := &Endpoint{
		cfg: c, server: accept, conns: map[wire.CID]*Conn{}, tokens: map[[16]byte]*Conn{},
		scratch: make([]byte, 2048), nextNumber: 1,
	}
	for _, key := range []*[32]byte{&c.StatelessResetKey, &c.TokenKey} {
		if *key == ([32]byte{}) {
			if _, err := io.ReadFull(c.Rand, key[:]); err != nil {
				return nil, err
			}
		}
	}
	e.tls = tlsConfig(c, c.TLS)
	if accept && len(e.tls.Certificates) == 0 && e.tls.GetCertificate == nil && e.tls.GetConfigForClient == nil {
		return nil, errors.New("rudp: a listener's TLS needs a certificate")
	}
	return e, nil
}

func tlsConfig(c *Config, t *tls.Config) *tls.Config {
	t = t.Clone()
	t.MinVersion = tls.VersionTLS13
	if len(t.NextProtos) == 0 {
		t.NextProtos = []string{DefaultALPN}
	}
	if c.WallClock != nil {
		t.Time = c.WallClock
	}
	return t
}

// random fills b from the configured source.
func (e *Endpoint) random(b []byte) {
	for len(b) > 0 {
		if e.poolLeft == 0 {
			if _, err := io.ReadFull(e.cfg.Rand, e.pool[:]); err != nil {
				panic("rudp: no randomness: " + err.Error())
			}
			e.poolLeft = len(e.pool)
		}
		n := copy(b, e.pool[len(e.pool)-e.poolLeft:])
		e.poolLeft -= n
		b = b[n:]
	}
}

func (e *Endpoint) seed() uint64 {
	var b [8]byte
	e.random(b[:])
	return binary.LittleEndian.Uint64(b[:])
}

// Dial begins a connection. serverTLS is as in tls.Client: ServerName or InsecureSkipVerify must be set;
// nil takes the endpoint's. EventConnected or EventClosed follows.
func (e *Endpoint) Dial(now mono.Time, path Path, clientTLS *tls.Config) (*Conn, error) {
	if e.count >= e.cfg.MaxConns {
		return nil, &CloseError{Kind: KindRefused}
	}
	t := e.tls
	if clientTLS != nil {
		t = tlsConfig(e.cfg, clientTLS)
	}
	c := e.newConn(now, true, path, t)
	c.path.validated = true
	id := e.newCID()
	c.local = append(c.local, localCID{id: id})
	c.nextLocal = 1
	var dcid [8]byte
	e.random(dcid[:])
	c.odcid = wire.MakeCID(dcid[:])
	c.remote = append(c.remote, remoteCID{id: c.odcid, used: true})
	c.seenRemote = 1
	c.path.cid = c.remote[0]
	if err := c.initialKeys(c.odcid); err != nil {
		return nil, err
	}
	if err := c.startTLS(); err != nil {
		return nil, err
	}
	e.conns[id] = c
	e.count++
	c.touch()
	return c, nil
}

// Accept returns a connection whose handshake is done, nil if none waits.
func (e *Endpoint) Accept() *Conn {
	if len(e.accepts) == 0 {
		return nil
	}
	c := e.accepts[0]
	e.accepts = e.accepts[:copy(e.accepts, e.accepts[1:])]
	e.stats.Accepted++
	return c
}

// Route returns the number of the worker whose endpoint a datagram belongs to, as far as its connection
// ID tells: worker is this endpoint's for connections that it knows and for IDs that are not like ours.
// An ID that a client chose for its first packets may look like one of ours: any worker takes those. A
// stateless reset goes to who awaits it.
func (e *Endpoint) Route(datagram []byte) (worker uint16) {
	own := e.cfg.Worker
	h, err := wire.ParseHeader(datagram, CIDLen)
	if err != nil || h.DCID.Len() != CIDLen {
		return own
	}
	if _, known := e.conns[h.DCID]; known {
		return own
	}
	if n := len(datagram); h.Type == wire.Short && n >= resetMin && e.cfg.Resets != nil {
		if worker, ok := e.cfg.Resets.Owner([16]byte(datagram[n-16:])); ok {
			return worker
		}
	}
	return binary.BigEndian.Uint16(h.DCID.Bytes())
}

// Recv takes a datagram that came along path. Its bytes are overwritten, but not kept.
func (e *Endpoint) Recv(now mono.Time, path Path, ecn ECN, datagram []byte) {
	h, err := wire.ParseHeader(datagram, CIDLen)
	if err != nil && !errors.Is(err, wire.ErrVersion) {
		e.stats.Dropped++
		return
	}
	if c, ok := e.conns[h.DCID]; ok && err == nil {
		c.receive(now, path, ecn, datagram)
		return
	}
	switch {
	case err != nil:
		e.negotiate(path, &h, len(datagram))
	case h.Type == wire.Initial && e.server:
		e.onInitial(now, path, ecn, &h, datagram)
	case h.Type == wire.Short:
		e.onStray(now, path, &h, datagram)
	default:
		e.stats.Dropped++
	}
}

func (e *Endpoint) answer(path Path, data []byte) {
	if len(e.replies) < repliesMax {
		e.replies = append(e.replies, reply{path, data})
	} else {
		e.stats.Dropped++
	}
}

func (e *Endpoint) negotiate(path Path, h *wire.Header, size int) {
	if !e.server || size < datagramMin {
		e.stats.Dropped++
		return
	}
	var r [5]byte
	e.random(r[:])
	grease := uint32(binary.BigEndian.Uint32(r[1:])&0xf0f0f0f0 | 0x0a0a0a0a)
	e.stats.Negotiations++
	e.answer(path, wire.AppendVersionNegotiation(nil, h.SCID, h.DCID, r[0]&0x3f, wire.Version1, grease))
}

// onStray answers a packet of a connection that is not known with a stateless reset, which is shorter than
// the packet so that two endpoints can't keep each other busy. First it may be such a reset itself.
func (e *Endpoint) onStray(now mono.Time, path Path, h *wire.Header, datagram []byte) {
	if len(datagram) >= resetMin {
		if c, ok := e.tokens[[16]byte(datagram[len(datagram)-16:])]; ok {
			c.at(now)
			if c.state < closing {
				c.drain(&CloseError{Kind: KindStatelessReset, Remote: true})
				return
			}
		}
	}
	e.stats.Dropped++
	if len(datagram) <= resetMin || now < e.resetAt {
		return
	}
	e.resetAt = now + mono.Time(pacerQuantum) // a thousand a second
	size := min(len(datagram)-1, resetMax)
	b := make([]byte, size)
	e.random(b)
	b[0] = b[0]&0x3f | 0x40
	token := e.resetToken(h.DCID)
	copy(b[size-16:], token[:])
	e.stats.Resets++
	e.answer(path, b)
}

func (e *Endpoint) onInitial(now mono.Time, path Path, ecn ECN, h *wire.Header, datagram []byte) {
	if len(datagram) < datagramMin || h.DCID.Len() < 8 {
		e.stats.Dropped++
		return
	}
	odcid, retrySCID, validated := h.DCID, wire.CID{}, false
	if len(h.Token) > 0 {
		odcid, retrySCID, validated = e.openToken(now, path, h.Token)
		validated = validated && retrySCID == h.DCID
		if !validated {
			e.stats.BadTokens++
			odcid = h.DCID
		}
	}
	if !validated && (e.cfg.RequireRetry || e.halfOpen >= RetryAbove) {
		e.retry(now, path, h)
		return
	}
	client, server, err := protect.Initial(h.DCID)
	if err != nil || !e.authentic(client, h, datagram) {
		e.stats.Dropped++
		e.stats.ForgedInitial++
		return
	}
	if e.count >= e.cfg.MaxConns || len(e.accepts)+e.halfOpen >= e.cfg.AcceptQueue+RetryAbove ||
		len(e.accepts) >= e.cfg.AcceptQueue {
		e.stats.Refused++
		e.answer(path, refusal(nil, server, h.SCID, h.DCID))
		return
	}
	c := e.newConn(now, false, path, e.tls)
	c.path.validated = validated
	c.odcid = odcid
	if validated {
		c.retried, c.retrySCID = true, retrySCID
	}
	id := e.newCID()
	c.local = append(c.local, localCID{id: id})
	c.nextLocal = 1
	c.remote = append(c.remote, remoteCID{id: h.SCID, used: true})
	c.seenRemote = 1
	c.path.cid = c.remote[0]
	c.firstSCID, c.gotPacket = h.SCID, true
	c.spaces[0].read, c.spaces[0].write = client, server
	e.conns[id] = c
	e.conns[h.DCID] = c
	c.born = h.DCID
	e.count++
	e.halfOpen++
	c.halfOpen = true
	if err := c.startTLS(); err != nil {
		c.fail(err)
		return
	}
	c.receive(now, path, ecn, datagram)
}

// authentic opens a copy of an Initial packet: only one that its sender has sealed makes a connection.
func (e *Endpoint) authentic(keys *protect.Keys, h *wire.Header, datagram []byte) bool {
	packet := append(e.scratch[:0], datagram[:h.End]...)
	e.scratch = packet
	truncated, n, ok := keys.Unprotect(packet, h.PNOffset)
	if !ok {
		return false
	}
	_, err := keys.Open(packet, h.PNOffset+n, wire.DecodePN(-1, truncated, n))
	return err == nil
}

func (e *Endpoint) retry(now mono.Time, path Path, h *wire.Header) {
	scid := e.newCID()
	var r [1]byte
	e.random(r[:])
	packet := wire.AppendRetry(nil, h.SCID, scid, e.retryToken(now, path, h.DCID, scid), r[0])
	packet, err := protect.AppendRetryTag(packet, h.DCID)
	if err != nil {
		e.stats.Dropped++
		return
	}
	e.stats.Retries++
	e.answer(path, packet)
}

// Send fills buf with the next datagrams that are due, of one connection along one path. N is 0 if there
// are none; buf should have SendMax bytes, and must have 1,500.
func (e *Endpoint) Send(now mono.Time, buf []byte) Batch {
	if len(e.replies) > 0 {
		r := e.replies[0]
		e.replies = e.replies[:copy(e.replies, e.replies[1:])]
		n := copy(buf, r.data)
		return Batch{Path: r.path, N: n, Segment: n}
	}
	for {
		c := e.ready.pop()
		if c == nil {
			return Batch{}
		}
		c.queued = false
		if c.state == gone {
			continue
		}
		b := c.fill(now, buf[:min(len(buf), SendMax)])
		if b.N > 0 {
			e.enqueue(c)
			return b
		}
		c.noteIdle()
		e.timers.update(c, c.Deadline())
	}
}

// Deadline returns when Tick must be called: the earliest of all connections; Never if nothing is awaited.
// It counts once Send has returned nothing.
func (e *Endpoint) Deadline() mono.Time { return e.timers.first() }

// Tick does what is due in every connection.
func (e *Endpoint) Tick(now mono.Time) {
	for e.timers.first() <= now {
		c := e.timers.conns[0]
		c.Tick(now)
		if c.heapIndex >= 0 {
			// At once anew: what is due only by Send, which follows, must not be found here again.
			e.timers.update(c, max(c.Deadline(), now+1))
		}
	}
}

// Next returns a connection with Events to be taken, nil if there is none.
func (e *Endpoint) Next() *Conn {
	c := e.told.pop()
	if c != nil {
		c.reported = false
	}
	return c
}

// Len returns how many connections there are.
func (e *Endpoint) Len() int { return e.count }

// Stats returns the counters.
func (e *Endpoint) Stats() EndpointStats {
	s := e.stats
	s.Conns, s.HalfOpen = e.count, e.halfOpen
	return s
}

// Conns calls visit with every connection, in no order, until it returns false.
func (e *Endpoint) Conns(visit func(*Conn) bool) {
	for id, c := range e.conns {
		if len(c.local) > 0 && c.local[0].id == id && !visit(c) {
			return
		}
	}
}

func (e *Endpoint) enqueue(c *Conn) {
	if !c.queued && c.state != gone {
		c.queued = true
		e.ready.push(c)
	}
}

func (e *Endpoint) report(c *Conn) {
	if !c.reported {
		c.reported = true
		e.told.push(c)
	}
}

func (e *Endpoint) accepted(c *Conn) { e.accepts = append(e.accepts, c) }

// halfOpenDone is at the end of the handshake; of one that failed, when nothing is left of the connection: else
// those that linger to say why would have no bound but MaxConns.
func (c *Conn) halfOpenDone() {
	if c.halfOpen {
		c.halfOpen = false
		c.ep.halfOpen--
	}
}

func (e *Endpoint) remove(c *Conn) {
	for _, l := range c.local {
		delete(e.conns, l.id)
	}
	if e.conns[c.born] == c {
		delete(e.conns, c.born)
	}
	for i := range c.remote {
		c.forgetToken(&c.remote[i])
	}
	for i, a := range e.accepts {
		if a == c {
			e.accepts = append(e.accepts[:i], e.accepts[i+1:]...)
			break
		}
	}
	c.halfOpenDone()
	e.timers.remove(c)
	e.count--
}

// queue is a list of connections, first in, first out, that doesn't allocate once it has grown.
type queue struct {
	list  []*Conn
	first int
}

func (q *queue) push(c *Conn) {
	if q.first > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.first:])
		clear(q.list[n:])
		q.list, q.first = q.list[:n], 0
	}
	q.list = append(q.list, c)
}

func (q *queue) pop() *Conn {
	if q.first == len(q.list) {
		q.list, q.first = q.list[:0], 0
		return nil
	}
	c := q.list[q.first]
	q.list[q.first] = nil
	q.first++
	return c
}

// timerHeap orders connections by their deadlines.
type timerHeap struct{ conns []*Conn }

func (h *timerHeap) first() mono.Time {
	if len(h.conns) == 0 {
		return mono.Never
	}
	return h.conns[0].deadline
}

func (h *timerHeap) update(c *Conn, at mono.Time) {
	if c.state == gone {
		return
	}
	c.deadline = at
	if c.heapIndex < 0 {
		c.heapIndex = len(h.conns)
		h.conns = append(h.conns, c)
	}
	h.fix(c.heapIndex)
}

func (h *timerHeap) remove(c *Conn) {
	i := c.heapIndex
	if i < 0 {
		return
	}
	last := len(h.conns) - 1
	h.swap(i, last)
	h.conns[last] = nil
	h.conns = h.conns[:last]
	c.heapIndex = -1
	if i < last {
		h.fix(i)
	}
}

func (h *timerHeap) swap(i, j int) {
	h.conns[i], h.conns[j] = h.conns[j], h.conns[i]
	h.conns[i].heapIndex, h.conns[j].heapIndex = i, j
}

func (h *timerHeap) fix(i int) {
	for i > 0 && h.conns[i].deadline < h.conns[(i-1)/2].deadline {
		h.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.conns); child++ {
			if h.conns[child].deadline < h.conns[least].deadline {
				least = child
			}
		}
		if least == i {
			return
		}
		h.swap(i, least)
		i = least
	}
}
