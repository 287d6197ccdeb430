package veloq

// Writing a Stream in place: room that the program fills, and then has sent without a copy.

import "runtime"

// reservation is what Malloc gave out and Flush has not sent yet.
type reservation struct {
	segs     []segment // one for each chunk, which nothing else refers to
	bytes    int
	flushing bool // a Flush waits
}

// Malloc reserves room for n bytes, 32 KiB at most (ErrTooLong), behind what is reserved already,
// and returns it to be filled: its bytes are not cleared. Flush sends all of it, in the order of
// the Mallocs. More than Config.WriteHigh can't be reserved in several calls (ErrFull: Flush
// first), and nothing while a Flush waits (ErrBusy). What Write and the others send meanwhile goes
// out before it.
//
// The memory is the stream's, in chunks of 32 KiB, and the caller's to write until Flush returns
// nil. A close before that drops it; the memory stays valid for who still has the Stream. n <= 0
// reserves nothing. Worker only.
func (s *Stream) Malloc(n int) ([]byte, error) {
	if err := s.checkWrite(); err != nil {
		return nil, err
	}
	if n <= 0 {
		return nil, nil
	}
	sd := &s.send
	if sd.writers == nil {
		sd.writers = &writers{}
	}
	if sd.writers.reserved == nil {
		sd.writers.reserved = &reservation{}
	}
	r := sd.writers.reserved
	switch {
	case n > chunkBytes:
		return nil, s.opError("write", ErrTooLong)
	case r.flushing:
		return nil, s.opError("write", ErrBusy)
	case r.bytes > 0 && r.bytes+n > s.w.rt.config.WriteHigh:
		return nil, s.opError("write", ErrFull)
	}
	last := len(r.segs) - 1
	if last < 0 || r.segs[last].chunk.used+n > chunkBytes {
		c := s.w.takeChunk()
		c.refs++
		r.segs = append(r.segs, segment{addr: c.start(), chunk: c})
		last++
	}
	seg := &r.segs[last]
	from := seg.chunk.used
	seg.chunk.used += n
	seg.len += n
	r.bytes += n
	return seg.chunk.mem[from:seg.chunk.used:seg.chunk.used], nil
}

// Flush sends what Malloc reserved, from where it is (up to 2 KiB are copied, which is cheaper),
// with this turn's other sends. While Config.WriteHigh bytes wait to be sent a task waits for room,
// and a handler gets ErrFull, and OnWritable later. After an error nothing of it was sent, and all
// of it stays for another Flush. Nothing reserved is no error. Worker only. Blocks (in a task).
func (s *Stream) Flush() error {
	if err := s.checkWrite(); err != nil {
		return err
	}
	sd := &s.send
	if sd.writers == nil || sd.writers.reserved == nil || sd.writers.reserved.bytes == 0 {
		return nil
	}
	r := sd.writers.reserved
	t := s.w.running
	switch {
	case r.flushing:
		return s.opError("write", ErrBusy)
	case r.bytes <= leaseCopyMax && len(r.segs) == 1 && sd.out == nil && sd.writer == nil &&
		s.appendInline(r.segs[0].chunk.mem[:r.bytes]):
		c := r.segs[0].chunk
		c.refs--
		s.w.giveChunk(c)
	case t == nil && (sd.writer != nil || s.room() == 0):
		return s.full()
	case t == nil:
		s.enqueueReserved(r)
	default:
		if err := s.flushTask(t, r); err != nil {
			return err
		}
	}
	clear(r.segs)
	r.segs, r.bytes = r.segs[:0], 0
	return nil
}

// flushTask waits for the task's turn and for room.
func (s *Stream) flushTask(t *task, r *reservation) error {
	r.flushing = true
	defer func() { r.flushing = false }()
	if err := s.lockWriter(t); err != nil {
		return err
	}
	defer s.unlockWriter()
	if err := s.awaitRoom(t); err != nil {
		return err
	}
	s.enqueueReserved(r)
	return nil
}

// enqueueReserved makes the chunks the queue's.
func (s *Stream) enqueueReserved(r *reservation) {
	o := s.openOut()
	for _, seg := range r.segs {
		o.push(seg)
	}
	if o.tail == nil {
		o.tail = r.segs[len(r.segs)-1].chunk // copies fill what is left of it
	}
	s.markDirty()
}

// orphanReserved leaves what was never sent to the collector: who reserved it may still be writing
// to it, for another Flush, so it must not become another stream's.
func (s *Stream) orphanReserved() {
	ws := s.send.writers
	if ws == nil || ws.reserved == nil {
		return
	}
	for _, seg := range ws.reserved.segs {
		runtime.AddCleanup(s, (*chunk).free, seg.chunk)
	}
	ws.reserved = nil
}
