package rudp

// This file changes if how received bytes reach a stream's user does.

import (
	"math"
	"sync"
	"sync/atomic"
)

// incoming is how the user reads the ring that the actor receives into. The actor moves ready, the
// user taken and freed; what lies between them is whose it is without a lock.
type incoming struct {
	ring  atomic.Pointer[[]byte] // of a power of two bytes; a larger one has the same bytes
	ready atomic.Uint64          // every byte below has come
	mark  atomic.Uint64          // the actor is to look once freed has come so far
	_     [64]byte
	taken atomic.Uint64 // the next byte to hand out; moved in the reader's turn
	freed atomic.Uint64 // every byte below is given back

	leases atomic.Int64 // how many are not released; only Stream.lease adds
	mu     sync.Mutex
	first  uint64 // the number of list's first
	list   []portion
}

// portion is a part of the stream that was handed out while a lease was open: all of them together
// reach from freed to taken.
type portion struct {
	end  uint64
	back bool
}

func (in *incoming) init() { in.mark.Store(math.MaxUint64) }

func (in *incoming) len() int { return int(in.ready.Load() - in.taken.Load()) }

// peek returns up to most bytes that lie together. Reader's turn.
func (in *incoming) peek(most int) []byte {
	at := in.taken.Load()
	n := in.ready.Load() - at
	if n == 0 {
		return nil
	}
	ring := *in.ring.Load() // after ready: it has all bytes below
	from := at & uint64(len(ring)-1)
	to := from + min(n, uint64(len(ring))-from, uint64(most))
	return ring[from:to:to]
}

// read copies out what there is. Reader's turn.
func (in *incoming) read(p []byte) (n int) {
	for n < len(p) {
		b := in.peek(len(p) - n)
		if b == nil {
			break
		}
		n += copy(p[n:], b)
		in.taken.Store(in.taken.Load() + uint64(len(b)))
	}
	if n > 0 {
		in.copied()
	}
	return n
}

// copied gives everything back that was taken since the last portion. Reader's turn.
func (in *incoming) copied() {
	end := in.taken.Load()
	if in.leases.Load() == 0 {
		in.freed.Store(end)
		return
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	switch n := len(in.list); {
	case n == 0:
		in.freed.Store(end)
	case in.list[n-1].back:
		in.list[n-1].end = end
	default:
		in.list = append(in.list, portion{end, true})
	}
}

// lend hands out n bytes that peek returned and numbers them. Reader's turn.
func (in *incoming) lend(n int) (number uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	end := in.taken.Load() + uint64(n)
	in.taken.Store(end)
	in.list = append(in.list, portion{end, false})
	in.leases.Add(1)
	return in.first + uint64(len(in.list)) - 1
}

// giveBack ends a loan; a second time it does nothing. Any goroutine.
func (in *incoming) giveBack(number uint64) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if number < in.first || in.list[number-in.first].back {
		return
	}
	in.list[number-in.first].back = true
	n := 0
	for n < len(in.list) && in.list[n].back {
		n++
	}
	if n > 0 {
		in.freed.Store(in.list[n-1].end)
		in.first += uint64(n)
		in.list = in.list[:copy(in.list, in.list[n:])]
	}
	in.leases.Add(-1) // after freed: who sees none goes on from there
}

// lent says whether a loan is still open.
func (in *incoming) lent(number uint64) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return number >= in.first && !in.list[number-in.first].back
}

// relieve tells the actor when enough has been given back for the peer to send more.
func (s *Stream) relieve() {
	if s.in.freed.Load() >= s.in.mark.Load() {
		s.signal()
	}
}

// Lease is a hold on received bytes of a Stream, which stay where they were received: bytes in
// order, not copied. It is a small value, whose copies are the same hold, and it is released once.
// Until then its bytes count against RecvWindow, and since the window moves in order so do those
// after them: a lease that is kept for long stops the peer. The zero Lease is empty.
type Lease struct {
	stream *Stream
	data   []byte
	number uint64
}

// Bytes returns the bytes, valid until Release, whatever becomes of the stream meanwhile; nil after
// that. They are only to be read. Any goroutine.
func (l Lease) Bytes() []byte {
	if l.stream == nil || !l.stream.in.lent(l.number) {
		return nil
	}
	return l.data
}

// Len returns how many bytes Bytes has. Any goroutine.
func (l Lease) Len() int { return len(l.data) }

// Release gives the bytes back: in any order, but the peer is let send more once all bytes before
// them are back too. A second Release does nothing. Any goroutine.
func (l Lease) Release() {
	if l.stream != nil {
		l.stream.in.giveBack(l.number)
		l.stream.relieve()
	}
}

// ReadLease is Read without the copy: it waits for bytes and hands out those that lie together, at
// most max of them, or all for max <= 0, as a Lease that the caller releases. There can be several
// at a time. Bytes that are leased count as read, also for Close. Errors: Read's. Blocks.
func (s *Stream) ReadLease(max int) (Lease, error) {
	s.readTurn.Lock()
	defer s.readTurn.Unlock()
	if max <= 0 {
		max = math.MaxInt
	}
	if err := s.awaitBytes(true); err != nil {
		return Lease{}, err
	}
	b := s.in.peek(max)
	return Lease{s, b, s.in.lend(len(b))}, nil
}
