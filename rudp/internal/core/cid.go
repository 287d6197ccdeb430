package core

// This file changes if how connection IDs are made, exchanged or retired does (RFC 9000, section 5.1).

import (
	"encoding/binary"

	"github.com/veloq/veloq/rudp/internal/recovery"
	"github.com/veloq/veloq/rudp/internal/wire"
)

const (
	// CIDLen is the size of our connection IDs: the worker's number, then 64 random bits.
	CIDLen = 2 + 8
	// cidsMax is how many of each side's IDs are in use at once.
	cidsMax = 4
	// retiredMax bounds the RETIRE_CONNECTION_ID frames that wait.
	retiredMax = 32
)

// localCID is one of ours, which the peer puts on its packets.
type localCID struct {
	seq uint64
	id  wire.CID
}

// remoteCID is one of the peer's.
type remoteCID struct {
	seq      uint64
	id       wire.CID
	token    [16]byte
	hasToken bool
	used     bool
}

func (e *Endpoint) newCID() wire.CID {
	var b [CIDLen]byte
	binary.BigEndian.PutUint16(b[:], e.cfg.Worker)
	e.random(b[2:])
	return wire.MakeCID(b[:])
}

// issueCIDs hands out IDs until the peer has as many as it takes.
func (c *Conn) issueCIDs() {
	for len(c.local) < int(min(c.peer.ActiveCIDLimit, cidsMax)) {
		id := c.ep.newCID()
		c.local = append(c.local, localCID{seq: c.nextLocal, id: id})
		c.ep.conns[id] = c
		c.announce = append(c.announce, c.nextLocal)
		c.nextLocal++
	}
}

func (c *Conn) localBySeq(seq uint64) *localCID {
	for i := range c.local {
		if c.local[i].seq == seq {
			return &c.local[i]
		}
	}
	return nil
}

func (c *Conn) onRetireCID(f *wire.Frame) error {
	if f.Seq >= c.nextLocal {
		return wire.Breach(wire.ProtocolViolation, f.Type, "retires an ID never issued")
	}
	l := c.localBySeq(f.Seq)
	if l == nil {
		return nil
	}
	if l.id == c.arrived {
		return wire.Breach(wire.ProtocolViolation, f.Type, "retires the ID that it came under")
	}
	delete(c.ep.conns, l.id)
	for i := range c.local {
		if c.local[i].seq == f.Seq {
			c.local = append(c.local[:i], c.local[i+1:]...)
			break
		}
	}
	c.issueCIDs()
	return nil
}

func (c *Conn) onNewCID(f *wire.Frame) error {
	if c.path.cid.id.Len() == 0 {
		return wire.Breach(wire.ProtocolViolation, f.Type, "new ID though its IDs are empty")
	}
	for i := range c.remote {
		r := &c.remote[i]
		if r.seq == f.Seq && (r.id != f.CID || r.hasToken && r.token != f.Token) || r.seq != f.Seq && r.id == f.CID {
			return wire.Breach(wire.ProtocolViolation, f.Type, "two IDs in one, or one as two")
		}
		if r.seq == f.Seq {
			return nil
		}
	}
	c.retirePrior = max(c.retirePrior, f.RetirePriorTo)
	if f.Seq < c.retirePrior {
		c.retireSeq(f.Seq)
	} else if f.Seq >= c.seenRemote || !c.wasRetired(f.Seq) {
		c.remote = append(c.remote, remoteCID{seq: f.Seq, id: f.CID, token: f.Token, hasToken: true})
		c.seenRemote = max(c.seenRemote, f.Seq+1)
	}
	for i := 0; i < len(c.remote); i++ {
		if c.remote[i].seq < c.retirePrior {
			c.retireSeq(c.remote[i].seq)
			c.forgetToken(&c.remote[i])
			c.remote = append(c.remote[:i], c.remote[i+1:]...)
			i--
		}
	}
	if len(c.remote) > cidsMax || len(c.retire) > retiredMax {
		return wire.Breach(wire.ConnectionIDLimit, f.Type, "more IDs than allowed")
	}
	for _, p := range [...]*pathState{c.path, c.probe, c.fallback} {
		if p == nil || p.cid.seq >= c.retirePrior {
			continue
		}
		if !c.assignCID(p) {
			return wire.Breach(wire.ConnectionIDLimit, f.Type, "every ID retired")
		}
	}
	return nil
}

// wasRetired says whether an ID that was seen before is on its way out, or gone.
func (c *Conn) wasRetired(seq uint64) bool {
	return c.retiredSeqs.contains(seq)
}

func (c *Conn) retireSeq(seq uint64) {
	if c.retiredSeqs.add(wire.Range{Start: seq, End: seq + 1}) > 0 {
		if len(c.retiredSeqs) > retiredMax {
			c.retiredSeqs = c.retiredSeqs[:copy(c.retiredSeqs, c.retiredSeqs[1:])]
		}
		c.retire = append(c.retire, seq)
	}
}

// assignCID gives the path an ID that no other has used.
func (c *Conn) assignCID(p *pathState) bool {
	for i := range c.remote {
		if r := &c.remote[i]; !r.used {
			r.used = true
			p.cid = *r
			if r.hasToken {
				c.awaitReset(r.token)
			}
			return true
		}
	}
	return false
}

// retirePathCID gives the path's ID back to the peer.
func (c *Conn) retirePathCID(p *pathState) {
	for i := range c.remote {
		if c.remote[i].seq == p.cid.seq {
			c.retireSeq(p.cid.seq)
			c.forgetToken(&c.remote[i])
			c.remote = append(c.remote[:i], c.remote[i+1:]...)
			return
		}
	}
}

// awaitReset has a stateless reset with the token end the connection.
func (c *Conn) awaitReset(token [16]byte) {
	c.ep.tokens[token] = c
	if shared := c.cfg.Resets; shared != nil {
		shared.Await(token, c.cfg.Worker)
	}
}

func (c *Conn) forgetToken(r *remoteCID) {
	if r.hasToken && c.ep.tokens[r.token] == c {
		delete(c.ep.tokens, r.token)
		if shared := c.cfg.Resets; shared != nil {
			shared.Forget(r.token, c.cfg.Worker)
		}
	}
}

// appendCIDFrames writes one NEW_CONNECTION_ID and one RETIRE_CONNECTION_ID, if owed and they fit.
func (c *Conn) appendCIDFrames(b []byte, room int, meta *recovery.Packet) []byte {
	for len(c.announce) > 0 && room-len(b) >= 64 {
		seq := c.announce[0]
		c.announce = c.announce[:copy(c.announce, c.announce[1:])]
		l := c.localBySeq(seq)
		if l == nil {
			continue
		}
		f := &c.frame
		*f = wire.Frame{Type: wire.FrameNewConnectionID, Seq: seq, CID: l.id, Token: c.ep.resetToken(l.id)}
		b = f.Append(b)
		meta.Control |= recovery.NewConnectionID
		meta.NewCID = seq
		break
	}
	if len(c.retire) > 0 && room-len(b) >= 16 {
		seq := c.retire[0]
		c.retire = c.retire[:copy(c.retire, c.retire[1:])]
		b = wire.AppendVarint(append(b, wire.FrameRetireConnectionID), seq)
		meta.Control |= recovery.RetireConnectionID
		meta.RetireCID = seq
	}
	return b
}
