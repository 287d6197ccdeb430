package recovery

// This file changes if what is remembered of a packet that was sent does.

import (
	"time"

	"github.com/veloq/veloq/rudp/internal/mono"
)

// SpaceID names a packet number space.
type SpaceID uint8

// The three spaces of RFC 9000, section 12.3.
const (
	InitialSpace SpaceID = iota
	HandshakeSpace
	AppSpace
	Spaces
)

func (s SpaceID) String() string { return [...]string{"initial", "handshake", "app"}[s] }

// Control names the frames of a packet that are sent again if it is lost. For all but the two connection
// ID frames what is sent again is the current state, so one bit says enough.
type Control uint16

// A packet holds at most one NEW_CONNECTION_ID and one RETIRE_CONNECTION_ID; their numbers are kept.
const (
	HandshakeDone Control = 1 << iota
	MaxData
	MaxStreamData
	DataBlocked
	StreamDataBlocked
	ResetStream
	StopSending
	NewConnectionID
	RetireConnectionID
)

// A Piece is a part of the stream, or of the CRYPTO stream of the packet's space.
type Piece struct {
	Offset uint64
	Size   uint32
	Fin    bool
	Crypto bool
}

// MaxPieces is how many pieces a packet may carry: a lost range that is resent rarely fills a packet.
const MaxPieces = 3

type state uint8

const (
	settled state = iota // acknowledged, or known to be of no interest
	skipped              // never sent: whoever acknowledges it lies
	idle                 // sent, but neither counted in flight nor awaited
	flying               // in flight
)

// Packet is one packet that was sent. The exported part is set by the sender; nothing in it points.
type Packet struct {
	Size      uint16
	Eliciting bool // asks for an acknowledgment
	InFlight  bool // counts against the window
	MTUProbe  bool // its loss says nothing about congestion
	ECT       bool // sent with ECT(0)
	Path      uint8
	Control   Control
	Count     uint8 // of Pieces
	Pieces    [MaxPieces]Piece
	NewCID    uint64 // sequence numbers
	RetireCID uint64
	AckedUpTo int64 // the largest packet number that its ACK frame named; -1 without one

	PN    uint64
	Sent  mono.Time
	state state
	rate  rateState
}

// ring holds the packets from base up to next, indexed by their number; its size is a power of two.
type ring struct {
	slots      []Packet
	base, next uint64
}

func (r *ring) at(pn uint64) *Packet { return &r.slots[pn&uint64(len(r.slots)-1)] }

func (r *ring) push() *Packet {
	if r.next-r.base == uint64(len(r.slots)) {
		bigger := make([]Packet, max(32, 2*len(r.slots)))
		for pn := r.base; pn < r.next; pn++ {
			bigger[pn&uint64(len(bigger)-1)] = *r.at(pn)
		}
		r.slots = bigger
	}
	p := r.at(r.next)
	r.next++
	return p
}

// shed drops from the front what nobody waits for.
func (r *ring) shed() {
	for r.base < r.next && r.at(r.base).state != flying {
		r.base++
	}
}

// A space is one packet number space.
type space struct {
	ring
	largestAcked  int64
	lastLost      int64     // the last packet declared lost
	lossAt        mono.Time // when the oldest packet is lost by time; Never
	lastEliciting mono.Time // when the last eliciting packet in flight was sent
	eliciting     int       // eliciting packets in flight
	discarded     bool
	// forgotten are packets declared lost, kept a while: an acknowledgment that still comes shows that
	// the loss was none. In the order of their numbers.
	forgotten []Packet
	ecn       ecnState
}

// forgottenMax bounds the memory of lost packets.
const forgottenMax = 256

func (s *space) forget(p *Packet) {
	if len(s.forgotten) == forgottenMax {
		copy(s.forgotten, s.forgotten[1:])
		s.forgotten = s.forgotten[:forgottenMax-1]
	}
	i := len(s.forgotten)
	for i > 0 && s.forgotten[i-1].PN > p.PN {
		i--
	}
	s.forgotten = append(s.forgotten, Packet{})
	copy(s.forgotten[i+1:], s.forgotten[i:])
	s.forgotten[i] = *p
}

// expire drops lost packets whose acknowledgment would have come by now.
func (s *space) expire(now mono.Time, keep time.Duration) {
	n := 0
	for n < len(s.forgotten) && now.Sub(s.forgotten[n].Sent) > keep {
		n++
	}
	if n > 0 {
		s.forgotten = s.forgotten[:copy(s.forgotten, s.forgotten[n:])]
	}
}
